//! What the core orders: complete, fenced, and in the order in which it must happen.

use crate::descriptor::Stored;
use crate::ids::{EffectId, Epoch, GenerationId, IncidentId, Name, OfferId, ProbeId, RecordId, RequestId};
use crate::policy::{DependencyPolicy, Policy, ServicePolicy, Signal};
use crate::record::Refusal;
use crate::safeswitch::Part;
use crate::status::{GenerationsReport, StatusReport};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// One order to the host. The executor has no choice left, and answers with events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// For the log.
    pub id: EffectId,
    /// On what it acts. An executor refuses one whose epoch is not the service's newest, unless it only reads or
    /// acknowledges ([`Order::acts`]).
    pub fence: Fence,
    /// What to do.
    pub order: Order,
}

/// On what an effect acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fence {
    /// On one process of one service, and on none that follows it.
    Service {
        /// Whose.
        service: Name,
        /// Which of its processes.
        epoch: Epoch,
    },
    /// On no service.
    Host,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Make the process. Not idempotent: done at most once, because its epoch is used up by it. Answered by
    /// `Spawned` and `Executed`, or `SpawnFailed`.
    Spawn {
        /// All that the process needs.
        policy: Arc<ServicePolicy>,
        /// What it gets of what earlier processes left, in this order, behind the sockets of the policy.
        stored: Vec<Stored>,
        /// Of which generation it is; none: it has none.
        generation: Option<GenerationId>,
    },
    /// Look which generation is switched to. Idempotent. Answered by `GenerationSeen`.
    LookAtStore {
        /// At which.
        part: Part,
    },
    /// Make sure that `to` is whole, and the way back too, and switch. Idempotent. Answered by `GenerationSwitched`, or, where `to` is new,
    /// not prepared, and says something of the service's data, by `GenerationPrepared` once its `before_switch` has run. The switch
    /// fences it: an executor refuses one that is older than the newest that it knows.
    Switch {
        /// Of which part.
        part: Part,
        /// Which switch.
        switch: RecordId,
        /// To what.
        to: GenerationId,
        /// What must be whole first; none: nothing.
        back: Option<GenerationId>,
        /// What may be there: anything else was switched to by somebody else meanwhile, and stays.
        over: Vec<GenerationId>,
        /// Whether it was switched to before.
        towards: Towards,
        /// The oldest format of data that it may be of.
        data_at_least: u32,
        /// Whether its `before_switch` has run.
        prepared: bool,
    },
    /// Run the `after_rollback` of what was gone back from. Idempotent as far as that is: after a crash it runs again. Answered by
    /// `DataUndone`.
    UndoData {
        /// Of which part.
        part: Part,
        /// Which switch.
        switch: RecordId,
        /// Whose it is.
        of: GenerationId,
        /// What is switched to now.
        to: GenerationId,
        /// What its `before_switch` has printed.
        snapshot: Option<String>,
    },
    /// What was switched to stays: finish whatever the store has to for that. Idempotent. Answered by `GenerationPromoted`.
    Promote {
        /// Of which part.
        part: Part,
        /// Which switch.
        switch: RecordId,
        /// What.
        generation: GenerationId,
    },
    /// Of all generations keep these, and the newest others up to this number. Idempotent.
    Retain {
        /// Of which part.
        part: Part,
        /// Never removed.
        needed: Vec<GenerationId>,
        /// How many there may be in all.
        keep: u32,
    },
    /// Keep an offered descriptor for the service's next processes. Idempotent: the second finds no offer. Whatever it
    /// concerns outlives processes, so that no epoch fences it; places are used again only after [`Unstore`](Self::Unstore).
    Store {
        /// The descriptor.
        offer: OfferId,
        /// Where.
        stored: Stored,
    },
    /// Keep it no longer. Idempotent.
    Unstore {
        /// Its place.
        index: u8,
    },
    /// Send a signal to every process of the tree; from then on report `TreeEmpty`. Idempotent as signals are.
    Signal {
        /// Which.
        signal: Signal,
    },
    /// SIGKILL every process of the tree, and those that appear meanwhile; report `TreeEmpty`. Idempotent.
    Kill,
    /// Run one check once. Idempotent as far as the check is. Answered by `Probed` within its timeout and a
    /// little.
    Probe {
        /// For the answer.
        probe: ProbeId,
        /// Which of the policy's checks.
        check: usize,
        /// Where the check stands.
        policy: Arc<ServicePolicy>,
        /// Time that was counted before counts no longer: the service is ready only now, or what it depends on was down.
        anew: bool,
    },
    /// Run one check of a dependency once. Idempotent as far as the check is. Answered as [`Probe`](Self::Probe) is, with
    /// the dependency's name and process 0.
    ProbeDependency {
        /// Which.
        dependency: Name,
        /// For the answer.
        probe: ProbeId,
        /// Which of the policy's checks.
        check: usize,
        /// Where the check stands.
        policy: Arc<DependencyPolicy>,
    },
    /// Read the last lines of output of the ended or failing process, which may have a successor by now. Idempotent.
    /// Answered by `Collected`, or not at all.
    Collect {
        /// For the answer.
        incident: IncidentId,
        /// At most so many lines.
        lines: usize,
    },
    /// Find out what the process, and all of its tree, is doing. Idempotent. Answered by `Examined` within
    /// [`crate::examination::EXAMINED_WITHIN`], or not at all: nobody waits for longer.
    Examine,
    /// Make the control probes. Idempotent. Answered by `Controlled` within
    /// [`crate::analyze::blame::CONTROLLED_WITHIN`], or not at all: nobody waits for longer.
    Control {
        /// For the answer.
        probe: ProbeId,
    },
    /// The end of the process, or that it could not be started, is on record: the guardian may forget it. Idempotent.
    AckExit,
    /// Answer a client. Idempotent: the second answer finds nobody.
    Reply {
        /// Whom.
        request: RequestId,
        /// What.
        answer: Answer,
    },
    /// Show the guardian that the loop turns. Idempotent.
    Prove {
        /// As it came in [`crate::event::Event::Challenged`].
        nonce: u64,
    },
    /// Tell the guardian whether it may stop petting the hardware timer when it has a reason to. Idempotent.
    MayReboot {
        /// Whether.
        allowed: bool,
    },
    /// Tell it to: the machine is reset. Idempotent.
    Reboot,
    /// This policy is in force: new services have places from now on, and limits and logs of the others are as it says.
    /// Idempotent.
    Adapt {
        /// It.
        policy: Box<Policy>,
    },
    /// The service has left, and nothing of it is left: what was made for it may go. Idempotent.
    Forget,
    /// Nothing runs any more: end.
    EndDone,
}

