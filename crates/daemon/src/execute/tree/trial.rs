//! Whether a process that is made in one of our cgroups lives to run its program.

use super::cgroup::{Group, Unusable};
use crate::sys::child::{Plan, PointerSpace, Program, ProgramFds, Step, spawn};
use crate::sys::wait::reap;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read, retry_on_intr};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, pidfd_send_signal};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// The group of the trial. No service can have it, because names do not start with `_`.
const TRIAL: &str = "_trial";

/// How long the one process of the trial may take, which needs less than a millisecond: a host that is too busy for
/// it in this time is not told from one where it does not work.
const WITHIN: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Makes a process in a new group below `group` as services are made, and sees that it comes as far as to its
/// program. It has none: the step of executing it is the first that fails, and is what the process reports.
///
/// Once `cgroup.kill` was written to the group that Hale itself is in, the kernel kills everything that Hale makes in
/// another one (docs/decisions/0008-a-fresh-cgroup-after-a-kill.md).
pub(super) fn try_out(group: &Group, place: &Path) -> Result<(), Unusable> {
    let tried = group.remove_child(TRIAL).and_then(|()| group.child(TRIAL)).and_then(|trial| comes_to_exec(&trial));
    // What stays is removed with the whole group.
    let _ = group.remove_child(TRIAL);
    match tried {
        Ok(true) => Ok(()),
        Ok(false) => Err(Unusable::Deadly(place.to_owned())),
        Err(source) => {
            Err(Unusable::Refused { what: "cannot make a process in a group below", path: place.to_owned(), source })
        }
    }
}

fn comes_to_exec(trial: &Group) -> io::Result<bool> {
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let (status, status_end) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let mut nothing = [PointerSpace::new(0), PointerSpace::new(0)];
    let [Some(argv), Some(environment)] = nothing.each_mut().map(|space| space.fill(std::iter::empty())) else {
        return Err(Errno::TOOBIG.into());
    };
    let plan = Plan {
        leave_high_fds: false,
        dies_with: None,
        status: status_end.as_fd(),
        fds: ProgramFds::Service { output: null.as_fd(), passed: &[], sockets: 0 },
        cgroup: Some(trial.fd()),
        oom_score_adj: None,
        open_files: None,
        identity: None,
        no_new_privs: true,
        umask: None,
        directory: None,
        marker: None,
        // A directory, which nobody can execute.
        program: Program::Path(c"/"),
        argv,
        environment,
        listen_pid: None,
    };
    let (pid, pidfd) = spawn(&plan).map_err(|(_, errno)| errno)?;
    if retry_on_intr(|| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&WITHIN)))? == 0 {
        // It is reaped when this process ends.
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        return Err(Errno::TIMEDOUT.into());
    }
    reap(Some(pid))?;
    let mut report = [0; 16];
    // Nothing there (EAGAIN): it was killed before it could report.
    let length = read(&status, &mut report).unwrap_or(0);
    Ok(matches!(report[..length], [step, ..] if Step::from_number(step) == Some(Step::Exec)))
}
