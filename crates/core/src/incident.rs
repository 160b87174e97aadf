//! Incidents: one story from the first failure that counts to its outcome, told from records alone.

use crate::analyze::blame::Judgement;
use crate::analyze::stall::Stall;
use crate::analyze::trace::Trace;
use crate::event::ExitStatus;
use crate::examination::Examination;
use crate::ids::{IncidentId, Name, RecordId};
use crate::memory::MemoryReport;
use crate::plan::{before_limit, ladder, reboot};
use crate::policy::Mode;
use crate::reason::Reason;
use crate::record::{Body, Record};
use crate::safeswitch::{End, Move, Part};
use crate::time::{Now, Span};
use crate::world::dependency::DependencyEdge;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// What kind of failure it was. A service killed by Hale keeps the cause that it was killed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It exited by itself.
    Exit,
    /// A signal ended it.
    Signal,
    /// The kernel killed it for memory.
    Oom,
    /// It did not answer in time.
    Hang,
    /// It answered rightly, and too late.
    Slow,
    /// It answered wrongly, or refused to.
    Check,
    /// It had too much memory; or it did not answer, or too late, while the kernel said that it waited for memory.
    Memory,
    /// It took too much of the processor.
    Cpu,
    /// One of its processes had too many descriptors.
    OpenFiles,
    /// None of its processes listened where it should.
    Listen,
    /// A figure among its metrics was beyond its bound.
    Metric,
    /// It sent no heartbeat.
    NoHeartbeat,
    /// It got no further with its work.
    NoProgress,
    /// Its event loop was late.
    LoopLag,
    /// It did not become ready in time.
    StartTimeout,
    /// It could not be started.
    Spawn,
    /// It survived SIGKILL.
    Unkillable,
    /// It failed while what it starts after was down.
    Dependency,
    /// The hardware timer reset the machine.
    Reset,
}

impl Cause {
    /// All of them, for tables.
    pub const ALL: [Self; 19] = [
        Self::Exit,
        Self::Signal,
        Self::Oom,
        Self::Hang,
        Self::Slow,
        Self::Check,
        Self::Memory,
        Self::Cpu,
        Self::OpenFiles,
        Self::Listen,
        Self::Metric,
        Self::NoHeartbeat,
        Self::NoProgress,
        Self::LoopLag,
        Self::StartTimeout,
        Self::Spawn,
        Self::Unkillable,
        Self::Dependency,
        Self::Reset,
    ];

    /// Its name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::Oom => "oom",
            Self::Hang => "hang",
            Self::Slow => "slow",
            Self::Check => "check",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::OpenFiles => "open_files",
            Self::Listen => "listen",
            Self::Metric => "metric",
            Self::NoHeartbeat => "no_heartbeat",
            Self::NoProgress => "no_progress",
            Self::LoopLag => "loop_lag",
            Self::StartTimeout => "start_timeout",
            Self::Spawn => "spawn",
            Self::Unkillable => "unkillable",
            Self::Dependency => "dependency",
            Self::Reset => "reset",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The cause that the end of a process is.
#[must_use]
pub fn cause_of_exit(status: ExitStatus) -> Cause {
    match status {
        ExitStatus::Code(_) | ExitStatus::Unknown => Cause::Exit,
        ExitStatus::Signal { .. } => Cause::Signal,
    }
}

/// Whose fault it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// Something that the service depends on.
    Dependency,
    /// The machine.
    Host,
    /// The service itself.
    Service,
    /// A change of it.
    Change,
    /// Hale's own way to look at it.
    Probe,
    /// It could not be told.
    Unknown,
}

impl Blame {
    /// Its name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dependency => "dependency",
            Self::Host => "host",
            Self::Service => "service",
            Self::Change => "change",
            Self::Probe => "probe",
            Self::Unknown => "unknown",
        }
    }

    /// As the beginning of a sentence.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Dependency => "the fault is that of what it depends on",
            Self::Host => "the fault is the machine's",
            Self::Service => "the fault is its own",
            Self::Change => "the fault is that of a change",
            Self::Probe => "the fault is Hale's own probing",
            Self::Unknown => "whose fault it is cannot be told",
        }
    }
}

