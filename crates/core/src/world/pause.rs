//! Pauses: who has ordered one, when it ends, and what it lets through.

use super::World;
use super::service::{Known, Service};
use crate::ids::Name;
use crate::record::{Actor, OperatorOrder};
use crate::status::ServiceStatus;
use crate::time::{Monotonic, Now, Span};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The shortest pause: a shorter one is over before its answer is read.
pub const PAUSE_MIN: Span = Span::from_secs(1);

/// The longest pause: who wants a service left alone for longer than a month wants it stopped, or `mode = "observe"`; and
/// a pause that was forgotten must end while somebody still knows why it was there.
pub const PAUSE_MAX: Span = Span::from_secs(30 * 24 * 3_600);

/// A pause in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Paused {
    /// Who ordered it.
    pub(crate) actor: Actor,
    /// When it ends by itself ([`Now::boot_us`]).
    pub(crate) until_boot_us: u64,
}

impl Paused {
    /// What is left of it.
    pub(crate) fn left(&self, at: Now) -> Span {
        Span::from_us(self.until_boot_us.saturating_sub(at.boot_us))
    }
}

impl Known {
    /// Takes an order that is about to be carried out.
    pub(super) fn insist(&mut self, order: &OperatorOrder) {
        match order {
            OperatorOrder::Start { .. } | OperatorOrder::Restart { .. } => self.insisted = true,
            OperatorOrder::Stop { .. } => self.insisted = false,
            OperatorOrder::Pause { .. }
            | OperatorOrder::Resume { .. }
            | OperatorOrder::Deploy { .. }
            | OperatorOrder::Rollback { .. }
            | OperatorOrder::ClearQuarantine { .. }
            | OperatorOrder::Reload { .. } => {}
        }
    }

    /// Whether it is not to be started now.
    pub(crate) fn rests(&self) -> bool {
        self.paused.is_some() && !self.insisted
    }
}

impl Service {
    /// Its part of a report, its pause included.
    pub(crate) fn status_at(&self, name: &Name, at: Now) -> ServiceStatus {
        let mut status = self.status(name, at.mono);
        if let Some(paused) = &self.known.paused {
            let (left, actor) = (paused.left(at), &paused.actor);
            let more = if status.detail.is_empty() { String::new() } else { format!(": {}", status.detail) };
            status.detail = format!(
                "paused by {actor} for {left} more; {}{more}",
                self.state_but_for_pause().as_str().replace('_', " ")
            );
            status.paused_until_boot_us = Some(paused.until_boot_us);
        }
        status
    }
}

impl World {
    /// When the first pause ends, as far as can be told while the machine is awake.
    pub(super) fn pause_deadline(&self) -> Option<Monotonic> {
        let until = self.pauses.first()?;
        Some(Monotonic::from_us(until.saturating_sub(self.suspended_us)))
    }

    /// The services whose pause is over, at most `most`.
    pub(crate) fn pauses_over(&self, at: Now, most: usize) -> Vec<Name> {
        self.pauses.due(at.boot_us).take(most).cloned().collect()
    }
}
