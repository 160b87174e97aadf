//! The notify socket of one service: what it says by sd_notify(3), from itself and from nobody else.

use crate::monitor::probe::Figure;
use crate::monitor::text::one_line;
use crate::sys::datagram::{self, Datagram};
use hale_core::descriptor::FdName;
use hale_core::event::Notice;
use hale_core::reason::Reason;
use hale_core::time::Span;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// The longest datagram that is read: systemd's own bound is 4 KiB, and a longer one says nothing that Hale knows.
const DATAGRAM_BYTES: usize = 8 << 10;

/// How many datagrams one call receives, so that a service that never stops talking takes its turn like others.
const DATAGRAMS_PER_CALL: usize = 32;

/// With so many descriptors one call receives no more datagrams: each can bring 253 (`SCM_MAX_FD`), and none is closed
/// before the call has returned.
const FDS_PER_CALL: usize = 64;

/// How many assignments of one datagram are read: Hale knows ten.
const ASSIGNMENTS_MAX: usize = 64;

/// The longest status text, in characters and, escaped, in bytes: a line of a table.
const STATUS_CHARS: usize = 200;
const STATUS_BYTES: usize = 4 * STATUS_CHARS;

/// The longest path of a unix socket without its final null byte (unix(7)).
const PATH_BYTES: usize = 107;

/// A service's notify socket; its file is removed with it. Readable when there is something to
/// [`receive`](Self::receive).
#[derive(Debug)]
pub struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
    buffer: Box<[u8]>,
    rejected: u64,
}

/// Why there is no notify socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// It would be cut off.
    #[error(
        "notify socket {path} has a path of {bytes} bytes, but unix(7) allows {PATH_BYTES}: choose a shorter host.runtime_dir"
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// The operating system refused a step.
    #[error("notify socket {path}: {step}: {error}")]
    Io {
        /// The path.
        path: PathBuf,
        /// Which step.
        step: &'static str,
        /// Why.
        error: io::Error,
    },
}

/// Who sent a datagram, as the kernel says.
#[derive(Debug)]
pub struct Sender {
    /// Process id; 0 when it is in a pid namespace that cannot be seen from here.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// The process itself, where the kernel tells it (Linux 6.5 and newer).
    pub pidfd: Option<OwnedFd>,
}

/// What one call received.
#[derive(Debug, Default)]
pub struct Received {
    /// What the service said, in its order.
    pub said: Vec<Said>,
    /// Descriptors that came along and that nobody wants: to be closed, once everything that was said is done. That is
    /// all that `BARRIER=1` asks for (sd_notify_barrier(3)).
    pub unwanted: Vec<OwnedFd>,
    /// How many datagrams were dropped: from strangers, without a sender, or too long.
    pub rejected: u64,
}

/// One thing that a service said.
#[derive(Debug)]
pub enum Said {
    /// Something that stands on its own.
    Notice(Notice),
    /// What it says of itself, for checks of kind `progress` and `loop_lag`.
    Figure(Figure),
    /// `FDSTORE=1`: it leaves these for its next process.
    Left {
        /// `FDNAME`, for each of them.
        name: FdName,
        /// Whether they are to be given up once their other ends are gone (unless `FDPOLL=0`).
        watched: bool,
        /// At least one.
        fds: Vec<OwnedFd>,
    },
}

