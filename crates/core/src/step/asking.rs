//! Asking first: before a failing check of a service leads to anything, the dependencies of the service are probed, and the
//! checks that its `confirm` names. When a dependency has just died, the service often sees it before Hale does, and must not be
//! restarted for it; and what a second sensor does not see may be the first one's own fault. Meanwhile the host finds out what
//! the service is doing, because once it is ended nobody can.

use super::blaming::unanswered;
use super::{Brain, Seen};
use crate::analyze::blame::{self, CONTROLLED_WITHIN, Control, Controlled, Controls};
use crate::analyze::checks::{CheckState, Probing};
use crate::effect::Order;
use crate::event::ProbeFailure;
use crate::examination::{EXAMINED_WITHIN, Examination};
use crate::ids::{Epoch, Name, ProbeId};
use crate::incident::Cause;
use crate::policy::{Mode, Ready};
use crate::record::{Body, Finding};
use crate::time::{Monotonic, Span};
use crate::world::phase::Phase;
use crate::world::service::Service;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// How long healing waits at most for dependencies that answer neither well nor badly enough. The usual time-out of three
/// probes, and a little; a service that is really broken is not kept from its restart for longer.
pub const ASK_WITHIN: Span = Span::from_secs(5);

/// The pause before a dependency is asked again that has failed, and not often enough to be down: short enough that three
/// failures fit into [`ASK_WITHIN`] many times, and long enough that one hiccup is not counted three times.
pub const ASK_AGAIN_AFTER: Span = Span::from_ms(200);

/// How much longer than its time-out a check that has to confirm another one is waited for: its probe may have to begin first.
const CONFIRMED_AFTER: Span = Span::from_secs(1);

/// A failure that waits for what dependencies and other checks say, and for what the service is found to be doing.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// The check that failed; none: its start took too long.
    check: Option<usize>,
    /// Checks that must fail, too, and have not said so yet.
    unconfirmed: Vec<Name>,
    /// When it waits for answers no more.
    until: Monotonic,
    /// Whether it was looked at, or is.
    looks: bool,
    look: Awaited<Box<Examination>>,
    /// Whether what fails needs what the control probes try.
    connects: bool,
    controls: Awaited<Controls>,
    /// Which run of the control probes that is.
    control: Option<ProbeId>,
    /// The one that began with the failing probe. The next probe may have begun meanwhile, with another one.
    beside: Option<ProbeId>,
    epoch: Epoch,
    since: Monotonic,
    failed: Option<Body>,
    cause: Cause,
    finding: Finding,
}

/// An answer of the host's.
#[derive(Debug, Clone)]
enum Awaited<T> {
    /// It is waited for.
    Until(Monotonic),
    /// It is not, any more.
    Over(Option<T>),
}

impl<T> Awaited<T> {
    fn until(&self) -> Option<Monotonic> {
        if let Self::Until(until) = self { Some(*until) } else { None }
    }

    fn is_due(&self, now: Monotonic) -> bool {
        self.until().is_some_and(|until| until <= now)
    }
}

impl Asked {
    /// A failure that is looked at, and waits for nobody else.
    fn begin(epoch: Epoch, now: Monotonic, cause: Cause, finding: Finding, connects: bool) -> Self {
        Self {
            check: None,
            unconfirmed: Vec::new(),
            until: now,
            looks: true,
            look: Awaited::Until(now.after(EXAMINED_WITHIN)),
            connects,
            controls: Awaited::Over(None),
            control: None,
            beside: None,
            epoch,
            since: now,
            failed: None,
            cause,
            finding,
        }
    }

    /// Whether this machine has no way to what it probed.
    fn has_no_way(&self) -> bool {
        matches!(self.finding, Finding::Check { failure: ProbeFailure::Unreachable, .. })
    }

    /// When the probe began that found it.
    fn begun(&self) -> Monotonic {
        let took_us = if let Some(Body::CheckFailed { took_us, .. }) = self.failed { took_us } else { 0 };
        Monotonic::from_us(self.since.as_us().saturating_sub(took_us))
    }

