//! Looks at trees of real processes that fork, exec, take sessions and names of their own, run threads and share memory:
//! with cgroups, and without.

use super::*;
use crate::execute::tree::{Kind, Trees, Unusable, instance};
use hale_core::ids::Name;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, set_child_subreaper};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// One service of a Hale of this test's own.
struct Service {
    trees: Trees,
    tree: Tree,
    main: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Service {
    /// Runs `command` in a tree of its own.
    fn start(with_cgroups: bool, command: &[&str]) -> Self {
        // As the guardian does.
        set_child_subreaper(Pid::from_raw(1)).unwrap();
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let unique = format!("sample-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let unique = instance(Path::new(&unique));
        let trees = match with_cgroups {
            true => Trees::open(&unique),
            false => Trees::new(&unique, Kind::Tags { why: Unusable::NotMounted }, None),
        };
        let name = Name::try_from("bot").unwrap();
        let tree = trees.prepare(&name).unwrap();
        let join = match trees.kind() {
            Kind::Cgroup2 { path } => format!("echo $$ > {}/bot/cgroup.procs || exit; ", path.display()),
            Kind::Tags { .. } => String::new(),
        };
        let tag = trees.environment_tag(&name);
        let (variable, value) = tag.split_once('=').unwrap();
        let mut main = Command::new("setsid");
        main.args(["sh", "-c", &format!("{join}exec \"$@\""), "sh"]).args(command).env(variable, value);
        let mut main = main.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_child(&main), PidfdFlags::empty()).unwrap();
        tree.spawned(main.id().cast_signed(), pidfd.as_fd()).unwrap();
        let (input, output) = (main.stdin.take().unwrap(), BufReader::new(main.stdout.take().unwrap()));
        Self { trees, tree, main, input, output }
    }

    /// The next line of its output.
    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "it ended");
        line.trim().to_owned()
    }

    fn tell(&mut self, text: &str) {
        writeln!(self.input, "{text}").unwrap();
    }

    fn pid(&self) -> i32 {
        self.main.id().cast_signed()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.tree.kill();
        let _ = self.main.wait();
        let _ = self.trees.end_leftovers(&[], std::time::Duration::from_secs(30));
        let _ = self.trees.close();
    }
}

fn look(service: &Service, needs: &Needs) -> Sample {
    Past::default().look(&service.tree, needs).unwrap()
}

mod needs_python {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn python(with_cgroups: bool, program: &str) -> Service {
        Service::start(with_cgroups, &["python3", "-u", "-c", program])
    }

    /// 96 MiB that four workers inherit, 32 MiB that they share, and 24 MiB that one of them has alone.
    const POOL: &str = r#"
import ctypes, multiprocessing, os, sys, threading
from multiprocessing import shared_memory
MIB = 1 << 20
heap = bytearray(96 * MIB)
heap[::4096] = b"x" * (96 * MIB // 4096)
block = shared_memory.SharedMemory(create=True, size=32 * MIB)
block.buf[:] = b"y" * (32 * MIB)
def begin():
    os.setsid()
    ctypes.CDLL(None).prctl(15, b"renamed) Z 1", 0, 0, 0)
def work(number):
    global own
    assert sum(heap[::4096]) and sum(block.buf[::4096])
    if number == 0:
        own = bytearray(24 * MIB)
        own[::4096] = b"z" * (24 * MIB // 4096)
    barrier.wait()
    return os.getpid()
context = multiprocessing.get_context("fork")
barrier = context.Barrier(4)
threads = [threading.Thread(target=lambda: threading.Event().wait(), daemon=True) for _ in range(3)]
pool = context.Pool(4, begin)
pids = pool.map(work, range(4), 1)
[thread.start() for thread in threads]
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "1000"])
    os._exit(0)
os.wait()
print(*pids, flush=True)
sys.stdin.readline()
pool.terminate()
block.unlink()
"#;

    fn a_pool_is_counted_once(with_cgroups: bool) {
        let mut service = python(with_cgroups, POOL);
        let workers = service.line();
        assert_eq!(workers.split(' ').collect::<BTreeSet<_>>().len(), 4);
        let exact = Needs { memory: Some(1), ..Needs::default() };
        let memory = look(&service, &exact).memory.unwrap();
        assert!(memory.is_exact);
        // Beside that each of the six interpreters has some MiB of its own.
        let least = (96 + 32 + 24) * MIB;
        assert!((least..least + 60 * MIB).contains(&memory.total()), "{memory:?}");
        assert!((32 * MIB..34 * MIB).contains(&memory.shared), "{memory:?}");
        let sample = look(&service, &Needs { memory: Some(u64::MAX), ..Needs::default() });
        let quick = sample.memory.unwrap();
        if let Some(processes) = sample.processes {
            // The main process, four workers, who looks after the shared memory, and the orphan.
            assert_eq!(processes, 7);
            assert!(!quick.is_exact && quick.total() > 5 * 96 * MIB, "{quick:?}");
        }
        assert!(quick.total() >= memory.total());
        service.tell("end");
        service.main.wait().unwrap();
    }

