//! Proving: what is due while a change shows that it works, what its failures mean for the switch, and the ladder's way back.

use super::Brain;
use crate::event::Seen;
use crate::ids::Name;
use crate::incident::Cause;
use crate::reason::Reason;
use crate::record::Finding;
use crate::safeswitch::{Aim, Data, ELSEWHERE_FROM, End, KEPT_EVERY, Move, Part, Stage, Switch};
use crate::step::DURABLE_WITHIN;
use crate::time::Monotonic;
use crate::world::phase::Then;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

impl Brain<'_> {
    /// What is due of a service's generations.
    pub(super) fn generations_due(&mut self, name: &Name) {
        let now = self.now();
        let parts: Vec<Part> = self.world.services[name].parts().collect();
        for &part in &parts {
            if self.world.services[name].senses.look_until[part].is_some_and(|until| until <= now) {
                if self.generations(name, part).is_known {
                    self.look_at_store(name, part);
                } else {
                    let error = String::from("it has not answered");
                    self.generation_seen(name, part, Seen::Unknown { error }, &Data::default());
                }
            }
            self.part_due(name, part);
        }
        if self.world.services[name].senses.kept_at.is_some_and(|at| at.after(KEPT_EVERY) <= now) {
            self.keep_generations(name);
        }
    }

    fn part_due(&mut self, name: &Name, part: Part) {
        if self.world.services[name].senses.unmatched[part] {
            // What its store shows may be another end of it.
            return;
        }
        let now = self.now();
        if self.world.services[name].senses.undone.is_some_and(|(_, since)| since.after(DURABLE_WITHIN) <= now) {
            return self.start_undone(name);
        }
        let policy = self.policy(name);
        let Some(policy) = &policy.generations else { return };
        let is_due = |at: Option<Monotonic>| at.is_some_and(|at| at <= now);
        let known = self.generations(name, part);
        match known.switch.as_ref().map(|switch| (switch.id, &switch.stage)) {
            Some((_, Stage::Prepared { since, .. })) if since.after(DURABLE_WITHIN) <= now => {
                self.abort(name, part, &Reason::NoDurableRecord);
            }
            Some((id, Stage::Intended { since })) if since.after(DURABLE_WITHIN) <= now => {
                self.world.intended.remove(&id);
                self.abort(name, part, &Reason::NoDurableRecord);
            }
            Some((_, Stage::Committing { told: false, since, .. })) if since.after(DURABLE_WITHIN) <= now => {
                self.end_switch(name, part, &End::Held { why: Reason::NoDurableRecord });
            }
            Some((switch, Stage::Probation { .. })) if is_due(self.world.services[name].mark_at(part)) => {
                let Some(Stage::Probation { held }) = self.switch(name, part).map(|switch| &switch.stage) else {
                    return;
                };
                let so_far = held.so_far(now);
                let end = held.next_mark(policy.probation);
                if so_far < policy.probation {
                    self.moved(name, part, Move::Marked { switch, so_far });
                    return;
                }
                if end.is_some_and(|end| self.awaits_last_word(name, part, end)) {
                    return;
                }
                let proved = self.next_record();
                if self.moved(name, part, Move::Proved { switch }) {
                    self.world.intended.insert(proved, (name.clone(), part));
                }
            }
            None if is_due(known.soak.next_mark(policy.soak)) => {
                let so_far = known.soak.so_far(now);
                let current = known.current.clone();
                if let Some(generation) = current.filter(|_| so_far >= policy.soak) {
                    self.moved(name, part, Move::Proven { generation });
                } else {
                    self.moved(name, part, Move::Soaked { so_far });
                }
            }
            Some(_) | None => {}
        }
    }

    /// Whether a check has not passed since `end`, when its proof would be over: what hangs since the last probe or heartbeat is not
    /// proved. They are probed at once, a heartbeat is waited for, and each sign comes back here.
    fn awaits_last_word(&mut self, name: &Name, part: Part, end: Monotonic) -> bool {
        let now = self.now();
        let Some(service) = self.world.services.get_mut(name) else { return false };
        let policy = service.policy.clone();
        let mut awaits = false;
        for (index, check) in policy.checks.iter().enumerate() {
            if !service.proves(part, check) {
                continue;
            }
            let probing = &mut service.senses.probes[index];
            if probing.last_pass.is_none_or(|passed| passed < end) {
                awaits = true;
                // Nobody can be asked for a heartbeat, and when it is missing stays as it is.
                if service.senses.last_word[part] != Some(end) && check.kind.promise().is_none() {
                    probing.due = probing.due.map(|due| due.min(now));
                }
            }
        }
        service.senses.last_word[part] = Some(end).filter(|_| awaits);
        awaits
    }

    /// A check has passed: a proof may have waited for that.
    pub(super) fn last_word(&mut self, name: &Name) {
        let parts: Vec<Part> = self.world.services[name].parts().collect();
        for part in parts {
            if self.world.services[name].senses.last_word[part].is_some() {
                self.part_due(name, part);
            }
        }
    }

    /// Writes down all that is known of its generations, so that a start finds it near the ledger's end.
    pub(super) fn keep_generations(&mut self, name: &Name) {
        let now = self.now();
        let parts: Vec<Part> = self.world.services[name].parts().collect();
        for part in parts {
            let known = Box::new(self.generations(name, part).clone());
            self.moved(name, part, Move::Kept { known });
        }
        if let Some(service) = self.service_mut(name) {
            service.senses.kept_at = Some(now);
        }
    }

    /// A failure that counts, of a service that is being switched: what it means for that. Comes before the ladder. `true`:
    /// nothing is left to be decided.
    pub(super) fn failed_while_switching(&mut self, name: &Name, cause: Cause, finding: &Finding) -> bool {
        if self.observes(name) || self.known(name).paused.is_some() || self.blocked_by(name).is_some() {
            return false;
        }
        let parts = self.newest_first(name);
        parts.into_iter().any(|part| self.part_failed(name, part, cause, finding))
    }

    /// It was well for long enough to be certain of what its failures were about.
    pub(super) fn settle(&mut self, name: &Name) {
        for part in Part::ALL {
            if self.generations(name, part).is_uncertain() {
                self.moved(name, part, Move::Settled);
            }
        }
    }

    /// Whether its newest process is of what this part is switched to.
    pub(super) fn runs_current(&self, name: &Name, part: Part) -> bool {
        let known = self.known(name);
        known.runs[part] == known.generations[part].current
    }

    /// Whether its newest process is of a change that has not proved itself yet.
    pub(super) fn is_on_probation(&self, name: &Name) -> bool {
        let is_new =
            |part: Part| self.generations(name, part).on_probation().is_some() && self.runs_current(name, part);
        self.world.services[name].parts().any(is_new)
    }

    fn part_failed(&mut self, name: &Name, part: Part, cause: Cause, finding: &Finding) -> bool {
        let Some(switch) = self.switch(name, part).cloned() else { return false };
        if !self.runs_current(name, part) {
            return false;
        }
        match &switch.stage {
            Stage::Probation { .. } => {
                if let Some(check) = self.failed_before(name, &switch, finding) {
                    self.end_switch(name, part, &End::Held { why: Reason::FailsAsBefore { check } });
                } else if let (None, Some(why)) =
                    (&switch.intent.back, self.generations(name, part).older_moved_on(self.at.wall_us))
                {
                    self.end_switch(name, part, &End::Held { why });
                } else if switch.intent.from.is_none() && matches!(switch.intent.aim, Aim::Deploy { .. }) {
                    self.stop_without_way_back(name, part, finding);
                    return true;
                } else if switch.intent.back.is_none() {
                    // The ladder goes on with it, and nothing keeps an operator from bringing another.
                    let why = Reason::OnProbation { finding: finding.to_string() };
                    self.end_switch(name, part, &End::Held { why });
                } else if let Some(why) = self.kept_from_going_back(name, part) {
                    self.end_switch(name, part, &End::Held { why });
                }
            }
            Stage::Validating { .. } if self.known(name).counters.failures >= ELSEWHERE_FROM => {
                let why = Reason::GoodFailsToo { finding: finding.to_string() };
                match (&switch.intent.aim, &switch.intent.back) {
                    // What runs now is what was good, and it stays.
                    (Aim::Deploy { .. } | Aim::Outside, _) => {
                        self.end_switch(name, part, &End::Environmental { why });
                    }
                    // In the same way: the change was not the cause.
                    (Aim::TakeBack { failure, .. }, Some(newer)) if failure.is_like(&self.failure(name, cause)) => {
                        self.go_back(name, part, newer.clone(), why);
                        return true;
                    }
                    (Aim::Return { .. } | Aim::PutBack { .. } | Aim::TakeBack { .. }, _) => {
                        self.end_switch(name, part, &End::Held { why });
                    }
                }
            }
            Stage::Intended { .. }
            | Stage::Prepared { .. }
            | Stage::Switching
            | Stage::Committing { .. }
            | Stage::GoingBack { .. }
            | Stage::Validating { .. } => {}
        }
        false
    }

    /// The check that failed before the switch, too, if that is all that this failure is.
    fn failed_before(&self, name: &Name, switch: &Switch, finding: &Finding) -> Option<Name> {
        let failed = self.world.services[name].failed_checks(finding);
        let before = &switch.intent.failed_before;
        failed.iter().all(|check| before.contains(check)).then(|| failed.first().cloned()).flatten()
    }

    /// The failure of a change that has nothing to go back to: the service stays down.
    fn stop_without_way_back(&mut self, name: &Name, part: Part, finding: &Finding) {
        let why = Reason::OnProbation { finding: finding.to_string() };
        if let Some(failed) = self.switch(name, part).map(|switch| switch.intent.to.clone()) {
            self.quarantine(name, part, failed, why.clone());
        }
        self.end_switch(name, part, &End::Stopped { why: why.clone() });
        self.bring_down(name, Then::Stay { why: why.clone() }, why);
    }

    /// The service is healthy: what was switched back to is validated. `true`: that is how its incident ends.
    pub(super) fn validated(&mut self, name: &Name) -> bool {
        let parts: Vec<Part> = self.world.services[name].parts().collect();
        let validated: Vec<Part> = parts.into_iter().filter(|part| self.part_validated(name, *part)).collect();
        !validated.is_empty()
    }

    fn part_validated(&mut self, name: &Name, part: Part) -> bool {
        let Some(Switch { intent, stage: Stage::Validating { why }, .. }) = self.switch(name, part).cloned() else {
            return false;
        };
        if !self.runs_current(name, part) {
            return false;
        }
        let left = if intent.aim.proves() { Some(intent.to.clone()) } else { intent.from.clone() };
        let is_evidence = why.is_evidence() && !matches!(intent.aim, Aim::Return { .. });
        // Before its switch is over: who starts after a crash between both knows that it is bad.
        if let Some(id) = left.filter(|_| is_evidence) {
            self.quarantine(name, part, id, why.clone());
        }
        self.end_switch(name, part, &End::RolledBack { why });
        true
    }
}
