//! Guarantees about records and effects: what must be written before what, and what must follow from what.

use super::{Ending, Oracle, Seen};
use crate::kernel::Fact;
use hale_core::analyze::blame;
use hale_core::effect::{Effect, Fence, Order};
use hale_core::event::{Event, Found, Life};
use hale_core::ids::{Epoch, Name, RecordId, RequestId};
use hale_core::plan::{before_limit, ladder, reboot};
use hale_core::record::{Body, Record};
use hale_core::safeswitch::{Aim, Move, Part};
use std::collections::{BTreeMap, BTreeSet};

/// What was written about one process.
#[derive(Debug, Clone, Default)]
struct Written {
    spawn: bool,
    spawn_ordered: bool,
    stop: bool,
    kill: bool,
    over: bool,
    detected: bool,
    gone: bool,
}

/// Records come before effects, and every effect that changes something is about the newest process.
#[derive(Debug, Default)]
pub struct RecordsFirst {
    last: Option<RecordId>,
    newest_written: BTreeMap<Name, Epoch>,
    newest_ordered: BTreeMap<Name, Epoch>,
    /// Services of which the guardian may have forgotten which numbers were used.
    forgotten: BTreeSet<Name>,
    written: BTreeMap<(Name, Epoch), Written>,
    /// What is on record that stores are told, by switch.
    switches: BTreeSet<(&'static str, RecordId)>,
    /// Parts of services of which a switch is over.
    retains: BTreeSet<(Name, Part)>,
    /// Descriptors on record, and not ordered to be kept yet.
    left: BTreeSet<RecordId>,
}

impl RecordsFirst {
    fn effect(&mut self, effect: &Effect) -> Result<(), String> {
        let Fence::Service { service, epoch } = &effect.fence else { return Ok(()) };
        let newest = self.newest_ordered.entry(service.clone()).or_default();
        if matches!(effect.order, Order::Spawn { .. }) {
            *newest = if self.forgotten.remove(service) { *epoch } else { (*newest).max(*epoch) };
        }
        if *epoch != *newest && effect.order.acts() && !self.forgotten.contains(service) {
            return Err(format!("{service}: an effect for epoch {epoch}, the newest is {newest}"));
        }
        let written = self.written.entry((service.clone(), *epoch)).or_default();
        let (what, allowed) = match &effect.order {
            Order::Spawn { .. } => ("spawn", written.spawn && !std::mem::replace(&mut written.spawn_ordered, true)),
            Order::Signal { .. } => ("signal", written.stop),
            Order::Kill => ("kill", written.kill),
            Order::AckExit => ("acknowledge", written.over),
            Order::Collect { .. } => ("collect", written.detected),
            Order::Examine => ("examine", written.spawn),
            Order::Probe { .. } => ("probe", written.spawn),
            Order::Store { stored, .. } => ("store", self.left.remove(&stored.id)),
            // With the end of the service, or of its own.
            Order::Unstore { .. } => ("unstore", written.over || written.spawn),
            Order::Forget => ("forget", written.gone),
            Order::LookAtStore { .. } => return Ok(()),
            Order::Switch { switch, .. } => ("switch", self.switches.contains(&("switch", *switch))),
            Order::UndoData { switch, .. } => ("undo", self.switches.contains(&("undo", *switch))),
            Order::Promote { switch, .. } => ("promote", self.switches.contains(&("promote", *switch))),
            Order::Retain { part, .. } => ("retain", self.retains.contains(&(service.clone(), *part))),
            Order::ProbeDependency { .. }
            | Order::Control { .. }
            | Order::Adapt { .. }
            | Order::Reply { .. }
            | Order::Prove { .. }
            | Order::MayReboot { .. }
            | Order::Reboot
            | Order::EndDone => ("answer", false),
        };
        if allowed {
            Ok(())
        } else {
            Err(format!("{service} epoch {epoch}: {what} without the record that leads to it"))
        }
    }
}

impl RecordsFirst {
    fn follow_switch(&mut self, service: &Name, part: Part, record: RecordId, moved: &Move) {
        match moved {
            Move::Begun { switch } => drop(self.switches.insert(("switch", *switch))),
            // What is held is undone by the order to go back.
            Move::Intended { intent } if matches!(intent.aim, Aim::Return { .. }) => {
                self.switches.insert(("undo", record));
            }
            Move::GoesBack { switch, .. } => self.switches.extend([("switch", *switch), ("undo", *switch)]),
            Move::Promoting { switch } => drop(self.switches.insert(("promote", *switch))),
            Move::Kept { known } => {
                // What an earlier Hale has told the store this one may tell it again.
                let switches = known.switch.as_ref().map(|switch| switch.id).into_iter();
                self.switches.extend(switches.flat_map(|id| [("switch", id), ("undo", id), ("promote", id)]));
            }
            // What is needed is known from the first look on, and is another with each switch.
            Move::Ended { .. } | Move::Seen { .. } | Move::Switched { .. } => {
                self.retains.insert((service.clone(), part));
            }
            _ => {}
        }
    }
}

impl Oracle for RecordsFirst {
    fn name(&self) -> &'static str {
        "records-first"
    }

