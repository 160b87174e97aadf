//! A place on this machine for one test, the real `hale` in it, and waiting for what happens there.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Far above what a busy machine needs for anything here; reached only when the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Below the ports that the kernel gives to clients (ip(7), `ip_local_port_range`).
const FIRST_PORT: u16 = 18_000;

/// Python's own program file, behind whatever script stands in PATH for it.
pub fn python() -> String {
    let output = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Directories, an address and a pipe for reports that no other test has.
pub struct Place {
    directory: tempfile::TempDir,
    /// Of this process alone: the whole of 127.0.0.0/8 is this machine, and the last three numbers are the process id.
    pub address: SocketAddrV4,
    reports: Lines,
    read: Cell<usize>,
    /// What runs in front of `hale`, for another user.
    pub wrapper: Vec<String>,
    /// That is a stand-in for systemd, and `hale` is its child.
    under_init: bool,
}

impl Place {
    pub fn new() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(FIRST_PORT);
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let address = SocketAddrV4::new(Ipv4Addr::new(127, a, b, c), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::Builder::new().prefix("hale-e2e-").tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let pipe = directory.path().join("reports");
        assert!(Command::new("mkfifo").args(["-m", "666"]).arg(&pipe).status().unwrap().success());
        // Open for both: it neither waits for a writer nor ends when one is gone.
        let reports = Lines::follow(File::options().read(true).write(true).open(&pipe).unwrap());
        Self { directory, address, reports, read: Cell::new(0), wrapper: Vec::new(), under_init: false }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `@D` becomes the directory, `@A` the address, `@H` and `@P` its two halves.
    pub fn text(&self, template: &str) -> String {
        let address = self.address;
        template
            .replace("@D", &self.directory.path().display().to_string())
            .replace("@A", &address.to_string())
            .replace("@H", &address.ip().to_string())
            .replace("@P", &address.port().to_string())
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), self.text(text)).unwrap();
    }

    /// Starts `hale run` with these services. `host` stands in the table `[host]`.
    pub fn hale_with(&self, host: &str, services: &str) -> Hale<'_> {
        self.configure(host, services);
        self.hale_again()
    }

    /// Writes the configuration.
    pub fn configure(&self, host: &str, services: &str) {
        let own = "[host]\nstate_dir = \"@D/state\"\nruntime_dir = \"@D/run\"\nlog_dir = \"@D/log\"\n";
        self.write("hale.toml", &format!("{own}{host}\n{services}"));
    }

    pub fn hale(&self, services: &str) -> Hale<'_> {
        self.hale_with("", services)
    }

    /// `hale`, as the user of this place.
    pub fn command(&self) -> Command {
        // The stand-in for systemd starts Hale, and nothing else.
        let wrapper = if self.under_init { &[] } else { &self.wrapper[..] };
        self.command_behind(wrapper)
    }

    fn command_behind(&self, wrapper: &[String]) -> Command {
        let binary = match self.path("hale") {
            copied if copied.exists() => copied,
            _ => PathBuf::from(env!("CARGO_BIN_EXE_hale")),
        };
        let mut words = wrapper.iter().map(PathBuf::from).chain([binary]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env("HALE_CONFIG", self.path("hale.toml")).env_remove("NOTIFY_SOCKET");
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// Starts `hale run` with the configuration that is there.
    pub fn hale_again(&self) -> Hale<'_> {
        let mut command = self.command_behind(&self.wrapper);
        command.arg("run").arg(self.path("hale.toml"));
        self.start(command, false)
    }

    /// Starts `hale run` by a command that makes a pid namespace, and waits for process 1 of it.
    pub fn hale_as_process_1(&self, command: Command) -> Hale<'_> {
        self.start(command, true)
    }

    fn start(&self, mut command: Command, is_inner: bool) -> Hale<'_> {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = Lines::follow(child.stderr.take().unwrap());
        let outer = child.id().cast_signed();
        let mut guardian = (!is_inner).then_some(outer);
        let begin = Instant::now();
        while guardian.is_none() && begin.elapsed() < PATIENCE && child.try_wait().unwrap().is_none() {
            guardian = children(outer).first().copied();
        }
        Hale { place: self, child, guardian: guardian.unwrap_or(outer), lines, read: RefCell::default(), ended: false }
    }

    /// `hale ARGUMENTS` with this place's configuration.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// The same, and it must succeed.
    #[track_caller]
    pub fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "hale {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.done(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// What `hale status` says of one service.
    pub fn status(&self, service: &str) -> Value {
        self.json(&["status", service])["services"][0].clone()
    }

    /// Asks until it is so, for what nobody tells of; `Err` says how it is instead.
    #[track_caller]
    pub fn until(&self, is_so: impl Fn() -> Result<(), String>) {
        let begin = Instant::now();
        while let Err(how) = is_so() {
            assert!(begin.elapsed() < PATIENCE, "it is still so: {how}\n{}", self.everything());
        }
    }

    /// All incidents, oldest first.
    pub fn incidents(&self) -> Vec<Value> {
        let mut all = self.json(&["incidents"]).as_array().unwrap().clone();
        all.sort_by_key(|incident| incident["id"].as_u64());
        all
    }

    /// Causes and outcomes of all incidents of one service, oldest first.
    pub fn causes(&self, service: &str) -> Vec<(String, String)> {
        let text = |incident: &Value, key: &str| incident[key].as_str().unwrap().to_owned();
        let of_service = self.incidents().into_iter().filter(|incident| incident["service"] == service);
        of_service.map(|incident| (text(&incident, "cause"), text(&incident, "outcome"))).collect()
    }

    /// All records of the ledger about one service and of one kind, oldest first.
    pub fn records(&self, service: &str, kind: &str) -> Vec<Value> {
        let records = self.ledger();
        let wanted = |record: &Value| record["kind"] == kind && (service.is_empty() || record["service"] == service);
        records.into_iter().filter(wanted).collect()
    }

    /// All records of the ledger, oldest first.
    pub fn ledger(&self) -> Vec<Value> {
        let lines = self.done(&["ledger", "show", "--json"]);
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["rec"].clone()).collect()
    }

    /// The next report that contains `what`; those before it are passed over.
    #[track_caller]
    pub fn report(&self, what: &str) -> String {
        let found = self.reports.find(self.read.get(), |line| line.contains(what));
        let Some((at, line)) = found else {
            panic!("nobody reported {what:?}; reports:\n{}\n{}", self.reports.all().join("\n"), self.everything())
        };
        self.read.set(at + 1);
        line
    }

    /// Waits for one report of each, in whatever order they come.
    #[track_caller]
    pub fn reports(&self, all: &[&str]) {
        let from = self.read.get();
        let mut read = from;
        for what in all {
            self.read.set(from);
            self.report(what);
            read = read.max(self.read.get());
        }
        self.read.set(read);
    }

    /// All reports so far.
    pub fn reported(&self) -> Vec<String> {
        self.reports.all()
    }

    /// Everything that one service wrote, markers included, oldest first.
    pub fn log(&self, service: &str) -> String {
        let Ok(entries) = fs::read_dir(self.path("log").join(service)) else { return String::new() };
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        // `@` sorts before `current`.
        files.sort();
        files.iter().map(|file| String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned()).collect()
    }

    /// Lets the stand-in for systemd start Hale again.
    pub fn open_gate(&self) {
        fs::write(self.path("gate"), "go").unwrap();
    }

    fn instance(&self) -> String {
        hale_daemon::execute::tree::instance(&self.path("run"))
    }

    /// The processes of this place's services: by the tag in their environment and by their cgroups.
    pub fn living(&self) -> Vec<i32> {
        let tag = format!("HALE_SERVICE={}:", self.instance());
        let tagged = |environment: Vec<u8>| environment.split(|&byte| byte == 0).any(|v| v.starts_with(tag.as_bytes()));
        let group = format!("/hale-{}/", self.instance());
        let is_ours = |pid: &i32| {
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(tagged)
                || (fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(&group))
                    && !is_exiting(*pid))
        };
        pids().into_iter().filter(is_ours).collect()
    }

    /// Nothing of this Hale is left: no service, no process of its own, no cgroup.
    #[track_caller]
    pub fn assert_nobody_left(&self) {
        let describe = |pid: &i32| format!("{pid}: {}", words(*pid).join(" "));
        let services: Vec<String> = self.living().iter().map(describe).collect();
        assert!(services.is_empty(), "still there: {services:?}");
        let directory = self.directory.path().display().to_string();
        let own = |pid: &i32| {
            let words = words(*pid);
            words.first().is_some_and(|word| word == "hale") && words.iter().any(|word| word.contains(&directory))
        };
        let own: Vec<String> = pids().iter().filter(|pid| own(pid)).map(describe).collect();
        assert!(own.is_empty(), "still there: {own:?}");
        let group = format!("hale-{}", self.instance());
        let groups = own_cgroup().into_iter().map(|parent| parent.join(&group)).filter(|group| group.exists());
        assert_eq!(groups.count(), 0, "its cgroup is still there");
    }

    /// For the message of a test that failed.
    fn everything(&self) -> String {
        let ledger = self.run(&["ledger", "show"]);
        let ledger = [ledger.stdout, ledger.stderr].concat();
        let mut text = format!("--- ledger\n{}", String::from_utf8_lossy(&ledger));
        for service in fs::read_dir(self.path("log")).into_iter().flatten().flatten() {
            let name = service.file_name().to_string_lossy().into_owned();
            let log = self.log(&name);
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            text.push_str(&format!("--- last output of {name}\n"));
            tail.iter().rev().for_each(|line| text.push_str(&format!("{line}\n")));
        }
        text
    }
}

