//! The loop around the brain: synchronous, and the same for the real host and for the simulated one.

use crate::effect::Effect;
use crate::event::Event;
use crate::record::Record;
use crate::step::step;
use crate::time::{Monotonic, Now};
use crate::world::{Snapshot, World};

/// What the loop needs of a host.
pub trait Host {
    /// Reads the clocks.
    fn now(&mut self) -> Now;

    /// Waits for the next event, and for `until` at the longest: then it is [`Event::Tick`]. `None`: the end.
    fn next(&mut self, until: Option<Monotonic>) -> Option<Event>;

    /// Writes records where they belong by their class, before the effects of the same step are performed.
    /// Never waits for a disk: what has to be durable first is reported later by [`Event::Durable`].
    fn write(&mut self, records: &[Record]);

    /// Whether the runtime journal has reached its bound: a snapshot takes the place of all records before it.
    fn wants_snapshot(&self) -> bool {
        false
    }

    /// Replaces the runtime journal by a snapshot of the world as it is after the records written so far.
    fn keep(&mut self, _snapshot: &Snapshot) {}

    /// Performs one effect, or starts to; never waits for it.
    fn perform(&mut self, effect: Effect);
}

/// Runs the loop until the host has no more events.
pub fn run(world: &mut World, host: &mut impl Host) {
    while let Some(event) = host.next(world.next_deadline()) {
        let now = host.now();
        let output = step(world, now, event);
        if !output.records.is_empty() {
            host.write(&output.records);
        }
        if host.wants_snapshot() {
            host.keep(&world.snapshot());
        }
        for effect in output.effects {
            host.perform(effect);
        }
    }
}
