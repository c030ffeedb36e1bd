//! An accepted connection: which filter chain takes it, who is at its other end, and then that chain.

use std::cell::OnceCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;
use meshwork_identity::peer_id;
use meshwork_model::proxy::Transport as Detected;
use meshwork_model::spiffe::SpiffeId;
use meshwork_telemetry::{Protocol, Refusal};
use tokio::io::ReadBuf;
use tokio::time::timeout;
use tokio_rustls::{StartHandshake, TlsAcceptor, server};
use tracing::{info, warn};

use crate::config::{Asked, Chain, Filter, ListenerConfig, Takeover};
use crate::error::{Kind, ProxyError};
use crate::hello;
use crate::http::serve::serve as serve_http;
use crate::limits::HANDSHAKE;
use crate::listener::Gate;
pub(crate) use crate::peer::Peer;
use crate::peer::PeerTls;
use crate::record::OpenConnection;
use crate::tcp;
use crate::transport::{Socket, Transport};
use crate::upstream::Edges;
use crate::worker::Worker;

/// The first byte of a TLS handshake record. Source: RFC 8446 §5.1.
const TLS_HANDSHAKE: u8 = 22;

/// A connection's place in the config; it moves along when that changes.
pub(crate) struct Seat {
    /// The worker.
    pub(crate) worker: Rc<Worker>,
    /// The chain that the connection took, in its present version.
    pub(crate) chain: Arc<Chain>,
    /// The config's version that it is of.
    pub(crate) version: u64,
    found: Found,
}

/// By what a connection's listener is found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found {
    /// The address that it is bound to.
    Bound(SocketAddr),
    /// The address that the connection was meant for.
    MeantFor(SocketAddr),
}

/// A connection whose chain is chosen.
struct Accepted {
    chain: Arc<Chain>,
    transport: Transport,
    id: Option<SpiffeId>,
    /// The protocol that was agreed on by ALPN.
    alpn: Option<Vec<u8>>,
    /// What was read to choose the chain, where that passes it on.
    ahead: BytesMut,
    /// The server name that the client asked for.
    server_name: Option<Box<str>>,
    /// What the handshake agreed on.
    tls: Option<Box<PeerTls>>,
}

/// Serves a connection to its end.
///
/// # Errors
/// Why it ended before its chain could take it, or broke.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    listener: &ListenerConfig,
    gate: &Gate,
    address: SocketAddr,
    stream: impl Into<Socket>,
    remote: SocketAddr,
) -> Result<(), ProxyError> {
    let version = worker.version();
    let stream = stream.into();
    let (mut found, mut meant_for, mut taken_over) = (Found::Bound(address), None, None);
    if listener.use_original_dst {
        let redirected = redirected(worker, address, &stream);
        let (meant, by) = redirected.inspect_err(|error| refused(worker, listener, gate, remote, error))?;
        meant_for = Some(meant);
        if by.is_some() {
            (found, taken_over) = (Found::MeantFor(meant), by);
        }
    }
    let listener = taken_over.as_deref().unwrap_or(listener);
    // Apart, so that a connection does not carry the memory of its handshake.
    let accepted = if listener.is_plain() {
        accept_plain(listener, stream)
    } else {
        let accepted = Box::pin(timeout(HANDSHAKE, accept(worker, listener, stream))).await;
        accepted.unwrap_or_else(|_| Err(ProxyError::fatal(Kind::RequestTimeout)))
    };
    let accepted = accepted.inspect_err(|error| refused(worker, listener, gate, remote, error))?;
    let peer = Rc::new(Peer {
        direction: listener.direction,
        address: remote,
        direct: remote,
        local: meant_for.unwrap_or(address),
        port: meant_for.unwrap_or(address).port(),
        meant_for,
        id: accepted.id,
        is_tls: accepted.transport.is_tls(),
        server_name: accepted.server_name,
        tls: accepted.tls,
        edges: Edges::default(),
        tokens: OnceCell::new(),
    });
    let protocol = match &accepted.chain.filter {
        Filter::Tcp(_) => Protocol::Tcp,
        Filter::Http(_) if accepted.alpn.as_deref() == Some(b"h2") => Protocol::Grpc,
        Filter::Http(_) => Protocol::Http,
    };
    let _open = OpenConnection::accepted(worker, &peer, accepted.chain.service.as_ref(), protocol);
    let seat = Seat { worker: Rc::clone(worker), chain: accepted.chain, found, version };
    match &seat.chain.filter {
        Filter::Http(_) => serve_http(seat, peer, accepted.transport, accepted.alpn.as_deref()).await,
        Filter::Tcp(_) => Box::pin(tcp::relay(seat, &peer, accepted.transport, accepted.ahead)).await,
    }
}

