//! Taking back: whether the newest change of a service may be undone, and where that leads. The rung between restart and reboot.

use crate::ids::GenerationId;
use crate::policy::{GenerationsPolicy, Rollback};
use crate::reason::Reason;
use crate::safeswitch::{Failure, Generations, Part, Stage, TakenBack};
use crate::time::Span;
use serde::{Deserialize, Serialize};

/// All values that the rule reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// Which part of the service has the newest change that could be taken back, or the newest at all.
    pub part: Part,
    /// `generations.rollback`.
    pub rollback: Rollback,
    /// What runs; none: nothing was ever switched to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<GenerationId>,
    /// Whether the current one has not proved itself yet.
    #[serde(default)]
    pub on_probation: bool,
    /// Where it would go back to; none: there is nothing older that is known to be good and did not fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<GenerationId>,
    /// Why there is nothing, if it is for the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_on: Option<Reason>,
    /// How long ago the current one was switched to.
    pub changed_ago: Span,
    /// `generations.recent`.
    pub recent: Span,
    /// How often the ladder took something back within 24 hours.
    pub taken_back: u32,
    /// `generations.rollbacks_per_day`.
    pub per_day: u32,
    /// Whether the cause was found to be elsewhere.
    #[serde(default)]
    pub elsewhere: bool,
    /// Whether it was taken back for such a failure before, in vain.
    #[serde(default)]
    pub exonerated: bool,
    /// What was taken back just before, for the same kind of failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_in_vain: Option<GenerationId>,
    /// Whether a switch is under way that this failure is not about.
    #[serde(default)]
    pub switches: bool,
    /// Why it was tried just now and could not be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Reason>,
}

/// The rule's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// Back to this one.
    TakeBack {
        /// Which.
        to: GenerationId,
    },
    /// Forward again to this one, which was not the cause.
    PutBack {
        /// Which.
        to: GenerationId,
    },
    /// Neither.
    Refuse {
        /// Why.
        reason: Reason,
    },
}

impl Read {
    fn nothing_older(&self) -> Reason {
        self.moved_on.clone().unwrap_or(Reason::NoOlderGood)
    }
}

/// The values that the rule reads of such a failure.
#[must_use]
pub fn read(policy: &GenerationsPolicy, part: Part, known: &Generations, failure: Failure, wall_us: i64) -> Read {
    let on_probation = known.on_probation();
    let is_validated = known.switch.as_ref().is_some_and(|switch| matches!(switch.stage, Stage::Validating { .. }));
    let back = match on_probation {
        Some(switch) => switch.intent.back.clone().filter(|back| known.moved_on(back).is_none()),
        None => known.older_good(wall_us).map(|good| good.id.clone()),
    };
    let moved_on = match on_probation {
        Some(switch) => switch.intent.back.as_ref().and_then(|back| known.moved_on(back)),
        None => known.older_moved_on(wall_us),
    };
    let ago_us = u64::try_from(wall_us.saturating_sub(known.newest_change_wall_us())).unwrap_or(0);
    let is_for_this = |taken: &&TakenBack| taken.failure.is_like(&failure);
    let in_vain = known.taken_back.as_ref().filter(is_for_this).map(|taken| taken.id.clone());
    Read {
        part,
        rollback: policy.rollback,
        current: known.current.clone(),
        on_probation: on_probation.is_some(),
        moved_on: moved_on.filter(|_| back.is_none()),
        back,
        changed_ago: Span::from_us(ago_us),
        recent: policy.recent,
        taken_back: known.taken_back_today(wall_us),
        per_day: policy.rollbacks_per_day,
        elsewhere: known.elsewhere,
        exonerated: known
            .exonerated
            .as_ref()
            .is_some_and(|taken| is_for_this(&taken) && known.current.as_ref() == Some(&taken.id)),
        taken_in_vain: in_vain,
        switches: known.switch.is_some() && on_probation.is_none() || is_validated,
        refused: None,
    }
}

