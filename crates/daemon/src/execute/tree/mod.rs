//! A service's process tree: finding it, signalling it, killing all of it, and knowing when it is empty.
//!
//! With a writable cgroup v2 the kernel keeps the tree: nothing leaves it by forking twice or by a new session, one
//! write kills all of it, and the kernel tells when it is empty. Without, see [`tags`].

pub mod after_stop;
mod cgroup;
pub mod delegate;
mod leftovers;
pub mod limits;
mod process;
mod tags;
#[cfg(test)]
mod tests;
mod trial;
mod watcher;

pub use cgroup::Unusable;
pub use leftovers::{Leftover, Leftovers};
pub use tags::Evidence;
pub use watcher::{Until, Watcher};

use cgroup::Group;
use delegate::{Controller, Lacking, Why};
use hale_core::event::Process;
use hale_core::ids::Name;
pub(crate) use process::{Handle, Identity, Stat};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fstat, fstatfs};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tags::{Adopters, SECOND_VARIABLE, Search, Tag, VARIABLE};

/// How often the tree is gone through for one signal: until no process is new, but a tree that grows faster than it
/// is signalled is left to SIGKILL.
const SIGNAL_PASSES: usize = 4;

/// How many groups of ended probes may wait to be removed. They wait for processes that were killed and are not
/// quite gone; more than this means that killed probes do not die, and then the groups stay until Hale ends.
const UNREMOVED_MAX: usize = 256;

/// How often the end of killed probes is looked for, in milliseconds, beside the kernel's word: a killed process is gone
/// within one.
const END_LOOK_MS: u128 = 10;

/// Where the probes' groups are. No service can have it, because names do not start with `_`.
const PROBES: &str = "_probes";

/// The pidfd's file system, whose inodes are unique within a boot (Linux 6.9 and later; `PIDFS_MAGIC`).
const PIDFS_MAGIC: u64 = 0x5049_4446;

/// Which Hale this is among those on this host: 8 hex digits made of the path of its `runtime_dir` (FNV-1a, 32 bit).
/// The same path gives the same digits after a restart: that is how leftovers are found. Two Hales that share pids but
/// not the file system, and have the same path for it, must not run without cgroups.
#[must_use]
pub fn instance(runtime_dir: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let step = |hash: u32, &byte: &u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    let hash = runtime_dir.as_os_str().as_bytes().iter().fold(0x811c_9dc5, step);
    format!("{hash:08x}")
}

/// How trees are kept on this host.
#[derive(Debug)]
pub enum Kind {
    /// A cgroup for each service.
    Cgroup2 {
        /// The directory of the group that all of them are in.
        path: PathBuf,
    },
    /// By a variable in their environment: best effort.
    Tags {
        /// Why not by cgroups.
        why: Unusable,
    },
}

/// The trees of all services of this Hale.
#[derive(Debug)]
pub struct Trees {
    instance: String,
    kind: Kind,
    group: Option<Group>,
    adopters: Adopters,
    /// What the services cannot be limited by.
    lacking: Vec<Lacking>,
    /// Names of the probes' groups that could not be removed yet.
    unremoved: Arc<Mutex<Vec<String>>>,
}

impl Trees {
    /// Makes the group `hale-<instance>` in the one that Hale was started in, or finds out why trees must be kept
    /// without; and has both hand controllers down. Touches no other group.
    #[must_use]
    pub fn open(instance: &str) -> Self {
        match Group::below_home(&group_name(instance)) {
            Ok((group, path, home)) => {
                let lacking = delegate::hand_down(&home, &group);
                Self { lacking, ..Self::new(instance, Kind::Cgroup2 { path }, Some(group)) }
            }
            Err(why) => Self::new(instance, Kind::Tags { why }, None),
        }
    }

    pub(crate) fn new(instance: &str, kind: Kind, group: Option<Group>) -> Self {
        let lacking = Controller::ALL.map(|controller| Lacking { controller, why: Why::NoCgroup }).into();
        let adopters = Adopters::now();
        Self { instance: instance.to_owned(), kind, group, adopters, lacking, unremoved: Arc::default() }
    }