/// How an incident ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It goes on.
    Open,
    /// All checks pass again.
    Recovered,
    /// Quick restarts were given up; retried slowly.
    Held,
    /// The newest change was taken back, and all checks pass again.
    RolledBack,
    /// The machine was reset.
    Rebooted,
    /// What the service depends on came back, and all checks pass again: nothing was done about the service. Or what was known to
    /// be good failed in the same way.
    Environmental,
    /// An operator, or the end of Hale, stopped it.
    Stopped,
    /// Hale only watched.
    Observed,
}

impl Outcome {
    /// Its name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Recovered => "recovered",
            Self::Held => "held",
            Self::RolledBack => "rolled_back",
            Self::Rebooted => "rebooted",
            Self::Environmental => "environmental",
            Self::Stopped => "stopped",
            Self::Observed => "observed",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One incident as every surface shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    /// Its number: the id of the record that opened it.
    pub id: IncidentId,
    /// Whose; `None`: the host's own.
    pub service: Option<Name>,
    /// What kind of failure.
    pub cause: Cause,
    /// Whose fault.
    pub blame: Blame,
    /// When it was detected.
    pub opened: Now,
    /// When it was over.
    pub closed: Option<Now>,
    /// How it ended, so far.
    pub outcome: Outcome,
    /// From the detection to all checks passing.
    pub recovery_us: Option<u64>,
    /// From the last good sign to the next.
    pub down_us: Option<u64>,
    /// What happened, in order.
    pub timeline: Vec<Entry>,
    /// The last lines of output of the process that failed first.
    pub output: Vec<String>,
    /// What the kernel said of the tree's memory while the process that failed first waited for it, or at its end.
    pub memory: Option<MemoryReport>,
    /// What that process was doing when it was found not to work.
    pub examination: Option<Examination>,
    /// The first exception that was found in the output of a process that failed.
    pub exception: Option<Trace>,
    /// The last records of the boot before, where the machine was reset.
    pub records_before: Vec<RecordId>,
}

/// One line of a story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Since the detection.
    pub after: Span,
    /// What happened.
    pub what: String,
    /// Why, where something was decided.
    pub why: Option<String>,
}

/// Tells the story of one incident from its records, in their order.
///
/// `None` when the first of them does not open an incident.
#[must_use]
pub fn tell<'a>(records: impl IntoIterator<Item = &'a Record>) -> Option<Story> {
    let mut records = records.into_iter();
    let mut story = records.find_map(open)?;
    for record in records {
        story.follow(record);
    }
    Some(story)
}

/// The story that a record opens.
fn open(record: &Record) -> Option<Story> {
    let id = record.incident?;
    let (cause, blame, what, why, memory, records_before) =
        if let Body::Detected { cause, finding, stall, .. } = &record.body {
            record.service.as_ref()?;
            let (what, why) = line(&record.body)?;
            let memory = finding.memory().or(stall.as_ref().map(Stall::report));
            let blame = if *cause == Cause::Dependency { Blame::Dependency } else { Blame::Unknown };
            (*cause, blame, what, why, memory, Vec::new())
        } else if let Body::HardwareReset { previous, .. } = &record.body {
            let (what, why) = line(&record.body)?;
            let last = previous.as_ref().map(|previous| previous.last.clone());
            (Cause::Reset, Blame::Host, what, why, None, last.unwrap_or_default())
        } else {
            return None;
        };
    Some(Story {
        id,
        service: record.service.clone(),
        cause,
        blame,
        opened: record.at,
        closed: None,
        outcome: Outcome::Open,
        recovery_us: None,
        down_us: None,
        timeline: alloc::vec![Entry { after: Span::ZERO, what, why }],
        output: Vec::new(),
        memory,
        examination: None,
        exception: None,
        records_before,
    })
}

