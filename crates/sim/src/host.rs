//! The fake host: virtual time, the fake kernel, probes, the ledger's disk and operators, behind the core's own
//! [`hale_core::driver::Host`].

mod blaming;
pub mod probing;
mod raising;
mod rebirth;
mod reload;
mod revive;
mod storing;

use crate::clocks::Clocks;
use crate::coverage::Coverage;
use crate::crash::Crashed;
use crate::death::Supervisor;
use crate::fault::Fault;
use crate::generations::{self, Doing};
use crate::kernel::{Around, Fact, Kernel};
use crate::oracle::{Ending, Judges, Seen};
use crate::rng::{Purpose, Rng};
use crate::scenario::{BEGIN_US, Scenario};
use crate::settled::Settled;
use crate::store::{Stores, Work};
use crate::timeline::{Item, Timeline};
use hale_core::analyze::checks::PROBE_LOST_AFTER;
use hale_core::driver::Host;
use hale_core::effect::{Answer, Effect, Fence, Order, Towards};
use hale_core::event::{EndWhy, Event, Question};
use hale_core::examination::EXAMINED_WITHIN;
use hale_core::ids::{GenerationId, Name, RecordId, RequestId};
use hale_core::policy::{Mode, Policy, ServicePolicy, Signal};
use hale_core::reason::Reason;
use hale_core::record::{Actor, Class, OperatorOrder, Record};
use hale_core::safeswitch::Part;
use hale_core::time::{Monotonic, Now, Span};
use hale_core::world::Snapshot;
use std::collections::{BTreeMap, VecDeque};

/// How often the same instant may be ticked: each step starts or wakes 64 services, and no scenario has 64,000.
const TICKS_AT_ONCE_MAX: u32 = 1_000;

/// More events than any run needs.
pub const EVENTS_MAX: u64 = 5_000_000;

/// A question about the state of a service is put after so many events, for the table of states.
const STATUS_EVERY: u64 = 17;

/// The first number of a dependency's generator of probe results, beyond all of services.
const DEPENDENCY_DICE: u64 = 1 << 32;

/// How long everything must stay healthy before the run is over, in microseconds.
const QUIET_US: u64 = 50_000;

/// Requests below this number are questions about the state; those from here on are orders.
pub const FIRST_ORDER: u64 = 1_000_000_000;

/// Requests from this number on are about generations.
const FIRST_DEPLOY: u64 = 3_000_000_000;

/// The fake host of one run.
pub struct FakeHost<'a> {
    scenario: &'a Scenario,
    timeline: Timeline,
    clocks: Clocks,
    kernel: Kernel,
    inbox: VecDeque<Event>,
    probe_dice: BTreeMap<Name, Rng>,
    ledger_dice: Rng,
    lateness_dice: Rng,
    starved_dice: Rng,
    status_dice: Rng,
    hang_up_dice: Rng,
    hook_dice: Rng,
    truths: blaming::Truths,
    /// What was reached.
    pub coverage: Coverage,
    /// The oracles.
    pub judges: Judges,
    /// All records, in order.
    pub records: Vec<Record>,
    /// Those that the supervisor knows of: all, but for what was lost with a journal.
    remembered: Vec<Record>,
    supervisor: Supervisor,
    stores: Stores,
    store_dice: BTreeMap<(Name, Part), Rng>,
    /// The state of the files that each service's newest process is on record with.
    files_to_run: BTreeMap<Name, GenerationId>,
    ledger: rebirth::Ledger,
    /// So many events, records and effects there were.
    points: u64,
    /// The death of [`Scenario::crash`], once it has happened.
    pub crashed: Option<Crashed>,
    settled: Settled,
    settled_since: Option<u64>,
    last_record: RecordId,
    policies: reload::Policies,
    disk_failed: bool,
    faults_over: bool,
    end_sent: Option<u64>,
    end_done: bool,
    /// When the run is given up.
    deadline: u64,
    /// When the run is given up, in events.
    pub events_max: u64,
    ticks_here: (u64, u32),
    /// How it ended.
    pub ending: Ending,
}

