//! The side that called us.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use memchr::memchr;
use meshwork_http1 as http1;
use meshwork_http1::{Framing, RequestKind, StatusLine, Version};
use meshwork_model::head::{RequestHead, ResponseHead};
use meshwork_model::intake::asks_to_switch;
use tokio::io::AsyncWrite;

use super::wire::{self, Wire};
use super::{Broken, HeadLimits, Incoming, Outgoing, copy_fields, engine_limits, length_of};
use crate::error::{Kind, ProxyError};
use crate::http::body::{Frame, Length, Shape};
use crate::http::lend::{self, LentHeads};
use crate::limits::{LINGER_BYTES, PIPELINE_BYTES};
use crate::transport::Transport;

/// An HTTP/1 connection of a client, with at most one exchange at a time.
pub(crate) struct ServerConnection {
    wire: Wire,
    incoming: Incoming,
    outgoing: Outgoing,
    version: Version,
    kind: RequestKind,
    upgrade: Option<Box<[u8]>>,
    /// The client waits for a 100 before it sends its body.
    expects: bool,
    state: State,
    /// The connection ends with this answer.
    closing: bool,
    /// What was parsed in vain: nothing is parsed again before a LF arrives behind it.
    seen: usize,
    limits: HeadLimits,
    /// Whether trailers pass, both ways.
    passes_trailers: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// No answer yet.
    Asked,
    /// The answer's head is out.
    Answered,
    /// The connection carries another protocol.
    Switched,
    /// It broke, or was broken off.
    Broken,
}

impl ServerConnection {
    /// Begins with what was read of the connection already.
    pub(crate) fn resumed(inbox: BytesMut, transport: Transport) -> Self {
        Self {
            wire: Wire::resumed(inbox, transport),
            incoming: Incoming::none(),
            outgoing: Outgoing::none(),
            version: Version::Http11,
            kind: RequestKind::Other,
            upgrade: None,
            expects: false,
            state: State::Answered,
            closing: false,
            seen: 0,
            limits: HeadLimits::default(),
            passes_trailers: false,
        }
    }

    /// Sets what requests may be.
    pub(crate) fn allow(&mut self, limits: HeadLimits, trailers: bool) {
        self.limits = limits;
        self.passes_trailers = trailers;
    }

