//! The supervisor's end of its socket to the guardian.

use crate::keeper::client::KeeperClient;
use crate::protocol::wire::{Put, read};
use crate::protocol::{
    GuardianEvent, MAX_ANSWER_BYTES, MAX_GROUPS, MAX_ORDER_BYTES, MAX_SERVICES, MAX_STRINGS, Order, Slot, SpawnOrder,
    StoreKey,
};
use crate::sys::fds::take_inherited;
use crate::sys::packet::{Outbox, OutboxError, Received, receive};
use hale_core::ids::Epoch;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Why an order was not sent.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// Longer than the guardian reads.
    #[error(
        "the order has {0} bytes, and at most {MAX_ORDER_BYTES} are possible: shorten the arguments or the environment"
    )]
    TooLong(usize),
    /// More arguments, or more variables, than the guardian has room for.
    #[error("{0} arguments or environment variables are more than the {MAX_STRINGS} that are possible")]
    TooManyStrings(usize),
    /// More groups than the guardian has room for.
    #[error("{0} supplementary groups are more than the {MAX_GROUPS} that are possible")]
    TooManyGroups(usize),
    /// The slot does not exist.
    #[error("slot {0} is not below {MAX_SERVICES}, the most services that one Hale supervises")]
    NoSuchSlot(Slot),
    /// The socket takes no more, and what may wait for it is full or cannot be sent.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}

/// The supervisor's end of its socket to the guardian. No call ever waits.
///
/// What the socket cannot take at once is kept, in order, in a bounded queue: watch for `EPOLLOUT` while
/// [`wants_to_write`](Self::wants_to_write) and call [`flush`](Self::flush) then.
#[derive(Debug)]
pub struct GuardianClient {
    socket: OwnedFd,
    outbox: Outbox,
    message: Vec<u8>,
}

/// Takes over the two sockets with which the guardian starts a supervisor: descriptors 3 and 4. Once.
///
/// # Errors
///
/// This process was not started by the guardian, or has taken them already.
pub fn inherited() -> io::Result<(GuardianClient, KeeperClient)> {
    Ok((GuardianClient::from_fd(take_inherited(3)?), KeeperClient::from_fd(take_inherited(4)?)))
}

impl GuardianClient {
    /// On the descriptor that the guardian handed to the supervisor.
    #[must_use]
    pub fn from_fd(socket: OwnedFd) -> Self {
        Self { socket, outbox: Outbox::default(), message: Vec::new() }
    }

    /// Orders a process; answered by [`GuardianEvent::Spawned`] and then [`GuardianEvent::Executed`], or by
    /// [`GuardianEvent::SpawnFailed`]. It also acknowledges the end of the slot's process before it, when that was
    /// already reported.
    ///
    /// # Errors
    ///
    /// The order is too large, or the guardian has not read for a long time: nothing was sent.
    pub fn spawn(&mut self, order: &SpawnOrder<'_>) -> Result<(), OrderError> {
        if order.slot.0 >= MAX_SERVICES {
            return Err(OrderError::NoSuchSlot(order.slot));
        }
        let strings = order.argv.len().max(order.environment.len());
        if strings > MAX_STRINGS {
            return Err(OrderError::TooManyStrings(strings));
        }
        let groups = order.identity.map_or(0, |identity| identity.groups.len());
        if groups > MAX_GROUPS {
            return Err(OrderError::TooManyGroups(groups));
        }
        self.order(&Order::Spawn(order), order.cgroup)
    }

