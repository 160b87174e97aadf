//! Why a release is refused, damaged, or cannot be written: each with what, where, why, and what to do.

use super::Id;
use super::files::FilesError;
use super::import::{DEPTH_MAX, ENTRIES_MAX, NAMES_BYTES_MAX, PATH_BYTES_MAX};
use super::manifest::escape;
use super::stream::WINDOW_BYTES_MAX;
use hale_core::ids::GenerationId;
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::time::Duration;

/// What went wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The files that belong to a service.
    #[error(transparent)]
    Files(Box<FilesError>),
    /// One entry of an archive, or one file of a directory, may not be in a release.
    #[error("{name} cannot be part of a release: {why}")]
    Entry {
        /// Its name, escaped.
        name: String,
        /// Why not.
        why: EntryFault,
    },
    /// The archive as a whole.
    #[error("the archive is refused: {0}")]
    Archive(ArchiveFault),
    /// The rest of the file system is not the releases' to use.
    #[error(
        "not enough space for {what}: {available_bytes} bytes and {available_files} files are available, {needed_bytes} bytes \
         are needed, and {reserve_bytes} bytes and {reserve_files} files have to stay free; remove old releases, or make space"
    )]
    NoRoom {
        /// What was to be written.
        what: String,
        /// What an unprivileged user could use.
        available_bytes: u64,
        /// The same in files.
        available_files: u64,
        /// How long it is.
        needed_bytes: u64,
        /// What has to stay free.
        reserve_bytes: u64,
        /// The same in files.
        reserve_files: u64,
    },
    /// The file system was filled by others meanwhile, or a quota is used up.
    #[error("cannot {what}: the disk is full ({source}); remove old releases, or make space")]
    Full {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The release is there and not what it was.
    #[error(
        "release {id} is damaged: {}; remove its directory by hand (releases/SERVICE/ID in Hale's state_dir), deploy it again, and where \
         it is quarantined for that, clear it (`hale quarantine clear`)", listed(drift, *more)
    )]
    Damaged {
        /// Which one.
        id: Id,
        /// What has changed, in the order of names; at most [`Drift::SHOWN_MAX`].
        drift: Vec<Drift>,
        /// How many more there are.
        more: usize,
    },
    /// No release has this id.
    #[error("there is no release {0} of this service; `hale generations` lists those that there are")]
    Missing(Id),
    /// It is in use.
    #[error("release {0} is the current one; switch to another one before it is removed")]
    IsCurrent(Id),
    /// Something else needs it: a way back, or a candidate.
    #[error("release {0} is still needed, as a way back or as a candidate; it can be removed once it is not")]
    IsPinned(Id),
    /// Not made by Hale.
    #[error("`current` {0}, which is nothing that Hale made; move it away by hand")]
    ForeignCurrent(String),
    /// It was switched, and a loss of power might undo it.
    #[error(
        "{id} is current now, but it is not certain that it stays so after a loss of power: {source}; check the disk"
    )]
    NotDurable {
        /// The new one.
        id: GenerationId,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody can tell whether it was switched.
    #[error("it is not known whether {id} is current now: {why}")]
    Unknown {
        /// What it was to be switched to.
        id: GenerationId,
        /// Why the store does not tell.
        why: Box<StoreError>,
    },
    /// It was looked at afterwards, and is not what was asked for.
    #[error("{id} did not become current, {} is: {why}", found.as_ref().map_or("nothing", GenerationId::as_str))]
    NotSwitched {
        /// What it was to be switched to.
        id: GenerationId,
        /// What is current.
        found: Option<GenerationId>,
        /// What the program said that was to switch.
        why: String,
    },
    /// What a generation says of its service's data cannot be used.
    #[error("{0}")]
    Notes(String),
    /// This store has no such ids.
    #[error("{id} cannot be a generation of this service: {why}")]
    NotAnId {
        /// What was given.
        id: GenerationId,
        /// What an id of this store is.
        why: String,
    },
    /// No generation has this id; for [`Missing`](Self::Missing) releases there is another text.
    #[error("{id} is not there: {why}")]
    NotThere {
        /// What was given.
        id: GenerationId,
        /// Who says so, and what to do.
        why: String,
    },
    /// Nix found other contents than it had put there.
    #[error("{id} is damaged{said}; repair it (nix-store --repair-path PATH) or deploy another one")]
    Altered {
        /// Which one.
        id: GenerationId,
        /// What Nix said, after `: `.
        said: String,
    },
    /// What is current was made by nobody that Hale knows.
    #[error("{what} {why}")]
    Foreign {
        /// What was looked at.
        what: String,
        /// What it is, and what to do.
        why: String,
    },
    /// A program of the store did not do its work.
    #[error("cannot {what}: {program} {fault}")]
    Program {
        /// What for.
        what: String,
        /// Which one.
        program: String,
        /// What it did instead.
        fault: ProgramFault,
    },
    /// Two would take each other's files away.
    #[error("the releases of this service are in use by another process; is Hale running already?")]
    Busy,
    /// Two would take each other's switches back.
    #[error("the profile {0} is in use by another service or process; give each service a profile of its own")]
    ProfileBusy(String),
    /// Something more urgent came while it was read.
    #[error("the reading was broken off for something more urgent; try again in a moment")]
    Stopped,
    /// Anything else that the system refused.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl From<FilesError> for StoreError {
    fn from(error: FilesError) -> Self {
        match error {
            FilesError::NoRoom(error) => error,
            error => Self::Files(Box::new(error)),
        }
    }
}

