//! One service's output on its way from its pipe into its log.

use crate::keeper::log_file::LogFile;
use crate::keeper::protocol::LogTarget;
use crate::keeper::rate::Bucket;
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use std::os::fd::OwnedFd;

/// How much of one service's output is carried before the others get their turn, in bytes: a full pipe.
pub const TURN_BYTES: u64 = 64 * 1024;

/// After the last drop it takes this long until the flood counts as ended, in microseconds: the length of the burst.
const FLOOD_END_US: u64 = 1_000_000;

/// First and longest delay until a log that could not be written is tried again, in microseconds. Until then its
/// output is drained, at most as much as this at the rate.
const RETRY_FIRST_US: u64 = 100_000;
const RETRY_MOST_US: u64 = 5_000_000;

/// What all services share: a way that no service's pipe is locked on while a disk is slow, because splice(2) holds
/// the lock of the pipe it writes to a file from. What is in it survives the keeper, as does the number of the slot
/// that it belongs to.
#[derive(Debug)]
pub struct Staging {
    /// The pipe's ends.
    pub read: OwnedFd,
    /// See above.
    pub write: OwnedFd,
    /// `/dev/null`.
    pub null: OwnedFd,
}

/// One service.
#[derive(Debug)]
pub struct Service {
    /// Its pipe, until everybody has closed it.
    pub pipe: Option<OwnedFd>,
    target: LogTarget,
    log: Log,
    bucket: Bucket,
    /// All since the start.
    dropped_bytes: u64,
    /// Not in an event yet.
    unreported_bytes: u64,
    above_rate: Drops,
    unwritable: Drops,
}

/// What was dropped for one reason and is not noted in the log yet.
#[derive(Debug, Default)]
struct Drops {
    bytes: u64,
    last_us: u64,
}

#[derive(Debug)]
enum Log {
    Open(LogFile),
    Failed { retry_us: u64, delay_us: u64 },
}

impl Service {
    /// For this target, from now on.
    #[must_use]
    pub fn new(target: LogTarget, pipe: Option<OwnedFd>, now_us: u64) -> Self {
        Self {
            pipe,
            log: Log::Failed { retry_us: 0, delay_us: RETRY_FIRST_US },
            bucket: Bucket::new(target.rate_bytes, now_us),
            target,
            dropped_bytes: 0,
            unreported_bytes: 0,
            above_rate: Drops::default(),
            unwritable: Drops::default(),
        }
    }

    /// Another target, if it is another one.
    pub fn retarget(&mut self, target: LogTarget, now_us: u64) {
        if self.target != target {
            self.bucket = Bucket::new(target.rate_bytes, now_us);
            self.log = Log::Failed { retry_us: 0, delay_us: RETRY_FIRST_US };
            self.target = target;
        }
    }

