//! What a key may hold: how each kind of value is read, what it is when it is left out, and its JSON Schema.

use crate::diagnostic::{Mistake, Report};
use crate::document::{Item, Value};
use crate::{fields::nearest, units};
use hale_core::policy::Signal;
use hale_core::time::Span;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

/// Any text that stands where a text may: what it becomes, or why it is wrong.
pub(crate) type Check = fn(&str) -> Result<String, Mistake>;

/// A kind of value.
pub(crate) trait Kind {
    /// What it is read as.
    type Value;

    /// Reads `item`, the value of the key that messages call `key`. `None`: it was wrong, and `report` has why.
    fn read(&self, key: &str, item: &Item, report: &mut Report<'_>) -> Option<Self::Value>;

    /// What it is when the key is left out.
    fn default(&self) -> Option<Self::Value>;

    /// JSON Schema of the value, with `default` where there is one.
    fn schema(&self) -> Json;
}

/// Reports that `item` is not `wanted`.
pub(crate) fn wrong_type<T>(
    key: &str,
    item: &Item,
    wanted: &str,
    help: Option<String>,
    report: &mut Report<'_>,
) -> Option<T> {
    report.error(item.at, format!("`{key}` must be {wanted}, not {}", item.value.describe()), help);
    None
}

/// Reports the mistake of `outcome`, if it is one.
pub(crate) fn told<T>(outcome: Result<T, Mistake>, key: &str, item: &Item, report: &mut Report<'_>) -> Option<T> {
    outcome.map_err(|mistake| report.mistake(item.at, key, mistake)).ok()
}

/// `true` or `false`.
pub(crate) struct Flag {
    pub default: bool,
}

impl Kind for Flag {
    type Value = bool;

    fn read(&self, key: &str, item: &Item, report: &mut Report<'_>) -> Option<bool> {
        if let Value::Flag(flag) = item.value {
            return Some(flag);
        }
        wrong_type(key, item, "true or false", None, report)
    }

    fn default(&self) -> Option<bool> {
        Some(self.default)
    }

    fn schema(&self) -> Json {
        json!({ "type": "boolean", "default": self.default })
    }
}

/// A whole number.
pub(crate) struct Number {
    pub min: u32,
    pub max: u32,
    pub default: Option<u32>,
}

impl Kind for Number {
    type Value = u32;

    fn read(&self, key: &str, item: &Item, report: &mut Report<'_>) -> Option<u32> {
        if let Value::Integer(number) = item.value
            && let Some(number) = u32::try_from(number).ok().filter(|number| (self.min..=self.max).contains(number))
        {
            return Some(number);
        }
        let mut help = None;
        if let Value::Text(text) = &item.value
            && let Ok(number) = text.parse::<u32>()
        {
            help = Some(format!("write {number} without quotes"));
        }
        let wanted = format!("a whole number from {} to {}", self.min, self.max);
        wrong_type(key, item, &wanted, help, report)
    }

    fn default(&self) -> Option<u32> {
        self.default
    }

    fn schema(&self) -> Json {
        let mut schema = json!({ "type": "integer", "minimum": self.min, "maximum": self.max });
        if let Some(default) = self.default {
            schema["default"] = default.into();
        }
        schema
    }
}

/// A length of time, as text with units.
pub(crate) struct Duration {
    pub min: Span,
    pub max: Span,
    pub default: Option<Span>,
}

impl Duration {
    /// Zero is allowed.
    pub const fn any(default: Span) -> Self {
        Self { min: Span::ZERO, max: units::DURATION_MAX, default: Some(default) }
    }

    /// Zero would mean "never" or "always" to some and nothing sensible to Hale.
    pub const fn positive(default: Option<Span>) -> Self {
        Self { min: Span::from_us(1), max: units::DURATION_MAX, default }
    }

    fn in_range(&self, span: Span) -> Result<Span, Mistake> {
        if span == Span::ZERO && self.min > Span::ZERO {
            Err(Mistake::plain("must be longer than zero"))
        } else if span < self.min {
            Err(Mistake::plain(format!("must be at least {}", units::duration_text(self.min))))
        } else if span > self.max {
            Err(Mistake::plain(format!("must be at most {}", units::duration_text(self.max))))
        } else {
            Ok(span)
        }
    }
}

impl Kind for Duration {
    type Value = Span;