    /// How trees are kept here.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Opens a file of the group that all services are in, to read and to write.
    pub(crate) fn open_file(&self, name: &str) -> io::Result<OwnedFd> {
        let group = self.group.as_ref().ok_or(rustix::io::Errno::NOENT)?;
        group.open(name, OFlags::RDWR)
    }

    /// The controllers that services cannot have here.
    #[must_use]
    pub fn lacking(&self) -> &[Lacking] {
        &self.lacking
    }

    /// What must stand in the environment of each process of this service: `HALE_SERVICE=<instance>:<service>`.
    #[must_use]
    pub fn environment_tag(&self, service: &Name) -> String {
        format!("{VARIABLE}={}", self.tag(service.as_str()))
    }

    fn tag(&self, of: &str) -> String {
        format!("{}:{of}", self.instance)
    }

    /// Prepares for the first process of this service; repeated, it takes up the same tree.
    ///
    /// # Errors
    ///
    /// The group cannot be made.
    pub fn prepare(&self, service: &Name) -> io::Result<Tree> {
        let name = service_group(service);
        let place = match &self.group {
            Some(parent) => Place::cgroup(parent.child(&name)?)?,
            None => Place::Tags { tag: Tag::Exactly(self.tag(service.as_str())), adopters: self.adopters },
        };
        Ok(Tree(Arc::new(Inner { place, main: Mutex::default(), term: AtomicU64::new(0) })))
    }

    /// Removes the group of a service whose tree is empty. Drop its [`Tree`] first or after: it makes no difference.
    ///
    /// # Errors
    ///
    /// `EBUSY`: it is not empty.
    pub fn remove(&self, service: &Name) -> io::Result<()> {
        self.group.as_ref().map_or(Ok(()), |group| group.remove_child(&service_group(service)))
    }

    /// Prepares for one run of a program that checks a service. `key` is unique while it runs.
    ///
    /// # Errors
    ///
    /// The group cannot be made.
    pub fn probe_group(&self, key: u64) -> io::Result<ProbeGroup> {
        // Each supervisor counts its probes anew, and a group that was killed in can never be used again
        // (docs/decisions/0008).
        let key = format!("{}-{key}", std::process::id());
        // A service's name has no slash.
        let tag = self.tag(&format!("probe/{key}"));
        let (place, home) = match &self.group {
            Some(group) => {
                let probes = group.child(PROBES)?;
                lock(&self.unremoved).retain(|name| probes.remove_child(name).is_err());
                (Place::cgroup(probes.child(&key)?)?, Some((probes, key)))
            }
            None => (Place::Tags { tag: Tag::Exactly(tag.clone()), adopters: self.adopters }, None),
        };
        let tree = Tree(Arc::new(Inner { place, main: Mutex::default(), term: AtomicU64::new(0) }));
        Ok(ProbeGroup { tree, tag, home, unremoved: Arc::clone(&self.unremoved) })
    }

