//! Brings files back to a kept state: all written beside and synced first, then each put in its place in one step.
//!
//! What is written beside belongs to root, with no right for anybody, until it is whole: who owns the directory can take its
//! name away, and not open it. What is in the file's place is never opened or followed, only exchanged, looked at, and removed
//! if it is still the thing that was to be replaced.

use super::error::{FilesError, io, named};
use super::look::{Stamp, read, xattrs};
use super::state::{Meta, Node, State};
use super::store::Store;
use super::walk::{Found, Links, Spot, Stop, is_link, walk};
use crate::generations::beneath;
use hale_ledger::Hash;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid, XattrFlags, fchmod, fchown, fremovexattr, fsetxattr,
    fstat, fsync, renameat, renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What stands beside a file while it is put back. It begins with a dot and has no ending, so that no program takes it for a
/// part of a directory of configuration, and it is the same each time, so that what a kill left behind is found.
const BESIDE: &str = ".hale-put-back-";

/// How often what somebody saves at just the same moment is given back: who is faster each time does nothing else.
const GIVEN_BACK_MAX: usize = 16;

const ACL: &[u8] = b"system.posix_acl_access";

/// What is to be done at a place.
enum Act {
    /// What is beside gets the name.
    Place,
    Remove,
}

/// One thing that is ready to be done.
struct Step {
    path: PathBuf,
    spot: Spot,
    beside: Vec<u8>,
    /// What was there when it was made ready.
    old: Option<Stamp>,
    act: Act,
}

impl Drop for Step {
    fn drop(&mut self) {
        let _gone_or_removed_by_clean = unlinkat(&self.spot.dir, &self.beside, AtFlags::empty());
    }
}

fn beside(name: &[u8]) -> Vec<u8> {
    format!("{BESIDE}{:.16}", Hash::of(name).to_string()).into_bytes()
}

/// Removes what a kill left beside the files. What cannot be reached now is removed when it is put back the next time.
pub(super) fn clean(paths: &BTreeSet<PathBuf>) {
    for path in paths {
        if let Ok(Found { links, spot }) = walk(path.as_os_str().as_bytes(), Links::AsTheyAre, &mut |_, _| {}) {
            for spot in links.into_iter().map(|(spot, _)| spot).chain(spot) {
                let _mostly_nothing = unlinkat(&spot.dir, beside(&spot.name), AtFlags::empty());
            }
        }
    }
}

/// `is_wanted` has the last word when all is ready: what changes after it is noticed, and left as it is.
pub(super) fn put_back(
    store: &Store,
    state: &State,
    wanted: &[&PathBuf],
    is_wanted: impl FnOnce() -> Result<(), FilesError>,
) -> Result<Vec<PathBuf>, FilesError> {
    let mut steps: Vec<Step> = Vec::new();
    for path in wanted {
        prepare(store, state, path, &mut steps)?;
    }
    is_wanted()?;
    let mut done = BTreeSet::new();
    for step in steps {
        expect_dir(state, &step)?;
        step.take()?;
        done.insert(step.path.clone());
    }
    Ok(done.into_iter().collect())
}

fn failed(path: &Path, error: impl Into<std::io::Error>) -> FilesError {
    io(format!("put {} back", named(path)), error)
}

fn way(state: &State, path: &Path) -> Result<Found, FilesError> {
    let bytes = path.as_os_str().as_bytes();
    let links = state.0.get(bytes).map_or(&[][..], |entry| &entry.links);
    walk(bytes, Links::AsKept(links), &mut |_, _| {}).map_err(|stop| match stop {
        Stop::Refused(why) => FilesError::Refused { path: named(path), why },
        Stop::Failed(errno) => failed(path, errno),
    })
}

