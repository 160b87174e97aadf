//! `cargo xtask bench`: builds everything as a user would have it, and measures.

use crate::tools::{Outcome, cargo, run, target_dir};
use std::path::Path;
use std::process::Command;

/// Measures the figures with these names, or all if there are none.
pub fn measure(root: &Path, figures: &[&str]) -> Outcome {
    run(&mut cargo(root, &["build", "--locked", "--release", "-p", "hale", "-p", "hale-bench"]))?;
    let target = target_dir(root)?;
    let release = target.join("release");
    let mut bench = Command::new(release.join("hale-bench"));
    bench.arg(release.join("hale")).arg(release.join("hale-bench-agent")).arg(target.join("bench"));
    run(bench.args(figures))
}
