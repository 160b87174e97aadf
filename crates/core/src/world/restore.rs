//! A world made of what records have said: what a supervisor begins with that takes over from another one.

use super::{Birth, Pending, World};
use crate::event::{EndWhy, Process};
use crate::ids::{Epoch, Name, RecordId, RequestId};
use crate::policy::{Policy, PolicyHash, ServicePolicy};
use crate::record::{Body, Record};
use crate::safeswitch::{Generations, Part, Parts, Stage};
use crate::world::dependency::{self, Dependency};
use crate::world::service::{Known, Service};
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::mem;
use serde::{Deserialize, Serialize};

/// Nobody waits for the answer: the client was connected to the supervisor that is gone. No client has this number.
const NOBODY: RequestId = RequestId(0);

/// What records have made of the world, for a journal that would grow without end otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The next record gets this id.
    pub next_record: RecordId,
    /// The policy in force.
    pub policy: PolicyHash,
    /// The guardian under which it was taken.
    pub guardian: String,
    seed: u64,
    services: BTreeMap<Name, Known>,
    ending: Option<EndWhy>,
    ledger_error: Option<String>,
    pending: BTreeMap<RecordId, Pending>,
    #[serde(default)]
    dependencies: BTreeMap<Name, dependency::Known>,
    /// Those that the policy does not have any more, by what they were started by.
    #[serde(default)]
    leaving: BTreeMap<Name, Arc<ServicePolicy>>,
    #[serde(default)]
    last_epoch: Epoch,
    /// Of services that the policy does not have any more.
    #[serde(default)]
    generations: BTreeMap<Name, Parts<Generations>>,
}

impl Snapshot {
    /// The processes that ran when it was taken.
    pub fn processes(&self) -> impl Iterator<Item = (&Name, &Process)> {
        self.services.iter().filter_map(|(name, known)| known.process.as_ref().map(|process| (name, process)))
    }
}

/// The record of a switch that must be durable before anything follows from it.
fn awaits_disk<'a>((name, service): (&'a Name, &'a Service)) -> impl Iterator<Item = (RecordId, (Name, Part))> + 'a {
    let record = |part| Some((awaited(&service.known.generations[part])?, (name.clone(), part)));
    Part::ALL.into_iter().filter_map(record)
}

fn awaited(known: &Generations) -> Option<RecordId> {
    let switch = known.switch.as_ref()?;
    match switch.stage {
        Stage::Intended { .. } => Some(switch.id),
        Stage::Prepared { prepared, .. } => Some(prepared),
        Stage::Committing { proved, told: false, .. } => Some(proved),
        Stage::Validating { .. } => switch.undone,
        Stage::Switching | Stage::Probation { .. } | Stage::Committing { .. } | Stage::GoingBack { .. } => None,
    }
}

