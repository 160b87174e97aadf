//! The configuration files that belong to a service's generation: copied, watched, compared, and put back.
//!
//! Blocking code for a thread of its own: it reads and syncs files.
//!
//! ```text
//! <state_dir>/files/<service>/                 0700: there may be secrets in it
//!                            /<id>             a state: the canonical text of all files; its SHA-256 is the id
//!                            /contents/<hash>  a file's content, by its own SHA-256
//! ```
//!
//! A state is told by [`Files::current`], kept by [`Files::snapshot`], and brought back by [`Files::put_back`]. [`FilesWatch`]
//! says when to look again.

mod diff;
mod error;
mod kept;
mod look;
mod put_back;
mod redact;
mod state;
mod store;
#[cfg(test)]
mod testing;
mod walk;
mod watch;

pub use diff::{FileChange, What};
pub use error::FilesError;
pub(super) use kept::FileGenerations;
pub use look::{ALL_BYTES_MAX, FILE_BYTES_MAX};
pub use redact::Redactor;
pub use state::Refusal;
pub use watch::FilesWatch;

use crate::execute::user::Identity;
use hale_core::ids::{GenerationId, Name};
use hale_ledger::Hash;
use state::State;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use store::Store;

/// What names a state of all files of a service: the SHA-256 of its canonical text. The same state has the same id, whoever
/// brought it about and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilesId(Hash);

impl FilesId {
    /// As the core has it.
    #[must_use]
    pub fn generation(self) -> GenerationId {
        GenerationId::from(self.0.0)
    }

    /// From what [`Self::generation`] gave; `None` for the name of something else.
    #[must_use]
    pub fn of_generation(generation: &GenerationId) -> Option<Self> {
        Hash::from_hex(generation.as_str().as_bytes()).map(Self)
    }
}

impl fmt::Display for FilesId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A state that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What names it.
    pub id: FilesId,
    /// What of it could not be copied, and so cannot be put back: the path, escaped, and why.
    pub refused: Vec<(String, Refusal)>,
    /// How many contents were in the store, damaged, and were written anew: the disk has lost bytes.
    pub mended: usize,
}

impl Snapshot {
    /// The id of a state that can be put back as a whole.
    ///
    /// # Errors
    /// [`FilesError::Refused`] for the first file that could not be copied.
    pub fn whole(self) -> Result<FilesId, FilesError> {
        match self.refused.into_iter().next() {
            Some((path, why)) => Err(FilesError::Refused { path, why }),
            None => Ok(self.id),
        }
    }
}

/// The files of one service and their kept states. Locked: a second one of the same service cannot be opened.
#[derive(Debug)]
pub struct Files {
    store: Store,
    paths: BTreeSet<PathBuf>,
    user: Option<Identity>,
}

impl Files {
    /// Opens the states kept below `state_dir`, and removes what a kill left behind there and beside the files themselves.
    ///
    /// `paths` are absolute. `user` is who the service runs as; `None`: Hale's own user. It gives that user's groups to the
    /// reading of what is in that user's hands, and no rights beyond it. `reserve_bytes` has to stay free on the file system
    /// of `state_dir`, as [`Limits::reserve_bytes`](super::Limits::reserve_bytes) has it.
    ///
    /// # Errors
    /// Another process has it open, or a directory cannot be made or opened.
    pub fn open(
        state_dir: &Path,
        service: &Name,
        paths: impl IntoIterator<Item = PathBuf>,
        user: Option<Identity>,
        reserve_bytes: u64,
    ) -> Result<Self, FilesError> {
        let store = Store::open(state_dir, service, reserve_bytes)?;
        let files = Self { store, paths: paths.into_iter().collect(), user };
        put_back::clean(&files.paths);
        Ok(files)
    }

    /// Other files, or another user, from now on: a reload. States that are kept stay.
    pub fn reconfigure(&mut self, paths: impl IntoIterator<Item = PathBuf>, user: Option<Identity>) {
        self.paths = paths.into_iter().collect();
        self.user = user;
    }

    /// The state of the files now, which is not kept. That a file cannot be copied (see [`Refusal`]) is a state too.
    ///
    /// # Errors
    /// A file cannot be read, or changes all the time.
    pub fn current(&self) -> Result<FilesId, FilesError> {
        Ok(look::all(&self.paths, self.user.as_ref())?.state.id())
    }

