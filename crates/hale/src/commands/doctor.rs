//! `hale doctor`

use crate::cli::{Format, Global};
use crate::configuration;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::terminal::escape;
use hale_daemon::guardian::lock::holder;
use hale_daemon::monitor::features::{Missing, missing};
use hale_daemon::monitor::watchdog_chain::{Chain, chain};
use serde_json::json;
use std::io::Write;

/// Tells who watches over Hale, and lists what Hale uses and this host does not have; exit status 1 if there is anything.
pub fn run(format: Format, global: &Global, out: &mut impl Write) -> Result<Exit, Failure> {
    // A configuration that cannot be read is no reason not to look at the host: `hale validate` tells of it.
    let guardian = configuration::directories(global).ok().and_then(|directories| holder(&directories.runtime));
    let chain = chain(guardian);
    let missing: Vec<Missing> = chain.gap().into_iter().chain(missing(guardian)).collect();
    if format.json {
        let watchdog = json!({ "chain": chain.to_string(), "closed": chain.is_closed() });
        let report = json!({ "guardian": guardian, "watchdog": watchdog, "missing": missing });
        writeln!(out, "{report:#}")?;
    } else {
        write(guardian, &chain, &missing, out)?;
    }
    Ok(if missing.is_empty() { Exit::Done } else { Exit::Failed })
}

fn write(guardian: Option<i32>, chain: &Chain, missing: &[Missing], out: &mut impl Write) -> std::io::Result<()> {
    match guardian {
        Some(pid) => writeln!(out, "guardian: pid {pid}")?,
        None => writeln!(out, "guardian: none that this user can see")?,
    }
    writeln!(out, "watched over: {}", escape(&chain.to_string()))?;
    if missing.is_empty() {
        return writeln!(out, "nothing is missing on this host");
    }
    for Missing { feature, cost, mend } in missing {
        writeln!(out, "missing: {feature}\n  cost: {cost}\n  mend: {mend}")?;
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
        write(Some(7), &Chain::Guardian, &[one], &mut shown).unwrap();
        let text = "guardian: pid 7\nwatched over: guardian -> hardware timer\n\
                    missing: x\n  cost: no y\n  mend: do z\n";
        assert_eq!(String::from_utf8(shown).unwrap(), text);
    }
}
