//! Being process 1, of a container or of a machine: what its signals ask for, and what its end is.

use crate::guardian::run::{Guardian, now_ms};
use crate::sys::signals::{SignalFd, send_to_all};
use crate::sys::wait::{has_children, reap};
use hale_core::policy::AsInit;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, getpid};
use rustix::system::{RebootCommand, reboot};
use std::ffi::OsStr;
use std::os::unix::fs::FileTypeExt;
use std::process::ExitCode;

/// How long processes that are no service's may take to end after SIGTERM, in milliseconds: each service had its own
/// grace before, and whoever stops a container kills it after ten seconds.
const TERMINATE_MS: u64 = 5_000;

/// How long the kernel may take to end what was killed, in milliseconds.
const KILL_MS: u64 = 2_000;

/// How long the disks may take for what was written, in milliseconds: a fifth of 8 GiB of memory (vm.dirty_ratio) at
/// 30 MB/s. One that hangs must not keep the machine from powering off.
const SYNC_MS: u64 = 60_000;

/// How long the reason stays on the console before the kernel's own words on the end of process 1, in milliseconds.
const HOLD_MS: u64 = 30_000;

/// The signals that the guardian reads instead of dying of them; the last one only as process 1, for whom it is an order.
const SIGNALS: [i32; 6] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD, libc::SIGPIPE, libc::SIGPWR];

/// What this process is to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Not process 1.
    Process,
    /// Process 1 of a pid namespace: everything in it ends with it.
    Container,
    /// Process 1 of the machine: the kernel panics when it ends.
    Machine,
}

/// What this process is, and what its end is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Init {
    role: Role,
    at_end: AsInit,
}

impl Init {
    /// Finds out what this process is. As process 1 of a machine it gets SIGINT from now on when somebody presses
    /// ctrl-alt-del, instead of a reset on the spot: only there the kernel takes that order (reboot(2)).
    #[must_use]
    pub fn take(at_end: AsInit) -> Self {
        let role = match is_first().then(|| reboot(RebootCommand::CadOff)) {
            None => Role::Process,
            Some(Ok(())) => Role::Machine,
            Some(Err(_)) => Role::Container,
        };
        Self { role, at_end }
    }

    /// The signals to be read.
    pub(super) fn signals(self) -> &'static [i32] {
        if self.role == Role::Process { &SIGNALS[..SIGNALS.len() - 1] } else { &SIGNALS }
    }

    /// What a signal says of the end of a machine: SIGINT is ctrl-alt-del, and SIGPWR that the power fails.
    pub(super) fn note(&mut self, signal: i32) {
        match (self.role, signal) {
            (Role::Machine, libc::SIGINT) => self.at_end = AsInit::Reboot,
            (Role::Machine, libc::SIGPWR) => self.at_end = AsInit::PowerOff,
            _ => {}
        }
    }

    /// The kernel's part of an ordered end; comes back when there is none, or the kernel refuses it.
    fn end(self) {
        let (command, doing) = match (self.role, self.at_end) {
            (Role::Process, _) | (Role::Container, AsInit::Exit) => return,
            (_, AsInit::Reboot) => (RebootCommand::Restart, "rebooting"),
            (_, AsInit::PowerOff) | (Role::Machine, AsInit::Exit) => (RebootCommand::PowerOff, "powering off"),
        };
        if self.role == Role::Machine {
            Guardian::say(format_args!("everything has ended: {doing}"));
        }
        if let Err(errno) = reboot(command) {
            Guardian::say(format_args!("the kernel refuses {doing}: {errno}"));
        }
    }
}

/// The word for it on the guardian's command line.
pub(super) fn word(at_end: AsInit) -> &'static str {
    match at_end {
        AsInit::Exit => "exit",
        AsInit::PowerOff => "power_off",
        AsInit::Reboot => "reboot",
    }
}

/// What that word means; nothing else is ever written there.
pub(super) fn from_word(text: &OsStr) -> AsInit {
    [AsInit::PowerOff, AsInit::Reboot].into_iter().find(|at_end| text == word(*at_end)).unwrap_or_default()
}

fn is_first() -> bool {
    getpid().is_init()
}

/// At the very start of process 1: the kernel throws away signals to it that nothing waits for. From here on they wait
/// for the guardian.
pub fn keep_signals() {
    if is_first() {
        // Without a descriptor for them they are kept all the same.
        let _ = SignalFd::take(&SIGNALS);
    }
}

/// What is missing without which nothing can be started, and how to get it. An initramfs has neither by itself.
#[must_use]
pub fn missing() -> Option<&'static str> {
    let is_null = |meta: std::fs::Metadata| meta.file_type().is_char_device();
    if std::fs::read_link("/proc/self/exe").is_err() {
        return Some("/proc is not mounted: `mount -t proc proc /proc`");
    }
    if !std::fs::metadata("/dev/null").is_ok_and(is_null) {
        return Some(
            "there is no device /dev/null: `mount -t devtmpfs devtmpfs /dev`, or `mknod -m 666 /dev/null c 1 3`",
        );
    }
    None
}

