//! An accepted connection: which filter chain takes it, who is at its other end, and then that chain.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use meshwork_identity::peer_id;
use meshwork_model::proxy::{Direction, Transport as Detected};
use meshwork_model::spiffe::SpiffeId;
use meshwork_telemetry::Protocol;
use tokio::time::timeout;
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, server};

use crate::config::{Chain, Filter, ListenerConfig};
use crate::error::{Kind, ProxyError};
use crate::http::serve::serve as serve_http;
use crate::limits::HANDSHAKE;
use crate::record::OpenConnection;
use crate::tcp;
use crate::transport::{Socket, Transport};
use crate::upstream::Edges;
use crate::worker::{Presence, Worker};

/// The first byte of a TLS handshake record. Source: RFC 8446 §5.1.
const TLS_HANDSHAKE: u8 = 22;

/// Who is at the other end, and how they came in.
pub(crate) struct Peer {
    /// Which side of the workload they came to.
    pub(crate) direction: Direction,
    /// Their address.
    pub(crate) address: SocketAddr,
    /// The port that they connected to.
    pub(crate) port: u16,
    /// The identity that they proved.
    pub(crate) id: Option<SpiffeId>,
    /// Whether the connection is encrypted.
    pub(crate) is_tls: bool,
    /// Edges from them, by protocol.
    pub(crate) edges: Edges,
}

/// A connection's place in the config; it moves along when that changes.
pub(crate) struct Seat {
    /// The worker.
    pub(crate) worker: Rc<Worker>,
    /// The chain that the connection took, in its present version.
    pub(crate) chain: Arc<Chain>,
    /// The config's version that it is of.
    pub(crate) version: u64,
    listener: SocketAddr,
}

/// A connection whose chain is chosen.
struct Accepted {
    chain: Arc<Chain>,
    transport: Transport,
    id: Option<SpiffeId>,
    /// The protocol that was agreed on by ALPN.
    alpn: Option<Vec<u8>>,
}

/// Serves a connection to its end.
///
/// # Errors
/// Why it ended before its chain could take it, or broke.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    listener: &ListenerConfig,
    address: SocketAddr,
    stream: impl Into<Socket>,
    remote: SocketAddr,
) -> Result<(), ProxyError> {
    let _presence = Presence::announce(&worker).await;
    let version = worker.version();
    // Apart, so that a connection does not carry the memory of its handshake.
    let accepted = Box::pin(timeout(HANDSHAKE, accept(&worker, listener, stream.into()))).await;
    let accepted = accepted.unwrap_or_else(|_| Err(ProxyError::fatal(Kind::RequestTimeout)))?;
    let peer = Rc::new(Peer {
        direction: listener.direction,
        address: remote,
        port: address.port(),
        id: accepted.id,
        is_tls: accepted.transport.is_tls(),
        edges: Edges::default(),
    });
    let protocol = match &accepted.chain.filter {
        Filter::Tcp(_) => Protocol::Tcp,
        Filter::Http(_) if accepted.alpn.as_deref() == Some(b"h2") => Protocol::Grpc,
        Filter::Http(_) => Protocol::Http,
    };
    let _open = OpenConnection::accepted(&worker, &peer, accepted.chain.service.as_ref(), protocol);
    let seat = Seat { worker, chain: accepted.chain, listener: address, version };
    match &seat.chain.filter {
        Filter::Http(_) => serve_http(seat, peer, accepted.transport, accepted.alpn.as_deref()).await,
        Filter::Tcp(_) => tcp::relay(seat, &peer, accepted.transport).await,
    }
}

