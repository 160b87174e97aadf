//! Taking over from a guardian that was lost: what systemd kept of it comes back as `LISTEN_FDS` (sd_listen_fds(3)).
//!
//! Its processes are no children of this one. Their pidfds tell when they end, and on Linux 6.15 and later how.

use crate::guardian::run::{Guardian, Token};
use crate::guardian::slots::{Life, OutputPipe};
use crate::guardian::systemd::{Kept, Systemd};
use crate::guardian::wait::ready;
use crate::protocol::{GuardianEvent, Slot, StoreKey};
use crate::sys::fds::{high, take_inherited};
use hale_core::ids::Epoch;
use rustix::event::PollFlags;
use rustix::event::epoll::{self, EventFlags};
use rustix::fs::{MemfdFlags, memfd_create};
use std::collections::BTreeSet;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

/// What the first line of a beginning says: another Hale's may look different, and then nothing is taken over.
const FORMAT: &str = "hale guardian 1";

/// The first descriptor that systemd passes (SD_LISTEN_FDS_START).
const FIRST_FD: RawFd = 3;

/// How many descriptors keepers share.
pub(in crate::guardian) const KEEPER_FDS: usize = 5;

/// What a guardian was started with, as it is kept in a memory file for the one after it.
#[derive(Debug)]
pub(in crate::guardian) struct Beginning {
    /// The name that its supervisors take over under.
    pub name: CString,
    /// The words behind the binary's descriptor.
    pub args: Vec<OsString>,
}

impl Beginning {
    /// A memory file with it.
    pub fn write(&self) -> io::Result<OwnedFd> {
        let mut file = File::from(memfd_create("hale-began", MemfdFlags::CLOEXEC)?);
        let mut text = FORMAT.as_bytes().to_vec();
        for word in std::iter::once(self.name.as_bytes()).chain(self.args.iter().map(|arg| arg.as_bytes())) {
            text.push(0);
            text.extend_from_slice(word);
        }
        file.write_all(&text)?;
        Ok(file.into())
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut words = text.split(|&byte| byte == 0);
        if words.next()? != FORMAT.as_bytes() {
            return None;
        }
        let name = CString::new(words.next()?).ok()?;
        Some(Self { name, args: words.map(|word| OsStr::from_bytes(word).to_owned()).collect() })
    }
}

/// The names of the descriptors that systemd gave to this process, by their number.
fn passed() -> Vec<(RawFd, String)> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Vec::new();
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let count = number("LISTEN_FDS").unwrap_or(0) as usize;
    (FIRST_FD..).zip(names.split(':').map(str::to_owned)).take(count).collect()
}

/// What the lost guardian was started with. Takes nothing over yet.
pub(in crate::guardian) fn beginning() -> Option<Beginning> {
    let (number, _) = passed().into_iter().find(|(_, name)| Kept::from_name(name) == Some(Kept::Beginning))?;
    Beginning::parse(&std::fs::read(format!("/proc/self/fd/{number}")).ok()?)
}

/// Has systemd throw away what it keeps of a Hale that ended in order.
pub(in crate::guardian) fn discard() {
    let names: BTreeSet<String> = passed().into_iter().map(|(_, name)| name).collect();
    let kept: Vec<Kept> = names.iter().filter_map(|name| Kept::from_name(name)).collect();
    if !kept.is_empty()
        && let Ok(Some(systemd)) = Systemd::connect(0)
    {
        systemd.discard(&kept);
    }
}

/// Everything that a lost guardian left, apart from its beginning.
#[derive(Debug)]
pub(in crate::guardian) struct Left {
    pub keepers: [OwnedFd; KEEPER_FDS],
    pub rest: Rest,
}

/// What is not shared by its helpers.
#[derive(Debug, Default)]
pub(in crate::guardian) struct Rest {
    processes: Vec<(Slot, Epoch, i32, OwnedFd)>,
    outputs: Vec<(Slot, OwnedFd)>,
    stored: Vec<(StoreKey, OwnedFd)>,
    names: Vec<Kept>,
}

