//! The clocks that decide nothing: wall time jumps, and boot time goes on while the machine is suspended.

use crate::coverage::Coverage;
use crate::fault::Fault;
use crate::rng::{Purpose, Rng};
use crate::scenario::{BEGIN_US, Scenario};
use hale_core::time::{Monotonic, Now};

/// 2026-01-01 in microseconds since 1970.
const WALL_BASE_US: i64 = 1_767_225_600_000_000;

/// The longest jump of the wall clock that is drawn: ten years.
const WALL_JUMP_MAX_US: u64 = 315_360_000_000_000;

/// Jumps of the wall clock and times of suspend, drawn before the run.
#[derive(Debug)]
pub struct Clocks {
    wall: Jumps,
    suspend: Jumps,
}

/// Jumps in the order of their times, and the sum of those that are over.
#[derive(Debug, Default)]
struct Jumps {
    ahead: Vec<(u64, i64)>,
    sum: i64,
}

impl Jumps {
    fn draw(rng: &mut Rng, permille: u32, faults_us: u64, mut size: impl FnMut(&mut Rng) -> i64) -> Self {
        let count = if permille == 0 { 0 } else { rng.within(1, 4) };
        let mut ahead: Vec<(u64, i64)> = (0..count).map(|_| (BEGIN_US + rng.scaled(1, faults_us), size(rng))).collect();
        ahead.sort_unstable_by(|a, b| b.cmp(a));
        Self { ahead, sum: 0 }
    }

    /// The sum of all jumps until `now`, and how many happened since the last call.
    fn until(&mut self, now: u64) -> (i64, usize) {
        let mut happened = 0;
        while let Some((_, size)) = self.ahead.pop_if(|(at, _)| *at <= now) {
            self.sum = self.sum.saturating_add(size);
            happened += 1;
        }
        (self.sum, happened)
    }
}

impl Clocks {
    /// The clocks of one scenario.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        let mut wall = Rng::new(scenario.seed, Purpose::Wall, scenario.wall, 0);
        let mut suspend = Rng::new(scenario.seed, Purpose::Suspend, 0, 0);
        let jump = |rng: &mut Rng| {
            let size = i64::try_from(rng.scaled(1, WALL_JUMP_MAX_US)).unwrap_or(0);
            if rng.chance(500) { -size } else { size }
        };
        let sleep = |rng: &mut Rng| i64::try_from(rng.scaled(1_000, 100_000_000_000)).unwrap_or(0);
        Self {
            wall: Jumps::draw(&mut wall, scenario.rates.of(Fault::WallJump), scenario.faults_us, jump),
            suspend: Jumps::draw(&mut suspend, scenario.rates.of(Fault::Suspend), scenario.faults_us, sleep),
        }
    }

    /// Reads all three.
    pub fn read(&mut self, now_us: u64, coverage: &mut Coverage) -> Now {
        let (jumped, jumps) = self.wall.until(now_us);
        let (slept, suspends) = self.suspend.until(now_us);
        (0..jumps).for_each(|_| coverage.fault(Fault::WallJump));
        (0..suspends).for_each(|_| coverage.fault(Fault::Suspend));
        let boot_us = now_us.saturating_add(u64::try_from(slept).unwrap_or(0));
        let since_base = i64::try_from(boot_us).unwrap_or(i64::MAX);
        let wall_us = WALL_BASE_US.saturating_add(since_base).saturating_add(jumped);
        Now { mono: Monotonic::from_us(now_us), boot_us, wall_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Rates;
    use crate::scenario::Limits;

    #[test]
    fn the_wall_jumps_suspend_moves_boot_time_and_monotonic_time_does_neither() {
        let seed = (0..500).find(|&seed| {
            let rates: Rates = Scenario::draw(seed, &Limits::default()).rates;
            rates.of(Fault::WallJump) > 0 && rates.of(Fault::Suspend) > 0
        });
        let scenario = Scenario::draw(seed.expect("one of 500 has both"), &Limits::default());
        let mut coverage = Coverage::default();
        let mut clocks = Clocks::new(&scenario);
        let before = clocks.read(BEGIN_US, &mut coverage);
        let after = clocks.read(BEGIN_US + scenario.faults_us, &mut coverage);
        assert_eq!(after.mono.since(before.mono).as_us(), scenario.faults_us);
        assert!(after.boot_us - before.boot_us > scenario.faults_us);
        assert_ne!(after.wall_us - before.wall_us, i64::try_from(after.boot_us - before.boot_us).unwrap());
    }
}
