//! Checks of what a service measures of itself: its metrics against bounds, its progress, the lag of its event loop.

use super::figures::Figures;
use super::scrape::scrape;
use super::{Deadline, Network, ProbeOrder, Verdict};
use hale_core::ids::{Epoch, Name};
use hale_core::policy::{
    CheckPolicy, Figure as Bound, LoopLagCheck, MetricCheck, Pending, ProgressCheck, Series, Source,
};
use hale_core::time::Span;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// A service that says the lag of its loop must say it once in so many `every`: who does not is stuck.
const SILENT_AFTER: u64 = 3;

/// Judges, and remembers what it must from one probe to the next.
#[derive(Default)]
pub(super) struct Meter {
    pub(super) figures: Figures,
    /// By service and check; of the newest process that was looked at.
    pasts: Mutex<BTreeMap<(Name, Name), (Epoch, Past)>>,
}

/// What is remembered of one check.
#[derive(Debug, Clone, Copy)]
struct Past {
    /// When it was first looked at, or became more.
    since: Instant,
    count: Option<f64>,
    /// Since when there is work, or may be; `None`: there was none.
    pending: Option<Instant>,
    /// It was looked at with success.
    is_seen: bool,
}

impl Past {
    fn begin(now: Instant) -> Self {
        Self { since: now, count: None, pending: None, is_seen: false }
    }

    /// Takes a newer count. One that became less was set back, as by a process of the service that is new.
    fn count(&mut self, count: Option<f64>, now: Instant) {
        let Some(count) = count.filter(|count| !count.is_nan()) else { return };
        if self.count.is_some_and(|before| count > before) {
            self.since = now;
        }
        self.count = Some(count);
    }

    fn pending(&mut self, is_pending: bool, now: Instant) {
        self.pending = is_pending.then(|| self.pending.unwrap_or(now));
    }
}

impl Meter {
    /// A figure among its metrics, against its bounds.
    pub(super) async fn metric(
        &self,
        order: &ProbeOrder,
        (policy, check): (&CheckPolicy, &MetricCheck),
        network: &Network,
        deadline: Deadline,
    ) -> Result<Verdict, Verdict> {
        let MetricCheck { url, series, above, below, increases_within } = check;
        let samples = scrape(url, vec![series], network, deadline).await?.swap_remove(0);
        if samples.is_empty() {
            return Err(absent(series, url));
        }
        for &sample in &samples {
            // Of what is not a number none of the two holds.
            if let Some(bound) = above.as_ref().filter(|bound| sample <= number(bound) || sample.is_nan()) {
                return Err(Verdict::wrong(format_args!("{series} is {sample}, not above {bound}")));
            }
            if let Some(bound) = below.as_ref().filter(|bound| sample >= number(bound) || sample.is_nan()) {
                return Err(Verdict::wrong(format_args!("{series} is {sample}, not below {bound}")));
            }
        }
        let sum: f64 = samples.iter().sum();
        if let Some(within) = increases_within {
            let now = Instant::now();
            let past = self.remember(order, policy, |past| past.count(Some(sum), now));
            let still = elapsed(past.since, now);
            if still >= *within {
                return Err(Verdict::wrong(format_args!("{series} is {sum}, and was no less {still} ago")));
            }
        }
        let of = if samples.len() > 1 { format!(" ({} samples)", samples.len()) } else { String::new() };
        Ok(Verdict::pass(format_args!("{series} is {sum}{of}")))
    }

    /// Whether what it has done becomes more, while there is something to do.
    pub(super) async fn progress(
        &self,
        order: &ProbeOrder,
        (policy, check): (&CheckPolicy, &ProgressCheck),
        network: &Network,
        deadline: Deadline,
    ) -> Result<Verdict, Verdict> {
        let seen = look(check, network, deadline).await;
        let now = Instant::now();
        let said = self.figures.of(&order.service, order.epoch);
        let mut past = self.remember(order, policy, |past| match &seen {
            Ok((count, is_pending)) => {
                past.is_seen = true;
                past.count(*count, now);
                past.pending(*is_pending, now);
            }
            // For as long as that is not known, there may be work.
            Err(_) => past.pending(true, now),
        });
        if let Some((count, changed)) = said.and_then(|of| of.progress).filter(|_| check.source == Source::Notify) {
            past.since = past.since.max(changed);
            past.count = Some(count as f64);
        }
        let Some(pending) = past.pending else { return Ok(Verdict::pass("nothing to do")) };
        let (still, within) = (elapsed(past.since.max(pending), now), check.within);
        let count = past.count.map_or_else(|| "nothing done yet".to_owned(), |count| format!("{count} done"));
        match seen {
            // A new process whose metrics are not there yet is not up. One that was there before has its time.
            Err(verdict) if verdict.is_unable() || !past.is_seen && said.is_some_and(|of| of.from_the_start) => {
                Err(verdict)
            }
            _ if still < within => Ok(Verdict::pass(format_args!("{count}, the same for {still}, at most {within}"))),
            Ok(_) => Err(Verdict::wrong(format_args!("no progress for {still}: {count}"))),
            Err(verdict) => {
                let detail = format_args!("no progress was seen for {still}: {}", verdict.detail);
                Err(Verdict { failure: verdict.failure, ..Verdict::wrong(detail) })
            }
        }
    }

