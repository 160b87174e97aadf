//! Guarantees about what stores are told, and about what is made of what they are switched to.

use super::{Models, Of};
use crate::generations::half;
use crate::kernel::Fact;
use crate::oracle::{Oracle, Seen};
use hale_core::effect::{Effect, Fence, Order};
use hale_core::event::Event;
use hale_core::ids::{GenerationId, Name, RecordId};
use hale_core::record::Record;
use hale_core::safeswitch::Part;
use std::collections::{BTreeMap, BTreeSet};

/// Which records are on the disk, as the ledger itself knows it.
#[derive(Debug, Default)]
pub(super) struct Synced {
    up_to: RecordId,
    refused: BTreeSet<RecordId>,
}

impl Synced {
    pub(super) fn see(&mut self, seen: Seen<'_>) {
        match seen {
            Seen::Fact(Fact::Synced(up_to)) => self.up_to = self.up_to.max(*up_to),
            Seen::Event(Event::NotDurable { record }) => drop(self.refused.insert(*record)),
            Seen::Fact(_) | Seen::Event(_) | Seen::Record(_) | Seen::Effect(_) | Seen::Policy(_) => {}
        }
    }

    pub(super) fn has(&self, record: RecordId) -> bool {
        record <= self.up_to && !self.refused.contains(&record)
    }

    /// What this ledger has is there.
    pub(super) fn of(ledger: &[Record]) -> Self {
        Self { up_to: ledger.last().map_or(RecordId(0), |record| record.id), refused: BTreeSet::new() }
    }
}

/// No store is told to switch before the intent is on the disk.
#[derive(Default)]
pub struct IntentsFirst {
    models: Models,
    synced: Synced,
}

impl Oracle for IntentsFirst {
    fn name(&self) -> &'static str {
        "intents-first"
    }

    fn guarantee(&self) -> &'static str {
        "no store is told to switch before the intent of that switch is durable, but for the way back of one that is under way"
    }

    fn restart(&mut self, ledger: &[Record]) {
        *self = Self { models: Models::of(ledger), synced: Synced::of(ledger) };
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        self.synced.see(seen);
        if let Seen::Record(record) = seen {
            self.models.follow(record);
        }
        let Seen::Effect(Effect {
            fence: Fence::Service { service: name, .. },
            order: Order::Switch { part, switch, to, .. },
            ..
        }) = seen
        else {
            return Ok(());
        };
        let service = Of { name, part: *part };
        let open = self.models.get(service).and_then(|model| model.open.as_ref()).filter(|open| open.id == *switch);
        match open {
            None => Err(format!("{service}: its store is told to switch to {to}, and no switch {switch} is under way")),
            Some(open) if open.goes_back.as_ref() == Some(to) => Ok(()),
            Some(open) if open.intent.to != *to => Err(format!("{service}: {to} is not where switch {switch} leads")),
            Some(_) if !self.synced.has(*switch) => {
                Err(format!("{service}: its store is told to switch to {to}, and that intent is not durable"))
            }
            Some(_) => Ok(()),
        }
    }
}

/// Processes are of what their stores are switched to.
#[derive(Default)]
pub struct SpawnsCurrent {
    models: Models,
}

impl Oracle for SpawnsCurrent {
    fn name(&self) -> &'static str {
        "spawns-current"
    }

    fn guarantee(&self) -> &'static str {
        "every process is of the generation that its store is switched to and its files are in, as far as Hale was told"
    }

    fn restart(&mut self, ledger: &[Record]) {
        self.models = Models::of(ledger);
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Record(record) => {
                self.models.follow(record);
                Ok(())
            }
            Seen::Fact(Fact::SpawnsOf { service: name, part, generation, current, told: true })
                if generation != current =>
            {
                let service = Of { name, part: *part };
                // Until the store has answered an order, nobody knows whose doing it is what it shows.
                let open = self.models.get(service).and_then(|model| model.open.as_ref());
                if open.is_some_and(|open| !open.switched || (open.goes_back.is_some() && !open.is_back)) {
                    return Ok(());
                }
                let name = |id: &Option<GenerationId>| id.as_ref().map_or("none", GenerationId::as_str).to_owned();
                Err(format!("{service}: a process of {}, and {} is switched to", name(generation), name(current)))
            }
            Seen::Fact(_) | Seen::Event(_) | Seen::Effect(_) | Seen::Policy(_) => Ok(()),
        }
    }
}

/// Nobody's switch is replaced by one of Hale that does not know of it.
#[derive(Default)]
pub struct NeverFights {
    models: Models,
    current: BTreeMap<(Name, Part), GenerationId>,
}

impl Oracle for NeverFights {
    fn name(&self) -> &'static str {
        "never-fights"
    }

    fn guarantee(&self) -> &'static str {
        "a switch replaces only what it says that it leaves, leads to or goes back to"
    }

    fn restart(&mut self, ledger: &[Record]) {
        self.models = Models::of(ledger);
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        if let Seen::Record(record) = seen {
            self.models.follow(record);
        }
        let Seen::Fact(Fact::Switched { service: name, part, current: Some(current), by_hale }) = seen else {
            return Ok(());
        };
        let service = Of { name, part: *part };
        let before = self.current.insert((name.clone(), *part), current.clone());
        let open = self.models.get(service).and_then(|model| model.open.as_ref()).filter(|_| *by_hale);
        let (Some(before), Some(open)) = (before, open) else { return Ok(()) };
        let intent = &open.intent;
        let known = [Some(&intent.to), intent.from.as_ref(), intent.back.as_ref(), open.goes_back.as_ref()];
        // A half of its own is no one's.
        if before == half() || known.contains(&Some(&before)) {
            Ok(())
        } else {
            Err(format!(
                "{service}: {before} was replaced by {current}, and that switch does not know of it: {intent:?}"
            ))
        }
    }
}

/// What may be needed is not removed.
#[derive(Default)]
pub struct Retains {
    models: Models,
}

impl Oracle for Retains {
    fn name(&self) -> &'static str {
        "retains"
    }

    fn guarantee(&self) -> &'static str {
        "what is current, known to be good, or an end of a switch that is not over is never given up"
    }

    fn restart(&mut self, ledger: &[Record]) {
        self.models = Models::of(ledger);
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        if let Seen::Record(record) = seen {
            self.models.follow(record);
        }
        let Seen::Effect(Effect {
            fence: Fence::Service { service: name, .. },
            order: Order::Retain { part, needed, .. },
            ..
        }) = seen
        else {
            return Ok(());
        };
        let service = Of { name, part: *part };
        let Some(model) = self.models.get(service) else { return Ok(()) };
        let of_switch = model.open.as_ref().map(|open| &open.intent).into_iter();
        let of_switch = of_switch.flat_map(|intent| [Some(&intent.to), intent.from.as_ref(), intent.back.as_ref()]);
        let mut all = model.goods.iter().map(Some).chain(of_switch).chain([model.current.as_ref()]).flatten();
        match all.find(|id| !needed.contains(id)) {
            Some(id) => Err(format!("{service}: {id} may be removed, and is needed: {model:?}, {needed:?}")),
            None => Ok(()),
        }
    }
}
