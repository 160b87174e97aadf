//! After a death of the supervisor, alone or with its guardian: the next one, and what it is told first.

use super::{FakeHost, end_event};
use crate::fault::Fault;
use crate::rng::{Purpose, Rng};
use crate::settled::Settled;
use crate::timeline::Item;
use hale_core::event::{Event, ExitStatus, Lost, Notice, Question};
use hale_core::hardware::{CARD_RESET, Past, PastReset};
use hale_core::ids::{Epoch, IncidentId, Name};
use hale_core::policy::Signal;
use hale_core::reason::Reason;
use hale_core::record::{Body, Record};
use hale_core::world::{Birth, World};
use std::collections::BTreeMap;

/// How long nobody supervises after a death that is not drawn, in microseconds: short, so that most of what was to happen is still
/// to come.
const CRASHED_FOR_US: u64 = 5_000;

impl FakeHost<'_> {
    /// Incidents that the ledger has open.
    pub(super) fn open_incidents(&self) -> Vec<(Name, IncidentId)> {
        let mut open = BTreeMap::new();
        for record in &self.records {
            match (&record.body, &record.service, record.incident) {
                (Body::IncidentClosed { .. }, _, Some(incident)) => drop(open.remove(&incident)),
                (Body::Detected { .. }, Some(service), Some(incident)) => drop(open.insert(incident, service.clone())),
                _ => {}
            }
        }
        open.into_iter().map(|(incident, service)| (service, incident)).collect()
    }

    /// What kernel and ledger say of this boot and those before.
    pub(super) fn past(&self) -> Event {
        let reset = |record: &Record| match &record.body {
            Body::HardwareReset { boot_id, .. } => {
                Some(PastReset { record: record.id, at: record.at, boot_id: boot_id.clone(), ordered: false })
            }
            _ => None,
        };
        let resets = Some(self.records.iter().filter_map(reset).collect());
        Event::Past(Past { boot_status: Some(CARD_RESET), resets, previous: None })
    }

    /// If the supervisor died, the world that the next one begins with, some time later.
    pub fn revive(&mut self, birth: Birth) -> Option<World> {
        if !self.supervisor.is_dead() {
            return None;
        }
        self.with_kernel(|kernel, _| kernel.forget_watches());
        self.end_store_work();
        let restarts = self.restarts();
        let guardian_lost = match self.supervisor.takes_guardian().filter(|_| !restarts) {
            Some(dice) => {
                let mut dice = Rng::new(dice.bits(), Purpose::Death, 1, 0);
                self.with_kernel(|kernel, around| kernel.lose_guardian(around, &mut dice));
                true
            }
            None if restarts => false,
            None => {
                self.coverage.fault(Fault::SupervisorDies);
                false
            }
        };
        let absence_us = match self.scenario.crash {
            Some(_) => CRASHED_FOR_US,
            None => self.supervisor.absence_us(),
        };
        let until = self.timeline.now() + absence_us;
        while self.timeline.next_at().is_some_and(|at| at <= until) {
            self.happen();
        }
        self.timeline.advance_to(until);
        if let Some(restart) = self.takes_restart() {
            return Some(self.begin_anew(birth, restart));
        }
        // What waits in a socket stays. What its own threads were to tell it is gone, and the guardian tells all it knows.
        let stays = |event: &Event| {
            // What was read of a file is its own, too.
            let is_read = matches!(event, Event::Asked { question: Question::Reload { .. }, .. });
            !is_read
                && matches!(
                    event,
                    Event::Asked { .. } | Event::Notified { .. } | Event::OutputDropped { .. } | Event::End { .. }
                )
        };
        self.inbox.retain(stays);
        self.timeline.untell(stays);
        if let Some(journaled) = self.supervisor.gap() {
            // What the journal forgot nobody can keep to.
            self.remembered.truncate(journaled);
            self.judges.rewind(&self.remembered);
            self.settled = Settled::new(&self.scenario.policy);
            self.remembered.iter().for_each(|record| self.settled.follow(record));
            self.records.iter().for_each(|record| self.settled.follow_generations(record));
        }
        let on_record = |body: fn(&Body) -> bool| self.remembered.iter().any(|record| body(&record.body));
        let began = on_record(|body| matches!(body, Body::Began { .. }));
        let ending = on_record(|body| matches!(body, Body::Ending { .. }));
        let waits = self.inbox.iter().any(|event| matches!(event, Event::End { .. }));
        if self.end_sent.is_some() && !ending && !waits {
            self.inbox.push_back(end_event());
        }
        if self.scenario.rates.of(Fault::ResetByTimer) > 0 {
            self.inbox.push_back(self.past());
        }
        let last_epoch = if began { Epoch(0) } else { self.with_kernel(|kernel, _| kernel.end_everything()) };
        let ((hash, policy), candidate) = self.policies.hand_on();
        // A mistake that was put in stays in.
        let policy = if birth.hash == hash { birth.policy.clone() } else { policy };
        let birth = Birth {
            hash,
            policy,
            last_epoch,
            first_record: self.last_record.next(),
            open_incidents: self.open_incidents(),
            boot_id: self.ledger.boot_id(),
            generations: self.known_generations(),
            ..birth
        };
        let world = if began { self.supervisor.next(birth, candidate) } else { self.supervisor.first(birth) };
        self.policies.begin_anew(&world);
        let status = ExitStatus::Signal { signal: Signal::KILL, core_dumped: false };
        let lost = if guardian_lost { Lost::Guardian } else { Lost::Ended { status } };
        let found = self.with_kernel(|kernel, around| {
            let over = if guardian_lost { kernel.end_unknown(around, &world) } else { BTreeMap::new() };
            let left = kernel.left_behind(&world);
            let mut found = kernel.found();
            found.extend(over.into_iter().chain(left));
            found
        });
        // What was heard of and not recorded is kept beside the journal.
        for (service, epoch) in self.kernel.said_ready(self.timeline.now()).into_iter().filter(|_| began) {
            self.inbox.push_front(Event::Notified { service, epoch, notice: Notice::Ready });
        }
        self.inbox.push_front(if began { Event::TakeOver { lost, found } } else { Event::Begin });
        for (service, stored) in self.kernel.left.adopt(&world) {
            self.inbox.push_back(Event::DescriptorGone { service, stored, why: Reason::DescriptorLost });
        }
        if self.disk_failed {
            self.inbox.push_back(Event::LedgerDegraded { error: String::from("No space left on device") });
        } else {
            self.inbox.push_back(Event::LedgerRecovered);
            self.timeline.after(1_000, Item::Tell(Event::Durable { up_to: self.last_record }));
        }
        Some(world)
    }
}
