//! The messages between supervisor and guardian: what is in them and how they are written down.
//!
//! One message is one packet of a `SOCK_SEQPACKET` pair. Both ends are the same binary, so there is no version.

pub use crate::guardian::key::StoreKey;
use crate::guardian::timer::TimerReport;
use crate::guardian::wire::{Reader, Writer};
use crate::sys::child::Step;
use crate::sys::wait::Exit;
use hale_core::descriptor::STORED_MAX;
use hale_core::ids::Epoch;
use hale_core::policy::LISTEN_MAX;
use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};

/// How many services one guardian can hold: eight times the thousand that Hale is measured with. The table is
/// reserved at the start, but only the used part of it costs memory.
pub const MAX_SERVICES: u32 = 8192;

/// The longest order, in bytes, arguments and environment included. It must fit into the smallest send buffer that
/// kernels give by default (212,992 bytes) and is what Linux allows for a single argument (`MAX_ARG_STRLEN`).
pub const MAX_ORDER_BYTES: usize = 128 * 1024;

/// How many arguments, and how many variables, one order may have: beyond what a configuration holds that a person
/// wrote, and 32 KiB of pointers each.
pub const MAX_STRINGS: usize = 4096;

/// How many supplementary groups one order may have: the kernel's 65,536 (`NGROUPS_MAX`) would be 256 KiB of
/// memory for something that has tens.
pub const MAX_GROUPS: usize = 1024;

/// How many kept descriptors one order may pass on: below the room that a child has for them ([`LOW_FDS`](crate::sys::child::LOW_FDS)).
pub const MAX_PASSED: usize = LISTEN_MAX + STORED_MAX;

/// The longest answer, in bytes: that of a lost supervisor, with what the kernel said of it.
pub(crate) const MAX_ANSWER_BYTES: usize = 256;

/// How much of what the kernel says of a supervisor that hangs is kept, in bytes: state, place in the kernel, system call.
pub(crate) const MAX_EVIDENCE_BYTES: usize = 200;

/// A place in the guardian's table: below [`MAX_SERVICES`]. A service keeps its slot, and with it its output pipe,
/// until it is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whom a service runs as. `None` in an order: as Hale does, with Hale's groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity<'a> {
    /// Real, effective and saved user id.
    pub uid: u32,
    /// Real, effective and saved group id.
    pub gid: u32,
    /// All supplementary groups; at most [`MAX_GROUPS`].
    pub groups: &'a [u32],
}

/// Everything that is needed to start one process. Nothing is looked up or searched by the guardian.
///
/// What no order can change: a new session, empty signal mask, default signal handlers, `/dev/null` as input, the
/// slot's pipe as output and error output, no other descriptor than those of the store, `no_new_privs`, and the `oom_score_adj` that Hale
/// itself was started with.
#[derive(Debug, Clone, Copy)]
pub struct SpawnOrder<'a> {
    /// Where the guardian keeps it.
    pub slot: Slot,
    /// The process's number; above the slot's last one.
    pub epoch: Epoch,
    /// The file to execute: an absolute path, or one relative to `directory`. No search.
    pub program: &'a CStr,
    /// The arguments, from argv\[0\] on.
    pub argv: &'a [CString],
    /// The whole environment, as `NAME=value`.
    pub environment: &'a [CString],
    /// The working directory, entered as the service's user.
    pub directory: &'a CStr,
    /// Whom it runs as.
    pub identity: Option<Identity<'a>>,
    /// Its umask (umask(2)).
    pub umask: u32,
    /// Soft and hard `RLIMIT_NOFILE`; `None`: what Hale was started with.
    pub open_files_limit: Option<u64>,
    /// Its cgroup's directory (cgroup v2; `O_PATH` is enough): it is born in it.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// What it gets of the guardian's store, from descriptor 3 on, in this order; at most [`MAX_PASSED`]. With any,
    /// `LISTEN_PID` is added to its environment.
    pub passed: &'a [StoreKey],
}