    /// Keeps the state of the files now. All files were as it says at one moment.
    ///
    /// # Errors
    /// A file cannot be read, or changes all the time; or the store's disk is full or failed: the states kept before are there.
    pub fn snapshot(&self) -> Result<Snapshot, FilesError> {
        let seen = look::all(&self.paths, self.user.as_ref())?;
        let mended = self.store.keep(&seen.state, &seen.contents)?;
        Ok(Snapshot { id: seen.state.id(), refused: seen.state.refused(), mended })
    }

    /// Whether the state is kept.
    ///
    /// # Errors
    /// The disk failed.
    pub fn has(&self, id: FilesId) -> Result<bool, FilesError> {
        self.store.has(id)
    }

    /// Whether the state can be put back as a whole: reads it, and all its contents.
    ///
    /// # Errors
    /// It is missing, damaged, or has a file that could not be copied; or the disk failed.
    pub fn verify(&self, id: FilesId) -> Result<(), FilesError> {
        let state = self.store.state(id)?;
        if let Some((path, why)) = state.refused().into_iter().next() {
            return Err(FilesError::Refused { path, why });
        }
        state.contents().try_for_each(|hash| self.store.content_of(id, hash).map(drop))
    }

    /// Brings the files back to a state: all of those that are configured now and belong to it, or `only` one. Each is
    /// replaced in one step, and none before all of them are written and synced. Tells which were replaced or removed.
    ///
    /// `over` is the state that is to be taken back: where there is another one by now, somebody has changed a file since,
    /// and nothing is done. `None` replaces whatever is there.
    ///
    /// After any error each file is the old one or the one of the state; the same call again finishes it.
    ///
    /// # Errors
    /// See [`FilesError`].
    pub fn put_back(
        &self,
        id: FilesId,
        only: Option<&Path>,
        over: Option<FilesId>,
    ) -> Result<Vec<PathBuf>, FilesError> {
        let state = self.store.state(id)?;
        if let Some(only) = only.filter(|only| !self.paths.contains(*only) || !state.has(only)) {
            return Err(FilesError::NotOfState { path: error::named(only), id });
        }
        let is_wanted = |path: &&PathBuf| state.has(path) && only.is_none_or(|only| only == *path);
        let wanted: Vec<&PathBuf> = self.paths.iter().filter(is_wanted).collect();
        let done = put_back::put_back(&self.store, &state, &wanted, || {
            let Some(expected) = over else { return Ok(()) };
            let found = self.current()?;
            if found != expected {
                return Err(FilesError::OtherState { expected, found });
            }
            if wanted.len() > 1 {
                // A disk that is full is no reason to stay with what does not work.
                let _not_finished_if_cut_off = self.store.begin([expected, id]);
            }
            Ok(())
        });
        if done.is_ok() && over.is_some() && wanted.len() > 1 {
            self.is_over();
        }
        done
    }

    /// Whether a kept state is what a put back left that did not come to its end: file by file as before it or as after it.
    pub fn is_part_way(&self, found: FilesId) -> bool {
        let Ok(Some(between)) = self.store.begun() else { return false };
        self.store.state(found).is_ok_and(|found| found.is_between(&self.kept_of(&between)))
    }

    /// Finishes what an earlier Hale has left between one file and the next: what nobody has made would count as somebody's change.
    pub fn finish(&self) {
        let finished = || {
            let Some([from, to]) = self.store.begun()? else { return Ok(()) };
            let found = look::all(&self.paths, self.user.as_ref())?.state;
            let is_half = ![from, to].contains(&found.id()) && found.is_between(&self.kept_of(&[from, to]));
            if is_half { self.put_back(to, None, None).map(drop) } else { Ok(()) }
        };
        let finished: Result<(), FilesError> = finished();
        if let Err(error) = finished {
            eprintln!(
                "hale: of these files some were being put back when Hale ended, and the rest stay as they are: {}: {error}; look at \
                 them, and put back by hand what is missing",
                self.paths.iter().map(|path| error::named(path)).collect::<Vec<_>>().join(", ")
            );
        }
        // What is there from now on is somebody's.
        self.is_over();
    }

    /// Nothing is half put back.
    fn is_over(&self) {
        if let Err(error) = self.store.over() {
            eprintln!(
                "hale: the note that files are being put back cannot be removed: {error}; check the disk, and remove .begun in files/ \
                 of Hale's state_dir"
            );
        }
    }

    /// Those of them that are kept.
    fn kept_of(&self, ids: &[FilesId]) -> Vec<State> {
        ids.iter().filter_map(|id| self.store.state(*id).ok()).collect()
    }

