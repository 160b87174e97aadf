//! The ledger's disk full or read-only: healing goes on, orders work, and the ledger tells what it missed.

mod needs_root {
    use crate::deploying::{LIVES, PASSES, SERVICE as SERVICE_WITH_RELEASES, begin, deploy, release, runs, text};
    use crate::harness::{Place, rerun, send};
    use rustix::process::Signal;
    use std::fs::{self, File};
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    const SERVICE: &str = "[service.web]\ncommand = [\"sleep\", \"1000\"]\nrestart.max_delay = \"1ms\"\n\
                           restart.delay = \"1ms\"\nrestart.crash_loop = false\n";

    /// Once more in a mount namespace of its own, which goes away with the test; `false` outside of it.
    fn inside(test: &str) -> bool {
        rerun(&format!("full_disk::needs_root::{test}"), &["unshare", "--mount", "--propagation", "private"])
    }

    /// A tmpfs, until it is dropped: as long as it is mounted, the place's directory cannot be removed.
    struct Mount(PathBuf);

    impl Drop for Mount {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        }
    }

    fn mount(place: &Place, name: &str, options: &str) -> Mount {
        let path = place.path(name);
        fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path).status();
        assert!(mounted.unwrap().success());
        Mount(path)
    }

    fn remount(place: &Place, how: &str) {
        let options = format!("remount,{how}");
        assert!(Command::new("mount").args(["-o", &options]).arg(place.path("state")).status().unwrap().success());
    }

    /// Fills the file system with a file.
    fn fill(path: &Path) {
        let mut file = File::create(path).unwrap();
        while file.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    }

    /// A restart, a stop and a start, of which the disk sees nothing.
    fn heal_and_order(place: &Place, hale: &crate::harness::Hale<'_>, pid: i32) {
        send(pid, Signal::KILL);
        hale.event("web", "detected: the process was ended by SIGKILL");
        hale.ready("web");
        hale.event("web", "recovered in");
        place.done(&["stop", "web"]);
        place.done(&["start", "web"]);
        let error = place.json(&["status"])["host"]["ledger_error"].clone();
        assert!(error.is_string(), "{error}");
    }

    #[test]
    fn healing_goes_on_while_the_disk_is_full() {
        if !inside("healing_goes_on_while_the_disk_is_full") {
            return;
        }
        let place = Place::new();
        let _state = mount(&place, "state", "size=4m");
        let hale = place.hale(SERVICE);
        let pid = hale.ready("web");
        let filler = place.path("state/filler");
        fill(&filler);
        // What is reserved is used up first; then the disk says no.
        let mut pid = pid;
        while !hale.said().iter().any(|line| line.contains("the ledger cannot be written, healing goes on")) {
            send(pid, Signal::KILL);
            pid = hale.ready("web");
        }
        heal_and_order(&place, &hale, pid);
        fs::remove_file(&filler).unwrap();
        hale.says("the ledger can be written again");
        hale.stop();
        let degraded = place.records("", "ledger_degraded");
        assert!(!degraded.is_empty());
        assert!(!place.records("", "ledger_recovered").is_empty());
        assert_eq!(place.records("web", "order_not_durable").len(), 2);
    }

    /// A disk with errors is mounted read-only, and then the machine starts Hale anew: services come up all the same.
    #[test]
    fn services_start_and_heal_on_a_read_only_disk() {
        if !inside("services_start_and_heal_on_a_read_only_disk") {
            return;
        }
        let place = Place::new();
        let _state = mount(&place, "state", "size=64m");
        for orders in [2, 4] {
            remount(&place, "ro");
            let hale = place.hale(SERVICE);
            hale.says("the ledger cannot be written, healing goes on: ");
            let pid = hale.ready("web");
            heal_and_order(&place, &hale, pid);
            let second = place.run(&["run"]);
            assert_eq!(second.status.code(), Some(7), "{}", String::from_utf8_lossy(&second.stderr));
            // Once it can be written, it is.
            remount(&place, "rw");
            hale.says("the ledger can be written again");
            hale.stop();
            assert_eq!(place.records("web", "order_not_durable").len(), orders);
        }
    }

    /// The same with a full one: not even the ledger's first segment can be made.
    #[test]
    fn services_start_and_heal_on_a_disk_that_is_full_already() {
        if !inside("services_start_and_heal_on_a_disk_that_is_full_already") {
            return;
        }
        let place = Place::new();
        let _state = mount(&place, "state", "size=1m");
        let filler = place.path("state/filler");
        fill(&filler);
        let hale = place.hale(SERVICE);
        let pid = hale.ready("web");
        hale.says("the ledger cannot be written, healing goes on: No space left on device");
        heal_and_order(&place, &hale, pid);
        fs::remove_file(&filler).unwrap();
        hale.says("the ledger can be written again");
        hale.stop();
        assert_eq!(place.records("web", "order_not_durable").len(), 2);
    }

    /// supervision.md 2.10 (pm2: disks filled by logs): output that the disk does not take is dropped and counted, and
    /// never blocks the service.
    #[test]
    fn output_that_the_disk_does_not_take_is_dropped_and_counted() {
        if !inside("output_that_the_disk_does_not_take_is_dropped_and_counted") {
            return;
        }
        let place = Place::new();
        let _log = mount(&place, "log", "size=256k");
        let hale = place.hale(
            "[service.web]\ncommand = [\"sh\", \"-c\", \"yes | head -c 1000000; echo written >@D/reports; exec sleep 1000\"]\n",
        );
        hale.ready("web");
        place.report("written");
        // All that the service and the guardian's line about it brought is in the log or counted.
        let mut dropped = 0;
        while dropped + (place.log("web").len() as u64) < 1_000_000 {
            let line = hale.event("web", "dropped");
            let bytes = line.split_once("dropped ").unwrap().1.split(' ').next().unwrap();
            dropped += bytes.parse::<u64>().unwrap();
        }
        assert!((1_000_000 - 256 * 1024..1_000_100).contains(&dropped), "{dropped}");
        hale.stop();
        let counted = place.records("web", "output_dropped");
        let counted = counted.iter().map(|record| record["bytes"].as_u64().unwrap()).sum::<u64>();
        // The guardian's line about its end may be counted too.
        assert!((dropped..dropped + 100).contains(&counted), "{counted} of {dropped}");
    }

    /// What an import may use is what others can do without: the ledger goes on, and so does the service.
    #[test]
    fn a_release_that_the_disk_has_no_room_for_is_refused_and_comes_in_later() {
        if !inside("a_release_that_the_disk_has_no_room_for_is_refused_and_comes_in_later") {
            return;
        }
        let place = Place::new();
        // 256 MiB of it have to stay free, and the ledger takes its part.
        let _state = mount(&place, "state", "size=290m");
        let hale = begin(&place, SERVICE_WITH_RELEASES);
        release(&place, "good", LIVES, PASSES);
        deploy(&place, "good", 0);
        let good = runs(&place);
        release(&place, "large", LIVES, PASSES);
        fs::write(place.path("large/model"), vec![1; 20 << 20]).unwrap();
        let refused = deploy(&place, "large", 1);
        assert!(text(&refused).contains("not enough space for model"), "{}", text(&refused));
        // Others have used up even more, and a way back takes nothing.
        let filler = place.path("state/filler");
        fill(&filler);
        release(&place, "small", LIVES, PASSES);
        let refused = deploy(&place, "small", 1);
        assert!(text(&refused).contains("make space"), "{}", text(&refused));
        assert_eq!(runs(&place), good);
        let left: Vec<_> =
            fs::read_dir(place.path("state/releases/app")).unwrap().map(|entry| entry.unwrap()).collect();
        assert_eq!(left.len(), 4, "a release, its manifest and its links: {left:?}");
        fs::remove_file(&filler).unwrap();
        deploy(&place, "small", 0);
        assert_ne!(runs(&place), good);
        hale.stop();
    }

    mod needs_python {
        use super::*;
        use crate::harness::{is_alive, python};
        use crate::innocent::{Innocent, innocent};

        /// Keeps what it is asked, and refuses what it cannot keep.
        const KEEPER: &str = r#"
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            with open("@D/data/kept", "ab", buffering=0) as kept:
                kept.write(b"x" * 8192)
            status = 200
        except OSError as error:
            print(error, flush=True)
            status = 507
        self.send_response(status)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("@H", @P), Handler).serve_forever()