impl World {
    /// What records have made of the world so far.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let known = |(name, service): (&Name, &Service)| (name.clone(), service.known.clone());
        let leaving = |name: &Name| self.services.get(name).map(|service| (name.clone(), service.policy.clone()));
        let of_dependency = |(name, of): (&Name, &Dependency)| (name.clone(), of.known);
        Snapshot {
            next_record: self.next_record,
            policy: self.birth.hash.clone(),
            guardian: self.birth.guardian.clone(),
            seed: self.birth.seed,
            services: self.services.iter().map(known).collect(),
            ending: self.ending,
            ledger_error: self.ledger_error.clone(),
            pending: self.pending.clone(),
            dependencies: self.dependencies.iter().map(of_dependency).collect(),
            leaving: self.leaving.iter().filter_map(leaving).collect(),
            last_epoch: self.birth.last_epoch,
            generations: self.birth.generations.clone(),
        }
    }

    /// The world as a supervisor left it that wrote `snapshot`, if it wrote one, and `records` after it. `birth` must have
    /// the policy that was in force at its beginning, `candidate` is the one that was read since, if one was; the seed is
    /// taken from what was written. To be followed by [`crate::event::Event::TakeOver`].
    ///
    /// What was only sensed is lost with the one who sensed it: results of probes that made no edge, the clients
    /// who wait for an answer, and `STATUS=`, which the host has kept and gives again.
    #[must_use]
    pub fn restore(
        birth: Birth,
        candidate: Option<(PolicyHash, Policy)>,
        snapshot: Option<Snapshot>,
        records: impl IntoIterator<Item = Record>,
    ) -> Self {
        let mut birth = birth;
        let in_ledger = mem::take(&mut birth.generations);
        let mut world = Self::new(birth);
        world.candidate = candidate;
        if let Some(snapshot) = snapshot {
            world.next_record = snapshot.next_record;
            world.birth.seed = snapshot.seed;
            world.ending = snapshot.ending;
            world.ledger_error = snapshot.ledger_error;
            world.pending = snapshot.pending;
            world.birth.last_epoch = world.birth.last_epoch.max(snapshot.last_epoch);
            world.birth.generations = snapshot.generations;
            for (name, policy) in snapshot.leaving {
                world.leaving.insert(name.clone());
                world.services.insert(name, Service::new(policy, Epoch(0)));
            }
            world.order_anew();
            for (name, known) in snapshot.services {
                if let Some(service) = world.services.get_mut(&name) {
                    if known.outdated.is_some() {
                        world.outdated.insert(name);
                    }
                    service.known = known;
                }
            }
            for (name, known) in snapshot.dependencies {
                if let Some(dependency) = world.dependencies.get_mut(&name) {
                    dependency.known = known;
                }
            }
        }
        for record in records {
            world.replay(&record);
        }
        // The ledger may know newer ones, if the journal could not be written at the end: then it knows what was switched, too.
        if world.next_record < world.birth.first_record {
            for (name, known) in in_ledger {
                match world.services.get_mut(&name) {
                    Some(service) => service.known.take_from_ledger(known, world.next_record),
                    None => drop(world.birth.generations.insert(name, known)),
                }
            }
        }
        world.next_record = world.next_record.max(world.birth.first_record);
        world.intended = world.services.iter().flat_map(awaits_disk).collect();
        world.pending.values_mut().for_each(|pending| pending.request = NOBODY);
        world
    }

    /// Takes a record as the step took it that wrote it.
    #[expect(clippy::wildcard_enum_match_arm, reason = "few records are about more than their service")]
    fn replay(&mut self, record: &Record) {
        self.next_record = record.id.next();
        match &record.body {
            Body::Began { seed, .. } => self.birth.seed = *seed,
            Body::Ending { why } => self.ending = Some(*why),
            Body::LedgerDegraded { error } => self.ledger_error = Some(error.clone()),
            Body::LedgerRecovered => self.ledger_error = None,
            Body::Dependency { name, edge } => {
                if let Some(dependency) = self.dependencies.get_mut(name) {
                    dependency.apply(record.at.mono, edge);
                }
            }
            Body::Ordered { actor, order, .. } => {
                let (actor, order) = (actor.clone(), order.clone());
                let pending = Pending { since: record.at.mono, request: NOBODY, actor, order, waits: false };
                self.pending.insert(record.id, pending);
            }
            Body::CarriedOut { ordered } | Body::OrderNotDurable { ordered, .. } => {
                self.pending.remove(ordered);
            }
            Body::TookOver { .. } => self.resume_proofs(record.at.mono),
            Body::HostStalled { late, .. } => self.credit(*late),
            Body::Reloaded(reload) if !self.take_up(&reload.to) => {
                // What follows was written by a policy that is lost: only watching is safe.
                for service in self.services.values_mut() {
                    service.known.violated.get_or_insert_with(|| String::from("the policy of a reload is lost"));
                }
            }
            _ => {}
        }
        let Some(service) = record.service.as_ref().and_then(|name| self.services.get_mut(name)) else { return };
        if let Err(illegal) = service.apply(record) {
            // It was legal when it was written: something is missing before it, and only watching is safe.
            service.known.violated.get_or_insert_with(|| illegal.to_string());
        }
        if record.body == Body::Forgotten
            && let Some(name) = &record.service
        {
            self.forget(name);
        }
    }
}
