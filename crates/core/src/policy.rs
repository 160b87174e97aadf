//! What the operator wants, already validated: the configuration in the only form that the core reads.
//!
//! Built by `hale-config`; a value that is out of range cannot be written down in `hale.toml` and so never
//! arrives here. Serialisable, because the policy in force is kept in the runtime journal and its hash
//! stands in every decision.

pub mod change;
mod generations;
mod measured;

pub use generations::{FILES_MAX, GenerationsPolicy, KEEP_MAX, ROLLBACKS_PER_DAY_MAX, Rollback, StoreKind};
pub use measured::{Figure, LoopLagCheck, MetricCheck, Pending, ProgressCheck, Series, Source};

use crate::ids::Name;
use crate::time::Span;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// Everything that the core has to know of `hale.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// `[host]`.
    pub host: HostPolicy,
    /// `[service.NAME]`, by name.
    pub services: BTreeMap<Name, Arc<ServicePolicy>>,
    /// `[system.generations]`.
    #[serde(default)]
    pub system: SystemPolicy,
    /// `[dependency.NAME]`, by name; none of them is a service's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dependencies: BTreeMap<Name, Arc<DependencyPolicy>>,
}

/// `[dependency.NAME]`: something outside that Hale does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DependencyPolicy {
    /// What tells whether it is there, in the order of the file; at least one, names are unique. None of a kind that
    /// needs a process of Hale's.
    pub checks: Vec<CheckPolicy>,
}

/// SHA-256 of the policy as JSON, in lowercase hex: the same text of configuration always gives the
/// same hash, and another meaning another one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PolicyHash(pub Arc<str>);

/// `[host]`. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPolicy {
    /// Where the ledger is kept.
    pub state_dir: String,
    /// Sockets, locks and the runtime journal; on a tmpfs.
    pub runtime_dir: String,
    /// Where the keeper puts the services' output.
    pub log_dir: String,
    /// Whether Hale acts.
    pub mode: Mode,
    /// How many services may be on their way up again at once after a failure; at least 1.
    pub restarts_in_flight: u32,
    /// `[host.hardware_watchdog]`; `None`: no hardware timer is used.
    pub hardware_watchdog: Option<HardwareWatchdog>,
    /// What follows the ordered end of Hale as process 1.
    #[serde(default)]
    pub as_init: AsInit,
}

/// What follows the ordered end of Hale as process 1 of a container or of a machine; elsewhere it means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AsInit {
    /// The process ends, and with it the container. A machine cannot do without process 1: it is powered off.
    #[default]
    Exit,
    /// The machine is powered off; a container ends as one that was.
    PowerOff,
    /// The machine is rebooted; a container ends as one that asks for it.
    Reboot,
}

/// `[host.hardware_watchdog]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardwareWatchdog {
    /// The timer's device, absolute.
    pub device: String,
    /// How long the guardian may be silent: whole seconds, [`TIMER_TIMEOUT_MIN`] to [`TIMER_TIMEOUT_MAX`].
    pub timeout: Span,
    /// Services that lead to a reboot once all of them are beyond their ladder; none: none does.
    pub require: Vec<Name>,
}

/// The shortest timeout: timers count whole seconds, and petted at a third of it, each second, two may be missed.
pub const TIMER_TIMEOUT_MIN: Span = Span::from_secs(3);

/// The longest timeout: a machine that hangs for longer than an hour is found by people. (Drivers have lower bounds of
/// their own, which the guardian meets when it sets the timer.)
pub const TIMER_TIMEOUT_MAX: Span = Span::from_secs(3_600);

/// `[system.generations]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemPolicy {
    /// Whether Hale may reset the machine.
    pub reboot: Reboot,
    /// How many resets within a day [`Reboot::Auto`] allows: 1 to [`REBOOTS_PER_DAY_MAX`].
    pub reboots_per_day: u32,
}

impl Default for SystemPolicy {
    fn default() -> Self {
        Self { reboot: Reboot::Never, reboots_per_day: 1 }
    }
}

/// Upper bound of resets within a day: one an hour is a machine that people must look at.
pub const REBOOTS_PER_DAY_MAX: u32 = 24;

/// Whether Hale may reset the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reboot {
    /// It pets the timer whatever happens.
    Never,
    /// When nothing gentler is left, within the budget.
    Auto,
}

/// Whether Hale acts on what it decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Decide, record and act.
    Heal,
    /// Start each service once, then decide and record only.
    Observe,
}

