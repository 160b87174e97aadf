//! Guarantees about the kernel's OOM killer, judged by whom it really took.

use super::{Oracle, Seen};
use crate::kernel::Fact;
use hale_core::ids::{Epoch, Name};
use hale_core::incident::Cause;
use hale_core::record::{Body, Finding};
use std::collections::{BTreeMap, BTreeSet};

/// A main process that the kernel took for memory is said to be just that, and only one of a tree that it came for.
#[derive(Debug, Default)]
pub struct OomIsNamed {
    /// Main processes that it took.
    taken: BTreeSet<(Name, Epoch)>,
    /// Trees of which it took another process, as told.
    visited: BTreeSet<(Name, Epoch)>,
    /// Ends that nobody asked for and that the next detection must be about.
    owed: BTreeMap<Name, Epoch>,
}

impl Oracle for OomIsNamed {
    fn name(&self) -> &'static str {
        "oom-is-named"
    }

    fn guarantee(&self) -> &'static str {
        "the cause is oom when the kernel took the main process for memory, and never where it took nobody"
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        let record = match seen {
            Seen::Fact(Fact::OomKilledMain { service, epoch }) => {
                self.taken.insert((service.clone(), *epoch));
                return Ok(());
            }
            Seen::Record(record) => record,
            Seen::Fact(_) | Seen::Event(_) | Seen::Effect(_) | Seen::Policy(_) => return Ok(()),
        };
        let Some(name) = &record.service else { return Ok(()) };
        let of = |epoch: Epoch| (name.clone(), epoch);
        match &record.body {
            Body::OomKilled { epoch, .. } => {
                self.visited.insert(of(*epoch));
            }
            Body::Exited { epoch, asked, .. } if self.taken.contains(&of(*epoch)) => {
                self.visited.insert(of(*epoch));
                // It may be said again, by one who does not know that, and how, it was said.
                self.taken.remove(&of(*epoch));
                if !asked {
                    self.owed.insert(name.clone(), *epoch);
                }
            }
            Body::Detected { cause, finding, .. } => {
                let owed = self.owed.remove(name);
                if let Finding::Oom { epoch, .. } = finding
                    && !self.taken.contains(&of(*epoch))
                    && !self.visited.contains(&of(*epoch))
                {
                    return Err(format!("{name} epoch {epoch} is said to be killed for memory, and was not"));
                }
                if let Some(epoch) = owed
                    && *cause != Cause::Oom
                {
                    return Err(format!("{name} epoch {epoch} was killed for memory, and {cause} is on record"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
