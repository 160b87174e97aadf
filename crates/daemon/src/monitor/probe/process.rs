//! The process of one exec probe: started, watched, its output kept as far as it is wanted, killed, reaped.

use super::prepare::Prepared;
use super::{Verdict, is_shortage};
use crate::execute::tree::ProbeGroup;
use crate::sys::child::{self, Plan, PointerSpace, Program, ProgramFds, STATUS_FAILURE_BYTES, Step};
use crate::sys::watch;
use hale_core::event::ExitStatus;
use hale_core::policy::Signal;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Resource, Rlimit, Signal as Number, WaitId, WaitIdOptions, getrlimit, kill_process, kill_process_group,
    pidfd_send_signal, waitid,
};
use rustix::thread::{Gid, Uid};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::Receiver;
use tokio::time::Instant;

/// How much of the output is kept, its end: one line of it is shown.
const OUTPUT_BYTES: usize = 4 << 10;

/// How much output is read at once, and the pause after so much: a probe that floods its output gets 13 MB/s and
/// waits for the rest, and the thread of all probes stays free for the others. It is the size of a pipe (pipe(7)).
const FLOOD_BYTES: usize = 64 << 10;
const FLOOD_PAUSE: Duration = Duration::from_millis(5);

/// How long a killed process may take to be gone before its probe is answered without that: dying takes
/// milliseconds, and the core waits for the answer no longer than `PROBE_LOST_AFTER`.
pub(super) const GONE_WITHIN: Duration = Duration::from_secs(1);

/// A running program with all its children. Killed when dropped.
pub(super) struct Process {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    /// Where failures before its program ran are told.
    status: OwnedFd,
    program: CString,
    directory: CString,
    output: Receiver,
    kept: Vec<u8>,
    is_reaped: bool,
    group: ProbeGroup,
}

/// How the wait for a process ended.
pub(super) enum Ended {
    /// The process did.
    ByItself,
    /// Not the process.
    AtDeadline,
}

