//! The places where generations are kept, behind one trait: Hale's own releases, a profile of Nix, or an operator's programs.
//!
//! Blocking code: [`Stores`] has the threads for it.
//!
//! ```text
//! <state_dir>/releases/<service>/<id>/           a release, read-only
//!                               /<id>.manifest   what it consists of; its SHA-256 is the id
//!                               /.link-<id>      what becomes `current`
//!                               /current -> <id>
//! ```

mod archive;
mod beneath;
mod command;
mod error;
pub mod files;
mod hook;
mod import;
mod manifest;
mod nix;
mod nix_profile;
mod notes;
mod pack;
mod program;
mod release;
mod store;
mod stores;
mod stream;
#[cfg(test)]
mod testing;
mod tree;
mod watch;

use command::Programs;
use hale_config::ReleaseFile;
use hale_core::ids::{GenerationId, Name};
use hale_core::policy::StoreKind;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use command::Commands;
pub use error::{ArchiveFault, Change, Drift, EntryFault, ProgramFault, StoreError};
pub use hale_core::effect::Towards;
pub use import::Limits;
pub use nix_profile::{NixProfile, NixReader};
pub use pack::pack;
pub(crate) use program::end_all as end_programs;
pub use release::{Arrival, Importer, ReleaseReader, Releases};
pub use store::{Imported, LastRead, Listed, Owner, Store, Verified};
pub use stores::{Import, NoStore, Stores};

/// What names a release: the SHA-256 of its manifest.
pub type Id = hale_ledger::Hash;

/// What SafeSwitch needs of a place where the generations of a service are kept. All of it may block, each within a bound.
pub trait Generations: Send {
    /// All that can be switched to, newest first, each once.
    ///
    /// # Errors
    /// They cannot be told.
    fn list(&mut self) -> Result<Vec<Kept>, StoreError>;

    /// What is switched to, whoever did that; `None` when nothing is.
    ///
    /// # Errors
    /// It cannot be told, or is nothing that could be switched back to.
    fn current(&mut self) -> Result<Option<GenerationId>, StoreError>;

    /// Reads all of a generation, as far as the store can, and compares it with its id.
    ///
    /// # Errors
    /// It is missing or damaged, or cannot be read.
    fn verify(&mut self, id: &GenerationId) -> Result<(), StoreError>;

    /// Verifies a generation, and protects it beside what is protected already: from here on switching to it needs no network.
    ///
    /// # Errors
    /// It is missing or damaged, or cannot be protected.
    fn prepare(&mut self, id: &GenerationId) -> Result<(), StoreError>;

    /// Switches, durably. Fine when it is switched to already. Never from a network.
    ///
    /// # Errors
    /// [`StoreError::NotDurable`] when it was switched and may not stay so; [`StoreError::Unknown`] when nobody can tell; with
    /// any other error nothing was switched to it.
    fn activate(&mut self, id: &GenerationId, towards: Towards) -> Result<(), StoreError>;

    /// Whether it has to be looked at once in a while, because nothing else tells what it has missed.
    fn misses(&self) -> bool {
        false
    }

    /// Whether `found` is what a switch has left that did not come to its end.
    fn is_part_way(&mut self, _found: &GenerationId) -> bool {
        false
    }

