//! The supervisor as the guardian sees it: started, challenged, replaced when it dies or makes no progress.

use crate::guardian::end::{Phase, kill};
use crate::guardian::progress::Due;
use crate::guardian::protocol::{HostSignal, MAX_EVIDENCE_BYTES};
use crate::guardian::run::{Guardian, Token, now_ms};
use crate::guardian::tell::Untold;
use crate::guardian::text::Text;
use crate::sys::child::LOW_FDS;
use crate::sys::packet;
use crate::sys::wait::Exit;
use rustix::event::epoll;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::Signal;
use std::fmt::Write;
use std::os::fd::{AsFd, OwnedFd};

/// How long a supervisor that makes no progress has between SIGABRT and SIGKILL, in milliseconds: enough for the kernel to
/// write a core where cores are wanted.
const ABORT_MS: u64 = 200;

/// How long a killed supervisor may take to be gone, in milliseconds. One that hangs in the kernel stays there for as long
/// as its device does; it never runs again, so the next one need not wait for it.
const GONE_MS: u64 = 1_000;

/// How many orders are read before a supervisor whose proof did not come counts as lost: the proof stands behind what one
/// step orders, and no step starts more than a few dozen services.
const ORDERS_BEFORE_LOST: usize = 1_024;

/// How long services go on without anybody in control after the operator asked for the end, in milliseconds: then the
/// guardian ends them by itself.
const END_ALONE_MS: u64 = 10_000;

/// How the one before was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// The supervisor; `hung`: because it made no progress, and the evidence is about it.
    Supervisor { exit: Exit, hung: bool },
    /// The guardian before this one, and its supervisor with it.
    Guardian,
}

/// How far the life of a supervisor has come.
#[derive(Debug, Default)]
pub(super) enum Supervisor {
    /// There is none, and the next one starts then, on the monotonic clock.
    #[default]
    Absent,
    /// It runs. Its socket is closed only once it can never run again: to a living one the end of the socket means that the
    /// guardian is gone.
    Running(Live),
    /// It got SIGABRT, and gets SIGKILL then.
    Aborting { live: Live, kill_ms: u64 },
    /// It got SIGKILL, and is not waited for any longer then.
    Killed { live: Live, until_ms: u64 },
}

/// A process and the socket to it.
#[derive(Debug)]
pub(super) struct Live {
    pub pid: i32,
    pub socket: OwnedFd,
}

impl Supervisor {
    pub fn live(&self) -> Option<&Live> {
        match self {
            Self::Absent => None,
            Self::Running(live) | Self::Aborting { live, .. } | Self::Killed { live, .. } => Some(live),
        }
    }

    /// The socket to it.
    pub fn socket(&self) -> Option<&OwnedFd> {
        self.live().map(|live| &live.socket)
    }
}

