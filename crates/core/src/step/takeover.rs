//! Taking over: what the journal says of each service is held against what the guardian has of it, and whatever was
//! interrupted between the two goes on.

use super::Brain;
use crate::analyze::checks::CheckState;
use crate::effect::Order;
use crate::event::{ExitStatus, Found, Life, Lost, Process, SpawnFailure};
use crate::ids::{Epoch, Name};
use crate::record::{Body, CORE_VERSION};
use crate::world::phase::{Phase, StopStage};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

impl Brain<'_> {
    /// The first step of a supervisor whose world was restored: no service notices it.
    ///
    /// Records were written before their effects, so an effect of the last step may have happened or not. Each kind is
    /// done again only where that does no harm: a process is ordered again only if the guardian never heard of it; signals
    /// are sent again, since asked twice is better than killed unasked; kills and acknowledgements are idempotent.
    pub(super) fn take_over(&mut self, lost: Lost, found: &BTreeMap<Name, Found>) {
        let guardian_lost = lost == Lost::Guardian;
        let birth = &self.world.birth;
        let living = |found: &&Found| matches!(found.life, Life::Running { .. });
        let took_over = Body::TookOver {
            version: birth.version.clone(),
            core: CORE_VERSION,
            policy: birth.hash.clone(),
            lost,
            processes: u32::try_from(found.values().filter(living).count()).unwrap_or(u32::MAX),
        };
        self.record_in(None, None, took_over);
        let names: Vec<Name> = self.world.services.keys().cloned().collect();
        self.readmit(&names);
        // Those that were never started are started as at a beginning.
        let never = |name: &&Name| self.known(name).phase == Phase::Down && self.world.ending.is_none();
        self.world.to_start = names.iter().filter(never).cloned().collect();
        let before: Vec<Phase> = names.iter().map(|name| self.phase(name)).collect();
        for (name, before) in names.iter().zip(&before) {
            self.touched.insert(name.clone());
            self.resume_probes(name);
            // One of those before it in this loop may have started it just now; it may also have asked it to stop.
            if self.phase(name).epoch() == before.epoch() {
                self.reconcile(name, before, found.get(name), guardian_lost);
            }
        }
        if self.world.ending.is_some() {
            names.iter().for_each(|name| self.end_service(name));
            self.end_if_done();
        }
    }

    /// Gives back the places among `restarts_in_flight` to those that had one.
    fn readmit(&mut self, names: &[Name]) {
        let limit = self.world.birth.policy.host.restarts_in_flight;
        for name in names {
            let known = self.known(name);
            let on_its_way = matches!(known.phase, Phase::Spawning { .. } | Phase::Starting { .. });
            if on_its_way && known.counters.failures > 0 && !known.start_overdue {
                let now = self.now();
                self.world.admission.admit(name, now, limit);
            }
        }
    }

    /// Probes begin anew: in their usual pace where the check has passed or failed in this process's life, else quickly.
    fn resume_probes(&mut self, name: &Name) {
        let now = self.now();
        let Some(service) = self.world.services.get_mut(name) else { return };
        // The one before may have heard of it until just now.
        service.senses.stall_told = service.known.stalled.map(|_| now);
        let (known, policy) = (&service.known, &service.policy);
        if known.phase.run().is_none() {
            return;
        }
        for ((check, state), probing) in policy.checks.iter().zip(&known.checks).zip(&mut service.senses.probes) {
            match state {
                CheckState::Unknown => probing.begin(check, now),
                // It worked when the one before looked last, and nothing says that it did not since.
                CheckState::Passing => probing.resume(name, check, now, now),
                CheckState::Failing { .. } => probing.resume(name, check, known.bad_since.unwrap_or(now), now),
            }
        }
        if matches!(known.phase, Phase::Running { .. }) {
            self.await_heartbeats(name, now);
        }
    }

    fn reconcile(&mut self, name: &Name, before: &Phase, found: Option<&Found>, guardian_lost: bool) {
        let phase = self.phase(name);
        let last = self.known(name).last_epoch;
        if let Some(found) = found
            && (found.epoch > last || (phase.epoch().is_none() && matches!(found.life, Life::Running { .. })))
        {
            return self.adopt_unrecorded(name, found);
        }
        let Some(epoch) = phase.epoch() else {
            // Its end is on record, and perhaps not acknowledged.
            if let Some(Found { epoch, life: Life::Ended { .. } | Life::NotMade { .. }, .. }) = found {
                self.effect(name, *epoch, Order::AckExit);
            }
            return;
        };
        match found {
            Some(Found { epoch: of, life: Life::Over, tree_empty }) if *of == epoch && guardian_lost => {
                self.unaccounted(name, epoch, before, *tree_empty);
            }
            Some(found) if found.epoch == epoch => self.go_on(name, epoch, before, found),
            // The order that the record announces was never sent.
            _ => self.order_again(name, epoch, &phase),
        }
    }

    /// The guardian has a newer process than the records know, because the journal could not be written: it counts as
    /// starting, and becomes ready and healthy by what it shows.
    fn adopt_unrecorded(&mut self, name: &Name, found: &Found) {
        let epoch = found.epoch;
        let unknown = |pid| Process { pid, start_ticks: 0, pidfd_inode: 0, cgroup: None };
        let process = match &found.life {
            Life::Running { process, .. } => process.clone(),
            Life::Ended { pid, .. } => unknown(*pid),
            Life::NotMade { .. } | Life::Over => unknown(0),
        };
        self.world.admission.leave(name);
        self.world.to_start.retain(|queued| queued != name);
        if !self.record(name, Body::Adopted { epoch, process }) {
            return;
        }
        self.resume_probes(name);
        match &found.life {
            Life::Running { executed, .. } => {
                if *executed {
                    self.executed(name, epoch);
                }
            }
            Life::Ended { status, memory, .. } => self.exited(name, epoch, *status, found.tree_empty, *memory),
            Life::NotMade { failure } => self.spawn_failed(name, epoch, failure.clone()),
            Life::Over => {
                let failure = SpawnFailure {
                    step: String::from("journal"),
                    path: String::new(),
                    errno: 0,
                    error: String::from("the journal could not be written, and nobody knows how this process ended"),
                };
                self.spawn_failed(name, epoch, failure);
            }
        }
    }

    /// The guardian knows this process. `phase`: where it stood before this step.
    fn go_on(&mut self, name: &Name, epoch: Epoch, phase: &Phase, found: &Found) {
        let unseen = self.known(name).process.is_none();
        let main_gone = matches!(self.phase(name), Phase::Stopping { main_gone: true, .. } | Phase::Remains { .. });
        match &found.life {
            Life::NotMade { failure } if !main_gone => return self.spawn_failed(name, epoch, failure.clone()),
            Life::Running { process, executed } => {
                if unseen {
                    self.spawned(name, epoch, process.clone());
                } else if !self.is_recorded(name, process) {
                    return self
                        .violated(name, format!("process {epoch} (pid {}) is not the one on record", process.pid));
                } else {
                    self.stop_again(name, epoch, phase);
                }
                if *executed {
                    self.executed(name, epoch);
                }
                return;
            }
            Life::Ended { pid, status, memory } if !main_gone => {
                if unseen && matches!(phase, Phase::Spawning { .. }) {
                    let process = Process { pid: *pid, start_ticks: 0, pidfd_inode: 0, cgroup: None };
                    self.record(name, Body::Spawned { epoch, process });
                    self.executed(name, epoch);
                }
                return self.exited(name, epoch, *status, found.tree_empty, *memory);
            }
            Life::Ended { .. } | Life::NotMade { .. } => self.effect(name, epoch, Order::AckExit),
            Life::Over if !main_gone => return self.vanished(name, epoch, found.tree_empty),
            Life::Over => {}
        }
        if found.tree_empty {
            self.tree_empty(name, epoch);
        } else {
            self.stop_again(name, epoch, phase);
        }
    }

    /// Whether this is the process that was recorded, as far as both are known: one that was reaped before anybody looked
    /// at it is known by its number alone.
    fn is_recorded(&self, name: &Name, found: &Process) -> bool {
        let unknown = |process: &Process| process.start_ticks == 0;
        self.known(name).process.as_ref().is_none_or(|known| {
            known.pid == found.pid && (unknown(known) || unknown(found) || known.start_ticks == found.start_ticks)
        })
    }

    /// Sends again what ends the tree, if it is being ended; from then on its end is reported.
    fn stop_again(&mut self, name: &Name, epoch: Epoch, phase: &Phase) {
        match phase {
            Phase::Stopping { stage: StopStage::Asked { .. }, .. } => {
                let signal = self.policy(name).stop.signal;
                self.effect(name, epoch, Order::Signal { signal });
            }
            Phase::Stopping { .. } => self.effect(name, epoch, Order::Kill),
            Phase::Stopped { .. }
            | Phase::Down
            | Phase::Blocked { .. }
            | Phase::BackingOff { .. }
            | Phase::Held { .. }
            | Phase::Spawning { .. }
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::Remains { .. } => {}
        }
    }

    /// A new guardian does not know this process, because the one before had told nobody of it, or of its end: whatever there
    /// was of it was ended before this step.
    fn unaccounted(&mut self, name: &Name, epoch: Epoch, phase: &Phase, tree_empty: bool) {
        if matches!(self.phase(name), Phase::Stopping { main_gone: true, .. } | Phase::Remains { .. }) {
            if tree_empty { self.tree_empty(name, epoch) } else { self.stop_again(name, epoch, phase) }
        } else if self.known(name).process.is_none() {
            self.order_again(name, epoch, phase);
        } else {
            self.exited(name, epoch, ExitStatus::Unknown, tree_empty, None);
        }
    }

    /// The guardian does not know this process: it was announced and not ordered.
    fn order_again(&mut self, name: &Name, epoch: Epoch, phase: &Phase) {
        match phase {
            Phase::Spawning { .. } => {
                let order = self.spawn_order(name);
                self.effect(name, epoch, order);
            }
            Phase::Stopping { main_gone: false, .. } if self.known(name).process.is_none() => {
                let failure = SpawnFailure {
                    step: String::from("order"),
                    path: String::new(),
                    errno: 0,
                    error: String::from("it was to be stopped before it was ordered"),
                };
                self.spawn_failed(name, epoch, failure);
            }
            Phase::Stopped { .. }
            | Phase::Down
            | Phase::Blocked { .. }
            | Phase::BackingOff { .. }
            | Phase::Held { .. }
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::Stopping { .. }
            | Phase::Remains { .. } => self.vanished(name, epoch, true),
        }
    }

    /// The journal knows a process that the guardian has not: one of them is wrong, so nothing is started beside it.
    fn vanished(&mut self, name: &Name, epoch: Epoch, tree_empty: bool) {
        let what =
            format!("process {epoch} is on record, and the guardian does not have it (tree empty: {tree_empty})");
        self.violated(name, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::Effect;
    use crate::event::Event;
    use crate::policy::Signal;
    use crate::record::Record;
    use crate::step::tests::{at, service, world};
    use crate::step::{Output, step};
    use crate::time::Span;
    use crate::world::{Birth, World};
    use alloc::vec;

    fn bot() -> Name {
        Name::try_from("bot").unwrap()
    }

    fn birth() -> Birth {
        let mut service = service();
        service.restart.first_delay = Span::from_secs(5);
        world(service).0.birth
    }

    fn process() -> Process {
        Process { pid: 100, start_ticks: 1, pidfd_inode: 1, cgroup: None }
    }

    /// The records of a supervisor that was told this, one event each millisecond, and then died.
    fn lived(events: Vec<Event>) -> Vec<Record> {
        let mut world = World::new(birth());
        (0..).zip(events).flat_map(|(ms, event)| step(&mut world, at(ms), event).records).collect()
    }

    fn ran() -> Vec<Event> {
        let process = process();
        vec![
            Event::Begin,
            Event::Spawned { service: bot(), epoch: Epoch(1), process },
            Event::Executed { service: bot(), epoch: Epoch(1) },
        ]
    }

    /// The next one takes over at 100 ms.
    fn take_over(records: Vec<Record>, found: Option<Found>) -> (World, Output) {
        let status = ExitStatus::Signal { signal: Signal::KILL, core_dumped: false };
        take_over_from(Lost::Ended { status }, records, found)
    }

    fn take_over_from(lost: Lost, records: Vec<Record>, found: Option<Found>) -> (World, Output) {
        let mut world = World::restore(birth(), None, records);
        let found = found.map(|found| (bot(), found)).into_iter().collect();
        let output = step(&mut world, at(100), Event::TakeOver { lost, found });
        assert!(matches!(output.records[0].body, Body::TookOver { .. }), "{:?}", output.records);
        (world, output)
    }

    fn running(executed: bool, process: Process) -> Found {
        Found { epoch: Epoch(1), life: Life::Running { process, executed }, tree_empty: false }
    }

    fn orders(output: &Output) -> Vec<&Order> {
        output.effects.iter().map(|Effect { order, .. }| order).collect()
    }

    #[test]
    fn a_running_service_is_left_alone() {
        let (world, output) = take_over(lived(ran()), Some(running(true, process())));
        assert_eq!((output.records.len(), orders(&output)), (1, vec![]));
        let status = &world.status(at(101), Some(&bot())).unwrap().services[0];
        assert_eq!((status.state, status.pid, status.restarts), (crate::status::State::Healthy, Some(100), 0));
    }

    #[test]
    fn a_start_that_was_announced_is_ordered_only_if_the_guardian_does_not_know_it() {
        let (_, output) = take_over(lived(vec![Event::Begin]), None);
        assert!(matches!(orders(&output)[..], [Order::Spawn { .. }]), "{output:?}");
        let (_, output) = take_over(lived(vec![Event::Begin]), Some(running(true, process())));
        assert_eq!(orders(&output), Vec::<&Order>::new());
        let recorded = |body: fn(&Body) -> bool| output.records.iter().any(|record| body(&record.body));
        assert!(recorded(|body| matches!(body, Body::Spawned { .. })), "{output:?}");
        assert!(recorded(|body| matches!(body, Body::BecameReady { .. })), "{output:?}");
    }

    #[test]
    fn an_end_that_nobody_saw_is_acknowledged_and_answered_once() {
        let life = Life::Ended { pid: 100, status: ExitStatus::Code(3), memory: None };
        let (_, output) =
            take_over(lived(ran()), Some(Found { epoch: Epoch(1), life: life.clone(), tree_empty: true }));
        assert!(matches!(orders(&output)[..], [Order::AckExit, Order::Collect { .. }]), "{output:?}");
        // It was on record already: only the acknowledgement was lost.
        let exited = Event::Exited {
            service: bot(),
            epoch: Epoch(1),
            status: ExitStatus::Code(3),
            tree_empty: true,
            memory: None,
        };
        let mut events = ran();
        events.push(exited);
        let (_, output) = take_over(lived(events), Some(Found { epoch: Epoch(1), life, tree_empty: true }));
        assert_eq!((output.records.len(), orders(&output)), (1, vec![&Order::AckExit]));
    }

    #[test]
    fn a_stop_in_its_grace_is_asked_for_again_and_ends_when_it_was_to_end() {
        let mut events = ran();
        events.push(Event::End { why: crate::event::EndWhy::Signal(Signal::TERM) });
        let (world, output) = take_over(lived(events), Some(running(true, process())));
        assert_eq!(orders(&output), [&Order::Signal { signal: Signal::TERM }]);
        assert_eq!(world.next_deadline(), Some(at(3 + 10_000).mono), "the grace is not given twice");
    }

    #[test]
    fn a_process_that_is_not_the_one_on_record_is_never_touched() {
        for other in [Process { pid: 200, ..process() }, Process { start_ticks: 2, ..process() }] {
            let (_, output) = take_over(lived(ran()), Some(running(true, other)));
            assert!(output.records.iter().any(|record| matches!(record.body, Body::Violated { .. })), "{output:?}");
            assert_eq!(orders(&output), Vec::<&Order>::new());
        }
    }

    #[test]
    fn a_process_that_the_journal_does_not_know_is_adopted() {
        let newer = Process { pid: 200, start_ticks: 9, ..process() };
        let life = Life::Running { process: newer, executed: true };
        for records in [lived(ran()), lived(vec![Event::Begin])] {
            let found = Found { epoch: Epoch(4), life: life.clone(), tree_empty: false };
            let (world, output) = take_over(records, Some(found));
            assert_eq!(orders(&output), Vec::<&Order>::new());
            let status = &world.status(at(101), Some(&bot())).unwrap().services[0];
            assert_eq!((status.state, status.pid), (crate::status::State::Healthy, Some(200)));
        }
    }

    #[test]
    fn a_process_that_the_guardian_does_not_have_is_not_started_again() {
        let over = Found { epoch: Epoch(1), life: Life::Over, tree_empty: true };
        let (_, output) = take_over(lived(ran()), Some(over));
        assert!(output.records.iter().any(|record| matches!(record.body, Body::Violated { .. })), "{output:?}");
        assert_eq!(orders(&output), Vec::<&Order>::new());
    }

    #[test]
    fn what_a_lost_guardian_told_nobody_is_started_again_once_its_remains_are_ended() {
        let over = || Some(Found { epoch: Epoch(1), life: Life::Over, tree_empty: true });
        // Announced, and perhaps made: the same number is ordered again.
        let (_, output) = take_over_from(Lost::Guardian, lived(vec![Event::Begin]), over());
        assert!(matches!(orders(&output)[..], [Order::Spawn { .. }]), "{output:?}");
        // It ran: that it is gone is an end like any other, only that nobody knows which.
        let (_, output) = take_over_from(Lost::Guardian, lived(ran()), over());
        let unknown = |record: &Record| matches!(record.body, Body::Exited { status: ExitStatus::Unknown, .. });
        assert!(output.records.iter().any(unknown), "{output:?}");
        assert!(output.records.iter().any(|record| matches!(record.body, Body::Detected { .. })), "{output:?}");
    }

    #[test]
    fn a_stop_whose_last_process_ended_with_the_guardian_is_over() {
        let mut events = ran();
        events.push(Event::End { why: crate::event::EndWhy::Signal(Signal::TERM) });
        events.push(Event::Exited {
            service: bot(),
            epoch: Epoch(1),
            status: ExitStatus::Code(0),
            tree_empty: false,
            memory: None,
        });
        let over = Found { epoch: Epoch(1), life: Life::Over, tree_empty: true };
        let (world, output) = take_over_from(Lost::Guardian, lived(events), Some(over));
        assert!(!output.records.iter().any(|record| matches!(record.body, Body::Violated { .. })), "{output:?}");
        assert_eq!(world.status(at(101), Some(&bot())).unwrap().services[0].state, crate::status::State::Stopped);
    }
}
