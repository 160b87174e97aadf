//! Services that mean harm: by their output, by their notify socket, by their processes. They hurt themselves alone.

mod needs_python {
    use crate::harness::{Place, is_alive, python, send};
    use crate::innocent::{Innocent, innocent};
    use rustix::process::Signal;
    use std::fs;
    use std::process::{Command, Stdio};

    const MIB: u64 = 1 << 20;

    /// In front of each program: `report(text)`, and `say(bytes)` for a notify socket.
    const BEGIN: &str = r#"
import array, os, signal, socket, sys, time
def report(text):
    with open("@D/reports", "w") as reports:
        reports.write(text + "\n")
def say(message, fds=[], to=os.environ.get("NOTIFY_SOCKET")):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sender.sendmsg([message], rights, 0, to)
"#;

    /// The service `evil`, which is this program, with its keys behind it.
    fn evil(place: &Place, program: &str, more: &str) -> String {
        place.write("evil.py", &format!("{BEGIN}{program}"));
        let python = python();
        format!(
            "{}[service.evil]\ncommand = [\"{python}\", \"@D/evil.py\"]\nstop.grace = \"200ms\"\n{more}\n",
            innocent(place)
        )
    }

    /// Waits for a report, and looks at Hale meanwhile.
    #[track_caller]
    fn report_under(place: &Place, innocent: &Innocent<'_, '_>, what: &str) {
        place.until(|| {
            innocent.look();
            place.reported().iter().any(|line| line.contains(what)).then_some(()).ok_or(format!("no report {what:?}"))
        });
    }

    /// The sizes of all files of a service's log.
    fn log_sizes(place: &Place, service: &str) -> Vec<u64> {
        let files = fs::read_dir(place.path("log").join(service)).into_iter().flatten().flatten();
        // One may be renamed just now.
        files.filter_map(|file| Some(file.metadata().ok()?.len())).collect()
    }

    #[test]
    fn a_flood_of_output_is_dropped_and_its_disk_is_bounded() {
        const FLOOD: u64 = 256 * MIB;
        const KEPT_FILES: usize = 2;
        let place = Place::new();
        let hale = place.hale(&evil(
            &place,
            &format!(
                r#"
if os.path.exists("@D/flooded"):
    report("second")
    time.sleep(100_000)
open("@D/flooded", "w").close()
block = b"all work and no play\n" * 3000
left = {FLOOD}
while left:
    left -= os.write(1, block[:left])
print("\nthe last words", flush=True)
report("flooded")
sys.exit(3)
"#
            ),
            "log = { max_size = \"1MiB\", keep = 2, rate = \"1MiB/s\" }",
        ));
        let innocent = Innocent::ready(&hale);
        hale.event("evil", "dropped ");
        place.until(|| {
            innocent.look();
            let sizes = log_sizes(&place, "evil");
            // One is about to be removed when the next one is made, and two may have changed their names while they were listed.
            assert!(sizes.len() <= KEPT_FILES + 4 && sizes.iter().all(|&size| size <= MIB), "{sizes:?}");
            place.reported().iter().any(|line| line == "flooded").then_some(()).ok_or("it floods".to_owned())
        });
        hale.event("evil", "detected: the process exited with status 3");
        place.report("second");
        innocent.assert_unharmed();
        // Where something was dropped, the lines about its processes come when that is over.
        place.until(|| {
            let logs = place.done(&["logs", "evil", "-n", "20"]);
            let is_there = ["\nhale: epoch 1, pid ", "\nhale: epoch 2, pid "].iter().all(|what| logs.contains(what));
            is_there.then_some(()).ok_or(logs)
        });
        assert!(place.done(&["logs", "evil", "-n", "100000"]).contains("\nhale: dropped "));
        let incident = place.done(&["incident"]);
        assert!(incident.contains("detected: the process exited with status 3"), "{incident}");
        // It is over for ten seconds.
        hale.event("evil", "dropped ");
        hale.stop();
        let dropped = place.records("evil", "output_dropped").iter().map(|r| r["bytes"].as_u64().unwrap()).sum::<u64>();
        assert!(dropped > FLOOD / 2 && dropped < FLOOD + 100, "{dropped}");
    }

