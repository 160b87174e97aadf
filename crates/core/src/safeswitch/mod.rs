//! SafeSwitch: what is known of a service's generations, and the one switch between two of them that may be under way.
//!
//! A switch is a transaction: its intent is durable before anything is done, what is switched to is on probation until all checks
//! have held for long enough, and before that is on record every crash ends on what was good. [`switch`] is its machine.

mod data;
mod held;
mod moves;
mod part;
pub mod switch;
pub mod words;

pub use data::{Data, Format, Undoable};
pub use held::{Held, MARKS};
pub use moves::Move;
pub use part::{Part, Parts};
pub use switch::{Aim, End, Intent, Stage, Switch};

use crate::analyze::trace::Fingerprint;
use crate::ids::{GenerationId, IncidentId};
use crate::incident::Cause;
use crate::reason::Reason;
use crate::record::{Body, Record};
use crate::time::{Monotonic, Span};
use crate::world::phase::Illegal;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// How many generations are remembered as good: more than anybody goes back, and few enough for one record.
pub const GOODS_MAX: usize = 20;

/// How many are remembered as bad, the newest ones: whoever deploys more bad ones than that within [`QUARANTINED_FOR`] is a program.
pub const QUARANTINE_MAX: usize = 64;

/// How long a generation that failed is not switched to by itself again: what it failed by may be another thing after a month.
pub const QUARANTINED_FOR: Span = Span::from_secs(30 * 24 * 3_600);

/// How often all that is known of a service's generations is written down again: a start then has to read no more than half a
/// day of the ledger.
pub const KEPT_EVERY: Span = Span::from_secs(6 * 3_600);

/// How long the first look at a store is waited for. Then the service starts by what is on record: a store that hangs must not keep it
/// from that.
pub const SEEN_WITHIN: Span = Span::from_secs(5);

/// So many failures in a row of what was good, right after it was switched back to, say that the cause is elsewhere: one may be a
/// hiccup of anything.
pub const ELSEWHERE_FROM: u32 = 2;

/// How well a generation is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// It was there when Hale first looked.
    Assumed,
    /// It passed probation.
    Provisional,
    /// It was healthy for the soak time, too.
    Proven,
}

impl Grade {
    /// Its name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Assumed => "assumed",
            Self::Provisional => "provisional",
            Self::Proven => "proven",
        }
    }
}

/// A generation that is known to be good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Good {
    /// Which.
    pub id: GenerationId,
    /// How well that is known.
    pub grade: Grade,
    /// Since when, as the wall clock showed it.
    pub since_wall_us: i64,
}

/// A generation that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bad {
    /// Which.
    pub id: GenerationId,
    /// Why it was taken back.
    pub why: Reason,
    /// In which incident, if there was one: its evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_in: Option<IncidentId>,
    /// Since when, as the wall clock showed it.
    pub since_wall_us: i64,
    /// Until when.
    pub until_wall_us: i64,
}

/// What was taken back last, while it is not certain that it was the cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenBack {
    /// What.
    pub id: GenerationId,
    /// When that change had come, as the wall clock showed it.
    #[serde(default)]
    pub changed_wall_us: i64,
    /// For which failure.
    #[serde(flatten)]
    pub failure: Failure,
}

/// A failure, as far as two can be held against each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which kind.
    pub cause: Cause,
    /// The exception of the newest ones, where their output had one that was read in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exception: Option<Fingerprint>,
}

impl Failure {
    /// Whether the other may be the same: of one kind, and not known to be by different exceptions.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let differ = self.exception.zip(other.exception).is_some_and(|(one, other)| one != other);
        self.cause == other.cause && !differ
    }
}

/// All that is known of a service's generations. Changed by records alone, and rebuilt from them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Generations {
    /// What is switched to; none: nothing yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<GenerationId>,
    /// Whether the store was looked at once.
    #[serde(default)]
    pub is_known: bool,
    /// Since when it is the current one, as the wall clock showed it.
    #[serde(default)]
    pub changed_wall_us: i64,
    /// Known good ones, the newest first; at most [`GOODS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub goods: Vec<Good>,
    /// Those that failed, oldest first; at most [`QUARANTINE_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bads: Vec<Bad>,
    /// The switch that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch: Option<Switch>,
    /// How long the current one has been healthy since its switch was over, without a failure.
    #[serde(default)]
    pub soak: Held,
    /// When the ladder took something back within the last day, as the wall clock showed it; oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken_back_wall_us: Vec<i64>,
    /// What was taken back last, until the service was well for long enough or something else was switched to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_back: Option<TakenBack>,
    /// The current one was taken back once in vain, and put back: for the same failure it is not taken back once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exonerated: Option<TakenBack>,
    /// The cause of its failures was found to be elsewhere; until it was well for long enough, or something else was deployed.
    #[serde(default)]
    pub elsewhere: bool,
    /// The oldest format of data that can read what those that ran have left: nothing of an older one is switched to.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub data_at_least: u32,
    /// What the current one did to the data and can be undone, where it is held and not proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoable: Option<Undoable>,
    /// An `after_rollback` failed: why nobody knows what the data are, until somebody starts or switches it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_data: Option<Reason>,
    /// What those that are known say of the data, where they say something.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub formats: BTreeMap<GenerationId, Format>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A day, for the budget of what the ladder takes back.
