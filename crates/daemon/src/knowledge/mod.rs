//! What Hale knows and keeps: the runtime journal for this boot, the ledger for good.

pub mod journal;

pub use journal::{Journal, JournalError, Replay};
