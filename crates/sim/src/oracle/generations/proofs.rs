//! Guarantees about proofs: what has to be seen for how long, judged from what Hale was told of processes and probes.

use super::stores::Synced;
use super::{Models, Of, moved_by};
use crate::kernel::Fact;
use crate::oracle::{Oracle, Seen};
use hale_core::effect::{Effect, Fence, Order};
use hale_core::event::{Event, ProbeFailure};
use hale_core::ids::{Epoch, GenerationId, Name, ProbeId, RecordId};
use hale_core::policy::{Policy, Ready};
use hale_core::reason::Reason;
use hale_core::record::{Body, Finding, Record};
use hale_core::safeswitch::{End, Move, Part, Parts};
use hale_core::time::Span;
use std::collections::{BTreeMap, BTreeSet};

/// Nothing is committed without a proof on the disk.
#[derive(Default)]
pub struct ProofsFirst {
    models: Models,
    synced: Synced,
}

impl Oracle for ProofsFirst {
    fn name(&self) -> &'static str {
        "proofs-first"
    }

    fn guarantee(&self) -> &'static str {
        "nothing is committed, and no store is told that it stays, before the proof of that switch is durable"
    }

    fn restart(&mut self, ledger: &[Record]) {
        *self = Self { models: Models::of(ledger), synced: Synced::of(ledger) };
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        self.synced.see(seen);
        let (of, switch) = match seen {
            Seen::Record(record) => match moved_by(record) {
                Some((of, Move::Ended { switch, end: End::Committed })) => (of, switch),
                _ => {
                    self.models.follow(record);
                    return Ok(());
                }
            },
            Seen::Effect(Effect {
                fence: Fence::Service { service: name, .. },
                order: Order::Promote { part, switch, .. },
                ..
            }) => (Of { name, part: *part }, switch),
            Seen::Effect(_) | Seen::Event(_) | Seen::Fact(_) | Seen::Policy(_) => return Ok(()),
        };
        let open = self.models.get(of).and_then(|model| model.open.as_ref()).filter(|open| open.id == *switch);
        let is_proved = open.and_then(|open| open.proved).is_some_and(|proved| self.synced.has(proved));
        if let Seen::Record(record) = seen {
            self.models.follow(record);
        }
        if is_proved { Ok(()) } else { Err(format!("{of}: switch {switch} is committed without a durable proof")) }
    }
}

/// What Hale was told of one service's process.
#[derive(Debug, Clone, Default)]
struct Told {
    epoch: Epoch,
    runs: Parts<Option<GenerationId>>,
    /// Its program is executed.
    lives: bool,
    /// How often each check has failed, or passed, since it did the other.
    rows: BTreeMap<Name, Row>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Row {
    fails: bool,
    passed: bool,
    failures: u32,
    successes: u32,
}

/// The same of all services.
struct Tellings {
    policy: Policy,
    told: BTreeMap<Name, Told>,
    /// The state of the files that each newest process is on record with.
    files: BTreeMap<Name, Option<GenerationId>>,
    probes: BTreeMap<(Name, ProbeId), Name>,
}

impl Tellings {
    fn new(policy: &Policy) -> Self {
        Self { policy: policy.clone(), told: BTreeMap::new(), files: BTreeMap::new(), probes: BTreeMap::new() }
    }

    fn see(&mut self, seen: Seen<'_>) {
        match seen {
            Seen::Policy(policy) => crate::oracle::merge(&mut self.policy, policy),
            Seen::Effect(Effect {
                fence: Fence::Service { service, epoch },
                order: Order::Spawn { generation, .. },
                ..
            }) => {
                let files = self.files.get(service).cloned().flatten();
                let runs = Parts { store: generation.clone(), files };
                let told = Told { epoch: *epoch, runs, ..Told::default() };
                self.told.insert(service.clone(), told);
            }
            Seen::Effect(Effect {
                fence: Fence::Service { service, .. },
                order: Order::Probe { probe, check, policy, .. },
                ..
            }) => {
                let check = &policy.checks[*check].name;
                // What the one before says when it was given up counts neither way.
                self.probes.retain(|(of, _), its| of != service || its != check);
                self.probes.insert((service.clone(), *probe), check.clone());
            }
            Seen::Event(Event::Executed { service, epoch }) => self.set_lives(service, *epoch, true),
            Seen::Event(Event::Exited { service, epoch, .. } | Event::SpawnFailed { service, epoch, .. }) => {
                self.set_lives(service, *epoch, false);
            }
            Seen::Event(Event::TakeOver { found, .. }) => {
                for (service, found) in found {
                    let runs = matches!(found.life, hale_core::event::Life::Running { .. });
                    self.set_lives(service, found.epoch, runs);
                }
            }
            Seen::Event(Event::Probed { service, epoch, probe, outcome }) => {
                let check = self.probes.remove(&(service.clone(), *probe));
                let Some(check) = check else { return };
                let Some(told) = self.told.get_mut(service).filter(|told| told.epoch == *epoch) else { return };
                let policies = self.policy.services.get(service).map(|service| service.checks.as_slice());
                let Some(policy) = policies.unwrap_or_default().iter().find(|policy| policy.name == check) else {
                    return;
                };
                let row = told.rows.entry(check).or_default();
                match outcome.failure {
                    None => {
                        (row.successes, row.failures) = (row.successes + 1, 0);
                        if row.successes >= policy.successes {
                            (row.passed, row.fails) = (true, false);
                        }
                    }
                    // That says nothing of the service.
                    Some(ProbeFailure::Unable | ProbeFailure::Unresolved) => {}
                    Some(_) if outcome.late_us > 0 => {}
                    Some(_) => {
                        (row.failures, row.successes) = (row.failures + 1, 0);
                        row.fails |= row.failures >= policy.failures;
                    }
                }
            }
            Seen::Record(Record { service: Some(service), body: Body::SpawnIntended { files, .. }, .. }) => {
                self.files.insert(service.clone(), files.clone());
            }
            // Failures are counted from the beginning.
            Seen::Record(Record { body: Body::HostStalled { .. }, .. }) => {
                self.told.values_mut().for_each(|told| told.rows.clear());
            }
            Seen::Effect(_) | Seen::Event(_) | Seen::Record(_) | Seen::Fact(_) => {}
        }
    }

