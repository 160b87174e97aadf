//! How other threads reach the loop: a queue of events and an eventfd that wakes it.

use super::config_reader::ConfigReader;
use hale_core::effect::Answer;
use hale_core::event::{Event, Question};
use hale_core::ids::RequestId;
use hale_core::record::Actor;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// How many questions of clients may be open at once: each is a connection of an operator or of a program that
/// reads the state, and a loop that has a thousand of them unanswered is not helped by one more.
pub const QUESTIONS_MAX: usize = 1_024;

/// Sends events to the loop from any thread. Never blocks.
///
/// The queue has no bound of its own, because what is in it is bounded where it comes from: one result for each check, the
/// evidence collector's own bound, one report of the ledger for each of its batches, [`QUESTIONS_MAX`] open questions, and
/// while the loop does not look, 64 questions a second of clients that left again (32 connections on each socket, a second
/// each).
#[derive(Debug, Clone)]
pub struct Inbox {
    queue: Sender<Event>,
    bell: Arc<Bell>,
}

/// What wakes the loop.
#[derive(Debug)]
struct Bell {
    fd: OwnedFd,
    /// It rings, and the loop has not silenced it yet: whoever sends meanwhile need not ask the kernel.
    rings: AtomicBool,
}

impl Inbox {
    /// Delivers an event. Silently dropped once the loop has ended: then there is nobody to tell.
    pub fn send(&self, event: Event) {
        if self.queue.send(event).is_ok() {
            self.ring();
        }
    }

    /// Wakes the loop.
    pub fn ring(&self) {
        if !self.bell.rings.swap(true, Ordering::SeqCst) {
            // A full counter (EAGAIN) has woken the loop already.
            let _ = rustix::io::write(&self.bell.fd, &1_u64.to_ne_bytes());
        }
    }
}

/// The loop's end.
#[derive(Debug)]
pub struct Outlet {
    queue: Receiver<Event>,
    bell: Arc<Bell>,
}

impl Outlet {
    /// Takes the next event, if there is one.
    pub fn take(&self) -> Option<Event> {
        self.queue.try_recv().ok()
    }

    /// Silences the bell; to be called before the last [`Outlet::take`] of a round.
    pub fn silence(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.bell.fd, &mut count);
        // After the reading, which must not take what the next one rings. A swap, so that what was sent by those who found
        // it ringing is seen from here on.
        self.bell.rings.swap(false, Ordering::SeqCst);
    }
}

impl AsFd for Outlet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.fd.as_fd()
    }
}

/// Makes both ends.
///
/// # Errors
/// There is no descriptor left.
pub fn inbox() -> io::Result<(Inbox, Outlet)> {
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let bell = Arc::new(Bell { fd, rings: AtomicBool::new(false) });
    let (sender, receiver) = channel();
    Ok((Inbox { queue: sender, bell: bell.clone() }, Outlet { queue: receiver, bell }))
}

/// The API's way to the loop: asks, and is answered once.
#[derive(Debug, Clone)]
pub struct Asker {
    inbox: Inbox,
    reader: ConfigReader,
    open: Arc<Mutex<BTreeMap<RequestId, oneshot::Sender<Answer>>>>,
    next: Arc<AtomicU64>,
}

/// The number of what nobody waits for an answer to.
pub const NOBODY: RequestId = RequestId(0);

/// What a signal has asked for has a number from here on; JSON has room for no more than 2^53, and clients do not come this far.
const SIGNALS: u64 = 1 << 52;

/// Whether a signal has asked for it.
#[must_use]
pub fn is_by_signal(request: RequestId) -> bool {
    request.0 >= SIGNALS
}

/// [`QUESTIONS_MAX`] questions are open already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{QUESTIONS_MAX} questions are waiting for an answer already; try again in a moment")]
pub struct TooManyQuestions;

