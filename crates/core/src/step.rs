//! The brain: one event in, records and effects out. Everything that Hale ever does begins here.

pub(crate) mod asking;
#[cfg(test)]
mod bench;
pub(crate) mod blaming;
mod blocking;
mod data;
mod dependencies;
mod deploying;
mod descriptors;
mod hardware;
mod lateness;
mod orders;
mod pausing;
mod planning;
mod probing;
mod proving;
mod reloading;
mod stalling;
mod starting;
mod stopping;
mod switch_end;
mod switch_recovery;
mod switching;
mod takeover;
mod taking_back;

use crate::analyze::blame::{self, Controlled};
use crate::analyze::{oom, stall};
use crate::effect::{Effect, Fence, Order};
use crate::event::{Event, ExitStatus};
use crate::examination::Examination;
use crate::ids::{Epoch, IncidentId, Name, RecordId};
use crate::incident::{Cause, Outcome, cause_of_exit};
use crate::memory::MemoryAtExit;
use crate::plan::ladder::{self, Decision, Verdict};
use crate::reason::Reason;
use crate::record::{Body, CORE_VERSION, Finding, Record};
use crate::safeswitch::Part;
use crate::time::{Monotonic, Now, Span};
use crate::world::World;
use crate::world::phase::{Phase, StopStage, Then, UNKILLABLE_AFTER};
use crate::world::service::Service;
use crate::{invariant, world::service};
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// How long an effect that must not happen without a durable record waits for one (architecture, section 2).
pub const DURABLE_WITHIN: Span = Span::from_secs(5);

/// How many services one step starts or wakes: 64 take well under a millisecond, and between two steps the loop
/// looks at everything else.
pub const SERVICES_PER_STEP: usize = 64;

/// How many lines of output are kept as evidence of one incident.
pub const OUTPUT_LINES: usize = 200;

/// What one step leads to. The records must be written before the effects are performed.
#[must_use = "records must be written and effects performed"]
#[derive(Debug, Default)]
pub struct Output {
    /// What was detected, decided and refused, in order.
    pub records: Vec<Record>,
    /// What is to be done, in order.
    pub effects: Vec<Effect>,
}

/// Takes one event. Reads no clock, waits for nothing, and gives the same output for the same world.
pub fn step(world: &mut World, now: Now, event: Event) -> Output {
    let lateness = world.lateness(now);
    let (output, touched, retains) = (Output::default(), BTreeSet::new(), BTreeSet::new());
    let mut brain = Brain { world, at: now, output, touched, retains };
    brain.allow_for(lateness);
    brain.take(event);
    brain.start_queued();
    brain.wake_due();
    brain.admit_waiting();
    brain.look_at_blocked();
    brain.start_outdated();
    brain.let_go();
    brain.retain_needed();
    brain.drop_orders_of_what_is_over();
    brain.finish();
    brain.output
}

/// What was found out about a failure before anything was decided.
struct Seen {
    /// What the service was doing.
    found: Option<Box<Examination>>,
    /// Whose fault it is; none: to be judged now.
    judged: Option<Box<blame::Decision>>,
}

impl Seen {
    fn nothing() -> Self {
        Self { found: None, judged: None }
    }
}

/// One step in progress.
struct Brain<'a> {
    world: &'a mut World,
    at: Now,
    output: Output,
    /// Services whose timers and invariants must be looked at before the step ends.
    touched: BTreeSet<Name>,
    /// What nobody needs any more of these may go, once the step has said what is needed.
    retains: BTreeSet<(Name, Part)>,
}

