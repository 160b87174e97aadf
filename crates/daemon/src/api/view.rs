//! The JSON that clients see: the core's types in the units and names of the contract (architecture, section 6).
//! Fields are added, never renamed or removed.

pub mod generations;

use self::generations::Switch;
use super::evidence::Evidence;
use super::openapi;
use hale_core::analyze::trace::Trace;
use hale_core::analyze::trend::{self, Unit};
use hale_core::hardware::Timer;
use hale_core::ids::{GenerationId, Name};
use hale_core::incident::{Blame, Cause, Outcome, Story};
use hale_core::policy::Mode;
use hale_core::status::{CheckStatus, DependencyStatus, ServiceStatus, State, StatusReport};
use hale_core::time::{Monotonic, Now, Span};
use hale_core::world::dependency::Standing;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use utoipa::ToSchema;

/// `hale status --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Hale itself.
    pub host: Host,
    /// The services asked for, in the order of names.
    pub services: Vec<Service>,
    /// The dependencies, or those of the one service asked for, in the order of names.
    #[serde(default)]
    pub dependencies: Vec<Dependency>,
}

/// One dependency.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Dependency {
    /// Its name.
    #[schema(schema_with = openapi::name)]
    pub name: Name,
    /// Whether it is there.
    #[schema(schema_with = openapi::standing)]
    pub state: Standing,
    /// Since when.
    pub since: String,
    /// Its checks.
    pub checks: Vec<Check>,
}

/// Hale itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Host {
    /// When the report was true.
    pub at: String,
    /// Version of the supervisor.
    pub version: String,
    /// Whether it acts.
    #[schema(schema_with = openapi::mode)]
    pub mode: Mode,
    /// Why the ledger cannot be written, if it cannot.
    pub ledger_error: Option<String>,
    /// The hardware timer; `null` where none is configured.
    #[serde(default)]
    pub hardware_watchdog: Option<HardwareWatchdog>,
}

/// The hardware timer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HardwareWatchdog {
    /// Whether it runs and is petted.
    pub armed: bool,
    /// What it is and does, or why not, in a sentence.
    pub detail: String,
    /// Its time, while it runs.
    pub timeout_ms: Option<f64>,
    /// What it says of this boot (`WDIOC_GETBOOTSTATUS`), while it runs.
    pub boot_status: Option<u32>,
}

impl From<&Timer> for HardwareWatchdog {
    fn from(timer: &Timer) -> Self {
        let armed = match timer {
            Timer::Armed(armed) => Some(armed),
            Timer::Waiting { .. } | Timer::Refused { .. } => None,
        };
        Self {
            armed: armed.is_some(),
            detail: timer.to_string(),
            timeout_ms: armed.map(|armed| ms(armed.timeout)),
            boot_status: armed.map(|armed| armed.boot_status),
        }
    }
}

/// One service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Its name.
    #[schema(schema_with = openapi::name)]
    pub name: Name,
    /// What it is doing.
    #[schema(schema_with = openapi::state)]
    pub state: State,
    /// Why, where there is something to say.
    pub detail: String,
    /// Its main process.
    pub pid: Option<i32>,
    /// Since when it is in this state.
    pub since: String,
    /// Starts after the first one.
    pub restarts: u64,
    /// The generation that it is switched to; `null` where the service has none.
    #[schema(value_type = Option<String>)]
    pub generation: Option<GenerationId>,
    /// How well that is known to be good: `assumed`, `provisional` or `proven`; `null`: it is not.
    pub grade: Option<String>,
    /// How long all checks have to hold yet, while it is on probation.
    pub probation_ms_left: Option<f64>,
    /// The switch that is under way.
    #[serde(default)]
    pub switch: Option<Switch>,
    /// Its checks.
    pub checks: Vec<Check>,
    /// What it waits for, while it is blocked.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub blocked_on: Option<Name>,
    /// The incident in progress.
    pub incident: Option<u64>,
    /// What it says of itself (`STATUS=` of sd_notify(3)).
    pub status_text: String,
    /// Why it is only observed, if it is.
    pub observed: Option<String>,
    /// When its pause ends by itself; `null`: it is not paused.
    #[serde(default)]
    pub paused_until: Option<String>,
    /// The names of the descriptors that it left for its next process (`FDSTORE=1` of sd_notify(3)), oldest first.
    #[serde(default)]
    pub stored: Vec<String>,
}

