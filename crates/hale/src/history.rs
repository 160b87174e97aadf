//! What the ledger says of the past, also while Hale is down.

use crate::exit::Exit;
use crate::failure::Failure;
use hale_core::ids::IncidentId;
use hale_core::incident::{Story, tell};
use hale_core::record::Record;
use hale_daemon::knowledge::read_all;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the ledger is in `state_dir`.
pub fn ledger_dir(state_dir: &Path) -> Result<PathBuf, Failure> {
    let dir = state_dir.join("ledger");
    match std::fs::metadata(&dir) {
        Ok(_) => Ok(dir),
        Err(error) => {
            let message = format!("cannot read the ledger {}", dir.display());
            let help = "it is made by the first `hale run`; -c FILE or HALE_CONFIG says which one is meant";
            Err(Failure::new(Exit::Failed, message).because(error).help(help))
        }
    }
}

/// The stories of all incidents that `wanted` chooses, in the order of their numbers.
pub fn stories(ledger: &Path, wanted: impl Fn(IncidentId) -> bool) -> Result<Vec<Story>, Failure> {
    let mut incidents: BTreeMap<IncidentId, Vec<Record>> = BTreeMap::new();
    for entry in read_all(ledger) {
        let entry = entry.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        // Others are the ledger's own, or a newer version's: they belong to no incident.
        let Ok(record) = serde_json::from_slice::<Record>(&entry.payload) else { continue };
        if let Some(id) = record.incident.filter(|&id| wanted(id)) {
            incidents.entry(id).or_default().push(record);
        }
    }
    Ok(incidents.values().filter_map(tell).collect())
}
