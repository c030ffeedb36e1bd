//! The side that called us.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use ::h2::Reason;
use ::h2::server::{Builder, Connection, SendResponse};
use bytes::Bytes;
use meshwork_model::head::{RequestHead, ResponseHead};
use meshwork_model::proxy::{Http2, HttpConnection};
use tokio::time::timeout;

use super::flood::{Guarded, Tally};
use super::{Incoming, Outgoing, heads};
use crate::error::{Kind, ProxyError};
use crate::http::body::{Frame, Length, Shape};
use crate::limits::{self, LINGER};
use crate::transport::Rewound;

/// An HTTP/2 connection of a client.
pub(crate) struct ServerConnection {
    connection: Connection<Guarded<Rewound>, Bytes>,
    tally: Rc<Tally>,
    /// Field lines that a request may have.
    fields: usize,
}

/// A request, and the length of its body, or why it cannot be served.
pub(crate) type Next = (ServerStream, Result<Length, ProxyError>);

/// A request of it.
pub(crate) struct ServerStream {
    incoming: Incoming,
    respond: SendResponse<Bytes>,
    outgoing: Option<Outgoing>,
    is_cut: bool,
    tally: Rc<Tally>,
}

impl ServerConnection {
    /// Exchanges settings with the client.
    ///
    /// # Errors
    /// The client does not speak HTTP/2.
    pub(crate) async fn begin(transport: Rewound, allowed: &HttpConnection) -> Result<Self, ProxyError> {
        let Http2 { most_streams, stream_window, connection_window } = allowed.http2;
        let most_bytes = u32::try_from(limits::HEAD_BYTES).unwrap_or(u32::MAX);
        let fields = allowed
            .limits
            .fields
            .map_or(limits::FIELDS, |fields| usize::try_from(fields).unwrap_or(usize::MAX));
        let mut builder = Builder::new();
        builder
            .max_concurrent_streams(most_streams.unwrap_or(limits::H2_STREAMS))
            .max_header_list_size(allowed.limits.head_bytes.unwrap_or(most_bytes))
            .initial_window_size(stream_window.unwrap_or(limits::H2_STREAM_WINDOW))
            .initial_connection_window_size(connection_window.unwrap_or(limits::H2_CONNECTION_WINDOW))
            .max_pending_accept_reset_streams(limits::H2_PENDING_RESETS)
            .max_local_error_reset_streams(Some(limits::H2_ERROR_RESETS))
            .max_send_buffer_size(limits::H2_SEND_BUFFER);
        let tally = Rc::<Tally>::default();
        let transport = Guarded::of_client(transport, &tally);
        let connection = builder.handshake(transport).await.map_err(|e| downstream(&e))?;
        Ok(Self { connection, tally, fields })
    }

    /// The next request, its head in `head`; drives all streams meanwhile. `None` when the connection has ended. A
    /// request that cannot be served comes with its error, to be answered. A client that floods the connection is told
    /// so (GOAWAY), and its streams end.
    pub(crate) fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut RequestHead,
    ) -> Poll<Option<Result<Next, ProxyError>>> {
        let most_fields = self.fields;
        let next = self.connection.poll_accept(cx);
        if let Some(flood) = self.tally.flood() {
            self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            // What does not leave at once is not waited for.
            let _ = self.connection.poll_closed(cx);
            return Poll::Ready(Some(Err(ProxyError::fatal(Kind::Flood(flood.words())))));
        }
        next.map(|next| {
            let (request, respond) = match next? {
                Ok(next) => next,
                Err(error) => return Some(Err(downstream(&error))),
            };
            let (parts, body) = request.into_parts();
            let length = heads::read_request(&parts, body.is_end_stream(), most_fields, head);
            let (incoming, tally) = (Incoming::new(body), Rc::clone(&self.tally));
            Some(Ok((ServerStream { incoming, respond, outgoing: None, is_cut: false, tally }, length)))
        })
    }

    /// Lets what was said last reach the client, once [`Self::poll_request`] has failed because of a flood.
    pub(crate) async fn close(mut self) {
        // A client that takes nothing is not waited for.
        let closed = poll_fn(|cx| self.connection.poll_closed(cx));
        drop(timeout(LINGER, closed).await);
    }

    /// Tells the client to open no more streams; those there are run to their end.
    pub(crate) fn end_gracefully(&mut self) {
        self.connection.graceful_shutdown();
    }
}

