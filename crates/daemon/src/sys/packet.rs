//! Whole messages, each with at most one file descriptor, over an `AF_UNIX` `SOCK_SEQPACKET` pair (unix(7)).

use crate::sys::fds;
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_send_buffer_size, socket_type};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

/// What each end asks the kernel to hold for it, in bytes: several of the largest messages. The kernel grants at
/// most `net.core.wmem_max` (212,992 by default), which still holds one of the largest.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// Two connected ends: non-blocking, closed by exec.
///
/// # Errors
///
/// No file descriptor or memory is left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (left, right) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    for end in [&left, &right] {
        set_socket_send_buffer_size(end, SEND_BUFFER_BYTES)?;
    }
    Ok((left, right))
}

/// Takes over an end of such a pair that this process was started with, as [`fds::take_inherited`].
///
/// # Errors
///
/// As there; or it is something else, as when a program is started by hand.
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    let socket = fds::take_inherited(number)?;
    if socket_type(&socket)? != SocketType::SEQPACKET {
        return Err(Errno::PROTOTYPE.into());
    }
    Ok(socket)
}

/// What became of a message to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is with the kernel, whole.
    Yes,
    /// There is no room now: try again when the socket is writable.
    Full,
    /// Nobody holds the other end any more.
    Gone,
}

/// Sends one message without waiting. Allocates nothing.
///
/// # Errors
///
/// The message is longer than the socket can ever take, or the descriptor is not a socket.
pub fn send(socket: impl AsFd, message: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<Sent> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: &[BorrowedFd<'_>] = fd.as_slice();
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(_) => return Ok(Sent::Yes),
            // Too many descriptors on their way (unix(7)) is room of another kind, and comes back like room.
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::TOOMANYREFS) => return Ok(Sent::Full),
            Err(Errno::PIPE | Errno::CONNRESET) => return Ok(Sent::Gone),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What was there to receive.
#[derive(Debug)]
pub enum Received {
    /// One whole message of this many bytes, and the descriptor that came with it (closed by exec). The kernel leaves
    /// the descriptor away when this process can have no more (`MSG_CTRUNC`, recvmsg(2)): the message is still good.
    Message(usize, Option<OwnedFd>),
    /// A message that did not fit into the buffer: dropped.
    Oversized,
    /// Nothing now: try again when the socket is readable.
    Nothing,
    /// The other end is closed, and everything it sent was received.
    Gone,
}

/// Receives one message into `buffer` without waiting. Allocates nothing.
///
/// # Errors
///
/// The descriptor is not a socket.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Ok(got) => break got,
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            Err(Errno::CONNRESET) => return Ok(Received::Gone),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    let mut fd = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fd = fds.last();
        }
    }
    if got.flags.contains(ReturnFlags::TRUNC) {
        return Ok(Received::Oversized);
    }
    // A message of Hale is never empty, so that nothing means the end (recv(2)).
    Ok(if got.bytes == 0 { Received::Gone } else { Received::Message(got.bytes, fd) })
}

/// What may wait for the other end to read, in messages: one order for each service that one Hale supervises, twice.
const OUTBOX_MESSAGES: usize = 16_384;

/// What may wait for the other end to read, in bytes: a few kilobytes for each of thousands of orders. The other
/// end reads as fast as it can fork; more than this means that it does not read at all.
const OUTBOX_BYTES: usize = 16 << 20;

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The other end does not read.
    #[error("{messages} messages with {bytes} bytes wait already, because the other end does not read")]
    Full {
        /// How many wait.
        messages: usize,
        /// How long they are together.
        bytes: usize,
    },
    /// Nobody holds the other end.
    #[error("the other end of the socket is closed")]
    Gone,
    /// The kernel refused it.
    #[error("the message could not be sent: {0}")]
    Io(#[from] io::Error),
}

/// Messages in order, which wait for their socket only when it is full, and only up to a bound.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: VecDeque<(Box<[u8]>, Option<OwnedFd>)>,
    bytes: usize,
}

