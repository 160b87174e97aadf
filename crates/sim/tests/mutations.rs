//! Each oracle finds the mistake that breaks its guarantee: an oracle that nothing fails proves nothing.

use hale_sim::mutation::Mutation;
use hale_sim::oracle;
use hale_sim::run::{run, run_seed};
use hale_sim::scenario::{Limits, Scenario};

/// Oracles, and a mistake that each of them must find.
const CASES: &[(&str, Mutation)] = &[
    ("one-process", Mutation::SpawnTwice),
    ("possible", Mutation::OldEpoch),
    ("no-violation", Mutation::ExitTwice),
    ("delays", Mutation::EarlyTimers),
    ("delays", Mutation::WrongDelay),
    ("held", Mutation::UncountedTries),
    ("reasons", Mutation::WrongReason),
    ("incidents", Mutation::UnclosedIncidents),
    ("in-order", Mutation::NoOrder),
    ("blocking", Mutation::NoDependencies),
    ("in-flight", Mutation::NoLimit),
    ("observes", Mutation::NoObserving),
    ("records-first", Mutation::EffectsFirst),
    ("acknowledged", Mutation::AckTwice),
    ("acknowledged", Mutation::NoAck),
    ("one-probe", Mutation::ProbeTwice),
    ("recomputes", Mutation::AlteredDecision),
    ("alike", Mutation::SameExceptions),
    ("answers", Mutation::AnswerTwice),
    ("oom-is-named", Mutation::DeafToOom),
    ("stalls-are-named", Mutation::DeafToStalls),
    ("left-is-passed", Mutation::NothingPassed),
    ("pauses", Mutation::EndlessPauses),
    ("only-leaks-are-planned", Mutation::SeesLeaks),
    ("reloads", Mutation::StartsAllAnew),
    ("starved", Mutation::DeafToLateness),
    ("looks-first", Mutation::NeverLooks),
    ("blame", Mutation::WrongBlame),
];

/// The same of the oracles that watch over switches.
const CASES_OF_SWITCHES: &[(&str, Mutation)] = &[
    ("intents-first", Mutation::DurableAtOnce),
    ("proofs-first", Mutation::DurableAtOnce),
    ("spawns-current", Mutation::WrongGeneration),
    ("retains", Mutation::RetainsNothing),
    ("probation", Mutation::ShortProbation),
    ("rolled-back", Mutation::RolledBackAtOnce),
    ("failed-before", Mutation::ForgetsWhatFailed),
    ("liveness", Mutation::DeafStores),
];

/// The same of those that watch over what is decided about switches.
const CASES_OF_CHOICES: &[(&str, Mutation)] = &[
    ("one-switch", Mutation::UnendedSwitches),
    ("ways-back", Mutation::BackToItself),
    ("never-to-bad", Mutation::QuarantinesFirst),
    ("failed-is-bad", Mutation::NeverQuarantines),
    ("rollback-is-allowed", Mutation::AlwaysTakesBack),
    ("rollbacks-per-day", Mutation::AllByLadder),
    ("true-refusals", Mutation::WrongRefusal),
    ("kept-is-true", Mutation::ForgetsGoods),
];

/// The same of those that watch over files beside releases.
const CASES_OF_FILES: &[(&str, Mutation)] = &[
    ("newest-first", Mutation::TakesBackTheOther),
    ("left-alone", Mutation::StopsForEdits),
    ("of-its-process", Mutation::MistakesEdits),
];

/// The same of those that look at whole runs.
const CASES_OF_RUNS: &[(&str, Mutation)] = &[
    ("liveness", Mutation::NoSpawnAfterFailure),
    ("no-spinning", Mutation::Restless),
    ("ends", Mutation::NeverDone),
    ("same-root", Mutation::Unstable),
    ("wall-clock", Mutation::WallDecides),
    ("no-panic", Mutation::Panics),
];

/// Seeds within which a mistake must be found.
const SEEDS: u64 = 200;

#[test]
fn each_mistake_is_found_by_the_oracle_whose_guarantee_it_breaks() {
    are_found(CASES);
}

#[test]
fn each_mistake_about_switches_is_found() {
    are_found(CASES_OF_SWITCHES);
}

#[test]
fn each_mistake_about_choices_is_found() {
    are_found(CASES_OF_CHOICES);
}

/// What is undone is rare in seeds, so that a story tells it.
#[test]
fn what_is_said_to_be_undone_and_is_not_is_found() {
    let scenario = hale_sim::crash_points::of_data();
    let finds = |mutation| run_seed(&scenario, mutation).violations.iter().any(|found| found.oracle == "readable");
    assert!(finds(Some(Mutation::UndoesNothing)) && !finds(None));
}

/// What is taken back of both is rare in seeds, so that a story tells it.
#[test]
fn each_mistake_about_files_is_found() {
    let scenario = hale_sim::crash_points::of_files();
    assert_eq!(run_seed(&scenario, None).violations, []);
    for (oracle, mutation) in CASES_OF_FILES {
        let violations = run_seed(&scenario, Some(*mutation)).violations;
        assert!(violations.iter().any(|found| found.oracle == *oracle), "{oracle}, {mutation:?}: {violations:?}");
    }
}

/// So is it that somebody else switches in the moment before Hale does.
#[test]
fn a_switch_that_replaces_somebody_elses_is_found() {
    let finds = |mutation, later_us| {
        let run = run_seed(&hale_sim::crash_points::of_somebody_else(later_us), mutation);
        run.violations.iter().any(|found| found.oracle == "never-fights")
    };
    let mut moments_us = (0..60).map(|n| n * 500);
    assert!(moments_us.clone().any(|later_us| finds(Some(Mutation::Fights), later_us)));
    assert!(!moments_us.any(|later_us| finds(None, later_us)));
}

#[test]
fn each_mistake_about_whole_runs_is_found() {
    are_found(CASES_OF_RUNS);
}

fn are_found(cases: &[(&str, Mutation)]) {
    let mut missed = Vec::new();
    for (oracle, mutation) in cases {
        let found = (1..=SEEDS).find(|&seed| {
            let scenario = Scenario::draw(seed, &Limits::default());
            run_seed(&scenario, Some(*mutation)).violations.iter().any(|violation| violation.oracle == *oracle)
        });
        match found {
            Some(seed) => println!("{oracle} finds {mutation:?} in seed {seed}"),
            None => missed.push(format!("{oracle} does not find {mutation:?}")),
        }
    }
    assert!(missed.is_empty(), "{missed:?}");
}

#[test]
fn every_oracle_has_a_mistake_that_it_finds() {
    let scenario = Scenario::draw(1, &Limits::default());
    for oracle in oracle::oracles(&scenario) {
        let of_parts = CASES_OF_SWITCHES.iter().chain(CASES_OF_CHOICES).chain(CASES_OF_FILES);
        let mut cases = CASES.iter().chain(of_parts).chain(CASES_OF_RUNS).map(|(name, _)| *name);
        assert!(
            cases.any(|name| name == oracle.name()) || ["readable", "never-fights"].contains(&oracle.name()),
            "{}: {}",
            oracle.name(),
            oracle.guarantee()
        );
    }
}

#[test]
fn without_a_mistake_the_same_seeds_pass() {
    for seed in 1..=SEEDS {
        let run = run(&Scenario::draw(seed, &Limits::default()));
        assert_eq!(run.violations, [], "seed {seed}");
    }
}
