//! Faults in Hale itself, put in on purpose: each oracle must find the one that breaks its guarantee.
//!
//! The core is not touched. What it says and what it is told is altered on the way between it and the fake host, as
//! a mistake in the core or in an executor would alter it.

use crate::fate::MEMORY_BOUND;
use crate::host::FakeHost;
use hale_core::analyze::trace::Trace;
use hale_core::driver::Host;
use hale_core::effect::{Effect, Fence, Order};
use hale_core::event::{Event, Question, Reading, Seen};
use hale_core::ids::{Epoch, GenerationId, IncidentId};
use hale_core::incident::{Blame, Cause};
use hale_core::plan::ladder::{Rung, Verdict};
use hale_core::policy::{Mode, Policy, Rollback, Signal};
use hale_core::reason::Reason;
use hale_core::record::{Body, Record};
use hale_core::safeswitch::{Aim, Bad, End, Failure, Move, Part};
use hale_core::time::{Monotonic, Now, Span};
use hale_core::world::Snapshot;
use hale_core::world::phase::Then;
use std::sync::Arc;

/// One mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// Each process is made twice.
    SpawnTwice,
    /// The guardian is given an epoch that is over.
    OldEpoch,
    /// An exit is reported twice, and the core has to refuse it.
    ExitTwice,
    /// What the kernel says of memory at the end of a process is not heard.
    DeafToOom,
    /// That a service waits for memory is not heard.
    DeafToStalls,
    /// Timers fire before their time, under a clock that says otherwise.
    EarlyTimers,
    /// The core computes with another `restart.delay` than the operator wants.
    WrongDelay,
    /// Tries of held services are not counted.
    UncountedTries,
    /// Stops are explained by an order that nobody gave.
    WrongReason,
    /// The end of incidents is not recorded as such.
    UnclosedIncidents,
    /// Nobody waits for what it starts after.
    NoOrder,
    /// Dependencies are not heeded.
    NoDependencies,
    /// `restarts_in_flight` is not heeded.
    NoLimit,
    /// Mode observe is not heeded.
    NoObserving,
    /// Effects come before their records.
    EffectsFirst,
    /// Exit statuses are acknowledged twice.
    AckTwice,
    /// Exit statuses are never acknowledged.
    NoAck,
    /// Each probe is made twice.
    ProbeTwice,
    /// Another delay is recorded than decided.
    AlteredDecision,
    /// Clients are answered twice.
    AnswerTwice,
    /// Once something has failed, nothing is made any more.
    NoSpawnAfterFailure,
    /// The core is woken all the time.
    Restless,
    /// That everything has ended is never said.
    NeverDone,
    /// The same run is recorded differently each time.
    Unstable,
    /// The wall clock decides.
    WallDecides,
    /// Processes get nothing of what their predecessors left.
    NothingPassed,
    /// The end of pauses is not recorded as such.
    EndlessPauses,
    /// Memory seems to grow that does not.
    SeesLeaks,
    /// A reload starts everything anew.
    StartsAllAnew,
    /// How late Hale was is not heard.
    DeafToLateness,
    /// What is to be durable is said to be before it is.
    DurableAtOnce,
    /// What a generation did to the data is said to be undone, and is not.
    UndoesNothing,
    /// Processes are made of another generation.
    WrongGeneration,
    /// All generations may be removed.
    RetainsNothing,
    /// The core gives changes an eighth of their probation.
    ShortProbation,
    /// A switch that goes back is called rolled back at once.
    RolledBackAtOnce,
    /// That checks failed before a switch is not recorded.
    ForgetsWhatFailed,
    /// The end of switches is not recorded as such.
    UnendedSwitches,
    /// What is taken back goes where it was.
    BackToItself,
    /// What is there first is recorded as quarantined.
    QuarantinesFirst,
    /// What has failed is not recorded as quarantined.
    NeverQuarantines,
    /// `rollback` is not heeded.
    AlwaysTakesBack,
    /// Every switch is recorded as one of the ladder's.
    AllByLadder,
    /// What is taken back is recorded as the other part's.
    TakesBackTheOther,
    /// An edit is answered by a stop.
    StopsForEdits,
    /// Every edit is taken for another one.
    MistakesEdits,
    /// Another reason is recorded why nothing is taken back.
    WrongRefusal,
    /// What is known of generations is written down again without what is good.
    ForgetsGoods,
    /// Stores are not told to switch.
    DeafStores,
    /// What somebody else has switched to is replaced, whatever it is.
    Fights,
    /// Whatever happens, the service is blamed.
    WrongBlame,
    /// What has failed is not looked at.
    NeverLooks,
    /// All exceptions look the same.
    SameExceptions,
    /// The core panics.
    Panics,
}

