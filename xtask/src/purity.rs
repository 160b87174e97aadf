//! The core is pure: it builds for a machine without an operating system, and its dependencies are a short list.

use crate::report::{LeftOut, Report};
use crate::tools::{Outcome, cargo, output_of, run};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// A target without a standard library: a crate of the graph that needs one does not build for it.
const BARE_TARGET: &str = "x86_64-unknown-none";

/// All crates that the core may have below it; the last five are the compiler's own tools of the derives.
const ALLOWED: &[&str] = &[
    "hale-core",
    "serde",
    "serde_core",
    "thiserror",
    "serde_derive",
    "thiserror-impl",
    "proc-macro2",
    "quote",
    "syn",
    "unicode-ident",
];

/// The derives and what they need run in the compiler, so a standard library under them does no harm.
const COMPILER_SIDE: &[&str] = &["serde_derive", "thiserror-impl", "proc-macro2", "quote", "syn", "unicode-ident"];

/// Builds the core for [`BARE_TARGET`] where rustup has it or can get it, and checks the list in any case.
pub fn check(root: &Path, report: &mut Report) -> Outcome {
    let tree = output_of(&mut cargo(
        root,
        &["tree", "--locked", "-p", "hale-core", "-e", "normal", "--prefix", "none", "--format", "{p};{f}"],
    ))?;
    let findings = tree_findings(&tree);
    if !findings.is_empty() {
        return Err(Vec::from_iter(findings).join("\n"));
    }
    if has_bare_target(root) {
        run(&mut cargo(root, &["build", "--locked", "-p", "hale-core", "--target", BARE_TARGET]))
    } else {
        report.leave_out(LeftOut {
            what: format!("building the core for {BARE_TARGET}"),
            count: 1,
            why: "this toolchain has no such target and rustup cannot get it; the list of its dependencies was checked"
                .to_owned(),
        });
        Ok(())
    }
}

fn has_bare_target(root: &Path) -> bool {
    run(Command::new("rustup").args(["target", "add", BARE_TARGET]).current_dir(root)).is_ok()
}

/// `tree` holds a crate a line: `name vVERSION (notes);feature,feature`.
fn tree_findings(tree: &str) -> BTreeSet<String> {
    tree.lines()
        .filter_map(|line| {
            let (package, features) = line.split_once(';')?;
            let name = package.split(' ').next()?;
            let has_std = features.split([',', ' ']).any(|feature| feature == "std");
            if !ALLOWED.contains(&name) {
                Some(format!("hale-core must not have {name} below it: xtask/src/purity.rs lists what it may have"))
            } else if has_std && !COMPILER_SIDE.contains(&name) {
                Some(format!("hale-core uses {name} with its feature `std`"))
            } else {
                None
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strange_crate_and_a_std_feature_are_found() {
        let pure = "hale-core v0.1.0 (/x);\nserde v1.0.1;alloc,derive\nsyn v3.0.0;default,std\nserde v1.0.1;alloc (*)";
        assert_eq!(tree_findings(pure), BTreeSet::new());
        assert_eq!(tree_findings("libc v0.2.1;\nserde v1.0.1;alloc,std (*)").len(), 2);
    }
}
