//! The side that we call.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Buf;
use meshwork_http1 as http1;
use meshwork_http1::{Framing, RequestKind, RequestLine};
use meshwork_model::head::{RequestHead, ResponseHead};
use tokio::io::AsyncWrite;

use super::wire::{self, Wire};
use super::{Broken, Incoming, Outgoing, copy_fields, engine_limits, length_of};
use crate::error::{Kind, ProxyError, Retry};
use crate::http::body::{Frame, Length, Shape};
use crate::http::codec::Answer;
use crate::standing::Standing;
use crate::transport::Transport;

/// An HTTP/1 connection to an endpoint, with at most one exchange at a time.
pub(crate) struct ClientConnection {
    wire: Wire,
    incoming: Incoming,
    outgoing: Outgoing,
    kind: RequestKind,
    /// Requests sent on it, this one included.
    requests: u64,
    /// What had been written when this request began.
    before: u64,
    /// Whether any byte of the answer has arrived.
    answering: bool,
    keep_alive: bool,
    upgrade: Upgrade,
}

/// Whether the connection switches to another protocol.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Upgrade {
    /// The request does not ask for it, so that the endpoint may not.
    No,
    /// The request asks for it.
    Asked,
    /// It did.
    Done,
}

impl ClientConnection {
    pub(crate) fn new(transport: Transport) -> Self {
        Self {
            wire: Wire::new(transport),
            incoming: Incoming::none(),
            outgoing: Outgoing::none(),
            kind: RequestKind::Other,
            requests: 0,
            before: 0,
            answering: false,
            keep_alive: true,
            upgrade: Upgrade::No,
        }
    }

    /// Whether another request may follow: both messages are whole, and nothing came uncalled for.
    pub(crate) fn is_reusable(&self) -> bool {
        self.keep_alive
            && self.upgrade != Upgrade::Done
            && self.incoming.ended
            && self.outgoing.ended
            && self.wire.inbox.is_empty()
            && self.wire.outbox.is_empty()
    }

    /// Whether an idle connection is still good: open, and silent. Costs no system call unless something happened.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.wire.poll_fill(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// How the endpoint stands, where the mesh's trust judges it.
    pub(crate) fn standing(&self) -> Option<&Rc<Standing>> {
        self.wire.transport.standing()
    }

    /// Requests that were sent on it.
    pub(crate) fn requests(&self) -> u64 {
        self.requests
    }

    /// Prepares for waiting in the pool.
    pub(crate) fn rest(&mut self) {
        self.wire.rest();
        if let Some(standing) = self.standing() {
            standing.rest();
        }
    }

