//! The `http` check: one request on a new connection, and what its answer must be.

use super::connect::{connect_unix, words};
use super::{Deadline, Network, Verdict};
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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much of a body is read: a health page has a few kilobytes; what stands after this is no part of it.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;

/// How long status line and headers may be together; servers themselves accept 8 to 64 KiB.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// From how much on nothing more is read before the answer has begun. With its head may come as much of its body as hyper has
/// room for.
const BEFORE_ANSWER_BYTES_MAX: usize = READ_AHEAD_BYTES_MAX + HEAD_BYTES_MAX;

/// How much hyper reads at once: more than a head.
const READ_AHEAD_BYTES_MAX: usize = 2 * HEAD_BYTES_MAX;

/// The port of `http://host/` (RFC 9110, section 4.2.1).
const DEFAULT_PORT: u16 = 80;

/// The port of `https://host/` (RFC 9110, section 4.2.2).
const DEFAULT_TLS_PORT: u16 = 443;

/// Sends the check's request and compares the answer. Redirects are answers like others and not followed.
pub(super) async fn probe(check: &HttpCheck, network: &Network, deadline: Deadline) -> Result<Verdict, Verdict> {
    let sent = send(&check.method, &check.url, &check.headers, check.ca_file.as_deref(), network, deadline);
    judge(check, sent.await?, deadline).await
}

/// Compares an answer whose head is there.
pub(super) async fn judge(check: &HttpCheck, sent: Sent, deadline: Deadline) -> Result<Verdict, Verdict> {
    let Sent { answer, mut connection } = sent;
    let status = answer.status();
    if !check.status.contains(&status.as_u16()) {
        let expected = alternatives(&check.status);
        return Err(Verdict::wrong(format_args!("{}, expected {expected}", status_words(status))));
    }
    if check.body_contains.is_some() || !check.json.is_empty() {
        let wanted = if check.json.is_empty() { check.body_contains.as_deref() } else { None };
        let body = deadline.bound("the body", connection.during(whole_body(answer, wanted))).await??;
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

/// An answer whose body is still to come, and the connection that it comes by.
pub(super) struct Sent {
    pub(super) answer: Response<Incoming>,
    pub(super) connection: Driven,
}

/// Sends a request on a new connection, and waits for the head of its answer.
pub(super) async fn send(
    method: &str,
    url: &str,
    headers: &BTreeMap<String, String>,
    ca_file: Option<&str>,
    network: &Network,
    deadline: Deadline,
) -> Result<Sent, Verdict> {
    let request = |host, path| request(method, headers, host, path);
    match Target::of(url) {
        Some(Target::Tcp { authority, path }) => {
            let stream = network.resolver.connect(authority, Some(DEFAULT_PORT), deadline).await?;
            exchange(Unended(stream), request(authority, path)?, deadline).await
        }
        Some(Target::Tls { authority, path }) => {
            let stream = network.tls.connect(authority, DEFAULT_TLS_PORT, ca_file, &network.resolver, deadline).await?;
            exchange(stream, request(authority, path)?, deadline).await
        }
        Some(Target::Unix { socket, path }) => {
            let stream = connect_unix(socket, deadline).await?;
            exchange(stream, request("localhost", path)?, deadline).await
        }
        None => Err(Verdict::wrong(format_args!("{url:?} is not a URL that Hale knows"))),
    }
}

/// Where a request goes.
enum Target<'a> {
    Tcp { authority: &'a str, path: &'a str },
    Tls { authority: &'a str, path: &'a str },
    Unix { socket: &'a str, path: &'a str },
}

impl<'a> Target<'a> {
    fn of(url: &'a str) -> Option<Self> {
        if let Some(rest) = url.strip_prefix("http://") {
            let (authority, path) = rest.split_at(rest.find('/')?);
            Some(Self::Tcp { authority, path })
        } else if let Some(rest) = url.strip_prefix("https://") {
            let (authority, path) = rest.split_at(rest.find('/')?);
            Some(Self::Tls { authority, path })
        } else {
            let (socket, path) = url.strip_prefix("unix:")?.split_once(':')?;
            Some(Self::Unix { socket, path })
        }
    }
}

pub(super) fn request(
    method: &str,
    headers: &BTreeMap<String, String>,
    host: &str,
    path: &str,
) -> Result<Request<Empty<Bytes>>, Verdict> {
    let mut builder = Request::builder().method(method).uri(path).header(CONNECTION, "close");
    for (name, value) in headers {
        builder = builder.header(name, value);
    }
    let defaults = [(HOST, host), (USER_AGENT, concat!("hale/", env!("CARGO_PKG_VERSION"))), (ACCEPT, "*/*")];
    for (name, value) in defaults {
        if !headers.keys().any(|given| given.eq_ignore_ascii_case(name.as_str())) {
            builder = builder.header(name, value);
        }
    }
    builder.body(Empty::new()).map_err(|error| Verdict::wrong(format_args!("the request cannot be made: {error}")))
}

pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
    deadline: Deadline,
) -> Result<Sent, Verdict> {
    let mut http = http1::Builder::new();
    http.max_header_size(HEAD_BYTES_MAX).max_buf_size(READ_AHEAD_BYTES_MAX);
    let begun = Arc::new(AtomicBool::new(false));
    let stream = Beginning { stream, begun: begun.clone(), bytes: 0 };
    let (mut sender, connection) = http.handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let mut connection = Driven::new(connection);
    let answer = deadline.bound("status and headers", connection.during(sender.send_request(request))).await?;
    begun.store(true, Relaxed);
    Ok(Sent { answer: answer.map_err(|error| broken(&error))?, connection })
}

