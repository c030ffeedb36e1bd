//! An accepted connection: which filter chain takes it, who is at its other end, and then that chain.

use std::cell::OnceCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use bytes::BytesMut;
use meshwork_identity::{IdentityError, peer_id};
use meshwork_model::proxy::{Direction, DownstreamTls, Transport as Detected};
use meshwork_model::spiffe::SpiffeId;
use meshwork_telemetry::{Caller, Protocol, Refusal, Unproven};
use tokio::io::ReadBuf;
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::{StartHandshake, TlsAcceptor, server};
use tracing::{info, warn};

use crate::config::{Chain, Filter, ListenerConfig, ListenerCounters, Takeover, Within};
use crate::error::{Kind, ProxyError};
use crate::hello;
use crate::http::serve::serve as serve_http;
use crate::inspect::{Arrived, inspect};
use crate::listener::Gate;
pub(crate) use crate::peer::Peer;
use crate::peer::PeerTls;
use crate::policy::{self, Admitted};
use crate::record::OpenConnection;
use crate::standing::Standing;
use crate::tcp;
use crate::transport::{Secured, Socket, Transport};
use crate::unproven;
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
    /// The worker's epoch that it is of.
    epoch: u64,
    /// Who sits there.
    peer: Rc<Peer>,
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
    /// What was read of the connection, and TLS did not take.
    ahead: BytesMut,
    /// What the handshake agreed on.
    tls: Option<Box<PeerTls>>,
    /// How the client stands, where the mesh's trust judges it.
    standing: Option<Rc<Standing>>,
    /// Its places in what the chain's limits count.
    places: Vec<Within>,
    facts: Facts,
}

/// What became known of a connection on its way to a chain.
struct Facts {
    remote: SocketAddr,
    local: SocketAddr,
    meant_for: Option<SocketAddr>,
    server_name: Option<Box<str>>,
}

/// A connection counts as the listener's until this is dropped.
struct Counted(Arc<ListenerCounters>);

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
    let epoch = worker.epoch();
    let mut arrived = Arrived::new(stream.into(), address, remote);
    let _counted = Counted::enter(&listener.counters);
    let (mut found, mut taken_over) = (Found::Bound(address), None);
    if listener.use_original_dst {
        let redirected = redirected(worker, listener, address, &mut arrived);
        taken_over = redirected.inspect_err(|error| refused(worker, listener, gate, remote, error))?;
        if taken_over.is_some() {
            found = Found::MeantFor(arrived.local);
        }
    }
    let listener = taken_over.as_deref().unwrap_or(listener);
    // Apart, so that a connection does not carry the memory of its handshake.
    let accepted = if listener.is_plain() {
        accept_plain(listener, arrived)
    } else {
        Box::pin(accept(worker, listener, arrived)).await
    };
    let accepted = accepted.inspect_err(|error| refused(worker, listener, gate, remote, error))?;
    let facts = accepted.facts;
    let taken = (listener.direction == Direction::Inbound).then(|| {
        let of_plaintext = || Caller::Plaintext(facts.remote.ip().to_canonical());
        let caller = if accepted.id.is_some() { Caller::Mtls } else { of_plaintext() };
        worker.shard.taken(listener.port.unwrap_or(facts.local.port()), caller).open()
    });
    let peer = Rc::new(Peer {
        direction: listener.direction,
        address: facts.remote,
        direct: remote,
        local: facts.local,
        port: facts.local.port(),
        meant_for: facts.meant_for,
        id: accepted.id,
        is_tls: accepted.transport.is_tls(),
        server_name: facts.server_name,
        tls: accepted.tls,
        standing: accepted.standing,
        taken,
        number: worker.next_number(),
        edges: Edges::default(),
        tokens: OnceCell::new(),
    });
    let protocol = match &accepted.chain.filter {
        Filter::Tcp(_) => Protocol::Tcp,
        Filter::Http(_) if accepted.alpn.as_deref() == Some(b"h2") => Protocol::Grpc,
        Filter::Http(_) => Protocol::Http,
    };
    let _open = OpenConnection::accepted(worker, &peer, accepted.chain.service.as_ref(), protocol);
    let _places = accepted.places;
    let (worker, seated) = (Rc::clone(worker), Rc::clone(&peer));
    let seat = Seat { worker, chain: accepted.chain, peer: seated, found, epoch };
    match &seat.chain.filter {
        Filter::Http(_) => {
            // What a connection may not do, its requests may not either: it is closed without an answer.
            seat.admit().inspect_err(|error| refused(&seat.worker, listener, gate, remote, error))?;
            serve_http(seat, peer, accepted.transport, accepted.ahead, accepted.alpn.as_deref()).await
        }
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
        Kind::Overload(limit) => {
            worker.registry.count_refusal(Refusal::Limit);
            if let Some(untold) = gate.limited.arises() {
                warn!(listener = %name, untold, "{limit}: a connection was closed (MW0501)");
            }
        }
        Kind::Unproven(unproven) => {
            worker.registry.count_refusal(Refusal::Handshake);
            worker.registry.count_unproven(unproven.0);
            let occasion = if unproven.0 == Unproven::Broken { &gate.failed } else { &gate.unproven };
            if let Some(untold) = occasion.arises() {
                info!(listener = %name, %remote, untold, why = unproven.0.label(), "refused: {}", error.kind);
            }
        }
        // Nobody has asked for anything yet: a health check, or somebody who was told that we drain.
        Kind::DownstreamGone => {}
        kind => {
            let is_slow = matches!(kind, Kind::RequestTimeout);
            worker.registry.count_refusal(Refusal::Handshake);
            worker.registry.count_unproven(if is_slow { Unproven::TooSlow } else { Unproven::Broken });
            if let Some(untold) = gate.failed.arises() {
                info!(listener = %name, %remote, untold, error = %kind, "a connection ended before its handshake did");
            }
        }
    }
}

