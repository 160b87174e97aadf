//! Datagrams on a service's notify socket, sent and received as in life: what is taken of them is bounded, and no
//! descriptor is lost.
//!
//! An input is datagrams with an empty line between two; one that begins with a digit from 1 to 3 and `|` brings so many
//! descriptors along.

use hale_core::descriptor::FD_NAME_MAX;
use hale_core::event::Notice;
use hale_daemon::monitor::notify::{NotifySocket, Received, Said};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::cell::RefCell;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use tempfile::TempDir;

/// What Hale reads of a datagram, and of its assignments.
const DATAGRAM_BYTES: usize = 8 << 10;
const ASSIGNMENTS_MAX: usize = 64;

/// The longest status (200 characters), in bytes.
const STATUS_BYTES: usize = 800;

/// A socket, who sends to it, and where it is.
struct Bench {
    socket: NotifySocket,
    sender: UnixDatagram,
    _dir: TempDir,
}

impl Bench {
    fn new() -> std::io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("notify");
        let socket = NotifySocket::bind(&path, None).map_err(std::io::Error::other)?;
        let sender = UnixDatagram::unbound()?;
        sender.connect(&path)?;
        Ok(Self { socket, sender, _dir: dir })
    }

    fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || beside.push(SendAncillaryMessage::ScmRights(fds)), "there is room for 3");
        rustix::net::sendmsg(&self.sender, &[IoSlice::new(bytes)], &mut beside, SendFlags::empty())
            .expect("a datagram can be sent");
    }
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new(Bench::new().expect("a notify socket can be made"));
}

pub fn run(input: &[u8]) {
    BENCH.with_borrow_mut(|bench| {
        let null = std::fs::File::open("/dev/null").expect("it is there");
        let mut rest = input;
        while !rest.is_empty() {
            let end = rest.windows(2).position(|window| window == b"\n\n");
            let datagram = &rest[..end.unwrap_or(rest.len())];
            rest = end.map_or(&[], |end| &rest[end + 2..]);
            let (fds, datagram) = match datagram {
                [count @ b'1'..=b'3', b'|', datagram @ ..] => (usize::from(count - b'0'), datagram),
                datagram => (0, datagram),
            };
            bench.send(datagram, &vec![null.as_fd(); fds]);
            check(datagram, fds, bench.socket.receive(&|sender| sender.pid > 0));
        }
    });
}

/// Checks what came of one datagram.
fn check(datagram: &[u8], fds_sent: usize, received: Received) {
    let Received { said, unwanted, rejected } = received;
    assert_eq!(rejected, u64::from(datagram.len() > DATAGRAM_BYTES), "{} bytes", datagram.len());
    assert!(said.len() <= (ASSIGNMENTS_MAX + 2).min(datagram.len()), "{said:?}");
    let mut fds = unwanted.len();
    for one in &said {
        match one {
            Said::Notice(Notice::Status(text)) => {
                assert!(text.len() <= STATUS_BYTES && !text.contains(char::is_control), "{text:?}");
            }
            Said::Notice(Notice::Unstore { name }) => check_name(name.as_str()),
            Said::Left { name, watched: _, fds: left } => {
                assert!(!left.is_empty());
                check_name(name.as_str());
                fds += left.len();
            }
            Said::Notice(Notice::Store(offer)) => panic!("the socket makes no offers: {offer:?}"),
            // Numbers of microseconds, each of which is a span, and words.
            Said::Notice(
                Notice::Ready
                | Notice::Heartbeat
                | Notice::HeartbeatTrigger
                | Notice::HeartbeatWithin(_)
                | Notice::ExtendTimeout(_)
                | Notice::NotStored { .. },
            )
            | Said::Figure(_) => {}
        }
    }
    assert_eq!(fds, fds_sent, "{said:?}");
}

fn check_name(name: &str) {
    assert!(name.len() <= FD_NAME_MAX && name.is_ascii() && !name.contains(|c: char| c.is_control() || c == ':'));
}
