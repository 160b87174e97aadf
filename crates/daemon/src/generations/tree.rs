//! What a directory contains, as it is on the disk: for a release that is verified, and for a directory that becomes one.

use super::Id;
use super::beneath::{join, names, open, open_dir};
use super::error::{ArchiveFault, Change, Drift, EntryFault, StoreError, entry, io, shown};
use super::import::{DEPTH_MAX, ENTRIES_MAX, NAMES_BYTES_MAX, PATH_BYTES_MAX};
use super::manifest::{Manifest, Node};
use hale_ledger::hash::Hasher;
use rustix::fd::BorrowedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, readlinkat, statat};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

/// Modes in a release: nobody writes there.
pub(super) const DIR_MODE: Mode = Mode::from_raw_mode(0o555);
pub(super) const FILE_MODE: Mode = Mode::from_raw_mode(0o444);
pub(super) const PROGRAM_MODE: Mode = Mode::from_raw_mode(0o555);

/// The bits that `chmod` changes.
const MODE_BITS: u32 = 0o7777;

/// One thing below a directory.
pub(super) struct Found {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    traits: [u64; 5],
    changed: ChangeTime,
}

pub(super) enum Kind {
    Dir,
    File,
    Link { target: Vec<u8> },
    Special(&'static str),
}

impl Found {
    pub(super) fn is_executable(&self) -> bool {
        self.mode & 0o111 != 0
    }
}

/// All that is below `root`, by path. Refuses what is beyond the bounds of a release.
pub(super) fn scan(root: BorrowedFd<'_>) -> Result<BTreeMap<Vec<u8>, Found>, StoreError> {
    let mut all = BTreeMap::new();
    let mut names_bytes = 0;
    let mut dirs = vec![Vec::new()];
    while let Some(path) = dirs.pop() {
        let failed = |error| io(format!("read directory {}", shown(&path)), error);
        let dir = open_dir(root, &path).map_err(failed)?;
        for name in names(&dir).map_err(failed)? {
            let below = join(&path, &name);
            if below.len() >= PATH_BYTES_MAX {
                return Err(entry(&below, EntryFault::TooLong));
            }
            if below.iter().filter(|&&byte| byte == b'/').count() > DEPTH_MAX {
                return Err(entry(&below, EntryFault::TooDeep));
            }
            let failed = |error| io(format!("look at {}", shown(&below)), error);
            let stat = statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            let kind = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => Kind::Dir,
                FileType::RegularFile => Kind::File,
                FileType::Symlink => {
                    Kind::Link { target: readlinkat(&dir, &name, Vec::new()).map_err(failed)?.into_bytes() }
                }
                FileType::Fifo => Kind::Special("fifo"),
                FileType::Socket => Kind::Special("socket"),
                FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => Kind::Special("device"),
            };
            if matches!(kind, Kind::Dir) {
                dirs.push(below.clone());
            }
            names_bytes += below.len() + if let Kind::Link { target } = &kind { target.len() } else { 0 };
            let mode = stat.st_mode & MODE_BITS;
            all.insert(below, Found { kind, mode, traits: traits(&stat), changed: change_time(&stat) });
            if all.len() > ENTRIES_MAX {
                return Err(StoreError::Archive(ArchiveFault::TooMany));
            }
            if names_bytes > NAMES_BYTES_MAX {
                return Err(StoreError::Archive(ArchiveFault::NamesTooLong));
            }
        }
    }
    Ok(all)
}

/// Opens a file that [`scan`] has found, with its size; what took its place meanwhile is not waited for.
pub(super) fn open_file(root: BorrowedFd<'_>, path: &[u8]) -> Result<(File, u64), StoreError> {
    let failed = |error| io(format!("read {}", shown(path)), error);
    let file = open(root, path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).map_err(failed)?;
    let stat = fstat(&file).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(entry(path, EntryFault::Changing));
    }
    Ok((File::from(file), u64::try_from(stat.st_size).unwrap_or(0)))
}

/// Is told how many bytes were just read, and may wait; `false` ends the reading.
pub(super) type Pace<'a> = &'a mut dyn FnMut(usize) -> bool;

/// How much is read at one go.
const PIECE_BYTES: usize = 64 << 10;

/// What `root` is as a release, and where its modes are not those of one.
pub(super) fn manifest(root: BorrowedFd<'_>, pace: Pace<'_>) -> Result<(Manifest, Vec<Drift>), StoreError> {
    let mut nodes = BTreeMap::new();
    let mut changes = Vec::new();
    let own_mode = fstat(root).map_err(|error| io("look at the release", error))?.st_mode & MODE_BITS;
    if own_mode != DIR_MODE.as_raw_mode() {
        changes.push(Drift::new(b"", Change::Mode));
    }
    let mut buffer = vec![0; PIECE_BYTES];
    for (path, found) in scan(root)? {
        let (own_mode, executable) = (found.mode, found.is_executable());
        let (node, mode) = match found.kind {
            Kind::Dir => (Node::Dir, Some(DIR_MODE)),
            Kind::File => {
                let mode = if executable { PROGRAM_MODE } else { FILE_MODE };
                let (size, hash) = content(root, &path, &mut buffer, pace)?;
                (Node::File { executable, size, hash }, Some(mode))
            }
            Kind::Link { target } => (Node::Link { target }, None),
            Kind::Special(_) => {
                changes.push(Drift::new(&path, Change::Extra));
                continue;
            }
        };
        if mode.is_some_and(|mode| mode.as_raw_mode() != own_mode) {
            changes.push(Drift::new(&path, Change::Mode));
        }
        nodes.insert(path, node);
    }
    Ok((Manifest(nodes), changes))
}

