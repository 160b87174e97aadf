//! Many seeds at once, on all cores; the result does not depend on which thread took which.

use crate::coverage::Coverage;
use crate::oracle::Violation;
use crate::run::run_seed;
use crate::scenario::{Limits, Scenario};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Failing seeds that are kept: nobody reads more.
const FAILURES_MAX: usize = 100;

/// What came of many seeds.
#[derive(Debug, Default)]
pub struct Report {
    /// What was reached.
    pub coverage: Coverage,
    /// Failing seeds, in their order, with the first violation of each.
    pub failures: Vec<(u64, Violation)>,
    /// How many seeds failed.
    pub failed: u64,
}

/// Runs `count` seeds from `first` on `threads` threads.
#[must_use]
pub fn run(first: u64, count: u64, threads: usize) -> Report {
    let next = AtomicU64::new(first);
    let report = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut mine = Report::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first.saturating_add(count) {
                        break;
                    }
                    let run = run_seed(&Scenario::draw(seed, &Limits::default()), None);
                    mine.coverage.add(&run.coverage);
                    if let Some(violation) = run.violations.into_iter().next() {
                        mine.failures.push((seed, violation));
                    }
                }
                let mut all = report.lock().unwrap_or_else(PoisonError::into_inner);
                all.coverage.add(&mine.coverage);
                all.failed += mine.failures.len() as u64;
                all.failures.append(&mut mine.failures);
            });
        }
    });
    let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.failures.sort_by_key(|(seed, _)| *seed);
    report.failures.truncate(FAILURES_MAX);
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let (one, three) = (run(1, 40, 1), run(1, 40, 3));
        assert_eq!(one.coverage, three.coverage);
        assert_eq!(one.failures, three.failures);
    }
}