impl NotifySocket {
    /// Makes the socket at `path`, instead of one that an earlier Hale left there. With an `owner`, only that user
    /// (and root) can send to it; without, everybody can, as with systemd, and it is only the sender's cgroup
    /// that counts: for services that start as root and give that up themselves.
    ///
    /// # Errors
    ///
    /// The path is too long, something else than a socket is there, or its folder cannot be written.
    pub fn bind(path: &Path, owner: Option<u32>) -> Result<Self, BindError> {
        let bytes = path.as_os_str().len();
        if bytes > PATH_BYTES {
            return Err(BindError::TooLong { path: path.to_owned(), bytes });
        }
        let at = |step| move |error| BindError::Io { path: path.to_owned(), step, error };
        match fs::symlink_metadata(path) {
            Ok(old) if old.file_type().is_socket() => fs::remove_file(path).map_err(at("removing the old one"))?,
            Ok(_) => return Err(at("something else is there")(io::ErrorKind::AlreadyExists.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(at("looking for an old one")(error)),
        }
        let socket = UnixDatagram::bind(path).map_err(at("bind"))?;
        let made = Self { socket, path: path.to_owned(), buffer: vec![0; DATAGRAM_BYTES].into(), rejected: 0 };
        datagram::identify_senders(&made.socket).map_err(at("asking for senders"))?;
        let mode = match owner {
            Some(uid) if uid == rustix::process::geteuid().as_raw() => 0o600,
            Some(uid) => {
                chown(path, Some(uid), None).map_err(at("giving it to the service's user"))?;
                0o600
            }
            None => 0o666,
        };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(at("setting its mode"))?;
        Ok(made)
    }

    /// Takes over a socket that an earlier supervisor has made at `path`: what was sent meanwhile waits in it.
    #[must_use]
    pub fn inherited(path: &Path, socket: OwnedFd) -> Self {
        Self { socket: socket.into(), path: path.to_owned(), buffer: vec![0; DATAGRAM_BYTES].into(), rejected: 0 }
    }

    /// Receives what is there, a bounded number of datagrams, without waiting. A datagram counts only when
    /// `sender_ok` says so of its sender; see [`Membership::has`].
    pub fn receive(&mut self, sender_ok: &dyn Fn(&Sender) -> bool) -> Received {
        let mut received = Received::default();
        let mut fds_so_far = 0;
        for _ in 0..DATAGRAMS_PER_CALL {
            if fds_so_far >= FDS_PER_CALL {
                break;
            }
            let datagram = match datagram::receive(&self.socket, &mut self.buffer) {
                Ok(Some(datagram)) => datagram,
                Ok(None) => break,
                // Nothing of one datagram can break the socket; what is left is a lack of memory or descriptors.
                Err(_) => {
                    received.rejected += 1;
                    break;
                }
            };
            let Datagram { bytes, truncated, credentials, pidfd, fds, fds_missing } = datagram;
            fds_so_far += fds.len();
            let sender = credentials.map(|who| Sender { pid: who.pid, uid: who.uid, gid: who.gid, pidfd });
            if !truncated && sender.is_some_and(|sender| sender_ok(&sender)) {
                parse(&self.buffer[..bytes], fds, fds_missing, &mut received);
            } else {
                received.rejected += 1;
                received.unwanted.extend(fds);
            }
        }
        self.rejected = self.rejected.saturating_add(received.rejected);
        received
    }

    /// How many datagrams were dropped since the socket was made.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.rejected
    }

    /// Where it is: the service's `NOTIFY_SOCKET`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        // It may be gone with its folder; the next one takes its place anyway.
        let _gone = fs::remove_file(&self.path);
    }
}

/// What tells the processes of a service from all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Membership {
    /// They are in this cgroup of version 2, or below it.
    Cgroup {
        /// The inode of its directory, which is its id.
        id: u64,
        /// Its path as it stands in `/proc/PID/cgroup` after `0::`, starting with `/`.
        path: String,
    },
    /// There are no cgroups: they run as this user.
    User {
        /// Its id.
        uid: u32,
    },
}

impl Membership {
    /// Whether `sender` is a process of the service, from the surest answer that the kernel gives to the weakest:
    ///
    /// 1. The cgroup's id behind the sender's pidfd, which holds for a sender that has ended too (Linux 6.15).
    /// 2. `/proc/PID/cgroup`, which also knows cgroups that the service made below its own. It needs a sender that
    ///    still lives: one that ended before is refused, since its id may already be another's.
    /// 3. Without cgroups: its user is the service's, or Hale's own, or root. Best effort: other processes of this
    ///    user can speak for the service.
    #[must_use]
    pub fn has(&self, sender: &Sender) -> bool {
        match self {
            Self::Cgroup { id, path } => {
                let known = sender.pidfd.as_ref().and_then(datagram::cgroup_id);
                known == Some(*id) || cgroup_of(sender).is_some_and(|found| is_at_or_below(&found, path))
            }
            Self::User { uid } => {
                sender.uid == *uid || sender.uid == 0 || sender.uid == rustix::process::geteuid().as_raw()
            }
        }
    }
}

