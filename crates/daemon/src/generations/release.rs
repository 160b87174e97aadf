//! The store `release`: Hale's own releases as generations.

use super::error::{StoreError, name_of};
use super::import::Limits;
use super::store::{Imported, Listed, Owner, Store};
use super::{Generations, GoesOn, Id, Kept, Reader, Towards, Unprotected};
use hale_config::ReleaseFile;
use hale_core::ids::{GenerationId, Name};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

/// The releases of one service.
#[derive(Debug)]
pub struct Releases {
    /// Written to by a removal alone: what is verified must not be removed before it is switched to.
    store: Arc<RwLock<Store>>,
    imports: Arc<Mutex<Imports>>,
    dir: PathBuf,
}

/// How many imports go on: a removal waits for whoever holds the store for a moment, and not for these. None begins while it is locked.
#[derive(Debug, Default)]
struct Imports(usize);

/// Takes releases in, beside what else is done with the store: a client that is slow holds up nobody's way back.
#[derive(Debug, Clone)]
pub struct Importer {
    store: Arc<RwLock<Store>>,
    imports: Arc<Mutex<Imports>>,
}

/// One import, until it is dropped.
struct Importing<'a>(&'a Mutex<Imports>);

impl<'a> Importing<'a> {
    fn begin(imports: &'a Mutex<Imports>) -> Self {
        imports.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
        Self(imports)
    }
}

impl Drop for Importing<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 -= 1;
    }
}

/// Reads releases. A store that is closed meanwhile is not kept open for it: the next one of the same service must not find it locked.
#[derive(Debug, Clone)]
pub struct ReleaseReader(Weak<RwLock<Store>>);

impl ReleaseReader {
    /// Reads all of a release and compares it with its id, beside whatever else is done with the store: it is held for neither a
    /// switch nor a removal. `pace` is told how many bytes were just read, may wait, and ends the reading by `false`.
    ///
    /// # Errors
    /// See [`Store::verify`]; [`StoreError::Stopped`] where `pace` ended it or the store was closed, and [`StoreError::Missing`] where
    /// the release was removed meanwhile.
    pub fn verify(&self, id: &GenerationId, pace: &mut dyn FnMut(usize) -> bool) -> Result<(), StoreError> {
        let id = hash(id)?;
        let mut reading = self.with(|store| store.begin(id))?;
        let read = reading.read(pace);
        if read.is_ok() && !self.with(|store| Ok(store.is_synced(&reading)))? {
            reading.sync()?;
        }
        self.with(|store| store.conclude(reading, read).map(drop))
    }

