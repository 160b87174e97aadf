//! Who else switches: threads that wait for changes of the names by which stores are switched (inotify(7)), and of files.

use super::files::{FilesError, FilesWatch};
use hale_core::ids::Name;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, ReadFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Room for the longest event, a header and a name of 255 bytes (inotify(7)), some dozens of times.
const BUFFER_BYTES: usize = 16 * 1024;

/// Watches what it is told to. Lives as long as the process.
#[derive(Clone)]
pub(super) struct Watch(Arc<Inner>);

struct Inner {
    changed: Box<dyn Fn(&Name) + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Once there is something to watch.
    fd: Option<Arc<OwnedFd>>,
    /// What is to be watched for each service.
    wanted: BTreeMap<Name, Wanted>,
    /// By the number of the directory's watch: whose name in it matters.
    names: BTreeMap<i32, Vec<(OsString, Name)>>,
}

struct Wanted {
    dir: PathBuf,
    name: OsString,
    /// Whether its directory is watched: else it is one above, because it is not there.
    is_whole: bool,
    /// That it could not be watched was said.
    is_told: bool,
}

/// Which events of a directory matter: that a name in it comes, goes, or becomes another thing, and that it goes itself.
const EVENTS: inotify::WatchFlags = inotify::WatchFlags::MOVED_TO
    .union(inotify::WatchFlags::MOVED_FROM)
    .union(inotify::WatchFlags::CREATE)
    .union(inotify::WatchFlags::DELETE)
    .union(inotify::WatchFlags::DELETE_SELF)
    .union(inotify::WatchFlags::MOVE_SELF)
    .union(inotify::WatchFlags::ONLYDIR);

impl Watch {
    /// `changed` is called for each service whose name in its directory was changed, or may have been.
    pub(super) fn new(changed: impl Fn(&Name) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { changed: Box::new(changed), state: Mutex::default() }))
    }

    /// Watches one name in a directory; as long as that is not there, for it to come. What cannot be watched is said once, tried again
    /// with the next call, and looked at with the next order.
    pub(super) fn add(&self, service: &Name, dir: &Path, name: &OsStr) {
        // Before it is watched: its first event must find it.
        let mut state = self.state();
        let is_told = state.wanted.get(service).is_some_and(|before| before.is_told);
        let wanted = Wanted { dir: dir.to_owned(), name: name.to_owned(), is_whole: false, is_told };
        state.wanted.insert(service.clone(), wanted);
        let outcome = self.started(&mut state).and_then(|fd| state.watch(&fd, service).map_err(io::Error::from));
        let Some(wanted) = state.wanted.get_mut(service) else { return };
        if let Err(error) = &outcome
            && !wanted.is_told
        {
            eprintln!(
                "hale: {service}: it is not noticed when somebody else switches {}: it cannot be watched ({error}); make room for it \
                 (sysctl fs.inotify.max_user_watches, fs.inotify.max_user_instances) and reload Hale; until then it is looked at \
                 whenever Hale switches, starts or takes over",
                dir.join(name).display()
            );
        }
        wanted.is_told = outcome.is_err();
    }

    /// The descriptor, with its thread.
    fn started(&self, state: &mut State) -> io::Result<Arc<OwnedFd>> {
        if let Some(fd) = &state.fd {
            return Ok(fd.clone());
        }
        let fd = Arc::new(inotify::init(inotify::CreateFlags::CLOEXEC)?);
        let (own, of) = (self.clone(), fd.clone());
        std::thread::Builder::new().name(String::from("stores-watch")).spawn(move || own.run(&of))?;
        state.fd = Some(fd.clone());
        Ok(fd)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, fd: &OwnedFd) {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = inotify::Reader::new(fd, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    let concerned = self.state().concerned(fd, event.wd(), event.events(), name);
                    concerned.iter().for_each(&self.0.changed);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    // Another one is made with the next store that is opened.
                    let mut state = self.state();
                    (state.fd, state.names) = (None, BTreeMap::new());
                    eprintln!(
                        "hale: it is not noticed any more when somebody else switches: inotify cannot be read ({errno}); reload Hale; \
                         until then stores are looked at whenever Hale switches, starts or takes over"
                    );
                    return;
                }
            }
        }
    }
}

impl State {
    /// Watches what is wanted for a service, or the nearest directory above it that is there.
    fn watch(&mut self, fd: &OwnedFd, service: &Name) -> Result<(), Errno> {
        for watched in self.names.values_mut() {
            watched.retain(|(_, of)| of != service);
        }
        self.names.retain(|number, watched| {
            if watched.is_empty() {
                let _gone_by_itself = inotify::remove_watch(fd, *number);
            }
            !watched.is_empty()
        });
        let Some(wanted) = self.wanted.get_mut(service) else { return Ok(()) };
        let (mut dir, mut name) = (wanted.dir.as_path(), wanted.name.as_os_str());
        loop {
            match inotify::add_watch(fd, dir, EVENTS) {
                Ok(number) => self.names.entry(number).or_default().push((name.to_owned(), service.clone())),
                Err(Errno::NOENT | Errno::NOTDIR) if dir.parent().is_some() => {
                    name = dir.file_name().unwrap_or_default();
                    dir = dir.parent().unwrap_or(dir);
                    continue;
                }
                Err(errno) => return Err(errno),
            }
            wanted.is_whole = dir == wanted.dir;
            // What came between the two looks is gone down to.
            if wanted.is_whole || !dir.join(name).is_dir() {
                return Ok(());
            }
            (dir, name) = (wanted.dir.as_path(), wanted.name.as_os_str());
        }
    }

