//! Who watches over Hale: the hardware timer itself, systemd with a hardware timer above it, or nobody.

use std::fmt;
use std::path::Path;

/// The chain that is in force, from Hale upwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chain {
    /// The guardian pets the timer.
    Guardian,
    /// PID 1 is systemd and pets the timer.
    Systemd {
        /// Whether it watches the guardian in turn (`WatchdogSec=`), so that the chain has no gap.
        watches_hale: bool,
    },
    /// Another process has it.
    Other {
        /// Its name.
        name: String,
    },
    /// No timer runs above Hale.
    Nobody,
}

impl Chain {
    /// Whether a guardian that dies or hangs is always noticed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Guardian | Self::Systemd { watches_hale: true })
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guardian => f.write_str("guardian -> hardware timer"),
            Self::Systemd { watches_hale: true } => {
                f.write_str("guardian -> systemd (WatchdogSec=) -> hardware timer (RuntimeWatchdogSec=)")
            }
            Self::Systemd { watches_hale: false } => f.write_str(
                "systemd pets the hardware timer, and nobody watches the guardian: set WatchdogSec= in Hale's unit",
            ),
            Self::Other { name } => write!(f, "{name} has the hardware timer, and nobody watches the guardian"),
            Self::Nobody => f.write_str("no hardware timer runs: a machine that hangs stays as it is"),
        }
    }
}

/// Finds out. `armed`: whether the guardian says that it has a timer; `watches_hale`: whether `WATCHDOG_USEC` was in the
/// environment that Hale was started with (sd_watchdog_enabled(3)). Without root the open files of others cannot be seen.
#[must_use]
pub fn chain(armed: bool, watches_hale: bool) -> Chain {
    if armed { Chain::Guardian } else { owner(Path::new("/proc"), watches_hale) }
}

/// The process that has a timer open.
fn owner(proc: &Path, watches_hale: bool) -> Chain {
    let is_timer = |fd: std::io::Result<std::fs::DirEntry>| {
        fd.and_then(|fd| std::fs::read_link(fd.path()))
            .is_ok_and(|file| file.to_str().is_some_and(|file| file.starts_with("/dev/watchdog")))
    };
    for process in std::fs::read_dir(proc).into_iter().flatten().flatten() {
        if !std::fs::read_dir(process.path().join("fd")).is_ok_and(|mut fds| fds.any(is_timer)) {
            continue;
        }
        let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        let name = String::from(name.trim());
        let is_init = process.file_name() == "1" && name == "systemd";
        return if is_init { Chain::Systemd { watches_hale } } else { Chain::Other { name } };
    }
    Chain::Nobody
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_who_has_the_device_open() {
        let proc = tempfile::tempdir().unwrap();
        let process = |pid: &str, name: &str, file: &str| {
            let dir = proc.path().join(pid);
            std::fs::create_dir_all(dir.join("fd")).unwrap();
            std::fs::write(dir.join("comm"), format!("{name}\n")).unwrap();
            std::os::unix::fs::symlink(file, dir.join("fd/7")).unwrap();
        };
        process("4", "bot", "/dev/null");
        assert_eq!(owner(proc.path(), true), Chain::Nobody);
        process("1", "systemd", "/dev/watchdog0");
        assert!(owner(proc.path(), true).is_closed());
        assert!(!owner(proc.path(), false).is_closed());
        std::fs::write(proc.path().join("1/comm"), "watchdogd\n").unwrap();
        assert_eq!(owner(proc.path(), true), Chain::Other { name: String::from("watchdogd") });
        assert_eq!(chain(true, false), Chain::Guardian);
    }
}
