//! The lines that the guardian puts into a service's output, so that each process's part of it has exact borders.

use crate::protocol::SpawnFailure;
use crate::protocol::text::Text;
use crate::sys::child::MARKER_BYTES;
use crate::sys::wait::Exit;
use hale_core::ids::Epoch;
use hale_core::policy::Signal;
use std::fmt::{self, Write};

/// How a process of a slot ended, for good or before its program ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was reaped.
    Exited(Exit),
    /// Its program never ran.
    Failed(SpawnFailure),
}

/// Lines on the stack, without allocating.
#[derive(Debug)]
pub struct Marker(Text<MARKER_BYTES>);

impl Marker {
    /// Nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Text::new())
    }

    /// A line that says how a process ended: `hale: epoch 3, pid 4711 ended: signal 9 SIGKILL`.
    #[must_use]
    pub fn ended(mut self, epoch: Epoch, pid: i32, end: End) -> Self {
        // The longest line has below 120 bytes, so that nothing is cut.
        let _ = writeln!(self.0, "hale: epoch {epoch}, pid {pid} {end}");
        self
    }

    /// The begin of a line that the child ends with its pid and ` started`.
    #[must_use]
    pub fn starting(mut self, epoch: Epoch) -> Self {
        let _ = write!(self.0, "hale: epoch {epoch}, pid ");
        self
    }

    /// What was written so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exited(Exit::Code(code)) => write!(f, "ended: exit code {code}"),
            Self::Exited(Exit::Signal { signal, core_dumped }) => {
                write!(f, "ended: signal {signal}")?;
                // Above 31 a signal has no name but its number.
                if signal <= 31 {
                    write!(f, " {}", Signal(signal))?;
                }
                f.write_str(if core_dumped { " (core dumped)" } else { "" })
            }
            Self::Exited(Exit::Unknown) => f.write_str("ended, unseen by the guardian that had started it"),
            // Without the error's text, for which the standard library allocates.
            Self::Failed(SpawnFailure { step, errno }) => {
                write!(f, "could not be started: {}: errno {errno}", step.name())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::child::Step;

    #[test]
    fn markers_say_how_it_ended() {
        let line = |end| String::from_utf8(Marker::new().ended(Epoch(3), 4711, end).bytes().into()).unwrap();
        assert_eq!(line(End::Exited(Exit::Code(1))), "hale: epoch 3, pid 4711 ended: exit code 1\n");
        let exit = Exit::Signal { signal: 6, core_dumped: true };
        assert_eq!(line(End::Exited(exit)), "hale: epoch 3, pid 4711 ended: signal 6 SIGABRT (core dumped)\n");
        let failure = SpawnFailure { step: Step::NoNewPrivs, errno: 2 };
        assert_eq!(line(End::Failed(failure)), "hale: epoch 3, pid 4711 could not be started: no_new_privs: errno 2\n");
    }

    #[test]
    fn the_longest_markers_fit_with_what_the_child_adds() {
        let failure = SpawnFailure { step: Step::OomScoreAdj, errno: i32::MIN };
        let marker = Marker::new().ended(Epoch(u64::MAX), i32::MIN, End::Failed(failure)).starting(Epoch(u64::MAX));
        assert!(marker.bytes().ends_with(b"pid "));
        assert!(marker.bytes().len() + "-2147483648 started\n".len() <= MARKER_BYTES);
    }
}
