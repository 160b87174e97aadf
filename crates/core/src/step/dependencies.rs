//! Dependencies: their probes, and what the results mean for whether they are there.

use super::Brain;
use crate::analyze::checks::{CheckState, Edge, heard};
use crate::effect::{Fence, Order};
use crate::event::{ProbeFailure, ProbeOutcome};
use crate::ids::{Name, ProbeId};
use crate::record::Body;
use crate::world::dependency::{DependencyEdge, Standing};
use alloc::vec::Vec;

impl Brain<'_> {
    /// Begins to probe all of them, with a probe at once: services may wait for the result.
    pub(super) fn begin_dependencies(&mut self) {
        let now = self.now();
        for (name, dependency) in &mut self.world.dependencies {
            dependency.begin(now);
            self.touched.insert(name.clone());
        }
    }

    /// Orders the probes of a dependency that are due, and gives up on lost results.
    pub(super) fn dependency_due(&mut self, name: &Name) {
        let now = self.now();
        if self.world.ending.is_some() {
            return;
        }
        let Some(dependency) = self.world.dependencies.get_mut(name) else { return };
        let policy = dependency.policy.clone();
        let mut started = Vec::new();
        let mut is_lost = false;
        let checks = policy.checks.iter().zip(&mut dependency.checks).zip(&mut dependency.answered);
        for (index, ((check, (_, probing)), answered)) in checks.enumerate() {
            match (probing.in_flight, probing.due) {
                (Some((_, lost_at)), _) if lost_at <= now => {
                    probing.lost(check, now);
                    (*answered, is_lost) = (Some(now), true);
                }
                (None, Some(due)) if due <= now => {
                    let probe = self.world.next_probe;
                    self.world.next_probe = probe.next();
                    probing.start(probe, check, now);
                    started.push((index, probe));
                }
                _ => {}
            }
        }
        for (check, probe) in started {
            let (dependency, policy) = (name.clone(), policy.clone());
            self.push_effect(Fence::Host, Order::ProbeDependency { dependency, probe, check, policy });
        }
        if is_lost {
            self.answer_askers(name);
        }
    }

    /// A probe of a dependency ended.
    pub(super) fn dependency_probed(&mut self, name: &Name, probe: ProbeId, outcome: &ProbeOutcome) {
        let now = self.now();
        self.touched.insert(name.clone());
        let Some(dependency) = self.world.dependencies.get_mut(name) else { return };
        let policy = dependency.policy.clone();
        let answers = dependency.answered.iter_mut().zip(&mut dependency.passed_before);
        let mut checks = policy.checks.iter().zip(&mut dependency.checks).zip(answers);
        let ours = checks.find(|((_, (_, probing)), _)| probing.in_flight.is_some_and(|(id, _)| id == probe));
        let Some(((check, (state, probing)), (answered, passed_before))) = ours else { return };
        let passed_last = probing.last.as_ref().is_some_and(|last| last.failure.is_none());
        *passed_before = answered.filter(|_| passed_last && outcome.failure.is_none());
        *answered = Some(now);
        if outcome.failure.is_some_and(|failure| failure != ProbeFailure::Unable) {
            dependency.failed_at = Some(now);
        }
        let outcome = &*heard(check, outcome);
        // What could not be run says nothing.
        let edge = match outcome.failure {
            Some(ProbeFailure::Unable) => Edge::None,
            failure => probing.edge(*state, check, failure.is_none()),
        };
        probing.finish(name, check, outcome.clone(), now);
        match edge {
            Edge::None => {}
            Edge::Failing { failures } | Edge::Failed { failures } => *state = CheckState::Failing { failures },
            Edge::Passes => *state = CheckState::Passing,
        }
        let is_up = dependency.all_pass();
        let edge = match (edge, outcome.failure, dependency.known.standing) {
            (Edge::Passes, _, Standing::Unknown | Standing::Down) if is_up => Some(DependencyEdge::Up),
            (Edge::Failed { failures }, Some(failure), Standing::Unknown | Standing::Up) => {
                let (check, detail) = (check.name.clone(), outcome.detail.clone());
                Some(DependencyEdge::Down { check, failures, failure, detail })
            }
            _ => None,
        };
        if let Some(edge) = edge {
            self.record_in(None, None, Body::Dependency { name: name.clone(), edge });
        }
        self.answer_askers(name);
    }
}
