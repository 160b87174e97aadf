//! The demo services, broken in each way they offer.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it like the test itself")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Far above what a busy machine needs for anything here; reached only when the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

struct Demo {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    address: String,
    // Each test has its own, so that no test fails the starts of another.
    _temporary: tempfile::TempDir,
}

fn command(words: &[&str], temporary: &tempfile::TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hale"));
    command.arg("demo-service").args(words).env("TMPDIR", temporary.path());
    command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

impl Demo {
    fn start(service: &str, prepare: impl FnOnce(&mut Command)) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mut command = command(&[service, "--port", "0"], &temporary);
        prepare(&mut command);
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix(&format!("{service} listens on ")).expect(&line).to_owned();
        Self { child, output, address, _temporary: temporary }
    }

    fn ask_raw(&self, path: &str, patience: Duration) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(patience))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn ask(&self, path: &str) -> String {
        self.ask_raw(path, PATIENCE).unwrap()
    }

    fn end(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

/// The session of a process, field 6 of proc_pid_stat(5).
fn session(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, after_name) = stat.rsplit_once(") ").unwrap();
    after_name.split(' ').nth(3).unwrap().parse().unwrap()
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
fn a_healthy_service_answers() {
    let web = Demo::start("web", |_| ());
    let health = web.ask("/health");
    assert!(health.starts_with("HTTP/1.1 200") && health.contains(r#""status":"ok""#), "{health}");
    assert!(web.ask("/work").ends_with(r#"{"done":1}"#));
    assert!(web.ask("/work").ends_with(r#"{"done":2}"#));
    assert!(web.ask("/break").contains("/break/stray"));
}

#[test]
fn wrong_answers() {
    let web = Demo::start("web", |_| ());
    web.ask("/break/wrong");
    let health = web.ask("/health");
    assert!(health.starts_with("HTTP/1.1 200") && health.contains(r#""status":"broken""#), "{health}");
    web.ask("/break/error");
    assert!(web.ask("/health").starts_with("HTTP/1.1 500"));
}

#[test]
fn slow_answers_are_right_but_late() {
    let web = Demo::start("web", |_| ());
    web.ask("/break/slow");
    let early = web.ask_raw("/health", Duration::from_millis(500)).unwrap_err();
    assert_eq!(early.kind(), std::io::ErrorKind::WouldBlock);
    assert!(web.ask("/health").contains(r#""status":"ok""#));
}

#[test]
fn a_hung_service_is_alive_and_silent() {
    let mut web = Demo::start("web", |_| ());
    web.ask("/break/hang");
    // It may answer until its last words are out; then never again.
    while web.ask_raw("/health", Duration::from_secs(1)).is_ok() {}
    assert_eq!(web.child.try_wait().unwrap(), None);
}

#[test]
fn crash_and_exit_end_the_process() {
    let web = Demo::start("web", |_| ());
    let _no_answer = web.ask_raw("/break/crash", PATIENCE);
    assert_eq!(web.end().signal(), Some(6));
    let web = Demo::start("web", |_| ());
    let _no_answer = web.ask_raw("/break/exit?code=3", PATIENCE);
    assert_eq!(web.end().code(), Some(3));
    let worker = Demo::start("worker", |_| ());
    let _no_answer = worker.ask_raw("/break/exit", PATIENCE);
    assert_eq!(worker.end().code(), Some(0));
}

#[test]
fn starts_fail_as_often_as_asked() {
    let mut web = Demo::start("web", |_| ());
    let _no_answer = web.ask_raw("/break/start?times=2", PATIENCE);
    assert_eq!(web.child.wait().unwrap().code(), Some(1));
    let again = |web: &Demo| command(&["web", "--port", "0"], &web._temporary);
    assert_eq!(again(&web).status().unwrap().code(), Some(1));
    assert_eq!(again(&web).status().unwrap().code(), Some(1));
    web.child = again(&web).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(web.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("web listens on"), "{line:?}");
}

#[test]
fn without_a_directory_to_write_to_only_failing_starts_cannot_be_asked_for() {
    let web = Demo::start("web", |command| {
        command.env("TMPDIR", "/proc/none");
    });
    let answer = web.ask("/break/start");
    assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("cannot make /proc/none/hale-demo-"), "{answer}");
    assert!(web.ask("/health").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_stray_outlives_the_service_in_a_session_of_its_own() {
    let mut web = Demo::start("web", |_| ());
    let _no_answer = web.ask_raw("/break/stray", PATIENCE);
    assert_eq!(web.child.wait().unwrap().signal(), Some(6));
    let mut line = String::new();
    web.output.read_line(&mut line).unwrap();
    let number: i32 = line.strip_prefix("left stray ").unwrap().split(' ').next().unwrap().parse().unwrap();
    // It leaves the session of its parent a moment after it was started. rustix cannot be asked: the session of a
    // parent from outside this pid namespace is 0, which it takes for a mistake of its own.
    let started = std::time::Instant::now();
    while session(number) != number {
        assert!(started.elapsed() < PATIENCE, "it stays in the session of its parent");
        std::thread::yield_now();
    }
    rustix::process::kill_process(rustix::process::Pid::from_raw(number).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
}

#[test]
fn the_worker_is_ready_beats_and_falls_silent() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let worker = Demo::start("worker", |command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000");
    });
    let receive = || {
        let mut message = [0; 64];
        socket.recv(&mut message).map(|length| String::from_utf8_lossy(&message[..length]).into_owned())
    };
    assert_eq!(receive().unwrap(), "READY=1");
    assert_eq!(receive().unwrap(), "WATCHDOG=1");
    assert_eq!(receive().unwrap(), "WATCHDOG=1");
    worker.ask("/break/silence");
    // What was sent before is still there; then a second goes by without one, twenty times their distance.
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    while receive().is_ok() {}
    assert!(worker.ask("/health").contains(r#""service":"worker""#));
}

#[test]
fn api_refuses_to_start_without_what_it_needs() {
    let temporary = tempfile::tempdir().unwrap();
    // Port 1 is privileged and unassigned on any test machine: nothing listens there.
    let output =
        command(&["api", "--port", "0", "--needs", "127.0.0.1:1"], &temporary).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1:1, which api needs: "));
}

#[test]
fn ask_tells_good_answers_from_bad_ones() {
    let web = Demo::start("web", |_| ());
    let url = format!("http://{}/health", web.address);
    let ask = || command(&["ask", &url], &web._temporary).status().unwrap().code();
    assert_eq!(ask(), Some(0));
    web.ask("/break/error");
    assert_eq!(ask(), Some(1));
}
