//! `hale validate`

use crate::cli::{Format, Global};
use crate::configuration;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::missing::missing;
use crate::terminal::escape;
use hale_core::ids::Name;
use hale_core::memory::Size;
use hale_core::policy::{
    CheckKind, CheckPolicy, DependencyPolicy, GenerationsPolicy, LoopLagCheck, MemoryBound, MetricCheck, Mode, Pending,
    ProgressCheck, Ready, Rollback, ServicePolicy, Source, StoreKind,
};
use hale_daemon::api::view::ms;
use hale_daemon::monitor::config_file::{self, LoadError, Loaded};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// Checks the configuration, tells what it names and this machine does not have, and prints what would be supervised.
pub fn run(format: Format, global: &Global, out: &mut impl Write) -> Result<Exit, Failure> {
    let path = configuration::path(None, global)?;
    match config_file::load(&path) {
        Ok(loaded) if format.json => writeln!(out, "{:#}", as_json(&loaded))?,
        Ok(loaded) => {
            configuration::warn(&loaded);
            for text in missing(&loaded.validated.policy) {
                eprintln!("warning: {}", escape(&text));
            }
            as_text(&path, &loaded, out)?;
        }
        Err(LoadError::Invalid(mistakes)) if format.json => {
            writeln!(out, "{:#}", json!({ "valid": false, "mistakes": mistakes }))?;
            return Ok(Exit::Configuration);
        }
        Err(error) => return Err(configuration::failure(&error)),
    }
    Ok(Exit::Done)
}

fn as_json(loaded: &Loaded) -> Value {
    let policy = &loaded.validated.policy;
    let service = |(name, service): (&Name, &Arc<ServicePolicy>)| {
        json!({
            "name": name,
            "command": service.command,
            "directory": service.directory,
            "user": service.user,
            "after": service.after,
            "checks": service.checks.iter().map(check_json).collect::<Vec<_>>(),
            "generations": service.generations.as_ref().map(generations_json),
        })
    };
    let dependency = |(name, dependency): (&Name, &Arc<DependencyPolicy>)| json!({ "name": name, "checks": dependency.checks.iter().map(check_json).collect::<Vec<_>>() });
    json!({
        "valid": true,
        "files": loaded.files,
        "policy": loaded.validated.hash,
        "mode": policy.host.mode,
        "state_dir": policy.host.state_dir,
        "runtime_dir": policy.host.runtime_dir,
        "log_dir": policy.host.log_dir,
        "dependencies": policy.dependencies.iter().map(dependency).collect::<Vec<_>>(),
        "services": policy.services.iter().map(service).collect::<Vec<_>>(),
        "mistakes": loaded.validated.warnings,
        "missing": missing(policy),
    })
}

fn check_json(check: &CheckPolicy) -> Value {
    json!({
        "name": check.name,
        "kind": check.kind.as_str(),
        "every_ms": ms(check.every),
        "timeout_ms": ms(check.timeout),
        "failures": check.failures,
        "successes": check.successes,
    })
}

fn generations_json(generations: &GenerationsPolicy) -> Value {
    json!({
        "store": generations.store.as_str(),
        "probation_ms": ms(generations.probation),
        "soak_ms": ms(generations.soak),
        "keep": generations.keep,
        "recent_ms": ms(generations.recent),
        "rollbacks_per_day": generations.rollbacks_per_day,
        "rollback": generations.rollback,
        "files": generations.files,
    })
}

fn as_text(path: &Path, loaded: &Loaded, out: &mut impl Write) -> Result<(), Failure> {
    let policy = &loaded.validated.policy;
    let services = if policy.services.len() == 1 { "service" } else { "services" };
    writeln!(out, "{}: valid, {} {services}", escape(&path.display().to_string()), policy.services.len())?;
    for (name, service) in &policy.services {
        writeln!(out, "\n{name}")?;
        for line in lines(service) {
            writeln!(out, "  {}", escape(&line))?;
        }
    }
    for (name, dependency) in &policy.dependencies {
        writeln!(out, "\n{name}, a dependency")?;
        for line in dependency.checks.iter().map(outside_line) {
            writeln!(out, "  {}", escape(&line))?;
        }
    }
    let host = &policy.host;
    let places =
        format!("ledger in {}/ledger, sockets in {}, logs in {}", host.state_dir, host.runtime_dir, host.log_dir);
    writeln!(out, "\n{}", escape(&places))?;
    if host.mode == Mode::Observe {
        writeln!(out, "mode is \"observe\": services are started once, then only watched")?;
    }
    Ok(())
}

