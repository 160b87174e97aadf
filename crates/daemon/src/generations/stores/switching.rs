//! What is done with a store that concerns the service's data too: a switch, and what a generation brings for it.

use super::jobs::{Switch, Undo};
use super::{Key, Setting, Source, Stores};
use crate::generations::hook::{Hook, Served, Which};
use crate::generations::{Generations, StoreError, Towards, notes, root};
use hale_config::ReleaseFile;
use hale_core::event::SwitchError;
use hale_core::ids::GenerationId;
use hale_core::safeswitch::Data;
use std::time::Duration;

/// What a switch has come to.
pub(super) enum Done {
    Switched,
    /// What it leads to says something of the data, which has to be on record first.
    Prepared(Data),
}

impl Stores {
    /// Switches, if there is a way back, and if what it leads to can read the data.
    pub(super) fn switch(
        &self,
        key: &Key,
        setting: &Setting,
        store: &mut dyn Generations,
        order: &Switch,
    ) -> Result<Done, SwitchError> {
        let Switch { to, back, towards, data_at_least, prepared, .. } = order;
        if let Some(back) = back {
            store.prepare(back).map_err(|error| SwitchError::NoWayBack { error: error.to_string() })?;
        }
        let is_new = *towards == Towards::New;
        if is_new {
            store.prepare(to).map_err(failed)?;
        }
        let says_first = is_new && !prepared;
        // Nothing that cannot be read keeps the service from what was good.
        if says_first || *data_at_least > 0 {
            let notes = store.notes(to).map_err(failed)?;
            if notes.data_format < *data_at_least {
                return Err(SwitchError::DataMovedOn { format: notes.data_format, at_least: *data_at_least });
            }
            if says_first {
                let data = self.run_before(key, setting, store, to, &notes)?;
                if !data.is_silent() {
                    return Ok(Done::Prepared(data));
                }
            }
        }
        store.activate(to, *towards).map_err(failed)?;
        Ok(Done::Switched)
    }

    /// What it says of the data, with what its `before_switch` has printed.
    fn run_before(
        &self,
        key: &Key,
        setting: &Setting,
        store: &mut dyn Generations,
        to: &GenerationId,
        notes: &ReleaseFile,
    ) -> Result<Data, SwitchError> {
        if notes.before_switch.is_empty() {
            return Ok(notes::data(notes, None));
        }
        let from = store.current().map_err(failed)?;
        let (from, snapshot) = (from.as_ref(), None);
        let (which, command) = (Which::BeforeSwitch, &notes.before_switch);
        let printed = self.run_hook(key, setting, notes, &Wanted { which, command, of: to, from, to, snapshot });
        Ok(notes::data(notes, printed.map_err(|error| SwitchError::Hook { error })?))
    }

    /// Runs the `after_rollback` of what was gone back from.
    pub(super) fn undo(
        &self,
        key: &Key,
        setting: &Setting,
        store: &mut dyn Generations,
        order: &Undo,
    ) -> Result<(), String> {
        let Undo { of, to, snapshot, .. } = order;
        let text = |error: StoreError| error.to_string();
        store.prepare(of).map_err(text)?;
        let notes = store.notes(of).map_err(text)?;
        if notes.after_rollback.is_empty() {
            // It was on record that there is something, and a generation does not change.
            return Err(format!("{} brings no after_rollback any more", of.short()));
        }
        let (which, command, snapshot) = (Which::AfterRollback, &notes.after_rollback, snapshot.as_deref());
        let wanted = Wanted { which, command, of, from: Some(of), to, snapshot };
        self.run_hook(key, setting, &notes, &wanted).map(drop)
    }

    fn run_hook(
        &self,
        (service, _): &Key,
        setting: &Setting,
        notes: &ReleaseFile,
        wanted: &Wanted<'_>,
    ) -> Result<Option<String>, String> {
        let Wanted { which, command, of, from, to, snapshot } = *wanted;
        let directory = match &setting.source {
            Source::Store(kind) => root(kind, &self.0.state_dir, service, of),
            Source::Files { .. } => None,
        };
        let Some(directory) = directory else { return Err(format!("{} has no directory", of.short())) };
        let within = Duration::from_micros(notes.hook_timeout.as_us());
        let hook = Hook { which, of, root: &directory, command, within, from, to, snapshot };
        let served = Served { service, user: setting.user.as_deref(), variables: &setting.variables };
        let _aside = self.step_aside();
        hook.run(served, &self.0.trees)
    }

    /// What is switched to says this of the data. What cannot be used is told on Hale's own output where it `is_new`, and says nothing.
    pub(super) fn said(
        &self,
        (service, _): &Key,
        store: &mut dyn Generations,
        current: Option<&GenerationId>,
        is_new: bool,
    ) -> Data {
        match current.map(|current| store.notes(current)).transpose() {
            Ok(notes) => notes.map_or_else(Data::default, |notes| notes::data(&notes, None)),
            Err(error) => {
                if is_new {
                    eprintln!("hale: {service}: what is switched to counts as saying nothing of the data: {error}");
                }
                Data::default()
            }
        }
    }

    /// Until it is dropped this thread, which waits for a program that may take an hour, is none of those that work on stores.
    fn step_aside(&self) -> Aside<'_> {
        let mut table = self.table();
        table.threads = table.threads.saturating_sub(1);
        if !table.ready.is_empty() {
            self.one_more(&mut table);
        }
        Aside(self)
    }
}

/// See [`Stores::step_aside`].
struct Aside<'a>(&'a Stores);

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        self.0.table().threads += 1;
    }
}

/// A program to run, and what it is told.
struct Wanted<'a> {
    which: Which,
    command: &'a [String],
    of: &'a GenerationId,
    from: Option<&'a GenerationId>,
    to: &'a GenerationId,
    snapshot: Option<&'a str>,
}

fn failed(error: StoreError) -> SwitchError {
    match error {
        StoreError::Damaged { .. }
        | StoreError::Missing(_)
        | StoreError::Altered { .. }
        | StoreError::NotThere { .. } => SwitchError::Unusable { error: error.to_string() },
        StoreError::Notes(error) => SwitchError::Hook { error },
        error => SwitchError::Failed { error: error.to_string() },
    }
}
