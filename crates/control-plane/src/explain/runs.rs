//! What a node runs, by name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use meshwork_model::chain::{Arrival, ChainIndex};
use meshwork_model::mesh::Workload;
use meshwork_model::proxy::{
    Cluster, Discovery, Endpoints, FilterChain, HttpConnection, Listener, Resource, RouteSource, RouteTable,
    Transport,
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

/// The chain of a listener that takes a connection.
pub(super) fn chain<'l>(listener: &'l Listener, arriving: &Arriving<'_>) -> Option<&'l FilterChain> {
    let index = ChainIndex::compile(listener.chains.iter().map(|chain| &chain.matches)).ok()?;
    let local = listener.address.unwrap_or(arriving.from);
    let arrival = Arrival {
        local,
        direct: arriving.from,
        remote: arriving.from,
        transport: if arriving.is_tls { Transport::Tls } else { Transport::Plaintext },
        server_name: arriving.server_name,
        alpn: arriving.alpn,
    };
    let found = index.find(&arrival).and_then(|at| listener.chains.get(at));
    found.or(listener.default_chain.as_ref())
}
