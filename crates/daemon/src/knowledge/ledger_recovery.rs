//! What a start finds in the ledger's directory: where to go on, what a crash tore, and what is damaged.

use super::layout::{Layout, open_if_there};
use super::ledger_read::{VerifyDirError, for_each_seal};
use hale_ledger::{Chain, Damage, Hash, Lines, Position, Problem, Rest, Seal, Verifier, VerifyError};
use std::io;

/// How the ledger was found when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Number of the next record.
    pub next_seq: u64,
    /// Leaf hash of the last record.
    pub head: Hash,
    /// Bytes that a crash tore; they are moved to `quarantine/`, and a record says so.
    pub torn_bytes: u64,
    /// Set when the ledger is altered or truncated, as far as a start looks: all of the open segment, the manifest, and
    /// name and length of each sealed segment. What is there stays as it is and goes on failing to verify; new records
    /// follow in a new segment, the first of them says so.
    pub damage: Option<Damage>,
}

/// Where a writer goes on.
pub(super) struct Found {
    pub(super) position: Position,
    pub(super) torn_bytes: u64,
    pub(super) damage: Option<Damage>,
}

/// Looks at the manifest, the sealed files' lengths and everything after the last seal.
pub(super) fn scan(layout: &Layout) -> Result<Found, VerifyDirError> {
    let (last_seal, mut damage) = scan_seals(layout)?;
    let start = last_seal.as_ref().map(Position::after).unwrap_or_default();
    let read = |path, source| VerifyDirError::Read { path, source };
    let after: Vec<_> = layout
        .segments()
        .map_err(|source| read(layout.seg_dir(), source))?
        .into_iter()
        .filter(|id| *id >= start.segment())
        .collect();
    let open = |id| {
        let path = layout.segment(id);
        open_if_there(&path).map_err(|source| read(path, source))
    };
    if after.is_empty() {
        return Ok(Found { position: start, torn_bytes: 0, damage });
    }
    let mut verifier = Verifier::from_position(start.clone());
    let found = match after[..] {
        [id] if id == start.segment() => match open(id)? {
            None => Ok(Rest::Clean { reserved_bytes: 0 }),
            Some(file) => match verifier.open(file) {
                Ok(rest) => Ok(rest),
                Err(VerifyError::Damage(damage)) => Err(damage),
                Err(VerifyError::Read { source, .. }) => return Err(read(layout.segment(id), source)),
            },
        },
        [..] => Err(verifier.damage_here(Problem::Unsealed)),
    };
    match found {
        Ok(rest) => {
            let torn_bytes = match rest {
                Rest::Torn { bytes, .. } => bytes,
                Rest::Clean { .. } | Rest::Foreign => 0,
            };
            Ok(Found { position: verifier.position().clone(), torn_bytes, damage })
        }
        Err(first) => {
            damage.get_or_insert(first);
            let mut chain = start.chain().clone();
            let mut last = start.segment();
            for id in after {
                if let Some(file) = open(id)? {
                    force_all(&mut chain, file).map_err(|source| read(layout.segment(id), source))?;
                }
                last = id;
            }
            Ok(Found { position: Position::start(last.next(), chain), torn_bytes: 0, damage })
        }
    }
}

/// The last seal, and the first damage that the manifest and the files' lengths show.
fn scan_seals(layout: &Layout) -> Result<(Option<Seal>, Option<Damage>), VerifyDirError> {
    let mut last: Option<Seal> = None;
    let mut damage: Option<Damage> = None;
    for_each_seal(layout, 0, |number, seal| {
        let expected = Verifier::from_position(last.as_ref().map(Position::after).unwrap_or_default());
        let mut report = |problem| {
            damage.get_or_insert(expected.damage_here(problem));
        };
        match seal {
            Err(error) => report(Problem::Manifest { line: number + 1, error }),
            Ok(seal) => {
                if seal.segment != expected.position().segment() {
                    report(Problem::Unsealed);
                }
                match std::fs::metadata(layout.segment(seal.segment)).map(|meta| meta.len()) {
                    Ok(len) if len < seal.bytes => report(Problem::Truncated { sealed_bytes: seal.bytes }),
                    Ok(len) if len > seal.bytes => report(Problem::Surplus),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => report(Problem::Missing),
                    Err(source) => {
                        return Err(VerifyDirError::Read { path: layout.segment(seal.segment), source });
                    }
                }
                if last.as_ref().is_none_or(|last| seal.segment > last.segment) {
                    last = Some(seal);
                }
            }
        }
        Ok(())
    })?;
    Ok((last, damage))
}

/// Takes every line as a leaf, whatever it says; see [`Chain::force`].
fn force_all(chain: &mut Chain, file: std::fs::File) -> io::Result<()> {
    let mut lines = Lines::new(file, 0);
    while let Some(line) = lines.next_line()? {
        chain.force(line);
    }
    Ok(())
}
