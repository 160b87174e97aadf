//! The stores of the fake host: work takes its time, fails, or hangs, and somebody else switches, too.

use super::FakeHost;
use crate::fault::Fault;
use crate::kernel::Fact;
use crate::oracle::Seen;
use crate::scenario::BEGIN_US;
use crate::store::{Comes, Said, Work};
use crate::timeline::Item;
use hale_core::event::{self, Event, Question};
use hale_core::ids::{GenerationId, Name};
use hale_core::record::{Body, OperatorOrder, Record};
use hale_core::safeswitch::{Data, Part, Parts};

/// How often the store tells only later that it has switched, in thousandths.
const TELLS_LATER_PERMILLE: u32 = 500;

impl FakeHost<'_> {
    /// An order to a store.
    pub(super) fn order_store(&mut self, service: &Name, part: Part, work: Work) {
        let (fails, hangs) = (self.store_rate(Fault::StoreFails), self.store_rate(Fault::StoreHangs));
        let Some(dice) = self.store_dice.get_mut(&(service.clone(), part)) else { return };
        let fails = dice.chance(fails);
        let comes = match &work {
            _ if !fails => Comes::Done,
            Work::Look => Comes::Blind,
            Work::Promote { .. } | Work::Undo { .. } => Comes::Fails,
            Work::Switch { .. } if part == Part::Files => {
                dice.pick(&[Comes::Fails, Comes::FailsAfter, Comes::Blind, Comes::Unusable, Comes::Half])
            }
            Work::Switch { has_back: true, .. } => {
                dice.pick(&[Comes::Fails, Comes::Fails, Comes::FailsAfter, Comes::NoWayBack, Comes::Blind])
            }
            Work::Switch { has_back: false, .. } => dice.pick(&[Comes::Fails, Comes::FailsAfter, Comes::Blind]),
        };
        let hangs = dice.chance(hangs / 4);
        let hook_fails = self.store_rate(Fault::HookFails);
        let Some(store) = self.stores.get(service, part) else { return };
        let runs_hook = match &work {
            Work::Switch { to, prepares: true, .. } => store.says.contains_key(to),
            Work::Undo { .. } => true,
            Work::Switch { .. } | Work::Look | Work::Promote { .. } => false,
        };
        // Of its own dice: what else they decide is older.
        let comes = if runs_hook && self.hook_dice.chance(hook_fails / 2) {
            self.coverage.fault(Fault::HookFails);
            Comes::HookFails
        } else {
            comes
        };
        let at_us = self.timeline.now().saturating_sub(BEGIN_US);
        let comes = self.scenario.generations.works.as_ref().map_or(comes, |works| works(&work, at_us));
        if let Work::Switch { switch, .. } = &work {
            store.newest = store.newest.max(*switch);
        }
        // Who looks later sees as much.
        if work == Work::Look && store.queue.len() > 1 && store.queue.back().is_some_and(|(last, _)| *last == work) {
            return;
        }
        store.queue.push_back((work, comes));
        if store.queue.len() == 1 {
            self.begin_work(service, part, hangs);
        }
    }

    fn store_rate(&self, fault: Fault) -> u32 {
        if self.faults_over { 0 } else { self.scenario.rates.of(fault) }
    }

    fn begin_work(&mut self, service: &Name, part: Part, hangs: bool) {
        let Some(dice) = self.store_dice.get_mut(&(service.clone(), part)) else { return };
        let mut takes_us = dice.scaled(50, 20_000);
        if hangs {
            self.coverage.fault(Fault::StoreHangs);
            let left = (BEGIN_US + self.scenario.faults_us).saturating_sub(self.timeline.now());
            takes_us = dice.scaled(1_000, left.max(1_001));
        }
        let Some(store) = self.stores.get(service, part) else { return };
        store.turn += 1;
        self.timeline.after(takes_us, Item::StoreDone(service.clone(), part, store.turn));
    }

    /// A store is done with what it was at.
    pub(super) fn store_done(&mut self, service: &Name, part: Part, turn: u64) {
        let hangs = self.store_rate(Fault::StoreHangs) / 4;
        let Some(store) = self.stores.get(service, part).filter(|store| store.turn == turn) else { return };
        let too_late = |work: &Work| matches!(work, Work::Switch { switch, .. } if *switch < store.newest);
        let said = if store.queue.front().is_some_and(|(work, _)| too_late(work)) {
            store.queue.pop_front();
            None
        } else {
            store.finish()
        };
        let more = !store.queue.is_empty();
        if let Some(said) = said {
            self.store_says(service, part, said);
        }
        if more && let Some(dice) = self.store_dice.get_mut(&(service.clone(), part)) {
            let hangs = dice.chance(hangs);
            self.begin_work(service, part, hangs);
        }
    }

    fn store_says(&mut self, service: &Name, part: Part, said: Said) {
        let Said { work, error, seen, changed, prepared } = said;
        if error.is_some() || matches!(seen, event::Seen::Unknown { .. }) {
            self.coverage.fault(Fault::StoreFails);
        }
        if changed {
            self.store_changed(service, part, true);
        }
        let service = service.clone();
        let event = match work {
            Work::Look => {
                let data = self.said_of_data(&service, part, &seen);
                Event::GenerationSeen { service, part, seen, data }
            }
            Work::Switch { switch, .. } if prepared.is_some() => {
                self.coverage.fault(Fault::DataMoves);
                Event::GenerationPrepared { service, part, switch, data: prepared.unwrap_or_default() }
            }
            Work::Undo { switch, .. } => {
                let error = error.map(|_| String::from("after_rollback failed"));
                Event::DataUndone { service, part, switch, error }
            }
            Work::Switch { switch, .. } => {
                let data = self.said_of_data(&service, part, &seen);
                Event::GenerationSwitched { service, part, switch, error, seen, data }
            }
            Work::Promote { switch } => {
                let error = error.map(|_| String::from("No space left on device"));
                Event::GenerationPromoted { service, part, switch, error }
            }
        };
        self.tell_of_store(event);
    }

    /// What the one that is seen says of the data.
    fn said_of_data(&mut self, service: &Name, part: Part, seen: &event::Seen) -> Data {
        let event::Seen::Current(current) = seen else { return Data::default() };
        self.stores.get(service, part).map(|store| store.says(current.as_ref())).unwrap_or_default()
    }

    /// What a store says reaches the loop at once, and in the order in which it is said.
    fn tell_of_store(&mut self, event: Event) {
        self.inbox.push_back(event);
    }

    /// The store is switched to another one: whoever watches it is told that, sooner or later.
    pub(super) fn store_changed(&mut self, service: &Name, part: Part, by_hale: bool) {
        let is_of = |event: &&Event| speaks_of(event).is_some_and(|(of, its, _)| of == service && its == part);
        let outdated = self.inbox.iter().filter(is_of).count();
        let Some(store) = self.stores.get(service, part) else { return };
        store.told = false;
        store.outdated = outdated;
        let current = store.current.clone();
        let fact = Fact::Switched { service: service.clone(), part, current, by_hale };
        self.judges.see(self.timeline.now(), Seen::Fact(&fact));
        let Some(dice) = self.store_dice.get_mut(&(service.clone(), part)) else { return };
        let later = if dice.chance(TELLS_LATER_PERMILLE) { dice.scaled(100, 1_000_000) } else { 0 };
        self.timeline.after(later, Item::StoreTells(service.clone(), part));
    }

    /// Somebody watches the store, and looks because it has changed.
    pub(super) fn store_tells(&mut self, service: &Name, part: Part) {
        if self.supervisor.is_dead() {
            return;
        }
        let Some(store) = self.stores.get(service, part) else { return };
        let before = store.seen.clone();
        let seen = store.look();
        if let (Part::Files, Some(from), event::Seen::Current(Some(to))) = (part, before, &seen)
            && from != *to
        {
            let (service, to, lines) =
                (service.clone(), Some(to.clone()), vec![String::from("-a = 1"), String::from("+a = 2")]);
            self.tell_of_store(Event::FilesChanged { service, from, to, lines });
        }
        let data = self.said_of_data(service, part, &seen);
        self.tell_of_store(Event::GenerationSeen { service: service.clone(), part, seen, data });
    }

    /// Somebody else switches, or edits.
    pub(super) fn outside_switch(&mut self, service: &Name, part: Part, to: GenerationId) {
        let Some(store) = self.stores.get(service, part) else { return };
        if store.current.as_ref() != Some(&to) {
            self.coverage.fault(match part {
                Part::Store => Fault::OutsideSwitch,
                Part::Files => Fault::FilesEdited,
            });
            store.insisted.insert(to.clone());
            store.current = Some(to);
            self.store_changed(service, part, false);
        }
    }

    /// An event is about to reach the core: perhaps it says what a store is switched to now.
    pub(super) fn hears_of_store(&mut self, event: &Event) {
        if let Event::Asked { question: Question::Order { order, .. }, .. } = event
            && let OperatorOrder::Deploy { service, generation, force: true } = order
            && let Some(store) = self.stores.get(service, Part::Store)
        {
            store.insisted.insert(generation.clone());
        }
        let Some((service, part, seen)) = speaks_of(event) else { return };
        let Some(store) = self.stores.get(service, part) else { return };
        if store.outdated > 0 {
            // It was as it is now once before.
            store.outdated -= 1;
            return;
        }
        if matches!(seen, event::Seen::Unknown { .. }) {
            store.told = false;
        }
        let is_at_it = store.queue.iter().any(|(work, _)| matches!(work, Work::Switch { .. }));
        let answers = matches!(event, Event::GenerationSwitched { .. });
        if *seen == event::Seen::Current(store.current.clone()) && (answers || !is_at_it) {
            store.told = true;
        }
    }

    /// A record is written: perhaps it says with which files the next process is made.
    pub(super) fn follow_start(&mut self, record: &Record) {
        if let (Some(service), Body::SpawnIntended { files, .. }) = (&record.service, &record.body) {
            self.files_to_run.remove(service);
            self.files_to_run.extend(files.clone().map(|files| (service.clone(), files)));
        }
    }

    /// A process is ordered: of what its store is switched to, and with its files as they are? Gives what it is of.
    pub(super) fn compare_generations(
        &mut self,
        service: &Name,
        generation: Option<&GenerationId>,
    ) -> Parts<Option<GenerationId>> {
        if let (Some(generation), Some(store)) = (generation, self.stores.get(service, Part::Store)) {
            let (format, data) = store.runs(Some(generation));
            let reads = Fact::Reads { service: service.clone(), format, data };
            self.judges.see(self.timeline.now(), Seen::Fact(&reads));
        }
        let believed = Parts { store: generation.cloned(), files: self.files_to_run.get(service).cloned() };
        let mut runs: Parts<Option<GenerationId>> = Parts::default();
        for part in Part::ALL {
            let Some(store) = self.stores.get(service, part) else { continue };
            let (current, told) = (store.current.clone(), store.told);
            runs[part].clone_from(&current);
            let (service, generation) = (service.clone(), believed[part].clone());
            let fact = Fact::SpawnsOf { service, part, generation, current, told };
            self.judges.see(self.timeline.now(), Seen::Fact(&fact));
        }
        // The order says of which release, whatever the store shows.
        Parts { store: believed.store, ..runs }
    }
}

/// Whose store an event speaks of, and what it says of that.
fn speaks_of(event: &Event) -> Option<(&Name, Part, &event::Seen)> {
    match event {
        Event::GenerationSeen { service, part, seen, .. } | Event::GenerationSwitched { service, part, seen, .. } => {
            Some((service, *part, seen))
        }
        _ => None,
    }
}
