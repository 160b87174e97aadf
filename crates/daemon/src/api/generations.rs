//! Generations: which there are, and orders to switch between them. What takes long has a place of its own.

use super::connections::Lease;
use super::openapi::{self, OrderAnswers, OrderProblems, QuestionProblems};
use super::problem::{Code, Problem};
use super::server::{
    Api, ORDER_WITHIN, QUESTION_WITHIN, ServiceInPath, answered, heard, named, read_only, told, unexpected, unknown,
};
use super::stores::{GenerationStores, ProblemKind, StoreProblem};
use super::view::generations::{Generation, Quarantined, ServiceGenerations, quarantined};
use axum::Extension;
use axum::extract::rejection::BytesRejection;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Json, Response};
use hale_core::effect::Answer;
use hale_core::event::Question;
use hale_core::ids::{GenerationId, Name};
use hale_core::reason::Reason;
use hale_core::record::{Actor, OperatorOrder};
use hale_core::safeswitch::Part;
use hale_core::status::GenerationsReport;
use hyper::body::Bytes;
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use utoipa::ToSchema;

/// Clients that wait for the end of a switch, which has no bound in time: operators and their pipelines, one or two for each service
/// that is being switched.
const WAITING_MAX: usize = 64;

/// Lists at once. Each takes a thread for as long as a disk takes to list a directory.
const LISTING_MAX: usize = 4;

/// How long a client waits for such a list: five times what a disk that is busy takes.
const LISTED_WITHIN: Duration = Duration::from_secs(4);

/// Places of what may take longer than a question.
#[derive(Debug, Clone)]
pub(super) struct Places {
    waiting: Arc<Semaphore>,
    listing: Arc<Semaphore>,
    /// One: all of a service's releases are read, as fast as the disk can.
    verifying: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { waiting: places(WAITING_MAX), listing: places(LISTING_MAX), verifying: places(1) }
    }
}

fn place(places: &Arc<Semaphore>, taken: &str) -> Result<OwnedSemaphorePermit, Problem> {
    places.clone().try_acquire_owned().map_err(|_| Problem::new(Code::Busy, format!("{taken}; try again in a moment")))
}

/// What to switch to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Deploy {
    /// Which generation.
    #[schema(schema_with = openapi::generation)]
    generation: GenerationId,
    /// Also if it is quarantined, or cannot read the service's data.
    #[serde(default)]
    force: bool,
    /// Whether the answer comes at the switch's end (default), or once it is ordered.
    #[serde(default = "yes")]
    wait: bool,
}

/// What to switch back to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollback {
    /// Which generation; `null`: the newest one that is known to be good and older than the current one.
    #[serde(default)]
    #[schema(schema_with = openapi::generation_or_null, required = false)]
    to: Option<GenerationId>,
    /// Whether the answer comes at the switch's end (default), or once it is ordered.
    #[serde(default = "yes")]
    wait: bool,
}

/// What failed, and may be tried again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Clear {
    /// Which generation.
    #[schema(schema_with = openapi::generation)]
    generation: GenerationId,
}

fn yes() -> bool {
    true
}

fn parse<'a, T: Deserialize<'a>>(body: &'a Result<Bytes, BytesRejection>) -> Result<T, Problem> {
    let bad =
        |why: String| Problem::new(Code::BadRequest, format!("the body is not what /v1/openapi.json says: {why}"));
    let bytes = body.as_ref().map_err(|rejection| bad(rejection.body_text()))?;
    serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))
}

/// Switches a service to a generation that has to prove itself, and waits for the end of that: committed, or rolled back.
#[utoipa::path(
    post,
    path = "/v1/services/{service}/deploy",
    params(("service" = String, Path, description = "its name", example = "web")),
    request_body = Deploy,
    responses(OrderAnswers),
)]
pub(super) async fn deploy(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Extension(lease): Extension<Lease>,
    service: ServiceInPath,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let asked = || {
        let service = ordered(&api, service)?;
        let Deploy { generation, force, wait } = parse(&body)?;
        Ok((OperatorOrder::Deploy { service, generation, force }, wait))
    };
    match asked() {
        Ok((order, wait)) => switch(&api, &lease, actor, order, wait).await,
        Err(problem) => Problem::into_response(problem),
    }
}