impl<'a> FakeHost<'a> {
    /// The host of `scenario`.
    #[must_use]
    pub fn new(scenario: &'a Scenario) -> Self {
        let dice = |purpose, index| Rng::new(scenario.seed, purpose, index, 0);
        let faults_end = BEGIN_US + scenario.faults_us;
        let probe_dice =
            scenario.policy.services.keys().map(|name| (name.clone(), dice(Purpose::Probe, scenario.index(name))));
        let dependencies = (DEPENDENCY_DICE..).zip(scenario.policy.dependencies.keys());
        let dependencies = dependencies.map(|(number, name)| (name.clone(), dice(Purpose::Probe, number)));
        let stores = scenario.generations.first.keys();
        let store_dice = stores.map(|name| ((name.clone(), Part::Store), dice(Purpose::Store, scenario.index(name))));
        let files = scenario.generations.files.keys();
        let of_files = |name: &Name| Rng::new(scenario.seed, Purpose::Files, scenario.index(name), 2);
        let files_dice = files.map(|name| ((name.clone(), Part::Files), of_files(name)));
        let mut host = Self {
            scenario,
            timeline: Timeline::default(),
            clocks: Clocks::new(scenario),
            kernel: Kernel::default(),
            inbox: VecDeque::new(),
            probe_dice: probe_dice.chain(dependencies).collect(),
            ledger_dice: dice(Purpose::Ledger, 0),
            lateness_dice: dice(Purpose::Lateness, 0),
            starved_dice: dice(Purpose::Starved, 1),
            status_dice: dice(Purpose::Orders, 1),
            hang_up_dice: dice(Purpose::Orders, 2),
            hook_dice: dice(Purpose::Store, 1 << 32),
            truths: blaming::Truths::default(),
            coverage: Coverage::default(),
            judges: Judges::new(scenario),
            records: Vec::new(),
            remembered: Vec::new(),
            supervisor: Supervisor::new(dice(Purpose::Death, 0)),
            stores: Stores::new(&scenario.generations),
            store_dice: store_dice.chain(files_dice).collect(),
            files_to_run: BTreeMap::new(),
            ledger: rebirth::Ledger::new(dice(Purpose::Generations, u64::MAX - 1)),
            points: 0,
            crashed: None,
            settled: Settled::new(&scenario.policy),
            settled_since: None,
            last_record: RecordId(0),
            policies: reload::Policies::new(&scenario.policy),
            disk_failed: false,
            faults_over: false,
            end_sent: None,
            end_done: false,
            deadline: faults_end + healing_bound_us(scenario),
            events_max: EVENTS_MAX,
            ticks_here: (0, 0),
            ending: Ending::default(),
        };
        host.timeline.advance_to(BEGIN_US);
        host.timeline.at(BEGIN_US, Item::Tell(Event::Begin));
        if scenario.rates.of(Fault::ResetByTimer) > 0 {
            host.timeline.at(BEGIN_US + 1_000, Item::TellFault(Fault::ResetByTimer, host.past()));
        }
        host.timeline.at(faults_end, Item::FaultsEnd);
        for (number, reload) in scenario.reloads.iter().enumerate() {
            host.timeline.at(BEGIN_US + reload.at_us, Item::Reload(number));
        }
        host.plan_orders();
        host.plan_generations();
        host.plan_disk();
        if let Some(end) = scenario.end_us {
            host.timeline.at(BEGIN_US + end, Item::TellFault(Fault::End, end_event()));
            if let Some(again) = scenario.end_again_us {
                host.timeline.at(BEGIN_US + end + again, Item::TellFault(Fault::EndTwice, end_event()));
            }
        }
        host
    }

    fn plan_orders(&mut self) {
        let mut rng = Rng::new(self.scenario.seed, Purpose::Orders, 0, 0);
        let mut request = FIRST_ORDER;
        let orders = [Fault::OrderStart, Fault::OrderStop, Fault::OrderRestart, Fault::OrderPause, Fault::OrderResume];
        for fault in orders {
            let mut rng = Rng::new(rng.bits(), Purpose::Orders, 0, 0);
            let rate = self.scenario.rates.of(fault);
            let count = if rate == 0 { 0 } else { 1 + u64::from(rate) / 100 };
            for _ in 0..count {
                let at = BEGIN_US + rng.scaled(1, self.scenario.faults_us);
                let index = rng.below(self.scenario.policy.services.len() as u64);
                let service = crate::scenario::name(usize::try_from(index).unwrap_or(0));
                request += 1;
                let lasts = rng.scaled(1_000, self.scenario.faults_us.max(1_001));
                self.timeline.at(at, Item::TellFault(fault, order(fault, service, request, lasts)));
            }
        }
        let dropped = self.scenario.rates.of(Fault::OutputDropped);
        if let Some(service) = self.scenario.policy.services.keys().next().filter(|_| dropped > 0) {
            let event = Event::OutputDropped { service: service.clone(), bytes: rng.scaled(1, 1 << 40) };
            let at = BEGIN_US + rng.scaled(1, self.scenario.faults_us);
            self.timeline.at(at, Item::TellFault(Fault::OutputDropped, event));
        }
    }

