//! systemd as the guardian's guardian: told that Hale is ready and alive (sd_notify(3)), and keeper of the descriptors
//! from which a new guardian goes on (FileDescriptorStoreMax=, systemd.service(5)).
//!
//! systemd answers nothing, so a descriptor that it could not keep shows only by being missing later.

use crate::guardian::protocol::{MAX_SERVICES, Slot, StoreKey};
use crate::guardian::run::{Guardian, Token, now_ms};
use crate::guardian::slots::Life;
use crate::guardian::text::Text;
use crate::sys::child::LOW_FDS;
use crate::sys::packet::{Sent, send};
use hale_core::ids::Epoch;
use rustix::event::epoll::{self, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, getppid};
use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// The longest message: the removal of the longest name, which has three numbers.
const MESSAGE_BYTES: usize = 128;

/// How many removals may wait for room at once. More can only be when thousands of services are removed while systemd does
/// not read; a descriptor that stays in its store by that is thrown away by the next guardian.
const MAX_REMOVALS: usize = 1_024;

/// How long the names of all that is kept may be together, in bytes: they come back as one variable of the environment, and a
/// process with one of more than 128 KiB (`MAX_ARG_STRLEN`, execve(2)) cannot be started: then there would be no next guardian at all.
/// That is more than two thousand services.
const MAX_NAMES_BYTES: usize = 120 * 1_024;

/// How long the last message may wait for room, in seconds: PID 1 is busy for that long only when the machine hardly runs,
/// and what is missed is that the next start throws away what it finds.
const LAST_WORD_S: i64 = 1;

/// How many times systemd is told of life within the time that it allows (the hardware timer is petted as often).
const PETS_PER_TIMEOUT: u64 = 3;

/// What a descriptor in systemd's store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// A memory file with what the guardian was started with. Without it the others are worth nothing.
    Beginning,
    /// What keepers share: their end of the socket to the supervisor, staging, and the supervisors' end.
    Keepers(u8),
    /// The pidfd of a slot's newest process, until its end was acknowledged.
    Process(Slot, Epoch, i32),
    /// The reading end of a slot's output.
    Output(Slot),
    /// Something of the supervisor's or a service's.
    Stored(StoreKey),
}

/// Short, because all of them together are one variable of the next guardian's environment. Allowed are 255 printable
/// characters but the colon (sd_pid_notify_with_fds(3), FDNAME=).
impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beginning => f.write_str("hale.began"),
            Self::Keepers(index) => write!(f, "hale.keepers.{index}"),
            Self::Process(slot, epoch, pid) => write!(f, "hp.{slot}.{epoch}.{pid}"),
            Self::Output(slot) => write!(f, "ho.{slot}"),
            Self::Stored(key) => {
                let (kind, slot, index) = key.parts();
                write!(f, "hs.{kind}.{slot}.{index}")
            }
        }
    }
}

impl Kept {
    /// Reads a name; `None` when it is none of Hale's.
    pub fn from_name(name: &str) -> Option<Self> {
        let (kind, rest) = name.split_once('.')?;
        let slot = |text: &str| text.parse().ok().filter(|&number| number < MAX_SERVICES).map(Slot);
        let mut words = rest.split('.');
        let mut word = || words.next();
        let kept = match kind {
            "hale" if rest == "began" => Self::Beginning,
            "hale" => Self::Keepers(rest.strip_prefix("keepers.")?.parse().ok()?),
            "hp" => Self::Process(slot(word()?)?, Epoch(word()?.parse().ok()?), word()?.parse().ok()?),
            "ho" => Self::Output(slot(rest)?),
            "hs" => {
                let (kind, slot, index) = (word()?.parse().ok()?, word()?.parse().ok()?, word()?.parse().ok()?);
                Self::Stored(StoreKey::from_parts(kind, slot, index)?)
            }
            _ => return None,
        };
        // Only one spelling is a name.
        (kept.to_string() == name).then_some(kept)
    }

    /// What its name takes of the variable, with the colon behind it.
    fn bytes(self) -> usize {
        let mut name = Text::<MESSAGE_BYTES>::new();
        let _ = write!(name, "{self}:");
        name.bytes().len()
    }
}

/// What systemd still has to be told of a slot.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Unkept {
    /// A process whose end was acknowledged. Told first, so that there never are two.
    over: Option<(Epoch, i32)>,
    /// The slot was released.
    released: bool,
    /// The slot's newest process is new to it.
    pub process: bool,
    /// The slot's pipe is.
    pub output: bool,
}

impl Unkept {
    /// The end of this process was acknowledged.
    pub fn over(&mut self, epoch: Epoch, pid: i32) {
        // What it was never told of needs no removal.
        if !std::mem::take(&mut self.process) {
            self.over = Some((epoch, pid));
        }
    }

    /// The pipe is closed.
    pub fn released(self) -> Self {
        Self { released: !self.output, output: false, ..self }
    }
}