/// Makes ready all that a path needs: the file first, then the links that lead to it.
fn prepare(store: &Store, state: &State, path: &Path, steps: &mut Vec<Step>) -> Result<(), FilesError> {
    let Some(entry) = state.0.get(path.as_os_str().as_bytes()) else { return Ok(()) };
    let Found { links, spot } = way(state, path)?;
    // Two paths can lead to one file, which was one file too when it was kept.
    let is_planned = |steps: &[Step], spot: &Spot| steps.iter().any(|step| step.spot.is(spot));
    match (&entry.node, spot) {
        (Node::Refused(why), _) => return Err(FilesError::Refused { path: named(path), why: *why }),
        (Node::File(_), None) => return Err(FilesError::NoDirectory { path: named(path) }),
        (Node::Absent, None) => {}
        (_, Some(spot)) if is_planned(steps, &spot) => {}
        (Node::Absent, Some(spot)) => {
            if let Some(stat) = there(path, &spot)? {
                steps.push(Step::new(path, spot, Some(&stat), Act::Remove));
            }
        }
        (Node::File(meta), Some(spot)) => {
            let content = store.content_of(state.id(), meta.hash)?;
            let stat = there(path, &spot)?;
            if !stat.as_ref().is_some_and(|stat| is_the_same(&spot, stat, meta)) {
                let step = Step::new(path, spot, stat.as_ref(), Act::Place);
                step.write(meta, &content)?;
                steps.push(step);
            }
        }
    }
    for (spot, target) in links.into_iter().rev() {
        if !spot.dir.is_ours() {
            return Err(FilesError::LinkInOthersHands { path: named(path) });
        }
        let stat = there(path, &spot)?;
        let is_it = is_planned(steps, &spot)
            || stat.as_ref().is_some_and(|stat| is_link(stat) && spot.target().as_ref() == Ok(&target));
        if !is_it {
            let step = Step::new(path, spot, stat.as_ref(), Act::Place);
            step.clear()?;
            symlinkat(&target, &step.spot.dir, &step.beside).map_err(|error| failed(path, error))?;
            steps.push(step);
        }
    }
    Ok(())
}

fn there(path: &Path, spot: &Spot) -> Result<Option<Stat>, FilesError> {
    let stat = spot.stat().map_err(|error| failed(path, error))?;
    match &stat {
        Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            Err(FilesError::DirectoryInPlace { path: named(path) })
        }
        Some(_) | None => Ok(stat),
    }
}

/// Whether it need not be touched. What cannot be read is not the same: it is replaced unread.
fn is_the_same(spot: &Spot, stat: &Stat, meta: &Meta) -> bool {
    matches!(read(spot, stat, None), Ok(Ok((found, _))) if found == *meta)
}

/// The directories are still those that the path leads to.
fn expect_dir(state: &State, step: &Step) -> Result<(), FilesError> {
    let Found { links, spot } = way(state, &step.path)?;
    let mut spots = links.iter().map(|(spot, _)| spot).chain(&spot);
    if spots.any(|spot| spot.is(&step.spot)) {
        return Ok(());
    }
    Err(FilesError::ChangedMeanwhile { path: named(&step.path) })
}

impl Step {
    fn new(path: &Path, spot: Spot, old: Option<&Stat>, act: Act) -> Self {
        let beside = beside(&spot.name);
        Self { path: path.to_owned(), spot, beside, old: old.map(Stamp::of), act }
    }

    fn failed(&self, error: impl Into<std::io::Error>) -> FilesError {
        failed(&self.path, error)
    }

    fn not_the_same(&self, what: &'static str) -> FilesError {
        FilesError::NotTheSame { path: named(&self.path), what }
    }

