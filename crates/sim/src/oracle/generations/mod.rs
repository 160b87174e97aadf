//! Guarantees about services' generations, judged from a model of their own that follows records as the documentation says.

pub mod changes;
pub mod choices;
pub mod data;
pub mod proofs;
pub mod stores;

use hale_core::ids::{GenerationId, Name, RecordId};
use hale_core::reason::Reason;
use hale_core::record::Record;
use hale_core::safeswitch::{Aim, End, Failure, GOODS_MAX, Intent, Move, Part, Parts};
use std::collections::BTreeMap;
use std::fmt;

/// A day in microseconds.
const DAY_US: i64 = 24 * 3_600 * 1_000_000;

/// A part of a service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Of<'a> {
    pub(super) name: &'a Name,
    pub(super) part: Part,
}

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.part {
            Part::Store => write!(f, "{}", self.name),
            Part::Files => write!(f, "the files of {}", self.name),
        }
    }
}

/// A record of a part's generations.
pub(super) fn moved_by(record: &Record) -> Option<(Of<'_>, &Move)> {
    let (part, moved) = record.body.moved()?;
    Some((Of { name: record.service.as_ref()?, part }, moved))
}

/// A switch that is not over.
#[derive(Debug, Clone)]
pub(super) struct Open {
    pub(super) id: RecordId,
    pub(super) intent: Intent,
    /// It is switched to.
    pub(super) switched: bool,
    /// All checks have held for the probation.
    pub(super) proved: Option<RecordId>,
    /// Where it was told to go back to.
    pub(super) goes_back: Option<GenerationId>,
    /// Why, of the way back.
    pub(super) why: Option<Reason>,
    /// It is where it was told to go back to.
    pub(super) is_back: bool,
}

impl Open {
    /// What this end says to have failed.
    pub(super) fn has_failed(&self, end: &End) -> Option<&GenerationId> {
        let Intent { aim, from, to, .. } = &self.intent;
        match end {
            End::RolledBack { why } if why.is_evidence() => {
                if aim.proves() {
                    Some(to)
                } else {
                    from.as_ref()
                }
            }
            // Its `after_rollback` failed.
            End::Held { why: Reason::HookFailed { .. } } => {
                self.why.as_ref().filter(|why| aim.proves() && why.is_evidence()).map(|_| to)
            }
            End::Stopped { .. } => Some(to),
            End::RolledBack { .. }
            | End::Committed
            | End::Aborted { .. }
            | End::Held { .. }
            | End::Environmental { .. } => None,
        }
    }
}

/// What records have said of the generations of one part of a service.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) current: Option<GenerationId>,
    pub(super) changed_wall_us: i64,
    /// Newest first.
    pub(super) goods: Vec<GenerationId>,
    /// When each of them became so.
    since_wall_us: BTreeMap<GenerationId, i64>,
    /// Until when, as the wall clock shows it.
    pub(super) bads: BTreeMap<GenerationId, i64>,
    pub(super) open: Option<Open>,
    pub(super) taken_back_wall_us: Vec<i64>,
    pub(super) elsewhere: bool,
    /// The failure that the ladder took something back for last.
    cured: Option<Failure>,
    /// What was taken back in vain and put back, and for which failure.
    exonerated: Option<(GenerationId, Failure)>,
}

/// All services that have some.
#[derive(Debug, Clone, Default)]
pub(super) struct Models(BTreeMap<Name, Parts<Model>>);

impl Models {
    /// What this ledger says.
    pub(super) fn of(ledger: &[Record]) -> Self {
        let mut models = Self::default();
        for record in ledger {
            if let Some((of, Move::Intended { .. })) = moved_by(record)
                && let Some(models) = models.0.get_mut(of.name)
            {
                // The end of the one before is not in this ledger.
                models[of.part].open = None;
            }
            models.follow(record);
        }
        models
    }

