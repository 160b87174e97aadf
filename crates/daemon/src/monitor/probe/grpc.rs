//! The `grpc` check: one call of grpc.health.v1.Health/Check over HTTP/2 without TLS.
//!
//! Protocol: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>; service:
//! <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>. A request and an answer of one field each are
//! written by hand: a generator and a client for them would be more to read.

use super::connect::{connect_unix, words};
use super::http::{Driven, status_words};
use super::{Deadline, Network, Verdict};
use h2::client::{Builder, SendRequest};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri, Version};
use std::borrow::Cow;
use tokio::io::{AsyncRead, AsyncWrite};

/// How long an answer may be: the status takes two bytes, its frame five.
const ANSWER_BYTES_MAX: usize = 4 << 10;

/// How long its headers may be together.
const HEAD_BYTES_MAX: u32 = 64 << 10;

/// `/{service}/{method}` of the health check.
const PATH: &str = "/grpc.health.v1.Health/Check";

/// Asks whether `service` is serving.
pub(super) async fn probe(
    address: &str,
    service: &str,
    network: &Network,
    deadline: Deadline,
) -> Result<Verdict, Verdict> {
    match address.strip_prefix("unix:") {
        Some(path) => exchange(connect_unix(path, deadline).await?, "localhost", service, deadline).await,
        None => {
            let stream = network.resolver.connect(address, None, deadline).await?;
            let _best_effort = stream.set_nodelay(true);
            exchange(stream, address, service, deadline).await
        }
    }
}

pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    authority: &str,
    service: &str,
    deadline: Deadline,
) -> Result<Verdict, Verdict> {
    let shaking = Builder::new().max_header_list_size(HEAD_BYTES_MAX).enable_push(false).handshake(stream);
    let (sender, connection) = deadline.bound("HTTP/2", shaking).await?.map_err(|error| broken(&error))?;
    let mut connection = Driven::new(connection);
    let answer = deadline.bound("the answer", connection.during(call(sender, authority, service))).await??;
    let took = deadline.elapsed();
    let of = if service.is_empty() { String::new() } else { format!(" ({service})") };
    match answer {
        Health::Serving => Ok(Verdict::pass(format_args!("serving in {took}{of}"))),
        other => Err(Verdict::wrong(format_args!("{}{of}, expected serving", other.words()))),
    }
}

/// `HealthCheckResponse.ServingStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Serving,
    NotServing,
    Unknown,
    ServiceUnknown,
    Other(u64),
}

impl Health {
    fn words(self) -> Cow<'static, str> {
        match self {
            Self::Serving => "serving".into(),
            Self::NotServing => "not serving".into(),
            Self::Unknown => "status unknown".into(),
            Self::ServiceUnknown => "service unknown".into(),
            Self::Other(number) => format!("status {number}").into(),
        }
    }
}

async fn call(sender: SendRequest<Bytes>, authority: &str, service: &str) -> Result<Health, Verdict> {
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query(PATH).build();
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(uri.map_err(Verdict::wrong)?)
        .header(TE, "trailers")
        .header(CONTENT_TYPE, "application/grpc")
        .header(USER_AGENT, concat!("hale/", env!("CARGO_PKG_VERSION")))
        .body(())
        .map_err(Verdict::wrong)?;
    let mut sender = sender.ready().await.map_err(|error| broken(&error))?;
    let (answer, mut body) = sender.send_request(request, false).map_err(|error| broken(&error))?;
    // It is shorter than the window that every server must grant at first (RFC 9113, section 6.9.2).
    body.send_data(framed(service), true).map_err(|error| broken(&error))?;
    let answer = answer.await.map_err(|error| broken(&error))?;
    if answer.status() != StatusCode::OK {
        return Err(Verdict::wrong(format_args!("not gRPC: {}", status_words(answer.status()))));
    }
    // An answer without a message has its status in the headers.
    status_of(answer.headers())?;
    let mut stream = answer.into_body();
    let mut bytes = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data.map_err(|error| broken(&error))?;
        if bytes.len() + data.len() > ANSWER_BYTES_MAX {
            return Err(Verdict::wrong(format_args!("the answer is longer than {ANSWER_BYTES_MAX} bytes")));
        }
        bytes.extend_from_slice(&data);
        // A window that is not given back stays smaller; the answer is shorter than it.
    }
    match stream.trailers().await.map_err(|error| broken(&error))? {
        Some(trailers) if trailers.contains_key("grpc-status") => status_of(&trailers)?,
        _ => return Err(Verdict::wrong("not gRPC: the call ended without a status")),
    }
    unframed(&bytes)
}

