//! Taking over: what the journal says of each service is held against what the guardian has of it, and whatever was
//! interrupted between the two goes on.

use super::Brain;
use super::probing::EXTENSION_MAX;
use crate::analyze::checks::CheckState;
use crate::effect::Order;
use crate::event::{ExitStatus, Found, Life, Lost, Process, SpawnFailure};
use crate::ids::{Epoch, Name};
use crate::incident::Outcome;
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
        self.close_forgotten_incidents();
        let names: Vec<Name> = self.world.services.keys().cloned().collect();
        self.begin_dependencies();
        let behind = self.world.services.iter().filter(|(_, service)| !service.policy.after.is_empty());
        self.world.looks = behind.map(|(name, _)| name.clone()).collect();
        self.readmit(&names);
        // Before anything is started: one that is made already must not be made again because another is ready.
        let unrecorded: BTreeMap<&Name, &Found> =
            found.iter().filter(|(name, found)| self.adopt_unrecorded(name, found)).collect();
        // Those that were never started are started as at a beginning. What failed in a pause is healed when that is over.
        let never = |name: &&Name| {
            let known = self.known(name);
            let waits = known.paused.is_some() && known.incident.is_some();
            let leaves = self.world.leaving.contains(*name);
            known.phase == Phase::Down && !waits && !leaves && self.world.ending.is_none()
        };
        self.world.to_start = names.iter().filter(never).cloned().collect();
        let before: Vec<Phase> = names.iter().map(|name| self.phase(name)).collect();
        for (name, before) in names.iter().zip(&before) {
            self.touched.insert(name.clone());
            self.resume_probes(name);
            self.resume_switches(name);
            self.resume_undone(name);
            // One of those before it in this loop may have started it just now; it may also have asked it to stop.
            if self.phase(name).epoch() == before.epoch() && !unrecorded.contains_key(name) {
                self.reconcile(name, before, found.get(name), guardian_lost);
            }
        }
        for (name, found) in unrecorded {
            self.go_on_unrecorded(name, found);
        }
        if self.world.ending.is_some() {
            names.iter().for_each(|name| self.end_service(name));
            self.end_if_done();
        }
    }

    /// Gives back the places among `restarts_in_flight` to those that had one, as far as that is on record; also where a reload
    /// has left fewer places meanwhile.
    fn readmit(&mut self, names: &[Name]) {
        for name in names {
            let known = self.known(name);
            let on_its_way = matches!(known.phase, Phase::Spawning { .. } | Phase::Starting { .. });
            if on_its_way && known.counters.failures > 0 && !known.start_overdue && known.blocked.is_none() {
                self.world.admission.readmit(name);
            }
        }
        self.world.places_taken_up = self.world.restarts_in_flight();
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
        let Some(epoch) = phase.epoch() else {
            // Its end is on record, and perhaps not acknowledged.
            if let Some(Found { epoch, life: Life::Ended { .. } | Life::NotMade { .. }, .. }) = found {
                self.effect(name, *epoch, Order::AckExit);
            }
            return;
        };
        match found {
            Some(found) if found.epoch == epoch && found.life == Life::Over && guardian_lost => {
                self.unaccounted(name, epoch, before, found);
            }
            Some(found) if found.epoch == epoch => self.go_on(name, epoch, before, found),
            // The order that the record announces was never sent.
            _ => self.order_again(name, epoch, &phase),
        }
    }

    /// The guardian has a newer process than the records know, because the journal could not be written: it counts as
    /// starting, and becomes ready and healthy by what it shows. `false`: it has not.
    fn adopt_unrecorded(&mut self, name: &Name, found: &Found) -> bool {
        let epoch = found.epoch;
        let Some(known) = self.world.services.get(name).map(|service| &service.known) else { return false };
        let runs = matches!(found.life, Life::Running { .. });
        if !(epoch > known.last_epoch || (known.phase.epoch().is_none() && runs)) {
            return false;
        }
        let process = match &found.life {
            Life::Running { process, .. } => process.clone(),
            Life::Ended { pid, .. } => reaped(*pid),
            Life::NotMade { .. } | Life::Over => reaped(0),
        };
        self.world.admission.leave(name);
        self.record(name, Body::Adopted { epoch, process })
    }

    /// What became of it.
    fn go_on_unrecorded(&mut self, name: &Name, found: &Found) {
        let epoch = found.epoch;
        match &found.life {
            Life::Running { executed, .. } => {
                if *executed {
                    self.executed(name, epoch);
                }
                // Nobody knows of what it is: what has to prove itself, or to be validated, does so in a process that is known.
                self.start_what_was_switched(name);
            }
            Life::Ended { status, memory, .. } => self.exited(name, epoch, *status, found.tree_empty, *memory),
            Life::NotMade { failure } => self.spawn_failed(name, epoch, failure.clone()),
            // How it ended was told to one whose records are lost.
            Life::Over => self.exited(name, epoch, ExitStatus::Unknown, found.tree_empty, None),
        }
    }

    /// Incidents that the ledger has open and the journal does not know, because it could not be written: nobody will come
    /// back to them.
    fn close_forgotten_incidents(&mut self) {
        for (name, incident) in core::mem::take(&mut self.world.birth.open_incidents) {
            let open = self.world.services.get(&name).and_then(|service| service.known.incident);
            if open.is_none_or(|open| open.id != incident) {
                let closed =
                    Body::IncidentClosed { outcome: Outcome::Stopped, recovery_us: None, down_us: None, checks: 0 };
                self.record_in(Some(&name), Some(incident), closed);
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
                self.begin_start_time_again(name, epoch);
                if *executed {
                    self.executed(name, epoch);
                }
                return;
            }
            Life::Ended { pid, status, .. } if !main_gone => {
                if unseen && matches!(phase, Phase::Spawning { .. }) {
                    self.record(name, Body::Spawned { epoch, process: reaped(*pid) });
                    self.executed(name, epoch);
                }
                return self.ended_unseen(name, epoch, phase, *status, found);
            }
            Life::Ended { .. } | Life::NotMade { .. } => self.effect(name, epoch, Order::AckExit),
            // Its end was acknowledged by one whose records are lost, because the journal could not be written.
            Life::Over if !main_gone => return self.ended_unrecorded(name, epoch, phase, found),
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
    /// was of it was ended before this step, as far as it can be.
    fn unaccounted(&mut self, name: &Name, epoch: Epoch, phase: &Phase, found: &Found) {
        let tree_empty = found.tree_empty;
        let unseen = self.known(name).process.is_none();
        if matches!(self.phase(name), Phase::Stopping { main_gone: true, .. } | Phase::Remains { .. }) {
            if tree_empty { self.tree_empty(name, epoch) } else { self.stop_again(name, epoch, phase) }
        } else if unseen && tree_empty {
            self.order_again(name, epoch, phase);
        } else {
            self.ended_unrecorded(name, epoch, phase, found);
        }
    }

    /// It was made, and is gone, and nobody knows how it ended.
    fn ended_unrecorded(&mut self, name: &Name, epoch: Epoch, phase: &Phase, found: &Found) {
        if self.known(name).process.is_none() {
            self.record(name, Body::Spawned { epoch, process: reaped(0) });
        }
        self.ended_unseen(name, epoch, phase, ExitStatus::Unknown, found);
    }

    /// Its main process ended while nobody looked. What is left of a tree that is being ended nobody waits for yet.
    fn ended_unseen(&mut self, name: &Name, epoch: Epoch, phase: &Phase, status: ExitStatus, found: &Found) {
        let memory = if let Life::Ended { memory, .. } = &found.life { *memory } else { None };
        self.exited(name, epoch, status, found.tree_empty, memory);
        if !found.tree_empty {
            self.stop_again(name, epoch, phase);
        }
    }

    /// A start in which nobody could look whether it is over gets its time again.
    fn begin_start_time_again(&mut self, name: &Name, epoch: Epoch) {
        let service = &self.world.services[name];
        if !matches!(service.known.phase, Phase::Starting { .. }) || service.known.start_overdue {
            return;
        }
        let until = self.now().after(service.policy.start.within).min(service.known.since.after(EXTENSION_MAX));
        if service.start_deadline().is_some_and(|deadline| deadline < until) {
            self.record(name, Body::Extended { epoch, until });
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
            | Phase::Remains { .. } => self.vanished(name, epoch),
        }
    }

    /// The journal knows a process that the guardian has not: one of them is wrong, so nothing is started beside it.
    fn vanished(&mut self, name: &Name, epoch: Epoch) {
        self.violated(name, format!("process {epoch} is on record, and the guardian does not have it"));
    }
}

/// A process that was reaped before anybody looked at it.
fn reaped(pid: i32) -> Process {
    Process { pid, start_ticks: 0, pidfd_inode: 0, cgroup: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::Effect;
    use crate::event::Event;
    use crate::policy::Signal;
    use crate::record::Record;
    use crate::step::Output;
    use crate::step::tests::{at, service, step, world};
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
        let mut world = World::restore(birth(), None, None, records);
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
    fn an_end_that_was_acknowledged_and_is_not_on_record_is_healed() {
        let over = Found { epoch: Epoch(1), life: Life::Over, tree_empty: true };
        let (_, output) = take_over(lived(ran()), Some(over));
        assert!(is_on_record(&output, |body| matches!(body, Body::Exited { status: ExitStatus::Unknown, .. })));
        assert!(is_on_record(&output, |body| matches!(body, Body::BackingOff { .. })), "{output:?}");
    }

    #[test]
    fn a_process_that_the_guardian_does_not_have_is_not_started_again() {
        let (_, output) = take_over(lived(ran()), None);
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

    fn is_on_record(output: &Output, body: fn(&Body) -> bool) -> bool {
        output.records.iter().any(|record| body(&record.body))
    }

    #[test]
    fn nothing_is_started_beside_what_survives_of_a_process_that_nobody_saw() {
        let over = Found { epoch: Epoch(1), life: Life::Over, tree_empty: false };
        let (mut world, output) = take_over_from(Lost::Guardian, lived(vec![Event::Begin]), Some(over));
        assert!(!orders(&output).iter().any(|order| matches!(order, Order::Spawn { .. })), "{output:?}");
        assert!(orders(&output).contains(&&Order::Kill), "{output:?}");
        let gone = Event::TreeEmpty { service: bot(), epoch: Epoch(1) };
        assert!(is_on_record(&step(&mut world, at(200), gone), |body| matches!(body, Body::BackingOff { .. })));
    }

    #[test]
    fn what_is_left_of_a_tree_that_was_killed_is_waited_for_again() {
        let mut events = ran();
        events.push(Event::End { why: crate::event::EndWhy::Signal(Signal::TERM) });
        events.push(Event::End { why: crate::event::EndWhy::Signal(Signal::TERM) });
        let life = Life::Ended { pid: 100, status: ExitStatus::Code(0), memory: None };
        let found = Found { epoch: Epoch(1), life, tree_empty: false };
        let (_, output) = take_over(lived(events), Some(found));
        assert!(orders(&output).contains(&&Order::Kill), "{output:?}");
    }

    #[test]
    fn a_start_that_nobody_could_look_at_gets_its_time_again() {
        let mut service = service();
        service.start.ready = crate::policy::Ready::Notify;
        service.start.within = Span::from_secs(1);
        let birth = world(service).0.birth;
        let mut first = World::new(birth.clone());
        let records = (0..).zip(ran()).flat_map(|(ms, event)| step(&mut first, at(ms), event).records);
        let mut world = World::restore(birth, None, None, records.collect::<Vec<_>>());
        let found = [(bot(), running(true, process()))].into_iter().collect();
        let output = step(&mut world, at(5_000), Event::TakeOver { lost: Lost::Guardian, found });
        assert!(!is_on_record(&output, |body| matches!(body, Body::Detected { .. })), "{output:?}");
        let output = step(&mut world, at(6_001), Event::Tick);
        assert!(is_on_record(&output, |body| matches!(body, Body::Detected { .. })), "{output:?}");
    }

    #[test]
    fn a_process_that_no_record_knows_is_not_made_again_because_what_it_starts_after_is_ready() {
        let (mut one, _) = world(service());
        let after = |on: &str| {
            let mut service = service();
            service.after = vec![Name::try_from(on).unwrap()];
            alloc::sync::Arc::new(service)
        };
        let behind = Name::try_from("z").unwrap();
        one.birth.policy.services.insert(behind.clone(), after("bot"));
        let birth = one.birth;
        let mut first = World::new(birth.clone());
        let records: Vec<Record> = step(&mut first, at(0), Event::Begin).records;
        let mut world = World::restore(birth, None, None, records);
        let other = Process { pid: 200, start_ticks: 9, ..process() };
        let found = [(bot(), running(true, process())), (behind.clone(), running(true, other))].into_iter().collect();
        let output = step(&mut world, at(100), Event::TakeOver { lost: Lost::Guardian, found });
        assert_eq!(orders(&output), Vec::<&Order>::new());
        assert_eq!(world.status(at(101), Some(&behind)).unwrap().services[0].pid, Some(200));
    }

    #[test]
    fn an_incident_that_the_journal_forgot_is_closed() {
        let mut birth = birth();
        birth.open_incidents = vec![(bot(), crate::ids::IncidentId(7))];
        let mut world = World::restore(birth, None, None, lived(ran()));
        let found = [(bot(), running(true, process()))].into_iter().collect();
        let output = step(&mut world, at(100), Event::TakeOver { lost: Lost::Guardian, found });
        let closed = |record: &Record| {
            record.incident == Some(crate::ids::IncidentId(7)) && matches!(record.body, Body::IncidentClosed { .. })
        };
        assert!(output.records.iter().any(closed), "{output:?}");
    }
}
