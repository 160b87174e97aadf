//! `hale demo-service ask URL`: the smallest health probe, for the `exec` check of the example; it spares the
//! example a dependency on curl.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// The status line is short; whatever follows it is not read.
const STATUS_LINE_MAX: u64 = 256;

/// Asks `url` (`http://HOST:PORT/PATH`) once. Has no deadline of its own: who runs a probe bounds it.
///
/// # Errors
/// No answer, or one with another status than 200.
pub fn ask(url: &str) -> io::Result<()> {
    let rest = url
        .strip_prefix("http://")
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{url} does not start with http://")))?;
    let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream =
        TcpStream::connect(address).map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
    write!(stream, "GET /{path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(STATUS_LINE_MAX).read_to_end(&mut answer)?;
    let line = answer.split(|&byte| byte == b'\r').next().unwrap_or_default().escape_ascii().to_string();
    if line.split(' ').nth(1) == Some("200") {
        return Ok(());
    }
    Err(io::Error::other(format!("{url} answers {line:?} instead of 200")))
}
