//! As an ordinary user who may write no cgroup: trees are kept by a tag in the environment.

mod needs_root {
    use crate::deploying::{LIVES, PASSES, SERVICE, begin, deploy, release, runs};
    use crate::harness::{Place, as_nobody, is_alive, send};
    use rustix::process::Signal;

    /// Start, crash, strays that fork twice and take a session, stop, and an end that leaves nobody.
    #[test]
    fn without_cgroups_it_heals_and_finds_strays() {
        let mut place = Place::new();
        as_nobody(&mut place);
        let hale = place.hale(
            r#"
[service.web]
command = ["sh", "-c", """
(setsid sh -c 'trap "" TERM; (sleep 1000 & echo stray $! >@D/reports); while :; do sleep 1000; done' &)
exec sleep 1000
"""]
stop.grace = "100ms"
[[service.web.check]]
kind = "exec"
command = ["sh", "-c", "test $(id -u) = 65534"]
timeout = "20s"
"#,
        );
        hale.says("services are kept together by a variable of their environment only");
        let stray = || -> i32 { place.report("stray").rsplit(' ').next().unwrap().parse().unwrap() };
        let (first, first_stray) = (hale.ready("web"), stray());
        send(first, Signal::KILL);
        hale.event("web", "detected: the process was ended by SIGKILL");
        let (second, second_stray) = (hale.ready("web"), stray());
        hale.event("web", "recovered in");
        assert!(!is_alive(first_stray) && is_alive(second_stray));
        place.done(&["stop", "web"]);
        assert!(!is_alive(second) && !is_alive(second_stray));
        place.done(&["start", "web"]);
        hale.stop();
        assert_eq!(place.causes("web"), [("signal".into(), "recovered".into())]);
    }

    /// The guardian, the supervisor and the keeper die at once: the next Hale finds what they left by its tag.
    #[test]
    fn without_cgroups_leftovers_are_ended_first() {
        let mut place = Place::new();
        as_nobody(&mut place);
        let mut hale =
            place.hale("[service.web]\ncommand = [\"sh\", \"-c\", \"setsid sleep 1000 & exec sleep 1000\"]\n");
        let first = hale.ready("web");
        let parts = [hale.guardian(), hale.supervisor(), hale.keeper()];
        parts.iter().for_each(|&pid| send(pid, Signal::STOP));
        parts.iter().for_each(|&pid| send(pid, Signal::KILL));
        hale.wait();
        assert!(is_alive(first));
        let old = place.living();
        let hale = place.hale_again();
        hale.ready("web");
        assert!(old.iter().all(|&pid| !is_alive(pid)), "{old:?}");
        hale.stop();
    }

    /// Releases of an ordinary user: a good one, a bad one, and back.
    #[test]
    fn releases_are_deployed_and_taken_back() {
        let mut place = Place::new();
        as_nobody(&mut place);
        let hale = begin(&place, SERVICE);
        for (name, app) in [("good", LIVES), ("bad", "exit 3"), ("new", LIVES)] {
            release(&place, name, app, PASSES);
        }
        deploy(&place, "good", 0);
        let good = runs(&place);
        deploy(&place, "bad", 4);
        assert_eq!(runs(&place), good);
        deploy(&place, "new", 0);
        place.done(&["rollback", "app"]);
        assert_eq!(runs(&place), good);
        place.done(&["generations", "app", "--verify"]);
        hale.stop();
    }
}
