//! The `http` check: one request on a new connection, and what its answer must be.

use super::connect::{Resolver, connect_unix, words};
use super::{Deadline, Verdict};
use hale_core::policy::HttpCheck;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncWrite};

/// How much of a body is read: a health page has a few kilobytes; what stands after this is no part of it.
const BODY_BYTES_MAX: usize = 1 << 20;

/// How long status line and headers may be together; servers themselves accept 8 to 64 KiB.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// The port of `http://host/` (RFC 9110, section 4.2.1).
const DEFAULT_PORT: u16 = 80;

/// Sends the check's request and compares the answer. Redirects are answers like others and not followed.
pub(super) async fn probe(check: &HttpCheck, resolver: &Resolver, deadline: Deadline) -> Result<Verdict, Verdict> {
    match Target::of(&check.url) {
        Some(Target::Tcp { authority, path }) => {
            let stream = resolver.connect(authority, Some(DEFAULT_PORT), deadline).await?;
            let _best_effort = stream.set_nodelay(true);
            exchange(stream, request(check, authority, path)?, check, deadline).await
        }
        Some(Target::Unix { socket, path }) => {
            let stream = connect_unix(socket, deadline).await?;
            exchange(stream, request(check, "localhost", path)?, check, deadline).await
        }
        None => Err(Verdict::wrong(format_args!("{:?} is not a URL that Hale knows", check.url))),
    }
}

/// Where a request goes.
enum Target<'a> {
    Tcp { authority: &'a str, path: &'a str },
    Unix { socket: &'a str, path: &'a str },
}

impl<'a> Target<'a> {
    fn of(url: &'a str) -> Option<Self> {
        if let Some(rest) = url.strip_prefix("http://") {
            let (authority, path) = rest.split_at(rest.find('/')?);
            Some(Self::Tcp { authority, path })
        } else {
            let (socket, path) = url.strip_prefix("unix:")?.split_once(':')?;
            Some(Self::Unix { socket, path })
        }
    }
}

fn request(check: &HttpCheck, host: &str, path: &str) -> Result<Request<Empty<Bytes>>, Verdict> {
    let mut builder = Request::builder().method(check.method.as_str()).uri(path).header(CONNECTION, "close");
    for (name, value) in &check.headers {
        builder = builder.header(name, value);
    }
    let defaults = [(HOST, host), (USER_AGENT, concat!("hale/", env!("CARGO_PKG_VERSION"))), (ACCEPT, "*/*")];
    for (name, value) in defaults {
        if !check.headers.keys().any(|given| given.eq_ignore_ascii_case(name.as_str())) {
            builder = builder.header(name, value);
        }
    }
    builder.body(Empty::new()).map_err(|error| Verdict::wrong(format_args!("the request cannot be made: {error}")))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    request: Request<Empty<Bytes>>,
    check: &HttpCheck,
    deadline: Deadline,
) -> Result<Verdict, Verdict> {
    let mut http = http1::Builder::new();
    http.max_header_size(HEAD_BYTES_MAX).max_buf_size(2 * HEAD_BYTES_MAX);
    let (mut sender, connection) = http.handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let mut connection = Driven(Some(Box::pin(connection)));
    let answer = deadline.bound("status and headers", connection.during(sender.send_request(request))).await?;
    let answer = answer.map_err(|error| broken(&error))?;
    let status = answer.status();
    if !check.status.contains(&status.as_u16()) {
        let expected = alternatives(&check.status);
        return Err(Verdict::wrong(format_args!("{}, expected {expected}", status_words(status))));
    }
    if check.body_contains.is_some() || !check.json.is_empty() {
        let wanted = if check.json.is_empty() { check.body_contains.as_deref() } else { None };
        let body = deadline.bound("the body", connection.during(read_body(answer, wanted))).await??;
        compare_text(&body, check.body_contains.as_deref(), status)?;
        compare_json(&body, &check.json, status)?;
    }
    let took = deadline.elapsed();
    match check.faster_than {
        Some(bound) if took > bound => {
            let detail = format_args!("{} in {took}, expected within {bound}", status_words(status));
            Ok(Verdict::slow(detail))
        }
        Some(_) | None => Ok(Verdict::pass(format_args!("{} in {took}", status_words(status)))),
    }
}

/// A connection, which makes progress only while it is polled.
struct Driven<C>(Option<Pin<Box<C>>>);

