//! Everything that the fake world can do to Hale, by name, and how often it does it in one seed.

use crate::rng::Rng;

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// One way in which the world misbehaves.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[$doc])* $name,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name on the command line and in tables.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

faults! {
    /// Exits with a status other than 0, or is ended by a signal.
    Crash = "crash",
    /// Exits with status 0.
    ExitZero = "exit-zero",
    /// Answers no probe any more.
    Hang = "hang",
    /// Answers rightly and later than `faster_than`.
    Slow = "slow",
    /// Answers wrongly.
    Wrong = "wrong",
    /// Takes longer to start than usual, sometimes longer than `start.within`.
    SlowStart = "slow-start",
    /// Never becomes ready.
    NeverReady = "never-ready",
    /// execve(2) fails with ENOENT.
    NoFile = "no-file",
    /// The fork fails with EAGAIN.
    NoFork = "no-fork",
    /// The guardian's answers to a spawn come late.
    SpawnLate = "spawn-late",
    /// Forks processes that outlive the main process.
    Strays = "strays",
    /// Ignores the stop signal.
    IgnoresTerm = "ignores-term",
    /// Takes most of its grace to end.
    EndsSlowly = "ends-slowly",
    /// Survives SIGKILL for a while, or for as long as there are faults.
    Uninterruptible = "uninterruptible",
    /// Sends no heartbeat any more.
    HeartbeatStops = "heartbeat-stops",
    /// Says `WATCHDOG=trigger`.
    HeartbeatTrigger = "heartbeat-trigger",
    /// Says `WATCHDOG_USEC`.
    HeartbeatOwn = "heartbeat-own",
    /// Says `EXTEND_TIMEOUT_USEC` while starting or stopping.
    ExtendTimeout = "extend-timeout",
    /// A datagram of a process arrives after its end.
    LateNotice = "late-notice",
    /// A probe's result never comes.
    ProbeLost = "probe-lost",
    /// A probe's result comes after it counts as lost.
    ProbeLate = "probe-late",
    /// `TreeEmpty` is said again, or where it says nothing new.
    TreeEmptyTwice = "tree-empty-twice",
    /// The wall clock jumps.
    WallJump = "wall-jump",
    /// The machine is suspended.
    Suspend = "suspend",
    /// The loop comes late to its next event.
    Lateness = "lateness",
    /// The ledger cannot be written.
    LedgerDegraded = "ledger-degraded",
    /// Records become durable late.
    DurableLate = "durable-late",
    /// Records never become durable, or nobody says so.
    DurableMissing = "durable-missing",
    /// Output is thrown away.
    OutputDropped = "output-dropped",
    /// An operator orders a start.
    OrderStart = "order-start",
    /// An operator orders a stop.
    OrderStop = "order-stop",
    /// An operator orders a restart.
    OrderRestart = "order-restart",
    /// Hale is told to end while there are faults.
    End = "end",
    /// Hale is told to end twice.
    EndTwice = "end-twice",
    /// A probe cannot be run.
    ProbeUnable = "probe-unable",
    /// The supervisor dies: between two steps, before its records are written, or before some of their effects.
    SupervisorDies = "supervisor-dies",
    /// The ledger has no room for a durable record.
    DurableRefused = "durable-refused",
    /// The hardware timer caused this boot.
    ResetByTimer = "reset-by-timer",
    /// The kernel's OOM killer takes the main process, or another one of the tree.
    OomKill = "oom-kill",
    /// Waits for memory for a while, sometimes so long that it answers nothing any more.
    MemoryStall = "memory-stall",
    /// Its memory grows without end.
    Leak = "leak",
    /// It leaves descriptors for its next process, some that cannot be kept, and takes some back.
    Leaves = "leaves",
    /// The other end of a descriptor that was left is gone.
    HangsUp = "hangs-up",
    /// The guardian dies, and its supervisor with it; another one takes over what the init system kept.
    GuardianDies = "guardian-dies",
    /// The kernel tells nobody but the parent how a process ended (Linux before 6.15).
    StatusUnknown = "status-unknown",
    /// The runtime journal cannot be written for a while: what happens meanwhile is not in it until a snapshot is.
    JournalFull = "journal-full",
    /// A dependency is not there for a while.
    DependencyDown = "dependency-down",
    /// A service answers wrongly while something that it depends on is down.
    DependencyHurts = "dependency-hurts",
    /// An operator orders a pause.
    OrderPause = "order-pause",
    /// An operator ends a pause, or what he takes for one.
    OrderResume = "order-resume",
    /// An operator puts another policy in force.
    Reload = "reload",
    /// A probe fails while Hale itself is late, whatever the service does.
    Starved = "starved",
    /// No probe of a service gets through for a while, whatever the service does.
    ProbingFails = "probing-fails",
    /// An operator deploys a generation.
    Deploy = "deploy",
    /// An operator rolls back.
    OrderRollback = "order-rollback",
    /// An operator clears a generation's quarantine.
    OrderClear = "order-clear",
    /// A generation does not work, whoever starts it and however often.
    BadGeneration = "bad-generation",
    /// No generation of a service works for a while.
    Environment = "environment",
    /// A store does not switch, or says that it did not.
    StoreFails = "store-fails",
    /// A store does not answer for a while.
    StoreHangs = "store-hangs",
    /// Somebody else switches.
    OutsideSwitch = "outside-switch",
    /// All of Hale dies, and a new one begins on the same boot.
    HaleDies = "hale-dies",
    /// The power is cut: what is not synced is lost, and a new Hale begins on another boot.
    PowerCut = "power-cut",
    /// A generation moves its service's data forward.
    DataMoves = "data-moves",
    /// A program that a generation brings fails.
    HookFails = "hook-fails",
    /// Somebody edits the files that belong to a service.
    FilesEdited = "files-edited",
}

