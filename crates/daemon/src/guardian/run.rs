//! The guardian's loop: one thread that waits in epoll(7) only, and from here on allocates nothing.

use crate::guardian::end::Phase;
use crate::guardian::helpers::Helpers;
use crate::guardian::marker::{End, Marker};
use crate::guardian::protocol::{
    Answer, HostSignal, MAX_SERVICES, Order, Slot, Spawn, SpawnFailure, read_address, read_order,
};
use crate::guardian::slots::{Entry, Life, OutputPipe, Slots, Start};
use crate::keeper::protocol::pipe_message;
use crate::sys::child::{
    LOW_FDS, Plan, PointerSpace, Program, ProgramFds, STATUS_APART, STATUS_FAILURE_BYTES, Step, spawn,
};
use crate::sys::packet::{self, Received, Sent, receive, send};
use crate::sys::signals::SignalFd;
use crate::sys::wait::{Exit, reap};
use hale_core::ids::Epoch;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Rlimit;
use rustix::thread::{Gid, Uid};
use rustix::time::{ClockId, clock_gettime};
use std::fmt::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

/// How many events are taken from the kernel at once: a few hundred bytes of stack; more come with the next call.
const EVENTS_AT_ONCE: usize = 64;

/// How many orders are read before other events get their turn: one for each event that can be waiting.
const ORDERS_AT_ONCE: usize = EVENTS_AT_ONCE;

/// A keeper that lived shorter than this is not replaced at once, in milliseconds: it would die of the same thing
/// ten times a second at most, and a pipe holds the output of the time between.
const KEEPER_PAUSE_MS: u64 = 100;

/// The guardian, ready to run.
#[derive(Debug)]
pub struct Guardian {
    pub(super) epoll: OwnedFd,
    pub(super) signals: SignalFd,
    pub(super) helpers: Helpers,
    pub(super) slots: Slots,
    /// The socket to the supervisor, until the supervisor is lost.
    pub(super) supervisor: Option<OwnedFd>,
    pub(super) supervisor_pid: Option<i32>,
    pub(super) keeper: Option<Keeper>,
    /// When there is none: when the next one starts, on the monotonic clock.
    pub(super) keeper_due_ms: u64,
    /// Held as long as this process lives.
    pub(super) _locks: [OwnedFd; 2],
    /// Whether children can be made without copying the table of descriptors.
    pub(super) can_leave_high_fds: bool,
    /// What Hale was started with: services get it back.
    pub(super) open_files: Rlimit,
    /// What children write into their `oom_score_adj`; `None`: it was not changed.
    pub(super) oom_score_adj: Option<Vec<u8>>,
    /// Reserved for reading one order, and for its parts.
    pub(super) message: Vec<u8>,
    pub(super) pointers: [PointerSpace; 2],
    pub(super) groups: Vec<Gid>,
    /// Signals of the operator that the supervisor does not know of yet.
    pub(super) untold_signals: [bool; 3],
    pub(super) untold_keeper: bool,
    /// The refusal of an order that cannot be answered now; no further order is read before.
    pub(super) refusal: Option<Answer>,
    /// Whether the socket to the supervisor was full and is watched for room.
    pub(super) supervisor_full: bool,
    pub(super) phase: Phase,
}

/// A keeper that runs.
#[derive(Debug)]
pub(super) struct Keeper {
    pub pid: i32,
    pub socket: OwnedFd,
    pub since_ms: u64,
    /// Whether its socket was full and is watched for room.
    pub full: bool,
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Signals,
    Supervisor,
    Keeper,
    /// The status pipe of the slot's child.
    Status(Slot),
    /// Room in the slot's output pipe.
    Room(Slot),
}

impl Token {
    fn data(self) -> EventData {
        let (kind, slot) = match self {
            Self::Signals => (0, 0),
            Self::Supervisor => (1, 0),
            Self::Keeper => (2, 0),
            Self::Status(slot) => (3, slot.0),
            Self::Room(slot) => (4, slot.0),
        };
        EventData::new_u64(kind << 32 | u64::from(slot))
    }

