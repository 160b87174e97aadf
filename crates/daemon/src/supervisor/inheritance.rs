//! What the guardian tells a supervisor before anything else: who was lost before it, and what outlived that one.

use super::host::exit_status;
use crate::protocol::timer::TimerReport;
use crate::protocol::{GuardianEvent, HostSignal, Slot, SpawnFailure, StoreKey};
use crate::supervisor::client::GuardianClient;
use crate::sys::wait::Exit;
use hale_core::event::Lost;
use hale_core::ids::Epoch;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

/// How long the guardian may take to tell all this, in seconds: it takes milliseconds, unless the machine hardly runs.
const WITHIN_S: i64 = 20;

/// Everything up to the first challenge.
#[derive(Debug, Default)]
pub(super) struct Inheritance {
    /// The supervisor before this one; `None`: this is the guardian's first.
    pub(super) lost: Option<Lost>,
    /// Sockets in which something may wait.
    pub(super) store: BTreeMap<StoreKey, OwnedFd>,
    /// The newest process of each slot that was ever used.
    pub(super) slots: BTreeMap<Slot, Kept>,
    /// The operator's signals; the one before may have acted on them.
    pub(super) signals: Vec<HostSignal>,
    /// The hardware timer, if one is configured.
    pub(super) hardware: Option<TimerReport>,
    /// The first number that has to come back.
    pub(super) nonce: u64,
}

/// A slot's newest process.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) epoch: Epoch,
    /// Unless its end was acknowledged, or it was never made.
    pub(super) process: Option<(i32, Option<OwnedFd>)>,
    pub(super) executed: bool,
    /// Not acknowledged.
    pub(super) exit: Option<Exit>,
    /// Not acknowledged.
    pub(super) failure: Option<SpawnFailure>,
}

impl Inheritance {
    /// Hears the guardian out.
    ///
    /// # Errors
    /// It is gone, or takes too long.
    pub(super) fn take(guardian: &mut GuardianClient) -> io::Result<Self> {
        let mut told = Self::default();
        loop {
            match guardian.receive()? {
                Some(GuardianEvent::Challenged { nonce }) => return Ok(Self { nonce, ..told }),
                Some(GuardianEvent::Gone) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(event) => told.hear(event),
                None => {
                    let mut ready = [PollFd::new(guardian, PollFlags::IN)];
                    match poll(&mut ready, Some(&Timespec { tv_sec: WITHIN_S, tv_nsec: 0 })) {
                        Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                        Ok(_) | Err(rustix::io::Errno::INTR) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                }
            }
        }
    }

    fn hear(&mut self, event: GuardianEvent) {
        match event {
            GuardianEvent::Lost { exit, evidence } => {
                self.lost = Some(match evidence {
                    Some(evidence) => Lost::NoProgress { evidence: evidence.to_string() },
                    None => Lost::Ended { status: exit_status(exit) },
                });
            }
            GuardianEvent::GuardianLost => self.lost = Some(Lost::Guardian),
            GuardianEvent::Stored { key, fd } => {
                self.store.extend(fd.map(|fd| (key, fd)));
            }
            GuardianEvent::Spawned { slot, epoch, pid, pidfd } => self.kept(slot, epoch).process = Some((pid, pidfd)),
            GuardianEvent::Executed { slot, epoch } => self.kept(slot, epoch).executed = true,
            GuardianEvent::Exited { slot, epoch, exit } => self.kept(slot, epoch).exit = Some(exit),
            GuardianEvent::SpawnFailed { slot, epoch, failure } => self.kept(slot, epoch).failure = Some(failure),
            GuardianEvent::Over { slot, epoch } => {
                self.kept(slot, epoch);
            }
            GuardianEvent::Signalled(signal) => self.signals.push(signal),
            GuardianEvent::Hardware(report) => self.hardware = Some(report),
            // All of them are told to whatever keeper there is.
            GuardianEvent::KeeperReplaced | GuardianEvent::Challenged { .. } | GuardianEvent::Gone => {}
        }
    }

    fn kept(&mut self, slot: Slot, epoch: Epoch) -> &mut Kept {
        let kept = self.slots.entry(slot).or_insert_with(|| Kept::new(epoch));
        if kept.epoch != epoch {
            *kept = Kept::new(epoch);
        }
        kept
    }

    /// Takes a descriptor out of the store.
    pub(super) fn stored(&mut self, key: StoreKey) -> Option<OwnedFd> {
        self.store.remove(&key)
    }
}

impl Kept {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self { epoch, process: None, executed: false, exit: None, failure: None }
    }
}
