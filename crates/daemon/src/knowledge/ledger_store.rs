//! The ledger as the loop sees it: hand a payload over and go on; one thread writes, syncs and tells what is durable.

use super::layout::Layout;
use super::ledger_queue::{Item, Queue};
use super::ledger_read::VerifyDirError;
use super::ledger_recovery::{Found, Recovery, scan};
use super::ledger_writer::{Disk, RETRY_FIRST, RETRY_MAX, RealDisk, Writer, say_damaged};
use super::trail::Trail;
pub use hale_core::record::Class;
use hale_ledger::EncodeError;
use hale_ledger::record::check_payload;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Bounds of the store. The defaults are named constants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// A segment is sealed when it is at least this long. Default [`SEGMENT_BYTES`].
    pub segment_bytes: u64,
    /// The open segment is allocated ahead in steps of this. Default [`RESERVE_STEP_BYTES`].
    pub reserve_step_bytes: u64,
    /// Size of the file that is given up when the disk is full; 0 for none. Default [`BALLAST_BYTES`].
    pub ballast_bytes: u64,
    /// Evidence is dropped when more than this would wait. Default [`EVIDENCE_QUEUE_BYTES`].
    pub evidence_queue_bytes: usize,
    /// State records are dropped when more than this would wait. Default [`STATE_QUEUE_BYTES`].
    pub state_queue_bytes: usize,
    /// Durable records are refused when more than this would wait. Default [`DURABLE_QUEUE_BYTES`].
    pub durable_queue_bytes: usize,
}

/// 64 MiB: verified in a tenth of a second, about what a start has to read, and few enough files for years.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// 1 MiB: some thousand records between two changes of the file's size, and little to lose on a small disk.
pub const RESERVE_STEP_BYTES: u64 = 1024 * 1024;
/// 16 MiB: tens of thousands of records, enough for the story of how the disk became full.
pub const BALLAST_BYTES: u64 = 16 * 1024 * 1024;
/// 1 MiB: the output tails of some dozens of incidents at once; a disk that is only slow catches up with that.
pub const EVIDENCE_QUEUE_BYTES: usize = 1024 * 1024;
/// 4 MiB: some ten thousand records, half an hour of a host in trouble without a disk.
pub const STATE_QUEUE_BYTES: usize = 4 * 1024 * 1024;
/// 6 MiB: durable records are budgeted by the day, so 2 MiB above all others are never used up by them.
pub const DURABLE_QUEUE_BYTES: usize = 6 * 1024 * 1024;

impl Default for Limits {
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES,
            reserve_step_bytes: RESERVE_STEP_BYTES,
            ballast_bytes: BALLAST_BYTES,
            evidence_queue_bytes: EVIDENCE_QUEUE_BYTES,
            state_queue_bytes: STATE_QUEUE_BYTES,
            durable_queue_bytes: DURABLE_QUEUE_BYTES,
        }
    }
}

/// What the writer thread tells the loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerEvent {
    /// Every record that was taken with an id up to this one is on the disk.
    Durable {
        /// The id that was given to [`LedgerStore::append`].
        up_to_id: u64,
    },
    /// Nothing gets durable at present; it is tried again, at growing distances.
    Degraded {
        /// What failed, for people.
        error: String,
    },
    /// Records get durable again.
    Recovered,
}

/// How the thread tells: called on the writer thread, so it must only hand over.
pub type Notify = Box<dyn Fn(LedgerEvent) + Send>;

/// Why a payload was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// It cannot be a record.
    #[error(transparent)]
    Payload(#[from] EncodeError),
    /// Too much waits for the disk already, or space is low. It is counted, and a later record says how many.
    #[error("the ledger's disk is full or slow: this {class:?} record is dropped and counted")]
    Dropped {
        /// Its class.
        class: Class,
    },
    /// Too much waits for the disk already, and a durable record is never dropped in silence: do not act on it.
    #[error("the ledger's disk is full or slow: no durable record can be written")]
    Full,
}

