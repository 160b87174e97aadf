//! The supervisor's end of its socket to the keeper.

use crate::keeper::protocol::{KeeperEvent, LogTarget, MAX_MESSAGE_BYTES, Request};
use crate::protocol::Slot;
use crate::protocol::wire::{Put, read};
use crate::sys::packet::{Outbox, OutboxError, Received, receive};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The supervisor's end of its socket to the keeper. No call ever waits.
///
/// What the socket cannot take at once is kept, in order, in a bounded queue: watch for `EPOLLOUT` while
/// [`wants_to_write`](Self::wants_to_write) and call [`flush`](Self::flush) then.
#[derive(Debug)]
pub struct KeeperClient {
    socket: OwnedFd,
    outbox: Outbox,
    message: Vec<u8>,
    targets: BTreeMap<Slot, LogTarget>,
    unanswered: BTreeMap<u64, Slot>,
}

impl KeeperClient {
    /// On the descriptor that the guardian handed to the supervisor.
    #[must_use]
    pub fn from_fd(socket: OwnedFd) -> Self {
        Self {
            socket,
            outbox: Outbox::default(),
            message: Vec::new(),
            targets: BTreeMap::new(),
            unanswered: BTreeMap::new(),
        }
    }

    /// Says where a slot's output goes; nothing is read from its pipe before. Again: from now on there.
    ///
    /// # Errors
    ///
    /// The keeper has not read for a long time: nothing was sent.
    pub fn configure(&mut self, target: LogTarget) -> Result<(), OutboxError> {
        let sent = self.outbox.send(&self.socket, written(&mut self.message, &target.request()), None);
        self.targets.insert(target.slot, target);
        sent
    }

    /// Forgets a slot that was released.
    pub fn forget(&mut self, slot: Slot) {
        self.targets.remove(&slot);
    }

    /// Asks for all output that is in the slot's pipe to be written; answered by [`KeeperEvent::Flushed`] with the
    /// same token, which no other unanswered flush may have.
    ///
    /// # Errors
    ///
    /// The keeper has not read for a long time: nothing was sent.
    pub fn flush_slot(&mut self, slot: Slot, token: u64) -> Result<(), OutboxError> {
        self.outbox.send(&self.socket, written(&mut self.message, &Request::Flush { slot, token }), None)?;
        self.unanswered.insert(token, slot);
        Ok(())
    }

    /// Tells a new keeper all that the old one knew
    /// ([`GuardianEvent::KeeperReplaced`](crate::protocol::GuardianEvent::KeeperReplaced)). A flush may be
    /// answered twice then.
    ///
    /// # Errors
    ///
    /// The keeper has not read for a long time: some of it was not sent.
    pub fn resend(&mut self) -> Result<(), OutboxError> {
        for target in self.targets.values() {
            self.outbox.send(&self.socket, written(&mut self.message, &target.request()), None)?;
        }
        for (&token, &slot) in &self.unanswered {
            self.outbox.send(&self.socket, written(&mut self.message, &Request::Flush { slot, token }), None)?;
        }
        Ok(())
    }

    /// Whether requests wait for the socket to become writable.
    #[must_use]
    pub fn wants_to_write(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Sends what waits, as far as the socket takes it.
    ///
    /// # Errors
    ///
    /// The socket is broken.
    pub fn flush(&mut self) -> io::Result<()> {
        self.outbox.flush(&self.socket)
    }

    /// Sends what waits, and waits itself for a keeper that reads it, for so long at most.
    pub fn flush_within(&mut self, within: Duration) {
        let until = Instant::now() + within;
        while self.flush().is_ok() && self.wants_to_write() {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            if poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], Some(&left)) == Ok(0) {
                return;
            }
        }
    }

    /// The next event; `None` when there is none now. [`KeeperEvent::Gone`] comes again at each call.
    ///
    /// # Errors
    ///
    /// The socket is broken, or something was received that the keeper never sends.
    pub fn receive(&mut self) -> io::Result<Option<KeeperEvent>> {
        let mut buffer = [0; MAX_MESSAGE_BYTES];
        let strange = || io::Error::new(io::ErrorKind::InvalidData, "the keeper sent a message that it never sends");
        let event = match receive(&self.socket, &mut buffer)? {
            Received::Message(length, _) => read(&buffer[..length], None).ok_or_else(strange)?,
            Received::Oversized => return Err(strange()),
            Received::Nothing => return Ok(None),
            Received::Gone => KeeperEvent::Gone,
        };
        if let KeeperEvent::Flushed(flushed) = &event {
            self.unanswered.remove(&flushed.token);
        }
        Ok(Some(event))
    }
}

fn written<'a>(message: &'a mut Vec<u8>, request: &Request<'_>) -> &'a [u8] {
    message.clear();
    // There is always room in memory.
    let _ = request.put(message);
    message
}

impl AsFd for KeeperClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
