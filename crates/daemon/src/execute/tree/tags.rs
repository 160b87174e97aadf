//! Finding a service's processes where there is no cgroup: by the variable that each of them was started with, and
//! by who made whom. Best effort.
//!
//! A process escapes when it cleared its environment **and** left its session **and** its parents are dead; or when
//! this user may not read its environment (another user's, or a set-id program's).

use super::process::{Handle, Identity, Stat, pids};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;

/// The variable that every service, and every program that checks one, is started with.
pub(crate) const VARIABLE: &str = "HALE_SERVICE";
/// The same for a program whose `HALE_SERVICE` is for itself to read.
pub(crate) const SECOND_VARIABLE: &str = "HALE_TREE";

/// Whose processes are meant.
#[derive(Debug, Clone)]
pub(crate) enum Tag {
    /// Those whose variable has exactly this value.
    Exactly(String),
    /// Those whose variable begins with this.
    StartsWith(String),
}

impl Tag {
    fn is_in(&self, environment: &[u8]) -> bool {
        environment.split(|&byte| byte == 0).any(|entry| {
            let value_of = |name: &str| entry.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
            let value = value_of(VARIABLE).or_else(|| value_of(SECOND_VARIABLE));
            value.is_some_and(|value| match self {
                Self::Exactly(wanted) => value == wanted.as_bytes(),
                Self::StartsWith(wanted) => value.starts_with(wanted.as_bytes()),
            })
        })
    }
}

/// Who adopts orphans: the guardian and this process. Only what one of them adopted is believed to belong to a
/// service by its session alone, because session ids are pids, and pids are used again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Adopters([i32; 2]);

impl Adopters {
    /// This process and its parent.
    pub fn now() -> Self {
        let parent = rustix::process::getppid().map_or(0, rustix::process::Pid::as_raw_pid);
        Self([std::process::id().cast_signed(), parent])
    }
}

/// How a process was found to belong to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// It is in the cgroup.
    Cgroup,
    /// Its environment carries the tag.
    Tag,
    /// It is a recorded process (pid and start time), or was made by one.
    Kin,
}

/// One kind of process to look for.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    pub tag: &'a Tag,
    /// The services' main processes, which may be dead.
    pub mains: &'a [Identity],
    pub adopters: Adopters,
}

impl Search<'_> {
    /// Calls `each` for every process that is found: held, alive, and none of this process and its ancestors.
    pub fn each(&self, mut each: impl FnMut(Handle, &Stat, Evidence) -> io::Result<ControlFlow<()>>) -> io::Result<()> {
        let kin = Kin::read(self.mains, self.adopters)?;
        // Read anew: what was forked meanwhile has higher pids, mostly, and so is found on this way.
        for pid in pids()? {
            let Some(handle) = Handle::open(pid)? else { continue };
            let Some(stat @ Stat { identity, is_dead: false, .. }) = handle.stat() else { continue };
            if kin.spared.contains(&pid) {
                continue;
            }
            let evidence = if kin.members.contains(&identity) {
                Evidence::Kin
            } else if self.tag.is_in(&handle.environment()) {
                Evidence::Tag
            } else {
                continue;
            };
            if each(handle, &stat, evidence)?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Who made whom, at one moment.
#[derive(Debug, Default)]
struct Kin {
    members: BTreeSet<Identity>,
    spared: BTreeSet<i32>,
}

impl Kin {
    fn read(mains: &[Identity], adopters: Adopters) -> io::Result<Self> {
        let mut stats = Vec::new();
        for pid in pids()? {
            stats.extend(Handle::open(pid)?.and_then(|handle| handle.stat()));
        }
        Ok(Self::of(&stats, mains, adopters))
    }

    fn of(stats: &[Stat], mains: &[Identity], adopters: Adopters) -> Self {
        let parents: BTreeMap<i32, i32> = stats.iter().map(|stat| (stat.identity.pid, stat.parent)).collect();
        let mut spared = BTreeSet::new();
        let mut ancestor = Some(std::process::id().cast_signed());
        while let Some(pid) = ancestor.filter(|&pid| spared.insert(pid)) {
            ancestor = parents.get(&pid).copied();
        }

        let mut children: BTreeMap<i32, Vec<Identity>> = BTreeMap::new();
        for stat in stats {
            children.entry(stat.parent).or_default().push(stat.identity);
        }
        let starts: BTreeMap<i32, u64> =
            stats.iter().map(|stat| (stat.identity.pid, stat.identity.start_ticks)).collect();
        let mut next = Vec::new();
        for &main in mains {
            let start = starts.get(&main.pid);
            if start.is_some_and(|&start| start != main.start_ticks) {
                // The pid means another process now, and so does the session's id.
                continue;
            }
            next.extend(start.map(|_| main));
            next.extend(stats.iter().filter(|stat| orphaned_in(main, stat, adopters)).map(|stat| stat.identity));
        }
        let mut members = BTreeSet::new();
        while let Some(identity) = next.pop() {
            if !spared.contains(&identity.pid) && members.insert(identity) {
                next.extend(children.get(&identity.pid).into_iter().flatten());
            }
        }
        Self { members, spared }
    }
}

/// Whether it is in the session of `main`, and its parent died.
fn orphaned_in(main: Identity, stat: &Stat, adopters: Adopters) -> bool {
    stat.session == main.pid && stat.identity.start_ticks >= main.start_ticks && adopters.0.contains(&stat.parent)
}
