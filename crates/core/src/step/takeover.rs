//! Taking over: what the journal says of each service is held against what the guardian has of it, and whatever was
//! interrupted between the two goes on.

use super::Brain;
use crate::analyze::checks::CheckState;
use crate::effect::Order;
use crate::event::{Found, Life, Lost, Process, SpawnFailure};
use crate::ids::{Epoch, Name};
use crate::record::{Body, CORE_VERSION};
use crate::world::phase::{Phase, StopStage};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

impl Brain<'_> {
    /// The first step of a supervisor whose world was restored: no service notices it.
    ///
    /// Records were written before their effects, so an effect of the last step may have happened or not. Each kind is
    /// done again only where that does no harm: a process is ordered again only if the guardian never heard of it; signals
    /// are sent again, since asked twice is better than killed unasked; kills and acknowledgements are idempotent.
    pub(super) fn take_over(&mut self, lost: Lost, found: &BTreeMap<Name, Found>) {
        let birth = &self.world.birth;
        let living = |found: &&Found| matches!(found.life, Life::Running { .. });
        let took_over = Body::TookOver {
            version: birth.version.clone(),
            core: CORE_VERSION,
            policy: birth.hash.clone(),
            lost,
            processes: u32::try_from(found.values().filter(living).count()).unwrap_or(u32::MAX),
        };
        self.record_in(None, None, took_over);
        let names: Vec<Name> = self.world.services.keys().cloned().collect();
        self.readmit(&names);
        // Those that were never started are started as at a beginning.
        let never = |name: &&Name| self.known(name).phase == Phase::Down && self.world.ending.is_none();
        self.world.to_start = names.iter().filter(never).cloned().collect();
        let before: Vec<Phase> = names.iter().map(|name| self.phase(name)).collect();
        for (name, before) in names.iter().zip(&before) {
            self.touched.insert(name.clone());
            self.resume_probes(name);
            // One of those before it in this loop may have started it just now.
            if self.phase(name) == *before {
                self.reconcile(name, found.get(name));
            }
        }
        if self.world.ending.is_some() {
            names.iter().for_each(|name| self.end_service(name));
            self.end_if_done();
        }
    }

    /// Gives back the places among `restarts_in_flight` to those that had one.
    fn readmit(&mut self, names: &[Name]) {
        let limit = self.world.birth.policy.host.restarts_in_flight;
        for name in names {
            let known = self.known(name);
            let on_its_way = matches!(known.phase, Phase::Spawning { .. } | Phase::Starting { .. });
            if on_its_way && known.counters.failures > 0 && !known.start_overdue {
                let now = self.now();
                self.world.admission.admit(name, now, limit);
            }
        }
    }

    /// Probes begin anew: in their usual pace where the check has passed or failed in this process's life, else quickly.
    fn resume_probes(&mut self, name: &Name) {
        let now = self.now();
        let Some(service) = self.world.services.get_mut(name) else { return };
        let (known, policy) = (&service.known, &service.policy);
        if known.phase.run().is_none() {
            return;
        }
        for ((check, state), probing) in policy.checks.iter().zip(&known.checks).zip(&mut service.senses.probes) {
            match state {
                CheckState::Unknown => probing.begin(check, now),
                // It worked when the one before looked last, and nothing says that it did not since.
                CheckState::Passing => probing.resume(name, check, now, now),
                CheckState::Failing { .. } => probing.resume(name, check, known.bad_since.unwrap_or(now), now),
            }
        }
        if matches!(known.phase, Phase::Running { .. }) {
            self.await_heartbeats(name, now);
        }
    }

    fn reconcile(&mut self, name: &Name, found: Option<&Found>) {
        let phase = self.phase(name);
        let Some(epoch) = phase.epoch() else {
            // Its end is on record, and perhaps not acknowledged.
            if let Some(Found { epoch, life: Life::Ended { .. } | Life::NotMade { .. }, .. }) = found {
                self.effect(name, *epoch, Order::AckExit);
            }
            return;
        };
        match found {
            Some(found) if found.epoch == epoch => self.go_on(name, epoch, &phase, found),
            // The order that the record announces was never sent.
            _ => self.order_again(name, epoch, &phase),
        }
    }

    /// The guardian knows this process.
    fn go_on(&mut self, name: &Name, epoch: Epoch, phase: &Phase, found: &Found) {
        let unseen = self.known(name).process.is_none();
        let main_gone = matches!(phase, Phase::Stopping { main_gone: true, .. } | Phase::Remains { .. });
        match &found.life {
            Life::NotMade { failure } if !main_gone => return self.spawn_failed(name, epoch, failure.clone()),
            Life::Running { process, executed } => {
                if unseen {
                    self.spawned(name, epoch, process.clone());
                } else {
                    self.stop_again(name, epoch, phase);
                }
                if *executed {
                    self.executed(name, epoch);
                }
                return;
            }
            Life::Ended { pid, status, memory } if !main_gone => {
                if unseen && matches!(phase, Phase::Spawning { .. }) {
                    let process = Process { pid: *pid, start_ticks: 0, pidfd_inode: 0, cgroup: None };
                    self.record(name, Body::Spawned { epoch, process });
                    self.executed(name, epoch);
                }
                return self.exited(name, epoch, *status, found.tree_empty, *memory);
            }
            Life::Ended { .. } | Life::NotMade { .. } => self.effect(name, epoch, Order::AckExit),
            Life::Over if !main_gone => return self.vanished(name, epoch, found.tree_empty),
            Life::Over => {}
        }
        if found.tree_empty {
            self.tree_empty(name, epoch);
        } else {
            self.stop_again(name, epoch, phase);
        }
    }

    /// Sends again what ends the tree, if it is being ended; from then on its end is reported.
    fn stop_again(&mut self, name: &Name, epoch: Epoch, phase: &Phase) {
        match phase {
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
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::Remains { .. } => {}
        }
    }

    /// The guardian does not know this process: it was announced and not ordered.
    fn order_again(&mut self, name: &Name, epoch: Epoch, phase: &Phase) {
        match phase {
            Phase::Spawning { .. } => {
                let policy = self.policy(name);
                self.effect(name, epoch, Order::Spawn { policy });
            }
            Phase::Stopping { main_gone: false, .. } if self.known(name).process.is_none() => {
                let failure = SpawnFailure {
                    step: String::from("order"),
                    path: String::new(),
                    errno: 0,
                    error: String::from("it was to be stopped before it was ordered"),
                };
                self.spawn_failed(name, epoch, failure);
            }
            Phase::Stopped { .. }
            | Phase::Down
            | Phase::Blocked { .. }
            | Phase::BackingOff { .. }
            | Phase::Held { .. }
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::Stopping { .. }
            | Phase::Remains { .. } => self.vanished(name, epoch, true),
        }
    }

    /// The journal knows a process that the guardian has not: one of them is wrong, so nothing is started beside it.
    fn vanished(&mut self, name: &Name, epoch: Epoch, tree_empty: bool) {
        let what =
            format!("process {epoch} is on record, and the guardian does not have it (tree empty: {tree_empty})");
        self.violated(name, what);
    }
}
