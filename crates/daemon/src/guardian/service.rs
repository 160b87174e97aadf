//! One service's process: from the order over its program's start to its end.

use crate::guardian::end::Phase;
use crate::guardian::marker::{End, Marker};
use crate::guardian::run::{Guardian, Token};
use crate::guardian::slots::{Entry, Life, OutputPipe, Start};
use crate::guardian::systemd::KeptOf;
use crate::guardian::wait::await_room;
use crate::protocol::text::Text;
use crate::protocol::{MAX_PASSED, MAX_SERVICES, Slot, Spawn, SpawnFailure, StoreKey};
use crate::sys::child::{
    LOW_FDS, ListenPid, Plan, Program, ProgramFds, STATUS_APART, STATUS_FAILURE_BYTES, Step, spawn,
};
use crate::sys::fds::high;
use crate::sys::pidfd::exit_of;
use crate::sys::wait::Exit;
use hale_core::ids::Epoch;
use rustix::event::epoll::{self, EventFlags};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Rlimit;
use rustix::thread::{Gid, Uid};
use std::fmt::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Up to so many slots a child copies this process's descriptors, about five for each: by the figures at [`LOW_FDS`] some 15 µs,
/// less than to be interrupted by this process, which has to be told when they are not shared any more ([`STATUS_APART`]).
const SLOTS_COPIED: usize = 40;

impl Guardian {
    /// Whether an order may be followed at all.
    pub(super) fn admit(&mut self, order: &Spawn<'_>, has_fd: bool) -> Result<(), Errno> {
        if order.slot.0 >= MAX_SERVICES {
            return Err(Errno::RANGE);
        }
        if has_fd != order.cgroup {
            // Sent with it, as all orders are: there was no descriptor left here to receive it in.
            return Err(if order.cgroup { Errno::MFILE } else { Errno::BADMSG });
        }
        if !matches!(self.phase, Phase::Running) {
            return Err(Errno::SHUTDOWN);
        }
        let entry = self.slots.entry(order.slot).ok_or(Errno::RANGE)?;
        match entry.life {
            Life::Running { .. } => return Err(Errno::BUSY),
            Life::Ended { .. } if !is_told_end(entry) => return Err(Errno::BUSY),
            Life::Ended { .. } | Life::Empty => {}
        }
        if order.epoch <= entry.epoch { Err(Errno::STALE) } else { Ok(()) }
    }

    pub(super) fn spawn(&mut self, order: &Spawn<'_>, cgroup: Option<OwnedFd>) {
        let slot = order.slot;
        let made = self.start_service(order, cgroup.as_ref().map(AsFd::as_fd));
        let Some(entry) = self.slots.get(slot) else { return };
        entry.epoch = order.epoch;
        // Where the last process's strays may still be: kept until there is a next one.
        if let Some(cgroup) = cgroup {
            entry.cgroup = high(cgroup).ok();
        }
        match made {
            Ok((pid, pidfd, start)) => {
                // Without the watch its program's start is told when it ends: late, but nothing is lost.
                let token = Token::Status(slot).data();
                let _ = epoll::add(&self.epoll, &start.status, token, EventFlags::IN);
                entry.start = Some(start);
                entry.pidfd = high(pidfd).ok();
                entry.untold.spawned = true;
                entry.unmarked = None;
                self.slots.set_running(slot, pid);
            }
            Err((step, errno)) => {
                let failure = SpawnFailure { step, errno: errno.raw_os_error() };
                entry.life = Life::Ended { pid: 0, end: End::Failed(failure) };
                entry.untold.ended = true;
            }
        }
        // First of all: what a supervisor knows, a guardian after this one knows.
        self.tell_systemd_of(slot);
        self.tell(slot);
        self.offer_pipe(slot);
    }

