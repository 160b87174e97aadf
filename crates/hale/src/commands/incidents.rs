//! `hale incidents [--since TIME] [--grouped]`

use super::grouped;
use crate::cli::{Format, Global};
use crate::configuration;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::history;
use crate::table::{Cell, render};
use crate::terminal::{Tone, colours};
use hale_core::incident::{Outcome, Story};
use hale_core::time::Span;
use hale_daemon::api::view::{Incident, down, recovery, rfc3339};
use hale_daemon::knowledge::Query;
use std::io::Write;

/// Lists the incidents opened within `since`, all without it; `grouped`: those that are the same failure together.
pub fn run(
    since: Option<Span>,
    grouped: bool,
    format: Format,
    global: &Global,
    out: &mut impl Write,
) -> Result<Exit, Failure> {
    let ago = |since: Span| {
        let span_us = i64::try_from(since.as_us()).unwrap_or(i64::MAX);
        Query::Since { wall_us: jiff::Timestamp::now().as_microsecond().saturating_sub(span_us) }
    };
    let stories = history::stories(&configuration::directories(global)?.state, since.map_or(Query::All, ago))?;
    if grouped && (format.json || !stories.is_empty()) {
        grouped::write(&stories, format.json, out)?;
    } else if format.json {
        let list: Vec<Incident> = stories.iter().map(Incident::from).collect();
        serde_json::to_writer_pretty(&mut *out, &list).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else if stories.is_empty() {
        writeln!(out, "no incidents{}", since.map_or(String::new(), |since| format!(" within {since}")))?;
    } else {
        let header = ["ID", "OPENED", "SERVICE", "CAUSE", "OUTCOME", "RECOVERY", "DOWN", "EXCEPTION"];
        let rows: Vec<_> = stories.iter().map(row).collect();
        out.write_all(render(header, &rows, colours()).as_bytes())?;
    }
    Ok(Exit::Done)
}

fn row(story: &Story) -> [Cell; 8] {
    let time = |span: Option<Span>| span.map_or("-".to_owned(), |span| span.to_string());
    [
        story.id.to_string().into(),
        rfc3339(story.opened.wall_us).into(),
        story.service.as_ref().map_or("host", |service| service.as_str()).into(),
        story.cause.as_str().into(),
        Cell::toned(story.outcome.as_str(), tone(story.outcome)),
        time(recovery(story)).into(),
        time(down(story)).into(),
        story.exception.as_ref().map_or("-".to_owned(), ToString::to_string).into(),
    ]
}

/// The colour of an outcome.
pub fn tone(outcome: Outcome) -> Tone {
    match outcome {
        Outcome::Recovered | Outcome::RolledBack => Tone::Good,
        Outcome::Open | Outcome::Observed | Outcome::Environmental => Tone::Attention,
        Outcome::Held | Outcome::Rebooted => Tone::Bad,
        Outcome::Stopped => Tone::Quiet,
    }
}
