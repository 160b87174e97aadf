//! The guardian's answers, and what else it tells the supervisor.

use crate::protocol::text::Text;
use crate::protocol::timer::TimerReport;
use crate::protocol::wire::{Put, Reader, Take, wire};
use crate::protocol::{Slot, StoreKey};
use crate::sys::child::Step;
use crate::sys::wait::Exit;
use hale_core::ids::Epoch;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

/// The longest answer, in bytes: that of a lost supervisor, with what the kernel said of it.
pub const MAX_ANSWER_BYTES: usize = 256;

/// How much of what the kernel says of a supervisor that hangs is kept, in bytes: state, place in the kernel, system call.
pub const MAX_EVIDENCE_BYTES: usize = 200;

/// Why a process could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpawnFailure {
    /// What was being done. For [`Step::Exec`] the path concerned is the order's `program`, for
    /// [`Step::Directory`] its `directory`.
    pub step: Step,
    /// The error number (errno(3)).
    pub errno: i32,
}

impl fmt::Display for SpawnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step.name(), std::io::Error::from_raw_os_error(self.errno))
    }
}

wire!(struct SpawnFailure { step, errno });

impl Put for Step {
    fn put(&self, out: &mut impl Write) -> io::Result<()> {
        self.number().put(out)
    }
}

impl Take<'_> for Step {
    fn take(reader: &mut Reader<'_>) -> Option<Self> {
        Self::from_number(Take::take(reader)?)
    }
}

wire!(enum Exit { 0 => Code(code), 1 => Signal { signal, core_dumped }, 2 => Unknown });

/// What the kernel says of a process that hangs, in one line.
pub type Evidence = Text<MAX_EVIDENCE_BYTES>;

/// A signal that the operator, or the init system, sent to Hale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostSignal {
    /// SIGTERM: stop everything in order.
    Terminate,
    /// SIGINT, as Ctrl-C sends it: the same.
    Interrupt,
    /// SIGHUP: reload.
    Hangup,
}

wire!(enum HostSignal { 0 => Terminate, 1 => Interrupt, 2 => Hangup });

/// What the guardian tells the supervisor.
#[derive(Debug)]
pub enum GuardianEvent {
    /// The process exists; it has not executed its program yet. The pidfd becomes readable when it ends.
    Spawned {
        /// Whose.
        slot: Slot,
        /// Which.
        epoch: Epoch,
        /// Its process id.
        pid: i32,
        /// It, for as long as it is held (pidfd_open(2)); `None` when the supervisor could have no more descriptors.
        pidfd: Option<OwnedFd>,
    },
    /// Its program is running. (A process that is killed before it could execute is reported so, too: the kernel
    /// shows no difference; [`GuardianEvent::Exited`] follows.)
    Executed {
        /// Whose.
        slot: Slot,
        /// Which.
        epoch: Epoch,
    },
    /// It could not be started, and nothing of it is left. Once, until [acknowledged](crate::supervisor::client::GuardianClient::ack).
    SpawnFailed {
        /// Whose.
        slot: Slot,
        /// Which.
        epoch: Epoch,
        /// Where and why.
        failure: SpawnFailure,
    },
    /// It ended and was reaped. Once, until [acknowledged](crate::supervisor::client::GuardianClient::ack).
    Exited {
        /// Whose.
        slot: Slot,
        /// Which.
        epoch: Epoch,
        /// How.
        exit: Exit,
    },
    /// A supervisor was lost before this one: first of all that is told, then the store, then all slots, then the first
    /// [`Challenged`](Self::Challenged).
    Lost {
        /// How it ended.
        exit: Exit,
        /// What the kernel said of it, if it was killed because it made no progress.
        evidence: Option<Evidence>,
    },
    /// The guardian before this one was lost, and its supervisor with it: told like [`Lost`](Self::Lost). Slots that are not
    /// told are unknown, not unused.
    GuardianLost,
    /// A descriptor that an earlier supervisor has put into the store.
    Stored {
        /// What it is.
        key: StoreKey,
        /// It; `None` when this process can have no more descriptors.
        fd: Option<OwnedFd>,
    },
    /// The newest process of this slot is over, and that was acknowledged to an earlier supervisor.
    Over {
        /// Whose.
        slot: Slot,
        /// Which.
        epoch: Epoch,
    },
    /// Prove that the loop turns: [`prove`](crate::supervisor::client::GuardianClient::prove) by what the loop itself orders.
    Challenged {
        /// To be sent back.
        nonce: u64,
    },
    /// Somebody sent a signal to Hale.
    Signalled(HostSignal),
    /// The keeper died and a new one was started: call [`KeeperClient::resend`](crate::keeper::client::KeeperClient::resend).
    KeeperReplaced,
    /// The hardware timer, once for each supervisor and at each change; never where none is configured.
    Hardware(TimerReport),
    /// The guardian is gone: end all trees and exit.
    Gone,
}

wire!(enum GuardianEvent {
    // Is heard, not said.
    0 => Gone,
    1 => Spawned { slot, epoch, pid, pidfd },
    2 => Executed { slot, epoch },
    3 => SpawnFailed { slot, epoch, failure },
    4 => Exited { slot, epoch, exit },
    5 => Signalled(signal),
    6 => KeeperReplaced,
    7 => Lost { exit, evidence },
    8 => Stored { key, fd },
    9 => Over { slot, epoch },
    10 => Challenged { nonce },
    11 => GuardianLost,
    32 => Hardware(report),
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::wire::{read, write};
    use crate::protocol::{MAX_SERVICES, timer};
    use std::fmt::Write;

    fn round(event: &GuardianEvent) -> String {
        let mut space = [0; MAX_ANSWER_BYTES];
        format!("{:?}", read::<GuardianEvent>(write(event, &mut space), None).unwrap())
    }

    #[test]
    fn answers_arrive_as_they_were_sent() {
        let exit = Exit::Signal { signal: 6, core_dumped: true };
        let failure = SpawnFailure { step: Step::Directory, errno: 2 };
        let mut long = Evidence::new();
        let _ = write!(long, "{}", "x".repeat(MAX_EVIDENCE_BYTES + 1));
        let (slot, epoch) = (Slot(9), Epoch(8));
        let mut events = vec![
            GuardianEvent::Exited { slot, epoch, exit },
            GuardianEvent::SpawnFailed { slot, epoch, failure },
            GuardianEvent::Spawned { slot, epoch, pid: 5, pidfd: None },
            GuardianEvent::Lost { exit: Exit::Unknown, evidence: None },
            GuardianEvent::Lost { exit, evidence: Some(long) },
            GuardianEvent::Signalled(HostSignal::Hangup),
        ];
        let keys = [StoreKey::ReadApi, StoreKey::ControlApi, StoreKey::Left(Slot(MAX_SERVICES - 1), 31)];
        events.extend(keys.map(|key| GuardianEvent::Stored { key, fd: None }));
        events.extend(timer::examples().map(GuardianEvent::Hardware));
        for event in events {
            assert_eq!(round(&event), format!("{event:?}"));
        }
    }
}
