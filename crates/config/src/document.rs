//! Raw to merged: the files as one tree in which each key and value knows where it stands.

use crate::diagnostic::{Place, Report, Source};
use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

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
    /// At most `i128`: larger ones are out of every range.
    Integer(i128),
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
            Self::Float(number) => format!("the number {number}"),
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

/// Reads all files into one tree. Broken syntax and keys defined twice go into `report`.
pub(crate) fn read(sources: &[Source], report: &mut Report<'_>) -> Table {
    let mut merged = Table::default();
    for (file, source) in sources.iter().enumerate() {
        let (document, errors) = DeTable::parse_recoverable(&source.text);
        for error in errors {
            let span = error.span().unwrap_or(source.text.len()..source.text.len());
            report.error(Place { file, start: span.start, end: span.end }, error.message(), None);
        }
        merge(&mut merged, table(document.into_inner(), file), "", report);
    }
    merged
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
        DeValue::Integer(number) => {
            Value::Integer(i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX))
        }
        DeValue::Float(number) => Value::Float(number.as_str().to_owned()),
        DeValue::Boolean(flag) => Value::Flag(flag),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(list) => Value::List(list.into_iter().map(|one| item(one, file)).collect()),
        DeValue::Table(raw) => Value::Table(table(raw, file)),
    };
    Item { value, at }
}
