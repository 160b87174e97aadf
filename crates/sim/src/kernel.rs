//! The fake kernel and guardian: which processes exist, and what becomes of the orders about them.
//!
//! It is the truth that oracles judge by; what Hale believes plays no part.

mod fact;
mod lost;

pub use fact::Fact;

use crate::coverage::Coverage;
use crate::fate::{Birth, Fate, Flaw, OomVictim};
use crate::fault::Fault;
use crate::left::Left;
use crate::scenario::{BEGIN_US, Scenario};
use crate::timeline::{Item, Timeline};
use hale_core::analyze::stall::Stall;
use hale_core::descriptor::Stored;
use hale_core::event::{Event, ExitStatus, Found, Life, Notice, Process, SpawnFailure};
use hale_core::ids::{Epoch, GenerationId, Name};
use hale_core::memory::{MemoryAtExit, MemoryReport, OomKills, OomScope, Pressure};
use hale_core::policy::{ServicePolicy, Signal};
use hale_core::safeswitch::Parts;
use hale_core::time::Span;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the OOM killer always does here.
const OOM_KILLS: OomKills = OomKills { count: 1, scope: OomScope::OwnLimit };

/// How often the kernel speaks of a stall.
const STALL_EVERY_US: u64 = 1_000_000;

/// One process and what it forked.
#[derive(Debug)]
struct Tree {
    epoch: Epoch,
    pid: i32,
    made_at: u64,
    fate: Fate,
    policy: Arc<ServicePolicy>,
    main: bool,
    executed_at: Option<u64>,
    strays: u32,
    /// Somebody waits for its end (after a signal or a kill).
    watched: bool,
    told_empty: bool,
    killed: bool,
    /// Its guardian was lost: it is no child of the one that there is now.
    orphan: bool,
    /// No guardian knows it.
    nobodys: bool,
}

impl Tree {
    fn lives(&self) -> bool {
        self.main || self.strays > 0
    }
}

/// All processes.
#[derive(Debug, Default)]
pub struct Kernel {
    trees: BTreeMap<Name, Vec<Tree>>,
    newest: BTreeMap<Name, Epoch>,
    /// Ends that the guardian keeps until they are acknowledged.
    ends: BTreeMap<Name, (Epoch, Life)>,
    /// When the guardian's last word about a service arrives: its words do not overtake each other.
    said_at: BTreeMap<Name, u64>,
    pids: i32,
    /// What services left.
    pub left: Left,
    /// What happened since the host looked last.
    pub facts: Vec<Fact>,
}

/// What the kernel needs of the rest of the world.
pub struct Around<'a> {
    /// The clock and the plan.
    pub timeline: &'a mut Timeline,
    /// What this seed means.
    pub scenario: &'a Scenario,
    /// What was reached.
    pub coverage: &'a mut Coverage,
}

impl Around<'_> {
    /// Since the beginning.
    fn age(&self) -> u64 {
        self.timeline.now().saturating_sub(BEGIN_US)
    }

    fn faults_over(&self) -> bool {
        self.age() >= self.scenario.faults_us
    }
}

impl Kernel {
    fn tree(&mut self, service: &Name, epoch: Epoch) -> Option<&mut Tree> {
        self.trees.get_mut(service)?.iter_mut().find(|tree| tree.epoch == epoch)
    }

    /// How many trees of the service have a process.
    #[must_use]
    pub fn living(&self, service: &Name) -> usize {
        self.trees.get(service).map_or(0, |trees| trees.iter().filter(|tree| tree.lives()).count())
    }

    /// Whether exactly one process of the service runs and no check of it can see anything wrong.
    #[must_use]
    pub fn works(&self, service: &Name, now: u64) -> bool {
        let Some([tree]) = self.trees.get(service).map(Vec::as_slice) else { return false };
        let Some(executed_at) = tree.executed_at else { return false };
        tree.main && !tree.killed && !tree.fate.visibly_broken(&tree.policy, now.saturating_sub(executed_at))
    }

