//! Tells when trees without a cgroup have become empty, for which there is no event of the kernel.

use super::process::Handle;
use super::{Tree, lock};
use hale_core::ids::{Epoch, Name};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many processes of one tree are waited for at once. It is not empty before they have ended, so that there is
/// nothing to look at earlier; a thousand trees still fit into the usual limit of descriptors.
const WAITED_FOR_MAX: usize = 4;

/// The first pause before looking again although none of them ended: in a tree that is being killed there may be new
/// processes, forked while the last round went on.
const PAUSE_FIRST: Duration = Duration::from_millis(10);

/// The longest pause: for processes that SIGKILL cannot end at once.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What to do with a tree until it is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Only look.
    Ended,
    /// SIGKILL for all that is found, again and again.
    Killed,
}

/// One thread that looks after all trees that are to become empty. It sleeps until one of their processes ends; there
/// is at most one entry for each service.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    bell: OwnedFd,
    wishes: Mutex<Wishes>,
}

#[derive(Debug, Default)]
struct Wishes {
    /// `None`: forget it.
    new: BTreeMap<Name, Option<Watched>>,
    end: bool,
}

#[derive(Debug)]
struct Watched {
    epoch: Epoch,
    tree: Tree,
    /// Of the tree when this was wished: what is made in a later one is nobody's to kill.
    term: u64,
    until: Until,
    waited_for: Vec<OwnedFd>,
    pause: Duration,
    /// When to look again although none of those has ended.
    next: Option<Instant>,
}

impl Watcher {
    /// Starts the thread. It calls `on_empty` once for each tree that became empty.
    ///
    /// # Errors
    ///
    /// No thread or no descriptor is left.
    pub fn start(on_empty: impl Fn(Name, Epoch) + Send + 'static) -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { bell, wishes: Mutex::default() });
        let thread = std::thread::Builder::new().name("trees".into()).spawn({
            let shared = Arc::clone(&shared);
            move || run(&shared, &on_empty)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Watches this tree until it is empty, instead of what was wished before for this service.
    pub fn watch(&self, service: Name, epoch: Epoch, tree: Tree, until: Until) {
        let (pause, next) = (PAUSE_FIRST, Some(Instant::now()));
        self.wish(|wishes| {
            let term = tree.term();
            wishes.new.insert(service, Some(Watched { epoch, tree, term, until, waited_for: Vec::new(), pause, next }));
        });
    }

    /// Watches this service's tree no longer. An `on_empty` that is being called at this moment still comes.
    pub fn forget(&self, service: Name) {
        self.wish(|wishes| {
            wishes.new.insert(service, None);
        });
    }

    fn wish(&self, change: impl FnOnce(&mut Wishes)) {
        change(&mut lock(&self.shared.wishes));
        // A full counter (EAGAIN) has woken the thread already.
        let _ = rustix::io::write(&self.shared.bell, &1_u64.to_ne_bytes());
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.wish(|wishes| wishes.end = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, on_empty: &impl Fn(Name, Epoch)) {
    let mut watched = BTreeMap::new();
    loop {
        {
            let mut wishes = lock(&shared.wishes);
            if wishes.end {
                return;
            }
            for (service, wish) in std::mem::take(&mut wishes.new) {
                match wish {
                    Some(entry) => watched.insert(service, entry),
                    None => watched.remove(&service),
                };
            }
        }
        let now = Instant::now();
        watched.retain(|service, entry| {
            let is_empty = entry.next.is_some_and(|next| next <= now) && entry.look();
            if is_empty {
                on_empty(service.clone(), entry.epoch);
            }
            !is_empty
        });
        wait(shared, &mut watched);
    }
}

/// Until there is a wish, a process ended, or it is time to look again.
fn wait(shared: &Shared, watched: &mut BTreeMap<Name, Watched>) {
    let next = watched.values().filter_map(|entry| entry.next).min();
    let timeout = next.and_then(|next| Timespec::try_from(next.saturating_duration_since(Instant::now())).ok());
    let mut fds = vec![PollFd::new(&shared.bell, PollFlags::IN)];
    fds.extend(watched.values().flat_map(|entry| &entry.waited_for).map(|fd| PollFd::new(fd, PollFlags::IN)));
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => {
            let ended: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            if ended.first() == Some(&true) {
                let _ = rustix::io::read(&shared.bell, &mut [0; 8]);
            }
            let mut ended = ended.into_iter().skip(1);
            for entry in watched.values_mut().filter(|entry| !entry.waited_for.is_empty()) {
                entry.waited_for.retain(|_| !ended.next().unwrap_or(false));
                if entry.waited_for.is_empty() {
                    entry.next = Some(Instant::now());
                }
            }
        }
        Err(Errno::INTR) => {}
        // More descriptors than the limit, or no memory (poll(2)): look again after a pause.
        Err(_) => {
            for entry in watched.values_mut() {
                entry.waited_for.clear();
                entry.next = Some(Instant::now() + entry.pause);
            }
        }
    }
}

impl Watched {
    /// Goes through the tree; `true` when nothing is left.
    fn look(&mut self) -> bool {
        let mut living = 0;
        self.waited_for.clear();
        let looked = self.tree.each(|handle: &Handle, _| {
            // Asked after the process was found: one that was found before the next term began is of this one.
            if self.tree.term() != self.term {
                return Ok(());
            }
            living += 1;
            if self.until == Until::Killed {
                let _ = handle.send(Signal::KILL);
            }
            if self.waited_for.len() < WAITED_FOR_MAX {
                self.waited_for.extend(handle.pidfd()?);
            }
            Ok(())
        });
        // Only while new ones are to be killed, or on an error, there is anything to see before one of them ends.
        let again = self.until == Until::Killed || self.waited_for.is_empty();
        self.next = again.then(|| Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        looked.is_ok() && living == 0
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, Trees, Unusable};
    use super::*;
    use std::process::Command;

    #[test]
    fn what_is_ordered_after_a_tree_was_given_up_is_not_killed_with_it() {
        let instance = format!("{:08x}", std::process::id());
        let trees = Trees::new(&instance, Kind::Tags { why: Unusable::NotMounted }, None);
        let service = Name::try_from("term").unwrap();
        let tree = trees.prepare(&service).unwrap();
        let tag = trees.environment_tag(&service);
        let mut watched = Watched {
            epoch: Epoch(1),
            tree: tree.clone(),
            term: tree.term(),
            until: Until::Killed,
            waited_for: Vec::new(),
            pause: PAUSE_FIRST,
            next: None,
        };
        tree.begin_term();
        let (name, value) = tag.split_once('=').unwrap();
        let mut next = Command::new("sleep").arg("1000").env(name, value).spawn().unwrap();
        let gone = watched.look();
        let lives = next.try_wait().unwrap().is_none();
        next.kill().unwrap();
        assert!(gone && lives && next.wait().unwrap().code().is_none());
    }
}
