//! What the tests of switches have in common: a host whose stores do what they are told.

use super::Output;
use super::tests::{at, exited, service, step, world};
use crate::effect::{Answer, Effect, Order, Towards};
use crate::event::{Event, ProbeFailure, ProbeOutcome, Process, Question, Seen, SwitchError};
use crate::ids::{Epoch, GenerationId, Name, ProbeId, RequestId};
use crate::incident::Outcome;
use crate::policy::{CrashLoop, GenerationsPolicy, Rollback, ServicePolicy, StoreKind};
use crate::record::{Actor, Body, OperatorOrder, Record};
use crate::safeswitch::{Data, End, Generations, Move, Part};
use crate::time::{Now, Span};
use crate::world::World;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

pub(super) fn id(text: &str) -> GenerationId {
    GenerationId::try_from(text).unwrap()
}

pub(super) fn bot() -> Name {
    Name::try_from("bot").unwrap()
}

pub(super) fn policy() -> ServicePolicy {
    let generations = GenerationsPolicy {
        store: StoreKind::Release,
        probation: Span::from_secs(8),
        soak: Span::from_secs(80),
        keep: 3,
        recent: Span::from_secs(3_600),
        rollbacks_per_day: 2,
        rollback: Rollback::Auto,
        files: Vec::new(),
    };
    let mut policy = ServicePolicy { generations: Some(generations), directory: None, ..service() };
    policy.restart.crash_loop = Some(CrashLoop { failures: 3, within: Span::from_secs(60) });
    policy
}

/// A host whose store does what it is told and whose disk is fast; what its processes do is the test's.
pub(super) struct Bench {
    pub(super) world: World,
    pub(super) ms: u64,
    pub(super) current: Option<GenerationId>,
    pub(super) records: Vec<Record>,
    pub(super) answers: Vec<Answer>,
    /// The processes that were ordered, and of what.
    pub(super) spawned: Vec<(Epoch, Option<GenerationId>)>,
    pub(super) durable: bool,
    /// What the store cannot switch to, because it is damaged.
    pub(super) damaged: Vec<GenerationId>,
    /// How many probes are answered, by a pass; the next ones are not.
    pub(super) answers_probes: usize,
    /// The store says nothing of what it is switched to.
    pub(super) blind: bool,
    /// The store says that it has not switched, and has.
    pub(super) lies: bool,
    pub(super) retained: Vec<Vec<GenerationId>>,
    /// The store takes its time to switch.
    pub(super) slow: bool,
    pub(super) waiting: Vec<Effect>,
    /// It knows what the data takes, and refuses what cannot read that.
    pub(super) refuses_old_data: bool,
    /// Its processes do not end when they are told to.
    pub(super) holds_on: bool,
    /// Nobody is told of the end of an `after_rollback`.
    pub(super) deaf_hooks: bool,
    /// What generations say of the data.
    pub(super) data: BTreeMap<GenerationId, Data>,
    /// Those whose `before_switch` or `after_rollback` fails.
    pub(super) hooks_fail: BTreeSet<GenerationId>,
    /// Hooks that have run: before what was switched to, and after what was gone back from with its snapshot.
    pub(super) ran: Vec<(&'static str, GenerationId, Option<String>)>,
}

impl Bench {
    pub(super) fn new(policy: ServicePolicy, current: Option<&str>) -> Self {
        let mut bench = Self::not_begun(policy, current);
        bench.take(Event::Begin);
        bench
    }

    pub(super) fn not_begun(policy: ServicePolicy, current: Option<&str>) -> Self {
        let (world, _) = world(policy);
        Self {
            world,
            ms: 0,
            current: current.map(id),
            records: Vec::new(),
            answers: Vec::new(),
            spawned: Vec::new(),
            durable: true,
            damaged: Vec::new(),
            answers_probes: usize::MAX,
            blind: false,
            lies: false,
            retained: Vec::new(),
            slow: false,
            waiting: Vec::new(),
            refuses_old_data: false,
            holds_on: false,
            deaf_hooks: false,
            data: BTreeMap::new(),
            hooks_fail: BTreeSet::new(),
            ran: Vec::new(),
        }
    }

    /// A Hale that begins after this one, with what its records say.
    pub(super) fn next(&self) -> Self {
        let mut bench = Self::not_begun(policy(), self.current.as_ref().map(GenerationId::as_str));
        bench.ms = self.ms + 1_000;
        bench.world.birth.boot_id = String::from("the next one");
        let known = self.world.services[&bot()].known.generations.clone();
        bench.world.birth.generations.insert(bot(), known);
        bench
    }

