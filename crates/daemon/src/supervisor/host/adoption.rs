//! Adopting what an earlier supervisor has made: trees, sockets, processes.

use super::descriptors::watch_end;
use super::{DaemonHost, Source, exit_status, listen_keys};
use crate::execute::listen::ListenSocket;
use crate::protocol::StoreKey;
use crate::supervisor::client::OrderError;
use crate::supervisor::inheritance::{Inheritance, Kept};
use crate::supervisor::run::LEFTOVERS_WITHIN;
use crate::supervisor::service::Hosted;
use hale_core::event::{Event, Found, Life, Lost, Notice, Process};
use hale_core::ids::Name;
use hale_core::policy::LISTEN_MAX;
use hale_core::world::World;
use hale_core::world::service::Service;
use rustix::event::epoll;
use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

impl DaemonHost {
    /// Takes over the sockets at which an earlier supervisor has listened for the services, whatever else is known of it:
    /// nobody can bind their addresses while the guardian keeps them.
    pub(in crate::supervisor) fn adopt_sockets(
        &mut self,
        inherited: &mut Inheritance,
        world: &World,
    ) -> Result<(), OrderError> {
        for (name, hosted) in &mut self.services {
            let Some(service) = world.service(name) else { continue };
            // Those of a process that is to be started anew are held until it is; a reload may have changed their order.
            let before = service.runs_by().map(|policy| &policy.listen);
            for key in listen_keys(hosted.slot(), 0..LISTEN_MAX) {
                let Some(socket) = inherited.stored(key) else { continue };
                match ListenSocket::inherited(
                    service.policy().listen.iter().chain(before.into_iter().flatten()),
                    socket,
                ) {
                    Some((socket_name, socket)) => hosted.adopt_socket(socket_name, socket),
                    None => self.parts.guardian.unstore(key)?,
                }
            }
        }
        for key in inherited.store.keys().filter(|key| matches!(key, StoreKey::Listen(..))) {
            self.parts.guardian.unstore(*key)?;
        }
        Ok(())
    }

    /// Takes over what services left for their next processes, as far as `world` knows of it; the guardian's rest is closed.
    pub(in crate::supervisor) fn adopt_left(&mut self, inherited: &mut Inheritance, world: &World) {
        let mut lost = Vec::new();
        for (name, hosted) in &mut self.services {
            for stored in world.service(name).map(Service::stored).unwrap_or_default() {
                let slot = hosted.slot();
                match inherited.stored(StoreKey::Left(slot, stored.index)) {
                    Some(fd) => {
                        let fd = hosted.left.adopt(stored, fd);
                        if stored.watched {
                            watch_end(&self.epoll, fd, Source::Left(slot, stored.index));
                        }
                    }
                    // Its record was written, and the one before died before it could be given to the guardian.
                    None => lost.push((name.clone(), stored)),
                }
            }
        }
        lost.iter().for_each(|(name, stored)| self.lost(name, stored));
        let unknown: Vec<StoreKey> =
            inherited.store.keys().filter(|key| matches!(key, StoreKey::Left(..))).copied().collect();
        for key in unknown {
            if let Some(slot) = key.slot() {
                self.give_up(slot, key, inherited.stored(key));
            }
        }
    }

