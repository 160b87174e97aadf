//! How late Hale itself was while a probe ran: measured beside each probe, on the thread that runs it.

use super::Deadline;
use hale_core::time::Span;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Into how many parts the time of a probe is divided: at the end of each the thread wants to be woken, and looks how late that
/// was. A healthy service has answered before the first one is over, and its probe costs a timer more.
const PARTS: u32 = 16;

/// The shortest part: the runtime's timers are as coarse as a millisecond, and many probes share its thread.
const PART_MIN: Duration = Duration::from_millis(16);

/// So much of a part later than wanted is not late.
const GRAIN: u32 = 8;

/// Runs a probe to its end; with what it gave comes how late Hale was meanwhile, in all. Whatever keeps the thread from
/// running counts: other work of the machine, a stopped process, a virtual machine that is not scheduled.
pub(super) async fn measured<T>(deadline: Deadline, probe: impl Future<Output = T>) -> (T, Span) {
    let part = (deadline.at() - deadline.started) / PARTS;
    let part = part.max(PART_MIN);
    let mut probe = pin!(probe);
    let mut late = Duration::ZERO;
    let mut next = deadline.started + part;
    loop {
        let ended = tokio::select! {
            biased;
            found = &mut probe => Some(found),
            () = sleep_until(next) => None,
        };
        // Also when the probe ended: after a stop its own time-out is over, too.
        let now = Instant::now();
        let overdue = now.saturating_duration_since(next);
        if overdue > part / GRAIN {
            late += overdue;
        }
        match ended {
            Some(found) => return (found, Span::from_us(u64::try_from(late.as_micros()).unwrap_or(u64::MAX))),
            None => next = now + part,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deadline() -> Deadline {
        Deadline::start(Span::from_ms(1_600))
    }

    /// Keeps the thread, as a machine does that does not let it run.
    fn keep_the_thread(time: Duration) {
        let over = Instant::now() + time;
        while Instant::now() < over {
            std::hint::spin_loop();
        }
    }

    #[tokio::test]
    async fn what_keeps_the_thread_is_counted_and_waiting_is_not() {
        let (found, late) = measured(Deadline::start(Span::from_secs(60)), async { 7 }).await;
        assert_eq!((found, late), (7, Span::ZERO));
        let stopped = async {
            // Due at 100 ms, and seen at 500.
            keep_the_thread(Duration::from_millis(500));
            tokio::task::yield_now().await;
        };
        let ((), late) = measured(deadline(), stopped).await;
        assert!(late >= Span::from_ms(400), "{late}");
        let ended_late = async { keep_the_thread(Duration::from_millis(400)) };
        let ((), late) = measured(deadline(), ended_late).await;
        assert!(late >= Span::from_ms(300), "{late}");
    }
}
