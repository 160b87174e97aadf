//! The releases of one service on the disk: imported, verified, switched to, removed, and whole after any crash.

use super::Id;
use super::beneath::{names, open, open_dir, random_name, remove};
use super::error::{Change, Drift, StoreError, io, name_of, shown};
use super::import::{Limits, room, unpack};
use super::manifest::Manifest;
use super::notes;
use super::tree::{self, Look, Pace};
use hale_config::ReleaseFile;
use hale_core::ids::Name;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, Uid, fchmod, fchown, flock, fstat, fsync, linkat, mkdirat,
    readlinkat, renameat, statat, symlinkat, syncfs, unlinkat,
};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub(super) const CURRENT: &str = "current";
/// What is not yet or no longer a release begins with one of these.
const IMPORTING: &str = ".import-";
const REMOVING: &str = ".remove-";
const MANIFEST: &str = ".manifest";
/// Before a release's id: a link to it that is there in advance. ext4 takes a block for a link of 64 characters, and a way
/// back has to be open when the disk is full (the link becomes `current` by a rename, which takes nothing).
const LINK: &str = ".link-";

/// Others may pass, to get to their own service's releases.
const RELEASES_MODE: Mode = Mode::from_raw_mode(0o711);
/// Who runs the service may read, and nobody else.
const SERVICE_MODE: Mode = Mode::from_raw_mode(0o750);

/// 128 MiB: the longest names in their longest spelling, and what stands beside them in each line.
const MANIFEST_BYTES_MAX: u64 = 128 << 20;

/// Who a service's directory belongs to. Releases are read by the group: the service's. The user has to be one whom the
/// service is not, because the owner of the directory can replace what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// How long a release counts as verified if nobody has written to it: two days, so that one that is read every day, as the scrub
/// does, can always be switched to without being read. What a disk loses without a write is found by reading alone.
const VERIFIED_FOR: Duration = Duration::from_secs(2 * 24 * 3600);

/// The releases of one service. Locked: a second one of the same service cannot be opened.
#[derive(Debug)]
pub struct Store {
    dir: OwnedFd,
    /// Those that this process has read: at most as many as there are.
    read: Mutex<BTreeMap<Id, Mark>>,
}

/// What was found when a release was read, and how its files looked to the kernel before that, where that could be told.
#[derive(Debug, Clone)]
struct Mark {
    look: Option<Look>,
    at: Instant,
    at_wall: SystemTime,
    found: Found,
}

#[derive(Debug, Clone)]
enum Found {
    Whole,
    Damaged {
        drift: Vec<Drift>,
        more: usize,
    },
    /// In the system's words: another try may succeed.
    Unreadable(String),
}

/// The last time that this process has read a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastRead {
    /// When.
    pub at: Instant,
    /// The same, as the wall clock showed it.
    pub at_wall: SystemTime,
    /// What is wrong with it, if something is.
    pub fault: Option<String>,
}

/// A release that is being read. It may be removed meanwhile.
#[derive(Debug)]
pub(super) struct Reading {
    id: Id,
    root: OwnedFd,
    look: Result<Look, StoreError>,
    is_synced: bool,
}

impl Reading {
    /// Waits until all that was written is on the disk: also what others have written.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        syncfs(&self.root).map_err(|error| io(format!("sync release {}", self.id), error))?;
        self.is_synced = true;
        Ok(())
    }

    /// Reads all of it.
    pub(super) fn read(&self, pace: Pace<'_>) -> Result<(Manifest, Vec<Drift>), StoreError> {
        tree::manifest(self.root.as_fd(), pace).map_err(|error| beyond_a_release(self.id, error))
    }
}

/// A release that is there and is what its id says. Only such a one can be activated, and none can be removed meanwhile.
#[derive(Debug)]
pub struct Verified<'a> {
    store: &'a Store,
    id: Id,
}

/// What became of an archive.
#[derive(Debug)]
pub enum Imported<'a> {
    /// A release that was not there.
    New(Verified<'a>),
    /// The same content had been imported before, and is undamaged.
    AlreadyThere(Verified<'a>),
}

impl<'a> Imported<'a> {
    /// The release, in both cases.
    #[must_use]
    pub fn into_release(self) -> Verified<'a> {
        match self {
            Self::New(release) | Self::AlreadyThere(release) => release,
        }
    }
}

/// A release that is there, verified or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// What names it.
    pub id: Id,
    /// When it was imported first.
    pub imported: SystemTime,
}