/// A stream of which only so much is read before the answer has begun: hyper passes over interim answers (RFC 9110, section
/// 15.2) without a bound, and as long as they come as fast as they are read nobody else gets the thread.
struct Beginning<S> {
    stream: S,
    begun: Arc<AtomicBool>,
    bytes: usize,
}

impl<S: AsyncRead + Unpin> AsyncRead for Beginning<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.bytes > BEFORE_ANSWER_BYTES_MAX && !self.begun.load(Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        let before = to.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, to);
        self.bytes = self.bytes.saturating_add(to.filled().len() - before);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Beginning<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A stream whose own direction is not ended before it is closed, which ends both: one packet instead of two.
struct Unended<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for Unended<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, to)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unended<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A connection, which makes progress only while it is polled.
pub(super) struct Driven(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Driven {
    pub(super) fn new<T>(connection: impl Future<Output = T> + Send + 'static) -> Self {
        // Why it ended, those who wait for something of it are told as well.
        Self(Some(Box::pin(async { drop(connection.await) })))
    }

    /// Polls the connection until `work`, which waits for it, is done.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        std::future::poll_fn(|context| {
            if let Some(connection) = &mut self.0
                && connection.as_mut().poll(context).is_ready()
            {
                self.0 = None;
            }
            work.as_mut().poll(context)
        })
        .await
    }
}

/// Gives the body to `take` piece by piece, to its end or until that wants no more.
pub(super) async fn read_body(
    answer: Response<Incoming>,
    mut take: impl FnMut(&[u8]) -> Result<bool, Verdict>,
) -> Result<(), Verdict> {
    let mut frames = answer.into_body();
    while let Some(frame) = frames.frame().await {
        let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() else { continue };
        if !take(&data)? {
            break;
        }
    }
    Ok(())
}

