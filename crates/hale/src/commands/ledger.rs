//! `hale ledger show|verify|reindex`

use crate::cli::{Format, Global, Ledger};
use crate::configuration;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::history;
use crate::terminal::escape;
use hale_core::incident::line;
use hale_core::record::Record;
use hale_daemon::api::view::rfc3339;
use hale_daemon::knowledge::{Entry, Index, IndexError, Summary, VerifyDirError, read_all, verify_dir};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

/// Does what `command` says with the ledger of the configuration.
pub fn run(command: &Ledger, global: &Global, out: &mut impl Write) -> Result<Exit, Failure> {
    let state = configuration::directories(global)?.state;
    let dir = history::ledger_dir(&state)?;
    match command {
        Ledger::Reindex => reindex(&dir, &history::index_path(&state), out),
        Ledger::Show { format } => show(&dir, *format, out),
        Ledger::Verify { format } => verify(&dir, *format, out),
    }
}

/// One line for each record: the number of its line, the record's own number by which others name it (an incident has
/// that of the record that opened it), and what it says. With `--json` one object on each line (<https://jsonlines.org>), because a ledger can be
/// longer than any memory.
fn show(dir: &Path, format: Format, out: &mut impl Write) -> Result<Exit, Failure> {
    if !format.json {
        writeln!(out, "{:>6}  {:>6}  {:24}  SERVICE  WHAT", "SEQ", "ID", "TIME")?;
    }
    for entry in read_all(dir) {
        let entry = entry.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        if format.json {
            let rec: Value = serde_json::from_slice(&entry.payload).map_err(|error| {
                Failure::new(Exit::Failed, format!("record {} is not JSON", entry.seq)).because(error)
            })?;
            writeln!(out, "{}", json!({ "seq": entry.seq, "leaf": entry.leaf.to_string(), "rec": rec }))?;
        } else {
            writeln!(out, "{}", sentence(&entry))?;
        }
    }
    Ok(Exit::Done)
}

/// A record in words: its own where it has some, else its JSON.
fn sentence(entry: &Entry) -> String {
    let seq = entry.seq;
    let raw = || String::from_utf8_lossy(&entry.payload).into_owned();
    let Ok(record) = serde_json::from_slice::<Record>(&entry.payload) else {
        return format!("{seq:>6}  {:>6}  {}", "-", escape(&raw()));
    };
    let at = rfc3339(record.at.wall_us);
    let service = record.service.as_ref().map_or("-", |name| name.as_str());
    let incident = record.incident.map_or(String::new(), |id| format!(" (incident {id})"));
    let words = match line(&record.body) {
        Some((what, Some(why))) => format!("{what}, because {why}"),
        Some((what, None)) => what,
        None => body(&entry.payload).unwrap_or_else(raw),
    };
    format!("{seq:>6}  {:>6}  {at}  {service}  {}{incident}", record.id.0, escape(&words))
}

/// What is left of a record's JSON without what stands beside it already.
fn body(payload: &[u8]) -> Option<String> {
    let mut record: serde_json::Map<String, Value> = serde_json::from_slice(payload).ok()?;
    let kind = record.remove("kind")?;
    for shown in ["id", "at", "service", "incident"] {
        record.remove(shown);
    }
    let kind = kind.as_str()?;
    Some(if record.is_empty() { kind.to_owned() } else { format!("{kind} {}", Value::Object(record)) })
}

fn reindex(dir: &Path, path: &Path, out: &mut impl Write) -> Result<Exit, Failure> {
    let failed = |error: IndexError| Failure::new(Exit::Failed, error.to_string());
    let index = Index::rebuild(dir, Some(path.to_path_buf())).map_err(failed)?;
    match index.path() {
        Some(path) => {
            let records = counted(index.count().map_err(failed)?, "record");
            writeln!(out, "{records} in {}", escape(&path.display().to_string()))?;
            Ok(Exit::Done)
        }
        None => Err(Failure::new(Exit::Failed, format!("cannot write the index {}", path.display()))
            .help("commands that read make one in memory instead; run this as the user who runs Hale")),
    }
}

fn verify(dir: &Path, format: Format, out: &mut impl Write) -> Result<Exit, Failure> {
    match verify_dir(dir) {
        Ok(summary) if format.json => writeln!(out, "{:#}", summary_json(&summary))?,
        Ok(Summary { records, segments, sealed, bytes, head, tree_root, torn_bytes }) => {
            writeln!(out, "{}: nothing was altered or cut off", escape(&dir.display().to_string()))?;
            let (records, segments) = (counted(records, "record"), counted(segments, "segment"));
            writeln!(out, "{records} in {segments}, {sealed} sealed, {bytes} bytes")?;
            if torn_bytes > 0 {
                writeln!(out, "{torn_bytes} bytes of a record that is being written, or that a crash left unfinished")?;
            }
            writeln!(out, "head {head}\nroot {tree_root}")?;
        }
        Err(VerifyDirError::Damage { damage, .. }) if format.json => {
            let (segment, problem) = (damage.segment.to_string(), damage.problem.to_string());
            let damage = json!({
                "seq": damage.seq,
                "segment": segment,
                "offset": damage.offset,
                "truncated": damage.problem.is_truncation(),
                "problem": problem,
            });
            writeln!(out, "{:#}", json!({ "ok": false, "damage": damage }))?;
            return Ok(Exit::LedgerAltered);
        }
        Err(error @ VerifyDirError::Damage { .. }) => {
            return Err(Failure::new(Exit::LedgerAltered, error.to_string())
                .help("the records before that one fit each other; compare with a copy that was kept elsewhere"));
        }
        Err(error @ VerifyDirError::Read { .. }) => return Err(Failure::new(Exit::Failed, error.to_string())),
    }
    Ok(Exit::Done)
}

/// `1 record`, `2 records`.
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn summary_json(summary: &Summary) -> Value {
    json!({
        "ok": true,
        "records": summary.records,
        "segments": summary.segments,
        "sealed": summary.sealed,
        "size_bytes": summary.bytes,
        "head": summary.head.to_string(),
        "root": summary.tree_root.to_string(),
        "torn_bytes": summary.torn_bytes,
    })
}
