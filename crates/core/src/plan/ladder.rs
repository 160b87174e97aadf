//! The ladder: from a failure that counts to restart or hold, with every rung that was refused.

use super::take_back;
use crate::analyze::alike::{Alike, Endings, SAME_EXCEPTION};
use crate::ids::{Epoch, GenerationId, Name};
use crate::incident::Cause;
use crate::policy::{CrashLoop, HELD_DELAY_MAX, Mode, PolicyHash, RestartPolicy};
use crate::reason::Reason;
use crate::record::Actor;
use crate::safeswitch::Part;
use crate::time::{Monotonic, Span};
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::iter;
use serde::{Deserialize, Serialize};

/// The rule's name in records. The number is raised with every change of what it answers.
pub const RULE: &str = "ladder/6";

/// Jitter is only ever added, and at most a quarter: a delay in the configuration is a promise not to come
/// back earlier, and a quarter is enough to take a hundred services apart that failed together.
const JITTER_PERMILLE_MAX: u32 = 250;

/// The rungs, from the gentlest to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// Do nothing but watch.
    Wait,
    /// Start it again.
    Restart,
    /// Take back the newest change.
    TakeBack,
    /// Reboot the machine.
    Reboot,
    /// Give up quick restarts.
    Hold,
}

/// Failures since the service was last healthy for long enough.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// In a row.
    pub failures: u32,
    /// When the newest ones were, oldest first; as many as the crash-loop rule needs.
    pub recent: VecDeque<Monotonic>,
    /// Tries since it was held; `None`: it is not held.
    pub held_tries: Option<u32>,
    /// How the newest ones ended.
    #[serde(default)]
    pub endings: Endings,
}

impl Counters {
    /// Counts one failure of this process, which ended by itself or did not.
    pub fn count(&mut self, at: Monotonic, (epoch, by_itself): (Epoch, bool), crash_loop: Option<CrashLoop>) {
        self.failures = self.failures.saturating_add(1);
        self.endings.failed(epoch, by_itself);
        if let Some(rule) = crash_loop {
            self.recent.push_back(at);
            self.keep(Some(rule));
        }
    }

    /// Keeps as many failures as this rule needs.
    pub(crate) fn keep(&mut self, crash_loop: Option<CrashLoop>) {
        let most = crash_loop.map_or(0, |rule| rule.failures as usize);
        while self.recent.len() > most {
            self.recent.pop_front();
        }
    }
}

/// All values that the rule reads; with them and the same core version its answer can be recomputed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// What kind of failure.
    pub cause: Cause,
    /// Whether Hale acts.
    pub mode: Mode,
    /// Why this service is only observed, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub violated: Option<String>,
    /// Who has paused it, if somebody has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Actor>,
    /// Failures in a row, this one counted.
    pub failures: u32,
    /// Failures within the crash-loop rule's time, this one counted.
    pub recent: u32,
    /// Tries since it was held; `None`: it is not held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_tries: Option<u32>,
    /// The exception of the newest failures whose output has been read: this one's usually comes after the decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alike: Option<Alike>,
    /// Parts of a thousand that are added to the delay.
    pub jitter_permille: u32,
    /// `restart.crash_loop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash_loop: Option<CrashLoop>,
    /// `restart.first_delay`.
    pub first_delay: Span,
    /// `restart.delay`.
    pub delay: Span,
    /// `restart.max_delay`.
    pub max_delay: Span,
    /// `restart.held_delay`.
    pub held_delay: Span,
    /// `restart.healthy_after`.
    pub healthy_after: Span,
    /// What it starts after and is down, if something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Name>,
    /// What the rule of taking back reads; `None`: it has no generations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub take_back: Option<take_back::Read>,
    /// What the rule above this one says of rebooting.
    #[serde(default, skip_serializing_if = "RebootRung::is_not_required")]
    pub reboot: RebootRung,
}

/// The rung that is not this service's own: what [`super::reboot`] says of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RebootRung {
    /// The service does not lead there.
    #[default]
    NotRequired,
    /// It is refused.
    Refused {
        /// Why.
        reason: Reason,
    },
    /// It is taken: the service is held until the machine is reset.
    Taken,
}

impl RebootRung {
    fn is_not_required(&self) -> bool {
        *self == Self::NotRequired
    }

    /// Why it is refused, if it is.
    fn refusal(&self) -> Option<Reason> {
        match self {
            Self::NotRequired => Some(Reason::NotRequired),
            Self::Refused { reason } => Some(reason.clone()),
            Self::Taken => None,
        }
    }
}