    /// An order to a guardian that is gone is lost without an error: it says nothing about the service that it is for, and what it means
    /// is told by [`GuardianEvent::Gone`] alone.
    fn order(&mut self, order: &Order<&SpawnOrder<'_>>, fd: Option<BorrowedFd<'_>>) -> Result<(), OrderError> {
        self.message.clear();
        // There is always room in memory.
        let _ = order.put(&mut self.message);
        if self.message.len() > MAX_ORDER_BYTES {
            return Err(OrderError::TooLong(self.message.len()));
        }
        match self.outbox.send(&self.socket, &self.message, fd) {
            Ok(()) | Err(OutboxError::Gone) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets the guardian forget how this process ended. Not needed before a [`spawn`](Self::spawn) in the slot.
    ///
    /// # Errors
    ///
    /// The guardian has not read for a long time: nothing was sent.
    pub fn ack(&mut self, slot: Slot, epoch: Epoch) -> Result<(), OrderError> {
        self.order(&Order::Ack { slot, epoch }, None)
    }

    /// Ends the slot: its service was removed. Its output pipe is closed; what is in it is still kept. Ignored
    /// while a process runs in it.
    ///
    /// # Errors
    ///
    /// The guardian has not read for a long time: nothing was sent.
    pub fn release(&mut self, slot: Slot) -> Result<(), OrderError> {
        self.order(&Order::Release { slot }, None)
    }

    /// Says that everything is stopped: the guardian ends the keeper, after all output is in its files, and exits
    /// with this code. The supervisor exits after this call.
    ///
    /// # Errors
    ///
    /// The guardian has not read for a long time: nothing was sent.
    pub fn shutdown_done(&mut self, exit_code: u8) -> Result<(), OrderError> {
        self.order(&Order::ShutdownDone { exit_code }, None)
    }

    /// Proves that the loop turns.
    ///
    /// # Errors
    ///
    /// The guardian has not read for a long time: nothing was sent.
    pub fn prove(&mut self, nonce: u64) -> Result<(), OrderError> {
        self.order(&Order::Prove { nonce }, None)
    }

    /// Has the guardian keep a descriptor for the next supervisor, in place of the one with the same key.
    ///
    /// # Errors
    ///
    /// The guardian has not read for a long time: nothing was sent.
    pub fn store(&mut self, key: StoreKey, fd: BorrowedFd<'_>) -> Result<(), OrderError> {
        self.order(&Order::Store { key }, Some(fd))
    }

    /// Has the guardian close a descriptor that it keeps.
    ///
    /// # Errors
    ///
    /// The guardian has not read for a long time: nothing was sent.
    pub fn unstore(&mut self, key: StoreKey) -> Result<(), OrderError> {
        self.order(&Order::Unstore { key }, None)
    }

    /// Has the guardian close a copy of this descriptor, behind everything that it was sent before. To be closed here, too;
    /// a pipe, because closing others may take its time.
    ///
    /// # Errors
    ///
    /// The guardian has not read for a long time: nothing was sent.
    pub fn close(&mut self, fd: BorrowedFd<'_>) -> Result<(), OrderError> {
        self.order(&Order::Close, Some(fd))
    }

    /// Says whether the guardian may stop petting the hardware timer when it has a reason to. To be ordered only after
    /// the permission is on record and synced.
    ///
    /// # Errors
    ///
    /// The guardian has not read for a long time: nothing was sent.
    pub fn may_reboot(&mut self, allowed: bool) -> Result<(), OrderError> {
        self.order(&Order::MayReboot { allowed }, None)
    }

    /// Has the guardian stop petting the hardware timer, if it [may](Self::may_reboot): the machine is reset within the
    /// timer's time. Nothing takes that back.
    ///
    /// # Errors
    ///
    /// The guardian has not read for a long time: nothing was sent.
    pub fn reboot(&mut self) -> Result<(), OrderError> {
        self.order(&Order::Reboot, None)
    }

    /// Whether orders wait for the socket to become writable.
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

    /// The next event; `None` when there is none now. [`GuardianEvent::Gone`] comes again at each call.
    ///
    /// # Errors
    ///
    /// The socket is broken, or something was received that the guardian never sends.
    pub fn receive(&mut self) -> io::Result<Option<GuardianEvent>> {
        let mut buffer = [0; MAX_ANSWER_BYTES];
        let strange = || io::Error::new(io::ErrorKind::InvalidData, "the guardian sent a message that it never sends");
        match receive(&self.socket, &mut buffer)? {
            Received::Message(length, fd) => read(&buffer[..length], fd).map(Some).ok_or_else(strange),
            Received::Oversized => Err(strange()),
            Received::Nothing => Ok(None),
            Received::Gone => Ok(Some(GuardianEvent::Gone)),
        }
    }
}

impl AsFd for GuardianClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
