//! Segments: the files that the lines stand in, where one stands while it grows, and the seal that closes it.

use crate::chain::{Chain, LineError};
use crate::hash::{Hash, Hasher};
use crate::record::{EncodeError, Record};
use crate::tree::Frontier;
use std::fmt;

/// Number of a segment, from 0, without gaps. Its file is `seg/00000042.jsonl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u32);

impl SegmentId {
    /// The segment after this one. After the last possible one (some 256 PiB) the number stays.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Reads a file name as [`fmt::Display`] writes it; `None` for any other name.
    #[must_use]
    pub fn from_file_name(name: &str) -> Option<Self> {
        let id = Self(name.strip_suffix(".jsonl")?.parse().ok()?);
        (id.to_string() == name).then_some(id)
    }
}

/// The file name: eight digits at least, then `.jsonl`.
impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08}.jsonl", self.0)
    }
}

/// What is fixed when a segment is closed: enough to check its file alone (`sha256`, `bytes`), to check that it follows
/// the one before, and to go on after it without reading it (`head`, `frontier`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// Which segment.
    pub segment: SegmentId,
    /// Number of its first record.
    pub first_seq: u64,
    /// Number of its last record.
    pub last_seq: u64,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// SHA-256 of the file.
    pub sha256: Hash,
    /// Leaf hash of the last record: `prev` of the next segment's first.
    pub head: Hash,
    /// The tree over all records up to here, those of earlier segments included.
    pub tree: Frontier,
}

/// Where a segment stands: the chain, and the file up to the last line taken.
#[derive(Debug, Clone)]
pub struct Position {
    segment: SegmentId,
    first_seq: u64,
    bytes: u64,
    file: Hasher,
    chain: Chain,
}

impl Default for Position {
    /// Before record 0.
    fn default() -> Self {
        Self::start(SegmentId(0), Chain::default())
    }
}

impl Position {
    /// The beginning of an empty segment that goes on where `chain` stands.
    #[must_use]
    pub fn start(segment: SegmentId, chain: Chain) -> Self {
        Self { segment, first_seq: chain.next_seq(), bytes: 0, file: Hasher::default(), chain }
    }

    /// The beginning of the segment after `seal`.
    #[must_use]
    pub fn after(seal: &Seal) -> Self {
        let next_seq = seal.last_seq.saturating_add(1);
        Self::start(seal.segment.next(), Chain::resume(next_seq, seal.head, seal.tree.clone()))
    }

    /// Which segment.
    #[must_use]
    pub fn segment(&self) -> SegmentId {
        self.segment
    }

    /// Bytes of the file so far, all of them whole lines.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of the segment's first record.
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.first_seq
    }

    /// The chain at this point.
    #[must_use]
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Appends `payload` as the next record: its line with LF goes to the end of `out`. Returns its number.
    ///
    /// # Errors
    /// The payload cannot be a record; nothing has changed then.
    pub fn append(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<u64, EncodeError> {
        let start = out.len();
        let seq = self.chain.append(payload, out)?;
        out.push(b'\n');
        self.file.update(&out[start..]);
        self.bytes += (out.len() - start) as u64;
        Ok(seq)
    }

    /// Takes `line` (without LF) as the next record if it is that.
    ///
    /// # Errors
    /// Why it is not; nothing has changed then.
    pub fn check<'a>(&mut self, line: &'a [u8]) -> Result<Record<'a>, LineError> {
        let record = self.chain.check(line)?;
        self.advance(line);
        Ok(record)
    }

    /// Takes `line` whatever it says; see [`Chain::force`].
    pub fn force(&mut self, line: &[u8]) {
        self.chain.force(line);
        self.advance(line);
    }

    /// The seal of the segment if it were closed here; `None` while it is empty.
    #[must_use]
    pub fn seal(&self) -> Option<Seal> {
        (self.bytes > 0).then(|| Seal {
            segment: self.segment,
            first_seq: self.first_seq,
            last_seq: self.chain.next_seq().saturating_sub(1),
            bytes: self.bytes,
            sha256: self.file.value(),
            head: self.chain.head(),
            tree: self.chain.tree().clone(),
        })
    }

    fn advance(&mut self, line: &[u8]) {
        self.file.update(line);
        self.file.update(b"\n");
        self.bytes += line.len() as u64 + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        assert_eq!(SegmentId(42).to_string(), "00000042.jsonl");
        assert_eq!(SegmentId::from_file_name("00000042.jsonl"), Some(SegmentId(42)));
        assert_eq!(SegmentId::from_file_name("123456789.jsonl"), Some(SegmentId(123_456_789)));
        for other in ["42.jsonl", "00000042.json", "+0000042.jsonl", "000000042.jsonl", "99999999999.jsonl", ""] {
            assert_eq!(SegmentId::from_file_name(other), None, "{other}");
        }
    }

    #[test]
    fn a_segment_goes_on_after_the_seal() {
        let (mut position, mut file) = (Position::default(), Vec::new());
        assert_eq!(position.seal(), None);
        for _ in 0..3 {
            position.append(b"{}", &mut file).expect("a good payload");
        }
        let seal = position.seal().expect("not empty");
        assert_eq!((seal.first_seq, seal.last_seq, seal.bytes), (0, 2, file.len() as u64));
        assert_eq!(seal.sha256, Hash::of(&file));
        let next = Position::after(&seal);
        assert_eq!((next.segment(), next.chain()), (SegmentId(1), position.chain()));
        let mut reader = Position::default();
        for line in file.trim_ascii_end().split(|byte| *byte == b'\n') {
            reader.check(line).expect("its own line");
        }
        assert_eq!(reader.seal(), Some(seal));
    }
}
