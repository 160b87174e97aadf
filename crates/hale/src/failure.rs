//! The one way in which a command fails, and the one place where errors are printed.

use crate::exit::Exit;
use crate::terminal::escape;
use std::error::Error;
use std::fmt::Write as _;
use std::io;

/// What went wrong, told to people on standard error, and the exit status that tells it to scripts.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
    cause: Option<Box<dyn Error>>,
    help: Option<String>,
    /// The whole text, where another part of Hale has made it ready.
    rendered: Option<String>,
}

impl Failure {
    /// `message` is lowercase and says what could not be done, and where.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), cause: None, help: None, rendered: None }
    }

    /// `text` is complete: lines that say what, where and what to do, without anything that a terminal obeys.
    pub fn rendered(exit: Exit, text: String) -> Self {
        Self { rendered: Some(text), ..Self::new(exit, "") }
    }

    /// Adds why: the error below, and those below it.
    pub fn because(mut self, cause: impl Into<Box<dyn Error>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Adds what to do.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The exit status that tells it to scripts.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Prints it and gives the exit status.
    ///
    /// A reader that has seen enough is not an error: `hale logs web | head` succeeds.
    pub fn report(self) -> Exit {
        if self.is_broken_pipe() {
            return Exit::Done;
        }
        eprint!("{}", self.text());
        self.exit
    }

    fn is_broken_pipe(&self) -> bool {
        let output = self.cause.as_ref().and_then(|cause| cause.downcast_ref::<io::Error>());
        output.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// `error: what: why: why of that`, then `  help: what to do`.
    fn text(&self) -> String {
        if let Some(text) = &self.rendered {
            return text.clone();
        }
        let mut text = format!("error: {}", escape(&self.message));
        let mut next: Option<&dyn Error> = self.cause.as_deref();
        while let Some(error) = next {
            // Some libraries repeat the error below in their own words.
            let words = error.to_string();
            if !text.ends_with(&words) {
                let _infallible = write!(text, ": {}", escape(&words));
            }
            next = error.source();
        }
        text.push('\n');
        if let Some(help) = &self.help {
            let _infallible = writeln!(text, "  help: {help}");
        }
        text
    }
}

/// The only I/O error that a command passes on as it is: its own output cannot be written.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(Exit::Failed, "cannot write the output").because(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_chain_is_told_on_one_line() {
        let failure = Failure::new(Exit::Failed, "cannot read hale.toml")
            .because(io::Error::other("the disk is gone\u{1b}[2J"))
            .help("plug it in");
        assert_eq!(failure.text(), "error: cannot read hale.toml: the disk is gone\\u{1b}[2J\n  help: plug it in\n");
    }

    #[test]
    fn a_reader_that_went_away_is_success() {
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).report(), Exit::Done);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::StorageFull)).report(), Exit::Failed);
    }
}