/// One check of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// Its name.
    #[schema(schema_with = openapi::name)]
    pub name: Name,
    /// Its kind.
    #[schema(value_type = String)]
    pub kind: Cow<'static, str>,
    /// Whether it passes; `null` while that is not known.
    pub ok: Option<bool>,
    /// Whether its last probe could not be run, or said nothing about the service: then `ok` is what was known before.
    #[serde(default)]
    pub unable: bool,
    /// How long its last probe took.
    pub last_ms: Option<f64>,
    /// What the last probe found.
    pub detail: String,
    /// Where its figure is going, once that can be told (kinds `memory` and `open_files`).
    #[serde(default)]
    pub outlook: Option<Outlook>,
}

/// How the figure of a check grows: by the median of the slopes between all pairs of points, with a range of 95 %.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Outlook {
    /// What is counted.
    #[schema(value_type = String)]
    pub unit: Unit,
    /// The newest figure.
    pub level: u64,
    /// The bound at which the check fails.
    pub limit: u64,
    /// How much more it becomes in an hour; negative where it shrinks.
    pub per_hour: i64,
    /// At least.
    pub per_hour_low: i64,
    /// At most.
    pub per_hour_high: i64,
    /// How long it was watched.
    pub over_ms: f64,
    /// When the bound is reached; `null`: it is not sure that it ever is, or it is reached already.
    pub reaches_in_ms: Option<f64>,
    /// At the earliest.
    pub reaches_in_ms_low: Option<f64>,
    /// At the latest.
    pub reaches_in_ms_high: Option<f64>,
    /// In words.
    pub text: String,
}

impl From<&trend::Outlook> for Outlook {
    fn from(outlook: &trend::Outlook) -> Self {
        let reaches = outlook.reaches();
        let trend::Growth { per_hour, per_hour_low, per_hour_high, per_hour_lately: _, over } = outlook.growth;
        let text = match reaches {
            Some(reaches) => format!("{outlook}, reaches its bound in {reaches}"),
            None => outlook.to_string(),
        };
        Self {
            unit: outlook.unit,
            level: outlook.level,
            limit: outlook.limit,
            per_hour,
            per_hour_low,
            per_hour_high,
            over_ms: ms(over),
            reaches_in_ms: reaches.map(|reaches| ms(reaches.after)),
            reaches_in_ms_low: reaches.map(|reaches| ms(reaches.earliest)),
            reaches_in_ms_high: reaches.map(|reaches| ms(reaches.latest)),
            text,
        }
    }
}

/// An order that is carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// In a sentence.
    pub text: String,
}

/// One incident, as in `hale incidents --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Its number.
    pub id: u64,
    /// Whose; `null`: the host's own.
    pub service: Option<Name>,
    /// What kind of failure.
    pub cause: Cause,
    /// Whose fault.
    pub blame: Blame,
    /// When it was detected.
    pub opened: String,
    /// When it was over.
    pub closed: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// From the detection to all checks passing on the new process; only where the outcome is `recovered`.
    pub recovery_ms: Option<f64>,
    /// From the last good sign to the next; only where there was a next one: `recovered`,
    /// `environmental` or `observed`.
    pub down_ms: Option<f64>,
    /// The first exception in the last output of a process that failed; `null`: none was found.
    #[serde(default)]
    pub exception: Option<Trace>,
    /// What happened, in order.
    pub timeline: Vec<Moment>,
    /// What was found.
    pub evidence: Evidence,
}

/// One line of a timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// Since the detection.
    pub t_ms: f64,
    /// What happened.
    pub what: String,
    /// Why, where something was decided.
    pub why: Option<String>,
}

/// Appends a report to `json` as [`Status`] has it, one service after the other: of a thousand there are some hundred kilobytes,
/// and all of them as values first took half of the time.
///
/// # Errors
/// None in practice: all of it has a JSON form.
pub fn write_status(report: StatusReport, json: &mut Vec<u8>) -> serde_json::Result<()> {
    let StatusReport { at, mode, ledger_error, timer, services, dependencies } = report;
    let host = Host {
        at: rfc3339(at.wall_us),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mode,
        ledger_error,
        hardware_watchdog: timer.as_ref().map(HardwareWatchdog::from),
    };
    json.extend_from_slice(b"{\"host\":");
    serde_json::to_writer(&mut *json, &host)?;
    json.extend_from_slice(b",\"services\":");
    write_list(services.into_iter().map(|service| Service::new(service, at)), json)?;
    json.extend_from_slice(b",\"dependencies\":");
    write_list(dependencies.into_iter().map(|dependency| Dependency::new(dependency, at)), json)?;
    json.push(b'}');
    Ok(())
}

