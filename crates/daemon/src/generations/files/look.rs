//! What the configured files are now: each read as a whole, and all of them at one moment.

use super::error::{FilesError, io};
use super::state::{Entry, Meta, Node, Refusal, State};
use super::walk::{Found, Hands, Links, Spot, Stop, is_link, walk};
use crate::execute::user::Identity;
use crate::generations::beneath;
use crate::generations::error::shown;
use hale_ledger::Hash;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Gid, Mode, OFlags, Stat, Uid, fgetxattr, flistxattr, fstat};
use rustix::io::Errno;
use rustix::process::{dumpable_behavior, geteuid, set_dumpable_behavior};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The largest file, 8 MiB: maps and block lists of web servers have a few; what is larger is data.
pub const FILE_BYTES_MAX: u64 = 8 << 20;

/// All files of a service together, 32 MiB: they are in memory while they are copied, beside a supervisor of about that size.
pub const ALL_BYTES_MAX: u64 = 32 << 20;

/// Extended attributes of one file, names and values: the kernel takes 64 KiB of each (xattr(7)), and ext4 mostly 4 KiB in all.
pub(super) const XATTRS_BYTES_MAX: usize = 128 << 10;

/// How often it is looked again when something changed meanwhile. An editor changes a file once or twice within the
/// millisecond that a look takes; whoever does it each time does so for ever.
const TRIES: usize = 10;

/// The group of whoever has none of a file's groups (`DEFAULT_OVERFLOWGID` in linux/highuid.h).
const NO_GROUP: u32 = 65_534;

/// What is there.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) state: State,
    pub(super) contents: BTreeMap<Hash, Vec<u8>>,
}

/// By which a change is told: everything of a file that its reading does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    id: (u64, u64),
    shape: (u32, u32, u32, u64),
    size: i64,
    times: [(i64, u64); 2],
}

impl Stamp {
    #[expect(clippy::useless_conversion, reason = "the types of the fields differ from one architecture to the next")]
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            id: (stat.st_dev, stat.st_ino),
            shape: (stat.st_mode, stat.st_uid, stat.st_gid, u64::from(stat.st_nlink)),
            size: stat.st_size,
            times: [(stat.st_mtime, stat.st_mtime_nsec), (stat.st_ctime, stat.st_ctime_nsec)],
        }
    }

    /// But for what a rename of the file changes: the time of its last change of names.
    pub(super) fn is_renamed(&self, other: &Self) -> bool {
        (self.id, self.shape, self.size, self.times[0]) == (other.id, other.shape, other.size, other.times[0])
    }
}

/// Why there is no answer.
pub(super) enum Unclear {
    /// It changed meanwhile.
    Again,
    Failed(Errno),
}

impl From<Errno> for Unclear {
    fn from(errno: Errno) -> Self {
        match errno {
            // Another thing has the name by now; or somebody holds a lease on the file (fcntl(2), F_SETLEASE).
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::STALE | Errno::AGAIN | Errno::INVAL => {
                Self::Again
            }
            other => Self::Failed(other),
        }
    }
}

/// A file, or why it is not copied.
type Copied = Result<(Meta, Vec<u8>), Refusal>;

/// The links, and what is at their end; or why that is not looked at.
type Way = Result<(Vec<Vec<u8>>, Option<(Spot, Stat)>), Refusal>;

/// Looks at all files.
pub(super) fn all(paths: &BTreeSet<PathBuf>, user: Option<&Identity>) -> Result<Seen, FilesError> {
    let mut changing = String::new();
    for _ in 0..TRIES {
        match once(paths, user) {
            Ok(seen) => return Ok(seen),
            Err((path, Unclear::Again)) => changing = shown(path),
            Err((path, Unclear::Failed(errno))) => return Err(io(format!("read {}", shown(path)), errno)),
        }
    }
    Err(FilesError::Changing { path: changing })
}

