//! `cargo xtask bench`: builds everything as a user would have it, and measures.

use crate::host;
use crate::tools::{Outcome, cargo, run, target_dir};
use std::path::Path;
use std::process::Command;

/// Statically linked, so that what is measured is the supervisor and not the dynamic linker of its service.
const STATIC_AGENT: &[&str] = &[
    "rustc",
    "--locked",
    "--release",
    "-p",
    "hale-bench",
    "--bin",
    "hale-bench-agent",
    "--",
    "-C",
    "target-feature=+crt-static",
];

/// Measures the figures with these names, or all if there are none.
pub fn measure(root: &Path, figures: &[&str]) -> Outcome {
    run(&mut cargo(root, &["build", "--locked", "--release", "-p", "hale", "-p", "hale-bench", "--bins"]))?;
    run(&mut cargo(root, STATIC_AGENT))?;
    let target = target_dir(root)?;
    let release = target.join("release");
    let mut bench = Command::new(release.join("hale-bench"));
    bench.arg(release.join("hale")).arg(release.join("hale-bench-agent")).arg(target.join("bench"));
    if (figures.is_empty() || figures.contains(&"starved"))
        && let Some(python) = host::SUPERVISOR.python(&target)
    {
        bench.env(host::SUPERVISOR.variable, python);
    }
    run(bench.args(figures))
}
