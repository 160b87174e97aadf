//! What the guardian starts supervisor and keeper with: its own binary again, and the sockets between them.

use crate::guardian::begin::adopt::KEEPER_FDS;
use crate::sys::child::{Plan, PointerSpace, Program, ProgramFds, Step, spawn};
use rustix::io::Errno;
use rustix::process::Pid;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What both need to be started, at any time and without allocating.
#[derive(Debug)]
pub(super) struct Programs {
    /// The binary, whatever has become of its path.
    pub exe: OwnedFd,
    /// `/dev/null`.
    pub null: OwnedFd,
    /// Both ends of the socket between supervisor and keeper, and a keeper's staging: nothing is lost with either of them.
    pub shared: [OwnedFd; KEEPER_FDS],
    /// This process, if its helpers end with it because there will be a next guardian.
    pub dies_with: Option<Pid>,
    /// Of both.
    pub environment: Vec<CString>,
    pub supervisor_argv: Vec<CString>,
    pub keeper_argv: Vec<CString>,
}

impl Programs {
    /// Starts the supervisor with its ends of the sockets to guardian and keeper, as descriptors 3 and 4.
    pub fn supervisor(
        &self,
        end: BorrowedFd<'_>,
        oom_score_adj: Option<&[u8]>,
        pointers: &mut [PointerSpace; 2],
    ) -> Result<i32, Errno> {
        let [keeper, ..] = &self.shared;
        let fds = [end, keeper.as_fd()];
        self.start(&fds, Program::File(self.exe.as_fd()), &self.supervisor_argv, oom_score_adj, pointers)
    }

    /// Starts a keeper with its end of the socket to the guardian as descriptor 3, then what every keeper gets.
    pub fn keeper(&self, end: BorrowedFd<'_>, pointers: &mut [PointerSpace; 2]) -> Result<i32, Errno> {
        let [_, supervisor, staging_read, staging_write, staged_slot] = &self.shared;
        let fds = [end, supervisor.as_fd(), staging_read.as_fd(), staging_write.as_fd(), staged_slot.as_fd()];
        self.start(&fds, Program::File(self.exe.as_fd()), &self.keeper_argv, None, pointers)
    }

    /// Starts a child that has the kernel write everything to the disks.
    pub fn sync(&self, pointers: &mut [PointerSpace; 2]) -> Result<i32, Errno> {
        self.start(&[], Program::Sync, &[], None, pointers)
    }

    fn start(
        &self,
        fds: &[BorrowedFd<'_>],
        program: Program<'_>,
        words: &[CString],
        oom_score_adj: Option<&[u8]>,
        [argv, environment]: &mut [PointerSpace; 2],
    ) -> Result<i32, Errno> {
        let argv = argv.fill(words.iter().map(CString::as_c_str)).ok_or(Errno::TOOBIG)?;
        let environment = environment.fill(self.environment.iter().map(CString::as_c_str)).ok_or(Errno::TOOBIG)?;
        // Its failure to start shows as exit code 127.
        let plan = Plan::new(self.null.as_fd(), ProgramFds::Pass(fds), program, argv, environment);
        let plan = Plan { dies_with: self.dies_with, oom_score_adj, ..plan };
        spawn(&plan).map(|(pid, _pidfd)| pid).map_err(|(_step, errno): (Step, Errno)| errno)
    }
}
