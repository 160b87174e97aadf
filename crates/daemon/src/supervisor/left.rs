//! What one service left for its next process: offered, kept here and by the guardian, and given up again.

use crate::execute::descriptors::{Closing, Kinds};
use crate::protocol::{Slot, StoreKey};
use crate::supervisor::client::{GuardianClient, OrderError};
use crate::sys::fds::is_same_open_file;
use hale_core::descriptor::{FdName, Offer, Stored};
use hale_core::event::Notice;
use hale_core::ids::{OfferId, RecordId};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The descriptors that a service left, and those of its that are to be closed.
#[derive(Debug)]
pub(super) struct Left {
    slot: Slot,
    /// By their places.
    kept: BTreeMap<u8, Kept>,
    /// Until the core has decided about them.
    offers: Vec<(OfferId, OwnedFd)>,
    next_offer: OfferId,
    /// Nobody wants them; until everything that was said before them is done.
    unwanted: Vec<OwnedFd>,
    pub(super) closing: Closing,
}

#[derive(Debug)]
struct Kept {
    id: RecordId,
    fd: OwnedFd,
}

impl Left {
    pub(super) fn new(slot: Slot) -> Self {
        Self {
            slot,
            kept: BTreeMap::new(),
            offers: Vec::new(),
            next_offer: OfferId(1),
            unwanted: Vec::new(),
            closing: Closing::default(),
        }
    }

    /// The service wants to leave a descriptor; `None`: it has left it already.
    pub(super) fn offer(&mut self, fd: OwnedFd, name: &FdName, watched: bool, kinds: &Kinds) -> Option<Notice> {
        let known = self.kept.values().map(|kept| &kept.fd).chain(self.offers.iter().map(|(_, fd)| fd));
        if known.into_iter().any(|known| is_same_open_file(known.as_fd(), fd.as_fd())) {
            self.unwanted.push(fd);
            return None;
        }
        match kinds.keepable(fd.as_fd()) {
            Ok(kind) => {
                let id = self.next_offer;
                self.next_offer = id.next();
                self.offers.push((id, fd));
                Some(Notice::Store(Offer { id, name: name.clone(), watched: watched && kind.has_end }))
            }
            Err(why) => {
                self.unwanted.push(fd);
                Some(Notice::NotStored { why })
            }
        }
    }

    /// Nobody wants these.
    pub(super) fn refuse(&mut self, fds: Vec<OwnedFd>) {
        self.unwanted.extend(fds);
    }

    /// Keeps an offered descriptor, here and in the guardian's store; gives it to be watched. `None`: there is no such
    /// offer.
    ///
    /// # Errors
    /// The guardian does not take it: it is not kept.
    pub(super) fn keep(
        &mut self,
        offer: OfferId,
        stored: &Stored,
        guardian: &mut GuardianClient,
    ) -> Result<Option<BorrowedFd<'_>>, OrderError> {
        let Some(at) = self.offers.iter().position(|(id, _)| *id == offer) else { return Ok(None) };
        let (_, fd) = self.offers.remove(at);
        if let Err(error) = guardian.store(StoreKey::Left(self.slot, stored.index), fd.as_fd()) {
            self.unwanted.push(fd);
            return Err(error);
        }
        Ok(Some(self.adopt(stored, fd)))
    }

    /// Takes over a descriptor that the guardian keeps already; gives it to be watched.
    pub(super) fn adopt(&mut self, stored: &Stored, fd: OwnedFd) -> BorrowedFd<'_> {
        let kept = Kept { id: stored.id, fd };
        // Its place is free: it was given up before it was given away again.
        self.kept.entry(stored.index).insert_entry(kept).into_mut().fd.as_fd()
    }

    /// Gives up a descriptor, which is still open until the guardian has closed its copy.
    pub(super) fn give_up(&mut self, index: u8) -> Option<OwnedFd> {
        self.kept.remove(&index).map(|kept| kept.fd)
    }

    /// What is at this place.
    pub(super) fn at(&self, index: u8) -> Option<(RecordId, BorrowedFd<'_>)> {
        self.kept.get(&index).map(|kept| (kept.id, kept.fd.as_fd()))
    }

    /// Whether this very one is kept here.
    pub(super) fn has(&self, stored: &Stored) -> bool {
        self.kept.get(&stored.index).is_some_and(|kept| kept.id == stored.id)
    }

    /// All of them, for the guardian.
    pub(super) fn all(&self) -> impl Iterator<Item = (RecordId, StoreKey, BorrowedFd<'_>)> {
        self.kept.iter().map(|(index, kept)| (kept.id, StoreKey::Left(self.slot, *index), kept.fd.as_fd()))
    }

    /// Everything that was said is done: what no order has asked for is to be closed. Gives the pipes, for whose end
    /// somebody may wait (`BARRIER=1`).
    pub(super) fn settle(&mut self, kinds: &Kinds) -> Vec<OwnedFd> {
        let offers = self.offers.drain(..).map(|(_, fd)| fd);
        let (pipes, others): (Vec<_>, Vec<_>) = offers.chain(self.unwanted.drain(..)).partition(|fd| kinds.is_pipe(fd));
        self.closing.add(others, kinds);
        pipes
    }

    /// Whether [`settle`](Self::settle) has something to do.
    pub(super) fn is_unsettled(&self) -> bool {
        !(self.offers.is_empty() && self.unwanted.is_empty())
    }
}