/// Counts a connection that no chain took, and says why: what any client can provoke, once a second at most.
fn refused(worker: &Worker, listener: &ListenerConfig, gate: &Gate, remote: SocketAddr, error: &ProxyError) {
    let name = &listener.name;
    match &error.kind {
        Kind::Plaintext => {
            worker.registry.count_refusal(Refusal::Plaintext);
            if let Some(untold) = gate.plaintext.arises() {
                info!(listener = %name, %remote, untold, "refused: {}", error.kind);
            }
        }
        Kind::Destination(_) => {
            worker.registry.count_refusal(Refusal::Destination);
            if let Some(untold) = gate.destination.arises() {
                warn!(listener = %name, %remote, untold, "refused: {} (MW0402)", error.kind);
            }
        }
        // Nobody has asked for anything yet: a health check, or somebody who was told that we drain.
        Kind::DownstreamGone => {}
        kind => {
            worker.registry.count_refusal(Refusal::Handshake);
            if let Some(untold) = gate.failed.arises() {
                info!(listener = %name, %remote, untold, error = %kind, "a connection ended before its handshake did");
            }
        }
    }
}

/// Where a redirected connection was meant to go, and the listener that takes it over, if there is one.
fn redirected(
    worker: &Worker,
    bound: SocketAddr,
    stream: &Socket,
) -> Result<(SocketAddr, Option<Arc<ListenerConfig>>), ProxyError> {
    let meant = stream.original_destination().map_err(|e| ProxyError::downstream(&e))?;
    let refuse = |why| {
        stream.reset_on_close();
        Err(ProxyError::fatal(Kind::Destination(Box::new((meant, why)))))
    };
    if meant == bound {
        return refuse("the proxy's own address: the connection was not redirected");
    }
    if let Some(why) = worker.own.refusal(meant.ip()) {
        return refuse(why);
    }
    match worker.takeover(meant) {
        None => Ok((meant, None)),
        Some(Takeover::By(listener)) => Ok((meant, Some(listener))),
        Some(Takeover::Awaited) => refuse("a service whose routes have not come yet"),
    }
}

fn accept_plain(listener: &ListenerConfig, stream: Socket) -> Result<Accepted, ProxyError> {
    let chain = Arc::clone(listener.chain(&Asked::default()).ok_or_else(no_chain)?);
    stream.set_nodelay().map_err(|e| ProxyError::downstream(&e))?;
    Ok(Accepted::plain(chain, stream))
}

/// Chooses the chain by the connection's first bytes, and ends TLS where that does.
async fn accept(worker: &Worker, listener: &ListenerConfig, stream: Socket) -> Result<Accepted, ProxyError> {
    let pending = worker.handshakes.enter();
    tokio::select! {
        biased;
        () = pending.displaced() => Err(ProxyError::fatal(Kind::Overload("too many handshakes at the same time"))),
        accepted = detect(worker, listener, stream) => accepted,
    }
}

async fn detect(worker: &Worker, listener: &ListenerConfig, stream: Socket) -> Result<Accepted, ProxyError> {
    stream.set_nodelay().map_err(|e| ProxyError::downstream(&e))?;
    // Who is silent costs neither a step of a handshake nor its memory.
    let transport = match first_byte(worker, &stream).await? {
        TLS_HANDSHAKE => Detected::Tls,
        _ => Detected::Plaintext,
    };
    if transport == Detected::Tls {
        return Box::pin(worker.handshakes.pace(accept_tls(listener, stream))).await;
    }
    match listener.chain(&Asked { transport: Some(transport), ..Asked::default() }) {
        Some(chain) if chain.tls.is_none() => Ok(Accepted::plain(Arc::clone(chain), stream)),
        None if !listener.ends_tls() => Err(no_chain()),
        _ => Err(ProxyError::fatal(Kind::Plaintext)),
    }
}

