//! How long a change has shown that it works: only time counts in which all its checks were seen to hold.

use crate::time::{Monotonic, Span};
use serde::{Deserialize, Serialize};

/// In how many parts a proof is written down: who takes over from a lost supervisor, or starts after the machine did, goes on
/// from the last one, so that at most an eighth of it has to be shown again, and a change costs eight records.
pub const MARKS: u64 = 8;

/// Time that was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Held {
    /// What was held before.
    pub total: Span,
    /// Since when it holds now, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Monotonic>,
}

impl Held {
    /// What is held until now.
    #[must_use]
    pub fn so_far(&self, now: Monotonic) -> Span {
        self.total.plus(self.since.map_or(Span::ZERO, |since| now.since(since)))
    }

    /// What is missing of `needed`.
    #[must_use]
    pub fn left(&self, needed: Span, now: Monotonic) -> Span {
        Span::from_us(needed.as_us().saturating_sub(self.so_far(now).as_us()))
    }

    /// When the next part of `needed`, or all of it, is held; `None`: it does not hold now.
    #[must_use]
    pub fn next_mark(&self, needed: Span) -> Option<Monotonic> {
        let since = self.since?;
        let part = (needed.as_us() / MARKS).max(1);
        // What was held when it began to hold now is the last mark, or more than that.
        let mark = Span::from_us((self.total.as_us() / part + 1).saturating_mul(part)).min(needed);
        Some(since.after(Span::from_us(mark.as_us().saturating_sub(self.total.as_us()))))
    }

    /// It holds from then on, or has not since then.
    pub(crate) fn set(&mut self, holds: bool, from: Monotonic) {
        match (self.since, holds) {
            (None, true) => self.since = Some(from),
            (Some(since), false) => {
                // Before the last mark, if it was not seen at once: what was marked since then does not count either.
                let total_us = self.so_far(from).as_us().saturating_sub(since.since(from).as_us());
                *self = Self { total: Span::from_us(total_us), since: None };
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    /// So much is on record.
    pub(crate) fn mark(&mut self, so_far: Span, now: Monotonic) {
        self.total = so_far;
        self.since = self.since.map(|_| now);
    }

    /// Nobody looked until now: what was not written down counts as not shown.
    pub(crate) fn resume(&mut self, now: Monotonic) {
        self.since = self.since.map(|_| now);
    }

    /// Nobody looked for so long.
    pub(crate) fn credit(&mut self, late: Span) {
        self.since = self.since.map(|since| since.after(late));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_us(ms * 1_000)
    }

    #[test]
    fn only_time_that_held_counts() {
        let needed = Span::from_ms(800);
        let mut held = Held::default();
        assert_eq!((held.next_mark(needed), held.left(needed, at(5_000))), (None, needed));
        held.set(true, at(1_000));
        assert_eq!(held.next_mark(needed), Some(at(1_100)));
        held.set(true, at(1_050));
        held.set(false, at(1_350));
        held.set(false, at(2_000));
        assert_eq!(held.left(needed, at(9_000)), Span::from_ms(450));
        held.set(true, at(3_000));
        // 350 are held: the next mark is 400, then all of it at the latest.
        assert_eq!(held.next_mark(needed), Some(at(3_050)));
        held.mark(Span::from_ms(400), at(3_050));
        assert_eq!(held.next_mark(needed), Some(at(3_150)));
        assert_eq!(held.so_far(at(3_100)), Span::from_ms(450));
    }

    #[test]
    fn what_did_not_hold_is_taken_off_also_where_that_is_seen_after_a_mark() {
        let mut held = Held::default();
        held.set(true, at(0));
        held.mark(Span::from_ms(100), at(100));
        held.set(false, at(70));
        assert_eq!(held, Held { total: Span::from_ms(70), since: None });
        held.set(true, at(200));
        held.set(false, at(120));
        assert_eq!(held.total, Span::ZERO);
    }

    #[test]
    fn what_nobody_saw_is_shown_again() {
        let mut held = Held::default();
        held.set(true, at(0));
        held.mark(Span::from_ms(100), at(100));
        held.resume(at(9_000));
        assert_eq!(held.so_far(at(9_010)), Span::from_ms(110));
        held.credit(Span::from_ms(5));
        assert_eq!(held.so_far(at(9_010)), Span::from_ms(105));
    }

    #[test]
    fn the_last_mark_is_all_of_it() {
        let needed = Span::from_ms(100);
        let mut held = Held { total: Span::from_ms(99), since: Some(at(0)) };
        assert_eq!(held.next_mark(needed), Some(at(1)));
        held.total = Span::from_ms(500);
        assert_eq!(held.next_mark(needed), Some(at(0)), "a shorter one was configured meanwhile");
    }
}
