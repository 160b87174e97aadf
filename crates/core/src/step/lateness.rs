//! What fell due while nobody looked.

use super::Brain;
use crate::record::Body;
use crate::world::lateness::Lateness;

impl Brain<'_> {
    /// What fell due while nobody looked is nobody's fault.
    pub(super) fn allow_for(&mut self, lateness: Option<Lateness>) {
        if let Some(Lateness { late, slept }) = lateness {
            self.record_in(None, None, Body::HostStalled { late, slept });
            self.touched.extend(self.world.names());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::analyze::checks::CheckState;
    use crate::effect::Order;
    use crate::event::{Event, Notice, ProbeFailure};
    use crate::ids::Epoch;
    use crate::policy::CheckKind;
    use crate::record::Body;
    use crate::step::Output;
    use crate::step::tests::{at, checked, probe, run, service, starting, step, turn_until, world};
    use crate::time::{Monotonic, Span};
    use crate::world::World;
    use alloc::vec::Vec;

    fn tick(world: &mut World, ms: u64) -> Output {
        step(world, at(ms), Event::Tick)
    }

    fn bodies(output: &Output) -> Vec<&Body> {
        output.records.iter().map(|record| &record.body).collect()
    }

    #[test]
    fn a_heartbeat_that_nobody_could_hear_is_not_missing() {
        let within = Span::from_secs(10);
        let mut policy = checked();
        policy.checks[0].kind = CheckKind::Heartbeat { within };
        let (mut world, name) = world(policy);
        run(&mut world, &name);
        let beat = |world: &mut World, ms| {
            let notice = Notice::Heartbeat;
            step(world, at(ms), Event::Notified { service: name.clone(), epoch: Epoch(1), notice })
        };
        let _ = beat(&mut world, 1_000);
        // All was stopped from some moment after the heartbeat until long after the next one was due.
        let late = tick(&mut world, 61_000);
        let credited = Body::HostStalled { late: Span::from_secs(60), slept: Span::ZERO };
        assert_eq!(bodies(&late), [&credited]);
        assert_eq!(world.next_deadline(), Some(Monotonic::from_us(71_000_000)), "it has all of its time once more");
        // And then it counts.
        let missing = tick(&mut world, 71_000);
        assert!(missing.effects.iter().any(|effect| matches!(effect.order, Order::Kill | Order::Signal { .. })));
    }

    #[test]
    fn failures_before_a_stall_are_no_row_with_those_after_it() {
        let mut policy = checked();
        policy.checks[0].failures = 3;
        let (mut world, name) = world(policy);
        run(&mut world, &name);
        probe(&mut world, &name, None);
        for _ in 0..2 {
            probe(&mut world, &name, Some(ProbeFailure::Timeout));
        }
        assert_eq!(world.services[&name].known.checks[0], CheckState::Failing { failures: 2 });
        let now = world.last_step().unwrap();
        let later = now.after(Span::from_secs(600)).as_us() / 1_000;
        let _ = tick(&mut world, later);
        assert_eq!(world.services[&name].known.checks[0], CheckState::Unknown);
    }

    #[test]
    fn a_loop_that_had_nothing_to_do_was_not_late_and_one_that_sleeps_with_the_machine_says_so() {
        let (mut world, name) = world(service());
        run(&mut world, &name);
        assert_eq!(world.next_deadline(), None);
        assert!(tick(&mut world, 500_000).records.is_empty());
        let mut awake = at(500_010);
        awake.boot_us += 3_600_000_000;
        let output = step(&mut world, awake, Event::Tick);
        let slept = Body::HostStalled { late: Span::ZERO, slept: Span::from_secs(3_600) };
        assert_eq!(bodies(&output), [&slept]);
        awake.mono = awake.mono.after(Span::from_ms(1));
        awake.boot_us += 1_000;
        assert!(step(&mut world, awake, Event::Tick).records.is_empty(), "once");
    }

    #[test]
    fn what_was_killed_has_its_time_to_end_once_more() {
        let (mut world, name) = world(service());
        run(&mut world, &name);
        let _ =
            step(&mut world, at(1_000), Event::End { why: crate::event::EndWhy::Signal(crate::policy::Signal::TERM) });
        let kill_at = world.next_deadline().unwrap();
        turn_until(&mut world, kill_at.as_us() + 1);
        let survives = world.next_deadline().unwrap();
        let late = tick(&mut world, survives.as_us() / 1_000 + 5_000);
        assert!(matches!(bodies(&late)[..], [Body::HostStalled { .. }]), "{late:?}");
        assert!(world.next_deadline().is_some_and(|next| next > world.last_step().unwrap()));
    }

    #[test]
    fn a_start_has_all_of_its_time_whatever_the_service_says_of_it_later() {
        let (mut world, name) = world(checked());
        starting(&mut world, &name);
        let deadline = |world: &World| world.services[&name].start_deadline().unwrap();
        let before = deadline(&world);
        let _ = tick(&mut world, 80_000);
        assert!(deadline(&world).since(before) >= Span::from_secs(79));
        let credited = deadline(&world);
        let notice = Notice::ExtendTimeout(Span::from_ms(1));
        let _ = step(&mut world, at(80_001), Event::Notified { service: name.clone(), epoch: Epoch(1), notice });
        assert!(deadline(&world) >= credited);
    }
}
