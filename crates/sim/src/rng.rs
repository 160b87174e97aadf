//! Randomness that one seed fixes: one generator for each purpose, so that one more draw here shifts nothing there.

/// What a generator is for. The numbers are part of what a seed means: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Size of the world, length of the fault phase, rates of faults.
    Shape = 1,
    /// One service's policy.
    Policy = 2,
    /// One process's fate.
    Fate = 3,
    /// Results of one service's probes.
    Probe = 4,
    /// Operators' orders and questions.
    Orders = 5,
    /// Jumps of the wall clock.
    Wall = 6,
    /// Times of suspend.
    Suspend = 7,
    /// The ledger's disk.
    Ledger = 8,
    /// How late the loop comes to its next event.
    Lateness = 9,
    /// When and how everything ends.
    End = 10,
    /// When the supervisor dies.
    Death = 11,
    /// Dependencies: what they are, and when they are down.
    Dependency = 12,
    /// Reloads: when, and what they change.
    Reload = 13,
    /// Probes for which Hale itself is late.
    Starved = 14,
    /// Times in which no probe gets through.
    Probing = 15,
    /// Services with generations: their policies, what is done to them, and how good each generation is.
    Generations = 16,
    /// What one service's store does.
    Store = 17,
    /// The files that belong to services: which have some, what is done to them, and how good each state of them is.
    Files = 18,
}

/// xoshiro256** (Blackman, Vigna: Scrambled linear pseudorandom number generators, 2021), seeded by SplitMix64.
#[derive(Debug, Clone)]
pub struct Rng([u64; 4]);

impl Rng {
    /// The generator of `purpose`, and of the thing that `a` and `b` number.
    #[must_use]
    pub fn new(seed: u64, purpose: Purpose, a: u64, b: u64) -> Self {
        let mut state = seed;
        for part in [purpose as u64, a, b] {
            state = split_mix(&mut (state ^ part.wrapping_mul(0xd6e8_feb8_6659_fd93)));
        }
        Self([(); 4].map(|()| split_mix(&mut state)))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        let Self([s0, s1, s2, s3]) = self;
        let result = s1.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *s1 << 17;
        *s2 ^= *s0;
        *s3 ^= *s1;
        *s1 ^= *s2;
        *s0 ^= *s3;
        *s2 ^= shifted;
        *s3 = s3.rotate_left(45);
        result
    }

    /// A number below `n`; 0 when `n` is 0. The bias of the remainder is below 2^-32 for all `n` used here.
    pub fn below(&mut self, n: u64) -> u64 {
        self.bits().checked_rem(n).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// A number from `low` to `high` whose order of magnitude is spread evenly; `low` is at least 1.
    pub fn scaled(&mut self, low: u64, high: u64) -> u64 {
        let magnitude = self.within(u64::from(low.max(1).ilog2()), u64::from(high.max(1).ilog2()));
        self.within(1 << magnitude, (2_u64 << magnitude) - 1).clamp(low, high)
    }

    /// True in `permille` of a thousand cases.
    pub fn chance(&mut self, permille: u32) -> bool {
        self.below(1_000) < u64::from(permille)
    }

    /// One of `choices`, which must not be empty.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let at = usize::try_from(self.below(choices.len() as u64)).unwrap_or(0);
        choices[at]
    }
}

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_and_things_have_generators_of_their_own() {
        let mut seen = std::collections::BTreeSet::new();
        for (purpose, a, b) in
            [(Purpose::Fate, 0, 0), (Purpose::Fate, 1, 0), (Purpose::Fate, 0, 1), (Purpose::Wall, 0, 0)]
        {
            assert!(seen.insert(Rng::new(7, purpose, a, b).bits()));
            assert_eq!(Rng::new(7, purpose, a, b).bits(), Rng::new(7, purpose, a, b).bits());
        }
    }

    #[test]
    fn draws_stay_in_their_ranges_and_reach_the_ends() {
        let mut rng = Rng::new(1, Purpose::Shape, 0, 0);
        let drawn: Vec<u64> = (0..1_000).map(|_| rng.within(3, 6)).collect();
        assert!((3..=6).all(|n| drawn.contains(&n)) && drawn.iter().all(|n| (3..=6).contains(n)));
        assert!((0..1_000).all(|_| (5..=70_000).contains(&rng.scaled(5, 70_000))));
        assert_eq!(rng.below(0), 0);
        assert!(!rng.chance(0) && rng.chance(1_000));
    }
}
