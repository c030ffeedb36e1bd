//! A connection's bytes: plain, or wrapped in TLS. The only place besides `identity` that sees rustls streams.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::rustls::CommonState;
use tokio_rustls::{client, server};

use crate::standing::Standing;

/// A connected socket.
pub(crate) enum Socket {
    /// The kernel's.
    Tcp(TcpStream),
    /// One in memory, where a test plays the network.
    #[cfg(test)]
    Memory(Box<crate::testing::MemorySocket>),
}

/// A connected stream of bytes.
pub(crate) enum Transport {
    /// Plaintext.
    Plain(Socket),
    /// TLS that we ended.
    Server(Box<Secured<server::TlsStream<Socket>>>),
    /// TLS that we began.
    Client(Box<Secured<client::TlsStream<Socket>>>),
}

/// TLS, and how its peer stands, where trust is the mesh's.
pub(crate) struct Secured<S> {
    stream: S,
    standing: Option<Rc<Standing>>,
}

/// A transport of which some bytes were already read.
pub(crate) struct Rewound {
    head: BytesMut,
    transport: Transport,
}

macro_rules! on_socket {
    ($self:expr, $socket:ident => $call:expr) => {
        match $self {
            Socket::Tcp($socket) => $call,
            #[cfg(test)]
            Socket::Memory($socket) => $call,
        }
    };
}

macro_rules! on_stream {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self {
            Transport::Plain($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Transport::Server($stream) => {
                let $stream = Pin::new(&mut $stream.stream);
                $call
            }
            Transport::Client($stream) => {
                let $stream = Pin::new(&mut $stream.stream);
                $call
            }
        }
    };
}

