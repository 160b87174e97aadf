//! The files of a service as generations: each state that is seen is kept, and can be put back.

use super::{FileChange, Files, FilesError, FilesId, Redactor};
use crate::execute::environment;
use crate::generations::{Generations, GoesOn, Kept, StoreError, Towards, Unprotected};
use hale_core::ids::GenerationId;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

/// How many lines of differences are told: a screen of them, and little beside a record's bound.
const LINES_MAX: usize = 60;

/// The states of a service's files.
#[derive(Debug)]
pub(in crate::generations) struct FileGenerations {
    files: Files,
    /// Whose values are secrets.
    environment_files: Vec<String>,
    /// The state that was seen last: what somebody has changed since then is not replaced.
    seen: Option<FilesId>,
    /// It could not be copied.
    is_uncopied: bool,
}

impl FileGenerations {
    pub(in crate::generations) fn new(files: Files, environment_files: Vec<String>) -> Self {
        Self { files, environment_files, seen: None, is_uncopied: false }
    }
}

fn state(id: &GenerationId) -> Result<FilesId, StoreError> {
    FilesId::of_generation(id)
        .ok_or_else(|| StoreError::not_an_id(id, "a state of files is named by the 64 hexadecimal digits of its hash"))
}

impl Generations for FileGenerations {
    /// Nobody switches to one by its name alone, so that none is listed.
    fn list(&mut self) -> Result<Vec<Kept>, StoreError> {
        Ok(Vec::new())
    }

    fn current(&mut self) -> Result<Option<GenerationId>, StoreError> {
        let (id, is_uncopied) = match self.files.snapshot() {
            Ok(snapshot) => (snapshot.id, false),
            // Where that cannot be copied it is seen all the same, whatever has become of the disk: only a way back to it needs the copy.
            Err(_) => (self.files.current()?, true),
        };
        self.is_uncopied = is_uncopied;
        self.seen = Some(id);
        Ok(Some(id.generation()))
    }

    fn verify(&mut self, id: &GenerationId) -> Result<(), StoreError> {
        Ok(self.files.verify(state(id)?)?)
    }

    fn prepare(&mut self, id: &GenerationId) -> Result<(), StoreError> {
        self.verify(id)
    }

    fn activate(&mut self, id: &GenerationId, _towards: Towards) -> Result<(), StoreError> {
        let wanted = state(id)?;
        if self.seen.is_none() {
            self.current()?;
        }
        self.files.put_back(wanted, None, self.seen)?;
        self.seen = Some(wanted);
        Ok(())
    }

    /// Nothing tells when it can be copied.
    fn misses(&self) -> bool {
        self.is_uncopied
    }

    fn is_part_way(&mut self, found: &GenerationId) -> bool {
        FilesId::of_generation(found).is_some_and(|found| self.files.is_part_way(found))
    }

    /// Nobody else removes them. What there was no room to copy when it was seen is copied now, if it is still there.
    fn pin(&mut self, ids: &BTreeSet<GenerationId>, _goes_on: GoesOn<'_>) -> Result<Unprotected, StoreError> {
        let mut unprotected = Unprotected::new();
        for id in ids {
            let Some(state) = FilesId::of_generation(id) else { continue };
            let keep = || match self.files.has(state)? || self.files.snapshot()?.id == state {
                true => Ok(()),
                false => Err(FilesError::Missing(state)),
            };
            unprotected.extend(keep().err().map(|error| (id.clone(), error.into())));
        }
        Ok(unprotected)
    }

    /// What is needed, what was seen last, and the newest: somebody's edit that was taken back can be had again.
    fn retain(
        &mut self,
        keep: usize,
        pinned: &BTreeSet<GenerationId>,
        _goes_on: GoesOn<'_>,
    ) -> Result<Vec<GenerationId>, StoreError> {
        let needed = pinned.iter().filter_map(FilesId::of_generation).chain(self.seen);
        let kept = needed.chain(self.files.newest(keep)?).collect();
        self.files.retain(&kept)?;
        Ok(Vec::new())
    }

