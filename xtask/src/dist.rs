//! `cargo xtask dist`: the one file that runs on any Linux of this architecture, statically linked with musl.

use crate::tools::{Outcome, cargo, run, target_dir};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is built for.
pub const TARGET: &str = "x86_64-unknown-linux-musl";

/// Has rustup install the target, if it is not there.
pub fn add_target() -> Outcome {
    run(Command::new("rustup").args(["target", "add", TARGET]))
}

/// Builds `hale` and gives the path of the file. It takes rustup's target and musl's C compiler (for SQLite).
pub fn build(root: &Path) -> Outcome<PathBuf> {
    add_target()?;
    run(&mut cargo(root, &["build", "--locked", "--release", "-p", "hale", "--target", TARGET]))?;
    Ok(target_dir(root)?.join(TARGET).join("release/hale"))
}
