//! Guarantees about descriptors that services leave, judged by what the guardian keeps.

use super::{Oracle, Seen};
use crate::kernel::Fact;

/// Each process gets what its predecessors left and did not take back, and nothing else is kept.
#[derive(Debug)]
pub struct LeftIsPassed;

impl Oracle for LeftIsPassed {
    fn name(&self) -> &'static str {
        "left-is-passed"
    }

    fn guarantee(&self) -> &'static str {
        "a process gets all descriptors that are kept for its service, and no other"
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Fact(Fact::Passed { service, epoch, forgotten, missing }) if forgotten + missing > 0 => Err(format!(
                "{service} epoch {epoch}: {forgotten} descriptors are kept and not passed, {missing} passed and not kept"
            )),
            Seen::Fact(_) | Seen::Event(_) | Seen::Record(_) | Seen::Effect(_) | Seen::Policy(_) => Ok(()),
        }
    }
}