    fn read(&self, key: &str, item: &Item, report: &mut Report<'_>) -> Option<Span> {
        let help = match &item.value {
            Value::Text(text) => {
                let span = units::duration(text).and_then(|span| self.in_range(span));
                return told(span, key, item, report);
            }
            Value::Integer(number) => format!("add a unit: \"{number}s\" or \"{number}ms\""),
            Value::Float(number) => format!("add a unit: \"{number}s\""),
            Value::Huge(_) | Value::Flag(_) | Value::Date | Value::List(_) | Value::Table(_) => {
                "for example \"30s\"".to_owned()
            }
        };
        wrong_type(key, item, "a duration in quotes", Some(help), report)
    }

    fn default(&self) -> Option<Span> {
        self.default
    }

    fn schema(&self) -> Json {
        let mut schema = json!({
            "type": "string",
            "pattern": r"^\s*([0-9]+(\.[0-9]+)?\s*(d|h|m|s|ms|us)\s*)+$",
            "examples": ["500ms", "2s", "1m 30s"],
        });
        if let Some(default) = self.default {
            schema["default"] = units::duration_text(default).into();
        }
        schema
    }
}

/// A length of time, or `false` for none, which is the default.
pub(crate) struct DurationOrFalse;

impl DurationOrFalse {
    const SPAN: Duration = Duration::positive(None);
}

impl Kind for DurationOrFalse {
    type Value = Option<Span>;

    fn read(&self, key: &str, item: &Item, report: &mut Report<'_>) -> Option<Option<Span>> {
        match item.value {
            Value::Flag(false) => Some(None),
            Value::Flag(true) => {
                wrong_type(key, item, "a duration in quotes or false", Some("for example \"10m\"".to_owned()), report)
            }
            Value::Text(_)
            | Value::Integer(_)
            | Value::Huge(_)
            | Value::Float(_)
            | Value::Date
            | Value::List(_)
            | Value::Table(_) => Self::SPAN.read(key, item, report).map(Some),
        }
    }

    fn default(&self) -> Option<Option<Span>> {
        Some(None)
    }

    fn schema(&self) -> Json {
        json!({ "anyOf": [Self::SPAN.schema(), { "const": false }], "default": false })
    }
}

/// A number of bytes or, with `per_second`, a rate; as text with a unit.
pub(crate) struct Bytes {
    pub per_second: bool,
    pub min: u64,
    pub max: u64,
    /// What it is when it is left out; `None`: nothing.
    pub default: Option<u64>,
}

/// What messages show where there is no default.
const SIZE_EXAMPLE: u64 = 512 << 20;

impl Bytes {
    fn text(&self, bytes: u64) -> String {
        format!("{}{}", units::size_text(bytes), if self.per_second { "/s" } else { "" })
    }

    fn in_range(&self, bytes: u64) -> Result<u64, Mistake> {
        if bytes < self.min {
            Err(Mistake::plain(format!("must be at least {}", self.text(self.min))))
        } else if bytes > self.max {
            Err(Mistake::plain(format!("must be at most {}", self.text(self.max))))
        } else {
            Ok(bytes)
        }
    }
}

impl Kind for Bytes {
    type Value = u64;

    fn read(&self, key: &str, item: &Item, report: &mut Report<'_>) -> Option<u64> {
        if let Value::Text(text) = &item.value {
            let bytes = if self.per_second { units::rate(text) } else { units::size(text) };
            return told(bytes.and_then(|bytes| self.in_range(bytes)), key, item, report);
        }
        let help = format!("for example {:?}", self.text(self.default.unwrap_or(SIZE_EXAMPLE)));
        let wanted = if self.per_second { "a rate in quotes" } else { "a size in quotes" };
        wrong_type(key, item, wanted, Some(help), report)
    }

    fn default(&self) -> Option<u64> {
        self.default
    }

    fn schema(&self) -> Json {
        let per_second = if self.per_second { "/s" } else { "" };
        let pattern = format!(r"^\s*[0-9]+(\.[0-9]+)?\s*(B|[KMGT]iB|[kKMGT]B)\s*{per_second}\s*$");
        let mut schema = json!({ "type": "string", "pattern": pattern });
        if let Some(default) = self.default {
            schema["default"] = self.text(default).into();
        }
        schema
    }
}

/// One of a few words.
pub(crate) struct Choice<T: 'static> {
    pub of: &'static [(&'static str, T)],
    /// One of the words; `None`: it depends on other keys.
    pub default: Option<&'static str>,
}

impl<T: Copy> Kind for Choice<T> {
    type Value = T;