pub const DAY_US: i64 = 24 * 3_600 * 1_000_000;

impl Generations {
    /// What one record changes.
    ///
    /// # Errors
    /// [`Illegal`] when the switch does not have this move; nothing is changed then.
    pub fn apply(&mut self, record: &Record, moved: &Move) -> Result<(), Illegal> {
        let switch = Switch::transition(self.switch.as_ref(), record, moved)?;
        let ended = if let Move::Ended { end, .. } = moved { self.switch.take().map(|it| (it, end)) } else { None };
        self.switch = switch;
        let wall_us = record.at.wall_us;
        match moved {
            Move::Seen { current, data } => {
                self.is_known = true;
                if let Some(id) = current {
                    self.learn(id, data);
                    self.data_at_least = self.data_at_least.max(data.min_rollback);
                }
                let is_first = self.current.is_none() && self.goods.is_empty();
                if let Some(id) = current.clone().filter(|_| is_first) {
                    self.goods.insert(0, Good { id, grade: Grade::Assumed, since_wall_us: wall_us });
                }
                self.reach(current.clone(), wall_us);
            }
            Move::Unseen { .. } => self.is_known = true,
            Move::Intended { intent } => {
                // As it is, unless the record of that was lost.
                if intent.from.is_some() {
                    self.reach(intent.from.clone(), wall_us);
                }
                match intent.aim {
                    Aim::Deploy { .. } | Aim::Return { .. } => {
                        self.unknown_data = None;
                        self.undo_with_switch();
                        self.elsewhere = false;
                        self.taken_back = None;
                    }
                    Aim::TakeBack { .. } => {
                        self.taken_back_wall_us.retain(|&at| at > wall_us - DAY_US);
                        self.taken_back_wall_us.push(wall_us);
                    }
                    Aim::PutBack { .. } => self.exonerated.clone_from(&self.taken_back),
                    Aim::Outside => {}
                }
            }
            Move::Prepared { data, .. } => self.prepare(data),
            Move::Switched { to, .. } => {
                // What somebody else has switched to finds data that were changed and not undone.
                let finds_others =
                    self.undoable.is_some() && self.switch.as_ref().is_some_and(|it| it.intent.aim == Aim::Outside);
                self.reach(Some(to.clone()), wall_us);
                if finds_others || matches!(self.unknown_data, Some(Reason::DataMovedOn { .. })) {
                    self.unknown_data = self.moved_on(to);
                }
            }
            Move::Ended { .. } => {
                if let Some((switch, end)) = ended {
                    self.end(&switch, end, wall_us);
                }
            }
            Move::Soaked { so_far } => self.soak.mark(*so_far, record.at.mono),
            Move::Proven { generation } => {
                match self.goods.iter_mut().find(|good| good.id == *generation) {
                    Some(good) => good.grade = Grade::Proven,
                    // It was held, and has shown since that it works.
                    None => {
                        self.add_good(generation.clone(), Grade::Proven, wall_us);
                        self.bads.retain(|bad| bad.id != *generation);
                        self.undoable = None;
                    }
                }
            }
            Move::Settled => {
                self.elsewhere = false;
                self.taken_back = None;
            }
            Move::Quarantined { bad } => {
                self.bads.retain(|known| known.id != bad.id && known.until_wall_us > wall_us);
                if self.bads.len() >= QUARANTINE_MAX {
                    self.bads.remove(0);
                }
                self.bads.push((**bad).clone());
            }
            Move::Cleared { generation, .. } => self.bads.retain(|bad| bad.id != *generation),
            Move::Kept { known } => *self = (**known).clone(),
            Move::Begun { .. }
            | Move::Marked { .. }
            | Move::Proved { .. }
            | Move::Promoting { .. }
            | Move::GoesBack { .. } => {}
            Move::Undone { error, .. } => self.unknown_data = error.clone().map(|error| Reason::HookFailed { error }),
        }
        Ok(())
    }

