//! Clusters: a service as it is called, and the application behind a node's own port.

use std::sync::Arc;
use std::time::Duration;

use meshwork_model::mesh::{Inbound, PortTerms, Protocol, Workload};
use meshwork_model::proxy::{
    Balancing, Cluster, Discovery, Endpoint, Endpoints, Network, TransportMatch, UpstreamProtocol,
};
use meshwork_xds::Dialect;

use super::captured::Direct;
use super::routes::NOWHERE;
use super::{Called, Mesh, protocol, served, traffic};

/// Long enough for a handshake over an ocean, short enough that a retry is worth it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The names that Istio gives to these two, too.
pub(super) const PASSTHROUGH: &str = "PassthroughCluster";
pub(crate) const BLACK_HOLE: &str = "BlackHoleCluster";

/// A service's port, as it is called.
pub(super) fn outbound(
    called: &Called<'_>,
    subset: Option<&str>,
    terms: &PortTerms,
    transports: Vec<TransportMatch>,
    dialect: Dialect,
) -> Cluster {
    let name = called.cluster_of(subset);
    let mut cluster = Cluster {
        service: Some(called.name()),
        protocol: upstream(called.port.protocol),
        transports,
        ..plain(Arc::clone(&name), Discovery::Eds(name))
    };
    traffic::apply(terms, &mut cluster, dialect);
    cluster
}

/// One workload, as it is called by its own address.
pub(super) fn direct(direct: &Direct<'_>, endpoints: Endpoints, transports: Vec<TransportMatch>) -> Cluster {
    Cluster {
        service: Some(direct.called.name()),
        protocol: upstream(direct.called.port.protocol),
        transports,
        ..plain(direct.cluster(), Discovery::Static(endpoints))
    }
}

/// A host outside the mesh.
pub(super) fn outside(name: Arc<str>, discovery: Discovery, protocol: Protocol) -> Cluster {
    Cluster { protocol: upstream(protocol), ..plain(name, discovery) }
}

/// Wherever a connection was meant to go.
pub(super) fn passthrough() -> Cluster {
    plain(PASSTHROUGH.into(), Discovery::OriginalDestination)
}

/// Nowhere: who is sent here is refused, and it is recorded.
pub(super) fn black_hole() -> Cluster {
    let nowhere = Endpoints::new(BLACK_HOLE, Vec::new());
    plain(BLACK_HOLE.into(), Discovery::Static(nowhere))
}

/// The cluster of what cannot be led to, with nobody in it: gRPC's core waits for a cluster that is not there.
pub(super) fn nobody() -> (Cluster, Endpoints) {
    let cluster = plain(NOWHERE.into(), Discovery::Eds(NOWHERE.into()));
    let cluster = Cluster { balancing: Balancing::ROUND_ROBIN, protocol: UpstreamProtocol::Http2, ..cluster };
    (cluster, Endpoints::new(NOWHERE, Vec::new()))
}

/// The application behind a node's own port: one address, in plaintext.
pub(super) fn inbound(mesh: &Mesh, node: &Workload, inbound: &Inbound) -> Cluster {
    let name = name_of_inbound(inbound);
    let endpoint = Endpoint::new(inbound.application);
    let discovery = Discovery::Static(Endpoints::new(Arc::clone(&name), vec![endpoint]));
    Cluster {
        service: served(mesh, node, inbound.port).map(|called| called.name()),
        // A captured program's loopback is its own.
        network: if node.capture.is_some() { Network::Workload } else { Network::Proxy },
        protocol: upstream(protocol(mesh, node, inbound)),
        ..plain(name, discovery)
    }
}

/// A cluster in plaintext, of no service, with nothing out of the ordinary.
fn plain(name: Arc<str>, discovery: Discovery) -> Cluster {
    Cluster { connect_timeout: CONNECT_TIMEOUT, ..Cluster::new(name, discovery) }
}

pub(super) fn name_of_inbound(inbound: &Inbound) -> Arc<str> {
    format!("inbound|{}||", inbound.port).into()
}

fn upstream(protocol: Protocol) -> UpstreamProtocol {
    if protocol.is_http2() { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 }
}
