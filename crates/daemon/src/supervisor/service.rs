//! One service on the real host: its slot, tree, pidfd, notify socket, and the order that starts it.

use super::early::Early;
use super::evidence::{Collector, Job};
use super::host::{LAST_TURNS, listen_keys};
use super::inheritance::Kept;
use super::left::Left;
use super::prepare::{Listening, Paths, Prepared};
use crate::execute::descriptors::Kinds;
use crate::execute::environment;
use crate::execute::listen::ListenSocket;
use crate::execute::tree::{Tree, Trees, Until, Watcher};
use crate::execute::user::Identity;
use crate::keeper::client::KeeperClient;
use crate::keeper::protocol::LogTarget;
use crate::monitor::memory::MemoryWatch;
use crate::monitor::notify::{Membership, NotifySocket, Said};
use crate::monitor::probe::Figure;
use crate::protocol::{self, Slot, SpawnOrder, StoreKey};
use crate::supervisor::client::GuardianClient;
use crate::sys::child::Step;
use hale_core::descriptor::Stored;
use hale_core::event::{Notice, Process, SpawnFailure};
use hale_core::ids::{Epoch, Name};
use hale_core::memory::{MemoryAtExit, OomKills, OomScope};
use hale_core::policy::{HostPolicy, ListenAddress, ResourceLimits, ServicePolicy, Signal};
use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::CString;
use std::fs::symlink_metadata;
use std::io;
use std::iter;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

/// A service as the host holds it.
#[derive(Debug)]
pub(super) struct Hosted {
    name: Name,
    slot: Slot,
    log: LogTarget,
    notify_path: Option<PathBuf>,
    /// Made at the first start, kept for all that follow.
    ready: Option<Ready>,
    /// The newest process that was ordered.
    newest: Epoch,
    /// It, while it lives.
    process: Option<Living>,
    /// Somebody waits for the end of the tree of this process.
    ending: Option<Epoch>,
    /// The watcher found it empty.
    found_empty: bool,
    /// The tree must be made anew: it was killed, or a start in it failed, as when somebody removed its cgroup.
    stale: bool,
    /// The newest order was sent to the guardian, which answers it.
    sent: bool,
    /// The newest order was taken back before it was sent.
    cancelled: bool,
    /// What the newest process said before the guardian's word of it.
    early: Early,
    /// Whom the service runs as, once it has a notify socket.
    owner: u32,
    /// Where it listens, over all its processes.
    listening: Listening,
    /// What it left for its next process.
    pub(super) left: Left,
    /// What of that the newest process gets.
    passing: Vec<Stored>,
    /// The guardian keeps all of them; unknown after a start that failed.
    stored: bool,
    /// All of them were sent there once more for the newest process.
    resent: bool,
    /// Its notify socket is not watched while too much of what it sent is to be closed.
    pub(super) muted: bool,
    /// What the last order was about, for failures that name only a step.
    last: (String, String),
    /// The directory of the generation that the newest process is of, where it has one.
    pub(super) root: Option<PathBuf>,
}

#[derive(Debug)]
struct Ready {
    tree: Tree,
    /// What the kernel enforces for the tree; `None`: not known, as after a supervisor that was lost.
    limits: Option<ResourceLimits>,
    memory: MemoryWatch,
    notify: Option<Notify>,
}

impl Ready {
    /// Sets the limits of the tree, unless it has just these. Gives the file that the kernel refused.
    fn limit(&mut self, limits: &ResourceLimits) -> Result<(), (&'static str, io::Error)> {
        if self.limits != Some(*limits) {
            self.tree.limit(limits)?;
            self.limits = Some(*limits);
        }
        Ok(())
    }
}

/// A notify socket, and who may speak on it.
#[derive(Debug)]
struct Notify {
    socket: NotifySocket,
    member: Membership,
    /// Of its file: somebody may remove it.
    inode: u64,
}

#[derive(Debug)]
struct Living {
    epoch: Epoch,
    pid: i32,
    /// The kernel's log says that it was taken for memory.
    oom: Option<OomScope>,
    /// Signals it, and nobody else that has its pid later.
    pidfd: Option<OwnedFd>,
}

