//! Asking first: before a failing check of a service leads to anything, the dependencies of the service are probed. When one
//! of them has just died, the service often sees it before Hale does, and must not be restarted for it.

use super::Brain;
use crate::ids::{Epoch, Name};
use crate::incident::Cause;
use crate::policy::Mode;
use crate::record::{Body, Finding};
use crate::time::{Monotonic, Span};
use crate::world::service::Service;
use alloc::vec::Vec;

/// How long healing waits at most for dependencies that answer neither well nor badly enough. The usual time-out of three
/// probes, and a little; a service that is really broken is not kept from its restart for longer.
pub const ASK_WITHIN: Span = Span::from_secs(5);

/// The pause before a dependency is asked again that has failed, and not often enough to be down: short enough that three
/// failures fit into [`ASK_WITHIN`] many times, and long enough that one hiccup is not counted three times.
pub const ASK_AGAIN_AFTER: Span = Span::from_ms(200);

/// A failure that waits for what the dependencies say.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    check: usize,
    epoch: Epoch,
    since: Monotonic,
    failed: Body,
    cause: Cause,
    finding: Finding,
}

impl Service {
    /// When the first of the failures that wait for an answer waits no more.
    pub(crate) fn asked_until(&self) -> Option<Monotonic> {
        self.senses.asked.iter().map(|asked| asked.since.after(ASK_WITHIN)).min()
    }
}

impl Brain<'_> {
    /// A check reached its `failures`: records that and acts on it, or asks the dependencies first.
    pub(super) fn check_failed(&mut self, name: &Name, check: usize, failed: Body, cause: Cause, finding: Finding) {
        let Some(run) = self.known(name).phase.run() else { return };
        let asked = Asked { check, epoch: run.epoch, since: self.now(), failed, cause, finding };
        if self.world.mode() == Mode::Observe || self.blocked_by(name).is_some() || !self.hasten_dependencies(name) {
            self.act_on(name, &asked);
        } else if let Some(service) = self.service_mut(name)
            && !service.senses.asked.iter().any(|earlier| earlier.check == check)
        {
            service.senses.asked.push(asked);
            self.world.askers.insert(name.clone());
        }
    }

    fn act_on(&mut self, name: &Name, asked: &Asked) {
        if self.record(name, asked.failed.clone()) {
            self.failed(name, asked.cause, &asked.finding);
        }
    }

    /// A check passed: nothing of it waits any more.
    pub(super) fn forget_asked(&mut self, name: &Name, check: usize) {
        if let Some(service) = self.service_mut(name) {
            service.senses.asked.retain(|asked| asked.check != check);
        }
    }

    /// Probes the dependencies of a service now, unless they are known to be down. `false`: it has none of those.
    pub(super) fn hasten_dependencies(&mut self, name: &Name) -> bool {
        let now = self.now();
        let policy = self.policy(name);
        let mut any = false;
        for on in &policy.after {
            if self.world.is_down(on) {
                continue;
            }
            let Some(dependency) = self.world.dependencies.get_mut(on) else { continue };
            any = true;
            dependency.hasten(now);
            self.touched.insert(on.clone());
        }
        any
    }

    /// A dependency has answered, or can not: goes on with the failures that waited for it.
    pub(super) fn answer_askers(&mut self, dependency: &Name) {
        let asks = |name: &&Name| self.policy(name).after.contains(dependency);
        let askers: Vec<Name> = self.world.askers.iter().filter(asks).cloned().collect();
        for name in askers {
            self.touched.insert(name.clone());
            self.answer(&name);
        }
    }

    /// Goes on with failures that have waited for as long as they may, whatever the dependencies do.
    pub(super) fn asked_due(&mut self, name: &Name) {
        if self.world.services[name].asked_until().is_some_and(|until| until <= self.now()) {
            self.answer(name);
        }
    }

    fn answer(&mut self, name: &Name) {
        let now = self.now();
        let policy = self.policy(name);
        let Some(service) = self.service_mut(name) else { return };
        let waiting = core::mem::take(&mut service.senses.asked);
        let mut left = Vec::new();
        for asked in waiting {
            if self.known(name).phase.run().is_none_or(|run| run.epoch != asked.epoch) {
                continue;
            }
            let of = |on| self.world.dependencies.get(on);
            let is_clear = policy.after.iter().filter_map(of).all(|dependency| dependency.is_clear_since(asked.since));
            if is_clear || self.blocked_by(name).is_some() || now >= asked.since.after(ASK_WITHIN) {
                self.act_on(name, &asked);
            } else {
                left.push(asked);
            }
        }
        if left.is_empty() {
            self.world.askers.remove(name);
        } else {
            for on in &policy.after {
                if let Some(dependency) = self.world.dependencies.get_mut(on) {
                    dependency.hasten(now.after(ASK_AGAIN_AFTER));
                    self.touched.insert(on.clone());
                }
            }
        }
        if let Some(service) = self.service_mut(name) {
            service.senses.asked = left;
        }
    }
}
