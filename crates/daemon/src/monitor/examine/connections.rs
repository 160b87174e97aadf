//! Connections and listening sockets of a tree, with their queues, and how long nothing has come.
//!
//! In the own network namespace they are asked for by sock_diag(7). Of processes in another one they are counted and not told
//! of: the kernel answers for the own one only.

use super::Place;
use crate::execute::tree::Handle;
use crate::monitor::sock_diag::{Entry, INFO, Query, SockDiag, State};
use hale_core::examination::{Connection, Protocol};
use rustix::fs::{AtFlags, statat};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

/// How many are kept: those that threads wait for, then those with something in their queues, then the most silent.
const CONNECTIONS_MAX: usize = 32;

/// `tcpi_last_data_recv` of `tcp_info` (linux/tcp.h): milliseconds since the last data came.
const LAST_DATA_RECEIVED: std::ops::Range<usize> = 52..56;

/// All states of TCP but `TIME_WAIT`, `NEW_SYN_RECV` and the like, which no process has any more.
const STATES: u32 = 0xffe & !(1 << State::TIME_WAIT.0) & !(1 << State::SYN_RECV.0);

/// Those whose numbers are among `sockets`. With them comes how many more there were, and whether all could be asked for.
pub(super) fn of(
    handles: &[Handle],
    sockets: &BTreeMap<u64, Place>,
    awaited: &[Place],
    until: Instant,
) -> io::Result<(Vec<Connection>, u32, bool)> {
    if sockets.is_empty() {
        return Ok((Vec::new(), 0, true));
    }
    let own = rustix::fs::stat("/proc/self/ns/net")?.st_ino;
    let is_own =
        |handle: &Handle| statat(handle.dir(), "ns/net", AtFlags::empty()).is_ok_and(|stat| stat.st_ino == own);
    let mut is_whole = handles.iter().all(is_own);
    let left = until.saturating_duration_since(Instant::now());
    let diag = SockDiag::open(left.max(std::time::Duration::from_millis(1)))?;
    let mut found: Vec<Connection> = Vec::new();
    let mut given_up: BTreeMap<u16, u32> = BTreeMap::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for is_ipv6 in [false, true] {
            let with_info = protocol == Protocol::Tcp;
            let query = Query { is_ipv6, protocol, states: STATES, port: 0, with_info };
            let dumped = diag.dump(query, Some(until), |entry| {
                if let Some(&place) = sockets.get(&entry.inode) {
                    found.push(connection(place, protocol, &entry));
                } else if entry.inode == 0 && entry.state == State::CLOSE_WAIT {
                    // Nobody has accepted it, and the other end has closed it.
                    *given_up.entry(entry.local.port()).or_default() += 1;
                }
            });
            match dumped {
                Ok(()) => {}
                // A kernel without IPv6, or without what answers for UDP.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => {
                    is_whole = false;
                    break;
                }
            }
        }
    }
    for one in found.iter_mut().filter(|one| one.listens()) {
        let port = one.local.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let count = port.and_then(|port: u16| given_up.get(&port)).copied().unwrap_or(0);
        // Of one that several listen at, or whose clients went meanwhile, more may have been given up than wait here.
        one.given_up = count.min(one.unread);
        one.unread -= one.given_up;
    }
    found.sort_by_key(|one| {
        let is_awaited = awaited.contains(&(one.pid, one.fd));
        Reverse((is_awaited, one.unread > 0, one.unsent > 0 && !one.listens(), one.listens(), one.silent_ms))
    });
    let left_out = u32::try_from(found.len().saturating_sub(CONNECTIONS_MAX)).unwrap_or(u32::MAX);
    found.truncate(CONNECTIONS_MAX);
    Ok((found, left_out, is_whole))
}

fn connection((pid, fd): Place, protocol: Protocol, entry: &Entry<'_>) -> Connection {
    let has_peer = entry.peer.port() != 0;
    // Before a connection is there, the kernel has no such moment.
    let is_there = protocol == Protocol::Tcp && has_peer && entry.state != State::SYN_SENT;
    let silent_ms = entry.attribute(INFO).filter(|_| is_there).and_then(|info| {
        let bytes = info.get(LAST_DATA_RECEIVED)?;
        Some(u64::from(u32::from_ne_bytes(bytes.try_into().ok()?)))
    });
    Connection {
        pid,
        fd,
        protocol,
        state: entry.state.name().to_owned(),
        local: entry.local.to_string(),
        peer: has_peer.then(|| entry.peer.to_string()),
        // Of one that the other end has closed the kernel counts that, too.
        unread: entry.receive_queue.saturating_sub(u32::from(entry.state.is_closed_by_peer())),
        given_up: 0,
        unsent: entry.send_queue,
        silent_ms,
    }
}
