//! Listening sockets of services (sd_listen_fds(3)): bound once, and then passed to each process.

use super::user::Identity;
use hale_core::policy::ListenAddress;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, chmod, chownat, fstat, open, openat2, statat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, getsockname, listen, socket_with, sockopt,
};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

/// How many connections wait for the service to accept them: the bound that Linux itself has for any socket unless the
/// operator changes it (`net.core.somaxconn`, 4,096 since 5.4), and a second's worth of a busy server.
const BACKLOG: i32 = 4096;

/// Who may connect to a Unix socket: the service's user and group.
const MODE: Mode = Mode::from_raw_mode(0o660);

/// A socket that listens. The file of a Unix socket is removed with it.
#[derive(Debug)]
pub struct ListenSocket {
    socket: OwnedFd,
    address: ListenAddress,
    /// Of a Unix socket's file, as soon as it is known: somebody may have put another one there.
    file: OnceLock<(u64, u64)>,
}

impl ListenSocket {
    /// Binds it. May block where a Unix socket's file system hangs.
    ///
    /// # Errors
    ///
    /// The address is in use, is not this machine's, or may not be bound by this user; or something is in the way of the
    /// file.
    pub fn bind(address: &ListenAddress, owner: Option<&Identity>) -> io::Result<Self> {
        let made = |socket| Self { socket, address: address.clone(), file: OnceLock::new() };
        match address {
            ListenAddress::Tcp(address) => {
                let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
                // Connections of an earlier process that are still ending do not keep the address.
                sockopt::set_socket_reuseaddr(&socket, true)?;
                bind(&socket, address)?;
                listen(&socket, BACKLOG)?;
                Ok(made(socket))
            }
            ListenAddress::Unix(path) => {
                let path = Path::new(path);
                clear(path, owner)?;
                let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
                bind(&socket, &SocketAddrUnix::new(path)?)?;
                let made = made(socket);
                let _ = made.file.set(give(path, other(owner))?);
                listen(&made.socket, BACKLOG)?;
                Ok(made)
            }
        }
    }

    /// Takes over a socket that an earlier supervisor has bound, by the name that it has among these addresses; `None`: it is
    /// bound to none of them.
    #[must_use]
    pub fn inherited<'a>(
        mut addresses: impl Iterator<Item = (&'a String, &'a ListenAddress)>,
        socket: OwnedFd,
    ) -> Option<(&'a String, Self)> {
        let (name, address) = addresses.find(|(_, address)| is_bound_to(&socket, address))?;
        Some((name, Self { socket, address: address.clone(), file: OnceLock::new() }))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Whether clients still find it: the file of a Unix socket may have been removed. May block as
    /// [`bind`](Self::bind).
    pub fn in_place(&self) -> bool {
        let ListenAddress::Unix(path) = &self.address else { return true };
        let found = statat(CWD, path.as_str(), AtFlags::SYMLINK_NOFOLLOW).ok().filter(is_socket);
        found.map(|stat| (stat.st_dev, stat.st_ino)).is_some_and(|found| *self.file.get_or_init(|| found) == found)
    }
}

impl AsFd for ListenSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for ListenSocket {
    fn drop(&mut self) {
        if let ListenAddress::Unix(path) = &self.address
            && self.in_place()
        {
            let _ = unlinkat(CWD, path.as_str(), AtFlags::empty());
        }
    }
}

fn is_bound_to(socket: &OwnedFd, address: &ListenAddress) -> bool {
    let Ok(bound) = getsockname(socket) else { return false };
    match address {
        ListenAddress::Tcp(address) => SocketAddr::try_from(bound).is_ok_and(|bound| bound == *address),
        ListenAddress::Unix(path) => SocketAddrUnix::try_from(bound)
            .is_ok_and(|bound| bound.path().is_some_and(|bound| bound.to_bytes() == path.as_bytes())),
    }
}

/// The service's user, if it is not Hale's own.
fn other(owner: Option<&Identity>) -> Option<&Identity> {
    owner.filter(|user| user.uid != rustix::process::geteuid().as_raw())
}

fn is_socket(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Socket
}

