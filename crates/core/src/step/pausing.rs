//! Pausing: a service is watched and nothing is done about it, until an operator or the clock ends that.

use super::{Brain, SERVICES_PER_STEP};
use crate::analyze::checks::CheckState;
use crate::effect::Answer;
use crate::ids::{Name, RequestId};
use crate::reason::Reason;
use crate::record::{Actor, Body};
use crate::time::{Monotonic, Span};
use crate::world::phase::{Phase, Then};
use alloc::format;

impl Brain<'_> {
    /// Begins a pause, or gives the one in force another end. It counts from the order, not from the disk's answer to it.
    pub(super) fn order_pause(&mut self, name: &Name, request: RequestId, actor: Actor, lasts: Span, since: Monotonic) {
        let waited = self.now().since(since).as_us();
        let until_boot_us = self.at.boot_us.saturating_sub(waited).saturating_add(lasts.as_us());
        self.record(name, Body::Paused { actor, lasts, until_boot_us });
        // Who waits for a place waits for the end of the pause now.
        if self.world.admission.waits(name) {
            self.world.admission.leave(name);
        }
        let text = format!("{name} is paused for {lasts}: it is watched, and nothing is done about it");
        self.reply(request, Answer::Done { text });
    }

    /// Ends a pause.
    pub(super) fn order_resume(&mut self, name: &Name, request: RequestId, why: &Reason) {
        if self.known(name).paused.is_none() {
            self.reply(request, Answer::Done { text: format!("{name} is not paused") });
            return;
        }
        self.resume(name, why);
        let text = format!("{name} is paused no longer, and {}", self.world.services[name].state().as_str());
        self.reply(request, Answer::Done { text });
    }

    /// Ends the pauses whose time is over.
    pub(super) fn pauses_due(&mut self) {
        for name in self.world.pauses_over(self.at, SERVICES_PER_STEP) {
            self.touched.insert(name.clone());
            // An order of this step may have moved it.
            let until = self.known(&name).paused.as_ref().map(|paused| paused.until_boot_us);
            if until.is_some_and(|until| until <= self.at.boot_us) {
                self.resume(&name, &Reason::PauseOver);
            }
        }
    }

    /// What failed meanwhile is healed as after a first failure, and what was to be started is started.
    fn resume(&mut self, name: &Name, why: &Reason) {
        if !self.record(name, Body::Resumed { why: why.clone() }) || self.world.ending.is_some() {
            return;
        }
        // With its counters it forgets that it was on its way up after a failure.
        self.world.admission.leave(name);
        let incident = self.known(name).incident;
        match self.phase(name) {
            Phase::Down
            | Phase::Remains { .. }
            | Phase::Spawning { .. }
            | Phase::Starting { .. }
            | Phase::Running { .. } => match incident {
                Some(open) if self.needs_healing(name) => {
                    self.decide_again(name, open.cause, None);
                }
                Some(_) => {}
                None => self.go_on_without_failure(name, why),
            },
            Phase::Blocked { .. } | Phase::BackingOff { .. } | Phase::Held { .. } => {
                self.try_start(name, why.clone());
            }
            // What was to follow the stop was chosen by the counters that are forgotten now.
            Phase::Stopping { then: Then::Restart { .. } | Then::Hold { .. }, .. } => {
                let until = self.now();
                self.bring_down(name, Then::Restart { until }, why.clone());
            }
            Phase::Stopped { .. } | Phase::Stopping { then: Then::Stay { .. }, .. } => {}
        }
        self.start_what_was_switched(name);
    }

    /// Nothing failed: what was to be done when the pause began, or came due in it.
    fn go_on_without_failure(&mut self, name: &Name, why: &Reason) {
        match self.phase(name) {
            Phase::Down => self.try_start(name, why.clone()),
            // It ended with success.
            Phase::Remains { .. } if !self.observes(name) => {
                self.bring_down(name, Then::Stay { why: Reason::Finished }, Reason::LeftBehind);
            }
            Phase::Remains { .. }
            | Phase::Spawning { .. }
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::Stopped { .. }
            | Phase::Blocked { .. }
            | Phase::BackingOff { .. }
            | Phase::Held { .. }
            | Phase::Stopping { .. } => {}
        }
    }

    /// Whether the failure of its open incident is not over: what works again, or nearly, is left alone.
    pub(super) fn needs_healing(&self, name: &Name) -> bool {
        let service = &self.world.services[name];
        let reached = |(check, state): (&crate::policy::CheckPolicy, &CheckState)| match state {
            CheckState::Failing { failures } => *failures >= check.failures,
            CheckState::Unknown | CheckState::Passing => false,
        };
        match &service.known.phase {
            Phase::Down => true,
            Phase::Remains { .. } => !self.observes(name),
            Phase::Spawning { .. } | Phase::Starting { .. } | Phase::Running { .. } => {
                let failing = service.policy.checks.iter().zip(&service.known.checks).any(reached);
                (failing || service.known.start_overdue) && !self.observes(name)
            }
            Phase::Stopped { .. }
            | Phase::Blocked { .. }
            | Phase::BackingOff { .. }
            | Phase::Held { .. }
            | Phase::Stopping { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::Order;
    use crate::event::{Event, ProbeFailure, Question};
    use crate::ids::Epoch;
    use crate::incident::Outcome;
    use crate::record::OperatorOrder;
    use crate::status::State;
    use crate::step::Output;
    use crate::step::tests::{at, checked, exited, probe, run, service, starting, step, turn_until, world};
    use crate::time::Now;
    use crate::world::World;

    fn actor() -> Actor {
        Actor { uid: 1, pid: 1, user: Some("anna".into()) }
    }

    /// Gives an order, whose record is durable at once.
    fn order(world: &mut World, now: Now, order: OperatorOrder) -> Output {
        let asked =
            Event::Asked { request: RequestId(7), question: Question::Order { actor: actor(), order, waits: true } };
        let up_to = step(world, now, asked).records[0].id;
        step(world, now, Event::Durable { up_to })
    }

    fn pause(world: &mut World, name: &Name, ms: u64) -> Output {
        let lasts = Span::from_secs(60);
        order(world, at(ms), OperatorOrder::Pause { service: name.clone(), lasts })
    }

    fn acts(output: &Output) -> bool {
        let act = |order: &Order| matches!(order, Order::Spawn { .. } | Order::Kill | Order::Signal { .. });
        output.effects.iter().any(|effect| act(&effect.order))
    }

    #[test]
    fn a_crash_in_a_pause_is_recorded_and_healed_when_the_pause_is_over() {
        let (mut world, name) = world(service());
        run(&mut world, &name);
        let _ = pause(&mut world, &name, 1_000);
        assert_eq!(world.next_deadline(), Some(at(61_000).mono));
        let crash = step(&mut world, at(5_000), exited(&name, 1));
        assert!(crash.records.iter().any(|record| matches!(record.body, Body::Detected { .. })));
        assert!(!acts(&crash));
        let status = &world.status(at(5_000), None).unwrap().services[0];
        assert_eq!((status.state, status.pid), (State::Paused, None));
        assert!(status.detail.contains("56 s"), "{}", status.detail);
        assert!(!acts(&step(&mut world, at(60_999), Event::Tick)));
        let over = step(&mut world, at(61_000), Event::Tick);
        assert!(matches!(over.records[0].body, Body::Resumed { why: Reason::PauseOver }), "{:?}", over.records);
        assert!(acts(&over));
        assert_eq!(world.services[&name].known.counters.failures, 0);
        assert!(world.services[&name].known.incident.is_some(), "it is not healthy yet");
    }

    #[test]
    fn a_pause_goes_on_while_the_machine_sleeps_and_whoever_takes_over_keeps_its_end() {
        let mut policy = service();
        policy.start.within = Span::from_secs(3_600);
        let (mut world, name) = world(policy);
        let mut records = step(&mut world, at(0), Event::Begin).records;
        let asked = OperatorOrder::Pause { service: name, lasts: Span::from_secs(60) };
        let question = Question::Order { actor: actor(), order: asked, waits: true };
        records.extend(step(&mut world, at(0), Event::Asked { request: RequestId(7), question }).records);
        let up_to = records.last().unwrap().id;
        records.extend(step(&mut world, at(1_000), Event::Durable { up_to }).records);
        let snapshot = world.snapshot();
        for mut next in [
            World::restore(world.birth.clone(), None, None, records),
            World::restore(world.birth.clone(), None, Some(snapshot), []),
        ] {
            let lost = crate::event::Lost::Guardian;
            let take_over = Event::TakeOver { lost, found: alloc::collections::BTreeMap::new() };
            let _ = step(&mut next, at(2_000), take_over);
            assert_eq!(next.next_deadline(), Some(at(60_000).mono), "from the order, and not a moment longer");
            let asleep = Now { boot_us: 59_000_000, ..at(3_000) };
            let _ = step(&mut next, asleep, Event::Tick);
            assert_eq!(next.next_deadline(), Some(at(4_000).mono));
        }
    }

    #[test]
    fn what_fails_its_check_is_left_alone_until_it_is_resumed() {
        let (mut world, name) = world(checked());
        starting(&mut world, &name);
        let _ = probe(&mut world, &name, None);
        let _ = pause(&mut world, &name, 100);
        let failed = probe(&mut world, &name, Some(ProbeFailure::Wrong));
        assert!(failed.iter().any(|body| matches!(body, Body::Detected { .. })), "{failed:?}");
        assert!(matches!(world.services[&name].known.phase, Phase::Running { .. }));
        turn_until(&mut world, 20_000_000);
        let resumed = order(&mut world, at(20_000), OperatorOrder::Resume { service: name.clone() });
        let signals = |order: &Order| matches!(order, Order::Signal { .. });
        assert!(resumed.effects.iter().any(|effect| signals(&effect.order)), "{resumed:?}");
    }

    #[test]
    fn what_recovers_by_itself_in_a_pause_was_only_observed() {
        let (mut world, name) = world(checked());
        starting(&mut world, &name);
        let _ = probe(&mut world, &name, None);
        let _ = pause(&mut world, &name, 100);
        let _ = probe(&mut world, &name, Some(ProbeFailure::Wrong));
        let passed = probe(&mut world, &name, None);
        let closed = |body: &Body| matches!(body, Body::IncidentClosed { outcome: Outcome::Observed, .. });
        assert!(passed.iter().any(closed), "{passed:?}");
        let resumed = order(&mut world, at(20_000), OperatorOrder::Resume { service: name.clone() });
        assert!(!acts(&resumed), "{resumed:?}");
    }

    #[test]
    fn operators_act_in_a_pause_and_it_goes_on() {
        let (mut world, name) = world(service());
        run(&mut world, &name);
        let _ = pause(&mut world, &name, 1_000);
        let restart = order(&mut world, at(2_000), OperatorOrder::Restart { service: name.clone() });
        assert!(acts(&restart));
        assert!(acts(&step(&mut world, at(3_000), exited(&name, 1))), "the end that was asked for leads to the start");
        let process = crate::event::Process { pid: 1, start_ticks: 1, pidfd_inode: 1, cgroup: None };
        let _ = step(&mut world, at(3_001), Event::Spawned { service: name.clone(), epoch: Epoch(2), process });
        assert!(!acts(&step(&mut world, at(3_002), exited(&name, 2))), "and the next crash to nothing");
        assert!(acts(&order(&mut world, at(4_000), OperatorOrder::Start { service: name.clone() })));
        assert!(world.services[&name].known.paused.is_some());
    }

    #[test]
    fn a_held_service_waits_for_the_end_of_its_pause_and_then_for_nothing() {
        let mut policy = service();
        policy.restart.crash_loop = Some(crate::policy::CrashLoop { failures: 1, within: Span::from_secs(60) });
        let (mut world, name) = world(policy);
        run(&mut world, &name);
        let _ = step(&mut world, at(5), exited(&name, 1));
        assert!(matches!(world.services[&name].known.phase, Phase::Held { .. }));
        let _ = pause(&mut world, &name, 1_000);
        let _ =
            order(&mut world, at(2_000), OperatorOrder::Pause { service: name.clone(), lasts: Span::from_secs(3_600) });
        assert_eq!(world.next_deadline(), Some(at(3_602_000).mono), "the later order counts, and no try");
        assert!(acts(&step(&mut world, at(3_602_000), Event::Tick)));
    }
}
