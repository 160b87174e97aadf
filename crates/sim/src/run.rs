//! One run: the real core and the real driver over the fake host.

use crate::coverage::Coverage;
use crate::host::FakeHost;
use crate::oracle::Violation;
use crate::scenario::Scenario;
use hale_core::driver;
use hale_core::ids::RecordId;
use hale_core::policy::{Policy, PolicyHash};
use hale_core::record::Record;
use hale_core::world::{Birth, World};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What came of one run.
#[derive(Debug)]
pub struct Run {
    /// What the oracles found.
    pub violations: Vec<Violation>,
    /// What was reached.
    pub coverage: Coverage,
    /// All records, in order.
    pub records: Vec<Record>,
}

/// A world that was told `policy`.
#[must_use]
pub fn world(seed: u64, policy: Policy) -> World {
    World::new(Birth {
        policy,
        hash: PolicyHash("0000".into()),
        seed,
        version: String::from("simulated"),
        boot_id: String::from("00000000-0000-0000-0000-000000000000"),
        first_record: RecordId(1),
    })
}

/// Runs `scenario` to its end.
#[must_use]
pub fn run(scenario: &Scenario) -> Run {
    let mut host = FakeHost::new(scenario);
    let mut world = world(scenario.seed, scenario.policy.clone());
    let panicked = catch_unwind(AssertUnwindSafe(|| driver::run(&mut world, &mut host))).err();
    host.close();
    let mut violations = std::mem::take(&mut host.judges.violations);
    if let Some(panic) = panicked {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words").to_owned();
        violations.insert(0, Violation { oracle: "no-panic", at_us: host.ending.at_us, what: words });
    }
    Run { violations, coverage: host.coverage, records: host.records }
}