    fn plan_generations(&mut self) {
        for (request, (at, doing)) in (FIRST_DEPLOY..).zip(&self.scenario.generations.doings) {
            let item = match doing.clone() {
                Doing::Order(fault, order) => {
                    let question = Question::Order { actor: generations::actor(), order, waits: true };
                    Item::TellFault(fault, Event::Asked { request: RequestId(request), question })
                }
                Doing::Outside(service, part, to) => Item::OutsideSwitch(service, part, to),
                Doing::Dies(restart) => Item::HaleDies(restart),
            };
            self.timeline.at(BEGIN_US + at, item);
        }
    }

    fn plan_disk(&mut self) {
        let rate = self.scenario.rates.of(Fault::LedgerDegraded);
        for _ in 0..rate.div_ceil(100) {
            let at = BEGIN_US + self.ledger_dice.scaled(1, self.scenario.faults_us);
            let lasts = self.ledger_dice.scaled(1_000, 30_000_000);
            self.timeline.at(at, Item::DiskFails(lasts));
        }
    }

    fn with_kernel<T>(&mut self, act: impl FnOnce(&mut Kernel, &mut Around<'_>) -> T) -> T {
        let mut around = Around { timeline: &mut self.timeline, scenario: self.scenario, coverage: &mut self.coverage };
        let result = act(&mut self.kernel, &mut around);
        for fact in std::mem::take(&mut self.kernel.facts) {
            self.judges.see(self.timeline.now(), Seen::Fact(&fact));
        }
        result
    }

    /// Takes the next item of the plan.
    fn happen(&mut self) {
        let Some(item) = self.timeline.pop() else { return };
        match item {
            Item::Tell(event) => {
                if let Event::Durable { up_to } = event
                    && !self.supervisor.is_dead()
                {
                    self.synced(up_to);
                }
                self.inbox.push_back(event);
            }
            Item::TellFault(fault, event) => {
                self.coverage.fault(fault);
                if matches!(event, Event::End { .. }) {
                    self.end_begins();
                }
                self.inbox.push_back(event);
            }
            Item::DiskFails(lasts) => {
                if !self.faults_over && !self.disk_failed {
                    self.disk_failed = true;
                    self.coverage.fault(Fault::LedgerDegraded);
                    let error = String::from("No space left on device");
                    self.inbox.push_back(Event::LedgerDegraded { error });
                    self.timeline.after(lasts, Item::DiskWorks);
                }
            }
            Item::DiskWorks => self.disk_works(),
            Item::Reload(number) => self.reload(number),
            Item::StoreDone(service, part, turn) => self.store_done(&service, part, turn),
            Item::StoreTells(service, part) => self.store_tells(&service, part),
            Item::OutsideSwitch(service, part, to) => self.outside_switch(&service, part, to),
            Item::HaleDies(restart) => self.hale_dies(restart),
            Item::FaultsEnd => {
                self.faults_over = true;
                self.settled.faults_end();
                self.disk_works();
                if self.scenario.start_all && self.end_sent.is_none() {
                    let names = self.scenario.policy.services.keys().cloned();
                    for (request, name) in (FIRST_ORDER + 1_000_000..).zip(names) {
                        self.timeline.after(1_000, Item::Tell(order(Fault::OrderStart, name, request, 0)));
                    }
                }
            }
            item @ (Item::Executes(..)
            | Item::ExecFails(..)
            | Item::Up(..)
            | Item::EndsBy(..)
            | Item::EndsByFlaw(..)
            | Item::OomKills(..)
            | Item::Stalls(..)
            | Item::Dies(..)
            | Item::StraysEnd(..)
            | Item::Beats(..)
            | Item::Says(..)
            | Item::Turns(..)) => self.with_kernel(|kernel, around| kernel.happens(around, item)),
        }
    }

    fn disk_works(&mut self) {
        if std::mem::take(&mut self.disk_failed) {
            self.inbox.push_back(Event::LedgerRecovered);
            self.synced(self.last_record);
            self.inbox.push_back(Event::Durable { up_to: self.last_record });
        }
    }

    fn end_begins(&mut self) {
        if self.end_sent.is_none() {
            self.end_sent = Some(self.timeline.now());
            self.deadline = self.timeline.now() + ending_bound_us(self.scenario);
        }
    }

    /// Whether the run is over; sends the end where it belongs to the seed.
    fn over(&mut self) -> bool {
        if self.end_done || self.ending.spins || self.ending.endless {
            return true;
        }
        let now = self.timeline.now();
        if now > self.deadline {
            return true;
        }
        if !self.faults_over || self.end_sent.is_some() {
            return false;
        }
        let observes = self.scenario.policy.host.mode == Mode::Observe;
        if !(observes || self.unsettled(now).is_empty()) {
            self.settled_since = None;
            return false;
        }
        let since = *self.settled_since.get_or_insert(now);
        if now - since < QUIET_US {
            return false;
        }
        if self.scenario.end_after {
            self.end_begins();
            self.inbox.push_back(end_event());
            return false;
        }
        self.ending.at_rest = !observes;
        true
    }

    fn unsettled(&self, now: u64) -> Vec<String> {
        let is_flawed = |name: &Name| {
            let mut all = Part::ALL.into_iter().filter_map(|part| self.stores.current(name, part));
            all.any(|current| self.scenario.generations.own_flaw(name, current).is_some())
        };
        self.settled.missing(|name| self.kernel.works(name, now), is_flawed)
    }

    /// The next event, with the clock moved to it.
    fn fetch(&mut self, until: Option<Monotonic>) -> Option<Event> {
        loop {
            if let Some(event) = self.inbox.pop_front() {
                self.come_late();
                return Some(event);
            }
            if self.supervisor.is_dead() {
                return None;
            }
            let now = self.timeline.now();
            let due = until.map(|until| until.as_us().max(now));
            match (self.timeline.next_at(), due) {
                (Some(at), due) if due.is_none_or(|due| at <= due) => self.happen(),
                // It is over before that.
                (None, Some(due)) if due > self.deadline => return None,
                (_, Some(due)) => {
                    self.timeline.advance_to(due);
                    self.count_tick(due);
                    self.come_late();
                    return Some(Event::Tick);
                }
                (_, None) => return None,
            }
            if self.timeline.now() > self.deadline {
                return None;
            }
        }
    }

    /// The loop is scheduled late: other things happen before it looks at its event.
    fn come_late(&mut self) {
        let rate = self.scenario.rates.of(Fault::Lateness);
        if self.faults_over || rate == 0 || !self.lateness_dice.chance(rate / 10) {
            return;
        }
        self.coverage.fault(Fault::Lateness);
        let until = self.timeline.now() + self.lateness_dice.scaled(1_000, 2_000_000);
        while self.timeline.next_at().is_some_and(|at| at <= until) {
            self.happen();
        }
        self.timeline.advance_to(until);
    }

    fn count_tick(&mut self, now: u64) {
        let (at, ticks) = &mut self.ticks_here;
        *ticks = if *at == now { *ticks + 1 } else { 0 };
        *at = now;
        self.ending.spins |= *ticks > TICKS_AT_ONCE_MAX;
    }

    fn ask_status(&mut self) -> Event {
        let index = self.status_dice.below(self.scenario.policy.services.len() as u64);
        let service = Some(crate::scenario::name(usize::try_from(index).unwrap_or(0)));
        Event::Asked { request: RequestId(self.coverage.events + 1), question: Question::Status { service } }
    }

    /// Closes the run: what is still missing, and what the oracles say to it.
    pub fn close(&mut self) {
        let now = self.timeline.now();
        self.ending.at_us = now;
        self.ending.end_awaited = self.end_sent.is_some() && !self.end_done;
        if self.end_sent.is_none() && self.scenario.policy.host.mode == Mode::Heal {
            self.ending.unsettled = self.unsettled(now);
        }
        self.judges.end(&self.ending);
        self.coverage.virtual_us += now - BEGIN_US;
    }
}

impl Host for FakeHost<'_> {
    fn now(&mut self) -> Now {
        self.clocks.read(self.timeline.now(), &mut self.coverage)
    }

