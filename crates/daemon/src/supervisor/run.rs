//! From the guardian's two sockets to the running loop, and its orderly end.

use super::console::Console;
use super::evidence::Collector;
use super::examiner::Examiner;
use super::host::{DaemonHost, Ended, KeptPolicies, Parts, Reloads, now};
use super::inbox::{Asker, Inbox, inbox};
use super::inheritance::{Inheritance, Kept as KeptSlot};
use super::kept::Kept;
use super::past;
use super::said::Said;
use crate::api;
use crate::execute::tree::{self, Kind, Trees};
use crate::generations::Stores;
use crate::guardian::launch::LEAVE;
use crate::keeper::client::KeeperClient;
use crate::knowledge::journal::{Journal, Replay};
use crate::knowledge::ledger_store::{LedgerEvent, LedgerStore, Limits};
use crate::knowledge::policy_file::{self, InForce};
use crate::knowledge::recovery::{self, Recovered};
use crate::knowledge::trail::Trail;
use crate::monitor::config_file::{self, LoadError};
use crate::monitor::probe::Prober;
use crate::protocol::{GuardianEvent, HostSignal, StoreKey};
use crate::supervisor::client::GuardianClient;
use crate::sys::packet::take_inherited;
use hale_core::driver;
use hale_core::event::{EndWhy, Event};
use hale_core::ids::{Epoch, RecordId};
use hale_core::policy::{HostPolicy, PolicyHash, Signal};
use hale_core::record::{Body, Record};
use hale_core::safeswitch::Part;
use hale_core::world::{Birth, Snapshot, World};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::rand::{GetRandomFlags, getrandom};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// The descriptors that the guardian hands over.
const GUARDIAN_FD: RawFd = 3;
const KEEPER_FD: RawFd = 4;

/// How long the start waits for processes of an earlier Hale to be gone. They get SIGKILL, so this is the time of the
/// kernel; what is still there then keeps its service, or Hale, from starting.
pub(super) const LEFTOVERS_WITHIN: Duration = Duration::from_secs(5);

/// How long the start waits for what the ledger's newest segment says: its 64 MiB are read and verified in a part of that.
const LEDGER_WITHIN: Duration = Duration::from_secs(2);

