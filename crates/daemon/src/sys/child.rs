//! Making a child by a fork-like clone3(2), and everything that it does before its program runs.
//!
//! The child is a copy of the process with this thread alone, in which another thread may have held a lock: so nothing
//! here allocates or takes a lock, before or after the clone.

use crate::sys::signals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, openat};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal};
use rustix::thread::{Gid, Uid};
use std::cell::Cell;
use std::ffi::{CStr, c_char};
use std::io::Write;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

/// Descriptors that a child needs are below this number in the process that makes it, all others at or above it,
/// so that the child need not copy the table of the others: with 3,000 of them open, clone to exec took 0.40 ms,
/// and 0.18 ms without copying them. 64 is the smallest table the kernel makes (`NR_OPEN_DEFAULT`).
pub const LOW_FDS: RawFd = 64;

/// What a child that [leaves descriptors behind](Plan::leave_high_fds) sends first through its status pipe: it has
/// descriptors of its own now, so those that were made for it can be closed. Any other child has its own from the start.
pub const STATUS_APART: u8 = 0xff;

/// The length of a failure in the status pipe: the step's number, then the error number in little-endian.
pub const STATUS_FAILURE_BYTES: usize = 5;

/// Pointers to strings, for execve(2); reserved once and filled again for each child.
#[derive(Debug)]
pub struct PointerSpace(Vec<*const c_char>);

/// A null-terminated list of pointers to strings that live for `'a`.
#[derive(Debug, Clone, Copy)]
pub struct Pointers<'a> {
    list: &'a [*const c_char],
    strings: PhantomData<&'a CStr>,
}

impl PointerSpace {
    /// Room for `strings` strings.
    #[must_use]
    pub fn new(strings: usize) -> Self {
        Self(Vec::with_capacity(strings + 1))
    }

    /// Points to the strings; `None` when they are too many.
    pub fn fill<'a>(&'a mut self, strings: impl Iterator<Item = &'a CStr>) -> Option<Pointers<'a>> {
        self.fill_with(strings, None)
    }

    /// Points to the strings and to the variable behind them; `None` when they are too many.
    pub fn fill_with<'a>(
        &'a mut self,
        strings: impl Iterator<Item = &'a CStr>,
        variable: Option<&'a ListenPid>,
    ) -> Option<Pointers<'a>> {
        self.0.clear();
        let variable = variable.map(|variable| variable.0.as_ptr().cast_const().cast());
        for string in strings.map(CStr::as_ptr).chain(variable) {
            if self.0.len() + 1 >= self.0.capacity() {
                return None;
            }
            self.0.push(string);
        }
        self.0.push(ptr::null());
        Some(Pointers { list: &self.0, strings: PhantomData })
    }
}

/// `LISTEN_PID=` (sd_listen_fds(3)) and room for a process id, which only the child knows: the child writes it in place,
/// into its own copy of this memory.
#[derive(Debug)]
pub struct ListenPid(Cell<[u8; Self::BYTES]>);

impl ListenPid {
    const NAME: &[u8] = b"LISTEN_PID=";

    /// With the ten digits of the largest `i32`, and the final NUL.
    const BYTES: usize = Self::NAME.len() + 10 + 1;

    /// Without a number yet.
    #[must_use]
    pub fn new() -> Self {
        let mut bytes = [0; Self::BYTES];
        bytes[..Self::NAME.len()].copy_from_slice(Self::NAME);
        Self(Cell::new(bytes))
    }

    /// Writes this number, which is not negative.
    fn set(&self, pid: i32) {
        let mut bytes = self.0.get();
        // There is room for each, and what is behind it is zero already.
        let _ = write!(&mut bytes[Self::NAME.len()..Self::BYTES - 1], "{pid}");
        self.0.set(bytes);
    }
}

impl Default for ListenPid {
    fn default() -> Self {
        Self::new()
    }
}

/// The program a child executes.
#[derive(Debug, Clone, Copy)]
pub enum Program<'a> {
    /// A path, relative to the child's working directory.
    Path(&'a CStr),
    /// An open file (execveat(2)).
    File(BorrowedFd<'a>),
    /// None: it has the kernel write everything to the disks (sync(2)), and ends.
    Sync,
}

/// The descriptors with which a program starts.
#[derive(Debug, Clone, Copy)]
pub enum ProgramFds<'a> {
    /// Input as this process has it, `output` as output and error output, these from number 3 on, and no other. `passed`
    /// must be at or above [`LOW_FDS`], and fewer than would reach it.
    Service {
        /// Where the program writes.
        output: BorrowedFd<'a>,
        /// Sockets that listen already, and what an earlier process left.
        passed: &'a [BorrowedFd<'a>],
        /// How many of them, the first ones, are the sockets.
        sockets: usize,
    },
    /// Input and outputs as this process has them, and these from number 3 on. All must be at or above
    /// [`LOW_FDS`].
    Pass(&'a [BorrowedFd<'a>]),
}

