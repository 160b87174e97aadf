//! Guarantees about what is down and what waits for it.

use super::{Ending, Oracle, Seen};
use hale_core::ids::Name;
use hale_core::plan::ladder::Verdict;
use hale_core::policy::Policy;
use hale_core::reason::Reason;
use hale_core::record::{Body, Record};
use hale_core::world::dependency::Standing;
use std::collections::{BTreeMap, BTreeSet};

/// What is blocked is left alone, and not for longer than it is blocked.
pub struct Blocking {
    policy: Policy,
    down: BTreeSet<Name>,
    /// Services with a process that are said to be blocked, and by what.
    blocked: BTreeMap<Name, Name>,
}

impl Blocking {
    /// For these services.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        Self { policy: policy.clone(), down: BTreeSet::new(), blocked: BTreeMap::new() }
    }

    fn record(&mut self, name: &Name, body: &Body) -> Result<(), String> {
        match body {
            Body::RunsBlocked { on, .. } => {
                self.blocked.insert(name.clone(), on.clone());
            }
            Body::Unblocked { .. }
            | Body::SpawnIntended { .. }
            | Body::SpawnFailed { .. }
            | Body::Adopted { .. }
            | Body::Exited { .. }
            | Body::StopIntended { .. }
            | Body::KillIntended { .. } => {
                self.blocked.remove(name);
            }
            _ => {}
        }
        let after = &self.policy.services[name].after;
        let Some(on) = after.iter().find(|on| self.down.contains(*on)) else { return Ok(()) };
        let wrong = match body {
            Body::SpawnIntended { .. } => "is started",
            Body::StopIntended { why: Reason::MustGo, .. } | Body::KillIntended { why: Reason::MustGo, .. } => {
                "is ended for a failure"
            }
            Body::Detected { blocked: None, finding, .. } if !is_unkillable(finding) => "has a failure that counts",
            Body::Decided(decision) => match &decision.choice.verdict {
                Verdict::Restart { .. } | Verdict::TakeBack { .. } | Verdict::PutBack { .. } | Verdict::Hold { .. } => {
                    "is to be restarted"
                }
                Verdict::Observe | Verdict::Wait => return Ok(()),
            },
            Body::Unblocked { on: freed } if freed == on => "is no longer blocked",
            _ => return Ok(()),
        };
        Err(format!("{name} {wrong}, and {on} is down"))
    }
}

fn is_unkillable(finding: &hale_core::record::Finding) -> bool {
    matches!(finding, hale_core::record::Finding::Unkillable { .. })
}

impl Oracle for Blocking {
    fn name(&self) -> &'static str {
        "blocking"
    }

    fn guarantee(&self) -> &'static str {
        "while a dependency is down, what starts after it is neither started nor restarted, nor is a failure of it counted"
    }

    fn rewind(&mut self, kept: &[Record]) {
        *self = super::replay(Self::new(&self.policy), kept);
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        if let Seen::Policy(policy) = seen {
            super::merge(&mut self.policy, policy);
        }
        let Seen::Record(record) = seen else { return Ok(()) };
        if let Body::Dependency { name, edge } = &record.body {
            match edge.standing() {
                Standing::Down => self.down.insert(name.clone()),
                Standing::Up | Standing::Unknown => self.down.remove(name),
            };
        }
        record.service.as_ref().map_or(Ok(()), |name| self.record(name, &record.body))
    }

    fn end(&mut self, ending: &Ending) -> Result<(), String> {
        let is_dependency = |(_, on): &(&Name, &Name)| self.policy.dependencies.contains_key(*on);
        match self.blocked.iter().find(is_dependency) {
            Some((name, on)) if ending.at_rest => Err(format!("{name} is blocked by {on}, and all is at rest")),
            Some(_) | None => Ok(()),
        }
    }
}
