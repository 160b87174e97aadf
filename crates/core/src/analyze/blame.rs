//! Whose fault a failure is: judged before anything is done, from what else was tried in the same moment.
//!
//! Right or *unknown*: whatever was not tried, or has not answered, makes the judgement unknown. A fault that is not the
//! service's never leads to its being killed.

use crate::event::ExitStatus;
use crate::ids::Name;
use crate::incident::{Blame, Cause};
use crate::policy::PolicyHash;
use crate::reason::Reason;
use crate::record::Finding;
use crate::time::Span;
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// The rule's name in records. The number is raised with every change of what it answers.
pub const RULE: &str = "blame/2";

/// How long a decision waits at most for the control probes: they cost a healthy host a few milliseconds, and what does
/// not answer within so many times that fails.
pub const CONTROLLED_WITHIN: Span = Span::from_ms(500);

/// From so many services on it means something that most of them fail together: of two, each is half.
pub const TOGETHER_FROM: u32 = 3;

/// From so many failures in a row on a service is blamed for what something else, that was there whenever it was tried, could have
/// caused, too: the usual `failures`.
pub const CERTAIN_FROM: u32 = 3;

/// How far apart services begin to fail that fail together, beside how seldom they are probed.
pub const TOGETHER_WITHIN: Span = Span::from_secs(1);

/// How long the host is suspected before anything is done to services that fail together: time enough for a stall or a hiccup of the
/// network to pass. After it they are healed as ever, because what they share may be a fault of their own.
pub const SUSPECTED_FOR: Span = Span::from_secs(30);

/// What a control probe found: something that must work, tried beside the check that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// It works.
    Passed {
        /// From its begin to its end.
        took_us: u64,
    },
    /// It does not.
    Failed {
        /// In words.
        detail: String,
    },
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controls {
    /// The probes' own machinery and the loopback interface: an HTTP probe of a server of Hale's own. None: it has never worked
    /// on this host, and tells nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probing: Option<Control>,
    /// The newest attempt to write and sync some bytes in `state_dir`; none: there was none in the last seconds, or it has not come
    /// back. Nobody waits for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Control>,
}

/// What is known of the control probes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Controlled {
    /// What failed needs nothing of what they try.
    NotNeeded,
    /// They were not made.
    NotTried,
    /// They were.
    Tried {
        /// One that began with the failing probe itself; none: that one was the first to fail, or its answer did not come.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        beside: Option<Control>,
        /// Those that were made after it.
        after: Controls,
    },
}

/// What is known of what the service starts after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dependencies {
    /// There is nothing.
    None,
    /// All of it was probed while the failing probe ran, and again after it, and works.
    Up,
    /// Not all of it was.
    NotAsked,
}

/// All values that the rule reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// What kind of failure.
    pub cause: Cause,
    /// Whether it could be left alone: it has a process that runs, and a check of it, or its start, has failed.
    pub sparable: bool,
    /// How its process ended, if it did by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<ExitStatus>,
    /// Whether its process could not be made because the host is short of something.
    #[serde(default)]
    pub is_shortage: bool,
    /// How often in a row the check has failed in the same way, of a check.
    pub failures: u32,
    /// What it starts after and is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Name>,
    /// The rest of what it starts after.
    pub dependencies: Dependencies,
    /// What the control probes found.
    pub controls: Controlled,
    /// So many services that have checks fail, and began together with this one …
    pub failing: u32,
    /// … of so many.
    pub of: u32,
    /// How long the host has been suspected, where most of them fail.
    pub suspected: Span,
    /// Whether its process is of a change that has not proved itself yet.
    #[serde(default)]
    pub on_probation: bool,
}

/// The rule's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// Whose fault.
    pub blame: Blame,
    /// Why.
    pub reason: Reason,
    /// Whether the service is left alone for it, if it runs.
    pub spares: bool,
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
    pub judgement: Judgement,
}

/// Whether more than half of the services fail together.
#[must_use]
pub fn is_most(failing: u32, of: u32) -> bool {
    of >= TOGETHER_FROM && u64::from(failing) * 2 > u64::from(of)
}

