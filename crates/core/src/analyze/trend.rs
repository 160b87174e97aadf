//! Trends: how fast a figure of a process grows, by a slope that outliers do not bend, in whole numbers.
//!
//! The slope is the median of the slopes between all pairs of points (Theil 1950, Sen 1968), and its range the one that Sen
//! gives by the ranks of those slopes, for a confidence of 95 %.

use crate::memory::Size;
use crate::policy::CheckKind;
use crate::time::{Monotonic, Span};
use alloc::format;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// How many points are kept of one figure. All pairs of them are 496 slopes, which cost some microseconds to sort; more
/// would not make the range narrower than the noise of real programs does.
pub const POINTS_MAX: usize = 32;

/// Fewer points have no range of 95 % that says something: of six pairs of points none is outside.
pub const POINTS_MIN: usize = 8;

/// So many of the newest points have a slope of their own, at least.
const LATELY_MIN: usize = 4;

/// The time that the first points are apart, at least.
const WIDTH_MIN: Span = Span::from_secs(1);

/// The longest time that points become apart: the oldest are dropped from there on. 32 of them are two to four days; what
/// happened before says little of today.
const WIDTH_MAX: Span = Span::from_secs(3 * 3_600);

/// So many times as long as it was watched can be looked ahead: what a process does in its first minute says nothing about
/// tomorrow.
const HORIZON: u64 = 10;

/// One hour, in which slopes are told.
const HOUR_MS: i128 = 3_600_000;

/// The lowest of a stretch of time: what garbage collection and caches give back is no growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    at: Monotonic,
    value: u64,
}

/// The figures of one process so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Trend {
    points: Vec<Point>,
    width: Span,
    /// The stretch that is not over, since when it is, and its lowest so far.
    open: Option<(Monotonic, Point)>,
    newest: Option<u64>,
    growth: Option<Growth>,
}

/// How a figure grows; each per hour, and negative where it shrinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growth {
    /// The most likely.
    pub per_hour: i64,
    /// With 95 % it is not less, …
    pub per_hour_low: i64,
    /// … and not more.
    pub per_hour_high: i64,
    /// Of late: in the newest quarter of the points.
    pub per_hour_lately: i64,
    /// How long it was watched.
    pub over: Span,
}

/// When a figure that grows reaches its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reaches {
    /// Most likely.
    pub after: Span,
    /// At the earliest, …
    pub earliest: Span,
    /// … and at the latest.
    pub latest: Span,
}

/// Where a figure is, where it is going, and what it must not reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outlook {
    /// What is counted.
    pub unit: Unit,
    /// The newest figure.
    pub level: u64,
    /// The bound at which its check fails.
    pub limit: u64,
    /// How it grows.
    pub growth: Growth,
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Bytes of memory.
    Bytes,
    /// Descriptors.
    Files,
}

impl Outlook {
    /// When the bound is reached; `None`: it is not sure that it ever is, it is reached already, or it is too far away to be
    /// told ([`HORIZON`]).
    #[must_use]
    pub fn reaches(&self) -> Option<Reaches> {
        let reaches = self.growth.reaches(self.limit, self.level)?;
        (reaches.after <= self.growth.over.times(HORIZON)).then_some(reaches)
    }
}

impl fmt::Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Growth { per_hour, per_hour_low, per_hour_high, per_hour_lately: _, over } = self.growth;
        let words = |figure: i64| {
            let sign = if figure < 0 { "-" } else { "" };
            match self.unit {
                Unit::Bytes => format!("{sign}{}", Size(figure.unsigned_abs())),
                Unit::Files => format!("{sign}{} files", figure.unsigned_abs()),
            }
        };
        let (most, low, high) = (words(per_hour), words(per_hour_low), words(per_hour_high));
        write!(f, "{most} an hour more ({low} to {high}) over {over}")
    }
}

impl Trend {
    /// Takes the figure at this time, which is not before the last one.
    pub(crate) fn add(&mut self, at: Monotonic, value: u64) {
        self.newest = Some(value);
        let point = Point { at, value };
        let Some((since, lowest)) = &mut self.open else {
            self.open = Some((at, point));
            return;
        };
        if at.since(*since) < self.width.max(WIDTH_MIN) {
            if value < lowest.value {
                *lowest = point;
            }
            return;
        }
        let done = *lowest;
        self.open = Some((at, point));
        self.push(done);
        self.growth = growth(&self.points);
    }

