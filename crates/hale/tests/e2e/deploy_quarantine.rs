//! How long what failed is remembered.

use crate::deploying::{LIVES, PASSES, SERVICE, begin, deploy, release, runs, text};
use crate::harness::Place;
use hale_ledger::{Chain, record};
use serde_json::{Value, json};
use std::fs;

const DAY_US: i64 = 24 * 3_600 * 1_000_000;

/// Puts all times of the wall clock back.
fn earlier(value: &mut Value, by_us: i64) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_i64().filter(|_| key.ends_with("wall_us")) {
                    Some(at) => *value = json!(at - by_us),
                    None => earlier(value, by_us),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| earlier(value, by_us)),
        _ => {}
    }
}

/// Lets so many days go by, while Hale does not run: everything on record is that much older then.
fn wait(place: &Place, days: i64) {
    let segment = place.path("state/ledger/seg/00000000.jsonl");
    let (mut chain, mut older) = (Chain::default(), Vec::new());
    for line in fs::read(&segment).unwrap().split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let mut payload: Value = serde_json::from_slice(record::decode(line).unwrap().payload).unwrap();
        earlier(&mut payload, days * DAY_US);
        chain.append(&serde_json::to_vec(&payload).unwrap(), &mut older).unwrap();
        older.push(b'\n');
    }
    fs::write(&segment, older).unwrap();
    fs::remove_dir_all(place.path("run")).unwrap();
    place.done(&["ledger", "reindex"]);
    place.done(&["ledger", "verify"]);
}

#[test]
fn what_failed_is_refused_for_thirty_days_and_may_be_tried_again_after_that() {
    let place = Place::new();
    let hale = begin(&place, SERVICE);
    release(&place, "good", LIVES, PASSES);
    deploy(&place, "good", 0);
    let good = runs(&place);
    // It is the machine that it needs something from, and that changes.
    release(&place, "bad", &place.text("test -e @D/moon || exit 3; exec sleep 1000"), PASSES);
    deploy(&place, "bad", 4);
    hale.stop();
    wait(&place, 29);
    let hale = place.hale_again();
    hale.event("app", "ready: ");
    let refused = deploy(&place, "bad", 6);
    assert!(text(&refused).contains("it is quarantined, because it is on probation: the process exited with status 3"));
    hale.stop();
    wait(&place, 2);
    let hale = place.hale_again();
    hale.event("app", "ready: ");
    assert_eq!(place.json(&["quarantine", "list"]), json!([]));
    let known = place.json(&["generations", "app"]);
    let quarantined = |one: &Value| !one["quarantined"].is_null();
    assert!(!known["generations"].as_array().unwrap().iter().any(quarantined), "{known}");
    // It fails as before, and that counts from now on.
    deploy(&place, "bad", 4);
    assert_eq!(runs(&place), good);
    deploy(&place, "bad", 6);
    place.write("moon", "");
    let bad = place.json(&["quarantine", "list"])[0]["generation"].as_str().unwrap().to_owned();
    place.done(&["quarantine", "clear", &bad]);
    deploy(&place, "bad", 0);
    assert_eq!(runs(&place), bad);
    hale.stop();
}