    /// What `hale ARGUMENTS` writes to a terminal.
    fn on_terminal(place: &Place, arguments: &[&str]) -> String {
        let program = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
        let mut command = Command::new(python());
        command.args(["-c", program, env!("CARGO_BIN_EXE_hale")]).args(arguments).stdin(Stdio::null());
        let output = command.env("HALE_CONFIG", place.path("hale.toml")).env_remove("NO_COLOR").output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stdout).expect("all of it is UTF-8")
    }

    /// Nothing that a terminal would obey, but for Hale's own colours.
    #[track_caller]
    fn assert_harmless(text: &str) {
        let colours = ["32", "33", "31", "2", "0"].map(|code| format!("\u{1b}[{code}m"));
        let plain = colours.iter().fold(text.replace("\r\n", "\n"), |text, colour| text.replace(colour, ""));
        let is_obeyed = |c: char| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}';
        let at = plain.char_indices().find(|(_, c)| is_obeyed(*c));
        assert_eq!(at, None, "{}", plain.escape_debug().take(2_000).collect::<String>());
    }

    #[test]
    fn what_it_says_does_nothing_to_a_terminal() {
        let place = Place::new();
        let program = r#"
evil = b"title \x1b]0;owned\x07 clear \x1b[2J\x1b[H up \x1b[1A\r nul \x00 bad \xff\xfe\xc3 C1 \xc2\x9b2J turned \xe2\x80\xae bell \x07"
first = not os.path.exists("@D/second")
open("@D/second", "w").close()
os.write(1, evil + b"\n")
say(b"STATUS=" + evil)
if first:
    long = b"x" * 10_000_000
    while long:
        long = long[os.write(1, long):]
    os.write(2, b"\n" + evil)
    say(b"READY=1")
    sys.exit(1)
say(b"READY=1")
time.sleep(100_000)
"#;
        let hale = place.hale(&evil(&place, program, "start.ready = \"notify\""));
        let innocent = Innocent::ready(&hale);
        hale.event("evil", "detected: the process exited with status 1");
        hale.event("evil", "recovered in");
        place.until(|| {
            let status = place.status("evil")["status_text"].to_string();
            status.contains("title").then_some(()).ok_or(status)
        });
        let logs = on_terminal(&place, &["logs", "evil", "-n", "100"]);
        assert!(logs.contains("title \\u{1b}]0;owned\\u{7}") && logs.contains(&"x".repeat(10_000_000)));
        assert_harmless(&logs);
        let status = on_terminal(&place, &["status", "evil"]);
        assert!(status.contains("says \"title \\u{1b}]0;owned\\u{7}"), "{status}");
        assert_harmless(&status);
        let incident = on_terminal(&place, &["incident"]);
        assert!(incident.contains("  | ") && incident.contains("title \\u{1b}]0;owned\\u{7}"), "{incident}");
        assert_harmless(&incident);
        for arguments in [&["status"][..], &["incidents"], &["ledger", "show"]] {
            assert_harmless(&on_terminal(&place, arguments));
        }
        // For programs it is what JSON makes of it: no byte is lost or obeyed.
        let last = place.json(&["incident"])["output"].to_string();
        assert_harmless(&last);
        innocent.assert_unharmed();
        assert_harmless(&hale.said().join("\n"));
        hale.stop();
    }

    const NOTIFY: &str = "start.ready = \"notify\"\nrestart.crash_loop = false";

    #[test]
    fn its_notify_socket_takes_all_that_it_sends_and_keeps_little() {
        let place = Place::new();
        let program = r#"
say(b"READY=1")
# Longer than is read, and longer than the kernel takes.
for length in (8193, 100_000, 150_000, 10_000_000):
    try:
        say(b"STATUS=" + b"x" * length)
    except OSError as error:
        report(f"{length}: {error}")
for garbage in (b"", b"\n" * 8000, b"=" * 8000, b"\0" * 8000, os.urandom(8000), b"READY", b"WATCHDOG_USEC=-1", b"MAINPID=1",
                b"EXTEND_TIMEOUT_USEC=" + b"9" * 7000, b"STATUS=\xff\xfe", b"FDSTORE=1", b"FDSTOREREMOVE=1", b"A=1\n" * 2000):
    say(garbage)
sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sender.connect(os.environ["NOTIFY_SOCKET"])
for number in range(100_000):
    sender.send(b"READY=1\nWATCHDOG=1\nSTATUS=%d" % number)
report("sent")
pipe = os.pipe()
fds = [pipe[0]] * 253
for number in range(400):
    say((b"FDSTORE=1\nFDNAME=n%d" % number) if number % 2 else b"X=1", fds)
report("passed")
say(b"STATUS=all said")
time.sleep(100_000)
"#;
        let hale = place.hale(&evil(&place, program, NOTIFY));
        let innocent = Innocent::ready(&hale);
        hale.ready("evil");
        report_under(&place, &innocent, "sent");
        report_under(&place, &innocent, "passed");
        place.until(|| {
            let status = place.status("evil");
            (status["status_text"] == "all said").then_some(()).ok_or(status.to_string())
        });
        innocent.assert_unharmed();
        let stored = place.status("evil")["stored"].as_array().unwrap().len();
        assert!((1..=32).contains(&stored), "{stored}");
        hale.stop();
        assert!(place.reported().iter().any(|line| line.starts_with("10000000: ")), "the kernel took all of it");
        assert_eq!(place.causes("evil"), []);
    }

    /// What it leaves goes to the guardian, by the queue in which the orders for all others are.
    #[test]
    fn what_it_sends_does_not_pile_up_while_the_guardian_is_behind() {
        let place = Place::new();
        let program = r#"
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
say(b"READY=1")
signal.sigwait([signal.SIGUSR1])
pipe = os.pipe()
for number in range(100):
    say(b"FDSTORE=1", [pipe[0]] * 253)
report("passed")
time.sleep(100_000)
"#;
        let hale = place.hale(&evil(&place, program, NOTIFY));
        let innocent = Innocent::ready(&hale);
        let pid = hale.ready("evil");
        hale.signal(Signal::STOP);
        send(pid, Signal::USR1);
        report_under(&place, &innocent, "passed");
        hale.signal(Signal::CONT);
        innocent.assert_unharmed();
        hale.stop();
    }

    /// supervision.md, section 2: a pid that a service writes is not a pid of the service.
    #[test]
    fn a_main_process_that_is_not_its_own_is_not_taken_nor_killed() {
        let place = Place::new();
        let mut bystander = Command::new("sleep").arg("1000").spawn().unwrap();
        let program = format!(
            "say(b'MAINPID=1')\nsay(b'MAINPID={}\\nSTATUS=owned')\nsay(b'MAINPID=0')\nsay(b'MAINPID=-1')\n\
             say(b'MAINPID=@G')\nsay(b'READY=1')\ntime.sleep(100_000)\n",
            bystander.id()
        );
        let hale = place.hale(&evil(&place, &program.replace("@G", &std::process::id().to_string()), NOTIFY));
        let innocent = Innocent::ready(&hale);
        let pid = hale.ready("evil");
        assert_eq!(place.status("evil")["pid"], pid);
        place.done(&["restart", "evil"]);
        assert_ne!(hale.ready("evil"), pid);
        assert!(!is_alive(pid));
        place.done(&["stop", "evil"]);
        innocent.assert_unharmed();
        hale.stop();
        assert_eq!(bystander.try_wait().unwrap(), None, "Hale killed a process that was never its own");
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    }

    /// Nothing of `evil`'s tree is there any more, though Hale and the others are.
    #[track_caller]
    fn assert_evil_is_gone(place: &Place, innocent: &Innocent<'_, '_>) {
        let mut living = place.living();
        living.retain(|pid| !innocent.is(*pid));
        assert!(living.is_empty(), "{living:?}");
    }

    #[test]
    fn thousands_of_descriptors_are_its_own_matter() {
        let place = Place::new();
        let program = r#"
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
hard = hard if 0 < hard < 30_000 else 30_000
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
server = socket.create_server(("@H", @P))
first = not os.path.exists("@D/second")
open("@D/second", "w").close()
while True:
    peer, _ = server.accept()
    peer.recv(4096)
    peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    peer.close()
    if first:
        break
kept = [socket.socketpair() for _ in range(2_000)] + [socket.create_connection(("@H", @P)) for _ in range(100)]
try:
    while True:
        kept.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    os.close(kept.pop())
    report(f"{error}: has {len(kept) + 2_000} of {hard}")
time.sleep(100_000)
"#;
        let check = "[[service.evil.check]]\nkind = \"http\"\nurl = \"http://@A/\"\nevery = \"100ms\"\nfailures = 2\n\
                     [[service.evil.check]]\nkind = \"open_files\"\nbelow = 1000000\nevery = \"100ms\"\n";
        let hale = place.hale(&evil(&place, program, check));
        let innocent = Innocent::ready(&hale);
        hale.ready("evil");
        println!("{}", place.report("has "));
        hale.event("evil", "detected: check http failed 2 times");
        hale.event("evil", "found what it was doing: ");
        hale.event("evil", "recovered in");
        innocent.assert_unharmed();
        hale.stop();
    }

    /// Who may ask and says nothing keeps nobody from asking, and nobody from being healed.
    #[test]
    fn thousands_of_silent_clients_hold_up_nobody() {
        let place = Place::new();
        let program = r#"
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
kept = []
def ask(name):
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)
    try:
        client.connect("@D/run/" + name)
        kept.append(client)
    except BlockingIOError:
        # The queue is full.
        pass
