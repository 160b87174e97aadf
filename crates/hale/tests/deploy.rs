//! Deploying as scripts see it: the real binary and real releases, in front of a supervisor that ends each switch by its service's name.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it like the test itself")]

mod common;

use common::{Host, code, command, err, out};
use hale_core::effect::Answer;
use hale_core::event::{ExitStatus, Question};
use hale_core::ids::{Epoch, GenerationId, IncidentId, Name, RecordId};
use hale_core::incident::Cause;
use hale_core::policy::{Mode, StoreKind};
use hale_core::reason::Reason;
use hale_core::record::{Actor, Body, Finding, OperatorOrder, Record};
use hale_core::safeswitch::{Aim, Bad, Data, End, Good, Grade, Intent, Move, Part, Parts, Stage, Switch};
use hale_core::status::{GenerationsReport, ServiceStatus, State, StatusReport};
use hale_core::time::{Monotonic, Now};
use hale_daemon::api::stores::{GenerationStores, StoreProblem};
use hale_daemon::api::{self, Hub};
use hale_daemon::generations::{Arrival, Generations, Kept, Limits, open, pack};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

fn name(text: &str) -> Name {
    Name::try_from(text).unwrap()
}

fn id(text: &str) -> GenerationId {
    GenerationId::try_from(text).unwrap()
}

fn now_us() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

/// What the supervisor knows, and whom it tells of what it is asked.
#[derive(Clone)]
struct Brain {
    reports: Arc<Mutex<BTreeMap<Name, GenerationsReport>>>,
    hub: Hub,
    orders: Sender<(OperatorOrder, bool)>,
    /// What is never answered.
    kept: Arc<Mutex<Vec<oneshot::Sender<Answer>>>>,
}

impl Brain {
    fn tell(&self, number: u64, service: &Name, incident: Option<u64>, body: Body) {
        let at = Now::default();
        let incident = incident.map(IncidentId);
        let record = Record { id: RecordId(number), at, service: Some(service.clone()), incident, body };
        self.hub.tell(record.id, &serde_json::to_vec(&record).unwrap());
    }

    /// Of services of which nothing else is known.
    fn status(&self) -> StatusReport {
        let service = |name: &Name| ServiceStatus {
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
        };
        StatusReport {
            at: Now::default(),
            mode: Mode::Heal,
            ledger_error: None,
            timer: None,
            services: self.reports.lock().unwrap().keys().map(service).collect(),
            dependencies: Vec::new(),
        }
    }

    /// A switch to `to`, as records and what is known after each tell of it.
    fn deploy(&self, actor: Actor, service: &Name, to: &GenerationId) -> Answer {
        let intent = Intent {
            aim: Aim::Deploy { actor },
            from: None,
            to: to.clone(),
            back: Some(id("old")),
            failed_before: BTreeSet::new(),
            data_at_least: 0,
            boot_id: String::new(),
        };
        self.tell(1, service, None, Body::Generation(Move::Intended { intent: Box::new(intent) }));
        self.tell(2, &name("other"), Some(99), Body::CountersForgotten);
        let mut reports = self.reports.lock().unwrap();
        let known = &mut reports.get_mut(service).unwrap().known;
        match service.as_str() {
            "bad" => {
                let finding = Finding::Exit { epoch: Epoch(1), status: ExitStatus::Code(3), memory: None };
                let last_good = Monotonic::default();
                let detected = Body::Detected { cause: Cause::Exit, finding, stall: None, last_good, blocked: None };
                self.tell(7, service, Some(7), detected);
                let why = Reason::OnProbation { finding: "the process exited with status 3".into() };
                let text = format!("bad was rolled back from {} to old, which is healthy again: {why}", to.short());
                let (seen_in, since_wall_us) = (Some(IncidentId(7)), now_us());
                known.store.bads.push(Bad { id: to.clone(), why, seen_in, since_wall_us, until_wall_us: i64::MAX });
                let end = End::RolledBack { why: Reason::FailsOnProbation };
                self.tell(8, service, None, Body::Generation(Move::Ended { switch: RecordId(1), end }));
                Answer::RolledBack { text }
            }
            _ => {
                known
                    .store
                    .goods
                    .insert(0, Good { id: to.clone(), grade: Grade::Provisional, since_wall_us: now_us() });
                known.store.current = Some(to.clone());
                self.tell(8, service, None, Body::Generation(Move::Ended { switch: RecordId(1), end: End::Committed }));
                Answer::Done { text: format!("{service} runs {}, which is known to be good now", to.short()) }
            }
        }
    }
}