impl Fault {
    /// Those that need services with generations.
    pub const OF_GENERATIONS: [Self; 12] = [
        Self::Deploy,
        Self::OrderRollback,
        Self::OrderClear,
        Self::BadGeneration,
        Self::Environment,
        Self::StoreFails,
        Self::StoreHangs,
        Self::OutsideSwitch,
        Self::HaleDies,
        Self::PowerCut,
        Self::DataMoves,
        Self::HookFails,
    ];

    /// The fault called `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|fault| fault.as_str() == name)
    }
}

/// How often each fault happens in one seed, in thousandths of the occasions for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rates(Vec<u32>);

impl Rates {
    /// No fault at all.
    #[must_use]
    pub fn none() -> Self {
        Self(vec![0; Fault::ALL.len()])
    }

    /// This one at every occasion, and no other.
    #[must_use]
    pub fn always(fault: Fault) -> Self {
        let mut rates = Self::none();
        rates.0[fault as usize] = 1_000;
        rates
    }

    /// Draws a rate for each fault (swarm testing, Groce et al., ISSTA 2012): more than half are absent, so that
    /// those that are there meet each other in ever new company instead of hiding each other.
    #[must_use]
    pub fn draw(rng: &mut Rng) -> Self {
        let mut rate = || if rng.chance(600) { 0 } else { rng.pick(&[10, 50, 200, 500, 900]) };
        // These are drawn elsewhere, so that they shift nothing here.
        let elsewhere = [Fault::Reload, Fault::Starved, Fault::ProbingFails, Fault::FilesEdited];
        let is_elsewhere = |fault: &Fault| elsewhere.contains(fault) || Fault::OF_GENERATIONS.contains(fault);
        let mut rate_of = |fault: &Fault| if is_elsewhere(fault) { 0 } else { rate() };
        let mut rates = Self(Fault::ALL.iter().map(&mut rate_of).collect());
        // Not both: then nobody knows of a process any more, neither the journal nor the guardian, and none of the guarantees
        // about what they know can hold.
        let without = rng.pick(&[Fault::GuardianDies, Fault::JournalFull]);
        if rates.of(Fault::GuardianDies) > 0 && rates.of(Fault::JournalFull) > 0 {
            rates.leave_out(without);
        }
        rates
    }

    /// Takes out this fault.
    pub fn leave_out(&mut self, fault: Fault) {
        self.set(fault, 0);
    }

    /// Sets the rate of one fault, in thousandths.
    pub fn set(&mut self, fault: Fault, rate: u32) {
        self.0[fault as usize] = rate;
    }

    /// In thousandths.
    #[must_use]
    pub fn of(&self, fault: Fault) -> u32 {
        self.0[fault as usize]
    }

    /// Takes out every fault that is not among `kept`.
    pub fn keep_only(&mut self, kept: &[Fault]) {
        for fault in Fault::ALL {
            if !kept.contains(fault) {
                self.0[*fault as usize] = 0;
            }
        }
    }

    /// Those that can happen.
    #[must_use]
    pub fn present(&self) -> Vec<Fault> {
        Fault::ALL.iter().copied().filter(|fault| self.of(*fault) > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;

    #[test]
    fn names_are_unique_and_read_back() {
        for fault in Fault::ALL {
            assert_eq!(Fault::from_name(fault.as_str()), Some(*fault));
        }
        assert_eq!(Fault::from_name("nonsense"), None);
    }

    #[test]
    fn kept_faults_keep_their_rates() {
        let mut rates = Rates::draw(&mut Rng::new(3, Purpose::Shape, 0, 0));
        let first = rates.present()[0];
        let before = rates.of(first);
        rates.keep_only(&[first]);
        assert_eq!((rates.present(), rates.of(first)), (vec![first], before));
    }
}
