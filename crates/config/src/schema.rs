//! The JSON Schema (draft 2020-12) of `hale.toml`, from the table of keys.

use crate::keys::{self, AnyKey, CheckName, Content, Section, Shape};
use serde_json::{Map, Value as Json, json};

/// The JSON Schema that `hale schema` prints: every key with its meaning, default and form.
///
/// A file that it refuses, [`crate::parse`] refuses too. The other way round does not hold: what needs more
/// than one key at a time, such as the order of start, only `parse` sees.
#[must_use]
pub fn schema() -> Json {
    let mut schema = section(&keys::ROOT);
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "hale.toml".into();
    schema["description"] = "Configuration of Hale.".into();
    schema
}

fn section(section: &Section) -> Json {
    let properties: Map<String, Json> =
        section.keys.iter().map(|key| (key.name().to_owned(), property(*key))).collect();
    let required: Vec<&str> = section.keys.iter().filter(|key| key.is_required()).map(|key| key.name()).collect();
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

fn property(key: &dyn AnyKey) -> Json {
    let mut schema = match key.content() {
        Content::Value(schema) => schema,
        Content::Tables(Shape::One(of)) => section(of),
        Content::Tables(Shape::OneOrFalse(of)) => json!({ "anyOf": [section(of), { "const": false }] }),
        Content::Tables(Shape::Named(of)) => json!({
            "type": "object",
            "propertyNames": { "pattern": keys::NAME_PATTERN },
            "additionalProperties": section(of),
        }),
        Content::Tables(Shape::Checks) => {
            let kinds: Vec<Json> = CheckName::ALL.iter().map(|&(word, kind)| check(word, kind)).collect();
            json!({ "type": "array", "items": { "oneOf": kinds } })
        }
    };
    schema["description"] = key.doc().into();
    schema
}

/// One kind of check: its section, with `kind` fixed.
fn check(word: &str, kind: CheckName) -> Json {
    let mut schema = section(kind.section());
    schema["properties"]["kind"] = json!({ "const": word, "description": keys::KIND.doc });
    schema
}
