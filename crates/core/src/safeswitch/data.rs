//! What a generation says of its service's data: nothing runs on data that is too new for it.

use super::{Aim, End, Generations, Switch};
use crate::ids::GenerationId;
use crate::reason::Reason;
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// What stands in a generation's `hale-release.toml`; without one, all of it is 0 or absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Data {
    /// The newest format of the service's data that it can read, and the one that it leaves behind.
    #[serde(default)]
    pub format: u32,
    /// The oldest `format` of a generation that can still read the data once this one has run; at most `format`.
    #[serde(default)]
    pub min_rollback: u32,
    /// Whether it brings `after_rollback`, which undoes what it did to the data.
    #[serde(default)]
    pub undoes: bool,
    /// What its `before_switch` has printed last: what names the copy that it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
}

/// What is remembered of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Format {
    /// See [`Data::format`].
    pub format: u32,
    /// See [`Data::min_rollback`].
    #[serde(default)]
    pub min_rollback: u32,
}

/// What a generation did to the data, and its `after_rollback` undoes as long as it has not proved itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undoable {
    /// Which generation.
    pub of: GenerationId,
    /// See [`Data::snapshot`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The oldest format of data that could be switched to before it.
    #[serde(default)]
    pub data_at_least: u32,
}

impl Data {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        *self == Self::default()
    }
}

impl Generations {
    /// What the switch leads to says this of the data.
    pub(super) fn prepare(&mut self, data: &Data) {
        let Some(switch) = &mut self.switch else { return };
        if data.format >= self.data_at_least {
            // Who insists on what can read the data has not brought other data.
            switch.intent.data_at_least = self.data_at_least;
        }
        switch.learn(data);
        let id = switch.intent.to.clone();
        self.learn(&id, data);
    }

    /// What a generation says of the data is known from now on.
    pub(super) fn learn(&mut self, id: &GenerationId, data: &Data) {
        if data.format > 0 {
            self.formats.insert(id.clone(), Format { format: data.format, min_rollback: data.min_rollback });
        }
    }

    /// Who orders to go back from a change that is held undoes it. The ladder does not: what came since is not its to lose.
    pub(super) fn undo_with_switch(&mut self) {
        if let Some(switch) = self.switch.as_mut().filter(|switch| matches!(switch.intent.aim, Aim::Return { .. })) {
            switch.undoes = self.undoable.clone();
        }
    }

    pub(super) fn format(&self, id: &GenerationId) -> Format {
        self.formats.get(id).copied().unwrap_or_default()
    }

    /// The oldest format of data that what is switched to now must read.
    fn readable_from(&self) -> u32 {
        self.switch.as_ref().map_or(self.data_at_least, Switch::readable_from)
    }

    /// The same for a way back that somebody orders: it undoes what a change that is held did to the data.
    #[must_use]
    pub fn readable_from_by_order(&self) -> u32 {
        match (&self.switch, &self.undoable) {
            (None, Some(undoable)) => undoable.data_at_least,
            (Some(_), _) | (None, None) => self.readable_from(),
        }
    }

    /// Why the data keeps this one from being gone back to, if it does.
    #[must_use]
    pub fn moved_on(&self, id: &GenerationId) -> Option<Reason> {
        self.unreadable(id, self.readable_from())
    }

    /// The same where somebody orders it.
    #[must_use]
    pub fn moved_on_by_order(&self, id: &GenerationId) -> Option<Reason> {
        self.unreadable(id, self.readable_from_by_order())
    }

    fn unreadable(&self, id: &GenerationId, at_least: u32) -> Option<Reason> {
        let Format { format, .. } = self.format(id);
        (format < at_least).then(|| Reason::DataMovedOn { generation: id.clone(), format, at_least })
    }

    /// Whether what a switch led to may have changed the data for good.
    pub(super) fn may_have_moved(&self, switch: &Switch, end: &End) -> bool {
        match end {
            End::RolledBack { .. } => switch.has_moved_data() && switch.undoes.is_none(),
            // After a loss of power: it may have run and gone back, where what it goes back to can read what it left.
            End::Aborted { why: Reason::Interrupted } if !switch.data.is_silent() => {
                let from = switch.intent.from.as_ref().map_or(0, |id| self.format(id).format);
                switch.data.min_rollback <= from
            }
            End::Committed
            | End::Aborted { .. }
            | End::Held { .. }
            | End::Environmental { .. }
            | End::Stopped { .. } => switch.has_moved_data(),
        }
    }
}
