//! What comes after a probation: the newest change is taken back for what fails later, put back where it was not the cause, and blamed
//! for nothing that failed before it.

use crate::deploying::{LIVES, PASSES, SERVICE, begin, deploy, release, runs, text};
use crate::harness::{Hale, Place};
use serde_json::{Value, json};
use std::fs;

/// How each switch so far ended.
fn ends(place: &Place) -> Vec<Value> {
    let moves = place.records("app", "generation").into_iter().filter(|record| record["move"] == "ended");
    moves.map(|record| record["end"].clone()).collect()
}

/// Two good releases that are the same but for their name. The second runs.
fn two<'a>(place: &'a Place, service: &str, app: &str, check: &str) -> (Hale<'a>, [String; 2]) {
    let hale = begin(place, service);
    let ids = ["one", "two"].map(|name| {
        release(place, name, &place.text(app), &place.text(check));
        deploy(place, name, 0);
        runs(place)[..12].to_owned()
    });
    (hale, ids)
}

/// Tried again while it is held.
fn often() -> String {
    SERVICE.replace("restart = { ", "restart = { held_delay = \"100ms\", ")
}

/// It is tried again and again, and nothing is switched, until the poison is gone: then it is seen that it was that.
#[track_caller]
fn stays_until_the_cause_is_gone(hale: &Hale<'_>, second: &str) {
    let place = hale.place;
    // The ledger comes a moment after what is told.
    let is_environmental =
        |found: Option<&Value>| (found == Some(&json!("environmental"))).then_some(()).ok_or(format!("{found:?}"));
    place.until(|| is_environmental(ends(place).last()));
    let so_far = ends(place);
    for _ in 0..3 {
        let held = hale.event("app", "decided to hold it");
        assert!(held.contains("failed in the same way, so the cause is elsewhere"), "{held}");
    }
    assert_eq!(place.json(&["quarantine", "list"]), json!([]));
    fs::remove_file(place.path("poison")).unwrap();
    place.until(|| {
        let status = place.status("app");
        (status["state"] == "healthy" && runs(place).starts_with(second)).then_some(()).ok_or(status.to_string())
    });
    assert_eq!(ends(place), so_far);
    place.until(|| is_environmental(place.causes("app").pop().map(|(_, outcome)| json!(outcome)).as_ref()));
}

/// What was good does not even get healthy.
#[test]
fn a_change_that_is_not_the_cause_is_put_back_when_what_was_good_fails_at_once() {
    let place = Place::new();
    let app = "until test -e @D/poison; do sleep 0.02; done; exit 9";
    let (hale, [one, two]) = two(&place, &often(), app, "! test -e @D/poison");
    place.write("poison", "");
    hale.event("app", &format!("is to go back from {two} to {one}"));
    hale.event("app", &format!("goes back to {two}, because what was known to be good fails, too"));
    hale.event("app", "no more is switched: the cause is elsewhere");
    stays_until_the_cause_is_gone(&hale, &two);
    hale.stop();
}

/// What was good is healthy again before it fails, so that the change is quarantined first.
#[test]
fn a_change_that_is_not_the_cause_is_cleared_and_put_back_when_what_was_good_fails_later() {
    let place = Place::new();
    let app = ": >@D/passed; until test -e @D/poison && test $(wc -l <@D/passed) -ge 3; do sleep 0.02; done; exit 9";
    let (hale, [one, two]) = two(&place, &often(), app, "echo >>@D/passed");
    place.write("poison", "");
    hale.event("app", &format!("is to go back from {two} to {one}"));
    hale.event("app", &format!("{two} is quarantined: not switched to by itself again"));
    hale.event(
        "app",
        &format!("{two} is quarantined no longer, because what was known to be good failed in the same way"),
    );
    hale.event("app", &format!("is to go forward again from {one} to {two}"));
    hale.event("app", "no more is switched: the cause is elsewhere");
    stays_until_the_cause_is_gone(&hale, &two);
    hale.stop();
}

const DISK: &str = r#"
[[service.app.check]]
kind = "exec"
name = "disk"
command = ["test", "-e", "@D/disk"]
every = "100ms"
failures = 2
"#;