/// One `hale run`.
pub struct Hale<'a> {
    pub place: &'a Place,
    child: Child,
    guardian: i32,
    lines: Lines,
    /// How many lines each service's waits have passed over.
    read: RefCell<BTreeMap<String, usize>>,
    ended: bool,
}

impl<'a> Hale<'a> {
    /// The guardian's process id, as soon as there is one.
    #[track_caller]
    pub fn guardian(&self) -> i32 {
        if self.place.under_init { self.own("guardian", self.guardian) } else { self.guardian }
    }

    /// The keeper's, as soon as there is one.
    #[track_caller]
    pub fn keeper(&self) -> i32 {
        self.own("keeper", self.guardian())
    }

    /// The supervisor's, as soon as there is one.
    #[track_caller]
    pub fn supervisor(&self) -> i32 {
        self.own("supervisor", self.guardian())
    }

    #[track_caller]
    fn own(&self, part: &str, parent: i32) -> i32 {
        let is_it = |pid: &i32| words(*pid).get(1).is_some_and(|word| word == part) && !is_zombie(*pid);
        let begin = Instant::now();
        loop {
            if let Some(pid) = children(parent).into_iter().find(is_it) {
                return pid;
            }
            assert!(begin.elapsed() < PATIENCE, "there is no {part}");
            std::thread::yield_now();
        }
    }

