//! Which file a command means.

use hale_core::policy::ServicePolicy;
use rustix::fs::{FileType, stat};
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Where programs are when nobody says: also the `PATH` of a service when Hale itself has none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why there is no program. `Display` follows its name and a colon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// Nowhere.
    #[error(
        "not found in {searched} (Hale's PATH, then beside Hale itself): install it, or write its path, with a slash"
    )]
    NotFound {
        /// The directories, separated by colons.
        searched: String,
    },
    /// It is there, but nobody may execute it.
    #[error("{} may not be executed: chmod +x it, or write the path of another one", .0.display())]
    NotExecutable(PathBuf),
    /// A path cannot contain it.
    #[error("the name contains a NUL character")]
    Nul,
}

/// The absolute path of the program that the first word of a command means; also its `argv[0]`.
///
/// - `/usr/bin/python3`: as it is.
/// - `bin/bot`, `./bot`: below `directory`, which is absolute.
/// - `python3`: the first executable file of that name in a directory of Hale's own `PATH`, then in the directory of
///   Hale's own program. Relative and empty entries of `PATH` are left out: they would depend on where Hale was started.
///
/// Symbolic links in the path stay, because programs look at the name by which they were called. That the file exists
/// is only looked at where one is searched for: otherwise execve(2) tells more exactly.
///
/// # Errors
///
/// See [`ProgramError`].
pub fn resolve(word: &str, directory: &str) -> Result<CString, ProgramError> {
    if word.contains('/') {
        // Without the `.` of `./bot`.
        return c_path(Path::new(directory).join(word).components().collect());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let own = std::env::current_exe().ok().and_then(|file| file.parent().map(Path::to_owned));
    search(word, &path, own)
}

/// From where a relative program of a service is taken, and where it runs: in the directory of its generation, where it has one, and
/// in the configured one.
#[must_use]
pub fn places<'a>(policy: &'a ServicePolicy, root: Option<&'a Path>) -> (&'a str, &'a str) {
    // Both ways in which generations are named are ASCII, and the state directory is text in the configuration.
    let root = root.and_then(Path::to_str);
    let directory = policy.directory.as_deref().or(root).unwrap_or("/");
    (root.unwrap_or(directory), directory)
}

fn search(word: &str, path: &OsStr, own: Option<PathBuf>) -> Result<CString, ProgramError> {
    let directories: Vec<PathBuf> = std::env::split_paths(path).filter(|dir| dir.is_absolute()).chain(own).collect();
    let mut refused = None;
    for candidate in directories.iter().map(|directory| directory.join(word)) {
        // A word with NUL is no file either.
        let Ok(found) = stat(&candidate) else { continue };
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            continue;
        }
        if found.st_mode & 0o111 != 0 {
            return c_path(candidate);
        }
        refused = refused.or(Some(candidate));
    }
    if word.contains('\0') {
        return Err(ProgramError::Nul);
    }
    let searched = std::env::join_paths(&directories).unwrap_or_default().to_string_lossy().into_owned();
    Err(refused.map_or(ProgramError::NotFound { searched }, ProgramError::NotExecutable))
}

fn c_path(path: PathBuf) -> Result<CString, ProgramError> {
    CString::new(OsString::from(path).into_vec()).map_err(|_| ProgramError::Nul)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn file(path: &Path, mode: u32) {
        fs::write(path, "").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_word_with_a_slash_is_a_path() {
        let at = |word| resolve(word, "/srv/bot").unwrap();
        assert_eq!(at("/opt/x/run").as_c_str(), c"/opt/x/run");
        assert_eq!(at("bin/bot").as_c_str(), c"/srv/bot/bin/bot");
        assert_eq!(at("./bot").as_c_str(), c"/srv/bot/bot");
        assert_eq!(at("../other/bot").as_c_str(), c"/srv/bot/../other/bot");
    }

    #[test]
    fn the_first_executable_file_in_path_is_taken_and_hales_own_directory_comes_last() {
        let home = tempfile::tempdir().unwrap();
        let dir = |name: &str| {
            let path = home.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (first, second, own) = (dir("first"), dir("second"), dir("own"));
        file(&first.join("bot"), 0o644);
        file(&second.join("bot"), 0o755);
        file(&own.join("bot"), 0o755);
        file(&own.join("only-own"), 0o755);
        fs::create_dir(first.join("only-own")).unwrap();
        let path = std::env::join_paths([&first, &second]).unwrap();
        let find = |word| search(word, &path, Some(own.clone()));
        let expected = |path: PathBuf| c_path(path).unwrap();
        assert_eq!(find("bot"), Ok(expected(second.join("bot"))));
        assert_eq!(find("only-own"), Ok(expected(own.join("only-own"))));
    }

    #[test]
    fn an_error_says_where_was_searched() {
        let home = tempfile::tempdir().unwrap();
        let find = |word| search(word, home.path().as_os_str(), Some("/nowhere".into()));
        let text = find("no-such-bot").unwrap_err().to_string();
        assert!(text.contains(&format!("{}:/nowhere", home.path().display())), "{text}");
        file(&home.path().join("plain"), 0o644);
        assert_eq!(find("plain"), Err(ProgramError::NotExecutable(home.path().join("plain"))));
        assert_eq!(find("a\0b"), Err(ProgramError::Nul));
    }

    #[test]
    fn relative_entries_of_path_are_left_out() {
        let found = search("src", OsStr::new(":.:relative"), None);
        assert_eq!(found, Err(ProgramError::NotFound { searched: String::new() }));
    }
}
