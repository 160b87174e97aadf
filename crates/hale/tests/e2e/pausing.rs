//! Pausing a service: it is watched, and left alone until an operator or the clock ends that.

use crate::harness::{Place, is_alive, send};
use rustix::process::Signal;
use serde_json::json;

/// Monit's `unmonitor` and a hand on the machine: what fails meanwhile stays as it is, also for the next supervisor, and
/// is healed the moment the pause is taken back.
#[test]
fn what_fails_in_a_pause_is_left_alone_until_it_is_resumed() {
    let place = Place::new();
    let hale = place.hale(
        r#"
[service.crashes]
command = ["sleep", "1000"]
[service.fails]
command = ["sleep", "1000"]
[[service.fails.check]]
kind = "exec"
command = ["test", "!", "-e", "@D/broken"]
every = "50ms"
timeout = "20s"
failures = 1
"#,
    );
    let (crashes, fails) = (hale.ready("crashes"), hale.ready("fails"));
    for service in ["crashes", "fails"] {
        let said = place.done(&["pause", service, "--for", "1h"]);
        assert_eq!(said.trim(), format!("{service} is paused for 1 h: it is watched, and nothing is done about it"));
    }
    send(crashes, Signal::KILL);
    hale.event("crashes", "detected: the process was ended by SIGKILL");
    hale.event("crashes", "has paused it");
    place.write("broken", "");
    hale.event("fails", "has paused it");

    send(hale.supervisor(), Signal::KILL);
    hale.says("took over");
    let (gone, left) = (place.status("crashes"), place.status("fails"));
    assert_eq!((&gone["state"], &gone["pid"]), (&json!("paused"), &json!(null)));
    assert_eq!((&left["state"], &left["pid"]), (&json!("paused"), &json!(fails)));
    assert!(gone["paused_until"].is_string(), "{gone}");
    let detail = gone["detail"].as_str().unwrap();
    assert!(detail.contains("for 59 min") && detail.starts_with("paused by "), "{detail}");
    assert!(is_alive(fails));

    place.done(&["resume", "crashes"]);
    hale.ready("crashes");
    std::fs::remove_file(place.path("broken")).unwrap();
    hale.event("fails", "closed: observed");
    place.done(&["resume", "fails"]);
    assert_eq!(
        (place.status("fails")["pid"].clone(), place.status("fails")["state"].clone()),
        (json!(fails), json!("healthy"))
    );
    hale.stop();

    assert_eq!(place.causes("crashes"), [("signal".into(), "recovered".into())]);
    assert_eq!(place.causes("fails"), [("check".into(), "observed".into())]);
    let ordered = place.records("crashes", "ordered");
    let uid = rustix::process::getuid().as_raw();
    assert!(ordered.iter().all(|record| record["actor"]["uid"] == json!(uid)), "{ordered:?}");
    let orders: Vec<&str> = ordered.iter().map(|record| record["order"]["order"].as_str().unwrap()).collect();
    assert_eq!(orders, ["pause", "resume"]);
}

/// A pause that nobody takes back ends by itself; and operators act in it as ever.
#[test]
fn a_pause_ends_by_itself_and_does_not_bind_the_hand_that_gave_it() {
    let place = Place::new();
    let hale = place.hale("[service.web]\ncommand = [\"sleep\", \"1000\"]\n");
    let first = hale.ready("web");
    place.done(&["pause", "web", "--for", "30d"]);
    place.done(&["restart", "web"]);
    let second = hale.ready("web");
    assert!(!is_alive(first) && is_alive(second));
    assert_eq!(place.status("web")["state"], "paused");
    send(second, Signal::KILL);
    hale.event("web", "has paused it");
    place.done(&["pause", "web", "--for", "1s"]);
    hale.event("web", "healed again, because its pause is over");
    hale.ready("web");
    assert_eq!(place.status("web")["paused_until"], json!(null));
    assert_eq!(place.done(&["resume", "web"]).trim(), "web is not paused");
    hale.stop();
}

#[test]
fn a_pause_must_say_how_long_within_bounds() {
    let place = Place::new();
    for (arguments, said) in [
        (&["pause", "web"][..], "--for <TIME>"),
        (&["pause", "web", "--for", "10ms"][..], "at least 1 s and at most 30 d"),
        (&["pause", "web", "--for", "31d"][..], "at least 1 s and at most 30 d"),
        (&["pause", "web", "--for", "soon"][..], "soon"),
    ] {
        let output = place.run(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), text.contains(said)), (Some(2), true), "{arguments:?}: {text}");
    }
}
