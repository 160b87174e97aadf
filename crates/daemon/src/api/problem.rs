//! What a client is told when it does not get what it asked for: problem details (RFC 9457).

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hale_core::reason::Reason;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The media type of [`Problem`] (RFC 9457, section 3).
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Which problem it is, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// There is no such path.
    NotFound,
    /// There is, and not with this method.
    MethodNotAllowed,
    /// The request is not understood.
    BadRequest,
    /// There is no such service.
    UnknownService,
    /// This socket takes no orders.
    ReadOnly,
    /// The policy refuses it: `reason` says why.
    Refused,
    /// The configuration that was to be put in force cannot be used.
    InvalidConfiguration,
    /// It was tried and failed.
    Failed,
    /// The change did not work, and what was there before works again.
    RolledBack,
    /// The order was given, and its end was not reached while the client could wait.
    UnderWay,
    /// The loop did not answer in time.
    Busy,
}

impl Code {
    /// All of them, for the description.
    pub(super) const ALL: [Self; 11] = [
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::BadRequest,
        Self::UnknownService,
        Self::ReadOnly,
        Self::Refused,
        Self::InvalidConfiguration,
        Self::Failed,
        Self::RolledBack,
        Self::UnderWay,
        Self::Busy,
    ];

    /// What HTTP calls it.
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::NotFound | Self::UnknownService => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::ReadOnly => StatusCode::FORBIDDEN,
            Self::Refused | Self::RolledBack => StatusCode::CONFLICT,
            Self::InvalidConfiguration => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::UnderWay => StatusCode::GATEWAY_TIMEOUT,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// What HTTP calls it.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong and what to do, in a sentence.
    pub detail: String,
    /// Which problem.
    pub code: Code,
    /// Why it was refused, as in the ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub reason: Option<Reason>,
}

impl Problem {
    /// A problem with this sentence for people. (`type` is absent: RFC 9457 then reads it as `about:blank`.)
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let status = code.status();
        let title = status.canonical_reason().unwrap_or_default().to_owned();
        Self { title, status: status.as_u16(), detail: detail.into(), code, reason: None }
    }

    /// Adds why it was refused.
    #[must_use]
    pub fn because(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        match serde_json::to_vec(&self) {
            Ok(body) => (status, [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response(),
            Err(_) => status.into_response(),
        }
    }
}
