//! Another policy: what it makes of the world, as a step does it and as a supervisor does it again that takes over.

use super::dependency::Dependency;
use super::phase::Phase;
use super::service::{Place, Service};
use super::{Order, World};
use crate::analyze::checks::{CheckState, Probing};
use crate::ids::Name;
use crate::policy::change::{changes_readiness, needs_other_process};
use crate::policy::{CheckPolicy, Mode, PolicyHash, ServicePolicy, StoreKind};
use crate::reason::Reason;
use crate::safeswitch::{Generations, Part, Parts};
use alloc::string::String;
use alloc::sync::Arc;
use core::mem;

impl World {
    /// Puts the policy in force that was read last, if it is this one; `false` if not. What follows from it is left to the
    /// step.
    pub(crate) fn take_up(&mut self, hash: &PolicyHash) -> bool {
        let Some((hash, policy)) = self.candidate.take_if(|(read, _)| read == hash) else { return false };
        let old = mem::replace(&mut self.birth.policy, policy);
        self.birth.hash = hash;
        self.places_taken_up = self.restarts_in_flight();
        let new = &self.birth.policy;
        let heals_again = old.host.mode == Mode::Observe && new.host.mode == Mode::Heal;
        for (name, policy) in &new.services {
            match self.services.get_mut(name) {
                Some(service) => {
                    let kept = self.birth.generations.entry(name.clone()).or_default();
                    service.take_up(policy, heals_again, kept);
                    if service.known.outdated.is_some() {
                        self.outdated.insert(name.clone());
                    }
                }
                None => _ = self.services.insert(name.clone(), Service::new(policy.clone(), self.birth.last_epoch)),
            }
        }
        self.leaving = self.services.keys().filter(|name| !new.services.contains_key(*name)).cloned().collect();
        self.take_up_dependencies();
        self.order_anew();
        true
    }

    /// Those whose checks are others are looked at as if they were new.
    fn take_up_dependencies(&mut self) {
        let new = &self.birth.policy.dependencies;
        self.dependencies.retain(|name, dependency| new.get(name) == Some(&dependency.policy));
        for (name, policy) in new {
            self.dependencies.entry(name.clone()).or_insert_with(|| Dependency::new(policy.clone()));
        }
    }

    /// Reads anew who starts after whom, of those that are leaving too.
    pub(super) fn order_anew(&mut self) {
        self.order = Order::new(self.services.iter().map(|(name, service)| (name, &*service.policy)));
    }

    /// Forgets a service that has left.
    pub(crate) fn forget(&mut self, name: &Name) {
        let Some(service) = self.services.remove(name) else { return };
        self.birth.last_epoch = self.birth.last_epoch.max(service.known.last_epoch);
        // A reload may bring it back: it has its releases still, and what failed has failed.
        let kept = self.birth.generations.entry(name.clone()).or_default();
        for part in service.parts() {
            kept[part].clone_from(&service.known.generations[part]);
        }
        self.leaving.remove(name);
        self.outdated.remove(name);
        self.looks.remove(name);
        self.askers.remove(name);
        self.to_start.retain(|queued| queued != name);
        self.added.remove(name);
        self.admission.leave(name);
        self.order_anew();
    }
}

impl Service {
    /// Whether what it would run is in a release, and there is none.
    pub(crate) fn needs_release(&self) -> bool {
        let policy = &self.policy;
        let is_release = policy.generations.as_ref().is_some_and(|policy| policy.store == StoreKind::Release);
        let program = policy.command.first().map(String::as_str).unwrap_or_default();
        let is_in_it = policy.directory.is_none() || (program.contains('/') && !program.starts_with('/'));
        is_release && is_in_it && self.known.generations.store.current.is_none()
    }

