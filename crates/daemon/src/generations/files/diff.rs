//! What is different between two kept states, for people: without secrets, bounded, and harmless for a terminal.

use super::error::FilesError;
use super::redact::Redactor;
use super::state::{Entry, Meta, Node, Refusal, State};
use super::store::Store;
use crate::monitor::text::one_line;
use similar::{Algorithm, DiffOp, capture_diff_slices_deadline, group_diff_ops};
use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

/// Lines of one file's diff. More than a screen is looked up in the file itself.
const LINES_MAX: usize = 100;

/// The longest line, in bytes.
const LINE_BYTES_MAX: usize = 256;

/// All lines of all files, in bytes: what escapes in JSON becomes up to six times as long, and a record has 64 KiB.
const BYTES_MAX: usize = 8 << 10;

/// How much of what differs is compared: the lines between the same beginning and the same end. More is told by its size.
const COMPARED_LINES_MAX: usize = 20_000;

/// Unchanged lines around each change, as diff(1) has them.
const AROUND: usize = 3;

/// After this the rest of what differs counts as one change. Of twenty thousand lines that have nothing in common.
const PATIENCE: Duration = Duration::from_millis(500);

/// One file that is another one. All texts are on one line, and harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// Its configured path.
    pub path: String,
    /// In what it is different.
    pub what: Vec<What>,
    /// Lines as `diff -u` has them, from `@@` on, without secrets.
    pub diff: Vec<String>,
    /// How many lines were left out after these.
    pub left_out: usize,
}

/// In what a file is different. `Display` follows its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It is configured now, and was not then.
    NowConfigured,
    /// It was configured then.
    NoLongerConfigured,
    /// It was absent.
    Made,
    /// It is absent.
    Removed,
    /// Other bytes.
    Content {
        /// Size then.
        from_bytes: u64,
        /// Size now.
        to_bytes: u64,
    },
    /// Other permissions, as chmod(1) has them.
    Mode {
        /// Then.
        from: u32,
        /// Now.
        to: u32,
    },
    /// Another user or group, by their ids.
    Owner {
        /// Then.
        from: (u32, u32),
        /// Now.
        to: (u32, u32),
    },
    /// These extended attributes.
    Xattrs(Vec<String>),
    /// It is a symbolic link that leads elsewhere, or no longer or only now one.
    Links {
        /// Targets then, one leading to the next.
        from: Vec<String>,
        /// Targets now.
        to: Vec<String>,
    },
    /// It is not copied any longer.
    NowRefused(Refusal),
    /// It was not copied then.
    WasRefused(Refusal),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let targets = |targets: &[String]| match targets {
            [] => "no link".to_owned(),
            targets => targets.join(" -> "),
        };
        match self {
            Self::NowConfigured => f.write_str("belongs to the configuration now"),
            Self::NoLongerConfigured => f.write_str("belongs to the configuration no longer"),
            Self::Made => f.write_str("was made"),
            Self::Removed => f.write_str("was removed"),
            Self::Content { from_bytes, to_bytes } => {
                write!(f, "has another content ({from_bytes} -> {to_bytes} bytes)")
            }
            Self::Mode { from, to } => write!(f, "has another mode ({from:04o} -> {to:04o})"),
            Self::Owner { from, to } => write!(f, "has another owner ({}:{} -> {}:{})", from.0, from.1, to.0, to.1),
            Self::Xattrs(names) => write!(f, "has other attributes ({})", names.join(", ")),
            Self::Links { from, to } => write!(f, "leads elsewhere (from {} to {})", targets(from), targets(to)),
            Self::NowRefused(why) => write!(f, "{why}"),
            Self::WasRefused(why) => write!(f, "can be copied now; before: {why}"),
        }
    }
}

