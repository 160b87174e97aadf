//! A guardian with its keeper, and the test in the supervisor's place.

use crate::{ALLOCATOR, Words};
use hale_core::ids::Epoch;
use hale_daemon::guardian::launch::{Launch, launch as become_guardian};
use hale_daemon::guardian::prepare;
use hale_daemon::keeper::client::KeeperClient;
use hale_daemon::keeper::protocol::{Flushed, KeeperEvent, LogTarget};
use hale_daemon::protocol;
use hale_daemon::protocol::{GuardianEvent, SpawnOrder};
use hale_daemon::supervisor::client::GuardianClient;
use hale_daemon::sys::fds::take_inherited;
use hale_daemon::sys::packet::{Received, Sent, receive, send};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::ffi::{CStr, CString, OsString};
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Instant;

pub use protocol::Slot;

/// No event takes this long; a test that waits for one that never comes fails after it.
const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// `launch RUNTIME_DIR STATE_DIR SUPERVISOR_ARGS`, as `hale run` does it.
pub fn launch(words: Words<'_>) -> ExitCode {
    let [runtime_dir, state_dir, supervisor_args @ ..] = words else { return ExitCode::FAILURE };
    let Err(error) = become_guardian(&Launch {
        runtime_dir: runtime_dir.as_ref(),
        state_dir: state_dir.as_ref(),
        hardware: None,
        as_init: Default::default(),
        supervisor_args,
    });
    eprintln!("{error}");
    ExitCode::FAILURE
}

