//! Hale starts as a child of init on a host with cgroup v2 alone, heals a killed service, and ends in order on SIGTERM.

use super::{SERVICES, await_healthy, configuration, pid_of};
use crate::tools::Outcome;
use crate::vm::machine::{Bench, Machine};
use std::time::Duration;

/// The controllers that a service's limits need (the kernel's cgroup-v2.rst).
const CONTROLLERS: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// The oldest process of Hale, as the guest's shell finds it.
const GUARDIAN: &str = "$(pidof hale | tr ' ' '\\n' | sort -n | head -n 1)";

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

    // `start` waits for the guardian, to tell its exit code, and is init's own child.
    let ancestor =
        guest.must(&format!("ppid() {{ sed -n 's/^PPid:\t//p' /proc/$1/status; }}; ppid $(ppid {GUARDIAN})"))?;
    if ancestor.trim() != "1" {
        return Err(guest.failure(&format!("the guardian's parent is a child of {ancestor}, not of init")));
    }

    let service = SERVICES[0];
    let pid = pid_of(&mut guest, service)?;
    guest.must(&format!("kill -9 {pid}"))?;
    guest.await_console(&format!("{service}: all checks pass: recovered"), Duration::from_secs(60))?;
    if pid_of(&mut guest, service)? == pid {
        return Err(guest.failure(&format!("{service} has the pid that was killed")));
    }

    guest.must(&format!("kill -TERM {GUARDIAN}"))?;
    guest.await_console("guest: hale ended with 0", Duration::from_secs(60))?;
    let left = guest.run("pidof hale")?;
    if left.exit == 0 {
        return Err(guest.failure(&format!("processes were left behind: {}", left.output)));
    }
    guest.must("hale ledger verify").map(drop)
}
