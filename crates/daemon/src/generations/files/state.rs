//! The state of all files of a service, in one canonical text, whose SHA-256 names it.
//!
//! ```text
//! hale-files 1
//! path /etc/bot/bot.toml
//! link bot.d/prod.toml
//! file 640 0 1000 5120 <sha-256>
//! xattr user.note by%20hand
//! path /etc/bot/local.toml
//! absent
//! path /srv/bot/current.toml
//! refused link
//! ```
//!
//! One block for each configured path, in the order of the bytes of their paths. Times are not in it.

use super::FilesId;
use crate::generations::error::shown;
use crate::generations::manifest::{escape, unescape};
use hale_ledger::Hash;
use std::collections::BTreeMap;

/// The first line: the version of the rules by which an id comes about.
const FIRST: &str = "hale-files 1\n";

/// All files, by their configured paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State(pub(super) BTreeMap<Vec<u8>, Entry>);

/// One configured path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Targets of the links that the path is, one leading to the next.
    pub(super) links: Vec<Vec<u8>>,
    /// What is at the end of them.
    pub(super) node: Node,
}

/// What is in the place of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Absent,
    File(Meta),
    Refused(Refusal),
}

/// A file, but for its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meta {
    /// Permissions alone.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) hash: Hash,
    /// ACLs of POSIX and security labels among them, as the kernel has them.
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Why a file is not copied. `Display` follows its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// A symbolic link, or below one, that others than root can lead elsewhere.
    #[error(
        "leads through a symbolic link that others than root can change, and is not followed; name the path it leads to"
    )]
    Link,
    /// A loop of links.
    #[error("leads through too many symbolic links; name the path that is meant")]
    TooManyLinks,
    /// A directory, pipe, device or socket.
    #[error("is no regular file; name a file")]
    NotAFile,
    /// Another name, by which others could have got hold of somebody else's file.
    #[error(
        "has more than one name (hard links) in a directory that others than root can change; copy it (cp) and replace it"
    )]
    HardLinks,
    /// Set-user-id or set-group-id.
    #[error("has a set-user-id or set-group-id bit, and configuration gives nobody rights; take it away (chmod a-s)")]
    SetId,
    /// `security.capability`.
    #[error("has file capabilities, and configuration gives nobody rights; take them away (setcap -r)")]
    Capability,
    /// See [`FILE_BYTES_MAX`](super::FILE_BYTES_MAX).
    #[error("is larger than {} bytes, and data is no configuration; leave it out of `files`", super::FILE_BYTES_MAX)]
    TooLarge,
    /// See [`ALL_BYTES_MAX`](super::ALL_BYTES_MAX).
    #[error(
        "is, with the `files` before it, larger than {} bytes; leave large ones out of `files`",
        super::ALL_BYTES_MAX
    )]
    AllTooLarge,
    /// More extended attributes than any program sets.
    #[error(
        "has more than {} bytes of extended attributes; take some away (setfattr -x)",
        super::look::XATTRS_BYTES_MAX
    )]
    Xattrs,
    /// Not by Hale, or, where a directory is in others' hands, not by its owner.
    #[error(
        "may not be read by Hale, or not by the owner of its directory, with whose rights it is read; give that owner the right"
    )]
    NotReadable,
}

impl Refusal {
    const ALL: [(Self, &str); 10] = [
        (Self::Link, "link"),
        (Self::TooManyLinks, "links"),
        (Self::NotAFile, "kind"),
        (Self::HardLinks, "names"),
        (Self::SetId, "set-id"),
        (Self::Capability, "capability"),
        (Self::TooLarge, "size"),
        (Self::AllTooLarge, "sizes"),
        (Self::Xattrs, "xattrs"),
        (Self::NotReadable, "rights"),
    ];

    /// Its word in a state's text.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(refusal, _)| *refusal == self).map_or("", |(_, word)| word)
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == word).map(|(refusal, _)| *refusal)
    }
}

impl State {
    pub(super) fn id(&self) -> FilesId {
        FilesId(Hash::of(self.to_text().as_bytes()))
    }

    /// Paths, escaped, of what could not be copied.
    pub(super) fn refused(&self) -> Vec<(String, Refusal)> {
        let refusal = |(path, entry): (&Vec<u8>, &Entry)| match entry.node {
            Node::Refused(why) => Some((shown(path), why)),
            Node::Absent | Node::File(_) => None,
        };
        self.0.iter().filter_map(refusal).collect()
    }

    /// Its contents.
    pub(super) fn contents(&self) -> impl Iterator<Item = Hash> {
        self.0.values().filter_map(|entry| match &entry.node {
            Node::File(meta) => Some(meta.hash),
            Node::Absent | Node::Refused(_) => None,
        })
    }

