//! Guarantees about evidence: what runs and does not work is looked at before it is ended.

use super::{Oracle, Seen};
use hale_core::effect::{Effect, Fence, Order};
use hale_core::event::Event;
use hale_core::examination::EXAMINED_WITHIN;
use hale_core::ids::{Epoch, Name};
use hale_core::reason::Reason;
use hale_core::record::{Body, Finding, Record};
use std::collections::BTreeMap;

/// What is known of the newest process of a service.
#[derive(Debug, Default)]
struct Process {
    lives: bool,
    epoch: Option<Epoch>,
    /// When the host was ordered to look what it does; none: it never was.
    ordered_us: Option<u64>,
    /// The host has answered.
    looked: bool,
    /// What it failed by is decided about at once. After a pause, or once a reload has Hale act again, an earlier detection is
    /// decided about anew, and what was found then is on record.
    fails_now: bool,
}

/// Nothing that has failed is ended before it was looked at, or the time for that is over.
#[derive(Debug, Default)]
pub struct LooksFirst {
    processes: BTreeMap<Name, Process>,
}

impl LooksFirst {
    fn record(&mut self, now_us: u64, record: &Record) -> Result<(), String> {
        if let Body::Reloaded(_) = &record.body {
            self.processes.values_mut().for_each(|process| process.fails_now = false);
        }
        let Some(name) = &record.service else { return Ok(()) };
        let process = self.processes.entry(name.clone()).or_default();
        match &record.body {
            Body::Spawned { epoch, .. } | Body::Adopted { epoch, .. } => {
                *process = Process { lives: true, epoch: Some(*epoch), ..Process::default() };
            }
            // One that says itself that it does not work is believed at once.
            Body::Detected { finding: Finding::NoHeartbeat { triggered: true, .. }, .. } => process.fails_now = false,
            Body::Detected { .. } => process.fails_now = true,
            // A look that goes on is for a failure that was found before, and waits.
            Body::BecameHealthy { .. } => {
                let is_over = |ordered_us: &mut u64| now_us >= *ordered_us + EXAMINED_WITHIN.as_us();
                process.looked &= process.ordered_us.take_if(is_over).is_none();
            }
            Body::Resumed { .. } => process.fails_now = false,
            Body::Exited { .. } | Body::SpawnFailed { .. } => process.lives = false,
            Body::StopIntended { why: Reason::MustGo, .. } | Body::KillIntended { why: Reason::MustGo, .. } => {
                let is_over = |ordered_us| now_us >= ordered_us + EXAMINED_WITHIN.as_us();
                if process.lives && process.fails_now && !process.looked && !process.ordered_us.is_some_and(is_over) {
                    return Err(format!("{name} runs, has failed and is ended, and nobody has looked what it does"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn effect(&mut self, now_us: u64, effect: &Effect) {
        if let (Fence::Service { service, .. }, Order::Examine) = (&effect.fence, &effect.order) {
            let process = self.processes.entry(service.clone()).or_default();
            // Another look may be ordered for another check while the first failure still waits for something else.
            process.ordered_us.get_or_insert(now_us);
        }
    }
}

impl Oracle for LooksFirst {
    fn name(&self) -> &'static str {
        "looks-first"
    }

    fn guarantee(&self) -> &'static str {
        "what runs and fails is ended only once it was looked at, or the time for that is over"
    }

    fn restart(&mut self, _ledger: &[Record]) {
        self.processes.clear();
    }

    fn see(&mut self, now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Record(record) => return self.record(now_us, record),
            Seen::Effect(effect) => self.effect(now_us, effect),
            Seen::Event(Event::Examined { service, epoch, .. }) => {
                let process = self.processes.entry(service.clone()).or_default();
                process.looked |= process.epoch == Some(*epoch);
            }
            Seen::Event(_) | Seen::Fact(_) | Seen::Policy(_) => {}
        }
        Ok(())
    }
}
