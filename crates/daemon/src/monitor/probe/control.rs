//! Control probes: what must work, tried beside a check that fails, so that it can be told whose fault that is.

use super::{Deadline, Network, http, is_no_way, lateness};
use hale_core::analyze::blame::{CONTROLLED_WITHIN, Control, Controls};
use hale_core::event::ProbeFailure;
use hale_core::policy::HttpCheck;
use hale_core::time::Span;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// So much before they are waited for no longer they are over, so that the answer comes in time.
const MARGIN: Span = Span::from_ms(100);

/// The shortest time between two attempts to write: each may cost a disk some milliseconds of everybody's.
const DISK_EVERY: Duration = Duration::from_secs(1);

/// For so long an attempt is told of.
const DISK_TOLD_FOR: Duration = Duration::from_secs(10);

/// The file in `runtime_dir`, which lasts as long as a boot, that says that the own probe has worked.
const WORKED: &str = "probing-worked";

/// The file in `state_dir` that is written.
const FILE: &str = "disk-control";

/// How much: a block, so that the disk has to have room for one.
const BLOCK: [u8; 4_096] = [b'\n'; 4_096];

/// The longest request of the own probe that is read, in bytes.
const REQUEST_BYTES_MAX: usize = 4_096;

/// How many are answered in the life of one server, which is some milliseconds: its own probe is nearly always the only one.
const ANSWERS_MAX: usize = 64;

/// Makes them.
#[derive(Debug)]
pub(super) struct Controller {
    /// The own probe has worked in this boot: where the loopback interface is down from the start, it tells nothing. Supervisors leave
    /// each other a file for that.
    has_worked: AtomicBool,
    worked: PathBuf,
    disk: Arc<Disk>,
}

impl Controller {
    pub(super) fn new(state_dir: &Path, runtime_dir: &Path) -> Self {
        let worked = runtime_dir.join(WORKED);
        let disk = Disk { path: state_dir.join(FILE), is_busy: AtomicBool::new(false), last: Mutex::default() };
        Self { has_worked: AtomicBool::new(worked.exists()), worked, disk: Arc::new(disk) }
    }

    /// Makes them. The disk is not waited for: what is told of it is how the last attempt ended.
    pub(super) async fn control(&self, network: &Network) -> Controls {
        let timeout = Span::from_us(CONTROLLED_WITHIN.as_us() - MARGIN.as_us());
        self.disk.attempt();
        let deadline = Deadline::start(timeout);
        let (probing, late) = lateness::measured(deadline, probe_own(network, deadline)).await;
        // What nobody could see in time is no failure of anything.
        let is_seen = late.as_us() <= timeout.as_us() / 4;
        let probing = probing.filter(|found| is_seen || found.is_ok());
        Controls { probing: probing.and_then(|found| self.counted(found)), disk: self.disk.told() }
    }

    /// What the probe says, if it can say anything here.
    fn counted(&self, probing: Result<Span, String>) -> Option<Control> {
        if probing.is_ok() && !self.has_worked.swap(true, Ordering::Relaxed) {
            // Without it the next supervisor waits for its own first one.
            let _ = std::fs::write(&self.worked, "");
        }
        self.has_worked.load(Ordering::Relaxed).then(|| told(probing))
    }
}

/// Attempts to write, one after the other, each on a thread that may hang with its disk.
#[derive(Debug)]
struct Disk {
    path: PathBuf,
    /// One is under way: none is begun beside it.
    is_busy: AtomicBool,
    /// When the last one that came back began, and how it ended.
    last: Mutex<Option<(Instant, Result<Span, String>)>>,
}

