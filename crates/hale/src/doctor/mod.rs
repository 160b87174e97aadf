//! What `hale doctor` looks at beside the kernel's features: a file for each subject, and every look with a bound.

pub mod clocks;
pub mod disk;
pub mod fighting;
pub mod kernel;
pub mod limits;
pub mod permissions;

use hale_core::policy::Policy;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// How long one subject may take: a file system that hangs is the reason to ask a doctor, so it must not hang with it; all
/// that is read is in memory, and the slowest of it (systemd's list of units) has three seconds of its own.
const WITHIN: Duration = Duration::from_secs(5);

/// The most that is read of one file: the largest are lists of connections, some 150 bytes each.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Hale or a service does not work as it is.
    Fault,
    /// It works, until something happens.
    Risk,
    /// It could not be looked at, so nobody knows.
    Unseen,
    /// Good to know.
    Note,
}

impl Severity {
    /// The word that people and scripts read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::Risk => "risk",
            Self::Unseen => "unseen",
            Self::Note => "note",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What was looked at: `kernel`, `clocks`, `limits`, `permissions`, `disk`, `fighting`, `configuration`.
    pub subject: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The fact, with what was read.
    pub what: String,
    /// What Hale or a service cannot do because of it.
    pub cost: String,
    /// How to mend it.
    pub mend: String,
}

impl Finding {
    pub fn new(subject: &'static str, severity: Severity, what: &str, cost: &str, mend: &str) -> Self {
        Self { subject, severity, what: what.to_owned(), cost: cost.to_owned(), mend: mend.to_owned() }
    }

    /// Something that could not be looked at.
    pub fn unseen(subject: &'static str, what: &str, why: &str) -> Self {
        let cost = "nobody knows whether it is as it should be";
        Self::new(
            subject,
            Severity::Unseen,
            &format!("could not look at {what}: {why}"),
            cost,
            "look at it by hand, and run `hale doctor` as root if you did not",
        )
    }
}

/// Looks at everything, the worst first. Without a policy, at what needs none.
pub fn look(policy: Option<Policy>, guardian: Option<i32>) -> Vec<Finding> {
    let policy = policy.map(Arc::new);
    let with = |subject, look: fn(&Policy, Option<i32>) -> Vec<Finding>| {
        let policy = policy.clone()?;
        Some(bounded(subject, WITHIN, move || look(&policy, guardian)))
    };
    let subjects = [
        Some(bounded("kernel", WITHIN, kernel::look)),
        Some(bounded("clocks", WITHIN, clocks::look)),
        with("limits", limits::look),
        with("permissions", permissions::look),
        with("disk", |policy, _| disk::look(policy)),
        with("fighting", fighting::look),
    ];
    let mut found: Vec<Finding> = subjects.into_iter().flatten().flatten().collect();
    // Stable: within a severity in the order in which they were looked at.
    found.sort_by_key(|finding| finding.severity);
    found
}

/// Does `look` on a thread of its own. One that hangs ends with the process.
fn bounded(
    subject: &'static str,
    within: Duration,
    look: impl FnOnce() -> Vec<Finding> + Send + 'static,
) -> Vec<Finding> {
    let (tell, told) = channel();
    let started = thread::Builder::new().spawn(move || tell.send(look()));
    let why = match started {
        Err(error) => error.to_string(),
        Ok(_) => match told.recv_timeout(within) {
            Ok(found) => return found,
            Err(RecvTimeoutError::Timeout) => format!("no answer within {} s", within.as_secs_f32()),
            Err(RecvTimeoutError::Disconnected) => String::from("looking at it failed; please report that"),
        },
    };
    vec![Finding::unseen(subject, subject, &why)]
}

/// The text of a small file, bytes that are no text replaced.
pub fn read(path: impl AsRef<Path>) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// A policy of this text.
    pub fn policy(text: &str) -> Policy {
        let source = hale_config::Source { name: "hale.toml".into(), text: text.into() };
        let defaults =
            hale_config::HostDefaults { state_dir: "/s".into(), runtime_dir: "/r".into(), log_dir: "/l".into() };
        hale_config::parse(&[source], &defaults, "/").unwrap().policy
    }

    #[test]
    fn what_hangs_or_fails_is_told_as_not_seen_and_holds_nobody_up() {
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock().unwrap();
        let waits = {
            let gate = gate.clone();
            bounded("disk", Duration::from_millis(10), move || {
                drop(gate.lock());
                Vec::new()
            })
        };
        drop(closed);
        assert_eq!((waits[0].severity, waits.len()), (Severity::Unseen, 1));
        assert!(waits[0].what.contains("no answer within 0.01 s"), "{waits:?}");
        assert!(bounded("disk", WITHIN, Vec::new).is_empty());
    }
}
