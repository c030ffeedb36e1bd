//! The counters of one worker.
//!
//! Its worker is the only thread that writes; a scrape reads from another. Everything is a relaxed load and store
//! of a counter, so recording costs some tens of nanoseconds. Two threads that write one shard lose counts, and
//! nothing worse.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use meshwork_model::reason::Reason;

use crate::dry_run::{Trial, Trials};
use crate::edge::{CAPACITY, EdgeId, EdgeKey, EdgeTable};
use crate::histogram::{Durations, Sizes, add};
use crate::inbound::{Caller, Ports, Taken};
use crate::outcome::Outcomes;
use crate::registry::EdgeSnapshot;

/// What a finished request leaves behind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    /// HTTP status; 0 where none was sent because the client left.
    pub status: u16,
    /// gRPC status, on gRPC edges.
    pub grpc_status: Option<u8>,
    /// From the request's head to the last byte of the response.
    pub duration: Duration,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// Why the mesh answered in the service's place, or cut the exchange.
    pub reason: Option<Reason>,
}

/// The counters of one worker, written by that worker alone.
#[derive(Debug)]
pub struct Shard {
    edges: Arc<EdgeTable>,
    cells: Box<[OnceLock<Box<EdgeCells>>]>,
    /// What the workload's ports took.
    pub(crate) ports: Ports,
    /// What policies that are only tried would say.
    pub(crate) trials: Trials,
}

/// The counters of one edge on one worker.
#[derive(Debug, Default)]
struct EdgeCells {
    outcomes: Outcomes,
    duration: Durations,
    request_bytes: Sizes,
    response_bytes: Sizes,
    connections_opened: AtomicU64,
    connections_closed: AtomicU64,
    tcp_opened: AtomicU64,
    tcp_received: AtomicU64,
    tcp_sent: AtomicU64,
}

impl Shard {
    pub(crate) fn new(edges: Arc<EdgeTable>) -> Self {
        let cells = (0..CAPACITY).map(|_| OnceLock::new()).collect();
        Self { edges, cells, ports: Ports::default(), trials: Trials::default() }
    }

    /// The counter of what comes from a caller to a port of the workload. Takes a short lock: ask once per connection.
    pub fn taken(&self, port: u16, caller: Caller) -> Arc<Taken> {
        self.ports.taken(port, caller)
    }

    /// Counts what a policy that is only tried would say. Takes a short lock; only where something is tried.
    pub fn tried(&self, policy: &str, trial: Trial) {
        self.trials.count(policy, trial);
    }

    /// The number of an edge, and room for its counters. Takes a short lock, and allocates the first time: call
    /// it once per endpoint or peer and keep the number, which is good on every shard of the registry.
    pub fn edge(&self, key: &EdgeKey) -> EdgeId {
        let id = self.edges.intern(key);
        self.cells(id);
        id
    }

    /// Counts a finished request, once, on HTTP and gRPC edges.
    pub fn record_request(&self, edge: EdgeId, request: &Request) {
        let cells = self.cells(edge);
        cells.outcomes.record(request.status, request.grpc_status, request.reason);
        cells.duration.record(request.duration);
        cells.request_bytes.record(request.bytes_in);
        cells.response_bytes.record(request.bytes_out);
    }

    /// Counts a connection between two proxies that is ready for use (its handshake is done), whatever the
    /// protocol: at the source one that it opened, at the destination one that it accepted. Connections between
    /// an application and its own proxy are not counted.
    pub fn connection_opened(&self, edge: EdgeId) {
        add(&self.cells(edge).connections_opened, 1);
    }

    /// Counts the end of a connection that [`Shard::connection_opened`] counted.
    pub fn connection_closed(&self, edge: EdgeId) {
        add(&self.cells(edge).connections_closed, 1);
    }

    /// Counts a relayed TCP connection as it begins.
    pub fn tcp_opened(&self, edge: EdgeId) {
        add(&self.cells(edge).tcp_opened, 1);
    }

    /// Counts relayed bytes, at any time: `received` from the caller, `sent` to it.
    pub fn tcp_bytes(&self, edge: EdgeId, received: u64, sent: u64) {
        let cells = self.cells(edge);
        add(&cells.tcp_received, received);
        add(&cells.tcp_sent, sent);
    }

    /// Counts the end of a relayed TCP connection, and why, where the mesh ended it or could not open it.
    pub fn tcp_closed(&self, edge: EdgeId, duration: Duration, reason: Option<Reason>) {
        let cells = self.cells(edge);
        cells.outcomes.record(0, None, reason);
        cells.duration.record(duration);
    }

    /// Adds this shard's counters of an edge to a sum.
    pub(crate) fn add_to(&self, index: usize, sum: &mut EdgeSnapshot) {
        let Some(cells) = self.cells.get(index).and_then(OnceLock::get) else { return };
        for (outcome, count) in cells.outcomes.iter() {
            sum.add_outcome(outcome, count);
        }
        cells.duration.add_to(&mut sum.duration);
        cells.request_bytes.add_to(&mut sum.request_bytes);
        cells.response_bytes.add_to(&mut sum.response_bytes);
        // Closed before opened: a connection that ends in between is not counted as closed but never opened.
        sum.connections_closed += cells.connections_closed.load(Relaxed);
        sum.connections_opened += cells.connections_opened.load(Relaxed);
        sum.tcp_opened += cells.tcp_opened.load(Relaxed);
        sum.tcp_received += cells.tcp_received.load(Relaxed);
        sum.tcp_sent += cells.tcp_sent.load(Relaxed);
    }

    fn cells(&self, edge: EdgeId) -> &EdgeCells {
        self.cells[edge.index()].get_or_init(Box::default)
    }
}
