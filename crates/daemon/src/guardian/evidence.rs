//! What the kernel says of a process, read from /proc without waiting for it or allocating.

use crate::protocol::Evidence;
use crate::protocol::text::Text;
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::fmt::Write;

/// Reads what /proc has of the main thread of a process, which runs the loop: its state, where in the kernel it waits
/// (proc_pid_wchan(5); empty or 0 where that is not told), and its system call (proc_pid_syscall(5)). None of these waits
/// for the process.
pub(super) fn evidence_of(pid: i32) -> Evidence {
    let mut evidence = Evidence::new();
    for (what, file) in [("state", "stat"), ("in", "wchan"), ("system call", "syscall")] {
        let mut text = [0; 512];
        let read = read_of(pid, file, &mut text);
        let text = std::str::from_utf8(&text[..read]).unwrap_or_default();
        // The name is in parentheses and may contain anything (proc_pid_stat(5)).
        let word = match file {
            "stat" => text.rsplit_once(") ").map_or("", |(_, rest)| rest),
            _ => text,
        };
        let word = word.split([' ', '\n']).next().unwrap_or_default();
        let comma = if evidence.bytes().is_empty() { "" } else { ", " };
        let _ = write!(evidence, "{comma}{what} {}", if word.is_empty() { "unknown" } else { word });
    }
    evidence
}

/// How long the main thread of a process, which runs its loop, wanted to run since this was called last, and others did, in
/// milliseconds: only while it is runnable (proc_pid_stat(5)) is the time that it did not run (the first number of
/// `/proc/PID/schedstat`, in nanoseconds; sched-stats.rst) somebody else's. 0 where the kernel does not count.
///
/// `asked` is when that was, and how long it had run then, in milliseconds.
pub(super) fn starved_ms(pid: i32, asked: &mut (u64, u64), now: u64) -> u64 {
    let (mut stat, mut schedstat) = ([0; 512], [0; 512]);
    let (read, counted) = (read_of(pid, "stat", &mut stat), read_of(pid, "schedstat", &mut schedstat));
    let ran = std::str::from_utf8(&schedstat[..counted]).ok().and_then(|text| text.split(' ').next()?.parse().ok());
    let Some(ran_ms) = ran.map(|ran: u64| ran / 1_000_000) else { return 0 };
    let (before_ms, had_run_ms) = std::mem::replace(asked, (now, ran_ms));
    // The name is in parentheses and may contain anything.
    let runnable = stat[..read].rsplit(|&byte| byte == b')').next().is_some_and(|rest| rest.starts_with(b" R"));
    if runnable { (now - before_ms).saturating_sub(ran_ms.saturating_sub(had_run_ms)) } else { 0 }
}

/// The part of a file below /proc that is read here, none of which waits for the process.
fn read_of(pid: i32, file: &str, buffer: &mut [u8; 512]) -> usize {
    let mut path = Text::<64>::new();
    let _ = write!(path, "/proc/{pid}/{file}");
    openat(CWD, path.bytes(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::read(file, buffer))
        .unwrap_or(0)
}