pub(super) fn changes(
    store: &Store,
    [from, to]: [&State; 2],
    redactor: &Redactor,
) -> Result<Vec<FileChange>, FilesError> {
    let mut left_bytes = BYTES_MAX;
    let mut changes = Vec::new();
    let paths: BTreeSet<&Vec<u8>> = from.0.keys().chain(to.0.keys()).collect();
    for path in paths {
        let entries = [from.0.get(path), to.0.get(path)];
        let what = differences(entries);
        if what.is_empty() {
            continue;
        }
        let content = |state: &State, entry: Option<&Entry>| match entry.and_then(file) {
            Some(meta) => store.content_of(state.id(), meta.hash),
            None => Ok(Vec::new()),
        };
        let [old, new] = entries.map(|entry| entry.and_then(file).map(|meta| meta.hash));
        let (diff, left_out) = if old == new {
            (Vec::new(), 0)
        } else {
            diff(&content(from, entries[0])?, &content(to, entries[1])?, redactor, &mut left_bytes)
        };
        changes.push(FileChange { path: shown(path), what, diff, left_out });
    }
    Ok(changes)
}

fn file(entry: &Entry) -> Option<&Meta> {
    match &entry.node {
        Node::File(meta) => Some(meta),
        Node::Absent | Node::Refused(_) => None,
    }
}

fn shown(bytes: &[u8]) -> String {
    one_line(&String::from_utf8_lossy(bytes), LINE_BYTES_MAX)
}

fn differences(entries: [Option<&Entry>; 2]) -> Vec<What> {
    let (from, to) = match entries {
        [Some(from), Some(to)] => (from, to),
        [None, Some(_)] => return vec![What::NowConfigured],
        [Some(_), None] => return vec![What::NoLongerConfigured],
        [None, None] => return Vec::new(),
    };
    let mut what = Vec::new();
    if from.links != to.links {
        let targets = |links: &[Vec<u8>]| links.iter().map(|target| shown(target)).collect();
        what.push(What::Links { from: targets(&from.links), to: targets(&to.links) });
    }
    match (&from.node, &to.node) {
        (from, to) if from == to => {}
        (Node::File(from), Node::File(to)) => {
            if from.hash != to.hash {
                what.push(What::Content { from_bytes: from.size, to_bytes: to.size });
            }
            if from.mode != to.mode {
                what.push(What::Mode { from: from.mode, to: to.mode });
            }
            if (from.uid, from.gid) != (to.uid, to.gid) {
                what.push(What::Owner { from: (from.uid, from.gid), to: (to.uid, to.gid) });
            }
            let names: BTreeSet<_> = from.xattrs.keys().chain(to.xattrs.keys()).collect();
            let names = names.into_iter().filter(|name| from.xattrs.get(*name) != to.xattrs.get(*name));
            let names: Vec<String> = names.map(|name| shown(name)).collect();
            if !names.is_empty() {
                what.push(What::Xattrs(names));
            }
        }
        (_, Node::Refused(why)) => what.push(What::NowRefused(*why)),
        (Node::Refused(why), _) => what.push(What::WasRefused(*why)),
        (Node::Absent, _) => what.push(What::Made),
        (_, Node::Absent) => what.push(What::Removed),
    }
    what
}

