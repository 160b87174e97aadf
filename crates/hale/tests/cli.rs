//! The command line as scripts see it: the real binary, its output and its exit status.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it like the test itself")]

mod common;

use common::{Host, code, command, err, out};
use hale_core::effect::Answer;
use hale_core::event::{ExitStatus, Question};
use hale_core::ids::{Epoch, IncidentId, Name, RecordId};
use hale_core::incident::{Cause, Outcome};
use hale_core::policy::{Mode, Signal};
use hale_core::reason::Reason;
use hale_core::record::{Actor, Body, Finding, Record, Refusal};
use hale_core::status::{ServiceStatus, State, StatusReport};
use hale_core::time::{Monotonic, Now};
use hale_daemon::api;
use hale_daemon::knowledge::ledger_store::{Class, LedgerStore, Limits};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

fn hale(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

/// The example, in a directory that certainly belongs to who runs the test.
fn example(directory: &Path) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/hale.toml")).unwrap();
    let path = directory.join("hale.toml");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn the_example_is_valid_and_shows_every_check_kind() {
    let directory = tempfile::tempdir().unwrap();
    let path = example(directory.path());
    let text = hale(&["validate", "-c", &path]);
    code(&text, 0);
    assert!(out(&text).contains("valid, 3 services") && out(&text).contains("starts after web"), "{}", out(&text));
    assert_eq!(err(&text), "");

    let json = hale(&["-c", &path, "validate", "--json"]);
    code(&json, 0);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let checks = json["services"].as_array().unwrap().iter().flat_map(|service| service["checks"].as_array().unwrap());
    let mut kinds: Vec<_> = checks.map(|check| check["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["exec", "heartbeat", "http", "tcp"]);
}

#[test]
fn a_wrong_configuration_is_told_with_its_place() {
    let host = Host::new();
    fs::write(host.path("hale.toml"), "[service.bot]\ncomand = [\"bot\"]\n").unwrap();
    for arguments in [&["validate"][..], &["status"]] {
        let output = host.hale(arguments);
        code(&output, 78);
        assert!(err(&output).contains("hale.toml:2:1") && err(&output).contains("`command`"), "{}", err(&output));
    }
    let json = host.hale(&["validate", "--json"]);
    code(&json, 78);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["valid"], false);
    assert!(json["mistakes"].as_array().unwrap().iter().any(|mistake| mistake["line"] == 2), "{json}");
}

#[test]
fn the_generations_of_a_service_are_told_with_their_store() {
    let host = Host::new();
    let text = r#"
        [service.bot]
        command = ["bin/bot"]
        [service.bot.generations]
        rollback = "ask"
        files = ["/etc/hostname", "/no/such/file"]
        [service.web]
        command = ["sh"]
        [service.web.generations]
        store = "nix-profile"
        profile = "/no/such/profile"
        [service.db]
        command = ["sh"]
        [service.db.generations]
        store = "command"
        list = ["/no/such/program", "list"]
        current = ["/no/such/program", "current"]
        stage = ["/bin/sh"]
        activate = ["/bin/sh"]
        revert = ["/bin/sh"]
        [service.without]
        command = ["sh"]
    "#;
    fs::write(host.path("hale.toml"), text).unwrap();
    let output = host.hale(&["validate"]);
    code(&output, 0);
    for line in [
        "  runs bin/bot, in its release",
        "  its generations are releases in Hale's own store: good after 1 min, proven after 1 d more, taken back by an operator's order only",
        "  with each generation /etc/hostname, /no/such/file",
        "  its generations are those of the Nix profile /no/such/profile: good after 1 min, proven after 1 d more, taken back by Hale",
        "  its generations are those that /no/such/program list lists: good after 1 min, proven after 1 d more, taken back by Hale",
    ] {
        assert!(out(&output).lines().any(|other| other == line), "{line}\nin {}", out(&output));
    }
    assert_eq!(out(&output).matches("generations are").count(), 3);
    let missing = [
        "warning: service bot: generations: there is no file /no/such/file",
        "warning: service db: generations: there is no program /no/such/program",
    ];
    assert_eq!(err(&output).lines().collect::<Vec<_>>(), missing);

    let json: Value = serde_json::from_slice(&host.hale(&["validate", "--json"]).stdout).unwrap();
    let of = |index: usize| &json["services"][index]["generations"];
    assert_eq!(
        (&of(0)["store"], &of(0)["probation_ms"], &of(0)["rollback"]),
        (&"release".into(), &60_000.0.into(), &"ask".into())
    );
    // In the order of their names: bot, db, web, without.
    assert_eq!((&of(1)["store"], &of(2)["store"], of(3)), (&"command".into(), &"nix-profile".into(), &Value::Null));
}

#[test]
fn what_a_configuration_names_and_nobody_has_is_a_warning() {
    let host = Host::new();
    let text = r#"
        [service.web]
        command = ["no-such-program"]
        directory = "/no/such/directory"
        environment_files = ["/no/such/file", "/dev/null"]
        [[service.web.check]]
        kind = "exec"
        command = ["/no/such/check"]
        [service.whole]
        command = ["sh"]
    "#;
    fs::write(host.path("hale.toml"), text).unwrap();
    let output = host.hale(&["validate"]);
    code(&output, 0);
    let told = err(&output);
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines[0], "warning: service web: there is no directory /no/such/directory");
    assert!(lines[1].starts_with("warning: service web: program no-such-program: not found in /"), "{told}");
    assert_eq!(lines[2], "warning: service web: there is no environment file /no/such/file");
    assert_eq!(lines[3], "warning: service web: check exec: there is no program /no/such/check");
    assert_eq!(lines.len(), 4, "{told}");
    let json: Value = serde_json::from_slice(&host.hale(&["validate", "--json"]).stdout).unwrap();
    assert_eq!((json["valid"].as_bool(), json["missing"].as_array().unwrap().len()), (Some(true), 4));
}

#[test]
fn a_missing_configuration_is_a_configuration_error() {
    let host = Host::new();
    fs::remove_file(host.path("hale.toml")).unwrap();
    let output = host.hale(&["validate"]);
    code(&output, 78);
    let expected = format!("error: cannot read {}: No such file", host.path("hale.toml").display());
    assert!(err(&output).starts_with(&expected), "{}", err(&output));
}

#[test]
fn usage_errors_are_2() {
    code(&hale(&[]), 2);
    code(&hale(&["frobnicate"]), 2);
    code(&hale(&["incidents", "--since", "yesterday"]), 2);
    code(&hale(&["demo-service", "database"]), 2);
    // As in a terminal, where any descriptor may be open, but none that the guardian gives.
    for by_hand in ["guardian", "supervisor x", "keeper"] {
        let script = format!("exec 3</dev/null 4<&3 5<&3 6<&3 7<&3; exec \"$0\" {by_hand}");
        let output = Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_hale")]).output().unwrap();
        code(&output, 2);
        assert!(err(&output).contains("`hale run`") && err(&output).lines().count() == 1, "{}", err(&output));
    }
    let output = Host::new().hale(&["stop", "../../etc"]);
    code(&output, 2);
    assert!(err(&output).contains("is not the name of a service"), "{}", err(&output));
    let output = Host::new().hale(&["incident", "x"]);
    code(&output, 2);
    assert!(err(&output).contains("it must be a number, as `hale incidents` lists them"), "{}", err(&output));
    let output = Host::new().hale(&["logs"]);
    code(&output, 2);
    assert!(err(&output).contains("Usage: hale logs <SERVICE>\n"), "{}", err(&output));
    code(&hale(&["--help"]), 0);
    code(&hale(&["--version"]), 0);
}

#[test]
fn without_a_supervisor_it_is_3_and_says_where_it_looked() {
    let host = Host::new();
    let questions = [&["status"][..], &["status", "web", "--json"], &["generations", "web"], &["quarantine", "list"]];
    for arguments in questions.iter().chain(&[&["restart", "web"][..], &["deploy", "web", "."], &["rollback", "web"]]) {
        let output = host.hale(arguments);
        code(&output, 3);
        let is_order = matches!(arguments[0], "restart" | "rollback");
        let socket = if is_order { "control.sock" } else { "read.sock" };
        let looked_at = format!("no supervisor running (looked at {})", host.path("run").join(socket).display());
        assert!(err(&output).contains(&looked_at), "{}", err(&output));
        assert_eq!(out(&output), "");
    }
}

#[test]
fn the_schema_is_json_and_knows_the_services() {
    let output = hale(&["schema"]);
    code(&output, 0);
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema["properties"]["service"].is_object(), "{schema}");
}