/// `[service.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePolicy {
    /// Program and arguments; at least one word. The first one as written: it is resolved at each spawn.
    pub command: Vec<String>,
    /// Working directory, absolute; `None`: the release that it runs, which only a service has whose generations are releases.
    pub directory: Option<String>,
    /// The user to run as, by name; `None`: the user Hale runs as.
    pub user: Option<String>,
    /// Variables set for the service.
    pub environment: BTreeMap<String, String>,
    /// Absolute paths of files with `NAME=value` lines, read at each spawn; later ones win over earlier
    /// ones, all of them win over `environment`.
    pub environment_files: Vec<String>,
    /// Services that must be ready, and dependencies that must be up, before this one is started; services are stopped
    /// after it.
    pub after: Vec<Name>,
    /// `RLIMIT_NOFILE` of the service; `None`: what Hale itself was started with.
    pub open_files_limit: Option<u64>,
    /// What its whole tree may use.
    pub limits: ResourceLimits,
    /// Where Hale listens for it (sd_listen_fds(3)), by the name that the service knows the socket by; at most
    /// [`LISTEN_MAX`].
    pub listen: BTreeMap<String, ListenAddress>,
    /// When the service counts as started.
    pub start: StartPolicy,
    /// How it is stopped.
    pub stop: StopPolicy,
    /// When and how often it is started again.
    pub restart: RestartPolicy,
    /// Bounds of its output.
    pub log: LogPolicy,
    /// What tells whether it works, in the order of the file; names are unique.
    pub checks: Vec<CheckPolicy>,
    /// `[service.NAME.generations]`; `None`: it has no generations that Hale knows of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generations: Option<GenerationsPolicy>,
}

/// What the whole tree of a service may use: enforced by the kernel for its cgroup, and by nothing where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResourceLimits {
    /// `memory.max` in bytes; `None`: no limit of its own.
    pub memory_bytes: Option<u64>,
    /// `pids.max`, threads included; `None`: no limit of its own.
    pub tasks: Option<u32>,
    /// `cpu.weight`, 1 to 10,000; `None`: the kernel's 100.
    pub cpu_weight: Option<u32>,
}

/// How many addresses one service may have: a web server has one for each protocol and interface, and all of them
/// become its lowest descriptors, of which a program may have as few as 16 (`open_files_limit`) beside its own.
pub const LISTEN_MAX: usize = 16;

/// Where stream sockets are bound; unlike a check's address never a name, which only a resolver could tell the address of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenAddress {
    /// TCP on IPv4 or IPv6; the port is not zero.
    Tcp(SocketAddr),
    /// A Unix socket by its absolute path, at most 107 bytes (unix(7)).
    Unix(String),
}

impl core::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

impl ServicePolicy {
    /// Whether Hale must give this service a notify socket (sd_notify(3)).
    #[must_use]
    pub fn wants_notify(&self) -> bool {
        self.start.ready == Ready::Notify || self.checks.iter().any(|check| check.kind.hears())
    }

    /// The shortest promise of a `heartbeat` check, for `WATCHDOG_USEC` (sd_watchdog_enabled(3)).
    #[must_use]
    pub fn heartbeat_within(&self) -> Option<Span> {
        self.checks.iter().filter_map(|check| check.kind.promise()).min()
    }
}

/// `[service.NAME.start]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartPolicy {
    /// What makes it ready.
    pub ready: Ready,
    /// How long it may take to become ready; more than zero.
    pub within: Span,
}

/// What makes a started service ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ready {
    /// Its program was executed.
    Running,
    /// It said `READY=1` on its notify socket.
    Notify,
    /// All of its checks pass.
    Check,
}

/// `[service.NAME.stop]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopPolicy {
    /// The first signal, to every process of the tree.
    pub signal: Signal,
    /// How long the tree may take to end before SIGKILL; may be zero: then SIGKILL at once.
    pub grace: Span,
}

/// A signal by its Linux number, 1 to 64 (signal(7)); written as `SIGTERM` in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signal(pub i32);

impl Signal {
    /// SIGINT.
    pub const INT: Self = Self(2);
    /// SIGABRT.
    pub const ABRT: Self = Self(6);
    /// SIGKILL.
    pub const KILL: Self = Self(9);
    /// SIGTERM.
    pub const TERM: Self = Self(15);

