//! The policy in force, kept beside the journal: a new supervisor runs that one, whatever has become of `hale.toml`.

use hale_core::policy::{Policy, PolicyHash};
use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Its name below `runtime_dir`.
pub const NAME: &str = "policy.json";

/// A policy and its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// The guardian under which it is in force.
    pub guardian: String,
    /// As it stands in records.
    pub hash: PolicyHash,
    /// The policy.
    pub policy: Policy,
}

/// Keeps the policy, in one step: a reader finds this one or the one before. Never synced, as it is of this boot only.
///
/// # Errors
/// The tmpfs is full or cannot be written.
pub fn write(runtime_dir: &Path, in_force: &InForce) -> io::Result<()> {
    let (path, beside) = (runtime_dir.join(NAME), runtime_dir.join(format!("{NAME}.new")));
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
    let found: InForce = serde_json::from_slice(&fs::read(runtime_dir.join(NAME)).ok()?).ok()?;
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
        let in_force = InForce { guardian: "g".into(), hash: validated.hash, policy: validated.policy };
        write(dir.path(), &in_force).unwrap();
        write(dir.path(), &in_force).unwrap();
        assert_eq!(read(dir.path(), "another"), None, "it is of an earlier Hale");
        assert_eq!(read(dir.path(), "g"), Some(in_force));
        let mode = fs::metadata(dir.path().join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
