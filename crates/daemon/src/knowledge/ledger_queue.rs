//! What waits for the ledger's writer thread: bounded, in the order of arrival, and the one thing both sides lock.

use super::ledger_store::{AppendError, Class, Limits};
use std::collections::VecDeque;
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a record costs in memory and in its line beside its payload.
const OVERHEAD_BYTES: usize = 160;

/// A payload on its way to the disk.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) payload: Vec<u8>,
    /// The caller's number; the store's own records have none.
    pub(super) id: Option<u64>,
}

impl Item {
    fn bytes(&self) -> usize {
        self.payload.len() + OVERHEAD_BYTES
    }
}

/// Records that were not taken since the last record that said so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) evidence: u64,
    pub(super) state: u64,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    bytes: usize,
    dropped: Dropped,
    low_space: bool,
    closing: bool,
    finished: bool,
}

/// The queue between [`super::LedgerStore::append`] and the writer.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    work: Condvar,
    done: Condvar,
}

/// What [`Queue::take`] hands over.
pub(super) struct Batch {
    /// At least one, unless the queue is closing.
    pub(super) items: Vec<Item>,
    /// What was dropped before now; not while space is low, when more will be.
    pub(super) dropped: Dropped,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete at each point where a thread could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an item in, or counts it as dropped. Holds the lock for a few instructions; never waits for a disk. The writer
    /// hears of it by [`Self::wake`].
    pub(super) fn push(&self, item: Item, class: Class, limits: &Limits) -> Result<(), AppendError> {
        let mut state = self.lock();
        let bytes = state.bytes + item.bytes();
        match class {
            Class::Evidence if state.low_space || bytes > limits.evidence_queue_bytes => {
                state.dropped.evidence += 1;
                return Err(AppendError::Dropped { class });
            }
            Class::State if bytes > limits.state_queue_bytes => {
                state.dropped.state += 1;
                return Err(AppendError::Dropped { class });
            }
            Class::Durable if bytes > limits.durable_queue_bytes => return Err(AppendError::Full),
            Class::Evidence | Class::State | Class::Durable => {}
        }
        state.bytes = bytes;
        state.items.push_back(item);
        Ok(())
    }

    /// Counts what cannot be taken at all.
    pub(super) fn count_dropped(&self, class: Class) {
        let dropped = &mut self.lock().dropped;
        match class {
            Class::Evidence => dropped.evidence += 1,
            Class::State => dropped.state += 1,
            // It is never dropped in silence: whoever wanted it is told, and does not act.
            Class::Durable => {}
        }
    }

    /// Tells the writer that there is something.
    pub(super) fn wake(&self) {
        self.work.notify_one();
    }

    /// Takes a record of the store's own in, whatever the bounds: there are at most a handful between two syncs.
    pub(super) fn push_own(&self, payload: Vec<u8>) {
        self.push_at(payload, VecDeque::push_back);
    }

    /// The same, before all that waits.
    pub(super) fn push_first(&self, payload: Vec<u8>) {
        self.push_at(payload, VecDeque::push_front);
    }

    /// Takes these in before all that waits, whatever the bounds: they are of a journal, which has its own.
    pub(super) fn put_first(&self, items: Vec<Item>) {
        let mut state = self.lock();
        for item in items.into_iter().rev() {
            state.bytes += item.bytes();
            state.items.push_front(item);
        }
    }

    fn push_at(&self, payload: Vec<u8>, put: fn(&mut VecDeque<Item>, Item)) {
        let item = Item { payload, id: None };
        let mut state = self.lock();
        state.bytes += item.bytes();
        put(&mut state.items, item);
        drop(state);
        self.work.notify_one();
    }

    /// Waits until there is something, and takes up to `max_bytes` of it. `None`: closing, and nothing is left.
    pub(super) fn take(&self, max_bytes: usize) -> Option<Batch> {
        let mut state = self.lock();
        while state.items.is_empty() && !state.closing {
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let (mut items, mut bytes) = (Vec::new(), 0);
        while let Some(item) = state.items.pop_front_if(|item| items.is_empty() || bytes + item.bytes() <= max_bytes) {
            bytes += item.bytes();
            items.push(item);
        }
        state.bytes -= bytes;
        let dropped =
            if state.low_space && !state.closing { Dropped::default() } else { mem::take(&mut state.dropped) };
        (!items.is_empty() || dropped != Dropped::default()).then_some(Batch { items, dropped })
    }

    /// While space is low, evidence is not taken.
    pub(super) fn set_low_space(&self, low_space: bool) {
        self.lock().low_space = low_space;
    }

    /// Waits for `delay`, or until the store closes. Says whether to go on.
    pub(super) fn pause(&self, delay: Duration) -> bool {
        let (state, _) = self
            .work
            .wait_timeout_while(self.lock(), delay, |state| !state.closing)
            .unwrap_or_else(PoisonError::into_inner);
        !state.closing
    }

    /// Tells the writer to write what there is, and to end.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.work.notify_all();
    }

    /// The writer has ended.
    pub(super) fn finish(&self) {
        self.lock().finished = true;
        self.done.notify_all();
    }

    /// Waits for the writer's end, at most `within`. Says whether it came.
    pub(super) fn wait_finished(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let mut state = self.lock();
        while !state.finished {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.done.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: u64) -> Item {
        Item { payload: vec![b'x'; 1000], id: Some(id) }
    }

    fn limits() -> Limits {
        Limits { evidence_queue_bytes: 3000, state_queue_bytes: 6000, durable_queue_bytes: 9000, ..Limits::default() }
    }

    #[test]
    fn evidence_goes_first_then_state_and_durable_is_told() {
        let queue = Queue::default();
        let mut taken = [0; 3];
        for id in 0..10 {
            for (n, class) in [Class::Evidence, Class::State, Class::Durable].into_iter().enumerate() {
                match queue.push(item(id), class, &limits()) {
                    Ok(()) => taken[n] += 1,
                    Err(AppendError::Dropped { class: dropped }) => assert_eq!(dropped, class),
                    Err(AppendError::Full) => assert_eq!(class, Class::Durable),
                    Err(AppendError::Payload(error)) => panic!("{error}"),
                }
            }
        }
        assert_eq!(taken, [1, 2, 4]);
        let batch = queue.take(usize::MAX).expect("seven items");
        assert_eq!(batch.items.len(), 7);
        assert_eq!(batch.dropped, Dropped { evidence: 9, state: 8 });
        assert!(queue.push(item(0), Class::Evidence, &limits()).is_ok(), "there is room again");
    }

    #[test]
    fn while_space_is_low_evidence_is_dropped_and_its_count_waits() {
        let queue = Queue::default();
        queue.set_low_space(true);
        assert!(queue.push(item(0), Class::Evidence, &limits()).is_err());
        queue.push(item(1), Class::State, &limits()).expect("room");
        assert_eq!(queue.take(usize::MAX).expect("one").dropped, Dropped::default());
        queue.set_low_space(false);
        queue.push(item(2), Class::State, &limits()).expect("room");
        assert_eq!(queue.take(usize::MAX).expect("one").dropped, Dropped { evidence: 1, state: 0 });
    }

    #[test]
    fn a_batch_is_bounded_and_keeps_the_order() {
        let queue = Queue::default();
        for id in 0..5 {
            queue.push(item(id), Class::Durable, &limits()).expect("room");
        }
        queue.close();
        let mut seen = Vec::new();
        while let Some(batch) = queue.take(2400) {
            assert!(batch.items.len() <= 2);
            seen.extend(batch.items.iter().filter_map(|item| item.id));
        }
        assert_eq!(seen, [0, 1, 2, 3, 4]);
    }
}
