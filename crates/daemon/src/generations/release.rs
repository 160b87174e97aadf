//! The store `release`: Hale's own releases as generations.

use super::error::{StoreError, name_of};
use super::import::Limits;
use super::store::{Imported, Owner, Store};
use super::{Generations, Id, Kept, Towards};
use hale_core::ids::{GenerationId, Name};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, TryLockError};

/// The releases of one service.
#[derive(Debug)]
pub struct Releases {
    /// Written to by a removal alone: what is verified must not be removed before it is switched to.
    store: Arc<RwLock<Store>>,
    dir: PathBuf,
}

/// Takes releases in, beside what else is done with the store: a client that is slow holds up nobody's way back.
#[derive(Debug, Clone)]
pub struct Importer(Arc<RwLock<Store>>);

/// What an import has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// What names it.
    pub id: GenerationId,
    /// Whether it was not there.
    pub is_new: bool,
}

impl Importer {
    /// Makes a release of a tar, plain or compressed by gzip or zstd; see [`Store::import`]. Nothing is removed meanwhile.
    ///
    /// # Errors
    /// The archive is refused, or its release is there and damaged; nothing is left of it then. Or the disk failed.
    pub fn import(&self, from: impl Read, limits: &Limits) -> Result<Arrival, StoreError> {
        let store = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (release, is_new) = match store.import(from, limits)? {
            Imported::New(release) => (release, true),
            Imported::AlreadyThere(release) => (release, false),
        };
        Ok(Arrival { id: name_of(release.id()), is_new })
    }
}

impl Releases {
    /// See [`Store::open`].
    ///
    /// # Errors
    /// Another process has it open, or a directory cannot be made or opened.
    pub fn open(state_dir: &Path, service: &Name, owner: Option<Owner>) -> Result<Self, StoreError> {
        let store = Store::open(state_dir, service, owner)?;
        let dir = state_dir.join("releases").join(service.as_str());
        Ok(Self { store: Arc::new(RwLock::new(store)), dir })
    }

    fn with<T>(&self, work: impl FnOnce(&Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        // A panic leaves nothing half done in the store: it holds no state but an open directory and what it has verified.
        work(&self.store.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The hash that a release's id is.
fn hash(id: &GenerationId) -> Result<Id, StoreError> {
    let hash = Id::from_hex(id.as_str().as_bytes());
    hash.ok_or_else(|| StoreError::not_an_id(id, "a release is named by the 64 hexadecimal digits of its hash"))
}

impl Generations for Releases {
    fn list(&mut self) -> Result<Vec<Kept>, StoreError> {
        let mut listed = self.with(Store::list)?;
        listed.sort_by_key(|release| (Reverse(release.imported), release.id));
        Ok(listed.iter().map(|release| Kept { id: name_of(release.id), came: Some(release.imported) }).collect())
    }

    fn current(&mut self) -> Result<Option<GenerationId>, StoreError> {
        Ok(self.with(Store::current)?.map(name_of))
    }

    fn verify(&mut self, id: &GenerationId) -> Result<(), StoreError> {
        self.with(|store| store.verify(hash(id)?).map(drop))
    }

    /// Nobody else removes releases, so there is nothing to protect them from.
    fn prepare(&mut self, id: &GenerationId) -> Result<(), StoreError> {
        self.with(|store| store.ready(hash(id)?).map(drop))
    }

    fn activate(&mut self, id: &GenerationId, _towards: Towards) -> Result<(), StoreError> {
        self.with(|store| store.ready(hash(id)?)?.activate())
    }

    fn pin(&mut self, ids: &BTreeSet<GenerationId>) -> Result<(), StoreError> {
        self.with(|store| ids.iter().try_for_each(|id| store.find(hash(id)?)))
    }

    /// Removes nothing while an import is going on: the next time it does.
    fn retain(&mut self, keep: usize, pinned: &BTreeSet<GenerationId>) -> Result<Vec<GenerationId>, StoreError> {
        let newest_first = self.list()?;
        let mut store = match self.store.try_write() {
            Ok(store) => store,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(Vec::new()),
        };
        let current = store.current()?.map(name_of);
        let mut removed = Vec::new();
        for Kept { id, .. } in newest_first.into_iter().skip(keep) {
            if current.as_ref() != Some(&id) && !pinned.contains(&id) {
                store.remove(hash(&id)?, &BTreeSet::new())?;
                removed.push(id);
            }
        }
        Ok(removed)
    }

    fn root(&self, id: &GenerationId) -> Option<PathBuf> {
        Some(self.dir.join(hash(id).ok()?.to_string()))
    }

    fn watched(&self) -> Option<(PathBuf, OsString)> {
        Some((self.dir.clone(), super::store::CURRENT.into()))
    }

    fn importer(&self) -> Option<Importer> {
        Some(Importer(self.store.clone()))
    }
}
