//! Ending what an earlier Hale of this instance left running, before anything is started.

use super::cgroup::{self, Group};
use super::process::{Handle, Identity};
use super::tags::{Evidence, Search, Tag};
use super::{Trees, group_name, pidfd_inode, service_group};
use hale_core::event::Process;
use hale_core::ids::Name;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How many processes' ends are waited for at once; after them the host is looked at again.
const WAITED_FOR_MAX: usize = 256;

/// A process of an earlier Hale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leftover {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
    /// How it was recognised.
    pub evidence: Evidence,
}

/// What an earlier Hale had left running.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// All that were found, by pid.
    pub found: Vec<Leftover>,
    /// Those of them that could not be ended in time: nothing may be started beside them.
    pub remaining: Vec<Leftover>,
}

impl Trees {
    /// Ends every process of an earlier Hale of this instance with SIGKILL: those in its group (wherever that is),
    /// those that carry its tag, and those in `known` with what they made. Blocks until none is found any more, or
    /// the deadline is over. To be called before the first [`Trees::prepare`].
    ///
    /// `known` are the main processes that the runtime journal names. It must be of this boot, as the journal makes
    /// sure: pids and start times of another boot mean nothing.
    ///
    /// # Errors
    ///
    /// /proc or the groups cannot be read: then nobody knows, and nothing may be started.
    pub fn end_leftovers(&self, known: &[Process], deadline: Duration) -> io::Result<Leftovers> {
        let ours = Tag::StartsWith(format!("{}:", self.instance));
        let leftovers = self.end(&self.earlier_groups(known)?, &ours, &mains(known)?, Instant::now() + deadline)?;
        if let Some(group) = &self.group {
            // What could not be removed is taken up again.
            let _ = group.remove_below();
        }
        Ok(leftovers)
    }

    /// The same for one service, of which `known` is the newest main process on record, and no other: for when its guardian
    /// was lost and the next one knows nothing of it. To be called before its [`Trees::prepare`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn end_service(&self, service: &Name, known: Option<&Process>, until: Instant) -> io::Result<Leftovers> {
        let name = service_group(service);
        let group = self.group.as_ref().map(|group| group.existing_child(&name)).transpose();
        let group = match group {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            group => group?,
        };
        if let Some(group) = &group
            && !cgroup::is_populated(&group.events()?)?
        {
            return Ok(Leftovers::default());
        }
        let tag = Tag::Exactly(self.tag(service.as_str()));
        let leftovers =
            self.end(group.as_slice(), &tag, &mains(known.map(std::slice::from_ref).unwrap_or_default())?, until)?;
        // A group that was killed in is never used again (docs/decisions/0008); what is not empty is refused later.
        let _ = self.remove(service);
        Ok(leftovers)
    }

    fn end(&self, groups: &[Group], tag: &Tag, mains: &[Identity], until: Instant) -> io::Result<Leftovers> {
        let mut found = BTreeMap::new();
        loop {
            let mut round = Round::default();
            self.kill_all(groups, tag, mains, &mut round)?;
            found.extend(round.living.iter().map(|leftover| (leftover.pid, *leftover)));
            if round.living.is_empty() || Instant::now() >= until {
                return Ok(Leftovers { found: found.into_values().collect(), remaining: round.living });
            }
            wait_for(round.pidfds, until)?;
        }
    }

    /// The group of this Hale, and those of an earlier one that was started from elsewhere. Never one that this
    /// process itself is in.
    fn earlier_groups(&self, known: &[Process]) -> io::Result<Vec<Group>> {
        let own = Handle::open(std::process::id().cast_signed())?.and_then(|handle| handle.cgroup());
        let name = group_name(&self.instance);
        let here = self.group.iter().map(|group| group.path().to_owned());
        let elsewhere = known.iter().filter_map(|process| {
            let path = process.cgroup.as_deref()?;
            let end = path.match_indices(&name).map(|(at, _)| at + name.len());
            let whole = |end: &usize| path[..*end].ends_with(&format!("/{name}")) && path[*end..].starts_with('/');
            end.into_iter().find(whole).map(|end| path[..end].to_owned())
        });
        let paths: BTreeSet<String> = here.chain(elsewhere).collect();
        let groups = paths.iter().filter_map(|path| Group::at(path));
        Ok(groups.filter(|group| own.as_deref().is_none_or(|own| !group.contains(own))).collect())
    }

    fn kill_all(&self, groups: &[Group], tag: &Tag, mains: &[Identity], round: &mut Round) -> io::Result<()> {
        for group in groups {
            // The list first: it says who was there.
            let result = group.each(|handle| round.add(&handle, Evidence::Cgroup)).and_then(|()| group.kill());
            if let Err(error) = result
                && error.kind() != io::ErrorKind::NotFound
                && error.raw_os_error() != Some(rustix::io::Errno::NODEV.raw_os_error())
            {
                return Err(error);
            }
        }
        Search { tag, mains, adopters: self.adopters }.each(|handle, _, evidence| {
            round.add(&handle, evidence)?;
            // A refusal shows in what remains.
            let _ = handle.send(Signal::KILL);
            Ok(ControlFlow::Continue(()))
        })
    }
}

/// The recorded processes, without those whose pid is another one's by now. Start times tell that apart to a clock tick
/// only; the numbers of pidfds, where the kernel gives them, do so always.
fn mains(known: &[Process]) -> io::Result<Vec<Identity>> {
    let mut mains = Vec::new();
    for process in known {
        let pidfd = Handle::open(process.pid)?.map(|handle| handle.pidfd()).transpose()?.flatten();
        let inode = pidfd.map(|pidfd| pidfd_inode(pidfd.as_fd())).transpose()?;
        if process.pidfd_inode == 0 || inode.is_none_or(|inode| inode == process.pidfd_inode) {
            mains.push(Identity { pid: process.pid, start_ticks: process.start_ticks });
        }
    }
    Ok(mains)
}

/// What one look at the host found.
#[derive(Debug, Default)]
struct Round {
    living: Vec<Leftover>,
    pidfds: Vec<OwnedFd>,
}

impl Round {
    fn add(&mut self, handle: &Handle, evidence: Evidence) -> io::Result<()> {
        let Some(stat) = handle.stat().filter(|stat| !stat.is_dead) else { return Ok(()) };
        let Identity { pid, start_ticks } = stat.identity;
        if self.living.iter().any(|leftover| leftover.pid == pid) {
            return Ok(());
        }
        self.living.push(Leftover { pid, start_ticks, evidence });
        if self.pidfds.len() < WAITED_FOR_MAX {
            self.pidfds.extend(handle.pidfd()?);
        }
        Ok(())
    }
}

/// Waits until all of them have ended, or the time is over.
fn wait_for(pidfds: Vec<OwnedFd>, until: Instant) -> io::Result<()> {
    for pidfd in pidfds {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| rustix::io::Errno::INVAL)?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