    pub(super) fn to_text(&self) -> String {
        let mut text = FIRST.to_owned();
        for (path, Entry { links, node }) in &self.0 {
            text.push_str(&format!("path {}\n", escape(path)));
            for target in links {
                text.push_str(&format!("link {}\n", escape(target)));
            }
            match node {
                Node::Absent => text.push_str("absent\n"),
                Node::Refused(why) => text.push_str(&format!("refused {}\n", why.word())),
                Node::File(Meta { mode, uid, gid, size, hash, xattrs }) => {
                    text.push_str(&format!("file {mode:o} {uid} {gid} {size} {hash}\n"));
                    for (name, value) in xattrs {
                        text.push_str(&format!("xattr {} {}\n", escape(name), escape(value)));
                    }
                }
            }
        }
        text
    }

    /// Reads what [`Self::to_text`] wrote; `None` for anything else.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let mut state = Self::default();
        let mut lines = text.strip_prefix(FIRST)?.lines().peekable();
        while let Some(line) = lines.next() {
            let path = unescape(line.strip_prefix("path ")?)?;
            let mut links = Vec::new();
            let mut line = lines.next()?;
            while let Some(target) = line.strip_prefix("link ") {
                links.push(unescape(target)?);
                line = lines.next()?;
            }
            let words: Vec<&str> = line.split(' ').collect();
            let node = match words[..] {
                ["absent"] => Node::Absent,
                ["refused", word] => Node::Refused(Refusal::from_word(word)?),
                ["file", mode, uid, gid, size, hash] => {
                    let mode = u32::from_str_radix(mode, 8).ok()?;
                    let (uid, gid, size) = (uid.parse().ok()?, gid.parse().ok()?, size.parse().ok()?);
                    let mut xattrs = BTreeMap::new();
                    while let Some(xattr) = lines.peek().and_then(|line| line.strip_prefix("xattr ")) {
                        let (name, value) = xattr.split_once(' ')?;
                        xattrs.insert(unescape(name)?, unescape(value)?);
                        lines.next();
                    }
                    Node::File(Meta { mode, uid, gid, size, hash: hash.parse().ok()?, xattrs })
                }
                _ => return None,
            };
            state.0.insert(path, Entry { links, node });
        }
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        vec(1u8.., 1..20)
    }

    fn node() -> impl Strategy<Value = Node> {
        let xattrs = btree_map(bytes(), vec(any::<u8>(), 0..9), 0..3);
        let file = (0..=0o1777u32, any::<[u32; 2]>(), any::<u64>(), any::<[u8; 32]>(), xattrs);
        prop_oneof![
            Just(Node::Absent),
            proptest::sample::select(Refusal::ALL.to_vec()).prop_map(|(why, _)| Node::Refused(why)),
            file.prop_map(|(mode, [uid, gid], size, hash, xattrs)| {
                Node::File(Meta { mode, uid, gid, size, hash: Hash(hash), xattrs })
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_text_is_read_as_what_was_written(
            entries in btree_map(bytes(), (vec(bytes(), 0..3), node()), 0..9),
        ) {
            let entries = entries.into_iter().map(|(path, (links, node))| (path, Entry { links, node }));
            let state = State(entries.collect());
            let text = state.to_text();
            prop_assert!(text.chars().all(|c| c.is_ascii_graphic() || c == ' ' || c == '\n'));
            prop_assert_eq!(State::from_text(&text), Some(state));
        }
    }

    /// An id that changes makes every state that is kept another one.
    #[test]
    fn the_text_is_this_one() {
        let hash = Hash::of(b"x");
        let xattrs = BTreeMap::from([(b"user.note".to_vec(), b"by hand".to_vec())]);
        let file = Node::File(Meta { mode: 0o640, uid: 0, gid: 1000, size: 1, hash, xattrs });
        let entries = [
            ("/etc/bot.toml", Entry { links: vec![b"bot.d/prod".to_vec()], node: file }),
            ("/etc/local", Entry { links: vec![], node: Node::Absent }),
            ("/srv/a", Entry { links: vec![], node: Node::Refused(Refusal::Link) }),
        ];
        let state = State(entries.map(|(path, entry)| (path.as_bytes().to_vec(), entry)).into());
        let text = format!(
            "hale-files 1\npath /etc/bot.toml\nlink bot.d/prod\nfile 640 0 1000 1 {hash}\nxattr user.note by%20hand\n\
             path /etc/local\nabsent\npath /srv/a\nrefused link\n"
        );
        assert_eq!(state.to_text(), text);
        assert_eq!(state.id(), FilesId(Hash::of(text.as_bytes())));
        let none = [
            "",
            "hale-files 2\n",
            "hale-files 1\nabsent\n",
            "hale-files 1\npath /a\n",
            "hale-files 1\npath /a\nrefused x\n",
        ];
        for text in none {
            assert_eq!(State::from_text(text), None, "{text:?}");
        }
    }
}
