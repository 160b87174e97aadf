//! One mistake in the configuration: where it is, what is wrong, what to do; and how it is shown.

use hale_core::text::is_harmless;
use serde::Serialize;
use std::fmt;
use std::ops::Range;

/// One file of the configuration, already read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The name to show to people, as given on the command line.
    pub name: String,
    /// The whole text.
    pub text: String,
}

/// Whether the configuration can be used in spite of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but it is probably not what was meant.
    Warning,
}

/// One mistake. `Display` renders it with the line it is in:
///
/// ```text
/// error: unknown key `comand` in [service.bot]
///   --> hale.toml:2:1
///    |
///  2 | comand = ["bin/bot"]
///    | ^^^^^^
///   help: did you mean `command`?
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// Name of the file.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The bytes of the file that are wrong.
    pub span: Range<usize>,
    /// What is wrong: one sentence without a full stop.
    pub message: String,
    /// What to do, where that can be told.
    pub help: Option<String>,
    /// The line, and the part of it that is wrong in characters from 0: only for showing.
    #[serde(skip)]
    excerpt: (String, Range<usize>),
}

/// A line longer than this many characters is shown cut around the mistake: wide enough for a command with
/// its arguments, narrow enough for a terminal.
const EXCERPT_CHARS: usize = 120;

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let number = self.line.to_string();
        let width = number.len();
        let (text, marked) = &self.excerpt;
        writeln!(f, "{severity}: {}", self.message)?;
        writeln!(f, "{:width$}--> {}:{number}:{}", "", self.file, self.column, width = width + 1)?;
        writeln!(f, "{:width$} |", "", width = width + 1)?;
        writeln!(f, " {number} | {text}")?;
        writeln!(
            f,
            "{:width$} | {:skip$}{}",
            "",
            "",
            "^".repeat(marked.len()),
            width = width + 1,
            skip = marked.start
        )?;
        match &self.help {
            Some(help) => writeln!(f, "{:width$}help: {help}", "", width = width + 1),
            None => Ok(()),
        }
    }
}

/// A stretch of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Index into the files.
    pub file: usize,
    /// First byte.
    pub start: usize,
    /// First byte after it.
    pub end: usize,
}

/// What is wrong with a text, said without knowing where it stands: `problem` follows the key's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub problem: String,
    pub help: Option<String>,
}

impl Mistake {
    /// A mistake with a remedy.
    pub fn new(problem: impl Into<String>, help: impl Into<String>) -> Self {
        Self { problem: problem.into(), help: Some(help.into()) }
    }

    /// A mistake whose remedy is plain.
    pub fn plain(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), help: None }
    }
}

/// Collects what is wrong, so that all of it is told at once.
pub(crate) struct Report<'s> {
    sources: &'s [Source],
    found: Vec<Diagnostic>,
    /// Where each of `found` stands, for their order.
    places: Vec<Place>,
}

impl<'s> Report<'s> {
    pub fn new(sources: &'s [Source]) -> Self {
        Self { sources, found: Vec::new(), places: Vec::new() }
    }

    pub fn error(&mut self, at: Place, message: impl Into<String>, help: Option<String>) {
        self.add(Severity::Error, at, message.into(), help);
    }

    pub fn warning(&mut self, at: Place, message: impl Into<String>, help: Option<String>) {
        self.add(Severity::Warning, at, message.into(), help);
    }

    /// Reports `mistake` of the value of `key`.
    pub fn mistake(&mut self, at: Place, key: &str, mistake: Mistake) {
        self.error(at, format!("`{key}` {}", mistake.problem), mistake.help);
    }

    /// `hale.toml:3:1`, for messages that speak of another place.
    pub fn position(&self, at: Place) -> String {
        let (line, column, _) = locate(&self.sources[at.file].text, at);
        format!("{}:{line}:{column}", self.sources[at.file].name)
    }

    /// Whether nothing stands against using the configuration so far.
    pub fn is_clean(&self) -> bool {
        self.found.iter().all(|one| one.severity != Severity::Error)
    }

