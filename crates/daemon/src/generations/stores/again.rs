//! Stores that are looked at once a minute, because nothing tells what becomes of them: those of an operator's programs, which anybody
//! can switch, and files that there was no room to copy.

use super::jobs::Job;
use super::{Key, Stores, Table};
use std::time::Duration;

/// A minute: a program each, and soon enough for what a restart would bring to light.
const EVERY: Duration = Duration::from_secs(60);

impl Stores {
    /// Starts the thread for it, where there is something for it to do.
    pub(super) fn look_again(&self, table: &mut Table) {
        if table.looks_again || !table.stores.values().any(|entry| entry.misses) {
            return;
        }
        let own = self.clone();
        let run = move || {
            loop {
                std::thread::sleep(EVERY);
                if !own.look_at_what_is_missed() {
                    return;
                }
            }
        };
        // Without a thread it is tried again with the next work on a store.
        table.looks_again = std::thread::Builder::new().name(String::from("stores-look")).spawn(run).is_ok();
    }

    /// `false`: there is none any more.
    fn look_at_what_is_missed(&self) -> bool {
        let missed: Vec<Key> = {
            let mut table = self.table();
            let missed = table.stores.iter().filter(|(_, entry)| entry.misses);
            let missed: Vec<Key> = missed.map(|(key, _)| key.clone()).collect();
            table.looks_again = !missed.is_empty();
            missed
        };
        for (service, part) in &missed {
            self.push(service, *part, Job::Look);
        }
        !missed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::tree::{Trees, instance};
    use hale_core::effect::Order;
    use hale_core::event::{Event, Seen};
    use hale_core::ids::{GenerationId, Name};
    use hale_core::safeswitch::Part;
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    #[test]
    fn what_somebody_else_switches_by_programs_is_seen_in_turn() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("current").display().to_string();
        std::fs::write(&at, "one\n").unwrap();
        let text = format!(
            "host = {{ state_dir = \"{0}\", runtime_dir = \"{0}/run\" }}\n[service.bot]\ncommand = [\"bin/bot\"]\n\
             [service.bot.generations]\nstore = \"command\"\nlist = [\"/bin/cat\", \"{at}\"]\ncurrent = [\"/bin/cat\", \"{at}\"]\n\
             stage = [\"/bin/true\"]\nactivate = [\"/bin/true\"]\nrevert = [\"/bin/true\"]\n",
            dir.path().display()
        );
        std::fs::write(dir.path().join("hale.toml"), text).unwrap();
        let policy = crate::monitor::config_file::load(&dir.path().join("hale.toml")).unwrap().validated.policy;
        let (sender, told) = channel();
        let trees = Arc::new(Trees::open(&instance(dir.path())));
        let stores = Stores::new(&policy, trees, move |event| drop(sender.send(event)));
        let bot = Name::try_from("bot").unwrap();
        let seen = || match told.recv_timeout(Duration::from_secs(60)).unwrap() {
            Event::GenerationSeen { seen: Seen::Current(Some(id)), .. } => id,
            other => panic!("{other:?}"),
        };
        let id = |name: &str| GenerationId::try_from(name).unwrap();
        stores.order(&bot, Order::LookAtStore { part: Part::Store });
        assert_eq!(seen(), id("one"));
        while !stores.table().looks_again {
            std::thread::yield_now();
        }
        std::fs::write(&at, "two\n").unwrap();
        assert!(stores.look_at_what_is_missed());
        assert_eq!(seen(), id("two"));
        stores.table().stores.clear();
        assert!(!stores.look_at_what_is_missed() && !stores.table().looks_again);
    }
}