impl StoreError {
    pub(super) fn not_an_id(id: &GenerationId, why: impl Into<String>) -> Self {
        Self::NotAnId { id: id.clone(), why: why.into() }
    }
}

/// How a program failed. `Display` follows its name; what it said is escaped and bounded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgramFault {
    /// It is nowhere.
    #[error("is not in {searched}; install it, or start Hale with a PATH that has it")]
    NotFound {
        /// Where it was looked for.
        searched: String,
    },
    /// The system did not start it.
    #[error("could not be started: {0}")]
    NotStarted(String),
    /// It was killed at its bound.
    #[error("did not end within {} s and was killed{said}", within.as_secs_f64())]
    Hung {
        /// The bound.
        within: Duration,
        /// The end of what it had written, after `: `.
        said: String,
    },
    /// It was killed for it.
    #[error("wrote more than {max_bytes} bytes and was killed")]
    TooMuch {
        /// The bound.
        max_bytes: usize,
    },
    /// Its exit status says so.
    #[error("failed ({status}){said}")]
    Failed {
        /// Its exit code or its signal.
        status: String,
        /// The end of what it wrote, after `: `.
        said: String,
    },
    /// What it wrote is no answer.
    #[error("wrote what is no answer: {0}")]
    Rubbish(String),
}

/// Why one entry cannot be part of a release. `Display` follows its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// `/etc/passwd`.
    #[error("its name is absolute; make the archive from inside of its directory (tar -C DIR -c .)")]
    Absolute,
    /// `../x`.
    #[error("its name goes upwards by `..`; make the archive from inside of its directory (tar -C DIR -c .)")]
    Upwards,
    /// No name, or `.` for something that is no directory.
    #[error("it has no name; make the archive anew")]
    NoName,
    /// A NUL in a name or in a link's target.
    #[error("its name or its target contains a NUL, which no file can have; make the archive anew")]
    Nul,
    /// Longer than the kernel takes.
    #[error(
        "its name or its target is too long: a path has less than {PATH_BYTES_MAX} bytes, each part of it at most 255; shorten it"
    )]
    TooLong,
    /// Below too many directories.
    #[error("it lies below more than {DEPTH_MAX} directories; make the tree flatter")]
    TooDeep,
    /// A device, fifo or socket.
    #[error("it is a {0}, and a release consists of files, directories and symbolic links; leave it out")]
    Special(&'static str),
    /// Something of tar that is none of these.
    #[error("it is of tar's kind {0:?}, and a release consists of files, directories and symbolic links; leave it out")]
    UnknownKind(char),
    /// A file with holes, as GNU tar writes them.
    #[error("it is a sparse file, of which archives have several forms; make the archive without --sparse")]
    Sparse,
    /// A file that gives rights.
    #[error(
        "it has a set-user-id, set-group-id or sticky bit, and a release gives nobody rights; take it away (chmod a-st)"
    )]
    SetId,
    /// A hard link to nothing that is there.
    #[error(
        "it is a hard link to {0}, which is no earlier file of this archive; make the archive of the whole directory"
    )]
    HardLink(String),
    /// A second one.
    #[error("it is in the archive twice; leave one of them out")]
    Twice,
    /// Something above it is no directory.
    #[error(
        "it lies below {0}, which is a symbolic link or a file; make the archive of one directory, without following links"
    )]
    BelowOther(String),
    /// A symbolic link that leads out.
    #[error("it is a symbolic link that leaves the release, to {0}; make it relative and let it point inside")]
    Leaves(String),
    /// The reader would have to believe one of two.
    #[error("its header is not clear: {0}; make the archive anew with GNU tar, bsdtar or `hale deploy`")]
    Unclear(&'static str),
    /// It was written to while it was read.
    #[error("it changed while it was read; try again when nothing writes to it")]
    Changing,
}