    pub(super) fn outside(&mut self, generation: &str) {
        self.current = Some(id(generation));
        let seen = Seen::Current(self.current.clone());
        let data = self.says();
        self.take(Event::GenerationSeen { service: bot(), part: Part::Store, seen, data });
    }

    /// What the current one says of the data.
    fn says(&self) -> Data {
        self.current.as_ref().and_then(|id| self.data.get(id)).cloned().unwrap_or_default()
    }

    pub(super) fn now(&self) -> Now {
        Now { wall_us: 1_000_000_000 + i64::try_from(self.ms * 1_000).unwrap(), ..at(self.ms) }
    }

    /// One event, and all that follows from it at once.
    pub(super) fn take(&mut self, event: Event) {
        self.ms += 1;
        let now = self.now();
        let Output { records, effects } = step(&mut self.world, now, event);
        let newest = records.last().map(|record| record.id);
        self.records.extend(records);
        let mut events = Vec::new();
        for effect in effects {
            let seen = Seen::Current(self.current.clone());
            let part = Part::Files;
            if let Order::LookAtStore { part: Part::Files } = effect.order {
                // Nobody else writes to the files.
                let seen = Seen::Current(self.world.services[&bot()].known.generations.files.current.clone());
                events.push(Event::GenerationSeen { service: bot(), part, seen, data: Data::default() });
            } else if let Order::Switch { part: Part::Files, switch, to, .. } = effect.order {
                let (seen, data) = (Seen::Current(Some(to)), Data::default());
                events.push(Event::GenerationSwitched { service: bot(), part, switch, error: None, seen, data });
            } else if matches!(effect.order, Order::Switch { .. }) && self.slow {
                self.waiting.push(effect);
            } else if let Order::LookAtStore { part } = effect.order {
                let seen = if self.blind { Seen::Unknown { error: String::from("no answer") } } else { seen };
                let data = self.says();
                events.push(Event::GenerationSeen { service: bot(), part, seen, data });
            } else if let Order::Retain { needed, .. } = effect.order {
                self.retained.push(needed);
            } else if let Order::UndoData { switch, of, snapshot, .. } = effect.order {
                let error = self.hooks_fail.contains(&of).then(|| String::from("after_rollback failed"));
                self.ran.push(("after_rollback", of, snapshot));
                if !self.deaf_hooks {
                    events.push(Event::DataUndone { service: bot(), part: Part::Store, switch, error });
                }
            } else if let Order::Switch { switch, ref to, data_at_least, .. } = effect.order
                && self.refuses_old_data
                && self.data.get(to).map_or(0, |data| data.format) < data_at_least
            {
                let format = self.data.get(to).map_or(0, |data| data.format);
                let error = Some(SwitchError::DataMovedOn { format, at_least: data_at_least });
                events.push(Event::GenerationSwitched {
                    service: bot(),
                    part: Part::Store,
                    switch,
                    error,
                    seen,
                    data: self.says(),
                });
            } else if let Order::Switch { switch, ref to, towards: Towards::New, prepared: false, .. } = effect.order
                && let Some(data) = self.data.get(to).cloned()
            {
                self.ran.push(("before_switch", to.clone(), None));
                events.push(if self.hooks_fail.contains(to) {
                    let error = Some(SwitchError::Hook { error: String::from("before_switch failed") });
                    Event::GenerationSwitched {
                        service: bot(),
                        part: Part::Store,
                        switch,
                        error,
                        seen,
                        data: self.says(),
                    }
                } else {
                    Event::GenerationPrepared { service: bot(), part: Part::Store, switch, data }
                });
            } else if let Order::Switch { switch, ref over, .. } = effect.order
                && self.current.as_ref().is_some_and(|theirs| !over.contains(theirs))
            {
                let (part, error, data) = (Part::Store, None, self.says());
                events.push(Event::GenerationSwitched { service: bot(), part, switch, error, seen, data });
            } else if let Order::Switch { switch, to, .. } = effect.order {
                let error = self.damaged.contains(&to).then(|| SwitchError::Unusable { error: "damaged".into() });
                if error.is_none() {
                    self.current = Some(to);
                }
                let lie = || self.lies.then(|| SwitchError::Failed { error: String::from("no space left") });
                let error = error.or_else(lie);
                let is_blind = self.blind && error.is_some();
                let seen = Seen::Current(self.current.clone());
                let seen = if is_blind { Seen::Unknown { error: String::from("no answer") } } else { seen };
                events.push(Event::GenerationSwitched {
                    service: bot(),
                    part: Part::Store,
                    switch,
                    error,
                    seen,
                    data: self.says(),
                });
            } else if let Order::Promote { switch, .. } = effect.order {
                events.push(Event::GenerationPromoted { service: bot(), part: Part::Store, switch, error: None });
            } else if let Order::Spawn { generation, .. } = effect.order {
                let epoch = self.world.services[&bot()].known.last_epoch;
                self.spawned.push((epoch, generation));
                let process = Process { pid: 100, start_ticks: 1, pidfd_inode: 1, cgroup: None };
                events.push(Event::Spawned { service: bot(), epoch, process });
                events.push(Event::Executed { service: bot(), epoch });
            } else if let Order::Signal { .. } | Order::Kill = effect.order {
                let epoch = self.world.services[&bot()].known.last_epoch;
                if !self.holds_on {
                    events.push(exited(&bot(), epoch.0));
                }
            } else if let Order::Probe { probe, .. } = effect.order {
                if self.answers_probes > 0 {
                    self.answers_probes -= 1;
                    events.push(self.probed(probe, None, Span::ZERO));
                }
            } else if let Order::Reply { answer, .. } = effect.order {
                self.answers.push(answer);
            }
        }
        if let (Some(up_to), true) = (newest, self.durable) {
            events.push(Event::Durable { up_to });
        }
        events.into_iter().for_each(|event| self.take(event));
    }