/// Waits for the first byte and leaves it where it is. Those who are silent while the proxy drains are let go.
async fn first_byte(worker: &Worker, stream: &Socket) -> Result<u8, ProxyError> {
    let mut first = [0];
    let read = poll_fn(|cx| match stream.poll_peek(cx, &mut ReadBuf::new(&mut first)) {
        Poll::Pending if worker.is_draining() => Poll::Ready(Ok(0)),
        read => read,
    });
    match read.await.map_err(|e| ProxyError::downstream(&e))? {
        0 => Err(ProxyError::fatal(Kind::DownstreamGone)),
        _ => Ok(first[0]),
    }
}

/// Reads what the client asks for, where that chooses its chain, and ends TLS or passes it through.
async fn accept_tls(listener: &ListenerConfig, mut stream: Socket) -> Result<Accepted, ProxyError> {
    let by_tls = Asked { transport: Some(Detected::Tls), ..Asked::default() };
    if !listener.needs_hello() {
        let chain = listener.chain(&by_tls).ok_or_else(no_chain)?;
        let Some(tls) = &chain.tls else {
            // Passed through.
            return Ok(Accepted::plain(Arc::clone(chain), stream));
        };
        let accepted = TlsAcceptor::from(Arc::clone(&tls.config)).accept(stream).await;
        return proven(Arc::clone(chain), accepted.map_err(ProxyError::handshake)?);
    }
    let hello = hello::read(&mut stream).await?;
    let chain = {
        let client = hello.accepted.client_hello();
        let offered: Vec<&[u8]> = client.alpn().into_iter().flatten().collect();
        let asked = Asked { server_name: hello.server_name.as_deref(), alpn: &offered, ..by_tls };
        listener.chain(&asked).map(Arc::clone).ok_or_else(no_chain)?
    };
    let Some(tls) = &chain.tls else {
        return match chain.filter {
            Filter::Tcp(_) => {
                let server_name = hello.server_name.map(Into::into);
                Ok(Accepted { ahead: hello.bytes, server_name, ..Accepted::plain(chain, stream) })
            }
            Filter::Http(_) => Err(ProxyError::fatal(Kind::Refused("TLS came where HTTP is spoken"))),
        };
    };
    let start = StartHandshake::from_parts(hello.accepted, stream);
    let stream = start.into_stream(Arc::clone(&tls.config)).await.map_err(ProxyError::handshake)?;
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
    let tls = Some(Box::new(PeerTls::of(session)));
    let server_name = session.server_name().map(|name| name.to_ascii_lowercase().into());
    let transport = Transport::Server(Box::new(stream));
    Ok(Accepted { transport, id, alpn, ahead: BytesMut::new(), chain, server_name, tls })
}

fn no_chain() -> ProxyError {
    ProxyError::fatal(Kind::Refused("no filter chain takes the connection"))
}

// === impl Accepted ===

impl Accepted {
    /// A connection whose bytes are taken as they come.
    fn plain(chain: Arc<Chain>, stream: Socket) -> Self {
        Self {
            chain,
            transport: Transport::Plain(stream),
            id: None,
            alpn: None,
            ahead: BytesMut::new(),
            server_name: None,
            tls: None,
        }
    }
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
        let Some(listener) = self.worker.found(self.found) else { return false };
        let follower = listener.chains.get(self.chain.index).filter(|next| self.chain.is_followed_by(next));
        let Some(next) = follower else { return false };
        self.chain = Arc::clone(next);
        self.version = self.worker.version();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a connection's task holds for as long as it lives, besides its buffers.
    const TASK_BYTES: usize = 4096;

    fn size_of_future<'a, F>(
        _: impl Fn(&'a Rc<Worker>, &'a ListenerConfig, &'a Gate, SocketAddr, Socket, SocketAddr) -> F,
    ) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_is_small() {
        let size = size_of_future(serve);
        assert!(size <= TASK_BYTES, "{size}");
    }
}
