//! One record is one line: `{"v":1,"seq":N,"prev":"<64 hex>","rec":<payload>}`, hashed exactly as it is stored.
//!
//! The frame has one spelling, byte for byte: nothing has to be canonicalised before hashing, and nothing can be.

use crate::hash::{HEX_LEN, Hash};
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeSet;
use std::io::Write as _;

/// Longest line, without its LF. 60 KiB, so that a line fits the entry of a C2SP tlog-tiles bundle, whose length field
/// is 16 bits wide; evidence longer than that has to be cut before it is recorded.
pub const MAX_LINE_BYTES: usize = 60 * 1024;

/// Longest payload that always fits a line: the frame needs at most 105 bytes (a `seq` has at most 20 digits).
pub const MAX_PAYLOAD_BYTES: usize = MAX_LINE_BYTES - 128;

const HEAD: &[u8] = b"{\"v\":1,\"seq\":";
const PREV: &[u8] = b",\"prev\":\"";
const REC: &[u8] = b"\",\"rec\":";

/// A decoded line, borrowed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// The record's number, from 0, without gaps.
    pub seq: u64,
    /// Leaf hash of the line before; 64 zeros for record 0.
    pub prev: Hash,
    /// What was recorded: one JSON object.
    pub payload: &'a [u8],
}

/// Why a payload cannot become a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Longer than [`MAX_PAYLOAD_BYTES`].
    #[error("payload is {len} bytes long, at most {MAX_PAYLOAD_BYTES} are allowed: cut its evidence")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// Contains a byte below 0x20, for example a line break.
    #[error("payload has the control character {byte:#04x} at byte {at}: write it on one line, escaped")]
    Control {
        /// The character.
        byte: u8,
        /// Where.
        at: usize,
    },
    /// Not a JSON object from its first to its last byte.
    #[error("payload is not one JSON object: {why}")]
    NotAnObject {
        /// What the parser says.
        why: String,
    },
}

/// Why a line is not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Does not begin with `{"v":1,"seq":`.
    #[error("it does not begin with {{\"v\":1,\"seq\":")]
    Head,
    /// The number is missing, has a leading zero, or exceeds 64 bits.
    #[error("its seq is not a plain number")]
    Seq,
    /// `prev` is not where it belongs or not 64 lower-case hexadecimal digits.
    #[error("its prev is not 64 lower-case hexadecimal digits")]
    Prev,
    /// `rec` is not where it belongs or not an object on one line.
    #[error("its rec is not a JSON object")]
    Rec,
    /// Longer than [`MAX_LINE_BYTES`].
    #[error("it is longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
}

/// Checks that `payload` can become a record: one line, one JSON object, no key twice (parsers disagree about which of
/// two equal keys counts, so two readers could read two histories from one ledger).
///
/// # Errors
/// What is wrong with it.
pub fn check_payload(payload: &[u8]) -> Result<(), EncodeError> {
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(EncodeError::TooLong { len: payload.len() });
    }
    if let Some(at) = payload.iter().position(|byte| *byte < 0x20) {
        return Err(EncodeError::Control { byte: payload[at], at });
    }
    let why = |why: String| EncodeError::NotAnObject { why };
    if !(payload.starts_with(b"{") && payload.ends_with(b"}")) {
        return Err(why("it does not begin with { and end with }".to_owned()));
    }
    serde_json::from_slice::<NoKeyTwice>(payload).map(|_| ()).map_err(|error| why(error.to_string()))
}

/// Appends the line of record `seq`, without LF, to `out`. `payload` must have passed [`check_payload`].
pub(crate) fn encode(seq: u64, prev: &Hash, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(HEAD);
    write!(out, "{seq}").expect("writing to a Vec cannot fail");
    out.extend_from_slice(PREV);
    out.extend_from_slice(&prev.to_hex());
    out.extend_from_slice(REC);
    out.extend_from_slice(payload);
    out.push(b'}');
}

/// Decodes a line (without LF).
///
/// # Errors
/// Which part of the frame is wrong. The payload is checked to be JSON, but not for repeated keys.
pub fn decode(line: &[u8]) -> Result<Record<'_>, FrameError> {
    let record = decode_frame(line)?;
    match serde_json::from_slice::<IgnoredAny>(record.payload) {
        Ok(_) => Ok(record),
        Err(_) => Err(FrameError::Rec),
    }
}