impl Asker {
    /// An asker whose answers come by [`Asker::answer`], and that has the configuration read from this file.
    #[must_use]
    pub fn new(inbox: Inbox, file: PathBuf) -> Self {
        let reader = ConfigReader::new(file, inbox.clone());
        Self { inbox, reader, open: Arc::default(), next: Arc::new(AtomicU64::new(1)) }
    }

    /// Puts a question to the loop. The receiver fails when the loop ends before it has answered.
    ///
    /// # Errors
    /// [`TooManyQuestions`]; those whose receivers were dropped do not count.
    pub fn ask(&self, question: Question) -> Result<oneshot::Receiver<Answer>, TooManyQuestions> {
        let (request, receiver) = self.begin()?;
        self.inbox.send(Event::Asked { request, question });
        Ok(receiver)
    }

    /// Has the configuration read again, and what it says put to the loop.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn reload(&self, actor: Actor) -> Result<oneshot::Receiver<Answer>, TooManyQuestions> {
        let (request, receiver) = self.begin()?;
        self.reader.read(request, actor);
        Ok(receiver)
    }

    /// The same because of SIGHUP: the answer finds nobody.
    pub fn reload_by_signal(&self) {
        let pid = rustix::process::getppid().map_or(0, rustix::process::Pid::as_raw_pid);
        let uid = rustix::process::geteuid().as_raw();
        let request = RequestId(SIGNALS + self.next.fetch_add(1, Ordering::Relaxed));
        self.reader.read(request, Actor { uid, pid, user: Some(String::from("SIGHUP")) });
    }

    fn begin(&self) -> Result<(RequestId, oneshot::Receiver<Answer>), TooManyQuestions> {
        let (sender, receiver) = oneshot::channel();
        let request = RequestId(self.next.fetch_add(1, Ordering::Relaxed));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= QUESTIONS_MAX {
            open.retain(|_, sender| !sender.is_closed());
        }
        if open.len() >= QUESTIONS_MAX {
            return Err(TooManyQuestions);
        }
        open.insert(request, sender);
        Ok((request, receiver))
    }

    /// Delivers an answer; a second one, or one to somebody who has left, finds nobody.
    pub fn answer(&self, request: RequestId, answer: Answer) {
        let sender = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&request);
        if let Some(sender) = sender {
            let _ = sender.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered_once_and_the_number_of_open_ones_is_bounded() {
        let (inbox, outlet) = inbox().unwrap();
        let asker = Asker::new(inbox, PathBuf::from("/nowhere"));
        let mut receivers: Vec<_> =
            (0..QUESTIONS_MAX).map(|_| asker.ask(Question::Status { service: None }).unwrap()).collect();
        assert_eq!(asker.ask(Question::Status { service: None }).unwrap_err(), TooManyQuestions);
        let Some(Event::Asked { request, .. }) = outlet.take() else { panic!("no question") };
        let answer = Answer::Done { text: String::from("done") };
        asker.answer(request, answer.clone());
        asker.answer(request, Answer::Failed { text: String::from("nobody hears this") });
        assert_eq!(receivers[0].try_recv().unwrap(), answer);
        receivers.truncate(10);
        assert!(asker.ask(Question::Status { service: None }).is_ok(), "those who left do not count");
    }

    #[test]
    fn nobody_is_left_waiting_because_it_rang_already() {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        const SENDERS: usize = 4;
        const EACH: usize = 20_000;
        let (inbox, outlet) = inbox().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..SENDERS {
                scope.spawn(|| (0..EACH).for_each(|_| inbox.send(Event::Tick)));
            }
            let mut taken = 0;
            while taken < SENDERS * EACH {
                let bound = Timespec { tv_sec: 30, tv_nsec: 0 };
                let rang = poll(&mut [PollFd::new(&outlet, PollFlags::IN)], Some(&bound)).unwrap();
                assert_eq!(rang, 1, "{taken} were taken, and nothing rings");
                outlet.silence();
                taken += std::iter::from_fn(|| outlet.take()).count();
            }
        });
    }
}
