//! Words that came from outside, made fit for one line of a terminal, a page or a message.

use hale_core::text::is_harmless;

/// `text` on one line of at most `max_bytes` bytes: control characters and those that turn the direction of
/// writing around are escaped, and what does not fit is cut off and stands as `…`.
pub(crate) fn one_line(text: &str, max_bytes: usize) -> String {
    const CUT: char = '…';
    let mut line = String::with_capacity(text.len().min(max_bytes));
    // Where the text can be cut so that the mark still fits.
    let mut fits = 0;
    for c in text.trim_end().chars() {
        if is_harmless(c) {
            line.push(c);
        } else {
            line.extend(c.escape_default());
        }
        if line.len() > max_bytes {
            line.truncate(fits);
            line.push(CUT);
            return line;
        }
        if line.len() + CUT.len_utf8() <= max_bytes {
            fits = line.len();
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(one_line("ok \u{1b}[2J\r\nnext\t\u{202e}x\n", 99), r"ok \u{1b}[2J\r\nnext\t\u{202e}x");
        assert_eq!(one_line("größer „als“ \\ \"x\"", 99), "größer „als“ \\ \"x\"");
    }

    #[test]
    fn the_bound_holds_and_no_character_is_cut_apart() {
        for max in 3..40 {
            let line = one_line("grün \u{1b} ünd lang, länger, am längsten, noch länger", max);
            assert!(line.len() <= max && line.ends_with('…'), "{line:?} at {max}");
        }
        assert_eq!(one_line("exactly", 7), "exactly");
        assert_eq!(one_line("exactly+", 7), "exac…");
    }
}
