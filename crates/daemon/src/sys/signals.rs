//! Signals as messages: blocked, and read from a descriptor (signalfd(2)).

use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// Blocked signals, to be read one after the other.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

/// The size of signalfd_siginfo (signalfd(2)), whose first four bytes are the signal's number.
const SIGINFO_BYTES: usize = 128;

/// Where the process id is in it: behind signal, error and code.
const SSI_PID_AT: usize = 12;

/// The last signal's number (signal(7)).
const LAST_SIGNAL: i32 = 64;

impl SignalFd {
    /// Gives every signal its default handling, blocks exactly `signals` and reads them from now on. For a process
    /// with one thread, at its start.
    ///
    /// # Errors
    ///
    /// No file descriptor is left.
    pub fn take(signals: &[i32]) -> io::Result<Self> {
        // The kernel's own call, because libc refuses 32 and 33, which may have been ignored already when Hale was
        // started: a handler of zero (SIG_DFL), with no flags and an empty mask, in the kernel's layout.
        let default = [0_u64; 4];
        for signal in 1..=LAST_SIGNAL {
            // SAFETY: the default handling is no code of this process, and the kernel reads at most 32 bytes for a
            // mask of 8. SIGKILL and SIGSTOP refuse, which is right for them.
            unsafe {
                let old = ptr::null_mut::<u64>();
                libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), old, size_of::<u64>());
            }
        }
        let mut set = empty_set();
        for &signal in signals {
            // SAFETY: `set` is an initialised set.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        // SAFETY: `set` is an initialised set and no old one is asked for.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) };
        // SAFETY: -1 makes a new descriptor; `set` is an initialised set.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made it for this process.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next signal that came, and the process that it is about or from; `None` when there is none now.
    #[must_use]
    pub fn next(&self) -> Option<(i32, i32)> {
        let mut info = [0; SIGINFO_BYTES];
        let read = rustix::io::read(&self.0, &mut info);
        let number = |at: usize| info[at..].first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
        if read == Ok(SIGINFO_BYTES) { number(0).zip(number(SSI_PID_AT)) } else { None }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Lets a write to a pipe without readers end the process again (signal(7)). Rust programs begin by ignoring SIGPIPE,
/// and what is ignored stays so through clone3(2) and execve(2). Safe between fork and exec.
pub(super) fn default_sigpipe() {
    // SAFETY: the default handling is no code of this process.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Blocks no signal any more in this thread. Safe between fork and exec.
pub(super) fn unblock_all() -> io::Result<()> {
    let set = empty_set();
    // SAFETY: `set` is an initialised set and no old one is asked for.
    let result = unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a signal to every process that process 1 can reach, but itself (kill(2)). Nobody else sends anything by this: it would
/// reach the whole machine.
pub fn send_to_all(signal: rustix::process::Signal) {
    if rustix::process::getpid().is_init() {
        // SAFETY: no memory is involved.
        unsafe { libc::kill(-1, signal.as_raw()) };
    }
}

fn empty_set() -> libc::sigset_t {
    // SAFETY: sigset_t is plain data, for which all zeroes are a valid value.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is writable.
    unsafe { libc::sigemptyset(&raw mut set) };
    set
}
