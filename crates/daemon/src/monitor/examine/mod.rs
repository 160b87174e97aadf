//! Looks what the processes of a service are doing, while they still do it: threads, descriptors, connections, pressure.
//!
//! Nothing of it touches the service: it is read from /proc and asked of the kernel. It may block, as any file of the kernel
//! may; who waits for it has a bound, and so has the look.

mod connections;
mod threads;

use crate::execute::tree::{Handle, Tree};
use crate::monitor::memory;
use hale_core::examination::Examination;
use hale_core::memory::Pressure;
use rustix::fs::{Dir, Mode, OFlags, openat, readlinkat};
use rustix::io::pread;
use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

/// How many processes of a service are looked at: a service with more forks workers that all do the same.
const PROCESSES_MAX: usize = 256;

/// How many threads are looked at in all: each costs some three files of /proc, and so many some ten milliseconds.
const THREADS_MAX: usize = 1_024;

/// How many descriptors are looked at in all: as many as most services may have open, some ten milliseconds.
const DESCRIPTORS_MAX: usize = 16_384;

/// The longest path of a file that is kept, in bytes.
const FILE_BYTES_MAX: usize = 256;

/// A socket's place: the process, its descriptor there.
type Place = (i32, i32);

/// Looks at a tree. `None`: no process of it lives, or none could be looked at.
#[must_use]
pub fn examine(tree: &Tree, begun: Instant, until: Instant) -> Option<Examination> {
    let mut handles = Vec::new();
    let mut found = Examination::default();
    let is_over = || Instant::now() >= until;
    let looked = tree.look(Vec::new(), |handle, _| {
        found.processes += 1;
        if is_over() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if handles.len() < PROCESSES_MAX {
            handles.push(handle);
        } else {
            found.is_partial = true;
        }
        Ok(())
    });
    if let Err(error) = looked {
        if error.kind() != io::ErrorKind::TimedOut {
            return None;
        }
        found.is_partial = true;
    }
    let mut threads = threads::Threads::default();
    for handle in &handles {
        found.is_partial |= !threads.add(handle, is_over);
    }
    (found.threads, found.doing) = threads.grouped();
    let mut sockets = BTreeMap::new();
    for handle in &handles {
        found.is_partial |= !descriptors(handle, &mut found, &mut sockets, is_over);
    }
    found.sockets = u32::try_from(sockets.len()).unwrap_or(u32::MAX);
    let awaited: Vec<Place> =
        found.doing.iter().filter_map(|doing| Some((doing.pid, doing.call.as_ref()?.fd?))).collect();
    match connections::of(&handles, &sockets, &awaited, until) {
        Ok((connections, left_out, is_whole)) => {
            (found.connections, found.left_out) = (connections, left_out);
            found.is_partial |= !is_whole;
        }
        Err(_) => found.is_partial |= !sockets.is_empty(),
    }
    let pressure = |name: &str| pressure_of(tree, name);
    (found.cpu, found.memory, found.io) =
        (pressure("cpu.pressure"), pressure("memory.pressure"), pressure("io.pressure"));
    found.took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    (found.threads > 0).then_some(found)
}

/// Counts the descriptors of a process and finds its sockets. `false`: not all.
fn descriptors(
    handle: &Handle,
    found: &mut Examination,
    sockets: &mut BTreeMap<u64, Place>,
    is_over: impl Fn() -> bool,
) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(dir) = openat(handle.dir(), "fd", flags, Mode::empty()).and_then(Dir::new) else { return false };
    for entry in dir.flatten() {
        let Some(fd) = entry.file_name().to_str().ok().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if found.descriptors as usize >= DESCRIPTORS_MAX || is_over() {
            return false;
        }
        found.descriptors += 1;
        if let Some(inode) = link(handle, &format!("fd/{fd}")).as_deref().and_then(socket_inode) {
            sockets.entry(inode).or_insert((handle.pid(), fd));
        }
    }
    true
}

fn link(handle: &Handle, path: &str) -> Option<String> {
    let link = readlinkat(handle.dir(), path, Vec::with_capacity(64)).ok()?;
    Some(String::from_utf8_lossy(link.to_bytes()).into_owned())
}

fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn pressure_of(tree: &Tree, name: &str) -> Option<Pressure> {
    let file = tree.open_file(name, false)?;
    let mut buffer = [0; 512];
    let length = pread(&file, &mut buffer, 0).ok()?;
    memory::pressure(&String::from_utf8_lossy(&buffer[..length])).map(|(pressure, _)| pressure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::tree::Trees;
    use crate::monitor::probe::testing::trees;
    use hale_core::examination::{Protocol, ThreadState};
    use hale_core::ids::Name;
    use std::io::{BufRead, BufReader, Read};
    use std::net::TcpListener;
    use std::os::fd::AsFd;
    use std::process::{Child, Command, Stdio};
    use std::sync::Arc;
    use std::time::Duration;

    /// A Python program of its own tree that has said that it is where it should be.
    fn stuck(program: &str) -> (Arc<Trees>, Tree, Child) {
        let trees = trees();
        let tree = trees.prepare(&Name::try_from("bot").unwrap()).unwrap();
        let tag = trees.environment_tag(&Name::try_from("bot").unwrap());
        let (name, value) = tag.split_once('=').unwrap();
        let mut python = Command::new("python3");
        let mut child = python.args(["-c", program]).env(name, value).stdout(Stdio::piped()).spawn().unwrap();
        if let Some(group) = tree.cgroup() {
            use std::io::Write;
            let path = format!("/proc/self/fd/{}/cgroup.procs", std::os::fd::AsRawFd::as_raw_fd(&group.as_fd()));
            std::fs::OpenOptions::new()
                .write(true)
                .open(path)
                .unwrap()
                .write_all(child.id().to_string().as_bytes())
                .unwrap();
        }
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "stuck\n");
        (trees, tree, child)
    }

    fn look(tree: &Tree) -> Examination {
        examine(tree, Instant::now(), Instant::now() + Duration::from_secs(20)).unwrap()
    }

    mod needs_python {
        use super::*;

        /// Looks until the threads have come to where they stay.
        fn look_until(tree: &Tree, is_so: impl Fn(&Examination) -> bool) -> Examination {
            let begin = Instant::now();
            loop {
                let found = look(tree);
                if is_so(&found) {
                    return found;
                }
                assert!(begin.elapsed() < Duration::from_secs(60), "{found:#?}");
            }
        }

        #[test]
        fn a_deadlock_and_an_upstream_that_says_nothing_are_seen() {
            let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = upstream.local_addr().unwrap();
            let program = format!(
                "import socket, threading\n\
                 lock = threading.Lock(); lock.acquire()\n\
                 for _ in range(3): threading.Thread(target=lock.acquire).start()\n\
                 s = socket.create_connection(('127.0.0.1', {}))\n\
                 print('stuck', flush=True)\n\
                 s.recv(1)\n",
                address.port()
            );
            let (trees, tree, mut child) = stuck(&program);
            let (_connection, _) = upstream.accept().unwrap();
            let found = look_until(&tree, |found| {
                found.threads == 4 && found.doing.len() == 2 && found.doing.iter().all(|doing| doing.call.is_some())
            });
            assert_eq!((found.processes, found.threads, found.is_partial), (1, 4, false), "{found:#?}");
            assert_eq!((found.doing[0].threads, found.doing[0].state), (3, ThreadState::Sleeping));
            assert_eq!(found.doing[0].call.as_ref().unwrap().name, "futex");
            let waits = &found.doing[1];
            assert_eq!(waits.tid, child.id().cast_signed());
            let connection = found.connections.iter().find(|one| one.peer.is_some()).unwrap();
            assert_eq!((connection.protocol, connection.peer.clone()), (Protocol::Tcp, Some(address.to_string())));
            assert!(connection.silent_ms.is_some());
            assert_eq!(waits.call.as_ref().unwrap().fd, Some(connection.fd));
            let told = found.to_string();
            assert!(
                told.starts_with("3 of 4 threads wait in futex; the main thread of pid ")
                    && told.contains(&format!(" waits in recvfrom on a connection to {address}")),
                "{told}"
            );
            child.kill().unwrap();
            child.wait().unwrap();
            drop(tree);
            trees.close().unwrap();
        }

        #[test]
        fn clients_that_wait_and_a_file_that_is_waited_for_are_seen() {
            let program = "import socket, os\n\
                 s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(5)\n\
                 c = [socket.create_connection(s.getsockname()) for _ in range(2)]\n\
                 os.mkfifo('/tmp/hale-fifo-%d' % os.getpid())\n\
                 f = os.open('/tmp/hale-fifo-%d' % os.getpid(), os.O_RDWR)\n\
                 os.unlink('/tmp/hale-fifo-%d' % os.getpid())\n\
                 print('stuck', flush=True)\n\
                 os.read(f, 1)\n";
            let (trees, tree, mut child) = stuck(program);
            let found = look_until(&tree, |found| found.doing[0].call.as_ref().is_some_and(|call| call.fd.is_some()));
            let call = found.doing[0].call.clone().unwrap();
            assert!(call.name == "read" && call.file.unwrap().starts_with("/tmp/hale-fifo-"), "{found:#?}");
            let told = found.to_string();
            assert!(told.starts_with("its only thread waits in read on \"/tmp/hale-fifo-"), "{told}");
            assert!(told.contains("; 2 connections wait to be accepted at 127.0.0.1:"), "{told}");
            child.kill().unwrap();
            child.wait().unwrap();
            let mut rest = String::new();
            child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
            assert_eq!(look_after(&tree), None);
            drop(tree);
            trees.close().unwrap();
        }

        fn look_after(tree: &Tree) -> Option<Examination> {
            examine(tree, Instant::now(), Instant::now() + Duration::from_secs(20))
        }

        #[test]
        fn a_look_whose_time_is_over_before_it_begins_gives_nothing() {
            let (trees, tree, mut child) = stuck("print('stuck', flush=True)\ninput()");
            assert_eq!(examine(&tree, Instant::now(), Instant::now()), None, "not even a thread");
            child.kill().unwrap();
            child.wait().unwrap();
            drop(tree);
            trees.close().unwrap();
        }
    }
}
