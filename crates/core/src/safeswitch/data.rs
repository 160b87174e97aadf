//! What a generation says of its service's data: nothing runs on data that is too new for it.

use crate::ids::GenerationId;
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// What stands in a generation's `hale-release.toml`; without one, all of it is 0 or absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Data {
    /// The newest format of the service's data that it can read, and the one that it leaves behind.
    #[serde(default)]
    pub format: u32,
    /// The oldest `format` of a generation that can still read the data once this one has run; at most `format`.
    #[serde(default)]
    pub min_rollback: u32,
    /// Whether it brings `after_rollback`, which undoes what it did to the data.
    #[serde(default)]
    pub undoes: bool,
    /// What its `before_switch` has printed last: what names the copy that it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
}

/// What is remembered of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Format {
    /// See [`Data::format`].
    pub format: u32,
    /// See [`Data::min_rollback`].
    #[serde(default)]
    pub min_rollback: u32,
}

/// What a generation did to the data, and its `after_rollback` undoes as long as it has not proved itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undoable {
    /// Which generation.
    pub of: GenerationId,
    /// See [`Data::snapshot`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The oldest format of data that could be switched to before it.
    #[serde(default)]
    pub data_at_least: u32,
}

impl Data {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        *self == Self::default()
    }
}
