//! What a generation says of its service's data: `hale-release.toml` at its root.

use super::beneath::open;
use super::error::{StoreError, io};
use crate::monitor::text::one_line;
use hale_config::{RELEASE_FILE, ReleaseFile, release_file};
use hale_core::safeswitch::Data;
use rustix::fd::AsFd;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// 64 KiB: five keys, and all that somebody wants to say about them.
const BYTES_MAX: u64 = 64 << 10;
/// How many mistakes are told at once: enough to see what kind of file it is.
const MISTAKES_MAX: usize = 4;
/// 1 KiB: a line that somebody still reads.
const TOLD_BYTES_MAX: usize = 1 << 10;

/// Reads the file at the root of a release; one that has none says nothing. A symbolic link is refused, wherever it leads: a release
/// brings its own.
///
/// # Errors
/// [`StoreError::Notes`]: it is not what it has to be. Or the disk failed.
pub(super) fn read(root: impl AsFd) -> Result<ReleaseFile, StoreError> {
    // Without waiting, for what is no file.
    match open(root, RELEASE_FILE.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
        Err(Errno::NOENT) => Ok(ReleaseFile::default()),
        Err(Errno::LOOP) => Err(refused("is a symbolic link; put the file itself there")),
        other => parse(File::from(other.map_err(failed)?)),
    }
}

/// Reads the file at the root of a path of Nix. There it is often a link to another path, which changes as little: it may lead to
/// anything below `store_dir`, and nowhere else.
///
/// # Errors
/// As [`read`].
pub(super) fn read_linked(root: &Path, store_dir: &Path) -> Result<ReleaseFile, StoreError> {
    let failed = |error: std::io::Error| io(format!("read {RELEASE_FILE}"), error);
    let path = root.join(RELEASE_FILE);
    // A link to nothing is there; in a path that is one file there can be none.
    match path.symlink_metadata() {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(ReleaseFile::default());
        }
        Err(error) => return Err(failed(error)),
        Ok(_) => {}
    }
    let real = match path.canonicalize() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(refused("is a symbolic link to nothing")),
        other => other.map_err(failed)?,
    };
    if !real.starts_with(store_dir.canonicalize().map_err(failed)?) {
        let words = format!("is a symbolic link out of {}; put the file itself there", store_dir.display());
        return Err(refused(&words));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    parse(File::from(openat(CWD, &real, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?))
}

/// What goes on record of it.
pub(super) fn data(notes: &ReleaseFile, snapshot: Option<String>) -> Data {
    Data {
        format: notes.data_format,
        min_rollback: notes.min_rollback,
        undoes: !notes.after_rollback.is_empty(),
        snapshot,
    }
}

fn parse(file: File) -> Result<ReleaseFile, StoreError> {
    if FileType::from_raw_mode(fstat(&file).map_err(failed)?.st_mode) != FileType::RegularFile {
        return Err(refused("is no regular file"));
    }
    let mut bytes = Vec::new();
    let read = file.take(BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| io(format!("read {RELEASE_FILE}"), error))?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(refused(&format!("has more than {BYTES_MAX} bytes; make it smaller")));
    }
    let text = String::from_utf8(bytes).map_err(|_| refused("is not UTF-8; write it as such"))?;
    release_file(&text).map_err(|mistakes| {
        let one = |mistake: &hale_config::Diagnostic| {
            let help = mistake.help.as_ref().map_or_else(String::new, |help| format!(": {help}"));
            format!("line {}: {}{help}", mistake.line, mistake.message)
        };
        let mut told: Vec<String> = mistakes.iter().take(MISTAKES_MAX).map(one).collect();
        if let more @ 1.. = mistakes.len().saturating_sub(MISTAKES_MAX) {
            told.push(format!("and {more} more"));
        }
        refused(&format!("is refused: {}", told.join("; ")))
    })
}

