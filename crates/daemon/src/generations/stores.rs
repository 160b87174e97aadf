//! The stores of all services, and the threads that work on them: the loop orders, and is told what came of it.

mod again;
mod clients;
mod jobs;
mod scrub;
mod switching;

use super::files::{FileGenerations, Files};
use super::hook::Variables;
use super::watch::{FilesWatcher, Watch};
use super::{Generations, Importer, Limits, Owner, Reader, StoreError, open, root};
use crate::execute::tree::Trees;
use crate::execute::user;
pub use clients::{Import, NoStore};
use hale_core::effect::Order;
use hale_core::event::{Event, Seen, SwitchError};
use hale_core::ids::{GenerationId, Name};
use hale_core::policy::{Mode, Policy, ServicePolicy, StoreKind};
use hale_core::safeswitch::{Data, Part};
use jobs::{Ask, Job, Jobs, Retain, Switch, Undo};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use switching::Done;

/// How many services' stores are worked on at once. Each may hang with its disk or its program; whoever has more than so many that
/// hang has no disk. The others wait, and start by what is on record meanwhile.
const THREADS_MAX: usize = 16;

/// How tells the loop. Never blocks.
type Tell = Box<dyn Fn(Event) + Send + Sync>;

/// All stores. Cheap to clone.
#[derive(Clone)]
pub struct Stores(Arc<Inner>);

struct Inner {
    state_dir: PathBuf,
    /// What holds the programs that generations bring.
    trees: Arc<Trees>,
    tell: Tell,
    table: Mutex<Table>,
    /// `mode = "observe"`.
    observes: AtomicBool,
    /// A store is nobody's any more, or there is more of it to read: for the scrub.
    freed: Condvar,
    watch: Watch,
}

/// Who has a store, and what is to be done with it.
#[derive(Default)]
struct Table {
    stores: BTreeMap<Key, Entry>,
    /// Those that have something to do and no thread at it, in the order in which they got it.
    ready: VecDeque<Key>,
    /// How many are at work.
    threads: usize,
    /// Whether there is one that stays when there is nothing to do: with one at least, nothing depends on making one when that is
    /// needed most.
    is_staffed: bool,
    /// It has nothing to do.
    idles: bool,
    /// Those of which the scrub has to see anew what there is to read.
    unread: BTreeSet<Key>,
    is_scrubbed: bool,
    /// Some are looked at again in turn.
    looks_again: bool,
}

/// A part of a service.
type Key = (Name, Part);

/// Where the generations of a part are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Store(StoreKind),
    Files { paths: Vec<PathBuf>, environment_files: Vec<String> },
}

/// What the configuration says of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    source: Source,
    user: Option<String>,
    variables: Variables,
}

impl Setting {
    /// Whether a store that was opened for the other is as it would be opened for this one.
    fn opens_the_same(&self, other: &Self) -> bool {
        self.source == other.source && self.user == other.user
    }
}

struct Entry {
    setting: Setting,
    jobs: Jobs,
    /// A thread is at it, or will be: it is among the ready.
    is_taken: bool,
    /// A thread is at something that is no question.
    works: bool,
    /// Open, and not in a thread's hands.
    store: Option<Box<dyn Generations>>,
    importer: Option<Importer>,
    reader: Option<Reader>,
    imports: bool,
    /// What may be gone back to, and the like.
    needed: Vec<GenerationId>,
    /// What was seen last.
    seen: Option<GenerationId>,
    /// It is to be looked at again in a while.
    misses: bool,
    /// Ends with it.
    _watch: Option<FilesWatcher>,
}

impl Entry {
    fn new(setting: Setting) -> Self {
        Self {
            setting,
            jobs: Jobs::default(),
            is_taken: false,
            works: false,
            store: None,
            importer: None,
            reader: None,
            imports: false,
            needed: Vec::new(),
            seen: None,
            misses: false,
            _watch: None,
        }
    }

    /// Whether who reads it in the background has to make way. A question is answered beside that: else who asks again and again would
    /// keep it from ever coming to an end.
    fn is_needed(&self) -> bool {
        self.works || !self.jobs.are_questions()
    }

