//! What the core writes down: the only thing that changes the world, and the text of the ledger.

mod finding;
mod order;

pub use finding::Finding;
pub use order::{Actor, OperatorOrder, Refusal};

use crate::analyze::blame;
use crate::analyze::stall::Stall;
use crate::analyze::trace::Trace;
use crate::descriptor::FdName;
use crate::event::{EndWhy, ExitStatus, Lost, ProbeFailure, Process, SpawnFailure};
use crate::examination::Examination;
use crate::hardware::{PreviousBoot, Timer};
use crate::ids::{Epoch, GenerationId, IncidentId, Name, RecordId, RequestId};
use crate::incident::{Cause, Outcome};
use crate::memory::{MemoryAtExit, MemoryReport, OomKills};
use crate::plan::before_limit;
use crate::plan::ladder::Decision;
use crate::plan::reboot;
use crate::policy::change::Listed;
use crate::policy::{Mode, PolicyHash, Ready, Signal};
use crate::reason::Reason;
use crate::safeswitch::{Move, Part};
use crate::time::{Monotonic, Now, Span};
use crate::world::dependency::DependencyEdge;
use crate::world::phase::Then;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The version of the core's rules: a decision can be recomputed by the same version only. Raised whenever a
/// rule answers differently to the same values.
pub const CORE_VERSION: u32 = 5;

/// One thing that was detected, decided, done or refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its place in the order of decisions.
    pub id: RecordId,
    /// When.
    pub at: Now,
    /// About which service; none: about Hale itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
    /// In which incident.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<IncidentId>,
    /// What.
    #[serde(flatten)]
    pub body: Body,
}

