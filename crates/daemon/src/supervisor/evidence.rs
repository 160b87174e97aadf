//! Evidence: reads the last lines of a service's output on a thread of its own, because the disk may hang.

use super::inbox::Inbox;
use crate::keeper::tail::last_lines;
use hale_core::event::Event;
use hale_core::ids::{IncidentId, Name};
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};

/// How many collections may wait: beyond it evidence is dropped, as evidence may be. A hundred services that fail at
/// once are read in some milliseconds.
const JOBS_MAX: usize = 256;

/// The most that is read back for one incident: 200 long lines, and bounded when a service writes without newlines.
const TAIL_BYTES_MAX: usize = 64 * 1024;

/// The longest line that is kept, in bytes; the rest of it stands in the log. 200 of them fit into one record.
const LINE_BYTES_MAX: usize = 256;

#[derive(Debug)]
struct Job {
    service: Name,
    directory: PathBuf,
    incident: IncidentId,
    lines: usize,
}

/// Reads output tails.
#[derive(Debug)]
pub(super) struct Collector {
    jobs: SyncSender<Job>,
}

impl Collector {
    /// Starts the thread.
    ///
    /// # Errors
    /// There can be no more threads.
    pub(super) fn start(inbox: Inbox) -> io::Result<Self> {
        let (jobs, queue) = sync_channel::<Job>(JOBS_MAX);
        std::thread::Builder::new().name(String::from("evidence")).spawn(move || {
            for job in queue {
                if let Ok(raw) = last_lines(&job.directory, job.lines, TAIL_BYTES_MAX) {
                    let lines = raw.iter().map(|line| clean(line)).collect();
                    inbox.send(Event::Collected { service: job.service, incident: job.incident, lines });
                }
            }
        })?;
        Ok(Self { jobs })
    }

    /// Has the last lines below `directory` read; dropped when too many wait.
    pub(super) fn collect(&self, service: Name, directory: PathBuf, incident: IncidentId, lines: usize) {
        let _ = self.jobs.try_send(Job { service, directory, incident, lines });
    }
}

/// A line as it may be recorded: bounded, and with every control character escaped.
fn clean(line: &[u8]) -> String {
    let cut = &line[..line.len().min(LINE_BYTES_MAX)];
    let mut clean = String::with_capacity(cut.len());
    for character in String::from_utf8_lossy(cut).chars() {
        if character.is_control() && character != '\t' {
            clean.extend(character.escape_default());
        } else {
            clean.push(character);
        }
    }
    if cut.len() < line.len() {
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_wrote_cannot_move_a_terminal_and_is_bounded() {
        assert_eq!(clean(b"ok\tfine"), "ok\tfine");
        assert_eq!(clean(b"\x1b[2Jgone"), "\\u{1b}[2Jgone");
        assert_eq!(clean(b"\xff"), "\u{fffd}");
        assert_eq!(clean(&[b'x'; 300]).chars().count(), LINE_BYTES_MAX + 1);
    }
}