/// The socket to systemd, and what it was not told yet.
#[derive(Debug)]
pub(super) struct Systemd {
    socket: OwnedFd,
    /// Whether it started this very process, and so keeps its descriptors and starts a next one. Others have inherited
    /// `NOTIFY_SOCKET` from a service, or run below another program that listens there.
    keeps: bool,
    /// How long the names of all that it keeps are.
    names_bytes: usize,
    /// There was no room, and it is watched for room.
    full: bool,
    untold_ready: bool,
    untold_stopping: bool,
    /// How often it wants to hear of life (WATCHDOG_USEC), and when next.
    pet_ms: Option<u64>,
    pet_due_ms: u64,
    /// What the guardian has from its start.
    first: Vec<(Kept, OwnedFd)>,
    /// Descriptors of the store to be removed.
    removals: Vec<StoreKey>,
}

impl Systemd {
    /// The socket that `NOTIFY_SOCKET` names: a path, or an abstract name after `@` (sd_notify(3)). `None`: nobody is to be
    /// told anything.
    ///
    /// # Errors
    ///
    /// It is named and cannot be reached.
    pub fn connect(now_ms: u64) -> io::Result<Option<Self>> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Ok(None) };
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddrUnix::new_abstract_name(rest)?,
            path => SocketAddrUnix::new(OsStr::from_bytes(path))?,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        connect(&socket, &address)?;
        let socket = rustix::io::fcntl_dupfd_cloexec(socket, LOW_FDS)?;
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let own = |pid| pid == u64::from(std::process::id());
        let pet_ms = number("WATCHDOG_USEC")
            .filter(|_| number("WATCHDOG_PID").is_none_or(own))
            .map(|usec| (usec / 1_000 / PETS_PER_TIMEOUT).max(1));
        // Set from systemd 248 on (systemd.exec(5)); before that it is the parent.
        let keeps = number("SYSTEMD_EXEC_PID").map_or_else(|| getppid().is_some_and(Pid::is_init), own);
        Ok(Some(Self {
            socket,
            keeps,
            names_bytes: 0,
            full: false,
            untold_ready: false,
            untold_stopping: false,
            pet_ms,
            pet_due_ms: now_ms,
            first: Vec::new(),
            removals: Vec::with_capacity(MAX_REMOVALS),
        }))
    }

    /// Whether a next guardian gets what this one has.
    pub fn keeps(&self) -> bool {
        self.keeps
    }

    /// When it wants to hear of life.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.pet_ms.map(|_| self.pet_due_ms)
    }

    /// To be kept first of all, as soon as the loop turns.
    pub fn keep_first(&mut self, first: Vec<(Kept, OwnedFd)>) {
        self.first = first;
    }

    /// What it has kept for this process.
    pub fn adopt(&mut self, kept: impl Iterator<Item = Kept>) {
        self.names_bytes = kept.map(Kept::bytes).sum();
    }

    /// `false`: there is no room now, or too much is kept already.
    fn keep(&mut self, what: Kept, fd: BorrowedFd<'_>) -> bool {
        if !self.keeps {
            return true;
        }
        let names_bytes = self.names_bytes + what.bytes();
        let kept =
            names_bytes <= MAX_NAMES_BYTES && self.send(format_args!("FDSTORE=1\nFDPOLL=0\nFDNAME={what}"), Some(fd));
        if kept {
            self.names_bytes = names_bytes;
        }
        kept
    }

    /// `false`: there is no room now.
    fn remove(&mut self, what: Kept) -> bool {
        let removed = !self.keeps || self.send(format_args!("FDSTOREREMOVE=1\nFDNAME={what}"), None);
        if removed {
            self.names_bytes = self.names_bytes.saturating_sub(what.bytes());
        }
        removed
    }

    /// Removes all of these, waiting for room: before there is a guardian.
    pub fn discard(mut self, kept: &[Kept]) {
        for what in kept {
            self.await_room();
            self.remove(*what);
        }
    }

    fn await_room(&mut self) {
        let mut ready = [PollFd::new(&self.socket, PollFlags::OUT)];
        let _ = poll(&mut ready, Some(&Timespec { tv_sec: LAST_WORD_S, tv_nsec: 0 }));
        self.full = false;
    }

    /// `false`: there is no room now.
    fn send(&mut self, text: fmt::Arguments<'_>, fd: Option<BorrowedFd<'_>>) -> bool {
        if self.full {
            return false;
        }
        let mut message = Text::<MESSAGE_BYTES>::new();
        let _ = message.write_fmt(text);
        // Without anybody at the other end, as while systemd executes itself anew, it counts as told: it is missing later.
        self.full = matches!(send(&self.socket, message.bytes(), fd), Ok(Sent::Full));
        !self.full
    }
}

impl Guardian {
    /// The store has something new under this key, or nothing any more; `was_kept`: systemd has what was there before.
    pub(super) fn stored(&mut self, key: StoreKey, was_kept: bool) {
        if let Some(systemd) = self.systemd.as_mut().filter(|_| was_kept)
            && systemd.removals.len() < systemd.removals.capacity()
        {
            systemd.removals.push(key);
        }
        self.tell_systemd();
    }

