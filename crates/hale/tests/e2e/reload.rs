//! Reloading: another configuration comes into force while services run, and of each only what it changes is touched.

use crate::harness::{Place, await_end, is_alive, send};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use std::process::Stdio;

const BEFORE: &str = r#"
[service.b-kept]
command = ["sleep", "1000"]
[service.c-checked]
command = ["sleep", "1000"]
[[service.c-checked.check]]
kind = "exec"
command = ["true"]
[service.d-anew]
command = ["sleep", "1000"]
after = ["b-kept"]
[service.e-gone]
command = ["sleep", "1000"]
"#;

const AFTER: &str = r#"
[service.a-new]
command = ["sleep", "1000"]
[service.b-kept]
command = ["sleep", "1000"]
[service.c-checked]
command = ["sleep", "1000"]
[[service.c-checked.check]]
kind = "exec"
command = ["test", "-e", "@D/passes"]
every = "50ms"
timeout = "20s"
failures = 1
[service.d-anew]
command = ["sleep", "2000"]
after = ["b-kept"]
"#;

fn pid(place: &Place, service: &str) -> i32 {
    place.status(service)["pid"].as_i64().unwrap_or_default() as i32
}

#[test]
fn what_a_reload_does_not_change_runs_on() {
    let place = Place::new();
    let hale = place.hale(BEFORE);
    let [kept, checked, anew, gone] = ["b-kept", "c-checked", "d-anew", "e-gone"].map(|service| hale.ready(service));
    assert_eq!(place.done(&["reload"]).trim(), "nothing to do: this configuration is in force already");

    place.configure("", AFTER);
    let said = place.done(&["reload"]);
    let expected = "the configuration is in force: 1 added (a-new), 1 removed (e-gone), 1 to be started anew (d-anew), \
                    1 changed while running on (c-checked)";
    assert_eq!(said.trim(), expected);
    let (new, again) = (hale.ready("a-new"), hale.ready("d-anew"));
    hale.event("e-gone", "forgotten");
    assert!(is_alive(kept) && is_alive(checked) && is_alive(new) && is_alive(again));
    assert!(!is_alive(anew) && !is_alive(gone));

    // A check that came with the reload is not the service's fault until it has passed, and then it is.
    hale.event("c-checked", "which is new or changed, has not passed yet and does not count");
    assert_eq!(place.status("c-checked")["pid"], json!(checked));
    place.write("passes", "");
    hale.event("c-checked", "check exec passed");
    std::fs::remove_file(place.path("passes")).unwrap();
    hale.event("c-checked", "detected: check exec failed");
    await_end(checked);

    let unknown = place.run(&["status", "e-gone"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(place.status("b-kept")["restarts"], 0);
    assert_eq!(place.status("d-anew")["restarts"], 1);
    assert!(place.incidents().iter().all(|incident| incident["service"] == "c-checked"), "{:?}", place.incidents());
    let uid = rustix::process::getuid().as_raw();
    let reloaded = place.records("", "reloaded");
    assert!(reloaded.iter().all(|record| record["actor"]["uid"] == json!(uid)) && reloaded.len() == 1, "{reloaded:?}");
    assert_eq!(reloaded[0]["change"]["anew"], json!({"count": 1, "first": ["d-anew"]}));
    hale.stop();
}

#[test]
fn what_cannot_be_used_or_changed_leaves_everything_as_it_is_and_says_why() {
    let place = Place::new();
    let hale = place.hale(BEFORE);
    let kept = hale.ready("b-kept");
    place.configure("", &BEFORE.replace("[service.b-kept]", "[service.b-kept]\ncomand = [\"x\"]"));
    let refused = place.run(&["reload"]);
    let why = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(78), "{why}");
    assert!(why.contains("unknown key `comand`") && why.contains("hale.toml:8:1"), "{why}");
    assert!(why.contains("the configuration before stays in force") && why.contains("help: did you mean"), "{why}");
    // Whoever mends it can look and act meanwhile.
    assert_eq!(place.status("b-kept")["pid"], json!(kept));
    place.done(&["restart", "b-kept"]);
    assert!(
        String::from_utf8_lossy(&place.run(&["status"]).stderr).contains("has mistakes, which `hale validate` lists")
    );

    place.write(
        "elsewhere.toml",
        "[host]\nstate_dir = \"@D/state\"\nruntime_dir = \"@D/run\"\nlog_dir = \"@D/other\"\n",
    );
    std::fs::rename(place.path("elsewhere.toml"), place.path("hale.toml")).unwrap();
    let fixed = place.run(&["reload"]);
    let why = String::from_utf8_lossy(&fixed.stderr);
    assert_eq!(fixed.status.code(), Some(6), "{why}");
    assert!(why.contains("host.log_dir cannot change while Hale runs: start Hale anew for it"), "{why}");
    let codes: Vec<Value> =
        place.records("", "reload_refused").iter().map(|record| record["why"]["code"].clone()).collect();
    assert_eq!(codes, ["invalid_configuration", "fixed_while_running"]);
    assert_eq!(place.json(&["status"])["services"].as_array().unwrap().len(), 4);
    hale.stop();
}

/// A name may change, and the address stays: whoever has it gives it to whom it is meant for, and nobody is refused.
#[test]
fn an_address_that_moves_to_another_service_is_open_all_the_time() {
    let place = Place::new();
    let service = |name: &str| {
        let slow = "trap 'sleep 0.3; exit' TERM; while :; do sleep 1000 & wait; done";
        format!("[service.{name}]\ncommand = [\"sh\", \"-c\", \"{slow}\"]\nlisten = {{ http = \"@A\" }}\n")
    };
    let hale = place.hale(&service("web"));
    hale.ready("web");
    let address = place.text("@A");
    place.configure("", &service("front"));
    place.done(&["reload"]);
    hale.ready("front");
    // At each thing that happens; more, and whoever accepts nothing has too many waiting.
    let mut lines = 0;
    while !hale.said().iter().any(|line| line.contains(" web: forgotten")) {
        if std::mem::replace(&mut lines, hale.said().len()) != lines {
            TcpStream::connect(&address).expect("it is not refused");
        }
        std::thread::yield_now();
    }
    TcpStream::connect(&address).expect("it is not refused");
    assert!(place.incidents().is_empty(), "{:?}", place.incidents());
    hale.stop();
}

/// A name means one thing at a time.
#[test]
fn a_service_becomes_a_dependency_by_two_reloads() {
    let place = Place::new();
    let web = "[service.web]\ncommand = [\"sleep\", \"1000\"]\nafter = [\"db\"]\n";
    let hale = place.hale(&format!("{web}[service.db]\ncommand = [\"sleep\", \"1000\"]\n"));
    let running = hale.ready("web");
    let outside = "[dependency.db]\n[[dependency.db.check]]\nkind = \"exec\"\ncommand = [\"true\"]\n";
    let outside = outside.replace("kind = \"exec\"\ncommand = [\"true\"]", "kind = \"tcp\"\naddress = \"127.0.0.1:1\"");
    place.configure("", &format!("{web}{outside}"));
    let refused = place.run(&["reload"]);
    let why = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(78), "{why}");
    assert!(why.contains("[dependency.db]: there is a service of that name; remove it by one reload"), "{why}");
    place.configure("", &web.replace("after = [\"db\"]\n", ""));
    place.done(&["reload"]);
    hale.event("db", "forgotten");
    place.configure("", &format!("{web}{outside}"));
    place.done(&["reload"]);
    hale.says("dependency db is down");
    hale.event("web", "blocked: db is down");
    assert_eq!(pid(&place, "web"), running);
    hale.stop();
}

