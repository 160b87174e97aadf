//! One table of the merged document, read by the keys that it may have.

use crate::diagnostic::{Place, Report};
use crate::document::{Entry, Item, Table, Value};
use crate::keys::{self, Key, Section};
use crate::kinds::Kind;

/// A table that was opened with the keys of its section. All messages call it by `path`.
pub(crate) struct Fields<'a> {
    table: &'a Table,
    /// As in the file: `[service.bot.start]`.
    path: String,
    /// Where the table is named, for what is missing in it.
    pub at: Place,
}

impl<'a> Fields<'a> {
    /// Opens `table` and reports every key of it that `section` does not have.
    pub fn open(table: &'a Table, section: &Section, path: String, at: Place, report: &mut Report<'_>) -> Self {
        for (name, entry) in &table.0 {
            if section.keys.iter().any(|key| key.name() == name) {
                continue;
            }
            let (message, help) = if section.planned.contains(&name.as_str()) {
                let message = format!("`{name}` is planned but this version of Hale does not support it yet");
                (message, Some("remove it".to_owned()))
            } else {
                (format!("unknown key `{name}` in {path}"), hint(name, section))
            };
            report.error(entry.key_at, message, help);
        }
        Self { table, path, at }
    }

    /// The value of `key`, else its default. `None`: it is wrong, or missing and needed; `report` has why.
    pub fn get<K: Kind>(&self, key: &Key<K>, report: &mut Report<'_>) -> Option<K::Value> {
        match self.entry(key.name) {
            Some(entry) => key.kind.read(key.name, &entry.item, report),
            None => {
                let default = key.kind.default();
                if default.is_none() {
                    let help = key.example.map(|example| format!("add {example}"));
                    report.error(self.at, format!("`{}` is missing in {}", key.name, self.path), help);
                }
                default
            }
        }
    }

    /// The value of `key` if it is there, and right.
    pub fn given<K: Kind>(&self, key: &Key<K>, report: &mut Report<'_>) -> Option<K::Value> {
        self.entry(key.name).and_then(|entry| key.kind.read(key.name, &entry.item, report))
    }

    /// Opens the table `name`; an empty one when it is left out.
    pub fn table(&self, name: &str, section: &Section, report: &mut Report<'_>) -> Fields<'a> {
        static EMPTY: Table = Table(std::collections::BTreeMap::new());
        let path = self.path_of(name);
        match self.entry(name) {
            None => Fields { table: &EMPTY, path, at: self.at },
            Some(Entry { key_at, item: Item { value: Value::Table(table), .. } }) => {
                Fields::open(table, section, path, *key_at, report)
            }
            Some(Entry { item, .. }) => {
                let message = format!("`{name}` must be a table, not {}", item.value.describe());
                report.error(item.at, message, Some(format!("write {path} and its keys below")));
                Fields { table: &EMPTY, path, at: item.at }
            }
        }
    }

    /// How messages call the table `name` of this one.
    fn path_of(&self, name: &str) -> String {
        match self.path.strip_suffix(']') {
            Some(path) => format!("{path}.{name}]"),
            None => format!("[{name}]"),
        }
    }

    /// The raw entry of `name`.
    pub fn entry(&self, name: &str) -> Option<&'a Entry> {
        self.table.0.get(name)
    }

    /// Where the value of `name` stands; the table's place when it is left out.
    pub fn place(&self, name: &str) -> Place {
        self.entry(name).map_or(self.at, |entry| entry.item.at)
    }
}

/// What an unknown key was probably meant to be.
fn hint(name: &str, section: &Section) -> Option<String> {
    let known = || section.keys.iter().map(|key| key.name());
    if let Some(word) = nearest(name, known()) {
        return Some(format!("did you mean `{word}`?"));
    }
    let has = |other: &&&Section| other.keys.iter().any(|key| key.name() == name);
    if let Some(other) = keys::ALL.iter().find(has) {
        return Some(format!("`{name}` is a key of {}", other.title));
    }
    Some(format!("known here: {}", known().collect::<Vec<_>>().join(", ")))
}

/// The known word that `word` is most likely a typo of: at most one edit for each three letters.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let distance = |other: &str| strsim::damerau_levenshtein(word, other);
    let close = |&(distance, other): &(usize, &str)| distance <= (other.chars().count() / 3).max(1);
    known.into_iter().map(|other| (distance(other), other)).filter(close).min().map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typos_find_their_word_and_other_words_do_not() {
        let known = ["command", "directory", "environment"];
        assert_eq!(nearest("comand", known), Some("command"));
        assert_eq!(nearest("enviroment", known), Some("environment"));
        assert_eq!(nearest("banana", known), None);
    }
}
