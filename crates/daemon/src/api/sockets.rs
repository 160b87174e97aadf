//! The two sockets: made so that nobody without the right to one can ever connect to it.

use super::names;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Who may ask: members of this group.
pub const READ_GROUP: &str = "hale";
/// Who may give orders: members of this group.
pub const CONTROL_GROUP: &str = "hale-admin";

/// Where the socket for questions is.
#[must_use]
pub fn read_path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("read.sock")
}

/// Whether a Hale answers at this socket, or would if it had time, or if this user were let in. Does not wait.
#[must_use]
pub fn is_served(socket: &Path) -> bool {
    let connected = rustix::net::SocketAddrUnix::new(socket).and_then(|address| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        connect(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?, &address)
    });
    matches!(connected, Ok(()) | Err(Errno::AGAIN | Errno::ACCESS))
}

/// Where the socket for orders is; it answers questions too.
#[must_use]
pub fn control_path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("control.sock")
}

/// Both sockets, listening and not blocking.
#[derive(Debug)]
pub struct Sockets {
    /// For questions.
    pub read: UnixListener,
    /// For orders.
    pub control: UnixListener,
}

/// Why the sockets cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {source}", path = path.display())]
pub struct SocketError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl SocketError {
    pub(super) fn watch(source: io::Error) -> Self {
        Self { what: "watch", path: PathBuf::from("the API's sockets"), source }
    }
}

/// Makes both sockets in `runtime_dir`, in place of those that an earlier supervisor left. The caller holds the lock
/// on `runtime_dir`.
///
/// They belong to [`READ_GROUP`] and [`CONTROL_GROUP`], mode 0660, when Hale runs as root and both groups exist;
/// else they are for Hale's own user alone, mode 0600.
///
/// # Errors
/// A step that the operating system refuses, e.g. a path longer than the 107 bytes that unix(7) allows.
pub fn bind(runtime_dir: &Path) -> Result<Sockets, SocketError> {
    let groups = match rustix::process::geteuid().is_root() {
        true => names::group_id(READ_GROUP).zip(names::group_id(CONTROL_GROUP)),
        false => None,
    };
    // A socket that is bound first and restricted afterwards can be connected to in between. So it is bound in a
    // directory that only this user can enter, and moved when it is ready. The umask would do too, but it belongs
    // to all threads.
    let nursery = runtime_dir.join("api.new");
    let fail = |what, path: &Path| {
        let path = path.to_path_buf();
        move |source| SocketError { what, path, source }
    };
    match fs::remove_dir_all(&nursery) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail("remove", &nursery)(error)),
    }
    DirBuilder::new().mode(0o700).create(&nursery).map_err(fail("make directory", &nursery))?;
    let make = |path: &Path, group: Option<u32>| -> Result<UnixListener, SocketError> {
        let young = nursery.join("s");
        let listener = UnixListener::bind(&young).map_err(fail("make socket", &young))?;
        listener.set_nonblocking(true).map_err(fail("prepare socket", &young))?;
        let mode = match group {
            Some(group) => {
                let group = Some(rustix::fs::Gid::from_raw(group));
                rustix::fs::chown(&young, None, group)
                    .map_err(|error| fail("give away socket", &young)(error.into()))?;
                0o660
            }
            None => 0o600,
        };
        fs::set_permissions(&young, Permissions::from_mode(mode)).map_err(fail("restrict socket", &young))?;
        fs::rename(&young, path).map_err(fail("put socket at", path))?;
        Ok(listener)
    };
    let read = make(&read_path(runtime_dir), groups.map(|(read, _)| read))?;
    let control = make(&control_path(runtime_dir), groups.map(|(_, control)| control))?;
    fs::remove_dir(&nursery).map_err(fail("remove directory", &nursery))?;
    Ok(Sockets { read, control })
}

/// Takes over both sockets from an earlier supervisor: who has connected meanwhile waits in them.
///
/// # Errors
/// They cannot be made not to block.
pub fn inherited(read: OwnedFd, control: OwnedFd) -> io::Result<Sockets> {
    let sockets = Sockets { read: read.into(), control: control.into() };
    sockets.read.set_nonblocking(true)?;
    sockets.control.set_nonblocking(true)?;
    Ok(sockets)
}

/// What somebody who was refused at `path` can do about it, in a sentence.
#[must_use]
pub fn how_to_get_in(path: &Path) -> String {
    let group = if path.ends_with("control.sock") { CONTROL_GROUP } else { READ_GROUP };
    match names::group_id(READ_GROUP).zip(names::group_id(CONTROL_GROUP)) {
        Some(_) => format!("become a member of group {group}, and log in again: usermod -aG {group} YOU"),
        None => format!(
            "only the user who runs Hale may, because groups {READ_GROUP} and {CONTROL_GROUP} do not both exist; \
             make them and start Hale again, or use sudo"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream;

    #[test]
    fn sockets_are_private_and_replace_old_ones() {
        let directory = tempfile::tempdir().unwrap();
        let old = bind(directory.path()).unwrap();
        drop(old);
        let sockets = bind(directory.path()).unwrap();
        for path in [read_path(directory.path()), control_path(directory.path())] {
            let mode = fs::metadata(&path).unwrap().mode() & 0o777;
            let with_groups = names::group_id(READ_GROUP).zip(names::group_id(CONTROL_GROUP)).is_some();
            assert!(mode == 0o600 || (mode == 0o660 && with_groups), "{mode:o}");
            UnixStream::connect(&path).unwrap();
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing else is left behind");
        drop(sockets);
    }

    #[test]
    fn a_path_that_is_too_long_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("x".repeat(120));
        fs::create_dir(&deep).unwrap();
        let message = bind(&deep).unwrap_err().to_string();
        assert!(message.starts_with("cannot make socket ") && message.contains("xxx"), "{message}");
    }
}
