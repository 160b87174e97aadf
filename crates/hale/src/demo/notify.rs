//! The client's side of sd_notify(3): one datagram for each message.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// A connected notify socket.
pub struct Notify(UnixDatagram);

impl Notify {
    /// The socket named by `NOTIFY_SOCKET`; `None` where nobody listens.
    pub fn from_environment() -> Option<Self> {
        let name = env::var_os("NOTIFY_SOCKET")?;
        // sd_notify(3): "@" stands for the null byte that starts an abstract name.
        let address = match name.as_bytes().split_first() {
            Some((b'@', rest)) => SocketAddr::from_abstract_name(rest),
            Some(_) | None => SocketAddr::from_pathname(&name),
        };
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect_addr(&address.ok()?).ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(Self(socket))
    }

    /// Sends `message`. A full or vanished socket loses it, as sd_notify(3) advises: a service does not fail
    /// because its supervisor does.
    pub fn send(&self, message: &str) {
        let _lost = self.0.send(message.as_bytes());
    }
}

/// The longest time between two heartbeats that the supervisor asked this process for
/// (sd_watchdog_enabled(3)).
pub fn asked_interval() -> Option<Duration> {
    let meant_for = env::var("WATCHDOG_PID").ok();
    if meant_for.is_some_and(|pid| pid != std::process::id().to_string()) {
        return None;
    }
    let within_us: u64 = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (within_us > 0).then(|| Duration::from_micros(within_us))
}
