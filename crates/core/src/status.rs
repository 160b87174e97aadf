//! The live state of services, as `hale status` and the API show it.

use crate::analyze::checks::{CheckState, Probing};
use crate::analyze::trend::Outlook;
use crate::descriptor::FdName;
use crate::hardware::Timer;
use crate::ids::{GenerationId, IncidentId, Name};
use crate::policy::{CheckPolicy, Mode, StoreKind};
use crate::safeswitch::{Generations, Grade, Part, Parts, Stage};
use crate::time::{Monotonic, Now, Span};
use crate::world::World;
use crate::world::dependency::{Dependency, Standing};
use crate::world::phase::{Phase, StopStage};
use crate::world::service::Service;
use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// All that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// When it was true.
    pub at: Now,
    /// Whether Hale acts.
    pub mode: Mode,
    /// Why the ledger cannot be written, if it cannot.
    pub ledger_error: Option<String>,
    /// The hardware timer, if one is configured and the guardian has told of it.
    #[serde(default)]
    pub timer: Option<Timer>,
    /// One for each service, in the order of names.
    pub services: Vec<ServiceStatus>,
    /// One for each dependency, or for each of the one service asked for, in the order of names.
    #[serde(default)]
    pub dependencies: Vec<DependencyStatus>,
}

/// One dependency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DependencyStatus {
    /// Its name.
    pub name: Name,
    /// Whether it is there.
    pub state: Standing,
    /// Since when.
    pub since: Monotonic,
    /// Its checks, in the order of the configuration.
    pub checks: Vec<CheckStatus>,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: Name,
    /// What it is doing.
    pub state: State,
    /// Why it is in this state, in a sentence; empty where there is nothing to say.
    pub detail: String,
    /// Its main process, while there is one.
    pub pid: Option<i32>,
    /// When it came into this phase.
    pub since: Monotonic,
    /// Starts after the first one.
    pub restarts: u64,
    /// Its checks, in the order of the configuration.
    pub checks: Vec<CheckStatus>,
    /// What it waits for, while it is blocked.
    #[serde(default)]
    pub blocked_on: Option<Name>,
    /// The incident in progress.
    pub incident: Option<IncidentId>,
    /// Its last `STATUS=`, escaped and bounded.
    pub status_text: String,
    /// Why it is only observed, if it is.
    pub observed: Option<String>,
    /// When its pause ends by itself ([`Now::boot_us`]), if it is paused.
    #[serde(default)]
    pub paused_until_boot_us: Option<u64>,
    /// The names of the descriptors that it left for its next process, oldest first.
    #[serde(default)]
    pub stored: Vec<FdName>,
    /// What it is switched to, of a service with generations.
    #[serde(default)]
    pub generation: Option<GenerationId>,
    /// How well that is known to be good, if it is.
    #[serde(default)]
    pub grade: Option<Grade>,
    /// The switch that is under way.
    #[serde(default)]
    pub switch: Option<SwitchStatus>,
}

/// A switch that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchStatus {
    /// Of which part.
    pub part: Part,
    /// What is switched to.
    pub to: GenerationId,
    /// What was switched to before.
    pub from: Option<GenerationId>,
    /// How far it is: `intended`, `prepared`, `switching`, `probation`, `committing`, `going_back` or `validating`.
    pub stage: Cow<'static, str>,
    /// How long all checks have to hold yet, on probation.
    pub probation_left: Option<Span>,
    /// Whether its newest process is of what this part is switched to.
    pub runs: bool,
}

/// All that is known of the generations of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationsReport {
    /// When it was true.
    pub at: Now,
    /// Whose.
    pub service: Name,
    /// Where they are kept; `None`: it has none.
    pub store: Option<StoreKind>,
    /// What its newest process is, or was.
    pub runs: Parts<Option<GenerationId>>,
    /// Whether that may still be there.
    pub lives: bool,
    /// That.
    pub known: Parts<Generations>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Its name.
    pub name: Name,
    /// Its kind.
    pub kind: Cow<'static, str>,
    /// `None`: not known yet.
    pub ok: Option<bool>,
    /// The last probe could not be run, or said nothing about the service: what is known is older.
    #[serde(default)]
    pub unable: bool,
    /// How long the last probe took.
    pub last_us: Option<u64>,
    /// The last result's words.
    pub detail: String,
    /// Where its figure is going, of a check whose figure is followed.
    #[serde(default)]
    pub outlook: Option<Outlook>,
}