    fn read(&self, key: &str, item: &Item, report: &mut Report<'_>) -> Option<T> {
        let words: Vec<&str> = self.of.iter().map(|(word, _)| *word).collect();
        let listed = words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        let Value::Text(text) = &item.value else {
            return wrong_type(key, item, &format!("one of {listed}"), None, report);
        };
        let chosen = self.of.iter().find(|(word, _)| word == text);
        if chosen.is_none() {
            let help = nearest(text, words).map(|word| format!("did you mean {word:?}?"));
            report.error(item.at, format!("`{key}` must be one of {listed}, not {text:?}"), help);
        }
        chosen.map(|(_, meaning)| *meaning)
    }

    fn default(&self) -> Option<T> {
        self.of.iter().find(|(word, _)| Some(*word) == self.default).map(|(_, meaning)| *meaning)
    }

    fn schema(&self) -> Json {
        let words: Vec<_> = self.of.iter().map(|(word, _)| *word).collect();
        let mut schema = json!({ "type": "string", "enum": words });
        if let Some(default) = self.default {
            schema["default"] = default.into();
        }
        schema
    }
}

/// A text with rules of its own.
pub(crate) struct Text {
    pub check: Check,
    /// JSON Schema's view of the rules, which may be wider.
    pub pattern: Option<&'static str>,
    pub default: Option<&'static str>,
}

impl Kind for Text {
    type Value = String;

    fn read(&self, key: &str, item: &Item, report: &mut Report<'_>) -> Option<String> {
        let help = match &item.value {
            Value::Text(text) => return told((self.check)(text), key, item, report),
            Value::Integer(number) => Some(format!("put it in quotes: \"{number}\"")),
            Value::Huge(number) | Value::Float(number) => Some(format!("put it in quotes: \"{number}\"")),
            Value::Flag(flag) => Some(format!("put it in quotes: \"{flag}\"")),
            Value::Date | Value::List(_) | Value::Table(_) => None,
        };
        wrong_type(key, item, "a text", help, report)
    }

    fn default(&self) -> Option<String> {
        self.default.map(str::to_owned)
    }

    fn schema(&self) -> Json {
        let mut schema = json!({ "type": "string" });
        if let Some(pattern) = self.pattern {
            schema["pattern"] = pattern.into();
        }
        if let Some(default) = self.default {
            schema["default"] = default.into();
        }
        schema
    }
}

/// A signal by name.
pub(crate) struct SignalName {
    pub default: Signal,
}

impl Kind for SignalName {
    type Value = Signal;

    fn read(&self, key: &str, item: &Item, report: &mut Report<'_>) -> Option<Signal> {
        let Value::Text(text) = &item.value else {
            let mut help = None;
            if let Value::Integer(number @ 1..=31) = item.value {
                help = i32::try_from(number).ok().map(|number| format!("write \"{}\"", Signal(number)));
            }
            return wrong_type(key, item, "a signal's name in quotes", help, report);
        };
        let signal = Signal::from_name(text);
        if signal.is_none() {
            let wanted = text.to_ascii_uppercase();
            let wanted = if wanted.starts_with("SIG") { wanted } else { format!("SIG{wanted}") };
            let help = nearest(&wanted, Signal::names()).map(|name| format!("did you mean {name:?}?"));
            report.error(item.at, format!("`{key}`: there is no signal called {text:?}"), help);
        }
        signal
    }

    fn default(&self) -> Option<Signal> {
        Some(self.default)
    }

    fn schema(&self) -> Json {
        json!({ "type": "string", "enum": Signal::names().collect::<Vec<_>>(), "default": self.default.to_string() })
    }
}

/// A list of any length of one kind.
pub(crate) struct List<K> {
    pub of: K,
    /// A list that must have something in it has no default.
    pub non_empty: bool,
    /// What a single value would look like as a list, for those who forgot the brackets.
    pub example: &'static str,
}

impl<K: Kind> Kind for List<K> {
    type Value = Vec<K::Value>;

    fn read(&self, key: &str, item: &Item, report: &mut Report<'_>) -> Option<Self::Value> {
        let Value::List(list) = &item.value else {
            let help = match &item.value {
                Value::Text(text) => {
                    let words: Vec<String> = text.split_whitespace().map(|word| format!("{word:?}")).collect();
                    format!("write [{}]", words.join(", "))
                }
                Value::Integer(number) => format!("write [{number}]"),
                Value::Huge(_) | Value::Float(_) | Value::Flag(_) | Value::Date | Value::List(_) | Value::Table(_) => {
                    format!("for example {}", self.example)
                }
            };
            return wrong_type(key, item, "a list", Some(help), report);
        };
        if list.is_empty() && self.non_empty {
            report.error(item.at, format!("`{key}` is empty"), Some(format!("for example {}", self.example)));
            return None;
        }
        // Reads all of them before it gives up, to tell all mistakes.
        let all: Vec<_> = list.iter().map(|one| self.of.read(key, one, report)).collect();
        all.into_iter().collect()
    }