impl<C: Future> Driven<C> {
    /// Polls the connection until `work`, which waits for it, is done.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        std::future::poll_fn(|context| {
            if let Some(connection) = &mut self.0
                && connection.as_mut().poll(context).is_ready()
            {
                // Why it ended, `work` is told as well.
                self.0 = None;
            }
            match work.as_mut().poll(context) {
                Poll::Ready(result) => Poll::Ready(result),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}

/// Reads the body to its end, or until it contains `wanted`.
async fn read_body(answer: Response<Incoming>, wanted: Option<&str>) -> Result<Vec<u8>, Verdict> {
    let mut frames = answer.into_body();
    let mut body = Vec::new();
    while let Some(frame) = frames.frame().await {
        let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() else { continue };
        if body.len() + data.len() > BODY_BYTES_MAX {
            return Err(Verdict::wrong(format_args!("the body is longer than {BODY_BYTES_MAX} bytes")));
        }
        let seen = body.len();
        body.extend_from_slice(&data);
        if let Some(wanted) = wanted
            && contains(&body[seen.saturating_sub(wanted.len())..], wanted)
        {
            break;
        }
    }
    Ok(body)
}

fn contains(body: &[u8], wanted: &str) -> bool {
    wanted.is_empty() || body.windows(wanted.len()).any(|window| window == wanted.as_bytes())
}

fn compare_text(body: &[u8], wanted: Option<&str>, status: StatusCode) -> Result<(), Verdict> {
    match wanted {
        Some(wanted) if !contains(body, wanted) => {
            Err(Verdict::wrong(format_args!("{}, but the body does not contain {wanted:?}", status_words(status))))
        }
        Some(_) | None => Ok(()),
    }
}

fn compare_json(body: &[u8], wanted: &BTreeMap<String, String>, status: StatusCode) -> Result<(), Verdict> {
    if wanted.is_empty() {
        return Ok(());
    }
    let status = status_words(status);
    let wrong = |detail: std::fmt::Arguments<'_>| Verdict::wrong(format_args!("{status}, but {detail}"));
    let body: Json =
        serde_json::from_slice(body).map_err(|error| wrong(format_args!("the body is not JSON: {error}")))?;
    for (pointer, expected) in wanted {
        let value: Json = serde_json::from_str(expected)
            .map_err(|error| wrong(format_args!("the value expected at {pointer} is not JSON: {error}")))?;
        match body.pointer(pointer) {
            None => return Err(wrong(format_args!("{pointer} is missing, expected {expected}"))),
            Some(found) if !same(found, &value) => {
                return Err(wrong(format_args!("{pointer} is {found}, expected {expected}")));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Whether two JSON values mean the same: 1 and 1.0 do (RFC 8259, section 6), the order of members does not matter.
fn same(left: &Json, right: &Json) -> bool {
    match (left, right) {
        (Json::Number(left), Json::Number(right)) => left == right || left.as_f64() == right.as_f64(),
        (Json::Array(left), Json::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        (Json::Object(left), Json::Object(right)) => {
            let has = |(name, value): (&String, &Json)| right.get(name).is_some_and(|other| same(value, other));
            left.len() == right.len() && left.iter().all(has)
        }
        (Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Array(_) | Json::Object(_), _) => {
            left == right
        }
    }
}

/// `503 Service Unavailable`.
fn status_words(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_str()),
        None => status.as_str().to_owned(),
    }
}

/// `200`, `200 or 204`, `200, 204 or 301`.
fn alternatives(status: &[u16]) -> String {
    let mut text = String::new();
    for (at, code) in status.iter().enumerate() {
        let between = match at {
            0 => "",
            _ if at + 1 == status.len() => " or ",
            _ => ", ",
        };
        let _always_ok = write!(text, "{between}{code}");
    }
    text
}

/// Why there is no answer, or only half of one.
fn broken(error: &hyper::Error) -> Verdict {
    if let Some(error) = error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        return Verdict::wrong(words(error));
    }
    if error.is_parse_too_large() {
        Verdict::wrong(format_args!("status line and headers are longer than {HEAD_BYTES_MAX} bytes, or too many"))
    } else if error.is_parse() {
        Verdict::wrong(format_args!("the answer is not HTTP: {error}"))
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        Verdict::wrong("the connection was closed before the answer was complete")
    } else {
        Verdict::wrong(error)
    }
}
