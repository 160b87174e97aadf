//! What a new supervisor takes over: the next record's id, and the processes that an earlier one may have left.

use super::journal::Replay;
use super::layout::Layout;
use super::ledger_read::Records;
use hale_core::event::Process;
use hale_core::ids::{IncidentId, Name, RecordId};
use hale_core::record::{Body, Record};
use hale_core::world::Snapshot;
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
    /// Incidents that were never closed.
    pub open_incidents: Vec<(Name, IncidentId)>,
}

/// The fields of a payload that matter here.
#[derive(Deserialize)]
struct Outline {
    id: Option<RecordId>,
    #[serde(default)]
    kind: String,
    service: Option<Name>,
    incident: Option<IncidentId>,
}

/// What a run of records leaves behind.
#[derive(Default)]
struct Trail {
    next: RecordId,
    open: BTreeMap<IncidentId, Name>,
}

impl Trail {
    fn follow(&mut self, payload: &[u8]) {
        let Ok(Outline { id, kind, service, incident }) = serde_json::from_slice(payload) else { return };
        self.next = self.next.max(id.map_or(RecordId(1), RecordId::next));
        match (kind.as_str(), service, incident) {
            // Evidence may come after the end.
            ("output", ..) | (_, None, _) | (_, _, None) => {}
            ("incident_closed", _, Some(incident)) => {
                self.open.remove(&incident);
            }
            (_, Some(service), Some(incident)) => {
                self.open.insert(incident, service);
            }
        }
    }
}

/// Reads both memories. What cannot be read is passed over: `hale ledger verify` says what is wrong with it, and a start
/// must not fail by it.
#[must_use]
pub fn recover(replay: &Replay, ledger_dir: &Path) -> Recovered {
    let mut trail = newest_of_ledger(ledger_dir);
    let in_ledger = trail.next;
    let mut living: BTreeMap<Name, Process> = BTreeMap::new();
    if let Some(snapshot) = replay.snapshot.as_deref().and_then(|bytes| serde_json::from_slice::<Snapshot>(bytes).ok())
    {
        trail.next = trail.next.max(snapshot.next_record);
        living.extend(snapshot.processes().map(|(name, process)| (name.clone(), process.clone())));
    }
    let mut missing = Vec::new();
    for line in replay.lines() {
        let Ok(record) = serde_json::from_slice::<Record>(line) else { continue };
        if record.id >= in_ledger {
            trail.follow(line);
            missing.push((record.id, line.to_vec()));
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
    Recovered {
        first_record: trail.next,
        processes: living.into_values().collect(),
        missing,
        open_incidents: trail.open.into_iter().map(|(incident, service)| (service, incident)).collect(),
    }
}

/// What the newest segment with records leaves behind. Ids never go down, and an incident that goes on has records: those
/// that had none since that segment began are not found.
fn newest_of_ledger(dir: &Path) -> Trail {
    let layout = Layout::new(dir);
    for segment in layout.segments().unwrap_or_default().into_iter().rev() {
        let mut trail = Trail::default();
        for entry in Records::starting_at(layout.clone(), segment, 0).filter_map(Result::ok) {
            trail.follow(&entry.payload);
        }
        if trail.next > RecordId(1) {
            return trail;
        }
    }
    Trail { next: RecordId(1), ..Trail::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knowledge::ledger_store::{Class, LedgerStore, Limits};
    use hale_core::event::ExitStatus;
    use hale_core::ids::Epoch;
    use hale_core::incident::Outcome;
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
        let exited =
            Body::Exited { epoch: Epoch(1), status: ExitStatus::Code(0), tree_empty: true, asked: false, memory: None };
        let records = vec![record(3, "a", spawned(10)), record(4, "b", spawned(11)), record(5, "a", exited)];
        let replay = Replay { records, ..Replay::default() };
        let recovered = recover(&replay, Path::new("/nonexistent"));
        assert_eq!(recovered.first_record, RecordId(6));
        assert_eq!(recovered.processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [11]);
    }

    #[test]
    fn incidents_that_were_not_closed_are_found_and_late_evidence_opens_none_again() {
        let about = |id, incident, body| {
            let service = Some(Name::try_from("a").unwrap());
            let incident = Some(IncidentId(incident));
            serde_json::to_vec(&Record { id: RecordId(id), at: Now::default(), service, incident, body }).unwrap()
        };
        let closed = Body::IncidentClosed { outcome: Outcome::Recovered, recovery_us: None, down_us: None, checks: 0 };
        let records = vec![
            about(3, 3, Body::CountersForgotten),
            about(4, 4, Body::CountersForgotten),
            about(5, 3, closed),
            about(6, 3, Body::Output { lines: Vec::new() }),
        ];
        let recovered = recover(&Replay { records, ..Replay::default() }, Path::new("/nonexistent"));
        assert_eq!(recovered.open_incidents, [(Name::try_from("a").unwrap(), IncidentId(4))]);
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
