//! Raw to merged: the files as one tree in which each key and value knows where it stands.

use crate::diagnostic::{Place, Report, Source};
use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub value: Value,
    pub at: Place,
}

/// A value of TOML.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    /// A whole number beyond the 64 bits that TOML promises, as written.
    Huge(String),
    /// As written, without underscores.
    Float(String),
    Flag(bool),
    Date,
    List(Vec<Item>),
    Table(Table),
}

impl Value {
    /// What it is, for messages.
    pub fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("the text {text:?}"),
            Self::Integer(number) => format!("the number {number}"),
            Self::Huge(number) | Self::Float(number) => format!("the number {number}"),
            Self::Flag(flag) => flag.to_string(),
            Self::Date => "a date".to_owned(),
            Self::List(_) => "a list".to_owned(),
            Self::Table(_) => "a table".to_owned(),
        }
    }
}

/// A table's keys.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table(pub BTreeMap<String, Entry>);

/// One key of a table.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Where the key stands first.
    pub key_at: Place,
    pub item: Item,
}

/// Reads all files into one tree; keys defined twice go into `report`, and the first one counts. `None`: the
/// syntax is broken. What follows a broken place is a guess, so only the first in each file is reported.
pub(crate) fn read(sources: &[Source], report: &mut Report<'_>) -> Option<Table> {
    let mut merged = Table::default();
    let mut complete = true;
    for (file, source) in sources.iter().enumerate() {
        let (document, errors) = DeTable::parse_recoverable(&source.text);
        let place = |error: &Error| {
            let span = error.span().unwrap_or(source.text.len()..source.text.len());
            Place { file, start: span.start, end: span.end }
        };
        let (twice, broken): (Vec<_>, Vec<_>) = errors.iter().partition(|error| error.message() == DUPLICATE);
        for error in twice {
            let key = source.text.get(place(error).start..place(error).end).unwrap_or_default();
            let help = "keep one of the two".to_owned();
            report.error(place(error), format!("`{key}` is defined twice"), Some(help));
        }
        // Of two at one place the later is the more exact: values are read after the structure around them.
        if let Some(error) = broken.into_iter().rev().min_by_key(|error| place(error).start) {
            let (message, help) = syntax(error.message(), source.text.get(error.span().unwrap_or_default()));
            report.error(place(error), message, help);
            complete = false;
        }
        merge(&mut merged, table(document.into_inner(), file), "", report);
    }
    complete.then_some(merged)
}

/// How the parser calls a key or table that stands twice in one file; a snapshot notices when that changes.
const DUPLICATE: &str = "duplicate key";

/// The parser's message and, where it is known to mislead, a better one.
fn syntax(message: &str, at: Option<&str>) -> (String, Option<String>) {
    let bare = message.starts_with("string values must be quoted");
    match at {
        Some("") if bare => ("a value is missing after `=`".to_owned(), None),
        Some(word) if bare => {
            (format!("{word:?} is not a value of TOML"), Some(format!("a text needs quotes: {word:?}")))
        }
        Some(_) | None if message.contains("array") => {
            (message.to_owned(), Some("does every list above end with `]`, with commas between its values?".to_owned()))
        }
        Some(_) | None => (message.to_owned(), None),
    }
}

/// Adds `from` to `into`. Tables are joined, lists of tables (`[[...]]`) appended to each other; any other
/// key may stand in one file only.
fn merge(into: &mut Table, from: Table, path: &str, report: &mut Report<'_>) {
    for (name, entry) in from.0 {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let Some(first) = into.0.get_mut(&name) else {
            into.0.insert(name, entry);
            continue;
        };
        match (&mut first.item.value, entry.item.value) {
            (Value::Table(into), Value::Table(from)) => merge(into, from, &path, report),
            (Value::List(into), Value::List(mut from)) if is_tables(into) && is_tables(&from) => into.append(&mut from),
            _ => {
                let help = format!("first defined at {}; keep one of the two", report.position(first.key_at));
                report.error(entry.key_at, format!("`{path}` is defined twice"), Some(help));
            }
        }
    }
}

fn is_tables(list: &[Item]) -> bool {
    !list.is_empty() && list.iter().all(|item| matches!(item.value, Value::Table(_)))
}

fn table(raw: DeTable<'_>, file: usize) -> Table {
    let entry = |(key, value): (Spanned<_>, Spanned<_>)| {
        let key_at = Place { file, start: key.span().start, end: key.span().end };
        let name: std::borrow::Cow<'_, str> = key.into_inner();
        (name.into_owned(), Entry { key_at, item: item(value, file) })
    };
    Table(raw.into_iter().map(entry).collect())
}

fn item(raw: Spanned<DeValue<'_>>, file: usize) -> Item {
    let at = Place { file, start: raw.span().start, end: raw.span().end };
    let value = match raw.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Huge(number.to_string()),
        },
        DeValue::Float(number) => Value::Float(number.as_str().to_owned()),
        DeValue::Boolean(flag) => Value::Flag(flag),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(list) => Value::List(list.into_iter().map(|one| item(one, file)).collect()),
        DeValue::Table(raw) => Value::Table(table(raw, file)),
    };
    Item { value, at }
}
