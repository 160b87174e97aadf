//! What a failure that counts consists in, as it was found.

use crate::analyze::trend::Outlook;
use crate::event::{ExitStatus, ProbeFailure, SpawnFailure};
use crate::ids::{Epoch, Name};
use crate::incident::in_a_row;
use crate::memory::{MemoryReport, OomKills};
use crate::policy::Ready;
use crate::time::Span;
use alloc::string::String;
use core::fmt;
use serde::{Deserialize, Serialize};

/// The evidence of a detection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Finding {
    /// The main process ended and should not have.
    Exit {
        /// Its number.
        epoch: Epoch,
        /// How.
        status: ExitStatus,
        /// What the kernel says of the tree's memory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        memory: Option<MemoryReport>,
    },
    /// The kernel's OOM killer took the main process.
    Oom {
        /// Its number.
        epoch: Epoch,
        /// How many processes it took, and why.
        kills: OomKills,
        /// What the kernel says of the tree's memory.
        memory: MemoryReport,
    },
    /// A check reached its `failures`.
    Check {
        /// Which.
        check: Name,
        /// In a row.
        failures: u32,
        /// The last one.
        failure: ProbeFailure,
        /// In words.
        detail: String,
        /// How its figure grew until then, where it surely did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outlook: Option<Outlook>,
    },
    /// No heartbeat for longer than promised.
    NoHeartbeat {
        /// Which check.
        check: Name,
        /// The promise.
        within: Span,
        /// The service itself asked to be treated as failed (`WATCHDOG=trigger`).
        triggered: bool,
    },
    /// It did not become ready in time.
    StartTimeout {
        /// `start.within`, extensions counted.
        within: Span,
        /// What was awaited.
        ready: Ready,
        /// The last probe's words, if any.
        detail: String,
    },
    /// The process could not be made.
    Spawn {
        /// What went wrong.
        failure: SpawnFailure,
    },
    /// It survived SIGKILL.
    Unkillable {
        /// How long ago it was killed.
        after: Span,
    },
}

impl Finding {
    /// Whether something in the program ended it: a status that is no success, or a signal that programs send themselves.
    #[must_use]
    pub fn is_own_end(&self) -> bool {
        match self {
            Self::Exit { status: ExitStatus::Code(code), .. } => *code != 0,
            Self::Exit { status: ExitStatus::Signal { signal, .. }, .. } => !signal.is_from_outside(),
            Self::Exit { status: ExitStatus::Unknown, .. }
            | Self::Oom { .. }
            | Self::Check { .. }
            | Self::NoHeartbeat { .. }
            | Self::StartTimeout { .. }
            | Self::Spawn { .. }
            | Self::Unkillable { .. } => false,
        }
    }

    /// What the kernel said of the tree's memory, where it was asked.
    #[must_use]
    pub fn memory(&self) -> Option<MemoryReport> {
        match self {
            Self::Exit { memory, .. } => *memory,
            Self::Oom { memory, .. } => Some(*memory),
            Self::Check { .. }
            | Self::NoHeartbeat { .. }
            | Self::StartTimeout { .. }
            | Self::Spawn { .. }
            | Self::Unkillable { .. } => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit { status, .. } => write!(f, "the process {status}"),
            Self::Oom { kills, memory, .. } => write!(f, "killed by the kernel for memory: {}", kills.why(memory)),
            Self::Check { check, failures, detail, outlook, failure: _ } => {
                write!(f, "check {check} failed {}: {detail}", in_a_row(*failures))?;
                outlook.map_or(Ok(()), |outlook| write!(f, "; {outlook}"))
            }
            Self::NoHeartbeat { check, triggered: true, .. } => {
                write!(f, "the service reported its own failure (WATCHDOG=trigger, check {check})")
            }
            Self::NoHeartbeat { check, within, triggered: false } => {
                write!(f, "no heartbeat for {within} (check {check})")
            }
            Self::StartTimeout { within, ready, detail } => {
                let awaited = match ready {
                    Ready::Running => "its program to be executed",
                    Ready::Notify => "READY=1",
                    Ready::Check => "its checks to pass",
                };
                write!(f, "not ready within {within}, still waiting for {awaited}")?;
                if detail.is_empty() { Ok(()) } else { write!(f, ": {detail}") }
            }
            Self::Spawn { failure } => write!(f, "the process could not be started: {failure}"),
            Self::Unkillable { after } => write!(f, "it is still there {after} after SIGKILL"),
        }
    }
}