/// Reads the body to its end, or until it contains `wanted`.
async fn whole_body(answer: Response<Incoming>, wanted: Option<&str>) -> Result<Vec<u8>, Verdict> {
    let mut body = Vec::new();
    let take = |data: &[u8]| {
        if body.len() + data.len() > BODY_BYTES_MAX {
            return Err(Verdict::wrong(format_args!("the body is longer than {BODY_BYTES_MAX} bytes")));
        }
        let seen = body.len();
        body.extend_from_slice(data);
        Ok(!wanted.is_some_and(|wanted| contains(&body[seen.saturating_sub(wanted.len())..], wanted)))
    };
    read_body(answer, take).await?;
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
pub(super) fn status_words(status: StatusCode) -> String {
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

fn incomplete() -> Verdict {
    Verdict::wrong("the connection was closed before the answer was complete")
}

fn too_long() -> Verdict {
    Verdict::wrong(format_args!("status line and headers are longer than {HEAD_BYTES_MAX} bytes, or too many"))
}

/// Why there is no answer, or only half of one.
fn broken(error: &hyper::Error) -> Verdict {
    if let Some(error) = error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => incomplete(),
            io::ErrorKind::FileTooLarge => too_long(),
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
                Verdict::wrong(format_args!("the answer is not HTTP: {}", words(error)))
            }
            _ => Verdict::by_error(error, words(error)),
        };
    }
    if error.is_parse_too_large() {
        too_long()
    } else if error.is_parse() {
        Verdict::wrong(format_args!("the answer is not HTTP: {error}"))
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        incomplete()
    } else {
        Verdict::wrong(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::probe::testing::{LONG, assert_fails, assert_passes, free_port, get, run, serve};
    use hale_core::event::{ProbeFailure, ProbeOutcome};
    use hale_core::policy::CheckKind;
    use hale_core::time::Span;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    const SHORT: Span = Span::from_ms(150);

    async fn probe(check: HttpCheck, timeout: Span) -> ProbeOutcome {
        run(CheckKind::Http(check), timeout).await
    }

    /// A check of a server that reads the request's head and answers `answer`.
    async fn answering(answer: &'static str) -> HttpCheck {
        let address = serve(move |mut stream| async move {
            read_head(&mut stream).await?;
            stream.write_all(answer.as_bytes()).await
        });
        get(format!("http://{}/health?x=1", address.await))
    }

    async fn read_head(stream: &mut TcpStream) -> io::Result<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        Ok(String::from_utf8_lossy(&head).into_owned())
    }

    #[tokio::test]
    async fn the_status_decides() {
        let check = answering("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_fails(&probe(check.clone(), LONG).await, ProbeFailure::Wrong, "204 No Content, expected 200");
        let several = HttpCheck { status: vec![200, 301, 404], ..check.clone() };
        assert_fails(&probe(several, LONG).await, ProbeFailure::Wrong, "204 No Content, expected 200, 301 or 404");
        assert_passes(&probe(HttpCheck { status: vec![200, 204], ..check }, LONG).await, "204 No Content in ");
        let check = answering("HTTP/1.0 299 Odd\r\n\r\n").await;
        assert_fails(&probe(check, LONG).await, ProbeFailure::Wrong, "299, expected 200");
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_not_followed() {
        let check = answering("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n").await;
        assert_fails(&probe(check, LONG).await, ProbeFailure::Wrong, "302 Found, expected 200");
    }

    #[tokio::test]
    async fn the_request_is_what_the_check_says() {
        let address = serve(|mut stream| async move {
            let head = read_head(&mut stream).await?.to_ascii_lowercase();
            let wanted = [
                "post /a%20b?c=d http/1.1\r\n",
                "\r\nhost: bot.example\r\n",
                "\r\nx-key: 1\r\n",
                "\r\nconnection: close\r\n",
            ];
            let is_right = wanted.iter().all(|part| head.contains(part)) && head.matches("\r\nhost:").count() == 1;
            stream.write_all(if is_right { b"HTTP/1.1 200 OK\r\n\r\n" } else { b"HTTP/1.1 400 Bad\r\n\r\n" }).await
        });
        let url = format!("http://{}/a%20b?c=d", address.await);
        let headers = [("host", "bot.example"), ("x-key", "1")].map(|(name, value)| (name.into(), value.into()));
        let check = HttpCheck { method: "POST".into(), headers: headers.into(), ..get(url) };
        assert_passes(&probe(check, LONG).await, "200 OK in ");
    }

    #[tokio::test]
    async fn the_body_is_searched_and_compared() {
        let check = answering(concat!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "7\r\n{\"a\":{\"\r\n1c\r\n/\":[1.0,\"up\"]},\"b\":\"\\u001b\"}\r\n0\r\n\r\n"
        ));
        let check = check.await;
        let contains = |text: &str| HttpCheck { body_contains: Some(text.into()), ..check.clone() };
        assert_passes(&probe(contains("\"a\":{\"/\":"), LONG).await, "200 OK in ");
        let detail = "200 OK, but the body does not contain \"down\"";
        assert_fails(&probe(contains("down"), LONG).await, ProbeFailure::Wrong, detail);
        let json = |pointer: &str, value: &str| {
            let json = [(pointer.to_owned(), value.to_owned())].into();
            HttpCheck { json, ..check.clone() }
        };
        assert_passes(&probe(json("/a/~1/0", "1"), LONG).await, "200 OK in ");
        assert_passes(&probe(json("/a", r#"{"/":[1,"up"]}"#), LONG).await, "200 OK in ");
        let wrong = [
            (json("/a/~1/1", "\"down\""), "200 OK, but /a/~1/1 is \"up\", expected \"down\""),
            (json("/c", "null"), "200 OK, but /c is missing, expected null"),
            (json("/b", "1"), "200 OK, but /b is \"\\u001b\", expected 1"),
        ];
        for (check, detail) in wrong {
            assert_fails(&probe(check, LONG).await, ProbeFailure::Wrong, detail);
        }
        let check = answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup").await;
        let check = HttpCheck { json: [(String::new(), "1".into())].into(), ..check };
        assert_fails(&probe(check, LONG).await, ProbeFailure::Wrong, "200 OK, but the body is not JSON: ");
    }

    #[tokio::test]
    async fn a_right_answer_too_late_is_slow_and_a_wrong_one_is_wrong() {
        let check = answering("HTTP/1.1 200 OK\r\n\r\n").await;
        let slow = HttpCheck { faster_than: Some(Span::from_us(1)), ..check };
        let outcome = probe(slow.clone(), LONG).await;
        assert_fails(&outcome, ProbeFailure::Slow, "200 OK in ");
        assert!(outcome.detail.ends_with(", expected within 0 ms"), "{outcome:?}");
        assert_passes(&probe(HttpCheck { faster_than: Some(LONG), ..slow.clone() }, LONG).await, "200 OK in ");
        let wrong = HttpCheck { status: vec![500], ..slow };
        assert_fails(&probe(wrong, LONG).await, ProbeFailure::Wrong, "200 OK, expected 500");
    }

    #[tokio::test]
    async fn a_server_that_accepts_and_says_nothing_is_no_answer() {
        let address = serve(|mut stream| async move { stream.read_to_end(&mut Vec::new()).await.map(|_| ()) }).await;
        let outcome = probe(get(format!("http://{address}/")), SHORT).await;
        assert_fails(&outcome, ProbeFailure::Timeout, "no answer within 150 ms: waiting for status and headers");
    }

    #[tokio::test]
    async fn a_byte_now_and_then_does_not_extend_the_deadline() {
        for (body, waiting) in [(false, "status and headers"), (true, "the body")] {
            let address = serve(move |mut stream| async move {
                read_head(&mut stream).await?;
                let head = if body { "HTTP/1.1 200 OK\r\n\r\n" } else { "HTTP/1.1 200 OK\r\nx: " };
                stream.write_all(head.as_bytes()).await?;
                let mut ticks = tokio::time::interval(Duration::from_millis(10));
                loop {
                    ticks.tick().await;
                    stream.write_all(b"x").await?;
                }
            });
            let check = HttpCheck { body_contains: Some("y".into()), ..get(format!("http://{}/", address.await)) };
            let detail = format!("no answer within 150 ms: waiting for {waiting}");
            assert_fails(&probe(check, SHORT).await, ProbeFailure::Timeout, &detail);
        }
    }

    #[tokio::test]
    async fn what_never_ends_is_cut_off() {
        let endless = |head: &'static str, line: &'static str| {
            serve(move |mut stream| async move {
                read_head(&mut stream).await?;
                stream.write_all(head.as_bytes()).await?;
                loop {
                    stream.write_all(line.repeat(64).as_bytes()).await?;
                }
            })
        };
        let body = get(format!("http://{}/", endless("HTTP/1.1 200 OK\r\n\r\n", "0123456789abcdef").await));
        assert_passes(&probe(body.clone(), LONG).await, "200 OK in ");
        let early = HttpCheck { body_contains: Some("def0123".into()), ..body.clone() };
        assert_passes(&probe(early, LONG).await, "200 OK in ");
        let never = HttpCheck { body_contains: Some("never".into()), ..body };
        assert_fails(&probe(never, LONG).await, ProbeFailure::Wrong, "the body is longer than 1048576 bytes");

        let one_header = endless("HTTP/1.1 200 OK\r\nx: ", "0123456789abcdef").await;
        let many_headers = endless("HTTP/1.1 200 OK\r\n", "x-0123456789: y\r\n").await;
        let interim_answers = endless("HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 102 Processing\r\nx: y\r\n\r\n").await;
        for address in [one_header, many_headers, interim_answers] {
            let outcome = probe(get(format!("http://{address}/")), LONG).await;
            assert_fails(&outcome, ProbeFailure::Wrong, "status line and headers are longer than 65536 bytes");
        }
    }

    #[tokio::test]
    async fn half_an_answer_is_wrong() {
        let check = answering("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
        let check = HttpCheck { body_contains: Some("whole".into()), ..check };
        let detail = "the connection was closed before the answer was complete";
        assert_fails(&probe(check, LONG).await, ProbeFailure::Wrong, detail);
        assert_fails(&probe(answering("HTTP/1.1 2").await, LONG).await, ProbeFailure::Wrong, detail);
        let garbage = probe(answering("+PONG\r\n\r\n").await, LONG).await;
        assert_fails(&garbage, ProbeFailure::Wrong, "the answer is not HTTP: ");
    }

    #[tokio::test]
    async fn resets_and_refusals_are_told_apart() {
        let address = serve(|mut stream| async move {
            read_head(&mut stream).await?;
            stream.set_zero_linger()
        });
        let outcome = probe(get(format!("http://{}/", address.await)), LONG).await;
        assert_fails(&outcome, ProbeFailure::Wrong, "connection reset");
        let address = format!("127.0.0.1:{}", free_port());
        let outcome = probe(get(format!("http://{address}/")), LONG).await;
        assert_fails(&outcome, ProbeFailure::Wrong, &format!("connection refused ({address})"));
    }

    #[tokio::test]
    async fn a_unix_socket_without_listener_is_refused_and_one_with_a_full_queue_is_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.sock");
        let check = get(format!("unix:{}:/health", path.display()));
        let to = format!("(unix:{})", path.display());
        assert_fails(&probe(check.clone(), LONG).await, ProbeFailure::Wrong, &format!("no such file {to}"));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _queued = UnixStream::connect(&path).unwrap();
        let detail = format!("no answer within 150 ms: waiting for the connection to unix:{}", path.display());
        assert_fails(&probe(check.clone(), SHORT).await, ProbeFailure::Timeout, &detail);
        drop(listener);
        assert_fails(&probe(check, LONG).await, ProbeFailure::Wrong, &format!("connection refused {to}"));
    }

    mod needs_nginx {
        use super::*;
        use crate::monitor::probe::testing::Foreign;
        use rustix::process::Signal;
        use std::process::Command;

        #[tokio::test]
        async fn nginx_answers_over_tcp_and_unix_until_it_is_stopped() {
            let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
            let path = dir.path().display().to_string();
            let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("{kind}_temp_path {path}/{kind};"))
                .concat();
            let text = format!(
                "daemon off; pid {path}/pid; error_log stderr notice; events {{}}
                http {{ access_log off; {temporary} server {{ listen 127.0.0.1:{port}; listen unix:{path}/http;
                location = /health {{ default_type application/json; return 200 '{{\"status\":\"ok\"}}'; }} }} }}"
            );
            std::fs::write(dir.path().join("conf"), text).unwrap();
            let mut command = Command::new("nginx");
            command.args(["-p", &path, "-c", "conf", "-e", "stderr"]);
            let (nginx, _) = Foreign::start(&mut command, "start worker process ");

            let json = BTreeMap::from([(String::from("/status"), String::from("\"ok\""))]);
            let over_tcp = HttpCheck { json, ..get(format!("http://127.0.0.1:{port}/health")) };
            let over_unix = HttpCheck { url: format!("unix:{path}/http:/health"), ..over_tcp.clone() };
            assert_passes(&probe(over_tcp.clone(), LONG).await, "200 OK in ");
            assert_passes(&probe(over_unix, LONG).await, "200 OK in ");
            let missing = get(format!("http://127.0.0.1:{port}/missing"));
            assert_fails(&probe(missing, LONG).await, ProbeFailure::Wrong, "404 Not Found, expected 200");
            nginx.signal(Signal::STOP);
            let detail = "no answer within 150 ms: waiting for status and headers";
            assert_fails(&probe(over_tcp, SHORT).await, ProbeFailure::Timeout, detail);
        }
    }

    mod needs_python {
        use super::*;
        use crate::monitor::probe::testing::Foreign;
        use std::process::Command;

        /// An asyncio server whose loop one request blocks for good: it still accepts, and never answers.
        const SERVER: &str = r#"
import asyncio, threading
async def serve(reader, writer):
    head = await reader.readuntil(b"\r\n\r\n")
    if b" /wedge " in head:
        threading.Event().wait()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup")
    await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"#;

        #[tokio::test]
        async fn an_asyncio_server_with_a_blocked_loop_hangs() {
            let (_python, line) = Foreign::start(Command::new("python3").args(["-c", SERVER]), "port ");
            let port = line.trim_start_matches("port ");
            let check = HttpCheck { body_contains: Some("up".into()), ..get(format!("http://127.0.0.1:{port}/")) };
            assert_passes(&probe(check.clone(), LONG).await, "200 OK in ");
            let wedge = HttpCheck { url: format!("http://127.0.0.1:{port}/wedge"), ..check.clone() };
            let detail = "no answer within 150 ms: waiting for status and headers";
            assert_fails(&probe(wedge, SHORT).await, ProbeFailure::Timeout, detail);
            assert_fails(&probe(check, SHORT).await, ProbeFailure::Timeout, detail);
        }
    }
}
