//! The guardian's loop: one thread that waits in epoll(7) only, and from here on allocates nothing.

use crate::guardian::begin::init::Init;
use crate::guardian::end::Phase;
use crate::guardian::hardware::Hardware;
use crate::guardian::helper::Helper;
use crate::guardian::programs::Programs;
use crate::guardian::slots::Slots;
use crate::guardian::store::Store;
use crate::guardian::systemd::Systemd;
use crate::guardian::wait::{now_ms, ready, timespec};
use crate::protocol::text::Text;
use crate::protocol::wire::{Reader, Take, read, wire, write};
use crate::protocol::{Evidence, GuardianEvent, HostSignal, Order, Slot, Spawn, SpawnFailure, read_address};
use crate::sys::child::PointerSpace;
use crate::sys::fds::high;
use crate::sys::packet::{Received, receive};
use crate::sys::signals::SignalFd;
use crate::sys::wait::{Exit, reap};
use hale_core::ids::Epoch;
use rustix::event::PollFlags;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::process::Rlimit;
use rustix::thread::{Gid, sched_yield};
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
    pub(super) signal_fd: SignalFd,
    pub(super) programs: Programs,
    pub(super) slots: Slots,
    pub(super) supervisor: Helper,
    /// How the one before was lost, or the guardian before this one.
    pub(super) lost: Option<GuardianEvent>,
    /// What the kernel said of a supervisor that is being replaced because it made no progress.
    pub(super) hung: Option<Evidence>,
    /// Outlives every supervisor.
    pub(super) store: Store,
    /// Outlives this process, if there is one.
    pub(super) systemd: Option<Systemd>,
    /// The operator wants the end, and nobody is in control: when the guardian ends everything by itself.
    pub(super) end_alone_ms: Option<u64>,
    /// The operator wants the end.
    pub(super) end_wanted: bool,
    pub(super) keeper: Helper,
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
    /// Children that were not run yet have used up half of the low descriptors.
    pub(super) crowded: bool,
    /// For each [`HostSignal`] that the supervisor may not have taken: the number that proves that it has, once it came back.
    pub(super) signals: [Option<u64>; 3],
    pub(super) untold_keeper: bool,
    pub(super) untold_lost: bool,
    /// The refusal of an order that cannot be answered now; no further order is read before.
    pub(super) refusal: Option<(Slot, Epoch, SpawnFailure)>,
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

wire!(enum Token {
    0 => Signals,
    1 => Supervisor,
    2 => Keeper,
    3 => Hardware,
    4 => Status(slot),
    5 => Room(slot),
    6 => Adopted(slot),
    7 => Systemd,
});

impl Token {
    pub(super) fn data(self) -> EventData {
        let mut bytes = [0; 8];
        write(&self, &mut bytes);
        EventData::new_u64(u64::from_le_bytes(bytes))
    }

    fn from_data(data: EventData) -> Option<Self> {
        Self::take(&mut Reader::new(&data.u64().to_le_bytes()))
    }
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
            let timeout = deadline.map(|deadline| timespec(deadline.saturating_sub(now_ms())));
            // The only error that can come is an interruption, which is an empty turn.
            let waited = epoll::wait(&self.epoll, &mut space, timeout.as_ref());
            let late_ms = deadline.map_or(0, |deadline| now_ms().saturating_sub(deadline));
            if late_ms > LATE_MS {
                self.supervisor.progress.credit(late_ms);
                self.keeper.progress.credit(late_ms);
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
        while let Some((signal, pid)) = self.signal_fd.next() {
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
        } else if self.supervisor.is(pid) {
            self.on_supervisor_lost(exit);
        } else {
            self.on_keeper_reaped(pid, exit);
        }
        // Anybody else is a stranger whose parents are all gone: reaped, and that is all.
    }

    fn on_supervisor(&mut self, flags: EventFlags) {
        if let Some(live) = self.supervisor.live.as_mut().filter(|_| flags.contains(EventFlags::OUT)) {
            live.has_room(&self.epoll);
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
        if std::mem::take(&mut self.crowded) {
            // Children that have not run yet hold the low descriptors, and the next ones would have to copy all others: they go
            // first. What they say then is among the next events, as are the orders that are left.
            sched_yield();
        }
    }

    /// Reads and follows one order; `false` when there is none that can be followed now. Tells on the spot, or leaves
    /// to the caller, that the supervisor is gone.
    pub(super) fn read_order(&mut self, notices_end: bool) -> bool {
        let Some(live) = self.supervisor.live.as_ref().filter(|_| self.refusal.is_none()) else { return false };
        let mut message = std::mem::take(&mut self.message);
        let followed = match receive(&live.socket, &mut message) {
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
        match read::<Order<Spawn<'_>>>(message, None) {
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
                self.hardware.orderly = true;
                self.drain(exit_code);
            }
            Some(Order::MayReboot { allowed }) => self.hardware.may_reboot = allowed,
            Some(Order::Reboot) => self.hardware.reboot = true,
            Some(Order::Prove { nonce }) => self.on_proof(nonce),
            Some(Order::Store { key }) => {
                if let Some(fd) = fd.and_then(|fd| high(fd).ok()) {
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
        if !ready(stderr, PollFlags::OUT, 0).is_empty() {
            let mut line = Text::<LINE_BYTES>::new();
            // What is too long is cut.
            let _ = writeln!(line, "hale: {text}");
            // Nobody may read it any more (EPIPE), and that must not end anything.
            let _ = rustix::io::write(stderr, line.bytes());
        }
    }
}
