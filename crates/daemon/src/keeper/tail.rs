//! Reading what the keeper wrote: the last lines, and what comes after them, across rotations.

use crate::keeper::log_file::{CURRENT, number_of, numbers};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fstat, inotify, open, openat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How much is read from a file at once, in bytes: what a pipe brings the keeper at once.
const READ_BYTES: usize = 64 * 1024;

/// How often the directory is listed to find a file that still has a name: a listing misses one that is renamed meanwhile, which
/// the keeper does once for each file that it fills.
const LISTINGS: usize = 100;

/// The last `lines` lines of a service's log, oldest first and without their newlines, of at most `most_bytes` bytes
/// together; a first line that is longer than what is left of that is cut at its front. Nothing is there before the
/// first output.
///
/// # Errors
///
/// A file cannot be read.
pub fn last_lines(directory: &Path, lines: usize, most_bytes: usize) -> io::Result<Vec<Vec<u8>>> {
    let Some((directory, files)) = newest_first(directory)? else { return Ok(Vec::new()) };
    drop(directory);
    // Read backwards, so that the chunks have to be put together the other way round.
    let mut chunks: Vec<Vec<u8>> = Vec::new();
    let (mut bytes, mut newlines) = (0, 0);
    'files: for file in files {
        let mut end = file.metadata()?.len();
        while end > 0 {
            if bytes >= most_bytes || newlines > lines {
                break 'files;
            }
            let length = end.min(READ_BYTES as u64).min((most_bytes - bytes) as u64) as usize;
            end -= length as u64;
            let mut chunk = vec![0; length];
            file.read_exact_at(&mut chunk, end)?;
            bytes += length;
            newlines += chunk.iter().filter(|&&byte| byte == b'\n').count();
            chunks.push(chunk);
        }
    }
    chunks.reverse();
    let text = chunks.concat();
    let text = text.strip_suffix(b"\n").unwrap_or(&text);
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut last: Vec<Vec<u8>> = text.rsplit(|&byte| byte == b'\n').take(lines).map(<[u8]>::to_vec).collect();
    last.reverse();
    Ok(last)
}

/// The directory and all files, newest first.
fn newest_first(directory: &Path) -> io::Result<Option<(OwnedFd, Vec<File>)>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let directory = match open(directory, flags | OFlags::DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        directory => directory?,
    };
    // A listing can miss files that are renamed meanwhile and show later ones. The next one has all of them; and if its newest
    // is the same, no other was renamed before the file that grows was opened.
    for _ in 0..LISTINGS {
        let newest = numbers(&directory)?.max();
        let current = open_current(&directory)?;
        let mut older: Vec<u64> = numbers(&directory)?.collect();
        older.sort_unstable_by(|a, b| b.cmp(a));
        if newest == older.first().copied() {
            // One that is gone by now was the oldest.
            let older = older.into_iter().filter_map(|number| open_older(&directory, number).ok());
            let files = current.into_iter().chain(older).collect();
            return Ok(Some((directory, files)));
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "the files are renamed faster than they can be listed"))
}