    fn from_data(data: EventData) -> Option<Self> {
        let slot = Slot((data.u64() & u64::from(u32::MAX)) as u32);
        match data.u64() >> 32 {
            0 => Some(Self::Signals),
            1 => Some(Self::Supervisor),
            2 => Some(Self::Keeper),
            3 => Some(Self::Status(slot)),
            4 => Some(Self::Room(slot)),
            _ => None,
        }
    }
}

/// Milliseconds on the monotonic clock.
pub(super) fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

impl Guardian {
    /// Runs until everything has ended.
    #[must_use]
    pub fn run(mut self) -> ExitCode {
        let mut space = [MaybeUninit::<Event>::uninit(); EVENTS_AT_ONCE];
        loop {
            let timeout = self.deadline_ms().map(|deadline| {
                let wait = deadline.saturating_sub(now_ms());
                // Both parts are far below their types' bounds: every deadline is seconds away.
                Timespec { tv_sec: (wait / 1_000) as i64, tv_nsec: (wait % 1_000 * 1_000_000) as i64 }
            });
            // The only error that can come is an interruption, which is an empty turn.
            if let Ok((events, _)) = epoll::wait(&self.epoll, &mut space, timeout.as_ref()) {
                for event in events {
                    if let Some(token) = Token::from_data(event.data) {
                        self.on_event(token, event.flags);
                    }
                }
            }
            if let Some(code) = self.on_time() {
                return ExitCode::from(code);
            }
        }
    }

    fn on_event(&mut self, token: Token, flags: EventFlags) {
        match token {
            Token::Signals => self.on_signals(),
            Token::Supervisor => self.on_supervisor(flags),
            Token::Keeper => self.on_keeper(flags),
            Token::Status(slot) => {
                self.on_status(slot);
                self.tell(slot);
            }
            Token::Room(slot) => self.write_end_marker(slot),
        }
    }

    /// Watches the descriptor behind a token for input.
    pub(super) fn watch(&self, token: Token) -> Result<(), Errno> {
        let fd = match token {
            Token::Signals => self.signals.as_fd(),
            Token::Supervisor => self.supervisor.as_ref().ok_or(Errno::BADF)?.as_fd(),
            Token::Keeper | Token::Status(_) | Token::Room(_) => return Err(Errno::INVAL),
        };
        epoll::add(&self.epoll, fd, token.data(), EventFlags::IN)
    }

    fn on_signals(&mut self) {
        while let Some((signal, pid)) = self.signals.next() {
            match signal {
                libc::SIGTERM => self.on_host_signal(HostSignal::Terminate),
                libc::SIGINT => self.on_host_signal(HostSignal::Interrupt),
                libc::SIGHUP => self.on_host_signal(HostSignal::Hangup),
                libc::SIGCHLD => self.reap(Some(pid)),
                _ => {}
            }
        }
        // A signal that is pending twice comes once, so whatever else can be reaped is. That takes longer the more
        // children there are, so it comes after the one that is known was told.
        self.reap(None);
    }

    /// Reaps this child, or all that have ended.
    fn reap(&mut self, wanted: Option<i32>) {
        while let Ok(Some((pid, exit))) = reap(wanted) {
            self.on_reaped(pid, exit);
        }
    }

    fn on_host_signal(&mut self, signal: HostSignal) {
        if self.hurry(signal) {
            return;
        }
        self.untold_signals[signal as usize] = true;
        self.tell_rest();
    }

    fn on_reaped(&mut self, pid: i32, exit: Exit) {
        if let Some(slot) = self.slots.reaped(pid) {
            self.on_service_end(slot, pid, exit);
        } else if self.supervisor_pid == Some(pid) {
            self.supervisor_pid = None;
            // Its last word may still be unread.
            while self.read_order(false) {}
            self.on_supervisor_lost(Some(exit));
        } else if self.keeper.as_ref().is_some_and(|keeper| keeper.pid == pid) {
            let lived_ms = self.keeper.take().map_or(0, |keeper| now_ms().saturating_sub(keeper.since_ms));
            self.keeper_due_ms = now_ms() + if lived_ms < KEEPER_PAUSE_MS { KEEPER_PAUSE_MS } else { 0 };
        }
        // Anybody else is a stranger whose parents are all gone: reaped, and that is all.
    }

