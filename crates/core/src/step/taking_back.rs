//! The rung of the ladder that takes back the newest change, and the one that puts it back where it was not the cause.

use super::Brain;
use crate::ids::{GenerationId, Name};
use crate::incident::Cause;
use crate::plan::take_back;
use crate::policy::Rollback;
use crate::reason::Reason;
use crate::safeswitch::{Aim, Failure, Move, Part};
use crate::world::phase::Then;
use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Reverse;

impl Brain<'_> {
    /// The parts of it that have generations, the one that was changed last first.
    pub(super) fn newest_first(&self, name: &Name) -> Vec<Part> {
        let service = &self.world.services[name];
        let mut parts: Vec<Part> = service.parts().collect();
        parts.sort_by_key(|part| Reverse(service.known.generations[*part].newest_change_wall_us()));
        parts
    }

    /// Its newest failure, of this kind.
    pub(super) fn failure(&self, name: &Name, cause: Cause) -> Failure {
        let exception = self.known(name).counters.endings.alike().map(|alike| alike.exception);
        Failure { cause, exception }
    }

    /// What the rule of taking back reads of a failure of this kind, of the newest change that can be taken back, or else of the
    /// newest; `None`: it has no generations.
    pub(super) fn could_take_back(
        &self,
        name: &Name,
        cause: Cause,
        refused: Option<&Reason>,
    ) -> Option<take_back::Read> {
        let policy = self.policy(name);
        let (policy, wall_us) = (policy.generations.as_ref()?, self.at.wall_us);
        let read = |part: Part| {
            let known = self.generations(name, part);
            let mut read = take_back::read(policy, part, known, self.failure(name, cause), wall_us);
            if !self.runs_current(name, part) {
                // It is not of what was switched to that it fails.
                read.switches |= read.on_probation;
                read.on_probation = false;
            }
            read.refused = refused.cloned();
            // The budget is the service's.
            read.taken_back =
                Part::ALL.into_iter().map(|part| self.generations(name, part).taken_back_today(wall_us)).sum();
            read
        };
        let reads: Vec<take_back::Read> = self.newest_first(name).into_iter().map(read).collect();
        // What has not proved itself goes back at once. Then what was taken back in vain comes back, before another change is suspected.
        let goes_back = |read: &&take_back::Read| {
            read.on_probation && matches!(take_back::choose(read), take_back::Choice::TakeBack { .. })
        };
        let puts_back = |read: &&take_back::Read| matches!(take_back::choose(read), take_back::Choice::PutBack { .. });
        let can = |read: &&take_back::Read| !matches!(take_back::choose(read), take_back::Choice::Refuse { .. });
        let first = reads.iter().find(goes_back).or_else(|| reads.iter().find(puts_back));
        first.or_else(|| reads.iter().find(can)).or(reads.first()).cloned()
    }

    /// Whether Hale may take something back by itself.
    pub(super) fn may_go_back(&self, name: &Name) -> bool {
        self.policy(name).generations.as_ref().is_some_and(|policy| policy.rollback == Rollback::Auto)
    }

    /// Why a change is not taken back, although there is what was good before it.
    pub(super) fn kept_from_going_back(&self, name: &Name, part: Part) -> Option<Reason> {
        match self.policy(name).generations.as_ref()?.rollback {
            Rollback::Auto => self.moved_on(name, part),
            Rollback::Ask => Some(Reason::RollbackAsk),
            Rollback::Never => Some(Reason::RollbackNever),
        }
    }

    /// Why the data keeps it from where its switch would go back to, if it does.
    pub(super) fn moved_on(&self, name: &Name, part: Part) -> Option<Reason> {
        let known = self.generations(name, part);
        known.moved_on(known.switch.as_ref()?.intent.back.as_ref()?)
    }

    /// The rung of the ladder: what has not proved itself goes back at once; what has, once that is on the disk.
    pub(super) fn take_back(&mut self, name: &Name, part: Part, to: GenerationId, cause: Cause, finding: &str) {
        if self.generations(name, part).on_probation().is_some() {
            return self.go_back(name, part, to, Reason::OnProbation { finding: String::from(finding) });
        }
        let Some(incident) = self.known(name).incident.map(|open| open.id) else { return };
        self.switch_by_ladder(name, part, Aim::TakeBack { incident, failure: self.failure(name, cause) }, to);
    }

    /// The last rung: what was taken back is not the cause.
    pub(super) fn put_back(&mut self, name: &Name, part: Part, to: GenerationId) {
        let Some(incident) = self.known(name).incident.map(|open| open.id) else { return };
        // Before it is switched to: what is quarantined never is, by Hale itself.
        if self.generations(name, part).bads.iter().any(|bad| bad.id == to) {
            self.moved(name, part, Move::Cleared { generation: to.clone(), why: Reason::CauseElsewhere });
        }
        self.switch_by_ladder(name, part, Aim::PutBack { incident }, to);
    }

    fn switch_by_ladder(&mut self, name: &Name, part: Part, aim: Aim, to: GenerationId) {
        if self.intend(name, part, aim, to) {
            let until = self.now();
            self.bring_down(name, Then::Restart { until }, Reason::MustGo);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incident::Outcome;
    use crate::record::OperatorOrder;
    use crate::safeswitch::{End, Generations, Good, Grade, TakenBack};
    use crate::step::bench::{Bench, bot, id, policy};
    use crate::time::Span;
    use crate::world::phase::Phase;

    fn crash_loop(bench: &mut Bench) {
        for _ in 0..3 {
            bench.crash();
            bench.pass(Span::from_ms(200));
        }
    }

    fn is_held(bench: &Bench) -> bool {
        matches!(bench.world.services[&bot()].known.phase, Phase::Held { .. })
    }

    #[test]
    fn what_is_put_back_is_quarantined_no_longer_before_it_is_switched_to() {
        let mut bench = Bench::new(policy(), Some("old"));
        bench.deploy("new");
        bench.pass(Span::from_secs(200));
        for _ in 0..6 {
            bench.crash();
            bench.pass(Span::from_ms(200));
        }
        let moves: Vec<&Move> =
            bench.records.iter().filter_map(|record| record.body.moved().map(|(_, it)| it)).collect();
        let at = |is: fn(&&&Move) -> bool| moves.iter().position(|it| is(&it)).unwrap();
        let cleared = at(|it| matches!(it, Move::Cleared { .. }));
        let intended = at(|it| matches!(it, Move::Intended { intent } if matches!(intent.aim, Aim::PutBack { .. })));
        assert!(cleared < intended);
    }

    #[test]
    fn what_fails_in_the_same_way_without_the_change_gets_it_back() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.deploy("two");
        bench.pass(Span::from_secs(70));
        crash_loop(&mut bench);
        assert_eq!(bench.runs(), Some("one"));
        crash_loop(&mut bench);
        assert_eq!(bench.runs(), Some("two"));
        assert!(bench.known().elsewhere && bench.known().bads.is_empty());
        assert!(matches!(bench.ends().last(), Some(End::Environmental { .. })));
        crash_loop(&mut bench);
        assert!(is_held(&bench), "nothing is switched any more");
        assert_eq!(bench.current, Some(id("two")));
        // Well for long enough, and then the same again: that was tried, and it was not the change.
        bench.pass(Span::from_secs(400));
        assert!(!bench.known().elsewhere, "{:?}", bench.world.services[&bot()].known.phase);
        crash_loop(&mut bench);
        assert_eq!((bench.known().taken_back_wall_us.len(), bench.current.clone()), (1, Some(id("two"))));
        // Of what is deployed after that nothing was found out.
        bench.deploy("three");
        bench.pass(Span::from_secs(70));
        crash_loop(&mut bench);
        assert_eq!(bench.runs(), Some("two"));
    }

    #[test]
    fn what_could_not_be_taken_back_spends_nothing_of_the_budget() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.deploy("two");
        bench.pass(Span::from_secs(70));
        bench.durable = false;
        crash_loop(&mut bench);
        bench.pass(Span::from_secs(6));
        assert!(matches!(bench.ends().last(), Some(End::Aborted { .. })), "{:?}", bench.ends());
        assert!(is_held(&bench) && bench.known().taken_back_wall_us.is_empty());
    }

    #[test]
    fn going_back_is_no_change_that_could_be_taken_back() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.deploy("two");
        bench.pass(Span::from_secs(3_600));
        bench.deploy("three");
        bench.pass(Span::from_secs(70));
        crash_loop(&mut bench);
        assert_eq!(bench.runs(), Some("two"));
        bench.pass(Span::from_secs(70));
        crash_loop(&mut bench);
        assert_eq!(bench.current, Some(id("two")), "that change is older than an hour, though it came back just now");
        assert!(is_held(&bench));
    }

    #[test]
    fn a_crash_loop_after_the_commit_takes_the_newest_change_back_and_then_the_next_older() {
        let mut bench = Bench::new(policy(), Some("one"));
        for change in ["two", "three"] {
            bench.deploy(change);
            bench.pass(Span::from_secs(70));
            assert_eq!(bench.known().current_grade(), Some(Grade::Provisional));
        }
        crash_loop(&mut bench);
        assert_eq!(bench.runs(), Some("two"));
        assert_eq!(bench.outcomes().last(), Some(&Outcome::RolledBack));
        // Another kind of failure than the one that was cured: the next older.
        bench.pass(Span::from_secs(70));
        crash_loop(&mut bench);
        assert_eq!(bench.runs(), Some("one"));
        bench.pass(Span::from_secs(70));
        crash_loop(&mut bench);
        assert!(is_held(&bench), "nothing older is left");
    }

    #[test]
    fn a_restart_by_an_operator_is_no_proof_that_what_was_taken_back_was_the_cause() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.deploy("two");
        bench.pass(Span::from_secs(70));
        crash_loop(&mut bench);
        assert_eq!(bench.runs(), Some("one"));
        bench.crash();
        bench.order(OperatorOrder::Restart { service: bot() });
        crash_loop(&mut bench);
        assert_eq!(bench.runs(), Some("two"), "it was put back");
        assert!(bench.known().elsewhere);
        bench.order(OperatorOrder::Restart { service: bot() });
        assert!(bench.known().elsewhere, "nothing has shown that it is gone");
        bench.pass(Span::from_secs(400));
        assert!(!bench.known().elsewhere);
    }

    /// One that has files, too, of which `f2` was good since this time, and `f1` before.
    fn with_files() -> (Bench, impl Fn(&mut Bench, i64)) {
        let mut policy = policy();
        policy.generations.iter_mut().for_each(|generations| generations.files.push(String::from("/etc/bot.conf")));
        let set = |bench: &mut Bench, since_wall_us| {
            let good = |name, since_wall_us| Good { id: id(name), grade: Grade::Proven, since_wall_us };
            let goods = alloc::vec![good("f2", since_wall_us), good("f1", 0)];
            let current = Some(id("f2"));
            let known = &mut bench.world.services.get_mut(&bot()).unwrap().known;
            known.runs.files.clone_from(&current);
            let (is_known, changed_wall_us) = (true, since_wall_us);
            known.generations.files =
                Generations { current, goods, is_known, changed_wall_us, ..Generations::default() };
        };
        let mut bench = Bench::new(policy, Some("one"));
        bench.pass(Span::from_secs(1));
        (bench, set)
    }

    fn files(bench: &Bench) -> Option<&str> {
        bench.world.services[&bot()].known.generations.files.current.as_ref().map(GenerationId::as_str)
    }

    #[test]
    fn what_was_taken_back_in_vain_is_put_back_before_another_change_is_suspected() {
        let (mut bench, set_files) = with_files();
        bench.deploy("two");
        bench.pass(Span::from_secs(70));
        // Newer than `one`, and older than `two`.
        let since_wall_us = bench.known().newest_change_wall_us() - 1;
        set_files(&mut bench, since_wall_us);
        crash_loop(&mut bench);
        assert_eq!((bench.current.clone(), bench.known().switch.clone()), (Some(id("one")), None));
        crash_loop(&mut bench);
        assert_eq!((bench.current.clone(), files(&bench)), (Some(id("two")), Some("f2")));
    }

    #[test]
    fn what_has_to_prove_itself_goes_back_whatever_else_may_be_suspected() {
        for is_in_vain in [false, true] {
            let (mut bench, set_files) = with_files();
            bench.deploy("two");
            bench.pass(Span::from_secs(70));
            let now_us = bench.now().wall_us;
            set_files(&mut bench, now_us);
            bench.pass(Span::from_secs(1));
            bench.deploy("three");
            assert_eq!(bench.runs(), Some("three"));
            if is_in_vain {
                let failure = Failure { cause: Cause::Exit, exception: None };
                let taken_back = TakenBack { id: id("f3"), changed_wall_us: now_us, failure };
                bench.world.services.get_mut(&bot()).unwrap().known.generations.files.taken_back = Some(taken_back);
            }
            bench.crash();
            assert_eq!((bench.runs(), files(&bench)), (Some("two"), Some("f2")));
        }
    }

    #[test]
    fn what_was_good_long_ago_and_has_to_prove_itself_once_more_is_the_newest_change() {
        let (mut bench, set_files) = with_files();
        bench.deploy("two");
        bench.pass(Span::from_secs(70));
        let now_us = bench.now().wall_us;
        set_files(&mut bench, now_us);
        bench.pass(Span::from_secs(1));
        bench.deploy("one");
        assert_eq!(bench.runs(), Some("one"));
        bench.order(OperatorOrder::Rollback { service: bot(), to: None });
        assert_eq!((bench.runs(), files(&bench)), (Some("two"), Some("f2")));
    }
}
