//! Supervisor and keeper: the guardian's own binary again, with the sockets between them.

use crate::guardian::adopt::KEEPER_FDS;
use crate::sys::child::{Plan, PointerSpace, Program, ProgramFds, Step, spawn};
use rustix::io::Errno;
use rustix::process::Pid;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What both need to be started, at any time and without allocating.
#[derive(Debug)]
pub(super) struct Helpers {
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

impl Helpers {
    /// Starts the supervisor with its ends of the sockets to guardian and keeper, as descriptors 3 and 4.
    pub fn supervisor(
        &self,
        end: BorrowedFd<'_>,
        oom_score_adj: Option<&[u8]>,
        [argv, environment]: &mut [PointerSpace; 2],
    ) -> Result<i32, Errno> {
        let [keeper, ..] = &self.shared;
        let fds = [end, keeper.as_fd()];
        self.start(&fds, self.program(), &self.supervisor_argv, oom_score_adj, argv, environment)
    }

    /// Starts a keeper with its end of the socket to the guardian as descriptor 3, then what every keeper gets.
    pub fn keeper(&self, end: BorrowedFd<'_>, [argv, environment]: &mut [PointerSpace; 2]) -> Result<i32, Errno> {
        let [_, supervisor, staging_read, staging_write, staged_slot] = &self.shared;
        let fds = [end, supervisor.as_fd(), staging_read.as_fd(), staging_write.as_fd(), staged_slot.as_fd()];
        self.start(&fds, self.program(), &self.keeper_argv, None, argv, environment)
    }

    /// Starts a child that has the kernel write everything to the disks.
    pub fn sync(&self, [argv, environment]: &mut [PointerSpace; 2]) -> Result<i32, Errno> {
        self.start(&[], Program::Sync, &[], None, argv, environment)
    }

    fn program(&self) -> Program<'_> {
        Program::File(self.exe.as_fd())
    }

    fn start(
        &self,
        fds: &[BorrowedFd<'_>],
        program: Program<'_>,
        words: &[CString],
        oom_score_adj: Option<&[u8]>,
        argv: &mut PointerSpace,
        environment: &mut PointerSpace,
    ) -> Result<i32, Errno> {
        let plan = Plan {
            leave_high_fds: false,
            dies_with: self.dies_with,
            // Its failure to start shows as exit code 127.
            status: self.null.as_fd(),
            fds: ProgramFds::Pass(fds),
            cgroup: None,
            oom_score_adj,
            open_files: None,
            identity: None,
            no_new_privs: false,
            umask: None,
            directory: None,
            marker: None,
            program,
            argv: argv.fill(words.iter().map(CString::as_c_str)).ok_or(Errno::TOOBIG)?,
            environment: environment.fill(self.environment.iter().map(CString::as_c_str)).ok_or(Errno::TOOBIG)?,
            listen_pid: None,
        };
        spawn(&plan).map(|(pid, _pidfd)| pid).map_err(|(_step, errno): (Step, Errno)| errno)
    }
}
