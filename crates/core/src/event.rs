//! What the host tells the core: the only way in.

use crate::analyze::blame::Controls;
use crate::analyze::stall::Stall;
use crate::analyze::trace::Trace;
use crate::descriptor::{FdName, Offer};
use crate::examination::Examination;
use crate::hardware::{Past, Timer};
use crate::ids::{Epoch, GenerationId, IncidentId, Name, ProbeId, RecordId, RequestId};
use crate::memory::{MemoryAtExit, MemoryReport, OomKills};
use crate::policy::{Policy, PolicyHash, Signal};
use crate::reason::Reason;
use crate::record::{Actor, OperatorOrder};
use crate::safeswitch::{Data, Part};
use crate::time::Span;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// One thing that happened. Probe results and clock readings are inputs that are never recorded themselves;
/// what the core concludes from them is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Whatever an earlier Hale left running is gone: services may be started.
    Begin,
    /// This supervisor takes over from one that was lost: what the guardian has of each service is told first of all.
    TakeOver {
        /// How the one before was lost.
        lost: Lost,
        /// The newest process that the guardian was ordered to make, for each service that it knows. With
        /// [`Lost::Guardian`] the host has first ended whatever the new guardian does not have, and tells what it does not
        /// know of a recorded process as [`Life::Over`].
        found: BTreeMap<Name, Found>,
    },
    /// The guardian wants to see that the loop turns.
    Challenged {
        /// Comes back in [`crate::effect::Order::Prove`].
        nonce: u64,
    },
    /// [`crate::world::World::next_deadline`] has come.
    Tick,
    /// The guardian made the process; its program is not executed yet.
    Spawned {
        /// Whose.
        service: Name,
        /// Which of its processes.
        epoch: Epoch,
        /// Who it is.
        process: Process,
    },
    /// The program was executed (execve(2) succeeded).
    Executed {
        /// Whose.
        service: Name,
        /// Which of its processes.
        epoch: Epoch,
    },
    /// The process could not be made, or not be set up; there is none now.
    SpawnFailed {
        /// Whose.
        service: Name,
        /// Which of its processes.
        epoch: Epoch,
        /// What went wrong.
        failure: SpawnFailure,
    },
    /// The main process was reaped. Exactly once for each `Spawned` that was not followed by `SpawnFailed`.
    Exited {
        /// Whose.
        service: Name,
        /// Which of its processes.
        epoch: Epoch,
        /// How it ended.
        status: ExitStatus,
        /// Whether nothing else of its tree is left.
        tree_empty: bool,
        /// What the kernel says of the tree's memory; `None` where it says nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        memory: Option<MemoryAtExit>,
    },
    /// The kernel's OOM killer took a process of the tree while the main one, as far as anybody knows, lives on.
    OomKilled {
        /// Whose.
        service: Name,
        /// Which of its processes was running.
        epoch: Epoch,
        /// How many it took, and why; more than were told before.
        kills: OomKills,
        /// What the kernel says of the tree's memory.
        memory: MemoryReport,
    },
    /// The tree waits for memory so much that it can hardly work ([`crate::analyze::stall::Stall`]). Said again every
    /// two seconds at least, and at most once a second, while that is so; that it is over is not said.
    MemoryStalled {
        /// Whose.
        service: Name,
        /// Which of its processes was running.
        epoch: Epoch,
        /// What the kernel says.
        stall: Stall,
    },
    /// After a signal or a kill: the main process was reaped and nothing of its tree is left.
    TreeEmpty {
        /// Whose.
        service: Name,
        /// Which of its processes.
        epoch: Epoch,
    },
    /// A probe ended. Exactly once for each [`crate::effect::Order::Probe`], unless it got lost. Of a dependency
    /// ([`crate::effect::Order::ProbeDependency`]) it has process 0.
    Probed {
        /// Whose.
        service: Name,
        /// Which of its processes was probed.
        epoch: Epoch,
        /// Which run.
        probe: ProbeId,
        /// What it found.
        outcome: ProbeOutcome,
    },
    /// A datagram of this service on its notify socket (sd_notify(3)); one event for each assignment.
    Notified {
        /// Whose.
        service: Name,
        /// Which of its processes was running.
        epoch: Epoch,
        /// What it said.
        notice: Notice,
    },
    /// The host does not have a descriptor any more that a service left.
    DescriptorGone {
        /// Whose.
        service: Name,
        /// Which.
        stored: RecordId,
        /// Why.
        why: Reason,
    },
    /// What was asked for by [`crate::effect::Order::Collect`].
    Collected {
        /// Whose.
        service: Name,
        /// Which of its processes.
        epoch: Epoch,
        /// For which incident.
        incident: IncidentId,
        /// The process's last lines of output, oldest first, escaped and bounded by the collector.
        lines: Vec<String>,
        /// The last exception in its output, if there is one, and how many lines were written after it.
        trace: Option<(Box<Trace>, u32)>,
    },
    /// What was asked for by [`crate::effect::Order::Examine`].
    Examined {
        /// Whose.
        service: Name,
        /// Which of its processes.
        epoch: Epoch,
        /// What it did; none: nothing could be read.
        found: Option<Box<Examination>>,
    },
    /// What was asked for by [`crate::effect::Order::Control`].
    Controlled {
        /// Which run.
        probe: ProbeId,
        /// What the control probes found.
        controls: Controls,
    },
    /// The keeper threw output away, above the rate or because the disk refused it.
    OutputDropped {
        /// Whose.
        service: Name,
        /// How much.
        bytes: u64,
    },
    /// What the store is switched to: the answer to [`crate::effect::Order::LookAtStore`], and told whenever it changes.
    GenerationSeen {
        /// Whose.
        service: Name,
        /// Of which part.
        part: Part,
        /// What.
        seen: Seen,
        /// What that says of the service's data.
        data: Data,
    },
    /// Somebody has changed files that belong to a service, with the [`GenerationSeen`](Self::GenerationSeen) that follows; or what is
    /// kept as one of its generations was found to be something else.
    FilesChanged {
        /// Whose.
        service: Name,
        /// Their state before.
        from: GenerationId,
        /// Their state now; none: they are no generation any more.
        to: Option<GenerationId>,
        /// How they differ, without secrets; escaped and bounded by the host.
        lines: Vec<String>,
    },
    /// What was asked for by [`crate::effect::Order::Switch`] is done, or is not.
    GenerationSwitched {
        /// Whose.
        service: Name,
        /// Of which part.
        part: Part,
        /// Which switch.
        switch: RecordId,
        /// What went wrong, if something did.
        error: Option<SwitchError>,
        /// What the store is switched to now.
        seen: Seen,
        /// What that says of the service's data, where it is another one than was asked for.
        data: Data,
    },
    /// What is to be switched to says something of the service's data, and its `before_switch` has run; it was not switched to.
    GenerationPrepared {
        /// Whose.
        service: Name,
        /// Of which part.
        part: Part,
        /// Which switch.
        switch: RecordId,
        /// What it says.
        data: Data,
    },
    /// What was asked for by [`crate::effect::Order::UndoData`] is done, or is not.
    DataUndone {
        /// Whose.
        service: Name,
        /// Of which part.
        part: Part,
        /// Which switch.
        switch: RecordId,
        /// What went wrong, if something did.
        error: Option<String>,
    },
    /// What was asked for by [`crate::effect::Order::Promote`] is done, or is not.
    GenerationPromoted {
        /// Whose.
        service: Name,
        /// Of which part.
        part: Part,
        /// Which switch.
        switch: RecordId,
        /// What went wrong, if something did.
        error: Option<String>,
    },
    /// A client asks or orders.
    Asked {
        /// For the answer.
        request: RequestId,
        /// What.
        question: Question,
    },
    /// All records up to this one are synced in the ledger.
    Durable {
        /// The newest of them.
        up_to: RecordId,
    },
    /// The ledger had no room for this record, which had to become durable: it never will, whatever is told of later ones.
    NotDurable {
        /// It.
        record: RecordId,
    },
    /// The ledger cannot be written at the moment; healing goes on.
    LedgerDegraded {
        /// The operating system's words.
        error: String,
    },
    /// The ledger can be written again.
    LedgerRecovered,
    /// The guardian tells of the hardware timer: at the supervisor's start and at each change.
    HardwareTimer {
        /// It.
        timer: Timer,
        /// Whether the guardian may stop petting it.
        may_reboot: bool,
        /// Whether it was ordered to.
        reboot: bool,
    },
    /// What ledger and kernel say of the boots before. Once.
    Past(Past),
    /// Everything is to be stopped, in order.
    End {
        /// Why.
        why: EndWhy,
    },
}

