//! Stopping: the whole tree, by signal, grace and SIGKILL; and the end of everything in reverse order.

use super::Brain;
use crate::effect::{Answer, Fence, Order};
use crate::event::EndWhy;
use crate::ids::{Epoch, Name};
use crate::incident::Outcome;
use crate::reason::Reason;
use crate::record::Body;
use crate::time::Span;
use crate::world::phase::{Phase, StopStage, Then};
use crate::world::service::{Service, Wanted};
use alloc::format;
use alloc::vec::Vec;

impl Brain<'_> {
    /// Ends whatever there is of the service, and goes on with `then` once it is gone.
    pub(super) fn bring_down(&mut self, name: &Name, then: Then, why: Reason) {
        // Before all else: what is started again at once takes a new place.
        self.world.admission.leave(name);
        let policy = self.policy(name);
        let (signal, grace) = (policy.stop.signal, policy.stop.grace);
        match self.phase(name) {
            Phase::Stopped { .. }
            | Phase::Down
            | Phase::Blocked { .. }
            | Phase::BackingOff { .. }
            | Phase::Held { .. } => self.after_stop(name, then),
            Phase::Remains { epoch } => {
                // Nobody asked for that, but for the next process.
                let why = if why == Reason::MustGo { Reason::LeftBehind } else { why };
                self.kill(name, epoch, why, then);
            }
            Phase::Starting { run } | Phase::Running { run } if grace == Span::ZERO => {
                self.kill(name, run.epoch, why, then);
            }
            Phase::Starting { run } | Phase::Running { run } => {
                let epoch = run.epoch;
                if self.record(name, Body::StopIntended { epoch, signal, grace, why, then }) {
                    self.effect(name, epoch, Order::Signal { signal });
                }
            }
            // It was signalled already, and has what is left of its grace.
            Phase::Stopping { epoch, stage, .. } => {
                let grace = match stage {
                    StopStage::Asked { kill_at } => kill_at.since(self.now()),
                    StopStage::Killed { .. } | StopStage::Unkillable { .. } => Span::ZERO,
                };
                self.record(name, Body::StopIntended { epoch, signal, grace, why, then });
            }
            // There is nothing to signal yet.
            Phase::Spawning { epoch, .. } => {
                self.record(name, Body::StopIntended { epoch, signal, grace, why, then });
            }
        }
    }

    pub(super) fn kill(&mut self, name: &Name, epoch: Epoch, why: Reason, then: Then) {
        self.world.admission.leave(name);
        if self.record(name, Body::KillIntended { epoch, why, then }) {
            self.effect(name, epoch, Order::Kill);
        }
    }

    pub(super) fn tree_empty(&mut self, name: &Name, epoch: Epoch) {
        let Phase::Stopping { epoch: ours, main_gone: true, then, .. } = self.phase(name) else { return };
        if ours == epoch && self.record(name, Body::TreeGone { epoch }) {
            self.after_stop(name, then);
        }
    }

    /// No process, and none wanted.
    pub(super) fn stay_stopped(&mut self, name: &Name, why: Reason) {
        self.world.admission.leave(name);
        self.stopped(name, why);
        self.close_incident(name, Outcome::Stopped);
        self.tell_waiters(name, Wanted::Stopped, |name| Answer::Done { text: format!("{name} is stopped") });
        self.tell_waiters(name, Wanted::Healthy, |name| Answer::Failed {
            text: format!("{name} was stopped meanwhile"),
        });
        self.tell_those_who_wait_for_a_switch(name, &format!("{name} was stopped meanwhile"));
        self.end_those_before(name);
    }

    /// While everything is ended: goes on with those that `name` starts after.
    pub(super) fn end_those_before(&mut self, name: &Name) {
        if self.world.ending.is_some() {
            let is_service = |before: &&Name| self.world.services.contains_key(*before);
            let before: Vec<Name> = self.policy(name).after.iter().filter(is_service).cloned().collect();
            for before in before {
                self.end_service(&before);
            }
            self.end_if_done();
        }
    }

    /// Ends everything, those that start last first. Told a second time: at once and all together.
    pub(super) fn end(&mut self, why: EndWhy) {
        let again = self.world.ending.is_some();
        if !again {
            self.record_in(None, None, Body::Ending { why });
            self.world.ending = Some(why);
            self.world.to_start.clear();
        }
        let names: Vec<Name> = self.world.services.keys().cloned().collect();
        for name in names {
            if again {
                self.end_now(&name, why);
            } else {
                self.leave_switches(&name);
                self.end_service(&name);
            }
        }
        self.end_if_done();
    }

    /// Stops a service, if all those that start after it are stopped.
    pub(super) fn end_service(&mut self, name: &Name) {
        let Some(why) = self.world.ending else { return };
        let is_over = self.world.services[name].is_over();
        let already = is_over || matches!(self.phase(name), Phase::Stopping { then: Then::Stay { .. }, .. });
        if !already && self.world.may_end(name) {
            let why = Reason::HaleEnds { why };
            self.bring_down(name, Then::Stay { why: why.clone() }, why);
        }
    }

    /// Kills a service whatever its order and its grace.
    fn end_now(&mut self, name: &Name, why: EndWhy) {
        let why = Reason::HaleEnds { why };
        let then = Then::Stay { why: why.clone() };
        match self.phase(name) {
            Phase::Stopping { stage: StopStage::Killed { .. } | StopStage::Unkillable { .. }, .. } => {}
            Phase::Starting { run } | Phase::Running { run } => self.kill(name, run.epoch, why, then),
            Phase::Spawning { epoch, .. } | Phase::Stopping { epoch, .. } | Phase::Remains { epoch } => {
                self.kill(name, epoch, why, then);
            }
            Phase::Stopped { .. }
            | Phase::Down
            | Phase::Blocked { .. }
            | Phase::BackingOff { .. }
            | Phase::Held { .. } => self.bring_down(name, then, why),
        }
    }

    /// Says that nothing runs any more, once that is so; what cannot be killed is not waited for.
    pub(super) fn end_if_done(&mut self) {
        if self.world.ending.is_none() || self.world.end_done {
            return;
        }
        if self.world.services.values().all(Service::is_over) {
            self.world.end_done = true;
            self.push_effect(Fence::Host, Order::EndDone);
        }
    }
}
