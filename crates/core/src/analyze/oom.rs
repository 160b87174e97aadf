//! Whether the kernel's OOM killer ended the main process, or somebody else's SIGKILL did.

use crate::event::ExitStatus;
use crate::memory::{MemoryAtExit, OomKills};
use crate::policy::Signal;
use crate::time::{Monotonic, Span};

/// How long a victim may take from the moment that the kernel counts it to its reaping. The kernel counts before it
/// kills; then it frees the victim's memory, a fraction of a second for each GiB, on a host that may be short of
/// everything. Ten seconds are enough for large processes, and short enough that an administrator's `kill -9` is not
/// taken for the consequence of a worker's end long before.
pub const DEATH_WITHIN: Span = Span::from_secs(10);

/// The kills that ended the main process, if it was the OOM killer: it ends by SIGKILL alone, and the kernel's count
/// grew since it was told last, or was told to have grown within [`DEATH_WITHIN`]. An end that nobody saw may be one.
///
/// The count is the cgroup's: when the OOM killer takes a worker, and a stranger SIGKILLs the main process within this
/// time, the kernel's word is believed. What Hale itself kills is not asked about here: its cause is known.
#[must_use]
pub fn killed_main(
    status: ExitStatus,
    at_exit: Option<&MemoryAtExit>,
    told: Option<(Monotonic, OomKills)>,
    now: Monotonic,
) -> Option<OomKills> {
    if !matches!(status, ExitStatus::Signal { signal: Signal::KILL, .. } | ExitStatus::Unknown) {
        return None;
    }
    let told = told.filter(|(at, _)| now.since(*at) <= DEATH_WITHIN).map(|(_, kills)| kills);
    at_exit.and_then(|memory| memory.oom).or(told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{MemoryReport, OomScope};

    const KILLED: ExitStatus = ExitStatus::Signal { signal: Signal::KILL, core_dumped: false };
    const KILLS: OomKills = OomKills { count: 1, scope: OomScope::OwnLimit };

    fn at(secs: u64) -> Monotonic {
        Monotonic::from_us(secs * 1_000_000)
    }

    #[test]
    fn the_kernels_count_tells_an_oom_kill_from_any_other_sigkill() {
        let counted = MemoryAtExit { oom: Some(KILLS), report: MemoryReport::default() };
        let silent = MemoryAtExit { oom: None, report: MemoryReport::default() };
        assert_eq!(killed_main(KILLED, Some(&counted), None, at(1)), Some(KILLS));
        assert_eq!(killed_main(KILLED, Some(&silent), None, at(1)), None);
        assert_eq!(killed_main(ExitStatus::Unknown, Some(&counted), None, at(1)), Some(KILLS));
        assert_eq!(killed_main(ExitStatus::Unknown, Some(&silent), None, at(1)), None);
        assert_eq!(killed_main(KILLED, None, None, at(1)), None);
        let aborted = ExitStatus::Signal { signal: Signal::ABRT, core_dumped: true };
        assert_eq!(killed_main(aborted, Some(&counted), None, at(1)), None);
        assert_eq!(killed_main(ExitStatus::Code(137), Some(&counted), None, at(1)), None);
    }

    #[test]
    fn a_kill_that_was_told_before_the_end_counts_for_a_while() {
        let told = Some((at(100), KILLS));
        assert_eq!(killed_main(KILLED, None, told, at(110)), Some(KILLS));
        assert_eq!(killed_main(KILLED, None, told, at(111)), None);
    }
}
