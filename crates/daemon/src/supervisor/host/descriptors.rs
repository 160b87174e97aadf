//! What services say on their notify sockets, and the descriptors that they send along.

use super::{DaemonHost, Source};
use crate::execute::descriptors::{Closing, Kinds, UNCLOSED_MAX};
use crate::protocol::{Slot, StoreKey};
use crate::supervisor::service::Heard;
use hale_core::descriptor::Stored;
use hale_core::event::{Event, Notice};
use hale_core::ids::{Name, OfferId};
use hale_core::reason::Reason;
use rustix::event::epoll;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};

/// How many turns a process is listened to when its end is told: what it said before that counts, and its socket holds 512
/// datagrams at most (systemd's `net.unix.max_dgram_qlen`; the kernel's own bound is 10), 32 of which are a turn.
pub(in crate::supervisor) const LAST_TURNS: usize = 16;

/// How many barriers of one service may wait for the guardian.
const BARRIERS_MAX: usize = 16;

/// Descriptors of all services on their way: from being offered to being kept or closed.
pub(super) struct Descriptors {
    pub(super) kinds: Kinds,
    /// Services with descriptors about which the core decides in this round.
    unsettled: Vec<Slot>,
    /// Given up; the guardian was told, and is to close its copies first: the last close may wait.
    given_up: Vec<(Slot, OwnedFd)>,
    /// The same, and a proof of progress was sent behind that: when the next one is asked for the guardian has closed them.
    behind_proof: Vec<(Slot, OwnedFd)>,
    /// Services for which the guardian was sent a descriptor that it may not have read yet; and those of them behind which
    /// a proof of progress was sent.
    stored: BTreeSet<Slot>,
    stored_behind_proof: BTreeSet<Slot>,
    /// Services whose descriptors were closed.
    closed: Receiver<Slot>,
    closed_sender: Sender<Slot>,
}

impl Descriptors {
    pub(super) fn new() -> Self {
        let (closed_sender, closed) = channel();
        Self {
            kinds: Kinds::find(),
            unsettled: Vec::new(),
            given_up: Vec::new(),
            behind_proof: Vec::new(),
            stored: BTreeSet::new(),
            stored_behind_proof: BTreeSet::new(),
            closed,
            closed_sender,
        }
    }

    /// Whether one more descriptor of this service may wait for the guardian: few programs have more than one barrier at a time, and
    /// those of one must not take the place of all others'.
    fn may_wait(&self, slot: Slot) -> bool {
        let all = || self.given_up.iter().chain(&self.behind_proof);
        all().count() < UNCLOSED_MAX && all().filter(|(of, _)| *of == slot).count() < BARRIERS_MAX
    }

    /// The core is about to decide about descriptors of this service.
    pub(super) fn unsettle(&mut self, slot: Slot) {
        self.unsettled.push(slot);
    }

    /// A proof of progress was sent.
    pub(super) fn proof_sent(&mut self) {
        self.behind_proof.append(&mut self.given_up);
        self.stored_behind_proof.append(&mut self.stored);
    }

    /// Whether the guardian may not have read yet what this service left.
    fn may_be_unread(&self, slot: Slot) -> bool {
        self.stored.contains(&slot) || self.stored_behind_proof.contains(&slot)
    }
}

impl DaemonHost {
    /// Hears what a service says, in one turn, and gives it to the core. Says whether there was anything.
    pub(super) fn hear_service(&mut self, slot: Slot) -> bool {
        let Self { services, names, events, descriptors, epoll, parts, .. } = self;
        let Some(name) = names.get(&slot) else { return false };
        let Some(hosted) = services.get_mut(name) else { return false };
        if hosted.left.closing.is_full() {
            // It is heard again once they are closed.
            if let Some(socket) = hosted.notify_fd() {
                let _ = epoll::delete(epoll, socket);
            }
            hosted.muted = true;
            return false;
        }
        let Heard { notices, figures, any } = hosted.hear(&descriptors.kinds);
        if hosted.left.is_unsettled() {
            descriptors.unsettle(slot);
        }
        let Some(epoch) = hosted.heard_as() else { return any };
        let status = |notice: &Notice| if let Notice::Status(text) = notice { Some(text.clone()) } else { None };
        if let Some(text) = notices.iter().rev().find_map(status) {
            parts.said.write(slot, epoch, &text);
        }
        if notices.contains(&Notice::Ready) {
            parts.said.ready(slot, epoch);
        }
        figures.into_iter().for_each(|figure| parts.prober.said(name, epoch, figure));
        let service = name.clone();
        let notices = hosted.early().tellable(notices);
        events.extend(notices.into_iter().map(|notice| Event::Notified { service: service.clone(), epoch, notice }));
        any
    }

    /// Hears all that a process has said, before its end is told: as its last deed it may leave its state to the next.
    pub(super) fn hear_last_words(&mut self, slot: Slot) {
        for _ in 0..LAST_TURNS {
            if !self.hear_service(slot) {
                return;
            }
        }
    }

