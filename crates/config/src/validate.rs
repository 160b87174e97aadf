//! Merged to validated: the tree of keys and values becomes a policy, or reports why it cannot.

use crate::diagnostic::{Place, Report, Source};
use crate::document::{Entry, Item, Table, Value};
use crate::fields::{Fields, nearest};
use crate::listen::Taken;
use crate::order::{self, After};
use crate::{HostDefaults, checks, dependencies, generations, keys, listen, text};
use hale_core::ids::Name;
use hale_core::policy::{
    CheckPolicy, CrashLoop, GenerationsPolicy, HardwareWatchdog, HostPolicy, LogPolicy, Policy, Ready, ResourceLimits,
    RestartPolicy, ServicePolicy, StartPolicy, StopPolicy, StoreKind, SystemPolicy,
};
use hale_core::time::Span;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The start of the first file, for what is missing in all of them.
const NOWHERE: Place = Place { file: 0, start: 0, end: 0 };

/// Validates the whole configuration. `None`: `report` has errors.
pub(crate) fn policy(root: &Table, defaults: &HostDefaults, base_dir: &str, report: &mut Report<'_>) -> Option<Policy> {
    let fields = Fields::open(root, &keys::ROOT, "the top level".to_owned(), NOWHERE, report);
    let host_fields = fields.table("host", &keys::HOST, report);
    let host = host(&host_fields, defaults, base_dir, report);
    let system = system(&fields, report);

    let nothing = Table::default();
    let tables = match fields.entry("service").map(|entry| &entry.item) {
        None => &nothing,
        Some(Item { value: Value::Table(table), .. }) => table,
        Some(item) => {
            let help = Some("write [service.NAME] and its keys below".to_owned());
            report.error(item.at, format!("`service` must be a table, not {}", item.value.describe()), help);
            return None;
        }
    };
    if tables.0.is_empty() && report.is_clean() {
        let help = Some("add [service.NAME] with a `command`".to_owned());
        report.warning(NOWHERE, "there is no service to supervise", help);
    }

    let mut services = BTreeMap::new();
    let mut afters = BTreeMap::new();
    let mut taken = Taken::default();
    for (name, entry) in &tables.0 {
        let checked = Name::try_from(name.as_str())
            .map_err(|why| report.error(entry.key_at, format!("{name:?} cannot be a service's name: {why}"), None))
            .ok();
        let Value::Table(table) = &entry.item.value else {
            let message = format!("`service.{name}` must be a table, not {}", entry.item.value.describe());
            report.error(entry.item.at, message, Some(format!("write [service.{name}] and its keys below")));
            continue;
        };
        let fields = Fields::open(table, &keys::SERVICE, format!("[service.{name}]"), entry.key_at, report);
        let state_dir = host.as_ref().map(|host| &*host.state_dir);
        let service = service(&fields, state_dir, base_dir, report);
        if let Some(entry) = fields.entry(keys::LISTEN.name) {
            taken.add(&entry.item, report);
        }
        let Some(name) = checked else { continue };
        afters.insert(name.clone(), after(&fields));
        if let (Some(host), Some(service)) = (&host, &service) {
            generations::warn_of_idle_releases(service, &host.state_dir, &fields, report);
            generations::refuse_what_ends(service, &fields, report);
            notify_path(&host.runtime_dir, &name, service, host_fields.place("runtime_dir"), fields.at, report);
        }
        services.insert(name, service);
    }

    let declared: BTreeSet<&str> = tables.0.keys().map(String::as_str).collect();
    let dependencies = dependencies::read(&fields, &declared, base_dir, report);
    order::check(&afters, &declared, &dependencies.declared.keys().copied().collect(), report);
    if report.is_clean() {
        let wanted = afters.values().flatten().map(|(name, _)| name.as_str()).collect();
        dependencies::unused(&dependencies.declared, &wanted, report);
    }
    required(&host_fields, &declared, report);

    let services = services.into_iter().map(|(name, service)| Some((name, Arc::new(service?)))).collect::<Option<_>>();
    let dependencies = dependencies.policies();
    let policy = Policy { host: host?, services: services?, system: system?, dependencies: dependencies? };
    report.is_clean().then_some(policy)
}

/// The directories of `[host]`, whatever stands beside it. `None`: it is wrong itself.
pub(crate) fn directories(
    root: &Table,
    defaults: &HostDefaults,
    base_dir: &str,
    files: &[Source],
) -> Option<HostDefaults> {
    let (mut beside, mut report) = (Report::new(files), Report::new(files));
    let fields = Fields::open(root, &keys::ROOT, "the top level".to_owned(), NOWHERE, &mut beside);
    let host_fields = fields.table("host", &keys::HOST, &mut report);
    let host = host(&host_fields, defaults, base_dir, &mut report)?;
    let HostPolicy { state_dir, runtime_dir, log_dir, .. } = host;
    report.is_clean().then_some(HostDefaults { state_dir, runtime_dir, log_dir })
}

