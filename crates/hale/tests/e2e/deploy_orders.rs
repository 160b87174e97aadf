//! Orders that come amidst a deploy, and those that change nothing or may not: each is carried out, or refused with its reason.

use crate::deploying::{
    LIVES, PASSES, SERVICE, begin, begin_to_deploy, crash, deploy, on_probation, release, runs, text,
};
use crate::harness::{Hale, Place, is_alive};
use serde_json::json;
use std::process::{Child, Output, Stdio};

fn slow() -> String {
    SERVICE.replace("800ms", "1h")
}

/// A service whose good release is known, by a configuration in which the next one takes an hour.
fn with_good<'a>(place: &'a Place, service: &str) -> Hale<'a> {
    let hale = begin(place, SERVICE);
    for name in ["good", "new"] {
        release(place, name, LIVES, PASSES);
    }
    deploy(place, "good", 0);
    place.configure("", service);
    place.done(&["reload"]);
    hale
}

/// A client that waits for the end of a deploy, when the new release runs.
fn waits(place: &Place, name: &str) -> Child {
    let mut client = place.command();
    client.args(["deploy", "app"]).arg(place.path(name)).stdout(Stdio::piped()).stderr(Stdio::piped());
    let client = client.spawn().unwrap();
    on_probation(place);
    client
}

#[track_caller]
fn ends(client: Child, code: i32, what: &str) -> Output {
    let output = client.wait_with_output().unwrap();
    assert!(output.status.code() == Some(code) && text(&output).contains(what), "{output:?}");
    output
}

fn pid(place: &Place) -> i32 {
    i32::try_from(place.status("app")["pid"].as_i64().unwrap()).unwrap()
}

#[test]
fn of_two_deploys_at_once_one_is_busy() {
    let place = Place::new();
    let hale = with_good(&place, &slow());
    release(&place, "third", LIVES, PASSES);
    let good = runs(&place);
    begin_to_deploy(&place, "new");
    let second = deploy(&place, "third", 7);
    assert!(text(&second).contains("app is being switched to"), "{}", text(&second));
    // Both at the same moment, so that neither sees the other one's before it sends.
    place.done(&["rollback", "app"]);
    assert_eq!(runs(&place), good);
    let both = ["new", "third"].map(|name| {
        let mut client = place.command();
        client.args(["deploy", "--no-wait", "app"]).arg(place.path(name)).stdout(Stdio::piped()).stderr(Stdio::piped());
        client.spawn().unwrap()
    });
    let mut codes = both.map(|client| client.wait_with_output().unwrap().status.code());
    codes.sort();
    assert_eq!(codes, [Some(0), Some(7)]);
    hale.stop();
}

#[test]
fn what_runs_already_is_not_started_again() {
    let place = Place::new();
    let hale = with_good(&place, SERVICE);
    let before = pid(&place);
    let said = text(&deploy(&place, "good", 0));
    assert!(said.contains("already"), "{said}");
    assert_eq!(pid(&place), before);
    hale.stop();
}

#[test]
fn rollbacks_are_ordered_or_refused() {
    let place = Place::new();
    let hale = with_good(&place, SERVICE);
    let refused = |what: &str| {
        let output = place.run(&["rollback", "app"]);
        assert!(output.status.code() == Some(6) && text(&output).contains(what), "{output:?}");
    };
    refused("no older generation that is known to be good");
    let good = runs(&place);
    deploy(&place, "new", 0);
    let new = runs(&place);
    place.done(&["rollback", "app"]);
    assert_eq!(runs(&place), good);
    // What somebody has left is known to be good no longer; what was good before is named.
    let output = place.run(&["rollback", "app", "--to", &new]);
    assert!(output.status.code() == Some(6) && text(&output).contains("is not known to be good"), "{output:?}");
    deploy(&place, "new", 0);
    place.done(&["rollback", "app", "--to", &good]);
    deploy(&place, "new", 0);
    assert_eq!(runs(&place), new);
    place.configure("", &format!("{SERVICE}rollback = \"never\"\n"));
    place.done(&["reload"]);
    refused("never");
    assert_eq!(runs(&place), new);
    hale.stop();
}

