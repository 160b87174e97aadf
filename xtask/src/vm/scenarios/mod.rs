//! One file for each scenario; what several of them use is here.

pub mod boot;
pub mod hardware_timer;
pub mod power_cut;
pub mod systemd;
pub mod watchdog_reset;

use super::guest::Guest;
use super::image::GuestFile;
use crate::tools::Outcome;

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
