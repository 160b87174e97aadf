//! The hash of a policy: the same for every way of writing the same meaning.

use hale_core::policy::{Policy, PolicyHash};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

/// SHA-256 of `policy` as canonical JSON: no spaces, the keys of objects in the order of their bytes.
///
/// # Errors
///
/// None in practice: every policy has a JSON form.
pub(crate) fn policy_hash(policy: &Policy) -> Result<PolicyHash, serde_json::Error> {
    let mut text = String::new();
    write(&serde_json::to_value(policy)?, &mut text);
    let hex: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(PolicyHash(hex.into()))
}

/// Appends `json` to `out`. Own code, because serde_json's order of keys is a build option of any crate.
fn write(json: &Json, out: &mut String) {
    match json {
        Json::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            out.push('{');
            for (index, (key, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Json::from(key.as_str()).to_string());
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
        Json::Array(list) => {
            out.push('[');
            for (index, value) in list.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(value, out);
            }
            out.push(']');
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => out.push_str(&json.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_text_has_one_form() {
        let json = serde_json::json!({ "b": [1, { "d": null, "c": "x\"\n" }], "a": true, "": {} });
        let mut text = String::new();
        write(&json, &mut text);
        assert_eq!(text, r#"{"":{},"a":true,"b":[1,{"c":"x\"\n","d":null}]}"#);
    }
}
