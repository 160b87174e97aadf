//! `confirm`: a failing check leads to nothing while the check that has to confirm it passes.

use crate::harness::{Place, is_alive, poke};

/// Serves two pages of one program; `/lie` lets the first one answer 500, `/die` both.
const APP: &str = r#"
import http.server
bad = set()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/lie":
            bad.add("/health")
        if self.path == "/die":
            bad.update(["/health", "/work"])
        self.send_response(500 if self.path in bad else 200)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("@H", @P), Handler).serve_forever()
"#;

const SERVICE: &str = r#"
[service.app]
command = ["python3", "@D/app.py"]
[[service.app.check]]
name = "health"
kind = "http"
url = "http://@A/health"
every = "50ms"
failures = 2
confirm = ["work"]
[[service.app.check]]
name = "work"
kind = "http"
url = "http://@A/work"
every = "1h"
failures = 9
"#;

#[test]
fn what_another_check_does_not_confirm_is_told_and_left_alone() {
    let place = Place::new();
    place.write("app.py", APP);
    let hale = place.hale(SERVICE);
    let pid = hale.ready("app");
    drop(poke(place.address, "/lie"));
    hale.event("app", "check health fails, check work passes or could not be run, and nothing is done");
    let status = place.status("app");
    assert_eq!((&status["state"], &status["restarts"]), (&"degraded".into(), &0.into()), "{status}");
    assert!(is_alive(pid));
    // Asked for again with each failure, though the other one's own turn is an hour away.
    drop(poke(place.address, "/die"));
    hale.event("app", "detected: check health failed 2 times in a row");
    hale.event("app", "recovered in");
    assert!(!is_alive(pid));
    hale.stop();
    assert_eq!(place.causes("app"), [("check".into(), "recovered".into())]);
    assert_eq!(place.records("app", "unconfirmed").len(), 1, "once in a row of failures");
}
