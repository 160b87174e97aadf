//! A running guest: commands in it, what QEMU tells of it, and a deadline on every wait.

use super::agent::{Answer, Heard, Line};
use crate::tools::Outcome;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// How long a boot may take: some seconds alone, and minutes where the machine has other work. Only against waiting for ever.
const BOOT_WITHIN: Duration = Duration::from_secs(600);

/// How long a command of [`Guest::run`] may take; `hale start` and `hale restart` wait up to 45 s by themselves.
const COMMAND_WITHIN: Duration = Duration::from_secs(90);

/// How many lines of the console an error shows.
const TAIL_LINES: usize = 40;

/// What the threads that read report.
enum Event {
    Console(String),
    Agent(Vec<u8>),
    Qmp(Value),
    /// QEMU has closed its monitor: it is gone.
    Ended,
}

/// A reset of the guest, by itself, by a panic or by the hardware timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
    /// Whether the emulated hardware timer caused it.
    pub by_watchdog: bool,
}

/// A QEMU process. It is killed when this is dropped.
#[derive(Debug)]
pub struct Guest {
    qemu: Child,
    agent: UnixStream,
    monitor: UnixStream,
    events: Receiver<Event>,
    line: Line,
    /// Answers and resets that nobody has taken yet.
    answer: Option<Answer>,
    resets: Vec<Reset>,
    watchdog_expired: bool,
    is_ready: bool,
    has_ended: bool,
    has_powered_off: bool,
    console: Vec<String>,
    console_seen: usize,
    commands: u64,
    log: PathBuf,
    log_file: File,
}

impl Guest {
    /// Starts QEMU and returns once the guest takes commands. The console goes to the end of `log` as well.
    pub(super) fn start(mut qemu: Command, log: &Path) -> Outcome<Self> {
        let io = |e: std::io::Error| format!("cannot start the guest: {e}");
        let (agent, agent_end) = UnixStream::pair().map_err(io)?;
        let (monitor, monitor_end) = UnixStream::pair().map_err(io)?;
        let (console, console_end) = UnixStream::pair().map_err(io)?;
        let mut log_file = File::options().create(true).append(true).open(log).map_err(io)?;
        writeln!(log_file, "=== power on").map_err(io)?;
        let child = qemu
            .stdin(Stdio::from(OwnedFd::from(agent_end)))
            .stdout(Stdio::from(OwnedFd::from(monitor_end)))
            .stderr(Stdio::from(OwnedFd::from(console_end)))
            .spawn()
            .map_err(|e| format!("cannot run setpriv and QEMU: {e}"))?;
        // The command keeps the other ends open, and with them the streams.
        drop(qemu);
        let (sender, events) = channel();
        read_console(console, log_file.try_clone().map_err(io)?, sender.clone());
        read_agent(agent.try_clone().map_err(io)?, sender.clone());
        read_monitor(monitor.try_clone().map_err(io)?, sender);
        let mut guest = Self {
            qemu: child,
            agent,
            monitor,
            events,
            line: Line::default(),
            answer: None,
            resets: Vec::new(),
            watchdog_expired: false,
            is_ready: false,
            has_ended: false,
            has_powered_off: false,
            console: Vec::new(),
            console_seen: 0,
            commands: 0,
            log: log.to_path_buf(),
            log_file,
        };
        guest.monitor_command(&serde_json::json!({"execute": "qmp_capabilities"}))?;
        guest.await_ready()?;
        Ok(guest)
    }

    /// Runs `command` (a shell script) in the guest and waits for its end.
    pub fn run(&mut self, command: &str) -> Outcome<Answer> {
        let answer = self.run_until(command, Instant::now() + COMMAND_WITHIN)?;
        answer.ok_or_else(|| self.failure(&format!("no answer within {COMMAND_WITHIN:?} to `{command}`")))
    }

    /// The same, and it must exit with 0. Gives its output, standard error included.
    pub fn must(&mut self, command: &str) -> Outcome<String> {
        let Answer { exit, output } = self.run(command)?;
        if exit == 0 { Ok(output) } else { Err(self.failure(&format!("`{command}` ended with {exit}:\n{output}"))) }
    }

    /// Runs `command` and waits for its end until `deadline`: `None` if it has not ended by then. After that the
    /// guest takes no further command before it is booted again.
    pub fn run_until(&mut self, command: &str, deadline: Instant) -> Outcome<Option<Answer>> {
        self.send(command)?;
        let resets = self.resets.len();
        self.pump_until(deadline, |guest| guest.answer.is_some() || guest.resets.len() > resets)?;
        match self.answer.take() {
            Some(answer) => Ok(Some(answer)),
            None if self.resets.len() > resets => Err(self.failure(&format!("the guest was reset during `{command}`"))),
            None => Ok(None),
        }
    }

    /// Sends `command` without waiting: for one that never answers, such as `echo c >/proc/sysrq-trigger`.
    pub fn send(&mut self, command: &str) -> Outcome {
        self.commands += 1;
        self.answer = None;
        self.line.expect(self.commands);
        let text = format!("{}\n{command}\nend\n", self.commands);
        self.agent.write_all(text.as_bytes()).map_err(|e| self.failure(&format!("cannot send `{command}`: {e}")))
    }

    /// Waits until the guest is reset, and until it has booted again, on the same disk.
    pub fn await_reset(&mut self, within: Duration) -> Outcome<Reset> {
        if !self.pump_until(Instant::now() + within, |guest| !guest.resets.is_empty())? {
            return Err(self.failure(&format!("no reset within {within:?}")));
        }
        self.await_ready()?;
        // A kernel that reboots tries several ways, and firmware resets once more: until it is up again all are one
        // reset, and the first tells why.
        let by_watchdog = self.resets.drain(..).next().is_some_and(|first| first.by_watchdog);
        Ok(Reset { by_watchdog })
    }

