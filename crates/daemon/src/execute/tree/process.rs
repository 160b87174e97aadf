//! One process as /proc shows it, held so that its pid cannot come to mean another one.

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, statat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The most that is read of one process's environment, in bytes: three quarters of the 8 MiB stack that execve(2)
/// takes as the greatest size of arguments and environment together.
const ENVIRON_BYTES_MAX: u64 = 6 << 20;

/// The most that is read of `stat` or `cgroup`, in bytes: a path of a cgroup has at most 4,096.
const SMALL_FILE_BYTES_MAX: u64 = 16 << 10;

/// A pid that means one process only, within a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
}

/// What is needed of proc_pid_stat(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub identity: Identity,
    pub parent: i32,
    pub session: i32,
    /// No thread of it lives: it only waits to be reaped.
    pub is_dead: bool,
    /// Its time on processors, in clock ticks.
    pub own_ticks: u64,
    /// That of its children which ended and which it has waited for, with what they had so.
    pub children_ticks: u64,
}

/// A process, held by its open directory in /proc: what is read through it, or sent to it, concerns this process
/// and never one that got the same pid later. pidfd_send_signal(2) takes such a descriptor as it takes a pidfd.
#[derive(Debug)]
pub(crate) struct Handle {
    pid: i32,
    dir: OwnedFd,
}

impl Handle {
    /// Holds the process that has this pid now; `None` when there is none, or none that this user may see.
    pub fn open(pid: i32) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty()) {
            Ok(dir) => Ok(Some(Self { pid, dir })),
            Err(Errno::NOENT | Errno::SRCH | Errno::ACCESS | Errno::PERM) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Its pid, which may have come to mean another one.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its directory in /proc.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Whether it was not reaped yet.
    pub fn is_there(&self) -> bool {
        statat(&self.dir, "stat", AtFlags::empty()).is_ok()
    }

    /// Who it is now; `None` when it was reaped.
    pub fn stat(&self) -> Option<Stat> {
        parse_stat(self.pid, &self.read("stat", SMALL_FILE_BYTES_MAX)?)
    }

    /// Its cgroup v2 as in proc_pid_cgroup(5); `None` when it has none, or was reaped.
    pub fn cgroup(&self) -> Option<String> {
        let text = String::from_utf8(self.read("cgroup", SMALL_FILE_BYTES_MAX)?).ok()?;
        text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
    }

    /// The environment that its program was started with: entries ended by NUL. Empty when this user may not read it.
    pub fn environment(&self) -> Vec<u8> {
        let environment = self.read("environ", ENVIRON_BYTES_MAX).unwrap_or_default();
        if !environment.is_empty() {
            return environment;
        }
        // When the first thread has ended, the process has no memory to show there, but its other threads have.
        let Ok(tasks) = self.open_below("task", OFlags::DIRECTORY).map(Dir::new) else { return Vec::new() };
        for task in tasks.into_iter().flatten().flatten() {
            let Ok(name) = task.file_name().to_str() else { continue };
            if name.parse().is_ok_and(|thread: i32| thread != self.pid) {
                return self.read(&format!("task/{name}/environ"), ENVIRON_BYTES_MAX).unwrap_or_default();
            }
        }
        Vec::new()
    }

    /// Sends a signal; `false` when the process ended before.
    pub fn send(&self, signal: Signal) -> io::Result<bool> {
        match pidfd_send_signal(&self.dir, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A pidfd, which becomes readable when the process ends (pidfd_open(2)); `None` when it was reaped.
    pub fn pidfd(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            // As long as this directory still answers, the pid was not free in between.
            Ok(pidfd) => Ok(self.stat().map(|_| pidfd)),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn open_below(&self, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        openat(&self.dir, name, flags | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }

    fn read(&self, name: &str, max: u64) -> Option<Vec<u8>> {
        // Room for all of a usual one: the kernel is asked twice, not once for each doubling of the buffer.
        let mut bytes = Vec::with_capacity(1_024);
        File::from(self.open_below(name, OFlags::empty()).ok()?).take(max).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }
}

/// All pids that there are at the moment; those that come and go meanwhile may be missed.
pub(crate) fn pids() -> io::Result<impl Iterator<Item = i32>> {
    let entries = std::fs::read_dir("/proc")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// Everything in `/proc/<pid>/stat` up to the start time. The name, in parentheses, may hold anything.
fn parse_stat(pid: i32, bytes: &[u8]) -> Option<Stat> {
    let after_name = bytes.iter().rposition(|&byte| byte == b')')? + 1;
    let text = std::str::from_utf8(bytes.get(after_name..)?).ok()?;
    // Field 3, the state, comes first.
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    let threads: u64 = field(20)?.parse().ok()?;
    // 2^60 ticks are more than any machine will see.
    let ticks = |number| field(number)?.parse::<u64>().ok().map(|ticks| ticks.min(1 << 60));
    Some(Stat {
        identity: Identity { pid, start_ticks: field(22)?.parse().ok()? },
        parent: field(4)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        is_dead: matches!(field(3)?, "Z" | "X" | "x") && threads <= 1,
        own_ticks: ticks(14)? + ticks(15)?,
        children_ticks: ticks(16)? + ticks(17)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_name_full_of_parentheses_does_not_move_the_fields() {
        let rest = "1 7 8 0 -1 0 0 0 0 0 1 2 30 40 20 0 1 0 12345 0";
        let stat = parse_stat(42, format!("42 (a) Z 9 (b) S {rest}\n").as_bytes()).unwrap();
        let identity = Identity { pid: 42, start_ticks: 12345 };
        assert_eq!(stat, Stat { identity, parent: 1, session: 8, is_dead: false, own_ticks: 3, children_ticks: 70 });
        assert!(parse_stat(42, format!("42 (x) Z {rest}\n").as_bytes()).unwrap().is_dead);
        assert!(parse_stat(42, b"42 (x) S 1").is_none());
    }

    #[test]
    fn a_first_thread_that_ended_is_no_dead_process() {
        let rest = "1 7 8 0 -1 0 0 0 0 0 0 0 0 0 20 0 2 0 12345 0";
        assert!(!parse_stat(42, format!("42 (x) Z {rest}\n").as_bytes()).unwrap().is_dead);
    }

    #[test]
    fn a_handle_outlives_its_process_and_never_means_another() {
        let mut child = Command::new("sleep").arg("1000").env("HALE_TEST", "held").spawn().unwrap();
        let handle = Handle::open(child.id().cast_signed()).unwrap().unwrap();
        assert_eq!(handle.stat().unwrap().parent, std::process::id().cast_signed());
        assert!(handle.send(Signal::KILL).unwrap());
        child.wait().unwrap();
        assert!(handle.stat().is_none());
        assert!(!handle.send(Signal::KILL).unwrap());
        assert!(handle.pidfd().unwrap().is_none());
    }
}
