//! What a server answers to a `grpc` check, from its first frame of HTTP/2 on.
//!
//! An input is a digit for the pieces that the answer comes in, and the answer.

use crate::answer::{Answer, TIMEOUT};
use hale_daemon::monitor::probe::fed;

pub fn run(input: &[u8]) {
    let Some((pieces, bytes)) = input.split_first() else { return };
    let piece_bytes = usize::from(pieces.saturating_sub(b'0'));
    let answer = Answer { after: b"jobs", bytes, piece_bytes, again: &[], until_bytes: 0 };
    let ((failure, detail), _) = answer.to(|stream| fed::grpc("jobs", stream, TIMEOUT));
    assert_eq!(failure.is_none(), detail.starts_with("serving in "), "{detail}");
    // The field of the status is said by somebody.
    assert!(failure.is_some() || bytes.contains(&8), "{detail}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_answer_is_understood() {
        let bytes = &include_bytes!("grpc-serving")[1..];
        let answer = Answer { after: b"jobs", bytes, piece_bytes: 0, again: &[], until_bytes: 0 };
        let ((failure, detail), _) = answer.to(|stream| fed::grpc("jobs", stream, TIMEOUT));
        assert!(failure.is_none(), "{detail}");
    }
}
