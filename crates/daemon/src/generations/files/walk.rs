//! The way to a configured path, directory by directory, and in whose hands what is found there is.
//!
//! An operator's links are followed, as whoever wrote them wants. Where others than root and Hale's own user can change what a
//! name stands for, no link is followed: it could lead to what they may not read or write. From the first such directory on
//! all that is below is in their hands. (systemd's `CHASE_SAFE` refuses the same step, from unprivileged to privileged.)

use super::state::Refusal;
use crate::generations::beneath;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};
use std::rc::Rc;

/// The most links on one way: what the kernel follows (`MAXSYMLINKS` in linux/namei.h).
const LINKS_MAX: usize = 40;

/// Who can change what a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hands {
    /// Root, or Hale's own user, alone.
    Ours,
    /// Others: the owner of the first directory that is not ours.
    /// `None`: a group or everybody may write to a directory of ours.
    Theirs(Option<u32>),
}

/// A directory on the way, held open.
#[derive(Debug)]
pub(super) struct Dir {
    /// For its name alone (`O_PATH`): it takes no right to list it.
    fd: OwnedFd,
    stat: Stat,
    hands: Hands,
}

/// A name in a directory.
#[derive(Debug, Clone)]
pub(super) struct Spot {
    pub(super) dir: Rc<Dir>,
    pub(super) name: Vec<u8>,
}

/// Where a path leads.
#[derive(Debug)]
pub(super) struct Found {
    /// Links that the path itself is, one leading to the next: where each is, and its target. Links among the directories
    /// above are not of it.
    pub(super) links: Vec<(Spot, Vec<u8>)>,
    /// Where the file is, or would be; `None`: in a directory that is not there.
    pub(super) spot: Option<Spot>,
}

/// Why a way has no end.
#[derive(Debug)]
pub(super) enum Stop {
    Refused(Refusal),
    Failed(Errno),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::ACCESS | Errno::PERM => Self::Refused(Refusal::NotReadable),
            other => Self::Failed(other),
        }
    }
}

/// Which links the path's last part is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Links<'a> {
    /// Those that are there.
    AsTheyAre,
    /// Those of a kept state, whatever is there.
    AsKept(&'a [Vec<u8>]),
}

/// Whether it is root, or Hale's own user.
pub(super) fn is_ours(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

pub(super) fn is_link(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
}

impl Dir {
    fn root() -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, "/", flags, Mode::empty())?;
        let stat = fstat(&fd)?;
        let hands = if is_ours(stat.st_uid) { Hands::Ours } else { Hands::Theirs(None) };
        Ok(Self { fd, stat, hands })
    }

    /// Opens a directory in this one, not by a link.
    fn child(&self, name: &[u8]) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let fd = beneath::open(&self.fd, name, flags, Mode::empty())?;
        let stat = fstat(&fd)?;
        let hands = match self.hands_on(&stat) {
            Hands::Ours if !is_ours(stat.st_uid) => Hands::Theirs(Some(stat.st_uid)),
            other => other,
        };
        Ok(Self { fd, stat, hands })
    }

    /// In whose hands what has this stat in this directory is: who could have put it there, or could take it away.
    pub(super) fn hands_on(&self, stat: &Stat) -> Hands {
        let mode = self.stat.st_mode;
        let by_group = mode & 0o020 != 0 && self.stat.st_gid != 0 && self.stat.st_gid != getegid().as_raw();
        let is_shared = mode & 0o002 != 0 || by_group;
        // inode(7): in a directory with the sticky bit only its owner and that of the file can rename or remove it.
        let is_safe = !is_shared || (mode & 0o1000 != 0 && is_ours(stat.st_uid));
        let unless_ours = || Some(stat.st_uid).filter(|uid| !is_ours(*uid));
        match self.hands {
            Hands::Ours if is_safe => Hands::Ours,
            Hands::Ours => Hands::Theirs(unless_ours()),
            Hands::Theirs(who) => Hands::Theirs(who.or_else(unless_ours)),
        }
    }

    /// Whether root alone has what is above and in it.
    pub(super) fn is_ours(&self) -> bool {
        self.hands == Hands::Ours
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Spot {
    /// What is there, no link followed; `None` for nothing.
    pub(super) fn stat(&self) -> Result<Option<Stat>, Errno> {
        match statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Whether it is the same name in the same directory.
    pub(super) fn is(&self, other: &Self) -> bool {
        let of = |spot: &Self| (spot.dir.stat.st_dev, spot.dir.stat.st_ino);
        self.name == other.name && of(self) == of(other)
    }

    pub(super) fn target(&self) -> Result<Vec<u8>, Errno> {
        Ok(readlinkat(&self.dir, &self.name, Vec::new())?.into_bytes())
    }
}

/// The parts of a path, last one first.
fn parts(path: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    path.split(|&byte| byte == b'/').rev().filter(|part| !part.is_empty() && *part != b".").map(<[u8]>::to_vec)
}

/// Goes the way of an absolute path. `look` is told of each name before it is looked up: whoever watches the directory from
/// then on misses nothing.
pub(super) fn walk(path: &[u8], links: Links<'_>, look: &mut dyn FnMut(&Dir, &[u8])) -> Result<Found, Stop> {
    let mut dirs = vec![Rc::new(Dir::root()?)];
    let mut rest: Vec<Vec<u8>> = parts(path).collect();
    let mut found = Found { links: Vec::new(), spot: None };
    let mut followed = 0;
    loop {
        // A path that ends with a directory.
        let (Some(name), Some(dir)) = (rest.pop(), dirs.last().cloned()) else {
            return Err(Stop::Refused(Refusal::NotAFile));
        };
        if name == b".." {
            dirs.truncate(dirs.len().max(2) - 1);
            continue;
        }
        look(&dir, &name);
        let spot = Spot { dir, name };
        let stat = spot.stat()?;
        let there = stat.as_ref().filter(|stat| is_link(stat));
        let target = match (rest.is_empty(), links) {
            (true, Links::AsKept(kept)) => kept.get(found.links.len()).cloned(),
            (false, _) | (true, Links::AsTheyAre) => match there {
                Some(stat) if spot.dir.hands_on(stat) != Hands::Ours => return Err(Stop::Refused(Refusal::Link)),
                Some(_) => Some(spot.target()?),
                None => None,
            },
        };
        if let Some(target) = target {
            followed += 1;
            if followed > LINKS_MAX {
                return Err(Stop::Refused(Refusal::TooManyLinks));
            }
            if target.first() == Some(&b'/') {
                dirs.truncate(1);
            }
            if rest.is_empty() {
                found.links.push((spot, target.clone()));
            }
            rest.extend(parts(&target));
        } else if rest.is_empty() {
            found.spot = Some(spot);
            return Ok(found);
        } else {
            match spot.dir.child(&spot.name) {
                Ok(child) => dirs.push(Rc::new(child)),
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(found),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
