//! Guarantees about planned restarts: only what leaks is started anew, and only while nothing is wrong with it.

use super::{Oracle, Seen};
use crate::kernel::Fact;
use hale_core::ids::{Epoch, Name};
use hale_core::plan::before_limit::Verdict;
use hale_core::policy::{Mode, Policy};
use hale_core::record::{Body, Record};
use std::collections::{BTreeMap, BTreeSet};

/// Who may be started anew while it works.
pub struct OnlyLeaks {
    policy: Policy,
    leaks: BTreeMap<Name, Epoch>,
    healthy: BTreeMap<Name, Epoch>,
    paused: BTreeSet<Name>,
}

impl OnlyLeaks {
    /// For these services.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        Self { policy: policy.clone(), leaks: BTreeMap::new(), healthy: BTreeMap::new(), paused: BTreeSet::new() }
    }

    fn record(&mut self, record: &Record) -> Result<(), String> {
        let Some(name) = &record.service else { return Ok(()) };
        match &record.body {
            Body::BecameHealthy { epoch } => drop(self.healthy.insert(name.clone(), *epoch)),
            Body::Detected { .. } | Body::CheckFailed { .. } | Body::SpawnIntended { .. } => {
                self.healthy.remove(name);
            }
            Body::Paused { .. } => drop(self.paused.insert(name.clone())),
            Body::Resumed { .. } | Body::Forgotten => drop(self.paused.remove(name)),
            Body::RestartPlanned(decision) => {
                let healthy = self.healthy.get(name);
                if healthy.is_none() || healthy != self.leaks.get(name) {
                    return Err(format!("{name} is to be started anew, and does not leak or is not healthy"));
                }
                if self.paused.contains(name) {
                    return Err(format!("{name} is to be started anew while it is paused"));
                }
                let before = self.policy.services.get(name).and_then(|service| service.restart.before_limit);
                if before.is_none_or(|before| decision.reaches.after > before) {
                    return Err(format!("{name} is to be started anew earlier than the operator wants"));
                }
                if decision.verdict == Verdict::Restart && self.policy.host.mode == Mode::Observe {
                    return Err(format!("{name} is started anew, where Hale only observes"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Oracle for OnlyLeaks {
    fn name(&self) -> &'static str {
        "only-leaks-are-planned"
    }

    fn guarantee(&self) -> &'static str {
        "a service that works is started anew only while its memory grows, and no earlier than the operator wants"
    }

    fn rewind(&mut self, kept: &[Record]) {
        let leaks = std::mem::take(&mut self.leaks);
        *self = super::replay(Self { leaks, ..Self::new(&self.policy) }, kept);
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Record(record) => self.record(record),
            Seen::Policy(policy) => {
                super::merge(&mut self.policy, policy);
                Ok(())
            }
            Seen::Fact(Fact::Leaks { service, epoch }) => {
                self.leaks.insert(service.clone(), *epoch);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
