//! What must be true after every step. The simulator stops at the first violation; in production it is
//! recorded, and the service concerned is only observed from there on.

use crate::descriptor::{STORED_MAX, Stored};
use crate::ids::Name;
use crate::world::World;
use crate::world::phase::{Phase, StopStage};
use crate::world::service::Service;
use alloc::format;
use alloc::string::String;

/// The first rule that `name` breaks, in words.
#[must_use]
pub fn check(world: &World, name: &Name) -> Option<String> {
    let service = world.service(name)?;
    let known = &service.known;
    let running = matches!(known.phase, Phase::Running { .. });
    if known.healthy && !(running && service.all_pass()) {
        return Some(format!("healthy while {} or while a check does not pass", known.phase.name()));
    }
    if known.healthy && known.incident.is_some() {
        return Some(String::from("healthy with an incident still open"));
    }
    if let Some(rule) = service.policy.restart.crash_loop
        && known.counters.recent.len() > rule.failures as usize
    {
        return Some(format!("{} failures kept where {} are enough", known.counters.recent.len(), rule.failures));
    }
    let places = (world.birth.policy.host.restarts_in_flight as usize).max(world.places_taken_up);
    if world.restarts_in_flight() > places {
        return Some(format!("{} restarts in flight", world.restarts_in_flight()));
    }
    if world.admission.has_place(name) && !matches!(known.phase, Phase::Spawning { .. } | Phase::Starting { .. }) {
        return Some(format!("holds a place among restarts_in_flight while {}", known.phase.name()));
    }
    if known.stored.len() > STORED_MAX || (1..known.stored.len()).any(|at| taken_before(&known.stored, at)) {
        return Some(String::from("two descriptors that it left have the same place, or there are too many"));
    }
    // At the end nobody looks any more.
    let looks = world.looks.contains(name) || world.ending.is_some();
    let is_past = |on: &Name| !world.is_down(on) || !service.policy.after.contains(on);
    if known.blocked.as_ref().is_some_and(|on| is_past(on) && !looks) {
        return Some(String::from("blocked by what is not down"));
    }
    if stuck(world, name, service) {
        return Some(format!("{}, and nothing will ever change that", known.phase.name()));
    }
    None
}

/// Whether an earlier one has the place of this one.
fn taken_before(stored: &[Stored], at: usize) -> bool {
    stored[..at].iter().any(|earlier| earlier.index == stored[at].index)
}

/// Whether the service waits for something that has no deadline and no event to come.
fn stuck(world: &World, name: &Name, service: &Service) -> bool {
    let resting = matches!(
        service.known.phase,
        Phase::Down | Phase::Remains { .. } | Phase::BackingOff { .. } | Phase::Held { .. } | Phase::Blocked { .. }
    );
    // At the end its turn comes after that of those behind it.
    if resting && service.known.paused.is_some() && !(world.is_ending() && world.may_end(name)) {
        return false;
    }
    match &service.known.phase {
        Phase::Down => !world.to_start.contains(name),
        Phase::Remains { .. } => service.known.violated.is_none() && world.mode() == crate::policy::Mode::Heal,
        // The store owes an answer.
        Phase::BackingOff { .. } | Phase::Held { .. } if service.awaits_store() => false,
        Phase::BackingOff { .. } => service.deadline().is_none() && !world.admission.waits(name),
        Phase::Held { .. } => service.deadline().is_none(),
        Phase::Spawning { .. } | Phase::Starting { .. } => !service.known.start_overdue && service.deadline().is_none(),
        Phase::Blocked { on } => (world.is_up(on) || !service.policy.after.contains(on)) && !world.looks.contains(name),
        Phase::Stopping { stage: StopStage::Asked { .. } | StopStage::Killed { .. }, .. } => {
            service.deadline().is_none()
        }
        // These end by an event that the host owes.
        Phase::Stopping { stage: StopStage::Unkillable { .. }, .. } | Phase::Running { .. } | Phase::Stopped { .. } => {
            false
        }
    }
}
