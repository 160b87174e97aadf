//! What services have said and will not say again, for the next supervisor: in one file beside the journal, with a place for
//! each service.
//!
//! `STATUS=` makes no record: it decides nothing, and a service may send thousands in a second. `READY=1` makes one, but the
//! supervisor may die between reading it and writing that. What is new is written over what was before, in one write within
//! one page, so that a supervisor that dies leaves the one or the other.

use crate::protocol::{MAX_SERVICES, Slot};
use hale_core::ids::Epoch;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// The file's name in `runtime_dir`.
const NAME: &str = "said";

/// The room for one: a number, a blank, the text (800 bytes at most, one line) and the end of the line. It divides a page.
const PLACE_BYTES: usize = 1_024;

/// The room for the number of the process that was ready, behind the places of all texts.
const READY_BYTES: usize = 8;

/// All of these: 64 KiB, which are allocated at the start.
const READY_PLACES_BYTES: u64 = MAX_SERVICES as u64 * READY_BYTES as u64;

/// The file; without it, as on a full tmpfs, the next supervisor knows only what is on record.
#[derive(Debug)]
pub(super) struct Said(Option<File>);

impl Said {
    /// Opens it; `empty`: what is in it is of another Hale. The places of who is ready are there from here on, however full
    /// the file system becomes.
    ///
    /// # Errors
    /// It cannot be made, and is done without; or there is no room for these places, and only what fits is kept.
    pub(super) fn open(runtime_dir: &Path, empty: bool) -> (Self, Option<io::Error>) {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(empty).mode(0o600);
        match options.custom_flags(libc::O_NOFOLLOW).open(runtime_dir.join(NAME)) {
            Ok(file) => {
                let reserved = fallocate(&file, FallocateFlags::empty(), ready_place(Slot(0)), READY_PLACES_BYTES);
                // Elsewhere than on a tmpfs it may not be possible.
                let error = reserved.err().filter(|&errno| errno != Errno::OPNOTSUPP);
                (Self(Some(file)), error.map(io::Error::from))
            }
            Err(error) => (Self(None), Some(error)),
        }
    }

    /// Keeps that a process is ready.
    pub(super) fn ready(&self, slot: Slot, epoch: Epoch) {
        if let Some(file) = &self.0 {
            // What is not kept is lost if this process dies before its next record, and at no other time.
            let _ = file.write_at(&epoch.0.to_le_bytes(), ready_place(slot));
        }
    }

    /// Whether this process has said that it is ready.
    pub(super) fn was_ready(&self, slot: Slot, epoch: Epoch) -> bool {
        let mut bytes = [0; READY_BYTES];
        let read = self.0.as_ref().map(|file| file.read_at(&mut bytes, ready_place(slot)));
        matches!(read, Some(Ok(READY_BYTES))) && u64::from_le_bytes(bytes) == epoch.0
    }

    /// Keeps the text of a process.
    pub(super) fn write(&self, slot: Slot, epoch: Epoch, text: &str) {
        let line = format!("{epoch} {text}\n");
        if let Some(file) = self.0.as_ref().filter(|_| line.len() <= PLACE_BYTES) {
            // A text that is not kept is missed until the next one.
            let _ = file.write_at(line.as_bytes(), place(slot));
        }
    }

    /// The last text of this process.
    pub(super) fn read(&self, slot: Slot, epoch: Epoch) -> Option<String> {
        let mut bytes = [0; PLACE_BYTES];
        let length = self.0.as_ref()?.read_at(&mut bytes, place(slot)).ok()?;
        let text = std::str::from_utf8(bytes[..length].split(|&byte| byte == b'\n').next()?).ok()?;
        let (said_by, text) = text.split_once(' ')?;
        (said_by.parse() == Ok(epoch.0)).then(|| text.to_owned())
    }
}

fn place(slot: Slot) -> u64 {
    u64::from(slot.0) * PLACE_BYTES as u64
}

fn ready_place(slot: Slot) -> u64 {
    u64::from(MAX_SERVICES) * PLACE_BYTES as u64 + u64::from(slot.0) * READY_BYTES as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_text_of_each_process_is_found_by_the_next_supervisor() {
        let directory = tempfile::tempdir().unwrap();
        let (texts, None) = Said::open(directory.path(), true) else { panic!("it cannot be made") };
        texts.write(Slot(7), Epoch(1), "a long text, of another process");
        texts.write(Slot(7), Epoch(12), "12 jobs");
        texts.write(Slot(8), Epoch(3), "");
        let (next, _) = Said::open(directory.path(), false);
        assert_eq!(next.read(Slot(7), Epoch(12)).as_deref(), Some("12 jobs"));
        assert_eq!(next.read(Slot(8), Epoch(3)).as_deref(), Some(""));
        assert_eq!(
            (next.read(Slot(7), Epoch(1)), next.read(Slot(6), Epoch(0)), next.read(Slot(9), Epoch(1))),
            (None, None, None)
        );
        let longest = "\u{fffd}".repeat(266);
        next.write(Slot(7), Epoch(u64::MAX), &longest);
        assert_eq!(next.read(Slot(7), Epoch(u64::MAX)), Some(longest));
        let (fresh, _) = Said::open(directory.path(), true);
        assert_eq!(fresh.read(Slot(7), Epoch(12)), None);
    }

    #[test]
    fn who_was_ready_is_known_to_the_next_supervisor_and_no_other_process_is() {
        let directory = tempfile::tempdir().unwrap();
        let (said, None) = Said::open(directory.path(), true) else { panic!("it cannot be made") };
        said.ready(Slot(3), Epoch(2));
        said.write(Slot(MAX_SERVICES - 1), Epoch(9), "the last place of all");
        let (next, _) = Said::open(directory.path(), false);
        let was = |slot, epoch| next.was_ready(Slot(slot), Epoch(epoch));
        assert_eq!((was(3, 2), was(3, 1), was(2, 2), was(4, 2), was(0, 1)), (true, false, false, false, false));
    }
    /// This mounts a file system.
    mod needs_root {
        use super::*;
        use crate::knowledge::tmpfs;

        #[test]
        fn who_is_ready_is_kept_on_a_full_tmpfs() {
            let test = "supervisor::said::tests::needs_root::who_is_ready_is_kept_on_a_full_tmpfs";
            let Some(mount) = tmpfs::or_rerun_in_one(test, "1m") else { return };
            let (said, None) = Said::open(&mount, true) else { panic!("it cannot be made") };
            tmpfs::fill(&mount.join("filler"));
            said.write(Slot(0), Epoch(1), "no room for this");
            for slot in [0, MAX_SERVICES - 1] {
                said.ready(Slot(slot), Epoch(7));
            }
            let (next, None) = Said::open(&mount, false) else { panic!("it is there") };
            assert_eq!(next.read(Slot(0), Epoch(1)), None);
            assert!(next.was_ready(Slot(0), Epoch(7)) && next.was_ready(Slot(MAX_SERVICES - 1), Epoch(7)));
        }
    }
}
