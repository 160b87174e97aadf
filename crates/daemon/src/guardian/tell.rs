//! Telling the supervisor: once, in order, and never waiting for it.

use crate::guardian::marker::End;
use crate::guardian::protocol::{Answer, HostSignal, Slot, SpawnFailure};
use crate::guardian::run::{Guardian, Token};
use crate::guardian::slots::Life;
use crate::guardian::supervise::Loss;
use crate::sys::child::Step;
use crate::sys::packet::{Sent, send};
use hale_core::ids::Epoch;
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use std::os::fd::AsFd;

/// What is still to be said about a slot.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Untold {
    pub spawned: bool,
    pub executed: bool,
    pub ended: bool,
    /// Its newest process is over, and that was acknowledged.
    pub over: bool,
    /// To the keeper: the pipe.
    pub pipe: bool,
}

impl Untold {
    /// All that there is to say of a slot to a supervisor that knows nothing; `executed`: its process is not on its way to
    /// its program any more.
    pub fn all(life: Life, executed: bool, epoch: Epoch) -> Self {
        match life {
            Life::Empty => Self { over: epoch > Epoch(0), ..Self::default() },
            Life::Running { .. } => Self { spawned: true, executed, ..Self::default() },
            Life::Ended { end: End::Exited(_), .. } => {
                Self { spawned: true, executed: true, ended: true, ..Self::default() }
            }
            Life::Ended { end: End::Failed(_), .. } => Self { ended: true, ..Self::default() },
        }
    }

    pub fn with_pipe(self, pipe: bool) -> Self {
        Self { pipe, ..self }
    }

    /// Whether the supervisor waits for something.
    pub fn to_supervisor(self) -> bool {
        self.spawned || self.executed || self.ended || self.over
    }
}

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
            let (answer, fd) = if untold.over {
                (Answer::over(slot, epoch), None)
            } else if untold.spawned {
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
            let socket = self.supervisor.socket().filter(|_| !self.supervisor_full);
            let Some(socket) = socket else { return };
            match send(socket, answer.bytes(), fd.map(AsFd::as_fd)) {
                Ok(Sent::Yes) if untold.over => entry.untold.over = false,
                Ok(Sent::Yes) if untold.spawned => entry.untold.spawned = false,
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
        let Some(socket) = self.supervisor.socket().filter(|_| !self.supervisor_full) else { return };
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
            if *untold && told(Answer::signalled(signal)) {
                *untold = false;
                // Only a proof that is asked for after this says that it was taken.
                self.doubtful_signals[signal as usize] =
                    Some(self.progress.nonce() + u64::from(!self.untold_challenge));
            }
        }
        self.untold_keeper = self.untold_keeper && !told(Answer::keeper_replaced());
        if let (true, Some(report)) = (self.hardware.untold, self.hardware.report()) {
            self.hardware.untold = !told(Answer::hardware(&report));
        }
        if full {
            self.watch_supervisor(true);
        }
    }

    /// Tells the supervisor who was lost before it, and what is in the store.
    fn tell_inheritance(&mut self) {
        let Some(socket) = self.supervisor.socket() else { return };
        if let Some(lost) = self.lost.filter(|_| self.untold_lost) {
            let answer = match lost {
                Loss::Supervisor { exit, hung } => Answer::lost(exit, hung.then(|| self.evidence.bytes())),
                Loss::Guardian => Answer::guardian_lost(),
            };
            self.untold_lost = matches!(send(socket, answer.bytes(), None), Ok(Sent::Full));
        }
        while let Some((key, fd)) = self.store.untold().filter(|_| !self.untold_lost) {
            if let Ok(Sent::Full) = send(socket, Answer::stored(*key).bytes(), Some(fd.as_fd())) {
                return self.watch_supervisor(true);
            }
            self.store.was_told();
        }
        if self.untold_lost {
            self.watch_supervisor(true);
        }
    }

    /// Sends the number that has to come back, after everything that it was to know before.
    pub(super) fn tell_challenge(&mut self) {
        let Some(socket) = self.supervisor.socket().filter(|_| !self.supervisor_full && self.untold_challenge) else {
            return;
        };
        match send(socket, Answer::challenged(self.progress.nonce()).bytes(), None) {
            Ok(Sent::Full) => self.watch_supervisor(true),
            Ok(Sent::Yes | Sent::Gone) | Err(_) => self.untold_challenge = false,
        }
    }

    /// There is room again: everything that waits, as far as it goes.
    pub(super) fn tell_all(&mut self) {
        self.tell_inheritance();
        if self.supervisor_full {
            return;
        }
        self.tell_rest();
        for slot in self.slots.all() {
            if self.slots.get(slot).is_some_and(|entry| entry.untold.to_supervisor()) {
                self.tell(slot);
            }
            if self.supervisor_full {
                return;
            }
        }
        self.tell_challenge();
        if !self.supervisor_full {
            self.watch_supervisor(false);
        }
    }

    /// Watches for room in the socket to the supervisor, and for orders unless one could not be answered.
    pub(super) fn watch_supervisor(&mut self, full: bool) {
        self.supervisor_full = full;
        let Some(socket) = self.supervisor.socket() else { return };
        let mut flags = if self.refusal.is_none() { EventFlags::IN } else { EventFlags::empty() };
        if full {
            flags |= EventFlags::OUT;
        }
        // It is registered, so that nothing can fail.
        let _ = epoll::modify(&self.epoll, socket, Token::Supervisor.data(), flags);
    }
}
