//! Deploying releases: good ones are committed, bad ones go back by themselves, and the service is never without the last good one.

use crate::harness::{Hale, Place, send, words};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

/// A service whose program and check are in its release.
pub const SERVICE: &str = r#"
[service.app]
command = ["bin/app"]
start.within = "3s"
stop.grace = "2s"
restart = { delay = "20ms", crash_loop = { failures = 3, within = "60s" } }
[[service.app.check]]
kind = "exec"
command = ["bin/check"]
every = "100ms"
timeout = "1s"
failures = 2
[service.app.generations]
probation = "800ms"
"#;

pub const LIVES: &str = "exec sleep 1000";
pub const PASSES: &str = "exit 0";

/// Writes a release whose program and check are these scripts.
pub fn release(place: &Place, name: &str, app: &str, check: &str) -> String {
    let bin = place.path(name).join("bin");
    fs::create_dir_all(&bin).unwrap();
    for (file, text) in [("app", app), ("check", check)] {
        let path = bin.join(file);
        fs::write(&path, format!("#!/bin/sh\necho {name} >&2\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    place.path(name).display().to_string()
}

/// Starts Hale with a service that has no release yet.
pub fn begin<'a>(place: &'a Place, service: &str) -> Hale<'a> {
    let hale = place.hale(service);
    hale.event("app", "stopped, because no release yet");
    hale
}

#[track_caller]
pub fn deploy(place: &Place, name: &str, code: i32) -> Output {
    deploy_named(place, place.path(name).to_str().unwrap(), code)
}

/// What a store has already.
#[track_caller]
pub fn deploy_named(place: &Place, generation: &str, code: i32) -> Output {
    let output = place.run(&["deploy", "app", generation]);
    assert_eq!(output.status.code(), Some(code), "{generation}: {output:?}");
    output
}

fn status(place: &Place) -> Value {
    place.json(&["status", "app"])["services"][0].clone()
}

/// The name of the release that the process runs in.
pub fn runs(place: &Place) -> String {
    let pid = status(place)["pid"].as_i64().unwrap();
    let directory = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    directory.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Waits until no switch is under way and the service works, and gives what it runs then: by one process of what the store shows, which
/// `current` gives, store and ledger are whole, and Hale has kept its own rules.
pub fn over(place: &Place, what: &str, current: impl Fn() -> String) -> String {
    place.until(|| {
        let output = place.run(&["status", "app", "--json"]);
        if !output.status.success() {
            return Err(text(&output));
        }
        let status = serde_json::from_slice::<Value>(&output.stdout).unwrap()["services"][0].clone();
        let is_over = status["switch"].is_null() && status["state"] == "healthy" && status["incident"].is_null();
        is_over.then_some(()).ok_or(format!("{what}: {status}"))
    });
    let (runs, current, status) = (runs(place), current(), place.status("app"));
    assert_eq!((&status["generation"], &status["observed"]), (&current.as_str().into(), &Value::Null), "{what}");
    assert!(place.records("app", "violated").is_empty(), "{what}");
    assert_eq!(current.rsplit('/').next().unwrap(), runs, "{what}");
    place.done(&["generations", "app", "--verify"]);
    place.done(&["ledger", "verify"]);
    let instances = place.living().into_iter().filter(|&pid| words(pid).starts_with(&["sleep".into(), "1000".into()]));
    assert_eq!(instances.count(), 1, "{what}");
    runs
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_release_that_fails_on_probation_goes_back_whatever_is_wrong_with_it() {
    let place = Place::new();
    let hale = begin(&place, SERVICE);
    assert_eq!((&status(&place)["state"], &status(&place)["generation"]), (&Value::from("stopped"), &Value::Null));
    release(&place, "good", LIVES, PASSES);
    deploy(&place, "good", 0);
    let good = status(&place);
    assert_eq!((&good["state"], &good["grade"]), (&Value::from("healthy"), &Value::from("provisional")));
    let id = good["generation"].as_str().unwrap();
    assert_eq!(runs(&place), id);
    let bad = [
        ("crashes-at-once", "exit 3", PASSES, "exited with status 3"),
        ("crashes-later", "sleep 0.5; exit 4", PASSES, "exited with status 4"),
        ("answers-wrongly", LIVES, "echo no; exit 1", "check exec: exited with status 1: no"),
        ("hangs", LIVES, "sleep 100", "not ready within 3 s"),
        ("lacks-a-library", "exec /no/such/loader", PASSES, "exited with status 127"),
    ];
    for (name, app, check, evidence) in bad {
        release(&place, name, app, check);
        let output = deploy(&place, name, 4);
        assert!(text(&output).contains(evidence), "{name}: {}", text(&output));
        let after = status(&place);
        assert_eq!((&after["state"], &after["generation"]), (&Value::from("healthy"), &Value::from(id)), "{name}");
        assert_eq!(runs(&place), id, "{name}");
    }
    place.until(|| {
        let incidents = place.incidents();
        let is_so = |incident: &Value| incident["outcome"] == "rolled_back" && incident["blame"] == "change";
        incidents.iter().all(is_so).then_some(()).ok_or(format!("{incidents:?}"))
    });
    // None of them is tried again by mistake.
    let refused = deploy(&place, "hangs", 6);
    assert!(text(&refused).contains("quarantined"), "{}", text(&refused));
    let quarantine = place.json(&["quarantine", "list"]);
    assert_eq!(quarantine.as_array().unwrap().len(), bad.len(), "{quarantine}");
    let forced = place.run(&["deploy", "--force", "app", place.path("hangs").to_str().unwrap()]);
    assert_eq!(forced.status.code(), Some(4), "{forced:?}");
    let again = deploy(&place, "good", 0);
    assert!(text(&again).contains("already"), "{}", text(&again));
    hale.stop();
}

#[test]
fn a_crash_loop_after_the_commit_takes_the_newest_release_back() {
    let place = Place::new();
    let hale = begin(&place, SERVICE);
    release(&place, "good", LIVES, PASSES);
    deploy(&place, "good", 0);
    let good = runs(&place);
    // It works until its data are such as it cannot read.
    let app = place.text("test -e @D/poison && exit 9; exec sleep 1000");
    release(&place, "later-bad", &app, PASSES);
    deploy(&place, "later-bad", 0);
    assert_ne!(runs(&place), good);
    place.write("poison", "");
    let pid = status(&place)["pid"].as_i64().unwrap();
    crash(pid);
    hale.event("app", "what was good works again: rolled back");
    assert_eq!(runs(&place), good);
    hale.stop();
    let incident = place.incidents().pop().unwrap();
    assert_eq!((&incident["outcome"], &incident["blame"]), (&Value::from("rolled_back"), &Value::from("change")));
}

/// Not at once: it has answered for a while, and most of its probation is over.
#[test]
fn a_release_that_crashes_five_seconds_after_its_start_goes_back() {
    let place = Place::new();
    let hale = begin(&place, SERVICE);
    release(&place, "good", LIVES, PASSES);
    deploy(&place, "good", 0);
    let good = runs(&place);
    place.configure("", &SERVICE.replace("800ms", "8s"));
    place.done(&["reload"]);
    release(&place, "bad", "sleep 5; exit 7", PASSES);
    let said = text(&deploy(&place, "bad", 4));
    assert!(said.contains("it is on probation: the process exited with status 7"), "{said}");
    assert_eq!((&status(&place)["state"], runs(&place)), (&Value::from("healthy"), good));
    hale.stop();
}

pub fn crash(pid: i64) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::SEGV).unwrap();
}

#[test]
fn the_first_release_that_fails_leaves_the_service_stopped() {
    let place = Place::new();
    let hale = begin(&place, SERVICE);
    release(&place, "bad", "exit 3", PASSES);
    let output = deploy(&place, "bad", 1);
    assert!(text(&output).contains("exited with status 3"), "{}", text(&output));
    assert_eq!(status(&place)["state"], "stopped");
    release(&place, "good", LIVES, PASSES);
    deploy(&place, "good", 0);
    hale.stop();
}

/// Starts to deploy a release that takes long to prove itself, and waits until it runs.
#[track_caller]
pub fn begin_to_deploy(place: &Place, name: &str) {
    order(place, place.path(name).to_str().unwrap());
    on_probation(place);
}

/// Begins to deploy what a store has already, and waits for nothing.
#[track_caller]
pub fn order(place: &Place, generation: &str) {
    let output = place.run(&["deploy", "--no-wait", "app", generation]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// Waits until a release is on probation and works.
#[track_caller]
pub fn on_probation(place: &Place) {
    place.until(|| {
        let status = status(place);
        let is_so = status["switch"]["stage"] == "probation" && status["state"] == "healthy";
        is_so.then_some(()).ok_or(status.to_string())
    });
}

#[test]
fn whoever_dies_during_a_probation_it_goes_on_or_back() {
    let place = Place::new();
    let slow = SERVICE.replace("800ms", "1h");
    let hale = begin(&place, SERVICE);
    release(&place, "good", LIVES, PASSES);
    deploy(&place, "good", 0);
    let good = runs(&place);
    hale.stop();
    let hale = place.hale(&slow);
    hale.event("app", "ready");
    release(&place, "new", LIVES, PASSES);
    begin_to_deploy(&place, "new");
    let new = runs(&place);
    assert_ne!(new, good);
    // The supervisor: it is still on probation, and its failure still goes back.
    send(hale.supervisor(), rustix::process::Signal::KILL);
    hale.says("took over");
    assert_eq!((&*runs(&place), &status(&place)["switch"]["stage"]), (&*new, &Value::from("probation")));
    // All of it at once, on the same boot: the probation goes on.
    hale.kill_all();
    let hale = place.hale(&slow);
    hale.event("app", "ready");
    assert_eq!((&*runs(&place), &status(&place)["switch"]["stage"]), (&*new, &Value::from("probation")));
    crash(status(&place)["pid"].as_i64().unwrap());
    hale.event("app", "what was good works again: rolled back");
    assert_eq!(runs(&place), good);
    hale.stop();
}

/// A service that cannot start by a configuration that it does not understand.
pub const CONFIGURED: &str = r#"
[service.app]
command = ["sh", "-c", "grep -q '^good' @D/etc/app.conf || exit 5; exec sleep 1000"]
directory = "/"
restart = { delay = "20ms", crash_loop = { failures = 3, within = "60s" } }
[service.app.generations]
store = "command"
list = ["/bin/true"]
current = ["/bin/true"]
stage = ["/bin/true"]
activate = ["/bin/true"]
revert = ["/bin/true"]
probation = "500ms"
files = ["@D/etc/app.conf"]
"#;

#[test]
fn a_file_that_somebody_broke_is_put_back_alone_and_one_that_works_is_kept() {
    let place = Place::new();
    fs::create_dir(place.path("etc")).unwrap();
    place.write("etc/app.conf", "good 1\n");
    let hale = place.hale(CONFIGURED);
    hale.event("app", "ready");
    // What works is known to be good once a process has run by it for long enough.
    place.write("etc/app.conf", "good 2\npassword = hunter2-is-secret\n");
    let told = hale.event("app", "its files were changed: ");
    assert!(told.contains("has another content") && !told.contains("hunter2"), "{told}");
    hale.event("app", "its files: switched to");
    place.done(&["restart", "app"]);
    hale.event("app", "its files: committed");
    // Nothing is done to a service that runs on by what it read; its next start fails by what is there now.
    place.write("etc/app.conf", "bad\n");
    hale.event("app", "its files: switched to");
    let pid = status(&place)["pid"].as_i64().unwrap();
    crash(pid);
    hale.event("app", "what was good works again: rolled back");
    let text = fs::read_to_string(place.path("etc/app.conf")).unwrap();
    assert_eq!(text, "good 2\npassword = hunter2-is-secret\n");
    // The ledger comes a moment after what is told.
    hale.stop();
    let incident = place.incidents().pop().unwrap();
    assert_eq!((&incident["outcome"], &incident["blame"]), (&Value::from("rolled_back"), &Value::from("change")));
}
