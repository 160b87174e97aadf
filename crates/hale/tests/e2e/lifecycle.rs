//! Start and end of the whole, orders, exit codes, and the limits that hold for all services together.

use crate::harness::{Place, await_end, children, is_alive, is_own, send};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Stdio;

/// Says when it starts and when it is asked to end, and takes its time for both.
fn talker(name: &str, after: &str) -> String {
    format!(
        r#"
[service.{name}]
command = ["sh", "-c", """
trap 'echo end {name} >@D/reports; exit 0' TERM
echo begin {name} >@D/reports; touch @D/{name}.up
while :; do sleep 1000 & wait $!; done
"""]
after = [{after}]
[[service.{name}.check]]
kind = "exec"
command = ["test", "-e", "@D/{name}.up"]
timeout = "20s"
"#
    )
}

/// supervision.md 2.4 and systemd's `After=`: a service starts when what it needs is ready, not only started, and ends
/// before it.
#[test]
fn services_start_in_order_and_end_in_reverse() {
    let place = Place::new();
    let hale = place.hale(&[talker("c", r#""b""#), talker("b", r#""a""#), talker("a", "")].concat());
    hale.ready("c");
    hale.stop();
    let expected = ["begin a", "begin b", "begin c", "end c", "end b", "end a"];
    assert_eq!(place.reported(), expected);
}

const DEAF: &str = r#"
[service.deaf]
command = ["sh", "-c", "trap '' TERM; echo deaf >@D/reports; while :; do sleep 1000 & wait; done"]
stop.grace = "1h"
"#;

/// An operator who asks twice does not wait an hour (docker stop and systemctl have no such second word).
#[test]
fn a_second_sigterm_is_hurry() {
    let place = Place::new();
    let mut hale = place.hale(DEAF);
    place.report("deaf");
    hale.signal(Signal::TERM);
    hale.event("deaf", "sent SIGTERM to all of it, 1 h to end");
    hale.signal(Signal::TERM);
    assert_eq!(hale.wait(), Some(0));
    place.assert_nobody_left();
    place.done(&["ledger", "verify"]);
    assert_eq!(place.records("deaf", "kill_intended").len(), 1);
}

/// architecture.md, section 6: 7 busy, 78 configuration error, 3 nobody there; the first Hale does not notice.
#[test]
fn exit_codes_of_run() {
    let place = Place::new();
    let hale = place.hale(DEAF);
    place.report("deaf");
    let second = place.run(&["run"]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(7), "{said}");
    assert!(said.contains(&format!("in use by another Hale (pid {})", hale.guardian())), "{said}");
    assert_eq!(place.status("deaf")["state"], "healthy");
    hale.signal(Signal::TERM);
    hale.event("deaf", "sent SIGTERM");
    hale.stop();

    place.write("hale.toml", "[service.x]\ncomand = [\"x\"]\n");
    assert_eq!(place.run(&["run"]).status.code(), Some(78));
    assert_eq!(place.run(&["run", "/nonexistent.toml"]).status.code(), Some(78));
    place.write(
        "hale.toml",
        "[host]\nstate_dir = \"@D/state\"\nruntime_dir = \"@D/run\"\n[service.x]\ncommand = [\"x\"]\n",
    );
    assert_eq!(place.run(&["status"]).status.code(), Some(3));
}

/// `mode = "observe"`: services are started once, then only watched.
#[test]
fn observing_records_and_does_nothing() {
    let place = Place::new();
    let services = r#"
[service.crashes]
command = ["sleep", "1000"]
[service.fails]
command = ["sleep", "1000"]
[[service.fails.check]]
kind = "exec"
command = ["test", "!", "-e", "@D/broken"]
every = "50ms"
timeout = "20s"
"#;
    let hale = place.hale_with("mode = \"observe\"", services);
    let (crashes, fails) = (hale.ready("crashes"), hale.ready("fails"));
    send(crashes, Signal::KILL);
    hale.event("crashes", "decided to do nothing, because mode is \"observe\"");
    hale.event("crashes", "stopped");
    place.write("broken", "");
    hale.event("fails", "decided to do nothing, because mode is \"observe\"");
    assert!(is_alive(fails), "it was only to be watched");
    std::fs::remove_file(place.path("broken")).unwrap();
    hale.event("fails", "closed: observed");
    assert_eq!(place.status("crashes")["state"], "stopped");
    assert_eq!(place.status("fails")["pid"], fails);
    hale.stop();
    assert_eq!(place.causes("crashes"), [("signal".into(), "observed".into())]);
    assert_eq!(place.causes("fails"), [("check".into(), "observed".into())]);
}

/// systemd#42346, kubernetes' thundering herds: fifty services that fail at once do not all start at once.
#[test]
fn restarts_in_flight_are_bounded_and_everybody_comes_back() {
    const SERVICES: usize = 50;
    const LIMIT: usize = 4;
    let place = Place::new();
    let name = |number: usize| format!("s{number:02}");
    let service = |number| format!("[service.{}]\ncommand = [\"sleep\", \"1000\"]\n", name(number));
    let services: String = (0..SERVICES).map(service).collect();
    let hale = place.hale_with(&format!("restarts_in_flight = {LIMIT}"), &services);
    let pids: Vec<i32> = (0..SERVICES).map(|number| hale.ready(&name(number))).collect();

    // The supervisor sees all of them dead at once.
    let supervisor = hale.supervisor();
    send(supervisor, Signal::STOP);
    pids.iter().for_each(|&pid| send(pid, Signal::KILL));
    pids.iter().for_each(|&pid| await_end(pid));
    send(supervisor, Signal::CONT);
    (0..SERVICES).for_each(|number| drop(hale.event(&name(number), "recovered in")));
    hale.stop();

    let mut failed = BTreeSet::new();
    let mut in_flight = BTreeSet::new();
    let mut most = 0;
    for record in place.ledger() {
        let Some(service) = record["service"].as_str().map(str::to_owned) else { continue };
        match record["kind"].as_str().unwrap() {
            "detected" => drop(failed.insert(service)),
            "spawn_intended" if failed.contains(&service) => drop(in_flight.insert(service)),
            "became_ready" => drop(in_flight.remove(&service)),
            _ => {}
        }
        most = most.max(in_flight.len());
    }
    assert_eq!((failed.len(), most), (SERVICES, LIMIT));
    let waited = place.records("", "waits");
    assert!(waited.iter().all(|record| record["why"]["code"] == "restarts_in_flight"), "{waited:?}");
    assert!(!waited.is_empty());
}

/// Orders are carried out, and the ledger says by whom they were given.
#[test]
fn orders_are_carried_out_and_signed_with_the_actor() {
    let place = Place::new();
    let hale = place
        .hale("[service.web]\ncommand = [\"sleep\", \"1000\"]\n[service.other]\ncommand = [\"sleep\", \"1000\"]\n");
    let (first, other) = (hale.ready("web"), hale.ready("other"));
    place.done(&["stop", "web"]);
    assert!(!is_alive(first));
    assert_eq!(place.status("web")["state"], "stopped");
    assert_eq!(place.done(&["stop", "web"]).trim(), "web is stopped already");

    place.done(&["start", "web"]);
    let second = hale.ready("web");
    assert_eq!(place.status("web")["pid"], second);
    place.done(&["restart", "web"]);
    let third = hale.ready("web");
    assert!(!is_alive(second) && is_alive(third) && is_alive(other));
    let unknown = place.run(&["restart", "nobody"]);
    assert_eq!(unknown.status.code(), Some(1), "{}", String::from_utf8_lossy(&unknown.stderr));
    hale.stop();

    let ordered = place.records("web", "ordered");
    let given: Vec<&Value> = ordered.iter().map(|record| &record["order"]).collect();
    assert_eq!(given.len(), 4, "{given:?}");
    let uid = rustix::process::getuid().as_raw();
    assert!(ordered.iter().all(|record| record["actor"]["uid"] == json!(uid)), "{ordered:?}");
    assert_eq!(place.causes("web"), []);
}

/// supervision.md 2.10 and decision 0005: a stop reaches all of the tree, and SIGKILL follows after the grace.
#[test]
fn after_the_grace_the_whole_tree_is_killed() {
    let place = Place::new();
    let hale = place.hale(
        r#"
[service.stubborn]
command = ["sh", "-c", """
setsid sh -c 'trap "" TERM; (sleep 1000 & echo stray $! >@D/reports); sleep 1000' &
trap '' TERM
echo main >@D/reports
while :; do sleep 1000 & wait $!; done
"""]
stop.grace = "100ms"
"#,
    );
    let main = hale.ready("stubborn");
    let stray: i32 = place.report("stray").rsplit(' ').next().unwrap().parse().unwrap();
    assert!(is_alive(stray));
    place.done(&["stop", "stubborn"]);
    assert!(!is_alive(main) && !is_alive(stray));
    assert!(hale.event("stubborn", "killed all of it").contains("did not end within its grace of 100 ms"));
    hale.stop();
}

/// SIGTERM when each supervisor dies at its start: the guardian ends everything by itself, services first asked.
#[test]
fn without_anybody_in_control_the_guardian_ends_everything() {
    let place = Place::new();
    let script =
        "trap 'echo asked >@D/reports; exit 0' TERM; echo up >@D/reports; while :; do sleep 1000 & wait $!; done";
    let mut hale = place.hale(&format!("[service.web]\ncommand = [\"sh\", \"-c\", \"{script}\"]\n"));
    let pid = hale.ready("web");
    place.report("up");
    // Without the policy of the one before, the next supervisors read the file, which says nothing any more.
    place.write("hale.toml", "nonsense");
    std::fs::remove_file(place.path("run/policy.json")).unwrap();
    send(hale.supervisor(), Signal::KILL);
    hale.says("the supervisor ended with exit code 78: replacing it");
    assert!(is_alive(pid), "a service does not depend on any supervisor");
    hale.signal(Signal::TERM);
    hale.says("no supervisor is in control: ending everything without one");
    place.report("asked");
    assert_eq!(hale.wait(), Some(1));
    assert!(place.living().is_empty(), "{:?}", place.living());
    // What is left of it is two directories; the next one begins afresh.
    place.configure("", "[service.web]\ncommand = [\"sleep\", \"1000\"]\n");
    let hale = place.hale_again();
    hale.ready("web");
    hale.stop();
}

/// As a script starts it that closes everything: no file of Hale's takes the place of its error output.
#[test]
fn it_works_with_all_of_its_outputs_closed() {
    let place = Place::new();
    place.configure("", "[service.web]\ncommand = [\"sh\", \"-c\", \"echo run $$ >@D/reports; exec sleep 1000\"]\n");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" <&- >&- 2>&-"]).arg(place.command().get_program());
    let mut child = command.arg("run").arg(place.path("hale.toml")).env_remove("NOTIFY_SOCKET").spawn().unwrap();
    let guardian = child.id().cast_signed();
    for _ in 0..3 {
        let pid: i32 = place.report("run").rsplit(' ').next().unwrap().parse().unwrap();
        send(pid, Signal::KILL);
    }
    place.report("run");
    assert_eq!(place.status("web")["restarts"], 3);
    let own = children(guardian).into_iter().filter(|&pid| is_own(pid)).chain([guardian]);
    for pid in own {
        for fd in 0..3 {
            let link = std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
            assert_eq!(link.to_str(), Some("/dev/null"), "descriptor {fd} of {pid}");
        }
    }
    send(guardian, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    place.assert_nobody_left();
    place.done(&["ledger", "verify"]);
}

/// `hale run | head`: nobody reads what Hale prints any more, and it goes on all the same.
#[test]
fn it_goes_on_when_nobody_reads_what_it_prints() {
    let place = Place::new();
    place.configure("", "[service.web]\ncommand = [\"sh\", \"-c\", \"echo run $$ >@D/reports; exec sleep 1000\"]\n");
    let mut command = place.command();
    let mut child = command.arg("run").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    for _ in 0..3 {
        let pid: i32 = place.report("run").rsplit(' ').next().unwrap().parse().unwrap();
        send(pid, Signal::KILL);
    }
    place.report("run");
    let guardian = child.id().cast_signed();
    send(guardian, Signal::HUP);
    assert_eq!(place.status("web")["restarts"], 3);
    send(guardian, Signal::TERM);
    await_end(guardian);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    place.assert_nobody_left();
}
