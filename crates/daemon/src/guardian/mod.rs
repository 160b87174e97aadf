//! The tiny process that is the parent of every service and the only one that reaps.
//!
//! `hale run` becomes it by [`launch::launch`]; the supervisor talks to it through [`client::GuardianClient`].

mod adopt;
pub mod client;
mod end;
mod hardware;
mod helpers;
pub mod init;
mod keeper;
mod key;
pub mod launch;
pub mod lock;
mod marker;
mod progress;
pub mod protocol;
mod run;
mod service;
mod slots;
mod start;
mod store;
mod supervise;
mod systemd;
mod tell;
mod text;
pub mod timer;
pub mod wire;

pub use run::Guardian;
pub use start::{StartError, prepare};

use hale_core::policy::AsInit;
use init::Init;
use std::ffi::OsString;
use std::process::ExitCode;

/// The guardian, as `hale guardian ARGUMENTS`: returns when everything it started has ended.
///
/// The exit code is the supervisor's choice after an ordered end, that of a first supervisor that could not start, 1 when
/// the guardian had to end everything by itself or could not start, and 7 when another Hale holds one of the directories. To be called with nothing before it: the smaller
/// this process is, the faster it forks.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match prepare(args) {
        Ok(guardian) => guardian.run(),
        Err(error) => {
            eprintln!("hale: {error}");
            init::hold(Init::take(AsInit::Exit));
            ExitCode::from(error.exit_code())
        }
    }
}
