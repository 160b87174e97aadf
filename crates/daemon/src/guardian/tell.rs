//! Telling the supervisor: once, in order, and never waiting for it.

use crate::guardian::marker::End;
use crate::guardian::protocol::{Answer, HostSignal, Slot, SpawnFailure};
use crate::guardian::run::{Guardian, Token};
use crate::guardian::slots::Life;
use crate::sys::child::Step;
use crate::sys::packet::{Sent, send};
use hale_core::ids::Epoch;
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use std::os::fd::AsFd;

impl Guardian {
    /// Answers an order that cannot be followed, now or as soon as there is room.
    pub(super) fn refuse(&mut self, slot: Slot, epoch: Epoch, errno: Errno) {
        let failure = SpawnFailure { step: Step::Order, errno: errno.raw_os_error() };
        self.refusal = Some(Answer::spawn_failed(slot, epoch, failure));
        self.tell_rest();
    }

    /// Tells the supervisor what it does not know of a slot yet, in order, as far as its socket takes it.
    pub(super) fn tell(&mut self, slot: Slot) {
        while let Some(entry) = self.slots.get(slot) {
            let (untold, epoch) = (entry.untold, entry.epoch);
            let (answer, fd) = if untold.spawned {
                let (Life::Running { pid } | Life::Ended { pid, .. }) = entry.life else { return };
                (Answer::spawned(slot, epoch, pid), entry.pidfd.as_ref())
            } else if untold.executed {
                (Answer::executed(slot, epoch), None)
            } else if let (true, Life::Ended { end, .. }) = (untold.ended, entry.life) {
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
    pub(super) fn tell_all(&mut self) {
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
    pub(super) fn watch_supervisor(&mut self, full: bool) {
        self.supervisor_full = full;
        let Some(socket) = &self.supervisor else { return };
        let mut flags = if self.refusal.is_none() { EventFlags::IN } else { EventFlags::empty() };
        if full {
            flags |= EventFlags::OUT;
        }
        // It is registered, so that nothing can fail.
        let _ = epoll::modify(&self.epoll, socket, Token::Supervisor.data(), flags);
    }
}