/// Everything a child does before its program runs; `None` leaves a thing as it is here.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// Whether the child may leave the descriptors at and above [`LOW_FDS`] behind without copying them. All that
    /// the plan names must be below then, and stay open here until [`STATUS_APART`] arrives: one more waking of this
    /// process between clone and exec, which pays only where the table is large.
    pub leave_high_fds: bool,
    /// The process that makes it, if the kernel is to kill the child when that one ends (PR_SET_PDEATHSIG, prctl(2)).
    pub dies_with: Option<Pid>,
    /// The writing end of the status pipe, closed by exec: [`STATUS_APART`] where that is awaited, then a failure or the
    /// end.
    pub status: BorrowedFd<'a>,
    /// Its descriptors.
    pub fds: ProgramFds<'a>,
    /// The directory of its cgroup.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// What to write into its `oom_score_adj`.
    pub oom_score_adj: Option<&'a [u8]>,
    /// `RLIMIT_NOFILE`.
    pub open_files: Option<Rlimit>,
    /// User, group and supplementary groups.
    pub identity: Option<(Uid, Gid, &'a [Gid])>,
    /// Whether to give up new privileges for ever (prctl(2)).
    pub no_new_privs: bool,
    /// umask(2).
    pub umask: Option<Mode>,
    /// Its working directory.
    pub directory: Option<&'a CStr>,
    /// What it writes into its output before its program can, if there is room: this, its pid, ` started` and a newline.
    pub marker: Option<&'a [u8]>,
    /// What it executes.
    pub program: Program<'a>,
    /// Its arguments.
    pub argv: Pointers<'a>,
    /// Its environment.
    pub environment: Pointers<'a>,
    /// A variable of the environment that is to hold the child's process id.
    pub listen_pid: Option<&'a ListenPid>,
}

impl<'a> Plan<'a> {
    /// To execute this, and to leave everything else as it is here.
    #[must_use]
    pub fn new(
        status: BorrowedFd<'a>,
        fds: ProgramFds<'a>,
        program: Program<'a>,
        argv: Pointers<'a>,
        environment: Pointers<'a>,
    ) -> Self {
        Self {
            leave_high_fds: false,
            dies_with: None,
            status,
            fds,
            cgroup: None,
            oom_score_adj: None,
            open_files: None,
            identity: None,
            no_new_privs: false,
            umask: None,
            directory: None,
            marker: None,
            program,
            argv,
            environment,
            listen_pid: None,
        }
    }
}

/// `clone_args` of clone3(2), as of Linux 5.7.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

// From linux/sched.h; the libc crate's values for the last two do not fit into its type for them.
const CLONE_FILES: u64 = 0x400;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Makes a child, which then follows the plan by itself: its failures come through the status pipe.
///
/// # Errors
///
/// No child was made: the step, [`Step::Clone`] or [`Step::Cgroup`], and the error number.
pub fn spawn(plan: &Plan<'_>) -> Result<(i32, OwnedFd), (Step, Errno)> {
    let mut files = if plan.leave_high_fds { CLONE_FILES } else { 0 };
    let base = CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
    if let Some(cgroup) = plan.cgroup {
        match clone(base | files | CLONE_INTO_CGROUP, Some(cgroup), plan) {
            Ok(child) => return Ok(child),
            // The kernel does not know the flag (before 5.7), or not clone3: the child enters by itself.
            Err(Errno::INVAL | Errno::TOOBIG | Errno::NOSYS) => {}
            Err(errno @ (Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE)) => {
                return Err((Step::Clone, errno));
            }
            Err(errno) => return Err((Step::Cgroup, errno)),
        }
        // Then it needs the cgroup's descriptor, which is not promised to stay open here.
        files = 0;
    }
    match clone(base | files, None, plan) {
        Err(Errno::NOSYS) => fork(plan),
        result => result,
    }
    .map_err(|errno| (Step::Clone, errno))
}

