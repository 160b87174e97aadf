//! Guarantees about waiting for memory, judged by what the kernel told of it.

use super::{Oracle, Seen};
use crate::kernel::Fact;
use hale_core::event::{Event, ProbeFailure};
use hale_core::ids::{Epoch, Name};
use hale_core::incident::Cause;
use hale_core::record::{Body, Finding, Record};
use std::collections::{BTreeMap, BTreeSet};

/// What the kernel says of a living process is on record, and is the cause of being late while it lasts, and then alone.
#[derive(Debug, Default)]
pub struct StallsAreNamed {
    living: BTreeMap<Name, Epoch>,
    /// Services that wait for memory, as recorded.
    open: BTreeSet<Name>,
    /// Told, and not on record yet.
    owed: Option<Name>,
}

impl StallsAreNamed {
    fn record(&mut self, name: &Name, record: &Record) -> Result<(), String> {
        match &record.body {
            Body::Spawned { epoch, .. } | Body::Adopted { epoch, .. } => {
                self.living.insert(name.clone(), *epoch);
                self.open.remove(name);
            }
            Body::Exited { .. } | Body::SpawnFailed { .. } => {
                self.living.remove(name);
                self.open.remove(name);
            }
            Body::MemoryStalled { .. } => {
                let is_owed = self.owed.take().as_ref() == Some(name);
                let begins = self.open.insert(name.clone());
                return if is_owed && begins {
                    Ok(())
                } else {
                    Err(format!("{name} waits for memory, and nobody said so"))
                };
            }
            Body::MemoryRelieved { .. } => {
                let ends = self.open.remove(name);
                return if ends {
                    Ok(())
                } else {
                    Err(format!("{name} waits for memory no longer, and did not before"))
                };
            }
            Body::Detected { cause, finding, .. } => {
                let explained = is_late(finding) && self.open.contains(name);
                let may_be = explained || is_wrong(finding);
                if (explained && *cause != Cause::Memory) || (*cause == Cause::Memory && !may_be) {
                    return Err(format!("{name} failed for {cause}: {finding}"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether the failure is that something did not come, or came late.
fn is_late(finding: &Finding) -> bool {
    matches!(
        finding,
        Finding::Check { failure: ProbeFailure::Timeout | ProbeFailure::Killed | ProbeFailure::Slow, .. }
            | Finding::NoHeartbeat { triggered: false, .. }
            | Finding::StartTimeout { .. }
    )
}

/// Whether it may be a check of the memory itself, whose cause is this one also without any waiting.
fn is_wrong(finding: &Finding) -> bool {
    matches!(finding, Finding::Check { failure: ProbeFailure::Wrong, .. })
}

impl Oracle for StallsAreNamed {
    fn name(&self) -> &'static str {
        "stalls-are-named"
    }

    fn guarantee(&self) -> &'static str {
        "that a living process waits for memory is on record, and it is the cause of being late just while it does"
    }

    fn rewind(&mut self, kept: &[Record]) {
        *self = super::replay(Self::default(), kept);
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Event(event) => {
                if let Some(name) = self.owed.take() {
                    return Err(format!("{name} waits for memory, and nothing is on record"));
                }
                if let Event::MemoryStalled { service, epoch, .. } = event
                    && self.living.get(service) == Some(epoch)
                    && !self.open.contains(service)
                {
                    self.owed = Some(service.clone());
                }
                Ok(())
            }
            Seen::Record(record) => match &record.service {
                Some(name) => self.record(name, record),
                None => Ok(()),
            },
            Seen::Fact(Fact::SupervisorDied) => {
                self.owed = None;
                Ok(())
            }
            Seen::Fact(_) | Seen::Effect(_) | Seen::Policy(_) => Ok(()),
        }
    }
}
