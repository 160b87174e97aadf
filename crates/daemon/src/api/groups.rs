//! Gives the group that may ask the right to read history, too: ledger and logs. Once, at the start: the directories get
//! the set-group-ID bit, and with it (inode(7)) whatever is made in them later, by whomever, belongs to the group.

use super::names;
use super::sockets::READ_GROUP;
use hale_core::policy::Policy;
use rustix::fs::{CWD, Dir, FileType, Gid, Mode, OFlags, fchmod, fchown, fstat, openat};
use rustix::io::Errno;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// The group may enter and list; what is made below belongs to it.
const DIRECTORY: u32 = 0o2750;
/// The group may read.
const FILE: u32 = 0o640;
/// What a directory of ours is made with before it is shared.
const PRIVATE: u32 = 0o750;

/// Lets members of [`READ_GROUP`] read the ledger and the logs of `policy`'s services. Does nothing unless Hale runs as root
/// and the group exists. Directories that others made are left as they are: only those for ledger and logs change.
///
/// # Errors
/// A step that the operating system refuses; members of the group then cannot read some of it.
pub fn share_history(policy: &Policy) -> io::Result<()> {
    match names::group_id(READ_GROUP) {
        Some(group) if rustix::process::geteuid().is_root() => share(policy, Gid::from_raw(group)),
        Some(_) | None => Ok(()),
    }
}

fn share(policy: &Policy, group: Gid) -> io::Result<()> {
    let host = &policy.host;
    share_below(&made(&Path::new(&host.state_dir).join("ledger"))?, group)?;
    let log_dir = made(Path::new(&host.log_dir))?;
    // /var/log can be entered by everybody, and is not Hale's to change.
    if fstat(&log_dir)?.st_mode & 0o001 == 0 {
        give(&log_dir, group, PRIVATE)?;
    }
    for name in policy.services.keys() {
        share_below(&made(&Path::new(&host.log_dir).join(name.as_str()))?, group)?;
    }
    Ok(())
}

/// Opens the directory, which is made if it is missing.
fn made(path: &Path) -> io::Result<OwnedFd> {
    DirBuilder::new().recursive(true).mode(PRIVATE).create(path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// The directory and all regular files and directories of root's in it. No link is followed, and what is somebody else's
/// stays that.
fn share_below(directory: &OwnedFd, group: Gid) -> io::Result<()> {
    // First, so that what is made meanwhile has its group already.
    give(directory, group, DIRECTORY)?;
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // Not blocking: opening a pipe would wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match openat(directory, name, flags, Mode::empty()) {
            Ok(file) => file,
            // A link, a socket, or gone.
            Err(Errno::LOOP | Errno::NXIO | Errno::NOENT) => continue,
            Err(errno) => return Err(errno.into()),
        };
        match FileType::from_raw_mode(fstat(&file)?.st_mode) {
            FileType::Directory => share_below(&file, group)?,
            FileType::RegularFile => give(&file, group, FILE)?,
            _ => {}
        }
    }
    Ok(())
}

/// Gives it to the group if it is root's.
fn give(file: impl AsFd, group: Gid, mode: u32) -> io::Result<()> {
    let found = fstat(&file)?;
    if found.st_uid != 0 {
        return Ok(());
    }
    if found.st_gid != group.as_raw() {
        fchown(&file, None, Some(group))?;
    }
    // After chown(2), which may clear the set-group-ID bit.
    if found.st_gid != group.as_raw() || found.st_mode & 0o7777 != mode {
        fchmod(&file, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    mod needs_root {
        use super::*;
        use crate::keeper::log_file::LogFile;
        use crate::knowledge::ledger_store::{Class, LedgerStore, Limits};
        use std::ffi::CString;
        use std::fs;
        use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
        use std::time::Duration;

        const GROUP: u32 = 4_711;

        fn found(path: &Path) -> (u32, u32) {
            let meta = fs::symlink_metadata(path).unwrap();
            (meta.gid(), meta.mode() & 0o7777)
        }

        fn write_ledger(dir: &Path, number: u64) {
            let (store, _) = LedgerStore::open(dir, Limits::default(), Box::new(|_| ())).unwrap();
            store.append(br#"{"kind":"test"}"#.to_vec(), Class::State, number).unwrap();
            assert!(store.close(Duration::from_secs(30)));
        }

        #[test]
        fn the_group_reads_what_is_there_and_what_comes() {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            let root = dir.path().display();
            let text = format!("[host]\nstate_dir = \"{root}/state\"\n[service.web]\ncommand = [\"/bin/true\"]\n");
            let source = hale_config::Source { name: "hale.toml".into(), text };
            let defaults =
                hale_config::HostDefaults { state_dir: "/s".into(), runtime_dir: "/r".into(), log_dir: "/l".into() };
            let policy = hale_config::parse(&[source], &defaults, "/").unwrap().policy;
            // From a time without the group, with a link that must not be followed.
            let (segment, outside) = (at("state/ledger/seg/00000000.jsonl"), at("outside"));
            write_ledger(&at("state/ledger"), 1);
            assert_eq!(found(&segment), (0, FILE));
            fs::write(&outside, "").unwrap();
            fs::set_permissions(&outside, fs::Permissions::from_mode(0o600)).unwrap();
            symlink(&outside, at("state/ledger/link")).unwrap();

            share(&policy, Gid::from_raw(GROUP)).unwrap();
            assert_eq!(found(&segment), (GROUP, FILE));
            assert_eq!(found(&at("state/ledger/seg")), (GROUP, DIRECTORY));
            assert_eq!(found(&at("state/log")), (GROUP, PRIVATE));
            assert_eq!(found(&outside), (0, 0o600));

            // Removed, so that it is made anew.
            fs::remove_dir_all(at("state/ledger/seg")).unwrap();
            write_ledger(&at("state/ledger"), 1);
            assert_eq!(found(&segment), (GROUP, FILE), "a segment that comes later");
            let log = CString::new(at("state/log/web").into_os_string().into_encoded_bytes()).unwrap();
            drop(LogFile::open(&log, 1_000, 1).unwrap());
            assert_eq!(found(&at("state/log/web/current")), (GROUP, FILE), "a log that comes later");
        }
    }
}
