//! `hale-sim`: runs seeds, replays one, shrinks what fails.

use hale_sim::fault::Fault;
use hale_sim::run::{Run, root, run_seed};
use hale_sim::scenario::{Limits, Scenario};
use hale_sim::{shrink, swarm};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// How many of the last records are printed of a seed that fails.
const LAST_RECORDS: usize = 40;

/// Failing seeds that are shrunk in one run: each takes a second or two.
const SHRUNK_MAX: usize = 3;

const USAGE: &str = "usage: hale-sim ci [--seeds 5000] [--first 1]
       hale-sim replay SEED [--services N] [--faults a,b|none] [--until MS] [--log]
       hale-sim one SEED [--log]
       hale-sim crash-points [--in FILE]";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match parse(&words) {
        Ok(Command::Ci { first, seeds }) => ci(first, seeds),
        Ok(Command::Replay { seed, limits, log }) => replay(seed, &limits, log),
        Ok(Command::CrashPoints { table_in }) => crash_points(table_in.as_deref()),
        Err(why) => {
            eprintln!("hale-sim: {why}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// What is to be done.
enum Command {
    Ci {
        first: u64,
        seeds: u64,
    },
    Replay {
        seed: u64,
        limits: Limits,
        log: bool,
    },
    /// Every crash point of a switch; the file must have the table that comes of it.
    CrashPoints {
        table_in: Option<PathBuf>,
    },
}

fn parse(words: &[&str]) -> Result<Command, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("\"{text}\" is not a number"));
    let (seed, mut rest) = match words {
        ["crash-points"] => return Ok(Command::CrashPoints { table_in: None }),
        ["crash-points", "--in", file] => return Ok(Command::CrashPoints { table_in: Some(file.into()) }),
        ["ci", rest @ ..] => (None, rest),
        ["replay" | "one", seed, rest @ ..] => (Some(number(seed)?), rest),
        _ => return Err(String::from("ci, replay or one, and what belongs to it")),
    };
    let (mut first, mut seeds, mut limits, mut log) = (1, 5_000, Limits::default(), false);
    loop {
        rest = match rest {
            [] => break,
            ["--seeds", count, rest @ ..] if seed.is_none() => {
                seeds = number(count)?;
                rest
            }
            ["--first", at, rest @ ..] if seed.is_none() => {
                first = number(at)?;
                rest
            }
            ["--services", count, rest @ ..] => {
                limits.services = Some(usize::try_from(number(count)?).map_err(|error| error.to_string())?);
                rest
            }
            ["--until", ms, rest @ ..] => {
                limits.until_ms = Some(number(ms)?);
                rest
            }
            ["--faults", "none", rest @ ..] => {
                limits.faults = Some(Vec::new());
                rest
            }
            ["--faults", names, rest @ ..] => {
                let fault = |name| Fault::from_name(name).ok_or_else(|| format!("there is no fault \"{name}\""));
                limits.faults = Some(names.split(',').map(fault).collect::<Result<_, _>>()?);
                rest
            }
            ["--log", rest @ ..] => {
                log = true;
                rest
            }
            [word, ..] => return Err(format!("\"{word}\" is not known here")),
        };
    }
    Ok(seed.map_or(Command::Ci { first, seeds }, |seed| Command::Replay { seed, limits, log }))
}

/// Runs many seeds, and fails when one failed or when something was not reached.
fn ci(first: u64, seeds: u64) -> ExitCode {
    let began = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let report = swarm::run(first, seeds, threads);
    println!("{}", report.coverage);
    let hours = report.coverage.virtual_us / 3_600_000_000;
    println!(
        "{seeds} seeds from {first} on, {} events, {hours} h of virtual time, in {:.1} s on {threads} threads: {} failed",
        report.coverage.events,
        began.elapsed().as_secs_f64(),
        report.failed
    );
    let missing = report.coverage.missing();
    if !missing.is_empty() {
        println!("never reached: {}", missing.join(", "));
    }
    for (at, (seed, violation)) in report.failures.iter().enumerate() {
        println!("\nseed {seed}: {violation}\n  {}", shrink::command(*seed, &Limits::default()));
        if at < SHRUNK_MAX {
            let limits = shrink::shrink(*seed, violation.oracle, None);
            println!("  smallest found: {}", shrink::command(*seed, &limits));
            tell(&run_seed(&Scenario::draw(*seed, &limits), None), false);
        }
    }
    if report.failed == 0 && missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Interrupts a switch at each of its points, and prints what comes of it.
fn crash_points(table_in: Option<&Path>) -> ExitCode {
    let table = match hale_sim::crash_points::enumerate() {
        Ok(table) => table,
        Err(what) => {
            println!("{what}");
            return ExitCode::FAILURE;
        }
    };
    println!("{table}");
    let Some(file) = table_in else { return ExitCode::SUCCESS };
    match std::fs::read_to_string(file) {
        Ok(text) if text.contains(&table) => ExitCode::SUCCESS,
        Ok(_) => {
            println!("{} has another table than this: put this one there", file.display());
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("{} cannot be read: {error}", file.display());
            ExitCode::FAILURE
        }
    }
}

fn replay(seed: u64, limits: &Limits, log: bool) -> ExitCode {
    let scenario = Scenario::draw(seed, limits);
    let faults: Vec<&str> = scenario.rates.present().iter().map(|fault| fault.as_str()).collect();
    println!(
        "seed {seed}: {} services, mode {:?}, faults for {} ms: {}",
        scenario.policy.services.len(),
        scenario.policy.host.mode,
        scenario.faults_us / 1_000,
        faults.join(" ")
    );
    let run = run_seed(&scenario, None);
    if log || !run.violations.is_empty() {
        tell(&run, log);
    }
    run.violations.iter().for_each(|violation| println!("{violation}"));
    match root(&run.records, true) {
        Ok(root) => println!("{} records, ledger root {root}", run.records.len()),
        Err(error) => println!("{error}"),
    }
    if run.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints records as lines of a story: the last ones, or all.
fn tell(run: &Run, all: bool) {
    let skipped = if all { 0 } else { run.records.len().saturating_sub(LAST_RECORDS) };
    for record in &run.records[skipped..] {
        let (secs, us) = (record.at.mono.as_us() / 1_000_000, record.at.mono.as_us() % 1_000_000);
        let service = record.service.as_ref().map_or("-", |name| name.as_str());
        let what = match hale_core::incident::line(&record.body) {
            Some((what, Some(why))) => format!("{what}, because {why}"),
            Some((what, None)) => what,
            None if record.body.moved().is_some() => format!("({:?})", record.body),
            None => format!("({})", hale_sim::coverage::body_name(&record.body)),
        };
        println!("  {:>5} {secs}.{us:06} {service}: {what}", record.id);
    }
}
