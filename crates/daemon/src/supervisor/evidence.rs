//! Evidence: reads the last lines of a service's output on a thread of its own, because the disk may hang.

use super::inbox::Inbox;
use crate::keeper::tail::last_lines;
use hale_core::event::Event;
use hale_core::ids::{Epoch, IncidentId, Name};
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};

/// How many collections may wait: beyond it evidence is dropped, as evidence may be. A hundred services that fail at
/// once are read in some milliseconds.
const JOBS_MAX: usize = 256;

/// The most that is read back for one incident: 200 long lines, and bounded when a service writes without newlines.
const TAIL_BYTES_MAX: usize = 64 * 1024;

/// What the next process may have written meanwhile is read beside that and left out: it has had a few milliseconds.
const SUCCESSOR_LINES: usize = 200;

/// The longest line that is kept, in bytes; the rest of it stands in the log. 200 of them fit into one record.
const LINE_BYTES_MAX: usize = 256;

/// What is to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    /// The process that failed: lines of those after it are left out.
    pub(super) epoch: Epoch,
    /// For the answer.
    pub(super) incident: IncidentId,
    /// At most so many.
    pub(super) lines: usize,
}

/// Reads output tails.
#[derive(Debug)]
pub(super) struct Collector {
    jobs: SyncSender<(Name, PathBuf, Job)>,
}

impl Collector {
    /// Starts the thread.
    ///
    /// # Errors
    /// There can be no more threads.
    pub(super) fn start(inbox: Inbox) -> io::Result<Self> {
        let (jobs, queue) = sync_channel::<(Name, PathBuf, Job)>(JOBS_MAX);
        std::thread::Builder::new().name(String::from("evidence")).spawn(move || {
            for (service, directory, job) in queue {
                if let Ok(raw) = last_lines(&directory, job.lines + SUCCESSOR_LINES, TAIL_BYTES_MAX) {
                    let lines = of_process(&raw, job).iter().map(|line| clean(line)).collect();
                    inbox.send(Event::Collected { service, incident: job.incident, lines });
                }
            }
        })?;
        Ok(Self { jobs })
    }

    /// Has the last lines below `directory` read; dropped when too many wait.
    pub(super) fn collect(&self, service: Name, directory: PathBuf, job: Job) {
        let _ = self.jobs.try_send((service, directory, job));
    }
}

/// The lines up to where the next process began, by the line that the guardian has it write.
fn of_process(lines: &[Vec<u8>], job: Job) -> &[Vec<u8>] {
    let next = format!("hale: epoch {}, ", job.epoch.next());
    let end = lines.iter().position(|line| line.starts_with(next.as_bytes())).unwrap_or(lines.len());
    &lines[end.saturating_sub(job.lines)..end]
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
    fn lines_of_the_next_process_are_left_out() {
        let text = "hale: epoch 3, pid 7 started\na\nb\nhale: epoch 3, pid 7 ended: exit code 1\nhale: epoch 4, pid 8 started\nc";
        let lines: Vec<Vec<u8>> = text.lines().map(|line| line.as_bytes().to_vec()).collect();
        let job = |epoch, lines| Job { epoch: Epoch(epoch), incident: IncidentId(1), lines };
        assert_eq!(of_process(&lines, job(3, 2)), [b"b".to_vec(), b"hale: epoch 3, pid 7 ended: exit code 1".to_vec()]);
        assert_eq!(of_process(&lines, job(4, 9)).len(), 6);
    }

    #[test]
    fn what_a_service_wrote_cannot_move_a_terminal_and_is_bounded() {
        assert_eq!(clean(b"ok\tfine"), "ok\tfine");
        assert_eq!(clean(b"\x1b[2Jgone"), "\\u{1b}[2Jgone");
        assert_eq!(clean(b"\xff"), "\u{fffd}");
        assert_eq!(clean(&[b'x'; 300]).chars().count(), LINE_BYTES_MAX + 1);
    }
}
