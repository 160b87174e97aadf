//! Checks: when the next probe is due, and what a row of results means.

use crate::analyze::trend::Trend;
use crate::event::{Notice, ProbeFailure, ProbeOutcome};
use crate::ids::{Name, ProbeId};
use crate::incident::{Blame, Cause};
use crate::plan::ladder::hash;
use crate::policy::{CheckKind, CheckPolicy};
use crate::time::{Monotonic, Span};
use alloc::borrow::Cow;
use alloc::format;
use serde::{Deserialize, Serialize};

/// The first probe of a new process comes this long after it was made: a program needs a few milliseconds to
/// get to its first line, and a refused connection costs less than waiting does.
pub const FIRST_PROBE_AFTER: Span = Span::from_ms(5);

/// A result that did not come this long after its probe's deadline never will: the prober kills what does not
/// answer in time, which takes it milliseconds; on a starved machine seconds.
pub const PROBE_LOST_AFTER: Span = Span::from_secs(5);

/// What is known of one check of the running process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// No result that counts yet.
    #[default]
    Unknown,
    /// It passes.
    Passing,
    /// It fails.
    Failing {
        /// So many times in a row, at most the policy's `failures`.
        failures: u32,
    },
}

/// The probing of one check: senses, not records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Probing {
    /// When the next probe is due; for a heartbeat: when its absence counts next.
    pub(crate) due: Option<Monotonic>,
    /// The probe that runs, and when it counts as lost.
    pub(crate) in_flight: Option<(ProbeId, Monotonic)>,
    /// The pause that follows while the check has not passed yet.
    pub(crate) pause: Span,
    /// Results of the other kind in a row, while a failing check recovers.
    pub(crate) successes: u32,
    /// When it last passed.
    pub(crate) last_pass: Option<Monotonic>,
    /// The last result, for people.
    pub(crate) last: Option<ProbeOutcome>,
    /// That it does not count yet was said.
    pub(crate) spared: bool,
    /// That nothing is done about its failures was said, because nobody confirms them.
    pub(crate) refused: bool,
    /// Who was last said to be at fault for them instead of the service.
    pub(crate) spared_for: Option<Blame>,
    /// How many of the last failures in a row were of the same kind.
    pub(crate) alike: u32,
    /// The control probe that began with the one that runs, or ran last.
    pub(crate) beside: Option<ProbeId>,
    /// Its next probe counts its time anew.
    pub(crate) anew: bool,
    /// What was measured of this process, of a check whose figure is followed.
    pub(crate) trend: Trend,
}

/// What a result changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edge {
    /// Nothing that needs a record.
    None,
    /// One more failure, the policy's `failures` not reached.
    Failing {
        /// In a row.
        failures: u32,
    },
    /// One more failure, and with it the policy's `failures`.
    Failed {
        /// In a row.
        failures: u32,
    },
    /// It passes again, or for the first time.
    Passes,
}

impl Probing {
    /// Schedules the first probe of a process made `now`; a heartbeat is not probed.
    pub(crate) fn begin(&mut self, policy: &CheckPolicy, now: Monotonic) {
        self.pause = FIRST_PROBE_AFTER.min(policy.every);
        self.due = policy.kind.promise().is_none().then(|| now.after(self.pause));
    }

    /// Goes on after a supervisor was replaced: `last_pass` is the last moment that it was known to pass.
    pub(crate) fn resume(&mut self, service: &Name, policy: &CheckPolicy, last_pass: Monotonic, now: Monotonic) {
        self.last_pass = Some(last_pass);
        self.due = policy.kind.promise().is_none().then(|| on_beat(now.after(phase(service, policy)), policy));
    }

    /// A probe starts.
    pub(crate) fn start(&mut self, probe: ProbeId, policy: &CheckPolicy, now: Monotonic) {
        self.in_flight = Some((probe, now.after(policy.timeout).after(PROBE_LOST_AFTER)));
        self.due = None;
    }

