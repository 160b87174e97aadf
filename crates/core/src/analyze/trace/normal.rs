//! Taking out of names and messages what differs from run to run.

use super::NAME_MAX;
use crate::text::is_harmless;
use alloc::string::String;

/// How much of a text is looked at, in bytes: what is kept is shorter.
const TEXT_BYTES_MAX: usize = 1_024;

/// Without the sequences with which terminals change colours and more (ECMA-48: CSI), and without other control characters.
pub(super) fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            if characters.as_str().starts_with('[') {
                // Up to its final byte.
                let _ = characters.by_ref().skip(1).find(|end| ('\u{40}'..='\u{7e}').contains(end));
            }
        } else if character == '\t' || !character.is_control() {
            plain.push(character);
        }
    }
    plain
}

/// Not longer than a name may be, and with nothing that a terminal would obey.
pub(super) fn cut(text: &str) -> String {
    text.trim().chars().filter(|character| is_harmless(*character)).take(NAME_MAX).collect()
}

/// A name with `#` for each row of digits: lambdas, proxies and generated files are numbered.
pub(super) fn name(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    for character in cut(text).chars() {
        if !character.is_ascii_digit() {
            normal.push(character);
        } else if !normal.ends_with('#') {
            normal.push('#');
        }
    }
    normal
}

/// The last part of a path: folders have versions in their names.
pub(super) fn file(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// A message with `#` for numbers, `"…"` for what is quoted, and `/…` for paths. Words in backticks are a program's own.
pub(super) fn message(text: &str) -> String {
    let text = short(text);
    let mut normal = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let after = &rest[character.len_utf8()..];
        let follows_word = normal.chars().last().is_some_and(char::is_alphanumeric);
        let (shown, left) = match character {
            '0'..='9' => {
                let left = rest.trim_start_matches(|character: char| character.is_ascii_digit());
                // A word that has some stays: `v2x`.
                if follows_word && left.chars().next().is_some_and(char::is_alphabetic) {
                    (&rest[..rest.len() - left.len()], left)
                } else {
                    ("#", rest.trim_start_matches(is_of_number))
                }
            }
            '"' => ("\"…\"", after.split_once('"').map_or("", |(_, left)| left)),
            // Else an apostrophe.
            '\'' if !follows_word => ("'…'", after.split_once('\'').map_or("", |(_, left)| left)),
            // Of an address nothing is left: who asks, with which password, and whom.
            ':' if after.starts_with("//") => ("://…", after.trim_start_matches(|c: char| is_of_path(c) || c == ':')),
            '/' if !follows_word => ("/…", after.trim_start_matches(is_of_path)),
            _ => (&rest[..character.len_utf8()], after),
        };
        normal.push_str(shown);
        rest = left;
    }
    cut(&normal)
}

/// The begin of a text, as much as can matter.
pub(super) fn short(text: &str) -> &str {
    let text = text.trim();
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

fn is_of_number(character: char) -> bool {
    character.is_ascii_hexdigit() || matches!(character, 'x' | '.' | '_')
}

fn is_of_path(character: char) -> bool {
    !character.is_whitespace() && !matches!(character, ':' | ',' | ';' | ')' | '"' | '\'')
}

/// A word of letters, digits and `_.$`, that begins with a letter and is followed by `: `, or by nothing: the type of an exception
/// before its message. Also gives what follows.
pub(super) fn type_name(text: &str) -> Option<(&str, &str)> {
    let is_of_name = |character: char| character.is_alphanumeric() || matches!(character, '_' | '.' | '$');
    let (word, rest) = text.split_at(text.find(|character| !is_of_name(character)).unwrap_or(text.len()));
    let begins = word.chars().next().is_some_and(|first| first.is_alphabetic() || first == '_');
    let ends = rest.is_empty() || rest.starts_with(':');
    (begins && ends && !word.ends_with('.')).then_some((word, rest.trim_start_matches(':').trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_taken_out_of_messages() {
        for (text, normal) in [
            ("index 17 of 3", "index # of #"),
            ("at 0x7f00aa: 3.5 bad", "at #: # bad"),
            ("cannot open /var/lib/x/41.db: no", "cannot open /…: no"),
            ("key 'a b' and \"c\" don't", "key '…' and \"…\" don't"),
            ("utf8 is and v2x stays", "utf# is and v2x stays"),
            ("connect failed: postgres://app:hunter2@db:5432/prod, 3 tries", "connect failed: postgres://…, # tries"),
            ("open \"unended", "open \"…\""),
            ("", ""),
        ] {
            assert_eq!(message(text), normal);
        }
        assert_eq!(message(&"é".repeat(500)).chars().count(), NAME_MAX);
    }

    #[test]
    fn names_lose_their_numbers_and_lines_their_colours() {
        assert_eq!(name("lambda$main$12"), "lambda$main$#");
        assert_eq!(name("a\tb\u{202e}c"), "abc", "a terminal would obey that");
        assert_eq!(file("/opt/app/releases/1.2/app.py"), "app.py");
        assert_eq!(without_colours("\u{1b}[1;31mred\u{1b}[0m\u{7} \u{1b}"), "red ");
        assert_eq!(type_name("a.b.C: why"), Some(("a.b.C", "why")));
        assert_eq!(type_name("KeyError"), Some(("KeyError", "")));
        for none in ["", "two words", "7up: no", ": x", "Error. next"] {
            assert_eq!(type_name(none), None, "{none}");
        }
    }
}
