//! For the tests of the store: archives built by hand, field by field, and a store in a directory of its own.

use super::{Imported, Limits, Owner, Store, StoreError};
use flate2::Compression;
use flate2::write::GzEncoder;
use hale_core::ids::Name;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use tar::{EntryType, Header};

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

/// A tar, entry by entry.
#[derive(Default, Clone)]
pub(super) struct Tar(pub(super) Vec<u8>);

impl Tar {
    pub(super) fn dir(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name.as_bytes(), b"", |_| {})
    }

    pub(super) fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name.as_bytes(), content.as_bytes(), |_| {})
    }

    pub(super) fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name.as_bytes(), b"", |header| header.set_link_name_literal(target).unwrap())
    }

    pub(super) fn hard(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name.as_bytes(), b"", |header| header.set_link_name_literal(target).unwrap())
    }

    /// PAX records, each with its length (POSIX, pax, "pax Extended Header").
    pub(super) fn pax(self, kind: EntryType, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
            let mut bytes = rest.len() + 1;
            while bytes.to_string().len() + rest.len() != bytes {
                bytes += 1;
            }
            text.extend_from_slice(bytes.to_string().as_bytes());
            text.extend_from_slice(&rest);
        }
        self.entry(kind, b"PaxHeaders/x", &text, |_| {})
    }

    /// Any entry; `change` has the last word on its header.
    pub(super) fn entry(mut self, kind: EntryType, name: &[u8], content: &[u8], change: impl Fn(&mut Header)) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_entry_type(kind);
        for set in [Header::set_uid, Header::set_gid, Header::set_mtime] {
            set(&mut header, 0);
        }
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A store of one service, in a directory that is gone with it.
pub(super) struct Place {
    pub(super) dir: tempfile::TempDir,
}

pub(super) const LIMITS: Limits = Limits { bytes: 16 << 20, reserve_bytes: 0 };

impl Place {
    pub(super) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(super) fn open(&self) -> Result<Store, StoreError> {
        Store::open(self.dir.path(), &Name::try_from("bot").unwrap(), None::<Owner>)
    }

    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join("releases/bot").join(name)
    }

    /// What is in the service's directory.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("")).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Runs the test, named from the crate on, once more behind `wrapper`; whether this is that run.
pub(super) fn inside(test: &str, wrapper: &[&str]) -> bool {
    const INSIDE: &str = "HALE_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    let output = command.env(INSIDE, "1").output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

pub(super) const OWN_MOUNTS: &[&str] = &["unshare", "--mount", "--propagation", "private"];

fn run(program: &str, words: &[&str], last: &Path) {
    assert!(Command::new(program).args(words).arg(last).status().unwrap().success(), "{program}");
}

/// An ext4 in a file, mounted on a directory. Takes root, loop devices, and mounts of its own ([`OWN_MOUNTS`]).
pub(super) struct Disk {
    image: tempfile::NamedTempFile,
    on: PathBuf,
}

impl Disk {
    pub(super) fn new(on: &Path, bytes: u64) -> Self {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(bytes).unwrap();
        run("mkfs.ext4", &["-q", "-m", "0", "-b", "1024"], image.path());
        let disk = Self { image, on: on.to_owned() };
        disk.mount();
        disk
    }

    fn mount(&self) {
        run("mount", &["-o", "loop", self.image.path().to_str().unwrap()], &self.on);
    }

    /// Ends it as a loss of power does (`EXT4_IOC_SHUTDOWN` without a flush of its journal): what is not on the disk never gets there.
    /// Takes Python.
    pub(super) fn lose_power(&self) {
        const SHUTDOWN: &str = "import fcntl, os, struct, sys\n\
            fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
        run("python3", &["-c", SHUTDOWN], &self.on);
    }

    /// Mounts it again; nothing of it may be open.
    pub(super) fn come_back(&self) {
        run("umount", &[], &self.on);
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("--lazy").arg(&self.on).status();
    }
}

pub(super) fn import(store: &Store, from: impl Read) -> Result<Imported<'_>, StoreError> {
    store.import(from, &LIMITS)
}

/// The same bytes again and again, without memory for all of them.
pub(super) struct Again {
    bytes: Vec<u8>,
    at: usize,
    left: u64,
}

impl Again {
    pub(super) fn new(bytes: Vec<u8>, times: u64) -> Self {
        let left = bytes.len() as u64 * times;
        Self { bytes, at: 0, left }
    }

    pub(super) fn for_ever(bytes: Vec<u8>) -> Self {
        Self { bytes, at: 0, left: u64::MAX }
    }
}

impl Read for Again {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let some = &self.bytes[self.at..];
        let read = some.len().min(buffer.len()).min(usize::try_from(self.left).unwrap_or(usize::MAX));
        buffer[..read].copy_from_slice(&some[..read]);
        self.at = (self.at + read) % self.bytes.len();
        self.left -= read as u64;
        Ok(read)
    }
}
