//! What the core knows of a dependency: something outside that Hale does not run, and looks at by checks alone.

use crate::analyze::checks::{CheckState, Probing};
use crate::event::ProbeFailure;
use crate::ids::Name;
use crate::policy::DependencyPolicy;
use crate::time::Monotonic;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Whether a dependency is there. Services wait for one of which that is not known yet, and are not blocked by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// No check of it has come to a result.
    #[default]
    Unknown,
    /// All of its checks passed, and none has failed often enough since.
    Up,
    /// A check failed as often as it may, and not all have passed since.
    Down,
}

impl Standing {
    /// Its name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// What changed about a dependency: the records that are written of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum DependencyEdge {
    /// All of its checks pass.
    Up,
    /// A check reached its `failures`.
    Down {
        /// Which check.
        check: Name,
        /// In a row.
        failures: u32,
        /// How the last probe failed.
        failure: ProbeFailure,
        /// In words.
        detail: String,
    },
}

impl DependencyEdge {
    /// What it is from there on.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self {
            Self::Up => Standing::Up,
            Self::Down { .. } => Standing::Down,
        }
    }
}

/// The part that records alone change, and that a snapshot keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) standing: Standing,
    /// Since when.
    pub(crate) since: Monotonic,
}

/// One dependency.
#[derive(Debug, Clone)]
pub(crate) struct Dependency {
    pub(crate) policy: Arc<DependencyPolicy>,
    pub(crate) known: Known,
    /// Sensed: one for each check.
    pub(crate) checks: Vec<(CheckState, Probing)>,
    /// Sensed: when each check was last probed to an end, whatever that was.
    pub(crate) answered: Vec<Option<Monotonic>>,
    /// When each of its checks passed the time before last, and has not failed since.
    pub(crate) passed_before: Vec<Option<Monotonic>>,
    /// When any of them failed last.
    pub(crate) failed_at: Option<Monotonic>,
}

impl Dependency {
    /// One that was never looked at.
    pub(crate) fn new(policy: Arc<DependencyPolicy>) -> Self {
        let checks = policy.checks.iter().map(|_| (CheckState::Unknown, Probing::default())).collect();
        let answered: Vec<_> = policy.checks.iter().map(|_| None).collect();
        Self { policy, known: Known::default(), checks, passed_before: answered.clone(), answered, failed_at: None }
    }

    /// Begins to look at it, or begins anew.
    pub(crate) fn begin(&mut self, now: Monotonic) {
        for (check, (_, probing)) in self.policy.checks.iter().zip(&mut self.checks) {
            probing.begin(check, now);
        }
    }

    /// Has those checks probed by `at` whose next probe would come later.
    pub(crate) fn hasten(&mut self, at: Monotonic) {
        for (_, probing) in &mut self.checks {
            probing.due = probing.due.map(|due| due.min(at));
        }
    }

    /// Whether all checks were probed since, and none stands between passing and failing.
    pub(crate) fn is_clear_since(&self, since: Monotonic) -> bool {
        let undecided = |(state, check): (&CheckState, &crate::policy::CheckPolicy)| match state {
            CheckState::Failing { failures } => *failures < check.failures,
            CheckState::Unknown | CheckState::Passing => false,
        };
        self.answered.iter().all(|answered| answered.is_some_and(|at| at >= since))
            && !self.checks.iter().map(|(state, _)| state).zip(&self.policy.checks).any(undecided)
    }

    /// Whether all checks have passed twice since `begun`, and none has failed since `well`.
    pub(crate) fn was_there_since(&self, begun: Monotonic, well: Monotonic) -> bool {
        self.failed_at.is_none_or(|at| at < well)
            && self.passed_before.iter().all(|passed| passed.is_some_and(|at| at >= begun))
    }

    /// What a record says of it.
    pub(crate) fn apply(&mut self, now: Monotonic, edge: &DependencyEdge) {
        self.known = Known { standing: edge.standing(), since: now };
    }

    /// When a probe is due, or a probe's result counts as lost.
    pub(crate) fn deadline(&self) -> Option<Monotonic> {
        let times = self.checks.iter().map(|(_, probing)| match probing.in_flight {
            Some((_, lost_at)) => Some(lost_at),
            None => probing.due,
        });
        times.flatten().min()
    }

    /// Whether all of its checks pass.
    pub(crate) fn all_pass(&self) -> bool {
        self.checks.iter().all(|(state, _)| *state == CheckState::Passing)
    }
}