    /// Whether the guest stays up for `time`; for a scenario that must not reset.
    pub fn stays_up(&mut self, time: Duration) -> Outcome {
        let reset = self.pump_until(Instant::now() + time, |guest| !guest.resets.is_empty())?;
        if reset { Err(self.failure("the guest was reset")) } else { Ok(()) }
    }

    /// Waits for a line of the console that contains `text`, after the last one that was waited for.
    pub fn await_console(&mut self, text: &str, within: Duration) -> Outcome<String> {
        let found = |guest: &Self| guest.console[guest.console_seen..].iter().position(|line| line.contains(text));
        self.pump_until(Instant::now() + within, |guest| found(guest).is_some())?;
        match found(self) {
            Some(at) => {
                self.console_seen += at + 1;
                Ok(self.console[self.console_seen - 1].clone())
            }
            None => Err(self.failure(&format!("the console did not say {text:?} within {within:?}"))),
        }
    }

    /// Waits until the guest has powered itself off.
    pub fn await_power_off(mut self, within: Duration) -> Outcome {
        // QEMU closes its monitor then, which is no failure here.
        let _ = self.pump_until(Instant::now() + within, |guest| guest.has_powered_off || guest.has_ended);
        if self.has_powered_off { Ok(()) } else { Err(self.failure(&format!("not powered off within {within:?}"))) }
    }

    /// Presses ctrl-alt-del.
    pub fn press_ctrl_alt_del(&mut self) -> Outcome {
        let keys = ["ctrl", "alt", "delete"].map(|key| serde_json::json!({"type": "qcode", "data": key}));
        self.monitor_command(&serde_json::json!({"execute": "send-key", "arguments": {"keys": keys}}))
    }

    /// Cuts the power: SIGKILL to QEMU.
    pub fn cut_power(mut self) -> Outcome {
        self.kill().map_err(|e| format!("cannot kill QEMU: {e}"))
    }

    fn kill(&mut self) -> std::io::Result<()> {
        self.qemu.kill()?;
        self.qemu.wait().map(drop)
    }

    fn await_ready(&mut self) -> Outcome {
        if !self.pump_until(Instant::now() + BOOT_WITHIN, |guest| guest.is_ready)? {
            return Err(self.failure(&format!("not booted within {BOOT_WITHIN:?}")));
        }
        Ok(())
    }

    fn monitor_command(&mut self, command: &Value) -> Outcome {
        let text = format!("{command}\n");
        self.monitor.write_all(text.as_bytes()).map_err(|e| self.failure(&format!("QEMU's monitor is closed: {e}")))
    }

    /// Takes in what happens until `is_enough`, or until `deadline`: then false. An error if QEMU ends.
    fn pump_until(&mut self, deadline: Instant, is_enough: impl Fn(&Self) -> bool) -> Outcome<bool> {
        loop {
            if is_enough(self) {
                return Ok(true);
            }
            if self.has_ended {
                return Err(self.failure("QEMU has ended"));
            }
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => self.take_in(event),
                Err(RecvTimeoutError::Timeout) => return Ok(false),
                Err(RecvTimeoutError::Disconnected) => self.has_ended = true,
            }
        }
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Console(line) => self.console.push(line),
            Event::Agent(bytes) => {
                for heard in self.line.take_in(&bytes) {
                    match heard {
                        Heard::Ready => self.is_ready = true,
                        Heard::Done(answer) => self.answer = Some(answer),
                    }
                }
            }
            // Events: https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html
            Event::Qmp(message) => match self.noted(&message) {
                Some("SHUTDOWN") => self.has_powered_off = message["data"]["reason"] == "guest-shutdown",
                Some("WATCHDOG") => self.watchdog_expired = true,
                Some("RESET") => {
                    self.resets.push(Reset { by_watchdog: std::mem::take(&mut self.watchdog_expired) });
                    self.is_ready = false;
                    self.answer = None;
                    self.line = Line::default();
                }
                _ => {}
            },
            Event::Ended => self.has_ended = true,
        }
    }

    /// The name of the event that `message` tells of, which the console log has as well.
    fn noted<'a>(&mut self, message: &'a Value) -> Option<&'a str> {
        let name = message["event"].as_str()?;
        self.console.push(format!("=== QEMU: {name} {}", message["data"]));
        // As in `read_console`.
        let _ = writeln!(self.log_file, "=== QEMU: {name} {}", message["data"]);
        Some(name)
    }

    /// What went wrong, with the last lines of the console.
    pub fn failure(&self, what: &str) -> String {
        let tail = &self.console[self.console.len().saturating_sub(TAIL_LINES)..];
        format!("{what}\nThe end of {}:\n    {}", self.log.display(), tail.join("\n    "))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, and need not be.
        let _ = self.kill();
    }
}

fn read_console(stream: UnixStream, mut log: File, sender: Sender<Event>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            // A log that cannot be written shows in the lines that are missing from it; the scenario does not need it.
            let _ = writeln!(log, "{line}");
            if sender.send(Event::Console(line)).is_err() {
                break;
            }
        }
    });
}

fn read_agent(mut stream: UnixStream, sender: Sender<Event>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if sender.send(Event::Agent(buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    });
}

fn read_monitor(stream: UnixStream, sender: Sender<Event>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { break };
            if let Ok(message) = serde_json::from_str(&line)
                && sender.send(Event::Qmp(message)).is_err()
            {
                return;
            }
        }
        // Nobody may be left to tell it.
        let _ = sender.send(Event::Ended);
    });
}
