//! Blocking: while something that a service starts after is down, the service is left as it is, whatever it does; once
//! that is up again, its failures are forgotten and it is healed as any other.

use super::{Brain, SERVICES_PER_STEP};
use crate::effect::Answer;
use crate::ids::Name;
use crate::incident::Cause;
use crate::reason::Reason;
use crate::record::Body;
use crate::world::World;
use crate::world::dependency::Standing;
use crate::world::phase::{Phase, Then};
use crate::world::service::Wanted;
use alloc::format;

impl World {
    /// Whether those that start after it may start: a service that runs and does not fail, or that ran to a good end; a
    /// dependency that is there.
    pub(crate) fn is_up(&self, name: &Name) -> bool {
        match (self.services.get(name), self.dependencies.get(name)) {
            (Some(service), _) => service.is_up(),
            (None, Some(dependency)) => dependency.known.standing == Standing::Up,
            (None, None) => false,
        }
    }

    /// Whether those that start after it are blocked: as [`is_up`](Self::is_up) says, but for a dependency of which
    /// nothing is known yet.
    pub(crate) fn is_down(&self, name: &Name) -> bool {
        match self.dependencies.get(name) {
            Some(dependency) => dependency.known.standing == Standing::Down,
            None => !self.is_up(name),
        }
    }

    /// Has those looked at that start after `name`.
    pub(crate) fn look_behind(&mut self, name: &Name) {
        self.looks.extend(self.order.behind(name).iter().cloned());
    }
}

