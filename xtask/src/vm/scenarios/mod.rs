//! One file for each scenario; what several of them use is here.

pub mod boot;
pub mod clock_step;
pub mod hardware_timer;
pub mod memory;
pub mod pid1;
pub mod power_cut;
pub mod power_cut_deploy;
pub mod systemd;
pub mod watchdog_reset;
pub mod wedged;

use super::guest::Guest;
use super::image::GuestFile;
use crate::tools::Outcome;
use serde_json::Value;

/// The services of [`configuration`].
pub const SERVICES: [&str; 5] = ["web", "worker", "api", "web2", "worker2"];

/// Five demo services: those of the example, and two more of the kinds that start quickly.
pub fn configuration() -> GuestFile {
    let example = include_str!("../../../../examples/hale.toml");
    let more = include_str!("../guest/more-services.toml");
    GuestFile::text("/etc/hale/hale.toml", &format!("{example}\n{more}"))
}

/// Returns once all services of [`configuration`] are healthy, each of which `hale start` waits for.
pub fn await_healthy(guest: &mut Guest) -> Outcome {
    // The API may not be there yet when the guest is: Hale and the agent start at the same time.
    guest.await_console(" has begun", std::time::Duration::from_secs(60))?;
    for service in SERVICES {
        guest.must(&format!("hale start {service}"))?;
    }
    Ok(())
}

/// What `command`, which prints JSON, prints.
pub fn json(guest: &mut Guest, command: &str) -> Outcome<Value> {
    let text = guest.must(command)?;
    serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))
}

/// The pid of the service's main process, as `hale status` says.
pub fn pid_of(guest: &mut Guest, service: &str) -> Outcome<u64> {
    let status = json(guest, &format!("hale status {service} --json"))?;
    status["services"][0]["pid"].as_u64().ok_or_else(|| guest.failure(&format!("{service} has no pid: {status}")))
}

/// The service's main process is still the one with this pid.
pub fn expect_pid(guest: &mut Guest, service: &str, expected: u64) -> Outcome {
    let found = pid_of(guest, service)?;
    if found == expected {
        return Ok(());
    }
    Err(guest.failure(&format!("{service} has pid {found} instead of {expected}")))
}
