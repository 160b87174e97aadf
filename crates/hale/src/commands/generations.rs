//! `hale generations SERVICE [--verify]`

use super::order::name;
use crate::cli::{Format, Global};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::supervisor;
use crate::table::{Cell, render};
use crate::terminal::{Tone, colours, escape};
use hale_core::safeswitch::Part;
use hale_daemon::api::view::generations::{Generation, ServiceGenerations};
use std::io::Write;

/// Lists the generations of a service. Fails if they were to be read and one of them is damaged.
pub fn run(
    service: &str,
    verify: bool,
    format: Format,
    global: &Global,
    out: &mut impl Write,
) -> Result<Exit, Failure> {
    let service = name(service)?;
    let target = format!("/v1/services/{service}/generations");
    let body = match verify {
        false => supervisor::ask(global, &target)?,
        true => supervisor::ask_long(global, &format!("{target}?verify=true"))?,
    };
    let known: ServiceGenerations = supervisor::parse(&body)?;
    if format.json {
        // As it came: it may say more than this version knows.
        out.write_all(&body)?;
        writeln!(out)?;
    } else {
        out.write_all(text(&known, verify, colours()).as_bytes())?;
    }
    let damaged = verify && known.generations.iter().any(|one| one.verified == Some(false));
    Ok(if damaged { Exit::Failed } else { Exit::Done })
}

fn text(known: &ServiceGenerations, verify: bool, coloured: bool) -> String {
    let service = &known.service;
    if known.store.is_none() {
        return format!("{service} has no generations: [service.{service}.generations] is not configured\n");
    }
    if known.generations.is_empty() {
        return format!("{service} has no generations yet: `hale deploy {service} PATH` brings one\n");
    }
    let rows: Vec<_> = known.generations.iter().map(row).collect();
    let mut text = if verify {
        let rows: Vec<_> =
            known.generations.iter().zip(rows).map(|(one, [a, b, c, d, e])| [a, b, c, d, e, read(one)]).collect();
        render(["GENERATION", "STATE", "GRADE", "SINCE", "IMPORTED", "CONTENT"], &rows, coloured)
    } else {
        render(["GENERATION", "STATE", "GRADE", "SINCE", "IMPORTED"], &rows, coloured)
    };
    let mut remarks = Vec::new();
    for one in &known.generations {
        let id = one.id.short();
        if let Some(quarantine) = &one.quarantined {
            let seen = quarantine.incident.map_or(String::new(), |id| format!(" (`hale incident {id}`)"));
            remarks.push(format!("{id}: quarantined until {}, because {}{seen}", quarantine.until, quarantine.why));
            if quarantine.damaged && one.verified == Some(true) {
                remarks
                    .push(format!("{id}: it is whole now: `hale quarantine clear {}` lets it be gone back to", one.id));
            }
        }
        if let Some(fault) = &one.fault {
            remarks.push(format!("{id}: {fault}"));
        }
        if one.kept == Some(false) {
            remarks.push(format!("{id}: its store does not have it any more"));
        }
    }
    if !remarks.is_empty() {
        text.push('\n');
    }
    for remark in remarks {
        text.push_str(&escape(&remark));
        text.push('\n');
    }
    text
}

fn row(one: &Generation) -> [Cell; 5] {
    let or_none = |text: &Option<String>| Cell::from(text.as_deref().unwrap_or("-"));
    [one.id.short().into(), state(one), or_none(&one.grade), or_none(&one.since), or_none(&one.imported)]
}

fn state(one: &Generation) -> Cell {
    let (words, tone) = match one {
        Generation { on_probation: true, .. } => ("on probation", Tone::Attention),
        Generation { runs: true, current: true, .. } => ("runs", Tone::Good),
        Generation { runs: true, .. } => ("runs yet", Tone::Attention),
        Generation { current: true, .. } => ("current", Tone::Attention),
        Generation { quarantined: Some(_), .. } => ("quarantined", Tone::Bad),
        _ => ("-", Tone::Quiet),
    };
    match one.part {
        Part::Store => Cell::toned(words, tone),
        Part::Files => Cell::toned(&format!("files: {words}"), tone),
    }
}

fn read(one: &Generation) -> Cell {
    match one.verified {
        Some(true) => Cell::toned("whole", Tone::Good),
        Some(false) => Cell::toned("damaged", Tone::Bad),
        None => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn known(generations: &Value) -> ServiceGenerations {
        let all = json!({"service": "web", "store": "release", "switch": null, "generations": generations});
        serde_json::from_value(all).unwrap()
    }

    fn one(id: &str, fields: &Value) -> Value {
        let mut one = json!({"id": id, "part": "store", "current": false, "runs": false, "on_probation": false, "grade": null,
            "since": null, "kept": true, "imported": null, "quarantined": null, "verified": null, "fault": null});
        one.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        one
    }

    #[test]
    fn each_generation_is_a_line_and_what_is_wrong_stands_below() {
        let at = "2026-11-23T22:00:00.000Z";
        let quarantine = json!({"why": "it fails\u{1b}[2J", "incident": 7, "since": at, "until": at});
        let known = known(&json!([
            one(
                "0123456789abcdef",
                &json!({"current": true, "runs": true, "grade": "proven", "since": at, "imported": at})
            ),
            one("bad", &json!({"quarantined": quarantine, "verified": false, "fault": "bin/bot is missing"})),
            one(
                "back",
                &json!({"quarantined": {"why": "it is damaged", "incident": null, "since": at, "until": at, "damaged": true},
                "verified": true, "verified_at": at})
            ),
            one("gone", &json!({"grade": "provisional", "since": at, "kept": false})),
            one("conf", &json!({"part": "files", "current": true, "runs": true, "kept": null})),
        ]));
        let expected = "\
GENERATION    STATE        GRADE        SINCE                     IMPORTED
0123456789ab  runs         proven       2026-11-23T22:00:00.000Z  2026-11-23T22:00:00.000Z
bad           quarantined  -            -                         -
back          quarantined  -            -                         -
gone          -            provisional  2026-11-23T22:00:00.000Z  -
conf          files: runs  -            -                         -

bad: quarantined until 2026-11-23T22:00:00.000Z, because it fails\\u{1b}[2J (`hale incident 7`)
bad: bin/bot is missing
back: quarantined until 2026-11-23T22:00:00.000Z, because it is damaged
back: it is whole now: `hale quarantine clear back` lets it be gone back to
gone: its store does not have it any more
";
        assert_eq!(text(&known, false, false), expected);
        assert!(text(&known, true, false).contains("  damaged\n"));
    }

    #[test]
    fn where_there_are_none_it_says_how_to_get_one() {
        assert!(text(&known(&json!([])), false, false).contains("`hale deploy web PATH`"));
        let none = ServiceGenerations { store: None, ..known(&json!([])) };
        assert!(text(&none, false, false).contains("not configured"));
    }
}
