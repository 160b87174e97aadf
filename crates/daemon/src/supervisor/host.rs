//! The real host: what `hale_core::driver` needs, on epoll, sockets, cgroups and files.

mod adoption;
mod descriptors;
mod memory;
mod orders;
mod reloading;
mod rests;
mod source;
mod spawn;

use self::descriptors::Descriptors;
pub(super) use self::descriptors::LAST_TURNS;
pub(super) use self::reloading::{KeptPolicies, Reloads, listen_keys};
use self::rests::Rests;
use self::source::Source;
use self::spawn::ReadyOrder;
use super::console::Console;
use super::evidence::{Collector, Job};
use super::examiner::Examiner;
use super::inbox::{Asker, Inbox, Outlet};
use super::kept::Kept;
use super::said::Said;
use super::service::Hosted;
use crate::api::Hub;
use crate::execute::tree::{Trees, Until, Watcher};
use crate::generations::{Stores, end_programs};
use crate::keeper::client::KeeperClient;
use crate::keeper::protocol::KeeperEvent;
use crate::knowledge::ledger_store::LedgerStore;
use crate::monitor::kernel_log::KernelLog;
use crate::monitor::pressure::StallTrigger;
use crate::monitor::probe::Prober;
use crate::protocol::{GuardianEvent, HostSignal, Slot};
use crate::supervisor::client::GuardianClient;
use crate::sys::wait::Exit;
use hale_core::driver::Host;
use hale_core::effect::Effect;
use hale_core::event::{EndWhy, Event, ExitStatus};
use hale_core::ids::{Epoch, Name, RecordId};
use hale_core::policy::Signal;
use hale_core::record::{Class, Record};
use hale_core::time::{Monotonic, Now};
use hale_core::world::service::Service;
use hale_core::world::{Snapshot, World};
use rustix::event::{Timespec, epoll};
use rustix::time::{ClockId, clock_gettime};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// How many kernel events one call takes: more are there at the next one, which follows at once.
const EVENTS_PER_WAIT: usize = 128;

/// How many waits in a row may come before a timer that is due: enough for some thousand services that all have something
/// to say, and an end for those that never stop talking.
const ROUNDS_MAX: u32 = 32;

/// How many events of other threads one round takes before the guardian is listened to again.
const INBOX_PER_ROUND: usize = 256;

/// How long an orderly end waits for the ledger: after it the disk is taken for hung, and the journal has what the
/// ledger misses.
const LEDGER_CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// How long an orderly end waits for the keeper to read where everything goes, which takes it milliseconds. Up to some five hundred
/// services the kernel has room for all of it, also while there is no keeper.
const KEEPER_READS_WITHIN: Duration = Duration::from_secs(1);

/// How long an orderly end waits for probes that it killed: one that hangs in the kernel does not end at all.
const PROBES_END_WITHIN: Duration = Duration::from_secs(1);

/// What the host is made of; all of it exists before the loop begins.
pub(super) struct Parts {
    pub(super) guardian: GuardianClient,
    pub(super) keeper: KeeperClient,
    pub(super) inbox: Inbox,
    pub(super) outlet: Outlet,
    pub(super) asker: Asker,
    pub(super) journal: Kept,
    pub(super) ledger: Option<LedgerStore>,
    pub(super) prober: Prober,
    pub(super) trees: Arc<Trees>,
    pub(super) console: Console,
    pub(super) collector: Collector,
    pub(super) examiner: Examiner,
    /// Whether services go on when the guardian is lost, because there will be a next one.
    pub(super) leaves_services: bool,
    pub(super) said: Said,
    /// Whoever listens to records.
    pub(super) hub: Hub,
    /// Where services' generations are kept.
    pub(super) stores: Stores,
}

