//! What the API needs of the places where generations are kept.

use crate::generations::{Arrival, Kept, StoreError};
use hale_core::ids::{GenerationId, Name};
use hale_core::safeswitch::Part;
use std::io::Read;

/// All services' stores. Each of these may block for as long as a disk does, and is called on a thread of its own.
pub trait GenerationStores: Send + Sync + 'static {
    /// Makes a release of the archive that `from` brings. An error of `from` ends it, and nothing is left of it then.
    ///
    /// # Errors
    /// What the store says.
    fn import(&self, service: &Name, from: &mut dyn Read) -> Result<Arrival, StoreProblem>;

    /// All that the service can be switched to, newest first.
    ///
    /// # Errors
    /// What the store says.
    fn list(&self, service: &Name) -> Result<Vec<Kept>, StoreProblem>;

    /// Reads all of one of this part, and compares it with its id.
    ///
    /// # Errors
    /// What the store says.
    fn verify(&self, service: &Name, part: Part, generation: &GenerationId) -> Result<(), StoreProblem>;
}

/// Why a store did not do what a client wants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct StoreProblem {
    /// For programs.
    pub kind: ProblemKind,
    /// In the store's words: what, where, why, and what to do.
    pub text: String,
}

/// Which kind of problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// What the client gave cannot be taken, now or later.
    Refused,
    /// Something else has the store.
    Busy,
    /// It was tried: a disk or a program failed, or what is there is damaged.
    Failed,
    /// What it is about is not there, or not any more.
    Missing,
    /// The service has no store, or one that takes nothing in.
    NoStore,
}

impl From<StoreError> for StoreProblem {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Entry { .. } | StoreError::Archive(_) | StoreError::Notes(_) | StoreError::NotAnId { .. } => {
                ProblemKind::Refused
            }
            StoreError::Busy | StoreError::ProfileBusy(_) | StoreError::Stopped => ProblemKind::Busy,
            StoreError::Missing(_) => ProblemKind::Missing,
            StoreError::NoRoom { .. }
            | StoreError::Full { .. }
            | StoreError::Damaged { .. }
            | StoreError::IsCurrent(_)
            | StoreError::IsPinned(_)
            | StoreError::ForeignCurrent(_)
            | StoreError::NotDurable { .. }
            | StoreError::Unknown { .. }
            | StoreError::NotSwitched { .. }
            | StoreError::NotThere { .. }
            | StoreError::Altered { .. }
            | StoreError::Foreign { .. }
            | StoreError::Program { .. }
            | StoreError::Files(_)
            | StoreError::Io { .. } => ProblemKind::Failed,
        };
        Self { kind, text: error.to_string() }
    }
}

/// No service has a store.
#[derive(Debug, Clone, Copy)]
pub struct NoStores;

impl NoStores {
    fn problem(service: &Name) -> StoreProblem {
        StoreProblem { kind: ProblemKind::NoStore, text: format!("{service} has no store") }
    }
}

impl GenerationStores for NoStores {
    fn import(&self, service: &Name, _: &mut dyn Read) -> Result<Arrival, StoreProblem> {
        Err(Self::problem(service))
    }

    fn list(&self, service: &Name) -> Result<Vec<Kept>, StoreProblem> {
        Err(Self::problem(service))
    }

    fn verify(&self, service: &Name, _: Part, _: &GenerationId) -> Result<(), StoreProblem> {
        Err(Self::problem(service))
    }
}
