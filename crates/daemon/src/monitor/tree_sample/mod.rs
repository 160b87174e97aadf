//! One look at the processes of a service, for all checks that want to know something of them: each file of /proc is read
//! at most once, and only those that somebody asked for. May block, as any file of the kernel may.

mod cpu;
mod files;
mod memory;
mod sockets;
#[cfg(test)]
mod tests;

pub(crate) use cpu::Mean;
pub(crate) use files::OpenFiles;
pub(crate) use memory::Memory;
pub(crate) use sockets::Held;

use crate::execute::tree::{Handle, Identity, Stat, Tree};
use hale_core::policy::{CheckKind, ListenAddress};
use hale_core::time::Span;
use rustix::fs::{Mode, OFlags, openat};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::time::Instant;

/// How many processes are held open at once: a service with more is no longer looked at in detail. It is a quarter of what
/// `pid_max` is at least, and each is a descriptor of Hale's.
const PROCESSES_MAX: usize = 4_096;

/// How many processes of a service are held from one look to the next: most services have no more, and each is a descriptor of
/// Hale's.
const KNOWN_MAX: usize = 4;

/// The most that is read of one file of the kernel, in bytes: `status` has up to 65,536 groups in it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the checks that are due want to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// From so many bytes on the exact figure matters.
    pub memory: Option<u64>,
    /// The window of each check, by its number.
    pub cpu: BTreeMap<usize, Span>,
    pub open_files: bool,
    pub listen: BTreeSet<ListenAddress>,
}

impl Needs {
    /// Adds what check number `index` needs.
    pub fn add(&mut self, index: usize, kind: &CheckKind) {
        match kind {
            CheckKind::Memory { below } => {
                let exact_from = self.memory.map_or(below.bytes(), |other| other.min(below.bytes()));
                self.memory = Some(exact_from);
            }
            CheckKind::Cpu { window, .. } => drop(self.cpu.insert(index, *window)),
            CheckKind::OpenFiles { .. } => self.open_files = true,
            CheckKind::Listen { address } => drop(self.listen.insert(address.clone())),
            CheckKind::Http(_)
            | CheckKind::Tcp { .. }
            | CheckKind::Exec { .. }
            | CheckKind::Heartbeat { .. }
            | CheckKind::Grpc { .. }
            | CheckKind::Metric(_)
            | CheckKind::Progress(_)
            | CheckKind::LoopLag(_) => {}
        }
    }
}

/// What was found: all that was needed, and nothing else.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    /// How many processes live; `None`: they were not gone through.
    pub processes: Option<usize>,
    pub memory: Option<Memory>,
    pub cpu: BTreeMap<usize, Mean>,
    pub open_files: Option<OpenFiles>,
    pub listen: BTreeMap<ListenAddress, Held>,
}

/// What is remembered of one service's process from one look to the next.
#[derive(Debug, Default)]
pub(crate) struct Past {
    ticks: cpu::Ticks,
    windows: BTreeMap<usize, cpu::Window>,
    /// Processes that were there, at most [`KNOWN_MAX`].
    known: Vec<Handle>,
    /// Where a listening socket was found: process and descriptor.
    sockets: BTreeMap<ListenAddress, (i32, i32)>,
    /// How often it was looked at.
    #[cfg(test)]
    pub looks: u32,
    /// Makes the next look hang until its other end is dropped.
    #[cfg(test)]
    pub gate: Option<std::sync::mpsc::Receiver<()>>,
}

