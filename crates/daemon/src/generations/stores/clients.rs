//! What clients want of stores: lists, verifications, and releases that are brought in.

use super::jobs::{Ask, Job, QUESTIONS_MAX};
use super::{Source, Stores};
use crate::api::stores::{GenerationStores, ProblemKind, StoreProblem};
use crate::generations::{Arrival, Importer, Kept, Limits, StoreError};
use hale_core::ids::{GenerationId, Name};
use hale_core::policy::StoreKind;
use hale_core::safeswitch::Part;
use std::io::Read;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// How long a client waits for a store that has to read all of a generation: gigabytes, from a slow disk.
const VERIFIED_WITHIN: Duration = Duration::from_secs(600);

/// How long a client waits for a store that has something else to do first: a switch with its syncs.
const LISTED_WITHIN: Duration = Duration::from_secs(60);

/// The right to import for one service, until it is dropped.
pub struct Import {
    stores: Stores,
    service: Name,
    importer: Importer,
}

impl Import {
    /// What takes the release in.
    #[must_use]
    pub fn importer(&self) -> &Importer {
        &self.importer
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        let key = (self.service.clone(), Part::Store);
        if let Some(entry) = self.stores.table().stores.get_mut(&key) {
            entry.imports = false;
        }
    }
}

/// Why nothing can be asked of a service's store now.
#[derive(Debug, thiserror::Error)]
pub enum NoStore {
    /// It has none.
    #[error("{0} has no generations: [service.{0}.generations] is not configured")]
    NotConfigured(Name),
    /// It has one, and nothing can be brought there this way.
    #[error("the store of {0} takes no releases in: deploy a generation that is in it by its name")]
    TakesNothing(Name),
    /// Another import of this service is going on.
    #[error("another release is being brought in for {0}")]
    Busy(Name),
    /// It has not come to earlier questions yet.
    #[error(
        "{QUESTIONS_MAX} questions wait for the store of {0} already, which is slow to answer or hangs; try again in a moment"
    )]
    Full(Name),
    /// It was not opened yet, or could not be.
    #[error("the store of {0} is not open: {1}")]
    NotOpen(Name, String),
}

impl Stores {
    /// All generations that are there, newest first.
    ///
    /// # Errors
    /// There is no store, or it cannot be read; the receiver ends without an answer where it was closed meanwhile.
    pub fn list(&self, service: &Name) -> Result<Receiver<Result<Vec<Kept>, StoreError>>, NoStore> {
        let (sender, receiver) = channel();
        self.ask(service, Part::Store, Ask::List(sender))?;
        Ok(receiver)
    }

    /// Reads all of one.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub fn verify(
        &self,
        service: &Name,
        part: Part,
        id: &GenerationId,
    ) -> Result<Receiver<Result<(), StoreError>>, NoStore> {
        let (sender, receiver) = channel();
        self.ask(service, part, Ask::Verify(id.clone(), sender))?;
        Ok(receiver)
    }

    /// Begins to bring a release in, beside whatever else is done with the store.
    ///
    /// # Errors
    /// There is no such store, or another import goes on.
    pub fn import(&self, service: &Name) -> Result<Import, NoStore> {
        self.known(service, Part::Store)?;
        let mut table = self.table();
        let Some(entry) = table.stores.get_mut(&(service.clone(), Part::Store)) else {
            return Err(NoStore::NotConfigured(service.clone()));
        };
        if entry.setting.source != Source::Store(StoreKind::Release) {
            return Err(NoStore::TakesNothing(service.clone()));
        }
        if entry.imports {
            return Err(NoStore::Busy(service.clone()));
        }
        let Some(importer) = entry.importer.clone() else {
            let why = String::from("it could not be opened, or the disk does not answer; try again in a moment");
            return Err(NoStore::NotOpen(service.clone(), why));
        };
        entry.imports = true;
        Ok(Import { stores: self.clone(), service: service.clone(), importer })
    }

    fn ask(&self, service: &Name, part: Part, question: Ask) -> Result<(), NoStore> {
        self.known(service, part)?;
        let is_taken_in = self.push(service, part, Job::Ask(question));
        if is_taken_in { Ok(()) } else { Err(NoStore::Full(service.clone())) }
    }

    fn known(&self, service: &Name, part: Part) -> Result<(), NoStore> {
        let is_known = self.table().stores.contains_key(&(service.clone(), part));
        if is_known { Ok(()) } else { Err(NoStore::NotConfigured(service.clone())) }
    }
}

impl GenerationStores for Stores {
    fn import(&self, service: &Name, from: &mut dyn Read) -> Result<Arrival, StoreProblem> {
        let import = self.import(service)?;
        Ok(import.importer().import(from, &Limits::default())?)
    }

    fn list(&self, service: &Name) -> Result<Vec<Kept>, StoreProblem> {
        answer(service, &self.list(service)?, LISTED_WITHIN)
    }

    fn verify(&self, service: &Name, part: Part, generation: &GenerationId) -> Result<(), StoreProblem> {
        // Gigabytes may have to be read, and a way back does not wait for that.
        let key = (service.clone(), part);
        let reader = self.table().stores.get(&key).and_then(|entry| entry.reader.clone());
        if let Some(reader) = reader {
            return Ok(reader.verify(generation, &mut |_| true)?);
        }
        answer(service, &self.verify(service, part, generation)?, VERIFIED_WITHIN)
    }
}

fn answer<T>(service: &Name, coming: &Receiver<Result<T, StoreError>>, within: Duration) -> Result<T, StoreProblem> {
    let problem = |kind, text| StoreProblem { kind, text };
    match coming.recv_timeout(within) {
        Ok(answer) => Ok(answer?),
        Err(RecvTimeoutError::Timeout) => {
            let text = format!("the store of {service} has not answered within {} s", within.as_secs());
            Err(problem(ProblemKind::Busy, text))
        }
        Err(RecvTimeoutError::Disconnected) => {
            Err(problem(ProblemKind::Failed, format!("the store of {service} cannot be opened; see Hale's own output")))
        }
    }
}

impl From<NoStore> for StoreProblem {
    fn from(none: NoStore) -> Self {
        let kind = match &none {
            NoStore::NotConfigured(_) | NoStore::TakesNothing(_) => ProblemKind::NoStore,
            NoStore::Busy(_) | NoStore::Full(_) => ProblemKind::Busy,
            NoStore::NotOpen(..) => ProblemKind::Failed,
        };
        Self { kind, text: none.to_string() }
    }
}
