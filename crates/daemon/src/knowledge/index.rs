//! The index for reading commands: a SQLite file that says where which record stands. It is made from the segments, can be
//! thrown away at any time, and is never trusted: what it points to is read from the segment and must have the number it
//! was looked up by.

use super::layout::{Layout, open_if_there, open_or_create};
use super::ledger_read::{Entry, ReadError, Records};
use hale_ledger::{Hash, MAX_LINE_BYTES, SegmentId, record};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, ToSql, TransactionBehavior, params};
use serde::Deserialize;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Version of the tables. A file with another one is rebuilt.
const VERSION: i32 = 1;

/// How long to wait for another command that is indexing. 10 s: some gigabytes of new records; after that this command
/// makes an index of its own in memory.
const BUSY_WAIT: Duration = Duration::from_secs(10);

const TABLES: &str = "
    CREATE TABLE records (seq INTEGER, wall_us INTEGER, kind TEXT, service TEXT, incident INTEGER,
                          segment INTEGER NOT NULL, offset INTEGER NOT NULL, len INTEGER NOT NULL);
    CREATE INDEX by_incident ON records (incident) WHERE incident IS NOT NULL;
    CREATE INDEX by_service ON records (service) WHERE service IS NOT NULL;
    CREATE INDEX by_wall_us ON records (wall_us) WHERE wall_us IS NOT NULL;
    CREATE TABLE last (segment INTEGER NOT NULL, offset INTEGER NOT NULL, len INTEGER NOT NULL, leaf BLOB NOT NULL);
";

/// Which records to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query<'a> {
    /// All of them.
    All,
    /// Those that name this incident.
    Incident(u64),
    /// Those that name this service.
    Service(&'a str),
    /// Those written at this wall time or later, in microseconds since 1970 UTC. The clock may have been set meanwhile.
    Since {
        /// That time.
        wall_us: i64,
    },
}

/// Why the index cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] ReadError),
    /// SQLite failed, in memory too.
    #[error("cannot index the ledger: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// What the index points to is another record.
    #[error("seg/{segment} at byte {offset} is not record {seq}: the index is wrong; run `hale ledger reindex`")]
    Wrong {
        /// The number that was looked up.
        seq: u64,
        /// The segment it should stand in.
        segment: SegmentId,
        /// Where, in bytes.
        offset: u64,
    },
}

/// An index of all records that were there when it was opened.
#[derive(Debug)]
pub struct Index {
    layout: Layout,
    connection: Connection,
    path: Option<PathBuf>,
}

/// The fields of a payload that can be looked up. All of them may be missing.
#[derive(Deserialize, Default)]
struct Fields {
    kind: Option<String>,
    at: Option<At>,
    service: Option<String>,
    incident: Option<i64>,
}

#[derive(Deserialize)]
struct At {
    wall_us: Option<i64>,
}

/// Where a record stands.
#[derive(Debug)]
struct Place {
    seq: u64,
    segment: SegmentId,
    offset: u64,
    len: u64,
}