    /// The life of a living process, and since when its program runs.
    #[must_use]
    pub fn life(&self, service: &Name, epoch: Epoch) -> Option<(&Fate, Option<u64>)> {
        let tree = self.trees.get(service)?.iter().find(|tree| tree.epoch == epoch && tree.main)?;
        Some((&tree.fate, tree.executed_at))
    }

    /// The guardian's word about a service, `delay` from now, behind all its earlier words about it.
    fn say(&mut self, around: &mut Around<'_>, delay: u64, service: &Name, event: Event) {
        let at = self.said_at.entry(service.clone()).or_default();
        *at = (*at).max(around.timeline.now() + delay);
        around.timeline.at(*at, Item::Tell(event));
    }

    /// The order to make a process.
    pub fn spawn(
        &mut self,
        around: &mut Around<'_>,
        service: &Name,
        epoch: Epoch,
        policy: &Arc<ServicePolicy>,
        passed: &[Stored],
        runs: &Parts<Option<GenerationId>>,
    ) {
        if self.trees.get(service).is_some_and(|trees| trees.iter().any(|tree| tree.nobodys)) {
            // Its group is not empty, and nobody has it on record.
            let failure = failure("cgroup", "", 16, "Device or resource busy");
            let event = Event::SpawnFailed { service: service.clone(), epoch, failure };
            self.say(around, 50, service, event);
            return;
        }
        let (forgotten, missing) = self.left.compare(service, passed);
        self.facts.push(Fact::Passed { service: service.clone(), epoch, forgotten, missing });
        let newest = self.newest.get(service).copied().unwrap_or_default();
        if epoch <= newest {
            self.facts
                .push(Fact::Impossible(format!("{service} epoch {epoch} was used already, the newest is {newest}")));
        }
        self.newest.insert(service.clone(), newest.max(epoch));
        let fate = around.scenario.fate(service, epoch, around.age(), runs);
        if runs.store.is_some() && around.scenario.generations.is_elsewhere(service, around.age()) {
            around.coverage.fault(Fault::Environment);
        }
        if fate.spawned_after > 1_000 {
            around.coverage.fault(Fault::SpawnLate);
        }
        if fate.birth == Birth::NoFork {
            around.coverage.fault(Fault::NoFork);
            let failure = failure("fork", "", 11, "Resource temporarily unavailable");
            self.ends.insert(service.clone(), (epoch, Life::NotMade { failure: failure.clone() }));
            let event = Event::SpawnFailed { service: service.clone(), epoch, failure };
            self.say(around, fate.spawned_after, service, event);
            return;
        }
        self.facts.push(Fact::Forked { service: service.clone(), epoch, beside: self.living(service) });
        self.pids += 1;
        let pid = self.pids;
        let process = process(pid, around.timeline.now());
        self.say(around, fate.spawned_after, service, Event::Spawned { service: service.clone(), epoch, process });
        let then = if fate.birth == Birth::NoFile { Item::ExecFails } else { Item::Executes };
        around.timeline.after(fate.executed_after, then(service.clone(), epoch));
        self.trees.entry(service.clone()).or_default().push(Tree {
            epoch,
            pid,
            made_at: around.timeline.now(),
            fate,
            policy: policy.clone(),
            main: true,
            executed_at: None,
            strays: 0,
            watched: false,
            told_empty: false,
            killed: false,
            orphan: false,
            nobodys: false,
        });
    }

    /// The order to keep a descriptor.
    pub fn store(&mut self, service: &Name, stored: &Stored) {
        if !self.left.store(service, stored) {
            self.facts.push(Fact::Impossible(format!("{service}: place {} is taken", stored.index)));
        }
    }

    /// A process leaves descriptors.
    fn leaves(&mut self, around: &mut Around<'_>, service: &Name, epoch: Epoch, count: u32) {
        for notice in self.left.notices(count) {
            let event = Event::Notified { service: service.clone(), epoch, notice };
            around.timeline.after(50, Item::TellFault(Fault::Leaves, event));
        }
    }

