//! Datagrams of a unix socket together with who sent them, which no safe crate reads completely (unix(7)).

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// Not in every libc: linux/socket.h, Linux 6.5.
const SCM_PIDFD: libc::c_int = 0x04;

/// Room for everything that one datagram can carry: `SCM_MAX_FD` (253) descriptors, credentials and a pidfd, each
/// with a header of 16 bytes and padding. Nothing is ever cut off, so no descriptor comes unnoticed.
const CONTROL_BYTES: usize = 1_200;

/// Aligned as the kernel's `cmsghdr` wants it.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// One datagram.
#[derive(Debug)]
pub struct Datagram {
    /// How many bytes of the buffer it fills.
    pub bytes: usize,
    /// Whether it was longer than the buffer; the rest is lost.
    pub truncated: bool,
    /// Process, user and group of the sender, as the kernel vouches for them.
    pub credentials: Option<Credentials>,
    /// The sender, where the kernel tells it (Linux 6.5 and newer).
    pub pidfd: Option<OwnedFd>,
    /// What the sender sent along; closed by exec.
    pub fds: Vec<OwnedFd>,
    /// Whether some of that is missing, because this process can have no more descriptors.
    pub fds_missing: bool,
}

/// A sender, by numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// Process id; 0 when the sender is in a pid namespace that cannot be seen from here.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Asks the kernel to tell credentials and, where it can, the pidfd of each sender.
///
/// # Errors
///
/// The descriptor is not a unix socket.
pub fn identify_senders(socket: impl AsFd) -> io::Result<()> {
    set_flag(socket.as_fd(), libc::SO_PASSCRED)?;
    match set_flag(socket.as_fd(), libc::SO_PASSPIDFD) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        result => result,
    }
}

/// Asks for the pidfd of each sender (`SO_PASSPIDFD`), and for nothing else.
///
/// # Errors
///
/// The kernel has no such option.
pub fn tells_pidfds(socket: impl AsFd) -> io::Result<()> {
    set_flag(socket.as_fd(), libc::SO_PASSPIDFD)
}

fn set_flag(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is a live c_int, and the length is its own.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const on).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives one datagram without waiting; `None` when there is none now.
///
/// # Errors
///
/// The descriptor is not a socket.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
    let mut control = Control([0; CONTROL_BYTES]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain data, for which all zeroes are a valid value.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control.0).cast();
    header.msg_controllen = CONTROL_BYTES as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    let bytes = loop {
        // SAFETY: the header points to one part and to a control buffer, both writable, with their own lengths.
        let bytes = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, flags) };
        if let Ok(bytes) = usize::try_from(bytes) {
            break bytes;
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    };
    let truncated = header.msg_flags & libc::MSG_TRUNC != 0;
    let fds_missing = header.msg_flags & libc::MSG_CTRUNC != 0;
    let mut datagram = Datagram { bytes, truncated, credentials: None, pidfd: None, fds: Vec::new(), fds_missing };
    // SAFETY: the kernel filled the header that it was given above, whose control buffer is still alive.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !message.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a whole message inside of the control buffer, which
        // is aligned for it; its data follows it, `cmsg_len` bytes from its start.
        unsafe { take(&mut datagram, message) };
        // SAFETY: as above.
        message = unsafe { libc::CMSG_NXTHDR(&raw const header, message) };
    }
    Ok(Some(datagram))
}