/// Why a process could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpawnFailure {
    /// What was being done. For [`Step::Exec`] the path concerned is the order's `program`, for
    /// [`Step::Directory`] its `directory`.
    pub step: Step,
    /// The error number (errno(3)).
    pub errno: i32,
}

impl fmt::Display for SpawnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step.name(), std::io::Error::from_raw_os_error(self.errno))
    }
}

/// A signal that the operator, or the init system, sent to Hale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostSignal {
    /// SIGTERM: stop everything in order.
    Terminate,
    /// SIGINT, as Ctrl-C sends it: the same.
    Interrupt,
    /// SIGHUP: reload.
    Hangup,
}

/// What the guardian tells the supervisor.
#[derive(Debug)]
pub enum GuardianEvent {
    /// The process exists; it has not executed its program yet. The pidfd becomes readable when it ends.
    Spawned {
        /// Whose.
        slot: Slot,
        /// Which.
        epoch: Epoch,
        /// Its process id.
        pid: i32,
        /// It, for as long as it is held (pidfd_open(2)); `None` when the supervisor could have no more descriptors.
        pidfd: Option<OwnedFd>,
    },
    /// Its program is running. (A process that is killed before it could execute is reported so, too: the kernel
    /// shows no difference; [`GuardianEvent::Exited`] follows.)
    Executed {
        /// Whose.
        slot: Slot,
        /// Which.
        epoch: Epoch,
    },
    /// It could not be started, and nothing of it is left. Once, until [acknowledged](super::client::GuardianClient::ack).
    SpawnFailed {
        /// Whose.
        slot: Slot,
        /// Which.
        epoch: Epoch,
        /// Where and why.
        failure: SpawnFailure,
    },
    /// It ended and was reaped. Once, until [acknowledged](super::client::GuardianClient::ack).
    Exited {
        /// Whose.
        slot: Slot,
        /// Which.
        epoch: Epoch,
        /// How.
        exit: Exit,
    },
    /// A supervisor was lost before this one: first of all that is told, then the store, then all slots, then the first
    /// [`Challenged`](Self::Challenged).
    Lost {
        /// How it ended.
        exit: Exit,
        /// What the kernel said of it, if it was killed because it made no progress.
        evidence: Option<String>,
    },
    /// The guardian before this one was lost, and its supervisor with it: told like [`Lost`](Self::Lost). Slots that are not
    /// told are unknown, not unused.
    GuardianLost,
    /// A descriptor that an earlier supervisor has put into the store.
    Stored {
        /// What it is.
        key: StoreKey,
        /// It; `None` when this process can have no more descriptors.
        fd: Option<OwnedFd>,
    },
    /// The newest process of this slot is over, and that was acknowledged to an earlier supervisor.
    Over {
        /// Whose.
        slot: Slot,
        /// Which.
        epoch: Epoch,
    },
    /// Prove that the loop turns: [`prove`](super::client::GuardianClient::prove) by what the loop itself orders.
    Challenged {
        /// To be sent back.
        nonce: u64,
    },
    /// Somebody sent a signal to Hale.
    Signalled(HostSignal),
    /// The keeper died and a new one was started: call [`KeeperClient::resend`](crate::keeper::client::KeeperClient::resend).
    KeeperReplaced,
    /// The hardware timer, once for each supervisor and at each change; never where none is configured.
    Hardware(TimerReport),
    /// The guardian is gone: end all trees and exit.
    Gone,
}

const SPAWN: u8 = 1;
const ACK: u8 = 2;
const RELEASE: u8 = 3;
const SHUTDOWN_DONE: u8 = 4;
const MAY_REBOOT: u8 = 32;
const REBOOT: u8 = 33;
const PROVE: u8 = 5;
const STORE: u8 = 6;
const UNSTORE: u8 = 7;
const CLOSE: u8 = 8;

