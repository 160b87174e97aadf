//! One service's files: `current`, which grows at its end, and `@<number>.log`, the older ones.

use rustix::fs::{AtFlags, Dir, Mode, OFlags, fstat, openat, renameat, unlinkat};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use std::ffi::{CStr, CString};
use std::fs::DirBuilder;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;

/// The file that grows.
pub const CURRENT: &CStr = c"current";

/// The number in the name of an older file, `@0000000012.log`; larger is newer, whatever the clock did.
#[must_use]
pub fn number_of(name: &[u8]) -> Option<u64> {
    let digits = name.strip_prefix(b"@")?.strip_suffix(b".log")?;
    std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

fn name_of(number: u64) -> CString {
    CString::new(format!("@{number:010}.log")).unwrap_or_default()
}

/// The open end of a service's log.
#[derive(Debug)]
pub struct LogFile {
    directory: OwnedFd,
    file: OwnedFd,
    size_bytes: u64,
    /// Of the next older file; looked for when the first one is made.
    next_number: Option<u64>,
    max_size_bytes: u64,
    keep: u32,
}

impl LogFile {
    /// Opens `current` in a directory that is made if it is missing (0750), and goes on at its end.
    ///
    /// # Errors
    ///
    /// The directory or the file cannot be made, opened or read.
    pub fn open(path: &CStr, max_size_bytes: u64, keep: u32) -> Result<Self, Errno> {
        let as_path = std::path::Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
        let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        DirBuilder::new().recursive(true).mode(0o750).create(as_path).map_err(errno)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let directory = openat(rustix::fs::CWD, path, flags, Mode::empty())?;
        let file = open_current(&directory)?;
        let size_bytes = fstat(&file)?.st_size.unsigned_abs();
        Ok(Self { directory, file, size_bytes, next_number: None, max_size_bytes: max_size_bytes.max(1), keep })
    }

    /// The size of `current` in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Moves up to `most_bytes` from the pipe into the log, within one file; begins the next one first when this
    /// one is full. Gives the number of bytes moved.
    ///
    /// # Errors
    ///
    /// Nothing was moved, and so nothing is lost.
    pub fn take(&mut self, pipe: impl AsFd, most_bytes: u64) -> Result<u64, Errno> {
        self.rotate_if_full()?;
        let room = usize::try_from(most_bytes.min(self.max_size_bytes - self.size_bytes)).unwrap_or(usize::MAX);
        let mut offset = self.size_bytes;
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let moved = rustix::io::retry_on_intr(|| splice(&pipe, None, &self.file, Some(&mut offset), room, flags))?;
        self.size_bytes += moved as u64;
        Ok(moved as u64)
    }

    /// Writes lines of Hale's own, each with its newline; the first begins a line.
    ///
    /// # Errors
    ///
    /// It is not there, or not whole: the next write replaces it.
    pub fn note(&mut self, lines: &[u8]) -> Result<(), Errno> {
        self.rotate_if_full()?;
        let mut last = [b'\n'];
        if self.size_bytes > 0 {
            rustix::io::pread(&self.file, &mut last, self.size_bytes - 1)?;
        }
        let text = if last == [b'\n'] { lines.to_vec() } else { [b"\n", lines].concat() };
        let written = rustix::io::pwrite(&self.file, &text, self.size_bytes)?;
        if written < text.len() {
            return Err(Errno::NOSPC);
        }
        self.size_bytes += written as u64;
        Ok(())
    }

    fn rotate_if_full(&mut self) -> Result<(), Errno> {
        if self.size_bytes < self.max_size_bytes {
            return Ok(());
        }
        let number = match self.next_number {
            Some(number) => number,
            None => numbers(&self.directory)?.max().unwrap_or(0) + 1,
        };
        renameat(&self.directory, CURRENT, &self.directory, name_of(number))?;
        self.next_number = Some(number + 1);
        self.file = open_current(&self.directory)?;
        self.size_bytes = fstat(&self.file)?.st_size.unsigned_abs();
        let oldest_kept = (number + 1).saturating_sub(u64::from(self.keep));
        let old: Vec<u64> = numbers(&self.directory)?.filter(|&number| number < oldest_kept).collect();
        for number in old {
            // It is tried again at the next rotation.
            let _ = unlinkat(&self.directory, name_of(number), AtFlags::empty());
        }
        Ok(())
    }
}

fn open_current(directory: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    openat(directory, CURRENT, flags, Mode::RUSR | Mode::WUSR | Mode::RGRP)
}

/// The numbers of all older files in the directory.
pub(super) fn numbers(directory: impl AsFd) -> Result<impl Iterator<Item = u64>, Errno> {
    let entries = Dir::read_from(directory)?;
    Ok(entries.filter_map(Result::ok).filter_map(|entry| number_of(entry.file_name().to_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn path(directory: &std::path::Path) -> CString {
        CString::new(directory.to_path_buf().into_os_string().into_vec()).unwrap()
    }

    #[test]
    fn files_are_filled_exactly_and_the_oldest_go() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("bot");
        let mut log = LogFile::open(&path(&target), 10, 2).unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&write, b"0123456789abcdefghijABCDEFGHIJ+-").unwrap();
        drop(write);
        while log.take(&read, 1 << 20).unwrap() > 0 {}
        assert_eq!(std::fs::read(target.join("current")).unwrap(), b"+-");
        assert_eq!(std::fs::read(target.join("@0000000003.log")).unwrap(), b"ABCDEFGHIJ");
        assert_eq!(std::fs::read(target.join("@0000000002.log")).unwrap(), b"abcdefghij");
        assert!(!target.join("@0000000001.log").exists());

        drop(log);
        let mut log = LogFile::open(&path(&target), 10, 2).unwrap();
        assert_eq!(log.size_bytes(), 2);
        log.note(b"hale: note\n").unwrap();
        assert_eq!(std::fs::read(target.join("current")).unwrap(), b"+-\nhale: note\n");
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&write, b"x").unwrap();
        log.take(&read, 1).unwrap();
        assert!(target.join("@0000000004.log").exists(), "numbers go on after a restart");
    }

    #[test]
    fn only_older_files_have_a_number() {
        assert_eq!(number_of(b"@0000000012.log"), Some(12));
        for name in [&b"current"[..], b"@.log", b"@+1.log", b"@1.log.gz", b"1.log"] {
            assert_eq!(number_of(name), None);
        }
    }
}
