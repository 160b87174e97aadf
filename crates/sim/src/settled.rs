//! Which services have come to rest, by what the records say.

use hale_core::ids::Name;
use hale_core::policy::Policy;
use hale_core::record::{Body, Record};
use hale_core::world::dependency::Standing;
use std::collections::{BTreeMap, BTreeSet};

/// Where a service stands, as far as rest is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stand {
    Moving(&'static str),
    Healthy,
    Stopped,
    Blocked(Name),
}

/// All services.
#[derive(Debug)]
pub struct Settled {
    /// Dependencies that are not known to be up.
    absent: BTreeSet<Name>,
    /// Those that have a process and are left alone because of what they start after.
    blocked: BTreeMap<Name, Name>,
    /// Checks that were added or changed and do not count yet, of which the operator is told.
    unproven: BTreeMap<Name, BTreeSet<Name>>,
    stands: BTreeMap<Name, Stand>,
}

impl Settled {
    /// Nothing was started yet.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        Self {
            absent: policy.dependencies.keys().cloned().collect(),
            blocked: BTreeMap::new(),
            unproven: BTreeMap::new(),
            stands: policy.services.keys().map(|name| (name.clone(), Stand::Moving("down"))).collect(),
        }
    }

    /// Takes one record.
    pub fn follow(&mut self, record: &Record) {
        if let Body::Dependency { name, edge } = &record.body {
            match edge.standing() {
                Standing::Up => self.absent.remove(name),
                Standing::Down | Standing::Unknown => self.absent.insert(name.clone()),
            };
        }
        let Some(name) = record.service.clone() else { return };
        let Some(stand) = self.stands.get_mut(&name) else { return };
        match &record.body {
            Body::RunsBlocked { on, .. } => drop(self.blocked.insert(name.clone(), on.clone())),
            Body::Unblocked { .. }
            | Body::SpawnIntended { .. }
            | Body::SpawnFailed { .. }
            | Body::Adopted { .. }
            | Body::Exited { .. }
            | Body::StopIntended { .. }
            | Body::KillIntended { .. } => drop(self.blocked.remove(&name)),
            _ => {}
        }
        match &record.body {
            Body::CheckUnproven { check, .. } => {
                self.unproven.entry(name.clone()).or_default().insert(check.clone());
                *stand = Stand::Moving("check_unproven");
            }
            Body::CheckPassed { check, .. } => {
                self.unproven.get_mut(&name).map(|checks| checks.remove(check));
            }
            Body::SpawnIntended { .. } | Body::Exited { .. } => drop(self.unproven.remove(&name)),
            _ => {}
        }
        *stand = match &record.body {
            Body::BecameHealthy { .. } => Stand::Healthy,
            Body::Stopped { .. } => Stand::Stopped,
            Body::Blocked { on } => Stand::Blocked(on.clone()),
            Body::SpawnIntended { .. }
            | Body::Adopted { .. }
            | Body::SpawnFailed { .. }
            | Body::CheckFailed { .. }
            | Body::Detected { .. }
            | Body::Exited { .. }
            | Body::StopIntended { .. }
            | Body::KillIntended { .. }
            | Body::BackingOff { .. }
            | Body::Held { .. } => Stand::Moving(crate::coverage::body_name(&record.body)),
            _ => return,
        };
    }

    /// Those that are not at rest, in words. Healthy is who is said to be and really `works`; a service that an
    /// operator stopped or that finished is at rest, and so is one that waits for such a one.
    #[must_use]
    pub fn missing(&self, works: impl Fn(&Name) -> bool) -> Vec<String> {
        let mut missing: Vec<String> = self.absent.iter().map(|name| format!("{name} is not said to be up")).collect();
        for (name, stand) in &self.stands {
            match stand {
                Stand::Moving(_) if self.unproven.get(name).is_some_and(|checks| !checks.is_empty()) => {}
                Stand::Moving(_) if self.blocked.get(name).is_some_and(|on| self.rests(on)) => {}
                Stand::Moving(after) => missing.push(format!("{name} is not healthy after {after}")),
                Stand::Healthy if !works(name) => missing.push(format!("{name} is called healthy and does not work")),
                Stand::Blocked(on) if !self.rests(on) => missing.push(format!("{name} waits for {on}, which is up")),
                Stand::Healthy | Stand::Blocked(_) | Stand::Stopped => {}
            }
        }
        missing
    }

    /// Whether a service will never be up without an order.
    fn rests(&self, name: &Name) -> bool {
        match self.stands.get(name) {
            Some(Stand::Stopped) => true,
            Some(Stand::Blocked(on)) => self.rests(on),
            Some(Stand::Moving(_)) => {
                let is_unproven = self.unproven.get(name).is_some_and(|checks| !checks.is_empty());
                is_unproven || self.blocked.get(name).is_some_and(|on| self.rests(on))
            }
            Some(Stand::Healthy) | None => false,
        }
    }
}
