//! Starting services: what a start needs is prepared, on a thread of its own where that touches files, and ordered from the guardian.

use super::source::Source;
use super::{DaemonHost, now};
use crate::protocol::StoreKey;
use crate::supervisor::prepare::{Prepared, prepare, touches_files};
use crate::supervisor::service::failure;
use hale_core::event::{Event, SpawnFailure};
use hale_core::ids::{Epoch, Name};
use hale_core::policy::ServicePolicy;
use hale_core::time::Span;
use rustix::event::epoll;
use std::io;
use std::sync::Arc;

/// How long ledger, console and keeper wait for a service that is just being started: about twice what it takes from the order
/// to the first act of a small program. The journal has the records meanwhile.
const START_FIRST: Span = Span::from_ms(2);

/// An order that is prepared, or cannot be.
pub(super) type ReadyOrder = (Name, Epoch, Result<Prepared, SpawnFailure>);

impl DaemonHost {
    pub(super) fn spawn(&mut self, service: &Name, epoch: Epoch, policy: &Arc<ServicePolicy>) {
        let Some(hosted) = self.services.get_mut(service) else { return };
        if let Err(failure) = hosted.ensure(&self.parts.trees, &mut self.parts.keeper, &policy.limits) {
            self.events.push_back(Event::SpawnFailed { service: service.clone(), epoch, failure });
            return;
        }
        let mut paths = hosted.paths(&self.parts.trees);
        if !policy.listen.is_empty() {
            // A reload may have moved an address to it from a service that has it still: both have it until that one gives it up.
            let others = self.services.iter().filter(|(name, _)| *name != service);
            paths.listening.extend(others.flat_map(|(_, other)| other.listening_at(&policy.listen)));
        }
        self.watch_memory(service);
        if !touches_files(policy) {
            let prepared = prepare(policy, &paths);
            self.send_spawn(service, epoch, prepared);
            return;
        }
        let (done, inbox) = (self.prepared_sender.clone(), self.parts.inbox.clone());
        let (for_service, policy) = (service.clone(), policy.clone());
        let work = move || {
            let _ = done.send((for_service, epoch, prepare(&policy, &paths)));
            inbox.ring();
        };
        // One thread for each start: a file system that hangs holds up the services that need it, and no other.
        if let Err(error) = std::thread::Builder::new().name(String::from("prepare")).spawn(work) {
            self.send_spawn(service, epoch, Err(failure("thread", "", &error)));
        }
    }

    fn send_spawn(&mut self, service: &Name, epoch: Epoch, prepared: Result<Prepared, SpawnFailure>) {
        let Some(hosted) = self.services.get_mut(service).filter(|hosted| hosted.is_due(epoch)) else { return };
        let slot = hosted.slot();
        let sent = prepared.and_then(|prepared| {
            if let Some(socket) = hosted.listen(prepared.identity.as_ref())? {
                let watched = epoll::add(&self.epoll, socket, Source::Notify(slot).data(), epoll::EventFlags::IN);
                // Without a place in the store what is said during a replacement is lost, and nothing else.
                let _ = self.parts.guardian.store(StoreKey::Notify(slot), socket);
                if let Err(errno) = watched {
                    hosted.unlisten();
                    return Err(failure("notify socket", "", &io::Error::from(errno)));
                }
            }
            hosted.order(epoch, &prepared, &mut self.parts.guardian)
        });
        match sent {
            Ok(()) => _ = self.told_at.get_or_insert_with(|| now().mono.after(START_FIRST)),
            Err(failure) => {
                self.events.push_back(Event::SpawnFailed { service: service.clone(), epoch, failure });
            }
        }
    }

    /// Sends the orders that other threads have prepared.
    pub(super) fn send_prepared(&mut self) {
        while let Ok((service, epoch, prepared)) = self.prepared.try_recv() {
            self.send_spawn(&service, epoch, prepared);
        }
    }
}