    fn watched(&self) -> Option<(PathBuf, OsString)> {
        None
    }

    fn changes(&mut self, from: &GenerationId, to: &GenerationId) -> Vec<String> {
        let (Some(from), Some(to)) = (FilesId::of_generation(from), FilesId::of_generation(to)) else {
            return Vec::new();
        };
        // Without them the rest is told: what cannot be read now could not be given to a service either.
        let secrets = environment::secrets(&self.environment_files);
        match self.files.changes(from, to, &Redactor::new(secrets)) {
            Ok(changes) => lines(&changes),
            Err(error) => vec![format!("how they differ cannot be told: {error}")],
        }
    }
}

fn lines(changes: &[FileChange]) -> Vec<String> {
    let of_one = |change: &FileChange| {
        let what: Vec<String> = change.what.iter().map(ToString::to_string).collect();
        let head = format!("{} {}", change.path, what.join(", "));
        let rest = (change.left_out > 0).then(|| format!("… and {} more lines", change.left_out));
        std::iter::once(head).chain(change.diff.clone()).chain(rest).collect::<Vec<_>>()
    };
    let all: Vec<String> = changes.iter().flat_map(of_one).collect();
    let more = all.len().saturating_sub(LINES_MAX);
    let mut lines: Vec<String> = all.into_iter().take(LINES_MAX).collect();
    lines.extend((more > 0).then(|| format!("… and {more} more lines")));
    lines
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Place, kept};
    use super::*;
    use hale_core::ids::Name;

    #[test]
    fn what_was_taken_back_is_kept_for_a_while() {
        let place = Place::new();
        let mut generations = FileGenerations::new(place.open(["etc/a"]), Vec::new());
        let mut now = |text: &str| {
            place.write("etc/a", text);
            let id = generations.current().unwrap().unwrap();
            // The clock of a file system has ticks.
            let state = std::fs::File::open(place.at("state/files/bot").join(id.as_str())).unwrap();
            state.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(text.parse().unwrap())).unwrap();
            let _ = generations.retain(2, &BTreeSet::new(), &|| true).unwrap();
            (id, place.names("state/files/bot/contents").len())
        };
        let [one, two, three] = ["1", "2", "3"].map(&mut now);
        assert_eq!([one.1, two.1, three.1], [1, 2, 2]);
        generations.activate(&two.0, Towards::Back).unwrap();
        assert!(matches!(generations.verify(&one.0), Err(StoreError::Files(_))), "the newest two, and what is needed");
        generations.verify(&three.0).unwrap();
    }

    #[test]
    fn what_there_is_no_room_to_copy_is_seen_and_gone_back_from() {
        let place = Place::new();
        let files = place.open(["etc/a", "etc/b"]);
        place.write("etc/a", "good");
        let good = kept(&files).generation();
        drop(files);
        let paths = ["etc/a", "etc/b"].map(|name| place.at(name));
        let full = Files::open(&place.at("state"), &Name::try_from("bot").unwrap(), paths, None, u64::MAX).unwrap();
        let mut generations = FileGenerations::new(full, Vec::new());
        assert_eq!(generations.current().unwrap(), Some(good.clone()));
        place.write("etc/a", "bad");
        let bad = generations.current().unwrap().unwrap();
        assert_ne!(bad, good);
        let unprotected = generations.pin(&BTreeSet::from([good.clone(), bad.clone()]), &|| true).unwrap();
        assert!(matches!(&unprotected[..], [(id, _)] if *id == bad), "{unprotected:?}");
        generations.activate(&good, Towards::Back).unwrap();
        assert_eq!((place.text("etc/a").as_str(), generations.current().unwrap()), ("good", Some(good)));
        drop(generations);
        // There is room again.
        let mut generations = FileGenerations::new(place.open(["etc/a", "etc/b"]), Vec::new());
        place.write("etc/a", "bad");
        assert!(generations.pin(&BTreeSet::from([bad.clone()]), &|| true).unwrap().is_empty());
        generations.verify(&bad).unwrap();
    }
}
