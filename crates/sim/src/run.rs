//! One run: the real core and the real driver over the fake host; and one seed: the same run more than once.

use crate::coverage::Coverage;
use crate::crash::Crashed;
use crate::host::FakeHost;
use crate::mutation::{Mutated, Mutation};
use crate::oracle::Violation;
use crate::reload;
use crate::scenario::Scenario;
use hale_core::driver;
use hale_core::ids::{GenerationId, Name, RecordId};
use hale_core::policy::Policy;
use hale_core::record::Record;
use hale_core::world::{Birth, World};
use hale_ledger::{Chain, Hash};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Events of a run with a mistake put in: ten times those of a usual one.
const MUTATED_EVENTS_MAX: u64 = 10_000;

/// What came of one run.
#[derive(Debug)]
pub struct Run {
    /// What the oracles found.
    pub violations: Vec<Violation>,
    /// What was reached.
    pub coverage: Coverage,
    /// All records, in order.
    pub records: Vec<Record>,
    /// How many events, records and effects there were.
    pub points: u64,
    /// What was there after the scenario's death.
    pub crashed: Option<Crashed>,
    /// What each store is switched to at the end.
    pub shown: Vec<(Name, Option<GenerationId>)>,
}

/// A world that was told `policy`, in which nothing was started yet.
#[must_use]
pub fn world(seed: u64, policy: Policy) -> World {
    World::new(birth(seed, policy))
}

fn birth(seed: u64, policy: Policy) -> Birth {
    Birth {
        policy,
        hash: reload::hash(0),
        seed,
        version: String::from("simulated"),
        boot_id: String::from("00000000-0000-0000-0000-000000000000"),
        guardian: String::from("simulated"),
        first_record: RecordId(1),
        last_epoch: hale_core::ids::Epoch(0),
        generations: std::collections::BTreeMap::new(),
        open_incidents: Vec::new(),
    }
}

/// Runs `scenario` to its end.
#[must_use]
pub fn run(scenario: &Scenario) -> Run {
    run_mutated(scenario, None, 0)
}

/// Runs `scenario` with a mistake put in. `nonce` numbers the runs of the same scenario.
#[must_use]
pub fn run_mutated(scenario: &Scenario, mutation: Option<Mutation>, nonce: u64) -> Run {
    let without = Scenario { reloads: Vec::new(), ..scenario.clone() };
    // What the core is told instead of a policy is the same from its beginning to its end.
    let reloads = mutation.is_none_or(|mutation| mutation == Mutation::StartsAllAnew);
    let scenario = if reloads { scenario } else { &without };
    let mut host = FakeHost::new(scenario);
    if mutation.is_some() {
        // A run with a mistake may well never come to rest.
        host.events_max = MUTATED_EVENTS_MAX;
    }
    let policy = scenario.policy.clone();
    let birth = birth(scenario.seed, mutation.map_or(policy.clone(), |mutation| mutation.policy(policy)));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut next = Some(World::new(birth.clone()));
        while let Some(mut world) = next {
            match mutation {
                None => driver::run(&mut world, &mut host),
                Some(mutation) => driver::run(&mut world, &mut Mutated::new(&mut host, mutation, nonce)),
            }
            next = host.revive(birth.clone());
        }
    }));
    host.close();
    let mut violations = std::mem::take(&mut host.judges.violations);
    if let Err(panic) = panicked {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let what = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words").to_owned();
        violations.insert(0, Violation { oracle: "no-panic", at_us: host.ending.at_us, what });
    }
    let (points, crashed, shown) = (host.points(), host.crashed.take(), host.shown());
    Run { violations, coverage: host.coverage, records: host.records, points, crashed, shown }
}

/// Runs one seed's scenario twice, the second time with another wall clock, and each sixteenth seed a third time
/// with the first one: the guarantees that one run cannot show.
///
/// - same-root: the same seed leads to the same ledger, byte for byte.
/// - wall-clock: the wall clock decides nothing but how old a change is.
#[must_use]
pub fn run_seed(scenario: &Scenario, mutation: Option<Mutation>) -> Run {
    let mut first = run_mutated(scenario, mutation, 0);
    let by_wall = !scenario.generations.first.is_empty() && scenario.rates.of(crate::fault::Fault::WallJump) > 0;
    let other_wall = Scenario { wall: scenario.wall + 1, ..scenario.clone() };
    let second = run_mutated(&other_wall, mutation, 0);
    let at_us = first.records.last().map_or(0, |record| record.at.mono.as_us());
    // How old a change is, also beyond a boot, only the wall clock knows.
    if !by_wall && let Some(what) = differ("wall-clock", root(&first.records, false), root(&second.records, false)) {
        first.violations.push(Violation { oracle: "wall-clock", at_us, what });
    }
    if scenario.seed.is_multiple_of(16) {
        let third = run_mutated(scenario, mutation, 1);
        if let Some(what) = differ("same-root", root(&first.records, true), root(&third.records, true)) {
            first.violations.push(Violation { oracle: "same-root", at_us, what });
        }
    }
    first
}

fn differ(oracle: &str, one: Result<Hash, String>, other: Result<Hash, String>) -> Option<String> {
    match (one, other) {
        (Ok(one), Ok(other)) if one == other => None,
        (Ok(one), Ok(other)) => Some(format!("{oracle}: the roots are {one} and {other}")),
        (Err(error), _) | (_, Err(error)) => Some(error),
    }
}

/// The root of the ledger that `records` are; `wall`: with the wall clock's readings.
///
/// # Errors
/// A record cannot be written to a ledger.
pub fn root(records: &[Record], wall: bool) -> Result<Hash, String> {
    let mut chain = Chain::default();
    let mut line = Vec::new();
    for record in records {
        let mut record = record.clone();
        if !wall {
            record.at.wall_us = 0;
        }
        let payload = serde_json::to_vec(&record).map_err(|error| format!("record {}: {error}", record.id))?;
        line.clear();
        chain.append(&payload, &mut line).map_err(|error| format!("record {}: {error}", record.id))?;
    }
    Ok(chain.tree().root())
}
