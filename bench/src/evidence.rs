//! How long Hale looks at a hung service before it decides: what a decision waits for.

use crate::figures::{GAVE_UP, RESTS_FROM, ROUNDS, Spread, figure};
use crate::numbers::Numbers;
use crate::proc::{busy_since, machine_ticks};
use crate::report::{Figure, Goal};
use crate::status::Client;
use crate::supervisors::{Kind, RESTART_AT_ONCE, Tools, start_hale};
use rustix::process::Signal;
use std::process::Command;
use std::time::Duration;

/// Where the service answers.
const PORT: u16 = 18_941;
/// How many threads it has, beside its main one.
const THREADS: u32 = 63;
/// How many connections to itself it has, of two descriptors each.
const CONNECTIONS: u32 = 500;

/// By the records of as many incidents.
pub fn evidence(tools: &Tools) -> Result<Vec<Figure>, String> {
    let threads = THREADS + 1;
    let descriptors = 2 * CONNECTIONS;
    let title =
        format!("a look at a hung service with {threads} threads and {descriptors} sockets, from its order to its end");
    let mut figure = figure(&title, "ms", Goal::P95(100.0));
    let before = machine_ticks();
    let toml = |fifo: &std::path::Path| {
        format!(
            "[service.hang]\ncommand = [{:?}, {fifo:?}, \"0\", \"--threads\", \"{THREADS}\", \"--connections\", \"{CONNECTIONS}\", \
             \"--http\", \"{PORT}\"]\nopen_files_limit = 4096\nstop = {{ grace = \"0s\" }}\n{RESTART_AT_ONCE}\n[[service.hang.check]]\n\
             kind = \"http\"\nurl = \"http://127.0.0.1:{PORT}/\"\nevery = \"200ms\"\ntimeout = \"100ms\"\nfailures = 3\n",
            tools.agent
        )
    };
    let (mut running, configuration) = start_hale(tools, "evidence", 1, toml)?;
    let client = Client::new(&tools.hale, &configuration);
    let mut spread = Spread::new(3);
    let mut since = None;
    running.starts.all_after(&[0], 0, GAVE_UP)?.ok_or("the service did not come up")?;
    for _ in 0..ROUNDS {
        client.healthy_after("hang", since, GAVE_UP)?;
        std::thread::sleep(Duration::from_secs_f64(RESTS_FROM + spread.next()));
        since = Some(jiff::Timestamp::now());
        let stopped = running.starts.signal(0, Signal::STOP)?;
        running.starts.all_after(&[0], stopped, GAVE_UP)?.ok_or("the hung service was not replaced")?;
    }
    client.healthy_after("hang", since, GAVE_UP)?;
    let output = Command::new(&tools.hale).args(["incidents", "--json", "-c"]).arg(&configuration).output();
    let output = output.map_err(|e| format!("cannot run {}: {e}", tools.hale.display()))?;
    let incidents: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("hale incidents --json: {e}"))?;
    let mut took = Vec::new();
    for incident in incidents.as_array().into_iter().flatten() {
        let found = &incident["evidence"]["examination"];
        if found["threads"] != threads
            || found["descriptors"].as_u64() < Some(descriptors.into())
            || found["partial"] != false
        {
            return Err(format!("a look did not see all of it: {found}"));
        }
        took.extend(found["took_ms"].as_f64());
    }
    if took.len() != ROUNDS {
        return Err(format!("{} looks in {ROUNDS} incidents", took.len()));
    }
    figure.add(Kind::Hale, Numbers(took), "");
    figure.busy = busy_since(before);
    running.stop()?;
    Ok(vec![figure])
}