    /// The next line that Hale prints about `service` and that contains `what`; those before it are passed over.
    #[track_caller]
    pub fn event(&self, service: &str, what: &str) -> String {
        let from = self.read.borrow().get(service).copied().unwrap_or(0);
        let about = format!(" {service}: ");
        let is_it = |line: &str| line.split_once(&about).is_some_and(|(_, said)| said.contains(what));
        let Some((at, line)) = self.lines.find(from, is_it) else {
            panic!("{service}: {what:?} did not happen");
        };
        self.read.borrow_mut().insert(service.to_owned(), at + 1);
        line
    }

    /// The pid of the next process of `service`.
    #[track_caller]
    pub fn started(&self, service: &str) -> i32 {
        let line = self.event(service, "started pid ");
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until `service` is ready, and gives the pid.
    #[track_caller]
    pub fn ready(&self, service: &str) -> i32 {
        let pid = self.started(service);
        self.event(service, "ready: ");
        pid
    }

    /// Waits for a line about Hale itself.
    #[track_caller]
    pub fn says(&self, what: &str) -> String {
        self.lines.find(0, |line| line.contains(what)).unwrap_or_else(|| panic!("Hale did not say {what:?}")).1
    }

    /// All lines so far.
    pub fn said(&self) -> Vec<String> {
        self.lines.all()
    }

    /// Sends a signal to the guardian.
    pub fn signal(&self, signal: Signal) {
        send(self.guardian(), signal);
    }

    /// Waits for its end, and gives the exit code.
    #[track_caller]
    pub fn wait(&mut self) -> Option<i32> {
        self.wait_status().code()
    }

    /// The same, with the signal that ended it.
    #[track_caller]
    pub fn wait_status(&mut self) -> ExitStatus {
        await_end(self.child.id().cast_signed());
        self.ended = true;
        self.child.wait().unwrap()
    }

    /// Kills guardian, supervisor and keeper at once, as nothing in Hale can: none of them sees another one end.
    #[track_caller]
    pub fn kill_all(mut self) {
        let own = [self.supervisor(), self.keeper(), self.guardian()];
        for signal in [Signal::STOP, Signal::KILL] {
            own.iter().for_each(|&pid| send(pid, signal));
        }
        self.wait();
        own.iter().for_each(|&pid| await_end(pid));
    }

    /// Ends it in order: nothing is left, and the ledger is whole.
    #[track_caller]
    pub fn stop(self) -> Afterwards<'a> {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// As after [`stop`](Self::stop), of one that was told to end.
    #[track_caller]
    pub fn ended(mut self) -> Afterwards<'a> {
        assert_eq!(self.wait(), Some(0));
        self.place.assert_nobody_left();
        self.place.done(&["ledger", "verify"]);
        Afterwards { place: self.place, said: self.said() }
    }
}

