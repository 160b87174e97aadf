//! Descriptors that outlive a supervisor: sockets in which what clients and services send waits for the next one.

use crate::guardian::protocol::{MAX_SERVICES, StoreKey};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How many descriptors are kept: a notify socket and a listening one for each service (most have none, some have
/// several), and a few of Hale's own. Reserved at the start, but only the used part costs memory.
const MAX_STORED: usize = 2 * MAX_SERVICES as usize + 64;

/// The store.
#[derive(Debug)]
pub(super) struct Store {
    entries: Vec<(StoreKey, OwnedFd)>,
    /// How many of them the supervisor was told.
    told: usize,
}

impl Store {
    pub fn new() -> Self {
        Self { entries: Vec::with_capacity(MAX_STORED), told: 0 }
    }

    /// Keeps a descriptor, in place of one with the same key. Beyond the bound it is closed: its owner goes on with its own,
    /// and the next supervisor makes a new one.
    pub fn put(&mut self, key: StoreKey, fd: OwnedFd) {
        if let Some((_, kept)) = self.entries.iter_mut().find(|(kept, _)| *kept == key) {
            *kept = fd;
        } else if self.entries.len() < self.entries.capacity() {
            // Whoever put it knows it.
            self.told += usize::from(self.told == self.entries.len());
            self.entries.push((key, fd));
        }
    }

    /// What is kept under this key.
    pub fn get(&self, key: StoreKey) -> Option<BorrowedFd<'_>> {
        self.entries.iter().find(|(kept, _)| *kept == key).map(|(_, fd)| fd.as_fd())
    }

    /// Closes a descriptor.
    pub fn remove(&mut self, key: StoreKey) {
        if let Some(at) = self.entries.iter().position(|(kept, _)| *kept == key) {
            self.entries.remove(at);
            self.told -= usize::from(at < self.told);
        }
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guardian::protocol::Slot;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn what_is_kept_is_told_to_each_new_supervisor_once() {
        let mut store = Store::new();
        let keys = [StoreKey::Notify(Slot(3)), StoreKey::ReadApi, StoreKey::ControlApi];
        keys.iter().for_each(|key| store.put(*key, null()));
        assert!(store.untold().is_none(), "the one who put them knows them");
        store.put(keys[0], null());
        store.forget_told();
        store.remove(keys[1]);
        let mut told = Vec::new();
        while let Some((key, _)) = store.untold() {
            told.push(*key);
            store.was_told();
        }
        assert_eq!(told, [keys[0], keys[2]]);
        store.remove(keys[0]);
        assert!(store.untold().is_none());
    }
}
