//! `hale logs SERVICE [-f] [-n N]`

use super::order::name;
use crate::cli::{Format, Global};
use crate::configuration;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::terminal::escape;
use hale_daemon::keeper::tail::{Follow, last_lines};
use serde_json::json;
use std::io::{self, Write};
use std::path::Path;

/// At most this much is shown of the past: more than anybody reads, little enough to be held in memory.
const PAST_MAX_BYTES: usize = 64 * 1024 * 1024;

/// A line that is longer is shown in pieces while it is followed.
const LINE_MAX_BYTES: usize = 64 * 1024;

/// How long one wait for output lasts; then the next begins.
const WAIT_MS: u32 = 60_000;

/// Prints the last `lines` lines of a service's output, and what follows.
pub fn run(
    service: &str,
    follow: bool,
    lines: usize,
    format: Format,
    global: &Global,
    out: &mut impl Write,
) -> Result<Exit, Failure> {
    let directory = configuration::directories(global)?.log.join(name(service)?.as_str());
    let failed = |error: io::Error| {
        Failure::new(Exit::Failed, format!("cannot read the output in {}", directory.display())).because(error)
    };
    // Asked for first: where there is nothing, the reason is told.
    std::fs::metadata(&directory).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            failed(error).help("no service of that name has ever written; `hale status` lists the services")
        }
        io::ErrorKind::PermissionDenied => failed(error).help("the output is for root, and for the user who runs Hale"),
        _ => failed(error),
    })?;
    // Before the past is read: a line that is written in between is shown twice rather than never.
    let mut future = if follow { Some(Follow::new(&directory).map_err(failed)?) } else { None };
    for line in past(&directory, lines).map_err(failed)? {
        print(&line, format, out)?;
    }
    let mut unfinished = Vec::new();
    while let Some(follow) = &mut future {
        out.flush()?;
        follow.read(&mut unfinished, WAIT_MS).map_err(failed)?;
        print_whole_lines(&mut unfinished, format, out)?;
    }
    Ok(Exit::Done)
}

fn past(directory: &Path, lines: usize) -> io::Result<Vec<Vec<u8>>> {
    if lines == 0 { Ok(Vec::new()) } else { last_lines(directory, lines, PAST_MAX_BYTES) }
}

/// Prints the lines of `text` that are complete, or too long to wait for, and leaves the rest in it.
fn print_whole_lines(text: &mut Vec<u8>, format: Format, out: &mut impl Write) -> io::Result<()> {
    let mut rest = &text[..];
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        print(&rest[..end], format, out)?;
        rest = &rest[end + 1..];
    }
    if rest.len() >= LINE_MAX_BYTES {
        print(rest, format, out)?;
        rest = &[];
    }
    let printed = text.len() - rest.len();
    text.drain(..printed);
    Ok(())
}

fn print(line: &[u8], format: Format, out: &mut impl Write) -> io::Result<()> {
    let line = String::from_utf8_lossy(line);
    if format.json { writeln!(out, "{}", json!({ "line": line })) } else { writeln!(out, "{}", escape(&line)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_printed_when_they_are_whole() {
        let mut text = b"one\ntw".to_vec();
        let mut out = Vec::new();
        print_whole_lines(&mut text, Format { json: false }, &mut out).unwrap();
        text.extend(b"o\x1b\xff\n");
        print_whole_lines(&mut text, Format { json: false }, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "one\ntwo\\u{1b}\u{fffd}\n");
        assert!(text.is_empty());
    }

    #[test]
    fn a_line_without_an_end_does_not_fill_the_memory() {
        let mut text = vec![b'x'; LINE_MAX_BYTES + 1];
        let mut out = Vec::new();
        print_whole_lines(&mut text, Format { json: true }, &mut out).unwrap();
        assert!(text.is_empty() && out.starts_with(b"{\"line\":\"xxx"));
    }
}
