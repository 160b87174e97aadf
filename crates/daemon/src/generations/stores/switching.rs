//! What is done with a store that concerns the service's data too: a switch, and what a generation brings for it.

use super::jobs::{Switch, Undo};
use super::{Key, Setting, Source, Stores};
use crate::generations::files::FilesError;
use crate::generations::hook::{Fault, Hook, Served, Which};
use crate::generations::{Generations, StoreError, Towards, notes, root};
use hale_config::ReleaseFile;
use hale_core::event::SwitchError;
use hale_core::ids::GenerationId;
use hale_core::safeswitch::{Data, Part};
use std::time::{Duration, Instant};

/// How long an `after_rollback` that cannot be begun is tried again, before the service is stopped for it: a want of memory or of
/// processes that lasts longer is no hiccup.
const BEGUN_WITHIN: Duration = Duration::from_secs(30);

/// After which time: nothing tells when there is memory again.
const BEGUN_AGAIN: Duration = Duration::from_secs(1);

/// What a switch has come to.
pub(super) enum Done {
    Switched,
    /// What it leads to says something of the data, which has to be on record first.
    Prepared(Data),
}

impl Stores {
    /// Switches, if there is a way back, and if what it leads to can read the data.
    pub(super) fn switch(
        &self,
        key: &Key,
        setting: &Setting,
        store: &mut dyn Generations,
        order: &Switch,
    ) -> Result<Done, SwitchError> {
        let Switch { to, back, over, towards, data_at_least, prepared, .. } = order;
        if let Some(back) = back {
            store.prepare(back).map_err(|error| {
                let error = format!("{error}; or go to an older one first that is whole (`hale rollback`)");
                SwitchError::NoWayBack { error }
            })?;
        }
        let is_new = *towards == Towards::New;
        if is_new {
            store.prepare(to).map_err(failed)?;
        }
        let says_first = is_new && !prepared;
        // Nothing that cannot be read keeps the service from what was good.
        if says_first || *data_at_least > 0 {
            let notes = store.notes(to).map_err(failed)?;
            if notes.data_format < *data_at_least {
                return Err(SwitchError::DataMovedOn { format: notes.data_format, at_least: *data_at_least });
            }
            if says_first {
                let data = self.run_before(key, setting, store, to, &notes)?;
                if !data.is_silent() {
                    return Ok(Done::Prepared(data));
                }
            }
        }
        match store.current() {
            // Somebody else was faster, and is not fought: what is there tells more than an error.
            Ok(Some(found)) if !over.contains(&found) && !store.is_part_way(&found) => return Ok(Done::Switched),
            // Of files nothing is replaced that was not seen.
            Err(error) if key.1 == Part::Files => return Err(failed(error)),
            Ok(_) | Err(_) => {}
        }
        match store.activate(to, *towards) {
            Err(StoreError::Files(error)) if matches!(*error, FilesError::OtherState { .. }) => Ok(Done::Switched),
            done => done.map(|()| Done::Switched).map_err(failed),
        }
    }

    /// What it says of the data, with what its `before_switch` has printed.
    fn run_before(
        &self,
        key: &Key,
        setting: &Setting,
        store: &mut dyn Generations,
        to: &GenerationId,
        notes: &ReleaseFile,
    ) -> Result<Data, SwitchError> {
        if notes.before_switch.is_empty() {
            return Ok(notes::data(notes, None));
        }
        let from = store.current().map_err(failed)?;
        let (from, snapshot) = (from.as_ref(), None);
        let (which, command) = (Which::BeforeSwitch, &notes.before_switch);
        let printed = self.run_hook(key, setting, notes, &Wanted { which, command, of: to, from, to, snapshot });
        Ok(notes::data(notes, printed.map_err(|fault| SwitchError::Hook { error: fault.text() })?))
    }

