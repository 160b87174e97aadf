//! The scrub: releases are read again in the background, slowly, so that damage is told before a way back meets it, and a way back need
//! not read first.

use super::{Entry, Key, Stores, Table};
use crate::generations::{Reader, StoreError};
use crate::sys::idle;
use hale_core::event::Event;
use hale_core::ids::{GenerationId, Name};
use std::collections::BTreeMap;
use std::io;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often all is read again: once a day, half of the time for which a reading counts, so that a round that comes late still is in time.
const EVERY: Duration = Duration::from_secs(24 * 3600);

/// What was read in the last half of the time between two rounds is left to the next one, before which the reading still counts.
const FRESH_FOR: Duration = Duration::from_secs(12 * 3600);

/// 64 MiB/s: less than half of what one rotating disk reads in a row, an eighth of a SATA SSD, and a quarter of a processor that has no
/// instructions for SHA-256; what runs and the one before it, of 100 MB each, are read 3 s after a start. It bounds the disk's part also
/// where its scheduler knows no classes.
pub(super) const BYTES_PER_SECOND: u64 = 64 << 20;

/// 1 MiB is read between two looks at whether somebody needs the store: a switch finds a disk that has at most so much before it.
const PIECE_BYTES: u64 = 1 << 20;

/// How soon a release is read: what is switched to, then what may be gone back to, then the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Current,
    Needed,
    Rest,
}

/// What is to be read, in this order; each store's newest first.
type Plan = BTreeMap<(Rank, usize, Key), GenerationId>;

/// What is wrong with a release, as it was told.
type Told = BTreeMap<(Name, GenerationId), String>;

/// What comes next.
enum Work {
    /// See what a store has.
    List(Key, Reader),
    /// Read one.
    Read((Rank, usize, Key), GenerationId, Reader),
}

impl Stores {
    /// Starts the one thread, which lives as long as the process: a disk is read best by one.
    pub(super) fn start_scrub(&self) -> io::Result<()> {
        let own = self.clone();
        std::thread::Builder::new().name(String::from("stores-scrub")).spawn(move || own.scrub()).map(drop)
    }

    fn scrub(&self) {
        if let Err(error) = idle::become_idle() {
            eprintln!(
                "hale: releases are read in the background by ordinary priority, which the system did not lower: {error}"
            );
        }
        let (mut plan, mut told) = (Plan::new(), Told::new());
        let mut round_at = Instant::now() + EVERY;
        loop {
            match self.next_work(&mut plan, &mut round_at) {
                Work::List(key, reader) => self.plan(&mut plan, &key, &reader),
                Work::Read(at, id, reader) => {
                    let outcome = reader.verify(&id, &mut self.pace(&at.2));
                    if let Err(StoreError::Stopped) = outcome {
                        plan.insert(at, id);
                    } else {
                        self.tell_of(&mut told, (at.2.0, id), outcome);
                    }
                }
            }
        }
    }

    /// Waits for something to read in a store that nobody else needs.
    fn next_work(&self, plan: &mut Plan, round_at: &mut Instant) -> Work {
        let mut table = self.table();
        loop {
            let now = Instant::now();
            if now >= *round_at {
                *round_at = now + EVERY;
                let all: Vec<Key> = table.stores.keys().cloned().collect();
                table.unread.extend(all);
            }
            plan.retain(|(_, _, key), _| table.stores.contains_key(key));
            while let Some(key) = table.unread.pop_first() {
                if let Some(reader) = table.stores.get(&key).and_then(|entry| entry.reader.clone()) {
                    return Work::List(key, reader);
                }
            }
            let free = |key: &Key| table.stores.get(key).filter(|entry| !entry.is_needed())?.reader.clone();
            let next = plan.iter().find_map(|(at, id)| Some((at.clone(), id.clone(), free(&at.2)?)));
            if let Some((at, id, reader)) = next {
                plan.remove(&at);
                return Work::Read(at, id, reader);
            }
            table = self.wait(table, *round_at - now);
        }
    }

