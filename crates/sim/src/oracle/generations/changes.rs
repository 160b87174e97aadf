//! Guarantees about which change is to blame: the newest one, and only of what a process runs.

use super::{Model, Models, Of, moved_by};
use crate::kernel::Fact;
use crate::oracle::{Oracle, Seen};
use crate::scenario::Scenario;
use hale_core::event::Event;
use hale_core::ids::{GenerationId, Name};
use hale_core::plan::ladder::Rung;
use hale_core::policy::{GenerationsPolicy, Policy, Rollback};
use hale_core::reason::Reason;
use hale_core::record::{Body, Record};
use hale_core::safeswitch::{Aim, Failure, Move, Part, Parts};
use std::collections::{BTreeMap, BTreeSet};

fn other(part: Part) -> Part {
    match part {
        Part::Store => Part::Files,
        Part::Files => Part::Store,
    }
}

/// Of two changes the newer one goes first.
pub struct NewestFirst {
    policy: Policy,
    /// Services whose data may keep them from going back: that is another guarantee's.
    of_data: BTreeSet<Name>,
    models: Models,
    /// What the newest processes are of.
    runs: BTreeMap<Name, Parts<Option<GenerationId>>>,
}

impl NewestFirst {
    /// For these services.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        let of_data = scenario.generations.data.keys().map(|(name, _)| name.clone()).collect();
        Self { policy: scenario.policy.clone(), of_data, models: Models::default(), runs: BTreeMap::new() }
    }

    fn generations(&self, name: &Name) -> Option<&GenerationsPolicy> {
        self.policy.services.get(name)?.generations.as_ref()
    }

    /// Whether a change that is committed could be taken back for such a failure.
    fn could(&self, of: Of<'_>, model: &Model, fails: &Failure, wall_us: i64) -> bool {
        let Some(policy) = self.generations(of.name).filter(|policy| policy.has(of.part)) else { return false };
        let ago_us = u64::try_from(wall_us.saturating_sub(model.newest_change_wall_us())).unwrap_or(0);
        policy.rollback == Rollback::Auto
            && !(of.part == Part::Store && self.of_data.contains(of.name))
            && model.open.is_none()
            && model.older_good(wall_us).is_some()
            && !model.is_exonerated(fails)
            && ago_us <= policy.recent.as_us()
    }

    /// Whether a change on probation, of which the newest process is, would go back.
    fn goes(&self, of: Of<'_>, model: &Model) -> bool {
        let runs = self.runs.get(of.name).and_then(|runs| runs[of.part].as_ref());
        let is_auto = self.generations(of.name).is_some_and(|policy| policy.rollback == Rollback::Auto);
        let goes = |open: &super::Open| open.intent.back.is_some() && runs == Some(&open.intent.to);
        is_auto && !(of.part == Part::Store && self.of_data.contains(of.name)) && model.on_probation().is_some_and(goes)
    }

    fn judge(&self, record: &Record) -> Result<(), String> {
        let wall_us = record.at.wall_us;
        if let (Some(name), Body::Decided(decision)) = (&record.service, &record.body) {
            let read = decision.read.take_back.as_ref();
            let of_itself = |reason: &Reason| {
                matches!(reason, Reason::NoOlderGood | Reason::ChangeTooOld { .. } | Reason::CauseElsewhere)
            };
            let mut refused = decision.choice.refused.iter().filter(|refused| refused.rung == Rung::TakeBack);
            let (Some(read), Some(refused)) = (read, refused.find(|refused| of_itself(&refused.reason))) else {
                return Ok(());
            };
            let fails =
                Failure { cause: decision.read.cause, exception: decision.read.alike.map(|alike| alike.exception) };
            let of = Of { name, part: other(read.part) };
            let could = self.models.get(of).is_some_and(|model| self.could(of, model, &fails, wall_us));
            // The budget is of both.
            let budget = self.generations(name).map_or(0, |policy| policy.rollbacks_per_day as usize);
            return if could && self.models.taken_back(name, wall_us) < budget {
                Err(format!("{of} could go back, and nothing does: {}", refused.reason))
            } else {
                Ok(())
            };
        }
        let Some((of, moved)) = moved_by(record) else { return Ok(()) };
        let theirs = Of { part: other(of.part), ..of };
        let (Some(model), Some(their)) = (self.models.get(of), self.models.get(theirs)) else { return Ok(()) };
        let is_newer = their.newest_change_wall_us() > model.newest_change_wall_us();
        let wrong = match moved {
            Move::Intended { intent } => match intent.aim {
                Aim::TakeBack { failure, .. } => {
                    self.goes(theirs, their) || is_newer && self.could(theirs, their, &failure, wall_us)
                }
                Aim::Deploy { .. } | Aim::Outside | Aim::PutBack { .. } | Aim::Return { .. } => false,
            },
            Move::GoesBack { why: Reason::OnProbation { .. }, .. } => is_newer && self.goes(theirs, their),
            _ => false,
        };
        if wrong { Err(format!("{of} goes back, and {theirs} was to go first: {their:?}")) } else { Ok(()) }
    }
}

