//! Tests of probes in a process that has no descriptors left: a healthy service must not be blamed for it.

use super::testing::{LONG, get, policy, trees, trees_by_tags};
use super::{ProbeOrder, Probed, Prober};
use crate::execute::tree::Trees;
use hale_core::event::{Event, ProbeFailure, ProbeOutcome};
use hale_core::ids::{Epoch, Name, ProbeId};
use hale_core::policy::CheckKind;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Set in the process that the test starts for itself: the limit is one of all threads, other tests among them.
const ALONE: &str = "HALE_TEST_ALONE";

const TEST: &str = "monitor::probe::starved::without_descriptors_no_probe_says_anything_about_the_service";

async fn probe(kind: CheckKind, trees: Arc<Trees>) -> ProbeOutcome {
    let (sender, mut events) = mpsc::unbounded_channel();
    let prober = Prober::new(
        &Handle::current(),
        Arc::new(move |event| sender.send(event).unwrap()),
        trees,
        (&std::env::temp_dir(), &std::env::temp_dir()),
    );
    let policy = Arc::new(policy(kind, LONG));
    let service = Name::try_from("bot").unwrap();
    let of = Probed::Service { policy, root: None, tree: None, anew: false };
    prober.probe(ProbeOrder { service, epoch: Epoch(1), probe: ProbeId(1), check: 0, of });
    match events.recv().await {
        Some(Event::Probed { outcome, .. }) => outcome,
        other => panic!("not an answer: {other:?}"),
    }
}

#[test]
fn without_descriptors_no_probe_says_anything_about_the_service() {
    if std::env::var_os(ALONE).is_none() {
        let mut alone = Command::new(std::env::current_exe().unwrap());
        let output = alone.args(["--exact", TEST, "--nocapture"]).env(ALONE, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
        return;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let port = listener.local_addr().unwrap().port();
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let _unix = UnixListener::bind(&socket).unwrap();
    let exec = || CheckKind::Exec { command: vec![String::from("/bin/true")], user: None };
    let kinds = [
        (CheckKind::Tcp { address: address.clone() }, trees()),
        (CheckKind::Tcp { address: format!("localhost:{port}") }, trees()),
        (CheckKind::Tcp { address: format!("name.invalid:{port}") }, trees()),
        (CheckKind::Http(get(format!("http://{address}/"))), trees()),
        (CheckKind::Http(get(format!("unix:{}:/", socket.display()))), trees()),
        (exec(), trees()),
        (exec(), trees_by_tags()),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let maximum = getrlimit(Resource::Nofile).maximum;
    let before = getrlimit(Resource::Nofile).current;
    for (kind, trees) in kinds {
        setrlimit(Resource::Nofile, Rlimit { current: Some(0), maximum }).unwrap();
        let outcome = runtime.block_on(probe(kind.clone(), trees));
        setrlimit(Resource::Nofile, Rlimit { current: before, maximum }).unwrap();
        assert_eq!(outcome.failure, Some(ProbeFailure::Unable), "{kind:?}: {outcome:?}");
        assert!(outcome.detail.to_lowercase().contains("too many open files"), "{kind:?}: {outcome:?}");
    }
}
