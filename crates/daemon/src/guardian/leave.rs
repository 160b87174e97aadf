//! After the loop: the rest of a machine or a container is ended, and this process itself.

use crate::guardian::begin::init::{Role, hold};
use crate::guardian::run::Guardian;
use crate::guardian::wait::{now_ms, ready};
use crate::sys::signals::send_to_all;
use crate::sys::wait::{has_children, reap};
use rustix::event::PollFlags;
use rustix::process::Signal;
use std::process::ExitCode;

/// How long processes that are no service's may take to end after SIGTERM, in milliseconds: each service had its own
/// grace before, and whoever stops a container kills it after ten seconds.
const TERMINATE_MS: u64 = 5_000;

/// How long the kernel may take to end what was killed, in milliseconds.
const KILL_MS: u64 = 2_000;

/// How long the disks may take for what was written, in milliseconds: a fifth of 8 GiB of memory (vm.dirty_ratio) at
/// 30 MB/s. One that hangs must not keep the machine from powering off.
const SYNC_MS: u64 = 60_000;

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
        match self.programs.sync(&mut self.pointers) {
            Ok(child) if !self.await_children(Some(child), now_ms() + SYNC_MS) => {
                Self::say(format_args!(
                    "a disk does not take what was written for {} s: going on without",
                    SYNC_MS / 1_000
                ));
            }
            Ok(_) => {}
            Err(errno) => {
                Self::say(format_args!("nobody can be started to sync the disks: {errno}; going on without"));
            }
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
            let wake_ms = until_ms.min(self.hardware.deadline_ms().unwrap_or(until_ms));
            ready(&self.signal_fd, PollFlags::IN, wake_ms.saturating_sub(now_ms()));
            let mut hurry = false;
            while let Some((signal, _)) = self.signal_fd.next() {
                self.init.note(signal);
                hurry |= matches!(signal, libc::SIGTERM | libc::SIGINT);
            }
            if hurry && wanted.is_none() {
                return false;
            }
        }
    }
}
