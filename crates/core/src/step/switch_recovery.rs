//! Looking at stores: at a start, what is on record of a switch is held against what the store shows; later, what somebody else
//! has switched.
//!
//! Before a proof is on record it ends on what was good; once it is, the switch is finished.

use super::Brain;
use crate::effect::{Answer, Order};
use crate::event::Seen;
use crate::ids::{GenerationId, Name, RecordId};
use crate::reason::Reason;
use crate::record::Body;
use crate::safeswitch::{Aim, Data, End, Move, Part, Parts, SEEN_WITHIN, Stage, Switch};
use crate::world::phase::Phase;
use crate::world::service::Wanted;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

impl Brain<'_> {
    /// A service is new to this Hale: what the ledger knows of its generations counts, and its stores are looked at.
    pub(super) fn begin_generations(&mut self, name: &Name) {
        if self.policy(name).generations.is_none() {
            return;
        }
        let now = self.now();
        // One that was removed and comes back before it has left knows them itself.
        let own = &self.known(name).generations;
        let in_ledger = self.world.birth.generations.get(name).filter(|_| *own == Parts::default());
        let mut known = in_ledger.unwrap_or(own).clone();
        for part in known.each_mut() {
            // Somebody may have switched since.
            part.is_known = false;
            part.proofs().for_each(|held| held.since = None);
            // The clock before this boot was another one.
            match part.switch.as_mut().map(|switch| &mut switch.stage) {
                Some(Stage::Intended { since } | Stage::Prepared { since, .. } | Stage::Committing { since, .. }) => {
                    *since = now;
                }
                Some(
                    Stage::Switching | Stage::Probation { .. } | Stage::GoingBack { .. } | Stage::Validating { .. },
                )
                | None => {}
            }
        }
        if let Some(service) = self.service_mut(name) {
            service.known.generations = known;
            service.senses.unmatched = Parts { store: true, files: true };
        }
        self.keep_generations(name);
        self.look_at_stores(name);
    }

    /// A service goes on by another policy: its generations may be elsewhere now, or no more. A switch of such a part is over, and
    /// nobody knows what became of it.
    pub(super) fn begin_changed_generations(&mut self, name: &Name) {
        let has: Vec<Part> = self.world.services[name].parts().collect();
        if has.iter().any(|part| !self.generations(name, *part).is_known) {
            // A start must not take what was known for what is there.
            self.keep_generations(name);
        }
        // The host may have let go of what it was told.
        self.resume_switches(name);
        let goes_on = |id: RecordId| {
            Part::ALL.iter().any(|part| self.generations(name, *part).switch.as_ref().is_some_and(|it| it.id == id))
        };
        let waits = self.world.services[name].senses.waiters.iter();
        let ids = waits.filter_map(|waiter| if let Wanted::Switched(id) = waiter.wants { Some(id) } else { None });
        let lost: Vec<RecordId> = ids.filter(|id| !goes_on(*id)).collect();
        let under_way: Vec<Part> =
            Part::ALL.into_iter().filter(|part| self.generations(name, *part).switch.is_some()).collect();
        self.world.intended.retain(|_, (of, part)| of != name || under_way.contains(part));
        for id in lost {
            self.tell_waiters(name, Wanted::Switched(id), |name| Answer::Failed {
                text: format!("the configuration of {name}'s generations was changed while it was switched; see `hale generations`"),
            });
        }
        let now = self.now();
        if let Some(service) = self.service_mut(name) {
            service.senses.kept_at = (!has.is_empty()).then(|| service.senses.kept_at.unwrap_or(now));
        }
    }

    /// Nobody will follow a switch of it to its end: whoever waits is told.
    pub(super) fn give_switch_up(&mut self, name: &Name, part: Part, why: Reason) {
        let Some(switch) = self.switch(name, part) else { return };
        let end = match switch.stage {
            Stage::Intended { .. } | Stage::Prepared { .. } | Stage::Switching => End::Aborted { why },
            Stage::Probation { .. } | Stage::Committing { .. } | Stage::GoingBack { .. } | Stage::Validating { .. } => {
                End::Held { why }
            }
        };
        self.end_switch(name, part, &end);
    }

    /// A supervisor takes over: what the one before had told the store is told again, and both are held against each other.
    pub(super) fn resume_switches(&mut self, name: &Name) {
        let parts: Vec<Part> = self.world.services[name].parts().collect();
        for &part in &parts {
            let Some(switch) = self.generations(name, part).switch.clone() else { continue };
            match switch.stage {
                Stage::Switching | Stage::GoingBack { .. } => self.order_switch(name, part, &switch),
                Stage::Committing { told: true, .. } => self.order_promote(name, part, &switch),
                Stage::Intended { .. }
                | Stage::Prepared { .. }
                | Stage::Probation { .. }
                | Stage::Committing { .. }
                | Stage::Validating { .. } => {}
            }
            if let Some(service) = self.service_mut(name) {
                // Where nothing of it runs, that is due again.
                service.senses.undoing = None;
            }
        }
        if !parts.is_empty() {
            let now = self.now();
            if let Some(service) = self.service_mut(name) {
                service.senses.kept_at = Some(now);
                // What was read from the ledger does not say since when.
                service.resume_proofs(now);
            }
            self.look_at_stores(name);
        }
    }

    fn look_at_stores(&mut self, name: &Name) {
        let parts: Vec<Part> = self.world.services[name].parts().collect();
        parts.into_iter().for_each(|part| self.look_at_store(name, part));
    }

    pub(super) fn look_at_store(&mut self, name: &Name, part: Part) {
        let (now, epoch) = (self.now(), self.known(name).last_epoch);
        let is_known = self.generations(name, part).is_known;
        if let Some(service) = self.service_mut(name) {
            let is_awaited = !is_known || service.senses.unmatched[part];
            service.senses.look_until[part] = is_awaited.then(|| now.after(SEEN_WITHIN));
        }
        self.effect(name, epoch, Order::LookAtStore { part });
    }

    /// What the store is switched to.
    pub(super) fn generation_seen(&mut self, name: &Name, part: Part, seen: Seen, data: &Data) {
        if !self.world.services[name].parts().any(|has| has == part) {
            return;
        }
        let again = self.now().after(SEEN_WITHIN);
        let mut is_unmatched = false;
        if let Some(service) = self.service_mut(name) {
            is_unmatched = service.senses.unmatched[part];
            let is_unknown = matches!(seen, Seen::Unknown { .. });
            // Only what was seen can be held against what is on record: it is looked at until it is.
            service.senses.look_until[part] = (is_unknown && is_unmatched).then_some(again);
            service.senses.unmatched[part] &= is_unknown;
        }
        let known = self.generations(name, part);
        let is_first = !known.is_known;
        match seen {
            Seen::Unknown { error } => {
                if is_first && self.moved(name, part, Move::Unseen { error }) {
                    self.go_on_unseen(name, part);
                }
            }
            Seen::Current(current) => {
                let on_record = known.current.clone();
                let never = on_record.is_none() && known.goods.is_empty() && known.switch.is_none();
                let is_lost = current.is_none() && on_record.is_some();
                // What has lost its link has switched to nothing else: what is on record is started as before.
                let current = current.or(on_record.clone());
                // It speaks for what is there alone.
                let silent = Data::default();
                let data = if is_lost { &silent } else { data };
                if is_first || is_unmatched {
                    let (counts, its) = if never { (current.clone(), data) } else { (on_record, &silent) };
                    self.moved(name, part, Move::Seen { current: counts, data: its.clone() });
                    self.hold_against(name, part, current, data);
                    // From here on nobody else may remove what it would go back to.
                    self.retain(name, part);
                } else if !is_lost {
                    self.look_for_others(name, part, current, data);
                }
                let was_lost = self
                    .service_mut(name)
                    .is_some_and(|service| core::mem::replace(&mut service.senses.shows_nothing[part], is_lost));
                if is_lost && !was_lost {
                    let error = String::from("somebody has taken away what it was switched to");
                    self.moved(name, part, Move::Unseen { error });
                }
            }
        }
        self.start_first_release(name);
    }

    /// The store does not answer at a start. What it was told and is known to be right it is told again, to be done when it can be;
    /// all else waits until it can be looked at.
    fn go_on_unseen(&mut self, name: &Name, part: Part) {
        let Some(switch) = self.generations(name, part).switch.clone() else { return };
        match switch.stage {
            Stage::GoingBack { .. } => self.order_switch(name, part, &switch),
            Stage::Committing { told, .. } => {
                // It was read from the ledger.
                if told || self.moved(name, part, Move::Promoting { switch: switch.id }) {
                    self.order_promote(name, part, &switch);
                }
            }
            // What has to prove itself and may not go back waits for the store, unless it cannot: forward is no better a guess.
            Stage::Intended { .. } | Stage::Prepared { .. } | Stage::Switching
                if !self.observes(name)
                    && (!switch.intent.aim.proves()
                        || self.may_go_back(name)
                        || self.moved_on(name, part).is_some()) =>
            {
                self.end_interrupted(name, part, &switch);
            }
            Stage::Intended { .. }
            | Stage::Prepared { .. }
            | Stage::Switching
            | Stage::Probation { .. }
            | Stage::Validating { .. } => {}
        }
    }

    /// Nobody knows what became of what the store was told, or it did it: never forward again to what has not proved itself.
    fn end_interrupted(&mut self, name: &Name, part: Part, switch: &Switch) {
        if matches!(switch.stage, Stage::Intended { .. } | Stage::Prepared { .. }) {
            self.moved(name, part, Move::Begun { switch: switch.id });
        }
        match (&switch.intent.aim, switch.intent.back.clone()) {
            // Forward where the data keep it from going back: it may have run.
            (Aim::Deploy { .. } | Aim::Outside, Some(back)) if self.moved_on(name, part).is_none() => {
                self.go_back(name, part, back, Reason::Interrupted);
            }
            _ => {
                if let Some(switch) = self.switch(name, part).cloned() {
                    self.order_switch(name, part, &switch);
                }
            }
        }
    }

    /// What had no release has one now.
    fn start_first_release(&mut self, name: &Name) {
        let waits = matches!(self.phase(name), Phase::Stopped { why: Reason::NoReleaseYet });
        if let Some(to) = self.generations(name, Part::Store).current.clone().filter(|_| waits)
            && !self.needs_release(name)
        {
            self.try_start(name, Reason::Switched { to });
        }
    }

    /// The first look since a start: a switch that was interrupted ends, or goes on.
    fn hold_against(&mut self, name: &Name, part: Part, seen: Option<GenerationId>, data: &Data) {
        let Some(switch) = self.generations(name, part).switch.clone() else {
            return self.look_for_others(name, part, seen, data);
        };
        if self.observes(name) {
            return self.superseded(name, part, seen, data);
        }
        let Switch { id, intent, stage, .. } = &switch;
        let is_there = seen.as_ref() == Some(&intent.to);
        let is_where_it_was = seen == intent.from;
        let same_boot = intent.boot_id == self.world.birth.boot_id;
        match stage {
            // It may have run: its way back was not on the disk yet, and what it did to the data is undone first.
            Stage::Prepared { .. } | Stage::Switching | Stage::Probation { .. }
                if switch.intent.aim.proves()
                    && switch.undoes.is_some()
                    && !is_there
                    && (is_where_it_was || seen == intent.back) =>
            {
                if matches!(stage, Stage::Prepared { .. }) {
                    self.moved(name, part, Move::Begun { switch: *id });
                }
                match seen {
                    Some(back) => self.go_back(name, part, back, Reason::Interrupted),
                    None => _ = self.end_switch(name, part, &End::Aborted { why: Reason::Interrupted }),
                }
            }
            // Nothing was done, or all of it was undone.
            Stage::Intended { .. } | Stage::Prepared { .. } | Stage::Switching if is_where_it_was && !is_there => {
                self.end_switch(name, part, &End::Aborted { why: Reason::Interrupted });
            }
            Stage::Intended { .. } | Stage::Prepared { .. } | Stage::Switching if is_there => {
                if matches!(stage, Stage::Intended { .. } | Stage::Prepared { .. }) {
                    self.moved(name, part, Move::Begun { switch: *id });
                }
                match (&intent.aim, intent.back.clone()) {
                    // Never forward again to what has not proved itself, unless it may have run and may not go back.
                    (Aim::Deploy { .. } | Aim::Outside, Some(back))
                        if self.kept_from_going_back(name, part).is_none() =>
                    {
                        self.go_back(name, part, back, Reason::Interrupted);
                    }
                    _ => self.reached(name, part, &switch, intent.to.clone()),
                }
            }
            // What somebody else did, and what may not go back, is not taken back for a loss of power.
            Stage::Probation { .. } if is_there && (same_boot || intent.aim == Aim::Outside) => {}
            Stage::Probation { .. } if is_there => match (self.kept_from_going_back(name, part), intent.back.clone()) {
                (Some(why), _) => {
                    self.end_switch(name, part, &End::Held { why });
                }
                (None, Some(back)) => self.go_back(name, part, back, Reason::RestartedOnProbation),
                (None, None) => {}
            },
            Stage::Committing { .. } if is_there => {
                // It was read from the ledger.
                self.moved(name, part, Move::Promoting { switch: *id });
                self.order_promote(name, part, &switch);
            }
            Stage::GoingBack { to, .. } if is_there || is_where_it_was || seen.as_ref() == Some(to) => {
                self.order_switch(name, part, &switch);
            }
            // It was put back, and the end of that was lost.
            Stage::Validating { why } if seen == self.generations(name, part).current && switch.is_put_back() => {
                self.end_switch(name, part, &End::Environmental { why: why.clone() });
            }
            Stage::Validating { .. } if seen == self.generations(name, part).current => {
                // Its `after_rollback` failed, and the end of the switch was lost.
                let unknown = self.generations(name, part).unknown_data.clone();
                if let Some(why @ Reason::HookFailed { .. }) = unknown.filter(|_| switch.owes_undoing()) {
                    self.end_not_undone(name, part, why);
                }
            }
            Stage::Intended { .. }
            | Stage::Prepared { .. }
            | Stage::Switching
            | Stage::Probation { .. }
            | Stage::Committing { .. }
            | Stage::GoingBack { .. }
            | Stage::Validating { .. } => self.superseded(name, part, seen, data),
        }
    }

    /// Somebody else may have switched.
    pub(super) fn look_for_others(&mut self, name: &Name, part: Part, seen: Option<GenerationId>, data: &Data) {
        let known = self.generations(name, part);
        if seen == known.current {
            return;
        }
        match known.switch.as_ref().map(|switch| &switch.stage) {
            None => self.outside(name, part, seen, data),
            // The store was told nothing of a switch that is prepared yet.
            Some(
                Stage::Prepared { .. } | Stage::Probation { .. } | Stage::Committing { .. } | Stage::Validating { .. },
            ) => {
                self.superseded(name, part, seen, data);
            }
            // The store's own answer comes.
            Some(Stage::Intended { .. } | Stage::Switching | Stage::GoingBack { .. }) => {}
        }
    }

    /// A switch is over because somebody else has switched.
    pub(super) fn superseded(&mut self, name: &Name, part: Part, seen: Option<GenerationId>, data: &Data) {
        let why = Reason::Superseded { by: seen.clone() };
        let Some(switch) = &self.generations(name, part).switch else { return };
        let end = match switch.stage {
            Stage::Intended { .. } | Stage::Prepared { .. } | Stage::Switching | Stage::Probation { .. } => {
                End::Aborted { why }
            }
            Stage::Committing { .. } | Stage::GoingBack { .. } | Stage::Validating { .. } => End::Held { why },
        };
        self.end_switch(name, part, &end);
        if seen != self.generations(name, part).current {
            self.outside(name, part, seen, data);
        }
    }

    /// Somebody else has switched: that is never fought, and has to prove itself from its next process on.
    fn outside(&mut self, name: &Name, part: Part, seen: Option<GenerationId>, data: &Data) {
        let Some(to) = seen else { return };
        let switch = self.next_record();
        if self.intend(name, part, Aim::Outside, to.clone()) && self.moved(name, part, Move::Begun { switch }) {
            // It is so already, and nobody has asked it for a copy of the data.
            self.world.intended.remove(&switch);
            let data = Data { undoes: false, snapshot: None, ..data.clone() };
            if !data.is_silent() && self.moved(name, part, Move::Prepared { switch, data }) {
                self.moved(name, part, Move::Begun { switch });
            }
            self.moved(name, part, Move::Switched { switch, to: to.clone() });
            self.retain(name, part);
            // It may be what helps, or what is wrong with it: both show soonest by a start.
            let waits = match self.phase(name) {
                Phase::Held { .. } => true,
                Phase::Stopped { why } => why == Reason::NoReleaseYet,
                Phase::Down
                | Phase::Blocked { .. }
                | Phase::BackingOff { .. }
                | Phase::Spawning { .. }
                | Phase::Starting { .. }
                | Phase::Running { .. }
                | Phase::Stopping { .. }
                | Phase::Remains { .. } => false,
            };
            if waits {
                self.record(name, Body::CountersForgotten);
                self.try_start(name, Reason::Switched { to });
            }
        }
    }

    /// What somebody else has switched to, where it is known that the newest process was of something else.
    pub(super) fn untried(&self, name: &Name) -> Option<GenerationId> {
        let is_untried = |part: Part| {
            let is_theirs = self.switch(name, part).is_some_and(|switch| {
                switch.intent.aim == Aim::Outside && matches!(switch.stage, Stage::Probation { .. })
            });
            is_theirs && self.known(name).runs[part].is_some() && !self.runs_current(name, part)
        };
        let part = self.world.services[name].parts().find(|&part| is_untried(part))?;
        self.generations(name, part).current.clone()
    }

    /// It is held for what was there before: what somebody has switched to since may help.
    pub(super) fn try_what_others_have_switched(&mut self, name: &Name) {
        if let Some(to) = self.untried(name) {
            self.record(name, Body::CountersForgotten);
            self.try_start(name, Reason::Switched { to });
        }
    }
}