/// A `HealthCheckRequest` in a frame: not compressed, and its length in four bytes.
fn framed(service: &str) -> Bytes {
    let mut message = Vec::with_capacity(service.len() + 3);
    if !service.is_empty() {
        // Field 1, a text: its length as a varint (<https://protobuf.dev/programming-guides/encoding/>).
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

/// The status of a `HealthCheckResponse` in a frame. Zero is not written, and other fields may come one day.
fn unframed(bytes: &[u8]) -> Result<Health, Verdict> {
    let bad = || Verdict::wrong("the answer is not a health check's");
    let Some((&[compressed, a, b, c, d], message)) = bytes.split_first_chunk::<5>() else { return Err(bad()) };
    if compressed != 0 || u32::from_be_bytes([a, b, c, d]) as usize != message.len() {
        return Err(bad());
    }
    let (mut rest, mut status) = (message, 0);
    while !rest.is_empty() {
        let tag = varint(&mut rest).ok_or_else(bad)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = varint(&mut rest).ok_or_else(bad)?,
            (_, 0) => drop(varint(&mut rest).ok_or_else(bad)?),
            (_, 1) => rest = rest.get(8..).ok_or_else(bad)?,
            (_, 2) => {
                let length = varint(&mut rest).and_then(|length| usize::try_from(length).ok()).ok_or_else(bad)?;
                rest = rest.get(length..).ok_or_else(bad)?;
            }
            (_, 5) => rest = rest.get(4..).ok_or_else(bad)?,
            _ => return Err(bad()),
        }
    }
    Ok(match status {
        0 => Health::Unknown,
        1 => Health::Serving,
        2 => Health::NotServing,
        3 => Health::ServiceUnknown,
        other => Health::Other(other),
    })
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// An error if the call has failed (<https://github.com/grpc/grpc/blob/master/doc/statuscodes.md>).
fn status_of(headers: &HeaderMap) -> Result<(), Verdict> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some("5") => Err(Verdict::wrong("the server knows no such service (NOT_FOUND)")),
        Some("12") => Err(Verdict::wrong("the server has no health check (UNIMPLEMENTED)")),
        Some(code) => {
            let message = text("grpc-message").unwrap_or_default();
            Err(Verdict::wrong(format_args!("the call failed with status {code}: {message}")))
        }
    }
}

