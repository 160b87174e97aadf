//! One death at a chosen point: after which event, record or effect, what dies, and what of it was done.

use crate::death::Restart;
use hale_core::ids::{GenerationId, Name, RecordId};

/// A death that is not drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    /// After so many events, records and effects.
    pub after: u64,
    /// What comes after it.
    pub then: Then,
    /// Whether stores have done what they were at.
    pub stores_finish: bool,
}

/// What comes after a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Then {
    /// Another supervisor takes over from the journal.
    TakeOver,
    /// A new Hale on the same boot, with all that was written.
    SameBoot,
    /// Another boot, with all that was written.
    NewBoot,
    /// Another boot, with what was synced.
    NewBootSynced,
}

impl Then {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::TakeOver, Self::SameBoot, Self::NewBoot, Self::NewBootSynced];

    /// How all of Hale comes back, where all of it dies.
    #[must_use]
    pub fn restart(self) -> Option<Restart> {
        match self {
            Self::TakeOver => None,
            Self::SameBoot => Some(Restart::SameBoot),
            Self::NewBoot | Self::NewBootSynced => Some(Restart::NewBoot),
        }
    }

    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TakeOver => "takeover",
            Self::SameBoot => "new Hale, same boot",
            Self::NewBoot => "new boot, all records",
            Self::NewBootSynced => "new boot, synced records",
        }
    }
}

/// What was there when it had happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crashed {
    /// The last record that is left.
    pub last: RecordId,
    /// The last one that was written.
    pub written: RecordId,
    /// What each store is switched to.
    pub shown: Vec<(Name, Option<GenerationId>)>,
}
