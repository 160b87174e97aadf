//! Time, and waiting for a single descriptor, without allocating.

use crate::guardian::run::Token;
use rustix::event::epoll::{self, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use std::os::fd::{AsFd, OwnedFd};

/// Milliseconds on the monotonic clock.
pub(super) fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

/// So many milliseconds.
pub(super) fn timespec(ms: u64) -> Timespec {
    // Both parts are far below their types' bounds: nothing is waited for longer than minutes.
    Timespec { tv_sec: (ms / 1_000) as i64, tv_nsec: (ms % 1_000 * 1_000_000) as i64 }
}

/// Waits until one of these is true of the descriptor, or for this time: what is true then.
pub(super) fn ready(fd: impl AsFd, flags: PollFlags, within_ms: u64) -> PollFlags {
    let mut fds = [PollFd::new(&fd, flags)];
    // The only error that can come is an interruption: then nothing is.
    let _ = poll(&mut fds, Some(&timespec(within_ms)));
    fds[0].revents()
}

/// Has the loop be told once when there is room.
pub(super) fn await_room(epoll: &OwnedFd, fd: &OwnedFd, token: Token) {
    let flags = EventFlags::OUT | EventFlags::ONESHOT;
    // It is registered already where there was no room before.
    if epoll::add(epoll, fd, token.data(), flags) == Err(Errno::EXIST) {
        let _ = epoll::modify(epoll, fd, token.data(), flags);
    }
}