/// How a release looks to the kernel without being read; it stays the same as long as nobody writes to it. Whatever changes a
/// file, its mode or its name sets the time of its last change (inode(7)), and to the current time alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// Of all that tells what is there apart.
    hash: Id,
    /// When something below the release's own directory was changed last.
    pub(super) changed: ChangeTime,
}

/// The time of an inode's last change: seconds since 1970, and nanoseconds.
pub(super) type ChangeTime = (i64, u64);

pub(super) fn change_time(stat: &Stat) -> ChangeTime {
    (stat.st_ctime, stat.st_ctime_nsec)
}

/// Looks at all of a release.
pub(super) fn look(root: BorrowedFd<'_>) -> Result<Look, StoreError> {
    let mut hasher = Hasher::default();
    let mut take = |path: &[u8], traits: [u64; 5]| {
        // A NUL is in no path, so it is clear where each of them ends.
        hasher.update(path);
        hasher.update(&[0]);
        traits.iter().for_each(|number| hasher.update(&number.to_le_bytes()));
    };
    take(b"", traits(&fstat(root).map_err(|error| io("look at the release", error))?));
    let found = scan(root)?;
    found.iter().for_each(|(path, found)| take(path, found.traits));
    let changed = found.values().map(|found| found.changed).max().unwrap_or_default();
    Ok(Look { hash: hasher.value(), changed })
}

/// Which file it is, and what no change leaves as it was.
fn traits(stat: &Stat) -> [u64; 5] {
    [stat.st_dev, stat.st_ino, stat.st_size.cast_unsigned(), stat.st_ctime.cast_unsigned(), stat.st_ctime_nsec]
}

fn content(root: BorrowedFd<'_>, path: &[u8], buffer: &mut [u8], pace: Pace<'_>) -> Result<(u64, Id), StoreError> {
    let (mut file, _) = open_file(root, path)?;
    let mut hasher = Hasher::default();
    let mut size = 0;
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok((size, hasher.value())),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                size += read as u64;
                if !pace(read) {
                    return Err(StoreError::Stopped);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io(format!("read {}", shown(path)), error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    fn opened(dir: &tempfile::TempDir) -> File {
        File::open(dir.path()).unwrap()
    }

    #[test]
    fn modes_and_special_files_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let chmod = |name: &str, mode| {
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        for (name, mode) in
            [("fine", 0o444), ("program", 0o555), ("writable", 0o644), ("setuid", 0o4555), ("half", 0o544)]
        {
            fs::write(dir.path().join(name), name).unwrap();
            chmod(name, mode);
        }
        symlink("x", dir.path().join("link")).unwrap();
        fs::create_dir(dir.path().join("dir")).unwrap();
        chmod("dir", 0o755);
        let _socket = UnixListener::bind(dir.path().join("socket")).unwrap();
        chmod("", 0o555);
        let (manifest, changes) = manifest(opened(&dir).as_fd(), &mut |_| true).unwrap();
        chmod("", 0o755);
        let executable = |name: &str| match &manifest.0[name.as_bytes()] {
            Node::File { executable, size, hash } => {
                assert_eq!((*size, *hash), (name.len() as u64, Id::of(name.as_bytes())));
                *executable
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(["fine", "program", "writable", "setuid", "half"].map(executable), [false, true, false, true, true]);
        let told: Vec<(&str, Change)> = changes.iter().map(|drift| (drift.name.as_str(), drift.change)).collect();
        let wanted =
            [("dir", Change::Mode), ("half", Change::Mode), ("setuid", Change::Mode), ("socket", Change::Extra)];
        assert_eq!(told, [&wanted[..], &[("writable", Change::Mode)]].concat());
    }

    #[test]
    fn a_tree_beyond_the_bounds_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let deep = ["d"; DEPTH_MAX].join("/");
        fs::create_dir_all(dir.path().join(&deep)).unwrap();
        fs::write(dir.path().join(&deep).join("file"), "").unwrap();
        assert_eq!(scan(opened(&dir).as_fd()).unwrap().len(), DEPTH_MAX + 1);
        fs::create_dir(dir.path().join(&deep).join("dir")).unwrap();
        fs::write(dir.path().join(&deep).join("dir/file"), "").unwrap();
        let refused = scan(opened(&dir).as_fd());
        assert!(matches!(refused, Err(StoreError::Entry { why: EntryFault::TooDeep, .. })));
    }

    #[test]
    fn a_fifo_in_the_place_of_a_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("file"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let opened_fifo = open_file(opened(&dir).as_fd(), b"file");
        assert!(matches!(opened_fifo, Err(StoreError::Entry { why: EntryFault::Changing, .. })));
    }
}
