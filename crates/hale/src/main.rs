//! The one binary. Its hidden roles are told apart by the first argument, before anything else is built: each
//! of them is started often, or must stay small, and needs nothing of the command line's machinery.

mod cli;
mod commands;
mod configuration;
mod demo;
mod doctor;
mod exit;
mod failure;
mod generation;
mod history;
mod missing;
mod progress;
mod supervisor;
mod switching;
mod table;
mod terminal;
mod upload;

use clap::Parser;
use cli::{Cli, Command};
use exit::Exit;
use failure::Failure;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_deref().and_then(|word| word.to_str()) {
        Some("guardian") => hale_daemon::guardian::main(arguments),
        Some("supervisor") => hale_daemon::supervisor::main(arguments),
        Some("keeper") => hale_daemon::keeper::main(arguments),
        Some("after-stop") => hale_daemon::execute::tree::after_stop::main(),
        Some("demo-service") => demo::main(arguments),
        Some(_) | None => command_line(),
    }
}

fn command_line() -> ExitCode {
    // Clap ends the process itself for --help (0) and for a line it does not understand (2).
    let mut cli = Cli::parse();
    cli.global.or_environment();
    let mut out = BufWriter::new(io::stdout().lock());
    let done = run(cli, &mut out);
    // Before an error is told: what was found until then is shown above it.
    let flushed = out.flush().map_err(Failure::from);
    // What could not be written now is not tried again.
    let (_, _unwritten) = out.into_parts();
    done.and_then(|exit| flushed.map(|()| exit)).unwrap_or_else(Failure::report).into()
}

fn run(cli: Cli, out: &mut impl Write) -> Result<Exit, Failure> {
    let global = &cli.global;
    match cli.command {
        Command::Run { file } => commands::run::run(file, global),
        Command::Validate { format } => commands::validate::run(format, global, out),
        Command::Status { service, format } => commands::status::run(service.as_deref(), format, global, out),
        Command::Logs { service, follow, lines, format } => {
            commands::logs::run(&service, follow, lines, format, global, out)
        }
        Command::Incidents { since, grouped, format } => commands::incidents::run(since, grouped, format, global, out),
        Command::Explain { id, format } => commands::explain::run(id, format, global, out),
        Command::Incident { id, format } => commands::incident::run(id, format, global, out),
        Command::Start { service } => commands::order::run("start", &service, global, out),
        Command::Stop { service } => commands::order::run("stop", &service, global, out),
        Command::Restart { service } => commands::order::run("restart", &service, global, out),
        Command::Pause { service, lasts } => {
            commands::order::run(&format!("pause?for_ms={}", lasts.as_ms()), &service, global, out)
        }
        Command::Resume { service } => commands::order::run("resume", &service, global, out),
        Command::Reload => commands::order::reload(global, out),
        Command::Deploy { service, path, no_wait, force } => {
            commands::deploy::run(&service, &path, !no_wait, force, global, out)
        }
        Command::Rollback { service, to } => commands::rollback::run(&service, to.as_deref(), global, out),
        Command::Generations { service, verify, format } => {
            commands::generations::run(&service, verify, format, global, out)
        }
        Command::Quarantine { command } => commands::quarantine::run(&command, global, out),
        Command::Ledger { command } => commands::ledger::run(&command, global, out),
        Command::Doctor { format } => commands::doctor::run(format, global, out),
        Command::Schema => commands::schema::run(out),
        Command::Completions { shell } => commands::completions::run(shell, out),
    }
}
