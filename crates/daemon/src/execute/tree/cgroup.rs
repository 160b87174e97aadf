//! One cgroup v2: found, made, listed, killed by the kernel, removed.
//!
//! Formats: <https://docs.kernel.org/admin-guide/cgroup-v2.html>, cgroups(7).

use super::delegate::SELF;
use super::process::Handle;
use super::trial::try_out;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// How many groups below a service's own one are walked: a program that makes groups for its own children has tens.
/// Processes in groups beyond that are not signalled, but killed and counted like all others, because the kernel
/// does both for the whole subtree.
const SUBGROUPS_MAX: usize = 4096;

/// Why Hale cannot keep services in cgroups here.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// /proc does not tell.
    #[error("cannot read {0}: {1}")]
    Proc(&'static str, io::Error),
    /// There is no cgroup v2, or none that this process is in.
    #[error("no cgroup2 file system is mounted (systemd mounts one at /sys/fs/cgroup, or at /sys/fs/cgroup/unified)")]
    NotMounted,
    /// A container shows another part of the hierarchy than the one this process is in.
    #[error("no mounted cgroup2 file system shows this process's own group {0}")]
    Elsewhere(String),
    /// Usually: it belongs to another user.
    #[error("{what} {path}: {source} (as a systemd unit, set Delegate=yes)", path = path.display())]
    Refused {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The parent is threaded, so that its children cannot hold processes.
    #[error("a group below {path} is of type {kind:?}, which cannot hold whole processes", path = path.display())]
    Threaded {
        /// Our own group.
        path: PathBuf,
        /// The child's `cgroup.type`.
        kind: String,
    },
    /// `cgroup.kill` was once written to the group that Hale is in.
    #[error(
        "the kernel kills every process at once that is made in a group below {path}, because a kill was once ordered \
         for {path} itself (start Hale in a fresh group)", path = .0.display()
    )]
    Deadly(PathBuf),
}

/// One group, held by its directory.
#[derive(Debug)]
pub(crate) struct Group {
    dir: OwnedFd,
    /// As in proc_pid_cgroup(5).
    path: String,
}

impl Group {
    /// The group that this process is in, and where its directory is.
    pub(super) fn own() -> Result<(Self, PathBuf), Unusable> {
        let read = |path| fs::read_to_string(path).map_err(|source| Unusable::Proc(path, source));
        let groups = read("/proc/self/cgroup")?;
        let path = groups.lines().find_map(|line| line.strip_prefix("0::")).ok_or(Unusable::NotMounted)?;
        let mounts = read("/proc/self/mountinfo")?;
        let mut places = places(&mounts, path).peekable();
        if places.peek().is_none() && !mounts.contains(" - cgroup2 ") {
            return Err(Unusable::NotMounted);
        }
        // Paths can look right and be wrong: mounted over, or relative to another namespace. The list of its
        // processes cannot.
        let own = std::process::id().cast_signed();
        for place in places {
            let Ok(dir) = open_dir(rustix::fs::CWD, &place) else { continue };
            let group = Self { dir, path: path.to_owned() };
            if group.processes_here("").is_ok_and(|pids| pids.contains(&own)) {
                return Ok((group, place));
            }
        }
        Err(Unusable::Elsewhere(path.to_owned()))
    }

    /// The group that Hale was started in: the one that this process is in, or the one above where Hale's processes
    /// have moved into a leaf of it.
    fn home() -> Result<(Self, PathBuf), Unusable> {
        let (own, place) = Self::own()?;
        let Some((above, SELF)) = own.path.rsplit_once('/') else { return Ok((own, place)) };
        let path = if above.is_empty() { "/" } else { above }.to_owned();
        let place = place.parent().map_or(place.clone(), Path::to_owned);
        match open_dir(rustix::fs::CWD, &place) {
            Ok(dir) => Ok((Self { dir, path }, place)),
            Err(source) => Err(Unusable::Refused { what: "cannot open", path: place, source }),
        }
    }

