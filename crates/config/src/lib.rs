//! `hale.toml`: raw, merged, validated into the policy of `hale-core`.
//!
//! Pure: it is given names and texts of files, and reads none itself. Three steps, one module each:
//! `document` (raw to merged: one tree in which everything knows its place), `validate` (merged to policy),
//! and `keys`, the table of all keys with meaning, range and default that reading, [`schema()`] and the hints
//! for typos share. All mistakes are collected and told at once.
#![forbid(unsafe_code)]

mod checks;
mod dependencies;
mod diagnostic;
mod document;
mod fields;
mod generations;
mod hash;
mod keys;
mod kinds;
mod listen;
mod measured;
mod order;
mod release;
mod schema;
mod text;
mod tree_checks;
mod units;
mod validate;

pub use diagnostic::{Diagnostic, Severity, Source};
pub use release::{RELEASE_FILE, ReleaseFile, release_file};
pub use schema::schema;

use diagnostic::Report;
use hale_core::policy::{Policy, PolicyHash};
use hale_core::time::Span;

/// What `[host]` is where the file does not say it: it depends on who runs Hale, which only the caller knows.
///
/// All three are absolute paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDefaults {
    /// `/var/lib/hale` for root.
    pub state_dir: String,
    /// `/run/hale` for root.
    pub runtime_dir: String,
    /// `/var/log/hale` for root; used only when the file sets neither `log_dir` nor `state_dir`.
    pub log_dir: String,
}

/// A configuration that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validated {
    /// What the core works by.
    pub policy: Policy,
    /// Its hash.
    pub hash: PolicyHash,
    /// What is allowed, but probably not what was meant.
    pub warnings: Vec<Diagnostic>,
}

/// Reads a duration as `hale.toml` has it, e.g. `90m` or `1h 30m`, for other places where people write one.
///
/// # Errors
///
/// What is wrong with `text`, and what to write instead.
pub fn parse_duration(text: &str) -> Result<Span, String> {
    units::duration(text).map_err(|mistake| match mistake.help {
        Some(help) => format!("{}; {help}", mistake.problem),
        None => mistake.problem,
    })
}

/// The directories of a configuration that may be wrong elsewhere: where a Hale that runs by an earlier one is. `None`: the
/// syntax is broken, or `[host]` is wrong, and it cannot be told.
#[must_use]
pub fn directories(files: &[Source], defaults: &HostDefaults, base_dir: &str) -> Option<HostDefaults> {
    let root = document::read(files, &mut Report::new(files))?;
    validate::directories(&root, defaults, base_dir, files)
}

/// Reads the texts of `hale.toml` and of its further files, in this order, as one configuration.
///
/// `base_dir` is the absolute path of the directory of the first one: relative paths are taken from it.
///
/// # Errors
///
/// Every mistake of all files, in their order, with the warnings among them.
pub fn parse(files: &[Source], defaults: &HostDefaults, base_dir: &str) -> Result<Validated, Vec<Diagnostic>> {
    let mut report = Report::new(files);
    // With broken syntax half of a file may be missing: what follows from that is no mistake of its own.
    let Some(root) = document::read(files, &mut report) else { return Err(report.finish()) };
    let Some(policy) = validate::policy(&root, defaults, base_dir, &mut report) else {
        return Err(report.finish());
    };
    let hash = hash::policy_hash(&policy).expect("a policy has text keys only, and no float: it has a JSON form");
    Ok(Validated { policy, hash, warnings: report.finish() })
}