/// Finds out where a redirected connection was meant to go, and gives the listener that takes it over, if there is one.
fn redirected(
    worker: &Worker,
    listener: &ListenerConfig,
    bound: SocketAddr,
    arrived: &mut Arrived,
) -> Result<Option<Arc<ListenerConfig>>, ProxyError> {
    let stream = &arrived.stream;
    let meant = stream.original_destination().map_err(|e| ProxyError::downstream(&e))?;
    let refuse = |why| {
        stream.reset_on_close();
        Err(ProxyError::fatal(Kind::Destination(Box::new((meant, why)))))
    };
    if meant == bound || meant == arrived.local {
        // A plain proxy may be called by its own address; a workload's would call itself, or more than the workload may.
        if listener.direction == Direction::Unspecified {
            return Ok(None);
        }
        return refuse("the proxy's own address: the connection was not redirected");
    }
    if let Some(why) = worker.own.refusal(meant.ip()) {
        return refuse(why);
    }
    let taken_over = match worker.takeover(meant) {
        None => None,
        Some(Takeover::By(listener)) => Some(listener),
        Some(Takeover::Awaited) => return refuse("a service whose routes have not come yet"),
    };
    (arrived.local, arrived.meant_for) = (meant, Some(meant));
    Ok(taken_over)
}

fn accept_plain(listener: &ListenerConfig, arrived: Arrived) -> Result<Accepted, ProxyError> {
    let chain = choose(listener, &arrived)?;
    arrived.stream.set_nodelay().map_err(|e| ProxyError::downstream(&e))?;
    Ok(Accepted::plain(chain, arrived))
}

/// Has the listener's filters look, chooses the chain, and ends TLS where that does.
async fn accept(
    worker: &Worker,
    listener: &ListenerConfig,
    arrived: Arrived,
) -> Result<Accepted, ProxyError> {
    let pending = worker.handshakes.enter();
    tokio::select! {
        biased;
        () = pending.displaced() => Err(ProxyError::fatal(Kind::Overload("too many handshakes at the same time"))),
        accepted = detect(worker, listener, arrived) => accepted,
    }
}

