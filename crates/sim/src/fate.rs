//! What one process will do in its life, drawn when it is made.

use crate::fault::{Fault, Rates};
use crate::rng::{Purpose, Rng};
use hale_core::event::ExitStatus;
use hale_core::policy::{CheckKind, ServicePolicy, Signal};

/// The longest that a well-behaved process takes until it works.
pub const USUAL_UP_US: u64 = 50_000;

/// The bound of every check of memory, …
pub const MEMORY_BOUND: u64 = 64 << 20;

/// … and what a process has that does not leak.
const MEMORY_USUAL: u64 = 8 << 20;

/// What becomes of the order to make it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Birth {
    /// It is made, and its program executed.
    Works,
    /// The fork fails with EAGAIN.
    NoFork,
    /// The program is not there: ENOENT, after the fork.
    NoFile,
}

/// Whom the OOM killer takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OomVictim {
    /// The main process; its end tells of it.
    Main,
    /// The main process; the kernel's count is read before its end arrives.
    MainToldBefore,
    /// Another process of the tree.
    Other,
}

/// What is wrong with a generation, so that each of its processes fails in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// It ends so many microseconds after its program was executed.
    Ends(u64),
    /// It answers wrongly from then on.
    Wrong(u64),
    /// It answers nothing from then on.
    Hangs(u64),
    /// It never works.
    NeverUp,
}

/// The life of one process; all times in microseconds: those of the guardian's answers after its making, all others
/// after its program was executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    /// Whether there is any.
    pub birth: Birth,
    /// When the guardian's word of it arrives.
    pub spawned_after: u64,
    /// When its program is executed.
    pub executed_after: u64,
    /// When it works; `None`: never.
    pub up_after: Option<u64>,
    /// How much later it says `READY=1`.
    pub says_ready_after: u64,
    /// When and how it ends by itself.
    pub ends: Option<(u64, ExitStatus)>,
    /// When the kernel takes it or one of its children for memory.
    pub oom: Option<(u64, OomVictim)>,
    /// How much more memory it has each second.
    pub leaks: u64,
    /// From when to when it waits for memory.
    pub stalls: Option<(u64, u64)>,
    /// From when on it answers nothing.
    pub hangs_after: Option<u64>,
    /// From when on it is slow.
    pub slow_after: Option<u64>,
    /// From when on it answers wrongly.
    pub wrong_after: Option<u64>,
    /// From when on it sends no heartbeat.
    pub silent_after: Option<u64>,
    /// When it says `WATCHDOG=trigger`.
    pub triggers_after: Option<u64>,
    /// The time between two heartbeats it promises itself.
    pub own_heartbeat: Option<u64>,
    /// How many processes it forks that outlive it.
    pub strays: u32,
    /// How long those live without it; `None`: until they are ended.
    pub strays_last: Option<u64>,
    /// Whether it ignores the stop signal, and its strays with it.
    pub ignores_term: bool,
    /// How long it takes to end after the stop signal.
    pub term_takes: u64,
    /// How long it survives SIGKILL.
    pub survives_kill: Option<u64>,
    /// What it asks for by `EXTEND_TIMEOUT_USEC`, while it starts and when it is asked to end.
    pub extends: Option<u64>,
    /// It says something after its end.
    pub late_notice: bool,
    /// How many descriptors it leaves when it works, and then one more at its end.
    pub leaves: u32,
    /// What is wrong with what it runs: that stays so when all faults are over.
    pub flaw: Option<Flaw>,
}