    /// Makes the child, with the fewest calls before the clone.
    pub(super) fn start_service(
        &mut self,
        order: &Spawn<'_>,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<(i32, OwnedFd, Start), (Step, Errno)> {
        let pipe_failed = |errno| (Step::Pipe, errno);
        let entry = self.slots.entry(order.slot).ok_or((Step::Order, Errno::RANGE))?;
        if entry.pipe.is_none() {
            entry.pipe = Some(OutputPipe::new().map_err(pipe_failed)?);
            entry.unoffered = true;
        }
        let pipe = entry.pipe.as_ref().ok_or((Step::Pipe, Errno::BADF))?;
        let output = rustix::io::fcntl_dupfd_cloexec(&pipe.write, 3).map_err(pipe_failed)?;
        let (status, status_end) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(pipe_failed)?;

        let mut marker = Marker::new();
        if let Some((epoch, pid, end)) = entry.unmarked {
            marker = marker.ended(epoch, pid, end);
        }
        let marker = marker.starting(order.epoch);
        let mut passed = [output.as_fd(); MAX_PASSED];
        let (mut count, mut sockets) = (0, 0);
        for (place, key) in passed.iter_mut().zip(order.passed.iter()) {
            *place = self.store.get(key).ok_or((Step::Listen, Errno::MFILE))?;
            count += 1;
            // They come first.
            sockets += usize::from(matches!(key, StoreKey::Listen(..)));
        }
        let listen_pid = ListenPid::new();
        let listen_pid = (count > 0).then_some(&listen_pid);
        // The store is above LOW_FDS: a child that gets something of it needs a copy of the whole table.
        let low = count == 0 && output.as_raw_fd() < LOW_FDS && status_end.as_raw_fd() < LOW_FDS;
        self.crowded |= status_end.as_raw_fd() > LOW_FDS / 2;
        let leave_high_fds = self.can_leave_high_fds && low && self.slots.all().len() > SLOTS_COPIED;
        let [argv, environment] = &mut self.pointers;
        let too_big = (Step::Order, Errno::TOOBIG);
        self.groups.clear();
        if let Some(identity) = &order.identity {
            // Within the capacity: both bounds are MAX_GROUPS.
            self.groups.extend(identity.groups.iter().map(Gid::from_raw));
        }
        let groups = &self.groups[..];
        let identity = order.identity.as_ref();
        let limit = order.open_files_limit.map_or(self.open_files, |limit| {
            let limit = (limit != u64::MAX).then_some(limit);
            Rlimit { current: limit, maximum: limit }
        });
        let child = spawn(&Plan {
            leave_high_fds,
            dies_with: None,
            status: status_end.as_fd(),
            fds: ProgramFds::Service { output: output.as_fd(), passed: &passed[..count], sockets },
            cgroup,
            oom_score_adj: self.oom_score_adj.as_deref(),
            open_files: Some(limit),
            identity: identity.map(|who| (Uid::from_raw(who.uid), Gid::from_raw(who.gid), groups)),
            no_new_privs: true,
            umask: Some(Mode::from_raw_mode(order.umask)),
            directory: Some(order.directory),
            marker: Some(marker.bytes()),
            program: Program::Path(order.program),
            argv: argv.fill(order.argv.iter()).ok_or(too_big)?,
            environment: environment.fill_with(order.environment.iter(), listen_pid).ok_or(too_big)?,
            listen_pid,
        });
        let (pid, pidfd) = child?;
        Ok((pid, pidfd, Start { status, ends: leave_high_fds.then_some((status_end, output)), failure: None }))
    }

    /// The supervisor knows how this process ended.
    pub(super) fn acknowledge(&mut self, slot: Slot, epoch: Epoch) {
        if let Some(entry) = self.slots.get(slot)
            && entry.epoch == epoch
            && is_told_end(entry)
        {
            entry.life = Life::Empty;
            entry.pidfd = None;
            self.tell_systemd_of(slot);
        }
    }

    /// The service was removed.
    pub(super) fn release(&mut self, slot: Slot) {
        self.write_end_marker(slot);
        let Some(entry) = self.slots.get(slot) else { return };
        if !matches!(entry.life, Life::Running { .. }) {
            let kept = KeptOf { released: entry.kept.output, ..entry.kept };
            *entry = Entry { epoch: entry.epoch, kept, ..Entry::default() };
            self.tell_systemd_of(slot);
            while let Some(key) = self.store.of(slot) {
                let was_kept = self.store.remove(key);
                self.stored(key, was_kept);
            }
        }
    }

    /// The process of a slot that an earlier guardian made has ended, or was reaped by whoever is its parent now.
    pub(super) fn on_adopted(&mut self, slot: Slot, flags: EventFlags) {
        let Some(entry) = self.slots.get(slot) else { return };
        let (Life::Running { pid }, Some(pidfd)) = (entry.life, &entry.pidfd) else { return };
        let told = exit_of(pidfd.as_fd());
        if told.is_none() && self.tells_exits && !flags.contains(EventFlags::HUP) {
            // Its status comes once it is reaped: that is told without being asked for.
            let _ = epoll::modify(&self.epoll, pidfd, Token::Adopted(slot).data(), EventFlags::empty());
            return;
        }
        let _ = epoll::delete(&self.epoll, pidfd);
        self.on_service_end(slot, pid, told.unwrap_or(Exit::Unknown));
    }