/// The guardian, which must not allocate from its loop on.
pub fn guardian(words: impl Iterator<Item = OsString>) -> ExitCode {
    match prepare(words) {
        Ok(guardian) => {
            ALLOCATOR.forbid();
            guardian.run()
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// The process in the supervisor's place: gives its sockets to the test and ends with it.
pub fn supervisor(test: OsString) -> ExitCode {
    let ends = [take_inherited(3).unwrap(), take_inherited(4).unwrap()];
    let mut stream = UnixStream::connect(test).unwrap();
    for end in ends {
        assert_eq!(send(&stream, b"e", Some(end.as_fd())).unwrap(), Sent::Yes);
    }
    let _ = stream.read(&mut [0]);
    ExitCode::from(78)
}

/// Waits until the descriptor is readable.
pub fn wait_readable(fd: impl AsFd) {
    let mut ready = [PollFd::new(&fd, PollFlags::IN)];
    assert_eq!(poll(&mut ready, Some(&PATIENCE)).unwrap(), 1, "nothing came");
}

/// An order for `/bin/sh` with these arguments, to be changed by the test.
pub fn order<'a>(slot: u32, epoch: u64, argv: &'a [CString], environment: &'a [CString]) -> SpawnOrder<'a> {
    SpawnOrder {
        slot: Slot(slot),
        epoch: Epoch(epoch),
        program: c"/bin/sh",
        argv,
        environment,
        directory: c"/",
        identity: None,
        umask: 0o022,
        open_files_limit: None,
        cgroup: None,
        passed: &[],
    }
}

/// A supervisor's process comes with its two sockets.
fn meet(listener: &UnixListener) -> (UnixStream, [OwnedFd; 2]) {
    wait_readable(listener);
    let (stream, _) = listener.accept().unwrap();
    let end = || {
        wait_readable(&stream);
        let Received::Message(1, Some(fd)) = receive(&stream, &mut [0]).unwrap() else { panic!("no descriptor") };
        fd
    };
    let ends = [end(), end()];
    (stream, ends)
}

pub struct Hale {
    pub directory: tempfile::TempDir,
    process: Child,
    pub guardian: GuardianClient,
    pub keeper: KeeperClient,
    /// The guardian's socket once more, for messages that no client sends.
    pub raw: OwnedFd,
    /// Ends the supervisor's process when it is dropped.
    pub supervisor: Option<UnixStream>,
    /// Where each supervisor's process brings its sockets.
    meeting: UnixListener,
    /// Whether progress is proven whenever the guardian asks for it. A supervisor that never proves any is left alone for
    /// longer than any test takes.
    pub proves: bool,
    /// Whether the test itself tells the next keeper what the one before knew.
    pub resends: bool,
    tokens: u64,
}

impl Hale {
    pub fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), &[])
    }

    /// In this directory, with these variables.
    pub fn start_in(directory: tempfile::TempDir, environment: &[(&str, &Path)]) -> Self {
        // Services of other users write to places below it.
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let meeting = directory.path().join("meeting");
        let listener = UnixListener::bind(&meeting).unwrap();
        let process = Self::command(directory.path()).arg(&meeting).envs(environment.iter().copied()).spawn().unwrap();
        let (stream, [guardian, keeper]) = meet(&listener);
        let raw = guardian.try_clone().unwrap();
        Self {
            directory,
            process,
            guardian: GuardianClient::from_fd(guardian),
            keeper: KeeperClient::from_fd(keeper),
            raw,
            supervisor: Some(stream),
            meeting: listener,
            proves: false,
            resends: false,
            tokens: 0,
        }
    }

    /// The test takes the place of the next supervisor.
    pub fn next_supervisor(&mut self) {
        let (stream, [guardian, keeper]) = meet(&self.meeting);
        self.raw = guardian.try_clone().unwrap();
        (self.guardian, self.keeper) = (GuardianClient::from_fd(guardian), KeeperClient::from_fd(keeper));
        self.supervisor = Some(stream);
    }

    /// `launch` with the directories of a test.
    pub fn command(directory: &Path) -> Command {
        // As systemd tells the process that it starts (systemd.exec(5)).
        let mut command = Command::new("sh");
        command.args(["-c", "SYSTEMD_EXEC_PID=$$ exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
        command.arg("launch").args([directory.join("run"), directory.join("state")]).stderr(Stdio::piped());
        command.env_remove("NOTIFY_SOCKET");
        command
    }

    /// The guardian's process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits for the guardian's own end.
    pub fn wait(&mut self) -> (ExitStatus, String) {
        // The supervisor ends too: it has the same error output.
        self.supervisor = None;
        let mut said = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.process.wait().unwrap(), said)
    }

    /// The next event of the guardian.
    pub fn event(&mut self) -> GuardianEvent {
        loop {
            self.guardian.flush().unwrap();
            match self.guardian.receive().unwrap() {
                Some(GuardianEvent::Challenged { nonce }) if self.proves => self.guardian.prove(nonce).unwrap(),
                Some(GuardianEvent::Challenged { .. }) => {}
                Some(GuardianEvent::KeeperReplaced) if !self.resends => self.keeper.resend().unwrap(),
                Some(event) => return event,
                None => wait_readable(&self.guardian),
            }
        }
    }

    /// The next event of the keeper.
    pub fn keeper_event(&mut self) -> KeeperEvent {
        loop {
            if let Some(event) = self.keeper.receive().unwrap() {
                return event;
            }
            wait_readable(&self.keeper);
        }
    }

    /// Orders `sh -c SCRIPT` in the slot, with the test's directory as `$D`.
    pub fn spawn_script(&mut self, slot: u32, epoch: u64, script: &str) {
        let argv = [c"sh".into(), c"-c".into(), CString::new(script).unwrap()];
        let environment = self.environment();
        self.guardian.spawn(&order(slot, epoch, &argv, &environment)).unwrap();
    }

    /// `$D` is the test's directory.
    pub fn environment(&self) -> [CString; 2] {
        let directory = [b"D=", self.directory.path().as_os_str().as_bytes()].concat();
        [CString::new(directory).unwrap(), c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".into()]
    }

    /// Expects the process to come, and gives its pid.
    pub fn expect_spawned(&mut self, expected: u32) -> (i32, OwnedFd) {
        match self.event() {
            GuardianEvent::Spawned { slot, pid, pidfd, .. } if slot == Slot(expected) => {
                (pid, pidfd.expect("a test has descriptors left"))
            }
            other => panic!("not spawned: {other:?}"),
        }
    }

    /// Expects the process to come and to execute its program, and gives its pid.
    pub fn expect_running(&mut self, expected: u32) -> (i32, OwnedFd) {
        let spawned = self.expect_spawned(expected);
        match self.event() {
            GuardianEvent::Executed { slot, .. } if slot == Slot(expected) => spawned,
            other => panic!("not executed: {other:?}"),
        }
    }

    /// Where a slot's output goes.
    pub fn log(&self, slot: u32) -> PathBuf {
        self.directory.path().join(format!("log/{slot}"))
    }

    /// Lets the keeper read the slot's pipe.
    pub fn configure(&mut self, slot: u32, max_size_bytes: u64, keep: u32, rate_bytes: u64) {
        let directory = CString::new(self.log(slot).as_os_str().as_bytes()).unwrap();
        let target = LogTarget { slot: Slot(slot), directory, max_size_bytes, keep, rate_bytes };
        self.keeper.configure(target).unwrap();
    }

    /// Waits until everything written so far is in the log.
    pub fn flush(&mut self, slot: u32) -> Flushed {
        self.tokens += 1;
        let token = self.tokens;
        self.keeper.flush_slot(Slot(slot), token).unwrap();
        loop {
            match self.keeper_event() {
                KeeperEvent::Flushed(flushed) if flushed.token == token => return flushed,
                KeeperEvent::Flushed(_) | KeeperEvent::Dropped { .. } => {}
                KeeperEvent::Gone => panic!("the keeper is gone"),
            }
        }
    }

    /// All of a slot's log, from the oldest file on, and the files' sizes.
    pub fn read_log(&self, slot: u32) -> (String, Vec<u64>) {
        let mut files: Vec<PathBuf> =
            fs::read_dir(self.log(slot)).unwrap().map(|entry| entry.unwrap().path()).collect();
        // `@` sorts before `current`.
        files.sort();
        let texts: Vec<String> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        let sizes = texts.iter().map(|text| text.len() as u64).collect();
        (texts.concat(), sizes)
    }

    /// Makes the guardian go through its loop, with everything that had happened before.
    pub fn round_trip(&mut self) {
        for _ in 0..2 {
            assert_eq!(send(&self.raw, b"?", None).unwrap(), Sent::Yes);
            assert!(matches!(self.event(), GuardianEvent::SpawnFailed { slot: Slot(u32::MAX), .. }));
        }
    }

    /// The keeper's pid, as soon as it has its name.
    pub fn keeper_pid(&self) -> i32 {
        let is_keeper =
            |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "hale-keeper\n");
        let begin = Instant::now();
        loop {
            if let Some(pid) = children(self.pid()).into_iter().find(is_keeper) {
                return pid;
            }
            assert!(begin.elapsed().as_secs() < PATIENCE.tv_sec.unsigned_abs(), "there is no keeper");
            std::thread::yield_now();
        }
    }
}

impl Drop for Hale {
    fn drop(&mut self) {
        // A test that failed half-way leaves nothing behind: the guardian's loss of its supervisor is not waited for.
        for pid in children(self.process.id()) {
            signal(pid, rustix::process::Signal::KILL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The children of a process with one thread.
pub fn children(pid: u32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Sends a signal.
pub fn signal(pid: i32, signal: rustix::process::Signal) {
    let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal);
}

/// A text as a C string.
pub fn text(text: &CStr) -> CString {
    text.into()
}