    /// All releases that are there, newest first, each with what its last reading has found.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> Result<Vec<Kept>, StoreError> {
        self.with(listed)
    }

    fn with<T>(&self, work: impl FnOnce(&Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let store = self.0.upgrade().ok_or(StoreError::Stopped)?;
        let store = store.read().unwrap_or_else(PoisonError::into_inner);
        work(&store)
    }
}

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
        let _importing = Importing::begin(&self.imports);
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
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
        Ok(Self { store: Arc::new(RwLock::new(store)), imports: Arc::default(), dir })
    }

    fn with<T>(&self, work: impl FnOnce(&Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        // A panic leaves nothing half done in the store: it holds no state but an open directory and what it has verified.
        work(&self.store.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn listed(store: &Store) -> Result<Vec<Kept>, StoreError> {
    let mut listed = store.list()?;
    listed.sort_by_key(|release| (Reverse(release.imported), release.id));
    let kept = |Listed { id, imported }| Kept { id: name_of(id), came: Some(imported), read: store.last_read(id) };
    Ok(listed.into_iter().map(kept).collect())
}

/// The hash that a release's id is.
fn hash(id: &GenerationId) -> Result<Id, StoreError> {
    let hash = Id::from_hex(id.as_str().as_bytes());
    hash.ok_or_else(|| StoreError::not_an_id(id, "a release is named by the 64 hexadecimal digits of its hash"))
}

impl Generations for Releases {
    fn list(&mut self) -> Result<Vec<Kept>, StoreError> {
        self.with(listed)
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

    fn pin(&mut self, ids: &BTreeSet<GenerationId>, _goes_on: GoesOn<'_>) -> Result<Unprotected, StoreError> {
        let missing =
            |id: &GenerationId| self.with(|store| store.find(hash(id)?)).err().map(|error| (id.clone(), error));
        Ok(ids.iter().filter_map(missing).collect())
    }

    /// Removes nothing while an import is going on: the next time it does.
    fn retain(
        &mut self,
        keep: usize,
        pinned: &BTreeSet<GenerationId>,
        goes_on: GoesOn<'_>,
    ) -> Result<Vec<GenerationId>, StoreError> {
        let newest_first = self.list()?;
        let imports = self.imports.lock().unwrap_or_else(PoisonError::into_inner);
        if imports.0 > 0 {
            return Ok(Vec::new());
        }
        let mut store = self.store.write().unwrap_or_else(PoisonError::into_inner);
        let current = store.current()?.map(name_of);
        let mut removed = Vec::new();
        for Kept { id, .. } in newest_first.into_iter().skip(keep) {
            if current.as_ref() != Some(&id) && !pinned.contains(&id) {
                if !goes_on() {
                    return Err(StoreError::Stopped);
                }
                store.remove(hash(&id)?, &BTreeSet::new())?;
                removed.push(id);
            }
        }
        Ok(removed)
    }

    fn watched(&self) -> Option<(PathBuf, OsString)> {
        Some((self.dir.clone(), super::store::CURRENT.into()))
    }

    fn notes(&mut self, id: &GenerationId) -> Result<ReleaseFile, StoreError> {
        self.with(|store| store.notes(hash(id)?))
    }

    fn importer(&self) -> Option<Importer> {
        Some(Importer { store: self.store.clone(), imports: self.imports.clone() })
    }

    fn reader(&self) -> Option<Reader> {
        Some(Reader::Releases(ReleaseReader(Arc::downgrade(&self.store))))
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
        assert_eq!(ids(&mut *store), BTreeSet::from([one.clone(), two]));
        assert!(dir.path().join("releases/bot").exists());
        let path = GenerationId::try_from("../../etc").unwrap();
        assert!(matches!(store.activate(&path, Towards::New), Err(StoreError::NotAnId { .. })));
        assert_eq!(crate::generations::root(&StoreKind::Release, dir.path(), &bot(), &path), None);
        let absent = name_of(Id::of(b"absent"));
        for missing in [store.activate(&absent, Towards::New), store.prepare(&absent), store.verify(&absent)] {
            assert!(matches!(missing, Err(StoreError::Missing(_))));
        }
        let unprotected = store.pin(&BTreeSet::from([absent.clone(), one]), &|| true).unwrap();
        assert!(matches!(&unprotected[..], [(id, StoreError::Missing(_))] if *id == absent), "{unprotected:?}");
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
        let held = Importing::begin(&importer.imports);
        assert_eq!(store.retain(2, &pinned, &|| true).unwrap(), []);
        drop(held);
        assert_eq!(store.retain(2, &pinned, &|| true).unwrap(), [all[3].clone(), all[0].clone()]);
        assert_eq!(ids(&mut *store), [1, 2, 4, 5].map(|at: usize| all[at].clone()).into());
        assert_eq!(store.retain(2, &pinned, &|| true).unwrap(), []);
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
        assert_eq!(store.retain(0, &BTreeSet::new(), &|| true).unwrap(), []);
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

    /// A reading holds nothing up: neither a switch nor a removal, which ends it.
    #[test]
    fn a_reading_in_the_background_is_in_nobodys_way() {
        let (dir, mut store) = place();
        let (one, two) = (imported(&*store, "1"), imported(&*store, "2"));
        let reader = store.reader().unwrap();
        let last_read = |reader: &Reader, id: &GenerationId| {
            let listed = reader.list().unwrap().unwrap();
            listed.into_iter().find(|kept| kept.id == *id).unwrap().read.unwrap()
        };
        let before = last_read(&reader, &one);
        let stopped = reader.verify(&one, &mut |_| {
            store.activate(&one, Towards::New).unwrap();
            store.activate(&two, Towards::New).unwrap();
            false
        });
        assert!(matches!(stopped, Err(StoreError::Stopped)), "{stopped:?}");
        assert_eq!(last_read(&reader, &one), before, "what was known of it counts");
        let removed = reader.verify(&one, &mut |_| {
            let removed = store.retain(0, &BTreeSet::new(), &|| true).unwrap();
            assert_eq!(removed, std::slice::from_ref(&one));
            true
        });
        assert!(matches!(removed, Err(StoreError::Missing(_)) | Err(StoreError::Io { .. })), "{removed:?}");
        // Another release has its name by now: that one was not read.
        let again = imported(&*store, "1");
        let replaced = reader.verify(&again, &mut |_| {
            let dir = dir.path().join("releases/bot");
            fs::rename(dir.join(again.as_str()), dir.join("away")).unwrap();
            fs::create_dir(dir.join(again.as_str())).unwrap();
            true
        });
        assert!(matches!(replaced, Err(StoreError::Missing(_))), "{replaced:?}");
        drop(store);
        assert!(matches!(reader.list(), Err(StoreError::Stopped)), "it does not keep the store open");
    }

    #[test]
    fn a_removal_makes_way_for_what_is_more_urgent() {
        let (_dir, mut store) = place();
        (0..3).for_each(|version| drop(imported(&*store, &version.to_string())));
        let left = std::cell::Cell::new(1);
        let goes_on = || left.replace(0) > 0;
        assert!(matches!(store.retain(0, &BTreeSet::new(), &goes_on), Err(StoreError::Stopped)));
        assert_eq!(ids(&mut *store).len(), 2, "one was begun, and is gone as a whole");
    }
}
