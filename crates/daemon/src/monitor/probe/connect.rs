//! Connections for probes: to literal addresses directly, to names by a few threads that may hang without harm.

use super::{Deadline, Verdict, is_shortage};
use std::fmt::{self, Display};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;

/// How many name lookups may run at once. getaddrinfo(3) blocks a thread, for as long as the name server likes,
/// and nothing can end it; so many hung ones cost some stacks, and one more would not get an answer either.
const LOOKUPS_MAX: usize = 4;

/// How many addresses of one name are tried: a service on this machine has one or two.
const ADDRESSES_MAX: usize = 8;

/// The pause before a unix socket whose queue is full is tried again: unix(7) says EAGAIN then and offers nothing
/// to wait for. Long against a connect, short against any timeout.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(10);

/// What is waited for, in words that are made only when it does not come.
struct ConnectionTo<T>(T);

impl<T: Display> Display for ConnectionTo<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the connection to {}", self.0)
    }
}

/// Finds the addresses of names.
pub(super) struct Resolver {
    lookups: Arc<Semaphore>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }
}

impl Resolver {
    /// The addresses of `host`, an address, a name, or an IPv6 address in brackets. `localhost` is the loopback
    /// interface (RFC 6761, section 6.3) and needs no lookup.
    async fn resolve(&self, host: &str, port: u16, deadline: Deadline) -> Result<Vec<SocketAddr>, Verdict> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        if bare.eq_ignore_ascii_case("localhost") {
            return Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
        }
        let slot = deadline.bound_own("a slot for a name lookup, all hang", self.lookups.clone().acquire_owned());
        let slot = slot.await?.map_err(|closed| Verdict::unable(format_args!("no name lookups: {closed}")))?;
        let name = bare.to_owned();
        // The slot goes with the thread, not with the probe: it is free again when the lookup has ended.
        let lookup = tokio::task::spawn_blocking(move || {
            let found = (name.as_str(), port).to_socket_addrs();
            drop(slot);
            found
        });
        match deadline.bound("the name lookup", lookup).await.map_err(Verdict::unresolved)? {
            Ok(Ok(found)) => Ok(found.take(ADDRESSES_MAX).collect()),
            Ok(Err(error)) => {
                // getaddrinfo(3) may say EAI_AGAIN without saying that it was short of descriptors.
                let hidden = std::fs::File::open("/dev/null").err().filter(is_shortage);
                let error = hidden.unwrap_or(error);
                let verdict =
                    Verdict::by_error(&error, format_args!("name lookup of {bare} failed: {}", words(&error)));
                Err(if is_shortage(&error) { verdict } else { verdict.unresolved() })
            }
            Err(ended) => Err(Verdict::unable(format_args!("name lookup of {bare} failed: {ended}"))),
        }
    }

    /// A new connection to `authority`, which is `host:port`, or `host` where there is a default port.
    pub(super) async fn connect(
        &self,
        authority: &str,
        default_port: Option<u16>,
        deadline: Deadline,
    ) -> Result<TcpStream, Verdict> {
        let (host, port) = split(authority, default_port)
            .ok_or_else(|| Verdict::wrong(format_args!("{authority:?} is not host:port")))?;
        let mut last = Verdict::wrong(format_args!("{host} has no address")).unresolved();
        for address in self.resolve(host, port, deadline).await? {
            match deadline.bound(ConnectionTo(address), TcpStream::connect(address)).await? {
                Ok(stream) if is_to_itself(&stream, port) => {
                    last = failed(&io::ErrorKind::ConnectionRefused.into(), &address);
                }
                Ok(stream) => return Ok(stream),
                // What the other addresses answer does not tell what this one would have.
                Err(error) if is_shortage(&error) => return Err(failed(&error, &address)),
                Err(error) => last = failed(&error, &address),
            }
        }
        Err(last)
    }
}

/// A new connection to the unix socket at `path`.
pub(super) async fn connect_unix(path: &str, deadline: Deadline) -> Result<UnixStream, Verdict> {
    let attempts = async {
        loop {
            match UnixStream::connect(path).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(QUEUE_FULL_PAUSE).await,
                result => break result,
            }
        }
    };
    let result = deadline.bound(ConnectionTo(format!("unix:{path}")), attempts).await?;
    result.map_err(|error| failed(&error, &format_args!("unix:{path}")))
}

