//! The routes: few, and a bound on everything that a client could make long.

use super::connections::accept;
use super::generations::{self, Places};
use super::import::{self, Imports};
use super::openapi::{self, OrderAnswers, QuestionProblems};
use super::pausing;
use super::problem::{Code, Problem};
use super::sockets::{SocketError, Sockets};
use super::stores::GenerationStores;
use super::stream::{self, Hub};
use super::{Loop, view};
use axum::extract::rejection::PathRejection;
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Router};
use hale_core::effect::Answer;
use hale_core::event::Question;
use hale_core::ids::Name;
use hale_core::reason::Reason;
use hale_core::record::{Actor, OperatorOrder};
use hale_core::status::StatusReport;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a question may wait for the loop, whose steps take microseconds: after a second something is wrong, and
/// an operator wants to know that rather than wait.
pub(super) const QUESTION_WITHIN: Duration = Duration::from_secs(1);
/// How long an order may wait for its end: a start that takes its usual 30 s, after a stop that takes its usual 10 s,
/// fits. The order goes on without the client.
pub(super) const ORDER_WITHIN: Duration = Duration::from_secs(60);
/// The longest body of an order: a generation's name and some words. What is imported as a stream has no part in this.
const BODY_MAX_BYTES: usize = 4 * 1024;

#[derive(Clone)]
pub(super) struct Api {
    pub(super) the_loop: Arc<dyn Loop>,
    pub(super) stores: Arc<dyn GenerationStores>,
    pub(super) hub: Hub,
    pub(super) imports: Imports,
    pub(super) places: Places,
    /// Whether orders are taken.
    pub(super) control: bool,
}

impl Api {
    /// For the socket that takes no orders.
    fn new(the_loop: Arc<dyn Loop>, stores: Arc<dyn GenerationStores>, hub: Hub) -> Self {
        Self { the_loop, stores, hub, imports: Imports::default(), places: Places::default(), control: false }
    }
}

/// The name of a service in a path, if it is text at all.
pub(super) type ServiceInPath = Result<Path<String>, PathRejection>;

/// Serves both sockets until it is dropped. Needs a tokio runtime with I/O and time.
///
/// # Errors
/// The runtime cannot watch a socket.
pub async fn serve(
    sockets: Sockets,
    the_loop: Arc<dyn Loop>,
    stores: Arc<dyn GenerationStores>,
    hub: Hub,
) -> Result<(), SocketError> {
    let read = UnixListener::from_std(sockets.read).map_err(SocketError::watch)?;
    let control = UnixListener::from_std(sockets.control).map_err(SocketError::watch)?;
    let api = Api::new(the_loop, stores, hub);
    tokio::join!(
        accept(read, router(api.clone()), QUESTION_WITHIN),
        accept(control, router(Api { control: true, ..api }), ORDER_WITHIN),
    );
    Ok(())
}

/// A path, and who answers it.
type Route = (&'static str, fn() -> MethodRouter<Api>);

/// All of them.
pub(super) const ROUTES: [Route; 16] = [
    ("/v1/openapi.json", || get(description)),
    ("/v1/quarantine", || get(generations::quarantine)),
    ("/v1/records", || get(stream::records)),
    ("/v1/reload", || post(reload)),
    ("/v1/services/{service}/deploy", || post(generations::deploy)),
    ("/v1/services/{service}/generations", || get(generations::generations)),
    ("/v1/services/{service}/pause", || post(pause)),
    ("/v1/services/{service}/quarantine/clear", || post(generations::clear)),
    ("/v1/services/{service}/releases", || post(import::import)),
    ("/v1/services/{service}/restart", || post(restart)),
    ("/v1/services/{service}/resume", || post(resume)),
    ("/v1/services/{service}/rollback", || post(generations::rollback)),
    ("/v1/services/{service}/start", || post(start)),
    ("/v1/services/{service}/stop", || post(stop)),
    ("/v1/status", || get(status_of_all)),
    ("/v1/status/{service}", || get(status_of_one)),
];

fn router(api: Api) -> Router {
    let routes = ROUTES.iter().fold(Router::new(), |router, (path, answers)| router.route(path, answers()));
    routes
        .fallback(async || Problem::new(Code::NotFound, "no such path; see /v1/openapi.json for what can be asked"))
        .method_not_allowed_fallback(async || {
            Problem::new(Code::MethodNotAllowed, "questions are asked by GET, orders are given by POST")
        })
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .with_state(api)
}

/// This description.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub(super) async fn description() -> Response {
    Json(openapi::document()).into_response()
}