    fn set_lives(&mut self, service: &Name, epoch: Epoch, lives: bool) {
        if let Some(told) = self.told.get_mut(service).filter(|told| told.epoch == epoch) {
            told.lives = lives;
        }
    }

    /// Whether a process of this generation runs, and none of its checks is seen to fail but for these.
    fn holds(&self, of: Of<'_>, generation: &GenerationId, but_for: &BTreeSet<Name>) -> bool {
        self.told.get(of.name).is_some_and(|told| {
            let fails = |(check, row): (&Name, &Row)| row.fails && !but_for.contains(check);
            told.lives && told.runs[of.part].as_ref() == Some(generation) && !told.rows.iter().any(fails)
        })
    }

    fn restart(&mut self) {
        self.told.clear();
        self.probes.clear();
    }
}

/// How long something on probation was seen to hold.
#[derive(Debug, Clone, Default)]
struct Seeing {
    total_us: u64,
    since: Option<u64>,
}

/// A proof is what was seen.
pub struct Probation {
    tellings: Tellings,
    models: Models,
    seeing: BTreeMap<(Name, RecordId), Seeing>,
}

impl Probation {
    /// For these services.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        Self { tellings: Tellings::new(policy), models: Models::default(), seeing: BTreeMap::new() }
    }

    /// Closes what was seen until now, and opens what is seen from now on.
    fn look(&mut self, now_us: u64, nobody: bool) {
        for (of, model) in self.models.all() {
            let Some(open) = &model.open else { continue };
            let Of { name, .. } = of;
            let intent = &open.intent;
            let holds =
                !nobody && model.on_probation().is_some() && self.tellings.holds(of, &intent.to, &intent.failed_before);
            let seeing = self.seeing.entry((name.clone(), open.id)).or_default();
            let before = seeing.since.map_or(0, |since| now_us - since);
            seeing.total_us += before;
            seeing.since = holds.then_some(now_us);
        }
    }
}

impl Oracle for Probation {
    fn name(&self) -> &'static str {
        "probation"
    }

    fn guarantee(&self) -> &'static str {
        "a change is proved only when all its checks were seen to hold in a process of it for the whole probation"
    }

    fn restart(&mut self, ledger: &[Record]) {
        self.tellings.restart();
        self.models = Models::of(ledger);
        self.seeing.values_mut().for_each(|seeing| seeing.since = None);
    }

    fn see(&mut self, now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        if self.tellings.policy.services.values().all(|service| service.generations.is_none()) {
            return Ok(());
        }
        let mut result = Ok(());
        if let Seen::Record(record) = seen {
            if let Some((Of { name, .. }, Move::Proved { switch })) = moved_by(record) {
                self.look(now_us, false);
                let policy = self.tellings.policy.services.get(name).and_then(|policy| policy.generations.as_ref());
                let needed = policy.map_or(Span::ZERO, |policy| policy.probation);
                let seeing = self.seeing.get(&(name.clone(), *switch)).cloned().unwrap_or_default();
                if seeing.total_us < needed.as_us() {
                    let held = Span::from_us(seeing.total_us);
                    result = Err(format!("{name}: switch {switch} is proved after {held} of {needed}"));
                }
            }
            let is_of_generations = record.body.moved().is_some();
            if matches!(record.body, Body::SpawnIntended { .. }) {
                self.tellings.see(seen);
            }
            self.models.follow(record);
            if is_of_generations {
                self.look(now_us, false);
            }
            return result;
        }
        self.tellings.see(seen);
        let nobody = matches!(seen, Seen::Fact(Fact::SupervisorDied));
        if nobody || matches!(seen, Seen::Event(_)) || matches!(seen, Seen::Effect(effect) if effect.order.acts()) {
            self.look(now_us, nobody);
        }
        result
    }
}

