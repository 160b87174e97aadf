//! How `hale run` becomes the guardian.

use crate::execute::tree::delegate;
use crate::guardian::begin::{adopt, init};
use hale_core::policy::{AsInit, HardwareWatchdog};
use std::convert::Infallible;
use std::ffi::{CStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// What a supervisor is told to do with the services when its guardian is lost: they are ended.
pub(crate) const END: &CStr = c"end";

/// The same: they are left to the next guardian, which systemd starts and gives what it kept.
pub(crate) const LEAVE: &CStr = c"leave";

/// What the guardian has to be told.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// `runtime_dir`: made if it is missing, and locked.
    pub runtime_dir: &'a Path,
    /// `state_dir`: made if it is missing, and locked.
    pub state_dir: &'a Path,
    /// The hardware timer, if one is to be used.
    pub hardware: Option<&'a HardwareWatchdog>,
    /// What follows the end of process 1.
    pub as_init: AsInit,
    /// The supervisor's command line behind `hale supervisor`.
    pub supervisor_args: &'a [OsString],
}

/// Replaces this process by the guardian, with a fresh image of the same binary, whatever has become of its path.
///
/// # Errors
///
/// `/proc/self/exe` could not be opened or executed. Otherwise it does not return.
pub fn launch(launch: &Launch<'_>) -> io::Result<Infallible> {
    let mut args = vec![launch.runtime_dir.into(), launch.state_dir.into()];
    args.extend(hardware(launch.hardware).map(OsString::from));
    args.push(init::word(launch.as_init).into());
    args.extend(launch.supervisor_args.iter().cloned());
    become_guardian(&args)
}

/// Goes on where a guardian was lost whose descriptors systemd kept and gave to this process: replaces it by a guardian that
/// takes them over. `Ok`: there is nothing to go on with. To be called before anything else is opened.
///
/// # Errors
///
/// As [`launch`].
pub fn resume() -> io::Result<()> {
    let Some(beginning) = adopt::beginning() else {
        adopt::discard();
        return Ok(());
    };
    let _ = delegate::settle();
    let Err(error) = become_guardian(&beginning.args);
    Err(error)
}

fn become_guardian(args: &[OsString]) -> io::Result<Infallible> {
    let exe = OwnedFd::from(std::fs::File::open("/proc/self/exe")?);
    rustix::io::fcntl_setfd(&exe, rustix::io::FdFlags::empty())?;
    Err(Command::new(format!("/proc/self/fd/{}", exe.as_raw_fd()))
        .arg0("hale")
        .args(["guardian", &exe.as_raw_fd().to_string()])
        .args(args)
        .exec())
}

/// Its device and its time in seconds; two empty words when there is none.
fn hardware(timer: Option<&HardwareWatchdog>) -> [String; 2] {
    let seconds = |timer: &HardwareWatchdog| (timer.timeout.as_ms() / 1_000).to_string();
    timer.map_or_else(Default::default, |timer| [timer.device.clone(), seconds(timer)])
}
