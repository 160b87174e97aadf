//! File descriptors that were inherited: which of them exec keeps, and taking them over.

use crate::sys::child::LOW_FDS;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
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

/// Moves a descriptor to [`LOW_FDS`] or above, out of the range that children copy.
///
/// # Errors
///
/// No descriptor is left there.
pub fn high(fd: impl AsFd) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(fd, LOW_FDS)
}

/// Whether both are one open file, as after dup(2) or when one was passed through a socket. Where the kernel has neither
/// `F_DUPFD_QUERY` (Linux 6.10) nor an allowed kcmp(2), any two count as different.
pub fn is_same_open_file(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    // linux/fcntl.h: F_LINUX_SPECIFIC_BASE + 3.
    const F_DUPFD_QUERY: libc::c_int = 1024 + 3;
    let (one, other) = (one.as_raw_fd(), other.as_raw_fd());
    // SAFETY: compares two descriptors that are open, and changes neither.
    match unsafe { libc::fcntl(one, F_DUPFD_QUERY, other) } {
        same @ 0.. => same == 1,
        _ => is_same_by_kcmp(one, other),
    }
}

fn is_same_by_kcmp(one: RawFd, other: RawFd) -> bool {
    const KCMP_FILE: libc::c_int = 0;
    let own = std::process::id();
    // SAFETY: compares two descriptors of this process, and changes neither.
    unsafe { libc::syscall(libc::SYS_kcmp, own, own, KCMP_FILE, one, other) == 0 }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_copy_is_the_same_open_file_and_another_opening_is_not() {
        let open = || File::open("/dev/null").unwrap();
        let (one, other) = (open(), open());
        let copy = one.try_clone().unwrap();
        assert!(is_same_open_file(one.as_fd(), copy.as_fd()) && is_same_by_kcmp(one.as_raw_fd(), copy.as_raw_fd()));
        assert!(!is_same_open_file(one.as_fd(), other.as_fd()));
        assert!(!is_same_by_kcmp(one.as_raw_fd(), other.as_raw_fd()));
    }
}
