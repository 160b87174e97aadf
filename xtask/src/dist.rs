//! `cargo xtask dist`: the one file that runs on any Linux of this architecture, statically linked with musl.

use crate::tools::{Outcome, cargo, run, target_dir};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is built for.
pub const TARGET: &str = "x86_64-unknown-linux-musl";

/// Builds `hale` and gives the path of the file. It takes rustup's target and musl's C compiler (for SQLite).
pub fn build(root: &Path) -> Outcome<PathBuf> {
    run(Command::new("rustup").args(["target", "add", TARGET]).current_dir(root))?;
    run(&mut cargo(root, &["build", "--locked", "--release", "-p", "hale", "--target", TARGET]))?;
    Ok(target_dir(root)?.join(TARGET).join("release/hale"))
}
