//! Operators: questions are answered at once, orders once their record is durable.

use super::{Brain, DURABLE_WITHIN};
use crate::effect::{Answer, Fence, Order};
use crate::event::Question;
use crate::ids::{Name, RecordId, RequestId};
use crate::incident::Outcome;
use crate::reason::Reason;
use crate::record::{Actor, Body, OperatorOrder, Refusal};
use crate::world::Pending;
use crate::world::phase::{Phase, Then};
use crate::world::service::{WAITERS_MAX, Waiter, Wanted};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// How many orders may wait for the disk at once: more than people give in [`DURABLE_WITHIN`].
pub const PENDING_ORDERS_MAX: usize = 256;

impl Brain<'_> {
    pub(super) fn asked(&mut self, request: RequestId, question: Question) {
        match question {
            Question::Status { service } => {
                let answer = match (self.world.status(self.at, service.as_ref()), service) {
                    (Some(report), _) => Answer::Status(alloc::boxed::Box::new(report)),
                    (None, name) => Answer::Unknown { service: name.map(|name| name.to_string()).unwrap_or_default() },
                };
                self.reply(request, answer);
            }
            Question::Generations { service } => {
                let answer = match self.world.generations(self.at, &service) {
                    Some(report) => Answer::Generations(alloc::boxed::Box::new(report)),
                    None => Answer::Unknown { service: service.to_string() },
                };
                self.reply(request, answer);
            }
            Question::Order { actor, order, waits } => self.ordered(request, actor, order, waits),
            Question::Reload { actor, reading } => self.reload_asked(request, actor, reading),
        }
    }

    fn ordered(&mut self, request: RequestId, actor: Actor, order: OperatorOrder, waits: bool) {
        if let Some(name) = order.service().filter(|name| !self.takes_orders(name)) {
            self.reply(request, Answer::Unknown { service: name.to_string() });
        } else {
            self.take_order(request, actor, order, waits);
        }
    }

    /// Whether there is such a service: one that leaves is nobody's any more.
    fn takes_orders(&self, name: &Name) -> bool {
        self.world.services.contains_key(name) && !self.world.leaving.contains(name)
    }

    /// Records an order, which is carried out once that is durable.
    pub(super) fn take_order(&mut self, request: RequestId, actor: Actor, order: OperatorOrder, waits: bool) {
        if self.world.pending.len() >= PENDING_ORDERS_MAX {
            let text = format!("{PENDING_ORDERS_MAX} orders already wait for the disk; try again in {DURABLE_WITHIN}");
            self.reply(request, Answer::Failed { text });
            return;
        }
        let id = self.next_record();
        let ordered = Body::Ordered { actor: actor.clone(), order: order.clone(), request };
        if !self.record_order(&order, ordered) {
            return;
        }
        self.world.pending.insert(id, Pending { since: self.now(), request, actor, order, waits });
        if self.world.ledger_error.is_some() {
            self.carry_out_undurable(id);
        }
    }

    /// Carries out the orders whose records are durable now.
    pub(super) fn durable(&mut self, up_to: RecordId) {
        while let Some((&id, _)) = self.world.pending.first_key_value() {
            if id > up_to {
                return;
            }
            if let Some(pending) = self.world.pending.remove(&id) {
                self.record_order(&pending.order, Body::CarriedOut { ordered: id });
                self.carry_out(pending);
            }
        }
    }

    /// The record of an order, or of a reboot, was refused by the ledger.
    pub(super) fn not_durable(&mut self, record: RecordId) {
        if self.world.pending.contains_key(&record) {
            self.carry_out_undurable(record);
        }
        self.hardware_not_durable(record);
    }

    /// Carries out the orders that have waited for the disk long enough: a full disk must not take the operator's
    /// hand off the machine.
    pub(super) fn orders_due(&mut self) {
        let now = self.now();
        let is_due = |(_, pending): &(&RecordId, &Pending)| pending.since.after(DURABLE_WITHIN) <= now;
        if let Some((&last, _)) = self.world.pending.iter().take_while(is_due).last() {
            self.carry_out_undurable(last);
        }
    }

    /// Waits for the disk no longer with this order, nor with those before it: carried out later, they would undo it.
    fn carry_out_undurable(&mut self, up_to: RecordId) {
        while let Some(first) = self.world.pending.first_entry().filter(|first| *first.key() <= up_to) {
            let (ordered, pending) = first.remove_entry();
            let waited = self.now().since(pending.since);
            self.record_order(&pending.order, Body::OrderNotDurable { ordered, waited });
            self.carry_out(pending);
        }
    }

    /// Writes a record about an order, as one of its service where it has one.
    fn record_order(&mut self, order: &OperatorOrder, body: Body) -> bool {
        match order.service().filter(|name| self.world.services.contains_key(*name)) {
            Some(name) => self.record(name, body),
            None => self.record_in(None, None, body),
        }
    }

    fn carry_out(&mut self, pending: Pending) {
        let Pending { request, actor, order, since, waits } = pending;
        if let Some(why) = self.world.ending {
            let what = crate::incident::order_words(&order);
            self.reply(request, Answer::Refused(Refusal { what, reason: Reason::HaleEnds { why } }));
            return;
        }
        let name = match &order {
            OperatorOrder::Reload { policy } => return self.order_reload(request, actor, policy),
            OperatorOrder::Start { service }
            | OperatorOrder::Stop { service }
            | OperatorOrder::Restart { service }
            | OperatorOrder::Pause { service, .. }
            | OperatorOrder::Resume { service }
            | OperatorOrder::Deploy { service, .. }
            | OperatorOrder::Rollback { service, .. }
            | OperatorOrder::ClearQuarantine { service, .. } => service.clone(),
        };
        if !self.takes_orders(&name) {
            // A reload has removed it meanwhile.
            return self.reply(request, Answer::Unknown { service: name.to_string() });
        }
        self.touched.insert(name.clone());
        let words = crate::incident::order_words(&order);
        let why = Reason::Ordered { actor: actor.clone() };
        if matches!(order, OperatorOrder::Start { .. } | OperatorOrder::Restart { .. }) {
            // Whoever waits for an earlier stop will not see it.
            self.tell_waiters(&name, Wanted::Stopped, |name| Answer::Failed {
                text: format!("{name} was ordered to start again meanwhile"),
            });
        }
        match order {
            OperatorOrder::Start { .. } => self.order_start(&name, request, why),
            OperatorOrder::Stop { .. } => self.order_stop(&name, request, why),
            OperatorOrder::Restart { .. } => self.order_restart(&name, request, why),
            OperatorOrder::Pause { lasts, .. } => self.order_pause(&name, request, actor, lasts, since),
            OperatorOrder::Resume { .. } => self.order_resume(&name, request, &why),
            OperatorOrder::Deploy { generation, force, .. } => {
                self.order_deploy(&name, request, actor, generation, force);
            }
            OperatorOrder::Rollback { to, .. } => self.order_rollback(&name, request, actor, to),
            OperatorOrder::ClearQuarantine { generation, .. } => self.order_clear(&name, request, &generation, why),
            OperatorOrder::Reload { .. } => {}
        }
        if !waits {
            self.wait_no_longer(&name, request, &words);
        }
    }

    /// Answers a client that does not want to wait, unless it was answered already.
    fn wait_no_longer(&mut self, name: &Name, request: RequestId, words: &str) {
        let Some(service) = self.service_mut(name) else { return };
        let before = service.senses.waiters.len();
        service.senses.waiters.retain(|waiter| waiter.request != request);
        if service.senses.waiters.len() < before {
            let text = format!("{words}: it is under way, `hale status {name}` shows how far");
            self.reply(request, Answer::Done { text });
        }
    }

    pub(super) fn order_start(&mut self, name: &Name, request: RequestId, why: Reason) {
        if self.needs_release(name) && matches!(self.phase(name), Phase::Stopped { .. }) {
            let (what, reason) = (format!("order: start {name}"), Reason::NoReleaseYet);
            return self.reply(request, Answer::Refused(Refusal { what, reason }));
        }
        match self.phase(name) {
            Phase::Running { run } if self.known(name).healthy => {
                let text = format!("{name} runs already and is healthy, pid {}", run.pid);
                self.reply(request, Answer::Done { text });
            }
            Phase::Spawning { .. } | Phase::Starting { .. } | Phase::Running { .. } => {
                self.wait_for(name, request, Wanted::Healthy);
            }
            Phase::Stopping { .. } | Phase::Remains { .. } => self.order_restart(name, request, why),
            Phase::Stopped { .. }
            | Phase::Down
            | Phase::Blocked { .. }
            | Phase::BackingOff { .. }
            | Phase::Held { .. } => {
                self.world.admission.leave(name);
                self.record(name, Body::CountersForgotten);
                self.wait_for(name, request, Wanted::Healthy);
                self.try_start(name, why);
            }
        }
    }

    fn order_stop(&mut self, name: &Name, request: RequestId, why: Reason) {
        if matches!(self.phase(name), Phase::Stopped { .. }) {
            if self.known(name).outdated.is_some() {
                // It would be started with the next place that is free.
                self.record(name, Body::Stopped { why });
            }
            self.reply(request, Answer::Done { text: format!("{name} is stopped already") });
            return;
        }
        self.world.to_start.retain(|queued| queued != name);
        self.wait_for(name, request, Wanted::Stopped);
        self.bring_down(name, Then::Stay { why: why.clone() }, why);
    }

    pub(super) fn order_restart(&mut self, name: &Name, request: RequestId, why: Reason) {
        if matches!(self.phase(name), Phase::Spawning { .. }) {
            // It has not begun to run: this is the new process.
            self.wait_for(name, request, Wanted::Healthy);
            return;
        }
        let until = self.now();
        self.close_incident(name, Outcome::Stopped);
        self.record(name, Body::CountersForgotten);
        self.wait_for(name, request, Wanted::Healthy);
        if self.phase(name).epoch().is_none() {
            // Nothing is to be ended first: the order itself is why it starts.
            self.world.admission.leave(name);
            self.try_start(name, why);
        } else {
            self.bring_down(name, Then::Restart { until }, why);
        }
    }

    /// Remembers a client that waits for the end of its order; with too many it is answered at once.
    pub(super) fn wait_for(&mut self, name: &Name, request: RequestId, wants: Wanted) {
        // Who waits for a blocked service is told so.
        self.world.looks.insert(name.clone());
        let full = match self.service_mut(name) {
            Some(service) if service.senses.waiters.len() < WAITERS_MAX => {
                service.senses.waiters.push_back(Waiter { request, wants });
                false
            }
            Some(_) | None => true,
        };
        if full {
            let text = String::from("ordered; too many clients wait for the end of it");
            // Of a switch the end is what matters.
            let answer = if let Wanted::Switched(_) = wants { Answer::Busy { text } } else { Answer::Done { text } };
            self.reply(request, answer);
        }
    }

    /// Answers those that wait for `wants`.
    pub(super) fn tell_waiters(&mut self, name: &Name, wants: Wanted, answer: impl Fn(&Name) -> Answer) {
        let Some(service) = self.service_mut(name) else { return };
        let told: Vec<RequestId> =
            service.senses.waiters.iter().filter(|waiter| waiter.wants == wants).map(|waiter| waiter.request).collect();
        service.senses.waiters.retain(|waiter| waiter.wants != wants);
        for request in told {
            self.reply(request, answer(name));
        }
    }

    pub(super) fn reply(&mut self, request: RequestId, answer: Answer) {
        self.push_effect(Fence::Host, Order::Reply { request, answer });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::step::tests::{at, service, starting, step, world};

    #[test]
    fn orders_are_carried_out_as_they_were_given_also_while_the_disk_fails() {
        let (mut world, name) = world(service());
        starting(&mut world, &name);
        let actor = Actor { uid: 0, pid: 1, user: None };
        let order = |world: &mut crate::world::World, order| {
            let question = Question::Order { actor: actor.clone(), order, waits: true };
            step(world, at(2), Event::Asked { request: RequestId(7), question }).records
        };
        let stop = order(&mut world, OperatorOrder::Stop { service: name.clone() });
        assert_eq!(world.pending.len(), 1, "it waits for the disk");
        let _ = step(&mut world, at(3), Event::LedgerDegraded { error: String::from("no space") });
        let start = order(&mut world, OperatorOrder::Start { service: name.clone() });
        let undurable: Vec<RecordId> =
            start
                .iter()
                .filter_map(|record| {
                    if let Body::OrderNotDurable { ordered, .. } = &record.body { Some(*ordered) } else { None }
                })
                .collect();
        assert_eq!(undurable, [stop[0].id, start[0].id]);
        assert!(world.pending.is_empty());
        assert!(matches!(world.services[&name].known.phase, Phase::Stopping { then: Then::Restart { .. }, .. }));
    }

    #[test]
    fn who_does_not_wait_is_answered_once_the_order_is_on_the_disk() {
        let (mut world, name) = world(service());
        starting(&mut world, &name);
        let actor = Actor { uid: 0, pid: 1, user: None };
        let order = OperatorOrder::Stop { service: name.clone() };
        let question = Question::Order { actor, order, waits: false };
        let replies = |output: &crate::step::Output| {
            let is_reply = |effect: &&crate::effect::Effect| matches!(effect.order, Order::Reply { .. });
            output.effects.iter().filter(is_reply).count()
        };
        let ordered = step(&mut world, at(2), Event::Asked { request: RequestId(7), question });
        assert_eq!(replies(&ordered), 0, "it may be lost yet");
        let carried_out = step(&mut world, at(3), Event::Durable { up_to: ordered.records[0].id });
        assert_eq!(replies(&carried_out), 1);
        assert!(matches!(world.services[&name].known.phase, Phase::Stopping { .. }));
        assert!(world.services[&name].senses.waiters.is_empty(), "nobody waits for its end");
    }
}
