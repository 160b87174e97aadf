//! Dependencies of the fake world: what they are, and when they are not there.

use crate::fault::{Fault, Rates};
use crate::rng::{Purpose, Rng};
use hale_core::ids::Name;
use hale_core::policy::{CheckKind, CheckPolicy, DependencyPolicy};
use hale_core::time::Span;
use std::collections::BTreeMap;
use std::sync::Arc;

/// More than any seed draws: each is down at most so often.
const DOWNS_MAX: u64 = 8;

/// The name of dependency number `index`.
#[must_use]
pub fn name(index: u64) -> Name {
    Name::try_from(format!("d{index:04}")).expect("a letter and digits are a name")
}

/// From when to when each dependency is down, in microseconds from the beginning.
#[derive(Debug, Clone, Default)]
pub struct Downs(BTreeMap<Name, Vec<(u64, u64)>>);

impl Downs {
    /// These.
    #[must_use]
    pub fn new(downs: BTreeMap<Name, Vec<(u64, u64)>>) -> Self {
        Self(downs)
    }

    /// Whether it is down at some time between these.
    #[must_use]
    pub fn is_down_within(&self, name: &Name, from_us: u64, to_us: u64) -> bool {
        self.0.get(name).is_some_and(|downs| downs.iter().any(|(from, to)| *from <= to_us && from_us < *to))
    }

    /// Whether the dependency is down so many microseconds after the beginning.
    #[must_use]
    pub fn is_down(&self, name: &Name, at_us: u64) -> bool {
        self.0.get(name).is_some_and(|downs| downs.iter().any(|(from, to)| (*from..*to).contains(&at_us)))
    }
}

/// The dependencies of a seed; `slow`: with checks that are far between.
#[must_use]
pub fn draw(seed: u64, slow: bool) -> BTreeMap<Name, Arc<DependencyPolicy>> {
    let mut rng = Rng::new(seed, Purpose::Dependency, 0, 0);
    let count = rng.pick(&[0, 0, 1, 1, 2, 3]);
    (0..count).map(|index| (name(index), Arc::new(draw_one(seed, index, slow)))).collect()
}

fn draw_one(seed: u64, index: u64, slow: bool) -> DependencyPolicy {
    let mut rng = Rng::new(seed, Purpose::Dependency, index, 1);
    let pace = if slow { 100 } else { 1 };
    let checks = (0..rng.pick(&[1, 1, 2])).map(|number: u64| CheckPolicy {
        name: Name::try_from(format!("c{number}")).expect("a letter and digits are a name"),
        kind: CheckKind::Tcp { address: String::from("192.0.2.1:1") },
        every: Span::from_ms(rng.scaled(20, 1_000) * pace),
        timeout: Span::from_ms(rng.scaled(20, 1_500)),
        failures: rng.pick(&[1, 2, 3]),
        successes: rng.pick(&[1, 1, 2]),
        confirm: Vec::new(),
    });
    DependencyPolicy { checks: checks.collect() }
}

/// When they are down, while there are faults.
#[must_use]
pub fn downs(seed: u64, rates: &Rates, faults_us: u64, of: &BTreeMap<Name, Arc<DependencyPolicy>>) -> Downs {
    let rate = u64::from(rates.of(Fault::DependencyDown));
    let draw = |(index, name): (u64, &Name)| {
        let mut rng = Rng::new(seed, Purpose::Dependency, index, 2);
        let times = if rate == 0 { 0 } else { 1 + rate * DOWNS_MAX / 1_000 };
        let down = |_| {
            // Some from the beginning on.
            let from = if rng.chance(200) { 0 } else { rng.within(1, faults_us) };
            (from, (from + rng.scaled(1_000, faults_us)).min(faults_us))
        };
        (name.clone(), (0..times).map(down).collect())
    };
    Downs((0..).zip(of.keys()).map(draw).collect())
}

/// What service number `index` depends on, of so many.
pub fn needs(seed: u64, index: usize, count: usize) -> impl Iterator<Item = Name> {
    let mut rng = Rng::new(seed, Purpose::Dependency, index as u64, 3);
    (0..count as u64).filter(move |_| rng.chance(350)).map(name)
}

/// Whether a service answers wrongly while something that it depends on is down.
#[must_use]
pub fn hurts(seed: u64, rates: &Rates, index: u64) -> bool {
    Rng::new(seed, Purpose::Dependency, index, 4).chance(rates.of(Fault::DependencyHurts))
}