fn lines(service: &ServicePolicy) -> Vec<String> {
    let user = service.user.as_ref().map_or(String::new(), |user| format!(" as {user}"));
    let directory = service.directory.as_deref().unwrap_or("its release");
    let mut lines = vec![format!("runs {}{user}, in {directory}", service.command.join(" "))];
    if !service.after.is_empty() {
        let after: Vec<&str> = service.after.iter().map(Name::as_str).collect();
        lines.push(format!("starts after {}", after.join(", ")));
    }
    let ready = match service.start.ready {
        Ready::Running => "its program runs",
        Ready::Notify => "it says READY=1",
        Ready::Check => "its checks pass",
    };
    lines.push(format!("is ready when {ready}, within {}", service.start.within));
    lines.extend(service.checks.iter().map(check_line));
    lines.extend(service.generations.iter().flat_map(generations_lines));
    lines
}

fn generations_lines(generations: &GenerationsPolicy) -> Vec<String> {
    let GenerationsPolicy { store, probation, soak, rollback, files, .. } = generations;
    let store = match store {
        StoreKind::Release => "are releases in Hale's own store".to_owned(),
        StoreKind::NixProfile { profile } => format!("are those of the Nix profile {profile}"),
        StoreKind::Command { list, .. } => format!("are those that {} lists", list.join(" ")),
    };
    let rollback = match rollback {
        Rollback::Auto => "taken back by Hale",
        Rollback::Ask => "taken back by an operator's order only",
        Rollback::Never => "never taken back",
    };
    let mut lines =
        vec![format!("its generations {store}: good after {probation}, proven after {soak} more, {rollback}")];
    if !files.is_empty() {
        lines.push(format!("with each generation {}", files.join(", ")));
    }
    lines
}

/// Where a figure of the service comes from; `said` is what it says on its notify socket.
fn told_by(source: &Source, said: &str) -> String {
    match source {
        Source::Notify => said.to_owned(),
        Source::Metric { url, series } => format!("{series} at {url}"),
    }
}

fn check_line(check: &CheckPolicy) -> String {
    told(check, "acts on failure")
}

fn outside_line(check: &CheckPolicy) -> String {
    told(check, "down on failure")
}

fn told(check: &CheckPolicy, consequence: &str) -> String {
    let CheckPolicy { name, every, timeout, failures, .. } = check;
    let what = match &check.kind {
        CheckKind::Http(http) => format!("{} {}", http.method, http.url),
        CheckKind::Tcp { address } => format!("connects to {address}"),
        CheckKind::Exec { command, .. } => format!("runs {}", command.join(" ")),
        CheckKind::Heartbeat { within } => return format!("check {name}: a heartbeat within {within}"),
        CheckKind::Memory { below } => match below {
            MemoryBound::Bytes(bytes) => format!("memory of all its processes below {}", Size(*bytes)),
            MemoryBound::OfLimit { percent, limit_bytes } => {
                format!("memory of all its processes below {percent} % of {}", Size(*limit_bytes))
            }
        },
        CheckKind::Cpu { below_percent, window } => {
            format!("all its processes below {below_percent} % of a core, as the mean of {window}")
        }
        CheckKind::OpenFiles { below } => format!("below {below} open files in each of its processes"),
        CheckKind::Listen { address } => format!("one of its processes listens at {address}"),
        CheckKind::Grpc { address, service } if service.is_empty() => format!("gRPC health of {address}"),
        CheckKind::Grpc { address, service } => format!("gRPC health of {service} at {address}"),
        CheckKind::Metric(MetricCheck { url, series, above, below, increases_within }) => {
            let above = above.as_ref().map(|bound| format!("above {bound}"));
            let below = below.as_ref().map(|bound| format!("below {bound}"));
            let increases = increases_within.map(|within| format!("increasing within {within}"));
            let bounds: Vec<_> = [above, below, increases].into_iter().flatten().collect();
            format!("{series} at {url} {}", bounds.join(" and "))
        }
        CheckKind::Progress(ProgressCheck { within, source, while_pending }) => {
            let pending =
                while_pending.as_ref().map(|Pending { series, above, .. }| format!(" while {series} is above {above}"));
            format!("progress within {within} by {}{}", told_by(source, "X_HALE_PROGRESS"), pending.unwrap_or_default())
        }
        CheckKind::LoopLag(LoopLagCheck { below, source }) => {
            format!("event loop less than {below} late by {}", told_by(source, "X_HALE_LOOP_LAG_USEC"))
        }
    };
    format!("check {name}: {what}, every {every}, answer within {timeout}, {consequence} {failures}")
}
