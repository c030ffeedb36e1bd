//! What an answer says that is no success: one shape for all, which Kubernetes' clients understand, too.

use std::fmt;

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::access::Caller;
use super::answers::ProblemAnswer;
use crate::config::Refusal;
use crate::store::KvError;

/// Why a request did not do what it asks. The words are for who asked.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) message: String,
    problems: Vec<ProblemAnswer>,
}

/// Source: Kubernetes API conventions, `Status`; `error` and `problems` are ours.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    kind: &'static str,
    api_version: &'static str,
    status: &'static str,
    reason: &'static str,
    code: u16,
    message: String,
    error: String,
    problems: Vec<ProblemAnswer>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), problems: Vec::new() }
    }

    /// What was asked is not understood.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// The same as somebody may see it.
    pub(super) fn shown(self, caller: &Caller) -> Self {
        let problems = self.problems.into_iter().map(|problem| problem.shown(caller)).collect();
        Self { problems, ..self }
    }

    fn reason(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "Unauthorized",
            StatusCode::FORBIDDEN => "Forbidden",
            StatusCode::NOT_FOUND => "NotFound",
            StatusCode::CONFLICT => "Conflict",
            StatusCode::GONE => "Expired",
            StatusCode::UNPROCESSABLE_ENTITY => "Invalid",
            StatusCode::PAYLOAD_TOO_LARGE => "RequestEntityTooLarge",
            StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
            status if status.is_server_error() => "ServiceUnavailable",
            _ => "BadRequest",
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = Body {
            kind: "Status",
            api_version: "v1",
            status: "Failure",
            reason: self.reason(),
            code: self.status.as_u16(),
            error: self.message.clone(),
            message: self.message,
            problems: self.problems,
        };
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let (status, message, problems) = match refusal {
            Refusal::Invalid(problems) => {
                let message = format!("nothing is changed: {}", counted(problems.len()));
                (StatusCode::UNPROCESSABLE_ENTITY, message, problems)
            }
            Refusal::Owned(problems) => {
                let message = "nothing is changed: files of the config folder own what they say".to_owned();
                (StatusCode::CONFLICT, message, problems)
            }
            Refusal::Raced(message) => (StatusCode::CONFLICT, message, Vec::new()),
            Refusal::Forbidden(message) => (StatusCode::FORBIDDEN, message, Vec::new()),
            Refusal::NotFound(message) => (StatusCode::NOT_FOUND, message, Vec::new()),
            Refusal::Forgotten(message) => (StatusCode::GONE, message, Vec::new()),
            Refusal::TooMuch(message) => (StatusCode::PAYLOAD_TOO_LARGE, message, Vec::new()),
            Refusal::Failed(error @ KvError::TooLarge(_)) => {
                (StatusCode::PAYLOAD_TOO_LARGE, error.to_string(), Vec::new())
            }
            Refusal::Failed(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string(), Vec::new()),
        };
        Self { status, message, problems: problems.iter().map(ProblemAnswer::of).collect() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        self.problems.iter().try_for_each(|problem| write!(f, "; {}", problem.line()))
    }
}

fn counted(problems: usize) -> String {
    if problems == 1 { "there is a problem".to_owned() } else { format!("there are {problems} problems") }
}