impl Mutation {
    /// What the core is told instead of `policy`.
    #[must_use]
    pub fn policy(self, mut policy: Policy) -> Policy {
        let services = |policy: &mut Policy, change: fn(&mut hale_core::policy::ServicePolicy)| {
            policy.services.values_mut().for_each(|service| change(Arc::make_mut(service)));
        };
        match self {
            Self::WrongDelay => services(&mut policy, |service| {
                service.restart.first_delay = service.restart.first_delay.plus(Span::from_ms(1));
            }),
            Self::NoOrder => services(&mut policy, |service| service.after.clear()),
            Self::NoDependencies => {
                let dependencies = policy.dependencies.clone();
                policy.services.values_mut().for_each(|service| {
                    Arc::make_mut(service).after.retain(|on| !dependencies.contains_key(on));
                });
            }
            Self::ShortProbation | Self::AlwaysTakesBack => {
                for service in policy.services.values_mut() {
                    let Some(generations) = &mut Arc::make_mut(service).generations else { continue };
                    if self == Self::AlwaysTakesBack {
                        generations.rollback = Rollback::Auto;
                    } else {
                        generations.probation = Span::from_us(generations.probation.as_us() / 8);
                    }
                }
            }
            Self::NoLimit => policy.host.restarts_in_flight = u32::MAX,
            Self::NoObserving => policy.host.mode = Mode::Heal,
            _ => {}
        }
        policy
    }
}

/// The fake host with one mistake between it and the core.
pub struct Mutated<'h, 's> {
    host: &'h mut FakeHost<'s>,
    mutation: Mutation,
    /// The clock that the core is shown until its next event.
    forged: Option<Now>,
    again: Option<Event>,
    held_back: Vec<Record>,
    failed: bool,
    calls: u64,
    nonce: u64,
    exception: Option<(Box<Trace>, u32)>,
}

impl<'h, 's> Mutated<'h, 's> {
    /// `host` with `mutation` before it. `nonce` differs from run to run, as an address or a process id does.
    pub fn new(host: &'h mut FakeHost<'s>, mutation: Mutation, nonce: u64) -> Self {
        Self {
            host,
            mutation,
            forged: None,
            again: None,
            held_back: Vec::new(),
            failed: false,
            calls: 0,
            nonce,
            exception: None,
        }
    }

    fn alter(&mut self, record: &mut Record) {
        match (&mut record.body, self.mutation) {
            (Body::Held { tries, .. }, Mutation::UncountedTries) => *tries = 0,
            (Body::StopIntended { why, .. } | Body::KillIntended { why, .. }, Mutation::WrongReason) => {
                *why = Reason::Finished;
            }
            (body @ Body::IncidentClosed { .. }, Mutation::UnclosedIncidents) => {
                *body = Body::OutputDropped { bytes: 0 };
            }
            (body @ Body::Resumed { .. }, Mutation::EndlessPauses) => *body = Body::OutputDropped { bytes: 0 },
            (Body::Decided(decision), Mutation::AlteredDecision) => {
                if let Verdict::Restart { delay } = &mut decision.choice.verdict {
                    *delay = delay.plus(Span::from_us(1));
                }
            }
            (Body::Decided(decision), Mutation::WrongRefusal) => {
                let refused = decision.choice.refused.iter_mut().filter(|refused| refused.rung == Rung::TakeBack);
                refused.for_each(|refused| refused.reason = Reason::RollbackNever);
            }
            (Body::Blamed(judged), Mutation::WrongBlame) => judged.judgement.blame = Blame::Service,
            (_, Mutation::Unstable) => record.incident = Some(IncidentId(self.nonce)),
            (body @ (Body::Generation(_) | Body::Files(_)), mutation) => alter_generations(body, mutation),
            _ => {}
        }
        self.failed |= matches!(record.body, Body::Detected { .. });
    }
}

