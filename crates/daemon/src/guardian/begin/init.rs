//! Being process 1, of a container or of a machine: what its signals ask for, and what its end is.

use crate::guardian::run::Guardian;
use crate::guardian::wait::{now_ms, ready};
use crate::sys::signals::SignalFd;
use crate::sys::wait::reap;
use hale_core::policy::AsInit;
use rustix::event::PollFlags;
use rustix::process::getpid;
use rustix::system::{RebootCommand, reboot};
use std::ffi::OsStr;
use std::os::unix::fs::FileTypeExt;

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
    pub(in crate::guardian) role: Role,
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
    pub(in crate::guardian) fn signals(self) -> &'static [i32] {
        if self.role == Role::Process { &SIGNALS[..SIGNALS.len() - 1] } else { &SIGNALS }
    }

    /// What a signal says of the end of a machine: SIGINT is ctrl-alt-del, and SIGPWR that the power fails.
    pub(in crate::guardian) fn note(&mut self, signal: i32) {
        match (self.role, signal) {
            (Role::Machine, libc::SIGINT) => self.at_end = AsInit::Reboot,
            (Role::Machine, libc::SIGPWR) => self.at_end = AsInit::PowerOff,
            _ => {}
        }
    }

    /// The kernel's part of an ordered end; comes back when there is none, or the kernel refuses it.
    pub(in crate::guardian) fn end(self) {
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
pub(in crate::guardian) fn word(at_end: AsInit) -> &'static str {
    match at_end {
        AsInit::Exit => "exit",
        AsInit::PowerOff => "power_off",
        AsInit::Reboot => "reboot",
    }
}

/// What that word means; nothing else is ever written there.
pub(in crate::guardian) fn from_word(text: &OsStr) -> AsInit {
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
        ready(&signals, PollFlags::IN, until_ms.saturating_sub(now_ms()));
        while let Some((signal, _)) = signals.next() {
            init.note(signal);
            if matches!(signal, libc::SIGTERM | libc::SIGINT | libc::SIGPWR) {
                rustix::fs::sync();
                init.end();
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
