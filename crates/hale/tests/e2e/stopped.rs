//! Hale stopped for longer than everything it waits for, alone and together with the service: nobody is restarted for it.

use crate::harness::{Hale, Place, is_alive, send};
use rustix::process::Signal;

/// Serves HTTP, and says each 100 ms that it works.
const APP: &str = r#"
import http.server, os, socket, threading, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        # So that a probe is under way at nearly any moment.
        time.sleep(0.3)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
def beat():
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    while True:
        notify.sendto(b"WATCHDOG=1", os.environ["NOTIFY_SOCKET"])
        time.sleep(0.1)
threading.Thread(target=beat, daemon=True).start()
http.server.ThreadingHTTPServer(("@H", @P), Handler).serve_forever()
"#;

/// Its checks are as impatient as they can be; `clock` tells that time passes.
const SERVICES: &str = r#"
[service.app]
command = ["python3", "@D/app.py"]
[[service.app.check]]
kind = "http"
url = "http://@A/"
every = "50ms"
timeout = "700ms"
failures = 1
[[service.app.check]]
kind = "heartbeat"
within = "1s"
failures = 1
[service.clock]
command = ["sh", "-c", "while sleep 0.5; do echo tick >>@D/reports; done"]
"#;

/// Stops all of Hale and `others` until the clock has ticked so often.
fn stop_for(hale: &Hale<'_>, place: &Place, others: &[i32], ticks: usize) {
    let own = [hale.guardian(), hale.supervisor(), hale.keeper()];
    let all = || own.iter().chain(others);
    all().for_each(|&pid| send(pid, Signal::STOP));
    // The first may be of just before.
    let enough = place.reported().len() + ticks + 1;
    place.until(|| match place.reported().len() {
        some if some < enough => Err(format!("the clock ticked {some} times of {enough}")),
        _ => Ok(()),
    });
    all().for_each(|&pid| send(pid, Signal::CONT));
}

#[test]
fn what_could_not_be_seen_while_hale_was_stopped_is_no_failure() {
    let place = Place::new();
    place.write("app.py", APP);
    let hale = place.hale(SERVICES);
    let pid = hale.ready("app");
    hale.ready("clock");
    for round in 0..6 {
        let with_it: &[i32] = if round % 2 == 0 { &[] } else { &[pid] };
        stop_for(&hale, &place, with_it, 5);
        place.until(|| {
            let stalls = place.records("", "host_stalled").len();
            if stalls > round { Ok(()) } else { Err(format!("{stalls} stalls are on record after round {round}")) }
        });
    }
    assert!(is_alive(pid));
    let status = place.status("app");
    assert_eq!((&status["restarts"], &status["incident"]), (&0.into(), &serde_json::Value::Null), "{status}");
    hale.stop();
    assert_eq!(place.causes("app"), []);
}