    /// How `to` differs from `from`, file by file, in the order of their paths. Both have to be kept.
    ///
    /// # Errors
    /// One of them is missing or damaged.
    pub fn changes(&self, from: FilesId, to: FilesId, redactor: &Redactor) -> Result<Vec<FileChange>, FilesError> {
        diff::changes(&self.store, [&self.store.state(from)?, &self.store.state(to)?], redactor)
    }

    /// The states that were kept last and are whole, the newest first, as many as there are up to `max`.
    ///
    /// # Errors
    /// The disk failed.
    pub fn newest(&self, max: usize) -> Result<Vec<FilesId>, FilesError> {
        let mut all = self.store.all()?;
        all.sort_by_key(|(made, id)| (Reverse(*made), *id));
        Ok(all.into_iter().map(|(_, id)| id).filter(|id| self.store.state(*id).is_ok()).take(max).collect())
    }

    /// Removes all states that are not in `keep`, and the contents that are then of none.
    ///
    /// # Errors
    /// The disk failed, or one of the kept states is damaged: nobody knows then which contents are its own.
    pub fn retain(&mut self, keep: &BTreeSet<FilesId>) -> Result<(), FilesError> {
        self.store.retain(keep)
    }
}

impl State {
    /// Whether each file is as it is in one of the others.
    fn is_between(&self, others: &[State]) -> bool {
        self.0.iter().all(|(path, entry)| others.iter().any(|one| one.0.get(path) == Some(entry)))
    }

