//! What a pidfd tells of a process that is somebody else's child: how it ended (Linux 6.15).

use crate::sys::wait::Exit;
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// `struct pidfd_info` of linux/pidfd.h, as of Linux 6.13 (`PIDFD_INFO_SIZE_VER0`).
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup_id: u64,
    pids_and_owners: [u32; 11],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`: asks for the exit status, and says that it is there. Linux 6.15.
const INFO_EXIT: u64 = 1 << 3;

/// `PIDFD_GET_INFO`: `_IOWR(0xFF, 11, struct pidfd_info)`.
const GET_INFO: libc::Ioctl = (3 << 30 | (size_of::<Info>() as u32) << 16 | 0xff << 8 | 11) as libc::Ioctl;

/// How the process ended, once it was reaped by whomever; `None` before, and on kernels that do not tell.
pub fn exit_of(pidfd: BorrowedFd<'_>) -> Option<Exit> {
    let mut info = Info { mask: INFO_EXIT, ..Info::default() };
    // SAFETY: the kernel writes at most as many bytes as the size in the request's number says, which is that of `info`.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &raw mut info) };
    if result != 0 || info.mask & INFO_EXIT == 0 {
        return None;
    }
    let status = info.exit_code;
    Some(if libc::WIFEXITED(status) {
        Exit::Code(libc::WEXITSTATUS(status))
    } else {
        Exit::Signal { signal: libc::WTERMSIG(status), core_dumped: libc::WCOREDUMP(status) }
    })
}

/// Whether this kernel tells: tried out with a child that ends at once. Only for a process with a single thread.
pub fn tells_exits() -> bool {
    // SAFETY: the child calls only _exit(2), which is safe after a fork.
    let child = match unsafe { libc::fork() } {
        // SAFETY: ends the child, and runs nothing of the process it was copied from.
        0 => unsafe { libc::_exit(3) },
        child => Pid::from_raw(child.max(0)),
    };
    let Some(child) = child else { return false };
    let pidfd = pidfd_open(child, PidfdFlags::empty());
    let _ = waitpid(Some(child), WaitOptions::empty());
    pidfd.is_ok_and(|pidfd| exit_of(pidfd.as_fd()) == Some(Exit::Code(3)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn how_a_process_ended_is_told_after_it_was_reaped_or_not_at_all() {
        let exit = |script: &str| {
            let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
            assert_eq!(exit_of(pidfd.as_fd()), None, "it was not reaped yet");
            child.wait().unwrap();
            exit_of(pidfd.as_fd())
        };
        let told = [exit("exit 7"), exit("kill -9 $$")];
        let exact = [Some(Exit::Code(7)), Some(Exit::Signal { signal: 9, core_dumped: false })];
        assert!(told == exact || told == [None, None], "{told:?}");
    }
}