impl Hosted {
    /// A service that was never started.
    pub(super) fn new(name: &Name, slot: Slot, policy: &ServicePolicy, host: &HostPolicy) -> Self {
        let log = log_target(name, slot, policy, host);
        let notify_path = policy.wants_notify().then(|| notify_path(name, host));
        Self {
            name: name.clone(),
            slot,
            log,
            notify_path,
            ready: None,
            newest: Epoch(0),
            process: None,
            ending: None,
            found_empty: false,
            stale: false,
            sent: false,
            cancelled: false,
            early: Early::default(),
            owner: 0,
            listening: Listening::new(),
            left: Left::new(slot),
            passing: Vec::new(),
            stored: true,
            resent: false,
            muted: false,
            last: (String::new(), String::new()),
            root: None,
        }
    }

    /// Takes another policy for what outlives processes. Says whether its output goes elsewhere, or by other bounds, and the
    /// keeper has to know that now.
    pub(super) fn adapt(&mut self, policy: &ServicePolicy, host: &HostPolicy) -> bool {
        let log = log_target(&self.name, self.slot, policy, host);
        let is_other = log != self.log;
        self.log = log;
        // A process that was given a socket keeps it, whether it is asked for anything on it or not.
        if policy.wants_notify() {
            self.expect_notify(host);
        }
        is_other && self.ready.is_some()
    }

    /// Its processes are given a notify socket.
    pub(super) fn expect_notify(&mut self, host: &HostPolicy) {
        self.notify_path.get_or_insert_with(|| notify_path(&self.name, host));
    }

