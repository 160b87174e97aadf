//! Verifies a ledger in one streaming pass: chain, tree and seals, with memory for one line.

use crate::chain::LineError;
use crate::hash::Hash;
use crate::lines::{Lines, Rest};
use crate::manifest::SealError;
use crate::record::{FrameError, decode_frame};
use crate::segment::{Position, Seal, SegmentId};
use std::io::{self, Read};

/// Something in the ledger is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {seq}, seg/{segment} at byte {offset}: {problem}")]
pub struct Damage {
    /// Number of the first record that cannot be trusted.
    pub seq: u64,
    /// The segment it stands, or should stand, in.
    pub segment: SegmentId,
    /// Where it begins in that file, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The line is not the record that is due.
    #[error("altered: {0}")]
    Line(#[from] LineError),
    /// The record was changed: the next one names another hash.
    #[error("altered: it hashes to {found}, but the next record was written after one that hashed to {expected}")]
    Changed {
        /// The hash that the next record names.
        expected: Hash,
        /// The hash it has.
        found: Hash,
    },
    /// Bytes after the last record that neither the writer nor a crash leaves.
    #[error("altered: what stands here is no record, and no crash leaves it behind")]
    Foreign,
    /// A sealed segment goes on after its sealed end.
    #[error("altered: the segment was sealed here, but its file goes on")]
    Surplus,
    /// The segment contradicts its seal.
    #[error("altered: the segment's {0} is not what its line in manifest.jsonl says")]
    Seal(&'static str),
    /// A line of the manifest is not a seal.
    #[error("altered: line {line} of manifest.jsonl: {error}")]
    Manifest {
        /// Which line, from 1.
        line: u64,
        /// Why.
        error: SealError,
    },
    /// A segment that is not the last has no seal.
    #[error("altered: the segment is not the last one, but manifest.jsonl does not name it")]
    Unsealed,
    /// A sealed segment ends before its sealed end.
    #[error("truncated: the segment was sealed with {sealed_bytes} bytes, its file ends here")]
    Truncated {
        /// Length that it was sealed with.
        sealed_bytes: u64,
    },
    /// The file of a segment is not there.
    #[error("truncated: the segment's file is missing")]
    Missing,
}

impl Problem {
    /// Whether something is missing, rather than different.
    #[must_use]
    pub fn is_truncation(&self) -> bool {
        match self {
            Self::Truncated { .. } | Self::Missing => true,
            Self::Line(_)
            | Self::Changed { .. }
            | Self::Foreign
            | Self::Surplus
            | Self::Seal(_)
            | Self::Manifest { .. }
            | Self::Unsealed => false,
        }
    }
}

/// Why a segment did not verify.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is damaged.
    #[error(transparent)]
    Damage(#[from] Damage),
    /// It could not be read.
    #[error("cannot read seg/{segment}: {source}")]
    Read {
        /// Which segment.
        segment: SegmentId,
        /// Why.
        source: io::Error,
    },
}

/// Verifies segments in their order. After an error it must not be used further.
#[derive(Debug, Clone, Default)]
pub struct Verifier {
    position: Position,
}

impl Verifier {
    /// A verifier that goes on at `position` and trusts what comes before it.
    #[must_use]
    pub fn from_position(position: Position) -> Self {
        Self { position }
    }

    /// Where it stands.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// The damage `problem` at the place that is due next.
    #[must_use]
    pub fn damage_here(&self, problem: Problem) -> Damage {
        Damage {
            seq: self.position.chain().next_seq(),
            segment: self.position.segment(),
            offset: self.position.bytes(),
            problem,
        }
    }

    /// Verifies the next segment, which `seal` describes, and goes on to the one after it.
    ///
    /// # Errors
    /// The first damage, or that of the stream.
    pub fn sealed(&mut self, seal: &Seal, from: impl Read) -> Result<(), VerifyError> {
        if seal.segment != self.position.segment() {
            return Err(self.damage_here(Problem::Unsealed).into());
        }
        let run = self.run(from, Some(seal.bytes))?;
        let found_bytes = self.position.bytes();
        if found_bytes > seal.bytes {
            return Err(Damage { offset: seal.bytes, ..self.damage_here(Problem::Surplus) }.into());
        }
        match run.rest {
            Rest::Clean { reserved_bytes: 0 } if found_bytes < seal.bytes => {
                return Err(self.damage_here(Problem::Truncated { sealed_bytes: seal.bytes }).into());
            }
            Rest::Clean { reserved_bytes: 0 } => {}
            Rest::Torn { bytes, reserved_bytes: 0 } if found_bytes + bytes < seal.bytes => {
                return Err(self.damage_here(Problem::Truncated { sealed_bytes: seal.bytes }).into());
            }
            Rest::Clean { .. } if found_bytes == seal.bytes => {
                return Err(self.damage_here(Problem::Surplus).into());
            }
            Rest::Clean { .. } | Rest::Torn { .. } | Rest::Foreign => {
                return Err(self.damage_here(Problem::Foreign).into());
            }
        }
        let wrong = self.position.seal().map_or(Some("length"), |found| first_difference(&found, seal));
        if let Some(field) = wrong {
            let seq = self.position.chain().next_seq().saturating_sub(1);
            return Err(Damage { seq, offset: run.last_offset, ..self.damage_here(Problem::Seal(field)) }.into());
        }
        self.position = Position::after(seal);
        Ok(())
    }

    /// Verifies the last segment, which is not sealed, as far as whole lines go. What is torn or reserved after them is
    /// returned and no damage: a crash tears, and the last record of an open segment is held by nothing yet.
    ///
    /// # Errors
    /// The first damage, or that of the stream.
    pub fn open(&mut self, from: impl Read) -> Result<Rest, VerifyError> {
        let rest = self.run(from, None)?.rest;
        match rest {
            Rest::Clean { .. } | Rest::Torn { .. } => Ok(rest),
            Rest::Foreign => Err(self.damage_here(Problem::Foreign).into()),
        }
    }

    /// Takes lines as long as they follow each other, at most up to the one that passes `until`.
    fn run(&mut self, from: impl Read, until: Option<u64>) -> Result<Run, VerifyError> {
        let segment = self.position.segment();
        let read = |source| VerifyError::Read { segment, source };
        let mut lines = Lines::new(from, 0);
        let mut last_offset = 0;
        loop {
            let offset = self.position.bytes();
            if until.is_some_and(|until| offset > until) {
                return Ok(Run { rest: Rest::Foreign, last_offset });
            }
            let Some(line) = lines.next_line().map_err(read)? else {
                return Ok(Run { rest: lines.rest().map_err(read)?, last_offset });
            };
            match self.position.check(line) {
                Ok(_) => last_offset = offset,
                Err(LineError::Frame(error)) => {
                    let whole = !line.contains(&0);
                    let rest = lines.rest().map_err(read)?;
                    return match (rest, whole) {
                        (Rest::Torn { .. } | Rest::Clean { .. }, false) => Ok(Run { rest, last_offset }),
                        (_, _) => Err(self.damage_here(Problem::Line(error.into())).into()),
                    };
                }
                Err(LineError::Prev { expected, found }) => {
                    let here = Hash::leaf(line);
                    let next = lines.next_line().map_err(read)?;
                    let problem = LineError::Prev { expected, found }.into();
                    let damage = self.damage_here(problem);
                    // Which of the two was changed? If the line after names this one's hash, this one is as written.
                    let this_is_as_written = next.is_none_or(|next| names(next, &here));
                    return Err(if offset > 0 && this_is_as_written {
                        let problem = Problem::Changed { expected: found, found: expected };
                        Damage { seq: damage.seq.saturating_sub(1), offset: last_offset, problem, ..damage }
                    } else {
                        damage
                    }
                    .into());
                }
                Err(error @ LineError::Seq { .. }) => return Err(self.damage_here(error.into()).into()),
            }
        }
    }
}

/// How [`Verifier::run`] ended.
struct Run {
    rest: Rest,
    /// Where the last good line begins.
    last_offset: u64,
}

/// Whether `line` is a record whose `prev` is `hash`.
fn names(line: &[u8], hash: &Hash) -> bool {
    match decode_frame(line) {
        Ok(record) => record.prev == *hash,
        Err(FrameError::Head | FrameError::Seq | FrameError::Prev | FrameError::Rec | FrameError::TooLong) => false,
    }
}

/// The first field in which two seals of one segment differ.
fn first_difference(found: &Seal, stated: &Seal) -> Option<&'static str> {
    [
        ("first_seq", found.first_seq == stated.first_seq),
        ("last_seq", found.last_seq == stated.last_seq),
        ("head", found.head == stated.head),
        ("tree", found.tree == stated.tree),
        ("sha256", found.sha256 == stated.sha256),
        ("bytes", found.bytes == stated.bytes),
    ]
    .into_iter()
    .find_map(|(field, same)| (!same).then_some(field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest;

    /// Two sealed segments and an open one, four records each.
    #[derive(Clone)]
    struct Ledger {
        files: Vec<Vec<u8>>,
        manifest: Vec<Vec<u8>>,
    }

    const PER_SEGMENT: usize = 4;
    const SEALED: usize = 2;

    impl Ledger {
        fn new(name: &str) -> Self {
            let mut ledger = Self { files: Vec::new(), manifest: Vec::new() };
            let mut position = Position::default();
            for segment in 0..=SEALED {
                let mut file = Vec::new();
                for n in 0..PER_SEGMENT {
                    let payload = format!(r#"{{"kind":"{name}","n":{n}}}"#);
                    position.append(payload.as_bytes(), &mut file).expect("a payload");
                }
                if segment < SEALED {
                    let seal = position.seal().expect("not empty");
                    ledger.manifest.push(manifest::encode(&seal));
                    position = Position::after(&seal);
                }
                ledger.files.push(file);
            }
            ledger
        }

        fn verify(&self) -> Result<Rest, Damage> {
            let mut verifier = Verifier::default();
            let damage = |error| match error {
                VerifyError::Damage(damage) => damage,
                VerifyError::Read { source, .. } => panic!("memory can be read: {source}"),
            };
            for (line, file) in (1..).zip(&self.manifest).zip(&self.files) {
                let (number, line) = line;
                let seal = manifest::decode(line)
                    .map_err(|error| verifier.damage_here(Problem::Manifest { line: number, error }))?;
                verifier.sealed(&seal, &file[..]).map_err(damage)?;
            }
            match &self.files[self.manifest.len()..] {
                [] => Ok(Rest::Clean { reserved_bytes: 0 }),
                [open] => verifier.open(&open[..]).map_err(damage),
                [..] => Err(verifier.damage_here(Problem::Unsealed)),
            }
        }

        fn lines(&self, segment: usize) -> Vec<Vec<u8>> {
            self.files[segment].split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
        }

        fn with_lines(&self, segment: usize, lines: &[Vec<u8>]) -> Self {
            let mut changed = self.clone();
            changed.files[segment] = lines.concat();
            changed
        }

        fn with_byte(&self, segment: usize, at: usize, byte: u8) -> Self {
            let mut changed = self.clone();
            changed.files[segment][at] = byte;
            changed
        }
    }

    const CLEAN: Result<Rest, Damage> = Ok(Rest::Clean { reserved_bytes: 0 });

    /// The last record of the open segment is named by nothing yet.
    fn is_last(segment: usize, n: usize) -> bool {
        segment == SEALED && n + 1 == PER_SEGMENT
    }

    #[test]
    fn a_good_ledger_verifies() {
        assert_eq!(Ledger::new("x").verify(), CLEAN);
    }

    #[test]
    fn every_changed_byte_is_found_in_the_record_it_belongs_to() {
        let ledger = Ledger::new("x");
        for segment in 0..=SEALED {
            let mut start = 0;
            for (n, line) in ledger.lines(segment).iter().enumerate() {
                let seq = (segment * PER_SEGMENT + n) as u64;
                for (at, old) in (start..).zip(line) {
                    for new in [old ^ 1, old ^ 0x20, 0, b'\n', b' ', b'"', b'}', 0xff] {
                        let changed = ledger.with_byte(segment, at, new);
                        if new == *old || is_last(segment, n) {
                            continue;
                        }
                        let damage = changed.verify().expect_err("changed");
                        // Of the last line of a segment nothing tells whether its prev was changed or the line before.
                        let in_last_prev = n + 1 == PER_SEGMENT && matches!(damage.problem, Problem::Changed { .. });
                        let expected = if in_last_prev { seq - 1 } else { seq };
                        assert_eq!(damage.seq, expected, "byte {at} of {segment}: {old} -> {new}: {damage}");
                        assert_eq!(damage.segment, SegmentId(segment as u32));
                        assert!(in_last_prev || damage.offset == start as u64, "{damage}");
                        assert!(!damage.problem.is_truncation() || new == 0, "{damage}");
                    }
                }
                start += line.len();
            }
        }
    }

    /// States the limit: the payload of the very last record can be changed unseen, as long as it stays JSON.
    #[test]
    fn the_last_record_of_an_open_segment_is_held_by_nothing_yet() {
        let ledger = Ledger::new("x");
        let mut unseen = 0;
        let last = ledger.files[SEALED].len() - ledger.lines(SEALED)[PER_SEGMENT - 1].len();
        for at in last..ledger.files[SEALED].len() {
            let changed = ledger.with_byte(SEALED, at, ledger.files[SEALED][at] ^ 1);
            unseen += u32::from(changed.verify() == CLEAN);
        }
        assert!((1..30).contains(&unseen), "{unseen} bytes");
    }

    #[test]
    fn dropped_repeated_and_swapped_lines_are_found() {
        let ledger = Ledger::new("x");
        for segment in 0..=SEALED {
            for n in 0..PER_SEGMENT {
                let mut lines = ledger.lines(segment);
                let dropped = lines.remove(n);
                let found = ledger.with_lines(segment, &lines).verify();
                assert_eq!(found.is_ok(), is_last(segment, n), "dropped {n} of {segment}");
                lines.splice(n..n, [dropped.clone(), dropped]);
                ledger.with_lines(segment, &lines).verify().expect_err("repeated");
                for other in n + 1..PER_SEGMENT {
                    let mut lines = ledger.lines(segment);
                    lines.swap(n, other);
                    let damage = ledger.with_lines(segment, &lines).verify().expect_err("swapped");
                    assert_eq!(damage.seq, (segment * PER_SEGMENT + n) as u64);
                }
            }
        }
    }

    #[test]
    fn what_comes_from_another_ledger_is_found() {
        let (ledger, other) = (Ledger::new("x"), Ledger::new("y"));
        for segment in 0..=SEALED {
            let mut spliced = ledger.clone();
            spliced.files[segment].clone_from(&other.files[segment]);
            spliced.verify().expect_err("another segment");
            for n in 0..PER_SEGMENT {
                let mut lines = ledger.lines(segment);
                lines[n].clone_from(&other.lines(segment)[n]);
                let found = ledger.with_lines(segment, &lines).verify();
                found.expect_err("another line");
            }
        }
        let mut swapped = ledger;
        swapped.files.swap(0, 1);
        swapped.verify().expect_err("segments in another order");
    }

    #[test]
    fn a_cut_is_found_in_sealed_segments_and_told_in_the_open_one() {
        let ledger = Ledger::new("x");
        for segment in 0..=SEALED {
            for len in 0..ledger.files[segment].len() {
                let mut cut = ledger.clone();
                cut.files[segment].truncate(len);
                let at_line = len == 0 || ledger.files[segment][len - 1] == b'\n';
                match cut.verify() {
                    Err(damage) => {
                        assert!(segment < SEALED && damage.problem.is_truncation(), "{len} of {segment}: {damage}");
                    }
                    // The limit of a ledger without anchors: whole records cut off its end are not missed.
                    Ok(Rest::Clean { reserved_bytes: 0 }) => {
                        assert!(segment == SEALED && at_line, "{len} of {segment}");
                    }
                    Ok(Rest::Torn { bytes, reserved_bytes: 0 }) => {
                        assert!(segment == SEALED && !at_line && bytes > 0, "{len} of {segment}");
                    }
                    Ok(rest) => panic!("{len} of {segment}: {rest:?}"),
                }
            }
        }
    }

    #[test]
    fn what_is_added_is_found() {
        let ledger = Ledger::new("x");
        for segment in 0..SEALED {
            for added in [&b"\0"[..], b"\n", b"x", b"x\n"] {
                let mut longer = ledger.clone();
                longer.files[segment].extend_from_slice(added);
                longer.verify().expect_err("longer");
            }
            // Even a record that fits: the seal says where the segment ended.
            let mut longer = ledger.clone();
            let next = ledger.lines(segment + 1).swap_remove(0);
            longer.files[segment].extend_from_slice(&next);
            assert_eq!(longer.verify().expect_err("longer").problem, Problem::Surplus);
        }
        let mut longer = ledger.clone();
        longer.files[SEALED].extend_from_slice(b"not a record\n");
        assert!(matches!(longer.verify().expect_err("longer").problem, Problem::Line(_)));
        longer.files[SEALED].clone_from(&ledger.files[SEALED]);
        longer.files[SEALED].extend_from_slice(&[0; 5000]);
        assert_eq!(longer.verify(), Ok(Rest::Clean { reserved_bytes: 5000 }));
    }

    #[test]
    fn every_change_of_the_manifest_is_found() {
        let ledger = Ledger::new("x");
        for line in 0..SEALED {
            for at in 0..ledger.manifest[line].len() {
                for flip in [1, 2, 0x20, 0x80] {
                    let mut changed = ledger.clone();
                    changed.manifest[line][at] ^= flip;
                    changed.verify().expect_err("changed");
                }
            }
            let mut dropped = ledger.clone();
            dropped.manifest.remove(line);
            dropped.verify().expect_err("dropped");
            let mut repeated = ledger.clone();
            repeated.manifest.insert(line, ledger.manifest[line].clone());
            repeated.verify().expect_err("repeated");
        }
        let mut swapped = ledger;
        swapped.manifest.swap(0, 1);
        swapped.verify().expect_err("swapped");
    }
}
