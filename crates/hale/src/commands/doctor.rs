//! `hale doctor`

use crate::cli::{Format, Global};
use crate::configuration;
use crate::doctor::{Finding, Severity, look};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::terminal::escape;
use hale_daemon::guardian::lock::holder;
use hale_daemon::monitor::config_file;
use hale_daemon::monitor::features::{Missing, missing};
use hale_daemon::monitor::watchdog_chain::{Chain, chain};
use serde_json::json;
use std::io::Write;

/// Tells who watches over Hale, and lists what is wrong with this host for it; exit status 1 if there is anything but notes.
pub fn run(format: Format, global: &Global, out: &mut impl Write) -> Result<Exit, Failure> {
    // A configuration that cannot be read is no reason not to look at the host.
    let loaded = configuration::path(None, global)
        .and_then(|path| config_file::load_for_client(&path).map_err(|error| configuration::failure(&error)));
    let runtime = configuration::directories(global).ok().map(|directories| directories.runtime);
    let guardian = runtime.and_then(|runtime| holder(&runtime));
    let chain = chain(guardian);
    let missing: Vec<Missing> = chain.gap().into_iter().chain(missing(guardian)).collect();
    let mut findings = Vec::new();
    if loaded.is_err() {
        let what = "could not look at the configuration: `hale validate` tells why";
        let cost = "what depends on it was not looked at: limits, permissions, disk, who fights for the same services";
        let mend = "name it with -c FILE, or correct it";
        findings.push(Finding::new("configuration", Severity::Unseen, what, cost, mend));
    }
    findings.extend(look(loaded.ok().map(|loaded| loaded.validated.policy), guardian));
    if format.json {
        let watchdog = json!({ "chain": chain.to_string(), "closed": chain.is_closed() });
        let report = json!({ "guardian": guardian, "watchdog": watchdog, "missing": missing, "findings": findings });
        writeln!(out, "{report:#}")?;
    } else {
        write(guardian, &chain, &missing, &findings, out)?;
    }
    let good = missing.is_empty() && findings.iter().all(|finding| finding.severity == Severity::Note);
    Ok(if good { Exit::Done } else { Exit::Failed })
}

fn write(
    guardian: Option<i32>,
    chain: &Chain,
    missing: &[Missing],
    findings: &[Finding],
    out: &mut impl Write,
) -> std::io::Result<()> {
    match guardian {
        Some(pid) => writeln!(out, "guardian: pid {pid}")?,
        None => writeln!(out, "guardian: none that this user can see")?,
    }
    writeln!(out, "watched over: {}", escape(&chain.to_string()))?;
    if missing.is_empty() && findings.is_empty() {
        return writeln!(out, "nothing is missing on this host");
    }
    for Missing { feature, cost, mend } in missing {
        writeln!(out, "missing: {feature}\n  cost: {cost}\n  mend: {mend}")?;
    }
    for Finding { severity, what, cost, mend, .. } in findings {
        // Names of programs and paths are other people's words.
        let (what, mend) = (escape(what), escape(mend));
        writeln!(out, "{}: {what}\n  cost: {cost}\n  mend: {mend}", severity.as_str())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_has_a_cost_and_a_remedy() {
        let mut shown = Vec::new();
        let one = Missing { feature: "x".into(), cost: "no y".into(), mend: "do z".into() };
        let found = Finding::new("disk", Severity::Risk, "\u{1b}[2J", "no room", "make some");
        write(Some(7), &Chain::Guardian, &[one], &[found], &mut shown).unwrap();
        let text = "guardian: pid 7\nwatched over: guardian -> hardware timer\n\
                    missing: x\n  cost: no y\n  mend: do z\n\
                    risk: \\u{1b}[2J\n  cost: no room\n  mend: make some\n";
        assert_eq!(String::from_utf8(shown).unwrap(), text);
    }
}
