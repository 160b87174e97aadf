//! Evidence: reads the last lines of a service's output on a thread of its own, because the disk may hang.

use super::inbox::Inbox;
use crate::keeper::tail::last_lines;
use hale_core::analyze::trace;
use hale_core::event::Event;
use hale_core::ids::{Epoch, IncidentId, Name};
use hale_ledger::record::MAX_PAYLOAD_BYTES;
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

/// The longest line that is kept, in bytes; the middle of a longer one stands in the log.
const LINE_BYTES_MAX: usize = 256;

/// The most that all lines of one incident may take in a record, in bytes: what escapes in JSON becomes up to six times as
/// long, and the other fields are far below the rest of the longest payload ([`MAX_PAYLOAD_BYTES`]).
const LINES_BYTES_MAX: usize = MAX_PAYLOAD_BYTES - 8 * 1024;

/// What is to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    /// The process that failed: lines of those before and after it are left out.
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
                    let (own, is_its) = of_process(&raw, job.epoch);
                    let text: Vec<_> = own.iter().map(|line| String::from_utf8_lossy(line)).collect();
                    let text: Vec<&str> = text.iter().map(AsRef::as_ref).collect();
                    let found = if is_its { trace::find(&text) } else { None };
                    let trace = found.map(|(trace, after)| (Box::new(trace), u32::try_from(after).unwrap_or(u32::MAX)));
                    let last = own.iter().skip(own.len().saturating_sub(job.lines));
                    let lines = newest(last.map(|line| clean(line)).collect());
                    let Job { epoch, incident, .. } = job;
                    inbox.send(Event::Collected { service, epoch, incident, lines, trace });
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

/// The last lines of the failed process, by the lines with which the guardian marks each one's begin and end. Epochs
/// begin anew with each Hale, so that the last process of this epoch is meant, and one is told from another by its
/// pid, too. Without a mark of it (too long ago) all that is not of the next one is taken for its own. `false`: they may be an
/// earlier one's all the same, because it may never have begun.
fn of_process(lines: &[Vec<u8>], epoch: Epoch) -> (Vec<&[u8]>, bool) {
    let marks: Vec<(usize, Mark)> =
        lines.iter().enumerate().filter_map(|(index, line)| Some((index, Mark::in_line(line)?))).collect();
    let (mut begin, mut cut, mut end) = (0, 0, lines.len());
    let is_known = marks.iter().any(|(_, mark)| mark.epoch == epoch.0);
    if let Some(last) = marks.iter().rposition(|(_, mark)| mark.epoch == epoch.0) {
        let is_own = |mark: &Mark| (mark.epoch, mark.pid) == (marks[last].1.epoch, marks[last].1.pid);
        for (index, mark) in marks[..=last].iter().rev() {
            if !is_own(mark) {
                begin = index + 1;
                break;
            }
            if mark.is_start {
                // Before it may stand the begin of a line that an earlier process never ended.
                (begin, cut) = (*index, mark.at);
                break;
            }
        }
        end = marks.get(last + 1).map_or(end, |(index, _)| *index);
    } else if let Some((index, _)) = marks.iter().rfind(|(_, mark)| mark.epoch == epoch.next().0 && mark.is_start) {
        end = *index;
    }
    let line = |index: usize| if index == begin { &lines[index][cut..] } else { &lines[index][..] };
    let is_its = is_known || !marks.iter().any(|(index, _)| *index < end);
    ((begin..end).map(line).collect(), is_its)
}

/// A line of the guardian's own (`hale: epoch 3, pid 7 started`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    epoch: u64,
    pid: u64,
    /// Or an end.
    is_start: bool,
    /// Where it begins in its line: a service need not end its last one.
    at: usize,
}

impl Mark {
    fn in_line(line: &[u8]) -> Option<Self> {
        const BEGIN: &[u8] = b"hale: epoch ";
        let at = line.windows(BEGIN.len()).rposition(|window| window == BEGIN)?;
        let (epoch, rest) = std::str::from_utf8(&line[at + BEGIN.len()..]).ok()?.split_once(", pid ")?;
        let (pid, what) = rest.split_once(' ')?;
        Some(Self { epoch: epoch.parse().ok()?, pid: pid.parse().ok()?, is_start: what == "started", at })
    }
}

/// A line as it may be recorded: bounded, and with every control character escaped. Of a long one both ends are kept: what runtimes
/// and loaders have to say often stands behind the path of a program.
fn clean(line: &[u8]) -> String {
    if line.len() <= LINE_BYTES_MAX {
        return escaped(line);
    }
    let half = LINE_BYTES_MAX / 2;
    format!("{}…{}", escaped(&line[..half]), escaped(&line[line.len() - half..]))
}