    fn push(&mut self, point: Point) {
        if self.points.len() == POINTS_MAX {
            let width = self.width.max(WIDTH_MIN).times(2);
            if width > WIDTH_MAX {
                self.points.remove(0);
            } else {
                // Points are twice as far apart from now on, and each is the lower of two.
                let lower = |two: &[Point]| two.iter().copied().min_by_key(|point| point.value);
                self.points = self.points.chunks(2).filter_map(lower).collect();
                self.width = width;
            }
        }
        self.points.push(point);
    }

    /// Where the figure of a check of this kind is going; `None`: it was not seen for long enough.
    pub(crate) fn outlook(&self, kind: &CheckKind) -> Option<Outlook> {
        let unit = match kind {
            CheckKind::Memory { .. } => Unit::Bytes,
            CheckKind::OpenFiles { .. } => Unit::Files,
            CheckKind::Http(_)
            | CheckKind::Tcp { .. }
            | CheckKind::Exec { .. }
            | CheckKind::Heartbeat { .. }
            | CheckKind::Cpu { .. }
            | CheckKind::Listen { .. }
            | CheckKind::Grpc { .. }
            | CheckKind::Metric(_)
            | CheckKind::Progress(_)
            | CheckKind::LoopLag(_) => return None,
        };
        Some(Outlook { unit, level: self.newest?, limit: kind.limit()?, growth: self.growth? })
    }
}

impl Growth {
    /// When the figure reaches `limit`, now that it is at `level`; `None`: it is not sure that it grows at all, or it is
    /// there already.
    #[must_use]
    pub fn reaches(&self, limit: u64, level: u64) -> Option<Reaches> {
        // What has warmed up grew for a while, too.
        let goes_on = self.per_hour_lately >= self.per_hour / 2;
        if self.per_hour_low <= 0 || !goes_on || level >= limit {
            return None;
        }
        let left = i128::from(limit - level);
        let after = |per_hour: i64| {
            let ms = left.saturating_mul(HOUR_MS) / i128::from(per_hour);
            Span::from_ms(u64::try_from(ms).unwrap_or(u64::MAX).min(u64::MAX / 1_000))
        };
        Some(Reaches {
            after: after(self.per_hour),
            earliest: after(self.per_hour_high),
            latest: after(self.per_hour_low),
        })
    }
}

impl fmt::Display for Reaches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} to {})", self.after, self.earliest, self.latest)
    }
}

/// The slopes between all pairs of points, the lowest first.
fn sorted_slopes(points: &[Point]) -> Vec<i64> {
    let mut slopes = Vec::with_capacity(points.len() * (points.len() - 1) / 2);
    for (at, from) in points.iter().enumerate() {
        for to in &points[at + 1..] {
            let ms = i128::from(to.at.since(from.at).as_us() / 1_000).max(1);
            let slope = (i128::from(to.value) - i128::from(from.value)) * HOUR_MS / ms;
            slopes.push(i64::try_from(slope).unwrap_or(if slope < 0 { i64::MIN } else { i64::MAX }));
        }
    }
    slopes.sort_unstable();
    slopes
}