/// Why a whole archive is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveFault {
    /// Not even its first header.
    #[error("it is neither a tar nor one that gzip or zstd has compressed; deploy a directory or such a file")]
    NotATar,
    /// A header in the middle.
    #[error("the header after {0} entries is damaged; send it again, or make it anew")]
    BadHeader(usize),
    /// It ends too early.
    #[error("it ends in the middle; send it again, or make it anew")]
    Truncated,
    /// Something behind its end.
    #[error("something follows after its end; make it anew, as one archive")]
    Trailing,
    /// The compressed stream.
    #[error("it cannot be decompressed ({0}); send it again, or make it anew")]
    Compression(String),
    /// zstd with a memory that is too long.
    #[error(
        "zstd needs {requested_bytes} bytes of memory to unpack it, at most {WINDOW_BYTES_MAX} are given; compress it without \
         --long and --ultra"
    )]
    Window {
        /// What it says it needs.
        requested_bytes: u64,
    },
    /// Larger than the caller allows.
    #[error(
        "it is unpacked larger than {max_bytes} bytes, the limit of a release; leave out what the service does not need"
    )]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
    /// Too many entries.
    #[error("it has more than {ENTRIES_MAX} entries; leave out what the service does not need")]
    TooMany,
    /// All names together.
    #[error(
        "the names in it are together longer than {NAMES_BYTES_MAX} bytes; leave out what the service does not need"
    )]
    NamesTooLong,
    /// Nothing.
    #[error("it contains nothing; is it of the right directory?")]
    Empty,
}

/// One thing in which a release is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// Where, escaped; `.` for the release itself.
    pub name: String,
    /// What has become of it.
    pub change: Change,
}

/// What has become of a file, directory or link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It is gone.
    Missing,
    /// It was not there.
    Extra,
    /// Other bytes, or another kind of thing.
    Content,
    /// Other permissions.
    Mode,
    /// A link that leads elsewhere.
    Target,
    /// The tree has another id, and its manifest is gone or damaged too, so it cannot be said what has changed.
    Unknown,
}

impl Drift {
    /// How many are named; a person reads no more, and a service's disk may have lost all.
    pub const SHOWN_MAX: usize = 20;

    pub(super) fn new(path: &[u8], change: Change) -> Self {
        let name = if path.is_empty() { ".".to_owned() } else { shown(path) };
        Self { name, change }
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.change {
            Change::Missing => "is missing",
            Change::Extra => "was not there",
            Change::Content => "has another content",
            Change::Mode => "has other permissions",
            Change::Target => "leads elsewhere",
            Change::Unknown => "is not what it was, and its manifest is gone too",
        };
        write!(f, "{} {what}", self.name)
    }
}

fn listed(drift: &[Drift], more: usize) -> String {
    let mut text: Vec<String> = drift.iter().map(Drift::to_string).collect();
    if more > 0 {
        text.push(format!("{more} more"));
    }
    text.join(", ")
}

/// A name in a message: escaped, and cut where nobody reads on.
pub(super) fn shown(path: &[u8]) -> String {
    const SHOWN_BYTES: usize = 200;
    let mut name = escape(path);
    if name.len() > SHOWN_BYTES {
        name.truncate(SHOWN_BYTES);
        name.push('…');
    }
    name
}

/// A release as a generation.
pub(super) fn name_of(id: Id) -> GenerationId {
    GenerationId::from(id.0)
}

pub(super) fn entry(path: &[u8], why: EntryFault) -> StoreError {
    StoreError::Entry { name: shown(path), why }
}

/// What the system refused, told apart by whether the disk is full.
pub(super) fn io(what: impl Into<String>, source: impl Into<io::Error>) -> StoreError {
    let (what, source) = (what.into(), source.into());
    match Errno::from_io_error(&source) {
        Some(Errno::NOSPC | Errno::DQUOT) => StoreError::Full { what, source },
        _ => StoreError::Io { what, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_messages_are_harmless_and_short() {
        assert_eq!(shown(b"a b\n\x1b[2J%\xff"), "a%20b%0A%1B[2J%25%FF");
        let long = entry(&[b'x'; 5000], EntryFault::Twice).to_string();
        assert!(long.len() < 300 && long.ends_with("leave one of them out"), "{long}");
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        assert!(matches!(io("write", Errno::NOSPC), StoreError::Full { .. }));
        assert!(matches!(io("write", Errno::DQUOT), StoreError::Full { .. }));
        assert!(matches!(io("write", Errno::IO), StoreError::Io { .. }));
    }

    #[test]
    fn damage_is_named_one_by_one() {
        let drift = vec![Drift::new(b"bin/a b", Change::Content), Drift::new(b"", Change::Mode)];
        let error = StoreError::Damaged { id: Id::ZERO, drift, more: 3 };
        let said = "bin/a%20b has another content, . has other permissions, 3 more; remove ";
        assert!(error.to_string().starts_with(&format!("release {} is damaged: {said}", Id::ZERO)), "{error}");
    }
}
