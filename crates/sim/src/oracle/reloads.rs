//! Guarantees about reloads: what another policy asks for is done, once, and nothing else is.

use super::{Ending, Oracle, Seen};
use hale_core::effect::{Fence, Order};
use hale_core::ids::Name;
use hale_core::policy::{Mode, Policy};
use hale_core::reason::Reason;
use hale_core::record::{Body, Record};
use std::collections::{BTreeMap, BTreeSet};

/// A reload touches what it changes.
pub struct Reloads {
    policy: Policy,
    /// The command of each living process.
    runs: BTreeMap<Name, Vec<String>>,
    /// Blocked or only watched, and so left as they are.
    left: BTreeSet<Name>,
    /// Those that came back before they were gone.
    back: BTreeSet<Name>,
    ending: bool,
}

impl Reloads {
    /// Begins with this policy.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        let (left, back) = (BTreeSet::new(), BTreeSet::new());
        Self { policy: policy.clone(), runs: BTreeMap::new(), left, back, ending: false }
    }

    fn command(&self, name: &Name) -> Option<&Vec<String>> {
        self.policy.services.get(name).map(|service| &service.command)
    }

    fn record(&mut self, name: &Name, record: &Record) -> Result<(), String> {
        match &record.body {
            Body::SpawnIntended { .. } => {
                self.left.remove(name);
                self.back.remove(name);
                let Some(command) = self.command(name) else {
                    return Err(format!("{name} is started, and is not in the policy"));
                };
                self.runs.insert(name.clone(), command.clone());
                Ok(())
            }
            Body::StopIntended { why: Reason::Reloaded, .. } | Body::KillIntended { why: Reason::Reloaded, .. } => {
                let same = self.command(name) == self.runs.get(name);
                if same && !self.back.contains(name) {
                    return Err(format!("{name} is started anew, and nothing of its process was changed"));
                }
                Ok(())
            }
            Body::StopIntended { why: Reason::Removed, .. } | Body::KillIntended { why: Reason::Removed, .. }
                if self.policy.services.contains_key(name) =>
            {
                Err(format!("{name} is ended as removed, and is in the policy"))
            }
            Body::Forgotten if self.policy.services.contains_key(name) => {
                Err(format!("{name} is forgotten, and is in the policy"))
            }
            Body::RunsBlocked { .. } | Body::Violated { .. } => {
                self.left.insert(name.clone());
                Ok(())
            }
            Body::Unblocked { .. } => {
                self.left.remove(name);
                Ok(())
            }
            Body::Exited { tree_empty: true, .. } | Body::TreeGone { .. } | Body::SpawnFailed { .. } => {
                self.runs.remove(name);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Oracle for Reloads {
    fn name(&self) -> &'static str {
        "reloads"
    }

    fn guarantee(&self) -> &'static str {
        "a reload starts only those anew whose processes it changes, starts what is new, ends what is gone, and forgets nothing"
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Record(record) => {
                self.ending |= matches!(record.body, Body::Ending { .. });
                record.service.as_ref().map_or(Ok(()), |name| self.record(name, record))
            }
            Seen::Policy(policy) => {
                let was = std::mem::replace(&mut self.policy, policy.clone());
                let is_back = |name: &&Name| !was.services.contains_key(*name);
                self.back.extend(policy.services.keys().filter(is_back).cloned());
                Ok(())
            }
            Seen::Effect(effect) => match (&effect.fence, &effect.order) {
                // Made by the policy of the record that leads to it, which was perhaps written in the same step.
                (Fence::Service { service, .. }, Order::Spawn { policy, .. })
                    if self.command(service) != Some(&policy.command)
                        && self.runs.get(service) != Some(&policy.command) =>
                {
                    Err(format!("{service} is made by a policy that is not in force"))
                }
                _ => Ok(()),
            },
            Seen::Event(_) | Seen::Fact(_) => Ok(()),
        }
    }

    fn end(&mut self, ending: &Ending) -> Result<(), String> {
        if self.ending || !ending.at_rest || self.policy.host.mode == Mode::Observe {
            return Ok(());
        }
        let is_old = |(name, command): &(&Name, &Vec<String>)| {
            !self.left.contains(*name) && self.command(name) != Some(*command)
        };
        match self.runs.iter().find(is_old) {
            Some((name, _)) => Err(format!("{name} runs by a policy that is not in force, and all is at rest")),
            None => Ok(()),
        }
    }
}
