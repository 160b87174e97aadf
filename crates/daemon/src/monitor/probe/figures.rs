//! What services said of themselves on their notify sockets, for the checks that ask for it later.

use hale_core::ids::{Epoch, Name};
use hale_core::time::Span;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// One figure that a service says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// `X_HALE_PROGRESS`: how much it has done. What counts is that it changes.
    Progress(u64),
    /// `X_HALE_LOOP_LAG_USEC`: how late its event loop came to something that it had to do.
    LoopLag(Span),
}

/// The newest figures of one process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Of {
    pub(super) epoch: Epoch,
    /// Whether it was started by this supervisor, so that all that it said is known.
    pub(super) from_the_start: bool,
    /// How much it has done, and when that changed.
    pub(super) progress: Option<(u64, Instant)>,
    /// Its newest lag, and when it said so.
    pub(super) lag: Option<(Span, Instant)>,
}

/// The newest figures of each service: one entry for each that was ever started.
#[derive(Default)]
pub(super) struct Figures(Mutex<BTreeMap<Name, Of>>);

impl Figures {
    /// A new process is about to be made.
    pub(super) fn begin(&self, service: &Name, epoch: Epoch) {
        let fresh = Of { epoch, from_the_start: true, progress: None, lag: None };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(service.clone(), fresh);
    }

    /// The service is gone.
    pub(super) fn forget(&self, service: &Name) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(service);
    }

    /// A process said something, just now.
    pub(super) fn said(&self, service: &Name, epoch: Epoch, figure: Figure) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let adopted = || Of { epoch, from_the_start: false, progress: None, lag: None };
        let of = all.entry(service.clone()).or_insert_with(adopted);
        if of.epoch < epoch {
            *of = adopted();
        }
        if of.epoch != epoch {
            return;
        }
        let now = Instant::now();
        match figure {
            Figure::Progress(count) if of.progress.is_some_and(|(before, _)| before == count) => {}
            Figure::Progress(count) => of.progress = Some((count, now)),
            Figure::LoopLag(lag) => of.lag = Some((lag, now)),
        }
    }

    /// What this process said, if it is known.
    pub(super) fn of(&self, service: &Name, epoch: Epoch) -> Option<Of> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(service).filter(|of| of.epoch == epoch).copied()
    }

    /// Makes everything older, as if time had gone by.
    #[cfg(test)]
    pub(super) fn age(&self, by: std::time::Duration) {
        for of in self.0.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
            of.progress = of.progress.map(|(count, at)| (count, at - by));
            of.lag = of.lag.map(|(lag, at)| (lag, at - by));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_newest_process_says_counts_and_only_change_is_progress() {
        let (figures, name) = (Figures::default(), Name::try_from("bot").expect("a name"));
        figures.begin(&name, Epoch(2));
        figures.said(&name, Epoch(1), Figure::Progress(9));
        assert_eq!(figures.of(&name, Epoch(2)).and_then(|of| of.progress), None);
        figures.said(&name, Epoch(2), Figure::Progress(1));
        let first = figures.of(&name, Epoch(2)).and_then(|of| of.progress).expect("it was said");
        figures.said(&name, Epoch(2), Figure::Progress(1));
        assert_eq!(figures.of(&name, Epoch(2)).and_then(|of| of.progress), Some(first));
        figures.said(&name, Epoch(2), Figure::Progress(0));
        assert_eq!(figures.of(&name, Epoch(2)).and_then(|of| of.progress).expect("it was said").0, 0);
        assert!(figures.of(&name, Epoch(2)).is_some_and(|of| of.from_the_start));
        assert!(figures.of(&name, Epoch(1)).is_none());
        // One that an earlier supervisor has started.
        figures.said(&name, Epoch(3), Figure::LoopLag(Span::from_ms(5)));
        let adopted = figures.of(&name, Epoch(3)).expect("it spoke");
        assert!(!adopted.from_the_start && adopted.progress.is_none() && adopted.lag.is_some());
    }
}
