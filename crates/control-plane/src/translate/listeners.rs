//! Listeners: one for each port that a node serves or calls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::mesh::{Inbound, MtlsMode, Protocol, Workload};
use meshwork_model::proxy::{
    ChainMatch, Direction, DownstreamTls, FilterChain, HttpConnection, HttpFilter, Listener, NetworkFilter,
    PathNormalization, RouteSource, TcpProxy,
};

use super::{Called, Mesh, clusters, policy, protocol, routes};

/// What every HTTP listener does to paths before they are judged: policy and the application then read the same.
const SAFE_PATHS: PathNormalization =
    PathNormalization { rfc3986: true, merge_slashes: true, reject_escaped_slashes: true };

/// A port that the node's application calls.
pub(super) fn outbound(called: &Called<'_>, bind: SocketAddr) -> Listener {
    let name: Arc<str> = format!("outbound|{}|{}", called.port.port, called.name().host()).into();
    let cluster = called.cluster();
    let filter = if called.port.protocol.is_http() {
        http(Arc::clone(&cluster), RouteSource::Named(cluster), Vec::new())
    } else {
        let rbac = Vec::new();
        tcp(Arc::clone(&cluster), cluster, rbac)
    };
    Listener {
        name,
        address: Some(bind),
        additional_addresses: Vec::new(),
        bind_to_port: true,
        use_original_dst: false,
        direction: Direction::Outbound,
        chains: vec![chain("outbound", None, filter)],
    }
}

/// A target of a proxyless gRPC client: no socket, the name as it was asked for.
pub(super) fn api(called: &Called<'_>, target: &str) -> Listener {
    let cluster = called.cluster();
    let filter = http(Arc::clone(&cluster), RouteSource::Named(cluster), Vec::new());
    Listener {
        name: target.into(),
        address: None,
        additional_addresses: Vec::new(),
        bind_to_port: true,
        use_original_dst: false,
        direction: Direction::Outbound,
        chains: vec![chain("outbound", None, filter)],
    }
}

/// A port that the node serves. Strict: one chain that ends mTLS; disabled: one in plaintext.
pub(super) fn inbound(mesh: &Mesh, node: &Workload, inbound: &Inbound) -> Listener {
    let cluster = clusters::name_of_inbound(inbound);
    let protocol = protocol(mesh, node, inbound.port);
    let rbac = policy::of(mesh, node, inbound.port, protocol);
    let filter = if protocol.is_http() {
        let filters = rbac.into_iter().map(HttpFilter::Rbac).collect();
        let routes = RouteSource::Inline(Arc::new(routes::inbound(Arc::clone(&cluster))));
        http(Arc::clone(&cluster), routes, filters)
    } else {
        tcp(Arc::clone(&cluster), cluster, rbac)
    };
    let chain = match policy::mtls(mesh, node) {
        MtlsMode::Strict => chain("mtls", Some(mtls(protocol)), filter),
        MtlsMode::Disable => chain("plaintext", None, filter),
    };
    Listener {
        name: format!("inbound|{}", inbound.port).into(),
        address: Some(inbound.bind),
        additional_addresses: Vec::new(),
        bind_to_port: true,
        use_original_dst: false,
        direction: Direction::Inbound,
        chains: vec![chain],
    }
}

fn chain(name: &str, tls: Option<DownstreamTls>, filter: NetworkFilter) -> FilterChain {
    FilterChain { name: name.into(), matches: ChainMatch::default(), tls, filter }
}

fn mtls(protocol: Protocol) -> DownstreamTls {
    let alpn = if protocol.is_http() { vec!["h2".into(), "http/1.1".into()] } else { Vec::new() };
    DownstreamTls {
        certificate: "default".into(),
        validation: Some("ROOTCA".into()),
        require_client_certificate: true,
        alpn,
        // Who is let in is authorization's to say: it answers, where a failed handshake would be silent.
        allowed: Vec::new(),
    }
}

fn http(stat_prefix: Arc<str>, routes: RouteSource, filters: Vec<HttpFilter>) -> NetworkFilter {
    NetworkFilter::Http(Arc::new(HttpConnection {
        filters,
        paths: SAFE_PATHS,
        generate_request_id: true,
        // A stream of messages may be quiet for as long as it likes.
        stream_idle_timeout: Some(Duration::ZERO),
        ..HttpConnection::new(stat_prefix, routes)
    }))
}

fn tcp(
    stat_prefix: Arc<str>,
    cluster: Arc<str>,
    rbac: Vec<Arc<meshwork_model::proxy::Rbac>>,
) -> NetworkFilter {
    NetworkFilter::Tcp(Arc::new(TcpProxy { stat_prefix, cluster, rbac, idle_timeout: None }))
}
