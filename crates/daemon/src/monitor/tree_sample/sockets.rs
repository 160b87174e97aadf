//! Who listens at an address: the listening sockets of the network namespaces that the processes of a tree are in, and
//! which of those processes has one of them.
//!
//! The own namespace is asked by sock_diag(7), which gives listening sockets of one port alone; others, and kernels without
//! it, by proc_pid_net(5) (`tcp`, `tcp6`), whose whole table the kernel writes out. Unix sockets stand in `unix`.

use super::{FILE_BYTES_MAX, is_gone};
use crate::execute::tree::Handle;
use crate::monitor::sock_diag::{Query, SKV6ONLY, SockDiag, State};
use hale_core::examination::Protocol;
use hale_core::policy::ListenAddress;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, readlinkat, statat};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// How many network namespaces of one tree are looked into: a program that makes them for its children has tens.
const NAMESPACES_MAX: usize = 64;

/// The most that is read of a table of sockets, in bytes: a hundred thousand lines.
const TABLE_BYTES_MAX: u64 = 16 * FILE_BYTES_MAX;

/// How long the kernel may take to answer, which it does while it is asked.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What was found for an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// This process of the tree has it.
    By(i32),
    /// Others listen there, none of the tree.
    ByOthers {
        /// Processes that this user may not ask.
        unreadable: usize,
    },
    /// Nobody listens there.
    ByNobody,
}