/// What a store is found to be switched to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// To this one; none: to nothing yet.
    Current(Option<GenerationId>),
    /// It could not be told.
    Unknown {
        /// In the store's words.
        error: String,
    },
}

/// Why a store did not switch, or not surely.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum SwitchError {
    /// What would be gone back to is not whole.
    NoWayBack {
        /// In the store's words.
        error: String,
    },
    /// What was to be switched to is gone, or not what it was: another try does not help.
    Unusable {
        /// In the store's words.
        error: String,
    },
    /// It cannot read the data that there is.
    DataMovedOn {
        /// The newest format of data that it can read.
        format: u32,
        /// The format of data that there is.
        at_least: u32,
    },
    /// Its `before_switch` failed, or its `hale-release.toml` cannot be read.
    Hook {
        /// Which, and how.
        error: String,
    },
    /// It failed.
    Failed {
        /// In the store's words.
        error: String,
    },
}

/// How the supervisor before this one was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum Lost {
    /// It ended by itself, or somebody killed it.
    Ended {
        /// How.
        status: ExitStatus,
    },
    /// It did not prove progress in time, so the guardian killed it.
    NoProgress {
        /// What the kernel said of its main thread before that (proc_pid_stat(5), proc_pid_wchan(5), proc_pid_syscall(5)).
        evidence: String,
    },
    /// It ended with its guardian, which was lost: a new one has what the init system kept.
    Guardian,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended { status } => write!(f, "the supervisor {status}"),
            Self::NoProgress { evidence } => write!(f, "the supervisor made no progress ({evidence})"),
            Self::Guardian => f.write_str("the guardian was lost"),
        }
    }
}

