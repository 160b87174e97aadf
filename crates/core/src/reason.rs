//! Why: reasons as data, rendered in one place so that every surface tells the same story.

use crate::analyze::trace::Fingerprint;
use crate::analyze::trend::Reaches;
use crate::event::EndWhy;
use crate::ids::{GenerationId, Name};
use crate::record::Actor;
use crate::time::Span;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

impl Reason {
    /// Whether it is something that was found against a generation.
    #[must_use]
    pub fn is_evidence(&self) -> bool {
        matches!(self, Self::OnProbation { .. } | Self::NewestChange { .. })
    }
}

/// Why Hale did something, or did not. Display gives the clause that follows "because".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Reason {
    /// Hale has just started.
    HaleStarts,
    /// Hale is ending.
    HaleEnds {
        /// Why.
        why: EndWhy,
    },
    /// Somebody ordered it.
    Ordered {
        /// Who.
        actor: Actor,
    },
    /// The first failure after a healthy time: no reason to wait.
    FirstFailure {
        /// `restart.healthy_after`.
        healthy_after: Span,
    },
    /// Not the first failure: the delay doubles.
    Repeated {
        /// Failures since it was last healthy for long enough, this one counted.
        failures: u32,
        /// The delay chosen, jitter counted.
        delay: Span,
    },
    /// It failed before, and of its last failures so many in a row by the same exception.
    SameException {
        /// In a row, this one counted.
        failures: u32,
        /// How often that exception was seen.
        times: u32,
        /// Which.
        exception: Fingerprint,
    },
    /// Too many failures in too short a time.
    CrashLoop {
        /// This many …
        failures: u32,
        /// … within this time, as `restart.crash_loop` allows at most.
        within: Span,
    },
    /// It failed again after being held.
    StillFailing {
        /// Tries since it was given up first.
        tries: u32,
    },
    /// The time to wait is over.
    DelayOver,
    /// A held service is tried again.
    HeldRetry {
        /// The how-many-eth try.
        tries: u32,
    },
    /// The rung needs generations, and there are none.
    NoGenerationsConfigured,
    /// A change failed before it had proved itself.
    OnProbation {
        /// What was found.
        finding: String,
    },
    /// A change fails before it has proved itself.
    FailsOnProbation,
    /// It is the newest change, and what was there before is known to be good.
    NewestChange {
        /// What was changed to.
        change: Option<GenerationId>,
    },
    /// There is no older generation that is known to be good.
    NoOlderGood,
    /// The newest change is too long ago to be blamed.
    ChangeTooOld {
        /// How long ago it was.
        ago: Span,
        /// `generations.recent`.
        recent: Span,
    },
    /// `generations.rollback = "ask"`.
    RollbackAsk,
    /// `generations.rollback = "never"`.
    RollbackNever,
    /// The ladder has taken back enough.
    RollbacksSpent {
        /// So many within 24 hours.
        taken_back: u32,
        /// `generations.rollbacks_per_day`.
        per_day: u32,
    },
    /// What was known to be good failed in the same way.
    CauseElsewhere,
    /// Another switch of it is under way.
    SwitchInProgress,
    /// It has no release yet.
    NoReleaseYet,
    /// Its store was not looked at yet.
    StoreNotSeen,
    /// The store did not switch.
    NotSwitched {
        /// In its words.
        error: String,
    },
    /// It cannot read the service's data any more.
    DataMovedOn {
        /// Which generation.
        generation: GenerationId,
        /// The newest format of data that it can read.
        format: u32,
        /// The format of data that there is.
        at_least: u32,
    },
    /// A program that the generation brings has failed.
    HookFailed {
        /// Which, and how.
        error: String,
    },
    /// What would be gone back to is not there, or not what it was.
    NoWayBack {
        /// In the store's words.
        error: String,
    },
    /// Hale ended, or the machine did, before it was done.
    Interrupted,
    /// The machine was started anew before the change had proved itself.
    RestartedOnProbation,
    /// Somebody else has switched meanwhile.
    Superseded {
        /// To what.
        by: Option<GenerationId>,
    },
    /// A check fails that failed before, too.
    FailsAsBefore {
        /// Which.
        check: Name,
    },
    /// What was switched back to fails, too.
    GoodFailsToo {
        /// What was found.
        finding: String,
    },
    /// It has failed before.
    Quarantined {
        /// Why.
        why: alloc::boxed::Box<Reason>,
    },
    /// It is not one of those that are known to be good.
    NotKnownGood {
        /// Which.
        generation: GenerationId,
    },
    /// Another generation is switched to.
    Switched {
        /// To what.
        to: GenerationId,
    },
    /// The service is not in `hardware_watchdog.require`.
    NotRequired,
    /// `system.generations.reboot = "never"`.
    RebootNever,
    /// No hardware timer runs that could reset the machine.
    NoTimer,
    /// Another required service is not beyond its ladder.
    StillWorks {
        /// Which.
        service: Name,
    },
    /// The ledger does not tell how often the timer has reset the machine.
    ResetsUnknown,
    /// The timer has reset the machine often enough.
    RebootsSpent {
        /// Resets within 24 hours.
        resets: u32,
        /// `system.generations.reboots_per_day`.
        per_day: u32,
    },
    /// The budget allows another reset.
    RebootsLeft {
        /// Resets within 24 hours.
        resets: u32,
        /// `system.generations.reboots_per_day`.
        per_day: u32,
    },
    /// What must be on the disk first is not there.
    NoDurableRecord,
    /// All services in `hardware_watchdog.require` are held or unkillable.
    RequiredFailed,
    /// `mode = "observe"`.
    ObserveMode,
    /// This service is only observed since a rule of Hale's own was broken.
    Violated {
        /// Which.
        what: String,
    },
    /// An operator has paused it.
    Paused {
        /// Who.
        actor: Actor,
    },
    /// Its pause has ended by itself.
    PauseOver,
    /// `restarts_in_flight` services are already on their way up.
    RestartsInFlight {
        /// The limit.
        limit: u32,
    },
    /// It starts after another service, which is not ready.
    NotReady {
        /// The other one.
        on: Name,
    },
    /// What it starts after is down.
    DependencyDown {
        /// What.
        on: Name,
    },
    /// What it starts after is ready now.
    NowReady {
        /// What it waited for.
        on: Name,
    },
    /// It grows towards the bound of a check.
    BeforeLimit {
        /// Which check.
        check: Name,
        /// When the bound would be reached.
        reaches: Reaches,
    },
    /// Another configuration came into force.
    Reloaded,
    /// It is not in the configuration any more.
    Removed,
    /// The configuration cannot be used.
    InvalidConfiguration {
        /// What, where, why and what to do, in lines.
        error: String,
    },
    /// What Hale reads only when it starts is another.
    FixedWhileRunning {
        /// As `section.key`.
        keys: Vec<String>,
    },
    /// Another one is being read, or is not kept for the next supervisor yet.
    ReloadInProgress,
    /// It could not be kept for the next supervisor, which would run the one before.
    PolicyNotKept {
        /// The operating system's words.
        error: String,
    },
    /// It failed, and whatever there is of it must be gone before it is started again.
    MustGo,
    /// It had this long to end, and did not.
    GraceOver {
        /// `stop.grace`.
        grace: Span,
    },
    /// The main process is gone and left others behind.
    LeftBehind,
    /// It ended with success, and `restart.on_success` is false.
    Finished,
    /// What stands in `FDNAME` is no name ([`FdName`](crate::descriptor::FdName)).
    DescriptorName,
    /// A descriptor of something in a file system.
    DescriptorOfFile,
    /// The service has left as many descriptors as it may.
    DescriptorsFull {
        /// [`STORED_MAX`](crate::descriptor::STORED_MAX).
        most: u32,
    },
    /// All services together have.
    DescriptorsFullInAll {
        /// [`STORED_IN_ALL_MAX`](crate::descriptor::STORED_IN_ALL_MAX).
        most: u32,
    },
    /// It leaves descriptors too often ([`STORES_EVERY`](crate::descriptor::STORES_EVERY)).
    DescriptorsTooOften,
    /// Hale itself has too few descriptors left.
    DescriptorsScarce,
    /// `FDSTOREREMOVE=1`.
    DescriptorTakenBack,
    /// A control probe of the probes' own machinery fails, too.
    ProbingFails {
        /// In words.
        detail: String,
    },
    /// The host is short of something that a process needs.
    HostIsShort,
    /// More than half of the services began to fail together.
    FailTogether {
        /// So many …
        failing: u32,
        /// … of so many.
        of: u32,
    },
    /// `state_dir` cannot be written.
    DiskFails {
        /// The operating system's words.
        detail: String,
    },
    /// It is about memory, which it shares with everything else on the machine.
    MemoryIsShared,
    /// The signal that ended it is one that others send.
    EndedFromOutside,
    /// Nobody saw how it ended.
    EndNotSeen,
    /// Not all that it starts after has been probed since.
    DependenciesNotAsked,
    /// No control probe was made beside it.
    NothingElseTried,
    /// It failed too few times in a row to rule out what comes and goes.
    TooFewFailures {
        /// How often.
        failures: u32,
    },
    /// All else that was tried in the same moment, if anything was, works.
    NothingElseFails,
    /// Its other end is gone.
    DescriptorHungUp,
    /// Hale does not have it any more.
    DescriptorLost,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HaleStarts => f.write_str("Hale has started"),
            Self::HaleEnds { why } => write!(f, "{why} and ends everything in order"),
            Self::Ordered { actor } => write!(f, "{actor} ordered it"),
            Self::FirstFailure { healthy_after } => {
                write!(f, "it had not failed in the last {healthy_after}")
            }
            Self::Repeated { failures, delay: _ } => write!(f, "this is failure {failures} in a row"),
            Self::SameException { failures, times, exception: _ } => {
                write!(f, "this is failure {failures} in a row, and the last {times} exceptions were the same")
            }
            Self::CrashLoop { failures, within } => {
                write!(f, "{failures} failures within {within} are a crash loop, and quick restarts do not help")
            }
            Self::StillFailing { tries } => write!(f, "try {tries} since it was held failed too"),
            Self::DelayOver => f.write_str("its delay is over"),
            Self::HeldRetry { tries } => write!(f, "a held service is tried again, this is try {tries}"),
            Self::NoGenerationsConfigured => f.write_str("no generations configured"),
            Self::FailsOnProbation => f.write_str("it fails on probation"),
            Self::OnProbation { finding } => write!(f, "it is on probation: {finding}"),
            Self::NewestChange { change: Some(change) } => {
                write!(f, "{} is the newest change, and what was there before is known to be good", change.short())
            }
            Self::NewestChange { change: None } => f.write_str("it is the newest change"),
            Self::NoOlderGood => f.write_str("there is no older generation that is known to be good"),
            Self::ChangeTooOld { ago, recent } => {
                write!(f, "the newest change is {ago} old, and only those of the last {recent} are blamed (recent)")
            }
            Self::RollbackAsk => f.write_str("rollback is \"ask\": `hale rollback` does it"),
            Self::RollbackNever => f.write_str("rollback is \"never\": its data may have moved forward"),
            Self::RollbacksSpent { taken_back, per_day } => {
                write!(f, "{taken_back} changes taken back within 24 h spend the budget (rollbacks_per_day = {per_day})")
            }
            Self::CauseElsewhere => {
                f.write_str("what was known to be good failed in the same way, so the cause is elsewhere")
            }
            Self::SwitchInProgress => f.write_str("another switch of it is under way"),
            Self::NoReleaseYet => f.write_str("no release yet: `hale deploy` brings one"),
            Self::StoreNotSeen => f.write_str("its store has not answered yet"),
            Self::NotSwitched { error } => write!(f, "the store did not switch: {error}"),
            Self::DataMovedOn { generation, format, at_least } => write!(
                f,
                "{} reads data up to format {format}, and what ran since has left data that takes {at_least} or more (min_rollback)",
                generation.short()
            ),
            Self::HookFailed { error } => f.write_str(error),
            Self::NoWayBack { error } => write!(f, "there would be no way back: {error}"),
            Self::Interrupted => f.write_str("Hale, or the machine, ended before it was done"),
            Self::RestartedOnProbation => {
                f.write_str("the machine was started anew before the change had proved itself")
            }
            Self::Superseded { by: Some(by) } => write!(f, "somebody else has switched to {} meanwhile", by.short()),
            Self::Superseded { by: None } => f.write_str("somebody else has taken away what was switched to"),
            Self::FailsAsBefore { check } => {
                write!(f, "check {check} fails, and it failed before the switch too, so that it tells nothing of the change")
            }
            Self::GoodFailsToo { finding } => write!(f, "what was known to be good fails, too: {finding}"),
            Self::Quarantined { why } => write!(f, "it is quarantined, because {why}; --force tries it all the same, and `hale quarantine clear` forgets it"),
            Self::NotKnownGood { generation } => write!(f, "{} is not known to be good", generation.short()),
            Self::Switched { to } => write!(f, "it was switched to {}", to.short()),
            Self::NotRequired => f.write_str("it is not in hardware_watchdog.require"),
            Self::RebootNever => f.write_str("reboot is \"never\" in [system.generations]"),
            Self::NoTimer => f.write_str("no hardware timer runs"),
            Self::StillWorks { service } => {
                write!(f, "{service} is required too, and Hale has not given up on it")
            }
            Self::ResetsUnknown => f.write_str("the ledger does not tell how often that was done before"),
            Self::RebootsSpent { resets, per_day } => {
                write!(f, "{resets} resets within 24 h spend the budget (reboots_per_day = {per_day})")
            }
            Self::RebootsLeft { resets, per_day } => {
                write!(f, "{resets} resets within 24 h leave room in the budget (reboots_per_day = {per_day})")
            }
            Self::NoDurableRecord => f.write_str("no durable record of it could be written before"),
            Self::RequiredFailed => f.write_str("all services that the machine is there for failed for good"),
            Self::ObserveMode => f.write_str("mode is \"observe\": Hale only watches"),
            Self::Violated { what } => {
                write!(f, "this service is only observed since Hale broke a rule of its own: {what}")
            }
            Self::Paused { actor } => write!(f, "{actor} has paused it"),
            Self::PauseOver => f.write_str("its pause is over"),
            Self::RestartsInFlight { limit } => {
                write!(f, "{limit} services are already being restarted (restarts_in_flight)")
            }
            Self::NotReady { on } => write!(f, "it starts after {on}, which is not ready"),
            Self::DependencyDown { on } => write!(f, "{on}, which it starts after, is down"),
            Self::NowReady { on } => write!(f, "{on} is ready now"),
            Self::BeforeLimit { check, reaches } => {
                write!(f, "the bound of check {check} would be reached in {reaches}")
            }
            Self::Reloaded => f.write_str("another configuration came into force"),
            Self::Removed => f.write_str("it is not in the configuration any more"),
            Self::InvalidConfiguration { error } => write!(f, "the configuration cannot be used, and the one before stays in force:\n{error}"),
            Self::FixedWhileRunning { keys } => {
                write!(f, "{} cannot change while Hale runs: start Hale anew for it", keys.join(" and "))
            }
            Self::ReloadInProgress => f.write_str("another reload is under way, or the files of one cannot be read in time: try again in a moment"),
            Self::PolicyNotKept { error } => {
                write!(f, "it could not be kept for the next supervisor, so the one before stays in force: {error}")
            }
            Self::MustGo => f.write_str("it must be gone before it is started again"),
            Self::GraceOver { grace } => write!(f, "it did not end within its grace of {grace}"),
            Self::LeftBehind => f.write_str("its main process is gone and left others behind"),
            Self::Finished => f.write_str("it ended with success and on_success is false"),
            Self::DescriptorName => f.write_str(
                "its name (FDNAME) is longer than 255 characters, or has a colon, a control character or one beyond ASCII",
            ),
            Self::DescriptorOfFile => {
                f.write_str("it is of a file system, and closing such a one can wait for a disk; memory files are kept")
            }
            Self::DescriptorsFull { most } => write!(f, "{most} descriptors of it are kept already"),
            Self::DescriptorsFullInAll { most } => write!(f, "{most} descriptors of all services are kept already"),
            Self::DescriptorsTooOften => f.write_str("it leaves descriptors more often than once a second"),
            Self::DescriptorsScarce => f.write_str("Hale itself has few descriptors left"),
            Self::DescriptorTakenBack => f.write_str("the service does not want it any more"),
            Self::ProbingFails { detail } => write!(f, "a probe of Hale itself fails, too: {detail}"),
            Self::HostIsShort => f.write_str("the machine is short of what a process needs"),
            Self::FailTogether { failing, of } => write!(f, "{failing} of {of} services began to fail together"),
            Self::DiskFails { detail } => write!(f, "state_dir cannot be written: {detail}"),
            Self::MemoryIsShared => f.write_str("memory is shared with all else on the machine"),
            Self::EndedFromOutside => f.write_str("that is a signal which others send"),
            Self::EndNotSeen => f.write_str("nobody saw how it ended"),
            Self::DependenciesNotAsked => f.write_str("what it starts after has not been probed since"),
            Self::TooFewFailures { failures: 1 } => f.write_str("one failure may be a hiccup of anything"),
            Self::TooFewFailures { failures } => write!(f, "{failures} failures may be hiccups of anything"),
            Self::NothingElseTried => f.write_str("nothing else was tried"),
            Self::NothingElseFails => f.write_str("nothing else was found to fail"),
            Self::DescriptorHungUp => f.write_str("its other end is gone"),
            Self::DescriptorLost => f.write_str("Hale lost it"),
        }
    }
}