impl Guardian {
    /// Starts a supervisor with a socket of its own, and plans to tell it everything. When that fails, it is tried again.
    pub(super) fn start_supervisor(&mut self) -> Result<(), Errno> {
        let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE);
        let (socket, end) = packet::pair().map_err(failed)?;
        let socket = rustix::io::fcntl_dupfd_cloexec(&socket, LOW_FDS)?;
        let end = rustix::io::fcntl_dupfd_cloexec(&end, LOW_FDS)?;
        let pid = self.helpers.supervisor(end.as_fd(), self.oom_score_adj.as_deref(), &mut self.pointers)?;
        epoll::add(&self.epoll, &socket, Token::Supervisor.data(), epoll::EventFlags::IN)?;
        self.supervisor = Supervisor::Running(Live { pid, socket });
        self.supervisor_full = false;
        self.refusal = None;
        self.progress.begin(now_ms());
        self.forget_told();
        self.tell_all();
        Ok(())
    }

    /// Everything has to be told anew.
    fn forget_told(&mut self) {
        self.store.forget_told();
        for slot in self.slots.all() {
            let Some(entry) = self.slots.get(slot) else { continue };
            let pipe = entry.untold.pipe;
            entry.untold = Untold::all(entry.life, entry.start.is_none(), entry.epoch).with_pipe(pipe);
        }
        self.hardware.retell();
        self.untold_lost = self.lost.is_some();
        self.untold_challenge = true;
        for (untold, doubt) in self.untold_signals.iter_mut().zip(&mut self.doubtful_signals) {
            *untold |= doubt.take().is_some();
        }
    }

    /// When [`supervise`](Self::supervise) has something to do.
    pub(super) fn supervisor_due_ms(&self) -> u64 {
        let due_ms = match &self.supervisor {
            Supervisor::Absent => self.supervisor_due_ms,
            Supervisor::Running(_) => self.progress.due_ms(),
            Supervisor::Aborting { kill_ms, .. } => *kill_ms,
            Supervisor::Killed { until_ms, .. } => *until_ms,
        };
        due_ms.min(self.end_alone_ms.unwrap_or(u64::MAX))
    }

    /// What is due about the supervisor.
    pub(super) fn supervise(&mut self) {
        let now = now_ms();
        if now < self.supervisor_due_ms() && !self.must_end_alone(now) {
            return;
        }
        match std::mem::take(&mut self.supervisor) {
            Supervisor::Absent if self.must_end_alone(now) => self.end_alone(),
            Supervisor::Absent => {
                if let Err(errno) = self.start_supervisor() {
                    self.supervisor_due_ms = now + self.progress.end();
                    Self::say(format_args!("no supervisor can be started: {errno}; it is tried again"));
                }
            }
            Supervisor::Running(live) => {
                let live_pid = live.pid;
                self.supervisor = Supervisor::Running(live);
                if self.must_end_alone(now) {
                    return self.end_alone();
                }
                // The proof may be there, unread behind many orders.
                for _ in 0..ORDERS_BEFORE_LOST {
                    if !self.read_order(true) {
                        break;
                    }
                }
                match self.progress.due(now) {
                    Due::Nothing => {}
                    Due::Challenge => {
                        starved_ms(live_pid, &mut self.asked, now);
                        self.untold_challenge = true;
                        self.tell_challenge();
                    }
                    Due::Lost => {
                        if !self.progress.excuse(starved_ms(live_pid, &mut self.asked, now)) {
                            self.abort_supervisor(now);
                        }
                    }
                }
            }
            other if self.must_end_alone(now) => {
                self.supervisor = other;
                self.end_alone();
            }
            Supervisor::Aborting { live, .. } => {
                kill(live.pid, Signal::KILL);
                self.supervisor = Supervisor::Killed { live, until_ms: now + GONE_MS };
            }
            Supervisor::Killed { live, .. } => {
                self.supervisor = Supervisor::Killed { live, until_ms: u64::MAX };
                self.on_supervisor_lost(Exit::Signal { signal: libc::SIGKILL, core_dumped: false });
            }
        }
    }

    /// It makes no progress: what the kernel says of it is kept, then it is ended.
    fn abort_supervisor(&mut self, now: u64) {
        match std::mem::take(&mut self.supervisor) {
            Supervisor::Running(live) => {
                self.evidence = evidence_of(live.pid);
                self.hung = true;
                Self::say(format_args!("the supervisor makes no progress ({}): replacing it", self.evidence));
                kill(live.pid, Signal::ABORT);
                self.supervisor = Supervisor::Aborting { live, kill_ms: now + ABORT_MS };
            }
            other => self.supervisor = other,
        }
    }

    /// It closed its socket, which no living supervisor does.
    pub(super) fn on_supervisor_gone(&mut self) {
        match std::mem::take(&mut self.supervisor) {
            Supervisor::Running(live) | Supervisor::Aborting { live, .. } => {
                // It would be ready for ever.
                let _ = epoll::delete(&self.epoll, &live.socket);
                kill(live.pid, Signal::KILL);
                self.supervisor = Supervisor::Killed { live, until_ms: now_ms() + GONE_MS };
            }
            Supervisor::Killed { live, until_ms } => {
                let _ = epoll::delete(&self.epoll, &live.socket);
                self.supervisor = Supervisor::Killed { live, until_ms };
            }
            Supervisor::Absent => {}
        }
    }

    /// It will never run again. Its last orders are carried out, then the next one is started.
    pub(super) fn on_supervisor_lost(&mut self, exit: Exit) {
        while self.read_order(false) {}
        let Some(live) = self.supervisor.live() else { return };
        let _ = epoll::delete(&self.epoll, &live.socket);
        self.supervisor = Supervisor::Absent;
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        let idle = !self.slots.any_running();
        if let (Exit::Code(code), false, true) = (exit, self.progress.ever_proven(), idle) {
            // It has said why it cannot start; the next one could not either. That must not cost the machine.
            self.hardware.set_orderly();
            return self.drain(u8::try_from(code).unwrap_or(1));
        }
        let hung = std::mem::take(&mut self.hung);
        // Until one is in control, nobody has taken over from the lost guardian.
        if self.lost != Some(Loss::Guardian) || self.progress.ever_proven() {
            self.lost = Some(Loss::Supervisor { exit, hung });
        }
        if self.end_wanted {
            // The next one goes on with the end, if it gets that far.
            self.end_alone_ms.get_or_insert(now_ms() + END_ALONE_MS);
        }
        let wait_ms = self.progress.end();
        self.supervisor_due_ms = now_ms() + wait_ms;
        match exit {
            Exit::Code(code) => Self::say(format_args!("the supervisor ended with exit code {code}: replacing it")),
            Exit::Unknown => {}
            Exit::Signal { signal, .. } => {
                Self::say(format_args!("the supervisor was ended by signal {signal}: replacing it"));
            }
        }
        self.supervise();
    }

    /// The supervisor proves that its loop turns, and so that it has taken what it was told before.
    pub(super) fn on_proof(&mut self, nonce: u64) {
        let first = !self.progress.ever_proven();
        if self.progress.prove(nonce, now_ms()) {
            if first {
                self.tell_ready();
            }
            self.end_alone_ms = None;
            for doubt in &mut self.doubtful_signals {
                doubt.take_if(|since| *since <= nonce);
            }
        }
    }

    /// Somebody sent a signal to Hale, which the supervisor is to act on.
    pub(super) fn on_host_signal(&mut self, signal: HostSignal) {
        if self.hurry(signal) {
            return;
        }
        self.untold_signals[signal as usize] = true;
        if matches!(signal, HostSignal::Terminate | HostSignal::Interrupt) && !self.end_wanted {
            self.end_wanted = true;
            self.tell_stopping();
        }
        if !self.progress.is_proven() && matches!(signal, HostSignal::Terminate | HostSignal::Interrupt) {
            match self.end_alone_ms {
                None => self.end_alone_ms = Some(now_ms() + END_ALONE_MS),
                // Told a second time, and still nobody is in control.
                Some(_) => return self.end_alone(),
            }
        }
        self.tell_rest();
    }

    fn must_end_alone(&self, now: u64) -> bool {
        !self.progress.is_proven() && self.end_alone_ms.is_some_and(|at| now >= at)
    }

    /// The child called `pid` was reaped: was it the supervisor?
    pub(super) fn is_supervisor(&self, pid: i32) -> bool {
        self.supervisor.live().is_some_and(|live| live.pid == pid)
    }
}

