//! The runtime journal as the loop uses it: written without waiting, and mended when it can be.

use super::console::Console;
use crate::knowledge::journal::Journal;
use hale_core::time::{Monotonic, Span};
use hale_core::world::Snapshot;
use std::io;

/// The pause between two tries to mend a journal that cannot be written: a snapshot of a thousand services takes
/// milliseconds to make, and a full tmpfs does not empty faster.
const MEND_PAUSE: Span = Span::from_secs(1);

/// The runtime journal, if there is one.
pub(super) struct Kept {
    journal: Option<Journal>,
    /// It cannot be written; said once.
    broken: bool,
    /// No snapshot before this.
    not_before: Monotonic,
}

impl Kept {
    pub(super) fn new(journal: Option<Journal>) -> Self {
        Self { journal, broken: false, not_before: Monotonic::default() }
    }

    /// Appends the records of one step. While the journal is broken it is left as it is: records behind a gap would make
    /// another world of those before it, and the snapshot that mends it has them all.
    pub(super) fn append(&mut self, lines: &[&[u8]], console: &Console) {
        if self.broken {
            return;
        }
        // All records of a step in one: a step is taken over whole or not at all.
        if let Some(journal) = &mut self.journal
            && let Err(error) = journal.append(&[&lines.join(&b'\n')])
        {
            self.broken = true;
            console.say(&format!("{error}; Hale goes on, and mends it by a snapshot as soon as there is room"));
        }
    }

    /// Whether a snapshot is due: at the journal's bound, and when it cannot be written, since a snapshot needs less room
    /// than what it replaces. `is_elsewhere`: all of its records are in the ledger. `is_wanted`: somebody waits for one.
    pub(super) fn wants_snapshot(&self, now: Monotonic, is_elsewhere: bool, is_wanted: bool) -> bool {
        let due = |journal: &Journal| self.broken || is_wanted || journal.needs_snapshot(is_elsewhere);
        now >= self.not_before && self.journal.as_ref().is_some_and(due)
    }

    /// Whether it cannot be written.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether there is one at all.
    pub(super) fn is_there(&self) -> bool {
        self.journal.is_some()
    }

    /// `false`: it cannot be written.
    pub(super) fn keep(&mut self, snapshot: &Snapshot, now: Monotonic, console: &Console) -> bool {
        let Some(journal) = &mut self.journal else { return false };
        let kept = serde_json::to_vec(snapshot).map_err(io::Error::other);
        match kept.and_then(|bytes| journal.compact(&bytes).map_err(io::Error::other)) {
            Ok(()) => {
                if std::mem::take(&mut self.broken) {
                    console.say("the runtime journal can be written again");
                }
                true
            }
            Err(error) => {
                self.not_before = now.after(MEND_PAUSE);
                if !std::mem::replace(&mut self.broken, true) {
                    console.say(&format!("{error}; Hale goes on, and tries again"));
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hale_core::ids::RecordId;
    use hale_core::policy::{HostPolicy, Mode, Policy, PolicyHash, SystemPolicy};
    use hale_core::world::{Birth, World};
    use std::collections::BTreeMap;

    fn snapshot() -> Snapshot {
        let text = String::new;
        let host = HostPolicy {
            state_dir: text(),
            runtime_dir: text(),
            log_dir: text(),
            mode: Mode::Heal,
            restarts_in_flight: 1,
            hardware_watchdog: None,
            as_init: Default::default(),
        };
        let birth = Birth {
            policy: Policy {
                host,
                services: BTreeMap::new(),
                system: SystemPolicy::default(),
                dependencies: BTreeMap::new(),
            },
            hash: PolicyHash::default(),
            seed: 1,
            version: text(),
            boot_id: text(),
            guardian: text(),
            first_record: RecordId(1),
            last_epoch: hale_core::ids::Epoch(0),
            open_incidents: Vec::new(),
            generations: BTreeMap::new(),
        };
        World::new(birth).snapshot()
    }

    #[test]
    fn a_journal_that_cannot_be_compacted_is_tried_again_after_a_pause_and_not_at_each_step() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/journal");
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        let (journal, _) = Journal::open(&path).unwrap();
        let console = Console::start().unwrap();
        let mut kept = Kept { broken: true, ..Kept::new(Some(journal)) };
        let at = |ms: u64| Monotonic::from_us(ms * 1_000);
        assert!(kept.wants_snapshot(at(10), true, false));
        std::fs::remove_dir_all(dir.path().join("sub")).unwrap();
        assert!(!kept.keep(&snapshot(), at(10), &console));
        assert!(!kept.wants_snapshot(at(1_009), true, false));
        assert!(kept.wants_snapshot(at(1_010), true, false));
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        assert!(kept.keep(&snapshot(), at(1_010), &console));
        assert!(!kept.wants_snapshot(at(9_000), true, false), "it is mended");
        assert!(path.exists());
        console.close();
    }

    #[test]
    fn nothing_is_written_behind_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (journal, _) = Journal::open(&path).unwrap();
        let console = Console::start().unwrap();
        let mut kept = Kept::new(Some(journal));
        kept.append(&[b"1"], &console);
        // Too long: it cannot be written.
        let long = vec![b'2'; crate::knowledge::journal::RECORD_MAX_BYTES + 1];
        kept.append(&[&long], &console);
        kept.append(&[b"3"], &console);
        let read = || Journal::open(&path).unwrap().1;
        assert_eq!(read().records, [b"1".to_vec()]);
        assert!(kept.keep(&snapshot(), Monotonic::default(), &console));
        kept.append(&[b"4"], &console);
        assert_eq!((read().snapshot.is_some(), read().records), (true, vec![b"4".to_vec()]));
        console.close();
    }
}
