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
    let mut text = Vec::new();
    write(&serde_json::to_value(policy)?, &mut text)?;
    let hex: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(PolicyHash(hex.into()))
}

/// Appends `json` to `out`. Own code, because serde_json's order of keys is a build option of any crate.
fn write(json: &Json, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    match json {
        Json::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            out.push(b'{');
            for (index, (key, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                serde_json::to_writer(&mut *out, key)?;
                out.push(b':');
                write(value, out)?;
            }
            out.push(b'}');
        }
        Json::Array(list) => {
            out.push(b'[');
            for (index, value) in list.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(value, out)?;
            }
            out.push(b']');
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => serde_json::to_writer(&mut *out, json)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_text_has_one_form() {
        let json = serde_json::json!({ "b": [1, { "d": null, "c": "x\"\n" }], "a": true, "": {} });
        let mut text = Vec::new();
        write(&json, &mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), r#"{"":{},"a":true,"b":[1,{"c":"x\"\n","d":null}]}"#);
    }
}
