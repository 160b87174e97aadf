//! Probing: which check is due, and what its result or a service's own word means.

use super::{Brain, Seen};
use crate::analyze::checks::{self, CheckState, Edge};
use crate::effect::{Answer, Order};
use crate::event::{Notice, ProbeFailure, ProbeOutcome};
use crate::ids::{Epoch, Name, ProbeId};
use crate::incident::Cause;
use crate::policy::{CheckPolicy, Ready};
use crate::reason::Reason;
use crate::record::{Body, Finding};
use crate::time::{Monotonic, Span};
use crate::world::phase::Phase;
use crate::world::service::Wanted;
use alloc::format;
use alloc::string::String;

/// The longest that a start or a stop can be extended to by `EXTEND_TIMEOUT_USEC`, however often it is said: a database
/// may recover for an hour, and a service that does not want to die must not put it off for ever.
pub const EXTENSION_MAX: Span = Span::from_secs(3_600);

/// How often one process can change its heartbeat's time (`WATCHDOG_USEC`): each change is a record, programs say it once
/// or twice, and one that says it again and again must not fill the ledger.
pub const PROMISES_MAX: u32 = 16;

/// Rounded up: a service that asks for more time with each breath makes one record a second.
fn whole_seconds(at: Monotonic) -> Monotonic {
    Monotonic::from_us(at.as_us().div_ceil(1_000_000).saturating_mul(1_000_000))
}

/// Whether the look at the tree that another check takes now serves this one, too.
fn is_taken_along(check: &CheckPolicy, due: Monotonic, now: Monotonic) -> bool {
    check.kind.looks_at_tree() && checks::taken_along_from(check, due) <= now
}

