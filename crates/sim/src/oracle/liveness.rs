//! Guarantees about what must happen in the end.

use super::{Ending, Oracle, Seen};
use hale_core::effect::Order;
use hale_core::record::{Body, Record};

/// Once faults stop, everything that can be healthy becomes so within a bound.
pub struct Liveness;

impl Oracle for Liveness {
    fn name(&self) -> &'static str {
        "liveness"
    }

    fn guarantee(&self) -> &'static str {
        "when faults stop, every service that can be healthy is healthy within the bound that its policy allows"
    }

    fn see(&mut self, _now_us: u64, _seen: Seen<'_>) -> Result<(), String> {
        Ok(())
    }

    fn end(&mut self, ending: &Ending) -> Result<(), String> {
        if ending.unsettled.is_empty() { Ok(()) } else { Err(ending.unsettled.join("; ")) }
    }
}

/// The loop never runs without anything to do.
pub struct NoSpinning;

impl Oracle for NoSpinning {
    fn name(&self) -> &'static str {
        "no-spinning"
    }

    fn guarantee(&self) -> &'static str {
        "the core never asks to be woken at once again and again without having anything to do"
    }

    fn see(&mut self, _now_us: u64, _seen: Seen<'_>) -> Result<(), String> {
        Ok(())
    }

    fn end(&mut self, ending: &Ending) -> Result<(), String> {
        match (ending.spins, ending.endless) {
            (true, _) => Err(String::from("the same instant was ticked too often")),
            (_, true) => Err(String::from("the run needs more events than any should")),
            (false, false) => Ok(()),
        }
    }
}

/// Told to end, Hale ends everything and says so, once.
#[derive(Default)]
pub struct Ends {
    ending: bool,
    done: bool,
}

impl Oracle for Ends {
    fn name(&self) -> &'static str {
        "ends"
    }

    fn guarantee(&self) -> &'static str {
        "told to end, Hale starts nothing any more and says within a bound, once, that everything has ended"
    }

    fn rewind(&mut self, kept: &[Record]) {
        self.ending = kept.iter().any(|record| matches!(record.body, Body::Ending { .. }));
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Record(record) => match &record.body {
                Body::Ending { .. } => {
                    self.ending = true;
                    Ok(())
                }
                Body::SpawnIntended { .. } if self.ending => Err(String::from("a start while everything is ended")),
                _ => Ok(()),
            },
            Seen::Effect(effect) if effect.order == Order::EndDone => {
                let wrong = self.done || !self.ending;
                self.done = true;
                if wrong { Err(String::from("the end is said twice or without having been asked for")) } else { Ok(()) }
            }
            Seen::Effect(_) | Seen::Fact(_) | Seen::Event(_) | Seen::Policy(_) => Ok(()),
        }
    }

    fn end(&mut self, ending: &Ending) -> Result<(), String> {
        if ending.end_awaited { Err(String::from("told to end, and never done")) } else { Ok(()) }
    }
}