impl Process {
    /// Makes the process; what happens in it before its program runs is found in [`failure`](Self::failure). Standard input is that of this process: `/dev/null` in a supervisor.
    pub(super) fn start(prepared: &Prepared, group: ProbeGroup) -> Result<Self, Verdict> {
        let refused = |what| move |errno: Errno| Verdict::unable(format_args!("{what}: {}", io::Error::from(errno)));
        let (output, output_end) = pipe_with(PipeFlags::CLOEXEC).map_err(refused("no pipe"))?;
        let (status, status_end) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(refused("no pipe"))?;
        let identity = prepared.identity.as_ref();
        let groups: Vec<Gid> =
            identity.map_or(Vec::new(), |user| user.groups.iter().copied().map(Gid::from_raw).collect());
        let open_files = prepared.open_files_limit.map(|limit| {
            let maximum = getrlimit(Resource::Nofile).maximum.map_or(limit, |maximum| maximum.min(limit));
            Rlimit { current: Some(maximum), maximum: Some(maximum) }
        });
        let mut argv = PointerSpace::new(prepared.argv.len());
        let mut environment = PointerSpace::new(prepared.environment.len());
        let too_many = || Verdict::wrong("too many arguments or variables");
        let plan = Plan {
            leave_high_fds: false,
            dies_with: None,
            status: status_end.as_fd(),
            fds: ProgramFds::Service { output: output_end.as_fd(), passed: &[], sockets: 0 },
            cgroup: group.fd(),
            oom_score_adj: None,
            open_files,
            identity: identity.map(|user| (Uid::from_raw(user.uid), Gid::from_raw(user.gid), &groups[..])),
            no_new_privs: true,
            umask: Some(Mode::from_raw_mode(0o022)),
            directory: Some(&prepared.directory),
            marker: None,
            program: Program::Path(&prepared.program),
            argv: argv.fill(prepared.argv.iter().map(CString::as_c_str)).ok_or_else(too_many)?,
            environment: environment.fill(prepared.environment.iter().map(CString::as_c_str)).ok_or_else(too_many)?,
            listen_pid: None,
        };
        let (pid, pidfd) = child::spawn(&plan).map_err(|(step, errno)| refused(step.name())(errno))?;
        let pid = Pid::from_raw(pid).ok_or_else(|| Verdict::unable("the kernel gave no pid"))?;
        let unwatched = |error: io::Error| {
            // It cannot run without being watched. Before its program it dies at once, so this wait is short.
            let _ = kill_process(pid, Number::KILL);
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
            Verdict::unable(format_args!("the probe cannot be watched: {error}"))
        };
        if group.fd().is_none() {
            // What cannot be read of it now makes the search for what it leaves behind less sure, no more.
            let _ = group.tree().spawned(pid.as_raw_pid(), pidfd.as_fd());
        }
        let pidfd = watch::readable(pidfd).map_err(unwatched)?;
        let output = Receiver::from_owned_fd(output).map_err(unwatched)?;
        let (program, directory) = (prepared.program.clone(), prepared.directory.clone());
        Ok(Self { pid, pidfd, status, program, directory, output, kept: Vec::new(), is_reaped: false, group })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits until the process has ended, at the longest until `deadline`, and takes its output meanwhile.
    pub(super) async fn end(&mut self, deadline: Instant) -> Ended {
        let mut buffer = vec![0; OUTPUT_BYTES];
        let (mut is_open, mut quota) = (true, FLOOD_BYTES);
        loop {
            tokio::select! {
                biased;
                _ready = self.pidfd.readable() => break,
                () = tokio::time::sleep_until(deadline) => return Ended::AtDeadline,
                () = tokio::time::sleep(FLOOD_PAUSE), if quota == 0 => quota = FLOOD_BYTES,
                _ready = self.output.readable(), if is_open && quota > 0 => match self.output.try_read(&mut buffer) {
                    Ok(0) => is_open = false,
                    Ok(bytes) => {
                        quota = quota.saturating_sub(bytes);
                        self.keep(&buffer[..bytes]);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => is_open = false,
                },
            }
        }
        // What is left in the pipe; a child that still writes there may not keep this up.
        let mut left = FLOOD_BYTES;
        while left > 0 {
            match self.output.try_read(&mut buffer) {
                Ok(bytes @ 1..) => {
                    left = left.saturating_sub(bytes);
                    self.keep(&buffer[..bytes]);
                }
                Ok(0) | Err(_) => break,
            }
        }
        Ended::ByItself
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        let surplus = self.kept.len().saturating_sub(OUTPUT_BYTES);
        self.kept.drain(..surplus);
    }

    /// SIGKILL to all in its cgroup, and in the session that it began, as long as it is not reaped and the number still
    /// its own. Without cgroups, children in other sessions are left to [`clear`](Self::clear).
    pub(super) fn kill(&self) {
        // What is gone already cannot be killed, and nothing else can go wrong with a child of one's own.
        if self.group.fd().is_some() {
            let _ = self.group.kill();
        }
        if !self.is_reaped {
            let _ = kill_process_group(self.pid, Number::KILL);
            let _ = pidfd_send_signal(self.pidfd.get_ref(), Number::KILL);
        }
    }

    /// Ends what a reaped process has left behind. Without cgroups that is a search through all processes, which is
    /// for another thread, and takes no longer than the end of a process may take.
    pub(super) async fn clear(self) {
        if self.group.fd().is_none() {
            let search = tokio::task::spawn_blocking(move || drop(self));
            let _ends_by_itself = tokio::time::timeout(GONE_WITHIN, search).await;
        }
    }

    /// Waits for the end of the process and reaps it.
    pub(super) async fn gone(&mut self) -> io::Result<ExitStatus> {
        loop {
            let mut ready = self.pidfd.readable().await?;
            match waitid(WaitId::PidFd(self.pidfd.get_ref().as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
                Ok(Some(status)) => {
                    self.is_reaped = true;
                    return Ok(match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => ExitStatus::Code(code),
                        (None, signal) => {
                            let signal = Signal(signal.unwrap_or_default());
                            ExitStatus::Signal { signal, core_dumped: status.dumped() }
                        }
                    });
                }
                Ok(None) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Why its program was never run, if it was not. To be asked after its end.
    pub(super) fn failure(&self) -> Option<Verdict> {
        let mut report = [0; STATUS_FAILURE_BYTES];
        let bytes = rustix::io::read(&self.status, &mut report).ok()?;
        let &[step, a, b, c, d] = &report[..bytes] else { return None };
        let error = io::Error::from_raw_os_error(i32::from_le_bytes([a, b, c, d]));
        let step = Step::from_number(step).ok_or(step);
        let detail = match step {
            Ok(Step::Exec) => format!("exec {}: {error}", self.program.to_string_lossy()),
            Ok(Step::Directory) => format!("directory {}: {error}", self.directory.to_string_lossy()),
            Ok(step) => format!("{}: {error}", step.name()),
            Err(step) => format!("step {step}: {error}"),
        };
        // setuid(2) and execve(2) say EAGAIN where the user has as many processes as it may have.
        let is_unable = is_shortage(&error) || error.kind() == io::ErrorKind::WouldBlock || step == Ok(Step::Cgroup);
        Some(if is_unable { Verdict::unable(detail) } else { Verdict::wrong(detail) })
    }

    /// The last line of its output that says something, after `: `; nothing when there is none.
    pub(super) fn last_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.kept);
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        line.map_or(String::new(), |line| format!(": {line}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