impl api::Loop for Brain {
    fn ask(&self, question: Question) -> Option<oneshot::Receiver<Answer>> {
        let (sender, receiver) = oneshot::channel();
        let answer = match question {
            Question::Generations { service } => match self.reports.lock().unwrap().get(&service) {
                Some(report) => Answer::Generations(Box::new(report.clone())),
                None => Answer::Unknown { service: service.to_string() },
            },
            Question::Order { actor, order, waits } => {
                let answer = match &order {
                    OperatorOrder::Deploy { service, .. } if matches!(service.as_str(), "silent" | "lost") => {
                        self.kept.lock().unwrap().push(sender);
                        self.orders.send((order, waits)).unwrap();
                        return Some(receiver);
                    }
                    OperatorOrder::Deploy { service, generation, .. } => self.deploy(actor, service, generation),
                    OperatorOrder::Rollback { service, .. } => {
                        Answer::RolledBack { text: format!("{service} was rolled back") }
                    }
                    _ => Answer::Done { text: "forgotten".into() },
                };
                self.orders.send((order, waits)).unwrap();
                answer
            }
            Question::Status { .. } => Answer::Status(Box::new(self.status())),
            Question::Reload { .. } => return None,
        };
        sender.send(answer).unwrap();
        Some(receiver)
    }

    fn reload(&self, _: Actor) -> Option<oneshot::Receiver<Answer>> {
        None
    }
}

/// The stores of the services that keep releases, on a disk.
struct Stores(Mutex<BTreeMap<Name, Box<dyn Generations>>>);

impl GenerationStores for Stores {
    fn import(&self, service: &Name, from: &mut dyn Read) -> Result<Arrival, StoreProblem> {
        let importer = self.0.lock().unwrap()[service].importer().unwrap();
        Ok(importer.import(from, &Limits::default())?)
    }

    fn list(&self, service: &Name) -> Result<Vec<Kept>, StoreProblem> {
        match self.0.lock().unwrap().get_mut(service) {
            Some(store) => Ok(store.list()?),
            None => Ok(Vec::new()),
        }
    }

    fn verify(&self, service: &Name, _: Part, generation: &GenerationId) -> Result<(), StoreProblem> {
        Ok(self.0.lock().unwrap().get_mut(service).unwrap().verify(generation)?)
    }
}

