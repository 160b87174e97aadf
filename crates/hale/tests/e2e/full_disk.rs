//! The ledger's disk full or read-only: healing goes on, orders work, and the ledger tells what it missed.

mod needs_root {
    use crate::harness::{Place, rerun, send};
    use rustix::process::Signal;
    use std::fs::{self, File};
    use std::io::Write;
    use std::process::Command;

    const SERVICE: &str = "[service.web]\ncommand = [\"sleep\", \"1000\"]\nrestart.max_delay = \"1ms\"\n\
                           restart.delay = \"1ms\"\nrestart.crash_loop = false\n";

    /// Once more in a mount namespace of its own, which goes away with the test; `false` outside of it.
    fn inside(test: &str) -> bool {
        rerun(&format!("full_disk::needs_root::{test}"), &["unshare", "--mount", "--propagation", "private"])
    }

    fn mount(place: &Place, options: &str) {
        let state = place.path("state");
        let _ = fs::create_dir(&state);
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&state).status();
        assert!(mount.unwrap().success());
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
        mount(&place, "size=4m");
        let hale = place.hale(SERVICE);
        let pid = hale.ready("web");
        let filler = place.path("state/filler");
        let mut file = File::create(&filler).unwrap();
        while file.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
        // What is reserved is used up first; then the disk says no.
        let mut pid = pid;
        while !hale.said().iter().any(|line| line.contains("the ledger cannot be written, healing goes on")) {
            send(pid, Signal::KILL);
            pid = hale.ready("web");
        }
        heal_and_order(&place, &hale, pid);
        drop(file);
        fs::remove_file(&filler).unwrap();
        hale.says("the ledger can be written again");
        hale.stop();
        let degraded = place.records("", "ledger_degraded");
        assert!(!degraded.is_empty());
        assert!(!place.records("", "ledger_recovered").is_empty());
        assert_eq!(place.records("web", "order_not_durable").len(), 2);
    }

    #[test]
    fn healing_goes_on_while_the_disk_is_read_only() {
        if !inside("healing_goes_on_while_the_disk_is_read_only") {
            return;
        }
        let place = Place::new();
        mount(&place, "size=64m");
        let hale = place.hale_with("", SERVICE);
        hale.ready("web");
        hale.stop();
        let remount = |how: &str| {
            let options = format!("remount,{how}");
            assert!(Command::new("mount").args(["-o", &options]).arg(place.path("state")).status().unwrap().success());
        };
        // A state directory that cannot be locked cannot be used; one whose ledger cannot be written can.
        remount("ro");
        let mut refused = place.hale_again();
        let code = refused.wait();
        println!("{code:?} {:?}", refused.said());
        remount("rw");
        let hale = place.hale_again();
        hale.ready("web");
        hale.stop();
    }
}
