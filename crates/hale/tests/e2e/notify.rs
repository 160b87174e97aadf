//! The notify socket as unmodified programs use it.

use crate::harness::{Place, await_end, send};
use rustix::process::Signal;

/// `start.ready = "notify"`, with this shell script.
fn service(script: &str, more: &str) -> String {
    format!(
        "[service.web]\ncommand = [\"sh\", \"-c\", \"\"\"\n{script}\n\"\"\"]\nstart.ready = \"notify\"\n\
         restart.crash_loop = false\n{more}\n"
    )
}

/// A service that promises to say when it is ready, and does not.
#[test]
fn silence_is_a_start_timeout() {
    let place = Place::new();
    let hale = place.hale(&service("exec sleep 1000", "start.within = \"300ms\""));
    hale.event("web", "detected: not ready within");
    hale.started("web");
    hale.event("web", "detected: not ready within");
    hale.stop();
    assert_eq!(place.causes("web")[0].0, "start_timeout");
}

mod needs_systemd_notify {
    use super::*;

    #[test]
    fn systemd_notify_makes_it_ready_and_tells_its_status() {
        let place = Place::new();
        let hale = place.hale(&service("systemd-notify --ready --status='as good as new'; exec sleep 1000", ""));
        hale.event("web", "ready: it said READY=1");
        let status = place.status("web");
        assert_eq!((&status["state"], &status["status_text"]), (&"healthy".into(), &"as good as new".into()));
        hale.stop();
    }

    #[test]
    fn its_status_is_known_to_the_next_supervisor() {
        let place = Place::new();
        let script = "systemd-notify --ready --status=\"job $$\"; exec sleep 1000";
        let hale = place.hale(&service(script, ""));
        let mut pid = hale.ready("web");
        for _ in 0..2 {
            let old = hale.supervisor();
            send(old, Signal::KILL);
            await_end(old);
            assert_eq!(place.status("web")["status_text"], format!("job {pid}"));
        }
        send(pid, Signal::KILL);
        pid = hale.ready("web");
        assert_eq!(place.status("web")["status_text"], format!("job {pid}"));
        hale.stop();
    }

    /// A supervisor that dies between hearing `READY=1` and recording it leaves just this: it is in the file, and on no record.
    #[test]
    fn that_it_was_ready_is_known_to_the_next_supervisor_also_without_a_record() {
        let place = Place::new();
        let hale = place.hale(
            "[service.a]\ncommand = [\"sh\", \"-c\", \"systemd-notify --ready; exec sleep 1000\"]\nstart.ready = \"notify\"\n\
             [service.b]\ncommand = [\"sleep\", \"1000\"]\nstart = { ready = \"notify\", within = \"1h\" }\n",
        );
        hale.ready("a");
        hale.started("b");
        let file = place.path("run/said");
        let mut kept = std::fs::read(&file).unwrap();
        // The services are in the order of their names, and this is the first process of each.
        let at = kept.chunks(8).position(|place| place == 1_u64.to_le_bytes()).unwrap() * 8;
        let old = hale.supervisor();
        send(old, Signal::STOP);
        kept[at + 8..at + 16].copy_from_slice(&1_u64.to_le_bytes());
        std::fs::write(&file, kept).unwrap();
        send(old, Signal::KILL);
        hale.event("b", "ready: it said READY=1");
        hale.stop();
        assert_eq!(place.records("b", "spawned").len(), 1);
    }

    /// systemd's `EXTEND_TIMEOUT_USEC` (sd_notify(3)): it takes longer than `start.within`, and says so in time.
    #[test]
    fn a_start_that_asks_for_more_time_gets_it() {
        let place = Place::new();
        let script = "systemd-notify EXTEND_TIMEOUT_USEC=60000000 && echo extended >@D/reports\n\
                      sleep 4; systemd-notify --ready; exec sleep 1000";
        let hale = place.hale(&service(script, "start.within = \"3s\""));
        place.report("extended");
        hale.event("web", "ready: it said READY=1");
        hale.stop();
        assert_eq!(place.causes("web"), []);
    }

    /// The same while it stops, and each process of the service may say it (`NotifyAccess=all`).
    #[test]
    fn a_stop_that_asks_for_more_time_gets_it() {
        let place = Place::new();
        // What the trap starts must not end by the signal itself, which goes to all that is there; and what is to end by it
        // must not be on its way to its program when it comes.
        let script = "trap 'trap \"\" USR1; systemd-notify STOPPING=1 EXTEND_TIMEOUT_USEC=60000000; sleep 2; echo done >@D/reports; exit 0' USR1\n\
                      sleep 1000 & systemd-notify --ready; while :; do wait $!; done";
        let hale = place.hale(&service(script, "stop = { signal = \"SIGUSR1\", grace = \"1500ms\" }"));
        hale.ready("web");
        place.done(&["stop", "web"]);
        place.report("done");
        hale.stop();
        assert!(place.records("web", "kill_intended").is_empty());
    }

    /// systemd's WatchdogSec with the service's own word: it promises a heartbeat and stops keeping its promise; and it may
    /// ask to be restarted (`WATCHDOG=trigger`).
    #[test]
    fn heartbeats_that_end_and_a_trigger_are_found() {
        let place = Place::new();
        let script = "systemd-notify --ready\n\
                      if test -e @D/second; then systemd-notify WATCHDOG=trigger; rm @D/second; fi\n\
                      exec sleep 1000";
        let heartbeat = "[[service.web.check]]\nkind = \"heartbeat\"\nwithin = \"1s\"";
        let hale = place.hale(&service(script, heartbeat));
        hale.event("web", "detected: no heartbeat for 1 s");
        place.write("second", "");
        hale.event("web", "detected: the service reported its own failure (WATCHDOG=trigger");
        hale.stop();
        let causes = place.causes("web");
        assert!(causes.iter().all(|(cause, _)| cause == "no_heartbeat"), "{causes:?}");
    }
}

mod needs_sdnotify {
    use super::*;

    #[test]
    fn pythons_sdnotify_makes_it_ready() {
        let place = Place::new();
        place.write(
            "app.py",
            "import sdnotify, time\nn = sdnotify.SystemdNotifier(debug=True)\n\
             n.notify('STATUS=up'); n.notify('READY=1')\nwhile True:\n    n.notify('WATCHDOG=1'); time.sleep(0.2)\n",
        );
        let python = std::env::var("HALE_TEST_SDNOTIFY_PYTHON").unwrap();
        let hale = place.hale(&format!(
            "[service.web]\ncommand = [\"{python}\", \"@D/app.py\"]\nstart.ready = \"notify\"\n\
             [[service.web.check]]\nkind = \"heartbeat\"\nwithin = \"5s\"\n"
        ));
        hale.event("web", "ready: it said READY=1");
        hale.event("web", "check heartbeat passed");
        assert_eq!(place.status("web")["status_text"], "up");
        hale.stop();
        assert_eq!(place.causes("web"), []);
    }
}