    /// The size of its log now, in bytes; zero when it could not be opened.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        match &self.log {
            Log::Open(log) => log.size_bytes(),
            Log::Failed { .. } => 0,
        }
    }

    /// All that was dropped since the start, in bytes.
    #[must_use]
    pub fn dropped_bytes(&self) -> u64 {
        self.dropped_bytes
    }

    /// What was dropped and not reported yet, in bytes.
    #[must_use]
    pub fn unreported(&self) -> u64 {
        self.unreported_bytes
    }

    /// The same, and from now on it counts as reported.
    pub fn take_unreported(&mut self) -> u64 {
        std::mem::take(&mut self.unreported_bytes)
    }

    /// When [`on_time`](Self::on_time) has something to do.
    #[must_use]
    pub fn deadline_us(&self) -> Option<u64> {
        let flood = (self.above_rate.bytes > 0).then(|| self.above_rate.last_us + FLOOD_END_US);
        let retry = match self.log {
            Log::Failed { retry_us, .. } if self.unwritable.bytes > 0 => Some(retry_us),
            Log::Failed { .. } | Log::Open(_) => None,
        };
        flood.into_iter().chain(retry).min()
    }

    /// Notes what was dropped, when the reason for it is over.
    pub fn on_time(&mut self, now_us: u64) {
        if self.deadline_us().is_some_and(|deadline| deadline <= now_us) {
            self.note_drops(now_us);
            if matches!(self.log, Log::Failed { .. }) {
                // Not at every turn: with the log's next try.
                self.above_rate.last_us = now_us;
            }
        }
    }

    /// Moves up to `most_bytes` of the pipe into staging, and drops what is above the rate. `false`: nothing is
    /// there now.
    ///
    /// Staging must be empty, and [written](Self::write_staged) next.
    pub fn stage(&mut self, staging: &Staging, most_bytes: u64, now_us: u64) -> Progress {
        let Some(pipe) = &self.pipe else { return Progress::default() };
        // An error cannot come from a pipe; nothing there is the harmless answer.
        let there = rustix::io::ioctl_fionread(pipe).unwrap_or(0).min(most_bytes);
        if there == 0 {
            return Progress::default();
        }
        let allowed = self.bucket.take(there, now_us);
        let staged = move_bytes(pipe, &staging.write, allowed).unwrap_or(0);
        let mut dropped = 0;
        if staged == allowed && allowed < there {
            dropped = move_bytes(pipe, &staging.null, there - allowed).unwrap_or(0);
            self.above_rate.bytes += dropped;
            self.above_rate.last_us = now_us;
            self.count_dropped(dropped);
        }
        Progress { staged_bytes: staged, dropped_bytes: dropped }
    }

    /// Writes all of staging into the log. What cannot be written is dropped and counted.
    pub fn write_staged(&mut self, staging: &Staging, now_us: u64) {
        while let Ok(left @ 1..) = rustix::io::ioctl_fionread(&staging.read) {
            let failed = match self.open_log(now_us) {
                Some(log) => log.take(&staging.read, left).is_err(),
                None => true,
            };
            if failed {
                self.fail_log(now_us);
                let dropped = move_bytes(&staging.read, &staging.null, left).unwrap_or(left);
                self.unwritable.bytes += dropped;
                self.unwritable.last_us = now_us;
                self.count_dropped(dropped);
                if dropped == 0 {
                    return;
                }
            }
        }
    }

    /// Writes into the log what was dropped and is not noted there yet.
    pub fn note_drops(&mut self, now_us: u64) {
        let rate = self.target.rate_bytes;
        let (above_rate, unwritable) = (self.above_rate.bytes, self.unwritable.bytes);
        if above_rate + unwritable == 0 {
            return;
        }
        let Some(log) = self.open_log(now_us) else { return };
        let mut note =
            |bytes: u64, why: &str| bytes == 0 || log.note(&format!("hale: dropped {bytes} bytes {why}")).is_ok();
        let rate_noted = note(above_rate, &format!("above the rate of {rate} bytes/s"));
        let failure_noted = note(unwritable, "while the log could not be written");
        if rate_noted {
            self.above_rate.bytes = 0;
        }
        if failure_noted {
            self.unwritable.bytes = 0;
        }
        if !(rate_noted && failure_noted) {
            self.fail_log(now_us);
        }
    }

    fn count_dropped(&mut self, bytes: u64) {
        self.dropped_bytes += bytes;
        self.unreported_bytes += bytes;
    }

    fn open_log(&mut self, now_us: u64) -> Option<&mut LogFile> {
        if let Log::Failed { retry_us, delay_us } = self.log
            && now_us >= retry_us
        {
            let target = &self.target;
            self.log = match LogFile::open(&target.directory, target.max_size_bytes, target.keep) {
                Ok(log) => Log::Open(log),
                Err(_) => Log::Failed { retry_us: now_us + delay_us, delay_us: (delay_us * 2).min(RETRY_MOST_US) },
            };
        }
        match &mut self.log {
            Log::Open(log) => Some(log),
            Log::Failed { .. } => None,
        }
    }

    /// Closes a log that could not be written, until the next try.
    fn fail_log(&mut self, now_us: u64) {
        if let Log::Open(_) = self.log {
            self.log = Log::Failed { retry_us: now_us + RETRY_FIRST_US, delay_us: RETRY_FIRST_US };
        }
    }
}

/// What became of a turn's output.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// On its way into the log.
    pub staged_bytes: u64,
    /// Above the rate.
    pub dropped_bytes: u64,
}

/// Moves up to `most_bytes` out of a pipe, as many as are there.
fn move_bytes(from: &OwnedFd, to: &OwnedFd, most_bytes: u64) -> Result<u64, Errno> {
    let mut moved = 0;
    while moved < most_bytes {
        let left = usize::try_from(most_bytes - moved).unwrap_or(usize::MAX);
        match splice(from, None, to, None, left, SpliceFlags::MOVE | SpliceFlags::NONBLOCK) {
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(more) => moved += more as u64,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(moved)
}