/// The real host.
pub(super) struct DaemonHost {
    parts: Parts,
    epoll: OwnedFd,
    buffer: Vec<epoll::Event>,
    events: VecDeque<Event>,
    services: BTreeMap<Name, Hosted>,
    names: BTreeMap<Slot, Name>,
    reloads: Reloads,
    /// Flushes of the keeper that were asked for, by token.
    flushes: BTreeMap<u64, (Name, Job)>,
    next_flush: u64,
    /// Orders that other threads prepare, because preparing them touches files.
    prepared: Receiver<ReadyOrder>,
    prepared_sender: Sender<ReadyOrder>,
    /// Looks after trees without a cgroup, and says which became empty.
    watcher: Watcher,
    empty: Receiver<(Name, Epoch)>,
    /// The newest record, and up to which the ledger has them.
    newest: RecordId,
    durable: RecordId,
    /// Records that are in the journal, and that ledger and console do not have yet.
    told: Vec<(Record, Vec<u8>)>,
    /// Ends that are on record, and that the guardian still keeps.
    unacknowledged: Vec<(Name, Epoch)>,
    /// Flushes that the keeper was not asked for yet.
    unflushed: Vec<(Name, Job)>,
    /// A start was ordered since the last [`Self::tell`], which waits until then.
    told_at: Option<Monotonic>,
    ended: Option<Ended>,
    /// Where there is no memory controller to count OOM kills.
    kernel_log: Option<KernelLog>,
    /// Where the kernel says that some service waits for memory.
    stalls: Option<StallTrigger>,
    /// Services whose memory is not listened to for a while.
    rests: Rests,
    descriptors: Descriptors,
}

/// How the loop came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Everything was stopped in order.
    InOrder,
    /// The guardian is gone: all trees were killed.
    GuardianGone,
    /// The kernel refused what the loop needs: the next supervisor takes over.
    Failed,
}

impl DaemonHost {
    /// A host for the services of `world`, those that are leaving included.
    ///
    /// # Errors
    /// The kernel refuses a descriptor.
    pub(super) fn new(parts: Parts, world: &World, reloads: Reloads, first: VecDeque<Event>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let watch =
            |fd: &dyn AsFdDyn, source: Source| epoll::add(&epoll, fd.fd(), source.data(), epoll::EventFlags::IN);
        watch(&parts.guardian, Source::Guardian)?;
        watch(&parts.keeper, Source::Keeper)?;
        watch(&parts.outlet, Source::Inbox)?;
        let rests = Rests::new()?;
        watch(&rests.fd(), Source::Rests)?;
        let (prepared_sender, prepared) = channel();
        let (found_empty, empty) = channel();
        let bell = parts.inbox.clone();
        let watcher = Watcher::start(move |service, epoch| {
            let _ = found_empty.send((service, epoch));
            bell.ring();
        })?;
        let policy = world.policy();
        let hosted = |(name, service): (&Name, &Service)| {
            let slot = reloads.slot(name)?;
            let mut hosted = Hosted::new(name, slot, service.policy(), &policy.host);
            hosted.root = parts.stores.root(name, service.policy(), service.generation());
            Some((name.clone(), hosted))
        };
        let services: BTreeMap<Name, Hosted> = world.services().filter_map(hosted).collect();
        let mut host = Self {
            epoll,
            buffer: Vec::with_capacity(EVENTS_PER_WAIT),
            events: first,
            names: services.iter().map(|(name, hosted)| (hosted.slot(), name.clone())).collect(),
            services,
            reloads,
            flushes: BTreeMap::new(),
            // Answers to an earlier supervisor may still come: none of them has a number of this one.
            next_flush: u64::from(std::process::id()) << 32,
            prepared,
            prepared_sender,
            watcher,
            empty,
            newest: RecordId(0),
            durable: RecordId(0),
            told: Vec::new(),
            unacknowledged: Vec::new(),
            unflushed: Vec::new(),
            told_at: None,
            ended: None,
            kernel_log: None,
            stalls: None,
            rests,
            descriptors: Descriptors::new(),
            parts,
        };
        host.prepare_memory(policy);
        Ok(host)
    }