    pub(super) fn on_service_end(&mut self, slot: Slot, pid: i32, exit: Exit) {
        // All that the child reported is in the pipe by now; only what was made for it here can still be open.
        if let Some(start) = self.slots.get(slot).and_then(|entry| entry.start.as_mut()) {
            start.ends = None;
            self.on_status(slot);
        }
        let Some(entry) = self.slots.get(slot) else { return };
        let mut end = End::Exited(exit);
        if let Some(start) = entry.start.take() {
            let _ = epoll::delete(&self.epoll, &start.status);
            match start.failure {
                Some(failure) => end = End::Failed(failure),
                None => entry.untold.executed = true,
            }
        }
        entry.life = Life::Ended { pid, end };
        entry.untold.ended = true;
        entry.unmarked = Some((entry.epoch, pid, end));
        // First of all, so that whoever asks for the output because of the end gets it with its border.
        self.write_end_marker(slot);
        self.tell(slot);
    }

    /// Reads what the slot's child reports about its way to its program.
    pub(super) fn on_status(&mut self, slot: Slot) {
        let Some(entry) = self.slots.get(slot) else { return };
        let Some(start) = entry.start.as_mut() else { return };
        let mut buffer = [0; 1 + STATUS_FAILURE_BYTES];
        loop {
            let read = match rustix::io::read(&start.status, &mut buffer) {
                Ok(read) => read,
                Err(Errno::INTR) => continue,
                Err(_) => return,
            };
            let mut report = &buffer[..read];
            if let [STATUS_APART, rest @ ..] = report {
                start.ends = None;
                report = rest;
            }
            if let [step, errno @ ..] = report
                && let Ok(errno) = errno.try_into()
            {
                let step = Step::from_number(*step).unwrap_or(Step::Exec);
                start.failure = Some(SpawnFailure { step, errno: i32::from_le_bytes(errno) });
            }
            if read == 0 {
                // Removed by hand: other children may still hold a copy of it, and would keep it watched.
                let _ = epoll::delete(&self.epoll, &start.status);
                // After a failure the end follows, and tells it.
                if start.failure.is_none() {
                    entry.untold.executed = true;
                    entry.start = None;
                }
                return;
            }
        }
    }

    /// Writes the line that says how the slot's process ended, now or as soon as there is room in the pipe.
    pub(super) fn write_end_marker(&mut self, slot: Slot) {
        let Some(entry) = self.slots.get(slot) else { return };
        let Some(pipe) = &entry.pipe else { return };
        let full = entry.unmarked.is_some_and(|(epoch, pid, end)| {
            rustix::io::write(&pipe.marks, Marker::new().ended(epoch, pid, end).bytes()) == Err(Errno::AGAIN)
        });
        if full {
            await_room(&self.epoll, &pipe.marks, Token::Room(slot));
        } else {
            entry.unmarked = None;
        }
    }
}

/// Whether the entry's process ended, and the supervisor was told.
fn is_told_end(entry: &Entry) -> bool {
    matches!(entry.life, Life::Ended { .. }) && !entry.untold.is_any()
}

impl OutputPipe {
    fn new() -> Result<Self, Errno> {
        // The capacity stays at the kernel's default, 64 KiB: more would let less trusted services pin kernel
        // memory, and users without rights have 64 MiB for all of their pipes (pipe(7)).
        let (read, _write) = pipe_with(PipeFlags::CLOEXEC)?;
        Self::with(read)
    }

    /// From the reading end alone, as the init system keeps it.
    pub(super) fn with(read: OwnedFd) -> Result<Self, Errno> {
        let [write, marks] = [OFlags::WRONLY, OFlags::WRONLY | OFlags::NONBLOCK].map(|flags| reopen(&read, flags));
        Ok(Self { read: high(read)?, write: high(write?)?, marks: high(marks?)? })
    }
}

/// The same pipe once more (proc_pid_fd(5)).
fn reopen(fd: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut path = Text::<32>::new();
    let _ = write!(path, "/proc/self/fd/{}", fd.as_raw_fd());
    open(path.bytes(), flags | OFlags::CLOEXEC, Mode::empty())
}