/// Alters a record of a service's generations.
fn alter_generations(body: &mut Body, mutation: Mutation) {
    let nothing = Body::OutputDropped { bytes: 0 };
    match (&mut *body, mutation) {
        (Body::Generation(Move::Intended { intent }), Mutation::ForgetsWhatFailed) => intent.failed_before.clear(),
        (Body::Generation(Move::Intended { intent }), Mutation::BackToItself) => {
            if let Some(from) = intent.from.clone().filter(|_| !intent.aim.proves()) {
                intent.to = from;
            }
        }
        (Body::Generation(Move::GoesBack { switch, why, .. }), Mutation::RolledBackAtOnce) => {
            let end = End::RolledBack { why: why.clone() };
            *body = Body::Generation(Move::Ended { switch: *switch, end });
        }
        (Body::Generation(Move::Kept { known }), Mutation::ForgetsGoods) => known.goods.clear(),
        (Body::Generation(Move::Intended { intent }), Mutation::AllByLadder) => {
            intent.aim =
                Aim::TakeBack { incident: IncidentId(0), failure: Failure { cause: Cause::Exit, exception: None } };
        }
        (Body::Generation(Move::Seen { current: Some(id), .. }), Mutation::QuarantinesFirst) => {
            let (id, why) = (id.clone(), Reason::FailsOnProbation);
            let (since_wall_us, until_wall_us) = (0, i64::MAX);
            let bad = Box::new(Bad { id, why, seen_in: None, since_wall_us, until_wall_us });
            *body = Body::Generation(Move::Quarantined { bad });
        }
        (Body::Generation(moved @ Move::Intended { .. }), Mutation::TakesBackTheOther) => {
            if let Move::Intended { intent } = moved
                && matches!(intent.aim, Aim::TakeBack { .. })
            {
                *body = Body::Files(moved.clone());
            }
        }
        (Body::Files(Move::Switched { to, .. }), Mutation::StopsForEdits) => {
            let (epoch, signal, grace, why) = (Epoch(0), Signal::TERM, Span::ZERO, Reason::Switched { to: to.clone() });
            let then = Then::Restart { until: Monotonic::default() };
            *body = Body::StopIntended { epoch, signal, grace, why, then };
        }
        (Body::Generation(Move::Quarantined { .. }), Mutation::NeverQuarantines)
        | (Body::Generation(Move::Ended { .. }), Mutation::UnendedSwitches) => *body = nothing,
        _ => {}
    }
}

impl Host for Mutated<'_, '_> {
    fn now(&mut self) -> Now {
        let now = self.host.now();
        if self.mutation == Mutation::WallDecides {
            let mono = Monotonic::from_us(now.mono.as_us() + now.wall_us.unsigned_abs() % 7);
            return Now { mono, ..now };
        }
        self.forged.take().unwrap_or(now)
    }

