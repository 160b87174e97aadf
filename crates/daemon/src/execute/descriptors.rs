//! Descriptors that come from services: which of them Hale can keep, and closing those that nobody wants.
//!
//! close(2) can wait: for the server of a network file system or of FUSE at each copy (`flush` in the kernel), for what a
//! socket still has to send (`SO_LINGER`) and for a disk at the last one. So the supervisor's loop closes none of them but
//! pipes, and the guardian never the last copy.

use hale_core::reason::Reason;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{AtFlags, MemfdFlags, StatxFlags, memfd_create, statx};
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::process::{PidfdFlags, Resource, getpid, getrlimit, pidfd_open};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// How many descriptors of one service may wait to be closed before it is not listened to any more: one datagram with as
/// many as it can bring (`SCM_MAX_FD`, 253).
pub const UNCLOSED_MAX: usize = 256;

/// The kernel's own file systems, by their device: nothing in them has a disk, or a server that may hang, behind it.
#[derive(Debug)]
pub struct Kinds {
    pipes: Option<Device>,
    /// Pipes, sockets and processes: what can hang up.
    with_end: Vec<Device>,
    /// Memory files, events, timers, namespaces and the like.
    others: Vec<Device>,
    /// Descriptors from this number on mean that this process has few left.
    scarce_from: i64,
}

type Device = (u32, u32);

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepable {
    /// It says by `EPOLLHUP` or `EPOLLERR` that its other end is gone.
    pub has_end: bool,
}

impl Kinds {
    /// Finds out by making one of each. What this kernel, or a sandbox around Hale, does not have is not kept.
    #[must_use]
    pub fn find() -> Self {
        let of = |fd: Option<OwnedFd>| fd.and_then(|fd| device(fd.as_fd()).ok());
        let pipes = of(io::pipe().ok().map(|(reader, _)| reader.into()));
        let sockets = of(socket(AddressFamily::UNIX, SocketType::DGRAM, None).ok());
        let events = of(eventfd(0, EventfdFlags::CLOEXEC).ok());
        let memory = of(memfd_create("hale-kind", MemfdFlags::CLOEXEC).ok());
        let process = of(pidfd_open(getpid(), PidfdFlags::empty()).ok());
        let namespace = of(File::open("/proc/self/ns/net").ok().map(OwnedFd::from));
        let limit = getrlimit(Resource::Nofile).current.and_then(|limit| i64::try_from(limit).ok());
        Self {
            pipes,
            // Before Linux 6.9 a pidfd is among the events, which have no other end.
            with_end: [pipes, sockets, process.filter(|_| process != events)].into_iter().flatten().collect(),
            others: [events, memory, namespace].into_iter().flatten().collect(),
            scarce_from: limit.map_or(i64::MAX, |limit| limit / 4 * 3),
        }
    }

    /// Whether it is a pipe, which closes at once.
    #[must_use]
    pub fn is_pipe(&self, fd: &OwnedFd) -> bool {
        device(fd.as_fd()).is_ok_and(|device| Some(device) == self.pipes)
    }

    /// Whether it can be kept.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn keepable(&self, fd: BorrowedFd<'_>) -> Result<Keepable, Reason> {
        if i64::from(fd.as_raw_fd()) >= self.scarce_from {
            return Err(Reason::DescriptorsScarce);
        }
        let device = device(fd).map_err(|_| Reason::DescriptorOfFile)?;
        let has_end = self.with_end.contains(&device);
        if has_end || self.others.contains(&device) { Ok(Keepable { has_end }) } else { Err(Reason::DescriptorOfFile) }
    }
}

/// On which device it is, without a word to any server (`AT_STATX_DONT_SYNC`).
fn device(fd: BorrowedFd<'_>) -> rustix::io::Result<Device> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = statx(fd, c"", flags, StatxFlags::TYPE)?;
    Ok((found.stx_dev_major, found.stx_dev_minor))
}

