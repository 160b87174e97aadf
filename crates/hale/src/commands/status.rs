//! `hale status [SERVICE]`

use super::order::name;
use crate::cli::{Format, Global};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::generation::{span, switching};
use crate::supervisor;
use crate::table::{Cell, render};
use crate::terminal::{Tone, colours, escape};
use hale_core::ids::Name;
use hale_core::policy::Mode;
use hale_core::status::State;
use hale_core::time::Span;
use hale_core::world::dependency::Standing;
use hale_daemon::api::view::{Check, Dependency, Service, Status};
use jiff::Timestamp;
use std::io::Write;

/// Prints the live state of one service or of all.
pub fn run(service: Option<&str>, format: Format, global: &Global, out: &mut impl Write) -> Result<Exit, Failure> {
    let target = match service {
        Some(service) => format!("/v1/status/{}", name(service)?),
        None => "/v1/status".to_owned(),
    };
    let body = supervisor::ask(global, &target)?;
    if format.json {
        // As it came: it may say more than this version knows.
        out.write_all(&body)?;
        writeln!(out)?;
        return Ok(Exit::Done);
    }
    let status: Status = supervisor::parse(&body)?;
    out.write_all(text(&status, service.is_some(), colours()).as_bytes())?;
    Ok(Exit::Done)
}

/// The table, what needs attention below it, and all that is known of each check if `whole`.
fn text(status: &Status, whole: bool, coloured: bool) -> String {
    let header = ["SERVICE", "STATE", "SINCE", "PID", "RESTARTS", "CHECKS"];
    let row = |service: &Service| {
        [
            Cell::from(service.name.as_str()),
            Cell::toned(service.state.as_str(), tone(service.state)),
            age(&status.host.at, &service.since).into(),
            service.pid.map_or("-".to_owned(), |pid| pid.to_string()).into(),
            service.restarts.to_string().into(),
            checks_in_short(&service.checks).into(),
        ]
    };
    let rows: Vec<_> = status.services.iter().map(row).collect();
    let have_generations = |service: &Service| service.generation.is_some() || service.switch.is_some();
    let mut text = if status.services.iter().any(have_generations) {
        let [service, state, since, pid, restarts, checks] = header;
        let wider =
            rows.into_iter().zip(&status.services).map(|([name, state, since, pid, restarts, checks], service)| {
                let [generation, grade] = generation(service);
                [name, state, since, pid, restarts, generation, grade, checks]
            });
        let wider: Vec<_> = wider.collect();
        render([service, state, since, pid, restarts, "GENERATION", "GRADE", checks], &wider, coloured)
    } else {
        render(header, &rows, coloured)
    };
    if !status.dependencies.is_empty() {
        let row = |dependency: &Dependency| {
            let since = match dependency.state {
                Standing::Unknown => "-".to_owned(),
                Standing::Up | Standing::Down => age(&status.host.at, &dependency.since),
            };
            [
                Cell::from(dependency.name.as_str()),
                Cell::toned(dependency.state.as_str(), standing_tone(dependency.state)),
                since.into(),
                checks_in_short(&dependency.checks).into(),
            ]
        };
        let rows: Vec<_> = status.dependencies.iter().map(row).collect();
        text.push('\n');
        text.push_str(&render(["DEPENDENCY", "STATE", "SINCE", "CHECKS"], &rows, coloured));
    }
    let mut remarks = Vec::new();
    if status.host.mode == Mode::Observe {
        remarks.push("Hale only observes: mode = \"observe\"".to_owned());
    }
    if let Some(error) = &status.host.ledger_error {
        remarks.push(format!("the ledger cannot be written, healing goes on: {error}"));
    }
    for service in &status.services {
        remarks.extend(remarks_on(service, whole));
    }
    for dependency in &status.dependencies {
        remarks.extend(remarks_on_checks(&dependency.name, &dependency.checks, whole));
    }
    if !remarks.is_empty() {
        text.push('\n');
    }
    for remark in remarks {
        text.push_str(&escape(&remark));
        text.push('\n');
    }
    text
}

