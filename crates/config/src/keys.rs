//! Every key of `hale.toml`, once: name, meaning, range and default. Reading, the nearest name for a typo, the
//! JSON Schema and the check of docs/configuration.md all come from here and so cannot disagree.

pub(crate) mod generations;
pub(crate) mod measured;
pub(crate) mod probed;
pub(crate) mod release;
pub(crate) mod tree;

use crate::dependencies;
use crate::kinds::{Bytes, Choice, Duration, DurationOrFalse, Flag, Kind, List, Map, Number, SignalName, Text};
use crate::listen::Addresses;
use crate::text;
use hale_core::policy::{
    AsInit, CRASH_LOOP_FAILURES_MAX, HELD_DELAY_MAX, Mode, REBOOTS_PER_DAY_MAX, Ready, Reboot, Signal,
    TIMER_TIMEOUT_MAX, TIMER_TIMEOUT_MIN,
};
use hale_core::time::Span;
use serde_json::Value as Json;

/// A key and what it may hold.
pub(crate) struct Key<K> {
    pub name: &'static str,
    /// What it means, for the schema: sentences for an operator.
    pub doc: &'static str,
    /// Whether it must be there, whatever else is.
    pub required: bool,
    /// How to write it, for keys that must be there, and for those that some other key needs.
    pub example: Option<&'static str>,
    pub kind: K,
}

/// A key that holds tables of its own.
pub(crate) struct Tables {
    pub name: &'static str,
    pub doc: &'static str,
    pub shape: Shape,
}

/// How a key holds tables.
pub(crate) enum Shape {
    /// One table.
    One(&'static Section),
    /// One table, or `false`.
    OneOrFalse(&'static Section),
    /// One table for each name that the operator chose.
    Named(&'static Section),
    /// A list of checks.
    Checks,
    /// One check or a list of them, of things that Hale does not run.
    OutsideChecks,
}

/// A table of known keys.
pub(crate) struct Section {
    /// How messages call it, after "a key of".
    pub title: &'static str,
    pub keys: &'static [&'static dyn AnyKey],
    /// Keys that a later version brings.
    pub planned: &'static [&'static str],
}

/// A key, whatever it holds.
pub(crate) trait AnyKey: Sync {
    fn name(&self) -> &'static str;
    fn doc(&self) -> &'static str;
    fn is_required(&self) -> bool;
    fn content(&self) -> Content<'_>;
}

/// What a key holds, for the schema.
pub(crate) enum Content<'a> {
    Value(Json),
    Tables(&'a Shape),
}

impl<K: Kind + Sync> AnyKey for Key<K> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn doc(&self) -> &'static str {
        self.doc
    }

    fn is_required(&self) -> bool {
        self.required
    }

    fn content(&self) -> Content<'_> {
        Content::Value(self.kind.schema())
    }
}

impl AnyKey for Tables {
    fn name(&self) -> &'static str {
        self.name
    }

    fn doc(&self) -> &'static str {
        self.doc
    }

    fn is_required(&self) -> bool {
        matches!(self.shape, Shape::OutsideChecks)
    }

    fn content(&self) -> Content<'_> {
        Content::Tables(&self.shape)
    }
}

const fn key<K>(name: &'static str, kind: K, doc: &'static str) -> Key<K> {
    Key { name, doc, required: false, example: None, kind }
}

const fn required<K>(name: &'static str, kind: K, example: &'static str, doc: &'static str) -> Key<K> {
    Key { name, doc, required: true, example: Some(example), kind }
}

/// A key that must be there by what another one says.
const fn needed<K>(name: &'static str, kind: K, example: &'static str, doc: &'static str) -> Key<K> {
    Key { name, doc, required: false, example: Some(example), kind }
}

const fn text(check: crate::kinds::Check) -> Text {
    Text { check, pattern: None, default: None }
}