    /// Takes a probe's result and schedules the next one. `started`: when the probe began.
    ///
    /// Until the check has passed once the pauses are short and double, so that recovery is seen as soon as it
    /// is true; from then on it is probed each `every`, in a phase of its own.
    pub(crate) fn finish(&mut self, service: &Name, policy: &CheckPolicy, outcome: ProbeOutcome, now: Monotonic) {
        let started = Monotonic::from_us(now.as_us().saturating_sub(outcome.took_us));
        self.in_flight = None;
        let passed = outcome.failure.is_none();
        let due = match (self.last_pass, passed) {
            (None, false) => {
                let pause = self.pause;
                self.pause = pause.times(2).min(policy.every);
                started.after(pause)
            }
            (None, true) => on_beat(started.after(phase(service, policy)), policy),
            (Some(_), _) => on_beat(started.after(policy.every), policy),
        };
        self.due = Some(due.max(now));
        if passed {
            self.last_pass = Some(now);
        }
        if let Some(figure) = outcome.figure {
            self.trend.add(now, figure);
        }
        self.alike = match (self.last.as_ref().and_then(|last| last.failure), outcome.failure) {
            (_, None) => 0,
            (_, Some(ProbeFailure::Unable | ProbeFailure::Unresolved)) => self.alike,
            (before, failure) if before == failure => self.alike.saturating_add(1),
            (_, Some(_)) => 1,
        };
        self.last = Some(outcome);
    }

    /// Whether the last probe was not run at all, for want of something of Hale's or its host's.
    pub(crate) fn was_not_run(&self) -> bool {
        self.last.as_ref().is_some_and(|outcome| outcome.failure == Some(ProbeFailure::Unable))
    }

    /// Whether the last probe says nothing about the service.
    pub(crate) fn is_unable(&self) -> bool {
        self.last
            .as_ref()
            .is_some_and(|outcome| matches!(outcome.failure, Some(ProbeFailure::Unable | ProbeFailure::Unresolved)))
    }

    /// The probe's result never came: try again at the usual pace.
    pub(crate) fn lost(&mut self, policy: &CheckPolicy, now: Monotonic) {
        self.in_flight = None;
        self.due = Some(now.after(self.pause.max(FIRST_PROBE_AFTER).min(policy.every)));
    }

    /// The edge that a result means, given the check's state. Counts successes as it goes.
    pub(crate) fn edge(&mut self, state: CheckState, policy: &CheckPolicy, passed: bool) -> Edge {
        if passed {
            self.successes = self.successes.saturating_add(1);
            return match state {
                CheckState::Passing => Edge::None,
                CheckState::Unknown | CheckState::Failing { .. } if self.successes >= policy.successes => Edge::Passes,
                CheckState::Unknown | CheckState::Failing { .. } => Edge::None,
            };
        }
        // A pass in between that was not enough to be healthy again still ends the row of failures.
        let row = if self.successes > 0 { 0 } else { already(state) };
        self.successes = 0;
        let failures = row.saturating_add(1);
        match state {
            CheckState::Failing { failures: before } if before >= policy.failures => Edge::None,
            _ if failures >= policy.failures => Edge::Failed { failures },
            CheckState::Unknown | CheckState::Passing | CheckState::Failing { .. } => Edge::Failing { failures },
        }
    }

    /// Takes a heartbeat: its absence counts again `within` from now.
    pub(crate) fn heartbeat(&mut self, within: Span, now: Monotonic) {
        self.last_pass = Some(now);
        self.due = Some(now.after(within));
    }
}

/// Failures in a row so far.
fn already(state: CheckState) -> u32 {
    match state {
        CheckState::Failing { failures } => failures,
        CheckState::Unknown | CheckState::Passing => 0,
    }
}

/// When the first regular probe comes, from half of `every` to all of it: checks that began together are taken
/// apart, the same way each time. But for those that look at the tree, which one look can serve.
fn phase(service: &Name, policy: &CheckPolicy) -> Span {
    let half = policy.every.as_us() / 2;
    let own = if policy.kind.looks_at_tree() { 0 } else { hash(policy.name.as_str()).rotate_left(17) };
    Span::from_us(half + (hash(service.as_str()) ^ own) % (half + 1))
}