impl Index {
    /// Brings the index at `index_path` up to date with the ledger in `ledger_dir`. It goes on where it stopped; if it
    /// does not belong to these segments, or is broken, it is made anew. Without a path, or where that file cannot be
    /// written, the index is made in memory. Lines that are no records are left out; verifying tells about them.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn open(ledger_dir: &Path, index_path: Option<PathBuf>) -> Result<Self, IndexError> {
        let layout = Layout::new(ledger_dir);
        if let Some(path) = index_path {
            for attempt in 0..2 {
                match Self::open_at(layout.clone(), &path) {
                    Ok(index) => return Ok(index),
                    Err(error @ IndexError::Ledger(_)) => return Err(error),
                    // Broken or not ours to write: once more from nothing, then without a file.
                    Err(IndexError::Sqlite(_) | IndexError::Wrong { .. }) if attempt == 0 && remove(&path).is_ok() => {}
                    Err(IndexError::Sqlite(_) | IndexError::Wrong { .. }) => break,
                }
            }
        }
        let mut index = Self { layout, connection: Connection::open_in_memory()?, path: None };
        index.update()?;
        Ok(index)
    }

    /// As [`Self::open`], but throws away what is at `index_path` first.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn rebuild(ledger_dir: &Path, index_path: Option<PathBuf>) -> Result<Self, IndexError> {
        // Where it cannot be removed it cannot be written either, and the index is made in memory.
        let index_path = index_path.filter(|path| remove(path).is_ok());
        Self::open(ledger_dir, index_path)
    }

    /// The file of the index; `None` if it is in memory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Number of records in the index.
    ///
    /// # Errors
    /// SQLite's.
    pub fn count(&self) -> Result<u64, IndexError> {
        Ok(self.connection.query_row("SELECT count(*) FROM records", [], |row| unsigned(row, 0))?)
    }

    /// The payloads of the records that match, oldest first, read from the segments one by one.
    ///
    /// # Errors
    /// SQLite's.
    pub fn find(&self, query: Query<'_>) -> Result<Matches, IndexError> {
        let (condition, value): (&str, Option<Box<dyn ToSql>>) = match query {
            Query::All => ("", None),
            Query::Incident(incident) => ("WHERE incident = ?", Some(Box::new(signed(incident)))),
            Query::Service(service) => ("WHERE service = ?", Some(Box::new(service.to_owned()))),
            Query::Since { wall_us } => ("WHERE wall_us >= ?", Some(Box::new(wall_us))),
        };
        let sql = format!("SELECT seq, segment, offset, len FROM records {condition} ORDER BY rowid");
        let mut statement = self.connection.prepare(&sql)?;
        let places = statement.query_map(rusqlite::params_from_iter(value), |row| {
            let segment = SegmentId(row.get(1)?);
            Ok(Place { seq: unsigned(row, 0)?, segment, offset: unsigned(row, 2)?, len: unsigned(row, 3)? })
        })?;
        let places = places.collect::<Result<Vec<_>, _>>()?;
        Ok(Matches { layout: self.layout.clone(), places: places.into_iter(), file: None })
    }

    fn open_at(layout: Layout, path: &Path) -> Result<Self, IndexError> {
        let cannot_open = |error: io::Error| {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
            IndexError::Sqlite(rusqlite::Error::SqliteFailure(code, Some(error.to_string())))
        };
        drop(open_or_create(path).map_err(cannot_open)?);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_WAIT)?;
        let mut index = Self { layout, connection, path: Some(path.to_owned()) };
        index.update()?;
        Ok(index)
    }

    /// Adds what the ledger has more than the index, in one transaction.
    fn update(&mut self) -> Result<(), IndexError> {
        let Self { layout, connection, .. } = self;
        let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version: i32 = change.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let mut start = if version == VERSION { continue_at(layout, &change)? } else { None };
        if start.is_none() {
            change.execute_batch("DROP TABLE IF EXISTS records; DROP TABLE IF EXISTS last;")?;
            change.execute_batch(TABLES)?;
            change.pragma_update(None, "user_version", VERSION)?;
            start = Some((SegmentId(0), 0));
        }
        let (segment, offset) = start.unwrap_or((SegmentId(0), 0));
        let mut last = None;
        {
            let mut insert = change.prepare("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)")?;
            for entry in Records::starting_at(layout.clone(), segment, offset) {
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(ReadError::NotARecord { .. }) => continue,
                    Err(error @ ReadError::Read { .. }) => return Err(error.into()),
                };
                let fields: Fields = serde_json::from_slice(&entry.payload).unwrap_or_default();
                insert.execute(params![
                    signed(entry.seq),
                    fields.at.and_then(|at| at.wall_us),
                    fields.kind,
                    fields.service,
                    fields.incident,
                    entry.segment.0,
                    signed(entry.offset),
                    signed(entry.line_bytes),
                ])?;
                last = Some(Entry { payload: Vec::new(), ..entry });
            }
        }
        if let Some(last) = last {
            change.execute("DELETE FROM last", [])?;
            let place = params![last.segment.0, signed(last.offset), signed(last.line_bytes), last.leaf.0];
            change.execute("INSERT INTO last VALUES (?, ?, ?, ?)", place)?;
        }
        change.commit()?;
        Ok(())
    }
}

/// Where indexing goes on: after the last line that was indexed, if that line still stands there. Its hash covers every
/// line before it. `None`: these are other segments.
fn continue_at(layout: &Layout, connection: &Connection) -> Result<Option<(SegmentId, u64)>, IndexError> {
    let sql = "SELECT segment, offset, len, leaf FROM last";
    let last = connection
        .query_row(sql, [], |row| {
            Ok((SegmentId(row.get(0)?), unsigned(row, 1)?, unsigned(row, 2)?, row.get::<_, [u8; 32]>(3)?))
        })
        .optional()?;
    let Some((segment, offset, len, leaf)) = last else { return Ok(Some((SegmentId(0), 0))) };
    let line =
        read_line(layout, &mut None, segment, offset, len).map_err(|source| read_error(layout, segment, source))?;
    Ok(line.filter(|line| Hash::leaf(line) == Hash(leaf)).map(|_| (segment, offset + len + 1)))
}

