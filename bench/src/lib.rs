//! What an agent tells the driver about its start: 16 bytes, written at once, so that they arrive in one piece.

use rustix::time::Timespec;

/// The bytes of one stamp; below `PIPE_BUF`, so writes of many agents do not mix (pipe(7)).
pub const STAMP_BYTES: usize = 16;

/// One start of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The agent's number, from its command line.
    pub index: u32,
    /// Its process id.
    pub pid: u32,
    /// `CLOCK_MONOTONIC` as the first act of its `main`, in nanoseconds.
    pub at_ns: u64,
}

impl Stamp {
    /// Little-endian index, pid, time.
    #[must_use]
    pub fn to_bytes(self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[..4].copy_from_slice(&self.index.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.pid.to_le_bytes());
        bytes[8..].copy_from_slice(&self.at_ns.to_le_bytes());
        bytes
    }

    /// The reverse of [`Self::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; STAMP_BYTES]) -> Self {
        let [i0, i1, i2, i3, p0, p1, p2, p3, time @ ..] = bytes;
        Self {
            index: u32::from_le_bytes([i0, i1, i2, i3]),
            pid: u32::from_le_bytes([p0, p1, p2, p3]),
            at_ns: u64::from_le_bytes(time),
        }
    }
}

/// A time of `CLOCK_MONOTONIC` as one number.
#[must_use]
pub fn nanoseconds(time: Timespec) -> u64 {
    // The clock counts from boot, so neither part is negative.
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_the_way() {
        let stamp = Stamp { index: 7, pid: 4711, at_ns: 1 << 40 };
        assert_eq!(Stamp::from_bytes(stamp.to_bytes()), stamp);
    }
}