/// Whoever comes while another one is under way waits his turn; the last one's configuration is in force in the end.
#[test]
fn reloads_at_once_come_one_after_the_other() {
    let place = Place::new();
    let hale = place.hale(BEFORE);
    let kept = hale.ready("b-kept");
    let reload =
        |place: &Place| place.command().arg("reload").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let text = std::fs::read_to_string(place.path("hale.toml")).unwrap();
    let host = &text[..text.find("[service.").unwrap()];
    for round in 0..5 {
        let mut clients = Vec::new();
        for number in 0..4 {
            // Whole at each moment: a reader may be at it.
            let services = AFTER.replace("2000", &format!("2{round}{number}"));
            place.write("hale.toml.new", &format!("{host}{services}"));
            std::fs::rename(place.path("hale.toml.new"), place.path("hale.toml")).unwrap();
            clients.push(reload(&place));
            hale.signal(Signal::HUP);
        }
        for mut client in clients {
            assert!(client.wait().unwrap().success());
        }
    }
    assert_eq!(place.done(&["reload"]).trim(), "nothing to do: this configuration is in force already");
    assert!(!hale.said().iter().any(|line| line.contains("under way")), "{:?}", hale.said());
    assert_eq!(pid(&place, "b-kept"), kept);
    hale.stop();
}