    /// All that there are.
    fn all(&self) -> impl Iterator<Item = (Of<'_>, &Model)> {
        let of = |part: Part| self.0.iter().map(move |(name, models)| (Of { name, part }, &models[part]));
        Part::ALL.into_iter().flat_map(of)
    }

    pub(super) fn get(&self, of: Of<'_>) -> Option<&Model> {
        Some(&self.0.get(of.name)?[of.part])
    }

    /// How many were taken back by the ladder within a day: of both parts, since the budget is the service's.
    pub(super) fn taken_back(&self, service: &Name, wall_us: i64) -> usize {
        let parts = self.0.get(service).map(Parts::each).into_iter().flatten();
        parts.map(|model| model.taken_back(wall_us)).sum()
    }

    /// Takes one record.
    pub(super) fn follow(&mut self, record: &Record) {
        if let Some((of, moved)) = moved_by(record) {
            self.0.entry(of.name.clone()).or_default()[of.part].follow(record, moved);
        }
    }
}

impl Model {
    fn follow(&mut self, record: &Record, moved: &Move) {
        let wall_us = record.at.wall_us;
        let of = |open: &&mut Open, id: &RecordId| open.id == *id;
        match moved {
            Move::Seen { current, .. } => {
                if self.current.is_none()
                    && self.goods.is_empty()
                    && let Some(id) = current
                {
                    self.add_good(id, wall_us);
                }
                self.reach(current.as_ref(), wall_us);
            }
            Move::Intended { intent } => {
                let intent = (**intent).clone();
                if intent.from.is_some() {
                    self.reach(intent.from.as_ref(), wall_us);
                }
                match intent.aim {
                    Aim::TakeBack { failure, .. } => {
                        self.taken_back_wall_us.push(wall_us);
                        self.cured = Some(failure);
                    }
                    Aim::Deploy { .. } | Aim::Return { .. } => self.elsewhere = false,
                    Aim::Outside | Aim::PutBack { .. } => {}
                }
                let (id, switched, is_back) = (record.id, false, false);
                // A second one beside it is another oracle's to find.
                self.open.get_or_insert(Open {
                    id,
                    intent,
                    switched,
                    proved: None,
                    goes_back: None,
                    why: None,
                    is_back,
                });
            }
            Move::Switched { switch, to } => {
                // A ledger without its intent says nothing of it.
                if self.open.as_mut().is_some_and(|open| of(&open, switch)) {
                    self.reach(Some(to), wall_us);
                }
                if let Some(open) = self.open.as_mut().filter(|open| of(open, switch)) {
                    open.switched = true;
                    open.is_back = open.goes_back.is_some();
                }
            }
            Move::Proved { switch } => {
                if let Some(open) = self.open.as_mut().filter(|open| of(open, switch)) {
                    open.proved = Some(record.id);
                }
            }
            Move::GoesBack { switch, to, why } => {
                if let Some(open) = self.open.as_mut().filter(|open| of(open, switch)) {
                    (open.goes_back, open.why) = (Some(to.clone()), Some(why.clone()));
                }
            }
            Move::Ended { switch, end } => {
                if let Some(open) = self.open.take_if(|open| open.id == *switch) {
                    self.end(&open, end, wall_us);
                }
            }
            Move::Quarantined { bad } => drop(self.bads.insert(bad.id.clone(), bad.until_wall_us)),
            Move::Cleared { generation, .. } => drop(self.bads.remove(generation)),
            Move::Proven { generation } => {
                if !self.goods.contains(generation) {
                    self.add_good(generation, wall_us);
                    self.bads.remove(generation);
                }
            }
            Move::Settled => self.elsewhere = false,
            Move::Unseen { .. }
            | Move::Begun { .. }
            | Move::Prepared { .. }
            | Move::Undone { .. }
            | Move::Marked { .. }
            | Move::Promoting { .. }
            | Move::Soaked { .. }
            | Move::Kept { .. } => {}
        }
    }

