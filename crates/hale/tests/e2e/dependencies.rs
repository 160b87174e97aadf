//! Things outside that Hale does not run: who needs them waits while they are down, and is left alone.

use crate::harness::{Place, send};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;

/// The dependency is there while the file `up` is; the service's own check looks at the same, more patiently.
const SERVICES: &str = r#"
[service.bot]
command = ["sh", "-c", "echo begin >@D/reports; while :; do sleep 1000 & wait $!; done"]
after = ["llm-api"]
start.ready = "running"

[[service.bot.check]]
kind = "exec"
command = ["test", "-e", "@D/up"]
every = "50ms"
timeout = "20s"
failures = 10

[dependency.llm-api.check]
kind = "exec"
command = ["test", "-e", "@D/up"]
every = "50ms"
timeout = "20s"
failures = 1
"#;

fn dependency(place: &Place) -> Value {
    place.json(&["status"])["dependencies"][0].clone()
}

/// A network partition must not restart a healthy fleet: architecture.md, section 5.
#[test]
fn a_service_whose_dependency_is_down_is_left_alone_and_recovers_with_it() {
    let place = Place::new();
    fs::write(place.path("up"), "").unwrap();
    let hale = place.hale(SERVICES);
    let pid = hale.started("bot");
    // A check that never passed has until `start.within`.
    hale.event("bot", "check exec passed");
    hale.says("dependency llm-api is up");
    fs::remove_file(place.path("up")).unwrap();
    hale.says("dependency llm-api is down: check exec failed once");
    hale.event("bot", "blocked: llm-api is down");
    hale.event("bot", "detected while llm-api is down: check exec failed 10 times in a row");
    hale.event("bot", "decided to leave it as it is, because llm-api, which it starts after, is down");
    let status = place.status("bot");
    assert_eq!((&status["state"], &status["blocked_on"]), (&json!("blocked"), &json!("llm-api")));
    assert_eq!(status["pid"], pid);
    assert_eq!((&dependency(&place)["state"], &dependency(&place)["checks"][0]["ok"]), (&json!("down"), &json!(false)));
    let shown = place.done(&["status"]);
    assert!(shown.contains("bot: llm-api is down: left as it is until that is up"), "{shown}");
    assert!(shown.contains("\nllm-api     down "), "{shown}");

    fs::write(place.path("up"), "").unwrap();
    // In whatever order: the service's check may pass before the dependency's does.
    hale.says("bot: no longer blocked: llm-api is up");
    hale.says("bot: it works again by itself");
    assert_eq!(place.status("bot")["pid"], pid);
    assert_eq!(dependency(&place)["state"], "up");
    hale.stop();
    assert_eq!(place.records("bot", "spawn_intended").len(), 1);
    let incidents = place.incidents();
    let [incident] = &incidents[..] else { panic!("{incidents:?}") };
    let told = ["cause", "blame", "outcome"].map(|key| incident[key].as_str().unwrap());
    assert_eq!(told, ["dependency", "dependency", "environmental"]);
    assert!(incident["down_ms"].as_f64().is_some() && incident["recovery_ms"].is_null(), "{incident}");
    let edges = place.ledger();
    let edges: Vec<&Value> = edges.iter().filter(|record| record["kind"] == "dependency").collect();
    assert_eq!(edges.iter().map(|edge| &edge["state"]).collect::<Vec<_>>(), ["up", "down", "up"]);
}

/// A process that ends while it is blocked would only fail again: it waits, and nothing is counted.
#[test]
fn what_is_not_running_waits_for_its_dependency_and_starts_with_it() {
    let place = Place::new();
    let hale = place.hale(SERVICES);
    hale.event("bot", "waits for llm-api");
    assert_eq!(place.status("bot")["state"], "blocked");
    fs::write(place.path("up"), "").unwrap();
    let pid = hale.ready("bot");
    fs::remove_file(place.path("up")).unwrap();
    hale.event("bot", "blocked: llm-api is down");
    send(pid, Signal::KILL);
    hale.event("bot", "detected while llm-api is down: the process was ended by SIGKILL");
    hale.event("bot", "waits for llm-api");
    let status = place.status("bot");
    assert_eq!((&status["state"], &status["blocked_on"]), (&json!("blocked"), &json!("llm-api")));
    assert_eq!((&status["pid"], &status["restarts"]), (&Value::Null, &json!(0)));
    fs::write(place.path("up"), "").unwrap();
    hale.ready("bot");
    hale.event("bot", "it works again by itself");
    hale.stop();
    let decided = place.records("bot", "decided");
    let failures: Vec<&Value> = decided.iter().map(|decision| &decision["read"]["failures"]).collect();
    assert_eq!(failures, [&json!(0)], "it does not count");
}

/// A supervisor that takes over knows what is down before it has looked.
#[test]
fn a_blocked_service_stays_so_when_the_supervisor_is_replaced() {
    let place = Place::new();
    fs::write(place.path("up"), "").unwrap();
    let hale = place.hale(SERVICES);
    let pid = hale.ready("bot");
    hale.says("dependency llm-api is up");
    fs::remove_file(place.path("up")).unwrap();
    hale.event("bot", "blocked: llm-api is down");
    send(hale.supervisor(), Signal::KILL);
    hale.says("took over 1 running services");
    let status = place.status("bot");
    assert_eq!((&status["state"], &status["pid"]), (&json!("blocked"), &json!(pid)));
    assert_eq!(dependency(&place)["state"], "down");
    fs::write(place.path("up"), "").unwrap();
    hale.event("bot", "no longer blocked: llm-api is up");
    hale.stop();
    assert_eq!(place.records("bot", "spawn_intended").len(), 1);
}

#[test]
fn validate_shows_dependencies() {
    let place = Place::new();
    place.configure("", SERVICES);
    let shown = place.done(&["validate"]);
    let expected = "\nllm-api, a dependency\n  check exec: runs test -e ";
    assert!(shown.contains(expected) && shown.contains("  starts after llm-api\n"), "{shown}");
    let json = place.json(&["validate"]);
    assert_eq!(json["dependencies"][0]["checks"][0]["kind"], "exec");
}
