//! Hale starts as a child of init on a host with cgroup v2 alone, heals a killed service, and ends in order on SIGTERM.

use super::{SERVICES, await_healthy, configuration};
use crate::tools::Outcome;
use crate::vm::machine::{Bench, Machine};
use std::time::Duration;

/// The controllers that Hale's limits use (issue of the kernel: cgroup-v2.rst).
const CONTROLLERS: [&str; 4] = ["cpu", "io", "memory", "pids"];

pub fn run(bench: &Bench) -> Outcome {
    let machine = Machine { files: vec![configuration()], ..Machine::default() };
    let mut guest = bench.boot_new(&machine)?;
    let controllers = guest.must("cat /sys/fs/cgroup/cgroup.controllers")?;
    for controller in CONTROLLERS {
        if !controllers.split_whitespace().any(|there| there == controller) {
            return Err(guest.failure(&format!("no controller {controller}: {controllers}")));
        }
    }
    await_healthy(&mut guest)?;

    let parent =
        guest.must("sed -n 's/^PPid:\t//p' /proc/$(pidof hale | tr ' ' '\\n' | sort -n | head -n 1)/status")?;
    if parent.trim() != "1" {
        return Err(guest.failure(&format!("the guardian's parent is {parent}, not init")));
    }

    let service = SERVICES[0];
    let pid = pid_of(&mut guest, service)?;
    guest.must(&format!("kill -9 {pid}"))?;
    guest.await_console(&format!("{service}: all checks pass: recovered"), Duration::from_secs(60))?;
    if pid_of(&mut guest, service)? == pid {
        return Err(guest.failure(&format!("{service} has the pid that was killed")));
    }

    // init hands over the exit code of nobody, so the shell that starts it again is asked instead.
    guest.must("kill -TERM $(pidof hale | tr ' ' '\\n' | sort -n | head -n 1)")?;
    guest.await_console("guest: hale ended with 0", Duration::from_secs(60))?;
    let left = guest.run("pidof hale")?;
    if left.exit == 0 {
        return Err(guest.failure(&format!("processes were left behind: {}", left.output)));
    }
    guest.must("hale ledger verify").map(drop)
}

/// The pid of the service's main process, as `hale status` says.
fn pid_of(guest: &mut crate::vm::guest::Guest, service: &str) -> Outcome<u64> {
    let text = guest.must(&format!("hale status {service} --json"))?;
    let status: serde_json::Value = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
    status["services"][0]["pid"].as_u64().ok_or_else(|| guest.failure(&format!("{service} has no pid: {text}")))
}
