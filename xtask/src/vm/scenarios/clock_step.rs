//! A wall clock that is set ahead or back makes Hale restart nothing, end no deadline and open no incident.

use super::{SERVICES, await_healthy, configuration, expect_pid, json, pid_of};
use crate::tools::Outcome;
use crate::vm::guest::Guest;
use crate::vm::machine::{Bench, Machine};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// One after the other: each is further than any deadline, delay and window of the five services.
const STEPS_MIN: [i64; 2] = [10, -20];

/// So many further results of each check: more than the failures in a row after which any of them acts.
const RESULTS: usize = 4;

/// Four rounds of checks that are made every 2 s, in a machine that is emulated beside other work.
const WITHIN: Duration = Duration::from_secs(60);

pub fn run(bench: &Bench) -> Outcome {
    let mut guest = bench.boot_new(&Machine { files: vec![configuration()], ..Machine::default() })?;
    await_healthy(&mut guest)?;
    let pids = SERVICES.iter().map(|service| pid_of(&mut guest, service)).collect::<Outcome<Vec<_>>>()?;
    for minutes in STEPS_MIN {
        guest.must(&format!("date -s @$(($(date +%s) + {}))", minutes * 60))?;
        await_results(&mut guest)?;
        for (service, pid) in SERVICES.iter().zip(&pids) {
            expect_pid(&mut guest, service, *pid)?;
        }
        expect_untroubled(&mut guest)?;
    }
    guest.must("hale ledger verify").map(drop)
}

/// Waits for [`RESULTS`] of each check: how long a probe took is another number each time. A heartbeat's is always 0, and comes more
/// often.
fn await_results(guest: &mut Guest) -> Outcome {
    let deadline = Instant::now() + WITHIN;
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    loop {
        let status = json(guest, "hale status --json")?;
        for service in status["services"].as_array().into_iter().flatten() {
            let checks = service["checks"].as_array().into_iter().flatten();
            for check in checks.filter(|check| check["kind"] != "heartbeat") {
                let times = seen.entry(format!("{} {}", service["name"], check["name"])).or_default();
                let time = check["last_ms"].to_string();
                if times.last() != Some(&time) {
                    times.push(time);
                }
            }
        }
        // The first time of each was there before.
        if !seen.is_empty() && seen.values().all(|times| times.len() > RESULTS) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(guest.failure(&format!("checks are not made any more: {seen:?}")));
        }
    }
}

/// All are healthy, were never restarted, and have no incident, and there was none.
fn expect_untroubled(guest: &mut Guest) -> Outcome {
    let status = json(guest, "hale status --json")?;
    let services = status["services"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_well =
        |service: &Value| service["state"] == "healthy" && service["restarts"] == 0 && service["incident"].is_null();
    let incidents = json(guest, "hale incidents --json")?;
    if services.len() == SERVICES.len()
        && services.iter().all(is_well)
        && incidents.as_array().is_some_and(Vec::is_empty)
    {
        return Ok(());
    }
    Err(guest.failure(&format!("the clock troubled something: {status:#}\n{incidents:#}")))
}
