//! Under systemd the unit is active when Hale works, limits are in force, and no service notices that guardian, supervisor
//! or keeper dies or hangs, or that systemd executes itself anew; each end is told once, each line is there, and a stop leaves
//! nothing. Under Linux 6.1 the status of what ended while there was no guardian is unknown.

use crate::tools::Outcome;
use crate::vm::debian::Release;
use crate::vm::guest::Guest;
use crate::vm::image::GuestFile;
use crate::vm::machine::{Bench, Machine, System};
use serde_json::Value;
use std::time::Duration;

/// Deaths of the guardian one after the other, each as soon as systemd has started the next one.
const DEATHS: usize = 5;

/// How long a guardian that hangs may stay: `WatchdogSec=` and `TimeoutAbortSec=` of the unit, in a machine that is emulated
/// beside other work.
const WATCHDOG_WITHIN: Duration = Duration::from_secs(80);

/// Of the guest's shell: waits until the command is true.
const AWAIT: &str = "await() { while ! eval \"$1\"; do sleep 0.1; done; }; ";

/// Of the guest's shell: the guardian's pid, and that of a child of it.
const PIDS: &str = "guardian() { systemctl show hale --property MainPID --value; }
    own() {
        for pid in $(cat /sys/fs/cgroup/system.slice/hale.service/hale-self/cgroup.procs); do
            case $(tr '\\0' ' ' </proc/$pid/cmdline) in \"hale $1\"*) echo $pid ;; esac
        done
    }
    ";