async fn detect(
    worker: &Worker,
    listener: &ListenerConfig,
    mut arrived: Arrived,
) -> Result<Accepted, ProxyError> {
    arrived.stream.set_nodelay().map_err(|e| ProxyError::downstream(&e))?;
    inspect(worker, listener, &mut arrived).await?;
    let chain = choose(listener, &arrived)?;
    let places = enter(&chain).await?;
    let Some(tls) = &chain.tls else { return Ok(Accepted { places, ..Accepted::plain(chain, arrived) }) };
    let config = Arc::clone(&tls.made.config);
    let handshake = async {
        // Who is silent costs neither a step of a handshake nor its memory.
        if first_byte(worker, &arrived).await? != TLS_HANDSHAKE {
            return Err(ProxyError::fatal(Kind::Plaintext));
        }
        worker.handshakes.pace(end_tls(config, arrived)).await
    };
    let ended = timeout(chain.handshake_timeout, Box::pin(handshake)).await;
    let (stream, facts) = ended.unwrap_or_else(|_| Err(ProxyError::fatal(Kind::RequestTimeout)))?;
    Ok(Accepted { places, ..proven(worker, chain, stream, facts)? })
}

/// The chain that takes a connection.
fn choose(listener: &ListenerConfig, arrived: &Arrived) -> Result<Arc<Chain>, ProxyError> {
    let chosen = arrived.with_arrival(|arrival| listener.chain(arrival).map(Arc::clone));
    let spoke_plaintext = arrived.transport == Detected::Plaintext && !arrived.ahead.is_empty();
    chosen.ok_or_else(|| {
        if listener.ends_tls() && spoke_plaintext {
            ProxyError::fatal(Kind::Plaintext)
        } else {
            ProxyError::fatal(Kind::Refused("no filter chain takes the connection"))
        }
    })
}

/// Counts a connection towards the limits of its chain. One too many waits for as long as that is to be delayed.
async fn enter(chain: &Chain) -> Result<Vec<Within>, ProxyError> {
    let mut places = Vec::new();
    for limit in &chain.limits {
        let Some(place) = limit.enter() else {
            sleep(limit.config.delay.unwrap_or_default()).await;
            return Err(ProxyError::fatal(Kind::Overload("the chain has as many connections as it may")));
        };
        places.push(place);
    }
    Ok(places)
}

/// Waits for the first byte and leaves it where it is. Those who are silent while the proxy drains are let go.
async fn first_byte(worker: &Worker, arrived: &Arrived) -> Result<u8, ProxyError> {
    if let Some(first) = arrived.ahead.first() {
        return Ok(*first);
    }
    let mut first = [0];
    let read = poll_fn(|cx| match arrived.stream.poll_peek(cx, &mut ReadBuf::new(&mut first)) {
        Poll::Pending if worker.is_draining() => Poll::Ready(Ok(0)),
        read => read,
    });
    match read.await.map_err(|e| ProxyError::downstream(&e))? {
        0 => Err(ProxyError::fatal(Kind::DownstreamGone)),
        _ => Ok(first[0]),
    }
}

/// Ends TLS, with what was read of it already.
async fn end_tls(
    config: Arc<ServerConfig>,
    mut arrived: Arrived,
) -> Result<(server::TlsStream<Socket>, Facts), ProxyError> {
    let facts = Facts::of(&mut arrived);
    let Arrived { mut stream, ahead, .. } = arrived;
    let ended = if ahead.is_empty() {
        TlsAcceptor::from(config).accept(stream).await
    } else {
        let accepted = hello::resume(&mut stream, ahead).await?;
        StartHandshake::from_parts(accepted, stream).into_stream(config).await
    };
    let ended = ended.map_err(|error| ProxyError::handshake(unproven::of_io(&error)));
    Ok((ended?, facts))
}

