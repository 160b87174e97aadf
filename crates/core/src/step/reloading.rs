//! Reloading: another policy comes into force while services run, and of each service only what it changes is touched.

use super::Brain;
use super::orders::PENDING_ORDERS_MAX;
use crate::effect::{Answer, Fence, Order};
use crate::event::Reading;
use crate::ids::{Name, RequestId};
use crate::policy::change::{Change, fixed};
use crate::policy::{Mode, PolicyHash, Ready};
use crate::reason::Reason;
use crate::record::{Actor, Body, OperatorOrder, Refusal, Reload};
use crate::safeswitch::Part;
use crate::time::Monotonic;
use crate::world::phase::{Phase, Then};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

impl Brain<'_> {
    /// The configuration was read again. It comes into force once the order is durable, as any other.
    pub(super) fn reload_asked(&mut self, request: RequestId, actor: Actor, reading: Reading) {
        let (policy, hash) = match reading {
            Reading::Valid { policy, hash } => (policy, hash),
            Reading::Refused { why } => return self.refuse_reload(request, actor, why),
        };
        let keys = fixed(&self.world.birth.policy, &policy);
        if let Some(why) = self.world.ending {
            self.refuse_reload(request, actor, Reason::HaleEnds { why });
        } else if self.world.awaits_reload() || self.world.pending.len() >= PENDING_ORDERS_MAX {
            self.refuse_reload(request, actor, Reason::ReloadInProgress);
        } else if hash == self.world.birth.hash {
            let text = String::from("nothing to do: this configuration is in force already");
            self.reply(request, Answer::Done { text });
        } else if !keys.is_empty() {
            self.refuse_reload(request, actor, Reason::FixedWhileRunning { keys });
        } else if let Some(name) = policy.dependencies.keys().find(|name| self.world.services.contains_key(*name)) {
            // A name means one thing, and the service is there until it has ended.
            let error = format!(
                "[dependency.{name}]: there is a service of that name; remove it by one reload, and add the dependency by the \
                 next, once the service has ended"
            );
            self.refuse_reload(request, actor, Reason::InvalidConfiguration { error });
        } else {
            self.world.candidate = Some((hash.clone(), *policy));
            self.take_order(request, actor, OperatorOrder::Reload { policy: hash }, true);
        }
    }

    fn refuse_reload(&mut self, request: RequestId, actor: Actor, why: Reason) {
        // Whoever asks again and again while one is under way must not fill the ledger.
        if why != Reason::ReloadInProgress {
            self.record_in(None, None, Body::ReloadRefused { actor, why: why.clone() });
        }
        self.reply(
            request,
            Answer::Refused(Refusal { what: String::from("order: reload the configuration"), reason: why }),
        );
    }

    /// Puts the policy in force whose order is on record.
    pub(super) fn order_reload(&mut self, request: RequestId, actor: Actor, hash: &PolicyHash) {
        let Some((_, policy)) = self.world.candidate.as_ref().filter(|(read, _)| read == hash) else {
            let error = String::from(
                "what was read of it is lost with the supervisor that had read it; order the reload again",
            );
            return self.refuse_reload(request, actor, Reason::PolicyNotKept { error });
        };
        let old = &self.world.birth.policy;
        let change = Change::between(old, policy);
        let (was, system) = (old.host.mode, old.system);
        let reload = Reload { actor, from: self.world.birth.hash.clone(), to: hash.clone(), change: change.listed() };
        let text = format!("the configuration is in force: {}", reload.change);
        self.record_in(None, None, Body::Reloaded(Box::new(reload)));
        let policy = Box::new(self.world.birth.policy.clone());
        self.push_effect(Fence::Host, Order::Adapt { policy });
        self.begin_changed_dependencies(&change);
        change.added.iter().for_each(|name| self.add(name));
        self.touched.extend(change.removed.iter().cloned());
        change.anew.iter().chain(&change.kept).for_each(|name| self.go_on_by_other_policy(name));
        if was == Mode::Observe && self.world.mode() == Mode::Heal {
            let names: Vec<Name> = self.world.services.keys().cloned().collect();
            names.iter().for_each(|name| self.heal_again(name));
        }
        if system != self.world.birth.policy.system {
            self.withdraw_permission();
        }
        self.look_at_hardware();
        self.reply(request, Answer::Done { text });
    }

    fn begin_changed_dependencies(&mut self, change: &Change) {
        let now = self.now();
        for name in &change.dependencies {
            self.touched.insert(name.clone());
            if let Some(dependency) = self.world.dependencies.get_mut(name) {
                dependency.begin(now);
            }
            self.world.look_behind(name);
        }
    }

    /// A service that the policy before did not have; perhaps the one before that did, and it is not gone yet.
    fn add(&mut self, name: &Name) {
        self.touched.insert(name.clone());
        self.begin_generations(name);
        match self.phase(name) {
            Phase::Down => {
                self.world.added.insert(name.clone());
                self.world.to_start.push_back(name.clone());
            }
            Phase::Stopped { .. } => self.try_start(name, Reason::Reloaded),
            // Of one that was removed only the end is awaited, and what is wanted after it is another thing now.
            Phase::Blocked { .. }
            | Phase::BackingOff { .. }
            | Phase::Held { .. }
            | Phase::Spawning { .. }
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::Stopping { .. }
            | Phase::Remains { .. } => {
                let until = self.now();
                self.bring_down(name, Then::Restart { until }, Reason::Reloaded);
            }
        }
    }

    /// A service that goes on: its new checks begin, and what its old ones have kept it from may be over.
    fn go_on_by_other_policy(&mut self, name: &Name) {
        let now = self.now();
        self.touched.insert(name.clone());
        // It may start after others now.
        self.world.looks.insert(name.clone());
        self.begin_changed_generations(name);
        let Some(service) = self.world.services.get_mut(name) else { return };
        let (policy, own) = (service.policy.clone(), service.known.heartbeat_within);
        let Some(run) = service.known.phase.run() else { return };
        let is_ready = matches!(service.known.phase, Phase::Running { .. });
        for (check, probing) in policy.checks.iter().zip(&mut service.senses.probes) {
            if check.kind.promise().is_none() {
                // Its pause may be shorter now.
                probing.due = probing.due.map(|due| due.min(now.after(check.every)));
            }
            if probing.due.is_none() && probing.in_flight.is_none() {
                probing.begin(check, now);
                if let Some(within) = crate::analyze::checks::heartbeat_within(check, own).filter(|_| is_ready) {
                    probing.due = Some(now.after(within));
                }
            }
        }
        if service.known.outdated.is_none() {
            if self.world.services[name].all_pass() {
                self.ready_by(name, run.epoch, Ready::Check);
            }
            self.maybe_healthy(name);
        }
    }

    /// Hale acts again: what it only watched failing is healed as after a pause.
    fn heal_again(&mut self, name: &Name) {
        self.touched.insert(name.clone());
        let known = self.known(name);
        if known.violated.is_some() || known.paused.is_some() || self.world.leaving.contains(name) {
            return;
        }
        if let Phase::Remains { .. } = known.phase {
            let has_finished = !self.policy(name).restart.on_success && known.last_failure.is_none();
            let until = self.now();
            let then = if has_finished { Then::Stay { why: Reason::Finished } } else { Then::Restart { until } };
            self.bring_down(name, then, Reason::LeftBehind);
        } else if let Some(open) = known.incident.filter(|_| self.needs_healing(name)) {
            self.decide_again(name, open.cause, None);
        }
    }

    /// Starts those anew whose processes are of another policy, as many at once as there are places; one that is paused,
    /// blocked or only watched stays as it is until that is over.
    pub(super) fn start_outdated(&mut self) {
        if self.world.outdated.is_empty() || self.world.ending.is_some() || self.world.mode() == Mode::Observe {
            return;
        }
        let known = |name: &Name| self.world.services.get(name).map(|service| &service.known);
        let is_outdated = |name: &Name| known(name).is_some_and(|known| known.outdated.is_some());
        let outdated: Vec<Name> = self.world.outdated.iter().filter(|name| is_outdated(name)).cloned().collect();
        let mut room = self.room();
        for name in &outdated {
            let known = self.known(name);
            let rests = known.paused.is_some() || known.violated.is_some() || known.blocked.is_some();
            // What would run instead is in a release that is not there yet.
            let rests = rests || self.needs_release(name);
            // One that is on its way up gives its place away for the next.
            let has_place = self.world.admission.has_place(name);
            if (room > 0 || has_place) && !rests && !self.world.leaving.contains(name) && self.start_anew(name) {
                room -= usize::from(!has_place);
            }
        }
        self.world.outdated = outdated.into_iter().collect();
    }

    /// `false`: nothing is to be done, or another thing is being done that ends in a new process.
    fn start_anew(&mut self, name: &Name) -> bool {
        let until: Monotonic = self.now();
        match self.phase(name) {
            Phase::Spawning { .. } | Phase::Starting { .. } | Phase::Running { .. } => {
                self.touched.insert(name.clone());
                self.record(name, Body::CountersForgotten);
                self.bring_down(name, Then::Restart { until }, Reason::Reloaded);
                true
            }
            // What it was given up by, or waited for, is over.
            Phase::BackingOff { .. } | Phase::Held { .. } | Phase::Stopped { .. }
                if !self.world.admission.waits(name) =>
            {
                self.touched.insert(name.clone());
                self.record(name, Body::CountersForgotten);
                self.try_start(name, Reason::Reloaded);
                true
            }
            Phase::BackingOff { .. }
            | Phase::Held { .. }
            | Phase::Stopped { .. }
            | Phase::Down
            | Phase::Blocked { .. }
            | Phase::Stopping { .. }
            | Phase::Remains { .. } => false,
        }
    }

    /// Ends those that the policy does not have any more, in order, and forgets those that are gone.
    pub(super) fn let_go(&mut self) {
        if self.world.ending.is_some() {
            return;
        }
        let mut left = self.world.leaving.len();
        while left > 0 {
            for name in self.world.leaving.clone() {
                self.leave(&name);
            }
            let before = core::mem::replace(&mut left, self.world.leaving.len());
            // As long as one of them went, those that it started after may go.
            if before == left {
                return;
            }
        }
    }

    fn leave(&mut self, name: &Name) {
        for part in Part::ALL {
            self.give_switch_up(name, part, Reason::Removed);
        }
        let is_over = |name: &Name| {
            self.world.services.get(name).is_none_or(|service| matches!(service.known.phase, Phase::Stopped { .. }))
        };
        let is_going = matches!(self.phase(name), Phase::Stopping { then: Then::Stay { .. }, .. });
        let mut behind = self.world.order.behind(name).iter().filter(|behind| self.world.leaving.contains(*behind));
        if !is_going && !is_over(name) && behind.all(is_over) {
            self.touched.insert(name.clone());
            self.bring_down(name, Then::Stay { why: Reason::Removed }, Reason::Removed);
        }
        if let Phase::Stopped { .. } = self.phase(name) {
            let epoch = self.known(name).last_epoch;
            let waiters: Vec<RequestId> =
                self.world.services[name].senses.waiters.iter().map(|waiter| waiter.request).collect();
            for request in waiters {
                let text = format!("{name} was removed from the configuration meanwhile");
                self.reply(request, Answer::Failed { text });
            }
            self.effect(name, epoch, Order::Forget);
            self.record(name, Body::Forgotten);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::Effect;
    use crate::event::{Event, Lost, ProbeFailure, ProbeOutcome, Process, Question};
    use crate::ids::Epoch;
    use crate::policy::{CheckKind, CheckPolicy, CrashLoop, DependencyPolicy, Policy, ServicePolicy};
    use crate::record::Record;
    use crate::step::Output;
    use crate::step::tests::{at, checked, exited, run, service, starting, step, turn_until, world};
    use crate::time::{Now, Span};
    use crate::world::{Birth, World};
    use alloc::collections::BTreeMap;
    use alloc::sync::Arc;
    use alloc::vec;

    fn name(text: &str) -> Name {
        Name::try_from(text).unwrap()
    }

    fn actor() -> Actor {
        Actor { uid: 0, pid: 1, user: None }
    }

    /// Reads a policy that was changed like this, and says at once that the order is durable.
    fn reload(world: &mut World, ms: u64, change: impl FnOnce(&mut Policy)) -> Output {
        let mut policy = world.birth.policy.clone();
        change(&mut policy);
        let hash = PolicyHash(Arc::from(format!("hash at {ms}")));
        let reading = Reading::Valid { policy: Box::new(policy), hash };
        let asked = Event::Asked { request: RequestId(3), question: Question::Reload { actor: actor(), reading } };
        let mut output = step(world, at(ms), asked);
        if let Some(Record { id, body: Body::Ordered { .. }, .. }) = output.records.last() {
            let then = step(world, at(ms), Event::Durable { up_to: *id });
            output.records.extend(then.records);
            output.effects.extend(then.effects);
        }
        output
    }

    fn change_bot(policy: &mut Policy, change: impl FnOnce(&mut ServicePolicy)) {
        change(Arc::make_mut(policy.services.get_mut(&name("bot")).unwrap()));
    }

    fn answer(output: &Output) -> &Answer {
        let reply = |effect: &Effect| matches!(effect.order, Order::Reply { .. });
        let Order::Reply { answer, .. } = &output.effects.iter().find(|effect| reply(effect)).unwrap().order else {
            panic!()
        };
        answer
    }

    fn refusal(output: &Output) -> &Reason {
        let Answer::Refused(refusal) = answer(output) else { panic!("{:?}", answer(output)) };
        &refusal.reason
    }

    fn acts(output: &Output) -> Vec<&Order> {
        let act = |order: &&Order| matches!(order, Order::Spawn { .. } | Order::Kill | Order::Signal { .. });
        output.effects.iter().map(|effect| &effect.order).filter(act).collect()
    }

    fn spawned(world: &mut World, service: &Name, epoch: u64, ms: u64) -> Output {
        let process = Process { pid: 100, start_ticks: 1, pidfd_inode: 1, cgroup: None };
        let (service, epoch) = (service.clone(), Epoch(epoch));
        let _ = step(world, at(ms), Event::Spawned { service: service.clone(), epoch, process });
        step(world, at(ms), Event::Executed { service, epoch })
    }

    /// Answers the next probe of this check.
    fn probe(world: &mut World, check: usize, failure: Option<ProbeFailure>) -> Vec<Body> {
        let bot = name("bot");
        let due = world.services[&bot].senses.probes[check].due.unwrap();
        turn_until(world, due.as_us());
        let now = Now { mono: due, ..at(0) };
        let mut records = step(world, now, Event::Tick).records;
        let (probe, _) = world.services[&bot].senses.probes[check].in_flight.unwrap();
        let outcome = ProbeOutcome { took_us: 0, failure, detail: String::from("words"), figure: None, late_us: 0 };
        let epoch = world.services[&bot].known.last_epoch;
        records.extend(step(world, now, Event::Probed { service: bot, epoch, probe, outcome }).records);
        records.into_iter().map(|record| record.body).collect()
    }

    fn healthy() -> World {
        let (mut world, bot) = world(checked());
        starting(&mut world, &bot);
        let _ = probe(&mut world, 0, None);
        assert!(world.services[&bot].known.healthy);
        world
    }

    fn another_check() -> CheckPolicy {
        let kind = CheckKind::Tcp { address: String::from("127.0.0.1:9") };
        CheckPolicy { name: name("other"), kind, ..checked().checks[0].clone() }
    }

    #[test]
    fn what_cannot_be_used_or_changes_nothing_leaves_everything_as_it_is() {
        let mut world = healthy();
        let before = world.birth.hash.clone();
        let same = Reading::Valid { policy: Box::new(world.birth.policy.clone()), hash: before.clone() };
        let invalid = Reason::InvalidConfiguration { error: String::from("hale.toml:1: no") };
        let invalid_too = Reading::Refused { why: invalid.clone() };
        let mut ask = |reading| {
            let question = Question::Reload { actor: actor(), reading };
            step(&mut world, at(100), Event::Asked { request: RequestId(3), question })
        };
        let output = ask(same);
        assert!(output.records.is_empty() && matches!(answer(&output), Answer::Done { .. }));
        let output = ask(invalid_too);
        assert!(matches!(&output.records[0].body, Body::ReloadRefused { why, .. } if *why == invalid));
        assert_eq!(*refusal(&output), invalid);
        let output = reload(&mut world, 100, |policy| policy.host.state_dir.push('x'));
        assert_eq!(*refusal(&output), Reason::FixedWhileRunning { keys: vec![String::from("host.state_dir")] });
        assert_eq!(world.birth.hash, before);
        assert!(acts(&output).is_empty());
    }

    #[test]
    fn a_second_reload_waits_for_the_first() {
        let mut world = healthy();
        let ask = |world: &mut World, hash: &str| {
            let (policy, hash) = (Box::new(world.birth.policy.clone()), PolicyHash(Arc::from(hash)));
            let question = Question::Reload { actor: actor(), reading: Reading::Valid { policy, hash } };
            step(world, at(100), Event::Asked { request: RequestId(3), question })
        };
        let first = ask(&mut world, "one");
        let second = ask(&mut world, "two");
        assert_eq!(*refusal(&second), Reason::ReloadInProgress);
        assert!(second.records.is_empty(), "whoever asks in a loop fills no ledger");
        let _ = step(&mut world, at(101), Event::Durable { up_to: first.records[0].id });
        assert_eq!(&*world.birth.hash.0, "one");
    }

    #[test]
    fn a_changed_check_starts_nothing_anew_and_counts_once_it_has_passed() {
        let mut world = healthy();
        let bot = name("bot");
        let output = reload(&mut world, 1_000, |policy| change_bot(policy, |bot| bot.checks.push(another_check())));
        assert!(acts(&output).is_empty() && matches!(answer(&output), Answer::Done { .. }), "{output:?}");
        let known = &world.services[&bot].known;
        assert!(!known.healthy && known.incident.is_none(), "nothing is known of the new check");
        let status = &world.status(at(1_000), None).unwrap().services[0];
        assert_eq!(status.state, crate::status::State::Degraded);
        assert!(status.detail.ends_with("does not count: other"), "{}", status.detail);
        for round in 0..5 {
            let bodies = probe(&mut world, 1, Some(ProbeFailure::Wrong));
            let said = bodies.iter().filter(|body| matches!(body, Body::CheckUnproven { .. })).count();
            assert_eq!(said, usize::from(round == 0), "{bodies:?}");
            assert!(!bodies.iter().any(|body| matches!(body, Body::Detected { .. })));
        }
        let passed = probe(&mut world, 1, None);
        assert!(passed.iter().any(|body| matches!(body, Body::BecameHealthy { .. })), "{passed:?}");
        let failed = probe(&mut world, 1, Some(ProbeFailure::Wrong));
        assert!(failed.iter().any(|body| matches!(body, Body::Detected { .. })), "{failed:?}");
    }

    #[test]
    fn a_check_that_failed_counts_on_when_it_is_changed_and_one_that_stays_keeps_its_row() {
        let mut policy = checked();
        policy.checks[0].failures = 3;
        let (mut world, bot) = world(policy);
        starting(&mut world, &bot);
        let _ = probe(&mut world, 0, None);
        let _ = probe(&mut world, 0, Some(ProbeFailure::Wrong));
        let _ = reload(&mut world, 1_000, |policy| change_bot(policy, |bot| bot.checks.insert(0, another_check())));
        let second = probe(&mut world, 1, Some(ProbeFailure::Wrong));
        assert!(second.iter().any(|body| matches!(body, Body::CheckFailed { failures: 2, .. })), "{second:?}");
        let due = world.services[&bot].senses.probes[1].due.unwrap().as_us() / 1_000;
        turn_until(&mut world, (due - 1) * 1_000);
        let _ = reload(&mut world, due - 1, |policy| change_bot(policy, |bot| bot.checks[1].failures = 2));
        let failed = probe(&mut world, 1, Some(ProbeFailure::Wrong));
        assert!(failed.iter().any(|body| matches!(body, Body::Detected { .. })), "{failed:?}");
    }

    #[test]
    fn what_is_in_flight_for_a_check_that_is_gone_finds_nobody() {
        let mut world = healthy();
        let bot = name("bot");
        let due = world.services[&bot].senses.probes[0].due.unwrap();
        let _ = step(&mut world, Now { mono: due, ..at(0) }, Event::Tick);
        let (probe, _) = world.services[&bot].senses.probes[0].in_flight.unwrap();
        let _ = reload(&mut world, 4_000, |policy| change_bot(policy, |bot| bot.checks[0] = another_check()));
        let outcome = ProbeOutcome {
            took_us: 0,
            failure: Some(ProbeFailure::Wrong),
            detail: String::new(),
            figure: None,
            late_us: 0,
        };
        let stale = Event::Probed { service: bot, epoch: Epoch(1), probe, outcome };
        assert!(step(&mut world, at(4_001), stale).records.is_empty());
    }

    #[test]
    fn a_start_that_waits_for_a_check_is_over_when_that_is_removed() {
        let mut policy = checked();
        policy.checks.push(another_check());
        let (mut world, bot) = world(policy);
        starting(&mut world, &bot);
        let _ = probe(&mut world, 0, None);
        assert!(matches!(world.services[&bot].known.phase, Phase::Starting { .. }));
        let output = reload(&mut world, 1_000, |policy| change_bot(policy, |bot| bot.checks.truncate(1)));
        assert!(acts(&output).is_empty());
        assert!(matches!(world.services[&bot].known.phase, Phase::Running { .. }), "{output:?}");
        assert!(world.services[&bot].known.healthy);
    }

    #[test]
    fn another_command_leads_to_one_restart_that_is_no_failure() {
        let mut world = healthy();
        let bot = name("bot");
        let output =
            reload(&mut world, 1_000, |policy| change_bot(policy, |bot| bot.command = vec![String::from("/bin/new")]));
        assert!(matches!(acts(&output)[..], [Order::Signal { .. }]), "{output:?}");
        let restarted = step(&mut world, at(1_100), exited(&bot, 1));
        let [Order::Spawn { policy, .. }] = acts(&restarted)[..] else { panic!("{restarted:?}") };
        assert_eq!(policy.command, ["/bin/new"]);
        let known = &world.services[&bot].known;
        assert!(
            known.outdated.is_none() && known.counters.failures == 0 && known.incident.is_none() && known.restarts == 1
        );
        let _ = spawned(&mut world, &bot, 2, 1_200);
        assert!(acts(&probe_output(&mut world)).is_empty(), "once is enough");
        assert!(world.outdated.is_empty());
    }

    #[test]
    fn what_is_changed_back_before_its_turn_runs_on() {
        let mut world = healthy();
        let bot = name("bot");
        let paused = crate::world::pause::Paused { actor: actor(), until_boot_us: 60_000_000 };
        world.services.get_mut(&bot).unwrap().known.paused = Some(paused);
        let _ = reload(&mut world, 1_000, |policy| change_bot(policy, |bot| bot.command.push(String::from("-v"))));
        assert!(world.services[&bot].known.outdated.is_some());
        let detail = &world.status(at(1_000), None).unwrap().services[0].detail;
        assert!(detail.ends_with("runs by an earlier configuration, and is to be started anew"), "{detail}");
        let _ = reload(&mut world, 1_100, |policy| change_bot(policy, |bot| bot.command.truncate(1)));
        assert!(world.services[&bot].known.outdated.is_none());
    }

    fn probe_output(world: &mut World) -> Output {
        let due = world.services[&name("bot")].senses.probes[0].due.unwrap();
        step(world, Now { mono: due, ..at(0) }, Event::Tick)
    }

    #[test]
    fn a_paused_service_gets_its_new_process_when_the_pause_is_over_and_a_stopped_one_when_it_is_started() {
        let order = |world: &mut World, ms: u64, order: OperatorOrder| {
            let asked = Event::Asked {
                request: RequestId(7),
                question: Question::Order { actor: actor(), order, waits: true },
            };
            let up_to = step(world, at(ms), asked).records[0].id;
            step(world, at(ms), Event::Durable { up_to })
        };
        let (mut one, bot) = world(service());
        run(&mut one, &bot);
        let other = |policy: &mut Policy| change_bot(policy, |bot| bot.command.push(String::from("-v")));
        let _ = order(&mut one, 100, OperatorOrder::Pause { service: bot.clone(), lasts: Span::from_secs(60) });
        assert!(acts(&reload(&mut one, 200, other)).is_empty());
        let resumed = order(&mut one, 300, OperatorOrder::Resume { service: bot.clone() });
        assert!(matches!(acts(&resumed)[..], [Order::Signal { .. }]), "{resumed:?}");

        let (mut one, bot) = world(service());
        run(&mut one, &bot);
        let _ = order(&mut one, 100, OperatorOrder::Stop { service: bot.clone() });
        let _ = step(&mut one, at(110), exited(&bot, 1));
        assert!(acts(&reload(&mut one, 200, other)).is_empty());
        let started = order(&mut one, 300, OperatorOrder::Start { service: bot });
        assert!(matches!(acts(&started)[..], [Order::Spawn { policy, .. }] if policy.command.len() == 2));
    }

    #[test]
    fn what_was_given_up_is_tried_at_once_by_its_new_command() {
        let mut policy = service();
        policy.restart.crash_loop = Some(CrashLoop { failures: 1, within: Span::from_secs(60) });
        let (mut world, bot) = world(policy);
        run(&mut world, &bot);
        let _ = step(&mut world, at(5), exited(&bot, 1));
        assert!(matches!(world.services[&bot].known.phase, Phase::Held { .. }));
        let kept = reload(&mut world, 10, |policy| change_bot(policy, |bot| bot.log.keep = 9));
        assert!(acts(&kept).is_empty());
        let output = reload(&mut world, 20, |policy| change_bot(policy, |bot| bot.command.push(String::from("-v"))));
        assert!(matches!(acts(&output)[..], [Order::Spawn { .. }]), "{output:?}");
    }

    #[test]
    fn a_shorter_crash_loop_keeps_no_more_failures_than_it_needs() {
        let mut policy = service();
        policy.restart.crash_loop = Some(CrashLoop { failures: 9, within: Span::from_secs(60) });
        let (mut world, bot) = world(policy);
        run(&mut world, &bot);
        let _ = step(&mut world, at(5), exited(&bot, 1));
        let _ = reload(&mut world, 10, |policy| change_bot(policy, |bot| bot.restart.crash_loop = None));
        let known = &world.services[&bot].known;
        assert!(known.counters.recent.is_empty() && known.violated.is_none());
    }

    /// `bot`, and `web` behind it; both run.
    fn two() -> (World, Name, Name) {
        let (one, bot) = world(service());
        let mut birth = one.birth;
        let web = name("web");
        birth.policy.services.insert(web.clone(), Arc::new(ServicePolicy { after: vec![bot.clone()], ..service() }));
        let mut world = World::new(birth);
        let _ = step(&mut world, at(0), Event::Begin);
        let _ = spawned(&mut world, &bot, 1, 1);
        let _ = spawned(&mut world, &web, 1, 2);
        assert!(world.services.values().all(|service| service.known.healthy));
        (world, bot, web)
    }

    #[test]
    fn what_is_removed_ends_in_order_and_is_forgotten() {
        let (mut world, bot, web) = two();
        let output = reload(&mut world, 1_000, |policy| policy.services.clear());
        let signalled = |output: &Output, whom: &Name| {
            output.effects.iter().any(|effect| {
                matches!(&effect.fence, Fence::Service { service, .. } if service == whom)
                    && matches!(effect.order, Order::Signal { .. })
            })
        };
        assert!(signalled(&output, &web) && !signalled(&output, &bot), "those behind first");
        let gone = step(&mut world, at(1_100), exited(&web, 1));
        assert!(signalled(&gone, &bot), "{gone:?}");
        assert!(!world.services.contains_key(&web));
        let forgets = |output: &Output| output.effects.iter().any(|effect| effect.order == Order::Forget);
        assert!(forgets(&gone));
        let stale = step(&mut world, at(1_101), exited(&web, 1));
        assert!(stale.records.is_empty());
        let gone = step(&mut world, at(1_200), exited(&bot, 1));
        assert!(forgets(&gone) && world.services.is_empty() && world.leaving.is_empty());
        assert_eq!(world.next_deadline(), None);
        let back = reload(&mut world, 2_000, |policy| _ = policy.services.insert(bot.clone(), Arc::new(service())));
        let spawn = back.effects.iter().find(|effect| matches!(effect.order, Order::Spawn { .. })).unwrap();
        let fence = Fence::Service { service: bot.clone(), epoch: Epoch(2) };
        assert_eq!(spawn.fence, fence, "no number is used twice");
        assert_eq!(world.services[&bot].known.restarts, 0);
    }

    #[test]
    fn what_comes_back_before_it_has_left_knows_its_generations() {
        let (mut world, _, web) = two();
        let policy = Arc::new(crate::step::bench::policy());
        let _ = reload(&mut world, 900, |all| _ = all.services.insert(web.clone(), policy.clone()));
        let good = crate::safeswitch::Good {
            id: crate::step::bench::id("good"),
            grade: crate::safeswitch::Grade::Proven,
            since_wall_us: 1,
        };
        world.services.get_mut(&web).unwrap().known.generations.store.goods.push(good.clone());
        let _ = reload(&mut world, 1_000, |all| _ = all.services.remove(&web));
        assert!(world.services.contains_key(&web), "its process has not ended");
        let _ = reload(&mut world, 1_010, |all| _ = all.services.insert(web.clone(), policy.clone()));
        assert_eq!(world.services[&web].known.generations.store.goods, [good]);
    }

    #[test]
    fn generations_that_are_left_out_for_a_while_and_come_back_are_known() {
        let (mut world, _, web) = two();
        let with = Arc::new(crate::step::bench::policy());
        let mut without = (*with).clone();
        without.generations = None;
        let mut elsewhere = (*with).clone();
        let store = crate::policy::StoreKind::NixProfile { profile: String::from("/profile") };
        elsewhere.generations.iter_mut().for_each(|it| it.store = store.clone());
        let _ = reload(&mut world, 900, |all| _ = all.services.insert(web.clone(), with.clone()));
        let good = crate::safeswitch::Good {
            id: crate::step::bench::id("good"),
            grade: crate::safeswitch::Grade::Proven,
            since_wall_us: 1,
        };
        world.services.get_mut(&web).unwrap().known.generations.store.goods.push(good.clone());
        let (without, elsewhere) = (Arc::new(without), Arc::new(elsewhere));
        let mut goods_with = |at_ms, policy: &Arc<ServicePolicy>| {
            let _ = reload(&mut world, at_ms, |all| _ = all.services.insert(web.clone(), policy.clone()));
            world.services[&web].known.generations.store.goods.clone()
        };
        assert!(goods_with(1_000, &without).is_empty());
        assert_eq!(goods_with(1_010, &with), [good]);
        // Those of another store are others.
        assert!(goods_with(1_020, &without).is_empty());
        assert!(goods_with(1_030, &elsewhere).is_empty());
    }

    #[test]
    fn nobody_orders_what_leaves_and_what_comes_back_meanwhile_is_started_when_its_end_is_over() {
        let (mut world, bot, web) = two();
        let _ = reload(&mut world, 1_000, |policy| _ = policy.services.remove(&web));
        let order = OperatorOrder::Start { service: web.clone() };
        let asked =
            Event::Asked { request: RequestId(7), question: Question::Order { actor: actor(), order, waits: true } };
        assert!(matches!(answer(&step(&mut world, at(1_001), asked)), Answer::Unknown { .. }));
        let _ = reload(&mut world, 1_010, |policy| _ = policy.services.insert(web.clone(), Arc::new(service())));
        assert!(world.leaving.is_empty());
        let ended = step(&mut world, at(1_100), exited(&web, 1));
        assert!(matches!(acts(&ended)[..], [Order::Spawn { .. }]), "{ended:?}");
        assert!(world.services[&bot].known.healthy);
    }

    #[test]
    fn as_many_are_started_anew_at_once_as_there_are_places() {
        let (one, bot) = world(service());
        let mut birth = one.birth;
        birth.policy.host.restarts_in_flight = 1;
        for other in ["b", "c"] {
            birth.policy.services.insert(name(other), Arc::new(service()));
        }
        let mut world = World::new(birth);
        let _ = step(&mut world, at(0), Event::Begin);
        for service in [name("b"), bot, name("c")] {
            let _ = spawned(&mut world, &service, 1, 1);
        }
        let changed = |policy: &mut Policy| {
            for service in policy.services.values_mut() {
                Arc::make_mut(service).command.push(String::from("-v"));
            }
        };
        let mut output = reload(&mut world, 1_000, changed);
        let mut order = Vec::new();
        for ms in [1_100, 1_200, 1_300] {
            assert_eq!(acts(&output).len(), 1, "{output:?}");
            let stopping = |(name, _): &(&Name, &crate::world::service::Service)| {
                matches!(world.services[*name].known.phase, Phase::Stopping { .. })
            };
            let ending = world.services.iter().find(stopping).unwrap().0.clone();
            assert_eq!(acts(&step(&mut world, at(ms), exited(&ending, 1))).len(), 1);
            output = spawned(&mut world, &ending, 2, ms + 1);
            order.push(ending);
        }
        assert!(acts(&output).is_empty() && order.len() == 3);
        assert!(world.services.values().all(|service| service.known.healthy));
    }

    #[test]
    fn what_only_a_dependency_has_kept_down_starts_when_it_is_not_behind_it_any_more() {
        let (one, bot) = world(ServicePolicy { after: vec![name("api")], ..service() });
        let mut birth = one.birth;
        birth.policy.dependencies.insert(name("api"), Arc::new(DependencyPolicy { checks: vec![another_check()] }));
        let mut world = World::new(birth);
        let _ = step(&mut world, at(0), Event::Begin);
        assert!(matches!(world.services[&bot].known.phase, Phase::Blocked { .. }));
        let output = reload(&mut world, 1_000, |policy| {
            policy.dependencies.clear();
            change_bot(policy, |bot| bot.after.clear());
        });
        assert!(matches!(acts(&output)[..], [Order::Spawn { .. }]), "{output:?}");
        assert_eq!(world.services[&bot].known.violated, None);
    }

    #[test]
    fn what_was_only_watched_failing_is_healed_when_hale_acts_again() {
        let observe = |policy: &mut Policy| policy.host.mode = Mode::Observe;
        let heal = |policy: &mut Policy| policy.host.mode = Mode::Heal;
        let mut one = healthy();
        let _ = reload(&mut one, 100, observe);
        assert!(acts(&step(&mut one, at(200), exited(&name("bot"), 1))).is_empty());
        assert!(matches!(one.services[&name("bot")].known.phase, Phase::Stopped { .. }));
        assert!(matches!(acts(&reload(&mut one, 300, heal))[..], [Order::Spawn { .. }]));

        let mut one = healthy();
        let _ = reload(&mut one, 100, observe);
        let failed = probe(&mut one, 0, Some(ProbeFailure::Wrong));
        assert!(failed.iter().any(|body| matches!(body, Body::Detected { .. })), "{failed:?}");
        assert!(matches!(acts(&reload(&mut one, 9_000, heal))[..], [Order::Signal { .. }]));
    }

    #[test]
    fn those_that_wait_to_be_healed_for_want_of_a_place_wait_on_over_another_reload_and_can_be_stopped() {
        let (one, bot) = world(service());
        let mut birth = one.birth;
        (birth.policy.host.mode, birth.policy.host.restarts_in_flight) = (Mode::Observe, 1);
        let others = [name("c"), name("d")];
        for other in &others {
            birth.policy.services.insert(other.clone(), Arc::new(service()));
        }
        let mut world = World::new(birth);
        let _ = step(&mut world, at(0), Event::Begin);
        for service in others.iter().chain([&bot]) {
            let _ = spawned(&mut world, service, 1, 1);
            let _ = step(&mut world, at(2), exited(service, 1));
        }
        let healing = reload(&mut world, 10, |policy| policy.host.mode = Mode::Heal);
        assert!(matches!(acts(&healing)[..], [Order::Spawn { .. }]), "{healing:?}");
        let kept = reload(&mut world, 20, |policy| change_bot(policy, |bot| bot.log.keep = 9));
        assert!(acts(&kept).is_empty());
        let order = OperatorOrder::Stop { service: name("d") };
        let asked =
            Event::Asked { request: RequestId(7), question: Question::Order { actor: actor(), order, waits: true } };
        let up_to = step(&mut world, at(30), asked).records[0].id;
        let _ = step(&mut world, at(30), Event::Durable { up_to });
        let next = spawned(&mut world, &bot, 2, 40);
        assert!(matches!(acts(&next)[..], [Order::Spawn { .. }]), "{next:?}");
        let last = spawned(&mut world, &name("c"), 2, 50);
        assert!(acts(&last).is_empty(), "an operator has stopped it");
        assert!(matches!(world.services[&name("d")].known.phase, Phase::Stopped { .. }));
    }

    #[test]
    fn a_check_that_is_probed_more_often_is_probed_soon() {
        let mut policy = checked();
        policy.checks[0].every = Span::from_secs(3_600);
        let (mut world, bot) = world(policy);
        starting(&mut world, &bot);
        let _ = probe(&mut world, 0, None);
        let _ = reload(&mut world, 1_000, |policy| {
            change_bot(policy, |bot| bot.checks[0].every = Span::from_secs(5));
        });
        assert_eq!(world.services[&bot].senses.probes[0].due, Some(at(6_000).mono));
    }

    #[test]
    fn what_cannot_be_killed_keeps_no_place_from_the_others() {
        let (mut world, bot, web) = two();
        world.birth.policy.host.restarts_in_flight = 1;
        let other = |policy: &mut Policy, name: &Name| {
            Arc::make_mut(policy.services.get_mut(name).unwrap()).command.push(String::from("-v"));
        };
        let _ = reload(&mut world, 1_000, |policy| other(policy, &bot));
        turn_until(&mut world, 30_000_000);
        assert!(matches!(
            world.services[&bot].known.phase,
            Phase::Stopping { stage: crate::world::phase::StopStage::Unkillable { .. }, .. }
        ));
        let _ = reload(&mut world, 31_000, |policy| {
            Arc::make_mut(policy.services.get_mut(&web).unwrap()).after.clear();
            other(policy, &web);
        });
        assert!(matches!(world.services[&web].known.phase, Phase::Stopping { .. }));
    }

    #[test]
    fn a_supervisor_that_takes_over_knows_the_same_at_each_record() {
        let (mut world, bot, web) = two();
        let birth = world.birth.clone();
        let mut all: Vec<Record> = Vec::new();
        // The world as it was before, from its own snapshot.
        let begun = world.snapshot();
        let mut policy = world.birth.policy.clone();
        policy.services.remove(&web);
        change_bot(&mut policy, |bot| bot.command.push(String::from("-v")));
        policy.services.insert(name("new"), Arc::new(checked()));
        let candidate = (PolicyHash(Arc::from("hash at 1000")), policy.clone());
        all.extend(reload(&mut world, 1_000, |now| *now = policy).records);
        let in_hand = |world: &World| {
            let is_outdated = |name: &&Name| world.services[*name].known.outdated.is_some();
            let outdated: Vec<Name> = world.outdated.iter().filter(is_outdated).cloned().collect();
            (outdated, world.leaving.clone())
        };
        let check = |world: &World, all: &[Record]| {
            let restored = World::restore(birth.clone(), Some(candidate.clone()), Some(begun.clone()), all.to_vec());
            assert_eq!(restored.snapshot(), world.snapshot());
            assert_eq!(in_hand(&restored), in_hand(world));
            let mut by_snapshot = Birth { policy: world.birth.policy.clone(), ..world.birth.clone() };
            by_snapshot.last_epoch = Epoch(0);
            let again = World::restore(by_snapshot, None, Some(world.snapshot()), []);
            assert_eq!(again.snapshot(), world.snapshot());
            assert_eq!(in_hand(&again), in_hand(world));
        };
        check(&world, &all);
        for event in [exited(&web, 1), exited(&bot, 1)] {
            all.extend(step(&mut world, at(1_100), event).records);
            check(&world, &all);
        }
        let mut restored = World::restore(birth.clone(), Some(candidate), Some(begun.clone()), all.clone());
        let take_over = Event::TakeOver { lost: Lost::Guardian, found: BTreeMap::new() };
        let _ = step(&mut restored, at(1_200), take_over);
        assert!(!restored.services.contains_key(&web));
        let lost = World::restore(birth, None, Some(begun), all);
        assert!(lost.services.values().all(|service| service.known.violated.is_some()), "by no other policy");
    }
}