impl Left {
    /// Takes it over; `None`: there is nothing, or not what every guardian leaves. What is not Hale's is closed.
    pub fn take() -> Option<Self> {
        let (mut keepers, mut rest) = (Vec::new(), Rest::default());
        for (number, name) in passed() {
            let Ok(fd) = take_inherited(number) else { continue };
            let Ok(fd) = high(fd) else { continue };
            let kept = Kept::from_name(&name);
            rest.names.extend(kept);
            match kept {
                Some(Kept::Keepers(index)) => keepers.push((index, fd)),
                Some(Kept::Process(slot, epoch, pid)) => rest.processes.push((slot, epoch, pid, fd)),
                Some(Kept::Output(slot)) => rest.outputs.push((slot, fd)),
                Some(Kept::Stored(key)) => rest.stored.push((key, fd)),
                Some(Kept::Beginning) | None => {}
            }
        }
        keepers.sort_by_key(|(index, _)| *index);
        let keepers: Vec<OwnedFd> = keepers.into_iter().map(|(_, fd)| fd).collect();
        // An older one of the same slot, whose removal systemd did not hear of, comes first and is written over.
        rest.processes.sort_by_key(|(slot, epoch, ..)| (*slot, *epoch));
        Some(Self { keepers: keepers.try_into().ok()?, rest })
    }
}

impl Rest {
    /// Puts all of it where it was, but for what keepers share.
    pub fn restore(self, guardian: &mut Guardian) {
        guardian.lost = Some(GuardianEvent::GuardianLost);
        if let Some(systemd) = &mut guardian.systemd {
            systemd.adopt(self.names.into_iter());
        }
        for (slot, read) in self.outputs {
            if let Some(entry) = guardian.slots.entry(slot) {
                entry.pipe = OutputPipe::with(read).ok();
                entry.unoffered = entry.pipe.is_some();
                entry.kept.output = true;
            }
        }
        for (slot, epoch, pid, pidfd) in self.processes {
            let token = Token::Adopted(slot).data();
            let Some(entry) = guardian.slots.entry(slot) else { continue };
            if let Some(older) = entry.pidfd.take() {
                let _ = epoll::delete(&guardian.epoll, older);
                if let (Some((epoch, pid)), Some(systemd)) = (entry.kept.process, &mut guardian.systemd) {
                    systemd.await_room();
                    systemd.remove(Kept::Process(slot, epoch, pid));
                }
            }
            entry.epoch = epoch;
            entry.life = Life::Running { pid };
            entry.kept.process = Some((epoch, pid));
            entry.cgroup = cgroup_of(pid, &pidfd);
            let _ = epoll::add(&guardian.epoll, &pidfd, token, EventFlags::IN);
            let now = ready(&pidfd, PollFlags::IN, 0);
            entry.pidfd = Some(pidfd);
            // Before the supervisor is told of it: its end may be on record, and its successor announced.
            if !now.is_empty() {
                let reaped = now.contains(PollFlags::HUP);
                guardian.on_adopted(slot, if reaped { EventFlags::HUP } else { EventFlags::IN });
            }
        }
        for (key, fd) in self.stored {
            guardian.store.adopt(key, fd);
        }
    }
}

/// The directory of a process's cgroup, for `cgroup.kill`, if it lives and that is where it usually is (proc_pid_cgroup(5)).
fn cgroup_of(pid: i32, pidfd: &OwnedFd) -> Option<OwnedFd> {
    let group = |pid: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        Some(text.lines().find_map(|line| line.strip_prefix("0::"))?.to_owned())
    };
    let (path, own) = (group(&pid.to_string())?, group("self")?);
    // What lives now had this number a moment ago; of what has ended it may be somebody else's, and so the group.
    let lives = ready(pidfd, PollFlags::IN, 0).is_empty();
    // Never one that the guardian itself is in.
    if !lives || own.starts_with(&path) {
        return None;
    }
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let dir = mounts.iter().find_map(|mount| File::open(format!("{mount}{path}")).ok())?;
    high(dir).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn the_group_of_a_process_that_has_ended_is_nobodys() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pidfd =
            rustix::process::pidfd_open(rustix::process::Pid::from_child(&child), rustix::process::PidfdFlags::empty());
        child.wait().unwrap();
        // Somebody else's by then, as far as the number tells.
        assert!(cgroup_of(1, &pidfd.unwrap()).is_none());
    }

    #[test]
    fn a_beginning_is_read_as_it_was_written_and_no_other_format_is() {
        let args = vec![OsString::from("/run/hale"), OsString::new(), OsString::from("a b")];
        let written = Beginning { name: c"abc".into(), args: args.clone() }.write().unwrap();
        let text = std::fs::read(format!("/proc/self/fd/{}", written.as_raw_fd())).unwrap();
        let read = Beginning::parse(&text).unwrap();
        assert_eq!((read.name.as_c_str(), read.args), (c"abc", args));
        assert!(Beginning::parse(b"hale guardian 2\0abc").is_none());
    }
}
