//! What a service was doing when it was found not to work: its threads, its connections, and what they waited for.
//!
//! Read by the host before the service is ended, because it is gone afterwards; told here in a sentence.

use crate::memory::Pressure;
use crate::time::Span;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// How long a decision waits at most for the look at what the service does: a small part of the time in which a failure is
/// found (some probes of a second), and many times what reading costs.
pub const EXAMINED_WITHIN: Span = Span::from_ms(100);

/// From so long on the silence of a connection is worth a word: what answers at all answers within this.
const SILENT_FROM: Span = Span::from_secs(1);

/// From so much on it is worth a word that the tree waits for something: a tenth of the time.
const PRESSED_FROM_PERMYRIAD: u32 = 1_000;

/// How many sorts of threads, and how many connections, are told of in the sentence; the record has more of them.
const TOLD: usize = 3;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examination {
    /// How long the look took, from the order to its end.
    pub took_us: u64,
    /// How many processes live.
    pub processes: u32,
    /// How many threads they have.
    pub threads: u32,
    /// What they do: those that do the same together, most of them first. Bounded.
    pub doing: Vec<Doing>,
    /// How many descriptors they have open.
    pub descriptors: u32,
    /// How many of those are sockets, of whatever sort.
    pub sockets: u32,
    /// Connections and listening sockets (TCP and UDP), those that tell most first. Bounded.
    pub connections: Vec<Connection>,
    /// How many more there were than are kept.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u32,
    /// How much the tree waited for processors in the last ten seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Pressure>,
    /// The same of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Pressure>,
    /// The same of disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io: Option<Pressure>,
    /// There was more than the look had time or room for, beside connections that are left out.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_partial: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Threads that do the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doing {
    /// How many.
    pub threads: u32,
    /// The process of the first of them.
    pub pid: i32,
    /// The first of them. Equal to `pid`: the main thread.
    pub tid: i32,
    /// Its name (`comm`), escaped.
    pub name: String,
    /// Whether it runs.
    pub state: ThreadState,
    /// The kernel's function that it waits in (proc_pid_wchan(5)); none where it runs, or the kernel does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_channel: Option<String>,
    /// The system call that it is in (proc_pid_syscall(5)); none where it is in none, or the kernel does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<Call>,
    /// The functions of the kernel that it is in, innermost first (`/proc/PID/stack`). Only root is told them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stack: Vec<String>,
}

/// Whether a thread runs (proc_pid_stat(5), field 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThreadState {
    /// R.
    Running,
    /// S: a signal would wake it.
    Sleeping,
    /// D: nothing wakes it but what it waits for.
    Uninterruptible,
    /// T: by SIGSTOP and the like.
    Stopped,
    /// t: by a debugger.
    Traced,
    /// Z or X.
    Dead,
    /// One that this version does not know.
    Other,
}

/// A system call that a thread is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Its name, or its number where that is not known.
    pub name: String,
    /// What the thread passed to it. Addresses among them mean nothing outside of the process.
    pub arguments: [u64; 6],
    /// The descriptor that it is about, of calls that are about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fd: Option<i32>,
    /// What that descriptor is: a path or, as in proc_pid_fd(5), `pipe:[…]`, `socket:[…]` and the like; escaped, bounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// A connection, or a socket that waits for some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// A process that has it.
    pub pid: i32,
    /// Its descriptor there.
    pub fd: i32,
    /// By which protocol.
    pub protocol: Protocol,
    /// Its state, as the kernel calls it, in small letters: `established`, `listen`, `close_wait`, …
    pub state: String,
    /// The own end.
    pub local: String,
    /// The other end; none of one that listens, and of UDP without a fixed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Bytes that came, and that the service has not read; of UDP the kernel tells only what they take in memory. Of one that
    /// listens: connections that wait to be accepted.
    pub unread: u32,
    /// Of one that listens: connections that the other end has given up while they waited.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub given_up: u32,
    /// Bytes that it sent and the other end has not acknowledged. Of one that listens: how many connections may wait.
    pub unsent: u32,
    /// How long ago the last data came; none where the kernel does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_ms: Option<u64>,
}

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Connection {
    /// Whether it waits for others to connect.
    #[must_use]
    pub fn listens(&self) -> bool {
        self.peer.is_none() && self.protocol == Protocol::Tcp
    }

    fn silent(&self) -> Option<Span> {
        self.silent_ms.map(Span::from_ms).filter(|silent| *silent >= SILENT_FROM)
    }

    /// Whether the service itself made it: then its own port is none that it listens at.
    fn is_outward(&self, all: &[Self]) -> bool {
        let port = |address: &str| address.rsplit_once(':').map(|(_, port)| String::from(port));
        !self.listens() && !all.iter().any(|other| other.listens() && port(&other.local) == port(&self.local))
    }
}

