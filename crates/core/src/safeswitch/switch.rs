//! The machine of one switch: its stages, and the one door through which they change.

use super::{Data, Failure, Held, Move, Undoable};
use crate::ids::{GenerationId, IncidentId, Name, RecordId};
use crate::reason::Reason;
use crate::record::{Actor, Record};
use crate::time::Monotonic;
use crate::world::phase::Illegal;
use alloc::collections::BTreeSet;
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// What a switch is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "aim", rename_all = "snake_case")]
pub enum Aim {
    /// Something new that has to prove itself.
    Deploy {
        /// Who ordered it.
        actor: Actor,
    },
    /// Somebody else has switched: that has to prove itself too, from its next process on.
    Outside,
    /// Back to what was good, as the ladder says.
    TakeBack {
        /// In which incident.
        incident: IncidentId,
        /// Which failure it is for.
        #[serde(flatten)]
        failure: Failure,
    },
    /// Forward again, to what was taken back and is not the cause.
    PutBack {
        /// In which incident.
        incident: IncidentId,
    },
    /// Back to what was good, as somebody ordered.
    Return {
        /// Who.
        actor: Actor,
    },
}

impl Aim {
    /// Whether what is switched to has to prove itself.
    #[must_use]
    pub fn proves(&self) -> bool {
        match self {
            Self::Deploy { .. } | Self::Outside => true,
            Self::TakeBack { .. } | Self::PutBack { .. } | Self::Return { .. } => false,
        }
    }
}

/// What is to be done, as it stands on record before anything is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// What for.
    #[serde(flatten)]
    pub aim: Aim,
    /// What was switched to before; none: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<GenerationId>,
    /// What is to be switched to.
    pub to: GenerationId,
    /// Where it goes when that does not work; none: nowhere, the service is stopped then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<GenerationId>,
    /// Checks that failed before: they cannot be the reason to go back.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub failed_before: BTreeSet<Name>,
    /// The oldest format of data that it may be of; 0: any, as where somebody insists.
    #[serde(default, skip_serializing_if = "super::is_zero")]
    pub data_at_least: u32,
    /// The kernel's name of this boot.
    pub boot_id: String,
}

/// How far a switch is. Each stage carries all that it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage {
    /// It is on record and not known to be on the disk; nothing is done.
    Intended {
        /// Since when.
        since: Monotonic,
    },
    /// What it says of the data is on record, and is not known to be on the disk; nothing is switched.
    Prepared {
        /// The record of that.
        prepared: RecordId,
        /// Since when.
        since: Monotonic,
    },
    /// The store was told.
    Switching,
    /// It is switched to, and has to prove itself.
    Probation {
        /// How long it has.
        held: Held,
    },
    /// The proof is on record; the store is told once that is on the disk.
    Committing {
        /// The record of the proof.
        proved: RecordId,
        /// Whether the store was told.
        told: bool,
        /// Since when.
        #[serde(default)]
        since: Monotonic,
    },
    /// The store was told to go back.
    GoingBack {
        /// Where to.
        to: GenerationId,
        /// Why.
        why: Reason,
    },
    /// It is switched to what was good, which has to be healthy again.
    Validating {
        /// Why it went back.
        why: Reason,
    },
}

impl Intent {
    /// Why it goes to what is known to be good.
    fn why(&self) -> Reason {
        match &self.aim {
            Aim::Return { actor } | Aim::Deploy { actor } => Reason::Ordered { actor: actor.clone() },
            Aim::TakeBack { .. } | Aim::Outside => Reason::NewestChange { change: self.from.clone() },
            Aim::PutBack { .. } => Reason::CauseElsewhere,
        }
    }
}

impl Stage {
    /// Its name in JSON.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Intended { .. } => "intended",
            Self::Prepared { .. } => "prepared",
            Self::Switching => "switching",
            Self::Probation { .. } => "probation",
            Self::Committing { .. } => "committing",
            Self::GoingBack { .. } => "going_back",
            Self::Validating { .. } => "validating",
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Intended { .. } => "a switch is intended",
            Self::Prepared { .. } => "a switch is prepared",
            Self::Switching => "a switch is under way",
            Self::Probation { .. } => "a change is on probation",
            Self::Committing { .. } => "a switch is being committed",
            Self::GoingBack { .. } => "a switch goes back",
            Self::Validating { .. } => "what was good is validated",
        }
    }
}

/// How a switch ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum End {
    /// What was switched to is known to be good.
    Committed,
    /// What was good runs again and is healthy.
    RolledBack {
        /// Why.
        why: Reason,
    },
    /// Nothing was changed, or it was changed back at once.
    Aborted {
        /// Why.
        why: Reason,
    },
    /// What was switched to stays, and is not known to be good.
    Held {
        /// Why.
        why: Reason,
    },
    /// What was good does not work either: the cause is elsewhere.
    Environmental {
        /// What was found.
        why: Reason,
    },
    /// It did not work, and there was nothing to go back to.
    Stopped {
        /// Why.
        why: Reason,
    },
}

