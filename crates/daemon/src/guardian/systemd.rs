//! systemd as the guardian's guardian: told that Hale is ready and alive (sd_notify(3)), and keeper of the descriptors
//! from which a new guardian goes on (FileDescriptorStoreMax=, systemd.service(5)).
//!
//! systemd answers nothing, so a descriptor that it could not keep shows only by being missing later.

use crate::guardian::run::{Guardian, Token};
use crate::guardian::slots::Life;
use crate::guardian::wait::{await_room, now_ms, ready};
use crate::protocol::text::Text;
use crate::protocol::{Slot, StoreKey};
use crate::sys::packet::{Sent, send};
use hale_core::ids::Epoch;
use rustix::event::PollFlags;
use std::fmt::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The longest message: the removal of the longest name, which has three numbers.
pub(super) const MESSAGE_BYTES: usize = 128;

/// How many messages may wait for room at once, beside those of slots. More can only be when thousands of services are removed while systemd does
/// not read; a descriptor that stays in its store by that is thrown away by the next guardian.
pub(super) const MAX_WAITING: usize = 1_024;

/// How many words are ever said: ready, and stopping. There is room for them beside that.
pub(super) const MAX_WORDS: usize = 2;

/// How long the names of all that is kept may be together, in bytes: they come back as one variable of the environment, and a
/// process with one of more than 128 KiB (`MAX_ARG_STRLEN`, execve(2)) cannot be started: then there would be no next guardian at all.
/// That is more than two thousand services.
const MAX_NAMES_BYTES: usize = 120 * 1_024;

/// How long the last message may wait for room, in milliseconds: PID 1 is busy for that long only when the machine hardly runs,
/// and what is missed is that the next start throws away what it finds.
const LAST_WORD_MS: u64 = 1_000;

/// How many times systemd is told of life within the time that it allows (the hardware timer is petted as often).
pub(super) const PETS_PER_TIMEOUT: u64 = 3;

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
    /// What its name takes of the variable, with the colon behind it.
    pub fn bytes(self) -> usize {
        let mut name = Text::<MESSAGE_BYTES>::new();
        let _ = write!(name, "{self}:");
        name.bytes().len()
    }
}

/// What systemd has of a slot.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct KeptOf {
    /// The process with this number and process id.
    pub process: Option<(Epoch, i32)>,
    /// An output.
    pub output: bool,
    /// The slot was released since: that output is none of a service any more.
    pub released: bool,
}

/// The socket to systemd, and what it was not told yet.
#[derive(Debug)]
pub(super) struct Systemd {
    pub socket: OwnedFd,
    /// Whether it started this very process, and so keeps its descriptors and starts a next one. Others have inherited
    /// `NOTIFY_SOCKET` from a service, or run below another program that listens there.
    pub keeps: bool,
    /// How long the names of all that it keeps are.
    pub names_bytes: usize,
    /// There was no room, and it is watched for room.
    pub full: bool,
    /// How often it wants to hear of life (WATCHDOG_USEC), and when next.
    pub pet_ms: Option<u64>,
    pub pet_due_ms: u64,
    /// What is not about a slot and was not told yet, in order.
    pub waiting: Vec<Message>,
}

/// A message to systemd.
#[derive(Debug)]
pub(super) enum Message {
    /// To keep what the guardian has from its start.
    Keep(Kept, OwnedFd),
    Remove(Kept),
    /// As it is.
    Say(&'static str),
}

impl Systemd {
    /// When it wants to hear of life.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.pet_ms.map(|_| self.pet_due_ms)
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
    pub fn remove(&mut self, what: Kept) -> bool {
        let removed = !self.keeps || self.send(format_args!("FDSTOREREMOVE=1\nFDNAME={what}"), None);
        if removed {
            self.names_bytes = self.names_bytes.saturating_sub(what.bytes());
        }
        removed
    }

    /// Tells it what waits, as far as there is room.
    fn tell_waiting(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        let told = waiting.iter().take_while(|message| match message {
            Message::Keep(what, fd) => self.keep(*what, fd.as_fd()),
            Message::Remove(what) => self.remove(*what),
            Message::Say(word) => self.send(format_args!("{word}"), None),
        });
        drop(waiting.drain(..told.count()));
        self.waiting = waiting;
    }

    pub fn await_room(&mut self) {
        ready(&self.socket, PollFlags::OUT, LAST_WORD_MS);
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
            && systemd.waiting.len() < MAX_WAITING
        {
            systemd.waiting.push(Message::Remove(Kept::Stored(key)));
        }
        self.tell_systemd();
    }

    /// Tells systemd what it does not know of a slot, as far as there is room.
    pub(super) fn tell_systemd_of(&mut self, slot: Slot) {
        let (Some(systemd), Some(entry)) = (&mut self.systemd, self.slots.get(slot)) else { return };
        let process = match entry.life {
            Life::Running { pid } | Life::Ended { pid: pid @ 1.., .. } => Some((entry.epoch, pid)),
            Life::Empty | Life::Ended { .. } => None,
        };
        let kept = &mut entry.kept;
        // Removed first, so that there never are two.
        if let Some((epoch, pid)) = kept.process.filter(|_| kept.process != process)
            && systemd.remove(Kept::Process(slot, epoch, pid))
        {
            kept.process = None;
        }
        if kept.output && kept.released && systemd.remove(Kept::Output(slot)) {
            (kept.output, kept.released) = (false, false);
        }
        if let (false, Some(pipe)) = (kept.output, &entry.pipe) {
            kept.output = systemd.keep(Kept::Output(slot), pipe.read.as_fd());
        }
        if let (None, Some((epoch, pid)), Some(pidfd)) = (kept.process, process, &entry.pidfd)
            && systemd.keep(Kept::Process(slot, epoch, pid), pidfd.as_fd())
        {
            kept.process = process;
        }
        self.await_systemd();
    }

    /// Tells systemd that Hale works, or that the end was asked for: each once.
    pub(super) fn tell_systemd_word(&mut self, word: &'static str) {
        if let Some(systemd) = &mut self.systemd {
            systemd.waiting.push(Message::Say(word));
        }
        self.tell_systemd();
    }

    /// Tells systemd what is not about a slot.
    pub(super) fn tell_systemd(&mut self) {
        let Some(systemd) = &mut self.systemd else { return };
        systemd.tell_waiting();
        // Behind the removals: what replaces something has its name.
        while let Some((key, fd)) = self.store.unkept().filter(|_| systemd.waiting.is_empty()) {
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
        await_room(&self.epoll, &systemd.socket, Token::Systemd);
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
