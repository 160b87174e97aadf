//! Names of users and groups as `/etc/passwd` and `/etc/group` have them (passwd(5), group(5)).
//!
//! Only for what an operator sees and for Hale's own two groups: those are local. A name that a directory service
//! knows is not found here; then the number has to do.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// More than any such file has that a person keeps; what follows is not read.
const FILE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The name of the user `uid`.
pub fn user_name(uid: u32) -> Option<String> {
    name_of(&read(Path::new("/etc/passwd")).ok()?, uid)
}

/// The number of the group `name`.
pub fn group_id(name: &str) -> Option<u32> {
    id_of(&read(Path::new("/etc/group")).ok()?, name)
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = Vec::new();
    File::open(path)?.take(FILE_MAX_BYTES).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Both files have the name first and the number third.
fn entries(text: &str) -> impl Iterator<Item = (&str, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        Some((name, fields.nth(1)?.parse().ok()?))
    })
}

fn name_of(text: &str, id: u32) -> Option<String> {
    entries(text).find(|&(_, found)| found == id).map(|(name, _)| name.to_owned())
}

fn id_of(text: &str, name: &str) -> Option<u32> {
    entries(text).find(|&(found, _)| found == name).map(|(_, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &str = "root:x:0:\n# no entry\n:x:7:\nhale-admin:x:998:ann\nhale:x:999:ann,bob\nbroken:x:many:\n";

    #[test]
    fn entries_are_found_by_their_whole_name() {
        assert_eq!(id_of(GROUP, "hale"), Some(999));
        assert_eq!(id_of(GROUP, "hale-admin"), Some(998));
        assert_eq!(id_of(GROUP, ""), None);
        assert_eq!(id_of(GROUP, "broken"), None);
        assert_eq!(name_of(GROUP, 0).as_deref(), Some("root"));
        assert_eq!(name_of(GROUP, 7), None);
    }
}