/// Splits `host:port`; the host of an IPv6 address keeps its brackets.
pub(super) fn split(authority: &str, default_port: Option<u16>) -> Option<(&str, u16)> {
    let in_host = authority.rfind(']').unwrap_or(0);
    match authority[in_host..].rfind(':') {
        Some(colon) => {
            let (host, port) = authority.split_at(in_host + colon);
            Some((host, port[1..].parse().ok()?))
        }
        None => Some((authority, default_port?)),
    }
}

/// Whether both ends are the same socket: Linux may give a connection the very port that it goes to, when that is
/// in `net.ipv4.ip_local_port_range` and nobody listens there, and TCP then connects it with itself.
fn is_to_itself(stream: &TcpStream, port: u16) -> bool {
    let Some(local) = stream.local_addr().ok().filter(|local| local.port() == port) else { return false };
    stream.peer_addr().is_ok_and(|peer| peer == local)
}

fn failed(error: &io::Error, to: &dyn Display) -> Verdict {
    Verdict::by_error(error, format_args!("{} ({to})", words(error)))
}

/// An operating system's error in the words that people search for, without its number.
pub(super) fn words(error: &io::Error) -> String {
    let text = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::ConnectionReset => "connection reset",
        io::ErrorKind::NotFound => "no such file",
        _ => {
            let text = error.to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            let mut chars = text.chars();
            return chars.next().into_iter().flat_map(char::to_lowercase).chain(chars).collect();
        }
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hale_core::time::Span;

    #[test]
    fn authorities_are_split_at_the_last_colon_outside_of_brackets() {
        let cases = [
            ("127.0.0.1:80", Some(("127.0.0.1", 80))),
            ("[::1]:8080", Some(("[::1]", 8080))),
            ("[::1]", Some(("[::1]", 1))),
            ("name", Some(("name", 1))),
            ("name:70000", None),
        ];
        for (text, parts) in cases {
            assert_eq!(split(text, Some(1)), parts, "{text}");
        }
        assert_eq!(split("name", None), None);
    }

    /// Nobody listens, and yet it connects.
    #[tokio::test]
    async fn a_connection_with_itself_is_found_out() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let own = socket.local_addr().unwrap();
        assert!(is_to_itself(&socket.connect(own).await.unwrap(), own.port()));
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        assert!(!is_to_itself(&stream, address.port()));
        // From the same port of another address.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, 2), address.port()).into()).unwrap();
        assert!(!is_to_itself(&socket.connect(address).await.unwrap(), address.port()));
    }

    #[tokio::test]
    async fn hung_lookups_leave_literal_addresses_and_localhost_alone() {
        let resolver = Resolver::default();
        let _hung = resolver.lookups.clone().acquire_many_owned(4).await.unwrap();
        let deadline = Deadline::start(Span::from_ms(20));
        assert_eq!(resolver.resolve("127.0.0.1", 9, deadline).await.unwrap(), ["127.0.0.1:9".parse().unwrap()]);
        assert_eq!(resolver.resolve("[::1]", 9, deadline).await.unwrap(), ["[::1]:9".parse().unwrap()]);
        assert_eq!(resolver.resolve("localhost", 9, deadline).await.unwrap().len(), 2);
        let detail = "not run within 20 ms: waiting for a slot for a name lookup, all hang";
        assert_eq!(resolver.resolve("name.invalid", 9, deadline).await, Err(Verdict::unable(detail)));
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_is_no_answer_of_anybody_and_gives_its_slot_back() {
        let resolver = Resolver::default();
        let deadline = Deadline::start(Span::from_secs(30));
        let verdict = resolver.resolve("no-such-name.invalid", 9, deadline).await.unwrap_err();
        assert!(verdict.detail.starts_with("name lookup of no-such-name.invalid failed: "), "{verdict:?}");
        assert_eq!(verdict.failure, Some(hale_core::event::ProbeFailure::Unresolved));
        assert_eq!(resolver.lookups.available_permits(), LOOKUPS_MAX);
    }
}
