//! Both sides of an exchange, whatever is spoken on them.
//!
//! [`Downstream`] and [`Upstream`] share five verbs ([`Side`]), by which bodies move. Only [`h1`] and [`h2`] see the types
//! of their engines.

pub(crate) mod h1;
pub(crate) mod h2;

use std::collections::VecDeque;
use std::task::{Context, Poll};

use meshwork_model::head::{RequestHead, ResponseHead};

use super::body::{Frame, Length, Shape};
use crate::error::{Kind, ProxyError};

/// The side that called us, for one exchange.
pub(crate) struct Downstream<'c> {
    side: Caller<'c>,
    /// Frames that were taken, and put back to be taken again.
    #[expect(clippy::box_collection, reason = "one pointer in every exchange, for what next to none has")]
    ahead: Option<Box<VecDeque<Frame>>>,
}

/// What it speaks.
enum Caller<'c> {
    /// An HTTP/1 connection.
    H1(&'c mut h1::ServerConnection),
    /// A stream of an HTTP/2 connection.
    H2(Box<h2::ServerStream>),
}

/// The side that we call, for one exchange.
pub(crate) enum Upstream {
    /// An HTTP/1 connection.
    H1(Box<h1::ClientConnection>),
    /// A stream of an HTTP/2 connection.
    H2(Box<h2::ClientStream>),
}

/// A head that an upstream sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// An interim response (1xx); another head follows.
    Interim,
    /// The response.
    Final(Shape),
    /// 101, or 2xx to CONNECT: from now on the connection carries bytes of another protocol.
    Switched,
}

macro_rules! either {
    ($self:ident, $side:ident => $call:expr) => {
        match $self {
            Self::H1($side) => $call,
            Self::H2($side) => $call,
        }
    };
    ($self:ident.$field:ident, $side:ident => $call:expr) => {
        match &$self.$field {
            Caller::H1($side) => $call,
            Caller::H2($side) => $call,
        }
    };
    (mut $self:ident.$field:ident, $side:ident => $call:expr) => {
        match &mut $self.$field {
            Caller::H1($side) => $call,
            Caller::H2($side) => $call,
        }
    };
}

/// One side of an exchange: a body that comes, and a body that goes.
pub(crate) trait Side {
    /// The next frame that the peer sends; `None` at the end of the body.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, ProxyError>>;

    /// Ready when there is room for a frame.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>>;

    /// Takes a frame to send; only after [`Self::poll_ready`].
    fn send(&mut self, frame: Frame) -> Result<(), ProxyError>;

    /// Ends the body that is sent; nothing where trailers did already.
    fn finish(&mut self) -> Result<(), ProxyError>;

    /// Ready when all that was taken has been handed to the kernel, or to the connection's driver.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>>;
}

macro_rules! side {
    ($type:ty) => {
        impl Side for $type {
            fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, ProxyError>> {
                either!(self, side => side.poll_frame(cx))
            }

            fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
                either!(self, side => side.poll_ready(cx))
            }

            fn send(&mut self, frame: Frame) -> Result<(), ProxyError> {
                either!(self, side => side.send(frame))
            }

            fn finish(&mut self) -> Result<(), ProxyError> {
                either!(self, side => side.finish())
            }

            fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
                either!(self, side => side.poll_flush(cx))
            }
        }
    };
}

side!(Caller<'_>);
side!(Upstream);

impl Side for Downstream<'_> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, ProxyError>> {
        if let Some(frame) = self.ahead.as_mut().and_then(|ahead| ahead.pop_front()) {
            return Poll::Ready(Ok(Some(frame)));
        }
        self.side.poll_frame(cx)
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        self.side.poll_ready(cx)
    }

    fn send(&mut self, frame: Frame) -> Result<(), ProxyError> {
        self.side.send(frame)
    }

    fn finish(&mut self) -> Result<(), ProxyError> {
        self.side.finish()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        self.side.poll_flush(cx)
    }
}

impl<'c> Downstream<'c> {
    /// An HTTP/1 connection.
    pub(crate) fn h1(connection: &'c mut h1::ServerConnection) -> Self {
        Self { side: Caller::H1(connection), ahead: None }
    }

    /// A stream of an HTTP/2 connection.
    pub(crate) fn h2(stream: h2::ServerStream) -> Self {
        Self { side: Caller::H2(Box::new(stream)), ahead: None }
    }

    /// Whether it speaks HTTP/2.
    pub(crate) fn is_h2(&self) -> bool {
        matches!(self.side, Caller::H2(_))
    }

    /// Puts frames back that were taken, to be taken again before what follows.
    pub(crate) fn put_back(&mut self, frames: VecDeque<Frame>) {
        let ahead = self.ahead.get_or_insert_default();
        for frame in frames.into_iter().rev() {
            ahead.push_front(frame);
        }
    }

    /// Ready when the client has left. Only where [`Self::tells_when_gone`].
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<ProxyError> {
        either!(mut self.side, side => side.poll_gone(cx))
    }

