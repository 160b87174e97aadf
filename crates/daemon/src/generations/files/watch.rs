//! Notices that a configured file may have changed, without looking: by inotify(7) on each file and on all directories and
//! links on the way to it.
//!
//! It says *where to look*, not what is there: a change that leaves all as it was is told too. What it cannot tell: writes by
//! way of a mapping (mmap(2)) until the writer closes the file, changes by other machines of a network's file system, and
//! a file system that is mounted over a directory. The next look, at a start or for another change, finds the rest.

use super::error::FilesError;
use super::walk::{Dir, Found, Links, Spot, walk};
use crate::generations::beneath;
use rustix::event::epoll::{self, EventFlags};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, read};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long it is quiet before a change is told: an editor writes, renames and sets modes within a few milliseconds, and
/// programs that deploy write one file after the other.
pub const SETTLE_MS: u64 = 100;

/// How often that is waited for when it is not quiet: half a second, so that a change is told within a second of it.
const SETTLE_ROUNDS_MAX: u32 = 5;

/// When it is tried again to watch what could not be watched: limits are raised by hand.
const RETRY_MS: u64 = 1_000;

/// After so many changes within [`FLOOD_MS`] a file is one that something writes all the time: then it is told once in [`FLOOD_MS`], until
/// it was quiet for that long. Each change is told of, looked at and recorded.
const FLOOD_CHANGES: usize = 30;

/// See [`FLOOD_CHANGES`].
const FLOOD_MS: u64 = 60_000;

/// The most events that are read at one go; the kernel keeps 16,384 by default (`max_queued_events`), and says when it lost some.
const EVENTS_MAX: usize = 32_768;

/// In a directory: that a name comes, goes, or becomes another thing. Not what happens to its files: a database in the same
/// directory is written to all the time.
const NAMES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// On a file: content, mode, owner, attributes, number of names.
const FILE: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::DELETE_SELF);

/// What one watch is for: the paths, by their numbers, that go by each name in a directory; a file has the empty name.
type Watch = BTreeMap<Vec<u8>, BTreeSet<usize>>;

/// Tells when to look at files again. Its descriptor can be polled: it is readable when [`Self::read`] has something to do.
///
/// Make it before the first look: whatever changes after that look is told then.
#[derive(Debug)]
pub struct FilesWatch {
    paths: Vec<PathBuf>,
    /// The timer and, unless it is waited for quiet, inotify.
    epoll: OwnedFd,
    inotify: OwnedFd,
    timer: OwnedFd,
    watches: BTreeMap<i32, Watch>,
    /// Told when it is quiet, and all that leads to them is watched.
    pending: BTreeSet<usize>,
    /// How often quiet was waited for; `None` while nothing happens.
    rounds: Option<u32>,
    /// When changes were told last, the newest at the end.
    told: VecDeque<Instant>,
    floods: bool,
}

