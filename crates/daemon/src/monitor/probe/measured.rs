//! Checks of what a service measures of itself: its metrics against bounds, its progress, the lag of its event loop.

use super::figures::{Figures, Of};
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

/// From one look to the next at most so many `every` are counted. What was not looked at was not seen to stand still: this
/// process, or all of the machine, may have been stopped meanwhile.
const COUNTED_MAX: u64 = 2;

/// Judges, and remembers what it must from one probe to the next.
#[derive(Default)]
pub(super) struct Meter {
    pub(super) figures: Figures,
    /// By service and check; of the newest process that was looked at.
    pasts: Mutex<BTreeMap<(Name, Name), (Epoch, Past)>>,
}

/// What is remembered of one check.
#[derive(Debug, Clone, Copy, Default)]
struct Past {
    /// When it was last looked at.
    looked: Option<Instant>,
    /// For how long nothing has happened that should have.
    still: Span,
    /// The newest count.
    count: Option<f64>,
    /// There was work when it was last looked at, or may have been.
    pending: bool,
    /// It was looked at with success.
    is_seen: bool,
}

impl Past {
    /// The time to be counted since the last look.
    fn step(&mut self, every: Span, now: Instant) -> Span {
        let since = self.looked.replace(now).map_or(Span::ZERO, |looked| elapsed(looked, now));
        since.min(every.times(COUNTED_MAX))
    }

    /// Takes a newer count; whether more was done. One that became less was set back, as by a process of the service that
    /// is new: from there on it goes on.
    fn counts_more(&mut self, count: Option<f64>) -> bool {
        let Some(count) = count else { return false };
        // What is made when it is first used has just been used.
        self.count.replace(count).map_or(self.is_seen && count > 0.0, |before| count > before)
    }
}

/// What a look at the work of a service has found.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Work {
    /// How much was done, by the metrics; `None`: they do not tell it.
    done: Option<f64>,
    is_pending: bool,
}

/// Why there was no look.
#[derive(Debug, Clone, PartialEq)]
enum Unseen {
    /// It says nothing about the service.
    Nothing(String),
    /// The service's own metrics cannot be had.
    Failed(Verdict),
}

