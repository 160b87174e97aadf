//! The keys of the checks that look at the processes of a service.

use super::{
    BYTES_MAX, CHECK_NAME, CONFIRM, EVERY, FAILURES, KIND, Key, MEMORY_LIMIT_MIN, OPEN_FILES_MAX, SUCCESSES, Section,
    TIMEOUT, key, required,
};
use crate::kinds::{Duration, Number, Text};
use crate::listen;
use crate::tree_checks::{MemoryBelow, Percent};
use hale_core::time::Span;

/// The most that a mean can be asked for: a thousand cores.
const CPU_PERCENT_MAX: u32 = 100_000;

/// A check of kind `memory`.
pub(crate) static MEMORY: Section = Section {
    title: "a check of kind \"memory\"",
    keys: &[&KIND, &CHECK_NAME, &EVERY, &TIMEOUT, &FAILURES, &SUCCESSES, &CONFIRM, &MEMORY_BELOW],
    planned: &[],
};

pub(crate) static MEMORY_BELOW: Key<MemoryBelow> = required(
    "below",
    MemoryBelow { min: MEMORY_LIMIT_MIN, max: BYTES_MAX },
    "below = \"80%\"",
    "As much memory fails: a share of `memory_limit`, or a size. Counted is what all processes of the service have of \
     anonymous and shared memory and in swap, not page cache.",
);

/// A check of kind `cpu`.
pub(crate) static CPU: Section = Section {
    title: "a check of kind \"cpu\"",
    keys: &[&KIND, &CHECK_NAME, &EVERY, &TIMEOUT, &FAILURES, &SUCCESSES, &CONFIRM, &CPU_BELOW, &CPU_FOR],
    planned: &[],
};

pub(crate) static CPU_BELOW: Key<Percent> = required(
    "below",
    Percent { min: 1, max: CPU_PERCENT_MAX },
    "below = \"90%\"",
    "A mean of as much of one core fails, for all processes of the service together. \"200%\" are two cores.",
);
pub(crate) static CPU_FOR: Key<Duration> = key(
    "for",
    Duration::positive(Some(Span::from_secs(60))),
    "The time that the mean is taken over. Until a whole one was seen the check passes.",
);

/// A check of kind `open_files`.
pub(crate) static OPEN_FILES: Section = Section {
    title: "a check of kind \"open_files\"",
    keys: &[&KIND, &CHECK_NAME, &EVERY, &TIMEOUT, &FAILURES, &SUCCESSES, &CONFIRM, &OPEN_FILES_BELOW],
    planned: &[],
};

pub(crate) static OPEN_FILES_BELOW: Key<Number> = required(
    "below",
    Number { min: 1, max: OPEN_FILES_MAX, default: None },
    "below = 900",
    "As many descriptors fail, in that process of the service that has most: RLIMIT_NOFILE counts for each process.",
);

/// A check of kind `listen`.
pub(crate) static LISTEN: Section = Section {
    title: "a check of kind \"listen\"",
    keys: &[&KIND, &CHECK_NAME, &EVERY, &TIMEOUT, &FAILURES, &SUCCESSES, &CONFIRM, &LISTEN_ADDRESS],
    planned: &[],
};

pub(crate) static LISTEN_ADDRESS: Key<Text> = required(
    "address",
    Text { check: listen::address, pattern: None, default: None },
    "address = \"127.0.0.1:8080\"",
    "`IPv4:port`, `[IPv6]:port` or `unix:/absolute/path`, at which a process of the service must listen.",
);
