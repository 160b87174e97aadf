//! Records as they are made, to whoever listens: server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use super::connections::Lease;
use super::problem::{Code, Problem};
use super::server::Api;
use axum::Extension;
use axum::extract::State;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use hale_core::ids::RecordId;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Streams at once, on both sockets together: a dashboard for each of some dozen operators, and room for mistakes. Each costs
/// some 20 KiB.
pub const STREAMS_MAX: usize = 256;

/// How many records may wait for the slowest reader; each is kept once for all. A thousand services that are started make some
/// six thousand records within a second or two: who does not read for a part of that is dropped, and told so.
const RECORDS_WAITING_MAX: usize = 4_096;

/// What every stream hears.
#[derive(Debug, Clone)]
pub struct Hub {
    sender: Sender<Arc<Told>>,
    places: Arc<Semaphore>,
}

/// One record.
#[derive(Debug)]
struct Told {
    id: RecordId,
    /// As in the ledger: one line of JSON.
    json: String,
}

impl Default for Hub {
    fn default() -> Self {
        Self { sender: channel(RECORDS_WAITING_MAX).0, places: Arc::new(Semaphore::new(STREAMS_MAX)) }
    }
}

impl Hub {
    /// Tells all streams of a record, without waiting for any of them.
    pub fn tell(&self, id: RecordId, json: &[u8]) {
        if self.sender.receiver_count() == 0 {
            return;
        }
        // What serde_json wrote is UTF-8.
        let json = String::from_utf8_lossy(json).into_owned();
        let _nobody_listens = self.sender.send(Arc::new(Told { id, json }));
    }
}

/// A stream, and its place among [`STREAMS_MAX`].
struct Listener {
    records: Receiver<Arc<Told>>,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Option<Self>)> {
        match self.records.recv().await {
            Ok(told) => {
                let event = Event::default().event("record").id(told.id.to_string()).data(&told.json);
                Some((Ok(event), Some(self)))
            }
            // It would have a hole in it: the ledger has all of them.
            Err(RecvError::Lagged(missed)) => {
                let event = Event::default().event("too_slow").data(format!("{{\"missed\":{missed}}}"));
                Some((Ok(event), None))
            }
            Err(RecvError::Closed) => None,
        }
    }
}

/// Every record from now on.
///
/// An event `record` for each, with its number as `id` and its JSON, as in the ledger, as `data`. What was before is in the
/// ledger's segments: who listens first and reads them then, misses nothing. A client that does not keep up gets the event
/// `too_slow` with the number of records it missed, and the stream ends.
#[utoipa::path(
    get,
    path = "/v1/records",
    responses(
        (status = 200, description = "records, until the client leaves", body = String, content_type = "text/event-stream"),
        (status = 503, description = "there are too many streams", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn records(State(api): State<Api>, Extension(lease): Extension<Lease>) -> Response {
    let Ok(place) = api.hub.places.clone().try_acquire_owned() else {
        let detail = format!("{STREAMS_MAX} clients listen to the records already");
        return Problem::new(Code::Busy, detail).into_response();
    };
    lease.give_back();
    let listener = Listener { records: api.hub.sender.subscribe(), _place: place };
    let events = unfold(Some(listener), async |listener| listener?.next().await);
    Sse::new(events).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::server::testing::Served;
    use crate::api::sockets;
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    use tokio::net::UnixStream;

    async fn listen(served: &Served) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(sockets::read_path(served.directory())).await.unwrap();
        stream.write_all(b"GET /v1/records HTTP/1.1\r\nhost: hale\r\n\r\n").await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        assert_eq!(line, "HTTP/1.1 200 OK\r\n");
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).await.unwrap();
        }
        stream
    }

    async fn until(stream: &mut BufReader<UnixStream>, wanted: &str) -> String {
        let mut all = String::new();
        while !all.contains(wanted) {
            assert_ne!(stream.read_line(&mut all).await.unwrap(), 0, "{wanted:?} is not in {all:?}");
        }
        all
    }

    #[tokio::test]
    async fn all_streams_hear_each_record_and_leave_room_for_questions() {
        let served = Served::start();
        let mut streams = Vec::new();
        for _ in 0..2 * crate::api::connections::CONNECTIONS_MAX {
            streams.push(listen(&served).await);
        }
        served.hub().tell(RecordId(7), br#"{"id":7,"kind":"exited"}"#);
        for stream in &mut streams {
            let event = until(stream, "}\n").await;
            assert!(event.contains("event: record\nid: 7\ndata: {\"id\":7,\"kind\":\"exited\"}\n"), "{event}");
        }
        assert_eq!(served.get("/v1/status").await.status, 200);
    }

    #[tokio::test]
    async fn who_leaves_makes_room() {
        let served = Served::start();
        let stream = listen(&served).await;
        assert_eq!(served.hub().places.available_permits(), STREAMS_MAX - 1);
        drop(stream);
        let all = u32::try_from(STREAMS_MAX).unwrap();
        let _all = served.hub().places.clone().acquire_many_owned(all).await.unwrap();
        let answer = served.get("/v1/records").await;
        assert_eq!(answer.status, 503);
        assert!(String::from_utf8(answer.body).unwrap().contains("256 clients listen"));
    }

    #[tokio::test]
    async fn who_missed_records_is_told_how_many_and_then_hears_no_more() {
        let hub = Hub::default();
        let place = hub.places.clone().try_acquire_owned().unwrap();
        let listener = Listener { records: hub.sender.subscribe(), _place: place };
        for id in 0..RECORDS_WAITING_MAX as u64 + 3 {
            hub.tell(RecordId(id), b"{}");
        }
        let (Ok(event), after) = listener.next().await.unwrap();
        assert!(after.is_none());
        assert_eq!(format!("{event:?}"), format!("{:?}", Event::default().event("too_slow").data("{\"missed\":3}")));
    }

    #[tokio::test]
    async fn who_does_not_read_is_dropped_and_holds_up_nobody() {
        let served = Served::start();
        let mut slow = listen(&served).await;
        let mute = listen(&served).await;
        let mut quick = listen(&served).await;
        let long = format!("\"{}\"", "x".repeat(1_000));
        let last = 3 * RECORDS_WAITING_MAX as u64;
        for id in 0..=last {
            served.hub().tell(RecordId(id), long.as_bytes());
            until(&mut quick, &format!("id: {id}\n")).await;
        }
        let mut heard = Vec::new();
        slow.read_to_end(&mut heard).await.unwrap();
        let heard = String::from_utf8(heard).unwrap();
        // Whether it was told so, or cut because nothing could be written to it for seconds, is a matter of how busy the machine is.
        assert!(!heard.contains(&format!("id: {last}\n")), "nothing was too much for it");
        drop(quick);
        // The one that never reads is dropped too, and its place is free again.
        let _all = served.hub().places.acquire_many(u32::try_from(STREAMS_MAX).unwrap()).await.unwrap();
        drop(mute);
    }
}
