//! All that the core knows of one service: phase, counters, checks, open incident, and what its senses say.

use crate::analyze::checks::CheckState;
use crate::analyze::stall::Stall;
use crate::descriptor::{STORES_EVERY, Stored};
use crate::event::Process;
use crate::ids::{Epoch, GenerationId, IncidentId, Name, RecordId, RequestId};
use crate::incident::Cause;
use crate::memory::OomKills;
use crate::plan::ladder::Counters;
use crate::policy::{CheckPolicy, ServicePolicy, StoreKind};
use crate::reason::Reason;
use crate::record::{Body, Finding, Record};
use crate::safeswitch::{Generations, Held, Part, Parts, Switch};
use crate::time::{Monotonic, Span};
use crate::world::pause::Paused;
use crate::world::phase::{Illegal, Phase, StopStage};
use alloc::collections::{BTreeSet, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// How many clients may wait for the end of one order on one service: each is an open connection, and more
/// than a handful of operators on one service is a script gone wild.
pub const WAITERS_MAX: usize = 64;

/// One service.
#[derive(Debug, Clone)]
pub struct Service {
    /// What the operator wants.
    pub(crate) policy: Arc<ServicePolicy>,
    /// What records say. Changed by [`Service::apply`] only.
    pub(crate) known: Known,
    /// What was sensed and needs no record.
    pub(crate) senses: Senses,
}

/// The part of a service that records alone change, and that a snapshot keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// Where it stands.
    pub(crate) phase: Phase,
    /// The newest process's number.
    pub(crate) last_epoch: Epoch,
    /// The main process, from its making to its reaping.
    pub(crate) process: Option<Process>,
    /// Failures and tries.
    pub(crate) counters: Counters,
    /// When the newest failure was; `None` once counters were forgotten.
    pub(crate) last_failure: Option<Monotonic>,
    /// Starts after the first one.
    pub(crate) restarts: u64,
    /// The incident in progress.
    pub(crate) incident: Option<Open>,
    /// The checks that have failed in it.
    #[serde(default)]
    pub(crate) failed_checks: BTreeSet<Name>,
    /// Why it is only observed, if it is.
    pub(crate) violated: Option<String>,
    /// What blocks it, while it has a process.
    #[serde(default)]
    pub(crate) blocked: Option<Name>,
    /// Ready, and all checks pass.
    pub(crate) healthy: bool,
    /// The last moment that it was known to work, while it does not.
    pub(crate) bad_since: Option<Monotonic>,
    /// Its checks, in the policy's order.
    pub(crate) checks: Vec<CheckState>,
    /// Since when it is in this phase.
    pub(crate) since: Monotonic,
    /// Its start took too long, and that is on record; only while nothing is done about it it starts still.
    pub(crate) start_overdue: bool,
    /// Until when start or stop may last, where the service asked for more (`EXTEND_TIMEOUT_USEC`).
    pub(crate) extended_until: Option<Monotonic>,
    /// How long nobody looked while it was in this phase.
    #[serde(default)]
    pub(crate) credited: Span,
    /// The service's own `WATCHDOG_USEC`.
    pub(crate) heartbeat_within: Option<Span>,
    /// How often this process has said it.
    pub(crate) promises: u32,
    /// The newest OOM kill in its tree while this process ran, for which no end of the main process was told yet.
    #[serde(default)]
    pub(crate) oom: Option<(Monotonic, OomKills)>,
    /// Since when this process waits for memory, and what was said of that first.
    #[serde(default)]
    pub(crate) stalled: Option<(Monotonic, Stall)>,
    /// The descriptors that it left, oldest first.
    #[serde(default)]
    pub(crate) stored: Vec<Stored>,
    /// How far ahead of its time it is with leaving them: each moves this on by [`STORES_EVERY`].
    #[serde(default)]
    pub(crate) stores_until: Monotonic,
    /// The process that was last to be started anew before it reaches a bound.
    #[serde(default)]
    pub(crate) planned: Option<Epoch>,
    /// Why descriptors of this process were refused.
    #[serde(default)]
    pub(crate) refused: Vec<Reason>,
    /// It is only watched for a while.
    #[serde(default)]
    pub(crate) paused: Option<Paused>,
    /// What it runs by, or was given up by, where that is not what its policy says now: it is to be started anew.
    #[serde(default)]
    pub(crate) outdated: Option<Arc<ServicePolicy>>,
    /// Checks that came or changed while its process ran, and that have not passed since.
    #[serde(default)]
    pub(crate) unproven: BTreeSet<Name>,
    /// The newest number that was used before its own first process.
    #[serde(default)]
    pub(crate) before_first: Epoch,
    /// An operator has ordered it to run, and neither was it started since nor has it failed: what a pause does not stop.
    #[serde(default)]
    pub(crate) insisted: bool,
    /// Its generations.
    #[serde(default)]
    pub(crate) generations: Parts<Generations>,
    /// The switches amidst which somebody has stopped it.
    #[serde(default)]
    pub(crate) stopped_in: Parts<Option<RecordId>>,
    /// Those of its newest process.
    #[serde(default)]
    pub(crate) runs: Parts<Option<GenerationId>>,
}

