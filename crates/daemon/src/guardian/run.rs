//! The guardian's loop: one thread that waits in epoll(7) only, and from here on allocates nothing.

use crate::guardian::end::Phase;
use crate::guardian::hardware::Hardware;
use crate::guardian::helpers::Helpers;
use crate::guardian::init::Init;
use crate::guardian::keeper::Keeper;
use crate::guardian::progress::Progress;
use crate::guardian::protocol::{Answer, HostSignal, Order, Slot, read_address, read_order};
use crate::guardian::slots::Slots;
use crate::guardian::store::Store;
use crate::guardian::supervise::{Evidence, Loss, Supervisor};
use crate::guardian::systemd::Systemd;
use crate::guardian::text::Text;
use crate::sys::child::{LOW_FDS, PointerSpace};
use crate::sys::packet::{Received, receive};
use crate::sys::signals::SignalFd;
use crate::sys::wait::{Exit, reap};
use hale_core::ids::Epoch;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Rlimit;
use rustix::thread::Gid;
use rustix::time::{ClockId, clock_gettime};
use std::fmt::{Arguments, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

/// How many events are taken from the kernel at once: a few hundred bytes of stack; more come with the next call.
const EVENTS_AT_ONCE: usize = 64;

/// How many orders are read before other events get their turn: children that have their own descriptors by then give theirs
/// back here ([`LOW_FDS`]), at the price of one epoll_wait(2).
const ORDERS_AT_ONCE: usize = 16;

/// A wake-up that comes later than asked for by more than this, in milliseconds, is held against nobody but this process:
/// it was stopped, or the machine is too busy for its supervisor too. Timers are a few milliseconds late on any machine.
const LATE_MS: u64 = 50;

/// The guardian, ready to run.
#[derive(Debug)]
pub struct Guardian {
    pub(super) epoll: OwnedFd,
    pub(super) hardware: Hardware,
    pub(super) init: Init,
    pub(super) signals: SignalFd,
    pub(super) helpers: Helpers,
    pub(super) slots: Slots,
    pub(super) supervisor: Supervisor,
    /// When there is none: when the next one starts, on the monotonic clock.
    pub(super) supervisor_due_ms: u64,
    pub(super) progress: Progress,
    /// When it was looked at how long the supervisor had run, and how long that was, in milliseconds.
    pub(super) asked: (u64, u64),
    /// How the one before was lost.
    pub(super) lost: Option<Loss>,
    pub(super) hung: bool,
    pub(super) evidence: Evidence,
    /// Outlives every supervisor.
    pub(super) store: Store,
    /// Outlives this process, if there is one.
    pub(super) systemd: Option<Systemd>,
    /// The operator wants the end, and nobody is in control: when the guardian ends everything by itself.
    pub(super) end_alone_ms: Option<u64>,
    /// The operator wants the end.
    pub(super) end_wanted: bool,
    pub(super) keeper: Option<Keeper>,
    /// When there is none: when the next one starts, on the monotonic clock.
    pub(super) keeper_due_ms: u64,
    pub(super) keeper_progress: Progress,
    /// A keeper that got SIGKILL and is still there: it hangs in the kernel.
    pub(super) stuck_keeper: Option<i32>,
    /// Held as long as this process lives.
    pub(super) _locks: [OwnedFd; 2],
    /// Whether the kernel tells how processes ended that are not its children.
    pub(super) tells_exits: bool,
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
    /// Told, and taken for sure only once this number has come back.
    pub(super) doubtful_signals: [Option<u64>; 3],
    pub(super) untold_keeper: bool,
    pub(super) untold_lost: bool,
    pub(super) untold_challenge: bool,
    /// The refusal of an order that cannot be answered now; no further order is read before.
    pub(super) refusal: Option<Answer>,
    /// Whether the socket to the supervisor was full and is watched for room.
    pub(super) supervisor_full: bool,
    pub(super) phase: Phase,
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Signals,
    Supervisor,
    Keeper,
    /// Names beside the hardware timer's device.
    Hardware,
    /// The status pipe of the slot's child.
    Status(Slot),
    /// Room in the slot's output pipe.
    Room(Slot),
    /// The pidfd of a slot's process that is no child of this one.
    Adopted(Slot),
    /// Room in the socket to systemd.
    Systemd,
}

impl Token {
    pub(super) fn data(self) -> EventData {
        let (kind, slot) = match self {
            Self::Signals => (0, 0),
            Self::Supervisor => (1, 0),
            Self::Keeper => (2, 0),
            Self::Status(slot) => (3, slot.0),
            Self::Room(slot) => (4, slot.0),
            Self::Adopted(slot) => (5, slot.0),
            Self::Systemd => (6, 0),
            Self::Hardware => (32, 0),
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
            5 => Some(Self::Adopted(slot)),
            6 => Some(Self::Systemd),
            32 => Some(Self::Hardware),
            _ => None,
        }
    }
}

/// Milliseconds on the monotonic clock.
pub(super) fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

/// The longest line for the operator: what the kernel says of a supervisor that hangs, and a sentence around it.
const LINE_BYTES: usize = 512;

impl Guardian {
    /// Runs until everything has ended.
    #[must_use]
    pub fn run(mut self) -> ExitCode {
        let mut space = [MaybeUninit::<Event>::uninit(); EVENTS_AT_ONCE];
        loop {
            let deadline = self.deadline_ms();
            let timeout = deadline.map(|deadline| {
                let wait = deadline.saturating_sub(now_ms());
                // Both parts are far below their types' bounds: every deadline is seconds away.
                Timespec { tv_sec: (wait / 1_000) as i64, tv_nsec: (wait % 1_000 * 1_000_000) as i64 }
            });
            // The only error that can come is an interruption, which is an empty turn.
            let waited = epoll::wait(&self.epoll, &mut space, timeout.as_ref());
            let late_ms = deadline.map_or(0, |deadline| now_ms().saturating_sub(deadline));
            if late_ms > LATE_MS {
                self.progress.credit(late_ms);
                self.keeper_progress.credit(late_ms);
            }
            if let Ok((events, _)) = waited {
                for event in events {
                    if let Some(token) = Token::from_data(event.data) {
                        self.on_event(token, event.flags);
                    }
                }
            }
            if let Some(code) = self.on_time() {
                return self.leave(code);
            }
        }
    }

    fn on_event(&mut self, token: Token, flags: EventFlags) {
        match token {
            Token::Signals => self.on_signals(),
            Token::Supervisor => self.on_supervisor(flags),
            Token::Keeper => self.on_keeper(flags),
            Token::Hardware => self.hardware.on_names(now_ms()),
            Token::Status(slot) => {
                self.on_status(slot);
                self.tell(slot);
            }
            Token::Room(slot) => self.write_end_marker(slot),
            Token::Adopted(slot) => self.on_adopted(slot, flags),
            Token::Systemd => self.on_systemd_room(),
        }
    }

    fn on_signals(&mut self) {
        while let Some((signal, pid)) = self.signals.next() {
            self.init.note(signal);
            match signal {
                libc::SIGTERM | libc::SIGPWR => self.on_host_signal(HostSignal::Terminate),
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
            if wanted.is_some() {
                break;
            }
        }
    }

    fn on_reaped(&mut self, pid: i32, exit: Exit) {
        if let Some(slot) = self.slots.reaped(pid) {
            self.on_service_end(slot, pid, exit);
        } else if self.is_supervisor(pid) {
            self.on_supervisor_lost(exit);
        } else {
            self.on_keeper_reaped(pid);
        }
        // Anybody else is a stranger whose parents are all gone: reaped, and that is all.
    }

    fn on_supervisor(&mut self, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            self.supervisor_full = false;
            self.tell_all();
        }
        if self.refusal.is_some() && flags.contains(EventFlags::HUP) {
            self.on_supervisor_gone();
        }
        for _ in 0..ORDERS_AT_ONCE {
            if !self.read_order(true) {
                return;
            }
        }
    }

    /// Reads and follows one order; `false` when there is none that can be followed now. Tells on the spot, or leaves
    /// to the caller, that the supervisor is gone.
    pub(super) fn read_order(&mut self, notices_end: bool) -> bool {
        let Some(socket) = self.supervisor.socket().filter(|_| self.refusal.is_none()) else { return false };
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
                    self.on_supervisor_gone();
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
            Some(Order::Ack { slot, epoch }) => self.acknowledge(slot, epoch),
            Some(Order::Release { slot }) => self.release(slot),
            Some(Order::ShutdownDone { exit_code }) => {
                self.hardware.set_orderly();
                self.drain(exit_code);
            }
            Some(Order::MayReboot { allowed }) => self.hardware.set_may_reboot(allowed),
            Some(Order::Reboot) => self.hardware.set_reboot(),
            Some(Order::Prove { nonce }) => self.on_proof(nonce),
            Some(Order::Store { key }) => {
                if let Some(fd) = fd.and_then(|fd| rustix::io::fcntl_dupfd_cloexec(&fd, LOW_FDS).ok()) {
                    let was_kept = self.store.put(key, fd);
                    self.stored(key, was_kept);
                }
            }
            Some(Order::Close) => drop(fd),
            Some(Order::Unstore { key }) => {
                let was_kept = self.store.remove(key);
                self.stored(key, was_kept);
            }
            None => {
                let (slot, epoch) = read_address(message);
                self.refuse(slot, epoch, Errno::BADMSG);
            }
        }
    }

    /// A line for the operator, if standard error takes it at once.
    pub(super) fn say(text: Arguments<'_>) {
        let stderr = rustix::stdio::stderr();
        let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
        if poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1) {
            let mut line = Text::<LINE_BYTES>::new();
            // What is too long is cut.
            let _ = writeln!(line, "hale: {text}");
            // Nobody may read it any more (EPIPE), and that must not end anything.
            let _ = rustix::io::write(stderr, line.bytes());
        }
    }
}