    fn default(&self) -> Option<Self::Value> {
        if self.non_empty { None } else { Some(Vec::new()) }
    }

    fn schema(&self) -> Json {
        let items = self.of.schema();
        if self.non_empty {
            json!({ "type": "array", "items": items, "minItems": 1 })
        } else {
            json!({ "type": "array", "items": items, "default": [] })
        }
    }
}

/// Status codes of HTTP (RFC 9110, section 15), sorted, each once.
pub(crate) struct StatusCodes;

impl StatusCodes {
    const ONE: Number = Number { min: 100, max: 599, default: None };
}

impl Kind for StatusCodes {
    type Value = Vec<u16>;

    fn read(&self, key: &str, item: &Item, report: &mut Report<'_>) -> Option<Vec<u16>> {
        let list = List { of: Self::ONE, non_empty: true, example: "[200]" }.read(key, item, report)?;
        let mut codes: Vec<u16> = list.into_iter().filter_map(|code| u16::try_from(code).ok()).collect();
        codes.sort_unstable();
        codes.dedup();
        Some(codes)
    }

    fn default(&self) -> Option<Vec<u16>> {
        Some(vec![200])
    }

    fn schema(&self) -> Json {
        json!({ "type": "array", "items": Self::ONE.schema(), "minItems": 1, "default": [200] })
    }
}

/// A table whose keys are names of the operator's own.
pub(crate) struct Map<K> {
    pub name: Check,
    pub of: K,
}

impl<K: Kind> Kind for Map<K> {
    type Value = BTreeMap<String, K::Value>;

    fn read(&self, key: &str, item: &Item, report: &mut Report<'_>) -> Option<Self::Value> {
        let Value::Table(table) = &item.value else {
            return wrong_type(key, item, "a table", None, report);
        };
        let mut map = BTreeMap::new();
        let mut complete = true;
        for (name, entry) in &table.0 {
            let value = self.of.read(&format!("{key}.{name}"), &entry.item, report);
            match ((self.name)(name), value) {
                (Ok(name), Some(value)) if !map.contains_key(&name) => {
                    map.insert(name, value);
                }
                (Ok(name), Some(_)) => {
                    report.error(entry.key_at, format!("`{key}` has {name:?} twice"), None);
                    complete = false;
                }
                (Err(mistake), _) => {
                    report.error(entry.key_at, format!("{name:?} in `{key}` {}", mistake.problem), mistake.help);
                    complete = false;
                }
                (Ok(_), None) => complete = false,
            }
        }
        complete.then_some(map)
    }

    fn default(&self) -> Option<Self::Value> {
        Some(BTreeMap::new())
    }

    fn schema(&self) -> Json {
        json!({ "type": "object", "additionalProperties": self.of.schema(), "default": {} })
    }
}

/// Any value of TOML that JSON has too, as JSON text.
pub(crate) struct AnyJson;

impl AnyJson {
    fn convert(key: &str, item: &Item, report: &mut Report<'_>) -> Option<Json> {
        Some(match &item.value {
            Value::Text(text) => Json::String(text.clone()),
            Value::Flag(flag) => Json::Bool(*flag),
            Value::Integer(number) => (*number).into(),
            Value::Huge(_) => return wrong_type(key, item, "a number of at most 64 bits", None, report),
            // An infinity or "not a number" becomes `null` here: JSON has neither (RFC 8259, section 6).
            Value::Float(text) => match text.parse().map_or(Json::Null, |number: f64| number.into()) {
                Json::Null => return wrong_type(key, item, "a value that JSON has", None, report),
                number => number,
            },
            Value::Date => {
                let help = Some("JSON has no dates: compare with a text in quotes".to_owned());
                return wrong_type(key, item, "a value that JSON has", help, report);
            }
            Value::List(list) => {
                Json::Array(list.iter().map(|one| Self::convert(key, one, report)).collect::<Option<_>>()?)
            }
            Value::Table(table) => {
                let pair = |(name, entry): (&String, &crate::document::Entry)| {
                    Some((name.clone(), Self::convert(key, &entry.item, report)?))
                };
                Json::Object(table.0.iter().map(pair).collect::<Option<_>>()?)
            }
        })
    }
}

impl Kind for AnyJson {
    type Value = String;

    fn read(&self, key: &str, item: &Item, report: &mut Report<'_>) -> Option<String> {
        Self::convert(key, item, report).map(|json| json.to_string())
    }

    fn default(&self) -> Option<String> {
        None
    }

    fn schema(&self) -> Json {
        json!({})
    }
}
