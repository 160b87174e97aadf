//! One service's output on its way from its pipe into its log.

use crate::keeper::log_file::LogFile;
use crate::keeper::markers::Markers;
use crate::keeper::protocol::LogTarget;
use crate::keeper::rate::Bucket;
use crate::keeper::report::Unreported;
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
    /// Where output is looked through that is dropped: a turn's.
    pub sieve: Box<[u8]>,
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
    /// For the supervisor.
    pub unreported: Unreported,
    above_rate: Drops,
    unwritable: Drops,
    /// What stays of what was above the rate, and is not in the log yet.
    markers: Markers,
}

/// What was dropped for one reason and is not noted in the log yet.
#[derive(Debug, Default)]
struct Drops {
    bytes: u64,
    last_us: u64,
}

#[derive(Debug)]
enum Log {
    /// Another keeper may still write: no file is touched.
    Shut,
    Open(LogFile),
    Failed {
        retry_us: u64,
        delay_us: u64,
    },
}

/// A log that was not tried yet.
const UNTRIED: Log = Log::Failed { retry_us: 0, delay_us: RETRY_FIRST_US };

impl Service {
    /// For this target, from now on; its files are touched only once it is [opened](Self::open).
    #[must_use]
    pub fn new(target: LogTarget, pipe: Option<OwnedFd>, now_us: u64) -> Self {
        Self {
            pipe,
            log: Log::Shut,
            bucket: Bucket::new(target.rate_bytes, now_us),
            target,
            dropped_bytes: 0,
            unreported: Unreported::default(),
            above_rate: Drops::default(),
            unwritable: Drops::default(),
            markers: Markers::default(),
        }
    }

    /// Another target, if it is another one.
    pub fn retarget(&mut self, target: LogTarget, now_us: u64) {
        if self.target != target {
            self.bucket = Bucket::new(target.rate_bytes, now_us);
            if !matches!(self.log, Log::Shut) {
                self.log = UNTRIED;
            }
            self.target = target;
        }
    }

    /// Its files may be touched from now on.
    pub fn open(&mut self) {
        if matches!(self.log, Log::Shut) {
            self.log = UNTRIED;
        }
    }