    /// Makes (or takes up again) the group `name` below the one that Hale was started in, and makes sure that
    /// processes can be put there and be killed by the kernel. Returns its directory's path, too, and the group that it
    /// is in.
    pub fn below_home(name: &str) -> Result<(Self, PathBuf, Self), Unusable> {
        let (own, place) = Self::home()?;
        let refused = |what, source| Unusable::Refused { what, path: place.clone(), source };
        // A process may be put from one group into another only by who may write to the list of their common parent.
        openat(&own.dir, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| refused("cannot move processes below", errno.into()))?;
        let group = own.child(name).map_err(|source| refused("cannot make a group below", source))?;
        let usable = || {
            let kind = group.read("cgroup.type").map_err(|source| refused("cannot use a group below", source))?;
            if kind.trim() != "domain" {
                return Err(Unusable::Threaded { path: place.clone(), kind: kind.trim().to_owned() });
            }
            for file in ["cgroup.procs", "cgroup.kill"] {
                openat(&group.dir, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
                    refused("cannot use a group below (Linux 5.14 or later is needed)", errno.into())
                })?;
            }
            group.events().map_err(|source| refused("cannot watch a group below", source))?;
            try_out(&group, &place)
        };
        match usable() {
            Ok(()) => Ok((group, place.join(name), own)),
            Err(error) => {
                // Refused when it is in use, and then not ours to remove.
                let _ = own.remove_child(name);
                Err(error)
            }
        }
    }

    /// Makes the group `name` in this one, or takes up the one that is there.
    pub fn child(&self, name: &str) -> io::Result<Self> {
        match mkdirat(&self.dir, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => self.existing_child(name),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The group `name` in this one.
    pub fn existing_child(&self, name: &str) -> io::Result<Self> {
        let dir = open_dir(&self.dir, Path::new(name))?;
        Ok(Self { dir, path: format!("{}/{name}", self.path.trim_end_matches('/')) })
    }

    /// The group at `path`, as in proc_pid_cgroup(5), if this process can see it.
    pub fn at(path: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let dir = places(&mounts, path).find_map(|place| open_dir(rustix::fs::CWD, &place).ok())?;
        Some(Self { dir, path: path.to_owned() })
    }

    /// Its directory.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// As in proc_pid_cgroup(5).
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether a process whose group is `path` is in this one or below.
    pub fn contains(&self, path: &str) -> bool {
        path.strip_prefix(self.path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The kernel's number of it (`cgroup.id`), which is its directory's inode.
    pub fn id(&self) -> io::Result<u64> {
        Ok(fstat(&self.dir)?.st_ino)
    }

    /// Its `cgroup.events`.
    pub fn events(&self) -> io::Result<OwnedFd> {
        Ok(openat(&self.dir, "cgroup.events", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// SIGKILL for every process in it and below, and those that they fork meanwhile.
    pub fn kill(&self) -> io::Result<()> {
        let fd = openat(&self.dir, "cgroup.kill", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        File::from(fd).write_all(b"1")
    }

    /// Kills every process in the groups below, and removes those groups; gives those that are not empty yet.
    pub fn kill_below(&self) -> io::Result<Vec<String>> {
        let mut left = Vec::new();
        for subgroup in self.subgroups()?.into_iter().rev().filter(|subgroup| !subgroup.is_empty()) {
            // Not this group itself: nothing could ever be made in it again (docs/decisions/0008).
            let killed = self.existing_child(&subgroup).map_or(Ok(()), |child| child.kill());
            // Whoever waited for the end of what was in it may have removed it meanwhile.
            killed.or_else(|error| if is_gone(&error) { Ok(()) } else { Err(error) })?;
            match unlinkat(&self.dir, subgroup.as_str(), AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::BUSY | Errno::NOTEMPTY) => left.push(subgroup),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(left)
    }

    /// The processes in it and below. Dead ones that wait to be reaped are not among them.
    pub fn processes(&self) -> io::Result<Vec<i32>> {
        let mut pids = Vec::new();
        for subgroup in self.subgroups()? {
            match self.processes_here(&subgroup) {
                Ok(more) => pids.extend(more),
                // Removed meanwhile; or threaded: then its processes stand in the list of the group above.
                Err(error) if is_gone(&error) || error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pids)
    }

    /// Calls `each` for every process in it and below, held and then seen to be there.
    pub fn each(&self, mut each: impl FnMut(Handle) -> io::Result<()>) -> io::Result<()> {
        for pid in self.processes()? {
            self.held(pid)?.map_or(Ok(()), &mut each)?;
        }
        Ok(())
    }

    /// The same for who comes back: one of `known`, which were given before, need not be seen to be there again.
    pub fn each_with(&self, mut known: Vec<Handle>, mut each: impl FnMut(Handle) -> io::Result<()>) -> io::Result<()> {
        for pid in self.processes()? {
            let at = known.iter().position(|handle| handle.pid() == pid);
            match at.map(|at| known.swap_remove(at)).filter(Handle::is_there) {
                Some(handle) => each(handle)?,
                None => self.held(pid)?.map_or(Ok(()), &mut each)?,
            }
        }
        Ok(())
    }

    /// Holds the process that has this pid, if it is in it or below.
    fn held(&self, pid: i32) -> io::Result<Option<Handle>> {
        Ok(Handle::open(pid)?.filter(|handle| handle.cgroup().is_some_and(|path| self.contains(&path))))
    }

    /// Removes the group `name` with all groups in it. There is nothing to do when it is not there.
    ///
    /// # Errors
    ///
    /// `EBUSY`: a process lives in it.
    pub fn remove_child(&self, name: &str) -> io::Result<()> {
        let result = self.existing_child(name).and_then(|child| {
            child.remove_below()?;
            Ok(unlinkat(&self.dir, name, AtFlags::REMOVEDIR)?)
        });
        result.or_else(|error| if is_gone(&error) { Ok(()) } else { Err(error) })
    }

    /// Removes all groups in it.
    pub fn remove_below(&self) -> io::Result<()> {
        for subgroup in self.subgroups()?.iter().rev().filter(|subgroup| !subgroup.is_empty()) {
            match unlinkat(&self.dir, subgroup.as_str(), AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// The names of the groups directly in it.
    pub(super) fn children(&self) -> io::Result<Vec<String>> {
        Ok(self.subgroups()?.into_iter().filter(|path| !path.is_empty() && !path.contains('/')).collect())
    }

    /// The paths of this group (empty) and all below, each after the one that it is in.
    pub(super) fn subgroups(&self) -> io::Result<Vec<String>> {
        let mut found = vec![String::new()];
        // Most have none, and the directory has some fifty files to go through. Its links are two and one for each group in it
        // (fs/kernfs/inode.c).
        if fstat(&self.dir)?.st_nlink == 2 {
            return Ok(found);
        }
        let mut next = 0;
        while let Some(group) = found.get(next).cloned() {
            next += 1;
            let here = if group.is_empty() { "." } else { group.as_str() };
            let dir = match openat(&self.dir, here, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            {
                Ok(dir) => Dir::new(dir)?,
                Err(Errno::NOENT | Errno::NODEV) => continue,
                Err(errno) => return Err(errno.into()),
            };
            for entry in dir.flatten().filter(|entry| entry.file_type() == FileType::Directory) {
                if let Ok(name) = entry.file_name().to_str()
                    && name != "."
                    && name != ".."
                    && found.len() < SUBGROUPS_MAX
                {
                    found.push(if group.is_empty() { name.to_owned() } else { format!("{group}/{name}") });
                }
            }
        }
        Ok(found)
    }

    pub(super) fn processes_here(&self, subgroup: &str) -> io::Result<Vec<i32>> {
        let text = self.read(&format!("{}{}cgroup.procs", subgroup, if subgroup.is_empty() { "" } else { "/" }))?;
        // 0 stands for a process of another pid namespace (pid_namespaces(7)).
        Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|&pid| pid > 0).collect())
    }

    /// The content of one of its files.
    pub fn read(&self, name: &str) -> io::Result<String> {
        // Room for all of a usual one, and no question for its size, which the kernel does not know.
        let mut text = String::with_capacity(1_024);
        File::from(self.open(name, OFlags::RDONLY)?).take(u64::MAX).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Writes to one of its files.
    pub fn write(&self, name: &str, text: &str) -> io::Result<()> {
        File::from(self.open(name, OFlags::WRONLY)?).write_all(text.as_bytes())
    }

    /// Opens one of its files.
    pub fn open(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(openat(&self.dir, name, flags | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Whether it is the root of the hierarchy itself, to which no rule about processes and controllers applies: the
    /// only group without a type (cgroups(7)).
    pub fn is_root(&self) -> bool {
        self.read("cgroup.type").is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// Whether its own name, the last part of its path, is `name`.
    pub fn is_named(&self, name: &str) -> bool {
        self.path.rsplit_once('/').is_some_and(|(_, own)| own == name)
    }
}

/// Reads an open `cgroup.events` from its start, which also makes it ready to tell of the next change.
pub(crate) fn is_populated(events: &OwnedFd) -> io::Result<bool> {
    // "populated 1\nfrozen 0\n" at present; more lines may come.
    let mut buffer = [0; 256];
    match rustix::io::pread(events, &mut buffer, 0) {
        Ok(length) => Ok(!buffer[..length].split(|&byte| byte == b'\n').any(|line| line == b"populated 0")),
        Err(Errno::NODEV | Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn open_dir(at: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, path, flags, Mode::empty())?)
}

/// A removed group answers `ENODEV` through descriptors that were opened before.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
}

/// Where the group `path` may be seen, newest mount first (proc_pid_mountinfo(5): field 4 is the part of the file
/// system that is mounted, field 5 where).
fn places<'a>(mounts: &'a str, path: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
    mounts.lines().rev().filter_map(move |line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        if filesystem.split(' ').next()? != "cgroup2" {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let root = unescape(fields.next()?);
        let place = PathBuf::from(unescape(fields.next()?));
        let below = Path::new(path).strip_prefix(&root).ok()?;
        // `..`: outside of our cgroup namespace, where names mean something else.
        below.components().all(|part| part.as_os_str() != "..").then(|| place.join(below))
    })
}

/// `\040` and the like stand for space, tab, line feed and backslash.
fn unescape(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).map(|code| u8::from_str_radix(code, 8)) {
            Some(Ok(byte)) => {
                text.push(char::from(byte));
                text.push_str(&part[3..]);
            }
            Some(Err(_)) | None => {
                text.push('\\');
                text.push_str(part);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(mountinfo: &str, path: &str) -> Option<PathBuf> {
        places(mountinfo, path).next()
    }

    #[test]
    fn the_own_group_is_found_on_all_kinds_of_hosts() {
        let unified = "25 1 0:22 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(
            place(unified, "/system.slice/hale.service"),
            Some("/sys/fs/cgroup/system.slice/hale.service".into())
        );
        let hybrid = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        assert_eq!(place(hybrid, "/"), Some("/sys/fs/cgroup/unified".into()));
        let container = "41 31 0:38 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw";
        assert_eq!(place(container, "/docker/abc/init"), Some("/sys/fs/cgroup/init".into()));
        assert_eq!(place(container, "/docker/abcd"), None);
        let blank = "41 31 0:38 / /mnt/with\\040blank rw - cgroup2 cgroup rw";
        assert_eq!(place(blank, "/x"), Some("/mnt/with blank/x".into()));
    }

    #[test]
    fn a_group_outside_of_the_namespace_is_not_guessed() {
        let inside = "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup rw";
        assert_eq!(place(inside, "/../elsewhere"), None);
        let above = "41 31 0:38 /.. /sys/fs/cgroup rw - cgroup2 cgroup rw";
        assert_eq!(place(above, "/x"), None);
        assert_eq!(place("40 31 0:37 / /sys/fs/cgroup rw - cgroup cgroup rw", "/"), None);
    }

    #[test]
    fn a_similar_name_is_another_group() {
        let dir = open_dir(rustix::fs::CWD, Path::new("/")).unwrap();
        let group = Group { dir, path: "/hale-1/bot".into() };
        assert!(group.contains("/hale-1/bot") && group.contains("/hale-1/bot/worker"));
        assert!(!group.contains("/hale-1/bot2") && !group.contains("/hale-1"));
    }
}