/// The rule itself.
#[must_use]
pub fn choose(read: &Read) -> Choice {
    let refuse = |reason| Choice::Refuse { reason };
    if let Some(reason) = &read.refused {
        return refuse(reason.clone());
    }
    if read.switches {
        return refuse(Reason::SwitchInProgress);
    }
    match read.rollback {
        Rollback::Auto => {}
        Rollback::Ask => return refuse(Reason::RollbackAsk),
        Rollback::Never => return refuse(Reason::RollbackNever),
    }
    if read.on_probation {
        return match &read.back {
            Some(to) => Choice::TakeBack { to: to.clone() },
            None => refuse(read.nothing_older()),
        };
    }
    if let Some(to) = &read.taken_in_vain {
        return Choice::PutBack { to: to.clone() };
    }
    if read.elsewhere || read.exonerated {
        return refuse(Reason::CauseElsewhere);
    }
    let Some(to) = &read.back else { return refuse(read.nothing_older()) };
    if read.changed_ago > read.recent {
        return refuse(Reason::ChangeTooOld { ago: read.changed_ago, recent: read.recent });
    }
    if read.taken_back >= read.per_day {
        return refuse(Reason::RollbacksSpent { taken_back: read.taken_back, per_day: read.per_day });
    }
    Choice::TakeBack { to: to.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> GenerationId {
        GenerationId::try_from(text).unwrap()
    }

    fn sample() -> Read {
        Read {
            part: Part::Store,
            rollback: Rollback::Auto,
            current: Some(id("new")),
            on_probation: false,
            back: Some(id("old")),
            moved_on: None,
            changed_ago: Span::from_secs(60),
            recent: Span::from_secs(3_600),
            taken_back: 0,
            per_day: 3,
            elsewhere: false,
            exonerated: false,
            taken_in_vain: None,
            switches: false,
            refused: None,
        }
    }

    fn refusal(read: &Read) -> Reason {
        let Choice::Refuse { reason } = choose(read) else { panic!("{:?}", choose(read)) };
        reason
    }

    #[test]
    fn a_recent_change_is_taken_back_within_the_budget() {
        assert_eq!(choose(&sample()), Choice::TakeBack { to: id("old") });
        let old = Read { changed_ago: Span::from_secs(3_601), ..sample() };
        assert!(matches!(refusal(&old), Reason::ChangeTooOld { .. }));
        assert!(matches!(refusal(&Read { taken_back: 3, ..sample() }), Reason::RollbacksSpent { .. }));
        assert_eq!(refusal(&Read { back: None, ..sample() }), Reason::NoOlderGood);
        assert_eq!(refusal(&Read { elsewhere: true, ..sample() }), Reason::CauseElsewhere);
        assert_eq!(refusal(&Read { exonerated: true, ..sample() }), Reason::CauseElsewhere);
    }

    #[test]
    fn what_is_on_probation_goes_back_whatever_the_budget_and_its_age() {
        let read = Read { on_probation: true, taken_back: 9, changed_ago: Span::from_secs(9_999), ..sample() };
        assert_eq!(choose(&read), Choice::TakeBack { to: id("old") });
        assert_eq!(refusal(&Read { back: None, ..read.clone() }), Reason::NoOlderGood);
        assert_eq!(refusal(&Read { rollback: Rollback::Ask, ..read.clone() }), Reason::RollbackAsk);
        assert_eq!(refusal(&Read { rollback: Rollback::Never, ..read }), Reason::RollbackNever);
    }

    #[test]
    fn what_was_taken_back_in_vain_is_put_back_and_nothing_else() {
        let read = Read { taken_in_vain: Some(id("new")), current: Some(id("old")), ..sample() };
        assert_eq!(choose(&read), Choice::PutBack { to: id("new") });
        assert_eq!(refusal(&Read { switches: true, ..read.clone() }), Reason::SwitchInProgress);
        assert_eq!(refusal(&Read { refused: Some(Reason::NoDurableRecord), ..read }), Reason::NoDurableRecord);
    }
}