fn write_list(items: impl Iterator<Item = impl Serialize>, json: &mut Vec<u8>) -> serde_json::Result<()> {
    json.push(b'[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            json.push(b',');
        }
        serde_json::to_writer(&mut *json, &item)?;
    }
    json.push(b']');
    Ok(())
}

impl Dependency {
    fn new(dependency: DependencyStatus, at: Now) -> Self {
        Self {
            name: dependency.name,
            state: dependency.state,
            since: since(dependency.since, at),
            checks: dependency.checks.into_iter().map(Check::from).collect(),
        }
    }
}

/// When a moment of the monotonic clock was, by the wall clock as it is now.
fn since(since: Monotonic, at: Now) -> String {
    let age_us = i64::try_from(at.mono.since(since).as_us()).unwrap_or(i64::MAX);
    rfc3339(at.wall_us.saturating_sub(age_us))
}

impl Service {
    fn new(service: ServiceStatus, at: Now) -> Self {
        Self {
            name: service.name,
            state: service.state,
            detail: service.detail,
            pid: service.pid,
            since: since(service.since, at),
            restarts: service.restarts,
            generation: service.generation,
            grade: service.grade.map(generations::grade),
            probation_ms_left: service.switch.as_ref().and_then(|switch| switch.probation_left).map(ms),
            switch: service.switch.map(Switch::from),
            checks: service.checks.into_iter().map(Check::from).collect(),
            blocked_on: service.blocked_on,
            incident: service.incident.map(|id| id.0),
            status_text: service.status_text,
            observed: service.observed,
            paused_until: service.paused_until_boot_us.map(|until| {
                let left = i64::try_from(until.saturating_sub(at.boot_us)).unwrap_or(i64::MAX);
                rfc3339(at.wall_us.saturating_add(left))
            }),
            stored: service.stored.iter().map(|name| name.as_str().to_owned()).collect(),
        }
    }
}

impl From<CheckStatus> for Check {
    fn from(check: CheckStatus) -> Self {
        Self {
            name: check.name,
            kind: check.kind,
            ok: check.ok,
            unable: check.unable,
            last_ms: check.last_us.map(|us| ms(Span::from_us(us))),
            detail: check.detail,
            outlook: check.outlook.as_ref().map(Outlook::from),
        }
    }
}

impl From<&Story> for Incident {
    fn from(story: &Story) -> Self {
        let moment = |entry: &hale_core::incident::Entry| Moment {
            t_ms: ms(entry.after),
            what: entry.what.clone(),
            why: entry.why.clone(),
        };
        Self {
            id: story.id.0,
            service: story.service.clone(),
            cause: story.cause,
            blame: story.blame,
            opened: rfc3339(story.opened.wall_us),
            closed: story.closed.map(|at| rfc3339(at.wall_us)),
            outcome: story.outcome,
            recovery_ms: recovery(story).map(ms),
            down_ms: down(story).map(ms),
            exception: story.exception.clone(),
            timeline: story.timeline.iter().map(moment).collect(),
            evidence: Evidence::from(story),
        }
    }
}

/// How long the recovery took. `None` where nothing recovered, whatever was measured until then.
#[must_use]
pub fn recovery(story: &Story) -> Option<Span> {
    story.recovery_us.filter(|_| matches!(story.outcome, Outcome::Recovered | Outcome::RolledBack)).map(Span::from_us)
}

/// How long the service did not work. `None` while that is not over, or when nobody saw it end.
#[must_use]
pub fn down(story: &Story) -> Option<Span> {
    let seen = match story.outcome {
        Outcome::Recovered | Outcome::RolledBack | Outcome::Observed | Outcome::Rebooted | Outcome::Environmental => {
            true
        }
        Outcome::Open | Outcome::Held | Outcome::Stopped => false,
    };
    story.down_us.filter(|_| seen).map(Span::from_us)
}

/// Milliseconds with three decimals at most: microseconds are exact in a double for 285 years.
#[must_use]
pub fn ms(span: Span) -> f64 {
    span.as_us() as f64 / 1_000.0
}

