//! Probes whose connection is given instead of made: the entrance of the fuzz targets (`fuzz/`), for nobody else.

use super::exposition::Exposition;
use super::{Deadline, Verdict, grpc, http};
use hale_core::event::ProbeFailure;
use hale_core::policy::{HttpCheck, Series};
use hale_core::time::Span;
use tokio::io::{AsyncRead, AsyncWrite};

/// What a probe found: the failure, if it is one, and its line for people.
pub type Found = (Option<ProbeFailure>, String);

/// The longest of those lines, in bytes.
pub const DETAIL_BYTES: usize = super::DETAIL_BYTES;

/// How much of a body an `http` check reads.
pub const BODY_BYTES_MAX: usize = http::BODY_BYTES_MAX;

/// An `http` check over this connection; the URL of the check tells nothing.
pub async fn http(
    check: &HttpCheck,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    timeout: Span,
) -> Found {
    let deadline = Deadline::start(timeout);
    let work = async {
        let request = http::request(&check.method, &check.headers, "localhost", "/")?;
        http::judge(check, http::exchange(stream, request, deadline).await?, deadline).await
    };
    found(work.await)
}

/// A `grpc` check over this connection.
pub async fn grpc(service: &str, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, timeout: Span) -> Found {
    found(grpc::exchange(stream, "localhost", service, Deadline::start(timeout)).await)
}

/// The samples of each wanted series on a page of metrics that comes in these pieces.
///
/// # Errors
///
/// What is wrong with the page.
pub fn samples<'a>(wanted: &[Series], pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Vec<f64>>, String> {
    let mut exposition = Exposition::new(wanted.iter().collect());
    pieces.into_iter().try_for_each(|piece| exposition.push(piece))?;
    exposition.end()
}

fn found(result: Result<Verdict, Verdict>) -> Found {
    let Verdict { failure, detail, figure: _ } = result.unwrap_or_else(|verdict| verdict);
    (failure, detail)
}
