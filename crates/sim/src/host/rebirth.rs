//! After all of Hale is gone: what is left of the ledger, and the new Hale that begins with that.

use super::{FakeHost, end_event};
use crate::crash::{Crashed, Then};
use crate::death::Restart;
use crate::fault::Fault;
use crate::kernel::Fact;
use crate::oracle::Seen;
use crate::rng::Rng;
use crate::settled::Settled;
use crate::timeline::Item;
use hale_core::event::Event;
use hale_core::ids::{GenerationId, Name, RecordId};
use hale_core::record::{Class, Record};
use hale_core::safeswitch::{Generations, Part, Parts};
use hale_core::world::{Birth, World};
use std::collections::{BTreeMap, BTreeSet};

/// How much of the ledger is on the disk.
#[derive(Debug)]
pub struct Ledger {
    dice: Rng,
    synced: RecordId,
    /// It had no room for these.
    refused: BTreeSet<RecordId>,
    /// All of Hale is gone.
    restart: Option<Restart>,
    boots: u32,
    /// Whether the next restart finds all that was written; none: the dice say how much.
    pub keeps_all: Option<bool>,
    /// Whether the next restart finds what stores were at done; none: the dice say so.
    pub stores_finish: Option<bool>,
}

impl Ledger {
    /// One in which nothing is.
    #[must_use]
    pub fn new(dice: Rng) -> Self {
        let (keeps_all, stores_finish) = (None, None);
        Self { dice, synced: RecordId(0), refused: BTreeSet::new(), restart: None, boots: 0, keeps_all, stores_finish }
    }

    /// It has no room for those of these that must become durable.
    pub fn refuse(&mut self, records: &[Record]) {
        let durable = records.iter().filter(|record| record.body.class() == Class::Durable);
        self.refused.extend(durable.map(|record| record.id));
    }

    /// The kernel's name of this boot.
    #[must_use]
    pub fn boot_id(&self) -> String {
        format!("00000000-0000-0000-0000-{:012}", self.boots)
    }

    /// The last record that is there when Hale is gone, of `last` that were written.
    fn cut(&mut self, last: RecordId) -> RecordId {
        match self.keeps_all {
            Some(true) => last,
            Some(false) => self.synced,
            None => RecordId(self.dice.within(self.synced.0, last.0.max(self.synced.0))),
        }
    }
}

