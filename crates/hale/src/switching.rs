//! A switch as its client sees it: ordered, followed to its end, and told with the evidence where it failed.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::generation::switching;
use crate::progress::Progress;
use crate::supervisor;
use hale_core::ids::{GenerationId, Name};
use hale_core::incident::line;
use hale_core::record::Record;
use hale_core::safeswitch::{Move, Part};
use hale_daemon::api::client::{self, Answer, ClientError, Records};
use hale_daemon::api::view::generations::{Generation, ServiceGenerations};
use hale_daemon::api::view::{Done, Status};
use hyper::Method;
use jiff::Timestamp;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, interval, sleep, timeout, timeout_at};

/// How often the line that changes is drawn anew: it counts seconds.
const SHOWN_EVERY: Duration = Duration::from_secs(1);

/// How long a question beside the order may take: what it is for is shown later, or not at all.
const ASKED_WITHIN: Duration = Duration::from_secs(1);

/// How long the first record of a switch is waited for when the answer is there before it; both are sent in the same moment.
const BEGIN_WITHIN: Duration = Duration::from_millis(250);

/// The same of its last record, where there was a first one.
const END_WITHIN: Duration = Duration::from_secs(1);

/// How often the end of a switch is looked for whose supervisor was replaced.
const LOOKED_FOR_EVERY: Duration = Duration::from_millis(250);

/// How long there may be nobody to ask, or no switch, after a supervisor was replaced: the next one is there within seconds, and has
/// carried out an order after at most five more, however slow the disk is.
const SETTLED_WITHIN: Duration = Duration::from_secs(15);

/// What is ordered.
pub struct Switch<'a> {
    /// Of which service.
    pub service: &'a Name,
    /// The API's word.
    pub verb: &'a str,
    /// What it says.
    pub body: Value,
    /// Whether the answer comes at its end.
    pub waits: bool,
    /// What has to be known to be good then, if that can be told.
    pub to: Option<&'a GenerationId>,
}

/// Gives the order, shows what happens, and comes back with how it ended, in a sentence.
pub fn carry_out(socket: &Path, switch: &Switch<'_>, progress: &mut Progress) -> Result<String, Failure> {
    let started = Timestamp::now();
    supervisor::run(async {
        let interrupts = signal(SignalKind::interrupt());
        let interrupts =
            interrupts.map_err(|error| Failure::new(Exit::Failed, "cannot listen to signals").because(error))?;
        let client = Client { socket, service: switch.service };
        let mut seen = Seen::default();
        let answer = client.follow(switch, interrupts, &mut seen, progress).await?;
        progress.clear();
        let answer = match (answer, switch.to) {
            (Err(error @ ClientError::Exchange { .. }), Some(to)) => {
                progress.line("the supervisor is gone; the one that follows goes on with what is on record");
                return client.settled(to, started, &error).await;
            }
            (answer, _) => answer.map_err(|error| supervisor::no_answer(&error))?,
        };
        if answer.status == 200 {
            let done: Done = supervisor::parse(&answer.body)?;
            return Ok(done.text);
        }
        let failure = supervisor::problem(&answer);
        Err(match failure.exit() {
            Exit::Busy => failure.help(format!("`hale status {}` shows how far it is", switch.service)),
            Exit::RolledBack | Exit::Failed => client.with_evidence(failure, switch.to, seen.incident).await,
            _ => failure,
        })
    })?
}

/// What was seen of a switch.
#[derive(Debug, Default)]
struct Seen {
    begin: bool,
    end: bool,
    /// The newest one of the service.
    incident: Option<u64>,
}

/// Who asks, and of what.
struct Client<'a> {
    socket: &'a Path,
    service: &'a Name,
}

