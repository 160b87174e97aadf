//! Switching: what is to be switched to is put on record, then the store is told, then the process is started anew; and the ends of it.

use super::Brain;
use crate::analyze::checks::CheckState;
use crate::effect::{Order, Towards};
use crate::event::{Seen, SwitchError};
use crate::ids::{GenerationId, Name, RecordId};
use crate::incident::Cause;
use crate::policy::CheckPolicy;
use crate::reason::Reason;
use crate::record::Body;
use crate::safeswitch::{Aim, Bad, Data, End, Generations, Intent, Move, Part, QUARANTINED_FOR, Stage, Switch};
use crate::time::Monotonic;
use crate::world::phase::{Phase, Then};
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

impl Brain<'_> {
    pub(super) fn generations(&self, name: &Name, part: Part) -> &Generations {
        &self.known(name).generations[part]
    }

    pub(super) fn switch(&self, name: &Name, part: Part) -> Option<&Switch> {
        self.generations(name, part).switch.as_ref()
    }

    pub(super) fn moved(&mut self, name: &Name, part: Part, moved: Move) -> bool {
        self.record(name, Body::of_part(part, moved))
    }

    /// Puts on record what is to be switched to; the store is told once that is durable.
    pub(super) fn intend(&mut self, name: &Name, part: Part, aim: Aim, to: GenerationId) -> bool {
        self.intend_and_insist(name, part, aim, to, false)
    }

    /// The same; who insists takes what cannot read the service's data, too.
    pub(super) fn intend_and_insist(
        &mut self,
        name: &Name,
        part: Part,
        aim: Aim,
        to: GenerationId,
        insists: bool,
    ) -> bool {
        let known = self.generations(name, part);
        let from = known.current.clone();
        // What is left without proof is nothing to go back to, but the newest that was good before it is.
        let back = match &aim {
            Aim::Deploy { .. } | Aim::Outside => {
                let wall_us = self.at.wall_us;
                let may_be = |id: &&GenerationId| **id != to && known.bad(id, wall_us).is_none();
                let can = |id: &&GenerationId| may_be(id) && known.moved_on(id).is_none();
                let newest = known.goods.iter().map(|good| &good.id).find(can);
                from.as_ref().filter(|id| may_be(id) && known.good(id).is_some()).or(newest).cloned()
            }
            Aim::TakeBack { .. } => from.clone(),
            Aim::PutBack { .. } | Aim::Return { .. } => None,
        };
        let failed_before = if aim.proves() { self.failing(name) } else { BTreeSet::new() };
        let boot_id = self.world.birth.boot_id.clone();
        let data_at_least = match aim {
            _ if insists => 0,
            Aim::Return { .. } => known.readable_from_by_order(),
            Aim::Deploy { .. } | Aim::Outside | Aim::TakeBack { .. } | Aim::PutBack { .. } => known.data_at_least,
        };
        let intent = Box::new(Intent { aim, from, to, back, failed_before, data_at_least, boot_id });
        let id = self.next_record();
        if !self.moved(name, part, Move::Intended { intent }) {
            return false;
        }
        if let Some(service) = self.service_mut(name) {
            // What this Hale began it knows itself.
            service.senses.unmatched[part] = false;
        }
        self.world.intended.insert(id, (name.clone(), part));
        true
    }

    /// The checks that fail now.
    fn failing(&self, name: &Name) -> BTreeSet<Name> {
        let service = &self.world.services[name];
        let checks = service.policy.checks.iter().zip(&service.known.checks);
        // One that was late once does not fail. Those of an incident do, though its next process has not been asked yet.
        let of_incident = |name: &Name| service.known.incident.is_some() && service.known.failed_checks.contains(name);
        let fails = |(policy, state): &(&CheckPolicy, &CheckState)| match state {
            CheckState::Failing { failures } => *failures >= policy.failures || of_incident(&policy.name),
            CheckState::Unknown => of_incident(&policy.name),
            CheckState::Passing => false,
        };
        checks.filter(fails).map(|(policy, _)| policy.name.clone()).collect()
    }

    /// Records up to this one are on the disk: what waits for that goes on.
    pub(super) fn switches_durable(&mut self, up_to: RecordId) {
        while let Some(first) = self.world.intended.first_entry().filter(|first| *first.key() <= up_to) {
            let (name, part) = first.remove();
            self.touched.insert(name.clone());
            self.go_on_durable(&name, part, up_to);
        }
    }

    fn go_on_durable(&mut self, name: &Name, part: Part, up_to: RecordId) {
        let undone = self.world.services.get(name).and_then(|service| service.senses.undone);
        if undone.is_some_and(|(undone, _)| undone <= up_to) {
            self.start_undone(name);
        }
        let Some(switch) =
            self.world.services.get(name).and_then(|service| service.known.generations[part].switch.clone())
        else {
            return;
        };
        match switch.stage {
            Stage::Intended { .. } if switch.id <= up_to => {
                if self.moved(name, part, Move::Begun { switch: switch.id }) {
                    self.order_switch(name, part, &switch);
                }
            }
            Stage::Prepared { prepared, .. } if prepared <= up_to => {
                if self.moved(name, part, Move::Begun { switch: switch.id }) {
                    self.order_switch(name, part, &switch);
                }
            }
            Stage::Committing { proved, told: false, .. } if proved <= up_to => {
                if self.moved(name, part, Move::Promoting { switch: switch.id }) {
                    self.order_promote(name, part, &switch);
                }
            }
            Stage::Intended { .. }
            | Stage::Prepared { .. }
            | Stage::Switching
            | Stage::Probation { .. }
            | Stage::Committing { .. }
            | Stage::GoingBack { .. }
            | Stage::Validating { .. } => {}
        }
    }

    /// Tells the store what the stage of the switch calls for.
    pub(super) fn order_switch(&mut self, name: &Name, part: Part, switch: &Switch) {
        let intent = &switch.intent;
        let (to, back, towards) = match &switch.stage {
            Stage::GoingBack { to, .. } => (to.clone(), None, Towards::Back),
            Stage::Intended { .. }
            | Stage::Prepared { .. }
            | Stage::Switching
            | Stage::Probation { .. }
            | Stage::Committing { .. }
            | Stage::Validating { .. } => match intent.aim {
                Aim::Deploy { .. } | Aim::Outside => (intent.to.clone(), intent.back.clone(), Towards::New),
                Aim::TakeBack { .. } | Aim::PutBack { .. } | Aim::Return { .. } => {
                    (intent.to.clone(), None, Towards::Back)
                }
            },
        };
        let epoch = self.known(name).last_epoch;
        let data_at_least = match switch.stage {
            // What it says itself is on record.
            Stage::GoingBack { .. } => 0,
            Stage::Intended { .. }
            | Stage::Prepared { .. }
            | Stage::Switching
            | Stage::Probation { .. }
            | Stage::Committing { .. }
            | Stage::Validating { .. } => intent.data_at_least,
        };
        let prepared = !switch.data.is_silent();
        let over = switch.touches().chain([&to]).cloned().collect();
        let order = Order::Switch { part, switch: switch.id, to, back, over, towards, data_at_least, prepared };
        self.effect(name, epoch, order);
    }

    /// A record of ours will never be durable.
    pub(super) fn switch_not_durable(&mut self, record: RecordId) {
        let Some((name, part)) = self.world.intended.remove(&record) else { return };
        let Some(switch) =
            self.world.services.get(&name).and_then(|service| service.known.generations[part].switch.clone())
        else {
            return;
        };
        self.touched.insert(name.clone());
        if self.world.services[&name].senses.undone.is_some_and(|(undone, _)| undone == record) {
            return self.start_undone(&name);
        }
        match switch.stage {
            Stage::Intended { .. } | Stage::Prepared { .. } => self.abort(&name, part, &Reason::NoDurableRecord),
            Stage::Committing { told: false, .. } => {
                self.end_switch(&name, part, &End::Held { why: Reason::NoDurableRecord });
            }
            Stage::Switching
            | Stage::Probation { .. }
            | Stage::Committing { .. }
            | Stage::GoingBack { .. }
            | Stage::Validating { .. } => {}
        }
    }

    /// The store has switched, or has not.
    pub(super) fn generation_switched(
        &mut self,
        name: &Name,
        part: Part,
        id: RecordId,
        error: Option<SwitchError>,
        seen: &Seen,
        data: &Data,
    ) {
        let Some(switch) = self.switch(name, part).filter(|switch| switch.id == id).cloned() else { return };
        let wanted = match &switch.stage {
            Stage::Switching => &switch.intent.to,
            Stage::GoingBack { to, .. } => to,
            Stage::Intended { .. }
            | Stage::Prepared { .. }
            | Stage::Probation { .. }
            | Stage::Committing { .. }
            | Stage::Validating { .. } => return,
        };
        let is_there = *seen == Seen::Current(Some(wanted.clone()));
        if let Seen::Current(Some(theirs)) = seen
            && !is_there
            // Files may be half of one and half of the other.
            && (part == Part::Store || error.is_none())
            && !switch.touches().any(|ours| ours == theirs)
        {
            // Somebody else has switched meanwhile.
            self.superseded(name, part, Some(theirs.clone()), data);
            return self.hold_or_start(name);
        }
        let goes_back = matches!(switch.stage, Stage::GoingBack { .. });
        if let (Aim::TakeBack { .. }, Stage::GoingBack { why, .. }) = (&switch.intent.aim, &switch.stage)
            && is_there
            && !switch.is_put_back()
            && self.generations(name, part).current.as_ref() == Some(wanted)
        {
            // It could not be taken back, and nothing was found out by that.
            return self.abort(name, part, &why.clone());
        }
        match error {
            // On the way back what can be seen is enough: it is on record, and the next start does it again.
            None if is_there => self.reached(name, part, &switch, wanted.clone()),
            Some(_) if is_there && (goes_back || !switch.intent.aim.proves()) => {
                self.reached(name, part, &switch, wanted.clone());
            }
            error => {
                let is_unusable = matches!(error, Some(SwitchError::Unusable { .. }));
                let wanted = wanted.clone();
                let why = match error {
                    Some(SwitchError::NoWayBack { error }) => Reason::NoWayBack { error },
                    Some(SwitchError::DataMovedOn { format, at_least }) => {
                        Reason::DataMovedOn { generation: wanted.clone(), format, at_least }
                    }
                    Some(SwitchError::Hook { error }) => Reason::HookFailed { error },
                    Some(SwitchError::Unusable { error } | SwitchError::Failed { error }) => {
                        Reason::NotSwitched { error }
                    }
                    None => Reason::NotSwitched { error: format!("it says that it did, and {}", seen_words(seen)) },
                };
                let unchanged = switch.intent.from.clone();
                let is_way_back = goes_back || matches!(switch.intent.aim, Aim::TakeBack { .. } | Aim::Return { .. });
                if is_unusable && is_way_back {
                    self.quarantine(name, part, wanted, why.clone());
                }
                match (goes_back, switch.intent.back.clone()) {
                    (true, _) if is_unusable && self.go_back_further(name, part, &switch) => {}
                    // What is there is started all the same: what may work is better than nothing.
                    (true, _) => {
                        self.end_switch(name, part, &End::Held { why });
                        self.look_at_store(name, part);
                        self.take_what_is_there(name, part, seen, data);
                        self.hold_or_start(name);
                    }
                    (false, Some(back)) if *seen != Seen::Current(unchanged) => self.go_back(name, part, back, why),
                    (false, _) => {
                        self.abort(name, part, &why);
                        self.take_what_is_there(name, part, seen, data);
                    }
                }
            }
        }
    }

    /// A switch ended elsewhere than it should: what the store is switched to now is what counts, as if somebody else had done
    /// that.
    fn take_what_is_there(&mut self, name: &Name, part: Part, seen: &Seen, data: &Data) {
        if let Seen::Current(current) = seen
            && self.switch(name, part).is_none()
        {
            self.look_for_others(name, part, current.clone(), data);
        }
    }

    /// It is switched to `to`: its process comes next.
    pub(super) fn reached(&mut self, name: &Name, part: Part, switch: &Switch, to: GenerationId) {
        if !self.moved(name, part, Move::Switched { switch: switch.id, to: to.clone() }) {
            return;
        }
        // What failed before was something else.
        self.record(name, Body::CountersForgotten);
        let until = self.now();
        let is_stopped = matches!(self.phase(name), Phase::Stopped { .. });
        let was_stopped_since = is_stopped && self.known(name).stopped_in[part] == Some(switch.id);
        if switch.is_put_back() {
            let why =
                if let Stage::GoingBack { why, .. } = &switch.stage { why.clone() } else { Reason::CauseElsewhere };
            self.end_switch(name, part, &End::Environmental { why });
            if was_stopped_since {
                return;
            }
        }
        self.start_switched(name, part, until, Reason::Switched { to });
        if self.known(name).healthy && self.validated(name) {
            // It was never ended.
            self.end_incident_well(name, true);
        }
    }

    /// Ends what runs, and starts what this part is switched to, or is going to be. What was stopped for good since stays so, and so
    /// does what is only watched: its next process is of it. In a pause nothing is ended: what is switched to is started when that is
    /// over.
    pub(super) fn start_switched(&mut self, name: &Name, part: Part, until: Monotonic, why: Reason) {
        if self.world.ending.is_some() || self.observes(name) {
            return;
        }
        let known = self.known(name);
        let switch = known.generations[part].switch.as_ref().map(|switch| switch.id);
        match self.phase(name) {
            Phase::Stopping { then: Then::Stay { .. }, .. } => {}
            // A deploy starts what is stopped, unless it was stopped after that.
            Phase::Stopped { .. } if switch.is_some() && known.stopped_in[part] == switch => {
                self.tell_those_who_wait_for_a_switch(name, &format!("{name} was stopped meanwhile"));
            }
            Phase::Stopped { .. }
            | Phase::Down
            | Phase::Blocked { .. }
            | Phase::BackingOff { .. }
            | Phase::Held { .. } => {
                self.world.admission.leave(name);
                self.try_start(name, why);
            }
            Phase::Spawning { .. }
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::Stopping { .. }
            | Phase::Remains { .. } => {
                if self.known(name).paused.is_none() && !self.runs_target(name, part) {
                    self.bring_down(name, Then::Restart { until }, why);
                }
            }
        }
    }

    /// Whether what runs is healthy, and of what this part is switched to, or is going to be.
    fn runs_target(&self, name: &Name, part: Part) -> bool {
        let known = self.known(name);
        let target = match known.generations[part].switch.as_ref().map(|switch| &switch.stage) {
            Some(Stage::GoingBack { to, .. }) => Some(to),
            Some(
                Stage::Intended { .. }
                | Stage::Prepared { .. }
                | Stage::Switching
                | Stage::Probation { .. }
                | Stage::Committing { .. }
                | Stage::Validating { .. },
            )
            | None => known.generations[part].current.as_ref(),
        };
        known.phase.run().is_some() && known.runs[part].as_ref() == target && known.healthy
    }

    /// A pause is over: what was switched to in it is started.
    pub(super) fn start_what_was_switched(&mut self, name: &Name) {
        let runs = self.phase(name).run().is_some() || matches!(self.phase(name), Phase::Spawning { .. });
        let parts: Vec<Part> = self.world.services[name].parts().collect();
        for part in parts {
            let is_ours = self.switch(name, part).is_some_and(|switch| {
                let is_there = matches!(switch.stage, Stage::Probation { .. } | Stage::Validating { .. });
                is_there && switch.intent.aim != Aim::Outside
            });
            let to = self.generations(name, part).current.clone();
            if let Some(to) = to.filter(|_| is_ours && runs && !self.runs_current(name, part)) {
                self.start_switched(name, part, self.now(), Reason::Switched { to });
            }
        }
    }

    /// A deploy's way back, and what follows from a validation that failed.
    pub(super) fn go_back(&mut self, name: &Name, part: Part, to: GenerationId, why: Reason) {
        let Some(id) = self.switch(name, part).map(|switch| switch.id) else { return };
        if !self.moved(name, part, Move::GoesBack { switch: id, to, why: why.clone() }) {
            return;
        }
        if let Some(switch) = self.switch(name, part).cloned() {
            self.order_switch(name, part, &switch);
        }
        let until = self.now();
        let why = if matches!(why, Reason::Ordered { .. }) { why } else { Reason::MustGo };
        self.start_switched(name, part, until, why);
    }

    /// What it was to go back to cannot be: the next older one that is known to be good is as good. `false`: there is none.
    fn go_back_further(&mut self, name: &Name, part: Part, switch: &Switch) -> bool {
        let Stage::GoingBack { why, .. } = &switch.stage else { return false };
        let (known, wall_us) = (self.generations(name, part), self.at.wall_us);
        let can = |id: &&GenerationId| {
            **id != switch.intent.to && known.bad(id, wall_us).is_none() && known.moved_on(id).is_none()
        };
        let next = known.goods.iter().map(|good| &good.id).find(can).filter(|_| switch.intent.aim.proves());
        let Some(next) = next.cloned() else { return false };
        self.go_back(name, part, next, why.clone());
        true
    }

    /// It is not switched to by itself again.
    pub(super) fn quarantine(&mut self, name: &Name, part: Part, id: GenerationId, why: Reason) {
        let since_wall_us = self.at.wall_us;
        let until_wall_us = since_wall_us.saturating_add_unsigned(QUARANTINED_FOR.as_us());
        let seen_in = self.known(name).incident.map(|open| open.id);
        let bad = Box::new(Bad { id, why, seen_in, since_wall_us, until_wall_us });
        self.moved(name, part, Move::Quarantined { bad });
    }

    /// Nothing was changed. What the ladder wanted to take back stays, and is held, unless there is something older.
    pub(super) fn abort(&mut self, name: &Name, part: Part, why: &Reason) {
        let known = self.generations(name, part);
        let further = known.switch.as_ref().is_some_and(|switch| {
            matches!(switch.intent.aim, Aim::TakeBack { .. }) && known.bad(&switch.intent.to, self.at.wall_us).is_some()
        });
        let by_ladder = self.switch(name, part).is_some_and(|switch| match switch.intent.aim {
            Aim::TakeBack { .. } | Aim::PutBack { .. } => true,
            Aim::Deploy { .. } | Aim::Outside | Aim::Return { .. } => false,
        });
        if !self.end_switch(name, part, &End::Aborted { why: why.clone() }) {
            return;
        }
        // What somebody else did meanwhile was taken for this switch.
        self.look_at_store(name, part);
        let stays = matches!(self.phase(name), Phase::Stopped { .. } | Phase::Stopping { then: Then::Stay { .. }, .. });
        if by_ladder && !stays {
            let cause = self.known(name).incident.map_or(Cause::Exit, |open| open.cause);
            self.decide_again(name, cause, (!further).then_some(why));
        } else {
            self.hold_or_start(name);
        }
    }

    /// What was kept from starting by a switch goes on, once its own delay is over.
    fn hold_or_start(&mut self, name: &Name) {
        if let Phase::BackingOff { until } = self.phase(name)
            && until <= self.now()
        {
            self.try_start(name, Reason::DelayOver);
        }
    }

    /// The store says that it stays.
    pub(super) fn generation_promoted(&mut self, name: &Name, part: Part, id: RecordId, error: Option<String>) {
        let Some(switch) = self.switch(name, part).filter(|switch| switch.id == id) else { return };
        if !matches!(switch.stage, Stage::Committing { told: true, .. }) {
            return;
        }
        let end = match error {
            None => End::Committed,
            Some(error) => End::Held { why: Reason::NotSwitched { error } },
        };
        self.end_switch(name, part, &end);
    }
}

