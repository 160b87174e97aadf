//! The guarantee about exceptions that come again: Hale never believes more of it than there was.

use super::{Oracle, Seen};
use crate::kernel::Fact;
use hale_core::analyze::trace::Fingerprint;
use hale_core::ids::Name;
use hale_core::record::Body;
use std::collections::BTreeMap;

/// What the processes of each service that failed had raised, in order.
#[derive(Debug, Default)]
pub struct Alike {
    raised: BTreeMap<Name, Vec<Option<Fingerprint>>>,
}

impl Alike {
    /// How often in a row this was the exception of a service, at most.
    fn longest(&self, service: &Name, exception: Fingerprint) -> usize {
        let raised = self.raised.get(service).map(Vec::as_slice).unwrap_or_default();
        raised.split(|other| *other != Some(exception)).map(<[_]>::len).max().unwrap_or(0)
    }
}

impl Oracle for Alike {
    fn name(&self) -> &'static str {
        "alike"
    }

    fn guarantee(&self) -> &'static str {
        "an exception is said to have come again only as often as it came in a row"
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        if let Seen::Fact(Fact::Raised { service, epoch: _, exception }) = seen {
            self.raised.entry(service.clone()).or_default().push(*exception);
        }
        let Seen::Record(record) = seen else { return Ok(()) };
        let (Some(service), Body::Decided(decision)) = (&record.service, &record.body) else { return Ok(()) };
        let Some(alike) = decision.read.alike else { return Ok(()) };
        let longest = self.longest(service, alike.exception);
        if alike.times as usize <= longest {
            return Ok(());
        }
        Err(format!(
            "{service}: {} is said to have come {} times in a row, and came {longest}",
            alike.exception, alike.times
        ))
    }
}
