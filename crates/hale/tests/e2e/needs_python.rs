//! A Python asyncio HTTP server: killed, stopped, wedged, slow, wrong, deaf, with strays.

use crate::harness::{Place, await_end, http, is_alive, poke, python, send};
use rustix::process::Signal;

/// The service `app`, with its checks behind it.
fn app(more: &str) -> String {
    let python = python();
    format!(
        r#"
[service.app]
command = ["{python}", "@D/app.py", "@H", "@P", "@D/reports"]
stop.grace = "200ms"
restart.crash_loop = false
{more}
"#
    )
}

/// Fails when it gets no answer twice; a busy machine has ten times as long as the app needs.
const HTTP: &str = r#"
[[service.app.check]]
kind = "http"
url = "http://@A/health"
every = "100ms"
timeout = "2s"
failures = 2
"#;

fn place() -> Place {
    let place = Place::new();
    place.write("app.py", include_str!("app.py"));
    place
}

/// The one incident's cause and outcome.
#[track_caller]
fn assert_recovered_from(place: &Place, cause: &str) {
    assert_eq!(place.causes("app"), [(cause.into(), "recovered".into())]);
}

#[test]
fn killed_it_comes_back_and_answers() {
    let place = place();
    let hale = place.hale(&app(HTTP));
    let first = hale.ready("app");
    send(first, Signal::KILL);
    hale.event("app", "detected: the process was ended by SIGKILL");
    let second = hale.ready("app");
    hale.event("app", "all checks pass: recovered in");
    assert_ne!(first, second);
    assert!(http(place.address, "/health").unwrap().ends_with("ok"));
    hale.stop();
    assert_recovered_from(&place, "signal");
    let incident = &place.incidents()[0];
    assert!(incident["recovery_ms"].as_f64() <= incident["down_ms"].as_f64(), "{incident}");
}

#[test]
fn an_exit_by_itself_is_told_with_its_code() {
    let place = place();
    let hale = place.hale(&app(HTTP));
    hale.ready("app");
    poke(place.address, "/crash");
    hale.event("app", "detected: the process exited with status 7");
    hale.event("app", "recovered in");
    hale.stop();
    assert_recovered_from(&place, "exit");
}

/// supervision.md 2.1 (systemd#9075): its process is there, and it does not work.
#[test]
fn stopped_by_sigstop_it_hangs_and_is_replaced() {
    let place = place();
    let hale = place.hale(&app(HTTP));
    let first = hale.ready("app");
    send(first, Signal::STOP);
    hale.event("app", "detected: check http failed 2 times");
    hale.ready("app");
    hale.event("app", "recovered in");
    assert!(!is_alive(first));
    hale.stop();
    assert_recovered_from(&place, "hang");
}

/// supervision.md 2.17: alive, connected, and doing nothing: a handler that blocks the event loop.
#[test]
fn a_blocked_event_loop_is_a_hang() {
    for (path, said) in [("/block", "blocked"), ("/spin", "spinning")] {
        let place = place();
        let hale = place.hale(&app(HTTP));
        hale.ready("app");
        let _never_answered = poke(place.address, path);
        place.report(said);
        hale.event("app", "detected: check http failed 2 times");
        hale.event("app", "recovered in");
        hale.stop();
        assert_recovered_from(&place, "hang");
    }
}

/// The same, told by the app itself: the loop that is blocked sends no heartbeat (systemd's WatchdogSec).
#[test]
fn a_blocked_event_loop_sends_no_heartbeat() {
    let place = place();
    let heartbeat = "start.ready = \"notify\"\n[[service.app.check]]\nkind = \"heartbeat\"\nwithin = \"4s\"\n";
    let hale = place.hale(&app(heartbeat));
    hale.event("app", "ready: it said READY=1");
    let _never_answered = poke(place.address, "/block");
    place.report("blocked");
    hale.event("app", "detected: no heartbeat for 4 s");
    hale.event("app", "recovered in");
    assert_eq!(place.status("app")["status_text"], "serving");
    hale.stop();
    assert_recovered_from(&place, "no_heartbeat");
}

/// Slow is not down: a right answer that comes too late has a name of its own.
#[test]
fn slow_answers_are_slow() {
    let place = place();
    let hale = place.hale(&app(&HTTP.replace("timeout = \"2s\"", "timeout = \"20s\"\nfaster_than = \"1s\"")));
    hale.ready("app");
    http(place.address, "/slow").unwrap();
    hale.event("app", "detected: check http failed 2 times");
    hale.event("app", "recovered in");
    hale.stop();
    assert_recovered_from(&place, "slow");
}

#[test]
fn wrong_answers_are_a_failed_check() {
    let place = place();
    let hale = place.hale(&app(HTTP));
    hale.ready("app");
    http(place.address, "/wrong").unwrap();
    let detected = hale.event("app", "detected: check http failed 2 times");
    assert!(detected.contains("503"), "{detected}");
    hale.event("app", "recovered in");
    hale.stop();
    assert_recovered_from(&place, "check");
}