fn seen_words(seen: &Seen) -> String {
    match seen {
        Seen::Current(Some(id)) => format!("it is switched to {}", id.short()),
        Seen::Current(None) => String::from("it is switched to nothing"),
        Seen::Unknown { error } => format!("it cannot be told what it is switched to: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::Answer;
    use crate::event::{Event, Notice, ProbeFailure};
    use crate::incident::Outcome;
    use crate::policy::{CheckKind, Rollback, ServicePolicy};
    use crate::record::OperatorOrder;
    use crate::safeswitch::Grade;
    use crate::step::bench::{Bench, bot, id, policy};
    use crate::step::tests::checked;
    use crate::time::Span;
    use alloc::string::ToString;

    #[test]
    fn what_has_no_release_waits_for_one_and_its_first_is_committed() {
        let mut bench = Bench::new(policy(), None);
        let status = &bench.world.status(bench.now(), None).unwrap().services[0];
        assert_eq!(
            (status.state, &*status.detail),
            (crate::status::State::Stopped, &*Reason::NoReleaseYet.to_string())
        );
        bench.deploy("one");
        assert_eq!(bench.runs(), Some("one"));
        assert!(bench.answers.is_empty() && bench.known().switch.is_some());
        bench.pass(Span::from_secs(7));
        assert!(bench.known().switch.is_some());
        bench.pass(Span::from_secs(2));
        assert_eq!(bench.ends(), [&End::Committed]);
        assert!(matches!(&bench.answers[..], [Answer::Done { .. }]), "{:?}", bench.answers);
        assert_eq!(bench.known().current_grade(), Some(Grade::Provisional));
        bench.pass(Span::from_secs(90));
        assert_eq!(bench.known().current_grade(), Some(Grade::Proven));
        let marks = bench.records.iter().filter(|record| matches!(record.body, Body::Generation(Move::Marked { .. })));
        assert_eq!(marks.count(), 7, "the eighth is the proof");
    }

    #[test]
    fn what_fails_on_probation_goes_back_at_once_and_is_never_tried_again_by_itself() {
        let mut bench = Bench::new(policy(), Some("good"));
        assert_eq!((bench.runs(), bench.known().current_grade()), (Some("good"), Some(Grade::Assumed)));
        bench.deploy("bad");
        assert_eq!(bench.runs(), Some("bad"));
        bench.pass(Span::from_secs(3));
        let before = bench.spawned.len();
        bench.crash();
        assert_eq!((bench.runs(), &bench.current), (Some("good"), &Some(id("good"))));
        assert_eq!(bench.spawned.len(), before + 1, "no restart between");
        assert!(
            matches!(bench.ends()[..], [End::RolledBack { why: Reason::OnProbation { .. } }]),
            "{:?}",
            bench.ends()
        );
        assert!(matches!(&bench.answers[..], [Answer::RolledBack { .. }]), "{:?}", bench.answers);
        assert_eq!(bench.outcomes(), [Outcome::RolledBack]);
        let known = &bench.world.services[&bot()].known;
        assert_eq!(known.counters.failures, 0, "they are not the service's");
        bench.deploy("bad");
        let Some(Answer::Refused(refusal)) = bench.answers.last() else { panic!("{:?}", bench.answers) };
        assert!(matches!(refusal.reason, Reason::Quarantined { .. }));
        bench.order(OperatorOrder::Deploy { service: bot(), generation: id("bad"), force: true });
        assert_eq!(bench.runs(), Some("bad"));
    }

    #[test]
    fn without_a_durable_record_nothing_is_switched() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.deploy("two");
        bench.pass(Span::from_secs(70));
        bench.durable = false;
        for _ in 0..3 {
            bench.crash();
            bench.pass(Span::from_ms(200));
        }
        bench.pass(Span::from_secs(6));
        assert_eq!(bench.current, Some(id("two")));
        assert!(matches!(bench.ends().last(), Some(End::Aborted { why: Reason::NoDurableRecord })));
        assert!(matches!(bench.world.services[&bot()].known.phase, Phase::Held { .. }));
    }

    #[test]
    fn what_is_quarantined_is_no_way_back() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.deploy("two");
        bench.damaged.push(id("one"));
        bench.crash();
        assert!(bench.known().bad(&id("one"), 0).is_some() && bench.known().good(&id("one")).is_some());
        bench.outside("one");
        bench.outside("three");
        assert_eq!(bench.known().on_probation().map(|switch| switch.intent.back.clone()), Some(None));
    }

    #[test]
    fn somebody_elses_switch_is_not_fought_and_proves_itself_from_the_next_process_on() {
        let mut bench = Bench::new(policy(), Some("one"));
        let processes = bench.spawned.len();
        bench.current = Some(id("theirs"));
        bench.take(Event::GenerationSeen {
            service: bot(),
            part: Part::Store,
            seen: Seen::Current(Some(id("theirs"))),
            data: Data::default(),
        });
        assert_eq!((bench.runs(), bench.spawned.len()), (Some("one"), processes));
        bench.pass(Span::from_secs(30));
        assert!(bench.known().on_probation().is_some(), "nothing of it runs yet");
        bench.order(OperatorOrder::Restart { service: bot() });
        assert_eq!(bench.runs(), Some("theirs"));
        bench.crash();
        assert_eq!(bench.runs(), Some("one"));
    }

    #[test]
    fn somebody_elses_switch_amidst_ours_is_not_fought_when_ours_fails() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.slow = true;
        bench.deploy("two");
        let switch = bench.known().switch.as_ref().unwrap().id;
        bench.current = Some(id("theirs"));
        let (seen, data) = (Seen::Current(bench.current.clone()), Data::default());
        let error = Some(SwitchError::Hook { error: String::from("no room") });
        bench.take(Event::GenerationSwitched { service: bot(), part: Part::Store, switch, error, seen, data });
        assert_eq!((bench.current.clone(), bench.waiting.len()), (Some(id("theirs")), 1), "it was told nothing more");
        assert!(matches!(bench.ends()[..], [End::Aborted { why: Reason::Superseded { .. } }]), "{:?}", bench.ends());
        assert_eq!(bench.known().on_probation().map(|switch| &switch.intent.to), Some(&id("theirs")));
    }

    #[test]
    fn what_somebody_else_switches_to_before_our_intent_is_durable_is_not_replaced() {
        let mut bench = Bench::new(policy(), Some("one"));
        let durable = |bench: &mut Bench| bench.take(Event::Durable { up_to: bench.records.last().unwrap().id });
        bench.durable = false;
        bench.deploy("two");
        durable(&mut bench);
        assert!(matches!(bench.known().switch.as_ref().unwrap().stage, Stage::Intended { .. }));
        bench.outside("theirs");
        bench.durable = true;
        durable(&mut bench);
        assert_eq!(bench.current, Some(id("theirs")));
        assert!(matches!(bench.ends()[..], [End::Aborted { why: Reason::Superseded { .. } }]), "{:?}", bench.ends());
        assert_eq!(bench.known().on_probation().map(|switch| &switch.intent.to), Some(&id("theirs")));
    }

    #[test]
    fn a_rollback_that_is_said_again_passes_over_what_is_damaged() {
        let mut bench = Bench::new(policy(), Some("one"));
        for change in ["two", "three"] {
            bench.deploy(change);
            bench.pass(Span::from_secs(70));
        }
        bench.damaged.push(id("two"));
        bench.order(OperatorOrder::Rollback { service: bot(), to: None });
        assert_eq!(bench.runs(), Some("three"));
        bench.order(OperatorOrder::Rollback { service: bot(), to: None });
        assert_eq!(bench.runs(), Some("one"));
    }

    #[test]
    fn that_a_store_shows_nothing_any_more_is_told_once() {
        let mut bench = Bench::new(policy(), Some("one"));
        let told = |bench: &Bench| {
            let moves = bench.records.iter().filter_map(|record| record.body.moved());
            moves.filter(|(_, it)| matches!(it, Move::Unseen { .. })).count()
        };
        let seen = |bench: &mut Bench, current: Option<&str>| {
            let (seen, data) = (Seen::Current(current.map(id)), Data::default());
            bench.take(Event::GenerationSeen { service: bot(), part: Part::Store, seen, data });
        };
        (0..3).for_each(|_| seen(&mut bench, None));
        assert_eq!(told(&bench), 1);
        seen(&mut bench, Some("one"));
        seen(&mut bench, None);
        assert_eq!(told(&bench), 2);
    }

    #[test]
    fn what_was_damaged_and_works_again_is_a_way_back_again() {
        let mut bench = Bench::new(policy(), Some("one"));
        for change in ["two", "three"] {
            bench.deploy(change);
            bench.pass(Span::from_secs(70));
        }
        let back = || OperatorOrder::Rollback { service: bot(), to: Some(id("two")) };
        bench.damaged.push(id("two"));
        bench.order(back());
        assert!(bench.known().bad(&id("two"), bench.now().wall_us).is_some());
        bench.damaged.clear();
        bench.order(back());
        bench.pass(Span::from_secs(70));
        bench.deploy("bad");
        bench.crash();
        assert_eq!(bench.runs(), Some("two"));
    }

    #[test]
    fn what_could_not_be_taken_back_is_not_found_to_be_good_by_that() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.deploy("two");
        bench.pass(Span::from_secs(70));
        bench.damaged.push(id("one"));
        bench.blind = true;
        for _ in 0..3 {
            bench.crash();
            bench.pass(Span::from_ms(200));
        }
        assert!(!bench.known().elsewhere && bench.known().exonerated.is_none(), "{:?}", bench.known());
        assert!(matches!(bench.world.services[&bot()].known.phase, Phase::Held { .. }));
        assert_eq!(bench.current, Some(id("two")));
    }

    #[test]
    fn a_check_that_was_late_once_has_to_be_passed_all_the_same() {
        for fails in [false, true] {
            let mut bench = Bench::new(with_check(), Some("one"));
            bench.answers_probes = 0;
            // Three in a row are a failure.
            for _ in 0..if fails { 3 } else { 1 } {
                bench.pass(Span::from_secs(10));
                bench.answer(Some(ProbeFailure::Timeout), Span::from_secs(4));
            }
            assert_eq!(bench.world.services[&bot()].known.incident.is_some(), fails);
            bench.deploy("two");
            let switch = bench.known().switch.clone().unwrap();
            assert_eq!(switch.intent.failed_before.is_empty(), !fails, "{switch:?}");
        }
    }

    #[test]
    fn what_was_held_and_works_for_the_soak_time_is_good_and_where_the_next_change_goes_back_to() {
        let mut policy = policy();
        policy.generations.iter_mut().for_each(|generations| generations.rollback = Rollback::Ask);
        let mut bench = Bench::new(policy, Some("one"));
        bench.deploy("two");
        bench.crash();
        assert!(matches!(bench.ends()[..], [End::Held { .. }]), "{:?}", bench.ends());
        bench.pass(Span::from_secs(70));
        assert_eq!((bench.runs(), bench.known().current_grade()), (Some("two"), None));
        bench.pass(Span::from_secs(20));
        assert_eq!(bench.known().current_grade(), Some(Grade::Proven));
        bench.deploy("three");
        assert_eq!(bench.known().switch.as_ref().and_then(|it| it.intent.back.clone()), Some(id("two")));
    }

    #[test]
    fn an_order_goes_back_and_forth() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.order(OperatorOrder::Rollback { service: bot(), to: None });
        assert!(matches!(&bench.answers[..], [Answer::Refused(refusal)] if refusal.reason == Reason::NoOlderGood));
        bench.deploy("two");
        bench.order(OperatorOrder::Rollback { service: bot(), to: None });
        assert_eq!(bench.runs(), Some("one"));
        assert!(bench.known().bads.is_empty(), "nothing was found against it");
        bench.deploy("two");
        bench.pass(Span::from_secs(10));
        bench.order(OperatorOrder::Rollback { service: bot(), to: Some(id("one")) });
        assert_eq!(bench.runs(), Some("one"));
        assert!(matches!(bench.answers.last(), Some(Answer::Done { .. })), "{:?}", bench.answers);
    }

    #[test]
    fn a_second_deploy_waits_for_the_first_to_end() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.deploy("two");
        bench.deploy("three");
        assert!(matches!(&bench.answers[..], [Answer::Busy { .. }]), "{:?}", bench.answers);
    }

    /// A service with one check, each 10 s; a probe that hangs is given up after 4 s.
    fn with_check() -> ServicePolicy {
        let mut policy = policy();
        policy.checks = checked().checks;
        policy.checks.truncate(1);
        policy.checks[0].every = Span::from_secs(10);
        policy.checks[0].timeout = Span::from_secs(4);
        policy.checks[0].failures = 3;
        policy
    }

    #[test]
    fn what_hangs_since_its_last_probe_is_not_proved() {
        let mut bench = Bench::new(with_check(), Some("one"));
        bench.deploy("two");
        bench.answers_probes = 1;
        bench.pass(Span::from_secs(8));
        assert_eq!(bench.runs(), Some("two"));
        // It is asked at the end of its probation, long before its next probe would be due, and the answer is waited for.
        bench.pass(Span::from_secs(2));
        assert!(bench.ends().is_empty() && bench.known().on_probation().is_some());
        assert!(bench.world.services[&bot()].senses.probes[0].in_flight.is_some());
        bench.answer(None, Span::from_secs(1));
        assert_eq!(bench.ends(), [&End::Committed]);
    }

    #[test]
    fn what_gives_no_sign_since_its_last_heartbeat_is_not_proved() {
        let mut policy = with_check();
        policy.checks[0].kind = CheckKind::Heartbeat { within: Span::from_secs(30) };
        policy.checks[0].failures = 1;
        let mut bench = Bench::new(policy, Some("one"));
        bench.deploy("two");
        let beat = |bench: &mut Bench| {
            let epoch = bench.world.services[&bot()].known.last_epoch;
            bench.take(Event::Notified { service: bot(), epoch, notice: Notice::Heartbeat });
        };
        beat(&mut bench);
        bench.pass(Span::from_secs(20));
        assert!(bench.ends().is_empty() && bench.known().on_probation().is_some());
        beat(&mut bench);
        assert_eq!(bench.ends(), [&End::Committed]);
    }

    #[test]
    fn the_time_in_which_a_failure_was_awaited_does_not_count() {
        let mut bench = Bench::new(with_check(), Some("one"));
        bench.deploy("two");
        bench.answers_probes = 1;
        bench.pass(Span::from_secs(11));
        bench.answer(Some(ProbeFailure::Timeout), Span::from_secs(4));
        let stage = bench.known().on_probation().map(|switch| switch.stage.clone());
        let Some(Stage::Probation { held }) = stage else { panic!("{stage:?}") };
        assert!(held.since.is_none() && held.total < Span::from_secs(8), "{held:?}");
        bench.answers_probes = usize::MAX;
        bench.pass(Span::from_secs(10));
        assert_eq!(bench.ends(), [&End::Committed]);
    }

    #[test]
    fn a_store_that_has_lost_its_link_has_switched_to_nothing_else() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.current = None;
        bench.take(Event::GenerationSeen {
            service: bot(),
            part: Part::Store,
            seen: Seen::Current(None),
            data: Data::default(),
        });
        bench.crash();
        assert_eq!((bench.runs(), bench.known().current.clone()), (Some("one"), Some(id("one"))));
        bench.deploy("two");
        bench.current = None;
        bench.take(Event::GenerationSeen {
            service: bot(),
            part: Part::Store,
            seen: Seen::Current(None),
            data: Data::default(),
        });
        assert!(bench.known().on_probation().is_some());
        bench.pass(Span::from_secs(10));
        assert_eq!((bench.ends(), bench.runs()), (alloc::vec![&End::Committed], Some("two")));
    }

    /// It may be what somebody did about it, or what was wrong with it all the time.
    #[test]
    fn what_is_held_is_tried_by_somebody_elses_switch_at_once() {
        let mut bench = Bench::new(policy(), Some("one"));
        for _ in 0..3 {
            bench.crash();
            bench.pass(Span::from_ms(200));
        }
        assert!(matches!(bench.world.services[&bot()].known.phase, Phase::Held { .. }));
        bench.current = Some(id("theirs"));
        bench.take(Event::GenerationSeen {
            service: bot(),
            part: Part::Store,
            seen: Seen::Current(Some(id("theirs"))),
            data: Data::default(),
        });
        assert_eq!(bench.runs(), Some("theirs"));
        bench.crash();
        assert_eq!(bench.runs(), Some("one"));
    }

    #[test]
    fn a_way_back_that_is_damaged_leads_to_the_next_older_one() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.deploy("two");
        bench.pass(Span::from_secs(70));
        // On probation.
        bench.deploy("three");
        bench.damaged = alloc::vec![id("two")];
        bench.crash();
        assert_eq!(bench.runs(), Some("one"));
        assert!(matches!(bench.answers.last(), Some(Answer::RolledBack { text }) if text.contains("to one")));
        // By the ladder.
        bench.damaged.clear();
        bench.order(OperatorOrder::Deploy { service: bot(), generation: id("two"), force: true });
        bench.pass(Span::from_secs(70));
        bench.order(OperatorOrder::Deploy { service: bot(), generation: id("three"), force: true });
        bench.pass(Span::from_secs(70));
        bench.damaged = alloc::vec![id("two")];
        for _ in 0..3 {
            bench.crash();
            bench.pass(Span::from_ms(200));
        }
        assert_eq!(bench.runs(), Some("one"));
        // With none left it is held.
        bench.order(OperatorOrder::Deploy { service: bot(), generation: id("four"), force: false });
        bench.damaged = alloc::vec![id("one")];
        bench.crash();
        assert!(matches!(bench.ends().last(), Some(End::Held { why: Reason::NotSwitched { .. } })));
        assert_eq!(bench.current, Some(id("four")));
    }

    #[test]
    fn what_somebody_else_has_switched_and_nobody_runs_keeps_no_operator_from_deploying() {
        let mut bench = Bench::new(policy(), Some("old"));
        bench.outside("theirs");
        assert_eq!((bench.runs(), bench.known().current.clone()), (Some("old"), Some(id("theirs"))));
        bench.deploy("mine");
        assert!(matches!(bench.ends()[..], [End::Aborted { why: Reason::Superseded { .. } }]), "{:?}", bench.ends());
        bench.pass(Span::from_secs(20));
        assert_eq!((bench.runs(), bench.ends().last()), (Some("mine"), Some(&&End::Committed)));
    }

    #[test]
    fn what_somebody_else_has_switched_is_tried_though_what_ran_before_is_in_a_crash_loop() {
        let mut bench = Bench::new(policy(), Some("old"));
        for _ in 0..2 {
            bench.crash();
            bench.pass(Span::from_secs(1));
        }
        bench.outside("theirs");
        assert_eq!(bench.runs(), Some("old"));
        bench.crash();
        assert_eq!(bench.runs(), Some("theirs"));
        // It fails as well: what was there before is not worse.
        bench.crash();
        bench.pass(Span::from_secs(1));
        assert_eq!((bench.runs(), bench.current.clone()), (Some("old"), Some(id("old"))));
    }

    #[test]
    fn what_somebody_else_has_switched_with_no_way_back_is_held_when_it_fails() {
        let mut bench = Bench::new(policy(), None);
        bench.outside("first");
        bench.outside("second");
        bench.crash();
        bench.crash();
        assert!(!bench.ends().contains(&&End::Committed));
        assert!(bench.known().switch.is_none(), "an operator could deploy nothing: {:?}", bench.known().switch);
    }

    #[test]
    fn a_store_that_says_that_it_failed_and_has_switched_is_believed_what_it_shows() {
        let mut bench = Bench::new(policy(), None);
        bench.lies = true;
        bench.deploy("new");
        assert!(matches!(bench.ends()[..], [End::Aborted { .. }]));
        assert_eq!((bench.runs(), bench.known().current.clone()), (Some("new"), Some(id("new"))));
    }

    #[test]
    fn a_switch_in_a_pause_ends_nothing_before_that_is_over() {
        let mut bench = Bench::new(policy(), Some("old"));
        bench.durable = false;
        bench.deploy("new");
        bench.pass(Span::from_secs(1));
        let pause = OperatorOrder::Pause { service: bot(), lasts: Span::from_secs(60) };
        bench.order(pause);
        bench.durable = true;
        bench.take(Event::Durable { up_to: bench.records.last().unwrap().id });
        assert_eq!((bench.runs(), bench.known().current.clone()), (Some("old"), Some(id("new"))));
        bench.order(OperatorOrder::Resume { service: bot() });
        assert_eq!(bench.runs(), Some("new"));
    }

    #[test]
    fn a_store_that_cannot_be_looked_at_at_a_start_is_looked_at_until_it_can() {
        let mut bench = Bench::new(policy(), Some("old"));
        bench.deploy("new");
        assert!(bench.known().on_probation().is_some());
        let mut next = bench.next();
        next.blind = true;
        next.take(Event::Begin);
        next.pass(Span::from_secs(20));
        assert!(next.ends().is_empty() && next.known().switch.is_some());
        next.blind = false;
        next.pass(Span::from_secs(20));
        assert!(
            matches!(next.ends()[..], [End::RolledBack { why: Reason::RestartedOnProbation }]),
            "{:?}",
            next.ends()
        );
        assert_eq!(next.runs(), Some("old"));
    }

    #[test]
    fn a_first_release_that_is_seen_late_is_started() {
        let mut bench = Bench::not_begun(policy(), Some("old"));
        bench.blind = true;
        bench.take(Event::Begin);
        bench.pass(Span::from_secs(2));
        assert_eq!(bench.runs(), None);
        bench.blind = false;
        bench.pass(Span::from_secs(20));
        assert_eq!((bench.runs(), bench.known().goods.len()), (Some("old"), 1));
    }

    #[test]
    fn a_delay_is_waited_for_also_when_a_switch_comes_to_nothing() {
        let mut bench = Bench::new(policy(), Some("old"));
        bench.crash();
        bench.crash();
        let Phase::BackingOff { until } = bench.world.services[&bot()].known.phase else { panic!("it waits") };
        bench.durable = false;
        bench.deploy("new");
        let switch = bench.records.iter().rfind(|it| matches!(it.body, Body::Generation(Move::Intended { .. })));
        let record = match switch {
            Some(switch) => switch.id,
            None => {
                bench.take(Event::Durable { up_to: bench.records.last().unwrap().id });
                bench.records.last().unwrap().id
            }
        };
        bench.take(Event::NotDurable { record });
        assert!(matches!(bench.ends()[..], [End::Aborted { .. }]), "{:?}", bench.ends());
        assert_eq!(bench.world.services[&bot()].known.phase, Phase::BackingOff { until });
    }

    #[test]
    fn a_deploy_starts_what_is_stopped_and_not_what_was_stopped_since() {
        let mut bench = Bench::new(policy(), Some("one"));
        bench.order(OperatorOrder::Stop { service: bot() });
        assert_eq!(bench.runs(), None);
        bench.deploy("two");
        assert_eq!(bench.runs(), Some("two"));
        bench.pass(Span::from_secs(10));
        bench.slow = true;
        bench.deploy("three");
        bench.order(OperatorOrder::Stop { service: bot() });
        bench.answers.clear();
        bench.switched();
        assert_eq!((bench.runs(), bench.known().current.clone()), (None, Some(id("three"))));
        bench.slow = false;
        bench.order(OperatorOrder::Rollback { service: bot(), to: None });
        assert!(matches!(&bench.answers[..], [Answer::Failed { text }] if text.contains("two")), "{:?}", bench.answers);
        assert_eq!((bench.runs(), bench.known().current.clone()), (None, Some(id("two"))));
        bench.order(OperatorOrder::Start { service: bot() });
        assert_eq!(bench.runs(), Some("two"));
    }
}
