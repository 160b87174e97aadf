//! Runs checks: each probe once, to the end of its deadline and never beyond it, with one answer.

mod connect;
mod control;
mod exec;
mod exposition;
#[doc(hidden)]
pub mod fed;
mod figures;
mod grpc;
mod http;
mod lateness;
mod measured;
mod prepare;
mod process;
mod scrape;
#[cfg(test)]
mod starved;
mod tcp;
#[cfg(test)]
pub(crate) mod testing;
mod tls;
mod tree;

pub use self::figures::Figure;

use self::connect::Resolver;
use self::measured::Meter;
use self::tls::Tls;
use crate::execute::tree::{Tree, Trees};
use crate::monitor::text::one_line;
use hale_core::event::{Event, ProbeFailure, ProbeOutcome};
use hale_core::ids::{Epoch, Name, ProbeId};
use hale_core::policy::{CheckKind, CheckPolicy, DependencyPolicy, ServicePolicy};
use hale_core::time::Span;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Takes events to the loop; never blocks.
pub type Report = Arc<dyn Fn(Event) + Send + Sync>;

/// The longest detail of an outcome, in bytes: a line for people, kept for each check and put into records.
const DETAIL_BYTES: usize = 300;

/// One run of one check, as [`hale_core::effect::Order::Probe`] wants it.
#[derive(Debug, Clone)]
pub struct ProbeOrder {
    /// Whose.
    pub service: Name,
    /// Which of its processes.
    pub epoch: Epoch,
    /// Which run, for the answer.
    pub probe: ProbeId,
    /// Which of the checks of what is probed.
    pub check: usize,
    /// What is probed.
    pub of: Probed,
}

/// What is probed, with its checks.
#[derive(Debug, Clone)]
pub enum Probed {
    /// A service.
    Service {
        /// Its policy.
        policy: Arc<ServicePolicy>,
        /// The directory of the generation that its process is of, where it has one.
        root: Option<PathBuf>,
        /// Its processes, for checks that look at them.
        tree: Option<Tree>,
        /// Time that was counted before counts no longer.
        anew: bool,
    },
    /// Something that Hale does not run.
    Dependency(Arc<DependencyPolicy>),
}

impl ProbeOrder {
    fn counts_anew(&self) -> bool {
        matches!(self.of, Probed::Service { anew: true, .. })
    }

    fn policy(&self) -> Option<&CheckPolicy> {
        match &self.of {
            Probed::Service { policy, .. } => policy.checks.get(self.check),
            Probed::Dependency(policy) => policy.checks.get(self.check),
        }
    }
}

/// Runs probes on a tokio runtime of one thread: as many at once as are ordered, since a waiting probe is a timer
/// and a socket. What may block (name lookups, users) is done by a few threads of that runtime, never more.
pub struct Prober {
    shared: Arc<Shared>,
    /// To the runtime's thread, which is woken once for all that is ordered before it comes to look. Not bounded: a check has
    /// one probe at a time.
    wishes: UnboundedSender<Wish>,
}

/// What the loop wants of the runtime's thread, in this order.
enum Wish {
    Probe(ProbeOrder, Deadline),
    Control(ProbeId),
    Forget(Name),
}

/// What all probes use.
struct Shared {
    report: Report,
    network: Network,
    exec: exec::Launcher,
    looker: tree::Looker,
    meter: Meter,
    controller: control::Controller,
}

/// What probes over the network use.
#[derive(Default)]
struct Network {
    resolver: Resolver,
    tls: Tls,
}

impl Prober {
    /// A prober whose probes run on the runtime of `handle`, and answer by `report`. The processes of exec probes
    /// are put into groups of `trees`, one for each probe. Control probes write in `state_dir`, and leave word in
    /// `runtime_dir`; the first of them are made at once, to know which of them can work here.
    #[must_use]
    pub fn new(handle: &Handle, report: Report, trees: Arc<Trees>, (state_dir, runtime_dir): (&Path, &Path)) -> Self {
        let shared = Arc::new(Shared {
            report,
            network: Network::default(),
            exec: exec::Launcher::new(trees),
            looker: tree::Looker::new(),
            meter: Meter::default(),
            controller: control::Controller::new(state_dir, runtime_dir),
        });
        let (wishes, wished) = unbounded_channel();
        handle.spawn(serve(shared.clone(), wished));
        let first = shared.clone();
        handle.spawn(async move { first.controller.control(&first.network).await });
        Self { shared, wishes }
    }