fn open_current(directory: impl AsFd) -> io::Result<Option<File>> {
    match openat(directory, CURRENT, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(file) => Ok(Some(file.into())),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn open_older(directory: impl AsFd, number: u64) -> Result<File, Errno> {
    let name = format!("@{number:010}.log");
    openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()).map(File::from)
}

/// Follows a service's log from its present end on, through every rotation. Blocking.
#[derive(Debug)]
pub struct Follow {
    directory: OwnedFd,
    changes: OwnedFd,
    file: Option<File>,
}

impl Follow {
    /// From what is written after this call on. The directory must exist.
    ///
    /// # Errors
    ///
    /// The directory cannot be opened or watched.
    pub fn new(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY;
        let directory = open(path, flags, Mode::empty())?;
        let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVE;
        inotify::add_watch(&changes, path, events)?;
        let mut follow = Self { directory, changes, file: None };
        follow.file = open_current(&follow.directory)?;
        if let Some(file) = &mut follow.file {
            io::Seek::seek(file, io::SeekFrom::End(0))?;
        }
        Ok(follow)
    }

    /// Waits up to `timeout_ms` for more output and appends it to `into`; gives the number of bytes, 0 when the time
    /// is over.
    ///
    /// # Errors
    ///
    /// A file cannot be read.
    pub fn read(&mut self, into: &mut Vec<u8>, timeout_ms: u32) -> io::Result<usize> {
        loop {
            // Before the files, so that a change between the two is seen by the next wait.
            let mut events = [0; 4096];
            while rustix::io::read(&self.changes, &mut events).is_ok_and(|read| read > 0) {}
            match self.read_now(into)? {
                0 => {}
                read => return Ok(read),
            }
            let mut ready = [PollFd::new(&self.changes, PollFlags::IN)];
            let timeout =
                Timespec { tv_sec: i64::from(timeout_ms / 1000), tv_nsec: i64::from(timeout_ms % 1000) * 1_000_000 };
            match poll(&mut ready, Some(&timeout)) {
                Ok(0) => return Ok(0),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn read_now(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            if self.file.is_none() {
                self.file = open_current(&self.directory)?;
            }
            let Some(file) = &mut self.file else { return Ok(0) };
            // Looked up before the read: the keeper never writes to a file after it has begun the next one.
            let place = Self::place(&self.directory, file)?;
            match file.take(READ_BYTES as u64).read_to_end(into)? {
                0 => {}
                read => return Ok(read),
            }
            let next = match place {
                Some(Place::Current) => return Ok(0),
                Some(Place::Older(number)) => self.after(number)?,
                // Removed: whatever is left begins with the oldest.
                None => self.after(0)?,
            };
            // Between a rename and the next file there is none, and this one must not be forgotten: by its number the next one is found,
            // also when it is not the current one any more.
            let Some(next) = next else { return Ok(0) };
            self.file = Some(next);
        }
    }

    /// The file that followed the one with this number.
    fn after(&self, number: u64) -> io::Result<Option<File>> {
        // Opened before the others are listed: if it is not the next one, the next one has its number by then.
        let current = open_current(&self.directory)?;
        let next = || Ok::<_, Errno>(numbers(&self.directory)?.filter(|&other| other > number).min());
        if next()?.is_none() {
            return Ok(current);
        }
        // A listing can miss one that is renamed meanwhile and show a later one; what came before that is there by now.
        for _ in 0..LISTINGS {
            match next()?.map(|next| open_older(&self.directory, next)) {
                Some(Ok(file)) => return Ok(Some(file)),
                // Removed meanwhile, as the oldest.
                Some(Err(Errno::NOENT)) | None => {}
                Some(Err(errno)) => return Err(errno.into()),
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "the files are removed faster than they can be opened"))
    }

    /// Where an open file is now; `None` when it was removed.
    fn place(directory: &OwnedFd, file: &File) -> io::Result<Option<Place>> {
        for _ in 0..LISTINGS {
            // A listing can miss a file that is being renamed meanwhile: only its last name's end says that it was removed.
            let status = fstat(file)?;
            if status.st_nlink == 0 {
                return Ok(None);
            }
            for entry in rustix::fs::Dir::read_from(directory)? {
                let entry = entry?;
                if entry.ino() != status.st_ino {
                    continue;
                }
                if entry.file_name() == CURRENT {
                    return Ok(Some(Place::Current));
                }
                if let Some(number) = number_of(entry.file_name().to_bytes()) {
                    return Ok(Some(Place::Older(number)));
                }
            }
        }
        Ok(None)
    }
}

enum Place {
    Current,
    Older(u64),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    #[test]
    fn the_last_lines_come_from_as_many_files_as_it_takes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert!(last_lines(&path.join("none"), 5, 1000).unwrap().is_empty());
        fs::write(path.join("@0000000001.log"), "one\ntw").unwrap();
        fs::write(path.join("@0000000002.log"), "o\nthree\n").unwrap();
        fs::write(path.join("current"), "four\nfive").unwrap();
        let lines = |count, bytes| -> Vec<String> {
            let lines = last_lines(path, count, bytes).unwrap();
            lines.into_iter().map(|line| String::from_utf8(line).unwrap()).collect()
        };
        assert_eq!(lines(4, 1000), ["two", "three", "four", "five"]);
        assert_eq!(lines(9, 1000), ["one", "two", "three", "four", "five"]);
        assert_eq!(lines(9, 12), ["ee", "four", "five"]);
    }

    #[test]
    fn following_loses_nothing_over_rotations() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::write(path.join("current"), "before\n").unwrap();
        let mut follow = Follow::new(path).unwrap();
        let append = |text: &str| {
            let mut file = fs::File::options().create(true).append(true).open(path.join("current")).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        append("a\n");
        let mut seen = Vec::new();
        assert_eq!(follow.read(&mut seen, 10_000).unwrap(), 2);
        append("b\n");
        fs::rename(path.join("current"), path.join("@0000000001.log")).unwrap();
        append("c\n");
        fs::rename(path.join("current"), path.join("@0000000002.log")).unwrap();
        append("d\n");
        while seen.len() < 8 {
            assert!(follow.read(&mut seen, 10_000).unwrap() > 0);
        }
        assert_eq!(seen, b"a\nb\nc\nd\n");
        assert_eq!(follow.read(&mut seen, 0).unwrap(), 0);
    }

    #[test]
    fn what_is_looked_at_between_two_files_is_followed_by_the_next_one_and_not_by_the_newest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::write(path.join("current"), "").unwrap();
        let mut follow = Follow::new(path).unwrap();
        let mut seen = Vec::new();
        let write = |text: &str, number: u64| {
            fs::write(path.join("current"), text).unwrap();
            fs::rename(path.join("current"), path.join(format!("@{number:010}.log"))).unwrap();
        };
        write("a\n", 1);
        assert_eq!(follow.read(&mut seen, 10_000).unwrap(), 2);
        assert_eq!(follow.read(&mut seen, 0).unwrap(), 0);
        write("b\n", 2);
        write("c\n", 3);
        while seen.len() < 6 {
            assert!(follow.read(&mut seen, 10_000).unwrap() > 0);
        }
        assert_eq!(seen, b"a\nb\nc\n");
    }

    #[test]
    fn files_that_are_renamed_while_they_are_listed_are_read_in_their_order() {
        const FILES: usize = 600;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::write(path.join("current"), "").unwrap();
        let mut follow = Follow::new(path).unwrap();
        let numbered = |lines: &[u8]| -> Vec<usize> {
            std::str::from_utf8(lines).unwrap().lines().map(|line| line.parse().unwrap()).collect()
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..=FILES {
                    fs::write(path.join("current"), format!("{number}\n")).unwrap();
                    fs::rename(path.join("current"), path.join(format!("@{number:010}.log"))).unwrap();
                }
            });
            let mut seen = Vec::new();
            while numbered(&seen).last() != Some(&FILES) {
                assert!(follow.read(&mut seen, 20_000).unwrap() > 0, "nothing came");
                let last: Vec<usize> =
                    last_lines(path, 50, 1 << 20).unwrap().iter().flat_map(|line| numbered(line)).collect();
                assert!(last.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{last:?}");
            }
            let expected: Vec<usize> = (1..=FILES).collect();
            assert_eq!(numbered(&seen), expected);
        });
    }
}
