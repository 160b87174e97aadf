//! What the core knows of the hardware timer, of resets, and of what it said about rebooting.

use crate::hardware::{Past, PastReset, Timer};
use crate::ids::RecordId;
use crate::plan::reboot::{Choice, Verdict};
use crate::record::{Body, Record};
use crate::time::Monotonic;
use alloc::vec::Vec;

/// The timer and the rung above all services.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hardware {
    /// What the guardian said last.
    pub(crate) timer: Option<Timer>,
    /// What the past says, once it was read.
    pub(crate) past: Option<Past>,
    /// Whether it was found out if the timer caused this boot.
    pub(crate) boot_judged: bool,
    /// The last answer about the permission.
    pub(crate) answer: Option<Choice>,
    pub(crate) permission: Key,
    pub(crate) reboot: Key,
    /// When the budget allows more than now.
    pub(crate) recheck: Option<Monotonic>,
}

/// One of the two keys that the guardian needs to stop petting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Key {
    /// It does not have it.
    #[default]
    Kept,
    /// It gets it once the record is durable.
    OnRecord { record: RecordId, since: Monotonic },
    /// It has it.
    Given,
}

impl Hardware {
    /// The only door for what records change.
    pub(crate) fn apply(&mut self, record: &Record, boot_id: &str) {
        let on_record = Key::OnRecord { record: record.id, since: record.at.mono };
        let reset = |ordered| PastReset { record: record.id, at: record.at, boot_id: boot_id.into(), ordered };
        if let Body::HardwareTimer { timer } = &record.body {
            self.timer = Some(timer.clone());
        } else if let Body::HardwareReset { ordered, .. } = &record.body {
            self.resets().retain(|past| Some(past.record) != *ordered);
            self.resets().push(reset(false));
        } else if let Body::RebootNotDurable { decided, .. } = &record.body {
            self.resets().retain(|past| past.record != *decided);
            self.reboot = Key::Kept;
        } else if let Body::RebootDecided(decision) = &record.body {
            match decision.choice.verdict {
                Verdict::Refuse => {}
                Verdict::Permit => self.permission = on_record,
                Verdict::Reboot => {
                    self.reboot = on_record;
                    self.resets().push(reset(true));
                }
            }
        }
    }

    /// When there is something to do without an event.
    pub(crate) fn deadline(&self) -> Option<Monotonic> {
        let order = match self.reboot {
            Key::OnRecord { since, .. } => Some(since.after(crate::step::DURABLE_WITHIN)),
            Key::Kept | Key::Given => None,
        };
        order.into_iter().chain(self.recheck).min()
    }

    /// The resets that are known.
    fn resets(&mut self) -> &mut Vec<PastReset> {
        self.past.get_or_insert_default().resets.get_or_insert_default()
    }
}
