//! When the supervisor is told how much of a service's output was dropped.

/// While a flood goes on it is told this often, in microseconds: each report becomes a record that is kept, and a
/// flood of a day makes 1,440 of them.
const EVERY_US: u64 = 60_000_000;

/// After so long without a drop, in microseconds, the flood is over and its rest is told. A flood that comes and goes
/// makes six more reports a minute at most.
const QUIET_US: u64 = 10_000_000;

/// What was dropped of one service and not reported yet.
#[derive(Debug, Default)]
pub struct Unreported {
    bytes: u64,
    last_us: u64,
    /// When the next one is due if the flood goes on.
    next_us: u64,
}

impl Unreported {
    /// So much more was dropped.
    pub fn add(&mut self, bytes: u64, now_us: u64) {
        self.bytes += bytes;
        self.last_us = now_us;
    }

    /// When there is something to report: at once, then every minute, and when the flood is over.
    #[must_use]
    pub fn due_us(&self) -> Option<u64> {
        (self.bytes > 0).then(|| self.next_us.min(self.last_us + QUIET_US))
    }

    /// What is to be reported now, in bytes; zero when nothing is.
    pub fn take_due(&mut self, now_us: u64) -> u64 {
        if self.due_us().is_none_or(|due| due > now_us) {
            return 0;
        }
        self.next_us = now_us + EVERY_US;
        self.take()
    }

    /// All of it, because nothing will be reported any more.
    pub fn take(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_at_once_every_minute_and_at_its_end() {
        const SECOND: u64 = 1_000_000;
        let mut unreported = Unreported::default();
        let mut reports = Vec::new();
        // 290 seconds of a hundred drops a second, then silence.
        for now_us in (SECOND..400 * SECOND).step_by(10_000) {
            if now_us < 291 * SECOND {
                unreported.add(7, now_us);
            }
            match unreported.take_due(now_us) {
                0 => {}
                bytes => reports.push((now_us / SECOND, bytes)),
            }
        }
        let times: Vec<u64> = reports.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [1, 61, 121, 181, 241, 300]);
        assert_eq!(reports.iter().map(|(_, bytes)| bytes).sum::<u64>(), 7 * 29_000);
        assert_eq!(unreported.due_us(), None);
    }
}
