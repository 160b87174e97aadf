//! SHA-256 values and the two ways RFC 6962 hashes: leaves and nodes are kept apart by their first byte.

use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// A SHA-256 value. Written as 64 lower-case hexadecimal digits; upper case is refused, so that it has one spelling.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Hash(pub [u8; 32]);

/// Length of a hash in hexadecimal digits.
pub const HEX_LEN: usize = 64;

impl Hash {
    /// `prev` of record 0: 64 zeros.
    ///
    /// Zeros and not the hash of a text: nobody can name bytes with this hash, so nothing can stand before record 0, and
    /// whoever checks a ledger with `sha256sum` needs no constant of ours. The format's version stands in every line.
    pub const ZERO: Self = Self([0; 32]);

    /// Plain SHA-256 of `bytes`, as `sha256sum` prints it.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// RFC 6962 section 2.1: the hash of a leaf, `SHA-256(0x00 || bytes)`.
    #[must_use]
    pub fn leaf(bytes: &[u8]) -> Self {
        Self(Sha256::new().chain_update([0]).chain_update(bytes).finalize().into())
    }

    /// RFC 6962 section 2.1: the hash of an inner node, `SHA-256(0x01 || left || right)`.
    #[must_use]
    pub fn node(left: &Self, right: &Self) -> Self {
        let mut both = [1; 65];
        both[1..33].copy_from_slice(&left.0);
        both[33..].copy_from_slice(&right.0);
        Self::of(&both)
    }

    /// The 64 hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> [u8; HEX_LEN] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [0; HEX_LEN];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        hex
    }

    /// Reads 64 lower-case hexadecimal digits; `None` for anything else.
    #[must_use]
    pub fn from_hex(hex: &[u8]) -> Option<Self> {
        let digit = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        if hex.len() != HEX_LEN {
            return None;
        }
        let mut out = [0; 32];
        for (byte, pair) in out.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(out))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_hex().iter().try_for_each(|c| fmt::Write::write_char(f, char::from(*c)))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a hash is 64 lower-case hexadecimal digits")]
pub struct NotAHash;

impl FromStr for Hash {
    type Err = NotAHash;
    fn from_str(text: &str) -> Result<Self, NotAHash> {
        Self::from_hex(text.as_bytes()).ok_or(NotAHash)
    }
}

impl TryFrom<String> for Hash {
    type Error = NotAHash;
    fn try_from(text: String) -> Result<Self, NotAHash> {
        text.parse()
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

/// SHA-256 of a file while it grows.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all bytes so far; more may follow.
    #[must_use]
    pub fn value(&self) -> Hash {
        Hash(self.0.clone().finalize().into())
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hasher({})", self.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_has_one_spelling() {
        let hash = Hash::of(b"abc");
        // FIPS 180-2, appendix B.1.
        assert_eq!(hash.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(hash.to_string().to_uppercase().parse::<Hash>(), Err(NotAHash));
        assert_eq!("ba".parse::<Hash>(), Err(NotAHash));
    }

    #[test]
    fn a_growing_file_hashes_like_the_whole() {
        let mut hasher = Hasher::default();
        hasher.update(b"a");
        assert_eq!(hasher.value(), Hash::of(b"a"));
        hasher.update(b"bc");
        assert_eq!(hasher.value(), Hash::of(b"abc"));
    }

    #[test]
    fn leaf_and_node_are_kept_apart() {
        let (left, right) = (Hash::leaf(b"l"), Hash::leaf(b"r"));
        let mut as_leaf = Vec::new();
        as_leaf.extend_from_slice(&left.0);
        as_leaf.extend_from_slice(&right.0);
        assert_ne!(Hash::node(&left, &right), Hash::leaf(&as_leaf));
    }
}
