//! Checks of what a service measures of itself and gives by its metrics or on its notify socket.

use crate::time::Span;
use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// A bound that a figure is compared with: a finite decimal number as text. The core does not compute with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Figure(pub String);

impl core::fmt::Display for Figure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which samples of a page of metrics are meant: those of this name that have at least these labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Series {
    /// As on the page, with its suffix: `jobs_total`.
    pub name: String,
    /// Label and value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Series {
    /// Reads `name` or `name{label="value",…}` from the beginning of `text`, and returns what follows. Format:
    /// <https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details>.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str) -> Result<(Self, &str), &'static str> {
        let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
        let (name, mut rest) = text.split_at(end);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err("it does not begin with a metric's name");
        }
        let mut series = Self { name: name.to_owned(), labels: BTreeMap::new() };
        let Some(mut inside) = rest.trim_start().strip_prefix('{') else { return Ok((series, rest)) };
        loop {
            inside = inside.trim_start();
            if let Some(after) = inside.strip_prefix('}') {
                rest = after;
                return Ok((series, rest));
            }
            let (label, value) = inside.split_once('=').ok_or("`}` is missing after its labels")?;
            let label = label.trim();
            if label.is_empty() || !label.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err("a label's name has other characters than letters, digits and `_`");
            }
            let value = value.trim_start().strip_prefix('"').ok_or("a label's value stands in double quotes")?;
            let (value, after) = unquoted(value)?;
            if series.labels.insert(label.to_owned(), value).is_some() {
                return Err("a label stands there twice");
            }
            inside = after.trim_start();
            inside = inside.strip_prefix(',').unwrap_or(inside);
        }
    }

    /// Whether a sample of `other` is among those that are meant.
    #[must_use]
    pub fn has(&self, other: &Self) -> bool {
        self.name == other.name && self.labels.iter().all(|(label, value)| other.labels.get(label) == Some(value))
    }
}

impl core::fmt::Display for Series {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.name)?;
        for (at, (label, value)) in self.labels.iter().enumerate() {
            write!(f, "{}{label}={value:?}", if at == 0 { '{' } else { ',' })?;
        }
        if self.labels.is_empty() { Ok(()) } else { f.write_str("}") }
    }
}

/// A label's value up to its closing quote, and what follows that.
fn unquoted(text: &str) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped @ ('\\' | '"'))) => value.push(escaped),
                _ => return Err("in a label's value only \\\\, \\\" and \\n are escapes"),
            },
            c => value.push(c),
        }
    }
    Err("a label's value has no closing quote")
}

/// The keys of a `metric` check; at least one of the three bounds is given, and all that are must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricCheck {
    /// Where the metrics are.
    pub url: String,
    /// Which of them.
    pub series: Series,
    /// As much or less fails, of any of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<Figure>,
    /// As much or more fails, of any of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<Figure>,
    /// Their sum must become more within this time; more than zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub increases_within: Option<Span>,
}

/// The keys of a `progress` check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressCheck {
    /// The longest time without progress; more than zero.
    pub within: Span,
    /// What tells of it.
    pub source: Source,
    /// Without work nothing can progress: only while this holds does the time run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub while_pending: Option<Pending>,
}

/// What tells whether there is work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Where the metrics are.
    pub url: String,
    /// Which of them.
    pub series: Series,
    /// There is work while any of them is more than this.
    pub above: Figure,
}

/// The keys of a `loop_lag` check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopLagCheck {
    /// As late fails; more than zero.
    pub below: Span,
    /// What tells how late.
    pub source: Source,
}

/// Where a figure of a service comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The service says it on its notify socket.
    Notify,
    /// It stands among its metrics.
    Metric {
        /// Where they are.
        url: String,
        /// Which of them.
        series: Series,
    },
}

impl Source {
    /// Where it is asked for, if it is over a connection.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        if let Self::Metric { url, .. } = self { Some(url) } else { None }
    }

    /// Whether it is asked for over a connection.
    #[must_use]
    pub fn is_metric(&self) -> bool {
        matches!(self, Self::Metric { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn series_are_read_with_their_labels() {
        let (series, rest) = Series::read(r#"jobs_total{queue="a\"b\\c\n", state="done",} 12 1700"#).unwrap();
        assert_eq!(rest, " 12 1700");
        assert_eq!(series.labels["queue"], "a\"b\\c\n");
        assert_eq!(series.to_string(), r#"jobs_total{queue="a\"b\\c\n",state="done"}"#);
        assert_eq!(Series::read(&series.to_string()), Ok((series, "")));
        let (bare, rest) = Series::read("up 1").unwrap();
        assert_eq!((bare.to_string().as_str(), rest), ("up", " 1"));
    }

    #[test]
    fn what_is_no_series_is_refused() {
        for text in ["", "1up", "{a=\"b\"}", "a{", "a{b}", "a{b=c}", "a{b=\"c}", "a{b=\"\\t\"}", "a{b=\"c\",b=\"c\"}"] {
            assert!(Series::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_sample_may_have_more_labels_than_are_asked_for() {
        let of = |text| Series::read(text).unwrap().0;
        assert!(of("a{b=\"1\"}").has(&of("a{b=\"1\",c=\"2\"}")));
        assert!(!of("a{b=\"1\"}").has(&of("a{b=\"2\"}")));
        assert!(!of("a{b=\"1\"}").has(&of("a")));
        assert!(!of("a").has(&of("a_total")));
    }
}