/// Switches a service back to a generation that is known to be good, and waits until that is healthy.
#[utoipa::path(
    post,
    path = "/v1/services/{service}/rollback",
    params(("service" = String, Path, description = "its name", example = "web")),
    request_body = Rollback,
    responses(OrderAnswers),
)]
pub(super) async fn rollback(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Extension(lease): Extension<Lease>,
    service: ServiceInPath,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let asked = || {
        let service = ordered(&api, service)?;
        let Rollback { to, wait } = parse(&body)?;
        Ok((OperatorOrder::Rollback { service, to }, wait))
    };
    match asked() {
        Ok((order, wait)) => switch(&api, &lease, actor, order, wait).await,
        Err(problem) => Problem::into_response(problem),
    }
}

/// Forgets that a generation failed.
#[utoipa::path(
    post,
    path = "/v1/services/{service}/quarantine/clear",
    params(("service" = String, Path, description = "its name", example = "web")),
    request_body = Clear,
    responses(OrderAnswers),
)]
pub(super) async fn clear(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    service: ServiceInPath,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let asked = || {
        let service = ordered(&api, service)?;
        let Clear { generation } = parse(&body)?;
        Ok(OperatorOrder::ClearQuarantine { service, generation })
    };
    match asked() {
        Ok(order) => {
            let question = Question::Order { actor, order, waits: true };
            answered(api.the_loop.ask(question), ORDER_WITHIN, true).await
        }
        Err(problem) => Problem::into_response(problem),
    }
}

fn ordered(api: &Api, service: ServiceInPath) -> Result<Name, Problem> {
    if api.control { named(service) } else { Err(read_only()) }
}

/// Gives the order. A switch may take as long as it takes: who waits for it goes by leaving.
async fn switch(api: &Api, lease: &Lease, actor: Actor, order: OperatorOrder, waits: bool) -> Response {
    let goes_back = matches!(order, OperatorOrder::Rollback { .. });
    let question = Question::Order { actor, order, waits };
    let taken = format!("{WAITING_MAX} clients wait for the end of a switch already");
    let (within, _place) = match waits.then(|| place(&api.places.waiting, &taken)).transpose() {
        Ok(None) => (Some(ORDER_WITHIN), None),
        Ok(Some(place)) => {
            lease.give_back();
            (None, Some(place))
        }
        Err(problem) => return problem.into_response(),
    };
    match heard(api.the_loop.ask(question), within, true).await {
        // That a change on probation is rolled back is what was ordered.
        Ok(Answer::RolledBack { text }) if goes_back => told(Answer::Done { text }),
        Ok(answer) => told(answer),
        Err(problem) => problem.into_response(),
    }
}

/// All generations of a service, and what is known of them.
#[utoipa::path(
    get,
    path = "/v1/services/{service}/generations",
    params(
        ("service" = String, Path, description = "its name", example = "web"),
        ("verify" = Option<bool>, Query, description = "read all of each, and compare it with its id: takes as long as a disk takes"),
    ),
    responses((status = 200, description = "they", body = ServiceGenerations), OrderProblems),
)]
pub(super) async fn generations(
    State(api): State<Api>,
    Extension(lease): Extension<Lease>,
    service: ServiceInPath,
    query: RawQuery,
) -> Response {
    match listed(&api, &lease, service, query.0.as_deref()).await {
        Ok(generations) => Json(generations).into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn listed(
    api: &Api,
    lease: &Lease,
    service: ServiceInPath,
    query: Option<&str>,
) -> Result<ServiceGenerations, Problem> {
    let verifies = verifies(query)?;
    let report = known(api, &named(service)?).await?;
    if report.store.is_none() {
        return Ok(ServiceGenerations::new(&report, &[]));
    }
    let stores = api.stores.clone();
    if verifies {
        let place = place(&api.places.verifying, "the releases of another service are being read")?;
        lease.give_back();
        let verified = on_a_thread(place, move |goes_on| {
            let mut found = list(&*stores, &report)?;
            // Of files, what may be gone back to.
            let is_read = |one: &&mut Generation| match one.part {
                Part::Store => one.kept == Some(true),
                Part::Files => one.grade.is_some(),
            };
            for generation in found.generations.iter_mut().filter(is_read) {
                if !goes_on() {
                    break;
                }
                verify(&*stores, &report.service, generation);
            }
            Ok(found)
        })?;
        return verified.await.map_err(|_| Problem::new(Code::Failed, "the reading broke off by an error in Hale"))?;
    }
    let place = place(&api.places.listing, "the disk has not answered earlier questions")?;
    let listed = on_a_thread(place, move |_| list(&*stores, &report))?;
    let late = || format!("the store did not answer within {} s", LISTED_WITHIN.as_secs());
    match timeout(LISTED_WITHIN, listed).await {
        Ok(listed) => listed.map_err(|_| Problem::new(Code::Failed, "the list broke off by an error in Hale"))?,
        Err(_) => Err(Problem::new(Code::Busy, late())),
    }
}

/// What is asked for by what follows the path.
fn verifies(query: Option<&str>) -> Result<bool, Problem> {
    let value = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("verify="));
    match value {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(Problem::new(Code::BadRequest, "verify must be true or false")),
    }
}

fn list(stores: &dyn GenerationStores, report: &GenerationsReport) -> Result<ServiceGenerations, Problem> {
    let kept = match stores.list(&report.service) {
        Ok(kept) => kept,
        // One that was configured only now, and is not open yet.
        Err(StoreProblem { kind: ProblemKind::NoStore, .. }) => Vec::new(),
        Err(problem) => return Err(problem.into()),
    };
    Ok(ServiceGenerations::new(report, &kept))
}

fn verify(stores: &dyn GenerationStores, service: &Name, generation: &mut Generation) {
    match stores.verify(service, generation.part, &generation.id) {
        // Removed since it was listed: nobody keeps more than `keep`. That is no damage.
        Err(StoreProblem { kind: ProblemKind::Missing, .. }) => generation.set_gone(),
        read => generation.set_read(SystemTime::now(), read.err().map(|problem| problem.text)),
    }
}

/// Does what may block, and keeps the place for as long as that takes; what goes on can ask whether anybody still waits.
fn on_a_thread<T: Send + 'static>(
    place: OwnedSemaphorePermit,
    work: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static,
) -> Result<oneshot::Receiver<T>, Problem> {
    let (sender, receiver) = oneshot::channel();
    let run = move || {
        let result = work(&|| !sender.is_closed());
        drop(place);
        let _gone = sender.send(result);
    };
    let started = std::thread::Builder::new().name(String::from("generations")).spawn(run);
    started.map_err(|error| Problem::new(Code::Failed, format!("cannot start a thread: {error}")))?;
    Ok(receiver)
}

