//! What Hale says of a service, by its command line.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Between two questions: asking costs processor time that the measured programs need.
const PAUSE: Duration = Duration::from_millis(100);

/// Asks one running Hale.
pub struct Client {
    hale: PathBuf,
    configuration: PathBuf,
}

/// A service that is healthy.
pub struct Healthy {
    /// Its main process.
    pub pid: i64,
    /// When it became healthy, to the millisecond, as Hale says.
    pub since: jiff::Timestamp,
}

impl Client {
    /// For the Hale that runs with `configuration`.
    pub fn new(hale: &Path, configuration: &Path) -> Self {
        Self { hale: hale.to_owned(), configuration: configuration.to_owned() }
    }

    /// Waits until the service is healthy, since after `after` if that is given.
    pub fn healthy_after(
        &self,
        service: &str,
        after: Option<jiff::Timestamp>,
        within: Duration,
    ) -> Result<Healthy, String> {
        let start = Instant::now();
        loop {
            if let Some(healthy) = self.healthy(service)
                && after.is_none_or(|after| healthy.since > after)
            {
                return Ok(healthy);
            }
            if start.elapsed() > within {
                return Err(format!("{service} is not healthy after {} s", within.as_secs()));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn healthy(&self, service: &str) -> Option<Healthy> {
        let mut command = Command::new(&self.hale);
        command.args(["status", "--json", "-c"]).arg(&self.configuration).stderr(Stdio::null());
        let status: Value = serde_json::from_slice(&command.output().ok()?.stdout).ok()?;
        let service = status["services"].as_array()?.iter().find(|entry| entry["name"] == service)?;
        let since = service["since"].as_str()?.parse().ok()?;
        (service["state"] == "healthy").then_some(Healthy { pid: service["pid"].as_i64()?, since })
    }
}

/// Sends SIGKILL; the time just before.
pub fn kill(pid: i64) -> Result<jiff::Timestamp, String> {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| format!("{pid} is no pid"))?;
    let before = jiff::Timestamp::now();
    kill_process(process, Signal::KILL).map_err(|e| format!("cannot kill pid {pid}: {e}"))?;
    Ok(before)
}