/// How many threads may do what can block for probes: name lookups and exec preparations, four at once each, eight looks at
/// processes, two readers of certificates, and the control probe of the disk.
const BLOCKING_THREADS: usize = 19;

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
        Ok(Ended::GuardianGone | Ended::Failed) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hale: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(args: impl IntoIterator<Item = OsString>) -> Result<Ended, StartError> {
    let mut args = args.into_iter().map(PathBuf::from);
    let (Some(own), Some(without_guardian)) = (args.next(), args.next()) else { return Err(StartError::NotByGuardian) };
    let (Some(runtime_dir), Some(file)) = (args.next(), args.next()) else { return Err(StartError::NotByGuardian) };
    let own = own.to_string_lossy().into_owned();
    let socket = |number| take_inherited(number).map_err(|_| StartError::NotByGuardian);
    let (guardian, keeper) = (socket(GUARDIAN_FD)?, socket(KEEPER_FD)?);
    // To the guardian the end of this socket is the end of this process, of which it kills the rest. So the kernel alone
    // closes it, when the exit code is known.
    std::mem::forget(guardian.try_clone());
    let (mut guardian, keeper) = (GuardianClient::from_fd(guardian), KeeperClient::from_fd(keeper));
    let mut inherited = Inheritance::take(&mut guardian).map_err(failed("hear the guardian"))?;
    let (mut in_force, unkept, was_kept) = policy_in_force(&own, &runtime_dir, &file)?;
    // No reload changes where it is.
    let host_policy = &in_force.policy.host.clone();

    let console = Console::start().map_err(failed("start a thread"))?;
    if let Some(error) = unkept {
        console.say(&format!(
            "{} cannot be written: {error}; Hale goes on, but a supervisor that dies will start every service anew",
            runtime_dir.join(policy_file::NAME).display()
        ));
    }
    let (inbox, outlet) = inbox().map_err(failed("make an eventfd"))?;
    let (journal, replay) = open_journal(host_policy, &console);
    let left = Predecessor::read(&replay);
    // Beside a policy whose places are new its own would be others.
    let mut next = policy_file::read_next(&runtime_dir, &own).filter(|_| was_kept);
    if let Some(left) = &left
        && let Some(reloaded) = next.take_if(|next| next.hash == left.policy && next.hash != in_force.hash)
    {
        // The one before died when the journal began with it already.
        in_force = reloaded;
        policy_file::settle(&runtime_dir).map_err(failed("put the reloaded policy in its place"))?;
    }
    let is_known = |hash: &PolicyHash| next.as_ref().is_some_and(|next| next.hash == *hash);
    let left = left.filter(|left| left.policy == in_force.hash && left.guardian == own && left.reloads().all(is_known));
    let left = left.filter(|_| was_kept);
    let predecessor = inherited.lost.take();
    if let (Some(lost), None, false) = (&predecessor, &left, inherited.slots.is_empty()) {
        console.say(&format!(
            "{lost}, and its journal or policy in {} is missing or does not fit: its services are ended and started anew",
            runtime_dir.display()
        ));
    }
    let taken_over = predecessor.zip(left);
    if taken_over.is_none()
        && let Err(error) = api::groups::share_history(&in_force.policy)
    {
        console.say(&format!("members of group {} cannot read all of the history: {error}", api::sockets::READ_GROUP));
    }
    let (ledger, recovered) = open_ledger(host_policy, &replay, taken_over.is_some(), &inbox, &console);
    let trees = Arc::new(Trees::open(&tree::instance(Path::new(&host_policy.runtime_dir))));
    let mut birth = Birth {
        policy: in_force.policy.clone(),
        hash: in_force.hash.clone(),
        seed: seed(),
        version: String::from(env!("CARGO_PKG_VERSION")),
        boot_id: boot_id(),
        guardian: own,
        first_record: recovered.first_record,
        last_epoch: Epoch(0),
        open_incidents: recovered.open_incidents.clone(),
        generations: recovered.generations.clone(),
    };
    let (mut world, lost) = match taken_over {
        Some((lost, left)) => {
            trees.end_probes().map_err(failed("end the probes of the supervisor before this one"))?;
            let candidate = next.as_ref().map(|next| (next.hash.clone(), next.policy.clone()));
            (World::restore(birth, candidate, left.snapshot, left.records), Some(lost))
        }
        None => {
            end_leftovers(&trees, &recovered, &console)?;
            birth.last_epoch = forget_slots(&mut guardian, &inherited).map_err(failed("hear the guardian"))?;
            (World::new(birth), None)
        }
    };

    let reloads = Reloads::new(KeptPolicies { first: in_force, next }, runtime_dir.clone(), &world);
    make_notify_dir(Path::new(&host_policy.runtime_dir)).map_err(failed("make the directory of notify sockets"))?;
    let asker = Asker::new(inbox.clone(), file);
    let listeners = inherited.stored(StoreKey::ReadApi).zip(inherited.stored(StoreKey::ControlApi));
    let hub = api::Hub::default();
    let to_loop = inbox.clone();
    let stores = Stores::new(world.policy(), trees.clone(), move |event| to_loop.send(event));
    for (name, service) in world.services() {
        Part::ALL.into_iter().for_each(|part| stores.need(name, part, &service.needed(part)));
    }
    let (prober, listeners) = start_runtime(host_policy, listeners, &inbox, (&asker, &hub, &stores), &trees)?;
    for (key, fd) in [StoreKey::ReadApi, StoreKey::ControlApi].into_iter().zip(&listeners) {
        guardian.store(key, fd.as_fd()).map_err(|error| failed("keep the API's sockets")(io::Error::other(error)))?;
    }
    let to_past = inbox.clone();
    let collector = Collector::start(inbox.clone()).map_err(failed("start a thread"))?;
    let examiner = Examiner::start(inbox.clone()).map_err(failed("start a thread"))?;
    let mut first = VecDeque::from([Event::Challenged { nonce: inherited.nonce }]);
    // The one before may have begun to act on it: once is enough.
    let ends = |signal: &HostSignal| match signal {
        HostSignal::Terminate => Some(Signal::TERM),
        HostSignal::Interrupt => Some(Signal::INT),
        HostSignal::Hangup => None,
    };
    if let Some(signal) = inherited.signals.iter().find_map(ends).filter(|_| !world.is_ending()) {
        first.push_back(Event::End { why: EndWhy::Signal(signal) });
    }
    if inherited.signals.contains(&HostSignal::Hangup) {
        // Whether the one before has done it or not: done twice it changes nothing.
        asker.reload_by_signal();
    }
    first.extend(inherited.hardware.map(|report| report.event()));
    if lost.is_none() {
        first.push_front(Event::Begin);
    }
    let (said, error) = Said::open(&runtime_dir, lost.is_none());
    if let Some(error) = error {
        console.say(&format!("what services say may not be kept for the next supervisor: {error}"));
    }
    let parts = Parts {
        guardian,
        keeper,
        inbox,
        outlet,
        asker,
        journal: Kept::new(journal),
        ledger,
        prober,
        trees,
        console,
        collector,
        examiner,
        leaves_services: without_guardian.as_os_str().as_bytes() == LEAVE.to_bytes(),
        said,
        hub,
        stores,
    };
    past::read(host_policy, boot_id(), &to_past);
    let mut host = DaemonHost::new(parts, &world, reloads, first).map_err(failed("listen to the kernel"))?;
    let sockets = host.adopt_sockets(&mut inherited, &world).map_err(io::Error::other);
    sockets.map_err(failed("take over the services' sockets"))?;
    host.adopt_left(&mut inherited, &world);
    if let Some(lost) = lost {
        host.adopt(lost, inherited, &world).map_err(failed("take over the services"))?;
    }
    driver::run(&mut world, &mut host);
    Ok(host.finish())
}

