//! Go: panics and fatal errors of the runtime, and the goroutine that had them (<https://pkg.go.dev/runtime>).

use super::{Found, Runtime, Trace, normal};
use alloc::string::String;
use alloc::vec::Vec;

/// How far below the message the goroutine may begin, in lines: signals are described between them.
const GOROUTINE_WITHIN: usize = 40;

pub(super) fn find(lines: &[&str]) -> Found {
    // Of a panic while panicking both messages stand above the same goroutine; the last one ended the process.
    let head = lines.iter().rposition(|line| message(line).is_some())?;
    let what = message(lines[head])?;
    let below = &lines[head + 1..];
    let is_goroutine = |line: &&str| line.starts_with("goroutine ") && line.trim_end().ends_with("]:");
    let goroutine = below.iter().take(GOROUTINE_WITHIN).position(is_goroutine)?;
    let is_frame = |line: &&&str| !line.starts_with("created by ") && (line.starts_with('\t') || frame(line).is_some());
    let all = below[goroutine + 1..].iter().take_while(is_frame);
    let count = all.clone().count();
    let frames: Vec<(String, bool)> = all.filter_map(|line| frame(line)).collect();
    if frames.is_empty() {
        return None;
    }
    Some((head + 1 + goroutine + count, Trace::new(Runtime::Go, &what, frames)?))
}

/// `panic: …`, `fatal error: …`, or a signal. Panics have no types that would be told.
fn message(line: &str) -> Option<String> {
    let line = line.trim_start_matches('\t');
    let is_one = ["panic: ", "fatal error: "].iter().any(|words| line.starts_with(words))
        || (line.starts_with("SIG") && line.contains(": "));
    is_one.then(|| normal::message(line.split(" [recovered").next().unwrap_or(line)))
}

/// `main.(*S).get(...)` or `main.f({0x48be00, 0xc000058020}, 0x3)`: the function without its arguments.
fn frame(line: &str) -> Option<(String, bool)> {
    if line.starts_with(char::is_whitespace) {
        // Where it stands.
        return None;
    }
    let line = line.trim_end().strip_suffix(')')?;
    let mut depth = 1_u32;
    let open = line.char_indices().rev().find(|(_, character)| {
        match character {
            ')' => depth += 1,
            '(' => depth -= 1,
            _ => {}
        }
        depth == 0
    });
    let (open, _) = open?;
    let function = line[..open].replace("[...]", "");
    let is_runtime = function.starts_with("runtime.") || function.starts_with("runtime/") || function == "panic";
    // Of a package's path its last part, but for a version (`pgx/v5.Connect`).
    let short = normal::file(&function);
    let is_version = short.strip_prefix('v').is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()));
    let whole = if is_version { function.rsplitn(3, '/').take(2).last().map_or(short, |parent| parent) } else { short };
    let name = if is_version { alloc::format!("{whole}/{short}") } else { short.into() };
    (!function.is_empty()).then(|| (normal::name(&name), is_runtime))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_lose_their_arguments_and_the_path_of_their_package() {
        let name = |line: &str| frame(line).map(|(name, _)| name);
        assert_eq!(name("main.(*S).get(...)").as_deref(), Some("main.(*S).get"));
        assert_eq!(name("github.com/a/b/v2.Do[...](0x1, {0x2, 0x3})").as_deref(), Some("b/v#.Do"));
        assert_eq!(name("main.main.func1(0xc0000)").as_deref(), Some("main.main.func#"));
        assert_eq!(frame("panic({0x48be00, 0xc000058020})"), Some(("panic".into(), true)));
        assert_eq!(frame("\t/tmp/main.go:5 +0x7a"), None);
        assert_eq!(frame("exit status 2"), None);
    }
}