impl Story {
    /// Adds what one record says.
    fn follow(&mut self, record: &Record) {
        if let Body::Output { lines } = &record.body {
            if self.output.is_empty() {
                self.output.clone_from(lines);
            }
        } else if let Body::Traced { trace, .. } = &record.body {
            self.exception.get_or_insert_with(|| (**trace).clone());
        } else if let Body::Examined { found, .. } = &record.body {
            self.examination.get_or_insert_with(|| (**found).clone());
        } else if let Body::Exited { memory, .. } = &record.body {
            self.memory = self.memory.or(memory.map(|at_exit| at_exit.report));
        } else if let Body::Blamed(decision) = &record.body {
            if self.blame == Blame::Unknown {
                self.blame = decision.judgement.blame;
            }
        } else if let Body::Held { .. } = &record.body {
            self.outcome = Outcome::Held;
        } else if let Body::Detected { cause: Cause::Unkillable, .. } = &record.body {
            self.cause = Cause::Unkillable;
        } else if let Body::Decided(decision) = &record.body {
            if decision.choice.verdict == ladder::Verdict::Observe {
                self.outcome = Outcome::Observed;
            }
        } else if let Some((_, Move::Ended { end: End::RolledBack { why }, .. })) = record.body.moved() {
            // Proven by experiment: without the change it works.
            if let Reason::OnProbation { .. } | Reason::NewestChange { .. } = why {
                self.blame = Blame::Change;
            }
        } else if let Body::IncidentClosed { outcome, recovery_us, down_us, .. } = &record.body {
            self.closed = Some(record.at);
            self.outcome = *outcome;
            (self.recovery_us, self.down_us) = (*recovery_us, *down_us);
        }
        let after = record.at.mono.since(self.opened.mono);
        if let Some((what, why)) = line(&record.body) {
            self.timeline.push(Entry { after, what, why });
        }
    }
}

/// What a decision does, after "to".
fn deed(verdict: &ladder::Verdict) -> String {
    match verdict {
        ladder::Verdict::Observe => String::from("do nothing"),
        ladder::Verdict::Wait => String::from("leave it as it is"),
        ladder::Verdict::Restart { delay: Span::ZERO } => String::from("restart it at once"),
        ladder::Verdict::Restart { delay } => format!("restart it in {delay}"),
        ladder::Verdict::TakeBack { part: Part::Store, to } => format!("go back to {}", to.short()),
        ladder::Verdict::PutBack { part: Part::Store, to } => format!("go forward again to {}", to.short()),
        ladder::Verdict::TakeBack { part: Part::Files, to } => format!("put its files back as in {}", to.short()),
        ladder::Verdict::PutBack { part: Part::Files, to } => {
            format!("put its changed files back as in {}", to.short())
        }
        ladder::Verdict::Hold { delay, .. } => format!("hold it and to try again in {delay}"),
    }
}

/// `3 times in a row`.
pub(crate) fn in_a_row(failures: u32) -> String {
    if failures == 1 { String::from("once") } else { format!("{failures} times in a row") }
}