impl Store {
    /// Opens the service's releases below `state_dir`, made if they are missing, and removes what was left behind when an
    /// import, a removal or a switch was killed. `owner` is `None` where Hale is not root.
    ///
    /// # Errors
    /// Another process has it open, or a directory cannot be made or opened.
    pub fn open(state_dir: &Path, service: &Name, owner: Option<Owner>) -> Result<Self, StoreError> {
        let what = || format!("open the releases of {service} below {}", state_dir.display());
        let flags = i32::try_from(OFlags::DIRECTORY.bits()).unwrap_or(0);
        let state =
            File::options().read(true).custom_flags(flags).open(state_dir).map_err(|error| io(what(), error))?;
        let open = || {
            let releases = made_dir(&state, "releases", RELEASES_MODE, None)?;
            made_dir(releases, service.as_str(), SERVICE_MODE, owner)
        };
        let dir = open().map_err(|error| io(what(), error))?;
        flock(&dir, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => StoreError::Busy,
            other => io(what(), other),
        })?;
        let store = Self { dir, read: Mutex::default() };
        store.clean().map_err(|error| io(what(), error))?;
        Ok(store)
    }

    /// What cannot be removed stays and is tried again the next time: it is in nobody's way, and a way back must not depend
    /// on it.
    fn clean(&self) -> Result<(), Errno> {
        let names: BTreeSet<Vec<u8>> = names(&self.dir)?.into_iter().collect();
        for name in &names {
            let is_leftover = [IMPORTING, REMOVING].iter().any(|prefix| name.starts_with(prefix.as_bytes()));
            let beside = name.strip_suffix(MANIFEST.as_bytes()).or_else(|| name.strip_prefix(LINK.as_bytes()));
            let of = beside.filter(|id| Id::from_hex(id).is_some());
            if is_leftover || of.is_some_and(|id| !names.contains(id)) {
                let _tried_again = remove(&self.dir, name);
            }
        }
        let mut are_new = false;
        for id in names.iter().filter_map(|name| Id::from_hex(name)) {
            // Where it cannot be made now, a switch tries again.
            are_new |= prepare_link(&self.dir, id).unwrap_or(false);
        }
        if are_new {
            // Where that fails, a switch syncs the directory all the same.
            let _tried_again = syncfs(&self.dir);
        }
        Ok(())
    }

    /// Makes a release of a tar, plain or compressed by gzip or zstd. Reads to the end of the stream, and blocks as long as
    /// that does.
    ///
    /// # Errors
    /// The archive is refused, or its release is there and damaged; nothing is left of it then. Or the disk failed.
    pub fn import(&self, from: impl Read, limits: &Limits) -> Result<Imported<'_>, StoreError> {
        room(self.dir.as_fd(), "a release", 0, limits)?;
        let staging = Staging::new(&self.dir)?;
        let manifest = unpack(staging.root.as_fd(), from, limits)?;
        // Whoever brings it is told at once, and not when it is switched to.
        notes::read(&staging.root)?;
        let id = manifest.id();
        if self.has(id)? {
            return self.verify(id).map(Imported::AlreadyThere);
        }
        let text = manifest.to_text();
        room(self.dir.as_fd(), "the release's manifest", text.len() as u64, limits)?;
        staging.settle(id, text.as_bytes())?;
        let look = tree::look(self.root(id)?.as_fd())?;
        Ok(Imported::New(self.mark(id, look)))
    }

    /// Reads all of a release and compares it with its id. It is on the disk then.
    ///
    /// # Errors
    /// It is missing, damaged, or cannot be read.
    pub fn verify(&self, id: Id) -> Result<Verified<'_>, StoreError> {
        let reading = self.begin(id)?;
        let read = reading.read(&mut |_| true);
        self.conclude(reading, read)
    }

    /// Begins to read a release, which goes on without the store.
    pub(super) fn begin(&self, id: Id) -> Result<Reading, StoreError> {
        let root = self.root(id).inspect_err(|_| drop(self.marks().remove(&id)))?;
        // Before it is read: what is written meanwhile makes the next look another one.
        let look = tree::look(root.as_fd()).map_err(|error| beyond_a_release(id, error));
        Ok(Reading { id, root, look, is_synced: false })
    }

    /// What a reading has found, put down: it counts for the next [`ready`](Self::ready), also that a release is damaged.
    pub(super) fn conclude(
        &self,
        mut reading: Reading,
        read: Result<(Manifest, Vec<Drift>), StoreError>,
    ) -> Result<Verified<'_>, StoreError> {
        let id = reading.id;
        let now = self.root(id)?;
        if !is_same(&reading.root, &now).map_err(|error| io(format!("look at release {id}"), error))? {
            return Err(StoreError::Missing(id));
        }
        let judged = read.and_then(|(found, drift)| self.judge(id, &found, drift));
        if judged.is_ok() && !self.is_synced(&reading) {
            reading.sync()?;
        }
        let (look, outcome) = match (reading.look, judged) {
            // Neither is a word about the release.
            (_, Err(StoreError::Stopped)) => return Err(StoreError::Stopped),
            (Ok(look), Ok(())) => (Some(look), Ok(())),
            (Err(error), Ok(())) => (None, Err(error)),
            (look, Err(error)) => (look.ok(), Err(error)),
        };
        let found = match &outcome {
            Ok(()) => Found::Whole,
            Err(StoreError::Damaged { drift, more, .. }) => Found::Damaged { drift: drift.clone(), more: *more },
            Err(error) => Found::Unreadable(error.to_string()),
        };
        self.marks().insert(id, Mark { look, at: Instant::now(), at_wall: SystemTime::now(), found });
        outcome.map(|()| Verified { store: self, id })
    }

    /// Whether what was found is what the id says.
    fn judge(&self, id: Id, found: &Manifest, mut drift: Vec<Drift>) -> Result<(), StoreError> {
        if found.id() != id {
            match self.manifest(id)? {
                Some(manifest) => drift.extend(manifest.changes(found)),
                None => drift.push(Drift::new(b"", Change::Unknown)),
            }
        } else if drift.is_empty() {
            return Ok(());
        }
        Err(damaged(id, drift))
    }

    /// Whether a whole release is on the disk. An import has synced it: its link is made after all of it, before that sync, and touched
    /// again only by a switch, which follows on a verification. So only what was changed after its link is not: what came by another way
    /// than an import. ext4 and others may keep a later rename and lose that.
    pub(super) fn is_synced(&self, reading: &Reading) -> bool {
        let Reading { id, look: Ok(look), is_synced, .. } = reading else { return false };
        let link = statat(&self.dir, link_name(*id), AtFlags::SYMLINK_NOFOLLOW);
        *is_synced || link.is_ok_and(|link| tree::change_time(&link) >= look.changed)
    }

    /// The release without reading it, if this process has read it lately and nobody has written to it since; else as
    /// [`verify`](Self::verify). What was found damaged is so without another reading, too.
    ///
    /// # Errors
    /// It is missing, damaged, or cannot be read.
    pub fn ready(&self, id: Id) -> Result<Verified<'_>, StoreError> {
        let mark = self.marks().get(&id).cloned().filter(|mark| mark.at.elapsed() < VERIFIED_FOR);
        let Some(Mark { look: Some(look), found, .. }) = mark else { return self.verify(id) };
        if tree::look(self.root(id)?.as_fd()).ok() != Some(look) {
            return self.verify(id);
        }
        match found {
            Found::Whole => Ok(Verified { store: self, id }),
            Found::Damaged { drift, more } => Err(StoreError::Damaged { id, drift, more }),
            Found::Unreadable(_) => self.verify(id),
        }
    }

    /// What the last reading of a release has found; `None` where this process has not read it.
    #[must_use]
    pub fn last_read(&self, id: Id) -> Option<LastRead> {
        let marks = self.marks();
        let Mark { at, at_wall, found, .. } = marks.get(&id)?;
        let fault = match found {
            Found::Whole => None,
            Found::Damaged { drift, more } => {
                Some(StoreError::Damaged { id, drift: drift.clone(), more: *more }.to_string())
            }
            Found::Unreadable(error) => Some(error.clone()),
        };
        Some(LastRead { at: *at, at_wall: *at_wall, fault })
    }

    fn mark(&self, id: Id, look: Look) -> Verified<'_> {
        let mark = Mark { look: Some(look), at: Instant::now(), at_wall: SystemTime::now(), found: Found::Whole };
        self.marks().insert(id, mark);
        Verified { store: self, id }
    }

    fn marks(&self) -> MutexGuard<'_, BTreeMap<Id, Mark>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The release's directory, whatever is in it.
    fn root(&self, id: Id) -> Result<OwnedFd, StoreError> {
        match open_dir(&self.dir, id.to_string().as_bytes()) {
            Err(Errno::NOENT) => Err(StoreError::Missing(id)),
            // Something else has its name.
            Err(Errno::NOTDIR | Errno::LOOP) => Err(damaged(id, vec![Drift::new(b"", Change::Content)])),
            other => other.map_err(|error| io(format!("open release {id}"), error)),
        }
    }

    /// Whether there is such a release, verified or not.
    ///
    /// # Errors
    /// There is not, or it cannot be told.
    pub fn find(&self, id: Id) -> Result<(), StoreError> {
        self.root(id).map(drop)
    }

    /// What a release says of its service's data. The release is not verified for it.
    ///
    /// # Errors
    /// [`StoreError::Notes`]: what it says cannot be used. Or it is missing, or cannot be read.
    pub fn notes(&self, id: Id) -> Result<ReleaseFile, StoreError> {
        notes::read(self.root(id)?)
    }

    /// The manifest that was written beside the release; `None` if it is gone or another one.
    fn manifest(&self, id: Id) -> Result<Option<Manifest>, StoreError> {
        let failed = |error| io(format!("read the manifest of release {id}"), error);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = match open(&self.dir, manifest_name(id).as_bytes(), flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
            other => File::from(other.map_err(|error| failed(error.into()))?),
        };
        let mut text = Vec::new();
        file.take(MANIFEST_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
        let text = Some(text).filter(|text| Id::of(text) == id).and_then(|text| String::from_utf8(text).ok());
        Ok(text.and_then(|text| Manifest::from_text(&text)))
    }

    /// The release that `current` names, whether or not it is there; `None` before the first one.
    ///
    /// # Errors
    /// `current` is nothing that Hale made, or cannot be read.
    pub fn current(&self) -> Result<Option<Id>, StoreError> {
        let target = match readlinkat(&self.dir, CURRENT, Vec::new()) {
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::INVAL) => return Err(StoreError::ForeignCurrent("is no symbolic link".into())),
            other => other.map_err(|error| io("read `current`", error))?,
        };
        let id = Id::from_hex(target.to_bytes());
        id.map(Some).ok_or_else(|| StoreError::ForeignCurrent(format!("leads to {}", shown(target.to_bytes()))))
    }

    /// All releases that are there, in no order.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let failed = |error| io("list the releases", error);
        let mut all = Vec::new();
        for name in names(&self.dir).map_err(failed)? {
            let Some(id) = Id::from_hex(&name) else { continue };
            let stat = statat(&self.dir, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            // The directory itself is written to for the last time by the import.
            let since_1970 = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                all.push(Listed { id, imported: SystemTime::UNIX_EPOCH + since_1970 });
            }
        }
        Ok(all)
    }

    /// Removes a release that is neither current nor in `pinned`.
    ///
    /// # Errors
    /// It is, it is missing, `current` cannot be told, or the disk failed.
    pub fn remove(&mut self, id: Id, pinned: &BTreeSet<Id>) -> Result<(), StoreError> {
        if self.current()? == Some(id) {
            return Err(StoreError::IsCurrent(id));
        }
        if pinned.contains(&id) {
            return Err(StoreError::IsPinned(id));
        }
        let failed = |error| io(format!("remove release {id}"), error);
        self.marks().remove(&id);
        let gone = random_name(REMOVING).map_err(failed)?;
        // At once: what is half removed never has the name of a release.
        match renameat(&self.dir, id.to_string(), &self.dir, &gone) {
            Err(Errno::NOENT) => return Err(StoreError::Missing(id)),
            other => other.map_err(failed)?,
        }
        fsync(&self.dir).map_err(failed)?;
        remove(&self.dir, gone.as_bytes()).map_err(failed)?;
        for beside in [manifest_name(id), link_name(id)] {
            match unlinkat(&self.dir, beside, AtFlags::empty()) {
                Err(Errno::NOENT) => {}
                other => other.map_err(failed)?,
            }
        }
        fsync(&self.dir).map_err(failed)
    }

    fn has(&self, id: Id) -> Result<bool, StoreError> {
        match statat(&self.dir, id.to_string(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(io(format!("look for release {id}"), error)),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // A child that another thread is just starting has the lock's descriptor too, until its program runs.
        let _ends_with_its_descriptors = flock(&self.dir, FlockOperation::Unlock);
    }
}

impl Verified<'_> {
    /// What names it.
    #[must_use]
    pub fn id(&self) -> Id {
        self.id
    }

    /// Makes it the current one, in one step: who follows `current` gets the one before or this one, also after a loss of power.
    ///
    /// # Errors
    /// [`StoreError::NotDurable`] when it was switched and may not stay so; with any other error it was not.
    pub fn activate(self) -> Result<(), StoreError> {
        let Self { store: Store { dir, .. }, id } = self;
        let failed = |error| io(format!("switch `current` to {id}"), error);
        // What somebody made by hand is not replaced.
        self.store.current()?;
        // The tree is on the disk since it was verified, and so is a link that was made in advance. A whole `syncfs` here would
        // wait for whatever else is being written to the same disk.
        if prepare_link(dir, id).map_err(failed)? {
            syncfs(dir).map_err(failed)?;
        }
        renameat(dir, link_name(id), dir, CURRENT).map_err(failed)?;
        fsync(dir).map_err(|error| StoreError::NotDurable { id: name_of(id), source: error.into() })?;
        // For the way back to this one: another name of the same link. Whatever hinders it now, the next one makes it.
        let _made_by_the_next = linkat(dir, CURRENT, dir, link_name(id), AtFlags::empty());
        Ok(())
    }
}

