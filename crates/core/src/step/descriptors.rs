//! Descriptors that services leave with Hale: kept within bounds, passed to each next process, given up when the service
//! wants none.

use super::Brain;
use crate::descriptor::{Offer, STORED_IN_ALL_MAX, STORED_MAX, STORES_AT_ONCE, STORES_EVERY, Stored, free_index};
use crate::effect::Order;
use crate::ids::{Epoch, Name};
use crate::reason::Reason;
use crate::record::Body;
use alloc::vec::Vec;

impl Brain<'_> {
    /// A process wants to leave a descriptor.
    pub(super) fn offered(&mut self, name: &Name, epoch: Epoch, offer: Offer) {
        let index = match self.place_for(name) {
            Ok(index) => index,
            Err(why) => return self.refuse_descriptor(name, epoch, why),
        };
        let id = self.next_record();
        let Offer { id: offer, name: fd_name, watched } = offer;
        let body = Body::DescriptorStored { epoch, index, name: fd_name.clone(), watched };
        if self.record(name, body) {
            self.effect(name, epoch, Order::Store { offer, stored: Stored { id, index, name: fd_name, watched } });
        }
    }

    /// Where one more descriptor of this service can be kept, or why it cannot.
    fn place_for(&self, name: &Name) -> Result<u8, Reason> {
        let known = self.known(name);
        let count = |most: usize| u32::try_from(most).unwrap_or(u32::MAX);
        let index = free_index(&known.stored).ok_or(Reason::DescriptorsFull { most: count(STORED_MAX) })?;
        let in_all: usize = self.world.services.values().map(|service| service.known.stored.len()).sum();
        if in_all >= STORED_IN_ALL_MAX {
            return Err(Reason::DescriptorsFullInAll { most: count(STORED_IN_ALL_MAX) });
        }
        if known.stores_until > self.now().after(STORES_EVERY.times(STORES_AT_ONCE - 1)) {
            return Err(Reason::DescriptorsTooOften);
        }
        Ok(index)
    }

    /// Says why a descriptor of this process is not kept, once for each reason.
    pub(super) fn refuse_descriptor(&mut self, name: &Name, epoch: Epoch, why: Reason) {
        if !self.known(name).refused.contains(&why) {
            self.record(name, Body::DescriptorRefused { epoch, why });
        }
    }

    /// Gives up the descriptors that `wanted` is true of.
    pub(super) fn drop_stored(&mut self, name: &Name, wanted: impl Fn(&Stored) -> bool, why: &Reason) {
        let known = self.known(name);
        let epoch = known.last_epoch;
        let dropped: Vec<Stored> = known.stored.iter().filter(|stored| wanted(stored)).cloned().collect();
        for Stored { id: stored, index, name: fd_name, .. } in dropped {
            if self.record(name, Body::DescriptorDropped { stored, name: fd_name, why: why.clone() }) {
                self.effect(name, epoch, Order::Unstore { index });
            }
        }
    }

    /// No process is wanted any more, and so nothing that would be for it.
    pub(super) fn stopped(&mut self, name: &Name, why: Reason) {
        let known = self.known(name);
        let (epoch, places) = (known.last_epoch, known.stored.iter().map(|stored| stored.index).collect::<Vec<u8>>());
        if self.record(name, Body::Stopped { why }) {
            places.into_iter().for_each(|index| self.effect(name, epoch, Order::Unstore { index }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::FdName;
    use crate::effect::Effect;
    use crate::event::{Event, Notice, Question};
    use crate::ids::{OfferId, RecordId, RequestId};
    use crate::record::{Actor, OperatorOrder, Record};
    use crate::step::tests::{at, exited, run, service, world};
    use crate::step::{Output, step};
    use crate::world::World;
    use alloc::collections::BTreeMap;
    use alloc::sync::Arc;
    use std::borrow::ToOwned;
    use std::vec;

    fn notice(name: &Name, epoch: u64, notice: Notice) -> Event {
        Event::Notified { service: name.clone(), epoch: Epoch(epoch), notice }
    }

    fn offer(name: &Name, id: u64, fd_name: &str) -> Event {
        let fd_name = FdName::try_from(fd_name).unwrap();
        notice(name, 1, Notice::Store(Offer { id: OfferId(id), name: fd_name, watched: true }))
    }

    fn orders(output: &Output) -> Vec<&Order> {
        output.effects.iter().map(|Effect { order, .. }| order).collect()
    }

    fn stored(order: &Order) -> Option<&Vec<Stored>> {
        if let Order::Spawn { stored, .. } = order { Some(stored) } else { None }
    }

    /// The names that a process is started with.
    fn passed(output: &Output) -> Option<Vec<&str>> {
        let stored = orders(output).into_iter().find_map(stored)?;
        Some(stored.iter().map(|stored| stored.name.as_str()).collect())
    }

    fn why(record: &Record) -> Option<&Reason> {
        if let Body::DescriptorRefused { why, .. } = &record.body { Some(why) } else { None }
    }

    fn refusals(outputs: &[Output]) -> Vec<&Reason> {
        outputs.iter().flat_map(|output| &output.records).filter_map(why).collect()
    }

    /// A world in which the service runs and has left descriptors of these names.
    fn left(names: &[&str]) -> (World, Name) {
        let (mut world, name) = world(service());
        run(&mut world, &name);
        for (id, fd_name) in (0..).zip(names) {
            let output = step(&mut world, at(3), offer(&name, id, fd_name));
            assert!(matches!(orders(&output)[..], [Order::Store { offer, .. }] if *offer == OfferId(id)), "{output:?}");
        }
        (world, name)
    }

    #[test]
    fn what_is_left_goes_to_the_next_process_and_not_beyond_a_stop() {
        let (mut world, name) = left(&["state", "conn", "conn"]);
        let taken_back = Notice::Unstore { name: FdName::try_from("conn").unwrap() };
        let output = step(&mut world, at(4), notice(&name, 1, taken_back));
        assert_eq!(orders(&output), [&Order::Unstore { index: 1 }, &Order::Unstore { index: 2 }]);
        let _ = step(&mut world, at(4), offer(&name, 7, "new"));
        let output = step(&mut world, at(5), exited(&name, 1));
        assert_eq!(passed(&output), Some(vec!["state", "new"]));
        let status = &world.status(at(6), None).unwrap().services[0];
        assert_eq!(status.stored.iter().map(FdName::as_str).collect::<Vec<_>>(), ["state", "new"]);

        let order = OperatorOrder::Stop { service: name.clone() };
        let actor = Actor { uid: 0, pid: 1, user: None };
        let asked = Event::Asked { request: RequestId(1), question: Question::Order { actor, order, waits: true } };
        let up_to = step(&mut world, at(7), asked).records[0].id;
        let _ = step(&mut world, at(8), Event::Durable { up_to });
        let failed =
            crate::event::SpawnFailure { step: "exec".to_owned(), path: "".to_owned(), errno: 2, error: "".to_owned() };
        let output =
            step(&mut world, at(9), Event::SpawnFailed { service: name.clone(), epoch: Epoch(2), failure: failed });
        let unstored = |order: &&&Order| matches!(order, Order::Unstore { .. });
        assert_eq!(orders(&output).iter().filter(unstored).count(), 2, "{output:?}");
        assert_eq!(world.services[&name].stored(), []);
    }

    #[test]
    fn what_is_too_much_is_refused_and_told_once() {
        let names = vec!["x"; STORED_MAX];
        let (mut world, name) = left(&names);
        let full: Vec<Output> = (0..3).map(|id| step(&mut world, at(4), offer(&name, 100 + id, "y"))).collect();
        assert!(full.iter().all(|output| output.effects.is_empty()), "{full:?}");
        assert_eq!(refusals(&full), [&Reason::DescriptorsFull { most: 32 }]);
        // The next process may hear it once more.
        let _ = step(&mut world, at(5), exited(&name, 1));
        let process = crate::event::Process { pid: 1, start_ticks: 1, pidfd_inode: 1, cgroup: None };
        let _ = step(&mut world, at(6), Event::Spawned { service: name.clone(), epoch: Epoch(2), process });
        let again = notice(&name, 2, Notice::NotStored { why: Reason::DescriptorOfFile });
        let told = [step(&mut world, at(7), again.clone()), step(&mut world, at(8), again)];
        assert_eq!(refusals(&told), [&Reason::DescriptorOfFile]);
    }

    #[test]
    fn one_that_stores_with_each_breath_makes_two_records_a_second() {
        let (mut world, name) = world(service());
        run(&mut world, &name);
        let mut stored = 0;
        for breath in 0..200_000 {
            let now = at(10 + breath / 20);
            let kept = step(&mut world, now, offer(&name, breath, "x"));
            stored += usize::from(!kept.effects.is_empty());
            let taken_back = Notice::Unstore { name: FdName::try_from("x").unwrap() };
            let _ = step(&mut world, now, notice(&name, 1, taken_back));
        }
        // Ten seconds.
        assert_eq!(stored, 64 + 9);
    }

    #[test]
    fn all_services_together_have_a_bound() {
        let (world_of_one, _) = world(service());
        let mut birth = world_of_one.birth;
        let names: Vec<Name> =
            (0..33).map(|number| Name::try_from(alloc::format!("s{number}").as_str()).unwrap()).collect();
        birth.policy.services =
            names.iter().map(|name| (name.clone(), Arc::new(service()))).collect::<BTreeMap<_, _>>();
        let mut world = World::new(birth);
        let mut refused = Vec::new();
        let _ = step(&mut world, at(0), Event::Begin);
        for name in &names {
            let process = crate::event::Process { pid: 1, start_ticks: 1, pidfd_inode: 1, cgroup: None };
            let _ = step(&mut world, at(1), Event::Spawned { service: name.clone(), epoch: Epoch(1), process });
            refused.extend((0..32).map(|id| step(&mut world, at(2), offer(name, id, "x"))));
        }
        assert_eq!(refusals(&refused), [&Reason::DescriptorsFullInAll { most: 1024 }]);
    }

    #[test]
    fn one_whose_other_end_is_gone_is_dropped_and_not_what_took_its_place() {
        let (mut world, name) = left(&["conn"]);
        let id = world.services[&name].stored()[0].id;
        let gone = |id| Event::DescriptorGone { service: name.clone(), stored: id, why: Reason::DescriptorHungUp };
        assert_eq!(orders(&step(&mut world, at(4), gone(id))), [&Order::Unstore { index: 0 }]);
        let _ = step(&mut world, at(5), offer(&name, 2, "next"));
        assert_eq!(world.services[&name].stored()[0].index, 0);
        let late = step(&mut world, at(6), gone(id));
        assert!(late.records.is_empty() && late.effects.is_empty());
        assert_eq!(world.services[&name].stored().len(), 1);
        assert_ne!(world.services[&name].stored()[0].id, RecordId(0));
    }

    #[test]
    fn a_supervisor_that_takes_over_knows_what_was_left() {
        let (mut world, name) = world(service());
        let mut records = step(&mut world, at(0), Event::Begin).records;
        let process = crate::event::Process { pid: 100, start_ticks: 1, pidfd_inode: 1, cgroup: None };
        let events = [
            Event::Spawned { service: name.clone(), epoch: Epoch(1), process },
            Event::Executed { service: name.clone(), epoch: Epoch(1) },
            offer(&name, 1, "state"),
        ];
        records.extend(events.into_iter().flat_map(|event| step(&mut world, at(1), event).records));
        let expected = world.services[&name].stored().to_vec();
        let snapshot = world.snapshot();
        let by_records = World::restore(world.birth.clone(), None, None, records);
        let by_snapshot = World::restore(world.birth.clone(), None, Some(snapshot), []);
        for world in [by_records, by_snapshot] {
            assert_eq!(world.services[&name].stored(), expected);
        }
    }
}