/// A relative path is taken from the configuration's own directory.
pub(crate) fn absolute(base_dir: &str, path: &str) -> String {
    let path = path.strip_prefix("./").unwrap_or(path);
    match path {
        "." | "" => base_dir.to_owned(),
        _ if path.starts_with('/') => path.to_owned(),
        _ => format!("{}/{path}", base_dir.trim_end_matches('/')),
    }
}

fn host(fields: &Fields<'_>, defaults: &HostDefaults, base_dir: &str, report: &mut Report<'_>) -> Option<HostPolicy> {
    let path = |key: &keys::Key<_>, report: &mut Report<'_>| {
        fields.given(key, report).map(|path: String| absolute(base_dir, &path))
    };
    let state_dir = path(&keys::STATE_DIR, report);
    let runtime_dir = path(&keys::RUNTIME_DIR, report).unwrap_or_else(|| defaults.runtime_dir.clone());
    let log_dir = path(&keys::LOG_DIR, report).unwrap_or_else(|| match &state_dir {
        Some(state_dir) => format!("{}/log", state_dir.trim_end_matches('/')),
        None => defaults.log_dir.clone(),
    });
    let mode = fields.get(&keys::MODE, report);
    let restarts_in_flight = fields.get(&keys::RESTARTS_IN_FLIGHT, report);
    let as_init = fields.get(&keys::AS_INIT, report);
    let hardware_watchdog = hardware_watchdog(fields, base_dir, report);
    Some(HostPolicy {
        state_dir: state_dir.unwrap_or_else(|| defaults.state_dir.clone()),
        runtime_dir,
        log_dir,
        mode: mode?,
        restarts_in_flight: restarts_in_flight?,
        hardware_watchdog: hardware_watchdog?,
        as_init: as_init?,
    })
}

/// `None`: it is wrong.
fn hardware_watchdog(host: &Fields<'_>, base_dir: &str, report: &mut Report<'_>) -> Option<Option<HardwareWatchdog>> {
    let fields = host.table("hardware_watchdog", &keys::HARDWARE_WATCHDOG, report);
    if host.entry("hardware_watchdog").is_none() {
        return Some(None);
    }
    let device = fields.get(&keys::DEVICE, report);
    let timeout = fields.get(&keys::TIMER_TIMEOUT, report);
    let require = fields.get(&keys::REQUIRE, report);
    if timeout.is_some_and(|timeout| timeout.as_us() % Span::from_secs(1).as_us() != 0) {
        let help = Some("hardware timers count nothing shorter".to_owned());
        report.error(fields.place("timeout"), "`timeout` must be whole seconds", help);
    }
    // Names that are wrong are reported where the services are known: here they only must not get through.
    let names = |names: Vec<String>| names.iter().filter_map(|name| Name::try_from(name.as_str()).ok()).collect();
    Some(Some(HardwareWatchdog {
        device: absolute(base_dir, &device?),
        timeout: timeout?,
        require: require.map(names)?,
    }))
}

/// Reports names in `require` that are not services, and names given twice.
fn required(host: &Fields<'_>, declared: &BTreeSet<&str>, report: &mut Report<'_>) {
    let Some(Value::Table(table)) = host.entry("hardware_watchdog").map(|entry| &entry.item.value) else { return };
    let names = names(table.0.get("require"));
    for (index, (name, at)) in names.iter().enumerate() {
        if names[..index].iter().any(|(earlier, _)| earlier == name) {
            report.error(*at, format!("`require` names `{name}` twice"), None);
        } else if !declared.contains(name.as_str()) {
            let help = nearest(name, declared.iter().copied()).map(|word| format!("did you mean `{word}`?"));
            report.error(*at, format!("`require` names `{name}`, which is not a service"), help);
        }
    }
}