const SPAWNED: u8 = 1;
const EXECUTED: u8 = 2;
const SPAWN_FAILED: u8 = 3;
const EXITED: u8 = 4;
const SIGNALLED: u8 = 5;
const KEEPER_REPLACED: u8 = 6;
const HARDWARE: u8 = 32;
const LOST: u8 = 7;
const STORED: u8 = 8;
const OVER: u8 = 9;
const CHALLENGED: u8 = 10;
const GUARDIAN_LOST: u8 = 11;

const HAS_IDENTITY: u8 = 1;
const HAS_OPEN_FILES: u8 = 2;
const HAS_CGROUP: u8 = 4;

/// Writes a spawn order; its cgroup goes beside it as a descriptor.
pub(crate) fn write_spawn(out: &mut Vec<u8>, order: &SpawnOrder<'_>) {
    let mut flags = 0;
    let mut out = Writer(out);
    out.u8(SPAWN);
    out.u32(order.slot.0);
    out.u64(order.epoch.0);
    if order.identity.is_some() {
        flags |= HAS_IDENTITY;
    }
    if order.open_files_limit.is_some() {
        flags |= HAS_OPEN_FILES;
    }
    if order.cgroup.is_some() {
        flags |= HAS_CGROUP;
    }
    out.u8(flags);
    out.u32(order.umask);
    if let Some(identity) = order.identity {
        out.u32(identity.uid);
        out.u32(identity.gid);
        out.u32(count(identity.groups.len()));
        identity.groups.iter().for_each(|&group| out.u32(group));
    }
    if let Some(limit) = order.open_files_limit {
        out.u64(limit);
    }
    out.text(order.program);
    out.text(order.directory);
    for strings in [order.argv, order.environment] {
        out.u32(count(strings.len()));
        strings.iter().for_each(|string| out.text(string));
    }
    out.u32(count(order.passed.len()));
    order.passed.iter().flat_map(|key| key.numbers()).for_each(|byte| out.u8(byte));
}

/// A length as it is written; a length beyond it is beyond every bound that is checked before and after.
fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Writes an acknowledgement.
pub(crate) fn write_ack(out: &mut Vec<u8>, slot: Slot, epoch: Epoch) {
    let mut out = Writer(out);
    out.u8(ACK);
    out.u32(slot.0);
    out.u64(epoch.0);
}

/// Writes a release.
pub(crate) fn write_release(out: &mut Vec<u8>, slot: Slot) {
    let mut out = Writer(out);
    out.u8(RELEASE);
    out.u32(slot.0);
}

/// Writes the last order.
pub(crate) fn write_shutdown_done(out: &mut Vec<u8>, exit_code: u8) {
    let mut out = Writer(out);
    out.u8(SHUTDOWN_DONE);
    out.u8(exit_code);
}

/// Writes a proof of progress.
pub(crate) fn write_prove(out: &mut Vec<u8>, nonce: u64) {
    let mut out = Writer(out);
    out.u8(PROVE);
    out.u64(nonce);
}

/// Writes that a descriptor, which goes beside it, is to be kept.
pub(crate) fn write_store(out: &mut Vec<u8>, key: StoreKey) {
    write_key(out, STORE, key);
}

/// Writes that a descriptor need not be kept any more.
pub(crate) fn write_unstore(out: &mut Vec<u8>, key: StoreKey) {
    write_key(out, UNSTORE, key);
}

fn write_key(out: &mut Vec<u8>, what: u8, key: StoreKey) {
    let mut out = Writer(out);
    out.u8(what);
    key.numbers().into_iter().for_each(|byte| out.u8(byte));
}

/// Writes that the descriptor which goes beside it is to be closed.
pub(crate) fn write_close(out: &mut Vec<u8>) {
    Writer(out).u8(CLOSE);
}

/// Writes whether the guardian may stop petting the hardware timer.
pub(crate) fn write_may_reboot(out: &mut Vec<u8>, allowed: bool) {
    let mut out = Writer(out);
    out.u8(MAY_REBOOT);
    out.u8(u8::from(allowed));
}

/// Writes the order to stop petting it.
pub(crate) fn write_reboot(out: &mut Vec<u8>) {
    Writer(out).u8(REBOOT);
}

