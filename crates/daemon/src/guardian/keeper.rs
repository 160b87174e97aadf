//! The keeper as the guardian sees it: started, given pipes, challenged, replaced when it dies or makes no progress. One that
//! hangs in the kernel is worked around.

use crate::guardian::end::kill;
use crate::guardian::progress::Due;
use crate::guardian::protocol::Slot;
use crate::guardian::run::{Guardian, Token, now_ms};
use crate::guardian::supervise::{evidence_of, starved_ms};
use crate::keeper::protocol::{challenge_message, pipe_message, read_proof};
use crate::sys::child::LOW_FDS;
use crate::sys::packet::{self, Received, Sent, receive, send};
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::process::Signal;
use std::os::fd::{AsFd, OwnedFd};

/// How long after SIGKILL a keeper counts as hanging in the kernel, in milliseconds. Whatever can die of it does so at once;
/// if it dies later after all, the next one is there already, and waits for just that.
const HANGS_MS: u64 = 200;

/// A keeper that was started and not reaped.
#[derive(Debug)]
pub(super) struct Keeper {
    pub pid: i32,
    pub socket: OwnedFd,
    untold_challenge: bool,
    /// When it was looked at how long it had run, and how long that was, in milliseconds.
    asked: (u64, u64),
    /// Whether its socket was full and is watched for room.
    full: bool,
    /// It got SIGKILL, and counts as hanging in the kernel then.
    hangs_ms: Option<u64>,
}

impl Guardian {
    /// When [`supervise_keeper`](Self::supervise_keeper) has something to do.
    pub(super) fn keeper_due_ms(&self) -> u64 {
        let running = |keeper: &Keeper| keeper.hangs_ms.unwrap_or(self.keeper_progress.due_ms());
        self.keeper.as_ref().map_or(self.keeper_due_ms, running)
    }

    /// What is due about the keeper.
    pub(super) fn supervise_keeper(&mut self) {
        let now = now_ms();
        if now < self.keeper_due_ms() {
            return;
        }
        let Some(mut keeper) = self.keeper.take() else { return self.replace_keeper() };
        if keeper.hangs_ms.is_none() {
            self.keeper = Some(keeper);
            return self.challenge_keeper(now);
        }
        if starved_ms(keeper.pid, &mut keeper.asked, now) > 0 {
            // It dies as soon as others let it run.
            keeper.hangs_ms = Some(now + HANGS_MS);
            self.keeper = Some(keeper);
        } else if self.stuck_keeper.is_none() {
            self.stuck_keeper = Some(keeper.pid);
            Self::say(format_args!(
                "the keeper hangs in the kernel, as with a disk that does not answer: until it does, output that the pipes \
                 cannot hold is dropped and counted"
            ));
            self.replace_keeper();
        } else {
            // This one has opened no file, so it hangs for another reason, and a third one would, too.
            keeper.hangs_ms = Some(u64::MAX);
            self.keeper = Some(keeper);
        }
    }

    fn challenge_keeper(&mut self, now: u64) {
        // The proof may be there, unread.
        self.read_proofs();
        let due = self.keeper_progress.due(now);
        let Some(keeper) = &mut self.keeper else { return };
        match due {
            Due::Nothing => {}
            Due::Challenge => {
                starved_ms(keeper.pid, &mut keeper.asked, now);
                keeper.untold_challenge = true;
                self.tell_keeper();
            }
            Due::Lost => {
                if self.keeper_progress.excuse(starved_ms(keeper.pid, &mut keeper.asked, now)) {
                    return;
                }
                let evidence = evidence_of(keeper.pid);
                Self::say(format_args!("the keeper makes no progress ({evidence}): replacing it"));
                kill(keeper.pid, Signal::KILL);
                keeper.hangs_ms = Some(now + HANGS_MS);
            }
        }
    }

    fn replace_keeper(&mut self) {
        self.start_keeper();
        self.untold_keeper = self.keeper.is_some();
        self.tell_rest();
    }

