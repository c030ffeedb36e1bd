//! What workloads' ports took, by mTLS and without, and from whom: kept for longer than the window of edges, so that one
//! sees who would be cut off if a port demanded mTLS.
//!
//! Pure: no clock, no I/O. [`Callers::take`] is the one writer. Told by a workload's own proxy, of that workload alone.
//!
//! A caller is as old as what is heard of it: of a proxy that counted before it was first heard here, nobody knows when
//! that was, so that its callers count as seen when it was.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::decode::{PortPoint, PortValue};
use crate::flow::Counter;

/// Callers that are told apart, over all ports of all workloads; some 300 bytes each. Where there are more, those of the
/// namespace that has most are forgotten, whoever was not heard of for the longest first.
pub const MAX_CALLERS: usize = 10_000;
/// How many are forgotten at once: each time all are looked at.
const FORGOTTEN_AT_ONCE: usize = 250;
/// Ports whose traffic is counted; a busy one takes some 6 KiB.
pub const MAX_PORTS: usize = 4096;
/// When a caller or port that is not heard of is forgotten.
pub const FORGET_CALLERS_AFTER: Duration = Duration::from_hours(7 * 24);
/// How far back traffic is counted, and in which steps.
const LOOK_BACK: Duration = Duration::from_hours(24);
const STEP: Duration = Duration::from_mins(10);

/// A port of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortKey {
    /// The workload's namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub workload: Arc<str>,
    /// The port; 0 for those that its proxy did not tell apart.
    pub port: u16,
}

/// Who calls without mTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CallerSource {
    /// From this address.
    Address(IpAddr),
    /// From one of those that the proxy did not tell apart.
    Others,
}

/// Figures that add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounts {
    /// Connections.
    pub connections: u64,
    /// Requests; of bytes there are none.
    pub requests: u64,
}

/// A caller without mTLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaintextCaller {
    /// From where.
    pub source: CallerSource,
    /// All that was counted of it since it was first seen.
    pub counts: PortCounts,
    /// Connections that are open.
    pub open: u64,
    /// When it was first seen.
    pub first_seen: Instant,
    /// When it was last seen: it opened a connection, asked for something, or had a connection open.
    pub last_seen: Instant,
}

/// What a port took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortTraffic {
    /// The port.
    pub key: PortKey,
    /// What came by mTLS within the time asked for.
    pub mtls: PortCounts,
    /// What came without.
    pub plaintext: PortCounts,
    /// When anything came by mTLS last, within the time asked for.
    pub mtls_seen: Option<Instant>,
    /// Who called without mTLS within that time, the last seen first.
    pub callers: Vec<PlaintextCaller>,
}

/// All that is known.
pub(crate) struct Callers {
    began: Instant,
    ports: HashMap<PortKey, Port>,
    known: HashMap<Called, Caller>,
}

/// A port, and who calls it.
type Called = (PortKey, CallerSource);

#[derive(Default)]
struct Port {
    last: Last,
    steps: VecDeque<Step>,
    mtls_seen: Option<Instant>,
    heard: Option<Instant>,
}

/// What came within one step of time.
struct Step {
    number: u64,
    mtls: PortCounts,
    plaintext: PortCounts,
}

struct Caller {
    last: Last,
    counts: PortCounts,
    open: u64,
    first_seen: Instant,
    last_seen: Instant,
    heard: Instant,
}

/// Where a process's counters stood.
#[derive(Default)]
struct Last {
    connections: Counter,
    requests: Counter,
}

impl Callers {
    pub(crate) fn new(began: Instant) -> Self {
        Self { began, ports: HashMap::new(), known: HashMap::new() }
    }

    /// When this began to listen.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Takes in what a workload's proxy says of its ports. `is_fresh` is whether what grew did so just now.
    pub(crate) fn take(
        &mut self,
        workload: (&Arc<str>, &Arc<str>),
        points: &[PortPoint],
        is_fresh: bool,
        now: Instant,
    ) {
        for point in points {
            let (namespace, name) = (Arc::clone(workload.0), Arc::clone(workload.1));
            let key = PortKey { namespace, workload: name, port: point.port };
            match point.source {
                None => self.take_mtls(key, point, is_fresh, now),
                Some(source) => self.take_plaintext((key, source), point, is_fresh, now),
            }
        }
    }

    fn take_mtls(&mut self, key: PortKey, point: &PortPoint, is_fresh: bool, now: Instant) {
        let step = self.step(now);
        let Some(port) = self.port(key, now) else { return };
        let grown = port.last.advance(point);
        if grown != PortCounts::default() {
            port.mtls_seen = Some(now);
            if is_fresh {
                port.at(step).mtls.add(grown);
            }
        }
    }

    fn take_plaintext(&mut self, key: Called, point: &PortPoint, is_fresh: bool, now: Instant) {
        let step = self.step(now);
        if !self.known.contains_key(&key) {
            self.make_room();
        }
        let new = || Caller {
            last: Last::default(),
            counts: PortCounts::default(),
            open: 0,
            first_seen: now,
            last_seen: now,
            heard: now,
        };
        let caller = self.known.entry(key.clone()).or_insert_with(new);
        caller.heard = now;
        if let PortValue::Open(open) = point.value {
            caller.open = open;
        }
        let grown = caller.last.advance(point);
        caller.counts.add(grown);
        if grown != PortCounts::default() || caller.open > 0 {
            caller.last_seen = now;
        }
        if let Some(port) = self.port(key.0, now).filter(|_| is_fresh) {
            port.at(step).plaintext.add(grown);
        }
    }