impl Known {
    /// What the ledger knows of its generations counts where the journal, which ends before `journal_end`, knows less. But what
    /// the journal knows to be over is over, although the ledger could not take that.
    pub(crate) fn take_from_ledger(&mut self, mut in_ledger: Parts<Generations>, journal_end: RecordId) {
        for part in Part::ALL {
            let open = |known: &Generations| known.switch.as_ref().map(|switch| switch.id);
            let id = open(&in_ledger[part]);
            let is_over = id.is_some_and(|id| id < journal_end) && open(&self.generations[part]) != id;
            if !is_over {
                core::mem::swap(&mut self.generations[part], &mut in_ledger[part]);
            }
        }
    }

    /// Each proof that goes on.
    pub(crate) fn proofs(&mut self) -> impl Iterator<Item = &mut Held> {
        self.generations.each_mut().into_iter().flat_map(Generations::proofs)
    }

    /// Whether it has had a process before.
    pub(crate) fn was_started(&self) -> bool {
        self.last_epoch > self.before_first
    }
}

/// An incident in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Open {
    pub(crate) id: IncidentId,
    pub(crate) cause: Cause,
    pub(crate) detected: Monotonic,
    pub(crate) last_good: Monotonic,
    /// Whether something in it counts against the service.
    #[serde(default)]
    pub(crate) counts: bool,
}

/// Inputs that are never recorded: lost with the supervisor, and gathered anew by the next one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Senses {
    /// One for each check.
    pub(crate) probes: Vec<crate::analyze::checks::Probing>,
    /// The last `STATUS=`.
    pub(crate) status_text: String,
    /// When it was last said that it waits for memory, while it does; `None`: not since this supervisor began.
    pub(crate) stall_told: Option<Monotonic>,
    /// Failures that wait for what dependencies say: at most one for each check.
    pub(crate) asked: Vec<crate::step::asking::Asked>,
    /// Until when a start has time that took too long through no fault of its own.
    pub(crate) start_again: Option<Monotonic>,
    /// The row of failures that was found to begin with those of most services, by its last good sign, and when that was found.
    pub(crate) suspected: Option<(Monotonic, Monotonic)>,
    /// Clients that wait for the end of an order.
    pub(crate) waiters: VecDeque<Waiter>,
    /// For which end of a proof its checks were asked once more.
    pub(crate) last_word: Parts<Option<Monotonic>>,
    /// Until when the first look at its store, or its files, is awaited, while it is.
    pub(crate) look_until: Parts<Option<Monotonic>>,
    /// Whether what is on record of its stores was not held against them since this Hale began.
    pub(crate) unmatched: Parts<bool>,
    /// Whether it is on record that its store shows nothing any more.
    pub(crate) shows_nothing: Parts<bool>,
    /// The switch whose `after_rollback` the host was told to run.
    pub(crate) undoing: Option<RecordId>,
    /// The record that its data is undone, while that is not on the disk, and since when: after a loss of power it would be undone once
    /// more, and with it what was written since.
    pub(crate) undone: Option<(RecordId, Monotonic)>,
    /// When all that is known of its generations was last written down.
    pub(crate) kept_at: Option<Monotonic>,
    /// Where its generations were before a reload left them out.
    pub(crate) left: Parts<Option<Place>>,
}

/// Where the generations of a part are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Store(StoreKind),
    Files(Vec<String>),
}

/// A client that waits for the end of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub(crate) request: RequestId,
    pub(crate) wants: Wanted,
}

/// What a client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The service is healthy.
    Healthy,
    /// The service is stopped.
    Stopped,
    /// This switch is over.
    Switched(RecordId),
}

