//! What the kernel counts of one service's memory: read when it says that something changed, and at the end of a process.
//!
//! Formats: <https://docs.kernel.org/admin-guide/cgroup-v2.html>, <https://docs.kernel.org/accounting/psi.html>.

use crate::execute::tree::Tree;
use hale_core::analyze::stall::{STALLED_FROM_PERMYRIAD, Stall};
use hale_core::memory::{MemoryAtExit, MemoryReport, OomKills, OomScope, Pressure};
use rustix::io::{pread, pwrite};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What [`STALLED_FROM_PERMYRIAD`] is of ten seconds, in microseconds: so much of the average a process must have come to
/// by itself.
const STALLED_FROM_US: u64 = STALLED_FROM_PERMYRIAD as u64 * 1_000;

/// The files of one cgroup, as far as this kernel and its controllers have them. It watches one group: one that was made
/// anew gets another.
#[derive(Debug)]
pub struct MemoryWatch {
    events: Option<OwnedFd>,
    limit: Option<OwnedFd>,
    peak: Option<OwnedFd>,
    pressure: Option<OwnedFd>,
    told: Kills,
    began: Hits,
    /// How long all tasks of the tree had waited for memory before this process was made, in microseconds.
    waited_us: u64,
}

/// Counters of `memory.events`, since the group was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    kills: Kills,
    hits: Hits,
}

/// How often it was held back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Hits {
    /// At `memory.max`.
    max: u64,
    /// At `memory.high`.
    high: u64,
}

/// Whom it lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Kills {
    /// How often the group's own limit led to the OOM killer.
    oom: u64,
    /// Processes of the group that any OOM killer took.
    oom_kill: u64,
}

impl Kills {
    /// What was taken from here to `now`, to where it goes on. The kernel counts that the limit was reached some time
    /// before it counts whom it took for that: what is in between stays for the next look.
    fn kills_until(&mut self, now: Self) -> Option<OomKills> {
        let count = now.oom_kill.checked_sub(self.oom_kill).filter(|&count| count > 0)?;
        let before = std::mem::replace(self, now);
        let scope = if now.oom > before.oom { OomScope::OwnLimit } else { OomScope::Above };
        Some(OomKills { count, scope })
    }
}

impl MemoryWatch {
    /// Opens the files of a tree; without a cgroup there are none.
    #[must_use]
    pub fn open(tree: &Tree) -> Self {
        Self {
            events: tree.open_file("memory.events", false),
            limit: tree.open_file("memory.max", false),
            // Writing resets what this descriptor shows (Linux 6.12 and later; before it cannot be opened so).
            peak: tree.open_file("memory.peak", true).or_else(|| tree.open_file("memory.peak", false)),
            pressure: tree.open_file("memory.pressure", false),
            told: Kills::default(),
            began: Hits::default(),
            waited_us: 0,
        }
    }

    /// A new process is about to be made: what is counted from here on is of its time. What was counted before is known:
    /// nothing in a group without processes, since nothing can happen in it, and what [`Self::at_exit`] found after another.
    pub fn begin(&mut self) {
        if let Some(peak) = &self.peak {
            // Refused where the kernel cannot: it stays the peak of the group.
            let _ = pwrite(peak, b"reset\n", 0);
        }
    }

    /// Whether anybody was ever taken in this group.
    #[must_use]
    pub fn has_counted(&self) -> bool {
        self.counts().is_ok_and(|counts| counts.kills != Kills::default())
    }

    /// Becomes ready with `EPOLLPRI` when `memory.events` changed, at most 100 times a second. Only [`Self::look`]
    /// silences it. `None` without the memory controller.
    #[must_use]
    pub fn events_fd(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(AsFd::as_fd)
    }

    /// Processes that the OOM killer took since this was last asked.
    ///
    /// # Errors
    ///
    /// The group is gone: nothing more will come of it.
    pub fn look(&mut self) -> io::Result<Option<OomKills>> {
        let now = self.counts()?;
        Ok(self.told.kills_until(now.kills))
    }

    /// The figures of this moment.
    #[must_use]
    pub fn report(&self) -> MemoryReport {
        self.report_with(self.counts().unwrap_or_default(), self.pressure().map(|(pressure, _)| pressure))
    }

    /// That the tree waits for memory now, if it does: not that it did while the process before this one ran, which the
    /// average still knows. For most it is one pread(2).
    #[must_use]
    pub fn stall(&self) -> Option<Stall> {
        let (pressure, waited_us) = self.pressure()?;
        let waited_us = waited_us.checked_sub(self.waited_us)?;
        (pressure.full_permyriad >= STALLED_FROM_PERMYRIAD && waited_us >= STALLED_FROM_US)
            .then(|| Stall::of(&self.report()))?
    }

    fn report_with(&self, counts: Counts, pressure: Option<Pressure>) -> MemoryReport {
        let number = |file: &Option<OwnedFd>| read(file.as_ref()?).ok()?.trim().parse().ok();
        // What never happened is not worth a word.
        let since = |now: u64, began: u64| Some(now.saturating_sub(began)).filter(|&hits| hits > 0);
        MemoryReport {
            // "max" is no number, and no limit.
            limit_bytes: number(&self.limit),
            peak_bytes: number(&self.peak),
            pressure,
            limit_hits: since(counts.hits.max, self.began.max),
            high_hits: since(counts.hits.high, self.began.high),
        }
    }