/// Descriptors of one service that are to be closed: by one thread at a time, so that what hangs there holds up nobody
/// else, and at most [`UNCLOSED_MAX`] and one datagram more wait for it.
#[derive(Debug, Default)]
pub struct Closing {
    waiting: Vec<OwnedFd>,
    busy: bool,
}

impl Closing {
    /// Takes them over; pipes are closed here.
    pub fn add(&mut self, fds: impl IntoIterator<Item = OwnedFd>, kinds: &Kinds) {
        self.waiting.extend(fds.into_iter().filter(|fd| !kinds.is_pipe(fd)));
    }

    /// Whether enough wait already.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= UNCLOSED_MAX
    }

    /// Starts the thread, if there is something to do and none is at work; it calls `done` at its end. Without a thread
    /// they are closed here.
    pub fn start(&mut self, done: impl FnOnce() + Send + 'static) {
        if self.busy || self.waiting.is_empty() {
            return;
        }
        let fds = std::mem::take(&mut self.waiting);
        let work = move || {
            drop(fds);
            done();
        };
        self.busy = std::thread::Builder::new().name(String::from("close")).spawn(work).is_ok();
    }

    /// The thread has ended.
    pub fn ended(&mut self) {
        self.busy = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::sockopt::set_socket_linger;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn what_the_kernel_makes_without_a_file_system_can_be_kept_and_files_cannot() {
        let kinds = Kinds::find();
        let keepable = |fd: &dyn AsFd| kinds.keepable(fd.as_fd());
        let (reader, _writer) = io::pipe().unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let (unix, _other) = UnixStream::pair().unwrap();
        for fd in [&reader as &dyn AsFd, &tcp, &unix] {
            assert_eq!(keepable(fd), Ok(Keepable { has_end: true }));
        }
        let memory = memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
        let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let namespace = File::open("/proc/self/ns/uts").unwrap();
        for fd in [&memory as &dyn AsFd, &event, &namespace] {
            assert_eq!(keepable(fd), Ok(Keepable { has_end: false }));
        }
        assert!(keepable(&pidfd_open(getpid(), PidfdFlags::empty()).unwrap()).is_ok());
        let directory = tempfile::tempdir().unwrap();
        let file = tempfile::tempfile_in(&directory).unwrap();
        for fd in [&file as &dyn AsFd, &File::open("/dev/null").unwrap(), &File::open("/proc/self/stat").unwrap()] {
            assert_eq!(keepable(fd), Err(Reason::DescriptorOfFile));
        }
        let short = Kinds { scarce_from: 0, ..kinds };
        assert_eq!(short.keepable(unix.as_fd()), Err(Reason::DescriptorsScarce));
    }

    /// A socket whose close waits an hour for what it still has to send: whoever adds it does not wait.
    #[test]
    fn what_is_slow_to_close_holds_up_nobody() {
        let kinds = Kinds::find();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut slow = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        slow.set_nonblocking(true).unwrap();
        while slow.write(&[0; 65_536]).is_ok() {}
        set_socket_linger(&slow, Some(Duration::from_secs(3_600))).unwrap();

        let (mut closing, (done, ended)) = (Closing::default(), channel());
        let (mut pipe, writer) = io::pipe().unwrap();
        closing.add([OwnedFd::from(slow), writer.into()], &kinds);
        assert_eq!(pipe.read(&mut [0]).unwrap(), 0, "a pipe is closed at once");
        closing.start(move || done.send(()).unwrap());
        closing.add([OwnedFd::from(File::open("/dev/null").unwrap())], &kinds);
        closing.start(|| panic!("one thread at a time"));
        assert!(ended.try_recv().is_err());
        // It ends with what it waits for.
        io::copy(&mut peer, &mut io::sink()).unwrap();
        ended.recv().unwrap();
        closing.ended();
        let (done, ended) = channel();
        closing.start(move || done.send(()).unwrap());
        ended.recv().unwrap();
        let many = (0..UNCLOSED_MAX).map(|_| OwnedFd::from(File::open("/dev/null").unwrap()));
        assert!(!closing.is_full());
        closing.add(many, &kinds);
        assert!(closing.is_full());
    }
}
