//! Simulated stores: what each service's store is switched to, what state its files are in, and the one piece of work that each is at.
//!
//! As in the real host each store has a queue of work of its own, and what is switched to survives everything: a store syncs.

use crate::generations::Generations;
use hale_core::event::{Seen, SwitchError};
use hale_core::ids::{GenerationId, Name, RecordId};
use hale_core::safeswitch::{Data, Part, Parts};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

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
        /// What may be there.
        over: Vec<GenerationId>,
        /// Whether it is new, and its `before_switch` has not run.
        prepares: bool,
        /// The oldest format of data that it may be of.
        data_at_least: u32,
    },
    /// To undo what a generation did to the data.
    Undo {
        /// Which switch.
        switch: RecordId,
        /// Which generation.
        of: GenerationId,
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
    /// What it should switch to is damaged, so that nothing is done.
    Unusable,
    /// A program that the generation brings fails.
    HookFails,
    /// It is not done, and the store cannot tell what it is switched to either.
    Blind,
    /// Some of the files are put back, and the others are not.
    Half,
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
    /// What its generations say of the service's data.
    pub says: BTreeMap<GenerationId, Data>,
    /// The format of data that there is: who reads only older ones does harm.
    pub data: u32,
    /// What it was before each that has run its `before_switch`.
    pub saved: BTreeMap<GenerationId, u32>,
    /// Those that an operator insists on, or that somebody else has switched to: who does that sees to the data.
    pub insisted: BTreeSet<GenerationId>,
    /// It is one of files, which are put back over the state that was seen last and over no other.
    pub is_files: bool,
    /// What it was switched to when somebody looked last.
    pub seen: Option<GenerationId>,
}

/// All stores.
#[derive(Debug, Default)]
pub struct Stores(BTreeMap<Name, Parts<Option<Store>>>);

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
    /// It was not switched to: this is what it says of the data.
    pub prepared: Option<Data>,
}

impl Stores {
    /// Stores that are switched to these.
    #[must_use]
    pub fn new(generations: &Generations) -> Self {
        let mut stores = BTreeMap::new();
        for (name, current) in &generations.first {
            let of = |((service, id), data): (&(Name, GenerationId), &Data)| {
                (service == name).then(|| (id.clone(), data.clone()))
            };
            let says = generations.data.iter().filter_map(of).collect();
            let store = Store { current: current.clone(), says, ..Store::default() };
            let current = generations.files.get(name).cloned();
            let files = current.is_some().then(|| Store { current, is_files: true, ..Store::default() });
            stores.insert(name.clone(), Parts { store: Some(store), files });
        }
        Self(stores)
    }

    /// One of them.
    pub fn get(&mut self, service: &Name, part: Part) -> Option<&mut Store> {
        self.0.get_mut(service)?[part].as_mut()
    }

    /// What a part of a service is switched to.
    #[must_use]
    pub fn current(&self, service: &Name, part: Part) -> Option<&GenerationId> {
        self.0.get(service)?[part].as_ref()?.current.as_ref()
    }

    /// Whether a service has a store.
    #[must_use]
    pub fn has(&self, service: &Name) -> bool {
        self.0.contains_key(service)
    }

    /// All of Hale's work ends, and with it whatever was known. Gives those that have switched just before.
    pub fn abandon(&mut self, mut finishes: impl FnMut() -> bool) -> Vec<(Name, Part)> {
        let mut finished = Vec::new();
        for (name, stores) in &mut self.0 {
            for (part, store) in Part::ALL.into_iter().zip(stores.each_mut()) {
                if store.as_mut().is_some_and(|store| store.abandon(&mut finishes)) {
                    finished.push((name.clone(), part));
                }
            }
        }
        finished
    }
}

impl Store {
    /// What a generation says of the data.
    #[must_use]
    pub fn says(&self, id: Option<&GenerationId>) -> Data {
        id.and_then(|id| self.says.get(id)).cloned().unwrap_or_default()
    }

    /// A process of this generation is made. Gives the format that it reads, and the one that there is.
    pub fn runs(&mut self, id: Option<&GenerationId>) -> (u32, u32) {
        let says = self.says(id);
        if id.is_some_and(|id| self.insisted.contains(id)) {
            self.data = self.data.min(says.format);
        }
        let data = self.data;
        self.data = data.max(says.min_rollback);
        (says.format, data)
    }

    /// What it is switched to.
    pub fn look(&mut self) -> Seen {
        self.seen.clone_from(&self.current);
        Seen::Current(self.current.clone())
    }

    /// What it is at ends, perhaps by being done. Gives whether it has switched by that.
    fn abandon(&mut self, finishes: &mut impl FnMut() -> bool) -> bool {
        let mut changed = false;
        // What is behind something that hangs may be done as well as not.
        while !self.queue.is_empty() && finishes() {
            changed |= self.finish().is_some_and(|said| said.changed);
        }
        self.turn += 1;
        self.queue.clear();
        self.told = false;
        self.outdated = 0;
        self.newest = RecordId(0);
        self.seen = None;
        changed
    }

    /// Whether it is switched to what the switch does not know of: somebody else's, and no half of its own.
    fn is_theirs(&self, over: &[GenerationId]) -> bool {
        self.current.as_ref().is_some_and(|it| !over.contains(it) && *it != crate::generations::half())
    }

    /// Does what it is at.
    pub fn finish(&mut self) -> Option<Said> {
        let (work, comes) = self.queue.pop_front()?;
        let before = self.current.clone();
        let is_done = matches!(comes, Comes::Done | Comes::FailsAfter);
        let words = || String::from("Input/output error");
        let mut prepared = None;
        let mut error = match comes {
            Comes::Done => None,
            Comes::NoWayBack => Some(SwitchError::NoWayBack { error: words() }),
            Comes::Unusable => Some(SwitchError::Unusable { error: words() }),
            Comes::HookFails => Some(SwitchError::Hook { error: words() }),
            Comes::Fails | Comes::FailsAfter | Comes::Blind | Comes::Half => {
                Some(SwitchError::Failed { error: words() })
            }
        };
        match &work {
            // Somebody was faster, and that is told instead.
            Work::Switch { over, .. } if self.is_files && self.is_theirs(over) => {}
            Work::Switch { .. } if comes == Comes::Half => self.current = Some(crate::generations::half()),
            Work::Switch { to, over, prepares, data_at_least, .. } if is_done => {
                let data = self.says(Some(to));
                let at_least = *data_at_least;
                if data.format < at_least {
                    error = Some(SwitchError::DataMovedOn { format: data.format, at_least });
                } else if *prepares && !data.is_silent() {
                    self.saved.insert(to.clone(), self.data);
                    prepared = error.is_none().then_some(data);
                } else if self.is_theirs(over) {
                    // Somebody else was faster.
                    error = None;
                } else {
                    self.current = Some(to.clone());
                }
            }
            Work::Undo { of, .. } if is_done => {
                self.data = self.saved.get(of).copied().unwrap_or(self.data);
            }
            Work::Switch { .. } | Work::Undo { .. } | Work::Look | Work::Promote { .. } => {}
        }
        let blind = comes == Comes::Blind;
        let seen = if blind { Seen::Unknown { error: words() } } else { self.look() };
        Some(Said { work, error, seen, changed: self.current != before, prepared })
    }
}
