//! The ledger's writer thread: batches to the open segment, syncs, seals, and gets along with a disk that is full,
//! read-only or broken.
//!
//! Everything that is not synced is still in memory, in the batch: a failed attempt leaves the position where it was, and
//! the next attempt writes the same records again.

use super::layout::{Layout, open_if_there, open_or_create, sync_dir};
use super::ledger_queue::{Batch, Dropped, Queue};
use super::ledger_store::{LedgerEvent, Limits, Notify};
use hale_ledger::hash::Hasher;
use hale_ledger::lines::TORN_MAX_BYTES;
use hale_ledger::{Damage, Position, Seal, manifest};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use serde_json::json;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Most bytes in one batch. What is not synced must not exceed what a reader takes for torn; half of it, so that frames
/// and the store's own records fit beside.
const BATCH_MAX_BYTES: usize = TORN_MAX_BYTES as usize / 2;

/// Capacity that the buffer of lines keeps between batches. 64 KiB: any ordinary batch, and one longest record.
const KEEP_BUFFER_BYTES: usize = 64 * 1024;

/// First and longest wait after a failed attempt: soon, for a passing shortage; then seldom enough to cost nothing.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(100);
pub(super) const RETRY_MAX: Duration = Duration::from_secs(5);

/// Most files in `quarantine/`. 64: a torn tail is rare, each is at most [`TORN_MAX_BYTES`] long; of later ones only length
/// and hash are recorded.
const QUARANTINE_MAX_FILES: usize = 64;

/// The two calls whose failing decides over records; tests make them fail.
pub(super) trait Disk: Send {
    /// pwrite(2).
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// fdatasync(2).
    fn sync(&self, file: &File) -> io::Result<()>;
}

/// The kernel's.
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        file.write_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// The open segment's file.
struct OpenSegment {
    file: File,
    /// Its length, reserved space included.
    len_bytes: u64,
}

/// The state of the thread.
pub(super) struct Writer {
    layout: Layout,
    limits: Limits,
    disk: Box<dyn Disk>,
    /// Everything up to here is synced.
    position: Position,
    open: Option<OpenSegment>,
    /// Bytes after the position that a crash tore and that are not put away yet.
    torn_bytes: u64,
    /// The record that says they were, until it is written.
    recovered: Option<Vec<u8>>,
    /// A sync of the open segment failed. The kernel may have dropped the pages and would not say so again (fsync(2),
    /// "fsyncgate"), so nothing after the position counts and the file gets no further records.
    distrusted: bool,
    /// Without ballast; evidence is refused.
    low_space: bool,
    lines: Vec<u8>,
    /// Holds the flock for as long as the thread lives.
    _lock: File,
}

impl Writer {
    pub(super) fn new(
        layout: Layout,
        limits: Limits,
        disk: Box<dyn Disk>,
        position: Position,
        torn_bytes: u64,
        lock: File,
    ) -> Self {
        Self {
            layout,
            limits,
            disk,
            position,
            open: None,
            torn_bytes,
            recovered: None,
            distrusted: false,
            low_space: false,
            lines: Vec::new(),
            _lock: lock,
        }
    }

    /// Writes until the store closes.
    pub(super) fn run(mut self, queue: &Queue, notify: &Notify) {
        // Best effort: without a reserve a full disk is noticed a little earlier.
        self.make_ballast();
        if self.torn_bytes > 0 && !self.persist(&[], queue, notify) {
            return;
        }
        while let Some(batch) = queue.take(BATCH_MAX_BYTES) {
            let Batch { mut items, dropped } = batch;
            if dropped != Dropped::default() {
                items.push(super::ledger_queue::Item { payload: say_dropped(dropped), id: None });
            }
            let payloads: Vec<_> = items.iter().map(|item| item.payload.as_slice()).collect();
            if !self.persist(&payloads, queue, notify) {
                return;
            }
            if let Some(up_to_id) = items.iter().filter_map(|item| item.id).max() {
                notify(LedgerEvent::Durable { up_to_id });
            }
        }
        // Readers cope with reserved space; tools that are not ours should not have to once Hale has ended.
        if let Some(open) = &self.open {
            drop(open.file.set_len(self.position.bytes()).and_then(|()| open.file.sync_all()));
        }
    }

