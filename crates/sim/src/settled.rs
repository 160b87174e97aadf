//! Which services have come to rest, by what the records say.

use hale_core::ids::{Epoch, GenerationId, Name};
use hale_core::plan::ladder::Verdict;
use hale_core::policy::Policy;
use hale_core::record::{Body, Record};
use hale_core::safeswitch::{Aim, Move, Part, Parts};
use hale_core::world::dependency::Standing;
use std::collections::{BTreeMap, BTreeSet};

/// So many restarts of what cannot work show that nothing else comes of it; a hold shows it at once.
const IN_VAIN: u32 = 6;

/// Where a service stands, as far as rest is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stand {
    Moving(&'static str),
    Healthy,
    Stopped,
    Blocked(Name),
}

/// All services.
#[derive(Debug)]
pub struct Settled {
    /// Dependencies that are not known to be up.
    absent: BTreeSet<Name>,
    /// Those that have a process and are left alone because of what they start after.
    blocked: BTreeMap<Name, Name>,
    /// What each service last had to wait for.
    waited_for: BTreeMap<Name, Name>,
    /// Checks that were added or changed and do not count yet, of which the operator is told.
    unproven: BTreeMap<Name, BTreeSet<Name>>,
    stands: BTreeMap<Name, Stand>,
    /// Switches that are not over, by their stage.
    switching: BTreeMap<(Name, Part), &'static str>,
    /// What somebody else has switched to, which waits for its first process.
    waits: BTreeMap<(Name, Part), GenerationId>,
    /// The newest process on record, and its generations, where they are known.
    runs: BTreeMap<Name, (Epoch, Parts<Option<GenerationId>>)>,
    /// How often something was decided about a service that was not a way out of it, since the faults are over.
    in_vain: BTreeMap<Name, u32>,
}