#[test]
fn shells_get_their_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let output = hale(&["completions", shell]);
        code(&output, 0);
        assert!(out(&output).contains("incidents"), "{shell}");
        assert!(!out(&output).contains("demo-service"), "{shell} completes what is hidden");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    // A pipe whose reader is gone before the first byte.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output =
        command(&["schema"]).stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    code(&output, 0);
    assert_eq!(err(&output), "");
}

fn web() -> Name {
    Name::try_from("web").unwrap()
}

fn record(id: u64, at_us: u64, body: Body) -> Record {
    let at = Now { mono: Monotonic::from_us(at_us), boot_us: at_us, wall_us: 1_000_000_000_000_000 };
    Record { id: RecordId(id), at, service: Some(web()), incident: Some(IncidentId(5)), body }
}

/// Writes the ledger of one incident, and one record that is none of the core's.
fn write_ledger(host: &Host) {
    let dir = host.path("state/ledger");
    let (store, _) = LedgerStore::open(&dir, Limits::default(), Box::new(|_| ())).unwrap();
    let status = ExitStatus::Signal { signal: Signal::KILL, core_dumped: false };
    let finding = Finding::Exit { epoch: Epoch(1), status, memory: None };
    let records = [
        record(
            5,
            1_000,
            Body::Detected {
                cause: Cause::Signal,
                finding,
                stall: None,
                last_good: Monotonic::from_us(900),
                blocked: None,
            },
        ),
        record(6, 1_500, Body::Output { lines: vec!["last words\u{1b}[2J".into()] }),
        record(
            7,
            19_000,
            Body::IncidentClosed {
                outcome: Outcome::Recovered,
                recovery_us: Some(18_000),
                down_us: Some(18_100),
                checks: 2,
            },
        ),
    ];
    for record in &records {
        store.append(serde_json::to_vec(record).unwrap(), Class::State, record.id.0).unwrap();
    }
    store.append(br#"{"kind":"of a later version"}"#.to_vec(), Class::State, 8).unwrap();
    assert!(store.close(Duration::from_secs(30)));
}

#[test]
fn incidents_are_told_while_hale_is_down() {
    let host = Host::new();
    code(&host.hale(&["incidents"]), 1);
    write_ledger(&host);
    let list = host.hale(&["incidents"]);
    code(&list, 0);
    let line = "5   2001-09-09T01:46:40.000Z  web      signal  recovered  18 ms     18 ms";
    assert!(out(&list).contains(line), "{}", out(&list));
    let list = host.hale(&["incidents", "--json"]);
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(list[0]["recovery_ms"], 18.0);
    assert_eq!(list[0]["down_ms"], 18.1);
    assert_eq!(list[0]["timeline"][0]["what"], "detected: the process was ended by SIGKILL");
    assert_eq!(list[0]["evidence"]["output"][0], "last words\u{1b}[2J");

    let story = host.hale(&["incident", "5"]);
    code(&story, 0);
    assert!(out(&story).contains("\n  T+18 ms  all checks pass: recovered in 18 ms\n"), "{}", out(&story));
    assert!(out(&story).contains("| last words\\u{1b}[2J\n"), "{}", out(&story));
    assert_eq!(out(&host.hale(&["incident"])), out(&story), "without a number it is the newest");
    let none = host.hale(&["incident", "6"]);
    code(&none, 1);
    assert!(err(&none).contains("no incident 6"), "{}", err(&none));
    let recent = host.hale(&["incidents", "--since", "1h"]);
    assert_eq!(out(&recent), "no incidents within 1 h\n");
}

#[test]
fn the_ledger_is_shown_and_an_alteration_is_5() {
    let host = Host::new();
    write_ledger(&host);
    let shown = host.hale(&["ledger", "show"]);
    code(&shown, 0);
    let lines: Vec<_> = out(&shown).lines().map(String::from).collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[0], "   SEQ      ID  TIME                      SERVICE  WHAT");
    let detected =
        "     0       5  2001-09-09T01:46:40.000Z  web  detected: the process was ended by SIGKILL (incident 5)";
    assert_eq!(lines[1], detected);
    let json = host.hale(&["ledger", "show", "--json"]);
    let lines: Vec<Value> = out(&json).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[3]["seq"], &lines[3]["rec"]["kind"]), (&3.into(), &"of a later version".into()));

    let good = host.hale(&["ledger", "verify", "--json"]);
    code(&good, 0);
    assert_eq!(serde_json::from_slice::<Value>(&good.stdout).unwrap()["records"], 4);
    let good = host.hale(&["ledger", "verify"]);
    assert!(out(&good).contains("\n4 records in 1 segment, 0 sealed, "), "{}", out(&good));
    let segment = fs::read_dir(host.path("state/ledger/seg")).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(&segment).unwrap();
    fs::write(&segment, text.replacen("last words", "lost words", 1)).unwrap();
    let bad = host.hale(&["ledger", "verify"]);
    code(&bad, 5);
    assert!(err(&bad).contains("altered"), "{}", err(&bad));
    let bad = host.hale(&["ledger", "verify", "--json"]);
    code(&bad, 5);
    assert_eq!(serde_json::from_slice::<Value>(&bad.stdout).unwrap()["ok"], false);
}

