//! Programs that we did not write, deployed: each kind of bad version comes back to the good one without anybody.

use crate::deploying::{deploy, runs, text};
use crate::harness::{Hale, Place, http};
use serde_json::json;
use std::fs;

/// A good release runs, and each of these comes back to it. Says with which words Hale has to tell what it found.
#[track_caller]
fn come_back(hale: &Hale<'_>, bad: &[(&str, &str)]) {
    let place = hale.place;
    let good = runs(place);
    for (name, evidence) in bad {
        let said = text(&deploy(place, name, 4));
        assert!(said.contains(evidence), "{name}: {said}");
        let status = place.status("app");
        assert_eq!((&status["state"], runs(place)), (&json!("healthy"), good.clone()), "{name}");
        assert!(http(place.address, "/health").unwrap().ends_with("ok"), "{name}");
    }
}

mod needs_python {
    use super::*;
    use crate::harness::python;

    const APP: &str = r#"
import http.server, os, sys, threading, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        # here
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_):
        pass

# then
http.server.ThreadingHTTPServer(("@H", @P), Handler).serve_forever()
"#;

    const LATER: &str = "begin = time.monotonic()\ndef is_bad(): return time.monotonic() - begin > 0.4";

    fn app(place: &Place, name: &str, here: &str, then: &str) {
        fs::create_dir(place.path(name)).unwrap();
        let text = APP.replace("# here", here).replace("# then", then);
        place.write(&format!("{name}/app.py"), &format!("{text}\n# {name}\n"));
    }

    fn service(more: &str) -> String {
        let python = python();
        format!(
            r#"
[service.app]
command = ["{python}", "app.py"]
start.within = "20s"
stop.grace = "200ms"
{more}
[[service.app.check]]
kind = "http"
url = "http://@A/health"
body_contains = "ok"
every = "100ms"
timeout = "2s"
faster_than = "1s"
failures = 2
[service.app.generations]
probation = "1s"
"#
        )
    }

    #[test]
    fn a_service_in_python_comes_back_from_whatever_its_next_version_does() {
        let place = Place::new();
        let hale = place.hale(&service(""));
        hale.event("app", "no release yet");
        app(&place, "good", "", "");
        deploy(&place, "good", 0);
        let bad = [
            ("has-a-syntax-error", "if True", "", "exited with status 1"),
            ("lacks-a-module", "", "import no_such_module", "exited with status 1"),
            ("crashes-later", "", "threading.Timer(0.7, lambda: os._exit(9)).start()", "exited with status 9"),
            ("stops-to-answer", "if is_bad(): time.sleep(1000)", LATER, "no answer within 2 s"),
            ("answers-500", "if is_bad(): return self.send_error(500)", LATER, "500"),
            ("gets-slow", "if is_bad(): time.sleep(1.3)", LATER, "1.3"),
        ];
        for (name, here, then, _) in bad {
            app(&place, name, here, then);
        }
        come_back(&hale, &bad.map(|(name, _, _, evidence)| (name, evidence)));
        hale.stop();
        let causes: Vec<String> = place.causes("app").into_iter().map(|(cause, _)| cause).collect();
        assert_eq!(causes, ["exit", "exit", "exit", "hang", "check", "slow"]);
    }

    mod needs_cgroup2 {
        use super::*;

        #[test]
        fn one_that_leaks_comes_back() {
            let place = Place::new();
            let memory =
                "[[service.app.check]]\nkind = \"memory\"\nbelow = \"80MiB\"\nevery = \"50ms\"\nfailures = 2\n";
            let hale = place.hale(&service(memory));
            hale.event("app", "no release yet");
            app(&place, "good", "", "");
            deploy(&place, "good", 0);
            let leak = "kept.append(b'x' * (16 << 20))";
            app(&place, "leaks", leak, "kept = []");
            come_back(&hale, &[("leaks", "memory")]);
            hale.stop();
            assert_eq!(place.causes("app"), [("memory".into(), "rolled_back".into())]);
        }
    }
}

mod needs_nginx {
    use super::*;

    const CONFIGURATION: &str = r#"
daemon off;
pid @D/nginx.pid;
worker_processes 2;
events {}
http {
    access_log off;
    client_body_temp_path @D/t1; proxy_temp_path @D/t2; fastcgi_temp_path @D/t3; uwsgi_temp_path @D/t4;
    scgi_temp_path @D/t5;
    server { listen @A; location = /health { return 200 "ok"; } }
}
"#;

    const SERVICE: &str = r#"
[service.app]
command = ["nginx", "-p", "@D", "-e", "stderr", "-c", "@D/etc/nginx.conf"]
stop.signal = "SIGQUIT"
stop.grace = "5s"
restart = { delay = "20ms", crash_loop = { failures = 3, within = "60s" } }
[[service.app.check]]
kind = "http"
url = "http://@A/health"
body_contains = "ok"
every = "100ms"
timeout = "2s"
failures = 2
[service.app.generations]
store = "command"
list = ["/bin/true"]
current = ["/bin/true"]
stage = ["/bin/true"]
activate = ["/bin/true"]
revert = ["/bin/true"]
probation = "500ms"
files = ["@D/etc/nginx.conf"]
"#;

    /// Somebody edits it and restarts the service: it does not start, or serves something else.
    #[test]
    fn a_broken_configuration_of_nginx_comes_back() {
        let place = Place::new();
        fs::create_dir(place.path("etc")).unwrap();
        place.write("etc/nginx.conf", CONFIGURATION);
        let good = place.text(CONFIGURATION);
        let hale = place.hale(SERVICE);
        hale.event("app", "ready: ");
        for broken in [
            CONFIGURATION.replace("return 200 \"ok\";", "retrun 200 \"ok\";"),
            CONFIGURATION.replace("200 \"ok\"", "500"),
        ] {
            place.write("etc/nginx.conf", &broken);
            hale.event("app", "its files: switched to");
            place.run(&["restart", "app"]);
            hale.event("app", "what was good works again: rolled back");
            assert_eq!(fs::read_to_string(place.path("etc/nginx.conf")).unwrap(), good);
            assert!(http(place.address, "/health").unwrap().ends_with("ok"));
        }
        // One that works is kept.
        let better = CONFIGURATION.replace("worker_processes 2", "worker_processes 1");
        place.write("etc/nginx.conf", &better);
        hale.event("app", "its files: switched to");
        place.done(&["restart", "app"]);
        hale.event("app", "its files: committed");
        hale.stop();
        let outcomes: Vec<String> = place.causes("app").into_iter().map(|(_, outcome)| outcome).collect();
        assert_eq!(outcomes, ["rolled_back", "rolled_back"]);
    }
}
