//! Who watches over Hale: the hardware timer itself, systemd with a hardware timer above it, or nobody.

use super::features::Missing;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

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
    /// Somebody has it, whose open files this user may not see.
    Unseen,
    /// No timer runs.
    Nobody {
        /// Whether the machine has one.
        has_timer: bool,
        /// As above.
        watches_hale: bool,
    },
}

impl Chain {
    /// Whether a guardian that dies or hangs, and a kernel that does, are always noticed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Guardian | Self::Systemd { watches_hale: true })
    }

    /// What the gap in it costs, and how to mend it. `None`: there is none, or none can be seen.
    #[must_use]
    pub fn gap(&self) -> Option<Missing> {
        let cost = match self {
            Self::Guardian | Self::Systemd { watches_hale: true } | Self::Unseen => return None,
            Self::Systemd { watches_hale: false } | Self::Other { .. } => {
                "when Hale's guardian hangs, nobody ends it: services run on, and nothing is healed any more"
            }
            Self::Nobody { watches_hale: true, .. } => "a machine that hangs stays as it is until somebody comes",
            Self::Nobody { watches_hale: false, .. } => {
                "when Hale's guardian or the machine hangs, nothing is healed until somebody comes"
            }
        };
        let mend = match self {
            Self::Systemd { .. } => "set WatchdogSec= in Hale's unit",
            Self::Other { .. } => {
                "let Hale have the timer (see [host.hardware_watchdog]) instead, or watch Hale by that process"
            }
            Self::Nobody { has_timer: true, watches_hale: false } => {
                "set [host.hardware_watchdog]; under systemd RuntimeWatchdogSec= in system.conf and WatchdogSec= in Hale's unit"
            }
            Self::Nobody { has_timer: true, watches_hale: true } => "set RuntimeWatchdogSec= in systemd's system.conf",
            Self::Nobody { has_timer: false, .. } | Self::Guardian | Self::Unseen => {
                "load the driver of the machine's timer; where it has none, softdog at least helps when the guardian dies"
            }
        };
        Some(Missing { feature: String::from("hardware timer above Hale"), cost: cost.into(), mend: mend.into() })
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guardian => f.write_str("guardian -> hardware timer"),
            Self::Systemd { watches_hale: true } => {
                f.write_str("guardian -> systemd (WatchdogSec=) -> hardware timer (RuntimeWatchdogSec=)")
            }
            Self::Systemd { watches_hale: false } => {
                f.write_str("systemd pets the hardware timer, and nobody watches the guardian")
            }
            Self::Other { name } => write!(f, "{name} has the hardware timer, and nobody watches the guardian"),
            Self::Unseen => f.write_str("a hardware timer runs, and only root can see who pets it"),
            Self::Nobody { watches_hale: true, .. } => {
                f.write_str("guardian -> systemd (WatchdogSec=), and no hardware timer runs above it")
            }
            Self::Nobody { has_timer: true, .. } => f.write_str("the hardware timer does not run"),
            Self::Nobody { has_timer: false, .. } => f.write_str("there is no hardware timer"),
        }
    }
}

/// Finds out, for Hale's `guardian` if it runs.
#[must_use]
pub fn chain(guardian: Option<i32>) -> Chain {
    look(Path::new("/proc"), Path::new("/sys/class/watchdog"), guardian)
}

fn look(proc: &Path, class: &Path, guardian: Option<i32>) -> Chain {
    let watches_hale = guardian.is_some_and(|pid| is_watched(&proc.join(pid.to_string())));
    if let Some(owner) = owner(proc) {
        let pid = owner.file_name().and_then(|pid| pid.to_str()?.parse().ok());
        let name = fs::read_to_string(owner.join("comm")).unwrap_or_default().trim().to_owned();
        return match pid {
            pid if pid.is_some() && pid == guardian => Chain::Guardian,
            Some(1) if name == "systemd" => Chain::Systemd { watches_hale },
            _ => Chain::Other { name },
        };
    }
    let timers: Vec<PathBuf> = fs::read_dir(class).into_iter().flatten().flatten().map(|timer| timer.path()).collect();
    // Documentation/ABI/testing/sysfs-class-watchdog
    let runs = |timer: &PathBuf| fs::read_to_string(timer.join("state")).is_ok_and(|state| state.trim() == "active");
    if timers.iter().any(runs) { Chain::Unseen } else { Chain::Nobody { has_timer: !timers.is_empty(), watches_hale } }
}