/// How well a record must be kept before its effects follow (architecture, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// May be dropped when the disk is full or slow; drops are counted.
    Evidence,
    /// In the runtime journal before the effect, in the ledger as fast as the disk allows.
    State,
    /// Synced in the ledger before the effect.
    Durable,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Body {
    /// A supervisor took over.
    Began {
        /// Of the program.
        version: String,
        /// [`CORE_VERSION`].
        core: u32,
        /// The policy in force.
        policy: PolicyHash,
        /// Whether it acts.
        mode: Mode,
        /// Seeds the jitter.
        seed: u64,
        /// The kernel's boot id (`/proc/sys/kernel/random/boot_id`).
        boot_id: String,
        /// The guardian under which this is: drawn by chance at its start. Only its own supervisors take over from each other.
        #[serde(default)]
        guardian: String,
    },
    /// A supervisor took over from one that was lost; services go on as they were.
    TookOver {
        /// Of the program.
        version: String,
        /// [`CORE_VERSION`].
        core: u32,
        /// The policy in force, which is the one before's.
        policy: PolicyHash,
        /// How the one before was lost.
        lost: Lost,
        /// How many services have a process.
        processes: u32,
    },
    /// Another policy is in force from here on.
    Reloaded(Box<Reload>),
    /// A reload was refused: the policy in force stays.
    ReloadRefused {
        /// Who wanted it.
        actor: Actor,
        /// Why not.
        why: Reason,
    },
    /// It left with a reload, and nothing of it is left: Hale knows it no longer.
    Forgotten,
    /// Nobody looked for a while: Hale was stopped or starved, with the whole machine or alone, or the machine slept. The
    /// deadlines of heartbeats, starts and stops have moved on by `late`, and failures in a row are counted from the beginning.
    HostStalled {
        /// How long the loop did not come, at most.
        late: Span,
        /// How long the machine slept.
        slept: Span,
    },
    /// Everything is being stopped.
    Ending {
        /// Why.
        why: EndWhy,
    },
    /// It may not start yet.
    Blocked {
        /// What it waits for.
        on: Name,
    },
    /// It has a process, and what it starts after is down: it is left alone until that is up.
    RunsBlocked {
        /// Its number.
        epoch: Epoch,
        /// What it waits for.
        on: Name,
    },
    /// What blocked it is up again: its failures are forgotten.
    Unblocked {
        /// What it waited for.
        on: Name,
    },
    /// A dependency is there, or is not any more.
    Dependency {
        /// Which.
        name: Name,
        /// Whether.
        #[serde(flatten)]
        edge: DependencyEdge,
    },
    /// A process is about to be made.
    SpawnIntended {
        /// Its number.
        epoch: Epoch,
        /// Why.
        why: Reason,
        /// Of which generation; none: it has none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        generation: Option<GenerationId>,
        /// And of which of its files.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        files: Option<GenerationId>,
    },
    /// The process exists.
    Spawned {
        /// Its number.
        epoch: Epoch,
        /// Who it is.
        process: Process,
    },
    /// The guardian has this process, and no record says that it was ever ordered: the journal could not be written.
    Adopted {
        /// Its number.
        epoch: Epoch,
        /// Who it is.
        process: Process,
    },
    /// The process could not be made or set up.
    SpawnFailed {
        /// Its number.
        epoch: Epoch,
        /// What went wrong.
        failure: SpawnFailure,
    },
    /// It is ready, by what the policy asks for.
    BecameReady {
        /// Its number.
        epoch: Epoch,
        /// By what.
        by: Ready,
    },
    /// A probe failed, and the check has not reached its `failures` before.
    CheckFailed {
        /// Its number.
        epoch: Epoch,
        /// Which check.
        check: Name,
        /// The how-many-eth in a row …
        failures: u32,
        /// … of so many that make Hale act.
        of: u32,
        /// How it failed.
        failure: ProbeFailure,
        /// In words.
        detail: String,
        /// How long the probe took.
        took_us: u64,
    },
    /// A check that came or changed while the process ran fails, and has not passed since: it does not count, as it may be
    /// the check that is wrong. Once for each process and check, by each supervisor.
    CheckUnproven {
        /// Its number.
        epoch: Epoch,
        /// Which check.
        check: Name,
        /// In words.
        detail: String,
    },
    /// A check failed as often as makes Hale act, and another one that has to confirm it does not fail: nothing is done. Once in a
    /// row of failures.
    Unconfirmed {
        /// Its number.
        epoch: Epoch,
        /// Which check.
        check: Name,
        /// Which other one passes, or has said nothing.
        by: Name,
    },
    /// A check passes, that failed or was not known.
    CheckPassed {
        /// Its number.
        epoch: Epoch,
        /// Which check.
        check: Name,
        /// How long the probe took.
        took_us: u64,
    },
    /// It is ready and all of its checks pass.
    BecameHealthy {
        /// Its number.
        epoch: Epoch,
    },
    /// A failure that counts. Opens an incident when none is open: the incident's id is this record's.
    Detected {
        /// What kind of failure.
        cause: Cause,
        /// Its evidence.
        finding: Finding,
        /// That the service waited for memory, if it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stall: Option<Stall>,
        /// The last moment that it was known to work.
        last_good: Monotonic,
        /// What it starts after and was down meanwhile: then it does not count against the service.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blocked: Option<Name>,
    },
    /// Whose fault a failure is.
    Blamed(Box<blame::Decision>),
    /// A check failed as often as makes Hale act, or a start took too long, and that is not the service's fault: nothing is done.
    /// Once in a row of failures.
    NotItsFault {
        /// Its number.
        epoch: Epoch,
        /// Which check; none: the start.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        check: Option<Name>,
        /// Whose fault it is.
        judged: Box<blame::Decision>,
    },
    /// What follows from a detection.
    Decided(Box<Decision>),
    /// It could be started now, and is not yet.
    Waits {
        /// Why.
        why: Reason,
    },
    /// The main process was reaped.
    Exited {
        /// Its number.
        epoch: Epoch,
        /// How it ended.
        status: ExitStatus,
        /// Whether nothing of its tree is left.
        tree_empty: bool,
        /// Whether Hale was ending it; if not, what that means follows.
        asked: bool,
        /// What the kernel says of the tree's memory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        memory: Option<MemoryAtExit>,
    },
    /// The kernel's OOM killer took a process of the tree. No failure by itself: the checks tell whether the service
    /// can do without it.
    OomKilled {
        /// Its number.
        epoch: Epoch,
        /// How many it took, and why.
        kills: OomKills,
        /// What the kernel says of the tree's memory.
        memory: MemoryReport,
    },
    /// The tree begins to wait for memory so much that it can hardly work. No failure by itself: the checks tell.
    MemoryStalled {
        /// Its number.
        epoch: Epoch,
        /// How much, and what holds it back.
        stall: Stall,
    },
    /// It does not wait so much any more.
    MemoryRelieved {
        /// Its number.
        epoch: Epoch,
        /// From the first word of it to the last.
        after: Span,
    },
    /// The tree is about to be asked to end.
    StopIntended {
        /// Its number.
        epoch: Epoch,
        /// By which signal.
        signal: Signal,
        /// How long it has.
        grace: Span,
        /// Why.
        why: Reason,
        /// What comes after it.
        then: Then,
    },
    /// The tree is about to be killed.
    KillIntended {
        /// Its number.
        epoch: Epoch,
        /// Why.
        why: Reason,
        /// What comes after it.
        then: Then,
    },
    /// It survived SIGKILL, as a process in uninterruptible sleep does. Nothing is started beside it.
    Unkillable {
        /// Its number.
        epoch: Epoch,
        /// How long ago it was killed.
        after: Span,
    },
    /// The main process was reaped and nothing of its tree is left.
    TreeGone {
        /// Its number.
        epoch: Epoch,
    },
    /// It will be started, and not before its delay is over.
    BackingOff {
        /// Not before.
        until: Monotonic,
    },
    /// Quick restarts are given up: retried slowly, for ever.
    Held {
        /// The next try.
        until: Monotonic,
        /// Tries so far.
        tries: u32,
    },
    /// No process, and none wanted.
    Stopped {
        /// Why.
        why: Reason,
    },
    /// Long enough without a failure: delays and counters start afresh.
    CountersForgotten,
    /// Hale only watches it from here on.
    Paused {
        /// Who ordered it.
        actor: Actor,
        /// How long that was to last.
        lasts: Span,
        /// When it ends by itself, on the clock that goes on in suspend ([`Now::boot_us`]).
        until_boot_us: u64,
    },
    /// It is healed again; delays and counters start afresh.
    Resumed {
        /// Why.
        why: Reason,
    },
    /// The incident is over.
    IncidentClosed {
        /// How it ended.
        outcome: Outcome,
        /// From the detection to all checks passing on the new process; none where that never came.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        recovery_us: Option<u64>,
        /// From the last good sign to the next; none where that never came.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        down_us: Option<u64>,
        /// How many checks the service has, all of which pass when it recovered.
        checks: u32,
    },
    /// An operator's order arrived; it is carried out once this record is durable.
    Ordered {
        /// Who.
        actor: Actor,
        /// What.
        order: OperatorOrder,
        /// For the answer.
        request: RequestId,
    },
    /// An operator's order begins to be carried out: from here on it must not be carried out again.
    CarriedOut {
        /// The record of the order.
        ordered: RecordId,
    },
    /// An operator's order is carried out although its record is not durable.
    OrderNotDurable {
        /// The record of the order.
        ordered: RecordId,
        /// How long Hale waited for the disk.
        waited: Span,
    },
    /// The ledger cannot be written at the moment.
    LedgerDegraded {
        /// The operating system's words.
        error: String,
    },
    /// The ledger can be written again.
    LedgerRecovered,
    /// The last lines of output of the process that failed.
    Output {
        /// Oldest first.
        lines: Vec<String>,
    },
    /// The output of the process that failed has an exception.
    Traced {
        /// Its number.
        epoch: Epoch,
        /// The last one.
        trace: Box<Trace>,
        /// How many lines were written after it.
        after: u32,
    },
    /// What the process that failed was doing.
    Examined {
        /// Its number.
        epoch: Epoch,
        /// That.
        found: Box<Examination>,
    },
    /// Output was thrown away.
    OutputDropped {
        /// How much.
        bytes: u64,
    },
    /// A probe was ordered and no result ever came: it counts neither way.
    ProbeLost {
        /// Its number.
        epoch: Epoch,
        /// Which check.
        check: Name,
    },
    /// A probe could not be run, and the one of this check before could: it counts neither way, and so do those that
    /// follow it for the same want of something.
    ProbeUnable {
        /// Its number.
        epoch: Epoch,
        /// Which check.
        check: Name,
        /// What Hale or its host was short of, in words.
        detail: String,
    },
    /// The service said how often its heartbeat comes (`WATCHDOG_USEC`).
    HeartbeatPromised {
        /// Its number.
        epoch: Epoch,
        /// The longest time between two.
        within: Span,
    },
    /// The service asked for more time to start or to stop (`EXTEND_TIMEOUT_USEC`).
    Extended {
        /// Its number.
        epoch: Epoch,
        /// Until then it has.
        until: Monotonic,
    },
    /// A descriptor of the service is about to be kept for its next process; this record's id is its number.
    DescriptorStored {
        /// The process that left it.
        epoch: Epoch,
        /// Its place among those of its service.
        index: u8,
        /// Its name.
        name: FdName,
        /// Whether it is given up once its other end is gone.
        watched: bool,
    },
    /// A descriptor is not kept, but closed. Once for each process and reason.
    DescriptorRefused {
        /// The process that left it.
        epoch: Epoch,
        /// Why.
        why: Reason,
    },
    /// A descriptor is not kept any more. (Those of a service that is [`Stopped`](Self::Stopped) go without a word.)
    DescriptorDropped {
        /// The record with which it was kept.
        stored: RecordId,
        /// Its name.
        name: FdName,
        /// Why.
        why: Reason,
    },
    /// The hardware timer came, went, or is refused.
    HardwareTimer {
        /// It.
        timer: Timer,
    },
    /// The hardware timer caused this boot. Opens an incident of the host: the incident's id is this record's.
    HardwareReset {
        /// The kernel's name of this boot.
        boot_id: String,
        /// What the timer said of it (`WDIOC_GETBOOTSTATUS`).
        boot_status: u32,
        /// The record of the decision that it followed from, if Hale had decided it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ordered: Option<RecordId>,
        /// The boot before, as far as the ledger has it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<PreviousBoot>,
    },
    /// A service that works is started anew before it reaches a bound, or would be.
    RestartPlanned(Box<before_limit::Decision>),
    /// Whether the guardian may let the timer reset the machine, or is told to.
    RebootDecided(Box<reboot::Decision>),
    /// The disk did not take the record of a decided reboot: it is not carried out.
    RebootNotDurable {
        /// The record of the decision.
        decided: RecordId,
        /// How long Hale waited for the disk.
        waited: Span,
    },
    /// Something about the generations of what it runs.
    Generation(Move),
    /// Something about the generations of its files.
    Files(Move),
    /// How its files were changed, or how what is kept as one of its generations differs from that.
    FilesChanged {
        /// Their state before.
        from: GenerationId,
        /// Their state now; none: they are no generation any more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<GenerationId>,
        /// In lines, without secrets.
        lines: Vec<String>,
    },
    /// A rule of Hale's own was broken. The service is only observed from here on.
    Violated {
        /// Which rule, and how.
        what: String,
    },
}

