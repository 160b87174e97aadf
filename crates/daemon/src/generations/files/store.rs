//! Kept states and contents on the disk, whole after any crash.

use super::FilesId;
use super::error::{FilesError, io};
use super::state::State;
use crate::generations::beneath::{names, open, random_name};
use crate::generations::import::{Limits, room};
use crate::generations::store::made_dir;
use hale_core::ids::Name;
use hale_ledger::Hash;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fsync, renameat, statat, unlinkat};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What is being written, until it has its name.
const NEW: &str = ".new-";

/// From where to where files are being brought, while they are.
const BEGUN: &str = ".begun";

/// Names of services are of use to nobody.
const FILES_MODE: Mode = Mode::from_raw_mode(0o700);

/// The longest text of a state: all paths of a configuration and the attributes of their files, each byte in three.
const TEXT_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug)]
pub(super) struct Store {
    dir: OwnedFd,
    contents: OwnedFd,
    reserve_bytes: u64,
}

impl Store {
    pub(super) fn open(state_dir: &Path, service: &Name, reserve_bytes: u64) -> Result<Self, FilesError> {
        let what = || format!("open the kept files of {service} below {}", state_dir.display());
        let flags = i32::try_from(OFlags::DIRECTORY.bits()).unwrap_or(0);
        let state =
            File::options().read(true).custom_flags(flags).open(state_dir).map_err(|error| io(what(), error))?;
        let open = || {
            let dir = made_dir(&state, "files", FILES_MODE, None)?;
            fsync(&state)?;
            let service = made_dir(&dir, service.as_str(), FILES_MODE, None)?;
            fsync(&dir)?;
            Ok::<_, Errno>(service)
        };
        let dir = open().map_err(|error| io(what(), error))?;
        flock(&dir, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => FilesError::Busy,
            other => io(what(), other),
        })?;
        let contents = made_dir(&dir, "contents", FILES_MODE, None).map_err(|error| io(what(), error))?;
        let store = Self { dir, contents, reserve_bytes };
        for dir in [&store.dir, &store.contents] {
            for name in names(dir).map_err(|error| io(what(), error))? {
                if name.starts_with(NEW.as_bytes()) {
                    let _tried_again = unlinkat(dir, &name, AtFlags::empty());
                }
            }
        }
        Ok(store)
    }

    /// Keeps a state with its contents. Says how many contents were there, damaged, and are written anew.
    pub(super) fn keep(&self, state: &State, contents: &BTreeMap<Hash, Vec<u8>>) -> Result<usize, FilesError> {
        let (id, text) = (state.id(), state.to_text());
        let mut mended = 0;
        let mut missing = Vec::new();
        for (hash, content) in contents {
            match self.content(*hash)? {
                Some(Ok(_)) => continue,
                Some(Err(())) => mended += 1,
                None => {}
            }
            missing.push((*hash, content));
        }
        let is_there = matches!(self.state(id), Ok(kept) if kept == *state);
        // What is there already needs none: a way back is seen to have come to its end on a full disk, too.
        if !is_there || !missing.is_empty() {
            let needed_bytes = missing.iter().map(|(_, content)| content.len() as u64).sum::<u64>() + text.len() as u64;
            let limits = Limits { bytes: 0, reserve_bytes: self.reserve_bytes };
            let what = "a copy of the service's files";
            room(self.dir.as_fd(), what, needed_bytes, &limits).map_err(FilesError::NoRoom)?;
        }
        for (hash, content) in missing {
            write(&self.contents, &hash.to_string(), content).map_err(|error| io("copy the files", error))?;
        }
        // Also when nothing was written: the names may be those of a Hale that was killed before this line.
        fsync(&self.contents).map_err(|error| io("copy the files", error))?;
        if !is_there {
            write(&self.dir, &id.to_string(), text.as_bytes()).map_err(|error| io("keep the files' state", error))?;
        }
        fsync(&self.dir).map_err(|error| io("keep the files' state", error))?;
        Ok(mended)
    }

    pub(super) fn has(&self, id: FilesId) -> Result<bool, FilesError> {
        match statat(&self.dir, id.to_string(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(io(format!("look for state {id} of the files"), error)),
        }
    }

    pub(super) fn state(&self, id: FilesId) -> Result<State, FilesError> {
        let failed = |error| io(format!("read state {id} of the files"), error);
        let damaged = || FilesError::Damaged { id, what: "its text is another one".to_owned() };
        let text = read(&self.dir, &id.to_string(), TEXT_BYTES_MAX).map_err(failed)?;
        let text = text.ok_or(FilesError::Missing(id))?;
        if Hash::of(&text) != id.0 {
            return Err(damaged());
        }
        String::from_utf8(text).ok().and_then(|text| State::from_text(&text)).ok_or_else(damaged)
    }

    /// A content of a state.
    pub(super) fn content_of(&self, id: FilesId, hash: Hash) -> Result<Vec<u8>, FilesError> {
        let damaged = |what: &str| FilesError::Damaged { id, what: format!("content {hash} is {what}") };
        match self.content(hash)? {
            Some(Ok(content)) => Ok(content),
            Some(Err(())) => Err(damaged("another one")),
            None => Err(damaged("missing")),
        }
    }

    /// `None`: it is not there. `Err`: it is another one.
    fn content(&self, hash: Hash) -> Result<Option<Result<Vec<u8>, ()>>, FilesError> {
        let content = read(&self.contents, &hash.to_string(), super::FILE_BYTES_MAX);
        let content = content.map_err(|error| io("read a copy of a file", error))?;
        Ok(content.map(|content| if Hash::of(&content) == hash { Ok(content) } else { Err(()) }))
    }

    /// All states, and when each was kept first, in nanoseconds of the wall clock.
    pub(super) fn all(&self) -> Result<Vec<(i128, FilesId)>, FilesError> {
        let failed = |error: Errno| io("list the states of the files", error);
        let mut all = Vec::new();
        for name in names(&self.dir).map_err(failed)? {
            if let Some(id) = Hash::from_hex(&name).map(FilesId) {
                let stat = statat(&self.dir, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                all.push((i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec), id));
            }
        }
        Ok(all)
    }

    /// Files are being brought from one kept state to another, one after the other.
    pub(super) fn begin(&self, [from, to]: [FilesId; 2]) -> Result<(), FilesError> {
        let failed = |error| io("note what is put back", error);
        write(&self.dir, BEGUN, format!("{from} {to}").as_bytes()).map_err(failed)?;
        fsync(&self.dir).map_err(|error| failed(error.into()))
    }

    /// From where to where files were being brought when that was cut off.
    pub(super) fn begun(&self) -> Result<Option<[FilesId; 2]>, FilesError> {
        let text = read(&self.dir, BEGUN, 1024).map_err(|error| io("learn what was being put back", error))?;
        let id = |hex: &str| Hash::from_hex(hex.as_bytes()).map(FilesId);
        Ok(text.and_then(|text| {
            let (from, to) = std::str::from_utf8(&text).ok()?.split_once(' ')?;
            Some([id(from)?, id(to)?])
        }))
    }

    /// All of them are there, or it is known that they are not.
    pub(super) fn over(&self) -> Result<(), FilesError> {
        let failed = |error: Errno| io("note that all is put back", error);
        match unlinkat(&self.dir, BEGUN, AtFlags::empty()) {
            Ok(()) => fsync(&self.dir).map_err(failed),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    pub(super) fn retain(&mut self, keep: &BTreeSet<FilesId>) -> Result<(), FilesError> {
        let failed = |error: Errno| io("remove old states of the files", error);
        let mut needed = BTreeSet::new();
        let mut gone = Vec::new();
        for name in names(&self.dir).map_err(failed)? {
            match Hash::from_hex(&name).map(FilesId) {
                Some(id) if keep.contains(&id) => needed.extend(self.state(id)?.contents()),
                Some(_) => gone.push(name),
                None => {}
            }
        }
        for name in gone {
            unlinkat(&self.dir, &name, AtFlags::empty()).map_err(failed)?;
        }
        // Before their contents go: no state that is there lacks one.
        fsync(&self.dir).map_err(failed)?;
        for name in names(&self.contents).map_err(failed)? {
            if Hash::from_hex(&name).is_some_and(|hash| !needed.contains(&hash)) {
                unlinkat(&self.contents, &name, AtFlags::empty()).map_err(failed)?;
            }
        }
        fsync(&self.contents).map_err(failed)
    }
}

/// Gives a file its name once it is on the disk: what has a name is whole.
fn write(dir: &OwnedFd, name: &str, content: &[u8]) -> std::io::Result<()> {
    let new = random_name(NEW)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let mut file = File::from(open(dir, new.as_bytes(), flags, Mode::RUSR)?);
    let written = file.write_all(content).and_then(|()| file.sync_all());
    let named = written.and_then(|()| Ok(renameat(dir, &new, dir, name)?));
    if named.is_err() {
        let _removed_by_open = unlinkat(dir, &new, AtFlags::empty());
    }
    named
}

/// `None` if there is nothing of this name.
fn read(dir: &OwnedFd, name: &str, bytes_max: u64) -> std::io::Result<Option<Vec<u8>>> {
    let file = match open(dir, name.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => File::from(other?),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generations::files::testing::{Place, kept};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// At whatever moment a kill comes, there is what somebody sees who looks at that moment.
    #[test]
    fn what_has_its_name_is_whole_at_every_moment() {
        let place = Place::new();
        place.write("etc/a", &"x".repeat(4 << 20));
        let mut files = place.open(["etc/a"]);
        let (is_over, seen) = (AtomicBool::new(false), [AtomicUsize::new(0), AtomicUsize::new(0)]);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    for (at, dir) in ["state/files/bot", "state/files/bot/contents"].into_iter().enumerate() {
                        for name in place.names(dir) {
                            let Some(hash) = Hash::from_hex(name.as_bytes()) else { continue };
                            // Removed meanwhile.
                            let Ok(bytes) = std::fs::read(place.at(dir).join(name)) else { continue };
                            assert_eq!(Hash::of(&bytes), hash);
                            seen[at].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
            let enough = || seen.iter().all(|seen| seen.load(Ordering::Relaxed) > 50);
            let mut rounds = 0;
            while !reader.is_finished() && (rounds < 20 || !enough()) {
                let id = kept(&files);
                // The state first: what it needs is there as long as it is.
                assert!(files.store.state(id).is_ok());
                files.retain(&BTreeSet::new()).unwrap();
                rounds += 1;
            }
            is_over.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
    }
}
