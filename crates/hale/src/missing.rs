//! What a valid configuration names and this machine does not have now: starts would fail, if it does not come before them.

use hale_core::ids::Name;
use hale_core::policy::{CheckKind, CheckPolicy, GenerationsPolicy, Policy, ServicePolicy, StoreKind};
use hale_daemon::execute::tree::delegate::{Controller, host_lacks};
use hale_daemon::execute::tree::limits::asking;
use hale_daemon::execute::{program, user};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Everything that is missing, a sentence each, in the order of the services. What this user may not look at is not told.
pub fn missing(policy: &Policy) -> Vec<String> {
    let of_services = policy.services.iter().flat_map(|(name, service)| of_service(name, service));
    let of_dependencies = policy.dependencies.iter().flat_map(|(name, dependency)| {
        let told = |text| format!("dependency {name}: {text}");
        of_checks(&dependency.checks, Some("/")).into_iter().map(told).collect::<Vec<_>>()
    });
    of_services.chain(of_dependencies).chain(limits_of_none(policy)).collect()
}

/// Limits that no service can have on this host. Whether Hale's own cgroup gets the others is known once it runs.
fn limits_of_none(policy: &Policy) -> Vec<String> {
    let lacking = host_lacks().unwrap_or_else(|| Controller::ALL.to_vec());
    let text = |controller: Controller| {
        let services = asking(policy, controller);
        (!services.is_empty()).then(|| {
            let (key, name) = (controller.key(), controller.name());
            format!(
                "{key} of {} is not enforced: this host has no cgroup v2 controller {name} (see `hale doctor`)",
                services.join(", ")
            )
        })
    };
    lacking.into_iter().filter_map(text).collect()
}

fn of_service(name: &Name, service: &ServicePolicy) -> Vec<String> {
    let mut found = Vec::new();
    let mut tell = |missing: Option<String>| found.extend(missing.map(|text| format!("service {name}: {text}")));
    tell(service.user.as_deref().and_then(missing_user));
    // What a release brings is not there before it.
    let directory = service.directory.as_deref();
    if let Some(directory) = directory.filter(|directory| is_missing(Path::new(directory))) {
        tell(Some(format!("there is no directory {directory}")));
    }
    let of_release = service.generations.as_ref().is_some_and(|generations| generations.store == StoreKind::Release);
    tell(missing_program(&service.command, directory.filter(|_| !of_release)));
    for file in service.environment_files.iter().filter(|file| is_missing(Path::new(file))) {
        tell(Some(format!("there is no environment file {file}")));
    }
    for text in of_checks(&service.checks, directory.filter(|_| !of_release)) {
        tell(Some(text));
    }
    if let Some(generations) = &service.generations {
        of_generations(generations).into_iter().for_each(|text| tell(Some(text)));
    }
    found
}

/// A profile that is not there yet is made by its first generation.
fn of_generations(generations: &GenerationsPolicy) -> Vec<String> {
    let programs: Vec<&[String]> = match &generations.store {
        StoreKind::Release | StoreKind::NixProfile { .. } => Vec::new(),
        StoreKind::Command { list, current, stage, activate, revert } => vec![list, current, stage, activate, revert],
    };
    let mut found: Vec<String> = programs.into_iter().filter_map(|words| missing_program(words, None)).collect();
    // One program with five words for its orders is missing once.
    found.dedup();
    let files = generations.files.iter().filter(|file| is_missing(Path::new(file)));
    found.extend(files.map(|file| format!("there is no file {file}")));
    found.into_iter().map(|text| format!("generations: {text}")).collect()
}

fn of_checks(checks: &[CheckPolicy], directory: Option<&str>) -> Vec<String> {
    let mut found = Vec::new();
    for check in checks {
        let mut of_check =
            |missing: Option<String>| found.extend(missing.map(|text| format!("check {}: {text}", check.name)));
        match &check.kind {
            CheckKind::Exec { command, user } => {
                of_check(user.as_deref().and_then(missing_user));
                of_check(missing_program(command, directory));
            }
            CheckKind::Http(_)
            | CheckKind::Tcp { .. }
            | CheckKind::Heartbeat { .. }
            | CheckKind::Memory { .. }
            | CheckKind::Cpu { .. }
            | CheckKind::OpenFiles { .. }
            | CheckKind::Listen { .. }
            | CheckKind::Grpc { .. }
            | CheckKind::Metric(_)
            | CheckKind::Progress(_)
            | CheckKind::LoopLag(_) => {}
        }
    }
    found
}

fn missing_user(name: &str) -> Option<String> {
    match user::lookup(name) {
        Err(error @ user::LookupError::Unknown(_)) => Some(format!("user {name}: {error}")),
        Ok(_) | Err(user::LookupError::Io(_)) => None,
    }
}

/// Found in the same way as at a start. `None`: what is relative is taken from a release.
fn missing_program(command: &[String], directory: Option<&str>) -> Option<String> {
    let word = command.first()?;
    let directory = match directory {
        None if word.contains('/') && !word.starts_with('/') => return None,
        None => "/",
        Some(directory) => directory,
    };
    match program::resolve(word, directory) {
        Err(error) => Some(format!("program {word}: {error}")),
        Ok(path) => {
            let path = Path::new(OsStr::from_bytes(path.to_bytes()));
            is_missing(path).then(|| format!("there is no program {}", path.display()))
        }
    }
}

fn is_missing(path: &Path) -> bool {
    std::fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}
