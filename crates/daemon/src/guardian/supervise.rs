//! The supervisor as the guardian sees it: started, challenged, replaced when it dies or makes no progress.

use crate::guardian::end::{Phase, kill};
use crate::guardian::evidence::evidence_of;
use crate::guardian::helper::{Live, Stage};
use crate::guardian::progress::Due;
use crate::guardian::run::{Guardian, Token};
use crate::guardian::tell::{UNTOLD, Untold};
use crate::guardian::wait::now_ms;
use crate::protocol::{GuardianEvent, HostSignal};
use crate::sys::wait::Exit;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::process::Signal;

/// How long a supervisor that makes no progress has between SIGABRT and SIGKILL, in milliseconds: enough for the kernel to
/// write a core where cores are wanted.
const ABORT_MS: u64 = 200;

/// How long a killed supervisor may take to be gone, in milliseconds. One that hangs in the kernel stays there for as long
/// as its device does; it never runs again, so the next one need not wait for it.
const GONE_MS: u64 = 1_000;

/// How many orders are read before a supervisor whose proof did not come counts as lost: the proof stands behind what one
/// step orders, and no step starts more than a few dozen services.
const ORDERS_BEFORE_LOST: usize = 1_024;

/// How long services go on without anybody in control after the operator asked for the end, in milliseconds: then the
/// guardian ends them by itself.
const END_ALONE_MS: u64 = 10_000;

impl Guardian {
    /// Starts a supervisor with a socket of its own, and plans to tell it everything. When that fails, it is tried again.
    pub(super) fn start_supervisor(&mut self) -> Result<(), Errno> {
        let live = Live::start(&self.epoll, Token::Supervisor, |end| {
            self.programs.supervisor(end, self.oom_score_adj.as_deref(), &mut self.pointers)
        })?;
        self.supervisor.begin(live);
        self.refusal = None;
        self.forget_told();
        self.tell_all();
        Ok(())
    }

    /// Everything has to be told anew.
    fn forget_told(&mut self) {
        self.store.forget_told();
        for slot in self.slots.all() {
            let Some(entry) = self.slots.get(slot) else { continue };
            entry.untold = Untold::all(entry.life, entry.start.is_none(), entry.epoch);
        }
        self.hardware.retell();
        self.untold_lost = self.lost.is_some();
        for taken_after in self.signals.iter_mut().flatten() {
            *taken_after = UNTOLD;
        }
    }

    /// When [`supervise`](Self::supervise) has something to do.
    pub(super) fn supervisor_due_ms(&self) -> u64 {
        self.supervisor.due_ms().min(self.end_alone_ms.unwrap_or(u64::MAX))
    }

    /// What is due about the supervisor.
    pub(super) fn supervise(&mut self) {
        let now = now_ms();
        if !self.supervisor.progress.is_proven() && self.end_alone_ms.is_some_and(|at| now >= at) {
            return self.end_alone();
        }
        if now < self.supervisor.due_ms() {
            return;
        }
        let Some(live) = &mut self.supervisor.live else {
            if let Err(errno) = self.start_supervisor() {
                self.supervisor.retry();
                Self::say(format_args!("no supervisor can be started: {errno}; it is tried again"));
            }
            return;
        };
        match live.stage {
            Stage::Running => self.challenge_supervisor(now),
            Stage::Aborting { .. } => live.kill(now + GONE_MS),
            Stage::Killed { .. } => {
                self.on_supervisor_lost(Exit::Signal { signal: libc::SIGKILL, core_dumped: false });
            }
        }
    }

    fn challenge_supervisor(&mut self, now: u64) {
        // The proof may be there, unread behind many orders.
        for _ in 0..ORDERS_BEFORE_LOST {
            if !self.read_order(true) {
                break;
            }
        }
        match (self.supervisor.due(now), &mut self.supervisor.live) {
            (Due::Challenge, _) => self.tell_challenge(),
            (Due::Lost, Some(live)) => {
                let evidence = evidence_of(live.pid);
                Self::say(format_args!("the supervisor makes no progress ({evidence}): replacing it"));
                self.hung = Some(evidence);
                kill(live.pid, Signal::ABORT);
                live.stage = Stage::Aborting { kill_ms: now + ABORT_MS };
            }
            (Due::Nothing | Due::Lost, _) => {}
        }
    }

    /// It closed its socket, which no living supervisor does.
    pub(super) fn on_supervisor_gone(&mut self) {
        let Some(live) = &mut self.supervisor.live else { return };
        // It would be ready for ever.
        let _ = epoll::delete(&self.epoll, &live.socket);
        if !matches!(live.stage, Stage::Killed { .. }) {
            live.kill(now_ms() + GONE_MS);
        }
    }

    /// It will never run again. Its last orders are carried out, then the next one is started.
    pub(super) fn on_supervisor_lost(&mut self, exit: Exit) {
        // Whom an order was to be refused is gone.
        self.refusal = None;
        while self.read_order(false) {}
        let Some(live) = self.supervisor.live.take() else { return };
        let _ = epoll::delete(&self.epoll, &live.socket);
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        let ever_proven = self.supervisor.progress.ever_proven();
        if let (Exit::Code(code), false, false) = (exit, ever_proven, self.slots.any_running()) {
            // It has said why it cannot start; the next one could not either. That must not cost the machine.
            self.hardware.orderly = true;
            return self.drain(u8::try_from(code).unwrap_or(1));
        }
        let evidence = self.hung.take();
        // Until one is in control, nobody has taken over from the lost guardian.
        if !matches!(self.lost, Some(GuardianEvent::GuardianLost)) || ever_proven {
            self.lost = Some(GuardianEvent::Lost { exit, evidence });
        }
        if self.end_wanted {
            // The next one goes on with the end, if it gets that far.
            self.end_alone_ms.get_or_insert(now_ms() + END_ALONE_MS);
        }
        self.supervisor.retry();
        match exit {
            Exit::Code(code) => Self::say(format_args!("the supervisor ended with exit code {code}: replacing it")),
            Exit::Unknown => {}
            Exit::Signal { signal, .. } => {
                Self::say(format_args!("the supervisor was ended by signal {signal}: replacing it"));
            }
        }
        self.supervise();
    }

    /// The supervisor proves that its loop turns, and so that it has taken what it was told before.
    pub(super) fn on_proof(&mut self, nonce: u64) {
        let first = !self.supervisor.progress.ever_proven();
        if self.supervisor.progress.prove(nonce, now_ms()) {
            if first {
                self.tell_systemd_word("READY=1");
            }
            self.end_alone_ms = None;
            for signal in &mut self.signals {
                signal.take_if(|taken_after| *taken_after <= nonce);
            }
        }
    }

    /// Somebody sent a signal to Hale, which the supervisor is to act on.
    pub(super) fn on_host_signal(&mut self, signal: HostSignal) {
        let ends = matches!(signal, HostSignal::Terminate | HostSignal::Interrupt);
        if self.hurry(ends) {
            return;
        }
        self.signals[signal as usize] = Some(UNTOLD);
        if ends && !self.end_wanted {
            self.end_wanted = true;
            self.keeper.hasten();
            self.tell_systemd_word("STOPPING=1");
        }
        if ends && !self.supervisor.progress.is_proven() {
            match self.end_alone_ms {
                None => self.end_alone_ms = Some(now_ms() + END_ALONE_MS),
                // Told a second time, and still nobody is in control.
                Some(_) => return self.end_alone(),
            }
        }
        self.tell_rest();
    }
}
