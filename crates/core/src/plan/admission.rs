//! How many services may be on their way up again at once, and who is next.

use crate::ids::Name;
use crate::time::Monotonic;
use alloc::collections::{BTreeMap, BTreeSet};

/// Keeps `restarts_in_flight`: those on their way up after a failure, and those that wait for a place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Admission {
    in_flight: BTreeSet<Name>,
    waiting: BTreeSet<(Monotonic, Name)>,
    due: BTreeMap<Name, Monotonic>,
}

impl Admission {
    /// Takes a place if there is one; else queues `name` behind those that were due earlier.
    pub(crate) fn admit(&mut self, name: &Name, due: Monotonic, limit: u32) -> bool {
        self.leave(name);
        let free = self.in_flight.len() < limit as usize;
        if free {
            self.in_flight.insert(name.clone());
        } else {
            self.waiting.insert((due, name.clone()));
            self.due.insert(name.clone(), due);
        }
        free
    }

    /// Has one in its place that is on its way up already, however many there are.
    pub(crate) fn readmit(&mut self, name: &Name) {
        self.leave(name);
        self.in_flight.insert(name.clone());
    }

    /// Gives back the place of `name` and forgets that it waits.
    pub(crate) fn leave(&mut self, name: &Name) {
        self.in_flight.remove(name);
        if let Some(due) = self.due.remove(name) {
            self.waiting.remove(&(due, name.clone()));
        }
    }

    /// Whether `name` waits for a place.
    pub(crate) fn waits(&self, name: &Name) -> bool {
        self.due.contains_key(name)
    }

    /// Whether `name` has a place.
    pub(crate) fn has_place(&self, name: &Name) -> bool {
        self.in_flight.contains(name)
    }

    /// The one that waits longest, if there is a place for it.
    pub(crate) fn next(&self, limit: u32) -> Option<Name> {
        let free = self.in_flight.len() < limit as usize;
        self.waiting.first().filter(|_| free).map(|(_, name)| name.clone())
    }

    /// How many are on their way up.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_to_the_one_that_was_due_first() {
        let name = |text: &str| Name::try_from(text).unwrap();
        let at = Monotonic::from_us;
        let mut admission = Admission::default();
        assert!(admission.admit(&name("a"), at(1), 1));
        assert!(!admission.admit(&name("c"), at(3), 1));
        assert!(!admission.admit(&name("b"), at(2), 1));
        assert_eq!(admission.next(1), None);
        admission.leave(&name("a"));
        assert_eq!(admission.next(1), Some(name("b")));
        assert!(admission.admit(&name("b"), at(2), 1));
        assert!(!admission.waits(&name("b")) && admission.waits(&name("c")));
        admission.readmit(&name("c"));
        assert!(admission.has_place(&name("c")) && !admission.waits(&name("c")) && admission.in_flight() == 2);
        admission.leave(&name("c"));
        assert!(!admission.waits(&name("c")));
        assert_eq!(admission.in_flight(), 1);
    }
}