    fn reach(&mut self, current: Option<&GenerationId>, wall_us: i64) {
        if self.current.as_ref() != current {
            self.current = current.cloned();
            self.changed_wall_us = wall_us;
        }
    }

    fn add_good(&mut self, id: &GenerationId, wall_us: i64) {
        self.goods.retain(|good| good != id);
        self.goods.insert(0, id.clone());
        self.goods.truncate(GOODS_MAX);
        self.since_wall_us.insert(id.clone(), wall_us);
    }

    /// When the change came that is the current one; going back to what was good before is none.
    pub(super) fn newest_change_wall_us(&self) -> i64 {
        if self.on_probation().is_some() {
            return self.changed_wall_us;
        }
        let good = self.current.as_ref().filter(|current| self.goods.contains(current));
        let since = good.and_then(|good| self.since_wall_us.get(good));
        since.map_or(self.changed_wall_us, |since| self.changed_wall_us.min(*since))
    }

    /// The switch, if it is that of something that has not proved itself yet.
    pub(super) fn on_probation(&self) -> Option<&Open> {
        let is_new = |open: &&Open| open.switched && open.proved.is_none() && open.goes_back.is_none();
        self.open.as_ref().filter(|open| is_new(open) && open.intent.aim.proves())
    }

    /// Whether the current one was found not to be the cause, of what fails now or of what failed before.
    pub(super) fn is_exonerated(&self, fails: &Failure) -> bool {
        let of = self.exonerated.as_ref().filter(|(id, _)| Some(id) == self.current.as_ref());
        self.elsewhere || of.is_some_and(|(_, cured)| cured.is_like(fails))
    }

    fn end(&mut self, open: &Open, end: &End, wall_us: i64) {
        let intent = &open.intent;
        match end {
            End::Committed => self.add_good(&intent.to, wall_us),
            End::RolledBack { why } => {
                let left = if intent.aim.proves() { Some(&intent.to) } else { intent.from.as_ref() };
                // What somebody rolls back was not found to be bad.
                let is_bad = matches!(why, Reason::OnProbation { .. } | Reason::NewestChange { .. });
                self.goods.retain(|good| !is_bad || Some(good) != left);
                // What an operator skips is not gone back to later.
                if let Aim::Return { .. } = intent.aim
                    && let Some(at) = self.goods.iter().position(|good| *good == intent.to)
                {
                    self.goods.drain(..at);
                    self.bads.remove(&intent.to);
                }
            }
            End::Environmental { .. } => {
                self.elsewhere = true;
                if let Aim::TakeBack { .. } | Aim::PutBack { .. } = intent.aim {
                    self.exonerated = self.current.clone().zip(self.cured);
                }
                if matches!(intent.aim, Aim::PutBack { .. }) && !self.goods.contains(&intent.to) {
                    self.add_good(&intent.to, wall_us);
                }
            }
            End::Aborted { .. } if matches!(intent.aim, Aim::TakeBack { .. }) => drop(self.taken_back_wall_us.pop()),
            End::Aborted { .. } | End::Held { .. } | End::Stopped { .. } => {}
        }
    }

    /// Whether one is not to be switched to by Hale itself.
    pub(super) fn is_bad(&self, id: &GenerationId, wall_us: i64) -> bool {
        self.bads.get(id).is_some_and(|until| *until > wall_us)
    }

    /// Where the ladder would go back to.
    pub(super) fn older_good(&self, wall_us: i64) -> Option<&GenerationId> {
        let at = self.goods.iter().position(|good| Some(good) == self.current.as_ref()).map_or(0, |at| at + 1);
        self.goods[at..].iter().find(|good| !self.is_bad(good, wall_us))
    }

    fn taken_back(&self, wall_us: i64) -> usize {
        self.taken_back_wall_us.iter().filter(|at| (wall_us - DAY_US + 1..=wall_us).contains(*at)).count()
    }
}
