//! The checks of one service.

use crate::diagnostic::Report;
use crate::document::{Entry, Item, Value};
use crate::fields::{Fields, nearest};
use crate::keys::{self, CheckName, Key, probed};
use crate::kinds::{Choice, Kind};
use crate::measured;
use crate::tree_checks;
use crate::validate::{absolute, program};
use hale_core::ids::Name;
use hale_core::policy::{CheckKind, CheckPolicy, HttpCheck};
use hale_core::time::Span;
use std::collections::BTreeMap;

/// A check whose name may still be missing.
struct Unnamed {
    name: Option<Name>,
    kind: CheckKind,
    every: Span,
    timeout: Span,
    failures: u32,
    successes: u32,
    confirm: Vec<String>,
    confirm_at: crate::diagnostic::Place,
}

/// Reads `[[service.NAME.check]]`. `None`: one of them is wrong.
pub(crate) fn read(service: &Fields<'_>, base_dir: &str, report: &mut Report<'_>) -> Option<Vec<CheckPolicy>> {
    let Some(Entry { item, .. }) = service.entry("check") else { return Some(Vec::new()) };
    let Value::List(list) = &item.value else {
        let message = format!("`check` must be a list of tables, not {}", item.value.describe());
        report.error(item.at, message, Some("write [[service.NAME.check]], with two brackets".to_owned()));
        return None;
    };
    read_items(list, service, &keys::KIND, base_dir, report)
}

/// Reads a list of checks of what `owner` is the table of; `kind` has the kinds that it can have. `None`: one of them is wrong.
pub(crate) fn read_items<'a>(
    list: impl IntoIterator<Item = &'a Item>,
    owner: &Fields<'_>,
    kind: &Key<Choice<CheckName>>,
    base_dir: &str,
    report: &mut Report<'_>,
) -> Option<Vec<CheckPolicy>> {
    let mut given = BTreeMap::new();
    let mut all = Vec::new();
    for item in list {
        all.push(check(item, owner, kind, &mut given, base_dir, report));
    }
    let (checks, wanted) = with_names(all.into_iter().collect::<Option<_>>()?);
    confirmed(checks, wanted, report)
}

fn check(
    item: &Item,
    owner: &Fields<'_>,
    of: &Key<Choice<CheckName>>,
    given: &mut BTreeMap<Name, crate::diagnostic::Place>,
    base_dir: &str,
    report: &mut Report<'_>,
) -> Option<Unnamed> {
    let Value::Table(table) = &item.value else {
        report.error(item.at, format!("a check must be a table, not {}", item.value.describe()), None);
        return None;
    };
    let kind = match table.0.get(of.name).map(|entry| &entry.item) {
        Some(item) => of.kind.read(of.name, item, report)?,
        None => {
            let kinds = of.kind.of.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(", ");
            report.error(item.at, "`kind` is missing in this check", Some(format!("add kind = one of {kinds}")));
            return None;
        }
    };
    let fields = Fields::open(table, kind.section(), kind.section().title.to_owned(), item.at, report);
    let name = name(&fields, given, report);
    let every = fields.get(&keys::EVERY, report);
    let timeout = fields.get(&keys::TIMEOUT, report);
    let failures = match kind {
        CheckName::Heartbeat | CheckName::Progress => fields.get(&keys::HEARTBEAT_FAILURES, report),
        CheckName::Http
        | CheckName::Tcp
        | CheckName::Exec
        | CheckName::Memory
        | CheckName::Cpu
        | CheckName::OpenFiles
        | CheckName::Listen
        | CheckName::Grpc
        | CheckName::Metric
        | CheckName::LoopLag => fields.get(&keys::FAILURES, report),
    };
    let successes = fields.get(&keys::SUCCESSES, report);
    let confirm = fields.get(&keys::CONFIRM, report);
    let confirm_at = fields.place(keys::CONFIRM.name);
    let kind = match kind {
        CheckName::Http => http(&fields, timeout, base_dir, report).map(CheckKind::Http),
        CheckName::Tcp => fields.get(&probed::ADDRESS, report).map(|address| CheckKind::Tcp { address }),
        CheckName::Exec => exec(&fields, report),
        CheckName::Heartbeat => heartbeat(&fields, report),
        CheckName::Memory => tree_checks::memory(&fields, owner, report),
        CheckName::Cpu => tree_checks::cpu(&fields, report),
        CheckName::OpenFiles => tree_checks::open_files(&fields, owner, report),
        CheckName::Listen => tree_checks::listen(&fields, report),
        CheckName::Grpc => grpc(&fields, report),
        CheckName::Metric => measured::metric(&fields, report),
        CheckName::Progress => measured::progress(&fields, every, report),
        CheckName::LoopLag => measured::loop_lag(&fields, report),
    };
    Some(Unnamed {
        name,
        kind: kind?,
        every: every?,
        timeout: timeout?,
        failures: failures?,
        successes: successes?,
        confirm: confirm?,
        confirm_at,
    })
}