/// What is done about a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Only watch.
    Observe,
    /// Leave it as it is until what it depends on is up again.
    Wait,
    /// Start it again, not before this delay is over.
    Restart {
        /// Jitter counted.
        delay: Span,
    },
    /// Switch back to an older generation, and start that at once.
    TakeBack {
        /// Of which part.
        part: Part,
        /// To which.
        to: GenerationId,
    },
    /// Switch forward again to what was taken back and is not the cause, and start that.
    PutBack {
        /// Of which part.
        part: Part,
        /// To which.
        to: GenerationId,
    },
    /// Try it again after this delay, slower each time.
    Hold {
        /// Jitter counted.
        delay: Span,
        /// Tries so far.
        tries: u32,
    },
}

/// A rung that was considered and not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRung {
    /// Which.
    pub rung: Rung,
    /// Why.
    pub reason: Reason,
}

/// The rule's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The rung taken.
    pub rung: Rung,
    /// What is done.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// What was not done, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedRung>,
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

/// The values that the rule reads, taken from policy and counters. `violated`: why it is only observed.
#[must_use]
pub fn read(
    cause: Cause,
    mode: Mode,
    violated: Option<String>,
    policy: &RestartPolicy,
    counters: &Counters,
    now: Monotonic,
    jitter_permille: u32,
) -> Read {
    let within = |rule: CrashLoop| counters.recent.iter().filter(|&&at| now.since(at) <= rule.within).count();
    Read {
        cause,
        mode,
        violated,
        paused: None,
        failures: counters.failures,
        recent: policy.crash_loop.map_or(0, |rule| u32::try_from(within(rule)).unwrap_or(u32::MAX)),
        held_tries: counters.held_tries,
        alike: counters.endings.alike(),
        jitter_permille,
        crash_loop: policy.crash_loop,
        first_delay: policy.first_delay,
        delay: policy.delay,
        max_delay: policy.max_delay,
        held_delay: policy.held_delay,
        healthy_after: policy.healthy_after,
        blocked: None,
        take_back: None,
        reboot: RebootRung::NotRequired,
    }
}

/// The rule itself.
#[must_use]
pub fn decide(read: &Read) -> Choice {
    let wait = |verdict: Verdict, reason: Reason| Choice {
        rung: Rung::Wait,
        verdict,
        refused: vec![RefusedRung { rung: Rung::Restart, reason: reason.clone() }],
        reason,
    };
    if let Some(what) = &read.violated {
        return wait(Verdict::Observe, Reason::Violated { what: what.clone() });
    }
    if read.mode == Mode::Observe {
        return wait(Verdict::Observe, Reason::ObserveMode);
    }
    if let Some(actor) = &read.paused {
        return wait(Verdict::Observe, Reason::Paused { actor: actor.clone() });
    }
    if let Some(on) = &read.blocked {
        return wait(Verdict::Wait, Reason::DependencyDown { on: on.clone() });
    }
    let undo = undo(read);
    let refused_undo = match &undo {
        Ok(choice) if read.take_back.as_ref().is_some_and(|back| back.on_probation) => return choice.clone(),
        Ok(_) => None,
        Err(refused) => Some(refused.clone()),
    };
    if let Some(tries) = read.held_tries {
        return undo.unwrap_or_else(|refused| hold(read, tries, Reason::StillFailing { tries }, refused));
    }
    if let Some(rule) = read.crash_loop.filter(|rule| read.recent >= rule.failures) {
        let reason = Reason::CrashLoop { failures: read.recent, within: rule.within };
        return undo.unwrap_or_else(|refused| hold(read, 0, reason, refused));
    }
    let (delay, reason) = if read.failures <= 1 {
        (read.first_delay, Reason::FirstFailure { healthy_after: read.healthy_after })
    } else {
        let delay = with_jitter(doubled(read.delay, read.failures - 2, read.max_delay), read.jitter_permille);
        (delay, Reason::Repeated { failures: read.failures, delay })
    };
    let restart =
        |reason, refused| Choice { rung: Rung::Restart, verdict: Verdict::Restart { delay }, reason, refused };
    match read.alike.filter(|alike| alike.times >= SAME_EXCEPTION) {
        Some(Alike { times, exception }) => undo.unwrap_or_else(|refused| {
            restart(Reason::SameException { failures: read.failures, times, exception }, vec![refused])
        }),
        // On probation nothing else comes first.
        None => restart(reason, refused_undo.filter(|_| on_probation(read)).into_iter().collect()),
    }
}

fn on_probation(read: &Read) -> bool {
    read.take_back.as_ref().is_some_and(|back| back.on_probation)
}