    /// The order to signal a tree. Whoever has no tree left is told so.
    pub fn signal(&mut self, around: &mut Around<'_>, service: &Name, epoch: Epoch, signal: Signal) {
        self.fence(service, epoch, "signal");
        if let Some(tree) = self.tree(service, epoch) {
            let (fate, pid) = (tree.fate.clone(), tree.pid);
            if let Some(span) = fate.extends {
                let notice = Notice::ExtendTimeout(Span::from_us(span));
                around.timeline.after(50, Item::Says(service.clone(), epoch, notice, Fault::ExtendTimeout));
            }
            if fate.ignores_term {
                around.coverage.fault(Fault::IgnoresTerm);
            } else {
                if fate.term_takes > 5_000 {
                    around.coverage.fault(Fault::EndsSlowly);
                }
                let by_itself = pid % 2 == 0;
                let status =
                    if by_itself { ExitStatus::Code(0) } else { ExitStatus::Signal { signal, core_dumped: false } };
                around.timeline.after(fate.term_takes, Item::Dies(service.clone(), epoch, status));
                around.timeline.after(fate.term_takes, Item::StraysEnd(service.clone(), epoch));
            }
        }
        self.watch(around, service, epoch);
    }

    /// The order to kill a tree.
    pub fn kill(&mut self, around: &mut Around<'_>, service: &Name, epoch: Epoch) {
        self.fence(service, epoch, "kill");
        if let Some(tree) = self.tree(service, epoch) {
            tree.killed = true;
            let now = around.timeline.now();
            let at = dies_at(around.scenario, now, tree.fate.survives_kill);
            if at > now + 100 {
                around.coverage.fault(Fault::Uninterruptible);
            }
            end_at(around.timeline, at, service, epoch);
        }
        self.watch(around, service, epoch);
    }

    /// The guardian may forget how this process ended.
    pub fn acknowledge(&mut self, service: &Name, epoch: Epoch) {
        if self.ends.get(service).is_some_and(|(ended, _)| *ended == epoch) {
            self.ends.remove(service);
        }
    }

    /// The supervisor is gone: nobody waits for the end of any tree.
    pub fn forget_watches(&mut self) {
        self.trees.values_mut().flatten().for_each(|tree| tree.watched = false);
        self.facts.push(Fact::SupervisorDied);
    }

    /// What the guardian tells a new supervisor.
    #[must_use]
    pub fn found(&self) -> BTreeMap<Name, Found> {
        let found = |(service, epoch): (&Name, &Epoch)| {
            let trees = self.trees.get(service).map(Vec::as_slice).unwrap_or_default();
            let tree = trees.iter().find(|tree| tree.epoch == *epoch && tree.lives());
            let running = |tree: &Tree| Life::Running {
                process: process(tree.pid, tree.made_at),
                // Whoever took it over cannot tell.
                executed: tree.executed_at.is_some() || tree.orphan,
            };
            let kept = self.ends.get(service).filter(|(ended, _)| ended == epoch).map(|(_, life)| life.clone());
            let life = tree.filter(|tree| tree.main && !tree.nobodys).map(running).or(kept).unwrap_or(Life::Over);
            (service.clone(), Found { epoch: *epoch, life, tree_empty: tree.is_none() })
        };
        self.newest.iter().map(found).collect()
    }

    /// Running processes that have said that they are ready.
    #[must_use]
    pub fn said_ready(&self, now: u64) -> Vec<(Name, Epoch)> {
        let said = |tree: &Tree| {
            let up = tree.executed_at.zip(tree.fate.up_after).map(|(at, after)| at + after);
            let hangs = tree.fate.hangs_after.is_some_and(|at| tree.fate.up_after.is_some_and(|up| at <= up));
            tree.main && !tree.nobodys && !hangs && up.is_some_and(|up| up + tree.fate.says_ready_after < now)
        };
        let of = |(service, trees): (&Name, &Vec<Tree>)| {
            let tree = trees.iter().find(|tree| tree.policy.wants_notify() && said(tree))?;
            Some((service.clone(), tree.epoch))
        };
        self.trees.iter().filter_map(of).collect()
    }

