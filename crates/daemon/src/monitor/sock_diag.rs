//! sock_diag(7): asks the kernel for the TCP and UDP sockets of this process's own network namespace, whose processes it
//! does not know, but whose numbers (inodes) it does.

use hale_core::examination::Protocol;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP`, `NLMSG_ERROR`, `NLMSG_DONE` (linux/netlink.h).
const DUMP: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `INET_DIAG_INFO`, `INET_DIAG_SKV6ONLY` (linux/inet_diag.h).
pub(crate) const INFO: u16 = 2;
pub(crate) const SKV6ONLY: u16 = 11;
/// Sizes of `nlmsghdr`, `inet_diag_req_v2`, `inet_diag_msg`.
const HEADER: usize = 16;
const REQUEST: usize = 56;
const MESSAGE: usize = 72;

/// How much the kernel gives at once.
const BUFFER_BYTES: usize = 32 << 10;

/// A state of a socket (net/tcp_states.h). That of a connected UDP socket is established.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State(pub u8);

impl State {
    pub const SYN_SENT: Self = Self(2);
    pub const SYN_RECV: Self = Self(3);
    pub const TIME_WAIT: Self = Self(6);
    pub const CLOSE_WAIT: Self = Self(8);
    pub const LISTEN: Self = Self(10);

    /// Whether the end of what the other one sends has come (`CLOSE_WAIT`, `LAST_ACK`, `CLOSING`), of a TCP socket.
    pub fn is_closed_by_peer(self) -> bool {
        matches!(self.0, 8 | 9 | 11)
    }

    /// Its name in small letters.
    pub fn name(self) -> &'static str {
        const NAMES: [&str; 13] = [
            "unknown",
            "established",
            "syn_sent",
            "syn_recv",
            "fin_wait1",
            "fin_wait2",
            "time_wait",
            "close",
            "close_wait",
            "last_ack",
            "listen",
            "closing",
            "new_syn_recv",
        ];
        NAMES.get(usize::from(self.0)).copied().unwrap_or(NAMES[0])
    }
}

/// Which sockets are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query {
    pub is_ipv6: bool,
    pub protocol: Protocol,
    /// A bit for each state.
    pub states: u32,
    /// Only those with this port of their own; 0: all.
    pub port: u16,
    /// With `tcp_info` ([`INFO`]).
    pub with_info: bool,
}

/// A socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub state: State,
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// Bytes that were not read; of one that listens: connections that wait.
    pub receive_queue: u32,
    /// Bytes that were not acknowledged; of one that listens: how many connections may wait.
    pub send_queue: u32,
    pub inode: u64,
    attributes: &'a [u8],
}

impl<'a> Entry<'a> {
    /// `inet_diag_msg`: family, state, timer, retrans; id (both ports, both addresses of 16 bytes, interface, cookie); expires,
    /// rqueue, wqueue, uid, inode; attributes.
    fn parse(body: &'a [u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?));
        let address = |port: usize, ip: usize| {
            let port = u16::from_be_bytes(body.get(port..port + 2)?.try_into().ok()?);
            let ip: [u8; 16] = body.get(ip..ip + 16)?.try_into().ok()?;
            let ip = match body.first()? {
                2 => IpAddr::V4(Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3])),
                10 => IpAddr::V6(Ipv6Addr::from(ip)),
                _ => return None,
            };
            Some(SocketAddr::new(ip, port))
        };
        Some(Self {
            state: State(*body.get(1)?),
            local: address(4, 8)?,
            peer: address(6, 24)?,
            receive_queue: word(56)?,
            send_queue: word(60)?,
            inode: word(MESSAGE - 4)?.into(),
            attributes: body.get(MESSAGE..)?,
        })
    }

    /// The value of an attribute.
    pub fn attribute(&self, wanted: u16) -> Option<&'a [u8]> {
        let mut rest = self.attributes;
        while let Some(header) = rest.get(..4) {
            let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
            let value = rest.get(4..length)?;
            if u16::from_ne_bytes([header[2], header[3]]) == wanted {
                return Some(value);
            }
            rest = rest.get(length.next_multiple_of(4)..)?;
        }
        None
    }
}

/// A socket to ask the kernel by.
#[derive(Debug)]
pub(crate) struct SockDiag(OwnedFd);

impl SockDiag {
    /// The kernel answers while it is asked; should it not, it is waited for so long.
    pub fn open(within: Duration) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::SOCK_DIAG))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(within))?;
        Ok(Self(socket))
    }

    /// Gives each socket that is wanted.
    ///
    /// # Errors
    /// `ENOENT`: the kernel has no such family; `ETIMEDOUT`: there were more than could be read by `until`, and then no further
    /// question can be asked.
    pub fn dump(&self, query: Query, until: Option<Instant>, mut each: impl FnMut(Entry<'_>)) -> io::Result<()> {
        let mut request = [0_u8; HEADER + REQUEST];
        request[0..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
        request[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        request[6..8].copy_from_slice(&DUMP.to_ne_bytes());
        request[HEADER] = if query.is_ipv6 { 10 } else { 2 };
        request[HEADER + 1] = match query.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        };
        request[HEADER + 2] = u8::from(query.with_info) << (INFO - 1);
        request[HEADER + 4..HEADER + 8].copy_from_slice(&query.states.to_ne_bytes());
        request[HEADER + 8..HEADER + 10].copy_from_slice(&query.port.to_be_bytes());
        send(&self.0, &request, SendFlags::empty())?;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(Errno::TIMEDOUT.into());
            }
            let (length, _) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, body, next)) = message(rest) {
                match kind {
                    DONE => return Ok(()),
                    ERROR => {
                        let number =
                            body.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
                        return Err(io::Error::from_raw_os_error(-number));
                    }
                    BY_FAMILY => Entry::parse(body).into_iter().for_each(&mut each),
                    _ => {}
                }
                rest = next;
            }
            if length == 0 {
                return Err(Errno::IO.into());
            }
        }
    }
}

/// The first message: its kind, what is in it, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    fn all(protocol: Protocol, states: u32, port: u16, with_info: bool) -> Vec<(Entry<'static>, Option<Vec<u8>>)> {
        let diag = SockDiag::open(Duration::from_secs(10)).unwrap();
        let mut all = Vec::new();
        let query = Query { is_ipv6: false, protocol, states, port, with_info };
        diag.dump(query, None, |entry| {
            let info = entry.attribute(INFO).map(<[u8]>::to_vec);
            all.push((Entry { attributes: &[], ..entry }, info));
        })
        .unwrap();
        all
    }

    #[test]
    fn a_connection_is_found_with_its_ends_its_queues_and_its_figures() {
        use std::io::Write;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let waiting = all(Protocol::Tcp, 1 << State::LISTEN.0, address.port(), false);
        assert_eq!((waiting[0].0.local, waiting[0].0.receive_queue), (address, 1), "one waits to be accepted");
        let (_server, _) = listener.accept().unwrap();
        client.write_all(&[0; 77]).unwrap();
        let found = all(Protocol::Tcp, 1 << 1, address.port(), true);
        let (entry, info) = &found[0];
        assert_eq!((entry.local, entry.peer), (address, client.local_addr().unwrap()));
        assert_eq!((entry.receive_queue, entry.state.name()), (77, "established"));
        assert!(info.as_ref().is_some_and(|info| info.len() > 100), "{info:?}");
    }

    #[test]
    fn a_connected_udp_socket_is_found() {
        let (one, other) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        one.connect(other.local_addr().unwrap()).unwrap();
        let found = all(Protocol::Udp, 1 << 1, one.local_addr().unwrap().port(), false);
        assert_eq!(found[0].0.peer, other.local_addr().unwrap());
    }

    #[test]
    fn what_is_cut_off_is_nothing() {
        assert_eq!(message(&[4, 0, 0]), None);
        assert!(Entry::parse(&[2; 71]).is_none());
        let entry = Entry::parse(&[2; 75]).unwrap();
        assert_eq!(entry.attribute(INFO), None);
        assert_eq!(State(99).name(), "unknown");
    }
}