impl Fate {
    /// A life without any fault.
    #[must_use]
    pub fn good(rng: &mut Rng) -> Self {
        let spawned_after = rng.within(100, 1_000);
        Self {
            birth: Birth::Works,
            spawned_after,
            executed_after: spawned_after + rng.within(50, 1_000),
            up_after: Some(rng.scaled(1_000, USUAL_UP_US)),
            says_ready_after: rng.scaled(10, USUAL_UP_US),
            ends: None,
            oom: None,
            leaks: 0,
            stalls: None,
            hangs_after: None,
            slow_after: None,
            wrong_after: None,
            silent_after: None,
            triggers_after: None,
            own_heartbeat: None,
            strays: 0,
            strays_last: None,
            ignores_term: false,
            term_takes: rng.scaled(100, 5_000),
            survives_kill: None,
            extends: None,
            late_notice: false,
            leaves: 0,
            flaw: None,
        }
    }

    /// The same life, of a generation with this flaw.
    #[must_use]
    pub fn flawed(mut self, flaw: Option<Flaw>) -> Self {
        self.flaw = flaw;
        let earlier = |at: Option<u64>, flaw: u64| Some(at.unwrap_or(u64::MAX).min(flaw));
        match flaw {
            Some(Flaw::Wrong(at)) => self.wrong_after = earlier(self.wrong_after, at),
            Some(Flaw::Hangs(at)) => self.hangs_after = earlier(self.hangs_after, at),
            Some(Flaw::NeverUp) => self.up_after = None,
            Some(Flaw::Ends(_)) | None => {}
        }
        self
    }

    /// The life of process `epoch` of service number `index`. Each fault has a generator of its own: taking one
    /// out changes nothing about the others.
    #[must_use]
    pub fn draw(seed: u64, rates: &Rates, index: u64, epoch: u64, policy: &ServicePolicy, longest_us: u64) -> Self {
        let dice = |fault: Fault| Rng::new(seed, Purpose::Fate, index, (epoch << 8) | (fault as u64 + 1));
        let hit = |fault: Fault| {
            let mut rng = dice(fault);
            rng.chance(rates.of(fault)).then_some(rng)
        };
        let when = |fault: Fault| hit(fault).map(|mut rng| rng.scaled(1, longest_us));
        let mut fate = Self::good(&mut Rng::new(seed, Purpose::Fate, index, epoch << 8));
        if hit(Fault::NoFork).is_some() {
            fate.birth = Birth::NoFork;
        } else if hit(Fault::NoFile).is_some() {
            fate.birth = Birth::NoFile;
        }
        if let Some(mut rng) = hit(Fault::SpawnLate) {
            fate.spawned_after = rng.scaled(1_000, 5_000_000);
            fate.executed_after = fate.spawned_after + rng.scaled(1_000, 5_000_000);
        }
        if let Some(mut rng) = hit(Fault::SlowStart) {
            let longest = policy.start.within.as_us().saturating_mul(2).max(USUAL_UP_US);
            if rng.chance(500) {
                fate.up_after = Some(rng.scaled(USUAL_UP_US, longest));
            } else {
                // It answers long before it says that it is ready.
                fate.says_ready_after = rng.scaled(USUAL_UP_US, longest);
            }
        }
        if hit(Fault::NeverReady).is_some() {
            fate.up_after = None;
        }
        if let Some(mut rng) = hit(Fault::Crash) {
            let signal = |number, core_dumped| ExitStatus::Signal { signal: Signal(number), core_dumped };
            let status = rng.pick(&[ExitStatus::Code(1), ExitStatus::Code(255), signal(11, true), signal(9, false)]);
            fate.ends = Some((rng.scaled(1, longest_us), status));
        } else if let Some(mut rng) = hit(Fault::ExitZero) {
            fate.ends = Some((rng.scaled(1, longest_us), ExitStatus::Code(0)));
        }
        fate.oom = hit(Fault::OomKill).map(|mut rng| {
            let victim = rng.pick(&[OomVictim::Main, OomVictim::MainToldBefore, OomVictim::Other]);
            (rng.scaled(1, longest_us), victim)
        });
        fate.leaks = hit(Fault::Leak).map_or(0, |mut rng| {
            (MEMORY_BOUND - MEMORY_USUAL) * 1_000_000 / rng.within(longest_us / 6, longest_us / 2).max(1)
        });
        fate.hangs_after = when(Fault::Hang);
        if let Some(mut rng) = hit(Fault::MemoryStall) {
            let begins = rng.scaled(1, longest_us);
            fate.stalls = Some((begins, begins + rng.scaled(1_000_000, 30_000_000)));
            if rng.chance(500) {
                fate.hangs_after = Some(begins + rng.scaled(1, 5_000_000));
            }
        }
        fate.slow_after = when(Fault::Slow);
        fate.wrong_after = when(Fault::Wrong);
        fate.silent_after = when(Fault::HeartbeatStops);
        fate.triggers_after = when(Fault::HeartbeatTrigger);
        fate.own_heartbeat = policy.heartbeat_within().and_then(|within| {
            hit(Fault::HeartbeatOwn).map(|mut rng| rng.within(within.as_us() / 4, within.as_us().saturating_mul(2)))
        });
        if let Some(mut rng) = hit(Fault::Strays) {
            fate.strays = u32::try_from(rng.within(1, 3)).unwrap_or(1);
            fate.strays_last = rng.chance(500).then(|| rng.scaled(10, 1_000_000));
        }
        fate.ignores_term = hit(Fault::IgnoresTerm).is_some();
        if let Some(mut rng) = hit(Fault::EndsSlowly) {
            fate.term_takes = rng.scaled(1_000, policy.stop.grace.as_us().saturating_mul(2).max(1_000));
        }
        // From below UNKILLABLE_AFTER to beyond the longest fault phase.
        fate.survives_kill = hit(Fault::Uninterruptible).map(|mut rng| rng.scaled(1_000_000, 4_000_000_000));
        fate.extends = hit(Fault::ExtendTimeout).map(|mut rng| rng.scaled(1_000, longest_us));
        fate.late_notice = hit(Fault::LateNotice).is_some();
        fate.leaves = hit(Fault::Leaves).map_or(0, |mut rng| u32::try_from(rng.within(1, 40)).unwrap_or(1));
        fate
    }

