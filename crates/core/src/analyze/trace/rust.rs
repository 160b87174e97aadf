//! Rust: what the standard library's panic hook prints (`std::panicking::default_hook`), with a backtrace or without.

use super::{Found, Runtime, Trace, normal};
use alloc::string::String;
use alloc::vec::Vec;

/// Where the machinery of panics, and what calls `main`, has its functions.
const RUNTIME: [&str; 11] = [
    "std::",
    "core::",
    "alloc::",
    "rust_begin_unwind",
    "__rust",
    "test::",
    "main",
    "__libc_start",
    "_start",
    "clone",
    "start_thread",
];

/// What follows the frames of a panic that is caught in a thread of the standard library's.
const NOTE: &str = "note: ";

/// What stands above the frames.
const BACKTRACE: &str = "stack backtrace:";

pub(super) fn find(lines: &[&str]) -> Found {
    let head = lines.iter().rposition(|line| panicked(line).is_some())?;
    let (place, old_message) = panicked(lines[head])?;
    let below = &lines[head + 1..];
    let message = match old_message {
        Some(message) => message,
        None => {
            below.first().filter(|line| !line.starts_with(NOTE) && !line.starts_with(BACKTRACE)).unwrap_or(&"panic")
        }
    };
    let what = normal::message(message);
    let backtrace = below.iter().take(super::MESSAGE_LINES_MAX).position(|line| line.trim() == BACKTRACE);
    if let Some(at) = backtrace {
        let all = below[at + 1..].iter().take_while(|line| line.starts_with(' '));
        let count = all.clone().count();
        let frames: Vec<(String, bool)> = all.filter_map(|line| frame(line)).collect();
        if !frames.is_empty() {
            return Some((head + 1 + at + count, Trace::new(Runtime::Rust, &what, frames)?));
        }
    }
    let frames = [(normal::name(normal::file(place)), false)];
    Some((head + usize::from(old_message.is_none() && !below.is_empty()), Trace::new(Runtime::Rust, &what, frames)?))
}

/// The file of `thread 'main' panicked at src/main.rs:2:5:`, and the message where it stands on the same line, as before Rust 1.73.
fn panicked(line: &str) -> Option<(&str, Option<&str>)> {
    let (_, rest) = line.split_once("thread '")?;
    if let Some((_, "" | ", aborting")) = rest.split_once("' has overflowed its stack") {
        return Some(("", Some("stack overflow")));
    }
    let (_, place) = rest.split_once(" panicked at ")?;
    let (message, place) = match place.strip_prefix('\'') {
        Some(old) => old.rsplit_once("', ").map(|(message, place)| (Some(message), place))?,
        None => (None, place.strip_suffix(':')?),
    };
    let mut parts = place.rsplitn(3, ':');
    let (column, row, file) = (parts.next()?, parts.next()?, parts.next()?);
    (is_number(column) && is_number(row)).then_some((file, message))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `  4: app::handle`, or `  4:  0x5614a34f1aa1 - app::handle::h92f092d77587044e`.
fn frame(line: &str) -> Option<(String, bool)> {
    let (number, name) = line.trim_start().split_once(": ")?;
    if !is_number(number) {
        return None;
    }
    let name = normal::short(name);
    let name = match name.split_once(" - ") {
        Some((address, name)) if address.starts_with("0x") => name,
        Some(_) | None => name,
    };
    let name = normal_function(name);
    let bare = name.trim_start_matches(['<', '&', '[', '(']);
    let is_runtime = RUNTIME
        .iter()
        .any(|part| if part.ends_with("::") || part.starts_with('_') { bare.starts_with(part) } else { bare == *part });
    Some((name, is_runtime))
}

/// Without the hash of the crate's version and compiler: `::h<16 digits>` at the end (legacy mangling), `[<digits>]` after the
/// name of a crate (v0, RFC 2603), and with one word for closures.
fn normal_function(name: &str) -> String {
    let is_hash = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let name = name.rsplit_once("::h").filter(|(_, hash)| is_hash(hash)).map_or(name, |(name, _)| name);
    let mut plain = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('[') {
        plain.push_str(before);
        rest = match after.split_once(']') {
            Some((hash, rest)) if !hash.is_empty() && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => rest,
            Some(_) | None => {
                plain.push('[');
                after
            }
        };
    }
    plain.push_str(rest);
    normal::name(&plain).replace("{closure#}", "{{closure}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_lose_their_hashes() {
        let name = |line: &str| frame(line).unwrap();
        assert_eq!(name("  1: app::go::h92f092d77587044e"), ("app::go".into(), false));
        assert_eq!(
            name("  1:  0x55 - <app[e28293b1aa0f68bd]::A>::go::{closure#0}"),
            ("<app::A>::go::{{closure}}".into(), false)
        );
        assert!(name(" 12: core[c1f1a4ba060b9bfa]::panicking::panic_fmt").1);
        assert!(name(" 12: main").1);
        assert!(!name(" 12: main::main").1);
        assert_eq!(name("  3: <[T]>::sort").0, "<[T]>::sort");
    }

    #[test]
    fn all_forms_of_the_first_line_are_known() {
        assert_eq!(panicked("thread 'a b' (77) panicked at src/x.rs:2:5:"), Some(("src/x.rs", None)));
        assert_eq!(
            panicked("thread '<unnamed>' panicked at 'it's bad', src/x.rs:2:5"),
            Some(("src/x.rs", Some("it's bad")))
        );
        assert_eq!(panicked("thread 'main' has overflowed its stack"), Some(("", Some("stack overflow"))));
        assert_eq!(panicked("thread 'main' panicked at the disco"), None);
    }
}