    /// What of a store is to be read, in place of what was planned for it before.
    fn plan(&self, plan: &mut Plan, key: &Key, reader: &Reader) {
        plan.retain(|(_, _, of), _| of != key);
        // What cannot be listed now is tried again with the next round, or the next change.
        let Ok(Some(kept)) = reader.list() else { return };
        let (current, needed) = match self.table().stores.get(key) {
            Some(entry) => (entry.seen.clone(), entry.needed.clone()),
            None => return,
        };
        for (at, one) in kept.into_iter().enumerate() {
            if one.read.is_some_and(|read| read.at.elapsed() < FRESH_FOR) {
                continue;
            }
            let rank = match &one.id {
                id if current.as_ref() == Some(id) => Rank::Current,
                id if needed.contains(id) => Rank::Needed,
                _ => Rank::Rest,
            };
            plan.insert((rank, at, key.clone()), one.id);
        }
    }

    /// Lets a reading go on at [`BYTES_PER_SECOND`] for as long as nobody needs the store.
    fn pace(&self, key: &Key) -> impl FnMut(usize) -> bool {
        let (begun, mut bytes, mut looked) = (Instant::now(), 0, 0);
        move |read| {
            bytes += read as u64;
            if bytes < looked + PIECE_BYTES {
                return true;
            }
            looked = bytes;
            let due = begun + Duration::from_micros(bytes.saturating_mul(1_000_000) / BYTES_PER_SECOND);
            let mut table = self.table();
            loop {
                if table.stores.get(key).is_none_or(Entry::is_needed) {
                    return false;
                }
                let left = due.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return true;
                }
                table = self.wait(table, left);
            }
        }
    }

    fn wait<'a>(&'a self, table: MutexGuard<'a, Table>, within: Duration) -> MutexGuard<'a, Table> {
        self.0.freed.wait_timeout(table, within).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Drift is told once, on record too, and so is its end in the log. Nothing is repaired: a disk that loses bytes is to be known of.
    fn tell_of(&self, told: &mut Told, of: (Name, GenerationId), outcome: Result<(), StoreError>) {
        match outcome {
            Ok(()) => {
                if told.remove(&of).is_some() {
                    eprintln!("hale: {}: release {} is what its id says again", of.0, of.1.short());
                }
            }
            // Somebody, or Hale, has removed it meanwhile.
            Err(StoreError::Missing(_) | StoreError::NotThere { .. }) => drop(told.remove(&of)),
            Err(error) => {
                let text = error.to_string();
                if told.get(&of) == Some(&text) {
                    return;
                }
                eprintln!("hale: {}: {text}", of.0);
                let (service, from) = of.clone();
                (self.0.tell)(Event::FilesChanged { service, from, to: None, lines: vec![text.clone()] });
                told.insert(of, text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::tree::{Trees, instance};
    use crate::generations::stores::jobs::{Ask, Job, Jobs};
    use crate::generations::testing::{LIMITS, Tar};
    use hale_core::effect::Order;
    use hale_core::event::Seen;
    use hale_core::safeswitch::Part;
    use std::path::Path;
    use std::sync::mpsc::{Receiver, channel};

    const PATIENCE: Duration = Duration::from_secs(60);

    fn bot() -> Name {
        Name::try_from("bot").unwrap()
    }

    /// The stores of a service with releases, as a supervisor has them, and what it is told.
    fn stores(dir: &Path) -> (Stores, Receiver<Event>) {
        let text = format!(
            "host = {{ state_dir = \"{0}\", runtime_dir = \"{0}/run\" }}\n[service.bot]\ncommand = [\"bin/bot\"]\n\
             [service.bot.generations]\nstore = \"release\"\n",
            dir.display()
        );
        std::fs::write(dir.join("hale.toml"), text).unwrap();
        let policy = crate::monitor::config_file::load(&dir.join("hale.toml")).unwrap().validated.policy;
        let (sender, told) = channel();
        let trees = std::sync::Arc::new(Trees::open(&instance(dir)));
        let stores = Stores::new(&policy, trees, move |event| drop(sender.send(event)));
        stores.order(&bot(), Order::LookAtStore { part: Part::Store });
        (stores, told)
    }

    /// Waits until nobody has the store in hands.
    fn await_free(stores: &Stores) {
        let mut table = stores.table();
        while table.stores[&(bot(), Part::Store)].is_taken {
            table = stores.wait(table, PATIENCE);
        }
    }

    fn import(stores: &Stores, version: &str) -> GenerationId {
        let tar = Tar::default().file("bot", version).end();
        stores.import(&bot()).unwrap().importer().import(&tar[..], &LIMITS).unwrap().id
    }

    fn drifted(event: Event) -> Option<(GenerationId, Vec<String>)> {
        match event {
            Event::FilesChanged { from, to: None, lines, .. } => Some((from, lines)),
            _ => None,
        }
    }

    /// What a supervisor has not read itself, it reads by itself, what is switched to first; and says what has drifted.
    #[test]
    fn drift_is_told_by_the_next_supervisor_and_nothing_is_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let (first, told) = stores(dir.path());
        let seen = told.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(seen, Event::GenerationSeen { seen: Seen::Current(None), .. }), "{seen:?}");
        await_free(&first);
        let ids = ["1", "2", "3"].map(|version| import(&first, version));
        let reader = first.table().stores[&(bot(), Part::Store)].reader.clone().unwrap();
        first.table().stores.clear();
        // Until its threads have let go of it.
        while !matches!(reader.list(), Err(StoreError::Stopped)) {
            std::thread::yield_now();
        }
        let releases = dir.path().join("releases/bot");
        std::os::unix::fs::symlink(ids[0].as_str(), releases.join("current")).unwrap();
        for id in [&ids[0], &ids[2]] {
            let file = releases.join(id.as_str()).join("bot");
            std::fs::remove_file(&file).unwrap_or_else(|_| {
                use std::os::unix::fs::PermissionsExt;
                let all = std::fs::Permissions::from_mode(0o755);
                std::fs::set_permissions(file.parent().unwrap(), all).unwrap();
                std::fs::remove_file(&file).unwrap();
            });
        }
        let (second, told) = stores(dir.path());
        let mut all = Vec::new();
        while all.len() < 2 {
            all.extend(drifted(told.recv_timeout(PATIENCE).unwrap()));
        }
        assert_eq!(all.iter().map(|(id, _)| id).collect::<Vec<_>>(), [&ids[0], &ids[2]]);
        assert!(all.iter().all(|(_, lines)| lines[0].contains("bot is missing")), "{all:?}");
        let listed = second.list(&bot()).unwrap().recv_timeout(PATIENCE).unwrap().unwrap();
        let faulty = |id: &GenerationId| {
            listed.iter().find(|kept| kept.id == *id).unwrap().read.as_ref().is_some_and(|read| read.fault.is_some())
        };
        assert_eq!(ids.each_ref().map(faulty), [true, false, true]);
        assert!(!releases.join(ids[0].as_str()).join("bot").exists());
    }

    #[test]
    fn a_switch_ends_a_reading_of_its_store_and_of_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (stores, told) = stores(dir.path());
        told.recv_timeout(PATIENCE).unwrap();
        await_free(&stores);
        let key = (bot(), Part::Store);
        let mut pace = stores.pace(&key);
        let piece = usize::try_from(PIECE_BYTES).unwrap();
        assert!(pace(piece));
        // A question, in a thread's hands or before that, is none that it makes way for.
        let (sender, _answer) = channel();
        let push = |job| stores.table().stores.get_mut(&key).unwrap().jobs.push(job);
        assert!(push(Job::Ask(Ask::List(sender))) && pace(piece));
        assert!(push(Job::Look) && !pace(piece));
        stores.table().stores.get_mut(&key).unwrap().jobs = Jobs::default();
        assert!(pace(piece));
        stores.table().stores.get_mut(&key).unwrap().works = true;
        assert!(!pace(piece) && pace(1), "it is looked at once in a while");
        let mut plan = Plan::new();
        let id = GenerationId::try_from("one").unwrap();
        plan.insert((Rank::Current, 0, key.clone()), id);
        let own = stores.clone();
        let freed = std::thread::spawn(move || {
            let mut round_at = Instant::now() + EVERY;
            loop {
                match own.next_work(&mut plan, &mut round_at) {
                    Work::List(..) => {}
                    Work::Read(_, id, _) => break id,
                }
            }
        });
        stores.table().stores.get_mut(&key).unwrap().works = false;
        stores.0.freed.notify_all();
        assert_eq!(freed.join().unwrap().as_str(), "one");
    }
}
