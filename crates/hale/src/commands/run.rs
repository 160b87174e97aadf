//! `hale run [FILE]`

use crate::cli::Global;
use crate::configuration;
use crate::exit::Exit;
use crate::failure::Failure;
use hale_core::policy::AsInit;
use hale_daemon::execute::tree::delegate;
use hale_daemon::guardian::init::{self, Init};
use hale_daemon::guardian::launch::{Launch, launch, resume};
use std::path::{Path, PathBuf};

/// Checks the configuration and becomes the guardian; returns only when it cannot.
pub fn run(file: Option<PathBuf>, global: &Global) -> Result<Exit, Failure> {
    init::keep_signals();
    become_guardian(file, global).or_else(|failure| {
        let exit = failure.report();
        init::hold(Init::take(AsInit::Exit));
        Ok(exit)
    })
}

fn become_guardian(file: Option<PathBuf>, global: &Global) -> Result<Exit, Failure> {
    if let Some(missing) = init::missing() {
        return Err(Failure::new(Exit::Failed, missing));
    }
    // The policy in force is the one that the services run under; only a reload reads the file.
    resume().map_err(|error| Failure::new(Exit::Failed, "cannot become the next guardian").because(error))?;
    let path = configuration::path(file, global)?;
    let loaded = configuration::load(&path)?;
    configuration::warn(&loaded);
    // The supervisor reads the file again, and must find the same one.
    let absolute = std::path::absolute(&path).map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot tell where {} is", path.display())).because(error)
    })?;
    let host = &loaded.validated.policy.host;
    let guardian = Launch {
        runtime_dir: Path::new(&host.runtime_dir),
        state_dir: Path::new(&host.state_dir),
        hardware: host.hardware_watchdog.as_ref(),
        as_init: host.as_init,
        supervisor_args: &[host.runtime_dir.clone().into(), absolute.into_os_string()],
    };
    // While this is one process without children. What does not work is said by the supervisor, if a service needs it.
    let _ = delegate::settle();
    match launch(&guardian) {
        Ok(never) => match never {},
        Err(error) => Err(Failure::new(Exit::Failed, "cannot become the guardian").because(error)),
    }
}
