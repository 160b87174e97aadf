//! The runtime journal: what a new supervisor must know within one boot. A file on tmpfs that is never synced, so that an
//! append costs one system call and no disk can hold up the loop.
//!
//! A record is `length: u32 LE, checksum: u32 LE, bytes`; the checksum is the first four bytes of
//! SHA-256(length || bytes). SHA-256 and not CRC-32: it is here already, the CPUs have instructions for it, and a length
//! of zero does not check against a checksum of zero. The first record of a file is its header.

use hale_ledger::hash::Hasher;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes after the snapshot at which [`Journal::needs_snapshot`] becomes true. 4 MiB: some ten thousand records, read
/// back in about 10 ms, and little enough of a tmpfs that other programs share.
pub const COMPACT_AFTER_BYTES: u64 = 4 * 1024 * 1024;

/// Longest record, and longest snapshot. 64 MiB: a thousand services with 64 KiB of state each.
pub const RECORD_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Longest file that is read back: the longest snapshot, and four times the appends after which one is due. A longer one
/// was not written by this program.
pub const FILE_MAX_BYTES: u64 = RECORD_MAX_BYTES as u64 + 4 * COMPACT_AFTER_BYTES;

/// Capacity that the write buffer keeps between appends. 64 KiB holds any ordinary batch; a snapshot's is given back.
const KEEP_BUFFER_BYTES: usize = 64 * 1024;

/// Format version that this program reads and writes.
const VERSION: u32 = 1;

/// Length and checksum.
const PREFIX_BYTES: usize = 8;

/// A journal that is open for appending. Only one process may have it open: whoever opens it holds the lock on
/// `runtime_dir`.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    boot_id: String,
    len_bytes: u64,
    base_bytes: u64,
    buffer: Vec<u8>,
}

/// What a journal held when it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replay {
    /// The snapshot that the records go on from, if the file was ever compacted.
    pub snapshot: Option<Vec<u8>>,
    /// The records after it, in their order.
    pub records: Vec<Vec<u8>>,
    /// Bytes of a torn record that were cut off the end.
    pub torn_bytes: u64,
    /// Set when there was a file that could not be used; the journal is empty then.
    pub discarded: Option<Discarded>,
}

impl Replay {
    /// The lines of all records, in their order: a record may hold several, which belong to one step.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.records.iter().flat_map(|record| record.split(|&byte| byte == b'\n'))
    }
}

/// Why a journal's file was thrown away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Discarded {
    /// It was written in another boot: its processes are gone.
    #[error("it belongs to boot {0}")]
    OtherBoot(String),
    /// Another version of the format.
    #[error("it has format version {0}, this program knows {VERSION}")]
    OtherVersion(u32),
    /// No header that can be read.
    #[error("it does not begin with a journal's header")]
    NoHeader,
    /// Longer than [`FILE_MAX_BYTES`].
    #[error("it is {0} bytes long, at most {FILE_MAX_BYTES} are read")]
    TooLong(u64),
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} journal {path}: {source}", path = path.display())]
pub struct JournalError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl JournalError {
    /// What the system said.
    #[must_use]
    pub fn source_kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// The first record of a file.
#[derive(Serialize, Deserialize)]
struct Header {
    journal: u32,
    boot: String,
    snapshot: bool,
}

impl Journal {
    /// Opens the journal at `path`, or makes it. A torn record at its end is cut off; a file of another boot or version
    /// is discarded.
    ///
    /// # Errors
    /// The file or the boot id cannot be read or written.
    pub fn open(path: impl Into<PathBuf>) -> Result<(Self, Replay), JournalError> {
        let path = path.into();
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(|source| JournalError {
            what: "read the boot id for",
            path: path.clone(),
            source,
        })?;
        Self::open_in_boot(path, boot_id.trim())
    }