/// The rule itself.
#[must_use]
pub fn judge(read: &Read) -> Judgement {
    let say = |blame, reason| Judgement { blame, reason, spares: false };
    let spare = |blame, reason, spares| Judgement { blame, reason, spares: spares && read.sparable };
    let (beside, after) = match &read.controls {
        Controlled::Tried { beside, after } => (beside.as_ref(), Some(after)),
        Controlled::NotNeeded | Controlled::NotTried => (None, None),
    };
    let probing = after.and_then(|after| after.probing.as_ref());
    if let Some(on) = &read.blocked {
        return say(Blame::Dependency, Reason::DependencyDown { on: on.clone() });
    }
    if let (Some(Control::Failed { detail }), _) | (_, Some(Control::Failed { detail })) = (probing, beside) {
        return spare(Blame::Probe, Reason::ProbingFails { detail: detail.clone() }, true);
    }
    if read.is_shortage {
        return say(Blame::Host, Reason::HostIsShort);
    }
    if is_most(read.failing, read.of) {
        let reason = Reason::FailTogether { failing: read.failing, of: read.of };
        // It is something that they share, and nobody knows yet whether that is the machine.
        return spare(Blame::Unknown, reason, read.suspected < SUSPECTED_FOR);
    }
    if let Some(Control::Failed { detail }) = after.and_then(|after| after.disk.as_ref()) {
        return say(Blame::Host, Reason::DiskFails { detail: detail.clone() });
    }
    // By the kernel's figures both are as likely the host's as the service's.
    if matches!(read.cause, Cause::Oom | Cause::Memory) {
        return say(Blame::Unknown, Reason::MemoryIsShared);
    }
    // Somebody did that; a program does not do it to itself.
    if matches!(read.ended, Some(ExitStatus::Signal { signal, .. }) if signal.is_from_outside()) {
        return say(Blame::Unknown, Reason::EndedFromOutside);
    }
    if read.ended == Some(ExitStatus::Unknown) {
        return say(Blame::Unknown, Reason::EndNotSeen);
    }
    // One that began after the failing probe does not tell how it was during that.
    if read.controls != Controlled::NotNeeded && (probing.is_none() || beside.is_none()) {
        return say(Blame::Unknown, Reason::NothingElseTried);
    }
    // What came and went within one probe, nothing beside it may have met.
    let is_certain = read.controls == Controlled::NotNeeded && read.dependencies == Dependencies::None;
    if !is_certain && read.failures > 0 && read.failures < CERTAIN_FROM {
        return say(Blame::Unknown, Reason::TooFewFailures { failures: read.failures });
    }
    match read.dependencies {
        Dependencies::NotAsked => say(Blame::Unknown, Reason::DependenciesNotAsked),
        Dependencies::None | Dependencies::Up if read.on_probation => say(Blame::Change, Reason::FailsOnProbation),
        Dependencies::None | Dependencies::Up => say(Blame::Service, Reason::NothingElseFails),
    }
}