impl Service {
    /// A service that was never started; its first process gets the number after `last_epoch`.
    pub(crate) fn new(policy: Arc<ServicePolicy>, last_epoch: Epoch) -> Self {
        let checks = policy.checks.iter().map(|_| CheckState::default()).collect();
        let probes = policy.checks.iter().map(|_| crate::analyze::checks::Probing::default()).collect();
        let known = Known {
            phase: Phase::Down,
            last_epoch,
            process: None,
            counters: Counters::default(),
            last_failure: None,
            restarts: 0,
            incident: None,
            failed_checks: BTreeSet::new(),
            violated: None,
            blocked: None,
            healthy: false,
            bad_since: None,
            checks,
            since: Monotonic::default(),
            start_overdue: false,
            extended_until: None,
            credited: Span::ZERO,
            heartbeat_within: None,
            promises: 0,
            oom: None,
            stalled: None,
            stored: Vec::new(),
            stores_until: Monotonic::default(),
            planned: None,
            refused: Vec::new(),
            paused: None,
            outdated: None,
            unproven: BTreeSet::new(),
            before_first: last_epoch,
            insisted: false,
            generations: Parts::default(),
            stopped_in: Parts::default(),
            runs: Parts::default(),
        };
        Self { policy, known, senses: Senses { probes, ..Senses::default() } }
    }

    /// What the operator wants of it.
    #[must_use]
    pub fn policy(&self) -> &ServicePolicy {
        &self.policy
    }

    /// What its process runs by, where that is another policy: it is to be started anew.
    #[must_use]
    pub fn runs_by(&self) -> Option<&ServicePolicy> {
        self.known.outdated.as_deref()
    }

    /// Its newest process, as far as that is on record.
    #[must_use]
    pub fn process(&self) -> Option<&Process> {
        self.known.process.as_ref()
    }

    /// The generation that its newest process is of, where it has any.
    #[must_use]
    pub fn generation(&self) -> Option<&GenerationId> {
        self.known.runs.store.as_ref()
    }

    /// What must be kept of the generations of a part, as far as that is on record: a store that is opened anew asks for it.
    #[must_use]
    pub fn needed(&self, part: Part) -> Vec<GenerationId> {
        self.known.generations[part].needed()
    }

