//! Evidence before action: what a service was doing when it was found not to work stands in its incident.

mod needs_python {
    use crate::harness::{Place, is_alive, poke};
    use std::net::TcpListener;

    /// Answers as long as it gets its lock. `/upstream` asks another server, which never answers, with the lock held.
    const APP: &str = r#"
import http.server, socket, threading
lock = threading.Lock()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with lock:
            if self.path == "/upstream":
                upstream = socket.create_connection(("127.0.0.1", @UPSTREAM))
                print("asks", flush=True)
                upstream.recv(1)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("@H", @P), Handler).serve_forever()
"#;

    const SERVICE: &str = r#"
[service.app]
command = ["python3", "@D/app.py"]
stop.grace = "200ms"
[[service.app.check]]
kind = "http"
url = "http://@A/"
every = "600ms"
timeout = "600ms"
failures = 2
"#;

    #[test]
    fn a_service_that_waits_for_a_silent_upstream_is_told_of_by_name() {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = upstream.local_addr().unwrap();
        let place = Place::new();
        place.write("app.py", &APP.replace("@UPSTREAM", &address.port().to_string()));
        let hale = place.hale(SERVICE);
        let pid = hale.ready("app");
        let _no_answer = poke(place.address, "/upstream");
        let (_silent, _) = upstream.accept().unwrap();
        hale.event("app", "detected: check http failed 2 times in a row");
        let told = hale.event("app", "found what it was doing: ");
        assert!(
            told.contains(&format!(" waits in recvfrom on a connection to {address}, which has sent nothing for 1.")),
            "{told}"
        );
        hale.event("app", "recovered in");
        assert!(!is_alive(pid));
        hale.stop();
        let incident = &place.incidents()[0];
        let found = &incident["evidence"]["examination"];
        assert!(told.ends_with(found["sentence"].as_str().unwrap()), "{found}");
        assert!(found["threads"].as_u64().unwrap() >= 3 && found["doing"][0]["call"]["name"] == "futex", "{found}");
        let connections = found["connections"].as_array().unwrap();
        assert!(connections.iter().any(|one| one["peer"] == address.to_string()), "{found}");
        // It was on record before anything was done about it.
        let position = |kind: &str| place.ledger().iter().position(|record| record["kind"] == kind).unwrap();
        assert!(position("examined") < position("decided"));
    }
}
