//! Finds the file that a command's first word means.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Why no program was found.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Nowhere.
    #[error("no executable {word:?} in {searched}: name it with its path, or correct PATH of Hale's environment")]
    NotFound {
        /// The word.
        word: String,
        /// Where it was looked for.
        searched: String,
    },
    /// It cannot be a path.
    #[error("{0:?} contains a NUL byte")]
    Nul(PathBuf),
}

/// The file to execute: a word without a slash is searched in PATH of Hale's own environment, then beside Hale's own
/// binary; a relative path is below `directory`.
///
/// # Errors
/// [`ResolveError`].
pub fn resolve(word: &str, directory: &str) -> Result<CString, ResolveError> {
    let path = if word.contains('/') { Path::new(directory).join(word) } else { search(word)? };
    CString::new(path.as_os_str().as_bytes()).map_err(|_| ResolveError::Nul(path.clone()))
}

fn search(word: &str) -> Result<PathBuf, ResolveError> {
    let mut places: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    places.extend(std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned)));
    let executable = |path: &PathBuf| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    let found = places.iter().filter(|place| place.is_absolute()).map(|place| place.join(word)).find(executable);
    found.ok_or_else(|| ResolveError::NotFound {
        word: word.to_owned(),
        searched: places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(":"),
    })
}