impl Past {
    /// Looks at `tree` once.
    ///
    /// # Errors
    ///
    /// The kernel does not tell, or there are too many processes.
    pub fn look(&mut self, tree: &Tree, needs: &Needs) -> io::Result<Sample> {
        #[cfg(test)]
        {
            self.looks += 1;
            let _ = self.gate.take().map(|gate| gate.recv());
        }
        let mut sample = Sample::default();
        if needs.memory.is_some() {
            sample.memory = memory::of_group(tree)?;
        }
        let mut used_us = None;
        if !needs.cpu.is_empty() {
            used_us = cpu::of_group(tree)?.map(|us| (Instant::now(), us));
        }
        let by_process = ByProcess {
            memory: needs.memory.filter(|_| sample.memory.is_none()),
            cpu: !needs.cpu.is_empty() && used_us.is_none(),
            open_files: needs.open_files,
            listen: &needs.listen,
        };
        if by_process.is_needed() {
            let ticks = by_process.look(tree, self, &mut sample)?;
            if by_process.cpu {
                used_us = Some((Instant::now(), self.ticks.add(ticks)));
            }
        }
        if let Some((at, used_us)) = used_us {
            for (&index, &span) in &needs.cpu {
                let window = self.windows.entry(index).or_default();
                sample.cpu.insert(index, window.add(span, at, used_us));
            }
        }
        Ok(sample)
    }
}

/// What must be asked of each process.
struct ByProcess<'a> {
    memory: Option<u64>,
    cpu: bool,
    open_files: bool,
    listen: &'a BTreeSet<ListenAddress>,
}

impl ByProcess<'_> {
    fn is_needed(&self) -> bool {
        self.memory.is_some() || self.cpu || self.open_files || !self.listen.is_empty()
    }

    fn look(&self, tree: &Tree, past: &mut Past, sample: &mut Sample) -> io::Result<BTreeMap<Identity, cpu::Spent>> {
        let mut ticks = BTreeMap::new();
        let mut count = 0;
        let mut resident = memory::Resident::default();
        let mut most = files::Most::default();
        let mut held = Vec::new();
        let holds_all = self.memory.is_some() || !self.listen.is_empty();
        tree.look(std::mem::take(&mut past.known), |handle, stat| {
            count += 1;
            if self.cpu
                && let Some(stat) = stat.copied().or_else(|| handle.stat())
            {
                ticks.insert(stat.identity, cpu::Spent::of(&stat));
            }
            if self.memory.is_some() {
                resident.add(&handle)?;
            }
            if self.open_files {
                most.add(&handle);
            }
            if holds_all && held.len() >= PROCESSES_MAX {
                return Err(io::Error::other(format!("it has more than {PROCESSES_MAX} processes")));
            }
            if holds_all || held.len() < KNOWN_MAX {
                held.push(handle);
            }
            Ok(())
        })?;
        sample.processes = Some(count);
        if let Some(exact_from) = self.memory {
            sample.memory = Some(resident.total(&held, exact_from));
        }
        if self.open_files {
            sample.open_files = Some(most.found());
        }
        if !self.listen.is_empty() {
            sample.listen = sockets::held_by(&held, self.listen, &mut past.sockets)?;
        }
        held.truncate(KNOWN_MAX);
        past.known = held;
        Ok(ticks)
    }
}

impl cpu::Spent {
    fn of(stat: &Stat) -> Self {
        Self { own: stat.own_ticks, children: stat.children_ticks }
    }
}

/// A whole file below a process's directory, as bytes in `buffer`.
fn read(handle: &Handle, name: &str, buffer: &mut Vec<u8>) -> io::Result<()> {
    let file = openat(handle.dir(), name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    buffer.clear();
    // Room for all of a usual one: the kernel is asked twice, not once for each doubling of the buffer.
    buffer.reserve(4_096);
    File::from(file).take(FILE_BYTES_MAX).read_to_end(buffer)?;
    Ok(())
}

/// Whether a process ended meanwhile.
fn is_gone(error: &io::Error) -> bool {
    let gone = [rustix::io::Errno::SRCH, rustix::io::Errno::NOENT];
    error.raw_os_error().is_some_and(|number| gone.iter().any(|errno| errno.raw_os_error() == number))
}

/// The value of a line `name value`, or `name: value kB`.
fn value(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix([' ', ':']))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}