/// Rolled back is what works again.
pub struct RolledBack {
    tellings: Tellings,
    models: Models,
}

impl RolledBack {
    /// For these services.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        Self { tellings: Tellings::new(policy), models: Models::default() }
    }
}

impl Oracle for RolledBack {
    fn name(&self) -> &'static str {
        "rolled-back"
    }

    fn guarantee(&self) -> &'static str {
        "a switch is called rolled back only when a process of what it went back to runs and all its checks pass"
    }

    fn restart(&mut self, ledger: &[Record]) {
        self.tellings.restart();
        self.models = Models::of(ledger);
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        self.tellings.see(seen);
        let Seen::Record(record) = seen else { return Ok(()) };
        self.models.follow(record);
        let Some((of, Move::Ended { end: End::RolledBack { .. }, .. })) = moved_by(record) else { return Ok(()) };
        let name = of.name;
        let current = self.models.get(of).and_then(|model| model.current.as_ref());
        match current {
            Some(current) if self.tellings.holds(of, current, &BTreeSet::new()) => Ok(()),
            Some(current) => {
                let told = self.tellings.told.get(name);
                Err(format!("{of}: called rolled back to {current}, which is not seen to work: {told:?}"))
            }
            None => Err(format!("{of}: called rolled back to nothing")),
        }
    }
}

/// What failed before a switch is not a reason to go back.
#[derive(Default)]
pub struct FailedBefore {
    /// Checks that an incident in progress is about, and that have not passed since.
    failing: BTreeMap<Name, BTreeSet<Name>>,
    /// Services with an incident about a start that waited for checks in vain, of which none has passed since.
    unready: BTreeSet<Name>,
    /// Those that failed when the newest switch of a part began.
    before: BTreeMap<(Name, Part), BTreeSet<Name>>,
    /// The check that the newest failure is about.
    detected: BTreeMap<Name, Option<Name>>,
}

impl FailedBefore {
    fn follow_switch(&mut self, of: Of<'_>, moved: &Move) -> Result<(), String> {
        let Of { name, part } = of;
        let failing = self.failing.entry(name.clone()).or_default();
        let key = (name.clone(), part);
        match moved {
            Move::Intended { intent } => {
                let missing = failing.iter().find(|check| !intent.failed_before.contains(*check));
                let missing = missing.filter(|_| intent.aim.proves()).cloned();
                self.before.insert(key, failing.clone());
                if let Some(check) = missing {
                    return Err(format!("{of}: check {check} fails, and that is not on record with the switch"));
                }
                if self.unready.contains(name) && intent.aim.proves() && intent.failed_before.is_empty() {
                    return Err(format!("{of}: its checks do not pass, and that is not on record with the switch"));
                }
            }
            Move::GoesBack { why: Reason::OnProbation { .. }, .. } => {
                let check = self.detected.get(name).cloned().flatten();
                let before = self.before.get(&key);
                if let Some(check) = check.filter(|check| before.is_some_and(|before| before.contains(check))) {
                    return Err(format!("{of}: goes back because of check {check}, which failed before"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Oracle for FailedBefore {
    fn name(&self) -> &'static str {
        "failed-before"
    }

    fn guarantee(&self) -> &'static str {
        "a check that an incident before a switch is about is on record with it, and never the reason to go back"
    }

    fn restart(&mut self, _ledger: &[Record]) {
        self.failing.clear();
        self.unready.clear();
        self.detected.clear();
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        let Seen::Record(record) = seen else { return Ok(()) };
        if let Body::Reloaded(_) | Body::TookOver { .. } | Body::HostStalled { .. } = &record.body {
            // Checks may be others now, or what failed counts no more.
            self.failing.clear();
            self.unready.clear();
        }
        let Some(name) = &record.service else { return Ok(()) };
        if let Some((of, moved)) = moved_by(record) {
            return self.follow_switch(of, moved);
        }
        let failing = self.failing.entry(name.clone()).or_default();
        match &record.body {
            Body::CheckPassed { check, .. } => {
                failing.remove(check);
                self.unready.remove(name);
            }
            Body::IncidentClosed { .. } | Body::Forgotten => {
                failing.clear();
                self.unready.remove(name);
            }
            Body::Detected { finding, blocked, .. } => {
                let check = match finding {
                    Finding::Check { check, .. } | Finding::NoHeartbeat { check, .. } => Some(check.clone()),
                    _ => None,
                };
                if blocked.is_none() {
                    failing.extend(check.clone());
                    if let Finding::StartTimeout { ready: Ready::Check, .. } = finding {
                        self.unready.insert(name.clone());
                    }
                }
                self.detected.insert(name.clone(), check);
            }
            _ => {}
        }
        Ok(())
    }
}