    fn take_up(&mut self, policy: &Arc<ServicePolicy>, heals_again: bool, kept: &mut Parts<Generations>) {
        let old = mem::replace(&mut self.policy, policy.clone());
        if old.checks != policy.checks {
            self.take_up_checks(&old);
        }
        self.known.counters.keep(policy.restart.crash_loop);
        self.take_up_generations(&old, kept);
        let outdated = self.known.outdated.take();
        let was_outdated = outdated.is_some();
        // Changed back, it is what it runs by.
        let runs_by = outdated.unwrap_or(old);
        let is_other = needs_other_process(&runs_by, policy);
        let is_outdated = match &self.known.phase {
            Phase::Spawning { .. } | Phase::Starting { .. } => is_other || changes_readiness(&runs_by, policy),
            Phase::Running { .. } | Phase::BackingOff { .. } | Phase::Held { .. } => is_other,
            // It would run if Hale had not only watched.
            Phase::Stopped { why } if *why == Reason::ObserveMode => heals_again || was_outdated,
            // It would run if it had not waited for what it does not need any more.
            Phase::Stopped { why } => *why == Reason::NoReleaseYet && !self.needs_release(),
            Phase::Stopping { .. } => was_outdated,
            Phase::Down | Phase::Blocked { .. } | Phase::Remains { .. } => false,
        };
        self.known.outdated = is_outdated.then_some(runs_by);
        if heals_again {
            self.known.planned = None;
        }
    }

    /// What is known of a part whose generations are elsewhere now is known of nothing that is there. Of one that has none for a while it
    /// is kept: they may come back.
    fn take_up_generations(&mut self, old: &ServicePolicy, kept: &mut Parts<Generations>) {
        let place = |policy: &ServicePolicy, part: Part| -> Option<Place> {
            let policy = policy.generations.as_ref().filter(|policy| policy.has(part))?;
            Some(match part {
                Part::Store => Place::Store(policy.store.clone()),
                Part::Files => Place::Files(policy.files.clone()),
            })
        };
        for part in Part::ALL {
            let (before, now) = (place(old, part), place(&self.policy, part));
            if before == now {
                continue;
            }
            let known = mem::take(&mut self.known.generations[part]);
            let was_kept = mem::take(&mut kept[part]);
            let left = self.senses.left[part].take();
            if now.is_none() {
                kept[part] = known.rest();
                self.senses.left[part] = before;
            } else if before.is_none() && (left.is_none() || left == now) {
                let mut known = was_kept.rest();
                if self.known.phase.run().is_some() {
                    // Somebody has started it meanwhile.
                    known.unknown_data = None;
                }
                self.known.generations[part] = known;
            }
            self.senses.look_until[part] = None;
        }
    }

    /// A check that looks at the same thing keeps all that is known of it. Of another one nothing is known, and while this
    /// process runs it counts only once it has passed, unless the one of its name before it failed already: what is wrong may
    /// be the check.
    fn take_up_checks(&mut self, old: &ServicePolicy) {
        let (known, senses) = (&mut self.known, &mut self.senses);
        let (states, mut probes) = (mem::take(&mut known.checks), mem::take(&mut senses.probes));
        let has_process = known.phase.epoch().is_some();
        for check in &self.policy.checks {
            let is_it = |before: &CheckPolicy| before.name == check.name && before.kind == check.kind;
            if let Some(index) = old.checks.iter().position(is_it) {
                known.checks.push(by_other_bounds(states[index], &old.checks[index], check));
                senses.probes.push(mem::take(&mut probes[index]));
                continue;
            }
            known.checks.push(CheckState::Unknown);
            senses.probes.push(Probing { anew: true, ..Probing::default() });
            let before = old.checks.iter().position(|before| before.name == check.name).map(|index| states[index]);
            if has_process && !matches!(before, Some(CheckState::Failing { .. })) {
                known.unproven.insert(check.name.clone());
            }
        }
        known.unproven.retain(|name| self.policy.checks.iter().any(|check| check.name == *name));
        known.healthy &= known.checks.iter().all(|check| *check == CheckState::Passing);
        // The failures that waited for an answer come again, by the checks that there are now.
        senses.asked.clear();
    }
}

/// Where a check stands that looks at the same thing and may fail more or less often.
fn by_other_bounds(state: CheckState, old: &CheckPolicy, new: &CheckPolicy) -> CheckState {
    match state {
        CheckState::Unknown | CheckState::Passing => state,
        CheckState::Failing { failures } if failures >= old.failures => CheckState::Failing { failures: new.failures },
        // The next failure is the last one at the latest.
        CheckState::Failing { failures } => match failures.min(new.failures - 1) {
            0 => CheckState::Unknown,
            failures => CheckState::Failing { failures },
        },
    }
}
