//! Every point at which a switch can be interrupted: after each event, each record and each effect everything stops, and begins
//! again in each way in which it can, with stores that have done what they were told and with ones that have not.
//!
//! What comes of it is in docs/safeswitch.md: one row for each stage on record, observation and way to begin again.

use crate::crash::{Crash, Crashed, Then};
use crate::fate::Flaw;
use crate::fault::Fault;
use crate::generations::{self, Doing};
use crate::run::{Run, run};
use crate::scenario::{Scenario, default_check, default_service, name};
use hale_core::ids::{GenerationId, Name, RecordId};
use hale_core::policy::{CrashLoop, GenerationsPolicy, Rollback, ServicePolicy, StoreKind};
use hale_core::record::{Body, OperatorOrder, Record};
use hale_core::safeswitch::{Data, End, Generations, Move, Stage};
use hale_core::time::Span;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// When the first thing is done, in microseconds after the beginning.
const AT: u64 = 100_000;

/// So many deaths after all is over are enough.
const QUIET: u64 = 200;

/// What happens in one story.
struct Story {
    title: &'static str,
    first: Option<u64>,
    doings: Vec<(u64, Doing)>,
    flaw: fn(u64, u64) -> Option<Flaw>,
    /// What the new one says of the data.
    data: Option<Data>,
    rollback: Rollback,
    /// What its end may be, where the last change was proved, and where it was not.
    ends: fn(&Ending<'_>) -> Result<(), String>,
}

/// What the end of one run is judged by.
struct Ending<'a> {
    then: Then,
    /// What was left of the records.
    left: &'a Generations,
    /// What operators ordered that Hale has on record, and has not lost with its own end.
    orders: &'a [OperatorOrder],
    /// Those of them that were there before the end.
    orders_left: &'a [OperatorOrder],
    /// What the store is switched to at the end.
    current: Option<GenerationId>,
    run: &'a Run,
}

fn deploy(number: u64) -> Doing {
    let order = OperatorOrder::Deploy { service: name(0), generation: generations::id(number), force: false };
    Doing::Order(Fault::Deploy, order)
}

fn rollback() -> Doing {
    Doing::Order(Fault::OrderRollback, OperatorOrder::Rollback { service: name(0), to: None })
}

/// The one before it cannot read what it leaves.
fn moves(undoes: bool) -> Data {
    Data { format: 1, min_rollback: 1, undoes, snapshot: undoes.then(|| String::from("tank/data@7")) }
}

fn service(rollback: Rollback) -> ServicePolicy {
    let mut policy = default_service();
    policy.checks = vec![default_check(hale_core::policy::CheckKind::Tcp { address: String::from("127.0.0.1:1") })];
    policy.checks[0].every = Span::from_ms(30);
    policy.restart.crash_loop = Some(CrashLoop { failures: 3, within: Span::from_secs(60) });
    policy.restart.held_delay = Span::from_ms(500);
    policy.generations = Some(GenerationsPolicy {
        store: StoreKind::Release,
        probation: Span::from_ms(80),
        soak: Span::from_ms(80),
        keep: 3,
        recent: Span::from_secs(3_600),
        rollbacks_per_day: 3,
        rollback,
        files: Vec::new(),
    });
    policy
}

fn scenario(story: &Story, crash: Option<Crash>) -> Scenario {
    let mut scenario =
        Scenario::plain(BTreeMap::from([(name(0), Arc::new(service(story.rollback)))]), Span::from_secs(4));
    scenario.crash = crash;
    scenario.generations.first = BTreeMap::from([(name(0), story.first.map(generations::id))]);
    scenario.generations.doings = story.doings.clone();
    scenario.generations.data.extend(story.data.clone().map(|data| ((name(0), generations::id(1)), data)));
    let flaw = story.flaw;
    scenario.generations.script = Some(Arc::new(move |_: &Name, generation: &GenerationId, at_us| {
        let number = generation.as_str().trim_start_matches('g').parse().expect("a number");
        flaw(number, at_us)
    }));
    scenario
}

/// The story of a release that moves the data forward and fails, so that what it did is undone.
#[must_use]
pub fn of_data() -> Scenario {
    let undoes = |story: &Story| story.data.as_ref().is_some_and(|data| data.undoes);
    scenario(&stories().into_iter().find(undoes).expect("there is one"), None)
}