    pub(super) fn probed(&self, probe: ProbeId, failure: Option<ProbeFailure>, took: Span) -> Event {
        let epoch = self.world.services[&bot()].known.last_epoch;
        let outcome = ProbeOutcome { took_us: took.as_us(), failure, detail: String::new(), figure: None, late_us: 0 };
        Event::Probed { service: bot(), epoch, probe, outcome }
    }

    /// The answer to the probe that runs.
    pub(super) fn answer(&mut self, failure: Option<ProbeFailure>, took: Span) {
        let (probe, _) = self.world.services[&bot()].senses.probes[0].in_flight.unwrap();
        self.take(self.probed(probe, failure, took));
    }

    /// The store has switched at last.
    pub(super) fn switched(&mut self) {
        for effect in core::mem::take(&mut self.waiting) {
            let Order::Switch { switch, to, .. } = effect.order else { continue };
            self.current = Some(to);
            let (seen, data) = (Seen::Current(self.current.clone()), self.says());
            self.take(Event::GenerationSwitched { service: bot(), part: Part::Store, switch, error: None, seen, data });
        }
    }

    pub(super) fn order(&mut self, order: OperatorOrder) {
        let actor = Actor { uid: 0, pid: 1, user: None };
        let question = Question::Order { actor, order, waits: true };
        self.take(Event::Asked { request: RequestId(9), question });
    }

    pub(super) fn deploy(&mut self, generation: &str) {
        self.order(OperatorOrder::Deploy { service: bot(), generation: id(generation), force: false });
    }

    /// The newest process ends with status 1.
    pub(super) fn crash(&mut self) {
        let epoch = self.world.services[&bot()].known.last_epoch;
        self.take(exited(&bot(), epoch.0));
    }

    /// Until this moment nothing happens but what is due.
    pub(super) fn pass(&mut self, span: Span) {
        let end = self.ms + span.as_ms();
        while let Some(due) = self.world.next_deadline().map(|due| due.as_us().div_ceil(1_000)).filter(|due| *due < end)
        {
            self.ms = self.ms.max(due);
            self.take(Event::Tick);
        }
        self.ms = end;
    }

    pub(super) fn known(&self) -> &Generations {
        &self.world.services[&bot()].known.generations.store
    }

    pub(super) fn ends(&self) -> Vec<&End> {
        self.records
            .iter()
            .filter_map(
                |record| {
                    if let Body::Generation(Move::Ended { end, .. }) = &record.body { Some(end) } else { None }
                },
            )
            .collect()
    }

    pub(super) fn runs(&self) -> Option<&str> {
        let known = &self.world.services[&bot()].known;
        known.phase.run().and(known.runs.store.as_ref()).map(GenerationId::as_str)
    }

    pub(super) fn outcomes(&self) -> Vec<Outcome> {
        let outcome = |record: &Record| {
            if let Body::IncidentClosed { outcome, .. } = record.body { Some(outcome) } else { None }
        };
        self.records.iter().filter_map(outcome).collect()
    }
}
