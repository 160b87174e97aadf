//! The HTTP side of a demo service: `/health`, `/work`, and one endpoint for each way to break.

use super::memory;
use super::start_failures::{File, TIMES_MAX};
use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{any, get};
use serde_json::json;
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How late a slow service answers: well above the `faster_than` and `timeout` of usual checks.
const SLOW: Duration = Duration::from_secs(2);
/// Time for the answer to leave the process before it stops to run.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// Children that `/break/forks` makes where nobody says how many, and at most: beyond it the machine would suffer too.
const FORKS_DEFAULT: u32 = 99;
const FORKS_MAX: u32 = 10_000;

const HELP: &str = "\
/break/crash          abort: killed by SIGABRT
/break/exit?code=3    exit with this status
/break/hang           stop answering, stay alive
/break/slow           answer after 2 s
/break/wrong          answer 200, but with \"status\": \"broken\"
/break/error          answer 500
/break/start?times=3  exit now, and fail the next starts
/break/silence        stop the heartbeat (worker)
/break/stray          leave a child in a session of its own, then abort
/break/leak?mib=64    take memory and never give it back; rate=N: N MiB a second
/break/hog?mib=64     have a child do that, at once
/break/forks?count=99 make children until there are so many, or until the kernel refuses
";

/// How the service answers; kept until it is started again.
#[derive(Debug, Clone, Default)]
pub struct Mode(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    answers: Mutex<Answers>,
    silent: AtomicBool,
    work_done: AtomicU64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Answers {
    #[default]
    Well,
    Slowly,
    Wrongly,
    WithError,
}

impl Mode {
    /// Whether heartbeats are still sent.
    pub fn beats(&self) -> bool {
        !self.0.silent.load(Relaxed)
    }

    fn answers(&self) -> Answers {
        *self.0.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, answers: Answers) -> &'static str {
        *self.0.answers.lock().unwrap_or_else(PoisonError::into_inner) = answers;
        "broken, until the next start\n"
    }
}

#[derive(Clone)]
struct Service {
    name: &'static str,
    mode: Mode,
    failures: Arc<File>,
}

/// All endpoints of the service `name`. The breakers answer to GET too, so that a browser can break things.
pub fn router(name: &'static str, mode: Mode, failures: File) -> Router {
    let breakers = Router::new()
        .route("/", any(async || HELP))
        .route("/crash", any(async || -> () { process::abort() }))
        .route("/exit", any(exit))
        .route("/hang", any(hang))
        .route("/slow", any(async |State(service): State<Service>| service.mode.set(Answers::Slowly)))
        .route("/wrong", any(async |State(service): State<Service>| service.mode.set(Answers::Wrongly)))
        .route("/error", any(async |State(service): State<Service>| service.mode.set(Answers::WithError)))
        .route("/start", any(fail_starts))
        .route("/silence", any(silence))
        .route("/stray", any(leave_stray))
        .route("/leak", any(leak))
        .route("/hog", any(hog))
        .route("/forks", any(forks));
    let service = Service { name, mode, failures: Arc::new(failures) };
    let work = Router::new()
        .route("/health", get(health))
        .route("/work", get(work))
        .route_layer(middleware::from_fn_with_state(service.clone(), answer_as_told));
    work.nest("/break", breakers).with_state(service)
}

/// Bends the answers of `/health` and `/work`.
async fn answer_as_told(State(service): State<Service>, request: Request, next: Next) -> Response {
    match service.mode.answers() {
        Answers::Well | Answers::Wrongly => next.run(request).await,
        Answers::Slowly => {
            tokio::time::sleep(SLOW).await;
            next.run(request).await
        }
        Answers::WithError => (StatusCode::INTERNAL_SERVER_ERROR, "told to fail\n").into_response(),
    }
}

async fn health(State(service): State<Service>) -> Json<serde_json::Value> {
    let status = if service.mode.answers() == Answers::Wrongly { "broken" } else { "ok" };
    Json(json!({ "status": status, "service": service.name, "pid": process::id() }))
}

async fn work(State(service): State<Service>) -> Json<serde_json::Value> {
    let done = service.mode.0.work_done.fetch_add(1, Relaxed) + 1;
    Json(json!({ "done": done }))
}

#[derive(serde::Deserialize)]
struct Exit {
    code: Option<u8>,
}

async fn exit(Query(Exit { code }): Query<Exit>) {
    process::exit(i32::from(code.unwrap_or(0)));
}

async fn hang() -> &'static str {
    // The runtime has one thread: with that one parked nothing of the process runs any more.
    tokio::spawn(async {
        tokio::time::sleep(LAST_WORDS).await;
        loop {
            std::thread::park();
        }
    });
    "the last answer of this process\n"
}

#[derive(serde::Deserialize)]
struct Start {
    times: Option<u32>,
}

async fn fail_starts(State(service): State<Service>, Query(Start { times }): Query<Start>) -> Response {
    match service.failures.arm(times.unwrap_or(3).min(TIMES_MAX)) {
        Ok(()) => process::exit(1),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("nothing broken: {error}\n")).into_response(),
    }
}

async fn silence(State(service): State<Service>) -> &'static str {
    service.mode.0.silent.store(true, Relaxed);
    "no heartbeat any more, until the next start\n"
}

#[derive(serde::Deserialize)]
struct Leak {
    mib: Option<u32>,
    rate: Option<u32>,
}

async fn leak(Query(Leak { mib, rate }): Query<Leak>) -> String {
    let mib = mib.unwrap_or(memory::MIB_DEFAULT);
    // On a thread of its own: it goes on answering meanwhile.
    std::thread::spawn(move || memory::take(mib, rate));
    format!("takes {mib} MiB\n")
}

async fn hog(Query(Leak { mib, .. }): Query<Leak>) -> Response {
    match child(&["hog", &mib.unwrap_or(memory::MIB_DEFAULT).to_string()]) {
        Ok(pid) => format!("child {pid} takes it\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("nothing broken: {error}\n")).into_response(),
    }
}

#[derive(serde::Deserialize)]
struct Forks {
    count: Option<u32>,
}

/// Answers with how many children were made, and why no more: `tasks_limit` is told by EAGAIN.
async fn forks(Query(Forks { count }): Query<Forks>) -> String {
    let count = count.unwrap_or(FORKS_DEFAULT).min(FORKS_MAX);
    for made in 0..count {
        if let Err(error) = child(&["stray"]) {
            return format!("made {made}, then: {error}\n");
        }
    }
    format!("made {count}\n")
}

/// Starts another of the hidden roles; nobody waits for it.
fn child(words: &[&str]) -> std::io::Result<u32> {
    let hale = std::env::current_exe()?;
    Ok(Command::new(hale).arg("demo-service").args(words).stdin(Stdio::null()).spawn()?.id())
}

async fn leave_stray() -> Response {
    match child(&["stray"]) {
        Ok(stray) => {
            println!("left stray {stray} behind");
            process::abort()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("nothing broken: {error}\n")).into_response(),
    }
}
