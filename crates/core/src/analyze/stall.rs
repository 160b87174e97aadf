//! Whether a service waits for memory so much that this, and not the service itself, explains why it does not answer.

use crate::event::ProbeFailure;
use crate::memory::{MemoryReport, Size};
use crate::record::Finding;
use crate::time::Span;
use core::fmt;
use serde::{Deserialize, Serialize};

/// How much of the last ten seconds all tasks of a service must have waited (`full avg10` of its `memory.pressure`), in
/// hundredths of a percent. A fifth is two seconds without a pause. A program that read a file of six times its limit
/// again and again, in an emulated machine, came to 15 %; what swaps, or reads its own program again and again, is far
/// above (systemd-oomd kills from 60 % on, kept for 30 s).
pub const STALLED_FROM_PERMYRIAD: u32 = 2_000;

/// How long after the last word of it a stall counts as over. The kernel's average is one of ten seconds, and it speaks
/// again after two at the latest while there is a stall.
pub const RELIEVED_AFTER: Span = Span::from_secs(10);

/// Figures that say that a service is stalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stall(MemoryReport);

impl Stall {
    /// The stall that `report` tells of, if it does.
    #[must_use]
    pub fn of(report: &MemoryReport) -> Option<Self> {
        let pressure = report.pressure.filter(|pressure| pressure.full_permyriad >= STALLED_FROM_PERMYRIAD);
        pressure.map(|_| Self(*report))
    }

    /// The figures.
    #[must_use]
    pub fn report(&self) -> MemoryReport {
        self.0
    }
}

/// How much, and what held it back as far as that is known.
impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let permyriad = self.0.pressure.map_or(0, |pressure| pressure.full_permyriad);
        write!(f, "{} % of the last 10 s were lost to waiting for memory", permyriad / 100)?;
        let some = |hits: Option<u64>| hits.is_some_and(|hits| hits > 0);
        if let Some(limit) = self.0.limit_bytes.filter(|_| some(self.0.limit_hits)) {
            write!(f, ", at its limit of {}", Size(limit))?;
        }
        if some(self.0.high_hits) {
            f.write_str(", held back by memory.high")?;
        }
        Ok(())
    }
}

/// Whether a stall explains a failure: that something came late or not at all is explained by it, a wrong answer, an end
/// and the service's own word are not.
#[must_use]
pub fn explains(finding: &Finding) -> bool {
    match finding {
        Finding::Check { failure, .. } => match failure {
            ProbeFailure::Timeout | ProbeFailure::Killed | ProbeFailure::Slow => true,
            ProbeFailure::Wrong
            | ProbeFailure::Refused
            | ProbeFailure::Unreachable
            | ProbeFailure::Unresolved
            | ProbeFailure::Unable => false,
        },
        Finding::NoHeartbeat { triggered, .. } => !triggered,
        Finding::StartTimeout { .. } => true,
        Finding::Exit { .. } | Finding::Oom { .. } | Finding::Spawn { .. } | Finding::Unkillable { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ExitStatus;
    use crate::ids::{Epoch, Name};
    use crate::memory::Pressure;
    use std::string::{String, ToString};

    fn report(full_permyriad: u32) -> MemoryReport {
        let pressure = Some(Pressure { some_permyriad: 10_000, full_permyriad });
        MemoryReport { pressure, limit_bytes: Some(48 << 20), ..MemoryReport::default() }
    }

    #[test]
    fn a_stall_is_when_all_of_it_waits_and_not_one_task() {
        assert_eq!(Stall::of(&report(STALLED_FROM_PERMYRIAD - 1)), None);
        assert!(Stall::of(&report(STALLED_FROM_PERMYRIAD)).is_some());
        assert_eq!(Stall::of(&MemoryReport::default()), None);
    }

    #[test]
    fn being_late_is_explained_by_a_stall_and_nothing_else_is() {
        let check = || Name::try_from("http").unwrap();
        let failed =
            |failure| Finding::Check { check: check(), failures: 3, failure, detail: String::new(), outlook: None };
        assert!(explains(&failed(ProbeFailure::Timeout)) && explains(&failed(ProbeFailure::Slow)));
        assert!(!explains(&failed(ProbeFailure::Wrong)));
        let silent = |triggered| Finding::NoHeartbeat { check: check(), within: Span::ZERO, triggered };
        assert!(explains(&silent(false)) && !explains(&silent(true)));
        let exit = Finding::Exit { epoch: Epoch(1), status: ExitStatus::Code(1), memory: None };
        assert!(!explains(&exit));
    }

    #[test]
    fn what_holds_it_back_is_said_where_the_kernel_counted_it() {
        let lost = "85 % of the last 10 s were lost to waiting for memory";
        assert_eq!(Stall::of(&report(8_599)).unwrap().to_string(), lost);
        let at_limit = MemoryReport { limit_hits: Some(7), high_hits: Some(0), ..report(8_599) };
        assert_eq!(Stall::of(&at_limit).unwrap().to_string(), std::format!("{lost}, at its limit of 48 MiB"));
        let held_back = MemoryReport { limit_hits: Some(0), high_hits: Some(3), ..report(8_599) };
        assert_eq!(Stall::of(&held_back).unwrap().to_string(), std::format!("{lost}, held back by memory.high"));
    }
}
