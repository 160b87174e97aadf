//! A directory becomes a tar, the same bytes for the same content; what an import would refuse is refused here, by its name.
//!
//! The command line does this with its user's own rights, and sends what comes out: the supervisor opens no client's path.

use super::error::{ArchiveFault, EntryFault, StoreError, entry, io, shown};
use super::import::stays;
use super::tree::{Kind, open_file, scan};
use rustix::fd::AsFd;
use rustix::fs::OFlags;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tar::{EntryType, Header};

/// Writes the content of `dir` as a tar. Owners and times are not in it.
///
/// # Errors
/// Something in it cannot be part of a release, it changes meanwhile, or it cannot be read or written.
pub fn pack(dir: &Path, mut to: impl Write) -> Result<(), StoreError> {
    let flags = i32::try_from(OFlags::DIRECTORY.bits()).unwrap_or(0);
    let root = OpenOptions::new().read(true).custom_flags(flags).open(dir);
    let root =
        root.map_err(|error| io(format!("open directory {}", shown(dir.as_os_str().as_encoded_bytes())), error))?;
    let root = root.as_fd();
    let all = scan(root)?;
    if all.is_empty() {
        return Err(StoreError::Archive(ArchiveFault::Empty));
    }
    for (path, found) in &all {
        match &found.kind {
            Kind::Dir => header(&mut to, EntryType::Directory, path, &[], 0, true)?,
            Kind::File => {
                if found.mode & 0o7000 != 0 {
                    return Err(entry(path, EntryFault::SetId));
                }
                let (file, size) = open_file(root, path)?;
                header(&mut to, EntryType::Regular, path, &[], size, found.is_executable())?;
                content(&mut to, path, file, size)?;
            }
            Kind::Link { target } => {
                stays(root, path, target)?;
                header(&mut to, EntryType::Symlink, path, target, 0, true)?;
            }
            Kind::Special(what) => return Err(entry(path, EntryFault::Special(what))),
        }
    }
    write(&mut to, &[0; 1024])?;
    to.flush().map_err(|error| io("write the archive", error))
}

fn write(to: &mut impl Write, bytes: &[u8]) -> Result<(), StoreError> {
    to.write_all(bytes).map_err(|error| io("write the archive", error))
}

/// What fills the last block of `size` bytes.
fn pad(to: &mut impl Write, size: u64) -> Result<(), StoreError> {
    let padding = usize::try_from(size.wrapping_neg() % 512).unwrap_or(0);
    write(to, &[0; 512][..padding])
}

/// A header in the form of GNU tar, after others for what is too long for it. (Those of the crate's builder cannot have a
/// long name that is not UTF-8.)
fn header(
    to: &mut impl Write,
    kind: EntryType,
    path: &[u8],
    target: &[u8],
    size: u64,
    executable: bool,
) -> Result<(), StoreError> {
    let mut header = Header::new_gnu();
    let old = header.as_old_mut();
    for (field, value, long) in
        [(&mut old.name, path, EntryType::GNULongName), (&mut old.linkname, target, EntryType::GNULongLink)]
    {
        if value.len() > field.len() {
            let mut announced = Header::new_gnu();
            announced.as_old_mut().name[..13].copy_from_slice(b"././@LongLink");
            finish(to, &mut announced, long, value.len() as u64 + 1, false)?;
            write(to, value)?;
            write(to, &[0])?;
            pad(to, value.len() as u64 + 1)?;
        }
        let fits = value.len().min(field.len());
        field[..fits].copy_from_slice(&value[..fits]);
    }
    finish(to, &mut header, kind, size, executable)
}

fn finish(
    to: &mut impl Write,
    header: &mut Header,
    kind: EntryType,
    size: u64,
    executable: bool,
) -> Result<(), StoreError> {
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(if executable { 0o755 } else { 0o644 });
    for set in [Header::set_uid, Header::set_gid, Header::set_mtime] {
        set(header, 0);
    }
    header.set_cksum();
    write(to, header.as_bytes())
}