impl AsFd for FilesWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl FilesWatch {
    /// Watches the files, which are absolute paths; they need not be there.
    ///
    /// # Errors
    /// [`FilesError::Watch`]: a limit of the kernel is reached.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Result<Self, FilesError> {
        let open = || {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
            for fd in [&inotify, &timer] {
                epoll::add(&epoll, fd, epoll::EventData::new_u64(0), EventFlags::IN)?;
            }
            Ok((epoll, inotify, timer))
        };
        let (epoll, inotify, timer) = open().map_err(failed)?;
        let (watches, pending) = (BTreeMap::new(), BTreeSet::new());
        let paths: Vec<PathBuf> = paths.into_iter().collect();
        let mut watch =
            Self { paths, epoll, inotify, timer, watches, pending, rounds: None, told: VecDeque::new(), floods: false };
        for path in 0..watch.paths.len() {
            watch.watch(path).map_err(failed)?;
        }
        Ok(watch)
    }

    /// The files that may have changed, once it has been quiet for [`SETTLE_MS`], or not for half a second. Empty: not yet.
    /// Never blocks on the descriptor.
    ///
    /// # Errors
    /// [`FilesError::Watch`]: something is not watched any longer. It is tried again, and told as changed once it is.
    pub fn read(&mut self) -> Result<Vec<PathBuf>, FilesError> {
        match self.rounds {
            None => {
                if self.drain().map_err(failed)? {
                    // Until it is quiet the timer alone wakes: a directory in which names come and go by the thousand
                    // costs ten looks a second.
                    self.wait(0, SETTLE_MS).map_err(failed)?;
                }
                Ok(Vec::new())
            }
            Some(rounds) => {
                match read(&self.timer, &mut [0; 8]) {
                    Err(Errno::AGAIN | Errno::INTR) => return Ok(Vec::new()),
                    other => other.map_err(failed)?,
                };
                if self.drain().map_err(failed)? && rounds + 1 < SETTLE_ROUNDS_MAX {
                    self.wait(rounds + 1, SETTLE_MS).map_err(failed)?;
                    return Ok(Vec::new());
                }
                if rounds < SETTLE_ROUNDS_MAX && !self.pending.is_empty() && self.is_flooded() {
                    self.wait(SETTLE_ROUNDS_MAX, FLOOD_MS).map_err(failed)?;
                    return Ok(Vec::new());
                }
                self.settle()
            }
        }
    }

    /// Whether something writes to the files all the time, so that each change is told a minute late.
    pub fn floods(&self) -> bool {
        self.floods
    }

    fn is_flooded(&mut self) -> bool {
        let flood = Duration::from_millis(FLOOD_MS);
        self.told.retain(|at| at.elapsed() < flood);
        self.floods = self.told.len() >= FLOOD_CHANGES || self.floods && !self.told.is_empty();
        self.floods
    }

    fn settle(&mut self) -> Result<Vec<PathBuf>, FilesError> {
        for path in self.pending.clone() {
            if let Err(errno) = self.watch(path) {
                self.wait(SETTLE_ROUNDS_MAX, RETRY_MS).map_err(failed)?;
                return Err(failed(errno));
            }
        }
        self.rounds = None;
        epoll::modify(&self.epoll, &self.inotify, epoll::EventData::new_u64(0), EventFlags::IN).map_err(failed)?;
        if !self.pending.is_empty() {
            self.told.push_back(Instant::now());
        }
        Ok(std::mem::take(&mut self.pending).into_iter().map(|path| self.paths[path].clone()).collect())
    }

    fn wait(&mut self, rounds: u32, ms: u64) -> Result<(), Errno> {
        self.rounds = Some(rounds);
        epoll::modify(&self.epoll, &self.inotify, epoll::EventData::new_u64(0), EventFlags::empty())?;
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ns = i64::try_from(ms % 1_000 * 1_000_000).unwrap_or(0);
        let once = Timespec { tv_sec: i64::try_from(ms / 1_000).unwrap_or(0), tv_nsec: ns };
        let set = Itimerspec { it_interval: never, it_value: once };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &set).map(|_| ())
    }

    /// Takes what the kernel has to tell; whether there was anything.
    fn drain(&mut self) -> Result<bool, Errno> {
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut any = false;
        for _ in 0..EVENTS_MAX {
            let event = match events.next() {
                Err(Errno::AGAIN | Errno::INTR) => break,
                other => other?,
            };
            any = true;
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                self.pending.extend(0..self.paths.len());
            }
            let Some(watch) = self.watches.get(&event.wd()) else { continue };
            match event.file_name() {
                Some(name) => self.pending.extend(watch.get(name.to_bytes()).into_iter().flatten()),
                None => self.pending.extend(watch.values().flatten()),
            }
            if event.events().contains(ReadFlags::IGNORED) {
                self.watches.remove(&event.wd());
            }
        }
        Ok(any)
    }

    /// Watches all that is on the way to a path now, and nothing for it any longer that was there before.
    fn watch(&mut self, path: usize) -> Result<(), Errno> {
        let mut now: Vec<(i32, Vec<u8>)> = Vec::new();
        let inotify = &self.inotify;
        let mut is_at_limit = None;
        let mut add = |fd: BorrowedFd<'_>, name: &[u8], flags| {
            match inotify::add_watch(inotify, format!("/proc/self/fd/{}", fd.as_raw_fd()), flags) {
                Ok(number) => now.push((number, name.to_vec())),
                // What may not be read may not be watched (by who is not root); it may be passed through.
                Err(Errno::ACCESS | Errno::PERM) => {}
                Err(errno) => is_at_limit = Some(errno),
            }
        };
        let bytes = self.paths[path].as_os_str().as_bytes();
        let found = walk(bytes, Links::AsTheyAre, &mut |dir: &Dir, name| {
            add(dir.as_fd(), name, NAMES);
        });
        // A way without an end, or one that changes, is watched as far as it was gone.
        if let Ok(Found { spot: Some(spot), .. }) = found
            && let Some(file) = regular(&spot)
        {
            add(file.as_fd(), b"", FILE);
        }
        if let Some(errno) = is_at_limit {
            return Err(errno);
        }
        for watch in self.watches.values_mut() {
            for paths in watch.values_mut() {
                paths.remove(&path);
            }
            watch.retain(|_, paths| !paths.is_empty());
        }
        for (number, name) in now {
            self.watches.entry(number).or_default().entry(name).or_default().insert(path);
        }
        self.watches.retain(|number, watch| {
            if watch.is_empty() {
                let _gone_by_itself = inotify::remove_watch(&self.inotify, *number);
            }
            !watch.is_empty()
        });
        Ok(())
    }
}