/// All generations that are not switched to by themselves again, of all services.
#[utoipa::path(
    get,
    path = "/v1/quarantine",
    responses((status = 200, description = "they", body = Vec<Quarantined>), QuestionProblems),
)]
pub(super) async fn quarantine(State(api): State<Api>) -> Response {
    match timeout(QUESTION_WITHIN, quarantine_of_all(&api)).await {
        Ok(Ok(all)) => Json(all).into_response(),
        Ok(Err(problem)) => problem.into_response(),
        Err(_) => {
            let detail = format!("the supervisor did not answer within {} s", QUESTION_WITHIN.as_secs());
            Problem::new(Code::Busy, detail).into_response()
        }
    }
}

async fn quarantine_of_all(api: &Api) -> Result<Vec<Quarantined>, Problem> {
    let Answer::Status(status) = ask(api, Question::Status { service: None }).await? else { return Err(unexpected()) };
    let mut all = Vec::new();
    for service in status.services {
        match known(api, &service.name).await {
            Ok(report) => all.extend(quarantined(&report)),
            // A reload has removed it meanwhile.
            Err(problem) if problem.code == Code::UnknownService => {}
            Err(problem) => return Err(problem),
        }
    }
    Ok(all)
}

/// What the core knows of a service's generations.
pub(super) async fn known(api: &Api, service: &Name) -> Result<GenerationsReport, Problem> {
    match ask(api, Question::Generations { service: service.clone() }).await? {
        Answer::Generations(report) => Ok(*report),
        Answer::Unknown { service } => Err(unknown(&service)),
        Answer::Status(_)
        | Answer::Done { .. }
        | Answer::Failed { .. }
        | Answer::RolledBack { .. }
        | Answer::Busy { .. }
        | Answer::Refused(_) => Err(unexpected()),
    }
}

/// The service has no store.
pub(super) fn refused(service: &Name) -> Problem {
    let reason = Reason::NoGenerationsConfigured;
    let detail = format!("{service} has no generations: [service.{service}.generations] configures them");
    Problem::new(Code::Refused, detail).because(reason)
}