/// One line of a story: what happened, and why where something was decided. `None`: not worth a line.
#[must_use]
pub fn line(body: &Body) -> Option<(String, Option<String>)> {
    let plain = |what: String| Some((what, None));
    let because = |what: String, why: &dyn fmt::Display| Some((what, Some(why.to_string())));
    match body {
        Body::Detected { finding, stall: None, blocked: Some(on), .. } => {
            plain(format!("detected while {on} is down: {finding}"))
        }
        Body::Detected { finding, stall: None, .. } => plain(format!("detected: {finding}")),
        Body::Detected { finding, stall: Some(stall), .. } => plain(format!("detected: {finding}; {stall}")),
        Body::Decided(decision) => {
            let choice = &decision.choice;
            let what = format!("decided to {}", deed(&choice.verdict));
            let mut why = choice.reason.to_string();
            if choice.reason == Reason::ObserveMode {
                // The record has all values that the rule reads.
                let would = ladder::decide(&ladder::Read { mode: Mode::Heal, ..decision.read.clone() });
                why.push_str(&format!(
                    "; with mode \"heal\" it would {}, because {}",
                    deed(&would.verdict),
                    would.reason
                ));
            }
            if choice.rung != ladder::Rung::Wait {
                for refused in &choice.refused {
                    why.push_str(&format!("; {} refused: {}", rung_words(refused.rung), refused.reason));
                }
            }
            Some((what, Some(why)))
        }
        Body::Blamed(decision) => {
            let Judgement { blame, reason, .. } = &decision.judgement;
            because(String::from(blame.words()), reason)
        }
        Body::NotItsFault { check, judged, .. } => {
            let Judgement { blame, reason, .. } = &judged.judgement;
            let what =
                check.as_ref().map_or(String::from("its start takes too long"), |check| format!("check {check} fails"));
            because(format!("{what}, and nothing is done: {}", blame.words()), reason)
        }
        Body::Generation(moved) => crate::safeswitch::words::line(Part::Store, moved),
        Body::FilesChanged { to: Some(_), lines, .. } => {
            plain(format!("its files were changed: {}", lines.join(" | ")))
        }
        Body::FilesChanged { from, to: None, lines } => {
            plain(format!("what is kept as {} is no way back: {}", from.short(), lines.join(" | ")))
        }
        Body::Files(moved) => crate::safeswitch::words::line(Part::Files, moved),
        Body::Waits { why } => because(String::from("waits"), why),
        Body::Blocked { on } => plain(format!("waits for {on} to be ready")),
        Body::RunsBlocked { on, .. } => plain(format!("blocked: {on} is down, and it is left as it is")),
        Body::Unblocked { on } => plain(format!("no longer blocked: {on} is up, and its failures are forgotten")),
        Body::Dependency { name, edge: DependencyEdge::Up } => plain(format!("dependency {name} is up")),
        Body::Dependency { name, edge: DependencyEdge::Down { check, failures, detail, .. } } => {
            plain(format!("dependency {name} is down: check {check} failed {}: {detail}", in_a_row(*failures)))
        }
        Body::SpawnIntended { .. } => None,
        Body::Adopted { process, .. } => plain(format!("found pid {} running, which no record knew", process.pid)),
        Body::Spawned { process, .. } => plain(format!("started pid {}", process.pid)),
        Body::SpawnFailed { .. } => None,
        Body::BecameReady { by, .. } => plain(String::from(match by {
            crate::policy::Ready::Running => "ready: its program runs",
            crate::policy::Ready::Notify => "ready: it said READY=1",
            crate::policy::Ready::Check => "ready: its checks pass",
        })),
        Body::CheckFailed { check, failures, of, detail, .. } => {
            plain(format!("check {check} failed, {failures} of {of}: {detail}"))
        }
        Body::CheckPassed { check, took_us, .. } => {
            plain(format!("check {check} passed in {}", Span::from_us(*took_us)))
        }
        Body::BecameHealthy { .. } => None,
        // What nobody asked for is told by the detection that follows.
        Body::Exited { asked: false, .. } => None,
        Body::Exited { status, tree_empty: true, .. } => plain(format!("the process {status}")),
        Body::Exited { status, tree_empty: false, .. } => plain(format!("the process {status} and left others behind")),
        Body::OomKilled { kills, memory, .. } => plain(format!("{}: {}", kills.words(), kills.why(memory))),
        Body::MemoryStalled { stall, .. } => plain(stall.to_string()),
        Body::MemoryRelieved { after, .. } => plain(format!("waits for memory no longer, after {after}")),
        Body::StopIntended { signal, grace, why, .. } => {
            because(format!("sent {signal} to all of it, {grace} to end"), why)
        }
        Body::Examined { found, .. } => plain(format!("found what it was doing: {found}")),
        Body::KillIntended { why, .. } => because(String::from("killed all of it (SIGKILL)"), why),
        Body::Unkillable { .. } => None,
        Body::TreeGone { .. } => plain(String::from("all of its processes are gone")),
        Body::BackingOff { .. } => None,
        Body::Paused { actor, lasts, .. } => because(
            format!("paused for {lasts}: watched, and nothing is done"),
            &Reason::Ordered { actor: actor.clone() },
        ),
        Body::Resumed { why } => because(String::from("healed again"), why),
        Body::Held { tries: 0, .. } => plain(String::from("held: quick restarts are given up")),
        Body::Held { tries, .. } => plain(format!("held still, after try {tries}")),
        Body::Stopped { why } => because(String::from("stopped"), why),
        Body::IncidentClosed { outcome: Outcome::Recovered, recovery_us, checks, .. } => {
            let proof = if *checks > 0 { "all checks pass" } else { "its program runs, and it has no checks" };
            let took = recovery_us.map(|us| format!(" in {}", Span::from_us(us))).unwrap_or_default();
            plain(format!("{proof}: recovered{took}"))
        }
        Body::IncidentClosed { outcome: Outcome::RolledBack, recovery_us, .. } => {
            let took = recovery_us.map(|us| format!(" in {}", Span::from_us(us))).unwrap_or_default();
            plain(format!("what was good works again: rolled back{took}"))
        }
        Body::IncidentClosed { outcome: Outcome::Environmental, .. } => {
            plain(String::from("it works again by itself: the cause was elsewhere"))
        }
        Body::IncidentClosed { outcome, .. } => plain(format!("closed: {outcome}")),
        Body::Ordered { actor, order, .. } => because(order_words(order), &format!("{actor} ordered it")),
        Body::OrderNotDurable { waited, .. } => plain(format!(
            "carried out an order that may not be in the ledger: the disk had not taken it after {waited}"
        )),
        Body::Traced { trace, .. } => plain(format!(
            "its last output has an exception: {trace} ({}), fingerprint {}",
            trace.runtime, trace.fingerprint
        )),
        Body::OutputDropped { bytes } => plain(format!("dropped {bytes} bytes of output")),
        Body::ProbeLost { check, .. } => {
            plain(format!("a probe of check {check} never came back; it counts neither way"))
        }
        Body::ProbeUnable { check, detail, .. } => {
            plain(format!("could not probe check {check}; it counts neither way: {detail}"))
        }
        Body::Violated { what } => plain(format!("Hale broke a rule of its own and only observes from here: {what}")),
        Body::DescriptorRefused { why, .. } => because(String::from("did not keep a descriptor that it left"), why),
        Body::DescriptorDropped { name, why: why @ Reason::DescriptorLost, .. } => {
            because(format!("keeps no longer the descriptor {:?} that it left", name.as_str()), why)
        }
        Body::Extended { .. } => plain(String::from("it has more time to start or to stop")),
        Body::HardwareTimer { timer } => plain(timer.to_string()),
        Body::HardwareReset { boot_status, ordered, .. } => {
            let why = match ordered {
                Some(record) => format!("Hale had decided it (record {record})"),
                None => String::from("nobody petted the timer: the machine, or Hale's guardian, was dead or hung"),
            };
            Some((format!("the hardware timer reset the machine (boot status {boot_status:#x})"), Some(why)))
        }
        Body::RestartPlanned(decision) => {
            let before_limit::Decision { read, reaches, verdict, .. } = &**decision;
            let what = match verdict {
                before_limit::Verdict::Restart => "decided to start it anew while it works",
                before_limit::Verdict::Observe => "would start it anew while it works, and only observes",
            };
            because(String::from(what), &Reason::BeforeLimit { check: read.check.clone(), reaches: *reaches })
        }
        Body::RebootDecided(decision) => {
            let what = match (decision.choice.verdict, &decision.read.asked) {
                (reboot::Verdict::Refuse, reboot::Asked::Permission) => {
                    "rebooting by the hardware timer is refused from here on"
                }
                (reboot::Verdict::Refuse, reboot::Asked::Failed { .. }) => "rebooting by the hardware timer is refused",
                (reboot::Verdict::Permit, _) => {
                    "the guardian may reboot by the hardware timer when nothing else is left"
                }
                (reboot::Verdict::Reboot, _) => "decided to reboot by the hardware timer",
            };
            because(String::from(what), &decision.choice.reason)
        }
        Body::RebootNotDurable { waited, .. } => {
            because(format!("did not reboot, after {waited}"), &Reason::NoDurableRecord)
        }
        Body::CheckUnproven { check, detail, .. } => {
            plain(format!("check {check}, which is new or changed, has not passed yet and does not count: {detail}"))
        }
        Body::Reloaded(reload) => because(
            format!("another configuration is in force: {}", reload.change),
            &Reason::Ordered { actor: reload.actor.clone() },
        ),
        Body::ReloadRefused { why, .. } => because(String::from("the configuration stays as it is"), why),
        Body::Forgotten => because(String::from("forgotten"), &Reason::Removed),
        Body::Unconfirmed { check, by, .. } => {
            plain(format!("check {check} fails, check {by} passes or could not be run, and nothing is done"))
        }
        Body::HostStalled { late, slept } => plain(match (*late > Span::ZERO, *slept > Span::ZERO) {
            (_, false) => format!("Hale was stopped or starved for up to {late}: that time counts against no service"),
            (false, true) => format!("the machine slept for {slept}: failures are counted from the beginning"),
            (true, true) => format!("the machine slept for {slept}, and Hale came up to {late} late: neither counts"),
        }),
        Body::Began { .. }
        | Body::TookOver { .. }
        | Body::Ending { .. }
        | Body::CarriedOut { .. }
        | Body::HeartbeatPromised { .. }
        | Body::DescriptorStored { .. }
        | Body::DescriptorDropped { .. }
        | Body::CountersForgotten
        | Body::LedgerDegraded { .. }
        | Body::LedgerRecovered
        | Body::Output { .. } => None,
    }
}