    /// Another policy is in force. What is open by the one before is closed, by the thread that is at it where there is one: until then
    /// nobody else can open it. Where it is the same place, what is to be done there still is.
    fn adapt(&mut self, setting: Setting) {
        if self.setting.opens_the_same(&setting) {
            self.setting = setting;
            return;
        }
        let is_same_place = self.setting.source == setting.source;
        let before = std::mem::replace(self, Self::new(setting));
        (self.is_taken, self.works, self.imports) = (before.is_taken, before.works, before.imports);
        if is_same_place {
            (self.jobs, self.needed, self.seen) = (before.jobs, before.needed, before.seen);
        }
    }
}

/// A store, and who watches it where that ends with it.
type Opened = (Box<dyn Generations>, Option<FilesWatcher>);

impl Stores {
    /// The stores of these services; none is touched before something is ordered. `tell` tells the loop, from any thread.
    pub fn new(policy: &Policy, trees: Arc<Trees>, tell: impl Fn(Event) + Send + Sync + 'static) -> Self {
        let state_dir = PathBuf::from(&policy.host.state_dir);
        let inner = Arc::new_cyclic(|own: &std::sync::Weak<Inner>| {
            let own = own.clone();
            // Somebody may have switched: whoever is asked finds out.
            let changed = move |service: &Name| {
                if let Some(inner) = own.upgrade() {
                    Self(inner).push(service, Part::Store, Job::Look);
                }
            };
            let (table, freed, watch) = (Mutex::default(), Condvar::new(), Watch::new(changed));
            Inner { state_dir, trees, tell: Box::new(tell), table, observes: AtomicBool::new(true), freed, watch }
        });
        let stores = Self(inner);
        stores.adapt(policy);
        stores
    }

    /// Another policy is in force.
    pub fn adapt(&self, policy: &Policy) {
        self.0.observes.store(policy.host.mode == Mode::Observe, Relaxed);
        let mut wanted: BTreeMap<Key, Setting> = BTreeMap::new();
        for (name, service) in &policy.services {
            let Some(generations) = &service.generations else { continue };
            let setting = |source| Setting {
                source,
                user: service.user.clone(),
                variables: Variables {
                    environment: service.environment.clone(),
                    environment_files: service.environment_files.clone(),
                },
            };
            wanted.insert((name.clone(), Part::Store), setting(Source::Store(generations.store.clone())));
            if generations.has(Part::Files) {
                let paths = generations.files.iter().map(PathBuf::from).collect();
                let files = Source::Files { paths, environment_files: service.environment_files.clone() };
                wanted.insert((name.clone(), Part::Files), setting(files));
            }
        }
        let mut table = self.table();
        table.stores.retain(|key, _| wanted.contains_key(key));
        for (key, setting) in wanted {
            match table.stores.get_mut(&key) {
                Some(entry) => entry.adapt(setting),
                None => drop(table.stores.insert(key, Entry::new(setting))),
            }
        }
        if !table.stores.is_empty() && !table.is_staffed {
            self.one_more(&mut table);
        }
    }

    /// Takes an order of the loop's.
    pub fn order(&self, service: &Name, order: Order) {
        let (part, job) = match order {
            Order::LookAtStore { part } => (part, Job::Look),
            Order::Switch { part, switch, to, back, over, towards, data_at_least, prepared } => {
                (part, Job::Switch(Switch { switch, to, back, over, towards, data_at_least, prepared }))
            }
            Order::UndoData { part, switch, of, to, snapshot } => (part, Job::Undo(Undo { switch, of, to, snapshot })),
            Order::Promote { part, switch, .. } => (part, Job::Promote { switch }),
            Order::Retain { part, needed, keep } => {
                self.need(service, part, &needed);
                (part, Job::Retain(Retain { needed, keep }))
            }
            _ => return,
        };
        self.push(service, part, job);
    }

    /// What may be gone back to, and the like: it is read before the rest.
    pub fn need(&self, service: &Name, part: Part, needed: &[GenerationId]) {
        let key = (service.clone(), part);
        let mut table = self.table();
        let Some(entry) = table.stores.get_mut(&key).filter(|entry| entry.needed != needed) else { return };
        entry.needed = needed.to_vec();
        table.unread.insert(key);
        self.0.freed.notify_all();
    }

