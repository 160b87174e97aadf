//! What a release consists of, in one canonical text, whose SHA-256 names the release.
//!
//! ```text
//! hale-release 1
//! dir bin
//! file x 5120 <sha-256> bin/bot
//! file - 17 <sha-256> etc/bot%20config
//! link bin/start bot
//! ```
//!
//! One line for each thing below the release's root, in the order of the bytes of their paths. Owners, times and write bits
//! are not in it: the same content is the same release, whoever made it.

use super::Id;
use super::error::{Change, Drift};
use std::collections::BTreeMap;

/// The first line: the version of the rules by which an id comes about.
const FIRST: &str = "hale-release 1\n";

/// All of a release, by path.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest(pub(super) BTreeMap<Vec<u8>, Node>);

/// One thing in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    File { executable: bool, size: u64, hash: Id },
    Link { target: Vec<u8> },
}

impl Manifest {
    pub(super) fn id(&self) -> Id {
        Id::of(self.to_text().as_bytes())
    }

    pub(super) fn to_text(&self) -> String {
        let mut text = FIRST.to_owned();
        for (path, node) in &self.0 {
            let path = escape(path);
            text.push_str(&match node {
                Node::Dir => format!("dir {path}\n"),
                Node::File { executable, size, hash } => {
                    format!("file {} {size} {hash} {path}\n", if *executable { 'x' } else { '-' })
                }
                Node::Link { target } => format!("link {path} {}\n", escape(target)),
            });
        }
        text
    }

    /// Reads what [`Self::to_text`] wrote; `None` for anything else.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let mut nodes = BTreeMap::new();
        for line in text.strip_prefix(FIRST)?.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let (path, node) = match words[..] {
                ["dir", path] => (path, Node::Dir),
                ["file", executable @ ("x" | "-"), size, hash, path] => {
                    let (size, hash) = (size.parse().ok()?, hash.parse().ok()?);
                    (path, Node::File { executable: executable == "x", size, hash })
                }
                ["link", path, target] => (path, Node::Link { target: unescape(target)? }),
                _ => return None,
            };
            nodes.insert(unescape(path)?, node);
        }
        Some(Self(nodes))
    }

    /// In what `found` is another one than `self`.
    pub(super) fn changes(&self, found: &Self) -> Vec<Drift> {
        let mut changes = Vec::new();
        for (path, node) in &self.0 {
            let change = match (node, found.0.get(path)) {
                (_, None) => Change::Missing,
                (node, Some(other)) if node == other => continue,
                (Node::Link { .. }, Some(Node::Link { .. })) => Change::Target,
                (Node::File { size, hash, .. }, Some(Node::File { size: other_size, hash: other_hash, .. }))
                    if (size, hash) == (other_size, other_hash) =>
                {
                    Change::Mode
                }
                _ => Change::Content,
            };
            changes.push(Drift::new(path, change));
        }
        let extra = found.0.keys().filter(|path| !self.0.contains_key(*path));
        changes.extend(extra.map(|path| Drift::new(path, Change::Extra)));
        changes
    }
}

/// Percent-encoding of everything but the graphic characters of ASCII, and of `%`: one spelling for each sequence of bytes.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_graphic() && byte != b'%' {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

pub(super) fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend(parts.next()?.bytes());
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend(part[2..].bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node() -> impl Strategy<Value = Node> {
        prop_oneof![
            Just(Node::Dir),
            (any::<bool>(), any::<u64>(), any::<[u8; 32]>()).prop_map(|(executable, size, hash)| Node::File {
                executable,
                size,
                hash: hale_ledger::Hash(hash)
            }),
            proptest::collection::vec(1u8.., 1..20).prop_map(|target| Node::Link { target }),
        ]
    }

    proptest! {
        #[test]
        fn a_text_is_read_as_what_was_written(
            nodes in proptest::collection::btree_map(proptest::collection::vec(1u8.., 1..20), node(), 0..20),
        ) {
            let manifest = Manifest(nodes);
            let text = manifest.to_text();
            prop_assert!(text.chars().all(|c| c.is_ascii_graphic() || c == ' ' || c == '\n'));
            prop_assert_eq!(text.lines().count(), manifest.0.len() + 1);
            prop_assert_eq!(Manifest::from_text(&text), Some(manifest));
        }
    }

    /// An id that changes makes every release that is there another one.
    #[test]
    fn the_text_is_this_one() {
        let hash = Id::of(b"#!/bin/sh\n");
        let nodes = [
            (&b"bin"[..], Node::Dir),
            (b"bin/a b", Node::File { executable: true, size: 10, hash }),
            (b"bin-2", Node::Link { target: b"bin".to_vec() }),
            (b"\xff%\n", Node::File { executable: false, size: 10, hash }),
        ];
        let manifest = Manifest(nodes.map(|(path, node)| (path.to_vec(), node)).into());
        let hash = "a8076d3d28d21e02012b20eaf7dbf75409a6277134439025f282e368e3305abf";
        let text = format!(
            "hale-release 1\ndir bin\nlink bin-2 bin\nfile x 10 {hash} bin/a%20b\nfile - 10 {hash} %FF%25%0A\n"
        );
        assert_eq!(manifest.to_text(), text);
        assert_eq!(manifest.id(), Id::of(text.as_bytes()));
    }

    #[test]
    fn what_is_no_manifest_is_not_read_as_one() {
        for text in
            ["", "hale-release 2\n", "hale-release 1\nsock a\n", "hale-release 1\ndir %G0\n", "hale-release 1\ndir a%2"]
        {
            assert_eq!(Manifest::from_text(text), None, "{text:?}");
        }
    }

    #[test]
    fn each_change_has_its_name() {
        let file = |executable, content: &[u8]| Node::File { executable, size: 1, hash: Id::of(content) };
        let link = |target: &[u8]| Node::Link { target: target.to_vec() };
        let manifest = |nodes: &[(&str, Node)]| {
            Manifest(nodes.iter().map(|(path, node)| (path.as_bytes().to_vec(), node.clone())).collect())
        };
        let same = ("same", file(true, b"a"));
        let before = manifest(&[
            ("c", file(false, b"a")),
            ("g", Node::Dir),
            ("k", file(false, b"a")),
            ("l", link(b"a")),
            ("m", file(false, b"a")),
            same.clone(),
        ]);
        let after = manifest(&[
            ("c", file(false, b"b")),
            ("k", link(b"a")),
            ("l", link(b"b")),
            ("m", file(true, b"a")),
            ("n", Node::Dir),
            same,
        ]);
        let found: Vec<(String, Change)> =
            before.changes(&after).into_iter().map(|drift| (drift.name, drift.change)).collect();
        let wanted = [
            ("c", Change::Content),
            ("g", Change::Missing),
            ("k", Change::Content),
            ("l", Change::Target),
            ("m", Change::Mode),
            ("n", Change::Extra),
        ];
        assert_eq!(found, wanted.map(|(name, change)| (name.to_owned(), change)));
    }
}