#[test]
fn a_signal_reloads_too() {
    let place = Place::new();
    let hale = place.hale(BEFORE);
    hale.ready("e-gone");
    hale.signal(Signal::HUP);
    hale.says("SIGHUP: nothing to do");
    place.configure("", AFTER);
    hale.signal(Signal::HUP);
    hale.says("another configuration is in force");
    hale.ready("a-new");
    assert_eq!(place.records("", "reloaded")[0]["actor"]["user"], "SIGHUP");
    hale.stop();
}

/// At whatever point a supervisor dies, the next one runs either the one configuration or the other, and all of it.
#[test]
fn a_supervisor_that_dies_in_a_reload_has_a_successor_that_knows_what_is_in_force() {
    let place = Place::new();
    let hale = place.hale(BEFORE);
    let kept = hale.ready("b-kept");
    for round in 0..12 {
        let is_after = round % 2 == 0;
        // A name that has no place yet.
        let new = format!("a-new-{round}");
        place.configure("", &if is_after { AFTER.replace("a-new", &new) } else { String::from(BEFORE) });
        let ordered = || hale.said().iter().filter(|line| line.contains("order: reload")).count();
        let before = ordered();
        let mut reload = place.command().arg("reload").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let supervisor = hale.supervisor();
        // Before it is read, when it was read and is kept, when it is ordered; or once all is done, which may be quicker.
        let is_time = || match round % 3 {
            0 => true,
            1 => place.path("run/policy.next.json").exists(),
            _ => ordered() > before,
        };
        while !is_time() && reload.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        send(supervisor, Signal::KILL);
        await_end(supervisor);
        reload.wait().unwrap();
        // Whether the one that died had done it or not.
        place.until(|| {
            let said = place.run(&["reload"]);
            // The next one may be at it already.
            assert!(matches!(said.status.code(), Some(0 | 7)), "{}", String::from_utf8_lossy(&said.stderr));
            said.status.success().then_some(()).ok_or_else(|| String::from("a reload is under way"))
        });
        let comes = if is_after { new.as_str() } else { "e-gone" };
        let is_gone = |service: &str| place.run(&["status", service]).status.code() == Some(1);
        place.until(|| match pid(&place, comes) {
            pid if pid > 0 && is_alive(pid) => Ok(()),
            _ => Err(format!("round {round}: {comes} does not run")),
        });
        let goes = if is_after { String::from("e-gone") } else { format!("a-new-{}", round - 1) };
        place.until(|| if is_gone(&goes) { Ok(()) } else { Err(format!("round {round}: {goes} is still there")) });
        assert_eq!(pid(&place, "b-kept"), kept, "round {round}");
    }
    assert!(!hale.said().iter().any(|line| line.contains("does not fit")), "{:?}", hale.said());
    // Places are right: what happens to one of them is told of this one.
    place.configure("", AFTER);
    place.done(&["reload"]);
    place.until(|| if pid(&place, "a-new") > 0 { Ok(()) } else { Err(String::from("a-new does not run")) });
    let supervisor = hale.supervisor();
    send(supervisor, Signal::KILL);
    await_end(supervisor);
    let new = pid(&place, "a-new");
    send(new, Signal::KILL);
    place.until(|| match pid(&place, "a-new") {
        0 => Err(String::from("it is on its way")),
        pid if pid == new => Err(String::from("it was not started again")),
        _ => Ok(()),
    });
    assert_eq!(pid(&place, "b-kept"), kept);
    for service in ["a-new", "b-kept", "d-anew"] {
        assert!(place.records(service, "violated").is_empty(), "{:?}", place.records(service, "violated"));
    }
    hale.stop();
}