    /// Starts a probe and returns at once. It is answered by exactly one [`Event::Probed`], within the check's
    /// timeout and a little; by none when the runtime ends before. One of the same check that still runs was meant
    /// for a process that is gone: it is dropped, and with it all that it started.
    pub fn probe(&self, order: ProbeOrder) {
        let deadline = Deadline::start(order.policy().map_or(Span::ZERO, |check| check.timeout));
        // Fails when the runtime has ended.
        let _ = self.wishes.send(Wish::Probe(order, deadline));
    }

    /// Makes the control probes; answered by one [`Event::Controlled`], or by none when the runtime ends before.
    pub fn control(&self, probe: ProbeId) {
        let _ = self.wishes.send(Wish::Control(probe));
    }

    /// Takes note that a new process of a service is about to be made: what it says of itself is all that counts for it.
    pub fn begin(&self, service: &Name, epoch: Epoch) {
        self.shared.meter.figures.begin(service, epoch);
    }

    /// Forgets a service that is gone, and drops its probes.
    pub fn forget(&self, service: &Name) {
        self.shared.meter.forget(service);
        let _ = self.wishes.send(Wish::Forget(service.clone()));
    }

    /// Takes a figure that a process has said of itself, just now.
    pub fn said(&self, service: &Name, epoch: Epoch, figure: Figure) {
        self.shared.meter.figures.said(service, epoch, figure);
    }
}

/// Starts what is ordered, until the prober is gone.
async fn serve(shared: Arc<Shared>, mut wished: UnboundedReceiver<Wish>) {
    // The newest probe of each check: by its name, for with a reload its number may become another's.
    let mut newest: BTreeMap<Name, BTreeMap<Option<Name>, AbortHandle>> = BTreeMap::new();
    while let Some(wish) = wished.recv().await {
        match wish {
            Wish::Probe(order, deadline) => {
                let (service, check) = (order.service.clone(), order.policy().map(|check| check.name.clone()));
                let task = tokio::spawn(shared.clone().run(order, deadline));
                let before = newest.entry(service).or_default().insert(check, task.abort_handle());
                if let Some(before) = before {
                    before.abort();
                }
            }
            Wish::Control(probe) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    let controls = shared.controller.control(&shared.network).await;
                    (shared.report)(Event::Controlled { probe, controls });
                });
            }
            Wish::Forget(service) => {
                shared.looker.forget(&service);
                newest.remove(&service).into_iter().flatten().for_each(|(_, probe)| probe.abort());
            }
        }
    }
}

impl Shared {
    async fn run(self: Arc<Self>, order: ProbeOrder, deadline: Deadline) {
        let (verdict, late) = lateness::measured(deadline, self.judge(&order, deadline)).await;
        let (took_us, late_us) = (deadline.elapsed().as_us(), late.as_us());
        let Verdict { failure, detail, figure } = verdict;
        let outcome = ProbeOutcome { took_us, failure, detail, figure, late_us };
        let ProbeOrder { service, epoch, probe, .. } = order;
        (self.report)(Event::Probed { service, epoch, probe, outcome });
    }

    async fn judge(&self, order: &ProbeOrder, deadline: Deadline) -> Verdict {
        let Some(check) = order.policy() else {
            return Verdict::wrong(format_args!("there is no check {}", order.check));
        };
        let result = match &check.kind {
            CheckKind::Http(http) => http::probe(http, &self.network, deadline).await,
            CheckKind::Tcp { address } => tcp::probe(address, &self.network.resolver, deadline).await,
            CheckKind::Exec { command, user } => {
                self.exec.probe(order, &check.name, command, user.as_deref(), deadline).await
            }
            CheckKind::Memory { .. }
            | CheckKind::Cpu { .. }
            | CheckKind::OpenFiles { .. }
            | CheckKind::Listen { .. } => self.looker.probe(order, &check.kind, deadline).await,
            CheckKind::Grpc { address, service } => grpc::probe(address, service, &self.network, deadline).await,
            CheckKind::Metric(metric) => self.meter.metric(order, (check, metric), &self.network, deadline).await,
            CheckKind::Progress(progress) => {
                self.meter.progress(order, (check, progress), &self.network, deadline).await
            }
            CheckKind::LoopLag(lag) => self.meter.loop_lag(order, (check, lag), &self.network, deadline).await,
            CheckKind::Heartbeat { .. } => Err(Verdict::wrong("a heartbeat comes by itself and is not probed")),
        };
        result.unwrap_or_else(|verdict| verdict)
    }
}

