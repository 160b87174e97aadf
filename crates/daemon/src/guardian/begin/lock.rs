//! One Hale for one directory: a lock on a file in it, which ends with the process that holds it (flock(2)).

use crate::guardian::begin::start::{NAME, StartError};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a lock may outlive its holder: a process that it was just making has its descriptors until its program is executed.
const LEFT_WITHIN: Duration = Duration::from_secs(1);

/// How often that is looked at: nobody tells.
const LEFT_LOOK: Duration = Duration::from_millis(5);

/// Makes the directory if it is missing (0755: the sockets in it have rights of their own) and locks it for as long
/// as the descriptor is open. Others may not open the file, because whoever can open it can lock it.
///
/// A disk that turned read-only must not keep services from being started: there the file is locked as it is, or the
/// directory where there is no file. And one that hangs must not keep the next guardian from adopting them: where the
/// file is there nothing is changed.
pub(in crate::guardian) fn lock(directory: &Path) -> Result<OwnedFd, StartError> {
    let failed = |source: std::io::Error| StartError::Directory { directory: directory.into(), source };
    let path = directory.join("lock");
    let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = match open(&path, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed)?;
            match open(&path, flags | OFlags::RDWR | OFlags::CREATE, Mode::RUSR | Mode::WUSR) {
                Err(Errno::ROFS) => open(directory, OFlags::CLOEXEC | OFlags::DIRECTORY, Mode::empty()),
                made => made,
            }
        }
        opened => opened,
    };
    let file = file.map_err(|errno| failed(errno.into()))?;
    let begin = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) => {
                let holder: Option<u32> = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
                let is_gone = holder.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
                if !is_gone || begin.elapsed() >= LEFT_WITHIN {
                    return Err(StartError::Busy { directory: directory.into(), holder });
                }
                std::thread::sleep(LEFT_LOOK);
            }
            Err(errno) => return Err(failed(errno.into())),
        }
    }
}

/// The same, and the file says who holds it, for people.
pub(in crate::guardian) fn lock_and_tell(directory: &Path) -> Result<OwnedFd, StartError> {
    let file = lock(directory)?;
    // Only for messages: that it cannot be written does not matter.
    let _ = std::fs::write(directory.join("lock"), format!("{}\n", std::process::id()));
    Ok(file)
}

/// The guardian that has locked this directory, if there is one and this user may know.
#[must_use]
pub fn holder(directory: &Path) -> Option<i32> {
    let pid = std::fs::read_to_string(directory.join("lock")).ok()?.trim().parse().ok()?;
    // The file outlives its process.
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    (name.trim_ascii_end() == NAME.to_bytes()).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_learns_who_the_first_one_is() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("made/on/the/way");
        let held = lock_and_tell(&inner).unwrap();
        let Err(StartError::Busy { holder, .. }) = lock(&inner) else { panic!("locked twice") };
        assert_eq!(holder, Some(std::process::id()));
        drop(held);
        lock(&inner).unwrap();
    }

    #[test]
    fn a_lock_that_is_left_by_one_who_is_gone_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let held = lock_and_tell(directory.path()).unwrap();
        // No process has this number.
        std::fs::write(directory.path().join("lock"), "4194305\n").unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| lock(directory.path()).map(drop));
            drop(held);
            waits.join().unwrap().unwrap();
        });
    }
}