    fn next(&mut self, until: Option<Monotonic>) -> Option<Event> {
        let rate = |fault| if self.faults_over { 0 } else { self.scenario.rates.of(fault).div_ceil(50) };
        if !self.supervisor.steps(rate(Fault::SupervisorDies), rate(Fault::GuardianDies)) {
            return None;
        }
        while !self.over() {
            // What the guardian tells comes before anything else.
            let begins = matches!(self.inbox.front(), Some(Event::TakeOver { .. } | Event::Begin));
            let asks = !begins && (self.coverage.events + 1).is_multiple_of(STATUS_EVERY);
            let event = if asks { Some(self.ask_status()) } else { self.fetch(until) };
            let Some(event) = event else {
                if self.supervisor.is_dead() {
                    return None;
                }
                // Nothing is planned and nobody wants to be woken: only time passes.
                self.timeline.advance_to(self.timeline.now() + QUIET_US);
                continue;
            };
            if self.supervisor.is_dead() {
                // All of Hale died meanwhile.
                return None;
            }
            if self.dies_here() {
                self.crash();
                return None;
            }
            self.hears_of_store(&event);
            self.coverage.events += 1;
            self.ending.endless = self.coverage.events > self.events_max;
            self.judges.see(self.timeline.now(), Seen::Event(&event));
            return Some(event);
        }
        None
    }

