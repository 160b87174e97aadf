//! Who orders what, and what is refused.

use crate::ids::{GenerationId, Name};
use crate::policy::PolicyHash;
use crate::reason::Reason;
use crate::time::Span;
use alloc::string::String;
use core::fmt;
use serde::{Deserialize, Serialize};

/// Who gave an order, as the kernel says (SO_PEERCRED, unix(7)), never as the client says. Of SIGHUP, whose sender nobody
/// tells of, it is Hale itself, with the signal in the place of the name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// User id.
    pub uid: u32,
    /// Process id.
    pub pid: i32,
    /// The user's name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(f, "{user} (uid {})", self.uid),
            None => write!(f, "uid {}", self.uid),
        }
    }
}

/// What an operator can order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum OperatorOrder {
    /// Run it, and forget its delays and counters.
    Start {
        /// Which.
        service: Name,
    },
    /// End it, and leave it so until it is started or Hale starts anew.
    Stop {
        /// Which.
        service: Name,
    },
    /// End it and run it again; not a failure.
    Restart {
        /// Which.
        service: Name,
    },
    /// Only watch it for a while.
    Pause {
        /// Which.
        service: Name,
        /// How long.
        lasts: Span,
    },
    /// Heal it again.
    Resume {
        /// Which.
        service: Name,
    },
    /// Switch to another generation, which has to prove itself.
    Deploy {
        /// Of which.
        service: Name,
        /// To what.
        generation: GenerationId,
        /// Also if it is quarantined.
        #[serde(default)]
        force: bool,
    },
    /// Switch back to a generation that is known to be good.
    Rollback {
        /// Of which.
        service: Name,
        /// To which; none: to the newest one older than the current one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<GenerationId>,
    },
    /// Forget that a generation failed.
    ClearQuarantine {
        /// Of which.
        service: Name,
        /// Which.
        generation: GenerationId,
    },
    /// Put another policy in force.
    Reload {
        /// Which.
        policy: PolicyHash,
    },
}

impl OperatorOrder {
    /// The service it is about, if it is about one.
    #[must_use]
    pub fn service(&self) -> Option<&Name> {
        match self {
            Self::Start { service }
            | Self::Stop { service }
            | Self::Restart { service }
            | Self::Pause { service, .. }
            | Self::Resume { service }
            | Self::Deploy { service, .. }
            | Self::Rollback { service, .. }
            | Self::ClearQuarantine { service, .. } => Some(service),
            Self::Reload { .. } => None,
        }
    }
}

/// An order that is refused, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What was refused.
    pub what: String,
    /// Why.
    pub reason: Reason,
}
