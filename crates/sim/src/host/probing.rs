//! Probes of the fake host: what they find, how long they take, and what becomes of their results.

use super::FakeHost;
use crate::dependency;
use crate::fate::{Fate, MEMORY_BOUND};
use crate::fault::Fault;
use crate::kernel::Fact;
use crate::oracle::Seen;
use crate::rng::Rng;
use crate::scenario::BEGIN_US;
use crate::timeline::Item;
use hale_core::analyze::checks::PROBE_LOST_AFTER;
use hale_core::event::{Event, ProbeFailure, ProbeOutcome};
use hale_core::ids::{Epoch, Name, ProbeId};
use hale_core::incident::Blame;
use hale_core::policy::{CheckKind, CheckPolicy, DependencyPolicy, ServicePolicy};

/// What is said of a probe for which Hale itself was late.
pub const STARVED: &str = "no answer seen in time";

impl FakeHost<'_> {
    pub(super) fn probe(&mut self, service: &Name, epoch: Epoch, probe: ProbeId, check: usize, policy: &ServicePolicy) {
        let now = self.timeline.now();
        let Some(dice) = self.probe_dice.get_mut(service) else { return };
        let check_policy = &policy.checks[check];
        let life = self.kernel.life(service, epoch);
        let (took_us, mut failure) = answer(dice, &check_policy.kind, check_policy.timeout.as_us(), life, now);
        let scenario = self.scenario;
        let mut faults: Vec<Blame> = failure.map(|_| Blame::Service).into_iter().collect();
        let misses = |on: &Name| !self.faults_over && scenario.downs.is_down(on, now - BEGIN_US);
        if failure.is_none()
            && dependency::hurts(scenario.seed, &scenario.rates, scenario.index(service))
            && policy.after.iter().any(misses)
        {
            self.coverage.fault(Fault::DependencyHurts);
            failure = Some(ProbeFailure::Wrong);
            faults.push(Blame::Dependency);
        }
        let mut figure = None;
        if let (CheckKind::Memory { .. }, Some((fate, Some(executed_at)))) = (&check_policy.kind, life) {
            let level = fate.memory(now.saturating_sub(executed_at));
            figure = Some(level + dice.below(1 << 20));
            if level >= MEMORY_BOUND {
                failure = Some(ProbeFailure::Wrong);
                faults.push(Blame::Service);
            }
            if fate.leaks > 0 {
                self.coverage.fault(Fault::Leak);
                let fact = Fact::Leaks { service: service.clone(), epoch };
                self.judges.see(now, Seen::Fact(&fact));
            }
        }
        let mut took_us = took_us;
        if check_policy.kind.connects() && !self.faults_over && scenario.is_mute(now - BEGIN_US) {
            self.coverage.fault(Fault::ProbingFails);
            (failure, took_us) = (Some(ProbeFailure::Timeout), check_policy.timeout.as_us());
            faults.push(Blame::Probe);
        }
        let is_heard = self.answered(service, epoch, probe, check_policy, (took_us, failure, figure));
        // A row of failures ends with what Hale heard to pass.
        if is_heard || !faults.is_empty() {
            self.truths.probed(service, &check_policy.name, &faults, (now, now + took_us));
        }
    }

    /// A probe of a dependency, which is there unless it is down.
    pub(super) fn probe_dependency(&mut self, name: &Name, probe: ProbeId, check: usize, policy: &DependencyPolicy) {
        let now = self.timeline.now();
        let Some(dice) = self.probe_dice.get_mut(name) else { return };
        let timeout = policy.checks[check].timeout;
        let quick = dice.scaled(50, 5_000.min(timeout.as_us()));
        let hangs = dice.chance(500);
        let found = match (!self.faults_over && self.scenario.downs.is_down(name, now - BEGIN_US), hangs) {
            (false, _) => (quick, None),
            (true, false) => (quick, Some(ProbeFailure::Wrong)),
            (true, true) => (timeout.as_us(), Some(ProbeFailure::Timeout)),
        };
        if found.1.is_some() {
            self.coverage.fault(Fault::DependencyDown);
        }
        self.answered(name, Epoch(0), probe, &policy.checks[check], (found.0, found.1, None));
    }

    /// Plans the answer to a probe that takes so long and finds this, unless something comes between. `true`: nothing does.
    fn answered(
        &mut self,
        service: &Name,
        epoch: Epoch,
        probe: ProbeId,
        check: &CheckPolicy,
        (took_us, failure, figure): (u64, Option<ProbeFailure>, Option<u64>),
    ) -> bool {
        let now = self.timeline.now();
        let Some(dice) = self.probe_dice.get_mut(service) else { return false };
        let unable = !self.faults_over && dice.chance(self.scenario.rates.of(Fault::ProbeUnable));
        let starved = !self.faults_over && self.starved_dice.chance(self.scenario.rates.of(Fault::Starved));
        let timeout_us = check.timeout.as_us();
        let (mut took_us, mut late_us) = (took_us, 0);
        if starved {
            self.coverage.fault(Fault::Starved);
            late_us = self.starved_dice.within(timeout_us / 4 + 1, 20 * timeout_us);
            took_us = took_us.max(timeout_us);
        }
        let (failure, detail) = match failure {
            _ if starved => (Some(ProbeFailure::Timeout), STARVED),
            _ if unable => (Some(ProbeFailure::Unable), "too many open files"),
            Some(failure) => (Some(failure), "no good answer"),
            None => (None, "200 OK"),
        };
        if unable && !starved {
            self.coverage.fault(Fault::ProbeUnable);
        }
        let detail = String::from(detail);
        let until_us = now + took_us;
        let fact = Fact::Probing { service: service.clone(), epoch, check: check.name.clone(), until_us };
        self.judges.see(now, Seen::Fact(&fact));
        let outcome = ProbeOutcome { took_us, failure, detail, figure: figure.filter(|_| !unable), late_us };
        let event = Event::Probed { service: service.clone(), epoch, probe, outcome };
        let lost = dice.chance(self.scenario.rates.of(Fault::ProbeLost));
        let late = dice.chance(self.scenario.rates.of(Fault::ProbeLate));
        let later = dice.scaled(1_000, 2_000_000);
        if self.faults_over || !(lost || late) {
            self.timeline.after(took_us, Item::Tell(event));
        } else if late {
            let after = check.timeout.plus(PROBE_LOST_AFTER).as_us() + later;
            self.timeline.after(after, Item::TellFault(Fault::ProbeLate, event));
        } else {
            self.coverage.fault(Fault::ProbeLost);
        }
        !(starved || unable || (!self.faults_over && (lost || late)))
    }
}

