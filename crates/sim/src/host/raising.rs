//! What failed processes wrote last: sometimes an exception, most often the one before.

use super::FakeHost;
use crate::kernel::Fact;
use crate::oracle::Seen;
use crate::timeline::Item;
use hale_core::analyze::trace;
use hale_core::event::Event;
use hale_core::ids::{Epoch, IncidentId, Name};

impl FakeHost<'_> {
    /// Reads the output of a process that failed; sometimes only after its successor has failed, too.
    pub(super) fn collect(&mut self, service: &Name, epoch: Epoch, incident: IncidentId) {
        let exception = match epoch.0 % 9 {
            0 => None,
            1 => Some("OtherError"),
            _ => Some("UsualError"),
        };
        let lines = exception.map(|name| {
            [
                String::from("Traceback (most recent call last):"),
                String::from("  File \"/srv/service.py\", line 3, in work"),
                format!("{name}: {epoch}"),
            ]
        });
        let lines = lines.map_or(vec![String::from("a last line")], Vec::from);
        let found = trace::find(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        let trace = found.map(|(trace, after)| (Box::new(trace), u32::try_from(after).unwrap_or(0)));
        let fact = Fact::Raised {
            service: service.clone(),
            epoch,
            exception: trace.as_ref().map(|(trace, _)| trace.fingerprint),
        };
        self.judges.see(self.timeline.now(), Seen::Fact(&fact));
        let after_us = if epoch.0.is_multiple_of(4) { 400_000 } else { 3_000 };
        let event = Event::Collected { service: service.clone(), epoch, incident, lines, trace };
        self.timeline.after(after_us, Item::Tell(event));
    }
}
