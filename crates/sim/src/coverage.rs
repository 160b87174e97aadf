//! What a run reached: each fault, state, cause and kind of record, counted, so that a simulation that stopped
//! simulating something is noticed.

use crate::fault::Fault;
use hale_core::incident::{Blame, Cause};
use hale_core::record::Body;
use hale_core::safeswitch::Move;
use hale_core::status::State;
use std::collections::BTreeMap;
use std::fmt;

/// Ends of a switch, by the names that [`hale_core::safeswitch::End::name`] gives them.
const ENDS: [&str; 6] = ["committed", "rolled back", "aborted", "held", "environmental", "stopped"];

/// Kinds of records that must be reached. `violated` is not among them: it must never be.
pub const BODIES: [&str; 50] = [
    "began",
    "took_over",
    "ending",
    "blocked",
    "runs_blocked",
    "unblocked",
    "dependency",
    "spawn_intended",
    "spawned",
    "adopted",
    "spawn_failed",
    "became_ready",
    "check_failed",
    "check_passed",
    "became_healthy",
    "detected",
    "decided",
    "restart_planned",
    "waits",
    "exited",
    "stop_intended",
    "kill_intended",
    "unkillable",
    "tree_gone",
    "backing_off",
    "held",
    "stopped",
    "counters_forgotten",
    "paused",
    "resumed",
    "incident_closed",
    "ordered",
    "carried_out",
    "order_not_durable",
    "heartbeat_promised",
    "extended",
    "ledger_degraded",
    "ledger_recovered",
    "output",
    "probe_lost",
    "probe_unable",
    "oom_killed",
    "memory_stalled",
    "memory_relieved",
    "descriptor_stored",
    "descriptor_refused",
    "descriptor_dropped",
    "generation",
    "files",
    "files_changed",
];

/// The name of a record's kind, as in its JSON.
#[must_use]
pub fn body_name(body: &Body) -> &'static str {
    match body {
        Body::Began { .. } => "began",
        Body::Generation(_) => "generation",
        Body::Files(_) => "files",
        Body::FilesChanged { .. } => "files_changed",
        Body::Reloaded(_) => "reloaded",
        Body::ReloadRefused { .. } => "reload_refused",
        Body::Forgotten => "forgotten",
        Body::CheckUnproven { .. } => "check_unproven",
        Body::TookOver { .. } => "took_over",
        Body::Ending { .. } => "ending",
        Body::Blocked { .. } => "blocked",
        Body::RunsBlocked { .. } => "runs_blocked",
        Body::Unblocked { .. } => "unblocked",
        Body::Dependency { .. } => "dependency",
        Body::SpawnIntended { .. } => "spawn_intended",
        Body::Spawned { .. } => "spawned",
        Body::Adopted { .. } => "adopted",
        Body::SpawnFailed { .. } => "spawn_failed",
        Body::BecameReady { .. } => "became_ready",
        Body::CheckFailed { .. } => "check_failed",
        Body::CheckPassed { .. } => "check_passed",
        Body::BecameHealthy { .. } => "became_healthy",
        Body::Detected { .. } => "detected",
        Body::Decided(_) => "decided",
        Body::Waits { .. } => "waits",
        Body::Exited { .. } => "exited",
        Body::OomKilled { .. } => "oom_killed",
        Body::MemoryStalled { .. } => "memory_stalled",
        Body::MemoryRelieved { .. } => "memory_relieved",
        Body::StopIntended { .. } => "stop_intended",
        Body::KillIntended { .. } => "kill_intended",
        Body::Unkillable { .. } => "unkillable",
        Body::TreeGone { .. } => "tree_gone",
        Body::BackingOff { .. } => "backing_off",
        Body::Held { .. } => "held",
        Body::Stopped { .. } => "stopped",
        Body::CountersForgotten => "counters_forgotten",
        Body::Paused { .. } => "paused",
        Body::Resumed { .. } => "resumed",
        Body::IncidentClosed { .. } => "incident_closed",
        Body::Ordered { .. } => "ordered",
        Body::CarriedOut { .. } => "carried_out",
        Body::HeartbeatPromised { .. } => "heartbeat_promised",
        Body::Extended { .. } => "extended",
        Body::DescriptorStored { .. } => "descriptor_stored",
        Body::DescriptorRefused { .. } => "descriptor_refused",
        Body::DescriptorDropped { .. } => "descriptor_dropped",
        Body::OrderNotDurable { .. } => "order_not_durable",
        Body::LedgerDegraded { .. } => "ledger_degraded",
        Body::Unconfirmed { .. } => "unconfirmed",
        Body::HostStalled { .. } => "host_stalled",
        Body::LedgerRecovered => "ledger_recovered",
        Body::Output { .. } => "output",
        Body::Traced { .. } => "traced",
        Body::Examined { .. } => "examined",
        Body::Blamed(_) => "blamed",
        Body::NotItsFault { .. } => "not_its_fault",
        Body::OutputDropped { .. } => "output_dropped",
        Body::ProbeLost { .. } => "probe_lost",
        Body::ProbeUnable { .. } => "probe_unable",
        Body::HardwareTimer { .. } => "hardware_timer",
        Body::HardwareReset { .. } => "hardware_reset",
        Body::RestartPlanned(_) => "restart_planned",
        Body::RebootDecided(_) => "reboot_decided",
        Body::RebootNotDurable { .. } => "reboot_not_durable",
        Body::Violated { .. } => "violated",
    }
}

