//! What stories must end on, whenever everything stops in them.

use crate::crash::Then;
use crate::generations;
use crate::run::Run;
use hale_core::ids::{GenerationId, RecordId};
use hale_core::reason::Reason;
use hale_core::record::{Body, OperatorOrder, Record};
use hale_core::safeswitch::{End, Generations, Move, Stage};

/// What the end of one run is judged by.
pub(super) struct Ending<'a> {
    pub(super) then: Then,
    /// What was left of the records.
    pub(super) left: &'a Generations,
    /// What operators ordered that Hale has on record, and has not lost with its own end.
    pub(super) orders: &'a [OperatorOrder],
    /// Those of them that were there before the end.
    pub(super) orders_left: &'a [OperatorOrder],
    /// What the store is switched to at the end.
    pub(super) current: Option<GenerationId>,
    pub(super) run: &'a Run,
}

impl Ending<'_> {
    fn records(&self) -> impl DoubleEndedIterator<Item = &Body> {
        self.run.records.iter().map(|record| &record.body)
    }

    fn ends(&self) -> impl Iterator<Item = &End> {
        self.records().filter_map(|body| match body {
            Body::Generation(Move::Ended { end, .. }) => Some(end),
            _ => None,
        })
    }

    /// Whether a process of this release is on record.
    fn has_run(&self, number: u64) -> bool {
        let its = Some(generations::id(number));
        self.records().any(|body| matches!(body, Body::SpawnIntended { generation, .. } if *generation == its))
    }

    fn is_on(&self, number: u64) -> Result<(), String> {
        if self.current == Some(generations::id(number)) { Ok(()) } else { Err(format!("it is on {:?}", self.current)) }
    }

    fn is_quarantined(&self, number: u64) -> Result<(), String> {
        let id = generations::id(number);
        if super::known(&self.run.records).bads.iter().any(|bad| bad.id == id) {
            Ok(())
        } else {
            Err(format!("{id} is not quarantined"))
        }
    }
}

/// On the old one, or, where the change was proved, on the new one; where nobody had ordered it yet, as without a death.
pub(super) fn good_release(end: &Ending<'_>) -> Result<(), String> {
    let is_new = end.current == Some(generations::id(1));
    let is_proved = matches!(end.left.switch.as_ref().map(|it| &it.stage), Some(Stage::Committing { .. }))
        || end.left.goods.iter().any(|good| good.id == generations::id(1));
    let on_probation = matches!(end.left.switch.as_ref().map(|it| &it.stage), Some(Stage::Probation { .. }));
    let must_be_new = is_proved || !end.orders.is_empty();
    let may_be_new = must_be_new || end.then == Then::TakeOver || end.then == Then::SameBoot && on_probation;
    let committed = end.ends().any(|end| *end == End::Committed);
    match is_new {
        true if !may_be_new => Err(String::from("it is on what was never proved")),
        true if !(committed || is_proved) => Err(String::from("it is on what was never committed")),
        false if must_be_new => Err(String::from("it is not on what was proved")),
        _ => Ok(()),
    }
}

pub(super) fn old_release(end: &Ending<'_>) -> Result<(), String> {
    end.is_on(0)
}

/// Where the order was lost before it was taken up, its client knows, and what was there before stays.
pub(super) fn rolled_back(end: &Ending<'_>) -> Result<(), String> {
    let is_rollback = |order: &OperatorOrder| matches!(order, OperatorOrder::Rollback { .. });
    if end.orders_left.iter().any(is_rollback) { old_release(end) } else { Ok(()) }
}

pub(super) fn any_good(end: &Ending<'_>) -> Result<(), String> {
    if end.current.is_some() { Ok(()) } else { Err(String::from("it is on nothing")) }
}

/// Nothing was there before: it is on the new one, or, where that was neither proved nor ordered again, still on nothing.
pub(super) fn first_release(end: &Ending<'_>) -> Result<(), String> {
    let is_proved = matches!(end.left.switch.as_ref().map(|it| &it.stage), Some(Stage::Committing { .. }))
        || end.left.goods.iter().any(|good| good.id == generations::id(1));
    match &end.current {
        Some(id) if *id == generations::id(1) => Ok(()),
        None if !is_proved && end.orders.is_empty() => Ok(()),
        other => Err(format!("it is on {other:?}")),
    }
}

/// The new one is never gone back from but by the order, and never known to be good.
pub(super) fn asks(end: &Ending<'_>) -> Result<(), String> {
    never_good(end)?;
    rolled_back(end)
}

