//! Knowledge: everything that the core knows, changed by records alone.

pub mod dependency;
pub(crate) mod hardware;
pub mod lateness;
pub mod pause;
pub mod phase;
mod reload;
mod restore;
pub mod service;

pub use restore::Snapshot;

use crate::event::EndWhy;
use crate::hardware::Timer;
use crate::ids::{EffectId, Epoch, IncidentId, Name, ProbeId, RecordId, RequestId};
use crate::plan::admission::Admission;
use crate::plan::order::Order;
use crate::policy::{Mode, Policy, PolicyHash};
use crate::record::{Actor, OperatorOrder};
use crate::safeswitch::{Generations, Part, Parts};
use crate::time::Monotonic;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use dependency::Dependency;
use hardware::Hardware;
use serde::{Deserialize, Serialize};
use service::Service;

/// What a supervisor begins with; policy and hash change with a reload, the rest does not.
#[derive(Debug, Clone)]
pub struct Birth {
    /// The policy in force.
    pub policy: Policy,
    /// Its hash.
    pub hash: PolicyHash,
    /// Seeds the jitter.
    pub seed: u64,
    /// The program's version.
    pub version: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// The guardian's name for itself.
    pub guardian: String,
    /// The first record gets this id: one more than any record of this host had before.
    pub first_record: RecordId,
    /// No process of a service gets a number up to this one: under the same guardian each is used once. 0, unless the
    /// journal of an earlier supervisor was lost.
    pub last_epoch: Epoch,
    /// Incidents that the ledger has open: those of a Hale before this one, and those that nobody remembers because the
    /// journal could not be written, are closed first.
    pub open_incidents: Vec<(Name, IncidentId)>,
    /// What the ledger knows of services' generations. Where there is a journal, it counts only as far as that could not be
    /// written.
    pub generations: BTreeMap<Name, Parts<Generations>>,
}

/// Everything that the core knows.
#[derive(Debug)]
pub struct World {
    pub(crate) birth: Birth,
    pub(crate) services: BTreeMap<Name, Service>,
    pub(crate) dependencies: BTreeMap<Name, Dependency>,
    pub(crate) order: Order,
    pub(crate) admission: Admission,
    pub(crate) ending: Option<EndWhy>,
    pub(crate) end_done: bool,
    pub(crate) ledger_error: Option<String>,
    pub(crate) hardware: Hardware,
    /// Services to be started as soon as the loop comes to it.
    pub(crate) to_start: VecDeque<Name>,
    /// Services to be looked at because something has changed that they start after.
    pub(crate) looks: BTreeSet<Name>,
    /// Services of which a failure waits for what a dependency says.
    pub(crate) askers: BTreeSet<Name>,
    /// Whether the host is suspected.
    pub(crate) suspicion: crate::step::blaming::Suspicion,
    /// A policy that was read and is not in force yet: its order waits for the disk.
    pub(crate) candidate: Option<(PolicyHash, Policy)>,
    /// Services that the policy does not have any more, and that are not gone yet.
    pub(crate) leaving: BTreeSet<Name>,
    /// Services that are to be started anew because of another policy ([`service::Known::outdated`]).
    pub(crate) outdated: BTreeSet<Name>,
    /// How many were on their way up at the last reload, or when this supervisor took over: a lower limit takes no place away.
    pub(crate) places_taken_up: usize,
    /// Those of [`to_start`](Self::to_start) that a reload has added.
    pub(crate) added: BTreeSet<Name>,
    /// Orders whose record is not durable yet.
    pub(crate) pending: BTreeMap<RecordId, Pending>,
    /// Records of switches that must be durable before anything follows from them, and whose they are.
    pub(crate) intended: BTreeMap<RecordId, (Name, Part)>,
    pub(crate) next_record: RecordId,
    pub(crate) next_probe: ProbeId,
    pub(crate) next_effect: EffectId,
    timers: Timers<Monotonic>,
    /// When pauses end ([`crate::time::Now::boot_us`]).
    pauses: Timers<u64>,
    /// How far that clock is ahead of the monotonic one.
    suspended_us: u64,
    /// When the loop looked last.
    last_step: Option<Monotonic>,
}

/// An order that waits for its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    pub(crate) since: Monotonic,
    pub(crate) request: RequestId,
    pub(crate) actor: Actor,
    pub(crate) order: OperatorOrder,
    /// Whether the client wants to hear of its end.
    pub(crate) waits: bool,
}