/// An order as the guardian reads it: borrowed from the message, nothing copied.
#[derive(Debug)]
pub(crate) enum Order<'a> {
    Spawn(Spawn<'a>),
    Ack {
        slot: Slot,
        epoch: Epoch,
    },
    Release {
        slot: Slot,
    },
    ShutdownDone {
        exit_code: u8,
    },
    /// Whether it may stop petting the hardware timer when it has a reason to.
    MayReboot {
        allowed: bool,
    },
    /// A reason to, for good.
    Reboot,
    Prove {
        nonce: u64,
    },
    Store {
        key: StoreKey,
    },
    Unstore {
        key: StoreKey,
    },
    /// Nothing but to close what came along: whoever waits for that knows that everything before it was read.
    Close,
}

/// A [`SpawnOrder`] on the guardian's side.
#[derive(Debug)]
pub(crate) struct Spawn<'a> {
    pub slot: Slot,
    pub epoch: Epoch,
    pub umask: u32,
    pub uid_gid: Option<(u32, u32)>,
    pub groups: Numbers<'a>,
    pub open_files_limit: Option<u64>,
    pub has_cgroup: bool,
    pub program: &'a CStr,
    pub directory: &'a CStr,
    pub argv: Strings<'a>,
    pub environment: Strings<'a>,
    pub passed: Keys<'a>,
}

/// Numbers in a message.
#[derive(Debug, Clone)]
pub(crate) struct Numbers<'a>(&'a [u8]);

impl Iterator for Numbers<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let (head, tail) = self.0.split_first_chunk::<4>()?;
        self.0 = tail;
        Some(u32::from_le_bytes(*head))
    }
}

/// Keys in a message, all checked to be ones.
#[derive(Debug, Clone)]
pub(crate) struct Keys<'a>(&'a [u8]);

impl Iterator for Keys<'_> {
    type Item = StoreKey;

    fn next(&mut self) -> Option<StoreKey> {
        let mut reader = Reader(self.0);
        let key = StoreKey::read(&mut reader)?;
        self.0 = reader.0;
        Some(key)
    }
}

/// Strings in a message, all checked to be there.
#[derive(Debug, Clone)]
pub(crate) struct Strings<'a>(&'a [u8]);

impl<'a> Iterator for Strings<'a> {
    type Item = &'a CStr;

    fn next(&mut self) -> Option<&'a CStr> {
        let mut reader = Reader(self.0);
        let text = reader.text()?;
        self.0 = reader.0;
        Some(text)
    }
}

/// The slot and epoch that a message names, if it is long enough: to answer even an order that is unreadable.
pub(crate) fn read_address(message: &[u8]) -> (Slot, Epoch) {
    let mut reader = Reader(message.get(1..).unwrap_or_default());
    (Slot(reader.u32().unwrap_or(u32::MAX)), Epoch(reader.u64().unwrap_or(0)))
}

/// Reads an order; `None` when it is not one.
pub(crate) fn read_order(message: &[u8]) -> Option<Order<'_>> {
    let mut reader = Reader(message);
    let order = match reader.u8()? {
        SPAWN => Order::Spawn(read_spawn(&mut reader)?),
        ACK => Order::Ack { slot: Slot(reader.u32()?), epoch: Epoch(reader.u64()?) },
        RELEASE => Order::Release { slot: Slot(reader.u32()?) },
        SHUTDOWN_DONE => Order::ShutdownDone { exit_code: reader.u8()? },
        MAY_REBOOT => Order::MayReboot { allowed: reader.u8()? != 0 },
        REBOOT => Order::Reboot,
        PROVE => Order::Prove { nonce: reader.u64()? },
        STORE => Order::Store { key: StoreKey::read(&mut reader)? },
        UNSTORE => Order::Unstore { key: StoreKey::read(&mut reader)? },
        CLOSE => Order::Close,
        _ => return None,
    };
    reader.end()?;
    Some(order)
}