/// The lines of a diff, and how many were left out.
fn diff(old: &[u8], new: &[u8], redactor: &Redactor, left_bytes: &mut usize) -> (Vec<String>, usize) {
    // As git has it: a NUL among the first bytes.
    let is_binary = |bytes: &[u8]| bytes[..bytes.len().min(8000)].contains(&0);
    if is_binary(old) || is_binary(new) {
        return (Vec::new(), 0);
    }
    let (old, new) = (String::from_utf8_lossy(old), String::from_utf8_lossy(new));
    let [old, new]: [Vec<&str>; 2] = [&old, &new].map(|text| text.lines().collect());
    let same_before = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let rest = [&old[same_before..], &new[same_before..]];
    let same_after = rest[0].iter().rev().zip(rest[1].iter().rev()).take_while(|(old, new)| old == new).count();
    let lines = rest[0].len().max(rest[1].len()) - same_after;
    if lines > COMPARED_LINES_MAX {
        return (Vec::new(), lines);
    }
    // Secrets are told by what is above them, so all is redacted, and then a part of it shown.
    let clean = [&old, &new].map(|lines| redactor.lines(lines.iter().copied()));
    let ops = capture_diff_slices_deadline(Algorithm::Myers, &old, &new, Some(Instant::now() + PATIENCE));
    let mut shown = Vec::new();
    for group in group_diff_ops(ops, AROUND) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let range = |start: usize, end: usize| format!("{},{}", start + usize::from(end > start), end - start);
        let old = range(first.old_range().start, last.old_range().end);
        let new = range(first.new_range().start, last.new_range().end);
        shown.push(format!("@@ -{old} +{new} @@"));
        for op in group {
            let lines = |sign: char, lines: &[String]| -> Vec<String> {
                lines.iter().map(|line| one_line(&format!("{sign}{line}"), LINE_BYTES_MAX)).collect()
            };
            if let DiffOp::Equal { .. } = op {
                shown.extend(lines(' ', &clean[1][op.new_range()]));
            } else {
                shown.extend(lines('-', &clean[0][op.old_range()]));
                shown.extend(lines('+', &clean[1][op.new_range()]));
            }
        }
    }
    let mut fits = 0;
    while fits < shown.len().min(LINES_MAX) && shown[fits].len() < *left_bytes {
        *left_bytes -= shown[fits].len() + 1;
        fits += 1;
    }
    let left_out = shown.len() - fits;
    shown.truncate(fits);
    (shown, left_out)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Place, kept};
    use super::*;

    fn change(from: &[u8], to: &[u8]) -> FileChange {
        let place = Place::new();
        let files = place.open(["etc/a"]);
        let [from, to] = [from, to].map(|text| {
            std::fs::write(place.at("etc/a"), text).unwrap();
            kept(&files)
        });
        let mut changes = files.changes(from, to, &Redactor::new(["tiger123".to_owned()])).unwrap();
        assert_eq!(changes.len(), 1);
        changes.remove(0)
    }

    #[test]
    fn a_diff_is_as_diff_has_it_and_without_secrets() {
        let before = "# bot\nport = 8080\ntoken = \"abc\"\na\nb\nc\nd\ne\nmodel = small\n";
        let after = "# bot\nport = 808\ntoken = \"abd\"\na\nb\nc\nd\ne\nmodel = tiger123\nlast";
        let wanted = [
            "@@ -1,9 +1,10 @@",
            " # bot",
            "-port = 8080",
            "-token = [redacted]",
            "+port = 808",
            "+token = [redacted]",
            " a",
            " b",
            " c",
            " d",
            " e",
            "-model = small",
            "+model = [redacted]",
            "+last",
        ];
        let change = change(before.as_bytes(), after.as_bytes());
        assert_eq!((change.diff, change.left_out), (wanted.map(String::from).to_vec(), 0));
    }

    #[test]
    fn a_block_of_secrets_is_one_where_its_begin_is_not_shown() {
        let lines = "a\n".repeat(20);
        let key = |line: &str| format!("-----BEGIN PRIVATE KEY-----\n{lines}{line}\n-----END PRIVATE KEY-----\n");
        let change = change(key("b").as_bytes(), key("c").as_bytes());
        let is_clean = change.diff[1..].iter().all(|line| line.ends_with("[redacted]"));
        assert!(change.diff.len() > 3 && is_clean, "{change:?}");
    }

    #[test]
    fn a_terminal_obeys_no_line_and_a_record_has_room_for_all() {
        let hostile = change(b"a\n", b"\x1b[2J\xff\n");
        assert_eq!(hostile.diff, ["@@ -1,1 +1,1 @@", "-a", "+\\u{1b}[2J\u{fffd}"]);
        let text = |c: &str| (0..1_000).map(|n| format!("{n} {}\n", c.repeat(n))).collect::<String>();
        let long = change(text("a").as_bytes(), text("b").as_bytes());
        assert!(long.diff.len() <= LINES_MAX && long.diff.iter().map(String::len).sum::<usize>() <= BYTES_MAX);
        assert!(long.diff.iter().all(|line| line.len() <= LINE_BYTES_MAX) && long.left_out > 1_800);
        let lines = "x\n".repeat(COMPARED_LINES_MAX + 1);
        assert_eq!(change(b"", lines.as_bytes()).left_out, COMPARED_LINES_MAX + 1);
        let binary = change(b"a", b"b\0");
        assert_eq!((binary.diff.len(), binary.what), (0, vec![What::Content { from_bytes: 1, to_bytes: 2 }]));
    }
}
