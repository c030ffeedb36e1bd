//! A connection of bytes, in the same phases as an exchange: authenticate → authorize → forward → relay → record.
//!
//! Each direction ends on its own (half-close); a side that breaks is passed on as a break, so that nobody takes a
//! part for the whole. A change of policy is judged again while the connection lives.
//!
//! A connection on which nothing moves holds no buffer: `flow` moves one direction through what `lent` lends it, a
//! buffer or, where both sides are plain sockets and much is on its way, a pipe of the kernel's.

mod flow;
mod lent;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;
use meshwork_model::outlier::Outcome;
use meshwork_model::proxy::{TcpCluster, TcpProxy};
use meshwork_model::xxhash::xxhash64;
use meshwork_telemetry::{EdgeId, Protocol};
use tokio::time::Instant;
use tracing::debug;

use self::flow::Flow;
use crate::config::{Chain, Filter};
use crate::connection::{Peer, Seat};
use crate::error::{Kind, ProxyError, Retry};
use crate::health;
use crate::limits::{STREAM_IDLE, TCP_CONNECT_TRIES};
use crate::policy::{self, Admitted};
use crate::record::{OpenConnection, Record};
use crate::timer::Timer;
use crate::transport::Transport;
use crate::upstream::{Host, Limited, Picked, Wanted, connect, explained};

/// A relayed connection; recorded once, when it is dropped.
struct Relay<'r> {
    seat: Seat,
    peer: &'r Peer,
    record: Record,
    edge: Option<EdgeId>,
}

/// Relays a connection to its end; `ahead` is what was read of it already.
///
/// # Errors
/// Why it was refused, could not be connected, or broke.
pub(crate) async fn relay(
    seat: Seat,
    peer: &Peer,
    transport: Transport,
    ahead: BytesMut,
) -> Result<(), ProxyError> {
    let record = Record::begin(&seat.worker, &seat.chain);
    let mut relay = Relay { seat, peer, record, edge: None };
    let ended = relay.run(transport, ahead).await;
    if let Err(error) = &ended {
        relay.record.blame(error);
    }
    ended
}

