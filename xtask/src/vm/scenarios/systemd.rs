//! Under a real systemd the unit can be read, and the groups of a service's users are made.

use crate::tools::Outcome;
use crate::vm::guest::Guest;
use crate::vm::image::GuestFile;
use crate::vm::machine::{Bench, Machine, System};

pub fn run(bench: &Bench) -> Outcome {
    let machine = Machine {
        system: System::Debian,
        files: vec![
            GuestFile::text("/etc/hale/hale.toml", include_str!("../guest/systemd.toml")),
            GuestFile::text(
                "/usr/lib/systemd/system/hale.service",
                include_str!("../../../../packaging/systemd/hale.service"),
            ),
            GuestFile::text(
                "/usr/lib/sysusers.d/hale.conf",
                include_str!("../../../../packaging/sysusers.d/hale.conf"),
            ),
        ],
        ..Machine::default()
    };
    let mut guest = bench.boot_new(&machine)?;
    unit_is_understood(&mut guest)
}

/// systemd understands each line but the one that is for a newer one; sysusers has made the groups at boot.
fn unit_is_understood(guest: &mut Guest) -> Outcome {
    let said = guest.must("systemd-analyze verify hale.service 2>&1")?;
    let unknown: Vec<&str> = said.lines().filter(|line| !line.contains("'DelegateSubgroup'")).collect();
    if said.lines().count() != 1 || !unknown.is_empty() {
        return Err(guest.failure(&format!("systemd does not understand the unit: {said}")));
    }
    guest.must("getent group hale && getent group hale-admin").map(drop)
}
