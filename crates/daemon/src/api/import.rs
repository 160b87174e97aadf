//! Uploads: an archive comes in over a socket and becomes a release, a piece at a time, for as long as the client sends.

use super::connections::{Lease, READ_WITHIN};
use super::generations::{known, refused};
use super::openapi::OrderProblems;
use super::problem::{Code, Problem};
use super::server::{Api, ServiceInPath, named, read_only};
use super::stores::StoreProblem;
use super::view::generations::Arrived;
use crate::generations::Arrival;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use hale_core::ids::Name;
use hale_core::policy::StoreKind;
use http_body_util::BodyExt;
use hyper::body::Bytes;
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Imports at once, of different services: each writes to the one disk that all releases are on, and has a thread. More of them
/// make each slower and none faster.
const IMPORTS_MAX: usize = 4;

/// How long a client may send nothing. A whole archive has no bound in time, only in bytes ([`crate::generations::Limits`]); who
/// makes one while it is sent pauses between large files, and 30 s is beyond that.
const PIECE_WITHIN: Duration = Duration::from_secs(30);

/// Pieces that wait for the disk; each is as long as what is read from a connection at once, 8 KiB. Enough that the disk does not
/// wait for the next piece, and little beside what an import needs itself.
const PIECES_WAITING_MAX: usize = 32;

/// The services whose imports are going on.
#[derive(Debug, Clone, Default)]
pub(super) struct Imports(Arc<Mutex<BTreeSet<Name>>>);

/// A place among [`IMPORTS_MAX`], until it is dropped.
struct Place {
    imports: Imports,
    service: Name,
}

impl Imports {
    fn services(&self) -> std::sync::MutexGuard<'_, BTreeSet<Name>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, service: &Name) -> Result<Place, Problem> {
        let mut services = self.services();
        let is_full = services.len() >= IMPORTS_MAX;
        if services.contains(service) {
            return Err(Problem::new(Code::Busy, format!("another release of {service} is being imported; try again")));
        }
        if is_full {
            let detail = format!("{IMPORTS_MAX} releases are being imported already; try again in a moment");
            return Err(Problem::new(Code::Busy, detail));
        }
        services.insert(service.clone());
        Ok(Place { imports: self.clone(), service: service.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.imports.services().remove(&self.service);
    }
}

/// Makes a release of an archive.
///
/// The body is a tar, plain or compressed by gzip or zstd, and is imported while it comes: it may be as long as a release may be.
/// A client that sends nothing for 30 s is given up, and nothing is left of what one sent that goes away.
#[utoipa::path(
    post,
    path = "/v1/services/{service}/releases",
    params(("service" = String, Path, description = "its name", example = "web")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "the archive"),
    responses((status = 200, description = "it is a release", body = Arrived), OrderProblems),
)]
pub(super) async fn import(
    State(api): State<Api>,
    Extension(lease): Extension<Lease>,
    service: ServiceInPath,
    mut body: Body,
) -> Response {
    match taken(&api, &lease, service, &mut body).await {
        Ok(Arrival { id, is_new }) => Json(Arrived { generation: id, is_new }).into_response(),
        Err(problem) => {
            tokio::spawn(linger(body));
            problem.into_response()
        }
    }
}

/// Reads on for a moment: closing the connection while the client still writes would take the answer away from it.
async fn linger(mut body: Body) {
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    let _or_not = timeout(READ_WITHIN, rest).await;
}

async fn taken(api: &Api, lease: &Lease, service: ServiceInPath, body: &mut Body) -> Result<Arrival, Problem> {
    if !api.control {
        return Err(read_only());
    }
    let service = named(service)?;
    match known(api, &service).await?.store {
        Some(StoreKind::Release) => {}
        Some(store @ (StoreKind::NixProfile { .. } | StoreKind::Command { .. })) => {
            let detail = format!(
                "{service} keeps its generations by its store {:?}, which takes no archives; deploy one that is there",
                store.as_str()
            );
            return Err(Problem::new(Code::Refused, detail));
        }
        None => return Err(refused(&service)),
    }
    let place = api.imports.take(&service)?;
    lease.give_back();
    let (sender, receiver) = mpsc::channel(PIECES_WAITING_MAX);
    let (done, result) = oneshot::channel();
    let stores = api.stores.clone();
    let import = move || {
        let mut pieces = Pieces { receiver, rest: Bytes::new(), ended: false };
        let imported = stores.import(&place.service, &mut pieces);
        drop(pieces);
        // Before the answer: who gets it may send the next one.
        drop(place);
        let _gone = done.send(imported);
    };
    let started = std::thread::Builder::new().name(String::from("import")).spawn(import);
    started.map_err(|error| Problem::new(Code::Failed, format!("cannot start a thread for the import: {error}")))?;
    let fed = feed(body, sender, PIECE_WITHIN).await;
    let imported = result.await.map_err(|_| Problem::new(Code::Failed, "the import broke off by an error in Hale"));
    // Of two errors the client's own is why there is the other.
    fed?;
    imported?.map_err(Problem::from)
}

