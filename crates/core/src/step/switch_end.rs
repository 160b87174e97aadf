//! The end of a switch: recorded, told to whoever waits, and what nobody needs any more is let go.

use super::Brain;
use crate::effect::{Answer, Fence, Order};
use crate::ids::{GenerationId, Name};
use crate::reason::Reason;
use crate::record::Refusal;
use crate::safeswitch::{End, Move, Part, Stage, Switch};
use crate::world::service::Wanted;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

impl Brain<'_> {
    /// One end of a switch: recorded, told to whoever waits, and what nobody needs any more is let go.
    pub(super) fn end_switch(&mut self, name: &Name, part: Part, end: &End) -> bool {
        let Some(switch) = self.switch(name, part).cloned() else { return false };
        if !self.moved(name, part, Move::Ended { switch: switch.id, end: end.clone() }) {
            return false;
        }
        self.world.intended.retain(|_, (of, its)| of != name || *its != part);
        let answer = end_words(name, &switch, end, self.generations(name, part).current.as_ref());
        self.tell_waiters(name, Wanted::Switched(switch.id), |_| answer.clone());
        self.retain(name, part);
        true
    }

    /// Nobody knows when the service is started: a switch that needs a process waits for that without a client.
    pub(super) fn tell_those_who_wait_for_a_switch(&mut self, name: &Name, because: &str) {
        let parts: Vec<Part> = self.world.services[name].parts().collect();
        for part in parts {
            let Some(switch) = self.switch(name, part) else { continue };
            let current = self.generations(name, part).current.as_ref();
            let to = match &switch.stage {
                Stage::GoingBack { to, .. } => to,
                Stage::Validating { .. } => current.unwrap_or(&switch.intent.to),
                Stage::Intended { .. }
                | Stage::Prepared { .. }
                | Stage::Switching
                | Stage::Probation { .. }
                | Stage::Committing { .. } => &switch.intent.to,
            };
            let id = switch.id;
            let (is_there, to) = (current == Some(to), to.short());
            let text = if is_there {
                format!("{because}; what is switched to ({to}) has to show then that it works")
            } else {
                format!("{because}; the switch to {to} goes on, and that has to show then that it works")
            };
            self.tell_waiters(name, Wanted::Switched(id), |_| Answer::Failed { text: text.clone() });
        }
    }

    /// Lets go of what nobody needs any more, and protects what is needed, once this step has said what that is.
    pub(super) fn retain(&mut self, name: &Name, part: Part) {
        self.retains.insert((name.clone(), part));
    }

    /// The step is over: what is needed is known.
    pub(super) fn retain_needed(&mut self) {
        while let Some((name, part)) = self.retains.pop_first() {
            let Some(service) = self.world.services.get(&name) else { continue };
            let Some(policy) = &service.policy.generations else { continue };
            let (epoch, needed) = (service.known.last_epoch, service.known.generations[part].needed());
            let order = Order::Retain { part, needed, keep: policy.keep };
            self.effect(&name, epoch, order);
        }
    }

    /// What this step has ended after it had ordered it is not to be done.
    pub(super) fn drop_orders_of_what_is_over(&mut self) {
        let services = &self.world.services;
        self.output.effects.retain(|effect| match (&effect.fence, &effect.order) {
            (
                Fence::Service { service, .. },
                Order::Switch { part, switch, .. }
                | Order::Promote { part, switch, .. }
                | Order::UndoData { part, switch, .. },
            ) => {
                let known = services.get(service).map(|service| &service.known.generations[*part]);
                known.and_then(|known| known.switch.as_ref()).is_some_and(|it| it.id == *switch)
            }
            _ => true,
        });
    }

    /// Hale ends before its switches do: whoever waits is told, since the next Hale does not know of him.
    pub(super) fn leave_switches(&mut self, name: &Name) {
        for part in Part::ALL {
            let Some(switch) = self.switch(name, part) else { continue };
            let (id, to) = (switch.id, String::from(switch.intent.to.short()));
            self.tell_waiters(name, Wanted::Switched(id), |name| Answer::Failed {
                text: format!(
                    "Hale ends while {name} is being switched to {to}: its next start goes on with that, or back"
                ),
            });
        }
    }
}

