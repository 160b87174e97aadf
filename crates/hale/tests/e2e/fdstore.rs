//! Descriptors that a service leaves with Hale, as it would with systemd (`FDSTORE=1`, sd_notify(3)), and that its next
//! process gets back.

use crate::harness::{Hale, PATIENCE, Place, await_end, python, send, under_init};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// What every one of these programs begins with: the notify socket, and what was passed, by name.
const LIBRARY: &str = r#"
import os, signal, socket, struct
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect(os.environ["NOTIFY_SOCKET"])
def say(text, fds=()):
    socket.send_fds(notify, [text.encode()], fds)
def barrier():
    reading, writing = os.pipe()
    say("BARRIER=1", [writing])
    os.close(writing)
    assert os.read(reading, 1) == b""
def report(text):
    with open("@D/reports", "w") as reports:
        reports.write(text + "\n")
def slow_to_close():
    """A connection whose last close waits an hour for a peer that does not read (SO_LINGER, socket(7))."""
    slow = socket.create_connection(("@H", @P))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    slow.setblocking(False)
    try:
        while True:
            slow.send(bytes(65536))
    except BlockingIOError:
        return slow
passed = []
if os.environ.get("LISTEN_PID") == str(os.getpid()):
    names = os.environ["LISTEN_FDNAMES"].split(":")
    assert len(names) == int(os.environ["LISTEN_FDS"]), names
    passed = list(enumerate(names, start=3))
def named(wanted):
    return [fd for fd, name in passed if name == wanted]
"#;

/// Counts its processes in a memory file, and goes on talking on the connections that earlier ones have accepted.
const TALKER: &str = r#"
import selectors
# Nothing else came along; the last two are the notify socket and what lists them.
assert sorted(map(int, os.listdir("/proc/self/fd"))) == list(range(5 + len(passed)))
state = named("state")[0] if named("state") else os.memfd_create("state")
count = int(os.pread(state, 20, 0) or b"0") + 1
os.pwrite(state, str(count).encode(), 0)
# What is there already is not kept twice.
say("FDSTORE=1\nFDNAME=state\nREADY=1", [state, state])
watch = selectors.DefaultSelector()
def talk(fd):
    connection = socket.socket(fileno=fd)
    assert not os.get_blocking(fd), "it is passed as it was left"
    connection.setblocking(False)
    watch.register(connection, selectors.EVENT_READ)
listener = socket.socket(fileno=named("local")[0])
assert os.get_blocking(listener.fileno())
watch.register(listener, selectors.EVENT_READ)
for fd in named("conn"):
    talk(fd)
barrier()
report(f"up {os.getpid()} {count} " + ":".join(name for _, name in passed))
while True:
    for key, _ in watch.select():
        if key.fileobj is listener:
            connection, _ = listener.accept()
            connection.setblocking(False)
            say("FDSTORE=1\nFDNAME=conn", [connection.fileno()])
            barrier()
            watch.register(connection, selectors.EVENT_READ)
            connection.send(f"hello {count}\n".encode())
        elif data := key.fileobj.recv(100):
            key.fileobj.send(f"{count} heard ".encode() + data)
        else:
            watch.unregister(key.fileobj)
            key.fileobj.close()
"#;

fn start<'a>(place: &'a Place, program: &str, more: &str) -> Hale<'a> {
    place.write("bot.py", &[LIBRARY, program].concat());
    place.hale(&format!(
        "[service.bot]\ncommand = [\"{}\", \"@D/bot.py\"]\nstart.ready = \"notify\"\n\
         restart = {{ first_delay = \"0s\", delay = \"0s\", crash_loop = false }}\n{more}\n",
        python()
    ))
}

/// The next process: its pid and what it says of itself.
fn up(place: &Place) -> (i32, String) {
    let line = place.report("up ");
    let (pid, rest) = line.strip_prefix("up ").unwrap().split_once(' ').unwrap();
    (pid.parse().unwrap(), rest.to_owned())
}

struct Client(BufReader<UnixStream>);