fn system(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<SystemPolicy> {
    let fields = fields.table("system", &keys::SYSTEM, report).table("generations", &keys::SYSTEM_GENERATIONS, report);
    let reboot = fields.get(&keys::REBOOT, report);
    let reboots_per_day = fields.get(&keys::REBOOTS_PER_DAY, report);
    Some(SystemPolicy { reboot: reboot?, reboots_per_day: reboots_per_day? })
}

fn service(
    fields: &Fields<'_>,
    state_dir: Option<&str>,
    base_dir: &str,
    report: &mut Report<'_>,
) -> Option<ServicePolicy> {
    let command = fields.get(&keys::COMMAND, report);
    if let Some(command) = &command {
        program("command", command, fields.place("command"), report);
    }
    let generations = generations::read(fields, state_dir, base_dir, report);
    let directory = match fields.entry(keys::DIRECTORY.name) {
        Some(_) => fields.given(&keys::DIRECTORY, report).map(|path| Some(absolute(base_dir, &path))),
        None => {
            let is_release = |it: &GenerationsPolicy| it.store == StoreKind::Release;
            let is_release = generations.as_ref().is_some_and(|it| it.as_ref().is_some_and(is_release));
            Some((!is_release).then(|| "/".to_owned()))
        }
    };
    let user = fields.given(&keys::USER, report);
    let environment = fields.get(&keys::ENVIRONMENT, report);
    let environment_files = fields.get(&keys::ENVIRONMENT_FILES, report);
    let after = fields.get(&keys::AFTER, report);
    let open_files_limit = fields.given(&keys::OPEN_FILES_LIMIT, report).map(u64::from);
    let limits = ResourceLimits {
        memory_bytes: fields.given(&keys::MEMORY_LIMIT, report),
        tasks: fields.given(&keys::TASKS_LIMIT, report),
        cpu_weight: fields.given(&keys::CPU_WEIGHT, report),
    };
    let listen = fields.get(&keys::LISTEN, report);
    let checks = checks::read(fields, base_dir, report);
    if let (Some(listen), Some(checks)) = (&listen, &checks) {
        listen::warn_of_idle_checks(listen, checks, fields.place("check"), report);
    }
    let start = start(&fields.table("start", &keys::START, report), checks.as_deref(), report);
    let stop = stop(&fields.table("stop", &keys::STOP, report), report);
    let restart = restart(&fields.table("restart", &keys::RESTART, report), checks.as_deref(), report);
    let log = log(&fields.table("log", &keys::LOG, report), report);
    // Names that are wrong are reported with the order of start: here they only must not get through.
    let after = after.map(|names| names.iter().filter_map(|name| Name::try_from(name.as_str()).ok()).collect());
    let after = after.map(|mut names: Vec<Name>| {
        names.sort();
        names
    });
    Some(ServicePolicy {
        command: command?,
        directory: directory?,
        user,
        environment: environment?,
        environment_files: environment_files?.iter().map(|path| absolute(base_dir, path)).collect(),
        after: after?,
        open_files_limit,
        limits,
        listen: listen?,
        start: start?,
        stop: stop?,
        restart: restart?,
        log: log?,
        checks: checks?,
        generations: generations?,
    })
}

/// Checks the first word of the command `key`.
pub(crate) fn program(key: &str, command: &[String], at: Place, report: &mut Report<'_>) {
    let Some(program) = command.first() else { return };
    if program.trim().is_empty() {
        report.error(at, format!("`{key}` has an empty first word, where the program must stand"), None);
    } else if program.ends_with('/') {
        report.error(at, format!("`{key}` starts with {program:?}, which is a directory"), None);
    } else if program.starts_with(['~', '$']) {
        let help = Some("write the path out; for a shell: [\"sh\", \"-c\", \"...\"]".to_owned());
        report.error(at, format!("`{key}` starts with {program:?}: Hale does not expand `~` or variables"), help);
    } else if program.contains(char::is_whitespace) && command.len() == 1 {
        let words = program.split_whitespace().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        let message = format!("`{key}` is one program called {program:?}, spaces included");
        report.warning(at, message, Some(format!("for a program with arguments write [{words}]")));
    }
}

fn start(fields: &Fields<'_>, checks: Option<&[CheckPolicy]>, report: &mut Report<'_>) -> Option<StartPolicy> {
    let given = fields.given(&keys::READY, report);
    let within = fields.get(&keys::START_WITHIN, report);
    let checks = checks?;
    let ready = match given {
        Some(Ready::Check) if checks.is_empty() => {
            let help = "add a [[service.NAME.check]], or use \"running\" or \"notify\"".to_owned();
            report.error(fields.place("ready"), "`ready` is \"check\", but the service has no checks", Some(help));
            return None;
        }
        Some(ready) => ready,
        None if checks.is_empty() => Ready::Running,
        None => Ready::Check,
    };
    Some(StartPolicy { ready, within: within? })
}

fn stop(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<StopPolicy> {
    let signal = fields.get(&keys::SIGNAL, report);
    let grace = fields.get(&keys::GRACE, report);
    Some(StopPolicy { signal: signal?, grace: grace? })
}

fn restart(fields: &Fields<'_>, checks: Option<&[CheckPolicy]>, report: &mut Report<'_>) -> Option<RestartPolicy> {
    let first_delay = fields.get(&keys::FIRST_DELAY, report);
    let delay = fields.get(&keys::DELAY, report);
    let max_delay = fields.get(&keys::MAX_DELAY, report);
    let healthy_after = fields.get(&keys::HEALTHY_AFTER, report);
    let crash_loop = crash_loop(fields, report);
    let held_delay = fields.get(&keys::HELD_DELAY, report);
    let on_success = fields.get(&keys::ON_SUCCESS, report);
    let before_limit = fields.get(&keys::BEFORE_LIMIT, report);
    let is_followed = |checks: &[CheckPolicy]| checks.iter().any(|check| check.kind.limit().is_some());
    if before_limit.is_some_and(|before| before.is_some()) && checks.is_some_and(|checks| !is_followed(checks)) {
        let message = "`before_limit` has no effect: the service has no check of kind \"memory\" or \"open_files\"";
        let help = "add one: its bound is the limit".to_owned();
        report.warning(fields.place(keys::BEFORE_LIMIT.name), message, Some(help));
    }
    if let (Some(delay), Some(max_delay)) = (delay, max_delay)
        && max_delay < delay
    {
        let at = if fields.entry("max_delay").is_some() { "max_delay" } else { "delay" };
        let message = format!("`max_delay` ({max_delay}) is shorter than `delay` ({delay})");
        report.error(fields.place(at), message, Some("`delay` doubles up to `max_delay`".to_owned()));
    }
    Some(RestartPolicy {
        first_delay: first_delay?,
        delay: delay?,
        max_delay: max_delay?,
        healthy_after: healthy_after?,
        crash_loop: crash_loop?,
        held_delay: held_delay?,
        on_success: on_success?,
        before_limit: before_limit?,
    })
}

fn crash_loop(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Option<CrashLoop>> {
    let example = "write `crash_loop = { failures = 5, within = \"60s\" }`, or `crash_loop = false` for never";
    let name = keys::CRASH_LOOP_TABLE.name;
    if let Some(item) = fields.entry(name).map(|entry| &entry.item) {
        if matches!(item.value, Value::Flag(false)) {
            return Some(None);
        }
        if !matches!(item.value, Value::Table(_)) {
            let message = format!("`{name}` must be a table or false, not {}", item.value.describe());
            report.error(item.at, message, Some(example.to_owned()));
            return None;
        }
    }
    let fields = fields.table(name, &keys::CRASH_LOOP, report);
    let failures = fields.get(&keys::CRASH_LOOP_FAILURES, report);
    let within = fields.get(&keys::CRASH_LOOP_WITHIN, report);
    Some(Some(CrashLoop { failures: failures?, within: within? }))
}

fn log(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<LogPolicy> {
    let max_size_bytes = fields.get(&keys::MAX_SIZE, report);
    let keep = fields.get(&keys::KEEP, report);
    let rate_bytes = fields.get(&keys::RATE, report);
    Some(LogPolicy { max_size_bytes: max_size_bytes?, keep: keep?, rate_bytes: rate_bytes? })
}

/// The names in `after` with their places; wrong types are reported where the key is read.
fn after(fields: &Fields<'_>) -> After {
    names(fields.entry("after"))
}

/// The texts of a list with their places.
pub(crate) fn names(list: Option<&Entry>) -> After {
    let Some(Value::List(list)) = list.map(|entry| &entry.item.value) else { return After::new() };
    let name = |item: &Item| if let Value::Text(text) = &item.value { Some((text.clone(), item.at)) } else { None };
    list.iter().filter_map(name).collect()
}

/// A socket's path is short (unix(7)): better said now than when the service starts.
fn notify_path(
    runtime_dir: &str,
    name: &Name,
    service: &ServicePolicy,
    host_at: Place,
    service_at: Place,
    report: &mut Report<'_>,
) {
    let path = format!("{runtime_dir}/notify/{name}");
    if service.wants_notify() && path.len() > text::SOCKET_PATH_BYTES {
        let at = if host_at == NOWHERE { service_at } else { host_at };
        let (bytes, most) = (path.len(), text::SOCKET_PATH_BYTES);
        let message = format!("the notify socket {path} has a path of {bytes} bytes; unix(7) allows {most}");
        report.error(at, message, Some("choose a shorter `runtime_dir` in [host]".to_owned()));
    }
}