/// The process that has a timer open: its directory. Without root only the open files of the own processes can be seen.
fn owner(proc: &Path) -> Option<PathBuf> {
    let is_timer = |fd: std::io::Result<fs::DirEntry>| {
        fd.and_then(|fd| fs::read_link(fd.path()))
            .is_ok_and(|file| file.to_str().is_some_and(|file| file.starts_with("/dev/watchdog")))
    };
    let has_timer = |process: &PathBuf| fs::read_dir(process.join("fd")).is_ok_and(|mut fds| fds.any(is_timer));
    fs::read_dir(proc).into_iter().flatten().flatten().map(|process| process.path()).find(has_timer)
}

/// Whether systemd wants to hear of this process (sd_watchdog_enabled(3)).
fn is_watched(process: &Path) -> bool {
    let environment = fs::read(process.join("environ")).unwrap_or_default();
    environment.split(|&byte| byte == 0).any(|variable| variable.starts_with(b"WATCHDOG_USEC="))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A made-up /proc and /sys/class/watchdog.
    struct Host(TempDir);

    impl Host {
        fn new() -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            fs::create_dir(host.class()).unwrap();
            host
        }

        fn class(&self) -> PathBuf {
            self.0.path().join("class")
        }

        fn process(&self, pid: &str, name: &str, file: &str, environment: &str) {
            let dir = self.0.path().join(pid);
            fs::create_dir_all(dir.join("fd")).unwrap();
            fs::write(dir.join("comm"), format!("{name}\n")).unwrap();
            fs::write(dir.join("environ"), environment).unwrap();
            std::os::unix::fs::symlink(file, dir.join("fd/7")).unwrap();
        }

        fn timer(&self, state: &str) {
            let timer = self.class().join("watchdog0");
            fs::create_dir_all(&timer).unwrap();
            fs::write(timer.join("state"), state).unwrap();
        }

        fn look(&self) -> Chain {
            look(self.0.path(), &self.class(), Some(4))
        }
    }

    #[test]
    fn the_owner_is_who_has_the_device_open() {
        let host = Host::new();
        host.process("4", "hale-guardian", "/dev/watchdog0", "");
        assert_eq!(host.look(), Chain::Guardian);
        let host = Host::new();
        host.process("4", "hale-guardian", "/dev/null", "");
        host.process("9", "watchdogd", "/dev/watchdog", "");
        assert_eq!(host.look(), Chain::Other { name: String::from("watchdogd") });
    }

    #[test]
    fn systemd_closes_the_chain_only_where_it_watches_the_guardian() {
        for (environment, watches_hale) in [("A=1\0WATCHDOG_USEC=5\0", true), ("NOT_WATCHDOG_USEC=5\0", false)] {
            let host = Host::new();
            host.process("4", "hale-guardian", "/dev/null", environment);
            assert_eq!(host.look(), Chain::Nobody { has_timer: false, watches_hale });
            host.process("1", "systemd", "/dev/watchdog0", "");
            assert_eq!(host.look(), Chain::Systemd { watches_hale });
            assert_eq!(host.look().gap().is_none(), watches_hale);
        }
    }

    #[test]
    fn a_timer_that_runs_is_not_taken_for_none_where_its_owner_cannot_be_seen() {
        let host = Host::new();
        host.timer("inactive\n");
        assert_eq!(host.look(), Chain::Nobody { has_timer: true, watches_hale: false });
        host.timer("active\n");
        assert_eq!(host.look(), Chain::Unseen);
        assert!(host.look().gap().is_none() && !host.look().is_closed());
    }
}