    /// Whether what the client sends begins so, as soon as that is clear; false when it has closed.
    pub(crate) fn poll_begins_with(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<bool, ProxyError>> {
        loop {
            let inbox = &self.wire.inbox;
            let compared = inbox.len().min(bytes.len());
            if inbox[..compared] != bytes[..compared] || compared == bytes.len() {
                return Poll::Ready(Ok(compared == bytes.len() && inbox[..compared] == *bytes));
            }
            if ready!(self.wire.poll_fill(cx)).map_err(|e| ProxyError::downstream(&e))? == 0 {
                return Poll::Ready(Ok(false));
            }
        }
    }

    /// Gives up HTTP/1: what was read, and the rest.
    pub(crate) fn into_parts(self) -> (BytesMut, Transport) {
        self.wire.into_parts()
    }

    /// The next request, its heads, of which the request's is filled; `None` when the client has closed between two.
    pub(crate) fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<(LentHeads, Length)>, ProxyError>> {
        loop {
            if let Some(request) = self.parse()? {
                return Poll::Ready(Ok(Some(request)));
            }
            let read = ready!(self.wire.poll_fill(cx)).map_err(|e| ProxyError::downstream(&e))?;
            if read == 0 {
                let clean = self.wire.inbox.is_empty();
                let gone = ProxyError::fatal(Kind::DownstreamGone);
                return Poll::Ready(if clean { Ok(None) } else { Err(gone) });
            }
        }
    }

    /// Whether part of a request has arrived.
    pub(crate) fn has_begun(&self) -> bool {
        !self.wire.inbox.is_empty()
    }

    fn parse(&mut self) -> Result<Option<(LentHeads, Length)>, ProxyError> {
        let inbox = &self.wire.inbox;
        // A head can only end at a LF, so that bytes without one need no look.
        if memchr(b'\n', &inbox[self.seen.min(inbox.len())..]).is_none()
            && inbox.len() < self.limits.bytes as usize
        {
            return Ok(None);
        }
        self.seen = inbox.len();
        let parsed = wire::with_spans(|spans| {
            let limits = http1::Limits {
                head_bytes: self.limits.bytes,
                fields: self.limits.fields,
                ..engine_limits()
            };
            let request = http1::parse_request(inbox, spans, &limits)?;
            Ok(request.map(|request| {
                let mut heads = lend::heads();
                fill(&mut heads.request, &request, inbox, spans);
                (heads, request)
            }))
        });
        let Some((heads, request)) = parsed.map_err(|rule| ProxyError::fatal(Kind::BadRequest(rule)))? else {
            return Ok(None);
        };
        self.upgrade = request.upgrade.map(|span| span.of(&self.wire.inbox).into());
        self.wire.consume(request.head_len);
        self.version = request.version;
        self.kind = request.kind;
        self.expects = request.expect_continue && self.wire.inbox.is_empty();
        // Where CONNECT is refused, what the client sent ahead was meant for another, and is no request.
        self.closing = !request.keep_alive || request.kind == RequestKind::Connect;
        self.incoming = Incoming::new(request.body);
        self.outgoing = Outgoing::none();
        self.state = State::Asked;
        self.seen = 0;
        Ok(Some((heads, length_of(request.body))))
    }

    /// Gives up on a request whose head is not complete, or broken: what follows it has no meaning any more. One
    /// answer may still be sent.
    pub(crate) fn give_up(&mut self) {
        self.closing = true;
        self.state = State::Asked;
        self.kind = RequestKind::Other;
        self.incoming = Incoming::none();
        self.wire.inbox.clear();
    }

    /// Says in the next answer that the connection ends with it.
    pub(crate) fn close_after_answer(&mut self) {
        self.closing = true;
    }

    /// Whether another request may follow: both messages are whole and nobody wants to close.
    pub(crate) fn is_reusable(&self) -> bool {
        self.state == State::Answered
            && !self.closing
            && self.incoming.ended
            && self.outgoing.ended
            && self.wire.outbox.is_empty()
    }

    /// Prepares for the wait until the next request.
    pub(crate) fn rest(&mut self) {
        self.wire.rest();
    }

    /// Ends the connection. What the client still sends is read for a while, so that the answer is not lost.
    ///
    /// Source: RFC 9112 §9.6.
    pub(crate) async fn close(mut self, linger: Duration) {
        if self.state == State::Broken {
            return;
        }
        let _ = tokio::time::timeout(linger, async {
            poll_fn(|cx| self.wire.poll_flush(cx)).await?;
            poll_fn(|cx| Pin::new(&mut self.wire.transport).poll_shutdown(cx)).await?;
            let mut left = LINGER_BYTES;
            loop {
                self.wire.inbox.clear();
                let read = poll_fn(|cx| self.wire.poll_fill(cx)).await?;
                left = left.saturating_sub(read);
                if read == 0 || left == 0 {
                    return io::Result::Ok(());
                }
            }
        })
        .await;
    }

    /// Bytes of buffers that it holds.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.wire.held_bytes()
    }

    /// The protocols that the client asks to switch to; `h2c` is none that anybody is taken to.
    pub(crate) fn upgrade(&self) -> Option<&[u8]> {
        self.upgrade.as_deref().filter(|protocols| asks_to_switch(protocols))
    }

