//! `mode = "observe"` with what Hale would kill, restart or give up elsewhere: nothing is touched, all of it is told.

use crate::harness::{Place, is_alive, send};
use rustix::process::Signal;
use serde_json::json;
use std::net::TcpListener;

/// A crash, a program that does not answer, and one that does not become ready: each is an incident, none leads to an
/// act, and the next supervisor does nothing either. What an operator orders is done.
#[test]
fn nothing_is_killed_and_nothing_started_whoever_watches() {
    let place = Place::new();
    // Connections are taken by the kernel, and nobody answers them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let services = format!(
        r#"
[service.crashes]
command = ["sleep", "1000"]
[service.hangs]
command = ["sleep", "1000"]
start = {{ ready = "running", within = "200ms" }}
[[service.hangs.check]]
kind = "http"
url = "http://{}/"
every = "50ms"
timeout = "40ms"
failures = 2
[service.late]
command = ["sleep", "1000"]
start.ready = "notify"
start.within = "200ms"
[service.after]
command = ["sleep", "1000"]
after = ["crashes"]
"#,
        silent.local_addr().unwrap()
    );
    let hale = place.hale_with("mode = \"observe\"", &services);
    let crashes = hale.ready("crashes");
    let (hangs, late, after) = (hale.started("hangs"), hale.started("late"), hale.ready("after"));
    hale.event("hangs", "decided to do nothing, because mode is \"observe\"");
    hale.event("late", "decided to do nothing, because mode is \"observe\"");
    send(crashes, Signal::KILL);
    hale.event("crashes", "decided to do nothing, because mode is \"observe\"");
    hale.event("crashes", "stopped");

    for _ in 0..2 {
        send(hale.supervisor(), Signal::KILL);
        hale.says("took over");
        assert_eq!(place.status("crashes")["pid"], json!(null));
        for (service, pid) in [("hangs", hangs), ("late", late), ("after", after)] {
            assert!(is_alive(pid), "{service}");
            assert_eq!(place.status(service)["pid"], json!(pid), "{service}");
        }
    }
    for (service, cause) in [("crashes", "signal"), ("hangs", "hang"), ("late", "start_timeout")] {
        assert_eq!(place.causes(service), [(cause.into(), "observed".into())]);
        for act in ["stop_intended", "kill_intended", "backing_off", "held"] {
            assert!(place.records(service, act).is_empty(), "{service}: {act}");
        }
        assert_eq!(place.records(service, "spawn_intended").len(), 1, "{service}");
    }
    assert!(place.incidents().iter().all(|incident| incident["service"] != "after"));

    let would: Vec<String> = ["crashes", "hangs", "late"]
        .iter()
        .map(|service| {
            let of_service = place.incidents().into_iter().find(|incident| incident["service"] == **service).unwrap();
            let timeline = of_service["timeline"].as_array().unwrap().clone();
            let why = timeline.iter().filter_map(|entry| entry["why"].as_str());
            why.filter_map(|why| why.split_once("; with mode \"heal\" ")).map(|(_, would)| would.to_owned()).collect()
        })
        .collect();
    assert!(would.iter().all(|would| would.starts_with("it would restart it at once, because ")), "{would:?}");

    // The operator's orders are not Hale's own decisions.
    place.done(&["start", "crashes"]);
    assert!(is_alive(hale.ready("crashes")));
    place.done(&["stop", "hangs"]);
    assert!(!is_alive(hangs));
    hale.stop();
}
