//! What a workload's ports take: by mTLS, or without it, and then from where.
//!
//! So one sees, before a port demands mTLS, who would be cut off. A connection asks for its counter once, under a short
//! lock that only a scrape shares; its requests then cost one step of a counter.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::histogram::add;

/// Callers without mTLS that a worker tells apart, over all ports; further ones are counted as [`Caller::Others`].
pub const MAX_SOURCES: usize = 256;
/// Ports that a worker tells apart; further ones are counted as port 0.
pub const MAX_PORTS: usize = 64;

/// Who opened a connection to a workload's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Caller {
    /// Somebody who proved an identity by mTLS.
    Mtls,
    /// Somebody without: in plaintext, or with TLS that is the application's own.
    Plaintext(IpAddr),
    /// One of those past [`MAX_SOURCES`].
    Others,
}

/// What came from a caller to a port, on one worker. Its worker alone writes.
#[derive(Debug, Default)]
pub struct Taken {
    connections: AtomicU64,
    ended: AtomicU64,
    requests: AtomicU64,
}

/// A connection counts as open until this is dropped.
#[derive(Debug)]
pub struct OpenFrom(Arc<Taken>);

/// What came from a caller to a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections.
    pub connections: u64,
    /// Those of them that are open.
    pub open: u64,
    /// Requests on them; of bytes there are none.
    pub requests: u64,
}

/// What the ports of a workload took, on one worker.
#[derive(Debug, Default)]
pub(crate) struct Ports(Mutex<HashMap<(u16, Caller), Arc<Taken>>>);

// === impl Caller ===

impl Caller {
    /// The value of the label `source_ip`: the address, or `other`; nothing where mTLS told more.
    pub(crate) fn label(self) -> Option<String> {
        match self {
            Self::Mtls => None,
            Self::Plaintext(address) => Some(address.to_string()),
            Self::Others => Some(crate::names::OTHER.to_owned()),
        }
    }
}

// === impl Taken ===

impl Taken {
    /// Counts a connection as it begins.
    pub fn open(self: Arc<Self>) -> OpenFrom {
        add(&self.connections, 1);
        OpenFrom(self)
    }

    fn counts(&self) -> Counts {
        // Ended before begun: a connection that ends in between is not counted as ended but never begun.
        let ended = self.ended.load(Relaxed);
        let connections = self.connections.load(Relaxed);
        let requests = self.requests.load(Relaxed);
        Counts { connections, open: connections.saturating_sub(ended), requests }
    }
}

impl OpenFrom {
    /// Counts a request that ended.
    pub fn request(&self) {
        add(&self.0.requests, 1);
    }
}

impl Drop for OpenFrom {
    fn drop(&mut self) {
        add(&self.0.ended, 1);
    }
}

// === impl Ports ===

impl Ports {
    /// The counter of a caller at a port.
    pub(crate) fn taken(&self, port: u16, caller: Caller) -> Arc<Taken> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&(port, caller)) {
            return Arc::clone(known);
        }
        let mut key = (port, caller);
        if matches!(caller, Caller::Plaintext(_)) {
            let sources = all.keys().filter(|(_, caller)| matches!(caller, Caller::Plaintext(_))).count();
            if sources >= MAX_SOURCES {
                key.1 = Caller::Others;
            }
        }
        if !matches!(key.1, Caller::Plaintext(_)) && !all.contains_key(&key) {
            let alike = all.keys().filter(|(_, caller)| *caller == key.1).count();
            if alike >= MAX_PORTS {
                key.0 = 0;
            }
        }
        Arc::clone(all.entry(key).or_default())
    }

    /// Adds what was counted to a sum.
    pub(crate) fn add_to(&self, sum: &mut BTreeMap<(u16, Caller), Counts>) {
        for (key, taken) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let (total, counts) = (sum.entry(*key).or_default(), taken.counts());
            total.connections += counts.connections;
            total.open += counts.open;
            total.requests += counts.requests;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: usize) -> Caller {
        let number = u32::try_from(number).expect("few");
        Caller::Plaintext(std::net::Ipv4Addr::from(0x0a00_0000 + number).into())
    }

    fn counted(ports: &Ports) -> BTreeMap<(u16, Caller), Counts> {
        let mut sum = BTreeMap::new();
        ports.add_to(&mut sum);
        sum
    }

    #[test]
    fn callers_are_told_apart_by_port_and_address() {
        let ports = Ports::default();
        for (port, caller) in [(80, source(1)), (80, source(1)), (81, source(1)), (80, Caller::Mtls)] {
            let open = ports.taken(port, caller).open();
            open.request();
            open.request();
        }
        let open = ports.taken(80, Caller::Mtls).open();
        assert_eq!(counted(&ports)[&(80, Caller::Mtls)], Counts { connections: 2, open: 1, requests: 2 });
        drop(open);
        let counts = |connections, requests| Counts { connections, open: 0, requests };
        let expected = [
            ((80, Caller::Mtls), counts(2, 2)),
            ((80, source(1)), counts(2, 4)),
            ((81, source(1)), counts(1, 2)),
        ];
        assert_eq!(counted(&ports), expected.into());
    }

    #[test]
    fn past_the_limits_callers_and_ports_are_counted_together() {
        let ports = Ports::default();
        for number in 0..MAX_SOURCES + 10 {
            drop(ports.taken(80, source(number)).open());
        }
        let sum = counted(&ports);
        assert_eq!(sum.len(), MAX_SOURCES + 1);
        assert_eq!(sum[&(80, Caller::Others)].connections, 10);
        // Who is known stays known.
        drop(ports.taken(80, source(3)).open());
        assert_eq!(counted(&ports)[&(80, source(3))].connections, 2);
        for port in 0..1000 {
            drop(ports.taken(1000 + port, Caller::Mtls).open());
            drop(ports.taken(1000 + port, source(100_000)).open());
        }
        let sum = counted(&ports);
        assert!(sum.len() <= MAX_SOURCES + 2 * (MAX_PORTS + 1), "{}", sum.len());
        assert!(sum[&(0, Caller::Mtls)].connections > 900);
    }
}