/// Probes begin on beats so far apart, those of all services on the same ones: a thousand checks are begun in 40 bunches a
/// second, and not one by one. No check has its probes more than 1/[`BEATS_PER_PAUSE`] of `every` early.
const BEAT: Span = Span::from_ms(25);

/// The beats of a check that is probed often are so many in its pause, and closer than [`BEAT`].
const BEATS_PER_PAUSE: u64 = 40;

/// The last beat that is not after `due`. Before and not after, so that a probe which began a little late does not make the next
/// one later still.
fn on_beat(due: Monotonic, policy: &CheckPolicy) -> Monotonic {
    let beat = BEAT.as_us().min(policy.every.as_us() / BEATS_PER_PAUSE).max(1);
    Monotonic::from_us(due.as_us() / beat * beat)
}

/// How much earlier than it is due a check that looks at the tree is taken along with another one that is due: their
/// answers come milliseconds apart, and on a busy machine tens of them, so that the next probes are due apart, too.
const TAKEN_ALONG_WITHIN: Span = Span::from_ms(100);

/// When the probe of `policy` that is due at `due` may be taken along with another one; a check that is probed often is
/// taken along at most a quarter of its pause early.
pub(crate) fn taken_along_from(policy: &CheckPolicy, due: Monotonic) -> Monotonic {
    let early = TAKEN_ALONG_WITHIN.min(Span::from_us(policy.every.as_us() / 4));
    Monotonic::from_us(due.as_us().saturating_sub(early.as_us()))
}

/// A failure counts only if Hale itself was not late by more than this part of the time-out while the probe ran.
const LATE_PART: u64 = 4;

/// What an outcome says of what was probed. A failure for which Hale itself may be to blame, because the machine did not let it
/// look in time, says nothing.
pub(crate) fn heard<'a>(policy: &CheckPolicy, outcome: &'a ProbeOutcome) -> Cow<'a, ProbeOutcome> {
    let is_late = outcome.late_us > policy.timeout.as_us() / LATE_PART;
    let only_slow = match (&policy.kind, outcome.failure) {
        (CheckKind::Http(http), Some(ProbeFailure::Slow)) => {
            let own_us = outcome.took_us.saturating_sub(outcome.late_us);
            http.faster_than.is_some_and(|bound| own_us <= bound.as_us())
        }
        _ => false,
    };
    if outcome.failure.is_none_or(|failure| failure == ProbeFailure::Unable) || !(is_late || only_slow) {
        return Cow::Borrowed(outcome);
    }
    let late = Span::from_us(outcome.late_us);
    let detail = format!("{}; but Hale itself was late by {late}", outcome.detail);
    Cow::Owned(ProbeOutcome { failure: Some(ProbeFailure::Unable), detail, figure: None, ..*outcome })
}

/// The kind of failure that a failing probe of a check of this kind means for the service; `None`: it says nothing about
/// the service.
#[must_use]
pub fn cause(kind: &CheckKind, failure: ProbeFailure) -> Option<Cause> {
    match failure {
        ProbeFailure::Timeout | ProbeFailure::Killed => Some(Cause::Hang),
        ProbeFailure::Slow => Some(Cause::Slow),
        ProbeFailure::Wrong => Some(match kind {
            CheckKind::Http(_)
            | CheckKind::Tcp { .. }
            | CheckKind::Exec { .. }
            | CheckKind::Heartbeat { .. }
            | CheckKind::Grpc { .. } => Cause::Check,
            CheckKind::Memory { .. } => Cause::Memory,
            CheckKind::Cpu { .. } => Cause::Cpu,
            CheckKind::OpenFiles { .. } => Cause::OpenFiles,
            CheckKind::Listen { .. } => Cause::Listen,
            CheckKind::Metric(_) => Cause::Metric,
            CheckKind::Progress(_) => Cause::NoProgress,
            CheckKind::LoopLag(_) => Cause::LoopLag,
        }),
        ProbeFailure::Refused | ProbeFailure::Unreachable => Some(Cause::Check),
        ProbeFailure::Unable | ProbeFailure::Unresolved => None,
    }
}

