//! Hale is process 1 of a machine: it heals, reaps strangers, reboots at ctrl-alt-del, powers off at SIGTERM, and panics no kernel
//! because of a mistake in its configuration.

use super::{SERVICES, await_healthy, configuration, pid_of};
use crate::tools::Outcome;
use crate::vm::image::GuestFile;
use crate::vm::machine::{Bench, Machine};
use std::time::Duration;

/// An end of five services, and a boot where one follows, in a machine that is emulated beside other work.
const END_WITHIN: Duration = Duration::from_secs(60);

/// What an initramfs does: mounts and modules, then Hale in its own place.
const FIRST: &str = "#!/bin/sh\n/etc/guest/setup\n/etc/guest/agent &\n\
                     exec hale run /etc/hale/hale.toml </dev/null >/dev/console 2>&1\n";

/// Leaves a hundred orphans behind, and returns once no process is a zombie.
const ORPHANS: &str = "for i in $(seq 100); do (setsid sh -c 'exit 3' &); done\n\
                       while grep -q '^State:.Z' /proc/[0-9]*/status 2>/dev/null; do :; done";

pub fn run(bench: &Bench) -> Outcome {
    let machine = |configuration| Machine {
        kernel_arguments: vec!["rdinit=/etc/guest/first"],
        files: vec![configuration, GuestFile::program("/etc/guest/first", FIRST)],
        ..Machine::default()
    };
    let mut guest = bench.boot_new(&machine(configuration()))?;
    await_healthy(&mut guest)?;
    let first = guest.must("tr '\\0' ' ' </proc/1/cmdline")?;
    if !first.starts_with("hale guardian ") {
        return Err(guest.failure(&format!("process 1 is {first}")));
    }
    guest.must(ORPHANS)?;
    let pid = pid_of(&mut guest, SERVICES[0])?;
    guest.must(&format!("kill -9 {pid}"))?;
    guest.await_console(&format!("{}: all checks pass: recovered", SERVICES[0]), END_WITHIN)?;

    guest.press_ctrl_alt_del()?;
    guest.await_console("everything has ended: rebooting", END_WITHIN)?;
    guest.await_reset(END_WITHIN)?;
    await_healthy(&mut guest)?;
    guest.must("hale ledger verify")?;
    let endings = guest.must("hale ledger show --json | grep -c '\"kind\":\"ending\"'")?;
    if endings.trim() != "1" {
        return Err(guest.failure(&format!("the ledger has {endings} orderly ends, not 1")));
    }

    guest.send("kill -TERM 1")?;
    guest.await_console("everything has ended: powering off", END_WITHIN)?;
    guest.await_power_off(END_WITHIN)?;

    let mistake = GuestFile::text("/etc/hale/hale.toml", "[service.web]\ncomand = [\"web\"]\n");
    let mut guest = bench.boot(&machine(mistake))?;
    guest.await_console("unknown key `comand`", END_WITHIN)?;
    guest.await_console("then the kernel panics", END_WITHIN)?;
    if bench.full {
        // Half a minute later, and `panic=1` reboots it.
        guest.await_console("Attempted to kill init", END_WITHIN)?;
        guest.await_reset(END_WITHIN)?;
        guest.await_console("then the kernel panics", END_WITHIN)?;
    }
    guest.send("kill -TERM 1")?;
    guest.await_power_off(END_WITHIN)
}
