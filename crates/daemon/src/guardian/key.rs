//! What a descriptor in the guardian's store is, and how that is written in messages and in systemd's store.

use crate::guardian::protocol::{MAX_SERVICES, Slot};
use crate::guardian::wire::Reader;
use hale_core::descriptor::STORED_MAX;
use hale_core::policy::LISTEN_MAX;

/// What a kept descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoreKey {
    /// The listener of the API's reading half.
    ReadApi,
    /// The listener of the API's half for orders.
    ControlApi,
    /// A service's notify socket.
    Notify(Slot),
    /// A service's listening socket, by its place in the order of their names: below [`LISTEN_MAX`].
    Listen(Slot, u8),
    /// What a service left for its next process, by its place: below [`STORED_MAX`].
    Left(Slot, u8),
}

impl StoreKey {
    /// Whose it is; `None`: Hale's own.
    #[must_use]
    pub fn slot(self) -> Option<Slot> {
        match self {
            Self::ReadApi | Self::ControlApi => None,
            Self::Notify(slot) | Self::Listen(slot, _) | Self::Left(slot, _) => Some(slot),
        }
    }

    /// Kind, slot, and which one of the slot.
    pub(super) fn parts(self) -> (u8, u32, u8) {
        match self {
            Self::ReadApi => (0, 0, 0),
            Self::ControlApi => (1, 0, 0),
            Self::Notify(slot) => (2, slot.0, 0),
            Self::Listen(slot, index) => (3, slot.0, index),
            Self::Left(slot, index) => (4, slot.0, index),
        }
    }

    /// The key with these [`parts`](Self::parts).
    pub(super) fn from_parts(kind: u8, slot: u32, index: u8) -> Option<Self> {
        match (kind, slot, index) {
            (0, 0, 0) => Some(Self::ReadApi),
            (1, 0, 0) => Some(Self::ControlApi),
            (2, slot, 0) if slot < MAX_SERVICES => Some(Self::Notify(Slot(slot))),
            (3, slot, index) if slot < MAX_SERVICES && usize::from(index) < LISTEN_MAX => {
                Some(Self::Listen(Slot(slot), index))
            }
            (4, slot, index) if slot < MAX_SERVICES && usize::from(index) < STORED_MAX => {
                Some(Self::Left(Slot(slot), index))
            }
            _ => None,
        }
    }

    /// As it stands in a message.
    pub(super) fn numbers(self) -> [u8; KEY_BYTES] {
        let (kind, slot, index) = self.parts();
        let [a, b, c, d] = slot.to_le_bytes();
        [kind, a, b, c, d, index]
    }

    fn from_numbers([kind, a, b, c, d, index]: [u8; KEY_BYTES]) -> Option<Self> {
        Self::from_parts(kind, u32::from_le_bytes([a, b, c, d]), index)
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (bytes, rest) = reader.0.split_first_chunk()?;
        reader.0 = rest;
        Self::from_numbers(*bytes)
    }
}

/// The length of a [`StoreKey`] in a message.
const KEY_BYTES: usize = 6;
