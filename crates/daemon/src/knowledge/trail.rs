//! What a ledger leaves behind for whoever goes on with it: the next record's id, and the incidents that are open.

use super::layout::Layout;
use super::ledger_queue::Item;
use super::ledger_read::Records;
use hale_core::ids::{IncidentId, Name, RecordId};
use hale_ledger::record::check_payload;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// What a run of records leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trail {
    /// One more than the highest id in it.
    pub next: RecordId,
    /// Incidents that were not closed.
    pub open: BTreeMap<IncidentId, Name>,
}

/// Nothing.
impl Default for Trail {
    fn default() -> Self {
        Self { next: RecordId(1), open: BTreeMap::new() }
    }
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

impl Trail {
    /// Of the newest segment with records in the ledger in `dir`. Ids never go down, and an incident that goes on has records:
    /// those that had none since that segment began are not found. What cannot be read is passed over: `hale ledger verify`
    /// says what is wrong with it.
    #[must_use]
    pub fn read(dir: &Path) -> Self {
        let layout = Layout::new(dir);
        for segment in layout.segments().unwrap_or_default().into_iter().rev() {
            let mut trail = Self::default();
            for entry in Records::starting_at(layout.clone(), segment, 0).filter_map(Result::ok) {
                trail.follow(&entry.payload);
            }
            if trail.next > RecordId(1) {
                return trail;
            }
        }
        Self::default()
    }

    pub(super) fn follow(&mut self, payload: &[u8]) {
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

    /// Those of these payloads that come after this. What is no payload was refused, and counted, when it was new.
    pub(super) fn unknown(&self, payloads: Vec<Vec<u8>>) -> Vec<Item> {
        let id_of = |payload: &[u8]| serde_json::from_slice::<Outline>(payload).ok()?.id;
        let item = |payload: Vec<u8>| {
            let id = id_of(&payload).filter(|&id| id >= self.next && check_payload(&payload).is_ok())?;
            Some(Item { payload, id: Some(id.0) })
        };
        payloads.into_iter().filter_map(item).collect()
    }
}