    /// The directory of the generation that a process of this policy is of, where it has one.
    #[must_use]
    pub fn root(&self, service: &Name, policy: &ServicePolicy, id: Option<&GenerationId>) -> Option<PathBuf> {
        root(&policy.generations.as_ref()?.store, &self.0.state_dir, service, id?)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A thread that panicked left no entry half changed.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a job to a thread, now or when there is one. `false`: too many of its kind wait already.
    fn push(&self, service: &Name, part: Part, job: Job) -> bool {
        let key = (service.clone(), part);
        let mut table = self.table();
        let Some(entry) = table.stores.get_mut(&key) else { return true };
        if !entry.jobs.push(job) {
            return false;
        }
        if entry.jobs.is_empty() || std::mem::replace(&mut entry.is_taken, true) {
            // Perhaps for want of a thread.
            if table.threads == 0 && !table.ready.is_empty() {
                self.one_more(&mut table);
            }
            return true;
        }
        table.ready.push_back(key);
        // Whoever reads it in the background makes way.
        self.0.freed.notify_all();
        self.one_more(&mut table);
        true
    }

    /// One more thread at work, where there may be. The first one stays.
    fn one_more(&self, table: &mut Table) {
        if std::mem::take(&mut table.idles) {
            table.threads += 1;
            self.0.freed.notify_all();
        } else if table.threads < THREADS_MAX {
            let (own, stays) = (self.clone(), !table.is_staffed);
            let work = move || own.work(stays);
            if std::thread::Builder::new().name(String::from("stores")).spawn(work).is_ok() {
                table.is_staffed = true;
                table.threads += 1;
            }
            // Without it, what is ready waits for one that is there.
        }
    }

    /// Works on whatever is ready, until nothing is; one that stays, for ever.
    fn work(&self, stays: bool) {
        let mut table = self.table();
        loop {
            table = self.work_off(table);
            table.threads -= 1;
            if !stays {
                return;
            }
            table.idles = true;
            while table.idles {
                table = self.0.freed.wait(table).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Works on whatever is ready, until nothing is.
    fn work_off<'a>(&'a self, mut table: MutexGuard<'a, Table>) -> MutexGuard<'a, Table> {
        while let Some(key) = table.ready.pop_front() {
            let Some(entry) = table.stores.get_mut(&key) else { continue };
            let Some(job) = entry.jobs.pop() else {
                entry.is_taken = false;
                self.0.freed.notify_all();
                continue;
            };
            entry.works = !matches!(job, Job::Ask(_));
            let setting = entry.setting.clone();
            let (store, mut last) = (entry.store.take(), entry.seen.take());
            drop(table);
            let mut watch = None;
            // What breaks amidst its work breaks that, and neither this thread nor the store's turn: whoever ordered it is told.
            let work = AssertUnwindSafe(|| {
                let store = match store {
                    Some(store) => Ok(store),
                    None => self.open(&setting, &key.0).map(|(store, watches)| {
                        watch = watches;
                        store
                    }),
                };
                self.perform(&key, &setting, &job, store, &mut last)
            });
            let store = catch_unwind(work).unwrap_or_else(|_| {
                self.not_open(
                    &key,
                    &job,
                    String::from("a fault of Hale's own, which its output names; please report it"),
                );
                None
            });
            table = self.table();
            let Some(entry) = table.stores.get_mut(&key) else { continue };
            let mut is_read = false;
            if entry.setting.opens_the_same(&setting) {
                if let (Some(store), None) = (&store, &entry.reader) {
                    (entry.importer, entry.reader) = (store.importer(), store.reader());
                    is_read = entry.reader.is_some();
                }
                if watch.is_some() {
                    entry._watch = watch;
                }
                entry.misses = store.as_ref().is_some_and(|store| store.misses());
                (entry.store, entry.seen) = (store, last);
            } else {
                // A reload has changed what it is.
                drop(store);
            }
            let waits = !entry.jobs.is_empty();
            (entry.is_taken, entry.works) = (waits, false);
            if waits {
                table.ready.push_back(key.clone());
            }
            self.look_again(&mut table);
            if is_read {
                table.unread.insert(key);
                self.scrub_too(&mut table);
            }
            self.0.freed.notify_all();
        }
        table
    }

    /// There is something to read in the background.
    fn scrub_too(&self, table: &mut Table) {
        if table.is_scrubbed {
            return;
        }
        match self.start_scrub() {
            Ok(()) => table.is_scrubbed = true,
            // It is tried again with the next store.
            Err(error) => eprintln!(
                "hale: releases are not read in the background, because there is no thread for it: {error}; raise TasksMax= or \
                 the limit of processes, and see `hale generations --verify` meanwhile"
            ),
        }
    }

    fn open(&self, setting: &Setting, service: &Name) -> Result<Opened, String> {
        let own = rustix::process::geteuid();
        let find = |name: &str| user::lookup(name).map_err(|error| format!("user {name}: {error}"));
        let identity = setting.user.as_deref().filter(|_| own.is_root()).map(find).transpose()?;
        match &setting.source {
            Source::Store(kind) => {
                let owner = identity.map(|found| Owner { uid: own.as_raw(), gid: found.gid });
                if owner.is_some() && *kind == StoreKind::Release {
                    let_others_pass(&self.0.state_dir).map_err(|error| {
                        let dir = self.0.state_dir.display();
                        format!("{dir} cannot be made passable for the service's user: {error}")
                    })?;
                }
                let store = open(kind, &self.0.state_dir, service, owner).map_err(|error| error.to_string())?;
                if let Some((dir, name)) = store.watched() {
                    self.0.watch.add(service, &dir, &name);
                }
                Ok((store, None))
            }
            Source::Files { paths, environment_files } => {
                // Before the first look: what changes after that is told.
                let (stores, of) = (self.clone(), service.clone());
                let changed = move || {
                    stores.push(&of, Part::Files, Job::Look);
                };
                let watch = FilesWatcher::start(service.clone(), paths, changed);
                let watch = watch.map_err(|error| format!("the files cannot be watched: {error}"))?;
                let reserve_bytes = Limits::RESERVE_BYTES;
                let files = Files::open(&self.0.state_dir, service, paths.iter().cloned(), identity, reserve_bytes);
                let files = files.map_err(|error| error.to_string())?;
                if !self.0.observes.load(Relaxed) {
                    files.finish();
                }
                Ok((Box::new(FileGenerations::new(files, environment_files.clone())), Some(watch)))
            }
        }
    }

    /// Does it, and says so. Gives the store back.
    fn perform(
        &self,
        key: &Key,
        setting: &Setting,
        job: &Job,
        store: Result<Box<dyn Generations>, String>,
        last: &mut Option<GenerationId>,
    ) -> Option<Box<dyn Generations>> {
        let mut store = match store {
            Ok(store) => store,
            Err(error) => {
                self.not_open(key, job, error);
                return None;
            }
        };
        let (service, part) = key.clone();
        match job {
            Job::Look => {
                let seen = seen(&mut *store);
                if let (Seen::Current(Some(to)), Some(from)) = (&seen, &*last)
                    && from != to
                {
                    let lines = store.changes(from, to);
                    if !lines.is_empty() {
                        let (service, from, to) = (service.clone(), from.clone(), to.clone());
                        (self.0.tell)(Event::FilesChanged { service, from, to: Some(to), lines });
                    }
                }
                let mut data = Data::default();
                if let Seen::Current(current) = &seen {
                    data = self.said(key, &mut *store, current.as_ref(), last != current);
                    last.clone_from(current);
                }
                (self.0.tell)(Event::GenerationSeen { service, part, seen, data });
            }
            Job::Switch(order) => {
                let (switch, to) = (order.switch, order.to.clone());
                let error = match self.switch(key, setting, &mut *store, order) {
                    Ok(Done::Prepared(data)) => {
                        (self.0.tell)(Event::GenerationPrepared { service, part, switch, data });
                        return Some(store);
                    }
                    Ok(Done::Switched) => None,
                    Err(error) => Some(error),
                };
                let seen = seen(&mut *store);
                let mut data = Data::default();
                if let Seen::Current(current) = &seen {
                    if *current != Some(to) {
                        data = self.said(key, &mut *store, current.as_ref(), last != current);
                    }
                    last.clone_from(current);
                }
                (self.0.tell)(Event::GenerationSwitched { service, part, switch, error, seen, data });
            }
            Job::Undo(order) => {
                let error = self.undo(key, setting, &mut *store, order).err();
                if error.is_some()
                    && let Ok(Some(theirs)) = store.current()
                    && theirs != order.to
                {
                    // Somebody else has switched: that is told first, because it ends the switch.
                    let data = self.said(key, &mut *store, Some(&theirs), last.as_ref() != Some(&theirs));
                    *last = Some(theirs.clone());
                    let seen = Seen::Current(Some(theirs));
                    (self.0.tell)(Event::GenerationSeen { service: service.clone(), part, seen, data });
                }
                (self.0.tell)(Event::DataUndone { service, part, switch: order.switch, error });
            }
            // What these stores are switched to is theirs for good already.
            &Job::Promote { switch } => (self.0.tell)(Event::GenerationPromoted { service, part, switch, error: None }),
            Job::Retain(retain) => self.retain(key, &mut *store, retain.clone()),
            Job::Ask(Ask::List(answer)) => drop(answer.send(store.list())),
            Job::Ask(Ask::Verify(id, answer)) => drop(answer.send(store.verify(id))),
        }
        Some(store)
    }

    /// Protects what is needed and removes what is not, for as long as nothing more urgent comes.
    fn retain(&self, key: &Key, store: &mut dyn Generations, retain: Retain) {
        let goes_on = || !self.table().stores.get(key).is_none_or(|entry| entry.jobs.is_urgent());
        let told = |what: &str, error: &StoreError| eprintln!("hale: {}: {what}: {error}", key.0);
        let needed: BTreeSet<GenerationId> = retain.needed.iter().cloned().collect();
        // What cannot be protected from others is at least not removed by Hale.
        let done = store.pin(&needed, &goes_on).and_then(|unprotected| {
            for (id, error) in unprotected {
                told(&format!("{} cannot be protected, though it may be gone back to", id.short()), &error);
            }
            store.retain(retain.keep as usize, &needed, &goes_on)
        });
        match done {
            Ok(_) => {}
            Err(StoreError::Stopped) => {
                if let Some(entry) = self.table().stores.get_mut(key) {
                    entry.jobs.put_off(retain);
                }
            }
            Err(error) => told("old generations stay as they are", &error),
        }
    }

    fn not_open(&self, key: &Key, job: &Job, error: String) {
        let (service, part) = key.clone();
        match job {
            Job::Look => {
                let (seen, data) = (Seen::Unknown { error }, Data::default());
                (self.0.tell)(Event::GenerationSeen { service, part, seen, data });
            }
            &Job::Switch(Switch { switch, .. }) => {
                let seen = Seen::Unknown { error: error.clone() };
                let (error, data) = (Some(SwitchError::Failed { error }), Data::default());
                (self.0.tell)(Event::GenerationSwitched { service, part, switch, error, seen, data });
            }
            &Job::Undo(Undo { switch, .. }) => {
                (self.0.tell)(Event::DataUndone { service, part, switch, error: Some(error) });
            }
            // What these stores are switched to is theirs for good already.
            &Job::Promote { switch } => {
                (self.0.tell)(Event::GenerationPromoted { service, part, switch, error: None });
            }
            Job::Retain(_) => eprintln!("hale: {service}: old generations stay as they are: {error}"),
            // Whoever asked sees the end of the answer.
            Job::Ask(_) => {}
        }
    }
}

fn seen(store: &mut dyn Generations) -> Seen {
    match store.current() {
        Ok(current) => Seen::Current(current),
        Err(error) => Seen::Unknown { error: error.to_string() },
    }
}

/// Services' users have to get to their releases; what else is in the directory has rights of its own.
fn let_others_pass(state_dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(state_dir)?.permissions().mode();
    if mode & 0o011 == 0o011 {
        return Ok(());
    }
    std::fs::set_permissions(state_dir, std::fs::Permissions::from_mode(mode | 0o011))
}