    #[test]
    fn a_pool_is_counted_once_with_cgroups() {
        a_pool_is_counted_once(true);
    }

    #[test]
    fn a_pool_is_counted_once_without_cgroups() {
        a_pool_is_counted_once(false);
    }

    /// Three children that end, one after the other, and a grandchild that stays: 250 ms of the processor each.
    const BUSY: &str = r#"
import os, sys, time
def burn():
    while time.process_time() < 0.25:
        pass
print("ready")
sys.stdin.readline()
for _ in range(3):
    if os.fork() == 0:
        burn()
        os._exit(0)
    os.wait()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        burn()
        print("done")
        sys.stdin.readline()
    os._exit(0)
os.wait()
sys.stdin.readline()
"#;

    fn ended_processes_count(with_cgroups: bool) {
        let mut service = python(with_cgroups, BUSY);
        service.line();
        let needs = Needs { cpu: BTreeMap::from([(3, Span::from_us(1))]), ..Needs::default() };
        let mut past = Past::default();
        let before = past.look(&service.tree, &needs).unwrap().cpu[&3];
        assert_eq!((before.used_us, before.is_whole), (0, false));
        service.tell("go");
        assert_eq!(service.line(), "done");
        let mean = past.look(&service.tree, &needs).unwrap().cpu[&3];
        // Without a cgroup in clock ticks of 10 ms, each process rounded down for itself.
        assert!(mean.used_us >= 900_000 && mean.is_whole, "{mean:?}");
        assert!(mean.used_us < 900_000 + mean.over_us, "{mean:?}");
    }

    #[test]
    fn ended_processes_count_with_cgroups() {
        ended_processes_count(true);
    }

    #[test]
    fn ended_processes_count_without_cgroups() {
        ended_processes_count(false);
    }

    /// A grandchild in a session of its own listens and has 300 files; the main process has 100.
    const FILES: &str = r#"
import os, socket, sys
names = sys.argv
keep = [open("/dev/null") for _ in range(100)]
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        keep += [open("/dev/null") for _ in range(200)]
        listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
        print(os.getpid(), listener.getsockname()[1])
        for line in sys.stdin:
            if line == "close\n":
                listener.close()
                print("closed")
    os._exit(0)
os.wait()
sys.stdin = None
os.pipe()
import signal
signal.pause()
"#;

    fn listening(with_cgroups: bool, before: &[&str], port: u16) -> (Service, i32, ListenAddress) {
        let port = port.to_string();
        let mut service = Service::start(with_cgroups, &[before, &["python3", "-u", "-c", FILES, &port]].concat());
        let line = service.line();
        let (pid, port) = line.split_once(' ').unwrap();
        (service, pid.parse().unwrap(), ListenAddress::Tcp(format!("127.0.0.1:{port}").parse().unwrap()))
    }

    fn descriptors_are_those_of_one_process(with_cgroups: bool) {
        let (mut service, pid, address) = listening(with_cgroups, &[], 0);
        let needs = Needs { open_files: true, listen: BTreeSet::from([address.clone()]), ..Needs::default() };
        let sample = look(&service, &needs);
        assert_eq!(sample.processes, Some(2));
        let most = sample.open_files.unwrap();
        assert!((300..330).contains(&most.count) && most.pid == pid && most.unreadable == 0, "{most:?}");
        assert_eq!(sample.listen[&address], Held::By(pid));
        // To somebody else it is somebody else's.
        let mut other = python(with_cgroups, "import sys; print(); sys.stdin.readline()");
        other.line();
        assert_eq!(look(&other, &needs).listen[&address], Held::ByOthers { unreadable: 0 });
        service.tell("close");
        assert_eq!(service.line(), "closed");
        assert_eq!(look(&service, &needs).listen[&address], Held::ByNobody);
    }

    #[test]
    fn descriptors_are_those_of_one_process_with_cgroups() {
        descriptors_are_those_of_one_process(true);
    }

    #[test]
    fn descriptors_are_those_of_one_process_without_cgroups() {
        descriptors_are_those_of_one_process(false);
    }

    mod needs_root {
        use super::*;

