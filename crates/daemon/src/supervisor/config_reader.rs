//! Reading the configuration again, on a thread of its own: its file system may hang.

use super::inbox::Inbox;
use crate::monitor::config_file::{self, LoadError};
use hale_config::Diagnostic;
use hale_core::event::{Event, Question, Reading};
use hale_core::ids::RequestId;
use hale_core::reason::Reason;
use hale_core::record::Actor;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// How much of what is wrong with a configuration is told, in bytes: the first dozen of mistakes. `hale validate` tells all.
const ERROR_BYTES_MAX: usize = 4 * 1024;

/// How many may wait for the reading under way: its file system hangs, or more is a script gone wild.
const WAITING_MAX: usize = 64;

/// Reads the configuration when somebody orders a reload. One reading at a time, so that none that began earlier comes later;
/// who comes meanwhile gets what the next one says.
#[derive(Debug, Clone)]
pub struct ConfigReader {
    file: Arc<PathBuf>,
    inbox: Inbox,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    reads: bool,
    waiting: Vec<(RequestId, Actor)>,
}

impl ConfigReader {
    /// A reader of this file, and of what belongs to it.
    #[must_use]
    pub fn new(file: PathBuf, inbox: Inbox) -> Self {
        Self { file: Arc::new(file), inbox, state: Arc::default() }
    }

    /// Reads it, and tells the loop what it says, or why it cannot be used. Returns at once.
    pub fn read(&self, request: RequestId, actor: Actor) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.waiting.len() >= WAITING_MAX {
            drop(state);
            return self.tell(request, actor, Reading::Refused { why: Reason::ReloadInProgress });
        }
        state.waiting.push((request, actor));
        if std::mem::replace(&mut state.reads, true) {
            return;
        }
        drop(state);
        let reader = self.clone();
        let started = std::thread::Builder::new().name(String::from("reload")).spawn(move || reader.read_for_all());
        if let Err(error) = started {
            let error = format!("it cannot be read: no thread for it: {error}");
            for (request, actor) in self.next().unwrap_or_default() {
                let why = Reason::InvalidConfiguration { error: error.clone() };
                self.tell(request, actor, Reading::Refused { why });
            }
            self.state.lock().unwrap_or_else(PoisonError::into_inner).reads = false;
        }
    }

    /// Those that the next reading is for; `None`: nobody, and there is none.
    fn next(&self) -> Option<Vec<(RequestId, Actor)>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.reads = !state.waiting.is_empty();
        state.reads.then(|| std::mem::take(&mut state.waiting))
    }

    fn read_for_all(&self) {
        while let Some(all) = self.next() {
            let loaded = catch_unwind(|| config_file::load(&self.file));
            let reading = match loaded {
                Ok(Ok(loaded)) => {
                    let (policy, hash) = (Box::new(loaded.validated.policy), loaded.validated.hash);
                    Reading::Valid { policy, hash }
                }
                Ok(Err(error)) => refused(&error),
                Err(_) => {
                    let error = String::from("reading it failed by a mistake of Hale's own; the log has its words");
                    Reading::Refused { why: Reason::InvalidConfiguration { error } }
                }
            };
            for (request, actor) in all {
                self.tell(request, actor, reading.clone());
            }
        }
    }

    fn tell(&self, request: RequestId, actor: Actor, reading: Reading) {
        self.inbox.send(Event::Asked { request, question: Question::Reload { actor, reading } });
    }
}

/// What is wrong, and where, without the lines themselves: this goes into the ledger, and they may hold secrets.
fn refused(error: &LoadError) -> Reading {
    let mut text = match error {
        LoadError::Invalid(mistakes) => {
            let line = |mistake: &Diagnostic| {
                let help = mistake.help.as_ref().map(|help| format!("\n  help: {help}")).unwrap_or_default();
                format!("{}:{}:{}: {}{help}", mistake.file, mistake.line, mistake.column, mistake.message)
            };
            mistakes.iter().map(line).collect::<Vec<_>>().join("\n")
        }
        other => other.to_string(),
    };
    if text.len() > ERROR_BYTES_MAX {
        let end = text[..text.floor_char_boundary(ERROR_BYTES_MAX)].rfind('\n').unwrap_or(ERROR_BYTES_MAX);
        text.truncate(text.floor_char_boundary(end));
        text.push_str("\n… and more: `hale validate` tells all of it");
    }
    Reading::Refused { why: Reason::InvalidConfiguration { error: text } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::inbox::inbox;
    use rustix::event::{PollFd, PollFlags, poll};
    use std::fs;

    fn read(text: &str) -> Reading {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hale.toml");
        fs::write(&file, text).unwrap();
        let (inbox, outlet) = inbox().unwrap();
        let actor = Actor { uid: 0, pid: 1, user: None };
        ConfigReader::new(file, inbox).read(RequestId(7), actor);
        poll(&mut [PollFd::new(&outlet, PollFlags::IN)], None).unwrap();
        match outlet.take() {
            Some(Event::Asked { request: RequestId(7), question: Question::Reload { reading, .. } }) => reading,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_valid_comes_with_its_hash_and_what_is_wrong_with_its_place() {
        let valid = read("[service.bot]\ncommand = [\"/bin/bot\"]\n");
        assert!(matches!(valid, Reading::Valid { policy, .. } if policy.services.len() == 1));
        let Reading::Refused { why: Reason::InvalidConfiguration { error } } = read("[service.bot]\ncomand = 1\n")
        else {
            panic!()
        };
        assert!(error.contains("hale.toml:2:1") && error.contains("command"), "{error}");
    }

    #[test]
    fn of_very_many_mistakes_the_first_are_told() {
        let many: String = (0..1_000).map(|number| format!("[service.s{number}]\nno_such_key = 1\n")).collect();
        let Reading::Refused { why: Reason::InvalidConfiguration { error } } = read(&many) else { panic!() };
        assert!(error.len() < ERROR_BYTES_MAX + 100 && error.ends_with("`hale validate` tells all of it"), "{error}");
    }
}