    fn port(&mut self, key: PortKey, now: Instant) -> Option<&mut Port> {
        if self.ports.len() >= MAX_PORTS && !self.ports.contains_key(&key) {
            return None;
        }
        let port = self.ports.entry(key).or_default();
        port.heard = Some(now);
        Some(port)
    }

    fn step(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() / STEP.as_secs()
    }

    /// Forgets some callers, where there are as many as may be. Nobody makes those of others be forgotten by telling of many:
    /// a port whose callers are not known is taken for one that has none.
    fn make_room(&mut self) {
        if self.known.len() < MAX_CALLERS {
            return;
        }
        let mut of_namespace: HashMap<&Arc<str>, Vec<(Instant, &Called)>> = HashMap::new();
        for (key, caller) in &self.known {
            of_namespace.entry(&key.0.namespace).or_default().push((caller.heard, key));
        }
        let mut most = of_namespace.into_values().max_by_key(Vec::len).unwrap_or_default();
        most.sort_unstable_by_key(|(heard, _)| *heard);
        let oldest: Vec<_> = most.into_iter().take(FORGOTTEN_AT_ONCE).map(|(_, key)| key.clone()).collect();
        for key in oldest {
            self.known.remove(&key);
        }
    }

    /// Forgets what was not heard of for long.
    pub(crate) fn forget(&mut self, now: Instant) {
        let kept = |heard: Instant| now.saturating_duration_since(heard) < FORGET_CALLERS_AFTER;
        self.known.retain(|_, caller| kept(caller.heard));
        self.ports.retain(|_, port| port.heard.is_some_and(kept));
        // A workload that is gone has no connections open.
        let silent = |heard: Instant| now.saturating_duration_since(heard) > crate::FORGET_AFTER;
        for caller in self.known.values_mut().filter(|caller| silent(caller.heard)) {
            caller.open = 0;
        }
    }

    /// What every port took within this time, by port.
    pub(crate) fn ports(&self, now: Instant, within: Duration) -> Vec<PortTraffic> {
        let recent = |seen: Instant| now.saturating_duration_since(seen) <= within;
        let since = self.step(now.checked_sub(within).unwrap_or(self.began).max(self.began));
        let mut callers: HashMap<&PortKey, Vec<PlaintextCaller>> = HashMap::new();
        for ((key, source), caller) in self.known.iter().filter(|(_, caller)| recent(caller.last_seen)) {
            callers.entry(key).or_default().push(caller.told(*source));
        }
        let mut all: Vec<PortTraffic> = self.ports.iter().map(|(key, port)| port.told(key, since)).collect();
        for port in &mut all {
            port.mtls_seen = port.mtls_seen.filter(|seen| recent(*seen));
            port.callers = callers.remove(&port.key).unwrap_or_default();
            port.callers.sort_by_key(|caller| (std::cmp::Reverse(caller.last_seen), caller.source));
        }
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all
    }
}

// === impl Port and Caller ===

impl Port {
    fn at(&mut self, number: u64) -> &mut Step {
        let most = usize::try_from(LOOK_BACK.as_secs() / STEP.as_secs()).unwrap_or(1);
        if self.steps.back().is_none_or(|last| last.number < number) {
            self.steps.push_back(Step {
                number,
                mtls: PortCounts::default(),
                plaintext: PortCounts::default(),
            });
        }
        while self.steps.len() > most {
            self.steps.pop_front();
        }
        let at = self.steps.len() - 1;
        &mut self.steps[at]
    }

    fn told(&self, key: &PortKey, since: u64) -> PortTraffic {
        let (mut mtls, mut plaintext) = (PortCounts::default(), PortCounts::default());
        for step in self.steps.iter().filter(|step| step.number >= since) {
            mtls.add(step.mtls);
            plaintext.add(step.plaintext);
        }
        PortTraffic { key: key.clone(), mtls, plaintext, mtls_seen: self.mtls_seen, callers: Vec::new() }
    }
}

impl Caller {
    fn told(&self, source: CallerSource) -> PlaintextCaller {
        let Self { counts, open, first_seen, last_seen, .. } = *self;
        PlaintextCaller { source, counts, open, first_seen, last_seen }
    }
}

impl Last {
    fn advance(&mut self, point: &PortPoint) -> PortCounts {
        let step = |counter: &mut Counter, total| {
            if point.cumulative { counter.step(point.start, total) } else { total }
        };
        match point.value {
            PortValue::Connections(total) => {
                PortCounts { connections: step(&mut self.connections, total), requests: 0 }
            }
            PortValue::Requests(total) => {
                PortCounts { connections: 0, requests: step(&mut self.requests, total) }
            }
            PortValue::Open(_) => PortCounts::default(),
        }
    }
}

impl PortCounts {
    fn add(&mut self, other: Self) {
        self.connections = self.connections.saturating_add(other.connections);
        self.requests = self.requests.saturating_add(other.requests);
    }
}

#[cfg(test)]
mod tests;