const fn command() -> List<Text> {
    List { of: text(text::word), non_empty: true, example: r#"["bin/bot", "--port", "8080"]"# }
}

/// The smallest bound of a file or a rate: one page, so that a long line of output fits.
const BYTES_MIN: u64 = 4_096;

/// The largest: far beyond any disk, and a thousand of them still fit into 64 bits.
const BYTES_MAX: u64 = 1_000 << 40;

/// Upper bound of counts that have no other: ten thousand of anything in a row is a typo.
const COUNT_MAX: u32 = 10_000;

/// What `fs.nr_open` can be at most (`sysctl_nr_open_max` in the kernel's fs/file.c).
const OPEN_FILES_MAX: u32 = 2_147_483_584;

/// The standard streams, a program's libraries while they load, a log and a few sockets.
const OPEN_FILES_MIN: u32 = 16;

/// With less than this no program gets as far as its own first instruction: the kernel's own structures for a process,
/// the dynamic loader and the C library need more than half of it.
const MEMORY_LIMIT_MIN: u64 = 1 << 20;

/// As many tasks as Linux can have at most (`PID_MAX_LIMIT` on 64 bit, proc_sys_kernel(5)).
const TASKS_LIMIT_MAX: u32 = 4_194_304;

/// The range of `cpu.weight` (<https://docs.kernel.org/admin-guide/cgroup-v2.html>).
const CPU_WEIGHT_MAX: u32 = 10_000;

/// The file as a whole.
pub(crate) static ROOT: Section = Section {
    title: "the top level",
    keys: &[&HOST_TABLE, &SERVICE_TABLE, &SYSTEM_TABLE, &dependencies::TABLE],
    planned: &[],
};

static HOST_TABLE: Tables = Tables { name: "host", doc: "Hale itself.", shape: Shape::One(&HOST) };
static SERVICE_TABLE: Tables = Tables {
    name: "service",
    doc: "The services, by name: lower-case letters, digits and, after the first, `_`, `.` and `-`; at most 63.",
    shape: Shape::Named(&SERVICE),
};

static SYSTEM_TABLE: Tables = Tables { name: "system", doc: "The machine as a whole.", shape: Shape::One(&SYSTEM) };

/// `[host]`.
pub(crate) static HOST: Section = Section {
    title: "[host]",
    keys: &[&STATE_DIR, &RUNTIME_DIR, &LOG_DIR, &MODE, &RESTARTS_IN_FLIGHT, &AS_INIT, &HARDWARE_WATCHDOG_TABLE],
    planned: &[],
};

pub(crate) static STATE_DIR: Key<Text> = key(
    "state_dir",
    text(text::path),
    "Where the ledger is kept. Default: /var/lib/hale for root, else $XDG_STATE_HOME/hale.",
);
pub(crate) static RUNTIME_DIR: Key<Text> = key(
    "runtime_dir",
    text(text::path),
    "Sockets and the runtime journal; best on a tmpfs. Default: /run/hale for root, else $XDG_RUNTIME_DIR/hale, \
     else a private directory.",
);
pub(crate) static LOG_DIR: Key<Text> = key(
    "log_dir",
    text(text::path),
    "Where the services' output is kept. Default: `log` in state_dir when that is set, else /var/log/hale for root.",
);
pub(crate) static MODE: Key<Choice<Mode>> = key(
    "mode",
    Choice { of: &[("heal", Mode::Heal), ("observe", Mode::Observe)], default: Some("heal") },
    "`heal`: decide, record and act. `observe`: start each service once, then decide and record only.",
);
pub(crate) static RESTARTS_IN_FLIGHT: Key<Number> = key(
    "restarts_in_flight",
    Number { min: 1, max: COUNT_MAX, default: Some(16) },
    "How many services may be on their way up again at once after a failure.",
);
pub(crate) static AS_INIT: Key<Choice<AsInit>> = key(
    "as_init",
    Choice {
        of: &[("exit", AsInit::Exit), ("power_off", AsInit::PowerOff), ("reboot", AsInit::Reboot)],
        default: Some("exit"),
    },
    "What follows when Hale, as process 1, has stopped everything in order. `exit` ends a container and powers off a \
     machine, which cannot be without process 1.",
);

static HARDWARE_WATCHDOG_TABLE: Tables = Tables {
    name: "hardware_watchdog",
    doc: "The hardware timer, which resets the machine when the guardian stops petting it. Without this table none is used.",
    shape: Shape::One(&HARDWARE_WATCHDOG),
};

/// `[host.hardware_watchdog]`.
pub(crate) static HARDWARE_WATCHDOG: Section =
    Section { title: "[host.hardware_watchdog]", keys: &[&DEVICE, &TIMER_TIMEOUT, &REQUIRE], planned: &[] };

pub(crate) static DEVICE: Key<Text> = key(
    "device",
    Text { check: text::path, pattern: None, default: Some("/dev/watchdog") },
    "The timer's device. Its driver may be loaded later: Hale waits for it.",
);
pub(crate) static TIMER_TIMEOUT: Key<Duration> = key(
    "timeout",
    Duration { min: TIMER_TIMEOUT_MIN, max: TIMER_TIMEOUT_MAX, default: Some(Span::from_secs(30)) },
    "How long the guardian may be silent before the machine is reset: 3s to 1h. It pets at a third of it.",
);
pub(crate) static REQUIRE: Key<List<Text>> = key(
    "require",
    List { of: text(text::any), non_empty: false, example: r#"["database"]"# },
    "Services without which the machine is useless: when all of them are held or unkillable, Hale reboots it, as far \
     as [system.generations] allows.",
);

/// `[system]`.
pub(crate) static SYSTEM: Section = Section { title: "[system]", keys: &[&SYSTEM_GENERATIONS_TABLE], planned: &[] };

static SYSTEM_GENERATIONS_TABLE: Tables = Tables {
    name: "generations",
    doc: "What Hale may do with the machine as a whole.",
    shape: Shape::One(&SYSTEM_GENERATIONS),
};

/// `[system.generations]`.
pub(crate) static SYSTEM_GENERATIONS: Section =
    Section { title: "[system.generations]", keys: &[&REBOOT, &REBOOTS_PER_DAY], planned: &["store", "rollback"] };

pub(crate) static REBOOT: Key<Choice<Reboot>> = key(
    "reboot",
    Choice { of: &[("never", Reboot::Never), ("auto", Reboot::Auto)], default: Some("never") },
    "`auto`: Hale may reset the machine by the hardware timer when nothing gentler is left. `never`: it pets the timer \
     whatever happens.",
);
pub(crate) static REBOOTS_PER_DAY: Key<Number> = key(
    "reboots_per_day",
    Number { min: 1, max: REBOOTS_PER_DAY_MAX, default: Some(1) },
    "How many resets by the hardware timer within 24 hours `auto` allows.",
);

/// `[service.NAME]`.
pub(crate) static SERVICE: Section = Section {
    title: "[service.NAME]",
    keys: &[
        &COMMAND,
        &DIRECTORY,
        &USER,
        &ENVIRONMENT,
        &ENVIRONMENT_FILES,
        &AFTER,
        &OPEN_FILES_LIMIT,
        &MEMORY_LIMIT,
        &TASKS_LIMIT,
        &CPU_WEIGHT,
        &LISTEN,
        &START_TABLE,
        &STOP_TABLE,
        &RESTART_TABLE,
        &LOG_TABLE,
        &CHECK_TABLES,
        &generations::TABLE,
    ],
    planned: &[],
};

pub(crate) static COMMAND: Key<List<Text>> = required(
    "command",
    command(),
    r#"command = ["bin/bot", "--port", "8080"]"#,
    "Program and arguments, one word each; no shell reads them. A program without a slash is searched in PATH; \
     a relative one with a slash is taken from the current release where the service has releases, else from \
     `directory`.",
);
pub(crate) static DIRECTORY: Key<Text> = key(
    "directory",
    text(text::path),
    "Working directory. A relative one is taken from the directory of the configuration. Default: the current release \
     where the service has releases, else /.",
);
pub(crate) static USER: Key<Text> =
    key("user", text(text::user), "The user to run as, by name. Default: the user that Hale runs as.");
pub(crate) static ENVIRONMENT: Key<Map<Text>> = key(
    "environment",
    Map { name: text::variable, of: text(text::word) },
    "Variables set for the service. The values are texts; nothing is expanded in them.",
);
pub(crate) static ENVIRONMENT_FILES: Key<List<Text>> = key(
    "environment_files",
    List { of: text(text::path), non_empty: false, example: r#"["/etc/bot/env"]"# },
    "Files with NAME=value lines, read at each start. Later files win over earlier ones and over `environment`.",
);
pub(crate) static AFTER: Key<List<Text>> = key(
    "after",
    List { of: text(text::any), non_empty: false, example: r#"["database"]"# },
    "Services that must be ready, and dependencies that must be up, before this one is started. Services are stopped \
     after it.",
);
pub(crate) static OPEN_FILES_LIMIT: Key<Number> = key(
    "open_files_limit",
    Number { min: OPEN_FILES_MIN, max: OPEN_FILES_MAX, default: None },
    "RLIMIT_NOFILE of the service. Default: what Hale itself was started with.",
);
pub(crate) static MEMORY_LIMIT: Key<Bytes> = key(
    "memory_limit",
    Bytes { per_second: false, min: MEMORY_LIMIT_MIN, max: BYTES_MAX, default: None },
    "Memory of all processes of the service, page cache included (`memory.max` of its cgroup): at it the kernel \
     reclaims, and kills what still wants more. Default: no limit.",
);
pub(crate) static TASKS_LIMIT: Key<Number> = key(
    "tasks_limit",
    Number { min: 1, max: TASKS_LIMIT_MAX, default: None },
    "Processes and threads of the service together (`pids.max` of its cgroup); beyond it they cannot be made. \
     Default: no limit.",
);
pub(crate) static CPU_WEIGHT: Key<Number> = key(
    "cpu_weight",
    Number { min: 1, max: CPU_WEIGHT_MAX, default: None },
    "Its share of the processor against other services where there is not enough for all (`cpu.weight` of its \
     cgroup). Default: 100, as for everybody.",
);
pub(crate) static LISTEN: Key<Addresses> = key(
    "listen",
    Addresses,
    "Addresses by name, at most 16, at which Hale listens for the service. Each process of it gets the sockets as \
     systemd passes them (LISTEN_FDS, LISTEN_FDNAMES): clients that come while it restarts wait.",
);

static START_TABLE: Tables =
    Tables { name: "start", doc: "When the service counts as started.", shape: Shape::One(&START) };
static STOP_TABLE: Tables = Tables { name: "stop", doc: "How it is stopped.", shape: Shape::One(&STOP) };
static RESTART_TABLE: Tables =
    Tables { name: "restart", doc: "When and how often it is started again.", shape: Shape::One(&RESTART) };
static LOG_TABLE: Tables = Tables { name: "log", doc: "Bounds of its output.", shape: Shape::One(&LOG) };
static CHECK_TABLES: Tables =
    Tables { name: "check", doc: "What tells whether it works: one table each.", shape: Shape::Checks };

/// `[service.NAME.start]`.
pub(crate) static START: Section =
    Section { title: "[service.NAME.start]", keys: &[&READY, &START_WITHIN], planned: &[] };

pub(crate) static READY: Key<Choice<Ready>> = key(
    "ready",
    Choice { of: &[("running", Ready::Running), ("notify", Ready::Notify), ("check", Ready::Check)], default: None },
    "What makes it ready. `running`: its program was executed. `notify`: it said READY=1 on its notify socket. \
     `check`: all of its checks pass. Default: `check` if it has checks, else `running`.",
);
pub(crate) static START_WITHIN: Key<Duration> = key(
    "within",
    Duration::positive(Some(Span::from_secs(30))),
    "How long it may take to become ready; longer is a failure.",
);

/// `[service.NAME.stop]`.
pub(crate) static STOP: Section = Section { title: "[service.NAME.stop]", keys: &[&SIGNAL, &GRACE], planned: &[] };

pub(crate) static SIGNAL: Key<SignalName> =
    key("signal", SignalName { default: Signal::TERM }, "The first signal, sent to every process of the service.");
pub(crate) static GRACE: Key<Duration> = key(
    "grace",
    Duration::any(Span::from_secs(10)),
    "How long the service may take to end before SIGKILL. Zero: SIGKILL at once.",
);

/// `[service.NAME.restart]`.
pub(crate) static RESTART: Section = Section {
    title: "[service.NAME.restart]",
    keys: &[
        &FIRST_DELAY,
        &DELAY,
        &MAX_DELAY,
        &HEALTHY_AFTER,
        &CRASH_LOOP_TABLE,
        &HELD_DELAY,
        &ON_SUCCESS,
        &BEFORE_LIMIT,
    ],
    planned: &[],
};

pub(crate) static FIRST_DELAY: Key<Duration> =
    key("first_delay", Duration::any(Span::ZERO), "Delay of the first restart after a healthy time.");
pub(crate) static DELAY: Key<Duration> = key(
    "delay",
    Duration::any(Span::from_ms(100)),
    "Delay of the second restart. It doubles from there, with jitter, and never gives up.",
);
pub(crate) static MAX_DELAY: Key<Duration> =
    key("max_delay", Duration::any(Span::from_secs(30)), "The longest delay; at least `delay`.");
pub(crate) static HEALTHY_AFTER: Key<Duration> = key(
    "healthy_after",
    Duration::positive(Some(Span::from_secs(60))),
    "This long without a failure resets delays and counters.",
);
pub(crate) static CRASH_LOOP_TABLE: Tables = Tables {
    name: "crash_loop",
    doc: "When quick restarts are given up and the service is held. Exits, failed checks and start time-outs count \
          alike. `false`: never.",
    shape: Shape::OneOrFalse(&CRASH_LOOP),
};
pub(crate) static HELD_DELAY: Key<Duration> = key(
    "held_delay",
    Duration { min: Span::from_us(1), max: HELD_DELAY_MAX, default: Some(Span::from_secs(300)) },
    "First delay between two tries while held; it doubles up to 1h. At most 1h.",
);
pub(crate) static ON_SUCCESS: Key<Flag> =
    key("on_success", Flag { default: true }, "Whether exit status 0 is a failure too.");

pub(crate) static BEFORE_LIMIT: Key<DurationOrFalse> = key(
    "before_limit",
    DurationOrFalse,
    "How long before memory or descriptors grow to the bound of their check a service that works is started anew. \
     `false`: it is not.",
);

/// `crash_loop` of `[service.NAME.restart]`.
pub(crate) static CRASH_LOOP: Section = Section {
    title: "crash_loop in [service.NAME.restart]",
    keys: &[&CRASH_LOOP_FAILURES, &CRASH_LOOP_WITHIN],
    planned: &[],
};

pub(crate) static CRASH_LOOP_FAILURES: Key<Number> = key(
    "failures",
    Number { min: 1, max: CRASH_LOOP_FAILURES_MAX, default: Some(5) },
    "This many failures within the time below are a crash loop.",
);
pub(crate) static CRASH_LOOP_WITHIN: Key<Duration> =
    key("within", Duration::positive(Some(Span::from_secs(60))), "The time in which failures are counted.");

/// `[service.NAME.log]`.
pub(crate) static LOG: Section =
    Section { title: "[service.NAME.log]", keys: &[&MAX_SIZE, &KEEP, &RATE], planned: &[] };

pub(crate) static MAX_SIZE: Key<Bytes> = key(
    "max_size",
    Bytes { per_second: false, min: BYTES_MIN, max: BYTES_MAX, default: Some(64 << 20) },
    "Size of one file at which it is rotated; at least 4KiB.",
);
pub(crate) static KEEP: Key<Number> = key(
    "keep",
    Number { min: 0, max: 1_000, default: Some(8) },
    "How many rotated files are kept beside the current one.",
);
pub(crate) static RATE: Key<Bytes> = key(
    "rate",
    Bytes { per_second: true, min: BYTES_MIN, max: BYTES_MAX, default: Some(16 << 20) },
    "Above this rate output is drained and counted, never blocking the service; at least 4KiB/s.",
);

/// The kinds of check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckName {
    Http,
    Tcp,
    Exec,
    Heartbeat,
    Memory,
    Cpu,
    OpenFiles,
    Listen,
    Grpc,
    Metric,
    Progress,
    LoopLag,
}

impl CheckName {
    /// All of them, with their words.
    pub const ALL: [(&'static str, Self); 12] = [
        ("http", Self::Http),
        ("tcp", Self::Tcp),
        ("exec", Self::Exec),
        ("heartbeat", Self::Heartbeat),
        ("memory", Self::Memory),
        ("cpu", Self::Cpu),
        ("open_files", Self::OpenFiles),
        ("listen", Self::Listen),
        ("grpc", Self::Grpc),
        ("metric", Self::Metric),
        ("progress", Self::Progress),
        ("loop_lag", Self::LoopLag),
    ];

    /// The keys of a check of this kind.
    pub fn section(self) -> &'static Section {
        match self {
            Self::Http => &probed::HTTP,
            Self::Tcp => &probed::TCP,
            Self::Exec => &probed::EXEC,
            Self::Heartbeat => &probed::HEARTBEAT,
            Self::Memory => &tree::MEMORY,
            Self::Cpu => &tree::CPU,
            Self::OpenFiles => &tree::OPEN_FILES,
            Self::Listen => &tree::LISTEN,
            Self::Grpc => &probed::GRPC,
            Self::Metric => &measured::METRIC,
            Self::Progress => &measured::PROGRESS,
            Self::LoopLag => &measured::LOOP_LAG,
        }
    }
}

/// `kind`, which decides what the other keys are.
pub(crate) static KIND: Key<Choice<CheckName>> =
    required("kind", Choice { of: &CheckName::ALL, default: None }, "kind = \"http\"", "What is probed.");

pub(crate) static CHECK_NAME: Key<Text> = key(
    "name",
    Text { check: text::any, pattern: Some(NAME_PATTERN), default: None },
    "Its name, unique within the service. Default: its kind, with a number where that is taken.",
);

/// What [`hale_core::ids::Name`] accepts.
pub(crate) const NAME_PATTERN: &str = "^[a-z0-9][a-z0-9_.-]{0,62}$";

pub(crate) static EVERY: Key<Duration> = key(
    "every",
    Duration::positive(Some(Span::from_secs(2))),
    "Time from the start of one probe to the start of the next. At most one is in flight.",
);
pub(crate) static TIMEOUT: Key<Duration> = key(
    "timeout",
    Duration::positive(Some(Span::from_secs(1))),
    "Deadline of the whole probe, however far it got. May be longer than `every`.",
);
pub(crate) static FAILURES: Key<Number> =
    key("failures", Number { min: 1, max: COUNT_MAX, default: Some(3) }, "Consecutive failures that make Hale act.");
/// A missed promise counts at once, as with systemd's WatchdogSec.
pub(crate) static HEARTBEAT_FAILURES: Key<Number> = key(
    "failures",
    Number { min: 1, max: COUNT_MAX, default: Some(1) },
    "How often in a row `every` must pass without a sign, after the first miss, to make Hale act.",
);
pub(crate) static CONFIRM: Key<List<Text>> = key(
    "confirm",
    List { of: text(text::any), non_empty: false, example: r#"["tcp"]"# },
    "Names of other checks of this service: before a failure of this one leads to anything, each of them is probed, and all must \
     fail, too. Needs `failures` of at least 2.",
);
pub(crate) static SUCCESSES: Key<Number> = key(
    "successes",
    Number { min: 1, max: COUNT_MAX, default: Some(1) },
    "Consecutive successes that make it healthy again.",
);

/// All sections, to tell where a key that stands in the wrong one belongs.
pub(crate) static ALL: [&Section; 26] = [
    &ROOT,
    &HOST,
    &HARDWARE_WATCHDOG,
    &SYSTEM,
    &SYSTEM_GENERATIONS,
    &SERVICE,
    &START,
    &STOP,
    &RESTART,
    &CRASH_LOOP,
    &LOG,
    &generations::SECTION,
    &dependencies::SECTION,
    &probed::HTTP,
    &probed::TCP,
    &probed::EXEC,
    &probed::HEARTBEAT,
    &tree::MEMORY,
    &tree::CPU,
    &tree::OPEN_FILES,
    &tree::LISTEN,
    &probed::GRPC,
    &measured::METRIC,
    &measured::PROGRESS,
    &measured::PENDING,
    &measured::LOOP_LAG,
];
