//! Guarantees about blame: nobody is blamed whose fault it is not.

use super::{Oracle, Seen};
use crate::kernel::Fact;

/// A judgement is right, or *unknown*.
#[derive(Debug)]
pub struct Blames;

impl Oracle for Blames {
    fn name(&self) -> &'static str {
        "blame"
    }

    fn guarantee(&self) -> &'static str {
        "who is blamed for a failure is at fault; what cannot be told is unknown"
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Fact(Fact::Misjudged { service, blamed, truth }) => {
                Err(format!("a failure of {service} is blamed on {blamed:?}, and it is that of {truth:?}"))
            }
            Seen::Fact(_) | Seen::Record(_) | Seen::Event(_) | Seen::Effect(_) | Seen::Policy(_) => Ok(()),
        }
    }
}
