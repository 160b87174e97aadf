//! `hale explain`: each decision follows from what is on record with it, and where it does not, that is found.

use crate::harness::Place;

#[test]
fn a_decision_is_made_once_more_and_one_changed_value_is_found() {
    let place = Place::new();
    let hale = place.hale("[service.app]\ncommand = [\"sh\", \"-c\", \"sleep 0.2; exit 3\"]\n");
    hale.event("app", "detected: ");
    hale.event("app", "decided to restart it");
    hale.stop();
    let id = place.incidents()[0]["id"].as_u64().unwrap();
    let explained = place.done(&["explain", &id.to_string()]);
    assert!(
        explained.contains("  rule blame/2 of core ") && explained.contains("  rule ladder/6 of core "),
        "{explained}"
    );
    assert!(explained.contains("made once more from these values: the same"), "{explained}");
    assert!(explained.contains("    ended = {\"code\":3}\n"), "{explained}");
    let all = place.json(&["explain", &id.to_string()]);
    assert!(all.as_array().unwrap().iter().all(|decision| decision["again"] == "same"), "{all}");

    let segment = place.path("state/ledger/seg/00000000.jsonl");
    let ledger = std::fs::read_to_string(&segment).unwrap();
    let changed = ledger.replacen("\"first_delay\":0", "\"first_delay\":9", 1);
    assert_ne!(ledger, changed);
    std::fs::write(&segment, changed).unwrap();
    let output = place.run(&["explain", &id.to_string()]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stdout).contains("made once more from these values: NOT the same"),
        "{}",
        text(&output.stdout)
    );
    assert!(text(&output.stderr).contains("1 of "), "{}", text(&output.stderr));
    let nothing = place.run(&["explain", "999999"]);
    assert!(text(&nothing.stderr).contains("there is no decision of an incident or record 999999"));
}
