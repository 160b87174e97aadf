//! Memory and limits: what the kernel's OOM killer did, and what it could not be told to do.

use crate::harness::Place;

/// systemd tells `oom-kill` from `signal` by its cgroup's count alone; where that cannot be had, the kernel's log can.
mod needs_root {
    mod needs_memory_v1 {
        use crate::harness::Place;
        use rustix::process::Signal;
        use std::fs;
        use std::path::PathBuf;

        /// A memory group of v1 below this process's own, as only a hybrid host has it: the OOM killer is real, and Hale,
        /// which uses v2 only, knows nothing of the group.
        struct Group(PathBuf);

        impl Group {
            fn new() -> Self {
                let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
                let own = groups.lines().find_map(|line| line.split_once(":memory:")).unwrap().1;
                let path = PathBuf::from(format!("/sys/fs/cgroup/memory{own}/hale-test-{}", std::process::id()));
                fs::create_dir(&path).unwrap();
                fs::write(path.join("memory.limit_in_bytes"), (32 << 20).to_string()).unwrap();
                Self(path)
            }
        }

        impl Drop for Group {
            fn drop(&mut self) {
                let _ = fs::remove_dir(&self.0);
            }
        }

        #[test]
        fn an_oom_kill_is_told_from_any_other_sigkill_by_the_kernels_log() {
            let place = Place::new();
            let group = Group::new();
            let (join, hale) = (group.0.join("cgroup.procs"), env!("CARGO_BIN_EXE_hale"));
            let service = format!(
                r#"
[service.hungry]
command = ["sh", "-c", """
if test -e @D/fed; then echo lives >@D/reports; exec sleep 1000; fi
touch @D/fed; echo $$ >{}; exec {hale} demo-service hog 256
"""]
"#,
                join.display()
            );
            let running = place.hale(&service);
            running.started("hungry");
            running.event("hungry", "killed by the kernel for memory: a memory cgroup that it is in was at its limit");
            let pid = running.started("hungry");
            running.event("hungry", "recovered");
            place.report("lives");
            crate::harness::send(pid, Signal::KILL);
            running.event("hungry", "was ended by SIGKILL");
            running.event("hungry", "recovered");
            running.stop();
            let causes: Vec<String> = place.causes("hungry").into_iter().map(|(cause, _)| cause).collect();
            assert_eq!(causes, ["oom", "signal"]);
        }
    }

    mod needs_controllers {
        use crate::harness::Place;
        use serde_json::json;

        const WEB: &str = r#"
[service.web]
command = ["@B", "demo-service", "web", "--port", "@P"]
memory_limit = "48MiB"
tasks_limit = 16
cpu_weight = 50
[[service.web.check]]
kind = "tcp"
address = "127.0.0.1:@P"
"#;

        fn web(place: &Place) -> String {
            place.text(WEB).replace("@B", env!("CARGO_BIN_EXE_hale"))
        }

        /// Asks `web`, and does not care whether it lives to answer.
        fn ask(place: &Place, path: &str) -> String {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", place.address.port())).unwrap();
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            answer
        }

        #[test]
        fn a_leak_against_its_limit_is_oom_with_the_figures_beside_it_after_each_start() {
            let place = Place::new();
            let hale = place.hale(&web(&place));
            for _ in 0..2 {
                hale.event("web", "ready: ");
                let _ = ask(&place, "/break/leak?mib=256");
                hale.event("web", "killed by the kernel for memory: its cgroup was at its limit of 48 MiB, peak 4");
                hale.event("web", "recovered");
            }
            hale.stop();
            let incident = place.incidents()[1].clone();
            assert_eq!(incident["cause"], "oom");
            assert_eq!(incident["evidence"]["memory"]["limit_bytes"], json!(48 << 20));
        }

        #[test]
        fn a_worker_that_is_killed_for_memory_is_evidence_and_no_failure() {
            let place = Place::new();
            let hale = place.hale(&web(&place));
            hale.event("web", "ready: ");
            let _ = ask(&place, "/break/hog?mib=256");
            hale.event(
                "web",
                "the kernel killed one of its processes for memory: its cgroup was at its limit of 48 MiB",
            );
            assert!(ask(&place, "/health").contains("\"ok\""));
            hale.stop();
            assert!(place.incidents().is_empty());
        }

        #[test]
        fn a_fork_bomb_ends_at_the_limit_of_tasks() {
            let place = Place::new();
            let hale = place.hale(&web(&place));
            hale.event("web", "ready: ");
            let answer = ask(&place, "/break/forks?count=99");
            assert!(answer.contains("then: Resource temporarily unavailable"), "{answer}");
            hale.stop();
            place.assert_nobody_left();
        }
    }
}

#[test]
fn a_limit_that_cannot_be_enforced_is_never_silently_ignored() {
    let place = Place::new();
    let hale = place.hale("[service.idle]\ncommand = [\"sleep\", \"1000\"]\nmemory_limit = \"64MiB\"\n");
    hale.ready("idle");
    let said = hale.said().iter().any(|line| line.contains("memory_limit of idle is not enforced: "));
    let doctor = place.run(&["doctor", "--json"]);
    let doctor: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let host_lacks = doctor["missing"].as_array().unwrap().iter().any(|missing| {
        let feature = missing["feature"].as_str().unwrap();
        feature == "cgroup v2" || feature == "cgroup v2 controller memory"
    });
    let warned = place.run(&["validate"]).stderr;
    let warned = String::from_utf8_lossy(&warned).contains("memory_limit of idle is not enforced");
    assert_eq!(warned, host_lacks, "validate and doctor disagree");
    let limit = limit_in_force(hale.supervisor(), "idle");
    assert_eq!(limit.is_none(), said, "{limit:?}");
    hale.stop();
    assert!(place.incidents().is_empty());
}

#[test]
fn doctor_finds_the_guardian_and_tells_what_is_above_it() {
    let place = Place::new();
    let doctor = |place: &Place| -> serde_json::Value {
        serde_json::from_slice(&place.run(&["doctor", "--json"]).stdout).unwrap()
    };
    let hale = place.hale("[service.idle]\ncommand = [\"sleep\", \"1000\"]\n");
    hale.ready("idle");
    let report = doctor(&place);
    assert_eq!(report["guardian"], parent(hale.supervisor()).unwrap());
    let gap = report["missing"].as_array().unwrap().iter().any(|found| found["feature"] == "hardware timer above Hale");
    // No test has a timer of its own; somebody else's may run, which not everybody can see.
    assert!(!report["watchdog"]["closed"].as_bool().unwrap());
    assert_eq!(gap, !report["watchdog"]["chain"].as_str().unwrap().contains("only root can see"));
    hale.stop();
    assert_eq!(doctor(&place)["guardian"], serde_json::Value::Null);
}

fn parent(pid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// `memory.max` of a service's group, as the kernel has it.
fn limit_in_force(supervisor: i32, service: &str) -> Option<String> {
    let children = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let group = children(parent(supervisor)?).split(' ').find_map(|pid| {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
        path.ends_with(&format!("/{service}")).then(|| path.to_owned())
    })?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?.to_owned();
    std::fs::read_to_string(format!("{mount}{group}/memory.max")).ok().filter(|limit| limit.trim() != "max")
}