fn once<'a>(paths: &'a BTreeSet<PathBuf>, user: Option<&Identity>) -> Result<Seen, (&'a [u8], Unclear)> {
    let mut seen = Seen::default();
    let mut stamps = Vec::new();
    let mut left_bytes = ALL_BYTES_MAX;
    for path in paths {
        let path = path.as_os_str().as_bytes();
        let way = way(path).map_err(|unclear| (path, unclear))?;
        stamps.push((path, stamp(&way)));
        let entry = match way {
            Err(why) => Entry { links: Vec::new(), node: Node::Refused(why) },
            Ok((links, None)) => Entry { links, node: Node::Absent },
            Ok((links, Some((spot, stat)))) => {
                let node = match read(&spot, &stat, user).map_err(|unclear| (path, unclear))? {
                    Err(why) => Node::Refused(why),
                    Ok((meta, _)) if meta.size > left_bytes => Node::Refused(Refusal::AllTooLarge),
                    Ok((meta, content)) => {
                        left_bytes -= meta.size;
                        seen.contents.insert(meta.hash, content);
                        Node::File(meta)
                    }
                };
                Entry { links, node }
            }
        };
        seen.state.0.insert(path.to_vec(), entry);
    }
    // Each was the same from its own look until now: at the first of these looks all were as they were read.
    for (path, before) in stamps {
        if stamp(&way(path).map_err(|unclear| (path, unclear))?) != before {
            return Err((path, Unclear::Again));
        }
    }
    Ok(seen)
}

fn stamp(way: &Way) -> Result<(Vec<Vec<u8>>, Option<Stamp>), Refusal> {
    let (links, there) = way.as_ref().map_err(|why| *why)?;
    Ok((links.clone(), there.as_ref().map(|(_, stat)| Stamp::of(stat))))
}

fn way(path: &[u8]) -> Result<Way, Unclear> {
    let Found { links, spot } = match walk(path, Links::AsTheyAre, &mut |_, _| {}) {
        Ok(found) => found,
        Err(Stop::Refused(why)) => return Ok(Err(why)),
        Err(Stop::Failed(errno)) => return Err(errno.into()),
    };
    let links = links.into_iter().map(|(_, target)| target).collect();
    let there = match spot {
        Some(spot) => spot.stat()?.map(|stat| (spot, stat)),
        None => None,
    };
    Ok(Ok((links, there)))
}

/// Reads the file that has this stat. Whoever can put another one in its place cannot have one read that they could not read.
pub(super) fn read(spot: &Spot, stat: &Stat, user: Option<&Identity>) -> Result<Copied, Unclear> {
    let hands = spot.dir.hands_on(stat);
    if let Err(why) = judge(stat, hands) {
        // A link that was none when its way was gone.
        return if is_link(stat) { Err(Unclear::Again) } else { Ok(Err(why)) };
    }
    let file = match open(spot, hands, user) {
        Err(Errno::ACCESS | Errno::PERM) => return Ok(Err(Refusal::NotReadable)),
        other => other?,
    };
    let before = Stamp::of(stat);
    if Stamp::of(&fstat(&file)?) != before {
        return Err(Unclear::Again);
    }
    let mut content = Vec::new();
    let failed = |error: std::io::Error| Unclear::Failed(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    let mut file = File::from(file);
    file.by_ref().take(FILE_BYTES_MAX + 1).read_to_end(&mut content).map_err(failed)?;
    let xattrs = match xattrs(&file)? {
        Err(why) => return Ok(Err(why)),
        Ok(xattrs) => xattrs,
    };
    // By its name: had it another name when it was opened, in somebody else's directory, it would have two of them now.
    let after = spot.stat()?;
    if after.as_ref().map(Stamp::of) != Some(before) || content.len() as u64 != u64::try_from(stat.st_size).unwrap_or(0)
    {
        return Err(Unclear::Again);
    }
    let meta = Meta {
        mode: stat.st_mode & 0o1777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: content.len() as u64,
        hash: Hash::of(&content),
        xattrs,
    };
    Ok(Ok((meta, content)))
}

fn judge(stat: &Stat, hands: Hands) -> Result<(), Refusal> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Refusal::NotAFile);
    }
    if stat.st_mode & 0o6000 != 0 {
        return Err(Refusal::SetId);
    }
    if u64::try_from(stat.st_size).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(Refusal::TooLarge);
    }
    if hands != Hands::Ours && stat.st_nlink > 1 {
        return Err(Refusal::HardLinks);
    }
    Ok(())
}