    /// Runs the `after_rollback` of what was gone back from. What the host cannot begin is tried again for [`BEGUN_WITHIN`].
    pub(super) fn undo(
        &self,
        key: &Key,
        setting: &Setting,
        store: &mut dyn Generations,
        order: &Undo,
    ) -> Result<(), String> {
        let until = Instant::now() + BEGUN_WITHIN;
        loop {
            match self.try_to_undo(key, setting, store, order) {
                Ok(()) => return Ok(()),
                Err(Fault::NotBegun(_)) if Instant::now() < until && self.is_still_due(key, store, order) => {
                    let _aside = self.step_aside();
                    std::thread::sleep(BEGUN_AGAIN);
                }
                Err(fault) => return Err(fault.text()),
            }
        }
    }

    /// Whether what was gone back to is still there, and its service still has a store: else its data are somebody else's to know.
    fn is_still_due(&self, key: &Key, store: &mut dyn Generations, order: &Undo) -> bool {
        let is_elsewhere = matches!(store.current(), Ok(Some(current)) if current != order.to);
        self.table().stores.contains_key(key) && !is_elsewhere
    }

    fn try_to_undo(
        &self,
        key: &Key,
        setting: &Setting,
        store: &mut dyn Generations,
        order: &Undo,
    ) -> Result<(), Fault> {
        let Undo { of, to, snapshot, .. } = order;
        let is_empty = self.0.trees.prepare(&key.0).and_then(|tree| tree.is_empty());
        if !is_empty.map_err(|error| Fault::NotBegun(format!("nobody knows whether the service has ended: {error}")))? {
            return Err(Fault::NotBegun(String::from(
                "processes of an earlier start are still there, and survive SIGKILL",
            )));
        }
        store.prepare(of).map_err(fault)?;
        let notes = store.notes(of).map_err(fault)?;
        if notes.after_rollback.is_empty() {
            // It was on record that there is something, and a generation does not change.
            return Err(Fault::Failed(format!("{} brings no after_rollback any more", of.short())));
        }
        let (which, command, snapshot) = (Which::AfterRollback, &notes.after_rollback, snapshot.as_deref());
        let wanted = Wanted { which, command, of, from: Some(of), to, snapshot };
        self.run_hook(key, setting, &notes, &wanted).map(drop)
    }

    fn run_hook(
        &self,
        (service, _): &Key,
        setting: &Setting,
        notes: &ReleaseFile,
        wanted: &Wanted<'_>,
    ) -> Result<Option<String>, Fault> {
        let Wanted { which, command, of, from, to, snapshot } = *wanted;
        let directory = match &setting.source {
            Source::Store(kind) => root(kind, &self.0.state_dir, service, of),
            Source::Files { .. } => None,
        };
        let Some(directory) = directory else {
            return Err(Fault::Failed(format!("{} has no directory", of.short())));
        };
        let within = Duration::from_micros(notes.hook_timeout.as_us());
        let hook = Hook { which, of, root: &directory, command, within, from, to, snapshot };
        let served = Served { service, user: setting.user.as_deref(), variables: &setting.variables };
        let _aside = self.step_aside();
        hook.run(served, &self.0.trees)
    }

    /// What is switched to says this of the data. What cannot be used is told on Hale's own output where it `is_new`, and says nothing.
    pub(super) fn said(
        &self,
        (service, _): &Key,
        store: &mut dyn Generations,
        current: Option<&GenerationId>,
        is_new: bool,
    ) -> Data {
        match current.map(|current| store.notes(current)).transpose() {
            Ok(notes) => notes.map_or_else(Data::default, |notes| notes::data(&notes, None)),
            Err(error) => {
                if is_new {
                    eprintln!("hale: {service}: what is switched to counts as saying nothing of the data: {error}");
                }
                Data::default()
            }
        }
    }

    /// Until it is dropped this thread, which waits for a program that may take an hour, is none of those that work on stores.
    fn step_aside(&self) -> Aside<'_> {
        let mut table = self.table();
        table.threads = table.threads.saturating_sub(1);
        if !table.ready.is_empty() {
            self.one_more(&mut table);
        }
        Aside(self)
    }
}

/// See [`Stores::step_aside`].
struct Aside<'a>(&'a Stores);

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        self.0.table().threads += 1;
    }
}

/// A program to run, and what it is told.
struct Wanted<'a> {
    which: Which,
    command: &'a [String],
    of: &'a GenerationId,
    from: Option<&'a GenerationId>,
    to: &'a GenerationId,
    snapshot: Option<&'a str>,
}

