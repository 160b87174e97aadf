//! What operators order about generations: deploy, roll back, clear of quarantine.

use super::Brain;
use crate::effect::Answer;
use crate::ids::{GenerationId, Name, RequestId};
use crate::policy::{Mode, Rollback};
use crate::reason::Reason;
use crate::record::{Actor, Refusal};
use crate::safeswitch::{Aim, End, Move, Part, Stage};
use crate::world::phase::Phase;
use crate::world::service::Wanted;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;

impl Brain<'_> {
    /// Why nothing may be switched now by an operator's order.
    fn not_switchable(&self, name: &Name) -> Option<Reason> {
        let known = self.known(name);
        if self.policy(name).generations.is_none() {
            Some(Reason::NoGenerationsConfigured)
        } else if self.world.mode() == Mode::Observe {
            Some(Reason::ObserveMode)
        } else if let Some(what) = &known.violated {
            Some(Reason::Violated { what: what.clone() })
        } else if let Some(paused) = &known.paused {
            Some(Reason::Paused { actor: paused.actor.clone() })
        } else if self.world.services[name].parts().any(|part| !known.generations[part].is_known) {
            Some(Reason::StoreNotSeen)
        } else {
            None
        }
    }

    fn refuse_switch(&mut self, request: RequestId, what: String, reason: Reason) {
        self.reply(request, Answer::Refused(Refusal { what, reason }));
    }

    /// `hale deploy`, once the order is durable.
    pub(super) fn order_deploy(
        &mut self,
        name: &Name,
        request: RequestId,
        actor: Actor,
        to: GenerationId,
        force: bool,
    ) {
        let part = Part::Store;
        let what = || format!("order: deploy {} to {name}", to.short());
        if let Some(reason) = self.not_switchable(name) {
            return self.refuse_switch(request, what(), reason);
        }
        if let Some(switch) = self.switch(name, part).filter(|_| !self.only_waits(name, part)) {
            let to = switch.intent.to.short();
            let text = if switch.owes_undoing() {
                format!(
                    "what {to} did to the data of {name} is to be undone first: `hale start {name}` does that, and goes back"
                )
            } else {
                format!("{name} is being switched to {to}")
            };
            return self.reply(request, Answer::Busy { text });
        }
        let wall_us = self.at.wall_us;
        let known = self.generations(name, part);
        if let Some(bad) = known.bad(&to, wall_us).filter(|_| !force) {
            let reason = Reason::Quarantined { why: Box::new(bad.why.clone()) };
            return self.refuse_switch(request, what(), reason);
        }
        let runs = self.phase(name).run().is_some() && self.known(name).runs[part].as_ref() == Some(&to);
        if runs && known.current.as_ref() == Some(&to) && known.good(&to).is_some() {
            let text = format!("{name} runs {} already", to.short());
            return self.reply(request, Answer::Done { text });
        }
        let is_first = known.current.is_none() && known.goods.is_empty();
        if is_first && self.phase(name).run().is_some() && !force {
            let error = String::from(
                "it runs without a generation, and a failure would leave it stopped; --force takes that, and so does `hale stop` before",
            );
            return self.refuse_switch(request, what(), Reason::NoWayBack { error });
        }
        let is_good = known.good(&to).is_some() && known.bad(&to, wall_us).is_none();
        self.supersede_what_waits(name, part, &to);
        if is_good && self.generations(name, part).current.as_ref() == Some(&to) {
            // It has proved itself, and is not to be gone back from for a failure now.
            let (runs, why) = (self.runs_current(name, part), Reason::Ordered { actor });
            return if runs { self.order_start(name, request, why) } else { self.order_restart(name, request, why) };
        }
        let id = self.next_record();
        if self.intend_and_insist(name, part, Aim::Deploy { actor }, to, force) {
            self.wait_for(name, request, Wanted::Switched(id));
        }
    }

    /// `hale rollback`, once the order is durable.
    pub(super) fn order_rollback(&mut self, name: &Name, request: RequestId, actor: Actor, to: Option<GenerationId>) {
        let what = || format!("order: roll {name} back");
        if let Some(reason) = self.not_switchable(name) {
            return self.refuse_switch(request, what(), reason);
        }
        if self.policy(name).generations.as_ref().is_some_and(|policy| policy.rollback == Rollback::Never) {
            return self.refuse_switch(request, what(), Reason::RollbackNever);
        }
        let part = self.part_to_return(name, to.as_ref());
        if let Some(switch) = self.switch(name, part) {
            let (id, back) = (switch.id, switch.intent.back.clone());
            let on_probation = matches!(switch.stage, Stage::Probation { .. });
            match back.filter(|back| on_probation && to.as_ref().is_none_or(|to| to == back)) {
                Some(back) => {
                    if let Some(reason) = self.generations(name, part).moved_on(&back) {
                        return self.refuse_switch(request, what(), reason);
                    }
                    self.wait_for(name, request, Wanted::Switched(id));
                    return self.go_back(name, part, back, Reason::Ordered { actor });
                }
                None if self.only_waits(name, part) => {}
                None => {
                    let text = format!("{name} is being switched, and cannot be rolled back before that is over");
                    return self.reply(request, Answer::Busy { text });
                }
            }
        }
        let known = self.generations(name, part);
        let target = match to {
            Some(to) if known.good(&to).is_none() => {
                return self.refuse_switch(request, what(), Reason::NotKnownGood { generation: to });
            }
            Some(to) if known.current.as_ref() == Some(&to) => {
                let text = format!("{name} is switched to {} already", to.short());
                return self.reply(request, Answer::Done { text });
            }
            Some(to) => match known.moved_on_by_order(&to) {
                Some(reason) => return self.refuse_switch(request, what(), reason),
                None => to,
            },
            None => match known.older_good_by_order(self.at.wall_us) {
                Some(good) => good.id.clone(),
                None => {
                    let reason = known.older_moved_on(self.at.wall_us).unwrap_or(Reason::NoOlderGood);
                    return self.refuse_switch(request, what(), reason);
                }
            },
        };
        self.supersede_what_waits(name, part, &target);
        let id = self.next_record();
        if self.intend(name, part, Aim::Return { actor }, target) {
            self.wait_for(name, request, Wanted::Switched(id));
        }
    }

    /// Whether what is switched to waits for a process that nobody is about to start, and would never prove itself: that must not
    /// keep an operator from anything.
    fn only_waits(&self, name: &Name, part: Part) -> bool {
        let waits_for_process = self.switch(name, part).is_some_and(|switch| {
            // What is to be undone is not forgotten for another switch.
            matches!(switch.stage, Stage::Probation { .. } | Stage::Validating { .. }) && !switch.owes_undoing()
        });
        waits_for_process
            && match self.phase(name) {
                Phase::Stopped { .. } | Phase::Down | Phase::Blocked { .. } | Phase::Held { .. } => true,
                Phase::Starting { .. } | Phase::Running { .. } => !self.runs_current(name, part),
                Phase::Spawning { .. } | Phase::BackingOff { .. } | Phase::Stopping { .. } | Phase::Remains { .. } => {
                    false
                }
            }
    }

    fn supersede_what_waits(&mut self, name: &Name, part: Part, by: &GenerationId) {
        if self.only_waits(name, part) {
            let why = Reason::Superseded { by: Some(by.clone()) };
            let is_back =
                self.switch(name, part).is_some_and(|switch| matches!(switch.stage, Stage::Validating { .. }));
            self.end_switch(name, part, &if is_back { End::Held { why } } else { End::Aborted { why } });
        }
    }

    /// Which part goes back: the one in which this is good; else the one that was changed last, of those that can.
    fn part_to_return(&self, name: &Name, to: Option<&GenerationId>) -> Part {
        let newest_first = self.newest_first(name);
        let has = |part: &Part| {
            let known = self.generations(name, *part);
            match to {
                Some(to) => known.good(to).is_some(),
                None => known.on_probation().is_some() || known.older_good_by_order(self.at.wall_us).is_some(),
            }
        };
        newest_first.into_iter().find(has).unwrap_or(Part::Store)
    }

    /// `hale quarantine clear`, once the order is durable.
    pub(super) fn order_clear(&mut self, name: &Name, request: RequestId, generation: &GenerationId, why: Reason) {
        let is_bad = |part: &Part| self.generations(name, *part).bads.iter().any(|bad| bad.id == *generation);
        let part = Part::ALL.into_iter().find(is_bad);
        let text = if let Some(part) = part
            && self.moved(name, part, Move::Cleared { generation: generation.clone(), why })
        {
            format!("{} of {name} is quarantined no longer", generation.short())
        } else {
            format!("{} of {name} is not quarantined", generation.short())
        };
        self.reply(request, Answer::Done { text });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Question, Reading};
    use crate::policy::{PolicyHash, ServicePolicy};
    use crate::record::OperatorOrder;
    use crate::safeswitch::Data;
    use crate::step::bench::{Bench, bot, id, policy};
    use crate::time::Span;
    use alloc::string::ToString;
    use alloc::sync::Arc;

    #[test]
    fn what_is_known_to_be_good_is_only_started_by_its_own_deploy() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.deploy("two");
        bench.pass(Span::from_secs(70));
        bench.order(OperatorOrder::Stop { service: bot() });
        bench.deploy("two");
        assert_eq!((bench.runs(), bench.known().switch.clone()), (Some("two"), None));
        assert!(matches!(bench.answers.last(), Some(Answer::Done { .. })), "{:?}", bench.answers);
        bench.crash();
        assert_eq!(bench.known().current, Some(id("two")), "one failure is no reason to leave what is proved");
    }

    fn reload(bench: &mut Bench, policy: ServicePolicy) {
        let mut all = bench.world.birth.policy.clone();
        all.services.insert(bot(), Arc::new(policy));
        let hash = PolicyHash(format!("after {}", bench.ms).into());
        let reading = Reading::Valid { policy: Box::new(all), hash };
        let actor = Actor { uid: 0, pid: 1, user: None };
        bench.take(Event::Asked { request: RequestId(3), question: Question::Reload { actor, reading } });
    }

    #[test]
    fn what_runs_when_releases_are_configured_for_it_runs_on_until_there_is_one() {
        let without = || ServicePolicy { generations: None, ..policy() };
        let mut bench = Bench::new(without(), None);
        let runs = |bench: &Bench| bench.world.services[&bot()].known.phase.run().map(|run| run.epoch);
        let first = runs(&bench);
        reload(&mut bench, policy());
        bench.pass(Span::from_secs(60));
        assert_eq!((runs(&bench), first.is_some()), (first, true));
        bench.order(OperatorOrder::Deploy { service: bot(), generation: id("one"), force: true });
        assert_eq!(bench.runs(), Some("one"));
        assert_ne!(runs(&bench), first);
        // One that waits for a release waits no longer where it needs none any more.
        let mut bench = Bench::new(policy(), None);
        assert_eq!(runs(&bench), None);
        reload(&mut bench, without());
        assert!(runs(&bench).is_some());
    }

    #[test]
    fn what_runs_without_a_generation_is_not_risked_unless_somebody_insists() {
        let mut bench = Bench::new(ServicePolicy { directory: Some(String::from("/")), ..policy() }, None);
        assert!(bench.world.services[&bot()].known.phase.run().is_some());
        let before = bench.spawned.len();
        bench.deploy("one");
        let Some(Answer::Refused(refusal)) = bench.answers.last() else { panic!("{:?}", bench.answers) };
        assert!(refusal.reason.to_string().contains("--force"), "{refusal:?}");
        assert_eq!((bench.spawned.len(), bench.current.clone()), (before, None));
        bench.order(OperatorOrder::Deploy { service: bot(), generation: id("one"), force: true });
        assert_eq!(bench.runs(), Some("one"));
    }

    #[test]
    fn what_is_known_to_be_good_and_does_not_run_is_run_by_its_own_deploy() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.deploy("two");
        bench.pass(Span::from_secs(70));
        bench.outside("one");
        assert_eq!(bench.runs(), Some("two"));
        bench.deploy("one");
        assert_eq!((bench.runs(), bench.known().switch.clone()), (Some("one"), None));
    }

    #[test]
    fn what_is_not_undone_yet_is_not_forgotten_for_another_deploy() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.data.insert(id("two"), Data { format: 2, min_rollback: 2, undoes: true, snapshot: None });
        bench.deploy("two");
        bench.holds_on = true;
        bench.deaf_hooks = true;
        bench.crash();
        bench.order(OperatorOrder::Stop { service: bot() });
        bench.deploy("three");
        assert!(matches!(bench.answers.last(), Some(Answer::Busy { .. })), "{:?}", bench.answers);
        assert!(bench.known().switch.as_ref().is_some_and(|switch| switch.owes_undoing()), "{:?}", bench.known());
    }

    #[test]
    fn a_switch_that_ends_before_its_data_are_undone_leaves_nothing_to_start_by_itself() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.data.insert(id("two"), Data { format: 2, min_rollback: 2, undoes: true, snapshot: None });
        bench.deploy("two");
        bench.deaf_hooks = true;
        bench.crash();
        // Somebody else switches to what cannot read them either.
        bench.outside("three");
        bench.pass(Span::from_secs(600));
        assert_eq!(bench.runs(), None);
        bench.order(OperatorOrder::Start { service: bot() });
        assert_eq!(bench.runs(), Some("three"));
    }

    #[test]
    fn a_forced_deploy_that_comes_to_nothing_leaves_the_quarantine() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.deploy("two");
        bench.crash();
        assert!(bench.known().bad(&id("two"), 0).is_some());
        bench.damaged.push(id("two"));
        bench.order(OperatorOrder::Deploy { service: bot(), generation: id("two"), force: true });
        assert!(bench.known().bad(&id("two"), 0).is_some());
        bench.damaged.clear();
        bench.order(OperatorOrder::Deploy { service: bot(), generation: id("two"), force: true });
        bench.pass(Span::from_secs(20));
        assert!(bench.known().bad(&id("two"), 0).is_none(), "it has proved itself");
    }
}
