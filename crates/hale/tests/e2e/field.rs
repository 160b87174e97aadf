//! What other supervisors are known to get wrong, each with its reference (numbers: supervision.md, section 2).

use crate::harness::{PATIENCE, Place, await_end, is_alive, send};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::time::Instant;

/// A service that never ends by itself.
const SLEEPER: &str = "[service.web]\ncommand = [\"sleep\", \"1000\"]\n";

/// The delays of all decisions about `service`, in microseconds.
fn delays(place: &Place, service: &str) -> Vec<u64> {
    let delay = |record: Value| {
        let verdict = &record["verdict"];
        verdict["restart"]["delay"].as_u64().or(verdict["hold"]["delay"].as_u64()).unwrap()
    };
    place.records(service, "decided").into_iter().map(delay).collect()
}

/// 2.2 (systemd#2416, #6129; supervisord#487): 8 SIGKILLs in 3.2 s leave a service of systemd dead for good. Here quick
/// restarts end in slow ones that never end, and 2.5 (systemd#8398): giving up is told once, not with each try.
#[test]
fn eight_kills_in_a_row_do_not_leave_it_dead() {
    let place = Place::new();
    let hale = place.hale(&format!("{SLEEPER}restart.held_delay = \"100ms\"\n"));
    for _ in 0..8 {
        send(hale.ready("web"), Signal::KILL);
        hale.event("web", "detected: the process was ended by SIGKILL");
    }
    let last = hale.ready("web");
    assert!(is_alive(last));
    assert_eq!(place.status("web")["state"], "healthy");
    let said = hale.said();
    hale.stop();
    assert_eq!(said.iter().filter(|line| line.contains("quick restarts are given up")).count(), 1, "{said:#?}");
    assert_eq!(place.records("web", "detected").len(), 8);
    let delays = delays(&place, "web");
    assert!(delays[4..].windows(2).all(|pair| pair[0] < pair[1]), "held, it is tried slower each time: {delays:?}");
}

/// trusty-tools#3631, supervisord#1285, Horust: a spawn that succeeds resets nothing, so the delays grow to their bound.
/// 2.3 (systemd#43813, #6129, #30804): a healthy time resets them, so the next failure is a first one again.
#[test]
fn delays_grow_while_it_fails_and_are_forgotten_when_it_works() {
    let place = Place::new();
    let hale = place.hale(
        r#"
[service.web]
command = ["sh", "-c", "test -e @D/works || exit 3; echo works $$ >@D/reports; exec sleep 1000"]
[service.web.restart]
delay = "20ms"
max_delay = "100ms"
healthy_after = "500ms"
crash_loop = false
"#,
    );
    for _ in 0..7 {
        hale.event("web", "detected: the process exited with status 3");
    }
    place.write("works", "");
    let pid: i32 = place.report("works").rsplit(' ').next().unwrap().parse().unwrap();
    // The ledger alone tells when it was healthy for long enough.
    let until = Instant::now() + PATIENCE;
    while place.records("web", "counters_forgotten").is_empty() {
        assert!(is_alive(pid) && Instant::now() < until);
    }
    send(pid, Signal::KILL);
    let decided = hale.event("web", "decided to restart it at once");
    assert!(decided.contains("it had not failed in the last 500 ms"), "{decided}");
    hale.event("web", "recovered in");
    hale.stop();
    let delays = delays(&place, "web");
    let (last, growing) = delays.split_last().unwrap();
    assert_eq!((*last, growing[0]), (0, 0));
    let within = |at: usize, least: u64| (least..=least * 5 / 4).contains(&growing[at]);
    assert!(within(1, 20_000) && within(2, 40_000) && within(3, 80_000) && within(4, 100_000), "{delays:?}");
    assert!((5..growing.len()).all(|at| within(at, 100_000)), "{delays:?}");
}

/// Horust: a service that never becomes healthy is never restarted.
#[test]
fn a_service_that_never_becomes_healthy_is_restarted() {
    let place = Place::new();
    let hale = place.hale(&format!(
        "{SLEEPER}start.within = \"300ms\"\n[[service.web.check]]\nkind = \"tcp\"\naddress = \"@A\"\nevery = \"50ms\"\n"
    ));
    let pids: Vec<i32> = (0..3)
        .map(|_| {
            let pid = hale.started("web");
            hale.event("web", "detected: not ready within");
            pid
        })
        .collect();
    hale.started("web");
    assert!(pids.iter().all(|&pid| !is_alive(pid)), "{pids:?}");
    hale.stop();
    assert_eq!(place.causes("web")[0].0, "start_timeout");
}

