//! What a new supervisor takes over: the next record's id, and the processes that an earlier one may have left.

use super::journal::Replay;
use super::trail::Trail;
use hale_core::event::Process;
use hale_core::ids::{IncidentId, Name, RecordId};
use hale_core::record::{Body, Record};
use hale_core::safeswitch::{Generations, Parts};
use hale_core::world::Snapshot;
use std::collections::BTreeMap;

/// What is taken over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// One more than any record that journal or ledger know.
    pub first_record: RecordId,
    /// Main processes that were made and not reaped, as far as this boot's journal knows.
    pub processes: Vec<Process>,
    /// Incidents that were never closed.
    pub open_incidents: Vec<(Name, IncidentId)>,
    /// What is known of services' generations.
    pub generations: BTreeMap<Name, Parts<Generations>>,
}

/// From what the ledger leaves behind and from the journal. What cannot be read is passed over: a start must not fail by it.
#[must_use]
pub fn recover(replay: &Replay, mut trail: Trail) -> Recovered {
    let in_ledger = trail.next;
    let mut living: BTreeMap<Name, Process> = BTreeMap::new();
    if let Some(snapshot) = replay.snapshot.as_deref().and_then(|bytes| serde_json::from_slice::<Snapshot>(bytes).ok())
    {
        trail.next = trail.next.max(snapshot.next_record);
        living.extend(snapshot.processes().map(|(name, process)| (name.clone(), process.clone())));
    }
    for line in replay.lines() {
        let Ok(record) = serde_json::from_slice::<Record>(line) else { continue };
        if record.id >= in_ledger {
            trail.follow(line);
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
        generations: trail.generations,
        open_incidents: trail.open.into_iter().map(|(incident, service)| (service, incident)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hale_core::event::ExitStatus;
    use hale_core::ids::Epoch;
    use hale_core::incident::Outcome;
    use hale_core::time::Now;

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
        let recovered = recover(&replay, Trail::default());
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
        let recovered = recover(&Replay { records, ..Replay::default() }, Trail::default());
        assert_eq!(recovered.open_incidents, [(Name::try_from("a").unwrap(), IncidentId(4))]);
    }

    #[test]
    fn ids_go_on_after_those_of_ledger_and_journal() {
        let trail = Trail { next: RecordId(42), ..Trail::default() };
        assert_eq!(recover(&Replay::default(), trail.clone()).first_record, RecordId(42));
        let records = vec![record(41, "a", spawned(1)), record(43, "a", spawned(1))];
        assert_eq!(recover(&Replay { records, ..Replay::default() }, trail).first_record, RecordId(44));
    }
}