    /// Ends the probes of an earlier supervisor, and what they made. Gives how many living processes were found; 0 with cgroups,
    /// where the kernel kills, and tells when they are gone.
    ///
    /// # Errors
    ///
    /// /proc or the groups cannot be read.
    pub fn end_probes(&self) -> io::Result<usize> {
        match &self.group {
            Some(group) => match group.existing_child(PROBES) {
                Ok(probes) => {
                    lock(&self.unremoved).extend(probes.kill_below()?.into_iter().take(UNREMOVED_MAX));
                    Ok(0)
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
                Err(error) => Err(error),
            },
            None => {
                let tag = Tag::StartsWith(self.tag("probe/"));
                let mut found = 0;
                Search { tag: &tag, mains: &[], adopters: self.adopters }.each(|handle, _, _| {
                    found += 1;
                    // A refusal leaves it to its own end.
                    let _ = handle.send(Signal::KILL);
                    Ok(ControlFlow::Continue(()))
                })?;
                Ok(found)
            }
        }
    }

    /// Ends the probes that run and removes all groups, when all services have ended for good; waits for that at most so long.
    ///
    /// # Errors
    ///
    /// As [`close`](Self::close): what is not empty by then stays, and the next Hale ends what is in it.
    pub fn close_within(&self, within: Duration) -> io::Result<()> {
        let until = Instant::now() + within;
        loop {
            // Again each time: a probe may just have been about to start.
            let ended = self.end_probes()?;
            let events = self.group.as_ref().map(Group::events).transpose()?;
            let closed = self.close();
            let left = until.saturating_duration_since(Instant::now());
            match (&closed, events) {
                (Err(error), Some(events)) if error.kind() == io::ErrorKind::ResourceBusy && !left.is_zero() => {
                    // The groups may have become empty just now, before anybody waited for it.
                    let wait_ms = left.as_millis().min(END_LOOK_MS);
                    let wait = Timespec { tv_sec: 0, tv_nsec: i64::try_from(wait_ms * 1_000_000).unwrap_or(0) };
                    let _ = poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&wait));
                }
                // Nothing tells when the last one is gone.
                (Ok(()), None) if ended > 0 && !left.is_zero() => {
                    let _ = poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 1_000_000 }));
                }
                _ => return closed,
            }
        }
    }

    /// Removes all groups, when all services have ended for good.
    ///
    /// # Errors
    ///
    /// `EBUSY`: a process lives in one of them. The groups stay then, and the next Hale ends what is in them.
    pub fn close(&self) -> io::Result<()> {
        match (&self.kind, &self.group) {
            (Kind::Cgroup2 { path }, Some(group)) => {
                group.remove_below()?;
                std::fs::remove_dir(path)
            }
            (Kind::Cgroup2 { .. } | Kind::Tags { .. }, _) => Ok(()),
        }
    }
}

fn group_name(instance: &str) -> String {
    format!("hale-{instance}")
}

/// A service's group has the service's name; `_` comes before a name with a dot, which could be that of one of the
/// kernel's files (`cgroup.procs`, `memory.max`).
fn service_group(service: &Name) -> String {
    format!("{}{service}", if service.as_str().contains('.') { "_" } else { "" })
}

/// One service's processes: the main one and all that come of it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tree(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    place: Place,
    /// The newest main process.
    main: Mutex<Option<Identity>>,
    /// Counts up before each process that is ordered in it.
    term: AtomicU64,
}

#[derive(Debug)]
enum Place {
    Cgroup { group: Group, events: OwnedFd, id: u64 },
    Tags { tag: Tag, adopters: Adopters },
}

impl Place {
    fn cgroup(group: Group) -> io::Result<Self> {
        let (events, id) = (group.events()?, group.id()?);
        Ok(Self::Cgroup { group, events, id })
    }
}

impl Tree {
    /// A process is about to be ordered in it: whoever still looks after the end of what was there before, on another thread,
    /// leaves that one alone. Without a cgroup nothing else tells them apart.
    pub fn begin_term(&self) {
        self.0.term.fetch_add(1, Ordering::SeqCst);
    }

    fn term(&self) -> u64 {
        self.0.term.load(Ordering::SeqCst)
    }

