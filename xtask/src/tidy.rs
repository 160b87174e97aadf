//! The rules of style that a machine can check, on the text of each Rust file and of each file at all.
//!
//! A line that has to break a rule says why at its end: `// tidy: the reason`.

use crate::lines;
use crate::source::{has_word, test_module_line, without_comments_and_literals};
use crate::tools::Outcome;
use std::collections::BTreeSet;
use std::path::Path;

/// The most lines a Rust file may have before its test module: beyond it, it is two subjects.
const LINES_MAX: usize = 700;

/// Rust files that may be longer, and why.
const LONG_FILES: &[(&str, &str)] = &[];

/// The only folder with unsafe code.
const UNSAFE_FOLDER: &str = "crates/daemon/src/sys/";

/// The pure crate.
const CORE_FOLDER: &str = "crates/core/";

/// Where a word is not allowed.
#[derive(Clone, Copy)]
enum Place {
    /// In all Rust code.
    Code,
    /// In all Rust code outside of [`UNSAFE_FOLDER`].
    SafeCode,
    /// In test modules and in files of `tests` folders.
    Tests,
    /// In [`CORE_FOLDER`], outside of its tests.
    Core,
    /// Everywhere in Rust files, comments too.
    RustText,
}

/// Words that are not allowed, where, and what to do instead. Split with `concat!` where the rule would find itself.
const WORDS: &[(&str, Place, &str)] = &[
    ("unsafe", Place::SafeCode, "unsafe code stands only in crates/daemon/src/sys"),
    ("#[allow(", Place::Code, "say #[expect(.., reason = \"..\")], or mend what it warns of"),
    ("#![allow(", Place::Code, "say #![expect(.., reason = \"..\")], or mend what it warns of"),
    ("todo!", Place::Code, "finish it or leave it away"),
    ("unimplemented!", Place::Code, "finish it or leave it away"),
    (concat!("TO", "DO"), Place::RustText, "finish it or leave it away"),
    (concat!("FIX", "ME"), Place::RustText, "mend it"),
    (concat!("XX", "X"), Place::RustText, "mend it"),
    ("#[ignore", Place::Code, "a test that cannot run everywhere goes into a `needs_…` module: CONTRIBUTING.md"),
    ("thread::sleep", Place::Tests, "wait for the event itself, with a bound"),
    ("time::sleep", Place::Tests, "wait for the event itself, with a bound"),
    ("f32", Place::Core, "the core counts in integers, so that each run gives the same result"),
    ("f64", Place::Core, "the core counts in integers, so that each run gives the same result"),
    ("HashMap", Place::Core, "its order differs from run to run: BTreeMap"),
    ("HashSet", Place::Core, "its order differs from run to run: BTreeSet"),
    ("Instant::now", Place::Core, "the core is told the time"),
    ("SystemTime", Place::Core, "the core is told the time"),
];

/// Paths that exist on the machine of whoever wrote a line, and nowhere else.
const PRIVATE_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/tmp/", "wt/"),
    concat!("/tmp/", "t-"),
    concat!(".lib", "rary"),
    concat!("../sh", "ared"),
    concat!("/ho", "me/user"),
];

/// Checks all `files` of the repository.
pub fn check(root: &Path, files: &[String]) -> Outcome {
    let mut findings = Vec::new();
    for file in files {
        let bytes = std::fs::read(root.join(file)).map_err(|e| format!("cannot read {file}: {e}"))?;
        let Ok(text) = String::from_utf8(bytes) else { continue };
        findings.extend(private_paths(file, &text));
        if file.ends_with(".rs") {
            findings.extend(rust_findings(file, &text));
        }
    }
    findings.extend(decision_findings(files));
    findings.extend(lines::findings(root, files)?);
    findings.extend(
        LONG_FILES
            .iter()
            .filter(|(file, _)| !files.iter().any(|f| f == file))
            .map(|(file, _)| format!("xtask/src/tidy.rs: LONG_FILES lists {file}, which is not there")),
    );
    if findings.is_empty() { Ok(()) } else { Err(findings.join("\n")) }
}

/// Whether the line argues its own exception.
fn is_excepted(line: &str) -> bool {
    line.split_once("// tidy: ").is_some_and(|(_, reason)| !reason.trim().is_empty())
}

fn private_paths(file: &str, text: &str) -> Vec<String> {
    let starts_path = |before: &str| !before.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
    text.lines()
        .enumerate()
        .filter(|(_, line)| !is_excepted(line))
        .flat_map(|(at, line)| {
            let found = |path: &&&str| line.match_indices(**path).any(|(start, _)| starts_path(&line[..start]));
            PRIVATE_PATHS.iter().filter(found).map(move |path| {
                format!("{file}:{}: `{path}` is a path of one machine: name what the reader has", at + 1)
            })
        })
        .collect()
}