/// The `len` bytes at `offset`; `None` if there is no whole line of that length there.
fn read_line(
    layout: &Layout,
    open: &mut Option<(SegmentId, File)>,
    segment: SegmentId,
    offset: u64,
    len: u64,
) -> io::Result<Option<Vec<u8>>> {
    let Some(len) = usize::try_from(len).ok().filter(|len| *len <= MAX_LINE_BYTES) else { return Ok(None) };
    if open.as_ref().is_none_or(|(id, _)| *id != segment) {
        let Some(file) = open_if_there(&layout.segment(segment))? else { return Ok(None) };
        *open = Some((segment, file));
    }
    let Some((_, file)) = open else { return Ok(None) };
    let mut line = vec![0; len + 1];
    match file.read_exact_at(&mut line, offset) {
        Ok(()) => Ok((line.pop() == Some(b'\n')).then_some(line)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_error(layout: &Layout, segment: SegmentId, source: io::Error) -> ReadError {
    ReadError::Read { path: layout.segment(segment), source }
}

/// Payloads with their numbers; see [`Index::find`].
#[derive(Debug)]
pub struct Matches {
    layout: Layout,
    places: std::vec::IntoIter<Place>,
    file: Option<(SegmentId, File)>,
}

impl Iterator for Matches {
    type Item = Result<(u64, Vec<u8>), IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Place { seq, segment, offset, len } = self.places.next()?;
        let wrong = IndexError::Wrong { seq, segment, offset };
        Some(match read_line(&self.layout, &mut self.file, segment, offset, len) {
            Err(source) => Err(read_error(&self.layout, segment, source).into()),
            Ok(None) => Err(wrong),
            Ok(Some(line)) => match record::decode(&line) {
                Ok(record) if record.seq == seq => Ok((seq, record.payload.to_vec())),
                Ok(_) | Err(_) => Err(wrong),
            },
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.places.size_hint()
    }
}

/// Removes the index and what SQLite may have left beside it.
fn remove(path: &Path) -> io::Result<()> {
    let mut journal = path.as_os_str().to_owned();
    journal.push("-journal");
    for path in [Path::new(&journal), path] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// SQLite's integers have a sign; no seq, offset or incident comes near the bound.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|number| u64::try_from(number).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hale_ledger::Position;
    use std::fs::OpenOptions;
    use std::io::Write;
    use tempfile::TempDir;

    struct Ledger {
        dir: TempDir,
        position: Position,
    }

    impl Ledger {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a temporary directory");
            fs::create_dir(dir.path().join("seg")).expect("make");
            Self { dir, position: Position::default() }
        }

        fn path(&self) -> &Path {
            self.dir.path()
        }

        fn index(&self) -> PathBuf {
            self.path().join("index.sqlite")
        }

        fn append(&mut self, payload: &str) {
            let mut line = Vec::new();
            self.position.append(payload.as_bytes(), &mut line).expect("a payload");
            let path = self.path().join("seg").join(self.position.segment().to_string());
            let mut file = OpenOptions::new().create(true).append(true).open(path).expect("open");
            file.write_all(&line).expect("write");
        }

        fn next_segment(&mut self) {
            self.position = Position::after(&self.position.seal().expect("not empty"));
        }

        fn filled() -> Self {
            let mut ledger = Self::new();
            ledger.append(r#"{"kind":"a","at":{"wall_us":10},"service":"web"}"#);
            ledger.append(r#"{"kind":"b","at":{"wall_us":20},"service":"db","incident":7}"#);
            ledger.next_segment();
            ledger.append(r#"{"kind":"c","at":{"wall_us":30},"service":"web","incident":7}"#);
            ledger.append(r#"{"other":[]}"#);
            ledger
        }
    }

    fn seqs(index: &Index, query: Query<'_>) -> Vec<u64> {
        index.find(query).expect("an answer").map(|found| found.expect("a record").0).collect()
    }

    #[test]
    fn finds_by_every_field() {
        let ledger = Ledger::filled();
        for path in [None, Some(ledger.index())] {
            let index = Index::open(ledger.path(), path).expect("open");
            assert_eq!(seqs(&index, Query::All), [0, 1, 2, 3]);
            assert_eq!(seqs(&index, Query::Incident(7)), [1, 2]);
            assert_eq!(seqs(&index, Query::Service("web")), [0, 2]);
            assert_eq!(seqs(&index, Query::Since { wall_us: 20 }), [1, 2]);
            assert!(seqs(&index, Query::Service("' OR 1=1 --")).is_empty());
            let (_, payload) = index.find(Query::All).expect("an answer").last().expect("four").expect("a record");
            assert_eq!(payload, br#"{"other":[]}"#);
        }
    }

    #[test]
    fn goes_on_where_it_stopped() {
        let mut ledger = Ledger::filled();
        assert_eq!(Index::open(ledger.path(), Some(ledger.index())).expect("open").count().expect("a count"), 4);
        // Only an index that goes on keeps a row that no segment holds.
        let connection = Connection::open(ledger.index()).expect("open");
        connection.execute("UPDATE records SET service = 'kept' WHERE seq = 0", []).expect("update");
        drop(connection);
        ledger.append(r#"{"service":"web"}"#);
        ledger.next_segment();
        ledger.append(r#"{"service":"web"}"#);
        let index = Index::open(ledger.path(), Some(ledger.index())).expect("open");
        assert_eq!(seqs(&index, Query::Service("web")), [2, 4, 5]);
        assert_eq!(seqs(&index, Query::Service("kept")), [0]);
        let index = Index::rebuild(ledger.path(), Some(ledger.index())).expect("open");
        assert_eq!(seqs(&index, Query::Service("web")), [0, 2, 4, 5]);
    }

    #[test]
    fn an_index_of_other_segments_is_made_anew() {
        let (old, mut new) = (Ledger::filled(), Ledger::new());
        drop(Index::open(old.path(), Some(old.index())).expect("open"));
        for n in 0..9 {
            new.append(&format!(r#"{{"incident":{n}}}"#));
        }
        fs::copy(old.index(), new.index()).expect("copy");
        let index = Index::open(new.path(), Some(new.index())).expect("open");
        assert_eq!(seqs(&index, Query::All), (0..9).collect::<Vec<_>>());
        assert!(index.path().is_some());
        // Lines of the same lengths: only their hash tells.
        let mut alike = Ledger::new();
        for _ in 0..2 {
            alike.append(r#"{"kind":"a","at":{"wall_us":10},"service":"web"}"#);
        }
        drop(Index::open(alike.path(), Some(alike.index())).expect("open"));
        let mut other = Ledger::new();
        for _ in 0..2 {
            other.append(r#"{"kind":"a","at":{"wall_us":10},"service":"bot"}"#);
        }
        fs::copy(alike.index(), other.index()).expect("copy");
        let index = Index::open(other.path(), Some(other.index())).expect("open");
        assert_eq!(seqs(&index, Query::Service("bot")), [0, 1]);
    }

    #[test]
    fn a_broken_index_is_made_anew_and_one_that_cannot_be_written_is_in_memory() {
        let ledger = Ledger::filled();
        fs::write(ledger.index(), vec![b'x'; 10_000]).expect("write");
        let index = Index::open(ledger.path(), Some(ledger.index())).expect("open");
        assert_eq!((seqs(&index, Query::All).len(), index.path().is_some()), (4, true));
        let nowhere = ledger.path().join("no/such/directory/index");
        let index = Index::open(ledger.path(), Some(nowhere)).expect("open");
        assert_eq!((seqs(&index, Query::All).len(), index.path()), (4, None));
    }

    #[test]
    fn an_index_that_lies_is_found_out() {
        let ledger = Ledger::filled();
        drop(Index::open(ledger.path(), Some(ledger.index())).expect("open"));
        for lie in ["seq = 3", "offset = 1", "len = 9999999", "segment = 9"] {
            let connection = Connection::open(ledger.index()).expect("open");
            connection.execute(&format!("UPDATE records SET {lie} WHERE seq = 0"), []).expect("update");
            drop(connection);
            let index = Index::open(ledger.path(), Some(ledger.index())).expect("open");
            let found = index.find(Query::All).expect("an answer").next().expect("one");
            assert!(matches!(found, Err(IndexError::Wrong { .. })), "{lie}: {found:?}");
            drop(Index::rebuild(ledger.path(), Some(ledger.index())).expect("open"));
        }
    }
}
