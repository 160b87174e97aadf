//! Users by name: who a service or a probe runs as.

use crate::sys::users;
use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A user with all that a process needs to become that user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name by which it was looked up.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Id of the primary group.
    pub gid: u32,
    /// All groups, the primary one among them.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
}

/// Why a user is not known. `Display` follows the user's name and a colon.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// Nobody has this name.
    #[error("there is no such user on this machine (getent passwd {0} finds none): make one, or correct `user`")]
    Unknown(String),
    /// It cannot be told.
    #[error("cannot be looked up: {0}")]
    Io(#[source] io::Error),
}

/// Looks the user up, with its groups. May block where the database is not a file: not for the loop's thread.
///
/// A statically linked Hale reads `/etc/passwd` and `/etc/group` only: its C library has no modules for others
/// (nsswitch.conf(5)).
///
/// # Errors
///
/// There is no such user, or it cannot be told.
pub fn lookup(name: &str) -> Result<Identity, LookupError> {
    let unknown = || LookupError::Unknown(name.to_owned());
    let c_name = CString::new(name).map_err(|_| unknown())?;
    let user = users::user(&c_name).map_err(LookupError::Io)?.ok_or_else(unknown)?;
    let groups = users::groups(&c_name, user.gid).map_err(LookupError::Io)?;
    let path = |text: CString| PathBuf::from(OsString::from_vec(text.into_bytes()));
    let (home, shell) = (path(user.home), path(user.shell));
    Ok(Identity { name: name.to_owned(), uid: user.uid, gid: user.gid, groups, home, shell })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn root_is_found_with_its_groups() {
        let root = lookup("root").unwrap();
        assert_eq!((root.uid, root.gid, root.home.as_path()), (0, 0, Path::new("/root")));
        assert!(root.groups.contains(&0));
    }

    #[test]
    fn a_name_that_nobody_has_is_named() {
        for name in ["nobody-of-this-name", "", "nul\0byte"] {
            assert!(matches!(lookup(name), Err(LookupError::Unknown(unknown)) if unknown == name), "{name:?}");
        }
    }
}
