//! What one policy changes of another: which services are new, gone, to be started anew, or only looked after otherwise.

use super::{Policy, Ready, ServicePolicy};
use crate::ids::Name;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// How many names stand in a record: whoever changes more at once finds the rest by the two policies' hashes.
pub const LISTED_MAX: usize = 32;

/// From one policy to another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// Services that are new.
    pub added: BTreeSet<Name>,
    /// Services that are gone.
    pub removed: BTreeSet<Name>,
    /// Services whose processes would be other ones.
    pub anew: BTreeSet<Name>,
    /// Services that change, and whose processes can stay.
    pub kept: BTreeSet<Name>,
    /// Dependencies that are new, gone, or have other checks.
    pub dependencies: BTreeSet<Name>,
    /// Whether `[host]` or `[system.generations]` changes.
    pub host: bool,
}

impl Change {
    /// Compares two policies.
    #[must_use]
    pub fn between(old: &Policy, new: &Policy) -> Self {
        let mut change = Self { host: old.host != new.host || old.system != new.system, ..Self::default() };
        for (name, service) in &new.services {
            let list = match old.services.get(name) {
                None => &mut change.added,
                Some(before) if before == service => continue,
                Some(before) if needs_other_process(before, service) => &mut change.anew,
                Some(_) => &mut change.kept,
            };
            list.insert(name.clone());
        }
        let is_gone = |name: &&Name| !new.services.contains_key(*name);
        change.removed = old.services.keys().filter(is_gone).cloned().collect();
        let differs = |name: &&Name| old.dependencies.get(*name) != new.dependencies.get(*name);
        change.dependencies = old.dependencies.keys().chain(new.dependencies.keys()).filter(differs).cloned().collect();
        change
    }

    /// The same for a record.
    #[must_use]
    pub fn listed(&self) -> Listed {
        Listed {
            added: Names::new(&self.added),
            removed: Names::new(&self.removed),
            anew: Names::new(&self.anew),
            kept: Names::new(&self.kept),
            dependencies: Names::new(&self.dependencies),
            host: self.host,
        }
    }
}

/// The keys of `[host]` that differ and are read when Hale starts, never later.
#[must_use]
pub fn fixed(old: &Policy, new: &Policy) -> Vec<String> {
    let (old, new) = (&old.host, &new.host);
    // Whom it is there for is read each time that it matters.
    let timer =
        |host: &super::HostPolicy| host.hardware_watchdog.as_ref().map(|timer| (timer.device.clone(), timer.timeout));
    let keys = [
        ("host.state_dir", old.state_dir != new.state_dir),
        ("host.runtime_dir", old.runtime_dir != new.runtime_dir),
        ("host.log_dir", old.log_dir != new.log_dir),
        ("host.hardware_watchdog", timer(old) != timer(new)),
        ("host.as_init", old.as_init != new.as_init),
    ];
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| String::from(key)).collect()
}

/// Whether a process that was started by `old` cannot do for `new`: what it was started with is another, or it was not told
/// what it has to say on its notify socket, or how often.
#[must_use]
pub fn needs_other_process(old: &ServicePolicy, new: &ServicePolicy) -> bool {
    let is_given = (&old.command, &old.directory, &old.user, &old.environment, &old.environment_files)
        == (&new.command, &new.directory, &new.user, &new.environment, &new.environment_files)
        && (old.open_files_limit, &old.listen) == (new.open_files_limit, &new.listen);
    let store = |policy: &ServicePolicy| policy.generations.as_ref().map(|generations| generations.store.clone());
    let is_given = is_given && store(old) == store(new);
    let is_untold = new.wants_notify() && !old.wants_notify();
    let is_slower = new.heartbeat_within().is_some_and(|new| old.heartbeat_within().is_none_or(|old| new < old));
    !is_given || is_untold || is_slower
}

/// Whether a start that has begun by `old` would never be over by `new`: what makes it ready is another.
#[must_use]
pub fn changes_readiness(old: &ServicePolicy, new: &ServicePolicy) -> bool {
    let checks = |policy: &ServicePolicy| policy.start.ready == Ready::Check && policy.checks.is_empty();
    old.start.ready != new.start.ready || checks(new)
}

/// Names, the first of them at least.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Names {
    /// How many there are.
    pub count: u32,
    /// The first [`LISTED_MAX`], in their order.
    pub first: Vec<Name>,
}

