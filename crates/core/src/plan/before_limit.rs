//! The rule of the planned restart: a service whose memory or descriptors grow is started anew before they reach the bound
//! of its check, at a moment when it works.

use crate::analyze::trend::{Outlook, Reaches};
use crate::ids::Name;
use crate::policy::{Mode, PolicyHash};
use crate::time::Span;
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// The rule's name in records. The number is raised with every change of what it answers.
pub const RULE: &str = "before_limit/1";

/// All values that the rule reads; with them and the same core version its answer can be recomputed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// The check whose figure grows.
    pub check: Name,
    /// Where that is, where it is going, and the bound.
    pub outlook: Outlook,
    /// `restart.before_limit`.
    pub before: Span,
    /// Whether Hale acts.
    pub mode: Mode,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is started anew.
    Restart,
    /// It would be, if Hale acted.
    Observe,
}

/// A decision as it is recorded.
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
    /// When the bound would be reached.
    pub reaches: Reaches,
    /// What it answers.
    pub verdict: Verdict,
}

/// Whether it is time; `None`: it is not.
///
/// It must be sure (95 %) that the figure grows, the bound must most likely be reached within `before`, and the
/// process must have been watched for as long as that: one that fills its caches after its start grows, too, and one that
/// reaches the bound sooner than that after each start is not helped by being started more often.
#[must_use]
pub fn decide(read: &Read) -> Option<(Reaches, Verdict)> {
    let reaches = read.outlook.reaches()?;
    if reaches.after > read.before || read.outlook.growth.over < read.before {
        return None;
    }
    let verdict = match read.mode {
        Mode::Heal => Verdict::Restart,
        Mode::Observe => Verdict::Observe,
    };
    Some((reaches, verdict))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::trend::{Growth, Unit};

    fn read(level: u64, per_hour_low: i64, over: Span) -> Read {
        let growth = Growth { per_hour: 600, per_hour_low, per_hour_high: 700, per_hour_lately: 600, over };
        let outlook = Outlook { unit: Unit::Bytes, level, limit: 1_000, growth };
        let check = Name::try_from("memory").unwrap();
        Read { check, outlook, before: Span::from_secs(600), mode: Mode::Heal }
    }

    const HOUR: Span = Span::from_secs(3_600);

    #[test]
    fn it_is_time_once_the_limit_is_near_and_not_before() {
        let verdict = |read: &Read| decide(read).map(|(_, verdict)| verdict);
        assert_eq!(verdict(&read(901, 500, HOUR)), Some(Verdict::Restart));
        assert_eq!(verdict(&read(899, 500, HOUR)), None, "more than ten minutes are left");
        assert_eq!(verdict(&read(1_000, 500, HOUR)), None, "the check itself fails now");
        assert_eq!(verdict(&Read { mode: Mode::Observe, ..read(901, 500, HOUR) }), Some(Verdict::Observe));
    }

    #[test]
    fn it_must_be_sure_and_have_watched_as_long_as_it_looks_ahead() {
        assert_eq!(decide(&read(901, 0, HOUR)), None);
        assert_eq!(decide(&read(901, 500, Span::from_secs(599))), None);
    }
}