/// Counters of one run or of many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    faults: BTreeMap<&'static str, u64>,
    states: BTreeMap<&'static str, u64>,
    causes: BTreeMap<&'static str, u64>,
    bodies: BTreeMap<&'static str, u64>,
    ends: BTreeMap<&'static str, u64>,
    /// How often a fault of the first was blamed on the second.
    blames: BTreeMap<(Blame, Blame), u64>,
    /// Events that the core took.
    pub events: u64,
    /// Virtual time that passed, in microseconds.
    pub virtual_us: u64,
}

impl Coverage {
    /// A fault happened.
    pub fn fault(&mut self, fault: Fault) {
        *self.faults.entry(fault.as_str()).or_default() += 1;
    }

    /// A service was seen in this state.
    pub fn state(&mut self, state: State) {
        *self.states.entry(state.as_str()).or_default() += 1;
    }

    /// A record was written.
    pub fn record(&mut self, body: &Body) {
        *self.bodies.entry(body_name(body)).or_default() += 1;
        if let Some((_, Move::Ended { end, .. })) = body.moved() {
            *self.ends.entry(end.name()).or_default() += 1;
        }
        let cause = match body {
            Body::Detected { cause, .. } => *cause,
            Body::HardwareReset { .. } => Cause::Reset,
            _ => return,
        };
        *self.causes.entry(cause.as_str()).or_default() += 1;
    }

    /// A failure that is the fault of the first was blamed on the second.
    pub fn blame(&mut self, whose: Blame, blamed: Blame) {
        *self.blames.entry((whose, blamed)).or_default() += 1;
    }

    /// Adds what another run reached.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.faults, &other.faults),
            (&mut self.states, &other.states),
            (&mut self.causes, &other.causes),
            (&mut self.bodies, &other.bodies),
            (&mut self.ends, &other.ends),
        ];
        for (mine, theirs) in pairs {
            for (name, count) in theirs {
                *mine.entry(name).or_default() += count;
            }
        }
        for (pair, count) in &other.blames {
            *self.blames.entry(*pair).or_default() += count;
        }
        self.events += other.events;
        self.virtual_us += other.virtual_us;
    }

    fn groups(&self) -> [(&'static str, Vec<(&'static str, u64)>); 5] {
        let count = |counts: &BTreeMap<&'static str, u64>, name: &'static str| {
            (name, counts.get(name).copied().unwrap_or_default())
        };
        [
            ("fault", Fault::ALL.iter().map(|fault| count(&self.faults, fault.as_str())).collect()),
            ("state", State::ALL.iter().map(|state| count(&self.states, state.as_str())).collect()),
            ("cause", Cause::ALL.iter().map(|cause| count(&self.causes, cause.as_str())).collect()),
            ("switch that was", ENDS.iter().map(|end| count(&self.ends, end)).collect()),
            ("record", BODIES.iter().chain(&["output_dropped"]).map(|body| count(&self.bodies, body)).collect()),
        ]
    }

    /// What was never reached, as `fault crash`.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let missing = |(group, counts): (&'static str, Vec<(&'static str, u64)>)| {
            counts.into_iter().filter(|(_, count)| *count == 0).map(move |(name, _)| format!("{group} {name}"))
        };
        self.groups().into_iter().flat_map(missing).collect()
    }
}

/// A table, four columns wide.
impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (group, counts) in self.groups() {
            writeln!(f, "each {group} reached:")?;
            for row in counts.chunks(4) {
                let cells: Vec<String> = row.iter().map(|(name, count)| format!("{name:<20}{count:>9}")).collect();
                writeln!(f, "  {}", cells.join("   "))?;
            }
        }
        let sum = |is_it: &dyn Fn(Blame, Blame) -> bool| -> u64 {
            self.blames.iter().filter(|((whose, blamed), _)| is_it(*whose, *blamed)).map(|(_, count)| count).sum()
        };
        writeln!(f, "faults judged, by whose they are:")?;
        let mut whose: Vec<Blame> = self.blames.keys().map(|(whose, _)| *whose).collect();
        whose.dedup();
        for own in whose {
            let of = |is_it: fn(Blame, Blame) -> bool| sum(&|whose, blamed| whose == own && is_it(whose, blamed));
            let (right, unknown) = (of(|whose, blamed| whose == blamed), of(|_, blamed| blamed == Blame::Unknown));
            let wrong = of(|whose, blamed| blamed != whose && blamed != Blame::Unknown);
            writeln!(f, "  {:<12}{right:>9} right   {unknown:>9} unknown   {wrong:>9} wrong", own.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_reached_is_named() {
        let mut coverage = Coverage::default();
        assert!(coverage.missing().contains(&String::from("fault crash")));
        coverage.fault(Fault::Crash);
        coverage.record(&Body::CountersForgotten);
        coverage.state(State::Held);
        let missing = coverage.missing();
        assert!(!missing.contains(&String::from("fault crash")) && !missing.contains(&String::from("state held")));
        assert!(missing.contains(&String::from("cause hang")) && missing.contains(&String::from("record held")));
    }
}