    /// The newest process that may exist, if one may.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.known.phase.epoch()
    }

    /// The process whose main one was reaped, and of whose tree something may be left.
    #[must_use]
    pub fn left_behind(&self) -> Option<Epoch> {
        let left = matches!(self.known.phase, Phase::Remains { .. } | Phase::Stopping { main_gone: true, .. });
        self.epoch().filter(|_| left)
    }

    /// Whether nothing of it is to be waited for at the end of everything: it is stopped, or cannot be killed.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.known.phase, Phase::Stopped { .. } | Phase::Stopping { stage: StopStage::Unkillable { .. }, .. })
    }

    /// The descriptors that it left, oldest first.
    #[must_use]
    pub fn stored(&self) -> &[Stored] {
        &self.known.stored
    }

    /// The only door: what one record changes.
    ///
    /// # Errors
    /// [`Illegal`] when the machine does not have this move; nothing is changed then.
    pub(crate) fn apply(&mut self, record: &Record) -> Result<(), Illegal> {
        let now = record.at.mono;
        let phase = self.known.phase.transition(record.at, self.known.last_epoch, &record.body)?;
        if core::mem::discriminant(&phase) != core::mem::discriminant(&self.known.phase) {
            self.known.since = now;
            self.known.credited = Span::ZERO;
        }
        if let Some((part, moved)) = record.body.moved() {
            self.known.generations[part].apply(record, moved)?;
        }
        self.known.phase = phase;
        match &record.body {
            Body::SpawnIntended { epoch, generation, files, .. } => {
                self.known.runs = Parts { store: generation.clone(), files: files.clone() };
                // Somebody has ordered that.
                self.known.generations.store.unknown_data = None;
                self.known.restarts += u64::from(self.known.was_started());
                self.known.last_epoch = *epoch;
                self.known.blocked = None;
                self.known.healthy = false;
                self.known.start_overdue = false;
                self.known.extended_until = None;
                self.known.heartbeat_within = None;
                self.known.promises = 0;
                self.known.oom = None;
                self.known.stalled = None;
                self.known.refused.clear();
                self.known.insisted = false;
                self.known.outdated = None;
                self.known.unproven.clear();
                // Each start while held is a try: the next delay is longer.
                self.known.counters.held_tries = self.known.counters.held_tries.map(|tries| tries.saturating_add(1));
                self.senses.start_afresh();
            }
            Body::Detected { cause, finding, last_good, blocked, .. } => {
                let counts = blocked.is_none();
                if counts {
                    let failed = (self.known.last_epoch, finding.is_own_end());
                    self.known.counters.count(now, failed, self.policy.restart.crash_loop);
                    self.known.last_failure = Some(now);
                    self.known.generations.each_mut().into_iter().for_each(Generations::failed);
                }
                self.known.insisted = false;
                self.known.healthy = false;
                self.known.start_overdue |= matches!(finding, Finding::StartTimeout { .. });
                let failed = self.failed_checks(finding);
                if self.known.incident.is_none() {
                    self.known.failed_checks.clear();
                }
                if counts {
                    self.known.failed_checks.extend(failed);
                }
                let (id, last_good) = (IncidentId(record.id.0), *last_good);
                let opened = Open { id, cause: *cause, detected: now, last_good, counts };
                let open = self.known.incident.get_or_insert(opened);
                open.counts |= counts;
                if *cause == Cause::Unkillable {
                    open.cause = Cause::Unkillable;
                }
            }
            Body::Held { tries, .. } => self.known.counters.held_tries = Some(*tries),
            Body::Spawned { process, .. } => self.known.process = Some(process.clone()),
            Body::Adopted { epoch, process } => {
                if *epoch > self.known.last_epoch {
                    // A start that was not recorded.
                    self.known.restarts += u64::from(self.known.was_started());
                    let counters = &mut self.known.counters;
                    counters.held_tries = counters.held_tries.map(|tries| tries.saturating_add(1));
                    self.known.oom = None;
                    // Of what is switched to, unless that is not the end of it: then it may as well be of what was there before.
                    let of = |known: &Generations| known.current.clone().filter(|_| known.switch.is_none());
                    let Parts { store, files } = &self.known.generations;
                    self.known.runs = Parts { store: of(store), files: of(files) };
                }
                self.known.last_epoch = *epoch;
                self.known.process = Some(process.clone());
                self.known.blocked = None;
                self.known.stalled = None;
                self.known.checks.iter_mut().for_each(|check| *check = CheckState::default());
                self.known.healthy = false;
                self.known.start_overdue = false;
                self.known.refused.clear();
                self.senses.start_afresh();
            }
            Body::RunsBlocked { on, .. } => self.known.blocked = Some(on.clone()),
            Body::Unblocked { .. } => {
                self.known.blocked = None;
                self.known.start_overdue = false;
                self.known.counters = Counters::default();
                self.known.last_failure = None;
                let failing = |check: &&mut CheckState| matches!(check, CheckState::Failing { .. });
                self.known.checks.iter_mut().filter(failing).for_each(|check| *check = CheckState::Unknown);
                self.senses.count_anew();
            }
            Body::Exited { .. } | Body::SpawnFailed { .. } => {
                self.known.process = None;
                self.known.blocked = None;
                self.known.stalled = None;
                self.known.checks.iter_mut().for_each(|check| *check = CheckState::default());
                self.known.healthy = false;
            }
            Body::OomKilled { kills, .. } => self.known.oom = Some((now, *kills)),
            Body::MemoryStalled { stall, .. } => self.known.stalled = Some((now, *stall)),
            Body::MemoryRelieved { .. } => self.known.stalled = None,
            Body::BackingOff { .. } => self.known.healthy = false,
            Body::Stopped { why } => {
                if matches!(why, Reason::Ordered { .. }) {
                    for part in Part::ALL {
                        let switch = self.known.generations[part].switch.as_ref().map(|switch| switch.id);
                        self.known.stopped_in[part] = switch;
                    }
                }
                self.known.healthy = false;
                self.known.outdated = None;
                // As systemd does: what a service leaves is for its next process, and none is wanted.
                self.known.stored.clear();
            }
            Body::DescriptorStored { index, name, watched, .. } => {
                let stored = Stored { id: record.id, index: *index, name: name.clone(), watched: *watched };
                self.known.stored.push(stored);
                self.known.stores_until = self.known.stores_until.max(now).after(STORES_EVERY);
            }
            Body::DescriptorRefused { why, .. } => self.known.refused.push(why.clone()),
            Body::DescriptorDropped { stored: id, .. } => self.known.stored.retain(|stored| stored.id != *id),
            Body::Traced { epoch, trace, after } => {
                self.known.counters.endings.traced(*epoch, trace.fingerprint, *after);
            }
            Body::CountersForgotten => self.forget_counters(),
            // Failures, delays and crash loops belong to the generation that runs.
            Body::Generation(_) | Body::Files(_) => {}
            Body::Paused { actor, until_boot_us, .. } => {
                self.known.paused = Some(Paused { actor: actor.clone(), until_boot_us: *until_boot_us });
            }
            Body::Resumed { .. } => {
                self.known.paused = None;
                self.forget_counters();
            }
            Body::Ordered { order, .. } => self.known.insist(order),
            Body::CheckFailed { check, failures, .. } => {
                if self.known.bad_since.is_none() {
                    self.known.bad_since = Some(self.last_pass(check).unwrap_or(now));
                }
                self.known.healthy = false;
                self.with_check(check, |state| *state = CheckState::Failing { failures: *failures });
            }
            Body::CheckPassed { check, .. } => {
                self.known.unproven.remove(check);
                self.known.failed_checks.remove(check);
                self.with_check(check, |state| *state = CheckState::Passing);
            }
            Body::BecameHealthy { .. } => {
                self.known.healthy = true;
                self.known.bad_since = None;
            }
            // One that the journal forgot is closed without ending another.
            Body::IncidentClosed { .. } => {
                self.known.incident.take_if(|open| Some(open.id) == record.incident);
            }
            Body::Violated { what } => self.known.violated = Some(what.clone()),
            Body::StopIntended { .. } | Body::KillIntended { .. } => {
                self.known.healthy = false;
                self.known.blocked = None;
                self.known.extended_until = None;
            }
            Body::BecameReady { .. } => self.senses.count_anew(),
            Body::RestartPlanned(_) => self.known.planned = Some(self.known.last_epoch),
            Body::HeartbeatPromised { within, .. } => {
                self.known.heartbeat_within = Some(*within);
                self.known.promises = self.known.promises.saturating_add(1);
            }
            Body::Extended { until, .. } => self.known.extended_until = Some(*until),
            Body::Began { .. }
            | Body::Reloaded(_)
            | Body::ReloadRefused { .. }
            | Body::CheckUnproven { .. }
            | Body::Unconfirmed { .. }
            | Body::Forgotten
            | Body::TookOver { .. }
            | Body::HostStalled { .. }
            | Body::Ending { .. }
            | Body::Blocked { .. }
            | Body::Dependency { .. }
            | Body::Decided(_)
            | Body::Blamed(_)
            | Body::NotItsFault { .. }
            | Body::Waits { .. }
            | Body::Unkillable { .. }
            | Body::TreeGone { .. }
            | Body::CarriedOut { .. }
            | Body::OrderNotDurable { .. }
            | Body::LedgerDegraded { .. }
            | Body::LedgerRecovered
            | Body::Output { .. }
            | Body::Examined { .. }
            | Body::HardwareTimer { .. }
            | Body::HardwareReset { .. }
            | Body::RebootDecided(_)
            | Body::RebootNotDurable { .. }
            | Body::OutputDropped { .. }
            | Body::FilesChanged { .. }
            | Body::ProbeLost { .. }
            | Body::ProbeUnable { .. } => {}
        }
        // While a probe that fails was awaited, nobody saw that it held.
        let unseen_us = if let Body::CheckFailed { took_us, .. } = &record.body { *took_us } else { 0 };
        let from = Monotonic::from_us(now.as_us().saturating_sub(unseen_us));
        self.resume_proofs(from);
        Ok(())
    }

    /// The checks that this failure is about: of a start that took too long, those that have not passed.
    pub(crate) fn failed_checks(&self, finding: &Finding) -> Vec<Name> {
        match finding {
            Finding::Check { check, .. } | Finding::NoHeartbeat { check, .. } => alloc::vec![check.clone()],
            Finding::StartTimeout { .. } => {
                let states = self.policy.checks.iter().zip(&self.known.checks);
                states
                    .filter(|(_, state)| **state != CheckState::Passing)
                    .map(|(policy, _)| policy.name.clone())
                    .collect()
            }
            Finding::Exit { .. } | Finding::Oom { .. } | Finding::Spawn { .. } | Finding::Unkillable { .. } => {
                Vec::new()
            }
        }
    }

    /// What holds proves itself `from` then on, if it does not already.
    pub(crate) fn resume_proofs(&mut self, from: Monotonic) {
        for part in Part::ALL {
            let holds = self.holds(part);
            self.known.generations[part].set_holds(holds, from);
        }
    }

    /// The parts of it that have generations.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Part> {
        let policy = self.policy.generations.as_ref();
        Part::ALL.into_iter().filter(move |part| policy.is_some_and(|policy| policy.has(*part)))
    }

    /// Whether no process may be made before its store has answered.
    pub(crate) fn awaits_store(&self) -> bool {
        let awaits = |known: &Generations| !known.is_known || known.awaits_store();
        let is_unsynced = |part| part == Part::Store && self.senses.undone.is_some();
        self.parts().any(|part| is_unsynced(part) || awaits(&self.known.generations[part]))
    }

    /// Whether an `after_rollback` has to run before anything is started.
    pub(crate) fn owes_undoing(&self) -> bool {
        self.known.generations.store.switch.as_ref().is_some_and(Switch::owes_undoing)
    }

    /// The switch whose `after_rollback` has to run before anything is started, and nobody was told yet. Not before its store was looked
    /// at: somebody may have switched since.
    pub(crate) fn undoing_due(&self) -> Option<&Switch> {
        let known = &self.known.generations.store;
        let is_due = known.is_known && !self.senses.unmatched.store;
        let switch = known.switch.as_ref().filter(|switch| is_due && switch.owes_undoing())?;
        (self.senses.undoing != Some(switch.id)).then_some(switch)
    }

    /// Whether a change of this part has to pass this check.
    pub(crate) fn proves(&self, part: Part, check: &CheckPolicy) -> bool {
        let switch = self.known.generations[part].on_probation();
        switch.is_none_or(|switch| !switch.intent.failed_before.contains(&check.name))
    }

    /// Whether its process is of what is switched to, and shows that it works: all checks pass but those that failed before.
    fn holds(&self, part: Part) -> bool {
        let known = &self.known;
        let Some(current) = &known.generations[part].current else { return false };
        let counts = |policy: &CheckPolicy| self.proves(part, policy);
        let mut checks = known.checks.iter().zip(&self.policy.checks).filter(|(_, policy)| counts(policy));
        matches!(known.phase, Phase::Running { .. })
            && known.runs[part].as_ref() == Some(current)
            && known.paused.is_none()
            && known.blocked.is_none()
            && checks.all(|(state, _)| *state == CheckState::Passing)
    }

    fn forget_counters(&mut self) {
        self.known.counters = Counters::default();
        self.known.last_failure = None;
    }

    /// The index of the check called `name`.
    pub(crate) fn check_index(&self, name: &Name) -> Option<usize> {
        self.policy.checks.iter().position(|check| check.name == *name)
    }

    /// Whether those that start after it may start: it runs and no check has failed as often as it may, or it ran to
    /// a good end.
    pub(crate) fn is_up(&self) -> bool {
        match &self.known.phase {
            Phase::Running { .. } => !self.fails(),
            Phase::Stopped { why } => *why == Reason::Finished,
            Phase::Down
            | Phase::Blocked { .. }
            | Phase::BackingOff { .. }
            | Phase::Held { .. }
            | Phase::Spawning { .. }
            | Phase::Starting { .. }
            | Phase::Stopping { .. }
            | Phase::Remains { .. } => false,
        }
    }

    /// Whether a check has failed as often as it may.
    fn fails(&self) -> bool {
        self.known.checks.iter().zip(&self.policy.checks).any(|(check, policy)| match check {
            CheckState::Failing { failures } => *failures >= policy.failures,
            CheckState::Unknown | CheckState::Passing => false,
        })
    }

    /// Whether all checks pass; a service without checks has none that fails.
    pub(crate) fn all_pass(&self) -> bool {
        self.known.checks.iter().all(|check| matches!(check, CheckState::Passing))
    }

    /// When a check last passed in this process's life.
    fn last_pass(&self, name: &Name) -> Option<Monotonic> {
        self.check_index(name).and_then(|index| self.senses.probes[index].last_pass)
    }

    fn with_check(&mut self, name: &Name, change: impl FnOnce(&mut CheckState)) {
        if let Some(index) = self.check_index(name) {
            change(&mut self.known.checks[index]);
        }
    }
}

impl Senses {
    /// What is counted in time begins anew with the next probes.
    fn count_anew(&mut self) {
        self.probes.iter_mut().for_each(|probing| probing.anew = true);
    }

    /// Forgets all that belongs to the process before.
    fn start_afresh(&mut self) {
        self.probes.iter_mut().for_each(|probing| *probing = crate::analyze::checks::Probing::default());
        self.status_text.clear();
        self.asked.clear();
        self.start_again = None;
        self.suspected = None;
        self.stall_told = None;
    }
}