impl Meter {
    /// Forgets a service that is gone.
    pub(super) fn forget(&self, service: &Name) {
        self.figures.forget(service);
        self.pasts.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _), _| of != service);
    }

    /// A figure among its metrics, against its bounds.
    pub(super) async fn metric(
        &self,
        order: &ProbeOrder,
        (policy, check): (&CheckPolicy, &MetricCheck),
        network: &Network,
        deadline: Deadline,
    ) -> Result<Verdict, Verdict> {
        let MetricCheck { url, series, above, below, increases_within } = check;
        let samples = numbers(scrape(url, vec![series], network, deadline).await?.swap_remove(0));
        if samples.is_empty() {
            return Ok(Verdict::pass(absent(series, url)));
        }
        for &sample in &samples {
            if let Some(bound) = above.as_ref().filter(|bound| sample <= number(bound)) {
                return Err(Verdict::wrong(format_args!("{series} is {sample}, not above {bound}")));
            }
            if let Some(bound) = below.as_ref().filter(|bound| sample >= number(bound)) {
                return Err(Verdict::wrong(format_args!("{series} is {sample}, not below {bound}")));
            }
        }
        let sum: f64 = samples.iter().sum();
        if let Some(within) = increases_within {
            let now = Instant::now();
            let still = self.remember(order, policy, |past| {
                let step = past.step(policy.every, now);
                past.still = if past.counts_more(Some(sum)) { Span::ZERO } else { past.still.plus(step) };
                past.is_seen = true;
                past.still
            });
            if still >= *within {
                return Err(Verdict::wrong(format_args!("{series} is {sum}, and did not increase for {still}")));
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
        let said = self.figures.of(&order.service, order.epoch);
        let said = if check.source == Source::Notify { said } else { said.map(|of| Of { progress: None, ..of }) };
        self.remember(order, policy, |past| judge_progress(past, seen, said, policy, check.within))
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
        match source {
            Source::Metric { url, series } => {
                let samples = numbers(scrape(url, vec![series], network, deadline).await?.swap_remove(0));
                match samples.into_iter().reduce(f64::max) {
                    None => Ok(Verdict::pass(absent(series, url))),
                    // Below zero it is early.
                    Some(longest) => Ok(judge_lag(Span::from_us((longest * 1e6) as u64), *below)),
                }
            }
            Source::Notify => {
                let (now, of) = (Instant::now(), self.figures.of(&order.service, order.epoch));
                let lag = of.and_then(|of| of.lag);
                let silent = self.remember(order, policy, |past| {
                    let is_new = lag.is_some_and(|(_, said)| past.looked.is_none_or(|looked| said >= looked));
                    let step = past.step(policy.every, now);
                    past.still = if is_new { Span::ZERO } else { past.still.plus(step) };
                    past.still
                });
                let allowed = policy.every.times(SILENT_AFTER);
                match lag {
                    Some((lag, _)) if silent < allowed => Ok(judge_lag(lag, *below)),
                    // What an earlier supervisor was told is not known here.
                    None if silent < allowed && of.is_none_or(|of| !of.from_the_start) => {
                        Ok(Verdict::pass(format_args!("nothing was said for {silent}, {allowed} at most")))
                    }
                    _ => Err(Verdict::wrong(format_args!("X_HALE_LOOP_LAG_USEC was not said for {silent}"))),
                }
            }
        }
    }

    /// What is remembered of a check, after `change`; of another process, or from before it counts anew, nothing is.
    fn remember<T>(&self, order: &ProbeOrder, check: &CheckPolicy, change: impl FnOnce(&mut Past) -> T) -> T {
        let mut pasts = self.pasts.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = pasts.entry((order.service.clone(), check.name.clone())).or_insert((order.epoch, Past::default()));
        if entry.0 != order.epoch {
            *entry = (order.epoch, Past::default());
        }
        if order.counts_anew() {
            (entry.1.still, entry.1.looked) = (Span::ZERO, None);
        }
        change(&mut entry.1)
    }
}

/// What a look means after those before it. `said`: what the service said on its notify socket, if that tells of progress.
fn judge_progress(
    past: &mut Past,
    seen: Result<Work, Unseen>,
    said: Option<Of>,
    policy: &CheckPolicy,
    within: Span,
) -> Result<Verdict, Verdict> {
    let now = Instant::now();
    let before = past.looked;
    let step = past.step(policy.every, now);
    let has_said = said.and_then(|of| of.progress).filter(|(_, at)| before.is_none_or(|before| *at >= before));
    let (work, failure) = match seen {
        Ok(work) => (work, None),
        Err(Unseen::Nothing(why)) => {
            // The time with work begins at the next look that finds some.
            past.pending = false;
            return Ok(Verdict::pass(why));
        }
        // A new process whose metrics are not there yet is not up. One that was there before has its time.
        Err(Unseen::Failed(verdict))
            if verdict.is_unable() || !past.is_seen && said.is_some_and(|of| of.from_the_start) =>
        {
            return Err(verdict);
        }
        // For as long as it is not known, there may be work.
        Err(Unseen::Failed(verdict)) => (Work { done: None, is_pending: true }, Some(verdict)),
    };
    let goes_on = past.counts_more(work.done) || has_said.is_some();
    past.still = if goes_on || !work.is_pending || !past.pending { Span::ZERO } else { past.still.plus(step) };
    past.pending = work.is_pending;
    past.is_seen |= failure.is_none();
    if let Some((count, _)) = said.and_then(|of| of.progress) {
        past.count = Some(count as f64);
    }
    if !work.is_pending {
        return Ok(Verdict::pass("nothing to do"));
    }
    let still = past.still;
    let count = past.count.map_or_else(|| "nothing done yet".to_owned(), |count| format!("{count} done"));
    match failure {
        _ if still < within => Ok(Verdict::pass(format_args!("{count}, the same for {still}, at most {within}"))),
        None => Err(Verdict::wrong(format_args!("no progress for {still}: {count}"))),
        Some(verdict) => {
            let detail = format_args!("no progress was seen for {still}: {}", verdict.detail);
            Err(Verdict { failure: verdict.failure, ..Verdict::wrong(detail) })
        }
    }
}

/// How much was done, as far as the metrics tell it, and whether there is something to do.
async fn look(check: &ProgressCheck, network: &Network, deadline: Deadline) -> Result<Work, Unseen> {
    let counted = match &check.source {
        Source::Notify => None,
        Source::Metric { url, series } => Some((url, series)),
    };
    let (done, work) = match (counted, &check.while_pending) {
        (Some((url, series)), Some(pending)) if *url == pending.url => {
            let mut found =
                scrape(url, vec![series, &pending.series], network, deadline).await.map_err(Unseen::Failed)?;
            let work = found.pop();
            (found.pop(), work)
        }
        (counted, pending) => {
            let done = match counted {
                Some((url, series)) => {
                    scrape(url, vec![series], network, deadline).await.map_err(Unseen::Failed)?.pop()
                }
                None => None,
            };
            let work = match pending {
                // These metrics may be somebody else's, whose failure is not the service's.
                Some(Pending { url, series, .. }) => scrape(url, vec![series], network, deadline)
                    .await
                    .map_err(|verdict| {
                        Unseen::Nothing(format!("whether there is work is not known: {}", verdict.detail))
                    })?
                    .pop(),
                None => None,
            };
            (done, work)
        }
    };
    let is_pending = match (&check.while_pending, work.map(numbers)) {
        (Some(Pending { url, series, .. }), Some(samples)) if samples.is_empty() => {
            return Err(Unseen::Nothing(absent(series, url)));
        }
        (Some(pending), Some(samples)) => samples.iter().any(|&sample| sample > number(&pending.above)),
        (None, _) | (_, None) => true,
    };
    match (counted, done.map(numbers)) {
        (Some((url, series)), Some(samples)) if samples.is_empty() && is_pending => {
            Err(Unseen::Nothing(absent(series, url)))
        }
        // Several processes or queues have done something each.
        (_, done) => Ok(Work { done: done.and_then(|samples| samples.into_iter().reduce(|a, b| a + b)), is_pending }),
    }
}

/// Those of the samples that are numbers: a summary of what did not happen is none.
fn numbers(mut samples: Vec<f64>) -> Vec<f64> {
    samples.retain(|sample| !sample.is_nan());
    samples
}

/// Programs make a metric when it is first used: one that is not there says nothing against them.
fn absent(series: &Series, url: &str) -> String {
    format!("there is no {series} at {url}, which says nothing")
}

fn judge_lag(lag: Span, below: Span) -> Verdict {
    if lag < below {
        Verdict::pass(format_args!("{lag} late"))
    } else {
        Verdict::wrong(format_args!("{lag} late, not below {below}"))
    }
}

/// A validated bound is a finite number; against anything else nothing fails.
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
    /// As in the policy of these tests.
    const EVERY: Span = Span::from_secs(2);

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
        anew: bool,
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
            let bench = Self { meter: Meter::default(), network: Network::default(), page, url, epoch: 1, anew: false };
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
            let of = Probed::Service { policy: policy.clone(), root: None, tree: None, anew: self.anew };
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

        /// Looks as often as the time takes, each two seconds, and returns the last answer.
        async fn later(&self, kind: &CheckKind, span: Span) -> Verdict {
            let mut last = None;
            for _ in 0..span.as_us() / EVERY.as_us() {
                self.rest(EVERY);
                last = Some(self.probe(kind).await);
            }
            last.expect("it is more than one look")
        }

        /// Moves on the time, in which nobody looks.
        fn rest(&self, span: Span) {
            let by = std::time::Duration::from_micros(span.as_us());
            let mut pasts = self.meter.pasts.lock().expect("nobody panics with it");
            pasts.values_mut().for_each(|(_, past)| past.looked = past.looked.map(|looked| looked - by));
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
        // A summary of nothing is no figure.
        bench.show("jobs NaN");
        passes(&bench.probe(&above(bound("3"))).await, "there is no jobs at ");
        bench.show("jobs{queue=\"a\"} NaN\njobs{queue=\"b\"} 3\n");
        fails(&bench.probe(&above(bound("3"))).await, ProbeFailure::Wrong, "jobs is 3, not above 3");
    }

    #[tokio::test]
    async fn what_is_not_there_says_nothing_and_what_cannot_be_had_is_no_figure() {
        let bench = Bench::new("other 1\n").await;
        let check = MetricCheck { below: bound("5"), ..metric(&bench, "jobs") };
        let kind = CheckKind::Metric(check.clone());
        passes(&bench.probe(&kind).await, &format!("there is no jobs at {}", bench.url));
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
        fails(
            &bench.later(&kind, WITHIN).await,
            ProbeFailure::Wrong,
            "jobs_total is 7, and did not increase for 1 min",
        );
        bench.show("jobs_total 0\n");
        fails(&bench.probe(&kind).await, ProbeFailure::Wrong, "jobs_total is 0");
        bench.show("jobs_total 1\n");
        passes(&bench.probe(&kind).await, "jobs_total is 1");
        // Of the next process nothing is known.
        let _ = bench.later(&kind, WITHIN).await;
        passes(&Bench { epoch: 2, ..bench }.probe(&kind).await, "jobs_total is 1");
    }

    #[tokio::test]
    async fn time_in_which_nobody_looked_does_not_count_nor_what_was_before_it_counts_anew() {
        let mut bench = Bench::new("jobs_total 7\n").await;
        let check = MetricCheck { increases_within: Some(WITHIN), ..metric(&bench, "jobs_total") };
        let kind = CheckKind::Metric(check);
        passes(&bench.probe(&kind).await, "jobs_total is 7");
        // All of it was stopped for an hour.
        bench.rest(Span::from_secs(3_600));
        passes(&bench.probe(&kind).await, "jobs_total is 7");
        fails(&bench.later(&kind, WITHIN).await, ProbeFailure::Wrong, "jobs_total is 7");
        // What it depends on was down until now.
        bench.anew = true;
        passes(&bench.probe(&kind).await, "jobs_total is 7");
        bench.anew = false;
        fails(&bench.later(&kind, WITHIN).await, ProbeFailure::Wrong, "jobs_total is 7");
    }

    #[tokio::test]
    async fn only_time_with_work_counts_as_without_progress() {
        let bench = Bench::new("done 7\nwaiting 0\n").await;
        let pending = Pending { url: bench.url.clone(), series: series("waiting"), above: Bound("0".into()) };
        let source = Source::Metric { url: bench.url.clone(), series: series("done") };
        let kind = CheckKind::Progress(ProgressCheck { within: WITHIN, source, while_pending: Some(pending) });
        passes(&bench.later(&kind, WITHIN.times(2)).await, "nothing to do");
        bench.show("done 7\nwaiting 3\n");
        passes(&bench.probe(&kind).await, "7 done, the same for ");
        fails(&bench.later(&kind, WITHIN).await, ProbeFailure::Wrong, "no progress for 1 min");
        bench.show("done 8\nwaiting 3\n");
        passes(&bench.probe(&kind).await, "8 done, the same for ");
        // An empty queue in between begins the time anew.
        let _ = bench.later(&kind, WITHIN).await;
        bench.show("done 8\nwaiting 0\n");
        passes(&bench.probe(&kind).await, "nothing to do");
        bench.show("done 8\nwaiting 1\n");
        passes(&bench.probe(&kind).await, "8 done, the same for ");
        // So does one of which nothing is known, for however long.
        bench.show("done 8\n");
        passes(&bench.later(&kind, WITHIN.times(2)).await, "there is no waiting at ");
        bench.show("waiting 1\n");
        passes(&bench.probe(&kind).await, "there is no done at ");
        bench.show("done 8\nwaiting 1\n");
        passes(&bench.probe(&kind).await, "8 done, the same for ");
    }

    #[tokio::test]
    async fn a_count_that_is_made_with_the_first_job_is_progress() {
        let bench = Bench::new("other 1\n").await;
        let source = Source::Metric { url: bench.url.clone(), series: series("done") };
        let kind = CheckKind::Progress(ProgressCheck { within: WITHIN, source, while_pending: None });
        passes(&bench.probe(&kind).await, "there is no done at ");
        bench.show("done 0\n");
        passes(&bench.probe(&kind).await, "0 done, the same for ");
        fails(&bench.later(&kind, WITHIN).await, ProbeFailure::Wrong, "no progress for 1 min");
        bench.show("done 1\n");
        passes(&bench.probe(&kind).await, "1 done, the same for ");
    }

    #[tokio::test]
    async fn where_the_work_is_told_by_somebody_else_his_failure_says_nothing() {
        let bench = Bench::new("done 1\n").await;
        let pending = Pending {
            url: format!("http://127.0.0.1:{}/", free_port()),
            series: series("waiting"),
            above: Bound("0".into()),
        };
        let source = Source::Metric { url: bench.url.clone(), series: series("done") };
        let kind = CheckKind::Progress(ProgressCheck { within: WITHIN, source, while_pending: Some(pending) });
        passes(&bench.probe(&kind).await, "whether there is work is not known: connection refused");
        passes(&bench.later(&kind, WITHIN.times(2)).await, "whether there is work is not known: connection refused");
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
        fails(&bench.later(&kind, WITHIN.plus(EVERY)).await, ProbeFailure::Refused, "no progress was seen for 1 min");
        // One that an earlier supervisor has started was up.
        bench.epoch = 2;
        passes(&bench.probe(&kind).await, "nothing done yet, the same for ");
    }

    #[tokio::test]
    async fn progress_is_heard_too() {
        let bench = Bench::new("").await;
        let kind = CheckKind::Progress(ProgressCheck { within: WITHIN, source: Source::Notify, while_pending: None });
        passes(&bench.probe(&kind).await, "nothing done yet, the same for ");
        fails(&bench.later(&kind, WITHIN).await, ProbeFailure::Wrong, "no progress for 1 min");
        bench.meter.figures.said(&bench.name(), Epoch(1), Figure::Progress(4));
        passes(&bench.probe(&kind).await, "4 done, the same for ");
        bench.meter.figures.said(&bench.name(), Epoch(1), Figure::Progress(4));
        fails(&bench.later(&kind, WITHIN).await, ProbeFailure::Wrong, "no progress for 1 min: 4 done");
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
        passes(&bench.probe(&of(Span::from_ms(500))).await, "there is no lag at ");
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
        passes(&bench.probe(&kind).await, "3 ms late");
        passes(&bench.later(&kind, EVERY.times(2)).await, "3 ms late");
        fails(&bench.later(&kind, EVERY).await, ProbeFailure::Wrong, "X_HALE_LOOP_LAG_USEC was not said for 6");
        // What another supervisor was told is not known, and so not missing at once.
        bench.epoch = 2;
        passes(&bench.probe(&kind).await, "nothing was said for ");
        fails(
            &bench.later(&kind, EVERY.times(3)).await,
            ProbeFailure::Wrong,
            "X_HALE_LOOP_LAG_USEC was not said for 6",
        );
    }
}
