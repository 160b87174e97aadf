//! What can happen to a service's generations: each is a record.

use super::{Bad, Data, End, Generations, Intent};
use crate::ids::{GenerationId, RecordId};
use crate::reason::Reason;
use crate::record::Class;
use crate::time::Span;
use alloc::boxed::Box;
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// One thing that happened to a service's generations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "move", rename_all = "snake_case")]
pub enum Move {
    /// The store was looked at for the first time.
    Seen {
        /// What is switched to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        current: Option<GenerationId>,
        /// What that says of the service's data.
        #[serde(default, skip_serializing_if = "Data::is_silent")]
        data: Data,
    },
    /// The store could not be looked at: what is on record counts.
    Unseen {
        /// In its words.
        error: String,
    },
    /// A switch is about to begin; this record's id names it.
    Intended {
        /// What is to be done.
        intent: Box<Intent>,
    },
    /// The store is told.
    Begun {
        /// Which switch.
        switch: RecordId,
    },
    /// What is to be switched to says something of the service's data, and its `before_switch` has run: once this is durable, the store
    /// is told.
    Prepared {
        /// Which switch.
        switch: RecordId,
        /// What it says.
        data: Data,
    },
    /// The store has switched.
    Switched {
        /// Which switch.
        switch: RecordId,
        /// To what.
        to: GenerationId,
    },
    /// A part of the probation has passed.
    Marked {
        /// Which switch.
        switch: RecordId,
        /// How long all checks have held.
        so_far: Span,
    },
    /// All checks have held for the probation.
    Proved {
        /// Which switch.
        switch: RecordId,
    },
    /// The store is told that it stays.
    Promoting {
        /// Which switch.
        switch: RecordId,
    },
    /// The store is told to go back.
    GoesBack {
        /// Which switch.
        switch: RecordId,
        /// To what.
        to: GenerationId,
        /// Why.
        why: Reason,
    },
    /// `after_rollback` of what was gone back from has run, before anything else was started.
    Undone {
        /// Which switch.
        switch: RecordId,
        /// Why it did not undo anything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// A switch is over.
    Ended {
        /// Which.
        switch: RecordId,
        /// How.
        #[serde(flatten)]
        end: End,
    },
    /// A part of the soak time has passed.
    Soaked {
        /// How long it was healthy without a failure.
        so_far: Span,
    },
    /// It was healthy for the soak time.
    Proven {
        /// Which.
        generation: GenerationId,
    },
    /// The service was well for long enough: what was taken back was the cause, or the cause is gone.
    Settled,
    /// It is not switched to by itself again.
    Quarantined {
        /// Which, and why.
        bad: Box<Bad>,
    },
    /// It is quarantined no longer.
    Cleared {
        /// Which.
        generation: GenerationId,
        /// Why.
        why: Reason,
    },
    /// All that is known, written down again so that nobody has to read the ledger from its beginning.
    Kept {
        /// That.
        known: Box<Generations>,
    },
}

impl Move {
    /// How well it must be kept.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Intended { .. }
            | Self::Prepared { .. }
            | Self::Undone { .. }
            | Self::Proved { .. }
            | Self::GoesBack { .. }
            | Self::Ended { .. }
            | Self::Proven { .. }
            | Self::Quarantined { .. }
            | Self::Cleared { .. } => Class::Durable,
            Self::Seen { .. }
            | Self::Unseen { .. }
            | Self::Begun { .. }
            | Self::Switched { .. }
            | Self::Marked { .. }
            | Self::Promoting { .. }
            | Self::Soaked { .. }
            | Self::Settled
            | Self::Kept { .. } => Class::State,
        }
    }
}