    /// How much memory it has `age_us` after its program was executed.
    #[must_use]
    pub fn memory(&self, age_us: u64) -> u64 {
        MEMORY_USUAL.saturating_add(self.leaks.saturating_mul(age_us / 1_000) / 1_000)
    }

    /// The time between two heartbeats that keeps its promise with a margin.
    #[must_use]
    pub fn heartbeat_us(&self, policy: &ServicePolicy) -> Option<u64> {
        let within = policy.heartbeat_within()?.as_us();
        Some((self.own_heartbeat.unwrap_or(within).min(within) / 2).max(1_000))
    }

    /// Whether a check of `policy` can see that the process does not work, `age_us` after its program was executed.
    #[must_use]
    pub fn visibly_broken(&self, policy: &ServicePolicy, age_us: u64) -> bool {
        let since = |at: Option<u64>| at.is_some_and(|at| at <= age_us);
        let up = self.up_after.is_some_and(|up| up <= age_us);
        policy.checks.iter().any(|check| match &check.kind {
            CheckKind::Http(http) => {
                let slow = http.faster_than.is_some() && since(self.slow_after);
                !up || since(self.hangs_after) || since(self.wrong_after) || slow
            }
            CheckKind::Tcp { .. }
            | CheckKind::Exec { .. }
            | CheckKind::Grpc { .. }
            | CheckKind::Metric(_)
            | CheckKind::Progress(_)
            | CheckKind::LoopLag(_) => !up || since(self.hangs_after) || since(self.wrong_after),
            CheckKind::Heartbeat { .. } => !up || since(self.hangs_after) || since(self.silent_after),
            // What a process has it has also while it hangs.
            CheckKind::Listen { .. } => !up || since(self.wrong_after),
            CheckKind::Memory { .. } => since(self.wrong_after) || self.memory(age_us) >= MEMORY_BOUND,
            CheckKind::Cpu { .. } | CheckKind::OpenFiles { .. } => since(self.wrong_after),
        })
    }
}