/// What a Hale that ended has said, for a test that fails while it has this.
pub struct Afterwards<'a> {
    place: &'a Place,
    said: Vec<String>,
}

impl Drop for Afterwards<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- hale\n{}\n{}", self.said.join("\n"), self.place.everything());
        }
    }
}

impl Drop for Hale<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- hale\n{}\n{}", self.lines.all().join("\n"), self.place.everything());
            eprintln!("--- reports\n{}", self.place.reported().join("\n"));
        }
        if !self.ended {
            let mut own = children(self.child.id().cast_signed());
            own.extend(own.clone().into_iter().flat_map(children));
            let _ = self.child.kill();
            let _ = self.child.wait();
            for pid in own.into_iter().chain(self.place.living()) {
                send(pid, Signal::KILL);
            }
        }
    }
}

/// Lines as they come, followed by a thread.
#[derive(Clone, Default)]
struct Lines(Arc<(Mutex<Followed>, Condvar)>);

#[derive(Default)]
struct Followed {
    lines: Vec<String>,
    over: bool,
}

impl Lines {
    fn follow(from: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let shared = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                shared.lock().lines.push(String::from_utf8_lossy(&line).into_owned());
                shared.0.1.notify_all();
            }
            shared.lock().over = true;
            shared.0.1.notify_all();
        });
        lines
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Followed> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first line from `from` on that `is_it`, once it is there; `None` when it never comes.
    fn find(&self, mut from: usize, is_it: impl Fn(&str) -> bool) -> Option<(usize, String)> {
        let until = Instant::now() + PATIENCE;
        let mut followed = self.lock();
        loop {
            if let Some(found) = followed.lines[from..].iter().position(|line| is_it(line)) {
                return Some((from + found, followed.lines[from + found].clone()));
            }
            from = followed.lines.len();
            let left = until.saturating_duration_since(Instant::now());
            if followed.over || left.is_zero() {
                return None;
            }
            followed = self.0.1.wait_timeout(followed, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn all(&self) -> Vec<String> {
        self.lock().lines.clone()
    }
}

/// The answer's head and body; `None` when there is none.
pub fn http(address: SocketAddrV4, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address.into(), PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: e2e\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

/// Asks and does not wait for the answer: there may never be one.
pub fn poke(address: SocketAddrV4, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect_timeout(&address.into(), PATIENCE).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: e2e\r\nConnection: close\r\n\r\n").unwrap();
    stream
}

/// Sends a signal to a process, if it is there.
pub fn send(pid: i32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

/// Waits until a process has ended, whoever reaps it.
#[track_caller]
pub fn await_end(pid: i32) {
    let Ok(pidfd) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) else { return };
    let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience)).unwrap();
    assert_eq!(ended, 1, "pid {pid} did not end: {}", words(pid).join(" "));
}

pub fn is_alive(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists() && !is_zombie(pid)
}

/// Whether it is one of Hale's own processes.
pub fn is_own(pid: i32) -> bool {
    words(pid).first().is_some_and(|word| word == "hale")
}

pub fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" Z"))
}

/// Whether it has left its cgroup for good, or is about to: the kernel says that a group is empty a moment before the last of its
/// processes are zombies (`PF_EXITING`, include/linux/sched.h; field 9 of proc_pid_stat(5)).
fn is_exiting(pid: i32) -> bool {
    const PF_EXITING: u32 = 0x4;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let flags = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(6)?.parse::<u32>().ok());
    flags.is_none_or(|flags| flags & PF_EXITING != 0)
}

