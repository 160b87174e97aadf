//! The lower bound: spawn by vfork and exec, wait for any child, spawn it again. No policy, no log, no record.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::process::{Child, Command, Stdio};

/// Starts `count` agents and starts each again as soon as it ends, until something fails.
///
/// `Command` without hooks uses posix_spawn, which is vfork and exec in one (posix_spawn(3)).
pub fn run(count: u32, agent: &OsStr, fifo: &OsStr) -> Result<(), String> {
    let spawn = |index: u32| -> Result<Child, String> {
        let mut command = Command::new(agent);
        command.arg(fifo).arg(index.to_string()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map_err(|e| format!("cannot start an agent: {e}"))
    };
    let mut indices = BTreeMap::new();
    for index in 0..count {
        indices.insert(spawn(index)?.id(), index);
    }
    loop {
        let waited = rustix::process::wait(rustix::process::WaitOptions::empty());
        let Some((pid, _)) = waited.map_err(|e| format!("cannot wait: {e}"))? else { continue };
        let Some(index) = indices.remove(&pid.as_raw_nonzero().get().unsigned_abs()) else { continue };
        indices.insert(spawn(index)?.id(), index);
    }
}
