//! `hale incidents --grouped`: the same failure once, however often it came.

use crate::table::{Cell, render};
use crate::terminal::colours;
use hale_core::analyze::trace::{Fingerprint, Trace};
use hale_core::incident::{Cause, Story};
use hale_daemon::api::view::rfc3339;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;

/// What makes two incidents of a service the same failure. Other services may have other programs, whose files and functions are
/// called the same.
type Key<'a> = (&'a str, Cause, Option<Fingerprint>);

/// Incidents that are the same failure.
#[derive(Debug, Serialize)]
struct Group<'a> {
    exception: Option<&'a Trace>,
    cause: Cause,
    service: &'a str,
    count: usize,
    first: String,
    last: String,
    incidents: Vec<u64>,
}

/// Those with most incidents first; of as many, the newest.
fn groups(stories: &[Story]) -> Vec<Group<'_>> {
    let mut by_key: BTreeMap<Key<'_>, Vec<&Story>> = BTreeMap::new();
    for story in stories {
        let exception = story.exception.as_ref().map(|trace| trace.fingerprint);
        by_key.entry((name(story), story.cause, exception)).or_default().push(story);
    }
    let mut groups: Vec<Group<'_>> = by_key.into_values().filter_map(|stories| Group::of(&stories)).collect();
    groups.sort_by_key(|group| std::cmp::Reverse((group.count, group.incidents.last().copied())));
    groups
}

fn name(story: &Story) -> &str {
    story.service.as_ref().map_or("host", |service| service.as_str())
}

impl<'a> Group<'a> {
    /// Of these incidents, oldest first. `None`: of no incident.
    fn of(stories: &[&'a Story]) -> Option<Self> {
        let (first, last) = (stories.first()?, stories.last()?);
        Some(Self {
            exception: last.exception.as_ref(),
            cause: last.cause,
            service: name(last),
            count: stories.len(),
            first: rfc3339(first.opened.wall_us),
            last: rfc3339(last.opened.wall_us),
            incidents: stories.iter().map(|story| story.id.0).collect(),
        })
    }

    fn row(&self) -> [Cell; 6] {
        [
            self.count.to_string().into(),
            self.last.as_str().into(),
            self.incidents.last().map_or_else(String::new, u64::to_string).into(),
            self.service.into(),
            self.exception.map_or("-".to_owned(), |trace| trace.fingerprint.to_string()).into(),
            self.exception
                .map_or(self.cause.to_string(), |trace| format!("{}: {trace} ({})", self.cause, trace.runtime))
                .into(),
        ]
    }
}

/// Writes the groups of these incidents, oldest first, as a table or as JSON.
///
/// # Errors
/// `out` cannot be written.
pub fn write(stories: &[Story], json: bool, out: &mut impl Write) -> std::io::Result<()> {
    let groups = groups(stories);
    if json {
        serde_json::to_writer_pretty(&mut *out, &groups)?;
        return writeln!(out);
    }
    let header = ["COUNT", "LAST OPENED", "LAST ID", "SERVICE", "FINGERPRINT", "FAILURE"];
    let rows: Vec<_> = groups.iter().map(Group::row).collect();
    out.write_all(render(header, &rows, colours()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hale_core::analyze::trace;
    use hale_core::ids::{IncidentId, Name};
    use hale_core::incident::{Blame, Outcome};
    use hale_core::time::Now;

    fn story(id: u64, service: &str, cause: Cause, exception: Option<&str>) -> Story {
        let lines = exception.map(|name| format!("{name}: {id}"));
        let exception = lines.and_then(|last| {
            trace::find(&["Traceback (most recent call last):", "  File \"/srv/a.py\", line 1, in go", &last])
                .map(|(trace, _)| trace)
        });
        Story {
            id: IncidentId(id),
            service: Some(Name::try_from(service).unwrap()),
            cause,
            blame: Blame::Unknown,
            opened: Now { wall_us: i64::try_from(id).unwrap() * 1_000_000, ..Now::default() },
            closed: None,
            outcome: Outcome::Open,
            recovery_us: None,
            down_us: None,
            timeline: Vec::new(),
            output: Vec::new(),
            memory: None,
            examination: None,
            exception,
            records_before: Vec::new(),
        }
    }

    #[test]
    fn the_same_exception_of_a_service_is_one_failure() {
        let stories = [
            story(1, "bot", Cause::Exit, Some("KeyError")),
            story(2, "web", Cause::Hang, None),
            story(3, "bot", Cause::Exit, Some("KeyError")),
            story(4, "web", Cause::Exit, None),
            story(5, "bot", Cause::Exit, Some("ValueError")),
            story(6, "web", Cause::Hang, None),
            story(7, "api", Cause::Hang, None),
        ];
        let found: Vec<_> = groups(&stories).into_iter().map(|group| group.incidents).collect();
        assert_eq!(found, [vec![2, 6], vec![1, 3], vec![7], vec![5], vec![4]]);
        let mut shown = Vec::new();
        write(&stories[..3], false, &mut shown).unwrap();
        let fingerprint = stories[0].exception.as_ref().unwrap().fingerprint;
        let expected = format!(
            "\
COUNT  LAST OPENED               LAST ID  SERVICE  FINGERPRINT       FAILURE
2      1970-01-01T00:00:03.000Z  3        bot      {fingerprint}  exit: KeyError in a.py:go (Python)
1      1970-01-01T00:00:02.000Z  2        web      -                 hang
"
        );
        assert_eq!(String::from_utf8(shown).unwrap(), expected);
    }
}
