//! The keeper's loop: all pipes and two sockets in one epoll(7).

use crate::keeper::protocol::{ANSWER_BYTES, Flushed, KeeperEvent, LogTarget, MAX_MESSAGE_BYTES, Request};
use crate::keeper::service::{Service, Staging, TURN_BYTES};
use crate::protocol::wire::{read, write};
use crate::protocol::{MAX_SERVICES, Slot};
use crate::sys::fds::take_inherited;
use crate::sys::packet::{self, Outbox, Received, receive};
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::fs::{FlockOperation, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

/// The descriptors with which the guardian starts a keeper.
const GUARDIAN_FD: i32 = 3;
const SUPERVISOR_FD: i32 = 4;
const STAGING_READ_FD: i32 = 5;
const STAGING_WRITE_FD: i32 = 6;
const STAGED_SLOT_FD: i32 = 7;

/// How many events are taken from the kernel at once: a few hundred bytes of stack; more come with the next call.
const EVENTS_AT_ONCE: usize = 64;

/// From how much on a pipe is drained while nothing can be written, in bytes. What is below it waits: a service that writes little
/// loses nothing. It is half of what a pipe of 16 pages (pipe(7)) holds at least when it is full, because two pages that follow
/// each other have more than one page of output, unless it was spliced into it.
const DRAIN_FROM_BYTES: u64 = 16 * 1024;

/// For how long nobody must have come before the logs of those that came are opened, in microseconds: files are made while the
/// next services are started, on the same processors, and a thousand of them take as long as the starts.
const QUIET_US: u64 = 20_000;

/// How long they wait at most, in microseconds, those with less than [`DRAIN_FROM_BYTES`] in their pipes: about as long as it
/// takes to start a thousand services.
const UNOPENED_US: u64 = 1_000_000;

/// How often the guardian's socket is looked at between other events, in microseconds: well within the time that it gives for
/// an answer.
const LOOK_US: u64 = 100_000;

/// Markers in the events of what is not a slot's pipe; slots are below them.
const GUARDIAN: u64 = u64::MAX;
const SUPERVISOR: u64 = u64::MAX - 1;

/// The keeper, as `hale keeper`: started by the guardian only. Returns when the guardian says so, or when guardian
/// and supervisor are both gone, after all output is in its files.
///
/// Exit codes: 0 then, 1 when the kernel refused something, 2 when it was started by hand.
#[must_use]
pub fn main(_args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Ok(inherited) = Inherited::take() else {
        eprintln!("hale: `hale keeper` is started by the guardian only; run `hale run`");
        return ExitCode::from(2);
    };
    match Keeper::new(inherited).and_then(|mut keeper| keeper.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hale: the keeper could not go on: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the guardian starts every keeper with.
struct Inherited {
    guardian: OwnedFd,
    supervisor: OwnedFd,
    staging_read: OwnedFd,
    staging_write: OwnedFd,
    staged_slot: OwnedFd,
}

impl Inherited {
    fn take() -> io::Result<Self> {
        Ok(Self {
            guardian: packet::take_inherited(GUARDIAN_FD)?,
            supervisor: packet::take_inherited(SUPERVISOR_FD)?,
            staging_read: take_inherited(STAGING_READ_FD)?,
            staging_write: take_inherited(STAGING_WRITE_FD)?,
            staged_slot: take_inherited(STAGED_SLOT_FD)?,
        })
    }
}

struct Keeper {
    epoll: OwnedFd,
    guardian: Option<OwnedFd>,
    supervisor: Option<OwnedFd>,
    outbox: Outbox,
    staging: Staging,
    staged_slot: OwnedFd,
    /// What `staged_slot` says.
    staged: Slot,
    gate: Gate,
    /// When the guardian's socket was looked at last.
    looked_us: u64,
    services: Vec<Place>,
    /// The slots of which something was dropped that is not noted or not reported yet.
    dropping: BTreeSet<Slot>,
    /// The slots that came last, whose logs are not opened for a little.
    fresh: BTreeSet<Slot>,
    /// Until when: since the newest of them, and since the oldest.
    fresh_until_us: (u64, u64),
    message: Vec<u8>,
    drain: bool,
}

/// Whether files may be touched. Until then pipes are watched for what is new in them only, because what is in them stays.
#[derive(Debug)]
enum Gate {
    /// Not while a keeper before this one is there: it may still write. So often the guardian was answered meanwhile.
    Shut {
        answers: u64,
    },
    /// As soon as it is known where the output of this slot goes: a keeper before this one has left some in staging.
    Held {
        slot: Slot,
    },
    Open,
}

/// From so many answers on a keeper drains what it may not write. The first one comes at once, the second half a second later:
/// a keeper that dies is gone by then.
const ANSWERS_BEFORE_DRAINING: u64 = 2;

/// A slot: its pipe may be known before its target is, and the other way round.
#[derive(Debug, Default)]
enum Place {
    #[default]
    Empty,
    /// Not read before it is known where to.
    Waiting(OwnedFd),
    Known(Box<Service>),
}

fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1_000
}

impl Keeper {
    fn new(inherited: Inherited) -> io::Result<Self> {
        // Best effort: only for people who look at the list of processes.
        let _ = rustix::thread::set_name(c"hale-keeper");
        let Inherited { guardian, supervisor, staging_read, staging_write, staged_slot } = inherited;
        let staging = Staging {
            read: staging_read,
            write: staging_write,
            null: open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?,
            sieve: vec![0; TURN_BYTES as usize].into(),
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &guardian, EventData::new_u64(GUARDIAN), EventFlags::IN)?;
        epoll::add(&epoll, &supervisor, EventData::new_u64(SUPERVISOR), EventFlags::IN)?;
        let mut keeper = Self {
            epoll,
            guardian: Some(guardian),
            supervisor: Some(supervisor),
            outbox: Outbox::default(),
            gate: Gate::Shut { answers: 0 },
            looked_us: 0,
            staging,
            staged_slot,
            staged: Slot(u32::MAX),
            services: Vec::new(),
            dropping: BTreeSet::new(),
            fresh: BTreeSet::new(),
            fresh_until_us: (0, 0),
            message: vec![0; MAX_MESSAGE_BYTES],
            drain: false,
        };
        keeper.try_to_open()?;
        Ok(keeper)
    }

    fn run(&mut self) -> io::Result<()> {
        let mut space = [MaybeUninit::<Event>::uninit(); EVENTS_AT_ONCE];
        loop {
            let timeout = self.timeout();
            let events = match epoll::wait(&self.epoll, &mut space, timeout.as_ref()) {
                Ok((events, _)) => events,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            for event in events {
                match event.data.u64() {
                    GUARDIAN => self.on_guardian()?,
                    SUPERVISOR => self.on_supervisor()?,
                    slot => self.on_pipe(Slot(u32::try_from(slot).unwrap_or(u32::MAX)), event.flags)?,
                }
                self.look_at_guardian()?;
            }
            self.on_time()?;
            if self.drain || (self.guardian.is_none() && self.supervisor.is_none()) {
                return self.finish();
            }
        }
    }

    fn known(&mut self, slot: Slot) -> Option<&mut Service> {
        match self.services.get_mut(slot.0 as usize)? {
            Place::Known(service) => Some(service),
            Place::Empty | Place::Waiting(_) => None,
        }
    }

    /// Until something has to be noted or reported, or logs to be opened; else for ever.
    fn timeout(&mut self) -> Option<Timespec> {
        let dropping = std::mem::take(&mut self.dropping);
        // With answers waiting, room for them is the next event.
        let may_report = self.outbox.is_empty();
        let deadline = dropping.iter().filter_map(|&slot| {
            let service = self.known(slot)?;
            let report = service.unreported.due_us().filter(|_| may_report);
            report.into_iter().chain(service.deadline_us()).min()
        });
        let deadline = deadline.min().into_iter().chain(self.fresh_due_us()).min();
        self.dropping = dropping;
        let wait = deadline?.saturating_sub(now_us());
        // Both parts are far below their types' bounds: every deadline is seconds away.
        Some(Timespec { tv_sec: (wait / 1_000_000) as i64, tv_nsec: (wait % 1_000_000 * 1_000) as i64 })
    }

    fn fresh_due_us(&self) -> Option<u64> {
        let (newest, oldest) = self.fresh_until_us;
        (!self.fresh.is_empty()).then(|| newest.min(oldest))
    }

    fn on_time(&mut self) -> io::Result<()> {
        if self.fresh_due_us().is_some_and(|due| due <= now_us()) {
            for slot in std::mem::take(&mut self.fresh) {
                self.watch_pipe(slot)?;
            }
        }
        if self.dropping.is_empty() {
            return Ok(());
        }
        let now = now_us();
        for slot in std::mem::take(&mut self.dropping) {
            let may_report = self.outbox.is_empty();
            let Some(service) = self.known(slot) else { continue };
            service.on_time(now);
            let bytes = if may_report { service.unreported.take_due(now) } else { 0 };
            if service.unreported.due_us().is_some() || service.deadline_us().is_some() {
                self.dropping.insert(slot);
            }
            self.report(slot, bytes)?;
        }
        Ok(())
    }

    fn report(&mut self, slot: Slot, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.answer(&KeeperEvent::Dropped { slot, bytes })
    }

    /// Sends an answer to the supervisor; one that reads nothing any more gets none.
    fn answer(&mut self, event: &KeeperEvent) -> io::Result<()> {
        if let Some(socket) = &self.supervisor {
            let mut space = [0; ANSWER_BYTES];
            let _ = self.outbox.send(socket, write(event, &mut space), None);
        }
        self.watch_supervisor()
    }

    fn watch_supervisor(&mut self) -> io::Result<()> {
        let Some(socket) = &self.supervisor else { return Ok(()) };
        let flags = if self.outbox.is_empty() { EventFlags::IN } else { EventFlags::IN | EventFlags::OUT };
        epoll::modify(&self.epoll, socket, EventData::new_u64(SUPERVISOR), flags)?;
        Ok(())
    }

    /// Answers the guardian also while thousands of pipes are full.
    fn look_at_guardian(&mut self) -> io::Result<()> {
        let now = now_us();
        if now < self.looked_us + LOOK_US {
            return Ok(());
        }
        self.looked_us = now;
        self.on_guardian()
    }

    fn on_guardian(&mut self) -> io::Result<()> {
        while let Some(socket) = &self.guardian {
            let mut message = std::mem::take(&mut self.message);
            let received = receive(socket, &mut message)?;
            match received {
                Received::Message(length, fd) => match (read(&message[..length], None), fd) {
                    (Some(Request::Pipe { slot }), Some(pipe)) => self.set_pipe(slot, pipe)?,
                    (Some(Request::Drain), _) => self.drain = true,
                    (Some(Request::Challenge { nonce }), _) => {
                        // There is one at a time, so that there is room; without an answer this keeper is replaced.
                        let _ = packet::send(socket, &nonce.to_le_bytes(), None);
                        self.on_answer()?;
                    }
                    // The guardian sends nothing else.
                    (Some(_) | None, _) => {}
                },
                Received::Oversized => {}
                Received::Nothing => {
                    self.message = message;
                    return Ok(());
                }
                Received::Gone => {
                    epoll::delete(&self.epoll, socket)?;
                    self.guardian = None;
                }
            }
            self.message = message;
        }
        Ok(())
    }

    fn on_supervisor(&mut self) -> io::Result<()> {
        if let Some(socket) = &self.supervisor {
            self.outbox.flush(socket)?;
        }
        self.watch_supervisor()?;
        while let Some(socket) = &self.supervisor {
            let mut message = std::mem::take(&mut self.message);
            match receive(socket, &mut message)? {
                Received::Message(length, _) => match read(&message[..length], None) {
                    Some(Request::Configure { slot, directory, max_size_bytes, keep, rate_bytes }) => {
                        let directory = directory.into();
                        self.configure(LogTarget { slot, directory, max_size_bytes, keep, rate_bytes })?;
                    }
                    Some(Request::Flush { slot, token }) => {
                        self.message = message;
                        self.flush(slot, token)?;
                        continue;
                    }
                    // The supervisor sends nothing else.
                    Some(Request::Pipe { .. } | Request::Drain | Request::Challenge { .. }) | None => {}
                },
                Received::Oversized => {}
                Received::Nothing => {
                    self.message = message;
                    return Ok(());
                }
                Received::Gone => {
                    epoll::delete(&self.epoll, socket)?;
                    self.supervisor = None;
                }
            }
            self.message = message;
        }
        Ok(())
    }

    fn place(&mut self, slot: Slot) -> Option<&mut Place> {
        if slot.0 >= MAX_SERVICES {
            return None;
        }
        let index = slot.0 as usize;
        if self.services.len() <= index {
            self.services.resize_with(index + 1, Place::default);
        }
        self.services.get_mut(index)
    }

    fn set_pipe(&mut self, slot: Slot, pipe: OwnedFd) -> io::Result<()> {
        let Some(place) = self.place(slot) else { return Ok(()) };
        match place {
            Place::Empty | Place::Waiting(_) => {
                *place = Place::Waiting(pipe);
                return Ok(());
            }
            Place::Known(service) => {
                // Removed by hand: the guardian holds the same description, which would keep it watched.
                if let Some(old) = service.pipe.replace(pipe) {
                    let _ = epoll::delete(&self.epoll, old);
                }
            }
        }
        self.watch_pipe(slot)
    }

    fn configure(&mut self, target: LogTarget) -> io::Result<()> {
        let (slot, now) = (target.slot, now_us());
        let Some(place) = self.place(slot) else { return Ok(()) };
        let pipe = match std::mem::take(place) {
            Place::Empty => None,
            Place::Waiting(pipe) => Some(pipe),
            Place::Known(mut service) => {
                service.retarget(target, now);
                *place = Place::Known(service);
                return Ok(());
            }
        };
        *place = Place::Known(Box::new(Service::new(target, pipe, now)));
        if matches!(self.gate, Gate::Open)
            && let Some(service) = self.known(slot)
        {
            service.open();
            if self.fresh.is_empty() {
                self.fresh_until_us.1 = now + UNOPENED_US;
            }
            self.fresh_until_us.0 = now + QUIET_US;
            self.fresh.insert(slot);
        }
        self.watch_pipe(slot)?;
        self.write_left()
    }

    /// Tries to become the one that may touch files. A keeper has this lock until it is gone, however it hangs: it belongs to
    /// the process (F_SETLK, fcntl_locking(2)), and no other has one on this memory file.
    fn try_to_open(&mut self) -> io::Result<()> {
        if rustix::fs::fcntl_lock(&self.staged_slot, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        if rustix::io::ioctl_fionread(&self.staging.read)? == 0 {
            return self.begin_writing();
        }
        let mut number = [0; 4];
        rustix::io::pread(&self.staged_slot, &mut number, 0)?;
        self.gate = Gate::Held { slot: Slot(u32::from_le_bytes(number)) };
        self.write_left()
    }

    /// The guardian was answered, and will ask again.
    fn on_answer(&mut self) -> io::Result<()> {
        let Gate::Shut { answers } = &mut self.gate else { return Ok(()) };
        *answers += 1;
        if *answers == ANSWERS_BEFORE_DRAINING {
            // What came before this was left alone.
            for slot in (0..self.services.len() as u32).map(Slot) {
                self.drain_pipe(slot, DRAIN_FROM_BYTES);
            }
        }
        self.try_to_open()
    }

    /// Writes what was left, once it is known where to: before anything that came later, and before a note of what is missing
    /// behind it.
    fn write_left(&mut self) -> io::Result<()> {
        let Gate::Held { slot } = self.gate else { return Ok(()) };
        let Some(Place::Known(service)) = self.services.get_mut(slot.0 as usize) else { return Ok(()) };
        service.open();
        service.write_all(&self.staging, now_us());
        self.begin_writing()
    }

    fn begin_writing(&mut self) -> io::Result<()> {
        self.gate = Gate::Open;
        for slot in (0..self.services.len() as u32).map(Slot) {
            if let Some(service) = self.known(slot) {
                service.open();
                service.note_drops(now_us());
                // What was dropped until here is known now: the gap in the log is over.
                let unreported = service.unreported.take();
                if service.deadline_us().is_some() {
                    self.dropping.insert(slot);
                }
                self.report(slot, unreported)?;
            }
            self.watch_pipe(slot)?;
        }
        Ok(())
    }

    /// Watches the slot's pipe, if it is known where it goes.
    fn watch_pipe(&mut self, slot: Slot) -> io::Result<()> {
        let data = EventData::new_u64(slot.0.into());
        let carries = matches!(self.gate, Gate::Open) && !self.fresh.contains(&slot);
        let flags = if carries { EventFlags::IN } else { EventFlags::IN | EventFlags::ET };
        if let Some(Place::Known(service)) = self.services.get(slot.0 as usize)
            && let Some(pipe) = &service.pipe
        {
            match epoll::add(&self.epoll, pipe, data, flags) {
                Err(Errno::EXIST) => epoll::modify(&self.epoll, pipe, data, flags)?,
                added => added?,
            }
        }
        Ok(())
    }

    fn on_pipe(&mut self, slot: Slot, flags: EventFlags) -> io::Result<()> {
        if self.fresh.contains(&slot) {
            if self.waiting_bytes(slot) < DRAIN_FROM_BYTES && !flags.contains(EventFlags::HUP) {
                return Ok(());
            }
            self.fresh.remove(&slot);
            self.watch_pipe(slot)?;
        }
        let moved = match self.gate {
            Gate::Open => self.carry(slot, TURN_BYTES)?,
            Gate::Held { .. } | Gate::Shut { answers: ..ANSWERS_BEFORE_DRAINING } => return Ok(()),
            Gate::Shut { .. } if flags.contains(EventFlags::HUP) => {
                while self.drain_pipe(slot, 1) > 0 {}
                0
            }
            Gate::Shut { .. } => self.drain_pipe(slot, DRAIN_FROM_BYTES),
        };
        if moved == 0
            && flags.contains(EventFlags::HUP)
            && let Some(Place::Known(service)) = self.services.get_mut(slot.0 as usize)
            && let Some(pipe) = service.pipe.take()
        {
            // Everybody has closed it: the service was released.
            epoll::delete(&self.epoll, &pipe)?;
            service.note_drops(now_us());
            let unreported = service.unreported.take();
            self.services[slot.0 as usize] = Place::Empty;
            self.report(slot, unreported)?;
        }
        Ok(())
    }

    /// Carries up to `most_bytes` of what is in the slot's pipe, and says how many that were.
    fn carry(&mut self, slot: Slot, most_bytes: u64) -> io::Result<u64> {
        if !matches!(self.gate, Gate::Open) {
            return Ok(0);
        }
        if self.staged != slot {
            rustix::io::pwrite(&self.staged_slot, &slot.0.to_le_bytes(), 0)?;
            self.staged = slot;
        }
        let now = now_us();
        let Some(Place::Known(service)) = self.services.get_mut(slot.0 as usize) else { return Ok(0) };
        let taken = service.stage(&mut self.staging, most_bytes, now);
        service.write_staged(&self.staging, now);
        if service.unreported.due_us().is_some() || service.deadline_us().is_some() {
            self.dropping.insert(slot);
        }
        Ok(taken)
    }

    /// Drops what is in the slot's pipe, if there is so much of it, and says how much that was.
    fn drain_pipe(&mut self, slot: Slot, least_bytes: u64) -> u64 {
        let Some(Place::Known(service)) = self.services.get_mut(slot.0 as usize) else { return 0 };
        let drained = service.drain(&mut self.staging, least_bytes, now_us());
        if service.unreported.due_us().is_some() {
            self.dropping.insert(slot);
        }
        drained
    }

    /// How much is in the slot's pipe.
    fn waiting_bytes(&self, slot: Slot) -> u64 {
        match self.services.get(slot.0 as usize) {
            Some(Place::Known(service)) => service.pipe.as_ref().map_or(0, |pipe| {
                // An error cannot come from a pipe.
                rustix::io::ioctl_fionread(pipe).unwrap_or(0)
            }),
            Some(Place::Empty | Place::Waiting(_)) | None => 0,
        }
    }

    /// Carries everything that is in the slot's pipe now.
    fn carry_all(&mut self, slot: Slot) -> io::Result<()> {
        let mut left = self.waiting_bytes(slot);
        while left > 0 {
            match self.carry(slot, left)? {
                0 => break,
                moved => left = left.saturating_sub(moved),
            }
        }
        Ok(())
    }

    fn flush(&mut self, slot: Slot, token: u64) -> io::Result<()> {
        // A pipe that the guardian sent before may still be unread in the other socket.
        self.on_guardian()?;
        self.carry_all(slot)?;
        let (mut size_bytes, mut dropped_bytes) = (0, 0);
        if let Some(Place::Known(service)) = self.services.get_mut(slot.0 as usize) {
            service.note_drops(now_us());
            (size_bytes, dropped_bytes) = (service.size_bytes(), service.dropped_bytes());
        }
        self.answer(&KeeperEvent::Flushed(Flushed { slot, token, size_bytes, dropped_bytes }))
    }

    /// Carries everything that is in any pipe, for the last time.
    fn finish(&mut self) -> io::Result<()> {
        // Whoever was started for the end alone has not heard yet where the output goes.
        self.on_supervisor()?;
        // The disk that hung may answer again since the guardian asked last.
        if matches!(self.gate, Gate::Shut { .. }) {
            self.try_to_open()?;
        }
        for slot in (0..self.services.len() as u32).map(Slot) {
            self.carry_all(slot)?;
            if let Some(Place::Known(service)) = self.services.get_mut(slot.0 as usize) {
                service.note_drops(now_us());
            }
            // A slow disk is no hang.
            self.look_at_guardian()?;
        }
        Ok(())
    }
}