#[test]
fn the_index_is_made_anew() {
    let host = Host::new();
    write_ledger(&host);
    let index = host.path("state/index.sqlite");
    fs::write(&index, "no database").unwrap();
    let output = host.hale(&["ledger", "reindex"]);
    code(&output, 0);
    assert_eq!(out(&output), format!("4 records in {}\n", index.display()));
    assert!(out(&host.hale(&["incidents"])).contains("recovered"));
}

#[test]
fn logs_show_the_past_and_follow_what_comes() {
    let host = Host::new();
    let missing = host.hale(&["logs", "web"]);
    code(&missing, 1);
    assert!(err(&missing).contains("state/log/web: No such file"), "{}", err(&missing));

    fs::create_dir_all(host.path("state/log/web")).unwrap();
    let mut log = fs::File::create(host.path("state/log/web/current")).unwrap();
    log.write_all(b"one\ntwo \x1b[2J\nthree\n").unwrap();
    let last = host.hale(&["logs", "web", "-n", "2"]);
    code(&last, 0);
    assert_eq!(out(&last), "two \\u{1b}[2J\nthree\n");
    assert_eq!(out(&host.hale(&["logs", "web", "-n", "1", "--json"])), "{\"line\":\"three\"}\n");

    let config = host.path("hale.toml");
    let mut following = command(&["logs", "web", "-f", "-n", "1"]);
    let mut following = following.env("HALE_CONFIG", config).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "three");
    log.write_all(b"four\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "four");
    following.kill().unwrap();
    following.wait().unwrap();
}

