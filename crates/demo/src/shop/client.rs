//! How the shop's programs call each other by HTTP/1.1: pooled connections, whole bodies, a deadline.

use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;

/// Largest answer that is read: the catalog has a few kilobytes.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// How long a call may take, its answer's body included; over the mesh's own 15 s, so that the mesh answers first.
const DEADLINE: Duration = Duration::from_secs(20);

/// The fields that a program copies from the request that it serves to the calls that it makes for it.
/// Source: W3C Trace Context §3; Envoy `x-request-id`.
const PASSED_ON: [HeaderName; 3] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// Asks for the next release of what is behind a route.
pub(crate) const PREVIEW: HeaderName = HeaderName::from_static("x-preview");

/// A client with pooled connections.
pub(super) struct Client {
    inner: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
}

/// Why a call has no answer, in words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The request could not be sent or its answer's head did not come.
    #[error("{0}")]
    Send(String),
    /// The answer's body is not complete.
    #[error("the answer's body is not complete: {0}")]
    Body(String),
    /// The call took too long.
    #[error("no whole answer within {} s", DEADLINE.as_secs())]
    Deadline,
}

impl Client {
    pub(super) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let builder = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
        Self { inner: { builder }.build(connector) }
    }

    /// Sends a request and reads the whole answer.
    pub(super) async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, CallError> {
        let call = async {
            let answer = self.inner.request(request.map(Full::new)).await;
            let (parts, body) = answer.map_err(|error| CallError::Send(chain(&error)))?.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| CallError::Body(error.to_string()))?.to_bytes();
            Ok(Response::from_parts(parts, body))
        };
        tokio::time::timeout(DEADLINE, call).await.unwrap_or(Err(CallError::Deadline))
    }
}

/// A request to an address, with the fields of `cause` that are passed on.
pub(super) fn request(
    method: Method,
    address: &Authority,
    path: &str,
    cause: &HeaderMap,
    body: Bytes,
) -> Request<Bytes> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    let uri = http::Uri::builder().scheme("http").authority(address.clone()).path_and_query(path).build();
    // Authorities and the paths of this crate always make a URI; `/` would be answered in words.
    *request.uri_mut() = uri.unwrap_or_default();
    pass_on(cause, request.headers_mut());
    request
}

/// Copies the fields that tracing needs from the request that is served to a call that is made for it.
pub(super) fn pass_on(cause: &HeaderMap, call: &mut HeaderMap) {
    copy(&PASSED_ON, cause, call);
}

/// Copies fields where they are there.
pub(super) fn copy(names: &[HeaderName], from: &HeaderMap, to: &mut HeaderMap) {
    for name in names {
        for value in from.get_all(name) {
            to.append(name, value.clone());
        }
    }
}

/// An answer that is not the expected one, in words: its status and the start of its body.
pub(super) fn describe(answer: &Response<Bytes>) -> String {
    describe_parts(answer.status(), answer.body())
}

fn describe_parts(status: StatusCode, body: &[u8]) -> String {
    /// Enough for any error of the shop or of a proxy.
    const SHOWN_CHARACTERS: usize = 240;
    let text = match serde_json::from_slice::<Failure>(body) {
        Ok(failure) => failure.error,
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    };
    let shown: String = text.chars().take(SHOWN_CHARACTERS).collect();
    let cut = if shown.len() < text.len() { "…" } else { "" };
    format!("{status}: {shown}{cut}")
}

/// The body by which a program of the shop says what went wrong.
#[derive(Deserialize)]
struct Failure {
    error: String,
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: &str) {
        assert_eq!(describe_parts(StatusCode::BAD_GATEWAY, body.as_bytes()), expected);
    }

    #[test]
    fn an_answer_is_told_by_its_status_and_its_words() {
        check("MW0302 no connection\n", "502 Bad Gateway: MW0302 no connection");
        check(r#"{"error":"payments: \"no\""}"#, r#"502 Bad Gateway: payments: "no""#);
        check(&"é".repeat(500), &format!("502 Bad Gateway: {}…", "é".repeat(240)));
    }
}