    /// How it ended; writes out what is left.
    pub(super) fn finish(mut self) -> Ended {
        self.tell();
        end_programs();
        if self.ended == Some(Ended::InOrder) {
            let Parts { guardian, keeper, .. } = &mut self.parts;
            // For a keeper that is started now, if this one dies or there is none: nobody tells it later.
            let _ = keeper.resend();
            keeper.flush_within(KEEPER_READS_WITHIN);
            // From here on the guardian waits for the end of this process, a bounded time, and asks for no proof: what follows
            // may wait for a disk.
            let _ = guardian.shutdown_done(0).map_err(io::Error::other).and_then(|()| guardian.flush());
        }
        let Self { parts, mut services, watcher, ended, descriptors, .. } = self;
        drop(watcher);
        // To close what services sent may take its time; exit does not wait for it.
        std::mem::forget(descriptors);
        services.values_mut().for_each(Hosted::forget_left);
        if parts.ledger.is_some_and(|ledger| !ledger.close(LEDGER_CLOSE_WITHIN)) {
            parts.console.say("the disk did not take the last records of the ledger; the runtime journal has them");
        }
        if ended == Some(Ended::InOrder) {
            drop(services);
            // What is not empty stays, and the next Hale ends what is in it.
            let _ = parts.trees.close_within(PROBES_END_WITHIN);
        } else {
            // With its guardian the locks are gone, and the next Hale may be at work: groups and notify sockets of these
            // names may be that one's already.
            std::mem::forget(services);
        }
        if ended == Some(Ended::InOrder) {
            parts.console.say("ended in order");
        }
        parts.console.close();
        ended.unwrap_or(Ended::GuardianGone)
    }

    fn by_slot(&mut self, slot: Slot) -> Option<(Name, &mut Hosted)> {
        let name = self.names.get(&slot)?.clone();
        let hosted = self.services.get_mut(&name)?;
        Some((name, hosted))
    }

