//! When the guardian dies and somebody keeps its descriptors: no service notices, and what ended meanwhile is told once.
//!
//! In systemd's place stands a small program of the harness; under the real one it is proven by `cargo xtask vm systemd`.

mod needs_python {
    use crate::harness::{Place, await_end, is_alive, send, under_init};
    use rustix::process::Signal;

    #[test]
    fn the_next_guardian_adopts_everything_and_tells_what_ended_meanwhile_once() {
        let mut place = Place::new();
        under_init(&mut place);
        let crash = "trap 'exit 41' USR1; echo up >@D/reports; while :; do sleep 1000 & wait $!; done";
        let hale = place.hale(&format!(
            "[service.web]\ncommand = [\"sleep\", \"1000\"]\n[service.bot]\ncommand = [\"sh\", \"-c\", \"{crash}\"]\n"
        ));
        let (bot, web) = (hale.ready("bot"), hale.ready("web"));
        place.reports(&["READY=1", "up"]);
        for round in 0..3 {
            let own = [hale.guardian(), hale.supervisor(), hale.keeper()];
            send(own[0], Signal::KILL);
            // With the guardian its helpers are gone, before there can be others.
            own.iter().for_each(|&pid| await_end(pid));
            place.report("lost");
            if round == 2 {
                send(bot, Signal::USR1);
                await_end(bot);
            }
            place.open_gate();
            if round == 1 {
                // Most likely before it has taken over: the one after it is told of the guardian, too.
                send(hale.supervisor(), Signal::KILL);
            }
            // The last time one of them comes back, too.
            place.reports(if round == 2 { &["READY=1", "up"] } else { &["READY=1"] });
            assert_eq!((place.status("web")["pid"].as_i64(), is_alive(web)), (Some(web.into()), true));
            assert_eq!(place.status("web")["restarts"], 0);
        }
        assert_ne!(place.status("bot")["pid"].as_i64(), Some(bot.into()));
        // The ledger has it a moment later than the journal.
        place.until(|| if place.records("bot", "exited").is_empty() { Err(String::from("no end")) } else { Ok(()) });
        let exits = place.records("bot", "exited");
        assert_eq!(exits.len(), 1, "{exits:?}");
        let exact = serde_json::json!({"code": 41});
        assert!(exits[0]["status"] == exact || exits[0]["status"] == "unknown", "{exits:?}");
        let lost = place.records("", "took_over").into_iter().filter(|record| record["lost"]["how"] == "guardian");
        assert!(lost.count() >= 3);
        for service in ["bot", "web"] {
            assert!(place.records(service, "violated").is_empty());
        }
        hale.stop();
        // What is kept of a Hale that ended in order is worth nothing to the next one.
        assert!(place.report("init: the end").ends_with("kept: "));
    }
}