    fn pressure(&self) -> Option<(Pressure, u64)> {
        self.pressure.as_ref().and_then(|file| pressure(&read(file).ok()?))
    }

    /// What is known at the end of a main process; `None` where the kernel tells nothing at all. From here on it counts for
    /// the next one.
    pub fn at_exit(&mut self) -> Option<MemoryAtExit> {
        let (now, pressure) = (self.counts().unwrap_or_default(), self.pressure());
        let report = self.report_with(now, pressure.map(|(pressure, _)| pressure));
        let at_exit = MemoryAtExit { oom: self.told.kills_until(now.kills), report };
        Counts { kills: self.told, hits: self.began } = now;
        self.waited_us = pressure.map_or(0, |(_, waited_us)| waited_us);
        (at_exit.oom.is_some() || at_exit.report != MemoryReport::default()).then_some(at_exit)
    }

    fn counts(&self) -> io::Result<Counts> {
        Ok(self.events.as_ref().map(read).transpose()?.as_deref().map(counts).unwrap_or_default())
    }
}

/// Reads a file of the kernel from its start; all of these are a few hundred bytes.
fn read(file: &OwnedFd) -> io::Result<String> {
    let mut buffer = [0; 1_024];
    let length = pread(file, &mut buffer, 0)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn counts(text: &str) -> Counts {
    let count = |name| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_default()
    };
    Counts {
        kills: Kills { oom: count("oom"), oom_kill: count("oom_kill") },
        hits: Hits { max: count("max"), high: count("high") },
    }
}

/// `some avg10=12.34 avg60=... total=...`, and the same with `full`: the averages, and that total in microseconds.
pub(super) fn pressure(text: &str) -> Option<(Pressure, u64)> {
    let value = |who: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(who))?;
        line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    let average = |who: &str| {
        let (whole, hundredths) = value(who, "avg10")?.split_once('.')?;
        let hundredths: u32 = (hundredths.len() == 2).then(|| hundredths.parse().ok())??;
        Some(whole.parse::<u32>().ok()?.saturating_mul(100).saturating_add(hundredths))
    };
    let pressure = Pressure { some_permyriad: average("some")?, full_permyriad: average("full")? };
    Some((pressure, value("full", "total")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_by_name() {
        let text = "low 0\nhigh 3\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n";
        let expected = Counts { kills: Kills { oom: 2, oom_kill: 1 }, hits: Hits { max: 12, high: 3 } };
        assert_eq!(counts(text), expected);
        assert_eq!(counts(""), Counts::default());
    }

    #[test]
    fn a_look_between_the_limit_and_the_kill_does_not_take_the_one_for_anothers() {
        let mut told = Kills::default();
        assert_eq!(told.kills_until(Kills { oom: 1, oom_kill: 0 }), None);
        let own = OomKills { count: 1, scope: OomScope::OwnLimit };
        assert_eq!(told.kills_until(Kills { oom: 1, oom_kill: 1 }), Some(own));
        assert_eq!(told.kills_until(Kills { oom: 1, oom_kill: 1 }), None);
        let above = OomKills { count: 2, scope: OomScope::Above };
        assert_eq!(told.kills_until(Kills { oom: 1, oom_kill: 3 }), Some(above));
    }

    #[test]
    fn what_was_counted_for_one_process_does_not_count_for_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let file = |name: &str| {
            write(name, "");
            Some(std::fs::File::open(dir.path().join(name)).unwrap().into())
        };
        let (told, began) = (Kills::default(), Hits::default());
        let (events, pressure) = (file("events"), file("pressure"));
        let mut watch = MemoryWatch { events, limit: None, peak: None, pressure, told, began, waited_us: 0 };
        let stalled = |total: u64| format!("some avg10=99.00 total={total}\nfull avg10=99.00 total={total}\n");
        watch.begin();
        write("events", "high 2\nmax 7\noom 1\noom_kill 0\n");
        write("pressure", &stalled(9_000_000));
        assert!(watch.stall().is_some());
        let first = watch.at_exit().unwrap();
        assert_eq!((first.oom, first.report.limit_hits, first.report.high_hits), (None, Some(7), Some(2)));
        watch.begin();
        assert!(watch.stall().is_none());
        write("events", "high 2\nmax 8\noom 1\noom_kill 1\n");
        write("pressure", &stalled(18_000_000));
        assert!(watch.stall().is_some());
        let second = watch.at_exit().unwrap();
        assert_eq!(second.oom, Some(OomKills { count: 1, scope: OomScope::Above }), "its own limit was not met again");
        assert_eq!((second.report.limit_hits, second.report.high_hits), (Some(1), None));
    }

    #[test]
    fn pressure_is_read_without_rounding() {
        let text =
            "some avg10=12.34 avg60=0.00 avg300=0.00 total=5\nfull avg10=100.00 avg60=0.00 avg300=0.00 total=2\n";
        assert_eq!(pressure(text), Some((Pressure { some_permyriad: 1_234, full_permyriad: 10_000 }, 2)));
        assert_eq!(pressure("some avg10=x.00"), None);
        assert_eq!(pressure(""), None);
    }
}