    /// The same of a record in a ledger of which others may be missing: what it says is so, whatever led to it.
    pub fn apply_after_gap(&mut self, record: &Record, moved: &Move) {
        if self.apply(record, moved).is_ok() {
            return;
        }
        match moved {
            Move::Intended { .. } => {
                self.switch = None;
                let _it_fits_now = self.apply(record, moved);
            }
            Move::Switched { switch, to } if self.switch.as_ref().is_some_and(|it| it.id == *switch) => {
                self.reach(Some(to.clone()), record.at.wall_us);
            }
            Move::Proved { switch } => {
                if let Some(it) = self.switch.as_mut().filter(|it| it.id == *switch) {
                    it.stage = Stage::Committing { proved: record.id, told: false, since: record.at.mono };
                    let to = it.intent.to.clone();
                    self.reach(Some(to), record.at.wall_us);
                }
            }
            Move::GoesBack { switch, to, why } => {
                if let Some(it) = self.switch.as_mut().filter(|it| it.id == *switch) {
                    it.stage = Stage::GoingBack { to: to.clone(), why: why.clone() };
                }
            }
            Move::Ended { switch, end } => {
                if let Some(switch) = self.switch.take_if(|it| it.id == *switch) {
                    if let Some(to) = switch.leads_to(end) {
                        self.reach(Some(to), record.at.wall_us);
                    }
                    self.end(&switch, end, record.at.wall_us);
                }
            }
            // What it says of the data is so, whatever led to it.
            Move::Prepared { switch, data } => {
                if self.switch.as_ref().is_some_and(|it| it.id == *switch) {
                    self.prepare(data);
                }
            }
            Move::Undone { switch, error } => {
                if let Some(it) = self.switch.as_mut().filter(|it| it.id == *switch) {
                    it.undone = error.is_none().then_some(record.id);
                }
                self.unknown_data = error.clone().map(|error| Reason::HookFailed { error });
            }
            Move::Begun { .. }
            | Move::Switched { .. }
            | Move::Marked { .. }
            | Move::Promoting { .. }
            | Move::Kept { .. }
            | Move::Seen { .. }
            | Move::Unseen { .. }
            | Move::Soaked { .. }
            | Move::Proven { .. }
            | Move::Settled
            | Move::Quarantined { .. }
            | Move::Cleared { .. } => {}
        }
    }

    /// Another one is switched to.
    fn reach(&mut self, current: Option<GenerationId>, wall_us: i64) {
        if self.current != current {
            self.exonerated = self.exonerated.take().filter(|taken| Some(&taken.id) == current.as_ref());
            self.current = current;
            self.taken_back = None;
            self.undoable = None;
            self.changed_wall_us = wall_us;
            self.soak = Held::default();
        }
    }

    /// It is the newest that is known to be good.
    fn add_good(&mut self, id: GenerationId, grade: Grade, since_wall_us: i64) {
        self.goods.retain(|good| good.id != id);
        self.goods.insert(0, Good { id, grade, since_wall_us });
        self.goods.truncate(GOODS_MAX);
    }