/// The command line of a process.
pub fn words(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn pids() -> Vec<i32> {
    let names = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.parse().ok()).collect()
}

/// The children of a process with one thread.
pub fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// The directory of this process's cgroup v2.
pub fn own_cgroup() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?.to_owned();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    Some(Path::new(&mount).join(groups.lines().find_map(|line| line.strip_prefix("0::/"))?))
}

/// Set in a test that was started again in other surroundings.
pub const INSIDE: &str = "HALE_TEST_INSIDE";

/// Runs `test`, which is the caller's full name, once more behind the words of `wrapper`, and fails if that fails. Says
/// whether this is that run.
#[track_caller]
pub fn rerun(test: &str, wrapper: &[&str]) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    let output = command.env(INSIDE, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    false
}

/// Lets Hale run as a user who may write no cgroup, with a copy of the program where that user can reach it.
pub fn as_nobody(place: &mut Place) {
    const NOBODY: u32 = 65_534;
    fs::copy(env!("CARGO_BIN_EXE_hale"), place.path("hale")).unwrap();
    std::os::unix::fs::chown(place.directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let ids = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"];
    place.wrapper = ["setpriv"].into_iter().chain(ids).map(str::to_owned).collect();
}

/// Keeps descriptors and starts `hale` again as systemd does (sd_notify(3), FileDescriptorStoreMax=), reaps orphans, and
/// ends with it when it ended in order. Before it starts it again it waits until somebody has written to the pipe `gate`.
const INIT: &str = r#"
import array, ctypes, os, select, signal, socket, sys
directory, command = sys.argv[1], sys.argv[2:]
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
path = os.path.join(directory, "init.sock")
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(path)
notify.setblocking(False)
store = []
def report(text):
    with open(os.path.join(directory, "reports"), "w") as reports:
        reports.write(text + "\n")
def hear():
    while True:
        try:
            message, fds, _, _ = socket.recv_fds(notify, 4096, 16)
        except BlockingIOError:
            return
        fields = dict(line.split("=", 1) for line in message.decode().splitlines())
        name = fields.get("FDNAME", "stored")
        if fields.get("FDSTOREREMOVE") == "1":
            for entry in [entry for entry in store if entry[0] == name]:
                store.remove(entry)
                os.close(entry[1])
        elif fields.get("FDSTORE") == "1":
            assert fields["FDPOLL"] == "0"
            store.extend((name, fd) for fd in fds)
        elif "READY" in fields or "STOPPING" in fields:
            report(f"init: {message.decode()}")
def start():
    pid = os.fork()
    if pid:
        return pid
    high = [os.dup(fd) for _, fd in store]
    while high and min(high) < 3 + len(store):
        high = [os.dup(fd) for fd in high]
    for number, fd in enumerate(high):
        os.dup2(fd, 3 + number, inheritable=True)
    os.closerange(3 + len(high), 4096)
    environment = dict(os.environ, NOTIFY_SOCKET=path, SYSTEMD_EXEC_PID=str(os.getpid()))
    if high:
        environment.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=":".join(name for name, _ in store))
    os.execvpe(command[0], command, environment)
woken, wakes = os.pipe()
os.set_blocking(wakes, False)
signal.set_wakeup_fd(wakes)
signal.signal(signal.SIGCHLD, lambda *_: None)
main = start()
while True:
    select.select([notify, woken], [], [])
    ready = select.select([woken], [], [], 0)[0]
    if ready:
        os.read(woken, 4096)
    hear()
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            pid = 0
        if pid == 0:
            break
        if pid != main:
            continue
        hear()
        if os.WIFEXITED(status):
            report(f"init: the end, {len(store)} kept: {' '.join(name for name, _ in store if name == 'hale.began')}")
            sys.exit(os.WEXITSTATUS(status))
        report(f"init: lost, {len(store)} kept")
        open(os.path.join(directory, "gate")).read()
        main = start()
"#;

/// Puts a stand-in for systemd in front of Hale.
pub fn under_init(place: &mut Place) {
    place.write("init.py", INIT);
    assert!(Command::new("mkfifo").arg(place.path("gate")).status().unwrap().success());
    place.wrapper = vec![python(), place.text("@D/init.py"), place.text("@D")];
    place.under_init = true;
}
