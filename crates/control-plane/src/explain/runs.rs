//! What a node runs, by name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use meshwork_model::chain::{Arrival, ChainIndex};
use meshwork_model::mesh::Workload;
use meshwork_model::proxy::{
    Cluster, Discovery, Endpoints, FilterChain, HttpConnection, Listener, ListenerFilterKind, Resource,
    RouteSource, RouteTable, Transport,
};
use meshwork_xds::Dialect;

use crate::translate::{Mesh, snapshot};

/// The resources of one node.
#[derive(Default)]
pub(super) struct Runs {
    listeners: BTreeMap<Arc<str>, Listener>,
    tables: BTreeMap<Arc<str>, RouteTable>,
    clusters: BTreeMap<Arc<str>, Cluster>,
    endpoints: BTreeMap<Arc<str>, Endpoints>,
}

impl Runs {
    /// What translate makes for a node; `wanted` are the targets of a gRPC client.
    pub(super) fn of(mesh: &Mesh, node: &Workload, dialect: Dialect, wanted: &BTreeSet<String>) -> Self {
        let mut runs = Self::default();
        for resource in snapshot(mesh, node, dialect, wanted) {
            match resource {
                Resource::Listener(listener) => {
                    runs.listeners.insert(Arc::clone(&listener.name), listener);
                }
                Resource::Routes(table) => drop(runs.tables.insert(Arc::clone(&table.name), table)),
                Resource::Cluster(cluster) => {
                    runs.clusters.insert(Arc::clone(&cluster.name), cluster);
                }
                Resource::Endpoints(endpoints) => {
                    runs.endpoints.insert(Arc::clone(&endpoints.cluster), endpoints);
                }
                Resource::Names(_) | Resource::Secret(_) => {}
            }
        }
        runs
    }

    /// The first listener of one of these names.
    pub(super) fn listener(&self, names: &[String]) -> Option<&Listener> {
        names.iter().find_map(|name| self.listeners.get(name.as_str()))
    }

    /// Whether the node has a name for a host outside.
    pub(super) fn knows(&self, host: &str) -> bool {
        let end = format!("|{host}");
        self.listeners.keys().any(|name| name.starts_with("captured|") && name.ends_with(&end))
    }

    pub(super) fn cluster(&self, name: &str) -> Option<&Cluster> {
        self.clusters.get(name)
    }

    pub(super) fn table<'r>(&'r self, http: &'r HttpConnection) -> Option<&'r RouteTable> {
        match &http.routes {
            RouteSource::Inline(table) => Some(table),
            RouteSource::Named(name) => self.tables.get(name),
        }
    }

    /// The endpoints of a cluster, where config has them.
    pub(super) fn endpoints<'r>(&'r self, cluster: &'r Cluster) -> Option<&'r Endpoints> {
        match &cluster.discovery {
            Discovery::Static(endpoints) => Some(endpoints),
            Discovery::Eds(name) => self.endpoints.get(name),
            Discovery::Dns(_) | Discovery::OriginalDestination => None,
        }
    }
}

/// A connection as it arrives.
#[derive(Clone, Copy)]
pub(super) struct Arriving<'a> {
    pub(super) from: SocketAddr,
    pub(super) is_tls: bool,
    pub(super) server_name: &'a str,
    pub(super) alpn: &'a [&'a [u8]],
}

impl<'a> Arriving<'a> {
    /// The server name, where a proxy gets to know it: it ends TLS, or looks for it.
    pub(super) fn told(&self, listener: &Listener, chain: &FilterChain) -> Option<&'a str> {
        let is_told = chain.tls.is_some() || looks(listener);
        Some(self.server_name).filter(|name| is_told && !name.is_empty())
    }
}

/// Whether a listener looks at what a connection begins with before its chain is chosen.
fn looks(listener: &Listener) -> bool {
    listener.filters.iter().any(|filter| matches!(filter.kind, ListenerFilterKind::Tls(_)))
}

/// The chain of a listener that takes a connection.
pub(super) fn chain<'l>(listener: &'l Listener, arriving: &Arriving<'_>) -> Option<&'l FilterChain> {
    let index = ChainIndex::compile(listener.chains.iter().map(|chain| &chain.matches)).ok()?;
    let local = listener.address.unwrap_or(arriving.from);
    let is_seen = looks(listener);
    let arrival = Arrival {
        local,
        direct: arriving.from,
        remote: arriving.from,
        transport: if is_seen && arriving.is_tls { Transport::Tls } else { Transport::Plaintext },
        server_name: if is_seen { arriving.server_name } else { "" },
        alpn: if is_seen { arriving.alpn } else { &[] },
    };
    let found = index.find(&arrival).and_then(|at| listener.chains.get(at));
    found.or(listener.default_chain.as_ref())
}