/// One part of an archive, or its end: a channel that is closed without that is a client that has gone.
type Piece = Option<Bytes>;

/// Gives the import what the client sends, until one of them has enough.
async fn feed(body: &mut Body, sender: mpsc::Sender<Piece>, within: Duration) -> Result<(), Problem> {
    loop {
        let frame = tokio::select! {
            frame = timeout(within, body.frame()) => frame.map_err(|_| {
                let detail = format!("nothing came for {} s, so the import was ended; send it again", within.as_secs());
                Problem::new(Code::Failed, detail)
            })?,
            // An import that has ended already says why itself.
            () = sender.closed() => return Ok(()),
        };
        let piece = match frame {
            None => None,
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => Some(bytes),
                // Trailers.
                Err(_) => continue,
            },
            Some(Err(error)) => {
                return Err(Problem::new(Code::BadRequest, format!("the archive did not come whole: {error}")));
            }
        };
        let is_last = piece.is_none();
        if sender.send(piece).await.is_err() || is_last {
            return Ok(());
        }
    }
}

/// The import's end of the channel.
struct Pieces {
    receiver: mpsc::Receiver<Piece>,
    rest: Bytes,
    ended: bool,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Some(piece)) => self.rest = piece,
                Some(None) => self.ended = true,
                None => return Err(io::Error::other("its sender has gone")),
            }
        }
        let length = self.rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}

impl From<StoreProblem> for Problem {
    fn from(problem: StoreProblem) -> Self {
        use super::stores::ProblemKind;
        let code = match problem.kind {
            ProblemKind::Refused | ProblemKind::NoStore => Code::Refused,
            ProblemKind::Busy => Code::Busy,
            ProblemKind::Failed | ProblemKind::Missing => Code::Failed,
        };
        Self::new(code, problem.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::server::testing::{Served, code, report};
    use crate::api::stores::{GenerationStores, NoStores, ProblemKind};
    use crate::api::{client, sockets};
    use crate::generations::{self, Importer, Kept};
    use hale_core::ids::GenerationId;
    use hale_core::reason::Reason;
    use hale_core::safeswitch::Part;
    use hyper::Method;
    use std::fs;
    use std::path::Path;
    use std::sync::mpsc as threads;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    /// The releases of `web`, on a disk; tells how each import ended.
    struct Real {
        importer: Importer,
        ends: threads::Sender<Result<(), StoreProblem>>,
    }

    impl Real {
        fn open(state_dir: &Path) -> (Self, threads::Receiver<Result<(), StoreProblem>>) {
            let web = Name::try_from("web").unwrap();
            let store = generations::open(&StoreKind::Release, state_dir, &web, None).unwrap();
            let (ends, ended) = threads::channel();
            (Self { importer: store.importer().unwrap(), ends }, ended)
        }
    }

    impl GenerationStores for Real {
        fn import(&self, _: &Name, from: &mut dyn Read) -> Result<Arrival, StoreProblem> {
            let imported = self.importer.import(from, &generations::Limits::default()).map_err(StoreProblem::from);
            self.ends.send(imported.clone().map(drop)).unwrap();
            imported
        }

        fn list(&self, service: &Name) -> Result<Vec<Kept>, StoreProblem> {
            NoStores.list(service)
        }

        fn verify(&self, service: &Name, part: Part, generation: &GenerationId) -> Result<(), StoreProblem> {
            NoStores.verify(service, part, generation)
        }
    }

    /// Refuses after the first bytes; what is not for `picky` only when it is told to.
    struct Picky {
        go_on: Mutex<threads::Receiver<()>>,
        begun: threads::Sender<()>,
    }

    impl Picky {
        fn new() -> (Self, threads::Sender<()>, threads::Receiver<()>) {
            let (tell, go_on) = threads::channel();
            let (begun, begins) = threads::channel();
            (Self { go_on: Mutex::new(go_on), begun }, tell, begins)
        }
    }

    impl GenerationStores for Picky {
        fn import(&self, service: &Name, from: &mut dyn Read) -> Result<Arrival, StoreProblem> {
            from.read_exact(&mut [0; 4]).unwrap();
            self.begun.send(()).unwrap();
            if service.as_str() != "picky" {
                let _told = self.go_on.lock().unwrap().recv();
            }
            Err(StoreProblem { kind: ProblemKind::Refused, text: "not to its taste".into() })
        }

        fn list(&self, service: &Name) -> Result<Vec<Kept>, StoreProblem> {
            NoStores.list(service)
        }

        fn verify(&self, service: &Name, part: Part, generation: &GenerationId) -> Result<(), StoreProblem> {
            NoStores.verify(service, part, generation)
        }
    }

    fn serve(stores: impl GenerationStores, services: &[&str]) -> Served {
        let served = Served::with(Arc::new(stores));
        let reports = services.iter().map(|service| report(service, Some(StoreKind::Release)));
        served.scripted.reports.lock().unwrap().extend(reports);
        served
    }

    fn archive() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("bot"), vec![b'x'; 3 << 20]).unwrap();
        let mut archive = Vec::new();
        generations::pack(dir.path(), &mut archive).unwrap();
        archive
    }

