//! File descriptors that were inherited: which of them exec keeps, and taking them over.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

/// Marks every descriptor from `first` on to be closed by exec. Linux 5.11 and newer; older kernels leave them.
pub fn close_on_exec_from(first: RawFd) {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: only sets a flag on descriptors, which closes none of them.
    unsafe { libc::syscall(libc::SYS_close_range, first, RawFd::MAX, CLOSE_RANGE_CLOEXEC) };
}

/// Whether the kernel has close_range(2) (Linux 5.9).
pub fn has_close_range() -> bool {
    // SAFETY: no descriptor has this number, so none is closed.
    unsafe { libc::syscall(libc::SYS_close_range, RawFd::MAX, RawFd::MAX, 0) == 0 }
}

/// Takes over a descriptor that this process was started with, once. It is closed by exec from now on.
///
/// # Errors
///
/// It is not open, or was taken already.
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());
    // SAFETY: setting a flag of a number that may not be open has no effect on memory.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if !TAKEN.lock().unwrap_or_else(PoisonError::into_inner).insert(number) {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // SAFETY: it is open, and nobody else owns it: it came through exec, and is taken here only once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
