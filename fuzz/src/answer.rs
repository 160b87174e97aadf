//! A server that says what an input holds, whatever it is asked, over a stream in memory.

use hale_core::event::ProbeFailure;
use hale_core::time::Span;
use hale_daemon::monitor::probe::fed::{DETAIL_BYTES, Found};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::{Builder, Runtime};

/// Beyond what any answer takes that is all there, or ends; libFuzzer has a bound of its own below it.
pub const TIMEOUT: Span = Span::from_secs(60);

/// What may stand in the stream unread.
const STREAM_BYTES: usize = 64 << 10;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime can be made");
}

/// What a server says before it closes the connection.
pub struct Answer<'a> {
    /// What the end of the question looks like: before it was heard nothing is said.
    pub after: &'a [u8],
    /// First of all, in pieces of so many bytes; 0: in one.
    pub bytes: &'a [u8],
    pub piece_bytes: usize,
    /// Then this, again and again.
    pub again: &'a [u8],
    /// Until so much was said in all.
    pub until_bytes: usize,
}

impl Answer<'_> {
    /// Says it to the probe, and gives what that found and how many bytes it took, with those that it left in the stream.
    pub fn to<F: Future<Output = Found>>(&self, probe: impl FnOnce(DuplexStream) -> F) -> (Found, usize) {
        let (client, server) = tokio::io::duplex(STREAM_BYTES);
        let (found, said_bytes) =
            RUNTIME.with(|runtime| runtime.block_on(async { tokio::join!(probe(client), self.said(server)) }));
        // Everything was said, or the probe had enough: it never has to wait for more.
        assert_ne!(found.0, Some(ProbeFailure::Timeout), "{}", found.1);
        assert!(found.1.len() <= DETAIL_BYTES && !found.1.contains(char::is_control), "{:?}", found.1);
        (found, said_bytes)
    }

    async fn said(&self, mut stream: DuplexStream) -> usize {
        let mut question = Vec::new();
        while !question.windows(self.after.len()).any(|window| window == self.after) {
            if !matches!(stream.read_buf(&mut question).await, Ok(1..)) {
                return 0;
            }
        }
        let piece_bytes = if self.piece_bytes == 0 { self.bytes.len().max(1) } else { self.piece_bytes };
        let mut said_bytes = 0;
        let first = self.bytes.chunks(piece_bytes);
        for piece in first.chain(std::iter::repeat(self.again).take_while(|again| !again.is_empty())) {
            if said_bytes > 0 && said_bytes >= self.until_bytes.max(self.bytes.len()) {
                break;
            }
            // Fails when the probe has closed its end.
            if stream.write_all(piece).await.is_err() {
                break;
            }
            said_bytes += piece.len();
            tokio::task::yield_now().await;
        }
        said_bytes
    }
}