/// supervision.md, section 4: s6, runit, supervisord, circus, pm2 and Horust leak each stray that took a session of
/// its own; three kills leave three.
#[test]
fn strays_are_gone_before_the_next_start() {
    let place = place();
    let hale = place.hale(&app(HTTP));
    let mut strays = Vec::new();
    for _ in 0..3 {
        let main = hale.ready("app");
        http(place.address, "/stray").unwrap();
        let stray: i32 = place.report("stray ").rsplit(' ').next().unwrap().parse().unwrap();
        assert!(is_alive(stray));
        send(main, Signal::KILL);
        hale.event("app", "killed all of it (SIGKILL), because its main process is gone and left others behind");
        strays.push(stray);
    }
    let main = hale.ready("app");
    assert!(strays.iter().all(|&stray| !is_alive(stray)), "{strays:?}");
    assert_eq!(place.living(), [main]);
    hale.stop();
}

/// A shutdown hook that waits for its own lock: SIGTERM is not enough.
#[test]
fn deadlocked_on_its_exit_it_is_killed_after_its_grace() {
    let place = place();
    let hale = place.hale(&app(HTTP));
    let first = hale.ready("app");
    http(place.address, "/deadlock").unwrap();
    http(place.address, "/wrong").unwrap();
    hale.event("app", "sent SIGTERM to all of it, 200 ms to end");
    place.report("deadlocked");
    hale.event("app", "killed all of it (SIGKILL), because it did not end within its grace of 200 ms");
    hale.event("app", "recovered in");
    assert!(!is_alive(first));
    hale.stop();
    assert_recovered_from(&place, "check");
}

/// Writes half a megabyte a second, in numbered lines, and says when it is done and how long the longest write took.
const WRITER: &str = r#"
import os, sys, time
reports, lines = sys.argv[1], int(sys.argv[2])
longest = 0
for number in range(lines):
    before = time.monotonic()
    os.write(1, b"%08d %s\n" % (number, b"x" * 4990))
    longest = max(longest, time.monotonic() - before)
    if number == 9:
        open(reports, "w").write("written some\n")
    if number >= 9:
        time.sleep(0.01)
open(reports, "w").write(f"written all, longest write {longest * 1000:.1f} ms\n")
time.sleep(100_000)
"#;

/// Of a log, the numbers of the writer's lines.
fn numbers(log: &str) -> Vec<u32> {
    log.lines().filter(|line| line.ends_with('x')).map(|line| line[..8].parse().unwrap()).collect()
}

/// supervision.md, section 4: with supervisord, pm2 and circus stopped for 5 s a service that writes 0.5 MB/s is blocked
/// for 4.8 s. Here it writes all of 2.5 MB while supervisor and guardian are stopped; the pipe has room for 64 KiB.
#[test]
fn output_flows_while_supervisor_and_guardian_are_stopped() {
    const LINES: u32 = 510;
    let place = place();
    place.write("writer.py", WRITER);
    let hale = place
        .hale(&format!("[service.app]\ncommand = [\"{}\", \"@D/writer.py\", \"@D/reports\", \"{LINES}\"]\n", python()));
    hale.ready("app");
    place.report("written some");
    let stopped = [hale.supervisor(), hale.guardian()];
    stopped.iter().for_each(|&pid| send(pid, Signal::STOP));
    println!("{}", place.report("written all"));
    stopped.iter().for_each(|&pid| send(pid, Signal::CONT));
    hale.stop();
    assert_eq!(numbers(&place.log("app")), (0..LINES).collect::<Vec<_>>());
}

/// A stopped keeper fills the pipe, so the service waits, and nothing is lost; one that is killed is replaced.
/// (A keeper that hangs on a disk is not drained around yet.)
#[test]
fn output_waits_for_a_stopped_keeper_and_survives_a_killed_one() {
    const LINES: u32 = 60;
    let place = place();
    place.write("writer.py", WRITER);
    let hale = place
        .hale(&format!("[service.app]\ncommand = [\"{}\", \"@D/writer.py\", \"@D/reports\", \"{LINES}\"]\n", python()));
    let main = hale.ready("app");
    let keeper = hale.keeper();
    send(keeper, Signal::STOP);
    // 50 kB: the pipe has room for them, so nobody is needed.
    place.report("written some");
    send(keeper, Signal::KILL);
    await_end(keeper);
    println!("{}", place.report("written all"));
    assert_ne!(hale.keeper(), keeper);
    assert!(is_alive(main));
    hale.stop();
    assert_eq!(numbers(&place.log("app")), (0..LINES).collect::<Vec<_>>());
    assert_eq!(place.causes("app"), []);
}