    /// Ready when something has arrived.
    #[cfg(test)]
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.wire.transport.poll_readable(cx).map(drop)
    }

    /// Bytes of buffers that it holds.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.wire.held_bytes()
    }

    pub(crate) fn send_head(
        &mut self,
        head: &RequestHead,
        length: Length,
        upgrade: Option<&[u8]>,
    ) -> Result<(), ProxyError> {
        let is_connect = head.method() == b"CONNECT";
        let target = if is_connect { head.authority() } else { head.path_and_query() };
        let line = RequestLine { method: head.method(), target, authority: head.authority() };
        let framing = match length {
            // Source: RFC 9110 §8.6: a method that may have content says that there is none.
            Length::None if is_bodiless(head.method()) => Framing::None,
            Length::None => Framing::Length(0),
            Length::Known(bytes) => Framing::Length(bytes),
            Length::Unknown => Framing::Chunked,
        };
        let connection = upgrade.map_or(http1::Connection::KeepAlive, http1::Connection::Upgrade);
        http1::write_request_head(self.wire.outbox.text(), &line, head.fields.iter(), framing, connection)
            .map_err(|_| ProxyError::fatal(Kind::Refused("the request cannot be sent over HTTP/1.1")))?;
        self.before = self.wire.outbox.written();
        self.kind = match head.method() {
            b"HEAD" => RequestKind::Head,
            b"CONNECT" => RequestKind::Connect,
            _ => RequestKind::Other,
        };
        self.outgoing = Outgoing::new(framing);
        self.incoming = Incoming::none();
        self.requests += 1;
        self.answering = false;
        self.keep_alive = true;
        self.upgrade = if upgrade.is_some() { Upgrade::Asked } else { Upgrade::No };
        Ok(())
    }

    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<Answer, ProxyError>> {
        loop {
            if !self.wire.inbox.is_empty() {
                self.answering = true;
                if let Some(answer) = self.parse(head)? {
                    return Poll::Ready(Ok(answer));
                }
            }
            let read = ready!(self.wire.poll_fill(cx)).map_err(|e| self.broken(&e))?;
            if read == 0 {
                return Poll::Ready(Err(self.broken(&io::ErrorKind::UnexpectedEof.into())));
            }
        }
    }

    fn parse(&mut self, head: &mut ResponseHead) -> Result<Option<Answer>, ProxyError> {
        let inbox = &self.wire.inbox;
        let parsed = wire::with_spans(|spans| {
            let response = http1::parse_response(inbox, spans, &engine_limits(), self.kind)?;
            Ok(response.inspect(|response| {
                head.clear();
                head.status = response.status;
                copy_fields(inbox, spans, &mut head.fields);
            }))
        });
        let parsed =
            parsed.map_err(|e: http1::ParseError| ProxyError::fatal(Kind::BadResponse(e.text().into())))?;
        let Some(response) = parsed else { return Ok(None) };
        let is_websocket =
            response.upgrade.is_some_and(|p| p.of(&self.wire.inbox).eq_ignore_ascii_case(b"websocket"));
        self.wire.inbox.advance(response.head_len);
        Ok(Some(match response.status {
            // The one upgrade that is ever asked for; a switch to another protocol is none.
            101 if self.upgrade == Upgrade::Asked && is_websocket => self.switch(),
            101 => {
                return Err(ProxyError::fatal(Kind::BadResponse("an upgrade that nobody asked for".into())));
            }
            100..200 => Answer::Interim,
            200..300 if self.kind == RequestKind::Connect => self.switch(),
            _ => {
                self.keep_alive = response.keep_alive;
                self.incoming = Incoming::new(response.body);
                Answer::Final(Shape {
                    declared: length_of(response.declared),
                    empty: response.body == Framing::None,
                })
            }
        }))
    }

    fn switch(&mut self) -> Answer {
        self.incoming = Incoming::new(Framing::UntilClose);
        self.outgoing = Outgoing::new(Framing::UntilClose);
        self.upgrade = Upgrade::Done;
        Answer::Switched
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, ProxyError>> {
        self.incoming.poll_frame(&mut self.wire, cx).map_err(|broken| match broken {
            Broken::Io(error) => ProxyError::upstream(&error),
            Broken::Rule(http1::ParseError::Truncated) => {
                ProxyError::upstream(&io::ErrorKind::UnexpectedEof.into())
            }
            Broken::Rule(rule) => ProxyError::fatal(Kind::BadResponse(rule.text().into())),
        })
    }

    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        self.wire.poll_room(cx).map_err(|e| self.broken(&e))
    }

    pub(crate) fn send(&mut self, frame: Frame) -> Result<(), ProxyError> {
        self.outgoing.send(&mut self.wire, frame).map_err(|e| ProxyError::downstream(&e.into()))
    }

    pub(crate) fn finish(&mut self) -> Result<(), ProxyError> {
        self.outgoing.end(&mut self.wire, None).map_err(|e| ProxyError::downstream(&e.into()))
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        ready!(self.wire.poll_flush(cx)).map_err(|e| self.broken(&e))?;
        if self.upgrade == Upgrade::Done && self.outgoing.ended {
            ready!(Pin::new(&mut self.wire.transport).poll_shutdown(cx)).map_err(|e| self.broken(&e))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Says goodbye; for connections that leave the pool.
    pub(crate) async fn close(mut self) {
        let _ = poll_fn(|cx| Pin::new(&mut self.wire.transport).poll_shutdown(cx)).await;
    }

    /// What a failure means for another try: nothing written is safe; a connection that served before and now says
    /// nothing at all had gone stale.
    fn broken(&self, error: &io::Error) -> ProxyError {
        let retry = if self.wire.outbox.written() == self.before {
            Retry::Safe
        } else if self.requests > 1 && !self.answering {
            Retry::IfRepeatable
        } else {
            Retry::Never
        };
        ProxyError { retry, ..ProxyError::upstream(error) }
    }
}

/// Whether nobody expects content with a method. Source: Envoy `HeaderUtility::requestShouldHaveNoBody`.
fn is_bodiless(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"DELETE" | b"TRACE" | b"CONNECT")
}
