//! The last rung but one: whether the guardian may let the hardware timer reset the machine, and when it is told to.

use crate::hardware::PastReset;
use crate::ids::{Name, RecordId};
use crate::policy::{Mode, PolicyHash, Reboot};
use crate::reason::Reason;
use crate::time::{Now, Span};
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// The rule's name in records. The number is raised with every change of what it answers.
pub const RULE: &str = "reboot/1";

/// The time in which resets are counted.
pub const DAY: Span = Span::from_secs(86_400);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "snake_case")]
pub enum Asked {
    /// Whether the guardian may stop petting when it finds by itself that nothing else is left.
    Permission,
    /// Whether the machine is to be reset now, because this required service is beyond its ladder.
    Failed {
        /// Which.
        service: Name,
        /// The first required one that is not beyond its own, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        working: Option<Name>,
        /// Whether the guardian has the permission.
        permitted: bool,
    },
}

/// All values that the rule reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// What is asked.
    pub asked: Asked,
    /// Whether Hale acts.
    pub mode: Mode,
    /// `system.generations.reboot`.
    pub reboot: Reboot,
    /// `system.generations.reboots_per_day`.
    pub per_day: u32,
    /// Whether the timer runs.
    pub armed: bool,
    /// Whether the ledger can be written.
    pub ledger: bool,
    /// Resets within [`DAY`]; `None`: the ledger could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets: Option<u32>,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The timer is petted.
    Refuse,
    /// The guardian gets the permission, once this is durable.
    Permit,
    /// The guardian stops petting, once this is durable.
    Reboot,
}

/// The rule's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// What follows.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
}

/// An answer with all that is needed to recompute it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// [`RULE`].
    pub rule: String,
    /// [`crate::record::CORE_VERSION`].
    pub core: u32,
    /// The policy in force.
    pub policy: PolicyHash,
    /// What the rule read.
    pub read: Read,
    /// What it answered.
    #[serde(flatten)]
    pub choice: Choice,
}

/// The rule itself.
#[must_use]
pub fn decide(read: &Read) -> Choice {
    let refuse = |reason| Choice { verdict: Verdict::Refuse, reason };
    if read.mode == Mode::Observe {
        return refuse(Reason::ObserveMode);
    }
    if read.reboot == Reboot::Never {
        return refuse(Reason::RebootNever);
    }
    if !read.armed {
        return refuse(Reason::NoTimer);
    }
    if let Asked::Failed { working: Some(service), .. } = &read.asked {
        return refuse(Reason::StillWorks { service: service.clone() });
    }
    let Some(resets) = read.resets else { return refuse(Reason::ResetsUnknown) };
    if resets >= read.per_day {
        return refuse(Reason::RebootsSpent { resets, per_day: read.per_day });
    }
    // Without the permission on record the guardian would pet all the same.
    if !read.ledger || matches!(read.asked, Asked::Failed { permitted: false, .. }) {
        return refuse(Reason::NoDurableRecord);
    }
    match &read.asked {
        Asked::Permission => {
            Choice { verdict: Verdict::Permit, reason: Reason::RebootsLeft { resets, per_day: read.per_day } }
        }
        Asked::Failed { .. } => Choice { verdict: Verdict::Reboot, reason: Reason::RequiredFailed },
    }
}

/// How long ago a reset was recorded: within this boot by the clock that no one sets, else by the wall clock, and
/// not at all where that says it is still to come.
#[must_use]
pub fn age(reset: &PastReset, now: Now, boot_id: &str) -> Span {
    if reset.boot_id == boot_id {
        return Span::from_us(now.boot_us.saturating_sub(reset.at.boot_us));
    }
    Span::from_us(u64::try_from(now.wall_us.saturating_sub(reset.at.wall_us)).unwrap_or(0))
}

/// How many resets count, and how long it takes until one fewer does.
#[must_use]
pub fn count(resets: &[PastReset], now: Now, boot_id: &str) -> (u32, Option<Span>) {
    let counted = || resets.iter().map(|reset| age(reset, now, boot_id)).filter(|age| *age < DAY);
    let left = |age: Span| Span::from_us(DAY.as_us() - age.as_us());
    (u32::try_from(counted().count()).unwrap_or(u32::MAX), counted().map(left).min())
}