/// Why the ledger cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process writes this ledger.
    #[error("ledger {dir} is being written by another process; is Hale running already?", dir = dir.display())]
    Locked {
        /// The ledger's directory.
        dir: PathBuf,
    },
    /// A file or directory cannot be made or read.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// The one writer of a ledger. Dropping it lets the thread finish by itself; [`Self::close`] waits for it.
#[derive(Debug)]
pub struct LedgerStore {
    queue: Arc<Queue>,
    limits: Limits,
}

impl LedgerStore {
    /// Opens the ledger in `dir`, which is made if it is missing, and starts its writer. A torn tail is repaired by the
    /// writer, so that a full or read-only disk does not keep Hale from starting.
    ///
    /// # Errors
    /// Another writer holds it, or it cannot be read, or not be made.
    pub fn open(dir: &Path, limits: Limits, notify: Notify) -> Result<(Self, Recovery), OpenError> {
        Self::open_on(dir, limits, notify, Box::new(RealDisk))
    }

    pub(super) fn open_on(
        dir: &Path,
        limits: Limits,
        notify: Notify,
        disk: Box<dyn Disk>,
    ) -> Result<(Self, Recovery), OpenError> {
        let held = Locked::take(dir)?.look()?;
        let recovery = held.recovery();
        let store = Self::start(dir, limits.clone(), move |queue| held.write(limits, disk, queue, &notify))?;
        Ok((store, recovery))
    }

    /// For whoever cannot wait for the disk: the writer's thread opens the ledger, too, however long that takes, and what is
    /// appended meanwhile waits within its bounds. First it tells what the newest segment leaves behind. Before anything
    /// that is appended here it writes those payloads of `backlog`, in the order of their ids, that the ledger does not have.
    ///
    /// What fails is told, and tried again: a directory that cannot be made on a read-only disk, another process that still
    /// writes this ledger.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn open_behind(
        dir: &Path,
        limits: Limits,
        backlog: Vec<Vec<u8>>,
        notify: Notify,
    ) -> Result<(Self, Receiver<Trail>), OpenError> {
        let (path, writers) = (dir.to_owned(), limits.clone());
        let (tell, told) = channel();
        let store = Self::start(dir, limits, move |queue| {
            let mut locked = Locked::take(&path);
            let mut trail = Trail::read(&path);
            // Nobody may wait for it any more.
            let _ = tell.send(trail.clone());
            let (mut delay, mut has_failed, mut goes_on) = (RETRY_FIRST, false, true);
            let held = loop {
                match locked.and_then(Locked::look) {
                    Ok(held) => break held,
                    Err(error) if !has_failed => notify(LedgerEvent::Degraded { error: error.to_string() }),
                    Err(_) => {}
                }
                if !goes_on {
                    return;
                }
                has_failed = true;
                // Told to end, it tries once more: what waits is written if that is possible by now.
                goes_on = queue.pause(delay);
                delay = (delay * 2).min(RETRY_MAX);
                locked = Locked::take(&path);
            };
            if has_failed {
                // Whoever had it may have written some of that.
                trail = Trail::read(&path);
                notify(LedgerEvent::Recovered);
            }
            queue.put_first(trail.unknown(backlog));
            held.write(writers, Box::new(RealDisk), queue, &notify);
        })?;
        Ok((store, told))
    }

    fn start(dir: &Path, limits: Limits, run: impl FnOnce(&Queue) + Send + 'static) -> Result<Self, OpenError> {
        let queue = Arc::new(Queue::default());
        let finish = Finish(Arc::clone(&queue));
        std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || run(&finish.0))
            .map_err(failed("start the writer of", dir))?;
        Ok(Self { queue, limits })
    }

    /// Hands a payload to the writer. Never waits for the disk. What waits is bounded by class: evidence goes first, then
    /// state, both counted; a durable record is refused only beyond [`Limits::durable_queue_bytes`]. `id` comes back in [`LedgerEvent::Durable`]; ids must
    /// not go down.
    ///
    /// # Errors
    /// It is not a payload, or there is no room for it: counted, unless it is durable.
    pub fn append(&self, payload: Vec<u8>, class: Class, id: u64) -> Result<(), AppendError> {
        let taken = self.put(payload, class, id);
        self.wake();
        taken
    }

    /// The same, but the writer hears of it by [`Self::wake`] only: what is put before one is written and synced together.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn put(&self, payload: Vec<u8>, class: Class, id: u64) -> Result<(), AppendError> {
        if let Err(error) = check_payload(&payload) {
            self.queue.count_dropped(class);
            return Err(error.into());
        }
        self.queue.push(Item { payload, id: Some(id) }, class, &self.limits)
    }

    /// Has the writer write what was put.
    pub fn wake(&self) {
        self.queue.wake();
    }

    /// Writes what waits, cuts the reserved space off the open segment, and ends the writer. `false` if that did not
    /// happen within the time: the disk hangs or is full, and what waited is lost with this process.
    #[must_use]
    pub fn close(self, within: Duration) -> bool {
        self.queue.close();
        self.queue.wait_finished(within)
    }
}

