//! Python: tracebacks (<https://docs.python.org/3/library/traceback.html>), also of groups of exceptions, and what
//! faulthandler says.

use super::{Found, Runtime, Trace, normal};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Exceptions of the parser, which stand without "Traceback" where the first file has them.
const OF_PARSER: [&str; 3] = ["SyntaxError", "IndentationError", "TabError"];

pub(super) fn find(lines: &[&str]) -> Found {
    let last = lines.iter().rposition(|line| frame(line).is_some())?;
    fatal(lines, last).or_else(|| raised(lines, last))
}

/// The column of a frame, and what it names.
struct Frame<'a> {
    column: usize,
    file: &'a str,
    function: &'a str,
}

/// `File "x.py", line 3, in f`; faulthandler has no second comma, and errors of the parser have no function.
fn frame(line: &str) -> Option<Frame<'_>> {
    let (before, rest) = line.split_once("File \"")?;
    let (file, rest) = rest.split_once("\", line ")?;
    let rest = rest.trim_start_matches(|character: char| character.is_ascii_digit());
    let function = match rest.trim_start_matches(',').trim_start().split_once("in ") {
        Some(("", function)) => function,
        Some(_) => return None,
        None if rest.trim().is_empty() => "",
        None => return None,
    };
    // Frames are indented by two.
    let column = before.len().checked_sub(2)?;
    before.ends_with("  ").then_some(Frame { column, file, function })
}

impl Frame<'_> {
    fn named(&self) -> (String, bool) {
        let Self { file, function, .. } = self;
        let of_library = ["/lib/python", "/site-packages/", "/dist-packages/"].iter().any(|part| file.contains(part));
        let file = normal::name(normal::file(file));
        let name = if function.is_empty() { file } else { format!("{file}:{}", normal::name(function)) };
        (name, of_library || self.file.starts_with("<frozen"))
    }
}

/// An exception that nobody caught, or that was logged. It stands below its frames, at the column of "Traceback".
fn raised(lines: &[&str], last: usize) -> Found {
    let column = frame(lines[last])?.column;
    let content = |index: usize| lines[index].get(column..).unwrap_or_default();
    let is_within = |index: usize| content(index).starts_with(' ') && !content(index).trim().is_empty();
    let end = (last + 1..lines.len()).find(|&index| !is_within(index))?;
    let (what, _) = normal::type_name(content(end).trim_end())?;
    let begin = (0..last).rev().find(|&index| !is_within(index));
    let has_head = begin.is_some_and(|begin| content(begin).ends_with("Traceback (most recent call last):"));
    if !has_head && !OF_PARSER.contains(&what) {
        return None;
    }
    // What a finalizer raises at the end of the interpreter comes after the exception that ended it.
    let ignored = begin.filter(|begin| *begin > 0 && lines[begin - 1].contains("Exception ignored in"));
    if let Some(earlier) = ignored.and_then(|begin| find(&lines[..begin])) {
        return Some(earlier);
    }
    let first = begin.map_or(0, |begin| begin + 1);
    let frames: Vec<_> = lines[first..end].iter().rev().filter_map(|line| frame(line)).map(|it| it.named()).collect();
    Some((end, Trace::new(Runtime::Python, what, frames)?))
}

/// What ended the interpreter itself: `Fatal Python error: …`, and after `(most recent call first):` frames of one thread.
fn fatal(lines: &[&str], last: usize) -> Found {
    let head = lines[..last].iter().rposition(|line| line.contains("Fatal Python error: "))?;
    let (_, what) = lines[head].split_once("Fatal Python error: ")?;
    // All threads are listed; the one that it happened in need not be the first.
    let is_thread = |line: &&str| line.ends_with("(most recent call first):");
    let its_own = lines[head..last].iter().position(|line| is_thread(line) && line.contains("Current thread "));
    let thread = head + its_own.or_else(|| lines[head..last].iter().position(is_thread))?;
    let all = lines[thread + 1..].iter().map_while(|line| frame(line));
    let frames: Vec<_> = all.map(|it| it.named()).collect();
    let what = format!("Fatal Python error: {}", normal::message(what));
    Some((last, Trace::new(Runtime::Python, &what, frames)?))
}
