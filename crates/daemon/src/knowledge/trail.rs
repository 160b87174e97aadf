//! What a ledger leaves behind for whoever goes on with it: the next record's id, and the incidents that are open.

use super::layout::Layout;
use super::ledger_queue::Item;
use super::ledger_read::Records;
use hale_core::ids::{IncidentId, Name, RecordId};
use hale_core::record::Record;
use hale_core::safeswitch::{Generations, KEPT_EVERY, Parts};
use hale_core::time::Now;
use hale_ledger::SegmentId;
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
    /// What is known of services' generations.
    pub generations: BTreeMap<Name, Parts<Generations>>,
    /// A Hale began in it, which wrote down all that is known of generations.
    pub(super) has_begin: bool,
}

/// Nothing.
impl Default for Trail {
    fn default() -> Self {
        Self { next: RecordId(1), open: BTreeMap::new(), generations: BTreeMap::new(), has_begin: false }
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
        let segments = layout.segments().unwrap_or_default();
        for (index, &segment) in segments.iter().enumerate().rev() {
            let mut trail = Self::default();
            for entry in Records::starting_at(layout.clone(), segment, 0).filter_map(Result::ok) {
                trail.follow(&entry.payload);
            }
            if trail.next > RecordId(1) {
                if !trail.has_begin {
                    trail.generations = generations(&layout, &segments[..=index]);
                }
                return trail;
            }
        }
        Self::default()
    }

    pub(super) fn follow(&mut self, payload: &[u8]) {
        let Ok(Outline { id, kind, service, incident }) = serde_json::from_slice(payload) else { return };
        self.next = self.next.max(id.map_or(RecordId(1), RecordId::next));
        self.has_begin |= kind == "began";
        match (kind.as_str(), service, incident) {
            // Evidence may come after the end.
            ("output", ..) | (_, None, _) => {}
            ("generation" | "files" | "spawn_intended", Some(_), None) => self.follow_generation(payload),
            ("generation" | "files" | "detected" | "spawn_intended", Some(service), Some(incident)) => {
                self.open.insert(incident, service);
                self.follow_generation(payload);
            }
            (_, _, None) => {}
            ("incident_closed", _, Some(incident)) => {
                self.open.remove(&incident);
            }
            (_, Some(service), Some(incident)) => {
                self.open.insert(incident, service);
            }
        }
    }

    /// What a later version wrote that this one cannot read, or what does not fit to what is known, is passed over: the store is
    /// looked at before anything is done.
    fn follow_generation(&mut self, payload: &[u8]) {
        let Ok(record) = serde_json::from_slice::<Record>(payload) else { return };
        let Some(service) = &record.service else { return };
        if let Some((part, moved)) = record.body.moved() {
            self.generations.entry(service.clone()).or_default()[part].apply_after_gap(&record, moved);
        } else if let Some(known) = self.generations.get_mut(service) {
            known.each_mut().into_iter().for_each(|part| part.follow(&record.body));
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

/// How many segments are read for what is known of generations: half a day of the busiest ledger that was measured fills one or two
/// (docs/ledger.md).
const SEGMENTS_MAX: usize = 16;

/// What these segments say of services' generations. All of it is written down again at each start of Hale and each
/// [`KEPT_EVERY`]: what is older than the newest start, or than two of these, is said again later.
fn generations(layout: &Layout, segments: &[SegmentId]) -> BTreeMap<Name, Parts<Generations>> {
    let mut from = segments.len();
    let mut newest_us: Option<i64> = None;
    for (index, &segment) in segments.iter().enumerate().rev().take(SEGMENTS_MAX) {
        from = index;
        let (mut began, mut first_us) = (false, None);
        for entry in Records::starting_at(layout.clone(), segment, 0).filter_map(Result::ok) {
            let Ok(Dated { at, kind }) = serde_json::from_slice(&entry.payload) else { continue };
            began |= kind == "began";
            first_us.get_or_insert(at.wall_us);
            newest_us = newest_us.max(Some(at.wall_us));
        }
        let age_us = newest_us.zip(first_us).map_or(0, |(newest, first)| newest.saturating_sub(first));
        if began || u64::try_from(age_us).is_ok_and(|age| age > 2 * KEPT_EVERY.as_us()) {
            break;
        }
    }
    let mut trail = Trail::default();
    for &segment in &segments[from..] {
        for entry in Records::starting_at(layout.clone(), segment, 0).filter_map(Result::ok) {
            trail.follow(&entry.payload);
        }
    }
    trail.generations
}

/// When a record was made, and of what kind.
#[derive(Deserialize)]
struct Dated {
    at: Now,
    kind: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use hale_core::ids::{Epoch, GenerationId};
    use hale_core::reason::Reason;
    use hale_core::record::Body;
    use hale_core::safeswitch::{Data, Move};

    fn written(id: u64, body: Body) -> Vec<u8> {
        let service = Some(Name::try_from("bot").unwrap());
        let record = Record { id: RecordId(id), at: Now::default(), service, incident: None, body };
        serde_json::to_vec(&record).unwrap()
    }

    fn moved(id: u64, moved: Move) -> Vec<u8> {
        written(id, Body::Generation(moved))
    }

    #[test]
    fn a_start_by_order_says_that_the_data_are_known_again() {
        let unknown_data = Some(Reason::HookFailed { error: String::from("no room") });
        let known = Box::new(Generations { unknown_data, ..Generations::default() });
        let start = Body::SpawnIntended { epoch: Epoch(1), why: Reason::HaleStarts, generation: None, files: None };
        for is_started in [false, true] {
            let mut trail = Trail::default();
            trail.follow(&moved(1, Move::Kept { known: known.clone() }));
            if is_started {
                trail.follow(&written(2, start.clone()));
            }
            let known = &trail.generations[&Name::try_from("bot").unwrap()].store;
            assert_eq!(known.unknown_data.is_none(), is_started);
        }
    }

    #[test]
    fn what_is_known_of_generations_is_what_their_records_say() {
        let mut trail = Trail::default();
        let current = Some(GenerationId::try_from("one").unwrap());
        trail.follow(&moved(1, Move::Seen { current: current.clone(), data: Data::default() }));
        // It does not fit to anything.
        trail.follow(&moved(2, Move::Begun { switch: RecordId(1) }));
        let known = &trail.generations[&Name::try_from("bot").unwrap()].store;
        assert_eq!((&known.current, known.goods.len(), &known.switch), (&current, 1, &None));
        let kept = Generations::default();
        trail.follow(&moved(3, Move::Kept { known: Box::new(kept.clone()) }));
        assert_eq!(trail.generations[&Name::try_from("bot").unwrap()].store, kept);
        assert_eq!(trail.next, RecordId(4));
    }
}