    fn write(&mut self, records: &[Record]) {
        let full = if self.faults_over { 0 } else { self.scenario.rates.of(Fault::JournalFull).div_ceil(20) };
        if self.ledger_dice.chance(full) {
            self.coverage.fault(Fault::JournalFull);
            self.supervisor.fill(self.timeline.now());
        }
        let at = records.iter().position(|_| self.dies_here());
        let dies = at.is_some();
        let written = at.map_or(records.len(), |at| self.is_written(at + 1, records.len()));
        let records = &records[..written];
        if !self.supervisor.writes(records) {
            return;
        }
        self.write_down(records);
        if dies {
            self.crash();
        }
    }

    fn wants_snapshot(&self) -> bool {
        // Once the ledger has the records: not at once.
        let is_wanted = self.policies.is_unsettled() && self.coverage.events.is_multiple_of(7);
        self.supervisor.wants_snapshot(self.timeline.now(), is_wanted)
    }

    fn keep(&mut self, snapshot: &Snapshot) {
        self.supervisor.keep(snapshot, self.remembered.len());
        self.policies.settle(&snapshot.policy);
    }

    fn perform(&mut self, effect: Effect) {
        if !self.supervisor.performs() {
            return;
        }
        self.do_perform(&effect);
        if self.dies_here() {
            self.crash();
        }
    }
}

