//! redis-server, by its port and by its own client.

use crate::harness::{Place, is_alive, send};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;

const SERVICE: &str = r#"
[service.redis]
command = ["redis-server", "--bind", "@H", "--port", "@P", "--dir", "@D", "--save", "", "--enable-debug-command", "yes"]
stop.grace = "200ms"
restart.crash_loop = false
"#;

const TCP: &str = r#"
[[service.redis.check]]
kind = "tcp"
address = "@A"
every = "100ms"
failures = 2
timeout = "2s"
"#;

const EXEC: &str = r#"
[[service.redis.check]]
kind = "exec"
command = ["redis-cli", "-h", "@H", "-p", "@P", "ping"]
every = "100ms"
timeout = "3s"
failures = 2
"#;

/// Tells redis a command, and waits for the first bytes of its answer, if it gives one.
fn tell(place: &Place, command: &str) -> TcpStream {
    let mut stream = TcpStream::connect(place.address).unwrap();
    write!(stream, "{command}\r\n").unwrap();
    stream
}

#[test]
fn killed_it_comes_back_and_accepts() {
    let place = Place::new();
    let hale = place.hale(&[SERVICE, TCP].concat());
    send(hale.ready("redis"), Signal::KILL);
    hale.ready("redis");
    hale.event("redis", "recovered in");
    let mut answer = [0; 7];
    tell(&place, "PING").read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
    hale.stop();
    assert_eq!(place.causes("redis"), [("signal".into(), "recovered".into())]);
}

/// A crash of the real thing: its own report is in the evidence, and the signal is the one that it died of.
#[test]
fn a_segmentation_fault_is_told_with_its_last_words() {
    let place = Place::new();
    let hale = place.hale(&[SERVICE, TCP].concat());
    hale.ready("redis");
    let _no_answer = tell(&place, "DEBUG SEGFAULT");
    hale.event("redis", "detected: the process was ended by SIGSEGV");
    hale.event("redis", "recovered in");
    hale.stop();
    let incident = &place.incidents()[0];
    assert_eq!(incident["cause"], "signal");
    let output = incident["evidence"]["output"].as_array().unwrap();
    let says = |what: &str| output.iter().any(|line| line.as_str().unwrap().contains(what));
    assert!(says("REDIS BUG REPORT END") && output.len() <= 200, "{output:#?}");
}

/// supervision.md 2.1: it accepts connections, by its backlog, and is stuck all the same. A connection proves little;
/// its own client finds it.
#[test]
fn stuck_it_accepts_and_only_its_client_finds_it() {
    let place = Place::new();
    let hale = place.hale(&[SERVICE, TCP, EXEC].concat());
    let first = hale.ready("redis");
    let _no_answer = tell(&place, "DEBUG SLEEP 1000");
    hale.event("redis", "detected: check exec failed 2 times");
    hale.event("redis", "recovered in");
    assert!(!is_alive(first));
    hale.stop();
    assert_eq!(place.causes("redis"), [("hang".into(), "recovered".into())]);
    let failed = place.records("redis", "check_failed");
    assert!(failed.iter().all(|record| record["check"] == "exec"), "{failed:?}");
}

/// At its own bound of memory it answers, and takes nothing more: a client that only pings does not see it.
#[test]
fn out_of_memory_it_answers_and_only_a_write_finds_it() {
    const WRITES: &str = r#"
[[service.redis.check]]
kind = "exec"
name = "write"
command = ["redis-cli", "-e", "-h", "@H", "-p", "@P", "set", "hale", "1"]
every = "100ms"
timeout = "10s"
failures = 2
"#;
    let place = Place::new();
    let hale = place.hale(&[SERVICE, EXEC, WRITES].concat());
    let first = hale.ready("redis");
    let mut answer = [0; 10];
    tell(&place, "CONFIG SET maxmemory 1\r\nPING").read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+OK\r\n+PONG");
    hale.event("redis", "detected: check write failed 2 times");
    hale.event("redis", "recovered in");
    assert!(!is_alive(first));
    hale.stop();
    assert_eq!(place.causes("redis"), [("check".into(), "recovered".into())]);
    let failed = place.records("redis", "check_failed");
    let is_oom = |record: &serde_json::Value| record["detail"].as_str().unwrap().contains("OOM command not allowed");
    assert!(failed.iter().all(|record| record["check"] == "write" && is_oom(record)), "{failed:?}");
}

/// It shuts its port and goes on: a refused connection is a failed check, not a hang.
#[test]
fn a_port_that_nobody_listens_on_is_a_failed_check() {
    let place = Place::new();
    let hale = place.hale(&[SERVICE, TCP].concat());
    hale.ready("redis");
    let other = place.address.port() + 1_000;
    let mut answer = [0; 5];
    tell(&place, &format!("CONFIG SET port {other}")).read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+OK\r\n");
    hale.event("redis", "detected: check tcp failed 2 times");
    hale.event("redis", "recovered in");
    hale.stop();
    assert_eq!(place.causes("redis"), [("check".into(), "recovered".into())]);
}
