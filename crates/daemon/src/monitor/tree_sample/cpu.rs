//! Time on processors of a tree, and its mean over a window.
//!
//! Formats: <https://docs.kernel.org/admin-guide/cgroup-v2.html> (`cpu.stat`), proc_pid_stat(5).

use super::value;
use crate::execute::tree::{Identity, Tree};
use hale_core::time::Span;
use rustix::io::pread;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::{Duration, Instant};

/// How long a clock tick of /proc is: `USER_HZ` is 100 on all architectures that are in use (Alpha had 1,024).
const TICK_US: u64 = 10_000;

/// Into how many parts a window is divided at most: that much earlier than it begins the mean may begin, and so many
/// readings are kept.
const PARTS: u32 = 64;

/// By the kernel's own count, which knows what ended processes had; `None` without a cgroup. Needs no controller.
pub(super) fn of_group(tree: &Tree) -> io::Result<Option<u64>> {
    let Some(stat) = tree.open_file("cpu.stat", false) else { return Ok(None) };
    let mut buffer = [0; 2_048];
    let length = pread(&stat, &mut buffer, 0)?;
    Ok(value(&String::from_utf8_lossy(&buffer[..length]), "usage_usec"))
}

/// What a process has spent, in ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Spent {
    pub own: u64,
    /// Of its children that it has waited for.
    pub children: u64,
}

/// What a tree without a cgroup has spent since the first look, as far as /proc tells.
#[derive(Debug, Default)]
pub(super) struct Ticks {
    last: Option<BTreeMap<Identity, Spent>>,
    total: u64,
}

impl Ticks {
    /// Takes what all living processes have spent, and gives the sum since the first look, in microseconds.
    ///
    /// What a process that ended had is found again in the parent that waited for it, if that lives; what an orphan spent
    /// after the last look at it is lost. Both ways to count are lower bounds, and so is the larger one of them.
    pub fn add(&mut self, now: BTreeMap<Identity, Spent>) -> u64 {
        if let Some(last) = &self.last {
            let all =
                |each: &BTreeMap<Identity, Spent>| each.values().map(|spent| spent.own + spent.children).sum::<u64>();
            let grown = all(&now).saturating_sub(all(last));
            let of_living = |(identity, spent): (&Identity, &Spent)| {
                spent.own.saturating_sub(last.get(identity).map_or(0, |before| before.own))
            };
            self.total += grown.max(now.iter().map(of_living).sum());
        }
        self.last = Some(now);
        self.total.saturating_mul(TICK_US)
    }
}

/// A mean over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mean {
    pub used_us: u64,
    /// The time that has really passed.
    pub over_us: u64,
    /// Whether that is the whole window.
    pub is_whole: bool,
}

impl Mean {
    /// In percent of one core, rounded down.
    pub fn percent(&self) -> u64 {
        (u128::from(self.used_us) * 100).checked_div(u128::from(self.over_us)).map_or(0, |percent| percent as u64)
    }
}

/// Readings within one window, thinned out.
#[derive(Debug, Default)]
pub(super) struct Window {
    readings: VecDeque<(Instant, u64)>,
}

impl Window {
    /// Takes a reading, and gives the mean since the newest one that is at least `span` old, or else the oldest.
    pub fn add(&mut self, span: Span, at: Instant, used_us: u64) -> Mean {
        let span = Duration::from_micros(span.as_us());
        let age = |(then, _): &(Instant, u64)| at.saturating_duration_since(*then);
        while self.readings.get(1).is_some_and(|second| age(second) >= span) {
            self.readings.pop_front();
        }
        if self.readings.back().is_none_or(|last| age(last) >= span / PARTS) {
            self.readings.push_back((at, used_us));
        }
        let &(then, before) = self.readings.front().unwrap_or(&(at, used_us));
        let over = at.saturating_duration_since(then);
        let over_us = u64::try_from(over.as_micros()).unwrap_or(u64::MAX);
        Mean { used_us: used_us.saturating_sub(before), over_us, is_whole: over >= span }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(each: &[(i32, u64, u64)]) -> BTreeMap<Identity, Spent> {
        let identity = |pid| Identity { pid, start_ticks: 1 };
        each.iter().map(|&(pid, own, children)| (identity(pid), Spent { own, children })).collect()
    }

    #[test]
    fn ended_children_are_counted_once_and_lost_ones_not_taken_back() {
        let mut ticks = Ticks::default();
        assert_eq!(ticks.add(tree(&[(1, 500, 900)])), 0, "what was before does not count");
        assert_eq!(ticks.add(tree(&[(1, 510, 900), (2, 30, 0)])), 40 * TICK_US);
        // 2 had 50 in the end, and its parent waited for it: 20 more, and 5 of its own.
        assert_eq!(ticks.add(tree(&[(1, 515, 950)])), 65 * TICK_US);
        // 3 comes and goes between two looks, waited for.
        assert_eq!(ticks.add(tree(&[(1, 515, 957)])), 72 * TICK_US);
        assert_eq!(ticks.add(tree(&[(1, 515, 957), (4, 1_000, 0)])), 1_072 * TICK_US);
        // 4 was an orphan: nobody in the tree has what it had.
        assert_eq!(ticks.add(tree(&[(1, 525, 957)])), 1_082 * TICK_US);
    }

    #[test]
    fn the_mean_is_over_the_time_that_passed_and_whole_only_after_a_window() {
        let (start, span) = (Instant::now(), Span::from_secs(64));
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut window = Window::default();
        let first = window.add(span, at(0), 7_000_000);
        assert_eq!((first.percent(), first.is_whole), (0, false));
        let second = window.add(span, at(10_000), 17_000_000);
        assert_eq!((second.percent(), second.is_whole), (100, false), "busy, and not for long enough");
        // Nothing was looked at for long: the mean is over all of that.
        let late = window.add(span, at(200_000), 27_000_000);
        assert_eq!((late.percent(), late.over_us, late.is_whole), (5, 190_000_000, true));
        // Each 250 ms, of which at most one a second is kept.
        let mut last = late;
        for ms in (200_250..=400_000).step_by(250) {
            last = window.add(span, at(ms), 27_000_000 + (ms - 200_000) * 500);
        }
        assert!(window.readings.len() <= PARTS as usize + 2, "{}", window.readings.len());
        assert_eq!((last.percent(), last.is_whole), (50, true));
        assert!((64_000_000..=65_000_000).contains(&last.over_us), "{last:?}");
    }
}