    /// Whether it is one that others send, and that a program does not send itself when something in it goes wrong.
    #[must_use]
    pub fn is_from_outside(self) -> bool {
        matches!(self.0, 1..=3 | 9 | 10 | 12 | 15)
    }

    /// The standard signals that have one number on all of Linux' common architectures (x86, Arm, RISC-V).
    const NAMES: [(i32, &'static str); 31] = [
        (1, "SIGHUP"),
        (2, "SIGINT"),
        (3, "SIGQUIT"),
        (4, "SIGILL"),
        (5, "SIGTRAP"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL"),
        (10, "SIGUSR1"),
        (11, "SIGSEGV"),
        (12, "SIGUSR2"),
        (13, "SIGPIPE"),
        (14, "SIGALRM"),
        (15, "SIGTERM"),
        (16, "SIGSTKFLT"),
        (17, "SIGCHLD"),
        (18, "SIGCONT"),
        (19, "SIGSTOP"),
        (20, "SIGTSTP"),
        (21, "SIGTTIN"),
        (22, "SIGTTOU"),
        (23, "SIGURG"),
        (24, "SIGXCPU"),
        (25, "SIGXFSZ"),
        (26, "SIGVTALRM"),
        (27, "SIGPROF"),
        (28, "SIGWINCH"),
        (29, "SIGIO"),
        (30, "SIGPWR"),
        (31, "SIGSYS"),
    ];

    /// The signal called `name`, with or without `SIG`, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let bare = |text: &str| -> String {
            let upper = text.to_ascii_uppercase();
            String::from(upper.strip_prefix("SIG").unwrap_or(&upper))
        };
        let wanted = bare(name);
        Self::NAMES.iter().find(|(_, known)| bare(known) == wanted).map(|&(number, _)| Self(number))
    }

    /// All names that [`Self::from_name`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().map(|&(_, name)| name)
    }
}

impl core::fmt::Display for Signal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match Self::NAMES.iter().find(|&&(number, _)| number == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "signal {}", self.0),
        }
    }
}

/// `[service.NAME.restart]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// Delay of the first restart after a healthy time.
    pub first_delay: Span,
    /// Delay of the second one; it doubles from there.
    pub delay: Span,
    /// The longest delay, before jitter; at least `delay`.
    pub max_delay: Span,
    /// This long without a failure forgets delays and counters; more than zero.
    pub healthy_after: Span,
    /// When to give up quick restarts; `None`: never.
    pub crash_loop: Option<CrashLoop>,
    /// First delay between two tries while held; it doubles up to [`HELD_DELAY_MAX`]; more than zero.
    pub held_delay: Span,
    /// Whether exit status 0 is a failure too.
    pub on_success: bool,
    /// How long before memory or descriptors reach the bound of their check it is started anew; `None`: it is not. More
    /// than zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_limit: Option<Span>,
}

/// The longest delay between two tries of a held service, before jitter: an hour costs little when the
/// service is broken for days, and is short enough that nobody has to remember to start it again.
pub const HELD_DELAY_MAX: Span = Span::from_secs(3_600);

/// `restart.crash_loop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashLoop {
    /// This many failures, at least 1 and at most [`CRASH_LOOP_FAILURES_MAX`] …
    pub failures: u32,
    /// … within this time are a crash loop; more than zero.
    pub within: Span,
}

/// Bound of the window of failures that is kept per service: 8 bytes each, and nobody calls the thousandth
/// restart within a window the first sign of a loop.
pub const CRASH_LOOP_FAILURES_MAX: u32 = 1_000;

/// `[service.NAME.log]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPolicy {
    /// Size of one file in bytes at which it is rotated; at least 4,096.
    pub max_size_bytes: u64,
    /// How many rotated files are kept beside the current one.
    pub keep: u32,
    /// Bytes per second above which output is drained and counted; at least 4,096.
    pub rate_bytes: u64,
}

/// `[[service.NAME.check]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckPolicy {
    /// Its name: given, or the kind, or `kind-N` where that is taken.
    pub name: Name,
    /// What is probed.
    pub kind: CheckKind,
    /// Time from the start of one probe to the start of the next; more than zero.
    pub every: Span,
    /// Deadline of the whole probe; more than zero.
    pub timeout: Span,
    /// Consecutive failures that make Hale act; at least 1.
    pub failures: u32,
    /// Consecutive successes that make it healthy again; at least 1.
    pub successes: u32,
    /// Other checks of the service that must fail, too, before a failure of this one leads to anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub confirm: Vec<Name>,
}