    fn guarantee(&self) -> &'static str {
        "what is done is on record before, records are numbered without gaps, and nothing changes an older process"
    }

    fn restart(&mut self, ledger: &[Record]) {
        let newest_ordered = std::mem::take(&mut self.newest_ordered);
        let forgotten = newest_ordered.keys().cloned().collect();
        *self = Self { last: ledger.last().map(|record| record.id), newest_ordered, forgotten, ..Self::default() };
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Effect(effect) => self.effect(effect),
            Seen::Record(record) => {
                let expected = self.last.map_or(record.id, RecordId::next);
                self.last = Some(record.id);
                if let Some(service) = &record.service {
                    if let Some((part, moved)) = record.body.moved() {
                        self.follow_switch(service, part, record.id, moved);
                    }
                    let newest = self.newest_written.entry(service.clone()).or_default();
                    if let Body::SpawnIntended { epoch, .. } | Body::Adopted { epoch, .. } = &record.body {
                        *newest = *epoch;
                    }
                    let written = self.written.entry((service.clone(), *newest)).or_default();
                    match &record.body {
                        Body::SpawnIntended { .. } | Body::Adopted { .. } => written.spawn = true,
                        Body::StopIntended { .. } => written.stop = true,
                        Body::KillIntended { .. } => written.kill = true,
                        Body::Exited { .. } | Body::SpawnFailed { .. } => written.over = true,
                        Body::Detected { .. } => written.detected = true,
                        Body::Forgotten => written.gone = true,
                        Body::DescriptorStored { .. } => drop(self.left.insert(record.id)),
                        _ => {}
                    }
                }
                if record.id == expected {
                    Ok(())
                } else {
                    Err(format!("record {} where {expected} was due", record.id))
                }
            }
            // What it acknowledged it has forgotten: its numbers can be used again by one who does not remember them either.
            Seen::Fact(Fact::GuardianDied) => {
                self.forgotten = self.newest_ordered.keys().cloned().collect();
                Ok(())
            }
            // Whether the last orders arrived is for the kernel to say: there no epoch can be used twice.
            Seen::Fact(Fact::SupervisorDied) => {
                self.written.values_mut().for_each(|written| written.spawn_ordered = false);
                Ok(())
            }
            Seen::Event(_) | Seen::Fact(_) | Seen::Policy(_) => Ok(()),
        }
    }
}

/// Each end of a process is acknowledged exactly once.
#[derive(Debug, Default)]
pub struct Acknowledged {
    owed: BTreeSet<(Name, Epoch)>,
    /// A new guardian does not know them; to acknowledge them all the same does no harm.
    unknown: BTreeSet<(Name, Epoch)>,
    died: bool,
}

impl Oracle for Acknowledged {
    fn name(&self) -> &'static str {
        "acknowledged"
    }

    fn guarantee(&self) -> &'static str {
        "each exit status, and each failed start, is acknowledged to the guardian exactly once, and no other is"
    }

    fn restart(&mut self, _ledger: &[Record]) {
        *self = Self::default();
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Event(Event::Exited { service, epoch, .. } | Event::SpawnFailed { service, epoch, .. }) => {
                self.owed.insert((service.clone(), *epoch));
                Ok(())
            }
            Seen::Event(Event::TakeOver { found, .. }) => {
                let over = found.iter().filter(|(_, found)| found.life == Life::Over);
                self.unknown = over.map(|(service, found)| (service.clone(), found.epoch)).collect();
                let kept = |found: &Found| matches!(found.life, Life::Ended { .. } | Life::NotMade { .. });
                let kept = found.iter().filter(|(_, found)| kept(found));
                self.owed.extend(kept.map(|(service, found)| (service.clone(), found.epoch)));
                Ok(())
            }
            Seen::Fact(Fact::SupervisorDied) => {
                self.died = true;
                Ok(())
            }
            // What the next one knows it tells.
            Seen::Fact(Fact::GuardianDied) => {
                self.owed.clear();
                Ok(())
            }
            // The guardian takes an order for the next process for the acknowledgement that was lost with a supervisor.
            Seen::Effect(Effect { fence: Fence::Service { service, epoch }, order: Order::Spawn { .. }, .. }) => {
                let died = self.died;
                self.owed.retain(|(owed, before)| !(died && owed == service && before < epoch));
                Ok(())
            }
            // A process that was never ordered fails by the core's own word.
            Seen::Record(record) => {
                if let (Some(service), Body::SpawnFailed { epoch, .. }) = (&record.service, &record.body) {
                    self.owed.insert((service.clone(), *epoch));
                }
                Ok(())
            }
            Seen::Effect(Effect { fence: Fence::Service { service, epoch }, order: Order::AckExit, .. }) => {
                let end = (service.clone(), *epoch);
                if self.owed.remove(&end) | self.unknown.remove(&end) {
                    return Ok(());
                }
                Err(format!("{service} epoch {epoch}: an acknowledgement that nobody waits for"))
            }
            Seen::Event(_) | Seen::Effect(_) | Seen::Fact(_) | Seen::Policy(_) => Ok(()),
        }
    }

    fn end(&mut self, _ending: &Ending) -> Result<(), String> {
        match self.owed.first() {
            Some((service, epoch)) => Err(format!("{service} epoch {epoch}: its end was never acknowledged")),
            None => Ok(()),
        }
    }
}

