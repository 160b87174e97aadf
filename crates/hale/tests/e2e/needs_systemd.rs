//! The unit under a real systemd, which is process 1 of namespaces of its own. Its kernel is this machine's, so that what
//! Linux 6.15 and later tell of processes that ended while nobody was there can be seen; it has no controllers, for which
//! there is `cargo xtask vm systemd`.

use crate::harness::{PATIENCE, Place, children, own_cgroup};
use serde_json::Value;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

/// Words in front of a command to run it in the namespaces of a process.
const ENTER: &[&str] = &["--mount", "--pid", "--cgroup", "--ipc", "--uts", "--root", "--wd"];

/// A systemd with the unit, in a place of its own.
struct Booted {
    place: Place,
    unshare: Child,
    cgroup: PathBuf,
}

impl Deref for Booted {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Booted {
    /// Boots it. `drop_in` is for the `[Service]` section of the unit; `services` for `hale.toml`.
    fn new(drop_in: &str, services: impl FnOnce(&Place) -> String) -> Self {
        let mut place = Place::new();
        place.configure("", &services(&place));
        fs::copy(env!("CARGO_BIN_EXE_hale"), place.path("hale")).unwrap();
        let system = place.path("systemd/system");
        fs::create_dir_all(system.join("hale.service.d")).unwrap();
        let unit = include_str!("../../../../packaging/systemd/hale.service");
        fs::write(system.join("hale.service"), unit).unwrap();
        fs::write(system.join("hale.service.d/test.conf"), format!("[Service]\n{drop_in}\n")).unwrap();
        fs::write(system.join("box.target"), "[Unit]\nDescription=Nothing\n").unwrap();
        place.write("box.sh", include_str!("systemd_box.sh"));

        let directory = place.path("x").parent().unwrap().to_owned();
        // As unique as that is.
        let cgroup = own_cgroup().unwrap().join(directory.file_name().unwrap());
        fs::create_dir(&cgroup).unwrap();
        // Nothing of it outlives this test, even one that is killed.
        let script = "echo 0 >\"$0/cgroup.procs\" && exec setpriv --pdeathsig KILL \
                      unshare --pid --fork --kill-child --mount --cgroup --ipc --uts sh \"$1/box.sh\" \"$1\"";
        let mut unshare = Command::new("sh");
        unshare.args(["-c", script]).arg(&cgroup).arg(&directory).stdin(Stdio::null());
        let unshare = unshare.spawn().unwrap();
        let begin = Instant::now();
        let is_systemd =
            |pid: &i32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("systemd"));
        let systemd = loop {
            if let Some(pid) = children(unshare.id().cast_signed()).into_iter().find(is_systemd) {
                break pid;
            }
            assert!(begin.elapsed() < PATIENCE, "systemd was not started");
            std::thread::yield_now();
        };
        let enter = ["nsenter".to_owned(), "--target".to_owned(), systemd.to_string()];
        place.wrapper = enter.into_iter().chain(ENTER.iter().map(|&word| word.to_owned())).collect();
        let booted = Self { place, unshare, cgroup };
        while booted.sh("systemctl is-system-running --wait").stdout != b"running\n" {
            assert!(begin.elapsed() < PATIENCE, "systemd is not up: {:?}", booted.sh("systemctl list-units --failed"));
        }
        booted
    }

    /// Runs a script inside.
    fn sh(&self, script: &str) -> Output {
        let words = &self.place.wrapper;
        Command::new(&words[0]).args(&words[1..]).args(["sh", "-c", script]).output().unwrap()
    }

    /// The same, and it must succeed.
    #[track_caller]
    fn must(&self, script: &str) -> String {
        let output = self.sh(script);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        assert!(output.status.success(), "{script}: {text}");
        text
    }

    /// A property of the unit.
    fn show(&self, property: &str) -> String {
        self.must(&format!("systemctl show hale.service --property {property} --value"))
    }

    /// Sends a signal to one of Hale's own processes: the guardian, "supervisor" or "keeper".
    fn signal(&self, signal: &str, part: &str) {
        match part {
            "guardian" => self.must(&format!("systemctl kill --signal={signal} --kill-who=main hale.service")),
            part => self.must(&format!(
                "main=$(systemctl show hale.service --property MainPID --value)
                for pid in $(cat /proc/$main/task/$main/children); do
                    case \"$(tr '\\0' ' ' </proc/$pid/cmdline)\" in \"hale {part}\"*) kill -s {signal} $pid ;; esac
                done"
            )),
        };
    }

