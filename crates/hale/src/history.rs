//! What the ledger says of the past, also while Hale is down.

use crate::exit::Exit;
use crate::failure::Failure;
use hale_core::ids::{IncidentId, RecordId};
use hale_core::incident::{Story, tell};
use hale_core::record::Record;
use hale_daemon::knowledge::{Index, Query, read_all};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the ledger of the Hale with this `state_dir` is.
pub fn ledger_dir(state_dir: &Path) -> Result<PathBuf, Failure> {
    let dir = state_dir.join("ledger");
    match std::fs::metadata(&dir) {
        Ok(_) => Ok(dir),
        Err(error) => Err(Failure::new(Exit::Failed, format!("cannot read the ledger {}", dir.display()))
            .because(error)
            .help("the first `hale run` makes it; -c FILE or HALE_CONFIG says whose ledger is meant")),
    }
}

/// Where its index is: outside of the ledger, because it is no part of the truth.
pub fn index_path(state_dir: &Path) -> PathBuf {
    state_dir.join("index.sqlite")
}

/// The stories of the incidents whose opening record is among those that `query` finds, in the order of their numbers.
pub fn stories(state_dir: &Path, query: Query<'_>) -> Result<Vec<Story>, Failure> {
    let failed = |error: hale_daemon::knowledge::IndexError| Failure::new(Exit::Failed, error.to_string());
    let index = Index::open(&ledger_dir(state_dir)?, Some(index_path(state_dir))).map_err(failed)?;
    let mut incidents: BTreeMap<IncidentId, Vec<Record>> = BTreeMap::new();
    for payload in index.find(query).map_err(failed)? {
        let (_, payload) = payload.map_err(failed)?;
        // Others are the ledger's own, or a newer version's: they belong to no incident that can be told here.
        let Ok(record) = serde_json::from_slice::<Record>(&payload) else { continue };
        if let Some(id) = record.incident
            && (record.id.0 == id.0 || incidents.contains_key(&id))
        {
            incidents.entry(id).or_default().push(record);
        }
    }
    Ok(incidents.values().filter_map(tell).collect())
}

/// The records of one incident, or the one record of this number that belongs to none, in the order of the ledger.
pub fn of_incident(state_dir: &Path, id: u64) -> Result<Vec<Record>, Failure> {
    let mut found = Vec::new();
    for entry in read_all(&ledger_dir(state_dir)?) {
        let entry = entry.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        if let Ok(record) = serde_json::from_slice::<Record>(&entry.payload)
            && (record.incident == Some(IncidentId(id)) || record.id == RecordId(id))
        {
            found.push(record);
        }
    }
    Ok(found)
}

/// Those of these records that can be read, in the order of the ledger.
pub fn records(state_dir: &Path, ids: &[RecordId]) -> Result<Vec<Record>, Failure> {
    let mut records = Vec::new();
    for entry in read_all(&ledger_dir(state_dir)?) {
        let entry = entry.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        if let Ok(record) = serde_json::from_slice::<Record>(&entry.payload)
            && ids.contains(&record.id)
        {
            records.push(record);
        }
    }
    Ok(records)
}
