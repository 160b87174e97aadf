//! How often the machine was reset lately, and what the boot before this one wrote last: read from the ledger alone.

use super::layout::Layout;
use super::ledger_read::{ReadError, Records};
use hale_core::hardware::{LAST_RECORDS, PastReset, PreviousBoot};
use hale_core::ids::RecordId;
use hale_core::plan::reboot::{DAY, Verdict};
use hale_core::record::{Body, Record};
use hale_core::time::Now;
use hale_ledger::SegmentId;
use serde::Deserialize;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// How many segments are read: a day of the busiest ledger that was measured fills a few of them (docs/ledger.md).
/// Beyond that the resets count as unknown, and Hale does not reboot.
const SEGMENTS_MAX: usize = 16;

/// What every record of the core has.
#[derive(Deserialize)]
struct Outline {
    id: RecordId,
    at: Now,
    kind: String,
}

/// Follows the records of all boots in their order.
#[derive(Default)]
struct Reader {
    /// The boot whose records come now; `None` before the first that says so.
    boot_id: Option<String>,
    resets: Vec<PastReset>,
    last: VecDeque<(RecordId, Now)>,
    previous: Option<PreviousBoot>,
}

/// Resets of at least the last [`DAY`] (`None`: the ledger cannot be read, or is too long for it), and the boot before
/// the one called `boot_id`.
pub(crate) fn read(ledger_dir: &Path, boot_id: &str) -> (Option<Vec<PastReset>>, Option<PreviousBoot>) {
    let layout = Layout::new(ledger_dir);
    let Ok(from) = first_segment(&layout) else { return (None, None) };
    let mut reader = Reader::default();
    if let Some(segment) = from {
        for entry in Records::starting_at(layout, segment, 0) {
            match entry {
                Ok(entry) => reader.follow(&entry.payload),
                // What is torn or altered is told by those who verify, and holds no record of ours.
                Err(ReadError::NotARecord { .. }) => {}
                Err(ReadError::Read { .. }) => return (None, None),
            }
        }
    }
    if reader.boot_id.as_deref() != Some(boot_id) {
        // This boot has no record yet.
        reader.end_boot();
    }
    (Some(reader.resets), reader.previous)
}

/// The segment from which on everything of the last day, and of the boot before, stands.
fn first_segment(layout: &Layout) -> io::Result<Option<SegmentId>> {
    let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    let mut from = None;
    for (index, segment) in layout.segments()?.into_iter().rev().enumerate() {
        if index >= SEGMENTS_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut records = Records::starting_at(layout.clone(), segment, 0).filter_map(Result::ok);
        let first = records.find_map(|entry| serde_json::from_slice::<Outline>(&entry.payload).ok());
        from = Some(segment);
        let old = |at: Now| u128::try_from(at.wall_us).is_ok_and(|at| at + u128::from(DAY.as_us()) < now_us);
        // One segment more than that, for the boot before.
        if first.is_some_and(|first| old(first.at)) && index > 0 {
            break;
        }
    }
    Ok(from)
}

impl Reader {
    fn follow(&mut self, payload: &[u8]) {
        let Ok(Outline { id, at, kind }) = serde_json::from_slice(payload) else { return };
        if !matches!(kind.as_str(), "began" | "hardware_reset" | "reboot_decided" | "reboot_not_durable") {
            return self.note(id, at);
        }
        // Those of a later version that this one cannot read tell nothing.
        let Ok(record) = serde_json::from_slice::<Record>(payload) else { return self.note(id, at) };
        match record.body {
            Body::Began { boot_id, .. } if self.boot_id.as_ref() != Some(&boot_id) => {
                self.end_boot();
                self.boot_id = Some(boot_id);
            }
            Body::HardwareReset { boot_id, ordered, .. } => {
                self.resets.retain(|reset| Some(reset.record) != ordered);
                self.resets.push(PastReset { record: id, at, boot_id, ordered: false });
            }
            Body::RebootDecided(decision) if decision.choice.verdict == Verdict::Reboot => {
                let boot_id = self.boot_id.clone().unwrap_or_default();
                self.resets.push(PastReset { record: id, at, boot_id, ordered: true });
            }
            Body::RebootNotDurable { decided, .. } => self.resets.retain(|reset| reset.record != decided),
            _ => {}
        }
        self.note(id, at);
    }

