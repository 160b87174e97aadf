//! How everything ends: in order after the supervisor's last word, or by the guardian alone when the operator wants the
//! end and no supervisor is in control.

use crate::guardian::run::Guardian;
use crate::guardian::systemd::Systemd;
use crate::guardian::wait::now_ms;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Pid, Signal, kill_process};

/// How long processes may take to end by themselves after SIGTERM, in milliseconds, when no supervisor that knows
/// each one's grace is there: the configuration's default grace.
const TERMINATE_MS: u64 = 10_000;

/// How long the kernel may take to end what was killed, in milliseconds. What is still there then hangs in the
/// kernel, and waiting longer would keep the init system from starting Hale again.
const KILL_MS: u64 = 5_000;

/// How long keeper and supervisor may take to write what they still hold, in milliseconds: pipes of 64 KiB each, and
/// the ledger, for which the supervisor gives the disk five seconds and its console one.
const DRAIN_MS: u64 = 8_000;

/// The exit code when no supervisor was there to end everything in order.
const LOST: u8 = 1;

/// How far the end has come; each phase but the first with its deadline on the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has not begun.
    Running,
    /// Nobody is in control, and each service's main process got SIGTERM.
    Terminating { until_ms: u64 },
    /// Everything gets SIGKILL until nothing is left.
    Killing { until_ms: u64 },
    /// Keeper and supervisor write what is left.
    Draining { until_ms: u64, exit_code: u8 },
}

impl Guardian {
    /// When [`on_time`](Self::on_time) has something to do at the latest.
    pub(super) fn deadline_ms(&self) -> Option<u64> {
        let phase = match self.phase {
            Phase::Running => Some(self.keeper.due_ms().min(self.supervisor_due_ms())),
            Phase::Terminating { until_ms } | Phase::Killing { until_ms } => Some(self.keeper.due_ms().min(until_ms)),
            Phase::Draining { until_ms, .. } => Some(self.keeper.due_ms().min(until_ms)),
        };
        let pet = self.systemd.as_ref().and_then(Systemd::deadline_ms);
        phase.into_iter().chain(self.hardware.deadline_ms()).chain(pet).min()
    }

    /// What has to happen after each turn; the exit code when it was the last one.
    pub(super) fn on_time(&mut self) -> Option<u8> {
        let now = now_ms();
        self.hardware.progress_lost = self.supervisor.progress.is_lost_for_good(now);
        self.hardware.on_time(now);
        self.pet_systemd();
        if self.hardware.untold {
            self.tell_rest();
        }
        self.supervise_keeper();
        match self.phase {
            Phase::Running => {
                self.supervise();
                if matches!(self.phase, Phase::Running) { None } else { self.on_time() }
            }
            Phase::Terminating { until_ms } => {
                if !self.slots.any_running() || now_ms() >= until_ms {
                    self.phase = Phase::Killing { until_ms: now_ms() + KILL_MS };
                    return self.on_time();
                }
                None
            }
            Phase::Killing { until_ms } => {
                // Again after each end: a stray becomes this process's child only when its parent has died.
                let left = self.kill_all();
                if !left || now_ms() >= until_ms {
                    if self.slots.all().next().is_none() {
                        // Nothing was ever supervised: a start that failed must not cost the machine.
                        self.hardware.orderly = true;
                    }
                    self.drain(LOST);
                }
                None
            }
            Phase::Draining { until_ms, exit_code } => {
                // The next Hale must not meet this one's supervisor: the locks are gone with this process.
                if now_ms() < until_ms && !(self.keeper.is_over() && self.supervisor.live.is_none()) {
                    return None;
                }
                if self.keeper.live.is_some() {
                    Self::say(format_args!(
                        "the keeper was killed before it had written everything: the last output of some services is lost"
                    ));
                }
                self.keeper.live.iter_mut().chain(&mut self.supervisor.live).for_each(|live| live.kill(until_ms));
                Some(exit_code)
            }
        }
    }

    /// Nobody is in control, and the operator wants the end: every service gets SIGTERM, later SIGKILL.
    pub(super) fn end_alone(&mut self) {
        if let Some(live) = &self.supervisor.live {
            kill(live.pid, Signal::KILL);
        }
        Self::say(format_args!("no supervisor is in control: ending everything without one"));
        self.slots.signal(Signal::TERM);
        // A stopped process would only see it later.
        self.slots.signal(Signal::CONT);
        self.phase = Phase::Terminating { until_ms: now_ms() + TERMINATE_MS };
    }

    /// Whether a signal is for the guardian itself: while it ends everything, the operator's next word is to hurry.
    pub(super) fn hurry(&mut self, ends: bool) -> bool {
        if ends && matches!(self.phase, Phase::Terminating { .. }) {
            self.phase = Phase::Killing { until_ms: now_ms() + KILL_MS };
        }
        !matches!(self.phase, Phase::Running)
    }

    /// No service is left: keeper and supervisor write what they still hold, then this process ends with this code.
    pub(super) fn drain(&mut self, exit_code: u8) {
        if self.slots.any_running() {
            // Whatever the supervisor believed: nothing may go on without anybody.
            self.kill_services();
        }
        self.phase = Phase::Draining { until_ms: now_ms() + DRAIN_MS, exit_code };
        match &self.keeper.live {
            Some(_) => self.tell_keeper(),
            // However long the next one would have been waited for.
            None => self.start_keeper(),
        }
    }

    /// Kills every tree: by its cgroup, by the main process, and by being a child of this process. Says whether
    /// there was anything.
    fn kill_all(&mut self) -> bool {
        let left = self.kill_services();
        self.kill_children() || left
    }

    /// Kills the services' trees, as far as a cgroup or their main process tells.
    fn kill_services(&mut self) -> bool {
        for slot in self.slots.all() {
            if let Some(cgroup) = self.slots.get(slot).and_then(|entry| entry.cgroup.as_ref())
                && let Ok(file) = openat(cgroup, c"cgroup.kill", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            {
                let _ = rustix::io::write(file, b"1");
            }
        }
        self.slots.signal(Signal::KILL)
    }

    /// Kills all children but the keeper, as /proc lists them (proc(5); absent without CONFIG_PROC_CHILDREN).
    fn kill_children(&self) -> bool {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let Ok(file) = openat(CWD, c"/proc/thread-self/children", flags, Mode::empty()) else { return false };
        let keeper = self.keeper.live.as_ref().map_or(0, |live| live.pid);
        let (mut found, mut pid, mut buffer) = (false, 0_i32, [0; 1024]);
        while let Ok(read @ 1..) = rustix::io::read(&file, &mut buffer) {
            for &byte in &buffer[..read] {
                if byte.is_ascii_digit() {
                    pid = pid.saturating_mul(10).saturating_add(i32::from(byte - b'0'));
                    continue;
                }
                if pid != 0 && pid != keeper {
                    kill(pid, Signal::KILL);
                    found = true;
                }
                pid = 0;
            }
        }
        found
    }
}

/// Signals a child. It was not reaped yet, so the pid is its own.
pub(super) fn kill(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}
