//! Guarantees about what Hale decides to switch to, and about why it does not.

use super::{Models, Of, moved_by};
use crate::oracle::{Ending, Oracle, Seen};
use hale_core::ids::{GenerationId, Name};
use hale_core::plan::ladder::Rung;
use hale_core::policy::{GenerationsPolicy, Policy, Rollback};
use hale_core::reason::Reason;
use hale_core::record::{Body, Record};
use hale_core::safeswitch::{Aim, Failure, Intent, Move, Part};
use std::collections::BTreeMap;

/// A record of a part's generations.
fn moved<'a>(seen: &Seen<'a>) -> Option<(&'a Record, Of<'a>, &'a Move)> {
    let Seen::Record(record) = seen else { return None };
    moved_by(record).map(|(of, moved)| (*record, of, moved))
}

/// Where Hale itself goes by this move, not an operator or somebody else.
fn goes<'a>(moved: &'a Move, intent: Option<&'a Intent>) -> Option<&'a GenerationId> {
    match moved {
        Move::Intended { intent } => match intent.aim {
            Aim::TakeBack { .. } | Aim::PutBack { .. } => Some(&intent.to),
            Aim::Deploy { .. } | Aim::Outside | Aim::Return { .. } => None,
        },
        Move::GoesBack { why: Reason::Ordered { .. }, .. } => None,
        Move::GoesBack { to, .. } => intent.map(|_| to),
        _ => None,
    }
}

/// At most one switch of a service at a time, and one way back of each.
#[derive(Default)]
pub struct OneSwitch {
    models: Models,
}

impl Oracle for OneSwitch {
    fn name(&self) -> &'static str {
        "one-switch"
    }

    fn guarantee(&self) -> &'static str {
        "at most one switch of a part is under way at a time, and it goes back once, and further only from what is quarantined"
    }

    fn restart(&mut self, ledger: &[Record]) {
        self.models = Models::of(ledger);
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        let Some((record, of, moved)) = moved(&seen) else { return Ok(()) };
        let model = self.models.get(of);
        let open = model.and_then(|model| model.open.as_ref());
        let is_damaged = |id: &GenerationId| model.is_some_and(|model| model.is_bad(id, record.at.wall_us));
        let wrong = match (moved, open) {
            (Move::Intended { .. }, Some(open)) => Some(format!("{of}: a second switch beside {}", open.id)),
            (Move::GoesBack { switch, .. }, Some(open))
                if open.goes_back.as_ref().is_some_and(|to| !is_damaged(to)) =>
            {
                Some(format!("{of}: switch {switch} goes back twice"))
            }
            (Move::GoesBack { switch, .. }, Some(open)) if open.proved.is_some() => {
                Some(format!("{of}: switch {switch} goes back, and its proof is on record"))
            }
            _ => None,
        };
        self.models.follow(record);
        wrong.map_or(Ok(()), Err)
    }
}

/// What is gone back to was good, and is another one.
#[derive(Default)]
pub struct WaysBack {
    models: Models,
}

impl Oracle for WaysBack {
    fn name(&self) -> &'static str {
        "ways-back"
    }

    fn guarantee(&self) -> &'static str {
        "what is gone back to is not what is left, and was known to be good"
    }

    fn restart(&mut self, ledger: &[Record]) {
        self.models = Models::of(ledger);
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        let Some((record, of, moved)) = moved(&seen) else { return Ok(()) };
        self.models.follow(record);
        let Some(model) = self.models.get(of) else { return Ok(()) };
        let (to, left) = match (moved, &model.open) {
            (Move::Intended { intent }, _) if matches!(intent.aim, Aim::TakeBack { .. } | Aim::Return { .. }) => {
                (&intent.to, intent.from.as_ref())
            }
            (Move::GoesBack { to, why, .. }, Some(open)) => {
                // What was taken back and is not the cause is where it was; and what never came to be was never left.
                let is_where_it_was =
                    matches!(open.intent.aim, Aim::TakeBack { .. }) || matches!(why, Reason::Interrupted);
                if is_where_it_was && open.intent.from.as_ref() == Some(to) {
                    return Ok(());
                }
                (to, Some(&open.intent.to))
            }
            _ => return Ok(()),
        };
        if left == Some(to) {
            return Err(format!("{of}: from {to} back to itself"));
        }
        if !model.goods.contains(to) {
            return Err(format!("{of}: back to {to}, which was never known to be good"));
        }
        Ok(())
    }
}

/// What failed is not tried again by itself.
#[derive(Default)]
pub struct NeverToBad {
    models: Models,
}

