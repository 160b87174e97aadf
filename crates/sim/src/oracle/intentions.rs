//! Guarantees about why: every action has a reason that is true, every incident an outcome, and the order of starts
//! and stops is the one that `after` asks for.

use super::{Ending, Oracle, Seen};
use hale_core::ids::{GenerationId, IncidentId, Name};
use hale_core::incident::Outcome;
use hale_core::plan::before_limit;
use hale_core::policy::{Mode, Policy};
use hale_core::reason::Reason;
use hale_core::record::{Body, Record};
use hale_core::safeswitch::{End, Move, Part, Parts};
use hale_core::world::dependency::Standing;
use hale_core::world::phase::Then;
use std::collections::{BTreeMap, BTreeSet};

/// What the records have said about one service, as far as reasons are concerned.
#[derive(Debug, Clone, Default)]
struct Facts {
    ordered: bool,
    resumed: bool,
    started: bool,
    failed: bool,
    waits_for: Option<Name>,
    delayed: bool,
    held: Option<u32>,
    stop_asked: Option<(u64, u64)>,
    strays: bool,
    finished: bool,
    planned: bool,
    ready: bool,
    /// Another policy for it came into force.
    reloaded: bool,
    /// It is not in the policy any more.
    removed: bool,
    /// One of its stores was told to go back.
    goes_back: Parts<bool>,
    /// What its stores have switched to.
    switched: Parts<Option<GenerationId>>,
    /// It is a process that no record knew: nobody knows of what it is, so that what is switched to is started anew.
    adopted: bool,
    /// A change did not work, and there was nothing to go back to.
    without_way_back: bool,
    /// What a change did to the data could not be undone.
    not_undone: bool,
}

impl Facts {
    fn follow(&mut self, part: Part, moved: &Move) {
        match moved {
            Move::GoesBack { .. } => self.goes_back[part] = true,
            Move::Intended { intent } => self.goes_back[part] = !intent.aim.proves(),
            Move::Switched { to, .. } | Move::Seen { current: Some(to), .. } => self.switched[part] = Some(to.clone()),
            Move::Undone { error: Some(_), .. } => self.not_undone = true,
            Move::Ended { end: End::Stopped { .. }, .. } => self.without_way_back = true,
            _ => {}
        }
    }
}

/// Every action has a reason that the records before it bear out.
pub struct Reasons {
    policy: Policy,
    facts: BTreeMap<Name, Facts>,
    ready: BTreeSet<Name>,
    ending: bool,
}

