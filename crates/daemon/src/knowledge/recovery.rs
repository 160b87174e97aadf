//! What a new supervisor takes over: the next record's id, and the processes that an earlier one may have left.

use super::journal::Replay;
use super::layout::Layout;
use super::ledger_read::Records;
use hale_core::event::Process;
use hale_core::ids::{Name, RecordId};
use hale_core::record::{Body, Record};
use hale_core::world::Snapshot;
use hale_ledger::SegmentId;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// What is taken over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// One more than any record that journal or ledger know.
    pub first_record: RecordId,
    /// Main processes that were made and not reaped, as far as this boot's journal knows.
    pub processes: Vec<Process>,
    /// Records that are in the journal and did not reach the ledger, in their order.
    pub missing: Vec<(RecordId, Vec<u8>)>,
}

/// The one field of a payload that matters here.
#[derive(Deserialize)]
struct Numbered {
    id: Option<RecordId>,
}

/// Reads both memories. What cannot be read is passed over: `hale ledger verify` says what is wrong with it, and a start
/// must not fail by it.
#[must_use]
pub fn recover(replay: &Replay, ledger_dir: &Path) -> Recovered {
    let mut next = RecordId(1);
    let mut living: BTreeMap<Name, Process> = BTreeMap::new();
    if let Some(snapshot) = replay.snapshot.as_deref().and_then(|bytes| serde_json::from_slice::<Snapshot>(bytes).ok())
    {
        next = next.max(snapshot.next_record);
        living.extend(snapshot.processes().map(|(name, process)| (name.clone(), process.clone())));
    }
    let in_ledger = after_newest_in_ledger(ledger_dir);
    let mut missing = Vec::new();
    for bytes in &replay.records {
        let Ok(record) = serde_json::from_slice::<Record>(bytes) else { continue };
        next = next.max(record.id.next());
        if record.id >= in_ledger {
            missing.push((record.id, bytes.clone()));
        }
        let Some(service) = record.service else { continue };
        match record.body {
            Body::Spawned { process, .. } => {
                living.insert(service, process);
            }
            Body::Exited { .. } => {
                living.remove(&service);
            }
            _ => {}
        }
    }
    Recovered { first_record: next.max(in_ledger), processes: living.into_values().collect(), missing }
}

/// One more than the newest record's id in the ledger. Only the newest segment with records of the loop is read: ids
/// never go down.
fn after_newest_in_ledger(dir: &Path) -> RecordId {
    let layout = Layout::new(dir);
    let segments = layout.segments().unwrap_or_default();
    let newest = segments.iter().rev().find_map(|&segment| newest_in(&layout, segment));
    newest.map_or(RecordId(1), RecordId::next)
}

fn newest_in(layout: &Layout, segment: SegmentId) -> Option<RecordId> {
    let records = Records::starting_at(layout.clone(), segment, 0).filter_map(Result::ok);
    let ids = records.filter_map(|entry| serde_json::from_slice::<Numbered>(&entry.payload).ok()?.id);
    ids.max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knowledge::ledger_store::{Class, LedgerStore, Limits};
    use hale_core::event::ExitStatus;
    use hale_core::ids::Epoch;
    use hale_core::time::Now;
    use std::time::Duration;

    fn record(id: u64, service: &str, body: Body) -> Vec<u8> {
        let service = Some(Name::try_from(service).unwrap());
        serde_json::to_vec(&Record { id: RecordId(id), at: Now::default(), service, incident: None, body }).unwrap()
    }

    fn spawned(pid: i32) -> Body {
        Body::Spawned { epoch: Epoch(1), process: Process { pid, start_ticks: 5, pidfd_inode: 9, cgroup: None } }
    }

    #[test]
    fn only_processes_that_were_not_reaped_are_taken_over() {
        let exited = Body::Exited { epoch: Epoch(1), status: ExitStatus::Code(0), tree_empty: true };
        let records = vec![record(3, "a", spawned(10)), record(4, "b", spawned(11)), record(5, "a", exited)];
        let replay = Replay { records, ..Replay::default() };
        let recovered = recover(&replay, Path::new("/nonexistent"));
        assert_eq!(recovered.first_record, RecordId(6));
        assert_eq!(recovered.processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [11]);
    }

    #[test]
    fn ids_go_on_after_those_of_the_ledger() {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, _) = LedgerStore::open(dir.path(), Limits::default(), Box::new(|_| {})).unwrap();
        ledger.append(record(41, "a", spawned(1)), Class::State, 41).unwrap();
        assert!(ledger.close(Duration::from_secs(60)), "the disk did not take one record in a minute");
        assert_eq!(recover(&Replay::default(), dir.path()).first_record, RecordId(42));
        let records = vec![record(41, "a", spawned(1)), record(42, "a", spawned(1)), record(43, "a", spawned(1))];
        let recovered = recover(&Replay { records, ..Replay::default() }, dir.path());
        assert_eq!(recovered.missing.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [42, 43]);
        assert_eq!(recovered.first_record, RecordId(44));
    }
}
