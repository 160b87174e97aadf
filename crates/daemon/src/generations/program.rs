//! The programs of a store: run without a shell, bounded in time and output, and gone with their process group.

use super::error::{ProgramFault, StoreError};
use crate::execute::tree::ProbeGroup;
use crate::execute::user::Identity;
use crate::monitor::text::one_line;
use crate::sys::confine::confine;
use crate::sys::parent::dies_with_this_thread;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, read};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// 1 MiB: 4,096 generations with the longest names that there are.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// 16 MiB: a tool that names each file that it copies says less. It is read to let it go on, and for its end.
const TALK_BYTES_MAX: usize = 16 << 20;
/// 4 KiB: where the last line of what a program prints is looked for.
const END_BYTES: usize = 4 << 10;
/// 1 KiB: what a program says last, which is why it failed.
const SAID_BYTES: usize = 1 << 10;
/// 1 s: dying takes milliseconds, unless a file system hangs, and then nothing that is waited for here would help.
const GONE_WITHIN: Duration = Duration::from_secs(1);

/// Those that run, by their process groups; `None` once Hale ends, and none is started any more. What a program has started outlives
/// the thread that started the program: it would go on switching when nobody looks any more.
static RUNNING: Mutex<Option<BTreeSet<i32>>> = Mutex::new(Some(BTreeSet::new()));

/// Kills all that run, because Hale ends.
pub(crate) fn end_all() {
    for group in running().take().unwrap_or_default() {
        if let Some(group) = Pid::from_raw(group) {
            let _nobody_left = kill_process_group(group, Signal::KILL);
        }
    }
}

fn running() -> MutexGuard<'static, Option<BTreeSet<i32>>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One run of a program.
#[derive(Debug)]
pub(super) struct Program<'a> {
    /// What for: follows "cannot".
    pub(super) what: String,
    /// An absolute path.
    pub(super) path: PathBuf,
    pub(super) arguments: Vec<&'a OsStr>,
    /// Nothing else is in its environment.
    pub(super) environment: &'a [(OsString, OsString)],
    pub(super) within: Duration,
    /// `None`: as Hale's own user, in `/`.
    pub(super) confined: Option<Confined<'a>>,
}

/// As whom and where a program runs that is not the operator's own, and what holds all that it starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Confined<'a> {
    /// Its working directory.
    pub(super) directory: &'a Path,
    /// `None`: as Hale's own user.
    pub(super) identity: Option<&'a Identity>,
    /// Killed with it, whatever sessions they begin.
    pub(super) group: &'a ProbeGroup,
}

/// How a program ended that ended by itself.
#[derive(Debug)]
pub(super) struct Ended {
    status: ExitStatus,
    /// The end of what it wrote beside its answer, after `: `.
    said: String,
    answer: Vec<u8>,
}

/// Where standard output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    Answer,
    /// As talk, and its end is the answer.
    End,
    Talk,
}

