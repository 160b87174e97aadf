//! The messages of the keeper: from the supervisor what to keep and how, from the guardian the pipes, and its
//! answers.

use crate::protocol::Slot;
use crate::protocol::wire::wire;
use std::ffi::{CStr, CString};

/// The longest message, in bytes: a path (`PATH_MAX`, 4096) and some numbers.
pub(crate) const MAX_MESSAGE_BYTES: usize = 4096 + 64;

/// Room for the longest answer, in bytes.
pub(crate) const ANSWER_BYTES: usize = 32;

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

wire!(enum KeeperEvent {
    // Is heard, not said.
    0 => Gone,
    1 => Flushed(flushed),
    2 => Dropped { slot, bytes },
});
wire!(struct Flushed { slot, token, size_bytes, dropped_bytes });

/// What a keeper is told: by the supervisor the first two, by the guardian the others.
#[derive(Debug)]
pub(crate) enum Request<'a> {
    /// As in [`LogTarget`].
    Configure {
        slot: Slot,
        max_size_bytes: u64,
        keep: u32,
        rate_bytes: u64,
        directory: &'a CStr,
    },
    Flush {
        slot: Slot,
        token: u64,
    },
    /// The read end of the slot's pipe goes beside it.
    Pipe {
        slot: Slot,
    },
    /// The keeper ends once everything is in its files.
    Drain,
    /// The number comes back, alone.
    Challenge {
        nonce: u64,
    },
}

wire!(enum Request<'a> {
    1 => Configure { slot, max_size_bytes, keep, rate_bytes, directory },
    2 => Flush { slot, token },
    3 => Pipe { slot },
    4 => Drain,
    5 => Challenge { nonce },
});

impl LogTarget {
    pub(crate) fn request(&self) -> Request<'_> {
        let &Self { slot, max_size_bytes, keep, rate_bytes, ref directory } = self;
        Request::Configure { slot, max_size_bytes, keep, rate_bytes, directory }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::wire::{Put, read};

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
        target.request().put(&mut bytes).unwrap();
        let Some(Request::Configure { slot, directory, max_size_bytes, keep, rate_bytes }) = read(&bytes, None) else {
            panic!("not a configuration")
        };
        assert_eq!(LogTarget { slot, directory: directory.into(), max_size_bytes, keep, rate_bytes }, target);
        for end in 0..bytes.len() {
            assert!(read::<Request<'_>>(&bytes[..end], None).is_none(), "cut at {end}");
        }
        let mut challenge = Vec::new();
        Request::Challenge { nonce: u64::MAX }.put(&mut challenge).unwrap();
        assert!(matches!(read(&challenge, None), Some(Request::Challenge { nonce: u64::MAX })));

        let flushed = KeeperEvent::Flushed(Flushed { slot: Slot(1), token: 2, size_bytes: 3, dropped_bytes: 4 });
        bytes.clear();
        flushed.put(&mut bytes).unwrap();
        assert_eq!(read(&bytes, None), Some(flushed));
    }
}