/// Chooses the chain and ends TLS where that does.
async fn accept(worker: &Worker, listener: &ListenerConfig, stream: Socket) -> Result<Accepted, ProxyError> {
    stream.set_nodelay().map_err(|e| ProxyError::downstream(&e))?;
    let transport = if listener.needs_transport() { Some(detect(&stream).await?) } else { None };
    let is_plaintext = transport == Some(Detected::Plaintext);
    if listener.needs_alpn() && !is_plaintext {
        return accept_by_alpn(worker, listener, transport, stream).await;
    }
    let chain = listener.chain(transport, &[]).ok_or_else(no_chain)?;
    let Some(tls) = &chain.tls else {
        let transport = Transport::Plain(stream);
        return Ok(Accepted { chain: Arc::clone(chain), transport, id: None, alpn: None });
    };
    let _permit = worker.handshakes.acquire().await;
    let acceptor = TlsAcceptor::from(Arc::clone(&tls.config));
    let stream = acceptor.accept(stream).await.map_err(|e| ProxyError::downstream(&e))?;
    proven(Arc::clone(chain), stream)
}

/// TLS or not, by the first byte.
async fn detect(stream: &Socket) -> Result<Detected, ProxyError> {
    let mut first = [0];
    match stream.peek(&mut first).await.map_err(|e| ProxyError::downstream(&e))? {
        0 => Err(ProxyError::fatal(Kind::DownstreamGone)),
        _ if first[0] == TLS_HANDSHAKE => Ok(Detected::Tls),
        _ => Ok(Detected::Plaintext),
    }
}

/// Reads what the client offers, then chooses.
async fn accept_by_alpn(
    worker: &Worker,
    listener: &ListenerConfig,
    transport: Option<Detected>,
    stream: Socket,
) -> Result<Accepted, ProxyError> {
    let _permit = worker.handshakes.acquire().await;
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let start = start.await.map_err(|e| ProxyError::downstream(&e))?;
    let hello = start.client_hello();
    let offered: Vec<&[u8]> = hello.alpn().into_iter().flatten().collect();
    let chain = listener.chain(transport, &offered).map(Arc::clone).ok_or_else(no_chain)?;
    let Some(tls) = &chain.tls else {
        return Err(ProxyError::fatal(Kind::Unsupported(
            "TLS is not passed through beside chains with ALPN",
        )));
    };
    let stream = start.into_stream(Arc::clone(&tls.config)).await.map_err(|e| ProxyError::downstream(&e))?;
    proven(chain, stream)
}

/// Who the client is, and whether the chain lets them in.
fn proven(chain: Arc<Chain>, stream: server::TlsStream<Socket>) -> Result<Accepted, ProxyError> {
    let session = stream.get_ref().1;
    let alpn = session.alpn_protocol().map(<[u8]>::to_vec);
    let id = match session.peer_certificates() {
        Some(certificates) => {
            Some(peer_id(certificates).map_err(|_| ProxyError::fatal(Kind::Refused("no identity")))?)
        }
        None => None,
    };
    let allowed = chain.tls.as_ref().map_or(&[][..], |tls| &tls.source.allowed);
    if !allowed.is_empty() && !id.as_ref().is_some_and(|id| allowed.contains(id)) {
        return Err(ProxyError::fatal(Kind::Denied(None)));
    }
    Ok(Accepted { chain, transport: Transport::Server(Box::new(stream)), id, alpn })
}

fn no_chain() -> ProxyError {
    ProxyError::fatal(Kind::Refused("no filter chain takes the connection"))
}

// === impl Seat ===

impl Seat {
    /// Whether the connection has to end as soon as it can: the proxy drains, or the present config has no place for
    /// it any more (its listener is gone, or asks for another proof).
    pub(crate) fn must_end(&mut self) -> bool {
        self.worker.is_draining() || !self.move_along()
    }

    /// Follows the config; `false` where it cannot.
    pub(crate) fn move_along(&mut self) -> bool {
        if self.version == self.worker.version() {
            return true;
        }
        let Some(listener) = self.worker.listener(self.listener) else { return false };
        let follower = listener.chains.get(self.chain.index).filter(|next| self.chain.is_followed_by(next));
        let Some(next) = follower else { return false };
        self.chain = Arc::clone(next);
        self.version = self.worker.version();
        true
    }
}
