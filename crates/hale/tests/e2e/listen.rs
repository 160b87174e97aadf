//! Sockets that Hale holds: whoever connects while a service or its supervisor is replaced waits, and is not refused.

use crate::harness::{PATIENCE, Place, await_end, python, send};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// An asyncio server of the usual kind: it takes its sockets only if they are meant for it (sd_listen_fds(3)), and answers
/// with its own pid and the name of the socket.
const SERVER: &str = r#"
import asyncio, os, socket, sys
if os.environ.get("LISTEN_PID") != str(os.getpid()):
    sys.exit(f"LISTEN_PID is {os.environ.get('LISTEN_PID')}, and I am {os.getpid()}")
names = os.environ["LISTEN_FDNAMES"].split(":")
assert len(names) == int(os.environ["LISTEN_FDS"]), names
# Nothing else came along; the last one is what lists them.
assert sorted(map(int, os.listdir("/proc/self/fd"))) == list(range(4 + len(names)))
def answer(name):
    async def serve(reader, writer):
        await reader.readline()
        writer.write(f"{name} {os.getpid()}\n".encode())
        await writer.drain()
        writer.close()
    return serve
async def main():
    for fd, name in enumerate(names, start=3):
        assert os.get_inheritable(fd) and os.get_blocking(fd)
        sock = socket.socket(fileno=fd)
        start = asyncio.start_unix_server if sock.family == socket.AF_UNIX else asyncio.start_server
        await start(answer(name), sock=sock)
    await asyncio.Event().wait()
asyncio.run(main())
"#;

const SERVICE: &str = r#"
[service.bot]
command = ["@Y", "@D/server.py"]
listen = { http = "@A", local = "unix:@D/bot.sock" }
restart = { delay = "0s", crash_loop = false }
"#;

/// What the server says on a connection; `None`: the process that had accepted it died.
fn ask(mut stream: impl Read + Write) -> Option<(String, i32)> {
    stream.write_all(b"?\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (name, pid) = answer.trim_end().split_once(' ')?;
    Some((name.to_owned(), pid.parse().unwrap()))
}

fn ask_tcp(address: SocketAddrV4) -> Option<(String, i32)> {
    let stream = TcpStream::connect_timeout(&address.into(), PATIENCE).expect("a connection was refused");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    ask(stream)
}

fn ask_unix(place: &Place) -> Option<(String, i32)> {
    let stream = UnixStream::connect(place.path("bot.sock")).expect("a connection was refused");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    ask(stream)
}

/// Clients that ask all the time, until they are told to stop; a connection that is refused fails the test.
struct Clients {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Clients {
    fn start(address: SocketAddrV4) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |_| {
            let (stop, answered) = (stop.clone(), answered.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if ask_tcp(address).is_some() {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        };
        let threads = (0..2).map(client).collect();
        Self { stop, answered, threads }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.answered.load(Ordering::Relaxed)
    }
}

mod needs_python {
    use super::*;
    use crate::harness::{Hale, under_init};

    fn start(place: &Place) -> Hale<'_> {
        place.write("server.py", SERVER);
        place.hale(&SERVICE.replace("@Y", &python()))
    }

    #[test]
    fn no_connection_is_refused_while_the_service_is_killed_again_and_again() {
        let place = Place::new();
        let hale = start(&place);
        let mut pid = hale.ready("bot");
        let clients = Clients::start(place.address);
        for _ in 0..20 {
            assert_eq!(ask_tcp(place.address), Some(("http".to_owned(), pid)));
            assert_eq!(ask_unix(&place), Some(("local".to_owned(), pid)));
            send(pid, Signal::KILL);
            let next = hale.started("bot");
            assert_ne!(next, pid);
            pid = next;
        }
        place.done(&["restart", "bot"]);
        assert_eq!(ask_tcp(place.address), Some(("http".to_owned(), hale.ready("bot"))));
        place.done(&["stop", "bot"]);
        // Nobody is there to accept it: it waits until somebody is.
        let waiting = thread::spawn({
            let address = place.address;
            move || ask_tcp(address)
        });
        place.done(&["start", "bot"]);
        assert_eq!(waiting.join().unwrap().map(|(name, _)| name).as_deref(), Some("http"));
        assert!(clients.end() > 0);
        hale.stop();
        assert!(!place.path("bot.sock").exists(), "the socket's file is removed at the end");
    }

    #[test]
    fn no_connection_is_refused_while_supervisor_and_service_are_killed() {
        killed_with(&Place::new(), |hale| hale.supervisor(), |_| ());
    }

    #[test]
    fn no_connection_is_refused_while_guardian_and_service_are_killed() {
        let mut place = Place::new();
        under_init(&mut place);
        killed_with(&place, |hale| hale.guardian(), Place::open_gate);
    }

    fn killed_with(place: &Place, victim: impl Fn(&Hale<'_>) -> i32, after: impl Fn(&Place)) {
        let hale = start(place);
        let mut pid = hale.ready("bot");
        let clients = Clients::start(place.address);
        for round in 0..10 {
            let old = victim(&hale);
            // The service dies before, with, or after it; or not at all.
            if round % 3 != 2 {
                send(pid, Signal::KILL);
            }
            send(old, Signal::KILL);
            await_end(old);
            after(place);
            let (name, answering) = std::iter::repeat_with(|| ask_unix(place)).find_map(|answer| answer).unwrap();
            assert_eq!((&*name, answering == pid), ("local", round % 3 == 2));
            pid = answering;
            assert_eq!(place.status("bot")["pid"], pid);
        }
        assert!(clients.end() > 0);
        hale.stop();
        assert!(!place.path("bot.sock").exists(), "the file is known to every supervisor");
    }
}

/// The address is somebody else's: a failed start that says so, until it is free.
#[test]
fn an_address_that_is_taken_is_named_and_tried_again() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind(place.address).unwrap();
    let hale = place.hale(
        r#"
[service.bot]
command = ["sleep", "1000"]
listen = { http = "@A" }
restart = { delay = "50ms", max_delay = "50ms", crash_loop = false }
"#,
    );
    hale.event("bot", &place.text("listen @A: Address already in use (errno 98)"));
    drop(taken);
    hale.ready("bot");
    TcpStream::connect(place.address).unwrap();
    hale.stop();
}
