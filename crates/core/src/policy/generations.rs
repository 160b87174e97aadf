//! `[service.NAME.generations]`: where the versions of a service are kept, and what a change has to show.

use crate::safeswitch::Part;
use crate::time::Span;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Upper bound of `keep`: each is a whole tree on the disk, and a hundred changes back nobody looks for the one that broke it.
pub const KEEP_MAX: u32 = 100;

/// Upper bound of `rollbacks_per_day`: one an hour is a service that people must look at.
pub const ROLLBACKS_PER_DAY_MAX: u32 = 24;

/// Upper bound of `files`: each is watched and read at every change; a tree of configuration is better a part of the release.
pub const FILES_MAX: usize = 64;

/// `[service.NAME.generations]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationsPolicy {
    /// Where they are kept.
    pub store: StoreKind,
    /// How long all checks must hold before a change counts as good; more than zero.
    pub probation: Span,
    /// How long it must be healthy from then on to count as proven; at least `probation`.
    pub soak: Span,
    /// How many are kept beside those that are needed: 1 to [`KEEP_MAX`].
    pub keep: u32,
    /// A change older than this is not blamed; more than zero.
    pub recent: Span,
    /// How many changes the ladder may take back within 24 hours: 1 to [`ROLLBACKS_PER_DAY_MAX`]. Those of a change on
    /// probation do not count.
    pub rollbacks_per_day: u32,
    /// Whether one may be taken back.
    pub rollback: Rollback,
    /// Absolute paths of the files that belong to a generation; at most [`FILES_MAX`], each once.
    pub files: Vec<String>,
}

impl GenerationsPolicy {
    /// Whether this part has generations.
    #[must_use]
    pub fn has(&self, part: Part) -> bool {
        match part {
            Part::Store => true,
            Part::Files => !self.files.is_empty(),
        }
    }
}

/// Where generations are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "store", rename_all = "kebab-case")]
pub enum StoreKind {
    /// In Hale's own store.
    Release,
    /// In a profile of Nix.
    NixProfile {
        /// The profile's link, absolute.
        profile: String,
    },
    /// Wherever these programs keep them. Each is a program with its arguments, at least one word, the first one absolute;
    /// `stage`, `activate` and `revert` get the generation as one more argument.
    Command {
        /// Prints the generations, one a line, newest first.
        list: Vec<String>,
        /// Prints the one that is active, or nothing.
        current: Vec<String>,
        /// Makes one ready to be activated, and changes nothing.
        stage: Vec<String>,
        /// Switches to one.
        activate: Vec<String>,
        /// Switches back to one that was active before.
        revert: Vec<String>,
    },
}

impl StoreKind {
    /// Its name in the configuration.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::NixProfile { .. } => "nix-profile",
            Self::Command { .. } => "command",
        }
    }
}

/// Whether a change may be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rollback {
    /// By Hale itself.
    #[default]
    Auto,
    /// By an operator's order only.
    Ask,
    /// By nobody: data has moved forward.
    Never,
}