/// RFC 3339 in UTC with three decimals. A time outside of jiff's range (the years -9999 to 9999) is shown as its
/// nearest end.
#[must_use]
pub fn rfc3339(wall_us: i64) -> String {
    let nearest = if wall_us < 0 { Timestamp::MIN } else { Timestamp::MAX };
    format!("{:.3}", Timestamp::from_microsecond(wall_us).unwrap_or(nearest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hale_core::descriptor::FdName;
    use serde_json::json;

    #[test]
    fn times_have_three_decimals() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_795_471_428_123_999), "2026-11-23T22:03:48.123Z");
        assert_eq!(rfc3339(i64::MAX), "9999-12-30T22:00:00.999Z");
        assert_eq!(ms(Span::from_us(18_100)), 18.1);
    }

    #[test]
    fn only_what_ended_well_has_a_duration() {
        let story = |outcome| Story {
            id: hale_core::ids::IncidentId(1),
            service: Some(Name::try_from("web").unwrap()),
            cause: Cause::Exit,
            blame: Blame::Unknown,
            opened: Now::default(),
            closed: Some(Now::default()),
            outcome,
            recovery_us: Some(1_500),
            down_us: Some(2_500),
            timeline: Vec::new(),
            output: Vec::new(),
            memory: None,
            examination: None,
            exception: None,
            records_before: Vec::new(),
        };
        let durations = |outcome| {
            let incident = Incident::from(&story(outcome));
            (incident.recovery_ms, incident.down_ms)
        };
        assert_eq!(durations(Outcome::Recovered), (Some(1.5), Some(2.5)));
        assert_eq!(durations(Outcome::Observed), (None, Some(2.5)));
        for outcome in [Outcome::Open, Outcome::Held, Outcome::Stopped] {
            assert_eq!(durations(outcome), (None, None), "{outcome:?}");
        }
    }

    #[test]
    fn status_is_what_the_contract_says() {
        let mut report = StatusReport {
            at: Now { mono: Monotonic::from_us(5_000_000), boot_us: 0, wall_us: 3_000_000 },
            mode: Mode::Heal,
            ledger_error: None,
            timer: None,
            services: vec![ServiceStatus {
                name: Name::try_from("web").unwrap(),
                state: State::BackingOff,
                detail: "starts in 3 s".into(),
                pid: None,
                since: Monotonic::from_us(4_000_000),
                restarts: 2,
                checks: vec![CheckStatus {
                    name: Name::try_from("http").unwrap(),
                    kind: "http".into(),
                    ok: Some(false),
                    unable: false,
                    last_us: Some(1_500),
                    detail: "refused".into(),
                    outlook: None,
                }],
                blocked_on: None,
                incident: Some(hale_core::ids::IncidentId(7)),
                status_text: String::new(),
                paused_until_boot_us: None,
                observed: None,
                stored: vec![FdName::default()],
                generation: Some(GenerationId::try_from("abc").unwrap()),
                grade: Some(hale_core::safeswitch::Grade::Proven),
                switch: Some(hale_core::status::SwitchStatus {
                    part: hale_core::safeswitch::Part::Store,
                    to: GenerationId::try_from("abc").unwrap(),
                    from: None,
                    stage: "probation".into(),
                    probation_left: Some(Span::from_us(1_500)),
                    runs: true,
                }),
            }],
            dependencies: vec![DependencyStatus {
                name: Name::try_from("database").unwrap(),
                state: Standing::Up,
                since: Monotonic::from_us(1_000_000),
                checks: Vec::new(),
            }],
        };
        report.services.push(report.services[0].clone());
        report.dependencies.push(report.dependencies[0].clone());
        let mut written = Vec::new();
        write_status(report, &mut written).unwrap();
        let status: Status = serde_json::from_slice(&written).unwrap();
        assert_eq!((status.services.len(), status.dependencies.len()), (2, 2));
        assert_eq!(serde_json::to_vec(&status).unwrap(), written, "to the byte what its type says");
        let json = serde_json::to_value(status).unwrap();
        let service = &json["services"][0];
        assert_eq!(service["state"], "backing_off");
        assert_eq!(service["since"], "1970-01-01T00:00:02.000Z");
        assert_eq!(service["incident"], 7);
        assert_eq!(service["stored"], json!(["stored"]));
        assert_eq!(service["generation"], "abc");
        assert_eq!((&service["grade"], &service["probation_ms_left"]), (&json!("proven"), &json!(1.5)));
        assert_eq!(
            service["switch"],
            json!({"part": "store", "to": "abc", "from": null, "stage": "probation", "runs": true})
        );
        let check = json!({"name": "http", "kind": "http", "ok": false, "unable": false, "last_ms": 1.5,
            "detail": "refused", "outlook": null});
        assert_eq!(service["checks"][0], check);
        let keys = ["name", "state", "pid", "since", "restarts", "generation", "grade", "probation_ms_left", "checks"];
        for key in keys {
            assert!(service.get(key).is_some(), "{key}");
        }
    }
}
