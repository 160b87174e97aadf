//! What oracles are told of the fake kernel, the stores and the ledger: what is so, whatever Hale believes.

use hale_core::analyze::trace::Fingerprint;
use hale_core::ids::{Epoch, GenerationId, Name, RecordId};
use hale_core::incident::Blame;
use hale_core::safeswitch::Part;

/// What happened in the kernel, for the oracles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A process was made, beside so many trees of the same service that still had a process.
    Forked {
        /// Whose.
        service: Name,
        /// Which of its processes.
        epoch: Epoch,
        /// How many trees of the same service lived.
        beside: usize,
    },
    /// The supervisor is gone, and with it whatever it was doing.
    SupervisorDied,
    /// The guardian is gone, too; another one takes over what the init system kept.
    GuardianDied,
    /// The kernel took the main process for memory.
    OomKilledMain {
        /// Whose.
        service: Name,
        /// Which of its processes.
        epoch: Epoch,
    },
    /// A process was made with what earlier ones left.
    Passed {
        /// Whose.
        service: Name,
        /// Which of its processes.
        epoch: Epoch,
        /// How many descriptors are kept for its service that it does not get.
        forgotten: usize,
        /// How many it was to get that are not there.
        missing: usize,
    },
    /// An order was impossible.
    Impossible(String),
    /// A store is switched to another generation.
    Switched {
        /// Whose.
        service: Name,
        /// Of which part.
        part: Part,
        /// To what.
        current: Option<GenerationId>,
        /// By an order of Hale.
        by_hale: bool,
    },
    /// A process is ordered of this generation.
    SpawnsOf {
        /// Whose.
        service: Name,
        /// Of which part.
        part: Part,
        /// It.
        generation: Option<GenerationId>,
        /// What the store is switched to.
        current: Option<GenerationId>,
        /// Whether Hale was told so.
        told: bool,
    },
    /// A process is ordered that reads data up to this format.
    Reads {
        /// Whose.
        service: Name,
        /// What it reads.
        format: u32,
        /// What there is.
        data: u32,
    },
    /// What a generation did to the data is undone.
    Undoes {
        /// Whose.
        service: Name,
        /// How many trees of the service live.
        beside: usize,
    },
    /// Records up to this one are synced.
    Synced(RecordId),
    /// A process was looked at whose memory grows.
    Leaks {
        /// Whose.
        service: Name,
        /// Which of its processes.
        epoch: Epoch,
    },
    /// A failure was blamed on somebody whose fault it is not.
    Misjudged {
        /// Whose failure.
        service: Name,
        /// Who was blamed.
        blamed: Blame,
        /// Whose fault it is: any of these.
        truth: Vec<Blame>,
    },
    /// The last exception in the output of a process that failed is this one; none: there is none.
    Raised {
        /// Whose.
        service: Name,
        /// Which of its processes.
        epoch: Epoch,
        /// It.
        exception: Option<Fingerprint>,
    },
    /// A probe runs until then.
    Probing {
        /// Whose.
        service: Name,
        /// Of which process.
        epoch: Epoch,
        /// Which check.
        check: Name,
        /// When the prober is done with it, result or not.
        until_us: u64,
    },
}
