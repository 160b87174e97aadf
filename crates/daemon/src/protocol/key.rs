//! The guardian's two tables: the place of a service, and the name of a kept descriptor.

use crate::protocol::wire::{Put, Reader, Take, wire};
use hale_core::descriptor::STORED_MAX;
use hale_core::ids::Epoch;
use hale_core::policy::LISTEN_MAX;
use std::fmt;
use std::io::{self, Write};

/// How many services one guardian can hold: eight times the thousand that Hale is measured with. The table is
/// reserved at the start, but only the used part of it costs memory.
pub const MAX_SERVICES: u32 = 8192;

/// A place in the guardian's table: below [`MAX_SERVICES`]. A service keeps its slot, and with it its output pipe,
/// until it is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

wire!(struct Slot { 0 });
wire!(struct Epoch { 0 });

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
    pub(crate) fn parts(self) -> (u8, u32, u8) {
        match self {
            Self::ReadApi => (0, 0, 0),
            Self::ControlApi => (1, 0, 0),
            Self::Notify(slot) => (2, slot.0, 0),
            Self::Listen(slot, index) => (3, slot.0, index),
            Self::Left(slot, index) => (4, slot.0, index),
        }
    }

    /// The key with these [`parts`](Self::parts).
    pub(crate) fn from_parts(kind: u8, slot: u32, index: u8) -> Option<Self> {
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
}

impl Put for StoreKey {
    fn put(&self, out: &mut impl Write) -> io::Result<()> {
        let (kind, slot, index) = self.parts();
        kind.put(out)?;
        slot.put(out)?;
        index.put(out)
    }
}

impl Take<'_> for StoreKey {
    fn take(reader: &mut Reader<'_>) -> Option<Self> {
        Self::from_parts(Take::take(reader)?, Take::take(reader)?, Take::take(reader)?)
    }
}