/// clone3(2) without a stack of its own for the child: it returns twice, like fork(2).
fn clone(flags: u64, cgroup: Option<BorrowedFd<'_>>, plan: &Plan<'_>) -> Result<(i32, OwnedFd), Errno> {
    let mut pidfd: RawFd = -1;
    let args = CloneArgs {
        flags,
        pidfd: (&raw mut pidfd).addr() as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs())),
        ..CloneArgs::default()
    };
    // SAFETY: `args` has the layout and size of clone_args, and its pointers are null or point to `pidfd`, which
    // lives through the call. Memory is not shared (no CLONE_VM), so that returning twice on this stack is what
    // fork(2) does; the child never returns from `follow`.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match pid {
        0 => follow(plan, flags),
        1.. => {
            // SAFETY: with CLONE_PIDFD the kernel has made this descriptor, for this process alone.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok((i32::try_from(pid).map_err(|_| Errno::RANGE)?, pidfd))
        }
        _ => Err(last_errno()),
    }
}

/// fork(2), for where a sandbox forbids clone3(2).
fn fork(plan: &Plan<'_>) -> Result<(i32, OwnedFd), Errno> {
    // SAFETY: the child never returns from `follow`, which calls only what is safe after a fork (signal-safety(7)).
    match unsafe { libc::fork() } {
        0 => follow(plan, 0),
        pid @ 1.. => {
            let pid = rustix::process::Pid::from_raw(pid).ok_or(Errno::CHILD)?;
            // The child is not reaped before it is recorded, so the pid is still its own.
            let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
            Ok((pid.as_raw_nonzero().get(), pidfd))
        }
        _ => Err(last_errno()),
    }
}

/// The errno of the libc call just made.
fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// The child: follows the plan to the program, or reports what failed and ends.
fn follow(plan: &Plan<'_>, flags: u64) -> ! {
    let mut status = plan.status;
    let (step, errno) = match prepare(plan, flags, &mut status) {
        Err(failure) => failure,
        Ok(()) => (Step::Exec, exec(plan)),
    };
    let [a, b, c, d] = errno.raw_os_error().to_le_bytes();
    let report: [u8; STATUS_FAILURE_BYTES] = [step.number(), a, b, c, d];
    // With nobody left to read it there is nobody to tell.
    let _ = rustix::io::write(status, &report);
    // SAFETY: ends this process, and runs nothing of the one it was copied from.
    unsafe { libc::_exit(127) }
}

/// All steps between clone and exec. `status` is where to report to, which moves on the way.
fn prepare(plan: &Plan<'_>, flags: u64, status: &mut BorrowedFd<'_>) -> Result<(), (Step, Errno)> {
    let at = |step: Step| move |errno: Errno| (step, errno);
    if flags & CLONE_FILES != 0 {
        const CLOSE_RANGE_UNSHARE: libc::c_uint = 2;
        // SAFETY: nothing in this process uses a descriptor of this range any more, and the parent keeps its table.
        let result = unsafe { libc::syscall(libc::SYS_close_range, LOW_FDS, RawFd::MAX, CLOSE_RANGE_UNSHARE) };
        if result != 0 {
            return Err((Step::Stdio, last_errno()));
        }
    }
    if plan.leave_high_fds {
        // Where it was cloned without sharing all the same, this is as true.
        rustix::io::write(*status, &[STATUS_APART]).map_err(at(Step::Stdio))?;
    }
    rustix::process::setsid().map_err(at(Step::Session))?;
    if let Some(parent) = plan.dies_with {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(at(Step::Signals))?;
        // It may have ended before.
        if rustix::process::getppid() != Some(parent) {
            return Err((Step::Signals, Errno::CHILD));
        }
    }
    if let Some(cgroup) = plan.cgroup
        && flags & CLONE_INTO_CGROUP == 0
    {
        enter(cgroup).map_err(at(Step::Cgroup))?;
    }
    signals::default_sigpipe();
    signals::unblock_all().map_err(|_| (Step::Signals, last_errno()))?;
    match plan.fds {
        ProgramFds::Service { output, passed, sockets } => {
            put(output, 1).and_then(|()| put(output, 2)).map_err(at(Step::Stdio))?;
            *status = place(passed, sockets, *status).map_err(at(Step::Listen))?;
        }
        ProgramFds::Pass(fds) => pass(fds, plan.status).map_err(at(Step::Stdio))?,
    }
    if let Some(value) = plan.oom_score_adj {
        write_file(rustix::fs::CWD, c"/proc/self/oom_score_adj", value).map_err(at(Step::OomScoreAdj))?;
    }
    if let Some(limit) = plan.open_files {
        rustix::process::setrlimit(Resource::Nofile, limit).map_err(at(Step::Limits))?;
    }
    if let Some((uid, gid, groups)) = plan.identity {
        rustix::thread::set_thread_groups(groups).map_err(at(Step::Groups))?;
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(at(Step::User))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(at(Step::User))?;
    }
    if plan.no_new_privs {
        rustix::thread::set_no_new_privs(true).map_err(at(Step::NoNewPrivs))?;
    }
    if let Some(umask) = plan.umask {
        rustix::process::umask(umask);
    }
    if let Some(directory) = plan.directory {
        rustix::process::chdir(directory).map_err(at(Step::Directory))?;
    }
    if let Some(variable) = plan.listen_pid {
        variable.set(rustix::process::getpid().as_raw_nonzero().get());
    }
    if let Some(marker) = plan.marker {
        mark(marker).map_err(at(Step::Marker))?;
    }
    Ok(())
}