/// The policy to run: of an earlier supervisor the one that it ran, else what the file says now, which is kept for the next
/// supervisor; why it could not be kept, if it could not; and whether it was kept before: only then the places of the services
/// are those that the guardian knows them by.
fn policy_in_force(
    guardian: &str,
    runtime_dir: &Path,
    file: &Path,
) -> Result<(InForce, Option<io::Error>, bool), StartError> {
    if let Some(in_force) = policy_file::read(runtime_dir, guardian).filter(InForce::has_all_places) {
        return Ok((in_force, None, true));
    }
    let validated = config_file::load(file)?.validated;
    let in_force = InForce::new(guardian, validated.hash, validated.policy, BTreeMap::new());
    let in_force = in_force.map_err(io::Error::other).map_err(failed("give every service a place"))?;
    let unkept = policy_file::write(runtime_dir, &in_force).err();
    Ok((in_force, unkept, false))
}

/// What an earlier supervisor of this guardian left in the journal.
struct Predecessor {
    policy: PolicyHash,
    guardian: String,
    snapshot: Option<Snapshot>,
    records: Vec<Record>,
}

impl Predecessor {
    /// The policies that came into force since its beginning.
    fn reloads(&self) -> impl Iterator<Item = &PolicyHash> {
        self.records.iter().filter_map(|record| match &record.body {
            Body::Reloaded(reload) => Some(&reload.to),
            _ => None,
        })
    }

    /// `None`: the journal does not reach back to its beginning.
    fn read(replay: &Replay) -> Option<Self> {
        let snapshot: Option<Snapshot> = match &replay.snapshot {
            Some(bytes) => Some(serde_json::from_slice(bytes).ok()?),
            None => None,
        };
        let records: Vec<Record> = replay.lines().map(serde_json::from_slice).collect::<Result<_, _>>().ok()?;
        // A journal can hold several Hales, one after the other; each begins anew.
        let began = records.iter().rposition(|record| matches!(record.body, Body::Began { .. }));
        match (began, snapshot) {
            (Some(at), _) => {
                let Body::Began { policy, guardian, .. } = &records[at].body else { return None };
                Some(Self {
                    policy: policy.clone(),
                    guardian: guardian.clone(),
                    snapshot: None,
                    records: records[at..].to_vec(),
                })
            }
            (None, Some(snapshot)) => Some(Self {
                policy: snapshot.policy.clone(),
                guardian: snapshot.guardian.clone(),
                snapshot: Some(snapshot),
                records,
            }),
            (None, None) => None,
        }
    }
}

/// What the guardian kept of processes that nobody knows any more: their ends are awaited, they were killed, and
/// acknowledged. Gives the highest number that was used.
fn forget_slots(guardian: &mut GuardianClient, inherited: &Inheritance) -> io::Result<Epoch> {
    let lives = |kept: &&KeptSlot| kept.process.is_some() && kept.exit.is_none() && kept.failure.is_none();
    let mut living = inherited.slots.values().filter(lives).count();
    for (slot, kept) in &inherited.slots {
        // Also what no cgroup and no variable of its environment tells of.
        if let Some((_, Some(pidfd))) = &kept.process {
            let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
        }
        guardian.ack(*slot, kept.epoch).map_err(io::Error::other)?;
    }
    guardian.flush()?;
    let until = Instant::now() + LEFTOVERS_WITHIN;
    while living > 0 {
        match guardian.receive()? {
            Some(GuardianEvent::Exited { slot, epoch, .. } | GuardianEvent::SpawnFailed { slot, epoch, .. }) => {
                guardian.ack(slot, epoch).map_err(io::Error::other)?;
                living -= 1;
            }
            Some(GuardianEvent::Gone) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(_) => {}
            None => {
                let mut ready = [PollFd::new(guardian, PollFlags::IN)];
                let left = until.saturating_duration_since(Instant::now());
                let within = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
                if poll(&mut ready, Some(&within))? == 0 {
                    let pids: Vec<i32> = inherited
                        .slots
                        .values()
                        .filter_map(|kept| kept.process.as_ref().map(|(pid, _)| *pid))
                        .collect();
                    return Err(io::Error::other(format!(
                        "{living} of the processes {pids:?} survive SIGKILL; look at their state (D: a device or network \
                         file system hangs). Hale tries again"
                    )));
                }
            }
        }
    }
    Ok(inherited.slots.values().map(|kept| kept.epoch).max().unwrap_or_default())
}