    /// The sockets of its that listen at one of these addresses.
    pub(super) fn listening_at<'a>(
        &'a self,
        addresses: &'a BTreeMap<String, ListenAddress>,
    ) -> impl Iterator<Item = (String, Arc<ListenSocket>)> + 'a {
        let wanted = |socket: &Arc<ListenSocket>| addresses.values().any(|address| address == socket.address());
        let named = |(name, socket): (&String, &Arc<ListenSocket>)| (format!("{}/{name}", self.name), socket.clone());
        self.listening.iter().filter(move |(_, socket)| wanted(socket)).map(named)
    }

    /// The keys of what the guardian keeps of its sockets.
    pub(super) fn keys(&self) -> Vec<StoreKey> {
        let notify = self.notify_fd().map(|_| StoreKey::Notify(self.slot));
        notify.into_iter().chain(listen_keys(self.slot, 0..self.listening.len())).collect()
    }

    /// Takes over what an earlier supervisor has made: the tree, the notify socket, and the process, if it lives. Says who
    /// the process is, and whether nothing of the tree is left.
    pub(super) fn adopt(
        &mut self,
        kept: Kept,
        notify: Option<OwnedFd>,
        trees: &Trees,
    ) -> io::Result<(Option<Process>, bool)> {
        let tree = trees.prepare(&self.name)?;
        // Its file belongs to whom it was made for.
        let found = self.notify_path.as_deref().and_then(|path| symlink_metadata(path).ok());
        self.owner = found.as_ref().map_or_else(|| rustix::process::geteuid().as_raw(), MetadataExt::uid);
        let notify = self.notify_path.as_deref().zip(notify).map(|(path, socket)| Notify {
            socket: NotifySocket::inherited(path, socket),
            member: membership(&tree, self.owner),
            inode: found.as_ref().map_or(0, MetadataExt::ino),
        });
        (self.newest, self.sent) = (kept.epoch, true);
        let is_on_its_way = !kept.executed && kept.exit.is_none() && kept.failure.is_none() && kept.process.is_some();
        self.early = if is_on_its_way { Early::ordered() } else { Early::default() };
        let mut process = None;
        if let Some((pid, pidfd)) = kept.process.filter(|_| kept.exit.is_none() && kept.failure.is_none()) {
            process = pidfd.as_ref().and_then(|pidfd| tree.spawned(pid, pidfd.as_fd()).ok());
            self.process = Some(Living { epoch: kept.epoch, pid, oom: None, pidfd });
        }
        let empty = tree.is_empty().unwrap_or(false);
        let mut memory = MemoryWatch::open(&tree);
        if self.process.is_none() && kept.exit.is_none() {
            // Its end was told to an earlier supervisor: the next process does not begin with its counts.
            let _ = memory.at_exit();
        }
        self.ready = Some(Ready { tree, limits: None, memory, notify });
        Ok((process, empty))
    }

    /// Takes over a listening socket that an earlier supervisor has bound.
    pub(super) fn adopt_socket(&mut self, name: &str, socket: ListenSocket) {
        self.listening.insert(String::from(name), Arc::new(socket));
        // The guardian has it perhaps under another number than the next process gets it by.
        self.stored = false;
    }

    /// The notify socket, to be watched.
    pub(super) fn notify_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ready.as_ref()?.notify.as_ref()?.socket.as_fd())
    }

    /// Says where its output goes.
    pub(super) fn configure(&self, keeper: &mut KeeperClient) -> io::Result<()> {
        keeper.configure(self.log.clone()).map_err(io::Error::other)
    }

    pub(super) fn slot(&self) -> Slot {
        self.slot
    }

    pub(super) fn newest(&self) -> Epoch {
        self.newest
    }

    /// Takes an order for a new process, which gets these of what earlier ones left, and is of a generation in this directory.
    pub(super) fn begin(&mut self, epoch: Epoch, passing: Vec<Stored>, root: Option<PathBuf>) {
        self.root = root;
        self.newest = epoch;
        self.passing = passing;
        self.ending = None;
        self.found_empty = false;
        (self.sent, self.cancelled) = (false, false);
    }

    /// Whether the order for this process is still wanted and not sent.
    pub(super) fn is_due(&self, epoch: Epoch) -> bool {
        self.newest == epoch && !self.sent && !self.cancelled
    }

    /// Takes back the newest order, which is still being prepared: a file system hangs, and the service must be ended.
    pub(super) fn cancel(&mut self) -> SpawnFailure {
        self.cancelled = true;
        failure("preparation", "", &io::Error::other("program, user or environment files could not be read in time"))
    }

    /// The process could not be made: the next one starts in a fresh tree, and with all in the guardian's store that may be
    /// missing there. If that was tried already, what the service left is given up rather than the service.
    pub(super) fn not_made(&mut self, failed: Step) -> Vec<Stored> {
        self.process = None;
        self.early = Early::default();
        self.stale = true;
        let again = !std::mem::take(&mut self.stored) || self.resent;
        if failed == Step::Listen && again { std::mem::take(&mut self.passing) } else { Vec::new() }
    }

    /// The next process gets a tree that nothing was ever killed in.
    pub(super) fn start_afresh(&mut self) {
        self.stale = true;
    }

    /// Leaves what the service sent to the end of this process.
    pub(super) fn forget_left(&mut self) {
        std::mem::forget(std::mem::replace(&mut self.left, Left::new(self.slot)));
    }

    /// Makes, at the first start, what outlives each single process; and after a kill the tree anew: Linux goes on
    /// killing whatever is forked into a cgroup that `cgroup.kill` was ever written to
    /// (docs/decisions/0008-a-fresh-cgroup-after-a-kill.md).
    pub(super) fn ensure(
        &mut self,
        trees: &Trees,
        keeper: &mut KeeperClient,
        limits: &ResourceLimits,
    ) -> Result<(), SpawnFailure> {
        // What is counted in a group belongs to the process that runs in it: whoever looks later, as a new supervisor
        // does, need not know what was counted before.
        self.stale |= self.ready.as_ref().is_some_and(|ready| ready.memory.has_counted());
        match &mut self.ready {
            Some(ready) if !self.stale => match ready.tree.is_empty() {
                Ok(true) => {}
                Ok(false) => return Err(left_over()),
                Err(error) => return Err(failure("cgroup", "", &error)),
            },
            Some(ready) => {
                // Whoever looks after the one before, where there are no cgroups, must not take what is made now for its own.
                ready.tree.begin_term();
                ready.tree = fresh_tree(trees, &self.name)?;
                ready.limits = Some(ResourceLimits::default());
                ready.memory = MemoryWatch::open(&ready.tree);
                if let Some(notify) = &mut ready.notify {
                    notify.member = membership(&ready.tree, self.owner);
                }
            }
            None => {
                let tree = fresh_tree(trees, &self.name)?;
                self.configure(keeper).map_err(|error| failure("keeper", "", &error))?;
                let memory = MemoryWatch::open(&tree);
                self.ready = Some(Ready { tree, limits: Some(ResourceLimits::default()), memory, notify: None });
            }
        }
        self.stale = false;
        if let Some(ready) = &mut self.ready {
            ready.limit(limits).map_err(|(file, error)| failure("limits", file, &error))?;
            ready.memory.begin();
        }
        Ok(())
    }

    /// Sets the limits of an adopted tree again: they are gone where controllers were taken back so that systemd could start
    /// the next guardian (docs/decisions/0018). Gives the file that the kernel refused.
    pub(super) fn limit(&mut self, limits: &ResourceLimits) -> Result<(), (&'static str, io::Error)> {
        self.ready.as_mut().map_or(Ok(()), |ready| ready.limit(limits))
    }

    pub(super) fn tree(&self) -> Option<&Tree> {
        self.ready.as_ref().map(|ready| &ready.tree)
    }

    /// Makes the notify socket before the first process that needs it, and gives it to be watched. Only the service's user
    /// may send to it; a service that starts as root may change its user, so everybody may, and its cgroup decides.
    pub(super) fn listen(&mut self, user: Option<&Identity>) -> Result<Option<BorrowedFd<'_>>, SpawnFailure> {
        let (Some(path), Some(ready)) = (&self.notify_path, &mut self.ready) else { return Ok(None) };
        let in_place = |bound: &Notify| symlink_metadata(path).is_ok_and(|found| found.ino() == bound.inode);
        if ready.notify.as_ref().is_some_and(in_place) {
            return Ok(None);
        }
        // First, because it removes its file.
        ready.notify = None;
        let own = rustix::process::geteuid();
        let owner = user.map(|user| user.uid).or((!own.is_root()).then_some(own.as_raw()));
        let socket = NotifySocket::bind(path, owner)
            .map_err(|error| failure("notify socket", &path.to_string_lossy(), &io::Error::other(error)))?;
        self.owner = owner.unwrap_or(own.as_raw());
        let member = membership(&ready.tree, self.owner);
        let inode = symlink_metadata(path).map_or(0, |made| made.ino());
        Ok(Some(ready.notify.insert(Notify { socket, member, inode }).socket.as_fd()))
    }

    /// Gives up the notify socket, which could not be watched; the next start makes another one.
    pub(super) fn unlisten(&mut self) {
        if let Some(ready) = &mut self.ready {
            ready.notify = None;
        }
    }

    /// Where the service's process is to find what Hale gives it.
    pub(super) fn paths(&self, trees: &Trees) -> Paths {
        Paths {
            tag: trees.environment_tag(&self.name),
            notify: self.notify_path.clone(),
            listening: self.listening.clone(),
            root: self.root.clone(),
        }
    }

    /// Has the guardian keep what it does not have yet, and says what the process gets of its store.
    fn store(&mut self, listening: &Listening, guardian: &mut GuardianClient) -> Result<Vec<StoreKey>, SpawnFailure> {
        let refused = |error| failure("order", "", &io::Error::other(error));
        let mut keys = Vec::with_capacity(listening.len() + self.passing.len());
        self.resent = !self.stored;
        if self.resent {
            for (_, key, fd) in self.left.all() {
                guardian.store(key, fd).map_err(refused)?;
            }
        }
        for ((index, socket), key) in listening.values().enumerate().zip(listen_keys(self.slot, 0..listening.len())) {
            let kept = self.listening.values().nth(index).is_some_and(|kept| Arc::ptr_eq(kept, socket));
            if !(kept && self.stored) {
                guardian.store(key, socket.as_fd()).map_err(refused)?;
            }
            keys.push(key);
        }
        // After a reload there may be fewer.
        for key in listen_keys(self.slot, listening.len()..self.listening.len()) {
            guardian.unstore(key).map_err(refused)?;
        }
        // What was given up since the order was made does not go to it any more.
        self.passing.retain(|stored| self.left.has(stored));
        keys.extend(self.passing.iter().map(|stored| StoreKey::Left(self.slot, stored.index)));
        self.listening = listening.clone();
        self.stored = true;
        Ok(keys)
    }

    /// Sends the order to the guardian.
    pub(super) fn order(
        &mut self,
        epoch: Epoch,
        prepared: &Prepared,
        guardian: &mut GuardianClient,
    ) -> Result<(), SpawnFailure> {
        self.last = (lossy(&prepared.program), lossy(&prepared.directory));
        let identity = prepared.identity.as_ref();
        let passed = self.store(&prepared.listening, guardian)?;
        let mut environment = prepared.environment.clone();
        if !passed.is_empty() {
            let left = self.passing.iter().map(|stored| stored.name.as_str());
            let names: Vec<&str> = prepared.listening.keys().map(String::as_str).chain(left).collect();
            environment.extend(environment::passed(&names));
        }
        let order = SpawnOrder {
            slot: self.slot,
            epoch,
            program: &prepared.program,
            argv: &prepared.argv,
            environment: &environment,
            directory: &prepared.directory,
            identity: identity.map(|user| protocol::Identity {
                uid: user.uid,
                gid: user.gid,
                groups: &user.groups[..],
            }),
            umask: 0o022,
            open_files_limit: prepared.open_files_limit,
            cgroup: self.tree().and_then(Tree::cgroup),
            passed: &passed,
        };
        if let Some(tree) = self.tree() {
            tree.begin_term();
        }
        guardian.spawn(&order).map_err(|error| failure("order", "", &io::Error::other(error)))?;
        self.early = Early::ordered();
        self.sent = true;
        Ok(())
    }

    /// Names the path that a failed step was about.
    pub(super) fn explain(&self, failed: protocol::SpawnFailure) -> SpawnFailure {
        let path = match failed.step {
            Step::Exec => self.last.0.clone(),
            Step::Directory => self.last.1.clone(),
            Step::Order
            | Step::Pipe
            | Step::Clone
            | Step::Session
            | Step::Cgroup
            | Step::Signals
            | Step::Stdio
            | Step::Listen
            | Step::OomScoreAdj
            | Step::Limits
            | Step::Groups
            | Step::User
            | Step::NoNewPrivs
            | Step::Marker => String::new(),
        };
        failure(failed.step.name(), &path, &io::Error::from_raw_os_error(failed.errno))
    }

    /// The guardian made the process.
    pub(super) fn spawned(&mut self, epoch: Epoch, pid: i32, pidfd: Option<OwnedFd>) -> Process {
        // One that was reaped already is known by its pid alone; its end is being reported.
        let unknown = Process { pid, start_ticks: 0, pidfd_inode: 0, cgroup: None };
        let known = self.tree().zip(pidfd.as_ref()).and_then(|(tree, pidfd)| tree.spawned(pid, pidfd.as_fd()).ok());
        self.process = Some(Living { epoch, pid, oom: None, pidfd });
        known.unwrap_or(unknown)
    }

    /// The main process was reaped. Says what the kernel tells of its memory.
    pub(super) fn gone(&mut self) -> Option<MemoryAtExit> {
        let by_log = self.process.take().and_then(|living| living.oom).map(|scope| OomKills { count: 1, scope });
        let counted = self.memory_mut().and_then(MemoryWatch::at_exit);
        match (counted, by_log) {
            (Some(at_exit), by_log) => Some(MemoryAtExit { oom: at_exit.oom.or(by_log), ..at_exit }),
            (None, Some(_)) => Some(MemoryAtExit { oom: by_log, report: Default::default() }),
            (None, None) => None,
        }
    }

    /// What the kernel counts of its memory.
    pub(super) fn memory(&self) -> Option<&MemoryWatch> {
        self.ready.as_ref().map(|ready| &ready.memory)
    }

    /// The same, to be asked for what is new.
    pub(super) fn memory_mut(&mut self) -> Option<&mut MemoryWatch> {
        self.ready.as_mut().map(|ready| &mut ready.memory)
    }

    /// Whether its main process, as far as is known, lives.
    pub(super) fn lives(&self) -> bool {
        self.process.is_some()
    }

    /// Whether its main process has this number.
    pub(super) fn is_main(&self, pid: i32) -> bool {
        self.process.as_ref().is_some_and(|living| living.pid == pid)
    }

    /// The kernel's log says that its main process is taken for memory.
    pub(super) fn oom_by_log(&mut self, scope: OomScope) {
        if let Some(living) = &mut self.process {
            living.oom = Some(scope);
        }
    }

    /// Whether the cgroup `path` is its own or in it.
    pub(super) fn holds(&self, path: &str) -> bool {
        self.tree().is_some_and(|tree| tree.contains(path))
    }

    /// Whether nothing of the tree is left; what cannot be read is taken for not empty: it will be killed and looked at
    /// again.
    pub(super) fn tree_is_empty(&self) -> bool {
        self.tree().is_none_or(|tree| tree.is_empty().unwrap_or(false))
    }

    /// Sends a signal to all of the tree.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(tree) = self.tree() {
            let _ = tree.signal(signal.0);
        }
    }

    /// SIGKILL to all of the tree.
    pub(super) fn kill_now(&mut self) {
        self.stale = true;
        if let Some(tree) = self.tree() {
            let _ = tree.kill();
        }
        if let Some(pidfd) = self.process.as_ref().and_then(|living| living.pidfd.as_ref()) {
            let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
        }
    }

    /// From now on the end of the tree is awaited: by the kernel's word where there is a cgroup, else by the watcher.
    pub(super) fn await_end(&mut self, epoch: Epoch, until: Until, watcher: &Watcher) {
        self.ending = Some(epoch);
        if let Some(tree) = self.tree().filter(|tree| tree.events_fd().is_none()) {
            watcher.watch(self.name.clone(), epoch, tree.clone(), until);
        }
    }

    /// The watcher says that the tree of this process is empty.
    pub(super) fn watcher_found_empty(&mut self, epoch: Epoch) {
        if self.ending == Some(epoch) {
            self.found_empty = true;
        }
    }

    /// The descriptor that tells when the tree becomes empty.
    pub(super) fn tree_events(&self) -> Option<BorrowedFd<'_>> {
        self.tree().and_then(Tree::events_fd)
    }

    /// The process whose tree was awaited to end, once it has, main process and all. Once.
    pub(super) fn ended_tree(&mut self) -> Option<Epoch> {
        let epoch = self.ending?;
        // Looked at even while the main process lives: only reading silences the kernel's signal.
        let empty = if self.tree_events().is_some() { self.tree_is_empty() } else { self.found_empty };
        if !empty || self.process.is_some() {
            return None;
        }
        self.ending = None;
        Some(epoch)
    }

    /// The process that can be heard, which is one that nobody knows to have ended.
    pub(super) fn heard_as(&self) -> Option<Epoch> {
        if self.early.is_awaited() { Some(self.newest) } else { self.process.as_ref().map(|living| living.epoch) }
    }

    /// What its process says, held back until the guardian's word of it.
    pub(super) fn early(&mut self) -> &mut Early {
        &mut self.early
    }

    /// What a process that has ended has left, and taken back, before that.
    pub(super) fn hear_left(&mut self, kinds: &Kinds) -> Vec<Notice> {
        let about_left = |notice: &Notice| match notice {
            Notice::Store(_) | Notice::NotStored { .. } | Notice::Unstore { .. } => true,
            Notice::Ready
            | Notice::Heartbeat
            | Notice::HeartbeatTrigger
            | Notice::HeartbeatWithin(_)
            | Notice::ExtendTimeout(_)
            | Notice::Status(_) => false,
        };
        let turns = std::iter::repeat_with(|| self.hear(kinds)).take(LAST_TURNS);
        turns.take_while(|heard| heard.any).flat_map(|heard| heard.notices).filter(about_left).collect()
    }

    /// What the service says on its notify socket, in one turn.
    pub(super) fn hear(&mut self, kinds: &Kinds) -> Heard {
        let Some(ready) = &mut self.ready else { return Heard::default() };
        let Some(Notify { socket, member, .. }) = &mut ready.notify else { return Heard::default() };
        let received = socket.receive(&|sender| member.has(sender));
        let any = received.rejected > 0 || !(received.said.is_empty() && received.unwanted.is_empty());
        let mut notices = Vec::with_capacity(received.said.len());
        let mut figures = Vec::new();
        for said in received.said {
            match said {
                Said::Notice(notice) => notices.push(notice),
                Said::Figure(figure) => figures.push(figure),
                Said::Left { name, watched, fds } => {
                    notices.extend(fds.into_iter().filter_map(|fd| self.left.offer(fd, &name, watched, kinds)));
                }
            }
        }
        self.left.refuse(received.unwanted);
        Heard { notices, figures, any }
    }

    /// Has the last lines of output read, on another thread.
    pub(super) fn collect(&self, job: Job, collector: &Collector) {
        collector.collect(self.name.clone(), PathBuf::from(lossy(&self.log.directory)), job);
    }
}