fn name(
    fields: &Fields<'_>,
    given: &mut BTreeMap<Name, crate::diagnostic::Place>,
    report: &mut Report<'_>,
) -> Option<Name> {
    let text = fields.given(&keys::CHECK_NAME, report)?;
    let at = fields.place("name");
    match Name::try_from(text.as_str()) {
        Ok(name) => {
            if let Some(first) = given.insert(name.clone(), at) {
                let help = format!("the first one is at {}", report.position(first));
                report.error(at, format!("two checks here are called `{name}`"), Some(help));
            }
            Some(name)
        }
        Err(why) => {
            report.error(at, format!("{text:?} cannot be a check's name: {why}"), None);
            None
        }
    }
}

fn http(fields: &Fields<'_>, timeout: Option<Span>, base_dir: &str, report: &mut Report<'_>) -> Option<HttpCheck> {
    let url = fields.get(&probed::URL, report);
    let method = fields.get(&probed::METHOD, report);
    let headers = fields.get(&probed::HEADERS, report);
    let status = fields.get(&probed::STATUS, report);
    let body_contains = fields.given(&probed::BODY_CONTAINS, report);
    let json = fields.get(&probed::JSON, report);
    let faster_than = fields.given(&probed::FASTER_THAN, report);
    let ca_file = fields.given(&probed::CA_FILE, report).map(|path| absolute(base_dir, &path));
    if ca_file.is_some() && url.as_ref().is_some_and(|url| !url.starts_with("https://")) {
        let message = "`ca_file` has no effect: only a server of https shows a certificate";
        report.warning(fields.place(probed::CA_FILE.name), message, Some("remove it".to_owned()));
    }
    for (key, wanted) in
        [("body_contains", body_contains.is_some()), ("json", json.as_ref().is_some_and(|map| !map.is_empty()))]
    {
        if wanted && method.as_deref() == Some("HEAD") {
            let message = format!("`{key}` can never pass: an answer to HEAD has no body");
            report.error(fields.place(key), message, Some("use method = \"GET\"".to_owned()));
        }
    }
    if let (Some(faster_than), Some(timeout)) = (faster_than, timeout)
        && faster_than >= timeout
    {
        let message = format!("`faster_than` ({faster_than}) never counts: the probe ends at `timeout` ({timeout})");
        report.warning(fields.place("faster_than"), message, Some("make `timeout` longer".to_owned()));
    }
    Some(HttpCheck {
        url: url?,
        ca_file,
        method: method?,
        headers: headers?,
        status: status?,
        body_contains,
        json: json?,
        faster_than,
    })
}