    /// Tries until the payloads are on the disk. `false`: the store closed before.
    fn persist(&mut self, payloads: &[&[u8]], queue: &Queue, notify: &Notify) -> bool {
        let mut delay = RETRY_FIRST;
        let mut degraded = false;
        loop {
            let attempt = self.attempt(payloads);
            let error = match attempt {
                Ok(()) => break,
                Err(error) => error,
            };
            if is_full(&error) && !self.low_space {
                self.low_space = true;
                queue.set_low_space(true);
                queue.push_own(say("ledger_disk_full", json!({ "error": error.to_string() })));
                if fs::remove_file(self.layout.ballast()).is_ok() {
                    continue;
                }
            }
            if !degraded {
                degraded = true;
                notify(LedgerEvent::Degraded { error: error.to_string() });
            }
            if !queue.pause(delay) {
                return false;
            }
            delay = (delay * 2).min(RETRY_MAX);
        }
        if degraded {
            notify(LedgerEvent::Recovered);
        }
        if self.low_space && self.make_ballast() {
            self.low_space = false;
            queue.set_low_space(false);
        }
        true
    }

    /// Writes and syncs the payloads as the next records. On an error nothing has changed but the files.
    fn attempt(&mut self, payloads: &[&[u8]]) -> io::Result<()> {
        self.put_torn_away()?;
        if self.distrusted || self.position.bytes() >= self.limits.segment_bytes {
            self.seal()?;
        }
        let (mut after, mut lines) = (self.position.clone(), std::mem::take(&mut self.lines));
        lines.clear();
        for payload in self.recovered.iter().map(Vec::as_slice).chain(payloads.iter().copied()) {
            if let Err(error) = after.append(payload, &mut lines) {
                return Err(io::Error::other(error));
            }
        }
        let written = self.write(&lines);
        lines.shrink_to(KEEP_BUFFER_BYTES);
        self.lines = lines;
        written?;
        self.recovered = None;
        self.position = after;
        Ok(())
    }