/// The rung between restart and reboot, or why it is not taken.
fn undo(read: &Read) -> Result<Choice, RefusedRung> {
    let refused = |reason| RefusedRung { rung: Rung::TakeBack, reason };
    let Some(back) = &read.take_back else { return Err(refused(Reason::NoGenerationsConfigured)) };
    let choice = |verdict, reason| Choice { rung: Rung::TakeBack, verdict, reason, refused: Vec::new() };
    match take_back::choose(back) {
        take_back::Choice::TakeBack { to } => {
            let reason = if back.on_probation {
                Reason::FailsOnProbation
            } else {
                Reason::NewestChange { change: back.current.clone() }
            };
            Ok(choice(Verdict::TakeBack { part: back.part, to }, reason))
        }
        take_back::Choice::PutBack { to } => {
            Ok(choice(Verdict::PutBack { part: back.part, to }, Reason::CauseElsewhere))
        }
        take_back::Choice::Refuse { reason } => Err(refused(reason)),
    }
}

/// Hold after `tries` tries; the rungs between restart and hold are refused.
fn hold(read: &Read, tries: u32, reason: Reason, undo: RefusedRung) -> Choice {
    let delay = with_jitter(doubled(read.held_delay, tries, HELD_DELAY_MAX.max(read.held_delay)), read.jitter_permille);
    let reboot = read.reboot.refusal().map(|reason| RefusedRung { rung: Rung::Reboot, reason });
    Choice {
        rung: Rung::Hold,
        verdict: Verdict::Hold { delay, tries },
        reason,
        refused: iter::once(undo).chain(reboot).collect(),
    }
}

/// `delay × 2^times`, at most `max`.
fn doubled(delay: Span, times: u32, max: Span) -> Span {
    delay.times(1_u64.checked_shl(times).unwrap_or(u64::MAX)).min(max)
}

/// `delay` and so many thousandths of it.
fn with_jitter(delay: Span, permille: u32) -> Span {
    delay.plus(Span::from_us(delay.as_us() / 1_000 * u64::from(permille)))
}

/// Jitter of one failure of one service: spread evenly, and the same for the same seed.
#[must_use]
pub fn jitter_permille(seed: u64, service: &Name, count: u64) -> u32 {
    let mixed = mix(seed ^ mix(count ^ hash(service.as_str())));
    u32::try_from(mixed % u64::from(JITTER_PERMILLE_MAX + 1)).unwrap_or(0)
}

