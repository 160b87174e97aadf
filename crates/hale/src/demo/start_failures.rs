//! How many of the next starts must fail, kept in a file because a failed start remembers nothing.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The most starts that can be asked to fail: more than any crash loop needs, few enough to wait for.
pub const TIMES_MAX: u32 = 1_000;

/// `hale-demo-<uid>/<service>.fail` in the directory for temporary files.
pub struct File(PathBuf);

impl File {
    /// The file of `service`. Makes the directory where needed.
    ///
    /// # Errors
    /// The directory cannot be made, or belongs to somebody else or can be written by others: then what it
    /// holds could be a link to anywhere.
    pub fn of(service: &str) -> io::Result<Self> {
        Self::in_directory(&std::env::temp_dir(), service)
    }

    fn in_directory(parent: &Path, service: &str) -> io::Result<Self> {
        let uid = rustix::process::geteuid().as_raw();
        let directory = parent.join(format!("hale-demo-{uid}"));
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(io::Error::new(error.kind(), format!("cannot make {}: {error}", directory.display())));
            }
        }
        let found = fs::symlink_metadata(&directory)?;
        if !found.is_dir() || found.uid() != uid || found.mode() & 0o022 != 0 {
            let message = format!("{} is not a directory of this user alone: remove it", directory.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        Ok(Self(directory.join(format!("{service}.fail"))))
    }

    /// Makes the next `times` starts fail, at most [`TIMES_MAX`].
    pub fn arm(&self, times: u32) -> io::Result<()> {
        use io::Write;
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.0)?;
        write!(file, "{}", times.min(TIMES_MAX))
    }

    /// Counts this start: `Some(left)` if it must fail, with how many more after it.
    pub fn take_one(&self) -> io::Result<Option<u32>> {
        let text = match fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(left) = text.trim().parse::<u32>().ok().and_then(|times| times.checked_sub(1)) else {
            fs::remove_file(&self.0)?;
            return Ok(None);
        };
        self.arm(left)?;
        Ok(Some(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_starts_fail_as_asked_for() {
        let parent = tempfile::tempdir().unwrap();
        let file = File::in_directory(parent.path(), "web").unwrap();
        assert_eq!(file.take_one().unwrap(), None);
        file.arm(2).unwrap();
        assert_eq!(file.take_one().unwrap(), Some(1));
        assert_eq!(file.take_one().unwrap(), Some(0));
        assert_eq!(file.take_one().unwrap(), None);
        assert!(!file.0.exists());
    }

    #[test]
    fn a_directory_that_others_prepared_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        std::os::unix::fs::symlink("/", parent.path().join(format!("hale-demo-{uid}"))).unwrap();
        assert!(File::in_directory(parent.path(), "web").is_err());
    }
}
