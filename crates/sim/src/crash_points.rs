//! Every point at which a switch can be interrupted: after each event, each record and each effect everything stops, and begins
//! again in each way in which it can, with stores that have done what they were told and with ones that have not.
//!
//! What comes of it is in docs/safeswitch.md: one row for each stage on record, observation and way to begin again.

mod ends;
mod stories;

pub use stories::{of_data, of_files, of_somebody_else};

use crate::crash::{Crash, Crashed, Then};
use crate::run::{Run, run};
use crate::scenario::name;
use ends::Ending;
use hale_core::ids::{GenerationId, RecordId};
use hale_core::record::{Body, OperatorOrder, Record};
use hale_core::safeswitch::{Generations, Move};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use stories::{Story, scenario, stories};

/// So many deaths after all is over are enough.
const QUIET: u64 = 200;

/// What these records say of generations.
fn known(records: &[Record]) -> Generations {
    let mut known = Generations::default();
    for record in records {
        if let Body::Generation(moved) = &record.body {
            known.apply(record, moved).expect("nothing is missing in this ledger");
        }
    }
    known
}

/// One row of the table: how it begins again, the stage on record, and what the store shows.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    stage: String,
    shows: &'static str,
    then: Then,
}

fn row(then: Then, left: &Generations, shown: Option<&GenerationId>) -> Row {
    let Some(switch) = &left.switch else {
        let shows = if shown == left.current.as_ref() { "what is on record" } else { "another" };
        return Row { stage: String::from("no switch"), shows, then };
    };
    let intent = &switch.intent;
    let shows = match shown {
        Some(id) if *id == intent.to => "what it leads to",
        shown if shown == intent.from.as_ref() => "what was there before",
        Some(id) if Some(id) == intent.back.as_ref() => "its way back",
        _ => "another",
    };
    let aim = match intent.aim {
        hale_core::safeswitch::Aim::Deploy { .. } => "deploy",
        hale_core::safeswitch::Aim::Outside => "outside",
        hale_core::safeswitch::Aim::TakeBack { .. } => "take back",
        hale_core::safeswitch::Aim::PutBack { .. } => "put back",
        hale_core::safeswitch::Aim::Return { .. } => "roll back",
    };
    Row { stage: format!("{aim}: {}", switch.stage.as_str().replace('_', " ")), shows, then }
}

/// What Hale does after that until the switch on record is over, in short.
fn doing(records: &[Record], left: &Generations) -> String {
    let of = left.switch.as_ref().map(|switch| switch.id);
    let mut words = Vec::new();
    for record in records {
        let Body::Generation(moved) = &record.body else { continue };
        let word = match moved {
            Move::Begun { switch } if Some(*switch) == of => "switches",
            Move::Prepared { switch, .. } if Some(*switch) == of => "prepares",
            Move::Undone { switch, error: None } if Some(*switch) == of => "undoes",
            Move::Undone { switch, error: Some(_) } if Some(*switch) == of => "cannot undo",
            Move::GoesBack { switch, .. } if Some(*switch) == of => "goes back",
            Move::Proved { switch } if Some(*switch) == of => "proves",
            Move::Promoting { switch } if Some(*switch) == of => "promotes",
            Move::Ended { switch, end } if Some(*switch) == of => {
                words.push(end.name());
                break;
            }
            _ => continue,
        };
        words.push(word);
    }
    if words.is_empty() { String::from("goes on") } else { words.join(", ") }
}

/// Runs all stories with a death at each point.
///
/// # Errors
/// What did not end as it should, and where; or the table as it is, where docs/safeswitch.md has another.
pub fn enumerate() -> Result<String, String> {
    let mut table: BTreeMap<Row, BTreeMap<String, u64>> = BTreeMap::new();
    let mut counts = String::new();
    let (mut all, mut wrong) = (0, Vec::new());
    for story in stories() {
        let whole = run(&scenario(&story, None));
        if let Some(violation) = whole.violations.first() {
            wrong.push(format!("{}, without a death: {violation}", story.title));
        }
        let of_generations = |record: &&Record| matches!(record.body, Body::Generation(_));
        let last = whole.records.iter().rfind(of_generations).map_or(RecordId(0), |record| record.id);
        let (mut points, mut quiet) = (0, 0);
        for after in 1..=whole.points {
            if quiet > QUIET {
                break;
            }
            for then in Then::ALL {
                for stores_finish in [false, true] {
                    let crash = Crash { after, then, stores_finish };
                    let run = run(&scenario(&story, Some(crash)));
                    // Nothing more happens after the last point that is reached with this death before it.
                    let Some(crashed) = &run.crashed else { continue };
                    points += 1;
                    quiet += u64::from(crashed.written >= last);
                    if let Err(what) = judge(&story, crash, crashed, &run, &mut table) {
                        wrong.push(format!("{}: {crash:?}: {what}", story.title));
                    }
                }
            }
        }
        writeln!(counts, "| {} | {points} |", story.title).expect("memory");
        all += points;
    }
    let text = tell(&table, &counts, all);
    if wrong.is_empty() {
        Ok(text)
    } else {
        Err(format!("{text}\n{} of {all} points do not end as they should:\n{}", wrong.len(), wrong.join("\n")))
    }
}

fn judge(
    story: &Story,
    crash: Crash,
    crashed: &Crashed,
    run: &Run,
    table: &mut BTreeMap<Row, BTreeMap<String, u64>>,
) -> Result<(), String> {
    let left: Vec<Record> = run.records.iter().filter(|record| record.id <= crashed.last).cloned().collect();
    let after = &run.records[left.len()..];
    let known = known(&left);
    let shown = crashed.shown.iter().find(|(service, _)| *service == name(0)).and_then(|(_, id)| id.clone());
    *table.entry(row(crash.then, &known, shown.as_ref())).or_default().entry(doing(after, &known)).or_default() += 1;
    if let Some(violation) = run.violations.first() {
        return Err(violation.to_string());
    }
    let order =
        |record: &'_ Record| if let Body::Ordered { order, .. } = &record.body { Some(order.clone()) } else { None };
    // What was ordered and waited for the disk ends with all of Hale.
    let kept = if crash.then == Then::TakeOver { left.as_slice() } else { &[] };
    let orders_left: Vec<OperatorOrder> = kept.iter().filter_map(order).collect();
    let orders: Vec<OperatorOrder> = kept.iter().chain(after).filter_map(order).collect();
    let end = run.shown.iter().find(|(service, _)| *service == name(0)).and_then(|(_, id)| id.clone());
    let ending =
        Ending { then: crash.then, left: &known, orders: &orders, orders_left: &orders_left, current: end, run };
    (story.ends)(&ending)
}

fn tell(table: &BTreeMap<Row, BTreeMap<String, u64>>, counts: &str, all: u64) -> String {
    let mut text = String::new();
    writeln!(text, "| story | points |\n|---|---|\n{counts}").expect("memory");
    writeln!(text, "{all} points in all.\n").expect("memory");
    writeln!(text, "| on record | the store shows | begins again as | what Hale does (points) |\n|---|---|---|---|")
        .expect("memory");
    for (Row { stage, shows, then }, doings) in table {
        let doings: Vec<String> = doings.iter().map(|(what, count)| format!("{what} ({count})")).collect();
        writeln!(text, "| {stage} | {shows} | {} | {} |", then.as_str(), doings.join("; ")).expect("memory");
    }
    text
}
