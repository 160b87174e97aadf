//! The exit statuses of `hale`: scripts rely on them, so none is ever given another meaning.

use std::process::ExitCode;

/// What `hale` ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// What was asked for is done.
    Done = 0,
    /// It was tried and failed.
    Failed = 1,
    /// The command line is not understood.
    Usage = 2,
    /// No supervisor is running, and the command needs one.
    NoSupervisor = 3,
    /// The change did not work, and what was there before works again.
    RolledBack = 4,
    /// The ledger is altered or truncated.
    LedgerAltered = 5,
    /// The policy refuses it; the reason is printed.
    Refused = 6,
    /// Another such order is being carried out, or the supervisor is too busy to answer now.
    Busy = 7,
    /// Somebody interrupted the command while it waited; what it had ordered goes on (128 and the number of SIGINT, as shells have it).
    Interrupted = 130,
    /// The configuration is missing or wrong (`EX_CONFIG` of sysexits.h).
    Configuration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