/// What a probe found. The way to it returns it as an error too, when it ends early.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    failure: Option<ProbeFailure>,
    detail: String,
    figure: Option<u64>,
}

impl Verdict {
    fn pass(detail: impl Display) -> Self {
        Self { failure: None, detail: one_line(&detail.to_string(), DETAIL_BYTES), figure: None }
    }

    fn wrong(detail: impl Display) -> Self {
        Self { failure: Some(ProbeFailure::Wrong), ..Self::pass(detail) }
    }

    fn slow(detail: impl Display) -> Self {
        Self { failure: Some(ProbeFailure::Slow), ..Self::pass(detail) }
    }

    fn killed(detail: impl Display) -> Self {
        Self { failure: Some(ProbeFailure::Killed), ..Self::pass(detail) }
    }

    fn timeout(detail: impl Display) -> Self {
        Self { failure: Some(ProbeFailure::Timeout), ..Self::pass(detail) }
    }

    fn unable(detail: impl Display) -> Self {
        Self { failure: Some(ProbeFailure::Unable), ..Self::pass(detail) }
    }

    /// The same, where the name of the other end is what could not be found out.
    fn unresolved(self) -> Self {
        Self { failure: Some(ProbeFailure::Unresolved), ..self }
    }

    /// The same with what was measured, to be followed.
    fn of(self, figure: u64) -> Self {
        Self { figure: Some(figure), ..self }
    }

    fn is_unable(&self) -> bool {
        matches!(self.failure, Some(ProbeFailure::Unable | ProbeFailure::Unresolved))
    }

    /// What an error on the way means: a wrong answer, unless it says nothing about the service.
    fn by_error(error: &io::Error, detail: impl Display) -> Self {
        match error {
            error if is_shortage(error) => Self::unable(detail),
            error if is_no_way(error) => Self { failure: Some(ProbeFailure::Unreachable), ..Self::pass(detail) },
            _ => Self::wrong(detail),
        }
    }
}

/// Whether the error says that Hale or its host is short of something: descriptors, memory, or room for what epoll(7)
/// watches (`ENOSPC`). EAGAIN is not among them: only where processes are made does it mean this.
fn is_shortage(error: &io::Error) -> bool {
    let short = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::NOSPC];
    error.raw_os_error().is_some_and(|number| short.iter().any(|errno| errno.raw_os_error() == number))
}

/// Whether the error says that this machine has no way there, or does not let anybody go: nobody has answered.
fn is_no_way(error: &io::Error) -> bool {
    let no_way = [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::NETDOWN, Errno::PERM, Errno::ACCESS];
    error.raw_os_error().is_some_and(|number| no_way.iter().any(|errno| errno.raw_os_error() == number))
}

/// When a probe has to be over, measured on `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    started: Instant,
    timeout: Span,
}

impl Deadline {
    fn start(timeout: Span) -> Self {
        Self { started: Instant::now(), timeout }
    }

    /// When it is.
    fn at(self) -> Instant {
        // The validated policy has no such long time; without this, one would be a panic.
        const LONGEST: Span = Span::from_secs(86_400);
        self.started + Duration::from_micros(self.timeout.min(LONGEST).as_us())
    }

    /// Since the probe's start.
    fn elapsed(self) -> Span {
        Span::from_us(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Waits for `work` up to the deadline.
    async fn bound<T>(self, waiting_for: impl Display, work: impl Future<Output = T>) -> Result<T, Verdict> {
        let late = |_| Verdict::timeout(format_args!("no answer within {}: waiting for {waiting_for}", self.timeout));
        tokio::time::timeout_at(self.at(), work).await.map_err(late)
    }

    /// The same for what Hale itself needs first.
    async fn bound_own<T>(self, waiting_for: impl Display, work: impl Future<Output = T>) -> Result<T, Verdict> {
        let late = |_| Verdict::unable(format_args!("not run within {}: waiting for {waiting_for}", self.timeout));
        tokio::time::timeout_at(self.at(), work).await.map_err(late)
    }
}