impl Disk {
    /// Begins one, unless one is under way or was begun just now.
    fn attempt(self: &Arc<Self>) {
        let begun = Instant::now();
        let is_fresh = |last: &(Instant, Result<Span, String>)| begun - last.0 < DISK_EVERY;
        if self.last().as_ref().is_some_and(is_fresh) || self.is_busy.swap(true, Ordering::Relaxed) {
            return;
        }
        let disk = self.clone();
        tokio::task::spawn_blocking(move || {
            let written = write(&disk.path).map_err(|error| error.to_string());
            let took = Span::from_us(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
            *disk.last() = Some((begun, written.map(|()| took)));
            disk.is_busy.store(false, Ordering::Relaxed);
        });
    }

    fn told(&self) -> Option<Control> {
        let last = self.last();
        let (_, written) = last.as_ref().filter(|(begun, _)| begun.elapsed() < DISK_TOLD_FOR)?;
        Some(told(written.clone()))
    }

    fn last(&self) -> MutexGuard<'_, Option<(Instant, Result<Span, String>)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn told(result: Result<Span, String>) -> Control {
    match result {
        Ok(took) => Control::Passed { took_us: took.as_us() },
        Err(detail) => Control::Failed { detail },
    }
}

/// An HTTP probe as any other, of a server that is there for as long as it takes. `None`: it could not be made for want of a
/// port, a descriptor or the like, which whatever uses them up may be the reason for.
async fn probe_own(network: &Network, deadline: Deadline) -> Option<Result<Span, String>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let (listener, port) = match listener.and_then(|listener| Ok((listener.local_addr()?.port(), listener))) {
        Ok((port, listener)) => (listener, port),
        Err(error) if is_no_way(&error) => return Some(Err(format!("127.0.0.1: {error}"))),
        Err(_) => return None,
    };
    let check = HttpCheck {
        url: format!("http://127.0.0.1:{port}/"),
        method: String::from("GET"),
        headers: BTreeMap::new(),
        status: vec![200],
        body_contains: None,
        json: BTreeMap::new(),
        faster_than: None,
        ca_file: None,
    };
    let verdict = tokio::select! {
        verdict = http::probe(&check, network, deadline) => verdict.unwrap_or_else(|verdict| verdict),
        _ = serve(listener) => return None,
    };
    match verdict.failure {
        None => Some(Ok(deadline.elapsed())),
        Some(ProbeFailure::Unable) => None,
        Some(_) => Some(Err(verdict.detail)),
    }
}

/// Answers whoever connects; comes back with an error only.
async fn serve(listener: TcpListener) -> io::Error {
    // Strangers may connect, too, and say nothing.
    let mut answers = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) if answers.len() < ANSWERS_MAX => drop(answers.spawn(answer(stream))),
            Ok(_) => {}
            Err(error) => return error,
        }
    }
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut request = [0; REQUEST_BYTES_MAX];
    // Whoever it is sends a request that fits, and all at once.
    let _ = stream.read(&mut request).await?;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await
}

fn write(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(&BLOCK)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn disk_of(controller: &Controller) -> Control {
        loop {
            let controls = controller.control(&Network::default()).await;
            assert!(matches!(controls.probing, Some(Control::Passed { .. })), "{controls:?}");
            if let Some(disk) = controls.disk {
                return disk;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn on_a_host_that_works_all_pass_and_what_cannot_be_written_is_told_in_the_systems_words() {
        let dir = tempfile::tempdir().unwrap();
        let disk = disk_of(&Controller::new(dir.path(), dir.path())).await;
        assert!(matches!(disk, Control::Passed { .. }), "{disk:?}");
        let disk = disk_of(&Controller::new(&dir.path().join("no such folder"), dir.path())).await;
        assert_eq!(disk, Control::Failed { detail: String::from("No such file or directory (os error 2)") });
    }

    #[tokio::test]
    async fn a_disk_that_hangs_is_neither_waited_for_nor_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let controller = Controller::new(dir.path(), dir.path());
        controller.disk.is_busy.store(true, Ordering::Relaxed);
        assert_eq!(controller.control(&Network::default()).await.disk, None);
        assert!(!dir.path().join(FILE).exists());
    }

    #[test]
    fn a_full_disk_is_an_error() {
        assert_eq!(write(Path::new("/dev/full")).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn what_never_worked_in_this_boot_tells_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let failed = || Err(String::from("words"));
        let controller = Controller::new(Path::new("/"), dir.path());
        assert_eq!(controller.counted(failed()), None);
        assert!(matches!(controller.counted(Ok(Span::ZERO)), Some(Control::Passed { .. })));
        assert!(matches!(controller.counted(failed()), Some(Control::Failed { .. })));
        let next = Controller::new(Path::new("/"), dir.path());
        assert!(matches!(next.counted(failed()), Some(Control::Failed { .. })), "of the next supervisor, too");
    }

    #[tokio::test]
    async fn who_connects_and_says_nothing_keeps_nobody_waiting() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let ask = async {
            let _silent = TcpStream::connect(address).await.unwrap();
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            answer
        };
        tokio::select! {
            answer = ask => assert!(answer.starts_with(b"HTTP/1.1 200 OK")),
            error = serve(listener) => panic!("{error}"),
        }
    }
}