/// Of the guest's shell: fails unless all lines of the counter are there, and gives how many times it said its last word.
const LINES: &str = "cat /var/log/hale/counter/* | perl -ne '
    next if /^hale: /;
    if (/^(\\d+) end$/) { die \"$1 after $n\" if $1 != $n; $n = 0; ++$ends; next }
    die \"$_ after $n\" if $_ != $n + 1; ++$n;
    END { print $ends + 0, \" \", $n + 0 }'";

const GROUP: &str = "/sys/fs/cgroup/system.slice/hale.service";

/// On systemd 252, which has to be helped to start Hale beside its services.
pub fn run(bench: &Bench) -> Outcome {
    run_on(bench, Release::Bookworm)
}

/// On systemd 257, which knows `DelegateSubgroup=` and needs no help.
pub fn run_on_newer(bench: &Bench) -> Outcome {
    run_on(bench, Release::Trixie)
}

fn run_on(bench: &Bench, release: Release) -> Outcome {
    let machine = Machine {
        system: System::Debian(release),
        files: vec![
            GuestFile::text("/etc/hale/hale.toml", include_str!("../guest/systemd.toml")),
            GuestFile::text(
                "/usr/lib/systemd/system/hale.service",
                include_str!("../../../../packaging/systemd/hale.service"),
            ),
            GuestFile::text(
                "/usr/lib/sysusers.d/hale.conf",
                include_str!("../../../../packaging/sysusers.d/hale.conf"),
            ),
        ],
        ..Machine::default()
    };
    let mut guest = bench.boot_new(&machine)?;
    unit_is_understood(&mut guest, release)?;
    guest.must("systemctl start hale && hale status")?;
    guest.must("for service in counter hog worker; do hale start $service; done")?;
    limits_are_in_force(&mut guest)?;
    let pids = pids(&mut guest)?;

    guest.must(&format!("kill -s USR1 {}", pids[0]))?;
    let pids = restarted(&mut guest, &pids)?;
    deaths_go_unnoticed(&mut guest, &pids)?;
    // What does not depend on the release is shown once.
    let is_whole = release == Release::Bookworm || bench.full;
    let pids = if is_whole {
        a_busy_systemd_and_a_hang_go_unnoticed(&mut guest, &pids)?;
        let pids = an_end_while_nobody_is_there_is_told_once(&mut guest, &pids)?;
        the_limit_is_enforced(&mut guest)?;
        pids
    } else {
        pids
    };
    helped_only_if_needed(&mut guest, release)?;
    // Of the counter: each time it was told to crash, the restart, the stop.
    a_stop_leaves_nothing(&mut guest, &pids, if is_whole { 4 } else { 3 })
}

/// systemd understands each line, the older one all but the one that is not for it; sysusers has made the groups at boot.
fn unit_is_understood(guest: &mut Guest, release: Release) -> Outcome {
    let said = guest.must("systemd-analyze verify hale.service 2>&1")?;
    let understood = match release {
        Release::Bookworm => said.lines().count() == 1 && said.contains("Unknown key 'DelegateSubgroup'"),
        Release::Trixie => said.is_empty(),
    };
    if !understood {
        return Err(guest.failure(&format!("systemd does not understand the unit: {said}")));
    }
    guest.must("getent group hale && getent group hale-admin").map(drop)
}

/// Controllers were taken back only where systemd could not start Hale beside its services.
fn helped_only_if_needed(guest: &mut Guest, release: Release) -> Outcome {
    let told = guest.must("journalctl --unit=hale --no-pager --output=cat")?;
    let refused = told.matches("status=219/CGROUP").count();
    let helped = told.matches("takes the controllers of its services back").count();
    if helped == refused && (helped > 0) == (release == Release::Bookworm) {
        return Ok(());
    }
    Err(guest.failure(&format!("systemd could not start Hale {refused} times, and was helped {helped} times")))
}

/// The kernel has the limits of a service, and Hale's own three processes are in the leaf.
fn limits_are_in_force(guest: &mut Guest) -> Outcome {
    let limits = guest.must(&format!("cd {GROUP}/hale-*/hog && cat memory.max pids.max cpu.weight"))?;
    if limits != "67108864\n50\n300\n" {
        return Err(guest.failure(&format!("the limits of hog are {limits}")));
    }
    let own = guest.must(&format!(
        "{AWAIT} await '[ $(wc -l <{GROUP}/hale-self/cgroup.procs) = 3 ]'; wc -l <{GROUP}/cgroup.procs"
    ))?;
    if own.trim() != "0" {
        return Err(guest.failure(&format!("{own} processes are in the unit's own group")));
    }
    Ok(())
}

/// Whoever of Hale dies: the services have the pids that they had, and the limits.
fn deaths_go_unnoticed(guest: &mut Guest, before: &[u64; 3]) -> Outcome {
    guest.must(&format!(
        "{AWAIT}{PIDS}
        for death in $(seq {DEATHS}); do
            await 'grep -q hale-guardian /proc/$(guardian)/comm 2>/dev/null'
            old=$(guardian)
            systemctl kill --signal=KILL --kill-who=main hale
            await '[ $(guardian) != $old ]'
        done"
    ))?;
    unnoticed(guest, before, "deaths of the guardian")?;
    for part in ["supervisor", "keeper"] {
        guest.must(&format!("{AWAIT}{PIDS} old=$(own {part}); kill -s KILL $old; await '[ ! -e /proc/$old ]'"))?;
        unnoticed(guest, before, part)?;
    }
    Ok(())
}

/// The same of a death while systemd executes itself anew, and of a guardian that hangs.
fn a_busy_systemd_and_a_hang_go_unnoticed(guest: &mut Guest, before: &[u64; 3]) -> Outcome {
    // It answers nobody until it is itself again.
    guest.must(&format!(
        "{AWAIT} systemctl daemon-reexec; await 'systemctl show >/dev/null 2>&1'
        systemctl daemon-reload && systemctl kill --signal=KILL --kill-who=main hale"
    ))?;
    unnoticed(guest, before, "a death behind daemon-reexec and daemon-reload")?;
    guest.must("systemctl kill --signal=STOP --kill-who=main hale")?;
    guest.await_console("hale.service: Watchdog timeout", WATCHDOG_WITHIN)?;
    guest.must(&format!("{AWAIT}{PIDS} await 'grep -q hale-guardian /proc/$(guardian)/comm 2>/dev/null'"))?;
    unnoticed(guest, before, "a hang of the guardian")
}

/// Once Hale is in control again, nothing has changed.
fn unnoticed(guest: &mut Guest, before: &[u64; 3], what: &str) -> Outcome {
    guest.must(&format!("{AWAIT} await 'systemctl is-active --quiet hale'"))?;
    let now = pids(guest)?;
    if now != *before {
        return Err(guest.failure(&format!("after {what} the pids are {now:?}, and were {before:?}")));
    }
    limits_are_in_force(guest)
}

/// A service that ends while there is no guardian is healed, and told with the status that Linux 6.1 does not keep.
fn an_end_while_nobody_is_there_is_told_once(guest: &mut Guest, before: &[u64; 3]) -> Outcome<[u64; 3]> {
    guest.must(&format!("systemctl kill --signal=KILL --kill-who=main hale; kill -s USR1 {}", before[0]))?;
    let pids = restarted(guest, before)?;
    let told = guest.must("hale ledger show --json")?;
    let exited = |record: &Value| record["kind"] == "exited" && record["service"] == "counter";
    let statuses: Vec<Value> =
        records(&told)?.into_iter().filter(exited).map(|record| record["status"].clone()).collect();
    if statuses != [serde_json::json!({"code": 7}), Value::from("unknown")] {
        return Err(guest.failure(&format!("the counter ended with {statuses:?}")));
    }
    Ok(pids)
}

/// The kernel takes a service for memory, and Hale knows why, although its controllers were taken back and handed down again.
fn the_limit_is_enforced(guest: &mut Guest) -> Outcome {
    let [_, hog, _] = pids(guest)?;
    guest.must(&format!("kill -s USR1 {hog}; {AWAIT} await '! [ -e /proc/{hog} ]'; hale start hog"))?;
    let incidents = guest.must("hale incidents --json")?;
    let incidents: Vec<Value> = serde_json::from_str(&incidents).map_err(|e| format!("{e}: {incidents}"))?;
    match incidents.iter().find(|incident| incident["service"] == "hog") {
        Some(incident) if incident["cause"] == "oom" => Ok(()),
        other => Err(guest.failure(&format!("hog was not taken for memory: {other:?}"))),
    }
}

/// A restart of the unit starts everything anew; a stop ends it, and what was kept, written and counted is as it should be.
fn a_stop_leaves_nothing(guest: &mut Guest, before: &[u64; 3], last_words: u64) -> Outcome {
    guest.must("systemctl restart hale && for service in counter hog worker; do hale start $service; done")?;
    let now = pids(guest)?;
    if now.iter().any(|pid| before.contains(pid)) {
        return Err(guest.failure(&format!("after a restart the pids are {now:?}, and were {before:?}")));
    }
    guest.must("systemctl stop hale")?;
    let shown = guest.must(
        "systemctl show hale --property ActiveState --property Result --property NFileDescriptorStore --value | tr '\\n' ' '",
    )?;
    if shown.split_whitespace().collect::<Vec<_>>() != ["0", "success", "inactive"] {
        return Err(guest.failure(&format!("after a stop: {shown}")));
    }
    guest.must(&format!(
        "! grep -shE '^(hale|perl)' /proc/[0-9]*/comm && [ ! -e {GROUP} ] && [ ! -e /run/hale ] && hale ledger verify"
    ))?;
    let lines = guest.must(LINES)?;
    if lines != format!("{last_words} 0") {
        return Err(guest.failure(&format!("last words of the counter, and lines behind them: {lines}")));
    }
    Ok(())
}

/// Returns once the counter has another process, and the other services have theirs.
fn restarted(guest: &mut Guest, before: &[u64; 3]) -> Outcome<[u64; 3]> {
    guest.must(&format!("{AWAIT} await '[ ! -e /proc/{} ]'; hale start counter", before[0]))?;
    let now = pids(guest)?;
    if now[0] == before[0] || now[1..] != before[1..] {
        return Err(guest.failure(&format!("after the end of the counter the pids are {now:?}, and were {before:?}")));
    }
    Ok(now)
}

/// The pids of the services, in the order of their names.
fn pids(guest: &mut Guest) -> Outcome<[u64; 3]> {
    let text = guest.must("hale status --json")?;
    let status: Value = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
    let pids = status["services"].as_array().into_iter().flatten().map(|service| service["pid"].as_u64());
    let pids: Option<Vec<u64>> = pids.collect();
    pids.and_then(|pids| pids.try_into().ok()).ok_or_else(|| guest.failure(&format!("not all services run: {text}")))
}

/// The records of the ledger, from `hale ledger show --json`.
fn records(lines: &str) -> Outcome<Vec<Value>> {
    let record = |line: &str| serde_json::from_str::<Value>(line).map(|line| line["rec"].clone());
    lines.lines().map(record).collect::<Result<_, _>>().map_err(|e| format!("{e}: {lines}"))
}
