//! Answers that the proxy gives itself.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use meshwork_model::head::{RequestHead, ResponseHead};
use meshwork_model::proxy::{FormatBody, HttpConnection, Redirect, Route, RouteAction};
use meshwork_model::reason::Reason;
use meshwork_model::rewrite;
use tokio::time::timeout;
use tracing::debug;

use super::body::{Frame, Length, Shape};
use super::codec::{Downstream, Side};
use super::exchange::Place;
use super::fields;
use super::filters::{LocalReply, Passed};
use super::log::{passes, write};
use super::taken::Taken;
use super::tries::tell_attempts;
use crate::error::{Kind, ProxyError, words_for_people};
use crate::facts::Seen;
use crate::limits::LINGER;
use crate::record::Record;

/// A request that is answered here, and the filters that have a word on that.
pub(crate) struct Asked<'a> {
    /// The request.
    pub(crate) request: &'a RequestHead,
    /// The filters that it has passed.
    pub(crate) passed: Option<&'a mut Passed>,
}

impl Asked<'_> {
    /// Lets filters, and then config, change the head of the answer.
    fn prepare(&mut self, head: &mut ResponseHead, config: &HttpConnection) {
        if let Some(passed) = &mut self.passed {
            passed.answer(self.request, head);
        }
        fields::prepare_response(head, config, self.request);
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
    place: Place<'_>,
    taken: Taken<'_>,
    record: &mut Record,
) -> Result<(), ProxyError> {
    head.clear();
    let body = own_answer(taken.route, to.request, head);
    record.reason = Some(Reason::DirectResponse);
    let protocol = downstream.protocol();
    let mut body = reworded(place, protocol, to.request, head, body, record);
    let asked = About { place, protocol, request: to.request };
    taken.change_response(
        head,
        &Seen { response: None, ..asked.seen(record, &ResponseHead::default(), &body) },
    );
    if to.request.is_grpc() {
        let grpc_status = asked.seen(record, head, &body).grpc_status();
        record.grpc_status = Some(grpc_status);
        fields::as_grpc_answer(head, grpc_status, &String::from_utf8_lossy(&body));
        body = Bytes::new();
    }
    to.prepare(head, &place.http.config);
    record.status = head.status;
    send(downstream, head, to.request, body, record).await
}

/// Fills the head of a route's own answer, and gives its body.
fn own_answer(route: &Route, request: &RequestHead, head: &mut ResponseHead) -> Bytes {
    let location = |redirect: &Redirect| rewrite::location(redirect, &route.matches.path, request);
    match &route.action {
        RouteAction::Redirect(redirect) => {
            head.status = redirect.status;
            head.fields.push(b"location", &location(redirect));
            Bytes::new()
        }
        RouteAction::Direct(answer) => {
            head.status = answer.status;
            // Statuses that ask for it say where, be it here. Source: Envoy, `direct_response` of 201 and 3xx.
            if matches!(answer.status, 201 | 300..=399) {
                head.fields.push(b"location", &location(&Redirect::default()));
            }
            if !answer.body.is_empty() {
                head.fields.push(b"content-type", b"text/plain");
            }
            Bytes::copy_from_slice(answer.body.as_bytes())
        }
        RouteAction::Forward(_) | RouteAction::Local => Bytes::new(),
    }
}

/// Says why a request was not carried; where the response has begun already, breaks it off visibly.
pub(crate) async fn refuse(
    downstream: &mut Downstream<'_>,
    head: &mut ResponseHead,
    mut to: Asked<'_>,
    place: Place<'_>,
    error: &ProxyError,
    record: &mut Record,
) {
    let reason = error.reason();
    record.blame(error);
    debug!(code = reason.words().code, side = ?error.side(), error = %error.kind, "exchange failed");
    let is_gone = matches!(error.kind, Kind::DownstreamGone | Kind::DownstreamBroken(_) | Kind::Flood(_));
    if is_gone || downstream.is_answered() {
        // What is there may still leave; nobody waits for it.
        let _ = poll_fn(|cx| Poll::Ready(downstream.poll_flush(cx))).await;
        downstream.abort();
        return;
    }
    let reply = if let Kind::Answered(reply) = &error.kind { Some(&**reply) } else { None };
    let own = reply.and_then(|reply| reply.body.clone());
    let text = match own {
        Some(body) => body,
        None if reply.is_some_and(|reply| reply.is_plain) => Bytes::new(),
        None => Bytes::from(words_for_people(reason)),
    };
    fields::local_answer(head, error.status(), reason);
    let mut body = match &error.kind {
        Kind::MovedPath(path) => {
            head.fields.push(b"location", path);
            Bytes::new()
        }
        _ => reworded(place, downstream.protocol(), to.request, head, text, record),
    };
    if to.request.is_grpc() && reply.is_none_or(|reply| !reply.is_plain) {
        let grpc_status = reply.map_or(reason.words().grpc_status, LocalReply::grpc_status);
        record.grpc_status = Some(grpc_status);
        fields::as_grpc_answer(head, grpc_status, &String::from_utf8_lossy(&body));
        body = Bytes::new();
    }
    if let Some(reply) = reply {
        reply.finish(head);
    }
    if record.tells_attempts {
        tell_attempts(&mut head.fields, record.attempts);
    }
    to.prepare(head, &place.http.config);
    record.status = head.status;
    if send(downstream, head, to.request, body, record).await.is_err() {
        downstream.abort();
    }
}

/// A request that an answer is about.
struct About<'a> {
    place: Place<'a>,
    protocol: &'a str,
    request: &'a RequestHead,
}

impl About<'_> {
    fn seen<'s>(&'s self, record: &'s Record, response: &'s ResponseHead, body: &'s [u8]) -> Seen<'s> {
        let (Place { worker, peer, chain, .. }, request) = (self.place, Some(self.request));
        Seen { worker, peer, chain, record, request, response: Some(response), protocol: self.protocol, body }
    }
}

/// The answer in the words that config has for it.
fn reworded(
    place: Place<'_>,
    protocol: &str,
    request: &RequestHead,
    head: &mut ResponseHead,
    body: Bytes,
    record: &mut Record,
) -> Bytes {
    let replies = &place.http.config.local_replies;
    let asked = About { place, protocol, request };
    record.status = head.status;
    if replies.is_plain() {
        return body;
    }
    let mapper =
        replies.mappers.iter().find(|mapper| passes(&mapper.filter, &asked.seen(record, head, &body)));
    let body = mapper
        .and_then(|mapper| mapper.body.as_ref())
        .map_or(body, |own| Bytes::copy_from_slice(own.as_bytes()));
    for header in mapper.iter().flat_map(|mapper| &mapper.headers) {
        let mut value = Vec::new();
        header.value.write_omitting(&asked.seen(record, head, &body), &mut value);
        fields::add(&mut head.fields, header, &value);
    }
    if let Some(status) = mapper.and_then(|mapper| mapper.status) {
        head.status = status;
        record.status = status;
    }
    let Some(format) = mapper.and_then(|mapper| mapper.format.as_ref()).or(replies.format.as_ref()) else {
        return body;
    };
    let mut text = Vec::new();
    write(format, &asked.seen(record, head, &body), &mut text);
    let usual = if matches!(format.body, FormatBody::Json(_)) { "application/json" } else { "text/plain" };
    head.fields.set(b"content-type", format.content_type.as_deref().unwrap_or(usual).as_bytes());
    text.into()
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
        // HTTP/2 says it by the stream's end.
        _ if body.is_empty() && downstream.is_h2() => Length::None,
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
