//! The HTTP side of a demo service: `/health`, `/work`, and one endpoint for each way to break.

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
        .route("/stray", any(leave_stray));
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

async fn leave_stray() -> Response {
    let spawned = std::env::current_exe()
        .and_then(|hale| Command::new(hale).args(["demo-service", "stray"]).stdin(Stdio::null()).spawn());
    match spawned {
        Ok(stray) => {
            println!("left stray {} behind", stray.id());
            process::abort()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("nothing broken: {error}\n")).into_response(),
    }
}
