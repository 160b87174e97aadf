//! The client's side, for the command line: one request on one connection.

use super::sockets;
use hale_core::record::Record;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;
use tokio::net::UnixStream;

/// The longest answer that is read: the status of some ten thousand services.
const ANSWER_MAX_BYTES: usize = 16 * 1024 * 1024;

/// How often a question is put whose exchange breaks off: a supervisor that dies three times within one question has
/// troubles that its operator should see.
const QUESTION_TRIES: usize = 3;

/// How long an exchange may take as a whole: a little more than the server gives itself for an order.
const WITHIN: Duration = Duration::from_secs(65);

/// What the server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no supervisor running (looked at {path})", path = .0.display())]
    NoSupervisor(PathBuf),
    /// The socket is there, and not for this user.
    #[error("no permission to connect to {path}", path = .0.display())]
    Denied(PathBuf),
    /// The connection cannot be made for another reason.
    #[error("cannot connect to {path}", path = path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
    /// The exchange broke off.
    #[error("the supervisor broke off the exchange on {path}", path = path.display())]
    Exchange {
        /// The socket.
        path: PathBuf,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("no answer from the supervisor on {path} within {within} s", path = .0.display(), within = WITHIN.as_secs())]
    Late(PathBuf),
}

impl ClientError {
    /// What to do about it, where that can be told.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoSupervisor(_) => {
                Some("start one with `hale run`, or name its configuration with -c or HALE_CONFIG".into())
            }
            Self::Denied(path) => Some(sockets::how_to_get_in(path)),
            Self::Exchange { .. } => Some(
                "the supervisor ended or was replaced meanwhile; whether an order was taken is in `hale status` and `hale ledger show`"
                    .into(),
            ),
            Self::Connect { .. } | Self::Late(_) => None,
        }
    }
}

/// Asks the server behind `socket` for `target`, e.g. `/v1/status`. Needs a tokio runtime with I/O and time.
///
/// # Errors
/// No answer at all; an answer that tells of a problem is an [`Answer`].
pub async fn ask(socket: &Path, method: Method, target: &str) -> Result<Answer, ClientError> {
    // A supervisor that is replaced takes the connections with it that it had accepted. A question can be put again.
    let tries = if method == Method::GET { QUESTION_TRIES } else { 1 };
    let exchange = async {
        let mut answer = exchange(socket, method.clone(), target).await;
        for _ in 1..tries {
            if !matches!(answer, Err(ClientError::Exchange { .. })) {
                break;
            }
            answer = exchange(socket, method.clone(), target).await;
        }
        answer
    };
    match tokio::time::timeout(WITHIN, exchange).await {
        Ok(result) => result,
        Err(_) => Err(ClientError::Late(socket.to_path_buf())),
    }
}

/// Gives the server behind `socket` an order, with its body. Once, and for as long as it takes: the server has bounds of its own,
/// and whoever has enough drops this.
///
/// # Errors
/// No answer at all; an answer that tells of a problem is an [`Answer`].
pub async fn give<B>(socket: &Path, method: Method, target: &str, body: B) -> Result<Answer, ClientError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    Exchange::begin(socket, method, target, body).await?.answer().await
}

async fn exchange(socket: &Path, method: Method, target: &str) -> Result<Answer, ClientError> {
    Exchange::begin(socket, method, target, Empty::new()).await?.answer().await
}

/// The answer to a request, from its head on.
struct Exchange {
    socket: PathBuf,
    response: Response<Incoming>,
    /// What moves its bytes, until that has ended. What goes wrong with it is told by the answer.
    connection: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_over: bool,
}

impl Exchange {
    async fn begin<B>(socket: &Path, method: Method, target: &str, body: B) -> Result<Self, ClientError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let path = || socket.to_path_buf();
        let stream = UnixStream::connect(socket).await.map_err(|source| match source.kind() {
            // Nothing there, or left there by a supervisor that is gone.
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoSupervisor(path()),
            io::ErrorKind::PermissionDenied => ClientError::Denied(path()),
            _ => ClientError::Connect { path: path(), source },
        })?;
        let broke = |source: Box<dyn std::error::Error + Send + Sync>| ClientError::Exchange { path: path(), source };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broke(error.into()))?;
        let mut connection: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async {
            let _told_by_the_answer = connection.await;
        });
        let request = Request::builder().method(method).uri(target).header("host", "hale").body(body);
        let response = sender.send_request(request.map_err(|error| broke(error.into()))?);
        tokio::pin!(response);
        let (response, is_over) = tokio::select! {
            response = &mut response => (response, false),
            () = &mut connection => (response.await, true),
        };
        let response = response.map_err(|error| broke(error.into()))?;
        Ok(Self { socket: path(), response, connection, is_over })
    }

    /// All of it.
    async fn answer(mut self) -> Result<Answer, ClientError> {
        let status = self.response.status().as_u16();
        let mut body = Vec::new();
        while let Some(bytes) = self.next().await? {
            if body.len() + bytes.len() > ANSWER_MAX_BYTES {
                let source = format!("its answer is longer than {ANSWER_MAX_BYTES} bytes").into();
                return Err(ClientError::Exchange { path: self.socket, source });
            }
            body.extend_from_slice(&bytes);
        }
        Ok(Answer { status, body })
    }

    /// The next part of its body; `None` at its end. Nothing is lost when this is dropped.
    async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let frame = if self.is_over {
                self.response.body_mut().frame().await
            } else {
                tokio::select! {
                    frame = self.response.body_mut().frame() => frame,
                    () = &mut self.connection => {
                        self.is_over = true;
                        continue;
                    }
                }
            };
            match frame.transpose() {
                Ok(Some(frame)) => {
                    // Else trailers, which nobody sends.
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                Ok(None) => return Ok(None),
                Err(error) => {
                    return Err(ClientError::Exchange { path: self.socket.clone(), source: error.into() });
                }
            }
        }
    }
}

/// The longest record that is waited for: all that is known of a service's generations is some 100 KiB.
const RECORD_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Records as they are made (`/v1/records`).
pub struct Records {
    exchange: Exchange,
    /// What came of the line that is not whole yet.
    rest: Vec<u8>,
}

impl Records {
    /// Begins to listen.
    ///
    /// # Errors
    /// Nobody lets this user listen, or there are too many who do.
    pub async fn listen(socket: &Path) -> Result<Self, ClientError> {
        let exchange = Exchange::begin(socket, Method::GET, "/v1/records", Empty::new()).await?;
        if exchange.response.status() != 200 {
            let source = format!("it answered with HTTP status {}", exchange.response.status()).into();
            return Err(ClientError::Exchange { path: socket.to_path_buf(), source });
        }
        Ok(Self { exchange, rest: Vec::new() })
    }

    /// The next record that this version understands; `None`: there will be no more. Nothing is lost when this is dropped.
    pub async fn next(&mut self) -> Option<Record> {
        loop {
            while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let data = line.strip_prefix(b"data:").map(serde_json::from_slice);
                if let Some(Ok(record)) = data {
                    return Some(record);
                }
            }
            let bytes = self.exchange.next().await.ok().flatten()?;
            if self.rest.len() + bytes.len() > RECORD_MAX_BYTES {
                return None;
            }
            self.rest.extend_from_slice(&bytes);
        }
    }
}