    fn note(&mut self, id: RecordId, at: Now) {
        self.last.push_back((id, at));
        if self.last.len() > LAST_RECORDS {
            self.last.pop_front();
        }
    }

    /// The boot whose records came until now is over.
    fn end_boot(&mut self) {
        let last = std::mem::take(&mut self.last);
        if let (Some(boot_id), Some(&(_, last_at))) = (self.boot_id.take(), last.back()) {
            let last = last.into_iter().map(|(id, _)| id).collect();
            self.previous = Some(PreviousBoot { boot_id, last, last_at });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knowledge::ledger_store::{Class, LedgerStore, Limits};
    use hale_core::plan::reboot::{Asked, Choice, Decision, Read};
    use hale_core::policy::{Mode, PolicyHash, Reboot};
    use hale_core::reason::Reason;
    use std::time::Duration;

    fn began(boot_id: &str) -> Body {
        let (version, boot_id) = (String::new(), String::from(boot_id));
        Body::Began {
            version,
            core: 2,
            policy: PolicyHash::default(),
            mode: Mode::Heal,
            seed: 0,
            boot_id,
            guardian: String::new(),
        }
    }

    fn reset(boot_id: &str, ordered: Option<u64>) -> Body {
        let (boot_id, ordered) = (String::from(boot_id), ordered.map(RecordId));
        Body::HardwareReset { boot_id, boot_status: 32, ordered, previous: None }
    }

    fn reboot() -> Body {
        let read = Read {
            asked: Asked::Permission,
            mode: Mode::Heal,
            reboot: Reboot::Auto,
            per_day: 1,
            armed: true,
            ledger: true,
            resets: Some(0),
        };
        let choice = Choice { verdict: Verdict::Reboot, reason: Reason::RequiredFailed };
        let (rule, policy) = (String::from("reboot/1"), PolicyHash::default());
        Body::RebootDecided(Box::new(Decision { rule, core: 2, policy, read, choice }))
    }

    /// The bodies as records 1, 2, 3 … of a ledger.
    fn ledger(bodies: Vec<Body>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = LedgerStore::open(dir.path(), Limits::default(), Box::new(|_| {})).unwrap();
        for (id, body) in (1..).zip(bodies) {
            let record = Record { id: RecordId(id), at: Now::default(), service: None, incident: None, body };
            store.append(serde_json::to_vec(&record).unwrap(), Class::State, id).unwrap();
        }
        assert!(store.close(Duration::from_secs(60)), "the disk did not take it in a minute");
        dir
    }

    fn ids(resets: Option<Vec<PastReset>>) -> Vec<(u64, bool)> {
        resets.expect("readable").iter().map(|reset| (reset.record.0, reset.ordered)).collect()
    }

    #[test]
    fn the_boot_before_ends_where_this_one_begins() {
        let bodies = vec![began("a"), Body::CountersForgotten, Body::LedgerRecovered, began("b"), began("b")];
        let dir = ledger(bodies);
        let last = |boot: &str| {
            let previous = read(dir.path(), boot).1.expect("there is one");
            (previous.boot_id, previous.last.iter().map(|id| id.0).collect::<Vec<_>>())
        };
        assert_eq!(last("b"), (String::from("a"), vec![1, 2, 3]));
        assert_eq!(last("c"), (String::from("b"), vec![4, 5]), "this boot has no record yet");
    }

    #[test]
    fn an_order_and_the_reset_that_followed_it_are_one() {
        let dir = ledger(vec![began("a"), reboot(), began("b"), reset("b", Some(2)), reset("c", None)]);
        assert_eq!(ids(read(dir.path(), "c").0), [(4, false), (5, false)]);
        let undone = Body::RebootNotDurable { decided: RecordId(2), waited: Default::default() };
        assert_eq!(ids(read(ledger(vec![began("a"), reboot(), undone]).path(), "a").0), []);
        assert_eq!(ids(read(ledger(vec![began("a"), reboot()]).path(), "b").0), [(2, true)], "no word of the timer");
    }

    #[test]
    fn a_ledger_that_cannot_be_read_tells_nothing_and_an_empty_one_that_nothing_was() {
        assert_eq!(read(Path::new("/nonexistent"), "a"), (None, None));
        assert_eq!(read(ledger(Vec::new()).path(), "a"), (Some(Vec::new()), None));
    }
}
