//! What an exchange or connection leaves behind, written exactly once, also when it is dropped in the middle.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshwork_model::flag::Flags;
use meshwork_model::head::RequestHead;
use meshwork_model::proxy::{Direction, ServiceName, Workload};
use meshwork_model::reason::Reason;
use meshwork_model::spiffe::SpiffeId;
use meshwork_telemetry::{EdgeId, EdgeKey, Entry, Protocol, Reporter, Request, Shard};
use tokio::time::Instant;

use crate::config::{Chain, ChainLog};
use crate::connection::Peer;
use crate::upstream::{Endpoint, Picked, Reach, WorkerCluster};
use crate::worker::Worker;

/// What is known of an exchange so far. Its owner writes it when it is dropped.
pub(crate) struct Record {
    /// When the request's head was complete.
    pub(crate) started: Instant,
    /// Status that was sent; 0 where none was.
    pub(crate) status: u16,
    /// gRPC status that was sent.
    pub(crate) grpc_status: Option<u8>,
    /// Why the mesh decided it.
    pub(crate) reason: Option<Reason>,
    /// What else its log says of it, besides the reason.
    pub(crate) flags: Flags,
    /// Tries of the request; 0 where it was not forwarded.
    pub(crate) attempts: u32,
    /// Whether the client is told how many.
    pub(crate) tells_attempts: bool,
    /// Bytes of the request's body.
    pub(crate) bytes_in: u64,
    /// Bytes of the response's body.
    pub(crate) bytes_out: u64,
    route: Option<Arc<str>>,
    cluster: Option<Rc<WorkerCluster>>,
    endpoint: Option<Rc<Endpoint>>,
    clock: Option<SystemTime>,
    ended: Option<Instant>,
}

/// Counts a connection between two proxies as open.
pub(crate) struct OpenConnection {
    counted: Option<(Arc<Shard>, EdgeId)>,
}

impl Record {
    /// Begins now; what no log asks for is not looked up.
    pub(crate) fn begin(worker: &Worker, chain: &Chain) -> Self {
        Self {
            started: Instant::now(),
            status: 0,
            grpc_status: None,
            reason: None,
            flags: Flags::default(),
            attempts: 0,
            tells_attempts: false,
            bytes_in: 0,
            bytes_out: 0,
            route: None,
            cluster: None,
            endpoint: None,
            ended: None,
            clock: (worker.lane.enabled() || !chain.logs().is_empty()).then(SystemTime::now),
        }
    }

    /// The route that takes the request, for the log.
    pub(crate) fn note_route(&mut self, name: &Arc<str>) {
        if self.clock.is_some() {
            self.route = Some(Arc::clone(name));
        }
    }

    /// The cluster that the request goes to.
    pub(crate) fn note_cluster(&mut self, cluster: &Rc<WorkerCluster>) {
        self.cluster = Some(Rc::clone(cluster));
        self.endpoint = None;
    }

    /// The endpoint that it goes to.
    pub(crate) fn note_endpoint(&mut self, picked: &Picked) {
        self.endpoint = Some(Rc::clone(picked.endpoint()));
    }

    /// When it ended: now, the first time that this is asked. What happens at an exchange's end needs one look at the
    /// clock.
    pub(crate) fn end(&mut self) -> Instant {
        *self.ended.get_or_insert_with(Instant::now)
    }

    fn duration(&self) -> Duration {
        self.ended.unwrap_or_else(Instant::now).duration_since(self.started)
    }

    /// Writes the record of a request. Called once.
    pub(crate) fn write_request(
        &self,
        worker: &Worker,
        peer: &Peer,
        chain: &Chain,
        head: &RequestHead,
        protocol: &str,
    ) {
        let logs = chain.logs();
        let is_grpc = head.is_grpc();
        let duration = self.duration();
        let kind = if is_grpc { Protocol::Grpc } else { Protocol::Http };
        let edge = self.edge(worker, peer, chain.service.as_ref(), kind);
        worker.shard.record_request(
            edge,
            &Request {
                status: self.status,
                grpc_status: self.grpc_status.filter(|_| is_grpc),
                duration,
                bytes_in: self.bytes_in,
                bytes_out: self.bytes_out,
                reason: self.reason,
            },
        );
        if let Some(start) = self.clock {
            let entry = Entry {
                start,
                duration,
                protocol,
                method: head.method(),
                authority: head.authority(),
                path: head.path_and_query(),
                request_id: head.fields.find(b"x-request-id").unwrap_or_default(),
                ..Entry::default()
            };
            self.write_line(worker, peer, logs, &entry);
        }
    }

    /// Writes the record of a connection of bytes. Called once.
    pub(crate) fn write_connection(&self, worker: &Worker, peer: &Peer, edge: EdgeId) {
        let duration = self.duration();
        worker.shard.tcp_closed(edge, duration, self.reason);
        let logs = &[];
        if let Some(start) = self.clock {
            let entry = Entry { start, duration, protocol: "TCP", ..Entry::default() };
            self.write_line(worker, peer, logs, &entry);
        }
    }