/// What the guardian has of a service when a supervisor takes over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The newest process that it was ordered to make.
    pub epoch: Epoch,
    /// What became of that one.
    pub life: Life,
    /// Whether nothing of its tree is left.
    pub tree_empty: bool,
}

/// What became of an ordered process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// It was reaped, and that was acknowledged; or a new guardian does not know it.
    Over,
    /// It lives.
    Running {
        /// Who it is.
        process: Process,
        /// Whether its program was executed.
        executed: bool,
    },
    /// It was reaped, and nobody has acknowledged that.
    Ended {
        /// Its process id, for people.
        pid: i32,
        /// How it ended.
        status: ExitStatus,
        /// What the kernel says of the tree's memory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        memory: Option<MemoryAtExit>,
    },
    /// It could not be made or set up, and nobody has acknowledged that.
    NotMade {
        /// What went wrong.
        failure: SpawnFailure,
    },
}

/// What identifies a process: never a bare pid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot (proc_pid_stat(5), field 22).
    pub start_ticks: u64,
    /// Inode of its pidfd, unique within a boot (Linux 6.9 and later), else 0.
    pub pidfd_inode: u64,
    /// Its cgroup's path below the cgroup2 mount; `None` where Hale has no writable cgroup v2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
}

/// Why a process could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnFailure {
    /// The step of the set-up that failed, e.g. `exec` or `directory`.
    pub step: String,
    /// The path that it was about, if any.
    pub path: String,
    /// errno(3); 0: it was not the kernel that refused.
    pub errno: i32,
    /// The errno in words.
    pub error: String,
}

/// `exec /srv/bot/bin/bot: No such file or directory (errno 2)`.
impl fmt::Display for SpawnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.step)?;
        if !self.path.is_empty() {
            write!(f, " {}", self.path)?;
        }
        write!(f, ": {}", self.error)?;
        match self.errno {
            0 => Ok(()),
            errno => write!(f, " (errno {errno})"),
        }
    }
}

/// How a process ended (waitid(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It exited with this status, 0 to 255.
    Code(i32),
    /// It was ended by a signal.
    Signal {
        /// Which.
        signal: Signal,
        /// Whether the kernel dumped core.
        core_dumped: bool,
    },
    /// Nobody knows any more: the guardian that started it was gone, and the kernel tells no other how it ended (Linux before
    /// 6.15); or it was told to a supervisor whose records are lost.
    Unknown,
}

