//! Files below a directory that is held open: never outside of it, through no symbolic link, whoever changes what is below it.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, fchmod, openat2, statat, unlinkat};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

pub(super) const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// Opens what is below `dir`; `ELOOP` where a symbolic link is on the way or at its end.
pub(super) fn open(dir: impl AsFd, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    resolved(dir.as_fd(), path, flags, mode, resolve)
}

/// Opens a directory below `dir`, or `dir` once more for an empty path.
pub(super) fn open_dir(dir: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    open(dir, if path.is_empty() { b"." } else { path }, DIR, Mode::empty())
}

/// Where a symbolic link leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leads {
    /// To something below the directory.
    Inside,
    /// Out of it, or to an absolute path.
    Outside,
    /// To nothing: it can be followed by nobody, also later, because a release does not change.
    Nowhere,
}

/// Follows the link by the kernel's own rules, which nothing else gets right.
pub(super) fn leads(root: impl AsFd, link: &[u8]) -> Result<Leads, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match resolved(root.as_fd(), link, OFlags::PATH, Mode::empty(), resolve) {
        Ok(_) => Ok(Leads::Inside),
        Err(Errno::XDEV) => Ok(Leads::Outside),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => Ok(Leads::Nowhere),
        Err(other) => Err(other),
    }
}

fn resolved(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags, mode: Mode, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    // openat2(2): EAGAIN when something was renamed anywhere while a `..` was resolved. More than a few in a row are rare
    // even beside a process that does nothing else; without an end it would be that process's to say when we go on.
    const TRIES: usize = 1000;
    let mut last = Errno::AGAIN;
    for _ in 0..TRIES {
        match openat2(dir, path, flags | OFlags::CLOEXEC, mode, how) {
            Err(again @ (Errno::AGAIN | Errno::INTR)) => last = again,
            done => return done,
        }
    }
    Err(last)
}

/// A path's directory and the rest.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

/// `name` in the directory `dir`.
pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// The names in a directory, in no order.
pub(super) fn names(dir: impl AsFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// Removes `name` in `parent`, a tree or anything else. Read-only directories are made writable first.
pub(super) fn remove(parent: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    let parent = parent.as_fd();
    match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        other => return other,
    }
    let root = open_dir(parent, name)?;
    // By paths and not by descriptors for each level: a tree of any depth needs two. From its own root, so that what was made
    // from there has no path that is too long.
    let mut dirs = vec![Vec::new()];
    let mut next = 0;
    while let Some(path) = dirs.get(next).cloned() {
        next += 1;
        let dir = open_dir(&root, &path)?;
        fchmod(&dir, Mode::RWXU)?;
        for name in names(&dir)? {
            let kind = FileType::from_raw_mode(statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
            if kind == FileType::Directory {
                dirs.push(join(&path, &name));
            } else {
                unlinkat(&dir, &name, AtFlags::empty())?;
            }
        }
    }
    for path in dirs[1..].iter().rev() {
        let (above, name) = split(path);
        unlinkat(open_dir(&root, above)?, name, AtFlags::REMOVEDIR)?;
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// A name that nothing else has: `prefix` and 16 hexadecimal digits.
pub(super) fn random_name(prefix: &str) -> Result<String, Errno> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(format!("{prefix}{:016x}", u64::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn nothing_outside_and_no_link_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("root/sub")).unwrap();
        fs::write(dir.path().join("secret"), "x").unwrap();
        fs::write(dir.path().join("root/sub/file"), "x").unwrap();
        symlink("sub", dir.path().join("root/link")).unwrap();
        let root = File::open(dir.path().join("root")).unwrap();
        let tried = |path: &str| open(&root, path.as_bytes(), OFlags::RDONLY, Mode::empty()).map(|_| ());
        assert_eq!(tried("sub/file"), Ok(()));
        assert_eq!(tried("../secret"), Err(Errno::XDEV));
        assert_eq!(tried("/etc/passwd"), Err(Errno::XDEV));
        assert_eq!(tried("link/file"), Err(Errno::LOOP));
        assert_eq!(tried("link"), Err(Errno::LOOP));
    }

    #[test]
    fn links_are_judged_by_where_they_lead() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/file"), "x").unwrap();
        let root = File::open(dir.path()).unwrap();
        let cases = [
            ("file", Leads::Inside),
            ("b/../file", Leads::Inside),
            ("../a", Leads::Inside),
            ("..", Leads::Inside),
            ("../..", Leads::Outside),
            ("/", Leads::Outside),
            ("/proc/self/root", Leads::Outside),
            ("b/../../../x", Leads::Outside),
            ("nothing", Leads::Nowhere),
            ("nothing/../../..", Leads::Nowhere),
            ("file/../../..", Leads::Nowhere),
            ("link", Leads::Nowhere),
        ];
        for (target, wanted) in cases {
            symlink(target, dir.path().join("a/link")).unwrap();
            assert_eq!(leads(&root, b"a/link"), Ok(wanted), "{target}");
            fs::remove_file(dir.path().join("a/link")).unwrap();
        }
        // By way of another link, from a directory that is not where it seems to be.
        symlink("a/b", dir.path().join("deep")).unwrap();
        symlink("deep/../..", dir.path().join("up")).unwrap();
        symlink("deep/../../..", dir.path().join("out")).unwrap();
        assert_eq!((leads(&root, b"up"), leads(&root, b"out")), (Ok(Leads::Inside), Ok(Leads::Outside)));
    }

    #[test]
    fn a_read_only_tree_goes_and_what_its_links_lead_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree/a/b");
        fs::create_dir_all(&tree).unwrap();
        fs::create_dir(dir.path().join("kept")).unwrap();
        fs::write(dir.path().join("kept/file"), "x").unwrap();
        fs::write(tree.join("file"), "x").unwrap();
        symlink("../../../kept", tree.join("link")).unwrap();
        for path in ["tree/a/b", "tree/a", "tree"] {
            fs::set_permissions(dir.path().join(path), fs::Permissions::from_mode(0o555)).unwrap();
        }
        let parent = File::open(dir.path()).unwrap();
        remove(&parent, b"tree").unwrap();
        assert!(!dir.path().join("tree").exists() && dir.path().join("kept/file").exists());
        symlink("kept", dir.path().join("link")).unwrap();
        remove(&parent, b"link").unwrap();
        assert!(dir.path().join("link").symlink_metadata().is_err() && dir.path().join("kept/file").exists());
        assert_eq!(remove(&parent, b"nothing"), Err(Errno::NOENT));
    }
}