/// Removes a socket's file that nobody listens at any more, as a Hale that was killed leaves it. The way to it may be led
/// elsewhere only by Hale's own user.
fn clear(path: &Path, owner: Option<&Identity>) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    if other(owner).is_some() {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat2(CWD, parent, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            Err(Errno::LOOP) => {
                let real = parent.canonicalize().unwrap_or_else(|_| parent.to_owned());
                let text = format!("its way leads through a symbolic link; write {} instead", real.display());
                return Err(io::Error::other(text));
            }
            result => result.map(drop)?,
        }
    }
    let stat = match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    if !is_socket(&stat) {
        return Err(io::Error::other("something else than a socket is there: move it away"));
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let client = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&client, &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => Ok(unlinkat(CWD, path, AtFlags::empty())?),
        // Somebody listens, if with a full queue, or with another kind of socket.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(Errno::ADDRINUSE.into()),
        Err(errno) => Err(errno.into()),
    }
}

/// Gives the file that was just made its mode and the service's user, and says which it is. Whoever can write in its
/// directory may have put something else there: only an own socket that has no other name is given away, and no link is
/// followed.
fn give(path: &Path, user: Option<&Identity>) -> io::Result<(u64, u64)> {
    let file = open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = fstat(&file)?;
    if !is_socket(&stat) || stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_nlink != 1 {
        return Err(io::Error::other("somebody replaced it while it was made"));
    }
    // By the open file: fchmod(2) refuses one that is open as a path only.
    chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), MODE)?;
    if let Some(user) = user {
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        chownat(&file, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    }
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::{UnixListener, UnixStream};

    fn unix(directory: &tempfile::TempDir, name: &str) -> (ListenAddress, std::path::PathBuf) {
        let path = directory.path().join(name);
        (ListenAddress::Unix(path.to_str().unwrap().to_owned()), path)
    }

    fn inherited(address: &ListenAddress, socket: OwnedFd) -> Option<ListenSocket> {
        let name = String::from("http");
        ListenSocket::inherited([(&name, address)].into_iter(), socket).map(|(_, taken)| taken)
    }

    #[test]
    fn connections_wait_in_it_and_it_is_known_again() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let address = ListenAddress::Tcp(free);
        let bound = ListenSocket::bind(&address, None).unwrap();
        TcpStream::connect(free).unwrap();
        let again = ListenSocket::bind(&address, None).unwrap_err();
        assert_eq!(again.raw_os_error(), Some(Errno::ADDRINUSE.raw_os_error()));
        let copy = || bound.socket.try_clone().unwrap();
        assert!(inherited(&address, copy()).is_some());
        let other = ListenAddress::Tcp((Ipv4Addr::LOCALHOST, 1).into());
        assert!(inherited(&other, copy()).is_none());
    }

    #[test]
    fn only_a_dead_socket_is_replaced_and_only_the_own_file_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (address, path) = unix(&directory, "bot.sock");
        drop(UnixListener::bind(&path).unwrap());
        let bound = ListenSocket::bind(&address, None).unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660, "whatever the umask");
        let again = ListenSocket::bind(&address, None).unwrap_err();
        assert_eq!(again.raw_os_error(), Some(Errno::ADDRINUSE.raw_os_error()));
        assert!(path.exists(), "the one who listens keeps it");
        let taken = inherited(&address, bound.socket.try_clone().unwrap()).unwrap();
        assert!(taken.in_place() && bound.in_place());
        std::mem::forget(bound);
        fs::remove_file(&path).unwrap();
        assert!(!taken.in_place());
        fs::write(&path, "mine").unwrap();
        assert!(!taken.in_place());
        let error = ListenSocket::bind(&address, None).unwrap_err();
        assert!(error.to_string().contains("something else than a socket"), "{error}");
        drop(taken);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        fs::remove_file(&path).unwrap();
        drop(ListenSocket::bind(&address, None).unwrap());
        assert!(!path.exists());
    }

    mod needs_root {
        use super::*;

        #[test]
        fn the_file_is_the_services_users_and_no_link_leads_to_it() {
            let directory = tempfile::tempdir().unwrap();
            let (uid, gid) = (65534, 65534);
            let user = Identity {
                name: "bot".into(),
                uid,
                gid,
                groups: Vec::new(),
                home: "/".into(),
                shell: "/bin/sh".into(),
            };
            let (address, path) = unix(&directory, "bot.sock");
            let bound = ListenSocket::bind(&address, Some(&user)).unwrap();
            let file = fs::metadata(&path).unwrap();
            assert_eq!((file.uid(), file.gid()), (uid, gid));
            drop(bound);
            symlink(directory.path(), directory.path().join("link")).unwrap();
            let (address, _) = unix(&directory, "link/bot.sock");
            let error = ListenSocket::bind(&address, Some(&user)).unwrap_err().to_string();
            assert!(error.contains(&format!("write {} instead", directory.path().display())), "{error}");
        }
    }
}