/// What is wrong with the generation stays so; what the host cannot do now it may be able to do soon.
fn fault(error: StoreError) -> Fault {
    let text = error.to_string();
    if matches!(failed(error), SwitchError::Failed { .. }) { Fault::NotBegun(text) } else { Fault::Failed(text) }
}

fn failed(error: StoreError) -> SwitchError {
    match error {
        StoreError::Damaged { .. }
        | StoreError::Missing(_)
        | StoreError::Altered { .. }
        | StoreError::NotThere { .. } => SwitchError::Unusable { error: error.to_string() },
        StoreError::Notes(error) => SwitchError::Hook { error },
        error => SwitchError::Failed { error: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::tree::{Trees, instance};
    use crate::generations::testing::{LIMITS, Tar};
    use hale_core::effect::Order;
    use hale_core::event::{Event, Seen};
    use hale_core::ids::{Name, RecordId};
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};

    const PATIENCE: Duration = Duration::from_secs(60);

    fn bot() -> Name {
        Name::try_from("bot").unwrap()
    }

    /// The stores of a service with releases, as the loop has them.
    struct Place {
        dir: tempfile::TempDir,
        stores: Stores,
        told: Receiver<Event>,
    }

    impl Place {
        fn new() -> Self {
            Self::with(|dir| Trees::open(&instance(dir)))
        }

        fn with(trees: impl FnOnce(&Path) -> Trees) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let text = format!(
                "host = {{ state_dir = \"{0}\", runtime_dir = \"{0}/run\" }}\n[service.bot]\ncommand = [\"bin/bot\"]\n\
                 [service.bot.generations]\nstore = \"release\"\n",
                dir.path().display()
            );
            std::fs::write(dir.path().join("hale.toml"), text).unwrap();
            let policy = crate::monitor::config_file::load(&dir.path().join("hale.toml")).unwrap().validated.policy;
            let (sender, told) = channel();
            let trees = Arc::new(trees(dir.path()));
            let stores = Stores::new(&policy, trees, move |event| drop(sender.send(event)));
            let place = Self { dir, stores, told };
            assert_eq!(place.look(), (Seen::Current(None), Data::default()));
            place
        }

        fn look(&self) -> (Seen, Data) {
            self.stores.order(&bot(), Order::LookAtStore { part: Part::Store });
            match self.told.recv_timeout(PATIENCE).unwrap() {
                Event::GenerationSeen { seen, data, .. } => (seen, data),
                other => panic!("{other:?}"),
            }
        }

        /// A release whose `before_switch` writes down that it ran, where it has one.
        fn release(&self, notes: &str) -> GenerationId {
            let ran = self.dir.path().join("ran").display().to_string();
            let tar = Tar::default().file("hale-release.toml", &notes.replace("@ran", &ran)).end();
            // The store is given back after its event was told.
            loop {
                if let Ok(import) = self.stores.import(&bot()) {
                    return import.importer().import(&tar[..], &LIMITS).unwrap().id;
                }
                std::thread::yield_now();
            }
        }

        fn switch(&self, to: &GenerationId, towards: Towards, data_at_least: u32, prepared: bool) -> Event {
            let over = self.current().map(|current| GenerationId::try_from(current.as_str()).unwrap());
            self.switch_over(over.into_iter().collect(), to, towards, data_at_least, prepared)
        }

        fn switch_over(
            &self,
            over: Vec<GenerationId>,
            to: &GenerationId,
            towards: Towards,
            data_at_least: u32,
            prepared: bool,
        ) -> Event {
            let (part, switch, to) = (Part::Store, RecordId(1), to.clone());
            let order = Order::Switch { part, switch, to, back: None, over, towards, data_at_least, prepared };
            self.stores.order(&bot(), order);
            loop {
                match self.told.recv_timeout(PATIENCE).unwrap() {
                    // Whoever watches the link has asked.
                    Event::GenerationSeen { .. } => {}
                    event => return event,
                }
            }
        }

        fn current(&self) -> Option<String> {
            let link = std::fs::read_link(self.dir.path().join("releases/bot/current")).ok()?;
            Some(link.to_str().unwrap().to_owned())
        }

        /// How often `before_switch` has run.
        fn runs(&self) -> usize {
            std::fs::read(self.dir.path().join("ran")).map_or(0, |ran| ran.len())
        }
    }

    const RUNS: &str = "before_switch = [\"sh\", \"-c\", \"printf x >> @ran\"]\n";

    #[track_caller]
    fn switched(event: Event) -> Option<SwitchError> {
        match event {
            Event::GenerationSwitched { error, .. } => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_says_something_is_switched_to_by_the_second_order() {
        let place = Place::new();
        let new = place.release(&format!("data_format = 2\nmin_rollback = 1\n{RUNS}"));
        let said = Data { format: 2, min_rollback: 1, undoes: false, snapshot: None };
        let prepared = place.switch(&new, Towards::New, 2, false);
        assert!(matches!(&prepared, Event::GenerationPrepared { data, .. } if *data == said), "{prepared:?}");
        assert_eq!((place.current(), place.runs()), (None, 1));
        assert_eq!(switched(place.switch(&new, Towards::New, 2, true)), None);
        assert_eq!((place.current(), place.runs()), (Some(new.to_string()), 1));
        assert_eq!(place.look(), (Seen::Current(Some(new.clone())), said));
        // On the way back it is not asked.
        assert_eq!(switched(place.switch(&new, Towards::Back, 0, false)), None);
        assert_eq!(place.runs(), 1);
    }

    #[test]
    fn what_leaves_nothing_to_record_is_switched_to_by_the_first_order() {
        let place = Place::new();
        let [silent, runs] = ["", RUNS].map(|notes| place.release(notes));
        assert_eq!(switched(place.switch(&silent, Towards::New, 0, false)), None);
        assert_eq!((place.current(), place.runs()), (Some(silent.to_string()), 0));
        assert_eq!(switched(place.switch(&runs, Towards::New, 0, false)), None);
        assert_eq!((place.current(), place.runs()), (Some(runs.to_string()), 1));
    }

    #[test]
    fn what_somebody_else_has_switched_to_meanwhile_stays() {
        let place = Place::new();
        let [old, new, theirs] = ["old", "new", "theirs"].map(|name| place.release(&format!("# {name}\n")));
        assert_eq!(switched(place.switch(&theirs, Towards::New, 0, false)), None);
        for towards in [Towards::New, Towards::Back] {
            let told = place.switch_over(vec![old.clone(), new.clone()], &new, towards, 0, false);
            let seen = Seen::Current(Some(theirs.clone()));
            assert!(
                matches!(&told, Event::GenerationSwitched { error: None, seen: there, .. } if *there == seen),
                "{told:?}"
            );
            assert_eq!(place.current(), Some(theirs.to_string()));
        }
        let over = vec![old.clone(), new, theirs];
        assert_eq!(switched(place.switch_over(over, &old, Towards::Back, 0, false)), None);
        assert_eq!(place.current(), Some(old.to_string()));
    }

    #[test]
    fn what_cannot_read_the_data_is_not_asked_and_not_switched_to() {
        let place = Place::new();
        let old = place.release(&format!("data_format = 1\n{RUNS}"));
        for (towards, prepared) in [(Towards::New, false), (Towards::New, true), (Towards::Back, false)] {
            let refused = switched(place.switch(&old, towards, 2, prepared));
            assert_eq!(refused, Some(SwitchError::DataMovedOn { format: 1, at_least: 2 }), "{towards:?}");
        }
        assert_eq!((place.current(), place.runs()), (None, 0));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_no_reason_not_to_see_what_is_switched_to() {
        use std::os::unix::fs::PermissionsExt;
        let place = Place::new();
        let id = place.release("data_format = 2\n");
        assert_eq!(switched(place.switch(&id, Towards::New, 0, true)), None);
        let dir: &Path = &place.dir.path().join("releases/bot").join(id.as_str());
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        let file = dir.join("hale-release.toml");
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, "data_format = \"2\"\n").unwrap();
        let seen = std::iter::repeat_with(|| place.look()).find(|(_, data)| data.is_silent());
        assert_eq!(seen, Some((Seen::Current(Some(id.clone())), Data::default())));
        let damaged = switched(place.switch(&id, Towards::New, 0, false));
        assert!(matches!(damaged, Some(SwitchError::Unusable { .. })), "it is not what its id says: {damaged:?}");
        // Of a path of Nix it is what was built.
        let refused = failed(StoreError::Notes("hale-release.toml is refused".into()));
        assert_eq!(refused, SwitchError::Hook { error: "hale-release.toml is refused".into() });
    }

    #[test]
    fn a_reload_that_changes_the_user_amidst_an_undoing_waits_for_its_end() {
        let place = Place::new();
        let fifo = place.dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o622.into(), 0).unwrap();
        let runs = format!("after_rollback = [\"sh\", \"-c\", \"read x < {}; printf x >> @ran\"]\n", fifo.display());
        let new = place.release(&runs);
        let undo = || Order::UndoData {
            part: Part::Store,
            switch: RecordId(1),
            of: new.clone(),
            to: new.clone(),
            snapshot: None,
        };
        place.stores.order(&bot(), undo());
        // Until it waits for the program.
        let at_it =
            || place.stores.table().threads == 0 && place.stores.table().stores.values().any(|entry| entry.is_taken);
        while !at_it() {
            std::thread::yield_now();
        }
        let path = place.dir.path().join("hale.toml");
        let text = std::fs::read_to_string(&path).unwrap().replace("command =", "user = \"root\"\ncommand =");
        std::fs::write(&path, text).unwrap();
        place.stores.adapt(&crate::monitor::config_file::load(&path).unwrap().validated.policy);
        // As the next one that takes over, or a service that is started anew for the reload.
        place.stores.order(&bot(), undo());
        place.stores.order(&bot(), Order::LookAtStore { part: Part::Store });
        std::fs::write(&fifo, "go on\n").unwrap();
        let told: Vec<Event> = (0..2).map(|_| place.told.recv_timeout(PATIENCE).unwrap()).collect();
        assert!(
            matches!(
                &told[..],
                [Event::DataUndone { error: None, .. }, Event::GenerationSeen { seen: Seen::Current(_), .. }]
            ),
            "{told:?}"
        );
        assert_eq!(place.runs(), 1);
    }

    #[test]
    fn what_the_host_cannot_begin_is_begun_when_it_can() {
        use crate::execute::tree::{Kind, Unusable};
        let place = Place::with(|_| Trees::new("0badcafe", Kind::Tags { why: Unusable::NotMounted }, None));
        let new = place.release("data_format = 1\nafter_rollback = [\"sh\", \"-c\", \"printf x >> @ran\"]\n");
        let tag = place.stores.0.trees.environment_tag(&bot());
        let (name, value) = tag.split_once('=').unwrap();
        // Something of the service lives on, as what hangs with its disk does.
        let mut survivor = std::process::Command::new("sleep").arg("1000").env(name, value).spawn().unwrap();
        let undo = Order::UndoData { part: Part::Store, switch: RecordId(1), of: new.clone(), to: new, snapshot: None };
        place.stores.order(&bot(), undo);
        // Until it waits.
        loop {
            let table = place.stores.table();
            if table.threads == 0 && table.stores.values().any(|entry| entry.is_taken) {
                break;
            }
            drop(table);
            std::thread::yield_now();
        }
        assert_eq!(place.runs(), 0);
        survivor.kill().unwrap();
        survivor.wait().unwrap();
        let told = place.told.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(&told, Event::DataUndone { error: None, .. }), "{told:?}");
        assert_eq!(place.runs(), 1);
    }

    #[test]
    fn who_waits_for_a_program_is_no_thread_of_the_stores() {
        let place = Place::new();
        // Until the one that has opened it is through.
        while place.stores.table().threads > 0 {
            std::thread::yield_now();
        }
        place.stores.table().threads = 1;
        let aside = place.stores.step_aside();
        assert_eq!(place.stores.table().threads, 0);
        drop(aside);
        assert_eq!(place.stores.table().threads, 1);
    }
}