/// Takes over what a control message carries.
///
/// # Safety
///
/// `message` must point to a whole message that recvmsg(2) has just written, and must be taken only once.
unsafe fn take(datagram: &mut Datagram, message: *const libc::cmsghdr) {
    // SAFETY: the caller promises a whole message.
    let (level, kind, length) = unsafe { ((*message).cmsg_level, (*message).cmsg_type, (*message).cmsg_len) };
    // SAFETY: as above; the data starts where CMSG_DATA says.
    let data = unsafe { libc::CMSG_DATA(message) };
    #[expect(clippy::unnecessary_cast, reason = "its type differs between C libraries")]
    let data_bytes = (length as usize).saturating_sub(data.addr() - message.addr());
    let count = data_bytes / size_of::<RawFd>();
    match (level, kind) {
        (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if data_bytes >= size_of::<libc::ucred>() => {
            // SAFETY: this kind of message holds one ucred, and it is long enough.
            let ucred = unsafe { ptr::read_unaligned(data.cast::<libc::ucred>()) };
            datagram.credentials = Some(Credentials { pid: ucred.pid, uid: ucred.uid, gid: ucred.gid });
        }
        (libc::SOL_SOCKET, libc::SCM_RIGHTS | SCM_PIDFD) => {
            for at in 0..count {
                // SAFETY: `count` whole descriptors follow.
                let fd = unsafe { ptr::read_unaligned(data.cast::<RawFd>().add(at)) };
                if fd < 0 {
                    // The kernel had no pidfd to give.
                    continue;
                }
                // SAFETY: the kernel has made it for this process with this message, and it is taken only here.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                if kind == SCM_PIDFD { datagram.pidfd = Some(fd) } else { datagram.fds.push(fd) }
            }
        }
        _ => {}
    }
}

/// The id of the cgroup (of version 2) of the process behind `pidfd`, also of one that has ended where the kernel
/// remembers it: the inode of the cgroup's directory. `None` where the kernel cannot tell (before Linux 6.13; for
/// ended processes before 6.15).
#[must_use]
pub fn cgroup_id(pidfd: impl AsFd) -> Option<u64> {
    // The kernel looks for what it remembers first, and for the process then: of one that is reaped in between it has
    // neither. What it remembers is there at the second look.
    for _ in 0..2 {
        // SAFETY: pidfd_info is plain data, for which all zeroes are a valid value.
        let mut info: libc::pidfd_info = unsafe { mem::zeroed() };
        info.mask = u64::from(libc::PIDFD_INFO_CGROUPID | libc::PIDFD_INFO_EXIT);
        // SAFETY: the request says how long the structure is, and the structure is writable.
        let result = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), libc::PIDFD_GET_INFO as _, &raw mut info) };
        if result == 0 && info.mask & u64::from(libc::PIDFD_INFO_CGROUPID) != 0 {
            return Some(info.cgroupid);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::io::{IoSlice, Read};
    use std::mem::MaybeUninit;
    use std::os::unix::net::UnixDatagram;

    /// While a process is being reaped the kernel says for a moment that there is none, before it says what it remembers.
    #[test]
    fn the_cgroup_of_a_process_is_known_at_each_moment_of_its_end() {
        for _ in 0..300 {
            let mut child = std::process::Command::new("true").spawn().unwrap();
            let pid = rustix::process::Pid::from_child(&child);
            let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
            let reaper = std::thread::spawn(move || child.wait().unwrap());
            let mut known = Vec::new();
            while !reaper.is_finished() {
                known.push(cgroup_id(&pidfd));
            }
            reaper.join().unwrap();
            if let remembered @ Some(_) = cgroup_id(&pidfd) {
                assert!(known.iter().all(|known| *known == remembered), "{known:?}");
            }
        }
    }

    #[test]
    fn a_datagram_tells_its_sender_and_brings_its_descriptors() {
        let (left, right) = UnixDatagram::pair().unwrap();
        identify_senders(&right).unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let fds = [writer.as_fd(); 3];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&left, &[IoSlice::new(b"READY=1")], &mut control, SendFlags::empty()).unwrap();

        let mut buffer = [0; 4];
        let datagram = receive(&right, &mut buffer).unwrap().unwrap();
        assert_eq!((datagram.bytes, datagram.truncated, &buffer), (4, true, b"READ"));
        let own = Credentials {
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
        };
        assert_eq!(datagram.credentials, Some(own));
        assert_eq!(datagram.fds.len(), 3);
        drop((datagram, writer));
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0, "a descriptor was not closed");
        assert!(receive(&right, &mut buffer).unwrap().is_none());
    }
}
