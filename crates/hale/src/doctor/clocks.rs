//! The clocks: what measures delays, and what the ledger's times are worth.

use super::{Finding, Severity, read};
use std::io;

/// Sources that are slow to read and that the kernel takes when it found the better one unstable
/// (Documentation/timers/timekeeping.rst).
const POOR: [&str; 5] = ["jiffies", "acpi_pm", "hpet", "pit", "refined-jiffies"];

/// What is wrong with them.
pub fn look() -> Vec<Finding> {
    const DIR: &str = "/sys/devices/system/clocksource/clocksource0";
    let timers = std::fs::read_dir("/sys/class/rtc").map(Iterator::count);
    judge(
        read(format!("{DIR}/current_clocksource")),
        read(format!("{DIR}/available_clocksource")),
        hale_daemon::sys::clock::is_synchronised(),
        timers.ok(),
    )
}

fn judge(
    current: io::Result<String>,
    available: io::Result<String>,
    synchronised: io::Result<bool>,
    hardware: Option<usize>,
) -> Vec<Finding> {
    let mut found = Vec::new();
    match current {
        Ok(current) if POOR.contains(&current.trim()) => found.push(Finding::new(
            "clocks",
            Severity::Risk,
            &format!("the clock source is {}; there are: {}", current.trim(), available.unwrap_or_default().trim()),
            "each look at the clock costs a microsecond or more, and the kernel may have found the processor's clock unstable",
            "look for \"clocksource\" in the kernel's log; on a virtual machine choose its host's clock (kvm-clock, hyperv)",
        )),
        Ok(_) => {}
        Err(error) => found.push(Finding::unseen("clocks", "the clock source", &error.to_string())),
    }
    match synchronised {
        Ok(true) => {}
        Ok(false) => found.push(Finding::new(
            "clocks",
            Severity::Risk,
            "the kernel's clock is not synchronised (STA_UNSYNC of adjtimex(2))",
            "times in the ledger and in incidents cannot be compared with those of other machines; delays are not concerned",
            "run systemd-timesyncd, ntpd or chrony (which tells the kernel with `rtcsync` only); in a container it is the host's matter",
        )),
        Err(error) => found.push(Finding::unseen("clocks", "synchronisation", &format!("adjtimex(2): {error}"))),
    }
    // Without /sys/class/rtc at all the kernel was built without them: the same.
    if hardware.unwrap_or_default() == 0 {
        found.push(Finding::new(
            "clocks",
            Severity::Note,
            "no hardware clock in /sys/class/rtc",
            "after a boot the ledger's times are wrong until the clock is synchronised",
            "start Hale after time-sync.target, if that matters",
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_clocks_are_silent_and_bad_ones_are_told() {
        let text = |text: &str| Ok(String::from(text));
        assert!(judge(text("tsc\n"), text("tsc hpet acpi_pm\n"), Ok(true), Some(1)).is_empty());
        let bad = judge(text("hpet\n"), text("hpet acpi_pm\n"), Ok(false), None);
        assert!(bad[0].what.contains("is hpet; there are: hpet acpi_pm"), "{bad:?}");
        assert!(bad[1].what.contains("not synchronised") && bad[2].severity == Severity::Note, "{bad:?}");
        let unseen =
            judge(Err(io::ErrorKind::NotFound.into()), text(""), Err(io::Error::from_raw_os_error(1)), Some(1));
        assert!(unseen.iter().all(|finding| finding.severity == Severity::Unseen) && unseen.len() == 2, "{unseen:?}");
    }
}
