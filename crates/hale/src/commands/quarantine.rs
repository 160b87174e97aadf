//! `hale quarantine list`, `hale quarantine clear GENERATION`

use super::order::name;
use crate::cli::{Global, Quarantine};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::generation::find;
use crate::supervisor;
use crate::table::{Cell, render};
use crate::terminal::{colours, escape};
use hale_daemon::api::view::Done;
use hale_daemon::api::view::generations::Quarantined;
use serde_json::json;
use std::io::Write;

/// What failed, of all services.
const TARGET: &str = "/v1/quarantine";

/// Lists what is quarantined, or forgets why one generation is.
pub fn run(command: &Quarantine, global: &Global, out: &mut impl Write) -> Result<Exit, Failure> {
    let body = supervisor::ask(global, TARGET)?;
    match command {
        Quarantine::List { format } if format.json => {
            // As it came: it may say more than this version knows.
            out.write_all(&body)?;
            writeln!(out)?;
        }
        Quarantine::List { .. } => {
            let all: Vec<Quarantined> = supervisor::parse(&body)?;
            out.write_all(text(&all, colours()).as_bytes())?;
        }
        Quarantine::Clear { generation, service } => {
            let all: Vec<Quarantined> = supervisor::parse(&body)?;
            let service = service.as_deref().map(name).transpose()?;
            let is_asked_for = |one: &&Quarantined| service.as_ref().is_none_or(|service| one.service == *service);
            let all: Vec<_> =
                all.iter().filter(is_asked_for).map(|one| (one.service.clone(), one.generation.clone())).collect();
            let (service, generation) = find(generation, &all).map_err(|failure| {
                failure.help("`hale quarantine list` lists them; --service says of which service")
            })?;
            let target = format!("/v1/services/{service}/quarantine/clear");
            let body = supervisor::give(global, &target, &json!({ "generation": generation }))?;
            let done: Done = supervisor::parse(&body)?;
            writeln!(out, "{}", escape(&done.text))?;
        }
    }
    Ok(Exit::Done)
}

fn text(all: &[Quarantined], coloured: bool) -> String {
    if all.is_empty() {
        return "nothing is quarantined\n".to_owned();
    }
    let row = |one: &Quarantined| {
        let quarantine = &one.quarantine;
        [
            Cell::from(one.service.as_str()),
            one.generation.short().into(),
            quarantine.since.as_str().into(),
            quarantine.until.as_str().into(),
            quarantine.incident.map_or("-".to_owned(), |id| id.to_string()).into(),
            quarantine.why.as_str().into(),
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    render(["SERVICE", "GENERATION", "SINCE", "UNTIL", "INCIDENT", "WHY"], &rows, coloured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_a_line_that_no_reason_breaks() {
        let at = "2026-11-23T22:00:00.000Z";
        let one = json!({"service": "web", "generation": "0123456789abcdef", "part": "store", "why": "it\nfails", "incident": 7,
            "since": at, "until": at});
        let all: Vec<Quarantined> = serde_json::from_value(json!([one])).unwrap();
        let expected = "\
SERVICE  GENERATION    SINCE                     UNTIL                     INCIDENT  WHY
web      0123456789ab  2026-11-23T22:00:00.000Z  2026-11-23T22:00:00.000Z  7         it\\nfails
";
        assert_eq!(text(&all, false), expected);
        assert_eq!(text(&[], false), "nothing is quarantined\n");
    }
}
