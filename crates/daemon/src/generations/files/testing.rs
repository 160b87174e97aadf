//! For the tests of a generation's files: a directory with a store, and files beside it.

use super::{Files, FilesError, FilesId, Redactor};
use hale_core::ids::Name;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub(super) struct Place(pub(super) tempfile::TempDir);

impl Place {
    pub(super) fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.fill();
        place
    }

    pub(super) fn fill(&self) {
        for dir in ["state", "etc"] {
            fs::create_dir(self.at(dir)).unwrap();
        }
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
    }

    pub(super) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap()
    }

    pub(super) fn open<const N: usize>(&self, names: [&str; N]) -> Files {
        self.try_open(names).unwrap()
    }

    pub(super) fn try_open<const N: usize>(&self, names: [&str; N]) -> Result<Files, FilesError> {
        let paths = names.map(|name| self.at(name));
        Files::open(&self.at("state"), &Name::try_from("bot").unwrap(), paths, None, 0)
    }

    /// All names below a directory, sorted.
    pub(super) fn names(&self, dir: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.at(dir))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[track_caller]
pub(super) fn kept(files: &Files) -> FilesId {
    files.snapshot().unwrap().whole().unwrap()
}

pub(super) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What is different, without the directory's own name.
pub(super) fn told(files: &Files, from: FilesId, to: FilesId) -> Vec<String> {
    let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
    let changes = files.changes(from, to, &Redactor::default()).unwrap();
    let what = |change: super::FileChange| {
        change.what.into_iter().map(move |what| format!("{} {what}", name(&change.path))).collect::<Vec<_>>()
    };
    changes.into_iter().flat_map(what).collect()
}

pub(super) use crate::generations::testing::{OWN_MOUNTS, inside};

pub(super) const ORDINARY_USER: &[&str] =
    &["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", "--no-new-privs"];
