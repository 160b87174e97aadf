//! Orders of the loop: each is carried out, or handed to whom it is for.

use super::{DaemonHost, Ended};
use crate::execute::tree::Until;
use crate::monitor::probe::{ProbeOrder, Probed};
use crate::supervisor::evidence::Job;
use crate::supervisor::past;
use hale_core::effect::{Effect, Fence, Order};
use hale_core::event::Event;
use hale_core::ids::{Epoch, Name};

impl DaemonHost {
    /// Performs one effect, or starts to.
    pub(super) fn carry_out(&mut self, effect: Effect) {
        match (effect.fence, effect.order) {
            (Fence::Service { service, epoch }, order) => self.perform_on(&service, epoch, order),
            (Fence::Host, Order::Reply { request, answer }) => {
                self.answered(request, &answer);
                self.parts.asker.answer(request, answer);
            }
            (Fence::Host, Order::Adapt { policy }) => self.adapt(&policy),
            (Fence::Host, Order::Prove { nonce }) => match self.parts.guardian.prove(nonce) {
                Ok(()) => self.descriptors.proof_sent(),
                Err(error) => self.parts.console.say(&format!("progress cannot be proven: {error}")),
            },
            (Fence::Host, order @ (Order::MayReboot { .. } | Order::Reboot)) => {
                past::order(&order, &mut self.parts.guardian, &self.parts.console);
            }
            (Fence::Host, Order::ProbeDependency { dependency, probe, check, policy }) => {
                let of = Probed::Dependency(policy);
                self.parts.prober.probe(ProbeOrder { service: dependency, epoch: Epoch(0), probe, check, of });
            }
            (Fence::Host, Order::Control { probe }) => self.parts.prober.control(probe),
            (Fence::Host, Order::EndDone) => {
                self.ended = Some(Ended::InOrder);
            }
            (
                Fence::Host,
                Order::Spawn { .. }
                | Order::LookAtStore { .. }
                | Order::Switch { .. }
                | Order::UndoData { .. }
                | Order::Promote { .. }
                | Order::Retain { .. }
                | Order::Signal { .. }
                | Order::Kill
                | Order::Store { .. }
                | Order::Unstore { .. }
                | Order::Probe { .. }
                | Order::Collect { .. }
                | Order::Examine
                | Order::Forget
                | Order::AckExit,
            ) => {}
        }
    }

    fn perform_on(&mut self, service: &Name, epoch: Epoch, order: Order) {
        let Some(hosted) = self.services.get_mut(service) else { return };
        if epoch < hosted.newest() && order.acts() {
            self.parts.console.say(&format!("{service}: an order for process {epoch} came too late and was refused"));
            return;
        }
        if matches!(order, Order::Signal { .. } | Order::Kill) && hosted.is_due(epoch) {
            // There is nothing yet, and now there will be nothing.
            let failure = hosted.cancel();
            self.events.push_back(Event::SpawnFailed { service: service.clone(), epoch, failure });
            return;
        }
        match order {
            Order::LookAtStore { .. }
            | Order::Switch { .. }
            | Order::UndoData { .. }
            | Order::Promote { .. }
            | Order::Retain { .. } => {
                self.parts.stores.order(service, order);
            }
            Order::Spawn { policy, stored, generation } => {
                hosted.begin(epoch, stored, self.parts.stores.root(service, &policy, generation.as_ref()));
                self.parts.prober.begin(service, epoch);
                self.spawn(service, epoch, &policy);
            }
            Order::Signal { signal } => {
                hosted.signal(signal);
                self.watch_tree(service, epoch, Until::Ended);
            }
            Order::Kill => {
                hosted.kill_now();
                self.watch_tree(service, epoch, Until::Killed);
            }
            Order::Probe { probe, check, policy, anew } => {
                let (tree, root) = (hosted.tree().cloned(), hosted.root.clone());
                let of = Probed::Service { policy, root, tree, anew };
                self.parts.prober.probe(ProbeOrder { service: service.clone(), epoch, probe, check, of });
            }
            Order::Collect { incident, lines } => {
                self.unflushed.push((service.clone(), Job { epoch, incident, lines }));
            }
            Order::Examine => self.parts.examiner.examine(service.clone(), epoch, hosted.tree().cloned()),
            Order::Store { offer, stored } => self.store(service, offer, &stored),
            Order::Unstore { index } => self.unstore(service, index),
            Order::AckExit => self.unacknowledged.push((service.clone(), epoch)),
            Order::Forget => self.forget(service),
            Order::ProbeDependency { .. }
            | Order::Reply { .. }
            | Order::Prove { .. }
            | Order::MayReboot { .. }
            | Order::Reboot
            | Order::Adapt { .. }
            | Order::Control { .. }
            | Order::EndDone => {}
        }
    }
}
