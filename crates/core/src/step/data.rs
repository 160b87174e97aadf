//! Data that moves forward: what a generation says of it is on record before it is switched to, and what it did to it is undone before
//! anything else is started.

use super::Brain;
use crate::effect::Order;
use crate::ids::{Name, RecordId};
use crate::reason::Reason;
use crate::safeswitch::{Data, End, Move, Part, Stage, Switch, Undoable};
use crate::world::phase::Then;
use alloc::string::String;

impl Brain<'_> {
    /// What is to be switched to says something of the data: that is durable before anything is switched.
    pub(super) fn generation_prepared(&mut self, name: &Name, part: Part, id: RecordId, data: Data) {
        let Some(switch) = self.switch(name, part).filter(|switch| switch.id == id) else { return };
        // Another answer to what was asked twice.
        if switch.stage != Stage::Switching || !switch.data.is_silent() || data.is_silent() {
            return;
        }
        let prepared = self.next_record();
        if self.moved(name, part, Move::Prepared { switch: id, data }) {
            self.world.intended.insert(prepared, (name.clone(), part));
        }
    }

    /// Nothing of what was gone back from runs any more: what it did to the data is undone before anything else is started.
    pub(super) fn undo_data(&mut self, name: &Name) {
        let part = Part::Store;
        let due = self.world.services[name].undoing_due();
        let Some((id, Undoable { of, snapshot, .. })) = due.and_then(|it| Some((it.id, it.undoes.clone()?))) else {
            return;
        };
        let Some(to) = self.generations(name, part).current.clone() else { return };
        if let Some(service) = self.service_mut(name) {
            service.senses.undoing = Some(id);
        }
        let epoch = self.known(name).last_epoch;
        self.effect(name, epoch, Order::UndoData { part, switch: id, of, to, snapshot });
    }

    /// `after_rollback` has run, or failed: then nobody knows what the data is, and nothing is started on it.
    pub(super) fn data_undone(&mut self, name: &Name, part: Part, id: RecordId, error: Option<String>) {
        let owes = |switch: &&Switch| switch.id == id && switch.owes_undoing();
        if self.switch(name, part).filter(owes).is_none() {
            return;
        }
        let (undone, now) = (self.next_record(), self.now());
        if !self.moved(name, part, Move::Undone { switch: id, error: error.clone() }) {
            return;
        }
        if let Some(error) = error {
            let why = Reason::HookFailed { error };
            self.end_not_undone(name, part, why.clone());
            self.bring_down(name, Then::Stay { why: why.clone() }, why);
        } else if let Some(service) = self.service_mut(name) {
            service.senses.undone = Some((undone, now));
            self.world.intended.insert(undone, (name.clone(), part));
        }
    }

    /// What the switch has left did to the data is not undone, and will not be.
    pub(super) fn end_not_undone(&mut self, name: &Name, part: Part, why: Reason) {
        let Some(Switch { intent, stage: Stage::Validating { why: found }, .. }) = self.switch(name, part).cloned()
        else {
            return;
        };
        if found.is_evidence() && intent.aim.proves() {
            self.quarantine(name, part, intent.to, found);
        }
        self.end_switch(name, part, &End::Held { why });
    }

    /// A supervisor takes over: whether it is on the disk that its data is undone it learns as the one before would have, unless what
    /// was good was started already.
    pub(super) fn resume_undone(&mut self, name: &Name) {
        let part = Part::Store;
        let undone = self.switch(name, part).and_then(|switch| switch.undone);
        let (now, is_started) = (self.now(), self.runs_current(name, part));
        if let (Some(undone), false, Some(service)) = (undone, is_started, self.service_mut(name)) {
            service.senses.undone = Some((undone, now));
        }
    }

    /// That its data is undone is on the disk, or will not be: what was good is started.
    pub(super) fn start_undone(&mut self, name: &Name) {
        let part = Part::Store;
        let Some(service) = self.service_mut(name) else { return };
        if service.senses.undone.take().is_none() {
            return;
        }
        if let Some(to) = self.generations(name, part).current.clone() {
            let until = self.now();
            self.start_switched(name, part, until, Reason::Switched { to });
        }
    }

    pub(super) fn order_promote(&mut self, name: &Name, part: Part, switch: &Switch) {
        let (epoch, generation) = (self.known(name).last_epoch, switch.intent.to.clone());
        self.effect(name, epoch, Order::Promote { part, switch: switch.id, generation });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::Answer;
    use crate::event::{Event, ExitStatus, Lost};
    use crate::policy::{Rollback, ServicePolicy};
    use crate::record::{Body, OperatorOrder, Record};
    use crate::safeswitch::{Generations, Parts};
    use crate::step::bench::{Bench, bot, id, policy};
    use crate::time::Span;
    use crate::world::World;
    use crate::world::phase::Phase;
    use alloc::collections::BTreeMap;
    use alloc::vec;
    use alloc::vec::Vec;

    /// Reads and leaves data of format 2, which `one` cannot read; undone or not.
    fn moves(undoes: bool) -> Data {
        Data { format: 2, min_rollback: 2, undoes, snapshot: undoes.then(|| String::from("tank/app@7")) }
    }

    fn bench_with(data: Data) -> Bench {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.data.insert(id("two"), data);
        bench
    }

    fn asks() -> ServicePolicy {
        let mut policy = policy();
        policy.generations.iter_mut().for_each(|generations| generations.rollback = Rollback::Ask);
        policy
    }

    fn ran(bench: &Bench) -> Vec<(&'static str, &str, Option<&str>)> {
        bench.ran.iter().map(|(hook, of, snapshot)| (*hook, of.as_str(), snapshot.as_deref())).collect()
    }

    fn refusals(bench: &Bench) -> Vec<Reason> {
        let refused =
            |answer: &Answer| if let Answer::Refused(refusal) = answer { Some(refusal.reason.clone()) } else { None };
        bench.answers.iter().filter_map(refused).collect()
    }

    fn moved_on() -> Reason {
        Reason::DataMovedOn { generation: id("one"), format: 0, at_least: 2 }
    }

    #[test]
    fn what_a_release_says_is_durable_before_it_is_switched_to() {
        let mut bench = bench_with(moves(true));
        bench.durable = false;
        bench.deploy("two");
        let durable = |bench: &mut Bench| bench.take(Event::Durable { up_to: bench.records.last().unwrap().id });
        durable(&mut bench);
        assert!(matches!(bench.known().switch.as_ref().unwrap().stage, Stage::Intended { .. }));
        assert!(bench.ran.is_empty());
        durable(&mut bench);
        assert_eq!(ran(&bench), [("before_switch", "two", None)]);
        assert!(matches!(bench.known().switch.as_ref().unwrap().stage, Stage::Prepared { .. }));
        assert_eq!(bench.current, Some(id("one")));
        durable(&mut bench);
        assert_eq!((bench.current.clone(), bench.runs()), (Some(id("two")), Some("two")));
        assert_eq!(ran(&bench).len(), 1, "it does not run twice");
    }

    #[test]
    fn what_never_becomes_durable_is_not_switched_to() {
        let mut bench = bench_with(moves(true));
        bench.durable = false;
        bench.deploy("two");
        for _ in 0..2 {
            bench.take(Event::Durable { up_to: bench.records.last().unwrap().id });
        }
        assert!(matches!(bench.known().switch.as_ref().unwrap().stage, Stage::Prepared { .. }));
        bench.pass(Span::from_secs(60));
        assert!(matches!(&bench.ends()[..], [End::Aborted { why: Reason::NoDurableRecord }]), "{:?}", bench.ends());
        assert_eq!((bench.current.clone(), bench.runs()), (Some(id("one")), Some("one")));
        assert_eq!(bench.known().data_at_least, 0);
    }

    #[test]
    fn what_a_failed_release_did_to_the_data_is_undone_before_the_old_one_is_started() {
        let mut bench = bench_with(moves(true));
        bench.deploy("two");
        assert_eq!(bench.runs(), Some("two"));
        let before = bench.spawned.len();
        bench.crash();
        assert_eq!(ran(&bench), [("before_switch", "two", None), ("after_rollback", "two", Some("tank/app@7"))]);
        assert_eq!(bench.spawned[before..].iter().map(|(_, of)| of.clone()).collect::<Vec<_>>(), [Some(id("one"))]);
        let place =
            |found: &dyn Fn(&Body) -> bool| bench.records.iter().rposition(|record| found(&record.body)).unwrap();
        let undone = place(&|body| matches!(body, Body::Generation(Move::Undone { error: None, .. })));
        assert!(undone < place(&|body| matches!(body, Body::SpawnIntended { .. })));
        assert!(matches!(bench.ends()[..], [End::RolledBack { .. }]));
        assert_eq!((bench.known().data_at_least, bench.known().formats.len()), (0, 0));
    }

    #[test]
    fn that_it_is_undone_is_on_the_disk_before_the_old_one_writes() {
        for (is_told, is_replaced) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut bench = bench_with(moves(true));
            bench.deploy("two");
            bench.durable = false;
            bench.crash();
            if is_replaced {
                let (birth, snapshot) = (bench.world.birth.clone(), bench.world.snapshot());
                bench.world = World::restore(birth, None, Some(snapshot), []);
                let lost = Lost::Ended { status: ExitStatus::Code(1) };
                bench.take(Event::TakeOver { lost, found: BTreeMap::new() });
            }
            assert_eq!((ran(&bench).len(), bench.runs()), (2, None));
            if is_told {
                bench.take(Event::Durable { up_to: bench.records.last().unwrap().id });
            } else {
                // A disk that never takes it keeps nobody down.
                bench.pass(Span::from_secs(60));
            }
            assert_eq!((ran(&bench).len(), bench.runs()), (2, Some("one")));
        }
    }

    #[test]
    fn what_somebody_else_has_switched_to_amidst_a_way_back_speaks_for_its_data() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.deploy("two");
        bench.current = Some(id("theirs"));
        bench.data.insert(id("theirs"), moves(false));
        bench.damaged.push(id("one"));
        bench.crash();
        assert_eq!(bench.known().switch.as_ref().map(|switch| &switch.intent.to), Some(&id("theirs")));
        assert_eq!(bench.known().formats.get(&id("theirs")).map(|it| it.min_rollback), Some(2));
    }

    #[test]
    fn undoing_waits_until_nothing_of_the_new_one_runs() {
        let mut bench = bench_with(moves(true));
        bench.deploy("two");
        bench.holds_on = true;
        let (service, epoch, status) = (bot(), bench.world.services[&bot()].known.last_epoch, ExitStatus::Code(1));
        bench.take(Event::Exited { service: service.clone(), epoch, status, tree_empty: false, memory: None });
        bench.pass(Span::from_secs(1));
        assert_eq!((bench.current.clone(), ran(&bench).len()), (Some(id("one")), 1), "a part of it still runs");
        bench.take(Event::TreeEmpty { service, epoch });
        assert_eq!((ran(&bench).len(), bench.runs()), (2, Some("one")));
    }

    #[test]
    fn where_undoing_fails_nothing_is_started_on_what_nobody_knows() {
        where_undoing_fails(moves(true));
        // Also where what was there before could read what it says to leave.
        where_undoing_fails(Data { min_rollback: 0, ..moves(true) });
    }

    fn where_undoing_fails(data: Data) {
        let mut bench = bench_with(data);
        bench.deploy("two");
        bench.hooks_fail.insert(id("two"));
        let before = bench.spawned.len();
        bench.crash();
        assert!(matches!(bench.ends()[..], [End::Held { why: Reason::HookFailed { .. } }]), "{:?}", bench.ends());
        let known = &bench.world.services[&bot()].known;
        assert!(matches!(&known.phase, Phase::Stopped { why: Reason::HookFailed { .. } }), "{:?}", known.phase);
        assert!(bench.known().bad(&id("two"), 0).is_some(), "what it was gone back from for failed all the same");
        bench.pass(Span::from_secs(3_600));
        assert_eq!(bench.spawned.len(), before);
        let mut next = bench.next();
        next.data.clone_from(&bench.data);
        next.take(Event::Begin);
        assert_eq!(next.runs(), None, "nor by the next Hale");
        for mut bench in [bench, next] {
            bench.order(OperatorOrder::Start { service: bot() });
            assert_eq!((bench.runs(), bench.known().unknown_data.clone()), (Some("one"), None));
        }
    }

    #[test]
    fn where_undoing_has_failed_the_next_hale_ends_what_the_one_before_did_not() {
        let mut bench = bench_with(moves(true));
        bench.deploy("two");
        bench.hooks_fail.insert(id("two"));
        bench.crash();
        let is_undone = |record: &Record| matches!(record.body, Body::Generation(Move::Undone { .. }));
        let undone = bench.records.iter().position(is_undone).unwrap();
        let mut store = Generations::default();
        for record in &bench.records[..=undone] {
            if let Body::Generation(moved) = &record.body {
                store.apply(record, moved).unwrap();
            }
        }
        let mut next = bench.next();
        next.data.clone_from(&bench.data);
        next.world.birth.generations.insert(bot(), Parts { store, ..Parts::default() });
        next.take(Event::Begin);
        assert!(matches!(next.ends()[..], [End::Held { why: Reason::HookFailed { .. } }]), "{:?}", next.ends());
        assert!(next.known().bad(&id("two"), 0).is_some());
        assert_eq!((next.runs(), ran(&next).len()), (None, 0));
    }

    #[test]
    fn a_start_after_a_crash_undoes_first() {
        for is_recorded in [false, true] {
            let mut bench = bench_with(moves(true));
            bench.deploy("two");
            if is_recorded {
                // Hale ends with it gone back, and before anything was undone.
                bench.deaf_hooks = true;
                bench.crash();
                assert_eq!(bench.runs(), None);
            }
            let mut next = bench.next();
            next.data.clone_from(&bench.data);
            next.take(Event::Begin);
            assert_eq!(ran(&next), [("after_rollback", "two", Some("tank/app@7"))]);
            assert_eq!(next.runs(), Some("one"));
            assert!(next.spawned.iter().all(|(_, of)| *of == Some(id("one"))), "{:?}", next.spawned);
        }
    }

    #[test]
    fn what_was_back_before_that_was_on_the_disk_is_undone_all_the_same() {
        for committed in [false, true] {
            let mut bench = bench_with(moves(true));
            bench.deploy("two");
            if committed {
                bench.pass(Span::from_secs(10));
            }
            let mut next = bench.next();
            next.data.clone_from(&bench.data);
            next.current = Some(id("one"));
            next.take(Event::Begin);
            // What is committed somebody else has taken back, and sees to the data.
            assert_eq!((ran(&next).len(), next.runs()), (usize::from(!committed), Some("one")));
        }
    }

    #[test]
    fn what_failed_before_the_switch_changes_nothing() {
        let mut bench = bench_with(moves(true));
        bench.hooks_fail.insert(id("two"));
        bench.deploy("two");
        assert!(matches!(&refusals(&bench)[..], [Reason::HookFailed { .. }]), "{:?}", bench.answers);
        assert_eq!((bench.current.clone(), bench.runs(), bench.spawned.len()), (Some(id("one")), Some("one"), 1));
    }

    #[test]
    fn what_cannot_read_the_data_any_more_is_not_gone_back_to() {
        let mut bench = bench_with(moves(false));
        bench.deploy("two");
        bench.crash();
        assert!(matches!(bench.ends()[..], [End::Held { .. }]), "{:?}", bench.ends());
        for _ in 0..5 {
            bench.pass(Span::from_secs(3));
            if bench.runs().is_some() {
                bench.crash();
            }
        }
        assert!(bench.spawned.iter().skip(1).all(|(_, of)| *of == Some(id("two"))), "{:?}", bench.spawned);
        let moved_on = moved_on();
        let says = |record: &crate::record::Record| matches!(&record.body, Body::Decided(decision) if decision.choice.refused.iter().any(|rung| rung.reason == moved_on));
        assert!(bench.records.iter().any(says), "the ladder says why");
        bench.order(OperatorOrder::Rollback { service: bot(), to: None });
        bench.order(OperatorOrder::Rollback { service: bot(), to: Some(id("one")) });
        assert_eq!(refusals(&bench), [moved_on.clone(), moved_on]);
    }

    #[test]
    fn a_loss_of_power_does_not_make_it_go_back_to_what_cannot_read_the_data() {
        let mut bench = bench_with(moves(false));
        bench.deploy("two");
        let mut next = bench.next();
        next.data.clone_from(&bench.data);
        next.take(Event::Begin);
        assert_eq!((next.current.clone(), next.runs()), (Some(id("two")), Some("two")));
        assert_eq!(next.ends(), [&End::Held { why: moved_on() }]);
    }

    #[test]
    fn once_committed_the_data_are_its_own_and_only_who_insists_goes_back() {
        for undoes in [false, true] {
            let mut bench = bench_with(moves(undoes));
            bench.deploy("two");
            bench.pass(Span::from_secs(10));
            assert_eq!(bench.ends(), [&End::Committed]);
            assert_eq!((bench.known().data_at_least, bench.known().formats[&id("two")].format), (2, 2));
            bench.order(OperatorOrder::Rollback { service: bot(), to: None });
            assert_eq!(refusals(&bench), [moved_on()]);
            bench.order(OperatorOrder::Deploy { service: bot(), generation: id("one"), force: true });
            assert_eq!(bench.runs(), Some("one"));
            bench.pass(Span::from_secs(10));
            assert_eq!(
                (ran(&bench).len(), bench.known().data_at_least),
                (1, 0),
                "what is undone is undone on probation"
            );
        }
    }

    /// `two` is held, has moved the data, and can be undone.
    fn held() -> Bench {
        let mut bench = Bench::new(asks(), Some("one"));
        bench.data.insert(id("two"), moves(true));
        bench.deploy("two");
        bench.crash();
        assert_eq!((bench.runs(), bench.known().data_at_least), (Some("two"), 2));
        bench.answers.clear();
        bench.ran.clear();
        bench
    }

    #[test]
    fn what_is_deployed_over_what_is_held_has_to_read_what_that_left() {
        let mut bench = held();
        bench.refuses_old_data = true;
        bench.deploy("one");
        assert_eq!((refusals(&bench), bench.runs()), (vec![moved_on()], Some("two")));
        bench.data.insert(id("three"), Data { format: 2, min_rollback: 2, ..Data::default() });
        bench.deploy("three");
        bench.crash();
        assert_eq!(bench.runs(), Some("three"), "there is nothing that could read the data, and no reason to stop");
        assert!(ran(&bench).iter().all(|(hook, ..)| *hook == "before_switch"));
    }

    #[test]
    fn what_was_tried_in_vain_leaves_what_can_be_undone() {
        let mut bench = held();
        bench.data.insert(id("three"), moves(true));
        bench.hooks_fail.insert(id("three"));
        bench.deploy("three");
        assert_eq!(bench.runs(), Some("two"));
        bench.order(OperatorOrder::Rollback { service: bot(), to: None });
        assert_eq!(ran(&bench).last(), Some(&("after_rollback", "two", Some("tank/app@7"))));
        assert_eq!(bench.runs(), Some("one"));
    }

    #[test]
    fn the_ladder_does_not_undo_what_was_served_since() {
        let mut bench = held();
        bench.world.services.get_mut(&bot()).unwrap().policy = alloc::sync::Arc::new(crate::step::bench::policy());
        for _ in 0..6 {
            bench.pass(Span::from_secs(3));
            if bench.runs().is_some() {
                bench.crash();
            }
        }
        assert_eq!((ran(&bench).len(), bench.current.clone()), (0, Some(id("two"))));
    }

    #[test]
    fn who_rolls_back_what_was_stopped_meanwhile_is_answered_and_can_deploy() {
        let mut bench = bench_with(moves(true));
        bench.slow = true;
        bench.deploy("two");
        bench.order(OperatorOrder::Stop { service: bot() });
        bench.slow = false;
        bench.switched();
        bench.answers.clear();
        bench.order(OperatorOrder::Rollback { service: bot(), to: None });
        assert_eq!((bench.answers.len(), bench.runs(), bench.current.clone()), (1, None, Some(id("one"))));
        bench.deploy("three");
        assert_eq!(bench.runs(), Some("three"));
    }

    #[test]
    fn what_somebody_else_switches_to_during_before_switch_is_not_replaced() {
        let mut bench = bench_with(moves(true));
        bench.durable = false;
        bench.deploy("two");
        for _ in 0..2 {
            bench.take(Event::Durable { up_to: bench.records.last().unwrap().id });
        }
        assert!(matches!(bench.known().switch.as_ref().unwrap().stage, Stage::Prepared { .. }));
        bench.durable = true;
        bench.outside("theirs");
        assert_eq!(bench.current, Some(id("theirs")));
        assert!(matches!(bench.ends()[..], [End::Aborted { why: Reason::Superseded { .. } }]), "{:?}", bench.ends());
    }

    #[test]
    fn who_insisted_in_vain_has_changed_nothing() {
        let mut bench = Bench::not_begun(policy(), Some("one"));
        bench.data.insert(id("one"), moves(false));
        bench.take(Event::Begin);
        bench.order(OperatorOrder::Deploy { service: bot(), generation: id("zero"), force: true });
        assert_eq!(bench.runs(), Some("zero"));
        bench.crash();
        assert_eq!((bench.runs(), bench.known().data_at_least), (Some("one"), 2));
    }

    #[test]
    fn what_is_held_can_be_undone_until_something_else_is_switched_to() {
        for begins_again in [false, true] {
            let mut bench = Bench::new(asks(), Some("one"));
            bench.data.insert(id("two"), moves(true));
            bench.deploy("two");
            bench.crash();
            assert_eq!(bench.ends(), [&End::Held { why: Reason::RollbackAsk }]);
            assert_eq!((bench.runs(), bench.known().data_at_least), (Some("two"), 2));
            if begins_again {
                let mut next = bench.next();
                next.data.clone_from(&bench.data);
                next.take(Event::Begin);
                bench = next;
            }
            bench.ran.clear();
            bench.order(OperatorOrder::Rollback { service: bot(), to: None });
            assert_eq!(ran(&bench), [("after_rollback", "two", Some("tank/app@7"))]);
            assert_eq!((bench.runs(), bench.known().data_at_least), (Some("one"), 0));
            assert_eq!(bench.known().undoable, None);
        }
    }

    #[test]
    fn who_gives_the_order_back_is_told_why_not() {
        let mut bench = Bench::new(asks(), Some("one"));
        bench.data.insert(id("two"), moves(false));
        bench.deploy("two");
        bench.order(OperatorOrder::Rollback { service: bot(), to: None });
        assert_eq!(refusals(&bench), [moved_on()]);
        assert_eq!(bench.runs(), Some("two"));
    }

    #[test]
    fn what_somebody_else_switched_to_moves_the_data_too() {
        let mut bench = bench_with(Data { undoes: true, ..moves(false) });
        bench.outside("two");
        let switch = bench.known().switch.clone().unwrap();
        assert_eq!((switch.data.min_rollback, switch.data.undoes), (2, false), "nobody has made a copy");
        bench.order(OperatorOrder::Restart { service: bot() });
        assert_eq!(bench.runs(), Some("two"));
        bench.crash();
        assert_ne!(bench.current, Some(id("one")));
        assert!(ran(&bench).is_empty());
    }

    #[test]
    fn what_was_there_first_has_a_format_too() {
        let mut bench = Bench::not_begun(policy(), Some("one"));
        bench.data.insert(id("one"), Data { format: 2, min_rollback: 1, ..Data::default() });
        bench.data.insert(id("two"), moves(false));
        bench.take(Event::Begin);
        assert_eq!(bench.known().data_at_least, 1);
        bench.deploy("two");
        bench.crash();
        assert_eq!(bench.runs(), Some("one"), "it reads format 2");
        assert_eq!(bench.known().formats[&id("one")].format, 2);
    }
}
