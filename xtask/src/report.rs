//! What was run, how long it took against the budget, what was left out and why: printed at the end.

use crate::tools::Outcome;
use std::time::{Duration, Instant};

/// Part of a run that has a time budget of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Packages and tools that the tests use.
    Setup,
    /// Checks that only read files.
    Gates,
    /// Everything that compiles.
    Build,
    /// Everything that runs tests.
    Tests,
    /// The simulator.
    Simulation,
    /// The fuzz targets, and their build.
    Fuzzing,
    /// Emulated machines, and the static binary that runs in them.
    Machines,
}

impl Phase {
    const ALL: [Self; 7] =
        [Self::Setup, Self::Gates, Self::Build, Self::Tests, Self::Simulation, Self::Fuzzing, Self::Machines];

    fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Gates => "gates",
            Self::Build => "build",
            Self::Tests => "tests",
            Self::Simulation => "simulation",
            Self::Fuzzing => "fuzzing",
            Self::Machines => "machines",
        }
    }

    /// How long the phase may take on two cores with nothing built before; beyond it a warning is printed.
    fn budget(self) -> Option<Duration> {
        let minutes = match self {
            Self::Setup | Self::Gates => return None,
            Self::Build => 10,
            Self::Tests => 15,
            Self::Simulation => 3,
            Self::Fuzzing => 10,
            Self::Machines => 20,
        };
        Some(Duration::from_secs(minutes * 60))
    }
}

/// How many tests a step ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that did not.
    pub failed: u64,
}

/// Something that cannot be run on this machine.
#[derive(Debug)]
pub struct LeftOut {
    /// What: a module of tests, or a check.
    pub what: String,
    /// How many tests (or 1 for a check).
    pub count: u64,
    /// What the machine lacks.
    pub why: String,
}

struct Step {
    name: &'static str,
    phase: Phase,
    took: Duration,
    failure: Option<String>,
}

/// The run so far.
#[derive(Default)]
pub struct Report {
    steps: Vec<Step>,
    tests: Tally,
    left_out: Vec<LeftOut>,
}

impl Report {
    /// Runs one step and notes how it went. A failed step does not end the run: one run tells all.
    /// True if the step passed.
    pub fn step(&mut self, phase: Phase, name: &'static str, work: impl FnOnce(&mut Self) -> Outcome) -> bool {
        println!("\n=== {name}");
        let start = Instant::now();
        let failure = work(self).err();
        let took = start.elapsed();
        match &failure {
            None => println!("--- {name}: ok, {}", seconds(took)),
            Some(message) => println!("{message}\n--- {name}: FAILED, {}", seconds(took)),
        }
        let passed = failure.is_none();
        self.steps.push(Step { name, phase, took, failure });
        passed
    }

    /// Adds the tests that the present step ran.
    pub fn add_tests(&mut self, tally: Tally) {
        self.tests.passed += tally.passed;
        self.tests.failed += tally.failed;
    }

    /// Notes something that this machine cannot run.
    pub fn leave_out(&mut self, left_out: LeftOut) {
        self.left_out.push(left_out);
    }

    /// Prints the summary, whose last line is `N passed, N failed, N skipped` (tests and steps together).
    /// True if nothing failed.
    pub fn finish(&self) -> bool {
        println!("\n=== summary");
        for step in &self.steps {
            let mark = if step.failure.is_none() { "ok" } else { "FAILED" };
            println!("{mark:>6}  {:>9}  {}", seconds(step.took), step.name);
        }
        for phase in Phase::ALL {
            println!("{}", phase_line(phase, self.steps.iter().filter(|s| s.phase == phase).map(|s| s.took).sum()));
        }
        if self.left_out.is_empty() {
            println!("left out: nothing");
        }
        for LeftOut { what, count, why } in &self.left_out {
            println!("left out: {count} × {what}: {why}");
        }
        for (name, message) in self.steps.iter().filter_map(|s| Some((s.name, s.failure.as_ref()?))) {
            println!("\nFAILED {name}: {message}");
        }
        let (passed, failed, skipped) = self.totals();
        println!("\n{passed} passed, {failed} failed, {skipped} skipped");
        failed == 0
    }

    /// Tests and steps that passed, that failed, that were left out. A step that failed because of its tests
    /// counts beside them.
    fn totals(&self) -> (u64, u64, u64) {
        let failed_steps = self.steps.iter().filter(|s| s.failure.is_some()).count() as u64;
        let passed_steps = self.steps.len() as u64 - failed_steps;
        let skipped = self.left_out.iter().map(|l| l.count).sum();
        (self.tests.passed + passed_steps, self.tests.failed + failed_steps, skipped)
    }
}

fn phase_line(phase: Phase, took: Duration) -> String {
    match phase.budget() {
        None => format!("{}: {}", phase.name(), seconds(took)),
        Some(budget) if took <= budget => format!("{}: {} of {}", phase.name(), seconds(took), seconds(budget)),
        Some(budget) => {
            format!("warning: {} took {}, its budget is {}", phase.name(), seconds(took), seconds(budget))
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_tests_and_steps_and_goes_on_after_a_failure() {
        let mut report = Report::default();
        assert!(!report.step(Phase::Gates, "a", |_| Err("broken".to_owned())));
        assert!(report.step(Phase::Tests, "b", |report| {
            report.add_tests(Tally { passed: 5, failed: 0 });
            Ok(())
        }));
        report.leave_out(LeftOut { what: "x".to_owned(), count: 3, why: "y".to_owned() });
        assert_eq!(report.totals(), (6, 1, 3));
        assert!(!report.finish());
    }

    #[test]
    fn a_phase_over_its_budget_is_a_warning() {
        assert_eq!(phase_line(Phase::Simulation, Duration::from_secs(180)), "simulation: 180.0 s of 180.0 s");
        assert!(
            phase_line(Phase::Simulation, Duration::from_secs(181)).starts_with("warning: simulation took 181.0 s")
        );
    }
}