fn read_spawn<'a>(reader: &mut Reader<'a>) -> Option<Spawn<'a>> {
    let slot = Slot(reader.u32()?);
    let epoch = Epoch(reader.u64()?);
    let flags = reader.u8()?;
    let umask = reader.u32()?;
    let (mut uid_gid, mut groups) = (None, Numbers(&[]));
    if flags & HAS_IDENTITY != 0 {
        uid_gid = Some((reader.u32()?, reader.u32()?));
        let count = usize::try_from(reader.u32()?).ok().filter(|&count| count <= MAX_GROUPS)?;
        let (bytes, rest) = reader.0.split_at_checked(count * 4)?;
        (groups, reader.0) = (Numbers(bytes), rest);
    }
    let open_files_limit = if flags & HAS_OPEN_FILES != 0 { Some(reader.u64()?) } else { None };
    Some(Spawn {
        slot,
        epoch,
        umask,
        uid_gid,
        groups,
        open_files_limit,
        has_cgroup: flags & HAS_CGROUP != 0,
        program: reader.text()?,
        directory: reader.text()?,
        argv: read_strings(reader)?,
        environment: read_strings(reader)?,
        passed: read_keys(reader)?,
    })
}

fn read_keys<'a>(reader: &mut Reader<'a>) -> Option<Keys<'a>> {
    let count = usize::try_from(reader.u32()?).ok().filter(|&count| count <= MAX_PASSED)?;
    let all = reader.0;
    for _ in 0..count {
        StoreKey::read(reader)?;
    }
    Some(Keys(&all[..all.len() - reader.0.len()]))
}

fn read_strings<'a>(reader: &mut Reader<'a>) -> Option<Strings<'a>> {
    let count = usize::try_from(reader.u32()?).ok().filter(|&count| count <= MAX_STRINGS)?;
    let all = reader.0;
    for _ in 0..count {
        reader.text()?;
    }
    Some(Strings(&all[..all.len() - reader.0.len()]))
}

/// An answer on its way: at most [`MAX_ANSWER_BYTES`], on the stack.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    bytes: [u8; MAX_ANSWER_BYTES],
    length: usize,
}

impl Answer {
    fn new(kind: u8) -> Self {
        Self { bytes: [0; MAX_ANSWER_BYTES], length: 0 }.with(&[kind])
    }

    fn about(kind: u8, slot: Slot, epoch: Epoch) -> Self {
        Self::new(kind).with(&slot.0.to_le_bytes()).with(&epoch.0.to_le_bytes())
    }

