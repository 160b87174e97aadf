//! The store `nix-profile`: the generations of a profile of Nix, by their store paths.
//!
//! ```text
//! <profile> -> <profile>-7-link                    what is selected
//! <profile>-7-link -> /nix/store/HASH-NAME         one generation, and a root of the garbage collection
//! <Nix's state>/gcroots/hale/<service>/HASH -> …   what Hale still needs, whatever becomes of the profile's links
//! <state_dir>/nix/HASH.lock                        held by who switches this profile
//! ```

use super::error::{StoreError, io, shown};
use super::nix::Nix;
use super::notes;
use super::{Generations, GoesOn, Kept, Reader, Towards, Unprotected};
use hale_config::ReleaseFile;
use hale_core::ids::{GenerationId, Name};
use rustix::fs::{FlockOperation, flock, fsync, syncfs};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A profile of Nix, as the generations of one service.
#[derive(Debug)]
pub struct NixProfile {
    pub(super) nix: Nix,
    /// The link whose target is what is selected: its directory and its name.
    dir: PathBuf,
    name: OsString,
    /// The directory of the links that protect what Hale needs.
    roots: PathBuf,
    lock: File,
}

/// One link of a profile.
struct Link {
    number: u64,
    id: GenerationId,
    made: Option<SystemTime>,
}

impl NixProfile {
    /// `variable` is Hale's own environment.
    pub(super) fn open(
        profile: &Path,
        state_dir: &Path,
        service: &Name,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, StoreError> {
        let (Some(dir), Some(name)) = (profile.parent(), profile.file_name()) else {
            let why = "is no profile of Nix: it has no name; write the path of its link".to_owned();
            return Err(StoreError::Foreign { what: profile.display().to_string(), why });
        };
        let home = state_dir.join("nix");
        made(&home, 0o700)?;
        let nix = Nix::new(variable, &home);
        let lock = locked(&home, profile)?;
        let roots = roots(&nix, &home, service)?;
        Ok(Self { nix, dir: dir.to_owned(), name: name.to_owned(), roots, lock })
    }

    fn profile(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// The profile's links, newest first: those that lead to a store path. Needs no lock, because each is replaced as a whole.
    fn links(&self) -> Result<Vec<Link>, StoreError> {
        let failed = |error| io(format!("read {}", self.dir.display()), error);
        let entries = match fs::read_dir(&self.dir) {
            // Nix makes it with the first generation.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        let mut links = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            let Some(number) = path.file_name().and_then(|name| self.number(name)) else { continue };
            // One that is gone by now was removed by somebody.
            let Some(id) = fs::read_link(&path).ok().and_then(|target| self.nix.id(&target)) else { continue };
            links.push(Link { number, id, made: made_at(&path) });
        }
        links.sort_by_key(|link| std::cmp::Reverse(link.number));
        Ok(links)
    }

    /// `NAME-7-link`: 7 (`parseName`, libstore/profiles.cc).
    fn number(&self, link: &OsStr) -> Option<u64> {
        let number = link.as_bytes().strip_prefix(self.name.as_bytes())?.strip_prefix(b"-")?.strip_suffix(b"-link")?;
        std::str::from_utf8(number).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
    }

    fn root_of(&self, id: &GenerationId) -> Option<PathBuf> {
        self.nix.hash(id).map(|hash| self.roots.join(hash))
    }

    fn is_protected(&self, id: &GenerationId) -> bool {
        let target = self.root_of(id).and_then(|root| fs::read_link(root).ok());
        target.is_some_and(|target| target == Path::new(id.as_str()))
    }

    fn protect(&self, id: &GenerationId) -> Result<(), StoreError> {
        self.nix.find(id)?;
        let Some(root) = self.root_of(id) else { return self.nix.check(id) };
        self.nix.protect(id, &root)?;
        // Between the two it may have been collected, and Nix makes links to what is not there.
        self.nix.find(id)?;
        // Nix syncs nothing by itself (`fsync-store-paths` is off), and a profile must not lead to files that get lost.
        let failed = |error| io(format!("sync {id}"), error);
        syncfs(File::open(self.nix.store_dir()).map_err(failed)?).map_err(|errno| failed(errno.into()))?;
        synced(&self.roots)
    }

    /// Sees to it that it is there, and stays.
    fn keep(&self, id: &GenerationId) -> Result<(), StoreError> {
        if self.is_protected(id) { self.nix.find(id) } else { self.protect(id) }
    }

    /// The links that protect, and what each of them leads to.
    fn protected(&self) -> Result<Vec<(PathBuf, Option<GenerationId>)>, StoreError> {
        let failed = |error| io(format!("read {}", self.roots.display()), error);
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.roots).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if let Ok(target) = fs::read_link(&path) {
                all.push((path, self.nix.id(&target)));
            }
        }
        Ok(all)
    }
}

