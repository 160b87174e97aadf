//! An archive becomes a tree: only what a release may contain, and never more than there is room for.

use super::archive::{Archive, Entry, Kind};
use super::beneath::{Leads, leads, open, open_dir, split};
use super::error::{ArchiveFault, EntryFault, StoreError, entry, io, shown};
use super::manifest::{Manifest, Node};
use super::stream::Stream;
use super::tree::{DIR_MODE, FILE_MODE, PROGRAM_MODE};
use hale_ledger::hash::Hasher;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, Mode, OFlags, fchmod, fstatvfs, linkat, mkdirat, symlinkat, syncfs};
use std::fs::File;
use std::io::{Read, Write};

/// 200,000: four times what large trees of Python or Node have; more of them fill an ordinary disk's table of files.
pub(super) const ENTRIES_MAX: usize = 200_000;
/// 32 MiB: 160 bytes for each of so many entries. They are in memory while a release is imported or verified.
pub(super) const NAMES_BYTES_MAX: usize = 32 << 20;
/// The kernel's `PATH_MAX`, which counts the NUL at the end too.
pub(super) const PATH_BYTES_MAX: usize = 4096;
/// 64 directories: several times what nested packages of Node need. Each prefix of a name becomes a directory.
pub(super) const DEPTH_MAX: usize = 64;
/// 1000: files of everything else on the disk, the ledger's among them, that could still be made.
const RESERVE_FILES: u64 = 1000;
/// 16 MiB: after so much, what was written is synced, and the space is looked at again. The ledger's sync can have to wait for
/// all that is in memory for the same disk, which a slow one writes in a second; and others fill the disk meanwhile.
const UNSYNCED_BYTES_MAX: u64 = 16 << 20;

/// Bounds of one import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Of the unpacked archive, its headers included. Default [`Limits::BYTES`].
    pub bytes: u64,
    /// What has to stay free on the file system: the ledger is there too. Default [`Limits::RESERVE_BYTES`].
    pub reserve_bytes: u64,
}

impl Limits {
    /// 4 GiB: the largest programs with their models of language or vision, and ten of them fit on a small disk.
    pub const BYTES: u64 = 4 << 30;
    /// 256 MiB: four segments of the ledger, days of its records, also where it was just full.
    pub const RESERVE_BYTES: u64 = 256 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: Self::BYTES, reserve_bytes: Self::RESERVE_BYTES }
    }
}

/// Unpacks into the empty directory `root`, which is read-only then, and says what is in it.
pub(super) fn unpack(root: BorrowedFd<'_>, from: impl Read, limits: &Limits) -> Result<Manifest, StoreError> {
    let mut archive = Archive::new(Stream::new(from, limits.bytes)?);
    let mut unpacker = Unpacker::new(root, limits);
    while let Some(next) = archive.next()? {
        unpacker.take(next, &mut archive)?;
    }
    unpacker.finish()
}

/// Refuses to write `needed_bytes` where less than the reserve would be left.
pub(super) fn room(dir: BorrowedFd<'_>, what: &str, needed_bytes: u64, limits: &Limits) -> Result<(), StoreError> {
    let free = fstatvfs(dir).map_err(|error| io("learn how much space is left", error))?;
    let available_bytes = free.f_bavail.saturating_mul(free.f_frsize);
    // Some file systems have no table of files that could be full.
    let available_files = if free.f_files == 0 { u64::MAX } else { free.f_favail };
    let wanted = needed_bytes.saturating_add(limits.reserve_bytes);
    if available_bytes < wanted || available_files <= RESERVE_FILES {
        return Err(StoreError::NoRoom {
            what: what.to_owned(),
            available_bytes,
            available_files,
            needed_bytes,
            reserve_bytes: limits.reserve_bytes,
            reserve_files: RESERVE_FILES,
        });
    }
    Ok(())
}

struct Unpacker<'a> {
    root: BorrowedFd<'a>,
    limits: &'a Limits,
    manifest: Manifest,
    names_bytes: usize,
    unsynced_bytes: u64,
    buffer: Vec<u8>,
}