    /// Tells systemd what it does not know of a slot, as far as there is room.
    pub(super) fn tell_systemd_of(&mut self, slot: Slot) {
        let (Some(systemd), Some(entry)) = (&mut self.systemd, self.slots.get(slot)) else { return };
        if let Some((epoch, pid)) = entry.unkept.over
            && systemd.remove(Kept::Process(slot, epoch, pid))
        {
            entry.unkept.over = None;
        }
        if entry.unkept.released {
            entry.unkept.released = !systemd.remove(Kept::Output(slot));
        }
        if let (true, Some(pipe)) = (entry.unkept.output, &entry.pipe) {
            entry.unkept.output = !systemd.keep(Kept::Output(slot), pipe.read.as_fd());
        }
        if let (true, Some(pidfd), Life::Running { pid } | Life::Ended { pid, .. }) =
            (entry.unkept.process, &entry.pidfd, entry.life)
        {
            entry.unkept.process = !systemd.keep(Kept::Process(slot, entry.epoch, pid), pidfd.as_fd());
        }
        self.await_systemd();
    }

    /// Hale works.
    pub(super) fn tell_ready(&mut self) {
        if let Some(systemd) = &mut self.systemd {
            systemd.untold_ready = true;
        }
        self.tell_systemd();
    }

    /// The end was asked for.
    pub(super) fn tell_stopping(&mut self) {
        if let Some(systemd) = &mut self.systemd {
            systemd.untold_stopping = true;
        }
        self.tell_systemd();
    }

    /// Tells systemd what is not about a slot.
    pub(super) fn tell_systemd(&mut self) {
        let Some(systemd) = &mut self.systemd else { return };
        while let Some((what, fd)) = systemd.first.pop() {
            if !systemd.keep(what, fd.as_fd()) {
                // There was room for it just now.
                systemd.first.push((what, fd));
                break;
            }
        }
        if systemd.untold_ready {
            systemd.untold_ready = !systemd.send(format_args!("READY=1"), None);
        }
        if systemd.untold_stopping {
            systemd.untold_stopping = !systemd.send(format_args!("STOPPING=1"), None);
        }
        while let Some(key) = systemd.removals.last().copied() {
            if !systemd.remove(Kept::Stored(key)) {
                break;
            }
            systemd.removals.pop();
        }
        while let Some((key, fd)) = self.store.unkept().filter(|_| systemd.removals.is_empty()) {
            if !systemd.keep(Kept::Stored(*key), fd.as_fd()) {
                break;
            }
            self.store.was_kept();
        }
        self.await_systemd();
    }

    /// Asks to be woken when there is room.
    fn await_systemd(&mut self) {
        let Some(systemd) = self.systemd.as_ref().filter(|systemd| systemd.full) else { return };
        let flags = EventFlags::OUT | EventFlags::ONESHOT;
        if epoll::add(&self.epoll, &systemd.socket, Token::Systemd.data(), flags).is_err() {
            let _ = epoll::modify(&self.epoll, &systemd.socket, Token::Systemd.data(), flags);
        }
    }

    /// There is room again.
    pub(super) fn on_systemd_room(&mut self) {
        if let Some(systemd) = &mut self.systemd {
            systemd.full = false;
        }
        self.tell_systemd();
        for slot in self.slots.all() {
            if self.systemd.as_ref().is_none_or(|systemd| systemd.full) {
                return;
            }
            self.tell_systemd_of(slot);
        }
    }

    /// Tells it of life, if that is due.
    pub(super) fn pet_systemd(&mut self) {
        let now = now_ms();
        if let Some(systemd) = &mut self.systemd
            && let Some(pet_ms) = systemd.pet_ms
            && now >= systemd.pet_due_ms
        {
            systemd.pet_due_ms = now + pet_ms;
            // Without room it has heard enough, and this thread comes by again.
            systemd.send(format_args!("WATCHDOG=1"), None);
            self.await_systemd();
        }
    }

    /// The end was reached in order: what systemd keeps is worth nothing any more.
    pub(super) fn end_systemd(&mut self) {
        let Some(systemd) = &mut self.systemd else { return };
        systemd.await_room();
        systemd.remove(Kept::Beginning);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_kept_and_no_other_name_does() {
        let kept = [
            Kept::Beginning,
            Kept::Keepers(4),
            Kept::Process(Slot(MAX_SERVICES - 1), Epoch(u64::MAX), i32::MAX),
            Kept::Output(Slot(0)),
            Kept::Stored(StoreKey::Listen(Slot(MAX_SERVICES - 1), 3)),
        ];
        for what in kept {
            let name = what.to_string();
            assert!("FDSTOREREMOVE=1\nFDNAME=".len() + name.len() <= MESSAGE_BYTES, "{name}");
            assert_eq!(Kept::from_name(&name), Some(what), "{name}");
        }
        let strange = ["ho.8192", "ho.01", "hp.1.2", "hp.1.2.3.4", "hs.9.0.0", "hale.", "http"];
        for name in strange {
            assert_eq!(Kept::from_name(name), None, "{name}");
        }
    }
}