/// What cannot be started is a failure with a name, and is tried again.
#[test]
fn what_cannot_be_started_is_named_and_tried_again() {
    let place = Place::new();
    let hale = place.hale("[service.web]\ncommand = [\"@D/program\"]\nrestart.crash_loop = false\n");
    let detected = hale.event("web", "detected: ");
    assert!(detected.contains(&place.text("@D/program: No such file or directory")), "{detected}");
    fs::copy("/bin/sleep", place.path("program")).unwrap();
    // Without an argument it exits: what could not be started is started now.
    hale.event("web", "detected: the process exited with status 1");
    hale.stop();
    assert_eq!(place.causes("web")[0].0, "spawn");
}

/// 2.6 (kubernetes#51901, #110070; Horust: a hung exec check stops all restarts): a check that hangs is killed at its
/// deadline with its children, is a finding, and never accumulates.
#[test]
fn a_check_that_hangs_is_killed_with_its_children_and_found() {
    let place = Place::new();
    let hale = place.hale(&format!(
        r#"{SLEEPER}
[[service.web.check]]
kind = "exec"
command = ["sh", "-c", """
test -e @D/hang || exit 0
echo probe $$ >@D/reports
setsid sh -c 'echo child $$ >@D/reports; exec sleep 1000' &
sleep 1000; true
"""]
every = "50ms"
timeout = "2s"
failures = 2
"#
    ));
    let first = hale.ready("web");
    place.write("hang", "");
    hale.event("web", "detected: check exec failed 2 times");
    assert!(fs::remove_file(place.path("hang")).is_ok());
    let second = hale.ready("web");
    hale.event("web", "recovered in");
    assert!(!is_alive(first) && is_alive(second));
    let reported = place.reported();
    let pids: Vec<i32> = reported.iter().filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    assert!(pids.len() >= 4, "{reported:?}");
    pids.iter().for_each(|&pid| await_end(pid));
    hale.stop();
    assert_eq!(place.causes("web"), [("hang".into(), "recovered".into())]);
}

/// 2.4 (systemd#18856, #1312; process-compose#189): what could not start because of its dependency starts when that heals.
#[test]
fn dependents_start_when_their_dependency_heals() {
    let place = Place::new();
    let hale = place.hale(
        r#"
[service.database]
command = ["sh", "-c", "test -e @D/disk && exec sleep 1000; exit 1"]
restart.max_delay = "100ms"
[[service.database.check]]
kind = "exec"
command = ["test", "-e", "@D/disk"]
[service.web]
command = ["sleep", "1000"]
after = ["database"]
"#,
    );
    hale.event("web", "waits for database to be ready");
    for _ in 0..3 {
        hale.event("database", "detected: the process exited with status 1");
    }
    assert_eq!(place.status("web")["state"], "blocked");
    place.write("disk", "");
    hale.ready("web");
    let database = place.status("database");
    assert_eq!(database["state"], "healthy");
    // It healed, so the other one is left alone when it fails again.
    send(i32::try_from(database["pid"].as_i64().unwrap()).unwrap(), Signal::KILL);
    hale.event("database", "detected: the process was ended by SIGKILL");
    hale.event("database", "recovered in");
    assert_eq!(place.status("web")["restarts"], 0);
    hale.stop();
}

/// supervisord's `autorestart=unexpected` and systemd's `Restart=on-failure`: success is an end or a failure, as wished.
#[test]
fn success_is_a_failure_or_an_end_as_wished() {
    let place = Place::new();
    let hale = place.hale(
        r#"
[service.forever]
command = ["sh", "-c", "test -e @D/once && exec sleep 1000; touch @D/once; exit 0"]
[service.job]
command = ["sh", "-c", "(setsid sleep 1000 &); exit 0"]
restart.on_success = false
"#,
    );
    hale.event("job", "stopped, because it ended with success and on_success is false");
    hale.event("forever", "detected: the process exited with status 0");
    let forever = hale.ready("forever");
    hale.event("forever", "recovered in");
    assert_eq!((&place.status("job")["state"], &place.status("job")["restarts"]), (&"stopped".into(), &0.into()));
    assert_eq!(place.living(), [forever], "what the job left behind is gone too");
    hale.stop();
    assert_eq!(place.causes("job"), []);
    assert_eq!(place.causes("forever"), [("exit".into(), "recovered".into())]);
}