    fn on_service_end(&mut self, slot: Slot, pid: i32, exit: Exit) {
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
        entry.life = Life::Ended { end };
        entry.untold.ended = true;
        entry.unmarked = Some((entry.epoch, pid, end));
        // First of all, so that whoever asks for the output because of the end gets it with its border.
        self.write_end_marker(slot);
        self.tell(slot);
    }

    /// Reads what the slot's child reports about its way to its program.
    fn on_status(&mut self, slot: Slot) {
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

    fn on_supervisor(&mut self, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            self.supervisor_full = false;
            self.tell_all();
        }
        if self.refusal.is_some() && flags.contains(EventFlags::HUP) {
            self.on_supervisor_lost(None);
        }
        for _ in 0..ORDERS_AT_ONCE {
            if !self.read_order(true) {
                return;
            }
        }
    }

    /// Reads and follows one order; `false` when there is none that can be followed now. Tells on the spot, or leaves
    /// to the caller, that the supervisor is gone.
    fn read_order(&mut self, notices_end: bool) -> bool {
        let Some(socket) = self.supervisor.as_ref().filter(|_| self.refusal.is_none()) else { return false };
        let mut message = std::mem::take(&mut self.message);
        let received = receive(socket, &mut message);
        let followed = match received {
            Ok(Received::Message(length, fd)) => {
                self.on_order(&message[..length], fd);
                true
            }
            Ok(Received::Oversized) => {
                self.refuse(Slot(u32::MAX), Epoch(0), Errno::BADMSG);
                true
            }
            Ok(Received::Nothing) => false,
            Ok(Received::Gone) | Err(_) => {
                if notices_end {
                    self.on_supervisor_lost(None);
                }
                false
            }
        };
        self.message = message;
        followed
    }

    fn on_order(&mut self, message: &[u8], fd: Option<OwnedFd>) {
        match read_order(message) {
            Some(Order::Spawn(spawn)) => {
                let (slot, epoch) = (spawn.slot, spawn.epoch);
                match self.admit(&spawn, fd.is_some()) {
                    Ok(()) => self.spawn(&spawn, fd),
                    Err(errno) => self.refuse(slot, epoch, errno),
                }
            }
            Some(Order::Ack { slot, epoch }) => {
                if let Some(entry) = self.slots.get(slot)
                    && entry.epoch == epoch
                    && is_told_end(entry)
                {
                    entry.life = Life::Empty;
                }
            }
            Some(Order::Release { slot }) => self.release(slot),
            Some(Order::ShutdownDone { exit_code }) => self.drain(exit_code),
            None => {
                let (slot, epoch) = read_address(message);
                self.refuse(slot, epoch, Errno::BADMSG);
            }
        }
    }