impl Reasons {
    /// For these services.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        let facts = policy.services.keys().map(|name| (name.clone(), Facts::default())).collect();
        Self { policy: policy.clone(), facts, ready: BTreeSet::new(), ending: false }
    }

    fn true_of(&self, facts: &Facts, why: &Reason, now_us: u64) -> bool {
        match why {
            Reason::HaleStarts => !facts.started && !self.ending,
            Reason::HaleEnds { .. } => self.ending,
            Reason::Ordered { .. } => facts.ordered,
            Reason::PauseOver => facts.resumed,
            Reason::DelayOver => facts.delayed,
            Reason::HeldRetry { tries } => facts.held == Some(tries - 1),
            Reason::NowReady { on } => facts.waits_for.as_ref() == Some(on) && self.ready.contains(on),
            Reason::MustGo => facts.failed || facts.goes_back.store || facts.goes_back.files,
            Reason::Switched { to } => facts.adopted || facts.switched.each().contains(&&Some(to.clone())),
            Reason::OnProbation { .. } => facts.without_way_back,
            Reason::HookFailed { .. } => facts.not_undone,
            Reason::BeforeLimit { .. } => facts.planned,
            Reason::GraceOver { grace } => {
                facts.stop_asked.is_some_and(|(at, asked)| asked == grace.as_us() && now_us >= at + asked)
            }
            Reason::Reloaded => facts.reloaded,
            Reason::Removed => facts.removed,
            Reason::LeftBehind => facts.strays,
            Reason::Finished => facts.finished,
            Reason::FailsOnProbation
            | Reason::NewestChange { .. }
            | Reason::NoOlderGood
            | Reason::ChangeTooOld { .. }
            | Reason::RollbackAsk
            | Reason::RollbackNever
            | Reason::RollbacksSpent { .. }
            | Reason::CauseElsewhere
            | Reason::SwitchInProgress
            | Reason::NoReleaseYet
            | Reason::StoreNotSeen
            | Reason::NotSwitched { .. }
            | Reason::NoWayBack { .. }
            | Reason::DataMovedOn { .. }
            | Reason::Interrupted
            | Reason::RestartedOnProbation
            | Reason::Superseded { .. }
            | Reason::FailsAsBefore { .. }
            | Reason::GoodFailsToo { .. }
            | Reason::Quarantined { .. }
            | Reason::NotKnownGood { .. }
            | Reason::InvalidConfiguration { .. }
            | Reason::FixedWhileRunning { .. }
            | Reason::ReloadInProgress
            | Reason::PolicyNotKept { .. }
            | Reason::FirstFailure { .. }
            | Reason::Repeated { .. }
            | Reason::CrashLoop { .. }
            | Reason::StillFailing { .. }
            | Reason::NoGenerationsConfigured
            | Reason::SameException { .. }
            | Reason::NotRequired
            | Reason::RebootNever
            | Reason::NoTimer
            | Reason::StillWorks { .. }
            | Reason::ResetsUnknown
            | Reason::RebootsSpent { .. }
            | Reason::RebootsLeft { .. }
            | Reason::NoDurableRecord
            | Reason::RequiredFailed
            | Reason::ObserveMode
            | Reason::Paused { .. }
            | Reason::Violated { .. }
            | Reason::RestartsInFlight { .. }
            | Reason::NotReady { .. }
            | Reason::DependencyDown { .. }
            | Reason::DescriptorName
            | Reason::DescriptorOfFile
            | Reason::DescriptorsFull { .. }
            | Reason::DescriptorsFullInAll { .. }
            | Reason::DescriptorsTooOften
            | Reason::DescriptorsScarce
            | Reason::DescriptorTakenBack
            | Reason::DescriptorHungUp
            | Reason::ProbingFails { .. }
            | Reason::HostIsShort
            | Reason::FailTogether { .. }
            | Reason::DiskFails { .. }
            | Reason::MemoryIsShared
            | Reason::EndedFromOutside
            | Reason::EndNotSeen
            | Reason::DependenciesNotAsked
            | Reason::NothingElseTried
            | Reason::TooFewFailures { .. }
            | Reason::NothingElseFails
            | Reason::DescriptorLost => false,
        }
    }

    fn record(&mut self, now_us: u64, record: &Record) -> Result<(), String> {
        if let Body::Ending { .. } = record.body {
            self.ending = true;
        }
        follow_dependency(&mut self.ready, &record.body);
        let Some(name) = &record.service else { return Ok(()) };
        let Some(mut facts) = self.facts.remove(name) else { return Ok(()) };
        let why = match &record.body {
            Body::SpawnIntended { why, .. } | Body::StopIntended { why, .. } | Body::KillIntended { why, .. } => {
                Some(why)
            }
            _ => None,
        };
        let bad = why.filter(|why| !self.true_of(&facts, why, now_us)).cloned();
        match &record.body {
            Body::SpawnIntended { .. } => {
                let Facts { ordered, held, .. } = facts;
                facts = Facts { started: true, ordered, held, ..Facts::default() };
            }
            Body::StopIntended { grace, then, .. } => {
                facts.stop_asked.get_or_insert((now_us, grace.as_us()));
                facts.delayed |= matches!(then, Then::Restart { .. });
            }
            Body::KillIntended { then, .. } => facts.delayed |= matches!(then, Then::Restart { .. }),
            Body::Blocked { on } => facts.waits_for = Some(on.clone()),
            Body::BackingOff { .. } => facts.delayed = true,
            Body::Held { tries, .. } => facts.held = Some(*tries),
            Body::CountersForgotten | Body::Unblocked { .. } => facts.held = None,
            Body::Resumed { .. } => (facts.held, facts.resumed) = (None, true),
            Body::Detected { .. } => facts.failed = true,
            Body::Decided(_) => facts.delayed = true,
            Body::RestartPlanned(decision) => facts.planned = decision.verdict == before_limit::Verdict::Restart,
            Body::Exited { status, tree_empty, .. } => {
                facts.strays = !tree_empty;
                facts.finished = status.is_success() && !self.policy.services[name].restart.on_success;
            }
            Body::Forgotten => facts = Facts { reloaded: facts.reloaded, removed: facts.removed, ..Facts::default() },
            Body::Generation(moved) => facts.follow(Part::Store, moved),
            Body::Files(moved) => facts.follow(Part::Files, moved),
            Body::Adopted { .. } => facts.adopted = true,
            Body::Ordered { .. } => facts.ordered = true,
            Body::BecameReady { .. } => facts.ready = true,
            _ => {}
        }
        match &record.body {
            Body::BecameReady { .. } | Body::Stopped { why: Reason::Finished } => self.ready.insert(name.clone()),
            Body::Exited { .. } | Body::StopIntended { .. } | Body::KillIntended { .. } | Body::Forgotten => {
                self.ready.remove(name)
            }
            _ => false,
        };
        self.facts.insert(name.clone(), facts);
        match bad {
            Some(why) => Err(format!("{name}: record {} says \"{why}\", and that is not so", record.id)),
            None => Ok(()),
        }
    }
}