/// Who the client is, and whether the chain lets them in.
fn proven(
    worker: &Worker,
    chain: Arc<Chain>,
    stream: server::TlsStream<Socket>,
    facts: Facts,
) -> Result<Accepted, ProxyError> {
    let session = stream.get_ref().1;
    let alpn = session.alpn_protocol().map(<[u8]>::to_vec);
    let certificates = session.peer_certificates();
    let mut standing = None;
    let proves = chain.tls.as_ref().is_some_and(|tls| tls.made.proves_clients);
    let id = match chain.tls.as_ref().map(|tls| &tls.source) {
        Some(DownstreamTls::Mesh(mesh)) => {
            let refused = |error: IdentityError| {
                ProxyError::handshake((unproven::of_identity(&error), error.to_string()))
            };
            let (id, admitted) = worker.jury.admit(session, None).map_err(refused)?.unzip();
            standing = admitted;
            if !mesh.allowed.is_empty() && !id.as_ref().is_some_and(|id| mesh.allowed.contains(id)) {
                return Err(ProxyError::fatal(Kind::Denied(None)));
            }
            id
        }
        // Who is let in without being verified has proved nothing.
        Some(DownstreamTls::Context(_)) if proves => {
            certificates.and_then(|certificates| peer_id(certificates).ok())
        }
        _ => None,
    };
    let tls = Some(Box::new(PeerTls::of(session, standing.as_deref(), proves)));
    let asked = session.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase().into());
    let facts = Facts { server_name: asked.or(facts.server_name), ..facts };
    let transport = Transport::Server(Box::new(Secured::new(stream, standing.clone())));
    let (ahead, places) = (BytesMut::new(), Vec::new());
    Ok(Accepted { chain, transport, id, alpn, ahead, tls, standing, places, facts })
}

// === impl Counted ===

impl Counted {
    fn enter(counters: &Arc<ListenerCounters>) -> Self {
        counters.total.fetch_add(1, Relaxed);
        counters.active.fetch_add(1, Relaxed);
        Self(Arc::clone(counters))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

// === impl Facts ===

impl Facts {
    fn of(arrived: &mut Arrived) -> Self {
        Self {
            remote: arrived.remote,
            local: arrived.local,
            meant_for: arrived.meant_for,
            server_name: arrived.hello.server_name.take(),
        }
    }
}

// === impl Accepted ===

impl Accepted {
    /// A connection whose bytes are taken as they come.
    fn plain(chain: Arc<Chain>, mut arrived: Arrived) -> Self {
        let facts = Facts::of(&mut arrived);
        Self {
            chain,
            transport: Transport::Plain(arrived.stream),
            id: None,
            alpn: None,
            ahead: arrived.ahead,
            tls: None,
            standing: None,
            places: Vec::new(),
            facts,
        }
    }
}

// === impl Seat ===

impl Seat {
    /// Whether the connection has to end as soon as it can: the proxy drains, the present config has no place for it any
    /// more (its listener is gone, asks for another proof, or does not let it in), or its peer is not trusted any more.
    pub(crate) fn must_end(&mut self) -> bool {
        self.worker.is_draining() || self.move_along().is_err()
    }

    /// Whether requests are to go elsewhere from now on, without haste: those that come are served.
    pub(crate) fn is_retired(&self) -> bool {
        self.peer.standing.as_ref().is_some_and(|standing| standing.is_retired())
    }

    /// Whether the chain lets the connection in.
    pub(crate) fn admit(&self) -> Result<Admitted, ProxyError> {
        policy::admit(&self.chain.rules, &self.peer)
    }

    /// Follows config and trust.
    ///
    /// # Errors
    /// There is no place for the connection any more, or its peer is not trusted any more.
    pub(crate) fn move_along(&mut self) -> Result<(), ProxyError> {
        if self.epoch == self.worker.epoch() {
            return Ok(());
        }
        self.peer.admit()?;
        let gone = || ProxyError::fatal(Kind::Refused("the listener is gone, or asks for another proof"));
        let listener = self.worker.found(self.found).ok_or_else(gone)?;
        let follower = listener.all_chains().find(|next| self.chain.is_followed_by(next));
        let next = Arc::clone(follower.ok_or_else(gone)?);
        policy::admit(&next.rules, &self.peer)?;
        self.chain = next;
        self.epoch = self.worker.epoch();
        Ok(())
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
