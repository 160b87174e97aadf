//! Where the configuration is, and where by its word the sockets, the ledger and the logs are.

use crate::cli::Global;
use crate::exit::Exit;
use crate::failure::Failure;
use hale_daemon::api::sockets;
use hale_daemon::monitor::config_file::{self, LoadError, Loaded};
use std::path::{Path, PathBuf};

/// The directories of the Hale that a command speaks of.
pub struct Directories {
    /// The sockets.
    pub runtime: PathBuf,
    /// The ledger.
    pub state: PathBuf,
    /// The services' output.
    pub log: PathBuf,
}

/// The configuration's file: `named`, else the one for all commands, else the first default that exists.
pub fn path(named: Option<PathBuf>, global: &Global) -> Result<PathBuf, Failure> {
    match named.or_else(|| global.config.clone()) {
        Some(path) => Ok(path),
        None => config_file::find().map_err(|error| failure(&error)),
    }
}

/// Reads the configuration at `path`.
pub fn load(path: &std::path::Path) -> Result<Loaded, Failure> {
    config_file::load(path).map_err(|error| failure(&error))
}

/// Tells on standard error what is allowed in a configuration, but probably not what was meant.
pub fn warn(loaded: &Loaded) {
    for warning in &loaded.validated.warnings {
        eprintln!("{warning}");
    }
}

/// The directories that the configuration names, or has by default for its owner; the defaults of this user where there is
/// no configuration: so `hale status` works beside any `hale run FILE` of the same user, and beside root's.
pub fn directories(global: &Global) -> Result<Directories, Failure> {
    let found = match &global.config {
        Some(path) => Ok(path.clone()),
        None => config_file::find(),
    };
    match found {
        Ok(path) => {
            let (host, is_valid) = config_file::client_directories(&path).map_err(|error| failure(&error))?;
            if !is_valid {
                if !sockets::is_served(&sockets::read_path(Path::new(&host.runtime_dir))) {
                    // No Hale runs by an earlier one.
                    config_file::load_for_client(&path).map_err(|error| failure(&error))?;
                }
                eprintln!(
                    "warning: {} has mistakes, which `hale validate` lists; Hale is looked for by its [host]",
                    path.display()
                );
            }
            Ok(Directories { runtime: host.runtime_dir.into(), state: host.state_dir.into(), log: host.log_dir.into() })
        }
        Err(_) => {
            let host = config_file::default_directories().map_err(|error| failure(&error))?;
            Ok(Directories { runtime: host.runtime_dir.into(), state: host.state_dir.into(), log: host.log_dir.into() })
        }
    }
}

/// What people are told when there is no usable configuration.
pub fn failure(error: &LoadError) -> Failure {
    match error {
        LoadError::Invalid(_) => Failure::rendered(Exit::Configuration, error.to_string()),
        LoadError::NotFound
        | LoadError::Read { .. }
        | LoadError::NotAFile(_)
        | LoadError::TooLarge(_)
        | LoadError::TooMany(_)
        | LoadError::NotText { .. }
        | LoadError::PathNotText(_)
        | LoadError::Untrusted { .. }
        | LoadError::NoHome => Failure::new(Exit::Configuration, error.to_string()),
    }
}