    /// Whom an event concerns: all, where the kernel had no room for more of them.
    fn concerned(&mut self, fd: &OwnedFd, number: i32, flags: ReadFlags, name: Option<&OsStr>) -> Vec<Name> {
        let all = || self.wanted.keys().cloned().collect();
        let of = || self.names.get(&number).into_iter().flatten();
        let is_gone = flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED);
        let concerned: Vec<Name> = if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            all()
        } else if is_gone {
            of().map(|(_, service)| service.clone()).collect()
        } else {
            of().filter(|(watched, _)| name == Some(watched)).map(|(_, service)| service.clone()).collect()
        };
        for service in &concerned {
            let is_whole = self.wanted.get(service).is_some_and(|wanted| wanted.is_whole);
            if (is_gone || !is_whole)
                && let Err(errno) = self.watch(fd, service)
            {
                eprintln!(
                    "hale: {service}: it is not noticed any more when somebody else switches it: its directory cannot be watched \
                     ({errno}); reload Hale once it can"
                );
            }
        }
        concerned
    }
}

/// Waits for changes of a service's files, until it is dropped.
#[derive(Debug)]
pub(super) struct FilesWatcher {
    /// Closed with it, which ends the thread.
    _end: OwnedFd,
}

impl FilesWatcher {
    /// Starts the thread, which calls `changed` when one of the files may have changed.
    ///
    /// # Errors
    /// A limit of the kernel is reached.
    pub(super) fn start(
        service: Name,
        paths: &[PathBuf],
        changed: impl Fn() + Send + 'static,
    ) -> Result<Self, FilesError> {
        let mut watch = FilesWatch::new(paths.iter().cloned())?;
        let failed =
            |error: io::Error| FilesError::Io { what: String::from("start to watch the files"), source: error };
        let (end, _end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let run = move || {
            loop {
                let mut ready = [PollFd::new(&watch, PollFlags::IN), PollFd::new(&end, PollFlags::IN)];
                match poll(&mut ready, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(_) => return,
                }
                if !ready[1].revents().is_empty() {
                    return;
                }
                let flooded = watch.floods();
                let found = watch.read();
                if !flooded && watch.floods() {
                    eprintln!(
                        "hale: {service}: its files change all the time: they are looked at once a minute from now on, until they are quiet \
                         for so long; leave what a program writes itself out of `files`"
                    );
                }
                // What cannot be watched for a while is looked at now, and told once it can be.
                if found.map_or(true, |changed| !changed.is_empty()) {
                    changed();
                }
            }
        };
        std::thread::Builder::new().name(String::from("files-watch")).spawn(run).map_err(failed)?;
        Ok(Self { _end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn a_switch_by_somebody_else_is_told_to_its_service_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, told) = channel();
        // It goes on after the test, when nobody is told any more.
        let watch = Watch::new(move |service| drop(sender.send(service.clone())));
        let name = |text: &str| Name::try_from(text).unwrap();
        watch.add(&name("one"), dir.path(), OsStr::new("one-current"));
        watch.add(&name("two"), dir.path(), OsStr::new("two-current"));
        symlink("x", dir.path().join("other")).unwrap();
        symlink("x", dir.path().join("beside")).unwrap();
        std::fs::rename(dir.path().join("beside"), dir.path().join("two-current")).unwrap();
        let patience = Duration::from_secs(30);
        assert_eq!(told.recv_timeout(patience).unwrap(), name("two"));
        std::fs::remove_file(dir.path().join("two-current")).unwrap();
        assert_eq!(told.recv_timeout(patience).unwrap(), name("two"), "also when it is taken away");
        symlink("x", dir.path().join("one-current")).unwrap();
        assert_eq!(told.recv_timeout(patience).unwrap(), name("one"));
    }

    /// Nix makes a profile's directory with its first generation, and people move directories away and back.
    #[test]
    fn a_directory_that_comes_later_or_goes_is_watched_once_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, told) = channel();
        let watch = Watch::new(move |service: &Name| drop(sender.send(service.clone())));
        let bot = Name::try_from("bot").unwrap();
        let patience = Duration::from_secs(30);
        let deep = dir.path().join("a/b/c");
        watch.add(&bot, &deep, OsStr::new("current"));
        let switched = |what: &str| {
            // What came before is told some number of times; the last one is after the switch.
            while told.try_recv().is_ok() {}
            symlink("x", deep.join("beside")).unwrap();
            std::fs::rename(deep.join("beside"), deep.join("current")).unwrap();
            assert_eq!(told.recv_timeout(patience).as_ref(), Ok(&bot), "{what}");
        };
        let wait_until_whole = || {
            while !watch.state().wanted[&bot].is_whole {
                told.recv_timeout(patience).unwrap();
            }
        };
        std::fs::create_dir(dir.path().join("a")).unwrap();
        assert_eq!(told.recv_timeout(patience).unwrap(), bot);
        assert!(!watch.state().wanted[&bot].is_whole);
        std::fs::create_dir_all(&deep).unwrap();
        wait_until_whole();
        switched("it came");
        std::fs::rename(dir.path().join("a/b"), dir.path().join("a/away")).unwrap();
        std::fs::remove_dir_all(dir.path().join("a/away")).unwrap();
        while watch.state().wanted[&bot].is_whole {
            told.recv_timeout(patience).unwrap();
        }
        std::fs::create_dir_all(&deep).unwrap();
        wait_until_whole();
        switched("it came again");
    }
}