/// All in a sentence, as an operator would say it.
impl fmt::Display for Examination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = self.threads_told();
        parts.extend(self.connections_told());
        for (what, pressure) in [("a processor", self.cpu), ("memory", self.memory), ("a disk", self.io)] {
            if let Some(Pressure { some_permyriad, .. }) = pressure
                && some_permyriad >= PRESSED_FROM_PERMYRIAD
            {
                parts.push(format!("waited for {what} {} % of the time", some_permyriad / 100));
            }
        }
        if parts.is_empty() {
            parts.push(String::from("what it was doing could not be read"));
        } else if self.is_partial {
            parts.push(String::from("there was more than could be looked at"));
        }
        f.write_str(&parts.join("; "))
    }
}

impl Examination {
    fn threads_told(&self) -> Vec<String> {
        let mut parts = Vec::new();
        for doing in self.doing.iter().take(TOLD) {
            let who = match (doing.threads, self.threads) {
                (1, 1) if !self.is_partial => String::from("its only thread"),
                (all, threads) if all == threads && !self.is_partial => format!("all {threads} threads"),
                (1, _) if doing.tid == doing.pid => format!("the main thread of pid {} ({})", doing.pid, doing.name),
                (1, _) => format!("thread {} ({})", doing.tid, doing.name),
                (some, _) if self.is_partial => format!("{some} threads"),
                (some, threads) => format!("{some} of {threads} threads"),
            };
            parts.push(format!("{who} {}", doing.words(doing.threads > 1)));
            if let Some(for_what) = self.awaited(doing)
                && let Some(part) = parts.last_mut()
            {
                part.push_str(&for_what);
            }
        }
        parts
    }

    /// What the descriptor is that threads wait for.
    fn awaited(&self, doing: &Doing) -> Option<String> {
        let call = doing.call.as_ref()?;
        let fd = call.fd?;
        let Some(connection) = self.connection_of(doing.pid, fd) else {
            let file = call.file.as_ref()?;
            // Its number means nothing to anybody.
            let is_socket = file.starts_with("socket:[");
            return Some(if is_socket { String::from(" on a socket") } else { format!(" on {}", quoted(file)) });
        };
        let peer = connection.peer.as_ref()?;
        let told = if call.sends() && connection.unsent > 0 {
            format!(", which has not taken {}", bytes(connection.unsent.into()))
        } else if connection.unread > 0 {
            format!(", {} unread", bytes(connection.unread.into()))
        } else {
            connection.silent().map_or(String::new(), |silent| format!(", which has sent nothing for {silent}"))
        };
        Some(format!(" on a connection to {peer}{told}"))
    }

    fn connection_of(&self, pid: i32, fd: i32) -> Option<&Connection> {
        self.connections.iter().find(|connection| (connection.pid, connection.fd) == (pid, fd))
    }