if not os.path.exists("@D/second"):
    open("@D/second", "w").close()
    for name in ("read.sock", "control.sock"):
        for _ in range(1_000):
            ask(name)
    report(f"{len(kept)} wait")
time.sleep(100_000)
"#;
        let hale = place.hale(&evil(&place, program, ""));
        let innocent = Innocent::ready(&hale);
        let pid = hale.ready("evil");
        println!("{}", place.report(" wait"));
        assert!(place.done(&["status"]).contains("evil "));
        innocent.assert_asked();
        send(pid, Signal::KILL);
        hale.event("evil", "recovered in");
        innocent.assert_unharmed();
        hale.stop();
    }

    #[test]
    fn a_directory_that_it_removes_under_itself_is_a_start_that_fails_and_is_told() {
        let place = Place::new();
        fs::create_dir(place.path("home")).unwrap();
        let program = "os.rmdir('@D/home')\nreport('removed')\nsys.exit(1)\n";
        let hale = place.hale(&evil(&place, program, "directory = \"@D/home\"\nrestart.crash_loop = false"));
        let innocent = Innocent::ready(&hale);
        place.report("removed");
        hale.event("evil", "detected: the process exited with status 1");
        let told = hale.event("evil", "detected: ");
        assert!(told.contains("No such file or directory") && told.contains("/home"), "{told}");
        innocent.assert_unharmed();
        fs::create_dir(place.path("home")).unwrap();
        hale.event("evil", "detected: the process exited with status 1");
        hale.stop();
    }

    /// 2,000 children that nobody waits for and that leave one orphan each: a tenth of these ends only when somebody ends it.
    const STORM: &str = r#"