/// The promise of a heartbeat check, with the service's own wish (`WATCHDOG_USEC`) before the policy's.
#[must_use]
pub(crate) fn heartbeat_within(policy: &CheckPolicy, own: Option<Span>) -> Option<Span> {
    policy.kind.promise().map(|within| own.unwrap_or(within))
}

/// The shortest `WATCHDOG_USEC` that a service may ask for: below it the heartbeats alone would keep Hale busy.
pub const HEARTBEAT_WITHIN_MIN: Span = Span::from_ms(10);

/// The service's own `WATCHDOG_USEC`, as far as a notice carries a usable one.
#[must_use]
pub fn own_heartbeat(notice: &Notice) -> Option<Span> {
    match notice {
        Notice::HeartbeatWithin(span) if *span >= HEARTBEAT_WITHIN_MIN => Some(*span),
        Notice::HeartbeatWithin(_)
        | Notice::Ready
        | Notice::Heartbeat
        | Notice::HeartbeatTrigger
        | Notice::ExtendTimeout(_)
        | Notice::Store(_)
        | Notice::NotStored { .. }
        | Notice::Unstore { .. }
        | Notice::Status(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec::Vec;

    fn policy(failures: u32, successes: u32) -> CheckPolicy {
        CheckPolicy {
            name: Name::try_from("tcp").unwrap(),
            kind: CheckKind::Tcp { address: String::from("127.0.0.1:1") },
            every: Span::from_secs(2),
            timeout: Span::from_secs(1),
            failures,
            successes,
            confirm: Vec::new(),
        }
    }

    fn fold(policy: &CheckPolicy, results: &str) -> Vec<Edge> {
        let mut probing = Probing::default();
        let mut state = CheckState::Unknown;
        let mut edges = Vec::new();
        for result in results.chars() {
            let edge = probing.edge(state, policy, result == '+');
            state = match edge {
                Edge::None => state,
                Edge::Failing { failures } | Edge::Failed { failures } => CheckState::Failing { failures },
                Edge::Passes => CheckState::Passing,
            };
            edges.push(edge);
        }
        edges
    }

    #[test]
    fn only_consecutive_failures_count_and_only_once() {
        use Edge::{Failed, Failing, None, Passes};
        let one = |failures| Failing { failures };
        assert_eq!(
            fold(&policy(3, 1), "+--+---"),
            [Passes, one(1), one(2), Passes, one(1), one(2), Failed { failures: 3 }]
        );
        assert_eq!(fold(&policy(1, 1), "---"), [Failed { failures: 1 }, None, None]);
    }

    #[test]
    fn successes_are_counted_and_a_pass_in_between_ends_the_row() {
        use Edge::{Failed, Failing, None, Passes};
        let one = |failures| Failing { failures };
        assert_eq!(
            fold(&policy(2, 2), "++-+-+++--"),
            [None, Passes, one(1), None, one(1), None, Passes, None, one(1), Failed { failures: 2 }]
        );
    }

    #[test]
    fn probes_come_fast_until_the_first_pass_and_never_overlap() {
        let (policy, name) = (policy(3, 1), Name::try_from("bot").unwrap());
        let mut probing = Probing::default();
        let mut now = Monotonic::from_us(0);
        probing.begin(&policy, now);
        let mut pauses = Vec::new();
        let outcome = |failure| ProbeOutcome { took_us: 100, failure, detail: String::new(), figure: None, late_us: 0 };
        for _ in 0..12 {
            let due = probing.due.unwrap();
            pauses.push(due.since(now).as_ms());
            now = due;
            probing.start(ProbeId(1), &policy, now);
            assert_eq!(probing.due, None);
            now = now.after(Span::from_us(100));
            probing.finish(&name, &policy, outcome(Some(ProbeFailure::Wrong)), now);
        }
        assert_eq!(pauses, [5, 4, 9, 19, 39, 79, 159, 319, 639, 1_279, 1_999, 1_999]);
        probing.finish(&name, &policy, outcome(None), now);
        let wait = probing.due.unwrap().since(now).as_ms();
        assert!((974..=2_000).contains(&wait), "{wait}");
        now = probing.due.unwrap();
        probing.finish(&name, &policy, outcome(None), now);
        assert_eq!(probing.due.unwrap().since(now), Span::from_ms(1_975), "100 us before the second beat");
    }

    #[test]
    fn a_failure_that_may_be_hales_own_lateness_says_nothing() {
        let policy = policy(3, 1);
        let found = |failure, took_us, late_us| {
            let outcome = ProbeOutcome { took_us, failure, detail: String::from("words"), figure: None, late_us };
            heard(&policy, &outcome).into_owned()
        };
        let (timeout, unable) = (Some(ProbeFailure::Timeout), Some(ProbeFailure::Unable));
        assert_eq!(found(timeout, 1_000_000, 250_000).failure, timeout, "a quarter of the time-out");
        let late = found(timeout, 1_000_000, 250_001);
        assert_eq!((late.failure, late.detail.as_str()), (unable, "words; but Hale itself was late by 250 ms"));
        assert_eq!(
            found(Some(ProbeFailure::Wrong), 900_000, 800_000).failure,
            unable,
            "its other end may have given up"
        );
        assert_eq!(found(None, 5_000_000, 4_000_000).failure, None, "what is good is good");
        assert_eq!(found(unable, 5_000_000, 4_000_000).detail, "words");
    }

    #[test]
    fn slow_is_what_the_service_took_and_not_what_hale_did() {
        let http = crate::policy::HttpCheck {
            url: String::from("http://127.0.0.1/"),
            method: String::from("GET"),
            headers: alloc::collections::BTreeMap::new(),
            status: alloc::vec![200],
            body_contains: None,
            json: alloc::collections::BTreeMap::new(),
            faster_than: Some(Span::from_ms(500)),
            ca_file: None,
        };
        let policy = CheckPolicy { kind: CheckKind::Http(http), ..policy(3, 1) };
        let found = |late_us| {
            let failure = Some(ProbeFailure::Slow);
            let outcome = ProbeOutcome { took_us: 600_000, failure, detail: String::new(), figure: None, late_us };
            heard(&policy, &outcome).failure
        };
        assert_eq!(found(99_999), Some(ProbeFailure::Slow));
        assert_eq!(found(100_000), Some(ProbeFailure::Unable));
    }

    #[test]
    fn probes_of_all_services_begin_together_and_a_late_one_is_not_later_for_ever() {
        let policy = policy(3, 1);
        let passed = |took_us| ProbeOutcome { took_us, failure: None, detail: String::new(), figure: None, late_us: 0 };
        for service in ["bot", "api", "worker", "queue"] {
            let name = Name::try_from(service).unwrap();
            let mut probing = Probing::default();
            probing.finish(&name, &policy, passed(700), Monotonic::from_us(123_456));
            let first = probing.due.unwrap();
            assert_eq!(first.as_us() % 25_000, 0, "{service}");
            // Begun 3 ms after its beat, and answered 20 ms later.
            probing.finish(&name, &policy, passed(20_000), first.after(Span::from_ms(23)));
            assert_eq!(probing.due, Some(first.after(Span::from_secs(2))), "{service}");
        }
        let often = CheckPolicy { every: Span::from_ms(100), ..policy };
        assert_eq!(on_beat(Monotonic::from_us(1_000_001), &often), Monotonic::from_us(1_000_000));
        assert_eq!(on_beat(Monotonic::from_us(1_007_499), &often), Monotonic::from_us(1_005_000));
        let shortest = CheckPolicy { every: Span::from_us(1), ..often };
        assert_eq!(on_beat(Monotonic::from_us(7), &shortest), Monotonic::from_us(7));
    }
}