fn rust_findings(file: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if !text.trim_start_matches("#!/usr/bin/env").starts_with("//! ") {
        findings.push(format!("{file}:1: say in one `//!` sentence what the file is for"));
    }
    let blanked = without_comments_and_literals(text);
    let code: Vec<&str> = blanked.lines().collect();
    let test_line = if in_tests_folder(file) { 0 } else { test_module_line(&code) };
    let lines = if in_tests_folder(file) { code.len() } else { test_line };
    if lines > LINES_MAX && !LONG_FILES.iter().any(|(long, _)| *long == file) {
        findings.push(format!("{file}: {lines} lines before the tests, at most {LINES_MAX}: make it two files"));
    }
    for (at, (line, code)) in text.lines().zip(&code).enumerate() {
        if is_excepted(line) {
            continue;
        }
        let is_test = at >= test_line;
        for (word, place, advice) in WORDS {
            let applies = match place {
                Place::Code | Place::RustText => true,
                Place::SafeCode => !file.starts_with(UNSAFE_FOLDER),
                Place::Tests => is_test,
                Place::Core => file.starts_with(CORE_FOLDER) && !is_test,
            };
            let place_text = if matches!(place, Place::RustText) { line } else { *code };
            if applies && has_word(place_text, word) {
                findings.push(format!("{file}:{}: `{word}`: {advice}", at + 1));
            }
        }
    }
    findings
}

fn in_tests_folder(file: &str) -> bool {
    file.split('/').any(|part| part == "tests")
}

/// `docs/decisions` holds `0001-a-few-words.md` and so on: four digits, no number twice, for a number is how a
/// decision is cited.
fn decision_findings(files: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let names = files.iter().filter_map(|file| file.strip_prefix("docs/decisions/"));
    names
        .filter(|name| *name != "README.md")
        .filter(|name| {
            let number = name.split_once('-').map(|(number, _)| number);
            let is_number = |text: &&str| text.len() == 4 && text.bytes().all(|b| b.is_ascii_digit());
            !(name.ends_with(".md") && number.filter(is_number).is_some_and(|number| seen.insert(number)))
        })
        .map(|name| format!("docs/decisions/{name}: must be `NNNN-few-words.md`, with a number of its own"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(file: &str, text: &str) -> usize {
        rust_findings(file, &format!("//! Purpose.\n{text}\n")).len()
    }

    #[test]
    fn a_file_says_what_it_is_for() {
        assert_eq!(rust_findings("a.rs", "//! Purpose.\n"), Vec::<String>::new());
        assert_eq!(rust_findings("a.rs", "fn main() {}\n").len(), 1);
    }

    #[test]
    fn each_word_is_found_where_it_is_not_allowed_and_only_there() {
        let tests = |code: &str| format!("#[cfg(test)]\nmod tests {{\n{code}\n}}");
        assert_eq!(findings("crates/core/src/a.rs", "unsafe {}"), 1);
        assert_eq!(findings("crates/daemon/src/sys/a.rs", "unsafe {}"), 0);
        assert_eq!(findings("a.rs", "// unsafe in prose\nlet s = \"unsafe\";"), 0);
        assert_eq!(findings("a.rs", concat!("// FIX", "ME later")), 1);
        assert_eq!(findings("a.rs", "#[allow(dead_code)]"), 1);
        assert_eq!(findings("a.rs", &tests("#[ignore = \"slow\"]")), 1);
        assert_eq!(findings("a.rs", "std::thread::sleep(pause);"), 0);
        assert_eq!(findings("a.rs", &tests("std::thread::sleep(pause);")), 1);
        assert_eq!(findings("crates/x/tests/a.rs", "tokio::time::sleep(pause);"), 1);
        assert_eq!(findings("crates/core/src/a.rs", "let x: f64;"), 1);
        assert_eq!(findings("crates/core/src/a.rs", &tests("let x: f64;")), 0);
        assert_eq!(findings("crates/daemon/src/a.rs", "let x: f64;"), 0);
    }

    #[test]
    fn an_exception_needs_a_reason() {
        let sleep = "thread::sleep(pause);";
        assert_eq!(findings("x/tests/a.rs", &format!("{sleep} // tidy: this test is about sleeping")), 0);
        assert_eq!(findings("x/tests/a.rs", &format!("{sleep} // tidy: ")), 1);
    }

    #[test]
    fn a_long_file_is_found_but_its_tests_do_not_count() {
        assert_eq!(findings("a.rs", &"\n".repeat(LINES_MAX)), 1);
        assert_eq!(findings("a.rs", &format!("#[cfg(test)]\nmod tests {{{}}}", "\n".repeat(LINES_MAX))), 0);
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        assert_eq!(private_paths("a.md", concat!("see /wo", "rk/main")).len(), 1);
        assert_eq!(private_paths("a.md", concat!("see docs/wo", "rk/main")).len(), 0);
    }

    #[test]
    fn decisions_have_a_number_of_their_own() {
        let files = |names: &[&str]| -> Vec<String> { names.iter().map(|n| format!("docs/decisions/{n}")).collect() };
        assert_eq!(decision_findings(&files(&["0001-a.md", "0003-b.md", "README.md"])).len(), 0);
        assert_eq!(decision_findings(&files(&["0001-a.md", "0001-b.md"])).len(), 1);
        assert_eq!(decision_findings(&files(&["notes.md", "12-b.md"])).len(), 2);
    }
}
