//! Starting: in order, as many at once as allowed, and what the guardian answers.

use super::Seen;
use super::{Brain, SERVICES_PER_STEP};
use crate::effect::{Answer, Order};
use crate::event::{Process, SpawnFailure};
use crate::ids::{Epoch, GenerationId, Name};
use crate::incident::Cause;
use crate::policy::{CheckKind, Ready};
use crate::reason::Reason;
use crate::record::{Body, Finding};
use crate::safeswitch::Part;
use crate::time::Monotonic;
use crate::world::phase::{Phase, StopStage, Then};
use crate::world::service::Wanted;
use alloc::format;
use alloc::string::String;

impl Brain<'_> {
    /// Starts the services of the queue, a bounded number in one step.
    pub(super) fn start_queued(&mut self) {
        for _ in 0..SERVICES_PER_STEP {
            let Some(name) = self.world.to_start.pop_front() else { return };
            self.touched.insert(name.clone());
            // An operator's order may have been faster.
            let is_new = self.world.added.remove(&name);
            if self.phase(&name) == Phase::Down {
                let why = if is_new { Reason::Reloaded } else { Reason::HaleStarts };
                self.try_start(&name, why);
            }
        }
    }

    /// Starts it, or records why not yet.
    pub(super) fn try_start(&mut self, name: &Name, why: Reason) {
        if let Some(ending) = self.world.ending {
            self.stay_stopped(name, Reason::HaleEnds { why: ending });
            return;
        }
        if self.world.leaving.contains(name) {
            self.stay_stopped(name, Reason::Removed);
            return;
        }
        // An order starts it whatever was ordered since, which is carried out after it.
        if self.known(name).rests() && !matches!(why, Reason::Ordered { .. }) {
            self.world.admission.leave(name);
            return;
        }
        // Nothing is started on data that nobody knows, but by order.
        if let Some(unknown) = self.known(name).generations.store.unknown_data.clone()
            && !matches!(why, Reason::Ordered { .. })
        {
            return self.stay_stopped(name, unknown);
        }
        if self.world.services[name].awaits_store() {
            self.undo_data(name);
            // What it would run is known when the store has answered, and that wakes it.
            if !matches!(self.phase(name), Phase::BackingOff { .. } | Phase::Held { .. }) {
                let until = self.now();
                self.record(name, Body::BackingOff { until });
            }
            return;
        }
        if self.needs_release(name) {
            return self.stay_stopped(name, Reason::NoReleaseYet);
        }
        if let Some(on) = self.not_ready(name) {
            self.block(name, &on);
            return;
        }
        // Those that start again because what blocked them is up come in line too: there may be many.
        let again = matches!(why, Reason::NowReady { .. }) && self.known(name).was_started();
        let known = self.known(name);
        let planned = known.planned.is_some() && known.planned == Some(known.last_epoch);
        let planned = planned || known.outdated.is_some();
        let queues = known.counters.failures > 0 || again || planned || self.world.admission.waits(name);
        if queues && !self.admit(name) {
            return;
        }
        let epoch = self.known(name).last_epoch.next();
        let (generation, files) = (self.to_run(name, Part::Store), self.to_run(name, Part::Files));
        if self.record(name, Body::SpawnIntended { epoch, why, generation, files }) {
            let order = self.spawn_order(name);
            self.effect(name, epoch, order);
        }
    }

    /// All that its next process needs.
    pub(super) fn spawn_order(&self, name: &Name) -> Order {
        let known = self.known(name);
        Order::Spawn { policy: self.policy(name), stored: known.stored.clone(), generation: known.runs.store.clone() }
    }

    /// The generation that its next process is of.
    fn to_run(&self, name: &Name, part: Part) -> Option<GenerationId> {
        let service = &self.world.services[name];
        let has = service.parts().any(|has| has == part);
        service.known.generations[part].current.clone().filter(|_| has)
    }

    /// Whether what it would run is in a release, and there is none.
    pub(super) fn needs_release(&self, name: &Name) -> bool {
        self.world.services[name].needs_release()
    }

    /// One of those that it starts after, which is not up; the search goes on where the last one has ended, so that all
    /// of them together cost no more than two.
    pub(super) fn not_ready(&self, name: &Name) -> Option<Name> {
        let service = &self.world.services[name];
        let after = &service.policy.after;
        let from = if let Phase::Blocked { on } = &service.known.phase { after.binary_search(on).ok() } else { None };
        let (before, behind) = after.split_at(from.unwrap_or(0));
        behind.iter().chain(before).find(|on| !self.world.is_up(on)).cloned()
    }

    fn block(&mut self, name: &Name, on: &Name) {
        self.world.admission.leave(name);
        if self.phase(name) != (Phase::Blocked { on: on.clone() }) {
            self.record(name, Body::Blocked { on: on.clone() });
        }
        let text = format!("{name} will be started as soon as {on} is ready");
        self.tell_waiters(name, Wanted::Healthy, |_| Answer::Done { text: text.clone() });
        self.tell_those_who_wait_for_a_switch(name, &text);
    }

    /// Takes a place among `restarts_in_flight`; without one it waits in line, and says so once.
    fn admit(&mut self, name: &Name) -> bool {
        let limit = self.world.birth.policy.host.restarts_in_flight;
        let due = if let Phase::BackingOff { until } = self.phase(name) { until } else { self.now() };
        let waited = self.world.admission.waits(name);
        if self.world.admission.admit(name, due, limit) {
            return true;
        }
        if !waited {
            self.record(name, Body::Waits { why: Reason::RestartsInFlight { limit } });
            self.record(name, Body::BackingOff { until: due });
        }
        false
    }

    /// Starts those that wait for a place, as far as there are any.
    pub(super) fn admit_waiting(&mut self) {
        let limit = self.world.birth.policy.host.restarts_in_flight;
        for _ in 0..SERVICES_PER_STEP {
            let Some(name) = self.world.admission.next(limit) else { return };
            self.touched.insert(name.clone());
            if matches!(self.phase(&name), Phase::BackingOff { .. }) {
                self.try_start(&name, Reason::DelayOver);
            } else {
                self.world.admission.leave(&name);
            }
        }
    }

    pub(super) fn spawned(&mut self, name: &Name, epoch: Epoch, process: Process) {
        if !self.record(name, Body::Spawned { epoch, process }) {
            return;
        }
        let now = self.now();
        match self.phase(name) {
            Phase::Starting { .. } => {
                if let Some(service) = self.service_mut(name) {
                    let policies = service.policy.checks.iter();
                    policies.zip(&mut service.senses.probes).for_each(|(policy, probing)| probing.begin(policy, now));
                }
            }
            // The order to stop came before there was anything to stop.
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
            | Phase::Running { .. }
            | Phase::Remains { .. } => {}
        }
    }

    pub(super) fn executed(&mut self, name: &Name, epoch: Epoch) {
        self.ready_by(name, epoch, Ready::Running);
    }

    /// It is ready, if `by` is what makes this service ready and this is still awaited.
    pub(super) fn ready_by(&mut self, name: &Name, epoch: Epoch, by: Ready) {
        let awaited = matches!(self.phase(name), Phase::Starting { run } if run.epoch == epoch);
        if !awaited || self.policy(name).start.ready != by || !self.record(name, Body::BecameReady { epoch, by }) {
            return;
        }
        let now = self.now();
        self.world.admission.leave(name);
        self.await_heartbeats(name, now);
        self.maybe_healthy(name);
    }

    /// From now on the absence of heartbeats counts.
    pub(super) fn await_heartbeats(&mut self, name: &Name, now: Monotonic) {
        let Some(service) = self.world.services.get_mut(name) else { return };
        let own = service.known.heartbeat_within;
        for (policy, probing) in service.policy.checks.iter().zip(&mut service.senses.probes) {
            if let Some(within) = crate::analyze::checks::heartbeat_within(policy, own) {
                probing.due = Some(now.after(within));
            }
        }
    }

    pub(super) fn spawn_failed(&mut self, name: &Name, epoch: Epoch, failure: SpawnFailure) {
        let before = self.phase(name);
        if !self.record(name, Body::SpawnFailed { epoch, failure: failure.clone() }) {
            return;
        }
        self.effect(name, epoch, Order::AckExit);
        if let Phase::Stopping { then, .. } = before {
            self.after_stop(name, then);
        } else {
            self.failed(name, Cause::Spawn, &Finding::Spawn { failure }, Seen::nothing());
        }
    }

    pub(super) fn start_timed_out(&mut self, name: &Name) {
        let service = &self.world.services[name];
        let Some(made) = service.known.phase.made() else { return };
        let checks = service.policy.checks.iter().zip(&service.known.checks).zip(&service.senses.probes);
        let failing = |((policy, state), probing): (
            (&crate::policy::CheckPolicy, &crate::analyze::checks::CheckState),
            &crate::analyze::checks::Probing,
        )| {
            let passes = *state == crate::analyze::checks::CheckState::Passing;
            let detail = match (&policy.kind, &probing.last) {
                (CheckKind::Heartbeat { .. }, _) => String::from("no heartbeat yet"),
                (_, Some(outcome)) => outcome.detail.clone(),
                (_, None) => String::from("no result yet"),
            };
            (!passes).then(|| format!("check {}: {detail}", policy.name))
        };
        let ready = service.policy.start.ready;
        let detail = if ready == Ready::Check { checks.filter_map(failing).next() } else { None };
        let within = self.now().since(made);
        let finding = Finding::StartTimeout { within, ready, detail: detail.unwrap_or_default() };
        self.look_and_act(name, Cause::StartTimeout, finding);
    }

    /// What comes after a stop, now that nothing of it is left.
    pub(super) fn after_stop(&mut self, name: &Name, then: Then) {
        match then {
            Then::Stay { why } => self.stay_stopped(name, why),
            Then::Restart { until } if until <= self.now() => self.try_start(name, Reason::DelayOver),
            Then::Restart { until } => {
                self.record(name, Body::BackingOff { until });
            }
            Then::Hold { until, tries } => {
                self.record(name, Body::Held { until, tries });
                self.world.looks.insert(name.clone());
                self.try_what_others_have_switched(name);
            }
        }
    }
}