impl Program<'_> {
    /// Runs it for what it does. Standard output is of no meaning.
    ///
    /// # Errors
    /// It did not exit with status 0 within its bounds.
    pub(super) fn act(&self) -> Result<(), StoreError> {
        self.run(Output::Talk).and_then(Ended::succeeded).map(drop).map_err(|fault| self.failed(fault))
    }

    /// Runs it for what it answers on standard output, in lines without spaces around them; none is empty.
    ///
    /// # Errors
    /// It did not exit with status 0 within its bounds, or the answer is no text.
    pub(super) fn ask(&self) -> Result<Vec<String>, StoreError> {
        let answer = self.run(Output::Answer).and_then(Ended::succeeded).map_err(|fault| self.failed(fault))?;
        let text =
            String::from_utf8(answer).map_err(|_| self.failed(ProgramFault::Rubbish("it is not UTF-8".into())))?;
        Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    /// Runs it for what it does, and gives the end of what it wrote to standard output.
    ///
    /// # Errors
    /// It did not exit with status 0 within its bounds.
    pub(super) fn act_and_tell(&self) -> Result<Vec<u8>, StoreError> {
        self.run(Output::End).and_then(Ended::succeeded).map_err(|fault| self.failed(fault))
    }

    pub(super) fn failed(&self, fault: ProgramFault) -> StoreError {
        let program = one_line(&self.path.to_string_lossy(), SAID_BYTES);
        StoreError::Program { what: self.what.clone(), program, fault }
    }

    fn run(&self, output: Output) -> Result<Ended, ProgramFault> {
        let not_started = |error: std::io::Error| ProgramFault::NotStarted(error.to_string());
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match &self.confined {
            None => drop(command.current_dir("/").process_group(0)),
            Some(Confined { directory, identity, group }) => {
                command.current_dir(directory);
                let identity = identity.map(|user| (user.uid, user.gid, &user.groups[..]));
                confine(&mut command, group.fd(), identity).map_err(not_started)?;
            }
        }
        // The Hale that follows may switch back, and this one must not go on switching beside it.
        dies_with_this_thread(&mut command);
        let deadline = Instant::now() + self.within;
        let confined = self.confined.map(|confined| confined.group);
        let mut group = Group::start(&mut command, confined).map_err(not_started)?;
        let mut pipes = Pipes::new(&mut group.child, output);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let ready = pipes.next(&group.pidfd, left).map_err(|errno| not_started(errno.into()))?;
            for (bytes, max_bytes) in [(pipes.answer.len(), ANSWER_BYTES_MAX), (pipes.talk_bytes, TALK_BYTES_MAX)] {
                if bytes > max_bytes {
                    return Err(ProgramFault::TooMuch { max_bytes });
                }
            }
            if ready.ended {
                // What it has left running is not waited for, nor read from for ever.
                group.kill();
            }
            if ready.ended && !ready.read {
                break;
            }
            if left.is_zero() {
                return Err(ProgramFault::Hung { within: self.within, said: pipes.said() });
            }
        }
        let status = group.end().map_err(not_started)?;
        Ok(Ended { status, said: pipes.said(), answer: pipes.answer })
    }
}

impl Ended {
    fn succeeded(self) -> Result<Vec<u8>, ProgramFault> {
        if self.status.success() {
            return Ok(self.answer);
        }
        Err(ProgramFault::Failed { status: self.status.to_string(), said: self.said })
    }
}

/// A program and all that it started in its process group, or in what holds it; killed when dropped.
struct Group<'a> {
    child: Child,
    pidfd: OwnedFd,
    is_reaped: bool,
    confined: Option<&'a ProbeGroup>,
}

impl<'a> Group<'a> {
    fn start(command: &mut Command, confined: Option<&'a ProbeGroup>) -> std::io::Result<Self> {
        let mut child = command.spawn()?;
        let is_known = running().as_mut().map(|groups| groups.insert(child.id().cast_signed()));
        if is_known.is_none() {
            let _nobody_left = kill_process_group(Pid::from_child(&child), Signal::KILL);
            child.wait()?;
            return Err(std::io::Error::other("Hale ends"));
        }
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => {
                if let Some(confined) = confined.filter(|confined| confined.fd().is_none()) {
                    // What cannot be read of it now makes the search for what it leaves behind less sure, no more.
                    let _ = confined.tree().spawned(child.id().cast_signed(), pidfd.as_fd());
                }
                Ok(Self { child, pidfd, is_reaped: false, confined })
            }
            Err(errno) => {
                // Without it there would be no bound.
                forget(&child);
                child.kill().and_then(|()| child.wait())?;
                Err(errno.into())
            }
        }
    }

    /// As long as it is not reaped, its number is no other group's.
    fn kill(&self) {
        let _nobody_left = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        if let Some(confined) = self.confined {
            let _nobody_left = confined.kill();
        }
    }

    /// Reaps a program that has ended.
    fn end(&mut self) -> std::io::Result<ExitStatus> {
        self.is_reaped = true;
        forget(&self.child);
        self.child.wait()
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        if !self.is_reaped {
            forget(&self.child);
            self.kill();
            // What survives that hangs in the kernel, and stays an unreaped child.
            if wait(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], GONE_WITHIN).is_ok_and(|ready| ready > 0) {
                let _reaped = self.child.wait();
            }
        }
    }
}

/// Before it is reaped: after that its number may be another group's.
fn forget(child: &Child) {
    if let Some(groups) = running().as_mut() {
        groups.remove(&child.id().cast_signed());
    }
}

/// What there is after a wait.
struct Ready {
    /// The program has ended.
    ended: bool,
    /// Something was read, or a pipe has ended.
    read: bool,
}

