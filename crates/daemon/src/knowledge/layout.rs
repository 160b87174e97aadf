//! Where the ledger's files are: `seg/00000000.jsonl`, `manifest.jsonl`, `quarantine/`, `ballast`.

use hale_ledger::SegmentId;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Files of the ledger: the group may read them (architecture: group `hale`), nobody else.
const FILE_MODE: u32 = 0o640;
const DIR_MODE: u32 = 0o750;

/// The ledger's directory.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn seg_dir(&self) -> PathBuf {
        self.root.join("seg")
    }

    pub(super) fn segment(&self, id: SegmentId) -> PathBuf {
        self.seg_dir().join(id.to_string())
    }

    pub(super) fn manifest(&self) -> PathBuf {
        self.root.join("manifest.jsonl")
    }

    pub(super) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    pub(super) fn ballast(&self) -> PathBuf {
        self.root.join("ballast")
    }

    /// Makes the directories that are missing.
    pub(super) fn make(&self) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(DIR_MODE).create(self.seg_dir())?;
        builder.create(self.quarantine())
    }

    /// The segments that exist, in their order. Other names in the directory are none of the ledger's business.
    pub(super) fn segments(&self) -> io::Result<Vec<SegmentId>> {
        let mut found = Vec::new();
        match std::fs::read_dir(self.seg_dir()) {
            Ok(entries) => {
                for entry in entries {
                    found.extend(entry?.file_name().to_str().and_then(SegmentId::from_file_name));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.root.is_dir() => {}
            Err(error) => return Err(error),
        }
        found.sort_unstable();
        Ok(found)
    }
}

/// Opens `path` for reading; `None` if it does not exist.
pub(super) fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens `path` for reading and writing, made if it is missing, with the mode whatever the umask says.
pub(super) fn open_or_create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(FILE_MODE).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

/// Makes the names in `dir` durable (fsync(2): syncing a file does not sync its directory entry).
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
