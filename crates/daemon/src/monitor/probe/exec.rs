//! The `exec` check: a program that must exit with status 0, and that never outlives its probe.

use super::prepare::{self, Prepared};
use super::process::{Ended, Process};
use super::{Deadline, ProbeOrder, Verdict};
use hale_core::event::ExitStatus;
use hale_core::ids::Name;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Where the processes of exec probes are put, each with all its children.
pub trait Groups: Send + Sync {
    /// Makes a group of its own, named by `key`, which no other probe of this Hale has; `None` where there are no
    /// cgroups.
    ///
    /// # Errors
    ///
    /// The operating system refused it.
    fn group(&self, key: u64) -> io::Result<Option<Box<dyn Group>>>;

    /// The value of `HALE_SERVICE` in the environment of the service's processes and probes.
    fn tag(&self, service: &Name) -> String;
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

/// How many probes may look for their user, program and variables at once. Files may hang with their file system, and
/// the thread that reads them with it; so many are found out about, and more would not get further either.
const PREPARATIONS_MAX: usize = 4;

/// How long a killed process may take to be gone before its probe is answered without that: dying takes
/// milliseconds, and the core waits for the answer no longer than `PROBE_LOST_AFTER`.
const GONE_WITHIN: Duration = Duration::from_secs(1);

/// Starts the programs.
pub(super) struct Launcher {
    groups: Arc<dyn Groups>,
    preparations: Arc<Semaphore>,
    /// The checks whose process is not gone.
    busy: Arc<Mutex<BTreeSet<(Name, Name)>>>,
}

impl Launcher {
    pub(super) fn new(groups: Arc<dyn Groups>) -> Self {
        let preparations = Arc::new(Semaphore::new(PREPARATIONS_MAX));
        Self { groups, preparations, busy: Arc::default() }
    }

    /// Runs `command` once. Whatever it leaves behind is killed with it.
    pub(super) async fn probe(
        &self,
        order: &ProbeOrder,
        check: &Name,
        command: &[String],
        user: Option<&str>,
        deadline: Deadline,
    ) -> Result<Verdict, Verdict> {
        let Some(busy) = Busy::begin(&self.busy, (order.service.clone(), check.clone())) else {
            return Err(Verdict::killed("the process of the probe before was killed and is still not gone"));
        };
        let prepared = self.prepare(order, command, user, deadline).await?;
        let group = self.groups.group(order.probe.0);
        let group = group.map_err(|error| Verdict::wrong(format_args!("no cgroup for the probe: {error}")))?;
        let mut process = Process::start(&prepared, group).map_err(Verdict::wrong)?;

        let ended = process.end(deadline.at()).await;
        process.kill();
        let gone = tokio::time::timeout(GONE_WITHIN, process.gone()).await;
        let (pid, output) = (process.pid(), process.last_line());
        match (ended, gone) {
            (Ended::ByItself, Ok(Ok(exit))) => judge(exit, &process.failure(), &output, deadline),
            (Ended::ByItself, Ok(Err(error))) => Err(Verdict::wrong(format_args!("its status was lost: {error}"))),
            (Ended::AtDeadline, Ok(_)) => {
                let timeout = deadline.timeout;
                Err(Verdict::killed(format_args!("killed: it did not end within {timeout}{output}")))
            }
            (Ended::ByItself | Ended::AtDeadline, Err(_late)) => {
                // Until it is gone no other one of this check is started.
                tokio::spawn(async move {
                    let _reaped = process.gone().await;
                    drop(busy);
                });
                let timeout = deadline.timeout;
                Err(Verdict::killed(format_args!(
                    "pid {pid} did not end within {timeout} and survives SIGKILL{output}"
                )))
            }
        }
    }

    /// Finds program, user and variables, on another thread.
    async fn prepare(
        &self,
        order: &ProbeOrder,
        command: &[String],
        user: Option<&str>,
        deadline: Deadline,
    ) -> Result<Prepared, Verdict> {
        let slot = deadline.bound("a slot to look for its files, all hang", self.preparations.clone().acquire_owned());
        let slot = slot.await?.map_err(|closed| Verdict::wrong(closed.to_string()))?;
        let (policy, command) = (order.policy.clone(), command.to_vec());
        let (user, tag) = (user.map(str::to_owned), self.groups.tag(&order.service));
        let work = tokio::task::spawn_blocking(move || {
            let prepared = prepare::prepare(&policy, &command, user.as_deref(), &tag);
            drop(slot);
            prepared
        });
        match deadline.bound("its program, user and variables to be found", work).await? {
            Ok(prepared) => prepared.map_err(Verdict::wrong),
            Err(ended) => Err(Verdict::wrong(ended)),
        }
    }
}

fn judge(exit: ExitStatus, failure: &Option<String>, output: &str, deadline: Deadline) -> Result<Verdict, Verdict> {
    match failure {
        Some(failure) => Err(Verdict::wrong(failure)),
        None if exit.is_success() => Ok(Verdict::pass(format_args!("{exit} in {}{output}", deadline.elapsed()))),
        None => Err(Verdict::wrong(format_args!("{exit}{output}"))),
    }
}

/// Marks a check as busy for as long as it lives.
struct Busy {
    all: Arc<Mutex<BTreeSet<(Name, Name)>>>,
    key: (Name, Name),
}

impl Busy {
    /// `None` when it is busy already.
    fn begin(all: &Arc<Mutex<BTreeSet<(Name, Name)>>>, key: (Name, Name)) -> Option<Self> {
        let is_new = all.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        is_new.then(|| Self { all: all.clone(), key })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}
