//! The embedded store of releases: immutable trees, named by their content, and a link to the current one of each service.
//!
//! Blocking code for a thread of its own. Nothing of Hale calls it yet: the supervisor gets it together with SafeSwitch.
//!
//! ```text
//! <state_dir>/releases/<service>/<id>/           a release, read-only
//!                               /<id>.manifest   what it consists of; its SHA-256 is the id
//!                               /.link-<id>      what becomes `current`
//!                               /current -> <id>
//! ```

mod archive;
mod beneath;
mod error;
mod import;
mod manifest;
mod pack;
mod store;
mod stream;
#[cfg(test)]
mod testing;
mod tree;

pub use error::{ArchiveFault, Change, Drift, EntryFault, StoreError};
pub use import::Limits;
pub use pack::pack;
pub use store::{Imported, Listed, Owner, Store, Verified};

/// What names a release: the SHA-256 of its manifest.
pub type Id = hale_ledger::Hash;
