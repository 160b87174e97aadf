//! The store `command`: generations that an operator's programs keep, whatever these are made of.

use super::error::{ProgramFault, StoreError};
use super::program::Program;
use super::{Generations, GoesOn, Kept, Towards, Unprotected};
use crate::execute::program::DEFAULT_PATH;
use hale_core::ids::{GenerationId, Name};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

/// 10 s: these only look. An answer that takes longer is of no use to a service that is down meanwhile.
const LOOK_WITHIN: Duration = Duration::from_secs(10);
/// 15 min: this may fetch and unpack some GiB from a network, and the service runs on meanwhile.
const STAGE_WITHIN: Duration = Duration::from_secs(15 * 60);
/// 60 s: what is staged is there, so that a switch is a few calls to the system or to a daemon; the service may be down meanwhile.
const SWITCH_WITHIN: Duration = Duration::from_secs(60);

/// Programs that keep the generations of one service. They run as Hale's own user, with `PATH` and `HALE_SERVICE` alone, in `/`.
#[derive(Debug)]
pub struct Commands {
    pub(super) programs: Programs,
    environment: Vec<(OsString, OsString)>,
    bounds: Bounds,
}

/// Each is a program with its first arguments; see [`StoreKind::Command`](hale_core::policy::StoreKind::Command).
#[derive(Debug, Clone)]
pub(super) struct Programs {
    pub(super) list: Vec<String>,
    pub(super) current: Vec<String>,
    pub(super) stage: Vec<String>,
    pub(super) activate: Vec<String>,
    pub(super) revert: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
struct Bounds {
    look: Duration,
    stage: Duration,
    switch: Duration,
}

impl Commands {
    pub(super) fn new(programs: Programs, service: &Name) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        let environment = vec![("PATH".into(), path), ("HALE_SERVICE".into(), service.as_str().into())];
        let bounds = Bounds { look: LOOK_WITHIN, stage: STAGE_WITHIN, switch: SWITCH_WITHIN };
        Self { programs, environment, bounds }
    }

    fn program<'a>(
        &'a self,
        what: String,
        words: &'a [String],
        id: Option<&'a GenerationId>,
        within: Duration,
    ) -> Program<'a> {
        let mut all = words.iter().map(String::as_str).chain(id.map(GenerationId::as_str));
        // The policy has at least one word; an empty path is told by the system to be none.
        let path = PathBuf::from(all.next().unwrap_or_default());
        Program {
            what,
            path,
            arguments: all.map(OsStr::new).collect(),
            environment: &self.environment,
            within,
            confined: None,
        }
    }

    /// The generations that a program names, each once.
    fn named(&self, what: &str, words: &[String]) -> Result<Vec<GenerationId>, StoreError> {
        let program = self.program(what.to_owned(), words, None, self.bounds.look);
        let mut seen = BTreeSet::new();
        let mut named = Vec::new();
        for (number, line) in (1..).zip(program.ask()?) {
            let id = GenerationId::try_from(line)
                .map_err(|error| program.failed(ProgramFault::Rubbish(format!("line {number}: {error}"))))?;
            if seen.insert(id.clone()) {
                named.push(id);
            }
        }
        Ok(named)
    }
}

impl Generations for Commands {
    fn list(&mut self) -> Result<Vec<Kept>, StoreError> {
        let named = self.named("list the generations", &self.programs.list)?;
        Ok(named.into_iter().map(|id| Kept { id, came: None, read: None }).collect())
    }

    fn current(&mut self) -> Result<Option<GenerationId>, StoreError> {
        let what = "learn which generation is current";
        let words = &self.programs.current;
        let mut named = self.named(what, words)?;
        if named.len() > 1 {
            let fault = ProgramFault::Rubbish(format!("{} generations, where one can be current", named.len()));
            return Err(self.program(what.to_owned(), words, None, self.bounds.look).failed(fault));
        }
        Ok(named.pop())
    }

    /// What a generation consists of is known to the programs alone: that they list it is all that can be told.
    fn verify(&mut self, id: &GenerationId) -> Result<(), StoreError> {
        if self.list()?.iter().any(|kept| kept.id == *id) {
            return Ok(());
        }
        let why = format!("{} does not list it", self.programs.list[0]);
        Err(StoreError::NotThere { id: id.clone(), why })
    }