/// What a service is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No process, and none wanted.
    Stopped,
    /// On its way up.
    Starting,
    /// Runs, and all checks pass.
    Healthy,
    /// A check fails, below its threshold.
    Degraded,
    /// A check fails, and has reached its threshold.
    Failing,
    /// Being ended.
    Stopping,
    /// Waits for its delay.
    BackingOff,
    /// Waits for another service.
    Blocked,
    /// Given up quickly, retried slowly.
    Held,
    /// Only watched for a while.
    Paused,
}

impl State {
    /// All of them, for tables.
    pub const ALL: [Self; 10] = [
        Self::Stopped,
        Self::Starting,
        Self::Healthy,
        Self::Degraded,
        Self::Failing,
        Self::Stopping,
        Self::BackingOff,
        Self::Blocked,
        Self::Held,
        Self::Paused,
    ];

    /// Its name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
            Self::Stopping => "stopping",
            Self::BackingOff => "backing_off",
            Self::Blocked => "blocked",
            Self::Held => "held",
            Self::Paused => "paused",
        }
    }
}

impl Service {
    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> State {
        let bare = self.state_but_for_pause();
        if self.known.paused.is_some() && bare != State::Stopped { State::Paused } else { bare }
    }

    /// What it would be doing if it were not paused.
    pub(crate) fn state_but_for_pause(&self) -> State {
        if self.known.blocked.is_some() {
            return State::Blocked;
        }
        match &self.known.phase {
            Phase::Stopped { .. } => State::Stopped,
            Phase::Down | Phase::BackingOff { .. } => State::BackingOff,
            Phase::Blocked { .. } => State::Blocked,
            Phase::Held { .. } => State::Held,
            Phase::Spawning { .. } | Phase::Starting { .. } => State::Starting,
            Phase::Stopping { .. } | Phase::Remains { .. } => State::Stopping,
            Phase::Running { .. } if self.known.healthy => State::Healthy,
            Phase::Running { .. } => self.state_by_checks(),
        }
    }

    fn state_by_checks(&self) -> State {
        let reached = |(check, policy): (&CheckState, &crate::policy::CheckPolicy)| match check {
            CheckState::Failing { failures } => Some(*failures >= policy.failures),
            CheckState::Unknown | CheckState::Passing => None,
        };
        let worst = self.known.checks.iter().zip(&self.policy.checks).filter_map(reached).max();
        match worst {
            Some(true) => State::Failing,
            Some(false) => State::Degraded,
            // It was ready long ago, and nothing counts against it.
            None if !self.known.unproven.is_empty() => State::Degraded,
            None => State::Starting,
        }
    }

    fn detail(&self, now: Monotonic) -> String {
        if let Some(on) = &self.known.blocked {
            return format!("{on} is down: left as it is until that is up");
        }
        match &self.known.phase {
            Phase::Stopped { why } => why.to_string(),
            Phase::Blocked { on } => format!("waits for {on} to be ready"),
            Phase::BackingOff { .. } if self.owes_undoing() => {
                String::from("waits until its after_rollback has put the data back")
            }
            Phase::BackingOff { .. } if self.awaits_store() => String::from("waits for its store"),
            Phase::BackingOff { until } if *until > now => format!("starts in {}", until.since(now)),
            Phase::BackingOff { .. } => String::from("waits for a place among restarts_in_flight"),
            Phase::Held { until, tries } => {
                format!("given up after a crash loop, next try in {} ({tries} tries so far)", until.since(now))
            }
            Phase::Stopping { stage: StopStage::Unkillable { killed_at }, .. } => {
                format!("survived SIGKILL {} ago; nothing is started beside it", now.since(*killed_at))
            }
            Phase::Stopping { stage: StopStage::Asked { kill_at }, .. } => {
                format!("has {} to end", kill_at.since(now))
            }
            Phase::Running { .. } if !self.known.unproven.is_empty() => {
                let names: Vec<&str> = self.known.unproven.iter().map(Name::as_str).collect();
                format!("new or changed, and has not passed yet, so that it does not count: {}", names.join(", "))
            }
            Phase::Spawning { .. } | Phase::Starting { .. } | Phase::Running { .. }
                if self.known.outdated.is_some() =>
            {
                String::from("runs by an earlier configuration, and is to be started anew")
            }
            Phase::Spawning { .. } | Phase::Starting { .. } | Phase::Running { .. } => {
                let stalled = |(since, stall)| format!("{stall}, {} ago", now.since(since));
                self.known.stalled.map_or(String::new(), stalled)
            }
            Phase::Stopping { stage: StopStage::Killed { .. }, .. } | Phase::Down | Phase::Remains { .. } => {
                String::new()
            }
        }
    }

