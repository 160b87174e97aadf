//! Whatever the kernel kills for memory is told as `oom`, whether a limit or the host had run out; what somebody else kills is
//! not, and a worker that is killed is no failure. Waiting for memory is told, and is the cause of not answering. A fork bomb
//! stays in its service. All the while the others keep their processes.

use super::{expect_pid, json, pid_of};
use crate::tools::Outcome;
use crate::vm::guest::Guest;
use crate::vm::image::GuestFile;
use crate::vm::machine::{Bench, Machine};
use serde_json::Value;
use std::time::Duration;

/// Each step takes seconds in an emulated machine that has other work.
const WITHIN: Duration = Duration::from_secs(60);

/// `slow` is a program that we did not write, which forks for each request.
const CONFIGURATION: &str = r#"
[service.neighbour]
command = ["hale", "demo-service", "web", "--port", "8701"]
[[service.neighbour.check]]
kind = "tcp"
address = "127.0.0.1:8701"

[service.leaky]
command = ["hale", "demo-service", "web", "--port", "8702"]
memory_limit = "48MiB"
[[service.leaky.check]]
kind = "tcp"
address = "127.0.0.1:8702"

[service.slow]
command = ["/bin/busybox", "httpd", "-f", "-p", "127.0.0.1:8703", "-h", "/etc"]
[[service.slow.check]]
kind = "http"
url = "http://127.0.0.1:8703/inittab"
timeout = "1s"
failures = 4

# Bombs once for each time that it is told to.
[service.bomber]
command = ["/bin/sh", "-c", """
while ! test -e /run/bomb; do sleep 1; done; rm /run/bomb
while :; do sh -c 'while :; do sleep 1000 & done' & done
"""]
tasks_limit = 32
"#;

pub fn run(bench: &Bench) -> Outcome {
    at_limits(bench)?;
    without_controller(bench)
}

fn at_limits(bench: &Bench) -> Outcome {
    let mut guest = boot(bench, Machine::default())?;
    let neighbour = pid_of(&mut guest, "neighbour")?;

    // Its leak is held back, on a thread of its own: it goes on answering.
    hold_back(&mut guest, "leaky", "16M")?;
    ask(&mut guest, "8702/break/leak?mib=40")?;
    guest.await_console("were lost to waiting for memory, held back by memory.high", WITHIN)?;
    hold_back(&mut guest, "leaky", "max")?;

    hold_back(&mut guest, "slow", "4096")?;
    guest.await_console("slow: detected: check http failed 4 times in a row: no answer within 1 s", WITHIN)?;
    hold_back(&mut guest, "slow", "max")?;
    guest.await_console("slow: all checks pass: recovered", WITHIN)?;
    guest.await_console("leaky: waits for memory no longer", WITHIN)?;

    ask(&mut guest, "8702/break/leak?mib=100")?;
    guest.await_console(
        "leaky: detected: killed by the kernel for memory: its cgroup was at its limit of 48 MiB",
        WITHIN,
    )?;
    guest.await_console("leaky: all checks pass: recovered", WITHIN)?;

    let leaky = pid_of(&mut guest, "leaky")?;
    guest.must(&format!("kill -9 {leaky}"))?;
    guest.await_console("leaky: all checks pass: recovered", WITHIN)?;

    let leaky = pid_of(&mut guest, "leaky")?;
    for _ in 0..2 {
        ask(&mut guest, "8702/break/hog?mib=100")?;
        guest.await_console("leaky: the kernel killed one of its processes for memory", WITHIN)?;
    }

    guest.must("touch /run/bomb")?;
    guest.await_console("bomber: detected: the process exited", WITHIN)?;
    guest.await_console("bomber: its program runs, and it has no checks: recovered", WITHIN)?;

    expect_pid(&mut guest, "leaky", leaky)?;
    expect_pid(&mut guest, "neighbour", neighbour)?;
    let expected = [("slow", "memory"), ("leaky", "oom"), ("leaky", "signal"), ("bomber", "exit")];
    let incidents = expect_causes(&mut guest, &expected)?;
    let figure = |incident: usize, name: &str| incidents[incident]["evidence"]["memory"][name].as_u64().unwrap_or(0);
    if figure(0, "high_hits") == 0 || figure(1, "limit_bytes") != 48 << 20 || figure(1, "peak_bytes") < 40 << 20 {
        return Err(guest.failure(&format!("the kernel's figures are missing: {incidents:#}")));
    }
    Ok(())
}

/// The kernel has no memory controller, and nothing is limited: the whole host runs out.
fn without_controller(bench: &Bench) -> Outcome {
    let small = Machine { memory_mib: 256, kernel_arguments: vec!["cgroup_disable=memory"], ..Machine::default() };
    let mut guest = boot(bench, small)?;
    let neighbour = pid_of(&mut guest, "neighbour")?;
    ask(&mut guest, "8702/break/leak?mib=1000")?;
    guest.await_console("leaky: detected: killed by the kernel for memory: the host was out of memory", WITHIN)?;
    guest.await_console("leaky: all checks pass: recovered", WITHIN)?;
    expect_pid(&mut guest, "neighbour", neighbour)?;
    expect_causes(&mut guest, &[("leaky", "oom")])?;
    let doctor = guest.run("hale doctor")?;
    if doctor.exit != 1 || !doctor.output.contains("missing: cgroup v2 controller memory\n") {
        return Err(guest.failure(&format!("hale doctor: {}: {}", doctor.exit, doctor.output)));
    }
    Ok(())
}

/// A machine whose services are all healthy.
fn boot(bench: &Bench, machine: Machine) -> Outcome<Guest> {
    let files = vec![GuestFile::text("/etc/hale/hale.toml", CONFIGURATION)];
    let mut guest = bench.boot_new(&Machine { files, ..machine })?;
    guest.await_console(" has begun", WITHIN)?;
    for service in ["neighbour", "leaky", "slow", "bomber"] {
        guest.must(&format!("hale start {service}"))?;
    }
    Ok(guest)
}

/// Has the kernel hold back a service that uses more than so much.
fn hold_back(guest: &mut Guest, service: &str, high: &str) -> Outcome {
    guest
        .must(&format!("for group in /sys/fs/cgroup/hale-*/{service}; do echo {high} >$group/memory.high; done"))
        .map(drop)
}

/// Asks a demo service to break, whether or not it lives to answer.
fn ask(guest: &mut Guest, url: &str) -> Outcome {
    guest.run(&format!("wget -q -O - 'http://127.0.0.1:{url}'")).map(drop)
}

/// Service and cause of each incident, oldest first, are as `expected`.
fn expect_causes(guest: &mut Guest, expected: &[(&str, &str)]) -> Outcome<Value> {
    let incidents = json(guest, "hale incidents --json")?;
    let each = incidents.as_array().into_iter().flatten();
    let causes: Vec<_> = each.map(|incident| (incident["service"].as_str(), incident["cause"].as_str())).collect();
    let expected: Vec<_> = expected.iter().map(|(service, cause)| (Some(*service), Some(*cause))).collect();
    if causes == expected { Ok(incidents) } else { Err(guest.failure(&format!("{causes:?} instead of {expected:?}"))) }
}
