//! Simulated stores: what each service's store is switched to, and the one piece of work that it is at.
//!
//! As in the real host each store has a queue of work of its own, and what is switched to survives everything: a store syncs.

use hale_core::event::{Seen, SwitchError};
use hale_core::ids::{GenerationId, Name, RecordId};
use std::collections::{BTreeMap, VecDeque};

/// One piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// To look.
    Look,
    /// To switch.
    Switch {
        /// Which switch.
        switch: RecordId,
        /// To what.
        to: GenerationId,
        /// Whether a way back must be whole.
        has_back: bool,
    },
    /// To finish.
    Promote {
        /// Which switch.
        switch: RecordId,
    },
}

/// What becomes of a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comes {
    /// It is done.
    Done,
    /// It is not done, and the store says so.
    Fails,
    /// It is done, and the store says that it is not.
    FailsAfter,
    /// There is no way back, so that nothing is done.
    NoWayBack,
    /// It is not done, and the store cannot tell what it is switched to either.
    Blind,
}

/// One store.
#[derive(Debug, Default)]
pub struct Store {
    /// What it is switched to.
    pub current: Option<GenerationId>,
    /// What is to be done, the first of it now.
    pub queue: VecDeque<(Work, Comes)>,
    /// Whether Hale was told of the last change.
    pub told: bool,
    /// How much of what was said of it before its last change Hale has not heard yet.
    pub outdated: usize,
    /// Counts its pieces of work, also those that were abandoned.
    pub turn: u64,
    /// The newest switch that it was ordered.
    pub newest: RecordId,
}

/// All stores.
#[derive(Debug, Default)]
pub struct Stores(BTreeMap<Name, Store>);

/// What a store says of a piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// What it was.
    pub work: Work,
    /// What went wrong.
    pub error: Option<SwitchError>,
    /// What it is switched to.
    pub seen: Seen,
    /// It is switched to another one than before.
    pub changed: bool,
}

impl Stores {
    /// Stores that are switched to these.
    #[must_use]
    pub fn new(first: &BTreeMap<Name, Option<GenerationId>>) -> Self {
        let store = |current: &Option<GenerationId>| Store { current: current.clone(), ..Store::default() };
        Self(first.iter().map(|(name, current)| (name.clone(), store(current))).collect())
    }

    /// One of them.
    pub fn get(&mut self, service: &Name) -> Option<&mut Store> {
        self.0.get_mut(service)
    }

    /// What a service's store is switched to.
    #[must_use]
    pub fn current(&self, service: &Name) -> Option<&GenerationId> {
        self.0.get(service)?.current.as_ref()
    }

    /// Whether a service has a store.
    #[must_use]
    pub fn has(&self, service: &Name) -> bool {
        self.0.contains_key(service)
    }

    /// All of Hale's work ends, and with it whatever was known. Gives those that have switched just before.
    pub fn abandon(&mut self, mut finishes: impl FnMut() -> bool) -> Vec<Name> {
        let mut finished = Vec::new();
        for (name, store) in &mut self.0 {
            // What is behind something that hangs may be done as well as not.
            while !store.queue.is_empty() && finishes() {
                if store.finish().is_some_and(|said| said.changed) {
                    finished.push(name.clone());
                }
            }
            store.turn += 1;
            store.queue.clear();
            store.told = false;
            store.outdated = 0;
            store.newest = RecordId(0);
        }
        finished
    }
}

impl Store {
    /// Does what it is at.
    pub fn finish(&mut self) -> Option<Said> {
        let (work, comes) = self.queue.pop_front()?;
        let before = self.current.clone();
        if let (Work::Switch { to, .. }, Comes::Done | Comes::FailsAfter) = (&work, comes) {
            self.current = Some(to.clone());
        }
        let words = || String::from("Input/output error");
        let error = match comes {
            Comes::Done => None,
            Comes::NoWayBack => Some(SwitchError::NoWayBack { error: words() }),
            Comes::Fails | Comes::FailsAfter | Comes::Blind => Some(SwitchError::Failed { error: words() }),
        };
        let blind = comes == Comes::Blind;
        let seen = if blind { Seen::Unknown { error: words() } } else { Seen::Current(self.current.clone()) };
        Some(Said { work, error, seen, changed: self.current != before })
    }
}