    pub(crate) fn protocol(&self) -> &'static str {
        match self.version {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
        }
    }

    pub(crate) fn is_request_ended(&self) -> bool {
        self.incoming.ended && self.state != State::Switched
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.state != State::Asked
    }

    pub(crate) fn abandon_request(&mut self) {
        if !self.incoming.ended {
            self.closing = true;
        }
    }

    /// Without a clean end: where only the close ends the body, a reset says that it is not complete; and what the
    /// client does not take is not kept for it.
    pub(crate) fn abort(&mut self) {
        self.state = State::Broken;
        if self.outgoing.framing == Framing::UntilClose || !self.wire.outbox.is_empty() {
            self.wire.transport.reset_on_close();
        }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, ProxyError>> {
        let mut frame = self.incoming.poll_frame(&mut self.wire, cx);
        if !self.passes_trailers && matches!(frame, Poll::Ready(Ok(Some(Frame::Trailers(_))))) {
            frame = Poll::Ready(Ok(None));
        }
        self.expects &= !matches!(frame, Poll::Ready(Ok(Some(_))));
        frame.map_err(|broken| match broken {
            Broken::Io(error) => ProxyError::downstream(&error),
            Broken::Rule(http1::ParseError::Truncated) => ProxyError::fatal(Kind::DownstreamGone),
            Broken::Rule(rule) => {
                self.closing = true;
                ProxyError::fatal(Kind::BadRequest(rule))
            }
        })
    }

    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<ProxyError> {
        // Bytes of a further request are kept; past a limit they wait in the kernel.
        while self.wire.inbox.len() < PIPELINE_BYTES && !self.wire.is_closed() {
            if let Err(error) = ready!(self.wire.poll_fill(cx)) {
                return Poll::Ready(ProxyError::downstream(&error));
            }
        }
        Poll::Pending
    }

    /// Whether the client has ended its direction: it has left, or has said all it had to say and listens.
    pub(crate) fn is_half_closed(&self) -> bool {
        self.wire.is_closed() && self.state != State::Switched
    }

    /// Whether a part of the request's body is still to come, and the client waits for nothing before it.
    pub(crate) fn has_to_send(&self) -> bool {
        !self.incoming.ended && !self.expects && self.state == State::Asked
    }

    /// Bytes that have left since the connection began.
    pub(crate) fn written(&self) -> u64 {
        self.wire.outbox.written()
    }

    pub(crate) fn send_interim(&mut self, head: &ResponseHead) -> Result<(), ProxyError> {
        if self.version == Version::Http10 {
            return Ok(());
        }
        self.expects &= head.status != 100;
        self.write_head(head, Framing::None, http1::Connection::KeepAlive)
    }

    pub(crate) fn send_head(&mut self, head: &ResponseHead, shape: Shape) -> Result<(), ProxyError> {
        let declared = match shape.declared {
            Length::None => Framing::None,
            Length::Known(bytes) => Framing::Length(bytes),
            Length::Unknown => Framing::Chunked.towards(self.version),
        };
        // A body that was announced and has not been called for may come or not: what follows is not certain.
        self.closing |= declared == Framing::UntilClose || self.expects && !self.incoming.ended;
        let connection = if self.closing { http1::Connection::Close } else { http1::Connection::KeepAlive };
        self.write_head(head, declared, connection)?;
        self.outgoing = Outgoing::new(if shape.empty { Framing::None } else { declared });
        self.state = State::Answered;
        Ok(())
    }

    /// Sends the head with which the connection becomes a tunnel; what the client sent ahead belongs to that.
    pub(crate) fn switch(&mut self, head: &ResponseHead) -> Result<(), ProxyError> {
        let protocol = self.upgrade.take().unwrap_or_default();
        let connection = match self.kind {
            RequestKind::Connect => http1::Connection::KeepAlive,
            RequestKind::Head | RequestKind::Other => http1::Connection::Upgrade(&protocol),
        };
        self.write_head(head, Framing::None, connection)?;
        self.outgoing = Outgoing::new(Framing::UntilClose);
        self.incoming = Incoming::new(Framing::UntilClose);
        self.state = State::Switched;
        Ok(())
    }

    fn write_head(
        &mut self,
        head: &ResponseHead,
        framing: Framing,
        connection: http1::Connection<'_>,
    ) -> Result<(), ProxyError> {
        let fields = head.fields.iter();
        let line = StatusLine { status: head.status, to: self.kind };
        http1::write_response_head(self.wire.outbox.text(), line, fields, framing, connection)
            .map_err(|e| ProxyError::fatal(Kind::BadResponse(e.to_string().into())))
    }

    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        self.wire.poll_room(cx).map_err(|e| self.broken(&e))
    }

    pub(crate) fn send(&mut self, frame: Frame) -> Result<(), ProxyError> {
        if !self.passes_trailers && matches!(frame, Frame::Trailers(_)) {
            return self.finish();
        }
        // The framing is the upstream's word: a body that breaks it is the upstream's fault.
        self.outgoing.send(&mut self.wire, frame).map_err(|e| ProxyError::upstream(&e.into()))
    }

    pub(crate) fn finish(&mut self) -> Result<(), ProxyError> {
        self.outgoing.end(&mut self.wire, None).map_err(|e| ProxyError::upstream(&e.into()))
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        ready!(self.wire.poll_flush(cx)).map_err(|e| self.broken(&e))?;
        if self.state == State::Switched && self.outgoing.ended {
            // The end of a switched protocol's direction is the end of its stream.
            ready!(Pin::new(&mut self.wire.transport).poll_shutdown(cx)).map_err(|e| self.broken(&e))?;
        }
        Poll::Ready(Ok(()))
    }

    fn broken(&mut self, error: &io::Error) -> ProxyError {
        self.state = State::Broken;
        ProxyError::downstream(error)
    }
}

/// Copies a parsed head out of the bytes.
fn fill(head: &mut RequestHead, request: &http1::Request, bytes: &[u8], spans: &[http1::FieldSpan]) {
    head.clear();
    head.set_method(request.method.of(bytes));
    head.set_authority(request.authority().map_or(b"", |span| span.of(bytes)));
    head.set_path_and_query(if request.kind == RequestKind::Connect {
        b""
    } else {
        request.path_and_query(bytes)
    });
    head.https = matches!(request.target, http1::Target::Absolute { https: true, .. });
    copy_fields(bytes, spans, &mut head.fields);
}
