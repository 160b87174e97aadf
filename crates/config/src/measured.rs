//! The checks of what a service measures of itself: `metric`, `progress`, `loop_lag`.

use crate::diagnostic::{Mistake, Report};
use crate::document::{Item, Value};
use crate::fields::Fields;
use crate::keys::{AnyKey, measured as keys};
use crate::kinds::{Kind, told, wrong_type};
use hale_core::policy::{CheckKind, Figure, LoopLagCheck, MetricCheck, Pending, ProgressCheck, Series, Source};
use hale_core::time::Span;
use serde_json::{Value as Json, json};

/// A finite number, with or without a fraction.
pub(crate) struct Decimal {
    pub default: Option<&'static str>,
}

impl Kind for Decimal {
    type Value = Figure;

    fn read(&self, key: &str, item: &Item, report: &mut Report<'_>) -> Option<Figure> {
        let text = match &item.value {
            Value::Integer(number) => Some(number.to_string()),
            // One way of writing for each number, so that the policy's hash sees no spelling.
            Value::Huge(text) | Value::Float(text) => {
                text.parse::<f64>().ok().filter(|number| number.is_finite()).map(|number| number.to_string())
            }
            Value::Text(_) | Value::Flag(_) | Value::Date | Value::List(_) | Value::Table(_) => None,
        };
        if text.is_none() {
            let help = match &item.value {
                Value::Text(text) if text.parse::<f64>().is_ok() => Some(format!("write {text} without quotes")),
                Value::Text(_)
                | Value::Integer(_)
                | Value::Huge(_)
                | Value::Float(_)
                | Value::Flag(_)
                | Value::Date
                | Value::List(_)
                | Value::Table(_) => Some("for example 100 or 0.5".to_owned()),
            };
            return wrong_type(key, item, "a finite number", help, report);
        }
        text.map(Figure)
    }

    fn default(&self) -> Option<Figure> {
        self.default.map(|text| Figure(text.to_owned()))
    }

    fn schema(&self) -> Json {
        let mut schema = json!({ "type": "number" });
        if let Some(default) = self.default.and_then(|text| text.parse::<i64>().ok()) {
            schema["default"] = default.into();
        }
        schema
    }
}

/// A metric's name, with or without labels.
pub(crate) struct SeriesText;

impl SeriesText {
    fn parse(text: &str) -> Result<Series, Mistake> {
        let help = "write \"jobs_waiting\" or 'jobs_waiting{queue=\"mail\"}'";
        match Series::read(text.trim()) {
            Ok((series, "")) => Ok(series),
            Ok((_, rest)) => Err(Mistake::new(format!("is not a metric: {rest:?} follows it"), help)),
            Err(why) => Err(Mistake::new(format!("is not a metric: {why}"), help)),
        }
    }
}

impl Kind for SeriesText {
    type Value = Series;

    fn read(&self, key: &str, item: &Item, report: &mut Report<'_>) -> Option<Series> {
        match &item.value {
            Value::Text(text) => told(Self::parse(text), key, item, report),
            Value::Integer(_)
            | Value::Huge(_)
            | Value::Float(_)
            | Value::Flag(_)
            | Value::Date
            | Value::List(_)
            | Value::Table(_) => wrong_type(key, item, "a text", None, report),
        }
    }

    fn default(&self) -> Option<Series> {
        None
    }

    fn schema(&self) -> Json {
        json!({ "type": "string", "pattern": r"^\s*[a-zA-Z_:][a-zA-Z0-9_:]*\s*(\{.*\})?\s*$" })
    }
}

/// `source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceName {
    Notify,
    Metric,
}