    /// Its part of a report.
    #[must_use]
    pub fn status(&self, name: &Name, now: Monotonic) -> ServiceStatus {
        let checks = self.policy.checks.iter().zip(&self.known.checks).zip(&self.senses.probes);
        ServiceStatus {
            name: name.clone(),
            state: self.state(),
            detail: self.detail(now),
            pid: self.known.phase.run().map(|run| run.pid),
            since: self.known.since,
            restarts: self.known.restarts,
            checks: checks.map(|((policy, state), probing)| check_status(policy, *state, probing)).collect(),
            blocked_on: if let Phase::Blocked { on } = &self.known.phase {
                Some(on.clone())
            } else {
                self.known.blocked.clone()
            },
            incident: self.known.incident.map(|open| open.id),
            status_text: self.senses.status_text.clone(),
            observed: self.known.violated.clone(),
            paused_until_boot_us: None,
            stored: self.known.stored.iter().map(|stored| stored.name.clone()).collect(),
            generation: self.policy.generations.as_ref().and_then(|_| self.known.generations.store.current.clone()),
            grade: self.policy.generations.as_ref().and_then(|_| self.known.generations.store.current_grade()),
            switch: self.switch_status(now),
        }
    }

    fn switch_status(&self, now: Monotonic) -> Option<SwitchStatus> {
        let policy = self.policy.generations.as_ref()?;
        let of = |part: Part| Some((part, self.known.generations[part].switch.as_ref()?));
        let (part, switch) = self.parts().find_map(of)?;
        let probation_left =
            if let Stage::Probation { held } = &switch.stage { Some(held.left(policy.probation, now)) } else { None };
        Some(SwitchStatus {
            part,
            to: switch.intent.to.clone(),
            from: switch.intent.from.clone(),
            stage: Cow::Borrowed(switch.stage.as_str()),
            probation_left,
            runs: self.known.runs[part] == self.known.generations[part].current,
        })
    }
}

fn check_status(policy: &CheckPolicy, state: CheckState, probing: &Probing) -> CheckStatus {
    CheckStatus {
        name: policy.name.clone(),
        kind: Cow::Borrowed(policy.kind.as_str()),
        ok: match state {
            CheckState::Unknown => None,
            CheckState::Passing => Some(true),
            CheckState::Failing { .. } => Some(false),
        },
        unable: probing.is_unable(),
        last_us: probing.last.as_ref().map(|outcome| outcome.took_us),
        detail: probing.last.as_ref().map_or(String::new(), |outcome| outcome.detail.clone()),
        outlook: probing.trend.outlook(&policy.kind),
    }
}

impl Dependency {
    fn status(&self, name: &Name) -> DependencyStatus {
        let checks = self.policy.checks.iter().zip(&self.checks);
        DependencyStatus {
            name: name.clone(),
            state: self.known.standing,
            since: self.known.since,
            checks: checks.map(|(policy, (state, probing))| check_status(policy, *state, probing)).collect(),
        }
    }
}

impl World {
    /// What is known of the generations of one service; `None`: there is no such service.
    #[must_use]
    pub fn generations(&self, at: Now, name: &Name) -> Option<GenerationsReport> {
        let service = self.service(name)?;
        Some(GenerationsReport {
            at,
            service: name.clone(),
            store: service.policy.generations.as_ref().map(|policy| policy.store.clone()),
            runs: service.known.runs.clone(),
            lives: service.known.phase.epoch().is_some(),
            known: service.known.generations.clone(),
        })
    }

    /// The live state of one service or of all; `None`: there is no such service.
    #[must_use]
    pub fn status(&self, at: Now, only: Option<&Name>) -> Option<StatusReport> {
        let services = match only {
            Some(name) => alloc::vec![self.service(name)?.status_at(name, at)],
            None => self.services().map(|(name, service)| service.status_at(name, at)).collect(),
        };
        let after = only.and_then(|name| self.service(name)).map(|service| &service.policy.after);
        let wanted = |name: &Name| after.is_none_or(|after| after.contains(name));
        let dependencies = self.dependencies.iter().filter(|(name, _)| wanted(name));
        Some(StatusReport {
            at,
            mode: self.mode(),
            ledger_error: self.ledger_error().map(String::from),
            timer: self.timer().cloned(),
            services,
            dependencies: dependencies.map(|(name, dependency)| dependency.status(name)).collect(),
        })
    }
}