/// What one check probes, with its own keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CheckKind {
    /// An HTTP request.
    Http(HttpCheck),
    /// A TCP connection to `address` (`host:port`).
    Tcp {
        /// `host:port`.
        address: String,
    },
    /// A program that must exit with status 0.
    Exec {
        /// Program and arguments; at least one word.
        command: Vec<String>,
        /// The user to run as; `None`: the service's.
        user: Option<String>,
    },
    /// `WATCHDOG=1` on the notify socket at least this often. Not probed: judged by the core's own clock,
    /// first `within` after the service was ready, then once each `every` for as long as it is missing.
    Heartbeat {
        /// The longest time between two.
        within: Span,
    },
    /// Memory of the whole tree: anonymous, shared and swapped out, not page cache.
    Memory {
        /// As much fails.
        below: MemoryBound,
    },
    /// Time on the processor, of the whole tree.
    Cpu {
        /// A mean of as much of one core fails; more than 100 is more than one core.
        below_percent: u32,
        /// The mean is over this time; more than zero.
        window: Span,
    },
    /// Descriptors of that process of the tree that has most.
    OpenFiles {
        /// As many fail.
        below: u32,
    },
    /// A listening socket at `address` that a process of the tree has.
    Listen {
        /// Where.
        address: ListenAddress,
    },
    /// A service of grpc.health.v1 that must be serving.
    Grpc {
        /// `host:port` or `unix:/absolute/path`.
        address: String,
        /// As the server knows it; empty: the server as a whole.
        service: String,
    },
    /// A figure among its metrics.
    Metric(MetricCheck),
    /// What it has done becomes more.
    Progress(ProgressCheck),
    /// How late its event loop is.
    LoopLag(LoopLagCheck),
}

/// How much memory is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryBound {
    /// So many bytes; more than zero.
    Bytes(u64),
    /// A share of the service's `memory_limit`.
    OfLimit {
        /// 1 to 100.
        percent: u32,
        /// `memory_limit`.
        limit_bytes: u64,
    },
}

impl MemoryBound {
    /// In bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            // The limit is at most some 2^50.
            Self::OfLimit { percent, limit_bytes } => limit_bytes.saturating_mul(u64::from(percent)) / 100,
        }
    }
}