import resource
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def stray(number):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            if number % 10:
                os._exit(0)
            os.closerange(3, 1024)
            while True:
                signal.pause()
        os._exit(0)
for number in range(2_000):
    stray(number)
report("stormed")
while True:
    signal.pause()
"#;

    #[test]
    fn a_storm_of_forks_leaves_nobody_behind() {
        let place = Place::new();
        let hale = place.hale(&evil(&place, STORM, ""));
        let innocent = Innocent::ready(&hale);
        hale.started("evil");
        report_under(&place, &innocent, "stormed");
        let strays = place.living().len();
        assert!(strays > 200, "{strays}");
        place.done(&["stop", "evil"]);
        assert_evil_is_gone(&place, &innocent);
        innocent.assert_unharmed();
        hale.stop();
    }

    mod needs_cgroup2 {
        use super::*;
        use std::os::unix::net::UnixDatagram;

        /// Four chains of processes, each of which leaves its session, makes the next one and ends. Halfway they clear their
        /// environment. Whoever goes through a list of them is late; in a minute and a half they end by themselves.
        const RUNNERS: &str = r#"
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
for _ in range(4):
    if os.fork() == 0:
        for _ in range(20):
            os.setsid()
            if os.fork():
                os._exit(0)
        os.closerange(0, 1024)
        os.execve("@PYTHON", ["python3", "@D/run.py"], {})
while True:
    signal.pause()
"#;

        const RUN: &str = r#"
import os, time
with open("@D/reports", "w") as reports:
    reports.write("runs\n")
begin = time.monotonic()
while time.monotonic() < begin + 90:
    if os.fork():
        os._exit(0)
    os.setsid()
"#;

        #[test]
        fn what_forks_and_runs_away_is_caught() {
            let place = Place::new();
            place.write("run.py", RUN);
            let hale = place.hale(&evil(&place, &RUNNERS.replace("@PYTHON", &python()), ""));
            let innocent = Innocent::ready(&hale);
            hale.started("evil");
            place.reports(&["runs"; 4]);
            place.done(&["stop", "evil"]);
            assert_evil_is_gone(&place, &innocent);
            innocent.assert_unharmed();
            hale.stop();
        }

        /// What is forged, by who may write to any socket of this machine.
        const FORGED: [&str; 4] =
            ["READY=1\nSTATUS=owned", "STOPPING=1\nFDSTORE=1", "WATCHDOG=trigger", "WATCHDOG_USEC=1"];

        /// Says each word when it is asked to.
        const VICTIM: &str = r#"
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
report("the victim waits")
for word in (b"STATUS=mine", b"READY=1\nWATCHDOG=1", b"STATUS=still mine"):
    signal.sigwait([signal.SIGUSR1])
    say(word)
time.sleep(100_000)
"#;

        const FORGER: &str = r#"
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
while True:
    report("the forger waits")
    signal.sigwait([signal.SIGUSR1])
    for word in (@WORDS):
        say(word.encode(), fds=[0], to="@D/run/notify/victim")
"#;

        /// Neither a neighbour nor a process that is nobody's is heard on the socket of another service.
        #[test]
        fn nobody_speaks_for_another_service() {
            let place = Place::new();
            place.write("victim.py", &format!("{BEGIN}{VICTIM}"));
            let words = FORGED.map(|word| format!("{word:?}")).join(", ");
            let victim = "[service.victim]\ncommand = [\"@PYTHON\", \"@D/victim.py\"]\n\
                          start = { ready = \"notify\", within = \"1h\" }\n\
                          [[service.victim.check]]\nkind = \"heartbeat\"\nwithin = \"1h\"\n";
            let victim = victim.replace("@PYTHON", &python());
            let services = format!("{}{victim}", evil(&place, &FORGER.replace("@WORDS", &words), ""));
            let hale = place.hale(&services);
            let innocent = Innocent::ready(&hale);
            let (forger, pid) = (hale.ready("evil"), hale.started("victim"));
            place.reports(&["the victim waits", "the forger waits"]);
            let forge = || {
                send(forger, Signal::USR1);
                place.report("the forger waits");
                let stranger = UnixDatagram::unbound().unwrap();
                for word in FORGED {
                    stranger.send_to(word.as_bytes(), place.path("run/notify/victim")).unwrap();
                }
            };
            // What it says itself comes after what was forged.
            let says = |text: &str, state: &str| {
                send(pid, Signal::USR1);
                place.until(|| {
                    let status = place.status("victim");
                    (status["status_text"] == text).then_some(()).ok_or(status.to_string())
                });
                let status = place.status("victim");
                assert_eq!((&status["state"], &status["pid"]), (&state.into(), &pid.into()), "{status}");
                assert_eq!(status["stored"], serde_json::json!([]), "{status}");
            };
            forge();
            says("mine", "starting");
            send(pid, Signal::USR1);
            hale.event("victim", "ready: it said READY=1");
            forge();
            says("still mine", "healthy");
            innocent.assert_unharmed();
            hale.stop();
            assert_eq!(place.causes("victim"), []);
        }
    }
}
