//! The messages of the keeper: from the supervisor what to keep and how, from the guardian the pipes, and its
//! answers.

use crate::guardian::protocol::Slot;
use crate::guardian::wire::{Reader, Writer};
use std::ffi::{CStr, CString};

/// The longest message, in bytes: a path (`PATH_MAX`, 4096) and some numbers.
pub(crate) const MAX_MESSAGE_BYTES: usize = 4096 + 64;

/// Where one service's output goes, and its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogTarget {
    /// Whose output.
    pub slot: Slot,
    /// `<log_dir>/<service>`, absolute; the keeper creates it (0750). The newest output is in `current`.
    pub directory: CString,
    /// `current` becomes `@<number>.log` at this size in bytes; at least 1.
    pub max_size_bytes: u64,
    /// How many of these are kept beside `current`.
    pub keep: u32,
    /// What is written, in bytes per second, with one second of burst and what is in the pipe at once. More is drained
    /// and counted.
    pub rate_bytes: u64,
}

/// How far a service's output has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flushed {
    /// Whose output.
    pub slot: Slot,
    /// The number given to [`KeeperClient::flush_slot`](super::client::KeeperClient::flush_slot).
    pub token: u64,
    /// The size of `current` in bytes, with all output that was written before the keeper read the request.
    pub size_bytes: u64,
    /// What was drained and not written since the keeper started, in bytes.
    pub dropped_bytes: u64,
}

/// What the keeper tells the supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeeperEvent {
    /// A flush is done.
    Flushed(Flushed),
    /// Output was drained and not written: above the rate, or the file could not be written. Told at once, then at most
    /// once a minute, and when nothing was dropped for ten seconds.
    Dropped {
        /// Whose output.
        slot: Slot,
        /// How much since the last such event, in bytes.
        bytes: u64,
    },
    /// The socket is closed: guardian and keeper are gone.
    Gone,
}

const CONFIGURE: u8 = 1;
const FLUSH: u8 = 2;
const PIPE: u8 = 3;
const DRAIN: u8 = 4;
const CHALLENGE: u8 = 5;

const FLUSHED: u8 = 1;
const DROPPED: u8 = 2;

/// Writes where a service's output goes.
pub(crate) fn write_configure(out: &mut Vec<u8>, target: &LogTarget) {
    let mut out = Writer(out);
    out.u8(CONFIGURE);
    out.u32(target.slot.0);
    out.u64(target.max_size_bytes);
    out.u32(target.keep);
    out.u64(target.rate_bytes);
    out.text(&target.directory);
}

/// Writes a request to flush.
pub(crate) fn write_flush(out: &mut Vec<u8>, slot: Slot, token: u64) {
    let mut out = Writer(out);
    out.u8(FLUSH);
    out.u32(slot.0);
    out.u64(token);
}

/// The message that goes with a pipe's read end; allocates nothing.
pub(crate) fn pipe_message(slot: Slot) -> [u8; 5] {
    let [a, b, c, d] = slot.0.to_le_bytes();
    [PIPE, a, b, c, d]
}

/// The message with a number that has to come back; allocates nothing.
pub(crate) fn challenge_message(nonce: u64) -> [u8; 9] {
    let [a, b, c, d, e, f, g, h] = nonce.to_le_bytes();
    [CHALLENGE, a, b, c, d, e, f, g, h]
}

/// The answer to it: the number itself.
pub(crate) fn read_proof(message: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(message.try_into().ok()?))
}

/// The message that ends the keeper once everything is in its files.
pub(crate) const DRAIN_MESSAGE: [u8; 1] = [DRAIN];

/// A request as the keeper reads it.
#[derive(Debug)]
pub(crate) enum Request<'a> {
    Configure { slot: Slot, directory: &'a CStr, max_size_bytes: u64, keep: u32, rate_bytes: u64 },
    Flush { slot: Slot, token: u64 },
    Pipe { slot: Slot },
    Drain,
    Challenge { nonce: u64 },
}

/// Reads a request; `None` when it is not one.
pub(crate) fn read_request(message: &[u8]) -> Option<Request<'_>> {
    let mut reader = Reader(message);
    let request = match reader.u8()? {
        CONFIGURE => Request::Configure {
            slot: Slot(reader.u32()?),
            max_size_bytes: reader.u64()?,
            keep: reader.u32()?,
            rate_bytes: reader.u64()?,
            directory: reader.text()?,
        },
        FLUSH => Request::Flush { slot: Slot(reader.u32()?), token: reader.u64()? },
        PIPE => Request::Pipe { slot: Slot(reader.u32()?) },
        DRAIN => Request::Drain,
        CHALLENGE => Request::Challenge { nonce: reader.u64()? },
        _ => return None,
    };
    reader.end()?;
    Some(request)
}

/// Writes the answer to a flush.
pub(crate) fn write_flushed(out: &mut Vec<u8>, flushed: &Flushed) {
    let mut out = Writer(out);
    out.u8(FLUSHED);
    out.u32(flushed.slot.0);
    out.u64(flushed.token);
    out.u64(flushed.size_bytes);
    out.u64(flushed.dropped_bytes);
}

/// Writes a count of dropped bytes.
pub(crate) fn write_dropped(out: &mut Vec<u8>, slot: Slot, bytes: u64) {
    let mut out = Writer(out);
    out.u8(DROPPED);
    out.u32(slot.0);
    out.u64(bytes);
}

/// Reads an answer; `None` when it is not one.
pub(crate) fn read_answer(message: &[u8]) -> Option<KeeperEvent> {
    let mut reader = Reader(message);
    let event = match reader.u8()? {
        FLUSHED => KeeperEvent::Flushed(Flushed {
            slot: Slot(reader.u32()?),
            token: reader.u64()?,
            size_bytes: reader.u64()?,
            dropped_bytes: reader.u64()?,
        }),
        DROPPED => KeeperEvent::Dropped { slot: Slot(reader.u32()?), bytes: reader.u64()? },
        _ => return None,
    };
    reader.end()?;
    Some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_arrive_as_they_were_sent() {
        let target = LogTarget {
            slot: Slot(3),
            directory: c"/var/log/hale/bot".into(),
            max_size_bytes: 64 << 20,
            keep: 8,
            rate_bytes: 16 << 20,
        };
        let mut bytes = Vec::new();
        write_configure(&mut bytes, &target);
        let Some(Request::Configure { slot, directory, max_size_bytes, keep, rate_bytes }) = read_request(&bytes)
        else {
            panic!("not a configuration")
        };
        assert_eq!(LogTarget { slot, directory: directory.into(), max_size_bytes, keep, rate_bytes }, target);
        for end in 0..bytes.len() {
            assert!(read_request(&bytes[..end]).is_none(), "cut at {end}");
        }
        assert!(matches!(read_request(&pipe_message(Slot(513))), Some(Request::Pipe { slot: Slot(513) })));
        assert!(matches!(read_request(&challenge_message(u64::MAX)), Some(Request::Challenge { nonce: u64::MAX })));
        assert_eq!(read_proof(&7_u64.to_le_bytes()), Some(7));

        let flushed = Flushed { slot: Slot(1), token: 2, size_bytes: 3, dropped_bytes: 4 };
        bytes.clear();
        write_flushed(&mut bytes, &flushed);
        assert_eq!(read_answer(&bytes), Some(KeeperEvent::Flushed(flushed)));
    }
}