/// The answer to whoever waits for the end of a switch.
fn end_words(name: &Name, switch: &Switch, end: &End, current: Option<&GenerationId>) -> Answer {
    let intent = &switch.intent;
    let to = intent.to.short();
    let now = current.map_or("nothing", GenerationId::short);
    match end {
        End::Committed => Answer::Done { text: format!("{name} runs {to}, which is known to be good now") },
        End::RolledBack { .. } if !intent.aim.proves() => {
            Answer::Done { text: format!("{name} is back on {to} and healthy") }
        }
        End::RolledBack { why } => Answer::RolledBack {
            text: format!("{name} was rolled back from {to} to {now}, which is healthy again: {why}"),
        },
        End::Aborted {
            why:
                why @ (Reason::NoDurableRecord
                | Reason::NoWayBack { .. }
                | Reason::DataMovedOn { .. }
                | Reason::HookFailed { .. }),
        } => Answer::Refused(Refusal { what: format!("order: switch {name} to {to}"), reason: why.clone() }),
        End::Aborted { why } => Answer::Failed { text: format!("{name} was not switched to {to}: {why}") },
        End::Held { why: why @ Reason::HookFailed { .. } } => Answer::Failed {
            text: format!(
                "{name} was switched back from {to} to {now} and is stopped, since nobody knows what its data are: {why}; \
                 `hale start {name}` starts it"
            ),
        },
        End::Held { why } => Answer::Failed {
            text: format!("{name} stays on what it is switched to, which is not known to be good: {why}"),
        },
        End::Environmental { why } => Answer::Failed {
            text: format!("{name} was switched back from {to} to {now}, and the cause is elsewhere: {why}"),
        },
        End::Stopped { why } => {
            Answer::Failed { text: format!("{name} is stopped, because there is nothing to go back to: {why}") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Question};
    use crate::ids::RequestId;
    use crate::record::{Actor, OperatorOrder};
    use crate::step::bench::{Bench, bot, id, policy};

    use crate::incident::Outcome;
    use alloc::boxed::Box;

    #[test]
    fn whoever_waits_for_a_switch_hears_that_its_service_is_removed() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.deploy("two");
        let mut policy = bench.world.birth.policy.clone();
        policy.services.clear();
        let reading =
            crate::event::Reading::Valid { policy: Box::new(policy), hash: crate::policy::PolicyHash("other".into()) };
        let actor = Actor { uid: 0, pid: 1, user: None };
        bench.take(Event::Asked { request: RequestId(3), question: Question::Reload { actor, reading } });
        let told = |answer: &Answer| matches!(answer, Answer::Failed { text } if text.contains("not known to be good"));
        assert!(bench.answers.iter().any(told), "{:?}", bench.answers);
    }

    #[test]
    fn whoever_waits_for_a_switch_hears_that_hale_ends() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.deploy("two");
        bench.take(Event::End { why: crate::event::EndWhy::Signal(crate::policy::Signal::TERM) });
        assert!(
            matches!(&bench.answers[..], [Answer::Failed { text }] if text.contains("Hale ends")),
            "{:?}",
            bench.answers
        );
        assert!(bench.known().on_probation().is_some());
    }

    #[test]
    fn the_first_release_that_fails_leaves_the_service_stopped() {
        let mut bench = Bench::new(policy(), None);
        bench.deploy("bad");
        bench.crash();
        assert!(matches!(bench.ends()[..], [End::Stopped { .. }]), "{:?}", bench.ends());
        assert!(
            matches!(&bench.answers[..], [Answer::Failed { text }] if text.contains("status 1")),
            "{:?}",
            bench.answers
        );
        assert_eq!(bench.world.service(&bot()).unwrap().state(), crate::status::State::Stopped);
        assert_eq!(bench.outcomes(), [Outcome::Stopped]);
    }

    #[test]
    fn what_has_failed_is_quarantined_before_its_switch_is_over() {
        for before in [None, Some("good")] {
            let mut bench = Bench::new(policy(), before);
            bench.deploy("bad");
            bench.crash();
            let place = |is: fn(&Move) -> bool| {
                bench.records.iter().position(|record| record.body.moved().is_some_and(|(_, moved)| is(moved))).unwrap()
            };
            let quarantined = place(|moved| matches!(moved, Move::Quarantined { .. }));
            assert!(quarantined < place(|moved| matches!(moved, Move::Ended { .. })));
        }
    }

    #[test]
    fn who_waits_for_a_deploy_of_what_is_stopped_is_told() {
        let mut bench = Bench::new(policy(), Some("old"));
        bench.deploy("new");
        bench.answers.clear();
        bench.order(OperatorOrder::Stop { service: bot() });
        assert!(bench.answers.iter().any(|answer| matches!(answer, Answer::Failed { .. })), "{:?}", bench.answers);
    }

    #[test]
    fn what_somebody_else_has_switched_to_is_needed_also_where_that_ends_a_switch() {
        let mut bench = Bench::new(policy(), Some("old"));
        bench.deploy("new");
        bench.retained.clear();
        bench.outside("theirs");
        assert!(
            !bench.retained.is_empty() && bench.retained.iter().all(|needed| needed.contains(&id("theirs"))),
            "{:?}",
            bench.retained
        );
    }
}
