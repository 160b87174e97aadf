//! The planned restart of a service that works, before what it takes reaches a bound.

use super::Brain;
use crate::ids::Name;
use crate::plan::before_limit::{self, Decision, Read, Verdict};
use crate::reason::Reason;
use crate::record::{Body, CORE_VERSION};
use crate::world::phase::{Phase, StopStage, Then};
use crate::world::service::Service;
use alloc::boxed::Box;
use alloc::string::String;

impl Brain<'_> {
    /// How many services that work may be ended now to be started anew: those that are being ended for that will each take a
    /// place, and many may have begun together.
    pub(super) fn room(&self) -> usize {
        let planned = |service: &&Service| {
            let known = &service.known;
            let is_planned = known.planned == Some(known.last_epoch) || known.outdated.is_some();
            // What cannot be killed takes no place: nobody knows when it ends.
            let is_ending = matches!(
                known.phase,
                Phase::Stopping { stage: StopStage::Asked { .. } | StopStage::Killed { .. }, .. }
            );
            is_ending && is_planned
        };
        let taken = self.world.restarts_in_flight() + self.world.services.values().filter(planned).count();
        (self.world.birth.policy.host.restarts_in_flight as usize).saturating_sub(taken)
    }

    /// Starts the service anew if the figure of this check calls for it; once for each process, and only one that nothing
    /// is wrong with: of all others something else is decided.
    pub(super) fn plan_restart(&mut self, name: &Name, index: usize) {
        let service = &self.world.services[name];
        let (policy, known) = (&service.policy, &service.known);
        let Some(before) = policy.restart.before_limit else { return };
        let Some(outlook) = service.senses.probes[index].trend.outlook(&policy.checks[index].kind) else { return };
        let works = matches!(known.phase, Phase::Running { .. }) && known.healthy && known.incident.is_none();
        let is_left_alone = known.paused.is_some() || known.violated.is_some() || known.blocked.is_some();
        let is_decided = known.planned == Some(known.last_epoch) || self.world.ending.is_some();
        if !works || is_left_alone || is_decided {
            return;
        }
        let check = policy.checks[index].name.clone();
        let read = Read { check: check.clone(), outlook, before, mode: self.world.mode() };
        let Some((reaches, verdict)) = before_limit::decide(&read) else { return };
        if self.room() == 0 {
            return;
        }
        let decision = Decision {
            rule: String::from(before_limit::RULE),
            core: CORE_VERSION,
            policy: self.world.birth.hash.clone(),
            read,
            reaches,
            verdict,
        };
        if self.record(name, Body::RestartPlanned(Box::new(decision))) && verdict == Verdict::Restart {
            let now = self.now();
            self.bring_down(name, Then::Restart { until: now }, Reason::BeforeLimit { check, reaches });
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::event::{Event, ProbeOutcome};
    use crate::ids::{Epoch, Name};
    use crate::policy::{CheckKind, MemoryBound, Mode, ServicePolicy};
    use crate::record::{Actor, Body};
    use crate::step::tests::{at, checked, starting, step, world};
    use crate::time::{Now, Span};
    use crate::world::World;
    use crate::world::pause::Paused;
    use crate::world::phase::Phase;
    use alloc::string::String;
    use alloc::vec::Vec;

    const BEFORE: Span = Span::from_secs(120);

    fn leaking(before_limit: Option<Span>) -> ServicePolicy {
        let mut policy = checked();
        policy.checks[0].kind = CheckKind::Memory { below: MemoryBound::Bytes(1_000_000) };
        policy.restart.before_limit = before_limit;
        policy
    }

    /// Answers the probes up to `until` seconds with what the process has then, and returns what was recorded.
    fn measure(world: &mut World, name: &Name, until: u64, value: impl Fn(u64) -> u64) -> Vec<Body> {
        let mut bodies = Vec::new();
        while let Some(due) = world.services[name].senses.probes[0].due
            && due.as_us() <= until * 1_000_000
            && matches!(world.services[name].known.phase, Phase::Starting { .. } | Phase::Running { .. })
        {
            let now = Now { mono: due, ..at(0) };
            let mut records = step(world, now, Event::Tick).records;
            let (probe, _) = world.services[name].senses.probes[0].in_flight.unwrap();
            let figure = Some(value(due.as_us() / 1_000_000));
            let outcome = ProbeOutcome { took_us: 0, failure: None, detail: String::new(), figure, late_us: 0 };
            let probed = Event::Probed { service: name.clone(), epoch: Epoch(1), probe, outcome };
            records.extend(step(world, now, probed).records);
            bodies.extend(records.into_iter().map(|record| record.body));
        }
        bodies
    }

    fn planned(bodies: &[Body]) -> usize {
        bodies.iter().filter(|body| matches!(body, Body::RestartPlanned(_))).count()
    }

    /// A thousand a second: 880,000 are reached after 880 s, and the bound 120 s later.
    fn leak(second: u64) -> u64 {
        second * 1_000
    }

    #[test]
    fn what_leaks_is_started_anew_in_time_and_counts_no_failure() {
        let (mut world, name) = world(leaking(Some(BEFORE)));
        starting(&mut world, &name);
        let early = measure(&mut world, &name, 870, leak);
        assert_eq!(planned(&early), 0, "more than two minutes are left");
        let late = measure(&mut world, &name, 1_000, leak);
        assert_eq!(planned(&late), 1);
        assert!(matches!(late.last(), Some(Body::StopIntended { .. })), "{late:?}");
        let known = &world.services[&name].known;
        assert!(known.counters.failures == 0 && known.incident.is_none());
        assert!(matches!(known.phase, Phase::Stopping { .. }));
    }

    #[test]
    fn what_does_not_leak_or_is_not_to_be_is_left_alone() {
        for (before, value) in [(Some(BEFORE), (|_| 999_999) as fn(u64) -> u64), (None, leak)] {
            let (mut world, name) = world(leaking(before));
            starting(&mut world, &name);
            assert_eq!(planned(&measure(&mut world, &name, 990, value)), 0);
            assert!(matches!(world.services[&name].known.phase, Phase::Running { .. }));
        }
    }

    #[test]
    fn observing_it_is_said_once_and_nothing_is_done() {
        let (mut world, name) = world(leaking(Some(BEFORE)));
        world.birth.policy.host.mode = Mode::Observe;
        starting(&mut world, &name);
        assert_eq!(planned(&measure(&mut world, &name, 990, leak)), 1);
        assert!(matches!(world.services[&name].known.phase, Phase::Running { .. }));
    }

    #[test]
    fn a_paused_service_is_not_started_anew() {
        let (mut world, name) = world(leaking(Some(BEFORE)));
        starting(&mut world, &name);
        let _ = measure(&mut world, &name, 500, leak);
        let paused = Paused { actor: Actor { uid: 0, pid: 1, user: None }, until_boot_us: u64::MAX };
        world.services.get_mut(&name).unwrap().known.paused = Some(paused);
        assert_eq!(planned(&measure(&mut world, &name, 990, leak)), 0);
    }
}
