//! When supervisor and keeper die again and again, at whatever moment: no service notices, no line and no exit status is
//! lost, and nothing runs twice.

use crate::harness::{Place, await_end, is_alive, send};
use rustix::process::Signal;

/// Many times in a row is done by `HALE_TEST_KILLS=1000`; by default as often as fits into the time of all tests.
fn kills() -> u64 {
    number("HALE_TEST_KILLS").unwrap_or(200)
}

/// A number of the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Numbers, the same ones for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

mod needs_python {
    use super::*;
    use crate::harness::{Hale, PATIENCE, under_init};
    use crate::writers::{Crashes, assert_all, await_all, configuration, pid, service, up};
    use std::time::Instant;

    const SERVICES: usize = 50;

    #[test]
    fn killed_again_and_again_under_load_no_service_notices() {
        storm(&Place::new(), kills(), |random, hale| match random.below(4) {
            0 => vec![hale.keeper()],
            1 => vec![hale.supervisor(), hale.keeper()],
            _ => vec![hale.supervisor()],
        });
    }

    /// The same with guardians, whose descriptors are kept by a stand-in for systemd.
    #[test]
    fn killed_with_its_guardian_again_and_again_under_load_no_service_notices() {
        let mut place = Place::new();
        under_init(&mut place);
        storm(&place, kills() / 4, |random, hale| match random.below(4) {
            0 => vec![hale.supervisor()],
            1 => vec![hale.keeper(), hale.guardian()],
            _ => vec![hale.guardian()],
        });
    }

    /// Without systemd nobody has what a killed guardian had: what it left behind is ended before anything is started.
    #[test]
    fn killed_as_a_whole_and_started_again_nothing_ever_runs_twice() {
        let place = Place::new();
        // Ten: each round starts all of them, and that takes far longer than killing does.
        let mut hale = place.hale(&configuration(&place, 10));
        let up: Vec<String> = (0..10).map(up).collect();
        let up: Vec<&str> = up.iter().map(String::as_str).collect();
        for round in 0..kills() / 4 {
            // Some are killed before all services are up.
            if round % 4 != 3 {
                place.reports(&up);
            }
            hale.kill_all();
            hale = place.hale_again();
        }
        place.reports(&up);
        assert_eq!(place.json(&["status"])["services"].as_array().unwrap().len(), 10);
        let reported = place.reported();
        assert!(!reported.iter().any(|line| line.starts_with("double")), "{reported:?}");
        assert_eq!(place.living().len(), 10);
        hale.stop();
    }

    /// Keepers that die as soon as they are there are waited for ever longer. Hale may end while there is none: what is in the
    /// pipes then is written all the same.
    #[test]
    fn no_line_is_lost_when_hale_ends_while_there_is_no_keeper() {
        const SERVICES: usize = 3;
        let place = Place::new();
        let hale = place.hale(&configuration(&place, SERVICES));
        await_all(&place, SERVICES);
        for _ in 0..7 {
            let keeper = hale.keeper();
            send(keeper, Signal::KILL);
            await_end(keeper);
        }
        let _afterwards = hale.stop();
        assert_all(&place, SERVICES, &Crashes::new(), true);
    }

    /// One that hangs then is found out by the missing proof, as at any time.
    #[test]
    fn no_line_is_lost_when_the_keeper_hangs_as_hale_ends() {
        const SERVICES: usize = 3;
        let place = Place::new();
        let hale = place.hale(&configuration(&place, SERVICES));
        await_all(&place, SERVICES);
        send(hale.keeper(), Signal::STOP);
        let _afterwards = hale.stop();
        assert_all(&place, SERVICES, &Crashes::new(), true);
    }

    /// One that dies while it writes what is left is replaced, too.
    #[test]
    fn no_line_is_lost_when_the_keeper_dies_after_the_supervisor_has_ended() {
        const SERVICES: usize = 3;
        let place = Place::new();
        let hale = place.hale(&configuration(&place, SERVICES));
        await_all(&place, SERVICES);
        let (keeper, supervisor) = (hale.keeper(), hale.supervisor());
        // It is behind with all that it is told.
        send(keeper, Signal::STOP);
        hale.signal(Signal::TERM);
        await_end(supervisor);
        send(keeper, Signal::KILL);
        let _afterwards = hale.ended();
        assert_all(&place, SERVICES, &Crashes::new(), true);
    }

    /// A process that a dying guardian has made and told nobody of is ended by the next one: until Hale knows a process, only
    /// that it never runs twice is promised.
    fn await_known(place: &Place, pids: &[i32]) {
        let known = || {
            let status = answered(place, &["status"]);
            let shown = status["services"].as_array().unwrap();
            shown.iter().zip(pids).all(|(shown, &pid)| shown["pid"] == pid)
        };
        let begin = Instant::now();
        while !known() {
            assert!(begin.elapsed() < PATIENCE, "Hale does not know what has run for long");
        }
    }