    /// Starts a keeper and offers it all pipes. When that fails, it is tried again.
    pub(super) fn start_keeper(&mut self) {
        self.keeper = self.make_keeper().ok();
        if self.keeper.is_none() {
            self.keeper_due_ms = now_ms() + self.keeper_progress.end();
            return;
        }
        self.keeper_progress.begin(now_ms());
        self.tell_keeper();
        for slot in self.slots.all() {
            if let Some(entry) = self.slots.get(slot) {
                entry.untold.pipe = entry.pipe.is_some();
            }
            self.offer_pipe(slot);
        }
    }

    fn make_keeper(&mut self) -> Result<Keeper, Errno> {
        let high = |fd: OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, LOW_FDS);
        let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE);
        let (socket, end) = packet::pair().map_err(failed)?;
        let (socket, end) = (high(socket)?, high(end)?);
        epoll::add(&self.epoll, &socket, Token::Keeper.data(), EventFlags::IN)?;
        let pid = self.helpers.keeper(end.as_fd(), &mut self.pointers)?;
        Ok(Keeper { pid, socket, untold_challenge: true, asked: (now_ms(), 0), full: false, hangs_ms: None })
    }

    /// The child called `pid` was reaped, which may have been a keeper.
    pub(super) fn on_keeper_reaped(&mut self, pid: i32) {
        if self.keeper.take_if(|keeper| keeper.pid == pid).is_some() {
            self.keeper_due_ms = now_ms() + self.keeper_progress.end();
        }
        if self.stuck_keeper.take_if(|stuck| *stuck == pid).is_some() {
            Self::say(format_args!("the keeper that hung is gone, the disk answers again: output is written again"));
            // Whoever hangs now may be the next one to be worked around.
            if let Some(hangs_ms) = self.keeper.as_mut().and_then(|keeper| keeper.hangs_ms.as_mut()) {
                *hangs_ms = now_ms();
            }
        }
    }

    /// Sends the number that has to come back.
    fn tell_keeper(&mut self) {
        let Some(keeper) = self.keeper.as_mut().filter(|keeper| keeper.untold_challenge && !keeper.full) else {
            return;
        };
        let message = challenge_message(self.keeper_progress.nonce());
        keeper.untold_challenge = matches!(send(&keeper.socket, &message, None), Ok(Sent::Full));
        if keeper.untold_challenge {
            self.watch_keeper(true);
        }
    }

    /// Gives the keeper the slot's pipe, if it does not have it and can take it now.
    pub(super) fn offer_pipe(&mut self, slot: Slot) {
        let Some(keeper) = self.keeper.as_mut().filter(|keeper| !keeper.full) else { return };
        let Some(entry) = self.slots.get(slot).filter(|entry| entry.untold.pipe) else { return };
        let Some(pipe) = &entry.pipe else { return };
        match send(&keeper.socket, &pipe_message(slot), Some(pipe.read.as_fd())) {
            Ok(Sent::Yes) => entry.untold.pipe = false,
            Ok(Sent::Full) => self.watch_keeper(true),
            // It is about to be reaped and replaced.
            Ok(Sent::Gone) | Err(_) => {}
        }
    }

    fn watch_keeper(&mut self, full: bool) {
        let Some(keeper) = &mut self.keeper else { return };
        keeper.full = full;
        let flags = if full { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        // It is registered, unless it is about to be reaped.
        let _ = epoll::modify(&self.epoll, &keeper.socket, Token::Keeper.data(), flags);
    }

    pub(super) fn on_keeper(&mut self, flags: EventFlags) {
        self.read_proofs();
        if flags.contains(EventFlags::OUT) {
            self.watch_keeper(false);
            self.tell_keeper();
            self.slots.all().for_each(|slot| self.offer_pipe(slot));
        }
    }

    fn read_proofs(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        let mut message = [0; 16];
        loop {
            match receive(&keeper.socket, &mut message) {
                Ok(Received::Message(length, _)) => {
                    if let Some(nonce) = read_proof(&message[..length]) {
                        self.keeper_progress.prove(nonce, now_ms());
                    }
                }
                Ok(Received::Oversized) => {}
                Ok(Received::Nothing) => return,
                Ok(Received::Gone) | Err(_) => {
                    // It would be ready until it is reaped.
                    let _ = epoll::delete(&self.epoll, &keeper.socket);
                    return;
                }
            }
        }
    }
}
