//! Lines that follow each other: each names the leaf hash of the one before, and becomes the next leaf of the tree.

use crate::hash::Hash;
use crate::record::{self, EncodeError, FrameError, Record};
use crate::tree::Frontier;

/// Where the chain stands: all that is needed to append the next record or to check it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    next_seq: u64,
    head: Hash,
    tree: Frontier,
}

/// Why a line is not the next record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It is not a record at all.
    #[error("the line is not a record: {0}")]
    Frame(#[from] FrameError),
    /// It has another number than the one that is due.
    #[error("the line has seq {found}, {expected} is due")]
    Seq {
        /// The number that is due.
        expected: u64,
        /// The number it has.
        found: u64,
    },
    /// Its `prev` is not the leaf hash of the line before.
    #[error("its prev is {found}, but the line before hashes to {expected}")]
    Prev {
        /// Leaf hash of the line before.
        expected: Hash,
        /// What the line says.
        found: Hash,
    },
}

impl Default for Chain {
    /// Before record 0.
    fn default() -> Self {
        Self { next_seq: 0, head: Hash::ZERO, tree: Frontier::default() }
    }
}

impl Chain {
    /// The chain before record `next_seq`, after the records that `tree` covers, the last of which has the leaf hash
    /// `head`. In a ledger that was never altered `next_seq` equals the tree's size.
    #[must_use]
    pub fn resume(next_seq: u64, head: Hash, tree: Frontier) -> Self {
        Self { next_seq, head, tree }
    }

    /// Number of the next record.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Leaf hash of the last record, the `prev` of the next one; zeros before record 0.
    #[must_use]
    pub fn head(&self) -> Hash {
        self.head
    }

    /// The tree over all records so far.
    #[must_use]
    pub fn tree(&self) -> &Frontier {
        &self.tree
    }

    /// Appends `payload` as the next record: its line, without LF, goes to the end of `out`. Returns its number.
    ///
    /// # Errors
    /// The payload cannot be a record; nothing has changed then.
    pub fn append(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<u64, EncodeError> {
        record::check_payload(payload)?;
        let (seq, start) = (self.next_seq, out.len());
        record::encode(seq, &self.head, payload, out);
        self.advance(seq, &out[start..]);
        Ok(seq)
    }

    /// Takes `line` (without LF) as the next record if it is that.
    ///
    /// # Errors
    /// Why it is not; nothing has changed then.
    pub fn check<'a>(&mut self, line: &'a [u8]) -> Result<Record<'a>, LineError> {
        let record = record::decode(line)?;
        if record.seq != self.next_seq {
            return Err(LineError::Seq { expected: self.next_seq, found: record.seq });
        }
        if record.prev != self.head {
            return Err(LineError::Prev { expected: self.head, found: record.prev });
        }
        self.advance(record.seq, line);
        Ok(record)
    }

    /// Takes `line` as the next leaf whatever it says. Only for going on after an alteration that has been reported:
    /// the place where the chain is broken stays broken, what follows holds together again.
    pub fn force(&mut self, line: &[u8]) {
        let seq = record::decode_frame(line).map_or(self.next_seq, |record| record.seq.max(self.next_seq));
        self.advance(seq, line);
    }

    fn advance(&mut self, seq: u64, line: &[u8]) {
        self.head = Hash::leaf(line);
        self.tree.push(self.head);
        self.next_seq = seq.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_appended_checks(payloads in prop::collection::vec("[a-z\"\\\\\u{e9}]{0,20}", 1..20)) {
            let (mut writer, mut reader) = (Chain::default(), Chain::default());
            for text in payloads {
                let payload = serde_json::to_vec(&serde_json::json!({ "text": text })).expect("plain JSON");
                let mut line = Vec::new();
                let seq = writer.append(&payload, &mut line).expect("a good payload");
                let record = reader.check(&line).expect("its own line");
                prop_assert_eq!((record.seq, record.payload), (seq, &payload[..]));
            }
            prop_assert_eq!(writer, reader);
        }
    }

    #[test]
    fn prev_is_the_leaf_hash_of_the_line_before() {
        let mut chain = Chain::default();
        let (mut first, mut second) = (Vec::new(), Vec::new());
        chain.append(b"{}", &mut first).expect("a good payload");
        chain.append(b"{}", &mut second).expect("a good payload");
        let second = record::decode(&second).expect("a good line");
        let prefixed: Vec<u8> = [&[0], &first[..]].concat();
        assert_eq!(second.prev, Hash::of(&prefixed));
        assert_eq!(record::decode(&first).expect("a good line").prev, Hash::ZERO);
    }

    #[test]
    fn a_refused_line_changes_nothing() {
        let mut chain = Chain::default();
        let mut line = Vec::new();
        Chain::default().append(b"{}", &mut line).expect("a good payload");
        let before = chain.clone();
        assert!(chain.check(b"{}").is_err());
        assert!(chain.append(b"[]", &mut Vec::new()).is_err());
        assert_eq!(chain, before);
        chain.check(&line).expect("record 0");
        assert_eq!(chain.check(&line), Err(LineError::Seq { expected: 1, found: 0 }));
    }
}
