//! From the guardian's two sockets to the running loop, and its orderly end.

use super::console::Console;
use super::evidence::Collector;
use super::host::{DaemonHost, Ended, Parts, now};
use super::inbox::{Asker, Inbox, inbox};
use super::kept::Kept;
use crate::api;
use crate::execute::tree::{self, Kind, Trees};
use crate::guardian::client::GuardianClient;
use crate::keeper::client::KeeperClient;
use crate::knowledge::journal::Journal;
use crate::knowledge::ledger_store::{LedgerEvent, LedgerStore, Limits};
use crate::knowledge::recovery::{self, Recovered};
use crate::monitor::config_file::{self, LoadError};
use crate::monitor::probe::Prober;
use crate::sys::packet::take_inherited;
use hale_core::driver;
use hale_core::event::Event;
use hale_core::ids::RecordId;
use hale_core::policy::HostPolicy;
use hale_core::record::Class;
use hale_core::world::{Birth, World};
use rustix::rand::{GetRandomFlags, getrandom};
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// The descriptors that the guardian hands over.
const GUARDIAN_FD: RawFd = 3;
const KEEPER_FD: RawFd = 4;

/// How long the start waits for processes of an earlier Hale to be gone. They get SIGKILL, so this is the time of the
/// kernel; what is still there then keeps its service, or Hale, from starting.
const LEFTOVERS_WITHIN: Duration = Duration::from_secs(5);

/// How many threads may do what can block for probes: name lookups and exec preparations, four at once each.
const BLOCKING_THREADS: usize = 16;

/// How long the start waits for the thread of probes and API.
const RUNTIME_WITHIN: Duration = Duration::from_secs(5);

/// Why there is no supervisor.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("`hale supervisor` is started by the guardian only; run `hale run`")]
    NotByGuardian,
    #[error(transparent)]
    Config(#[from] LoadError),
    #[error(
        "processes of an earlier Hale survive SIGKILL: {0:?}; nothing is started beside them. \
         Look at their state (D: a device or network file system hangs) and start Hale again once they are gone"
    )]
    Survivors(Vec<i32>),
    #[error("cannot {what}: {source}")]
    Io { what: &'static str, source: io::Error },
}

impl StartError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::NotByGuardian => 2,
            Self::Config(_) => 78,
            Self::Survivors(_) | Self::Io { .. } => 1,
        }
    }
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Io { what, source }
}

/// The supervisor, as `hale supervisor FILE` with the guardian's and the keeper's socket as descriptors 3 and 4.
///
/// Exit codes: 0 after an orderly end, 1 when it could not start or lost its guardian, 2 when it was started by hand, 78
/// for a configuration that cannot be used.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match run(args) {
        Ok(Ended::InOrder) => ExitCode::SUCCESS,
        Ok(Ended::GuardianGone) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hale: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(args: impl IntoIterator<Item = OsString>) -> Result<Ended, StartError> {
    let file = args.into_iter().next().map(PathBuf::from).ok_or(StartError::NotByGuardian)?;
    let socket = |number| take_inherited(number).map_err(|_| StartError::NotByGuardian);
    let (guardian, keeper) = (socket(GUARDIAN_FD)?, socket(KEEPER_FD)?);
    let validated = config_file::load(&file)?.validated;
    let host_policy = &validated.policy.host;

    let console = Console::start().map_err(failed("start a thread"))?;
    let (inbox, outlet) = inbox().map_err(failed("make an eventfd"))?;
    if let Err(error) = api::groups::share_history(&validated.policy) {
        console.say(&format!("members of group {} cannot read all of the history: {error}", api::sockets::READ_GROUP));
    }
    let (journal, ledger, recovered) = remember(host_policy, &inbox, &console);
    let trees = Arc::new(Trees::open(&tree::instance(Path::new(&host_policy.runtime_dir))));
    end_leftovers(&trees, &recovered, &console)?;

    make_notify_dir(Path::new(&host_policy.runtime_dir)).map_err(failed("make the directory of notify sockets"))?;
    let asker = Asker::new(inbox.clone());
    let prober = start_runtime(&host_policy.runtime_dir, &inbox, &asker, &trees)?;
    let birth = Birth {
        policy: validated.policy.clone(),
        hash: validated.hash,
        seed: seed(),
        version: String::from(env!("CARGO_PKG_VERSION")),
        boot_id: boot_id(),
        first_record: recovered.first_record,
        open_incidents: recovered.open_incidents,
    };
    let collector = Collector::start(inbox.clone()).map_err(failed("start a thread"))?;
    let parts = Parts {
        guardian: GuardianClient::from_fd(guardian),
        keeper: KeeperClient::from_fd(keeper),
        inbox,
        outlet,
        asker,
        journal: Kept::new(journal),
        ledger,
        prober,
        trees,
        console,
        collector,
    };
    let mut host = DaemonHost::new(parts, &validated.policy).map_err(failed("listen to the kernel"))?;
    driver::run(&mut World::new(birth), &mut host);
    Ok(host.finish())
}