impl<'a> Unpacker<'a> {
    fn new(root: BorrowedFd<'a>, limits: &'a Limits) -> Self {
        let manifest = Manifest::default();
        Self { root, limits, manifest, names_bytes: 0, unsynced_bytes: 0, buffer: vec![0; 64 << 10] }
    }

    fn take<R: Read>(&mut self, next: Entry, archive: &mut Archive<R>) -> Result<(), StoreError> {
        let Entry { path, kind } = next;
        let failed = |error| io(format!("make {}", shown(&path)), error);
        match kind {
            Kind::Dir => self.make_dirs(&path, &path),
            Kind::File { executable, size } => {
                if size > self.limits.bytes {
                    return Err(StoreError::Archive(ArchiveFault::TooLarge { max_bytes: self.limits.bytes }));
                }
                self.begin(&path, size)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let file = open(self.root, &path, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
                let mut file = File::from(file);
                let hash = self.copy(&path, size, archive, &mut file)?;
                fchmod(&file, if executable { PROGRAM_MODE } else { FILE_MODE }).map_err(failed)?;
                self.add(path, Node::File { executable, size, hash })
            }
            Kind::Link { target } => {
                self.begin(&path, target.len() as u64)?;
                let (above, name) = split(&path);
                symlinkat(&target[..], open_dir(self.root, above).map_err(failed)?, name).map_err(failed)?;
                self.add(path, Node::Link { target })
            }
            Kind::HardLink { target } => {
                self.begin(&path, 0)?;
                let Some(node @ Node::File { .. }) = self.manifest.0.get(&target).cloned() else {
                    return Err(entry(&path, EntryFault::HardLink(shown(&target))));
                };
                let (from_dir, from) = split(&target);
                let (to_dir, to) = split(&path);
                let from_dir = open_dir(self.root, from_dir).map_err(failed)?;
                let to_dir = open_dir(self.root, to_dir).map_err(failed)?;
                linkat(from_dir, from, to_dir, to, AtFlags::empty()).map_err(failed)?;
                self.add(path, node)
            }
        }
    }

    /// Before something that is no directory is made.
    fn begin(&mut self, path: &[u8], size: u64) -> Result<(), StoreError> {
        if self.manifest.0.contains_key(path) {
            return Err(entry(path, EntryFault::Twice));
        }
        self.make_dirs(split(path).0, path)?;
        room(self.root, &shown(path), size, self.limits)
    }

    /// The directory `path` and those above it, as far as they are missing; `of` is the entry that they are for.
    fn make_dirs(&mut self, path: &[u8], of: &[u8]) -> Result<(), StoreError> {
        if path.is_empty() || matches!(self.manifest.0.get(path), Some(Node::Dir)) {
            return Ok(());
        }
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            let dir = &path[..end];
            match self.manifest.0.get(dir) {
                Some(Node::Dir) => continue,
                Some(_) if dir == of => return Err(entry(of, EntryFault::Twice)),
                Some(_) => return Err(entry(of, EntryFault::BelowOther(shown(dir)))),
                None => {}
            }
            room(self.root, &shown(dir), 0, self.limits)?;
            let failed = |error| io(format!("make directory {}", shown(dir)), error);
            let (above, name) = split(dir);
            let above = open_dir(self.root, above).map_err(failed)?;
            mkdirat(&above, name, Mode::RWXU).map_err(failed)?;
            self.add(dir.to_vec(), Node::Dir)?;
        }
        Ok(())
    }

    fn add(&mut self, path: Vec<u8>, node: Node) -> Result<(), StoreError> {
        self.names_bytes += path.len() + if let Node::Link { target } = &node { target.len() } else { 0 };
        self.manifest.0.insert(path, node);
        if self.manifest.0.len() > ENTRIES_MAX {
            return Err(StoreError::Archive(ArchiveFault::TooMany));
        }
        if self.names_bytes > NAMES_BYTES_MAX {
            return Err(StoreError::Archive(ArchiveFault::NamesTooLong));
        }
        Ok(())
    }

