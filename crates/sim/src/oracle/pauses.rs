//! The guarantee about pauses: in one nothing is done but what an operator orders, and each of them ends.

use super::{Ending, Oracle, Seen};
use hale_core::ids::Name;
use hale_core::reason::Reason;
use hale_core::record::{Body, OperatorOrder, Record};
use hale_core::world::phase::Then;
use std::collections::BTreeMap;

/// How late the loop may come to look at a pause that is over, in microseconds: lateness of the fake host, twice.
const LATE_US: u64 = 4_000_000;

/// What the records have said about one service.
#[derive(Debug, Clone, Copy, Default)]
struct Stand {
    /// When its pause ends, in microseconds of the clock that goes on in suspend.
    until: Option<u64>,
    /// Since when that is over and the pause goes on all the same, on the monotonic clock.
    over_since: Option<u64>,
    /// An operator wants it to run, or not to run.
    ordered: bool,
    /// It was asked to end before.
    stopping: bool,
}

/// In a pause nothing is done.
#[derive(Debug, Default)]
pub struct Pauses {
    stands: BTreeMap<Name, Stand>,
    ending: bool,
    suspended: u64,
}

impl Pauses {
    fn record(&mut self, record: &Record) -> Result<(), String> {
        self.ending |= matches!(record.body, Body::Ending { .. });
        self.suspended = record.at.boot_us - record.at.mono.as_us();
        if let Body::TookOver { .. } = record.body {
            // Nobody was there to look.
            self.stands.values_mut().for_each(|stand| stand.over_since = None);
        }
        let Some(name) = &record.service else { return Ok(()) };
        let stand = self.stands.entry(name.clone()).or_default();
        let right = match &record.body {
            Body::Paused { until_boot_us, .. } => {
                // Its order may have waited for the disk for longer than it was to last.
                stand.until = Some((*until_boot_us).max(record.at.boot_us));
                true
            }
            Body::Resumed { why } => {
                let over = stand.until.take().is_some_and(|until| until <= record.at.boot_us);
                over || matches!(why, Reason::Ordered { .. })
            }
            Body::Forgotten => {
                *stand = Stand::default();
                true
            }
            Body::Ordered { order, .. } => {
                stand.ordered |= !matches!(order, OperatorOrder::Pause { .. } | OperatorOrder::Resume { .. });
                true
            }
            Body::SpawnIntended { why, .. } => {
                stand.stopping = false;
                // One order may overtake another: each says so itself.
                let ordered = std::mem::take(&mut stand.ordered) || matches!(why, Reason::Ordered { .. });
                stand.until.is_none() || ordered
            }
            Body::StopIntended { why, then, .. } | Body::KillIntended { why, then, .. } => {
                let goes_on = std::mem::replace(&mut stand.stopping, true);
                // That it is not there any more is an operator's word, too.
                let asked = matches!(why, Reason::Ordered { .. } | Reason::Reloaded)
                    || matches!(then, Then::Stay { why: Reason::Removed });
                stand.until.is_none()
                    || self.ending
                    || goes_on
                    || asked
                    || matches!(why, Reason::LeftBehind if stand.ordered)
            }
            _ => true,
        };
        let now = record.at.mono.as_us();
        let over = stand.until.is_some_and(|until| until <= record.at.boot_us) && !self.ending;
        stand.over_since = if over { stand.over_since.or(Some(now)) } else { None };
        if !right {
            return Err(format!("{name}: record {} acts in a pause", record.id));
        }
        match stand.over_since {
            Some(since) if since + LATE_US < now => {
                Err(format!("{name} is paused still, {} us after the end", now - since))
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Oracle for Pauses {
    fn name(&self) -> &'static str {
        "pauses"
    }

    fn guarantee(&self) -> &'static str {
        "in a pause nothing is started or ended but what an operator orders, and each pause ends in time"
    }

    fn rewind(&mut self, kept: &[Record]) {
        *self = super::replay(Self::default(), kept);
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Record(record) => self.record(record),
            Seen::Event(_) | Seen::Effect(_) | Seen::Fact(_) | Seen::Policy(_) => Ok(()),
        }
    }

    fn end(&mut self, ending: &Ending) -> Result<(), String> {
        if self.ending {
            return Ok(());
        }
        let now = ending.at_us + self.suspended;
        let late = |stand: &Stand| stand.until.is_some_and(|until| until + LATE_US < now);
        match self.stands.iter().find(|(_, stand)| late(stand)) {
            Some((name, _)) => Err(format!("{name} is paused, and its pause should be over")),
            None => Ok(()),
        }
    }
}
