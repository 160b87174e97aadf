//! Whatever ends the guardian, and a kernel that panics, end in a reset by the hardware timer; the ledger verifies and
//! tells it, and services are back. An orderly stop, load, and a spent budget end in none.

use crate::tools::Outcome;
use crate::vm::guest::{Guest, Reset};
use crate::vm::image::GuestFile;
use crate::vm::machine::{Bench, HARDWARE_TIMER, Machine};
use std::time::Duration;

/// Two stages of 6 s, in a machine that is emulated beside other work.
pub(super) const RESET_WITHIN: Duration = Duration::from_secs(120);

/// Longer than both stages of the timer, 12 s.
const LONGER_THAN_THE_TIMER: Duration = Duration::from_secs(18);

/// How long full load is borne, and with `--full`: five times as long as the timer waits.
const LOAD: Duration = Duration::from_secs(60);
const LOAD_FULL: Duration = Duration::from_secs(1_800);

/// The oldest process of Hale, as the guest's shell finds it.
pub(super) const GUARDIAN: &str = "$(pidof hale | tr ' ' '\\n' | sort -n | head -n 1)";

pub(super) const CONFIGURATION: &str = r#"
[host.hardware_watchdog]
timeout = "6s"

[system.generations]
reboot = "auto"

[service.web]
command = ["/bin/busybox", "sleep", "100000"]
"#;

/// The only required service fails for good each time.
const REQUIRED: &str = r#"
[service.db]
command = ["/bin/busybox", "sh", "-c", "sleep 3; exit 3"]
restart.crash_loop = { failures = 1, within = "60s" }
restart.held_delay = "8s"
"#;

pub fn run(bench: &Bench) -> Outcome {
    // One after the other on the same disk, where a boot is not made only to be reset: a budget that is spent keeps the timer
    // from nothing.
    let mut guest = boot_new(bench, CONFIGURATION)?;
    let ends = ["kill -9 GUARDIAN", "kill -STOP GUARDIAN", "echo c >/proc/sysrq-trigger"];
    for (resets, end) in (1..).zip(ends) {
        guest.send(&end.replace("GUARDIAN", GUARDIAN))?;
        expect_reset(&mut guest, "nobody petted the timer", resets)?;
    }
    drop(guest);

    // Hale resets the machine once, and not again within the day: not under load either.
    let mut guest = spent_budget(bench)?;
    guest.must(
        "for n in 1 2 3; do (while :; do sha256sum /bin/hale; done) >/dev/null & done
         (while :; do dd if=/dev/zero of=/var/lib/hale/junk bs=64k count=400; sync; done) >/dev/null 2>&1 &
         (while :; do dd if=/dev/zero of=/run/fill bs=1M count=100; rm -f /run/fill; done) >/dev/null 2>&1 &",
    )?;
    guest.stays_up(if bench.full { LOAD_FULL } else { LOAD })?;
    guest.must(&format!("kill -TERM {GUARDIAN}"))?;
    guest.await_console("guest: hale ended with 0", RESET_WITHIN)?;
    guest.must("grep -x inactive /sys/class/watchdog/watchdog0/state")?;
    guest.stays_up(LONGER_THAN_THE_TIMER)
}

/// A guest whose Hale has reset it, and may not do so again; its required service goes on failing.
fn spent_budget(bench: &Bench) -> Outcome<Guest> {
    let required = CONFIGURATION.replace("timeout = \"6s\"", "timeout = \"6s\"\nrequire = [\"db\"]");
    let mut guest = boot_new(bench, &format!("{required}{REQUIRED}"))?;
    guest.await_console("decided to reboot by the hardware timer", RESET_WITHIN)?;
    expect_reset(&mut guest, "Hale had decided it", 1)?;
    guest.await_console("rebooting by the hardware timer is refused, because 1 resets within 24 h", RESET_WITHIN)?;
    Ok(guest)
}

pub(super) fn boot_new(bench: &Bench, configuration: &str) -> Outcome<Guest> {
    let machine = Machine {
        modules: vec!["i6300esb"],
        qemu_arguments: HARDWARE_TIMER.to_vec(),
        // A kernel that panicked stays so: the timer alone helps.
        kernel_arguments: vec!["panic=0"],
        files: vec![GuestFile::text("/etc/hale/hale.toml", configuration)],
        ..Machine::default()
    };
    let mut guest = bench.boot_new(&machine)?;
    guest.await_console("the guardian may reboot by the hardware timer", RESET_WITHIN)?;
    guest.must("hale start web")?;
    Ok(guest)
}

/// The timer resets the machine, and everything says so afterwards, of each of so many `resets` of this disk.
pub(super) fn expect_reset(guest: &mut Guest, why: &str, resets: u32) -> Outcome {
    if guest.await_reset(RESET_WITHIN)? != (Reset { by_watchdog: true }) {
        return Err(guest.failure("a reset, but not by the hardware timer"));
    }
    guest.await_console(why, RESET_WITHIN)?;
    guest.must("hale start web")?;
    guest.must("hale ledger verify")?;
    guest.must(&format!(
        "test $(hale incidents --json | tr -d ' \\n' | grep -o '\"service\":null,\"cause\":\"reset\",\"blame\":\"host\"' | wc -l) = {resets}"
    ))?;
    let records = "hale ledger show --json | grep -c '\"boot_status\":32.*\"kind\":\"hardware_reset\"'";
    guest.must(&format!("test $({records}) = {resets}")).map(drop)
}
