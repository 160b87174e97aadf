//! Boots: what kernel and ledger say of those before, read once on a thread of its own because no service waits for a disk,
//! and what the guardian is told about the next one.

use super::console::Console;
use super::inbox::Inbox;
use crate::knowledge::resets;
use crate::supervisor::client::GuardianClient;
use hale_core::effect::Order;
use hale_core::event::Event;
use hale_core::hardware::Past;
use hale_core::policy::HostPolicy;
use std::path::{Path, PathBuf};

/// The class of timers in sysfs (Documentation/ABI/testing/sysfs-class-watchdog).
const CLASS: &str = "/sys/class/watchdog";

/// Starts to read; the loop is told by one event. Without a thread it is told that nothing is known.
pub(super) fn read(host: &HostPolicy, boot_id: String, inbox: &Inbox) {
    let device = host.hardware_watchdog.as_ref().map_or("/dev/watchdog", |timer| &timer.device);
    let boot_status = boot_status(Path::new(CLASS), device);
    let ledger = Path::new(&host.state_dir).join("ledger");
    let to_loop = inbox.clone();
    let work = move || {
        let (resets, previous) = resets::read(&ledger, &boot_id);
        to_loop.send(Event::Past(Past { boot_status, resets, previous }));
    };
    if std::thread::Builder::new().name(String::from("past")).spawn(work).is_err() {
        inbox.send(Event::Past(Past { boot_status, ..Past::default() }));
    }
}

/// What the timer behind `device` says of this boot, without opening it, which would start it.
fn boot_status(class: &Path, device: &str) -> Option<u32> {
    // `/dev/watchdog` is the first of them once more.
    let name = Path::new(device).file_name()?;
    let name = if name == "watchdog" { "watchdog0".as_ref() } else { name };
    std::fs::read_to_string(class.join(PathBuf::from(name)).join("bootstatus")).ok()?.trim().parse().ok()
}

/// Hands an order about the hardware timer to the guardian.
pub(super) fn order(order: &Order, guardian: &mut GuardianClient, console: &Console) {
    let sent = if let Order::MayReboot { allowed } = order {
        guardian.may_reboot(*allowed)
    } else {
        sync_disks();
        guardian.reboot()
    };
    if let Err(error) = sent {
        console.say(&format!("the guardian could not be told about rebooting: {error}"));
    }
}

/// Starts to write to the disks what the file systems still hold (sync(2)): the machine is about to be reset, and does
/// not wait for it.
fn sync_disks() {
    // Without another thread nothing is synced, and the reset comes all the same.
    let _ = std::thread::Builder::new().name(String::from("sync")).spawn(rustix::fs::sync);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_status_is_that_of_the_device_in_use() {
        let class = tempfile::tempdir().unwrap();
        for (name, status) in [("watchdog0", "32\n"), ("watchdog1", "0\n")] {
            std::fs::create_dir(class.path().join(name)).unwrap();
            std::fs::write(class.path().join(name).join("bootstatus"), status).unwrap();
        }
        let read = |device| boot_status(class.path(), device);
        assert_eq!((read("/dev/watchdog"), read("/dev/watchdog0")), (Some(32), Some(32)));
        assert_eq!((read("/dev/watchdog1"), read("/dev/watchdog2")), (Some(0), None));
    }
}
