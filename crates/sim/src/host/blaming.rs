//! Whose fault each failure of the fake host really is: known here, where faults are made, and never told to the core.

use super::FakeHost;
use crate::kernel::Fact;
use crate::oracle::Seen;
use crate::scenario::BEGIN_US;
use crate::timeline::Item;
use hale_core::analyze::blame::{Control, Controls};
use hale_core::event::Event;
use hale_core::ids::{Name, ProbeId};
use hale_core::incident::{Blame, Cause};
use hale_core::record::{Body, Finding, Record};
use std::collections::BTreeMap;

/// How long after a dependency came back what it did may still be found, in microseconds: its own checks may be far between.
const HURTS_LONG_US: u64 = 3_600_000_000;

/// What is really so.
#[derive(Debug, Default)]
pub(super) struct Truths {
    /// Whose fault it is that the newest failures in a row of each check of a service failed.
    rows: BTreeMap<(Name, Name), Row>,
    /// The newest detection of each service.
    detected: BTreeMap<Name, (Cause, Finding)>,
}

/// Failures in a row.
#[derive(Debug, Default)]
struct Row {
    faults: Vec<Blame>,
    /// When the probe that ends it has its answer.
    over_at: Option<u64>,
}

impl Truths {
    /// A probe fails through the fault of these; of nobody: it will have passed by then, and the row is over.
    pub(super) fn probed(&mut self, service: &Name, check: &Name, faults: &[Blame], (now, by): (u64, u64)) {
        let row = self.rows.entry((service.clone(), check.clone())).or_default();
        if row.over_at.take_if(|over_at| *over_at <= now).is_some() {
            row.faults.clear();
        }
        row.faults.extend(faults);
        row.faults.sort_unstable();
        row.faults.dedup();
        row.over_at = faults.is_empty().then_some(by);
    }

    /// Whose fault the failure of a check is.
    fn of_check(&self, service: &Name, check: &Name) -> Vec<Blame> {
        self.rows.get(&(service.clone(), check.clone())).map(|row| row.faults.clone()).unwrap_or_default()
    }
}

impl FakeHost<'_> {
    /// Makes the control probes.
    pub(super) fn control(&mut self, probe: ProbeId) {
        let passed = || Control::Passed { took_us: 300 };
        let is_mute = !self.faults_over && self.scenario.is_mute(self.timeline.now() - BEGIN_US);
        // Half of those that do not get through do not come back either.
        if is_mute && probe.0.is_multiple_of(2) {
            return;
        }
        let failed = Control::Failed { detail: String::from("no answer") };
        let probing = Some(if is_mute { failed } else { passed() });
        let controls = Controls { probing, disk: Some(passed()) };
        self.timeline.after(if is_mute { 400_000 } else { 500 }, Item::Tell(Event::Controlled { probe, controls }));
    }

    /// Compares who is blamed with whose fault it is.
    pub(super) fn compare_blame(&mut self, record: &Record) {
        let Some(service) = &record.service else { return };
        let (judged, truth) = match &record.body {
            Body::Detected { cause, finding, .. } => {
                self.truths.detected.insert(service.clone(), (*cause, finding.clone()));
                return;
            }
            Body::NotItsFault { check: Some(check), judged, .. } => (judged, self.truths.of_check(service, check)),
            Body::NotItsFault { check: None, judged, .. } => (judged, self.truth_of_start(service)),
            Body::Blamed(judged) => {
                let Some((cause, finding)) = self.truths.detected.get(service) else { return };
                (judged, self.truth(service, *cause, finding))
            }
            _ => return,
        };
        let blamed = judged.judgement.blame;
        let is_wrong = blamed != Blame::Unknown && !truth.contains(&blamed);
        // What several are at fault for counts for the one that was blamed.
        let whose = truth.iter().find(|whose| **whose == blamed).or(truth.first()).copied().unwrap_or(Blame::Unknown);
        self.coverage.blame(whose, blamed);
        if is_wrong {
            let fact = Fact::Misjudged { service: service.clone(), blamed, truth };
            self.judges.see(self.timeline.now(), Seen::Fact(&fact));
        }
    }

    /// Whose fault a detected failure is: any of these.
    fn truth(&self, service: &Name, cause: Cause, finding: &Finding) -> Vec<Blame> {
        let mut truth = match (cause, finding) {
            // What a machine has too little of, a service may have too much of: nobody can be sure.
            (Cause::Oom | Cause::Memory, Finding::Check { .. } | Finding::StartTimeout { .. }) => {
                vec![Blame::Unknown, Blame::Probe]
            }
            (Cause::Oom | Cause::Memory, _) => vec![Blame::Unknown],
            (_, Finding::Spawn { failure }) if failure.step == "exec" => vec![Blame::Service],
            (_, Finding::Spawn { .. }) => vec![Blame::Host],
            (_, Finding::Check { check, .. }) => self.truths.of_check(service, check),
            (_, Finding::StartTimeout { .. }) => self.truth_of_start(service),
            // It ended by itself, or it says nothing.
            _ => vec![Blame::Service],
        };
        if self.was_missed(service) {
            truth.push(Blame::Dependency);
        }
        // What fails on probation is the change's: nobody can tell what its process would have done without it.
        if truth.contains(&Blame::Service) && self.stores.has(service) {
            truth.push(Blame::Change);
        }
        truth
    }

    /// Whether something that a service starts after is, or was not long ago, down, or is a service itself, which may have failed.
    fn was_missed(&self, service: &Name) -> bool {
        let now = self.timeline.now() - BEGIN_US;
        let is_missed = |on: &Name| {
            let is_service = self.scenario.policy.services.contains_key(on);
            is_service || self.scenario.downs.is_down_within(on, now.saturating_sub(HURTS_LONG_US), now)
        };
        // Whichever of them is in force.
        let policies = self.scenario.reloads.iter().filter_map(|reload| reload.policy.as_ref());
        let mut policies = policies.chain([&self.scenario.policy]);
        policies.any(|policy| policy.services.get(service).is_some_and(|policy| policy.after.iter().any(is_missed)))
    }

    /// Whose fault it is that a service did not become ready.
    fn truth_of_start(&self, service: &Name) -> Vec<Blame> {
        let rows = self.truths.rows.iter().filter(|((of, _), _)| of == service);
        let mut truth: Vec<Blame> = rows.flat_map(|(_, row)| row.faults.clone()).collect();
        // By its process: it was never going to work, or said nothing of it.
        truth.push(Blame::Service);
        // Nobody could have seen it in the last second, which the control probes take at most.
        let now = self.timeline.now() - BEGIN_US;
        if (0..=10).any(|tenth| self.scenario.is_mute(now.saturating_sub(tenth * 100_000))) {
            truth.push(Blame::Probe);
        }
        truth
    }
}
