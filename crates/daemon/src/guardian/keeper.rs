//! The keeper as the guardian sees it: started, given pipes, challenged, replaced when it dies or makes no progress. One that
//! hangs in the kernel is worked around.

use crate::guardian::end::Phase;
use crate::guardian::evidence::evidence_of;
use crate::guardian::helper::{Live, Stage};
use crate::guardian::progress::Due;
use crate::guardian::run::{Guardian, Token};
use crate::guardian::wait::now_ms;
use crate::keeper::protocol::Request;
use crate::protocol::Slot;
use crate::protocol::wire::read;
use crate::sys::packet::{Received, Sent, receive};
use crate::sys::wait::Exit;
use rustix::event::epoll::{self, EventFlags};
use std::os::fd::{AsFd, BorrowedFd};

/// How long after SIGKILL a keeper counts as hanging in the kernel, in milliseconds. Whatever can die of it does so at once;
/// if it dies later after all, the next one is there already, and waits for just that.
const HANGS_MS: u64 = 200;

impl Guardian {
    /// What is due about the keeper.
    pub(super) fn supervise_keeper(&mut self) {
        let now = now_ms();
        if now < self.keeper.due_ms() {
            return;
        }
        let Some(live) = &mut self.keeper.live else { return self.replace_keeper() };
        if live.stage == Stage::Running {
            self.look_at_keeper(now);
        } else if live.starved_ms(now) > 0 {
            // It dies as soon as others let it run.
            live.stage = Stage::Killed { until_ms: now + HANGS_MS };
        } else if self.stuck_keeper.is_none() {
            self.stuck_keeper = self.keeper.live.take().map(|live| live.pid);
            Self::say(format_args!(
                "the keeper hangs in the kernel, as with a disk that does not answer: until it does, output that the pipes \
                 cannot hold is dropped and counted"
            ));
            self.replace_keeper();
        } else {
            // This one has opened no file, so it hangs for another reason, and a third one would, too.
            live.stage = Stage::Killed { until_ms: u64::MAX };
        }
    }

    fn look_at_keeper(&mut self, now: u64) {
        // The proof may be there, unread.
        self.read_proofs();
        match (self.keeper.due(now), &mut self.keeper.live) {
            (Due::Challenge, _) => self.challenge_keeper(),
            (Due::Lost, Some(live)) => {
                let evidence = evidence_of(live.pid);
                Self::say(format_args!("the keeper makes no progress ({evidence}): replacing it"));
                live.kill(now + HANGS_MS);
            }
            (Due::Nothing | Due::Lost, _) => {}
        }
    }

    fn replace_keeper(&mut self) {
        self.start_keeper();
        self.untold_keeper = self.keeper.live.is_some();
        self.tell_rest();
    }

    /// Starts a keeper and offers it all pipes. When that fails, it is tried again.
    pub(super) fn start_keeper(&mut self) {
        let make = |end: BorrowedFd<'_>| self.programs.keeper(end, &mut self.pointers);
        let Ok(live) = Live::start(&self.epoll, Token::Keeper, make) else { return self.keeper.retry() };
        self.keeper.begin(live);
        for slot in self.slots.all() {
            if let Some(entry) = self.slots.get(slot) {
                entry.unoffered = entry.pipe.is_some();
            }
        }
        self.tell_keeper();
    }

    /// The child called `pid` was reaped, which may have been a keeper.
    pub(super) fn on_keeper_reaped(&mut self, pid: i32, exit: Exit) {
        if self.keeper.live.take_if(|live| live.pid == pid).is_some() {
            self.keeper.retry();
            if exit == Exit::Code(0) && matches!(self.phase, Phase::Draining { .. }) {
                self.keeper.finish();
            }
        }
        if self.stuck_keeper.take_if(|stuck| *stuck == pid).is_some() {
            Self::say(format_args!("the keeper that hung is gone, the disk answers again: output is written again"));
            // Whoever hangs now may be the next one to be worked around.
            if let Some(Stage::Killed { until_ms }) = self.keeper.live.as_mut().map(|live| &mut live.stage) {
                *until_ms = now_ms();
            }
        }
    }

    /// Everything that the keeper does not know, in order: where its socket is full, what comes behind waits.
    pub(super) fn tell_keeper(&mut self) {
        self.challenge_keeper();
        self.slots.all().for_each(|slot| self.offer_pipe(slot));
        if let (Phase::Draining { .. }, Some(live)) = (self.phase, &mut self.keeper.live) {
            // It ends once all that is in the pipes is in its files.
            live.send(&self.epoll, &Request::Drain, None);
        }
    }

    /// Sends the number that has to come back.
    fn challenge_keeper(&mut self) {
        if let Some(live) = &mut self.keeper.live {
            live.challenge(&self.epoll, &Request::Challenge { nonce: self.keeper.progress.nonce() });
        }
    }

    /// Gives the keeper the slot's pipe, if it does not have it and can take it now.
    pub(super) fn offer_pipe(&mut self, slot: Slot) {
        let (Some(live), Some(entry)) = (&mut self.keeper.live, self.slots.get(slot)) else { return };
        if let (true, Some(pipe)) = (entry.unoffered, &entry.pipe) {
            let sent = live.send(&self.epoll, &Request::Pipe { slot }, Some(pipe.read.as_fd()));
            entry.unoffered = sent != Sent::Yes;
        }
    }

    pub(super) fn on_keeper(&mut self, flags: EventFlags) {
        self.read_proofs();
        if let Some(live) = self.keeper.live.as_mut().filter(|_| flags.contains(EventFlags::OUT)) {
            live.has_room(&self.epoll);
            self.tell_keeper();
        }
    }

    fn read_proofs(&mut self) {
        let Some(live) = &self.keeper.live else { return };
        let mut message = [0; 16];
        loop {
            match receive(&live.socket, &mut message) {
                Ok(Received::Message(length, _)) => {
                    if let Some(nonce) = read(&message[..length], None) {
                        self.keeper.progress.prove(nonce, now_ms());
                    }
                }
                Ok(Received::Oversized) => {}
                Ok(Received::Nothing) => return,
                Ok(Received::Gone) | Err(_) => {
                    // It would be ready until it is reaped.
                    let _ = epoll::delete(&self.epoll, &live.socket);
                    return;
                }
            }
        }
    }
}
