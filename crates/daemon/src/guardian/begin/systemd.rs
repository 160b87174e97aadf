//! Finding systemd, and the names of what it keeps.

use crate::guardian::systemd::{Kept, MAX_WAITING, MAX_WORDS, Message, PETS_PER_TIMEOUT, Systemd};
use crate::protocol::{MAX_SERVICES, Slot, StoreKey};
use crate::sys::fds::high;
use hale_core::ids::Epoch;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, getppid};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

impl Kept {
    /// Reads a name; `None` when it is none of Hale's.
    pub fn from_name(name: &str) -> Option<Self> {
        let (kind, rest) = name.split_once('.')?;
        let slot = |text: &str| text.parse().ok().filter(|&number| number < MAX_SERVICES).map(Slot);
        let mut words = rest.split('.');
        let mut word = || words.next();
        let kept = match kind {
            "hale" if rest == "began" => Self::Beginning,
            "hale" => Self::Keepers(rest.strip_prefix("keepers.")?.parse().ok()?),
            "hp" => Self::Process(slot(word()?)?, Epoch(word()?.parse().ok()?), word()?.parse().ok()?),
            "ho" => Self::Output(slot(rest)?),
            "hs" => {
                let (kind, slot, index) = (word()?.parse().ok()?, word()?.parse().ok()?, word()?.parse().ok()?);
                Self::Stored(StoreKey::from_parts(kind, slot, index)?)
            }
            _ => return None,
        };
        // Only one spelling is a name.
        (kept.to_string() == name).then_some(kept)
    }
}

impl Systemd {
    /// The socket that `NOTIFY_SOCKET` names: a path, or an abstract name after `@` (sd_notify(3)). `None`: nobody is to be
    /// told anything.
    ///
    /// # Errors
    ///
    /// It is named and cannot be reached.
    pub fn connect(now_ms: u64) -> io::Result<Option<Self>> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Ok(None) };
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddrUnix::new_abstract_name(rest)?,
            path => SocketAddrUnix::new(OsStr::from_bytes(path))?,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        connect(&socket, &address)?;
        let socket = high(socket)?;
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let own = |pid| pid == u64::from(std::process::id());
        let pet_ms = number("WATCHDOG_USEC")
            .filter(|_| number("WATCHDOG_PID").is_none_or(own))
            .map(|usec| (usec / 1_000 / PETS_PER_TIMEOUT).max(1));
        // Set from systemd 248 on (systemd.exec(5)); before that it is the parent.
        let keeps = number("SYSTEMD_EXEC_PID").map_or_else(|| getppid().is_some_and(Pid::is_init), own);
        Ok(Some(Self {
            socket,
            keeps,
            names_bytes: 0,
            full: false,
            pet_ms,
            pet_due_ms: now_ms,
            waiting: Vec::with_capacity(MAX_WAITING + MAX_WORDS),
        }))
    }

    /// To be kept first of all, as soon as the loop turns.
    pub fn keep_first(&mut self, what: Kept, fd: OwnedFd) {
        self.waiting.push(Message::Keep(what, fd));
    }

    /// What it has kept for this process.
    pub fn adopt(&mut self, kept: impl Iterator<Item = Kept>) {
        self.names_bytes = kept.map(Kept::bytes).sum();
    }

    /// Removes all of these, waiting for room: before there is a guardian.
    pub fn discard(mut self, kept: &[Kept]) {
        for what in kept {
            self.await_room();
            self.remove(*what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guardian::systemd::MESSAGE_BYTES;

    #[test]
    fn names_say_what_is_kept_and_no_other_name_does() {
        let kept = [
            Kept::Beginning,
            Kept::Keepers(4),
            Kept::Process(Slot(MAX_SERVICES - 1), Epoch(u64::MAX), i32::MAX),
            Kept::Output(Slot(0)),
            Kept::Stored(StoreKey::Listen(Slot(MAX_SERVICES - 1), 3)),
        ];
        for what in kept {
            let name = what.to_string();
            assert!("FDSTOREREMOVE=1\nFDNAME=".len() + name.len() <= MESSAGE_BYTES, "{name}");
            assert_eq!(Kept::from_name(&name), Some(what), "{name}");
        }
        let strange = ["ho.8192", "ho.01", "hp.1.2", "hp.1.2.3.4", "hs.9.0.0", "hale.", "http"];
        for name in strange {
            assert_eq!(Kept::from_name(name), None, "{name}");
        }
    }
}