fn regular(spot: &Spot) -> Option<OwnedFd> {
    let file = beneath::open(&spot.dir, &spot.name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).ok()?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file).ok()?.st_mode);
    (kind == FileType::RegularFile).then_some(file)
}

fn failed(errno: Errno) -> FilesError {
    FilesError::Watch { source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    /// Until something is told, for far longer than it takes.
    #[track_caller]
    fn told(watch: &mut FilesWatch) -> Vec<PathBuf> {
        loop {
            let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
            let ready = poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&limit)).unwrap();
            assert_eq!(ready, 1, "nothing is told");
            let paths = watch.read().unwrap();
            if !paths.is_empty() {
                return paths;
            }
        }
    }

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(place.at("a/b")).unwrap();
            fs::write(place.at("a/b/conf"), "1").unwrap();
            place
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn watch(&self) -> FilesWatch {
            FilesWatch::new([self.at("a/b/conf"), self.at("other")]).unwrap()
        }
    }

    #[track_caller]
    fn is_told(watch: &mut FilesWatch, path: &Path, change: impl FnOnce()) {
        change();
        assert_eq!(told(watch), [path]);
    }

    #[test]
    fn what_is_written_to_all_the_time_is_told_once_in_a_while() {
        let place = Place::new();
        let (mut watch, conf) = (place.watch(), place.at("a/b/conf"));
        for change in 0..FLOOD_CHANGES {
            assert!(!watch.floods(), "after {change}");
            is_told(&mut watch, &conf, || fs::write(&conf, change.to_string()).unwrap());
        }
        // As editors do: its first event is of another name.
        fs::write(place.at("a/b/.conf.swp"), "one more").unwrap();
        fs::rename(place.at("a/b/.conf.swp"), &conf).unwrap();
        while !watch.floods() {
            poll(&mut [PollFd::new(&watch, PollFlags::IN)], None).unwrap();
            assert!(watch.read().unwrap().is_empty());
        }
        let left = rustix::time::timerfd_gettime(&watch.timer).unwrap().it_value.tv_sec;
        assert!(left > 30, "it waits {left} s");
        // Quiet for as long as that: the next change is told as ever.
        watch.told.clear();
        assert!(!watch.is_flooded());
    }

    #[test]
    fn each_way_to_change_a_file_is_told() {
        let place = Place::new();
        let (mut watch, conf) = (place.watch(), place.at("a/b/conf"));
        let mut told = |change: &dyn Fn()| is_told(&mut watch, &conf, change);
        told(&|| fs::write(&conf, "2").unwrap());
        told(&|| fs::set_permissions(&conf, fs::Permissions::from_mode(0o600)).unwrap());
        told(&|| rustix::fs::setxattr(&conf, "user.x", b"1", rustix::fs::XattrFlags::empty()).unwrap());
        // As editors do: twice, because the second one is of a file that was not watched at first.
        for text in ["3", "4"] {
            told(&|| {
                fs::write(place.at("a/b/.conf.swp"), text).unwrap();
                fs::rename(place.at("a/b/.conf.swp"), &conf).unwrap();
            });
        }
        told(&|| fs::write(&conf, "5").unwrap());
        told(&|| fs::remove_file(&conf).unwrap());
        told(&|| fs::write(&conf, "6").unwrap());
        told(&|| fs::rename(&conf, place.at("a/b/away")).unwrap());
        told(&|| fs::hard_link(place.at("a/b/away"), &conf).unwrap());
        // By its other name.
        told(&|| fs::write(place.at("a/b/away"), "7").unwrap());
    }

    #[test]
    fn a_writer_that_keeps_the_file_open_is_noticed() {
        let place = Place::new();
        let (mut watch, conf) = (place.watch(), place.at("a/b/conf"));
        let mut file = fs::File::options().append(true).open(&conf).unwrap();
        for _ in 0..2 {
            is_told(&mut watch, &conf, || file.write_all(b"x").unwrap());
        }
    }

    #[test]
    fn directories_that_go_come_and_move_are_followed() {
        let place = Place::new();
        let (mut watch, conf) = (place.watch(), place.at("a/b/conf"));
        let mut told = |change: &dyn Fn()| is_told(&mut watch, &conf, change);
        told(&|| fs::remove_dir_all(place.at("a")).unwrap());
        told(&|| fs::create_dir(place.at("a")).unwrap());
        told(&|| fs::create_dir(place.at("a/b")).unwrap());
        told(&|| fs::write(&conf, "2").unwrap());
        told(&|| fs::write(&conf, "3").unwrap());
        told(&|| fs::rename(place.at("a"), place.at("away")).unwrap());
        // Another tree, whole, in its place.
        fs::create_dir_all(place.at("new/b")).unwrap();
        fs::write(place.at("new/b/conf"), "4").unwrap();
        told(&|| fs::rename(place.at("new"), place.at("a")).unwrap());
        told(&|| fs::write(&conf, "5").unwrap());
        // What is away is nothing of ours any longer: only the other one is told.
        fs::write(place.at("away/b/conf"), "x").unwrap();
        fs::rename(place.at("away/b/conf"), place.at("away/b/conf2")).unwrap();
        fs::write(place.at("other"), "x").unwrap();
        assert_eq!(self::told(&mut watch), [place.at("other")]);
    }

    #[test]
    fn links_are_watched_where_they_are_and_where_they_lead() {
        let place = Place::new();
        for name in ["prod", "staging"] {
            fs::create_dir(place.at(name)).unwrap();
            fs::write(place.at(name).join("conf"), name).unwrap();
        }
        symlink("prod", place.at("env")).unwrap();
        symlink("env/conf", place.at("link")).unwrap();
        let mut watch = FilesWatch::new([place.at("link")]).unwrap();
        let mut told = |change: &dyn Fn()| is_told(&mut watch, &place.at("link"), change);
        let lead = |link: &str, target: &str| {
            symlink(target, place.at("new")).unwrap();
            fs::rename(place.at("new"), place.at(link)).unwrap();
        };
        told(&|| fs::write(place.at("prod/conf"), "2").unwrap());
        told(&|| lead("env", "staging"));
        told(&|| fs::write(place.at("staging/conf"), "2").unwrap());
        told(&|| lead("link", "prod/conf"));
        told(&|| fs::write(place.at("prod/conf"), "3").unwrap());
        told(&|| lead("link", "nowhere/conf"));
        told(&|| fs::create_dir(place.at("nowhere")).unwrap());
        told(&|| fs::write(place.at("nowhere/conf"), "1").unwrap());
    }

    #[test]
    fn many_steps_are_told_once_and_other_names_not_at_all() {
        let place = Place::new();
        let mut watch = place.watch();
        for n in 0..100 {
            fs::write(place.at("a/b/conf"), n.to_string()).unwrap();
            fs::write(place.at("a/b/database"), n.to_string()).unwrap();
        }
        fs::write(place.at("other"), "1").unwrap();
        assert_eq!(told(&mut watch), [place.at("a/b/conf"), place.at("other")]);
        fs::remove_file(place.at("a/b/database")).unwrap();
        fs::write(place.at("a/b/database"), "1").unwrap();
        fs::remove_file(place.at("other")).unwrap();
        assert_eq!(told(&mut watch), [place.at("other")]);
    }

    #[test]
    fn a_full_queue_means_that_everything_is_told() {
        let place = Place::new();
        let mut watch = place.watch();
        let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        for n in 0..=queue.trim().parse::<usize>().unwrap() / 2 {
            let name = place.at("a/b").join(n.to_string());
            fs::write(&name, "").unwrap();
            fs::remove_file(name).unwrap();
        }
        // Of this the kernel has no place to tell.
        fs::write(place.at("a/b/conf"), "2").unwrap();
        assert_eq!(told(&mut watch), [place.at("a/b/conf"), place.at("other")]);
        is_told(&mut watch, &place.at("a/b/conf"), || fs::write(place.at("a/b/conf"), "3").unwrap());
    }
}
