//! When parts of Hale die: never two copies of a service, never a foreign process killed.

use crate::harness::{Place, await_end, children, is_alive, is_own, send};
use rustix::process::Signal;
use std::process::Stdio;

/// Takes a lock that its strays hold too, and tells when somebody has it already.
const ALONE: &str = r#"
[service.alone]
stop.grace = "100ms"
command = ["sh", "-c", """
exec 9>>@D/lock
flock -n 9 || { echo double $$ >@D/reports; exit 1; }
(setsid sh -c 'trap "" TERM; echo stray $$ >@D/reports; while :; do sleep 1000; done' &)
echo main $$ >@D/reports
while :; do sleep 1000 & wait $!; done
"""]
"#;

#[track_caller]
fn assert_never_double(place: &Place) {
    let reported = place.reported();
    assert!(!reported.iter().any(|line| line.starts_with("double")), "{reported:?}");
}

/// 2.8 (supervisord#892: "You can't"; #199, #168, #1101; pm2#2174; process-compose#347): the supervisor is killed and
/// started again, and there are two copies. Here with each part of Hale and all of their combinations.
#[test]
fn never_two_copies_whatever_of_hale_is_killed() {
    for killed in 1..8 {
        let place = Place::new();
        let mut hale = place.hale(ALONE);
        let first = hale.ready("alone");
        place.reports(&["main", "stray"]);
        let parts = [hale.guardian(), hale.supervisor(), hale.keeper()];
        let chosen: Vec<i32> = (0..3).filter(|part| killed & (1 << part) != 0).map(|part| parts[part]).collect();
        // Stopped first, so that none of them sees another one die.
        chosen.iter().for_each(|&pid| send(pid, Signal::STOP));
        chosen.iter().for_each(|&pid| send(pid, Signal::KILL));
        if !chosen.contains(&parts[0]) {
            // The guardian replaces them, and the service does not notice.
            chosen.iter().for_each(|&pid| await_end(pid));
            assert!(is_alive(first));
            assert_eq!(place.status("alone")["pid"], first);
            hale.stop();
            assert_never_double(&place);
            continue;
        }
        // What is left of it ends what it can by itself.
        parts.iter().for_each(|&pid| await_end(pid));
        assert_ne!(hale.wait(), Some(0));
        let hale = place.hale_again();
        let second = hale.ready("alone");
        place.reports(&["main", "stray"]);
        assert!(!is_alive(first));
        assert!(is_alive(second));
        hale.stop();
        assert_never_double(&place);
    }
}

/// Nobody waits for what is left of an earlier Hale: the next one starts while a stopped supervisor still has its files.
#[test]
fn a_supervisor_that_wakes_up_late_harms_nobody() {
    let place = Place::new();
    let mut hale = place.hale(ALONE);
    let first = hale.ready("alone");
    let (old, keeper) = (hale.supervisor(), hale.keeper());
    send(old, Signal::STOP);
    send(hale.guardian(), Signal::KILL);
    hale.wait();

    let hale = place.hale_again();
    let second = hale.ready("alone");
    assert!(!is_alive(first));
    send(old, Signal::CONT);
    await_end(old);
    await_end(keeper);
    assert!(is_alive(second));
    assert_eq!(place.status("alone")["pid"], second);
    hale.stop();
    assert_never_double(&place);
    // The old one held the ledger when the second began: what that did is there all the same.
    let pids: Vec<_> = place.records("alone", "spawned").iter().map(|r| r["process"]["pid"].as_i64()).collect();
    assert_eq!(pids, [Some(first.into()), Some(second.into())]);
}

/// Wherever in its work Hale is when its parts die, and whichever do: the next one starts exactly one copy.
#[test]
fn killed_at_any_moment_it_never_doubles_a_service() {
    // A seed for each run, so that many runs look at many moments; the message of a failure has it.
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let place = Place::new();
    let mut hale = place.hale(ALONE);
    for round in 0..10 {
        // So many lines of the service's own life are waited for: from none to a restart in progress.
        let moments = ["started pid", "ready: ", "detected: ", "started pid", "ready: "];
        for moment in &moments[..draw(6) as usize] {
            let line = hale.event("alone", moment);
            if *moment == "ready: " {
                let pid = place.status("alone")["pid"].as_i64().unwrap();
                send(i32::try_from(pid).unwrap(), Signal::KILL);
            }
            println!("round {round}: {line}");
        }
        let guardian = hale.guardian();
        let parts = children(guardian).into_iter().filter(|&pid| is_own(pid)).chain([guardian]);
        let mut chosen: Vec<i32> = parts.filter(|_| draw(2) == 1).collect();
        if draw(2) == 1 || chosen.is_empty() {
            chosen.push(guardian);
        }
        println!("round {round}: kill {chosen:?} of {guardian}");
        chosen.iter().for_each(|&pid| send(pid, Signal::KILL));
        hale.signal(Signal::TERM);
        hale.wait();
        hale = place.hale_again();
    }
    hale.ready("alone");
    hale.stop();
    assert_never_double(&place);
}

/// 2.8 again: two operators at once are not two services.
#[test]
fn many_orders_at_once_make_one_copy() {
    let place = Place::new();
    let hale = place.hale(ALONE);
    hale.ready("alone");
    let words = ["restart", "start", "stop", "restart", "start"];
    let order = |number: usize| {
        let mut command = place.command();
        command.args([words[number % words.len()], "alone"]).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let mut orders: Vec<_> = (0..20).map(order).collect();
    for order in &mut orders {
        // Some of them were overtaken by others, and say so.
        let _ = order.wait().unwrap();
    }
    place.done(&["start", "alone"]);
    assert_eq!(place.status("alone")["state"], "healthy");
    hale.stop();
    assert_never_double(&place);
}

mod needs_root {
    use super::*;
    use crate::harness::{as_nobody, rerun};
    use std::fs;
    use std::process::Command;

    /// 2.9 (nomad#23969: "killing random processes on reboot"): while no Hale runs, the service's pid becomes somebody
    /// else's. A pid namespace of its own makes that happen.
    #[test]
    fn a_pid_that_was_used_again_is_not_killed() {
        let namespace = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", "\"$@\"; exit $?", "sh"];
        if !rerun("survivors::needs_root::a_pid_that_was_used_again_is_not_killed", &namespace) {
            return;
        }
        for is_root in [true, false] {
            let mut place = Place::new();
            if !is_root {
                as_nobody(&mut place);
            }
            let mut hale = place.hale("[service.web]\ncommand = [\"sleep\", \"1000\"]\n");
            let pid = hale.ready("web");
            let parts = [hale.guardian(), hale.supervisor(), hale.keeper()];
            parts.iter().for_each(|&pid| send(pid, Signal::STOP));
            parts.iter().chain([&pid]).for_each(|&pid| send(pid, Signal::KILL));
            parts.iter().chain([&pid]).for_each(|&pid| await_end(pid));
            hale.wait();

            let mut foreign = loop {
                fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
                let words: Vec<&str> = place.wrapper.iter().map(String::as_str).chain(["sleep", "1000"]).collect();
                let mut child = Command::new(words[0]).args(&words[1..]).spawn().unwrap();
                if child.id().cast_signed() == pid {
                    break child;
                }
                child.kill().unwrap();
                child.wait().unwrap();
            };
            let hale = place.hale_again();
            assert_ne!(hale.ready("web"), pid);
            hale.stop();
            assert_eq!(foreign.try_wait().unwrap(), None, "Hale killed a process that was never its own");
            foreign.kill().unwrap();
            foreign.wait().unwrap();
        }
    }
}
