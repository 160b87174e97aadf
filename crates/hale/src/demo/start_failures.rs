//! How many of the next starts must fail, kept in a file because a failed start remembers nothing.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The most starts that can be asked to fail: more than any crash loop needs, few enough to wait for.
pub const TIMES_MAX: u32 = 1_000;

/// `hale-demo-<uid>/<service>.fail` in the directory for temporary files.
pub struct File {
    directory: PathBuf,
    path: PathBuf,
}

impl File {
    /// The file of `service`. Nothing is made or looked at yet: a service that nobody tells to fail needs no directory.
    pub fn of(service: &str) -> Self {
        Self::in_directory(&std::env::temp_dir(), service)
    }

    fn in_directory(parent: &Path, service: &str) -> Self {
        let directory = parent.join(format!("hale-demo-{}", rustix::process::geteuid()));
        let path = directory.join(format!("{service}.fail"));
        Self { directory, path }
    }

    /// Makes the next `times` starts fail, at most [`TIMES_MAX`], and the directory where needed.
    ///
    /// # Errors
    /// The directory cannot be made, or belongs to somebody else or can be written by others: then what it
    /// holds could be a link to anywhere. Or the file cannot be written.
    pub fn arm(&self, times: u32) -> io::Result<()> {
        use io::Write;
        let told = |path: &Path, error: io::Error| {
            io::Error::new(error.kind(), format!("cannot make {}: {error}", path.display()))
        };
        match fs::DirBuilder::new().mode(0o700).create(&self.directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(told(&self.directory, error)),
        }
        if !self.is_ours() {
            let message = format!("{} is not a directory of this user alone: remove it", self.directory.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&self.path);
        write!(file.map_err(|error| told(&self.path, error))?, "{}", times.min(TIMES_MAX))
    }

    fn is_ours(&self) -> bool {
        let uid = rustix::process::geteuid().as_raw();
        fs::symlink_metadata(&self.directory)
            .is_ok_and(|found| found.is_dir() && found.uid() == uid && found.mode() & 0o022 == 0)
    }

    /// Counts this start: `Some(left)` if it must fail, with how many more after it. Without a directory that
    /// [`arm`](Self::arm) would use nobody has asked for that.
    ///
    /// # Errors
    /// It was asked for, and cannot be counted.
    pub fn take_one(&self) -> io::Result<Option<u32>> {
        if !self.is_ours() {
            return Ok(None);
        }
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(left) = text.trim().parse::<u32>().ok().and_then(|times| times.checked_sub(1)) else {
            fs::remove_file(&self.path)?;
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
        let file = File::in_directory(parent.path(), "web");
        assert_eq!(file.take_one().unwrap(), None);
        file.arm(2).unwrap();
        assert_eq!(file.take_one().unwrap(), Some(1));
        assert_eq!(file.take_one().unwrap(), Some(0));
        assert_eq!(file.take_one().unwrap(), None);
        assert!(!file.path.exists());
    }

    #[test]
    fn a_directory_that_others_prepared_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("web.fail"), "1").unwrap();
        let file = File::in_directory(parent.path(), "web");
        std::os::unix::fs::symlink(elsewhere.path(), &file.directory).unwrap();
        assert_eq!(file.take_one().unwrap(), None);
        assert!(file.arm(1).is_err());
    }
}