/// A ledger that nobody else can write now, as it was found.
struct Held {
    layout: Layout,
    found: Found,
    lock: File,
}

/// A ledger that nobody else can write now, and that nobody has looked at yet.
struct Locked {
    layout: Layout,
    lock: File,
}

impl Locked {
    fn take(dir: &Path) -> Result<Self, OpenError> {
        let layout = Layout::new(dir);
        if let Err(source) = layout.make()
            && !layout.seg_dir().is_dir()
        {
            return Err(failed("make", dir)(source));
        }
        let lock = File::open(dir).map_err(failed("open", dir))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            if error == rustix::io::Errno::WOULDBLOCK {
                OpenError::Locked { dir: dir.to_owned() }
            } else {
                failed("lock", dir)(error.into())
            }
        })?;
        Ok(Self { layout, lock })
    }

    fn look(self) -> Result<Held, OpenError> {
        let Self { layout, lock } = self;
        let found = scan(&layout).map_err(|error| match error {
            VerifyDirError::Read { path, source } => OpenError::Io { what: "read", path, source },
            VerifyDirError::Damage { dir, damage } => {
                OpenError::Io { what: "read", path: dir, source: io::Error::other(damage) }
            }
        })?;
        Ok(Held { layout, found, lock })
    }
}

impl Held {
    fn recovery(&self) -> Recovery {
        Recovery {
            next_seq: self.found.position.chain().next_seq(),
            head: self.found.position.chain().head(),
            torn_bytes: self.found.torn_bytes,
            damage: self.found.damage.clone(),
        }
    }

    /// Writes until the store closes.
    fn write(self, limits: Limits, disk: Box<dyn Disk>, queue: &Queue, notify: &Notify) {
        let Found { position, torn_bytes, damage } = self.found;
        if let Some(damage) = &damage {
            queue.push_first(say_damaged(damage));
        }
        Writer::new(self.layout, limits, disk, position, torn_bytes, self.lock).run(queue, notify);
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { what, path, source }
}

/// Says that the thread has ended, however it ends. The thread's closure owns it, so it goes after the writer, which holds
/// the lock.
struct Finish(Arc<Queue>);

impl Drop for Finish {
    fn drop(&mut self) {
        self.0.finish();
    }
}

impl Drop for LedgerStore {
    fn drop(&mut self) {
        self.queue.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knowledge::{read_all, tmpfs, verify_dir};
    use hale_ledger::Hash;
    use std::fs;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::fs::{FileExt, PermissionsExt};
    use std::process::{Command, Stdio};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::{self, Receiver};
    use tempfile::TempDir;

    /// A safety net against a hang; nothing depends on it.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn small() -> Limits {
        Limits { segment_bytes: 4096, reserve_step_bytes: 8192, ballast_bytes: 65536, ..Limits::default() }
    }

