//! Instants and lengths of time as plain integers, because the core may not ask a clock.

use core::fmt;
use serde::{Deserialize, Serialize};

/// A length of time in whole microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(u64);

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// A span of `us` microseconds.
    #[must_use]
    pub const fn from_us(us: u64) -> Self {
        Self(us)
    }

    /// A span of `ms` milliseconds, at most `u64::MAX` microseconds.
    #[must_use]
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000))
    }

    /// A span of `secs` seconds, at most `u64::MAX` microseconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self::from_ms(secs.saturating_mul(1_000))
    }

    /// Whole microseconds.
    #[must_use]
    pub const fn as_us(self) -> u64 {
        self.0
    }

    /// Whole milliseconds, rounded down.
    #[must_use]
    pub const fn as_ms(self) -> u64 {
        self.0 / 1_000
    }

    /// `self + other`, at most the largest span.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// `self × factor`, at most the largest span.
    #[must_use]
    pub const fn times(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }
}

/// `0 ms`, `0.4 ms`, `18 ms`, `2.5 s`, `5 min`, `1 h 30 min`: at most two significant parts, for people.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.0;
        match us {
            0..10_000 => decimal(f, us, 1_000, "ms"),
            10_000..1_000_000 => write!(f, "{} ms", us / 1_000),
            1_000_000..60_000_000 => decimal(f, us, 1_000_000, "s"),
            60_000_000..3_600_000_000 => pair(f, us / 1_000_000, 60, "min", "s"),
            3_600_000_000..86_400_000_000 => pair(f, us / 60_000_000, 60, "h", "min"),
            _ => pair(f, us / 3_600_000_000, 24, "d", "h"),
        }
    }
}

/// `value / unit` with at most one decimal, which is left out when it is zero.
fn decimal(f: &mut fmt::Formatter<'_>, value: u64, unit: u64, name: &str) -> fmt::Result {
    let (whole, tenth) = (value / unit, value % unit * 10 / unit);
    if tenth == 0 { write!(f, "{whole} {name}") } else { write!(f, "{whole}.{tenth} {name}") }
}

/// `value` in small units as `big small`, the small part left out when it is zero.
fn pair(f: &mut fmt::Formatter<'_>, value: u64, per: u64, big: &str, small: &str) -> fmt::Result {
    let (whole, rest) = (value / per, value % per);
    if rest == 0 { write!(f, "{whole} {big}") } else { write!(f, "{whole} {big} {rest} {small}") }
}

/// A point on `CLOCK_MONOTONIC` (clock_gettime(2)), in microseconds: all of Hale's deadlines are on it.
///
/// It stands still while the machine is suspended and never jumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Monotonic(u64);

impl Monotonic {
    /// The point `us` microseconds after the clock's origin.
    #[must_use]
    pub const fn from_us(us: u64) -> Self {
        Self(us)
    }

    /// Microseconds since the clock's origin.
    #[must_use]
    pub const fn as_us(self) -> u64 {
        self.0
    }

    /// The point `span` later, at most the clock's last one.
    #[must_use]
    pub const fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// How long ago `earlier` was; zero when it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

/// One reading of the three clocks that the core is told about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Now {
    /// `CLOCK_MONOTONIC`: decides.
    pub mono: Monotonic,
    /// `CLOCK_BOOTTIME` in microseconds: counts suspend too, for what must be compared across it.
    pub boot_us: u64,
    /// `CLOCK_REALTIME` in microseconds since 1970-01-01 UTC: for people only, it never decides anything.
    pub wall_us: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn spans_read_like_prose() {
        let cases = [
            (0, "0 ms"),
            (400, "0.4 ms"),
            (3_000, "3 ms"),
            (18_700, "18 ms"),
            (2_500_000, "2.5 s"),
            (300_000_000, "5 min"),
            (5_400_000_000, "1 h 30 min"),
            (604_800_000_000, "7 d"),
        ];
        for (us, text) in cases {
            assert_eq!(Span::from_us(us).to_string(), text);
        }
    }

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        assert_eq!(Span::from_secs(u64::MAX), Span::from_us(u64::MAX / 1_000 * 1_000).plus(Span::from_us(615)));
        assert_eq!(Monotonic::from_us(5).since(Monotonic::from_us(9)), Span::ZERO);
    }
}
