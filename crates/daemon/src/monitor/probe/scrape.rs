//! Fetches metrics over HTTP for the checks that have bounds for them.

use super::exposition::Exposition;
use super::http::{self, Sent};
use super::{Deadline, Network, Verdict};
use hale_core::event::ProbeFailure;
use hale_core::policy::Series;
use hyper::StatusCode;
use hyper::header::ACCEPT;
use std::collections::BTreeMap;

/// How much of a page is read. Large exporters have some megabytes; none of it is kept.
const PAGE_BYTES_MAX: usize = 16 << 20;

/// What Prometheus itself asks for when it wants the text format.
const TEXT_FORMAT: &str = "text/plain;version=0.0.4;q=1,*/*;q=0.1";

/// The samples of each series of `wanted` at `url`.
pub(super) async fn scrape(
    url: &str,
    wanted: Vec<&Series>,
    network: &Network,
    deadline: Deadline,
) -> Result<Vec<Vec<f64>>, Verdict> {
    let headers = BTreeMap::from([(ACCEPT.to_string(), TEXT_FORMAT.to_owned())]);
    let page = read(url, &headers, wanted, network, deadline);
    page.await.map_err(|verdict| match verdict.failure {
        // What was answered is not what the bound is about.
        Some(ProbeFailure::Wrong) => Verdict { failure: Some(ProbeFailure::Refused), ..verdict },
        _ => verdict,
    })
}

async fn read(
    url: &str,
    headers: &BTreeMap<String, String>,
    wanted: Vec<&Series>,
    network: &Network,
    deadline: Deadline,
) -> Result<Vec<Vec<f64>>, Verdict> {
    let Sent { answer, mut connection } = http::send("GET", url, headers, None, network, deadline).await?;
    if answer.status() != StatusCode::OK {
        return Err(Verdict::wrong(format_args!("{}, expected 200", http::status_words(answer.status()))));
    }
    let mut exposition = Exposition::new(wanted);
    let mut bytes = 0;
    let page = http::read_body(answer, |data| {
        bytes += data.len();
        if bytes > PAGE_BYTES_MAX {
            return Err(Verdict::wrong(format_args!("the metrics are longer than {PAGE_BYTES_MAX} bytes")));
        }
        exposition.push(data).map_err(Verdict::wrong).map(|()| true)
    });
    deadline.bound("the metrics", connection.during(page)).await??;
    exposition.end().map_err(Verdict::wrong)
}
