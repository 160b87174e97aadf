//! Which characters of somebody else's text can be shown as they are.

/// Whether a terminal shows the character and does nothing else: neither a control character, which can move the cursor
/// or rewrite what was printed before, nor one of the invisible ones that reorder text (Unicode, UAX #9), by which a
/// line reads as another one, or end a line.
#[must_use]
pub fn is_harmless(c: char) -> bool {
    let turns = matches!(c, '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
    !c.is_control() && !turns && c != '\u{feff}'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_turns_or_hides_is_not_harmless() {
        assert!("aé—\u{1f600} ".chars().all(is_harmless));
        assert!(!"\0\t\n\u{1b}\u{7f}\u{9b}\u{200e}\u{202e}\u{2066}\u{feff}".chars().any(is_harmless));
    }
}