    fn fence(&mut self, service: &Name, epoch: Epoch, what: &str) {
        let newest = self.newest.get(service).copied().unwrap_or_default();
        if epoch != newest {
            self.facts.push(Fact::Impossible(format!("{what} for {service} epoch {epoch}, the newest is {newest}")));
        }
    }

    fn watch(&mut self, around: &mut Around<'_>, service: &Name, epoch: Epoch) {
        match self.tree(service, epoch) {
            Some(tree) => {
                tree.watched = true;
                self.look_for_empty(around, service, epoch);
            }
            None => self.say(around, 50, service, Event::TreeEmpty { service: service.clone(), epoch }),
        }
    }

    /// Says that a tree is empty, where somebody waits for that; forgets trees that are gone.
    fn look_for_empty(&mut self, around: &mut Around<'_>, service: &Name, epoch: Epoch) {
        let Some(tree) = self.tree(service, epoch) else { return };
        if tree.lives() {
            return;
        }
        let tell = tree.watched && !tree.told_empty;
        let again = around.scenario.rates.of(Fault::TreeEmptyTwice) > 0 && !around.faults_over();
        let dice = u32::try_from(tree.pid).unwrap_or(0).wrapping_mul(7919) % 1_000;
        let again = again && tree.watched && dice < around.scenario.rates.of(Fault::TreeEmptyTwice);
        self.trees.entry(service.clone()).or_default().retain(Tree::lives);
        for _ in 0..u8::from(tell) + u8::from(again) {
            self.say(around, 150, service, Event::TreeEmpty { service: service.clone(), epoch });
        }
        if again {
            around.coverage.fault(Fault::TreeEmptyTwice);
        }
    }

    /// The main process ends now.
    fn die(
        &mut self,
        around: &mut Around<'_>,
        service: &Name,
        epoch: Epoch,
        status: ExitStatus,
        memory: Option<MemoryAtExit>,
    ) {
        let Some(tree) = self.tree(service, epoch).filter(|tree| tree.main) else { return };
        let status = if tree.orphan { lost::orphans_status(around, status) } else { status };
        let Some(tree) = self.tree(service, epoch) else { return };
        tree.main = false;
        if tree.nobodys {
            // Nobody waits for the end of its main process, and somebody may for that of all.
            self.look_for_empty(around, service, epoch);
            return;
        }
        let (tree_empty, pid, leaves) = (tree.strays == 0, tree.pid, u32::from(tree.fate.leaves > 0));
        tree.told_empty = tree_empty;
        let (strays_last, late) = (tree.fate.strays_last, tree.fate.late_notice);
        if !tree_empty {
            around.coverage.fault(Fault::Strays);
        }
        if let Some(last) = strays_last {
            around.timeline.after(last, Item::StraysEnd(service.clone(), epoch));
        }
        if late {
            let notice = Event::Notified { service: service.clone(), epoch, notice: Notice::Heartbeat };
            around.timeline.after(100_000, Item::TellFault(Fault::LateNotice, notice));
        }
        self.leaves(around, service, epoch, leaves);
        // A new supervisor does not know what the one before it was told: it hears of all that was in this life.
        let kept = memory.map(|at_exit| MemoryAtExit { oom: Some(OOM_KILLS), ..at_exit });
        self.ends.insert(service.clone(), (epoch, Life::Ended { pid, status, memory: kept }));
        self.say(around, 150, service, Event::Exited { service: service.clone(), epoch, status, tree_empty, memory });
        self.look_for_empty(around, service, epoch);
    }

