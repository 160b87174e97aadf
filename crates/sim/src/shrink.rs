//! Makes a failing seed smaller: fewer services, fewer faults, less time, as long as the same oracle still objects.

use crate::fault::Fault;
use crate::mutation::Mutation;
use crate::run::run_seed;
use crate::scenario::{Limits, Scenario};

/// Runs that one shrinking may take: each takes milliseconds, so that the whole takes seconds.
const RUNS_MAX: u32 = 300;

/// The smallest limits found within which `seed` still violates `oracle`.
#[must_use]
pub fn shrink(seed: u64, oracle: &str, mutation: Option<Mutation>) -> Limits {
    let mut runs = 0;
    let mut fails = |limits: &Limits| {
        runs += 1;
        runs <= RUNS_MAX
            && run_seed(&Scenario::draw(seed, limits), mutation).violations.iter().any(|found| found.oracle == oracle)
    };
    let whole = Scenario::draw(seed, &Limits::default());
    let mut best = Limits::default();
    // Time first: it makes all further runs cheaper.
    let mut until_ms = whole.faults_us / 1_000;
    while until_ms > 1 {
        until_ms /= 2;
        let limits = Limits { until_ms: Some(until_ms), ..best.clone() };
        if !fails(&limits) {
            break;
        }
        best = limits;
    }
    for services in 1..whole.policy.services.len() {
        let limits = Limits { services: Some(services), ..best.clone() };
        if fails(&limits) {
            best = limits;
            break;
        }
    }
    let mut faults: Vec<Fault> = whole.rates.present();
    for fault in whole.rates.present() {
        let fewer: Vec<Fault> = faults.iter().copied().filter(|kept| *kept != fault).collect();
        let limits = Limits { faults: Some(fewer.clone()), ..best.clone() };
        if fails(&limits) {
            (best, faults) = (limits, fewer);
        }
    }
    best
}

/// The one command that replays `seed` within `limits`.
#[must_use]
pub fn command(seed: u64, limits: &Limits) -> String {
    let mut command = format!("cargo run --release -p hale-sim -- replay {seed}");
    if let Some(services) = limits.services {
        command.push_str(&format!(" --services {services}"));
    }
    if let Some(faults) = &limits.faults {
        let names: Vec<&str> = faults.iter().map(|fault| fault.as_str()).collect();
        command
            .push_str(&format!(" --faults {}", if names.is_empty() { String::from("none") } else { names.join(",") }));
    }
    if let Some(until_ms) = limits.until_ms {
        command.push_str(&format!(" --until {until_ms}"));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_seed_gets_smaller_and_still_fails() {
        let mutation = Some(Mutation::AckTwice);
        let fails = |limits: &Limits| {
            let run = run_seed(&Scenario::draw(5, limits), mutation);
            run.violations.iter().any(|found| found.oracle == "acknowledged")
        };
        assert!(fails(&Limits::default()), "choose another seed");
        let limits = shrink(5, "acknowledged", mutation);
        assert!(fails(&limits));
        let (before, after) = (Scenario::draw(5, &Limits::default()), Scenario::draw(5, &limits));
        assert!(after.faults_us < before.faults_us);
        assert!(after.rates.present().len() < before.rates.present().len());
    }
}