fn content(to: &mut impl Write, path: &[u8], mut file: impl Read, size: u64) -> Result<(), StoreError> {
    let mut buffer = vec![0; 64 << 10];
    let mut left = size;
    loop {
        let read = match file.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read.map_err(|error| io(format!("read {}", shown(path)), error))?,
        };
        // It grew or shrank: its size stands before it already.
        left = left.checked_sub(read as u64).ok_or_else(|| entry(path, EntryFault::Changing))?;
        if read == 0 {
            break;
        }
        write(to, &buffer[..read])?;
    }
    if left > 0 {
        return Err(entry(path, EntryFault::Changing));
    }
    pad(to, size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generations::Imported;
    use crate::generations::testing::{LIMITS, Place, gzip, import, zstd};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    fn packed(dir: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        pack(dir, &mut bytes).unwrap();
        bytes
    }

    #[track_caller]
    fn refused(dir: &Path) -> (String, EntryFault) {
        match pack(dir, std::io::sink()) {
            Err(StoreError::Entry { name, why }) => (name, why),
            other => panic!("{other:?}"),
        }
    }

    /// What is below a directory: files by content and whether they are programs, or links.
    #[derive(Debug, Clone)]
    enum Made {
        File(Vec<u8>, bool),
        Dir,
        Link(Vec<u8>),
    }

    fn made() -> impl Strategy<Value = BTreeMap<Vec<u8>, Made>> {
        let text = prop_oneof!["[ab]", "[a-c%\n ]{1,3}", "x{90,130}"].prop_map(String::into_bytes);
        let part = prop_oneof![3 => text, 1 => prop::collection::vec(0x80u8.., 1..150)];
        let path = prop::collection::vec(part, 1..4).prop_map(|parts| parts.join(&b'/'));
        let content =
            prop_oneof![Just(0), Just(511), Just(512), Just(513), Just(70_000usize)].prop_map(|size| vec![b'x'; size]);
        let target = prop_oneof!["[a-c]{1,3}", "\n{1,3}", "(x/){60}"].prop_map(String::into_bytes);
        let one = prop_oneof![
            3 => (content, any::<bool>()).prop_map(|(content, program)| Made::File(content, program)),
            1 => Just(Made::Dir),
            1 => target.prop_map(Made::Link),
        ];
        prop::collection::btree_map(path, one, 1..8)
    }

    fn make(dir: &Path, all: &BTreeMap<Vec<u8>, Made>) {
        for (path, one) in all {
            let path = dir.join(OsStr::from_bytes(path));
            // What is below a file or a link of the same set cannot be made; the others can.
            if path.parent().is_none_or(|above| fs::create_dir_all(above).is_err()) || path.symlink_metadata().is_ok() {
                continue;
            }
            match one {
                Made::File(content, program) => {
                    fs::write(&path, content).unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(if *program { 0o700 } else { 0o640 }))
                        .unwrap();
                }
                Made::Dir => fs::create_dir(&path).unwrap(),
                Made::Link(target) => symlink(OsStr::from_bytes(target), &path).unwrap(),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
        #[test]
        fn a_directory_comes_back_as_it_was(all in made()) {
            let dir = tempfile::tempdir().unwrap();
            make(dir.path(), &all);
            let tar = packed(dir.path());
            let (one, other) = (Place::new(), Place::new());
            let (store, second) = (one.open().unwrap(), other.open().unwrap());
            let id = import(&store, &tar[..]).unwrap().into_release().id();
            let again = packed(&one.path(id.to_string()));
            prop_assert!(tar == again, "the same bytes");
            prop_assert_eq!(import(&second, &gzip(&again)[..]).unwrap().into_release().id(), id);
            let same = store.import(&zstd(&tar)[..], &LIMITS).unwrap();
            prop_assert!(matches!(same, Imported::AlreadyThere(_)));
        }
    }

    #[test]
    fn what_an_import_would_refuse_is_refused_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(matches!(pack(dir.path(), std::io::sink()), Err(StoreError::Archive(ArchiveFault::Empty))));
        fs::create_dir(at("d")).unwrap();
        for (target, leaves) in [("/etc", true), ("../..", true), ("..", false), ("nothing", false)] {
            symlink(target, at("d/link")).unwrap();
            if leaves {
                assert_eq!(refused(dir.path()), ("d/link".into(), EntryFault::Leaves(target.into())));
            } else {
                pack(dir.path(), std::io::sink()).unwrap();
            }
            fs::remove_file(at("d/link")).unwrap();
        }
        for mode in [0o4755, 0o1644] {
            fs::write(at("d/su do"), "").unwrap();
            fs::set_permissions(at("d/su do"), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(refused(dir.path()), ("d/su%20do".into(), EntryFault::SetId));
            fs::remove_file(at("d/su do")).unwrap();
        }
        let socket = UnixListener::bind(at("d/socket")).unwrap();
        assert_eq!(refused(dir.path()), ("d/socket".into(), EntryFault::Special("socket")));
        drop(socket);
        fs::remove_file(at("d/socket")).unwrap();
        let fifo =
            rustix::fs::mknodat(rustix::fs::CWD, at("d/fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0);
        fifo.unwrap();
        assert_eq!(refused(dir.path()), ("d/fifo".into(), EntryFault::Special("fifo")));
    }

    #[test]
    fn a_file_that_changes_meanwhile_is_refused() {
        for (content, size) in [(&b"12345"[..], 6), (b"12345", 4)] {
            let changed = super::content(&mut Vec::new(), b"log", content, size);
            assert!(matches!(changed, Err(StoreError::Entry { why: EntryFault::Changing, .. })));
        }
    }

    mod needs_gnu_tar {
        use super::*;
        use std::process::Command;

        /// GNU tar is who says what a tar is.
        #[test]
        fn tar_itself_reads_what_is_packed_and_writes_what_is_imported() {
            let dir = tempfile::tempdir().unwrap();
            let long = "l".repeat(120);
            fs::create_dir_all(dir.path().join("d/e f")).unwrap();
            fs::write(dir.path().join("d/e f").join(&long), "content").unwrap();
            fs::write(dir.path().join(OsStr::from_bytes(b"d/\xff\n")), "").unwrap();
            fs::hard_link(dir.path().join("d/e f").join(&long), dir.path().join("hard")).unwrap();
            symlink(&long[..110], dir.path().join("link")).unwrap();
            let place = Place::new();
            let store = place.open().unwrap();
            let id = import(&store, &packed(dir.path())[..]).unwrap().into_release().id();
            for format in ["gnu", "pax", "posix", "oldgnu"] {
                let words = ["--create", "--format", format, "--directory"];
                let tar = Command::new("tar").args(words).arg(dir.path()).arg(".").output().unwrap();
                assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
                let imported = import(&store, &tar.stdout[..]).unwrap();
                assert!(matches!(imported, Imported::AlreadyThere(_)), "{format}");
                assert_eq!(imported.into_release().id(), id, "{format}");
            }
            let target = tempfile::tempdir().unwrap();
            fs::write(target.path().join("tar"), packed(dir.path())).unwrap();
            let words = ["--extract", "--file", "tar"];
            assert!(Command::new("tar").args(words).current_dir(target.path()).status().unwrap().success());
            fs::remove_file(target.path().join("tar")).unwrap();
            assert_eq!(packed(target.path()), packed(dir.path()));
        }
    }
}
