//! What a process says before the guardian's word that its program runs: both are on their way at once, and the word comes first.

use hale_core::event::Notice;

/// How many notices of a process may wait for the guardian's word of it, which follows within milliseconds: more than any
/// program has to say by then. What is beyond that is dropped.
const NOTICES_MAX: usize = 64;

/// How far the guardian's word of the newest order has come.
#[derive(Debug, Default)]
pub(super) enum Early {
    /// The order is not answered: what was said so far is told behind the answer.
    Awaited(Vec<Notice>),
    /// Its program runs, or it was never made.
    #[default]
    Come,
}

impl Early {
    /// A process is ordered, or on its way to its program.
    pub(super) fn ordered() -> Self {
        Self::Awaited(Vec::new())
    }

    /// Whether the word is awaited.
    pub(super) fn is_awaited(&self) -> bool {
        matches!(self, Self::Awaited(_))
    }

    /// What of this can be told now.
    pub(super) fn tellable(&mut self, notices: Vec<Notice>) -> Vec<Notice> {
        match self {
            Self::Awaited(early) => {
                let room = NOTICES_MAX.saturating_sub(early.len());
                early.extend(notices.into_iter().take(room));
                Vec::new()
            }
            Self::Come => notices,
        }
    }

    /// The word has come: what is to be told behind it.
    pub(super) fn come(&mut self) -> Vec<Notice> {
        match std::mem::take(self) {
            Self::Awaited(early) => early,
            Self::Come => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_that_overtakes_the_guardian_is_told_behind_it_and_once() {
        let mut early = Early::ordered();
        assert!(early.is_awaited());
        assert_eq!(early.tellable(vec![Notice::Ready]), []);
        assert_eq!(early.tellable(vec![Notice::Heartbeat]), []);
        assert_eq!(early.come(), [Notice::Ready, Notice::Heartbeat]);
        assert_eq!(early.tellable(vec![Notice::Heartbeat]), [Notice::Heartbeat]);
        assert_eq!(early.come(), []);
    }

    #[test]
    fn no_more_is_kept_than_the_bound() {
        let mut early = Early::ordered();
        for _ in 0..3 {
            early.tellable(vec![Notice::Heartbeat; NOTICES_MAX / 2]);
        }
        assert_eq!(early.come().len(), NOTICES_MAX);
    }
}
