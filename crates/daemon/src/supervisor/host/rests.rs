//! Rests after what the kernel says: a service that lives at its limit, as one that reads large files does, would wake the
//! loop a hundred times a second otherwise, and one whose workers are killed again and again would fill the ledger.

use crate::protocol::Slot;
use rustix::io::read;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How long nothing is heard of a service's `memory.events`. What it counts is not lost by that, and the end of a main
/// process is told with it at once: what comes up to a second late is that a worker was killed.
const REST: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Services that rest, and the clock that ends it for all of them.
#[derive(Debug)]
pub(super) struct Rests {
    timer: OwnedFd,
    slots: BTreeSet<u32>,
}

impl Rests {
    /// Nobody rests.
    pub(super) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self { timer, slots: BTreeSet::new() })
    }

    /// Readable when rests are over.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// A service rests, with those that rest already.
    pub(super) fn begin(&mut self, slot: Slot) -> io::Result<()> {
        if self.slots.is_empty() {
            let once = Itimerspec { it_interval: Timespec::default(), it_value: REST };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        }
        self.slots.insert(slot.0);
        Ok(())
    }

    /// Those that rested.
    pub(super) fn end(&mut self) -> impl Iterator<Item = Slot> + use<> {
        // How often it was over: once.
        let _ = read(&self.timer, &mut [0; 8]);
        std::mem::take(&mut self.slots).into_iter().map(Slot)
    }
}
