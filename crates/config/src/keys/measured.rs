//! The keys of the checks of what a service measures of itself.

use super::probed::URL_PATTERN;
use super::{
    CHECK_NAME, CONFIRM, EVERY, FAILURES, HEARTBEAT_FAILURES, KIND, Key, SUCCESSES, Section, Shape, TIMEOUT, Tables,
    key, needed, required,
};
use crate::kinds::{Choice, Duration, Text};
use crate::measured::{Decimal, SeriesText, SourceName};
use crate::text;

/// A check of kind `metric`.
pub(crate) static METRIC: Section = Section {
    title: "a check of kind \"metric\"",
    keys: &[
        &KIND,
        &CHECK_NAME,
        &EVERY,
        &TIMEOUT,
        &FAILURES,
        &SUCCESSES,
        &CONFIRM,
        &METRICS_URL,
        &SERIES,
        &ABOVE,
        &BELOW,
        &INCREASES_WITHIN,
    ],
    planned: &[],
};

const METRICS_URL_EXAMPLE: &str = "url = \"http://127.0.0.1:9100/metrics\"";
const SERIES_EXAMPLE: &str = "metric = \"jobs_waiting\"";
const METRICS_URL_DOC: &str = "Where its metrics are, in the text format of Prometheus: `http://host[:port]/path`, `https://…`, or \
     `unix:/path/of/socket:/request`.";
const SERIES_DOC: &str =
    "Which of them: a name, with its suffix, and the labels that it must have: `jobs_waiting{queue=\"mail\"}`.";

const fn url() -> Text {
    Text { check: text::url, pattern: Some(URL_PATTERN), default: None }
}

pub(crate) static METRICS_URL: Key<Text> = required("url", url(), METRICS_URL_EXAMPLE, METRICS_URL_DOC);
pub(crate) static SERIES: Key<SeriesText> = required("metric", SeriesText, SERIES_EXAMPLE, SERIES_DOC);
pub(crate) static ABOVE: Key<Decimal> = key(
    "above",
    Decimal { default: None },
    "It must be more than this; where several samples are meant, each of them.",
);
pub(crate) static BELOW: Key<Decimal> = key(
    "below",
    Decimal { default: None },
    "It must be less than this; where several samples are meant, each of them.",
);
pub(crate) static INCREASES_WITHIN: Key<Duration> = key(
    "increases_within",
    Duration::positive(None),
    "It must become more within this time; where several samples are meant, their sum.",
);

/// A check of kind `progress`.
pub(crate) static PROGRESS: Section = Section {
    title: "a check of kind \"progress\"",
    keys: &[
        &KIND,
        &CHECK_NAME,
        &EVERY,
        &TIMEOUT,
        &HEARTBEAT_FAILURES,
        &SUCCESSES,
        &CONFIRM,
        &PROGRESS_WITHIN,
        &SOURCE,
        &SOURCE_URL,
        &SOURCE_SERIES,
        &PENDING_TABLE,
    ],
    planned: &[],
};

pub(crate) static PROGRESS_WITHIN: Key<Duration> = required(
    "within",
    Duration::positive(None),
    "within = \"5m\"",
    "The longest time without progress. Only time in which there is work counts, as far as `while_pending` tells.",
);
pub(crate) static SOURCE: Key<Choice<SourceName>> = key(
    "source",
    Choice { of: &[("notify", SourceName::Notify), ("metric", SourceName::Metric)], default: None },
    "`notify`: the service says it on its notify socket. `metric`: it stands among its metrics, at `url`. Default: \
     `metric` if there is a `url`, else `notify`.",
);
pub(crate) static SOURCE_URL: Key<Text> = needed("url", url(), METRICS_URL_EXAMPLE, METRICS_URL_DOC);
pub(crate) static SOURCE_SERIES: Key<SeriesText> = needed("metric", SeriesText, SERIES_EXAMPLE, SERIES_DOC);

pub(crate) static PENDING_TABLE: Tables = Tables {
    name: "while_pending",
    doc: "What tells that there is work: only while it does, no progress is a failure. Default: there always is.",
    shape: Shape::One(&PENDING),
};

/// `while_pending` of a check of kind `progress`.
pub(crate) static PENDING: Section = Section {
    title: "while_pending in a check of kind \"progress\"",
    keys: &[&PENDING_URL, &SERIES, &PENDING_ABOVE],
    planned: &[],
};

pub(crate) static PENDING_URL: Key<Text> = key("url", url(), "Where the metric is. Default: the `url` of the check.");
pub(crate) static PENDING_ABOVE: Key<Decimal> =
    key("above", Decimal { default: Some("0") }, "There is work while the metric is more than this, in any sample.");

/// A check of kind `loop_lag`.
pub(crate) static LOOP_LAG: Section = Section {
    title: "a check of kind \"loop_lag\"",
    keys: &[
        &KIND,
        &CHECK_NAME,
        &EVERY,
        &TIMEOUT,
        &FAILURES,
        &SUCCESSES,
        &CONFIRM,
        &LAG_BELOW,
        &SOURCE,
        &SOURCE_URL,
        &SOURCE_SERIES,
    ],
    planned: &[],
};

pub(crate) static LAG_BELOW: Key<Duration> = required(
    "below",
    Duration::positive(None),
    "below = \"500ms\"",
    "As late fails. A metric has it in seconds; one that says it on its notify socket must do so once in three `every`.",
);