impl Oracle for Reasons {
    fn name(&self) -> &'static str {
        "reasons"
    }

    fn guarantee(&self) -> &'static str {
        "every start, stop and kill has a reason, and the records before it bear it out"
    }

    fn rewind(&mut self, kept: &[Record]) {
        *self = super::replay(Self::new(&self.policy), kept);
    }

    fn see(&mut self, now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Record(record) => self.record(now_us, record),
            Seen::Policy(policy) => {
                for (name, facts) in &mut self.facts {
                    let (before, now) = (self.policy.services.get(name), policy.services.get(name));
                    facts.reloaded |= now.is_some() && (before != now || facts.removed);
                    facts.removed = now.is_none();
                }
                super::merge(&mut self.policy, policy);
                Ok(())
            }
            Seen::Event(_) | Seen::Effect(_) | Seen::Fact(_) => Ok(()),
        }
    }
}

/// Keeps which dependencies are up among what is ready.
fn follow_dependency(ready: &mut BTreeSet<Name>, body: &Body) {
    if let Body::Dependency { name, edge } = body {
        match edge.standing() {
            Standing::Up => ready.insert(name.clone()),
            Standing::Down | Standing::Unknown => ready.remove(name),
        };
    }
}

/// Every incident has one beginning and one end.
#[derive(Debug, Default)]
pub struct Incidents {
    open: BTreeMap<Name, IncidentId>,
    /// Open in the ledger, and not in the journal of the one who took over: to be closed by it.
    lost: BTreeSet<IncidentId>,
    /// What the last record said, for services whose incident is still open.
    stands: BTreeMap<Name, Stand>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Held,
    Healthy,
    Stopped,
    Other,
}

impl Oracle for Incidents {
    fn name(&self) -> &'static str {
        "incidents"
    }

    fn guarantee(&self) -> &'static str {
        "every incident opens with a detection, closes once with an outcome, and none is open where all is at rest"
    }

    fn restart(&mut self, ledger: &[Record]) {
        let known = super::replay(Self::default(), ledger);
        *self = Self { lost: known.open.into_values().chain(known.lost).collect(), ..Self::default() };
    }

    fn rewind(&mut self, kept: &[Record]) {
        // The ledger has all of them, and what the journal has forgotten the end of may be closed again.
        let mut known = super::replay(Self::default(), kept);
        let forgotten = |open: &IncidentId, known: &BTreeMap<Name, IncidentId>| !known.values().any(|id| id == open);
        self.lost.extend(self.open.values().copied().filter(|open| forgotten(open, &known.open)));
        known.lost = std::mem::take(&mut self.lost);
        *self = known;
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        let Seen::Record(record) = seen else { return Ok(()) };
        let Some(name) = &record.service else { return Ok(()) };
        let stand = match &record.body {
            Body::Held { .. } => Some(Stand::Held),
            Body::BecameHealthy { .. } => Some(Stand::Healthy),
            Body::Stopped { .. } => Some(Stand::Stopped),
            Body::SpawnIntended { .. } | Body::Blocked { .. } | Body::BackingOff { .. } | Body::Detected { .. } => {
                Some(Stand::Other)
            }
            _ => None,
        };
        if let Some(stand) = stand {
            self.stands.insert(name.clone(), stand);
        }
        let open = self.open.get(name).copied();
        match &record.body {
            Body::Detected { .. } if open.is_none() && record.incident == Some(IncidentId(record.id.0)) => {
                self.open.insert(name.clone(), IncidentId(record.id.0));
                Ok(())
            }
            Body::Detected { .. } if open.is_none() => Err(format!("{name}: a detection that opens no incident")),
            Body::IncidentClosed { outcome: Outcome::Open, .. } => Err(format!("{name}: closed as open")),
            Body::IncidentClosed { .. } if record.incident.is_some_and(|id| self.lost.remove(&id)) => Ok(()),
            Body::IncidentClosed { .. } => {
                self.open.remove(name);
                if open.is_some() { Ok(()) } else { Err(format!("{name}: an end without a beginning")) }
            }
            // Evidence of an incident that is over by now still belongs to it.
            Body::Output { .. } | Body::Traced { .. } | Body::Examined { .. } => Ok(()),
            Body::BecameHealthy { .. } if open.is_some() => Err(format!("{name}: healthy with an open incident")),
            _ if record.incident != open => {
                Err(format!("{name}: record {} is of incident {:?}, open is {open:?}", record.id, record.incident))
            }
            _ => Ok(()),
        }
    }

    fn end(&mut self, ending: &Ending) -> Result<(), String> {
        if let Some(id) = self.lost.first().filter(|_| ending.at_rest) {
            return Err(format!("incident {id} was forgotten with the journal, and never closed"));
        }
        let wrong = self.open.iter().find(|(name, _)| match self.stands.get(*name) {
            Some(Stand::Healthy | Stand::Stopped) => true,
            Some(Stand::Held | Stand::Other) | None => false,
        });
        match wrong {
            Some((name, id)) if ending.at_rest => Err(format!("{name}: incident {id} is open, and all is at rest")),
            Some(_) | None => Ok(()),
        }
    }
}