impl CheckKind {
    /// The kind's name as in the configuration.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Tcp { .. } => "tcp",
            Self::Exec { .. } => "exec",
            Self::Heartbeat { .. } => "heartbeat",
            Self::Memory { .. } => "memory",
            Self::Cpu { .. } => "cpu",
            Self::OpenFiles { .. } => "open_files",
            Self::Listen { .. } => "listen",
            Self::Grpc { .. } => "grpc",
            Self::Metric(_) => "metric",
            Self::Progress(_) => "progress",
            Self::LoopLag(_) => "loop_lag",
        }
    }

    /// The longest time between two signs, of a kind that the service itself gives; `None`: it is probed.
    #[must_use]
    pub fn promise(&self) -> Option<Span> {
        match self {
            Self::Heartbeat { within } => Some(*within),
            Self::Http(_)
            | Self::Tcp { .. }
            | Self::Exec { .. }
            | Self::Memory { .. }
            | Self::Cpu { .. }
            | Self::OpenFiles { .. }
            | Self::Listen { .. }
            | Self::Grpc { .. }
            | Self::Metric(_)
            | Self::Progress(_)
            | Self::LoopLag(_) => None,
        }
    }

    /// Whether it needs what the service says on its notify socket.
    #[must_use]
    pub fn hears(&self) -> bool {
        match self {
            Self::Heartbeat { .. } => true,
            Self::Progress(ProgressCheck { source, .. }) | Self::LoopLag(LoopLagCheck { source, .. }) => {
                *source == Source::Notify
            }
            Self::Http(_)
            | Self::Tcp { .. }
            | Self::Exec { .. }
            | Self::Memory { .. }
            | Self::Cpu { .. }
            | Self::OpenFiles { .. }
            | Self::Listen { .. }
            | Self::Grpc { .. }
            | Self::Metric(_) => false,
        }
    }

    /// Whether it fails by the time in which something has not happened, which the prober counts.
    #[must_use]
    pub fn counts_time(&self) -> bool {
        match self {
            Self::Progress(_) => true,
            Self::Metric(MetricCheck { increases_within, .. }) => increases_within.is_some(),
            Self::Http(_)
            | Self::Tcp { .. }
            | Self::Exec { .. }
            | Self::Heartbeat { .. }
            | Self::Memory { .. }
            | Self::Cpu { .. }
            | Self::OpenFiles { .. }
            | Self::Listen { .. }
            | Self::Grpc { .. }
            | Self::LoopLag(_) => false,
        }
    }

    /// The bound of a figure that is followed over time.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        match self {
            Self::Memory { below } => Some(below.bytes()),
            Self::OpenFiles { below } => Some(u64::from(*below)),
            Self::Http(_)
            | Self::Tcp { .. }
            | Self::Exec { .. }
            | Self::Heartbeat { .. }
            | Self::Cpu { .. }
            | Self::Listen { .. }
            | Self::Grpc { .. }
            | Self::Metric(_)
            | Self::Progress(_)
            | Self::LoopLag(_) => None,
        }
    }

    /// Whether its probe goes to this machine itself, by its own word: what it names is of the loopback network (RFC 6761, section 6.3).
    #[must_use]
    pub fn stays_here(&self) -> bool {
        let is_here = |authority: &str| {
            let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
            host == "localhost" || host == "[::1]" || host.starts_with("127.")
        };
        let of_url = |url: &str| {
            let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
            is_here(rest.split('/').next().unwrap_or(rest))
        };
        match self {
            Self::Http(http) => of_url(&http.url),
            Self::Tcp { address } | Self::Grpc { address, .. } => is_here(address),
            Self::Metric(metric) => of_url(&metric.url),
            Self::Progress(progress) => progress.source.url().is_none_or(of_url),
            Self::LoopLag(lag) => lag.source.url().is_none_or(of_url),
            Self::Exec { .. }
            | Self::Heartbeat { .. }
            | Self::Memory { .. }
            | Self::Cpu { .. }
            | Self::OpenFiles { .. }
            | Self::Listen { .. } => true,
        }
    }

    /// Whether its probe connects to something, so that a probe that connects to Hale itself can be a control of it.
    #[must_use]
    pub fn connects(&self) -> bool {
        match self {
            Self::Http(http) => !http.url.starts_with("unix:"),
            Self::Tcp { .. } | Self::Grpc { .. } | Self::Metric(_) => true,
            Self::Progress(progress) => progress.source.is_metric(),
            Self::LoopLag(lag) => lag.source.is_metric(),
            Self::Exec { .. }
            | Self::Heartbeat { .. }
            | Self::Memory { .. }
            | Self::Cpu { .. }
            | Self::OpenFiles { .. }
            | Self::Listen { .. } => false,
        }
    }

    /// Whether it looks at the processes of the service, so that one look serves all such checks of a service.
    #[must_use]
    pub fn looks_at_tree(&self) -> bool {
        match self {
            Self::Memory { .. } | Self::Cpu { .. } | Self::OpenFiles { .. } | Self::Listen { .. } => true,
            Self::Http(_)
            | Self::Tcp { .. }
            | Self::Exec { .. }
            | Self::Heartbeat { .. }
            | Self::Grpc { .. }
            | Self::Metric(_)
            | Self::Progress(_)
            | Self::LoopLag(_) => false,
        }
    }
}

/// The keys of an `http` check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCheck {
    /// `http://host[:port]/path`, the same with `https`, or `unix:/path:/request`.
    pub url: String,
    /// The file of the only certificates that an `https` server's own may be signed by, absolute; `None`: those that the
    /// system trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// Request method, upper case.
    pub method: String,
    /// Request headers beside `host`, which follows from the address unless it is given here.
    pub headers: BTreeMap<String, String>,
    /// Status codes that pass; at least one.
    pub status: Vec<u16>,
    /// Text that the body must contain.
    pub body_contains: Option<String>,
    /// JSON pointers (RFC 6901) of the body and the values that must stand there, as JSON text.
    pub json: BTreeMap<String, String>,
    /// A right answer later than this is a failure, named slow.
    pub faster_than: Option<Span>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn signals_have_names() {
        assert_eq!(Signal::from_name("SIGTERM"), Some(Signal::TERM));
        assert_eq!(Signal::from_name("kill"), Some(Signal::KILL));
        assert_eq!(Signal::from_name("SIGSIG"), None);
        assert_eq!(Signal(11).to_string(), "SIGSEGV");
        assert_eq!(Signal(40).to_string(), "signal 40");
    }
}