/// What a service said in one turn.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) notices: Vec<Notice>,
    /// What it said of itself, for its checks.
    pub(super) figures: Vec<Figure>,
    /// Whether there was anything, be it only from strangers.
    pub(super) any: bool,
}

fn log_target(name: &Name, slot: Slot, policy: &ServicePolicy, host: &HostPolicy) -> LogTarget {
    LogTarget {
        slot,
        directory: CString::new(format!("{}/{name}", host.log_dir)).unwrap_or_default(),
        max_size_bytes: policy.log.max_size_bytes,
        keep: policy.log.keep,
        rate_bytes: policy.log.rate_bytes,
    }
}

fn notify_path(name: &Name, host: &HostPolicy) -> PathBuf {
    PathBuf::from(format!("{}/notify/{name}", host.runtime_dir))
}

/// A tree that nothing was ever killed in, and that has no limits.
fn fresh_tree(trees: &Trees, name: &Name) -> Result<Tree, SpawnFailure> {
    match trees.remove(name) {
        Ok(()) => trees.prepare(name).map_err(|error| failure("cgroup", "", &error)),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Err(left_over()),
        Err(error) => Err(failure("cgroup", "", &error)),
    }
}

fn left_over() -> SpawnFailure {
    failure("leftovers", "", &io::Error::other("processes of an earlier start are still there, and survive SIGKILL"))
}

/// What tells the service's processes from others when they speak on the notify socket.
fn membership(tree: &Tree, uid: u32) -> Membership {
    match (tree.cgroup_id(), tree.cgroup_path()) {
        (Some(id), Some(path)) => Membership::Cgroup { id, path: String::from(path) },
        (_, None) | (None, _) => Membership::User { uid },
    }
}

/// A failure before the guardian was asked.
pub(super) fn failure(step: &str, path: &str, error: &(dyn Error + 'static)) -> SpawnFailure {
    let below = iter::successors(Some(error), |&error| error.source());
    let errno = below.filter_map(|error| error.downcast_ref::<io::Error>()).find_map(io::Error::raw_os_error);
    SpawnFailure { step: String::from(step), path: String::from(path), errno: errno.unwrap_or(0), error: bare(error) }
}

/// The error's words without the number that stands in `errno` already.
fn bare(error: &dyn Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or(text.clone(), |(words, _)| String::from(words))
}

fn lossy(text: &std::ffi::CStr) -> String {
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_an_error_stands_once() {
        let failed = failure("exec", "/x", &io::Error::from_raw_os_error(2));
        assert_eq!(failed.to_string(), "exec /x: No such file or directory (errno 2)");
    }
}
