//! What Hale wrote down, by `hale ledger show`: what happened, and when, to the microsecond.

use crate::figures::GAVE_UP;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Between two looks at the ledger, which has the exact times.
const PAUSE: Duration = Duration::from_millis(20);

/// The ledger of the Hale that runs with a configuration.
#[derive(Clone, Copy)]
pub struct Ledger<'a> {
    /// The binary.
    pub hale: &'a Path,
    /// The configuration.
    pub configuration: &'a Path,
}

/// One record.
pub struct Record(Value);

impl Record {
    /// When, in microseconds on `CLOCK_MONOTONIC`.
    pub fn at_us(&self) -> Option<u64> {
        self.0["at"]["mono"].as_u64()
    }

    /// Whether it is of this kind.
    pub fn is(&self, kind: &str) -> bool {
        self.0["kind"] == kind
    }

    /// Whether a part's generations (`generation` or `files`) made this move.
    pub fn moved(&self, part: &str, step: &str) -> bool {
        self.is(part) && self.0["move"] == step
    }

    /// Whether an incident ended in this way.
    pub fn closed(&self, outcome: &str) -> bool {
        self.is("incident_closed") && self.0["outcome"] == outcome
    }
}

impl Ledger<'_> {
    /// All records, oldest first.
    pub fn records(self) -> Result<Vec<Record>, String> {
        let mut command = Command::new(self.hale);
        command.args(["ledger", "show", "--json", "-c"]).arg(self.configuration);
        let shown = command.output().map_err(|e| format!("cannot ask for the ledger: {e}"))?;
        let lines = String::from_utf8_lossy(&shown.stdout).into_owned();
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(lines.map(|mut line| Record(line["rec"].take())).collect())
    }

    /// When the one after `seen` others of a sort was written.
    pub fn next(self, seen: &mut usize, is_it: impl Fn(&Record) -> bool, what: &str) -> Result<u64, String> {
        let begin = Instant::now();
        while begin.elapsed() < GAVE_UP {
            let records = self.records()?;
            if let Some(at) = records.iter().filter(|record| is_it(record)).nth(*seen).and_then(Record::at_us) {
                *seen += 1;
                return Ok(at);
            }
            std::thread::sleep(PAUSE);
        }
        Err(format!("{what} is not in the ledger after {} s", GAVE_UP.as_secs()))
    }
}