/// The generation that the service is switched to, and how well it is known, or what is left of its probation.
fn generation(service: &Service) -> [Cell; 2] {
    let generation = service.generation.as_ref().map_or("-", |generation| generation.short());
    let grade = match (service.probation_ms_left, &service.grade) {
        (Some(left), _) => Cell::toned(&format!("probation, {} left", span(left)), Tone::Attention),
        (None, Some(grade)) => grade.as_str().into(),
        (None, None) => "-".into(),
    };
    [generation.into(), grade]
}

fn remarks_on(service: &Service, whole: bool) -> Vec<String> {
    let name = &service.name;
    let mut remarks = Vec::new();
    remarks.extend(switching(service).map(|words| format!("{name}: {words}")));
    if let (None, None, Some(held), true) =
        (&service.switch, &service.grade, &service.generation, service.state != State::Stopped)
    {
        let held = held.short();
        remarks.push(format!(
            "{name}: {held} is not known to be good before it has worked for its `soak`; `hale generations {name}` shows what there is"
        ));
    }
    if !service.detail.is_empty() {
        remarks.push(format!("{name}: {}", service.detail));
    }
    if let Some(why) = &service.observed {
        remarks.push(format!("{name}: only observed, because Hale broke a rule of its own: {why}"));
    }
    remarks.extend(remarks_on_checks(name, &service.checks, whole));
    if whole && !service.status_text.is_empty() {
        remarks.push(format!("{name}: says \"{}\"", service.status_text));
    }
    if whole && !service.stored.is_empty() {
        remarks.push(format!("{name}: keeps for its next process: {}", service.stored.join(", ")));
    }
    if let Some(id) = service.incident {
        remarks.push(format!("{name}: incident {id} is open, see `hale incident {id}`"));
    }
    remarks
}

fn remarks_on_checks(name: &Name, checks: &[Check], whole: bool) -> Vec<String> {
    let mut remarks = Vec::new();
    for check in checks {
        let took = check.last_ms.map_or(String::new(), |ms| format!(" in {ms} ms"));
        match check.ok {
            _ if check.unable => {
                remarks.push(format!("{name}: check {} could not be probed: {}", check.name, check.detail));
            }
            Some(false) => remarks.push(format!("{name}: check {} fails: {}", check.name, check.detail)),
            Some(true) if whole => remarks.push(format!("{name}: check {} passes{took}: {}", check.name, check.detail)),
            None if whole && !check.detail.is_empty() => {
                remarks.push(format!("{name}: check {} has not passed yet: {}", check.name, check.detail));
            }
            None if whole => remarks.push(format!("{name}: check {} is not known yet", check.name)),
            Some(true) | None => {}
        }
        // Where one bound will be reached is worth a line in the list of all, too.
        if let Some(outlook) = check.outlook.as_ref().filter(|outlook| whole || outlook.reaches_in_ms.is_some()) {
            remarks.push(format!("{name}: check {}: {}", check.name, outlook.text));
        }
    }
    remarks
}

fn standing_tone(standing: Standing) -> Tone {
    match standing {
        Standing::Up => Tone::Good,
        Standing::Unknown => Tone::Attention,
        Standing::Down => Tone::Bad,
    }
}

fn tone(state: State) -> Tone {
    match state {
        State::Healthy => Tone::Good,
        State::Starting | State::Degraded | State::Stopping | State::BackingOff | State::Blocked => Tone::Attention,
        State::Failing | State::Held => Tone::Bad,
        State::Paused => Tone::Attention,
        State::Stopped => Tone::Quiet,
    }
}

/// `-`, `2 pass`, `1 of 2 fail`.
fn checks_in_short(checks: &[Check]) -> String {
    let all = checks.len();
    let failing = checks.iter().filter(|check| check.ok == Some(false)).count();
    let unknown = checks.iter().filter(|check| check.ok.is_none()).count();
    match (all, failing, unknown) {
        (0, _, _) => "-".to_owned(),
        (_, 0, 0) => format!("{all} pass"),
        (_, 0, unknown) => format!("{unknown} of {all} unknown"),
        (_, failing, _) => format!("{failing} of {all} fail"),
    }
}