/// What a probe finds and how long it takes.
fn answer(
    dice: &mut Rng,
    kind: &CheckKind,
    timeout_us: u64,
    life: Option<(&Fate, Option<u64>)>,
    now: u64,
) -> (u64, Option<ProbeFailure>) {
    let quick = dice.scaled(50, 5_000.min(timeout_us));
    let Some((fate, Some(executed_at))) = life else { return (quick, Some(ProbeFailure::Wrong)) };
    let age = now.saturating_sub(executed_at);
    let since = |at: Option<u64>| at.is_some_and(|at| at <= age);
    match kind {
        // What a process has it has also while it hangs.
        CheckKind::Listen { .. } => {
            let fails = !since(fate.up_after) || since(fate.wrong_after);
            return (quick, fails.then_some(ProbeFailure::Wrong));
        }
        CheckKind::Memory { .. } | CheckKind::Cpu { .. } | CheckKind::OpenFiles { .. } => {
            return (quick, since(fate.wrong_after).then_some(ProbeFailure::Wrong));
        }
        CheckKind::Http(_)
        | CheckKind::Tcp { .. }
        | CheckKind::Exec { .. }
        | CheckKind::Heartbeat { .. }
        | CheckKind::Grpc { .. }
        | CheckKind::Metric(_)
        | CheckKind::Progress(_)
        | CheckKind::LoopLag(_) => {}
    }
    if since(fate.hangs_after) {
        let killed = matches!(kind, CheckKind::Exec { .. });
        return (timeout_us, Some(if killed { ProbeFailure::Killed } else { ProbeFailure::Timeout }));
    }
    if !since(fate.up_after) {
        let is_scraped = matches!(kind, CheckKind::Metric(_) | CheckKind::Progress(_) | CheckKind::LoopLag(_));
        return (quick, Some(if is_scraped { ProbeFailure::Refused } else { ProbeFailure::Wrong }));
    }
    if since(fate.wrong_after) {
        return (quick, Some(ProbeFailure::Wrong));
    }
    match kind {
        CheckKind::Http(http) if since(fate.slow_after) => match http.faster_than {
            Some(limit) => {
                (dice.within(limit.as_us() + 1, timeout_us.max(limit.as_us() + 1)), Some(ProbeFailure::Slow))
            }
            None => (dice.within(quick, timeout_us), None),
        },
        CheckKind::Http(_)
        | CheckKind::Tcp { .. }
        | CheckKind::Exec { .. }
        | CheckKind::Heartbeat { .. }
        | CheckKind::Memory { .. }
        | CheckKind::Cpu { .. }
        | CheckKind::OpenFiles { .. }
        | CheckKind::Listen { .. }
        | CheckKind::Grpc { .. }
        | CheckKind::Metric(_)
        | CheckKind::Progress(_)
        | CheckKind::LoopLag(_) => (quick, None),
    }
}
