//! `hale-release.toml`: what a release says of its service's data, and the programs that it brings for them.

use crate::diagnostic::{Diagnostic, Place, Report, Source};
use crate::document;
use crate::fields::Fields;
use crate::keys::Key;
use crate::keys::release as keys;
use crate::kinds::{List, Text};
use crate::validate::program;
use hale_core::time::Span;

/// The name of the file, at the root of a release.
pub const RELEASE_FILE: &str = "hale-release.toml";

/// What stands in the file of one release; without one, what `Default` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseFile {
    /// The newest format of the service's data that the release reads, and the one that it leaves behind.
    pub data_format: u32,
    /// The oldest `data_format` of a release that can still read the data once this one has run; at most `data_format`.
    pub min_rollback: u32,
    /// Run before the release is switched to: a program with its arguments. Empty: nothing is.
    pub before_switch: Vec<String>,
    /// Run when the release was gone back from: a program with its arguments. Empty: nothing is.
    pub after_rollback: Vec<String>,
    /// How long each of the two may take.
    pub hook_timeout: Span,
}

impl Default for ReleaseFile {
    fn default() -> Self {
        let hook_timeout = keys::HOOK_TIMEOUT_KEY.kind.default.unwrap_or(Span::ZERO);
        let (before_switch, after_rollback) = (Vec::new(), Vec::new());
        Self { data_format: 0, min_rollback: 0, before_switch, after_rollback, hook_timeout }
    }
}

/// Reads the text of a `hale-release.toml`.
///
/// # Errors
///
/// Every mistake in it, in their order.
pub fn release_file(text: &str) -> Result<ReleaseFile, Vec<Diagnostic>> {
    let sources = [Source { name: RELEASE_FILE.to_owned(), text: text.to_owned() }];
    let mut report = Report::new(&sources);
    let read = document::read(&sources, &mut report).and_then(|root| {
        let at = Place { file: 0, start: 0, end: 0 };
        let fields = Fields::open(&root, &keys::SECTION, RELEASE_FILE.to_owned(), at, &mut report);
        read(&fields, &mut report)
    });
    // A key that is unknown leaves the others as they are: that is no reason to go on.
    let mistakes = report.finish();
    read.filter(|_| mistakes.is_empty()).ok_or(mistakes)
}

fn read(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<ReleaseFile> {
    let data_format = fields.get(&keys::DATA_FORMAT, report);
    let min_rollback = fields.get(&keys::MIN_ROLLBACK, report);
    if let (Some(data_format), Some(min_rollback)) = (data_format, min_rollback)
        && min_rollback > data_format
    {
        let message = format!("`min_rollback` ({min_rollback}) is more than `data_format` ({data_format})");
        let help = "the release itself could not read the data that it leaves: make `data_format` the format that it \
                    leaves, or `min_rollback` smaller";
        report.error(fields.place(keys::MIN_ROLLBACK.name), message, Some(help.to_owned()));
    }
    let before_switch = hook(fields, &keys::BEFORE_SWITCH, report);
    let after_rollback = hook(fields, &keys::AFTER_ROLLBACK, report);
    let hook_timeout = fields.get(&keys::HOOK_TIMEOUT_KEY, report);
    Some(ReleaseFile {
        data_format: data_format?,
        min_rollback: min_rollback?,
        before_switch,
        after_rollback,
        hook_timeout: hook_timeout?,
    })
}

/// A program with its arguments; nothing where it is left out, or wrong.
fn hook(fields: &Fields<'_>, key: &Key<List<Text>>, report: &mut Report<'_>) -> Vec<String> {
    let Some(command) = fields.given(key, report) else { return Vec::new() };
    program(key.name, &command, fields.place(key.name), report);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> String {
        let found = release_file(text).unwrap_err();
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_a_release_says_is_read() {
        assert_eq!(release_file(""), Ok(ReleaseFile::default()));
        assert_eq!(ReleaseFile::default().hook_timeout, Span::from_secs(60));
        let all = "data_format = 3\nmin_rollback = 2\nbefore_switch = [\"bin/copy\", \"--fast\"]\n\
                   after_rollback = [\"sh\", \"-c\", \"bin/back $HALE_SNAPSHOT\"]\nhook_timeout = \"5m\"\n";
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let wanted = ReleaseFile {
            data_format: 3,
            min_rollback: 2,
            before_switch: words(&["bin/copy", "--fast"]),
            after_rollback: words(&["sh", "-c", "bin/back $HALE_SNAPSHOT"]),
            hook_timeout: Span::from_secs(300),
        };
        assert_eq!(release_file(all), Ok(wanted));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_to_do() {
        let cases = [
            (
                "before_swich = [\"x\"]",
                "unknown key `before_swich` in hale-release.toml",
                "did you mean `before_switch`?",
            ),
            ("data_format = \"3\"", "`data_format` must be a whole number", "write 3 without quotes"),
            ("data_format = -1", "`data_format` must be a whole number from 0 to 4294967295", "-->"),
            ("min_rollback = 1", "`min_rollback` (1) is more than `data_format` (0)", "make `data_format`"),
            ("before_switch = []", "`before_switch` is empty", "for example [\"bin/copy-data\"]"),
            ("after_rollback = \"bin/x y\"", "`after_rollback` must be a list", "write [\"bin/x\", \"y\"]"),
            ("after_rollback = [\"\"]", "`after_rollback`", "-->"),
            ("hook_timeout = 60", "`hook_timeout`", "add a unit: \"60s\""),
            ("hook_timeout = \"999ms\"", "`hook_timeout` must be at least 1s", "-->"),
            ("hook_timeout = \"61m\"", "`hook_timeout` must be at most 1h", "-->"),
            ("data_format = 1\ndata_format = 2", "defined twice", "keep one"),
            ("data_format =", "a value is missing", "hale-release.toml:1:"),
            ("[hooks]\nbefore_switch = [\"x\"]", "unknown key `hooks`", "known here: data_format"),
        ];
        for (text, problem, help) in cases {
            let told = mistakes(text);
            assert!(told.contains(problem) && told.contains(help), "{text}: {told}");
        }
    }
}
