//! Connections: accepted, brought through their handshakes side by side, and handed to tonic with who is behind them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use meshwork_identity::{SpiffeId, peer_id};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::debug;

/// Connections at once; each proxy has two. Past it, clients wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 16_384;
/// Connections that are through and that tonic has not taken yet.
const MAX_WAITING: usize = 64;
/// A client that takes longer for its handshake is gone or means no good.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client without a certificate may stay: it asks for one, which is a single call, and comes back with it.
const ANONYMOUS_AGE: Duration = Duration::from_secs(30);
/// A pause when the process is out of file descriptors: others may close theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is behind a connection; nobody, where it showed no certificate.
#[derive(Clone, Debug)]
pub(super) struct Peer(pub(super) Option<SpiffeId>);

/// A connection whose handshake is done.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// When it ends, where the client showed no certificate.
    end: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}

/// Accepts connections for as long as the stream is kept.
pub(super) fn incoming(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
) -> impl Stream<Item = io::Result<Connection>> {
    let (done, waiting) = mpsc::channel(MAX_WAITING);
    let closed = done.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = accept(listener, TlsAcceptor::from(tls), done) => {}
            () = closed.closed() => {}
        }
    });
    ReceiverStream::new(waiting)
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, done: mpsc::Sender<io::Result<Connection>>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut handshakes = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        while handshakes.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "accepts nothing for a moment");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (tls, done) = (tls.clone(), done.clone());
        handshakes.spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(&tls, stream, permit)).await {
                // Nobody takes it only when the server ends.
                Ok(Ok(connection)) => drop(done.send(Ok(connection)).await),
                Ok(Err(error)) => debug!(%error, "no handshake"),
                Err(_) => debug!("no handshake in time"),
            }
        });
    }
}

async fn handshake(
    tls: &TlsAcceptor,
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let stream = tls.accept(stream).await?;
    let peer = match stream.get_ref().1.peer_certificates() {
        None => None,
        Some(certificates) => Some(peer_id(certificates).map_err(io::Error::other)?),
    };
    let end = peer.is_none().then(|| Box::pin(tokio::time::sleep(ANONYMOUS_AGE)));
    Ok(Connection { stream, peer: Peer(peer), end, _permit: permit })
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
