//! What a gRPC server runs that has no proxy: it ends mTLS itself, and judges its callers by the rules that a sidecar
//! would have. Of what else a sidecar does for who is called, gRPC's core knows nothing.
//!
//! Source: gRFC A36 (xDS-enabled servers), A29 (mTLS), A41 (RBAC).

use std::net::SocketAddr;
use std::sync::Arc;

use meshwork_model::mesh::{MtlsMode, Protocol, Workload};
use meshwork_model::proxy::{
    Direction, Domain, FilterChain, Listener, NetworkFilter, PathMatch, Route, RouteAction, RouteMatch,
    RouteSource, RouteTable, VirtualHost,
};

use super::{Mesh, listeners, policy};

/// What the name of a server's listener begins with; its address follows. `meshwork grpc-bootstrap` tells servers so.
const NAME: &str = "grpc/server?xds.resource.listening_address=";

/// The address of the server whose listener this names.
pub(super) fn address(target: &str) -> Option<SocketAddr> {
    target.strip_prefix(NAME)?.parse().ok()
}

/// The listener of a server at an address; `None` where the node serves no port there. Permissive is strict here: gRPC
/// does not look at what a connection begins with.
pub(super) fn listener(mesh: &Mesh, node: &Workload, target: &str, address: SocketAddr) -> Option<Listener> {
    let inbound = node.inbound.iter().find(|inbound| {
        let is_there = address.ip().is_unspecified() || address.ip() == inbound.bind.ip();
        is_there && address.port() == inbound.bind.port()
    })?;
    let matches = RouteMatch::new(PathMatch::Prefix("/".into()), Vec::new());
    let route = Route::new("all", matches, RouteAction::Local);
    let host = VirtualHost::new("all", vec![Domain::Any], vec![route]);
    let name: Arc<str> = format!("inbound|{}", inbound.port).into();
    let routes = RouteSource::Inline(Arc::new(RouteTable::new(Arc::clone(&name), vec![host])));
    let http = listeners::connection(name, routes, policy::filters(mesh, node, inbound.port));
    let is_plain = policy::mtls(mesh, node, inbound.port) == MtlsMode::Disable;
    let chain = FilterChain {
        tls: (!is_plain).then(|| listeners::mtls(Protocol::Grpc).into()),
        ..FilterChain::new("all", NetworkFilter::Http(Arc::new(http)))
    };
    Some(Listener::new(target, Some(address), Direction::Inbound, vec![chain]))
}