impl Brain<'_> {
    fn now(&self) -> Monotonic {
        self.at.mono
    }

    fn take(&mut self, event: Event) {
        if let Some(name) = event.service() {
            if !self.world.services.contains_key(name) {
                if let Event::Probed { service, probe, outcome, .. } = &event {
                    self.dependency_probed(service, *probe, outcome);
                }
                // Else the host speaks of a service that the policy does not have: nothing of ours.
                return;
            }
            self.touched.insert(name.clone());
        }
        match event {
            Event::Begin => self.begin(),
            Event::TakeOver { lost, found } => self.take_over(lost, &found),
            Event::Challenged { nonce } => self.push_effect(Fence::Host, Order::Prove { nonce }),
            Event::Tick => {}
            Event::Spawned { service, epoch, process } => self.spawned(&service, epoch, process),
            Event::Executed { service, epoch } => self.executed(&service, epoch),
            Event::SpawnFailed { service, epoch, failure } => self.spawn_failed(&service, epoch, failure),
            Event::Exited { service, epoch, status, tree_empty, memory } => {
                self.exited(&service, epoch, status, tree_empty, memory);
            }
            Event::OomKilled { service, epoch, kills, memory } => {
                // Of a process before this one nothing follows any more.
                if self.known(&service).last_epoch == epoch {
                    self.record(&service, Body::OomKilled { epoch, kills, memory });
                }
            }
            Event::MemoryStalled { service, epoch, stall } => self.stalled(&service, epoch, stall),
            Event::TreeEmpty { service, epoch } => self.tree_empty(&service, epoch),
            Event::Probed { service, epoch, probe, outcome } => self.probed(&service, epoch, probe, &outcome),
            Event::Notified { service, epoch, notice } => self.notified(&service, epoch, notice),
            Event::DescriptorGone { service, stored, why } => {
                self.drop_stored(&service, |kept| kept.id == stored, &why);
            }
            Event::Collected { service, epoch, incident, lines, trace } => {
                self.record_in(Some(&service), Some(incident), Body::Output { lines });
                if let Some((trace, after)) = trace {
                    self.record_in(Some(&service), Some(incident), Body::Traced { epoch, trace, after });
                }
            }
            Event::Controlled { probe, controls } => self.controlled(probe, &controls),
            Event::Examined { service, epoch, found } => self.examined(&service, epoch, found),
            Event::OutputDropped { service, bytes } => {
                self.record(&service, Body::OutputDropped { bytes });
            }
            Event::Asked { request, question } => self.asked(request, question),
            Event::GenerationSeen { service, part, seen, data } => self.generation_seen(&service, part, seen, &data),
            Event::GenerationPrepared { service, part, switch, data } => {
                self.generation_prepared(&service, part, switch, data);
            }
            Event::DataUndone { service, part, switch, error } => self.data_undone(&service, part, switch, error),
            Event::FilesChanged { service, from, to, lines } => {
                self.record(&service, Body::FilesChanged { from, to, lines });
            }
            Event::GenerationSwitched { service, part, switch, error, seen, data } => {
                self.generation_switched(&service, part, switch, error, &seen, &data);
            }
            Event::GenerationPromoted { service, part, switch, error } => {
                self.generation_promoted(&service, part, switch, error);
            }
            Event::Durable { up_to } => {
                self.durable(up_to);
                self.switches_durable(up_to);
                self.hardware_durable(up_to);
            }
            Event::NotDurable { record } => {
                self.not_durable(record);
                self.switch_not_durable(record);
            }
            Event::LedgerDegraded { error } => {
                if self.world.ledger_error.is_none() {
                    self.record_in(None, None, Body::LedgerDegraded { error: error.clone() });
                }
                self.world.ledger_error = Some(error);
            }
            Event::LedgerRecovered => {
                if self.world.ledger_error.take().is_some() {
                    self.record_in(None, None, Body::LedgerRecovered);
                    self.look_at_hardware();
                }
            }
            Event::HardwareTimer { timer, may_reboot, reboot } => self.timer_told(timer, may_reboot, reboot),
            Event::Past(past) => self.past_told(past),
            Event::End { why } => self.end(why),
        }
    }

    fn begin(&mut self) {
        let birth = &self.world.birth;
        let began = Body::Began {
            version: birth.version.clone(),
            core: CORE_VERSION,
            policy: birth.hash.clone(),
            mode: birth.policy.host.mode,
            seed: birth.seed,
            boot_id: birth.boot_id.clone(),
            guardian: birth.guardian.clone(),
        };
        self.record_in(None, None, began);
        for (service, incident) in core::mem::take(&mut self.world.birth.open_incidents) {
            // Its service ended with the Hale before this one, whatever it would have come to.
            let closed =
                Body::IncidentClosed { outcome: Outcome::Stopped, recovery_us: None, down_us: None, checks: 0 };
            self.record_in(Some(&service), Some(incident), closed);
        }
        let names: Vec<Name> = self.world.services.keys().cloned().collect();
        names.iter().for_each(|name| self.begin_generations(name));
        self.world.to_start = names.into();
        self.begin_dependencies();
    }

    /// Everything that a service's own timer can mean.
    fn wake_due(&mut self) {
        let now = self.now();
        for name in self.world.due(now, SERVICES_PER_STEP) {
            self.touched.insert(name.clone());
            if !self.world.services.contains_key(&name) {
                self.dependency_due(&name);
                continue;
            }
            self.relieved_due(&name);
            self.asked_due(&name);
            self.generations_due(&name);
            let Some(service) = self.world.services.get(&name) else { continue };
            let deadline_passed = |at: Option<Monotonic>| at.is_some_and(|at| at <= now);
            match service.known.phase.clone() {
                Phase::BackingOff { until } if until <= now => self.try_start(&name, Reason::DelayOver),
                Phase::Held { until, tries } if until <= now => {
                    self.try_start(&name, Reason::HeldRetry { tries: tries + 1 });
                }
                Phase::Spawning { .. } | Phase::Starting { .. } if deadline_passed(service.start_times_out_at()) => {
                    self.start_timed_out(&name);
                }
                Phase::Running { .. } if deadline_passed(service.forget_at()) => {
                    self.record(&name, Body::CountersForgotten);
                    self.settle(&name);
                }
                Phase::Stopping { epoch, stage, then, .. } => self.stop_overdue(&name, epoch, stage, then),
                Phase::Starting { .. }
                | Phase::Running { .. }
                | Phase::BackingOff { .. }
                | Phase::Held { .. }
                | Phase::Stopped { .. }
                | Phase::Down
                | Phase::Blocked { .. }
                | Phase::Spawning { .. }
                | Phase::Remains { .. } => {}
            }
            self.probe_due(&name);
        }
        self.orders_due();
        self.pauses_due();
        self.hardware_due();
    }

    /// A main process was reaped.
    fn exited(
        &mut self,
        name: &Name,
        epoch: Epoch,
        status: ExitStatus,
        tree_empty: bool,
        memory: Option<MemoryAtExit>,
    ) {
        let before = self.phase(name);
        let asked = matches!(before, Phase::Stopping { .. });
        if !self.record(name, Body::Exited { epoch, status, tree_empty, asked, memory }) {
            return;
        }
        self.effect(name, epoch, Order::AckExit);
        if let Phase::Stopping { then, .. } = before {
            if tree_empty {
                self.after_stop(name, then);
            }
            return;
        }
        self.world.admission.leave(name);
        if status.is_success() && !self.policy(name).restart.on_success {
            if (self.observes(name) || self.known(name).rests()) && !tree_empty {
                // What it left behind is left alone.
                return;
            }
            self.bring_down(name, Then::Stay { why: Reason::Finished }, Reason::LeftBehind);
        } else {
            let report = memory.map(|memory| memory.report);
            match oom::killed_main(status, memory.as_ref(), self.known(name).oom, self.now()) {
                Some(kills) => {
                    let finding = Finding::Oom { epoch, kills, memory: report.unwrap_or_default() };
                    self.failed(name, Cause::Oom, &finding, Seen::nothing());
                }
                None => {
                    let finding = Finding::Exit { epoch, status, memory: report };
                    self.failed(name, cause_of_exit(status), &finding, Seen::nothing());
                }
            }
        }
    }

    /// A failure that counts: detect, blame, decide, and begin to act. With it comes what was found out before.
    fn failed(&mut self, name: &Name, cause: Cause, finding: &Finding, seen: Seen) {
        let now = self.now();
        // Of a start that took too long nothing good was seen since it began.
        let made = self.phase(name).made().filter(|_| matches!(finding, Finding::StartTimeout { .. }));
        let last_good = self.known(name).bad_since.or(made).unwrap_or(now);
        self.relieved_due(name);
        let stall = self.stall(name, finding);
        let cause = if stall.is_some() && stall::explains(finding) { Cause::Memory } else { cause };
        let blocked = self.blocked_by(name);
        let cause = if blocked.is_some() { Self::cause_while_blocked(cause) } else { cause };
        let detected = Body::Detected { cause, finding: finding.clone(), stall, last_good, blocked: blocked.clone() };
        if !self.record(name, detected) {
            return;
        }
        if let Some(found) = seen.found {
            let epoch = self.known(name).last_epoch;
            self.record(name, Body::Examined { epoch, found });
        }
        let judged = seen
            .judged
            .unwrap_or_else(|| Box::new(self.blame(name, cause, finding, Controlled::NotNeeded, (now, now))));
        self.record(name, Body::Blamed(judged));
        self.world.admission.leave(name);
        self.tell_waiters(name, service::Wanted::Healthy, |_| crate::effect::Answer::Failed {
            text: finding.to_string(),
        });
        if blocked.is_none() {
            self.hasten_dependencies(name);
        }
        let (failed, incident) = (self.known(name).last_epoch, self.known(name).incident.map(|open| open.id));
        if !self.failed_while_switching(name, cause, finding) {
            let reboot = self.reboot_rung(name);
            let decision = self.decide(name, cause, blocked, hardware::rung(reboot.as_ref()), None);
            self.act(name, decision, reboot, &finding.to_string());
        }
        // Evidence comes last: what it is about is in a file already, and the next process does not wait for it.
        if let Some(incident) = incident {
            self.effect(name, failed, Order::Collect { incident, lines: OUTPUT_LINES });
        }
    }

    /// Decides once more about a failure that goes on. `no_undo`: why nothing is taken back, where that was tried just now.
    fn decide_again(&mut self, name: &Name, cause: Cause, no_undo: Option<&Reason>) {
        let (blocked, reboot) = (self.blocked_by(name), self.reboot_rung(name));
        let decision = self.decide(name, cause, blocked, hardware::rung(reboot.as_ref()), no_undo);
        self.act(name, decision, reboot, cause.as_str());
    }

    /// Takes the rung that the ladder gives.
    fn act(&mut self, name: &Name, decision: Decision, reboot: Option<crate::plan::reboot::Decision>, finding: &str) {
        let (now, cause) = (self.now(), decision.read.cause);
        let (verdict, reason) = (decision.choice.verdict.clone(), decision.choice.reason.clone());
        self.record(name, Body::Decided(Box::new(decision)));
        match verdict {
            Verdict::Observe => self.only_observe(name, reason),
            Verdict::Wait => self.wait_blocked(name),
            Verdict::Restart { delay } => {
                self.bring_down(name, Then::Restart { until: now.after(delay) }, Reason::MustGo);
            }
            Verdict::TakeBack { part, to } => self.take_back(name, part, to, cause, finding),
            Verdict::PutBack { part, to } => self.put_back(name, part, to),
            Verdict::Hold { delay, tries } => {
                let is_tried = self.untried(name).is_none();
                self.bring_down(name, Then::Hold { until: now.after(delay), tries }, Reason::MustGo);
                self.take_reboot_rung(reboot.filter(|_| is_tried));
            }
        }
    }

    fn decide(
        &self,
        name: &Name,
        cause: Cause,
        blocked: Option<Name>,
        reboot: ladder::RebootRung,
        no_undo: Option<&Reason>,
    ) -> Decision {
        let service = &self.world.services[name];
        let known = &service.known;
        let jitter = ladder::jitter_permille(self.world.birth.seed, name, known.last_epoch.0);
        let restart = &service.policy.restart;
        let violated = known.violated.clone();
        let mut read = ladder::read(cause, self.world.mode(), violated, restart, &known.counters, self.now(), jitter);
        read.blocked = blocked;
        read.reboot = reboot;
        read.take_back = self.could_take_back(name, cause, no_undo);
        read.paused = known.paused.as_ref().map(|paused| paused.actor.clone());
        Decision {
            rule: String::from(ladder::RULE),
            core: CORE_VERSION,
            policy: self.world.birth.hash.clone(),
            choice: ladder::decide(&read),
            read,
        }
    }

    /// Whether this service is only watched.
    fn observes(&self, name: &Name) -> bool {
        self.known(name).violated.is_some() || self.world.mode() == crate::policy::Mode::Observe
    }

    /// Observing: what is gone stays gone, what runs is left alone.
    fn only_observe(&mut self, name: &Name, reason: Reason) {
        if self.known(name).paused.is_some() && !self.observes(name) {
            // Its incident stays open: it goes on when the pause is over.
            return;
        }
        match self.phase(name) {
            Phase::Down => {
                self.stopped(name, reason);
                self.close_incident(name, Outcome::Observed);
            }
            // What it left behind is left alone too: nothing more will come of this incident.
            Phase::Remains { .. } => self.close_incident(name, Outcome::Observed),
            // It may become healthy again by itself.
            Phase::Stopped { .. }
            | Phase::Blocked { .. }
            | Phase::BackingOff { .. }
            | Phase::Held { .. }
            | Phase::Spawning { .. }
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::Stopping { .. } => {}
        }
    }

    /// Closes the open incident, if there is one, without it having come to a good end.
    fn close_incident(&mut self, name: &Name, outcome: Outcome) {
        if self.known(name).incident.is_some() {
            let checks = self.checks(name);
            self.record(name, Body::IncidentClosed { outcome, recovery_us: None, down_us: None, checks });
        }
    }

    /// Closes the open incident, if there is one, because the service works again.
    fn end_incident_well(&mut self, name: &Name, rolled_back: bool) {
        let now = self.now();
        let known = self.known(name);
        let Some(open) = known.incident else { return };
        let down_us = Some(now.since(open.last_good).as_us());
        let (outcome, recovery_us) = if self.observes(name) || known.paused.is_some() {
            (Outcome::Observed, None)
        } else if rolled_back {
            (Outcome::RolledBack, Some(now.since(open.detected).as_us()))
        } else if (open.cause == Cause::Dependency && !open.counts)
            || known.generations.each().iter().any(|of| of.elsewhere)
        {
            (Outcome::Environmental, None)
        } else {
            (Outcome::Recovered, Some(now.since(open.detected).as_us()))
        };
        let checks = self.checks(name);
        self.record(name, Body::IncidentClosed { outcome, recovery_us, down_us, checks });
    }

    fn checks(&self, name: &Name) -> u32 {
        u32::try_from(self.world.services[name].policy.checks.len()).unwrap_or(u32::MAX)
    }

    /// Looks at a service that may have become healthy by what was just recorded.
    fn maybe_healthy(&mut self, name: &Name) {
        let service = &self.world.services[name];
        let Phase::Running { run } = service.known.phase else { return };
        if service.known.healthy || !service.all_pass() {
            return;
        }
        let rolled_back = self.validated(name);
        self.end_incident_well(name, rolled_back);
        self.record(name, Body::BecameHealthy { epoch: run.epoch });
        let pid = run.pid;
        self.tell_waiters(name, service::Wanted::Healthy, |name| crate::effect::Answer::Done {
            text: alloc::format!("{name} is healthy, pid {pid}"),
        });
    }

    /// Writes one record about a service, and lets it change the world. `false`: the move was illegal; the
    /// violation is recorded instead, and nothing must follow from it.
    fn record(&mut self, name: &Name, body: Body) -> bool {
        let incident = self.world.services.get(name).and_then(|service| service.known.incident).map(|open| open.id);
        self.record_in(Some(name), incident, body)
    }

    fn record_in(&mut self, name: Option<&Name>, incident: Option<IncidentId>, body: Body) -> bool {
        let id = self.world.next_record;
        let opens = matches!(body, Body::Detected { .. } | Body::HardwareReset { .. });
        let incident = incident.or(opens.then_some(IncidentId(id.0)));
        let record = Record { id, at: self.at, service: name.cloned(), incident, body };
        let followed = name.filter(|name| !self.world.order.behind(name).is_empty());
        let was_up = followed.map(|name| self.world.is_up(name));
        if let Some(service) = name.and_then(|name| self.world.services.get_mut(name)) {
            if let Err(illegal) = service.apply(&record) {
                if let Some(name) = name {
                    self.violated(&name.clone(), illegal.to_string());
                }
                return false;
            }
            if let Some(name) = name {
                self.touched.insert(name.clone());
            }
        }
        if let Body::Dependency { name, edge } = &record.body
            && let Some(dependency) = self.world.dependencies.get_mut(name)
        {
            dependency.apply(self.at.mono, edge);
            self.world.look_behind(name);
        }
        if let Body::Reloaded(reload) = &record.body {
            self.world.take_up(&reload.to);
        }
        if let Body::TookOver { .. } = &record.body {
            self.world.resume_proofs(self.at.mono);
        }
        if let Body::HostStalled { late, .. } = &record.body {
            self.world.credit(*late);
        }
        if let Some(name) = followed
            && was_up != Some(self.world.is_up(name))
        {
            self.world.look_behind(name);
        }
        self.world.hardware.apply(&record, &self.world.birth.boot_id);
        self.world.next_record = id.next();
        if let (Body::Forgotten, Some(name)) = (&record.body, name) {
            self.world.forget(name);
        }
        self.output.records.push(record);
        true
    }

    /// A rule of Hale's own was broken: it is recorded, and the service is only observed.
    fn violated(&mut self, name: &Name, what: String) {
        if self.known(name).violated.is_none() {
            self.record(name, Body::Violated { what });
        }
    }

    fn effect(&mut self, name: &Name, epoch: Epoch, order: Order) {
        let fence = Fence::Service { service: name.clone(), epoch };
        self.push_effect(fence, order);
    }

    fn push_effect(&mut self, fence: Fence, order: Order) {
        let id = self.world.next_effect;
        self.world.next_effect = id.next();
        self.output.effects.push(Effect { id, fence, order });
    }

    /// Sets the timers anew and checks the invariants of all that this step touched.
    fn finish(&mut self) {
        while let Some(name) = self.touched.pop_first() {
            self.world.reschedule(&name);
            if let Some(what) = invariant::check(self.world, &name) {
                self.violated(&name, what);
                self.touched.remove(&name);
            }
        }
    }

    fn policy(&self, name: &Name) -> alloc::sync::Arc<crate::policy::ServicePolicy> {
        self.world.services[name].policy.clone()
    }

    fn known(&self, name: &Name) -> &service::Known {
        &self.world.services[name].known
    }

    fn phase(&self, name: &Name) -> Phase {
        self.known(name).phase.clone()
    }

    fn service_mut(&mut self, name: &Name) -> Option<&mut Service> {
        self.world.services.get_mut(name)
    }

    /// The id that the next record will have.
    fn next_record(&self) -> RecordId {
        self.world.next_record
    }

    /// A stop whose time is over: kill, or find that killing does not help.
    fn stop_overdue(&mut self, name: &Name, epoch: Epoch, stage: StopStage, then: Then) {
        let now = self.now();
        let Some(deadline) = self.world.services[name].deadline() else { return };
        if deadline > now {
            return;
        }
        match stage {
            StopStage::Asked { kill_at } => {
                // What it was given when it was asked: the policy may be another one since.
                let known = self.known(name);
                let given_us = kill_at.since(known.since).as_us().saturating_sub(known.credited.as_us());
                let why = Reason::GraceOver { grace: Span::from_us(given_us) };
                self.kill(name, epoch, why, then);
            }
            StopStage::Killed { at } if now >= at.after(UNKILLABLE_AFTER) => {
                let after = now.since(at);
                self.record(name, Body::Unkillable { epoch, after });
                let last_good = self.known(name).bad_since.unwrap_or(now);
                let finding = Finding::Unkillable { after };
                let (cause, stall) = (Cause::Unkillable, None);
                self.record(name, Body::Detected { cause, finding, stall, last_good, blocked: None });
                self.end_those_before(name);
                let reboot = self.reboot_rung(name);
                self.take_reboot_rung(reboot);
            }
            StopStage::Killed { .. } | StopStage::Unkillable { .. } => {}
        }
    }
}