#[test]
fn an_orderly_end_is_told() {
    let host = Host::new();
    let text = fs::read_to_string(host.path("hale.toml")).unwrap();
    fs::write(host.path("hale.toml"), text.replace("[\"web\"]", "[\"sleep\", \"1000\"]")).unwrap();
    let mut running = command(&["run", &host.path("hale.toml").display().to_string()]);
    let mut running = running.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(running.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("web: ready")), "it ended before its service was ready");
    let guardian = rustix::process::Pid::from_child(&running);
    rustix::process::kill_process(guardian, rustix::process::Signal::TERM).unwrap();
    assert_eq!(lines.last().unwrap(), "hale: ended in order");
    assert!(running.wait().unwrap().success());
}

/// A supervisor that knows one service.
struct Stub;

impl api::Loop for Stub {
    fn ask(&self, question: Question) -> Option<oneshot::Receiver<Answer>> {
        let (sender, receiver) = oneshot::channel();
        let service = ServiceStatus {
            name: web(),
            state: State::Held,
            detail: "given up after a crash loop".into(),
            pid: None,
            since: Monotonic::from_us(0),
            restarts: 9,
            checks: Vec::new(),
            blocked_on: None,
            incident: Some(IncidentId(5)),
            status_text: String::new(),
            paused_until_boot_us: None,
            observed: None,
            stored: Vec::new(),
            generation: None,
            grade: None,
            switch: None,
        };
        let answer = match question {
            Question::Status { service: Some(name) } if name != web() => Answer::Unknown { service: name.to_string() },
            Question::Status { .. } => Answer::Status(Box::new(StatusReport {
                at: Now { mono: Monotonic::from_us(65_000_000), boot_us: 0, wall_us: 65_000_000 },
                mode: Mode::Heal,
                ledger_error: None,
                timer: None,
                dependencies: Vec::new(),
                services: vec![service],
            })),
            Question::Generations { service } => Answer::Unknown { service: service.to_string() },
            Question::Order { actor, order, .. } => {
                let service = order.service().unwrap();
                Answer::Failed { text: format!("{}: {service} did not become healthy", actor.uid) }
            }
            Question::Reload { .. } => return None,
        };
        sender.send(answer).ok()?;
        Some(receiver)
    }