impl Outbox {
    /// Sends `message`, or keeps a copy of it (and of its descriptor) for [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// As listed: the message was neither sent nor kept.
    pub fn send(&mut self, socket: impl AsFd, message: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), OutboxError> {
        if self.waiting.is_empty() {
            match send(socket, message, fd)? {
                Sent::Yes => return Ok(()),
                Sent::Gone => return Err(OutboxError::Gone),
                Sent::Full => {}
            }
        }
        if self.waiting.len() >= OUTBOX_MESSAGES || self.bytes + message.len() > OUTBOX_BYTES {
            return Err(OutboxError::Full { messages: self.waiting.len(), bytes: self.bytes });
        }
        let fd = fd.map(|fd| fd.try_clone_to_owned()).transpose()?;
        self.bytes += message.len();
        self.waiting.push_back((message.into(), fd));
        Ok(())
    }

    /// Sends what waits, as far as the socket takes it. With nobody at the other end nothing is left to wait for.
    ///
    /// # Errors
    ///
    /// The kernel refused a message.
    pub fn flush(&mut self, socket: impl AsFd) -> io::Result<()> {
        while let Some((message, fd)) = self.waiting.front() {
            match send(&socket, message, fd.as_ref().map(AsFd::as_fd))? {
                Sent::Yes => {
                    self.bytes -= message.len();
                    self.waiting.pop_front();
                }
                Sent::Full => return Ok(()),
                Sent::Gone => *self = Self::default(),
            }
        }
        Ok(())
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    #[test]
    fn messages_keep_their_borders_and_their_descriptor() {
        let (left, right) = pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        assert_eq!(send(&left, b"one", None).unwrap(), Sent::Yes);
        assert_eq!(send(&left, b"with a pipe", Some(reader.as_fd())).unwrap(), Sent::Yes);
        rustix::io::write(&writer, b"through").unwrap();
        drop((reader, writer, left));

        let mut buffer = [0; 64];
        assert!(matches!(receive(&right, &mut buffer).unwrap(), Received::Message(3, None)));
        let Received::Message(11, Some(fd)) = receive(&right, &mut buffer).unwrap() else { panic!("no descriptor") };
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        assert!(matches!(receive(&right, &mut buffer).unwrap(), Received::Gone));
    }

    #[test]
    fn a_full_socket_and_a_closed_one_are_told_apart() {
        let (left, right) = pair().unwrap();
        assert!(matches!(receive(&right, &mut [0; 8]).unwrap(), Received::Nothing));
        let message = [7; 4096];
        let sent = (0..100_000).take_while(|_| send(&left, &message, None).unwrap() == Sent::Yes).count();
        assert!((1..100_000).contains(&sent));
        drop(right);
        assert_eq!(send(&left, &message, None).unwrap(), Sent::Gone);
    }

    #[test]
    fn an_outbox_keeps_the_order_across_a_full_socket() {
        let (left, right) = pair().unwrap();
        let mut outbox = Outbox::default();
        for number in 0_u32..5_000 {
            let mut message = [0; 1024];
            message[..4].copy_from_slice(&number.to_le_bytes());
            outbox.send(&left, &message, None).unwrap();
        }
        assert!(!outbox.is_empty());
        let mut buffer = [0; 1024];
        for number in 0_u32..5_000 {
            outbox.flush(&left).unwrap();
            assert!(matches!(receive(&right, &mut buffer).unwrap(), Received::Message(1024, None)));
            assert_eq!(buffer[..4], number.to_le_bytes());
        }
        assert!(outbox.is_empty());
        while outbox.send(&left, &buffer, None).is_ok() {}
        assert!(matches!(outbox.send(&left, &buffer, None), Err(OutboxError::Full { .. })));
    }

    #[test]
    fn a_message_that_does_not_fit_is_dropped_whole() {
        let (left, right) = pair().unwrap();
        send(&left, &[1; 100], None).unwrap();
        send(&left, b"next", None).unwrap();
        let mut buffer = [0; 10];
        assert!(matches!(receive(&right, &mut buffer).unwrap(), Received::Oversized));
        assert!(matches!(receive(&right, &mut buffer).unwrap(), Received::Message(4, None)));
    }
}