    /// Whether [`Self::poll_gone`] can tell now: with HTTP/1 only once the request's body has been read.
    pub(crate) fn tells_when_gone(&self) -> bool {
        match &self.side {
            Caller::H1(side) => side.is_request_ended(),
            Caller::H2(_) => true,
        }
    }

    /// Bytes that the client, or its connection's driver, has taken since the connection began.
    pub(crate) fn written(&self) -> u64 {
        match &self.side {
            Caller::H1(side) => side.written(),
            Caller::H2(_) => 0,
        }
    }

    /// Whether the client has ended its direction, and may listen all the same.
    pub(crate) fn is_half_closed(&self) -> bool {
        match &self.side {
            Caller::H1(side) => side.is_half_closed(),
            Caller::H2(_) => false,
        }
    }

    /// Whether it is the client's turn: it has a body to send, and nothing that it waits for. A client of HTTP/2 may
    /// stay silent as long as it likes, as streams of messages do.
    pub(crate) fn has_to_send(&self) -> bool {
        match &self.side {
            Caller::H1(side) => side.has_to_send(),
            Caller::H2(_) => false,
        }
    }

    /// Whether a client that takes nothing is too slow. With HTTP/2 it says how much it wants, and may want nothing for
    /// a while.
    pub(crate) fn has_to_take(&self) -> bool {
        matches!(self.side, Caller::H1(_))
    }

    /// Sends an interim response.
    pub(crate) fn send_interim(&mut self, head: &ResponseHead) -> Result<(), ProxyError> {
        either!(mut self.side, side => side.send_interim(head))
    }

    /// Sends the head with which the connection becomes a tunnel.
    pub(crate) fn switch(&mut self, head: &ResponseHead) -> Result<(), ProxyError> {
        match &mut self.side {
            Caller::H1(side) => side.switch(head),
            Caller::H2(_) => Err(ProxyError::fatal(Kind::Unsupported("HTTP/2 streams do not switch"))),
        }
    }

    /// Sends the response's head.
    pub(crate) fn send_head(&mut self, head: &ResponseHead, shape: Shape) -> Result<(), ProxyError> {
        either!(mut self.side, side => side.send_head(head, shape))
    }

    /// Whether the response's head has been sent.
    pub(crate) fn is_answered(&self) -> bool {
        either!(self.side, side => side.is_answered())
    }

    /// The connection ends with this answer, where it carries one at a time.
    pub(crate) fn close_after_answer(&mut self) {
        if let Caller::H1(connection) = &mut self.side {
            connection.close_after_answer();
        }
    }

    /// The rest of the request will not be read: the connection, or stream, ends with the answer.
    pub(crate) fn abandon_request(&mut self) {
        match &mut self.side {
            Caller::H1(connection) => connection.abandon_request(),
            // When its answer is out, dropping the stream resets it, as RFC 9113 §8.1 asks.
            Caller::H2(_) => {}
        }
    }

    /// Breaks the response off, so that the client can see that it is not complete.
    pub(crate) fn abort(&mut self) {
        either!(mut self.side, side => side.abort());
    }

    /// Whether a tunnel can be made of it.
    pub(crate) fn can_switch(&self) -> bool {
        matches!(self.side, Caller::H1(_))
    }

    /// The protocols that the client asks to switch to.
    pub(crate) fn upgrade(&self) -> Option<&[u8]> {
        match &self.side {
            Caller::H1(connection) => connection.upgrade(),
            Caller::H2(_) => None,
        }
    }

    /// The version, for the access log.
    pub(crate) fn protocol(&self) -> &'static str {
        match &self.side {
            Caller::H1(connection) => connection.protocol(),
            Caller::H2(_) => "HTTP/2",
        }
    }
}

impl Upstream {
    /// The version, for the access log.
    pub(crate) fn protocol(&self) -> &'static str {
        match self {
            Self::H1(_) => "HTTP/1.1",
            Self::H2(_) => "HTTP/2",
        }
    }

    /// Sends the request's head.
    pub(crate) fn send_head(
        &mut self,
        head: &RequestHead,
        length: Length,
        upgrade: Option<&[u8]>,
    ) -> Result<(), ProxyError> {
        match self {
            Self::H1(connection) => connection.send_head(head, length, upgrade),
            Self::H2(_) if head.method() == b"CONNECT" => {
                Err(ProxyError::fatal(Kind::Unsupported("CONNECT is carried over HTTP/1.1 only")))
            }
            Self::H2(_) if upgrade.is_some() => Err(ProxyError::fatal(Kind::Unsupported(
                "the service is called over HTTP/2, which has no upgrade",
            ))),
            Self::H2(stream) => stream.send_head(head, length),
        }
    }

    /// The next head that the upstream sends.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<Answer, ProxyError>> {
        either!(self, side => side.poll_head(cx, head))
    }
}