impl ServerStream {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, ProxyError>> {
        self.incoming.poll_frame(cx).map_err(|e| failed(&self.tally, &e))
    }

    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<ProxyError> {
        let reset = match &mut self.outgoing {
            Some(outgoing) => outgoing.stream.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        let flood = self.tally.flood();
        reset.map(|_| {
            ProxyError::fatal(flood.map_or(Kind::DownstreamGone, |flood| Kind::Flood(flood.words())))
        })
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.outgoing.is_some() || self.is_cut
    }

    pub(crate) fn abort(&mut self) {
        self.is_cut = true;
        match &mut self.outgoing {
            Some(outgoing) => outgoing.stream.send_reset(Reason::INTERNAL_ERROR),
            None => self.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }

    /// Says that nothing was done with the request, so that the client may send it elsewhere. Source: RFC 9113 §8.7.
    pub(crate) fn refuse(&mut self) {
        self.respond.send_reset(Reason::REFUSED_STREAM);
    }

    pub(crate) fn send_interim(&mut self, head: &ResponseHead) -> Result<(), ProxyError> {
        let response = heads::write_response(head, Length::None)?;
        self.respond.send_informational(response).map_err(|e| failed(&self.tally, &e))
    }

    pub(crate) fn send_head(&mut self, head: &ResponseHead, shape: Shape) -> Result<(), ProxyError> {
        let response = heads::write_response(head, shape.declared)?;
        // Trailers may follow a body of declared length 0; only an end that is known to be one is sent as such.
        let is_ended = shape.empty;
        let sent = self.respond.send_response(response, is_ended);
        let stream = sent.map_err(|e| failed(&self.tally, &e))?;
        self.outgoing = Some(Outgoing::new(stream, is_ended, Rc::clone(&self.tally)));
        Ok(())
    }

    fn outgoing(&mut self) -> Result<&mut Outgoing, ProxyError> {
        self.outgoing.as_mut().ok_or_else(|| ProxyError::fatal(Kind::DownstreamGone))
    }

    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        match &mut self.outgoing {
            Some(outgoing) => outgoing.poll_ready(cx).map_err(|e| failed(&self.tally, &e)),
            None => Poll::Ready(Ok(())),
        }
    }

    pub(crate) fn send(&mut self, frame: Frame) -> Result<(), ProxyError> {
        self.outgoing()?.send(frame);
        Ok(())
    }

    pub(crate) fn finish(&mut self) -> Result<(), ProxyError> {
        self.outgoing()?.finish();
        Ok(())
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        match &mut self.outgoing {
            Some(outgoing) => outgoing.poll_flush(cx).map_err(|e| failed(&self.tally, &e)),
            None => Poll::Ready(Ok(())),
        }
    }
}

/// What a stream's failure is: the end of a connection that its client flooded ends all of them.
fn failed(tally: &Tally, error: &::h2::Error) -> ProxyError {
    tally.flood().map_or_else(|| downstream(error), |flood| ProxyError::fatal(Kind::Flood(flood.words())))
}

/// A stream that was reset, or a connection that is closed, is a client that left; anything else broke a rule.
fn downstream(error: &::h2::Error) -> ProxyError {
    let is_rule = !error.is_reset() && !error.is_io();
    ProxyError::fatal(if is_rule {
        Kind::DownstreamBroken(error.to_string().into())
    } else {
        Kind::DownstreamGone
    })
}
