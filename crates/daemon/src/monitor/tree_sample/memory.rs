//! Memory of a tree: what it has taken and only its end, or swap, gives back. Page cache is not of it.
//!
//! Formats: <https://docs.kernel.org/admin-guide/cgroup-v2.html> (`memory.stat`, `memory.swap.current`),
//! proc_pid_status(5), proc_pid_smaps(5).

use super::{is_gone, read, value};
use crate::execute::tree::{Handle, Tree};
use rustix::io::pread;
use std::io;

/// What a tree has, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub anonymous: u64,
    pub shared: u64,
    pub swapped: u64,
    /// Otherwise it can be less: pages that several processes have are counted for each of them.
    pub is_exact: bool,
}

impl Memory {
    pub fn total(&self) -> u64 {
        self.anonymous.saturating_add(self.shared).saturating_add(self.swapped)
    }
}

/// By the kernel's own count; `None` without the memory controller.
pub(super) fn of_group(tree: &Tree) -> io::Result<Option<Memory>> {
    let Some(stat) = tree.open_file("memory.stat", false) else { return Ok(None) };
    let mut buffer = [0; 8_192];
    let length = pread(&stat, &mut buffer, 0)?;
    let memory = by_stat(&String::from_utf8_lossy(&buffer[..length]));
    // Not there without swap accounting.
    let swapped = tree.open_file("memory.swap.current", false).map(|file| pread(&file, &mut buffer, 0)).transpose()?;
    let swapped = swapped.and_then(|length| std::str::from_utf8(&buffer[..length]).ok()?.trim().parse().ok());
    Ok(memory.map(|memory| Memory { swapped: swapped.unwrap_or(0), ..memory }))
}

fn by_stat(text: &str) -> Option<Memory> {
    let (anonymous, shared) = (value(text, "anon")?, value(text, "shmem")?);
    Some(Memory { anonymous, shared, swapped: 0, is_exact: true })
}

/// By process, where there is no controller: first by counters, which cost little and count a page for each process
/// that has it; where that is too much, by their proportional shares, for which the kernel walks all pages.
#[derive(Debug, Default)]
pub(super) struct Resident {
    /// Of each process, in the order in which they came.
    each: Vec<Memory>,
    buffer: Vec<u8>,
}

impl Resident {
    /// Reads the counters of a process.
    pub fn add(&mut self, handle: &Handle) -> io::Result<()> {
        match read(handle, "status", &mut self.buffer) {
            Ok(()) => self.each.push(by_status(&String::from_utf8_lossy(&self.buffer))),
            Err(error) if is_gone(&error) => self.each.push(Memory::default()),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The sum for all of `handles`, which were added in this order: exact where it is not below `exact_from`, as far as
    /// the kernel lets it be.
    pub fn total(mut self, handles: &[Handle], exact_from: u64) -> Memory {
        let all = sum(&self.each);
        if all.total() < exact_from || self.each.len() < 2 {
            return Memory { is_exact: self.each.len() < 2, ..all };
        }
        for (handle, memory) in handles.iter().zip(&mut self.each) {
            match read(handle, "smaps_rollup", &mut self.buffer) {
                Ok(()) => *memory = by_rollup(&String::from_utf8_lossy(&self.buffer), memory),
                Err(error) if is_gone(&error) => *memory = Memory::default(),
                // Without CONFIG_PROC_PAGE_MONITOR, or of another user: what the counters said of it stays.
                Err(_) => {}
            }
        }
        let is_exact = self.each.iter().all(|memory| memory.is_exact || memory.total() == 0);
        Memory { is_exact, ..sum(&self.each) }
    }
}

fn sum(each: &[Memory]) -> Memory {
    let add = |of: fn(&Memory) -> u64| each.iter().map(of).fold(0, u64::saturating_add);
    let (anonymous, shared) = (add(|memory| memory.anonymous), add(|memory| memory.shared));
    Memory { anonymous, shared, swapped: add(|memory| memory.swapped), is_exact: false }
}

fn by_status(text: &str) -> Memory {
    // A zombie has none of these.
    let bytes = |name| value(text, name).unwrap_or(0) << 10;
    Memory { anonymous: bytes("RssAnon"), shared: bytes("RssShmem"), swapped: bytes("VmSwap"), is_exact: false }
}

/// `counted` is what its counters say, for a kernel before 5.9, which does not tell anonymous from shared: then it is not exact.
fn by_rollup(text: &str, counted: &Memory) -> Memory {
    let bytes = |name| value(text, name).map(|kib| kib << 10);
    let is_exact = ["Pss_Anon", "Pss_Shmem", "SwapPss"].iter().all(|name| value(text, name).is_some());
    Memory {
        anonymous: bytes("Pss_Anon").unwrap_or(counted.anonymous),
        shared: bytes("Pss_Shmem").unwrap_or(counted.shared),
        swapped: bytes("SwapPss").unwrap_or(counted.swapped),
        is_exact,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_by_name() {
        let stat = "anon 4096\nfile 900000\nkernel 7\nshmem 8192\nanon_thp 5\nshmem_thp 6\n";
        let expected = Memory { anonymous: 4_096, shared: 8_192, swapped: 0, is_exact: true };
        assert_eq!(by_stat(stat), Some(expected));
        assert_eq!(by_stat("cache 4096\nrss 8192\n"), None, "that is cgroup v1");
        let status = "Name:\tRssAnon: 7 kB\nVmRSS:\t 90 kB\nRssAnon:\t 4 kB\nRssFile:\t 70 kB\nRssShmem:\t 8 kB\nVmSwap:\t 2 kB\n";
        let expected = Memory { anonymous: 4_096, shared: 8_192, swapped: 2_048, is_exact: false };
        assert_eq!(by_status(status), expected);
        assert_eq!(by_status("Name:\tx\nState:\tZ (zombie)\n"), Memory::default());
        let rollup = "0-1 ---p 00000000 00:00 0 [rollup]\nRss: 90 kB\nPss: 50 kB\nPss_Anon: 2 kB\nPss_File: 40 kB\nPss_Shmem: 4 kB\nSwap: 2 kB\nSwapPss: 1 kB\n";
        let expected_of_share = Memory { anonymous: 2_048, shared: 4_096, swapped: 1_024, is_exact: true };
        assert_eq!(by_rollup(rollup, &expected), expected_of_share);
        assert_eq!(by_rollup("Rss: 90 kB\n", &expected), expected, "that is no better than the counters");
    }
}
