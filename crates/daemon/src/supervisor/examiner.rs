//! Looks at services that failed, on threads of its own, because /proc may hang with the service.

use super::inbox::Inbox;
use crate::execute::tree::Tree;
use crate::monitor::examine::examine;
use hale_core::event::Event;
use hale_core::examination::EXAMINED_WITHIN;
use hale_core::ids::{Epoch, Name};
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many looks may wait: each takes some milliseconds, so that what stands behind so many would come too late.
const JOBS_MAX: usize = 64;

/// How many threads look: one may hang in the kernel with its service, and then there is another one.
const THREADS: usize = 2;

/// So much before it is waited for no longer a look is over, so that its answer comes in time.
const MARGIN: Duration = Duration::from_millis(15);

struct Job {
    service: Name,
    epoch: Epoch,
    tree: Tree,
    ordered: Instant,
}

/// Hands out looks.
#[derive(Debug)]
pub(super) struct Examiner {
    jobs: SyncSender<Job>,
    inbox: Inbox,
}

impl Examiner {
    /// Starts its threads.
    ///
    /// # Errors
    /// There can be no more threads.
    pub(super) fn start(inbox: Inbox) -> io::Result<Self> {
        let (jobs, queue) = sync_channel(JOBS_MAX);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..THREADS {
            let (queue, inbox) = (queue.clone(), inbox.clone());
            std::thread::Builder::new().name(String::from("examiner")).spawn(move || work(&queue, &inbox))?;
        }
        Ok(Self { jobs, inbox })
    }

    /// Has a service looked at, and answers; at once where too many wait already, or there is nothing to look at.
    pub(super) fn examine(&self, service: Name, epoch: Epoch, tree: Option<Tree>) {
        let answered = match tree {
            Some(tree) => {
                let job = Job { service: service.clone(), epoch, tree, ordered: Instant::now() };
                self.jobs.try_send(job).is_ok()
            }
            None => false,
        };
        if !answered {
            self.inbox.send(Event::Examined { service, epoch, found: None });
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>, inbox: &Inbox) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { service, epoch, tree, ordered }) = next else { return };
        let until = ordered + Duration::from_micros(EXAMINED_WITHIN.as_us()) - MARGIN;
        let found = examine(&tree, ordered, until).map(Box::new);
        inbox.send(Event::Examined { service, epoch, found });
    }
}