#[test]
fn sockets_logs_and_names_follow_the_configuration() {
    let place = Place::new();
    let service = |socket: &str, log: &str| {
        format!(
            "[service.web]\ncommand = [\"sh\", \"-c\", \"while read line; do seq 1 2000; done <@D/say\"]\n\
             listen = {{ http = \"unix:@D/{socket}.sock\" }}\nlog = {{ max_size = \"{log}\", keep = 50 }}\n"
        )
    };
    let fifo = place.path("say");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
    let held = std::fs::File::options().read(true).write(true).open(&fifo).unwrap();
    let say = || std::io::Write::write_all(&mut &held, b"go\n").unwrap();
    let hale = place.hale(&service("first", "64MiB"));
    let first = hale.ready("web");
    assert!(UnixStream::connect(place.path("first.sock")).is_ok());

    // The keeper is told at once, and no process has to end for it.
    place.configure("", &service("first", "4KiB"));
    place.done(&["reload"]);
    say();
    let rotated = || place.path("log/web/@0000000001.log").exists();
    place.until(|| if rotated() { Ok(()) } else { Err(String::from("the log was not rotated")) });
    assert_eq!(pid(&place, "web"), first);

    place.configure("", &service("second", "4KiB"));
    place.done(&["reload"]);
    hale.ready("web");
    assert!(UnixStream::connect(place.path("second.sock")).is_ok());
    assert!(UnixStream::connect(place.path("first.sock")).is_err() && !place.path("first.sock").exists());

    // Gone, and back in its old place, with its old log.
    place.configure("", "");
    place.done(&["reload"]);
    hale.event("web", "forgotten");
    assert!(UnixStream::connect(place.path("second.sock")).is_err());
    place.configure("", &service("second", "4KiB"));
    place.done(&["reload"]);
    hale.ready("web");
    assert!(UnixStream::connect(place.path("second.sock")).is_ok());
    assert_eq!(place.status("web")["restarts"], 0);
    say();
    hale.stop();
    assert!(place.path("log/web/@0000000002.log").exists());
}

#[test]
fn from_observing_to_healing_and_back_nothing_ends_that_works() {
    let place = Place::new();
    let services =
        "[service.fails]\ncommand = [\"sleep\", \"1000\"]\n[service.works]\ncommand = [\"sleep\", \"1000\"]\n";
    let hale = place.hale_with("mode = \"observe\"", services);
    let (fails, works) = (hale.ready("fails"), hale.ready("works"));
    send(fails, Signal::KILL);
    hale.event("fails", "stopped, because mode is \"observe\"");
    place.configure("mode = \"heal\"", services);
    place.done(&["reload"]);
    let healed = hale.ready("fails");
    place.configure("mode = \"observe\"", services);
    place.done(&["reload"]);
    send(healed, Signal::KILL);
    hale.event("fails", "stopped, because mode is \"observe\"");
    assert_eq!(pid(&place, "works"), works);
    assert_eq!(place.json(&["status"])["host"]["mode"], "observe");
    hale.stop();
}

/// The services' addresses are Hale's: between two processes nobody is refused, also when the reload is why there are two.
#[test]
fn whoever_connects_while_a_reload_starts_a_service_anew_waits() {
    let place = Place::new();
    let service =
        |number: u32| format!("[service.web]\ncommand = [\"sleep\", \"{number}\"]\nlisten = {{ http = \"@A\" }}\n");
    let hale = place.hale(&service(1_000));
    hale.ready("web");
    let address = place.text("@A");
    for number in 1_001..1_006 {
        place.configure("", &service(number));
        place.done(&["reload"]);
        TcpStream::connect(&address).expect("it is not refused");
        hale.ready("web");
    }
    hale.stop();
}

mod needs_python {
    use super::*;
    use crate::harness::under_init;

    /// Also a new guardian, which knows places by their numbers only.
    #[test]
    fn a_new_guardian_finds_what_a_reload_has_added() {
        let mut place = Place::new();
        under_init(&mut place);
        let hale = place.hale(BEFORE);
        let kept = hale.ready("b-kept");
        hale.ready("d-anew");
        hale.ready("e-gone");
        place.reports(&["READY=1"]);
        place.configure("", AFTER);
        place.done(&["reload"]);
        let (new, anew) = (hale.ready("a-new"), hale.ready("d-anew"));
        hale.event("e-gone", "forgotten");
        let own = [hale.guardian(), hale.supervisor(), hale.keeper()];
        send(own[0], Signal::KILL);
        own.iter().for_each(|&pid| await_end(pid));
        place.report("lost");
        place.open_gate();
        place.reports(&["READY=1"]);
        let found = ["a-new", "b-kept", "d-anew"].map(|service| pid(&place, service));
        assert_eq!(found, [new, kept, anew]);
        assert!([new, kept, anew].into_iter().all(is_alive));
        assert!(place.records("", "violated").is_empty());
        hale.stop();
    }
}
