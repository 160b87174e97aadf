//! How a process ended, as waitid(2) tells it.

use std::io;
use std::mem;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It called exit with this code, 0 to 255.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Whether the kernel wrote a core dump.
        core_dumped: bool,
    },
    /// It ended while no guardian was there, and the kernel does not tell afterwards how.
    Unknown,
}

/// Reaps one child that has ended, this one or whichever, and gives its pid; `None` when there is none now. Never
/// waits. Looking for whichever takes the kernel time for each child that has not ended.
///
/// Only for a process that starts children by itself: it would steal the statuses that `std::process` waits for.
///
/// # Errors
///
/// None that the kernel documents for these arguments.
pub fn reap(pid: Option<i32>) -> io::Result<Option<(i32, Exit)>> {
    let (kind, id) = pid.map_or((libc::P_ALL, 0), |pid| (libc::P_PID, pid.unsigned_abs()));
    // SAFETY: siginfo_t is plain data, for which all zeroes are a valid value.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    // SAFETY: `info` is writable for the length of the call, and the kernel writes nothing else.
    let result = unsafe { libc::waitid(kind, id, &raw mut info, libc::WEXITED | libc::WNOHANG) };
    if result != 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ECHILD) { Ok(None) } else { Err(error) };
    }
    // SAFETY: after a successful waitid the fields of SIGCHLD are set, or, with nothing to reap, still zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let exit = match info.si_code {
        libc::CLD_EXITED => Exit::Code(status),
        code => Exit::Signal { signal: status, core_dumped: code == libc::CLD_DUMPED },
    };
    Ok((pid != 0).then_some((pid, exit)))
}

/// Whether this process has children, ended or not.
#[must_use]
pub fn has_children() -> bool {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the kernel writes nothing to a null pointer here (waitid(2)), and nothing is reaped.
    unsafe { libc::waitid(libc::P_ALL, 0, std::ptr::null_mut(), flags) == 0 }
}
