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
    /// Reads all of a release and compares it with its id, beside whatever else is done with the store.
    ///
    /// # Errors
    /// See [`Store::verify`].
    pub fn verify(&self, id: &GenerationId) -> Result<(), StoreError> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).verify(hash(id)?).map(drop)
    }

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

    fn watched(&self) -> Option<(PathBuf, OsString)> {
        Some((self.dir.clone(), super::store::CURRENT.into()))
    }

    fn importer(&self) -> Option<Importer> {
        Some(Importer(self.store.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generations::open;
    use crate::generations::testing::{LIMITS, Tar};
    use hale_core::policy::StoreKind;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn tar(version: &str) -> Vec<u8> {
        Tar::default().file("bot", version).end()
    }

    fn bot() -> Name {
        Name::try_from("bot").unwrap()
    }

    fn place() -> (tempfile::TempDir, Box<dyn Generations>) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&StoreKind::Release, dir.path(), &bot(), None).unwrap();
        (dir, store)
    }

    fn imported(store: &dyn Generations, version: &str) -> GenerationId {
        store.importer().unwrap().import(&tar(version)[..], &LIMITS).unwrap().id
    }

    fn ids(store: &mut dyn Generations) -> BTreeSet<GenerationId> {
        store.list().unwrap().into_iter().map(|kept| kept.id).collect()
    }

    #[test]
    fn releases_are_generations() {
        let (dir, mut store) = place();
        let one = imported(&*store, "1");
        let again = store.importer().unwrap().import(&tar("1")[..], &LIMITS).unwrap();
        assert_eq!(again, Arrival { id: one.clone(), is_new: false });
        let two = imported(&*store, "2");
        assert_eq!(store.current().unwrap(), None);
        for (id, towards) in [(&one, Towards::New), (&two, Towards::New), (&two, Towards::New), (&one, Towards::Back)] {
            store.prepare(id).unwrap();
            store.activate(id, towards).unwrap();
            assert_eq!(store.current().unwrap().as_ref(), Some(id));
        }
        let root = crate::generations::root(&StoreKind::Release, dir.path(), &bot(), &one).unwrap();
        assert_eq!(fs::read_to_string(root.join("bot")).unwrap(), "1");
        let (watched, name) = store.watched().unwrap();
        assert_eq!(fs::canonicalize(watched.join(name)).unwrap(), fs::canonicalize(root).unwrap());
        assert_eq!(ids(&mut *store), BTreeSet::from([one, two]));
        assert!(dir.path().join("releases/bot").exists());
        let path = GenerationId::try_from("../../etc").unwrap();
        assert!(matches!(store.activate(&path, Towards::New), Err(StoreError::NotAnId { .. })));
        assert_eq!(crate::generations::root(&StoreKind::Release, dir.path(), &bot(), &path), None);
        let absent = name_of(Id::of(b"absent"));
        for missing in [store.activate(&absent, Towards::New), store.prepare(&absent), store.verify(&absent)] {
            assert!(matches!(missing, Err(StoreError::Missing(_))));
        }
        assert!(matches!(store.pin(&BTreeSet::from([absent])), Err(StoreError::Missing(_))));
    }

    #[test]
    fn what_is_needed_and_the_newest_are_kept() {
        let (dir, mut store) = place();
        let all: Vec<GenerationId> = (0..6)
            .map(|version| {
                let id = imported(&*store, &version.to_string());
                let seconds = rustix::fs::Timespec { tv_sec: 1_000_000 + version, tv_nsec: 0 };
                let times = rustix::fs::Timestamps { last_access: seconds, last_modification: seconds };
                let path = dir.path().join("releases/bot").join(id.as_str());
                rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty()).unwrap();
                id
            })
            .collect();
        let listed: Vec<GenerationId> = store.list().unwrap().into_iter().map(|kept| kept.id).collect();
        assert_eq!(listed, all.iter().rev().cloned().collect::<Vec<_>>());
        store.activate(&all[1], Towards::New).unwrap();
        let pinned = BTreeSet::from([all[2].clone()]);
        // An import is going on: nothing goes that it might be about to use.
        let importer = store.importer().unwrap();
        let held = importer.0.read().unwrap();
        assert_eq!(store.retain(2, &pinned).unwrap(), []);
        drop(held);
        assert_eq!(store.retain(2, &pinned).unwrap(), [all[3].clone(), all[0].clone()]);
        assert_eq!(ids(&mut *store), [1, 2, 4, 5].map(|at: usize| all[at].clone()).into());
        assert_eq!(store.retain(2, &pinned).unwrap(), []);
    }

    /// A client that never ends its archive does not hold up a way back.
    #[test]
    fn an_import_is_beside_everything_else() {
        let (_dir, mut store) = place();
        let (one, two) = (imported(&*store, "1"), imported(&*store, "2"));
        store.activate(&two, Towards::New).unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let importer = store.importer().unwrap();
        let import = std::thread::spawn(move || importer.import(reader, &LIMITS));
        let whole = Tar::default().file("big", &"x".repeat(1 << 20)).end();
        // More than a pipe holds is taken only by somebody who unpacks.
        std::io::Write::write_all(&mut writer, &whole[..whole.len() - 100_000]).unwrap();
        store.activate(&one, Towards::Back).unwrap();
        assert_eq!(store.retain(0, &BTreeSet::new()).unwrap(), []);
        store.verify(&two).unwrap();
        std::io::Write::write_all(&mut writer, &whole[whole.len() - 100_000..]).unwrap();
        drop(writer);
        assert!(import.join().unwrap().unwrap().is_new);
        assert_eq!(ids(&mut *store).len(), 3);
    }

    /// What was read is not read again, and whatever is written to it makes that end.
    #[test]
    fn a_change_after_the_verification_is_found_by_the_switch() {
        let (dir, mut store) = place();
        let id = imported(&*store, "1");
        let file = dir.path().join("releases/bot").join(id.as_str()).join("bot");
        let write = |text: &str| {
            let modified = file.metadata().unwrap().modified().unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
            fs::write(&file, text).unwrap();
            // As it was, as far as that can be set.
            fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
        };
        store.activate(&id, Towards::New).unwrap();
        write("2");
        for _ in 0..2 {
            assert!(matches!(store.activate(&id, Towards::New), Err(StoreError::Damaged { .. })));
        }
        write("1");
        store.activate(&id, Towards::New).unwrap();
        store.verify(&id).unwrap();
        write("2");
        assert!(matches!(store.prepare(&id), Err(StoreError::Damaged { .. })));
    }
}