    fn prepare(&mut self, id: &GenerationId) -> Result<(), StoreError> {
        // What is active was made ready when it was switched to.
        if self.current()?.as_ref() == Some(id) {
            return Ok(());
        }
        self.program(format!("stage {id}"), &self.programs.stage, Some(id), self.bounds.stage).act()
    }

    /// Runs the program also where it is current already: a switch that was cut off may be half done. Whether it is durable is the
    /// program's to see to.
    fn activate(&mut self, id: &GenerationId, towards: Towards) -> Result<(), StoreError> {
        let words = match towards {
            Towards::New => &self.programs.activate,
            Towards::Back => &self.programs.revert,
        };
        let acted = self.program(format!("switch to {id}"), words, Some(id), self.bounds.switch).act();
        let program = words.first().cloned().unwrap_or_default();
        let unknown = |why| StoreError::Unknown { id: id.clone(), why: Box::new(why) };
        let found = self.current().map_err(unknown)?;
        match (found.as_ref() == Some(id), acted) {
            (true, Ok(())) => Ok(()),
            // The one says yes and the other no.
            (true, Err(why)) => Err(unknown(why)),
            (false, acted) => {
                let claimed = || format!("{program} exited with 0 all the same");
                let why = acted.err().map_or_else(claimed, |error| error.to_string());
                Err(StoreError::NotSwitched { id: id.clone(), found, why })
            }
        }
    }

    /// Nothing to do: the programs keep what they list.
    fn pin(&mut self, _ids: &BTreeSet<GenerationId>, _goes_on: GoesOn<'_>) -> Result<Unprotected, StoreError> {
        Ok(Vec::new())
    }

    /// Nothing to do: there is no program for it, because what removes is best kept away from what must be able to go back.
    fn retain(
        &mut self,
        _keep: usize,
        _pinned: &BTreeSet<GenerationId>,
        _goes_on: GoesOn<'_>,
    ) -> Result<Vec<GenerationId>, StoreError> {
        Ok(Vec::new())
    }

    fn watched(&self) -> Option<(PathBuf, OsString)> {
        None
    }

    /// Nothing tells when somebody else switches it.
    fn misses(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tempfile::TempDir;

    /// Programs over a directory: a file for each generation, and a link to the current one.
    struct Place {
        dir: TempDir,
        store: Commands,
    }

    fn shell(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script, "sh"].map(str::to_owned).to_vec()
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let switch = format!("test -e {path}/$1 && ln -sfn $1 {path}/current && echo switched");
        let programs = Programs {
            list: shell(&format!("ls -t {path}")),
            current: shell(&format!("readlink {path}/current; true")),
            stage: shell(&format!("echo $HALE_SERVICE > {path}/$1")),
            activate: shell(&switch),
            revert: shell(&format!("{switch}; echo $1 >> {path}/reverted")),
        };
        Place { store: Commands::new(programs, &Name::try_from("bot").unwrap()), dir }
    }

    fn id(text: &str) -> GenerationId {
        GenerationId::try_from(text).unwrap()
    }

    #[test]
    fn generations_are_staged_switched_to_and_back() {
        let Place { dir, mut store } = place();
        assert_eq!((store.list().unwrap(), store.current().unwrap()), (vec![], None));
        let (one, two) = (id("one"), id("two"));
        assert!(matches!(store.verify(&one), Err(StoreError::NotThere { .. })));
        for id in [&one, &two] {
            store.prepare(id).unwrap();
            store.verify(id).unwrap();
        }
        assert_eq!(fs::read_to_string(dir.path().join("one")).unwrap(), "bot\n");
        store.activate(&one, Towards::New).unwrap();
        store.activate(&two, Towards::New).unwrap();
        assert_eq!(store.current().unwrap(), Some(two));
        assert!(!dir.path().join("reverted").exists());
        for _twice in 0..2 {
            store.activate(&one, Towards::Back).unwrap();
            assert_eq!(store.current().unwrap(), Some(one.clone()));
        }
        assert_eq!(fs::read_to_string(dir.path().join("reverted")).unwrap(), "one\none\n");
        assert!(store.pin(&BTreeSet::from([one.clone()]), &|| true).unwrap().is_empty());
        assert_eq!(store.retain(0, &BTreeSet::new(), &|| true).unwrap(), []);
        assert_eq!(store.watched(), None);
        assert!(store.importer().is_none());
    }

