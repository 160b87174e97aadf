//! When supervisor and keeper die again and again, at whatever moment: no service notices, no line and no exit status is
//! lost, and nothing runs twice.

use crate::harness::{Place, await_end, is_alive, send};
use rustix::process::Signal;

/// Many times in a row is done by `HALE_TEST_KILLS=1000`; by default as often as fits into the time of all tests.
fn kills() -> u64 {
    std::env::var("HALE_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
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
    use crate::harness::{Hale, python, under_init};
    use std::collections::BTreeMap;

    const SERVICES: usize = 50;

    /// Writes numbered lines, 10 kB a second, and exits with a status of its own when it is told to. Whoever starts it a
    /// second time finds its lock taken.
    const WRITER: &str = r#"
import fcntl, os, signal, sys
name, status = sys.argv[1], int(sys.argv[2])
lock = open(os.path.join(sys.argv[3], name + ".lock"), "w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    open(os.path.join(sys.argv[3], "reports"), "w").write("double " + name + "\n")
    sys.exit(99)
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
with open(os.path.join(sys.argv[3], "reports"), "w") as reports:
    reports.write(f"up {name} {os.getpid()}\n")
count = 0
while True:
    os.write(1, (f"{name} {count} " + "." * 80 + "\n").encode())
    count += 1
    told = signal.sigtimedwait({signal.SIGUSR1, signal.SIGTERM}, 0.01)
    if told is not None:
        os.write(1, f"{name} end {count}\n".encode())
        os._exit(status if told.si_signo == signal.SIGUSR1 else 0)
"#;

    fn service(number: usize) -> String {
        format!("w{number:02}")
    }

    /// Its exit status when it is told to crash.
    fn status(number: usize) -> u64 {
        40 + number as u64
    }

    fn start(place: &Place, services: usize) -> Hale<'_> {
        place.write("writer.py", WRITER);
        let one = |number: usize| {
            format!(
                "[service.{name}]\ncommand = [\"{python}\", \"@D/writer.py\", \"{name}\", \"{status}\", \"@D\"]\n\
                 restart.crash_loop = false\nrestart.delay = \"0s\"\nlog.keep = 1000\n",
                name = service(number),
                python = python(),
                status = status(number),
            )
        };
        place.hale(&(0..services).map(one).collect::<String>())
    }

    /// Every line of every process is there once, in order, up to its last word.
    fn assert_whole(place: &Place, number: usize, ends: u64) {
        let name = service(number);
        let mut next = 0;
        let mut ended = 0;
        for line in place.log(&name).lines().filter(|line| !line.starts_with("hale: ")) {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                [own, "end", count] => {
                    assert_eq!((own, count), (&*name, &*next.to_string()), "a line before its last word is missing");
                    (next, ended) = (0, ended + 1);
                }
                [own, count, _] => {
                    assert_eq!((own, count), (&*name, &*next.to_string()), "a line is missing, or is there twice");
                    next += 1;
                }
                _ => panic!("{name} never wrote this: {line}"),
            }
        }
        assert_eq!((next, ended), (0, ends), "{name}: its last words");
    }

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
        let mut hale = start(&place, 10);
        let up: Vec<String> = (0..10).map(|number| format!("up {} ", service(number))).collect();
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

    /// Kills what `victims` says that often, and looks at everything afterwards.
    fn storm(place: &Place, kills: u64, victims: impl Fn(&mut Random, &Hale<'_>) -> Vec<i32>) {
        let seed = u64::from(std::process::id());
        println!("seed {seed}");
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let hale = start(place, SERVICES);
        // Each says itself that it is up: what Hale prints dies with the one who prints it.
        let up = |number: usize| format!("up {} ", service(number));
        let all: Vec<String> = (0..SERVICES).map(up).collect();
        place.reports(&all.iter().map(String::as_str).collect::<Vec<_>>());
        let pid = |line: &str| line.rsplit(' ').next().unwrap().parse::<i32>().unwrap();
        let reported = place.reported();
        let first = |number: usize| reported.iter().find(|line| line.starts_with(&up(number))).unwrap();
        let mut pids: Vec<i32> = (0..SERVICES).map(|number| pid(first(number))).collect();
        let mut crashes: BTreeMap<usize, u64> = BTreeMap::new();
        // Each that dies before its first proof is waited for twice as long.
        let mut young = 0;
        for _ in 0..kills {
            // One of them crashes while nobody may be there to see it.
            let crashed = (random.below(4) == 0).then(|| random.below(SERVICES as u64) as usize);
            if let Some(number) = crashed {
                send(pids[number], Signal::USR1);
                *crashes.entry(number).or_default() += 1;
            }
            let parts = victims(&mut random, &hale);
            let guardian = hale.guardian();
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
                assert_eq!(place.status(&service(number))["pid"], pids[number]);
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
        hale.stop();
        let reported = place.reported();
        assert!(!reported.iter().any(|line| line.starts_with("double")), "{reported:?}");
        let records = place.ledger();
        for number in 0..SERVICES {
            let name = service(number);
            let crashed = crashes.get(&number).copied().unwrap_or(0);
            let of = |kind: &str| {
                let is_it = |record: &&serde_json::Value| record["service"] == name.as_str() && record["kind"] == kind;
                records.iter().filter(is_it).collect::<Vec<_>>()
            };
            let statuses: Vec<Option<u64>> =
                of("exited").iter().map(|record| record["status"]["code"].as_u64()).collect();
            let mut expected = vec![Some(status(number)); usize::try_from(crashed).unwrap()];
            expected.push(Some(0));
            assert_eq!(statuses, expected, "{name}: each exit status once, and right");
            assert_eq!(of("spawned").len() as u64, 1 + crashed, "{name}: started once, and once for each crash");
            assert_eq!(of("violated"), Vec::<&serde_json::Value>::new());
            assert_whole(place, number, 1 + crashed);
        }
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
