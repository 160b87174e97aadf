//! Probes of dependencies: run as those of a service are, of one that has nothing but checks.

use super::ProbeOrder;
use hale_core::ids::{Epoch, Name, ProbeId};
use hale_core::policy::{
    DependencyPolicy, LogPolicy, Ready, ResourceLimits, RestartPolicy, ServicePolicy, Signal, StartPolicy, StopPolicy,
};
use hale_core::time::Span;
use std::collections::BTreeMap;
use std::sync::Arc;

impl ProbeOrder {
    /// The order for one run of a dependency's check. What it executes runs in `/`, as the user that Hale runs as.
    #[must_use]
    pub fn of_dependency(dependency: Name, probe: ProbeId, check: usize, policy: &DependencyPolicy) -> Self {
        let policy = Arc::new(stand_in(policy));
        Self { service: dependency, epoch: Epoch(0), probe, check, policy, tree: None }
    }
}

/// A service that has these checks. It is never run: of the rest only directory, user and environment are read.
fn stand_in(policy: &DependencyPolicy) -> ServicePolicy {
    ServicePolicy {
        command: Vec::new(),
        directory: String::from("/"),
        user: None,
        environment: BTreeMap::new(),
        environment_files: Vec::new(),
        after: Vec::new(),
        open_files_limit: None,
        limits: ResourceLimits::default(),
        listen: BTreeMap::new(),
        start: StartPolicy { ready: Ready::Check, within: Span::ZERO },
        stop: StopPolicy { signal: Signal::TERM, grace: Span::ZERO },
        restart: RestartPolicy {
            first_delay: Span::ZERO,
            delay: Span::ZERO,
            max_delay: Span::ZERO,
            healthy_after: Span::ZERO,
            crash_loop: None,
            held_delay: Span::ZERO,
            on_success: true,
        },
        log: LogPolicy { max_size_bytes: 0, keep: 0, rate_bytes: 0 },
        checks: policy.checks.clone(),
    }
}