    fn end(&mut self, switch: &Switch, end: &End, wall_us: i64) {
        let intent = &switch.intent;
        if self.may_have_moved(switch, end) {
            // What somebody insisted on counts anew, unless what was there before runs again.
            let is_there = self.current.as_ref() == Some(&intent.to);
            let before = if is_there { intent.data_at_least } else { self.data_at_least };
            self.data_at_least = before.max(switch.data.min_rollback);
        }
        if let (Some(undoes), true) = (&switch.undoes, switch.undone.is_some()) {
            self.data_at_least = undoes.data_at_least;
        }
        let is_there = self.current.as_ref() == Some(&intent.to) && intent.aim.proves();
        match (end, &switch.stage) {
            (End::Committed, _) => self.undoable = None,
            (End::Held { .. }, Stage::Probation { .. } | Stage::GoingBack { .. }) if is_there => {
                self.undoable.clone_from(&switch.undoes);
            }
            // What was held before, and still is.
            _ => {}
        }
        if switch.owes_undoing() && self.unknown_data.is_none() {
            // What is there cannot read what was left, or may have to: nothing starts it by itself.
            self.unknown_data = self.current.as_ref().and_then(|current| self.moved_on(current));
        }
        if let Some(current) = &self.current {
            // It runs, or will.
            self.data_at_least = self.data_at_least.max(self.format(current).min_rollback);
        }
        match end {
            End::Committed => {
                let before = self.good(&intent.to).map(|good| good.grade);
                let grade = before.unwrap_or(Grade::Provisional).max(Grade::Provisional);
                self.add_good(intent.to.clone(), grade, wall_us);
                // Somebody else has switched to it, and it works.
                self.bads.retain(|bad| bad.id != intent.to);
                self.soak = Held::default();
            }
            End::RolledBack { why } => {
                let taken_back = match (&intent.aim, &intent.from) {
                    (Aim::TakeBack { failure, .. }, Some(id)) => {
                        let changed_wall_us = self.good(id).map_or(wall_us, |good| good.since_wall_us);
                        Some(TakenBack { id: id.clone(), changed_wall_us, failure: *failure })
                    }
                    _ => None,
                };
                // What failed is not what one goes back to, nor what somebody has skipped.
                let left = if intent.aim.proves() { Some(&intent.to) } else { intent.from.as_ref() };
                if why.is_evidence() {
                    self.goods.retain(|good| Some(&good.id) != left);
                }
                if let Aim::Return { .. } = intent.aim
                    && let Some(at) = self.goods.iter().position(|good| good.id == intent.to)
                {
                    self.goods.drain(..at);
                    // Whatever was against it: it works.
                    self.bads.retain(|bad| bad.id != intent.to);
                }
                self.taken_back = taken_back;
            }
            End::Environmental { .. } => {
                self.elsewhere = true;
                self.taken_back = None;
                if let (Aim::TakeBack { failure, .. }, Some(id)) = (&intent.aim, &intent.from) {
                    let changed_wall_us = self.newest_change_wall_us();
                    self.exonerated = Some(TakenBack { id: id.clone(), changed_wall_us, failure: *failure });
                }
                if let (Aim::PutBack { .. }, None) = (&intent.aim, self.good(&intent.to)) {
                    let since_wall_us = self.exonerated.as_ref().map_or(wall_us, |taken| taken.changed_wall_us);
                    self.add_good(intent.to.clone(), Grade::Provisional, since_wall_us);
                }
            }
            End::Aborted { .. } if matches!(intent.aim, Aim::TakeBack { .. }) => {
                // Nothing was taken back.
                self.taken_back_wall_us.pop();
            }
            End::Aborted { .. } | End::Held { .. } | End::Stopped { .. } => {}
        }
        let taken_back = self.taken_back.as_ref().map(|taken| &taken.id);
        let (goods, current) = (&self.goods, self.current.as_ref());
        let is_known = |id: &GenerationId| {
            Some(id) == current || Some(id) == taken_back || goods.iter().any(|good| good.id == *id)
        };
        self.formats.retain(|id, _| is_known(id));
    }

    /// Nobody follows its switch any more, and its store is looked at anew before anything is done.
    pub(crate) fn rest(mut self) -> Self {
        if let Some(switch) = self.switch.take().filter(Switch::has_moved_data) {
            self.data_at_least = self.data_at_least.max(switch.data.min_rollback);
        }
        self.is_known = false;
        self.proofs().for_each(|held| held.since = None);
        self
    }

    /// What other records mean for it: a failure that counts, and a start.
    pub fn follow(&mut self, body: &Body) {
        if let Body::Detected { blocked: None, .. } = body {
            self.failed();
        } else if let Body::SpawnIntended { .. } = body {
            // Somebody has ordered that.
            self.unknown_data = None;
        }
    }

    /// A failure counts: what has to be shown begins anew.
    pub(crate) fn failed(&mut self) {
        self.proofs().for_each(|held| held.total = Span::ZERO);
    }

    /// Whether it has to show for a while that it is well before it is certain what its failures were about.
    pub(crate) fn is_uncertain(&self) -> bool {
        self.taken_back.is_some() || self.elsewhere
    }

    /// The process of what is switched to holds from then on, or has not since then.
    pub(crate) fn set_holds(&mut self, holds: bool, from: Monotonic) {
        match self.switch.as_mut().map(|switch| &mut switch.stage) {
            Some(Stage::Probation { held }) => held.set(holds, from),
            Some(_) => self.soak.set(false, from),
            None => {
                // What was held earns its grade so, too.
                let soaks = match self.current_grade() {
                    Some(grade) => grade == Grade::Provisional,
                    None => self.current.is_some(),
                };
                self.soak.set(holds && soaks, from);
            }
        }
    }