/// Hale and all services.
#[utoipa::path(
    get,
    path = "/v1/status",
    responses((status = 200, description = "how they are", body = view::Status), QuestionProblems),
)]
pub(super) async fn status_of_all(State(api): State<Api>) -> Response {
    status(&api, None).await
}

/// Hale and one service.
#[utoipa::path(
    get,
    path = "/v1/status/{service}",
    params(("service" = String, Path, description = "its name", example = "web")),
    responses((status = 200, description = "how it is", body = view::Status), QuestionProblems),
)]
pub(super) async fn status_of_one(State(api): State<Api>, service: ServiceInPath) -> Response {
    match named(service) {
        Ok(name) => status(&api, Some(name)).await,
        Err(problem) => problem.into_response(),
    }
}

async fn status(api: &Api, service: Option<Name>) -> Response {
    answer(api, Question::Status { service }, QUESTION_WITHIN).await
}

/// Starts a service, and waits until it is healthy.
#[utoipa::path(
    post,
    path = "/v1/services/{service}/start",
    params(("service" = String, Path, description = "its name", example = "web")),
    responses(OrderAnswers),
)]
pub(super) async fn start(api: State<Api>, actor: Extension<Actor>, service: ServiceInPath) -> Response {
    order(api, actor, service, |service| OperatorOrder::Start { service }).await
}

/// Stops a service, and waits until it has ended.
#[utoipa::path(
    post,
    path = "/v1/services/{service}/stop",
    params(("service" = String, Path, description = "its name", example = "web")),
    responses(OrderAnswers),
)]
pub(super) async fn stop(api: State<Api>, actor: Extension<Actor>, service: ServiceInPath) -> Response {
    order(api, actor, service, |service| OperatorOrder::Stop { service }).await
}

/// Stops a service and starts it again, and waits until it is healthy.
#[utoipa::path(
    post,
    path = "/v1/services/{service}/restart",
    params(("service" = String, Path, description = "its name", example = "web")),
    responses(OrderAnswers),
)]
pub(super) async fn restart(api: State<Api>, actor: Extension<Actor>, service: ServiceInPath) -> Response {
    order(api, actor, service, |service| OperatorOrder::Restart { service }).await
}

/// Only watches a service for a while.
#[utoipa::path(
    post,
    path = "/v1/services/{service}/pause",
    params(
        ("service" = String, Path, description = "its name", example = "web"),
        ("for_ms" = u64, Query, description = "how long", minimum = 1_000, maximum = 2_592_000_000_u64, example = 3_600_000),
    ),
    responses(OrderAnswers),
)]
pub(super) async fn pause(
    api: State<Api>,
    actor: Extension<Actor>,
    service: ServiceInPath,
    query: RawQuery,
) -> Response {
    match pausing::lasts(query.0.as_deref()) {
        Ok(lasts) => order(api, actor, service, |service| OperatorOrder::Pause { service, lasts }).await,
        Err(problem) => problem.into_response(),
    }
}

/// Ends a pause: what failed meanwhile is healed.
#[utoipa::path(
    post,
    path = "/v1/services/{service}/resume",
    params(("service" = String, Path, description = "its name", example = "web")),
    responses(OrderAnswers),
)]
pub(super) async fn resume(api: State<Api>, actor: Extension<Actor>, service: ServiceInPath) -> Response {
    order(api, actor, service, |service| OperatorOrder::Resume { service }).await
}