    /// The directory of its cgroup, for clone3(2) with `CLONE_INTO_CGROUP`.
    #[must_use]
    pub fn cgroup(&self) -> Option<BorrowedFd<'_>> {
        match &self.0.place {
            Place::Cgroup { group, .. } => Some(group.fd()),
            Place::Tags { .. } => None,
        }
    }

    /// The path of its cgroup as in proc_pid_cgroup(5).
    #[must_use]
    pub fn cgroup_path(&self) -> Option<&str> {
        match &self.0.place {
            Place::Cgroup { group, .. } => Some(group.path()),
            Place::Tags { .. } => None,
        }
    }

    /// Whether the cgroup `path`, as in proc_pid_cgroup(5), is its own or in it.
    #[must_use]
    pub fn contains(&self, path: &str) -> bool {
        match &self.0.place {
            Place::Cgroup { group, .. } => group.contains(path),
            Place::Tags { .. } => false,
        }
    }

    /// The kernel's number of its cgroup: the inode of the directory.
    #[must_use]
    pub fn cgroup_id(&self) -> Option<u64> {
        match &self.0.place {
            Place::Cgroup { id, .. } => Some(*id),
            Place::Tags { .. } => None,
        }
    }

    /// Opens a file of its cgroup for reading, or for both. `None`: there is no such file, or no cgroup.
    pub(crate) fn open_file(&self, name: &str, write: bool) -> Option<OwnedFd> {
        match &self.0.place {
            Place::Cgroup { group, .. } => group.open(name, if write { OFlags::RDWR } else { OFlags::RDONLY }).ok(),
            Place::Tags { .. } => None,
        }
    }

    /// Becomes ready with `EPOLLPRI` when the tree may have become empty, or have ceased to be: call
    /// [`Self::is_empty`] then, which makes it ready for the next time. `None` without cgroups: there is [`Watcher`].
    ///
    /// The kernel tells the first change at once, and a second within 10 ms of it at their end
    /// (`CGROUP_FILE_NOTIFY_MIN_INTV`).
    #[must_use]
    pub fn events_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.0.place {
            Place::Cgroup { events, .. } => Some(events.as_fd()),
            Place::Tags { .. } => None,
        }
    }

    /// To be called with each main process that was just made, while it is not reaped yet: says who it is, and
    /// remembers it as the root of the tree where there is no cgroup.
    ///
    /// # Errors
    ///
    /// `ESRCH`: it was reaped already.
    pub fn spawned(&self, pid: i32, pidfd: BorrowedFd<'_>) -> io::Result<Process> {
        let stat = Handle::open(pid)?.and_then(|handle| handle.stat());
        let identity = stat.ok_or_else(|| io::Error::from(rustix::io::Errno::SRCH))?.identity;
        *lock(&self.0.main) = Some(identity);
        Ok(Process {
            pid,
            start_ticks: identity.start_ticks,
            pidfd_inode: pidfd_inode(pidfd)?,
            cgroup: self.cgroup_path().map(str::to_owned),
        })
    }

    /// Whether no process of it lives. Dead ones that wait to be reaped do not count. With a cgroup it is one
    /// pread(2); without, it goes through /proc.
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub fn is_empty(&self) -> io::Result<bool> {
        match &self.0.place {
            Place::Cgroup { events, .. } => Ok(!cgroup::is_populated(events)?),
            Place::Tags { tag, adopters } => {
                let mut empty = true;
                self.search(tag, *adopters, |_, _| {
                    empty = false;
                    Ok(ControlFlow::Break(()))
                })?;
                Ok(empty)
            }
        }
    }

    /// Sends a signal to every process that is in the tree now, and SIGCONT after it, so that stopped ones notice.
    /// Says how many it reached.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the signal has no name (signal(7): 1 to 31 have). Otherwise the first refusal, after all were tried.
    pub fn signal(&self, signal: i32) -> io::Result<usize> {
        let signal = Signal::from_named_raw(signal).ok_or(rustix::io::Errno::INVAL)?;
        let wakes =
            ![Signal::KILL, Signal::STOP, Signal::TSTP, Signal::TTIN, Signal::TTOU, Signal::CONT].contains(&signal);
        let mut reached = BTreeSet::new();
        let mut refused = None;
        for _ in 0..SIGNAL_PASSES {
            let before = reached.len();
            self.each(|handle, identity| {
                if reached.insert(identity) {
                    let sent =
                        handle.send(signal).and_then(|_| if wakes { handle.send(Signal::CONT) } else { Ok(true) });
                    refused = refused.take().or(sent.err());
                }
                Ok(())
            })?;
            if reached.len() == before {
                break;
            }
        }
        refused.map_or(Ok(reached.len()), Err)
    }

    /// SIGKILL for every process of the tree. With a cgroup that includes what they fork meanwhile; without, it is
    /// one round, and [`Watcher`] repeats it. Does not wait for their end.
    ///
    /// # Errors
    ///
    /// The first refusal, after all were tried.
    pub fn kill(&self) -> io::Result<()> {
        match &self.0.place {
            Place::Cgroup { group, .. } => group.kill(),
            Place::Tags { tag, adopters } => {
                let mut refused = None;
                self.search(tag, *adopters, |handle, _| {
                    refused = refused.take().or(handle.send(Signal::KILL).err());
                    Ok(ControlFlow::Continue(()))
                })?;
                refused.map_or(Ok(()), Err)
            }
        }
    }

    fn each(&self, mut each: impl FnMut(&Handle, Identity) -> io::Result<()>) -> io::Result<()> {
        match &self.0.place {
            Place::Cgroup { group, .. } => {
                group.each(|handle| handle.stat().map_or(Ok(()), |stat| each(&handle, stat.identity)))
            }
            Place::Tags { tag, adopters } => {
                self.search(tag, *adopters, |handle, identity| each(handle, identity).map(ControlFlow::Continue))
            }
        }
    }

    /// Gives every process that lives in it now, and what its `stat` said where that was read to find it. `known` were given
    /// before: finding them again costs less.
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub(crate) fn look(
        &self,
        known: Vec<Handle>,
        mut each: impl FnMut(Handle, Option<&Stat>) -> io::Result<()>,
    ) -> io::Result<()> {
        match &self.0.place {
            Place::Cgroup { group, .. } => group.each_with(known, |handle| each(handle, None)),
            Place::Tags { tag, adopters } => {
                let main = *lock(&self.0.main);
                let search = Search { tag, mains: main.as_slice(), adopters: *adopters };
                search.each(|handle, stat, _| each(handle, Some(stat)).map(ControlFlow::Continue))
            }
        }
    }

    fn search(
        &self,
        tag: &Tag,
        adopters: Adopters,
        mut each: impl FnMut(&Handle, Identity) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<()> {
        let main = *lock(&self.0.main);
        Search { tag, mains: main.as_slice(), adopters }.each(|handle, stat, _| each(&handle, stat.identity))
    }
}

