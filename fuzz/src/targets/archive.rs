//! Archives of releases: nothing lands outside of the store, nothing is left of what is refused, and what is taken is the
//! same release wherever it goes from there.
//!
//! The first byte says whether the rest is taken as it is, or as the entries of a tar, whose checksums and end are mended:
//! no mutation would hit them.

use hale_core::ids::Name;
use hale_core::text::is_harmless;
use hale_daemon::generations::{Limits, Store, StoreError, pack};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const LIMITS: Limits = Limits { bytes: 1 << 20, reserve_bytes: 0 };
const BLOCK: usize = 512;
/// Where a header has its size and its checksum.
const SIZE: std::ops::Range<usize> = 124..136;
const CHECKSUM: std::ops::Range<usize> = 148..156;

pub fn run(input: &[u8]) {
    let Some((form, bytes)) = input.split_first() else { return };
    let archive = if form % 2 == 0 { bytes.to_vec() } else { mended(bytes) };
    // In memory where there is a place for it: each release is synced.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let place = place.expect("a directory can be made");
    for dir in ["one", "other"] {
        fs::create_dir(place.path().join(dir)).expect("a directory can be made");
    }
    fs::write(place.path().join("kept"), "kept").expect("a file can be written");
    let service = Name::try_from("bot").expect("it is a name");
    let open = |dir| Store::open(&place.path().join(dir), &service, None).expect("it is not open");
    let mut store = open("one");
    let judge = |error: &StoreError| {
        let text = error.to_string();
        assert!(text.chars().all(is_harmless) && text.len() < 1000, "{text:?}");
        assert!(!matches!(error, StoreError::Damaged { .. } | StoreError::Missing(_)), "{text}");
    };
    let id = match store.import(&archive[..], &LIMITS) {
        Ok(imported) => Some(imported.into_release().id()),
        Err(error) => {
            judge(&error);
            None
        }
    };
    if let Some(id) = id {
        store.verify(id).expect("it is as it was imported").activate().expect("it can be switched to");
        let tree = place.path().join("one/releases/bot").join(id.to_string());
        let mut packed = Vec::new();
        pack(&tree, &mut packed).expect("a release can be packed");
        let other = open("other");
        let same = other.import(&packed[..], &Limits { bytes: 1 << 30, ..LIMITS }).expect("it was a release");
        assert_eq!(same.into_release().id(), id);
        fs::remove_file(place.path().join("one/releases/bot/current")).expect("it was switched to");
        store.remove(id, &BTreeSet::new()).expect("it is not current");
    }
    let left = |dir: &str| fs::read_dir(place.path().join(dir)).expect("it is there").count();
    assert_eq!((left("one/releases/bot"), left("one"), left("")), (0, 1, 3));
    assert_eq!(fs::read(place.path().join("kept")).expect("it is there"), b"kept");
}

fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut tar = bytes.to_vec();
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    let mut at = 0;
    while let Some(header) = tar.get_mut(at..at + BLOCK) {
        header[CHECKSUM].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = std::str::from_utf8(&header[SIZE]).ok().map(|text| text.trim_matches(['\0', ' ']));
        let size = size.and_then(|text| usize::from_str_radix(text, 8).ok()).unwrap_or(0);
        at = at.saturating_add(BLOCK).saturating_add(size.min(1 << 40).next_multiple_of(BLOCK));
    }
    tar.resize(tar.len() + 2 * BLOCK, 0);
    tar
}