impl Drop for NixProfile {
    fn drop(&mut self) {
        // A child that another thread is just starting has the lock's descriptor too, until its program runs.
        let _ends_with_its_descriptors = flock(&self.lock, FlockOperation::Unlock);
    }
}

impl Generations for NixProfile {
    /// The paths that the profile has links to, then those that are only protected.
    fn list(&mut self) -> Result<Vec<Kept>, StoreError> {
        let mut rest: Vec<Kept> = Vec::new();
        for (root, id) in self.protected()? {
            rest.extend(id.map(|id| Kept { id, came: made_at(&root), read: None }));
        }
        rest.sort_by_key(|kept| std::cmp::Reverse(kept.came));
        let linked = self.links()?.into_iter().map(|link| Kept { id: link.id, came: link.made, read: None });
        let mut seen = BTreeSet::new();
        Ok(linked.chain(rest).filter(|kept| seen.insert(kept.id.clone())).collect())
    }

    fn current(&mut self) -> Result<Option<GenerationId>, StoreError> {
        let foreign = |why: String| {
            let why = format!("{why}, which Nix makes no profile of; move it away by hand");
            StoreError::Foreign { what: self.profile().display().to_string(), why }
        };
        let failed = |error| io(format!("read {}", self.profile().display()), error);
        let target = match fs::read_link(self.profile()) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == ErrorKind::InvalidInput => return Err(foreign("is no symbolic link".into())),
            other => other.map_err(failed)?,
        };
        let link = self.dir.join(&target);
        if link.parent() != Some(&self.dir) || link.file_name().and_then(|name| self.number(name)).is_none() {
            return Err(foreign(format!("leads to {}", shown(target.as_os_str().as_bytes()))));
        }
        let path = match fs::read_link(&link) {
            // Somebody removed it by hand: nothing is selected, and anything can be.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| io(format!("read {}", link.display()), error))?,
        };
        let id = self.nix.id(&path);
        id.map(Some).ok_or_else(|| foreign(format!("leads to {}", shown(path.as_os_str().as_bytes()))))
    }

    /// Reads the path and all that it needs.
    fn verify(&mut self, id: &GenerationId) -> Result<(), StoreError> {
        NixReader(self.nix.clone()).verify(id)
    }

    /// Nix hashed it when it came; it is read again by [`verify`](Self::verify) alone. A switch makes two symbolic links.
    fn prepare(&mut self, id: &GenerationId) -> Result<(), StoreError> {
        self.keep(id)
    }

    fn activate(&mut self, id: &GenerationId, _towards: Towards) -> Result<(), StoreError> {
        self.keep(id)?;
        let acted = match self.current()? {
            Some(current) if current == *id => Ok(()),
            // By path and never by number or `--rollback`: the one before may be any, and its link may be gone.
            Some(_) | None => self.nix.set(&self.profile(), id),
        };
        // Nix takes no lock, and its exit status says little: what counts is what is there now.
        let found = self.current().map_err(|why| StoreError::Unknown { id: id.clone(), why: Box::new(why) })?;
        if found.as_ref() != Some(id) {
            let others = || "nix-env exited with 0, so somebody else switches this profile too".to_owned();
            let why = acted.err().map_or_else(others, |error| error.to_string());
            return Err(StoreError::NotSwitched { id: id.clone(), found, why });
        }
        let synced = File::open(&self.dir).and_then(|dir| Ok(fsync(dir)?));
        synced.map_err(|source| StoreError::NotDurable { id: id.clone(), source })
    }

    fn pin(&mut self, ids: &BTreeSet<GenerationId>, goes_on: GoesOn<'_>) -> Result<Unprotected, StoreError> {
        let mut unprotected = Unprotected::new();
        for id in ids {
            if !goes_on() {
                return Err(StoreError::Stopped);
            }
            unprotected.extend(self.keep(id).err().map(|error| (id.clone(), error)));
        }
        for (root, id) in self.protected()? {
            if id.is_none_or(|id| !ids.contains(&id)) {
                fs::remove_file(&root).map_err(|error| io(format!("remove {}", root.display()), error))?;
            }
        }
        synced(&self.roots)?;
        Ok(unprotected)
    }

    /// Removes the profile's links, all by one program; the paths are the next garbage collection's.
    fn retain(
        &mut self,
        keep: usize,
        pinned: &BTreeSet<GenerationId>,
        goes_on: GoesOn<'_>,
    ) -> Result<Vec<GenerationId>, StoreError> {
        let current = self.current()?;
        let mut kept: BTreeSet<GenerationId> = current.iter().chain(pinned).cloned().collect();
        kept.extend(self.list()?.into_iter().take(keep).map(|kept| kept.id));
        let old: Vec<Link> = self.links()?.into_iter().filter(|link| !kept.contains(&link.id)).collect();
        if !goes_on() {
            return Err(StoreError::Stopped);
        }
        self.nix.forget(&self.profile(), &old.iter().map(|link| link.number).collect::<Vec<_>>())?;
        let left: BTreeSet<GenerationId> = self.links()?.into_iter().map(|link| link.id).collect();
        let old: BTreeSet<GenerationId> = old.into_iter().map(|link| link.id).collect();
        Ok(old.difference(&left).cloned().collect())
    }

    fn watched(&self) -> Option<(PathBuf, OsString)> {
        Some((self.dir.clone(), self.name.clone()))
    }

    fn notes(&mut self, id: &GenerationId) -> Result<ReleaseFile, StoreError> {
        self.nix.check(id)?;
        notes::read_linked(Path::new(id.as_str()), self.nix.store_dir())
    }

    fn reader(&self) -> Option<Reader> {
        Some(Reader::Nix(NixReader(self.nix.clone())))
    }
}