impl Brain<'_> {
    /// Orders the probes that are due, and counts missing heartbeats and lost results.
    pub(super) fn probe_due(&mut self, name: &Name) {
        let now = self.now();
        let policy = self.policy(name);
        let looks = self.looks_at_tree(name, now);
        for (index, check) in policy.checks.iter().enumerate() {
            let Some(run) = self.known(name).phase.run() else { return };
            let Some(service) = self.world.services.get_mut(name) else { return };
            let probing = &mut service.senses.probes[index];
            match (probing.in_flight, probing.due) {
                (Some((_, lost_at)), _) if lost_at <= now => {
                    probing.lost(check, now);
                    self.record(name, Body::ProbeLost { epoch: run.epoch, check: check.name.clone() });
                }
                (None, Some(due)) if due <= now || looks && is_taken_along(check, due, now) => {
                    if check.kind.promise().is_some() {
                        probing.due = Some(now.after(check.every));
                        self.no_heartbeat(name, index, run.epoch);
                    } else {
                        let probe = self.world.next_probe;
                        self.world.next_probe = probe.next();
                        probing.start(probe, check, now);
                        // One that has begun to fail is not probed alone any more.
                        let fails = probing.last.as_ref().is_some_and(|last| last.failure.is_some());
                        let is_controlled = fails && check.kind.connects();
                        let anew = core::mem::take(&mut probing.anew);
                        let beside = is_controlled.then(|| self.control());
                        if fails {
                            self.hasten_dependencies(name);
                        }
                        if let Some(service) = self.world.services.get_mut(name) {
                            service.senses.probes[index].beside = beside;
                        }
                        let order = Order::Probe { probe, check: index, policy: policy.clone(), anew };
                        self.effect(name, run.epoch, order);
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether a check that looks at the processes of the service is due now: the others of that sort are taken along.
    fn looks_at_tree(&self, name: &Name, now: Monotonic) -> bool {
        let service = &self.world.services[name];
        let mut checks = service.policy.checks.iter().zip(&service.senses.probes);
        checks.any(|(check, probing)| {
            let is_due = probing.in_flight.is_none() && probing.due.is_some_and(|due| due <= now);
            is_due && check.kind.looks_at_tree()
        })
    }

    pub(super) fn probed(&mut self, name: &Name, epoch: Epoch, probe: ProbeId, outcome: &ProbeOutcome) {
        let now = self.now();
        let service = &self.world.services[name];
        let ours = |probing: &checks::Probing| probing.in_flight.is_some_and(|(id, _)| id == probe);
        let Some(index) = service.senses.probes.iter().position(ours) else { return };
        if service.known.phase.run().is_none_or(|run| run.epoch != epoch) {
            return;
        }
        let policy = service.policy.clone();
        let check = &policy.checks[index];
        let outcome = &*checks::heard(check, outcome);
        if matches!(outcome.failure, Some(ProbeFailure::Unable | ProbeFailure::Unresolved)) {
            self.unable(name, index, epoch, outcome);
            return;
        }
        if outcome.failure.is_none() {
            self.forget_asked(name, index);
        }
        let counts = self.counts(name, index, now);
        if outcome.failure.is_some() {
            self.spare(name, index, epoch, &outcome.detail);
        }
        let Some(service) = self.service_mut(name) else { return };
        let probing = &mut service.senses.probes[index];
        let state = service.known.checks[index];
        let edge = if counts || outcome.failure.is_none() {
            probing.edge(state, check, outcome.failure.is_none())
        } else {
            Edge::None
        };
        probing.finish(name, check, outcome.clone(), now);
        // One that does not count confirms nothing either.
        if counts || outcome.failure.is_none() {
            self.confirm(name, index, outcome.failure.is_some());
        }
        self.edge(name, index, epoch, edge, outcome);
        self.last_word(name);
        self.plan_restart(name, index);
    }

    /// A probe could not be run: nothing is known that was not known before, and this is said once.
    fn unable(&mut self, name: &Name, index: usize, epoch: Epoch, outcome: &ProbeOutcome) {
        let (now, policy) = (self.now(), self.policy(name));
        let check = &policy.checks[index];
        let Some(service) = self.service_mut(name) else { return };
        let probing = &mut service.senses.probes[index];
        let is_said = probing.is_unable();
        probing.finish(name, check, outcome.clone(), now);
        if !is_said {
            let detail = outcome.detail.clone();
            self.record(name, Body::ProbeUnable { epoch, check: check.name.clone(), detail });
        }
    }

    /// Whether a failure of this check counts now. While it starts only a check that passed before can fail;
    /// one that never passed has until `start.within`, whatever made the service ready.
    fn counts(&self, name: &Name, index: usize, now: Monotonic) -> bool {
        let service = &self.world.services[name];
        if service.known.unproven.contains(&service.policy.checks[index].name) {
            return false;
        }
        match &service.known.phase {
            // Nobody must have done something before he is ready.
            Phase::Starting { .. } if service.policy.checks[index].kind.counts_time() => false,
            Phase::Starting { .. } => service.known.checks[index] == CheckState::Passing,
            Phase::Running { .. } => {
                let passed = service.senses.probes[index].last_pass.is_some();
                passed || service.start_deadline().is_some_and(|deadline| deadline <= now)
            }
            Phase::Stopped { .. }
            | Phase::Down
            | Phase::Blocked { .. }
            | Phase::BackingOff { .. }
            | Phase::Held { .. }
            | Phase::Spawning { .. }
            | Phase::Stopping { .. }
            | Phase::Remains { .. } => false,
        }
    }

    /// Says once that a check which came or changed in the life of this process does not count yet.
    fn spare(&mut self, name: &Name, index: usize, epoch: Epoch, detail: &str) {
        let Some(service) = self.service_mut(name) else { return };
        let check = service.policy.checks[index].name.clone();
        // One that starts has to pass all of them.
        if !matches!(service.known.phase, Phase::Running { .. }) || !service.known.unproven.contains(&check) {
            return;
        }
        if !core::mem::replace(&mut service.senses.probes[index].spared, true) {
            self.record(name, Body::CheckUnproven { epoch, check: check.clone(), detail: String::from(detail) });
        }
        self.tell_waiters(name, Wanted::Healthy, |name| Answer::Failed {
            text: format!("{name} runs; check {check}, which is new or changed, has not passed yet: {detail}"),
        });
    }

    /// Records an edge and acts on it.
    fn edge(&mut self, name: &Name, index: usize, epoch: Epoch, edge: Edge, outcome: &ProbeOutcome) {
        let policy = self.policy(name);
        let check = &policy.checks[index];
        let failed = |failures: u32, failure: ProbeFailure| Body::CheckFailed {
            epoch,
            check: check.name.clone(),
            failures,
            of: check.failures,
            failure,
            detail: outcome.detail.clone(),
            took_us: outcome.took_us,
        };
        match (edge, outcome.failure) {
            (Edge::Passes, _) => {
                let passed = Body::CheckPassed { epoch, check: check.name.clone(), took_us: outcome.took_us };
                if self.record(name, passed) {
                    if self.world.services[name].all_pass() {
                        self.ready_by(name, epoch, Ready::Check);
                    }
                    self.maybe_healthy(name);
                }
            }
            (Edge::Failing { failures }, Some(failure)) => {
                self.record(name, failed(failures, failure));
            }
            (Edge::Failed { failures }, Some(failure)) => {
                let Some(cause) = checks::cause(&check.kind, failure) else { return };
                let detail = outcome.detail.clone();
                let outlook = self.world.services[name].senses.probes[index].trend.outlook(&check.kind);
                let outlook = outlook.filter(|outlook| outlook.growth.per_hour_low > 0);
                let finding = Finding::Check { check: check.name.clone(), failures, failure, detail, outlook };
                self.check_failed(name, index, failed(failures, failure), cause, finding);
            }
            (Edge::None | Edge::Failing { .. } | Edge::Failed { .. }, _) => {}
        }
    }

    /// A heartbeat did not come in time.
    fn no_heartbeat(&mut self, name: &Name, index: usize, epoch: Epoch) {
        let Some(service) = self.service_mut(name) else { return };
        let policy = service.policy.clone();
        let check = &policy.checks[index];
        let within = checks::heartbeat_within(check, service.known.heartbeat_within).unwrap_or_default();
        if service.known.unproven.contains(&check.name) {
            return self.spare(name, index, epoch, &format!("no heartbeat for {within}"));
        }
        let (probing, state) = (&mut service.senses.probes[index], service.known.checks[index]);
        let outcome = ProbeOutcome {
            took_us: within.as_us(),
            failure: Some(ProbeFailure::Timeout),
            detail: format!("no heartbeat for {within}"),
            figure: None,
            late_us: 0,
        };
        let edge = probing.edge(state, check, false);
        probing.last = Some(outcome.clone());
        self.confirm(name, index, true);
        let (failures, reached) = match edge {
            Edge::Failing { failures } => (failures, false),
            Edge::Failed { failures } => (failures, true),
            Edge::None | Edge::Passes => return,
        };
        let body = Body::CheckFailed {
            epoch,
            check: check.name.clone(),
            failures,
            of: check.failures,
            failure: ProbeFailure::Timeout,
            detail: outcome.detail,
            took_us: outcome.took_us,
        };
        if reached {
            let finding = Finding::NoHeartbeat { check: check.name.clone(), within, triggered: false };
            self.check_failed(name, index, body, Cause::NoHeartbeat, finding);
        } else {
            self.record(name, body);
        }
    }

    /// What the service itself says. Trusted as far as the service may harm only itself by it.
    pub(super) fn notified(&mut self, name: &Name, epoch: Epoch, notice: Notice) {
        let now = self.now();
        if self.phase(name).epoch() != Some(epoch) {
            return;
        }
        let own = checks::own_heartbeat(&notice);
        match notice {
            Notice::Ready => self.ready_by(name, epoch, Ready::Notify),
            Notice::Heartbeat => self.heartbeat(name, epoch, now),
            Notice::HeartbeatTrigger => self.heartbeat_triggered(name, epoch),
            Notice::HeartbeatWithin(_) => {
                let known = self.known(name);
                let more = known.promises < PROMISES_MAX;
                if let Some(within) = own.filter(|own| more && known.heartbeat_within != Some(*own)) {
                    self.record(name, Body::HeartbeatPromised { epoch, within });
                }
            }
            Notice::ExtendTimeout(span) => {
                let until = whole_seconds(now.after(span)).min(self.known(name).since.after(EXTENSION_MAX));
                if self.known(name).extended_until != Some(until) {
                    self.record(name, Body::Extended { epoch, until });
                }
            }
            Notice::Store(offer) => self.offered(name, epoch, offer),
            Notice::NotStored { why } => self.refuse_descriptor(name, epoch, why),
            Notice::Unstore { name: wanted } => {
                self.drop_stored(name, |stored| stored.name == wanted, &Reason::DescriptorTakenBack);
            }
            Notice::Status(text) => {
                if let Some(service) = self.service_mut(name) {
                    service.senses.status_text = text;
                }
            }
        }
    }

    fn heartbeat(&mut self, name: &Name, epoch: Epoch, now: Monotonic) {
        let policy = self.policy(name);
        for (index, check) in policy.checks.iter().enumerate() {
            if self.known(name).phase.run().is_none_or(|run| run.epoch != epoch) {
                return;
            }
            if check.kind.promise().is_some() {
                self.forget_asked(name, index);
                self.confirm(name, index, false);
            }
            let running = matches!(self.phase(name), Phase::Running { .. });
            let Some(service) = self.service_mut(name) else { return };
            let Some(within) = checks::heartbeat_within(check, service.known.heartbeat_within) else { continue };
            let (probing, state) = (&mut service.senses.probes[index], service.known.checks[index]);
            let edge = probing.edge(state, check, true);
            probing.heartbeat(within, now);
            if !running {
                probing.due = None;
            }
            let outcome =
                ProbeOutcome { took_us: 0, failure: None, detail: String::from("heartbeat"), figure: None, late_us: 0 };
            probing.last = Some(outcome.clone());
            self.edge(name, index, epoch, edge, &outcome);
        }
        self.last_word(name);
    }

    /// The service says itself that it does not work: as if its heartbeat were missing for long enough.
    fn heartbeat_triggered(&mut self, name: &Name, epoch: Epoch) {
        if !matches!(self.phase(name), Phase::Running { .. }) {
            return;
        }
        let policy = self.policy(name);
        for (index, check) in policy.checks.iter().enumerate() {
            let Some(within) = check.kind.promise() else { continue };
            // Said again, where nothing is done about it, it is nothing new.
            if self.known(name).checks[index] == (CheckState::Failing { failures: check.failures }) {
                return;
            }
            let body = Body::CheckFailed {
                epoch,
                check: check.name.clone(),
                failures: check.failures,
                of: check.failures,
                failure: ProbeFailure::Wrong,
                detail: String::from("WATCHDOG=trigger"),
                took_us: 0,
            };
            let finding = Finding::NoHeartbeat { check: check.name.clone(), within, triggered: true };
            // It may say so once and go on as if nothing were: not to be forgotten for a look.
            if self.record(name, body) {
                self.failed(name, Cause::NoHeartbeat, &finding, Seen::nothing());
                self.effect(name, epoch, Order::Examine);
            }
            return;
        }
    }
}