/// What a program writes.
struct Pipes {
    /// Standard output and standard error, while somebody may write there.
    open: [Option<OwnedFd>; 2],
    output: Output,
    answer: Vec<u8>,
    /// The end of it.
    talk: Vec<u8>,
    /// The length of all of it.
    talk_bytes: usize,
}

impl Pipes {
    fn new(child: &mut Child, output: Output) -> Self {
        let open = [child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from)];
        Self { open, output, answer: Vec::new(), talk: Vec::new(), talk_bytes: 0 }
    }

    fn next(&mut self, pidfd: &OwnedFd, left: Duration) -> Result<Ready, Errno> {
        let open: Vec<usize> = (0..self.open.len()).filter(|&at| self.open[at].is_some()).collect();
        let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
        fds.extend(self.open.iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        wait(&mut fds, left)?;
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut read = false;
        for (at, _) in open.into_iter().zip(&ready[1..]).filter(|(_, is_ready)| **is_ready) {
            self.take(at)?;
            read = true;
        }
        Ok(Ready { ended: ready[0], read })
    }

    /// Reads once from a pipe that has something to say.
    fn take(&mut self, at: usize) -> Result<(), Errno> {
        let mut buffer = [0; 16 << 10];
        let bytes = match self.open[at].as_ref().map_or(Ok(0), |pipe| read(pipe, &mut buffer)) {
            Err(Errno::INTR | Errno::AGAIN) => return Ok(()),
            other => other?,
        };
        if bytes == 0 {
            self.open[at] = None;
        } else if at == 0 && self.output == Output::Answer {
            self.answer.extend_from_slice(&buffer[..bytes]);
        } else if at == 0 && self.output == Output::End {
            self.talk_bytes += bytes;
            keep_end(&mut self.answer, &buffer[..bytes], END_BYTES);
        } else {
            self.talk_bytes += bytes;
            keep_end(&mut self.talk, &buffer[..bytes], SAID_BYTES);
        }
        Ok(())
    }

    /// The end of the talk on one line, after `: `; nothing when there is none.
    fn said(&self) -> String {
        let text = String::from_utf8_lossy(&self.talk);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        // Escapes make it longer; a few times the same is still read.
        if lines.is_empty() { String::new() } else { format!(": {}", one_line(&lines.join("; "), 2 * SAID_BYTES)) }
    }
}

fn keep_end(kept: &mut Vec<u8>, more: &[u8], max_bytes: usize) {
    kept.extend_from_slice(more);
    kept.drain(..kept.len().saturating_sub(max_bytes));
}