fn escaped(bytes: &[u8]) -> String {
    let mut escaped = String::with_capacity(bytes.len());
    for character in String::from_utf8_lossy(bytes).chars() {
        if character.is_control() && character != '\t' {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// As many of the last lines as one record can hold.
fn newest(mut lines: Vec<String>) -> Vec<String> {
    let mut left = LINES_BYTES_MAX;
    let fits = |line: &&String| {
        // With a comma; a string is always JSON.
        let length = serde_json::to_string(line).map_or(usize::MAX, |json| json.len() + 1);
        left.checked_sub(length).is_some_and(|rest| {
            left = rest;
            true
        })
    };
    let fitting = lines.iter().rev().take_while(fits).count();
    lines.split_off(lines.len() - fitting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_grow_by_escaping_fit_into_one_record_all_the_same() {
        let lines: Vec<String> = (0..200).map(|n| clean(format!("{n} {}", "\0\"".repeat(126)).as_bytes())).collect();
        let kept = newest(lines.clone());
        assert!(!kept.is_empty() && lines.ends_with(&kept));
        let body = serde_json::to_vec(&hale_core::record::Body::Output { lines: kept }).unwrap();
        assert!((LINES_BYTES_MAX - 2_048..MAX_PAYLOAD_BYTES).contains(&body.len()), "{}", body.len());
        assert_eq!(newest(lines[..3].to_vec()), lines[..3]);
    }

    /// What is taken of this output, with at most so many lines.
    fn taken(output: &[&str], epoch: u64, most: usize) -> Vec<String> {
        let lines: Vec<Vec<u8>> = output.iter().map(|line| line.as_bytes().to_vec()).collect();
        let (own, _) = of_process(&lines, Epoch(epoch));
        own[own.len().saturating_sub(most)..].iter().map(|line| clean(line)).collect()
    }

    #[test]
    fn lines_of_other_processes_are_left_out() {
        // Two runs of Hale; the first was killed amidst a line of its third process.
        let mut output = vec!["hale: epoch 1, pid 5 started", "old 1", "hale: epoch 1, pid 5 ended: exit code 1"];
        output.extend(["hale: epoch 2, pid 6 started", "old 2", "hale: epoch 2, pid 6 ended: exit code 1"]);
        output.extend(["hale: epoch 3, pid 7 started", "old 3", "cuthale: epoch 1, pid 8 started"]);
        output.extend(["new 1", "endhale: epoch 1, pid 8 ended: exit code 1", "stray"]);
        output.extend(["hale: epoch 2, pid 9 started", "new 2"]);
        let ended = "endhale: epoch 1, pid 8 ended: exit code 1";
        assert_eq!(taken(&output, 1, 9), ["hale: epoch 1, pid 8 started", "new 1", ended, "stray"]);
        assert_eq!(taken(&output, 1, 2), [ended, "stray"]);
        assert_eq!(taken(&output, 2, 9), ["hale: epoch 2, pid 9 started", "new 2"]);
        assert_eq!(taken(&output[9..], 1, 9), ["new 1", ended, "stray"], "its start is too long ago");
        assert_eq!(taken(&["a", "hale: epoch 4, pid 9 started", "b"], 3, 9), ["a"], "both its marks are");
    }

    #[test]
    fn a_process_that_could_not_be_started_has_its_one_line_only() {
        let failed = "hale: epoch 1, pid 8 could not be started: directory: errno 2";
        let output = ["hale: epoch 1, pid 5 started", "old", "hale: epoch 1, pid 5 ended: exit code 1", failed];
        assert_eq!(taken(&output, 1, 9), [failed]);
    }

    #[test]
    fn what_an_earlier_process_wrote_is_not_taken_for_the_exception_of_one_that_never_began() {
        let is_its = |output: &[&str], epoch| {
            let lines: Vec<Vec<u8>> = output.iter().map(|line| line.as_bytes().to_vec()).collect();
            of_process(&lines, Epoch(epoch)).1
        };
        let earlier = ["hale: epoch 1, pid 5 started", "old", "hale: epoch 1, pid 5 ended: exit code 1"];
        assert!(is_its(&earlier, 1) && !is_its(&earlier, 2));
        // It has written more than is read, and no line has a mark.
        assert!(is_its(&["a", "b"], 2));
        assert!(is_its(&["a", "hale: epoch 3, pid 6 started", "b"], 2));
    }

    #[test]
    fn what_a_service_wrote_cannot_move_a_terminal_and_is_bounded() {
        assert_eq!(clean(b"ok\tfine"), "ok\tfine");
        assert_eq!(clean(b"\x1b[2Jgone"), "\\u{1b}[2Jgone");
        assert_eq!(clean(b"\xff"), "\u{fffd}");
        assert_eq!(clean(&[b'x'; 300]).chars().count(), LINE_BYTES_MAX + 1);
        let long = format!("/a/{}/app: undefined symbol: good", "b".repeat(300));
        let kept = clean(long.as_bytes());
        assert!(kept.starts_with("/a/bbb") && kept.ends_with("bbb/app: undefined symbol: good"), "{kept}");
    }
}