impl Client<'_> {
    /// Waits for the answer, and shows what happens until then.
    async fn follow(
        &self,
        switch: &Switch<'_>,
        mut interrupts: Signal,
        seen: &mut Seen,
        progress: &mut Progress,
    ) -> Result<Result<Answer, ClientError>, Failure> {
        // First, so that nothing of it is missed. Whoever has no place among the listeners waits all the same.
        let mut records = match switch.waits {
            true => timeout(ASKED_WITHIN, Records::listen(self.socket)).await.ok().and_then(Result::ok),
            false => None,
        };
        let target = format!("/v1/services/{}/{}", self.service, switch.verb);
        let answer = client::give(self.socket, Method::POST, &target, supervisor::json(&switch.body));
        tokio::pin!(answer);
        let mut shown = interval(SHOWN_EVERY);
        let answer = loop {
            tokio::select! {
                answer = &mut answer => break answer,
                record = next(&mut records) => match record {
                    Some(record) => self.show(&record, seen, progress).await,
                    None => records = None,
                },
                _ = shown.tick(), if progress.changes() => {
                    if let Some(words) = self.status_words().await {
                        progress.now(&words);
                    }
                }
                _ = interrupts.recv() => return Err(interrupted(self.service)),
            }
        };
        let answered = Instant::now();
        while records.is_some() && !seen.end {
            let until = answered + if seen.begin { END_WITHIN } else { BEGIN_WITHIN };
            match timeout_at(until, next(&mut records)).await {
                Ok(Some(record)) => self.show(&record, seen, progress).await,
                Ok(None) | Err(_) => break,
            }
        }
        Ok(answer)
    }

    async fn show(&self, record: &Record, seen: &mut Seen, progress: &mut Progress) {
        if record.service.as_ref() != Some(self.service) {
            return;
        }
        seen.incident = record.incident.map(|id| id.0).or(seen.incident);
        seen.begin |= matches!(record.body.moved(), Some((_, Move::Intended { .. })));
        seen.end |= matches!(record.body.moved(), Some((_, Move::Ended { .. })));
        if let Some((what, why)) = line(&record.body) {
            let why = why.map_or(String::new(), |why| format!(", because {why}"));
            progress.line(&format!("{}: {what}{why}", self.service));
        }
        let is_part_of_proof = matches!(record.body.moved(), Some((_, Move::Marked { .. })));
        if is_part_of_proof
            && !progress.changes()
            && let Some(words) = self.status_words().await
        {
            progress.line(&words);
        }
    }

    async fn status_words(&self) -> Option<String> {
        let status: Status = self.ask(&format!("/v1/status/{}", self.service)).await?;
        let words = switching(status.services.first()?)?;
        Some(format!("{}: {words}", self.service))
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, target: &str) -> Option<T> {
        let answer = timeout(ASKED_WITHIN, client::ask(self.socket, Method::GET, target)).await.ok()?.ok()?;
        serde_json::from_slice(&answer.body).ok()
    }

    async fn generations(&self) -> Option<ServiceGenerations> {
        self.ask(&format!("/v1/services/{}/generations", self.service)).await
    }

    /// Adds where the evidence is: in the incident for which it is quarantined, else in the one that was seen, else in the one that
    /// is open.
    async fn with_evidence(&self, failure: Failure, to: Option<&GenerationId>, seen: Option<u64>) -> Failure {
        let known = self.generations().await;
        let generations = known.iter().flat_map(|known| &known.generations);
        let quarantined =
            generations.filter(|one| Some(&one.id) == to).find_map(|one| one.quarantined.as_ref()?.incident);
        let mut incident = quarantined.or(seen);
        if incident.is_none() {
            let status: Option<Status> = self.ask(&format!("/v1/status/{}", self.service)).await;
            incident = status.and_then(|status| status.services.first()?.incident);
        }
        match incident {
            Some(id) => failure.help(format!("incident {id} has the evidence: `hale incident {id}`")),
            None => failure.help(format!("`hale status {}` shows how it is now", self.service)),
        }
    }

    /// What came of a switch to `to` that nobody is left to tell of.
    async fn settled(&self, to: &GenerationId, started: Timestamp, error: &ClientError) -> Result<String, Failure> {
        let mut until = Instant::now() + SETTLED_WITHIN;
        let mut known = None;
        while Instant::now() < until {
            match self.generations().await {
                Some(found) if found.switch.as_ref().is_some_and(|switch| switch.part == Part::Store) => {
                    until = Instant::now() + SETTLED_WITHIN;
                }
                Some(found) => {
                    if let Some(end) = end(self.service, &found, to, started) {
                        return end;
                    }
                    known = Some(found);
                }
                None => {}
            }
            sleep(LOOKED_FOR_EVERY).await;
        }
        let Some(known) = known else {
            let message =
                format!("the supervisor ended while {} was switched, and none has followed: {error}", self.service);
            let help = "start Hale again: it goes on with the switch, or back, and `hale status` shows which";
            return Err(Failure::new(Exit::Failed, message).help(help));
        };
        let current = current(&known);
        let current = current.map_or("nothing", |one| one.id.short());
        let message = format!("{} is switched to {current}, and {} is not known to be good", self.service, to.short());
        Err(Failure::new(Exit::Failed, message)
            .help("the supervisor was replaced meanwhile; `hale ledger show` has all of it"))
    }
}

/// What the service is switched to.
fn current(known: &ServiceGenerations) -> Option<&Generation> {
    known.generations.iter().find(|one| one.current && one.part == Part::Store)
}

