//! The one deadline of a service: the earliest of all that can fall due in its phase.

use crate::analyze::checks::{CheckState, Probing};
use crate::analyze::stall::RELIEVED_AFTER;
use crate::policy::{CheckPolicy, Ready};
use crate::safeswitch::{KEPT_EVERY, Part, Stage};
use crate::step::DURABLE_WITHIN;
use crate::time::Monotonic;
use crate::world::phase::{Phase, StopStage, UNKILLABLE_AFTER};
use crate::world::service::Service;

impl Service {
    /// When something of this service falls due next, if ever.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        let by_phase = match &self.known.phase {
            // What is paused starts when the pause is over.
            // So does what waits for its store, when that answers.
            Phase::BackingOff { until } | Phase::Held { until, .. } => {
                Some(*until).filter(|_| !self.known.rests() && (!self.awaits_store() || self.undoing_due().is_some()))
            }
            Phase::Spawning { .. } | Phase::Starting { .. } => self.start_times_out_at(),
            Phase::Running { .. } => self.forget_at(),
            Phase::Stopping { stage: StopStage::Asked { kill_at }, .. } => {
                Some(self.known.extended_until.map_or(*kill_at, |extended| extended.max(*kill_at)))
            }
            Phase::Stopping { stage: StopStage::Killed { at }, .. } => Some(at.after(UNKILLABLE_AFTER)),
            Phase::Stopping { stage: StopStage::Unkillable { .. }, .. }
            | Phase::Stopped { .. }
            | Phase::Down
            | Phase::Blocked { .. }
            | Phase::Remains { .. } => None,
        };
        let of_process = self.probes_due().into_iter().chain(self.relieved_at()).chain(self.asked_until());
        by_phase.into_iter().chain(of_process).chain(self.generations_due()).min()
    }

    /// When something about its generations is due that no event tells.
    fn generations_due(&self) -> Option<Monotonic> {
        let kept = self.senses.kept_at.map(|at| at.after(KEPT_EVERY));
        let of_parts = self.parts().flat_map(|part| [self.part_due(part), self.senses.look_until[part]]);
        of_parts.chain([kept]).flatten().min()
    }

    fn part_due(&self, part: Part) -> Option<Monotonic> {
        let policy = self.policy.generations.as_ref().filter(|_| !self.senses.unmatched[part])?;
        let known = &self.known.generations[part];
        if let Some((_, since)) = self.senses.undone {
            return Some(since.after(DURABLE_WITHIN));
        }
        // What was read from the ledger waits for its store alone.
        match known.switch.as_ref().map(|switch| &switch.stage) {
            Some(Stage::Intended { since } | Stage::Prepared { since, .. }) => Some(since.after(DURABLE_WITHIN)),
            // Its end waits for what the checks say, once they were asked.
            Some(Stage::Probation { .. }) => {
                self.mark_at(part).filter(|mark| self.senses.last_word[part] != Some(*mark))
            }
            Some(Stage::Committing { told: false, since, .. }) => Some(since.after(DURABLE_WITHIN)),
            Some(Stage::Switching | Stage::Committing { .. } | Stage::GoingBack { .. } | Stage::Validating { .. }) => {
                None
            }
            None => known.soak.next_mark(policy.soak),
        }
    }

    /// When the next part of a probation has passed; `None`: it does not pass now, or a check has not answered for so long that
    /// its answer is waited for.
    pub(crate) fn mark_at(&self, part: Part) -> Option<Monotonic> {
        let policy = self.policy.generations.as_ref()?;
        let switch = self.known.generations[part].on_probation()?;
        let Stage::Probation { held } = &switch.stage else { return None };
        let mark = held.next_mark(policy.probation)?;
        let checks = self.policy.checks.iter().zip(&self.senses.probes);
        let mut counted = checks.filter(|(check, _)| !switch.intent.failed_before.contains(&check.name));
        let is_late = |check: &CheckPolicy, probing: &Probing| {
            let last = probing.last_pass.unwrap_or_default();
            probing.in_flight.is_some() && last.after(check.every.times(2)) < mark
        };
        (!counted.any(|(check, probing)| is_late(check, probing))).then_some(mark)
    }

    /// When it counts as waiting for memory no longer, unless that is said once more.
    pub(crate) fn relieved_at(&self) -> Option<Monotonic> {
        let (since, _) = self.known.stalled?;
        Some(self.senses.stall_told.unwrap_or(since).max(since).after(RELIEVED_AFTER))
    }

    /// When the start counts as failed.
    pub(crate) fn start_deadline(&self) -> Option<Monotonic> {
        let configured = self.known.phase.made()?.after(self.policy.start.within).after(self.known.credited);
        Some(self.known.extended_until.map_or(configured, |extended| extended.max(configured)))
    }

    /// When a start that is not over yet is given up: not again once it was, and not while Hale cannot see whether it
    /// is over.
    pub(crate) fn start_times_out_at(&self) -> Option<Monotonic> {
        let deadline = self.start_deadline().max(self.senses.start_again);
        deadline.filter(|_| !self.known.start_overdue && !self.is_looked_at() && !self.is_unseen())
    }

    /// Whether all that keeps its start from being over are probes that could not be run.
    fn is_unseen(&self) -> bool {
        let mut awaited = self
            .known
            .checks
            .iter()
            .zip(&self.senses.probes)
            .filter(|(state, _)| **state != CheckState::Passing)
            .peekable();
        self.policy.start.ready == Ready::Check
            && awaited.peek().is_some()
            // A name that cannot be looked up may never be: it is said, and a start that waits for it is over some day.
            && awaited.all(|(_, probing)| probing.was_not_run())
    }

    /// When delays and counters are forgotten, while it is healthy and there are any, and with them what is not certain of a change
    /// that was taken back.
    pub(crate) fn forget_at(&self) -> Option<Monotonic> {
        let uncertain = self.parts().any(|part| self.known.generations[part].is_uncertain());
        let uncertain = uncertain.then_some(self.known.since);
        let last = self.known.last_failure.or(uncertain).filter(|_| self.known.healthy)?;
        Some(last.max(self.known.since).after(self.policy.restart.healthy_after))
    }

    /// When a probe or a heartbeat is due, or a probe's result counts as lost.
    fn probes_due(&self) -> Option<Monotonic> {
        self.known.phase.run()?;
        let times = self.senses.probes.iter().map(|probing| match probing.in_flight {
            Some((_, lost_at)) => Some(lost_at),
            None => probing.due,
        });
        times.flatten().min()
    }
}
