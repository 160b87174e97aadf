//! Waiting for memory: when it begins, when it is over, and what it explains.

use super::Brain;
use crate::analyze::stall::Stall;
use crate::ids::{Epoch, Name};
use crate::record::{Body, Finding};

impl Brain<'_> {
    /// The kernel says that a service waits for memory.
    pub(super) fn stalled(&mut self, name: &Name, epoch: Epoch, stall: Stall) {
        let now = self.now();
        let known = self.known(name);
        // Of a process that is gone nothing follows any more.
        if known.last_epoch != epoch || known.process.is_none() {
            return;
        }
        if known.stalled.is_none() {
            self.record(name, Body::MemoryStalled { epoch, stall });
        }
        if let Some(service) = self.service_mut(name) {
            service.senses.stall_told = Some(now);
        }
    }

    /// Nobody has said for long enough that it waits. Before all else that is due: a deadline of the service may be this
    /// one alone.
    pub(super) fn relieved_due(&mut self, name: &Name) {
        let service = &self.world.services[name];
        let Some((since, _)) = service.known.stalled else { return };
        if service.relieved_at().is_none_or(|at| at > self.now()) {
            return;
        }
        let after = service.senses.stall_told.unwrap_or(since).since(since);
        let epoch = service.known.last_epoch;
        self.record(name, Body::MemoryRelieved { epoch, after });
    }

    /// The stall beside a failure: at the end of a process what the kernel said then, else what it says now.
    pub(super) fn stall(&self, name: &Name, finding: &Finding) -> Option<Stall> {
        match finding.memory() {
            Some(report) => Stall::of(&report),
            None => self.known(name).stalled.map(|(_, stall)| stall),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::analyze::stall::{RELIEVED_AFTER, Stall};
    use crate::effect::Order;
    use crate::event::{EndWhy, Event, ProbeFailure};
    use crate::ids::{Epoch, Name};
    use crate::incident::Cause;
    use crate::memory::{MemoryReport, Pressure};
    use crate::policy::{ServicePolicy, Signal, StopPolicy};
    use crate::record::Body;
    use crate::step::Output;
    use crate::step::tests::{at, checked, exited, probe, run, service, starting, step, world};
    use crate::time::Span;
    use crate::world::World;

    fn stall() -> Stall {
        let pressure = Some(Pressure { some_permyriad: 9_000, full_permyriad: 9_000 });
        Stall::of(&MemoryReport { pressure, ..MemoryReport::default() }).unwrap()
    }

    fn told(world: &mut World, name: &Name, ms: u64) -> Output {
        step(world, at(ms), Event::MemoryStalled { service: name.clone(), epoch: Epoch(1), stall: stall() })
    }

    #[test]
    fn a_stall_alone_is_two_edges_and_nothing_is_done_about_it() {
        let (mut world, name) = world(service());
        run(&mut world, &name);
        let begins = told(&mut world, &name, 1_000);
        assert!(matches!(&begins.records[..], [record] if matches!(record.body, Body::MemoryStalled { .. })));
        let again = told(&mut world, &name, 3_000);
        let detail = |world: &World| world.status(at(4_000), Some(&name)).unwrap().services[0].detail.clone();
        assert_eq!(detail(&world), "90 % of the last 10 s were lost to waiting for memory, 3 s ago");
        assert!(again.records.is_empty() && again.effects.is_empty() && begins.effects.is_empty());
        let ends = at(3_000).mono.after(RELIEVED_AFTER);
        assert_eq!(world.services[&name].deadline(), Some(ends));
        let relieved = step(&mut world, at(ends.as_us() / 1_000), Event::Tick);
        let bodies: alloc::vec::Vec<&Body> = relieved.records.iter().map(|record| &record.body).collect();
        assert!(
            matches!(bodies[..], [Body::MemoryRelieved { after, .. }] if *after == Span::from_secs(2)),
            "{bodies:?}"
        );
        assert!(relieved.effects.is_empty());
        assert_eq!(detail(&world), "");
    }

    #[test]
    fn a_service_that_does_not_answer_because_it_waits_for_memory_fails_for_that() {
        for stalls in [false, true] {
            let (mut world, name) = world(checked());
            starting(&mut world, &name);
            let _ = probe(&mut world, &name, None);
            if stalls {
                let _ = told(&mut world, &name, 500);
            }
            let failed = probe(&mut world, &name, Some(ProbeFailure::Timeout));
            let detected = failed.iter().find_map(|body| {
                if let Body::Detected { cause, stall, .. } = body { Some((*cause, *stall)) } else { None }
            });
            let expected = if stalls { (Cause::Memory, Some(stall())) } else { (Cause::Hang, None) };
            assert_eq!(detected, Some(expected));
        }
    }

    #[test]
    fn the_end_of_a_stall_does_not_shorten_the_grace_of_a_stop() {
        let stop = StopPolicy { signal: Signal::TERM, grace: Span::from_secs(60) };
        let (mut world, name) = world(ServicePolicy { stop, ..service() });
        run(&mut world, &name);
        let _ = told(&mut world, &name, 1_000);
        let _ = step(&mut world, at(2_000), Event::End { why: EndWhy::Signal(Signal::TERM) });
        let due = world.next_deadline().unwrap();
        let relieved = step(&mut world, at(due.as_us() / 1_000), Event::Tick);
        assert!(!relieved.effects.iter().any(|effect| effect.order == Order::Kill), "{:?}", relieved.effects);
        assert_eq!(relieved.records.len(), 1);
    }

    #[test]
    fn a_stall_is_over_with_its_process() {
        let (mut world, name) = world(service());
        run(&mut world, &name);
        let _ = told(&mut world, &name, 1_000);
        let _ = step(&mut world, at(1_500), exited(&name, 1));
        assert!(world.services[&name].known.stalled.is_none());
        assert!(told(&mut world, &name, 1_600).records.is_empty());
    }
}