/// Opens the file with the rights of those in whose hands its name is.
fn open(spot: &Spot, hands: Hands, user: Option<&Identity>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let (dir, name) = (spot.dir.as_fd(), spot.name.as_slice());
    let open = || beneath::open(dir, name, flags, Mode::empty());
    let Hands::Theirs(Some(uid)) = hands else { return open() };
    let known = user.filter(|user| user.uid == uid);
    as_user(uid, known.map_or(NO_GROUP, |user| user.gid), known.map_or(&[], |user| &user.groups), open)
}

/// Does something small with the rights of a user, on a thread of its own: nobody has to trust that they are given back.
/// Root's real and saved ids stay, so that the user can send no signals to the thread. Who is not root does it as it is.
fn as_user<T: Send>(
    uid: u32,
    gid: u32,
    groups: &[u32],
    work: impl FnOnce() -> Result<T, Errno> + Send,
) -> Result<T, Errno> {
    if !geteuid().is_root() {
        return work();
    }
    let groups: Vec<Gid> = groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    let dumpable = dumpable_behavior();
    let done = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(String::from("files-as-user")).spawn_scoped(scope, || {
            set_thread_groups(&groups)?;
            set_thread_res_gid(None, Gid::from_raw(gid), None)?;
            set_thread_res_uid(None, Uid::from_raw(uid), None)?;
            work()
        });
        thread.map_err(|_| Errno::NOMEM)?.join().unwrap_or(Err(Errno::IO))
    });
    // prctl(2), PR_SET_DUMPABLE: a change of the user takes it from the whole process, and with it the core of a Hale that failed.
    if let Ok(dumpable) = dumpable {
        let _stays_without = set_dumpable_behavior(dumpable);
    }
    done
}

/// Attributes that the kernel makes for each file by itself, of its inode and its content (`security.evm`, `security.ima`).
const MADE_BY_THE_KERNEL: [&[u8]; 2] = [b"security.evm", b"security.ima"];

/// Extended attributes by their names, or why they are not copied.
type Xattrs = Result<BTreeMap<Vec<u8>, Vec<u8>>, Refusal>;

/// Its extended attributes.
pub(super) fn xattrs(file: impl AsFd) -> Result<Xattrs, Errno> {
    let mut buffer = vec![0; 64 << 10];
    let names = match flistxattr(&file, &mut buffer[..]) {
        Ok(bytes) => buffer[..bytes].to_vec(),
        Err(Errno::OPNOTSUPP) => return Ok(Ok(BTreeMap::new())),
        Err(Errno::RANGE | Errno::TOOBIG) => return Ok(Err(Refusal::Xattrs)),
        Err(errno) => return Err(errno),
    };
    let (mut all, mut bytes) = (BTreeMap::new(), 0);
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        if name == b"security.capability" {
            return Ok(Err(Refusal::Capability));
        }
        if MADE_BY_THE_KERNEL.contains(&name) {
            continue;
        }
        let value = match fgetxattr(&file, name, &mut buffer[..]) {
            Ok(bytes) => buffer[..bytes].to_vec(),
            // Taken away meanwhile: the time of the last change tells. Or one that this user may not read.
            Err(Errno::NODATA | Errno::ACCESS | Errno::PERM) => continue,
            Err(Errno::RANGE | Errno::TOOBIG) => return Ok(Err(Refusal::Xattrs)),
            Err(errno) => return Err(errno),
        };
        bytes += name.len() + value.len();
        if bytes > XATTRS_BYTES_MAX {
            return Ok(Err(Refusal::Xattrs));
        }
        all.insert(name.to_vec(), value);
    }
    Ok(Ok(all))
}
