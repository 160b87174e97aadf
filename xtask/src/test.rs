//! `cargo xtask test`: every check, cheap ones first; a failed one does not keep the others from running.

use crate::filter::{Selection, select};
use crate::report::{Phase, Report, Tally};
use crate::tools::{Outcome, cargo, output_of, run as run_command};
use crate::{dist, edges, fuzz, generate, host, markdown, purity, tidy, tools, vm};
use std::path::Path;
use std::process::{Command, ExitCode};

/// Runs everything and prints the summary.
pub fn run() -> ExitCode {
    let mut report = Report::default();
    match tools::repository() {
        Ok(root) => steps(&root, &mut report),
        Err(message) => {
            report.step(Phase::Setup, "the repository", |_| Err(message));
        }
    }
    if report.finish() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The checks that only read files.
pub fn read_only_gates(root: &Path) -> Outcome {
    let files = tools::repository_files(root)?;
    tidy::check(root, &files)?;
    markdown::check_links(root, &files)?;
    edges::check(root, &tools::metadata(root)?)
}

fn steps(root: &Path, report: &mut Report) {
    let cargo_step = |words: &[&str]| run_command(&mut cargo(root, words));

    report.step(Phase::Setup, "packages that tests use", |_| host::install_packages());
    report.step(Phase::Gates, "format", |_| cargo_step(&["fmt", "--all", "--check"]));
    report.step(Phase::Gates, "tidy, links, crate edges, dependencies", |_| read_only_gates(root));
    report.step(Phase::Build, "clippy", |_| {
        cargo_step(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"])
    });
    report.step(Phase::Build, "the core without an operating system", |report| purity::check(root, report));
    let built =
        report.step(Phase::Build, "build", |_| cargo_step(&["build", "--locked", "--workspace", "--all-targets"]));
    let simulator = report.step(Phase::Build, "build of the simulator", |_| {
        cargo_step(&["build", "--locked", "--release", "-p", "hale-sim"])
    });
    report.step(Phase::Build, "documentation", |_| {
        let mut doc = cargo(root, &["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"]);
        // The pages are for people who work on Hale: private items are on them, so links there lead somewhere.
        run_command(doc.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links"))
    });
    if built {
        report.step(Phase::Tests, "tests", |report| tests(root, report));
        report.step(Phase::Tests, "examples in the documentation", |_| {
            cargo_step(&["test", "--locked", "--workspace", "--doc", "--quiet"])
        });
        report.step(Phase::Tests, "generated files and transcripts", |_| generate::generate(root, true));
    }
    if simulator {
        report.step(Phase::Simulation, "simulation of fixed seeds", |_| {
            cargo_step(&["run", "--locked", "--release", "-p", "hale-sim", "--", "ci"])?;
            let doc = ["--in", "docs/safeswitch.md"];
            cargo_step(&[&["run", "--locked", "--release", "-p", "hale-sim", "--", "crash-points"][..], &doc].concat())
        });
    }
    match fuzz::missing() {
        Some(why) => report.leave_out(fuzz::left_out(root, why)),
        None => drop(report.step(Phase::Fuzzing, "fuzz targets, a short time each", |_| fuzz::short(root))),
    }
    if let Some(why) = vm::missing() {
        return report.leave_out(vm::left_out(why));
    }
    if let Some(entry) = vm::left_out_on_debian() {
        report.leave_out(entry);
    }
    if report.step(Phase::Machines, "static binary", |_| dist::build(root).map(drop)) {
        report.step(Phase::Machines, "power cuts and more in emulated machines", |report| {
            let (tally, outcome) = vm::run_all(root)?;
            report.add_tests(tally);
            outcome
        });
    }
}

fn tests(root: &Path, report: &mut Report) -> Outcome {
    let target = tools::target_dir(root)?;
    let runner = host::nextest(root, &target)?;
    let pythons: Vec<_> = host::PYTHON_PACKAGES.iter().map(|package| (package, package.python(&target))).collect();
    let nextest = |words: &[&str]| {
        let mut command = Command::new(&runner);
        command.arg("nextest").args(words).args(["--locked", "--workspace"]).current_dir(root);
        for (package, python) in &pythons {
            command.envs(python.as_ref().map(|python| (package.variable, python)));
        }
        command
    };
    let missing: Vec<&str> =
        pythons.iter().filter(|(_, python)| python.is_none()).map(|(package, _)| package.need).collect();
    let list = output_of(&mut nextest(&["list", "--message-format", "json"]))?;
    let Selection { filterset, left_out } = select(&list, &missing)?;
    for entry in left_out {
        report.leave_out(entry);
    }
    // nextest's own folder stands in the repository, wherever cargo builds.
    let results = root.join("target/nextest/ci/junit.xml");
    // What an earlier run left must not be counted for this one.
    if results.exists() {
        std::fs::remove_file(&results).map_err(|e| format!("cannot remove {}: {e}", results.display()))?;
    }
    let mut command = nextest(&["run", "--profile", "ci"]);
    if let Some(filterset) = filterset {
        command.args(["--filterset", &filterset]);
    }
    let outcome = run_command(&mut command);
    let tally = std::fs::read_to_string(&results).ok().as_deref().and_then(junit_tally);
    report.add_tests(tally.unwrap_or_default());
    outcome.and_then(|()| tally.map(drop).ok_or_else(|| format!("no results of tests in {}", results.display())))
}

/// Reads the attributes of the root element of nextest's JUnit file.
fn junit_tally(xml: &str) -> Option<Tally> {
    let root = xml.split_once("<testsuites ")?.1.split_once('>')?.0;
    let number =
        |name: &str| -> Option<u64> { root.split_once(&format!("{name}=\""))?.1.split_once('"')?.0.parse().ok() };
    let failed = number("failures")? + number("errors")?;
    Some(Tally { passed: number("tests")?.saturating_sub(failed), failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read() {
        let xml =
            r#"<?xml version="1.0"?><testsuites name="nextest-run" tests="7" failures="1" errors="1"><testsuite/>"#;
        assert_eq!(junit_tally(xml), Some(Tally { passed: 5, failed: 2 }));
        assert_eq!(junit_tally("<testsuites name=\"x\">"), None);
    }
}
