//! Services that write numbered lines and exit with known statuses, and what must be true of them in the end: no line and no
//! status is lost, and nothing ran twice.

use crate::harness::{Place, python};
use serde_json::Value;
use std::collections::BTreeMap;

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

/// How often each was told to crash, by its number.
pub type Crashes = BTreeMap<usize, u64>;

pub fn service(number: usize) -> String {
    format!("w{number:02}")
}

/// Its exit status when it is told to crash (by SIGUSR1).
fn status(number: usize) -> u64 {
    40 + number as u64
}

/// The tables of that many services.
pub fn configuration(place: &Place, services: usize) -> String {
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
    (0..services).map(one).collect()
}

/// What it reports when it is up: each says so itself, because what Hale prints dies with the one who prints it.
pub fn up(number: usize) -> String {
    format!("up {} ", service(number))
}

/// The pid in such a report.
pub fn pid(report: &str) -> i32 {
    report.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Waits until all are up for the first time; their pids.
pub fn await_all(place: &Place, services: usize) -> Vec<i32> {
    let all: Vec<String> = (0..services).map(up).collect();
    place.reports(&all.iter().map(String::as_str).collect::<Vec<_>>());
    let reported = place.reported();
    let first = |number: usize| reported.iter().find(|line| line.starts_with(&up(number))).unwrap();
    (0..services).map(|number| pid(first(number))).collect()
}

/// After the end of Hale: each crash is told once, nothing ran twice, and every line is there. `exact`: the kernel tells every
/// status; else it may be unknown, of a crash only.
pub fn assert_all(place: &Place, services: usize, crashes: &Crashes, exact: bool) {
    let reported = place.reported();
    assert!(!reported.iter().any(|line| line.starts_with("double")), "{reported:?}");
    let records = place.ledger();
    for number in 0..services {
        let name = service(number);
        let crashed = crashes.get(&number).copied().unwrap_or(0);
        let of = |kind: &str| {
            let is_it = |record: &&Value| record["service"] == name.as_str() && record["kind"] == kind;
            records.iter().filter(is_it).collect::<Vec<_>>()
        };
        let ends = of("exited");
        let told = |record: &Value| match record["status"]["code"].as_u64() {
            Some(code) => code,
            None if !exact && record["status"] == "unknown" => status(number),
            None => panic!("{name}: a status that it never had: {record}"),
        };
        let statuses: Vec<u64> = ends.iter().map(|record| told(record)).collect();
        let mut expected = vec![status(number); usize::try_from(crashed).unwrap()];
        expected.push(0);
        assert_eq!(statuses, expected, "{name}: each exit status once, and right");
        assert_eq!(of("spawned").len() as u64, 1 + crashed, "{name}: started once, and once for each crash");
        assert_eq!(of("violated"), Vec::<&Value>::new());
        assert_whole(place, number, 1 + crashed);
    }
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