    fn open_in_boot(path: PathBuf, boot_id: &str) -> Result<(Self, Replay), JournalError> {
        let found = match read_file(&path) {
            Ok(found) => found,
            Err(source) => return Err(JournalError { what: "read", path, source }),
        };
        let discarded = match found {
            Contents::None => None,
            Contents::TooLong(len) => Some(Discarded::TooLong(len)),
            Contents::Bytes(bytes) => match parse(&bytes, boot_id) {
                Ok((replay, good)) => {
                    return match reopen(&path, good) {
                        Ok(file) => {
                            let header_and_snapshot = good - replay.records.iter().map(|r| framed_len(r)).sum::<u64>();
                            let journal = Self {
                                path,
                                file,
                                boot_id: boot_id.to_owned(),
                                len_bytes: good,
                                base_bytes: header_and_snapshot,
                                buffer: Vec::new(),
                            };
                            Ok((journal, replay))
                        }
                        Err(source) => Err(JournalError { what: "cut the torn end of", path, source }),
                    };
                }
                Err(why) => Some(why),
            },
        };
        let mut buffer = Vec::new();
        match replace(&path, boot_id, None, &mut buffer) {
            Ok((file, len)) => {
                let boot_id = boot_id.to_owned();
                let journal = Self { path, file, boot_id, len_bytes: len, base_bytes: len, buffer };
                Ok((journal, Replay { discarded, ..Replay::default() }))
            }
            Err(source) => Err(JournalError { what: "make", path, source }),
        }
    }

    /// Appends `records` in their order, in one `write(2)`. On a tmpfs they are safe from any death of this process once
    /// this returns, and from nothing else.
    ///
    /// # Errors
    /// The tmpfs is full, or a record longer than [`RECORD_MAX_BYTES`]; none of the records is there then.
    pub fn append(&mut self, records: &[&[u8]]) -> Result<(), JournalError> {
        self.buffer.clear();
        let written = records.iter().try_for_each(|record| frame(record, &mut self.buffer)).and_then(|()| {
            write_once(&mut self.file, &self.buffer).inspect_err(|_| {
                // Best effort: if it fails too, the next open cuts the torn record.
                drop(self.file.set_len(self.len_bytes));
            })
        });
        match written {
            Ok(()) => {
                self.len_bytes += self.buffer.len() as u64;
                self.buffer.shrink_to(KEEP_BUFFER_BYTES);
                Ok(())
            }
            Err(source) => Err(JournalError { what: "append to", path: self.path.clone(), source }),
        }
    }

    /// Whether so much was appended since the last snapshot that it is time for the next: [`COMPACT_AFTER_BYTES`], and
    /// three times that while some of it is nowhere else.
    #[must_use]
    pub fn needs_snapshot(&self, is_elsewhere: bool) -> bool {
        let most = if is_elsewhere { COMPACT_AFTER_BYTES } else { 3 * COMPACT_AFTER_BYTES };
        self.len_bytes - self.base_bytes > most
    }

