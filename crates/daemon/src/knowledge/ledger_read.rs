//! Reads the ledger's files, also while they are written: verifies all of it, or goes through its records.

use super::layout::{Layout, open_if_there};
use hale_ledger::{Damage, Hash, Lines, Problem, Rest, Seal, SegmentId, Verifier, VerifyError, manifest, record};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// What a ledger that verifies consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Number of records.
    pub records: u64,
    /// Number of segments, the open one included.
    pub segments: u64,
    /// How many of them are sealed.
    pub sealed: u64,
    /// Bytes of all records.
    pub bytes: u64,
    /// Leaf hash of the last record; zeros if there is none.
    pub head: Hash,
    /// RFC 6962 root over all records.
    pub tree_root: Hash,
    /// Bytes after the last record of the open segment that a crash, or a writer at work, left there.
    pub torn_bytes: u64,
}

/// Why a directory does not verify.
#[derive(Debug, thiserror::Error)]
pub enum VerifyDirError {
    /// The ledger is altered or truncated.
    #[error("ledger {dir}: {damage}", dir = dir.display())]
    Damage {
        /// The ledger's directory.
        dir: PathBuf,
        /// The first damage.
        damage: Damage,
    },
    /// It cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// What cannot be read.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Verifies the whole ledger in `dir`, streaming. A writer may be at work meanwhile: what it has not finished is reported
/// as torn.
///
/// # Errors
/// The first damage, or what cannot be read. A directory that does not exist cannot be read; an empty one is a ledger
/// without records.
pub fn verify_dir(dir: &Path) -> Result<Summary, VerifyDirError> {
    let layout = Layout::new(dir);
    let damaged = |damage| VerifyDirError::Damage { dir: dir.to_owned(), damage };
    let mut verifier = Verifier::default();
    let (mut sealed, mut sealed_bytes) = (0, 0);
    loop {
        sealed += for_each_seal(&layout, sealed, |number, seal| {
            let seal =
                seal.map_err(|error| damaged(verifier.damage_here(Problem::Manifest { line: number + 1, error })))?;
            if seal.segment != verifier.position().segment() {
                return Err(damaged(unsealed(&layout, &mut verifier)?));
            }
            let file = open_segment(&layout, seal.segment)?;
            let file = file.ok_or_else(|| damaged(verifier.damage_here(Problem::Missing)))?;
            sealed_bytes += seal.bytes;
            verifier.sealed(&seal, file).map_err(|error| in_dir(&layout, error))
        })?;
        let segments = layout.segments().map_err(|source| read_error(&layout.seg_dir(), source))?;
        let rest: Vec<_> = segments.into_iter().filter(|id| *id >= verifier.position().segment()).collect();
        let rest = match rest[..] {
            [] => Rest::Clean { reserved_bytes: 0 },
            [id] if id == verifier.position().segment() => {
                open_end(&layout, &mut verifier, || open_segment(&layout, id))?
            }
            // Two or more: the writer has sealed one meanwhile (the manifest names it before the next one is made), or
            // somebody took its seal away.
            [..] if for_each_seal(&layout, sealed, |_, _| Ok(()))? > 0 => continue,
            [..] => return Err(damaged(unsealed(&layout, &mut verifier)?)),
        };
        let position = verifier.position();
        return Ok(Summary {
            records: position.chain().next_seq(),
            segments: sealed + u64::from(position.bytes() > 0),
            sealed,
            bytes: sealed_bytes + position.bytes(),
            head: position.chain().head(),
            tree_root: position.chain().tree().root(),
            torn_bytes: match rest {
                Rest::Torn { bytes, .. } => bytes,
                Rest::Clean { .. } | Rest::Foreign => 0,
            },
        });
    }
}

/// Calls `each` with the number, from 0, and the content of each line of the manifest after the first `skip`; returns how
/// many there were. What stands after the last whole line counts as a line: the manifest is replaced, never appended to.
pub(super) fn for_each_seal(
    layout: &Layout,
    skip: u64,
    mut each: impl FnMut(u64, Result<Seal, manifest::SealError>) -> Result<(), VerifyDirError>,
) -> Result<u64, VerifyDirError> {
    let path = layout.manifest();
    let Some(file) = open_if_there(&path).map_err(|source| read_error(&path, source))? else { return Ok(0) };
    let mut lines = Lines::new(file, 0);
    let mut number = 0;
    while let Some(line) = lines.next_line().map_err(|source| read_error(&path, source))? {
        if number >= skip {
            each(number, manifest::decode(line))?;
        }
        number += 1;
    }
    if lines.rest().map_err(|source| read_error(&path, source))? != (Rest::Clean { reserved_bytes: 0 }) {
        each(number, Err(manifest::SealError::Spelling))?;
    }
    Ok(number.saturating_sub(skip))
}

/// Verifies the open segment. Its writer may be at work: a reader then sees zeros where the beginning of a line will be, and
/// its end after them. That is gone when it looks again, so only what stays where it was is damage. Each look more needs
/// damage further on, so there are no more of them than the segment has lines.
fn open_end<R: Read>(
    layout: &Layout,
    verifier: &mut Verifier,
    mut open: impl FnMut() -> Result<Option<R>, VerifyDirError>,
) -> Result<Rest, VerifyDirError> {
    let mut damaged_at = None;
    loop {
        let Some(file) = open()? else { return Ok(Rest::Clean { reserved_bytes: 0 }) };
        let mut again = verifier.clone();
        match again.open(file) {
            Ok(rest) => {
                *verifier = again;
                return Ok(rest);
            }
            Err(VerifyError::Damage(damage)) if damaged_at.is_none_or(|at| at < damage.offset) => {
                damaged_at = Some(damage.offset);
            }
            Err(error) => return Err(in_dir(layout, error)),
        }
    }
}

/// The damage of a segment that should have a seal and has none: what is wrong in it, else that it has none.
fn unsealed(layout: &Layout, verifier: &mut Verifier) -> Result<Damage, VerifyDirError> {
    let none = verifier.damage_here(Problem::Unsealed);
    let Some(file) = open_segment(layout, none.segment)? else {
        return Ok(verifier.damage_here(Problem::Missing));
    };
    match verifier.open(file) {
        Ok(_) => Ok(none),
        Err(VerifyError::Damage(damage)) => Ok(damage),
        Err(error @ VerifyError::Read { .. }) => Err(in_dir(layout, error)),
    }
}

fn open_segment(layout: &Layout, id: SegmentId) -> Result<Option<File>, VerifyDirError> {
    let path = layout.segment(id);
    open_if_there(&path).map_err(|source| read_error(&path, source))
}

fn read_error(path: &Path, source: io::Error) -> VerifyDirError {
    VerifyDirError::Read { path: path.to_owned(), source }
}

fn in_dir(layout: &Layout, error: VerifyError) -> VerifyDirError {
    match error {
        VerifyError::Damage(damage) => VerifyDirError::Damage { dir: layout.root().to_owned(), damage },
        VerifyError::Read { segment, source } => read_error(&layout.segment(segment), source),
    }
}

/// One record and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The number it has in the file. Nothing has verified it.
    pub seq: u64,
    /// What was recorded: a JSON object.
    pub payload: Vec<u8>,
    /// Its segment.
    pub segment: SegmentId,
    /// Where its line begins in that file, in bytes.
    pub offset: u64,
    /// Length of its line without LF, in bytes.
    pub line_bytes: u64,
    /// Leaf hash of its line.
    pub leaf: Hash,
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is a line that is no record. Reading can go on after it.
    #[error("seg/{segment} at byte {offset}: this line is no record; run `hale ledger verify`")]
    NotARecord {
        /// Its segment.
        segment: SegmentId,
        /// Where it begins, in bytes.
        offset: u64,
    },
    /// A file cannot be read. Nothing comes after this.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// All records of the ledger in `dir`, in the order of the files, without verifying them. A writer may be at work: the
/// records end before what it has not finished.
#[must_use]
pub fn read_all(dir: &Path) -> Records {
    Records::starting_at(Layout::new(dir), SegmentId(0), 0)
}

/// Records as they stand in the files; see [`read_all`].
#[derive(Debug)]
pub struct Records {
    layout: Layout,
    segment: SegmentId,
    offset: u64,
    state: Reading,
}

#[derive(Debug)]
enum Reading {
    /// The file has to be opened. `last_look`: a later segment exists, so that this one grows no more.
    Closed {
        last_look: bool,
    },
    Open {
        lines: Lines<File>,
        last_look: bool,
    },
    Done,
}

impl Records {
    /// Records from byte `offset` of `segment` on.
    pub(super) fn starting_at(layout: Layout, segment: SegmentId, offset: u64) -> Self {
        Self { layout, segment, offset, state: Reading::Closed { last_look: false } }
    }

