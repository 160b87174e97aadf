//! Deaths of the supervisor, alone or with its guardian: when it dies, what of its last step still happens, and what its journal hands on.

use crate::rng::Rng;
use hale_core::policy::{Policy, PolicyHash};
use hale_core::record::Record;
use hale_core::world::{Birth, Snapshot, World};

/// After so many records the journal becomes a snapshot: small, so that both kinds are read back often.
const COMPACT_AFTER_RECORDS: usize = 40;

/// How much of its last step happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    /// Nothing.
    BeforeWriting,
    /// Its records are written, and so many of its effects are performed.
    AfterEffects(u64),
}

/// How Hale comes back after all of it was gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Restart {
    /// On the same boot, without a journal: with what its ledger says.
    SameBoot,
    /// After a loss of power.
    NewBoot,
}

/// The life of the supervisor of one run, and its journal.
#[derive(Debug)]
pub struct Supervisor {
    dice: Rng,
    dead: bool,
    dies: Option<Point>,
    /// The guardian dies with it.
    takes_guardian: bool,
    snapshot: Option<Vec<u8>>,
    records: Vec<Record>,
    /// How many of the remembered records the journal has, as snapshot or one by one.
    journaled: usize,
    /// Until when the journal cannot be written.
    full_until: Option<u64>,
}

impl Supervisor {
    /// A living one.
    #[must_use]
    pub fn new(dice: Rng) -> Self {
        Self {
            dice,
            dead: false,
            dies: None,
            takes_guardian: false,
            snapshot: None,
            records: Vec::new(),
            journaled: 0,
            full_until: None,
        }
    }

    /// Whether it is dead.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// Before each step: with a chance of `alone` in a thousand it dies in this one, and with one of `both` its guardian
    /// does, which takes it along. `false`: it is dead already.
    pub fn steps(&mut self, alone: u32, both: u32) -> bool {
        // What was to come after the effects of the step before comes now at the latest.
        if self.dies.take().is_some() {
            self.dead = true;
        }
        if !self.dead && self.dice.chance(alone + both) {
            self.takes_guardian = self.dice.below(u64::from(alone + both)) >= u64::from(alone);
            match self.dice.below(4) {
                0 => self.dead = true,
                1 => self.dies = Some(Point::BeforeWriting),
                _ => self.dies = Some(Point::AfterEffects(self.dice.below(4))),
            }
        }
        !self.dead
    }

    /// From `now` on the journal cannot be written for a while.
    pub fn fill(&mut self, now: u64) {
        let until = now + self.dice.scaled(1_000, 10_000_000);
        self.full_until.get_or_insert(until);
    }

    /// With a journal that cannot be written: how many of the remembered records it has.
    #[must_use]
    pub fn gap(&self) -> Option<usize> {
        self.full_until.map(|_| self.journaled)
    }

    /// The records of a step are about to be written; `false`: it dies before that.
    pub fn writes(&mut self, records: &[Record]) -> bool {
        if self.dies == Some(Point::BeforeWriting) {
            self.dead = true;
        }
        // Nothing is written behind a gap: a snapshot mends it.
        if !self.dead && self.full_until.is_none() {
            self.records.extend_from_slice(records);
            self.journaled += records.len();
        }
        !self.dead
    }

    /// An effect is about to be performed; `false`: it dies before that.
    pub fn performs(&mut self) -> bool {
        match &mut self.dies {
            Some(Point::AfterEffects(0)) | Some(Point::BeforeWriting) => self.dead = true,
            Some(Point::AfterEffects(left)) => *left -= 1,
            None => {}
        }
        !self.dead
    }

    /// Whether a snapshot is due.
    #[must_use]
    pub fn wants_snapshot(&self, now: u64, is_wanted: bool) -> bool {
        let due = is_wanted || self.records.len() >= COMPACT_AFTER_RECORDS;
        let due = self.full_until.map_or(due, |until| until <= now);
        !self.dead && due
    }

    /// Keeps a snapshot, after so many records, in place of all of them.
    pub fn keep(&mut self, snapshot: &Snapshot, records: usize) {
        (self.journaled, self.full_until) = (records, None);
        self.snapshot = serde_json::to_vec(snapshot).ok();
        self.records.clear();
    }

    /// The next one begins with nothing: no record was ever written.
    pub fn first(&mut self, birth: Birth) -> World {
        (self.dead, self.dies) = (false, None);
        World::new(birth)
    }

    /// The next one begins with what the journal says, read back from bytes as the real one is.
    ///
    /// # Panics
    /// What was written cannot be read.
    pub fn next(&mut self, birth: Birth, candidate: Option<(PolicyHash, Policy)>) -> World {
        (self.dead, self.dies) = (false, None);
        let snapshot = self.snapshot.as_deref().map(|bytes| serde_json::from_slice(bytes).expect("a snapshot"));
        let again = |record: &Record| {
            let bytes = serde_json::to_vec(record).expect("a record");
            serde_json::from_slice(&bytes).expect("a record that was written")
        };
        World::restore(birth, candidate, snapshot, self.records.iter().map(again))
    }

    /// Whether its guardian is dead, too, and the dice for what is left of that.
    pub fn takes_guardian(&mut self) -> Option<&mut Rng> {
        self.takes_guardian.then_some(&mut self.dice)
    }

    /// It dies now, and everything of Hale with it.
    pub fn ends(&mut self) {
        (self.dead, self.dies, self.takes_guardian) = (true, None, false);
    }

    /// Its journal is gone with it.
    pub fn lose_journal(&mut self) {
        (self.snapshot, self.journaled, self.full_until) = (None, 0, None);
        self.records.clear();
    }

    /// How long nobody supervises, in microseconds.
    pub fn absence_us(&mut self) -> u64 {
        self.dice.scaled(1_000, 5_000_000)
    }
}
