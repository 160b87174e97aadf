//! The tiny process that is the parent of every service and the only one that reaps.
//!
//! `hale run` becomes it by [`launch::launch`]; the supervisor talks to it through
//! [`GuardianClient`](crate::supervisor::client::GuardianClient).
//!
//! To read it: `run` is the loop. `slots` and `service` are about the services, `tell` and `store` about what the supervisor is
//! told of them; `helper` is what supervisor and keeper have in common, `supervise` and `keeper` what they have not. `end` is how
//! it all ends. Beside that stand the hardware timer (`hardware`), systemd (`systemd`) and the end of process 1 (`leave`). `begin`
//! is what happens once before all this, and need not be known for it.

mod begin;
mod end;
mod evidence;
mod hardware;
mod helper;
mod keeper;
mod leave;
mod marker;
mod programs;
mod progress;
mod run;
mod service;
mod slots;
mod store;
mod supervise;
mod systemd;
mod tell;
mod wait;

pub use begin::start::{StartError, prepare};
pub use begin::{init, launch, lock};
pub use run::Guardian;

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
