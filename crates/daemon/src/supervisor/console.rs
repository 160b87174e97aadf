//! What `hale run` prints: one line for each record worth telling. On a thread of its own, because a terminal that is
//! stopped (Ctrl-S) or a full pipe must not hold up the loop.

use crate::api::view::rfc3339;
use hale_core::incident::line;
use hale_core::record::{Body, Record};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// How many lines may wait to be printed: a thousand services that start at once fit, and a line is about 100 bytes.
const LINES_MAX: usize = 4_096;

/// How long an orderly end waits for the terminal.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// Prints on standard error.
#[derive(Debug)]
pub(super) struct Console {
    lines: SyncSender<String>,
    dropped: Arc<AtomicU64>,
    done: Receiver<()>,
}

impl Console {
    /// Starts the thread.
    ///
    /// # Errors
    /// There can be no more threads.
    pub(super) fn start() -> std::io::Result<Self> {
        let (lines, queue) = sync_channel::<String>(LINES_MAX);
        let (finished, done) = sync_channel(1);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = dropped.clone();
        std::thread::Builder::new().name(String::from("console")).spawn(move || {
            for line in queue {
                let missing = counted.swap(0, Ordering::Relaxed);
                let mut out = std::io::stderr().lock();
                if missing > 0 {
                    let _ = writeln!(out, "hale: {missing} lines were not printed: the terminal was too slow");
                }
                // In one write: the stream has no buffer of its own.
                let _ = out.write_all(&[line.as_bytes(), b"\n"].concat());
            }
            let _ = finished.send(());
        })?;
        Ok(Self { lines, dropped, done })
    }

    /// Prints one line about Hale itself.
    pub(super) fn say(&self, text: &str) {
        self.print(format!("hale: {text}"));
    }

    /// Prints what a record says, if that is worth a line.
    pub(super) fn record(&self, record: &Record) {
        let time = || rfc3339(record.at.wall_us);
        let Some(service) = &record.service else {
            match &record.body {
                Body::Began { version, .. } => self.print(format!("{} hale {version} has begun", time())),
                Body::TookOver { lost, processes, .. } => {
                    self.print(format!("{} took over {processes} running services: {lost}", time()));
                }
                Body::Ending { why } => self.print(format!("{} ending: {why}", time())),
                Body::LedgerDegraded { error } => {
                    self.print(format!("{} the ledger cannot be written, healing goes on: {error}", time()));
                }
                Body::LedgerRecovered => self.print(format!("{} the ledger can be written again", time())),
                body => {
                    if let Some((what, why)) = line(body) {
                        let because = why.map(|why| format!(", because {why}")).unwrap_or_default();
                        self.print(format!("{} {what}{because}", time()));
                    }
                }
            }
            return;
        };
        if let Some((what, why)) = line(&record.body) {
            let because = why.map(|why| format!(", because {why}")).unwrap_or_default();
            self.print(format!("{} {service}: {what}{because}", time()));
        }
    }

    fn print(&self, line: String) {
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits, within a bound, until everything is printed.
    pub(super) fn close(self) {
        drop(self.lines);
        let _ = self.done.recv_timeout(CLOSE_WITHIN);
    }
}
