//! The bytes of Hale's ledger: what a line looks like, how lines hold each other, and how all of it is verified.
//!
//! No I/O of its own: callers bring `Read`s and write the buffers that come back. A record's payload is opaque here.
//!
//! | module | subject |
//! |---|---|
//! | [`hash`] | SHA-256 values, RFC 6962 leaf and node hashes |
//! | [`record`] | one line: encode and decode |
//! | [`lines`] | cut a byte stream into lines, and judge what stands after the last one |
//! | [`tree`] | RFC 6962 Merkle tree, as a frontier of O(log n) hashes |
//! | [`chain`] | lines that follow each other: append, check |
//! | [`segment`] | files of lines: names, running state, the seal |
//! | [`manifest`] | one line of JSON for each seal |
//! | [`verify`] | everything at once, streaming |
//!
//! `docs/ledger.md` is the format for people and for other programs.

pub mod chain;
pub mod hash;
pub mod lines;
pub mod manifest;
pub mod record;
pub mod segment;
pub mod tree;
pub mod verify;

pub use chain::{Chain, LineError};
pub use hash::Hash;
pub use lines::{Lines, Rest};
pub use record::{EncodeError, FrameError, MAX_LINE_BYTES, Record};
pub use segment::{Position, Seal, SegmentId};
pub use tree::Frontier;
pub use verify::{Damage, Problem, Verifier, VerifyError};