    /// The first answer that comes: a supervisor that is too busy says so after a second.
    fn answered(place: &Place, question: &[&str]) -> serde_json::Value {
        let begin = Instant::now();
        loop {
            let output = place.run(&[question, &["--json"]].concat());
            if output.status.success() {
                return serde_json::from_slice(&output.stdout).unwrap();
            }
            assert!(begin.elapsed() < PATIENCE, "{}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// Kills what `victims` says that often, and looks at everything afterwards.
    fn storm(place: &Place, kills: u64, victims: impl Fn(&mut Random, &Hale<'_>) -> Vec<i32>) {
        // `HALE_TEST_SEED` repeats who is killed when; not how far each was by then.
        let seed = number("HALE_TEST_SEED").unwrap_or_else(|| std::process::id().into());
        println!("seed {seed}");
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let hale = place.hale(&configuration(place, SERVICES));
        let mut pids = await_all(place, SERVICES);
        let mut crashes = Crashes::new();
        // Each that dies before its first proof is waited for twice as long.
        let mut young = 0;
        for _ in 0..kills {
            let crashed = (random.below(4) == 0).then(|| random.below(SERVICES as u64) as usize);
            let parts = victims(&mut random, &hale);
            let guardian = hale.guardian();
            if parts.contains(&guardian) {
                await_known(place, &pids);
                // What it makes from here on it may tell nobody.
                send(guardian, Signal::STOP);
            }
            // One of them crashes while nobody may be there to see it.
            if let Some(number) = crashed {
                send(pids[number], Signal::USR1);
                *crashes.entry(number).or_default() += 1;
            }
            // Some die stopped, so that they are behind with what they were told; all at once.
            if random.below(4) == 0 {
                parts.iter().for_each(|&pid| send(pid, Signal::STOP));
            }
            parts.iter().for_each(|&pid| send(pid, Signal::KILL));
            parts.iter().for_each(|&pid| await_end(pid));
            if parts.contains(&guardian) {
                place.open_gate();
            }
            young += 1;
            if let Some(number) = crashed {
                pids[number] = pid(&place.report(&up(number)));
                young = 0;
            } else if random.below(2) == 0 || young > 2 {
                young = 0;
                // Who asks meanwhile waits, and is answered; else the next one dies while it starts.
                let number = random.below(SERVICES as u64) as usize;
                let shown = answered(place, &["status", &service(number)]);
                assert_eq!(shown["services"][0]["pid"], pids[number]);
            }
        }
        for (number, &pid) in pids.iter().enumerate() {
            let shown = place.status(&service(number));
            assert_eq!(
                (&shown["pid"], &shown["restarts"]),
                (&pid.into(), &crashes.get(&number).copied().unwrap_or(0).into())
            );
            assert!(is_alive(pid));
        }
        let _afterwards = hale.stop();
        assert_all(place, SERVICES, &crashes, true);
        place.done(&["ledger", "verify"]);
        place.assert_nobody_left();
    }
}

/// Stopped instead of killed: found out by the missing proof, and replaced all the same.
#[test]
fn a_supervisor_that_hangs_is_replaced_and_the_ledger_says_where_it_hung() {
    let place = Place::new();
    let hale = place.hale("[service.web]\ncommand = [\"sleep\", \"1000\"]\n");
    let pid = hale.ready("web");
    let times = kills() / 10;
    for _ in 0..times {
        let hung = hale.supervisor();
        send(hung, Signal::STOP);
        await_end(hung);
        assert_eq!(place.status("web")["pid"], pid);
        assert_eq!(place.status("web")["restarts"], 0);
    }
    hale.stop();
    let lost: Vec<_> = place.records("", "took_over").into_iter().map(|record| record["lost"].clone()).collect();
    assert_eq!(lost.len() as u64, times);
    for lost in lost {
        assert_eq!(lost["how"], "no_progress");
        assert!(lost["evidence"].as_str().unwrap().starts_with("state T, in "), "{lost}");
    }
}

/// The probes of one supervisor are killed with it, and those of the next are not: no check fails by it.
#[test]
fn an_exec_check_does_not_fail_because_the_supervisor_was_replaced() {
    let place = Place::new();
    let hale = place.hale(
        "[service.web]\ncommand = [\"sleep\", \"1000\"]\n[[service.web.check]]\nkind = \"exec\"\n\
         command = [\"sh\", \"-c\", \"echo probed >@D/reports; sleep 0.1\"]\nevery = \"200ms\"\ntimeout = \"30s\"\nfailures = 1\n",
    );
    let pid = hale.ready("web");
    for _ in 0..15 {
        // One is running when its supervisor dies.
        place.report("probed");
        let old = hale.supervisor();
        send(old, Signal::KILL);
        await_end(old);
        assert_eq!(place.status("web")["pid"], pid);
    }
    place.report("probed");
    place.report("probed");
    assert!(place.records("web", "check_failed").is_empty());
    assert_eq!(place.records("web", "spawned").len(), 1);
    hale.stop();
}

/// A probe that runs when everything ends is ended too, and nothing of it is left.
#[test]
fn a_running_exec_check_ends_with_hale() {
    let place = Place::new();
    let hale = place.hale(
        "[service.web]\ncommand = [\"sleep\", \"1000\"]\nstart.ready = \"running\"\n[[service.web.check]]\nkind = \"exec\"\n\
         command = [\"sh\", \"-c\", \"setsid sleep 1000 & echo probing >@D/reports; exec sleep 1000\"]\ntimeout = \"30s\"\n",
    );
    place.report("probing");
    hale.stop();
}

/// Takes a lock, and reports who it is; whoever finds the lock taken is a second one.
const ALONE: &str = r#"
[service.alone]
command = ["sh", "-c", "exec 9>>@D/lock; flock -n 9 || { echo double >@D/reports; exit 1; }; echo up $$ >@D/reports; exec sleep 1000"]
restart.crash_loop = false
"#;

fn up(place: &Place) -> i32 {
    place.report("up ").rsplit(' ').next().unwrap().parse().unwrap()
}

/// It was started so often, and there never were two of it. By what it says itself: the newest records may be lost with
/// the journal.
fn assert_never_double(place: &Place, started: usize) {
    let reported = place.reported();
    assert!(reported.iter().all(|line| line.starts_with("up ")), "{reported:?}");
    assert_eq!(reported.len(), started);
    for kind in ["violated", "spawn_failed"] {
        assert!(place.records("alone", kind).is_empty(), "{kind}");
    }
}

/// Its journal is gone: nobody knows what the guardian's processes are, so they are ended and started anew, once each.
#[test]
fn without_a_journal_every_service_is_restarted_once_and_never_doubled() {
    let place = Place::new();
    let hale = place.hale(ALONE);
    let mut pid = up(&place);
    hale.ready("alone");
    for _ in 0..3 {
        let old = hale.supervisor();
        send(old, Signal::STOP);
        std::fs::remove_file(place.path("run/journal")).unwrap();
        send(old, Signal::KILL);
        let next = up(&place);
        assert!(next != pid && !is_alive(pid));
        pid = next;
        assert_eq!(place.status("alone")["pid"], pid);
    }
    let missing = "its journal or policy in @D/run is missing or does not fit: its services are ended and started anew";
    hale.says(&place.text(missing));
    hale.stop();
    assert_never_double(&place, 4);
}

/// A journal that is behind, as on a tmpfs that was full for a while: a process that it does not know is adopted.
#[test]
fn a_process_that_the_journal_does_not_know_is_left_alone() {
    let place = Place::new();
    let hale = place.hale(ALONE);
    let journal = place.path("run/journal");
    let mut pid = up(&place);
    hale.ready("alone");
    for _ in 0..3 {
        let behind = std::fs::read(&journal).unwrap();
        send(pid, Signal::KILL);
        pid = up(&place);
        let old = hale.supervisor();
        send(old, Signal::STOP);
        std::fs::write(&journal, behind).unwrap();
        send(old, Signal::KILL);
        await_end(old);
        assert_eq!(place.status("alone")["pid"], pid);
        assert!(is_alive(pid));
    }
    hale.stop();
    assert_eq!(place.records("alone", "adopted").len(), 3);
    assert_never_double(&place, 4);
}

/// What was going on goes on: a stop in its grace, a delay, a held service, an order that waits.
#[test]
fn a_stop_in_progress_and_a_delay_are_carried_on_by_the_next_supervisor() {
    let place = Place::new();
    let hale = place.hale(
        r#"
[service.stubborn]
command = ["sh", "-c", "trap 'echo asked >@D/reports' TERM; echo up >@D/reports; while :; do sleep 1000 & wait $!; done"]
stop.grace = "3s"

[service.delayed]
command = ["sh", "-c", "exit 3"]
restart = { first_delay = "2s", delay = "2s", crash_loop = false }
"#,
    );
    hale.ready("stubborn");
    place.report("up");
    hale.event("delayed", "decided to restart it in ");
    let mut stop = place.command();
    let mut stop = stop.args(["stop", "stubborn"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    place.report("asked");
    let old = hale.supervisor();
    send(old, Signal::KILL);
    await_end(old);
    // Its client was told by the end of its connection; the order itself is carried out to its end.
    assert!(!stop.wait().unwrap().success());
    hale.event("stubborn", "killed all of it (SIGKILL), because it did not end within its grace of 3 s");
    hale.event("stubborn", "stopped");
    hale.started("delayed");
    let delays: Vec<_> = place.records("delayed", "backing_off").iter().map(|r| r["until"].as_u64()).collect();
    let starts: Vec<_> = place.records("delayed", "spawn_intended").iter().map(|r| r["at"]["mono"].as_u64()).collect();
    assert!(!delays.is_empty() && starts.len() > 1, "{delays:?}, {starts:?}");
    for (until, start) in delays.iter().zip(starts.iter().skip(1)) {
        assert!(start >= until, "not before its delay was over: {delays:?}, {starts:?}");
    }
    hale.stop();
    place.assert_nobody_left();
}
