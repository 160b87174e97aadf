//! The policy in force, kept beside the journal: a new supervisor runs that one, whatever has become of `hale.toml`.
//!
//! A reload is in force when the journal has its record, and the journal may have records of both sides of it. So the other
//! policy is kept beside the first one before the record is written, and takes its place once a snapshot has taken the place
//! of the records: at each moment what the journal begins with is in one of the two files, and what it ends with too.

use crate::protocol::{MAX_SERVICES, Slot};
use hale_core::ids::Name;
use hale_core::policy::{Policy, PolicyHash};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Its name below `runtime_dir`.
pub const NAME: &str = "policy.json";

/// The name of the one that a reload puts in force.
pub const NEXT: &str = "policy.next.json";

/// A policy and its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// The guardian under which it is in force.
    pub guardian: String,
    /// As it stands in records.
    pub hash: PolicyHash,
    /// The policy.
    pub policy: Policy,
    /// The guardian's place of each service, also of those that are gone: a name keeps its place as long as the guardian
    /// lives, so that no output is ever taken for another service's.
    #[serde(default)]
    pub slots: BTreeMap<Name, u32>,
}

impl InForce {
    /// A policy whose services get the places that those of their names had before, or new ones.
    ///
    /// # Errors
    /// There are not enough of them.
    pub fn new(
        guardian: &str,
        hash: PolicyHash,
        policy: Policy,
        mut slots: BTreeMap<Name, u32>,
    ) -> Result<Self, TooManyServices> {
        let mut next = slots.values().max().map_or(0, |last| last + 1);
        for name in policy.services.keys() {
            if !slots.contains_key(name) {
                slots.insert(name.clone(), next);
                next += 1;
            }
        }
        if next > MAX_SERVICES {
            return Err(TooManyServices { services: policy.services.len() });
        }
        Ok(Self { guardian: guardian.to_owned(), hash, policy, slots })
    }

    /// Whether each of its services has one.
    #[must_use]
    pub fn has_all_places(&self) -> bool {
        self.policy.services.keys().all(|name| self.slots.contains_key(name))
    }

    /// The place of a service.
    #[must_use]
    pub fn slot(&self, name: &Name) -> Option<Slot> {
        self.slots.get(name).copied().map(Slot)
    }
}

/// More services than the guardian has places for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{services} services are configured, and of all that were ever configured since Hale started at most {MAX_SERVICES} are \
     possible; for other names start Hale anew"
)]
pub struct TooManyServices {
    services: usize,
}

/// Keeps the policy, in one step: a reader finds this one or the one before. Never synced, as it is of this boot only.
///
/// # Errors
/// The tmpfs is full or cannot be written.
pub fn write(runtime_dir: &Path, in_force: &InForce) -> io::Result<()> {
    write_as(NAME, runtime_dir, in_force)
}

/// The same for the policy that a reload is about to put in force.
///
/// # Errors
/// As [`write()`].
pub fn write_next(runtime_dir: &Path, in_force: &InForce) -> io::Result<()> {
    write_as(NEXT, runtime_dir, in_force)
}

/// Puts the next one in the place of the first: to be called when the journal begins with it.
///
/// # Errors
/// As [`write()`].
pub fn settle(runtime_dir: &Path) -> io::Result<()> {
    fs::rename(runtime_dir.join(NEXT), runtime_dir.join(NAME))
}

fn write_as(name: &str, runtime_dir: &Path, in_force: &InForce) -> io::Result<()> {
    let (path, beside) = (runtime_dir.join(name), runtime_dir.join(format!("{name}.new")));
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // It may contain secrets of the services' environment.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(&serde_json::to_vec(in_force)?)?;
    fs::rename(beside, path)
}

/// The policy that was kept under this guardian; `None` when there is none that can be read.
#[must_use]
pub fn read(runtime_dir: &Path, guardian: &str) -> Option<InForce> {
    read_as(NAME, runtime_dir, guardian)
}

/// The same for the one that a reload was about to put in force, or has put.
#[must_use]
pub fn read_next(runtime_dir: &Path, guardian: &str) -> Option<InForce> {
    read_as(NEXT, runtime_dir, guardian)
}

fn read_as(name: &str, runtime_dir: &Path, guardian: &str) -> Option<InForce> {
    let found: InForce = serde_json::from_slice(&fs::read(runtime_dir.join(name)).ok()?).ok()?;
    Some(found).filter(|found| found.guardian == guardian)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_policy_is_read_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), "g"), None);
        let source = hale_config::Source {
            name: "hale.toml".into(),
            text: "[service.bot]\ncommand = [\"/bin/bot\"]\n[[service.bot.check]]\nkind = \"tcp\"\naddress = \"127.0.0.1:1\"\n"
                .into(),
        };
        let defaults =
            hale_config::HostDefaults { state_dir: "/s".into(), runtime_dir: "/r".into(), log_dir: "/l".into() };
        let validated = hale_config::parse(&[source], &defaults, "/").unwrap();
        let in_force = InForce::new("g", validated.hash, validated.policy, BTreeMap::new()).unwrap();
        write(dir.path(), &in_force).unwrap();
        write(dir.path(), &in_force).unwrap();
        assert_eq!(read(dir.path(), "another"), None, "it is of an earlier Hale");
        assert_eq!(read(dir.path(), "g"), Some(in_force));
        let mode = fs::metadata(dir.path().join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(read_next(dir.path(), "g"), None);
        let next = InForce { hash: PolicyHash("next".into()), ..read(dir.path(), "g").unwrap() };
        write_next(dir.path(), &next).unwrap();
        assert_ne!(read(dir.path(), "g").as_ref(), Some(&next));
        settle(dir.path()).unwrap();
        assert_eq!((read(dir.path(), "g"), read_next(dir.path(), "g")), (Some(next), None));
    }

    #[test]
    fn a_name_keeps_its_place_and_no_other_gets_it() {
        let policy = |names: &[&str]| {
            let service = |name: &&str| format!("[service.{name}]\ncommand = [\"/bin/bot\"]\n");
            let text = names.iter().map(service).collect();
            let source = hale_config::Source { name: "hale.toml".into(), text };
            let defaults =
                hale_config::HostDefaults { state_dir: "/s".into(), runtime_dir: "/r".into(), log_dir: "/l".into() };
            hale_config::parse(&[source], &defaults, "/").unwrap()
        };
        let place = |before: BTreeMap<Name, u32>, names: &[&str]| {
            let validated = policy(names);
            InForce::new("g", validated.hash, validated.policy, before)
        };
        let named = |slots: &BTreeMap<Name, u32>| -> Vec<(String, u32)> {
            slots.iter().map(|(name, slot)| (name.to_string(), *slot)).collect()
        };
        let first = place(BTreeMap::new(), &["b", "c"]).unwrap();
        let second = place(first.slots, &["a", "c"]).unwrap();
        assert_eq!(named(&second.slots), [("a".into(), 2), ("b".into(), 0), ("c".into(), 1)]);
        let third = place(second.slots, &["b"]).unwrap();
        assert_eq!(third.slot(&Name::try_from("b").unwrap()), Some(Slot(0)));
        let full = BTreeMap::from([(Name::try_from("z").unwrap(), MAX_SERVICES - 1)]);
        assert!(place(full, &["a"]).unwrap_err().to_string().starts_with("1 services are configured"));
    }
}
