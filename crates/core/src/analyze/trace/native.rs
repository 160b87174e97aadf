//! C and C++: why glibc aborts a program (`__libc_message`, `__assert_fail`), and what libstdc++ and libc++ say of an
//! exception that nobody caught.

use super::{Found, Runtime, Trace, normal};
use alloc::format;
use alloc::string::String;

/// How glibc's own messages begin: of its allocator, of fortified functions, and of its own assertions.
const GLIBC: [&str; 14] = [
    "free(): ",
    "malloc(): ",
    "realloc(): ",
    "munmap_chunk(): ",
    "malloc_consolidate(): ",
    "double free or corruption",
    "corrupted size vs. prev_size",
    "corrupted double-linked list",
    "invalid fastbin entry (free)",
    "*** stack smashing detected ***",
    "*** buffer overflow detected ***",
    "*** %n in writable segment",
    "*** longjmp causes uninitialized stack frame ***",
    "Fatal glibc error: ",
];

/// What is said before the type of an exception.
const UNCAUGHT: [&str; 3] = [
    "terminate called after throwing an instance of '",
    "libc++abi: terminating due to uncaught exception of type ",
    "libc++abi: terminating with uncaught exception of type ",
];

pub(super) fn find(lines: &[&str]) -> Found {
    (0..lines.len()).rev().find_map(|index| {
        let next = lines.get(index + 1).map_or("", |next| next.trim());
        let (what, frame) = abort(lines[index].trim(), next)?;
        Some((index, Trace::new(Runtime::Native, &what, frame.map(|frame| (frame, false)))?))
    })
}

/// What a line says, and where that was if it says so.
fn abort(line: &str, next: &str) -> Option<(String, Option<String>)> {
    if let Some(rest) = UNCAUGHT.iter().find_map(|words| line.strip_prefix(words)) {
        let (name, message) = rest.split_once(": ").unwrap_or((rest.split('\'').next()?, ""));
        // libstdc++ has it on a line of its own. There is no place, so that only the message tells one from another.
        let message = next.strip_prefix("what():").unwrap_or(message).trim();
        let colon = if message.is_empty() { "" } else { ": " };
        return Some((format!("{}{colon}{}", normal::name(name), normal::message(message)), None));
    }
    if GLIBC.iter().any(|words| line.starts_with(words)) {
        return Some((normal::message(line), None));
    }
    assertion(line)
}

/// `prog: file.c:12: function: Assertion `x > 0' failed.` (assert(3)).
fn assertion(line: &str) -> Option<(String, Option<String>)> {
    let (before, rest) = line.split_once(": Assertion `")?;
    let (expression, _) = rest.rsplit_once("' failed.")?;
    let mut parts = before.splitn(3, ": ");
    let (_, place, function) = (parts.next()?, parts.next()?, parts.next()?);
    let (file, _) = place.rsplit_once(':')?;
    let what = format!("Assertion `{expression}' failed.");
    Some((what, Some(format!("{}:{}", normal::name(normal::file(file)), normal::name(function)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aborts_are_told_from_other_lines() {
        let what = |line: &str, next: &str| abort(line, next).map(|(what, _)| what);
        let gcc = "terminate called after throwing an instance of 'app::Bad'";
        assert_eq!(what(gcc, "").as_deref(), Some("app::Bad"));
        assert_eq!(what(gcc, "what():  port 80 in use").as_deref(), Some("app::Bad: port # in use"));
        let libcxx = "libc++abi: terminating due to uncaught exception of type std::runtime_error: 17 left";
        assert_eq!(what(libcxx, "").as_deref(), Some("std::runtime_error: # left"));
        assert_eq!(what("terminate called without an active exception", ""), None);
        assert_eq!(what("we free(): nothing", ""), None);
        let assertion = abort("a: /x/b.cc:12: int N::f(int): Assertion `x == \"a: b\"' failed.", "").unwrap();
        assert_eq!(assertion.1.as_deref(), Some("b.cc:int N::f(int)"));
    }
}
