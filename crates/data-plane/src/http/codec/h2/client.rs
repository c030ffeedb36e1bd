//! The side that we call.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use ::h2::Reason;
use ::h2::client::{Builder, ResponseFuture, SendRequest};
use bytes::Bytes;
use meshwork_model::head::{RequestHead, ResponseHead};

use super::flood::{self, Guarded, Tally};
use super::{Incoming, Outgoing, heads};
use crate::error::{Kind, ProxyError, Retry};
use crate::http::body::{Frame, Length};
use crate::http::codec::Answer;
use crate::limits;
use crate::standing::Standing;
use crate::transport::Transport;

/// An HTTP/2 connection to an endpoint, shared by the exchanges of one worker.
pub(crate) struct ClientConnection {
    requests: SendRequest<Bytes>,
    shared: Rc<Shared>,
}

struct Shared {
    streams: Cell<u32>,
    is_closed: Cell<bool>,
    /// How the endpoint stands, where the mesh's trust judges it.
    standing: Option<Rc<Standing>>,
    tally: Rc<Tally>,
}

/// A connection with its driver, which the caller runs until the connection ends.
pub(crate) struct Connected<D> {
    /// The handle to open streams with.
    pub(crate) connection: ClientConnection,
    /// Carries the connection's bytes; at its end it tells what the endpoint has flooded the connection with, if it did.
    pub(crate) driver: D,
}

/// One request on it.
pub(crate) struct ClientStream {
    requests: SendRequest<Bytes>,
    shared: Rc<Shared>,
    state: State,
    outgoing: Option<Outgoing>,
    is_head: bool,
}

enum State {
    /// Nothing is sent.
    New,
    /// The response's head is awaited.
    Asked(ResponseFuture),
    /// The response's body is read.
    Answered(Incoming),
}

impl ClientConnection {
    /// Exchanges settings with the endpoint.
    ///
    /// # Errors
    /// The endpoint does not speak HTTP/2; nothing was sent that reached an application.
    pub(crate) async fn begin(
        transport: Transport,
    ) -> Result<Connected<impl Future<Output = Option<&'static str>>>, ProxyError> {
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .max_header_list_size(u32::try_from(limits::HEAD_BYTES).unwrap_or(u32::MAX))
            .initial_max_send_streams(limits::H2_STREAMS as usize)
            .initial_window_size(limits::H2_STREAM_WINDOW)
            .initial_connection_window_size(limits::H2_CONNECTION_WINDOW)
            .max_send_buffer_size(limits::H2_SEND_BUFFER);
        let standing = transport.standing().cloned();
        let tally = Rc::<Tally>::default();
        let transport = Guarded::of_server(transport, &tally);
        let (requests, connection) =
            builder.handshake(transport).await.map_err(|e| upstream(&e, Retry::Safe))?;
        let (streams, is_closed) = (Cell::default(), Cell::default());
        let shared = Rc::new(Shared { streams, is_closed, standing, tally });
        let connection_state = Rc::clone(&shared);
        let driver = async move {
            let _ = connection.await;
            connection_state.is_closed.set(true);
            connection_state.tally.flood().map(flood::Flood::words)
        };
        Ok(Connected { connection: Self { requests, shared }, driver })
    }

    /// Whether another stream fits in now.
    pub(crate) fn has_room(&mut self) -> bool {
        let most = limits::H2_STREAMS
            .min(u32::try_from(self.requests.current_max_send_streams()).unwrap_or(u32::MAX));
        self.is_open() && self.shared.streams.get() < most
    }

    /// Whether the connection takes streams at all: it has neither ended nor been told to end (GOAWAY), and the endpoint
    /// is trusted still.
    pub(crate) fn is_open(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let is_good = self.shared.standing.as_ref().is_none_or(|standing| standing.is_good());
        is_good
            && !self.shared.is_closed.get()
            && !matches!(self.requests.poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// Whether no stream is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.shared.streams.get() == 0
    }

    /// Opens a stream; the request follows with [`ClientStream::send_head`].
    pub(crate) fn open(&self) -> ClientStream {
        self.shared.streams.set(self.shared.streams.get() + 1);
        ClientStream {
            requests: self.requests.clone(),
            shared: Rc::clone(&self.shared),
            state: State::New,
            outgoing: None,
            is_head: false,
        }
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        self.shared.streams.set(self.shared.streams.get().saturating_sub(1));
    }
}