/// A switch that is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// The record of its intent: what names it.
    pub id: RecordId,
    /// What is to be done.
    pub intent: Intent,
    /// How far it is.
    pub stage: Stage,
    /// What it says of the service's data, once that is known.
    #[serde(default, skip_serializing_if = "Data::is_silent")]
    pub data: Data,
    /// What is undone when it goes back, or by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<Undoable>,
    /// The record that this is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone: Option<RecordId>,
}

impl Switch {
    /// What follows from a record, or why nothing does. `None`: no switch any more.
    ///
    /// # Errors
    /// [`Illegal`] when there is no such move now; nothing is changed then.
    pub fn transition(before: Option<&Self>, record: &Record, moved: &Move) -> Result<Option<Self>, Illegal> {
        let illegal = |record| {
            let phase = before.map_or("no switch is under way", |switch| switch.stage.name());
            Err(Illegal { phase, record })
        };
        let of = |id: &RecordId| before.filter(|switch| switch.id == *id);
        let to = |switch: &Self, stage| Ok(Some(Self { stage, ..switch.clone() }));
        let prepared = record.id;
        match moved {
            Move::Intended { intent } => match before {
                None => {
                    let stage = Stage::Intended { since: record.at.mono };
                    let intent = (**intent).clone();
                    let data = Data::default();
                    Ok(Some(Self { id: record.id, intent, stage, data, undoes: None, undone: None }))
                }
                Some(_) => illegal("a second switch"),
            },
            Move::Begun { switch } => match of(switch) {
                Some(it) if matches!(it.stage, Stage::Intended { .. } | Stage::Prepared { .. }) => {
                    to(it, Stage::Switching)
                }
                _ => illegal("the begin of a switch"),
            },
            Move::Prepared { switch, data } => match of(switch) {
                Some(it) if it.stage == Stage::Switching && it.data.is_silent() && it.intent.aim.proves() => {
                    let stage = Stage::Prepared { prepared, since: record.at.mono };
                    let mut it = Self { stage, ..it.clone() };
                    it.learn(data);
                    Ok(Some(it))
                }
                _ => illegal("what a generation says of the data"),
            },
            Move::Undone { switch, error } => match of(switch) {
                Some(it) if it.owes_undoing() => {
                    Ok(Some(Self { undone: error.is_none().then_some(record.id), ..it.clone() }))
                }
                _ => illegal("the undoing of a change"),
            },
            Move::Switched { switch, to: reached } => match of(switch) {
                Some(it) => match &it.stage {
                    Stage::Switching if *reached == it.intent.to => to(
                        it,
                        if it.intent.aim.proves() {
                            Stage::Probation { held: Held::default() }
                        } else {
                            Stage::Validating { why: it.intent.why() }
                        },
                    ),
                    Stage::GoingBack { to: back, why } if reached == back => {
                        to(it, Stage::Validating { why: why.clone() })
                    }
                    // The first start after a loss of power found it so.
                    Stage::Committing { .. } if *reached == it.intent.to => Ok(Some(it.clone())),
                    Stage::Intended { .. }
                    | Stage::Prepared { .. }
                    | Stage::Switching
                    | Stage::Probation { .. }
                    | Stage::Committing { .. }
                    | Stage::GoingBack { .. }
                    | Stage::Validating { .. } => illegal("a generation nobody asked for"),
                },
                None => illegal("a generation nobody asked for"),
            },
            Move::Marked { switch, so_far } => match of(switch) {
                Some(it) => {
                    let Stage::Probation { mut held } = it.stage else { return illegal("a part of a proof") };
                    held.mark(*so_far, record.at.mono);
                    to(it, Stage::Probation { held })
                }
                None => illegal("a part of a proof"),
            },
            Move::Proved { switch } => match of(switch) {
                Some(it) if matches!(it.stage, Stage::Probation { .. }) => {
                    to(it, Stage::Committing { proved: record.id, told: false, since: record.at.mono })
                }
                _ => illegal("a proof"),
            },
            Move::Promoting { switch } => match of(switch) {
                Some(it) => match it.stage {
                    Stage::Committing { proved, since, .. } => to(it, Stage::Committing { proved, told: true, since }),
                    Stage::Intended { .. }
                    | Stage::Prepared { .. }
                    | Stage::Switching
                    | Stage::Probation { .. }
                    | Stage::GoingBack { .. }
                    | Stage::Validating { .. } => illegal("a commit"),
                },
                None => illegal("a commit"),
            },
            Move::GoesBack { switch, to: back, why } => match of(switch) {
                // It is never gone forward to by going back, nor once its proof is on record.
                Some(it)
                    if matches!(
                        it.stage,
                        Stage::Committing { .. } | Stage::Intended { .. } | Stage::Prepared { .. }
                    ) =>
                {
                    illegal("going back")
                }
                Some(it) => to(it, Stage::GoingBack { to: back.clone(), why: why.clone() }),
                None => illegal("going back"),
            },
            Move::Ended { switch, end } => match of(switch) {
                Some(it) if it.stage.may_end(end) => Ok(None),
                _ => illegal(end.name()),
            },
            Move::Kept { known } => Ok(known.switch.clone()),
            Move::Seen { .. }
            | Move::Unseen { .. }
            | Move::Soaked { .. }
            | Move::Proven { .. }
            | Move::Settled
            | Move::Quarantined { .. }
            | Move::Cleared { .. } => Ok(before.cloned()),
        }
    }
}

