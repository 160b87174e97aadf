//! The bytes of a ledger's segment and manifest: each is accounted for, and nothing after a record changes what it says.
//!
//! An input is payloads, one on a line, which become records; then, after an empty line, whatever stands behind them.

use hale_ledger::{Position, Problem, Rest, Verifier, VerifyError, manifest, record};

pub fn run(input: &[u8]) {
    if let Ok(seal) = manifest::decode(input) {
        assert_eq!(manifest::decode(&manifest::encode(&seal)).ok(), Some(seal));
    }
    let end = input.windows(2).position(|window| window == b"\n\n");
    let (payloads, behind) = end.map_or((&[][..], input), |end| (&input[..end], &input[end + 2..]));
    let (mut position, mut segment) = (Position::default(), Vec::new());
    for payload in payloads.split(|&byte| byte == b'\n') {
        let start = segment.len();
        match position.append(payload, &mut segment) {
            Ok(seq) => {
                let line = segment[start..].strip_suffix(b"\n").expect("a record is a line");
                let read = record::decode(line).expect("a record is read");
                assert_eq!((read.seq, read.payload), (seq, payload));
            }
            Err(_) => assert_eq!(segment.len(), start, "what is refused leaves nothing"),
        }
    }
    let written_bytes = segment.len() as u64;
    segment.extend_from_slice(behind);
    verify(&segment, written_bytes);
}

fn verify(segment: &[u8], written_bytes: u64) {
    let total = segment.len() as u64;
    let mut verifier = Verifier::default();
    let outcome = verifier.open(segment);
    let verified_bytes = verifier.position().bytes();
    assert!(verified_bytes >= written_bytes, "{verified_bytes} bytes of {written_bytes} verified: {outcome:?}");
    match outcome {
        Ok(Rest::Clean { reserved_bytes }) => assert_eq!(verified_bytes + reserved_bytes, total),
        Ok(Rest::Torn { bytes, reserved_bytes }) => assert_eq!(verified_bytes + bytes + reserved_bytes, total),
        Ok(Rest::Foreign) => panic!("it is damage"),
        Err(VerifyError::Damage(damage)) => {
            assert!(damage.offset < total, "{damage}");
            assert!(!matches!(damage.problem, Problem::Missing | Problem::Truncated { .. }), "{damage}");
        }
        Err(VerifyError::Read { source, .. }) => panic!("memory cannot fail: {source}"),
    }
}
