//! How much output of a service is written: so many bytes each second, with one second of burst.

/// A token bucket. It is full at the start.
///
/// What is there at once is taken as a whole or not at all, so that output is never cut amidst one write of a service:
/// the last take may go beyond what is there, which the next ones wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    rate_bytes: u64,
    /// In bytes × microseconds per second, so that no fraction is ever lost. Below zero after the last take.
    credit: i128,
    at_us: u64,
    is_dry: bool,
}

const US_PER_SECOND: i128 = 1_000_000;

/// Once nothing was left, nothing is taken before a quarter of a second's worth is there again: at most four gaps a
/// second are to be noted in a log, and what stands between them can be read.
const DRY_PART: i128 = 4;

impl Bucket {
    /// For `rate_bytes` each second, from now on.
    #[must_use]
    pub fn new(rate_bytes: u64, now_us: u64) -> Self {
        Self { rate_bytes, credit: i128::from(rate_bytes) * US_PER_SECOND, at_us: now_us, is_dry: false }
    }

    /// Whether something may be [taken](Self::take) now.
    pub fn may_take(&mut self, now_us: u64) -> bool {
        let full = i128::from(self.rate_bytes) * US_PER_SECOND;
        let earned = i128::from(self.rate_bytes) * i128::from(now_us.saturating_sub(self.at_us));
        self.at_us = self.at_us.max(now_us);
        self.credit = (self.credit + earned).min(full);
        let enough = if self.is_dry { full / DRY_PART } else { 0 };
        self.is_dry = self.credit < enough.max(1);
        !self.is_dry
    }

    /// Takes this much out.
    pub fn take(&mut self, bytes: u64) {
        self.credit -= i128::from(bytes) * US_PER_SECOND;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_second_of_burst_then_the_rate() {
        let mut bucket = Bucket::new(1000, 0);
        for _ in 0..2 {
            assert!(bucket.may_take(0));
            bucket.take(700);
        }
        assert!(!bucket.may_take(400_000), "what was taken too much is paid back");
        assert!(!bucket.may_take(649_999), "and a quarter of a second is saved up");
        assert!(bucket.may_take(650_000));
        bucket.take(249);
        assert!(bucket.may_take(650_000), "until nothing is left");
        bucket.take(1);
        assert!(!bucket.may_take(650_000));
        assert!(bucket.may_take(100_000_000));
        bucket.take(1000);
        assert!(!bucket.may_take(100_000_000), "no more than a second is saved up");
    }
}