fn refused(why: &str) -> StoreError {
    StoreError::Notes(one_line(&format!("{RELEASE_FILE} {why}"), TOLD_BYTES_MAX))
}

fn failed(errno: Errno) -> StoreError {
    io(format!("read {RELEASE_FILE}"), errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("root")).unwrap();
            Self { dir }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn file(&self) -> PathBuf {
            self.path("root").join(RELEASE_FILE)
        }

        fn read(&self) -> Result<ReleaseFile, String> {
            read(File::open(self.path("root")).unwrap()).map_err(|error| error.to_string())
        }

        fn read_linked(&self) -> Result<ReleaseFile, String> {
            read_linked(&self.path("root"), &self.path("store")).map_err(|error| error.to_string())
        }
    }

    #[test]
    fn a_release_may_say_nothing() {
        let place = Place::new();
        assert_eq!(place.read(), Ok(ReleaseFile::default()));
        assert!(data(&place.read().unwrap(), None).is_silent());
        fs::write(place.file(), "data_format = 2\nafter_rollback = [\"x\"]\n").unwrap();
        let told = data(&place.read().unwrap(), Some("id".into()));
        assert_eq!(told, Data { format: 2, min_rollback: 0, undoes: true, snapshot: Some("id".into()) });
    }

    #[test]
    fn what_is_no_file_of_the_release_is_refused() {
        let place = Place::new();
        let refused = |words: &str| {
            let told = place.read().unwrap_err();
            assert!(told.contains(words) && told.contains("hale-release.toml"), "{told}");
            fs::remove_dir(place.file()).or_else(|_| fs::remove_file(place.file())).unwrap();
        };
        fs::write(place.path("secret"), "data_format = 7\n").unwrap();
        symlink(place.path("secret"), place.file()).unwrap();
        refused("is a symbolic link");
        symlink("other", place.file()).unwrap();
        fs::write(place.path("root/other"), "").unwrap();
        refused("is a symbolic link");
        fs::create_dir(place.file()).unwrap();
        refused("is no regular file");
        rustix::fs::mknodat(CWD, place.file(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        refused("is no regular file");
        fs::write(place.file(), "#".repeat(65_537)).unwrap();
        refused("has more than 65536 bytes");
        fs::write(place.file(), b"a = \"\xff\"").unwrap();
        refused("is not UTF-8");
        fs::write(place.file(), "\n\nbefore_swich = [\"x\"]\n").unwrap();
        refused("line 3: unknown key `before_swich` in hale-release.toml: did you mean `before_switch`?");
        fs::write(place.file(), "\"a\\u001b[2J\" = 1\nb = 1\nc = 1\nd = 1\ne = 1\nf = 1\n").unwrap();
        let told = place.read().unwrap_err();
        assert!(told.contains("and 2 more") && !told.contains('\u{1b}'), "{told}");
    }

    #[test]
    fn in_a_path_of_nix_it_may_be_a_link_to_another_path_of_nix() {
        let place = Place::new();
        fs::create_dir(place.path("store")).unwrap();
        assert_eq!(place.read_linked(), Ok(ReleaseFile::default()));
        for (name, wanted) in [("store/notes", Ok(3)), ("outside", Err("out of")), ("store/nothing", Err("to nothing"))]
        {
            if name != "store/nothing" {
                fs::write(place.path(name), "data_format = 3\n").unwrap();
            }
            symlink(place.path(name), place.file()).unwrap();
            match (place.read_linked(), wanted) {
                (Ok(notes), Ok(format)) => assert_eq!(notes.data_format, format),
                (Err(told), Err(words)) => assert!(told.contains(words), "{told}"),
                other => panic!("{name}: {other:?}"),
            }
            fs::remove_file(place.file()).unwrap();
        }
        fs::create_dir(place.file()).unwrap();
        symlink(place.path("store"), place.path("elsewhere")).unwrap();
        assert!(place.read_linked().unwrap_err().contains("out of"), "the root itself is in no store here");
    }
}