impl Body {
    /// Something about the generations of this part.
    #[must_use]
    pub fn of_part(part: Part, moved: Move) -> Self {
        match part {
            Part::Store => Self::Generation(moved),
            Part::Files => Self::Files(moved),
        }
    }

    /// What it says of generations, and of which part.
    #[must_use]
    #[expect(clippy::wildcard_enum_match_arm, reason = "only these two are about generations")]
    pub fn moved(&self) -> Option<(Part, &Move)> {
        match self {
            Self::Generation(moved) => Some((Part::Store, moved)),
            Self::Files(moved) => Some((Part::Files, moved)),
            _ => None,
        }
    }

    /// How well it must be kept.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Ordered { .. } | Self::HardwareReset { .. } => Class::Durable,
            Self::RebootDecided(decision) => match decision.choice.verdict {
                reboot::Verdict::Permit | reboot::Verdict::Reboot => Class::Durable,
                reboot::Verdict::Refuse => Class::State,
            },
            Self::Generation(moved) | Self::Files(moved) => moved.class(),
            Self::Output { .. }
            | Self::FilesChanged { .. }
            | Self::Examined { .. }
            | Self::OutputDropped { .. }
            | Self::ProbeLost { .. }
            | Self::ProbeUnable { .. } => Class::Evidence,
            Self::Began { .. }
            | Self::Reloaded(_)
            | Self::ReloadRefused { .. }
            | Self::Forgotten
            | Self::CheckUnproven { .. }
            | Self::Unconfirmed { .. }
            | Self::TookOver { .. }
            | Self::HostStalled { .. }
            | Self::Ending { .. }
            | Self::Blocked { .. }
            | Self::RunsBlocked { .. }
            | Self::Unblocked { .. }
            | Self::Dependency { .. }
            | Self::SpawnIntended { .. }
            | Self::Spawned { .. }
            | Self::Adopted { .. }
            | Self::SpawnFailed { .. }
            | Self::BecameReady { .. }
            | Self::CheckFailed { .. }
            | Self::CheckPassed { .. }
            | Self::BecameHealthy { .. }
            | Self::Detected { .. }
            | Self::Blamed(_)
            | Self::NotItsFault { .. }
            | Self::Traced { .. }
            | Self::Decided(_)
            | Self::RestartPlanned(_)
            | Self::Waits { .. }
            | Self::Exited { .. }
            | Self::OomKilled { .. }
            | Self::MemoryStalled { .. }
            | Self::MemoryRelieved { .. }
            | Self::StopIntended { .. }
            | Self::KillIntended { .. }
            | Self::Unkillable { .. }
            | Self::TreeGone { .. }
            | Self::BackingOff { .. }
            | Self::Held { .. }
            | Self::Stopped { .. }
            | Self::CountersForgotten
            | Self::Paused { .. }
            | Self::Resumed { .. }
            | Self::IncidentClosed { .. }
            | Self::CarriedOut { .. }
            | Self::OrderNotDurable { .. }
            | Self::HeartbeatPromised { .. }
            | Self::Extended { .. }
            | Self::DescriptorStored { .. }
            | Self::DescriptorRefused { .. }
            | Self::DescriptorDropped { .. }
            | Self::LedgerDegraded { .. }
            | Self::LedgerRecovered
            | Self::HardwareTimer { .. }
            | Self::RebootNotDurable { .. }
            | Self::Violated { .. } => Class::State,
        }
    }
}

/// From one policy to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// Who ordered it.
    pub actor: Actor,
    /// The policy before.
    pub from: PolicyHash,
    /// The one in force now.
    pub to: PolicyHash,
    /// What it changes.
    pub change: Listed,
}