/// A supervisor that can be lost as by `kill -9`.
struct Supervisor {
    lose: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Supervisor {
    fn start(host: &Host, brain: &Brain, stores: &Arc<Stores>) -> Self {
        let (lose, lost) = oneshot::channel();
        let sockets = api::sockets::bind(&host.path("run")).unwrap();
        let (brain, stores) = (brain.clone(), stores.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    _ended = api::serve(sockets, Arc::new(brain.clone()), stores, brain.hub.clone()) => {}
                    _lost = lost => {}
                }
            });
        });
        Self { lose, thread }
    }

    fn lose(self) {
        self.lose.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

struct Scene {
    host: Host,
    brain: Brain,
    stores: Arc<Stores>,
    orders: Receiver<(OperatorOrder, bool)>,
}

impl Scene {
    fn new() -> (Self, Supervisor) {
        let host = Host::new();
        fs::create_dir(host.path("state")).unwrap();
        let (orders, ordered) = channel();
        let nix = StoreKind::NixProfile { profile: "/p".into() };
        let services = [
            ("good", Some(StoreKind::Release)),
            ("bad", Some(StoreKind::Release)),
            ("silent", Some(StoreKind::Release)),
            ("lost", Some(StoreKind::Release)),
            ("busy", Some(StoreKind::Release)),
            ("nix", Some(nix)),
            ("none", None),
        ];
        let mut stores: BTreeMap<Name, Box<dyn Generations>> = BTreeMap::new();
        let mut reports = BTreeMap::new();
        for (service, store) in services {
            let service = name(service);
            if store == Some(StoreKind::Release) {
                stores.insert(service.clone(), open(&StoreKind::Release, &host.path("state"), &service, None).unwrap());
            }
            let mut known = hale_core::safeswitch::Generations::default();
            known.goods.push(Good { id: id("old"), grade: Grade::Proven, since_wall_us: 0 });
            if service.as_str() == "busy" {
                let intent = Intent {
                    aim: Aim::Outside,
                    from: None,
                    to: id("next"),
                    back: None,
                    failed_before: BTreeSet::new(),
                    data_at_least: 0,
                    boot_id: String::new(),
                };
                let stage = Stage::Switching;
                known.switch =
                    Some(Switch { id: RecordId(1), intent, stage, data: Data::default(), undoes: None, undone: None });
            }
            let at = Now::default();
            reports.insert(
                service.clone(),
                GenerationsReport {
                    at,
                    service,
                    store,
                    runs: Parts::default(),
                    lives: true,
                    known: Parts { store: known, ..Parts::default() },
                },
            );
        }
        let reports = Arc::new(Mutex::new(reports));
        let brain = Brain { reports, hub: Hub::default(), orders, kept: Arc::default() };
        let scene = Self { host, brain, stores: Arc::new(Stores(Mutex::new(stores))), orders: ordered };
        let supervisor = Supervisor::start(&scene.host, &scene.brain, &scene.stores);
        (scene, supervisor)
    }

    /// A directory of this content.
    fn release(&self, name: &str, content: &str) -> PathBuf {
        let dir = self.host.path(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("bot"), content).unwrap();
        dir
    }

    fn hale(&self, arguments: &[&str]) -> Output {
        self.host.hale(arguments)
    }

    /// The deployed generation, whether quarantined ones are allowed, and whether the client waits.
    fn deployed(&self) -> (GenerationId, bool, bool) {
        match self.orders.recv().unwrap() {
            (OperatorOrder::Deploy { generation, force, .. }, waits) => (generation, force, waits),
            other => panic!("{other:?}"),
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_directory_and_its_archives_are_the_same_release() {
    let (scene, _supervisor) = Scene::new();
    let dir = scene.release("v1", "1");
    let output = scene.hale(&["deploy", "good", text(&dir)]);
    code(&output, 0);
    let (release, force, waits) = scene.deployed();
    assert_eq!((force, waits), (false, true));
    let short = release.short();
    assert_eq!(out(&output), format!("good runs {short}, which is known to be good now\n"));
    assert!(err(&output).contains(&format!("good: release {short} is imported\n")), "{}", err(&output));
    let intended = format!("good: is to be switched from nothing to {short}, because ");
    assert!(err(&output).contains(&intended), "{}", err(&output));
    let imported = scene.host.path("state/releases/good").join(release.as_str()).join("bot");
    assert_eq!(fs::read_to_string(imported).unwrap(), "1");

    let tar = scene.host.path("v1.tar");
    pack(&dir, fs::File::create(&tar).unwrap()).unwrap();
    let output = scene.hale(&["deploy", "good", text(&tar), "--force", "--no-wait"]);
    code(&output, 0);
    assert!(err(&output).contains("is there already\n"), "{}", err(&output));
    assert_eq!(scene.deployed(), (release.clone(), true, false));

    let mut deploy = command(&["deploy", "good", "-"]);
    let mut deploy = deploy.env("HALE_CONFIG", scene.host.path("hale.toml"));
    deploy = deploy.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut deploy = deploy.spawn().unwrap();
    deploy.stdin.take().unwrap().write_all(&fs::read(&tar).unwrap()).unwrap();
    code(&deploy.wait_with_output().unwrap(), 0);
    assert_eq!(scene.deployed(), (release, false, true));
}

#[test]
fn what_is_rolled_back_is_4_and_says_where_the_evidence_is() {
    let (scene, _supervisor) = Scene::new();
    let output = scene.hale(&["deploy", "bad", text(&scene.release("v2", "2"))]);
    code(&output, 4);
    assert_eq!(out(&output), "");
    let last = "it is on probation: the process exited with status 3\n  help: incident 7 has the evidence: `hale incident 7`\n";
    assert!(err(&output).ends_with(last), "{}", err(&output));
    assert!(!err(&output).contains("other"), "{}", err(&output));
}

#[test]
fn what_cannot_be_a_release_is_refused_here_or_there() {
    let (scene, _supervisor) = Scene::new();
    let bad = scene.release("bad", "x");
    fs::set_permissions(bad.join("bot"), fs::Permissions::from_mode(0o4755)).unwrap();
    let output = scene.hale(&["deploy", "good", text(&bad)]);
    code(&output, 6);
    assert!(err(&output).starts_with("error: bot cannot be part of a release: "), "{}", err(&output));
    let output = scene.hale(&["deploy", "good", text(&bad.join("bot"))]);
    code(&output, 6);
    assert!(err(&output).contains("neither a tar nor one that"), "{}", err(&output));
    let output = scene.hale(&["deploy", "good", "/no/such/thing"]);
    code(&output, 1);
    assert!(err(&output).starts_with("error: cannot read /no/such/thing: No such file"), "{}", err(&output));
    let left: Vec<_> = fs::read_dir(scene.host.path("state/releases/good")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");

    let output = scene.hale(&["deploy", "none", text(&bad)]);
    code(&output, 6);
    assert!(err(&output).contains("[service.none.generations]"), "{}", err(&output));
    let output = scene.hale(&["deploy", "busy", text(&bad)]);
    code(&output, 7);
    assert!(err(&output).contains("busy is being switched to next"), "{}", err(&output));
    code(&scene.hale(&["deploy", "nobody", text(&bad)]), 1);
    assert!(scene.orders.try_recv().is_err(), "nothing was ordered");
}

#[test]
fn a_store_that_has_it_already_gets_its_name() {
    let (scene, _supervisor) = Scene::new();
    let store_path = scene.host.path("0000-bot");
    fs::create_dir(&store_path).unwrap();
    symlink(&store_path, scene.host.path("result")).unwrap();
    code(&scene.hale(&["deploy", "nix", text(&scene.host.path("result"))]), 0);
    assert_eq!(scene.deployed().0.as_str(), text(&store_path));
    let output = scene.hale(&["deploy", "nix", "a b"]);
    code(&output, 2);
    assert!(err(&output).contains("not the name of a generation"), "{}", err(&output));
}

#[test]
fn who_interrupts_leaves_the_switch_alone() {
    let (scene, _supervisor) = Scene::new();
    let mut deploy = command(&["deploy", "silent", text(&scene.release("v1", "1"))]);
    let deploy = deploy.env("HALE_CONFIG", scene.host.path("hale.toml")).stderr(Stdio::piped()).spawn().unwrap();
    scene.deployed();
    let pid = rustix::process::Pid::from_child(&deploy);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = deploy.wait_with_output().unwrap();
    code(&output, 130);
    assert!(err(&output).contains("`hale rollback silent` takes it back once it is switched"), "{}", err(&output));
}

#[test]
fn a_supervisor_that_is_replaced_meanwhile_is_asked_what_came_of_it() {
    for (bad, expected) in [(false, 0), (true, 4)] {
        let (scene, supervisor) = Scene::new();
        let mut deploy = command(&["deploy", "lost", text(&scene.release("v1", "1"))]);
        let deploy = deploy.env("HALE_CONFIG", scene.host.path("hale.toml"));
        let deploy = deploy.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (release, ..) = scene.deployed();
        supervisor.lose();
        {
            let mut reports = scene.brain.reports.lock().unwrap();
            let GenerationsReport { known, runs, .. } = reports.get_mut(&name("lost")).unwrap();
            if bad {
                let (why, seen_in) = (Reason::FailsOnProbation, Some(IncidentId(7)));
                let (since_wall_us, until_wall_us) = (now_us(), i64::MAX);
                known.store.bads.push(Bad { id: release.clone(), why, seen_in, since_wall_us, until_wall_us });
                known.store.current = Some(id("old"));
                runs.store = Some(id("old"));
            } else {
                known.store.goods.push(Good {
                    id: release.clone(),
                    grade: Grade::Provisional,
                    since_wall_us: now_us(),
                });
                known.store.current = Some(release);
            }
        }
        let _next = Supervisor::start(&scene.host, &scene.brain, &scene.stores);
        let output = deploy.wait_with_output().unwrap();
        code(&output, expected);
        assert!(err(&output).contains("the supervisor is gone; the one that follows"), "{}", err(&output));
        assert_eq!(err(&output).contains("hale incident 7"), bad, "{}", err(&output));
    }
}

#[test]
fn a_rollback_names_its_generation_by_its_beginning() {
    let (scene, _supervisor) = Scene::new();
    let output = scene.hale(&["rollback", "good"]);
    code(&output, 0);
    assert_eq!(out(&output), "good was rolled back\n");
    let rollback = |to| (OperatorOrder::Rollback { service: name("good"), to }, true);
    assert_eq!(scene.orders.recv().unwrap(), rollback(None));
    code(&scene.hale(&["rollback", "good", "--to", "o"]), 0);
    assert_eq!(scene.orders.recv().unwrap(), rollback(Some(id("old"))));
    let output = scene.hale(&["rollback", "good", "--to", "x"]);
    code(&output, 1);
    assert!(err(&output).contains("`hale generations good` lists them"), "{}", err(&output));
    code(&scene.hale(&["rollback", "none", "--to", "x"]), 6);
    let good = id("older");
    let known = Good { id: good, grade: Grade::Proven, since_wall_us: 0 };
    scene.brain.reports.lock().unwrap().get_mut(&name("good")).unwrap().known.store.goods.push(known);
    let output = scene.hale(&["rollback", "good", "--to", "ol"]);
    code(&output, 2);
    assert!(err(&output).contains("old of good, older of good"), "{}", err(&output));
}

#[test]
fn generations_are_listed_and_read() {
    let (scene, _supervisor) = Scene::new();
    code(&scene.hale(&["deploy", "good", text(&scene.release("v1", "1"))]), 0);
    let (release, ..) = scene.deployed();
    let output = scene.hale(&["generations", "good"]);
    code(&output, 0);
    let line = format!("{}  current  provisional  ", release.short());
    assert!(out(&output).contains(&line), "{}", out(&output));
    assert!(out(&output).contains("old: its store does not have it any more\n"), "{}", out(&output));
    let json = scene.hale(&["generations", "good", "--verify", "--json"]);
    code(&json, 0);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["generations"][0]["verified"], true);

    let bot = scene.host.path("state/releases/good").join(release.as_str()).join("bot");
    fs::set_permissions(&bot, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&bot, "2").unwrap();
    let output = scene.hale(&["generations", "good", "--verify"]);
    code(&output, 1);
    assert!(out(&output).contains("damaged\n") && out(&output).contains("bot has another content"), "{}", out(&output));
    let none = scene.hale(&["generations", "none"]);
    code(&none, 0);
    assert!(out(&none).contains("is not configured"), "{}", out(&none));
}

#[test]
fn the_quarantine_is_listed_and_cleared() {
    let (scene, _supervisor) = Scene::new();
    assert_eq!(out(&scene.hale(&["quarantine", "list"])), "nothing is quarantined\n");
    code(&scene.hale(&["deploy", "bad", text(&scene.release("v2", "2"))]), 4);
    let (release, ..) = scene.deployed();
    let json = scene.hale(&["quarantine", "list", "--json"]);
    code(&json, 0);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json[0]["service"], &json[0]["generation"]), (&"bad".into(), &release.as_str().into()));
    assert_eq!(json[0]["incident"], 7);

    code(&scene.hale(&["quarantine", "clear", "no-such"]), 1);
    let output = scene.hale(&["quarantine", "clear", release.short()]);
    code(&output, 0);
    assert_eq!(out(&output), "forgotten\n");
    let clear = |service: &str| OperatorOrder::ClearQuarantine { service: name(service), generation: release.clone() };
    assert_eq!(scene.orders.recv().unwrap().0, clear("bad"));
    {
        let mut reports = scene.brain.reports.lock().unwrap();
        let bad = reports[&name("bad")].known.store.bads[0].clone();
        reports.get_mut(&name("good")).unwrap().known.store.bads.push(bad);
    }
    let output = scene.hale(&["quarantine", "clear", release.short()]);
    code(&output, 2);
    assert!(err(&output).contains(&format!("{release} of bad, {release} of good")), "{}", err(&output));
    code(&scene.hale(&["quarantine", "clear", release.short(), "--service", "good"]), 0);
    assert_eq!(scene.orders.recv().unwrap().0, clear("good"));
}