    /// Removes what a kill left behind, or somebody else put there.
    fn clear(&self) -> Result<(), FilesError> {
        match unlinkat(&self.spot.dir, &self.beside, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed(errno)),
        }
    }

    /// Writes the file beside its place, as it was, and syncs it.
    fn write(&self, meta: &Meta, content: &[u8]) -> Result<(), FilesError> {
        self.clear()?;
        let failed = |errno: Errno| self.failed(errno);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = beneath::open(&self.spot.dir, &self.beside, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        let mut file = File::from(file);
        file.write_all(content).map_err(|error| self.failed(error))?;
        // A directory can give its new files ACLs, and a label.
        let given = xattrs(&file).map_err(failed)?.unwrap_or_default();
        for name in given.keys().filter(|name| !meta.xattrs.contains_key(*name) && !name.starts_with(b"security.")) {
            fremovexattr(&file, name.as_slice()).map_err(failed)?;
        }
        let set = |name: &[u8], value: &[u8]| fsetxattr(&file, name, value, XattrFlags::empty()).map_err(failed);
        for (name, value) in meta.xattrs.iter().filter(|(name, value)| *name != ACL && given.get(*name) != Some(value))
        {
            set(name, value)?;
        }
        let stat = fstat(&file).map_err(failed)?;
        // Then who may do what, last of all: an ACL has no meaning before the owner and the mode.
        if (stat.st_uid, stat.st_gid) != (meta.uid, meta.gid) {
            fchown(&file, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid))).map_err(failed)?;
        }
        fchmod(&file, Mode::from_raw_mode(meta.mode)).map_err(failed)?;
        if let Some(acl) = meta.xattrs.get(ACL) {
            set(ACL, acl)?;
        }
        fsync(&file).map_err(failed)?;
        let stat = fstat(&file).map_err(failed)?;
        let found = xattrs(&file).map_err(failed)?.unwrap_or_default();
        if (stat.st_uid, stat.st_gid) != (meta.uid, meta.gid) {
            return Err(self.not_the_same("owner"));
        }
        if stat.st_mode & 0o7777 != meta.mode {
            return Err(self.not_the_same("mode"));
        }
        if meta.xattrs.iter().any(|(name, value)| found.get(name) != Some(value)) {
            return Err(self.not_the_same("extended attribute"));
        }
        Ok(())
    }

    /// Does it, in one step, and makes it last.
    fn take(&self) -> Result<(), FilesError> {
        match self.act {
            Act::Place => self.place()?,
            Act::Remove => self.remove()?,
        }
        let dir = beneath::open_dir(&self.spot.dir, b"").map_err(|error| self.failed(error))?;
        fsync(dir).map_err(|error| self.failed(error))
    }

    fn changed(&self) -> FilesError {
        FilesError::ChangedMeanwhile { path: named(&self.path) }
    }

    fn rename(&self, from: &[u8], to: &[u8], flags: RenameFlags) -> Result<(), Errno> {
        match renameat_with(&self.spot.dir, from, &self.spot.dir, to, flags) {
            // rename(2): a file system that has no such flags, or a kernel before 3.15.
            Err(Errno::INVAL | Errno::NOSYS) => renameat(&self.spot.dir, from, &self.spot.dir, to),
            other => other,
        }
    }

    fn beside_stat(&self) -> Result<Option<Stat>, Errno> {
        Spot { dir: self.spot.dir.clone(), name: self.beside.clone() }.stat()
    }

    /// Whether what came out of the place is what was to be replaced. Where the file system cannot exchange, nothing did.
    fn is_old(&self) -> Result<bool, Errno> {
        let out = self.beside_stat()?.as_ref().map(Stamp::of);
        Ok(out.is_none_or(|out| self.old.is_some_and(|old| old.is_renamed(&out))))
    }

    fn place(&self) -> Result<(), FilesError> {
        let failed = |errno: Errno| match errno {
            Errno::NOENT | Errno::EXIST => self.changed(),
            other => self.failed(other),
        };
        let new = self.beside_stat().map_err(failed)?.ok_or_else(|| self.changed())?;
        // Where the file system cannot exchange, this is the last look.
        if self.spot.stat().map_err(failed)?.as_ref().map(Stamp::of) != self.old {
            return Err(self.changed());
        }
        let flags = if self.old.is_some() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
        self.rename(&self.beside, &self.spot.name, flags).map_err(failed)?;
        if !self.is_old().map_err(failed)? {
            self.give_back(Stamp::of(&new)).map_err(failed)?;
            return Err(self.changed());
        }
        let found = self.spot.stat().map_err(failed)?;
        if !found.is_some_and(|found| Stamp::of(&found).is_renamed(&Stamp::of(&new))) {
            return Err(self.changed());
        }
        self.clear()
    }

    /// What came out of the place is somebody's newer one. `given` is what stands there, unless there is a newer one by now again: then
    /// that is the one to stay.
    fn give_back(&self, mut given: Stamp) -> Result<(), Errno> {
        for _ in 0..GIVEN_BACK_MAX {
            let Some(out) = self.beside_stat()?.as_ref().map(Stamp::of) else { return Ok(()) };
            self.rename(&self.beside, &self.spot.name, RenameFlags::EXCHANGE)?;
            if self.beside_stat()?.is_none_or(|came| given.is_renamed(&Stamp::of(&came))) {
                return Ok(());
            }
            given = out;
        }
        Ok(())
    }

    fn remove(&self) -> Result<(), FilesError> {
        let failed = |errno: Errno| match errno {
            Errno::NOENT | Errno::EXIST => self.changed(),
            other => self.failed(other),
        };
        self.clear()?;
        self.rename(&self.spot.name, &self.beside, RenameFlags::NOREPLACE).map_err(failed)?;
        if !self.is_old().map_err(failed)? {
            self.rename(&self.beside, &self.spot.name, RenameFlags::NOREPLACE).map_err(failed)?;
            return Err(self.changed());
        }
        self.clear()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Place, chmod, kept, told};
    use super::*;
    use rustix::fs::{getxattr, setxattr};
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    /// An ACL as the kernel has it (linux/posix_acl_xattr.h): version 2, then tag, permissions and id of each entry.
    fn given_to(uid: u32, mask: u16) -> Vec<u8> {
        const NO_ID: u32 = u32::MAX;
        let mut bytes = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in
            [(1u16, 6u16, NO_ID), (2, 4, uid), (4, 4, NO_ID), (16, mask, NO_ID), (32, 0, NO_ID)]
        {
            bytes.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn content_mode_attributes_and_absence_come_back() {
        let place = Place::new();
        let files = place.open(["etc/a", "etc/b", "etc/c", "etc/none/d"]);
        let [a, b, c] = ["a", "b", "c"].map(|name| place.at("etc").join(name));
        for name in ["etc/a", "etc/c"] {
            place.write(name, "1");
            chmod(&place.at(name), 0o644);
        }
        chmod(&a, 0o640);
        setxattr(&a, "user.note", b"a\n\xff", XattrFlags::empty()).unwrap();
        setxattr(&a, ACL, &given_to(1234, 4), XattrFlags::empty()).unwrap();
        let good = kept(&files);
        assert_eq!(files.put_back(good, None, Some(good)).unwrap(), [""; 0].map(PathBuf::from));

        place.write("etc/a", "2");
        setxattr(&a, ACL, &given_to(4321, 6), XattrFlags::empty()).unwrap();
        setxattr(&a, "user.note", b"b", XattrFlags::empty()).unwrap();
        setxattr(&a, "user.new", b"b", XattrFlags::empty()).unwrap();
        place.write("etc/b", "2");
        chmod(&c, 0o600);
        let bad = kept(&files);
        let wanted = [
            "a has another content (1 -> 1 bytes)",
            "a has another mode (0640 -> 0660)",
            "a has other attributes (system.posix_acl_access, user.new, user.note)",
            "b was made",
            "c has another mode (0644 -> 0600)",
        ];
        assert_eq!(told(&files, good, bad), wanted);
        // What its directory gives to new files is not what it had.
        setxattr(place.at("etc"), "system.posix_acl_default", &given_to(1111, 7), XattrFlags::empty()).unwrap();

        assert_eq!(files.put_back(good, Some(&a), None).unwrap(), std::slice::from_ref(&a));
        assert_eq!((place.text("etc/a").as_str(), a.metadata().unwrap().mode() & 0o7777), ("1", 0o640));
        let attribute = |name: &str| {
            let mut bytes = [0; 100];
            let len = getxattr(&a, name, &mut bytes[..])?;
            Ok::<_, Errno>(bytes[..len].to_vec())
        };
        assert_eq!(attribute("user.note").unwrap(), b"a\n\xff");
        assert_eq!(attribute("user.new"), Err(Errno::NODATA));
        assert_eq!(attribute("system.posix_acl_access").unwrap(), given_to(1234, 4));
        assert!(b.exists());
        assert_eq!(files.put_back(good, None, None).unwrap(), [b.clone(), c]);
        assert!(!b.exists());
        assert_eq!(files.current().unwrap(), good);
        assert_eq!(place.names("etc"), ["a", "c"]);
        files.put_back(bad, None, None).unwrap();
        assert_eq!(files.current().unwrap(), bad);
        let other = files.put_back(good, Some(&place.at("etc")), None).unwrap_err();
        assert!(matches!(other, FilesError::NotOfState { .. }));
    }

    #[test]
    fn a_change_that_nobody_has_looked_at_is_left_alone() {
        let place = Place::new();
        let files = place.open(["etc/a"]);
        let [good, bad] = ["1", "2"].map(|text| {
            place.write("etc/a", text);
            kept(&files)
        });
        place.write("etc/a", "3");
        let error = files.put_back(good, None, Some(bad)).unwrap_err();
        assert!(matches!(error, FilesError::OtherState { expected, .. } if expected == bad), "{error}");
        // Somebody is faster than the exchange.
        let state = files.store.state(good).unwrap();
        let path = place.at("etc/a");
        let by_rename = || {
            place.write("etc/new", "newer");
            fs::rename(place.at("etc/new"), &path).unwrap();
        };
        let changes: [&dyn Fn(); 2] = [&|| place.write("etc/a", "newer"), &by_rename];
        for change in changes {
            place.write("etc/a", "3");
            let late = put_back(&files.store, &state, &[&path], || {
                change();
                Ok(())
            });
            assert!(matches!(late, Err(FilesError::ChangedMeanwhile { .. })), "{late:?}");
            assert_eq!((place.text("etc/a").as_str(), place.names("etc")), ("newer", vec!["a".to_owned()]));
        }
        fs::remove_file(&path).unwrap();
        let late = put_back(&files.store, &state, &[&path], || {
            place.write("etc/a", "newer");
            Ok(())
        });
        assert!(matches!(late, Err(FilesError::ChangedMeanwhile { .. })), "{late:?}");
        assert_eq!(place.text("etc/a"), "newer");
        // Another directory, in the place of the one in which all was made ready.
        let late = put_back(&files.store, &state, &[&path], || {
            fs::rename(place.at("etc"), place.at("away")).unwrap();
            fs::create_dir(place.at("etc")).unwrap();
            Ok(())
        });
        assert!(matches!(late, Err(FilesError::ChangedMeanwhile { .. })), "{late:?}");
        assert_eq!((place.names("etc"), place.names("away")), (vec![], vec!["a".to_owned()]));
    }

    #[test]
    fn a_file_that_was_absent_is_removed_unless_it_is_a_newer_one() {
        let place = Place::new();
        let files = place.open(["etc/a"]);
        let good = kept(&files);
        let (state, path) = (files.store.state(good).unwrap(), place.at("etc/a"));
        place.write("etc/a", "made");
        let late = put_back(&files.store, &state, &[&path], || {
            place.write("etc/a", "newer");
            Ok(())
        });
        assert!(matches!(late, Err(FilesError::ChangedMeanwhile { .. })), "{late:?}");
        assert_eq!((place.text("etc/a").as_str(), place.names("etc")), ("newer", vec!["a".to_owned()]));
        assert_eq!(files.put_back(good, None, None).unwrap(), [path]);
        assert_eq!(place.names("etc"), [""; 0]);
    }

    #[test]
    fn nothing_is_replaced_when_one_of_them_cannot_be() {
        let place = Place::new();
        fs::create_dir(place.at("etc/sub")).unwrap();
        let files = place.open(["etc/a", "etc/sub/b"]);
        for name in ["etc/a", "etc/sub/b"] {
            place.write(name, "1");
        }
        let good = kept(&files);
        place.write("etc/a", "2");
        fs::remove_dir_all(place.at("etc/sub")).unwrap();
        assert!(matches!(files.put_back(good, None, None), Err(FilesError::NoDirectory { .. })));
        assert_eq!((place.text("etc/a").as_str(), place.names("etc")), ("2", vec!["a".to_owned()]));
        fs::create_dir_all(place.at("etc/sub/b")).unwrap();
        assert!(matches!(files.put_back(good, None, None), Err(FilesError::DirectoryInPlace { .. })));
        assert_eq!(place.text("etc/a"), "2");
        fs::remove_dir(place.at("etc/sub/b")).unwrap();
        files.put_back(good, None, None).unwrap();
        assert_eq!(files.current().unwrap(), good);
    }

    #[test]
    fn an_operators_links_lead_where_they_led_and_other_targets_are_left_alone() {
        let place = Place::new();
        fs::create_dir(place.at("etc/env")).unwrap();
        for name in ["prod", "staging"] {
            place.write(&format!("etc/env/{name}"), name);
        }
        symlink("env/prod", place.at("etc/conf")).unwrap();
        let files = place.open(["etc/conf"]);
        let good = kept(&files);
        let lead = |target: &str| {
            fs::remove_file(place.at("etc/conf")).unwrap();
            symlink(target, place.at("etc/conf")).unwrap();
        };
        let is_good = || {
            assert_eq!(files.current().unwrap(), good);
            assert_eq!(fs::read_link(place.at("etc/conf")).unwrap(), Path::new("env/prod"));
            assert_eq!((place.text("etc/conf").as_str(), place.text("etc/env/staging").as_str()), ("prod", "staging"));
            assert_eq!((place.names("etc").len(), place.names("etc/env").len()), (2, 2));
        };
        lead("env/staging");
        let wanted = ["conf leads elsewhere (from env/prod to env/staging)", "conf has another content (4 -> 7 bytes)"];
        assert_eq!(told(&files, good, kept(&files)), wanted);
        files.put_back(good, None, None).unwrap();
        is_good();
        // An editor by way of the link.
        place.write("etc/conf", "broken");
        files.put_back(good, None, None).unwrap();
        is_good();
        // Both at once, and a file in place of the link.
        place.write("etc/env/prod", "broken");
        lead("env/staging");
        files.put_back(good, None, None).unwrap();
        is_good();
        fs::remove_file(place.at("etc/conf")).unwrap();
        place.write("etc/conf", "a file");
        fs::remove_file(place.at("etc/env/prod")).unwrap();
        files.put_back(good, None, None).unwrap();
        is_good();
    }

    #[test]
    fn two_paths_can_be_one_file() {
        let place = Place::new();
        place.write("etc/a", "1");
        for name in ["link", "other"] {
            symlink("a", place.at("etc").join(name)).unwrap();
        }
        let files = place.open(["etc/a", "etc/link", "etc/other"]);
        let good = kept(&files);
        place.write("etc/a", "2");
        assert_eq!(files.put_back(good, None, None).unwrap(), [place.at("etc/a")]);
        assert_eq!(files.current().unwrap(), good);
        for name in place.names("etc") {
            fs::remove_file(place.at("etc").join(name)).unwrap();
        }
        files.put_back(good, None, None).unwrap();
        assert_eq!((files.current().unwrap(), place.names("etc").len()), (good, 3));
    }

    mod needs_root {
        use super::super::super::testing::{ORDINARY_USER, OWN_MOUNTS, inside};
        use super::*;
        use crate::generations::files::{Files, Refusal};
        use rustix::fs::{CWD, chownat};
        use std::os::unix::fs::chown;
        use std::process::Command;
        use std::sync::atomic::{AtomicBool, Ordering};

        const NOBODY: u32 = 65_534;

        /// A directory of nobody's with a file of nobody's, and a secret of root's beside it.
        fn hostile() -> Place {
            // In memory: a thousand syncs, each by itself, are not what is tried.
            let place = Place(tempfile::tempdir_in("/dev/shm").unwrap());
            place.fill();
            fs::create_dir_all(place.at("srv/conf")).unwrap();
            fs::create_dir(place.at("root")).unwrap();
            place.write("srv/conf/a", "fine");
            place.write("root/a", "secret");
            chmod(&place.at("root/a"), 0o600);
            for name in ["srv", "srv/conf", "srv/conf/a"] {
                chown(place.at(name), Some(NOBODY), Some(NOBODY)).unwrap();
            }
            chmod(place.0.path(), 0o755);
            place
        }

        fn secret_is_untouched(place: &Place) {
            let found = place.at("root/a").metadata().unwrap();
            assert_eq!((place.text("root/a").as_str(), found.uid(), found.mode() & 0o7777), ("secret", 0, 0o600));
            assert_eq!(place.names("root"), ["a"]);
            for name in place.names("state/files/bot/contents") {
                assert_ne!(place.text(&format!("state/files/bot/contents/{name}")), "secret");
            }
        }

        #[track_caller]
        fn refusal(files: &Files) -> Refusal {
            let refused = files.snapshot().unwrap().refused;
            assert_eq!(refused.len(), 1);
            refused[0].1
        }

        #[test]
        fn what_others_have_in_their_hands_is_read_with_their_rights() {
            let place = hostile();
            let files = place.open(["srv/conf/a"]);
            let good = kept(&files);
            let (path, secret) = (place.at("srv/conf/a"), place.at("root/a"));
            let remove = || fs::remove_file(&path).unwrap();
            remove();
            symlink(&secret, &path).unwrap();
            assert_eq!(refusal(&files), Refusal::Link);
            // Whoever made the link.
            chownat(CWD, &path, Some(Uid::from_raw(NOBODY)), None, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            assert_eq!(refusal(&files), Refusal::Link);
            remove();
            fs::hard_link(&secret, &path).unwrap();
            assert_eq!(refusal(&files), Refusal::HardLinks);
            // One of root's, moved to where nobody could have it read by Hale.
            remove();
            fs::write(&path, "private").unwrap();
            chmod(&path, 0o600);
            assert_eq!(refusal(&files), Refusal::NotReadable);
            // A group that the directory's owner need not be in.
            chown(&path, None, Some(4321)).unwrap();
            chmod(&path, 0o640);
            assert_eq!(refusal(&files), Refusal::NotReadable);
            chmod(&path, 0o644);
            assert_eq!(files.snapshot().unwrap().refused, []);
            remove();
            fs::rename(place.at("srv/conf"), place.at("srv/away")).unwrap();
            symlink(place.at("root"), place.at("srv/conf")).unwrap();
            assert_eq!(refusal(&files), Refusal::Link);
            let error = files.put_back(good, None, None).unwrap_err();
            assert!(matches!(error, FilesError::Refused { why: Refusal::Link, .. }), "{error}");
            fs::remove_file(place.at("srv/conf")).unwrap();
            fs::rename(place.at("srv/away"), place.at("srv/conf")).unwrap();
            symlink(&secret, &path).unwrap();
            files.put_back(good, None, None).unwrap();
            assert_eq!(files.current().unwrap(), good);
            let found = path.symlink_metadata().unwrap();
            assert_eq!((found.is_file(), found.uid(), found.gid()), (true, NOBODY, NOBODY));
            secret_is_untouched(&place);
        }

        /// The service's user is known by its groups too.
        #[test]
        fn the_services_own_groups_count() {
            let place = hostile();
            chown(place.at("srv/conf/a"), Some(0), Some(4321)).unwrap();
            chmod(&place.at("srv/conf/a"), 0o640);
            let mut files = place.open(["srv/conf/a"]);
            assert_eq!(refusal(&files), Refusal::NotReadable);
            let user = |groups| crate::execute::user::Identity {
                name: "nobody".into(),
                uid: NOBODY,
                gid: NOBODY,
                groups,
                home: "/".into(),
                shell: "/bin/sh".into(),
            };
            for (groups, is_read) in [(vec![NOBODY], false), (vec![NOBODY, 4321], true)] {
                files.reconfigure([place.at("srv/conf/a")], Some(user(groups)));
                assert_eq!(files.snapshot().unwrap().refused.is_empty(), is_read);
            }
        }

        #[test]
        fn a_directory_that_others_may_write_to_is_in_their_hands() {
            let place = Place::new();
            place.write("etc/secret", "x");
            symlink("secret", place.at("etc/a")).unwrap();
            let files = place.open(["etc/a"]);
            let cases = [
                (0o755, 0, true),
                (0o755, 50, true),
                (0o775, 0, true),
                (0o775, 50, false),
                (0o777, 0, false),
                (0o1777, 0, true),
            ];
            for (mode, gid, is_followed) in cases {
                chown(place.at("etc"), None, Some(gid)).unwrap();
                chmod(&place.at("etc"), mode);
                let refused = files.snapshot().unwrap().refused;
                assert_eq!(refused.is_empty(), is_followed, "{mode:o} {gid}");
            }
            // With the sticky bit a link of root's is root's, and another one is not.
            chownat(CWD, place.at("etc/a"), Some(Uid::from_raw(NOBODY)), None, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            assert_eq!(refusal(&files), Refusal::Link);
        }

        #[test]
        fn capabilities_are_refused() {
            let place = Place::new();
            place.write("etc/a", "x");
            let files = place.open(["etc/a"]);
            // capabilities(7), revision 2: CAP_NET_BIND_SERVICE permitted.
            let words = [0x0200_0000u32, 1 << 10, 0, 0, 0];
            let value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            setxattr(place.at("etc/a"), "security.capability", &value, XattrFlags::empty()).unwrap();
            assert_eq!(refusal(&files), Refusal::Capability);
        }

        /// Swaps what is at the name as fast as it can; meanwhile all is copied and put back a thousand times.
        fn while_swapped(place: &Place, swap: impl Fn(usize) + Sync) {
            let files = place.open(["srv/conf/a"]);
            let good = kept(&files);
            let is_over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let attacker = scope.spawn(|| {
                    for n in 0.. {
                        if is_over.load(Ordering::Relaxed) {
                            break;
                        }
                        swap(n);
                    }
                });
                for _ in 0..1_000 {
                    // Whatever it says, it must not have read or written the wrong thing.
                    let _either = files.snapshot();
                    let _either = files.put_back(good, None, None);
                    if attacker.is_finished() {
                        break;
                    }
                }
                is_over.store(true, Ordering::Relaxed);
                attacker.join().unwrap();
            });
            secret_is_untouched(place);
        }

        #[test]
        fn a_file_that_is_swapped_for_a_link_leaks_and_overwrites_nothing() {
            let place = hostile();
            let (dir, secret) = (place.at("srv/conf"), place.at("root/a"));
            while_swapped(&place, |n| {
                let new = dir.join("new");
                // rename(2) does nothing when both are names of one file.
                let _mostly_nothing = fs::remove_file(&new);
                match n % 3 {
                    0 => symlink(&secret, &new).unwrap(),
                    1 => fs::hard_link(&secret, &new).unwrap(),
                    _ => {
                        fs::write(&new, "fine").unwrap();
                        chown(&new, Some(NOBODY), Some(NOBODY)).unwrap();
                    }
                }
                fs::rename(&new, dir.join("a")).unwrap();
            });
            let found = place.at("srv/conf/a").symlink_metadata().unwrap();
            assert!(
                !found.is_file() || found.nlink() > 1 || found.uid() == NOBODY,
                "root's file in nobody's directory"
            );
        }

        #[test]
        fn a_directory_that_is_swapped_for_a_link_leaks_and_overwrites_nothing() {
            let place = hostile();
            let (dir, away) = (place.at("srv/conf"), place.at("srv/away"));
            while_swapped(&place, |_| {
                fs::rename(&dir, &away).unwrap();
                symlink(place.at("root"), &dir).unwrap();
                fs::remove_file(&dir).unwrap();
                fs::rename(&away, &dir).unwrap();
            });
        }

        #[test]
        fn owners_come_back() {
            let place = Place::new();
            place.write("etc/a", "1");
            chown(place.at("etc/a"), Some(1234), Some(4321)).unwrap();
            let files = place.open(["etc/a"]);
            let good = kept(&files);
            fs::remove_file(place.at("etc/a")).unwrap();
            place.write("etc/a", "1");
            assert_eq!(told(&files, good, kept(&files)), ["a has another owner (1234:4321 -> 0:0)"]);
            files.put_back(good, None, None).unwrap();
            assert_eq!(files.current().unwrap(), good);
        }

        /// Once more without rights that override modes.
        #[test]
        fn whoever_is_not_root_puts_back_too() {
            let test = "generations::files::put_back::tests::needs_root::whoever_is_not_root_puts_back_too";
            if !inside(test, ORDINARY_USER) {
                return;
            }
            content_mode_attributes_and_absence_come_back();
            a_change_that_nobody_has_looked_at_is_left_alone();
            an_operators_links_lead_where_they_led_and_other_targets_are_left_alone();
        }

        #[test]
        fn a_full_disk_leaves_what_was_there() {
            let test = "generations::files::put_back::tests::needs_root::a_full_disk_leaves_what_was_there";
            if !inside(test, OWN_MOUNTS) {
                return;
            }
            let place = Place::new();
            for dir in ["state", "etc"] {
                let tmpfs = ["-t", "tmpfs", "-o", "size=8m", "tmpfs"];
                assert!(Command::new("mount").args(tmpfs).arg(place.at(dir)).status().unwrap().success());
            }
            let fill = |name: &str| {
                let mut file = File::create(place.at(name)).unwrap();
                while file.write_all(&[1; 4096]).is_ok() {}
            };
            let files = place.open(["etc/a"]);
            place.write("etc/a", "1");
            let good = kept(&files);
            place.write("etc/a", &"2".repeat(3 << 20));
            let before = [place.names("state/files/bot"), place.names("state/files/bot/contents")];
            fill("state/filler");
            let full = files.snapshot().unwrap_err();
            assert!(matches!(full, FilesError::NoRoom(_)), "{full}");
            // The disk is filled after it was looked at.
            let state = State::default();
            let content = vec![0; 4096];
            let full = files.store.keep(&state, &[(Hash::of(&content), content)].into()).unwrap_err();
            assert!(matches!(full, FilesError::NoRoom(_) | FilesError::Full { .. }), "{full}");
            assert_eq!(before, [place.names("state/files/bot"), place.names("state/files/bot/contents")]);
            fs::remove_file(place.at("state/filler")).unwrap();
            let large = kept(&files);

            files.put_back(good, None, None).unwrap();
            fill("etc/filler");
            let full = files.put_back(large, None, Some(good)).unwrap_err();
            assert!(matches!(full, FilesError::Full { .. }), "{full}");
            assert_eq!(
                (files.current().unwrap(), place.names("etc")),
                (good, vec!["a".to_owned(), "filler".to_owned()])
            );
            fs::remove_file(place.at("etc/filler")).unwrap();
            files.put_back(large, None, Some(good)).unwrap();
            drop(files);
            for dir in ["state", "etc"] {
                assert!(Command::new("umount").arg("--lazy").arg(place.at(dir)).status().unwrap().success());
            }
        }
    }
}