/// The path of the sender's cgroup of version 2 (cgroups(7)), while it lives.
fn cgroup_of(sender: &Sender) -> Option<String> {
    if sender.pid <= 0 {
        return None;
    }
    let text = fs::read_to_string(format!("/proc/{}/cgroup", sender.pid)).ok()?;
    // A pidfd that still answers proves that the id was this process's while the file was read.
    if let Some(pidfd) = &sender.pidfd
        && has_ended(pidfd)
    {
        return None;
    }
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// Whether the process behind the pidfd has ended: then it is readable (pidfd_open(2)).
fn has_ended(pidfd: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)), Ok(0))
}

fn is_at_or_below(path: &str, top: &str) -> bool {
    path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Appends what a datagram says (sd_notify(3)): assignments, one on each line; last of all what is to become of its
/// descriptors, as in systemd.
///
/// Accepted and ignored in this version: `STOPPING`, `RELOADING`, `MONOTONIC_USEC`, `ERRNO`, `BUSERROR`, `EXIT_STATUS`,
/// `MAINPID`, `MAINPIDFDID`, `NOTIFYACCESS`, `BARRIER` (see [`Received::unwanted`]), everything else that starts with `X_`, and
/// every word that is not known.
fn parse(datagram: &[u8], fds: Vec<OwnedFd>, fds_missing: bool, received: &mut Received) {
    let (mut store, mut remove, mut watched, mut fd_name) = (false, false, true, None);
    for line in datagram.split(|&byte| byte == b'\n').take(ASSIGNMENTS_MAX) {
        let line = String::from_utf8_lossy(line);
        let Some((name, value)) = line.split_once('=') else { continue };
        let span = || value.parse().ok().map(Span::from_us);
        let notice = match (name, value) {
            ("READY", "1") => Some(Notice::Ready),
            ("WATCHDOG", "1") => Some(Notice::Heartbeat),
            ("WATCHDOG", "trigger") => Some(Notice::HeartbeatTrigger),
            ("WATCHDOG_USEC", _) => span().map(Notice::HeartbeatWithin),
            ("EXTEND_TIMEOUT_USEC", _) => span().map(Notice::ExtendTimeout),
            ("STATUS", text) => {
                let end = text.char_indices().nth(STATUS_CHARS).map_or(text.len(), |(at, _)| at);
                Some(Notice::Status(one_line(&text[..end], STATUS_BYTES)))
            }
            _ => None,
        };
        received.said.extend(notice.map(Said::Notice));
        let figure = match name {
            "X_HALE_PROGRESS" => value.parse().ok().map(Figure::Progress),
            "X_HALE_LOOP_LAG_USEC" => span().map(Figure::LoopLag),
            _ => None,
        };
        received.said.extend(figure.map(Said::Figure));
        match (name, value) {
            ("FDSTORE", "1") => store = true,
            ("FDSTOREREMOVE", "1") => remove = true,
            ("FDPOLL", "0") => watched = false,
            ("FDNAME", text) => {
                fd_name.get_or_insert_with(|| FdName::try_from(text));
            }
            _ => {}
        }
    }
    let mut say = |notice| received.said.push(Said::Notice(notice));
    let name = match fd_name {
        // Under systemd a bad name counts as none; but what comes back under another name than it was given helps nobody.
        Some(Err(_)) if store || remove => {
            say(Notice::NotStored { why: Reason::DescriptorName });
            return received.unwanted.extend(fds);
        }
        name => name.and_then(Result::ok),
    };
    match name {
        Some(name) if remove => say(Notice::Unstore { name }),
        name if store && !remove => {
            if fds_missing {
                say(Notice::NotStored { why: Reason::DescriptorsScarce });
            }
            if !fds.is_empty() {
                let left = Said::Left { name: name.unwrap_or_default(), watched, fds };
                return received.said.push(left);
            }
        }
        // Without a name there is nothing to remove.
        _ => {}
    }
    received.unwanted.extend(fds);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    use std::process::{Child, Command};
    use tempfile::TempDir;

    fn anybody(_: &Sender) -> bool {
        true
    }

    fn bound() -> (NotifySocket, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (NotifySocket::bind(&dir.path().join("bot"), None).unwrap(), dir)
    }

    /// What stands on its own, and how many datagrams were dropped; what came along is closed.
    fn plain(received: Received) -> (Vec<Notice>, u64) {
        let notice = |said| if let Said::Notice(notice) = said { Some(notice) } else { None };
        (received.said.into_iter().filter_map(notice).collect(), received.rejected)
    }

    fn parsed(datagram: &[u8]) -> Vec<Notice> {
        let mut received = Received::default();
        parse(datagram, Vec::new(), false, &mut received);
        plain(received).0
    }

    /// Receives until `child` has ended, which it may do only when it was listened to, and then what is left.
    fn hear(socket: &mut NotifySocket, child: &mut Child, sender_ok: &dyn Fn(&Sender) -> bool) -> (Vec<Notice>, u64) {
        let pid = rustix::process::Pid::from_child(child);
        let ended = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        let mut all = (Vec::new(), 0);
        loop {
            let mut fds = [PollFd::new(&*socket, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
            let count = poll(&mut fds, Some(&Timespec { tv_sec: 30, tv_nsec: 0 })).unwrap();
            assert!(count > 0, "it waits for something: {all:?}");
            let has_ended = !fds[1].revents().is_empty();
            let (notices, rejected) = plain(socket.receive(sender_ok));
            all.0.extend(notices);
            all.1 += rejected;
            if has_ended {
                assert!(child.wait().unwrap().success());
                return all;
            }
        }
    }

    #[test]
    fn assignments_are_read_line_by_line() {
        let text = "READY=1\nSTATUS=up \u{1b}[2J=x\nWATCHDOG=1\nWATCHDOG=trigger\nWATCHDOG_USEC=20000\n\
                    EXTEND_TIMEOUT_USEC=5000000\nMAINPID=1\nX_OWN=1\nBARRIER=1\nREADY=0\nWATCHDOG_USEC=-1\nnothing\n\n=\nREADY=1";
        let expected = [
            Notice::Ready,
            Notice::Status(String::from("up \\u{1b}[2J=x")),
            Notice::Heartbeat,
            Notice::HeartbeatTrigger,
            Notice::HeartbeatWithin(Span::from_ms(20)),
            Notice::ExtendTimeout(Span::from_secs(5)),
            Notice::Ready,
        ];
        assert_eq!(parsed(text.as_bytes()), expected);
    }

    /// What became of one datagram with one descriptor: its name and whether it is watched, if it is to be kept, else it is
    /// unwanted; and what was said.
    fn sent_with_fd(text: &str) -> (Option<(String, bool)>, Vec<Notice>) {
        let mut received = Received::default();
        parse(text.as_bytes(), vec![io::pipe().unwrap().0.into()], false, &mut received);
        let left = |said: &Said| match said {
            Said::Left { name, watched, fds } => Some((name.to_string(), *watched)).filter(|_| fds.len() == 1),
            Said::Notice(_) | Said::Figure(_) => None,
        };
        let kept = received.said.iter().find_map(left);
        assert_eq!(received.unwanted.len(), usize::from(kept.is_none()), "it is one or the other");
        (kept, plain(received).0)
    }

    #[test]
    fn descriptors_are_left_under_a_name_or_are_unwanted() {
        let named = |name: &str, watched| Some((name.to_owned(), watched));
        assert_eq!(sent_with_fd("FDSTORE=1"), (named("stored", true), vec![]));
        assert_eq!(sent_with_fd("FDNAME=a b\nFDSTORE=1\nFDPOLL=0"), (named("a b", false), vec![]));
        assert_eq!(sent_with_fd("FDSTORE=1\nFDNAME=\nFDNAME=second"), (named("", true), vec![]));
        assert_eq!(sent_with_fd("READY=1\nFDSTORE=1"), (named("stored", true), vec![Notice::Ready]));
        let bad = || Notice::NotStored { why: Reason::DescriptorName };
        assert_eq!(sent_with_fd("READY=1\nFDSTORE=1\nFDNAME=a:b"), (None, vec![Notice::Ready, bad()]));
        assert_eq!(sent_with_fd("FDSTOREREMOVE=1\nFDNAME=\u{fc}"), (None, vec![bad()]));
        let unstored = Notice::Unstore { name: FdName::try_from("x").unwrap() };
        assert_eq!(sent_with_fd("FDSTORE=1\nFDSTOREREMOVE=1\nFDNAME=x"), (None, vec![unstored]));
        for text in ["FDSTOREREMOVE=1", "FDSTORE=0", "BARRIER=1", "FDNAME=a:b"] {
            assert_eq!(sent_with_fd(text), (None, vec![]), "{text}");
        }
    }

    #[test]
    fn a_datagram_is_bounded_in_all_ways() {
        assert_eq!(parsed("READY=1\n".repeat(1000).as_bytes()).len(), ASSIGNMENTS_MAX);
        let long = parsed(format!("STATUS={}", "ü".repeat(1000)).as_bytes());
        assert_eq!(long, [Notice::Status("ü".repeat(STATUS_CHARS))]);
        assert_eq!(parsed(b"STATUS=\xff\xfe"), [Notice::Status(String::from("\u{fffd}\u{fffd}"))]);

        let (mut socket, _dir) = bound();
        let client = UnixDatagram::unbound().unwrap();
        client.connect(socket.path()).unwrap();
        client.send(format!("READY=1\n{}", "x".repeat(DATAGRAM_BYTES)).as_bytes()).unwrap();
        client.send(b"WATCHDOG=1").unwrap();
        assert_eq!(plain(socket.receive(&anybody)), (vec![Notice::Heartbeat], 1));
        assert_eq!(plain(socket.receive(&anybody)), (vec![], 0));
    }

    #[test]
    fn a_datagram_from_outside_is_dropped_and_counted() {
        let (mut socket, _dir) = bound();
        let client = UnixDatagram::unbound().unwrap();
        client.send_to(b"READY=1", socket.path()).unwrap();
        client.send_to(b"WATCHDOG=1", socket.path()).unwrap();
        let elsewhere = Membership::Cgroup { id: u64::MAX, path: String::from("/hale-0badcafe/bot") };
        assert_eq!(plain(socket.receive(&|sender| elsewhere.has(sender))), (vec![], 2));
        assert_eq!(socket.rejected(), 2);
    }

    #[test]
    fn without_cgroups_the_user_decides() {
        let own = rustix::process::geteuid().as_raw();
        let sender = |uid| Sender { pid: 1, uid, gid: 1, pidfd: None };
        let member = Membership::User { uid: 4711 };
        assert!(member.has(&sender(4711)) && member.has(&sender(own)) && member.has(&sender(0)));
        assert!(!member.has(&sender(own + 4712)));
    }

    #[test]
    fn a_cgroup_with_a_similar_name_is_another_one() {
        assert!(is_at_or_below("/hale-1/bot", "/hale-1/bot") && is_at_or_below("/hale-1/bot/worker", "/hale-1/bot"));
        assert!(!is_at_or_below("/hale-1/bot2", "/hale-1/bot") && !is_at_or_below("/hale-1", "/hale-1/bot"));
    }

    #[test]
    fn an_old_socket_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bot");
        drop(UnixDatagram::bind(&path).unwrap());
        let socket = NotifySocket::bind(&path, Some(rustix::process::geteuid().as_raw())).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        assert!(matches!(NotifySocket::bind(&path, None), Err(BindError::Io { step: "something else is there", .. })));
        let long = dir.path().join("x".repeat(108));
        let error = NotifySocket::bind(&long, None).unwrap_err().to_string();
        let bytes = long.as_os_str().as_bytes().len();
        assert!(error.contains(&format!("a path of {bytes} bytes, but unix(7) allows 107")), "{error}");
    }

    mod needs_root {
        use super::*;

        #[test]
        fn the_socket_of_another_user_belongs_to_that_user() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("bot");
            let _socket = NotifySocket::bind(&path, Some(4711)).unwrap();
            let file = fs::metadata(&path).unwrap();
            assert_eq!((file.uid(), file.mode() & 0o777), (4711, 0o600));
        }
    }

    mod needs_systemd_notify {
        use super::*;

        /// It waits for its barrier: only a receiver that closes what comes along lets it end.
        #[test]
        fn systemd_notify_is_heard_and_let_go() {
            let (mut socket, _dir) = bound();
            let mut command = Command::new("systemd-notify");
            command.env("NOTIFY_SOCKET", socket.path()).args(["--ready", "--status=as good as new", "WATCHDOG=1"]);
            let heard = hear(&mut socket, &mut command.spawn().unwrap(), &anybody);
            let status = Notice::Status(String::from("as good as new"));
            assert_eq!(heard, (vec![Notice::Ready, status, Notice::Heartbeat], 0));
        }
    }

    mod needs_sdnotify {
        use super::*;

        #[test]
        fn pythons_sdnotify_is_heard() {
            let (mut socket, _dir) = bound();
            let script = "import sdnotify; n = sdnotify.SystemdNotifier(debug=True)\n\
                          for text in ['READY=1', 'STATUS=up', 'WATCHDOG=1']: n.notify(text)";
            let mut command = Command::new(std::env::var_os("HALE_TEST_SDNOTIFY_PYTHON").unwrap());
            command.env("NOTIFY_SOCKET", socket.path()).args(["-c", script]);
            let heard = hear(&mut socket, &mut command.spawn().unwrap(), &anybody);
            let notices = vec![Notice::Ready, Notice::Status(String::from("up")), Notice::Heartbeat];
            assert_eq!(heard, (notices, 0));
        }
    }

    mod needs_cgroup2 {
        mod needs_python {
            use super::super::*;
            use crate::execute::tree::{Kind, Trees};
            use hale_core::ids::Name;

            #[test]
            fn a_sender_in_the_services_cgroup_is_heard_and_one_beside_it_is_not() {
                let trees = Trees::open(&format!("{:08x}", std::process::id()));
                let Kind::Cgroup2 { path: top } = trees.kind() else { panic!("no cgroup v2") };
                let tree = trees.prepare(&Name::try_from("bot").unwrap()).unwrap();
                let (id, path) = (tree.cgroup_id().unwrap(), tree.cgroup_path().unwrap().to_owned());
                let member = Membership::Cgroup { id, path };
                fs::create_dir_all(top.join("bot/worker")).unwrap();
                fs::create_dir_all(top.join("bot2")).unwrap();

                let script = r#"echo $$ >"$1/cgroup.procs" && exec python3 -c "$2""#;
                let send = "import os, socket, sys\n\
                            s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
                            s.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])\n\
                            sys.stdin.read()";
                let (mut socket, _dir) = bound();
                for (group, expected) in [("bot", true), ("bot/worker", true), ("bot2", false), ("", false)] {
                    let mut command = Command::new("sh");
                    command.args(["-c", script, "sh"]).arg(top.join(group)).arg(send);
                    command.env("NOTIFY_SOCKET", socket.path()).stdin(std::process::Stdio::piped());
                    let mut child = command.spawn().unwrap();
                    poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&Timespec { tv_sec: 30, tv_nsec: 0 }))
                        .unwrap();
                    let alive = socket.receive(&|sender| member.has(sender));
                    assert_eq!(!alive.said.is_empty(), expected, "alive, in {group:?}");
                    drop(child.stdin.take());
                    assert!(child.wait().unwrap().success());

                    // Ended and reaped before it is heard, it is heard where the kernel remembers its cgroup, and
                    // where that is the service's own.
                    let mut child = command.spawn().unwrap();
                    drop(child.stdin.take());
                    assert!(child.wait().unwrap().success());
                    let remembered = std::cell::Cell::new(None);
                    let received = socket.receive(&|sender| {
                        remembered.set(sender.pidfd.as_ref().and_then(datagram::cgroup_id));
                        member.has(sender)
                    });
                    assert_eq!(!received.said.is_empty(), remembered.get() == Some(id), "ended, in {group:?}");
                }
                drop(tree);
                trees.close().unwrap();
            }
        }
    }
}