#[cfg(test)]
pub(crate) use tests::{checked, service as a_service, world as a_world};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::blame::{Control, Controls};
    use crate::event::{ProbeFailure, ProbeOutcome, Process};
    use crate::policy::{
        CheckKind, CheckPolicy, HostPolicy, LogPolicy, Mode, Policy, PolicyHash, Ready, RestartPolicy, ServicePolicy,
        Signal, StartPolicy, StopPolicy, SystemPolicy,
    };
    use crate::world::Birth;
    use alloc::collections::BTreeMap;
    use alloc::sync::Arc;
    use alloc::vec;

    pub(crate) fn service() -> ServicePolicy {
        ServicePolicy {
            command: vec![String::from("/bin/bot")],
            directory: Some(String::from("/")),
            user: None,
            environment: BTreeMap::new(),
            environment_files: Vec::new(),
            after: Vec::new(),
            open_files_limit: None,
            limits: crate::policy::ResourceLimits::default(),
            listen: BTreeMap::new(),
            start: StartPolicy { ready: Ready::Running, within: Span::from_secs(30) },
            stop: StopPolicy { signal: Signal::TERM, grace: Span::from_secs(10) },
            restart: RestartPolicy {
                first_delay: Span::ZERO,
                delay: Span::from_ms(100),
                max_delay: Span::from_secs(30),
                healthy_after: Span::from_secs(60),
                crash_loop: None,
                held_delay: Span::from_secs(300),
                on_success: true,
                before_limit: None,
            },
            log: LogPolicy { max_size_bytes: 4_096, keep: 1, rate_bytes: 4_096 },
            checks: Vec::new(),
            generations: None,
        }
    }

    pub(crate) fn world(service: ServicePolicy) -> (World, Name) {
        let name = Name::try_from("bot").unwrap();
        let host = HostPolicy {
            state_dir: String::from("/s"),
            runtime_dir: String::from("/r"),
            log_dir: String::from("/l"),
            mode: Mode::Heal,
            restarts_in_flight: 16,
            hardware_watchdog: None,
            as_init: Default::default(),
        };
        let policy = Policy {
            host,
            services: BTreeMap::from([(name.clone(), Arc::new(service))]),
            system: SystemPolicy::default(),
            dependencies: BTreeMap::new(),
        };
        let birth = Birth {
            policy,
            hash: PolicyHash::default(),
            seed: 1,
            version: String::from("test"),
            boot_id: String::from("boot"),
            guardian: String::from("guardian"),
            first_record: RecordId(1),
            last_epoch: Epoch(0),
            open_incidents: Vec::new(),
            generations: BTreeMap::new(),
        };
        (World::new(birth), name)
    }

    /// Takes one event, on a host that works, and that has nothing to tell of what services are doing and says so at once.
    pub(super) fn step(world: &mut World, now: Now, event: Event) -> Output {
        let mut output = super::step(world, now, event);
        let asks = |effect: &&Effect| matches!(effect.order, Order::Examine | Order::Control { .. });
        let asked: Vec<Effect> = output.effects.iter().filter(asks).cloned().collect();
        for effect in asked {
            let event = match (effect.fence, effect.order) {
                (Fence::Service { service, epoch }, _) => Event::Examined { service, epoch, found: None },
                (Fence::Host, Order::Control { probe, .. }) => Event::Controlled { probe, controls: working() },
                (Fence::Host, _) => continue,
            };
            let more = super::step(world, now, event);
            output.records.extend(more.records);
            output.effects.extend(more.effects);
        }
        output.effects.retain(|effect| !asks(&effect));
        output
    }

    /// What control probes find where all is well.
    pub(super) fn working() -> Controls {
        let passed = || Control::Passed { took_us: 300 };
        Controls { probing: Some(passed()), disk: Some(passed()) }
    }

    pub(super) fn at(ms: u64) -> Now {
        Now { mono: Monotonic::from_us(ms * 1_000), boot_us: ms * 1_000, wall_us: 0 }
    }

    fn spawned(service: &Name, epoch: u64) -> Event {
        let process = Process { pid: 100, start_ticks: 1, pidfd_inode: 1, cgroup: None };
        Event::Spawned { service: service.clone(), epoch: Epoch(epoch), process }
    }

    pub(super) fn exited(service: &Name, epoch: u64) -> Event {
        let status = ExitStatus::Code(1);
        Event::Exited { service: service.clone(), epoch: Epoch(epoch), status, tree_empty: true, memory: None }
    }

    /// Starts the service and makes it ready.
    pub(super) fn run(world: &mut World, name: &Name) {
        let _ = step(world, at(0), Event::Begin);
        let _ = step(world, at(1), spawned(name, 1));
        let _ = step(world, at(2), Event::Executed { service: name.clone(), epoch: Epoch(1) });
    }

    #[test]
    fn a_crash_is_answered_in_one_step_with_the_reason_on_record_before_the_effect() {
        let (mut world, name) = world(service());
        run(&mut world, &name);
        let output = step(&mut world, at(5), exited(&name, 1));
        let bodies: Vec<&Body> = output.records.iter().map(|record| &record.body).collect();
        assert!(
            matches!(
                bodies[..],
                [
                    Body::Exited { .. },
                    Body::Detected { .. },
                    Body::Blamed(_),
                    Body::Decided(_),
                    Body::SpawnIntended { epoch: Epoch(2), .. }
                ]
            ),
            "{bodies:?}"
        );
        let orders: Vec<&Order> = output.effects.iter().map(|effect| &effect.order).collect();
        assert!(matches!(orders[..], [Order::AckExit, Order::Spawn { .. }, Order::Collect { .. }]), "{orders:?}");
    }

    #[test]
    fn a_broken_rule_is_recorded_and_from_there_on_the_service_is_only_observed() {
        let (mut world, name) = world(service());
        run(&mut world, &name);
        let broken = step(&mut world, at(5), spawned(&name, 7));
        assert!(matches!(&broken.records[..], [Record { body: Body::Violated { .. }, .. }]), "{:?}", broken.records);
        assert!(broken.effects.is_empty());
        let crash = step(&mut world, at(6), exited(&name, 1));
        assert!(!crash.effects.iter().any(|effect| matches!(effect.order, Order::Spawn { .. } | Order::Kill)));
        let decided = |record: &Record| {
            if let Body::Decided(decision) = &record.body { Some(decision.choice.clone()) } else { None }
        };
        let refused = crash.records.iter().find_map(decided).unwrap();
        assert_eq!(refused.verdict, Verdict::Observe);
        assert!(matches!(refused.reason, Reason::Violated { .. }), "{refused:?}");
        let report = world.status(at(7), Some(&name)).unwrap();
        assert!(report.services[0].observed.is_some());
        assert_eq!(report.services[0].state, crate::status::State::Stopped);
    }

    /// A service that is ready once its one check passes, which one failure is enough for, and its process.
    pub(super) fn starting(world: &mut World, name: &Name) {
        let _ = step(world, at(0), Event::Begin);
        let _ = step(world, at(1), spawned(name, 1));
    }

    pub(crate) fn checked() -> ServicePolicy {
        let check = CheckPolicy {
            name: Name::try_from("tcp").unwrap(),
            kind: CheckKind::Tcp { address: String::from("127.0.0.1:1") },
            every: Span::from_secs(2),
            timeout: Span::from_secs(1),
            failures: 1,
            successes: 1,
            confirm: Vec::new(),
        };
        let start = StartPolicy { ready: Ready::Check, within: Span::from_secs(1) };
        ServicePolicy { checks: vec![check], start, ..service() }
    }

    /// Turns the loop whenever something is due before this moment, as a host does that is never late.
    pub(super) fn turn_until(world: &mut World, us: u64) {
        while let Some(due) = world.next_deadline().filter(|due| due.as_us() < us) {
            let _ = step(world, Now { mono: due, ..at(0) }, Event::Tick);
        }
    }

    /// Waits for the next probe, answers it, and returns what was recorded from there on.
    pub(super) fn probe(world: &mut World, name: &Name, failure: Option<ProbeFailure>) -> Vec<Body> {
        let due = world.services[name].senses.probes[0].due.unwrap();
        let now = Now { mono: due, ..at(0) };
        let mut records = step(world, now, Event::Tick).records;
        let (probe, _) = world.services[name].senses.probes[0].in_flight.unwrap();
        let outcome = ProbeOutcome { took_us: 0, failure, detail: String::from("words"), figure: None, late_us: 0 };
        let probed = Event::Probed { service: name.clone(), epoch: Epoch(1), probe, outcome };
        records.extend(step(world, now, probed).records);
        records.into_iter().map(|record| record.body).collect()
    }

    #[test]
    fn a_probe_that_cannot_be_run_counts_neither_way_and_is_told_once() {
        let (mut world, name) = world(checked());
        starting(&mut world, &name);
        assert!(probe(&mut world, &name, None).iter().any(|body| matches!(body, Body::BecameHealthy { .. })));
        let told = probe(&mut world, &name, Some(ProbeFailure::Unable));
        assert!(matches!(&told[..], [Body::ProbeUnable { detail, .. }] if detail == "words"), "{told:?}");
        assert_eq!(probe(&mut world, &name, Some(ProbeFailure::Unable)), []);
        let status = world.services[&name].status(&name, at(0).mono);
        assert_eq!((status.state, status.checks[0].ok), (crate::status::State::Healthy, Some(true)));
        assert_eq!(status.checks[0].detail, "words");
        assert_eq!(probe(&mut world, &name, None), []);
        assert_eq!(probe(&mut world, &name, Some(ProbeFailure::Unable)).len(), 1, "a new edge");
        let failed = probe(&mut world, &name, Some(ProbeFailure::Wrong));
        assert!(matches!(failed[..], [Body::CheckFailed { .. }, Body::Detected { .. }, ..]), "{failed:?}");
    }

    #[test]
    fn checks_that_look_at_processes_are_probed_together_and_have_causes_of_their_own() {
        let mut policy = checked();
        let tcp = policy.checks.remove(0);
        let kinds = [
            (CheckKind::OpenFiles { below: 9 }, Cause::OpenFiles),
            (CheckKind::Memory { below: crate::policy::MemoryBound::Bytes(9) }, Cause::Memory),
            (CheckKind::Cpu { below_percent: 9, window: Span::from_secs(9) }, Cause::Cpu),
            (CheckKind::Listen { address: crate::policy::ListenAddress::Unix(String::from("/x")) }, Cause::Listen),
        ];
        for (kind, _) in &kinds {
            let name = Name::try_from(kind.as_str()).unwrap();
            policy.checks.push(CheckPolicy { name, kind: kind.clone(), ..tcp.clone() });
        }
        policy.checks.push(CheckPolicy { every: Span::from_secs(60), ..tcp });
        let (mut world, name) = world(policy);
        starting(&mut world, &name);
        let answer = |world: &mut World, index: usize, now: Now, failure| {
            let (probe, _) = world.services[&name].senses.probes[index].in_flight.unwrap();
            let outcome = ProbeOutcome { took_us: 0, failure, detail: String::from("words"), figure: None, late_us: 0 };
            step(world, now, Event::Probed { service: name.clone(), epoch: Epoch(1), probe, outcome })
        };
        let now = Now { mono: world.services[&name].senses.probes[0].due.unwrap(), ..at(0) };
        let _ = step(&mut world, now, Event::Tick);
        for index in 0..5 {
            // Answers come apart, and with them the next probes.
            let later = Now { mono: now.mono.after(Span::from_ms(10 * index as u64)), ..now };
            let _ = answer(&mut world, index, later, None);
        }
        let due: Vec<_> = world.services[&name].senses.probes.iter().map(|probing| probing.due.unwrap()).collect();
        assert_ne!(due[0], due[1]);
        let now = Now { mono: due[0], ..now };
        let output = step(&mut world, now, Event::Tick);
        let probed = output.effects.iter().filter(|effect| matches!(effect.order, crate::effect::Order::Probe { .. }));
        assert_eq!(probed.count(), 4, "the one that connects is not due");
        let found = |output: &Output| {
            let cause = |record: &Record| {
                if let Body::Detected { cause, .. } = record.body { Some(cause) } else { None }
            };
            output.records.iter().find_map(cause)
        };
        let first = answer(&mut world, 0, now, Some(ProbeFailure::Wrong));
        assert_eq!(found(&first), Some(Cause::OpenFiles));
        for (kind, cause) in &kinds {
            assert_eq!(crate::analyze::checks::cause(kind, ProbeFailure::Wrong), Some(*cause));
        }
    }

    #[test]
    fn a_start_is_not_given_up_while_it_cannot_be_seen() {
        let (mut world, name) = world(checked());
        starting(&mut world, &name);
        let end = at(0).mono.after(Span::from_secs(10));
        while world.services[&name].senses.probes[0].due.unwrap() < end {
            let told = probe(&mut world, &name, Some(ProbeFailure::Unable));
            assert!(told.is_empty() || matches!(told[..], [Body::ProbeUnable { .. }]), "{told:?}");
        }
        let _ = probe(&mut world, &name, Some(ProbeFailure::Wrong));
        let now = world.services[&name].deadline().unwrap();
        let given_up = step(&mut world, at(now.as_us() / 1_000 + 10_000), Event::Tick).records;
        assert!(given_up.iter().any(|record| matches!(record.body, Body::Detected { .. })), "{given_up:?}");
    }

    #[test]
    fn an_immediate_restart_keeps_its_place_until_it_is_ready() {
        let (mut world, name) = world(service());
        run(&mut world, &name);
        let _ = step(&mut world, at(5), exited(&name, 1));
        assert_eq!(world.restarts_in_flight(), 1);
        let _ = step(&mut world, at(6), spawned(&name, 2));
        let _ = step(&mut world, at(7), Event::Executed { service: name, epoch: Epoch(2) });
        assert_eq!(world.restarts_in_flight(), 0);
    }

    #[test]
    fn an_event_of_a_service_that_is_not_ours_changes_nothing() {
        let (mut world, name) = world(service());
        run(&mut world, &name);
        let stranger = Name::try_from("stranger").unwrap();
        let output = step(&mut world, at(5), exited(&stranger, 1));
        assert!(output.records.is_empty() && output.effects.is_empty());
    }
}
