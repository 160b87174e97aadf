//! For the tests of probes: a way to run one, and servers, well and badly behaved.

use super::{ProbeOrder, Probed, Prober};
use crate::execute::tree::{Kind, Trees, Unusable};
use hale_core::event::{Event, ProbeFailure, ProbeOutcome};
use hale_core::ids::{Epoch, Name, ProbeId};
use hale_core::policy::{
    CheckKind, CheckPolicy, HttpCheck, LogPolicy, Ready, ResourceLimits, RestartPolicy, ServicePolicy, Signal,
    StartPolicy, StopPolicy,
};
use hale_core::time::Span;
use rustix::process::{Pid, Signal as Number, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Long enough for everything that is to succeed, on a starved machine too.
pub(super) const LONG: Span = Span::from_secs(30);

/// Trees of a Hale of this test's own.
pub(crate) fn trees() -> Arc<Trees> {
    Arc::new(Trees::open(&format!("{:08x}", std::process::id())))
}

/// The same where there are no cgroups.
pub(super) fn trees_by_tags() -> Arc<Trees> {
    let kind = Kind::Tags { why: Unusable::NotMounted };
    Arc::new(Trees::new(&format!("{:08x}", std::process::id()), kind, None))
}

/// A service with one check.
pub(super) fn policy(kind: CheckKind, timeout: Span) -> ServicePolicy {
    let check = CheckPolicy {
        name: Name::try_from("check").unwrap(),
        kind,
        every: Span::from_secs(2),
        timeout,
        failures: 1,
        successes: 1,
        confirm: Vec::new(),
    };
    ServicePolicy {
        command: vec![String::from("/bin/true")],
        directory: Some(String::from("/")),
        user: None,
        environment: BTreeMap::new(),
        environment_files: Vec::new(),
        after: Vec::new(),
        open_files_limit: None,
        limits: ResourceLimits::default(),
        listen: BTreeMap::new(),
        start: StartPolicy { ready: Ready::Check, within: LONG },
        stop: StopPolicy { signal: Signal::TERM, grace: LONG },
        restart: RestartPolicy {
            first_delay: Span::ZERO,
            delay: Span::ZERO,
            max_delay: Span::ZERO,
            healthy_after: LONG,
            crash_loop: None,
            held_delay: LONG,
            on_success: true,
            before_limit: None,
        },
        log: LogPolicy { max_size_bytes: 4096, keep: 1, rate_bytes: 4096 },
        checks: vec![check],
        generations: None,
    }
}

/// Runs the service's check once and returns its only answer.
pub(super) async fn run_policy(policy: ServicePolicy, trees: Arc<Trees>) -> ProbeOutcome {
    let (sender, mut events) = mpsc::unbounded_channel();
    let report = Arc::new(move |event| sender.send(event).unwrap());
    let prober = Prober::new(&Handle::current(), report, trees.clone(), (&std::env::temp_dir(), &std::env::temp_dir()));
    let service = Name::try_from("bot").unwrap();
    static PROBES: AtomicU64 = AtomicU64::new(1);
    let id = ProbeId(PROBES.fetch_add(1, Ordering::Relaxed));
    let of = Probed::Service { policy: Arc::new(policy), root: None, tree: None, anew: false };
    prober.probe(ProbeOrder { service, epoch: Epoch(7), probe: id, check: 0, of });
    let Some(Event::Probed { service, epoch: Epoch(7), probe, outcome }) = events.recv().await else {
        panic!("not the answer to the order")
    };
    assert_eq!((service.as_str(), probe), ("bot", id));
    drop(prober);
    // Refused for as long as something is still dying in it.
    let mut tries = 0;
    while let Err(error) = trees.close() {
        tries += 1;
        assert!(tries < 100_000, "something of the probe lives on: {error}");
        tokio::task::yield_now().await;
    }
    assert_eq!(events.recv().await, None, "a second answer");
    outcome
}

/// Runs a check of this kind once.
pub(super) async fn run(kind: CheckKind, timeout: Span) -> ProbeOutcome {
    run_policy(policy(kind, timeout), trees()).await
}

/// `GET url`, which passes with status 200.
pub(super) fn get(url: String) -> HttpCheck {
    HttpCheck {
        url,
        ca_file: None,
        method: String::from("GET"),
        headers: BTreeMap::new(),
        status: vec![200],
        body_contains: None,
        json: BTreeMap::new(),
        faster_than: None,
    }
}

/// Asserts how a probe failed and how its detail begins.
#[track_caller]
pub(super) fn assert_fails(outcome: &ProbeOutcome, failure: ProbeFailure, detail: &str) {
    assert_eq!(outcome.failure, Some(failure), "{outcome:?}");
    assert!(outcome.detail.starts_with(detail), "{:?} does not start with {detail:?}", outcome.detail);
}

/// Asserts that a probe passed and how its detail begins.
#[track_caller]
pub(super) fn assert_passes(outcome: &ProbeOutcome, detail: &str) {
    assert_eq!(outcome.failure, None, "{outcome:?}");
    assert!(outcome.detail.starts_with(detail), "{:?} does not start with {detail:?}", outcome.detail);
}

/// A server in this runtime that does with each connection what `behave` does.
pub(super) async fn serve<F: Future<Output = io::Result<()>> + Send + 'static>(
    behave: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(behave(stream));
        }
    });
    address
}

/// A port on which nobody listens now.
pub(super) fn free_port() -> u16 {
    StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Somebody else's program, with all of its processes; killed at the end.
pub(super) struct Foreign(Child);

impl Foreign {
    /// Starts the program and waits for the line of its output (or of its error output) that contains `ready`.
    pub(super) fn start(command: &mut Command, ready: &str) -> (Self, String) {
        let (output, error_output) = io::pipe().unwrap();
        command.stdin(Stdio::null()).stdout(error_output.try_clone().unwrap()).stderr(error_output).process_group(0);
        let child = Self(command.spawn().unwrap());
        // The command still holds the writing ends; without them the end of the output means the end of the program.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut lines = BufReader::new(output);
        let mut seen = String::new();
        while lines.read_line(&mut seen).unwrap() > 0 {
            let last = seen.lines().last().unwrap_or_default();
            if last.contains(ready) {
                let last = String::from(last);
                std::thread::spawn(move || io::copy(&mut lines.by_ref(), &mut io::sink()));
                return (child, last);
            }
        }
        panic!("it ended before {ready:?}:\n{seen}");
    }

    /// Its own process id.
    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    /// Sends a signal to all of its processes.
    pub(super) fn signal(&self, signal: Number) {
        kill_process_group(self.pid(), signal).unwrap();
        if signal == Number::STOP {
            // All of its threads have stopped once this is told.
            let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
            waitid(WaitId::Pid(self.pid()), stopped).unwrap();
        }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = kill_process_group(self.pid(), Number::KILL);
        let _ = self.0.wait();
    }
}
