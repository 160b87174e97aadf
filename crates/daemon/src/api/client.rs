//! The client's side, for the command line: one request on one connection.

use super::sockets;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use std::io;
use std::path::{Path, PathBuf};
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

async fn exchange(socket: &Path, method: Method, target: &str) -> Result<Answer, ClientError> {
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
    let exchange = async {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "hale")
            .body(Empty::<Bytes>::new())
            .map_err(|error| broke(error.into()))?;
        let response = sender.send_request(request).await.map_err(|error| broke(error.into()))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await.map_err(broke)?;
        Ok(Answer { status, body: body.to_bytes().into() })
    };
    // The connection only moves bytes; what goes wrong with it is told by the exchange.
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        _ended = connection => exchange.await,
    }
}