fn wait(fds: &mut [PollFd<'_>], within: Duration) -> Result<usize, Errno> {
    let until = Instant::now() + within;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // A time that is too long for the kernel is for ever, and nobody here waits that long.
        let left = Timespec::try_from(left).ok();
        match poll(fds, left.as_ref()) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FileType, Mode};

    fn shell<'a>(script: &'a str, environment: &'a [(OsString, OsString)], within_ms: u64) -> Program<'a> {
        let arguments = ["-c", script].map(OsStr::new).to_vec();
        let within = Duration::from_millis(within_ms);
        Program { what: "try".into(), path: "/bin/sh".into(), arguments, environment, within, confined: None }
    }

    /// Long enough that only a hang gets there.
    const LONG_MS: u64 = 60_000;

    fn ask(script: &str) -> Result<Vec<String>, StoreError> {
        shell(script, &[], LONG_MS).ask()
    }

    #[track_caller]
    fn fault<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> ProgramFault {
        match outcome {
            Err(StoreError::Program { fault, .. }) => fault,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_answer_is_standard_output_alone() {
        assert_eq!(ask("echo ' one '; echo talk >&2; echo; echo two; printf three").unwrap(), ["one", "two", "three"]);
        assert_eq!(ask("true").unwrap(), [""; 0]);
        let environment = [("A".into(), "b c".into())];
        let variables = shell("/usr/bin/env; pwd; cat", &environment, LONG_MS).ask().unwrap();
        // The shell makes PWD itself.
        assert_eq!(variables.iter().filter(|line| !line.starts_with("PWD=")).collect::<Vec<_>>(), ["A=b c", "/"]);
        shell("echo talk; echo talk >&2", &[], LONG_MS).act().unwrap();
    }

    #[test]
    fn what_it_says_last_is_why_it_failed_and_harmless() {
        let script = "echo answer; echo first >&2; printf '\\033[2J\\nlast\\n' >&2; exit 3";
        let ProgramFault::Failed { status, said } = fault(ask(script)) else { panic!() };
        assert_eq!((status.as_str(), said.as_str()), ("exit status: 3", r": first; \u{1b}[2J; last"));
        let long = fault(shell("seq 100000 >&2; kill -9 $$", &[], LONG_MS).act()).to_string();
        assert!(long.contains("signal: 9") && long.ends_with("; 99999; 100000") && long.len() < 4096, "{long}");
        assert!(matches!(fault(ask("printf '\\377'")), ProgramFault::Rubbish(_)));
        let missing = Program { path: "/nonexistent/program".into(), ..shell("", &[], LONG_MS) };
        let error = missing.act().unwrap_err().to_string();
        assert!(error.starts_with("cannot try: /nonexistent/program could not be started: No such file"), "{error}");
    }

    #[test]
    fn too_much_ends_it() {
        let endless = "exec cat /dev/zero";
        assert_eq!(fault(ask(endless)), ProgramFault::TooMuch { max_bytes: ANSWER_BYTES_MAX });
        let talk = shell(endless, &[], LONG_MS).act();
        assert_eq!(fault(talk), ProgramFault::TooMuch { max_bytes: TALK_BYTES_MAX });
        assert_eq!(ask("head -c 1000000 /dev/zero | tr '\\0' x").unwrap()[0].len(), 1_000_000);
    }

    #[test]
    fn a_program_that_hangs_is_ended_at_its_bound() {
        let hung = fault(shell("echo waiting >&2; sleep 1000; true", &[], 300).act());
        assert_eq!(hung.to_string(), "did not end within 0.3 s and was killed: waiting");
        // Also one that keeps itself busy.
        let busy = shell("while :; do echo; done >&2", &[], 300).ask();
        assert!(matches!(fault(busy), ProgramFault::Hung { .. } | ProgramFault::TooMuch { .. }));
    }

    /// A fifo that a child has open for writing ends when the last such child is gone.
    #[test]
    fn what_it_started_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, mark) = (dir.path().join("fifo"), dir.path().join("mark"));
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let child = format!("sh -c 'exec 3> {}; : > {}; exec sleep 1000' &", fifo.display(), mark.display());
        let is_there = format!("while [ ! -e {} ]; do :; done", mark.display());
        for (end, outcome) in [("wait", "did not end"), ("exit 1", "failed")] {
            let fifo = fifo.clone();
            let reader = std::thread::spawn(move || std::fs::read_to_string(fifo).unwrap());
            let fault = fault(shell(&format!("{child} {is_there}; {end}"), &[], 3000).act()).to_string();
            assert!(fault.starts_with(outcome), "{fault}");
            assert_eq!(reader.join().unwrap(), "");
            std::fs::remove_file(&mark).unwrap();
        }
    }

    #[test]
    fn what_runs_ends_with_hale_and_nothing_is_started_after_that() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, mark) = (dir.path().join("fifo"), dir.path().join("mark"));
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let script = format!("sh -c 'exec 3> {}; : > {}; exec sleep 1000' & wait", fifo.display(), mark.display());
        let reader = std::thread::spawn(move || std::fs::read_to_string(fifo).unwrap());
        let program = std::thread::spawn(move || fault(shell(&script, &[], LONG_MS).act()).to_string());
        while !mark.exists() {
            std::thread::yield_now();
        }
        end_all();
        assert_eq!(reader.join().unwrap(), "");
        assert!(program.join().unwrap().contains("signal: 9"));
        assert!(matches!(fault(ask("true")), ProgramFault::NotStarted(_)));
        // Where all tests share a process.
        *running() = Some(BTreeSet::new());
    }

    /// Whoever else has the pipe is not waited for: not while it writes, and not in another session, which is not killed.
    #[test]
    fn what_it_leaves_running_holds_nothing_up() {
        assert_eq!(ask("echo one; (while :; do echo more; done) & exit 0").unwrap()[0], "one");
        assert_eq!(ask("echo one; setsid sleep 5 &").unwrap(), ["one"]);
    }
}