/// The median of all slopes, and the range by Sen's ranks.
fn growth(points: &[Point]) -> Option<Growth> {
    if points.len() < POINTS_MIN {
        return None;
    }
    let slopes = sorted_slopes(points);
    let lately = sorted_slopes(&points[points.len() - (points.len() / 4).max(LATELY_MIN)..]);
    let (n, pairs) = (points.len() as u64, slopes.len());
    // 1.96 times the standard deviation of Kendall's S, whose variance is n(n-1)(2n+5)/18.
    let variance = n * (n - 1) * (2 * n + 5) / 18;
    let reach = usize::try_from((variance * 38_416 / 10_000).isqrt()).unwrap_or(pairs).min(pairs - 1);
    let low = (pairs - reach) / 2;
    let high = ((pairs + reach) / 2).min(pairs - 1);
    let (first, last) = (points.first()?, points.last()?);
    Some(Growth {
        per_hour: slopes[pairs / 2],
        per_hour_low: slopes[low],
        per_hour_high: slopes[high],
        per_hour_lately: lately[lately.len() / 2],
        over: last.at.since(first.at),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// The trend of `value` at each two seconds up to `until`.
    fn watched(until: Span, value: impl Fn(u64) -> u64) -> Trend {
        let mut trend = Trend::default();
        for second in (0..until.as_us() / 1_000_000).step_by(2) {
            trend.add(Monotonic::from_us(second * 1_000_000), value(second));
            assert!(trend.points.len() <= POINTS_MAX);
        }
        trend
    }

    /// Numbers that look like chance, the same each time.
    fn noise(second: u64, up_to: u64) -> u64 {
        crate::plan::ladder::hash(&std::format!("{second}")) % up_to
    }

    #[test]
    fn a_steady_leak_is_found_within_minutes_and_over_days() {
        for minutes in [2, 30, 600, 5_760] {
            let trend = watched(Span::from_secs(60 * minutes), |second| {
                100 * MIB + second * MIB / 360 + noise(second, MIB / 4)
            });
            let growth = trend.growth.unwrap();
            let ten = 10 * MIB as i64;
            assert!(growth.per_hour_low <= ten && ten <= growth.per_hour_high, "{minutes} min: {growth:?}");
            assert!(growth.per_hour_low > 0 || minutes == 2, "{minutes} min: {growth:?}");
            let seen = growth.over.as_us() / 1_000_000;
            assert!(seen * 2 > (60 * minutes).min(90_000), "{minutes} min: {growth:?}");
        }
    }

    #[test]
    fn outliers_and_a_sawtooth_do_not_bend_it() {
        let peaks = |second| 100 * MIB + if second % 300 == 0 { 500 * MIB } else { noise(second, MIB) };
        // One time in twenty chance alone has a range above zero; it is that of the noise, not of the peaks.
        let growth = watched(Span::from_secs(7_200), peaks).growth.unwrap();
        assert!(growth.per_hour_high < MIB as i64 / 16, "{growth:?}");
        // A garbage collector: up by half each five minutes, and back.
        let sawtooth = |second| 100 * MIB + second % 300 * MIB / 6;
        let growth = watched(Span::from_secs(7_200), sawtooth).growth.unwrap();
        assert!(growth.per_hour.unsigned_abs() < 5 * MIB && growth.per_hour_low <= 0, "{growth:?}");
        let leaking = |second| sawtooth(second) + second * MIB / 36;
        let growth = watched(Span::from_secs(7_200), leaking).growth.unwrap();
        assert!((90 * MIB as i64..110 * MIB as i64).contains(&growth.per_hour), "{growth:?}");
    }

    #[test]
    fn what_shrinks_or_stands_still_reaches_nothing() {
        for value in [|_| 7, |second: u64| 10_000_000 - second] {
            let growth = watched(Span::from_secs(600), value).growth.unwrap();
            assert_eq!(growth.reaches(20_000_000, 7), None, "{growth:?}");
        }
        assert_eq!(watched(Span::from_secs(14), |second| second).growth, None, "too few points");
    }

    /// Programs fill their caches after a start, and then have what they need.
    #[test]
    fn what_warms_up_reaches_nothing_once_it_stands_still() {
        let growth = watched(Span::from_secs(4_300), |second| second.min(3_600) * MIB / 4).growth.unwrap();
        assert!(growth.per_hour_low > 0, "it has grown for most of the time: {growth:?}");
        assert_eq!(growth.reaches(1_000 * MIB, 900 * MIB), None, "{growth:?}");
        let missing = |second: u64| (0..second / 60).fold(700 * MIB, |left, _| left - left / 15);
        for minutes in [40, 60, 90, 120] {
            let growth = watched(Span::from_secs(60 * minutes), |second| 700 * MIB - missing(second)).growth.unwrap();
            assert_eq!(growth.reaches(1_000 * MIB, 690 * MIB), None, "{minutes} min: {growth:?}");
        }
    }

    #[test]
    fn the_time_to_the_limit_has_a_range() {
        let growth = Growth {
            per_hour: 100,
            per_hour_low: 50,
            per_hour_high: 200,
            per_hour_lately: 50,
            over: Span::from_secs(3_600),
        };
        let reaches = growth.reaches(1_000, 800).unwrap();
        let hours = |hours: u64| Span::from_secs(hours * 3_600);
        assert_eq!((reaches.after, reaches.earliest, reaches.latest), (hours(2), hours(1), hours(4)));
        assert_eq!(growth.reaches(1_000, 1_000), None, "it is there");
        assert_eq!(
            Growth { per_hour_lately: 49, ..growth }.reaches(1_000, 800),
            None,
            "it has grown, and stands still"
        );
        assert_eq!(Growth { per_hour_low: 0, ..growth }.reaches(1_000, 800), None, "perhaps it does not grow");
        // A slope that takes longer than there is time.
        let slow = Growth { per_hour: 1, per_hour_low: 1, per_hour_high: 1, per_hour_lately: 1, ..growth };
        assert!(slow.reaches(u64::MAX, 0).unwrap().after > hours(1 << 30));
    }

    #[test]
    fn extreme_figures_do_not_overflow() {
        let mut trend = Trend::default();
        for step in 0..200 {
            trend.add(Monotonic::from_us(step * 2_000_000), if step % 3 == 0 { u64::MAX } else { 0 });
        }
        assert!(trend.growth.is_some());
    }
}