    fn open(&mut self, last_look: bool) -> io::Result<()> {
        let file = open_if_there(&self.layout.segment(self.segment))?;
        self.state = match file {
            Some(mut file) => {
                file.seek(SeekFrom::Start(self.offset))?;
                Reading::Open { lines: Lines::new(file, self.offset), last_look }
            }
            None => return self.next_segment(true),
        };
        Ok(())
    }

    /// At the end of a segment. If there is a later one, this one may have grown before that was made: it is read once
    /// more from here, then left.
    fn next_segment(&mut self, last_look: bool) -> io::Result<()> {
        let later = self.layout.segments()?.into_iter().find(|id| *id > self.segment);
        self.state = match later {
            None => Reading::Done,
            Some(_) if !last_look => Reading::Closed { last_look: true },
            Some(later) => {
                self.segment = later;
                self.offset = 0;
                Reading::Closed { last_look: false }
            }
        };
        Ok(())
    }

    fn step(&mut self) -> io::Result<Option<Result<Entry, ReadError>>> {
        loop {
            let (lines, last_look) = match &mut self.state {
                Reading::Done => return Ok(None),
                Reading::Closed { last_look } => {
                    let last_look = *last_look;
                    self.open(last_look)?;
                    continue;
                }
                Reading::Open { lines, last_look } => (lines, *last_look),
            };
            let (segment, offset) = (self.segment, self.offset);
            match lines.next_line()? {
                Some(line) if !line.contains(&0) => {
                    self.offset += line.len() as u64 + 1;
                    let entry = record::decode(line).map(|record| Entry {
                        seq: record.seq,
                        payload: record.payload.to_vec(),
                        segment,
                        offset,
                        line_bytes: line.len() as u64,
                        leaf: Hash::leaf(line),
                    });
                    return Ok(Some(entry.map_err(|_| ReadError::NotARecord { segment, offset })));
                }
                Some(_) | None => self.next_segment(last_look)?,
            }
        }
    }
}

impl Iterator for Records {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().unwrap_or_else(|source| {
            self.state = Reading::Done;
            Some(Err(ReadError::Read { path: self.layout.segment(self.segment), source }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knowledge::{Class, LedgerEvent, LedgerStore, Limits};
    use std::fs;
    use std::sync::mpsc;
    use std::time::Duration;
    use tempfile::TempDir;

    /// A safety net against a hang; nothing depends on it.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Writes `records` records to segments of 2 KiB, one sync each, and calls `meanwhile` after each.
    fn write(dir: &Path, records: u64, mut meanwhile: impl FnMut(u64)) {
        let limits = Limits { segment_bytes: 2048, reserve_step_bytes: 4096, ballast_bytes: 0, ..Limits::default() };
        let (tell, events) = mpsc::channel();
        let notify = Box::new(move |event| drop(tell.send(event)));
        let (store, _) = LedgerStore::open(dir, limits, notify).expect("open");
        for id in 0..records {
            store.append(format!(r#"{{"n":{id}}}"#).into_bytes(), Class::Durable, id).expect("room");
            assert_eq!(events.recv_timeout(PATIENCE), Ok(LedgerEvent::Durable { up_to_id: id }));
            meanwhile(id);
        }
        assert!(store.close(PATIENCE));
    }

    fn written(records: u64) -> TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        write(dir.path(), records, |_| ());
        dir
    }

    fn damage(dir: &Path) -> Damage {
        match verify_dir(dir) {
            Err(VerifyDirError::Damage { damage, .. }) => damage,
            other => panic!("not damaged: {other:?}"),
        }
    }

    #[test]
    fn a_ledger_that_is_not_there_is_not_good() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(matches!(verify_dir(&dir.path().join("no")), Err(VerifyDirError::Read { .. })));
        assert_eq!(verify_dir(dir.path()).expect("empty").records, 0);
    }

    #[test]
    fn missing_files_are_found() {
        let dir = written(100);
        let segment = |n| dir.path().join("seg").join(SegmentId(n).to_string());
        let aside = dir.path().join("aside");
        for n in [0, 3] {
            fs::rename(segment(n), &aside).expect("move");
            let found = damage(dir.path());
            assert_eq!((found.segment, found.problem), (SegmentId(n), Problem::Missing));
            fs::rename(&aside, segment(n)).expect("move back");
        }
        fs::rename(dir.path().join("manifest.jsonl"), &aside).expect("move");
        assert_eq!(damage(dir.path()).problem, Problem::Unsealed);
        fs::rename(&aside, dir.path().join("manifest.jsonl")).expect("move back");
        verify_dir(dir.path()).expect("good again");
    }

    #[test]
    fn a_manifest_that_is_cut_or_prolonged_is_found() {
        let dir = written(40);
        let path = dir.path().join("manifest.jsonl");
        let whole = fs::read(&path).expect("read");
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).expect("write");
            damage(dir.path());
        }
        for added in [&b"\0"[..], b"\n", b"x", b"{}\n"] {
            fs::write(&path, [&whole[..], added].concat()).expect("write");
            assert!(matches!(damage(dir.path()).problem, Problem::Manifest { .. }));
        }
    }

    #[test]
    fn what_is_gone_at_the_second_look_was_no_damage() {
        let dir = written(3);
        let layout = Layout::new(dir.path());
        let whole = fs::read(layout.segment(SegmentId(0))).expect("read");
        let second = whole.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
        // The first bytes of the second line were not there yet when they were read, those after them were.
        let seen = |zeros: usize| {
            let mut seen = whole.clone();
            seen[second..second + zeros].fill(0);
            seen
        };
        let verify = |mut looks: Vec<Vec<u8>>| {
            let mut verifier = Verifier::default();
            looks.reverse();
            let open = || Ok(Some(io::Cursor::new(looks.pop().expect("no third look at the same place"))));
            open_end(&layout, &mut verifier, open).map(|_| verifier.position().chain().next_seq())
        };
        assert_eq!(verify(vec![seen(20), whole.clone()]).expect("good"), 3);
        let Err(VerifyDirError::Damage { damage, .. }) = verify(vec![seen(20), seen(10)]) else { panic!("no damage") };
        assert_eq!(damage.offset, second as u64);
    }

    #[test]
    fn reads_while_it_is_written() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().to_owned();
        let (stop, stopped) = mpsc::channel::<()>();
        let reader = std::thread::spawn(move || {
            let (mut rounds, mut most) = (0, 0);
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) || rounds == 0 {
                let before = verify_dir(&path).expect("good at any moment").records;
                let seqs: Vec<u64> = read_all(&path).map(|entry| entry.expect("a record").seq).collect();
                assert!(seqs.len() as u64 >= before && seqs.iter().copied().eq(0..seqs.len() as u64));
                most = most.max(seqs.len());
                rounds += 1;
            }
            most
        });
        write(dir.path(), 600, |_| ());
        drop(stop);
        assert!(reader.join().expect("no panic") > 0);
        assert!(verify_dir(dir.path()).expect("good").sealed > 10);
    }

