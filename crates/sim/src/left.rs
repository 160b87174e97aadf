//! Descriptors that services leave: what the fake guardian keeps of them.

use hale_core::descriptor::{FdName, Offer, Stored};
use hale_core::event::Notice;
use hale_core::ids::{Name, OfferId, RecordId};
use hale_core::reason::Reason;
use hale_core::world::World;
use hale_core::world::service::Service;
use std::collections::{BTreeMap, BTreeSet};

/// What is kept, by service and place.
#[derive(Debug, Default)]
pub struct Left {
    kept: BTreeMap<(Name, u8), RecordId>,
    /// On record, and never kept: their supervisor died in between.
    lost: BTreeSet<RecordId>,
    offers: u64,
}

impl Left {
    /// What a process says that leaves so many: every seventh time something that cannot be kept, and once that it takes
    /// back what has one of the names.
    pub fn notices(&mut self, count: u32) -> Vec<Notice> {
        let name = |odd: bool| FdName::try_from(if odd { "odd" } else { "" }).unwrap_or_default();
        let mut notices = Vec::new();
        for _ in 0..count {
            self.offers += 1;
            let offer = Offer {
                id: OfferId(self.offers),
                name: name(!self.offers.is_multiple_of(2)),
                watched: self.offers.is_multiple_of(3),
            };
            notices.push(Notice::Store(offer));
            if self.offers.is_multiple_of(7) {
                notices.push(Notice::NotStored { why: Reason::DescriptorOfFile });
            }
        }
        if count > 3 {
            notices.push(Notice::Unstore { name: name(true) });
        }
        notices
    }

    /// The order to keep one; `false`: its place is taken.
    pub fn store(&mut self, service: &Name, stored: &Stored) -> bool {
        self.kept.insert((service.clone(), stored.index), stored.id).is_none()
    }

    /// The order to keep one no longer.
    pub fn unstore(&mut self, service: &Name, index: u8) {
        self.kept.remove(&(service.clone(), index));
    }

    /// How many are kept that a process which gets `passed` would not get, and how many it was to get that nobody has; one
    /// that is known to be lost is left out by the real host, too.
    #[must_use]
    pub fn compare(&self, service: &Name, passed: &[Stored]) -> (usize, usize) {
        let kept: BTreeSet<RecordId> =
            self.kept.iter().filter(|((of, _), _)| of == service).map(|(_, id)| *id).collect();
        let passed: BTreeSet<RecordId> = passed.iter().map(|stored| stored.id).collect();
        let missing = passed.difference(&kept).filter(|id| !self.lost.contains(id)).count();
        (kept.difference(&passed).count(), missing)
    }

    /// What a new supervisor does first: closes what its world does not know of, and gives back what is not there.
    pub fn adopt(&mut self, world: &World) -> Vec<(Name, RecordId)> {
        let known = |(name, service): (&Name, &Service)| {
            let name = name.clone();
            service.stored().iter().map(move |stored| ((name.clone(), stored.index), stored.id)).collect::<Vec<_>>()
        };
        let known: BTreeMap<(Name, u8), RecordId> = world.services().flat_map(known).collect();
        self.kept.retain(|place, id| known.get(place) == Some(id));
        let lost: Vec<(Name, RecordId)> = known
            .into_iter()
            .filter(|(place, _)| !self.kept.contains_key(place))
            .map(|((service, _), id)| (service, id))
            .collect();
        self.lost.extend(lost.iter().map(|(_, id)| *id));
        lost
    }
}