    /// Protects these and no others from whoever else removes generations, and tells which of them are missing or cannot be protected;
    /// the others are all the same.
    ///
    /// # Errors
    /// It cannot be told what is protected; then what was protected before still is. [`StoreError::Stopped`] where `goes_on` said so,
    /// which is asked before each.
    fn pin(&mut self, ids: &BTreeSet<GenerationId>, goes_on: GoesOn<'_>) -> Result<Unprotected, StoreError>;

    /// Removes what is neither current, nor in `pinned`, nor among the `keep` newest, and tells what that was.
    ///
    /// # Errors
    /// One of them cannot be removed; others may have been. [`StoreError::Stopped`] where `goes_on` said so, which is asked before each.
    fn retain(
        &mut self,
        keep: usize,
        pinned: &BTreeSet<GenerationId>,
        goes_on: GoesOn<'_>,
    ) -> Result<Vec<GenerationId>, StoreError>;

    /// A directory, and the name in it that is replaced when somebody switches; `None` where only [`current`](Self::current)
    /// tells. For inotify(7): a change of the name may also mean nothing.
    fn watched(&self) -> Option<(PathBuf, OsString)>;

    /// What a generation says of its service's data; nothing where it has no `hale-release.toml`, or the store keeps no directories.
    ///
    /// # Errors
    /// [`StoreError::Notes`]: what it says cannot be used. Or it is missing, or cannot be read.
    fn notes(&mut self, _id: &GenerationId) -> Result<ReleaseFile, StoreError> {
        Ok(ReleaseFile::default())
    }

    /// How one differs from another, in lines for people, without secrets; nothing where the store cannot tell.
    fn changes(&mut self, _from: &GenerationId, _to: &GenerationId) -> Vec<String> {
        Vec::new()
    }

    /// What takes new generations in, for another thread; `None` where they come by other ways.
    fn importer(&self) -> Option<Importer> {
        None
    }

    /// What reads generations beside all else that is done with the store, for another thread; `None` where only the store can.
    fn reader(&self) -> Option<Reader> {
        None
    }
}

/// Whether nothing more urgent waits.
pub type GoesOn<'a> = &'a dyn Fn() -> bool;

/// What cannot be protected, each with why.
pub type Unprotected = Vec<(GenerationId, StoreError)>;

/// Reads generations beside all else that is done with their store: nobody's switch waits for it.
#[derive(Debug, Clone)]
pub enum Reader {
    /// Hale's own releases.
    Releases(ReleaseReader),
    /// Paths of Nix.
    Nix(NixReader),
}

impl Reader {
    /// Reads all of a generation and compares it with its id. `pace` is told how many bytes were just read, may wait, and ends the reading
    /// by `false`; where Nix reads it is not asked.
    ///
    /// # Errors
    /// It is missing or damaged, or cannot be read; [`StoreError::Stopped`] where `pace` ended it.
    pub fn verify(&self, id: &GenerationId, pace: &mut dyn FnMut(usize) -> bool) -> Result<(), StoreError> {
        match self {
            Self::Releases(releases) => releases.verify(id, pace),
            Self::Nix(nix) => nix.verify(id),
        }
    }

    /// What there is to read in the background, newest first. `None`: nothing, because paths of Nix are Nix's own to read
    /// (`nix-store --verify --check-contents`), once for all who use them.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn list(&self) -> Result<Option<Vec<Kept>>, StoreError> {
        match self {
            Self::Releases(releases) => releases.list().map(Some),
            Self::Nix(_) => Ok(None),
        }
    }
}

/// A generation that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// What names it.
    pub id: GenerationId,
    /// When it came, or came last; `None` where the store does not know.
    pub came: Option<SystemTime>,
    /// What its last reading has found; `None` where it was not read, or nobody remembers it.
    pub read: Option<LastRead>,
}

/// From where a relative command of this generation is taken; `None` where the store keeps no directories. Touches nothing.
#[must_use]
pub fn root(kind: &StoreKind, state_dir: &Path, service: &Name, id: &GenerationId) -> Option<PathBuf> {
    match kind {
        StoreKind::Release => {
            Id::from_hex(id.as_str().as_bytes())?;
            Some(state_dir.join("releases").join(service.as_str()).join(id.as_str()))
        }
        StoreKind::NixProfile { .. } => Some(PathBuf::from(id.as_str())).filter(|path| path.is_absolute()),
        StoreKind::Command { .. } => None,
    }
}

/// Opens the place where this service's generations are kept. `owner` says whom releases belong to; `None` where Hale is not root.
///
/// # Errors
/// Another service or process has it open, or Hale's own files for it cannot be made.
pub fn open(
    kind: &StoreKind,
    state_dir: &Path,
    service: &Name,
    owner: Option<Owner>,
) -> Result<Box<dyn Generations>, StoreError> {
    Ok(match kind {
        StoreKind::Release => Box::new(Releases::open(state_dir, service, owner)?),
        StoreKind::NixProfile { profile } => {
            Box::new(NixProfile::open(Path::new(profile), state_dir, service, |name| std::env::var_os(name))?)
        }
        StoreKind::Command { list, current, stage, activate, revert } => {
            let [list, current, stage, activate, revert] = [list, current, stage, activate, revert].map(Vec::clone);
            Box::new(Commands::new(Programs { list, current, stage, activate, revert }, service))
        }
    })
}
