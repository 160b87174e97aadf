//! Time in which nobody looked: the loop came late, or the machine slept. It counts against no service.

use super::World;
use super::dependency::Dependency;
use super::service::Service;
use crate::analyze::checks::CheckState;
use crate::ids::Name;
use crate::policy::CheckPolicy;
use crate::time::{Monotonic, Now, Span};
use alloc::vec::Vec;

/// From when on the loop is so late that what fell due meanwhile may be its own fault: well above what a busy machine makes of a timer,
/// so that it is a rare record, and below the shortest times that services are given. How long the loop was away before that,
/// it cannot know: it may have had nothing to do.
pub const LATE_FROM: Span = Span::from_ms(250);

/// From when on a sleep of the machine is worth a record.
pub const SLEPT_FROM: Span = Span::from_secs(1);

/// How long nobody looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lateness {
    /// The loop should have come, and did not: since its last step, as it is not known when it was stopped.
    pub(crate) late: Span,
    /// The machine was suspended.
    pub(crate) slept: Span,
}

impl World {
    /// Compares the clocks with those of the step before.
    pub(crate) fn lateness(&mut self, at: Now) -> Option<Lateness> {
        let last = self.last_step;
        let due = self.next_deadline();
        let ahead_us = at.boot_us.saturating_sub(at.mono.as_us());
        let slept = Span::from_us(ahead_us.saturating_sub(self.suspended_us));
        (self.suspended_us, self.last_step) = (ahead_us, Some(at.mono));
        let last = last?;
        let overdue = due.map_or(Span::ZERO, |due| at.mono.since(due.max(last)));
        let late = if overdue >= LATE_FROM { at.mono.since(last) } else { Span::ZERO };
        let slept = if slept >= SLEPT_FROM { slept } else { Span::ZERO };
        let lateness = Lateness { late, slept };
        (lateness.late.max(lateness.slept) > Span::ZERO).then_some(lateness)
    }

    /// Moves the deadlines of heartbeats, starts and stops on by `late`, and has failures in a row counted from the beginning.
    pub(crate) fn credit(&mut self, late: Span) {
        self.services.values_mut().for_each(|service| service.credit(late));
        self.dependencies.values_mut().for_each(|dependency| dependency.credit(late));
        self.askers.clear();
    }

    /// A supervisor takes over: what nobody saw since the last record counts for no proof.
    pub(crate) fn resume_proofs(&mut self, now: Monotonic) {
        let all = self.services.values_mut().flat_map(|service| service.known.proofs());
        all.for_each(|held| held.resume(now));
    }

    /// When the loop looked last.
    #[cfg(test)]
    pub(crate) fn last_step(&self) -> Option<Monotonic> {
        self.last_step
    }

    /// All that have deadlines.
    pub(crate) fn names(&self) -> Vec<Name> {
        self.services.keys().chain(self.dependencies.keys()).cloned().collect()
    }
}

impl Service {
    fn credit(&mut self, late: Span) {
        self.known.phase.credit(late);
        self.known.credited = self.known.credited.plus(late);
        self.known.proofs().for_each(|held| held.credit(late));
        self.known.extended_until = self.known.extended_until.map(|until| until.after(late));
        // Nobody saw whether it was healthy.
        let healthy_since = self.known.since;
        self.known.last_failure = self.known.last_failure.map(|last| last.max(healthy_since).after(late));
        for (state, check) in self.known.checks.iter_mut().zip(&self.policy.checks) {
            begin_row(state, check);
        }
        for (probing, check) in self.senses.probes.iter_mut().zip(&self.policy.checks) {
            probing.credit(check, late);
        }
        // Whoever has failed fails once more.
        self.senses.asked.clear();
    }
}

impl Dependency {
    fn credit(&mut self, late: Span) {
        for ((state, probing), check) in self.checks.iter_mut().zip(&self.policy.checks) {
            begin_row(state, check);
            probing.credit(check, late);
        }
    }
}

/// Failures that were not enough count no longer.
fn begin_row(state: &mut CheckState, check: &CheckPolicy) {
    if matches!(state, CheckState::Failing { failures } if *failures < check.failures) {
        *state = CheckState::Unknown;
    }
}

impl crate::analyze::checks::Probing {
    fn credit(&mut self, check: &CheckPolicy, late: Span) {
        let later = |at: Monotonic| at.after(late);
        self.in_flight = self.in_flight.map(|(probe, lost_at)| (probe, later(lost_at)));
        if check.kind.promise().is_some() {
            self.due = self.due.map(later);
        }
        self.anew = true;
    }
}