/// As [`decode`], but of the payload only the first and the last byte are looked at.
///
/// # Errors
/// Which part of the frame is wrong.
pub fn decode_frame(line: &[u8]) -> Result<Record<'_>, FrameError> {
    if line.len() > MAX_LINE_BYTES {
        return Err(FrameError::TooLong);
    }
    let rest = line.strip_prefix(HEAD).ok_or(FrameError::Head)?;
    let digits = rest.iter().take_while(|c| c.is_ascii_digit()).count();
    let (number, rest) = rest.split_at(digits);
    if number.len() > 1 && number[0] == b'0' {
        return Err(FrameError::Seq);
    }
    let seq = str::from_utf8(number).ok().and_then(|n| n.parse().ok()).ok_or(FrameError::Seq)?;
    let rest = rest.strip_prefix(PREV).ok_or(FrameError::Prev)?;
    let prev = rest.get(..HEX_LEN).and_then(Hash::from_hex).ok_or(FrameError::Prev)?;
    let rest = rest[HEX_LEN..].strip_prefix(REC).ok_or(FrameError::Rec)?;
    let payload = rest.strip_suffix(b"}").ok_or(FrameError::Rec)?;
    if !(payload.starts_with(b"{") && payload.ends_with(b"}")) {
        return Err(FrameError::Rec);
    }
    Ok(Record { seq, prev, payload })
}

/// Any JSON in which no object names a key twice.
struct NoKeyTwice;

impl<'de> Deserialize<'de> for NoKeyTwice {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for NoKeyTwice {
    type Value = Self;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while seq.next_element::<Self>()?.is_some() {}
        Ok(self)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut keys = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if keys.contains(&key) {
                return Err(A::Error::custom(format_args!("key \"{key}\" twice in one object")));
            }
            keys.insert(key);
            map.next_value::<Self>()?;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(seq, &Hash::ZERO, payload, &mut out);
        out
    }

    #[test]
    fn a_line_is_exactly_this() {
        let zeros = "0".repeat(64);
        let expected = format!(r#"{{"v":1,"seq":7,"prev":"{zeros}","rec":{{"kind":"x"}}}}"#);
        assert_eq!(line(7, br#"{"kind":"x"}"#), expected.as_bytes());
        let record = decode(expected.as_bytes()).expect("a good line");
        assert_eq!(record, Record { seq: 7, prev: Hash::ZERO, payload: br#"{"kind":"x"}"# });
    }

    #[test]
    fn the_longest_payload_fits_with_the_longest_number() {
        let payload = format!("{{\"x\":\"{}\"}}", "y".repeat(MAX_PAYLOAD_BYTES - 8));
        assert_eq!(check_payload(payload.as_bytes()), Ok(()));
        assert!(line(u64::MAX, payload.as_bytes()).len() <= MAX_LINE_BYTES);
        assert!(matches!(check_payload(format!("{payload} ").as_bytes()), Err(EncodeError::TooLong { .. })));
    }

    #[test]
    fn payloads_that_are_refused() {
        for bad in
            ["", "{", "[]", "1", "{} ", " {}", "{}{}", r#"{"a":1,"a":2}"#, r#"{"a":[{"b":1,"b":1}]}"#, "{\"a\":\u{1}}"]
        {
            assert!(check_payload(bad.as_bytes()).is_err(), "{bad:?} was taken");
        }
        assert!(matches!(check_payload(b"{\"a\":\n1}"), Err(EncodeError::Control { byte: b'\n', at: 5 })));
        assert!(check_payload(b"{\"a\":\"\xff\"}").is_err());
        for good in ["{}", r#"{"a":1,"b":{"a":[1,-2,0.5,null,true,"\u0000"]}}"#] {
            assert_eq!(check_payload(good.as_bytes()), Ok(()), "{good}");
        }
    }

    #[test]
    fn frames_have_one_spelling() {
        let good = String::from_utf8(line(10, b"{}")).expect("ASCII");
        for (from, to, error) in [
            ("\"v\":1", "\"v\":2", FrameError::Head),
            ("{\"v\"", "{ \"v\"", FrameError::Head),
            (":10,", ":010,", FrameError::Seq),
            (":10,", ":-1,", FrameError::Seq),
            (":10,", ":18446744073709551616,", FrameError::Seq),
            (",\"prev\"", ", \"prev\"", FrameError::Prev),
            ("\"000", "\"00A", FrameError::Prev),
            ("\"000", "\"00", FrameError::Prev),
            (",\"rec\"", ",\"rex\"", FrameError::Rec),
            ("{}}", "[]}", FrameError::Rec),
            ("{}}", "{}", FrameError::Rec),
            ("{}}", "{}}}", FrameError::Rec),
            ("{}}", "{\"a\"}}", FrameError::Rec),
        ] {
            assert_eq!(decode(good.replacen(from, to, 1).as_bytes()), Err(error), "{from} -> {to}");
        }
    }
}
