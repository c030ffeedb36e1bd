//! All counters of a process: hands out shards, adds them up when somebody reads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::dry_run::Tried;
use crate::edge::{EdgeKey, EdgeTable};
use crate::handshake::Unproven;
use crate::histogram::Histogram;
use crate::inbound::{Caller, Counts};
use crate::names::{self, Metric};
use crate::outcome::Outcome;
use crate::shard::Shard;

/// All counters of a process.
#[derive(Debug)]
pub struct Registry {
    started: SystemTime,
    edges: Arc<EdgeTable>,
    shards: Mutex<Vec<Arc<Shard>>>,
    pub(crate) own: Arc<Own>,
}

/// What is counted off the request path: by telemetry about itself, and connections that never became any.
#[derive(Debug, Default)]
pub(crate) struct Own {
    pub(crate) log_lines_dropped: AtomicU64,
    pub(crate) log_write_errors: AtomicU64,
    pub(crate) exports: AtomicU64,
    pub(crate) exports_failed: AtomicU64,
    refusals: [AtomicU64; 6],
    unproven: [AtomicU64; Unproven::ALL.len()],
}

/// Why a connection was refused before anything was asked on it, or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The proxy is at a limit.
    Limit,
    /// It spoke plaintext where TLS is asked for.
    Plaintext,
    /// Its TLS handshake failed, or took too long.
    Handshake,
    /// It was meant for an address that nobody is taken to.
    Destination,
    /// It was open, and its peer is revoked or not trusted any more.
    Untrusted,
    /// It was open, and its peer flooded it with frames that ask for nothing.
    Flood,
}

/// What a process tells by labels of its own, summed over the workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labelled {
    /// What the workload's ports took, by port and caller.
    pub(crate) ports: BTreeMap<(u16, Caller), Counts>,
    /// What policies that are only tried would say.
    pub(crate) trials: BTreeMap<Tried, u64>,
    /// Handshakes that failed.
    pub(crate) unproven: Vec<(Unproven, u64)>,
}

/// What a process tells of itself.
pub(crate) type ProcessTotals = [(Metric, u64); names::PROCESS_METRICS.len()];

/// One edge's counters, summed over the workers. All are totals since the process began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeSnapshot {
    /// The edge.
    pub key: Arc<EdgeKey>,
    /// How its requests ended, or, on a TCP edge, its connections.
    pub outcomes: Vec<(Outcome, u64)>,
    /// How long they took.
    pub duration: Histogram,
    /// Bodies of requests.
    pub request_bytes: Histogram,
    /// Bodies of responses.
    pub response_bytes: Histogram,
    /// Connections between the two proxies that were opened.
    pub connections_opened: u64,
    /// Those of them that were closed.
    pub connections_closed: u64,
    /// Relayed TCP connections that began.
    pub tcp_opened: u64,
    /// Relayed bytes from the caller.
    pub tcp_received: u64,
    /// Relayed bytes to the caller.
    pub tcp_sent: u64,
}

impl Registry {
    /// Makes a registry without shards. `started` is when the process began: where the totals start from.
    pub fn new(started: SystemTime) -> Arc<Self> {
        Arc::new(Self { started, edges: Arc::default(), shards: Mutex::default(), own: Arc::default() })
    }

    /// Makes a shard for one worker. Its counts outlive the worker; make one per worker, not per task.
    pub fn shard(&self) -> Arc<Shard> {
        let shard = Arc::new(Shard::new(self.edges.clone()));
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).push(shard.clone());
        shard
    }

    /// Counts a connection that was refused. Shared by all workers: such connections are the exception.
    pub fn count_refusal(&self, why: Refusal) {
        self.own.refused(why).fetch_add(1, Relaxed);
    }

    /// Counts a handshake that failed by why it did.
    pub fn count_unproven(&self, why: Unproven) {
        self.own.unproven[why as usize].fetch_add(1, Relaxed);
    }

    /// When the totals start.
    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// Every edge with its counters, summed over the shards, in the order in which edges were first seen.
    pub fn fold(&self) -> Vec<EdgeSnapshot> {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sum = |(index, key)| {
            let mut sum = EdgeSnapshot::new(key);
            for shard in &shards {
                shard.add_to(index, &mut sum);
            }
            sum
        };
        self.edges.keys().into_iter().enumerate().map(sum).collect()
    }

    /// All metrics in Prometheus' text format, version 0.0.4.
    pub fn prometheus_text(&self) -> String {
        crate::prometheus::text(&self.fold(), &self.process(), &self.labelled())
    }

    /// What came to the workload's ports, by port and caller.
    pub fn inbound(&self) -> Vec<((u16, Caller), Counts)> {
        self.labelled().ports.into_iter().collect()
    }

    /// What is told by labels of its own.
    pub(crate) fn labelled(&self) -> Labelled {
        let mut labelled = Labelled::default();
        for shard in self.shards.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            shard.ports.add_to(&mut labelled.ports);
            shard.trials.add_to(&mut labelled.trials);
        }
        let count = |why: &Unproven| (*why, self.own.unproven[*why as usize].load(Relaxed));
        labelled.unproven = Unproven::ALL.iter().map(count).collect();
        labelled
    }

    /// What telemetry counts about itself, in the order of [`names::PROCESS_METRICS`].
    pub(crate) fn process(&self) -> ProcessTotals {
        let own = &self.own;
        [
            (names::EDGES_OVERFLOWED, self.edges.overflowed()),
            (names::LOG_DROPPED, own.log_lines_dropped.load(Relaxed)),
            (names::LOG_WRITE_ERRORS, own.log_write_errors.load(Relaxed)),
            (names::EXPORTS, own.exports.load(Relaxed)),
            (names::EXPORTS_FAILED, own.exports_failed.load(Relaxed)),
            (names::CONNECTIONS_SHED, own.refused(Refusal::Limit).load(Relaxed)),
            (names::PLAINTEXT_REFUSED, own.refused(Refusal::Plaintext).load(Relaxed)),
            (names::HANDSHAKES_FAILED, own.refused(Refusal::Handshake).load(Relaxed)),
            (names::DESTINATIONS_REFUSED, own.refused(Refusal::Destination).load(Relaxed)),
            (names::CONNECTIONS_ENDED, own.refused(Refusal::Untrusted).load(Relaxed)),
            (names::CONNECTIONS_FLOODED, own.refused(Refusal::Flood).load(Relaxed)),
        ]
    }
}

impl Own {
    fn refused(&self, why: Refusal) -> &AtomicU64 {
        &self.refusals[why as usize]
    }
}

impl EdgeSnapshot {
    pub(crate) fn new(key: Arc<EdgeKey>) -> Self {
        Self {
            key,
            outcomes: Vec::new(),
            duration: Histogram::durations(),
            request_bytes: Histogram::sizes(),
            response_bytes: Histogram::sizes(),
            connections_opened: 0,
            connections_closed: 0,
            tcp_opened: 0,
            tcp_received: 0,
            tcp_sent: 0,
        }
    }

    /// Finished requests, or, on a TCP edge, ended connections.
    pub fn requests(&self) -> u64 {
        self.outcomes.iter().map(|(_, count)| count).sum()
    }

    /// Connections between the two proxies that are open.
    pub fn connections_open(&self) -> u64 {
        self.connections_opened.saturating_sub(self.connections_closed)
    }

    pub(crate) fn add_outcome(&mut self, outcome: Outcome, count: u64) {
        match self.outcomes.iter_mut().find(|(o, _)| *o == outcome) {
            Some((_, total)) => *total += count,
            None => self.outcomes.push((outcome, count)),
        }
    }
}

#[cfg(test)]
mod tests;