fn manifest_name(id: Id) -> String {
    format!("{id}{MANIFEST}")
}

fn link_name(id: Id) -> String {
    format!("{LINK}{id}")
}

/// Sees to it that there is a link to the release beside it; whether it was made now.
fn prepare_link(dir: &OwnedFd, id: Id) -> Result<bool, Errno> {
    match readlinkat(dir, link_name(id), Vec::new()) {
        Ok(target) if target.to_bytes() == id.to_hex() => return Ok(false),
        Ok(_) | Err(Errno::INVAL) => remove(dir, link_name(id).as_bytes())?,
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    symlinkat(id.to_string(), dir, link_name(id)).map(|()| true)
}

/// More than a release can have is damage.
fn beyond_a_release(id: Id, error: StoreError) -> StoreError {
    match error {
        StoreError::Entry { name, .. } => damaged(id, vec![Drift { name, change: Change::Extra }]),
        StoreError::Archive(_) => damaged(id, vec![Drift::new(b"", Change::Extra)]),
        other => other,
    }
}

fn is_same(a: impl AsFd, b: impl AsFd) -> Result<bool, Errno> {
    let (a, b) = (fstat(a)?, fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

fn damaged(id: Id, mut drift: Vec<Drift>) -> StoreError {
    drift.sort_by(|a, b| (&a.name, a.change).cmp(&(&b.name, b.change)));
    drift.dedup();
    let more = drift.len().saturating_sub(Drift::SHOWN_MAX);
    drift.truncate(Drift::SHOWN_MAX);
    StoreError::Damaged { id, drift, more }
}

/// Opens a directory, made if it is missing; its mode and owner are the given ones then, whatever they were.
pub(super) fn made_dir(parent: impl AsFd, name: &str, mode: Mode, owner: Option<Owner>) -> Result<OwnedFd, Errno> {
    match mkdirat(&parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let dir = open_dir(parent, name.as_bytes())?;
    let stat = fstat(&dir)?;
    // First the owner: a change of it takes bits of the mode away.
    if let Some(Owner { uid, gid }) = owner.filter(|owner| (owner.uid, owner.gid) != (stat.st_uid, stat.st_gid)) {
        fchown(&dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    if Mode::from_raw_mode(stat.st_mode) != mode {
        fchmod(&dir, mode)?;
    }
    Ok(dir)
}

/// A tree that is being made; without [`Staging::settle`] it goes.
struct Staging<'a> {
    dir: &'a OwnedFd,
    name: String,
    root: OwnedFd,
}

impl<'a> Staging<'a> {
    fn new(dir: &'a OwnedFd) -> Result<Self, StoreError> {
        let failed = |error| io("make a directory for the import", error);
        let name = random_name(IMPORTING).map_err(failed)?;
        mkdirat(dir, &name, Mode::RWXU).map_err(failed)?;
        let root = open_dir(dir, name.as_bytes()).map_err(failed)?;
        Ok(Self { dir, name, root })
    }

    fn manifest_name(&self) -> String {
        format!("{}{MANIFEST}", self.name)
    }

    /// Gives the tree its name, once it is on the disk with all that is in it.
    fn settle(self, id: Id, manifest: &[u8]) -> Result<(), StoreError> {
        let failed = |error| io(format!("keep release {id}"), error);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = open(self.dir, self.manifest_name().as_bytes(), flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        let mut file = File::from(file);
        file.write_all(manifest).map_err(|error| io(format!("write the manifest of release {id}"), error))?;
        fchmod(&file, tree::FILE_MODE).map_err(failed)?;
        prepare_link(self.dir, id).map_err(failed)?;
        syncfs(self.dir).map_err(failed)?;
        // The tree last: with its name there is a release, and its manifest is there already.
        renameat(self.dir, self.manifest_name(), self.dir, manifest_name(id)).map_err(failed)?;
        fsync(self.dir).map_err(failed)?;
        renameat(self.dir, &self.name, self.dir, id.to_string()).map_err(failed)?;
        fsync(self.dir).map_err(failed)
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        for name in [self.name.clone(), self.manifest_name()] {
            let _gone_or_removed_by_open = remove(self.dir, name.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generations::testing::{LIMITS, Place, Tar, gzip, import, zstd};
    use crate::generations::{ArchiveFault, EntryFault};
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use tar::EntryType;

    fn bot(version: &str) -> Vec<u8> {
        let program = |header: &mut tar::Header| header.set_mode(0o755);
        let tar = Tar::default().entry(EntryType::Regular, b"bin/bot", version.as_bytes(), program);
        tar.file("etc/conf", "a=1").link("bin/start", "bot").end()
    }

    fn imported(store: &Store, version: &str) -> Id {
        import(store, &bot(version)[..]).unwrap().into_release().id()
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_release_is_made_switched_to_and_removed() {
        let place = Place::new();
        let mut store = place.open().unwrap();
        assert_eq!((store.current().unwrap(), store.list().unwrap()), (None, vec![]));
        let one = imported(&store, "1");
        let other = import(&store, &gzip(&bot("2"))[..]).unwrap().into_release().id();
        assert!(matches!(import(&store, &zstd(&bot("1"))[..]), Ok(Imported::AlreadyThere(there)) if there.id() == one));
        store.verify(one).unwrap().activate().unwrap();
        assert_eq!(store.current().unwrap(), Some(one));
        assert_eq!(fs::read_link(place.path("current")).unwrap(), Path::new(&one.to_string()));
        assert_eq!(fs::read_to_string(place.path("current/bin/start")).unwrap(), "1");
        assert!(matches!(store.remove(one, &BTreeSet::new()), Err(StoreError::IsCurrent(id)) if id == one));
        assert!(matches!(store.remove(other, &BTreeSet::from([other])), Err(StoreError::IsPinned(id)) if id == other));
        store.verify(other).unwrap().activate().unwrap();
        let listed: BTreeSet<Id> = store.list().unwrap().iter().map(|listed| listed.id).collect();
        assert_eq!(listed, BTreeSet::from([one, other]));
        let last_hour = SystemTime::now() - Duration::from_secs(3600);
        assert!(store.list().unwrap().iter().all(|listed| listed.imported > last_hour));
        store.remove(one, &BTreeSet::from([other])).unwrap();
        assert!(matches!(store.remove(one, &BTreeSet::new()), Err(StoreError::Missing(id)) if id == one));
        assert!(matches!(store.verify(one), Err(StoreError::Missing(id)) if id == one));
        assert_eq!(place.names(), sorted(with_beside(other, ["current".into()])));
        assert_eq!(place.path("").metadata().unwrap().mode() & 0o7777, 0o750);
        assert_eq!(place.path("..").metadata().unwrap().mode() & 0o7777, 0o711);
    }

    fn sorted(mut names: Vec<String>) -> Vec<String> {
        names.sort();
        names
    }

    /// A release, what belongs to it, and other names.
    fn with_beside<const N: usize>(id: Id, others: [String; N]) -> Vec<String> {
        [id.to_string(), manifest_name(id), link_name(id)].into_iter().chain(others).collect()
    }

    #[test]
    fn nothing_is_left_of_a_refused_import() {
        let place = Place::new();
        let store = place.open().unwrap();
        let late = |tar: Tar| tar.dir("deep/er").file("deep/er/file", "x").entry(EntryType::Fifo, b"fifo", b"", |_| {});
        for refused in [
            late(Tar::default()).end(),
            Tar::default().file("a", "x").link("out", "/etc").end(),
            bot("1")[..1024].to_vec(),
        ] {
            import(&store, &refused[..]).unwrap_err();
            assert_eq!(place.names(), [""; 0]);
        }
        let no_room = store.import(&bot("1")[..], &Limits { reserve_bytes: u64::MAX, ..LIMITS });
        assert!(matches!(no_room, Err(StoreError::NoRoom { .. })));
        assert_eq!(place.names(), [""; 0]);
    }

    #[test]
    fn what_a_kill_left_behind_is_removed_by_the_next_open() {
        let place = Place::new();
        let store = place.open().unwrap();
        let id = imported(&store, "1");
        store.verify(id).unwrap().activate().unwrap();
        drop(store);
        let orphan = format!("{}.manifest", Id::of(b"orphan"));
        for name in [".import-1/a/b", ".remove-2/a", "kept"] {
            fs::create_dir_all(place.path(name)).unwrap();
        }
        for name in [".import-1/a/b/c", ".import-1.manifest", &orphan, "notes.manifest"] {
            fs::write(place.path(name), "x").unwrap();
        }
        chmod(&place.path(".import-1/a/b"), 0o555);
        symlink("orphan", place.path(link_name(Id::of(b"orphan")))).unwrap();
        fs::remove_file(place.path(link_name(id))).unwrap();
        let store = place.open().unwrap();
        let kept = ["current", "kept", "notes.manifest"].map(String::from);
        assert_eq!(place.names(), sorted(with_beside(id, kept)));
        store.verify(id).unwrap();
    }

    /// A process that is killed in the middle of an import, at whatever point it is.
    #[test]
    fn a_killed_import_leaves_no_release() {
        const PLACE: &str = "HALE_TEST_STORE";
        if let Some(dir) = std::env::var_os(PLACE) {
            let store = Store::open(Path::new(&dir), &Name::try_from("bot").unwrap(), None).unwrap();
            // Ends only by the signal: standard input stays open.
            let _never = store.import(std::io::stdin(), &LIMITS);
            return;
        }
        let place = Place::new();
        let test = "generations::store::tests::a_killed_import_leaves_no_release";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(PLACE, place.dir.path())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let whole = bot(&"x".repeat(1 << 20));
        // More than a pipe holds is taken only by somebody who unpacks.
        child.stdin.as_mut().unwrap().write_all(&whole[..whole.len() - 100_000]).unwrap();
        assert!(matches!(place.open(), Err(StoreError::Busy)));
        assert!(matches!(&place.names()[..], [one] if one.starts_with(".import-")), "{:?}", place.names());
        child.kill().unwrap();
        child.wait().unwrap();
        let store = place.open().unwrap();
        assert_eq!(place.names(), [""; 0]);
        import(&store, &whole[..]).unwrap();
    }

    #[test]
    fn one_service_has_one_store() {
        let place = Place::new();
        let store = place.open().unwrap();
        assert!(matches!(place.open(), Err(StoreError::Busy)));
        let other = Name::try_from("other").unwrap();
        Store::open(place.dir.path(), &other, None).unwrap();
        drop(store);
        place.open().unwrap();
    }

    #[test]
    fn a_directory_that_is_a_link_is_not_followed() {
        let (place, elsewhere) = (Place::new(), tempfile::tempdir().unwrap());
        fs::create_dir(place.dir.path().join("releases")).unwrap();
        symlink(elsewhere.path(), place.path("")).unwrap_err();
        symlink(elsewhere.path(), place.dir.path().join("releases/bot")).unwrap();
        assert!(matches!(place.open(), Err(StoreError::Io { .. })));
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    #[track_caller]
    fn drift(store: &Store, id: Id) -> Vec<String> {
        match store.verify(id) {
            Err(StoreError::Damaged { id: of, drift, more: 0 }) if of == id => {
                drift.iter().map(Drift::to_string).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_damage_is_found_and_named() {
        let place = Place::new();
        let store = place.open().unwrap();
        let id = imported(&store, "1");
        let at = |name: &str| place.path(id.to_string()).join(name);
        let in_dir = |dir: &str, change: &dyn Fn()| {
            chmod(&at(dir), 0o755);
            change();
            chmod(&at(dir), 0o555);
        };
        let write = |name: &str, text: &str| {
            let mode = at(name).metadata().unwrap().mode();
            chmod(&at(name), 0o644);
            fs::write(at(name), text).unwrap();
            chmod(&at(name), mode);
        };
        let relink = |target: &str| {
            fs::remove_file(at("bin/start")).unwrap();
            symlink(target, at("bin/start")).unwrap();
        };
        let fine = || assert!(store.verify(id).is_ok());
        fine();

        write("bin/bot", "2");
        assert_eq!(drift(&store, id), ["bin/bot has another content"]);
        // The import of the same content does not hide it.
        let again = import(&store, &bot("1")[..]);
        assert!(matches!(again, Err(StoreError::Damaged { .. })));
        assert_eq!(place.names(), sorted(with_beside(id, [])));
        write("bin/bot", "1");
        fine();

        in_dir("bin", &|| relink("../etc/conf"));
        assert_eq!(drift(&store, id), ["bin/start leads elsewhere"]);
        in_dir("bin", &|| relink("bot"));
        fine();

        for mode in [0o644, 0o4555, 0o555, 0o400] {
            chmod(&at("etc/conf"), mode);
            assert_eq!(drift(&store, id), ["etc/conf has other permissions"], "{mode:o}");
        }
        chmod(&at("etc/conf"), 0o444);
        for dir in ["etc", "."] {
            chmod(&at(dir), 0o755);
            assert_eq!(drift(&store, id), [format!("{dir} has other permissions")]);
            chmod(&at(dir), 0o555);
        }
        fine();

        in_dir("etc", &|| fs::write(at("etc/new one"), "").unwrap());
        in_dir("bin", &|| fs::remove_file(at("bin/bot")).unwrap());
        chmod(&at("etc/new one"), 0o444);
        assert_eq!(drift(&store, id), ["bin/bot is missing", "etc/new%20one was not there"]);

        for manifest in [Some("hale-release 1\n"), None] {
            match manifest {
                Some(text) => {
                    chmod(&place.path(format!("{id}.manifest")), 0o644);
                    fs::write(place.path(format!("{id}.manifest")), text).unwrap();
                }
                None => fs::remove_file(place.path(format!("{id}.manifest"))).unwrap(),
            }
            assert_eq!(drift(&store, id), [". is not what it was, and its manifest is gone too"]);
        }
    }

    #[test]
    fn damage_everywhere_is_named_up_to_a_bound() {
        let place = Place::new();
        let store = place.open().unwrap();
        let tar = (0..100).fold(Tar::default(), |tar, n| tar.file(&format!("{n:03}"), ""));
        let id = import(&store, &tar.end()[..]).unwrap().into_release().id();
        let root = place.path(id.to_string());
        chmod(&root, 0o755);
        for n in 0..100 {
            fs::remove_file(root.join(format!("{n:03}"))).unwrap();
        }
        chmod(&root, 0o555);
        match store.verify(id) {
            Err(StoreError::Damaged { drift, more: 80, .. }) => {
                assert_eq!((drift.len(), drift[19].to_string().as_str()), (20, "019 is missing"));
            }
            other => panic!("{other:?}"),
        }
        fs::remove_dir(&root).unwrap();
        symlink("/", &root).unwrap();
        assert_eq!(drift(&store, id), [". has another content"]);
    }

    /// What is in its place is in no way: it is Hale's own name.
    #[test]
    fn the_link_that_becomes_current_is_made_again() {
        let place = Place::new();
        let store = place.open().unwrap();
        let id = imported(&store, "1");
        let link = place.path(link_name(id));
        let make: [&dyn Fn() -> std::io::Result<()>; 4] =
            [&|| Ok(()), &|| symlink("/etc", &link), &|| fs::write(&link, ""), &|| fs::create_dir(&link)];
        for another in make {
            fs::remove_file(&link).unwrap();
            another().unwrap();
            store.verify(id).unwrap().activate().unwrap();
            assert_eq!(store.current().unwrap(), Some(id));
            assert_eq!(fs::read_link(&link).unwrap(), Path::new(&id.to_string()));
        }
    }

    #[test]
    fn a_current_of_somebody_else_is_told_and_not_replaced() {
        let place = Place::new();
        let mut store = place.open().unwrap();
        let id = imported(&store, "1");
        let foreign = |store: &Store| match store.current() {
            Err(StoreError::ForeignCurrent(why)) => why,
            other => panic!("{other:?}"),
        };
        for target in ["/srv/bot", "../other", &format!("{id}/bin"), &id.to_string().to_uppercase(), &format!("./{id}")]
        {
            symlink(target, place.path("current")).unwrap();
            assert_eq!(foreign(&store), format!("leads to {target}"));
            assert!(matches!(store.verify(id).unwrap().activate(), Err(StoreError::ForeignCurrent(_))));
            assert!(matches!(store.remove(id, &BTreeSet::new()), Err(StoreError::ForeignCurrent(_))));
            assert_eq!(fs::read_link(place.path("current")).unwrap(), Path::new(target));
            fs::remove_file(place.path("current")).unwrap();
        }
        fs::create_dir(place.path("current")).unwrap();
        assert_eq!(foreign(&store), "is no symbolic link");
        assert!(store.verify(id).unwrap().activate().is_err());
        assert_eq!(place.names(), sorted(with_beside(id, ["current".into()])));
    }

    /// Who reads by way of `current` always gets one whole release.
    #[test]
    fn a_switch_is_seen_by_nobody_half_done() {
        let place = Place::new();
        let store = place.open().unwrap();
        let ids = ["1", "2"].map(|version| imported(&store, version));
        store.verify(ids[0]).unwrap().activate().unwrap();
        let (is_over, path) = (AtomicBool::new(false), place.path("current/bin/start"));
        let seen = [AtomicUsize::new(0), AtomicUsize::new(0)];
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let version = fs::read_to_string(&path).unwrap();
                    let at = ["1", "2"].iter().position(|known| *known == version).expect("one of the two");
                    seen[at].fetch_add(1, Ordering::Relaxed);
                }
            });
            // Until the reader has met both many times, or something that is neither.
            let enough = || seen.iter().all(|count| count.load(Ordering::Relaxed) > 200);
            let mut at = 0;
            while !enough() && !reader.is_finished() {
                at = 1 - at;
                store.verify(ids[at]).unwrap().activate().unwrap();
            }
            is_over.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
        assert_eq!(place.names().len(), 7);
    }

    #[test]
    fn names_of_any_bytes_go_in_and_out() {
        use std::os::unix::ffi::OsStrExt;
        let place = Place::new();
        let mut store = place.open().unwrap();
        let names: [&[u8]; 4] = [b"line\nfeed", b"\xff\xfe", b"a b%20", "größer\u{202e}".as_bytes()];
        let tar = names.iter().fold(Tar::default(), |tar, name| tar.entry(EntryType::Regular, name, name, |_| {}));
        let id = import(&store, &tar.end()[..]).unwrap().into_release().id();
        for name in names {
            let path = place.path(id.to_string()).join(std::ffi::OsStr::from_bytes(name));
            assert_eq!(fs::read(path).unwrap(), name);
        }
        store.verify(id).unwrap();
        store.remove(id, &BTreeSet::new()).unwrap();
        assert_eq!(place.names(), [""; 0]);
        let refused = import(&store, &Tar::default().entry(EntryType::Fifo, b"a\n\xff\x1b[2J", b"", |_| {}).end()[..]);
        let said = "a%0A%FF%1B[2J cannot be part of a release: it is a fifo, and a release consists of files, directories and \
                    symbolic links; leave it out";
        assert_eq!(refused.unwrap_err().to_string(), said);
    }

    /// A tar begins with a name, and a name can begin as a compressed file does.
    #[test]
    fn a_name_like_the_first_bytes_of_another_format_is_a_name() {
        let place = Place::new();
        let store = place.open().unwrap();
        for name in [&b"\x1f\x8b\x08"[..], b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"] {
            let tar = Tar::default().entry(EntryType::Regular, name, b"", |_| {}).end();
            for form in [tar.clone(), gzip(&tar), zstd(&tar)] {
                import(&store, &form[..]).unwrap();
            }
        }
        assert_eq!(store.list().unwrap().len(), 3);
    }

    #[test]
    fn the_longest_path_can_be_verified_and_removed() {
        let place = Place::new();
        let mut store = place.open().unwrap();
        let path = [["d".repeat(254), "/".into()].concat().repeat(16), "f".repeat(15)].concat();
        assert_eq!(path.len(), 4095);
        let tar = Tar::default().pax(EntryType::XHeader, &[("path", path.as_bytes())]).file("x", "");
        let id = import(&store, &tar.clone().end()[..]).unwrap().into_release().id();
        store.verify(id).unwrap();
        store.remove(id, &BTreeSet::new()).unwrap();
        import(&store, &tar.entry(EntryType::Fifo, b"refused", b"", |_| {}).end()[..]).unwrap_err();
        assert_eq!(place.names(), [""; 0]);
    }

    /// A switch does not wait for a sync of all that others write, unless the release itself was written to since its last one.
    #[test]
    fn what_was_imported_is_synced_and_what_was_changed_since_is_not() {
        let place = Place::new();
        let store = place.open().unwrap();
        let ids = ["1", "2"].map(|version| imported(&store, version));
        let is_synced = |store: &Store, id: Id| store.is_synced(&store.begin(id).unwrap());
        for id in ids {
            assert!(is_synced(&store, id));
            store.verify(id).unwrap().activate().unwrap();
            assert!(is_synced(&store, id));
        }
        drop(store);
        let store = place.open().unwrap();
        assert!(ids.into_iter().all(|id| is_synced(&store, id)), "nothing has to be remembered");
        // As a repair by hand does it, or a backup that is played back.
        let file = place.path(ids[0].to_string()).join("etc/conf");
        // The clock of the file system may stand for some milliseconds.
        let is_noticed = (0..100_000).any(|_| {
            chmod(&file, 0o644);
            chmod(&file, 0o444);
            !is_synced(&store, ids[0])
        });
        assert!(is_noticed);
        store.verify(ids[0]).unwrap().activate().unwrap();
        assert!(is_synced(&store, ids[0]) && is_synced(&store, ids[1]));
    }

    /// That costs a way back no second reading; whatever is done to it makes that end.
    #[test]
    fn what_was_found_damaged_stays_so_until_somebody_writes_to_it() {
        let place = Place::new();
        let store = place.open().unwrap();
        let id = imported(&store, "1");
        let file = place.path(id.to_string()).join("etc/conf");
        let write = |text: &str| {
            chmod(&file, 0o644);
            fs::write(&file, text).unwrap();
            chmod(&file, 0o444);
        };
        write("a=2");
        let found = store.verify(id).unwrap_err().to_string();
        let read = store.last_read(id).unwrap();
        assert_eq!(read.fault.as_ref(), Some(&found));
        assert_eq!(store.ready(id).unwrap_err().to_string(), found);
        assert_eq!(store.last_read(id).unwrap(), read, "it was not read again");
        write("a=1");
        store.ready(id).unwrap();
        assert_eq!(store.last_read(id).unwrap().fault, None);
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        let place = Place::new();
        let store = place.open().unwrap();
        let error = |bytes: &[u8]| import(&store, bytes).unwrap_err();
        let upwards = error(&Tar::default().file("../x", "").end());
        assert!(matches!(upwards, StoreError::Entry { why: EntryFault::Upwards, .. }));
        let zip = error(b"PK\x03\x04");
        assert!(matches!(zip, StoreError::Archive(ArchiveFault::NotATar)));
        for error in [upwards, zip, error(&bot("1")[..700]), error(&Tar::default().end())] {
            let text = error.to_string();
            assert!(text.contains("; ") || text.ends_with('?'), "{text}");
        }
    }

    mod needs_root {
        use super::*;
        use crate::generations::testing;
        use std::process::Command;

        /// As the one that it calls, of this module.
        fn inside(test: &str, wrapper: &[&str]) -> bool {
            testing::inside(&format!("generations::store::tests::needs_root::{test}"), wrapper)
        }

        /// Takes space away in the middle of what it hands out.
        struct Filler<'a> {
            bytes: &'a [u8],
            at: usize,
            disk: &'a Path,
            taken_bytes: u64,
        }

        impl Read for Filler<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                if self.at > 300_000 && !self.disk.join("filler").exists() {
                    let mut file = File::create(self.disk.join("filler"))?;
                    let zeros = vec![0; 4096];
                    for _ in 0..self.taken_bytes / 4096 {
                        if file.write_all(&zeros).is_err() {
                            break;
                        }
                    }
                }
                let read = (&self.bytes[self.at..]).read(buffer)?;
                self.at += read;
                Ok(read)
            }
        }

        #[test]
        fn a_full_disk_leaves_nothing_behind() {
            if !inside("a_full_disk_leaves_nothing_behind", testing::OWN_MOUNTS) {
                return;
            }
            let place = Place::new();
            let disk = place.dir.path();
            let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(disk).status();
            assert!(mounted.unwrap().success());
            let store = place.open().unwrap();
            let ids = ["1", "2"].map(|version| imported(&store, version));
            store.verify(ids[0]).unwrap().activate().unwrap();
            let before = place.names();
            let whole = bot(&"x".repeat(600_000));
            let limits = |reserve_bytes| Limits { bytes: 1 << 30, reserve_bytes };
            assert!(matches!(store.import(&whole[..], &limits(65 << 20)), Err(StoreError::NoRoom { .. })));
            // The header says more than there is.
            let large = bot(&"x".repeat(70 << 20));
            assert!(matches!(store.import(&large[..], &limits(0)), Err(StoreError::NoRoom { .. })));
            assert_eq!(place.names(), before);
            // There was enough when it began, and then there is nothing.
            let filler = Filler { bytes: &whole, at: 0, disk, taken_bytes: u64::MAX };
            let filled = store.import(filler, &limits(0));
            assert!(matches!(filled, Err(StoreError::Full { ref what, .. }) if what == "write bin/bot"), "{filled:?}");
            assert_eq!(place.names(), before);
            fs::remove_file(disk.join("filler")).unwrap();
            // Or enough for all of it, and not for the reserve too.
            let filler = Filler { bytes: &large[..30 << 20], at: 0, disk, taken_bytes: 28 << 20 };
            let large = Tar::default().entry(EntryType::Regular, b"bin/bot", filler.bytes, |_| {}).end();
            let filled = store.import(Filler { bytes: &large, ..filler }, &limits(8 << 20));
            assert!(matches!(filled, Err(StoreError::NoRoom { ref what, .. }) if what == "bin/bot"), "{filled:?}");
            assert_eq!(place.names(), before);
            fs::remove_file(disk.join("filler")).unwrap();
            import(&store, &whole[..]).unwrap();
            drop(store);
            let lazily = Command::new("umount").arg("--lazy").arg(disk).status();
            assert!(lazily.unwrap().success());
        }

        mod needs_loop {
            use super::*;
            use crate::generations::testing::{Disk, OWN_MOUNTS};

            const DISK_BYTES: u64 = 8 << 20;

            /// A way back needs no space: not on a disk that has not one block and not one inode left.
            #[test]
            fn a_full_ext4_is_switched_on() {
                if !inside("needs_loop::a_full_ext4_is_switched_on", OWN_MOUNTS) {
                    return;
                }
                let place = Place::new();
                let _disk = Disk::new(place.dir.path(), DISK_BYTES);
                let store = place.open().unwrap();
                let ids = ["1", "2"].map(|version| imported(&store, version));
                store.verify(ids[0]).unwrap().activate().unwrap();
                let at = |name: &str| place.dir.path().join(name);
                let mut filler = File::create(at("filler")).unwrap();
                for bytes in [64 << 10, 1 << 10, 1] {
                    while filler.write_all(&vec![0; bytes]).and_then(|()| filler.sync_data()).is_ok() {}
                }
                let full = symlink(ids[0].to_string(), at("link")).unwrap_err();
                assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
                let mut inodes = 0..;
                while File::create(at(&inodes.next().unwrap().to_string())).is_ok() {}
                for id in [ids[1], ids[0], ids[1], ids[1]] {
                    store.verify(id).unwrap().activate().unwrap();
                    assert_eq!(store.current().unwrap(), Some(id));
                }
                assert_eq!(fs::read_to_string(place.path("current/bin/start")).unwrap(), "2");
            }

            mod needs_python {
                use super::*;

                #[test]
                fn a_loss_of_power_after_a_switch_leaves_a_whole_release() {
                    let test = "needs_loop::needs_python::a_loss_of_power_after_a_switch_leaves_a_whole_release";
                    if !inside(test, OWN_MOUNTS) {
                        return;
                    }
                    let place = Place::new();
                    let disk = Disk::new(place.dir.path(), DISK_BYTES);
                    for version in ["1", "2", "3"] {
                        let store = place.open().unwrap();
                        let id = imported(&store, &version.repeat(100_000));
                        store.verify(id).unwrap().activate().unwrap();
                        disk.lose_power();
                        drop(store);
                        disk.come_back();
                        let store = place.open().unwrap();
                        assert_eq!(store.current().unwrap(), Some(id));
                        store.verify(id).unwrap();
                    }
                }

                /// An import alone: the release is there, or nothing is.
                #[test]
                fn a_loss_of_power_after_an_import_leaves_a_whole_release() {
                    let test = "needs_loop::needs_python::a_loss_of_power_after_an_import_leaves_a_whole_release";
                    if !inside(test, OWN_MOUNTS) {
                        return;
                    }
                    let place = Place::new();
                    let disk = Disk::new(place.dir.path(), DISK_BYTES);
                    let store = place.open().unwrap();
                    let id = imported(&store, &"1".repeat(100_000));
                    disk.lose_power();
                    drop(store);
                    disk.come_back();
                    place.open().unwrap().verify(id).unwrap();
                }
            }
        }

        #[test]
        fn releases_can_be_read_by_their_group_alone() {
            let place = Place::new();
            chmod(place.dir.path(), 0o755);
            let open =
                |gid| Store::open(place.dir.path(), &Name::try_from("bot").unwrap(), Some(Owner { uid: 0, gid }));
            drop(open(1).unwrap());
            let store = open(54321).unwrap();
            let id = imported(&store, "1");
            store.verify(id).unwrap().activate().unwrap();
            let found = place.path("").metadata().unwrap();
            assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (0, 54321, 0o750));
            let reads = |gid: &str| {
                let ids = ["--reuid", "54321", "--regid", gid, "--clear-groups", "cat"];
                Command::new("setpriv").args(ids).arg(place.path("current/bin/start")).output().unwrap()
            };
            assert_eq!(reads("54321").stdout, b"1");
            assert!(!reads("54322").status.success());
        }

        /// All of it once more without rights that override modes.
        #[test]
        fn whoever_is_not_root_has_a_store_too() {
            let test = "whoever_is_not_root_has_a_store_too";
            let ids = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", "--no-new-privs"];
            if !inside(test, &ids) {
                return;
            }
            assert!(!rustix::process::geteuid().is_root());
            a_release_is_made_switched_to_and_removed();
            nothing_is_left_of_a_refused_import();
            what_a_kill_left_behind_is_removed_by_the_next_open();
        }
    }
}