impl World {
    /// A world in which nothing was started yet.
    #[must_use]
    pub fn new(birth: Birth) -> Self {
        let services = birth
            .policy
            .services
            .iter()
            .map(|(name, policy)| (name.clone(), Service::new(policy.clone(), birth.last_epoch)));
        let dependencies = birth.policy.dependencies.iter();
        let dependencies = dependencies.map(|(name, policy)| (name.clone(), Dependency::new(policy.clone())));
        Self {
            services: services.collect(),
            dependencies: dependencies.collect(),
            order: Order::new(birth.policy.services.iter().map(|(name, service)| (name, &**service))),
            admission: Admission::default(),
            ending: None,
            end_done: false,
            ledger_error: None,
            hardware: Hardware::default(),
            to_start: VecDeque::new(),
            looks: BTreeSet::new(),
            askers: BTreeSet::new(),
            suspicion: crate::step::blaming::Suspicion::default(),
            candidate: None,
            leaving: BTreeSet::new(),
            outdated: BTreeSet::new(),
            places_taken_up: 0,
            added: BTreeSet::new(),
            pending: BTreeMap::new(),
            intended: BTreeMap::new(),
            next_record: birth.first_record,
            next_probe: ProbeId(1),
            next_effect: EffectId(1),
            timers: Timers::default(),
            pauses: Timers::default(),
            suspended_us: 0,
            last_step: None,
            birth,
        }
    }

    /// When [`crate::event::Event::Tick`] is due; `None`: not before another event.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Monotonic> {
        if !(self.to_start.is_empty() && self.looks.is_empty()) {
            return Some(Monotonic::default());
        }
        let order = self.pending.values().next().map(|pending| pending.since.after(crate::step::DURABLE_WITHIN));
        self.timers.first().into_iter().chain(order).chain(self.hardware.deadline()).chain(self.pause_deadline()).min()
    }

    /// Whether a service may be stopped at the end of everything: all that start after it are.
    pub(crate) fn may_end(&self, name: &Name) -> bool {
        self.order.behind(name).iter().all(|behind| self.services.get(behind).is_none_or(Service::is_over))
    }

    /// Whether everything is being ended.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.birth.policy
    }

    /// Its hash.
    #[must_use]
    pub fn policy_hash(&self) -> &PolicyHash {
        &self.birth.hash
    }

    /// Whether the order of a reload waits for its record.
    #[must_use]
    pub fn awaits_reload(&self) -> bool {
        self.pending.values().any(|pending| matches!(pending.order, OperatorOrder::Reload { .. }))
    }

    /// Whether Hale acts.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.birth.policy.host.mode
    }

    /// Why the ledger cannot be written, if it cannot.
    #[must_use]
    pub fn ledger_error(&self) -> Option<&str> {
        self.ledger_error.as_deref()
    }

    /// What the guardian says of the hardware timer; `None`: nothing, as where none is configured.
    #[must_use]
    pub fn timer(&self) -> Option<&Timer> {
        self.hardware.timer.as_ref()
    }

    /// One service.
    #[must_use]
    pub fn service(&self, name: &Name) -> Option<&Service> {
        self.services.get(name)
    }

    /// All services, in the order of their names.
    pub fn services(&self) -> impl Iterator<Item = (&Name, &Service)> {
        self.services.iter()
    }

    /// Services that are on their way up again after a failure.
    #[must_use]
    pub fn restarts_in_flight(&self) -> usize {
        self.admission.in_flight()
    }

    /// Sets the timer of one service, or of one dependency, to its own deadline.
    pub(crate) fn reschedule(&mut self, name: &Name) {
        let waits = self.admission.waits(name);
        let deadline = match self.services.get(name) {
            Some(service) => service.deadline().filter(|_| !waits),
            None => self.dependencies.get(name).and_then(Dependency::deadline).filter(|_| self.ending.is_none()),
        };
        self.timers.set(name, deadline);
        let pause = self.services.get(name).and_then(|service| service.known.paused.as_ref());
        let ends = pause.map(|paused| paused.until_boot_us).filter(|_| self.ending.is_none());
        self.pauses.set(name, ends);
    }

    /// The services and dependencies whose timers are due, earliest first, at most `most`.
    pub(crate) fn due(&self, now: Monotonic, most: usize) -> Vec<Name> {
        self.timers.due(now).take(most).cloned().collect()
    }
}

/// One timer for each service that has a deadline, on the clock whose points are `At`.
#[derive(Debug, Default)]
struct Timers<At> {
    by_time: BTreeSet<(At, Name)>,
    by_name: BTreeMap<Name, At>,
}

impl<At: Copy + Ord> Timers<At> {
    fn set(&mut self, name: &Name, at: Option<At>) {
        if self.by_name.get(name).copied() == at {
            return;
        }
        if let Some(old) = self.by_name.remove(name) {
            self.by_time.remove(&(old, name.clone()));
        }
        if let Some(at) = at {
            self.by_name.insert(name.clone(), at);
            self.by_time.insert((at, name.clone()));
        }
    }

    fn first(&self) -> Option<At> {
        self.by_time.first().map(|(at, _)| *at)
    }

    fn due(&self, now: At) -> impl Iterator<Item = &Name> {
        self.by_time.iter().take_while(move |(at, _)| *at <= now).map(|(_, name)| name)
    }
}