    #[track_caller]
    fn not_switched(outcome: Result<(), StoreError>) -> (Option<GenerationId>, String) {
        match outcome {
            Err(StoreError::NotSwitched { found, why, .. }) => (found, why),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_program_claims_is_looked_at() {
        let Place { dir: _dir, mut store } = place();
        let (one, two) = (id("one"), id("two"));
        store.prepare(&one).unwrap();
        store.activate(&one, Towards::New).unwrap();
        // It fails, and changed nothing.
        let (found, why) = not_switched(store.activate(&two, Towards::New));
        assert_eq!(found, Some(one.clone()));
        assert!(why.contains("cannot switch to two: /bin/sh failed (exit status: 1)"), "{why}");
        // It says that it did it, and did not.
        store.programs.activate = shell("exit 0");
        let (found, why) = not_switched(store.activate(&two, Towards::New));
        assert_eq!((found, why.as_str()), (Some(one.clone()), "/bin/sh exited with 0 all the same"));
        // It hangs.
        store.programs.activate = shell("exec sleep 1000");
        store.bounds.switch = Duration::from_millis(200);
        let (_, why) = not_switched(store.activate(&two, Towards::New));
        assert!(why.ends_with("did not end within 0.2 s and was killed"), "{why}");
        // It did it, and says that it failed: nobody knows what else it did not do.
        store.programs.activate = shell("exit 1");
        let both = store.activate(&one, Towards::New);
        assert!(matches!(both, Err(StoreError::Unknown { ref id, .. }) if *id == one), "{both:?}");
        // It cannot be looked at.
        store.programs.activate = shell("exit 0");
        for current in ["exit 1", "echo a; echo b", "echo a b", "printf '\\033[2J'", "exec cat /dev/zero"] {
            store.programs.current = shell(current);
            let unknown = store.activate(&one, Towards::New);
            assert!(matches!(unknown, Err(StoreError::Unknown { .. })), "{unknown:?}");
        }
        store.programs.current = shell("exec sleep 1000");
        store.bounds.look = Duration::from_millis(200);
        let error = store.current().unwrap_err().to_string();
        assert!(error.starts_with("cannot learn which generation is current: /bin/sh did not end"), "{error}");
    }

    #[test]
    fn only_ids_are_listed() {
        let Place { dir: _dir, mut store } = place();
        let rubbish = |store: &mut Commands, list: &str| {
            store.programs.list = shell(list);
            store.list().unwrap_err().to_string()
        };
        let error = rubbish(&mut store, "echo one; printf 'two\\033[2J\\n'");
        assert!(error.contains("wrote what is no answer: line 2: '\\u{1b}' is not allowed"), "{error}");
        let error = rubbish(&mut store, "yes x | head -c 1000 | tr -d '\\n'");
        assert!(error.contains("at most 255 bytes"), "{error}");
        let error = rubbish(&mut store, "yes one");
        assert!(error.ends_with("wrote more than 1048576 bytes and was killed"), "{error}");
        store.programs.list = shell("echo one; echo two; echo one");
        let listed: Vec<GenerationId> = store.list().unwrap().into_iter().map(|kept| kept.id).collect();
        assert_eq!(listed, [id("one"), id("two")]);
    }

    #[test]
    fn a_stage_that_fails_says_why() {
        let Place { dir: _dir, mut store } = place();
        store.programs.stage = shell("echo 'no such image' >&2; exit 4");
        let error = store.prepare(&id("one")).unwrap_err().to_string();
        assert_eq!(error, "cannot stage one: /bin/sh failed (exit status: 4): no such image");
        store.programs.stage = vec!["/nonexistent/stage".to_owned()];
        let error = store.prepare(&id("one")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/stage could not be started: No such file"), "{error}");
    }
}