impl Client {
    fn connect(place: &Place) -> Self {
        let stream = UnixStream::connect(place.path("bot.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, text: &str) -> String {
        self.0.get_mut().write_all(format!("{text}\n").as_bytes()).unwrap();
        self.line()
    }
}

fn kill_supervisor(hale: &Hale<'_>) {
    let old = hale.supervisor();
    send(old, Signal::KILL);
    await_end(old);
}

fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Waits until guardian and supervisor have so many memory files of this name each.
fn await_held(hale: &Hale<'_>, name: &str, count: usize) {
    let name = format!("/memfd:{name} ");
    let held = |pid: i32| {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let link = |entry: std::io::Result<fs::DirEntry>| fs::read_link(entry.unwrap().path()).ok();
        links.filter_map(link).filter(|link| link.to_string_lossy().starts_with(&name)).count()
    };
    let begin = Instant::now();
    loop {
        let found = [hale.guardian(), hale.supervisor()].map(held);
        if found == [count; 2] {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{name}: {found:?}");
    }
}

/// Why descriptors were refused, in order.
fn refusals(place: &Place) -> Vec<Value> {
    place.records("bot", "descriptor_refused").into_iter().map(|record| record["why"]["code"].clone()).collect()
}

mod needs_python {
    use super::*;

    #[test]
    fn state_and_connections_outlive_services_and_supervisors() {
        let place = Place::new();
        let hale = start(&place, TALKER, "listen = { local = \"unix:@D/bot.sock\" }");
        let (mut pid, said) = up(&place);
        assert_eq!(said, "1 local");
        let mut client = Client::connect(&place);
        assert_eq!(client.line(), "hello 1");
        assert_eq!(place.status("bot")["stored"], serde_json::json!(["state", "conn"]));

        for (count, kills) in (2..).zip(["service", "supervisor", "both", "service", "supervisor at once"]) {
            match kills {
                "service" => {}
                "supervisor" => {
                    kill_supervisor(&hale);
                    // Nobody noticed.
                    assert_eq!(client.ask("a"), format!("{} heard a", count - 1));
                }
                _ => {
                    send(hale.supervisor(), Signal::STOP);
                    send(hale.supervisor(), Signal::KILL);
                }
            }
            send(pid, Signal::KILL);
            let said;
            (pid, said) = up(&place);
            assert_eq!(said, format!("{count} local:state:conn"), "{kills}");
            assert_eq!(client.ask("b"), format!("{count} heard b"));
        }
        // A connection whose client is gone is kept no longer.
        drop(client);
        let dropped = || place.records("bot", "descriptor_dropped");
        let begin = Instant::now();
        while dropped().is_empty() {
            assert!(begin.elapsed() < PATIENCE, "it is still kept");
        }
        assert_eq!(dropped()[0]["why"]["code"], "descriptor_hung_up");
        place.done(&["restart", "bot"]);
        assert_eq!(up(&place).1, "7 local:state");
        // What is stopped leaves nothing, as with systemd.
        place.done(&["stop", "bot"]);
        assert_eq!(place.status("bot")["stored"], serde_json::json!([]));
        place.done(&["start", "bot"]);
        assert_eq!(up(&place).1, "1 local");
        assert_eq!(refusals(&place), Vec::<Value>::new());
        hale.stop();
        let violated = place.records("bot", "violated");
        assert!(violated.is_empty(), "{violated:?}");
    }

    /// A new guardian gets them from systemd, in whose place the harness's program stands.
    #[test]
    fn state_and_connections_outlive_guardians() {
        let mut place = Place::new();
        under_init(&mut place);
        let hale = start(&place, TALKER, "listen = { local = \"unix:@D/bot.sock\" }");
        let mut client = None;
        for count in 1..4 {
            let (pid, said) = up(&place);
            assert_eq!(said, format!("{count} local{}", if count == 1 { "" } else { ":state:conn" }));
            let client = client.get_or_insert_with(|| Client::connect(&place));
            if count == 1 {
                assert_eq!(client.line(), "hello 1");
            }
            let own = [hale.guardian(), hale.supervisor(), hale.keeper()];
            send(own[0], Signal::KILL);
            own.iter().for_each(|&pid| await_end(pid));
            place.report("lost");
            place.open_gate();
            assert_eq!(client.ask("a"), format!("{count} heard a"), "nobody noticed");
            assert_eq!(place.status("bot")["stored"], serde_json::json!(["state", "conn"]));
            send(pid, Signal::KILL);
        }
        assert_eq!(up(&place).1, "4 local:state:conn");
        let dropped = place.records("bot", "descriptor_dropped");
        assert!(dropped.is_empty(), "{dropped:?}");
        hale.stop();
        assert!(place.report("init: the end").ends_with("kept: "));
    }

    /// A program that waits for its barrier (sd_notify_barrier(3)) means that what it left is kept, whoever dies now.
    #[test]
    fn a_barrier_ends_only_when_the_guardian_has_what_was_left_before_it() {
        let place = Place::new();
        let hale = start(&place, TALKER, "listen = { local = \"unix:@D/bot.sock\" }");
        up(&place);
        hale.signal(Signal::STOP);
        let mut client = Client::connect(&place);
        let begin = Instant::now();
        while place.records("bot", "descriptor_stored").len() < 2 {
            assert!(begin.elapsed() < PATIENCE, "nothing was left");
        }
        // The supervisor has done all that it can.
        assert_eq!(place.status("bot")["stored"], serde_json::json!(["state", "conn"]));
        client.0.get_ref().set_nonblocking(true).unwrap();
        assert_eq!(client.0.fill_buf().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        client.0.get_ref().set_nonblocking(false).unwrap();
        hale.signal(Signal::CONT);
        assert_eq!(client.line(), "hello 1");
        hale.stop();
    }

    /// Also what it cannot keep is closed, and said once; the rest of the message counts.
    #[test]
    fn what_cannot_be_kept_is_closed_and_named_once() {
        let place = Place::new();
        let hale = start(
            &place,
            r#"
assert os.environ["FDSTORE"] == "32"
memory = lambda: os.memfd_create("x")
pipes = [os.pipe() for _ in range(3)]
for text in ["FDSTORE=1\nFDNAME=a:b", "FDSTORE=1\nFDNAME=" + "x" * 256, "FDSTORE=1\nFDNAME=\u00fc", "nothing"]:
    say(text, [writing for _, writing in pipes])
barrier()
file = os.open("@D/bot.py", os.O_RDONLY)
for _ in range(3):
    say("FDSTORE=1\nFDNAME=file", [file])
say("FDSTORE=1\nSTATUS=more than fit", [memory() for _ in range(40)])
say("FDSTORE=1\nFDNAME=late", [memory()])
say("FDSTOREREMOVE=1\nFDNAME=nothing of this name")
barrier()
for reading, writing in pipes:
    os.close(writing)
    assert os.read(reading, 1) == b"", "a copy of it is open somewhere"
say("FDSTOREREMOVE=1\nFDNAME=stored")
barrier()
say("FDSTORE=1\nFDNAME=last", [memory()])
say("READY=1")
report("done")
signal.pause()
"#,
            "",
        );
        place.report("done");
        let pid = hale.ready("bot");
        let status = place.status("bot");
        assert_eq!(
            (&status["stored"], &status["status_text"]),
            (&serde_json::json!(["last"]), &"more than fit".into())
        );
        assert_eq!(refusals(&place), ["descriptor_name", "descriptor_of_file", "descriptors_full"]);
        let stored = place.records("bot", "descriptor_stored");
        assert_eq!(stored.iter().filter(|record| record["name"] == "stored").count(), 32);
        // None of them is left anywhere, but the last one.
        await_held(&hale, "x", 1);
        // It happens again in the next process, and nothing grows.
        let before = [hale.guardian(), hale.supervisor()].map(descriptors);
        send(pid, Signal::KILL);
        place.report("done");
        hale.ready("bot");
        let begin = Instant::now();
        while [hale.guardian(), hale.supervisor()]
            .map(descriptors)
            .iter()
            .zip(before)
            .any(|(now, before)| *now > before + 1)
        {
            assert!(begin.elapsed() < PATIENCE, "{before:?}");
        }
        hale.stop();
    }

    /// Neither guardian nor supervisor may be the one that waits.
    #[test]
    fn what_takes_its_time_to_close_holds_up_nobody() {
        let place = Place::new();
        let peer = std::net::TcpListener::bind(place.address).unwrap();
        let hale = start(
            &place,
            r#"
slow = slow_to_close()
# One is given up, one is refused; the last copy of each is Hale's.
say("FDSTORE=1\nFDNAME=slow", [slow.fileno()])
barrier()
say("FDSTORE=1\nFDNAME=a:b", [slow.fileno()])
barrier()
slow.close()
say("FDSTOREREMOVE=1\nFDNAME=slow")
say("READY=1")
report(f"up {os.getpid()} x")
signal.pause()
"#,
            "",
        );
        for round in 0..3 {
            let (pid, _) = up(&place);
            await_closing(hale.supervisor());
            assert_eq!(place.status("bot")["restarts"], round);
            send(pid, Signal::KILL);
        }
        up(&place);
        hale.stop();
        drop(peer);
    }

    /// While one cannot be closed others wait; when enough do, whoever sends them is not heard.
    #[test]
    fn whoever_sends_too_much_that_cannot_be_closed_is_not_heard_until_it_is() {
        let place = Place::new();
        let peer = std::net::TcpListener::bind(place.address).unwrap();
        let hale = start(
            &place,
            r#"
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
slow = slow_to_close()
say("FDSTORE=1\nFDNAME=slow", [slow.fileno()])
barrier()
slow.close()
say("FDSTOREREMOVE=1\nFDNAME=slow")
report(f"given up by {os.getpid()}")
signal.sigwait({signal.SIGUSR1})
file = os.open("@D/bot.py", os.O_RDONLY)
for _ in range(3):
    say("", [file] * 100)
say("READY=1")
report("sent")
signal.pause()
"#,
            "[service.other]\ncommand = [\"sleep\", \"1000\"]",
        );
        let pid = place.report("given up by ").rsplit(' ').next().unwrap().parse().unwrap();
        let supervisor = hale.supervisor();
        await_closing(supervisor);
        send(pid, Signal::USR1);
        place.report("sent");
        let begin = Instant::now();
        while descriptors(supervisor) < 256 {
            assert!(begin.elapsed() < PATIENCE, "it has {} descriptors", descriptors(supervisor));
        }
        place.done(&["restart", "other"]);
        assert_eq!(place.status("bot")["state"], "starting");
        let (mut connection, _) = peer.accept().unwrap();
        std::io::copy(&mut connection, &mut std::io::sink()).unwrap();
        hale.ready("bot");
        let begin = Instant::now();
        while descriptors(supervisor) >= 256 {
            assert!(begin.elapsed() < PATIENCE, "it has {} descriptors", descriptors(supervisor));
        }
        hale.stop();
    }

    /// Waits until a thread of the supervisor is at work to close something.
    fn await_closing(supervisor: i32) {
        let name = |thread: std::io::Result<fs::DirEntry>| fs::read_to_string(thread.unwrap().path().join("comm")).ok();
        let begin = Instant::now();
        loop {
            let threads = fs::read_dir(format!("/proc/{supervisor}/task")).unwrap();
            if threads.filter_map(name).any(|name| name.trim() == "close") {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "no thread closes anything");
        }
    }

    /// The usual way to hand over: when it is asked to end, a program leaves its state and exits; whoever supervises may
    /// hear of it only later.
    #[test]
    fn what_a_process_leaves_as_its_last_deed_is_there_for_the_next() {
        if !remembers_the_dead() {
            return;
        }
        let place = Place::new();
        let hale = start(
            &place,
            r#"
# Not by a handler: Python runs that between two instructions, and one of them may be the beginning of pause().
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
def leave():
    state = os.memfd_create("state")
    os.write(state, str(os.getpid()).encode())
    say("FDSTORE=1\nFDNAME=state", [state])
    os._exit(3)
by = [os.pread(fd, 20, 0).decode() for fd in named("state")]
if by:
    say("FDSTOREREMOVE=1\nFDNAME=state")
say("READY=1")
barrier()
report(f"up {os.getpid()} left by {by}")
signal.sigwait([signal.SIGTERM])
leave()
"#,
            "[service.other]\ncommand = [\"sleep\", \"1000\"]",
        );
        let (mut pid, _) = up(&place);
        for round in 0..8 {
            match round % 4 {
                0 => place.done(&["restart", "bot"]).truncate(0),
                1 => send(pid, Signal::TERM),
                // It hears of both at once, and of the end first, because the guardian has told another one's before.
                2 => {
                    let other: i32 = place.status("other")["pid"].as_i64().unwrap().try_into().unwrap();
                    let supervisor = hale.supervisor();
                    send(supervisor, Signal::STOP);
                    send(other, Signal::KILL);
                    let begin = Instant::now();
                    while !place.log("other").contains(&format!("pid {other} ended")) {
                        assert!(begin.elapsed() < PATIENCE, "{}", place.log("other"));
                    }
                    send(pid, Signal::TERM);
                    await_end(pid);
                    send(supervisor, Signal::CONT);
                }
                // Nobody hears it: the supervisor is stopped, dies, and the next one finds both, end and last deed.
                _ => {
                    let old = hale.supervisor();
                    send(old, Signal::STOP);
                    send(pid, Signal::TERM);
                    await_end(pid);
                    send(old, Signal::KILL);
                }
            }
            let (next, said) = up(&place);
            assert_eq!(said, format!("left by ['{pid}']"), "round {round}");
            pid = next;
        }
        hale.stop();
    }

    mod needs_cgroup2 {
        use super::*;

        #[test]
        fn a_stranger_leaves_nothing() {
            let place = Place::new();
            let hale = start(&place, "say('READY=1')\nsignal.pause()\n", "");
            hale.ready("bot");
            place.write(
                "stranger.py",
                &[LIBRARY, "say('FDSTORE=1', [os.memfd_create('stranger')])\nbarrier()\n"].concat(),
            );
            let mut command = std::process::Command::new(python());
            command.arg(place.path("stranger.py")).env("NOTIFY_SOCKET", place.path("run/notify/bot"));
            assert!(
                command.env_remove("LISTEN_PID").status().unwrap().success(),
                "what it sent is closed all the same"
            );
            assert_eq!(place.status("bot")["stored"], serde_json::json!([]));
            await_held(&hale, "stranger", 0);
            assert_eq!(refusals(&place), Vec::<Value>::new());
            hale.stop();
        }
    }

    /// Whether this kernel tells the cgroup of a sender that has ended (Linux 6.15): where it does not, a program has to
    /// wait (sd_notify_barrier(3)) before it exits.
    fn remembers_the_dead() -> bool {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        hale_daemon::sys::datagram::cgroup_id(pidfd).is_some()
    }
}
