//! `hale rollback SERVICE [--to GENERATION]`

use super::deploy::not_configured;
use super::order::name;
use crate::cli::Global;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::generation::find;
use crate::progress::Progress;
use crate::supervisor;
use crate::switching::{Switch, carry_out};
use crate::terminal::escape;
use hale_core::ids::{GenerationId, Name};
use hale_daemon::api::view::generations::ServiceGenerations;
use serde_json::json;
use std::io::Write;

/// Switches the service back, and waits until what was good is healthy.
pub fn run(service: &str, to: Option<&str>, global: &Global, out: &mut impl Write) -> Result<Exit, Failure> {
    let service = name(service)?;
    let to = to.map(|to| one_of(&service, to, global)).transpose()?;
    let switch = Switch { service: &service, verb: "rollback", body: json!({ "to": to }), waits: true, to: None };
    let text = carry_out(&supervisor::control_socket(global)?, &switch, &mut Progress::new())?;
    writeln!(out, "{}", escape(&text))?;
    Ok(Exit::Done)
}

fn one_of(service: &Name, to: &str, global: &Global) -> Result<GenerationId, Failure> {
    let body = supervisor::ask(global, &format!("/v1/services/{service}/generations"))?;
    let known: ServiceGenerations = supervisor::parse(&body)?;
    if known.store.is_none() {
        return Err(not_configured(service));
    }
    let all: Vec<_> = known.generations.into_iter().map(|one| (service.clone(), one.id)).collect();
    find(to, &all)
        .map(|(_, id)| id.clone())
        .map_err(|failure| failure.help(format!("`hale generations {service}` lists them")))
}