    /// Something that was planned for a process happens.
    pub fn happens(&mut self, around: &mut Around<'_>, item: Item) {
        match item {
            Item::Executes(service, epoch) => self.executes(around, &service, epoch),
            Item::ExecFails(service, epoch) => {
                if self.tree(&service, epoch).is_some_and(|tree| tree.main && tree.orphan) {
                    self.die(around, &service, epoch, ExitStatus::Code(1), None);
                } else if self.tree(&service, epoch).is_some_and(|tree| tree.main && tree.fate.birth == Birth::NoFile) {
                    around.coverage.fault(Fault::NoFile);
                    self.trees.entry(service.clone()).or_default().retain(|tree| tree.epoch != epoch);
                    let failure = failure("exec", "/bin/service", 2, "No such file or directory");
                    self.ends.insert(service.clone(), (epoch, Life::NotMade { failure: failure.clone() }));
                    self.say(around, 50, &service, Event::SpawnFailed { service: service.clone(), epoch, failure });
                }
            }
            Item::Up(service, epoch) => self.up(around, &service, epoch),
            Item::EndsBy(service, epoch, status, fault) => {
                if !around.faults_over() && self.tree(&service, epoch).is_some_and(|tree| tree.main && !tree.killed) {
                    around.coverage.fault(fault);
                    self.die(around, &service, epoch, status, None);
                }
            }
            Item::EndsByFlaw(service, epoch) => {
                if self.tree(&service, epoch).is_some_and(|tree| tree.main && !tree.killed) {
                    around.coverage.fault(Fault::BadGeneration);
                    self.die(around, &service, epoch, ExitStatus::Code(70), None);
                }
            }
            Item::OomKills(service, epoch, victim) => self.oom_kills(around, &service, epoch, victim),
            Item::Stalls(service, epoch) => self.stalls(around, &service, epoch),
            Item::Dies(service, epoch, status) => self.die(around, &service, epoch, status, None),
            Item::StraysEnd(service, epoch) => {
                if let Some(tree) = self.tree(&service, epoch) {
                    // What a living main process has forked ends with an order only.
                    if !tree.main || tree.watched {
                        tree.strays = 0;
                        self.look_for_empty(around, &service, epoch);
                    }
                }
            }
            Item::Beats(service, epoch) => self.beats(around, &service, epoch),
            Item::Says(service, epoch, notice, fault) => {
                if self.tree(&service, epoch).is_some_and(|tree| tree.main) && !around.faults_over() {
                    around.coverage.fault(fault);
                    around.timeline.after(50, Item::Tell(Event::Notified { service, epoch, notice }));
                }
            }
            Item::Turns(service, epoch, fault) => {
                // A process that was to misbehave after the end of all faults does not any more.
                let over = around.faults_over();
                let Some(tree) = self.tree(&service, epoch).filter(|tree| tree.main) else { return };
                if over {
                    let flaw = tree.fate.flaw;
                    match fault {
                        Fault::Hang => {
                            tree.fate.hangs_after = if let Some(Flaw::Hangs(at)) = flaw { Some(at) } else { None };
                        }
                        Fault::Slow => tree.fate.slow_after = None,
                        Fault::Wrong => {
                            tree.fate.wrong_after = if let Some(Flaw::Wrong(at)) = flaw { Some(at) } else { None };
                        }
                        _ => tree.fate.silent_after = None,
                    }
                } else {
                    around.coverage.fault(fault);
                }
            }
            Item::Tell(_)
            | Item::TellFault(..)
            | Item::DiskFails(_)
            | Item::DiskWorks
            | Item::Reload(_)
            | Item::StoreDone(..)
            | Item::StoreTells(..)
            | Item::OutsideSwitch(..)
            | Item::HaleDies(_)
            | Item::FaultsEnd => {}
        }
    }