fn broken(error: &h2::Error) -> Verdict {
    match error.get_io() {
        Some(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => Verdict::wrong("the connection was closed"),
        // By the system's own number it is the connection that broke; else the reader of HTTP/2 did not understand.
        Some(io) if io.raw_os_error().is_some() => Verdict::by_error(io, words(io)),
        Some(io) => Verdict::wrong(format_args!("not HTTP/2, or broken: {io}")),
        None => Verdict::wrong(format_args!("not HTTP/2, or broken: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::probe::testing::{LONG, assert_fails, free_port, run, serve};
    use hale_core::event::ProbeFailure;
    use hale_core::policy::CheckKind;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn check(address: String, service: &str) -> CheckKind {
        CheckKind::Grpc { address, service: service.to_owned() }
    }

    #[test]
    fn requests_are_framed() {
        assert_eq!(&framed("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&framed("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = framed(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
        assert_eq!(long.len(), 5 + 303);
    }

    #[test]
    fn answers_are_read_with_fields_that_are_not_known() {
        let of = |message: &[u8]| unframed(&[&[0, 0, 0, 0, message.len() as u8], message].concat());
        assert_eq!(of(&[]), Ok(Health::Unknown), "zero is not written");
        assert_eq!(of(&[8, 1]), Ok(Health::Serving));
        assert_eq!(of(&[8, 2]), Ok(Health::NotServing));
        assert_eq!(of(&[8, 3]), Ok(Health::ServiceUnknown));
        assert_eq!(of(&[8, 0x80, 1]), Ok(Health::Other(128)));
        // Fields 2 (eight bytes), 3 (a text), 4 (four bytes) and 5 (a number).
        let known = [0x11, 1, 2, 3, 4, 5, 6, 7, 8, 0x1a, 2, b'a', b'b', 0x25, 1, 2, 3, 4, 0x28, 7, 8, 1];
        assert_eq!(of(&known), Ok(Health::Serving));
        for bad in [
            &[8][..],
            &[0x1a, 9, 1],
            &[0x11, 1],
            &[0x25, 1],
            &[0x0f],
            &[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
        for bad in [&[][..], &[0, 0, 0], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 3, 8, 1]] {
            assert!(unframed(bad).is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn what_does_not_speak_it_is_told() {
        let refused = run(check(format!("127.0.0.1:{}", free_port()), ""), LONG).await;
        assert_fails(&refused, ProbeFailure::Wrong, "connection refused");
        let http1 = serve(|mut stream| async move {
            // "PRI * HTTP/2.0" and what belongs to it (RFC 9113, section 3.4).
            stream.read_exact(&mut [0; 24]).await?;
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await?;
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(|_| ())
        });
        let other = run(check(http1.await.to_string(), ""), LONG).await;
        assert_fails(&other, ProbeFailure::Wrong, "not HTTP/2, or broken: ");
        let closed = run(check(serve(|_stream| async { Ok(()) }).await.to_string(), ""), LONG).await;
        assert_eq!(closed.failure, Some(ProbeFailure::Wrong), "{closed:?}");
    }

    mod needs_services {
        use super::*;
        use crate::monitor::probe::testing::{Foreign, assert_passes};
        use hale_core::time::Span;
        use rustix::process::Signal;
        use std::process::Command;

        /// Python's own implementation, with and without the health check; a line of input changes what it says.
        const SERVER: &str = r#"
import sys, grpc
from concurrent import futures
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
server = grpc.server(futures.ThreadPoolExecutor(2))
port = server.add_insecure_port("127.0.0.1:0")
server.add_insecure_port("unix:" + sys.argv[1])
of = health.HealthServicer()
states = health_pb2.HealthCheckResponse
of.set("", states.SERVING)
of.set("bot.v1.Bot", states.SERVING)
of.set("bot.v1.Old", states.NOT_SERVING)
health_pb2_grpc.add_HealthServicer_to_server(of, server)
server.start()
bare = grpc.server(futures.ThreadPoolExecutor(2))
bare_port = bare.add_insecure_port("127.0.0.1:0")
bare.start()
print("ports", port, bare_port, flush=True)
server.wait_for_termination()
"#;

        #[tokio::test]
        async fn pythons_health_server_is_asked() {
            let python = std::env::var("HALE_TEST_SERVICES_PYTHON").expect("cargo xtask test sets it");
            let dir = tempfile::tempdir().expect("a temporary directory");
            let socket = dir.path().join("grpc").display().to_string();
            let (server, line) = Foreign::start(Command::new(python).args(["-c", SERVER, &socket]), "ports ");
            let ports: Vec<&str> = line.split(' ').skip(1).collect();
            let (address, bare) = (format!("127.0.0.1:{}", ports[0]), format!("127.0.0.1:{}", ports[1]));
            assert_passes(&run(check(address.clone(), ""), LONG).await, "serving in ");
            let named = run(check(address.clone(), "bot.v1.Bot"), LONG).await;
            assert_passes(&named, "serving in ");
            assert!(named.detail.ends_with(" (bot.v1.Bot)"), "{named:?}");
            assert_passes(&run(check(format!("unix:{socket}"), ""), LONG).await, "serving in ");
            let old = run(check(address.clone(), "bot.v1.Old"), LONG).await;
            assert_fails(&old, ProbeFailure::Wrong, "not serving (bot.v1.Old), expected serving");
            let nobody = run(check(address.clone(), "bot.v1.Nobody"), LONG).await;
            assert_fails(&nobody, ProbeFailure::Wrong, "the server knows no such service (NOT_FOUND)");
            let none = run(check(bare, ""), LONG).await;
            assert_fails(&none, ProbeFailure::Wrong, "the server has no health check (UNIMPLEMENTED)");
            server.signal(Signal::STOP);
            let stopped = run(check(address, ""), Span::from_ms(200)).await;
            assert_fails(&stopped, ProbeFailure::Timeout, "no answer within 200 ms: waiting for the answer");
        }
    }
}
