//! The table of all services' processes: what runs, how it ended, and what was not told yet.

use crate::guardian::end::kill;
use crate::guardian::marker::End;
use crate::guardian::systemd::KeptOf;
use crate::guardian::tell::Untold;
use crate::protocol::{Slot, SpawnFailure};
use hale_core::ids::Epoch;
use rustix::process::{Signal, pidfd_send_signal};
use std::os::fd::OwnedFd;

/// One service's place.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// The number of its last process.
    pub epoch: Epoch,
    pub life: Life,
    pub pipe: Option<OutputPipe>,
    /// Where everything of its last process lives, for `cgroup.kill`.
    pub cgroup: Option<OwnedFd>,
    /// While it has not executed its program.
    pub start: Option<Start>,
    /// Of the running process, for each supervisor anew.
    pub pidfd: Option<OwnedFd>,
    pub untold: Untold,
    /// Whether the keeper does not have its pipe.
    pub unoffered: bool,
    /// What systemd has of it.
    pub kept: KeptOf,
    /// An end for which there was no room in the pipe: whoever comes next writes it, if there is room then.
    pub unmarked: Option<(Epoch, i32, End)>,
}

/// The process in a slot.
#[derive(Debug, Default, Clone, Copy)]
pub(super) enum Life {
    /// None, or none that matters any more.
    #[default]
    Empty,
    /// It was cloned and not reaped, here or by the guardian before this one.
    Running { pid: i32 },
    /// It was reaped, and that was not acknowledged.
    Ended { pid: i32, end: End },
}

/// A service's output: kept as long as the slot, over all its processes and keepers.
#[derive(Debug)]
pub(super) struct OutputPipe {
    pub read: OwnedFd,
    /// Services get copies of it.
    pub write: OwnedFd,
    /// The same end once more, for the guardian's own lines: services need it to wait, and the guardian must not.
    pub marks: OwnedFd,
}

/// A child on its way to its program.
#[derive(Debug)]
pub(super) struct Start {
    pub status: OwnedFd,
    /// What was made for the child and is shared with it, until it has its own copies: its status pipe and its output.
    pub ends: Option<(OwnedFd, OwnedFd)>,
    pub failure: Option<SpawnFailure>,
}

/// All places. Reserved at once, but only the used ones take memory.
#[derive(Debug)]
pub(super) struct Slots {
    entries: Vec<Entry>,
    /// The pid of each running child, zero elsewhere: what is searched at each exit, without touching the rest.
    pids: Vec<i32>,
}

impl Slots {
    pub fn new(most: u32) -> Self {
        let most = most as usize;
        Self { entries: Vec::with_capacity(most), pids: Vec::with_capacity(most) }
    }

    /// The slot's entry, made if it is used for the first time; `None` beyond the table.
    pub fn entry(&mut self, slot: Slot) -> Option<&mut Entry> {
        let index = slot.0 as usize;
        if index >= self.entries.capacity().min(self.pids.capacity()) {
            return None;
        }
        while self.entries.len() <= index {
            self.entries.push(Entry::default());
            self.pids.push(0);
        }
        self.entries.get_mut(index)
    }

    /// The slot's entry, if it was ever used.
    pub fn get(&mut self, slot: Slot) -> Option<&mut Entry> {
        self.entries.get_mut(slot.0 as usize)
    }

    /// All used slots.
    pub fn all(&self) -> impl ExactSizeIterator<Item = Slot> + use<> {
        (0..self.entries.len() as u32).map(Slot)
    }

    /// Records that a child runs in the slot.
    pub fn set_running(&mut self, slot: Slot, pid: i32) {
        if let Some(entry) = self.entry(slot) {
            entry.life = Life::Running { pid };
            self.pids[slot.0 as usize] = pid;
        }
    }

    /// Takes a child that was reaped off the list of running ones: its slot, if it was a service's.
    pub fn reaped(&mut self, pid: i32) -> Option<Slot> {
        let index = self.pids.iter().position(|&running| running == pid)?;
        self.pids[index] = 0;
        Some(Slot(index as u32))
    }

    /// Whether any process runs.
    pub fn any_running(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.life, Life::Running { .. }))
    }

    /// Signals the main process of each service that runs; says whether there was one.
    pub fn signal(&self, signal: Signal) -> bool {
        for entry in &self.entries {
            match (entry.life, &entry.pidfd) {
                (Life::Running { .. }, Some(pidfd)) => {
                    let _ = pidfd_send_signal(pidfd, signal);
                }
                // A child that was not reaped: its pid is its own. What was adopted always has a pidfd.
                (Life::Running { pid }, None) => kill(pid, signal),
                (Life::Empty | Life::Ended { .. }, _) => {}
            }
        }
        self.any_running()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_once_by_its_pid() {
        let mut slots = Slots::new(4);
        slots.set_running(Slot(2), 77);
        assert!(slots.any_running());
        assert_eq!(slots.reaped(78), None);
        assert_eq!(slots.reaped(77), Some(Slot(2)));
        assert_eq!(slots.reaped(77), None);
        assert_eq!(slots.all().count(), 3);
        assert!(slots.entry(Slot(u32::MAX)).is_none());
    }
}