    fn reload(&self, _: Actor) -> Option<oneshot::Receiver<Answer>> {
        let (sender, receiver) = oneshot::channel();
        let reason = Reason::InvalidConfiguration { error: "hale.toml:2:1: no such key".into() };
        sender.send(Answer::Refused(Refusal { what: "order: reload the configuration".into(), reason })).ok()?;
        Some(receiver)
    }
}

/// Answers for it until the test ends.
fn serve(sockets: api::sockets::Sockets) {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
        runtime.block_on(api::serve(sockets, Arc::new(Stub), Arc::new(api::stores::NoStores), api::Hub::default()))
    });
}

#[test]
fn a_running_supervisor_is_asked() {
    let host = Host::new();
    serve(api::sockets::bind(&host.path("run")).unwrap());

    let status = host.hale(&["status"]);
    code(&status, 0);
    let line = "web      held   1 min 5 s  -    9         -\n";
    assert!(out(&status).contains(line) && out(&status).contains("hale incident 5"), "{}", out(&status));
    let json = host.hale(&["status", "web", "--json"]);
    code(&json, 0);
    assert_eq!(serde_json::from_slice::<Value>(&json.stdout).unwrap()["services"][0]["state"], "held");
    let unknown = host.hale(&["status", "bot"]);
    code(&unknown, 1);
    assert!(err(&unknown).contains("there is no service \"bot\""), "{}", err(&unknown));
    let order = host.hale(&["start", "web"]);
    code(&order, 1);
    assert!(err(&order).ends_with(": web did not become healthy\n"), "{}", err(&order));
}

mod needs_root {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::process::CommandExt;

    /// A user without any right on this machine, and a group of that user's.
    const USER: u32 = 65_534;
    const GROUP: u32 = 4_711;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_user_whom_nobody_knows_is_a_warning() {
        let host = Host::new();
        let text = "[service.web]\ncommand = [\"/bin/sh\"]\nuser = \"nobody-of-this-name\"\n";
        fs::write(host.path("hale.toml"), text).unwrap();
        let output = host.hale(&["validate"]);
        code(&output, 0);
        let expected = "warning: service web: user nobody-of-this-name: there is no such user";
        assert!(err(&output).starts_with(expected), "{}", err(&output));
    }

    #[test]
    fn who_may_give_orders_may_ask() {
        let host = Host::new();
        mode(host.directory.path(), 0o755);
        let sockets = api::sockets::bind(&host.path("run")).unwrap();
        // As they are with both groups, for a member of the second alone.
        mode(&host.path("run/read.sock"), 0o600);
        chown(host.path("run/control.sock"), None, Some(GROUP)).unwrap();
        mode(&host.path("run/control.sock"), 0o660);
        serve(sockets);
        // A copy, because the user may not be able to reach where the program was built.
        let program = host.path("hale");
        fs::copy(env!("CARGO_BIN_EXE_hale"), &program).unwrap();
        let status = |group| {
            let mut command = Command::new(&program);
            command.arg("status").env("HALE_CONFIG", host.path("hale.toml")).env("HOME", "/").uid(USER).gid(group);
            command.output().unwrap()
        };
        let member = status(GROUP);
        code(&member, 0);
        assert!(out(&member).contains("web      held"), "{}", out(&member));
        let stranger = status(USER);
        code(&stranger, 6);
        assert!(err(&stranger).contains("no permission to connect to") && err(&stranger).contains("read.sock"));
    }
}