/// On the old one, or, where the change was proved, on the new one; where nobody had ordered it yet, as without a death.
fn good_release(end: &Ending<'_>) -> Result<(), String> {
    let is_new = end.current == Some(generations::id(1));
    let is_proved = matches!(end.left.switch.as_ref().map(|it| &it.stage), Some(Stage::Committing { .. }))
        || end.left.goods.iter().any(|good| good.id == generations::id(1));
    let on_probation = matches!(end.left.switch.as_ref().map(|it| &it.stage), Some(Stage::Probation { .. }));
    let must_be_new = is_proved || !end.orders.is_empty();
    let may_be_new = must_be_new || end.then == Then::TakeOver || end.then == Then::SameBoot && on_probation;
    let committed = end.run.records.iter().any(|record| ended(record) == Some(&End::Committed));
    match is_new {
        true if !may_be_new => Err(String::from("it is on what was never proved")),
        true if !(committed || is_proved) => Err(String::from("it is on what was never committed")),
        false if must_be_new => Err(String::from("it is not on what was proved")),
        _ => Ok(()),
    }
}

fn old_release(end: &Ending<'_>) -> Result<(), String> {
    if end.current == Some(generations::id(0)) { Ok(()) } else { Err(format!("it is on {:?}", end.current)) }
}

/// Where the order was lost before it was taken up, its client knows, and what was there before stays.
fn rolled_back(end: &Ending<'_>) -> Result<(), String> {
    let is_rollback = |order: &OperatorOrder| matches!(order, OperatorOrder::Rollback { .. });
    if end.orders_left.iter().any(is_rollback) { old_release(end) } else { Ok(()) }
}

fn any_good(end: &Ending<'_>) -> Result<(), String> {
    if end.current.is_some() { Ok(()) } else { Err(String::from("it is on nothing")) }
}

/// Nothing was there before: it is on the new one, or, where that was neither proved nor ordered again, still on nothing.
fn first_release(end: &Ending<'_>) -> Result<(), String> {
    let is_proved = matches!(end.left.switch.as_ref().map(|it| &it.stage), Some(Stage::Committing { .. }))
        || end.left.goods.iter().any(|good| good.id == generations::id(1));
    match &end.current {
        Some(id) if *id == generations::id(1) => Ok(()),
        None if !is_proved && end.orders.is_empty() => Ok(()),
        other => Err(format!("it is on {other:?}")),
    }
}

/// The new one is never gone back from but by the order, and never known to be good.
fn asks(end: &Ending<'_>) -> Result<(), String> {
    never_good(end)?;
    rolled_back(end)
}

/// The one that never works is never committed.
fn never_good(end: &Ending<'_>) -> Result<(), String> {
    let is_new = |record: &&Record| matches!(&record.body, Body::Generation(Move::Intended { intent }) if intent.to == generations::id(1));
    let of_new: Vec<RecordId> = end.run.records.iter().filter(is_new).map(|record| record.id).collect();
    let is_good = |record: &Record| {
        let Body::Generation(Move::Ended { switch, end: End::Committed }) = &record.body else { return false };
        of_new.contains(switch)
    };
    if end.run.records.iter().any(is_good) { Err(String::from("what never worked is committed")) } else { Ok(()) }
}

/// On the next one, where that was ordered and the order not lost.
fn next_release(end: &Ending<'_>) -> Result<(), String> {
    never_good(end)?;
    let next = generations::id(2);
    let is_next =
        |order: &OperatorOrder| matches!(order, OperatorOrder::Deploy { generation, .. } if *generation == next);
    if end.orders_left.iter().any(is_next) && end.current != Some(next) {
        return Err(format!("it is on {:?}", end.current));
    }
    Ok(())
}

/// Back on the old one, unless nothing of theirs was ever started, or nothing is left that says that the old one was good.
fn theirs(end: &Ending<'_>) -> Result<(), String> {
    let theirs = Some(generations::id(1));
    let of_theirs =
        |record: &Record| matches!(&record.body, Body::SpawnIntended { generation, .. } if *generation == theirs);
    let knows_old = end.left.goods.iter().any(|good| good.id == generations::id(0));
    let is_started = end.run.records.iter().any(of_theirs);
    if end.current == theirs && !(is_started && knows_old) { Ok(()) } else { old_release(end) }
}