    /// All that was found, in the order of the files.
    pub fn finish(self) -> Vec<Diagnostic> {
        let mut all: Vec<_> = self.places.into_iter().zip(self.found).collect();
        all.sort_by_key(|(place, one)| (*place, one.severity));
        all.into_iter().map(|(_, one)| one).collect()
    }

    fn add(&mut self, severity: Severity, at: Place, message: String, help: Option<String>) {
        let source = &self.sources[at.file];
        let (line, column, excerpt) = locate(&source.text, at);
        let span = at.start..at.end;
        let (message, help) = (harmless(message), help.map(harmless));
        self.found.push(Diagnostic { severity, file: source.name.clone(), line, column, span, message, help, excerpt });
        self.places.push(at);
    }
}

/// `text` on one line, as it is shown and kept: names of keys, quoted in messages, can hold anything.
fn harmless(text: String) -> String {
    if text.chars().all(is_harmless) {
        return text;
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmless(c) { shown.push(c) } else { shown.extend(c.escape_default()) }
    }
    shown
}

/// Line, column and what to show of `at`.
fn locate(text: &str, at: Place) -> (usize, usize, (String, Range<usize>)) {
    let start = text.floor_char_boundary(at.start);
    let end = text.floor_char_boundary(at.end).max(start);
    let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
    let line = text[..start].matches('\n').count() + 1;
    let before = text[line_start..start].chars().count();
    let marked = text[start..end.min(line_end).max(start)].trim_end().chars().count().max(1);

    let skip = if before + marked > EXCERPT_CHARS { before.saturating_sub(EXCERPT_CHARS / 4) } else { 0 };
    let shown = text[line_start..line_end].trim_end().chars().skip(skip).take(EXCERPT_CHARS);
    // A tab would shift the marks, and an escape sequence could change the terminal.
    let shown: String = shown.map(|c| if is_harmless(c) { c } else { ' ' }).collect();
    let from = before - skip;
    (line, before + 1, (shown, from..(from + marked).min(EXCERPT_CHARS).max(from + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str, start: usize, end: usize) -> String {
        let sources = [Source { name: "hale.toml".into(), text: text.into() }];
        let mut report = Report::new(&sources);
        report.error(Place { file: 0, start, end }, "wrong", Some("right".into()));
        report.finish()[0].to_string()
    }

    #[test]
    fn the_marks_stand_below_the_mistake() {
        let shown = render("a = 1\n\tbé = \"x\"\n", 13, 16);
        assert_eq!(shown, "error: wrong\n  --> hale.toml:2:7\n   |\n 2 |  bé = \"x\"\n   |       ^^^\n  help: right\n");
    }

    #[test]
    fn the_end_of_the_file_and_places_between_characters_can_be_shown() {
        assert!(render("", 0, 0).contains("1:1"));
        assert!(render("é", 1, 9).contains("1:1"));
        assert!(render("a\n", 2, 2).contains("2:1"));
    }

    #[test]
    fn a_long_line_is_cut_around_the_mistake() {
        let text = format!("{}WRONG{}", "x".repeat(500), "y".repeat(500));
        let shown = render(&text, 500, 505);
        assert!(shown.contains("WRONG"), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() < 130), "{shown}");
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert!(!render("a = \"\u{1b}[2J\"", 4, 8).contains('\u{1b}'));
        assert!(!render("a = \"\u{202e}\"", 4, 8).contains('\u{202e}'));
        // Nor by a message that quotes the text: found by the fuzz target `config`.
        let sources = [Source { name: "hale.toml".into(), text: String::new() }];
        let mut report = Report::new(&sources);
        report.error(Place { file: 0, start: 0, end: 0 }, "`\0\u{202e}` is", Some("\n`\u{1b}[2J`?".into()));
        let shown = report.finish()[0].to_string();
        assert!(shown.contains(r"`\u{0}\u{202e}` is") && shown.ends_with("help: \\n`\\u{1b}[2J`?\n"), "{shown:?}");
    }
}
