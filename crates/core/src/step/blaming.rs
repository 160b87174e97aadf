//! Blaming: what the rule of [`crate::analyze::blame`] reads, and the control probes that some of it comes from.

use super::Brain;
use crate::analyze::blame::{self, CONTROLLED_WITHIN, Control, Controlled, Controls, Dependencies, TOGETHER_WITHIN};
use crate::analyze::stall;
use crate::effect::{Fence, Order};
use crate::event::{ExitStatus, ProbeFailure};
use crate::ids::{Name, ProbeId};
use crate::incident::Cause;
use crate::record::{CORE_VERSION, Finding};
use crate::time::{Monotonic, Span};
use crate::world::World;
use crate::world::service::Service;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;

/// How many runs of control probes are remembered, the newest ones: one that is forgotten has found nothing.
const RUNS_MAX: usize = 64;

/// How old a run of the control probes may be that a probe is begun beside: those that fall due together are begun within this, and
/// in the time between nothing can be told.
const BESIDE_WITHIN: Span = Span::from_ms(1);

/// The newest control probes: inputs, never recorded themselves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Suspicion {
    /// By their numbers, which grow.
    runs: BTreeMap<ProbeId, Run>,
}

/// One run of the control probes.
#[derive(Debug, Clone)]
struct Run {
    ordered: Monotonic,
    found: Option<Controls>,
}

impl Suspicion {
    /// What a run found of the probes' own machinery; none: it has not answered, is forgotten, or tells nothing here.
    pub(crate) fn found(&self, run: ProbeId) -> Option<&Control> {
        self.runs.get(&run)?.found.as_ref()?.probing.as_ref()
    }
}

impl Service {
    /// The last good sign before its oldest failure that goes on, and how seldom it is probed.
    fn failing_since(&self) -> Option<(Monotonic, Span)> {
        let made = self.known.phase.run()?.since;
        let fails = |failure| !matches!(failure, ProbeFailure::Unable | ProbeFailure::Unresolved);
        let checks = self.policy.checks.iter().zip(&self.senses.probes);
        let failing = checks.filter(|(_, probing)| {
            probing.last_pass.is_some() && probing.last.as_ref().and_then(|last| last.failure).is_some_and(fails)
        });
        failing.map(|(check, probing)| (probing.last_pass.unwrap_or(made), check.every)).min()
    }
}

impl World {
    /// So many services fail, and began together with `name`, of so many that could.
    fn together(&self, name: &Name, now: Monotonic) -> (u32, u32) {
        let (own, every) = self.services[name].failing_since().unwrap_or((now, Span::ZERO));
        let is_near = |at: Monotonic, other_every: Span| {
            let apart = at.since(own).max(own.since(at));
            apart <= TOGETHER_WITHIN.plus(every.max(other_every))
        };
        let (mut failing, mut of) = (0, 0);
        for (other, service) in &self.services {
            // One that is well again fails with nobody.
            let failed = service.known.last_failure.is_some_and(|at| is_near(at, Span::ZERO)) && !service.known.healthy;
            let runs = service.known.phase.run().is_some() && !service.policy.checks.is_empty();
            if other == name || runs || failed {
                of += 1;
                let fails = service.failing_since().is_some_and(|(since, every)| is_near(since, every));
                failing += u32::from(other == name || failed || fails);
            }
        }
        (failing, of)
    }
}