/// Data have moved forward: what fails on probation is not taken back by itself, and by an order it is.
#[test]
fn where_hale_has_to_ask_it_holds_until_somebody_rolls_back() {
    let place = Place::new();
    let ask = format!("{}rollback = \"ask\"\n", SERVICE.replace("failures = 3", "failures = 2"));
    let hale = with_good(&place, &ask);
    let good = runs(&place);
    release(&place, "bad", "exit 3", PASSES);
    let output = deploy(&place, "bad", 1);
    assert!(text(&output).contains("rollback"), "{}", text(&output));
    hale.event("app", "held");
    let rolled = place.run(&["rollback", "app"]);
    assert_eq!(rolled.status.code(), Some(0), "{rolled:?}");
    assert_eq!((runs(&place), &place.status("app")["state"]), (good, &json!("healthy")));
    hale.stop();
}

/// Nothing is done in a pause; what failed meanwhile is healed after it: it goes back.
#[test]
fn a_pause_amidst_a_probation_is_kept_and_the_failure_goes_back_after_it() {
    let place = Place::new();
    let hale = with_good(&place, &slow());
    let good = runs(&place);
    let client = waits(&place, "new");
    let new = runs(&place);
    place.done(&["pause", "app", "--for", "1h"]);
    crash(place.status("app")["pid"].as_i64().unwrap());
    hale.event("app", "detected: ");
    hale.event("app", "has paused it");
    let status = place.status("app");
    assert_eq!((&status["state"], status["generation"].as_str()), (&json!("paused"), Some(&*new)));
    place.done(&["resume", "app"]);
    ends(client, 4, "rolled back");
    assert_eq!(runs(&place), good);
    hale.stop();
}

#[test]
fn a_stop_amidst_a_probation_stops_and_a_start_goes_on_with_it() {
    let place = Place::new();
    let hale = with_good(&place, &slow());
    let client = waits(&place, "new");
    let new = runs(&place);
    place.done(&["stop", "app"]);
    // Nobody knows when it is started again.
    ends(client, 1, "was stopped meanwhile");
    let status = place.status("app");
    assert_eq!((&status["state"], &status["switch"]["stage"]), (&json!("stopped"), &json!("probation")));
    place.done(&["start", "app"]);
    assert_eq!(runs(&place), new);
    place.done(&["rollback", "app"]);
    place.until(|| {
        let status = place.status("app");
        (status["state"] == "healthy" && status["switch"].is_null()).then_some(()).ok_or(status.to_string())
    });
    hale.stop();
}

#[test]
fn a_shorter_probation_comes_into_force_amidst_it() {
    let place = Place::new();
    let hale = with_good(&place, &slow());
    let client = waits(&place, "new");
    let before = pid(&place);
    place.configure("", SERVICE);
    place.done(&["reload"]);
    ends(client, 0, "known to be good now");
    assert_eq!(pid(&place), before);
    hale.stop();
}

#[test]
fn whoever_waits_is_told_that_the_service_has_no_generations_any_more() {
    let place = Place::new();
    let hale = with_good(&place, &slow());
    let client = waits(&place, "new");
    let (without, _) = SERVICE.split_once("[service.app.generations]").unwrap();
    place.configure("", &without.replace("\"bin/", "\"@D/new/bin/"));
    place.done(&["reload"]);
    ends(client, 1, "was changed while it was switched");
    place.until(|| {
        let status = place.status("app");
        (status["state"] == "healthy" && status["switch"].is_null()).then_some(()).ok_or(status.to_string())
    });
    hale.stop();
}

#[test]
fn whoever_waits_is_told_that_the_service_is_gone() {
    let place = Place::new();
    let hale = with_good(&place, &slow());
    let client = waits(&place, "new");
    let before = pid(&place);
    place.configure("", "[service.other]\ncommand = [\"sleep\", \"1000\"]\n");
    place.done(&["reload"]);
    ends(client, 1, "not known to be good");
    assert!(!is_alive(before));
    hale.stop();
}

/// The machine is not started anew, Hale alone is: what was shown so far counts, and the rest is shown.
#[test]
fn hale_ends_amidst_a_probation_and_goes_on_with_it() {
    let place = Place::new();
    let hale = with_good(&place, &slow());
    let client = waits(&place, "new");
    let new = runs(&place);
    hale.stop();
    ends(client, 1, "Hale ends while app is being switched");
    let hale = place.hale(SERVICE);
    hale.event("app", "committed");
    assert_eq!(runs(&place), new);
    release(&place, "bad", LIVES, "exit 1");
    place.run(&["deploy", "--no-wait", "app", place.path("bad").to_str().unwrap()]);
    hale.event("app", "switched to");
    hale.stop();
    let hale = place.hale(SERVICE);
    hale.event("app", "what was good works again: rolled back");
    assert_eq!(runs(&place), new);
    hale.stop();
}