impl FakeHost<'_> {
    /// Records up to this one are on the disk.
    pub(super) fn synced(&mut self, up_to: RecordId) {
        self.ledger.synced = self.ledger.synced.max(up_to);
        self.judges.see(self.timeline.now(), Seen::Fact(&Fact::Synced(up_to)));
    }

    /// All of Hale dies, unless it is at its end anyway.
    pub(super) fn hale_dies(&mut self, restart: Restart) {
        if self.faults_over || self.end_sent.is_some() || self.records.is_empty() {
            return;
        }
        self.supervisor.ends();
        // Where both come together the power is gone.
        self.ledger.restart = self.ledger.restart.max(Some(restart));
    }

    /// One more event, record or effect; `true`: the scenario's death comes after it.
    pub(super) fn dies_here(&mut self) -> bool {
        self.points += 1;
        self.is_crash_due()
    }

    pub(super) fn is_crash_due(&self) -> bool {
        self.scenario.crash.is_some_and(|crash| crash.after == self.points) && self.crashed.is_none()
    }

    /// How many of the records of a step are written that dies after so many of them. The journal takes a step whole or not at
    /// all, the ledger one record after the other.
    pub(super) fn is_written(&self, written: usize, all: usize) -> usize {
        let takes_over = self.scenario.crash.is_some_and(|crash| crash.then == Then::TakeOver);
        if takes_over && written < all { 0 } else { written }
    }

    /// The scenario's death.
    pub(super) fn crash(&mut self) {
        let Some(crash) = self.scenario.crash else { return };
        self.ledger.keeps_all = Some(crash.then != Then::NewBootSynced);
        self.ledger.stores_finish = Some(crash.stores_finish);
        self.ledger.restart = crash.then.restart();
        self.supervisor.ends();
        let last = if crash.then == Then::NewBootSynced { self.ledger.synced } else { self.last_record };
        self.end_store_work();
        self.crashed = Some(Crashed { last, written: self.last_record, shown: self.shown() });
    }

    /// What each store is switched to.
    #[must_use]
    pub fn shown(&self) -> Vec<(Name, Option<GenerationId>)> {
        let names = self.scenario.policy.services.keys();
        names.map(|name| (name.clone(), self.stores.current(name, Part::Store).cloned())).collect()
    }

    /// How many events, records and effects there were.
    #[must_use]
    pub fn points(&self) -> u64 {
        self.points
    }

    /// Whether all of Hale is gone.
    pub(super) fn restarts(&self) -> bool {
        self.ledger.restart.is_some()
    }

    /// How, if it is.
    pub(super) fn takes_restart(&mut self) -> Option<Restart> {
        self.ledger.restart.take()
    }

    /// What the ledger says of services' generations.
    pub(super) fn known_generations(&self) -> BTreeMap<Name, Parts<Generations>> {
        let mut known: BTreeMap<Name, Parts<Generations>> = BTreeMap::new();
        for record in self.records.iter().filter(|record| !self.ledger.refused.contains(&record.id)) {
            let Some(service) = &record.service else { continue };
            // As the real host does.
            if let Some((part, moved)) = record.body.moved() {
                known.entry(service.clone()).or_default()[part].apply_after_gap(record, moved);
            } else if let Some(known) = known.get_mut(service) {
                known.each_mut().into_iter().for_each(|part| part.follow(&record.body));
            }
        }
        known
    }

    /// The world that a new Hale begins with.
    pub(super) fn begin_anew(&mut self, birth: Birth, restart: Restart) -> World {
        self.coverage.fault(match restart {
            Restart::SameBoot => Fault::HaleDies,
            Restart::NewBoot => Fault::PowerCut,
        });
        self.ledger.boots += u32::from(restart == Restart::NewBoot);
        let cut = self.ledger.cut(self.last_record);
        let refused = std::mem::take(&mut self.ledger.refused);
        self.records.retain(|record| record.id <= cut && !refused.contains(&record.id));
        self.last_record = self.records.last().map_or(RecordId(0), |record| record.id);
        self.ledger.synced = self.last_record;
        self.end_store_work();
        self.inbox.retain(|event| matches!(event, Event::End { .. }));
        self.timeline.untell(|event| matches!(event, Event::Asked { .. } | Event::End { .. }));
        self.remembered.clear();
        self.supervisor.lose_journal();
        let last_epoch = self.with_kernel(|kernel, _| kernel.end_everything());
        self.judges.restart(&self.records);
        self.judges.see(self.timeline.now(), Seen::Fact(&Fact::Synced(self.last_record)));
        (self.settled, self.settled_since) = (Settled::new(&self.scenario.policy), None);
        let birth = Birth {
            boot_id: self.ledger.boot_id(),
            last_epoch,
            first_record: self.last_record.next(),
            open_incidents: self.open_incidents(),
            generations: self.known_generations(),
            ..birth
        };
        let world = self.supervisor.first(birth);
        self.policies.begin_anew(&world);
        self.inbox.push_front(Event::Begin);
        for (service, stored) in self.kernel.left.adopt(&world) {
            let why = hale_core::reason::Reason::DescriptorLost;
            self.inbox.push_back(Event::DescriptorGone { service, stored, why });
        }
        if self.end_sent.is_some() && !self.inbox.iter().any(|event| matches!(event, Event::End { .. })) {
            self.inbox.push_back(end_event());
        }
        if self.disk_failed {
            self.inbox.push_back(Event::LedgerDegraded { error: String::from("No space left on device") });
        } else {
            self.timeline.after(1_000, Item::Tell(Event::Durable { up_to: self.last_record }));
        }
        world
    }

    /// What stores are at ends with the supervisor, or just before.
    pub(super) fn end_store_work(&mut self) {
        let Self { stores, ledger, .. } = self;
        let (finish, dice) = (ledger.stores_finish, &mut ledger.dice);
        let finished = stores.abandon(|| finish.unwrap_or_else(|| dice.chance(500)));
        for (service, part) in finished {
            self.store_changed(&service, part, true);
        }
    }
}