fn rung_words(rung: crate::plan::ladder::Rung) -> &'static str {
    use crate::plan::ladder::Rung;
    match rung {
        Rung::Wait => "waiting",
        Rung::Restart => "restarting it",
        Rung::TakeBack => "taking back a change",
        Rung::Reboot => "rebooting",
        Rung::Hold => "holding it",
    }
}

/// The order as somebody would say it.
#[must_use]
pub fn order_words(order: &crate::record::OperatorOrder) -> String {
    use crate::record::OperatorOrder;
    match order {
        OperatorOrder::Start { service } => format!("order: start {service}"),
        OperatorOrder::Stop { service } => format!("order: stop {service}"),
        OperatorOrder::Restart { service } => format!("order: restart {service}"),
        OperatorOrder::Pause { service, lasts } => format!("order: pause {service} for {lasts}"),
        OperatorOrder::Resume { service } => format!("order: resume {service}"),
        OperatorOrder::Deploy { service, generation, force } => {
            let forced = if *force { ", also if it is quarantined" } else { "" };
            format!("order: deploy {} to {service}{forced}", generation.short())
        }
        OperatorOrder::Rollback { service, to: Some(to) } => format!("order: roll {service} back to {}", to.short()),
        OperatorOrder::Rollback { service, to: None } => format!("order: roll {service} back"),
        OperatorOrder::ClearQuarantine { service, generation } => {
            format!("order: clear {} of {service} of quarantine", generation.short())
        }
        OperatorOrder::Reload { .. } => String::from("order: reload the configuration"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, RecordId};
    use crate::record::Finding;
    use crate::time::Monotonic;

    fn record(id: u64, at_us: u64, body: Body) -> Record {
        Record {
            id: RecordId(id),
            at: Now { mono: Monotonic::from_us(at_us), boot_us: at_us, wall_us: 0 },
            service: Some(Name::try_from("bot").unwrap()),
            incident: Some(IncidentId(5)),
            body,
        }
    }

    #[test]
    fn a_story_runs_from_detection_to_recovery() {
        let status = ExitStatus::Code(3);
        let records = [
            record(4, 900, Body::Exited { epoch: Epoch(1), status, tree_empty: true, asked: false, memory: None }),
            record(
                5,
                1_000,
                Body::Detected {
                    cause: Cause::Exit,
                    finding: Finding::Exit { epoch: Epoch(1), status, memory: None },
                    stall: None,
                    last_good: Monotonic::from_us(900),
                    blocked: None,
                },
            ),
            record(
                6,
                19_000,
                Body::IncidentClosed {
                    outcome: Outcome::Recovered,
                    recovery_us: Some(18_000),
                    down_us: Some(18_100),
                    checks: 2,
                },
            ),
        ];
        let story = tell(&records).unwrap();
        let lines: Vec<String> =
            story.timeline.iter().map(|entry| format!("T+{} {}", entry.after, entry.what)).collect();
        assert_eq!(
            lines,
            ["T+0 ms detected: the process exited with status 3", "T+18 ms all checks pass: recovered in 18 ms"]
        );
        assert_eq!((story.outcome, story.down_us), (Outcome::Recovered, Some(18_100)));
        assert!(tell(&records[..1]).is_none());
    }
}
