//! How much output of a service is written: so many bytes each second, with one second of burst.

/// A token bucket. It is full at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    rate_bytes: u64,
    /// In bytes × microseconds per second, so that no fraction is ever lost.
    credit: u128,
    at_us: u64,
}

const US_PER_SECOND: u128 = 1_000_000;

impl Bucket {
    /// For `rate_bytes` each second, from now on.
    #[must_use]
    pub fn new(rate_bytes: u64, now_us: u64) -> Self {
        Self { rate_bytes, credit: u128::from(rate_bytes) * US_PER_SECOND, at_us: now_us }
    }

    /// Takes up to `want_bytes` out, and says how many.
    pub fn take(&mut self, want_bytes: u64, now_us: u64) -> u64 {
        let rate = u128::from(self.rate_bytes);
        let earned = rate * u128::from(now_us.saturating_sub(self.at_us));
        self.at_us = self.at_us.max(now_us);
        self.credit = (self.credit + earned).min(rate * US_PER_SECOND);
        let allowed = want_bytes.min(u64::try_from(self.credit / US_PER_SECOND).unwrap_or(u64::MAX));
        self.credit -= u128::from(allowed) * US_PER_SECOND;
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_second_of_burst_then_the_rate() {
        let mut bucket = Bucket::new(1000, 0);
        assert_eq!(bucket.take(700, 0), 700);
        assert_eq!(bucket.take(700, 0), 300);
        assert_eq!(bucket.take(700, 500), 0);
        assert_eq!(bucket.take(700, 1_000), 1, "two halves of a byte's time add up");
        assert_eq!(bucket.take(700, 251_000), 250);
        assert_eq!(bucket.take(9_000, 100_000_000), 1000, "no more than a second is saved up");
    }
}