    fn connections_told(&self) -> Vec<String> {
        let awaited = |connection: &&Connection| {
            self.doing.iter().any(|doing| {
                let fd = doing.call.as_ref().and_then(|call| call.fd);
                doing.pid == connection.pid && fd == Some(connection.fd)
            })
        };
        let all = &self.connections;
        let mut parts = Vec::new();
        for listener in all.iter().filter(|one| one.listens()) {
            let at = &listener.local;
            match listener.unread {
                0 => {}
                1 => parts.push(format!("1 connection waits to be accepted at {at}")),
                waiting => parts.push(format!("{waiting} connections wait to be accepted at {at}")),
            }
            match listener.given_up {
                0 => {}
                1 => parts.push(format!("1 connection was given up before it was accepted at {at}")),
                many => parts.push(format!("{many} connections were given up before they were accepted at {at}")),
            }
        }
        let others = || all.iter().filter(|one| !one.listens() && !awaited(one));
        let is_unread = |one: &&Connection| one.unread > 0;
        for one in others().filter(|one| one.protocol == Protocol::Udp).filter(is_unread).take(TOLD) {
            parts.push(format!("datagrams at {} are not read", one.local));
        }
        let unread: Vec<_> = others().filter(|one| one.protocol == Protocol::Tcp).filter(is_unread).collect();
        let sum = bytes(unread.iter().map(|one| u64::from(one.unread)).sum());
        match &unread[..] {
            [] => {}
            [one] => parts.push(format!("{sum} from {} not read", one.peer.as_deref().unwrap_or_default())),
            _ => parts.push(format!("{sum} on {} connections not read", unread.len())),
        }
        let mut silent: Vec<_> = others().filter(|one| one.unread == 0 && one.is_outward(all)).collect();
        silent.retain(|one| one.silent().is_some());
        silent.sort_by_key(|one| core::cmp::Reverse(one.silent_ms));
        for connection in silent.into_iter().take(TOLD) {
            let peer = connection.peer.as_deref().unwrap_or_default();
            let silent = connection.silent().map_or(String::new(), |silent| silent.to_string());
            parts.push(format!("nothing has come from {peer} for {silent}"));
        }
        parts.truncate(2 * TOLD);
        if self.left_out > 0 {
            parts.push(format!("{} connections more were not looked at", self.left_out));
        }
        parts
    }
}

/// `7 bytes`.
fn bytes(count: u64) -> String {
    format!("{count} byte{}", if count == 1 { "" } else { "s" })
}

/// A name that somebody else has given, as no part of the sentence.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\\\""))
}

impl Call {
    /// Whether it waits until the other end takes something.
    fn sends(&self) -> bool {
        matches!(self.name.as_str(), "write" | "writev" | "sendto" | "sendmsg" | "sendmmsg" | "sendfile" | "splice")
    }
}