impl Brain<'_> {
    /// Looks at services for which something has changed that they start after, a bounded number in one step.
    pub(super) fn look_at_blocked(&mut self) {
        for _ in 0..SERVICES_PER_STEP {
            let Some(name) = self.world.looks.pop_first() else { return };
            self.touched.insert(name.clone());
            if self.world.ending.is_none() {
                self.look(&name);
            }
        }
    }

    fn look(&mut self, name: &Name) {
        match self.phase(name) {
            Phase::Blocked { on } if self.world.is_up(&on) || !self.starts_after(name, &on) => {
                match self.not_ready(name) {
                    Some(next) => {
                        self.record(name, Body::Blocked { on: next });
                    }
                    None => {
                        if self.known(name).counters.failures > 0 {
                            self.record(name, Body::Unblocked { on: on.clone() });
                        }
                        let waits_still = self.starts_after(name, &on);
                        self.try_start(name, if waits_still { Reason::NowReady { on } } else { Reason::Reloaded });
                    }
                }
            }
            // It was given up, perhaps because of that; it gets another chance.
            Phase::Held { .. } => {
                let is_down = |on: &&Name| self.world.dependencies.contains_key(*on) && self.world.is_down(on);
                if let Some(on) = self.policy(name).after.iter().find(is_down) {
                    self.record(name, Body::Blocked { on: on.clone() });
                }
            }
            Phase::Spawning { .. } | Phase::Starting { .. } | Phase::Running { .. } => self.mark(name),
            Phase::Blocked { .. }
            | Phase::Stopped { .. }
            | Phase::Down
            | Phase::BackingOff { .. }
            | Phase::Stopping { .. }
            | Phase::Remains { .. } => {}
        }
    }

    fn starts_after(&self, name: &Name, other: &Name) -> bool {
        self.world.services[name].policy.after.contains(other)
    }

    /// The first of those that it starts after, which is down.
    pub(super) fn blocked_by(&self, name: &Name) -> Option<Name> {
        self.world.services[name].policy.after.iter().find(|on| self.world.is_down(on)).cloned()
    }

    /// Records whether a service that has a process is blocked, where that has changed.
    fn mark(&mut self, name: &Name) {
        let known = self.known(name);
        let Some(epoch) = known.phase.epoch() else { return };
        match (known.blocked.clone(), self.blocked_by(name)) {
            (None, Some(on)) => {
                // It may take long: others need its place.
                self.world.admission.leave(name);
                self.record(name, Body::RunsBlocked { epoch, on });
            }
            (Some(before), Some(on)) if !self.world.is_down(&before) || !self.starts_after(name, &before) => {
                self.record(name, Body::RunsBlocked { epoch, on });
            }
            (Some(on), None) => {
                self.record(name, Body::Unblocked { on });
                if !matches!(self.phase(name), Phase::Running { .. }) {
                    let until = self.now().after(self.policy(name).start.within);
                    self.record(name, Body::Extended { epoch, until });
                }
            }
            (None | Some(_), None | Some(_)) => {}
        }
        if let Some(on) = self.known(name).blocked.clone() {
            self.tell_waiters(name, Wanted::Healthy, |name| Answer::Done {
                text: alloc::format!("{name} runs; whether it works is seen once {on} is up, which is down"),
            });
        }
    }

    /// The cause of a failure while what it depends on is down: that, unless the kernel says another one.
    pub(super) fn cause_while_blocked(cause: Cause) -> Cause {
        match cause {
            Cause::Oom
            | Cause::Memory
            | Cause::Cpu
            | Cause::OpenFiles
            | Cause::Spawn
            | Cause::Unkillable
            | Cause::Reset => cause,
            Cause::Exit
            | Cause::Signal
            | Cause::Hang
            | Cause::Slow
            | Cause::Check
            | Cause::Metric
            | Cause::NoHeartbeat
            | Cause::NoProgress
            | Cause::LoopLag
            | Cause::Listen
            | Cause::StartTimeout
            | Cause::Dependency => Cause::Dependency,
        }
    }

    /// What is left after a failure while it is blocked: what runs is left alone, what is gone waits.
    pub(super) fn wait_blocked(&mut self, name: &Name) {
        if let Some(on) = self.blocked_by(name) {
            self.tell_those_who_wait_for_a_switch(
                name,
                &format!("{on} is down, and {name} is left as it is until it is up"),
            );
        }
        match self.phase(name) {
            Phase::Spawning { .. } | Phase::Starting { .. } | Phase::Running { .. } => self.mark(name),
            Phase::Down | Phase::Remains { .. } => {
                let until = self.now();
                self.bring_down(name, Then::Restart { until }, Reason::LeftBehind);
            }
            Phase::Stopped { .. }
            | Phase::Blocked { .. }
            | Phase::BackingOff { .. }
            | Phase::Held { .. }
            | Phase::Stopping { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::{Effect, Order};
    use crate::event::{Event, ExitStatus, ProbeFailure, ProbeOutcome, Process};
    use crate::ids::{Epoch, ProbeId};
    use crate::incident::Outcome;
    use crate::policy::{CheckKind, CheckPolicy, DependencyPolicy, ServicePolicy};
    use crate::record::Record;
    use crate::status::State;
    use crate::step::Output;
    use crate::step::tests::{at, checked, exited, run, service, step, turn_until, world};
    use crate::time::Span;
    use alloc::collections::BTreeMap;
    use alloc::string::String;
    use alloc::sync::Arc;
    use alloc::vec;
    use alloc::vec::Vec;

    fn name(text: &str) -> Name {
        Name::try_from(text).unwrap()
    }

    /// A dependency that one failure takes down.
    fn api() -> DependencyPolicy {
        let check = CheckPolicy {
            name: name("tcp"),
            kind: CheckKind::Tcp { address: String::from("192.0.2.1:1") },
            every: Span::from_secs(2),
            timeout: Span::from_secs(1),
            failures: 1,
            successes: 1,
            confirm: Vec::new(),
        };
        DependencyPolicy { checks: vec![check] }
    }

    /// A service that starts after the dependency `api`.
    fn needing(policy: ServicePolicy) -> (World, Name) {
        let (mut plain, bot) = world(ServicePolicy { after: vec![name("api")], ..policy });
        plain.birth.policy.dependencies.insert(name("api"), Arc::new(api()));
        (World::new(plain.birth), bot)
    }

    /// Answers the dependency's next probe.
    fn is_there(world: &mut World, is_up: bool) -> (u64, Vec<Record>) {
        let probing = &world.dependencies[&name("api")].checks[0].1;
        let sent =
            |(_, lost_at): (ProbeId, crate::time::Monotonic)| lost_at.since(at(6_000).mono).as_us().div_ceil(1_000);
        let ms = probing.due.map_or_else(|| sent(probing.in_flight.unwrap()), |due| due.as_us().div_ceil(1_000));
        let mut records = step(world, at(ms), Event::Tick).records;
        let (probe, _) = world.dependencies[&name("api")].checks[0].1.in_flight.unwrap();
        let failure = (!is_up).then_some(ProbeFailure::Wrong);
        let outcome = ProbeOutcome { took_us: 0, failure, detail: String::from("words"), figure: None, late_us: 0 };
        let probed = Event::Probed { service: name("api"), epoch: Epoch(0), probe, outcome };
        records.extend(step(world, at(ms), probed).records);
        (ms, records)
    }

    /// Answers the service's next probe, or the one that runs.
    fn probe(world: &mut World, name: &Name, failure: Option<ProbeFailure>) -> Vec<Body> {
        let mut records = Vec::new();
        let mut now = world.dependencies[&Name::try_from("api").unwrap()].known.since;
        if let Some(due) = world.services[name].senses.probes[0].due {
            now = now.max(due);
            records = step(world, crate::time::Now { mono: now, ..at(0) }, Event::Tick).records;
        }
        let (probe, _) = world.services[name].senses.probes[0].in_flight.unwrap();
        let outcome = ProbeOutcome { took_us: 0, failure, detail: String::from("words"), figure: None, late_us: 0 };
        let probed = Event::Probed { service: name.clone(), epoch: Epoch(1), probe, outcome };
        records.extend(step(world, crate::time::Now { mono: now, ..at(0) }, probed).records);
        records.into_iter().map(|record| record.body).collect()
    }

    fn spawned(service: &Name, epoch: u64) -> Event {
        let process = Process { pid: 100, start_ticks: 1, pidfd_inode: 1, cgroup: None };
        Event::Spawned { service: service.clone(), epoch: Epoch(epoch), process }
    }

    fn executed(service: &Name, epoch: u64) -> Event {
        Event::Executed { service: service.clone(), epoch: Epoch(epoch) }
    }

    fn spawns(records: &[Record]) -> usize {
        records.iter().filter(|record| matches!(record.body, Body::SpawnIntended { .. })).count()
    }

    fn state(world: &World, name: &Name) -> State {
        world.status(at(0), Some(name)).unwrap().services[0].state
    }

    /// Runs `bot` behind a dependency that is up.
    fn running(policy: ServicePolicy) -> (World, Name) {
        let (mut world, bot) = needing(policy);
        let begun = step(&mut world, at(0), Event::Begin);
        assert_eq!(spawns(&begun.records), 0, "nothing is known of the dependency yet");
        let (ms, records) = is_there(&mut world, true);
        assert_eq!(spawns(&records), 1);
        let _ = step(&mut world, at(ms + 1), spawned(&bot, 1));
        let _ = step(&mut world, at(ms + 2), executed(&bot, 1));
        (world, bot)
    }

    #[test]
    fn failing_checks_of_a_blocked_service_lead_to_nothing_and_end_by_themselves() {
        let (mut world, bot) = running(checked());
        assert!(probe(&mut world, &bot, None).iter().any(|body| matches!(body, Body::BecameHealthy { .. })));
        let (_, down) = is_there(&mut world, false);
        assert!(down.iter().any(|record| matches!(record.body, Body::RunsBlocked { .. })), "{down:?}");
        assert_eq!(state(&world, &bot), State::Blocked);
        let failed = probe(&mut world, &bot, Some(ProbeFailure::Wrong));
        let cause =
            failed.iter().find_map(|body| if let Body::Detected { cause, .. } = body { Some(*cause) } else { None });
        assert_eq!(cause, Some(Cause::Dependency));
        assert!(!failed.iter().any(|body| matches!(body, Body::StopIntended { .. } | Body::KillIntended { .. })));
        assert_eq!((world.services[&bot].known.counters.failures, state(&world, &bot)), (0, State::Blocked));
        let (_, up) = is_there(&mut world, true);
        assert!(up.iter().any(|record| matches!(record.body, Body::Unblocked { .. })), "{up:?}");
        let passed = probe(&mut world, &bot, None);
        let environmental = |body: &Body| matches!(body, Body::IncidentClosed { outcome: Outcome::Environmental, .. });
        assert!(passed.iter().any(environmental), "{passed:?}");
        assert_eq!(state(&world, &bot), State::Healthy);
    }

    #[test]
    fn a_dependency_that_comes_back_at_the_end_is_no_violation() {
        let (mut plain, bot) = world(ServicePolicy { after: vec![name("api")], ..checked() });
        let behind = ServicePolicy { after: vec![bot.clone()], ..service() };
        plain.birth.policy.dependencies.insert(name("api"), Arc::new(api()));
        plain.birth.policy.services.insert(name("web"), Arc::new(behind));
        let mut world = World::new(plain.birth);
        let _ = step(&mut world, at(0), Event::Begin);
        let (ms, _) = is_there(&mut world, true);
        let _ = step(&mut world, at(ms + 1), spawned(&bot, 1));
        let _ = step(&mut world, at(ms + 2), executed(&bot, 1));
        let _ = probe(&mut world, &bot, None);
        let _ = step(&mut world, at(ms + 20), spawned(&name("web"), 1));
        let _ = step(&mut world, at(ms + 21), executed(&name("web"), 1));
        let _ = is_there(&mut world, false);
        let due = world.dependencies[&name("api")].checks[0].1.due.unwrap();
        let now = crate::time::Now { mono: due, ..at(0) };
        let _ = step(&mut world, now, Event::Tick);
        let (probe, _) = world.dependencies[&name("api")].checks[0].1.in_flight.unwrap();
        let _ = step(&mut world, now, Event::End { why: crate::event::EndWhy::Signal(crate::policy::Signal::TERM) });
        assert_eq!(state(&world, &bot), State::Blocked, "it is stopped after web");
        let outcome =
            ProbeOutcome { took_us: 0, failure: None, detail: String::from("words"), figure: None, late_us: 0 };
        let probed = Event::Probed { service: name("api"), epoch: Epoch(0), probe, outcome };
        let records = step(&mut world, now, probed).records;
        assert!(records.iter().any(|record| matches!(record.body, Body::Dependency { .. })), "{records:?}");
        assert!(!records.iter().any(|record| matches!(record.body, Body::Violated { .. })), "{records:?}");
    }

    #[test]
    fn what_still_fails_once_its_dependency_is_up_is_healed_as_any_other() {
        let (mut world, bot) = running(checked());
        let _ = probe(&mut world, &bot, None);
        let _ = is_there(&mut world, false);
        let _ = probe(&mut world, &bot, Some(ProbeFailure::Wrong));
        let _ = is_there(&mut world, true);
        let mut bodies = probe(&mut world, &bot, Some(ProbeFailure::Wrong));
        bodies.extend(is_there(&mut world, true).1.into_iter().map(|record| record.body));
        assert!(bodies.iter().any(|body| matches!(body, Body::StopIntended { .. })), "{bodies:?}");
        assert_eq!(world.services[&bot].known.counters.failures, 1);
    }

    /// The service sees it first: its own probe fails at once, and the dependency's next one would come much later.
    #[test]
    fn a_failing_check_waits_for_what_the_dependency_says() {
        for is_up in [true, false] {
            let (mut world, bot) = running(checked());
            let _ = probe(&mut world, &bot, None);
            let failed = probe(&mut world, &bot, Some(ProbeFailure::Wrong));
            assert_eq!(failed, [], "nothing is decided yet");
            let (_, answered) = is_there(&mut world, is_up);
            let acts = answered.iter().any(|record| matches!(record.body, Body::StopIntended { .. }));
            assert_eq!(acts, is_up, "{answered:?}");
            let counted = world.services[&bot].known.counters.failures;
            assert_eq!(counted, u32::from(is_up));
        }
    }

    #[test]
    fn a_dependency_that_does_not_answer_is_waited_for_no_longer_than_the_bound() {
        let (mut world, bot) = running(checked());
        let _ = probe(&mut world, &bot, None);
        assert_eq!(probe(&mut world, &bot, Some(ProbeFailure::Wrong)), []);
        let until = world.services[&bot].asked_until().unwrap();
        let now = |us: u64| crate::time::Now { mono: crate::time::Monotonic::from_us(us), ..at(0) };
        let stops = |output: Output| output.records.iter().any(|it| matches!(it.body, Body::StopIntended { .. }));
        turn_until(&mut world, until.as_us() - 1);
        assert!(!stops(step(&mut world, now(until.as_us() - 1), Event::Tick)));
        assert!(world.next_deadline().is_some_and(|next| next <= until), "the loop wakes for it");
        assert!(stops(step(&mut world, now(until.as_us()), Event::Tick)));
    }

    #[test]
    fn a_check_that_passes_meanwhile_is_acted_upon_no_more() {
        let (mut world, bot) = running(checked());
        let _ = probe(&mut world, &bot, None);
        let _ = probe(&mut world, &bot, Some(ProbeFailure::Wrong));
        let _ = probe(&mut world, &bot, None);
        let (_, answered) = is_there(&mut world, true);
        assert!(answered.is_empty(), "{answered:?}");
        assert_eq!(state(&world, &bot), State::Healthy);
    }

    #[test]
    fn a_process_that_ends_while_blocked_waits_and_is_not_counted() {
        let (mut world, bot) = running(service());
        let (ms, _) = is_there(&mut world, false);
        let ended = step(&mut world, at(ms + 1), exited(&bot, 1));
        assert_eq!(spawns(&ended.records), 0);
        assert_eq!(world.services[&bot].known.counters.failures, 0);
        assert_eq!(world.services[&bot].known.phase, Phase::Blocked { on: name("api") });
        let (_, up) = is_there(&mut world, true);
        assert_eq!(spawns(&up), 1, "{up:?}");
        // Of many that start again at once each takes a place.
        assert_eq!(world.restarts_in_flight(), 1);
    }

    #[test]
    fn a_held_service_gets_another_chance_when_its_dependency_comes_back() {
        let mut policy = service();
        policy.restart.crash_loop = Some(crate::policy::CrashLoop { failures: 1, within: Span::from_secs(60) });
        let (mut world, bot) = running(policy);
        let _ = step(&mut world, at(20), exited(&bot, 1));
        assert!(matches!(world.services[&bot].known.phase, Phase::Held { .. }));
        let _ = is_there(&mut world, false);
        assert_eq!(world.services[&bot].known.phase, Phase::Blocked { on: name("api") });
        let (_, up) = is_there(&mut world, true);
        assert_eq!((spawns(&up), world.services[&bot].known.counters.held_tries), (1, None));
    }

    #[test]
    fn what_ran_to_a_good_end_blocks_nobody() {
        let (mut one, setup) = world(service());
        let mut policy = service();
        policy.restart.on_success = false;
        one.birth.policy.services.insert(setup.clone(), Arc::new(policy));
        let web = name("web");
        let after = ServicePolicy { after: vec![setup.clone()], ..service() };
        one.birth.policy.services.insert(web.clone(), Arc::new(after));
        let mut world = World::new(one.birth);
        run(&mut world, &setup);
        let _ = step(&mut world, at(3), spawned(&web, 1));
        let _ = step(&mut world, at(4), executed(&web, 1));
        let finished = Event::Exited {
            service: setup,
            epoch: Epoch(1),
            status: ExitStatus::Code(0),
            tree_empty: true,
            memory: None,
        };
        let _ = step(&mut world, at(5), finished);
        assert_eq!(state(&world, &web), State::Healthy);
        assert_eq!(spawns(&step(&mut world, at(6), exited(&web, 1)).records), 1);
    }

    #[test]
    fn the_next_supervisor_knows_what_is_down_and_looks_again() {
        let (mut before, bot) = running(service());
        let _ = is_there(&mut before, false);
        let snapshot = before.snapshot();
        let text = serde_json::to_string(&snapshot).unwrap();
        let mut world =
            World::restore(before.birth.clone(), None, Some(serde_json::from_str(&text).unwrap()), Vec::new());
        assert!(world.is_down(&name("api")));
        let life = crate::event::Life::Running {
            process: Process { pid: 100, start_ticks: 1, pidfd_inode: 1, cgroup: None },
            executed: true,
        };
        let found = crate::event::Found { epoch: Epoch(1), life, tree_empty: false };
        let found = [(bot.clone(), found)].into_iter().collect();
        let _ = step(&mut world, at(10_000), Event::TakeOver { lost: crate::event::Lost::Guardian, found });
        assert_eq!(state(&world, &bot), State::Blocked);
        let (_, up) = is_there(&mut world, true);
        assert!(up.iter().any(|record| matches!(record.body, Body::Unblocked { .. })), "{up:?}");
    }

    /// Levels of services, each of which starts after all of the level before, and what it takes to start and end them.
    struct Fleet {
        world: World,
        steps: usize,
        records: Vec<Record>,
        orders: Vec<Effect>,
        most_in_a_step: usize,
    }

    impl Fleet {
        fn new(levels: usize, width: usize) -> Self {
            let (plain, _) = world(service());
            let mut birth = plain.birth;
            birth.policy.services = BTreeMap::new();
            for level in 0..levels {
                for index in 0..width {
                    let before = if level == 0 { 0 } else { width };
                    let after = (0..before).map(|index| Self::name(level - 1, index)).collect();
                    let policy = Arc::new(ServicePolicy { after, ..service() });
                    birth.policy.services.insert(Self::name(level, index), policy);
                }
            }
            birth.policy.host.restarts_in_flight = 1;
            let world = World::new(birth);
            Self { world, steps: 0, records: Vec::new(), orders: Vec::new(), most_in_a_step: 0 }
        }

        /// Names go against the order of starts.
        fn name(level: usize, index: usize) -> Name {
            name(&alloc::format!("s{:02}-{index:04}", 99 - level))
        }

        fn level(name: &Name) -> usize {
            99 - name.as_str()[1..3].parse::<usize>().unwrap()
        }

        fn take(&mut self, event: Event) {
            let Output { records, effects } = step(&mut self.world, at(self.steps as u64), event);
            self.steps += 1;
            self.most_in_a_step = self.most_in_a_step.max(records.len());
            self.records.extend(records);
            self.orders.extend(effects);
        }

        /// Answers every order, until nothing is left to do.
        fn settle(&mut self) {
            let mut answered = 0;
            loop {
                let events: Vec<Event> = self.orders[answered..].iter().flat_map(answers).collect();
                answered = self.orders.len();
                if events.is_empty() && self.world.looks.is_empty() && self.world.to_start.is_empty() {
                    return;
                }
                self.take(Event::Tick);
                events.into_iter().for_each(|event| self.take(event));
            }
        }

        fn levels_of(&self, is: fn(&Body) -> bool) -> Vec<usize> {
            let of = |record: &Record| record.service.as_ref().filter(|_| is(&record.body)).map(Self::level);
            self.records.iter().filter_map(of).collect()
        }
    }

    fn answers(effect: &Effect) -> Vec<Event> {
        let crate::effect::Fence::Service { service, epoch } = &effect.fence else { return Vec::new() };
        if let Order::Spawn { .. } = effect.order {
            vec![spawned(service, epoch.0), executed(service, epoch.0)]
        } else if let Order::Signal { .. } = effect.order {
            vec![exited(service, epoch.0)]
        } else {
            Vec::new()
        }
    }

    /// A thousand services in ten levels, each after all hundred of the level before: ninety thousand edges.
    #[test]
    fn ten_levels_start_in_order_and_end_in_reverse_and_no_step_does_it_all() {
        let mut fleet = Fleet::new(10, 100);
        fleet.take(Event::Begin);
        fleet.settle();
        let starts = fleet.levels_of(|body| matches!(body, Body::SpawnIntended { .. }));
        assert_eq!(starts.len(), 1_000);
        assert!(starts.is_sorted(), "{starts:?}");
        // Each waits for one after the other at the worst: records grow as the edges do, and steps as the services.
        assert!(fleet.steps < 4_000, "{} steps", fleet.steps);
        assert!(fleet.records.len() < 100_000, "{} records", fleet.records.len());
        assert!(fleet.most_in_a_step <= 4 * SERVICES_PER_STEP, "{} records in a step", fleet.most_in_a_step);

        let (steps, from) = (fleet.steps, fleet.records.len());
        fleet.take(Event::End { why: crate::event::EndWhy::Signal(crate::policy::Signal::TERM) });
        fleet.settle();
        let ends = fleet.levels_of(|body| matches!(body, Body::StopIntended { .. }));
        assert_eq!(ends.len(), 1_000);
        assert!(ends.iter().rev().is_sorted(), "{ends:?}");
        assert!(fleet.orders.iter().any(|effect| effect.order == Order::EndDone));
        assert!(fleet.steps - steps < 4_000 && fleet.records.len() - from < 5_000);
    }

    /// What is done for one service does not grow with how many others there are.
    #[test]
    fn twice_as_many_services_take_twice_as_many_steps() {
        let cost = |levels| {
            let mut fleet = Fleet::new(levels, 20);
            fleet.take(Event::Begin);
            fleet.settle();
            (fleet.steps, fleet.records.len())
        };
        let ((steps, records), (more_steps, more_records)) = (cost(10), cost(20));
        assert!(more_steps <= 2 * steps + 100, "{steps} and {more_steps} steps");
        assert!(more_records <= 2 * records + 2_000, "{records} and {more_records} records");
    }

    #[test]
    fn a_result_that_nobody_waits_for_changes_nothing() {
        let (mut world, _) = running(service());
        let outcome = ProbeOutcome {
            took_us: 0,
            failure: Some(ProbeFailure::Wrong),
            detail: String::new(),
            figure: None,
            late_us: 0,
        };
        let probed = Event::Probed { service: name("api"), epoch: Epoch(0), probe: ProbeId(999), outcome };
        assert!(step(&mut world, at(50), probed).records.is_empty());
        assert!(world.is_up(&name("api")));
    }
}