    struct Opened {
        store: LedgerStore,
        recovery: Recovery,
        events: Receiver<LedgerEvent>,
    }

    fn open_on(dir: &Path, limits: Limits, disk: Box<dyn Disk>) -> Opened {
        let (tell, events) = mpsc::channel();
        let notify = Box::new(move |event| drop(tell.send(event)));
        let (store, recovery) = LedgerStore::open_on(dir, limits, notify, disk).expect("open");
        Opened { store, recovery, events }
    }

    fn open(dir: &Path, limits: Limits) -> Opened {
        open_on(dir, limits, Box::new(RealDisk))
    }

    fn payload(id: u64) -> Vec<u8> {
        format!(r#"{{"kind":"test","n":{id}}}"#).into_bytes()
    }

    impl Opened {
        fn append(&self, id: u64) {
            self.store.append(payload(id), Class::Durable, id).expect("room");
        }

        fn event(&self) -> LedgerEvent {
            self.events.recv_timeout(PATIENCE).expect("an event")
        }

        fn durable(&self, id: u64) {
            loop {
                if let LedgerEvent::Durable { up_to_id } = self.event()
                    && up_to_id >= id
                {
                    return;
                }
            }
        }

        fn close(self) {
            assert!(self.store.close(PATIENCE));
        }
    }

    fn temp() -> TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    fn payloads(dir: &Path) -> Vec<String> {
        let text = |entry: crate::knowledge::Entry| String::from_utf8(entry.payload).expect("UTF-8");
        read_all(dir).map(|entry| text(entry.expect("a record"))).collect()
    }

    fn numbers(dir: &Path) -> Vec<u64> {
        let number = |payload: String| -> Option<u64> {
            serde_json::from_str::<serde_json::Value>(&payload).expect("JSON").get("n")?.as_u64()
        };
        payloads(dir).into_iter().filter_map(number).collect()
    }

    #[test]
    fn records_become_durable_and_the_ledger_goes_on() {
        let dir = temp();
        let first = open(dir.path(), Limits::default());
        assert_eq!((first.recovery.next_seq, first.recovery.head), (0, Hash::ZERO));
        (1..=3).for_each(|id| first.append(id));
        first.durable(3);
        // Readable and verifiable while it is open, reserved space and all.
        let while_open = verify_dir(dir.path()).expect("good");
        assert_eq!((while_open.records, while_open.torn_bytes), (3, 0));
        let segment = dir.path().join("seg/00000000.jsonl");
        assert_eq!(fs::metadata(&segment).expect("there").len(), RESERVE_STEP_BYTES);
        assert_eq!(fs::metadata(&segment).expect("there").permissions().mode() & 0o777, 0o640);
        first.close();
        assert_eq!(fs::metadata(&segment).expect("there").len(), while_open.bytes);
        let second = open(dir.path(), Limits::default());
        assert_eq!((second.recovery.next_seq, second.recovery.head), (3, while_open.head));
        second.append(4);
        second.durable(4);
        assert_eq!(numbers(dir.path()), [1, 2, 3, 4]);
    }

    #[test]
    fn segments_are_sealed_and_all_of_them_verify() {
        let dir = temp();
        let opened = open(dir.path(), small());
        for id in 1..=200 {
            opened.append(id);
            opened.durable(id);
        }
        opened.close();
        let summary = verify_dir(dir.path()).expect("good");
        assert_eq!(summary.records, 200);
        assert!(summary.sealed >= 5, "{summary:?}");
        assert_eq!(numbers(dir.path()), (1..=200).collect::<Vec<_>>());
        let again = open(dir.path(), small());
        assert_eq!((again.recovery.next_seq, again.recovery.damage), (200, None));
    }

    #[test]
    fn a_second_writer_is_refused() {
        let dir = temp();
        let first = open(dir.path(), small());
        let second = LedgerStore::open(dir.path(), small(), Box::new(drop));
        assert!(matches!(second, Err(OpenError::Locked { .. })));
        first.close();
        open(dir.path(), small()).close();
    }

    #[test]
    fn a_torn_tail_is_put_away_and_told() {
        let dir = temp();
        let first = open(dir.path(), small());
        first.append(1);
        first.durable(1);
        first.close();
        let segment = dir.path().join("seg/00000000.jsonl");
        let good = fs::metadata(&segment).expect("there").len();
        let whole = {
            let mut chain = hale_ledger::Chain::default();
            let line = fs::read(&segment).expect("read");
            chain.check(line.trim_ascii_end()).expect("record 0");
            let mut next = Vec::new();
            let long = format!(r#"{{"kind":"test","n":2,"tail":"{}"}}"#, "x".repeat(2000));
            chain.append(long.as_bytes(), &mut next).expect("a payload");
            next
        };
        let file = fs::OpenOptions::new().write(true).open(&segment).expect("open");
        for cut in [1, whole.len() / 2, whole.len()] {
            file.set_len(good).expect("cut");
            file.write_all_at(&whole[..cut], good).expect("write");
            file.set_len(good + 5000).expect("reserve");
            assert_eq!(verify_dir(dir.path()).expect("not altered").torn_bytes, cut as u64);
            let scratch = temp();
            assert!(
                Command::new("cp")
                    .arg("-a")
                    .arg(dir.path().join("."))
                    .arg(scratch.path())
                    .status()
                    .expect("cp")
                    .success()
            );
            let second = open(scratch.path(), small());
            assert_eq!((second.recovery.next_seq, second.recovery.torn_bytes), (1, cut as u64));
            second.append(3);
            second.durable(3);
            assert_eq!(verify_dir(scratch.path()).expect("good").torn_bytes, 0);
            second.close();
            let torn = fs::read(scratch.path().join(format!("quarantine/00000000.jsonl.{good}"))).expect("put away");
            assert_eq!(torn, &whole[..cut]);
            let told = &payloads(scratch.path())[1];
            assert!(told.contains("ledger_recovered") && told.contains(&Hash::of(&torn).to_string()), "{told}");
            assert_eq!(numbers(scratch.path()), [1, 3]);
        }
    }

    #[test]
    fn an_altered_ledger_stays_altered_and_goes_on() {
        let dir = temp();
        let first = open(dir.path(), Limits::default());
        (1..=5).for_each(|id| first.append(id));
        first.durable(5);
        first.close();
        let segment = dir.path().join("seg/00000000.jsonl");
        let before = fs::read_to_string(&segment).expect("read").replace("\"n\":3", "\"n\":7");
        fs::write(&segment, &before).expect("alter");
        for start in 1..=2 {
            let second = open(dir.path(), Limits::default());
            let damage = second.recovery.damage.clone().expect("seen");
            assert!(start == 2 || damage.seq == 2, "{damage}");
            second.append(10 + start);
            second.durable(10 + start);
            second.close();
            assert!(verify_dir(dir.path()).expect_err("altered").to_string().contains("record 2,"));
        }
        assert_eq!(fs::read_to_string(&segment).expect("read"), before);
        assert_eq!(numbers(dir.path()), [1, 2, 7, 4, 5, 11, 12]);
        assert_eq!(payloads(dir.path()).iter().filter(|payload| payload.contains("ledger_damaged")).count(), 2);
    }

    /// Fails as often as it is told to, and syncs only while the gate is open.
    #[derive(Clone, Default)]
    struct BadDisk {
        failing_syncs: Arc<AtomicU32>,
        failing_writes: Arc<AtomicU32>,
        syncs: Arc<AtomicU32>,
        gate: Arc<Mutex<()>>,
    }

    fn one_less(counter: &AtomicU32) -> bool {
        counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
    }

    impl Disk for BadDisk {
        fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
            if one_less(&self.failing_writes) {
                // As seen on ext4: the first part gets there, then there is no space.
                file.write_at(&bytes[..bytes.len() / 2], offset)?;
                return Err(io::ErrorKind::StorageFull.into());
            }
            file.write_at(bytes, offset)
        }

        fn sync(&self, file: &File) -> io::Result<()> {
            self.syncs.fetch_add(1, Ordering::SeqCst);
            let _open = self.gate.lock().expect("no test panics with it");
            if one_less(&self.failing_syncs) { Err(io::Error::other("injected EIO")) } else { file.sync_data() }
        }
    }

    #[test]
    fn after_a_failed_sync_the_records_go_to_a_new_segment() {
        for synced_before in [0, 2] {
            let (dir, disk) = (temp(), BadDisk::default());
            let opened = open_on(dir.path(), Limits::default(), Box::new(disk.clone()));
            for id in 1..=synced_before {
                opened.append(id);
                opened.durable(id);
            }
            let old = fs::metadata(dir.path().join("seg/00000000.jsonl")).ok();
            disk.failing_syncs.store(2, Ordering::SeqCst);
            opened.append(9);
            assert!(matches!(opened.event(), LedgerEvent::Degraded { error } if error.contains("injected EIO")));
            assert_eq!(opened.event(), LedgerEvent::Recovered);
            opened.durable(9);
            opened.append(10);
            opened.durable(10);
            opened.close();
            let expected: Vec<_> = (1..=synced_before).chain([9, 10]).collect();
            assert_eq!(numbers(dir.path()), expected);
            let summary = verify_dir(dir.path()).expect("good");
            assert_eq!(summary.sealed, u64::from(synced_before > 0), "the second segment held nothing that was synced");
            assert!(old.is_some() == (synced_before > 0));
        }
    }

    #[test]
    fn a_short_write_leaves_no_half_line() {
        let (dir, disk) = (temp(), BadDisk::default());
        let opened = open_on(dir.path(), small(), Box::new(disk.clone()));
        opened.append(1);
        opened.durable(1);
        let ballast = dir.path().join("ballast");
        assert!(ballast.exists());
        disk.failing_writes.store(3, Ordering::SeqCst);
        opened.append(2);
        assert!(matches!(opened.event(), LedgerEvent::Degraded { .. }), "the ballast did not help");
        assert_eq!(verify_dir(dir.path()).expect("good").torn_bytes, 0);
        opened.durable(2);
        opened.append(3);
        opened.durable(3);
        opened.close();
        assert!(ballast.exists(), "there is space, so there is a reserve again");
        assert_eq!(numbers(dir.path()), [1, 2, 3]);
        assert!(payloads(dir.path())[2].contains("ledger_disk_full"));
        verify_dir(dir.path()).expect("good");
    }

    #[test]
    fn what_waits_during_a_sync_shares_the_next_one() {
        let (dir, disk) = (temp(), BadDisk::default());
        let opened = open_on(dir.path(), Limits::default(), Box::new(disk.clone()));
        let closed = disk.gate.lock().expect("fresh");
        (0..=500).for_each(|id| opened.append(id));
        drop(closed);
        opened.durable(500);
        assert!(disk.syncs.load(Ordering::SeqCst) <= 2, "{:?}", disk.syncs);
        assert_eq!(numbers(dir.path()).len(), 501);
    }

    #[test]
    fn what_is_dropped_is_counted_in_a_record() {
        let (dir, disk) = (temp(), BadDisk::default());
        let limits = Limits { evidence_queue_bytes: 1000, ballast_bytes: 0, ..Limits::default() };
        let opened = open_on(dir.path(), limits, Box::new(disk.clone()));
        let closed = disk.gate.lock().expect("fresh");
        let dropped = (1..=50).filter(|id| opened.store.append(payload(*id), Class::Evidence, *id).is_err()).count();
        drop(closed);
        opened.append(51);
        opened.durable(51);
        opened.append(52);
        opened.durable(52);
        opened.close();
        let counted = payloads(dir.path()).into_iter().filter(|payload| payload.contains("ledger_dropped"));
        let counted: u64 = counted
            .filter_map(|payload| {
                serde_json::from_str::<serde_json::Value>(&payload).expect("JSON")["evidence"].as_u64()
            })
            .sum();
        assert!(dropped > 0);
        assert_eq!(counted, dropped as u64);
    }

    /// Where the child of the next test finds its ledger.
    const CHILD_DIR: &str = "HALE_TEST_LEDGER_DIR";

    /// Not a test but the process that the next test kills: appends for ever, and says on its output what is durable.
    #[test]
    fn child_that_writes_until_it_is_killed() {
        let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
        let opened = open(Path::new(&dir), small());
        let mut out = io::stdout();
        for id in opened.recovery.next_seq.. {
            opened.append(id);
            while let Ok(event) = if id % 8 == 0 {
                opened.events.recv().map_err(|_| ())
            } else {
                opened.events.try_recv().map_err(|_| ())
            } {
                if let LedgerEvent::Durable { up_to_id } = event {
                    writeln!(out, "\ndurable {up_to_id}").expect("the parent reads");
                    if id % 8 == 0 {
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_durable_is_lost_when_the_writer_is_killed() {
        let dir = temp();
        let mut lines_before_kill = 3;
        for round in 0..12 {
            let mut child = Command::new(std::env::current_exe().expect("this program"))
                .args([
                    "--exact",
                    "knowledge::ledger_store::tests::child_that_writes_until_it_is_killed",
                    "--nocapture",
                ])
                .env(CHILD_DIR, dir.path())
                .stdout(Stdio::piped())
                .spawn()
                .expect("a child");
            let output = BufReader::new(child.stdout.take().expect("piped"));
            let durable = |line: String| line.strip_prefix("durable ").and_then(|id| id.parse::<u64>().ok());
            let mut told = output.lines().map_while(Result::ok).filter_map(durable);
            // A different number each round; where in its work the child is then, is chance.
            lines_before_kill = lines_before_kill * 7 % 61;
            let first = told.by_ref().nth(lines_before_kill).expect("it writes");
            child.kill().expect("kill");
            child.wait().expect("reap");
            let last = told.last().unwrap_or(first).max(first);
            let summary = verify_dir(dir.path()).expect("never altered");
            let found = numbers(dir.path());
            assert!(found.contains(&last), "round {round}: {last} was durable, {summary:?}");
            assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "round {round}");
        }
        open(dir.path(), small()).close();
        assert!(verify_dir(dir.path()).expect("good").sealed > 0);
    }

    /// A payload as the loop makes it.
    fn record(id: u64) -> Vec<u8> {
        format!(r#"{{"id":{id},"kind":"test","n":{id}}}"#).into_bytes()
    }

    #[test]
    fn what_is_no_payload_is_counted_and_holds_nothing_up() {
        let dir = temp();
        let long = |id: u64| format!(r#"{{"id":{id},"kind":"output","text":"{}"}}"#, "x".repeat(70_000)).into_bytes();
        let backlog = vec![long(1), record(2)];
        let notify = Box::new(|_| ());
        let (store, _trail) = LedgerStore::open_behind(dir.path(), small(), backlog, notify).expect("a thread");
        assert!(matches!(store.append(long(3), Class::Evidence, 3), Err(AppendError::Payload(_))));
        store.append(record(4), Class::State, 4).expect("room");
        assert!(store.close(PATIENCE));
        assert_eq!(numbers(dir.path()), [2, 4]);
        assert!(payloads(dir.path()).concat().contains(r#""evidence":1"#));
    }

    #[test]
    fn what_waited_for_a_ledger_that_could_not_be_read_is_written_behind_the_backlog() {
        let dir = temp();
        let first = open(dir.path(), small());
        (1..=3).for_each(|id| first.store.append(record(id), Class::State, id).expect("room"));
        first.durable(3);
        // Stands where the next segment would: nothing can be read for sure.
        let odd = dir.path().join("seg/00000001.jsonl");
        fs::create_dir(&odd).expect("no segment");
        let (tell, events) = mpsc::channel();
        let notify = Box::new(move |event| drop(tell.send(event)));
        let backlog = (2..=5).map(record).collect();
        let (store, trail) = LedgerStore::open_behind(dir.path(), small(), backlog, notify).expect("a thread");
        assert_eq!(trail.recv_timeout(PATIENCE).expect("told").next.0, 4);
        store.append(record(6), Class::Durable, 6).expect("room");
        let event = || events.recv_timeout(PATIENCE).expect("an event");
        let LedgerEvent::Degraded { error } = event() else { panic!("the first one writes it") };
        assert!(error.contains("being written by another process"), "{error}");
        fs::remove_dir(&odd).expect("nothing in it");
        // One that the journal has, too.
        first.store.append(record(4), Class::State, 4).expect("room");
        first.close();
        assert_eq!(event(), LedgerEvent::Recovered);
        while event() != (LedgerEvent::Durable { up_to_id: 6 }) {}
        assert!(store.close(PATIENCE));
        assert_eq!(numbers(dir.path()), [1, 2, 3, 4, 5, 6]);
        verify_dir(dir.path()).expect("good");
    }

    /// These mount a file system.
    mod needs_root {
        use super::*;

        #[test]
        fn a_full_disk_loses_nothing_durable() {
            let test = "knowledge::ledger_store::tests::needs_root::a_full_disk_loses_nothing_durable";
            let Some(mount) = tmpfs::or_rerun_in_one(test, "1m") else { return };
            let (dir, filler) = (mount.join("ledger"), mount.join("filler"));
            let opened = open(&dir, Limits { segment_bytes: 65536, ..small() });
            opened.append(1);
            opened.durable(1);
            tmpfs::fill(&filler);
            let mut id = 1;
            let error = loop {
                id += 1;
                opened.append(id);
                match opened.event() {
                    LedgerEvent::Degraded { error } => break error,
                    LedgerEvent::Durable { .. } => {}
                    LedgerEvent::Recovered => panic!("it was never degraded"),
                }
            };
            assert!(!dir.join("ballast").exists(), "the reserve was used: {error}");
            assert!(id > 100, "the reserve of 64 KiB held only {id} records");
            assert!(opened.store.append(payload(0), Class::Evidence, 0).is_err(), "evidence is refused now");
            assert_eq!(verify_dir(&dir).expect("good").torn_bytes, 0);
            (id + 1..=id + 50).for_each(|id| opened.append(id));
            fs::remove_file(&filler).expect("make room");
            assert_eq!(opened.event(), LedgerEvent::Recovered);
            opened.durable(id + 50);
            opened.append(id + 51);
            opened.durable(id + 51);
            opened.close();
            assert!(dir.join("ballast").exists());
            assert_eq!(numbers(&dir), (1..=id + 51).collect::<Vec<_>>());
            let text = payloads(&dir).concat();
            assert!(text.contains("ledger_disk_full") && text.contains(r#""evidence":1"#));
            verify_dir(&dir).expect("good");
        }

        #[test]
        fn a_read_only_disk_is_waited_for() {
            let test = "knowledge::ledger_store::tests::needs_root::a_read_only_disk_is_waited_for";
            let Some(mount) = tmpfs::or_rerun_in_one(test, "4m") else { return };
            let dir = mount.join("ledger");
            let first = open(&dir, small());
            first.append(1);
            first.durable(1);
            first.close();
            let remount = |how: &str| {
                let options = format!("remount,{how}");
                assert!(Command::new("mount").args(["-o", &options]).arg(&mount).status().expect("mount").success());
            };
            remount("ro");
            let second = open(&dir, small());
            assert_eq!(second.recovery.next_seq, 1);
            second.append(2);
            assert!(matches!(second.event(), LedgerEvent::Degraded { .. }));
            remount("rw");
            assert_eq!(second.event(), LedgerEvent::Recovered);
            second.durable(2);
            assert_eq!(numbers(&dir), [1, 2]);
        }
    }
}
