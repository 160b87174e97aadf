//! The supervised program of all measurements: the first thing it does is to look at the clock.
//!
//! With less than two words it reads them from the file `arguments` in its directory, because runit and s6 start a bare program
//! (s6 with the service's name), and a shell in between would cost them time.

use hale_bench::Stamp;
use rustix::time::{ClockId, clock_gettime};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;

/// `--endless` answers that have no end; `--notify` says as much as it can on the notify socket.
const USAGE: &str = "usage: hale-bench-agent FIFO INDEX [--ready-fd N] [--threads N] [--connections N] [--http PORT [--endless]] \
                     [--notify]";

fn main() -> std::io::Result<()> {
    let now = clock_gettime(ClockId::Monotonic);
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if words.len() < 2 {
        words = std::fs::read_to_string("arguments")?.split_whitespace().map(str::to_owned).collect();
    }
    let (Some(fifo), Some(Ok(index))) = (words.first(), words.get(1).map(|word| word.parse())) else {
        return Err(std::io::Error::other(USAGE));
    };
    let stamp = Stamp { index, pid: std::process::id(), at_ns: hale_bench::nanoseconds(now) };
    OpenOptions::new().write(true).open(fifo)?.write_all(&stamp.to_bytes())?;

    let value = |name: &str| words.iter().position(|word| word == name).and_then(|at| words.get(at + 1));
    if let Some(fd) = value("--ready-fd") {
        // s6 hands the descriptor over by number; its name in /proc opens the same pipe (proc_pid_fd(5)).
        File::create(format!("/proc/self/fd/{fd}"))?.write_all(b"\n")?;
    }
    let number = |name: &str| value(name).and_then(|value| value.parse().ok()).unwrap_or(0_usize);
    for _ in 0..number("--threads") {
        std::thread::spawn(std::thread::park);
    }
    let _connections = connected(number("--connections"))?;
    let is_set = |name: &str| words.iter().any(|word| word == name);
    if is_set("--notify") {
        flood_notify_socket()?;
    }
    match value("--http") {
        Some(port) => serve(&TcpListener::bind(format!("127.0.0.1:{port}"))?, is_set("--endless")),
        None => loop {
            std::thread::park();
        },
    }
}

/// Connections to itself, both ends of each.
fn connected(count: usize) -> std::io::Result<Vec<(TcpStream, TcpStream)>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    (0..count).map(|_| Ok((TcpStream::connect(address)?, listener.accept()?.0))).collect()
}

/// Answers every request with 200, one after the other, or begins an answer and goes on for as long as somebody reads.
fn serve(listener: &TcpListener, endless: bool) -> ! {
    let body = [b'x'; 64 * 1024];
    loop {
        let Ok((mut stream, _)) = listener.accept() else { continue };
        let mut request = [0; 4096];
        if stream.read(&mut request).is_err() {
            continue;
        }
        // A client that is gone already has no use for the answer.
        if endless {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            while stream.write_all(&body).is_ok() {}
        } else {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        }
    }
}

/// Says another status each time, and that it is well, as fast as the socket takes it.
fn flood_notify_socket() -> std::io::Result<()> {
    let path = std::env::var_os("NOTIFY_SOCKET").ok_or_else(|| std::io::Error::other("no NOTIFY_SOCKET"))?;
    let socket = UnixDatagram::unbound()?;
    for number in 0_u64.. {
        // Without a supervisor there is no socket for a moment, or nobody reads.
        let _ = socket.send_to(format!("STATUS=flood {number}\nWATCHDOG=1").as_bytes(), &path);
    }
    Ok(())
}
