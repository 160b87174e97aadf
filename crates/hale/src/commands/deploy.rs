//! `hale deploy SERVICE PATH|- [--no-wait] [--force]`

use super::order::name;
use crate::cli::Global;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::supervisor;
use crate::switching::{Switch, carry_out};
use crate::terminal::escape;
use crate::upload::{Source, upload};
use hale_core::ids::{GenerationId, Name};
use hale_core::safeswitch::Part;
use hale_daemon::api::view::generations::{ServiceGenerations, Switch as Known};
use serde_json::json;
use std::io::Write;
use std::path::Path;

/// Brings what `path` names to the service's store, unless it is there by another way, and switches to it.
pub fn run(
    service: &str,
    path: &Path,
    waits: bool,
    force: bool,
    global: &Global,
    out: &mut impl Write,
) -> Result<Exit, Failure> {
    let service = name(service)?;
    let body = supervisor::ask(global, &format!("/v1/services/{service}/generations"))?;
    let known: ServiceGenerations = supervisor::parse(&body)?;
    // What only waits for a process is no hindrance: whether it does, the order itself finds out.
    let waits_for_process = |stage: &str| matches!(stage, "probation" | "validating");
    let is_busy = |switch: &&Known| switch.part == Part::Store && !waits_for_process(&switch.stage);
    if let Some(switch) = known.switch.as_ref().filter(is_busy) {
        // Before anything is sent. Who comes in between is told by the order itself.
        return Err(Failure::new(Exit::Busy, format!("{service} is being switched to {}", switch.to.short()))
            .help(format!("`hale status {service}` shows how far it is")));
    }
    let socket = supervisor::control_socket(global)?;
    let mut progress = Progress::new();
    let generation = match known.store.as_deref() {
        None => return Err(not_configured(&service)),
        Some("release") => {
            let arrived = upload(&socket, &service, Source::open(path)?, &mut progress)?;
            let news = if arrived.is_new { "is imported" } else { "is there already" };
            progress.line(&format!("{service}: release {} {news}", arrived.generation.short()));
            arrived.generation
        }
        Some(store) => named(path, store)?,
    };
    let body = json!({ "generation": generation, "force": force, "wait": waits });
    let to = waits.then_some(&generation);
    let switch = Switch { service: &service, verb: "deploy", body, waits, to };
    let text = carry_out(&socket, &switch, &mut progress)?;
    writeln!(out, "{}", escape(&text))?;
    Ok(Exit::Done)
}

/// Why there is nothing to deploy to.
pub fn not_configured(service: &Name) -> Failure {
    Failure::new(Exit::Refused, format!("{service} has no generations: nothing says where they are kept"))
        .help(format!("[service.{service}.generations] does, with store = \"release\" for Hale's own"))
}

/// What a store calls `path` that has it already: of Nix also by a link to it, as `nix-build` makes one.
fn named(path: &Path, store: &str) -> Result<GenerationId, Failure> {
    let real = if store == "nix-profile" { std::fs::canonicalize(path).ok() } else { None };
    let text = real.as_deref().unwrap_or(path).to_string_lossy();
    GenerationId::try_from(&*text).map_err(|error| {
        Failure::new(Exit::Usage, format!("{text:?} is not the name of a generation of this service's store {store}"))
            .because(error)
    })
}
