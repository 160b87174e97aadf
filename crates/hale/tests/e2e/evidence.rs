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

    /// Two threads, each with the lock that the other one waits for: of all real hangs the plainest.
    const DEADLOCK: &str = r#"
import http.server, threading
ours, theirs, both = threading.Lock(), threading.Lock(), threading.Barrier(2)
def take(first, second):
    with first:
        both.wait()
        with second:
            pass
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/deadlock":
            for locks in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=take, args=locks).start()
        with ours:
            self.send_response(200)
            self.end_headers()
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("@H", @P), Handler).serve_forever()
"#;

    #[test]
    fn threads_that_wait_for_each_other_are_told_of() {
        let place = Place::new();
        place.write("app.py", DEADLOCK);
        let hale = place.hale(SERVICE);
        let pid = hale.ready("app");
        let _no_answer = poke(place.address, "/deadlock");
        hale.event("app", "detected: check http failed 2 times in a row: no answer within 600 ms");
        let told = hale.event("app", "found what it was doing: ");
        assert!(told.contains(" threads wait in futex"), "{told}");
        hale.event("app", "recovered in");
        assert!(!is_alive(pid));
        hale.stop();
        assert_eq!(place.causes("app"), [("hang".into(), "recovered".into())]);
        let doing = &place.incidents()[0]["evidence"]["examination"]["doing"];
        // Both, and those who ask for what they have.
        let waiting = doing.as_array().unwrap().iter().filter(|group| group["call"]["name"] == "futex");
        assert!(waiting.map(|group| group["threads"].as_u64().unwrap()).sum::<u64>() >= 4, "{doing}");
    }
}