impl Brain<'_> {
    /// Whether so many services fail together with this one that the host is suspected.
    pub(super) fn is_crowd(&self, name: &Name) -> bool {
        let (failing, of) = self.world.together(name, self.now());
        blame::is_most(failing, of)
    }

    /// Judges whose fault a failure is that was found at `since`, by a probe that began at `begun`.
    pub(super) fn blame(
        &mut self,
        name: &Name,
        cause: Cause,
        finding: &Finding,
        controls: Controlled,
        (begun, since): (Monotonic, Monotonic),
    ) -> blame::Decision {
        let now = self.now();
        // As the detection names it.
        let is_stalled = self.stall(name, finding).is_some() && stall::explains(finding);
        let cause = if is_stalled { Cause::Memory } else { cause };
        // Of a start its own time is over, whatever others do.
        let is_start = matches!(finding, Finding::StartTimeout { .. });
        let (failing, of) = if is_start { (1, 1) } else { self.world.together(name, now) };
        let suspected = self.suspected(name, blame::is_most(failing, of));
        let ended: Option<ExitStatus> = if let Finding::Exit { status, .. } = finding { Some(*status) } else { None };
        let read = blame::Read {
            cause,
            sparable: self.known(name).phase.run().is_some()
                && matches!(
                    finding,
                    Finding::Check { .. }
                        | Finding::StartTimeout { .. }
                        | Finding::NoHeartbeat { triggered: false, .. }
                ),
            ended,
            is_shortage: blame::is_shortage(finding),
            failures: self.alike(name, finding),
            blocked: self.blocked_by(name),
            dependencies: self.dependencies_since(name, begun, since),
            controls,
            failing,
            of,
            suspected,
            on_probation: self.is_on_probation(name),
        };
        blame::Decision {
            rule: String::from(blame::RULE),
            core: CORE_VERSION,
            policy: self.world.birth.hash.clone(),
            judgement: blame::judge(&read),
            read,
        }
    }

    /// How often in a row the check has failed in the same way, of a failing check.
    fn alike(&self, name: &Name, finding: &Finding) -> u32 {
        let Finding::Check { check, failures, .. } = finding else { return 0 };
        let service = &self.world.services[name];
        service.check_index(check).map_or(1, |index| service.senses.probes[index].alike.clamp(1, *failures))
    }

    /// How long the failures of this service that go on have been suspected to be the host's. Its own row decides when that ends: what
    /// others do must not begin it anew.
    fn suspected(&mut self, name: &Name, is_crowd: bool) -> Span {
        let now = self.now();
        let Some(service) = self.service_mut(name).filter(|_| is_crowd) else { return Span::ZERO };
        let made = service.known.phase.run().map_or(now, |run| run.since);
        let begun = service.failing_since().map_or(made, |(begun, _)| begun);
        let (_, since) = service.senses.suspected.filter(|(row, _)| *row == begun).unwrap_or((begun, now));
        service.senses.suspected = Some((begun, since));
        now.since(since)
    }

    fn dependencies_since(&self, name: &Name, begun: Monotonic, since: Monotonic) -> Dependencies {
        let policy = self.policy(name);
        let well = self.world.services[name].failing_since().map_or(begun, |(well, _)| well);
        let was_there = |on: &Name| {
            // A service of Hale's own may hang already, and nobody has asked it since.
            let dependency = self.world.dependencies.get(on);
            dependency.is_some_and(|on| on.is_clear_since(since) && on.was_there_since(begun, well))
        };
        match policy.after.is_empty() {
            true => Dependencies::None,
            false if policy.after.iter().all(was_there) => Dependencies::Up,
            false => Dependencies::NotAsked,
        }
    }

    /// Has the control probes made, and gives the number of that run; one that was just begun is as good.
    pub(super) fn control(&mut self) -> ProbeId {
        let now = self.now();
        let runs = &mut self.world.suspicion.runs;
        let is_as_good = |run: &Run| run.found.is_none() && now.since(run.ordered) <= BESIDE_WITHIN;
        if let Some((&probe, _)) = runs.iter().next_back().filter(|(_, run)| is_as_good(run)) {
            return probe;
        }
        if runs.len() >= RUNS_MAX {
            runs.pop_first();
        }
        let probe = self.world.next_probe;
        self.world.next_probe = probe.next();
        runs.insert(probe, Run { ordered: now, found: None });
        self.push_effect(Fence::Host, Order::Control { probe });
        probe
    }

    /// Control probes have answered: goes on with the failures that waited for them.
    pub(super) fn controlled(&mut self, probe: ProbeId, controls: &Controls) {
        if let Some(run) = self.world.suspicion.runs.get_mut(&probe) {
            run.found = Some(controls.clone());
        }
        let askers: BTreeSet<Name> = self.world.askers.clone();
        for name in askers {
            if self.take_controls(&name, probe, controls) {
                self.touched.insert(name.clone());
                self.answer(&name);
            }
        }
    }
}