impl Doing {
    /// What they do, as a predicate.
    fn words(&self, plural: bool) -> String {
        let of = |one: &str, many: &str| String::from(if plural { many } else { one });
        let in_what = self.call.as_ref().map(|call| &call.name).or(self.wait_channel.as_ref());
        let in_what = in_what.map_or(String::new(), |what| format!(" in {what}"));
        match self.state {
            ThreadState::Running => format!("{}{in_what}", of("runs", "run")),
            ThreadState::Sleeping => format!("{}{in_what}", of("waits", "wait")),
            ThreadState::Uninterruptible => {
                // The function of the kernel tells more than the call here.
                let channel = self.wait_channel.as_ref().filter(|_| self.call.is_some());
                let channel = channel.map_or(String::new(), |channel| format!(" ({channel})"));
                format!("{}{in_what}{channel} and cannot be interrupted", of("waits", "wait"))
            }
            ThreadState::Stopped => of("is stopped by a signal", "are stopped by a signal"),
            ThreadState::Traced => of("is stopped by a debugger", "are stopped by a debugger"),
            ThreadState::Dead => of("is dead", "are dead"),
            ThreadState::Other => of("is in a state that is not known", "are in a state that is not known"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn doing(threads: u32, tid: i32, call: &str) -> Doing {
        let call = Some(Call { name: call.to_string(), arguments: [0; 6], fd: None, file: None });
        let (name, state) = (String::from("bot"), ThreadState::Sleeping);
        Doing { threads, pid: 7, tid, name, state, wait_channel: None, call, stack: Vec::new() }
    }

    fn connection(fd: i32, peer: Option<&str>, unread: u32, silent_ms: u64) -> Connection {
        let (local, state) = (String::from("10.0.0.1:80"), String::from("established"));
        let peer = peer.map(String::from);
        let (protocol, silent_ms) = (Protocol::Tcp, Some(silent_ms));
        Connection { pid: 7, fd, protocol, state, local, peer, unread, given_up: 0, unsent: 0, silent_ms }
    }

    fn found(threads: u32, doing: Vec<Doing>, connections: Vec<Connection>) -> Examination {
        Examination { processes: 1, threads, doing, connections, ..Examination::default() }
    }

    #[test]
    fn a_deadlock_beside_a_silent_upstream_is_told_as_an_operator_would() {
        let upstream =
            Connection { local: String::from("10.0.0.1:40000"), ..connection(5, Some("10.0.0.7:443"), 0, 41_000) };
        let told = found(4, vec![doing(4, 7, "futex")], vec![upstream.clone()]).to_string();
        assert_eq!(told, "all 4 threads wait in futex; nothing has come from 10.0.0.7:443 for 41 s");
        let mut waits = doing(1, 7, "recvfrom");
        waits.call.as_mut().unwrap().fd = Some(5);
        let told = found(4, vec![doing(3, 8, "futex"), waits], vec![upstream]).to_string();
        assert_eq!(
            told,
            "3 of 4 threads wait in futex; the main thread of pid 7 (bot) waits in recvfrom on a connection to 10.0.0.7:443, \
             which has sent nothing for 41 s"
        );
    }

    #[test]
    fn clients_that_are_kept_waiting_are_told_and_idle_ones_are_not() {
        let listens = connection(3, None, 12, 0);
        let client = connection(4, Some("10.0.0.9:5000"), 0, 90_000);
        let asks = connection(6, Some("10.0.0.8:5000"), 120, 0);
        let mut busy = doing(1, 7, "");
        (busy.call, busy.state) = (None, ThreadState::Running);
        let told = found(1, vec![busy], vec![listens, client, asks]).to_string();
        assert_eq!(
            told,
            "its only thread runs; 12 connections wait to be accepted at 10.0.0.1:80; 120 bytes from 10.0.0.8:5000 not read"
        );
    }

    #[test]
    fn what_nothing_can_interrupt_is_told_with_the_kernels_function() {
        let mut hung = doing(1, 9, "fsync");
        hung.state = ThreadState::Uninterruptible;
        hung.wait_channel = Some(String::from("nfs_wait_bit_killable"));
        if let Some(call) = &mut hung.call {
            (call.fd, call.file) = (Some(4), Some(String::from("/srv/data/db")));
        }
        let mut all = found(2, vec![hung], Vec::new());
        all.memory = Some(Pressure { some_permyriad: 999, full_permyriad: 0 });
        all.io = Some(Pressure { some_permyriad: 9_730, full_permyriad: 9_000 });
        assert_eq!(
            all.to_string(),
            "thread 9 (bot) waits in fsync (nfs_wait_bit_killable) and cannot be interrupted on \"/srv/data/db\"; \
             waited for a disk 97 % of the time"
        );
        assert_eq!(Examination::default().to_string(), "what it was doing could not be read");
    }

    #[test]
    fn what_was_not_all_seen_is_not_called_all_and_names_of_others_are_quoted() {
        let mut waits = doing(617, 9, "read");
        if let Some(call) = &mut waits.call {
            (call.fd, call.file) = (Some(4), Some(String::from("/tmp/x\"; its only thread runs")));
        }
        let all = Examination { is_partial: true, ..found(617, vec![waits], Vec::new()) };
        assert_eq!(
            all.to_string(),
            "617 threads wait in read on \"/tmp/x\\\"; its only thread runs\"; there was more than could be looked at"
        );
    }

    #[test]
    fn probes_that_were_given_up_are_no_clients_and_who_takes_nothing_is_not_called_silent() {
        let listens = Connection { given_up: 2, ..connection(3, None, 0, 0) };
        let mut sends = doing(1, 7, "sendto");
        sends.call.as_mut().unwrap().fd = Some(5);
        let slow = Connection { unsent: 2_500_000, ..connection(5, Some("10.0.0.7:443"), 0, 9_000) };
        let datagrams = Connection { protocol: Protocol::Udp, peer: None, ..connection(6, None, 832, 0) };
        assert_eq!(
            found(1, vec![sends], vec![listens, slow, datagrams]).to_string(),
            "its only thread waits in sendto on a connection to 10.0.0.7:443, which has not taken 2500000 bytes; \
             2 connections were given up before they were accepted at 10.0.0.1:80; datagrams at 10.0.0.1:80 are not read"
        );
    }
}