impl Names {
    fn new(all: &BTreeSet<Name>) -> Self {
        let count = u32::try_from(all.len()).unwrap_or(u32::MAX);
        Self { count, first: all.iter().take(LISTED_MAX).cloned().collect() }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.first.iter().enumerate() {
            write!(f, "{}{name}", if index == 0 { "" } else { ", " })?;
        }
        match self.count as usize - self.first.len().min(self.count as usize) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// A [`Change`] as it stands in a record.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Listed {
    /// [`Change::added`].
    pub added: Names,
    /// [`Change::removed`].
    pub removed: Names,
    /// [`Change::anew`].
    pub anew: Names,
    /// [`Change::kept`].
    pub kept: Names,
    /// [`Change::dependencies`].
    pub dependencies: Names,
    /// [`Change::host`].
    pub host: bool,
}

/// `1 added (web), 2 started anew (api, bot)`.
impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("added", &self.added),
            ("removed", &self.removed),
            ("to be started anew", &self.anew),
            ("changed while running on", &self.kept),
            ("changed among dependencies", &self.dependencies),
        ];
        let said = parts.into_iter().filter(|(_, names)| names.count > 0);
        let mut words: Vec<String> = said.map(|(what, names)| format!("{} {what} ({names})", names.count)).collect();
        if self.host {
            words.push(String::from("[host] or [system.generations] changed"));
        }
        if words.is_empty() {
            words.push(String::from("nothing that Hale acts on"));
        }
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;
    use crate::policy::{CheckKind, CheckPolicy, Mode};
    use crate::step::{a_service as service, a_world as world, checked};
    use crate::time::Span;
    use alloc::sync::Arc;
    use std::string::ToString;

    fn policy(bot: ServicePolicy) -> Policy {
        let (world, _) = world(bot);
        assert_eq!(world.birth.last_epoch, Epoch(0));
        world.birth.policy
    }

    #[test]
    fn only_what_a_process_was_started_with_asks_for_another_one() {
        let bot = Name::try_from("bot").unwrap();
        let old = policy(checked());
        let change = |change: fn(&mut ServicePolicy)| {
            let mut new = checked();
            change(&mut new);
            Change::between(&old, &policy(new))
        };
        let anew: [fn(&mut ServicePolicy); 6] = [
            |new| new.command.push(String::from("-v")),
            |new| new.directory = Some(String::from("/srv")),
            |new| new.user = Some(String::from("bot")),
            |new| _ = new.environment.insert(String::from("A"), String::from("1")),
            |new| new.open_files_limit = Some(64),
            |new| new.start.ready = Ready::Notify,
        ];
        for made in anew {
            assert!(change(made).anew.contains(&bot), "{:?}", change(made));
        }
        let kept: [fn(&mut ServicePolicy); 6] = [
            |new| new.checks[0].every = Span::from_secs(9),
            |new| new.checks.clear(),
            |new| new.stop.grace = Span::ZERO,
            |new| new.restart.on_success = false,
            |new| new.log.keep = 9,
            |new| new.limits.tasks = Some(9),
        ];
        for made in kept {
            let change = change(made);
            assert!(change.kept.contains(&bot) && change.anew.is_empty(), "{change:?}");
        }
        assert_eq!(change(|_| {}), Change::default());
    }

    #[test]
    fn a_process_that_was_promised_more_time_between_two_heartbeats_cannot_know_of_less() {
        let beats = |secs: u64| {
            let mut policy = service();
            policy.checks = alloc::vec![CheckPolicy {
                name: Name::try_from("heartbeat").unwrap(),
                kind: CheckKind::Heartbeat { within: Span::from_secs(secs) },
                every: Span::from_secs(2),
                timeout: Span::from_secs(1),
                failures: 1,
                successes: 1,
                confirm: Vec::new(),
            }];
            policy
        };
        assert!(needs_other_process(&service(), &beats(5)));
        assert!(needs_other_process(&beats(5), &beats(4)));
        assert!(!needs_other_process(&beats(4), &beats(5)) && !needs_other_process(&beats(4), &service()));
    }

    #[test]
    fn what_is_new_or_gone_is_named_and_long_lists_are_counted() {
        let old = policy(service());
        let mut new = policy(service());
        new.host.mode = Mode::Observe;
        let bot = new.services.remove(&Name::try_from("bot").unwrap()).unwrap();
        for number in 0..40 {
            new.services.insert(Name::try_from(format!("new-{number:02}").as_str()).unwrap(), Arc::clone(&bot));
        }
        let listed = Change::between(&old, &new).listed();
        assert_eq!((listed.added.count, listed.added.first.len()), (40, LISTED_MAX));
        let words = listed.to_string();
        assert!(
            words.starts_with("40 added (new-00, new-01,") && words.contains("new-31 and 8 more), 1 removed (bot), "),
            "{words}"
        );
    }

    #[test]
    fn directories_and_the_timer_are_fixed_while_hale_runs() {
        let old = policy(service());
        let mut new = policy(service());
        (new.host.mode, new.host.restarts_in_flight) = (Mode::Observe, 9);
        assert!(fixed(&old, &new).is_empty());
        new.host.log_dir.push_str("/elsewhere");
        new.host.as_init = crate::policy::AsInit::Reboot;
        assert_eq!(fixed(&old, &new), ["host.log_dir", "host.as_init"]);
    }
}