/// What is known of control probes that did not answer: what makes probes does not work, and of the disk nothing.
pub(super) fn unanswered() -> Controls {
    let detail = format!("no answer within {CONTROLLED_WITHIN}");
    Controls { probing: Some(Control::Failed { detail }), disk: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, ProbeOutcome};
    use crate::incident::Blame;
    use crate::record::Body;
    use crate::step::step;
    use crate::step::tests::{at, checked, starting, turn_until, working, world};
    use crate::time::Now;
    use alloc::vec::Vec;

    fn now(mono: Monotonic) -> Now {
        Now { mono, ..at(0) }
    }

    /// A host whose control probes find this, and on which nobody can be looked at.
    fn on_host(world: &mut World, mono: Monotonic, event: Event, controls: Option<&Controls>) -> Vec<Body> {
        let mut records = Vec::new();
        let mut events = alloc::vec![event];
        while let Some(event) = events.pop() {
            let output = step(world, now(mono), event);
            records.extend(output.records);
            events.extend(output.effects.into_iter().filter_map(|effect| {
                match (effect.fence, effect.order, controls) {
                    (Fence::Service { service, epoch }, Order::Examine, _) => {
                        Some(Event::Examined { service, epoch, found: None })
                    }
                    (Fence::Host, Order::Control { probe, .. }, Some(controls)) => {
                        Some(Event::Controlled { probe, controls: controls.clone() })
                    }
                    _ => None,
                }
            }));
        }
        records.into_iter().map(|record| record.body).collect()
    }

    /// Answers the probe of a service that is due next.
    fn answer(world: &mut World, name: &Name, failure: Option<ProbeFailure>, controls: Option<&Controls>) -> Vec<Body> {
        if let (None, Some(due)) =
            (world.services[name].senses.probes[0].in_flight, world.services[name].senses.probes[0].due)
        {
            turn_until(world, due.as_us() + 1);
        }
        let (probe, _) = world.services[name].senses.probes[0].in_flight.unwrap();
        let outcome = ProbeOutcome { took_us: 0, failure, detail: String::from("words"), figure: None, late_us: 0 };
        let epoch = world.services[name].known.last_epoch;
        let mono = world.last_step().unwrap();
        on_host(world, mono, Event::Probed { service: name.clone(), epoch, probe, outcome }, controls)
    }

    fn blamed(bodies: &[Body]) -> Option<(Blame, bool)> {
        bodies.iter().find_map(|body| {
            if let Body::Blamed(judged) = body {
                Some((judged.judgement.blame, true))
            } else if let Body::NotItsFault { judged, .. } = body {
                Some((judged.judgement.blame, false))
            } else {
                None
            }
        })
    }

    fn fails(world: &mut World, name: &Name, controls: Option<&Controls>) -> Option<(Blame, bool)> {
        blamed(&answer(world, name, Some(ProbeFailure::Timeout), controls))
    }

    /// A healthy service whose check acts at so many failures.
    fn ready(failures: u32) -> (World, Name) {
        let mut policy = checked();
        policy.checks[0].failures = failures;
        let (mut world, name) = world(policy);
        starting(&mut world, &name);
        let _ = answer(&mut world, &name, None, None);
        (world, name)
    }

    #[test]
    fn while_probing_itself_fails_nothing_is_done_and_that_is_said_once() {
        let broken = Controls { probing: Some(Control::Failed { detail: String::from("refused") }), ..working() };
        let (mut world, name) = ready(3);
        for _ in 0..2 {
            assert_eq!(fails(&mut world, &name, Some(&broken)), None);
        }
        assert_eq!(fails(&mut world, &name, Some(&broken)), Some((Blame::Probe, false)));
        assert_eq!(fails(&mut world, &name, Some(&broken)), None, "that was said");
        // As soon as it works the service is judged by it, be it still in the same row.
        assert_eq!(fails(&mut world, &name, Some(&working())), Some((Blame::Service, true)));
        let (mut world, name) = ready(1);
        assert_eq!(fails(&mut world, &name, Some(&working())), Some((Blame::Unknown, true)), "acted upon all the same");
    }

    #[test]
    fn control_probes_that_do_not_answer_have_failed() {
        let (mut world, name) = ready(1);
        assert_eq!(fails(&mut world, &name, None), None, "they are waited for");
        let until = world.services[&name].asked_until().unwrap();
        turn_until(&mut world, until.as_us());
        let over = on_host(&mut world, until, Event::Tick, None);
        assert_eq!(blamed(&over), Some((Blame::Probe, false)));
    }

    #[test]
    fn when_most_services_begin_to_fail_together_the_host_is_suspected_for_a_while() {
        let (one, _) = crate::step::tests::world(checked());
        let mut birth = one.birth;
        let policy = birth.policy.services.values().next().unwrap().clone();
        let names: Vec<Name> = ["a", "b", "c", "d", "e"].iter().map(|name| Name::try_from(*name).unwrap()).collect();
        birth.policy.services = names.iter().map(|name| (name.clone(), policy.clone())).collect();
        let mut world = World::new(birth);
        let _ = step(&mut world, at(0), Event::Begin);
        for name in &names {
            let process = crate::event::Process { pid: 100, start_ticks: 1, pidfd_inode: 1, cgroup: None };
            let epoch = world.services[name].known.last_epoch;
            let _ = step(&mut world, at(1), Event::Spawned { service: name.clone(), epoch, process });
        }
        let controls = working();
        for name in &names {
            let _ = answer(&mut world, name, None, Some(&controls));
        }
        let judged: Vec<_> = names.iter().map(|name| fails(&mut world, name, Some(&controls))).collect();
        let (alone, shared) = (Some((Blame::Unknown, true)), Some((Blame::Unknown, false)));
        assert_eq!(judged, [alone, alone, shared, shared, shared], "of the first two nobody could know");
        let begin = world.last_step().unwrap();
        loop {
            let judged = fails(&mut world, &names[2], Some(&controls));
            let after = world.last_step().unwrap().since(begin);
            assert!(after < blame::SUSPECTED_FOR.times(2), "it is suspected for ever");
            if let Some(judged) = judged {
                assert_eq!(judged, (Blame::Unknown, true));
                // The others began to fail some probes before.
                assert!(after.plus(Span::from_secs(10)) >= blame::SUSPECTED_FOR, "at {after}");
                break;
            }
        }
    }
}