impl Settled {
    /// Nothing was started yet.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        Self {
            absent: policy.dependencies.keys().cloned().collect(),
            blocked: BTreeMap::new(),
            waited_for: BTreeMap::new(),
            unproven: BTreeMap::new(),
            switching: BTreeMap::new(),
            waits: BTreeMap::new(),
            runs: BTreeMap::new(),
            in_vain: BTreeMap::new(),
            stands: policy.services.keys().map(|name| (name.clone(), Stand::Moving("down"))).collect(),
        }
    }

    /// Takes one record.
    pub fn follow(&mut self, record: &Record) {
        if let Body::Dependency { name, edge } = &record.body {
            match edge.standing() {
                Standing::Up => self.absent.remove(name),
                Standing::Down | Standing::Unknown => self.absent.insert(name.clone()),
            };
        }
        let Some(name) = record.service.clone() else { return };
        self.follow_generations(record);
        match &record.body {
            Body::SpawnIntended { epoch, generation, files, .. } => {
                let runs = Parts { store: generation.clone(), files: files.clone() };
                self.runs.insert(name.clone(), (*epoch, runs));
            }
            // Of what it is nobody knows.
            Body::Adopted { epoch, .. } if self.runs.get(&name).is_none_or(|(newest, _)| newest < epoch) => {
                self.runs.insert(name.clone(), (*epoch, Parts::default()));
            }
            _ => {}
        }
        if let Body::Decided(decision) = &record.body {
            let is_switched = self.switching.keys().any(|(switched, _)| *switched == name);
            let in_vain = self.in_vain.entry(name.clone()).or_default();
            *in_vain += match decision.choice.verdict {
                // What it was switched back to is tried more than once.
                Verdict::Hold { .. } if is_switched => 2,
                Verdict::Hold { .. } => IN_VAIN,
                Verdict::Restart { .. } => 1,
                Verdict::Observe | Verdict::Wait | Verdict::TakeBack { .. } | Verdict::PutBack { .. } => 0,
            };
        }
        let Some(stand) = self.stands.get_mut(&name) else { return };
        if let Body::RunsBlocked { on, .. } | Body::Blocked { on } = &record.body {
            self.waited_for.insert(name.clone(), on.clone());
        }
        match &record.body {
            Body::RunsBlocked { on, .. } => drop(self.blocked.insert(name.clone(), on.clone())),
            Body::Unblocked { .. }
            | Body::SpawnIntended { .. }
            | Body::SpawnFailed { .. }
            | Body::Adopted { .. }
            | Body::Exited { .. }
            | Body::StopIntended { .. }
            | Body::KillIntended { .. } => drop(self.blocked.remove(&name)),
            _ => {}
        }
        match &record.body {
            Body::CheckUnproven { check, .. } => {
                self.unproven.entry(name.clone()).or_default().insert(check.clone());
                *stand = Stand::Moving("check_unproven");
            }
            Body::CheckPassed { check, .. } => {
                self.unproven.get_mut(&name).map(|checks| checks.remove(check));
            }
            Body::SpawnIntended { .. } | Body::Exited { .. } => drop(self.unproven.remove(&name)),
            _ => {}
        }
        *stand = match &record.body {
            Body::BecameHealthy { .. } => Stand::Healthy,
            Body::Stopped { .. } => Stand::Stopped,
            Body::Blocked { on } => Stand::Blocked(on.clone()),
            Body::SpawnIntended { .. }
            | Body::Adopted { .. }
            | Body::SpawnFailed { .. }
            | Body::CheckFailed { .. }
            | Body::Detected { .. }
            | Body::Exited { .. }
            | Body::StopIntended { .. }
            | Body::KillIntended { .. }
            | Body::BackingOff { .. }
            | Body::Held { .. } => Stand::Moving(crate::coverage::body_name(&record.body)),
            _ => return,
        };
    }

    /// Takes what one record says of generations: of these a supervisor knows what the ledger has, also where the journal has lost it.
    pub fn follow_generations(&mut self, record: &Record) {
        if let (Some(name), Some((part, moved))) = (&record.service, record.body.moved()) {
            self.follow_switch(name, part, moved);
        }
    }

    fn follow_switch(&mut self, name: &Name, part: Part, moved: &Move) {
        let stage = match moved {
            Move::Intended { .. } => Some("intended"),
            Move::Begun { .. } => Some("begun"),
            Move::Prepared { .. } => Some("prepared"),
            Move::Undone { .. } => Some("undone"),
            Move::Switched { .. } => Some("switched"),
            Move::Proved { .. } => Some("proved"),
            Move::Promoting { .. } => Some("promoting"),
            Move::GoesBack { .. } => Some("going back"),
            Move::Kept { known } => known.switch.as_ref().map(|switch| switch.stage.as_str()),
            Move::Ended { .. } => None,
            Move::Seen { .. }
            | Move::Unseen { .. }
            | Move::Marked { .. }
            | Move::Soaked { .. }
            | Move::Proven { .. }
            | Move::Settled
            | Move::Quarantined { .. }
            | Move::Cleared { .. } => return,
        };
        let key = (name.clone(), part);
        if let Move::Intended { intent } = moved {
            self.waits.remove(&key);
            if intent.aim == Aim::Outside {
                self.waits.insert(key.clone(), intent.to.clone());
            }
        }
        match stage {
            Some(stage) => drop(self.switching.insert(key, stage)),
            None => drop(self.switching.remove(&key)),
        }
        self.in_vain.remove(name);
    }

    /// From now on nothing misbehaves but what is wrong with generations.
    pub fn faults_end(&mut self) {
        self.in_vain.clear();
    }

    /// Those that are not at rest, in words. Healthy is who is said to be and really `works`; a service that an
    /// operator stopped or that finished is at rest, and so is one that waits for such a one.
    #[must_use]
    pub fn missing(&self, works: impl Fn(&Name) -> bool, is_flawed: impl Fn(&Name) -> bool) -> Vec<String> {
        let mut missing: Vec<String> = self.absent.iter().map(|name| format!("{name} is not said to be up")).collect();
        // Without a process nothing can be shown, and what runs is left alone until it ends.
        let goes_on = |(key, _): &(&(Name, Part), &&str)| {
            let (name, part) = key;
            let runs = self.runs.get(name).and_then(|(_, runs)| runs[*part].as_ref());
            let waits = self.waits.get(*key).is_some_and(|to| runs != Some(to));
            !(waits || self.stands[name] == Stand::Stopped || self.is_left(name, &is_flawed))
        };
        let switching = self.switching.iter().filter(goes_on);
        missing.extend(switching.map(|((name, part), stage)| format!("{name} is being switched: {part:?} {stage}")));
        for (name, stand) in &self.stands {
            match stand {
                // What it runs cannot work, and that it is not taken back is another guarantee's.
                Stand::Moving(_) if self.is_in_vain(name, &is_flawed) => {}
                Stand::Moving(_) if self.unproven.get(name).is_some_and(|checks| !checks.is_empty()) => {}
                Stand::Moving(_) if self.blocked.get(name).is_some_and(|on| self.rests(on, &is_flawed)) => {}
                // It is blocked and unblocked with what it starts after.
                Stand::Moving(_) if self.waited_for.get(name).is_some_and(|on| self.is_in_vain(on, &is_flawed)) => {}
                Stand::Moving(after) => missing.push(format!("{name} is not healthy after {after}")),
                Stand::Healthy if !works(name) => missing.push(format!("{name} is called healthy and does not work")),
                Stand::Blocked(on) if !self.rests(on, &is_flawed) => {
                    missing.push(format!("{name} waits for {on}, which is up"));
                }
                Stand::Healthy | Stand::Blocked(_) | Stand::Stopped => {}
            }
        }
        missing
    }

    /// Whether what it runs cannot work, so that it is never up for long.
    fn is_in_vain(&self, name: &Name, is_flawed: &impl Fn(&Name) -> bool) -> bool {
        is_flawed(name) && self.in_vain.get(name).is_some_and(|times| *times >= IN_VAIN)
    }

    /// Whether it waits for what will never be up.
    fn is_left(&self, name: &Name, is_flawed: &impl Fn(&Name) -> bool) -> bool {
        let is_in_vain = |on| self.is_in_vain(on, is_flawed);
        self.rests(name, is_flawed)
            || self.blocked.get(name).is_some_and(|on| self.rests(on, is_flawed))
            || self.waited_for.get(name).is_some_and(is_in_vain)
    }

    /// Whether a service will never be up without an order.
    fn rests(&self, name: &Name, is_flawed: &impl Fn(&Name) -> bool) -> bool {
        if self.is_in_vain(name, is_flawed) {
            return true;
        }
        match self.stands.get(name) {
            Some(Stand::Stopped) => true,
            Some(Stand::Blocked(on)) => self.rests(on, is_flawed),
            Some(Stand::Moving(_)) => {
                let is_unproven = self.unproven.get(name).is_some_and(|checks| !checks.is_empty());
                is_unproven || self.blocked.get(name).is_some_and(|on| self.rests(on, is_flawed))
            }
            Some(Stand::Healthy) | None => false,
        }
    }
}
