//! Blocking: while something that a service starts after is down, the service is left as it is, whatever it does; once
//! that is up again, its failures are forgotten and it is healed as any other.

use super::{Brain, SERVICES_PER_STEP};
use crate::ids::Name;
use crate::incident::Cause;
use crate::reason::Reason;
use crate::record::Body;
use crate::world::World;
use crate::world::dependency::Standing;
use crate::world::phase::{Phase, Then};

impl World {
    /// Whether those that start after it may start: a service that runs and does not fail, or that ran to a good end; a
    /// dependency that is there.
    pub(crate) fn is_up(&self, name: &Name) -> bool {
        match (self.services.get(name), self.dependencies.get(name)) {
            (Some(service), _) => service.is_up(),
            (None, Some(dependency)) => dependency.known.standing == Standing::Up,
            (None, None) => false,
        }
    }

    /// Whether those that start after it are blocked: as [`is_up`](Self::is_up) says, but for a dependency of which
    /// nothing is known yet.
    pub(crate) fn is_down(&self, name: &Name) -> bool {
        match self.dependencies.get(name) {
            Some(dependency) => dependency.known.standing == Standing::Down,
            None => !self.is_up(name),
        }
    }

    /// Has those looked at that start after `name`.
    pub(crate) fn look_behind(&mut self, name: &Name) {
        self.looks.extend(self.order.behind(name).iter().cloned());
    }
}

impl Brain<'_> {
    /// Looks at services for which something has changed that they start after, a bounded number in one step.
    pub(super) fn look_at_blocked(&mut self) {
        for _ in 0..SERVICES_PER_STEP {
            let Some(name) = self.world.looks.pop_first() else { return };
            self.touched.insert(name.clone());
            if self.world.ending.is_none() {
                self.look(&name);
            }
        }
    }

    fn look(&mut self, name: &Name) {
        match self.phase(name) {
            Phase::Blocked { on } if self.world.is_up(&on) => match self.not_ready(name) {
                Some(next) => {
                    self.record(name, Body::Blocked { on: next });
                }
                None => {
                    if self.known(name).counters.failures > 0 {
                        self.record(name, Body::Unblocked { on: on.clone() });
                    }
                    self.try_start(name, Reason::NowReady { on });
                }
            },
            // It was given up, perhaps because of that; it gets another chance.
            Phase::Held { .. } => {
                let is_down = |on: &&Name| self.world.dependencies.contains_key(*on) && self.world.is_down(on);
                if let Some(on) = self.policy(name).after.iter().find(is_down) {
                    self.record(name, Body::Blocked { on: on.clone() });
                }
            }
            Phase::Spawning { .. } | Phase::Starting { .. } | Phase::Running { .. } => self.mark(name),
            Phase::Blocked { .. }
            | Phase::Stopped { .. }
            | Phase::Down
            | Phase::BackingOff { .. }
            | Phase::Stopping { .. }
            | Phase::Remains { .. } => {}
        }
    }

    /// The first of those that it starts after, which is down.
    pub(super) fn blocked_by(&self, name: &Name) -> Option<Name> {
        self.world.services[name].policy.after.iter().find(|on| self.world.is_down(on)).cloned()
    }

    /// Records whether a service that has a process is blocked, where that has changed.
    fn mark(&mut self, name: &Name) {
        let known = self.known(name);
        let Some(epoch) = known.phase.epoch() else { return };
        match (known.blocked.clone(), self.blocked_by(name)) {
            (None, Some(on)) => {
                // It may take long: others need its place.
                self.world.admission.leave(name);
                self.record(name, Body::RunsBlocked { epoch, on });
            }
            (Some(before), Some(on)) if !self.world.is_down(&before) => {
                self.record(name, Body::RunsBlocked { epoch, on });
            }
            (Some(on), None) => {
                self.record(name, Body::Unblocked { on });
                if !matches!(self.phase(name), Phase::Running { .. }) {
                    let until = self.now().after(self.policy(name).start.within);
                    self.record(name, Body::Extended { epoch, until });
                }
            }
            (None | Some(_), None | Some(_)) => {}
        }
    }

    /// The cause of a failure while what it depends on is down: that, unless the kernel says another one.
    pub(super) fn cause_while_blocked(cause: Cause) -> Cause {
        match cause {
            Cause::Oom | Cause::Memory | Cause::Spawn | Cause::Unkillable | Cause::Reset => cause,
            Cause::Exit
            | Cause::Signal
            | Cause::Hang
            | Cause::Slow
            | Cause::Check
            | Cause::NoHeartbeat
            | Cause::StartTimeout
            | Cause::Dependency => Cause::Dependency,
        }
    }

    /// What is left after a failure while it is blocked: what runs is left alone, what is gone waits.
    pub(super) fn wait_blocked(&mut self, name: &Name) {
        match self.phase(name) {
            Phase::Spawning { .. } | Phase::Starting { .. } | Phase::Running { .. } => self.mark(name),
            Phase::Down | Phase::Remains { .. } => {
                let until = self.now();
                self.bring_down(name, Then::Restart { until }, Reason::LeftBehind);
            }
            Phase::Stopped { .. }
            | Phase::Blocked { .. }
            | Phase::BackingOff { .. }
            | Phase::Held { .. }
            | Phase::Stopping { .. } => {}
        }
    }
}
