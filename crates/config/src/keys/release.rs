//! The keys of `hale-release.toml`, which a release brings.

use super::{Key, Section, key, needed, text as rule};
use crate::kinds::{Duration, List, Number, Text};
use crate::text;
use hale_core::time::Span;

/// 60 s: a copy of some hundred megabytes, and nobody waits for ever for a program that hangs.
const HOOK_TIMEOUT: Span = Span::from_secs(60);
/// 1 s: less is a typo.
const HOOK_TIMEOUT_MIN: Span = Span::from_secs(1);
/// 1 h: nothing else is done with the service's store meanwhile.
const HOOK_TIMEOUT_MAX: Span = Span::from_secs(3_600);

/// The whole file.
pub(crate) static SECTION: Section = Section {
    title: "hale-release.toml",
    keys: &[&DATA_FORMAT, &MIN_ROLLBACK, &BEFORE_SWITCH, &AFTER_ROLLBACK, &HOOK_TIMEOUT_KEY],
    planned: &[],
};

pub(crate) static DATA_FORMAT: Key<Number> = key(
    "data_format",
    Number { min: 0, max: u32::MAX, default: Some(0) },
    "The newest format of the service's data that the release reads, and the one that it leaves behind.",
);

pub(crate) static MIN_ROLLBACK: Key<Number> = key(
    "min_rollback",
    Number { min: 0, max: u32::MAX, default: Some(0) },
    "The oldest `data_format` of a release that can still read the data once this one has run.",
);

pub(crate) static BEFORE_SWITCH: Key<List<Text>> = needed(
    "before_switch",
    List { of: rule(text::word), non_empty: true, example: r#"["bin/copy-data"]"# },
    r#"before_switch = ["bin/copy-data"]"#,
    "Run before the release is switched to, while the old one still runs.",
);

pub(crate) static AFTER_ROLLBACK: Key<List<Text>> = needed(
    "after_rollback",
    List { of: rule(text::word), non_empty: true, example: r#"["bin/put-data-back"]"# },
    r#"after_rollback = ["bin/put-data-back"]"#,
    "Run when the release was gone back from, before anything else is started.",
);

pub(crate) static HOOK_TIMEOUT_KEY: Key<Duration> = key(
    "hook_timeout",
    Duration { min: HOOK_TIMEOUT_MIN, max: HOOK_TIMEOUT_MAX, default: Some(HOOK_TIMEOUT) },
    "How long each of the two programs may take.",
);