fn stories() -> Vec<Story> {
    let no_flaw = |_, _| None;
    vec![
        Story {
            title: "a good release is deployed",
            first: Some(0),
            doings: vec![(AT, deploy(1))],
            flaw: no_flaw,
            data: None,
            rollback: Rollback::Auto,
            ends: good_release,
        },
        Story {
            title: "a release is deployed that crashes at its start",
            first: Some(0),
            doings: vec![(AT, deploy(1))],
            flaw: |number, _| (number == 1).then_some(Flaw::Ends(1_000)),
            data: None,
            rollback: Rollback::Auto,
            ends: old_release,
        },
        Story {
            title: "a release is deployed that answers wrongly after half of its probation",
            first: Some(0),
            doings: vec![(AT, deploy(1))],
            flaw: |number, _| (number == 1).then_some(Flaw::Wrong(40_000)),
            data: None,
            rollback: Rollback::Auto,
            ends: old_release,
        },
        Story {
            title: "a release that was committed begins to crash, and the ladder takes it back",
            first: Some(0),
            doings: vec![(AT, deploy(1))],
            flaw: |number, _| (number == 1).then_some(Flaw::Ends(300_000)),
            data: None,
            rollback: Rollback::Auto,
            ends: old_release,
        },
        Story {
            title: "nothing works any more, whatever is taken back",
            first: Some(0),
            doings: vec![(AT, deploy(1))],
            flaw: |_, at| match at {
                0..600_000 => Some(Flaw::Ends(600_000_u64.saturating_sub(at))),
                600_000..2_000_000 => Some(Flaw::Ends(1_000)),
                _ => None,
            },
            data: None,
            rollback: Rollback::Auto,
            ends: any_good,
        },
        Story {
            title: "what was good fails in the same way a moment later, and what was taken back is put back",
            first: Some(0),
            doings: vec![(AT, deploy(1))],
            flaw: |number, at| match (number, at) {
                (1, 0..400_000) => Some(Flaw::Ends(400_000 - at)),
                (1, 400_000..600_000) => Some(Flaw::Ends(1_000)),
                // Long enough to be healthy.
                (0, 400_000..1_200_000) => Some(Flaw::Ends(60_000)),
                _ => None,
            },
            data: None,
            rollback: Rollback::Auto,
            ends: any_good,
        },
        Story {
            title: "a release that crashes at its start is held until an operator rolls it back (`rollback = \"ask\"`)",
            first: Some(0),
            doings: vec![(AT, deploy(1)), (AT + 300_000, rollback())],
            flaw: |number, _| (number == 1).then_some(Flaw::Ends(1_000)),
            data: None,
            rollback: Rollback::Ask,
            ends: asks,
        },
        Story {
            title: "an operator rolls back a change on probation",
            first: Some(0),
            doings: vec![(AT, deploy(1)), (AT + 60_000, rollback())],
            flaw: no_flaw,
            data: None,
            rollback: Rollback::Auto,
            ends: rolled_back,
        },
        Story {
            title: "an operator rolls back a change that was committed",
            first: Some(0),
            doings: vec![(AT, deploy(1)), (AT + 400_000, rollback())],
            flaw: no_flaw,
            data: None,
            rollback: Rollback::Auto,
            ends: rolled_back,
        },
        Story {
            title: "the first release is deployed",
            first: None,
            doings: vec![(AT, deploy(1))],
            flaw: no_flaw,
            data: None,
            rollback: Rollback::Auto,
            ends: first_release,
        },
        Story {
            title: "the first release crashes at its start, and the next one is deployed",
            first: None,
            doings: vec![(AT, deploy(1)), (AT + 200_000, deploy(2))],
            flaw: |number, _| (number == 1).then_some(Flaw::Ends(1_000)),
            data: None,
            rollback: Rollback::Auto,
            ends: next_release,
        },
        Story {
            title: "somebody else switches to a release that crashes",
            first: Some(0),
            doings: vec![(AT, Doing::Outside(name(0), generations::id(1))), (AT + 50_000, restart())],
            flaw: |number, _| (number == 1).then_some(Flaw::Ends(1_000)),
            data: None,
            rollback: Rollback::Auto,
            ends: theirs,
        },
        Story {
            title: "a release that moves the data forward crashes at its start, and brings what undoes that",
            first: Some(0),
            doings: vec![(AT, deploy(1))],
            flaw: |number, _| (number == 1).then_some(Flaw::Ends(1_000)),
            data: Some(moves(true)),
            rollback: Rollback::Auto,
            ends: old_release,
        },
        Story {
            title: "a release that moves the data forward, which nothing undoes, does not work for a while",
            first: Some(0),
            doings: vec![(AT, deploy(1))],
            flaw: |number, at| (number == 1 && at < 1_000_000).then_some(Flaw::Ends(1_000)),
            data: Some(moves(false)),
            rollback: Rollback::Auto,
            ends: any_good,
        },
    ]
}

fn restart() -> Doing {
    Doing::Order(Fault::OrderRestart, OperatorOrder::Restart { service: name(0) })
}

fn ended(record: &Record) -> Option<&End> {
    if let Body::Generation(Move::Ended { end, .. }) = &record.body { Some(end) } else { None }
}

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
            Move::Undone { switch, .. } if Some(*switch) == of => "undoes",
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