    fn copy<R: Read>(
        &mut self,
        path: &[u8],
        size: u64,
        archive: &mut Archive<R>,
        file: &mut File,
    ) -> Result<super::Id, StoreError> {
        let failed = |error: std::io::Error| io(format!("write {}", shown(path)), error);
        let mut hasher = Hasher::default();
        let mut left = size;
        loop {
            let read = archive.read_content(&mut self.buffer)?;
            if read == 0 {
                return Ok(hasher.value());
            }
            hasher.update(&self.buffer[..read]);
            file.write_all(&self.buffer[..read]).map_err(failed)?;
            left = left.saturating_sub(read as u64);
            self.unsynced_bytes += read as u64;
            if self.unsynced_bytes >= UNSYNCED_BYTES_MAX {
                self.unsynced_bytes = 0;
                syncfs(self.root).map_err(|error| failed(error.into()))?;
                room(self.root, &shown(path), left, self.limits)?;
            }
        }
    }

    /// Judges the links, now that what they lead to is there, and closes the tree.
    fn finish(self) -> Result<Manifest, StoreError> {
        if self.manifest.0.is_empty() {
            return Err(StoreError::Archive(ArchiveFault::Empty));
        }
        for (path, node) in &self.manifest.0 {
            if let Node::Link { target } = node {
                stays(self.root, path, target)?;
            }
        }
        let dirs = self.manifest.0.iter().filter(|(_, node)| **node == Node::Dir).map(|(path, _)| &path[..]);
        for dir in dirs.chain([&b""[..]]) {
            let failed = |error| io(format!("make directory {}", shown(dir)), error);
            let dir = open_dir(self.root, dir).map_err(failed)?;
            fchmod(dir.as_fd(), DIR_MODE).map_err(failed)?;
        }
        Ok(self.manifest)
    }
}