    /// Takes over what the guardian kept of the services of an earlier supervisor, as far as `world` knows a process of
    /// them; the first step is told what there is.
    pub(in crate::supervisor) fn adopt(
        &mut self,
        lost: Lost,
        mut inherited: Inheritance,
        world: &World,
    ) -> io::Result<()> {
        let (mut found, mut last_words, mut said) = (BTreeMap::new(), Vec::new(), Vec::new());
        let notified = |name: &Name, epoch, notice| Event::Notified { service: name.clone(), epoch, notice };
        if lost == Lost::Guardian {
            self.end_unknown(&inherited, world, &mut found)?;
        }
        for (name, hosted) in &mut self.services {
            let slot = hosted.slot();
            let notify = inherited.stored(StoreKey::Notify(slot));
            if notify.is_some() {
                // It may be asked for nothing there any more, and speak all the same: somebody must listen.
                hosted.expect_notify(&world.policy().host);
            }
            // What survives of a service that the guardian does not know is awaited like what it knows.
            let survives = |over: &Found| (!over.tree_empty).then(|| Kept::new(over.epoch));
            // After a guardian's death no guardian knows what is only left of a process.
            let left = world.service(name).and_then(Service::left_behind).map(Kept::new);
            let kept =
                inherited.slots.remove(&slot).filter(|kept| left.as_ref().is_none_or(|left| left.epoch <= kept.epoch));
            let Some(kept) = kept.or_else(|| found.get(name).and_then(survives)).or(left) else { continue };
            hosted.configure(&mut self.parts.keeper)?;
            let (epoch, executed) = (kept.epoch, kept.executed);
            let mut life = match (&kept.exit, &kept.failure, &kept.process) {
                (Some(exit), _, process) => {
                    let pid = process.as_ref().map_or(0, |(pid, _)| *pid);
                    Life::Ended { pid, status: exit_status(*exit), memory: None }
                }
                (None, Some(failure), _) => Life::NotMade { failure: hosted.explain(*failure) },
                (None, None, Some((pid, _))) => {
                    let unknown = Process { pid: *pid, start_ticks: 0, pidfd_inode: 0, cgroup: None };
                    Life::Running { process: unknown, executed }
                }
                (None, None, None) => Life::Over,
            };
            let mut tree_empty = true;
            if !matches!(life, Life::Over) || world.service(name).and_then(Service::epoch) == Some(epoch) {
                let (known, empty) = hosted.adopt(kept, notify, &self.parts.trees)?;
                if found.contains_key(name) {
                    // Its group may have been killed in, and still be there: it cannot be removed for as long as the kernel is
                    // not done with what it killed.
                    hosted.start_afresh();
                }
                // A service that runs without its limit is better than one that nobody looks after.
                if let Some(limits) = world.service(name).map(|service| &service.policy().limits)
                    && let Err((file, error)) = hosted.limit(limits)
                {
                    self.parts.console.say(&format!("{name}: its limit cannot be set again: {file}: {error}"));
                }
                if let (Life::Running { process, .. }, Some(known)) = (&mut life, known) {
                    *process = known;
                }
                if let Life::Ended { memory, .. } = &mut life {
                    *memory = hosted.gone();
                    let left = hosted.hear_left(&self.descriptors.kinds);
                    self.descriptors.unsettle(slot);
                    last_words.extend(left.into_iter().map(|notice| notified(name, epoch, notice)));
                } else if matches!(life, Life::Running { .. }) {
                    let ready = self.parts.said.was_ready(slot, epoch).then_some(Notice::Ready);
                    let text = self.parts.said.read(slot, epoch).map(Notice::Status);
                    said.extend(ready.into_iter().chain(text).map(|notice| notified(name, epoch, notice)));
                }
                tree_empty = empty;
                if let Some(fd) = hosted.notify_fd() {
                    epoll::add(&self.epoll, fd, Source::Notify(slot).data(), epoll::EventFlags::IN)?;
                }
            }
            found.entry(name.clone()).or_insert(Found { epoch, life, tree_empty });
        }
        // Of services that were forgotten, and the one before died before the guardian heard of it.
        for (slot, kept) in inherited.slots.iter().filter(|(_, kept)| kept.exit.is_some() || kept.failure.is_some()) {
            self.parts.guardian.ack(*slot, kept.epoch).map_err(io::Error::other)?;
        }
        for key in inherited.store.keys().filter(|key| matches!(key, StoreKey::Notify(_))) {
            self.parts.guardian.unstore(*key).map_err(io::Error::other)?;
        }
        let running = |found: &Found| matches!(found.life, Life::Running { .. });
        let running: Vec<Name> =
            found.iter().filter(|(_, found)| running(found)).map(|(name, _)| name.clone()).collect();
        self.events.push_front(Event::TakeOver { lost, found });
        // Before the end that the core hears of by that: what a process left as its last deed is for the next one.
        last_words.into_iter().rev().for_each(|event| self.events.push_front(event));
        self.events.extend(said);
        for name in running {
            self.watch_memory(&name);
            // What was counted meanwhile nobody was told; what was told before is told once more.
            if let Some(slot) = self.services.get(&name).map(Hosted::slot) {
                self.hear_memory(slot);
            }
        }
        Ok(())
    }

    /// Ends what runs of the services whose newest process a new guardian does not have, because the one before had not told
    /// systemd of it yet, or was not understood. Nothing of a service is started beside what survives.
    fn end_unknown(&self, inherited: &Inheritance, world: &World, found: &mut BTreeMap<Name, Found>) -> io::Result<()> {
        let until = Instant::now() + LEFTOVERS_WITHIN;
        for (name, hosted) in &self.services {
            let kept = inherited.slots.get(&hosted.slot());
            let service = world.service(name);
            let epoch = service.and_then(Service::epoch);
            let runs = |kept: &Kept| kept.process.is_some() && kept.exit.is_none() && kept.failure.is_none();
            // Of what is on record as left behind nothing is unknown, and perhaps it is only watched.
            let is_left = service.and_then(Service::left_behind).is_some();
            if is_left || kept.is_some_and(|kept| runs(kept) || Some(kept.epoch) == epoch) {
                continue;
            }
            let known = service.and_then(Service::process);
            let left = self.parts.trees.end_service(name, known, until)?;
            for process in &left.found {
                self.parts.console.say(&format!(
                    "{name}: ended pid {}, which the guardian that was lost had told nobody of",
                    process.pid
                ));
            }
            if let Some(epoch) = epoch {
                let over = Found { epoch, life: Life::Over, tree_empty: left.remaining.is_empty() };
                found.insert(name.clone(), over);
            }
        }
        Ok(())
    }
}