impl ExitStatus {
    /// Exit status 0.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with status {code}"),
            Self::Signal { signal, core_dumped: false } => write!(f, "was ended by {signal}"),
            Self::Signal { signal, core_dumped: true } => write!(f, "was ended by {signal} and dumped core"),
            Self::Unknown => f.write_str("ended, and nobody knows how: who was told, or would have been, is gone"),
        }
    }
}

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeOutcome {
    /// From the start of the probe to its end.
    pub took_us: u64,
    /// `None`: it passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ProbeFailure>,
    /// One line for people: what was answered, or what went wrong; bounded and escaped by the prober.
    pub detail: String,
    /// What was measured, of a check whose figure is followed: bytes of memory, or descriptors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figure: Option<u64>,
    /// How long Hale itself was late while the probe ran: it should have looked, and the machine did not let it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub late_us: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// In which way a probe failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeFailure {
    /// No answer in time.
    Timeout,
    /// No answer in time, and the probe itself did not end by itself and was killed.
    Killed,
    /// The right answer, but later than `faster_than`.
    Slow,
    /// A wrong answer, or none because it was refused; for a check with a bound: beyond it.
    Wrong,
    /// The figure that a bound is for could not be had: refused, or not in the right form.
    Refused,
    /// The machine itself has no way to the other end, or does not let Hale go there.
    Unreachable,
    /// The name of the other end could not be looked up. It says nothing about a service; a dependency cannot be reached by
    /// services either.
    Unresolved,
    /// The probe could not be run: Hale or its host was short of something. It says nothing about the service.
    Unable,
}

/// What a service says on its notify socket (sd_notify(3)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// `READY=1`.
    Ready,
    /// `WATCHDOG=1`.
    Heartbeat,
    /// `WATCHDOG=trigger`: it knows itself that it does not work.
    HeartbeatTrigger,
    /// `WATCHDOG_USEC`: the time between two heartbeats, for this process.
    HeartbeatWithin(Span),
    /// `EXTEND_TIMEOUT_USEC`: start or stop may last this long from now on.
    ExtendTimeout(Span),
    /// `STATUS`, bounded and escaped by the receiver.
    Status(String),
    /// `FDSTORE=1`, once for each descriptor that came along.
    Store(Offer),
    /// `FDSTORE=1`, or `FDSTOREREMOVE=1`, with something that cannot be.
    NotStored {
        /// Why.
        why: Reason,
    },
    /// `FDSTOREREMOVE=1`: all that have this name.
    Unstore {
        /// `FDNAME`.
        name: FdName,
    },
}

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// The state of one service or of all.
    Status {
        /// Only this one.
        service: Option<Name>,
    },
    /// What is known of the generations of one service.
    Generations {
        /// Whose.
        service: Name,
    },
    /// An operator's order.
    Order {
        /// Who, as the socket says.
        actor: Actor,
        /// What.
        order: OperatorOrder,
        /// Whether the answer comes at its end, or once it is given: a refusal comes in both cases.
        waits: bool,
    },
    /// The configuration was read again, because somebody ordered that.
    Reload {
        /// Who.
        actor: Actor,
        /// What it says.
        reading: Reading,
    },
}

/// A configuration as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// It is valid, and the host has kept it for the next supervisor.
    Valid {
        /// It.
        policy: Box<Policy>,
        /// Its hash.
        hash: PolicyHash,
    },
    /// It is not in force, and will not be.
    Refused {
        /// Why.
        why: Reason,
    },
}

/// Why Hale ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndWhy {
    /// A signal to `hale run`.
    Signal(Signal),
}

impl fmt::Display for EndWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) => write!(f, "Hale got {signal}"),
        }
    }
}

impl Event {
    /// The service it is about, if it is about one.
    #[must_use]
    pub fn service(&self) -> Option<&Name> {
        match self {
            Self::Spawned { service, .. }
            | Self::Executed { service, .. }
            | Self::SpawnFailed { service, .. }
            | Self::Exited { service, .. }
            | Self::TreeEmpty { service, .. }
            | Self::OomKilled { service, .. }
            | Self::MemoryStalled { service, .. }
            | Self::Probed { service, .. }
            | Self::Notified { service, .. }
            | Self::DescriptorGone { service, .. }
            | Self::Collected { service, .. }
            | Self::Examined { service, .. }
            | Self::OutputDropped { service, .. }
            | Self::GenerationSeen { service, .. }
            | Self::FilesChanged { service, .. }
            | Self::GenerationSwitched { service, .. }
            | Self::GenerationPrepared { service, .. }
            | Self::DataUndone { service, .. }
            | Self::GenerationPromoted { service, .. } => Some(service),
            Self::Begin
            | Self::TakeOver { .. }
            | Self::Challenged { .. }
            | Self::Tick
            | Self::Asked { .. }
            | Self::Controlled { .. }
            | Self::Durable { .. }
            | Self::NotDurable { .. }
            | Self::LedgerDegraded { .. }
            | Self::LedgerRecovered
            | Self::HardwareTimer { .. }
            | Self::Past(_)
            | Self::End { .. } => None,
        }
    }
}
