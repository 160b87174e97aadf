//! What leaks is started anew before it reaches its bound, while it works.

mod needs_python {
    use crate::harness::{Place, is_alive, python};

    /// It opens ten files a second and closes none.
    const LEAK: &str = r#"
import time
kept = []
begin = time.monotonic()
while True:
    while len(kept) < (time.monotonic() - begin) * 10:
        kept.append(open("/dev/null"))
    time.sleep(0.05)
"#;

    #[test]
    fn a_leak_of_descriptors_is_seen_coming() {
        let place = Place::new();
        place.write("app.py", LEAK);
        let python = python();
        let hale = place.hale(&format!(
            r#"
[service.app]
command = ["{python}", "@D/app.py"]
stop.grace = "200ms"
restart.before_limit = "10s"
[[service.app.check]]
kind = "open_files"
below = 250
every = "200ms"
timeout = "10s"
"#
        ));
        let first = hale.ready("app");
        hale.event(
            "app",
            "decided to start it anew while it works, because the bound of check open_files would be reached in",
        );
        let second = hale.ready("app");
        assert!(first != second && !is_alive(first));
        hale.stop();
        assert_eq!(place.causes("app"), [], "nothing has failed");
        let planned = &place.records("app", "restart_planned")[0];
        let (read, reaches) = (&planned["read"], &planned["reaches"]);
        assert_eq!((&planned["rule"], &planned["verdict"]), (&"before_limit/1".into(), &"restart".into()));
        // Ten a second, whatever else the machine has to do: the program follows the clock.
        let per_hour = read["outlook"]["growth"]["per_hour"].as_i64().unwrap();
        assert!((30_000..42_000).contains(&per_hour), "{planned}");
        let level = read["outlook"]["level"].as_u64().unwrap();
        assert!(level < 250 && reaches["after"].as_u64().unwrap() <= 10_000_000, "{planned}");
        let stop = &place.records("app", "stop_intended")[0];
        assert_eq!(stop["why"]["code"], "before_limit", "{stop}");
    }

    #[test]
    fn an_incident_tells_how_it_grew() {
        let place = Place::new();
        place.write("app.py", LEAK);
        let python = python();
        let hale = place.hale(&format!(
            r#"
[service.app]
command = ["{python}", "@D/app.py"]
stop.grace = "200ms"
[[service.app.check]]
kind = "open_files"
below = 250
every = "200ms"
timeout = "10s"
"#
        ));
        hale.ready("app");
        // It fails there; by then it was watched for 20 seconds.
        hale.event("app", "detected: check open_files failed 3 times");
        let told = || {
            let incident = place.incidents().pop()?;
            incident["timeline"].as_array()?.iter().find_map(|moment| {
                moment["what"].as_str().filter(|what| what.starts_with("detected: ")).map(str::to_owned)
            })
        };
        // The ledger has it a moment after the line is printed.
        place.until(|| told().map(drop).ok_or_else(|| format!("it is not told: {:?}", place.incidents())));
        let told = told().unwrap();
        assert!(told.contains(" files an hour more (") && told.contains(" over "), "{told}");
        hale.stop();
    }
}
