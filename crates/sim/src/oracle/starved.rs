//! Guarantees about failures that are Hale's own.

use super::{Oracle, Seen};
use crate::host::probing::STARVED;
use hale_core::record::Body;

/// What was found while Hale itself was late counts against nobody.
#[derive(Debug)]
pub struct Starved;

impl Oracle for Starved {
    fn name(&self) -> &'static str {
        "starved"
    }

    fn guarantee(&self) -> &'static str {
        "a failure that was found while Hale itself was late by more than a quarter of the time-out counts against nobody"
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Record(record) => match &record.body {
                Body::CheckFailed { check, detail, .. } if detail.contains(STARVED) => {
                    let service = record.service.as_ref().map(ToString::to_string).unwrap_or_default();
                    Err(format!("check {check} of {service} is held to have failed, and Hale was late"))
                }
                _ => Ok(()),
            },
            Seen::Event(_) | Seen::Effect(_) | Seen::Fact(_) | Seen::Policy(_) => Ok(()),
        }
    }
}