/// One run of a program that checks a service: what it leaves behind is killed when this is dropped.
#[derive(Debug)]
pub struct ProbeGroup {
    tree: Tree,
    tag: String,
    /// The group that its own is in, and the own one's name.
    home: Option<(Group, String)>,
    unremoved: Arc<Mutex<Vec<String>>>,
}

impl ProbeGroup {
    /// The directory of its cgroup, as [`Tree::cgroup`].
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.tree.cgroup()
    }

    /// What must stand in the program's environment, instead of the service's tag.
    #[must_use]
    pub fn environment_tag(&self) -> String {
        format!("{VARIABLE}={}", self.tag)
    }

    /// The same as name and value, for a program whose `HALE_SERVICE` is for itself to read.
    #[must_use]
    pub fn second_tag(&self) -> (&'static str, &str) {
        (SECOND_VARIABLE, &self.tag)
    }

    /// Its processes. Without cgroups, tell it of the first one by [`Tree::spawned`], or nothing is killed at the end.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// SIGKILL for all of them, as [`Tree::kill`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn kill(&self) -> io::Result<()> {
        self.tree.kill()
    }
}

impl Drop for ProbeGroup {
    fn drop(&mut self) {
        // The kernel refuses to remove a group with living processes: the usual, empty one needs one call only.
        let Some((home, name)) = &self.home else {
            // Looking for processes takes milliseconds: only where there was one.
            if lock(&self.tree.0.main).is_some() {
                let _ = self.kill();
            }
            return;
        };
        if home.remove_child(name).is_ok() {
            return;
        }
        let _ = self.kill();
        let mut unremoved = lock(&self.unremoved);
        if unremoved.len() < UNREMOVED_MAX {
            unremoved.push(name.clone());
        }
    }
}

/// Whether this kernel numbers pidfds within a boot (Linux 6.9 and later).
#[must_use]
pub fn has_unique_pidfds() -> bool {
    let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
    own.is_ok_and(|pidfd| pidfd_inode(pidfd.as_fd()).is_ok_and(|inode| inode != 0))
}

/// The inode of a pidfd, or 0 where all of them share one (before Linux 6.9).
fn pidfd_inode(pidfd: BorrowedFd<'_>) -> io::Result<u64> {
    let is_pidfs = u64::try_from(fstatfs(pidfd)?.f_type) == Ok(PIDFS_MAGIC);
    Ok(if is_pidfs { fstat(pidfd)?.st_ino } else { 0 })
}

/// Nothing that is kept behind these locks can be left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