impl Switch {
    /// What it leads to says this of the data.
    pub(super) fn learn(&mut self, data: &Data) {
        let (of, data_at_least) = (self.intent.to.clone(), self.intent.data_at_least);
        let undoable = Undoable { of, snapshot: data.snapshot.clone(), data_at_least };
        self.undoes = data.undoes.then_some(undoable);
        self.data = data.clone();
    }

    /// What it may leave, lead to, and go back to.
    pub(crate) fn touches(&self) -> impl Iterator<Item = &GenerationId> {
        let Intent { from, to, back, .. } = &self.intent;
        [Some(to), from.as_ref(), back.as_ref()].into_iter().flatten()
    }

    /// Whether `after_rollback` has to run before anything is started: it is on what was good before, whose data were changed since.
    #[must_use]
    pub fn owes_undoing(&self) -> bool {
        matches!(self.stage, Stage::Validating { .. }) && self.undoes.is_some() && self.undone.is_none()
    }

    /// What is switched to after this end, where that follows from it.
    pub(super) fn leads_to(&self, end: &End) -> Option<GenerationId> {
        let back = match &self.stage {
            Stage::GoingBack { to, .. } => Some(to),
            Stage::Intended { .. }
            | Stage::Prepared { .. }
            | Stage::Switching
            | Stage::Probation { .. }
            | Stage::Committing { .. }
            | Stage::Validating { .. } => self.intent.back.as_ref(),
        };
        match (end, &self.intent.aim) {
            (End::Committed, _)
            | (End::Environmental { .. }, Aim::PutBack { .. })
            | (End::RolledBack { .. }, Aim::TakeBack { .. } | Aim::PutBack { .. } | Aim::Return { .. }) => {
                Some(&self.intent.to)
            }
            (End::RolledBack { .. }, Aim::Deploy { .. } | Aim::Outside)
            | (
                End::Environmental { .. },
                Aim::Deploy { .. } | Aim::Outside | Aim::TakeBack { .. } | Aim::Return { .. },
            ) => back,
            (End::Aborted { .. } | End::Held { .. } | End::Stopped { .. }, _) => None,
        }
        .cloned()
    }

    /// Whether a process of what it leads to may have run, and what that did to the data was not undone.
    pub(super) fn has_moved_data(&self) -> bool {
        let may_have_run = match self.stage {
            Stage::Intended { .. } | Stage::Prepared { .. } | Stage::Switching => false,
            Stage::Probation { .. } | Stage::Committing { .. } | Stage::GoingBack { .. } | Stage::Validating { .. } => {
                true
            }
        };
        self.intent.aim.proves() && may_have_run && self.undone.is_none()
    }

    /// The oldest format of data that it can go back to, or to: what is undone keeps it from nothing.
    pub(super) fn readable_from(&self) -> u32 {
        match &self.undoes {
            Some(undoes) => undoes.data_at_least,
            None => self.intent.data_at_least.max(self.data.min_rollback),
        }
    }

    /// Whether what was taken back before is where it goes, or went: that is over once it is there.
    #[must_use]
    pub fn is_put_back(&self) -> bool {
        match (&self.intent.aim, &self.stage) {
            (Aim::PutBack { .. }, _) => true,
            (Aim::TakeBack { .. }, Stage::GoingBack { why, .. } | Stage::Validating { why }) => {
                matches!(why, Reason::GoodFailsToo { .. })
            }
            (Aim::Deploy { .. } | Aim::Outside | Aim::Return { .. } | Aim::TakeBack { .. }, _) => false,
        }
    }
}

impl Stage {
    /// Whether a switch may end so from here.
    fn may_end(&self, end: &End) -> bool {
        match end {
            // Never without a proof on record.
            End::Committed => matches!(self, Self::Committing { told: true, .. }),
            // Never before what was good is healthy.
            End::RolledBack { .. } | End::Environmental { .. } => matches!(self, Self::Validating { .. }),
            End::Aborted { .. } => {
                matches!(
                    self,
                    Self::Intended { .. }
                        | Self::Prepared { .. }
                        | Self::Switching
                        | Self::Probation { .. }
                        | Self::GoingBack { .. }
                )
            }
            End::Held { .. } => !matches!(self, Self::Intended { .. } | Self::Prepared { .. } | Self::Switching),
            End::Stopped { .. } => matches!(self, Self::Switching | Self::Probation { .. }),
        }
    }
}

impl End {
    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::RolledBack { .. } => "rolled back",
            Self::Aborted { .. } => "aborted",
            Self::Held { .. } => "held",
            Self::Environmental { .. } => "environmental",
            Self::Stopped { .. } => "stopped",
        }
    }
}