impl Relay<'_> {
    async fn run(&mut self, mut downstream: Transport, ahead: BytesMut) -> Result<(), ProxyError> {
        // Authenticate: in the handshake. Authorize: the proof that forwarding asks for.
        policy::try_out(&self.seat.chain.tried, self.peer, &mut self.record);
        let admitted = self.seat.admit()?;
        // Forward: pick and connect.
        let (mut upstream, picked) = match Box::pin(self.forward(&admitted)).await {
            Ok(connected) => connected,
            Err(error) => {
                downstream.reset_on_close();
                return Err(error);
            }
        };
        let open = OpenConnection::opened(&self.seat.worker, self.peer, &picked, Protocol::Tcp);
        let edge = self.open();
        // Relay, until both directions have ended.
        let flows = (Flow::new(&ahead), Flow::new(&[]));
        drop(ahead);
        let moved = self.transfer(edge, flows, &mut downstream, &mut upstream).await;
        let moved = moved.map_err(|error| explained(&picked, upstream.standing(), error));
        // A connection whose time is over ends as one that has said all; one that broke says so.
        if moved.as_ref().is_err_and(|error| !matches!(error.kind, Kind::Timeout)) {
            downstream.reset_on_close();
            upstream.reset_on_close();
        }
        drop(open);
        moved
        // Record: once, in `drop`.
    }

    async fn forward(&mut self, _: &Admitted) -> Result<(Transport, Picked), ProxyError> {
        let worker = &self.seat.worker;
        let proxy = tcp(&self.seat.chain);
        let mut failed: Option<Picked> = None;
        let mut tries_left = proxy.connect_attempts.min(TCP_CONNECT_TRIES);
        loop {
            // Each try may be another cluster's.
            let name = cluster(&proxy.clusters, worker.random());
            let unknown = || ProxyError::fatal(Kind::NoCluster(name.clone()));
            let cluster = worker.cluster(name).ok_or_else(unknown)?;
            self.record.note_cluster(&cluster);
            // There is one place that a connection was meant for.
            tries_left = if cluster.config().passes_through() { 1 } else { tries_left };
            let has_failed = |host: &Host| failed.as_ref().is_some_and(|failed| failed.is_of(host));
            let wanted = Wanted {
                hash: proxy.hashes_source.then(|| hash_of(self.peer)),
                avoid: if failed.is_some() { Some(&has_failed) } else { None },
                again: u32::MAX,
                random: worker.random(),
                ..Wanted::default()
            };
            let picked = cluster.pick_for(self.peer, &wanted)?;
            picked.admit(Limited::Connections)?;
            self.record.note_endpoint(&picked);
            tries_left -= 1;
            match connect(&picked).await {
                Ok(transport) => {
                    health::note(&picked, Outcome::ConnectedFinally);
                    return Ok((transport, picked));
                }
                Err(error) => {
                    health::note(&picked, Outcome::ConnectFailed);
                    if tries_left == 0 || error.retry != Retry::Safe {
                        return Err(error);
                    }
                    debug!(error = %error.kind, "tries another endpoint");
                }
            }
            picked.give_up();
            failed = Some(picked);
        }
    }

    async fn transfer(
        &mut self,
        edge: EdgeId,
        (mut there, mut back): (Flow, Flow),
        downstream: &mut Transport,
        upstream: &mut Transport,
    ) -> Result<(), ProxyError> {
        let mut timer = Timer::default();
        let proxy = tcp(&self.seat.chain);
        let idle = proxy.idle_timeout.unwrap_or(STREAM_IDLE);
        let end = proxy.longest.map(|longest| self.record.started + longest);
        // Whichever is sooner: that nothing moves for too long, or that the connection has lived long enough.
        let deadline = move || {
            let quiet = Instant::now() + idle;
            Some(end.map_or(quiet, |end| end.min(quiet)))
        };
        timer.set(deadline());
        poll_fn(|cx| {
            // After a change of config: there still is a place for this connection, and policy lets it be.
            self.seat.move_along()?;
            let (mut received, mut sent) = (0, 0);
            let moved_there = there.poll_move(cx, downstream, upstream, &mut received);
            let moved_back = back.poll_move(cx, upstream, downstream, &mut sent);
            if received + sent > 0 {
                self.count(edge, received, sent);
                timer.set(deadline());
            }
            match (moved_there.map_err(ProxyError::from)?, moved_back.map_err(ProxyError::from)?) {
                (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
                _ => timer.poll_expired(cx).map(|()| Err(ProxyError::fatal(Kind::Timeout))),
            }
        })
        .await
    }

    /// Counts the connection as begun.
    fn open(&mut self) -> EdgeId {
        let (worker, service) = (&self.seat.worker, self.seat.chain.service.as_ref());
        let edge = self.record.edge(worker, self.peer, service, Protocol::Tcp);
        worker.shard.tcp_opened(edge);
        self.edge = Some(edge);
        edge
    }

    fn count(&mut self, edge: EdgeId, received: u64, sent: u64) {
        self.record.bytes_in += received;
        self.record.bytes_out += sent;
        self.seat.worker.shard.tcp_bytes(edge, received, sent);
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        let edge = self.edge.unwrap_or_else(|| self.open());
        self.record.write_connection(&self.seat.worker, self.peer, &self.seat.chain, edge);
    }
}

/// Where a peer's address places its connections. Source: Envoy, `source_ip`: xxHash64 of the address as text.
fn hash_of(peer: &Peer) -> u64 {
    xxhash64(peer.address.ip().to_string().as_bytes(), 0)
}

/// The cluster that a random number falls to.
fn cluster(clusters: &[TcpCluster], random: u64) -> &Arc<str> {
    let total: u64 = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
    let mut left = random % total.max(1);
    for cluster in clusters {
        match left.checked_sub(u64::from(cluster.weight)) {
            None => return &cluster.name,
            Some(rest) => left = rest,
        }
    }
    unreachable!("a TCP proxy has a cluster, and a remainder is less than the sum")
}

fn tcp(chain: &Chain) -> &TcpProxy {
    match &chain.filter {
        Filter::Tcp(tcp) => tcp,
        Filter::Http(_) => unreachable!("a seat moves along between chains of one kind only"),
    }
}