/// Refuses a link that leaves the directory.
pub(super) fn stays(root: BorrowedFd<'_>, link: &[u8], target: &[u8]) -> Result<(), StoreError> {
    match leads(root, link).map_err(|error| io(format!("follow {}", shown(link)), error))? {
        Leads::Inside | Leads::Nowhere => Ok(()),
        Leads::Outside => Err(entry(link, EntryFault::Leaves(shown(target)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generations::testing::{LIMITS, Tar, gzip, zstd};
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;
    use tar::{EntryType, Header};

    fn unpacked(dir: &Path, from: impl Read, limits: &Limits) -> Result<Manifest, StoreError> {
        unpack(File::open(dir).unwrap().as_fd(), from, limits)
    }

    fn writable(dir: &Path) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o755)).unwrap();
                writable(&entry.path());
            }
        }
    }

    #[track_caller]
    fn refused(from: impl Read, limits: &Limits) -> StoreError {
        // Whatever is refused leaves what is beside it alone.
        let around = tempfile::tempdir().unwrap();
        let dir = around.path().join("root");
        fs::create_dir(&dir).unwrap();
        fs::write(around.path().join("secret"), "kept").unwrap();
        let error = unpacked(&dir, from, limits).unwrap_err();
        assert_eq!(fs::read_to_string(around.path().join("secret")).unwrap(), "kept");
        assert_eq!(fs::read_dir(around.path()).unwrap().count(), 2);
        writable(around.path());
        error
    }

    #[track_caller]
    fn entry_refused(tar: Tar) -> (String, EntryFault) {
        match refused(&tar.end()[..], &LIMITS) {
            StoreError::Entry { name, why } => (name, why),
            other => panic!("{other:?}"),
        }
    }

    fn text(tar: Tar) -> String {
        let dir = tempfile::tempdir().unwrap();
        let manifest = unpacked(dir.path(), &tar.end()[..], &LIMITS).unwrap();
        writable(dir.path());
        manifest.to_text()
    }

    #[test]
    fn the_same_content_is_the_same_release() {
        let odd = |header: &mut Header| {
            header.set_mode(0o700);
            header.set_uid(1234);
            header.set_gid(99);
            header.set_mtime(1_700_000_000);
            header.set_username("somebody").unwrap();
        };
        let plain = |header: &mut Header| header.set_mode(0o555);
        let one = Tar::default().dir("./").dir("./bin").file("./conf", "a").link("bin/start", "bot");
        let one = one.entry(EntryType::Regular, b"./bin/bot", b"x", plain).file("bin/copy", "a");
        // In another order, without directories, with other owners, times and write bits, and a copy that is a hard link.
        let other = Tar::default().entry(EntryType::Regular, b"bin/bot", b"x", odd).link("bin/start", "bot");
        let other =
            other.entry(EntryType::Regular, b"conf", b"a", |header| header.set_mtime(1)).hard("bin/copy", "conf");
        let other = other.dir("bin").dir("bin/");
        let text_of_one = text(one.clone());
        assert_eq!(text_of_one, text(other));
        assert_eq!(text_of_one.lines().count(), 6);
        for change in [one.clone().file("more", ""), one.clone().dir("more"), one.link("more", "conf")] {
            assert_ne!(text_of_one, text(change));
        }
        let not_executable =
            Tar::default().file("bin/bot", "x").file("conf", "a").link("bin/start", "bot").hard("bin/copy", "conf");
        assert_ne!(text_of_one, text(not_executable));
    }

    #[test]
    fn a_release_is_read_only_whatever_the_archive_says() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |mode| move |header: &mut Header| header.set_mode(mode);
        let tar = Tar::default()
            .entry(EntryType::Directory, b"d", b"", mode(0o2777))
            .entry(EntryType::Regular, b"d/f", b"", mode(0o666))
            .entry(EntryType::Regular, b"d/none", b"", mode(0))
            .entry(EntryType::Regular, b"d/x", b"", mode(0o100))
            .hard("d/h", "d/f");
        unpacked(dir.path(), &tar.end()[..], &LIMITS).unwrap();
        let found = |path: &str| fs::metadata(dir.path().join(path)).unwrap();
        let modes = ["", "d", "d/f", "d/none", "d/x"].map(|path| found(path).mode() & 0o7777);
        assert_eq!(modes, [0o555, 0o555, 0o444, 0o444, 0o555]);
        assert_eq!((found("d/h").ino(), found("d/h").nlink()), (found("d/f").ino(), 2));
        writable(dir.path());
    }

    #[test]
    fn what_is_twice_or_below_something_else_is_refused() {
        let below = |other: &str| EntryFault::BelowOther(other.to_owned());
        let start = Tar::default;
        let cases = [
            (start().file("a", "").file("./a", ""), "a", EntryFault::Twice),
            (start().dir("a").file("a", ""), "a", EntryFault::Twice),
            (start().file("a", "").dir("a"), "a", EntryFault::Twice),
            (start().file("a/b", "").file("a", ""), "a", EntryFault::Twice),
            (start().link("a", "b").link("a", "b"), "a", EntryFault::Twice),
            (start().file("b", "").file("a", "").hard("a", "b"), "a", EntryFault::Twice),
            (start().file("a", "").file("a/b", ""), "a/b", below("a")),
            (start().dir("d").link("a", "d").file("a/b", ""), "a/b", below("a")),
            (start().link("a", "/tmp").file("a/b/c", ""), "a/b/c", EntryFault::BelowOther("a".into())),
            (start().link("a", "..").dir("a/b"), "a/b", below("a")),
            (start().link("a", "..").link("a/secret", "b"), "a/secret", below("a")),
            (start().file("b", "").link("a", "..").hard("a/secret", "b"), "a/secret", below("a")),
            (start().link("a", "b").dir("a"), "a", EntryFault::Twice),
        ];
        for (tar, name, why) in cases {
            assert_eq!(entry_refused(tar), (name.to_owned(), why));
        }
    }

    #[test]
    fn hard_links_lead_to_an_earlier_file_of_the_archive() {
        for target in ["b", "../secret", "/etc/passwd", "d", "l", "d/../f", "a", "l2/f"] {
            let tar = Tar::default().dir("d").file("f", "").link("l", "f").link("l2", "d").file("d/f", "");
            let (name, why) = entry_refused(tar.hard("a", target).file("b", ""));
            assert_eq!((name.as_str(), why), ("a", EntryFault::HardLink(target.to_owned())), "{target}");
        }
    }

    #[test]
    fn links_that_leave_the_release_are_refused_by_where_they_lead() {
        for target in ["/", "/etc/passwd", "..", "../secret", "d/../../secret", "deep/../../.."] {
            let tar = Tar::default().link("a", target).dir("d/e").link("deep", "d/e").link("d/e/up", "../..");
            assert_eq!(entry_refused(tar), ("a".to_owned(), EntryFault::Leaves(target.to_owned())), "{target}");
        }
        // The second half of a chain is what leaves.
        let chain = Tar::default().link("a", "b").link("b", "c/../../secret").link("c", "d").dir("d");
        assert!(matches!(entry_refused(chain).1, EntryFault::Leaves(_)));
        let fine = Tar::default()
            .dir("d/e")
            .link("d/e/up", "../..")
            .link("d/x", "../d/./e/up/d")
            .link("none", "nothing/../..");
        assert_eq!(text(fine.link("loop", "loop")).lines().count(), 7);
    }

    #[test]
    fn nothing_is_no_release() {
        for tar in [Tar::default(), Tar::default().dir("./")] {
            let error = refused(&tar.end()[..], &LIMITS);
            assert!(matches!(error, StoreError::Archive(ArchiveFault::Empty)), "{error}");
        }
    }

    #[test]
    fn a_bomb_is_refused_at_its_limit_in_each_form() {
        let limits = Limits { bytes: 1 << 20, ..LIMITS };
        let big = Tar::default().entry(EntryType::Regular, b"zeros", &vec![0; 4 << 20], |_| {}).end();
        let part = vec![0; 512 << 10];
        let file = |tar: Tar, name: &[u8]| tar.entry(EntryType::Regular, name, &part, |_| {});
        let many = [b"a", b"b", b"c"].into_iter().fold(Tar::default(), |tar, name| file(tar, name)).end();
        for packed in [&big, &many].into_iter().flat_map(|tar| [tar.clone(), gzip(tar), zstd(tar)]) {
            let error = refused(&packed[..], &limits);
            assert!(matches!(error, StoreError::Archive(ArchiveFault::TooLarge { max_bytes }) if max_bytes == 1 << 20));
        }
    }

    /// Each entry can stand for many directories that no entry names.
    #[test]
    fn entries_and_names_have_bounds_together() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        let empty = || Unpacker::new(root.as_fd(), &LIMITS);
        let mut unpacker = empty();
        let path = |n: usize| n.to_string().into_bytes();
        for n in 0..ENTRIES_MAX {
            unpacker.add(path(n), Node::Dir).unwrap();
        }
        let one_more = unpacker.add(path(ENTRIES_MAX), Node::Dir);
        assert!(matches!(one_more, Err(StoreError::Archive(ArchiveFault::TooMany))), "{one_more:?}");
        let mut unpacker = empty();
        let link = || Node::Link { target: vec![b'a'; 4000] };
        let refused = (0..).find_map(|n| unpacker.add(path(n), link()).err().map(|error| (n, error)));
        let (n, error) = refused.unwrap();
        assert!(matches!(error, StoreError::Archive(ArchiveFault::NamesTooLong)), "{error}");
        assert_eq!(n, NAMES_BYTES_MAX / 4004);
        // Directories that are made for a file count too.
        let deep = "d/".repeat(DEPTH_MAX);
        let tar = Tar::default().pax(EntryType::XHeader, &[("path", format!("{deep}f").as_bytes())]).file("x", "");
        assert_eq!(text(tar).lines().count(), 1 + DEPTH_MAX + 1);
    }

    #[test]
    fn the_reserve_stays_free() {
        let tar = Tar::default().file("a", "").end();
        let all = Limits { reserve_bytes: u64::MAX, ..LIMITS };
        let error = refused(&tar[..], &all);
        assert!(matches!(error, StoreError::NoRoom { ref what, .. } if what == "a"), "{error}");
        // What the header says is enough, for either limit: nothing of it was written.
        let huge = Tar::default().entry(EntryType::Regular, b"huge", b"", |header| header.set_size(1 << 60));
        let error = refused(&huge.0[..], &Limits { bytes: u64::MAX, ..LIMITS });
        assert!(matches!(error, StoreError::NoRoom { needed_bytes, .. } if needed_bytes == 1 << 60), "{error}");
        let error = refused(&huge.0[..], &LIMITS);
        assert!(matches!(error, StoreError::Archive(ArchiveFault::TooLarge { .. })), "{error}");
    }
}
