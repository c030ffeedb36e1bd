//! Edges: who called whom, as one of the two proxies saw it; and the table that numbers them.
//!
//! The table is shared by the workers of a process. It is written when an edge is seen for the first time, under
//! a short lock, and never on a request's path: the caller keeps the [`EdgeId`]. It never shrinks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use meshwork_model::proxy::{ServiceName, Workload};

/// How many edges a process tells apart. Each costs about 2 KiB per worker that saw it, so that a full table with
/// two workers stays under 10 MiB. Further edges are counted together, as [`EdgeKey::overflow`].
pub const MAX_EDGES: usize = 2048;
/// Overflow edges: one for each reporter, protocol and security.
const OVERFLOW_EDGES: usize = 2 * 3 * 2;
/// The length of everything that is indexed by an [`EdgeId`].
pub(crate) const CAPACITY: usize = MAX_EDGES + OVERFLOW_EDGES;

/// One direction of traffic between two workloads, as one of the two proxies sees it.
///
/// What is not known stays empty; it is exported as `unknown`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct EdgeKey {
    /// Which of the two proxies tells.
    pub reporter: Reporter,
    /// The workload that called. At the destination, what the peer's identity says: its namespace at least.
    pub source: Workload,
    /// The SPIFFE ID that the caller proved.
    pub source_principal: Arc<str>,
    /// The service that was called.
    pub service: Option<ServiceName>,
    /// The workload that was called.
    pub destination: Workload,
    /// The SPIFFE ID that the called workload proved.
    pub destination_principal: Arc<str>,
    /// What is spoken.
    pub protocol: Protocol,
    /// Whether the two proxies speak mTLS on it.
    pub mtls: bool,
}

/// Which side of an edge reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Reporter {
    /// The caller's proxy.
    #[default]
    Source,
    /// The called workload's proxy.
    Destination,
}

/// What is spoken on an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/2.
    #[default]
    Http,
    /// gRPC.
    Grpc,
    /// Bytes.
    Tcp,
}

/// The number of an edge in its [`crate::Registry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EdgeId(u32);

/// The edges of a process, numbered in the order in which they were seen.
#[derive(Debug, Default)]
pub(crate) struct EdgeTable {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    ids: HashMap<Arc<EdgeKey>, EdgeId>,
    keys: Vec<Arc<EdgeKey>>,
    overflowed: u64,
}

// === impl EdgeKey ===

impl EdgeKey {
    /// The edge that stands for all those past [`MAX_EDGES`] with the reporter, protocol and security of this
    /// one: its names are `other`.
    #[must_use]
    pub fn overflow(&self) -> Self {
        let other: Arc<str> = Arc::from("other");
        let workload = || Workload {
            name: other.clone(),
            namespace: other.clone(),
            app: other.clone(),
            version: "".into(),
        };
        Self {
            reporter: self.reporter,
            source: workload(),
            source_principal: other.clone(),
            service: Some(ServiceName { name: other.clone(), namespace: other.clone() }),
            destination: workload(),
            destination_principal: other.clone(),
            protocol: self.protocol,
            mtls: self.mtls,
        }
    }
}

impl Reporter {
    /// The value of the label `reporter`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

impl Protocol {
    /// The value of the label `request_protocol`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

impl EdgeId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

// === impl EdgeTable ===

impl EdgeTable {
    /// The number of an edge; that of its overflow edge once the table is full.
    pub(crate) fn intern(&self, key: &EdgeKey) -> EdgeId {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&id) = inner.ids.get(key) {
            return id;
        }
        if inner.keys.len() < MAX_EDGES {
            return inner.add(key.clone());
        }
        inner.overflowed += 1;
        let overflow = key.overflow();
        match inner.ids.get(&overflow) {
            Some(&id) => id,
            None => inner.add(overflow),
        }
    }

    /// Every edge, by number.
    pub(crate) fn keys(&self) -> Vec<Arc<EdgeKey>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).keys.clone()
    }

    /// How often a number was asked for an edge that had no room.
    pub(crate) fn overflowed(&self) -> u64 {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).overflowed
    }
}

impl Inner {
    fn add(&mut self, key: EdgeKey) -> EdgeId {
        let id = EdgeId(u32::try_from(self.keys.len()).unwrap_or(u32::MAX));
        let key = Arc::new(key);
        self.keys.push(key.clone());
        self.ids.insert(key, id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(name: &str, protocol: Protocol) -> EdgeKey {
        let source = Workload { name: name.into(), ..Workload::default() };
        EdgeKey { source, protocol, ..EdgeKey::default() }
    }

    #[test]
    fn an_edge_keeps_its_number() {
        let table = EdgeTable::default();
        let web = table.intern(&from("web", Protocol::Http));
        let cart = table.intern(&from("cart", Protocol::Http));
        assert_ne!(web, cart);
        assert_eq!(table.intern(&from("web", Protocol::Http)), web);
        assert_eq!(table.keys()[cart.index()].source.name.as_ref(), "cart");
    }

    #[test]
    fn edges_past_the_limit_share_one_per_protocol() {
        let table = EdgeTable::default();
        for i in 0..MAX_EDGES {
            table.intern(&from(&format!("w{i}"), Protocol::Http));
        }
        let http = table.intern(&from("late", Protocol::Http));
        assert_eq!(table.intern(&from("later", Protocol::Http)), http);
        let tcp = table.intern(&from("late", Protocol::Tcp));
        assert_ne!(http, tcp);
        assert_eq!(table.keys()[http.index()].source.name.as_ref(), "other");
        assert_eq!(table.overflowed(), 3);
        assert_eq!(table.intern(&from("w7", Protocol::Http)).index(), 7);
        assert!(table.keys().len() <= CAPACITY);
    }

    #[test]
    fn every_overflow_edge_has_room() {
        let table = EdgeTable::default();
        for i in 0..MAX_EDGES {
            table.intern(&from(&format!("w{i}"), Protocol::Http));
        }
        for reporter in [Reporter::Source, Reporter::Destination] {
            for protocol in [Protocol::Http, Protocol::Grpc, Protocol::Tcp] {
                for mtls in [false, true] {
                    table.intern(&EdgeKey { reporter, mtls, ..from("late", protocol) });
                }
            }
        }
        assert_eq!(table.keys().len(), CAPACITY);
    }
}
