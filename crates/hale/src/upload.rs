//! Sends a release to the supervisor, which opens no client's path: a directory is packed with the rights of whoever runs this.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::supervisor;
use hale_core::ids::Name;
use hale_core::memory::Size;
use hale_daemon::api::client::{self, ClientError};
use hale_daemon::api::view::generations::Arrived;
use hale_daemon::generations::{StoreError, pack};
use hyper::Method;
use hyper::body::{Body, Bytes, Frame};
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc as threads;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::interval;

/// How much is read and sent at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Pieces that wait for the supervisor: reading the next one goes on beside sending.
const PIECES_WAITING_MAX: usize = 4;

/// How often it is shown how much is sent.
const SHOWN_EVERY: Duration = Duration::from_millis(500);

/// Where a release comes from.
#[derive(Debug)]
pub enum Source {
    /// To be packed.
    Directory(PathBuf),
    /// An archive already.
    File(PathBuf, File),
    /// The same.
    Stdin,
}

impl Source {
    /// What a command line calls `path`.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        if path.as_os_str() == "-" {
            if io::stdin().is_terminal() {
                let message = "standard input is a terminal, and no archive";
                return Err(Failure::new(Exit::Usage, message).help("`tar -C DIR -c . | hale deploy SERVICE -`"));
            }
            return Ok(Self::Stdin);
        }
        let failed = |error| Failure::new(Exit::Failed, format!("cannot read {}", path.display())).because(error);
        let file = File::open(path).map_err(failed)?;
        Ok(match file.metadata().map_err(failed)?.is_dir() {
            true => Self::Directory(path.to_owned()),
            false => Self::File(path.to_owned(), file),
        })
    }

    fn write(self, to: impl Write) -> Result<(), Unread> {
        let (name, mut from): (String, Box<dyn Read>) = match self {
            Self::Directory(path) => return pack(&path, to).map_err(Unread::Directory),
            Self::File(path, file) => (path.display().to_string(), Box::new(file)),
            Self::Stdin => ("standard input".to_owned(), Box::new(io::stdin().lock())),
        };
        let mut to = BufWriter::with_capacity(PIECE_BYTES, to);
        io::copy(&mut from, &mut to).and_then(|_| to.flush()).map_err(|error| Unread::Archive(name, error))
    }
}

/// Why a release could not be read to its end.
enum Unread {
    Directory(StoreError),
    Archive(String, io::Error),
}

impl From<Unread> for Failure {
    fn from(unread: Unread) -> Self {
        match unread {
            // As the supervisor would say it.
            Unread::Directory(error @ (StoreError::Entry { .. } | StoreError::Archive(_))) => {
                Self::new(Exit::Refused, error.to_string())
            }
            Unread::Directory(error) => Self::new(Exit::Failed, error.to_string()),
            Unread::Archive(name, error) => Self::new(Exit::Failed, format!("cannot read {name}")).because(error),
        }
    }
}

/// Sends it, and says what it is called then.
pub fn upload(socket: &Path, service: &Name, source: Source, progress: &mut Progress) -> Result<Arrived, Failure> {
    let (sender, receiver) = mpsc::channel(PIECES_WAITING_MAX);
    let (tell, told) = threads::channel();
    let read = move || {
        if let Err(unread) = source.write(BufWriter::with_capacity(PIECE_BYTES, Pieces(sender.clone()))) {
            let _nobody_waits = tell.send(unread);
            // So that it does not look like the archive's end.
            let _gone = sender.blocking_send(Err(io::ErrorKind::BrokenPipe.into()));
        }
    };
    let started = std::thread::Builder::new().name("upload".to_owned()).spawn(read);
    started.map_err(|error| Failure::new(Exit::Failed, "cannot start a thread").because(error))?;
    let sent = Arc::new(AtomicU64::new(0));
    let body = Upload { receiver, sent: sent.clone() };
    let target = format!("/v1/services/{service}/releases");
    let answer = supervisor::run(async {
        let answer = client::give(socket, Method::POST, &target, body);
        tokio::pin!(answer);
        let mut shown = interval(SHOWN_EVERY);
        loop {
            tokio::select! {
                answer = &mut answer => return answer,
                _ = shown.tick() => progress.now(&format!("{service}: sent {}", Size(sent.load(Relaxed)))),
            }
        }
    })?;
    match (answer, told.try_recv()) {
        (Ok(answer), _) => supervisor::parse(&supervisor::accepted(answer)?),
        (Err(ClientError::Exchange { .. }), Ok(unread)) => Err(unread.into()),
        (Err(error), _) => Err(supervisor::no_answer(&error)),
    }
}

/// The end of the channel that is written to.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        self.0.blocking_send(Ok(piece)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The other end: what is sent.
struct Upload {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    sent: Arc<AtomicU64>,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = self.receiver.poll_recv(context);
        if let Poll::Ready(Some(Ok(piece))) = &piece {
            self.sent.fetch_add(piece.len() as u64, Relaxed);
        }
        piece.map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
