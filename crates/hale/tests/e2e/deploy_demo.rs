//! Hale's demo services as releases, broken in each way they offer while they are on probation.

use crate::deploy_programs::go_back;
use crate::deploying::{deploy, release};
use crate::harness::{Hale, Place};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

const SERVICE: &str = r#"
[service.app]
command = ["bin/app"]
environment = { TMPDIR = "@D" }
start.within = "10s"
stop.grace = "200ms"
restart = { delay = "20ms", crash_loop = { failures = 3, within = "60s" } }
[[service.app.check]]
kind = "http"
url = "http://@L/health"
body_contains = '"status":"ok"'
every = "100ms"
timeout = "3s"
faster_than = "1s"
failures = 2
[service.app.generations]
probation = "2s"
"#;

/// The demo services listen on 127.0.0.1 alone, so that each test needs a port that nobody has.
fn listens() -> SocketAddrV4 {
    let id = std::process::id();
    let mut ports = (0..10_000).map(|n| u16::try_from(20_000 + (id + n) % 10_000).unwrap());
    let port = ports.find(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()).unwrap();
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}

/// A release that runs a demo service and, once that answers and some checks have passed, breaks it.
fn demo(place: &Place, address: SocketAddrV4, name: &str, service: &str, fault: &str) {
    let hale = format!("{} demo-service", env!("CARGO_BIN_EXE_hale"));
    let ask = |path: &str| format!("{hale} ask http://{address}{path} 2>/dev/null");
    let health = ask("/health");
    let breaks = match fault {
        "" => String::new(),
        fault => format!("(until {health}; do sleep 0.05; done; sleep 0.3; {}) &\n", ask(&format!("/break/{fault}"))),
    };
    let port = address.port();
    release(place, name, &format!("{breaks}exec {hale} {service} --port {port}"), "");
}

fn begin<'a>(place: &'a Place, address: SocketAddrV4, service: &str, more: &str) -> Hale<'a> {
    let hale = place.hale(
        &SERVICE
            .replace("@L", &address.to_string())
            .replace("[service.app.generations]", &format!("{more}\n[service.app.generations]")),
    );
    hale.event("app", "no release yet");
    demo(place, address, "good", service, "");
    deploy(place, "good", 0);
    hale
}

#[test]
fn a_demo_service_that_breaks_comes_back_whatever_it_does() {
    let place = Place::new();
    let address = listens();
    let hale = begin(&place, address, "web", "");
    let bad = [
        ("needs-what-is-not-there", "api --needs 127.0.0.1:1", "", "exited with status 1"),
        ("crashes", "web", "crash", "was ended by SIGABRT"),
        ("exits", "web", "exit?code=3", "exited with status 3"),
        ("leaves-a-stray", "web", "stray", "was ended by SIGABRT"),
        ("fails-its-starts", "web", "start?times=1", "exited with status 1"),
        ("hangs", "web", "hang", "no answer within 3 s"),
        ("gets-slow", "web", "slow", "expected within 1 s"),
        ("answers-500", "web", "error", "500"),
        ("answers-wrongly", "web", "wrong", "body"),
    ];
    for (name, service, fault, _) in bad {
        demo(&place, address, name, service, fault);
    }
    go_back(&hale, &bad.map(|(name, _, _, evidence)| (name, evidence)), || ());
    hale.stop();
    let causes: Vec<String> = place.causes("app").into_iter().map(|(cause, _)| cause).collect();
    assert_eq!(causes, ["exit", "signal", "exit", "signal", "exit", "hang", "slow", "check", "check"]);
}

#[test]
fn a_demo_service_that_falls_silent_comes_back() {
    let place = Place::new();
    let address = listens();
    let hale = begin(&place, address, "worker", "[[service.app.check]]\nkind = \"heartbeat\"\nwithin = \"800ms\"\n");
    demo(&place, address, "falls-silent", "worker", "silence");
    go_back(&hale, &[("falls-silent", "no heartbeat")], || ());
    hale.stop();
    assert_eq!(place.causes("app"), [("no_heartbeat".into(), "rolled_back".into())]);
}

mod needs_cgroup2 {
    use super::*;

    #[test]
    fn one_that_leaks_or_has_a_child_that_does_comes_back() {
        let place = Place::new();
        let address = listens();
        let memory = "[[service.app.check]]\nkind = \"memory\"\nbelow = \"100MiB\"\nevery = \"50ms\"\nfailures = 2\n";
        let hale = begin(&place, address, "web", memory);
        for (name, fault) in [("leaks", "leak?mib=300"), ("has-a-hog", "hog?mib=300")] {
            demo(&place, address, name, "web", fault);
        }
        go_back(&hale, &[("leaks", "memory"), ("has-a-hog", "memory")], || ());
        hale.stop();
        let gone_back = |cause: &(String, String)| (&*cause.0, &*cause.1) == ("memory", "rolled_back");
        assert!(place.causes("app").iter().all(gone_back), "{:?}", place.causes("app"));
    }
}