    /// How late its event loop is.
    pub(super) async fn loop_lag(
        &self,
        order: &ProbeOrder,
        (policy, check): (&CheckPolicy, &LoopLagCheck),
        network: &Network,
        deadline: Deadline,
    ) -> Result<Verdict, Verdict> {
        let LoopLagCheck { below, source } = check;
        let lag = match source {
            Source::Metric { url, series } => {
                let samples = scrape(url, vec![series], network, deadline).await?.swap_remove(0);
                let longest = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                if samples.is_empty() {
                    return Err(absent(series, url));
                }
                // One that is not a number is not below anything.
                if samples.iter().any(|sample| sample.is_nan()) {
                    return Err(Verdict::wrong(format_args!("{series} is NaN, not below {below}")));
                }
                Span::from_us((longest * 1e6) as u64)
            }
            Source::Notify => {
                let now = Instant::now();
                let first = self.remember(order, policy, |_| {}).since;
                let of = self.figures.of(&order.service, order.epoch);
                let (silent, allowed) = match of.and_then(|of| of.lag) {
                    Some((lag, said)) if elapsed(said, now) < policy.every.times(SILENT_AFTER) => {
                        return Ok(judge_lag(lag, *below));
                    }
                    Some((_, said)) => (elapsed(said, now), Span::ZERO),
                    // What an earlier supervisor was told is not known here.
                    None if of.is_none_or(|of| !of.from_the_start) => {
                        (elapsed(first, now), policy.every.times(SILENT_AFTER))
                    }
                    None => (elapsed(first, now), Span::ZERO),
                };
                if silent < allowed {
                    return Ok(Verdict::pass(format_args!("nothing was said for {silent}, {allowed} at most")));
                }
                return Err(Verdict::wrong(format_args!("X_HALE_LOOP_LAG_USEC was not said for {silent}")));
            }
        };
        Ok(judge_lag(lag, *below))
    }

    /// What is remembered of a check, after `change`; of another process nothing is.
    fn remember(&self, order: &ProbeOrder, check: &CheckPolicy, change: impl FnOnce(&mut Past)) -> Past {
        let mut pasts = self.pasts.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || (order.epoch, Past::begin(Instant::now()));
        let entry = pasts.entry((order.service.clone(), check.name.clone())).or_insert_with(fresh);
        if entry.0 != order.epoch {
            *entry = fresh();
        }
        change(&mut entry.1);
        entry.1
    }
}

/// How much was done, as far as the metrics tell it, and whether there is something to do.
async fn look(check: &ProgressCheck, network: &Network, deadline: Deadline) -> Result<(Option<f64>, bool), Verdict> {
    let counted = match &check.source {
        Source::Notify => None,
        Source::Metric { url, series } => Some((url, series)),
    };
    let (done, work) = match (counted, &check.while_pending) {
        (Some((url, series)), Some(pending)) if *url == pending.url => {
            let mut found = scrape(url, vec![series, &pending.series], network, deadline).await?;
            let work = found.pop();
            (found.pop(), work)
        }
        (counted, pending) => {
            let done = match counted {
                Some((url, series)) => scrape(url, vec![series], network, deadline).await?.pop(),
                None => None,
            };
            let work = match pending {
                Some(Pending { url, series, .. }) => scrape(url, vec![series], network, deadline).await?.pop(),
                None => None,
            };
            (done, work)
        }
    };
    let is_pending = match (&check.while_pending, work) {
        (Some(Pending { url, series, .. }), Some(samples)) if samples.is_empty() => return Err(absent(series, url)),
        (Some(pending), Some(samples)) => samples.iter().any(|&sample| sample > number(&pending.above)),
        (None, _) | (_, None) => true,
    };
    match (counted, done) {
        (Some((url, series)), Some(samples)) if samples.is_empty() && is_pending => Err(absent(series, url)),
        // Several processes or queues have done something each.
        (_, done) => Ok((done.and_then(|samples| samples.into_iter().reduce(|a, b| a + b)), is_pending)),
    }
}

