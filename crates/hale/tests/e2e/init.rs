//! Hale as process 1 of a container: a real pid namespace, in which it is the only one that reaps.

mod needs_root {
    use crate::harness::{Hale, PATIENCE, Place, children, is_zombie, send};
    use rustix::process::Signal;
    use std::fs;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};
    use std::time::Instant;

    const NAMESPACE: [&str; 4] = ["--pid", "--fork", "--mount-proc", "--kill-child"];

    /// `hale run` as process 1 of a pid namespace.
    fn process_1<'a>(place: &'a Place, host: &str, services: &str) -> Hale<'a> {
        place.configure(host, services);
        let mut command = Command::new("unshare");
        command.args(NAMESPACE).arg(env!("CARGO_BIN_EXE_hale")).arg("run").arg(place.path("hale.toml"));
        command.stdin(Stdio::null());
        place.hale_as_process_1(command)
    }

    /// Runs a shell script in the namespace of `hale`, as `docker exec` does: a stranger.
    fn inside(hale: &Hale<'_>, script: &str) {
        let script = hale.place.text(script);
        let pid = hale.guardian().to_string();
        let status = Command::new("nsenter").args(["-t", &pid, "--pid", "--mount", "sh", "-c", &script]).status();
        assert!(status.unwrap().success());
    }

    const SERVICE: &str = "[service.web]\ncommand = [\"sleep\", \"1000\"]\n";

    /// A stranger whose parent is dead, that tells of its SIGTERM; `$1` is what it does then.
    const STRANGER: &str = r#"
        setsid --fork sh -c 'trap "echo asked >@D/reports; $1" TERM
        echo stranger >@D/reports
        while :; do sleep 1000 & wait; done' sh"#;

    /// Programs that double-fork (start-stop-daemon --background does) leave their children to process 1; whoever does
    /// not wait for them collects zombies until no process can be made.
    #[test]
    fn daemons_that_fork_twice_leave_no_zombies() {
        let place = Place::new();
        // It ends only as a child of process 1, and so as an orphan.
        let orphan = "while read -r _ _ _ parent _ </proc/$$/stat; [ $parent != 1 ]; do :; done; echo >>@D/orphans";
        place.write("orphan", orphan);
        let script = r#"
            for i in $(seq 200); do
                start-stop-daemon --start --background --pidfile @D/none --startas /bin/sh -- @D/orphan
            done
            while [ "$(wc -l <@D/orphans)" != 200 ]; do :; done
            echo all >@D/reports"#;
        let hale = process_1(&place, "", SERVICE);
        hale.ready("web");
        inside(&hale, script);
        place.report("all");
        let zombies = || children(hale.guardian()).into_iter().filter(|&pid| is_zombie(pid)).count();
        let begin = Instant::now();
        // The last one has said that it ends, and may live for a moment more.
        while (zombies() > 0 || children(hale.guardian()).len() > 3) && begin.elapsed() < PATIENCE {}
        assert_eq!(zombies(), 0);
        // Supervisor, keeper and the service.
        assert_eq!(children(hale.guardian()).len(), 3);
        hale.stop();
    }

    /// The kernel throws away what process 1 does not handle. Services first, each with its grace, then strangers.
    #[test]
    fn sigterm_from_inside_ends_services_in_order_then_strangers() {
        let place = Place::new();
        let service = |name: &str, after: &str| {
            format!(
                "[service.{name}]\nafter = [{after}]\ncommand = [\"sh\", \"-c\", \"trap 'echo {name} ends >@D/reports; exit 0' \
                 TERM; while :; do sleep 1000 & wait; done\"]\n"
            )
        };
        let mut hale = process_1(&place, "", &[service("db", ""), service("web", "\"db\"")].concat());
        hale.ready("web");
        inside(&hale, &STRANGER.replace("$1", "exit"));
        place.report("stranger");
        inside(&hale, "kill -TERM 1");
        assert_eq!(hale.wait(), Some(0));
        for what in ["web ends", "db ends", "asked"] {
            place.report(what);
        }
        place.assert_nobody_left();
        place.done(&["ledger", "verify"]);
    }

    /// SIGPWR is how LXC asks a container to end.
    #[test]
    fn a_stranger_that_does_not_want_to_end_is_killed_and_sigpwr_is_an_order() {
        let place = Place::new();
        let mut hale = process_1(&place, "", SERVICE);
        hale.ready("web");
        inside(&hale, &STRANGER.replace("$1", ":"));
        place.report("stranger");
        hale.signal(Signal::POWER);
        place.report("asked");
        assert_eq!(hale.wait(), Some(0));
    }

    /// What whoever made the namespace sees of reboot(2) in it.
    #[test]
    fn a_container_can_end_as_one_that_asks_for_a_reboot() {
        for (as_init, signal) in [("reboot", Signal::HUP), ("power_off", Signal::INT)] {
            let place = Place::new();
            let mut hale = process_1(&place, &format!("as_init = \"{as_init}\""), SERVICE);
            hale.ready("web");
            // On a machine this would be ctrl-alt-del.
            send(hale.guardian(), Signal::INT);
            assert_eq!(hale.wait_status().signal(), Some(signal.as_raw()));
            place.assert_nobody_left();
            place.done(&["ledger", "verify"]);
        }
    }

    #[test]
    fn a_configuration_that_cannot_be_used_ends_a_container_at_once() {
        let place = Place::new();
        let mut hale = process_1(&place, "as_init = \"reboot\"", "[service.web]\ncomand = []\n");
        hale.says("unknown key `comand`");
        assert_eq!(hale.wait(), Some(78));
    }

    /// A root with nothing but programs in it, as in an initramfs: what is missing is said, with the command that helps.
    #[test]
    fn a_bare_root_is_told_what_it_lacks() {
        let place = Place::new();
        place.write(
            "hale.toml",
            "[host]\nstate_dir = \"/state\"\nruntime_dir = \"/run\"\n[service.web]\ncommand = [\"sleep\", \"9\"]\n",
        );
        let root = place.path("root");
        fs::create_dir_all(root.join("proc")).unwrap();
        fs::create_dir_all(root.join("dev")).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_hale"), root.join("hale")).unwrap();
        fs::rename(place.path("hale.toml"), root.join("hale.toml")).unwrap();
        let mut mounts = String::new();
        for folder in ["usr", "bin", "lib", "lib64"] {
            let host = std::path::Path::new("/").join(folder);
            if let Ok(target) = fs::read_link(&host) {
                std::os::unix::fs::symlink(target, root.join(folder)).unwrap();
            } else if host.is_dir() {
                fs::create_dir(root.join(folder)).unwrap();
                mounts.push_str(&format!("mount --rbind /{folder} @D/root/{folder} && "));
            }
        }
        let start = |more: &str| {
            let mut command = Command::new("unshare");
            let script = format!("{mounts}{more}exec chroot @D/root /hale run /hale.toml");
            command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", &place.text(&script)]);
            place.hale_as_process_1(command)
        };
        let mut hale = start("");
        hale.says("error: /proc is not mounted: `mount -t proc proc /proc`");
        assert_eq!(hale.wait(), Some(1));
        let proc = "mount -t proc proc @D/root/proc && ";
        let mut hale = start(proc);
        hale.says("error: there is no device /dev/null: `mount -t devtmpfs devtmpfs /dev`");
        assert_eq!(hale.wait(), Some(1));
        let mut hale =
            start(&format!("{proc}mount -t tmpfs dev @D/root/dev && mknod -m 666 @D/root/dev/null c 1 3 && "));
        hale.ready("web");
        hale.signal(Signal::TERM);
        assert_eq!(hale.wait(), Some(0));
    }
}