    /// Replaces everything by `snapshot`: writes a new file beside the old one and renames it over.
    ///
    /// # Errors
    /// The new file cannot be written; the old one is as it was then.
    pub fn compact(&mut self, snapshot: &[u8]) -> Result<(), JournalError> {
        match replace(&self.path, &self.boot_id, Some(snapshot), &mut self.buffer) {
            Ok((file, len)) => {
                self.file = file;
                self.len_bytes = len;
                self.base_bytes = len;
                self.buffer.shrink_to(KEEP_BUFFER_BYTES);
                Ok(())
            }
            Err(source) => Err(JournalError { what: "compact", path: self.path.clone(), source }),
        }
    }
}

/// Makes a new file with a header and perhaps a snapshot, and renames it to `path`. Returns it, open for appending.
fn replace(path: &Path, boot: &str, snapshot: Option<&[u8]>, buffer: &mut Vec<u8>) -> io::Result<(File, u64)> {
    let header = Header { journal: VERSION, boot: boot.to_owned(), snapshot: snapshot.is_some() };
    buffer.clear();
    frame(&serde_json::to_vec(&header)?, buffer)?;
    if let Some(snapshot) = snapshot {
        frame(snapshot, buffer)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&beside)?;
    let placed = write_once(&mut file, buffer).and_then(|()| fs::rename(&beside, path));
    if placed.is_err() {
        // What failed is reported; a file left beside is removed by the next attempt.
        drop(fs::remove_file(&beside));
    }
    placed.map(|()| (file, buffer.len() as u64))
}

/// Opens a file whose good part ends at `good`, and cuts it there.
fn reopen(path: &Path, good: u64) -> io::Result<File> {
    let file = OpenOptions::new().append(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    file.set_len(good)?;
    Ok(file)
}

/// One `write(2)`; a short one is an error, because the rest would not be the same record.
fn write_once(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    loop {
        match file.write(bytes) {
            Ok(written) if written == bytes.len() => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::StorageFull.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn checksum(len: u32, bytes: &[u8]) -> [u8; 4] {
    let mut hasher = Hasher::default();
    hasher.update(&len.to_le_bytes());
    hasher.update(bytes);
    let [a, b, c, d, ..] = hasher.value().0;
    [a, b, c, d]
}

/// Appends the record's length, checksum and bytes to `out`.
fn frame(record: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let len = u32::try_from(record.len()).ok().filter(|_| record.len() <= RECORD_MAX_BYTES);
    let len = len.ok_or(io::ErrorKind::FileTooLarge)?;
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&checksum(len, record));
    out.extend_from_slice(record);
    Ok(())
}

fn framed_len(record: &[u8]) -> u64 {
    (PREFIX_BYTES + record.len()) as u64
}

/// Splits the first record off `bytes`; `None` if there is none that checks.
fn unframe(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len);
    let (record, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    (checksum(len, record) == *sum).then_some((record, rest))
}

/// What stands in a file of this boot, and how many of its bytes are good.
fn parse(bytes: &[u8], boot_id: &str) -> Result<(Replay, u64), Discarded> {
    let (header, mut rest) = unframe(bytes).ok_or(Discarded::NoHeader)?;
    let header: Header = serde_json::from_slice(header).map_err(|_| Discarded::NoHeader)?;
    if header.journal != VERSION {
        return Err(Discarded::OtherVersion(header.journal));
    }
    if header.boot != boot_id {
        return Err(Discarded::OtherBoot(header.boot));
    }
    let mut replay = Replay::default();
    if header.snapshot {
        let (snapshot, after) = unframe(rest).ok_or(Discarded::NoHeader)?;
        replay.snapshot = Some(snapshot.to_vec());
        rest = after;
    }
    while let Some((record, after)) = unframe(rest) {
        replay.records.push(record.to_vec());
        rest = after;
    }
    replay.torn_bytes = rest.len() as u64;
    Ok((replay, (bytes.len() - rest.len()) as u64))
}

enum Contents {
    None,
    TooLong(u64),
    Bytes(Vec<u8>),
}

fn read_file(path: &Path) -> io::Result<Contents> {
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contents::None),
        Err(error) => return Err(error),
    };
    let len = file.metadata()?.len();
    if len > FILE_MAX_BYTES {
        return Ok(Contents::TooLong(len));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(if bytes.is_empty() { Contents::None } else { Contents::Bytes(bytes) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn dir() -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("journal");
        (dir, path)
    }

    fn records(replay: &Replay) -> Vec<&[u8]> {
        replay.records.iter().map(Vec::as_slice).collect()
    }

    #[test]
    fn what_was_appended_is_read_back() {
        let (_dir, path) = dir();
        let (mut journal, replay) = Journal::open(&path).expect("open");
        assert_eq!(replay, Replay::default());
        journal.append(&[b"one", b""]).expect("append");
        journal.append(&[b"three"]).expect("append");
        drop(journal);
        let (mut journal, replay) = Journal::open(&path).expect("open");
        assert_eq!(records(&replay), [&b"one"[..], b"", b"three"]);
        assert_eq!((replay.torn_bytes, replay.discarded, replay.snapshot), (0, None, None));
        journal.append(&[b"four"]).expect("append");
        drop(journal);
        assert_eq!(Journal::open(&path).expect("open").1.records.len(), 4);
    }

    #[test]
    fn a_record_torn_at_any_byte_is_cut_and_the_others_stay() {
        let (_dir, path) = dir();
        let (mut journal, _) = Journal::open(&path).expect("open");
        journal.append(&[b"kept"]).expect("append");
        let kept = journal.len_bytes;
        journal.append(&[b"torn record"]).expect("append");
        let whole = fs::read(&path).expect("read");
        for cut in kept..whole.len() as u64 {
            fs::write(&path, &whole[..cut as usize]).expect("write");
            let (mut journal, replay) = Journal::open(&path).expect("open");
            assert_eq!(records(&replay), [b"kept"], "cut at {cut}");
            assert_eq!(replay.torn_bytes, cut - kept);
            journal.append(&[b"after"]).expect("append");
            let (_, replay) = Journal::open(&path).expect("open");
            assert_eq!(records(&replay), [&b"kept"[..], b"after"], "cut at {cut}");
        }
    }

    #[test]
    fn a_changed_byte_or_nuls_end_the_journal() {
        let (_dir, path) = dir();
        let (mut journal, _) = Journal::open(&path).expect("open");
        journal.append(&[b"kept"]).expect("append");
        let kept = journal.len_bytes as usize;
        journal.append(&[b"changed", b"after"]).expect("append");
        let whole = fs::read(&path).expect("read");
        for at in kept..kept + PREFIX_BYTES + 7 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).expect("write");
            assert_eq!(records(&Journal::open(&path).expect("open").1), [b"kept"], "byte {at}");
        }
        fs::write(&path, [&whole[..kept], &[0; 64]].concat()).expect("write");
        assert_eq!(records(&Journal::open(&path).expect("open").1), [b"kept"]);
    }

    #[test]
    fn another_boots_journal_is_discarded() {
        let (_dir, path) = dir();
        let (mut journal, _) = Journal::open_in_boot(path.clone(), "boot-a").expect("open");
        journal.append(&[b"old"]).expect("append");
        let (_, replay) = Journal::open_in_boot(path.clone(), "boot-b").expect("open");
        assert_eq!(replay.discarded, Some(Discarded::OtherBoot("boot-a".to_owned())));
        assert!(replay.records.is_empty());
        let (_, replay) = Journal::open_in_boot(path.clone(), "boot-b").expect("open");
        assert_eq!(replay, Replay::default());
        fs::write(&path, b"something else").expect("write");
        assert_eq!(Journal::open(&path).expect("open").1.discarded, Some(Discarded::NoHeader));
    }

    #[test]
    fn compacting_keeps_the_snapshot_and_what_follows() {
        let (_dir, path) = dir();
        let (mut journal, _) = Journal::open(&path).expect("open");
        let record = vec![b'x'; 64 * 1024];
        let mut appended = 0;
        while !journal.needs_snapshot(true) {
            journal.append(&[&record]).expect("append");
            appended += framed_len(&record);
        }
        assert!(!journal.needs_snapshot(false), "some of it is nowhere else");
        assert!(appended > COMPACT_AFTER_BYTES && appended <= COMPACT_AFTER_BYTES + framed_len(&record));
        // A snapshot that is longer than the bound does not ask for the next one at once.
        let snapshot = vec![b's'; COMPACT_AFTER_BYTES as usize + 1];
        journal.compact(&snapshot).expect("compact");
        assert!(!journal.needs_snapshot(true));
        journal.append(&[b"after"]).expect("append");
        drop(journal);
        let (journal, replay) = Journal::open(&path).expect("open");
        assert!(replay.snapshot.as_deref() == Some(&snapshot[..]));
        assert_eq!(records(&replay), [b"after"]);
        assert!(!journal.needs_snapshot(true));
        assert_eq!(fs::read_dir(path.parent().expect("a directory")).expect("list").count(), 1);
    }

    #[test]
    fn a_record_that_is_too_long_leaves_nothing() {
        let (_dir, path) = dir();
        let (mut journal, _) = Journal::open(&path).expect("open");
        let too_long = vec![0; RECORD_MAX_BYTES + 1];
        let error = journal.append(&[b"small", &too_long]).expect_err("too long");
        assert_eq!(error.source_kind(), io::ErrorKind::FileTooLarge);
        assert!(Journal::open(&path).expect("open").1.records.is_empty());
    }

    /// These mount a file system.
    mod needs_root {
        use super::*;
        use crate::knowledge::tmpfs;

        #[test]
        fn on_a_full_tmpfs_an_append_leaves_nothing_and_what_was_there_stays() {
            let test = "knowledge::journal::tests::needs_root::\
                        on_a_full_tmpfs_an_append_leaves_nothing_and_what_was_there_stays";
            let Some(mount) = tmpfs::or_rerun_in_one(test, "256k") else { return };
            let (path, filler) = (mount.join("journal"), mount.join("filler"));
            let (mut journal, _) = Journal::open(&path).expect("open");
            journal.append(&[b"kept"]).expect("append");
            tmpfs::fill(&filler);
            // Longer than the rest of the page that the file has already: a part of it gets there.
            let long = vec![b'x'; 10_000];
            let error = journal.append(&[&long]).expect_err("full");
            assert_eq!(error.source_kind(), io::ErrorKind::StorageFull);
            assert_eq!(fs::metadata(&path).expect("there").len(), journal.len_bytes);
            assert!(journal.compact(b"snapshot").is_err());
            journal.append(&[b"short"]).expect("there is room in its page");
            assert_eq!(records(&Journal::open(&path).expect("open").1), [&b"kept"[..], b"short"]);
            fs::remove_file(&filler).expect("make room");
            journal.append(&[&long]).expect("append");
            journal.compact(b"snapshot").expect("compact");
            assert_eq!(Journal::open(&path).expect("open").1.snapshot.as_deref(), Some(&b"snapshot"[..]));
        }
    }
}