    fn write_line(&self, worker: &Worker, peer: &Peer, logs: &[ChainLog], entry: &Entry<'_>) {
        let config = self.cluster.as_ref().map(|cluster| cluster.config());
        let version = worker.config_version();
        let line = Entry {
            direction: if peer.direction == Direction::Inbound { "inbound" } else { "outbound" },
            status: self.status,
            grpc_status: self.grpc_status,
            reason: self.reason,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            downstream: Some(peer.address),
            meant_for: peer.meant_for,
            downstream_peer: peer.id.as_ref().map_or("", SpiffeId::as_str),
            route: self.route.as_deref().unwrap_or_default(),
            cluster: config.as_ref().map_or("", |config| &config.cluster.name),
            upstream: self.upstream_address(),
            upstream_peer: self.endpoint.as_ref().map_or("", |endpoint| principal(endpoint)),
            config_version: &version,
            ..*entry
        };
        worker.lane.write(&line);
        for log in logs {
            worker.chain_lane(log).write(&line);
        }
    }

    fn upstream_address(&self) -> Option<SocketAddr> {
        self.endpoint.as_ref().map(|endpoint| endpoint.config.address)
    }

    /// The edge that is reported: at a workload's inbound side that from the peer, else that to the endpoint.
    pub(crate) fn edge(
        &self,
        worker: &Worker,
        peer: &Peer,
        service: Option<&ServiceName>,
        protocol: Protocol,
    ) -> EdgeId {
        if peer.direction == Direction::Inbound {
            return peer
                .edges
                .edge(protocol, || worker.shard.edge(&inbound(worker, peer, service, protocol)));
        }
        let (edges, endpoint) = match (&self.endpoint, &self.cluster) {
            (Some(endpoint), _) => (&endpoint.edges, Some(&**endpoint)),
            (None, Some(cluster)) => (&cluster.edges, None),
            (None, None) => (&worker.unrouted, None),
        };
        edges.edge(protocol, || {
            worker.shard.edge(&outbound(worker, self.cluster.as_deref(), endpoint, protocol))
        })
    }
}

impl OpenConnection {
    /// Counts a connection that the peer opened to us, if both ends are proxies.
    pub(crate) fn accepted(
        worker: &Worker,
        peer: &Peer,
        service: Option<&ServiceName>,
        protocol: Protocol,
    ) -> Self {
        // What an application opens to its own proxy is not between proxies.
        if peer.direction != Direction::Inbound {
            return Self { counted: None };
        }
        let edge = peer.edges.edge(protocol, || worker.shard.edge(&inbound(worker, peer, service, protocol)));
        Self::count(worker, edge)
    }

    /// Counts a connection that we opened to an endpoint for `peer`, if both ends are proxies.
    pub(crate) fn opened(worker: &Worker, peer: &Peer, picked: &Picked, protocol: Protocol) -> Self {
        if peer.direction == Direction::Inbound {
            return Self { counted: None };
        }
        let endpoint = picked.endpoint();
        let edge = endpoint.edges.edge(protocol, || {
            worker.shard.edge(&outbound(worker, Some(picked.cluster()), Some(endpoint), protocol))
        });
        Self::count(worker, edge)
    }

    /// Of a connection that nobody counts, such as the proxy's own.
    pub(crate) fn uncounted() -> Self {
        Self { counted: None }
    }

    fn count(worker: &Worker, edge: EdgeId) -> Self {
        worker.shard.connection_opened(edge);
        Self { counted: Some((Arc::clone(&worker.shard), edge)) }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        if let Some((shard, edge)) = &self.counted {
            shard.connection_closed(*edge);
        }
    }
}

fn outbound(
    worker: &Worker,
    cluster: Option<&WorkerCluster>,
    endpoint: Option<&Endpoint>,
    protocol: Protocol,
) -> EdgeKey {
    EdgeKey {
        reporter: Reporter::Source,
        source: worker.node.workload.clone(),
        source_principal: own_principal(worker),
        service: cluster.and_then(|cluster| cluster.config().service()),
        destination: endpoint.and_then(|e| e.config.workload.clone()).unwrap_or_default(),
        destination_principal: endpoint.map_or_else(Arc::default, |e| principal(e).into()),
        protocol,
        mtls: endpoint.is_some_and(|e| matches!(e.reach, Reach::Tls(_))),
    }
}

fn inbound(worker: &Worker, peer: &Peer, service: Option<&ServiceName>, protocol: Protocol) -> EdgeKey {
    let own = &worker.node.workload;
    let own_service = || ServiceName { name: own.app.clone(), namespace: own.namespace.clone() };
    let namespace = peer.id.as_ref().and_then(|id| Some(id.namespace_and_account()?.0.into()));
    EdgeKey {
        reporter: Reporter::Destination,
        source: Workload { namespace: namespace.unwrap_or_default(), ..Workload::default() },
        source_principal: peer.id.as_ref().map_or_else(Arc::default, |id| id.as_str().into()),
        service: Some(service.cloned().unwrap_or_else(own_service)),
        destination: own.clone(),
        destination_principal: if peer.is_tls { own_principal(worker) } else { Arc::default() },
        protocol,
        mtls: peer.id.is_some(),
    }
}

fn own_principal(worker: &Worker) -> Arc<str> {
    worker.node.identity.as_ref().map_or_else(Arc::default, |id| id.as_str().into())
}

/// The identity that an endpoint proves: its mark, where it is reached by mTLS.
fn principal(endpoint: &Endpoint) -> &str {
    match endpoint.reach {
        Reach::Tls(_) => endpoint.config.transport.as_deref().unwrap_or_default(),
        Reach::Plaintext | Reach::Nowhere => "",
    }
}
