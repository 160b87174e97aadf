//! Virtual time: what will happen, ordered by when and then by when it was planned.

use crate::death::Restart;
use crate::fate::OomVictim;
use crate::fault::Fault;
use hale_core::event::{Event, ExitStatus, Notice};
use hale_core::ids::{Epoch, GenerationId, Name};
use hale_core::safeswitch::Part;
use std::collections::BTreeMap;

/// Something that will happen in the fake world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Hale is told something.
    Tell(Event),
    /// The same, and it counts as this fault.
    TellFault(Fault, Event),
    /// The program of a process is executed.
    Executes(Name, Epoch),
    /// The program of a process could not be executed.
    ExecFails(Name, Epoch),
    /// A process works from now on.
    Up(Name, Epoch),
    /// A process ends by itself, unless faults are over.
    EndsBy(Name, Epoch, ExitStatus, Fault),
    /// The kernel takes a process of a tree for memory, unless faults are over.
    OomKills(Name, Epoch, OomVictim),
    /// The kernel says that a process waits for memory, and will say it again.
    Stalls(Name, Epoch),
    /// A process ends because it was told to.
    Dies(Name, Epoch, ExitStatus),
    /// What a process left behind ends.
    StraysEnd(Name, Epoch),
    /// A process says it lives.
    Beats(Name, Epoch),
    /// A process says something.
    Says(Name, Epoch, Notice, Fault),
    /// A process begins to misbehave.
    Turns(Name, Epoch, Fault),
    /// The disk fails for so many microseconds.
    DiskFails(u64),
    /// The disk works again.
    DiskWorks,
    /// An operator reloads: which of the scenario's.
    Reload(usize),
    /// A process ends by itself, because of its generation's flaw.
    EndsByFlaw(Name, Epoch),
    /// The work that a store is at is done, as far as it gets done.
    StoreDone(Name, Part, u64),
    /// The store has something to say: what it is switched to by then, if that is not said yet.
    StoreTells(Name, Part),
    /// Somebody else switches a store, or edits files.
    OutsideSwitch(Name, Part, GenerationId),
    /// All of Hale dies; with the power or without.
    HaleDies(Restart),
    /// From now on nothing misbehaves.
    FaultsEnd,
}

/// The clock and the plan.
#[derive(Debug, Default)]
pub struct Timeline {
    now: u64,
    planned: u64,
    items: BTreeMap<(u64, u64), Item>,
}

impl Timeline {
    /// Microseconds on the monotonic clock.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Plans `item` for the moment `at`, or for now if that is over.
    pub fn at(&mut self, at: u64, item: Item) {
        self.planned += 1;
        self.items.insert((at.max(self.now), self.planned), item);
    }

    /// Plans `item` for `delay` microseconds from now.
    pub fn after(&mut self, delay: u64, item: Item) {
        self.at(self.now.saturating_add(delay), item);
    }

    /// When the next item is due.
    #[must_use]
    pub fn next_at(&self) -> Option<u64> {
        self.items.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the next item, and moves the clock to it.
    pub fn pop(&mut self) -> Option<Item> {
        let ((at, _), item) = self.items.pop_first()?;
        self.now = self.now.max(at);
        Some(item)
    }

    /// Takes back what was to be told, but for what `stays`.
    pub fn untell(&mut self, stays: impl Fn(&Event) -> bool) {
        self.items.retain(|_, item| match item {
            Item::Tell(event) | Item::TellFault(_, event) => stays(event),
            _ => true,
        });
    }

    /// Moves the clock, never back.
    pub fn advance_to(&mut self, at: u64) {
        self.now = self.now.max(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_in_the_order_of_time_and_then_of_planning() {
        let mut timeline = Timeline::default();
        timeline.after(5, Item::DiskWorks);
        timeline.after(3, Item::FaultsEnd);
        timeline.after(5, Item::DiskFails(1));
        assert_eq!((timeline.pop(), timeline.now()), (Some(Item::FaultsEnd), 3));
        timeline.advance_to(9);
        assert_eq!((timeline.pop(), timeline.pop()), (Some(Item::DiskWorks), Some(Item::DiskFails(1))));
        assert_eq!((timeline.now(), timeline.pop()), (9, None));
    }
}