/// What the kernel says of a process that hangs, in one line.
pub(super) type Evidence = Text<MAX_EVIDENCE_BYTES>;

/// Reads what /proc has of the main thread of a process, which runs the loop: its state, where in the kernel it waits
/// (proc_pid_wchan(5); empty or 0 where that is not told), and its system call (proc_pid_syscall(5)). None of these waits
/// for the process.
pub(super) fn evidence_of(pid: i32) -> Evidence {
    let mut evidence = Evidence::new();
    for (what, file) in [("state", "stat"), ("in", "wchan"), ("system call", "syscall")] {
        let mut text = [0; 512];
        let read = read_of(pid, file, &mut text);
        let text = std::str::from_utf8(&text[..read]).unwrap_or_default();
        // The name is in parentheses and may contain anything (proc_pid_stat(5)).
        let word = match file {
            "stat" => text.rsplit_once(") ").map_or("", |(_, rest)| rest),
            _ => text,
        };
        let word = word.split([' ', '\n']).next().unwrap_or_default();
        let comma = if evidence.bytes().is_empty() { "" } else { ", " };
        let _ = write!(evidence, "{comma}{what} {}", if word.is_empty() { "unknown" } else { word });
    }
    evidence
}

/// How long the main thread of a process, which runs its loop, wanted to run since this was called last, and others did, in
/// milliseconds: only while it is runnable (proc_pid_stat(5)) is the time that it did not run (the first number of
/// `/proc/PID/schedstat`, in nanoseconds; sched-stats.rst) somebody else's. 0 where the kernel does not count.
///
/// `asked` is when that was, and how long it had run then, in milliseconds.
pub(super) fn starved_ms(pid: i32, asked: &mut (u64, u64), now: u64) -> u64 {
    let (mut stat, mut schedstat) = ([0; 512], [0; 512]);
    let (read, counted) = (read_of(pid, "stat", &mut stat), read_of(pid, "schedstat", &mut schedstat));
    let ran = std::str::from_utf8(&schedstat[..counted]).ok().and_then(|text| text.split(' ').next()?.parse().ok());
    let Some(ran_ms) = ran.map(|ran: u64| ran / 1_000_000) else { return 0 };
    let (before_ms, had_run_ms) = std::mem::replace(asked, (now, ran_ms));
    // The name is in parentheses and may contain anything.
    let runnable = stat[..read].rsplit(|&byte| byte == b')').next().is_some_and(|rest| rest.starts_with(b" R"));
    if runnable { (now - before_ms).saturating_sub(ran_ms.saturating_sub(had_run_ms)) } else { 0 }
}

/// The part of a file below /proc that is read here, none of which waits for the process.
fn read_of(pid: i32, file: &str, buffer: &mut [u8; 512]) -> usize {
    let mut path = Text::<64>::new();
    let _ = write!(path, "/proc/{pid}/{file}");
    openat(CWD, path.bytes(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::read(file, buffer))
        .unwrap_or(0)
}