impl Oracle for NewestFirst {
    fn name(&self) -> &'static str {
        "newest-first"
    }

    fn guarantee(&self) -> &'static str {
        "what goes back is what was changed last, release or files, of what can; and what has not proved itself before all else"
    }

    fn restart(&mut self, ledger: &[Record]) {
        (self.models, self.runs) = (Models::of(ledger), BTreeMap::new());
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Policy(policy) => crate::oracle::merge(&mut self.policy, policy),
            Seen::Record(record) => {
                let result = self.judge(record);
                self.models.follow(record);
                if let (Some(name), Body::SpawnIntended { generation, files, .. }) = (&record.service, &record.body) {
                    self.runs.insert(name.clone(), Parts { store: generation.clone(), files: files.clone() });
                }
                return result;
            }
            Seen::Event(_) | Seen::Effect(_) | Seen::Fact(_) => {}
        }
        Ok(())
    }
}

/// Nothing is ended for what somebody else has changed.
#[derive(Default)]
pub struct LeftAlone {
    models: Models,
    /// The service of which Hale is told now what a part of it is, and no failure.
    told: Option<Name>,
}

impl Oracle for LeftAlone {
    fn name(&self) -> &'static str {
        "left-alone"
    }

    fn guarantee(&self) -> &'static str {
        "no running process is ended because somebody else has switched a release or edited a file"
    }

    fn restart(&mut self, ledger: &[Record]) {
        *self = Self { models: Models::of(ledger), told: None };
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        if let Seen::Event(event) = seen {
            self.told = if let Event::GenerationSeen { service, .. } = event { Some(service.clone()) } else { None };
        }
        let Seen::Record(record) = seen else { return Ok(()) };
        self.models.follow(record);
        let Some(name) = &record.service else { return Ok(()) };
        let why = match &record.body {
            Body::StopIntended { why, .. } | Body::KillIntended { why, .. } => why,
            Body::Detected { .. } => {
                self.told.take_if(|told| told == name);
                return Ok(());
            }
            _ => return Ok(()),
        };
        let is_theirs = |part| {
            let open = self.models.get(Of { name, part }).and_then(Model::on_probation);
            let to = open.filter(|open| open.intent.aim == Aim::Outside).map(|open| &open.intent.to);
            to.is_some_and(|to| matches!(why, Reason::Switched { to: why } if why == to))
        };
        let is_told = self.told.as_ref() == Some(name) && matches!(why, Reason::Switched { .. } | Reason::MustGo);
        if is_told || Part::ALL.into_iter().any(is_theirs) {
            return Err(format!("{name}: its process is ended because of what somebody else has changed: {why}"));
        }
        Ok(())
    }
}

/// What a process does is not the fault of what it does not run.
#[derive(Default)]
pub struct OfItsProcess {
    models: Models,
    /// What the newest processes really are of, where Hale was told so.
    runs: BTreeMap<Name, Parts<Option<GenerationId>>>,
}

impl Oracle for OfItsProcess {
    fn name(&self) -> &'static str {
        "of-its-process"
    }

    fn guarantee(&self) -> &'static str {
        "a change is blamed only for a process that was made of it, never for one that ran before"
    }

    fn restart(&mut self, ledger: &[Record]) {
        *self = Self { models: Models::of(ledger), runs: BTreeMap::new() };
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        if let Seen::Fact(Fact::SpawnsOf { service, part, current, told, .. }) = seen {
            // Where Hale could not know, it believes what it was told.
            self.runs.entry(service.clone()).or_default()[*part] = current.clone().filter(|_| *told);
        }
        let Seen::Record(record) = seen else { return Ok(()) };
        let model = moved_by(record).and_then(|(of, _)| self.models.get(of));
        let blamed = match moved_by(record) {
            Some((of, Move::GoesBack { why: Reason::OnProbation { .. }, .. })) => {
                model.and_then(|model| model.open.as_ref()).map(|open| (of, open.intent.to.clone()))
            }
            Some((of, Move::Intended { intent })) if matches!(intent.aim, Aim::TakeBack { .. }) => {
                intent.from.clone().map(|from| (of, from))
            }
            _ => None,
        };
        self.models.follow(record);
        let Some((of, blamed)) = blamed else { return Ok(()) };
        match self.runs.get(of.name).and_then(|runs| runs[of.part].as_ref()) {
            Some(ran) if *ran != blamed => Err(format!("{of}: {blamed} is blamed, and the process is of {ran}")),
            Some(_) | None => Ok(()),
        }
    }
}
