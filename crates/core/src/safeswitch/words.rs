//! Moves of generations as lines of a story.

use super::{Aim, Data, End, Intent, Move, Part};
use crate::ids::GenerationId;
use alloc::format;
use alloc::string::{String, ToString};

fn named(id: Option<&GenerationId>) -> &str {
    id.map_or("nothing", GenerationId::short)
}

/// What happened, and why where something was decided. `None`: not worth a line.
#[must_use]
pub fn line(part: Part, moved: &Move) -> Option<(String, Option<String>)> {
    let (what, why) = words(moved)?;
    let what = match part {
        Part::Store => what,
        Part::Files => format!("its files: {what}"),
    };
    Some((what, why))
}

fn words(moved: &Move) -> Option<(String, Option<String>)> {
    let plain = |what: String| Some((what, None));
    match moved {
        Move::Seen { current: Some(id), .. } => plain(format!("is switched to {}", id.short())),
        Move::Seen { current: None, .. } => plain(String::from("is switched to nothing yet")),
        Move::Unseen { error } => {
            plain(format!("its store cannot be looked at, so that what is on record counts: {error}"))
        }
        Move::Intended { intent } => Some(intended(intent)),
        Move::Prepared { data: Data { snapshot: Some(snapshot), .. }, .. } => {
            plain(format!("its before_switch has run: snapshot {snapshot}"))
        }
        Move::Undone { error: None, .. } => {
            plain(String::from("its after_rollback has run: what it did to the data is undone"))
        }
        Move::Undone { error: Some(error), .. } => plain(format!("its after_rollback failed: {error}")),
        Move::Switched { to, .. } => plain(format!("switched to {}", to.short())),
        Move::Proved { .. } => plain(String::from("all checks have held for the probation")),
        Move::GoesBack { to, why, .. } => Some((format!("goes back to {}", to.short()), Some(why.to_string()))),
        Move::Ended { end, .. } => Some(ended(end)),
        Move::Proven { generation } => plain(format!("{} is proven: healthy for the soak time", generation.short())),
        Move::Quarantined { bad } => Some((
            format!("{} is quarantined: not switched to by itself again", bad.id.short()),
            Some(bad.why.to_string()),
        )),
        Move::Cleared { generation, why } => {
            Some((format!("{} is quarantined no longer", generation.short()), Some(why.to_string())))
        }
        Move::Begun { .. }
        | Move::Prepared { .. }
        | Move::Marked { .. }
        | Move::Promoting { .. }
        | Move::Soaked { .. }
        | Move::Settled
        | Move::Kept { .. } => None,
    }
}

fn intended(intent: &Intent) -> (String, Option<String>) {
    let Intent { aim, from, to, .. } = intent;
    let (from, to) = (named(from.as_ref()), to.short());
    match aim {
        Aim::Deploy { actor } => {
            (format!("is to be switched from {from} to {to}"), Some(format!("{actor} deployed it")))
        }
        Aim::Outside => {
            (format!("somebody else has switched it from {from} to {to}, which its next process runs"), None)
        }
        Aim::TakeBack { .. } => (format!("is to go back from {from} to {to}"), None),
        Aim::PutBack { .. } => (format!("is to go forward again from {from} to {to}"), None),
        Aim::Return { actor } => (format!("is to go back from {from} to {to}"), Some(format!("{actor} ordered it"))),
    }
}

fn ended(end: &End) -> (String, Option<String>) {
    let because = |what: &str, why: &crate::reason::Reason| (String::from(what), Some(why.to_string()));
    match end {
        End::Committed => (String::from("committed: it is known to be good now"), None),
        End::RolledBack { why } => because("rolled back, and healthy", why),
        End::Aborted { why } => because("not switched", why),
        End::Held { why } => because("stays, and is not known to be good", why),
        End::Environmental { why } => because("no more is switched: the cause is elsewhere", why),
        End::Stopped { why } => because("stopped: there is nothing to go back to", why),
    }
}
