//! The harness itself: a guest that panics is reset, one that pets its hardware timer is not, one that stops petting is
//! reset by the timer; each time it boots again with what was synced before.

use crate::tools::Outcome;
use crate::vm::guest::{Guest, Reset};
use crate::vm::machine::{Bench, HARDWARE_TIMER, Machine};
use std::time::Duration;

/// Two stages of the heartbeat, in a machine that is emulated beside other work.
const RESET_WITHIN: Duration = Duration::from_secs(120);

/// The heartbeat is 4 s, and the reset comes after two of them.
const LONGER_THAN_THE_TIMER: Duration = Duration::from_secs(12);

/// WDIOF_CARDRESET of linux/watchdog.h: the timer caused the last boot.
const CARD_RESET: &str = "32";

pub fn run(bench: &Bench) -> Outcome {
    let machine = Machine {
        modules: vec!["i6300esb heartbeat=4"],
        qemu_arguments: HARDWARE_TIMER.to_vec(),
        ..Machine::default()
    };
    let mut guest = bench.boot_new(&machine)?;
    expect_boot_status(&mut guest, "0")?;
    guest.must("echo before >/var/lib/hale/mark; sync")?;

    guest.send("echo c >/proc/sysrq-trigger")?;
    let reset = guest.await_reset(RESET_WITHIN)?;
    if reset.by_watchdog {
        return Err(guest.failure("the panic's own reset was taken for the hardware timer's"));
    }
    guest.must("grep before /var/lib/hale/mark")?;

    // Opening starts the timer, and without the letter V closing does not stop it.
    guest.must("(while echo pet; do sleep 1; done) >/dev/watchdog & echo $! >/run/petting")?;
    guest.stays_up(LONGER_THAN_THE_TIMER)?;
    guest.must("kill $(cat /run/petting)")?;
    let reset = guest.await_reset(RESET_WITHIN)?;
    if reset != (Reset { by_watchdog: true }) {
        return Err(guest.failure("a reset, but not by the hardware timer"));
    }
    expect_boot_status(&mut guest, CARD_RESET)?;
    guest.must("grep before /var/lib/hale/mark").map(drop)
}

fn expect_boot_status(guest: &mut Guest, expected: &str) -> Outcome {
    let status = guest.must("cat /sys/class/watchdog/watchdog0/bootstatus")?;
    if status.trim() == expected {
        return Ok(());
    }
    Err(guest.failure(&format!("bootstatus is {status}, not {expected}")))
}
