//! What is to be done with one store, the most urgent first; bounded by what there can be at a time.

use crate::generations::{Kept, StoreError, Towards};
use hale_core::ids::{GenerationId, RecordId};
use std::collections::VecDeque;
use std::sync::mpsc::Sender;

/// How many clients' questions wait for one store. Clients of the API are fewer (4 lists and 1 verification at once, of all
/// services), unless their questions are left by their clients before a store that hangs has come to them.
pub(super) const QUESTIONS_MAX: usize = 16;

/// One thing to do.
#[derive(Debug)]
pub(super) enum Job {
    Switch(Switch),
    Undo(Undo),
    Promote { switch: RecordId },
    Look,
    Ask(Ask),
    Retain(Retain),
}

#[derive(Debug)]
pub(super) struct Switch {
    pub(super) switch: RecordId,
    pub(super) to: GenerationId,
    pub(super) back: Option<GenerationId>,
    pub(super) over: Vec<GenerationId>,
    pub(super) towards: Towards,
    pub(super) data_at_least: u32,
    pub(super) prepared: bool,
}

/// What was done to the data is undone.
#[derive(Debug)]
pub(super) struct Undo {
    pub(super) switch: RecordId,
    pub(super) of: GenerationId,
    pub(super) to: GenerationId,
    pub(super) snapshot: Option<String>,
}

/// What a client wants to know.
#[derive(Debug)]
pub(super) enum Ask {
    List(Sender<Result<Vec<Kept>, StoreError>>),
    Verify(GenerationId, Sender<Result<(), StoreError>>),
}

#[derive(Debug, Clone)]
pub(super) struct Retain {
    pub(super) needed: Vec<GenerationId>,
    pub(super) keep: u32,
}

/// What waits. Of all that the loop orders the newest counts, so that there is one of each at most: a newer switch fences the older
/// one, who looks later sees as much, and what is needed now is what counts.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    switch: Option<Switch>,
    /// The newest switch that was ordered: older orders come too late.
    newest: RecordId,
    undo: Option<Undo>,
    /// The switch of the newest order to undo.
    undone: Option<RecordId>,
    promote: Option<RecordId>,
    looks: bool,
    questions: VecDeque<Ask>,
    retain: Option<Retain>,
}

impl Jobs {
    /// `false`: it was a question, and [`QUESTIONS_MAX`] wait already.
    #[must_use]
    pub(super) fn push(&mut self, job: Job) -> bool {
        match job {
            Job::Switch(switch) if switch.switch < self.newest => {}
            Job::Switch(switch) => {
                self.newest = switch.switch;
                self.switch = Some(switch);
            }
            // Also one that runs, or has run: whoever asks again, as after a reload, is told by the first one.
            Job::Undo(undo) if undo.switch < self.newest || self.undone == Some(undo.switch) => {}
            Job::Undo(undo) => {
                self.undone = Some(undo.switch);
                self.undo = Some(undo);
            }
            Job::Promote { switch } => self.promote = self.promote.max(Some(switch)),
            Job::Look => self.looks = true,
            Job::Ask(_) if self.questions.len() >= QUESTIONS_MAX => return false,
            Job::Ask(question) => self.questions.push_back(question),
            Job::Retain(retain) => self.retain = Some(retain),
        }
        true
    }

    /// What comes next: a switch overtakes all else, because a way back may be waiting for it, and removing what is old comes last.
    pub(super) fn pop(&mut self) -> Option<Job> {
        let switch = self.switch.take().map(Job::Switch);
        let undo = || self.undo.take().map(Job::Undo);
        let promote = || self.promote.take().map(|switch| Job::Promote { switch });
        let next = switch.or_else(undo).or_else(promote);
        let look = || std::mem::take(&mut self.looks).then_some(Job::Look);
        let ask = || self.questions.pop_front().map(Job::Ask);
        next.or_else(look).or_else(ask).or_else(|| self.retain.take().map(Job::Retain))
    }

    /// It was broken off for something more urgent: it is done later, unless there is a newer order.
    pub(super) fn put_off(&mut self, retain: Retain) {
        self.retain.get_or_insert(retain);
    }

    /// Whether something waits that a removal of old generations makes way for.
    pub(super) fn is_urgent(&self) -> bool {
        self.is_ordered() || !self.questions.is_empty()
    }

    /// Whether nothing waits but questions, if anything does.
    pub(super) fn are_questions(&self) -> bool {
        !self.is_ordered() && self.retain.is_none()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.are_questions() && self.questions.is_empty()
    }

    fn is_ordered(&self) -> bool {
        self.switch.is_some() || self.undo.is_some() || self.promote.is_some() || self.looks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    fn switch(number: u64) -> Job {
        let to = GenerationId::try_from(format!("to-{number}")).unwrap();
        Job::Switch(Switch {
            switch: RecordId(number),
            to,
            back: None,
            over: Vec::new(),
            towards: Towards::Back,
            data_at_least: 0,
            prepared: false,
        })
    }

    fn retain(keep: u32) -> Retain {
        Retain { needed: Vec::new(), keep }
    }

    fn words(jobs: &mut Jobs) -> Vec<String> {
        let word = |job| match job {
            Job::Switch(switch) => format!("switch {}", switch.switch.0),
            Job::Undo(undo) => format!("undo {}", undo.switch.0),
            Job::Promote { switch } => format!("promote {}", switch.0),
            Job::Look => String::from("look"),
            Job::Ask(_) => String::from("ask"),
            Job::Retain(retain) => format!("retain {}", retain.keep),
        };
        std::iter::from_fn(|| jobs.pop()).map(word).collect()
    }

    #[test]
    fn a_switch_overtakes_and_only_the_newest_order_of_a_kind_counts() {
        let mut jobs = Jobs::default();
        let (sender, _answers) = channel();
        let all = [
            Job::Retain(retain(1)),
            Job::Ask(Ask::List(sender)),
            Job::Look,
            Job::Promote { switch: RecordId(3) },
            switch(4),
            Job::Retain(retain(2)),
            Job::Look,
            switch(5),
            switch(4),
        ];
        all.into_iter().for_each(|job| assert!(jobs.push(job)));
        assert!(jobs.is_urgent());
        assert_eq!(words(&mut jobs), ["switch 5", "promote 3", "look", "ask", "retain 2"]);
        assert!(jobs.is_empty());
        assert!(jobs.push(switch(4)) && jobs.is_empty(), "a later order was given already");
        jobs.put_off(retain(7));
        assert!(!jobs.is_urgent() && !jobs.is_empty());
        assert!(jobs.push(Job::Retain(retain(8))));
        jobs.put_off(retain(7));
        assert_eq!(words(&mut jobs), ["retain 8"]);
    }

    #[test]
    fn questions_have_a_bound_and_orders_none_that_could_refuse_them() {
        let mut jobs = Jobs::default();
        let (sender, _answers) = channel();
        for _ in 0..QUESTIONS_MAX {
            assert!(jobs.push(Job::Ask(Ask::List(sender.clone()))));
        }
        assert!(!jobs.push(Job::Ask(Ask::List(sender))));
        assert!(jobs.push(switch(1)) && jobs.push(Job::Look) && jobs.push(Job::Retain(retain(1))));
    }
}