    /// The kernel takes a process of a tree for memory.
    fn oom_kills(&mut self, around: &mut Around<'_>, service: &Name, epoch: Epoch, victim: OomVictim) {
        let over = around.faults_over();
        let Some(tree) = self.tree(service, epoch).filter(|tree| !over && tree.main && !tree.killed && !tree.nobodys)
        else {
            return;
        };
        tree.strays = if victim == OomVictim::Other { tree.strays.saturating_sub(1) } else { tree.strays };
        around.coverage.fault(Fault::OomKill);
        let memory = MemoryReport { limit_bytes: Some(1 << 29), peak_bytes: Some(1 << 29), ..MemoryReport::default() };
        if victim != OomVictim::Main {
            self.say(
                around,
                100,
                service,
                Event::OomKilled { service: service.clone(), epoch, kills: OOM_KILLS, memory },
            );
        }
        if victim != OomVictim::Other {
            self.facts.push(Fact::OomKilledMain { service: service.clone(), epoch });
            let oom = (victim == OomVictim::Main).then_some(OOM_KILLS);
            let status = ExitStatus::Signal { signal: Signal::KILL, core_dumped: false };
            self.die(around, service, epoch, status, Some(MemoryAtExit { oom, report: memory }));
        }
    }

    /// A process waits for memory: the kernel says so again and again, whoever hears it.
    fn stalls(&mut self, around: &mut Around<'_>, service: &Name, epoch: Epoch) {
        let (over, now) = (around.faults_over(), around.timeline.now());
        let Some(tree) = self.tree(service, epoch).filter(|tree| !over && tree.main) else { return };
        let age = now.saturating_sub(tree.executed_at.unwrap_or(now));
        if tree.fate.stalls.is_none_or(|(_, until)| until <= age) {
            return;
        }
        around.coverage.fault(Fault::MemoryStall);
        around.timeline.after(STALL_EVERY_US, Item::Stalls(service.clone(), epoch));
        let pressure = Some(Pressure { some_permyriad: 9_000, full_permyriad: 9_000 });
        if let Some(stall) = Stall::of(&MemoryReport { pressure, ..MemoryReport::default() }) {
            let event = Event::MemoryStalled { service: service.clone(), epoch, stall };
            around.timeline.after(50, Item::Tell(event));
        }
    }

    fn executes(&mut self, around: &mut Around<'_>, service: &Name, epoch: Epoch) {
        let now = around.timeline.now();
        // What was planned for a process that a guardian took with it is not this one's, which was made after it.
        let is_its = |tree: &&mut Tree| tree.main && tree.fate.birth == Birth::Works && tree.executed_at.is_none();
        let Some(tree) = self.tree(service, epoch).filter(is_its) else { return };
        tree.executed_at = Some(now);
        tree.strays = tree.fate.strays;
        let fate = tree.fate.clone();
        let who = || (service.clone(), epoch);
        let mut plan = |after: Option<u64>, item: Item| {
            if let Some(after) = after {
                around.timeline.after(after, item);
            }
        };
        let (service_name, epoch) = who();
        plan(fate.up_after, Item::Up(service_name.clone(), epoch));
        if let Some((after, status)) = fate.ends {
            let fault = if status.is_success() { Fault::ExitZero } else { Fault::Crash };
            plan(Some(after), Item::EndsBy(service_name.clone(), epoch, status, fault));
        }
        if let Some(Flaw::Ends(after)) = fate.flaw {
            plan(Some(after), Item::EndsByFlaw(service_name.clone(), epoch));
        }
        if let Some((after, _)) = fate.stalls {
            plan(Some(after), Item::Stalls(service_name.clone(), epoch));
        }
        if let Some((after, victim)) = fate.oom {
            plan(Some(after), Item::OomKills(service_name.clone(), epoch, victim));
        }
        for (after, fault) in [
            (fate.hangs_after, Fault::Hang),
            (fate.slow_after, Fault::Slow),
            (fate.wrong_after, Fault::Wrong),
            (fate.silent_after, Fault::HeartbeatStops),
        ] {
            plan(after, Item::Turns(service_name.clone(), epoch, fault));
        }
        let trigger = Item::Says(service_name.clone(), epoch, Notice::HeartbeatTrigger, Fault::HeartbeatTrigger);
        plan(fate.triggers_after, trigger);
        if let Some(span) = fate.extends {
            let notice = Notice::ExtendTimeout(Span::from_us(span));
            plan(Some(500), Item::Says(service_name, epoch, notice, Fault::ExtendTimeout));
        }
        match fate.up_after {
            None => around.coverage.fault(Fault::NeverReady),
            Some(after) if after.max(fate.says_ready_after) > crate::fate::USUAL_UP_US => {
                around.coverage.fault(Fault::SlowStart);
            }
            Some(_) => {}
        }
        self.say(around, 50, service, Event::Executed { service: service.clone(), epoch });
    }