    /// Writes `lines` at the position and syncs them.
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let at = self.position.bytes();
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.open_segment()?,
        };
        let end = at + lines.len() as u64;
        self.reserve(&mut open, end);
        let mut written = Ok(());
        let mut done = 0;
        while let Some(rest) = lines.get(done..).filter(|rest| !rest.is_empty()) {
            match self.disk.write_at(&open.file, rest, at + done as u64) {
                Ok(0) => written = Err(io::ErrorKind::StorageFull.into()),
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => written = Err(error),
            }
            if written.is_err() {
                break;
            }
        }
        let result = match written {
            Ok(()) => {
                open.len_bytes = open.len_bytes.max(end);
                self.disk.sync(&open.file).inspect_err(|_| self.distrusted = true)
            }
            Err(error) => {
                // A part of a line may stand there; if it cannot be cut now, the next attempt writes over it.
                if open.file.set_len(at).is_ok() {
                    open.len_bytes = at;
                }
                Err(error)
            }
        };
        self.open = Some(open);
        result
    }

    /// Allocates ahead, so that an append changes no size and its sync has no metadata to write. Best effort: where it
    /// fails, the write that follows says why.
    fn reserve(&self, open: &mut OpenSegment, end: u64) {
        if end > open.len_bytes {
            let len = end.next_multiple_of(self.limits.reserve_step_bytes.max(1));
            if fallocate(&open.file, FallocateFlags::empty(), open.len_bytes, len - open.len_bytes).is_ok() {
                open.len_bytes = len;
            }
        }
    }

    /// Opens the segment at the position, or makes it.
    fn open_segment(&self) -> io::Result<OpenSegment> {
        self.layout.make()?;
        let file = open_or_create(&self.layout.segment(self.position.segment()))?;
        sync_dir(&self.layout.seg_dir())?;
        let mut len_bytes = file.metadata()?.len();
        if self.position.bytes() == 0 && len_bytes > 0 {
            file.set_len(0)?;
            len_bytes = 0;
        }
        Ok(OpenSegment { file, len_bytes })
    }

    /// Closes the segment at the position: exact length, manifest, and on to the next one.
    fn seal(&mut self) -> io::Result<()> {
        let path = self.layout.segment(self.position.segment());
        let Some(seal) = self.position.seal() else {
            // Nothing in it was ever synced.
            self.open = None;
            fs::remove_file(&path)?;
            self.distrusted = false;
            return Ok(());
        };
        let open = match self.open.take() {
            Some(open) => open,
            None => self.open_segment()?,
        };
        let cut = open.file.set_len(seal.bytes).and_then(|()| {
            // All its records were synced before; after a failed sync another one on this file would prove nothing.
            if self.distrusted { Ok(()) } else { self.disk.sync(&open.file) }
        });
        if let Err(error) = cut {
            self.open = Some(OpenSegment { len_bytes: seal.bytes, ..open });
            return Err(error);
        }
        add_to_manifest(&self.layout, &seal)?;
        self.position = Position::after(&seal);
        self.distrusted = false;
        Ok(())
    }

    /// Moves torn bytes to `quarantine/` and cuts them off the segment.
    fn put_torn_away(&mut self) -> io::Result<()> {
        if self.torn_bytes == 0 {
            return Ok(());
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.open_segment()?,
        };
        let at = self.position.bytes();
        let put_away = self.quarantine(&mut open.file).and_then(|recovered| {
            open.file.set_len(at)?;
            open.len_bytes = at;
            Ok(recovered)
        });
        self.open = Some(open);
        self.recovered = Some(put_away?);
        self.torn_bytes = 0;
        Ok(())
    }

    /// Copies the torn bytes to a file of their own, and returns the record that describes them.
    fn quarantine(&self, segment: &mut File) -> io::Result<Vec<u8>> {
        let dir = self.layout.quarantine();
        let at = self.position.bytes();
        let name = format!("{}.{at}", self.position.segment());
        let mut copy = match fs::read_dir(&dir)?.count() {
            ..QUARANTINE_MAX_FILES => Some(open_or_create(&dir.join(&name))?),
            _ => None,
        };
        segment.seek(SeekFrom::Start(at))?;
        let mut torn = segment.take(self.torn_bytes);
        let (mut hasher, mut buffer) = (Hasher::default(), vec![0; 64 * 1024]);
        loop {
            let bytes = match torn.read(&mut buffer)? {
                0 => break,
                n => &buffer[..n],
            };
            hasher.update(bytes);
            if let Some(copy) = &mut copy {
                copy.write_all(bytes)?;
            }
        }
        if let Some(copy) = &copy {
            copy.sync_all()?;
            sync_dir(&dir)?;
        }
        let file = copy.map(|_| name);
        let what = json!({ "bytes": self.torn_bytes, "sha256": hasher.value(), "segment": self.position.segment().to_string(), "offset": at, "file": file });
        Ok(say("ledger_recovered", what))
    }

    /// Makes the ballast if there is room for it twice. Says whether there is no shortage.
    fn make_ballast(&self) -> bool {
        let (path, bytes) = (self.layout.ballast(), self.limits.ballast_bytes);
        if bytes == 0 || fs::metadata(&path).is_ok_and(|meta| meta.len() == bytes) {
            return true;
        }
        if !statvfs(self.layout.root()).is_ok_and(|free| free.f_bavail.saturating_mul(free.f_frsize) >= 2 * bytes) {
            return false;
        }
        let made = open_or_create(&path).and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, bytes)?));
        if made.is_err() {
            // A file system that cannot allocate ahead; there is room all the same.
            drop(fs::remove_file(&path));
        }
        true
    }
}

/// Adds the seal's line, by a new file that is renamed over the old one: a crash leaves the one or the other, and a sync
/// that fails is not repeated on the same file.
fn add_to_manifest(layout: &Layout, seal: &Seal) -> io::Result<()> {
    let path = layout.manifest();
    let mut lines = Vec::new();
    if let Some(mut file) = open_if_there(&path)? {
        file.read_to_end(&mut lines)?;
    }
    let line = manifest::encode(seal);
    // A try before this one may have come as far as the rename.
    if lines.trim_ascii_end().rsplit(|byte| *byte == b'\n').next() != Some(&line[..]) {
        lines.extend_from_slice(&line);
        lines.push(b'\n');
        let beside = layout.root().join("manifest.jsonl.new");
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = open_or_create(&beside)?;
        file.write_all(&lines)?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
    }
    sync_dir(layout.root())
}

/// Whether the error says that there is no room.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A record of the store's own.
fn say(kind: &str, what: serde_json::Value) -> Vec<u8> {
    let wall_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
    let mut record = json!({ "kind": kind, "at": { "wall_us": wall_us } });
    if let (Some(record), serde_json::Value::Object(what)) = (record.as_object_mut(), what) {
        record.extend(what);
    }
    record.to_string().into_bytes()
}

fn say_dropped(dropped: Dropped) -> Vec<u8> {
    say("ledger_dropped", json!({ "evidence": dropped.evidence, "state": dropped.state }))
}

/// The record with which a damaged ledger goes on.
pub(super) fn say_damaged(damage: &Damage) -> Vec<u8> {
    say("ledger_damaged", json!({ "damage": damage.to_string() }))
}
