//! `manifest.jsonl`: one line of JSON for each sealed segment, in their order. It has one spelling: a line that says the
//! same in other bytes is refused, so that nothing in it can be changed unseen.

use crate::hash::Hash;
use crate::segment::{Seal, SegmentId};
use crate::tree::Frontier;
use serde::{Deserialize, Serialize};

/// The line as JSON. Field names are the format's.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    v: u32,
    file: String,
    first_seq: u64,
    last_seq: u64,
    bytes: u64,
    sha256: Hash,
    head: Hash,
    tree_size: u64,
    tree_root: Hash,
    frontier: Vec<Hash>,
}

/// Why a line of the manifest is not a seal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not the JSON that is expected.
    #[error("it is not a seal: {0}")]
    Json(String),
    /// Its version is not 1.
    #[error("it has version {0}, this program knows 1")]
    Version(u32),
    /// The same can be said in the format's own bytes, and this line is not those.
    #[error("it is not written as the format writes it")]
    Spelling,
    /// Its fields contradict each other.
    #[error("its {0} contradicts its other fields")]
    Contradiction(&'static str),
}

/// The line for `seal`, without LF.
#[must_use]
pub fn encode(seal: &Seal) -> Vec<u8> {
    let line = Line {
        v: 1,
        file: seal.segment.to_string(),
        first_seq: seal.first_seq,
        last_seq: seal.last_seq,
        bytes: seal.bytes,
        sha256: seal.sha256,
        head: seal.head,
        tree_size: seal.tree.size(),
        tree_root: seal.tree.root(),
        frontier: seal.tree.peaks().to_vec(),
    };
    serde_json::to_vec(&line).expect("strings and numbers always become JSON")
}

/// Reads a line (without LF).
///
/// # Errors
/// Why it is not a seal.
pub fn decode(bytes: &[u8]) -> Result<Seal, SealError> {
    let line: Line = serde_json::from_slice(bytes).map_err(|error| SealError::Json(error.to_string()))?;
    if line.v != 1 {
        return Err(SealError::Version(line.v));
    }
    let segment = SegmentId::from_file_name(&line.file).ok_or(SealError::Contradiction("file"))?;
    let tree = Frontier::from_parts(line.tree_size, line.frontier).ok_or(SealError::Contradiction("frontier"))?;
    if tree.root() != line.tree_root {
        return Err(SealError::Contradiction("tree_root"));
    }
    if line.first_seq > line.last_seq {
        return Err(SealError::Contradiction("last_seq"));
    }
    let seal = Seal {
        segment,
        first_seq: line.first_seq,
        last_seq: line.last_seq,
        bytes: line.bytes,
        sha256: line.sha256,
        head: line.head,
        tree,
    };
    if encode(&seal) == bytes { Ok(seal) } else { Err(SealError::Spelling) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::Position;

    fn seal() -> Seal {
        let mut position = Position::default();
        for _ in 0..3 {
            position.append(b"{}", &mut Vec::new()).expect("a good payload");
        }
        position.seal().expect("not empty")
    }

    #[test]
    fn a_line_is_read_back() {
        let line = encode(&seal());
        assert!(line.starts_with(br#"{"v":1,"file":"00000000.jsonl","first_seq":0,"last_seq":2,"bytes":"#));
        assert_eq!(decode(&line), Ok(seal()));
    }

    #[test]
    fn another_spelling_is_refused() {
        let line = String::from_utf8(encode(&seal())).expect("ASCII");
        let change = |from: &str, to: &str| decode(line.replacen(from, to, 1).as_bytes());
        assert_eq!(change("\"v\":1", "\"v\":2"), Err(SealError::Version(2)));
        assert_eq!(change("\"v\":1", "\"v\": 1"), Err(SealError::Spelling));
        assert_eq!(change("00000000", "0"), Err(SealError::Contradiction("file")));
        assert_eq!(change("\"tree_size\":3", "\"tree_size\":4"), Err(SealError::Contradiction("frontier")));
        let root = seal().tree.root().to_string();
        assert_eq!(change(&root, &"0".repeat(64)), Err(SealError::Contradiction("tree_root")));
        assert_eq!(change("\"first_seq\":0", "\"first_seq\":9"), Err(SealError::Contradiction("last_seq")));
        assert!(matches!(change("\"v\"", "\"w\""), Err(SealError::Json(_))));
    }
}