"#;

        /// Its own disk, not Hale's: restarts do not help, so it is held, its last words say why, and it works once there is room.
        #[test]
        fn a_service_whose_disk_is_full_is_held_and_comes_back_with_room() {
            if !inside("needs_python::a_service_whose_disk_is_full_is_held_and_comes_back_with_room") {
                return;
            }
            let place = Place::new();
            let _data = mount(&place, "data", "size=32m");
            place.write("keeper.py", KEEPER);
            let hale = place.hale(&format!(
                "{}[service.app]\ncommand = [\"{}\", \"@D/keeper.py\"]\nstart.within = \"2s\"\nstop.grace = \"200ms\"\n\
                 [[service.app.check]]\nkind = \"http\"\nurl = \"http://@A/\"\nevery = \"100ms\"\nfailures = 2\n",
                innocent(&place),
                python()
            ));
            let innocent = Innocent::ready(&hale);
            let first = hale.ready("app");
            let filler = place.path("data/filler");
            fill(&filler);
            let detected = hale.event("app", "detected: check http failed 2 times in a row: ");
            assert!(detected.contains("507 Insufficient Storage"), "{detected}");
            place.until(|| {
                let status = place.status("app");
                (status["state"] == "held").then_some(()).ok_or(status.to_string())
            });
            assert!(!is_alive(first));
            let incident = place.done(&["incident"]);
            assert!(incident.contains("  | [Errno 28] No space left on device"), "{incident}");
            innocent.assert_unharmed();
            fs::remove_file(&filler).unwrap();
            place.done(&["start", "app"]);
            assert_eq!(place.status("app")["state"], "healthy");
            hale.stop();
            let causes: Vec<String> = place.causes("app").into_iter().map(|(cause, _)| cause).collect();
            assert_eq!(causes, ["check"]);
        }
    }
}