impl ClientStream {
    /// How the endpoint stands, where the mesh's trust judges it.
    pub(crate) fn standing(&self) -> Option<&Rc<Standing>> {
        self.shared.standing.as_ref()
    }

    /// Ready when the connection has room for the stream.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        self.requests.poll_ready(cx).map_err(|e| upstream(&e, Retry::Safe))
    }

    pub(crate) fn send_head(&mut self, head: &RequestHead, length: Length) -> Result<(), ProxyError> {
        let request = heads::write_request(head, length)?;
        self.is_head = head.method() == b"HEAD";
        let is_ended = length.is_empty();
        let (response, stream) =
            self.requests.send_request(request, is_ended).map_err(|e| upstream(&e, Retry::Safe))?;
        self.state = State::Asked(response);
        self.outgoing = Some(Outgoing::new(stream, is_ended, Rc::clone(&self.shared.tally)));
        Ok(())
    }

    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<Answer, ProxyError>> {
        let State::Asked(response) = &mut self.state else {
            return Poll::Ready(Err(ProxyError::fatal(Kind::UpstreamBroken("no request was sent".into()))));
        };
        if let Poll::Ready(Some(interim)) = response.poll_informational(cx) {
            let (parts, ()) = interim.map_err(|e| upstream(&e, Retry::Never))?.into_parts();
            heads::read_response(&parts, true, self.is_head, head);
            return Poll::Ready(Ok(Answer::Interim));
        }
        let response = ready!(Pin::new(response).poll(cx)).map_err(|e| upstream(&e, Retry::Never))?;
        let (parts, body) = response.into_parts();
        let incoming = Incoming::new(body);
        let shape = heads::read_response(&parts, incoming.ended, self.is_head, head);
        self.state = State::Answered(incoming);
        Poll::Ready(Ok(Answer::Final(shape)))
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, ProxyError>> {
        match &mut self.state {
            State::Answered(incoming) => incoming.poll_frame(cx).map_err(|e| upstream(&e, Retry::Never)),
            State::New | State::Asked(_) => Poll::Pending,
        }
    }

    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        match &mut self.outgoing {
            Some(outgoing) => outgoing.poll_ready(cx).map_err(|e| upstream(&e, Retry::Never)),
            None => Poll::Ready(Ok(())),
        }
    }

    pub(crate) fn send(&mut self, frame: Frame) -> Result<(), ProxyError> {
        self.outgoing()?.send(frame);
        Ok(())
    }

    fn outgoing(&mut self) -> Result<&mut Outgoing, ProxyError> {
        let unsent = || ProxyError::fatal(Kind::UpstreamBroken("no request was sent".into()));
        self.outgoing.as_mut().ok_or_else(unsent)
    }

    pub(crate) fn finish(&mut self) -> Result<(), ProxyError> {
        self.outgoing()?.finish();
        Ok(())
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        match &mut self.outgoing {
            Some(outgoing) => outgoing.poll_flush(cx).map_err(|e| upstream(&e, Retry::Never)),
            None => Poll::Ready(Ok(())),
        }
    }
}

/// What rustls says of a peer's alert. The library keeps nothing but the text of it.
const ALERT: &str = "received fatal alert: ";

/// A stream that was refused never reached the application (RFC 9113 §8.7); one whose connection ended may have.
fn upstream(error: &::h2::Error, retry: Retry) -> ProxyError {
    if error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM) {
        return ProxyError { kind: Kind::StreamRefused, retry: Retry::Safe };
    }
    let text = error.to_string();
    let kind = if let Some((_, alert)) = text.split_once(ALERT) {
        Kind::Identity(format!("the peer ended the connection by TLS ({alert})"))
    } else if text.contains(flood::WORDS) {
        Kind::BadResponse(text.into())
    } else if error.is_reset() && error.is_remote() {
        Kind::StreamReset(text.into())
    } else {
        Kind::UpstreamBroken(text.into())
    };
    let retry = match retry {
        Retry::Never if error.is_io() || error.is_go_away() => Retry::IfRepeatable,
        retry => retry,
    };
    ProxyError { kind, retry }
}
