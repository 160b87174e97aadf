//! Why files cannot be copied, compared or put back: each with what, where, why, and what to do.

use super::FilesId;
use super::state::Refusal;
use crate::generations::StoreError;
use crate::generations::error::shown;
use rustix::io::Errno;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What went wrong with the files of a generation. Paths are escaped and cut.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file that cannot be copied, or could not when the state was kept.
    #[error("{path} {why}")]
    Refused {
        /// Which.
        path: String,
        /// Why not.
        why: Refusal,
    },
    /// Written to, or replaced, each time it was read.
    #[error("{path} changed each time it was looked at; try again when nothing writes to it")]
    Changing {
        /// Which.
        path: String,
    },
    /// Somebody was faster.
    #[error("{path} was changed while it was put back, and is left as it is now; look at it, and try again")]
    ChangedMeanwhile {
        /// Which.
        path: String,
    },
    /// There is a change that nobody has looked at.
    #[error("the files are not in state {expected}, which was to be taken back, but in {found}: nothing was changed")]
    OtherState {
        /// What was to be replaced.
        expected: FilesId,
        /// What is there.
        found: FilesId,
    },
    /// Hale makes no directories.
    #[error(
        "{path} cannot be put back: its directory is gone, or is none; make it, with its owner and mode, and try again"
    )]
    NoDirectory {
        /// Which.
        path: String,
    },
    /// Somebody has put a directory in its place.
    #[error("{path} cannot be put back: a directory is in its place; move it away, and try again")]
    DirectoryInPlace {
        /// Which.
        path: String,
    },
    /// A link that root alone may lead.
    #[error(
        "{path} cannot be put back: it was a symbolic link, and its directory is in others' hands now; give it to root"
    )]
    LinkInOthersHands {
        /// Which.
        path: String,
    },
    /// A path that is not configured, or was not then.
    #[error("{path} is no file of state {id} and of the configuration; `hale generations` shows what belongs to it")]
    NotOfState {
        /// Which.
        path: String,
        /// Which state.
        id: FilesId,
    },
    /// No such state.
    #[error("state {0} of the files is not kept")]
    Missing(FilesId),
    /// The store's disk has lost something.
    #[error("state {id} of the files is damaged ({what}); look at the disk, and put the files back by hand")]
    Damaged {
        /// Which.
        id: FilesId,
        /// What of it.
        what: String,
    },
    /// Owner, mode or attributes cannot be had as they were.
    #[error(
        "{path} cannot be put back: the file system gives it another {what} than it had; is it mounted in another way?"
    )]
    NotTheSame {
        /// Which.
        path: String,
        /// What is different.
        what: &'static str,
    },
    /// The reserve of the state directory's disk.
    #[error(transparent)]
    NoRoom(StoreError),
    /// A disk is full, or a quota used up.
    #[error("cannot {what}: the disk is full ({source}); make space")]
    Full {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// Two would take each other's files away.
    #[error("the files of this service are in use by another process; is Hale running already?")]
    Busy,
    /// inotify has bounds for each user.
    #[error(
        "cannot watch the files: {source}; raise fs.inotify.max_user_instances and fs.inotify.max_user_watches (sysctl)"
    )]
    Watch {
        /// What the system said.
        source: io::Error,
    },
    /// Anything else that the system refused.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A path in a message: escaped, and cut where nobody reads on.
pub(super) fn named(path: &Path) -> String {
    shown(path.as_os_str().as_bytes())
}

/// What the system refused, told apart by whether the disk is full.
pub(super) fn io(what: impl Into<String>, source: impl Into<io::Error>) -> FilesError {
    let (what, source) = (what.into(), source.into());
    match Errno::from_io_error(&source) {
        Some(Errno::NOSPC | Errno::DQUOT) => FilesError::Full { what, source },
        _ => FilesError::Io { what, source },
    }
}
