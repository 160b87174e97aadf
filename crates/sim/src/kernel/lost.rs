//! The loss of the guardian: what the init system kept of it, what the next one finds, and what becomes of the rest.

use super::{Around, Fact, Kernel};
use crate::fault::Fault;
use crate::rng::Rng;
use hale_core::event::{ExitStatus, Found, Life};
use hale_core::ids::{Epoch, Name};
use hale_core::world::World;
use hale_core::world::service::Service;
use std::collections::BTreeMap;

/// How a process ends that cannot tell its guardian that its set-up failed.
const NOT_SET_UP: ExitStatus = ExitStatus::Code(1);

impl Kernel {
    /// The guardian is gone. The init system was told of each process before the supervisor was, and of each that was
    /// acknowledged that it is over.
    pub fn lose_guardian(&mut self, around: &mut Around<'_>, dice: &mut Rng) {
        around.coverage.fault(Fault::GuardianDies);
        self.facts.push(Fact::GuardianDied);
        let now = around.timeline.now();
        for (service, epoch) in std::mem::take(&mut self.newest) {
            let is_kept = match self.tree(&service, epoch).filter(|tree| tree.main) {
                Some(tree) => {
                    tree.orphan = true;
                    let is_told = !tree.nobodys && (now >= tree.made_at + tree.fate.spawned_after || dice.chance(500));
                    tree.nobodys = !is_told;
                    is_told
                }
                None => match self.ends.get_mut(&service) {
                    Some((ended, life)) if *ended == epoch => {
                        let failed_later = |failure: &hale_core::event::SpawnFailure| failure.step != "fork";
                        match life {
                            Life::NotMade { failure } if failed_later(failure) => {
                                *life =
                                    Life::Ended { pid: 0, status: orphans_status(around, NOT_SET_UP), memory: None };
                                true
                            }
                            Life::Ended { status, .. } => {
                                *status = orphans_status(around, *status);
                                true
                            }
                            Life::NotMade { .. } | Life::Running { .. } | Life::Over => false,
                        }
                    }
                    Some(_) | None => false,
                },
            };
            if is_kept {
                self.newest.insert(service, epoch);
            } else {
                self.ends.remove(&service);
            }
        }
    }

    /// What is left of processes whose main one was reaped, as `world` knows: no new guardian does.
    pub fn left_behind(&mut self, world: &World) -> BTreeMap<Name, Found> {
        let mut over = BTreeMap::new();
        for (name, service) in world.services() {
            let Some(epoch) = service.left_behind() else { continue };
            let newest = self.newest.entry(name.clone()).or_insert(epoch);
            if *newest <= epoch && self.ends.get(name).is_none_or(|(ended, _)| *ended != epoch) {
                *newest = epoch;
                let found = Found { epoch, life: Life::Over, tree_empty: self.living(name) == 0 };
                over.insert(name.clone(), found);
            }
        }
        over
    }

    /// Before the first step of the supervisor of a new guardian: ends what this one does not have, and tells what is left
    /// of the processes that `world` has on record.
    pub fn end_unknown(&mut self, around: &mut Around<'_>, world: &World) -> BTreeMap<Name, Found> {
        let mut over = BTreeMap::new();
        for service in around.scenario.policy.services.keys() {
            let recorded = world.service(service).and_then(Service::epoch);
            let kept = self.newest.get(service).copied();
            let runs = kept.is_some_and(|kept| self.tree(service, kept).is_some_and(|tree| tree.main));
            let is_left = world.service(service).and_then(Service::left_behind).is_some();
            if runs || is_left || (kept.is_some() && kept == recorded) {
                continue;
            }
            let survives = self.end_all(around, service, recorded);
            if let Some(epoch) = recorded {
                over.insert(service.clone(), Found { epoch, life: Life::Over, tree_empty: !survives });
                if survives {
                    self.newest.insert(service.clone(), epoch);
                }
            }
        }
        over
    }

    /// Ends all that there is, and gives the highest number that was used: a supervisor without a journal begins anew, and
    /// not before everything is gone.
    pub fn end_everything(&mut self) -> Epoch {
        self.trees.clear();
        self.ends.clear();
        self.newest.values().copied().max().unwrap_or_default()
    }

    /// Kills all that there is of a service. What survives that belongs to `epoch` from now on: it is in the same group.
    fn end_all(&mut self, around: &mut Around<'_>, service: &Name, epoch: Option<Epoch>) -> bool {
        let now = around.timeline.now();
        let faults_over = around.faults_over();
        let trees = self.trees.entry(service.clone()).or_default();
        trees.retain(|tree| tree.lives() && tree.fate.survives_kill.is_some() && !faults_over);
        for tree in &mut *trees {
            around.coverage.fault(Fault::Uninterruptible);
            tree.epoch = epoch.unwrap_or(tree.epoch);
            (tree.killed, tree.nobodys) = (true, true);
            let at = super::dies_at(around.scenario, now, tree.fate.survives_kill);
            super::end_at(around.timeline, at, service, tree.epoch);
        }
        !trees.is_empty()
    }
}

/// What the next guardian learns of how a process ended that is not its child.
pub(super) fn orphans_status(around: &mut Around<'_>, status: ExitStatus) -> ExitStatus {
    if around.scenario.rates.of(Fault::StatusUnknown) == 0 {
        return status;
    }
    around.coverage.fault(Fault::StatusUnknown);
    ExitStatus::Unknown
}