/// Reads the configuration again, and puts it in force: what it does not change is not touched.
#[utoipa::path(post, path = "/v1/reload", responses(OrderAnswers))]
pub(super) async fn reload(State(api): State<Api>, Extension(actor): Extension<Actor>) -> Response {
    if !api.control {
        return read_only().into_response();
    }
    answered(api.the_loop.reload(actor), ORDER_WITHIN, true).await
}

pub(super) fn read_only() -> Problem {
    Problem::new(Code::ReadOnly, "orders are taken on control.sock only")
}

async fn order(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    service: ServiceInPath,
    order: impl FnOnce(Name) -> OperatorOrder,
) -> Response {
    if !api.control {
        return read_only().into_response();
    }
    match named(service) {
        Ok(name) => answer(&api, Question::Order { actor, order: order(name), waits: true }, ORDER_WITHIN).await,
        Err(problem) => problem.into_response(),
    }
}

pub(super) fn named(service: ServiceInPath) -> Result<Name, Problem> {
    let Path(service) = service.map_err(|_| unknown("(not UTF-8)"))?;
    Name::try_from(service.as_str()).map_err(|_| unknown(&service))
}

/// Asks the loop.
async fn answer(api: &Api, question: Question, within: Duration) -> Response {
    let is_order = matches!(question, Question::Order { .. });
    answered(api.the_loop.ask(question), within, is_order).await
}

/// Waits for what the loop says, and turns it into HTTP.
pub(super) async fn answered(coming: Option<oneshot::Receiver<Answer>>, within: Duration, is_order: bool) -> Response {
    match heard(coming, Some(within), is_order).await {
        Ok(answer) => told(answer),
        Err(problem) => problem.into_response(),
    }
}

/// What the loop says. Without a bound for what may take as long as it takes.
pub(super) async fn heard(
    coming: Option<oneshot::Receiver<Answer>>,
    within: Option<Duration>,
    is_order: bool,
) -> Result<Answer, Problem> {
    let busy = |detail: String| Problem::new(Code::Busy, detail);
    let coming = coming.ok_or_else(|| busy("the supervisor has too much to do to take this; try again".to_owned()))?;
    let answer = match within {
        None => coming.await,
        Some(within) => timeout(within, coming).await.map_err(|_| match within.as_secs() {
            secs if is_order => {
                let detail = format!("ordered, and not finished after {secs} s; it goes on: see `hale status`");
                Problem::new(Code::UnderWay, detail)
            }
            secs => busy(format!("the supervisor did not answer within {secs} s")),
        })?,
    };
    answer.map_err(|_| busy("the supervisor is ending".to_owned()))
}

/// What the loop says as HTTP.
pub(super) fn told(answer: Answer) -> Response {
    match answer {
        Answer::Status(report) => whole(*report),
        Answer::Done { text } => Json(view::Done { text }).into_response(),
        Answer::Failed { text } => Problem::new(Code::Failed, text).into_response(),
        Answer::Refused(refusal) => {
            let detail = format!("refused: {}, because {}", refusal.what, refusal.reason);
            let code = match refusal.reason {
                Reason::InvalidConfiguration { .. } => Code::InvalidConfiguration,
                Reason::ReloadInProgress => Code::Busy,
                _ => Code::Refused,
            };
            Problem::new(code, detail).because(refusal.reason).into_response()
        }
        Answer::RolledBack { text } => Problem::new(Code::RolledBack, text).into_response(),
        Answer::Busy { text } => Problem::new(Code::Busy, text).into_response(),
        // Asked for beside what a store has alone.
        Answer::Generations(_) => unexpected().into_response(),
        Answer::Unknown { service } => unknown(&service).into_response(),
    }
}

pub(super) fn unexpected() -> Problem {
    Problem::new(Code::Failed, "the supervisor answered another question, by an error in Hale")
}

/// About what a service with one check takes in the answer, in bytes.
const SERVICE_BYTES: usize = 512;

fn whole(report: StatusReport) -> Response {
    let mut body = Vec::with_capacity(SERVICE_BYTES * (1 + report.services.len()));
    match view::write_status(report, &mut body) {
        Ok(()) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => Problem::new(Code::Failed, error.to_string()).into_response(),
    }
}

