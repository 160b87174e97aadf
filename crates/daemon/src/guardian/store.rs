//! Descriptors that outlive a supervisor: sockets in which what clients and services send waits for the next one.

use crate::protocol::{MAX_SERVICES, Slot, StoreKey};
use hale_core::descriptor::STORED_IN_ALL_MAX;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How many descriptors are kept: a notify socket and a listening one for each service (most have none, some have
/// several), what services left, and a few of Hale's own. Reserved at the start, but only the used part costs memory.
const MAX_STORED: usize = 2 * MAX_SERVICES as usize + STORED_IN_ALL_MAX + 64;

/// The store.
#[derive(Debug)]
pub(super) struct Store {
    /// New ones come last, also in place of one with the same key.
    entries: Vec<(StoreKey, OwnedFd)>,
    /// How many of them the supervisor was told.
    told: usize,
    /// How many of them systemd keeps too.
    kept: usize,
}

impl Store {
    pub fn new() -> Self {
        Self { entries: Vec::with_capacity(MAX_STORED), told: 0, kept: 0 }
    }

    /// Keeps a descriptor, in place of one with the same key: says whether systemd has that one. Beyond the bound it is
    /// closed: its owner goes on with its own, and the next supervisor makes a new one.
    pub fn put(&mut self, key: StoreKey, fd: OwnedFd) -> bool {
        let was_kept = self.remove(key);
        if self.entries.len() < self.entries.capacity() {
            // Whoever put it knows it.
            self.told += usize::from(self.told == self.entries.len());
            self.entries.push((key, fd));
        }
        was_kept
    }

    /// Takes over what systemd kept.
    pub fn adopt(&mut self, key: StoreKey, fd: OwnedFd) {
        self.put(key, fd);
        self.kept = self.entries.len();
    }

    /// What is kept under this key.
    pub fn get(&self, key: StoreKey) -> Option<BorrowedFd<'_>> {
        self.entries.iter().find(|(kept, _)| *kept == key).map(|(_, fd)| fd.as_fd())
    }

    /// Closes a descriptor; says whether systemd has it.
    pub fn remove(&mut self, key: StoreKey) -> bool {
        let Some(at) = self.entries.iter().position(|(kept, _)| *kept == key) else { return false };
        self.entries.remove(at);
        self.told -= usize::from(at < self.told);
        let was_kept = at < self.kept;
        self.kept -= usize::from(was_kept);
        was_kept
    }

    /// Something that is this service's.
    pub fn of(&self, slot: Slot) -> Option<StoreKey> {
        self.entries.iter().map(|(key, _)| *key).find(|key| key.slot() == Some(slot))
    }

    /// A new supervisor knows nothing.
    pub fn forget_told(&mut self) {
        self.told = 0;
    }

    /// The next one that the supervisor does not know.
    pub fn untold(&self) -> Option<&(StoreKey, OwnedFd)> {
        self.entries.get(self.told)
    }

    /// It was told the next one.
    pub fn was_told(&mut self) {
        self.told += 1;
    }

    /// The next one that systemd does not have.
    pub fn unkept(&self) -> Option<&(StoreKey, OwnedFd)> {
        self.entries.get(self.kept)
    }

    /// It has the next one.
    pub fn was_kept(&mut self) {
        self.kept += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn what_is_kept_is_told_to_each_new_supervisor_once() {
        let mut store = Store::new();
        let keys = [StoreKey::Notify(Slot(3)), StoreKey::ReadApi, StoreKey::ControlApi];
        for key in keys {
            store.put(key, null());
        }
        assert!(store.untold().is_none(), "the one who put them knows them");
        store.put(keys[0], null());
        store.forget_told();
        store.remove(keys[1]);
        let mut told = Vec::new();
        while let Some((key, _)) = store.untold() {
            told.push(*key);
            store.was_told();
        }
        assert_eq!(told, [keys[2], keys[0]]);
        store.remove(keys[0]);
        assert!(store.untold().is_none());
    }

    #[test]
    fn what_systemd_has_is_known_when_it_is_replaced_or_removed() {
        let mut store = Store::new();
        store.adopt(StoreKey::ReadApi, null());
        assert!(!store.put(StoreKey::ControlApi, null()));
        assert_eq!(store.unkept().map(|(key, _)| *key), Some(StoreKey::ControlApi));
        assert!(store.put(StoreKey::ReadApi, null()), "the one before is to be removed there");
        store.was_kept();
        assert_eq!(store.unkept().map(|(key, _)| *key), Some(StoreKey::ReadApi));
        assert!(store.remove(StoreKey::ControlApi));
        assert!(!store.remove(StoreKey::ReadApi));
    }

    #[test]
    fn what_is_a_services_is_found() {
        let mut store = Store::new();
        let of = |slot| [StoreKey::Notify(slot), StoreKey::Listen(slot, 0), StoreKey::Left(slot, 31)];
        let others = [StoreKey::ReadApi, StoreKey::Left(Slot(2), 31)];
        for key in of(Slot(1)).into_iter().chain(others) {
            store.put(key, null());
        }
        while let Some(key) = store.of(Slot(1)) {
            store.remove(key);
        }
        assert!(of(Slot(1)).into_iter().all(|key| store.get(key).is_none()));
        assert!(others.into_iter().all(|key| store.get(key).is_some()));
    }
}
