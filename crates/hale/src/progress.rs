//! What a command that takes long says meanwhile, on standard error: lines, and on a terminal a last one that changes.

use crate::terminal::escape;
use std::io::{IsTerminal, Write, stderr};

/// Where it is said.
pub struct Progress {
    is_terminal: bool,
    /// The last line is one that changes.
    is_drawn: bool,
}

impl Progress {
    pub fn new() -> Self {
        Self { is_terminal: stderr().is_terminal(), is_drawn: false }
    }

    /// Whether there is a line that changes.
    pub fn changes(&self) -> bool {
        self.is_terminal
    }

    /// A line that stays.
    pub fn line(&mut self, text: &str) {
        self.clear();
        let _nobody_looks = writeln!(stderr(), "{}", escape(text));
    }

    /// The line that changes.
    pub fn now(&mut self, text: &str) {
        if self.is_terminal {
            // ECMA-48 EL: what was longer goes. A line that is broken by the terminal would stay in part.
            let short: String = escape(text).chars().take(COLUMNS_MIN).collect();
            let mut to = stderr();
            let _nobody_looks = write!(to, "\r{short}\u{1b}[K").and_then(|()| to.flush());
            self.is_drawn = true;
        }
    }

    /// Takes the line that changes away.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            let _nobody_looks = write!(stderr(), "\r\u{1b}[K");
        }
    }
}

/// The narrowest terminal that people use.
const COLUMNS_MIN: usize = 79;

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