/// How the switch to `to` has ended since `started`, if that can be told from what is known of it.
fn end(
    service: &Name,
    known: &ServiceGenerations,
    to: &GenerationId,
    started: Timestamp,
) -> Option<Result<String, Failure>> {
    let is_new = |since: &str| since.parse::<Timestamp>().is_ok_and(|since| since >= started);
    let one = known.generations.iter().find(|one| one.id == *to && one.part == Part::Store)?;
    let current = current(known)?;
    let is_good = |one: &Generation| one.grade.is_some();
    let became_good = one.since.as_deref().is_some_and(is_new);
    match &one.quarantined {
        // What was good and current before was only started.
        None if one.current && is_good(one) && (became_good || one.runs) => {
            Some(Ok(format!("{service} runs {}, which is known to be good now", to.short())))
        }
        Some(quarantine) if !one.current && is_good(current) && is_new(&quarantine.since) => {
            let (to, back) = (to.short(), current.id.short());
            if !current.runs {
                let message =
                    format!("{service} was switched back from {to} to {back}, and does not run: {}", quarantine.why);
                let help = format!("`hale status {service}` says why it does not");
                return Some(Err(Failure::new(Exit::Failed, message).help(help)));
            }
            let message = format!("{service} was rolled back from {to} to {back}: {}", quarantine.why);
            let failure = Failure::new(Exit::RolledBack, message);
            Some(Err(match quarantine.incident {
                Some(id) => failure.help(format!("incident {id} has the evidence: `hale incident {id}`")),
                None => failure,
            }))
        }
        Some(_) | None => None,
    }
}

/// The next record, as long as somebody tells of them.
async fn next(records: &mut Option<Records>) -> Option<Record> {
    match records {
        Some(records) => records.next().await,
        None => std::future::pending().await,
    }
}

fn interrupted(service: &Name) -> Failure {
    Failure::new(Exit::Interrupted, format!("interrupted: what was ordered of {service} goes on without this command"))
        .help(format!(
            "`hale status {service}` shows how far it is, `hale rollback {service}` takes it back once it is switched"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn known(to: &Value, old: &Value) -> ServiceGenerations {
        let mut all = [to.clone(), old.clone()];
        for (one, id) in all.iter_mut().zip(["new", "old"]) {
            let bare = json!({"id": id, "part": "store", "current": false, "runs": false, "on_probation": false, "grade": null,
                "since": null, "kept": true, "imported": null, "quarantined": null, "verified": null, "fault": null});
            let fields = one.as_object().unwrap().clone();
            *one = bare;
            one.as_object_mut().unwrap().extend(fields);
        }
        let all = json!({"service": "web", "store": "release", "switch": null, "generations": all});
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn the_end_of_a_switch_is_told_from_what_is_known_afterwards() {
        let web = Name::try_from("web").unwrap();
        let new = GenerationId::try_from("new").unwrap();
        let started = "2026-01-01T00:00:00Z".parse().unwrap();
        let (before, after) = ("2025-12-31T23:59:59.999Z", "2026-01-01T00:00:05.000Z");
        let end = |to: Value, old: Value| {
            end(&web, &known(&to, &old), &new, started).map(|end| end.map_err(|failure| failure.exit()))
        };

        let good = |since| json!({"current": true, "grade": "provisional", "since": since});
        assert!(matches!(end(good(after), json!({})), Some(Ok(text)) if text.starts_with("web runs new")));
        assert!(end(good(before), json!({})).is_none(), "known to be good before this switch");
        let mut started_again = good(before);
        started_again["runs"] = json!(true);
        assert!(matches!(end(started_again, json!({})), Some(Ok(_))), "what was good before was only to be started");
        assert!(end(json!({"current": true, "since": after}), json!({})).is_none(), "not known to be good");

        let bad = |since| json!({"quarantined": {"why": "it fails", "incident": 7, "since": since, "until": since}});
        let old = json!({"current": true, "runs": true, "grade": "proven"});
        assert_eq!(end(bad(after), old.clone()), Some(Err(Exit::RolledBack)));
        let mut stopped = old.clone();
        stopped["runs"] = json!(false);
        assert_eq!(end(bad(after), stopped), Some(Err(Exit::Failed)), "nobody knows what its data are, for example");
        assert_eq!(end(bad(before), old.clone()), None, "it failed an earlier time");
        assert_eq!(end(bad(after), json!({"current": true})), None, "what runs is not known to be good");
        assert_eq!(end(json!({}), old), None);
    }
}