/// The one that never works is never committed.
fn never_good(end: &Ending<'_>) -> Result<(), String> {
    let is_new = |record: &&Record| matches!(&record.body, Body::Generation(Move::Intended { intent }) if intent.to == generations::id(1));
    let of_new: Vec<RecordId> = end.run.records.iter().filter(is_new).map(|record| record.id).collect();
    let is_good = |body: &Body| {
        let Body::Generation(Move::Ended { switch, end: End::Committed }) = body else { return false };
        of_new.contains(switch)
    };
    if end.records().any(is_good) { Err(String::from("what never worked is committed")) } else { Ok(()) }
}

/// On the next one, where that was ordered and the order not lost.
pub(super) fn next_release(end: &Ending<'_>) -> Result<(), String> {
    never_good(end)?;
    let next = generations::id(2);
    let is_next =
        |order: &OperatorOrder| matches!(order, OperatorOrder::Deploy { generation, .. } if *generation == next);
    if end.orders_left.iter().any(is_next) { end.is_on(2) } else { Ok(()) }
}

/// Back on the old one, unless nothing of theirs was ever started, or nothing is left that says that the old one was good.
pub(super) fn theirs(end: &Ending<'_>) -> Result<(), String> {
    let knows_old = end.left.goods.iter().any(|good| good.id == generations::id(0));
    if end.is_on(1).is_ok() && !(end.has_run(1) && knows_old) { Ok(()) } else { old_release(end) }
}

/// Nothing of the new one was ever made, and Hale has ended no process for it.
fn untouched(end: &Ending<'_>) -> Result<(), String> {
    let ends = |body: &Body| matches!(body, Body::StopIntended { .. } | Body::KillIntended { .. });
    if end.has_run(1) || end.records().any(ends) {
        return Err(String::from("what ran before was not left alone"));
    }
    old_release(end)
}

/// It came to nothing.
pub(super) fn aborted(end: &Ending<'_>) -> Result<(), String> {
    if let Some(other) = end.ends().find(|end| !matches!(end, End::Aborted { .. })) {
        return Err(format!("it is {}", other.name()));
    }
    untouched(end)
}

/// It came to nothing, also where the store had to go back.
pub(super) fn undone(end: &Ending<'_>) -> Result<(), String> {
    never_good(end)?;
    untouched(end)
}

/// On what was good before the damaged one, where that was to be gone back to; never on what never worked.
pub(super) fn further_back(end: &Ending<'_>) -> Result<(), String> {
    let damaged = generations::id(1);
    if end.records().any(|body| matches!(body, Body::Generation(Move::GoesBack { to, .. }) if *to == damaged)) {
        // What the store was told at once may be on the disk before its record is: that counts as somebody else's.
        if end.then != Then::NewBootSynced {
            end.is_quarantined(1)?;
        }
        return old_release(end);
    }
    if end.is_on(2).is_ok() { Err(String::from("it is on what never worked")) } else { any_good(end) }
}

/// Still on the new one, where it has run: it is not called rolled back.
pub(super) fn no_way_back(end: &Ending<'_>) -> Result<(), String> {
    if let Some(other) = end.ends().find(|end| matches!(end, End::RolledBack { .. } | End::Environmental { .. })) {
        return Err(format!("it is {}, and cannot be", other.name()));
    }
    if end.has_run(1) { end.is_on(1) } else { any_good(end) }
}

/// The same, and what it cannot go back to is known to be damaged.
pub(super) fn damaged_way_back(end: &Ending<'_>) -> Result<(), String> {
    never_good(end)?;
    if end.ends().any(|end| matches!(end, End::Held { why: Reason::NotSwitched { .. } })) {
        end.is_quarantined(0)?;
    }
    no_way_back(end)
}

/// On the old one, and nothing was started by itself after what the new one did to the data could not be undone.
pub(super) fn unknown_data(end: &Ending<'_>) -> Result<(), String> {
    never_good(end)?;
    old_release(end)?;
    let fails = |body: &Body| matches!(body, Body::Generation(Move::Undone { error: Some(_), .. }));
    let mut after = end.records().skip_while(|body| !fails(body)).peekable();
    if after.peek().is_none() {
        return if end.has_run(1) { Err(String::from("its data were never looked after")) } else { Ok(()) };
    }
    if after.any(|body| matches!(body, Body::SpawnIntended { .. })) {
        return Err(String::from("it was started on data that nobody knows"));
    }
    let found =
        end.records().any(|body| matches!(body, Body::Generation(Move::GoesBack { why, .. }) if why.is_evidence()));
    if found { end.is_quarantined(1) } else { Ok(()) }
}
