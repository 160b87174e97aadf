//! The user database, as the C library reads it (getpwnam_r(3), getgrouplist(3)).

use std::ffi::{CStr, CString};
use std::io;
use std::mem;
use std::ptr;

/// The longest entry of a user that is read, in bytes: names and paths of some hundred bytes each.
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// The most groups that a user can be in: the kernel's `NGROUPS_MAX` (limits.h).
const GROUPS_MAX: usize = 65_536;

/// An entry of the user database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Id of the primary group.
    pub gid: u32,
    /// Home directory.
    pub home: CString,
    /// Login shell.
    pub shell: CString,
}

/// The user called `name`; `None` when there is none. May block for as long as the database likes, where it is not a
/// file.
///
/// # Errors
///
/// The database cannot be read.
pub fn user(name: &CStr) -> io::Result<Option<User>> {
    let mut bytes = 1 << 10;
    loop {
        let mut strings: Vec<libc::c_char> = vec![0; bytes];
        // SAFETY: passwd is plain data with pointers, for which all zeroes are a valid value.
        let mut entry: libc::passwd = unsafe { mem::zeroed() };
        let mut found: *mut libc::passwd = ptr::null_mut();
        // SAFETY: all pointers are to live, writable memory of the sizes given, and `name` ends with a null byte.
        let errno = unsafe {
            libc::getpwnam_r(name.as_ptr(), &raw mut entry, strings.as_mut_ptr(), strings.len(), &raw mut found)
        };
        match errno {
            0 if found.is_null() => return Ok(None),
            0 => {
                // SAFETY: after success the entry's strings are in `strings`, which is still alive, and end with a
                // null byte; a field that the database does not have is null.
                let text = |text: *const libc::c_char| unsafe {
                    if text.is_null() { CString::default() } else { CStr::from_ptr(text).to_owned() }
                };
                let (home, shell) = (text(entry.pw_dir), text(entry.pw_shell));
                return Ok(Some(User { uid: entry.pw_uid, gid: entry.pw_gid, home, shell }));
            }
            libc::ERANGE if bytes < ENTRY_BYTES_MAX => bytes *= 2,
            libc::EINTR => {}
            // getpwnam(3): databases say "not found" in these ways too.
            libc::ENOENT | libc::ESRCH => return Ok(None),
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// All groups that the user called `name` is in, `primary` among them. May block like [`user`].
///
/// # Errors
///
/// They are more than the kernel can hold.
pub fn groups(name: &CStr, primary: u32) -> io::Result<Vec<u32>> {
    let mut room = 64;
    loop {
        let mut groups: Vec<libc::gid_t> = vec![0; room];
        let mut count = libc::c_int::try_from(room).map_err(io::Error::other)?;
        // SAFETY: `groups` has room for `count` entries, and `name` ends with a null byte.
        let result = unsafe { libc::getgrouplist(name.as_ptr(), primary, groups.as_mut_ptr(), &raw mut count) };
        if result >= 0 {
            groups.truncate(usize::try_from(count).unwrap_or(0));
            return Ok(groups);
        }
        if room >= GROUPS_MAX {
            return Err(io::Error::other(format!("it is in more than {GROUPS_MAX} groups")));
        }
        room *= 4;
    }
}