/// The order that a reset of this boot fulfilled: the newest that no other did.
#[must_use]
pub fn fulfilled(resets: &[PastReset], boot_id: &str) -> Option<RecordId> {
    resets.iter().rfind(|reset| reset.ordered && reset.boot_id != boot_id).map(|reset| reset.record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Monotonic;

    fn sample(asked: Asked) -> Read {
        Read { asked, mode: Mode::Heal, reboot: Reboot::Auto, per_day: 1, armed: true, ledger: true, resets: Some(0) }
    }

    fn failed(working: Option<&str>, permitted: bool) -> Asked {
        let name = |text| Name::try_from(text).unwrap();
        Asked::Failed { service: name("db"), working: working.map(name), permitted }
    }

    #[test]
    fn the_permission_needs_everything() {
        let good = sample(Asked::Permission);
        assert_eq!(decide(&good).verdict, Verdict::Permit);
        let refusals = [
            (Read { mode: Mode::Observe, ..good.clone() }, Reason::ObserveMode),
            (Read { reboot: Reboot::Never, ..good.clone() }, Reason::RebootNever),
            (Read { armed: false, ..good.clone() }, Reason::NoTimer),
            (Read { resets: None, ..good.clone() }, Reason::ResetsUnknown),
            (Read { resets: Some(1), ..good.clone() }, Reason::RebootsSpent { resets: 1, per_day: 1 }),
            (Read { ledger: false, ..good }, Reason::NoDurableRecord),
        ];
        for (read, reason) in refusals {
            assert_eq!(decide(&read), Choice { verdict: Verdict::Refuse, reason });
        }
    }

    #[test]
    fn the_machine_is_reset_only_when_nothing_that_is_required_works() {
        assert_eq!(decide(&sample(failed(None, true))).verdict, Verdict::Reboot);
        assert!(matches!(decide(&sample(failed(Some("web"), true))).reason, Reason::StillWorks { .. }));
        assert_eq!(decide(&sample(failed(None, false))).reason, Reason::NoDurableRecord);
    }

    fn reset(boot_id: &str, hours: u64, ordered: bool) -> PastReset {
        PastReset { record: RecordId(hours), at: at(hours), boot_id: boot_id.into(), ordered }
    }

    fn at(hours: u64) -> Now {
        let us = hours * 3_600_000_000;
        Now { mono: Monotonic::from_us(us), boot_us: us, wall_us: us.cast_signed() }
    }

    #[test]
    fn resets_count_for_a_day() {
        let resets = [reset("a", 1, false), reset("b", 20, false)];
        assert_eq!(count(&resets, at(24), "c"), (2, Some(Span::from_secs(3_600))));
        assert_eq!(count(&resets, at(25), "c"), (1, Some(Span::from_secs(19 * 3_600))));
        assert_eq!(count(&resets, at(50), "c"), (0, None));
    }

    #[test]
    fn a_clock_that_was_set_hides_no_reset() {
        // A machine without a clock of its own: the reset was recorded in 1970, then the network told the time.
        let now = Now { boot_us: 60_000_000, ..at(500_000) };
        let this_boot = PastReset { at: Now { boot_us: 1_000_000, ..at(0) }, ..reset("c", 0, false) };
        assert_eq!(count(&[this_boot], now, "c").0, 1);
        assert_eq!(count(&[reset("a", 900, false)], at(1), "c").0, 1, "a reset of the future was not long ago");
    }

    #[test]
    fn a_reset_fulfils_the_newest_order_of_an_earlier_boot() {
        let resets = [reset("a", 1, true), reset("a", 2, true), reset("b", 3, false), reset("c", 4, true)];
        assert_eq!(fulfilled(&resets, "c"), Some(RecordId(2)));
        assert_eq!(fulfilled(&resets[2..], "c"), None);
    }
}