    /// The core has decided about everything that it was told: what it did not ask for is closed.
    pub(super) fn settle_descriptors(&mut self) {
        for slot in std::mem::take(&mut self.descriptors.unsettled) {
            let Self { services, names, descriptors, parts, .. } = self;
            if let Some(hosted) = names.get(&slot).and_then(|name| services.get_mut(name)) {
                let pipes = hosted.left.settle(&descriptors.kinds);
                // Whoever waits for their end means all that it left to be kept, even if this process dies now, and with it
                // the guardian.
                let may_be_unread = descriptors.may_be_unread(slot);
                for pipe in pipes.into_iter().filter(|_| may_be_unread) {
                    if !parts.guardian.wants_to_write() {
                        let _ = parts.guardian.close(pipe.as_fd());
                    } else if descriptors.may_wait(slot) {
                        // The guardian's next proof says the same. Thousands of pipes must not wait in the queue that the orders
                        // for all others go through.
                        descriptors.given_up.push((slot, pipe));
                    }
                }
            }
            self.close_descriptors(slot);
        }
    }

    /// Has a thread close what waits for that, and listens to a service again to which it did not for so long.
    fn close_descriptors(&mut self, slot: Slot) {
        let (done, bell) = (self.descriptors.closed_sender.clone(), self.parts.inbox.clone());
        let Some((_, hosted)) = self.by_slot(slot) else { return };
        hosted.left.closing.start(move || {
            let _ = done.send(slot);
            bell.ring();
        });
        if hosted.muted && !hosted.left.closing.is_full() {
            hosted.muted = false;
            if let Some(socket) = self.names.get(&slot).and_then(|name| self.services.get(name)?.notify_fd()) {
                // EEXIST: it was made anew meanwhile.
                let _ = epoll::add(&self.epoll, socket, Source::Notify(slot).data(), epoll::EventFlags::IN);
            }
        }
    }

    /// Threads have closed what they were to close.
    pub(super) fn hear_closed(&mut self) {
        while let Ok(slot) = self.descriptors.closed.try_recv() {
            if let Some((_, hosted)) = self.by_slot(slot) {
                hosted.left.closing.ended();
            }
            self.close_descriptors(slot);
        }
    }

    /// Keeps an offered descriptor.
    pub(super) fn store(&mut self, service: &Name, offer: OfferId, stored: &Stored) {
        let Some(hosted) = self.services.get_mut(service) else { return };
        let source = Source::Left(hosted.slot(), stored.index);
        self.descriptors.stored.insert(hosted.slot());
        match hosted.left.keep(offer, stored, &mut self.parts.guardian) {
            Ok(Some(fd)) if stored.watched => watch_end(&self.epoll, fd, source),
            Ok(_) => {}
            Err(error) => {
                self.parts.console.say(&format!("{service}: the guardian cannot keep a descriptor: {error}"));
                self.lost(service, stored);
            }
        }
    }

    /// A descriptor that is on record is not there.
    pub(super) fn lost(&mut self, service: &Name, stored: &Stored) {
        let (service, why) = (service.clone(), Reason::DescriptorLost);
        self.events.push_back(Event::DescriptorGone { service, stored: stored.id, why });
    }

    /// Keeps a descriptor no longer.
    pub(super) fn unstore(&mut self, service: &Name, index: u8) {
        let Some(hosted) = self.services.get_mut(service) else { return };
        let slot = hosted.slot();
        let fd = hosted.left.give_up(index);
        if let Some(fd) = &fd {
            // First, because the kernel watches it as long as anybody has it open.
            let _ = epoll::delete(&self.epoll, fd);
        }
        self.give_up(slot, StoreKey::Left(slot, index), fd);
    }

    /// Has the guardian close its copy, and then the one here closed.
    pub(super) fn give_up(&mut self, slot: Slot, key: StoreKey, fd: Option<OwnedFd>) {
        if let Err(error) = self.parts.guardian.unstore(key) {
            self.parts.console.say(&format!("the guardian cannot be told to close a descriptor: {error}"));
        }
        self.descriptors.given_up.extend(fd.map(|fd| (slot, fd)));
    }

    /// The guardian has read everything up to the last proof of progress.
    pub(super) fn proof_taken(&mut self) {
        self.descriptors.stored_behind_proof.clear();
        for (slot, fd) in std::mem::take(&mut self.descriptors.behind_proof) {
            let Self { services, names, descriptors, .. } = self;
            if let Some(hosted) = names.get(&slot).and_then(|name| services.get_mut(name)) {
                hosted.left.closing.add([fd], &descriptors.kinds);
            } else {
                // Its service was forgotten.
                let mut closing = Closing::default();
                closing.add([fd], &descriptors.kinds);
                closing.start(|| {});
                std::mem::forget(closing);
            }
            self.close_descriptors(slot);
        }
    }

    /// The other end of a descriptor is gone.
    pub(super) fn hear_hang_up(&mut self, slot: Slot, index: u8) {
        let Self { services, names, events, epoll, .. } = self;
        let Some(service) = names.get(&slot) else { return };
        if let Some((stored, fd)) = services.get(service).and_then(|hosted| hosted.left.at(index)) {
            // It would be ready for ever.
            let _ = epoll::delete(epoll, fd);
            let (service, why) = (service.clone(), Reason::DescriptorHungUp);
            events.push_back(Event::DescriptorGone { service, stored, why });
        }
    }
}

/// Wants to know when the other end is gone; nothing else is asked for, and that comes unasked (epoll_ctl(2)).
pub(super) fn watch_end(epoll: &OwnedFd, fd: BorrowedFd<'_>, source: Source) {
    // Without it the descriptor is kept for longer than it is good for, and that is all.
    let _ = epoll::add(epoll, fd, source.data(), epoll::EventFlags::empty());
}