/// Programs make a metric when it is first used: one that is not there says nothing.
fn absent(series: &Series, url: &str) -> Verdict {
    Verdict::unable(format_args!("there is no {series} at {url}"))
}

fn judge_lag(lag: Span, below: Span) -> Verdict {
    if lag < below {
        Verdict::pass(format_args!("{lag} late"))
    } else {
        Verdict::wrong(format_args!("{lag} late, not below {below}"))
    }
}

/// A validated bound is a finite number; against anything else nothing holds.
fn number(bound: &Bound) -> f64 {
    bound.0.parse().unwrap_or(f64::NAN)
}

fn elapsed(since: Instant, now: Instant) -> Span {
    Span::from_us(u64::try_from(now.saturating_duration_since(since).as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::probe::testing::{free_port, policy, serve};
    use crate::monitor::probe::{Figure, Probed};
    use hale_core::event::ProbeFailure;
    use hale_core::ids::ProbeId;
    use hale_core::policy::CheckKind;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const TIMEOUT: Span = Span::from_secs(5);
    const WITHIN: Span = Span::from_secs(60);

    fn series(text: &str) -> Series {
        Series::read(text).expect("a series").0
    }

    fn bound(text: &str) -> Option<Bound> {
        Some(Bound(text.to_owned()))
    }

    /// A service with one check, and what is remembered of it. The time stands still but where a test moves it on.
    struct Bench {
        meter: Meter,
        network: Network,
        page: Arc<Mutex<String>>,
        url: String,
        epoch: u64,
    }

    impl Bench {
        async fn new(page: &str) -> Self {
            let page = Arc::new(Mutex::new(page.to_owned()));
            let shown = page.clone();
            let address = serve(move |mut stream| {
                let page = shown.lock().expect("nobody panics with it").clone();
                async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await?);
                    }
                    let (status, body) = page.split_once('|').unwrap_or(("200 OK", &page));
                    let length = body.len();
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
                    stream.write_all(answer.as_bytes()).await
                }
            });
            let url = format!("http://{}/metrics", address.await);
            let bench = Self { meter: Meter::default(), network: Network::default(), page, url, epoch: 1 };
            bench.meter.figures.begin(&bench.name(), Epoch(1));
            bench
        }

        fn name(&self) -> Name {
            Name::try_from("bot").expect("a name")
        }

        fn show(&self, page: &str) {
            page.clone_into(&mut self.page.lock().expect("nobody panics with it"));
        }

        async fn probe(&self, kind: &CheckKind) -> Verdict {
            let policy = Arc::new(policy(kind.clone(), TIMEOUT));
            let of = Probed::Service { policy: policy.clone(), tree: None };
            let order = ProbeOrder { service: self.name(), epoch: Epoch(self.epoch), probe: ProbeId(1), check: 0, of };
            let (check, deadline) = (&policy.checks[0], Deadline::start(TIMEOUT));
            let verdict = match kind {
                CheckKind::Metric(metric) => self.meter.metric(&order, (check, metric), &self.network, deadline).await,
                CheckKind::Progress(of) => self.meter.progress(&order, (check, of), &self.network, deadline).await,
                CheckKind::LoopLag(lag) => self.meter.loop_lag(&order, (check, lag), &self.network, deadline).await,
                other => panic!("not measured: {other:?}"),
            };
            verdict.unwrap_or_else(|verdict| verdict)
        }

        /// Moves on the time, in which nothing else happens.
        fn later(&self, span: Span) {
            let by = std::time::Duration::from_micros(span.as_us());
            let mut pasts = self.meter.pasts.lock().expect("nobody panics with it");
            for (_, past) in pasts.values_mut() {
                past.since -= by;
                past.pending = past.pending.map(|since| since - by);
            }
            drop(pasts);
            self.meter.figures.age(by);
        }
    }

    #[track_caller]
    fn passes(verdict: &Verdict, detail: &str) {
        assert!(verdict.failure.is_none() && verdict.detail.contains(detail), "{verdict:?}");
    }

    #[track_caller]
    fn fails(verdict: &Verdict, failure: ProbeFailure, detail: &str) {
        assert!(verdict.failure == Some(failure) && verdict.detail.contains(detail), "{verdict:?}");
    }

    fn metric(bench: &Bench, text: &str) -> MetricCheck {
        let (url, series) = (bench.url.clone(), series(text));
        MetricCheck { url, series, above: None, below: None, increases_within: None }
    }

    #[tokio::test]
    async fn each_sample_must_be_within_the_bounds() {
        let bench = Bench::new("jobs{queue=\"a\"} 3\njobs{queue=\"b\"} 10\n").await;
        let below = |text, bound| CheckKind::Metric(MetricCheck { below: bound, ..metric(&bench, text) });
        passes(&bench.probe(&below("jobs", bound("10.5"))).await, "jobs is 13 (2 samples)");
        let detail = "jobs is 10, not below 10";
        fails(&bench.probe(&below("jobs", bound("10"))).await, ProbeFailure::Wrong, detail);
        passes(&bench.probe(&below("jobs{queue=\"a\"}", bound("10"))).await, "jobs{queue=\"a\"} is 3");
        let above = |bound| CheckKind::Metric(MetricCheck { above: bound, ..metric(&bench, "jobs") });
        passes(&bench.probe(&above(bound("2"))).await, "jobs is 13");
        fails(&bench.probe(&above(bound("3"))).await, ProbeFailure::Wrong, "jobs is 3, not above 3");
        bench.show("jobs NaN");
        fails(&bench.probe(&above(bound("3"))).await, ProbeFailure::Wrong, "jobs is NaN, not above 3");
        fails(&bench.probe(&below("jobs", bound("3"))).await, ProbeFailure::Wrong, "jobs is NaN, not below 3");
    }

    #[tokio::test]
    async fn what_is_not_there_says_nothing_and_what_cannot_be_had_is_no_figure() {
        let bench = Bench::new("other 1\n").await;
        let check = MetricCheck { below: bound("5"), ..metric(&bench, "jobs") };
        let kind = CheckKind::Metric(check.clone());
        fails(&bench.probe(&kind).await, ProbeFailure::Unable, &format!("there is no jobs at {}", bench.url));
        bench.show("500 Internal Server Error|jobs 1\n");
        fails(&bench.probe(&kind).await, ProbeFailure::Refused, "500 Internal Server Error, expected 200");
        bench.show("jobs one\n");
        fails(&bench.probe(&kind).await, ProbeFailure::Refused, "not in the text format of Prometheus");
        let nobody = CheckKind::Metric(MetricCheck { url: format!("http://127.0.0.1:{}/", free_port()), ..check });
        fails(&bench.probe(&nobody).await, ProbeFailure::Refused, "connection refused");
    }

    #[tokio::test]
    async fn a_count_that_stands_still_fails_in_its_time_and_one_that_was_set_back_goes_on() {
        let bench = Bench::new("jobs_total 7\n").await;
        let check = MetricCheck { increases_within: Some(WITHIN), ..metric(&bench, "jobs_total") };
        let kind = CheckKind::Metric(check);
        passes(&bench.probe(&kind).await, "jobs_total is 7");
        bench.later(WITHIN);
        fails(&bench.probe(&kind).await, ProbeFailure::Wrong, "jobs_total is 7, and was no less 1 min");
        bench.show("jobs_total 0\n");
        fails(&bench.probe(&kind).await, ProbeFailure::Wrong, "jobs_total is 0");
        bench.show("jobs_total 1\n");
        passes(&bench.probe(&kind).await, "jobs_total is 1");
        // Of the next process nothing is known.
        bench.later(WITHIN);
        passes(&Bench { epoch: 2, ..bench }.probe(&kind).await, "jobs_total is 1");
    }

    #[tokio::test]
    async fn only_time_with_work_counts_as_without_progress() {
        let bench = Bench::new("done 7\nwaiting 0\n").await;
        let pending = Pending { url: bench.url.clone(), series: series("waiting"), above: Bound("0".into()) };
        let source = Source::Metric { url: bench.url.clone(), series: series("done") };
        let kind = CheckKind::Progress(ProgressCheck { within: WITHIN, source, while_pending: Some(pending) });
        passes(&bench.probe(&kind).await, "nothing to do");
        bench.later(WITHIN.times(10));
        passes(&bench.probe(&kind).await, "nothing to do");
        bench.show("done 7\nwaiting 3\n");
        passes(&bench.probe(&kind).await, "7 done, the same for ");
        bench.later(WITHIN);
        fails(&bench.probe(&kind).await, ProbeFailure::Wrong, "no progress for 1 min");
        bench.show("done 8\nwaiting 3\n");
        passes(&bench.probe(&kind).await, "8 done, the same for ");
        // An empty queue in between begins the time anew.
        bench.later(WITHIN);
        bench.show("done 8\nwaiting 0\n");
        passes(&bench.probe(&kind).await, "nothing to do");
        bench.show("done 8\nwaiting 1\n");
        passes(&bench.probe(&kind).await, "8 done, the same for ");
        bench.show("waiting 1\n");
        fails(&bench.probe(&kind).await, ProbeFailure::Unable, "there is no done at ");
        bench.show("done 8\n");
        fails(&bench.probe(&kind).await, ProbeFailure::Unable, "there is no waiting at ");
    }

    #[tokio::test]
    async fn metrics_that_cannot_be_had_are_no_progress_once_the_time_is_over() {
        let mut bench = Bench::new("503 Service Unavailable|").await;
        let source = Source::Metric { url: bench.url.clone(), series: series("done") };
        let kind = CheckKind::Progress(ProgressCheck { within: WITHIN, source, while_pending: None });
        // It is not up yet.
        fails(&bench.probe(&kind).await, ProbeFailure::Refused, "503 Service Unavailable");
        bench.show("done 1");
        passes(&bench.probe(&kind).await, "1 done, the same for ");
        bench.show("503 Service Unavailable|");
        passes(&bench.probe(&kind).await, "1 done, the same for ");
        bench.later(WITHIN);
        fails(&bench.probe(&kind).await, ProbeFailure::Refused, "no progress was seen for 1 min");
        // One that an earlier supervisor has started was up.
        bench.epoch = 2;
        passes(&bench.probe(&kind).await, "nothing done yet, the same for ");
    }

    #[tokio::test]
    async fn progress_is_heard_too() {
        let bench = Bench::new("").await;
        let kind = CheckKind::Progress(ProgressCheck { within: WITHIN, source: Source::Notify, while_pending: None });
        passes(&bench.probe(&kind).await, "nothing done yet, the same for ");
        bench.later(WITHIN);
        fails(&bench.probe(&kind).await, ProbeFailure::Wrong, "no progress for 1 min");
        bench.meter.figures.said(&bench.name(), Epoch(1), Figure::Progress(4));
        passes(&bench.probe(&kind).await, "4 done, the same for ");
        bench.later(WITHIN);
        bench.meter.figures.said(&bench.name(), Epoch(1), Figure::Progress(4));
        fails(&bench.probe(&kind).await, ProbeFailure::Wrong, "no progress for 1 min");
    }

    #[tokio::test]
    async fn the_longest_lag_counts() {
        let bench = Bench::new("lag{w=\"1\"} 0.02\nlag{w=\"2\"} 0.5\n").await;
        let of = |below| {
            let source = Source::Metric { url: bench.url.clone(), series: series("lag") };
            CheckKind::LoopLag(LoopLagCheck { below, source })
        };
        passes(&bench.probe(&of(Span::from_ms(501))).await, "500 ms late");
        let detail = "500 ms late, not below 500 ms";
        fails(&bench.probe(&of(Span::from_ms(500))).await, ProbeFailure::Wrong, detail);
        bench.show("lag NaN");
        fails(&bench.probe(&of(Span::from_ms(500))).await, ProbeFailure::Wrong, "NaN");
    }

    #[tokio::test]
    async fn who_says_nothing_of_its_lag_is_stuck() {
        let mut bench = Bench::new("").await;
        let kind = CheckKind::LoopLag(LoopLagCheck { below: Span::from_ms(500), source: Source::Notify });
        fails(&bench.probe(&kind).await, ProbeFailure::Wrong, "X_HALE_LOOP_LAG_USEC was not said for ");
        let say = |lag| bench.meter.figures.said(&bench.name(), Epoch(1), Figure::LoopLag(lag));
        say(Span::from_ms(3));
        passes(&bench.probe(&kind).await, "3 ms late");
        say(Span::from_ms(500));
        fails(&bench.probe(&kind).await, ProbeFailure::Wrong, "500 ms late, not below 500 ms");
        say(Span::from_ms(3));
        // Three times the `every` of the check.
        bench.later(Span::from_secs(6));
        fails(&bench.probe(&kind).await, ProbeFailure::Wrong, "X_HALE_LOOP_LAG_USEC was not said for 6");
        // What another supervisor was told is not known, and so not missing at once.
        bench.epoch = 2;
        passes(&bench.probe(&kind).await, "nothing was said for ");
        bench.later(Span::from_secs(6));
        fails(&bench.probe(&kind).await, ProbeFailure::Wrong, "X_HALE_LOOP_LAG_USEC was not said for 6");
    }
}