impl Oracle for NeverToBad {
    fn name(&self) -> &'static str {
        "never-to-bad"
    }

    fn guarantee(&self) -> &'static str {
        "Hale itself never switches to a generation that is quarantined"
    }

    fn restart(&mut self, ledger: &[Record]) {
        self.models = Models::of(ledger);
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        let Some((record, of, moved)) = moved(&seen) else { return Ok(()) };
        self.models.follow(record);
        let Some(model) = self.models.get(of) else { return Ok(()) };
        match goes(moved, model.open.as_ref().map(|open| &open.intent)) {
            Some(to) if model.is_bad(to, record.at.wall_us) => Err(format!("{of}: to {to}, which is quarantined")),
            Some(_) | None => Ok(()),
        }
    }
}

/// What failed is known to be bad.
#[derive(Default)]
pub struct FailedIsBad {
    models: Models,
}

impl Oracle for FailedIsBad {
    fn name(&self) -> &'static str {
        "failed-is-bad"
    }

    fn guarantee(&self) -> &'static str {
        "what is gone back from because it failed is quarantined before that switch is over"
    }

    fn restart(&mut self, ledger: &[Record]) {
        self.models = Models::of(ledger);
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        let Some((record, of, moved)) = moved(&seen) else { return Ok(()) };
        let model = self.models.get(of);
        let open = model.and_then(|model| model.open.as_ref());
        let failed = match (moved, open) {
            (Move::Ended { switch, end }, Some(open)) if open.id == *switch => open.has_failed(end),
            _ => None,
        };
        let wrong = failed.filter(|id| !model.is_some_and(|model| model.bads.contains_key(*id))).cloned();
        self.models.follow(record);
        wrong.map_or(Ok(()), |id| Err(format!("{of}: {id} has failed, and is not quarantined")))
    }
}

/// Policies of those that have generations.
fn policies(policy: &Policy) -> BTreeMap<Name, GenerationsPolicy> {
    let of = |(name, service): (&Name, &std::sync::Arc<hale_core::policy::ServicePolicy>)| {
        Some((name.clone(), service.generations.clone()?))
    };
    policy.services.iter().filter_map(of).collect()
}

/// What only an operator may take back Hale does not.
pub struct Allowed {
    policies: BTreeMap<Name, GenerationsPolicy>,
    models: Models,
}

impl Allowed {
    /// For these services.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        Self { policies: policies(policy), models: Models::default() }
    }
}

impl Oracle for Allowed {
    fn name(&self) -> &'static str {
        "rollback-is-allowed"
    }

    fn guarantee(&self) -> &'static str {
        "with rollback = \"ask\" or \"never\" Hale takes nothing back that works or fails; only what never came to be is undone"
    }

    fn restart(&mut self, ledger: &[Record]) {
        self.models = Models::of(ledger);
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        let Some((record, of, moved)) = moved(&seen) else { return Ok(()) };
        self.models.follow(record);
        let Some(model) = self.models.get(of) else { return Ok(()) };
        let is_auto = self.policies.get(of.name).is_none_or(|policy| policy.rollback == Rollback::Auto);
        // What no process ran of, or what nobody watched on another boot, is not a rollback of something that works.
        let is_undone = matches!(
            moved,
            Move::GoesBack {
                why: Reason::NotSwitched { .. }
                    | Reason::DataMovedOn { .. }
                    | Reason::HookFailed { .. }
                    | Reason::NoWayBack { .. }
                    | Reason::Interrupted
                    | Reason::RestartedOnProbation,
                ..
            }
        );
        match goes(moved, model.open.as_ref().map(|open| &open.intent)) {
            Some(to) if !is_auto && !is_undone => Err(format!("{of}: back to {to}, and nobody ordered that")),
            Some(_) | None => Ok(()),
        }
    }
}

/// No more is taken back in a day than may be.
pub struct Budget {
    policies: BTreeMap<Name, GenerationsPolicy>,
    models: Models,
}

impl Budget {
    /// For these services.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        Self { policies: policies(policy), models: Models::default() }
    }
}

impl Oracle for Budget {
    fn name(&self) -> &'static str {
        "rollbacks-per-day"
    }

    fn guarantee(&self) -> &'static str {
        "the ladder takes back no more in 24 hours than rollbacks_per_day, and no change older than recent"
    }

    fn restart(&mut self, ledger: &[Record]) {
        self.models = Models::of(ledger);
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        let Some((record, of, moved)) = moved(&seen) else { return Ok(()) };
        self.models.follow(record);
        let (Some(model), Some(policy)) = (self.models.get(of), self.policies.get(of.name)) else { return Ok(()) };
        let is_one = matches!(moved, Move::Intended { intent } if matches!(intent.aim, Aim::TakeBack { .. }));
        let taken_back = self.models.taken_back(of.name, record.at.wall_us);
        if is_one && taken_back > policy.rollbacks_per_day as usize {
            return Err(format!("{of}: {taken_back} taken back in a day, {} may be", policy.rollbacks_per_day));
        }
        let ago_us = u64::try_from(record.at.wall_us - model.newest_change_wall_us()).unwrap_or(0);
        if is_one && ago_us > policy.recent.as_us() {
            return Err(format!("{of}: a change of {ago_us} µs ago is taken back, recent is {}", policy.recent));
        }
        Ok(())
    }
}

