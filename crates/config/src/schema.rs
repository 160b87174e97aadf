//! The JSON Schema (draft 2020-12) of `hale.toml`, from the table of keys.

use crate::dependencies;
use crate::keys::{self, AnyKey, CheckName, Content, Section, Shape};
use serde_json::{Map, Value as Json, json};

/// The JSON Schema that `hale schema` prints: every key with its meaning, default and form.
///
/// A file that it refuses, [`crate::parse`] refuses too, save that it wants the names of signals in full. The
/// other way round does not hold: what needs more than one key, such as the order of start, only `parse` sees.
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
        Content::Tables(Shape::Checks) => json!({ "type": "array", "items": checks(&CheckName::ALL) }),
        Content::Tables(Shape::OutsideChecks) => {
            let one = checks(&dependencies::KINDS);
            let list = json!({ "type": "array", "items": one, "minItems": 1 });
            json!({ "anyOf": [one, list] })
        }
    };
    schema["description"] = key.doc().into();
    schema
}

/// A check of one of these kinds.
fn checks(kinds: &[(&str, CheckName)]) -> Json {
    let kinds: Vec<Json> = kinds.iter().map(|&(word, kind)| check(word, kind)).collect();
    json!({ "oneOf": kinds })
}

/// One kind of check: its section, with `kind` fixed.
fn check(word: &str, kind: CheckName) -> Json {
    let mut schema = section(kind.section());
    schema["properties"]["kind"] = json!({ "const": word, "description": keys::KIND.doc });
    schema
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    const PAGE: &str = include_str!("../../../docs/configuration.md");

    /// The rows of the table below `heading`: key, and what stands in its column of defaults.
    fn rows(heading: &str) -> BTreeMap<String, String> {
        let below = PAGE.split_once(&format!("# {heading}\n")).unwrap_or_else(|| panic!("no heading {heading}")).1;
        let part = below.split("\n#").next().unwrap_or_default();
        let mut rows = BTreeMap::new();
        for line in part.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.split(" | ").collect();
            assert_eq!(cells.len(), 3, "{line}");
            let key = cells[0].trim_start_matches("| ").trim_matches('`').to_owned();
            assert!(rows.insert(key, cells[1].to_owned()).is_none(), "{line} stands twice");
        }
        rows
    }

    /// Each key of `schema` that `wanted` wants, and what the column of defaults must hold: the value in
    /// backticks, `required`, or (`None`) words.
    fn expected(schema: &Json, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, Option<String>> {
        let required = |key: &str| schema["required"].as_array().is_some_and(|list| list.contains(&key.into()));
        let default = |key: &str, of: &Json| match of.get("default") {
            Some(default) => Some(format!("`{default}`")),
            None => required(key).then(|| "required".to_owned()),
        };
        // Tables below have headings of their own; `crash_loop` can be `false` too, and so has both.
        let checks = |of: &Json| of.pointer("/items/oneOf").is_some() || of.pointer("/anyOf/0/oneOf").is_some();
        let is_table = |of: &Json| of.get("properties").is_some() || checks(of);
        let properties = schema["properties"].as_object().expect("a section has properties");
        let of_interest = properties.iter().filter(|(key, of)| wanted(key) && !is_table(of));
        of_interest.map(|(key, of)| (key.clone(), default(key, of))).collect()
    }

    fn compare(heading: &str, schema: &Json, wanted: impl Fn(&str) -> bool) {
        let rows = rows(heading);
        let expected = expected(schema, wanted);
        let keys = |map: BTreeSet<&String>| map.into_iter().cloned().collect::<Vec<_>>();
        assert_eq!(keys(rows.keys().collect()), keys(expected.keys().collect()), "keys of {heading}");
        for (key, default) in expected {
            match default {
                Some(default) => assert_eq!(rows[&key], default, "default of {key} in {heading}"),
                None => assert!(rows[&key].len() > 3 && rows[&key] != "required", "{key} in {heading}"),
            }
        }
    }

    #[test]
    fn the_page_has_every_key_with_its_default() {
        let schema = schema();
        let service = &schema["properties"]["service"]["additionalProperties"];
        compare("`[host]`", &schema["properties"]["host"], |_| true);
        let timer = &schema["properties"]["host"]["properties"]["hardware_watchdog"];
        compare("`[host.hardware_watchdog]`", timer, |_| true);
        let system = &schema["properties"]["system"]["properties"]["generations"];
        compare("`[system.generations]`", system, |_| true);
        compare("`[service.NAME]`", service, |_| true);
        compare("`[dependency.NAME]`", &schema["properties"]["dependency"]["additionalProperties"], |_| true);
        for table in ["start", "stop", "restart", "log", "generations"] {
            compare(&format!("`[service.NAME.{table}]`"), &service["properties"][table], |_| true);
        }
        compare("`crash_loop`", &service["properties"]["restart"]["properties"]["crash_loop"]["anyOf"][0], |_| true);

        let kinds = service["properties"]["check"]["items"]["oneOf"].as_array().expect("checks have kinds");
        let common = rows("`[[service.NAME.check]]`");
        compare("`[[service.NAME.check]]`", &kinds[0], |key| common.contains_key(key));
        for kind in kinds {
            let differs = |key: &str| kind["properties"][key] != kinds[0]["properties"][key];
            let heading = format!("`{}`", kind["properties"]["kind"]["const"].as_str().expect("a word"));
            compare(&heading, kind, |key| !common.contains_key(key) || (key != "kind" && differs(key)));
            if let Some(pending) = kind["properties"].get("while_pending") {
                compare("`while_pending`", pending, |_| true);
            }
        }
    }

    #[test]
    fn the_page_has_every_planned_key() {
        let rows = PAGE.split_once("# Not there yet").expect("the heading").1;
        let planned: Vec<&str> = keys::ALL.iter().flat_map(|section| section.planned).copied().collect();
        for key in planned.iter() {
            assert!(rows.contains(&format!("`{key}`")), "{key} is missing below \"Not there yet\"");
        }
    }

    #[test]
    fn the_examples_of_the_page_are_good() {
        let mut examples: Vec<String> = Vec::new();
        for (index, part) in PAGE.split("```").enumerate() {
            if index % 2 == 1
                && let Some(example) = part.strip_prefix("toml\n")
            {
                examples.push(example.to_owned());
            }
        }
        assert!(examples.len() >= 12, "only {} examples", examples.len());
        let defaults = crate::HostDefaults { state_dir: "/s".into(), runtime_dir: "/r".into(), log_dir: "/l".into() };
        for example in examples {
            // Examples of one part take the rest of the service from here.
            let needs_service = example.contains("service.bot") && !example.contains("[service.bot]");
            let rest = if needs_service { "[service.bot]\ncommand = [\"bot\"]\n" } else { "" };
            let rest = format!("{rest}[service.database]\ncommand = [\"db\"]\n");
            let files = [("example", example), ("rest", rest)];
            let files = files.map(|(name, text)| crate::Source { name: name.into(), text });
            let outcome = crate::parse(&files, &defaults, "/etc/hale");
            assert!(outcome.as_ref().is_ok_and(|it| it.warnings.is_empty()), "{outcome:#?}");
        }
    }

    #[test]
    fn sections_are_closed_and_described() {
        fn walk(schema: &Json, path: &str) {
            if !schema.is_object() {
                return;
            }
            if let Some(properties) = schema["properties"].as_object() {
                assert_eq!(schema["additionalProperties"], false, "{path}");
                for (key, of) in properties {
                    assert!(of["description"].as_str().is_some_and(|text| text.len() > 8), "{path}.{key}");
                    walk(of, &format!("{path}.{key}"));
                }
            }
            for part in [&schema["additionalProperties"], &schema["items"]] {
                walk(part, path);
            }
            for part in [&schema["oneOf"], &schema["anyOf"]] {
                part.as_array().into_iter().flatten().for_each(|one| walk(one, path));
            }
        }
        walk(&schema(), "");
    }
}
