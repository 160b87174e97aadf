//! The guarantee about exceptions that come again: Hale never believes more of it than there was.

use super::{Oracle, Seen};
use crate::kernel::Fact;
use hale_core::analyze::trace::Fingerprint;
use hale_core::ids::{Epoch, Name};
use hale_core::record::{Body, Finding, Record};
use std::collections::BTreeMap;

/// What each service's processes that failed had raised.
#[derive(Debug, Default)]
pub struct Alike {
    /// Those of the newest failures in which the process ended by itself, in order.
    failed: BTreeMap<Name, Vec<Epoch>>,
    raised: BTreeMap<(Name, Epoch), Option<Fingerprint>>,
}

impl Alike {
    fn detected(&mut self, service: &Name, finding: &Finding) {
        if let Finding::Unkillable { .. } = finding {
            // The same failure goes on.
            return;
        }
        let (Finding::Exit { epoch, .. }, true) = (finding, finding.is_own_end()) else {
            return drop(self.failed.remove(service));
        };
        let failed = self.failed.entry(service.clone()).or_default();
        if failed.last() != Some(epoch) {
            failed.push(*epoch);
        }
    }

    /// How often this was the exception, of the newest ones in a row. The very last may not be read yet.
    fn longest(&self, service: &Name, exception: Fingerprint) -> usize {
        let failed = self.failed.get(service).map(Vec::as_slice).unwrap_or_default();
        let is_it = |epoch: &Epoch| self.raised.get(&(service.clone(), *epoch)) == Some(&Some(exception));
        let unread = usize::from(failed.last().is_some_and(|last| !is_it(last)));
        failed.iter().rev().skip(unread).take_while(|epoch| is_it(epoch)).count()
    }
}

impl Oracle for Alike {
    fn name(&self) -> &'static str {
        "alike"
    }

    fn guarantee(&self) -> &'static str {
        "an exception is said to have come again only as often as it came in a row"
    }

    fn rewind(&mut self, kept: &[Record]) {
        let raised = std::mem::take(&mut self.raised);
        *self = super::replay(Self { raised, ..Self::default() }, kept);
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        if let Seen::Fact(Fact::Raised { service, epoch, exception }) = seen {
            self.raised.insert((service.clone(), *epoch), *exception);
        }
        let Seen::Record(record) = seen else { return Ok(()) };
        let Some(service) = &record.service else { return Ok(()) };
        // What fails while something that it starts after is down does not count.
        if let Body::Detected { finding, blocked: None, .. } = &record.body {
            self.detected(service, finding);
        }
        let Body::Decided(decision) = &record.body else { return Ok(()) };
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
