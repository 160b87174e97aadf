//! Telling the supervisor: once, in order, and never waiting for it.

use crate::guardian::marker::End;
use crate::guardian::run::Guardian;
use crate::guardian::slots::Life;
use crate::protocol::{GuardianEvent, HostSignal, Slot, SpawnFailure};
use crate::sys::child::Step;
use crate::sys::packet::Sent;
use hale_core::ids::Epoch;
use rustix::io::Errno;
use std::os::fd::AsFd;

/// What is still to be said about a slot, in this order.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Untold {
    /// Its newest process is over, and that was acknowledged.
    pub over: bool,
    pub spawned: bool,
    pub executed: bool,
    pub ended: bool,
}

impl Untold {
    /// All that there is to say of a slot to a supervisor that knows nothing; `executed`: its process is not on its way to
    /// its program any more.
    pub fn all(life: Life, executed: bool, epoch: Epoch) -> Self {
        let (over, spawned, executed, ended) = match life {
            Life::Empty => (epoch > Epoch(0), false, false, false),
            Life::Running { .. } => (false, true, executed, false),
            Life::Ended { end: End::Exited(_), .. } => (false, true, true, true),
            Life::Ended { end: End::Failed(_), .. } => (false, false, false, true),
        };
        Self { over, spawned, executed, ended }
    }

    /// Whether there is something.
    pub fn is_any(self) -> bool {
        self != Self::default()
    }
}

/// Instead of the number after which a signal counts as taken: it was not even told.
pub(super) const UNTOLD: u64 = u64::MAX;

impl Guardian {
    /// Answers an order that cannot be followed, now or as soon as there is room.
    pub(super) fn refuse(&mut self, slot: Slot, epoch: Epoch, errno: Errno) {
        let failure = SpawnFailure { step: Step::Order, errno: errno.raw_os_error() };
        self.refusal = Some((slot, epoch, failure));
        self.tell_rest();
    }

    /// Tells the supervisor what it does not know of a slot yet, in order, as far as its socket takes it.
    pub(super) fn tell(&mut self, slot: Slot) {
        let (Some(live), Some(entry)) = (&mut self.supervisor.live, self.slots.get(slot)) else { return };
        let epoch = entry.epoch;
        loop {
            let untold = &mut entry.untold;
            let (flag, event) = match entry.life {
                _ if untold.over => (&mut untold.over, GuardianEvent::Over { slot, epoch }),
                Life::Running { pid } | Life::Ended { pid, .. } if untold.spawned => {
                    (&mut untold.spawned, GuardianEvent::Spawned { slot, epoch, pid, pidfd: None })
                }
                _ if untold.executed => (&mut untold.executed, GuardianEvent::Executed { slot, epoch }),
                Life::Ended { end: End::Exited(exit), .. } if untold.ended => {
                    (&mut untold.ended, GuardianEvent::Exited { slot, epoch, exit })
                }
                Life::Ended { end: End::Failed(failure), .. } if untold.ended => {
                    (&mut untold.ended, GuardianEvent::SpawnFailed { slot, epoch, failure })
                }
                Life::Empty | Life::Running { .. } | Life::Ended { .. } => return,
            };
            let pidfd = entry.pidfd.as_ref().filter(|_| matches!(event, GuardianEvent::Spawned { .. }));
            if live.send(&self.epoll, &event, pidfd.map(AsFd::as_fd)) != Sent::Yes {
                return;
            }
            *flag = false;
        }
    }

    /// Tells the supervisor what is not about a slot.
    pub(super) fn tell_rest(&mut self) {
        let Some(live) = &mut self.supervisor.live else { return };
        // Only a proof that is asked for after this says that what is told now was taken.
        let next_nonce = self.supervisor.progress.nonce() + u64::from(!live.untold_challenge);
        // With nobody at the other end everything counts as told: that end is an event of its own.
        let mut told = |event: GuardianEvent| live.send(&self.epoll, &event, None) != Sent::Full;
        self.refusal.take_if(|&mut (slot, epoch, failure)| told(GuardianEvent::SpawnFailed { slot, epoch, failure }));
        for signal in [HostSignal::Terminate, HostSignal::Interrupt, HostSignal::Hangup] {
            let taken_after = &mut self.signals[signal as usize];
            if *taken_after == Some(UNTOLD) && told(GuardianEvent::Signalled(signal)) {
                *taken_after = Some(next_nonce);
            }
        }
        self.untold_keeper = self.untold_keeper && !told(GuardianEvent::KeeperReplaced);
        if let (true, Some(report)) = (self.hardware.untold, self.hardware.report()) {
            self.hardware.untold = !told(GuardianEvent::Hardware(report));
        }
        live.hear(&self.epoll, self.refusal.is_none());
    }

    /// Tells the supervisor who was lost before it, and what is in the store.
    fn tell_inheritance(&mut self) {
        let Some(live) = &mut self.supervisor.live else { return };
        if let Some(lost) = self.lost.as_ref().filter(|_| self.untold_lost) {
            self.untold_lost = live.send(&self.epoll, lost, None) == Sent::Full;
        }
        while let Some((key, fd)) = self.store.untold() {
            let stored = GuardianEvent::Stored { key: *key, fd: None };
            if live.send(&self.epoll, &stored, Some(fd.as_fd())) == Sent::Full {
                return;
            }
            self.store.was_told();
        }
    }

    /// Sends the number that has to come back, after everything that it was to know before.
    pub(super) fn tell_challenge(&mut self) {
        if let Some(live) = &mut self.supervisor.live {
            live.challenge(&self.epoll, &GuardianEvent::Challenged { nonce: self.supervisor.progress.nonce() });
        }
    }

    /// Everything that waits, in order: where the socket is full, what comes behind waits too.
    pub(super) fn tell_all(&mut self) {
        self.tell_inheritance();
        self.tell_rest();
        self.slots.all().for_each(|slot| self.tell(slot));
        self.tell_challenge();
    }
}