/// Executes the program; returns only when that failed.
fn exec(plan: &Plan<'_>) -> Errno {
    let (argv, environment) = (plan.argv.list.as_ptr(), plan.environment.list.as_ptr());
    match plan.program {
        Program::Path(path) => {
            // SAFETY: all three are NUL- or null-terminated and live as long as the plan.
            unsafe { libc::execve(path.as_ptr(), argv, environment) };
        }
        Program::Sync => {
            rustix::fs::sync();
            // SAFETY: ends this process, and runs nothing of the one it was copied from.
            unsafe { libc::_exit(0) }
        }
        Program::File(file) => {
            let flags = libc::AT_EMPTY_PATH;
            // SAFETY: as above; an empty path means the open file itself.
            unsafe {
                libc::syscall(libc::SYS_execveat, file.as_raw_fd(), c"".as_ptr(), argv, environment, flags);
            };
        }
    }
    last_errno()
}

/// Makes `fd` also `number`, which exec keeps open.
fn put(fd: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    // SAFETY: in the child nothing owns the descriptor that `number` was before.
    if unsafe { libc::dup2(fd.as_raw_fd(), number) } < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Puts the passed descriptors to the numbers from 3 on and the status pipe behind them, closes all others, and gives the
/// pipe's new place: a child that waits long for its program must not hold the ends of other children's pipes.
fn place(passed: &[BorrowedFd<'_>], sockets: usize, status: BorrowedFd<'_>) -> Result<BorrowedFd<'static>, Errno> {
    // Bounded by LOW_FDS, which all of them are above: no number that is still needed is written over.
    let behind = 3 + passed.len() as RawFd;
    if behind >= LOW_FDS || passed.iter().any(|fd| fd.as_raw_fd() < LOW_FDS) {
        return Err(Errno::BADF);
    }
    if status.as_raw_fd() != behind {
        // SAFETY: in the child nothing owns the descriptor that this number was before.
        if unsafe { libc::dup3(status.as_raw_fd(), behind, libc::O_CLOEXEC) } < 0 {
            return Err(last_errno());
        }
    }
    for (number, fd) in (3..).zip(passed) {
        put(*fd, number)?;
    }
    for fd in passed.iter().take(sockets) {
        // The process before this one may have changed it, for all that share the socket. systemd does the same, and
        // leaves alone what a service stored itself.
        fcntl_setfl(fd, fcntl_getfl(fd)?.difference(OFlags::NONBLOCK))?;
    }
    // SAFETY: nothing in the child uses the others any more. Where the call is missing (Linux before 5.9), exec
    // closes them.
    unsafe { libc::syscall(libc::SYS_close_range, behind + 1, RawFd::MAX, 0) };
    // SAFETY: it is open, and stays so until exec.
    Ok(unsafe { BorrowedFd::borrow_raw(behind) })
}

/// Puts `fds` to the numbers from 3 on; the status pipe gives way if it is among them.
fn pass(fds: &[BorrowedFd<'_>], status: BorrowedFd<'_>) -> Result<(), Errno> {
    if (3..).zip(fds).any(|(number, _)| number == status.as_raw_fd()) {
        return Err(Errno::BADF);
    }
    (3..).zip(fds).try_for_each(|(number, fd)| put(*fd, number))
}

/// Moves this process into the cgroup with this directory.
pub(super) fn enter(cgroup: BorrowedFd<'_>) -> Result<(), Errno> {
    write_file(cgroup, c"cgroup.procs", b"0")
}

fn write_file(directory: impl AsFd, path: &CStr, bytes: &[u8]) -> Result<(), Errno> {
    let file = openat(directory, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, bytes).map(|_| ())
}

/// Writes the marker into the output if there is room. A full pipe goes without it: nobody may read it for long, and
/// the program must run all the same. The open file is the program's too, which needs it to wait, so it is asked
/// instead of being made non-blocking: room is a free page (`pipe_poll`), which holds any marker. When a process of an
/// earlier start takes the last one in between, this child waits as any writer does, and the next one finds it full.
fn mark(marker: &[u8]) -> Result<(), Errno> {
    let mut line = [0; MARKER_BYTES];
    let mut rest = &mut line[..];
    let pid = rustix::process::getpid().as_raw_nonzero();
    rest.write_all(marker).and_then(|()| writeln!(rest, "{pid} started")).map_err(|_| Errno::MSGSIZE)?;
    let unused = rest.len();
    let output = rustix::stdio::stdout();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut ready = [PollFd::new(&output, PollFlags::OUT)];
    if rustix::io::retry_on_intr(|| poll(&mut ready, Some(&now)))? == 0 {
        return Ok(());
    }
    match rustix::io::retry_on_intr(|| rustix::io::write(output, &line[..MARKER_BYTES - unused])) {
        // An earlier program made it non-blocking.
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// The longest marker with what the child adds, in bytes: two lines, each below 200, and within what a pipe takes
/// in one piece (`PIPE_BUF`, 4096).
pub const MARKER_BYTES: usize = 512;

/// The steps from an order to a running program, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The order itself: unreadable (`EBADMSG`), slot out of range (`ERANGE`), slot still taken by a process whose
    /// end was not acknowledged (`EBUSY`), or an epoch not above the slot's last one (`ESTALE`).
    Order,
    /// Making its output pipe and the pipe that brings failures back.
    Pipe,
    /// clone3(2).
    Clone,
    /// A session of its own: setsid(2).
    Session,
    /// Entering its cgroup.
    Cgroup,
    /// An empty signal mask.
    Signals,
    /// `/dev/null` as input, the pipe as output.
    Stdio,
    /// Its listening sockets: not kept by the guardian, which has no room for more (`EMFILE`), or not put in place.
    Listen,
    /// `oom_score_adj` back to the value Hale was started with.
    OomScoreAdj,
    /// `RLIMIT_NOFILE`.
    Limits,
    /// Supplementary groups.
    Groups,
    /// User and group.
    User,
    /// `no_new_privs`.
    NoNewPrivs,
    /// The working directory.
    Directory,
    /// The line in the output that says that it started.
    Marker,
    /// execve(2).
    Exec,
}

impl Step {
    /// All, at the index that is their number on the wire.
    const ALL: [Self; 16] = [
        Self::Order,
        Self::Pipe,
        Self::Clone,
        Self::Session,
        Self::Cgroup,
        Self::Signals,
        Self::Stdio,
        Self::Listen,
        Self::OomScoreAdj,
        Self::Limits,
        Self::Groups,
        Self::User,
        Self::NoNewPrivs,
        Self::Directory,
        Self::Marker,
        Self::Exec,
    ];

    /// Its number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The step with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Its name, as it stands in incidents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Pipe => "pipe",
            Self::Clone => "clone",
            Self::Session => "session",
            Self::Cgroup => "cgroup",
            Self::Signals => "signals",
            Self::Stdio => "stdio",
            Self::Listen => "listen",
            Self::OomScoreAdj => "oom_score_adj",
            Self::Limits => "limits",
            Self::Groups => "groups",
            Self::User => "user",
            Self::NoNewPrivs => "no_new_privs",
            Self::Directory => "directory",
            Self::Marker => "marker",
            Self::Exec => "exec",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_pid_is_written_in_place() {
        let variable = ListenPid::new();
        for pid in [i32::MAX, 7] {
            let variable = ListenPid::new();
            let mut space = PointerSpace::new(2);
            let list = space.fill_with([c"A=b"].into_iter(), Some(&variable)).unwrap();
            assert_eq!(list.list.len(), 3);
            variable.set(pid);
            let text = variable.0.get();
            assert_eq!(CStr::from_bytes_until_nul(&text).unwrap().to_str().unwrap(), format!("LISTEN_PID={pid}"));
        }
        assert!(PointerSpace::new(1).fill_with([c"A=b"].into_iter(), Some(&variable)).is_none());
    }

    #[test]
    fn a_step_is_found_by_its_number() {
        for step in Step::ALL {
            assert_eq!(Step::from_number(step.number()), Some(step));
        }
        assert_eq!(Step::from_number(16), None);
    }
}