impl Order {
    /// Whether it is about one process, so that it must never reach a later one.
    #[must_use]
    pub fn acts(&self) -> bool {
        match self {
            // What a later process does says nothing of this one.
            Self::Examine
            | Self::Spawn { .. }
            | Self::Signal { .. }
            | Self::Kill
            | Self::Probe { .. }
            | Self::Forget => true,
            Self::Collect { .. }
            | Self::AckExit
            | Self::Control { .. }
            | Self::ProbeDependency { .. }
            | Self::Store { .. }
            | Self::Unstore { .. }
            // Of no process; a switch has a fence of its own.
            | Self::LookAtStore { .. }
            | Self::Switch { .. }
            | Self::UndoData { .. }
            | Self::Promote { .. }
            | Self::Retain { .. }
            | Self::Reply { .. }
            | Self::Prove { .. }
            | Self::MayReboot { .. }
            | Self::Reboot
            | Self::Adapt { .. }
            | Self::EndDone => false,
        }
    }
}

/// In which direction a store switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Towards {
    /// To something new.
    New,
    /// To something that was switched to before.
    Back,
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`crate::event::Question::Status`].
    Status(Box<StatusReport>),
    /// The order is carried out.
    Done {
        /// In a sentence.
        text: String,
    },
    /// The order was carried out and did not lead where it should.
    Failed {
        /// In a sentence.
        text: String,
    },
    /// The change did not work, and what was there before works again.
    RolledBack {
        /// In a sentence.
        text: String,
    },
    /// Another order of the kind is being carried out.
    Busy {
        /// In a sentence.
        text: String,
    },
    /// To [`crate::event::Question::Generations`].
    Generations(Box<GenerationsReport>),
    /// The order is refused.
    Refused(Refusal),
    /// There is no such service.
    Unknown {
        /// The name asked for.
        service: String,
    },
}
