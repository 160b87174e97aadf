//! Rust source as the checks see it: without comments and literals, and split into code and tests.

/// The source with comments and the insides of string and character literals blanked; lines stay where they are.
pub fn without_comments_and_literals(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match literal_or_comment_end(&chars, at) {
            Some(end) => end,
            None => {
                out.push(chars[at]);
                at += 1;
                continue;
            }
        };
        out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

/// Where the comment or literal that starts at `at` ends, if one starts there.
fn literal_or_comment_end(chars: &[char], at: usize) -> Option<usize> {
    let next = chars.get(at + 1).copied();
    match chars[at] {
        '/' if next == Some('/') => {
            Some(chars[at..].iter().position(|&c| c == '\n').map_or(chars.len(), |length| at + length))
        }
        '/' if next == Some('*') => Some(block_comment_end(chars, at)),
        '"' => Some(escaped_end(chars, at, '"')),
        'r' if !follows_word(chars, at) => raw_string_end(chars, at),
        // `'a'` and `'\n'` are characters, `'a` is a lifetime.
        '\'' if next == Some('\\') => Some(escaped_end(chars, at, '\'')),
        '\'' if chars.get(at + 2) == Some(&'\'') => Some(at + 3),
        _ => None,
    }
}

/// Whether the character before `at` belongs to a word; the `b` of `br"…"` and the `c` of `cr"…"` do not count.
fn follows_word(chars: &[char], at: usize) -> bool {
    let is_word = |at: usize| chars.get(at).is_some_and(|&c| c.is_alphanumeric() || c == '_');
    match at.checked_sub(1) {
        None => false,
        Some(before) if matches!(chars[before], 'b' | 'c') => before.checked_sub(1).is_some_and(is_word),
        Some(before) => is_word(before),
    }
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = start;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                at += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    chars.len()
}

fn escaped_end(chars: &[char], start: usize, quote: char) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

fn raw_string_end(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start + 1..].iter().take_while(|&&c| c == '#').count();
    let open = start + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let closes = |at: usize| chars[at] == '"' && chars[at + 1..].iter().take_while(|&&c| c == '#').count() >= hashes;
    let close = (open + 1..chars.len()).find(|&at| closes(at));
    Some(close.map_or(chars.len(), |at| at + 1 + hashes))
}

/// Where the test module at the end of a file starts, as an index of lines; the number of lines if there is none.
pub fn test_module_line(code: &[&str]) -> usize {
    (0..code.len())
        .find(|&at| code[at] == "#[cfg(test)]" && code.get(at + 1).is_some_and(|next| next.starts_with("mod tests {")))
        .unwrap_or(code.len())
}

/// Whether `word` stands in `text` with no letter, digit or underscore next to it.
pub fn has_word(text: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        let joins = |outer: Option<char>, inner: Option<char>| {
            outer.is_some_and(part_of_word) && inner.is_some_and(part_of_word)
        };
        !joins(before, word.chars().next()) && !joins(after, word.chars().next_back())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_become_blanks() {
        for (source, code) in [
            ("a // b\nc", "a c"),
            ("a /* b /* c */\n d */ e", "a e"),
            (r#"f("x \" y") g"#, "f( ) g"),
            (r##"f(r#"x " y"#, br"z\") g"##, "f( , b ) g"),
            (r"let c = '\''; let d: &'a str = '/';", "let c = ; let d: &'a str = ;"),
            ("for r in car\"\"", "for r in car"),
        ] {
            let blanked = without_comments_and_literals(source);
            assert_eq!(blanked.split_whitespace().collect::<Vec<_>>().join(" "), code, "{source}");
            assert_eq!(blanked.lines().count(), source.lines().count(), "{source}");
        }
    }

    #[test]
    fn words_stand_alone() {
        assert!(has_word("x = unsafe {", "unsafe"));
        assert!(!has_word("forbid(unsafe_code)", "unsafe"));
        assert!(has_word("#[allow(dead_code)]", "#[allow("));
        assert!(!has_word("af64", "f64"));
    }

    #[test]
    fn the_test_module_is_found() {
        assert_eq!(test_module_line(&["a", "#[cfg(test)]", "mod tests {", "}"]), 1);
        assert_eq!(test_module_line(&["a", "#[cfg(test)]", "extern crate std;"]), 3);
    }
}
