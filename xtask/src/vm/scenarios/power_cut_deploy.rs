//! After a power cut between a switch and its proof, and at any moment of a deploy, the service runs what is known to be good, `current` leads to a
//! release that is whole, and the ledger tells what happened.

use super::json;
use super::power_cut::random;
use crate::tools::Outcome;
use crate::vm::guest::Guest;
use crate::vm::image::GuestFile;
use crate::vm::machine::{Bench, Machine};
use serde_json::Value;
use std::time::{Duration, Instant};

/// How many cuts come at random moments of deploys, and with `--full`.
const CUTS: u64 = 3;
const CUTS_FULL: u64 = 50;

/// A random cut comes between these, counted from the order: an emulated deploy of some megabytes takes as long, its probation included.
const EARLIEST: Duration = Duration::from_millis(200);
const LATEST: Duration = Duration::from_secs(14);

const WITHIN: Duration = Duration::from_secs(120);

const CONFIGURATION: &str = r#"
[service.app]
command = ["bin/app"]
[[service.app.check]]
kind = "exec"
command = ["bin/check"]
every = "500ms"
timeout = "10s"
[service.app.generations]
probation = "6s"
keep = 3
"#;

/// Makes a release of this name, of some megabytes that differ from all others.
const MAKE: &str = "mkdir -p /tmp/NAME/bin && cd /tmp/NAME && head -c 3000000 /dev/urandom >data && \
    printf '#!/bin/sh\\nexec sleep 100000\\n' >bin/app && printf '#!/bin/sh\\ntest -s data\\n' >bin/check && chmod 755 bin/*";

pub fn run(bench: &Bench) -> Outcome {
    // What has to stay free for the ledger is more than the usual disk has.
    let files = vec![GuestFile::text("/etc/hale/hale.toml", CONFIGURATION)];
    let machine = Machine { files, disk_mib: 512, ..Machine::default() };
    let mut guest = bench.boot_new(&machine)?;
    guest.await_console("stopped, because no release yet", WITHIN)?;
    make(&mut guest, "good")?;
    guest.must("hale deploy app /tmp/good")?;
    let good = runs(&mut guest)?;

    // Between the switch and the proof.
    make(&mut guest, "new")?;
    guest.must("hale deploy app /tmp/new --no-wait")?;
    await_switched(&mut guest, &good)?;
    guest.cut_power()?;
    let mut guest = bench.boot(&machine)?;
    expect_settled(&mut guest, Some(&good))?;
    let moves = "hale ledger show --json | grep '\"kind\":\"generation\"'";
    guest.must(&format!("{moves} | grep '\"move\":\"goes_back\"' | grep {good} | grep restarted_on_probation"))?;
    guest.must(&format!("{moves} | grep -c rolled_back"))?;
    // It is no evidence against it.
    guest.must("hale quarantine list | grep 'nothing is quarantined'")?;

    let (mut seed, mut last) = (bench.seed, good);
    for cut in 1..=if bench.full { CUTS_FULL } else { CUTS } {
        let answered = deploy_until_cut(guest, random(&mut seed), cut)?;
        guest = bench.boot(&machine)?;
        let now = expect_settled(&mut guest, None)?;
        if answered && now == last {
            return Err(guest.failure("a deploy that was answered is lost"));
        }
        last = now;
    }
    Ok(())
}

fn make(guest: &mut Guest, name: &str) -> Outcome {
    guest.must(&MAKE.replace("NAME", name)).map(drop)
}

/// The generation that the service's process is of, by the directory that it runs in.
fn runs(guest: &mut Guest) -> Outcome<String> {
    let pid = super::pid_of(guest, "app")?;
    let directory = guest.must(&format!("readlink /proc/{pid}/cwd"))?;
    Ok(directory.trim().rsplit('/').next().unwrap_or_default().to_owned())
}

/// Waits until another release than this one runs, on probation.
fn await_switched(guest: &mut Guest, before: &str) -> Outcome {
    guest.await_console("app: switched to", WITHIN)?;
    guest.await_console("app: started pid", WITHIN)?;
    guest.must("test $(hale generations app --json | tr -d ' \\n' | grep -c '\"stage\":\"probation\"') = 1")?;
    if runs(guest)? == before { Err(guest.failure("the release from before runs")) } else { Ok(()) }
}

/// Deploys a new release until the power is cut; whether the deploy was answered before.
fn deploy_until_cut(mut guest: Guest, random: u64, cut: u64) -> Outcome<bool> {
    make(&mut guest, "next")?;
    let spread_ms = u64::try_from((LATEST - EARLIEST).as_millis()).unwrap_or(u64::MAX);
    let after = EARLIEST + Duration::from_millis(random % spread_ms);
    let answer = guest.run_until("hale deploy app /tmp/next", Instant::now() + after)?;
    let answered = match answer {
        Some(answer) if answer.exit == 0 => true,
        Some(answer) => return Err(guest.failure(&format!("hale deploy: {} {}", answer.exit, answer.output))),
        None => false,
    };
    println!("cut {cut}: after {after:?}, the deploy was {}answered", if answered { "" } else { "not " });
    guest.cut_power().map(|()| answered)
}

/// All releases are what their ids say, by the faults that were found and not by the exit code: QEMU 7.2 forgets the flags of an instruction
/// whose write has to wait for its page (`seto` to memory), so that a guest computes now and then that what has no fault was not verified.
fn expect_whole(guest: &mut Guest) -> Outcome {
    let read = guest.run("hale generations app --verify --json")?;
    let known: Value = serde_json::from_str(&read.output).map_err(|e| format!("{e}: {}", read.output))?;
    let all = known["generations"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_read = |one: &Value| one["fault"].is_null() && !(one["kept"] == true && one["verified_at"].is_null());
    if all.is_empty() || !all.iter().all(is_read) {
        return Err(guest.failure(&format!("not all releases are whole: {known:#}")));
    }
    Ok(())
}

/// The service is healthy on a release that is known to be good, the `expected` one where only one can be; `current` leads to it, all releases
/// are what their ids say, no switch is under way, and the ledger verifies. Tells which release it is.
fn expect_settled(guest: &mut Guest, expected: Option<&str>) -> Outcome<String> {
    guest.await_console(" has begun", WITHIN)?;
    let settled = "hale generations app --json | tr -d ' \\n' | grep -q '\"switch\":null'";
    guest.must(&format!("for n in $(seq 60); do hale start app && {settled} && exit 0; sleep 1; done; exit 1"))?;
    guest.must("hale ledger verify")?;
    expect_whole(guest)?;
    let current = guest.must("readlink /var/lib/hale/releases/app/current")?.trim().to_owned();
    let now = runs(guest)?;
    let known = json(guest, "hale status app --json")?;
    let grade = known["services"][0]["grade"].as_str().unwrap_or_default().to_owned();
    let is_expected = expected.is_none_or(|expected| expected == now);
    if current != now || !is_expected || !matches!(grade.as_str(), "provisional" | "proven") {
        return Err(guest.failure(&format!("runs {now} ({grade}), current is {current}, expected {expected:?}")));
    }
    Ok(now)
}