    fn next(&mut self, until: Option<Monotonic>) -> Option<Event> {
        if !self.held_back.is_empty() {
            self.host.write(&std::mem::take(&mut self.held_back));
        }
        if let Some(event) = self.again.take() {
            return Some(event);
        }
        self.calls += 1;
        let until = match (self.mutation, until) {
            (Mutation::Restless, _) => Some(Monotonic::default()),
            // Only now and then: a clock that is always wrong leads nowhere.
            (Mutation::EarlyTimers, Some(until)) if self.calls.is_multiple_of(20) => {
                let now = self.host.now();
                if until > now.mono {
                    self.forged = Some(Now { mono: until, ..now });
                }
                Some(Monotonic::default())
            }
            (_, until) => until,
        };
        let mut event = self.host.next(until)?;
        if event != Event::Tick {
            self.forged = None;
        }
        if let (Mutation::SameExceptions, Event::Collected { trace, .. }) = (self.mutation, &mut event) {
            self.exception = self.exception.take().or(trace.take());
            trace.clone_from(&self.exception);
        }
        if let (Mutation::DeafToOom, Event::Exited { memory, .. }) = (self.mutation, &mut event) {
            *memory = None;
        }
        if self.mutation == Mutation::DeafToStalls && matches!(event, Event::MemoryStalled { .. }) {
            event = Event::Tick;
        }
        if let (Mutation::DeafToLateness, Event::Probed { outcome, .. }) = (self.mutation, &mut event) {
            outcome.late_us = 0;
        }
        if let (Mutation::SeesLeaks, Event::Probed { outcome, .. }) = (self.mutation, &mut event)
            && let Some(figure) = &mut outcome.figure
        {
            *figure = self.host.now().mono.as_us() % MEMORY_BOUND;
        }
        if let (Mutation::StartsAllAnew, Event::Asked { question: Question::Reload { reading, .. }, .. }) =
            (self.mutation, &mut event)
            && let Reading::Valid { policy, .. } = reading
        {
            policy.services.values_mut().for_each(|service| Arc::make_mut(service).command.push(String::from("x")));
        }
        if let (
            Mutation::MistakesEdits,
            Event::GenerationSeen { part: Part::Files, seen: Seen::Current(Some(id)), .. },
        ) = (self.mutation, &mut event)
        {
            *id = GenerationId::try_from(format!("{id}0")).expect("letters and digits are a name");
        }
        if self.mutation == Mutation::ExitTwice && matches!(event, Event::Exited { .. }) {
            self.again = Some(event.clone());
        }
        Some(event)
    }

    fn write(&mut self, records: &[Record]) {
        let mut records = records.to_vec();
        records.iter_mut().for_each(|record| self.alter(record));
        if self.mutation == Mutation::DurableAtOnce
            && let Some(last) = records.iter().rfind(|record| record.body.moved().is_some())
        {
            self.again = Some(Event::Durable { up_to: last.id });
        }
        match self.mutation {
            Mutation::EffectsFirst => self.held_back.extend(records),
            Mutation::Panics if self.failed => panic!("a mistake put in on purpose"),
            _ => self.host.write(&records),
        }
    }

    fn wants_snapshot(&self) -> bool {
        self.host.wants_snapshot()
    }

    fn keep(&mut self, snapshot: &Snapshot) {
        self.host.keep(snapshot);
    }

    fn perform(&mut self, mut effect: Effect) {
        if let (Order::Spawn { stored, .. }, Mutation::NothingPassed) = (&mut effect.order, self.mutation) {
            stored.clear();
        }
        match (&mut effect.order, self.mutation) {
            (Order::Spawn { generation: Some(generation), .. }, Mutation::WrongGeneration) => {
                *generation = crate::generations::id(9);
            }
            (Order::Retain { needed, .. }, Mutation::RetainsNothing) => needed.clear(),
            // Whatever is there.
            (Order::Switch { over, .. }, Mutation::Fights) => over.extend((0..=99).map(crate::generations::id)),
            _ => {}
        }
        let twice = match (&effect.order, self.mutation) {
            (Order::Switch { .. }, Mutation::DeafStores) => return,
            (Order::UndoData { part, switch, .. }, Mutation::UndoesNothing) => {
                let (part, switch) = (*part, *switch);
                if let Fence::Service { service, .. } = effect.fence {
                    self.again = Some(Event::DataUndone { service, part, switch, error: None });
                }
                return;
            }
            (Order::Spawn { .. }, Mutation::NoSpawnAfterFailure) if self.failed => return,
            (Order::AckExit, Mutation::NoAck)
            | (Order::Examine, Mutation::NeverLooks)
            | (Order::EndDone, Mutation::NeverDone) => return,
            (Order::Spawn { .. }, Mutation::SpawnTwice)
            | (Order::AckExit, Mutation::AckTwice)
            | (Order::Probe { .. }, Mutation::ProbeTwice)
            | (Order::Reply { .. }, Mutation::AnswerTwice) => true,
            (Order::Kill | Order::Signal { .. }, Mutation::OldEpoch) => {
                if let Fence::Service { epoch, .. } = &mut effect.fence {
                    *epoch = Epoch(epoch.0.saturating_sub(1));
                }
                false
            }
            _ => false,
        };
        if twice {
            self.host.perform(effect.clone());
        }
        self.host.perform(effect);
    }
}