async fn ask(api: &Api, question: Question) -> Result<Answer, Problem> {
    heard(api.the_loop.ask(question), Some(QUESTION_WITHIN), false).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::connections::CONNECTIONS_MAX;
    use crate::api::server::testing::{Served, code, report};
    use crate::api::stores::NoStores;
    use crate::api::view::Done;
    use crate::api::{client, sockets};
    use crate::generations::{Arrival, Kept};
    use hale_core::policy::StoreKind;
    use hale_core::safeswitch::Bad;
    use hyper::Method;
    use std::io::Read;
    use std::sync::{Mutex, mpsc as threads};
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    /// Has a good release, which is read once somebody says so, a damaged one, and one that is removed before it is read.
    struct Scripted {
        go_on: Mutex<threads::Receiver<()>>,
        begun: threads::Sender<()>,
    }

    impl GenerationStores for Scripted {
        fn import(&self, service: &Name, from: &mut dyn Read) -> Result<Arrival, StoreProblem> {
            NoStores.import(service, from)
        }

        fn list(&self, service: &Name) -> Result<Vec<Kept>, StoreProblem> {
            match service.as_str() {
                "lost" => Err(StoreProblem { kind: ProblemKind::Failed, text: "the disk is gone".into() }),
                _ => Ok(vec![
                    Kept { id: id("good"), came: None, read: None },
                    Kept { id: id("bad"), came: None, read: None },
                    Kept { id: id("old"), came: None, read: None },
                ]),
            }
        }

        fn verify(&self, _: &Name, _: Part, generation: &GenerationId) -> Result<(), StoreProblem> {
            match generation.as_str() {
                "bad" => Err(StoreProblem { kind: ProblemKind::Failed, text: "it is damaged".into() }),
                "old" => Err(StoreProblem { kind: ProblemKind::Missing, text: "it is not there".into() }),
                _ => {
                    self.begun.send(()).unwrap();
                    self.go_on.lock().unwrap().recv().unwrap();
                    Ok(())
                }
            }
        }
    }

    fn id(text: &str) -> GenerationId {
        GenerationId::try_from(text).unwrap()
    }

    fn serve() -> (Served, threads::Sender<()>, threads::Receiver<()>) {
        let (tell, go_on) = threads::channel();
        let (begun, begins) = threads::channel();
        let served = Served::with(Arc::new(Scripted { go_on: Mutex::new(go_on), begun }));
        let mut web = report("web", Some(StoreKind::Release));
        web.known.store.current = Some(id("good"));
        let (why, until_wall_us) = (Reason::FailsOnProbation, i64::MAX);
        web.known.store.bads.push(Bad { id: id("bad"), why, seen_in: None, since_wall_us: 0, until_wall_us });
        let reports = [web, report("none", None), report("lost", Some(StoreKind::Release))];
        served.scripted.reports.lock().unwrap().extend(reports);
        (served, tell, begins)
    }

    fn last_order(served: &Served) -> (OperatorOrder, bool) {
        match served.scripted.asked.lock().unwrap().last() {
            Some(Question::Order { order, waits, .. }) => (order.clone(), *waits),
            other => panic!("no order arrived: {other:?}"),
        }
    }

    #[tokio::test]
    async fn orders_arrive_as_their_bodies_say() {
        let served = Served::start();
        let service = Name::try_from("web").unwrap();
        let give = async |path: &str, body| served.give(&format!("/v1/services/web/{path}"), body).await.status;
        assert_eq!(give("deploy", r#"{"generation": "abc", "force": true, "wait": false}"#).await, 200);
        let deploy = OperatorOrder::Deploy { service: service.clone(), generation: id("abc"), force: true };
        assert_eq!(last_order(&served), (deploy, false));
        assert_eq!(give("rollback", "{}").await, 200);
        assert_eq!(last_order(&served), (OperatorOrder::Rollback { service: service.clone(), to: None }, true));
        assert_eq!(give("rollback", r#"{"to": "abc"}"#).await, 200);
        let to = OperatorOrder::Rollback { service: service.clone(), to: Some(id("abc")) };
        assert_eq!(last_order(&served), (to, true));
        assert_eq!(give("quarantine/clear", r#"{"generation": "abc"}"#).await, 200);
        assert_eq!(last_order(&served).0, OperatorOrder::ClearQuarantine { service, generation: id("abc") });
        let asked = served.scripted.asked.lock().unwrap().len();
        for body in ["", "{}", r#"{"generation": "a b"}"#, r#"{"generation": "abc", "froce": true}"#, "[]"] {
            assert_eq!(code(&served.give("/v1/services/web/deploy", body).await), Code::BadRequest, "{body}");
        }
        let long = format!("{{\"generation\": \"{}\"}}", "x".repeat(5_000));
        assert_eq!(code(&served.give("/v1/services/web/deploy", &long).await), Code::BadRequest);
        let read = sockets::read_path(served.directory());
        for path in ["deploy", "rollback", "quarantine/clear"] {
            let answer = client::ask(&read, Method::POST, &format!("/v1/services/web/{path}")).await.unwrap();
            assert_eq!(code(&answer), Code::ReadOnly);
        }
        assert_eq!(served.scripted.asked.lock().unwrap().len(), asked);
    }

    #[tokio::test]
    async fn rolled_back_is_what_a_rollback_is_for_and_a_deploy_is_not() {
        let served = Served::start();
        let deploy = served.give("/v1/services/rolled/deploy", r#"{"generation": "abc"}"#).await;
        assert_eq!(code(&deploy), Code::RolledBack);
        let rollback = served.give("/v1/services/rolled/rollback", "{}").await;
        assert_eq!(serde_json::from_slice::<Done>(&rollback.body).unwrap().text, "rolled was rolled back");
    }

    #[tokio::test]
    async fn who_waits_for_a_switch_keeps_nobody_out() {
        let served = Served::start();
        let path = sockets::control_path(served.directory());
        let body = r#"{"generation": "abc"}"#;
        let head = "POST /v1/services/silent/deploy HTTP/1.1\r\nhost: hale\r\ncontent-length: ";
        let mut waiting = Vec::new();
        for _ in 0..WAITING_MAX + CONNECTIONS_MAX {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
            waiting.push(stream);
        }
        assert_eq!(served.post("/v1/services/bot/restart").await.status, 200);
        assert_eq!(code(&served.give("/v1/services/silent/deploy", body).await), Code::Busy);
        let is_deploy =
            |question: &&Question| matches!(question, Question::Order { order: OperatorOrder::Deploy { .. }, .. });
        assert_eq!(served.scripted.asked.lock().unwrap().iter().filter(is_deploy).count(), WAITING_MAX);
    }

    #[tokio::test]
    async fn a_list_says_what_there_is() {
        let (served, ..) = serve();
        let list = async |service: &str| served.get(&format!("/v1/services/{service}/generations")).await;
        let listed: ServiceGenerations = serde_json::from_slice(&list("web").await.body).unwrap();
        let short = |one: &Generation| (one.id.to_string(), one.current, one.quarantined.is_some(), one.verified);
        let all: Vec<_> = listed.generations.iter().map(short).collect();
        assert_eq!(
            all,
            [("good".into(), true, false, None), ("bad".into(), false, true, None), ("old".into(), false, false, None)]
        );
        let lost: Problem = serde_json::from_slice(&list("lost").await.body).unwrap();
        assert_eq!((lost.code, lost.detail.as_str()), (Code::Failed, "the disk is gone"));
        let none: ServiceGenerations = serde_json::from_slice(&list("none").await.body).unwrap();
        assert_eq!((none.store, none.generations.len()), (None, 0));
        assert_eq!(code(&list("nobody").await), Code::UnknownService);
        assert_eq!(code(&served.get("/v1/services/web/generations?verify=yes").await), Code::BadRequest);
    }

    #[tokio::test]
    async fn what_is_damaged_is_found_by_one_reader_at_a_time() {
        let (served, tell, begins) = serve();
        let path = sockets::read_path(served.directory());
        let verify = async move { client::ask(&path, Method::GET, "/v1/services/web/generations?verify=true").await };
        let verify = tokio::spawn(verify);
        let _begins = tokio::task::spawn_blocking(move || begins.recv().map(|()| begins)).await.unwrap();
        let second = served.get("/v1/services/lost/generations?verify=true").await;
        assert_eq!(code(&second), Code::Busy);
        tell.send(()).unwrap();
        let verified: ServiceGenerations = serde_json::from_slice(&verify.await.unwrap().unwrap().body).unwrap();
        let found = |one: &Generation| (one.kept, one.verified, one.fault.clone());
        let all: Vec<_> = verified.generations.iter().map(found).collect();
        let damaged = (Some(true), Some(false), Some("it is damaged".into()));
        assert_eq!(all, [(Some(true), Some(true), None), damaged, (Some(false), None, None)]);
    }

    #[tokio::test]
    async fn the_quarantine_is_that_of_all_services() {
        let (served, ..) = serve();
        let all: Vec<Quarantined> = serde_json::from_slice(&served.get("/v1/quarantine").await.body).unwrap();
        let short: Vec<_> = all.iter().map(|one| (one.service.as_str(), one.generation.as_str())).collect();
        assert_eq!(short, [("web", "bad")]);
        assert_eq!(all[0].quarantine.why, "it fails on probation");
    }
}