    /// Waits for the kernel, at most until `until`, and turns what it tells into events.
    fn listen(&mut self, until: Option<Monotonic>) -> io::Result<()> {
        let until = match self.told_at.filter(|&told| now().mono < told) {
            Some(told) => Some(until.map_or(told, |until| until.min(told))),
            None => {
                self.tell();
                until
            }
        };
        self.settle_descriptors();
        self.flush_sockets()?;
        let wait_us = until.map(|until| until.since(now().mono).as_us());
        let timeout = if self.events.is_empty() { wait_us } else { Some(0) }.map(timespec);
        self.buffer.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.buffer), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let sources: Vec<Source> = self.buffer.iter().filter_map(|event| Source::from_data(event.data.u64())).collect();
        for source in sources {
            match source {
                Source::Guardian => self.hear_guardian()?,
                // Services do not end because their output cannot be heard of.
                Source::Keeper => {
                    if let Err(error) = self.hear_keeper() {
                        self.parts.console.say(&format!("the keeper cannot be heard any more: {error}"));
                        let _ = epoll::delete(&self.epoll, &self.parts.keeper);
                    }
                }
                Source::Inbox => self.hear_threads(),
                Source::Notify(slot) => drop(self.hear_service(slot)),
                Source::Tree(slot) => self.look_at_tree(slot),
                Source::Memory(slot) => self.hear_memory(slot),
                Source::KernelLog => self.hear_kernel_log(),
                Source::Stalls => self.hear_stalls(),
                Source::Rests => self.end_rests(),
                Source::Left(slot, index) => self.hear_hang_up(slot, index),
            }
        }
        Ok(())
    }

    /// Hands what was written since the last wait to the threads of ledger and console, and what else can wait to guardian
    /// and keeper. Not in [`Host::write`], nor while a service is on the way to its program: the journal has it already, and
    /// a service that must be started does not share its processor with everybody who would be woken.
    fn tell(&mut self) {
        self.told_at = None;
        for (service, job) in self.unflushed.drain(..) {
            let Some(hosted) = self.services.get(&service) else { continue };
            let token = self.next_flush;
            self.next_flush += 1;
            if self.parts.keeper.flush_slot(hosted.slot(), token).is_ok() {
                self.flushes.insert(token, (service, job));
            }
        }
        let any = !self.told.is_empty();
        for (record, line) in self.told.drain(..) {
            self.parts.console.record(&record);
            self.parts.hub.tell(record.id, &line);
            let class = record.body.class();
            // What is dropped, or is no payload, is counted by the ledger itself, in a record of its own.
            if let Some(ledger) = &self.parts.ledger
                && ledger.put(line, class, record.id.0).is_err()
                && class == Class::Durable
            {
                self.events.push_back(Event::NotDurable { record: record.id });
            }
        }
        if let Some(ledger) = self.parts.ledger.as_ref().filter(|_| any) {
            ledger.wake();
        }
        for (service, epoch) in self.unacknowledged.drain(..) {
            // An order for the next process acknowledges the end of the one before it.
            let Some(hosted) = self.services.get(&service).filter(|hosted| hosted.newest() == epoch) else { continue };
            if let Err(error) = self.parts.guardian.ack(hosted.slot(), epoch) {
                self.parts.console.say(&format!("{service}: its exit cannot be acknowledged: {error}"));
            }
        }
    }

    /// Sends what the sockets did not take before, and asks to be woken when they take more.
    fn flush_sockets(&mut self) -> io::Result<()> {
        let flags =
            |waits: bool| if waits { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
        if self.parts.guardian.wants_to_write() {
            self.parts.guardian.flush()?;
            let waits = self.parts.guardian.wants_to_write();
            epoll::modify(&self.epoll, &self.parts.guardian, Source::Guardian.data(), flags(waits))?;
        }
        if self.parts.keeper.wants_to_write() {
            // A keeper that died is replaced, and told everything again.
            let _ = self.parts.keeper.flush();
            let waits = self.parts.keeper.wants_to_write();
            epoll::modify(&self.epoll, &self.parts.keeper, Source::Keeper.data(), flags(waits))?;
        }
        Ok(())
    }

    fn hear_guardian(&mut self) -> io::Result<()> {
        while let Some(event) = self.parts.guardian.receive()? {
            match event {
                GuardianEvent::Spawned { slot, epoch, pid, pidfd } => {
                    if let Some((service, hosted)) = self.by_slot(slot) {
                        let process = hosted.spawned(epoch, pid, pidfd);
                        self.events.push_back(Event::Spawned { service, epoch, process });
                    }
                }
                GuardianEvent::Executed { slot, epoch } => {
                    if let Some((service, hosted)) = self.by_slot(slot) {
                        let early = hosted.early().come();
                        self.events.push_back(Event::Executed { service: service.clone(), epoch });
                        let told = |notice| Event::Notified { service: service.clone(), epoch, notice };
                        self.events.extend(early.into_iter().map(told));
                    }
                }
                GuardianEvent::SpawnFailed { slot, epoch, failure } => {
                    if let Some((service, hosted)) = self.by_slot(slot) {
                        let lost = hosted.not_made(failure.step);
                        let failure = hosted.explain(failure);
                        lost.iter().for_each(|stored| self.lost(&service, stored));
                        self.events.push_back(Event::SpawnFailed { service, epoch, failure });
                    }
                }
                GuardianEvent::Exited { slot, epoch, exit } => {
                    if matches!(exit, Exit::Signal { signal: libc::SIGKILL, .. } | Exit::Unknown) {
                        self.hear_kernel_log();
                    }
                    self.hear_last_words(slot);
                    if let Some((service, hosted)) = self.by_slot(slot) {
                        let memory = hosted.gone();
                        let tree_empty = hosted.tree_is_empty();
                        let status = exit_status(exit);
                        self.events.push_back(Event::Exited { service, epoch, status, tree_empty, memory });
                    }
                    self.look_at_tree(slot);
                }
                GuardianEvent::Signalled(HostSignal::Terminate) => self.end(Signal::TERM),
                GuardianEvent::Signalled(HostSignal::Interrupt) => self.end(Signal::INT),
                GuardianEvent::Signalled(HostSignal::Hangup) => self.parts.asker.reload_by_signal(),
                GuardianEvent::KeeperReplaced => {
                    let _ = self.parts.keeper.resend();
                }
                GuardianEvent::Challenged { nonce } => {
                    self.proof_taken();
                    self.events.push_back(Event::Challenged { nonce });
                }
                // These come before the first challenge only.
                GuardianEvent::Lost { .. }
                | GuardianEvent::GuardianLost
                | GuardianEvent::Stored { .. }
                | GuardianEvent::Over { .. } => {}
                GuardianEvent::Hardware(report) => self.events.push_back(report.event()),
                GuardianEvent::Gone => {
                    self.guardian_gone();
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, signal: Signal) {
        self.events.push_back(Event::End { why: EndWhy::Signal(signal) });
    }

    /// Without a guardian nobody reaps and nobody can start anything: what runs is killed, so that the next Hale starts
    /// from nothing. Unless there will be a next guardian, which has all that this one had.
    fn guardian_gone(&mut self) {
        if !self.parts.leaves_services {
            for hosted in self.services.values_mut() {
                hosted.kill_now();
            }
        }
        self.ended = Some(Ended::GuardianGone);
    }

    fn hear_keeper(&mut self) -> io::Result<()> {
        while let Some(event) = self.parts.keeper.receive()? {
            match event {
                KeeperEvent::Flushed(flushed) => {
                    if let Some((service, job)) = self.flushes.remove(&flushed.token)
                        && let Some(hosted) = self.services.get(&service)
                    {
                        hosted.collect(job, &self.parts.collector);
                    }
                }
                KeeperEvent::Dropped { slot, bytes } => {
                    if let Some((service, _)) = self.by_slot(slot) {
                        self.events.push_back(Event::OutputDropped { service, bytes });
                    }
                }
                // Guardian and keeper share their end; the guardian's own socket tells.
                KeeperEvent::Gone => {
                    let _ = epoll::delete(&self.epoll, &self.parts.keeper);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn hear_threads(&mut self) {
        self.parts.outlet.silence();
        self.send_prepared();
        self.hear_closed();
        while let Ok((service, epoch)) = self.empty.try_recv() {
            if let Some(hosted) = self.services.get_mut(&service) {
                hosted.watcher_found_empty(epoch);
                let slot = hosted.slot();
                self.look_at_tree(slot);
            }
        }
        for _ in 0..INBOX_PER_ROUND {
            match self.parts.outlet.take() {
                Some(event) => {
                    if let Event::Durable { up_to } = &event {
                        self.durable = *up_to;
                    }
                    let event = self.told(event);
                    self.events.extend(event);
                }
                None => return,
            }
        }
        // There may be more: ring again instead of letting the guardian wait.
        self.parts.inbox.ring();
    }

    /// Reports the end of a tree that is being ended, once its main process was reaped too.
    fn look_at_tree(&mut self, slot: Slot) {
        if let Some((service, hosted)) = self.by_slot(slot)
            && let Some(epoch) = hosted.ended_tree()
        {
            self.events.push_back(Event::TreeEmpty { service, epoch });
            self.unwatch_tree(slot);
        }
    }

    /// Wants to know when the tree is empty: it may be already.
    fn watch_tree(&mut self, service: &Name, epoch: Epoch, until: Until) {
        let Some(hosted) = self.services.get_mut(service) else { return };
        let slot = hosted.slot();
        hosted.await_end(epoch, until, &self.watcher);
        if let Some(fd) = hosted.tree_events() {
            // EEXIST: it is watched already.
            let _ = epoll::add(&self.epoll, fd, Source::Tree(slot).data(), epoll::EventFlags::PRI);
        }
        self.look_at_tree(slot);
    }

    fn unwatch_tree(&mut self, slot: Slot) {
        let hosted = self.names.get(&slot).and_then(|name| self.services.get(name));
        if let Some(fd) = hosted.and_then(Hosted::tree_events) {
            let _ = epoll::delete(&self.epoll, fd);
        }
    }
}

impl Host for DaemonHost {
    fn now(&mut self) -> Now {
        now()
    }

    fn next(&mut self, until: Option<Monotonic>) -> Option<Event> {
        let mut rounds = 0;
        loop {
            if self.ended.is_some() {
                return None;
            }
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if let Err(error) = self.listen(until) {
                // Services go on: the guardian starts another supervisor.
                self.parts.console.say(&format!("the supervisor cannot go on: {error}"));
                self.ended = Some(Ended::Failed);
                return None;
            }
            // What services say of themselves is no event, and must be heard before a probe asks for it: after a stall of
            // this process more may be ready than one wait tells of.
            rounds += 1;
            let more = self.buffer.len() == EVENTS_PER_WAIT && rounds < ROUNDS_MAX;
            if self.events.is_empty() && !more && until.is_some_and(|until| until <= now().mono) {
                return Some(Event::Tick);
            }
        }
    }

    fn write(&mut self, records: &[Record]) {
        self.newest = records.last().map_or(self.newest, |record| record.id);
        self.reloads.written(records);
        let first = self.told.len();
        for record in records {
            match serde_json::to_vec(record) {
                Ok(line) => self.told.push((record.clone(), line)),
                Err(error) => self.parts.console.say(&format!("record {} cannot be written: {error}", record.id)),
            }
        }
        let lines: Vec<&[u8]> = self.told[first..].iter().map(|(_, line)| line.as_slice()).collect();
        self.parts.journal.append(&lines, &self.parts.console);
        if !self.parts.journal.is_there() {
            // Nothing is taken over from this supervisor.
            self.settle();
        }
    }

    fn wants_snapshot(&self) -> bool {
        let is_elsewhere = self.parts.ledger.is_none() || self.durable >= self.newest;
        let is_wanted = self.reloads.wants_snapshot(self.durable, is_elsewhere, now().mono);
        self.parts.journal.wants_snapshot(now().mono, is_elsewhere, is_wanted)
    }

    fn keep(&mut self, snapshot: &Snapshot) {
        if self.parts.journal.keep(snapshot, now().mono, &self.parts.console) {
            self.settle();
        }
    }

    fn perform(&mut self, effect: Effect) {
        self.carry_out(effect);
    }
}

/// Reads the three clocks.
pub(super) fn now() -> Now {
    let us = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec * 1_000_000 + time.tv_nsec / 1_000
    };
    Now {
        mono: Monotonic::from_us(us(ClockId::Monotonic).cast_unsigned()),
        boot_us: us(ClockId::Boottime).cast_unsigned(),
        wall_us: us(ClockId::Realtime),
    }
}

fn timespec(us: u64) -> Timespec {
    // At most 2^63 µs: both parts fit.
    Timespec { tv_sec: (us / 1_000_000).cast_signed(), tv_nsec: (us % 1_000_000 * 1_000).cast_signed() }
}

pub(super) fn exit_status(exit: Exit) -> ExitStatus {
    match exit {
        Exit::Code(code) => ExitStatus::Code(code),
        Exit::Signal { signal, core_dumped } => ExitStatus::Signal { signal: Signal(signal), core_dumped },
        Exit::Unknown => ExitStatus::Unknown,
    }
}

/// `AsFd` behind a reference, for one closure over several types.
trait AsFdDyn {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_>;
}

impl<T: AsFd> AsFdDyn for T {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.as_fd()
    }
}
