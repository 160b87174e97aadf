//! Whatever ends for want of memory is told as `oom`, what somebody kills is not, a worker's end is no failure, and a fork
//! bomb stays in its service: the others keep their processes.

use crate::tools::Outcome;
use crate::vm::guest::Guest;
use crate::vm::image::GuestFile;
use crate::vm::machine::{Bench, Machine};
use serde_json::Value;
use std::time::Duration;

/// A leak to its limit takes some seconds in an emulated machine that has other work.
const WITHIN: Duration = Duration::from_secs(60);

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

# Bombs once for each time that it is told to.
[service.bomber]
command = ["/bin/sh", "-c", """
while ! test -e /run/bomb; do sleep 1; done; rm /run/bomb
while :; do sh -c 'while :; do sleep 1000 & done' & done
"""]
tasks_limit = 32
"#;

pub fn run(bench: &Bench) -> Outcome {
    let machine = Machine { files: vec![GuestFile::text("/etc/hale/hale.toml", CONFIGURATION)], ..Machine::default() };
    let mut guest = bench.boot_new(&machine)?;
    healthy(&mut guest)?;
    let neighbour = pid_of(&mut guest, "neighbour")?;

    ask(&mut guest, "8702/break/leak?mib=100")?;
    guest.await_console("leaky: detected: killed by the kernel for memory: its cgroup was at its limit of 48 MiB", WITHIN)?;
    guest.await_console("leaky: all checks pass: recovered", WITHIN)?;

    let leaky = pid_of(&mut guest, "leaky")?;
    guest.must(&format!("kill -9 {leaky}"))?;
    guest.await_console("leaky: all checks pass: recovered", WITHIN)?;

    let leaky = pid_of(&mut guest, "leaky")?;
    ask(&mut guest, "8702/break/hog?mib=100")?;
    guest.await_console("leaky: the kernel killed one of its processes for memory", WITHIN)?;

    guest.must("touch /run/bomb")?;
    guest.await_console("bomber: detected: the process exited", WITHIN)?;
    guest.await_console("bomber: its program runs, and it has no checks: recovered", WITHIN)?;

    expect_pid(&mut guest, "leaky", leaky)?;
    expect_pid(&mut guest, "neighbour", neighbour)?;
    let causes = causes(&mut guest)?;
    println!("{causes:?}");
    Ok(())
}

fn healthy(guest: &mut Guest) -> Outcome {
    guest.await_console(" has begun", WITHIN)?;
    for service in ["neighbour", "leaky", "bomber"] {
        guest.must(&format!("hale start {service}"))?;
    }
    Ok(())
}

fn ask(guest: &mut Guest, url: &str) -> Outcome {
    guest.run(&format!("wget -q -O - 'http://127.0.0.1:{url}'")).map(drop)
}

/// Service and cause of each incident, oldest first.
fn causes(guest: &mut Guest) -> Outcome<Vec<(String, String)>> {
    let incidents = json(guest, "hale incidents --json")?;
    println!("{incidents:#}");
    let text = |incident: &Value, key: &str| incident[key].as_str().unwrap_or_default().to_owned();
    let each = incidents.as_array().into_iter().flatten();
    Ok(each.map(|incident| (text(incident, "service"), text(incident, "cause"))).collect())
}

fn pid_of(guest: &mut Guest, service: &str) -> Outcome<u64> {
    let status = json(guest, &format!("hale status {service} --json"))?;
    status["services"][0]["pid"].as_u64().ok_or_else(|| guest.failure(&format!("{service} has no pid: {status}")))
}

fn json(guest: &mut Guest, command: &str) -> Outcome<Value> {
    let text = guest.must(command)?;
    serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))
}

fn expect_pid(guest: &mut Guest, service: &str, expected: u64) -> Outcome {
    let found = pid_of(guest, service)?;
    if found == expected { Ok(()) } else { Err(guest.failure(&format!("{service} has pid {found} instead of {expected}"))) }
}
