//! Cuts a byte stream into lines with bounded memory, and judges what stands after the last good one: space that the
//! writer has reserved, a line that a crash tore, or something that no crash leaves behind.

use crate::record::MAX_LINE_BYTES;
use std::io::{self, BufRead, BufReader, Read};

/// Bytes that are read at once. 256 KiB: larger made no difference to verifying, smaller cost system calls.
const READ_BYTES: usize = 256 * 1024;

/// Most bytes that a writer may have unsynced, and therefore the most that a crash can tear: 1 MiB, some thousand records
/// in one sync. More than that after the last good line was not torn, it was changed.
pub const TORN_MAX_BYTES: u64 = 1024 * 1024;

/// The smallest unit in which storage loses data: a sector. What was never written reads as NULs up to its end.
const SECTOR_BYTES: u64 = 512;

/// Lines of a stream.
#[derive(Debug)]
pub struct Lines<R> {
    from: BufReader<R>,
    piece: Vec<u8>,
    /// Where `piece` begins.
    offset: u64,
}

/// What stands after the last good line of a segment that is still open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Nothing but `reserved_bytes` NULs: space that the writer has allocated ahead.
    Clean {
        /// How many.
        reserved_bytes: u64,
    },
    /// `bytes` bytes that a crash left behind, then `reserved_bytes` NULs.
    Torn {
        /// How many bytes, up to the last one that is not NUL.
        bytes: u64,
        /// How many NULs after that.
        reserved_bytes: u64,
    },
    /// Something that a crash does not leave: a complete line that is no record, or more than [`TORN_MAX_BYTES`].
    Foreign,
}

impl<R: Read> Lines<R> {
    /// Lines of `from`, which begins at byte `offset` of its file.
    pub fn new(from: R, offset: u64) -> Self {
        Self { from: BufReader::with_capacity(READ_BYTES, from), piece: Vec::new(), offset }
    }

    /// Where the line that [`Self::next_line`] returned last begins; after it returned `None`, where the rest begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next line without its LF. `None` at the end, or where no LF comes within [`MAX_LINE_BYTES`].
    ///
    /// # Errors
    /// Those of the stream.
    pub fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        self.offset += self.piece.len() as u64;
        self.piece.clear();
        (&mut self.from).take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut self.piece)?;
        Ok(self.piece.strip_suffix(b"\n"))
    }

    /// Reads to the end and judges everything from [`Self::offset`] on, the line returned last included.
    ///
    /// Torn is: a line without LF at the very end; or a run of NULs where a record should be, that reaches to the end
    /// or has the shape of sectors that were never written. A single byte that was set to NUL has not that shape.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn rest(mut self) -> io::Result<Rest> {
        let mut scan = RestScan::new(self.offset);
        scan.take(&self.piece);
        loop {
            let bytes = self.from.fill_buf()?;
            if bytes.is_empty() {
                return Ok(scan.judge());
            }
            scan.take(bytes);
            let len = bytes.len();
            self.from.consume(len);
        }
    }
}

/// What [`Lines::rest`] has seen so far. All offsets are the file's.
struct RestScan {
    start: u64,
    end: u64,
    /// Just after the last byte that is not NUL.
    content_end: u64,
    first: First,
}

/// How the first line of the rest ends.
enum First {
    Open,
    Nuls { from: u64 },
    NulsUntil { from: u64, to: u64 },
    Lf,
}

impl RestScan {
    fn new(start: u64) -> Self {
        Self { start, end: start, content_end: start, first: First::Open }
    }

    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match (&self.first, byte) {
                (First::Open, b'\n') => self.first = First::Lf,
                (First::Open, 0) => self.first = First::Nuls { from: self.end },
                (First::Nuls { from }, 1..) => self.first = First::NulsUntil { from: *from, to: self.end },
                (First::Open | First::Lf | First::NulsUntil { .. } | First::Nuls { .. }, _) => {}
            }
            self.end += 1;
            if *byte != 0 {
                self.content_end = self.end;
            }
        }
    }

    fn judge(&self) -> Rest {
        let (bytes, reserved_bytes) = (self.content_end - self.start, self.end - self.content_end);
        let torn = match self.first {
            First::Lf => false,
            First::Open | First::Nuls { .. } => bytes <= MAX_LINE_BYTES as u64,
            First::NulsUntil { from, to } => {
                (from == self.start || from % SECTOR_BYTES == 0) && to % SECTOR_BYTES == 0 && bytes <= TORN_MAX_BYTES
            }
        };
        match (bytes, torn) {
            (0, _) => Rest::Clean { reserved_bytes },
            (_, true) => Rest::Torn { bytes, reserved_bytes },
            (_, false) => Rest::Foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest_of(bytes: &[u8], good_lines: usize) -> Rest {
        let mut lines = Lines::new(bytes, 0);
        for _ in 0..good_lines {
            assert!(lines.next_line().expect("memory").is_some());
        }
        lines.next_line().expect("memory");
        lines.rest().expect("memory")
    }

    #[test]
    fn lines_and_offsets() {
        let mut lines = Lines::new(&b"ab\n\ncde"[..], 100);
        assert_eq!(lines.next_line().expect("memory"), Some(&b"ab"[..]));
        assert_eq!(lines.offset(), 100);
        assert_eq!(lines.next_line().expect("memory"), Some(&b""[..]));
        assert_eq!(lines.offset(), 103);
        assert_eq!(lines.next_line().expect("memory"), None);
        assert_eq!(lines.offset(), 104);
        assert_eq!(lines.rest().expect("memory"), Rest::Torn { bytes: 3, reserved_bytes: 0 });
    }

    #[test]
    fn reserved_space_is_clean() {
        assert_eq!(rest_of(b"", 0), Rest::Clean { reserved_bytes: 0 });
        assert_eq!(rest_of(b"a\n", 1), Rest::Clean { reserved_bytes: 0 });
        let reserved = [&b"a\n"[..], &vec![0; 200_000]].concat();
        assert_eq!(rest_of(&reserved, 1), Rest::Clean { reserved_bytes: 200_000 });
    }

    #[test]
    fn a_crash_tears() {
        let partial = [&b"a\nbcd"[..], &[0; 9]].concat();
        assert_eq!(rest_of(&partial, 1), Rest::Torn { bytes: 3, reserved_bytes: 9 });
        // Sectors 0 and 2 reached the disk, sector 1 did not.
        let mut lost = [b"a\n".to_vec(), vec![b'x'; 3000], b"\n".to_vec()].concat();
        lost[512..1024].fill(0);
        assert_eq!(rest_of(&lost, 1), Rest::Torn { bytes: 3001, reserved_bytes: 0 });
        // The end of the sector that already held the first line was not written.
        let mut lost = [b"a\n".to_vec(), vec![b'x'; 3000], b"\n".to_vec()].concat();
        lost[2..512].fill(0);
        assert_eq!(rest_of(&lost, 1), Rest::Torn { bytes: 3001, reserved_bytes: 0 });
    }

    #[test]
    fn a_crash_does_not_do_this() {
        assert_eq!(rest_of(b"a\nnot a record\nb\n", 1), Rest::Foreign);
        assert_eq!(rest_of(b"a\nx\0x\nb\n", 1), Rest::Foreign);
        let too_long = [&b"a\n"[..], &vec![b'x'; MAX_LINE_BYTES + 1]].concat();
        assert_eq!(rest_of(&too_long, 1), Rest::Foreign);
        let mut too_much = vec![b'x'; TORN_MAX_BYTES as usize + 1];
        too_much[..512].fill(0);
        assert_eq!(rest_of(&too_much, 0), Rest::Foreign);
    }
}
