//! What of a service has generations: what it runs, and the files that belong to it.

use core::ops::{Index, IndexMut};
use serde::{Deserialize, Serialize};

/// What of a service has generations. Each is switched by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// What it runs: a release, a profile, or what an operator's programs switch.
    Store,
    /// The files that the configuration names (`generations.files`).
    Files,
}

impl Part {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Store, Self::Files];
}

/// One of each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Parts<T> {
    /// Of [`Part::Store`].
    #[serde(default)]
    pub store: T,
    /// Of [`Part::Files`].
    #[serde(default)]
    pub files: T,
}

impl<T> Parts<T> {
    /// Both.
    pub fn each(&self) -> [&T; 2] {
        [&self.store, &self.files]
    }

    /// Both.
    pub fn each_mut(&mut self) -> [&mut T; 2] {
        [&mut self.store, &mut self.files]
    }
}

impl<T> Index<Part> for Parts<T> {
    type Output = T;

    fn index(&self, part: Part) -> &T {
        match part {
            Part::Store => &self.store,
            Part::Files => &self.files,
        }
    }
}

impl<T> IndexMut<Part> for Parts<T> {
    fn index_mut(&mut self, part: Part) -> &mut T {
        match part {
            Part::Store => &mut self.store,
            Part::Files => &mut self.files,
        }
    }
}