/// Makes the directory of the services' notify sockets: each user may reach a socket in it, whose mode says who may
/// send to it, and only Hale's own may list or change it.
fn make_notify_dir(runtime_dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o711).create(runtime_dir.join("notify"))
}

/// Opens the journal. Hale heals without it, and says so.
fn open_journal(host: &HostPolicy, console: &Console) -> (Option<Journal>, Replay) {
    match Journal::open(Path::new(&host.runtime_dir).join("journal")) {
        Ok((journal, replay)) => (Some(journal), replay),
        Err(error) => {
            console.say(&format!("{error}; Hale goes on without it"));
            (None, Default::default())
        }
    }
}

/// Opens the ledger, which gets what only the journal has; and what both leave behind. Hale heals without a ledger, and
/// says so: a full, broken or hanging disk is no reason to leave services alone. But only a supervisor that takes over knows
/// from the journal how the records' numbers go on: another one waits for the disk, at most until the guardian replaces it.
fn open_ledger(
    host: &HostPolicy,
    replay: &Replay,
    takes_over: bool,
    inbox: &Inbox,
    console: &Console,
) -> (Option<LedgerStore>, Recovered) {
    let to_loop = inbox.clone();
    let notify = move |event| {
        to_loop.send(match event {
            LedgerEvent::Durable { up_to_id } => Event::Durable { up_to: RecordId(up_to_id) },
            LedgerEvent::Degraded { error } => Event::LedgerDegraded { error },
            LedgerEvent::Recovered => Event::LedgerRecovered,
        });
    };
    let dir = Path::new(&host.state_dir).join("ledger");
    let backlog = replay.lines().map(<[u8]>::to_vec).collect();
    let (ledger, trail) = match LedgerStore::open_behind(&dir, Limits::default(), backlog, Box::new(notify)) {
        Ok((ledger, told)) => {
            let trail = told.recv_timeout(LEDGER_WITHIN).or_else(|error| {
                let goes_on = if takes_over { "Hale goes on with the journal alone" } else { "Hale waits for it" };
                console.say(&format!("the disk of {} does not answer: {goes_on}", dir.display()));
                if takes_over { Err(error) } else { told.recv().map_err(|_| error) }
            });
            (Some(ledger), trail.unwrap_or_default())
        }
        Err(error) => {
            inbox.send(Event::LedgerDegraded { error: error.to_string() });
            (None, Trail::read(&dir))
        }
    };
    (ledger, recovery::recover(replay, trail))
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

/// Starts the thread of probes and API. It runs until the process ends. The API's listeners are those that an earlier
/// supervisor left, or new ones; copies of them come back.
fn start_runtime(
    host: &HostPolicy,
    listeners: Option<(OwnedFd, OwnedFd)>,
    inbox: &Inbox,
    (asker, hub, stores): (&Asker, &api::Hub, &Stores),
    trees: &Arc<Trees>,
) -> Result<(Prober, [OwnedFd; 2]), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(failed("start a runtime"))?;
    let to_loop = inbox.clone();
    let report = Arc::new(move |event| to_loop.send(event));
    let prober = Prober::new(
        runtime.handle(),
        report,
        trees.clone(),
        (Path::new(&host.state_dir), Path::new(&host.runtime_dir)),
    );
    let (runtime_dir, asker, hub) = (PathBuf::from(&host.runtime_dir), asker.clone(), hub.clone());
    let stores = stores.clone();
    let (started, result) = sync_channel(1);
    let serve = move || {
        runtime.block_on(async {
            let sockets = match listeners {
                Some((read, control)) => api::sockets::inherited(read, control),
                None => api::sockets::bind(&runtime_dir).map_err(io::Error::other),
            };
            let copies = sockets.and_then(|sockets| {
                let copies = [sockets.read.try_clone()?.into(), sockets.control.try_clone()?.into()];
                Ok((sockets, copies))
            });
            match copies {
                Ok((sockets, copies)) => {
                    let _ = started.send(Ok(copies));
                    if let Err(error) = api::serve(sockets, Arc::new(asker), Arc::new(stores), hub).await {
                        eprintln!("hale: the API has ended: {error}");
                    }
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
            // Probes go on without an API.
            std::future::pending::<()>().await;
        });
    };
    std::thread::Builder::new().name(String::from("runtime")).spawn(serve).map_err(failed("start a thread"))?;
    match result.recv_timeout(RUNTIME_WITHIN) {
        Ok(bound) => Ok((prober, bound.map_err(failed("bind the sockets of the API"))?)),
        Err(_) => Err(failed("start the API")(io::ErrorKind::TimedOut.into())),
    }
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
