//! Guarantees about processes, judged by the fake kernel's own table.

use super::{Oracle, Seen};
use crate::kernel::Fact;
use hale_core::record::Body;

/// No process is made while another one of the same service lives.
pub struct OneProcess;

impl Oracle for OneProcess {
    fn name(&self) -> &'static str {
        "one-process"
    }

    fn guarantee(&self) -> &'static str {
        "there are never two processes of one service, nor one beside what another left behind"
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Fact(Fact::Forked { service, epoch, beside }) if *beside > 0 => {
                Err(format!("{service} epoch {epoch} was started beside {beside} living trees of the same service"))
            }
            Seen::Fact(_) | Seen::Event(_) | Seen::Record(_) | Seen::Effect(_) | Seen::Policy(_) => Ok(()),
        }
    }
}

/// Nothing impossible is ordered of the guardian.
pub struct Possible;

impl Oracle for Possible {
    fn name(&self) -> &'static str {
        "possible"
    }

    fn guarantee(&self) -> &'static str {
        "the guardian is never ordered to use an epoch twice or to touch a process that is not the newest"
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Fact(Fact::Impossible(what)) => Err(what.clone()),
            Seen::Fact(_) | Seen::Event(_) | Seen::Record(_) | Seen::Effect(_) | Seen::Policy(_) => Ok(()),
        }
    }
}

/// The core never breaks a rule of its own.
pub struct NoViolation;

impl Oracle for NoViolation {
    fn name(&self) -> &'static str {
        "no-violation"
    }

    fn guarantee(&self) -> &'static str {
        "the core never finds that it broke a rule of its own"
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Record(record) => match &record.body {
                Body::Violated { what } => {
                    Err(format!("{}: {what}", record.service.as_ref().map_or("", |name| name.as_str())))
                }
                _ => Ok(()),
            },
            Seen::Fact(_) | Seen::Event(_) | Seen::Effect(_) | Seen::Policy(_) => Ok(()),
        }
    }
}
