//! `hale incident [ID]`

use super::incidents::tone;
use crate::cli::{Format, Global};
use crate::configuration;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::history;
use crate::terminal::{colours, escape, paint};
use hale_core::incident::{Entry, Story, line};
use hale_core::memory::{MemoryReport, Size};
use hale_core::record::Record;
use hale_daemon::api::view::{Incident, down, recovery, rfc3339};
use hale_daemon::knowledge::Query;
use std::io::Write;

/// Tells the story of one incident: the newest, if none is named.
pub fn run(id: Option<u64>, format: Format, global: &Global, out: &mut impl Write) -> Result<Exit, Failure> {
    let state = configuration::directories(global)?.state;
    let stories = history::stories(&state, id.map_or(Query::All, Query::Incident))?;
    let Some(story) = stories.last() else {
        let which = id.map_or("no incident".to_owned(), |id| format!("no incident {id}"));
        let message = format!("there is {which} in the ledger of {}", state.display());
        return Err(Failure::new(Exit::Failed, message).help("`hale incidents` lists them"));
    };
    if format.json {
        serde_json::to_writer_pretty(&mut *out, &Incident::from(story)).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        write(story, colours(), out)?;
        if !story.records_before.is_empty() {
            write_before(&history::records(&state, &story.records_before)?, out)?;
        }
    }
    Ok(Exit::Done)
}

fn write(story: &Story, coloured: bool, out: &mut impl Write) -> std::io::Result<()> {
    let outcome = paint(story.outcome.as_str(), tone(story.outcome), coloured);
    let of = story.service.as_ref().map_or("the host", |service| service.as_str());
    write!(out, "incident {}: {of}, {}, {outcome}", story.id, story.cause)?;
    if let Some(span) = recovery(story) {
        write!(out, " in {span}")?;
    }
    if let Some(span) = down(story) {
        write!(out, ", down for {span}")?;
    }
    write!(out, "\nopened {}\n\n", rfc3339(story.opened.wall_us))?;
    let after = |entry: &Entry| format!("T+{}", entry.after);
    let width = story.timeline.iter().map(|entry| after(entry).chars().count()).max().unwrap_or(0);
    for entry in &story.timeline {
        let why = entry.why.as_ref().map_or(String::new(), |why| format!(", because {why}"));
        writeln!(out, "  {:width$}  {}{}", after(entry), escape(&entry.what), escape(&why))?;
    }
    if let Some(figures) = story.memory.as_ref().and_then(memory) {
        writeln!(out, "\nits memory: {figures}")?;
    }
    if !story.output.is_empty() {
        writeln!(out, "\nits last output:")?;
        for line in &story.output {
            writeln!(out, "  | {}", escape(line))?;
        }
    }
    Ok(())
}

/// The figures that say something; none of them does when all is as usual.
fn memory(report: &MemoryReport) -> Option<String> {
    let limit = report.limit_bytes.map(|bytes| format!("limit {}", Size(bytes)));
    let peak = report.peak_bytes.map(|bytes| format!("peak {}", Size(bytes)));
    let pressure = report.pressure.filter(|pressure| pressure.some_permyriad > 0).map(|pressure| {
        let (whole, hundredths) = (pressure.some_permyriad / 100, pressure.some_permyriad % 100);
        format!("{whole}.{hundredths:02} % of the last 10 s lost to waiting for it")
    });
    let hits = report.limit_hits.map(|hits| format!("at its limit {hits} times"));
    let high = report.high_hits.map(|hits| format!("held back by memory.high {hits} times"));
    let figures: Vec<String> = [limit, peak, hits, high, pressure].into_iter().flatten().collect();
    (!figures.is_empty()).then(|| figures.join(", "))
}

/// The last records of the boot before a reset.
fn write_before(records: &[Record], out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "\nthe last records before it:")?;
    for record in records {
        let service = record.service.as_ref().map_or("host", |service| service.as_str());
        // What is worth no line of its own stands in the ledger.
        let Some((what, _)) = line(&record.body) else { continue };
        let at = rfc3339(record.at.wall_us);
        writeln!(out, "  {:>6}  {at}  {service}  {}", record.id.0, escape(&what))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hale_core::ids::{IncidentId, Name};
    use hale_core::incident::{Blame, Cause, Outcome};
    use hale_core::memory::{MemoryReport, Pressure};
    use hale_core::time::{Now, Span};

    #[test]
    fn a_story_reads_from_top_to_bottom() {
        let entry = |us, what: &str, why: Option<&str>| Entry {
            after: Span::from_us(us),
            what: what.into(),
            why: why.map(String::from),
        };
        let story = Story {
            id: IncidentId(12),
            service: Some(Name::try_from("web").unwrap()),
            cause: Cause::Hang,
            blame: Blame::Unknown,
            opened: Now::default(),
            closed: Some(Now::default()),
            outcome: Outcome::Recovered,
            recovery_us: Some(18_000),
            down_us: Some(1_200_000),
            timeline: vec![
                entry(0, "detected: check http failed 2 times in a row: no answer\u{1b}", None),
                entry(400, "decided to restart it at once", Some("it was healthy before")),
                entry(18_000, "all checks pass: recovered in 18 ms", None),
            ],
            examination: None,
            exception: None,
            records_before: Vec::new(),
            output: vec!["web listens on 127.0.0.1:8701".into(), "\u{7}".into()],
            memory: Some(MemoryReport {
                limit_bytes: Some(512 << 20),
                peak_bytes: Some(511 << 20),
                pressure: Some(Pressure { some_permyriad: 1_234, full_permyriad: 900 }),
                limit_hits: Some(12),
                high_hits: None,
            }),
        };
        let expected = "\
incident 12: web, hang, recovered in 18 ms, down for 1.2 s
opened 1970-01-01T00:00:00.000Z

  T+0 ms    detected: check http failed 2 times in a row: no answer\\u{1b}
  T+0.4 ms  decided to restart it at once, because it was healthy before
  T+18 ms   all checks pass: recovered in 18 ms

its memory: limit 512 MiB, peak 511 MiB, at its limit 12 times, 12.34 % of the last 10 s lost to waiting for it

its last output:
  | web listens on 127.0.0.1:8701
  | \\u{7}
";
        let mut shown = Vec::new();
        write(&story, false, &mut shown).unwrap();
        assert_eq!(String::from_utf8(shown).unwrap(), expected);
    }
}
