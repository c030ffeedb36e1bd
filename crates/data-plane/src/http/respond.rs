//! Answers that the proxy gives itself.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use meshwork_model::head::{RequestHead, ResponseHead};
use meshwork_model::proxy::{DirectResponse, HttpConnection};
use meshwork_model::reason::Reason;
use tokio::time::timeout;
use tracing::debug;

use super::body::{Frame, Length, Shape};
use super::codec::{Downstream, Side};
use super::fields;
use super::filters::Passed;
use super::tries::tell_attempts;
use crate::error::{Kind, ProxyError, words_for_people};
use crate::limits::LINGER;
use crate::record::Record;

/// A request that is answered here, and the filters that have a word on that.
pub(crate) struct Asked<'a> {
    /// The request.
    pub(crate) request: &'a RequestHead,
    /// The filters that it has passed.
    pub(crate) passed: Option<Box<Passed<'a>>>,
}

impl Asked<'_> {
    /// Lets filters, and then config, change the head of the answer.
    fn prepare(&mut self, head: &mut ResponseHead, config: &HttpConnection) {
        if let Some(passed) = &mut self.passed {
            passed.answer(self.request, head);
        }
        fields::prepare_response(head, config);
    }
}

/// Gives a route's own answer.
///
/// # Errors
/// The client left.
pub(crate) async fn directly(
    downstream: &mut Downstream<'_>,
    head: &mut ResponseHead,
    mut to: Asked<'_>,
    config: &HttpConnection,
    answer: &DirectResponse,
    record: &mut Record,
) -> Result<(), ProxyError> {
    head.clear();
    head.status = answer.status;
    head.fields.push(b"content-type", b"text/plain");
    record.reason = Some(Reason::DirectResponse);
    to.prepare(head, config);
    record.status = head.status;
    send(downstream, head, to.request, Bytes::copy_from_slice(answer.body.as_bytes()), record).await
}

/// Says why a request was not carried; where the response has begun already, breaks it off visibly.
pub(crate) async fn refuse(
    downstream: &mut Downstream<'_>,
    head: &mut ResponseHead,
    mut to: Asked<'_>,
    config: &HttpConnection,
    error: &ProxyError,
    record: &mut Record,
) {
    let reason = error.reason();
    record.reason = Some(reason);
    debug!(code = reason.words().code, side = ?error.side(), error = %error.kind, "exchange failed");
    let is_gone = matches!(error.kind, Kind::DownstreamGone | Kind::DownstreamBroken(_));
    if is_gone || downstream.is_answered() {
        // What is there may still leave; nobody waits for it.
        let _ = poll_fn(|cx| Poll::Ready(downstream.poll_flush(cx))).await;
        downstream.abort();
        return;
    }
    let text = words_for_people(reason);
    let body = if to.request.is_grpc() {
        let grpc_status = reason.words().grpc_status;
        record.grpc_status = Some(grpc_status);
        fields::local_grpc_answer(head, reason, grpc_status, &text);
        Bytes::new()
    } else {
        fields::local_answer(head, error.status(), reason);
        Bytes::from(text)
    };
    if record.tells_attempts {
        tell_attempts(&mut head.fields, record.attempts);
    }
    to.prepare(head, config);
    record.status = head.status;
    if send(downstream, head, to.request, body, record).await.is_err() {
        downstream.abort();
    }
}

async fn send(
    downstream: &mut Downstream<'_>,
    head: &ResponseHead,
    request: &RequestHead,
    body: Bytes,
    record: &mut Record,
) -> Result<(), ProxyError> {
    downstream.abandon_request();
    let has_no_body = request.method() == b"HEAD" || body.is_empty() || matches!(head.status, 204 | 304);
    let declared = match head.status {
        204 | 304 => Length::None,
        _ => Length::Known(body.len() as u64),
    };
    downstream.send_head(head, Shape { declared, empty: has_no_body })?;
    if !has_no_body {
        record.bytes_out = body.len() as u64;
        downstream.send(Frame::Data(body))?;
    }
    downstream.finish()?;
    let sent = timeout(LINGER, poll_fn(|cx| downstream.poll_flush(cx))).await;
    sent.unwrap_or_else(|_| Err(ProxyError::fatal(Kind::DownstreamGone)))
}