    async fn upload(served: &Served, service: &str, archive: Vec<u8>) -> client::Answer {
        let target = format!("/v1/services/{service}/releases");
        let body = http_body_util::Full::from(archive);
        client::give(&sockets::control_path(served.directory()), Method::POST, &target, body).await.unwrap()
    }

    /// A client that says it sends more than it does.
    async fn begin_upload(served: &Served, service: &str, bytes: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(sockets::control_path(served.directory())).await.unwrap();
        let head =
            format!("POST /v1/services/{service}/releases HTTP/1.1\r\nhost: hale\r\ncontent-length: 99999999\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    fn says(answer: &client::Answer, words: &str) -> bool {
        String::from_utf8_lossy(&answer.body).contains(words)
    }

    #[tokio::test]
    async fn an_archive_becomes_a_release_whatever_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let (real, _ended) = Real::open(dir.path());
        let served = serve(real, &["web"]);
        let archive = archive();
        for is_new in [true, false] {
            let answer = upload(&served, "web", archive.clone()).await;
            assert_eq!(answer.status, 200, "{}", answer.body.escape_ascii());
            let arrived: Arrived = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(arrived.is_new, is_new);
            assert!(dir.path().join("releases/web").join(arrived.generation.as_str()).join("bot").exists());
        }
    }

    #[tokio::test]
    async fn nothing_is_left_of_a_client_that_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let (real, ended) = Real::open(dir.path());
        let served = serve(real, &["web"]);
        let archive = archive();
        drop(begin_upload(&served, "web", &archive[..1 << 20]).await);
        let end = tokio::task::spawn_blocking(move || ended.recv().unwrap()).await.unwrap();
        assert!(end.unwrap_err().text.contains("its sender has gone"));
        assert_eq!(fs::read_dir(dir.path().join("releases/web")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn one_at_a_time_of_each_service_and_few_in_all() {
        let services = ["a", "b", "c", "d", "e"];
        let (picky, _tell, begins) = Picky::new();
        let served = serve(picky, &services);
        let mut clients = Vec::new();
        for service in &services[..IMPORTS_MAX] {
            clients.push(begin_upload(&served, service, b"head").await);
        }
        let all = tokio::task::spawn_blocking(move || {
            (0..IMPORTS_MAX).for_each(|_| begins.recv().unwrap());
            begins
        });
        let _begins = all.await.unwrap();
        let again = upload(&served, "a", b"head".to_vec()).await;
        assert!(code(&again) == Code::Busy && says(&again, "another release of a"), "{}", again.body.escape_ascii());
        assert_eq!(code(&upload(&served, "e", b"head".to_vec()).await), Code::Busy);
        // Orders have places of their own.
        assert_eq!(served.post("/v1/services/bot/restart").await.status, 200);
    }

    #[tokio::test]
    async fn a_refusal_is_heard_by_a_client_that_still_sends() {
        let (picky, _tell, _begins) = Picky::new();
        let served = serve(picky, &["picky"]);
        let answer = upload(&served, "picky", vec![b'x'; 64 << 20]).await;
        assert!(code(&answer) == Code::Refused && says(&answer, "not to its taste"));
        assert_eq!(code(&upload(&served, "nobody", vec![b'x'; 64 << 20]).await), Code::UnknownService);
        // Also by one that stops amidst it, and by one that writes much before it reads.
        for sent in [4, 8 << 20] {
            let mut stream = begin_upload(&served, "picky", &vec![b'x'; sent]).await;
            let mut heard = [0; 12];
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard.escape_ascii().to_string(), "HTTP/1.1 409");
        }
    }

    #[tokio::test]
    async fn what_takes_no_archives_says_so_at_once() {
        let served = serve(NoStores, &[]);
        let nix = StoreKind::NixProfile { profile: "/p".into() };
        served.scripted.reports.lock().unwrap().extend([report("nix", Some(nix)), report("none", None)]);
        let nix = upload(&served, "nix", archive()).await;
        assert!(code(&nix) == Code::Refused && says(&nix, "nix-profile"), "{}", nix.body.escape_ascii());
        let none: Problem = serde_json::from_slice(&upload(&served, "none", archive()).await.body).unwrap();
        assert_eq!(none.reason, Some(Reason::NoGenerationsConfigured));
        let path = sockets::read_path(served.directory());
        let body = http_body_util::Full::from("x");
        let answer = client::give(&path, Method::POST, "/v1/services/nix/releases", body).await.unwrap();
        assert_eq!(code(&answer), Code::ReadOnly);
    }

    #[tokio::test]
    async fn a_client_that_sends_nothing_is_given_up() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut silent = Body::from_stream(futures_util::stream::pending::<io::Result<Bytes>>());
        let problem = feed(&mut silent, sender, Duration::from_millis(1)).await.unwrap_err();
        assert!(problem.detail.starts_with("nothing came for"), "{}", problem.detail);
        assert_eq!(receiver.recv().await, None, "the import hears of no end, but of a sender that has gone");
    }
}
