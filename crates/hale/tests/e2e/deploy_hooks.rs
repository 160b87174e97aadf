//! Data that move forward: what a release brings for them is run when it has to be, and nothing runs on data that it cannot read.

use crate::deploying::{LIVES, PASSES, SERVICE, begin, deploy, order, release, runs, text};
use crate::harness::{Hale, Place, is_alive, send};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

/// Only root can run a service as somebody else.
pub fn user() -> &'static str {
    if rustix::process::geteuid().is_root() { "nobody" } else { "" }
}

/// A service that tells when it starts, as a user who may not do much.
fn service() -> String {
    let user = if user().is_empty() { String::new() } else { format!("user = {:?}\n", user()) };
    let own = format!("[service.app]\n{user}environment = {{ WORD = \"up\", HALE_TO = \"mine\" }}\n");
    SERVICE.replace("[service.app]\n", &own)
}

/// Says that it starts, and what comes then.
pub fn app(place: &Place, name: &str, then: &str) -> String {
    place.text(&format!("echo '{name} starts' > @D/reports\n{then}"))
}

/// Writes a release with a `hale-release.toml` and the programs that it names: `bin/before` and `bin/after`.
pub fn with_notes(place: &Place, name: &str, app: &str, check: &str, notes: &str, hooks: [&str; 2]) {
    release(place, name, app, check);
    place.write(&format!("{name}/hale-release.toml"), notes);
    for (file, script) in ["before", "after"].into_iter().zip(hooks) {
        let file = format!("{name}/bin/{file}");
        place.write(&file, &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(place.path(&file), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

pub const BOTH: &str = "before_switch = [\"bin/before\", \"one\"]\nafter_rollback = [\"bin/after\"]\n";

/// Hale with a good release that says nothing.
fn with_good(place: &Place) -> (Hale<'_>, String) {
    let hale = begin(place, &service());
    release(place, "good", &app(place, "good", LIVES), PASSES);
    deploy(place, "good", 0);
    hale.event("app", "committed");
    let good = runs(place);
    assert_eq!(place.reported(), ["good starts"]);
    (hale, good)
}

/// The records of the switches of the service that are such a move.
pub fn moves(place: &Place, wanted: &str) -> Vec<Value> {
    place.records("app", "generation").into_iter().filter(|record| record["move"] == wanted).collect()
}

#[track_caller]
pub fn said(output: &Output, what: &[&str]) {
    let text = text(output);
    assert!(what.iter().all(|what| text.contains(what)), "{text}");
}

#[test]
fn before_switch_runs_as_the_services_user_and_what_it_prints_stands_in_the_record() {
    let place = Place::new();
    let (hale, good) = with_good(&place);
    let words =
        "echo \"$1 $HALE_HOOK $HALE_SERVICE $HALE_FROM $HALE_TO ${HALE_SNAPSHOT-none} $WORD $(id -un) $(pwd -P)\"";
    let before = format!(
        "{words} > @D/reports\ntouch bin/mine 2> /dev/null || touch @D/mine 2> /dev/null || :\necho copying\necho copy-7"
    );
    let notes = format!("data_format = 2\nmin_rollback = 1\n{BOTH}hook_timeout = \"30s\"\n");
    with_notes(&place, "new", &app(&place, "new", LIVES), PASSES, &notes, [&before, "exit 9"]);
    deploy(&place, "new", 0);
    let new = runs(&place);
    assert_ne!(new, good);
    let who = if user().is_empty() {
        String::from_utf8(std::process::Command::new("id").arg("-un").output().unwrap().stdout).unwrap()
    } else {
        user().into()
    };
    let root = place.path("state/releases/app").join(&new);
    let ran = format!("one before_switch app {good} {new} none up {} {}", who.trim(), root.display());
    assert_eq!(place.reported(), ["good starts", &ran, "new starts"]);
    let prepared = moves(&place, "prepared");
    let data = json!({"format": 2, "min_rollback": 1, "undoes": true, "snapshot": "copy-7"});
    assert_eq!(prepared.iter().map(|record| &record["data"]).collect::<Vec<_>>(), [&data]);
    if !user().is_empty() {
        assert!(!root.join("bin/mine").exists() && !place.path("mine").exists(), "it is nobody's to write");
    }
    hale.event("app", "its before_switch has run: snapshot copy-7");
    // Once it is committed, what it did stays: what cannot read that is not gone back to.
    said(&place.run(&["rollback", "app"]), &["reads data up to format 0", "takes 1 or more (min_rollback)"]);
    hale.stop();
}

#[test]
fn what_before_switch_refuses_is_not_switched_to_and_nothing_was_touched() {
    let place = Place::new();
    let (hale, good) = with_good(&place);
    let pid = place.status("app")["pid"].as_i64().unwrap();
    let fails = "echo trying; echo 'no room for a copy' >&2; exit 3";
    let hangs = "echo hangs > @D/reports; setsid sh -c 'echo $$ > @D/open/pid; exec sleep 1000'";
    let open = place.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    for (name, script, words) in [
        ("fails", fails, ["cannot run before_switch of", "failed (exit status: 3): no room for a copy"]),
        ("hangs", hangs, ["cannot run before_switch of", "did not end within 1 s and was killed"]),
        (
            "prints",
            "printf 'a\\033[2Jb'",
            ["its last line on standard output has control characters", "print what names the copy"],
        ),
        ("is-not-there", "exit 0", ["bin/other could not be started", "No such file"]),
    ] {
        let notes = if name == "is-not-there" {
            "before_switch = [\"bin/other\"]\n"
        } else {
            "before_switch = [\"bin/before\"]\nhook_timeout = \"1s\"\n"
        };
        with_notes(&place, name, &app(&place, name, LIVES), PASSES, notes, [script, ""]);
        said(&deploy(&place, name, 6), &words);
        let now = place.status("app");
        assert_eq!(
            (&now["pid"], &now["generation"], &now["switch"]),
            (&json!(pid), &json!(good), &Value::Null),
            "{name}"
        );
    }
    let slept: i32 = fs::read_to_string(place.path("open/pid")).unwrap().trim().parse().unwrap();
    assert!(!is_alive(slept), "what it started in another session outlives it");
    assert_eq!(place.reported(), ["good starts", "hangs"]);
    assert_eq!(moves(&place, "switched").len(), 1);
    let one = |record: &Value| record["end"]["end"].as_str().map(str::to_owned);
    let ends: Vec<_> = moves(&place, "ended").iter().map(one).collect();
    assert_eq!(ends.len(), 5, "{ends:?}");
    hale.stop();
}

/// A release that answers wrongly, and takes its time to end.
fn bad(place: &Place, notes: &str, after: &str) {
    let trap = "trap 'sleep 0.3; echo \"bad ends\" > @D/reports; exit 0' TERM\nwhile :; do sleep 0.02; done";
    let app = app(place, "bad", &place.text(trap));
    with_notes(place, "bad", &app, "echo no; exit 1", notes, ["echo before > @D/reports; echo copy-8", after]);
}

#[test]
fn after_rollback_runs_between_the_last_process_of_the_bad_one_and_the_first_of_the_good_one() {
    let place = Place::new();
    let (hale, good) = with_good(&place);
    let after = "echo \"after $HALE_HOOK $HALE_FROM $HALE_TO $HALE_SNAPSHOT $(id -un)\" > @D/reports";
    // It could not be gone back to the good one without it.
    bad(&place, &format!("data_format = 1\nmin_rollback = 1\n{BOTH}"), after);
    said(&deploy(&place, "bad", 4), &["was rolled back", "check exec"]);
    assert_eq!(runs(&place), good);
    let bad = moves(&place, "prepared")[0].clone();
    let of = moves(&place, "intended").into_iter().find(|record| record["id"] == bad["switch"]).unwrap();
    let of = of["intent"]["to"].as_str().unwrap().to_owned();
    let reported = place.reported();
    let expected = format!("after after_rollback {of} {good} copy-8");
    assert!(
        reported[4].starts_with(&expected) && (user().is_empty() || reported[4].ends_with(" nobody")),
        "{reported:?}"
    );
    assert_eq!(reported[..4], ["good starts", "before", "bad starts", "bad ends"]);
    assert_eq!(reported[5..], ["good starts"]);
    hale.event("app", "its after_rollback has run");
    // What was undone keeps nothing from being deployed.
    release(&place, "next", LIVES, PASSES);
    deploy(&place, "next", 0);
    hale.stop();
}

#[test]
fn nothing_is_started_on_data_that_nobody_knows_until_somebody_says_so() {
    let place = Place::new();
    let (hale, good) = with_good(&place);
    bad(&place, BOTH, "echo after > @D/reports; echo 'the copy is gone' >&2; exit 7");
    said(&deploy(&place, "bad", 1), &["cannot run after_rollback of", "failed (exit status: 7): the copy is gone"]);
    place.until(|| {
        let now = place.status("app");
        let is_so = now["state"] == "stopped" && now["pid"].is_null() && now["generation"] == json!(good);
        is_so.then_some(()).ok_or(now.to_string())
    });
    said(&place.run(&["status", "app"]), &["the copy is gone"]);
    assert_eq!(place.reported(), ["good starts", "before", "bad starts", "bad ends", "after"]);
    place.done(&["start", "app"]);
    hale.event("app", "ready: ");
    assert_eq!(runs(&place), good);
    assert_eq!(place.reported()[5..], ["good starts"]);
    hale.stop();
}

#[test]
fn what_cannot_read_the_data_is_not_gone_back_to_unless_somebody_insists() {
    let place = Place::new();
    let (hale, good) = with_good(&place);
    // It says that it leaves data that only format 2 and newer can read.
    release(&place, "bad", &app(&place, "bad", "exit 3"), PASSES);
    place.write("bad/hale-release.toml", "data_format = 3\nmin_rollback = 2\n");
    let why = ["reads data up to format 0", "takes 2 or more (min_rollback)"];
    said(&deploy(&place, "bad", 1), &why);
    let bad = moves(&place, "intended").pop().unwrap()["intent"]["to"].clone();
    assert_eq!(place.status("app")["generation"], bad);
    hale.event("app", "held");
    let rolled = place.run(&["rollback", "app"]);
    assert_eq!(rolled.status.code(), Some(6), "{rolled:?}");
    said(&rolled, &why);
    said(&deploy(&place, "good", 6), &why);
    assert_eq!(place.status("app")["generation"], bad);
    // A newer one that reads it goes, and what reads it is gone back to from there.
    release(&place, "next", &app(&place, "next", LIVES), PASSES);
    place.write("next/hale-release.toml", "data_format = 2\n");
    deploy(&place, "next", 0);
    said(&deploy(&place, "good", 6), &why);
    let forced = place.run(&["deploy", "--force", "app", place.path("good").to_str().unwrap()]);
    assert_eq!(forced.status.code(), Some(0), "{forced:?}");
    assert_eq!(runs(&place), good);
    hale.stop();
}

#[test]
fn a_file_that_is_wrong_is_refused_by_name_and_key_when_it_is_brought() {
    let place = Place::new();
    let (hale, good) = with_good(&place);
    for (text, words) in [
        ("before_swich = [\"x\"]\n", ["line 1: unknown key `before_swich`", "did you mean `before_switch`?"]),
        ("data_format = 1\nmin_rollback = 2\n", ["line 2: `min_rollback` (2) is more than `data_format` (1)", "make"]),
        ("hook_timeout = 60\n", ["`hook_timeout`", "add a unit: \"60s\""]),
        ("after_rollback = []\n", ["`after_rollback` is empty", "for example"]),
        ("data_format = ", ["line 1: ", "value"]),
    ] {
        release(&place, "wrong", LIVES, PASSES);
        place.write("wrong/hale-release.toml", text);
        let refused = deploy(&place, "wrong", 6);
        said(&refused, &["hale-release.toml"]);
        said(&refused, &words);
    }
    assert_eq!(runs(&place), good);
    assert_eq!(moves(&place, "intended").len(), 1, "nothing was begun");
    let listed = place.json(&["generations", "app"]);
    assert_eq!(listed["generations"].as_array().unwrap().len(), 1, "{listed}");
    hale.stop();
}

/// Begins to deploy and does not wait for the end.
#[track_caller]
fn begin_to_deploy(place: &Place, name: &str) {
    order(place, place.path(name).to_str().unwrap());
}

/// Hale is killed twice while `after_rollback` runs. What that has started goes with it, too: two of them at once would do half of the
/// work each.
#[track_caller]
fn killed_while_it_runs(place: &Place, (hale, good): (Hale<'_>, String)) {
    let loops = "while [ ! -e @D/go ]; do sleep 0.02; done; echo undone > @D/reports";
    bad(place, BOTH, &format!("echo after $HALE_SNAPSHOT > @D/reports\nsetsid --wait sh -c '{loops}'"));
    begin_to_deploy(place, "bad");
    place.report("after copy-8");
    send(hale.supervisor(), Signal::KILL);
    hale.says("took over");
    place.report("after copy-8");
    hale.kill_all();
    let hale = place.hale_again();
    place.report("after copy-8");
    place.write("go", "");
    hale.event("app", "rolled back, and healthy");
    assert_eq!(runs(place), good);
    let reported = place.reported();
    let since = reported.iter().position(|line| line == "bad ends").unwrap() + 1;
    let after = "after copy-8";
    assert_eq!(reported[since..], [after, after, after, "undone", "good starts"]);
    hale.stop();
}

#[test]
fn whoever_dies_while_after_rollback_runs_it_runs_again() {
    let place = Place::new();
    let begun = with_good(&place);
    killed_while_it_runs(&place, begun);
}

mod needs_root {
    use super::*;
    use crate::harness::as_nobody;

    #[test]
    fn without_cgroups_what_it_has_started_is_found_too() {
        let mut place = Place::new();
        as_nobody(&mut place);
        let hale = begin(&place, SERVICE);
        release(&place, "good", &app(&place, "good", LIVES), PASSES);
        deploy(&place, "good", 0);
        let good = runs(&place);
        killed_while_it_runs(&place, (hale, good));
    }
}

/// Waits for what somebody writes to the pipe's neighbour, and says so.
fn waits(name: &str) -> String {
    format!("echo \"{name} waits\" > @D/reports; while [ ! -e @D/{name} ]; do sleep 0.02; done")
}

#[test]
fn who_is_stopped_while_one_of_them_runs_stays_so() {
    let place = Place::new();
    let (hale, good) = with_good(&place);
    let stopped = || {
        let now = place.status("app");
        let is_so = now["state"] == "stopped" && now["pid"].is_null() && now["switch"]["stage"] != "switching";
        is_so.then_some(()).ok_or(now.to_string())
    };
    let notes = "before_switch = [\"bin/before\"]\nhook_timeout = \"1h\"\n";
    with_notes(&place, "slow", &app(&place, "slow", LIVES), PASSES, notes, [&waits("before"), ""]);
    begin_to_deploy(&place, "slow");
    place.report("before waits");
    place.done(&["stop", "app"]);
    place.write("before", "");
    hale.event("app", "switched to");
    place.until(stopped);
    place.done(&["start", "app"]);
    hale.event("app", "committed");
    assert_eq!(place.reported(), ["good starts", "before waits", "slow starts"]);
    // And on the way back.
    bad(&place, BOTH, &waits("after"));
    begin_to_deploy(&place, "bad");
    place.report("after waits");
    place.done(&["stop", "app"]);
    place.write("after", "");
    hale.event("app", "its after_rollback has run");
    place.until(stopped);
    place.done(&["start", "app"]);
    hale.event("app", "ready: ");
    assert_ne!(runs(&place), good);
    assert_eq!(place.reported()[3..], ["before", "bad starts", "bad ends", "after waits", "slow starts"]);
    hale.stop();
}

#[test]
fn whoever_dies_while_before_switch_runs_it_runs_again_or_nothing_was_switched() {
    let place = Place::new();
    let (hale, good) = with_good(&place);
    let notes = "data_format = 1\nbefore_switch = [\"bin/before\"]\nhook_timeout = \"1h\"\n";
    with_notes(&place, "new", &app(&place, "new", LIVES), PASSES, notes, [&waits("before"), ""]);
    begin_to_deploy(&place, "new");
    place.report("before waits");
    hale.kill_all();
    let hale = place.hale_again();
    hale.event("app", "ready: ");
    place.until(|| {
        let now = place.status("app");
        (now["switch"].is_null() && now["generation"] == json!(good)).then_some(()).ok_or(now.to_string())
    });
    assert_eq!(moves(&place, "switched").len(), 1);
    begin_to_deploy(&place, "new");
    place.report("before waits");
    send(hale.supervisor(), Signal::KILL);
    hale.says("took over");
    place.report("before waits");
    place.write("before", "");
    hale.event("app", "committed");
    let waits = "before waits";
    assert_eq!(place.reported(), ["good starts", waits, "good starts", waits, waits, "new starts"]);
    hale.stop();
}

/// More than there are threads that work on stores.
#[test]
fn others_are_deployed_while_many_wait_for_what_their_releases_bring() {
    const WAITING: usize = 17;
    let place = Place::new();
    let one =
        |number: usize| format!("[service.s{number}]\ncommand = [\"bin/app\"]\n[service.s{number}.generations]\n");
    let all: String = (0..WAITING).map(one).collect();
    let hale = place.hale(&format!("{SERVICE}{all}"));
    let notes = "before_switch = [\"bin/before\"]\nhook_timeout = \"1h\"\n";
    with_notes(&place, "waits", LIVES, PASSES, notes, ["echo waits > @D/reports; exec sleep 1000", ""]);
    release(&place, "good", LIVES, PASSES);
    for number in 0..WAITING {
        let service = format!("s{number}");
        hale.event(&service, "no release yet");
        let path = place.path("waits");
        let begun = place.run(&["deploy", "--no-wait", &service, path.to_str().unwrap()]);
        assert_eq!(begun.status.code(), Some(0), "{begun:?}");
        place.report("waits");
    }
    deploy(&place, "good", 0);
    hale.stop();
}

#[test]
fn hale_ends_at_once_while_one_of_them_runs_and_nothing_of_it_is_left() {
    let place = Place::new();
    let (hale, _) = with_good(&place);
    let script = "setsid --wait sh -c 'echo \"pid $$\" > @D/reports; exec sleep 1000'";
    let notes = "before_switch = [\"bin/before\"]\nhook_timeout = \"1h\"\n";
    with_notes(&place, "new", LIVES, PASSES, notes, [script, ""]);
    begin_to_deploy(&place, "new");
    let pid = place.report("pid ").rsplit(' ').next().unwrap().parse().unwrap();
    hale.stop();
    assert!(!is_alive(pid));
}