    /// The size of its log now, in bytes; zero when it could not be opened.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        match &self.log {
            Log::Open(log) => log.size_bytes(),
            Log::Shut | Log::Failed { .. } => 0,
        }
    }

    /// All that was dropped since the start, in bytes.
    #[must_use]
    pub fn dropped_bytes(&self) -> u64 {
        self.dropped_bytes
    }

    /// When [`on_time`](Self::on_time) has something to do.
    #[must_use]
    pub fn deadline_us(&self) -> Option<u64> {
        let retry = match self.log {
            Log::Shut => return None,
            Log::Failed { retry_us, .. } if self.unwritable.bytes > 0 => Some(retry_us),
            Log::Failed { .. } | Log::Open(_) => None,
        };
        let flood = self.is_above_rate().then(|| self.above_rate.last_us + FLOOD_END_US);
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

    /// Moves up to `most_bytes` of the pipe into staging, or drops them above the rate, and says how many were there.
    ///
    /// All that is there is kept or dropped together. So a border never is amidst one write(2) of the service or the
    /// guardian, if that is small enough to be whole (`PIPE_BUF`) and the pipe no larger than a turn.
    ///
    /// Staging must be empty, and [written](Self::write_staged) next.
    pub fn stage(&mut self, staging: &mut Staging, most_bytes: u64, now_us: u64) -> u64 {
        let Some(pipe) = &self.pipe else { return 0 };
        // An error cannot come from a pipe; nothing there is the harmless answer.
        let there = rustix::io::ioctl_fionread(pipe).unwrap_or(0).min(most_bytes);
        if there == 0 {
            return 0;
        }
        if self.bucket.may_take(now_us) {
            let staged = move_bytes(pipe, &staging.write, there).unwrap_or(0);
            self.bucket.take(staged);
            return staged;
        }
        let (read, dropped) = self.sift(staging, there);
        self.above_rate.bytes += dropped;
        self.above_rate.last_us = now_us;
        self.count_dropped(dropped, now_us);
        read
    }

    /// Drops what is in the pipe, up to a turn of it, if there are at least so many bytes: there is no log to write it to.
    /// Says how many were there.
    pub fn drain(&mut self, staging: &mut Staging, least_bytes: u64, now_us: u64) -> u64 {
        let there = self.pipe.as_ref().map_or(0, |pipe| rustix::io::ioctl_fionread(pipe).unwrap_or(0));
        if there < least_bytes.max(1) {
            return 0;
        }
        let (read, dropped) = self.sift(staging, there);
        self.unwritable.bytes += dropped;
        self.unwritable.last_us = now_us;
        self.count_dropped(dropped, now_us);
        read
    }

    /// Takes up to so many bytes out of the pipe and keeps the markers among them. Gives how many were read, and how many
    /// are lost.
    fn sift(&mut self, staging: &mut Staging, there: u64) -> (u64, u64) {
        let Some(pipe) = &self.pipe else { return (0, 0) };
        let most = usize::try_from(there).unwrap_or(usize::MAX).min(staging.sieve.len());
        // Nobody else reads from it, so that this does not wait.
        let read = rustix::io::retry_on_intr(|| rustix::io::read(pipe, &mut staging.sieve[..most])).unwrap_or(0);
        (read as u64, self.markers.sift(&staging.sieve[..read]))
    }

    /// Writes all of staging into the log, after a note of what is missing before it. What cannot be written is dropped
    /// and counted.
    pub fn write_staged(&mut self, staging: &Staging, now_us: u64) {
        if rustix::io::ioctl_fionread(&staging.read).is_ok_and(|there| there > 0) {
            self.note_drops(now_us);
        }
        self.write_all(staging, now_us);
    }

    /// Writes all of staging into the log. What cannot be written is dropped and counted.
    pub fn write_all(&mut self, staging: &Staging, now_us: u64) {
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
                self.count_dropped(dropped, now_us);
                if dropped == 0 {
                    return;
                }
            }
        }
    }

    /// Writes into the log what was dropped and is not noted there yet.
    pub fn note_drops(&mut self, now_us: u64) {
        if !self.is_above_rate() && self.unwritable.bytes == 0 {
            return;
        }
        let mut lines = Vec::new();
        let mut note = |bytes: u64, why: &str| {
            if bytes > 0 {
                lines.extend_from_slice(format!("hale: dropped {bytes} bytes {why}\n").as_bytes());
            }
        };
        note(self.unwritable.bytes, "while the log could not be written");
        note(self.above_rate.bytes, &format!("above the rate of {} bytes/s", self.target.rate_bytes));
        lines.extend(self.markers.text());
        let Some(log) = self.open_log(now_us) else { return };
        if log.note(&lines).is_ok() {
            self.unwritable.bytes = 0;
            self.above_rate.bytes = 0;
            self.markers.clear();
        } else {
            self.fail_log(now_us);
        }
    }

    /// Whether the log does not tell yet of all that was above the rate.
    fn is_above_rate(&self) -> bool {
        self.above_rate.bytes > 0 || !self.markers.is_empty()
    }

    fn count_dropped(&mut self, bytes: u64, now_us: u64) {
        self.dropped_bytes += bytes;
        self.unreported.add(bytes, now_us);
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
            Log::Shut | Log::Failed { .. } => None,
        }
    }

    /// Closes a log that could not be written, until the next try.
    fn fail_log(&mut self, now_us: u64) {
        if let Log::Open(_) = self.log {
            self.log = Log::Failed { retry_us: now_us + RETRY_FIRST_US, delay_us: RETRY_FIRST_US };
        }
    }
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
