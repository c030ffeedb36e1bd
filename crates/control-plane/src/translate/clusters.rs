//! Clusters: a service as it is called, and the application behind a node's own port.

use std::sync::Arc;
use std::time::Duration;

use meshwork_model::mesh::{Inbound, Workload};
use meshwork_model::proxy::{
    Balancing, Cluster, Discovery, Endpoint, Endpoints, Network, TransportMatch, UpstreamProtocol,
};
use meshwork_xds::Dialect;

use super::{Called, Mesh, protocol, served};

/// Long enough for a handshake over an ocean, short enough that a retry is worth it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A service's port, as it is called.
pub(super) fn outbound(called: &Called<'_>, transports: Vec<TransportMatch>, dialect: Dialect) -> Cluster {
    Cluster {
        name: called.cluster(),
        service: Some(called.name()),
        discovery: Discovery::Eds(called.cluster()),
        // gRPC's core refuses a cluster with LEAST_REQUEST.
        network: Network::Proxy,
        balancing: match dialect {
            Dialect::Grpc => Balancing::RoundRobin,
            Dialect::Meshwork | Dialect::Envoy => Balancing::LeastRequest,
        },
        connect_timeout: CONNECT_TIMEOUT,
        protocol: upstream(called.port.protocol.is_http2()),
        transports,
    }
}

/// The application behind a node's own port: one address, in plaintext.
pub(super) fn inbound(mesh: &Mesh, node: &Workload, inbound: &Inbound) -> Cluster {
    let name = name_of_inbound(inbound);
    let endpoint = Endpoint { address: inbound.application, transport: None, workload: None };
    Cluster {
        name: Arc::clone(&name),
        service: served(mesh, node, inbound.port).map(|called| called.name()),
        discovery: Discovery::Static(Endpoints { cluster: name, endpoints: vec![endpoint] }),
        network: Network::Proxy,
        balancing: Balancing::RoundRobin,
        connect_timeout: CONNECT_TIMEOUT,
        protocol: upstream(protocol(mesh, node, inbound.port).is_http2()),
        transports: Vec::new(),
    }
}

pub(super) fn name_of_inbound(inbound: &Inbound) -> Arc<str> {
    format!("inbound|{}||", inbound.port).into()
}

fn upstream(http2: bool) -> UpstreamProtocol {
    if http2 { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 }
}
