//! nginx with its workers, in the foreground.

use crate::harness::{Place, children, http, is_alive, send};
use rustix::process::Signal;

const SERVICE: &str = r#"
[service.nginx]
command = ["nginx", "-p", "@D", "-e", "stderr", "-c", "@D/nginx.conf"]
stop.signal = "SIGQUIT"
stop.grace = "5s"
restart.crash_loop = false
[[service.nginx.check]]
kind = "http"
url = "http://@A/health"
body_contains = "fine"
every = "100ms"
timeout = "2s"
failures = 2
"#;

fn place() -> Place {
    let place = Place::new();
    place.write(
        "nginx.conf",
        r#"
daemon off;
pid @D/nginx.pid;
worker_processes 2;
events {}
http {
    access_log off;
    client_body_temp_path @D/t1; proxy_temp_path @D/t2; fastcgi_temp_path @D/t3; uwsgi_temp_path @D/t4;
    scgi_temp_path @D/t5;
    server { listen @A; location = /health { return 200 "fine"; } }
}
"#,
    );
    place
}

/// supervision.md, section 4: the workers of a killed master go on listening. What is left of it goes before the next.
#[test]
fn a_killed_master_takes_its_workers_along() {
    let place = place();
    let hale = place.hale(SERVICE);
    let first = hale.ready("nginx");
    let workers = children(first);
    assert_eq!(workers.len(), 2);
    send(first, Signal::KILL);
    hale.event("nginx", "killed all of it (SIGKILL), because its main process is gone and left others behind");
    let second = hale.ready("nginx");
    hale.event("nginx", "recovered in");
    assert!(workers.iter().all(|&pid| !is_alive(pid)));
    assert!(http(place.address, "/health").unwrap().ends_with("fine"));
    assert!(is_alive(second));
    hale.stop();
    assert_eq!(place.causes("nginx"), [("signal".into(), "recovered".into())]);
}

/// Its master runs and accepts connections for it, and nobody answers.
#[test]
fn stopped_workers_are_a_hang() {
    let place = place();
    let hale = place.hale(SERVICE);
    let first = hale.ready("nginx");
    children(first).into_iter().for_each(|pid| send(pid, Signal::STOP));
    hale.event("nginx", "detected: check http failed 2 times");
    hale.event("nginx", "recovered in");
    assert!(!is_alive(first));
    hale.stop();
    assert_eq!(place.causes("nginx"), [("hang".into(), "recovered".into())]);
}

/// A reload that breaks what is served: the right answer is part of the check.
#[test]
fn a_wrong_answer_after_a_reload_is_found() {
    let place = place();
    let hale = place.hale(SERVICE);
    let first = hale.ready("nginx");
    let right = std::fs::read_to_string(place.path("nginx.conf")).unwrap();
    place.write("nginx.conf", &right.replace("\"fine\"", "\"broken\""));
    send(first, Signal::HUP);
    let detected = hale.event("nginx", "detected: check http failed 2 times");
    assert!(detected.contains("body"), "{detected}");
    place.write("nginx.conf", &right);
    hale.event("nginx", "recovered in");
    hale.stop();
    assert!(place.causes("nginx").iter().all(|(cause, _)| cause == "check"), "{:?}", place.causes("nginx"));
}