/// Starts follow `after`, and the end goes the other way.
pub struct InOrder {
    policy: Policy,
    ready: BTreeSet<Name>,
    /// Who may have a process that is not known to be unkillable.
    alive: BTreeSet<Name>,
    stopping: BTreeSet<Name>,
    ending: u32,
}

impl InOrder {
    /// For these services.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        let none = BTreeSet::new;
        Self { policy: policy.clone(), ready: none(), alive: none(), stopping: none(), ending: 0 }
    }
}

impl Oracle for InOrder {
    fn name(&self) -> &'static str {
        "in-order"
    }

    fn guarantee(&self) -> &'static str {
        "a service starts only while all it starts after are ready, and is ended only when all that start after it are gone"
    }

    fn rewind(&mut self, kept: &[Record]) {
        *self = super::replay(Self { ending: self.ending, ..Self::new(&self.policy) }, kept);
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        let record = match seen {
            Seen::Record(record) => record,
            Seen::Event(hale_core::event::Event::End { .. }) => {
                self.ending += 1;
                return Ok(());
            }
            Seen::Policy(policy) => {
                super::merge(&mut self.policy, policy);
                return Ok(());
            }
            Seen::Event(_) | Seen::Effect(_) | Seen::Fact(_) => return Ok(()),
        };
        follow_dependency(&mut self.ready, &record.body);
        let Some(name) = &record.service else { return Ok(()) };
        match &record.body {
            Body::SpawnIntended { .. } => {
                self.alive.insert(name.clone());
                self.ready.remove(name);
                self.stopping.remove(name);
                let missing = self.policy.services[name].after.iter().find(|on| !self.ready.contains(*on));
                missing.map_or(Ok(()), |on| Err(format!("{name} starts, and {on} is not ready")))
            }
            Body::BecameReady { .. } | Body::Stopped { why: Reason::Finished } => {
                self.ready.insert(name.clone());
                Ok(())
            }
            Body::StopIntended { why, .. } | Body::KillIntended { why, .. } => {
                self.ready.remove(name);
                let first = self.stopping.insert(name.clone());
                if !(first && matches!(why, Reason::HaleEnds { .. }) && self.ending == 1) {
                    return Ok(());
                }
                let behind = |other: &&Name| self.policy.services[*other].after.contains(name);
                match self.alive.iter().find(behind) {
                    Some(other) => Err(format!("{name} is ended while {other}, which starts after it, still runs")),
                    None => Ok(()),
                }
            }
            Body::Exited { tree_empty, .. } => {
                self.ready.remove(name);
                if *tree_empty {
                    self.alive.remove(name);
                }
                Ok(())
            }
            Body::Forgotten => {
                self.ready.remove(name);
                Ok(())
            }
            Body::TreeGone { .. } | Body::SpawnFailed { .. } | Body::Unkillable { .. } => {
                self.alive.remove(name);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// No more than `restarts_in_flight` services are on their way up after a failure.
pub struct InFlight {
    limit: u32,
    failures: BTreeMap<Name, u32>,
    flying: BTreeSet<Name>,
}

impl InFlight {
    /// For this limit.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        Self { limit: policy.host.restarts_in_flight, failures: BTreeMap::new(), flying: BTreeSet::new() }
    }
}

impl Oracle for InFlight {
    fn name(&self) -> &'static str {
        "in-flight"
    }

    fn guarantee(&self) -> &'static str {
        "no more than restarts_in_flight services are on their way up after a failure at any time"
    }

    fn rewind(&mut self, kept: &[Record]) {
        *self = super::replay(Self { limit: self.limit, failures: BTreeMap::new(), flying: BTreeSet::new() }, kept);
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        if let Seen::Policy(policy) = seen {
            self.limit = policy.host.restarts_in_flight;
        }
        let Seen::Record(record) = seen else { return Ok(()) };
        let Some(name) = &record.service else { return Ok(()) };
        match &record.body {
            Body::SpawnIntended { .. } if self.failures.get(name).copied().unwrap_or(0) > 0 => {
                self.flying.insert(name.clone());
                if self.flying.len() > self.limit as usize {
                    return Err(format!("{} services are on their way up, {} may be", self.flying.len(), self.limit));
                }
            }
            Body::Detected { blocked: None, .. } => {
                *self.failures.entry(name.clone()).or_default() += 1;
                self.flying.remove(name);
            }
            Body::CountersForgotten | Body::Unblocked { .. } | Body::Forgotten => {
                self.failures.remove(name);
            }
            Body::Resumed { .. } => {
                self.failures.remove(name);
                self.flying.remove(name);
            }
            Body::BecameReady { .. }
            | Body::RunsBlocked { .. }
            | Body::Adopted { .. }
            | Body::Exited { .. }
            | Body::SpawnFailed { .. }
            | Body::StopIntended { .. }
            | Body::KillIntended { .. } => {
                self.flying.remove(name);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Observing, Hale starts each service once, and acts on orders only.
pub struct Observes {
    observes: bool,
    started: BTreeSet<Name>,
    ordered: BTreeSet<Name>,
    /// A reload ends them.
    leaving: BTreeSet<Name>,
    ending: bool,
}

impl Observes {
    /// For this policy.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        let observes = policy.host.mode == Mode::Observe;
        let none = BTreeSet::new;
        Self { observes, started: none(), ordered: none(), leaving: none(), ending: false }
    }
}

impl Oracle for Observes {
    fn name(&self) -> &'static str {
        "observes"
    }

    fn guarantee(&self) -> &'static str {
        "in mode observe a service is started once, and then nothing is done about it but what an operator orders"
    }

    fn rewind(&mut self, kept: &[Record]) {
        let Self { observes, .. } = *self;
        let none = BTreeSet::new;
        *self =
            super::replay(Self { observes, started: none(), ordered: none(), leaving: none(), ending: false }, kept);
    }

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        let Seen::Record(record) = seen else { return Ok(()) };
        self.ending |= matches!(record.body, Body::Ending { .. });
        let Some(name) = record.service.as_ref().filter(|_| self.observes && !self.ending) else { return Ok(()) };
        let acts = match &record.body {
            Body::Ordered { .. } => {
                self.ordered.insert(name.clone());
                false
            }
            Body::SpawnIntended { .. } => !self.started.insert(name.clone()),
            // What a reload ends, or brings back while it ends, is another guarantee's.
            Body::StopIntended { why: Reason::Removed | Reason::Reloaded, .. }
            | Body::KillIntended { why: Reason::Removed, .. } => {
                self.started.remove(name);
                self.leaving.insert(name.clone());
                false
            }
            Body::Forgotten => {
                self.started.remove(name);
                self.leaving.remove(name);
                false
            }
            Body::KillIntended { why: Reason::GraceOver { .. }, .. } => !self.leaving.contains(name),
            Body::StopIntended { .. } | Body::KillIntended { .. } => true,
            _ => false,
        };
        if acts && !self.ordered.contains(name) {
            return Err(format!("{name}: record {} acts while only observing", record.id));
        }
        Ok(())
    }
}