/// Reads paths of Nix. Takes nothing of the profile.
#[derive(Debug, Clone)]
pub struct NixReader(Nix);

impl NixReader {
    /// Reads the path and all that it needs.
    ///
    /// # Errors
    /// Nix does not have it, or it is damaged.
    pub fn verify(&self, id: &GenerationId) -> Result<(), StoreError> {
        self.0.find(id)?;
        self.0.verify(id)
    }
}

/// Makes a directory if it is missing; what is above it has to be there.
fn made(dir: &Path, mode: u32) -> Result<(), StoreError> {
    match DirBuilder::new().mode(mode).create(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(io(format!("make {}", dir.display()), error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Two services with one profile would take each other's switches back.
fn locked(home: &Path, profile: &Path) -> Result<File, StoreError> {
    let path = home.join(format!("{}.lock", super::Id::of(profile.as_os_str().as_bytes())));
    let failed = |error| io(format!("lock {}", path.display()), error);
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(StoreError::ProfileBusy(profile.display().to_string())),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// The directory for links that protect: among Nix's own roots, which nothing else can move away; below `home` where those are
/// not this user's to write.
fn roots(nix: &Nix, home: &Path, service: &Name) -> Result<PathBuf, StoreError> {
    let below = |above: &Path, own: &str| {
        let dir = above.join(own);
        made(&dir, 0o755)?;
        made(&dir.join(service.as_str()), 0o755).map(|()| dir.join(service.as_str()))
    };
    match below(&nix.gc_roots(), "hale") {
        Err(StoreError::Io { source, .. })
            if matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) =>
        {
            below(home, "roots")
        }
        other => other,
    }
}

/// When a link was made, or what it leads to was replaced.
fn made_at(link: &Path) -> Option<SystemTime> {
    link.symlink_metadata().and_then(|stat| stat.modified()).ok()
}

fn synced(dir: &Path) -> Result<(), StoreError> {
    let sync = || File::open(dir).and_then(|dir| Ok(fsync(dir)?));
    sync().map_err(|error| io(format!("sync {}", dir.display()), error))
}

#[cfg(test)]
mod tests {
    mod needs_nix;
}
