//! What a server answers to an `http` check: it is read up to its limit, and no answer holds the probe up.
//!
//! An input is a letter for the check (`s` for the status alone, `b` for a body, `j` for JSON; upper case: the last 16 bytes
//! are said again and again), a digit for the pieces that the answer comes in, and the answer.

use crate::answer::{Answer, TIMEOUT};
use hale_core::policy::HttpCheck;
use hale_daemon::monitor::probe::fed;
use std::collections::BTreeMap;

/// How much is said without an end: more than is read of any body.
const ENDLESS_BYTES: usize = 2 << 20;

/// What the probe's own buffers and the stream hold beside a body.
const BUFFERED_BYTES: usize = 512 << 10;

pub fn run(input: &[u8]) {
    let Some((&[which, pieces], bytes)) = input.split_first_chunk() else { return };
    let kind = which.to_ascii_lowercase();
    let json = [("/status", "\"ok\""), ("/n/0", "1.0")].map(|(at, value)| (at.to_owned(), value.to_owned()));
    let check = HttpCheck {
        url: String::new(),
        ca_file: None,
        method: "GET".to_owned(),
        headers: BTreeMap::new(),
        status: vec![200, 204],
        body_contains: (kind == b'b').then(|| "fine".to_owned()),
        json: if kind == b'j' { json.into() } else { BTreeMap::new() },
        faster_than: None,
    };
    // Said in pieces that are not too small: this is most of the time that such an input takes.
    let end = if which.is_ascii_uppercase() { &bytes[bytes.len().saturating_sub(16)..] } else { &[] };
    let piece_bytes = usize::from(pieces.saturating_sub(b'0'));
    let answer = Answer { after: b"\r\n\r\n", bytes, piece_bytes, again: &end.repeat(256), until_bytes: ENDLESS_BYTES };
    let ((failure, detail), said_bytes) = answer.to(|stream| fed::http(&check, stream, TIMEOUT));
    if failure.is_none() {
        assert!(detail.starts_with("200 OK in ") || detail.starts_with("204 No Content in "), "{detail}");
        // It was found in the body; between its bytes only the lengths of chunks can stand, of one byte each at least.
        assert!(kind != b'b' || b"fine".iter().all(|byte| bytes.contains(byte)), "{detail}");
    }
    let is_chunked = bytes.windows(7).any(|window| window.eq_ignore_ascii_case(b"chunked"));
    if (failure.is_none() || detail.starts_with("the body is longer")) && !is_chunked {
        let limit = fed::BODY_BYTES_MAX + BUFFERED_BYTES + bytes.len();
        assert!(said_bytes <= limit, "{said_bytes} bytes were taken: {detail}");
    }
}