        /// The same port in two namespaces, of which only one counts.
        #[test]
        fn the_services_own_network_namespace_counts() {
            let here = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = here.local_addr().unwrap().port();
            let up = ["unshare", "--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"];
            let (service, pid, address) = listening(true, &up, port);
            let needs = Needs { listen: BTreeSet::from([address.clone()]), ..Needs::default() };
            assert_eq!(look(&service, &needs).listen[&address], Held::By(pid));
            let mut elsewhere = python(true, "import sys; print(); sys.stdin.readline()");
            elsewhere.line();
            assert_eq!(look(&elsewhere, &needs).listen[&address], Held::ByOthers { unreadable: 0 });
            drop(here);
            assert_eq!(
                look(&elsewhere, &needs).listen[&address],
                Held::ByNobody,
                "it listens in another namespace only"
            );
        }
    }
}

mod needs_nginx {
    use super::*;

    const CONFIG: &str = "daemon off; pid DIR/pid; worker_processes 3; events { worker_connections 64; }
        http { access_log off; client_body_temp_path DIR/1; proxy_temp_path DIR/2; fastcgi_temp_path DIR/3;
        uwsgi_temp_path DIR/4; scgi_temp_path DIR/5; limit_req_zone $uri zone=shared:40m rate=1r/s;
        server { listen unix:DIR/socket; } }";

    /// A master and three workers, which have its socket and its 40 MiB of shared memory.
    #[test]
    fn a_master_and_its_workers_are_one_service() {
        for with_cgroups in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().to_str().unwrap();
            std::fs::write(dir.path().join("conf"), CONFIG.replace("DIR", path)).unwrap();
            let conf = dir.path().join("conf");
            let script = "nginx \"$@\" -e stderr & until curl -s --unix-socket \"$SOCKET\" http://x/ >/dev/null; do :; done; echo up; wait";
            let socket = format!("SOCKET={path}/socket");
            let words = ["env", &socket, "sh", "-c", script, "sh", "-p", path, "-c", conf.to_str().unwrap()];
            let mut service = Service::start(with_cgroups, &words);
            assert_eq!(service.line(), "up");
            let address = ListenAddress::Unix(format!("{path}/socket"));
            let needs = Needs {
                memory: Some(1),
                cpu: BTreeMap::from([(0, Span::from_secs(60))]),
                open_files: true,
                listen: BTreeSet::from([address.clone()]),
            };
            let mut past = Past::default();
            let sample = past.look(&service.tree, &needs).unwrap();
            assert_eq!((sample.processes, past.looks), (Some(5), 1), "the shell, the master, three workers");
            let memory = sample.memory.unwrap();
            assert!(memory.is_exact && memory.shared < 48 << 20 && memory.total() < 96 << 20, "{memory:?}");
            let Held::By(holder) = sample.listen[&address] else { panic!("{:?}", sample.listen) };
            assert!(holder != service.pid() && sample.open_files.unwrap().count > 5);
            // Without its master the workers go on listening.
            let master: i32 = std::fs::read_to_string(dir.path().join("pid")).unwrap().trim().parse().unwrap();
            kill_process(Pid::from_raw(master).unwrap(), Signal::KILL).unwrap();
            while Handle::open(master).unwrap().is_some() {
                std::thread::yield_now();
            }
            let sample = past.look(&service.tree, &needs).unwrap();
            let Held::By(holder) = sample.listen[&address] else { panic!("{:?}", sample.listen) };
            assert_ne!(holder, master);
        }
    }
}

#[test]
fn who_ended_since_the_last_look_is_not_taken_for_who_came() {
    let script = "sleep 1000 & echo $!; read _; kill $!; wait; echo ended; read _; sleep 1000 & echo $!; read _";
    for with_cgroups in [true, false] {
        let mut service = Service::start(with_cgroups, &["sh", "-c", script]);
        let mut past = Past::default();
        let needs = Needs { open_files: true, ..Needs::default() };
        let mut look = |service: &Service| {
            let sample = past.look(&service.tree, &needs).unwrap();
            (sample.processes, past.known.iter().map(Handle::pid).collect::<BTreeSet<i32>>())
        };
        let first: i32 = service.line().parse().unwrap();
        let both = (Some(2), BTreeSet::from([service.pid(), first]));
        assert_eq!(look(&service), both, "with cgroups: {with_cgroups}");
        assert_eq!(look(&service), both, "with cgroups: {with_cgroups}");
        service.tell("end");
        assert_eq!(service.line(), "ended");
        assert_eq!(look(&service), (Some(1), BTreeSet::from([service.pid()])), "with cgroups: {with_cgroups}");
        service.tell("begin");
        let second: i32 = service.line().parse().unwrap();
        let both = (Some(2), BTreeSet::from([service.pid(), second]));
        assert_eq!(look(&service), both, "with cgroups: {with_cgroups}");
    }
}

#[test]
fn a_held_process_that_was_reaped_is_not_there() {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let handle = Handle::open(child.id().cast_signed()).unwrap().unwrap();
    assert!(handle.is_there());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!handle.is_there());
}