impl Transport {
    /// Whether the bytes are encrypted.
    pub(crate) fn is_tls(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// Ready when a read may bring something: bytes of the underlying stream have arrived, or it ended, or TLS holds
    /// some already. Until then nobody needs a buffer.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let holds_bytes = match self {
            Self::Plain(_) => false,
            Self::Server(tls) => !tls.stream.get_ref().1.wants_read(),
            Self::Client(tls) => !tls.stream.get_ref().1.wants_read(),
        };
        self.check()?;
        if holds_bytes {
            return Poll::Ready(Ok(()));
        }
        let ready = on_socket!(self.socket(), socket => socket.poll_read_ready(cx));
        if ready.is_pending() {
            self.wait(cx);
        }
        ready
    }

    /// How the peer stands, where its certificates are judged by the mesh's trust.
    pub(crate) fn standing(&self) -> Option<&Rc<Standing>> {
        match self {
            Self::Plain(_) => None,
            Self::Server(tls) => tls.standing.as_ref(),
            Self::Client(tls) => tls.standing.as_ref(),
        }
    }

    /// What TLS knows of the connection, where we called.
    pub(crate) fn session(&self) -> Option<&CommonState> {
        match self {
            Self::Client(tls) => Some(tls.stream.get_ref().1),
            Self::Plain(_) | Self::Server(_) => None,
        }
    }

    /// From now on the connection ends with its peer's good standing.
    pub(crate) fn stand(&mut self, standing: Option<Rc<Standing>>) {
        match self {
            Self::Plain(_) => {}
            Self::Server(tls) => tls.standing = standing,
            Self::Client(tls) => tls.standing = standing,
        }
    }

    /// No byte passes once the peer is revoked.
    fn check(&self) -> io::Result<()> {
        match self.standing() {
            Some(standing) if standing.is_cut() => {
                self.reset_on_close();
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the peer is not trusted any more"))
            }
            _ => Ok(()),
        }
    }

    fn wait(&self, cx: &Context<'_>) {
        if let Some(standing) = self.standing() {
            standing.wait(cx.waker());
        }
    }

    /// The kernel's socket, where nothing stands between it and the bytes.
    pub(crate) fn plain_socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(Socket::Tcp(socket)) => Some(socket),
            _ => None,
        }
    }

    /// What TLS agreed on, where we called.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Client(tls) => tls.stream.get_ref().1.alpn_protocol(),
            Self::Plain(_) | Self::Server(_) => None,
        }
    }

    /// Whether it is TLS that agreed on nothing, where we called.
    pub(crate) fn is_tls_without_alpn(&self) -> bool {
        matches!(self, Self::Client(_)) && self.alpn().is_none()
    }

    fn socket(&self) -> &Socket {
        match self {
            Self::Plain(stream) => stream,
            Self::Server(tls) => tls.stream.get_ref().0,
            Self::Client(tls) => tls.stream.get_ref().0,
        }
    }

    /// Ends with a reset instead of a clean end when it is dropped, so that the peer sees that something is missing.
    pub(crate) fn reset_on_close(&self) {
        self.socket().reset_on_close();
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check()?;
        let read = on_stream!(this, stream => stream.poll_read(cx, buf));
        if read.is_pending() {
            this.wait(cx);
        }
        read
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check()?;
        on_stream!(this, stream => stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check()?;
        on_stream!(this, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check()?;
        on_stream!(this, stream => stream.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check()?;
        on_stream!(this, stream => stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Server(tls) => tls.stream.is_write_vectored(),
            Self::Client(tls) => tls.stream.is_write_vectored(),
        }
    }
}

impl<S> Secured<S> {
    /// TLS whose handshake is done.
    pub(crate) fn new(stream: S, standing: Option<Rc<Standing>>) -> Self {
        Self { stream, standing }
    }
}

// === impl Socket ===

impl Socket {
    /// Lets small messages leave at once.
    pub(crate) fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_nodelay(true),
            #[cfg(test)]
            Self::Memory(_) => Ok(()),
        }
    }

    /// Ends with a reset when it is dropped.
    pub(crate) fn reset_on_close(&self) {
        match self {
            // A socket that is broken already resets by itself.
            Self::Tcp(socket) => drop(SockRef::from(socket).set_linger(Some(Duration::ZERO))),
            #[cfg(test)]
            Self::Memory(socket) => socket.reset_on_close(),
        }
    }

    /// The address that the client connected to.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr(),
            #[cfg(test)]
            Self::Memory(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Where the client meant to connect to. What was not redirected was meant for here.
    pub(crate) fn original_destination(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(socket) => {
                let local = socket.local_addr()?;
                let kernel = SockRef::from(socket);
                let original =
                    if local.is_ipv4() { kernel.original_dst_v4() } else { kernel.original_dst_v6() };
                Ok(original.ok().and_then(|address| address.as_socket()).unwrap_or(local))
            }
            #[cfg(test)]
            Self::Memory(socket) => socket.meant_for.ok_or_else(|| io::ErrorKind::Unsupported.into()),
        }
    }

    /// Reads without consuming; 0 at the end of the stream.
    pub(crate) fn poll_peek(&self, cx: &mut Context<'_>, bytes: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        on_socket!(self, socket => socket.poll_peek(cx, bytes))
    }
}

impl From<TcpStream> for Socket {
    fn from(socket: TcpStream) -> Self {
        Self::Tcp(socket)
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_socket!(self.get_mut(), socket => Pin::new(socket).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        on_socket!(self.get_mut(), socket => Pin::new(socket).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_socket!(self.get_mut(), socket => Pin::new(socket).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_socket!(self.get_mut(), socket => Pin::new(socket).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_socket!(self.get_mut(), socket => Pin::new(socket).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

// === impl Rewound ===

impl Rewound {
    /// Puts `head` back in front of what the transport still has.
    pub(crate) fn new(head: BytesMut, transport: Transport) -> Self {
        Self { head, transport }
    }
}

impl AsyncRead for Rewound {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.head.is_empty() {
            return Pin::new(&mut this.transport).poll_read(cx, buf);
        }
        let taken = this.head.len().min(buf.remaining());
        buf.put_slice(&this.head[..taken]);
        this.head.advance(taken);
        if this.head.is_empty() {
            this.head = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }
}