/// Where nothing is taken back, the reason is so.
pub struct TrueRefusals {
    policies: BTreeMap<Name, GenerationsPolicy>,
    models: Models,
}

impl TrueRefusals {
    /// For these services.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        Self { policies: policies(policy), models: Models::default() }
    }

    fn is_so(&self, of: Of<'_>, record: &Record, fails: &Failure, reason: &Reason) -> bool {
        let Some(policy) = self.policies.get(of.name) else { return *reason == Reason::NoGenerationsConfigured };
        let Some(model) = self.models.get(of) else { return false };
        let wall_us = record.at.wall_us;
        match reason {
            Reason::RollbackAsk => policy.rollback == Rollback::Ask,
            Reason::RollbackNever => policy.rollback == Rollback::Never,
            Reason::NoOlderGood => model.older_good(wall_us).is_none(),
            Reason::ChangeTooOld { recent, .. } => {
                let ago = u64::try_from(wall_us - model.newest_change_wall_us()).unwrap_or(0);
                *recent == policy.recent && ago > recent.as_us()
            }
            Reason::RollbacksSpent { per_day, .. } => {
                *per_day == policy.rollbacks_per_day && self.models.taken_back(of.name, wall_us) >= *per_day as usize
            }
            Reason::CauseElsewhere => model.is_exonerated(fails),
            Reason::DataMovedOn { format, at_least, .. } => format < at_least && model.older_good(wall_us).is_some(),
            Reason::SwitchInProgress => model.open.is_some(),
            // It was tried just now.
            Reason::NoDurableRecord | Reason::NotSwitched { .. } | Reason::NoWayBack { .. } => true,
            Reason::Superseded { .. } | Reason::Interrupted => true,
            _ => false,
        }
    }
}

impl Oracle for TrueRefusals {
    fn name(&self) -> &'static str {
        "true-refusals"
    }

    fn guarantee(&self) -> &'static str {
        "where the ladder does not take back, it says why, and that is so"
    }

    fn restart(&mut self, ledger: &[Record]) {
        self.models = Models::of(ledger);
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        let Seen::Record(record) = seen else { return Ok(()) };
        self.models.follow(record);
        let (Some(name), Body::Decided(decision)) = (&record.service, &record.body) else { return Ok(()) };
        if decision.choice.rung == Rung::Hold && !decision.choice.refused.iter().any(|it| it.rung == Rung::TakeBack) {
            return Err(format!("{name}: held without a word of taking back"));
        }
        let mut refused = decision.choice.refused.iter().filter(|refused| refused.rung == Rung::TakeBack);
        let exception = decision.read.alike.map(|alike| alike.exception);
        let fails = Failure { cause: decision.read.cause, exception };
        // The one that was changed last, or that could go back.
        let part = decision.read.take_back.as_ref().map_or(Part::Store, |read| read.part);
        let of = Of { name, part };
        match refused.find(|refused| !self.is_so(of, record, &fails, &refused.reason)) {
            Some(refused) => Err(format!("{of}: not taken back because \"{}\", and that is not so", refused.reason)),
            None => Ok(()),
        }
    }
}

/// What is written down again is what the records said.
#[derive(Default)]
pub struct Kept {
    models: Models,
}

impl Oracle for Kept {
    fn name(&self) -> &'static str {
        "kept-is-true"
    }

    fn guarantee(&self) -> &'static str {
        "what is written down again of generations is what the records before it have said"
    }

    fn restart(&mut self, ledger: &[Record]) {
        self.models = Models::of(ledger);
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        let Some((record, of, moved)) = moved(&seen) else { return Ok(()) };
        self.models.follow(record);
        let (Some(model), Move::Kept { known }) = (self.models.get(of), moved) else { return Ok(()) };
        let goods: Vec<&GenerationId> = known.goods.iter().map(|good| &good.id).collect();
        let open = model.open.as_ref();
        let right = known.current == model.current
            && goods == model.goods.iter().collect::<Vec<_>>()
            && known.switch.as_ref().map(|switch| switch.id) == open.map(|open| open.id)
            && known.bads.iter().all(|bad| model.bads.contains_key(&bad.id));
        if right { Ok(()) } else { Err(format!("{of}: {known:?} is kept, where {model:?} is so")) }
    }

    fn end(&mut self, _ending: &Ending) -> Result<(), String> {
        Ok(())
    }
}