/// Whether the process could not be made because the host has too little of something: `EAGAIN`, `ENOMEM`, `ENFILE`, `EMFILE`,
/// `ENOSPC` (fork(2), clone(2)); or no group for it, which Hale and the kernel owe it.
#[must_use]
pub fn is_shortage(finding: &Finding) -> bool {
    matches!(finding, Finding::Spawn { failure } if [11, 12, 23, 24, 28].contains(&failure.errno) || failure.step == "cgroup")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Signal;

    fn passed() -> Control {
        Control::Passed { took_us: 300 }
    }

    fn failed() -> Control {
        Control::Failed { detail: String::from("words") }
    }

    fn tried(probing: Control, disk: Control) -> Controlled {
        Controlled::Tried { beside: Some(passed()), after: Controls { probing: Some(probing), disk: Some(disk) } }
    }

    fn hang() -> Read {
        Read {
            cause: Cause::Hang,
            sparable: true,
            ended: None,
            is_shortage: false,
            failures: 3,
            blocked: None,
            dependencies: Dependencies::None,
            controls: tried(passed(), passed()),
            failing: 1,
            of: 50,
            suspected: Span::ZERO,
            on_probation: false,
        }
    }

    fn ends(status: ExitStatus) -> Read {
        Read { cause: Cause::Exit, sparable: false, ended: Some(status), controls: Controlled::NotNeeded, ..hang() }
    }

    fn blame(read: &Read) -> (Blame, bool) {
        let judgement = judge(read);
        (judgement.blame, judgement.spares)
    }

    #[test]
    fn a_service_is_blamed_only_where_all_else_works() {
        assert_eq!(blame(&hang()), (Blame::Service, false));
        assert_eq!(blame(&Read { dependencies: Dependencies::Up, ..hang() }), (Blame::Service, false));
        assert_eq!(blame(&Read { dependencies: Dependencies::NotAsked, ..hang() }), (Blame::Unknown, false));
        assert_eq!(blame(&Read { controls: Controlled::NotTried, ..hang() }), (Blame::Unknown, false));
        assert_eq!(blame(&Read { failures: 2, ..hang() }), (Blame::Unknown, false), "twice may be hiccups of anything");
        let on = Name::try_from("api").unwrap();
        assert_eq!(blame(&Read { blocked: Some(on), ..hang() }), (Blame::Dependency, false));
        assert_eq!(
            blame(&Read { controls: tried(passed(), failed()), ..hang() }),
            (Blame::Host, false),
            "healing goes on"
        );
        assert_eq!(blame(&Read { cause: Cause::Memory, ..hang() }), (Blame::Unknown, false));
    }

    #[test]
    fn what_probing_itself_cannot_do_is_no_fault_of_a_service() {
        let controls = tried(failed(), failed());
        assert_eq!(blame(&Read { controls: controls.clone(), ..hang() }), (Blame::Probe, true));
        assert_eq!(
            blame(&Read { controls, sparable: false, ..hang() }),
            (Blame::Probe, false),
            "nothing is left to spare"
        );
        let Controlled::Tried { after, .. } = tried(passed(), passed()) else { panic!() };
        let meanwhile = Controlled::Tried { beside: Some(failed()), after: after.clone() };
        assert_eq!(blame(&Read { controls: meanwhile, ..hang() }), (Blame::Probe, true));
        let only_after = Controlled::Tried { beside: None, after };
        assert_eq!(blame(&Read { controls: only_after, ..hang() }), (Blame::Unknown, false));
    }

    #[test]
    fn when_most_fail_together_the_host_is_suspected_first_and_not_for_ever() {
        let most = Read { failing: 26, ..hang() };
        assert_eq!(blame(&most), (Blame::Unknown, true));
        assert_eq!(blame(&Read { failing: 25, ..hang() }), (Blame::Service, false));
        assert_eq!(blame(&Read { suspected: SUSPECTED_FOR, ..most }), (Blame::Unknown, false));
        assert_eq!(blame(&Read { failing: 2, of: 2, ..hang() }), (Blame::Service, false), "two are no crowd");
        assert_eq!(blame(&Read { failing: 26, ..ends(ExitStatus::Code(1)) }), (Blame::Unknown, false));
    }

    #[test]
    fn an_end_is_its_own_fault_unless_it_came_from_outside_or_was_not_seen() {
        let signal = |signal| ends(ExitStatus::Signal { signal, core_dumped: false });
        assert_eq!(blame(&signal(Signal::KILL)), (Blame::Unknown, false));
        assert_eq!(blame(&signal(Signal::TERM)), (Blame::Unknown, false));
        assert_eq!(blame(&signal(Signal::ABRT)), (Blame::Service, false));
        assert_eq!(blame(&ends(ExitStatus::Unknown)), (Blame::Unknown, false));
        assert_eq!(blame(&ends(ExitStatus::Code(0))), (Blame::Service, false));
        assert_eq!(
            blame(&Read { is_shortage: true, cause: Cause::Spawn, ..ends(ExitStatus::Unknown) }),
            (Blame::Host, false)
        );
    }
}