/// A check is not probed while its last probe still runs.
#[derive(Debug, Default)]
pub struct OneProbe {
    running: BTreeMap<(Name, Name), (Epoch, u64)>,
}

impl Oracle for OneProbe {
    fn name(&self) -> &'static str {
        "one-probe"
    }

    fn guarantee(&self) -> &'static str {
        "at most one probe of a check of one process is in flight"
    }

    fn see(&mut self, now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        if let Seen::Fact(Fact::SupervisorDied) = seen {
            // Its probes ended with it.
            self.running.clear();
        }
        if let Seen::Policy(_) = seen {
            // The probe of a check that is another now is dropped.
            self.running.clear();
        }
        let Seen::Fact(Fact::Probing { service, epoch, check, until_us }) = seen else { return Ok(()) };
        let before = self.running.insert((service.clone(), check.clone()), (*epoch, *until_us));
        match before {
            Some((same, until)) if same == *epoch && until > now_us => Err(format!(
                "{service}: check {check} is probed while its last probe runs for {} us more",
                until - now_us
            )),
            Some(_) | None => Ok(()),
        }
    }
}

/// Each decision can be recomputed from what it read.
pub struct Recomputes;

impl Oracle for Recomputes {
    fn name(&self) -> &'static str {
        "recomputes"
    }

    fn guarantee(&self) -> &'static str {
        "each decision on record follows from the values on record with it"
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        let Seen::Record(record) = seen else { return Ok(()) };
        if let Body::RestartPlanned(decision) = &record.body {
            let again = before_limit::decide(&decision.read);
            return match again == Some((decision.reaches, decision.verdict)) {
                true => Ok(()),
                false => Err(format!("record {}: {again:?} follows from what is on record", record.id)),
            };
        }
        let follows = match &record.body {
            Body::Decided(decision) => ladder::decide(&decision.read) == decision.choice,
            Body::Blamed(judged) | Body::NotItsFault { judged, .. } => blame::judge(&judged.read) == judged.judgement,
            Body::RebootDecided(decision) => reboot::decide(&decision.read) == decision.choice,
            _ => true,
        };
        match follows {
            true => Ok(()),
            false => {
                Err(format!("record {} does not follow from what is on record with it: {:?}", record.id, record.body))
            }
        }
    }
}

/// Each client is answered exactly once.
#[derive(Debug, Default)]
pub struct Answers {
    owed: BTreeMap<RequestId, u64>,
}

impl Oracle for Answers {
    fn name(&self) -> &'static str {
        "answers"
    }

    fn guarantee(&self) -> &'static str {
        "each question and each order is answered at most once, and each once everything is at rest"
    }

    fn see(&mut self, now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Event(Event::Asked { request, .. }) => {
                self.owed.insert(*request, now_us);
                Ok(())
            }
            // Its clients were told by the end of their connections.
            Seen::Fact(Fact::SupervisorDied) => {
                self.owed.clear();
                Ok(())
            }
            Seen::Effect(Effect { order: Order::Reply { request: RequestId(0), .. }, .. }) => Ok(()),
            Seen::Effect(Effect { order: Order::Reply { request, .. }, .. }) => match self.owed.remove(request) {
                Some(_) => Ok(()),
                None => Err(format!("request {request} is answered twice, or nobody asked")),
            },
            Seen::Event(_) | Seen::Effect(_) | Seen::Record(_) | Seen::Fact(_) | Seen::Policy(_) => Ok(()),
        }
    }

    fn end(&mut self, ending: &Ending) -> Result<(), String> {
        if !ending.at_rest {
            return Ok(());
        }
        // An order may still wait for its record to become durable.
        let long_ago = ending.at_us.saturating_sub(hale_core::step::DURABLE_WITHIN.as_us() + 1_000);
        match self.owed.iter().find(|(_, at)| **at < long_ago) {
            Some((request, at)) => Err(format!("request {request} of {at} us was never answered")),
            None => Ok(()),
        }
    }
}