fn exec(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<CheckKind> {
    let command = fields.get(&probed::EXEC_COMMAND, report);
    if let Some(command) = &command {
        program("command", command, fields.place("command"), report);
    }
    let user = fields.given(&probed::EXEC_USER, report);
    Some(CheckKind::Exec { command: command?, user })
}

fn heartbeat(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<CheckKind> {
    if let Some(entry) = fields.entry(keys::TIMEOUT.name) {
        let help = Some("`within` is the bound; remove `timeout`".to_owned());
        report.warning(entry.key_at, "`timeout` has no effect in a check of kind \"heartbeat\"", help);
    }
    Some(CheckKind::Heartbeat { within: fields.get(&probed::HEARTBEAT_WITHIN, report)? })
}

fn grpc(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<CheckKind> {
    let address = fields.get(&probed::GRPC_ADDRESS, report);
    let service = fields.get(&probed::GRPC_SERVICE, report);
    Some(CheckKind::Grpc { address: address?, service: service? })
}

/// What the `confirm` of a check says, and where.
type Wanted = (Vec<String>, crate::diagnostic::Place);

/// Gives the kind as the name to each check without one, with a number where that is taken.
fn with_names(checks: Vec<Unnamed>) -> (Vec<CheckPolicy>, Vec<Wanted>) {
    let mut taken: Vec<Name> = checks.iter().filter_map(|check| check.name.clone()).collect();
    let mut free_name = |kind: &str| -> Name {
        let candidates = std::iter::once(kind.to_owned()).chain((2..).map(|number: u32| format!("{kind}-{number}")));
        let free = candidates
            .filter_map(|text| Name::try_from(text.as_str()).ok())
            .find(|name| !taken.contains(name))
            .expect("there are more numbers than checks, and each kind's word is a name");
        taken.push(free.clone());
        free
    };
    let finish = |check: Unnamed| {
        let policy = CheckPolicy {
            name: check.name.unwrap_or_else(|| free_name(check.kind.as_str())),
            kind: check.kind,
            every: check.every,
            timeout: check.timeout,
            failures: check.failures,
            successes: check.successes,
            confirm: Vec::new(),
        };
        (policy, (check.confirm, check.confirm_at))
    };
    checks.into_iter().map(finish).unzip()
}

/// Finds the checks that others name in `confirm`. `None`: one of them is not there.
fn confirmed(mut checks: Vec<CheckPolicy>, wanted: Vec<Wanted>, report: &mut Report<'_>) -> Option<Vec<CheckPolicy>> {
    let names: Vec<Name> = checks.iter().map(|check| check.name.clone()).collect();
    let mut all_there = true;
    for (check, (texts, at)) in checks.iter_mut().zip(wanted) {
        if !texts.is_empty() && check.failures < 2 {
            let message = format!("`confirm` needs `failures` of at least 2, and check `{}` has 1", check.name);
            let help =
                "the failures before the last one are what is seen of a check that nobody confirms: set failures = 2";
            report.error(at, message, Some(help.to_owned()));
            all_there = false;
        }
        for text in texts {
            match names.iter().find(|name| name.as_str() == text) {
                Some(name) if *name == check.name => {
                    let help = Some("name another check of this service".to_owned());
                    report.error(at, format!("check `{name}` cannot confirm itself"), help);
                    all_there = false;
                }
                Some(name) => check.confirm.push(name.clone()),
                None => {
                    let known: Vec<&str> =
                        names.iter().map(Name::as_str).filter(|name| *name != check.name.as_str()).collect();
                    let help = nearest(&text, known.iter().copied()).map(|near| format!("did you mean {near:?}?"));
                    let help = help.unwrap_or_else(|| match known.is_empty() {
                        true => "this is the only check here: add another one, or remove `confirm`".to_owned(),
                        false => format!("the other checks here are: {}", known.join(", ")),
                    });
                    let help = Some(help);
                    report.error(at, format!("there is no check {text:?} here"), help);
                    all_there = false;
                }
            }
        }
        check.confirm.sort();
        check.confirm.dedup();
    }
    all_there.then_some(checks)
}
