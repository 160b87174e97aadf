//! What the loop's epoll events are about.

use crate::protocol::{MAX_SERVICES, Slot};
use rustix::event::epoll;

/// What an epoll event is about, in its 64 bits of data: the kind above, then a place, the slot below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Guardian,
    Keeper,
    Inbox,
    Notify(Slot),
    Tree(Slot),
    Memory(Slot),
    KernelLog,
    Stalls,
    Rests,
    /// The other end of a descriptor that a service left, by its place.
    Left(Slot, u8),
}

/// A slot's number fits into 16 bits of an event's data.
const _: () = assert!(MAX_SERVICES <= 1 << 16);

impl Source {
    /// As the kernel gives it back.
    pub(super) fn data(self) -> epoll::EventData {
        let (kind, index, slot) = match self {
            Self::Guardian => (0, 0, 0),
            Self::Keeper => (1, 0, 0),
            Self::Inbox => (2, 0, 0),
            Self::Notify(slot) => (3, 0, slot.0),
            Self::Tree(slot) => (4, 0, slot.0),
            Self::Memory(slot) => (5, 0, slot.0),
            Self::KernelLog => (6, 0, 0),
            Self::Stalls => (7, 0, 0),
            Self::Rests => (8, 0, 0),
            Self::Left(slot, index) => (9, index, slot.0),
        };
        epoll::EventData::new_u64(kind << 32 | u64::from(index) << 16 | u64::from(slot))
    }

    /// What this is about.
    pub(super) fn from_data(data: u64) -> Option<Self> {
        let slot = Slot(u32::from(data as u16));
        let index = (data >> 16) as u8;
        match data >> 32 {
            0 => Some(Self::Guardian),
            1 => Some(Self::Keeper),
            2 => Some(Self::Inbox),
            3 => Some(Self::Notify(slot)),
            4 => Some(Self::Tree(slot)),
            5 => Some(Self::Memory(slot)),
            6 => Some(Self::KernelLog),
            7 => Some(Self::Stalls),
            8 => Some(Self::Rests),
            9 => Some(Self::Left(slot, index)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_event_is_about_comes_back() {
        let last = Slot(MAX_SERVICES - 1);
        for source in [
            Source::Guardian,
            Source::Rests,
            Source::Notify(last),
            Source::Left(last, u8::MAX),
            Source::Left(Slot(0), 1),
        ] {
            assert_eq!(Source::from_data(source.data().u64()), Some(source));
        }
        assert_eq!(Source::from_data(99 << 32), None);
    }
}
