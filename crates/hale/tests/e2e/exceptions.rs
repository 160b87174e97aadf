//! Exceptions: what a service died of is found in its output, has the same fingerprint whatever the version, and is counted.

use crate::harness::Place;

mod needs_python {
    use super::Place;
    use serde_json::Value;

    /// Fails in `parse`, in another line with another value in each version.
    const APP: &str = r#"@LINES
import os, sys
def parse(text):
    return {}[text]
print("version @N starts", flush=True)
if @N == 4:
    # Not before the test has seen what the third one said.
    open("@D/seen").read()
parse("value of @N")
"#;

    fn exceptions(place: &Place) -> Vec<Value> {
        place.ledger().into_iter().filter(|record| record["kind"] == "traced").collect()
    }

    #[test]
    fn the_same_exception_has_one_fingerprint_in_each_version_and_the_third_in_a_row_is_a_fact() {
        let place = Place::new();
        for version in 1..=5_usize {
            let text = APP.replace("@LINES", &"\n".repeat(version)).replace("@N", &version.to_string());
            place.write(
                &format!("app-{version}.py"),
                &text.replace("@D", place.path("").to_str().unwrap().trim_end_matches('/')),
            );
        }
        // Each start runs the next version.
        place.write("next", "0");
        place.write(
            "start.sh",
            "n=$(($(cat @D/next) + 1)); echo $n > @D/next; exec python3 @D/app-$n.py\n"
                .replace("@D", place.path("").to_str().unwrap().trim_end_matches('/'))
                .as_str(),
        );
        let seen = place.path("seen");
        assert!(std::process::Command::new("mkfifo").arg(&seen).status().unwrap().success());
        let restart = "restart.delay = \"100ms\"\nrestart.crash_loop = { failures = 5, within = \"10m\" }\n";
        let hale = place.hale(&format!("[service.app]\ncommand = [\"sh\", \"@D/start.sh\"]\n{restart}"));
        for _ in 0..3 {
            let told = hale.event("app", "its last output has an exception: ");
            assert!(told.contains("KeyError in app-#.py:parse (Python), fingerprint "), "{told}");
        }
        std::fs::write(&seen, "").unwrap();
        let held = hale.event("app", "decided to hold it");
        assert!(held.contains("taking back a change refused: no generations configured"), "{held}");
        hale.stop();
        let found = exceptions(&place);
        assert!(found.len() >= 4, "{found:?}");
        let fingerprint = &found[0]["trace"]["fingerprint"];
        assert!(found.iter().all(|record| record["trace"]["fingerprint"] == *fingerprint), "{found:?}");
        let decided: Vec<Value> = place.ledger().into_iter().filter(|record| record["kind"] == "decided").collect();
        let same = |decision: &&Value| decision["reason"]["code"] == "same_exception";
        let fact = decided.iter().find(same).unwrap_or_else(|| panic!("{decided:?}"));
        assert!(fact["read"]["alike"]["times"].as_u64().unwrap() >= 3, "{fact}");
        assert_eq!(fact["read"]["alike"]["exception"], *fingerprint);
        assert_eq!(fact["refused"][0]["rung"], "take_back");
        let incident = &place.incidents()[0];
        assert_eq!(incident["exception"]["fingerprint"], *fingerprint);
        assert_eq!(incident["exception"]["what"], "KeyError");
        let grouped = place.json(&["incidents", "--grouped"]);
        assert_eq!(grouped[0]["exception"]["fingerprint"], *fingerprint);
    }
}

#[test]
fn the_same_place_has_the_same_fingerprint_in_each_service_and_what_has_no_exception_has_none() {
    let place = Place::new();
    let service = |name: &str, file: &str| {
        let restart = "restart.delay = \"20s\"\nrestart.first_delay = \"20s\"\n";
        format!("[service.{name}]\ncommand = [\"sh\", \"-c\", \"cat {file} >&2; exit 3\"]\n{restart}")
    };
    for version in [1, 22] {
        let text = format!("app: /srv/{version}/a.c:{version}: go: Assertion `x != NULL' failed.\n");
        place.write(&format!("assertion-{version}"), &text);
    }
    place.write("nothing", "all is well\n");
    let text =
        [service("one", "@D/assertion-1"), service("two", "@D/assertion-22"), service("plain", "@D/nothing")].concat();
    let hale = place.hale(&text);
    for name in ["one", "two"] {
        hale.event(name, "its last output has an exception: Assertion `x != NULL' failed. in a.c:go (C or C++)");
    }
    hale.event("plain", "decided to restart it in 2");
    hale.stop();
    let grouped = place.json(&["incidents", "--grouped"]);
    let groups = grouped.as_array().unwrap();
    let of = |service: &str| groups.iter().find(|group| group["service"] == service).unwrap();
    assert_eq!(of("one")["exception"], of("two")["exception"]);
    assert_eq!((&of("plain")["exception"], &of("plain")["cause"]), (&serde_json::Value::Null, &"exit".into()));
    let shown = place.done(&["incidents", "--grouped"]);
    assert!(shown.contains("Assertion `x != NULL' failed. in a.c:go (C or C++)"), "{shown}");
}