/// It tells nothing of the change: that is neither taken back nor called good.
#[test]
fn a_check_that_an_incident_is_about_already_takes_nothing_back() {
    let place = Place::new();
    place.write("disk", "");
    let service = SERVICE.replace("within = \"3s\"", "within = \"1s\"");
    let (hale, _) = two(&place, &format!("{service}{DISK}"), LIVES, PASSES);
    fs::remove_file(place.path("disk")).unwrap();
    // No process runs that could be asked.
    hale.event("app", "held: quick restarts are given up");
    release(&place, "three", LIVES, PASSES);
    let said = text(&deploy(&place, "three", 1));
    assert!(said.contains("check disk fails, and it failed before the switch too"), "{said}");
    let status = place.status("app");
    assert!(!status["generation"].is_null() && status["grade"].is_null() && status["switch"].is_null(), "{status}");
    place.write("disk", "");
    hale.event("app", "recovered in");
    assert_eq!(place.status("app")["generation"], status["generation"]);
    assert_eq!(place.json(&["quarantine", "list"]), json!([]));
    hale.stop();
}

/// Whoever reads of it later needs nobody who was there.
#[test]
fn the_story_of_a_deploy_that_went_back_has_all_of_it() {
    let place = Place::new();
    let (hale, [_, two]) = two(&place, SERVICE, LIVES, PASSES);
    release(&place, "bad", "echo cannot reach the moon >&2; exit 3", PASSES);
    let said = text(&deploy(&place, "bad", 4));
    hale.stop();
    let incident = place.incidents().pop().unwrap();
    let id = incident["id"].to_string();
    assert!(said.contains(&format!("`hale incident {id}`")), "{said}");
    let quarantine = place.records("app", "generation").into_iter().find(|record| record["move"] == "quarantined");
    let bad = quarantine.unwrap()["bad"]["id"].as_str().unwrap().to_owned();
    let story = place.done(&["incident", &id]);
    let why = "it is on probation: the process exited with status 3";
    for what in [
        &format!("incident {id}: app, exit, rolled_back in "),
        ", down for ",
        "detected: the process exited with status 3\n",
        "the fault is that of a change, because it fails on probation\n",
        &format!("decided to go back to {two}, because it fails on probation\n"),
        &format!("goes back to {two}, because {why}\n"),
        &format!("switched to {two}\n"),
        &format!("rolled back, and healthy, because {why}\n"),
        &format!("{} is quarantined: not switched to by itself again, because {why}\n", &bad[..12]),
        "what was good works again: rolled back in ",
        "  | cannot reach the moon\n",
    ] {
        assert!(story.contains(what), "{what}: {story}");
    }
    assert!(incident["down_ms"].as_f64().is_some() && incident["recovery_ms"].as_f64().is_some(), "{incident}");
    // And why it was that rung, to be made once more.
    let explained = place.json(&["explain", &id]);
    let ladder = explained.as_array().unwrap().last().unwrap();
    let read = &ladder["read"]["take_back"];
    assert_eq!(
        (&ladder["again"], &read["current"], &read["on_probation"]),
        (&json!("same"), &json!(bad), &json!(true))
    );
    assert!(read["back"].as_str().unwrap().starts_with(&two), "{ladder}");
}

mod needs_python {
    use super::*;

    const APP: &str = r#"
import pathlib, time
def parse(path):
    return {}[path.read_text()]
while not (poison := pathlib.Path("@D/poison")).exists():
    time.sleep(0.02)
parse(poison)
"#;

    /// Long before it is a crash loop.
    #[test]
    fn the_same_exception_three_times_in_a_row_takes_the_newest_release_back() {
        let place = Place::new();
        let hale = begin(&place, &SERVICE.replace("failures = 3", "failures = 50"));
        release(&place, "good", LIVES, PASSES);
        deploy(&place, "good", 0);
        let good = runs(&place);
        release(&place, "new", "exec python3 bin/app.py", PASSES);
        place.write("new/bin/app.py", APP);
        deploy(&place, "new", 0);
        let new = runs(&place);
        place.write("poison", "moon");
        for _ in 0..3 {
            hale.event("app", "its last output has an exception: KeyError in app.py:parse (Python)");
        }
        hale.event("app", "what was good works again: rolled back");
        assert_eq!(runs(&place), good);
        let quarantined = place.json(&["quarantine", "list"]);
        assert_eq!(quarantined[0]["generation"], *new, "{quarantined}");
        hale.stop();
        let decided = place.records("app", "decided");
        let rungs: Vec<&str> = decided.iter().map(|decision| decision["rung"].as_str().unwrap()).collect();
        let (last, before) = rungs.split_last().unwrap();
        assert!(*last == "take_back" && before.len() >= 2 && before.iter().all(|rung| *rung == "restart"), "{rungs:?}");
        let last = decided.last().unwrap();
        assert!(last["read"]["alike"]["times"].as_u64().unwrap() >= 3, "{last}");
        assert_eq!(place.causes("app").pop(), Some(("exit".into(), "rolled_back".into())));
    }
}
