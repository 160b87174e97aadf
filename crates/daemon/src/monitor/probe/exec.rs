//! The `exec` check: a program that must exit with status 0.

use super::{Deadline, ProbeOrder, Verdict};
use hale_core::ids::Name;
use std::io;
use std::os::fd::BorrowedFd;
use std::process::Stdio;
use std::sync::Arc;

/// Where the processes of exec probes are put, each with all its children.
pub trait Groups: Send + Sync {
    /// Makes a group of its own; `None` where there are no cgroups.
    ///
    /// # Errors
    ///
    /// The operating system refused it.
    fn group(&self, key: u64) -> io::Result<Option<Box<dyn Group>>>;
}

/// A group of processes; removed when dropped.
pub trait Group: Send + Sync {
    /// Its directory, for clone3(2).
    fn fd(&self) -> BorrowedFd<'_>;

    /// Ends all processes in it by SIGKILL.
    ///
    /// # Errors
    ///
    /// The operating system refused it.
    fn kill(&self) -> io::Result<()>;
}

/// Starts the programs.
pub(super) struct Launcher {
    groups: Arc<dyn Groups>,
}

impl Launcher {
    pub(super) fn new(groups: Arc<dyn Groups>) -> Self {
        Self { groups }
    }

    pub(super) async fn probe(
        &self,
        order: &ProbeOrder,
        _check: &Name,
        command: &[String],
        _user: Option<&str>,
        deadline: Deadline,
    ) -> Result<Verdict, Verdict> {
        let _group = self.groups.group(order.probe.0).map_err(|error| Verdict::wrong(error.to_string()))?;
        let mut program = tokio::process::Command::new(command.first().map_or("", String::as_str));
        program.args(command.iter().skip(1)).stdin(Stdio::null()).kill_on_drop(true).process_group(0);
        let output = deadline.bound("the program", program.output()).await?;
        let output = output.map_err(|error| Verdict::wrong(error.to_string()))?;
        let line = String::from_utf8_lossy(&output.stdout);
        if output.status.success() { Ok(Verdict::pass(line)) } else { Err(Verdict::wrong(line)) }
    }
}
