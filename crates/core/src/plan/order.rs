//! Start order by `after`, stop order in reverse.

use crate::ids::Name;
use crate::policy::ServicePolicy;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Who starts after whom, in both directions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Order {
    behind: BTreeMap<Name, Vec<Name>>,
}

impl Order {
    /// Reads it from the services' policies.
    pub(crate) fn new<'a>(services: impl Iterator<Item = (&'a Name, &'a ServicePolicy)>) -> Self {
        let mut behind: BTreeMap<Name, Vec<Name>> = BTreeMap::new();
        for (name, service) in services {
            for before in &service.after {
                behind.entry(before.clone()).or_default().push(name.clone());
            }
        }
        Self { behind }
    }

    /// The services that start after `name`, and stop before it.
    pub(crate) fn behind(&self, name: &Name) -> &[Name] {
        self.behind.get(name).map_or(&[], Vec::as_slice)
    }
}