    /// Whether an order may be followed at all.
    fn admit(&mut self, order: &Spawn<'_>, has_fd: bool) -> Result<(), Errno> {
        if order.slot.0 >= MAX_SERVICES {
            return Err(Errno::RANGE);
        }
        if has_fd != order.has_cgroup {
            return Err(Errno::BADMSG);
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

    fn spawn(&mut self, order: &Spawn<'_>, cgroup: Option<OwnedFd>) {
        let slot = order.slot;
        let made = self.start_service(order, cgroup.as_ref().map(AsFd::as_fd));
        let Some(entry) = self.slots.get(slot) else { return };
        entry.epoch = order.epoch;
        // Where the last process's strays may still be: kept until there is a next one.
        if let Some(cgroup) = cgroup {
            entry.cgroup = rustix::io::fcntl_dupfd_cloexec(&cgroup, LOW_FDS).ok();
        }
        match made {
            Ok((pid, pidfd, start)) => {
                // Without the watch its program's start is told when it ends: late, but nothing is lost.
                let token = Token::Status(slot).data();
                let _ = epoll::add(&self.epoll, &start.status, token, EventFlags::IN);
                entry.start = Some(start);
                entry.pidfd = Some(pidfd);
                entry.untold.spawned = true;
                entry.unmarked = None;
                self.slots.set_running(slot, pid);
            }
            Err((step, errno)) => {
                let failure = SpawnFailure { step, errno: errno.raw_os_error() };
                entry.life = Life::Ended { end: End::Failed(failure) };
                entry.untold.ended = true;
            }
        }
        self.tell(slot);
        self.offer_pipe(slot);
    }

    /// Makes the child, with the fewest calls before the clone.
    fn start_service(
        &mut self,
        order: &Spawn<'_>,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<(i32, OwnedFd, Start), (Step, Errno)> {
        let pipe_failed = |errno| (Step::Pipe, errno);
        let entry = self.slots.entry(order.slot).ok_or((Step::Order, Errno::RANGE))?;
        if entry.pipe.is_none() {
            entry.pipe = Some(OutputPipe::new().map_err(pipe_failed)?);
            entry.untold.pipe = true;
        }
        let pipe = entry.pipe.as_ref().ok_or((Step::Pipe, Errno::BADF))?;
        let output = rustix::io::fcntl_dupfd_cloexec(&pipe.write, 3).map_err(pipe_failed)?;
        let (status, status_end) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(pipe_failed)?;

        let mut marker = Marker::new();
        if let Some((epoch, pid, end)) = entry.unmarked {
            marker = marker.ended(epoch, pid, end);
        }
        let marker = marker.starting(order.epoch);
        let [argv, environment] = &mut self.pointers;
        let too_big = (Step::Order, Errno::TOOBIG);
        self.groups.clear();
        // Within the capacity: both bounds are MAX_GROUPS.
        self.groups.extend(order.groups.clone().map(Gid::from_raw));
        let limit = order.open_files_limit.map_or(self.open_files, |limit| {
            let limit = (limit != u64::MAX).then_some(limit);
            Rlimit { current: limit, maximum: limit }
        });
        let child = spawn(&Plan {
            leave_high_fds: self.can_leave_high_fds && output.as_raw_fd() < LOW_FDS && status_end.as_raw_fd() < LOW_FDS,
            status: status_end.as_fd(),
            fds: ProgramFds::Output(output.as_fd()),
            cgroup,
            oom_score_adj: self.oom_score_adj.as_deref(),
            open_files: Some(limit),
            identity: order.uid_gid.map(|(uid, gid)| (Uid::from_raw(uid), Gid::from_raw(gid), &self.groups[..])),
            no_new_privs: true,
            umask: Some(Mode::from_raw_mode(order.umask)),
            directory: Some(order.directory),
            marker: Some(marker.bytes()),
            program: Program::Path(order.program),
            argv: argv.fill(order.argv.clone()).ok_or(too_big)?,
            environment: environment.fill(order.environment.clone()).ok_or(too_big)?,
        });
        let (pid, pidfd) = child?;
        Ok((pid, pidfd, Start { status, ends: Some((status_end, output)), failure: None }))
    }

    fn release(&mut self, slot: Slot) {
        self.write_end_marker(slot);
        let Some(entry) = self.slots.get(slot) else { return };
        if !matches!(entry.life, Life::Running { .. }) {
            *entry = Entry { epoch: entry.epoch, ..Entry::default() };
        }
    }

    /// Answers an order that cannot be followed, now or as soon as there is room.
    fn refuse(&mut self, slot: Slot, epoch: Epoch, errno: Errno) {
        let failure = SpawnFailure { step: Step::Order, errno: errno.raw_os_error() };
        self.refusal = Some(Answer::spawn_failed(slot, epoch, failure));
        self.tell_rest();
    }

    /// Tells the supervisor what it does not know of a slot yet, in order, as far as its socket takes it.
    fn tell(&mut self, slot: Slot) {
        while let Some(entry) = self.slots.get(slot) {
            let (untold, epoch) = (entry.untold, entry.epoch);
            let (answer, fd) = if untold.spawned {
                // The pid of a process that was reaped before it could be told is not needed any more.
                let pid = if let Life::Running { pid } = entry.life { pid } else { 0 };
                (Answer::spawned(slot, epoch, pid), entry.pidfd.as_ref())
            } else if untold.executed {
                (Answer::executed(slot, epoch), None)
            } else if let (true, Life::Ended { end }) = (untold.ended, entry.life) {
                let answer = match end {
                    End::Exited(exit) => Answer::exited(slot, epoch, exit),
                    End::Failed(failure) => Answer::spawn_failed(slot, epoch, failure),
                };
                (answer, None)
            } else {
                return;
            };
            let socket = self.supervisor.as_ref().filter(|_| !self.supervisor_full);
            let Some(socket) = socket else { return };
            match send(socket, answer.bytes(), fd.map(AsFd::as_fd)) {
                Ok(Sent::Yes) if untold.spawned => {
                    entry.untold.spawned = false;
                    entry.pidfd = None;
                }
                Ok(Sent::Yes) if untold.executed => entry.untold.executed = false,
                Ok(Sent::Yes) => entry.untold.ended = false,
                Ok(Sent::Full) => return self.watch_supervisor(true),
                // Its end is an event of its own.
                Ok(Sent::Gone) | Err(_) => return,
            }
        }
    }

    /// Tells the supervisor what is not about a slot.
    pub(super) fn tell_rest(&mut self) {
        let Some(socket) = self.supervisor.as_ref().filter(|_| !self.supervisor_full) else { return };
        let mut full = false;
        // With nobody at the other end everything counts as told: that end is an event of its own.
        let mut told = |answer: Answer| {
            full = full || matches!(send(socket, answer.bytes(), None), Ok(Sent::Full));
            !full
        };
        if let Some(refusal) = self.refusal
            && told(refusal)
        {
            self.refusal = None;
        }
        for signal in [HostSignal::Terminate, HostSignal::Interrupt, HostSignal::Hangup] {
            let untold = &mut self.untold_signals[signal as usize];
            *untold = *untold && !told(Answer::signalled(signal));
        }
        self.untold_keeper = self.untold_keeper && !told(Answer::keeper_replaced());
        if full {
            self.watch_supervisor(true);
        }
    }

    /// There is room again: everything that waits, as far as it goes.
    fn tell_all(&mut self) {
        self.tell_rest();
        for slot in self.slots.all() {
            if self.slots.get(slot).is_some_and(|entry| entry.untold.to_supervisor()) {
                self.tell(slot);
            }
            if self.supervisor_full {
                return;
            }
        }
        self.watch_supervisor(false);
    }

    /// Watches for room in the socket to the supervisor, and for orders unless one could not be answered.
    fn watch_supervisor(&mut self, full: bool) {
        self.supervisor_full = full;
        let Some(socket) = &self.supervisor else { return };
        let mut flags = if self.refusal.is_none() { EventFlags::IN } else { EventFlags::empty() };
        if full {
            flags |= EventFlags::OUT;
        }
        // It is registered, so that nothing can fail.
        let _ = epoll::modify(&self.epoll, socket, Token::Supervisor.data(), flags);
    }

    /// Writes the line that says how the slot's process ended, now or as soon as there is room in the pipe.
    fn write_end_marker(&mut self, slot: Slot) {
        let Some(entry) = self.slots.get(slot) else { return };
        let Some(pipe) = &entry.pipe else { return };
        let full = entry.unmarked.is_some_and(|(epoch, pid, end)| {
            rustix::io::write(&pipe.marks, Marker::new().ended(epoch, pid, end).bytes()) == Err(Errno::AGAIN)
        });
        if full {
            let flags = EventFlags::OUT | EventFlags::ONESHOT;
            let data = Token::Room(slot).data();
            // It may be watched already, for an end before this one.
            if epoll::add(&self.epoll, &pipe.marks, data, flags) == Err(Errno::EXIST) {
                let _ = epoll::modify(&self.epoll, &pipe.marks, data, flags);
            }
        } else {
            entry.unmarked = None;
        }
    }

    /// Gives the keeper the slot's pipe, if it does not have it and can take it now.
    fn offer_pipe(&mut self, slot: Slot) {
        let Some(keeper) = self.keeper.as_mut().filter(|keeper| !keeper.full) else { return };
        let Some(entry) = self.slots.get(slot).filter(|entry| entry.untold.pipe) else { return };
        let Some(pipe) = &entry.pipe else { return };
        match send(&keeper.socket, &pipe_message(slot), Some(pipe.read.as_fd())) {
            Ok(Sent::Yes) => entry.untold.pipe = false,
            Ok(Sent::Full) => {
                keeper.full = true;
                let _ = epoll::add(&self.epoll, &keeper.socket, Token::Keeper.data(), EventFlags::OUT);
            }
            // It is about to be reaped and replaced.
            Ok(Sent::Gone) | Err(_) => {}
        }
    }

    fn on_keeper(&mut self, _flags: EventFlags) {
        if let Some(keeper) = &mut self.keeper {
            keeper.full = false;
            let _ = epoll::delete(&self.epoll, &keeper.socket);
        }
        self.slots.all().for_each(|slot| self.offer_pipe(slot));
    }

    /// Starts a keeper and offers it all pipes. When that fails, it is tried again.
    pub(super) fn start_keeper(&mut self) {
        self.keeper_due_ms = now_ms() + KEEPER_PAUSE_MS;
        let Ok((socket, end)) = packet::pair() else { return };
        let (Ok(socket), Ok(end)) =
            (rustix::io::fcntl_dupfd_cloexec(&socket, LOW_FDS), rustix::io::fcntl_dupfd_cloexec(&end, LOW_FDS))
        else {
            return;
        };
        let Ok(pid) = self.helpers.keeper(end.as_fd(), &mut self.pointers) else { return };
        self.keeper = Some(Keeper { pid, socket, since_ms: now_ms(), full: false });
        for slot in self.slots.all() {
            if let Some(entry) = self.slots.get(slot) {
                entry.untold.pipe = entry.pipe.is_some();
            }
            self.offer_pipe(slot);
        }
    }

    /// Starts the supervisor with its two sockets.
    pub(super) fn start_supervisor(&mut self, [guardian, keeper]: &[OwnedFd; 2]) -> Result<(), Errno> {
        let ends = [guardian.as_fd(), keeper.as_fd()];
        let pid = self.helpers.supervisor(ends, self.oom_score_adj.as_deref(), &mut self.pointers)?;
        self.supervisor_pid = Some(pid);
        Ok(())
    }

    /// A line for the operator, if standard error takes it at once.
    pub(super) fn say(text: fmt::Arguments<'_>) {
        let stderr = rustix::stdio::stderr();
        let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
        if poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1) {
            eprintln!("hale: {text}");
        }
    }
}

/// Whether the entry's process ended, and the supervisor was told.
fn is_told_end(entry: &Entry) -> bool {
    matches!(entry.life, Life::Ended { .. }) && !entry.untold.to_supervisor()
}

impl OutputPipe {
    fn new() -> Result<Self, Errno> {
        // The capacity stays at the kernel's default, 64 KiB: more would let less trusted services pin kernel
        // memory, and users without rights have 64 MiB for all of their pipes (pipe(7)).
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut path = FdPath::default();
        write!(path, "/proc/self/fd/{}", write.as_raw_fd()).map_err(|_| Errno::NAMETOOLONG)?;
        let marks = open(path.text(), OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        let high = |fd: OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, LOW_FDS);
        Ok(Self { read: high(read)?, write: high(write)?, marks: high(marks)? })
    }
}

/// A path below `/proc/self/fd`, on the stack.
#[derive(Default)]
struct FdPath {
    bytes: [u8; 32],
    length: usize,
}

impl FdPath {
    fn text(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Write for FdPath {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.length..self.length + text.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length += text.len();
        Ok(())
    }
}
