//! The hardware timer above the guardian, and what is known of boots: as the core is told and tells it.

use crate::ids::RecordId;
use crate::time::{Now, Span};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// `WDIOF_CARDRESET` of a boot status (linux/watchdog.h): the timer reset the machine.
pub const CARD_RESET: u32 = 0x20;

/// What the guardian says of the timer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Timer {
    /// It runs, and is petted.
    Armed(ArmedTimer),
    /// It cannot be used now, and is waited for.
    Waiting {
        /// Why, as a clause.
        why: String,
    },
    /// It cannot be used.
    Refused {
        /// Why, as a clause.
        why: String,
    },
}

/// A timer that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArmedTimer {
    /// The driver's name for it, escaped.
    pub identity: String,
    /// Its time, as read back from it.
    pub timeout: Span,
    /// How long before the reset it warns the kernel; zero: never.
    pub pretimeout: Span,
    /// `WDIOC_GETSTATUS`.
    pub status: u32,
    /// `WDIOC_GETBOOTSTATUS`.
    pub boot_status: u32,
    /// Whether it goes on when the guardian dies; otherwise it watches over a machine that hangs only.
    pub outlives_guardian: bool,
    /// Whether not even an orderly end of Hale stops it.
    pub nowayout: bool,
}

impl fmt::Display for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Armed(timer) => {
                let (identity, timeout) = (&timer.identity, timer.timeout);
                write!(f, "the hardware timer ({identity}) resets the machine after {timeout} without the guardian")?;
                if !timer.outlives_guardian {
                    f.write_str("; its driver stops it when the guardian dies, so that it helps against hangs only")?;
                }
                if timer.nowayout {
                    f.write_str("; the kernel does not stop it when Hale ends (nowayout)")?;
                }
                Ok(())
            }
            Self::Waiting { why } => write!(f, "the hardware timer is waited for: {why}"),
            Self::Refused { why } => write!(f, "the hardware timer is not used: {why}"),
        }
    }
}

/// What the past says, read from the ledger and the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Past {
    /// The kernel's own word on this boot (sysfs), where it has one.
    pub boot_status: Option<u32>,
    /// Resets on record, at least those of the last day, oldest first; `None`: the ledger could not be read.
    pub resets: Option<Vec<PastReset>>,
    /// The boot before this one, where the ledger has one.
    pub previous: Option<PreviousBoot>,
}

/// A reset on record: a boot that the timer caused, or an order of Hale's that no such boot followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastReset {
    /// Its record.
    pub record: RecordId,
    /// When that was written.
    pub at: Now,
    /// In which boot that was written.
    pub boot_id: String,
    /// Whether it is the order.
    pub ordered: bool,
}

/// The boot before this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousBoot {
    /// Its boot id.
    pub boot_id: String,
    /// Its last records, oldest first: at most [`LAST_RECORDS`].
    pub last: Vec<RecordId>,
    /// When the last of them was written.
    pub last_at: Now,
}

/// How many records of the boot before are joined to a reset: what a screen shows, and `hale ledger show` has the rest.
pub const LAST_RECORDS: usize = 16;