    /// The answers below add at most [`TimerReport::BYTES`], or 6 and [`MAX_EVIDENCE_BYTES`].
    fn with(mut self, bytes: &[u8]) -> Self {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
        self
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub(crate) fn spawned(slot: Slot, epoch: Epoch, pid: i32) -> Self {
        Self::about(SPAWNED, slot, epoch).with(&pid.to_le_bytes())
    }

    pub(crate) fn executed(slot: Slot, epoch: Epoch) -> Self {
        Self::about(EXECUTED, slot, epoch)
    }

    pub(crate) fn spawn_failed(slot: Slot, epoch: Epoch, failure: SpawnFailure) -> Self {
        Self::about(SPAWN_FAILED, slot, epoch).with(&[failure.step.number()]).with(&failure.errno.to_le_bytes())
    }

    pub(crate) fn exited(slot: Slot, epoch: Epoch, exit: Exit) -> Self {
        Self::about(EXITED, slot, epoch).with_exit(exit)
    }

    fn with_exit(self, exit: Exit) -> Self {
        let (how, number) = match exit {
            Exit::Code(code) => (0, code),
            Exit::Signal { signal, core_dumped: false } => (1, signal),
            Exit::Signal { signal, core_dumped: true } => (2, signal),
            Exit::Unknown => (3, 0),
        };
        self.with(&[how]).with(&number.to_le_bytes())
    }

    pub(crate) fn over(slot: Slot, epoch: Epoch) -> Self {
        Self::about(OVER, slot, epoch)
    }

    pub(crate) fn stored(key: StoreKey) -> Self {
        Self::new(STORED).with(&key.numbers())
    }

    pub(crate) fn challenged(nonce: u64) -> Self {
        Self::new(CHALLENGED).with(&nonce.to_le_bytes())
    }

    /// `evidence` is cut at [`MAX_EVIDENCE_BYTES`].
    pub(crate) fn lost(exit: Exit, evidence: Option<&[u8]>) -> Self {
        let answer = Self::new(LOST).with_exit(exit).with(&[u8::from(evidence.is_some())]);
        evidence.map_or(answer, |evidence| answer.with(&evidence[..evidence.len().min(MAX_EVIDENCE_BYTES)]))
    }

    pub(crate) fn guardian_lost() -> Self {
        Self::new(GUARDIAN_LOST)
    }

    pub(crate) fn signalled(signal: HostSignal) -> Self {
        let number = match signal {
            HostSignal::Terminate => 0,
            HostSignal::Interrupt => 1,
            HostSignal::Hangup => 2,
        };
        Self::new(SIGNALLED).with(&[number])
    }

    pub(crate) fn keeper_replaced() -> Self {
        Self::new(KEEPER_REPLACED)
    }

    pub(crate) fn hardware(report: &TimerReport) -> Self {
        Self::new(HARDWARE).with(&report.write())
    }
}

/// Reads an answer; `None` when it is not one.
pub(crate) fn read_answer(message: &[u8], fd: Option<OwnedFd>) -> Option<GuardianEvent> {
    let mut reader = Reader(message);
    let kind = reader.u8()?;
    let event = match kind {
        SIGNALLED => GuardianEvent::Signalled(match reader.u8()? {
            0 => HostSignal::Terminate,
            1 => HostSignal::Interrupt,
            2 => HostSignal::Hangup,
            _ => return None,
        }),
        KEEPER_REPLACED => GuardianEvent::KeeperReplaced,
        GUARDIAN_LOST => GuardianEvent::GuardianLost,
        HARDWARE => GuardianEvent::Hardware(TimerReport::read(&mut reader)?),
        STORED => GuardianEvent::Stored { key: StoreKey::read(&mut reader)?, fd },
        CHALLENGED => GuardianEvent::Challenged { nonce: reader.u64()? },
        LOST => {
            let exit = read_exit(&mut reader)?;
            let hung = reader.u8()? == 1;
            let evidence = String::from_utf8_lossy(std::mem::take(&mut reader.0)).into_owned();
            GuardianEvent::Lost { exit, evidence: hung.then_some(evidence) }
        }
        _ => {
            let (slot, epoch) = (Slot(reader.u32()?), Epoch(reader.u64()?));
            match kind {
                SPAWNED => GuardianEvent::Spawned { slot, epoch, pid: reader.u32()?.cast_signed(), pidfd: fd },
                EXECUTED => GuardianEvent::Executed { slot, epoch },
                SPAWN_FAILED => {
                    let step = Step::from_number(reader.u8()?)?;
                    let errno = reader.u32()?.cast_signed();
                    GuardianEvent::SpawnFailed { slot, epoch, failure: SpawnFailure { step, errno } }
                }
                EXITED => GuardianEvent::Exited { slot, epoch, exit: read_exit(&mut reader)? },
                OVER => GuardianEvent::Over { slot, epoch },
                _ => return None,
            }
        }
    };
    reader.end()?;
    Some(event)
}

fn read_exit(reader: &mut Reader<'_>) -> Option<Exit> {
    let (how, number) = (reader.u8()?, reader.u32()?.cast_signed());
    match how {
        0 => Some(Exit::Code(number)),
        1 => Some(Exit::Signal { signal: number, core_dumped: false }),
        2 => Some(Exit::Signal { signal: number, core_dumped: true }),
        3 => Some(Exit::Unknown),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example<'a>(argv: &'a [CString], environment: &'a [CString]) -> SpawnOrder<'a> {
        SpawnOrder {
            slot: Slot(7),
            epoch: Epoch(3),
            program: c"/bin/bot",
            argv,
            environment,
            directory: c"/srv",
            identity: Some(Identity { uid: 1000, gid: 1001, groups: &[4, 24] }),
            umask: 0o022,
            open_files_limit: Some(1024),
            cgroup: None,
            passed: &[StoreKey::Listen(Slot(7), 0), StoreKey::Listen(Slot(7), 1)],
        }
    }

    #[test]
    fn a_spawn_order_arrives_as_it_was_sent() {
        let (argv, environment) = ([c"bot".into(), c"--port".into(), c"".into()], [c"LANG=C".into()]);
        let mut bytes = Vec::new();
        write_spawn(&mut bytes, &example(&argv, &environment));
        let Some(Order::Spawn(spawn)) = read_order(&bytes) else { panic!("not a spawn order") };
        assert_eq!((spawn.slot, spawn.epoch, spawn.umask), (Slot(7), Epoch(3), 0o022));
        assert_eq!((spawn.uid_gid, spawn.open_files_limit, spawn.has_cgroup), (Some((1000, 1001)), Some(1024), false));
        assert_eq!(spawn.groups.collect::<Vec<_>>(), [4, 24]);
        assert_eq!((spawn.program, spawn.directory), (c"/bin/bot", c"/srv"));
        assert_eq!(spawn.argv.collect::<Vec<_>>(), [c"bot", c"--port", c""]);
        assert_eq!(spawn.environment.collect::<Vec<_>>(), [c"LANG=C"]);
        assert_eq!(spawn.passed.collect::<Vec<_>>(), [0, 1].map(|index| StoreKey::Listen(Slot(7), index)));
    }

    #[test]
    fn a_cut_or_padded_order_is_refused_and_never_panics() {
        let (argv, environment) = ([c"bot".into()], [c"LANG=C".into()]);
        let mut bytes = Vec::new();
        write_spawn(&mut bytes, &example(&argv, &environment));
        for end in 0..bytes.len() {
            assert!(read_order(&bytes[..end]).is_none(), "cut at {end}");
        }
        assert_eq!(read_address(&bytes), (Slot(7), Epoch(3)));
        bytes.push(0);
        assert!(read_order(&bytes).is_none());
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 0xff;
            let _ = read_order(&broken);
        }
    }

    #[test]
    fn answers_arrive_as_they_were_sent() {
        let exit = Exit::Signal { signal: 6, core_dumped: true };
        let answer = Answer::exited(Slot(9), Epoch(8), exit);
        let Some(GuardianEvent::Exited { slot, epoch, exit: arrived }) = read_answer(answer.bytes(), None) else {
            panic!("not an exit")
        };
        assert_eq!((slot, epoch, arrived), (Slot(9), Epoch(8), exit));
        let failure = SpawnFailure { step: Step::Directory, errno: 2 };
        let answer = Answer::spawn_failed(Slot(1), Epoch(2), failure);
        assert!(matches!(
            read_answer(answer.bytes(), None),
            Some(GuardianEvent::SpawnFailed { failure: arrived, .. }) if arrived == failure
        ));
        let long = [b'x'; MAX_EVIDENCE_BYTES + 1];
        let Some(GuardianEvent::Lost { exit: arrived, evidence: Some(evidence) }) =
            read_answer(Answer::lost(exit, Some(&long)).bytes(), None)
        else {
            panic!("not a lost supervisor")
        };
        assert_eq!((arrived, evidence.len()), (exit, MAX_EVIDENCE_BYTES));
        for key in [StoreKey::ReadApi, StoreKey::ControlApi, StoreKey::Left(Slot(MAX_SERVICES - 1), 31)] {
            let stored = read_answer(Answer::stored(key).bytes(), None);
            assert!(matches!(stored, Some(GuardianEvent::Stored { key: arrived, .. }) if arrived == key), "{stored:?}");
        }
        let lost = read_answer(Answer::spawned(Slot(1), Epoch(1), 5).bytes(), None);
        assert!(matches!(lost, Some(GuardianEvent::Spawned { pid: 5, pidfd: None, .. })), "{lost:?}");
    }
}
