//! Who else switches: threads that wait for changes of the names by which stores are switched (inotify(7)), and of files.

use super::files::{FilesError, FilesWatch};
use hale_core::ids::Name;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use rustix::pipe::PipeFlags;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Room for the longest event, a header and a name of 255 bytes (inotify(7)), some dozens of times.
const BUFFER_BYTES: usize = 16 * 1024;

/// Watches what it is told to. Lives as long as the process.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    fd: Arc<OwnedFd>,
    names: Arc<Mutex<Names>>,
}

/// By the number of the directory's watch: whose name in it matters.
type Names = BTreeMap<i32, Vec<(OsString, Name)>>;

impl Watch {
    /// Starts the thread, which calls `changed` for each service whose name in its directory was changed, or may have been.
    ///
    /// # Errors
    /// There is no descriptor or thread.
    pub(super) fn start(changed: impl Fn(&Name) + Send + 'static) -> io::Result<Self> {
        let fd = Arc::new(inotify::init(inotify::CreateFlags::CLOEXEC)?);
        let names = Arc::new(Mutex::new(Names::new()));
        let watch = Self { fd, names };
        let own = watch.clone();
        std::thread::Builder::new().name(String::from("stores-watch")).spawn(move || own.run(changed))?;
        Ok(watch)
    }

    /// Watches one name. What cannot be watched is looked at with the next order.
    pub(super) fn add(&self, service: &Name, dir: &Path, name: &OsStr) {
        use inotify::WatchFlags as Flags;
        let flags = Flags::MOVED_TO | Flags::MOVED_FROM | Flags::CREATE | Flags::DELETE | Flags::ONLYDIR;
        // Before it is added: its first event must find it.
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.values_mut().for_each(|watched| watched.retain(|(_, of)| of != service));
        if let Ok(number) = inotify::add_watch(&*self.fd, dir, flags) {
            names.entry(number).or_default().push((name.into(), service.clone()));
        }
    }

    fn run(&self, changed: impl Fn(&Name)) {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = inotify::Reader::new(&*self.fd, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let (number, flags) = (event.wd(), event.events());
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
                    self.services(number, flags, name.as_deref()).iter().for_each(&changed);
                }
                Err(rustix::io::Errno::INTR) => {}
                // Nothing of it can be read any more: others' switches are seen with the next order.
                Err(_) => return,
            }
        }
    }

    /// Whom an event concerns: all, where the kernel had no room for more of them.
    fn services(&self, number: i32, flags: inotify::ReadFlags, name: Option<&OsStr>) -> Vec<Name> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let all = || names.values().flatten().map(|(_, service)| service.clone()).collect();
        if flags.contains(inotify::ReadFlags::QUEUE_OVERFLOW) {
            return all();
        }
        let of = names.get(&number).into_iter().flatten();
        of.filter(|(watched, _)| name == Some(watched)).map(|(_, service)| service.clone()).collect()
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
    pub(super) fn start(paths: &[PathBuf], changed: impl Fn() + Send + 'static) -> Result<Self, FilesError> {
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
                // What cannot be watched for a while is looked at now, and told once it can be.
                if watch.read().map_or(true, |changed| !changed.is_empty()) {
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
        let watch = Watch::start(move |service| drop(sender.send(service.clone()))).unwrap();
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
}