/// Makes the directory of the services' notify sockets: each user may reach a socket in it, whose mode says who may
/// send to it, and only Hale's own may list or change it.
fn make_notify_dir(runtime_dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o711).create(runtime_dir.join("notify"))
}

/// Opens journal and ledger. Hale heals without either, and says so: a full or broken disk is no reason to leave
/// services alone.
fn remember(host: &HostPolicy, inbox: &Inbox, console: &Console) -> (Option<Journal>, Option<LedgerStore>, Recovered) {
    let path = Path::new(&host.runtime_dir).join("journal");
    let (journal, replay) = match Journal::open(path) {
        Ok((journal, replay)) => (Some(journal), replay),
        Err(error) => {
            console.say(&format!("{error}; Hale goes on without it"));
            (None, Default::default())
        }
    };
    let notify = || {
        let to_loop = inbox.clone();
        let tell = move |event| {
            to_loop.send(match event {
                LedgerEvent::Durable { up_to_id } => Event::Durable { up_to: RecordId(up_to_id) },
                LedgerEvent::Degraded { error } => Event::LedgerDegraded { error },
                LedgerEvent::Recovered => Event::LedgerRecovered,
            });
        };
        Box::new(tell)
    };
    let dir = Path::new(&host.state_dir).join("ledger");
    let recovered = recovery::recover(&replay, &dir);
    let ledger = match LedgerStore::open(&dir, Limits::default(), notify()) {
        Ok((ledger, _)) => {
            for (id, line) in &recovered.missing {
                // What there is no room for is counted by the ledger itself.
                let _ = ledger.append(line.clone(), Class::State, id.0);
            }
            Some(ledger)
        }
        Err(error) => {
            inbox.send(Event::LedgerDegraded { error: error.to_string() });
            // What is missing in it is left to the next start: an earlier Hale may be writing just that.
            LedgerStore::open_later(&dir, Limits::default(), notify()).ok()
        }
    };
    (journal, ledger, recovered)
}

/// Ends what an earlier Hale left running, so that nothing ever runs twice. A survivor in a service's cgroup keeps that
/// service from starting, and no other. Of one without a cgroup nobody knows to which service it belongs, so nothing at
/// all is started beside it: whoever started Hale is told, and tries again.
fn end_leftovers(trees: &Trees, recovered: &Recovered, console: &Console) -> Result<(), StartError> {
    if let Kind::Tags { why } = trees.kind() {
        console.say(&format!(
            "services are kept together by a variable of their environment only, as there is no cgroup v2 to use: {why}"
        ));
    }
    let leftovers = trees
        .end_leftovers(&recovered.processes, LEFTOVERS_WITHIN)
        .map_err(failed("look for processes that an earlier Hale left running"))?;
    if !leftovers.found.is_empty() {
        console.say(&format!("ended {} processes that an earlier Hale had left running", leftovers.found.len()));
    }
    let (known, unknown): (Vec<&tree::Leftover>, Vec<&tree::Leftover>) =
        leftovers.remaining.iter().partition(|left| left.evidence == tree::Evidence::Cgroup);
    for left in known {
        console.say(&format!(
            "pid {} of an earlier Hale survives SIGKILL; its service is not started beside it",
            left.pid
        ));
    }
    if unknown.is_empty() {
        return Ok(());
    }
    Err(StartError::Survivors(unknown.iter().map(|left| left.pid).collect()))
}

/// Starts the thread of probes and API. It runs until the process ends.
fn start_runtime(runtime_dir: &str, inbox: &Inbox, asker: &Asker, trees: &Arc<Trees>) -> Result<Prober, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(failed("start a runtime"))?;
    let to_loop = inbox.clone();
    let report = Arc::new(move |event| to_loop.send(event));
    let prober = Prober::new(runtime.handle().clone(), report, trees.clone());
    let (runtime_dir, asker) = (PathBuf::from(runtime_dir), asker.clone());
    let (started, result) = sync_channel(1);
    let serve = move || {
        runtime.block_on(async {
            match api::sockets::bind(&runtime_dir) {
                Ok(sockets) => {
                    let _ = started.send(Ok(()));
                    if let Err(error) = api::serve(sockets, Arc::new(asker)).await {
                        eprintln!("hale: the API has ended: {error}");
                    }
                }
                Err(error) => {
                    let _ = started.send(Err(io::Error::other(error)));
                }
            }
            // Probes go on without an API.
            std::future::pending::<()>().await;
        });
    };
    std::thread::Builder::new().name(String::from("runtime")).spawn(serve).map_err(failed("start a thread"))?;
    match result.recv_timeout(RUNTIME_WITHIN) {
        Ok(bound) => bound.map_err(failed("bind the sockets of the API"))?,
        Err(_) => return Err(failed("start the API")(io::ErrorKind::TimedOut.into())),
    }
    Ok(prober)
}

/// The kernel's name of this boot (`/proc/sys/kernel/random/boot_id`, random(4)).
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or(String::new(), |id| String::from(id.trim()))
}

/// Seeds the jitter; without randomness the clock serves.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(8) => u64::from_ne_bytes(bytes),
        Ok(_) | Err(_) => now().boot_us,
    }
}