    /// Each proof that goes on.
    pub(crate) fn proofs(&mut self) -> impl Iterator<Item = &mut Held> {
        let held = match self.switch.as_mut().map(|switch| &mut switch.stage) {
            Some(Stage::Probation { held }) => Some(held),
            Some(_) | None => None,
        };
        held.into_iter().chain([&mut self.soak])
    }

    /// What is known of one that is good.
    #[must_use]
    pub fn good(&self, id: &GenerationId) -> Option<&Good> {
        self.goods.iter().find(|good| good.id == *id)
    }

    /// How well the current one is known.
    #[must_use]
    pub fn current_grade(&self) -> Option<Grade> {
        self.good(self.current.as_ref()?).map(|good| good.grade)
    }

    /// Why one is not to be switched to.
    #[must_use]
    pub fn bad(&self, id: &GenerationId, wall_us: i64) -> Option<&Bad> {
        self.bads.iter().find(|bad| bad.id == *id && bad.until_wall_us > wall_us)
    }

    /// The newest good one older than the current one: where a change is taken back to.
    #[must_use]
    pub fn older_good(&self, wall_us: i64) -> Option<&Good> {
        self.older(wall_us).find(|good| self.moved_on(&good.id).is_none())
    }

    /// The same where somebody orders it.
    #[must_use]
    pub fn older_good_by_order(&self, wall_us: i64) -> Option<&Good> {
        self.older(wall_us).find(|good| self.moved_on_by_order(&good.id).is_none())
    }

    /// Why the data keeps the service from going back at all, if nothing else does.
    #[must_use]
    pub fn older_moved_on(&self, wall_us: i64) -> Option<Reason> {
        self.older(wall_us).find_map(|good| self.moved_on(&good.id))
    }

    fn older(&self, wall_us: i64) -> impl Iterator<Item = &Good> {
        let at = self.goods.iter().position(|good| Some(&good.id) == self.current.as_ref());
        self.goods[at.map_or(0, |at| at + 1)..].iter().filter(move |good| self.bad(&good.id, wall_us).is_none())
    }

    /// When the change came that is the current one, as the wall clock showed it. Of what was good before it was gone back to, that is when
    /// it became so: going back is no change of its own, unlike what has to prove itself once more.
    #[must_use]
    pub fn newest_change_wall_us(&self) -> i64 {
        let good = self.current.as_ref().and_then(|current| self.good(current));
        let good = good.filter(|_| self.on_probation().is_none());
        good.map_or(self.changed_wall_us, |good| good.since_wall_us.min(self.changed_wall_us))
    }

    /// How often the ladder took something back within the last day.
    #[must_use]
    pub fn taken_back_today(&self, wall_us: i64) -> u32 {
        let recent = self.taken_back_wall_us.iter().filter(|&&at| at > wall_us - DAY_US);
        u32::try_from(recent.count()).unwrap_or(u32::MAX)
    }

    /// What must not be removed: the current one, what is good, and both ends of a switch.
    #[must_use]
    pub fn needed(&self) -> Vec<GenerationId> {
        let switch = self.switch.as_ref().map(|switch| &switch.intent);
        let of_switch =
            switch.into_iter().flat_map(|intent| [intent.from.as_ref(), Some(&intent.to), intent.back.as_ref()]);
        let goods = self.goods.iter().map(|good| Some(&good.id));
        let all = goods.chain(of_switch).chain([self.current.as_ref()]).flatten();
        let perhaps = self.taken_back.iter().chain(&self.exonerated).map(|taken| &taken.id);
        let mut needed: Vec<GenerationId> = all.chain(perhaps).cloned().collect();
        needed.sort();
        needed.dedup();
        needed
    }

    /// The switch, if it is that of something that has not proved itself yet.
    #[must_use]
    pub fn on_probation(&self) -> Option<&Switch> {
        self.switch.as_ref().filter(|switch| matches!(switch.stage, Stage::Probation { .. }))
    }

    /// Whether no process may be made before the store has answered, or the disk: what it would run is not certain.
    #[must_use]
    pub fn awaits_store(&self) -> bool {
        self.switch.as_ref().is_some_and(|switch| match &switch.stage {
            Stage::GoingBack { .. } => true,
            // What runs is left alone until something new is there; what fails is not started once more for it.
            Stage::Intended { .. } | Stage::Prepared { .. } | Stage::Switching => !switch.intent.aim.proves(),
            // What it did to the data is undone first.
            Stage::Validating { .. } => switch.owes_undoing(),
            Stage::Probation { .. } | Stage::Committing { .. } => false,
        })
    }
}