impl FakeHost<'_> {
    fn write_down(&mut self, records: &[Record]) {
        let now = self.timeline.now();
        let mut durable = false;
        for record in records {
            self.compare_blame(record);
            self.judges.see(now, Seen::Record(record));
            self.coverage.record(&record.body);
            self.settled.follow(record);
            self.take_up(record);
            self.follow_start(record);
            self.last_record = record.id;
            durable |= record.body.class() == Class::Durable;
        }
        self.records.extend_from_slice(records);
        self.remembered.extend_from_slice(records);
        let refuses = self.scenario.rates.of(Fault::DurableRefused);
        if durable && !self.faults_over && self.ledger_dice.chance(refuses) {
            self.coverage.fault(Fault::DurableRefused);
            let refused = records.iter().filter(|record| record.body.class() == Class::Durable);
            self.ledger.refuse(records);
            self.inbox.extend(refused.map(|record| Event::NotDurable { record: record.id }));
            return;
        }
        if self.disk_failed || !(durable || self.ledger_dice.chance(100)) {
            return;
        }
        let dice = &mut self.ledger_dice;
        let (late, missing) =
            (self.scenario.rates.of(Fault::DurableLate), self.scenario.rates.of(Fault::DurableMissing));
        let usual = dice.scaled(500, 5_000);
        let (late, missing) = (dice.chance(late).then(|| dice.scaled(10_000, 20_000_000)), dice.chance(missing));
        if missing && !self.faults_over {
            self.coverage.fault(Fault::DurableMissing);
            return;
        }
        let delay = late.filter(|_| !self.faults_over);
        if delay.is_some() {
            self.coverage.fault(Fault::DurableLate);
        }
        self.timeline.after(delay.unwrap_or(usual), Item::Tell(Event::Durable { up_to: self.last_record }));
    }

    fn do_perform(&mut self, effect: &Effect) {
        self.judges.see(self.timeline.now(), Seen::Effect(effect));
        let (service, epoch) = match &effect.fence {
            Fence::Service { service, epoch } => (service, *epoch),
            Fence::Host => {
                match &effect.order {
                    Order::EndDone => self.end_done = true,
                    Order::Control { probe } => self.control(*probe),
                    Order::ProbeDependency { dependency, probe, check, policy } => {
                        self.probe_dependency(dependency, *probe, *check, policy);
                    }
                    Order::Reply { request, answer: Answer::Done { .. } | Answer::Refused(_) } => {
                        self.policies.answered(*request);
                    }
                    Order::Reply { answer: Answer::Status(report), .. } => {
                        report.services.iter().for_each(|service| self.coverage.state(service.state));
                    }
                    _ => {}
                }
                return;
            }
        };
        match &effect.order {
            Order::Spawn { policy, stored, generation } => {
                let runs = self.compare_generations(service, generation.as_ref());
                self.with_kernel(|kernel, around| kernel.spawn(around, service, epoch, policy, stored, &runs));
            }
            Order::Store { stored, .. } => {
                self.with_kernel(|kernel, _| kernel.store(service, stored));
                let rate = if self.faults_over { 0 } else { self.scenario.rates.of(Fault::HangsUp) };
                if stored.watched && self.hang_up_dice.chance(rate) {
                    let (service, why) = (service.clone(), Reason::DescriptorHungUp);
                    let event = Event::DescriptorGone { service, stored: stored.id, why };
                    let after = self.hang_up_dice.scaled(1_000, 60_000_000);
                    self.timeline.after(after, Item::TellFault(Fault::HangsUp, event));
                }
            }
            Order::Unstore { index } => self.kernel.left.unstore(service, *index),
            Order::Signal { signal } => {
                self.with_kernel(|kernel, around| kernel.signal(around, service, epoch, *signal));
            }
            Order::Kill => self.with_kernel(|kernel, around| kernel.kill(around, service, epoch)),
            Order::Probe { probe, check, policy, anew: _ } => self.probe(service, epoch, *probe, *check, policy),
            Order::Collect { incident, .. } => self.collect(service, epoch, *incident),
            Order::Examine => {
                // Sometimes it cannot, sometimes it is too late, and sometimes it does not answer.
                let (found, after_us) = match effect.id.0 % 4 {
                    0 => return,
                    1 => (None, 1_000),
                    2 => (Some(Box::default()), 2 * EXAMINED_WITHIN.as_us()),
                    _ => (Some(Box::default()), 3_000),
                };
                self.timeline.after(after_us, Item::Tell(Event::Examined { service: service.clone(), epoch, found }));
            }
            Order::AckExit => self.kernel.acknowledge(service, epoch),
            // The kernel has nothing of what the host has made for it.
            Order::Forget => {}
            Order::LookAtStore { part } => self.order_store(service, *part, Work::Look),
            Order::Switch { switch, to, back, over, towards, data_at_least, prepared, part } => {
                let (switch, to, has_back, data_at_least) = (*switch, to.clone(), back.is_some(), *data_at_least);
                let (prepares, over) = (*towards == Towards::New && !prepared, over.clone());
                self.order_store(service, *part, Work::Switch { switch, to, has_back, over, prepares, data_at_least });
            }
            Order::UndoData { switch, of, part, .. } => {
                let fact = Fact::Undoes { service: service.clone(), beside: self.kernel.living(service) };
                self.judges.see(self.timeline.now(), Seen::Fact(&fact));
                self.order_store(service, *part, Work::Undo { switch: *switch, of: of.clone() });
            }
            Order::Promote { switch, part, .. } => self.order_store(service, *part, Work::Promote { switch: *switch }),
            // What may not be removed an oracle knows.
            Order::Retain { .. } => {}
            Order::ProbeDependency { .. }
            | Order::Control { .. }
            | Order::Adapt { .. }
            | Order::Reply { .. }
            | Order::Prove { .. }
            | Order::MayReboot { .. }
            | Order::Reboot
            | Order::EndDone => {}
        }
    }
}

