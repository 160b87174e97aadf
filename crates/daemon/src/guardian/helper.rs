//! What supervisor and keeper have in common: a process with a socket, challenged, and replaced when it is lost.

use crate::guardian::end::kill;
use crate::guardian::evidence::starved_ms;
use crate::guardian::progress::{Due, Progress};
use crate::guardian::run::Token;
use crate::guardian::wait::now_ms;
use crate::protocol::MAX_ANSWER_BYTES;
use crate::protocol::wire::{Put, write};
use crate::sys::fds::high;
use crate::sys::packet::{self, Sent, send};
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::process::Signal;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The place of one of them.
#[derive(Debug, Default)]
pub(super) struct Helper {
    /// It, from its start until it was reaped or never runs again.
    pub live: Option<Live>,
    /// Of all that were in this place.
    pub progress: Progress,
    /// When there is none: when the next one starts, on the monotonic clock.
    next_ms: u64,
}

/// A process and the socket to it.
#[derive(Debug)]
pub(super) struct Live {
    pub pid: i32,
    /// Closed only once the process can never run again: to a living one its end means that the guardian is gone.
    pub socket: OwnedFd,
    pub stage: Stage,
    /// Whether it has to be sent the number that is to come back.
    pub untold_challenge: bool,
    token: Token,
    /// Whether the socket was full and is watched for room.
    full: bool,
    /// Whether the socket is watched for what the process says.
    heard: bool,
    /// When it was looked at how long it had run, and how long that was, in milliseconds.
    asked: (u64, u64),
}

/// How far its life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It runs.
    Running,
    /// It got SIGABRT, and gets SIGKILL then.
    Aborting { kill_ms: u64 },
    /// It got SIGKILL, and counts as hanging in the kernel then.
    Killed { until_ms: u64 },
}

impl Helper {
    /// When something is due about it.
    pub fn due_ms(&self) -> u64 {
        match self.live.as_ref().map(|live| live.stage) {
            None => self.next_ms,
            Some(Stage::Running) => self.progress.due_ms(),
            Some(Stage::Aborting { kill_ms: due_ms } | Stage::Killed { until_ms: due_ms }) => due_ms,
        }
    }

    /// One was started.
    pub fn begin(&mut self, live: Live) {
        self.live = Some(live);
        self.progress.begin(now_ms());
    }

    /// It is lost, or none could be started: the next one waits as long as its progress says.
    pub fn retry(&mut self) {
        self.next_ms = now_ms() + self.progress.end();
    }

    /// However often one has died: the next one is wanted now.
    pub fn hasten(&mut self) {
        if self.live.is_none() {
            self.next_ms = 0;
        }
    }

    /// It has done all that it was there for.
    pub fn finish(&mut self) {
        self.next_ms = u64::MAX;
    }

    /// Whether nobody is there, and nobody has to be.
    pub fn is_over(&self) -> bool {
        self.live.is_none() && self.next_ms == u64::MAX
    }

    /// Whether this is its process id.
    pub fn is(&self, pid: i32) -> bool {
        self.live.as_ref().is_some_and(|live| live.pid == pid)
    }

    /// What is due about its progress, if it runs. What it could not run, because others did, is not held against it.
    pub fn due(&mut self, now: u64) -> Due {
        let Some(live) = self.live.as_mut().filter(|live| live.stage == Stage::Running) else { return Due::Nothing };
        match self.progress.due(now) {
            Due::Challenge => {
                live.starved_ms(now);
                live.untold_challenge = true;
                Due::Challenge
            }
            Due::Lost if self.progress.excuse(live.starved_ms(now)) => Due::Nothing,
            due => due,
        }
    }
}

impl Live {
    /// Starts one, by what makes a process with this end of its socket.
    pub fn start(
        epoll: &OwnedFd,
        token: Token,
        make: impl FnOnce(BorrowedFd<'_>) -> Result<i32, Errno>,
    ) -> Result<Self, Errno> {
        let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE);
        let (socket, end) = packet::pair().map_err(failed)?;
        let (socket, end) = (high(socket)?, high(end)?);
        epoll::add(epoll, &socket, token.data(), EventFlags::IN)?;
        let pid = make(end.as_fd())?;
        let (stage, asked) = (Stage::Running, (now_ms(), 0));
        Ok(Self { pid, socket, stage, untold_challenge: true, token, full: false, heard: true, asked })
    }

    /// Sends a message. When there is no room, nothing else is sent before there is.
    pub fn send(&mut self, epoll: &OwnedFd, message: &impl Put, fd: Option<BorrowedFd<'_>>) -> Sent {
        if self.full {
            return Sent::Full;
        }
        // That it is gone is an event of its own.
        let sent = send(&self.socket, write(message, &mut [0; MAX_ANSWER_BYTES]), fd).unwrap_or(Sent::Gone);
        if sent == Sent::Full {
            self.watch(epoll, true, self.heard);
        }
        sent
    }

    /// Sends the number that has to come back, if it is untold.
    pub fn challenge(&mut self, epoll: &OwnedFd, message: &impl Put) {
        self.untold_challenge = self.untold_challenge && self.send(epoll, message, None) == Sent::Full;
    }

    /// There is room in the socket again.
    pub fn has_room(&mut self, epoll: &OwnedFd) {
        self.watch(epoll, false, self.heard);
    }

    /// Whether what it says can be taken now.
    pub fn hear(&mut self, epoll: &OwnedFd, heard: bool) {
        if self.heard != heard {
            self.watch(epoll, self.full, heard);
        }
    }

    fn watch(&mut self, epoll: &OwnedFd, full: bool, heard: bool) {
        (self.full, self.heard) = (full, heard);
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::OUT, full);
        flags.set(EventFlags::IN, heard);
        // It is registered, unless it is about to be reaped.
        let _ = epoll::modify(epoll, &self.socket, self.token.data(), flags);
    }

    /// Kills it; then it counts as hanging in the kernel.
    pub fn kill(&mut self, until_ms: u64) {
        kill(self.pid, Signal::KILL);
        self.stage = Stage::Killed { until_ms };
    }

    /// How long it wanted to run since this was called last, and others did, in milliseconds.
    pub fn starved_ms(&mut self, now: u64) -> u64 {
        starved_ms(self.pid, &mut self.asked, now)
    }
}
