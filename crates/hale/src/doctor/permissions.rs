//! Who may do what: Hale's directories, its groups, and the programs of its services.

use super::disk::existing;
use super::{Finding, Severity, read};
use crate::missing::missing;
use hale_core::policy::{Policy, ServicePolicy};
use hale_daemon::execute::{program, user};
use rustix::fs::{Access, access};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Others may write, and replace what is not theirs (inode(7)).
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// What stands in the way.
pub fn look(policy: &Policy, _guardian: Option<i32>) -> Vec<Finding> {
    let host = &policy.host;
    let names = [("state_dir", &host.state_dir), ("runtime_dir", &host.runtime_dir), ("log_dir", &host.log_dir)];
    let mut found: Vec<Finding> =
        names.into_iter().flat_map(|(key, path)| of_directory(key, Path::new(path))).collect();
    if rustix::process::geteuid().is_root() {
        match read("/etc/group") {
            Ok(text) => found.extend(of_groups(&text)),
            Err(error) => found.push(Finding::unseen("permissions", "/etc/group", &error.to_string())),
        }
    }
    found.extend(missing(policy).into_iter().map(|what| {
        let cost = "what needs it does not start, fails or is not enforced";
        Finding::new("permissions", Severity::Fault, &what, cost, "make it, or correct the configuration")
    }));
    found.extend(policy.services.iter().filter_map(|(name, service)| of_program(name.as_str(), service)));
    found
}

fn of_directory(key: &str, path: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    let there = existing(path);
    let named = format!("{key} {}", path.display());
    match there.metadata() {
        Ok(data) if data.mode() & OTHERS_WRITE != 0 && (data.mode() & STICKY == 0 || there == path) => {
            found.push(Finding::new(
                "permissions",
                Severity::Fault,
                &format!("{named}: anybody may write to {} (mode {:o})", there.display(), data.mode() & 0o7777),
                "any process of this host can take Hale's files away or put others in their place",
                &format!("chmod o-w {}", there.display()),
            ));
        }
        Ok(data) if there == path && data.uid() != rustix::process::geteuid().as_raw() => found.push(Finding::new(
            "permissions",
            Severity::Note,
            &format!(
                "{named} belongs to user id {}, and this is user id {}",
                data.uid(),
                rustix::process::geteuid().as_raw()
            ),
            "a Hale of this user cannot use it; that of its owner can",
            "run `hale doctor` as the user that Hale runs as",
        )),
        Ok(data) if !data.is_dir() => found.push(Finding::new(
            "permissions",
            Severity::Fault,
            &format!("{named}: {} is no directory", there.display()),
            "Hale does not start",
            "move it away, or name another directory in [host]",
        )),
        Ok(_) => {
            if let Err(error) = access(&there, Access::WRITE_OK | Access::EXEC_OK) {
                found.push(Finding::new(
                    "permissions",
                    Severity::Fault,
                    &format!("{named}: {} cannot be written: {error}", there.display()),
                    "Hale of this user does not start",
                    &format!("give it to that user, or name another directory for host.{key}"),
                ));
            }
        }
        Err(error) => found.push(Finding::unseen("permissions", &named, &error.to_string())),
    }
    found
}

/// group(5).
fn of_groups(text: &str) -> Vec<Finding> {
    let has = |name: &str| text.lines().any(|line| line.split(':').next() == Some(name));
    let groups = [("hale", "ask Hale (status, incidents, logs)"), ("hale-admin", "give Hale orders")];
    let lacking = groups.into_iter().filter(|(name, _)| !has(name));
    let tell = |(name, what): (&str, &str)| {
        let cost = format!("nobody but root may {what}");
        Finding::new(
            "permissions",
            Severity::Note,
            &format!("there is no group {name}"),
            &cost,
            &format!("groupadd --system {name}"),
        )
    };
    lacking.map(tell).collect()
}

/// A program that is there, and that the service's user may not execute.
fn of_program(name: &str, service: &ServicePolicy) -> Option<Finding> {
    // Not root: services run as the user who asks, and the kernel is asked.
    let path = program::resolve(service.command.first()?, service.directory.as_deref()?).ok()?;
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    let who = match &service.user {
        Some(user) => user::lookup(user).ok().filter(|user| user.uid != 0)?,
        None => {
            let denied = path.exists() && access(path, Access::EXEC_OK).is_err();
            return denied.then(|| not_executable(name, path, path, "the user that Hale runs as"));
        }
    };
    let groups = |gid: u32| gid == who.gid || who.groups.contains(&gid);
    let mut all: Vec<&Path> = path.ancestors().collect();
    all.reverse();
    let denied = all.into_iter().find(|path| {
        path.metadata().is_ok_and(|data| !may_execute(data.mode(), data.uid() == who.uid, groups(data.gid())))
    })?;
    Some(not_executable(name, path, denied, &who.name))
}

fn not_executable(name: &str, path: &Path, denied: &Path, user: &str) -> Finding {
    Finding::new(
        "permissions",
        Severity::Fault,
        &format!("service {name}: {user} may not execute {} (see {})", path.display(), denied.display()),
        "the service does not start: cause `spawn`",
        &format!(
            "chmod the file or directory {}, or set another user; access lists (acl(5)) were not looked at",
            denied.display()
        ),
    )
}

/// The first class that fits decides alone (path_resolution(7)).
fn may_execute(mode: u32, owns: bool, in_group: bool) -> bool {
    let class = if owns {
        0o100
    } else if in_group {
        0o010
    } else {
        0o001
    };
    mode & class != 0
}

#[cfg(test)]
mod tests {
    use super::super::tests::policy;
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_directory_that_anybody_can_write_is_a_fault_and_a_closed_one_is_not() {
        let place = tempfile::tempdir().unwrap();
        let below = place.path().join("state");
        assert_eq!(of_directory("state_dir", &below), []);
        fs::create_dir(&below).unwrap();
        assert_eq!(of_directory("state_dir", &below), []);
        fs::set_permissions(&below, fs::Permissions::from_mode(0o1777)).unwrap();
        let found = of_directory("state_dir", &below);
        assert!(found[0].severity == Severity::Fault && found[0].what.contains("(mode 1777)"), "{found:?}");
        fs::write(place.path().join("file"), "").unwrap();
        assert!(of_directory("log_dir", &place.path().join("file"))[0].what.contains("is no directory"));
    }

    #[test]
    fn groups_are_found_by_their_whole_name() {
        assert_eq!(of_groups("root:x:0:\nhale:x:9:\nhale-admin:x:8:bob\n"), []);
        assert_eq!(of_groups("hale-admin:x:8:\n")[0].what, "there is no group hale");
    }

    #[test]
    fn one_class_of_the_mode_decides() {
        assert!(
            may_execute(0o755, false, false) && may_execute(0o710, false, true) && !may_execute(0o710, false, false)
        );
        assert!(!may_execute(0o677, true, true));
    }

    #[test]
    fn a_program_below_a_closed_directory_is_told_with_the_directory() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("bot");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let text = |user: &str| format!("[service.a]\ncommand = [\"{}\"]\n{user}", file.display());
        let found = of_program("a", &policy(&text("user = \"nobody\"\n")).services.values().next().unwrap().clone());
        assert!(found.unwrap().what.contains(&format!("(see {})", place.path().display())));
        assert!(of_program("a", &policy(&text("")).services.values().next().unwrap().clone()).is_none());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let found = of_program("a", &policy(&text("")).services.values().next().unwrap().clone());
        assert!(found.unwrap().what.contains("may not execute"));
    }
}