fn end_event() -> Event {
    Event::End { why: EndWhy::Signal(Signal::TERM) }
}

/// `lasts_us`: of a pause.
fn order(fault: Fault, service: Name, request: u64, lasts_us: u64) -> Event {
    let order = match fault {
        Fault::OrderStop => OperatorOrder::Stop { service },
        Fault::OrderRestart => OperatorOrder::Restart { service },
        Fault::OrderPause => OperatorOrder::Pause { service, lasts: Span::from_us(lasts_us) },
        Fault::OrderResume => OperatorOrder::Resume { service },
        _ => OperatorOrder::Start { service },
    };
    let actor = Actor { uid: 1_000, pid: 4_711, user: Some(String::from("anna")) };
    Event::Asked { request: RequestId(request), question: Question::Order { actor, order, waits: true } }
}

/// How long ending one tree can take: what it may ask for, its grace, and a little for the kernel.
fn stop_bound_us(scenario: &Scenario, policy: &ServicePolicy) -> u64 {
    // A process can ask for more time once more when it is asked to end, each time for at most the fault phase.
    policy.stop.grace.as_us() + 2 * scenario.faults_us + 1_000_000
}

/// How long after the end of all faults everything must be healthy.
///
/// A service may be broken when faults end, be found broken, fail once more with what it was left with, and be held
/// for its longest delay each time; all of them may have to come up one after the other.
fn healing_bound_us(scenario: &Scenario) -> u64 {
    let policies = scenario.reloads.iter().filter_map(|reload| reload.policy.as_ref()).chain([&scenario.policy]);
    policies.map(|policy| healing_bound_by(scenario, policy)).max().unwrap_or_default()
}

fn healing_bound_by(scenario: &Scenario, policy: &Policy) -> u64 {
    let one = |policy: &std::sync::Arc<ServicePolicy>| {
        let check = |check: &hale_core::policy::CheckPolicy| {
            let lost = check.timeout.plus(PROBE_LOST_AFTER).plus(check.every).as_us();
            lost * u64::from(check.failures + 1)
        };
        let found = policy.checks.iter().map(check).max().unwrap_or_default();
        let start = policy.start.within.as_us() + 2 * scenario.faults_us;
        2 * (found + start + stop_bound_us(scenario, policy))
    };
    let held = policy.services.values().map(|policy| {
        let restart = &policy.restart;
        restart.held_delay.max(hale_core::policy::HELD_DELAY_MAX).max(restart.max_delay).as_us() / 4 * 5
    });
    let dependency = |policy: &std::sync::Arc<hale_core::policy::DependencyPolicy>| {
        let check = |check: &hale_core::policy::CheckPolicy| {
            let one = check.timeout.plus(PROBE_LOST_AFTER).plus(check.every).as_us();
            one * u64::from(check.failures + check.successes + 1)
        };
        policy.checks.iter().map(check).max().unwrap_or_default()
    };
    let dependencies = policy.dependencies.values().map(dependency).max().unwrap_or_default();
    // A pause may have begun in the last moment, and be told late.
    let paused = scenario.faults_us + hale_core::step::DURABLE_WITHIN.as_us();
    paused
        + 2 * (held.max().unwrap_or_default() + dependencies)
        + policy.services.values().map(one).sum::<u64>()
        + 60_000_000
}

/// How long the end of everything may take: what cannot be killed is waited for until
/// [`hale_core::world::phase::UNKILLABLE_AFTER`].
fn ending_bound_us(scenario: &Scenario) -> u64 {
    let stop = |policy: &std::sync::Arc<ServicePolicy>| stop_bound_us(scenario, policy) + 15_000_000;
    scenario.policy.services.values().map(stop).sum::<u64>() + 60_000_000
}