    /// Waits until the main process has become this.
    #[track_caller]
    fn await_comm(&self, comm: &str) {
        let begin = Instant::now();
        while self
            .sh(&format!("grep -qx {comm} /proc/$(systemctl show hale.service --property MainPID --value)/comm"))
            .status
            .code()
            != Some(0)
        {
            assert!(begin.elapsed() < PATIENCE, "the main process has not become {comm}");
        }
    }

    /// Waits until `systemctl show` says this of the unit.
    #[track_caller]
    fn await_property(&self, property: &str, value: &str) {
        let begin = Instant::now();
        while self.show(property) != value {
            assert!(begin.elapsed() < PATIENCE, "{property} is {}, not {value}", self.show(property));
        }
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = self.sh("journalctl --no-pager --output=short-precise --lines=200");
            eprintln!("--- journal\n{}", String::from_utf8_lossy(&journal.stdout));
            eprintln!("--- reports\n{}", self.place.reported().join("\n"));
        }
        // With its first process a pid namespace ends (pid_namespaces(7)).
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let events = self.cgroup.join("cgroup.events");
        let begin = Instant::now();
        while fs::read_to_string(&events).is_ok_and(|text| text.contains("populated 1")) && begin.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
        remove_groups(&self.cgroup);
    }
}

fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// Whether this kernel tells how a process ended whose parent was gone (`PIDFD_INFO_EXIT`, Linux 6.15).
fn tells_ends() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let numbers: Vec<u32> = release.split(['.', '-']).map_while(|part| part.parse().ok()).take(2).collect();
    numbers >= vec![6, 15]
}

mod needs_python {
    use super::*;
    use crate::writers::{Crashes, assert_all, await_all, configuration, pid, service, up};

    const SERVICES: usize = 10;