pub(crate) fn metric(check: &Fields<'_>, report: &mut Report<'_>) -> Option<CheckKind> {
    let url = check.get(&keys::METRICS_URL, report);
    let series = check.get(&keys::SERIES, report);
    let (above, below) = (check.given(&keys::ABOVE, report), check.given(&keys::BELOW, report));
    let increases_within = check.given(&keys::INCREASES_WITHIN, report);
    let bounds = [keys::ABOVE.name, keys::BELOW.name, keys::INCREASES_WITHIN.name];
    if !bounds.iter().any(|name| check.entry(name).is_some()) {
        let message = "a check of kind \"metric\" needs a bound: without one nothing would fail";
        report.error(check.at, message, Some("add `above`, `below` or `increases_within`".to_owned()));
        return None;
    }
    if let (Some(above), Some(below)) = (&above, &below)
        && let (Ok(more), Ok(less)) = (above.0.parse::<f64>(), below.0.parse::<f64>())
        && more >= less
    {
        let message = format!("nothing is above {above} and below {below}");
        let help = "`above` and `below` say what must hold, and both must".to_owned();
        report.error(check.place(keys::BELOW.name), message, Some(help));
        return None;
    }
    Some(CheckKind::Metric(MetricCheck { url: url?, series: series?, above, below, increases_within }))
}

pub(crate) fn progress(check: &Fields<'_>, every: Option<Span>, report: &mut Report<'_>) -> Option<CheckKind> {
    let within = check.get(&keys::PROGRESS_WITHIN, report);
    let source = source(check, report);
    let while_pending = match check.entry(keys::PENDING_TABLE.name()) {
        None => Some(None),
        Some(_) => pending(check, report).map(Some),
    };
    if let (Some(within), Some(every)) = (within, every)
        && within < every
    {
        let message = format!("`within` ({within}) is shorter than `every` ({every}): it is looked at once in {every}");
        report.warning(check.place(keys::PROGRESS_WITHIN.name), message, Some("make `every` shorter".to_owned()));
    }
    Some(CheckKind::Progress(ProgressCheck { within: within?, source: source?, while_pending: while_pending? }))
}

fn pending(check: &Fields<'_>, report: &mut Report<'_>) -> Option<Pending> {
    let fields = check.table(keys::PENDING_TABLE.name(), &keys::PENDING, report);
    let series = fields.get(&keys::SERIES, report);
    let above = fields.get(&keys::PENDING_ABOVE, report);
    let url = match fields.entry(keys::PENDING_URL.name) {
        Some(_) => fields.given(&keys::PENDING_URL, report),
        None => {
            let url = check.entry(keys::SOURCE_URL.name).and_then(|_| check.given(&keys::SOURCE_URL, report));
            if url.is_none() && check.entry(keys::SOURCE_URL.name).is_none() {
                let message = "`url` is missing in `while_pending`: the check itself has none";
                report.error(fields.at, message, Some("add url = \"http://127.0.0.1:9100/metrics\"".to_owned()));
            }
            url
        }
    };
    Some(Pending { url: url?, series: series?, above: above? })
}

pub(crate) fn loop_lag(check: &Fields<'_>, report: &mut Report<'_>) -> Option<CheckKind> {
    let below = check.get(&keys::LAG_BELOW, report);
    let source = source(check, report);
    Some(CheckKind::LoopLag(LoopLagCheck { below: below?, source: source? }))
}

/// Where the figure comes from, which `url` tells, too.
fn source(check: &Fields<'_>, report: &mut Report<'_>) -> Option<Source> {
    let of_metric = [keys::SOURCE_URL.name, keys::SOURCE_SERIES.name];
    let given = of_metric.iter().find(|name| check.entry(name).is_some());
    let named = match check.entry(keys::SOURCE.name) {
        Some(_) => check.given(&keys::SOURCE, report)?,
        None if given.is_some() => SourceName::Metric,
        None => SourceName::Notify,
    };
    match (named, given) {
        (SourceName::Notify, Some(name)) => {
            let message = format!("`{name}` has no effect: the source is \"notify\"");
            report.error(check.place(name), message, Some("use source = \"metric\", or remove it".to_owned()));
            None
        }
        (SourceName::Notify, None) => Some(Source::Notify),
        (SourceName::Metric, _) => {
            let url = check.get(&keys::SOURCE_URL, report);
            let series = check.get(&keys::SOURCE_SERIES, report);
            Some(Source::Metric { url: url?, series: series? })
        }
    }
}