    /// When it waits for the host no more; none: it does not.
    fn host_until(&self) -> Option<Monotonic> {
        self.look.until().into_iter().chain(self.controls.until()).min()
    }
}

impl Service {
    /// When the first of the failures that wait does so no more, or begins to wait for something else.
    pub(crate) fn asked_until(&self) -> Option<Monotonic> {
        self.senses.asked.iter().map(|asked| asked.host_until().unwrap_or(asked.until)).min()
    }

    /// Whether its start took too long, and it is being looked at.
    pub(crate) fn is_looked_at(&self) -> bool {
        self.senses.asked.iter().any(|asked| asked.check.is_none())
    }
}

impl Brain<'_> {
    /// A check reached its `failures`: asks, has the service looked at, and then records that and acts on it.
    pub(super) fn check_failed(&mut self, name: &Name, check: usize, failed: Body, cause: Cause, finding: Finding) {
        let now = self.now();
        let policy = self.policy(name);
        let Some(run) = self.known(name).phase.run() else { return };
        let mut unconfirmed = policy.checks[check].confirm.clone();
        // A heartbeat is not asked for: one that is overdue confirms, and one that is not overdue does not yet.
        let is_overdue = |index: usize| {
            let service = &self.world.services[name];
            policy.checks[index].kind.promise().is_some()
                && service.senses.probes[index].successes == 0
                && matches!(service.known.checks[index], CheckState::Failing { .. })
        };
        unconfirmed.retain(|on| !self.world.services[name].check_index(on).is_some_and(is_overdue));
        let longest =
            policy.checks.iter().filter(|other| unconfirmed.contains(&other.name)).map(|other| other.timeout).max();
        let until = now.after(longest.map_or(ASK_WITHIN, |longest| longest.plus(CONFIRMED_AFTER).max(ASK_WITHIN)));
        // Who answers, be it wrongly, was reached.
        let no_answer = matches!(
            finding,
            Finding::Check { failure: ProbeFailure::Timeout | ProbeFailure::Killed | ProbeFailure::Unreachable, .. }
        );
        let connects = no_answer && policy.checks[check].kind.connects();
        let beside = self.world.services[name].senses.probes[check].beside;
        let asked = Asked::begin(run.epoch, now, cause, finding, connects);
        let (check, failed) = (Some(check), Some(failed));
        let mut asked = Asked { check, unconfirmed, until, beside, failed, ..asked };
        let observes = self.world.mode() == Mode::Observe;
        let blocked = self.blocked_by(name).is_some();
        let asks_dependencies = !observes && !blocked && self.hasten_dependencies(name);
        if blocked || !(asks_dependencies || self.hasten_checks(name, &asked.unconfirmed)) {
            // Nobody is asked.
            asked.until = now;
        }
        self.ask(name, asked, !observes && !blocked);
    }

    /// Its start took too long: has it looked at, and then records that and acts on it.
    pub(super) fn look_and_act(&mut self, name: &Name, cause: Cause, finding: Finding) {
        let now = self.now();
        let Some(run) = self.known(name).phase.run() else {
            return self.failed(name, cause, &finding, Seen::nothing());
        };
        let epoch = run.epoch;
        let service = &self.world.services[name];
        let checks = service.policy.checks.iter().zip(&service.known.checks).zip(&service.senses.probes);
        let no_answer = |probing: &Probing| {
            let failure = probing.last.as_ref().map(|last| last.failure);
            !matches!(failure, Some(Some(ProbeFailure::Wrong | ProbeFailure::Slow | ProbeFailure::Refused)))
        };
        let mut awaited = checks.filter(|((_, state), probing)| **state != CheckState::Passing && no_answer(probing));
        let by_checks = cause == Cause::StartTimeout && service.policy.start.ready == Ready::Check;
        let connects = by_checks && awaited.any(|((check, _), _)| check.kind.connects());
        let asked = Asked::begin(epoch, now, cause, finding, connects);
        self.ask(name, asked, self.world.mode() != Mode::Observe);
    }

    /// Has the service looked at; what is only watched is not waited for.
    fn ask(&mut self, name: &Name, mut asked: Asked, waits: bool) {
        if !waits {
            let _ = self.act_on(name, asked.clone(), false);
            return self.effect(name, asked.epoch, Order::Examine);
        }
        let all = &self.world.services[name].senses.asked;
        if all.iter().any(|earlier| earlier.check == asked.check) {
            return;
        }
        let is_looked_at = all.iter().any(|earlier| earlier.look.until().is_some());
        if self.is_crowd(name) {
            // Nothing is done about it at first, and to look at all of them would be a burden on a host that has too much.
            (asked.looks, asked.look) = (false, Awaited::Over(None));
        } else if !is_looked_at {
            self.effect(name, asked.epoch, Order::Examine);
        }
        if asked.connects {
            asked.controls = Awaited::Until(self.now().after(CONTROLLED_WITHIN));
            asked.control = Some(self.control());
        }
        if let Some(service) = self.service_mut(name) {
            service.senses.asked.push(asked);
            self.world.askers.insert(name.clone());
        }
    }

    /// What the service was found to be doing: for the failures that wait for it, or else for its incident.
    pub(super) fn examined(&mut self, name: &Name, epoch: Epoch, found: Option<Box<Examination>>) {
        let Some(service) = self.service_mut(name) else { return };
        let waits = |asked: &&mut Asked| asked.epoch == epoch && asked.look.until().is_some();
        let mut awaited = false;
        for asked in service.senses.asked.iter_mut().filter(waits) {
            asked.look = Awaited::Over(found.clone());
            awaited = true;
        }
        let known = &service.known;
        if awaited {
            self.answer(name);
        } else if let Some(found) = found
            && known.incident.is_some()
            && known.last_epoch == epoch
        {
            self.record(name, Body::Examined { epoch, found });
        }
    }

    /// Gives what the control probes found to the failures that wait for it. `false`: none does.
    pub(super) fn take_controls(&mut self, name: &Name, run: ProbeId, controls: &Controls) -> bool {
        let Some(service) = self.service_mut(name) else { return false };
        let mut any = false;
        let waits = |asked: &&mut Asked| asked.control == Some(run) && asked.controls.until().is_some();
        for asked in service.senses.asked.iter_mut().filter(waits) {
            asked.controls = Awaited::Over(Some(controls.clone()));
            any = true;
        }
        any
    }

    /// Probes these checks of a service now. `false`: there are none.
    fn hasten_checks(&mut self, name: &Name, which: &[Name]) -> bool {
        let now = self.now();
        let Some(service) = self.service_mut(name) else { return false };
        for (probing, check) in service.senses.probes.iter_mut().zip(&service.policy.checks) {
            // A heartbeat comes by itself, or not.
            if which.contains(&check.name) && check.kind.promise().is_none() {
                probing.due = probing.due.map(|due| due.min(now));
            }
        }
        !which.is_empty()
    }

    /// A check has a result: those that waited for it know more.
    pub(super) fn confirm(&mut self, name: &Name, by: usize, fails: bool) {
        let policy = self.policy(name);
        let by = &policy.checks[by].name;
        let Some(service) = self.service_mut(name) else { return };
        let waits = |asked: &Asked| asked.unconfirmed.contains(by);
        if !service.senses.asked.iter().any(waits) {
            return;
        }
        let mut dropped = Vec::new();
        service.senses.asked.retain_mut(|asked| {
            let is_dropped = waits(asked) && !fails;
            if is_dropped {
                dropped.push(asked.clone());
            }
            asked.unconfirmed.retain(|other| other != by);
            !is_dropped
        });
        for asked in dropped {
            self.refuse(name, &asked, by);
        }
        self.answer(name);
    }

    /// Says once in a row of failures that nobody confirms them.
    fn refuse(&mut self, name: &Name, asked: &Asked, by: &Name) {
        let Some(index) = asked.check else { return };
        let check = self.policy(name).checks[index].name.clone();
        let Some(service) = self.service_mut(name) else { return };
        if !core::mem::replace(&mut service.senses.probes[index].refused, true) {
            self.record(name, Body::Unconfirmed { epoch: asked.epoch, check, by: by.clone() });
        }
    }

    /// Judges whose fault it is, and acts. Gives it back if it has to wait on: what is not spared is looked at first.
    fn act_on(&mut self, name: &Name, mut asked: Asked, waits: bool) -> Option<Asked> {
        // It may have become ready at last.
        if asked.cause == Cause::StartTimeout && !matches!(self.phase(name), Phase::Starting { .. }) {
            return None;
        }
        let controls = match &asked.controls {
            Awaited::Over(Some(after)) => {
                let beside = asked.beside.and_then(|run| self.world.suspicion.found(run)).cloned();
                // To another machine there may be no way although there is one to this.
                let stays = |check: usize| self.world.services[name].policy.checks[check].kind.stays_here();
                let is_covered = asked.check.is_none_or(stays) && !asked.has_no_way();
                let is_failed = |control: &Control| matches!(control, Control::Failed { .. });
                let beside = beside.filter(|control| is_covered || is_failed(control));
                Controlled::Tried { beside, after: after.clone() }
            }
            Awaited::Over(None) | Awaited::Until(_) if asked.connects => Controlled::NotTried,
            Awaited::Over(None) | Awaited::Until(_) => Controlled::NotNeeded,
        };
        let judged = Box::new(self.blame(name, asked.cause, &asked.finding, controls, (asked.begun(), asked.since)));
        if judged.judgement.spares {
            self.spare_blameless(name, &asked, judged);
            return None;
        }
        if waits && !core::mem::replace(&mut asked.looks, true) {
            self.effect(name, asked.epoch, Order::Examine);
            asked.look = Awaited::Until(self.now().after(EXAMINED_WITHIN));
            return Some(asked);
        }
        let found = if let Awaited::Over(found) = asked.look { found } else { None };
        if asked.failed.is_none_or(|failed| self.record(name, failed)) {
            self.failed(name, asked.cause, &asked.finding, Seen { found, judged: Some(judged) });
        }
        None
    }

    /// Says once in a row of failures whose fault they are instead, and that nothing is done. A start gets its time again, and that is
    /// said each time.
    fn spare_blameless(&mut self, name: &Name, asked: &Asked, judged: Box<blame::Decision>) {
        let again = self.now().after(self.policy(name).start.within);
        let Some(service) = self.service_mut(name) else { return };
        let blame = judged.judgement.blame;
        let said = match asked.check {
            Some(check) => service.senses.probes[check].spared_for.replace(blame) == Some(blame),
            None => {
                service.senses.start_again = Some(again);
                false
            }
        };
        let check = asked.check.map(|check| service.policy.checks[check].name.clone());
        if !said {
            self.record(name, Body::NotItsFault { epoch: asked.epoch, check, judged });
        }
    }

    /// A check passed: nothing of it waits any more.
    pub(super) fn forget_asked(&mut self, name: &Name, check: usize) {
        if let Some(service) = self.service_mut(name) {
            service.senses.asked.retain(|asked| asked.check != Some(check));
            service.senses.probes[check].refused = false;
            service.senses.probes[check].spared_for = None;
        }
    }

    /// Probes the dependencies of a service now, unless they are known to be down. `false`: it has none of those.
    pub(super) fn hasten_dependencies(&mut self, name: &Name) -> bool {
        let now = self.now();
        let policy = self.policy(name);
        let mut any = false;
        for on in &policy.after {
            if self.world.is_down(on) {
                continue;
            }
            let Some(dependency) = self.world.dependencies.get_mut(on) else { continue };
            any = true;
            dependency.hasten(now);
            self.touched.insert(on.clone());
        }
        any
    }

    /// A dependency has answered, or can not: goes on with the failures that waited for it.
    pub(super) fn answer_askers(&mut self, dependency: &Name) {
        let asks = |name: &&Name| self.policy(name).after.contains(dependency);
        let askers: Vec<Name> = self.world.askers.iter().filter(asks).cloned().collect();
        for name in askers {
            self.touched.insert(name.clone());
            self.answer(&name);
        }
    }

    /// Goes on with failures that have waited for as long as they may, whatever anybody does.
    pub(super) fn asked_due(&mut self, name: &Name) {
        let now = self.now();
        if self.world.services[name].asked_until().is_none_or(|until| until > now) {
            return;
        }
        let Some(service) = self.service_mut(name) else { return };
        for asked in &mut service.senses.asked {
            if asked.look.is_due(now) {
                asked.look = Awaited::Over(None);
            }
            if asked.controls.is_due(now) {
                asked.controls = Awaited::Over(Some(unanswered()));
            }
        }
        self.answer(name);
    }

    pub(super) fn answer(&mut self, name: &Name) {
        let now = self.now();
        let policy = self.policy(name);
        let Some(service) = self.service_mut(name) else { return };
        let waiting = core::mem::take(&mut service.senses.asked);
        let mut left = Vec::new();
        for asked in waiting {
            if self.known(name).phase.run().is_none_or(|run| run.epoch != asked.epoch) {
                continue;
            }
            let of = |on| self.world.dependencies.get(on);
            let is_clear = policy.after.iter().filter_map(of).all(|dependency| dependency.is_clear_since(asked.since));
            let is_over = now >= asked.until;
            match asked.unconfirmed.first() {
                _ if self.blocked_by(name).is_some() => drop(self.act_on(name, asked, false)),
                _ if asked.host_until().is_some() => left.push(asked),
                None if is_clear || is_over => left.extend(self.act_on(name, asked, true)),
                Some(by) if is_over => self.refuse(name, &asked, by),
                Some(_) | None => left.push(asked),
            }
        }
        if left.is_empty() {
            self.world.askers.remove(name);
        } else {
            for on in &policy.after {
                if let Some(dependency) = self.world.dependencies.get_mut(on) {
                    dependency.hasten(now.after(ASK_AGAIN_AFTER));
                    self.touched.insert(on.clone());
                }
            }
        }
        if let Some(service) = self.service_mut(name) {
            service.senses.asked = left;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, ProbeOutcome};
    use crate::policy::{CheckKind, CheckPolicy, ServicePolicy};
    use crate::step::tests::{at, checked, starting, step, turn_until, working, world};
    use crate::time::Now;
    use crate::world::World;
    use alloc::string::String;

    /// Check `app` acts at its second failure, if `tcp` fails, too.
    fn confirmed() -> ServicePolicy {
        let mut policy = checked();
        let tcp = policy.checks.remove(0);
        let app = Name::try_from("app").unwrap();
        let kind = CheckKind::Tcp { address: String::from("127.0.0.1:2") };
        policy.checks.push(CheckPolicy { name: app, kind, failures: 2, confirm: alloc::vec![tcp.name.clone()], ..tcp });
        policy.checks.push(CheckPolicy { failures: 9, ..tcp });
        policy
    }

    /// Answers the next probe of a check, as soon as it is made.
    fn answer(world: &mut World, name: &Name, check: usize, failure: Option<ProbeFailure>) -> Vec<Body> {
        let probing = |world: &World| {
            (world.services[name].senses.probes[check].in_flight, world.services[name].senses.probes[check].due)
        };
        if let (None, Some(due)) = probing(world) {
            turn_until(world, due.as_us() + 1);
        }
        let (probe, _) = probing(world).0.unwrap();
        let now = Now { mono: world.last_step().unwrap(), ..at(0) };
        let outcome = ProbeOutcome { took_us: 0, failure, detail: String::from("words"), figure: None, late_us: 0 };
        let epoch = Epoch(1);
        let told = step(world, now, Event::Probed { service: name.clone(), epoch, probe, outcome });
        told.records.into_iter().map(|record| record.body).collect()
    }

    fn acts(bodies: &[Body]) -> bool {
        bodies.iter().any(|body| matches!(body, Body::StopIntended { .. }))
    }

    fn failing() -> (World, Name) {
        let (mut world, name) = world(confirmed());
        starting(&mut world, &name);
        let _ = answer(&mut world, &name, 0, None);
        let _ = answer(&mut world, &name, 1, None);
        let _ = answer(&mut world, &name, 0, Some(ProbeFailure::Timeout));
        let _ = answer(&mut world, &name, 1, None);
        let second = answer(&mut world, &name, 0, Some(ProbeFailure::Timeout));
        assert_eq!(second, [], "nothing is decided yet");
        (world, name)
    }

    #[test]
    fn a_failure_that_another_check_confirms_is_acted_upon() {
        let (mut world, name) = failing();
        assert!(world.services[&name].senses.probes[1].in_flight.is_some(), "it is asked at once");
        assert!(acts(&answer(&mut world, &name, 1, Some(ProbeFailure::Wrong))));
    }

    #[test]
    fn a_failure_that_is_not_confirmed_is_refused_once_and_asked_for_again() {
        let (mut world, name) = failing();
        let refused = answer(&mut world, &name, 1, None);
        assert!(matches!(&refused[..], [Body::Unconfirmed { by, .. }] if by.as_str() == "tcp"), "{refused:?}");
        assert_eq!(answer(&mut world, &name, 0, Some(ProbeFailure::Timeout)), []);
        assert_eq!(answer(&mut world, &name, 1, None), [], "that was said");
        assert_eq!(answer(&mut world, &name, 0, Some(ProbeFailure::Timeout)), []);
        assert!(acts(&answer(&mut world, &name, 1, Some(ProbeFailure::Wrong))));
    }

    #[test]
    fn nothing_is_done_while_the_other_check_cannot_tell() {
        let (mut world, name) = failing();
        let unable = answer(&mut world, &name, 1, Some(ProbeFailure::Unable));
        assert!(!acts(&unable), "{unable:?}");
        let until = world.services[&name].asked_until().unwrap();
        turn_until(&mut world, until.as_us());
        let over = step(&mut world, Now { mono: until, ..at(0) }, Event::Tick);
        let bodies: Vec<Body> = over.records.into_iter().map(|record| record.body).collect();
        assert!(bodies.iter().any(|body| matches!(body, Body::Unconfirmed { .. })), "{bodies:?}");
        assert!(!acts(&bodies));
        assert!(world.services[&name].asked_until().is_none());
    }

    /// A service of one check that has just failed, on a host that has not answered yet what it is doing.
    fn looked_at() -> (World, Name, Monotonic) {
        let (mut world, name) = world(checked());
        starting(&mut world, &name);
        let _ = answer(&mut world, &name, 0, None);
        let due = world.services[&name].senses.probes[0].due.unwrap();
        turn_until(&mut world, due.as_us() + 1);
        let (probe, _) = world.services[&name].senses.probes[0].in_flight.unwrap();
        let failure = Some(ProbeFailure::Timeout);
        let outcome = ProbeOutcome { took_us: 0, failure, detail: String::from("words"), figure: None, late_us: 0 };
        let event = Event::Probed { service: name.clone(), epoch: Epoch(1), probe, outcome };
        let failed = crate::step::step(&mut world, Now { mono: due, ..at(0) }, event);
        assert_eq!(failed.records, [], "nothing is decided yet");
        assert!(failed.effects.iter().any(|effect| effect.order == Order::Examine));
        let controlled = controlled(&failed.effects);
        assert_eq!(crate::step::step(&mut world, Now { mono: due, ..at(0) }, controlled).records, []);
        (world, name, due)
    }

    /// The answer to the order of control probes that is among these.
    fn controlled(effects: &[crate::effect::Effect]) -> Event {
        let order = |effect: &crate::effect::Effect| {
            let Order::Control { probe } = effect.order else { return None };
            Some(Event::Controlled { probe, controls: working() })
        };
        effects.iter().find_map(order).unwrap()
    }

    fn found(world: &mut World, name: &Name, epoch: u64, mono: Monotonic) -> Vec<Body> {
        let found = Some(Box::new(Examination { threads: 1, ..Examination::default() }));
        let event = Event::Examined { service: name.clone(), epoch: Epoch(epoch), found };
        let told = crate::step::step(world, Now { mono, ..at(0) }, event);
        told.records.into_iter().map(|record| record.body).collect()
    }

    #[test]
    fn what_it_was_doing_is_on_record_before_the_decision() {
        let (mut world, name, now) = looked_at();
        assert_eq!(found(&mut world, &name, 0, now), [], "of another process");
        let told = found(&mut world, &name, 1, now);
        let [
            Body::CheckFailed { .. },
            Body::Detected { .. },
            Body::Examined { .. },
            Body::Blamed(_),
            Body::Decided(_),
            ..,
        ] = &told[..]
        else {
            panic!("{told:?}")
        };
        assert!(acts(&told));
        assert!(
            matches!(found(&mut world, &name, 1, now)[..], [Body::Examined { .. }]),
            "a second one is evidence only"
        );
    }

    #[test]
    fn a_look_that_does_not_come_is_waited_for_no_longer_than_it_may() {
        let (mut world, name, now) = looked_at();
        let until = now.after(EXAMINED_WITHIN);
        assert_eq!(world.services[&name].deadline(), Some(until));
        let over = crate::step::step(&mut world, Now { mono: until, ..at(0) }, Event::Tick);
        let bodies: Vec<Body> = over.records.into_iter().map(|record| record.body).collect();
        assert!(acts(&bodies), "{bodies:?}");
    }

    #[test]
    fn what_is_only_watched_is_looked_at_and_nothing_waits_for_that() {
        let (mut world, name) = world(checked());
        world.birth.policy.host.mode = Mode::Observe;
        starting(&mut world, &name);
        let _ = answer(&mut world, &name, 0, None);
        let told = answer(&mut world, &name, 0, Some(ProbeFailure::Timeout));
        assert!(told.iter().any(|body| matches!(body, Body::Decided(_))) && !acts(&told), "{told:?}");
        let now = world.last_step().unwrap();
        assert!(matches!(found(&mut world, &name, 1, now)[..], [Body::Examined { .. }]));
    }

    #[test]
    fn a_start_that_took_too_long_is_looked_at_once_and_ready_at_last_it_is_left_alone() {
        for ready_at_last in [false, true] {
            let (mut world, name) = world(checked());
            starting(&mut world, &name);
            let (over, control) = loop {
                let due = world.next_deadline().unwrap();
                let told = crate::step::step(&mut world, Now { mono: due, ..at(0) }, Event::Tick);
                if told.effects.iter().any(|effect| effect.order == Order::Examine) {
                    break (due, controlled(&told.effects));
                }
            };
            let again = crate::step::step(&mut world, Now { mono: over, ..at(0) }, Event::Tick);
            assert!(again.effects.iter().all(|effect| effect.order != Order::Examine));
            assert!(world.next_deadline().is_some_and(|next| next > over), "it does not spin");
            if ready_at_last {
                let _ = answer(&mut world, &name, 0, None);
            }
            let now = world.last_step().unwrap();
            assert_eq!(found(&mut world, &name, 1, now), [], "what makes probes is tried, too");
            let told = crate::step::step(&mut world, Now { mono: now, ..at(0) }, control).records;
            let told: Vec<Body> = told.into_iter().map(|record| record.body).collect();
            assert_eq!(acts(&told), !ready_at_last, "{told:?}");
        }
    }
}