pub(super) fn unknown(service: &str) -> Problem {
    let shown: String = service.chars().take(hale_core::ids::NAME_MAX).collect();
    Problem::new(Code::UnknownService, format!("there is no service {shown:?}; `hale status` lists them"))
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::api::stores::NoStores;
    use crate::api::{client, sockets};
    use hale_core::policy::{Mode, StoreKind};
    use hale_core::record::Refusal;
    use hale_core::status::{GenerationsReport, ServiceStatus, State};
    use hale_core::time::{Monotonic, Now};
    use hyper::Method;
    use std::sync::Mutex;

    /// Answers at once, by the name of the service that is asked about.
    #[derive(Default)]
    pub(crate) struct Scripted {
        pub(crate) asked: Mutex<Vec<Question>>,
        /// What is known of the services' generations.
        pub(crate) reports: Mutex<Vec<GenerationsReport>>,
        unanswered: Mutex<Vec<oneshot::Sender<Answer>>>,
    }

    impl Loop for Scripted {
        fn ask(&self, question: Question) -> Option<oneshot::Receiver<Answer>> {
            let name = match &question {
                Question::Status { service } => service.as_ref().map(Name::to_string).unwrap_or_default(),
                Question::Order { order, .. } => order.service().map(Name::to_string).unwrap_or_default(),
                Question::Generations { service } => service.to_string(),
                Question::Reload { .. } => String::new(),
            };
            let order = matches!(question, Question::Order { .. });
            let asks_for_generations = matches!(question, Question::Generations { .. });
            self.asked.lock().unwrap().push(question);
            let (sender, receiver) = oneshot::channel();
            let reports = self.reports.lock().unwrap();
            let answer = match name.as_str() {
                name if asks_for_generations => match reports.iter().find(|report| report.service.as_str() == name) {
                    Some(report) => Answer::Generations(Box::new(report.clone())),
                    None => Answer::Unknown { service: name.into() },
                },
                "full" => return None,
                "ending" => return Some(receiver),
                "silent" => {
                    self.unanswered.lock().unwrap().push(sender);
                    return Some(receiver);
                }
                "unknown" => Answer::Unknown { service: name },
                "rolled" => Answer::RolledBack { text: "rolled was rolled back".into() },
                "broken" => Answer::Failed { text: "broken did not become healthy".into() },
                "refused" => {
                    Answer::Refused(Refusal { what: "order: stop refused".into(), reason: Reason::ObserveMode })
                }
                _ if order => Answer::Done { text: format!("{name} is healthy") },
                _ => {
                    let (at, mode) = (Now::default(), Mode::Heal);
                    Answer::Status(Box::new(StatusReport {
                        at,
                        mode,
                        ledger_error: None,
                        timer: None,
                        dependencies: Vec::new(),
                        services: reports.iter().map(|report| bare(&report.service)).collect(),
                    }))
                }
            };
            sender.send(answer).unwrap();
            Some(receiver)
        }

        fn reload(&self, actor: Actor) -> Option<oneshot::Receiver<Answer>> {
            let (sender, receiver) = oneshot::channel();
            let error = format!("hale.toml:1:1: not for {}", actor.uid);
            let reason = Reason::InvalidConfiguration { error };
            sender.send(Answer::Refused(Refusal { what: "order: reload".into(), reason })).unwrap();
            Some(receiver)
        }
    }

    #[track_caller]
    pub(crate) fn code(answer: &client::Answer) -> Code {
        let problem: Problem = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem.status, answer.status);
        problem.code
    }

    /// A service of which nothing is known.
    fn bare(name: &Name) -> ServiceStatus {
        ServiceStatus {
            name: name.clone(),
            state: State::Stopped,
            detail: String::new(),
            pid: None,
            since: Monotonic::default(),
            restarts: 0,
            checks: Vec::new(),
            blocked_on: None,
            incident: None,
            status_text: String::new(),
            observed: None,
            paused_until_boot_us: None,
            stored: Vec::new(),
            generation: None,
            grade: None,
            switch: None,
        }
    }

    /// What is known of the generations of a service that has just got a store.
    pub(crate) fn report(service: &str, store: Option<StoreKind>) -> GenerationsReport {
        let (at, service) = (Now::default(), Name::try_from(service).unwrap());
        GenerationsReport { at, service, store, runs: Default::default(), lives: true, known: Default::default() }
    }

    pub(crate) struct Served {
        directory: tempfile::TempDir,
        pub(crate) scripted: Arc<Scripted>,
        hub: Hub,
    }

    impl Served {
        pub(crate) fn start() -> Self {
            Self::with(Arc::new(NoStores))
        }

        pub(crate) fn with(stores: Arc<dyn GenerationStores>) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let (scripted, hub) = (Arc::new(Scripted::default()), Hub::default());
            tokio::spawn(serve(sockets::bind(directory.path()).unwrap(), scripted.clone(), stores, hub.clone()));
            Self { directory, scripted, hub }
        }

        pub(crate) fn directory(&self) -> &std::path::Path {
            self.directory.path()
        }

        pub(crate) fn hub(&self) -> &Hub {
            &self.hub
        }

        pub(crate) async fn get(&self, target: &str) -> client::Answer {
            client::ask(&sockets::read_path(self.directory.path()), Method::GET, target).await.unwrap()
        }

        pub(crate) async fn post(&self, target: &str) -> client::Answer {
            self.give(target, "").await
        }

        pub(crate) async fn give(&self, target: &str, body: &str) -> client::Answer {
            let body = http_body_util::Full::from(body.to_owned());
            client::give(&sockets::control_path(self.directory.path()), Method::POST, target, body).await.unwrap()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Served, code};
    use super::*;
    use crate::api::connections::{CONNECTIONS_MAX, HEAD_MAX_BYTES};
    use crate::api::stores::NoStores;
    use crate::api::{client, problem, sockets};
    use hale_core::reason::Reason;
    use hyper::Method;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    #[tokio::test]
    async fn status_is_answered_on_both_sockets() {
        let served = Served::start();
        for path in [sockets::read_path(served.directory()), sockets::control_path(served.directory())] {
            let answer = client::ask(&path, Method::GET, "/v1/status").await.unwrap();
            assert_eq!(answer.status, 200);
            let status: view::Status = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(status.host.at, "1970-01-01T00:00:00.000Z");
        }
        let bot = Name::try_from("bot").unwrap();
        assert_eq!(served.get("/v1/status/bot").await.status, 200);
        assert_eq!(served.scripted.asked.lock().unwrap().last(), Some(&Question::Status { service: Some(bot) }));
    }

    #[tokio::test]
    async fn each_answer_has_its_problem() {
        let served = Served::start();
        assert_eq!(code(&served.get("/v1/status/unknown").await), Code::UnknownService);
        assert_eq!(code(&served.get("/v1/status/Not%20a%20name").await), Code::UnknownService);
        assert_eq!(code(&served.get("/v2/status").await), Code::NotFound);
        assert_eq!(code(&served.get("/v1/status/full").await), Code::Busy);
        assert_eq!(code(&served.get("/v1/status/ending").await), Code::Busy);
        assert_eq!(code(&served.post("/v1/services/broken/start").await), Code::Failed);
        let refused: Problem = serde_json::from_slice(&served.post("/v1/services/refused/stop").await.body).unwrap();
        assert_eq!((refused.code, refused.reason), (Code::Refused, Some(Reason::ObserveMode)));
        assert_eq!(code(&served.get("/v1/services/bot/start").await), Code::MethodNotAllowed);
        assert_eq!(code(&served.post("/v1/services/%FF/start").await), Code::UnknownService);
    }

    #[tokio::test]
    async fn orders_carry_the_peer_that_the_kernel_names() {
        let served = Served::start();
        let answer = served.post("/v1/services/bot/restart").await;
        assert_eq!(answer.status, 200);
        assert_eq!(serde_json::from_slice::<view::Done>(&answer.body).unwrap().text, "bot is healthy");
        let asked = served.scripted.asked.lock().unwrap();
        let Some(Question::Order { actor, order, waits: true }) = asked.last() else {
            panic!("no order arrived: {asked:?}")
        };
        assert_eq!(*order, OperatorOrder::Restart { service: Name::try_from("bot").unwrap() });
        assert_eq!(actor.uid, rustix::process::getuid().as_raw());
        assert_eq!(actor.pid, i32::try_from(std::process::id()).unwrap());
    }

    #[tokio::test]
    async fn a_pause_says_how_long_it_lasts() {
        let served = Served::start();
        assert_eq!(served.post("/v1/services/bot/pause?for_ms=1500").await.status, 200);
        let bot = Name::try_from("bot").unwrap();
        let asked = |order: &OperatorOrder| {
            let asked = served.scripted.asked.lock().unwrap();
            matches!(asked.last(), Some(Question::Order { order: given, .. }) if given == order)
        };
        let lasts = hale_core::time::Span::from_ms(1_500);
        assert!(asked(&OperatorOrder::Pause { service: bot.clone(), lasts }));
        assert_eq!(code(&served.post("/v1/services/bot/pause").await), Code::BadRequest);
        assert_eq!(code(&served.post("/v1/services/bot/pause?for_ms=999").await), Code::BadRequest);
        assert_eq!(served.post("/v1/services/bot/resume").await.status, 200);
        assert!(asked(&OperatorOrder::Resume { service: bot }));
    }

    #[tokio::test]
    async fn the_read_socket_takes_no_orders() {
        let served = Served::start();
        let path = sockets::read_path(served.directory());
        let answer = client::ask(&path, Method::POST, "/v1/services/bot/stop").await.unwrap();
        assert_eq!((answer.status, code(&answer)), (403, Code::ReadOnly));
        assert!(served.scripted.asked.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_loop_that_does_not_answer_is_busy_and_an_order_goes_on() {
        let served = Served::start();
        assert_eq!(code(&served.get("/v1/status/silent").await), Code::Busy);
        // The order's minute is not waited for here: its bound is the argument that is given.
        let (the_loop, hub) = (served.scripted.clone(), Hub::default());
        let api = Api { control: true, ..Api::new(the_loop, Arc::new(NoStores), hub) };
        let actor = Actor { uid: 0, pid: 1, user: None };
        let order = OperatorOrder::Stop { service: Name::try_from("silent").unwrap() };
        let response = answer(&api, Question::Order { actor, order, waits: true }, Duration::from_millis(1)).await;
        assert_eq!(response.status(), 504);
        assert_eq!(response.headers()["content-type"], problem::MEDIA_TYPE);
    }

    #[tokio::test]
    async fn slow_and_greedy_clients_are_dropped() {
        let served = Served::start();
        let path = sockets::read_path(served.directory());
        // As many silent connections as there are places: the next client is served, and the first of them is dropped for it.
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(UnixStream::connect(&path).await.unwrap());
        }
        assert_eq!(served.get("/v1/status").await.status, 200);
        let mut rest = Vec::new();
        silent[0].read_to_end(&mut rest).await.unwrap();

        let mut greedy = UnixStream::connect(&path).await.unwrap();
        greedy.write_all(b"GET /v1/status HTTP/1.1\r\nhost: hale\r\nx: ").await.unwrap();
        let flood = vec![b'x'; HEAD_MAX_BYTES];
        let _cut_off = greedy.write_all(&flood).await;
        let mut answer = Vec::new();
        let _reset = greedy.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"HTTP/1.1 431"), "{}", answer.escape_ascii());
    }

    #[tokio::test]
    async fn clients_are_told_why_there_is_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = sockets::read_path(directory.path());
        let nothing = client::ask(&path, Method::GET, "/v1/status").await.unwrap_err();
        assert!(matches!(nothing, client::ClientError::NoSupervisor(_)), "{nothing}");
        drop(sockets::bind(directory.path()).unwrap());
        let left_behind = client::ask(&path, Method::GET, "/v1/status").await.unwrap_err();
        assert!(left_behind.to_string().starts_with("no supervisor running (looked at /"), "{left_behind}");
    }
}