    /// How often something of Hale's own dies; many times in a row is done by `HALE_TEST_KILLS=1000`.
    fn kills() -> u64 {
        std::env::var("HALE_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(24)
    }

    #[test]
    fn whoever_of_hale_is_killed_no_service_notices() {
        let booted = Booted::new("", |place| configuration(place, SERVICES));
        booted.must("systemctl start hale");
        // Active means that it works: nothing is waited for.
        booted.done(&["status"]);
        let mut pids = await_all(&booted, SERVICES);
        let mut crashes = Crashes::new();
        for (round, number) in (0..kills()).zip((0..SERVICES).cycle()) {
            match round % 6 {
                3 => booted.signal("KILL", "supervisor"),
                4 => booted.signal("KILL", "keeper"),
                // All at once; some may be gone with the guardian before it is their turn.
                5 => drop(booted.sh("kill -s KILL $(cat /sys/fs/cgroup/system.slice/hale.service/cgroup.procs)")),
                _ => booted.signal("KILL", "guardian"),
            }
            // Each second one crashes while nobody may be there to see it.
            if round % 2 == 0 {
                booted.must(&format!("kill -s USR1 {}", pids[number]));
                *crashes.entry(number).or_default() += 1;
                pids[number] = pid(&booted.report(&up(number)));
            }
            match round % 8 {
                1 => drop(booted.must("systemctl daemon-reload")),
                // It answers nobody until it is itself again.
                2 => drop(booted.must("systemctl daemon-reexec; until systemctl show >/dev/null 2>&1; do :; done")),
                _ => {}
            }
            assert_eq!(booted.status(&service(number))["pid"], pids[number]);
        }
        for (number, &pid) in pids.iter().enumerate() {
            let shown = booted.status(&service(number));
            let restarts = crashes.get(&number).copied().unwrap_or(0);
            assert_eq!((&shown["pid"], &shown["restarts"]), (&pid.into(), &restarts.into()));
        }
        booted.must("systemctl stop hale");
        assert_eq!((booted.show("ActiveState"), booted.show("Result")), ("inactive".into(), "success".into()));
        assert_all(&booted, SERVICES, &crashes, tells_ends());
        booted.done(&["ledger", "verify"]);
        booted.assert_nobody_left();
        assert_eq!(booted.show("NFileDescriptorStore"), "0");
    }
}

const SLEEPER: &str = "[service.web]\ncommand = [\"sleep\", \"100000\"]\n";

/// The pid of the sleeper, once it has one: active means that Hale works, not that its services do.
fn pid_of_web(booted: &Booted) -> Value {
    booted.done(&["start", "web"]);
    booted.status("web")["pid"].clone()
}

#[test]
fn a_guardian_that_hangs_is_replaced_by_the_watchdog_of_systemd() {
    let booted = Booted::new("WatchdogSec=1s", |_| SLEEPER.to_owned());
    booted.must("systemctl start hale");
    let pid = pid_of_web(&booted);
    for round in 1..=2 {
        booted.signal("STOP", "guardian");
        booted.await_property("NRestarts", &round.to_string());
        booted.await_property("ActiveState", "active");
        assert_eq!(booted.status("web")["pid"], pid);
    }
    assert!(booted.must("journalctl --unit=hale --no-pager").contains("Watchdog timeout"));
    booted.must("systemctl stop hale");
    booted.assert_nobody_left();
}

#[test]
fn a_restart_of_the_unit_stops_everything_and_starts_it_anew() {
    let booted = Booted::new("", |_| SLEEPER.to_owned());
    booted.must("systemctl start hale");
    let pid = pid_of_web(&booted);
    booted.must("systemctl restart hale");
    assert_ne!(pid_of_web(&booted), pid);
    assert_eq!(booted.records("", "began").len(), 2);
    assert!(booted.records("", "took_over").is_empty());
    booted.must("systemctl stop hale");
    booted.assert_nobody_left();
}

#[test]
fn a_stop_that_takes_too_long_leaves_nothing() {
    let stubborn = "[service.stubborn]\ncommand = [\"sh\", \"-c\", \"trap '' TERM; echo up >@D/reports; sleep 100000 & wait; \
                    sleep 100000\"]\nstop.grace = \"1h\"\n";
    let booted = Booted::new("TimeoutStopSec=1s", |place| place.text(stubborn));
    booted.must("systemctl start hale");
    booted.report("up");
    booted.must("systemctl stop hale");
    assert_eq!(booted.show("Result"), "timeout");
    booted.assert_nobody_left();
}

/// There is no main process to stop then, and nothing that systemd would run: what goes on is ended by the next start.
#[test]
fn a_stop_right_after_a_death_is_made_good_by_the_next_start() {
    let booted = Booted::new("RestartSec=1h", |_| SLEEPER.to_owned());
    booted.must("systemctl start hale");
    let pid = pid_of_web(&booted);
    booted.signal("KILL", "guardian");
    booted.await_property("SubState", "auto-restart");
    booted.must("systemctl stop hale");
    assert_eq!(booted.show("ActiveState"), "inactive");
    booted.must(&format!("[ -e /proc/{pid} ] && systemctl start hale && [ ! -e /proc/{pid} ]"));
    booted.done(&["start", "web"]);
    assert_eq!(booted.living().len(), 1);
    booted.signal("KILL", "guardian");
    booted.await_property("SubState", "auto-restart");
    booted.must("systemctl stop hale && systemctl kill --signal=KILL hale");
    booted.await_property("ActiveState", "inactive");
    let begin = Instant::now();
    while !booted.living().is_empty() {
        assert!(begin.elapsed() < PATIENCE, "{:?} go on", booted.living());
    }
}

#[test]
fn a_configuration_that_cannot_be_used_is_told_and_not_tried_again() {
    let booted = Booted::new("", |_| "[service.web]\ncomand = [\"sleep\"]\n".to_owned());
    assert!(!booted.sh("systemctl start hale").status.success());
    assert_eq!((booted.show("ActiveState"), booted.show("ExecMainStatus")), ("failed".into(), "78".into()));
    assert_eq!(booted.show("NRestarts"), "0");
    assert!(booted.must("journalctl --unit=hale --no-pager").contains("did you mean `command`"));
}

/// Hale itself replaces a supervisor that does not get to its first step, for as long as it takes; a guardian that hangs meanwhile
/// is systemd's.
#[test]
fn a_guardian_that_hangs_before_hale_is_ready_is_replaced_too() {
    let booted = Booted::new("WatchdogSec=1s", |_| SLEEPER.to_owned());
    // With all that the unit requires; afterwards whoever looks up a group waits.
    booted.must("systemctl start hale && systemctl stop hale");
    booted.must("rm /etc/group && mkfifo /etc/group && systemctl start --no-block hale");
    booted.await_property("SubState", "start");
    booted.await_comm("hale-guardian");
    booted.signal("STOP", "guardian");
    booted.await_property("NRestarts", "1");
    booted.await_property("SubState", "start");
    booted.must("rm /etc/group && touch /etc/group");
    // The one that waits waits for ever.
    booted.signal("KILL", "supervisor");
    booted.await_property("ActiveState", "active");
    booted.must("systemctl stop hale");
    booted.assert_nobody_left();
}
