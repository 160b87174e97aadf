//! Connections of clients: who it is, one request and its answer, and a bound on how many there are and how long each may take.

use super::names::user_name;
use axum::{Extension, Router};
use hale_core::record::Actor;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_io_timeout::TimeoutStream;

/// How long a client may take to send its request: local programs need microseconds.
const REQUEST_WITHIN: Duration = Duration::from_secs(2);
/// How long a client may take to read its answer, and the next record of a stream.
pub(super) const READ_WITHIN: Duration = Duration::from_secs(5);
/// Connections at once on each socket, beside [`STREAMS_MAX`](super::stream::STREAMS_MAX) streams and what else may take long. Each costs some 20 KiB while it lasts; an operator and
/// a few dashboards need less. For one more the oldest that has asked nothing yet is dropped, so that thousands of silent ones keep nobody
/// out; while all of them wait for their answers others wait in the kernel's backlog.
pub(super) const CONNECTIONS_MAX: usize = 32;
/// Request line and headers; hyper's least.
pub(super) const HEAD_MAX_BYTES: usize = 8 * 1024;
/// Pause after the operating system had no descriptor left for a connection, so that the loop below does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection's place among [`CONNECTIONS_MAX`], until it has another.
#[derive(Debug, Clone)]
pub(super) struct Lease(Arc<Held>);

#[derive(Debug)]
struct Held {
    place: Mutex<Option<OwnedSemaphorePermit>>,
    /// Whether its request has arrived.
    is_heard: AtomicBool,
    /// Somebody else needs the place.
    dropped: Notify,
}

impl Lease {
    fn new(place: OwnedSemaphorePermit) -> Self {
        Self(Arc::new(Held {
            place: Mutex::new(Some(place)),
            is_heard: AtomicBool::new(false),
            dropped: Notify::new(),
        }))
    }

    fn place(&self) -> std::sync::MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.0.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the place back: the connection goes on as one of those that have bounds of their own (streams, imports, waiting for a
    /// switch), for as long as the client reads.
    pub(super) fn give_back(&self) {
        *self.place() = None;
    }

    /// Waits until a connection that has kept its place has had `time`.
    async fn used_up(&self, time: Duration) {
        sleep(time).await;
        if self.place().is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// Accepts connections for ever, at most [`CONNECTIONS_MAX`] at once beside those that have given their place back.
pub(super) async fn accept(listener: UnixListener, router: Router, answer_within: Duration) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut silent: VecDeque<Weak<Held>> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        silent.retain(|held| held.upgrade().is_some_and(|held| !held.is_heard.load(Relaxed)));
        if places.available_permits() == 0
            && let Some(oldest) = silent.pop_front().and_then(|held| held.upgrade())
        {
            oldest.dropped.notify_one();
        }
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (router, lease) = (router.clone(), Lease::new(place));
        silent.push_back(Arc::downgrade(&lease.0));
        tokio::spawn(async move {
            // A client that is too slow, or breaks the protocol, is dropped: it gets nothing better.
            tokio::select! {
                _ended = exchange(stream, router, lease.clone()) => {}
                () = lease.0.dropped.notified() => {}
                () = lease.used_up(REQUEST_WITHIN + answer_within + READ_WITHIN) => {}
            }
        });
    }
}

/// One request and its answer.
async fn exchange(stream: UnixStream, router: Router, lease: Lease) -> hyper::Result<()> {
    // The kernel noted who connected when it connected; without that there is nobody to give an answer to.
    let Ok(peer) = stream.peer_cred() else { return Ok(()) };
    let actor = Actor { uid: peer.uid(), pid: peer.pid().unwrap_or(0), user: user_name(peer.uid()) };
    // Somebody who does not read is found by a write that does not end.
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(READ_WITHIN));
    let held = lease.0.clone();
    let answers = TowerToHyperService::new(router.layer(Extension(actor)).layer(Extension(lease)));
    let service = service_fn(move |request| {
        held.is_heard.store(true, Relaxed);
        answers.call(request)
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_WITHIN)
        .max_buf_size(HEAD_MAX_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
        .await
}