/// Process 1 of a machine has failed, which was told: lets that be read for a while. What happens then is left to the
/// kernel, which panics when this process ends, and to `panic=` on its command line. Anybody else does not wait.
pub fn hold(mut init: Init) {
    let (Role::Machine, Ok(signals)) = (init.role, SignalFd::take(&SIGNALS)) else { return };
    Guardian::say(format_args!(
        "as process 1 of the machine it ends in {} s, and then the kernel panics (its `panic=` says whether it reboots)",
        HOLD_MS / 1_000
    ));
    let until_ms = now_ms() + HOLD_MS;
    while now_ms() < until_ms {
        while let Ok(Some(_)) = reap(None) {}
        await_signal(&signals, until_ms);
        while let Some((signal, _)) = signals.next() {
            init.note(signal);
            if matches!(signal, libc::SIGTERM | libc::SIGINT | libc::SIGPWR) {
                rustix::fs::sync();
                init.end();
            }
        }
    }
}

fn await_signal(signals: &SignalFd, until_ms: u64) {
    let wait = until_ms.saturating_sub(now_ms());
    // Both parts are far below their types' bounds: every deadline is seconds away.
    let wait = Timespec { tv_sec: (wait / 1_000) as i64, tv_nsec: (wait % 1_000 * 1_000_000) as i64 };
    // The only error that can come is an interruption.
    let _ = poll(&mut [PollFd::new(signals, PollFlags::IN)], Some(&wait));
}

impl Guardian {
    /// This process's own end: services, supervisor and keeper have ended, or hang in the kernel.
    pub(super) fn leave(mut self, code: u8) -> ExitCode {
        let ordered = self.end_wanted;
        if ordered && self.init.role != Role::Process {
            self.end_strangers();
        }
        if ordered && self.init.role == Role::Machine {
            self.sync();
        }
        self.hardware.end();
        self.end_systemd();
        if ordered {
            self.init.end();
        } else {
            hold(self.init);
        }
        ExitCode::from(code)
    }

    /// Ends everybody else in this namespace, or on this machine.
    fn end_strangers(&mut self) {
        if !has_children() {
            return;
        }
        for (signal, within_ms) in [(Signal::TERM, TERMINATE_MS), (Signal::KILL, KILL_MS)] {
            send_to_all(signal);
            // A stopped process would only see it later.
            send_to_all(Signal::CONT);
            if self.await_children(None, now_ms() + within_ms) {
                return;
            }
        }
    }

    /// Has the kernel write what it still holds. In a child, because this process must not hang with a disk.
    fn sync(&mut self) {
        match self.helpers.sync(&mut self.pointers) {
            Ok(child) if !self.await_children(Some(child), now_ms() + SYNC_MS) => {
                Self::say(format_args!(
                    "a disk does not take what was written for {} s: going on without",
                    SYNC_MS / 1_000
                ));
            }
            Ok(_) => {}
            Err(_) => rustix::fs::sync(),
        }
    }

    /// Reaps until this child is gone, or all are, petting the timer meanwhile. `false`: they are not in time, or the
    /// operator is in a hurry.
    fn await_children(&mut self, wanted: Option<i32>, until_ms: u64) -> bool {
        loop {
            while let Ok(Some((pid, _))) = reap(None) {
                if wanted == Some(pid) {
                    return true;
                }
            }
            let now = now_ms();
            if !has_children() || now >= until_ms {
                return !has_children();
            }
            self.hardware.on_time(now);
            await_signal(&self.signals, until_ms.min(self.hardware.deadline_ms().unwrap_or(until_ms)));
            let mut hurry = false;
            while let Some((signal, _)) = self.signals.next() {
                self.init.note(signal);
                hurry |= matches!(signal, libc::SIGTERM | libc::SIGINT);
            }
            if hurry && wanted.is_none() {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_on_a_machine_a_signal_says_what_the_end_is() {
        let after = |role, signal| {
            let mut init = Init { role, at_end: AsInit::Exit };
            init.note(signal);
            init.at_end
        };
        assert_eq!(after(Role::Machine, libc::SIGINT), AsInit::Reboot);
        assert_eq!(after(Role::Machine, libc::SIGPWR), AsInit::PowerOff);
        assert_eq!(after(Role::Machine, libc::SIGTERM), AsInit::Exit);
        assert_eq!(after(Role::Container, libc::SIGINT), AsInit::Exit);
    }

    #[test]
    fn the_word_on_the_command_line_comes_back() {
        for at_end in [AsInit::Exit, AsInit::PowerOff, AsInit::Reboot] {
            assert_eq!(from_word(OsStr::new(word(at_end))), at_end);
        }
    }

    #[test]
    fn this_process_is_not_the_first() {
        let mut init = Init::take(AsInit::Reboot);
        assert_eq!((init.role, init.signals().contains(&libc::SIGPWR)), (Role::Process, false));
        init.note(libc::SIGINT);
        // Neither waits nor reboots anything.
        hold(init);
        init.end();
        assert_eq!(missing(), None);
    }
}
