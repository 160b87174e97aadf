//! What Hale knows and keeps: the runtime journal for this boot, the ledger for good.

pub mod index;
pub mod journal;
mod layout;
mod ledger_queue;
pub mod ledger_read;
mod ledger_recovery;
pub mod ledger_store;
mod ledger_writer;
pub mod policy_file;
pub mod recovery;
pub(crate) mod resets;
#[cfg(test)]
pub(crate) mod tmpfs;
pub mod trail;

pub use index::{Index, IndexError, Matches, Query};
pub use journal::{Journal, JournalError, Replay};
pub use ledger_read::{Entry, ReadError, Records, Summary, VerifyDirError, read_all, verify_dir};
pub use ledger_recovery::Recovery;
pub use ledger_store::{AppendError, Class, LedgerEvent, LedgerStore, Limits, OpenError};
