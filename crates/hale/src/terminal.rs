//! What the terminal gets to see: text of services made harmless, and a little colour.

use hale_core::text::is_harmless;
use std::borrow::Cow;
use std::io::IsTerminal;

/// `text` on one line, without anything that a terminal would obey.
///
/// Control characters can move the cursor, rewrite what was printed before, or worse; characters that turn
/// the direction of writing can make a line read as another one (Unicode Technical Report 36, section 2).
pub fn escape(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_harmful) {
        let escaped = |c: char| if is_harmful(c) { c.escape_default().to_string() } else { c.to_string() };
        Cow::Owned(text.chars().map(escaped).collect())
    } else {
        Cow::Borrowed(text)
    }
}

fn is_harmful(c: char) -> bool {
    !is_harmless(c) && c != '\t'
}

/// What a colour says. The words beside it say the same: nothing is told by colour alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Under way, or not quite right.
    Attention,
    /// Wrong.
    Bad,
    /// Of less interest.
    Quiet,
}

/// Whether standard output is to be coloured: a terminal, and <https://no-color.org> does not forbid it.
pub fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::io::stdout().is_terminal()
}

/// `text` in the colour of `tone` (ECMA-48 SGR), if `coloured`.
pub fn paint(text: &str, tone: Tone, coloured: bool) -> Cow<'_, str> {
    if !coloured {
        return Cow::Borrowed(text);
    }
    let code = match tone {
        Tone::Good => 32,
        Tone::Attention => 33,
        Tone::Bad => 31,
        Tone::Quiet => 2,
    };
    Cow::Owned(format!("\u{1b}[{code}m{text}\u{1b}[0m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        assert_eq!(escape("plain\ttext, é and 漢"), "plain\ttext, é and 漢");
        assert_eq!(escape("\u{1b}]0;root\u{7}\r\n"), "\\u{1b}]0;root\\u{7}\\r\\n");
        assert_eq!(escape("C1 \u{9b}2J"), "C1 \\u{9b}2J");
        assert_eq!(escape("gnp.\u{202e}exe"), "gnp.\\u{202e}exe");
    }

    #[test]
    fn colour_is_added_only_where_wanted() {
        assert_eq!(paint("healthy", Tone::Good, false), "healthy");
        assert_eq!(paint("healthy", Tone::Good, true), "\u{1b}[32mhealthy\u{1b}[0m");
    }
}