/// Looks for the sockets of `addresses` at `processes`, first where each was found last.
pub(super) fn held_by(
    processes: &[Handle],
    addresses: &BTreeSet<ListenAddress>,
    known: &mut BTreeMap<ListenAddress, (i32, i32)>,
) -> io::Result<BTreeMap<ListenAddress, Held>> {
    let listening = listening(processes, addresses)?;
    let mut held: BTreeMap<ListenAddress, Held> = BTreeMap::new();
    for (address, inodes) in &listening {
        if inodes.is_empty() {
            held.insert(address.clone(), Held::ByNobody);
        } else if let Some(&(pid, fd)) = known.get(address)
            && let Some(handle) = processes.iter().find(|handle| handle.pid() == pid)
            && socket_inode(handle, &format!("fd/{fd}")).is_some_and(|inode| inodes.contains(&inode))
        {
            held.insert(address.clone(), Held::By(pid));
        }
    }
    known.retain(|address, _| matches!(held.get(address), Some(Held::By(_))));
    let mut unreadable = 0;
    for handle in processes {
        let missing: Vec<_> = listening.iter().filter(|(address, _)| !held.contains_key(address)).collect();
        if missing.is_empty() {
            break;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match openat(handle.dir(), "fd", flags, Mode::empty()).and_then(Dir::new) {
            Ok(dir) => dir,
            Err(error) => {
                unreadable += usize::from(!is_gone(&error.into()));
                continue;
            }
        };
        for entry in dir.flatten() {
            let Some(fd) = entry.file_name().to_str().ok().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let Some(inode) = socket_inode(handle, &format!("fd/{fd}")) else { continue };
            for (address, _) in missing.iter().filter(|(_, inodes)| inodes.contains(&inode)) {
                held.insert((*address).clone(), Held::By(handle.pid()));
                known.insert((*address).clone(), (handle.pid(), fd));
            }
        }
    }
    for address in listening.keys() {
        held.entry(address.clone()).or_insert(Held::ByOthers { unreadable });
    }
    Ok(held)
}

/// The number of the socket that a descriptor is.
fn socket_inode(handle: &Handle, path: &str) -> Option<u64> {
    let link = readlinkat(handle.dir(), path, Vec::with_capacity(64)).ok()?;
    link.to_str().ok()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The numbers of the sockets that listen at each address, in all namespaces of the processes.
fn listening(
    processes: &[Handle],
    addresses: &BTreeSet<ListenAddress>,
) -> io::Result<BTreeMap<ListenAddress, BTreeSet<u64>>> {
    let mut found: BTreeMap<_, _> = addresses.iter().map(|address| (address.clone(), BTreeSet::new())).collect();
    let own = rustix::fs::stat("/proc/self/ns/net").ok().map(|stat| stat.st_ino);
    let mut seen = BTreeSet::new();
    for handle in processes {
        // Of a process that this user may not ask for its namespace the tables can be read all the same.
        let namespace = statat(handle.dir(), "ns/net", AtFlags::empty()).ok().map(|stat| stat.st_ino);
        if !seen.insert(namespace) {
            continue;
        }
        // What was not looked at must not be called missing.
        if seen.len() > NAMESPACES_MAX {
            return Err(io::Error::other(format!("they are in more than {NAMESPACES_MAX} network namespaces")));
        }
        let is_own = namespace.is_some() && namespace == own;
        match Tables::open(handle, addresses, is_own) {
            Ok(tables) => found.iter_mut().for_each(|(address, inodes)| inodes.extend(tables.at(address))),
            Err(error) if is_gone(&error) => drop(seen.remove(&namespace)),
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// A listening TCP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listener {
    address: SocketAddr,
    /// An IPv6 socket that takes no IPv4; `None`: not told.
    v6_only: Option<bool>,
    inode: u64,
}

impl Listener {
    /// Whether who connects to `wanted` is accepted by it.
    fn is_at(&self, wanted: SocketAddr) -> bool {
        let ip = self.address.ip().to_canonical();
        let for_all = match (self.address.ip(), wanted.ip()) {
            (IpAddr::V4(ip), IpAddr::V4(_)) => ip.is_unspecified(),
            (IpAddr::V6(ip), IpAddr::V6(_)) => ip.is_unspecified(),
            (IpAddr::V6(ip), IpAddr::V4(_)) => ip.is_unspecified() && self.v6_only != Some(true),
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        };
        self.address.port() == wanted.port() && (for_all || ip == wanted.ip().to_canonical())
    }
}

/// What listens in one namespace, as far as it was asked for.
#[derive(Debug, Default)]
struct Tables {
    tcp: Vec<Listener>,
    /// Path and number.
    unix: Vec<(Vec<u8>, u64)>,
}

impl Tables {
    fn open(handle: &Handle, addresses: &BTreeSet<ListenAddress>, is_own: bool) -> io::Result<Self> {
        let mut tables = Self::default();
        let is_unix = |address: &ListenAddress| match address {
            ListenAddress::Unix(_) => true,
            ListenAddress::Tcp(_) => false,
        };
        if addresses.iter().any(is_unix) {
            tables.unix = unix_listeners(&table(handle, "net/unix", TABLE_BYTES_MAX)?);
        }
        let wanted = addresses.iter().filter_map(|address| match address {
            ListenAddress::Tcp(address) => Some(*address),
            ListenAddress::Unix(_) => None,
        });
        let wanted: Vec<SocketAddr> = wanted.collect();
        if wanted.is_empty() {
            return Ok(tables);
        }
        if is_own && let Ok(listeners) = by_diag(&wanted) {
            tables.tcp = listeners;
            return Ok(tables);
        }
        for name in ["net/tcp", "net/tcp6"] {
            match table(handle, name, TABLE_BYTES_MAX) {
                Ok(text) => tables.tcp.extend(String::from_utf8_lossy(&text).lines().filter_map(tcp_listener)),
                // A kernel without IPv6.
                Err(error) if is_gone(&error) && name == "net/tcp6" => {}
                Err(error) => return Err(error),
            }
        }
        Ok(tables)
    }

    fn at(&self, address: &ListenAddress) -> Vec<u64> {
        match address {
            ListenAddress::Tcp(address) => {
                self.tcp.iter().filter(|listener| listener.is_at(*address)).map(|listener| listener.inode).collect()
            }
            ListenAddress::Unix(path) => {
                self.unix.iter().filter(|(other, _)| other == path.as_bytes()).map(|(_, inode)| *inode).collect()
            }
        }
    }
}

fn table(handle: &Handle, name: &str, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = openat(handle.dir(), name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let length = File::from(file).take(bytes_max + 1).read_to_end(&mut bytes)?;
    // The socket may stand in what was not read.
    if length as u64 > bytes_max {
        return Err(io::Error::other(format!("{name} is longer than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// A line of `tcp` or `tcp6`: `sl local_address rem_address st … inode …`, where 0A is listening.
fn tcp_listener(line: &str) -> Option<Listener> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields[..] else { return None };
    let (ip, port) = local.split_once(':')?;
    // Words of 32 bits, each in the machine's own order.
    let word = |index: usize| u32::from_str_radix(ip.get(8 * index..8 * index + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for index in 0..4 {
                bytes[4 * index..4 * index + 4].copy_from_slice(&word(index)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    let address = SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?);
    Some(Listener { address, v6_only: None, inode: inode.parse().ok()? })
}

/// Lines of `unix`: `Num RefCount Protocol Flags Type St Inode Path`, where the flag 10000 is listening
/// (`__SO_ACCEPTCON`).
fn unix_listeners(text: &[u8]) -> Vec<(Vec<u8>, u64)> {
    let listener = |line: &[u8]| {
        let mut rest = line;
        let mut fields = [&[][..]; 7];
        for field in &mut fields {
            rest = rest.trim_ascii_start();
            let end = rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len());
            (*field, rest) = rest.split_at(end);
        }
        let text = |field: &[u8]| std::str::from_utf8(field).ok().map(str::to_owned);
        let flags = u32::from_str_radix(&text(fields[3])?, 16).ok()?;
        let inode = text(fields[6])?.parse().ok()?;
        let path = rest.strip_prefix(b" ")?.to_vec();
        (flags & 0x1_0000 != 0).then_some((path, inode))
    };
    text.split(|&byte| byte == b'\n').filter_map(listener).collect()
}

/// Asks for the listening sockets at the ports of `wanted` in this process's own namespace.
fn by_diag(wanted: &[SocketAddr]) -> io::Result<Vec<Listener>> {
    let diag = SockDiag::open(ANSWER_WITHIN)?;
    let mut listeners = Vec::new();
    let ports: BTreeSet<(u16, bool)> = wanted.iter().map(|address| (address.port(), address.is_ipv4())).collect();
    for (port, is_ipv4) in ports {
        let mut ask = |is_ipv6| {
            let query =
                Query { is_ipv6, protocol: Protocol::Tcp, states: 1 << State::LISTEN.0, port, with_info: false };
            diag.dump(query, None, |entry| {
                let v6_only = entry.attribute(SKV6ONLY).and_then(|value| value.first().map(|&flag| flag != 0));
                listeners.push(Listener { address: entry.local, v6_only, inode: entry.inode });
            })
        };
        // An IPv6 socket may take IPv4, too; not the other way round.
        if is_ipv4 {
            ask(false)?;
        }
        match ask(true) {
            // A kernel without IPv6.
            Err(error) if is_ipv4 && error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;

    fn own() -> Handle {
        Handle::open(std::process::id().cast_signed()).unwrap().unwrap()
    }

    #[test]
    fn both_ways_find_the_same_sockets() {
        let all = ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"];
        for address in all {
            let Ok(listener) = TcpListener::bind(address) else {
                assert!(address.contains('['), "a machine without IPv6");
                continue;
            };
            let bound = listener.local_addr().unwrap();
            let inode = socket_inode(&own(), &format!("fd/{}", listener.as_raw_fd())).unwrap();
            let by_diag: Vec<Listener> = by_diag(&[bound]).unwrap();
            let found = by_diag.iter().find(|listener| listener.address == bound).unwrap();
            // One for a single address takes no other protocol.
            let v6_only = bound.is_ipv6().then_some(!bound.ip().is_unspecified());
            assert_eq!((found.inode, found.v6_only), (inode, v6_only));
            let name = if bound.is_ipv4() { "net/tcp" } else { "net/tcp6" };
            assert!(table(&own(), name, 10).unwrap_err().to_string().ends_with("is longer than 10 bytes"));
            let table = table(&own(), name, TABLE_BYTES_MAX).unwrap();
            let by_table: Vec<_> = String::from_utf8_lossy(&table).lines().filter_map(tcp_listener).collect();
            let found = by_table.iter().find(|listener| listener.address == bound).unwrap();
            assert_eq!(found.inode, inode);
        }
    }

    #[test]
    fn a_socket_for_all_addresses_holds_each_of_them() {
        let listener = |address: &str, v6_only| Listener { address: address.parse().unwrap(), v6_only, inode: 1 };
        let at = |listener: &Listener, wanted: &str| listener.is_at(wanted.parse().unwrap());
        let four = listener("0.0.0.0:80", None);
        assert!(at(&four, "127.0.0.1:80") && at(&four, "0.0.0.0:80"));
        assert!(!at(&four, "127.0.0.1:81") && !at(&four, "[::1]:80") && !at(&four, "[::]:80"));
        let both = listener("[::]:80", Some(false));
        assert!(at(&both, "127.0.0.1:80") && at(&both, "[::1]:80") && at(&both, "0.0.0.0:80"));
        let six = listener("[::]:80", Some(true));
        assert!(!at(&six, "127.0.0.1:80") && at(&six, "[::1]:80"));
        let one = listener("127.0.0.1:80", None);
        assert!(at(&one, "127.0.0.1:80") && !at(&one, "127.0.0.2:80") && !at(&one, "0.0.0.0:80"));
        assert!(at(&listener("[::ffff:127.0.0.1]:80", Some(false)), "127.0.0.1:80"));
    }

    #[test]
    fn unix_sockets_are_found_by_their_path_once_they_listen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("with blank.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let address = ListenAddress::Unix(path.to_str().unwrap().to_owned());
        let other = ListenAddress::Unix(format!("{}2", path.to_str().unwrap()));
        let wanted = BTreeSet::from([address.clone(), other.clone()]);
        let (own, mut known) = ([own()], BTreeMap::new());
        let held = held_by(&own, &wanted, &mut known).unwrap();
        let pid = std::process::id().cast_signed();
        assert_eq!((held[&address], held[&other]), (Held::By(pid), Held::ByNobody));
        assert_eq!(known[&address], (pid, listener.as_raw_fd()), "and it is looked for there first");
        let again = held_by(&own, &wanted, &mut known).unwrap();
        assert_eq!(again, held);
        let nobody = held_by(&[], &wanted, &mut known).unwrap();
        assert_eq!(nobody[&address], Held::ByNobody);
        drop(listener);
        assert_eq!(held_by(&own, &wanted, &mut known).unwrap()[&address], Held::ByNobody);
    }

    #[test]
    fn a_connection_is_no_listener_and_a_strange_line_nothing() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert_eq!(tcp_listener(head), None);
        let line = "   0: 0100007F:1F90 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 12345 1";
        assert_eq!(tcp_listener(line), None);
        let found = tcp_listener(&line.replace(" 01 ", " 0A ")).unwrap();
        assert_eq!(found.inode, 12_345);
        assert_eq!(found.address.port(), 8_080);
    }
}
