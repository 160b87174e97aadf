//! For how long ledger, console and keeper wait for services that are just being started.

use hale_core::time::{Monotonic, Span};

/// Since the newest start: about twice what it takes from the order to the first act of a small program. The journal has the
/// records meanwhile.
const START_FIRST: Span = Span::from_ms(2);

/// Since the first one, while one start follows the other: whoever reads along hardly notices.
const STARTS_FIRST: Span = Span::from_ms(20);

/// Since the newest and since the first start that is waited for.
#[derive(Debug, Default)]
pub(super) struct Starts(Option<(Monotonic, Monotonic)>);

impl Starts {
    /// A start was ordered.
    pub(super) fn ordered(&mut self, now: Monotonic) {
        let last = self.0.map_or_else(|| now.after(STARTS_FIRST), |(_, last)| last);
        self.0 = Some((now.after(START_FIRST), last));
    }

    /// Until when the others wait, if that is still to come.
    pub(super) fn until(&self, now: Monotonic) -> Option<Monotonic> {
        self.0.map(|(newest, first)| newest.min(first)).filter(|&until| now < until)
    }

    /// They had their turn.
    pub(super) fn over(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_without_an_end_do_not_hold_up_the_others() {
        let at = |ms: u64| Monotonic::from_us(ms * 1_000);
        let mut starts = Starts::default();
        assert_eq!(starts.until(at(0)), None);
        starts.ordered(at(100));
        assert_eq!(starts.until(at(101)), Some(at(102)));
        assert_eq!(starts.until(at(102)), None);
        (101..=125).for_each(|ms| starts.ordered(at(ms)));
        assert_eq!(starts.until(at(119)), Some(at(120)));
        assert_eq!(starts.until(at(125)), None);
        starts.over();
        starts.ordered(at(125));
        assert_eq!(starts.until(at(125)), Some(at(127)));
    }
}