    fn has(&self, path: &Path) -> bool {
        self.0.contains_key(path.as_os_str().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{ORDINARY_USER, Place, chmod, inside, kept, told};
    use super::*;
    use std::fs;
    use std::io::{BufRead, BufReader};
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::process::{Command, Stdio};

    #[test]
    fn the_same_state_has_the_same_id_and_another_one_has_another() {
        let place = Place::new();
        let files = place.open(["etc/a", "etc/b"]);
        let mut ids = vec![files.current().unwrap()];
        let mut now = |change: &dyn Fn()| {
            change();
            let id = files.current().unwrap();
            assert!(!ids.contains(&id));
            ids.push(id);
            id
        };
        let a = place.at("etc/a");
        now(&|| place.write("etc/a", "1"));
        let two = now(&|| place.write("etc/a", "2"));
        now(&|| chmod(&a, 0o600));
        now(&|| rustix::fs::setxattr(&a, "user.x", b"1", rustix::fs::XattrFlags::empty()).unwrap());
        now(&|| place.write("etc/b", "2"));
        now(&|| fs::remove_file(&a).unwrap());
        now(&|| symlink("b", &a).unwrap());
        now(&|| {
            fs::remove_file(&a).unwrap();
            symlink("./b", &a).unwrap();
        });
        // What it is made of counts, not when and how it came about.
        for name in ["etc/a", "etc/b"] {
            fs::remove_file(place.at(name)).unwrap();
        }
        place.write("etc/a", "2");
        assert_eq!((files.current().unwrap(), kept(&files), kept(&files)), (two, two, two));
        let names = BTreeSet::from_iter(place.names("state/files/bot"));
        assert_eq!(names, BTreeSet::from([two.to_string(), "contents".to_owned()]));
        assert_eq!(FilesId::of_generation(&two.generation()), Some(two));
        assert_eq!(FilesId::of_generation(&GenerationId::try_from("/nix/store/x").unwrap()), None);
        for dir in ["state/files", "state/files/bot", "state/files/bot/contents"] {
            assert_eq!(place.at(dir).metadata().unwrap().mode() & 0o7777, 0o700);
        }
    }

    #[test]
    fn a_state_is_part_way_where_each_file_is_as_one_of_the_others_has_it() {
        let place = Place::new();
        let files = place.open(["etc/a", "etc/b"]);
        let at = |a: &str, b: &str| {
            place.write("etc/a", a);
            place.write("etc/b", b);
            kept(&files)
        };
        let [old, new, half] = [("1", "1"), ("2", "2"), ("2", "1")].map(|(a, b)| at(a, b));
        let theirs = at("2", "3");
        assert!(!files.is_part_way(half), "nothing was put back");
        files.store.begin([old, new]).unwrap();
        assert!(files.is_part_way(half) && files.is_part_way(old) && !files.is_part_way(theirs));
        files.store.begin([old, FilesId(Hash::of(b"lost"))]).unwrap();
        assert!(!files.is_part_way(half), "what is not kept tells nothing");
    }

    /// Somebody takes away what is to be put in the place of the second one, until that hits a put back.
    #[test]
    fn a_put_back_that_fails_amidst_is_noted() {
        let place = Place::new();
        let files = place.open(["etc/a", "etc/b"]);
        let write = |text: &str| ["etc/a", "etc/b"].map(|name| place.write(name, text));
        let [good, bad] = ["1", "2"].map(|text| {
            write(text);
            kept(&files)
        });
        files.put_back(good, None, Some(bad)).unwrap();
        assert_eq!(files.store.begun().unwrap(), None, "it came to its end");
        let beside = place.at(&format!("etc/.hale-put-back-{:.16}", Hash::of(b"b").to_string()));
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    let _mostly_nothing = fs::remove_file(&beside);
                }
            });
            write("2");
            while files.put_back(good, None, Some(bad)).is_ok() {
                write("2");
            }
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!([place.text("etc/a"), place.text("etc/b")], ["1", "2"]);
        assert_eq!(files.store.begun().unwrap(), Some([bad, good]));
        assert!(files.is_part_way(kept(&files)));
    }

    #[test]
    fn a_put_back_that_was_cut_off_is_finished_unless_somebody_has_changed_a_file_since() {
        for (half, expected) in [(["1", "2"], ["1", "1"]), (["2", "2"], ["2", "2"]), (["1", "3"], ["1", "3"])] {
            let place = Place::new();
            let files = place.open(["etc/a", "etc/b"]);
            let write = |texts: [&str; 2]| {
                place.write("etc/a", texts[0]);
                place.write("etc/b", texts[1]);
            };
            let [good, bad] = [["1", "1"], ["2", "2"]].map(|texts| {
                write(texts);
                kept(&files)
            });
            files.store.begin([bad, good]).unwrap();
            drop(files);
            write(half);
            for _ in 0..2 {
                let files = place.open(["etc/a", "etc/b"]);
                files.finish();
                assert_eq!([place.text("etc/a"), place.text("etc/b")], expected);
                assert_eq!(files.store.begun().unwrap(), None);
            }
        }
    }

    #[test]
    fn what_cannot_be_copied_is_a_state_and_an_error_that_says_what_to_do() {
        let place = Place::new();
        let files = place.open(["etc/a", "etc/b"]);
        place.write("etc/a", "1");
        let good = kept(&files);
        let make: [(&dyn Fn(), Refusal); 4] = [
            (&|| fs::File::create(place.at("etc/b")).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap(), Refusal::TooLarge),
            (
                &|| {
                    place.write("etc/b", "");
                    chmod(&place.at("etc/b"), 0o2755);
                },
                Refusal::SetId,
            ),
            (
                &|| {
                    let (mode, kind) = (0o600.into(), rustix::fs::FileType::Fifo);
                    rustix::fs::mknodat(rustix::fs::CWD, place.at("etc/b"), kind, mode, 0).unwrap();
                },
                Refusal::NotAFile,
            ),
            (&|| symlink("b", place.at("etc/b")).unwrap(), Refusal::TooManyLinks),
        ];
        for (make, why) in make {
            make();
            let snapshot = files.snapshot().unwrap();
            assert_eq!(snapshot.id, files.current().unwrap());
            assert_eq!(snapshot.refused, [(error::named(&place.at("etc/b")), why)]);
            let text = snapshot.clone().whole().unwrap_err().to_string();
            assert!(text.starts_with(place.at("etc/b").to_str().unwrap()) && text.contains("; "), "{text}");
            assert_eq!(told(&files, good, snapshot.id), [format!("b {why}")]);
            assert!(matches!(files.put_back(snapshot.id, None, None), Err(FilesError::Refused { .. })));
            assert!(matches!(files.verify(snapshot.id), Err(FilesError::Refused { .. })));
            assert_eq!(files.put_back(good, None, Some(snapshot.id)).unwrap(), [place.at("etc/b")]);
            assert_eq!(files.current().unwrap(), good);
        }
        // All together.
        let names: Vec<String> = (0..6).map(|n| format!("etc/{n}")).collect();
        for name in &names {
            fs::File::create(place.at(name)).unwrap().set_len(FILE_BYTES_MAX).unwrap();
        }
        let paths = names.iter().map(|name| place.at(name));
        drop(files);
        let name = Name::try_from("bot").unwrap();
        let files = Files::open(&place.at("state"), &name, paths, None, 0).unwrap();
        let refused = files.snapshot().unwrap().refused;
        assert_eq!(refused, [4, 5].map(|n| (error::named(&place.at(&names[n])), Refusal::AllTooLarge)));
    }

    #[test]
    fn states_that_are_not_needed_go_with_what_is_theirs_alone() {
        let place = Place::new();
        let mut files = place.open(["etc/a", "etc/b"]);
        place.write("etc/b", "of both");
        let [one, two] = ["1", "2"].map(|text| {
            place.write("etc/a", text);
            kept(&files)
        });
        assert_eq!(place.names("state/files/bot/contents").len(), 3);
        files.retain(&BTreeSet::from([one])).unwrap();
        assert_eq!(place.names("state/files/bot/contents").len(), 2);
        assert!(files.has(one).unwrap() && !files.has(two).unwrap());
        assert!(matches!(files.put_back(two, None, None), Err(FilesError::Missing(id)) if id == two));
        files.put_back(one, None, None).unwrap();
        assert_eq!(files.current().unwrap(), one);
        files.retain(&BTreeSet::new()).unwrap();
        assert_eq!(place.names("state/files/bot"), ["contents"]);
        assert_eq!(place.names("state/files/bot/contents"), [""; 0]);
    }

    #[test]
    fn damage_is_told_and_mended_by_the_next_copy() {
        let place = Place::new();
        let mut files = place.open(["etc/a"]);
        place.write("etc/a", "1");
        let id = kept(&files);
        let content = place.at("state/files/bot/contents").join(&place.names("state/files/bot/contents")[0]);
        let state = place.at("state/files/bot").join(id.to_string());
        place.write("etc/a", "2");
        for damage in [&content, &state] {
            fs::remove_file(damage).unwrap();
            fs::write(damage, "x").unwrap();
            for error in [files.put_back(id, None, None).unwrap_err(), files.verify(id).unwrap_err()] {
                assert!(matches!(error, FilesError::Damaged { .. }), "{error}");
            }
            assert_eq!(place.text("etc/a"), "2");
            place.write("etc/a", "1");
            let snapshot = files.snapshot().unwrap();
            assert_eq!((snapshot.id, snapshot.mended), (id, usize::from(damage == &content)));
            files.verify(id).unwrap();
            place.write("etc/a", "2");
            files.put_back(id, None, None).unwrap();
            assert_eq!(place.text("etc/a"), "1");
            place.write("etc/a", "2");
        }
        fs::remove_file(&state).unwrap();
        fs::write(&state, "x").unwrap();
        assert!(matches!(files.retain(&BTreeSet::from([id])), Err(FilesError::Damaged { .. })));
        assert!(content.exists());
    }

    #[test]
    fn one_service_has_one_store_and_leftovers_go_when_it_is_opened() {
        let place = Place::new();
        let files = place.open(["etc/a", "etc/link"]);
        place.write("etc/a", "1");
        symlink("a", place.at("etc/link")).unwrap();
        let id = kept(&files);
        assert!(matches!(place.try_open(["etc/a"]), Err(FilesError::Busy)));
        drop(files);
        let before = [place.names("state/files/bot"), place.names("state/files/bot/contents"), place.names("etc")];
        for name in ["state/files/bot/.new-1", "state/files/bot/contents/.new-2"] {
            place.write(name, "half");
        }
        for name in ["a", "link"] {
            let beside = format!("etc/.hale-put-back-{:.16}", Hash::of(name.as_bytes()).to_string());
            place.write(&beside, "half");
        }
        let files = place.open(["etc/a", "etc/link"]);
        let after = [place.names("state/files/bot"), place.names("state/files/bot/contents"), place.names("etc")];
        assert_eq!(before, after);
        files.put_back(id, None, None).unwrap();
    }

    /// A process that is killed in the middle of copying and putting back, at whatever point it is, again and again.
    #[test]
    fn a_kill_leaves_the_old_or_the_new() {
        const PLACE: &str = "HALE_TEST_FILES";
        let names = ["etc/a", "etc/b"];
        let texts = ["1", "2"].map(|text| text.repeat(100_000));
        let open = |dir: &Path| {
            let paths = names.map(|name| dir.join(name));
            Files::open(&dir.join("state"), &Name::try_from("bot").unwrap(), paths, None, 0).unwrap()
        };
        if let Some(dir) = std::env::var_os(PLACE) {
            let dir = Path::new(&dir);
            let mut files = open(dir);
            // Ends by the signal alone.
            for n in 0.. {
                let mut ids = BTreeSet::new();
                for text in &texts {
                    fs::write(dir.join("etc/new"), text).unwrap();
                    fs::rename(dir.join("etc/new"), dir.join("etc/a")).unwrap();
                    fs::write(dir.join("etc/new"), text).unwrap();
                    fs::rename(dir.join("etc/new"), dir.join("etc/b")).unwrap();
                    ids.insert(kept(&files));
                }
                for id in &ids {
                    files.put_back(*id, None, None).unwrap();
                }
                println!("\n{n}");
                files.retain(&ids).unwrap();
                files.retain(&BTreeSet::new()).unwrap();
            }
            return;
        }
        let place = Place::new();
        for lines in [1, 2, 3, 5, 8, 4, 1, 6, 2, 7] {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "generations::files::tests::a_kill_leaves_the_old_or_the_new", "--nocapture"])
                .env(PLACE, place.0.path())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let said = BufReader::new(child.stdout.take().unwrap()).lines();
            let is_number = |line: &String| line.parse::<usize>().is_ok();
            assert_eq!(said.map(Result::unwrap).filter(is_number).take(lines).count(), lines);
            child.kill().unwrap();
            child.wait().unwrap();
            let files = open(place.0.path());
            for name in ["a", "b"] {
                assert!(texts.contains(&place.text(&format!("etc/{name}"))), "{name} is a part of something");
            }
            let ids = place.names("state/files/bot").into_iter().filter_map(|name| Hash::from_hex(name.as_bytes()));
            for id in ids {
                files.put_back(FilesId(id), None, None).unwrap();
                assert_eq!(files.current().unwrap(), FilesId(id));
            }
            let left: Vec<String> = place.names("etc").into_iter().filter(|name| name.starts_with(".hale")).collect();
            assert_eq!(left, [""; 0]);
        }
    }

    mod needs_root {
        use super::*;

        /// All of it once more without rights that override modes.
        #[test]
        fn whoever_is_not_root_has_files_too() {
            if !inside("generations::files::tests::needs_root::whoever_is_not_root_has_files_too", ORDINARY_USER) {
                return;
            }
            assert!(!rustix::process::geteuid().is_root());
            the_same_state_has_the_same_id_and_another_one_has_another();
            what_cannot_be_copied_is_a_state_and_an_error_that_says_what_to_do();
            damage_is_told_and_mended_by_the_next_copy();
        }

        mod needs_loop {
            mod needs_python {
                use super::super::*;
                use crate::generations::files::testing::OWN_MOUNTS;
                use crate::generations::testing::Disk;

                /// What was kept is there, and what was put back is the whole file: never a part of one.
                #[test]
                fn a_loss_of_power_after_a_put_back_leaves_whole_files() {
                    let test = "generations::files::tests::needs_root::needs_loop::needs_python::\
                                a_loss_of_power_after_a_put_back_leaves_whole_files";
                    if !inside(test, OWN_MOUNTS) {
                        return;
                    }
                    let place = Place(tempfile::tempdir().unwrap());
                    let disk = Disk::new(place.0.path(), 16 << 20);
                    place.fill();
                    let good = ["1", "2"].map(|text| text.repeat(100_000));
                    let write = |texts: &[String; 2]| {
                        place.write("etc/a", &texts[0]);
                        place.write("etc/b", &texts[1]);
                    };
                    write(&good);
                    let open = || place.open(["etc/a", "etc/b"]);
                    let id = kept(&open());
                    // The copy alone is durable, whatever becomes of the files that were copied.
                    disk.lose_power();
                    disk.come_back();
                    open().verify(id).unwrap();
                    for round in 0..3 {
                        // Somebody's edit, which nobody has synced.
                        write(&[format!("bad {round}"), String::new()]);
                        let files = open();
                        let bad = kept(&files);
                        assert_eq!(files.put_back(id, None, Some(bad)).unwrap().len(), 2);
                        disk.lose_power();
                        drop(files);
                        disk.come_back();
                        assert_eq!(["etc/a", "etc/b"].map(|name| place.text(name)), good);
                        let files = open();
                        assert_eq!(files.current().unwrap(), id);
                        [id, bad].into_iter().for_each(|id| files.verify(id).unwrap());
                    }
                }
            }
        }
    }
}
