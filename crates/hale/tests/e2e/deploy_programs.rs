//! Programs that we did not write, deployed: each kind of bad version comes back to the good one without anybody.

use crate::deploying::{PASSES, SERVICE, begin, deploy, release, runs, text};
use crate::harness::{Hale, Place, http};
use serde_json::json;
use std::fs;
use std::process::Command;

/// A good release runs, and each of these comes back to it and its answers. Says with which words Hale has to tell what it found.
#[track_caller]
fn come_back(hale: &Hale<'_>, bad: &[(&str, &str)]) {
    go_back(hale, bad, || assert!(http(hale.place.address, "/health").unwrap().ends_with("ok")));
}

/// The same for what is asked in another way whether it is the good one.
#[track_caller]
pub fn go_back(hale: &Hale<'_>, bad: &[(&str, &str)], is_good: impl Fn()) {
    let place = hale.place;
    let good = runs(place);
    for (name, evidence) in bad {
        let said = text(&deploy(place, name, 4));
        assert!(said.contains(evidence), "{name}: {said}");
        let status = place.status("app");
        assert_eq!((&status["state"], runs(place)), (&json!("healthy"), good.clone()), "{name}");
        is_good();
    }
}

/// The stories of all incidents, as they are shown.
fn stories(place: &Place) -> String {
    place.incidents().iter().map(|incident| place.done(&["incident", &incident["id"].to_string()])).collect()
}

mod needs_cc {
    use super::*;

    fn cc(place: &Place, arguments: &str) {
        let arguments = place.text(arguments);
        let output = Command::new("cc").args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// A program in C that lives by a library beside it.
    fn app(place: &Place, name: &str, library: &str) {
        release(place, name, "", PASSES);
        fs::create_dir(place.path(name).join("lib")).unwrap();
        place.write("library.c", library);
        cc(place, &format!("-shared -fPIC -o @D/{name}/lib/libgood.so @D/library.c"));
        place.write("app.c", "#include <unistd.h>\nint good(void);\nint main(void) { for (;; pause()) good(); }\n");
        cc(place, &format!("-o @D/{name}/bin/app @D/app.c -L@D/library -lgood -Wl,-rpath,$ORIGIN/../lib"));
    }

    #[test]
    fn a_program_that_lacks_a_library_or_a_symbol_of_it_comes_back_and_the_loader_has_the_word() {
        let place = Place::new();
        const GOOD: &str = "int good(void) { return 0; }\n";
        fs::create_dir(place.path("library")).unwrap();
        place.write("good.c", GOOD);
        cc(&place, "-shared -fPIC -o @D/library/libgood.so @D/good.c");
        let hale = begin(&place, SERVICE);
        app(&place, "good", GOOD);
        deploy(&place, "good", 0);
        app(&place, "lacks-its-library", GOOD);
        fs::remove_file(place.path("lacks-its-library/lib/libgood.so")).unwrap();
        app(&place, "lacks-a-symbol", "int better(void) { return 0; }\n");
        let said = "exited with status 127";
        go_back(&hale, &[("lacks-its-library", said), ("lacks-a-symbol", said)], || ());
        hale.stop();
        let stories = stories(&place);
        for what in ["libgood.so: cannot open shared object file", "undefined symbol: good"] {
            assert!(stories.contains(what), "{stories}");
        }
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
start.within = "3s"
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

    /// All of it in the release: what includes what, and what is served.
    #[test]
    fn a_release_of_configuration_and_content_comes_back_whatever_is_wrong_with_it() {
        let place = Place::new();
        let (service, _) = SERVICE.split_once("store = ").unwrap();
        let service = service.replace("\"@D\"", "\".\"").replace("@D/etc", "etc");
        let hale = place.hale(&format!("{service}probation = \"500ms\"\n"));
        hale.event("app", "no release yet");
        const SITE: &str = "location = /health { root html; default_type text/plain; }";
        let release = |name: &str, site: &str| {
            for directory in ["etc", "html"] {
                fs::create_dir_all(place.path(name).join(directory)).unwrap();
            }
            let inline = "location = /health { return 200 \"ok\"; }";
            place.write(&format!("{name}/etc/nginx.conf"), &CONFIGURATION.replace(inline, "include site.conf;"));
            place.write(&format!("{name}/etc/site.conf"), &format!("{site}\n"));
            place.write(&format!("{name}/html/health"), "ok");
        };
        release("good", SITE);
        deploy(&place, "good", 0);
        let proxy = "location = /health { proxy_pass http://@H:1; }";
        let bad = [
            ("has-a-syntax-error", "locatoin = /health { root html; }", "exited with status 1"),
            ("lacks-what-it-includes", SITE, "exited with status 1"),
            ("has-no-upstream", proxy, "502"),
            ("lacks-its-content", SITE, "404"),
        ];
        for (name, site, _) in bad {
            release(name, site);
        }
        fs::remove_file(place.path("lacks-what-it-includes/etc/site.conf")).unwrap();
        fs::remove_file(place.path("lacks-its-content/html/health")).unwrap();
        come_back(&hale, &bad.map(|(name, _, evidence)| (name, evidence)));
        hale.stop();
        let stories = stories(&place);
        for what in [
            "unknown directive \"locatoin\"",
            "etc/site.conf\" failed (2: No such file or directory)",
            "Connection refused) while connecting to upstream",
            "html/health\" failed (2: No such file or directory)",
        ] {
            assert!(stories.contains(what), "{what}: {stories}");
        }
    }

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
