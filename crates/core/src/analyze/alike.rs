//! Whether a service fails in the same way again and again, by the fingerprints of the exceptions in its processes' last output.

use super::trace::Fingerprint;
use crate::ids::Epoch;
use alloc::collections::VecDeque;
use serde::{Deserialize, Serialize};

/// From so many times in a row on it is taken for certain that starting it again does not help against this exception: one
/// may be a hiccup, and of two the second may be the same hiccup still.
pub const SAME_EXCEPTION: u32 = 3;

/// How many failures are remembered, and so how often in a row an exception can be seen at most.
const KEPT: usize = 16;

/// How many lines a process may write after the exception that ends it: what runtimes add, and what is said at its end. One that
/// stands further up was logged, and something else happened after it.
pub const LAST_LINES: u32 = 20;

/// The newest failures of a service, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Endings(VecDeque<Ending>);

/// One failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Ending {
    epoch: Epoch,
    /// Whether the process ended by itself. Of what did not answer, or was killed for memory, an exception in its output
    /// tells nothing.
    by_itself: bool,
    /// None: there was none, or the output is not read yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exception: Option<Fingerprint>,
}

/// How often in a row the same exception was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alike {
    /// So often; at least once, and at most sixteen times.
    pub times: u32,
    /// Which.
    pub exception: Fingerprint,
}

impl Endings {
    /// A process failed. Its exception follows once its output is read.
    pub(crate) fn failed(&mut self, epoch: Epoch, by_itself: bool) {
        if self.0.back().is_some_and(|last| last.epoch == epoch) {
            return;
        }
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(Ending { epoch, by_itself, exception: None });
    }

    /// The output of a process that failed has an exception, and so many lines after it.
    pub(crate) fn traced(&mut self, epoch: Epoch, exception: Fingerprint, after: u32) {
        let ending = self.0.iter_mut().rev().find(|ending| ending.epoch == epoch);
        if let Some(ending) = ending.filter(|ending| ending.by_itself && after <= LAST_LINES) {
            ending.exception.get_or_insert(exception);
        }
    }

    /// The exception of the newest failures, however few: of all that follow each other with the same one. The output of the
    /// very last failure may not be read yet, and then those before it are meant.
    #[must_use]
    pub fn alike(&self) -> Option<Alike> {
        let unread = self.0.back().is_some_and(|last| last.by_itself && last.exception.is_none());
        let mut newest = self.0.iter().rev().skip(usize::from(unread)).map(|ending| ending.exception);
        let exception = newest.next()??;
        let more = newest.take_while(|other| *other == Some(exception)).count();
        Some(Alike { times: u32::try_from(1 + more).unwrap_or(u32::MAX), exception })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    fn fingerprint(number: u64) -> Fingerprint {
        Fingerprint::try_from(format!("{number:016x}")).unwrap()
    }

    /// How often the last exception came in a row, if these failures had these exceptions; zero: none.
    fn times(exceptions: &[u64]) -> Option<(u32, u64)> {
        let mut endings = Endings::default();
        for (epoch, &exception) in (1..).zip(exceptions) {
            endings.failed(Epoch(epoch), true);
            if exception > 0 {
                endings.traced(Epoch(epoch), fingerprint(exception), 3);
            }
        }
        let alike = endings.alike()?;
        let which = exceptions.iter().rev().find(|&&exception| fingerprint(exception) == alike.exception)?;
        Some((alike.times, *which))
    }

    #[test]
    fn only_a_row_of_the_same_counts_and_the_last_one_may_be_unread() {
        assert_eq!(times(&[]), None);
        assert_eq!(times(&[0]), None);
        assert_eq!(times(&[7]), Some((1, 7)));
        assert_eq!(times(&[7, 7, 7]), Some((3, 7)));
        assert_eq!(times(&[7, 7, 7, 0]), Some((3, 7)));
        assert_eq!(times(&[7, 7, 0, 0]), None);
        assert_eq!(times(&[7, 0, 7, 7]), Some((2, 7)));
        assert_eq!(times(&[7, 7, 8]), Some((1, 8)));
        assert_eq!(times(&[7; 100]), Some((16, 7)));
    }

    #[test]
    fn one_process_is_one_failure_and_late_output_finds_its_own() {
        let mut endings = Endings::default();
        for epoch in [1, 1, 2] {
            endings.failed(Epoch(epoch), true);
        }
        for (epoch, exception) in [(2, 9), (1, 9), (1, 8), (5, 8)] {
            endings.traced(Epoch(epoch), fingerprint(exception), 0);
        }
        assert_eq!(endings.alike(), Some(Alike { times: 2, exception: fingerprint(9) }));
    }

    #[test]
    fn what_was_only_logged_is_not_what_ended_it() {
        let mut endings = Endings::default();
        endings.failed(Epoch(1), true);
        endings.traced(Epoch(1), fingerprint(9), LAST_LINES + 1);
        assert_eq!(endings.alike(), None);
        // It was killed, whatever it said before.
        endings.failed(Epoch(2), false);
        endings.traced(Epoch(2), fingerprint(9), 0);
        assert_eq!(endings.alike(), None);
        endings.failed(Epoch(3), true);
        endings.traced(Epoch(3), fingerprint(9), 0);
        assert_eq!(endings.alike(), Some(Alike { times: 1, exception: fingerprint(9) }));
        endings.failed(Epoch(4), false);
        assert_eq!(endings.alike(), None, "the last failure is another one");
    }
}
