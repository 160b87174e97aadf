//! The guarantee about exceptions that come again: Hale never believes more of it than there was.

use super::{Oracle, Seen};
use crate::kernel::Fact;
use hale_core::analyze::trace::Fingerprint;
use hale_core::ids::{Epoch, Name};
use hale_core::incident::Cause;
use hale_core::record::{Body, Finding};
use std::collections::BTreeMap;

/// What each service's processes that failed had raised.
#[derive(Debug, Default)]
pub struct Alike {
    /// By their ends, in order, with what is not known yet.
    failed: BTreeMap<Name, Vec<(Epoch, Option<Fingerprint>)>>,
}

impl Alike {
    fn detected(&mut self, service: &Name, finding: &Finding, cause: Cause) {
        if let Finding::Unkillable { .. } = finding {
            // The same failure goes on.
            return;
        }
        let Finding::Exit { epoch, .. } = finding else { return drop(self.failed.remove(service)) };
        if !matches!(cause, Cause::Exit | Cause::Signal) {
            return drop(self.failed.remove(service));
        }
        let failed = self.failed.entry(service.clone()).or_default();
        if failed.last().is_none_or(|(last, _)| last != epoch) {
            failed.push((*epoch, None));
        }
    }

    /// How often this was the exception, of the newest ones in a row. The very last may not be read yet.
    fn longest(&self, service: &Name, exception: Fingerprint) -> usize {
        let failed = self.failed.get(service).map(Vec::as_slice).unwrap_or_default();
        let unread = usize::from(failed.last().is_some_and(|(_, raised)| *raised != Some(exception)));
        failed.iter().rev().skip(unread).take_while(|(_, raised)| *raised == Some(exception)).count()
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
        if let Seen::Fact(Fact::Raised { service, epoch, exception }) = seen
            && let Some(failed) = self.failed.get_mut(service)
            && let Some((_, raised)) = failed.iter_mut().rev().find(|(failed, _)| failed == epoch)
        {
            *raised = *exception;
        }
        let Seen::Record(record) = seen else { return Ok(()) };
        let Some(service) = &record.service else { return Ok(()) };
        // What fails while something that it starts after is down does not count.
        if let Body::Detected { finding, cause, blocked: None, .. } = &record.body {
            self.detected(service, finding, *cause);
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
