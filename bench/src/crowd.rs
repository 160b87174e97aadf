//! Whether healing is slower while many clients listen, do not listen, and say nothing.

use crate::checks::{read_socket, up};
use crate::figures::{figure, kill_once};
use crate::numbers::Numbers;
use crate::proc::{busy_since, machine_ticks};
use crate::report::{Figure, Goal};
use crate::supervisors::{Kind, Running, Tools};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Clients that want every record.
const STREAMS: usize = 200;
/// So many of them never read.
const DEAF: usize = 10;
/// Clients that begin a request and go no further, held open or waiting to be accepted at once.
const MUTE: usize = 2_000;
/// Kills in one turn, four turns with the crowd and four without.
const KILLS: usize = 100;
const TURNS: usize = 4;

/// The restart of a service without a crowd, which is the floor here, and with one.
pub fn crowd(tools: &Tools) -> Result<Vec<Figure>, String> {
    let title =
        "kill -9 to the new process's first act, with 200 event streams, ten never reading, and 2,000 mute connections";
    let mut took = figure(title, "ms", Goal::MedianTimesFloor(1.1));
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).map_err(|e| format!("more descriptors: {e}"))?;
    let before = machine_ticks();
    let check = "kind = \"exec\"\ncommand = [\"true\"]\nevery = \"1h\"\n";
    let (mut running, configuration) = up(tools, "crowd", 1, check, false)?;
    let socket = read_socket(&configuration)?;
    let (mut records, mut connections) = (0, 0);
    for _ in 0..TURNS {
        took.add(Kind::Floor, kills(&mut running)?, "the same Hale without them");
        let (over, read, made) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
        let streams = streams(&socket)?;
        let numbers = std::thread::scope(|scope| {
            scope.spawn(|| listen(&streams[DEAF..], &over, &read));
            scope.spawn(|| say_nothing(&socket, &over, &made));
            // Until the kernel's queue of connections is full.
            std::thread::sleep(Duration::from_secs(1));
            let numbers = kills(&mut running);
            over.store(true, Ordering::Relaxed);
            numbers
        });
        took.add(Kind::Hale, numbers?, "");
        records += read.load(Ordering::Relaxed);
        connections += made.load(Ordering::Relaxed);
    }
    took.note(Kind::Hale, &format!("{records} bytes of records were read, {connections} mute connections were made"));
    took.busy = busy_since(before);
    running.stop()?;
    Ok(vec![took])
}

fn kills(running: &mut Running) -> Result<Numbers, String> {
    (0..KILLS).map(|_| kill_once(running)).collect::<Result<_, _>>().map(Numbers)
}

fn streams(socket: &Path) -> Result<Vec<UnixStream>, String> {
    let error = |e: std::io::Error| format!("{}: {e}", socket.display());
    let open = |_| {
        let mut stream = UnixStream::connect(socket).map_err(error)?;
        stream.write_all(b"GET /v1/records HTTP/1.1\r\nHost: hale\r\n\r\n").map_err(error)?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).map_err(error)?;
        stream.set_nonblocking(true).map_err(error)?;
        if head.ends_with(b" 200") {
            Ok(stream)
        } else {
            Err(format!("a stream is answered {:?}", head.escape_ascii()))
        }
    };
    (0..STREAMS).map(open).collect()
}

fn listen(streams: &[UnixStream], over: &AtomicBool, bytes: &AtomicUsize) {
    let mut buffer = [0; 64 * 1024];
    while !over.load(Ordering::Relaxed) {
        for mut stream in streams {
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                bytes.fetch_add(read, Ordering::Relaxed);
            }
        }
        // As a client that writes them to a file now and then.
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Connects, begins a request and goes no further, with [`MUTE`] connections open or waiting at once, until `over`.
pub fn say_nothing(socket: &Path, over: &AtomicBool, made: &AtomicUsize) {
    let mut open = VecDeque::new();
    while !over.load(Ordering::Relaxed) {
        // It waits while the kernel's queue is full.
        let Ok(mut stream) = UnixStream::connect(socket) else { continue };
        let _ = stream.write_all(b"POST /v1/services/web/st");
        made.fetch_add(1, Ordering::Relaxed);
        open.push_back(stream);
        if open.len() > MUTE {
            open.pop_front();
        }
    }
}