    /// It works: it says so, and begins to send heartbeats.
    fn up(&mut self, around: &mut Around<'_>, service: &Name, epoch: Epoch) {
        let Some(tree) = self.tree(service, epoch).filter(|tree| tree.main) else { return };
        let (policy, own, says_ready_after, leaves) =
            (tree.policy.clone(), tree.fate.own_heartbeat, tree.fate.says_ready_after, tree.fate.leaves);
        let hangs = tree.fate.hangs_after.is_some_and(|at| tree.fate.up_after.is_some_and(|up| at <= up));
        if hangs || !policy.wants_notify() {
            return;
        }
        let mut tell = |notice| {
            let event = Event::Notified { service: service.clone(), epoch, notice };
            around.timeline.after(50, Item::Tell(event));
        };
        if let Some(own) = own {
            tell(Notice::HeartbeatWithin(Span::from_us(own)));
            around.coverage.fault(Fault::HeartbeatOwn);
        }
        tell(Notice::Status(String::from("works")));
        let ready = Event::Notified { service: service.clone(), epoch, notice: Notice::Ready };
        around.timeline.after(says_ready_after, Item::Tell(ready));
        self.leaves(around, service, epoch, leaves);
        self.beats(around, service, epoch);
    }

    fn beats(&mut self, around: &mut Around<'_>, service: &Name, epoch: Epoch) {
        let now = around.timeline.now();
        let Some(tree) = self.tree(service, epoch).filter(|tree| tree.main) else { return };
        let Some(every) = tree.fate.heartbeat_us(&tree.policy) else { return };
        let age = now.saturating_sub(tree.executed_at.unwrap_or(now));
        let quiet = [tree.fate.hangs_after, tree.fate.silent_after].into_iter().flatten().any(|at| at <= age);
        if !quiet {
            let event = Event::Notified { service: service.clone(), epoch, notice: Notice::Heartbeat };
            around.timeline.after(50, Item::Tell(event));
            around.timeline.after(every, Item::Beats(service.clone(), epoch));
        }
    }
}

/// When a tree dies that is killed `now`. At the end of Hale nobody lets go of what cannot be killed.
fn dies_at(scenario: &Scenario, now: u64, survives: Option<u64>) -> u64 {
    let faults_end = scenario.end_us.map_or(BEGIN_US + scenario.faults_us, |_| u64::MAX);
    let survives = survives.filter(|_| now < faults_end);
    survives.map_or(now, |survives| (now + survives).min(faults_end)).saturating_add(100)
}

/// Plans the end of a whole tree.
fn end_at(timeline: &mut Timeline, at: u64, service: &Name, epoch: Epoch) {
    let status = ExitStatus::Signal { signal: Signal::KILL, core_dumped: false };
    timeline.at(at, Item::Dies(service.clone(), epoch, status));
    timeline.at(at, Item::StraysEnd(service.clone(), epoch));
}

fn process(pid: i32, made_at: u64) -> Process {
    Process { pid, start_ticks: made_at / 10_000, pidfd_inode: u64::from(pid.unsigned_abs()), cgroup: None }
}

fn failure(step: &str, path: &str, errno: i32, error: &str) -> SpawnFailure {
    SpawnFailure { step: step.into(), path: path.into(), errno, error: error.into() }
}