/// How long before `at` the time `since` was, both RFC 3339, in whole seconds: less would flicker.
fn age(at: &str, since: &str) -> String {
    let (Ok(at), Ok(since)) = (at.parse::<Timestamp>(), since.parse::<Timestamp>()) else { return "?".to_owned() };
    let secs = u64::try_from(at.duration_since(since).as_secs()).unwrap_or(0);
    if secs == 0 { "< 1 s".to_owned() } else { Span::from_secs(secs).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(services: &serde_json::Value) -> Status {
        let host = json!({"at": "2026-11-23T22:00:10.500Z", "version": "0", "mode": "heal", "ledger_error": null});
        serde_json::from_value(json!({"host": host, "services": services})).unwrap()
    }

    fn service(name: &str, state: &str) -> serde_json::Value {
        json!({"name": name, "state": state, "detail": "", "pid": 42, "since": "2026-11-23T21:59:05.000Z",
            "restarts": 1, "generation": null, "grade": null, "probation_ms_left": null, "incident": null,
            "status_text": "", "observed": null, "checks": []})
    }

    #[test]
    fn a_healthy_host_is_a_table_and_nothing_else() {
        let shown = text(&status(&json!([service("web", "healthy"), service("worker", "healthy")])), false, false);
        let expected = "\
SERVICE  STATE    SINCE      PID  RESTARTS  CHECKS
web      healthy  1 min 5 s  42   1         -
worker   healthy  1 min 5 s  42   1         -
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn generations_have_columns_where_there_are_any() {
        let mut web = service("web", "healthy");
        web["generation"] = json!("0123456789abcdef");
        web["grade"] = json!("proven");
        let mut bot = service("bot", "starting");
        bot["generation"] = json!("new");
        bot["probation_ms_left"] = json!(41_000.5);
        bot["switch"] = json!({"part": "store", "to": "new", "from": null, "stage": "probation", "runs": true});
        let shown = text(&status(&json!([bot, service("worker", "healthy"), web])), false, false);
        let expected = "\
SERVICE  STATE     SINCE      PID  RESTARTS  GENERATION    GRADE                 CHECKS
bot      starting  1 min 5 s  42   1         new           probation, 42 s left  -
worker   healthy   1 min 5 s  42   1         -             -                     -
web      healthy   1 min 5 s  42   1         0123456789ab  proven                -

bot: new is on probation: all checks have to hold for 42 s more
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn dependencies_have_a_table_of_their_own() {
        let mut status = status(&json!([service("web", "healthy")]));
        let check = json!({"name": "tcp", "kind": "tcp", "ok": false, "last_ms": 1.5, "detail": "refused"});
        let dependency = |name: &str, state: &str, checks: serde_json::Value| json!({"name": name, "state": state, "since": "2026-11-23T21:59:05.000Z", "checks": checks});
        let all = json!([dependency("api", "down", json!([check])), dependency("store", "unknown", json!([]))]);
        status.dependencies = serde_json::from_value(all).unwrap();
        let shown = text(&status, false, false);
        let below = shown.split_once("\n\n").unwrap().1;
        let expected = "\
DEPENDENCY  STATE    SINCE      CHECKS
api         down     1 min 5 s  1 of 1 fail
store       unknown  -          -

api: check tcp fails: refused
";
        assert_eq!(below, expected);
    }

    #[test]
    fn what_is_wrong_is_told_below_the_table() {
        let mut held = service("web", "held");
        held["detail"] = json!("given up after a crash loop");
        held["incident"] = json!(7);
        held["checks"] =
            json!([{"name": "http", "kind": "http", "ok": false, "last_ms": 1.5, "detail": "refused\u{1b}[2J"}]);
        let shown = text(&status(&json!([held])), false, false);
        assert!(shown.contains("1 of 1 fail\n"), "{shown}");
        let remarks = shown.split_once("\n\n").unwrap().1;
        assert_eq!(
            remarks,
            "web: given up after a crash loop\nweb: check http fails: refused\\u{1b}[2J\n\
             web: incident 7 is open, see `hale incident 7`\n"
        );
    }

    #[test]
    fn one_service_shows_all_of_its_checks() {
        let mut web = service("web", "healthy");
        web["checks"] = json!([{"name": "http", "kind": "http", "ok": true, "last_ms": 0.8, "detail": "200"}]);
        assert!(text(&status(&json!([web])), true, false).ends_with("\nweb: check http passes in 0.8 ms: 200\n"));
    }
}
