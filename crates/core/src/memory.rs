//! What the kernel says of a service's memory: whom its OOM killer took and why, and the figures beside it.
//!
//! Source of all of it: <https://docs.kernel.org/admin-guide/cgroup-v2.html> (`memory.events`, `memory.max`,
//! `memory.peak`), <https://docs.kernel.org/accounting/psi.html>, and `mm/oom_kill.c` for the kernel log.

use alloc::format;
use alloc::string::String;
use core::fmt;
use serde::{Deserialize, Serialize};

/// Processes of one service that the kernel's OOM killer took, and that were not told of before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OomKills {
    /// How many; at least 1.
    pub count: u64,
    /// What had run out.
    pub scope: OomScope,
}

/// What had run out of memory when the OOM killer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OomScope {
    /// The service's own cgroup was at its limit: `oom` and `oom_kill` of its `memory.events` grew.
    OwnLimit,
    /// The host, or a cgroup above the service's: only `oom_kill` grew.
    Above,
    /// Some memory cgroup was at its limit, says the kernel log, which does not say whose in a way that can be trusted.
    SomeLimit,
    /// The host, says the kernel log.
    Host,
}

/// Figures of a service's tree, each `None` where this kernel does not give it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemoryReport {
    /// `memory.max`: the limit in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// `memory.peak`: the most that was in use at once, page cache included, since this process began (before Linux
    /// 6.12: since its cgroup was made, which is at the first start and after each kill).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// `memory.pressure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
    /// How often the tree was at its limit, so that the kernel had to take memory from it first (`max` of
    /// `memory.events`), since this process began (for a supervisor that took over: since its cgroup was made). `None`, as
    /// of the next: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_hits: Option<u64>,
    /// How often the tree was held back because somebody set `memory.high`, which Hale does not (`high` of
    /// `memory.events`); since when as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_hits: Option<u64>,
}

/// How much of the last ten seconds was lost to waiting for memory (PSI's `avg10`), in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    /// At least one task of the tree waited; 0 to 10,000.
    pub some_permyriad: u32,
    /// All tasks that were not idle waited; 0 to 10,000.
    pub full_permyriad: u32,
}

/// What the kernel says when a main process was reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryAtExit {
    /// Whom the OOM killer took since it was last told. Where only the kernel log is there to ask: the main process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom: Option<OomKills>,
    /// The figures.
    #[serde(flatten)]
    pub report: MemoryReport,
}

impl OomKills {
    /// What had run out, in words, with the figures that are known.
    #[must_use]
    pub fn why(&self, report: &MemoryReport) -> String {
        let peak = report.peak_bytes.map(Size);
        match (self.scope, report.limit_bytes.map(Size)) {
            (OomScope::OwnLimit, Some(limit)) => {
                let peak = peak.map_or(String::new(), |peak| format!(", peak {peak}"));
                format!("its cgroup was at its limit of {limit}{peak}")
            }
            (OomScope::OwnLimit, None) => String::from("its cgroup was at its limit"),
            (OomScope::SomeLimit, _) => String::from("a memory cgroup that it is in was at its limit"),
            (scope @ (OomScope::Above | OomScope::Host), _) => {
                let who = if scope == OomScope::Host { "the host" } else { "the host, or a cgroup above its own," };
                let peak = peak.map_or(String::new(), |peak| format!("; it had used up to {peak}"));
                format!("{who} was out of memory{peak}")
            }
        }
    }

    /// How many processes were taken, in words.
    #[must_use]
    pub fn words(&self) -> String {
        match self.count {
            1 => String::from("the kernel killed one of its processes for memory"),
            count => format!("the kernel killed {count} of its processes for memory"),
        }
    }
}

/// A number of bytes as people read it: `512 MiB`, `1.5 GiB`, rounded down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let Some((shift, unit)) = UNITS.into_iter().find(|(shift, _)| self.0 >> shift > 0) else {
            return write!(f, "{} bytes", self.0);
        };
        let whole = self.0 >> shift;
        let tenth = ((self.0 >> (shift - 10)) & 1_023) * 10 / 1_024;
        if whole >= 10 || tenth == 0 { write!(f, "{whole} {unit}") } else { write!(f, "{whole}.{tenth} {unit}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn sizes_read_like_prose() {
        let cases = [
            (0, "0 bytes"),
            (1_023, "1023 bytes"),
            (1_536, "1.5 KiB"),
            (512 << 20, "512 MiB"),
            ((512 << 20) - 1, "511 MiB"),
            (3 << 39, "1.5 TiB"),
            (u64::MAX, "16777215 TiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    #[test]
    fn an_oom_kill_is_a_sentence() {
        let report =
            MemoryReport { limit_bytes: Some(512 << 20), peak_bytes: Some(511 << 20), ..MemoryReport::default() };
        let why = |scope, report| OomKills { count: 1, scope }.why(report);
        assert_eq!(why(OomScope::OwnLimit, &report), "its cgroup was at its limit of 512 MiB, peak 511 MiB");
        let unknown = MemoryReport::default();
        assert_eq!(why(OomScope::OwnLimit, &unknown), "its cgroup was at its limit");
        assert_eq!(
            why(OomScope::Above, &report),
            "the host, or a cgroup above its own, was out of memory; it had used up to 511 MiB"
        );
        assert_eq!(why(OomScope::Host, &unknown), "the host was out of memory");
    }
}
