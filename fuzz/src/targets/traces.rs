//! Exceptions in the output of a process: what is found is bounded, shows nothing to a terminal that it would obey, and does not depend
//! on what was written long before.

use hale_core::analyze::trace::{Trace, find};
use hale_core::text::is_harmless;

pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let lines: Vec<&str> = text.split('\n').collect();
    let found = find(&lines).map(|(trace, _)| trace);
    let after_others: Vec<&str> = std::iter::once("all is well").chain(lines.iter().copied()).collect();
    assert_eq!(found, find(&after_others).map(|(trace, _)| trace), "another line before it");
    let Some(trace) = found else { return };
    assert!(trace.frames.len() <= 6, "{trace:?}");
    for name in trace.frames.iter().chain([&trace.what]) {
        assert!(!name.is_empty() && name.chars().count() <= 400, "{name:?}");
        assert!(name.chars().all(is_harmless), "{name:?}");
    }
    let json = serde_json::to_string(&trace).expect("a trace has a JSON form");
    assert_eq!(serde_json::from_str::<Trace>(&json).expect("what was written can be read"), trace);
}