/// FNV-1a, 64 bits (RFC 9923): short names need no better hash, and it is the same on every machine.
#[must_use]
pub fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The output function of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::trace::Fingerprint;

    fn sample() -> Read {
        Read {
            cause: Cause::Exit,
            mode: Mode::Heal,
            violated: None,
            paused: None,
            failures: 1,
            recent: 1,
            held_tries: None,
            alike: None,
            jitter_permille: 0,
            crash_loop: Some(CrashLoop { failures: 5, within: Span::from_secs(60) }),
            first_delay: Span::ZERO,
            delay: Span::from_ms(100),
            max_delay: Span::from_secs(30),
            held_delay: Span::from_secs(300),
            healthy_after: Span::from_secs(60),
            blocked: None,
            take_back: None,
            reboot: RebootRung::NotRequired,
        }
    }

    fn no_take_back() -> RefusedRung {
        RefusedRung { rung: Rung::TakeBack, reason: Reason::NoGenerationsConfigured }
    }

    fn delay_of(read: &Read) -> Span {
        match decide(read).verdict {
            Verdict::Restart { delay } | Verdict::Hold { delay, .. } => delay,
            Verdict::Observe | Verdict::Wait | Verdict::TakeBack { .. } | Verdict::PutBack { .. } => {
                panic!("does not wait")
            }
        }
    }

    #[test]
    fn the_first_restart_is_immediate_and_later_ones_double_up_to_the_maximum() {
        let delays: Vec<u64> =
            (1..=12).map(|failures| delay_of(&Read { failures, crash_loop: None, ..sample() }).as_ms()).collect();
        assert_eq!(delays, [0, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000]);
        assert_eq!(delay_of(&Read { failures: u32::MAX, crash_loop: None, ..sample() }).as_ms(), 30_000);
    }

    #[test]
    fn jitter_only_adds_and_at_most_a_quarter() {
        let name = Name::try_from("bot").unwrap();
        let drawn: Vec<u32> = (0..1_000).map(|count| jitter_permille(7, &name, count)).collect();
        assert!(drawn.iter().all(|&permille| permille <= JITTER_PERMILLE_MAX));
        assert!(drawn.iter().any(|&permille| permille > 200) && drawn.iter().any(|&permille| permille < 50));
        let read = Read { failures: 3, jitter_permille: 250, ..sample() };
        assert_eq!(delay_of(&read).as_ms(), 250);
    }

    #[test]
    fn a_crash_loop_is_held_and_the_rungs_between_are_refused_with_a_reason() {
        let choice = decide(&Read { failures: 5, recent: 5, ..sample() });
        assert_eq!(choice.rung, Rung::Hold);
        assert_eq!(choice.verdict, Verdict::Hold { delay: Span::from_secs(300), tries: 0 });
        let refused: Vec<Rung> = choice.refused.iter().map(|refusal| refusal.rung).collect();
        assert_eq!(refused, [Rung::TakeBack, Rung::Reboot]);
        assert_eq!(choice.refused[1].reason, Reason::NotRequired);
        let taken = decide(&Read { failures: 5, recent: 5, reboot: RebootRung::Taken, ..sample() });
        assert_eq!((taken.rung, taken.refused.len()), (Rung::Hold, 1));
        assert_eq!(decide(&Read { recent: 4, ..sample() }).rung, Rung::Restart);
        assert_eq!(decide(&Read { recent: 5_000, crash_loop: None, ..sample() }).rung, Rung::Restart);
    }

    #[test]
    fn the_same_exception_three_times_leads_one_rung_further() {
        let exception = Fingerprint::try_from(String::from("00000000deadbeef")).unwrap();
        let after =
            |times| decide(&Read { failures: 4, recent: 4, alike: Some(Alike { times, exception }), ..sample() });
        assert!(matches!(after(2).reason, Reason::Repeated { .. }) && after(2).refused.is_empty());
        assert_eq!(after(3).reason, Reason::SameException { failures: 4, times: 3, exception });
        assert_eq!(after(3).refused, [no_take_back()]);
        // How long it waits is not changed by what is known of it.
        assert_eq!((after(3).rung, after(3).verdict), (Rung::Restart, after(2).verdict));
    }

    #[test]
    fn a_held_service_is_retried_for_ever_ever_slower_up_to_an_hour() {
        let delays: Vec<u64> =
            (0..6).map(|tries| delay_of(&Read { held_tries: Some(tries), ..sample() }).as_ms() / 1_000).collect();
        assert_eq!(delays, [300, 600, 1_200, 2_400, 3_600, 3_600]);
    }

    #[test]
    fn nothing_is_done_when_only_observing() {
        assert_eq!(decide(&Read { mode: Mode::Observe, ..sample() }).verdict, Verdict::Observe);
        let violated = Read { violated: Some("x".into()), ..sample() };
        assert_eq!(decide(&violated).verdict, Verdict::Observe);
    }

    #[test]
    fn nothing_is_done_while_what_it_depends_on_is_down() {
        let on = Name::try_from("llm-api").unwrap();
        for held_tries in [None, Some(3)] {
            let blocked = Read { blocked: Some(on.clone()), recent: 5, held_tries, ..sample() };
            let choice = decide(&blocked);
            assert_eq!((choice.rung, choice.verdict), (Rung::Wait, Verdict::Wait));
            assert_eq!(choice.reason, Reason::DependencyDown { on: on.clone() });
            assert_eq!(choice.refused[0].rung, Rung::Restart);
            assert_eq!(decide(&Read { mode: Mode::Observe, ..blocked }).verdict, Verdict::Observe);
        }
    }

    #[test]
    fn only_failures_within_the_window_count() {
        let rule = CrashLoop { failures: 3, within: Span::from_secs(10) };
        let mut counters = Counters::default();
        for at in [0, 8_000_000, 11_000_000] {
            counters.count(Monotonic::from_us(at), (Epoch(1), true), Some(rule));
        }
        let policy = RestartPolicy {
            first_delay: Span::ZERO,
            delay: Span::ZERO,
            max_delay: Span::ZERO,
            healthy_after: Span::from_secs(60),
            crash_loop: Some(rule),
            held_delay: Span::from_secs(1),
            on_success: true,
            before_limit: None,
        };
        let now = Monotonic::from_us(11_000_000);
        assert_eq!(read(Cause::Exit, Mode::Heal, None, &policy, &counters, now, 0).recent, 2);
        counters.count(now, (Epoch(1), true), Some(rule));
        assert_eq!(read(Cause::Exit, Mode::Heal, None, &policy, &counters, now, 0).recent, 3);
    }
}