    #[test]
    fn nothing_is_passed_over_when_the_writer_goes_on_to_the_next_segment() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("seg")).expect("make");
        let segment = |n| dir.path().join("seg").join(SegmentId(n).to_string());
        let mut position = hale_ledger::Position::default();
        let mut line = || {
            let mut line = Vec::new();
            position.append(b"{}", &mut line).expect("a payload");
            line
        };
        let first = line();
        fs::write(segment(0), [&first[..], &[0; 500]].concat()).expect("write");
        let mut records = read_all(dir.path()).map(|entry| entry.expect("a record").seq);
        assert_eq!(records.next(), Some(0));
        // The reader has the reserved space in its buffer already.
        fs::write(segment(0), [first, line()].concat()).expect("write");
        fs::write(segment(1), line()).expect("write");
        assert_eq!(records.collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_line_that_is_no_record_is_told_and_passed() {
        let dir = written(3);
        let path = dir.path().join("seg/00000000.jsonl");
        let text = fs::read_to_string(&path).expect("read").replacen("{\"n\":1}", "{\"n\" 1}", 1);
        fs::write(&path, text).expect("write");
        let found: Vec<_> = read_all(dir.path()).map(|entry| entry.map(|entry| entry.seq).ok()).collect();
        assert_eq!(found, [Some(0), None, Some(2)]);
    }

    /// The documented way without Hale.
    mod needs_jq {
        use super::*;
        use std::process::Command;

        fn verified_by_script(dir: &Path) -> bool {
            let page = include_str!("../../../../docs/ledger.md");
            let (_, script) = page.split_once("```sh\n").expect("the block");
            let (script, _) = script.split_once("```").expect("its end");
            let output = Command::new("bash").args(["-c", script]).current_dir(dir).output().expect("bash");
            let text = String::from_utf8_lossy(&output.stdout);
            let head = verify_dir(dir).map(|summary| format!("{} records, head {}", summary.records, summary.head));
            let good = output.status.success();
            assert!(!good || Some(text.trim_end()) == head.ok().as_deref(), "{output:?}");
            good
        }

        #[test]
        fn sha256sum_and_jq_agree_with_us() {
            let dir = tempfile::tempdir().expect("a temporary directory");
            write(dir.path(), 40, |id| {
                if id == 30 {
                    // The writer is at work: reserved space at the end.
                    assert!(verified_by_script(dir.path()));
                }
            });
            assert!(verified_by_script(dir.path()));
            for segment in [0, 1] {
                let path = dir.path().join("seg").join(SegmentId(segment).to_string());
                let whole = fs::read(&path).expect("read");
                let mut changed = whole.clone();
                let at = whole.windows(5).position(|bytes| bytes == b"{\"n\":").expect("a payload") + 5;
                changed[at] ^= 1;
                fs::write(&path, &changed).expect("write");
                assert!(!verified_by_script(dir.path()), "segment {segment}");
                fs::write(&path, &whole).expect("write back");
            }
            assert!(verified_by_script(dir.path()));
        }
    }
}
