//! Listeners: one for each port that a node serves or calls, or may call where its program is captured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::address::VirtualAddress;
use meshwork_model::mesh::{
    Capture, EntryPort, EntryProtocol, Inbound, MtlsMode, OutsidePolicy, Protocol, Workload,
};
use meshwork_model::proxy::{
    ChainMatch, ClientCert, Direction, DownstreamTls, EscapedSlashes, FilterChain, ForwardClientCert, Gate,
    Http1, HttpConnection, HttpFilter, Listener, MeshServer, NetworkFilter, PathNormalization, RouteSource,
    TcpProxy, Transport,
};

use super::captured::Direct;
use super::{Called, Mesh, clusters, policy, protocol, routes};

/// What every HTTP listener does to paths before they are judged: policy and the application then read the same.
const SAFE_PATHS: PathNormalization =
    PathNormalization { rfc3986: true, merge_slashes: true, escaped_slashes: EscapedSlashes::Reject };

/// From the first byte of a request's head to its last, so that slow heads hold no connection for long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A port that the node's application calls.
pub(super) fn outbound(called: &Called<'_>, bind: SocketAddr) -> Listener {
    let name: Arc<str> = format!("outbound|{}|{}", called.port.port, called.name().host()).into();
    Listener::new(name, Some(bind), Direction::Outbound, vec![chain("outbound", None, to_service(called))])
}

/// A target of a proxyless gRPC client: no socket, the name as it was asked for.
pub(super) fn api(called: &Called<'_>, target: &str) -> Listener {
    Listener::new(target, None, Direction::Outbound, vec![chain("outbound", None, to_service(called))])
}

/// Where all connections of a captured program arrive; its own chain is for those that no other listener takes.
pub(super) fn virtual_outbound(capture: &Capture, policy: OutsidePolicy) -> Listener {
    // Named after the policy: a connection follows its chain by name, and one of another policy is none to follow.
    let (name, cluster) = match policy {
        OutsidePolicy::Allow => ("passthrough", clusters::PASSTHROUGH),
        OutsidePolicy::Deny => ("black-hole", clusters::BLACK_HOLE),
    };
    let cluster: Arc<str> = cluster.into();
    let chains = vec![chain(name, None, tcp(Arc::clone(&cluster), cluster))];
    let mut addresses = capture.outbound.iter().copied();
    Listener {
        use_original_dst: true,
        ..at("virtualOutbound".into(), addresses.next(), addresses.collect(), chains)
    }
}

/// A service's port, as a captured program calls it: by the service's address.
pub(super) fn captured(called: &Called<'_>, address: VirtualAddress) -> Listener {
    let name = format!("captured|{}|{}", called.port.port, called.name().host());
    taken(name, address, called.port.port, vec![chain("outbound", None, to_service(called))])
}

/// A workload's port, as a captured program calls it: by the workload's own virtual address.
pub(super) fn direct(direct: &Direct<'_>, address: VirtualAddress) -> Listener {
    let port = direct.inbound.port;
    let name = format!("captured|{port}|{}|{}", direct.workload.key.name, direct.called.name().host());
    let cluster = direct.cluster();
    let filter = if direct.called.port.protocol.is_http() {
        let table = routes::direct(Arc::clone(&cluster), direct.called.port.protocol);
        http(Arc::clone(&cluster), RouteSource::Inline(Arc::new(table)), Vec::new())
    } else {
        tcp(Arc::clone(&cluster), cluster)
    };
    taken(name, address, port, vec![chain("outbound", None, filter)])
}

/// A port of a host outside the mesh. What is asked for must be that host: by server name (SNI) or by authority; bytes
/// ask for nothing.
pub(super) fn outside(
    host: &Arc<str>,
    port: &EntryPort,
    address: VirtualAddress,
    cluster: Arc<str>,
) -> Listener {
    let chain = match port.protocol {
        EntryProtocol::Plain(protocol) if protocol.is_http() => {
            let table = routes::outside(host, port.number, Arc::clone(&cluster), protocol);
            let http = HttpConnection {
                stream_idle_timeout: Some(Duration::ZERO),
                ..carrying(cluster, RouteSource::Inline(Arc::new(table)))
            };
            chain("outside", None, NetworkFilter::Http(Arc::new(http)))
        }
        EntryProtocol::Plain(_) => chain("outside", None, tcp(Arc::clone(&cluster), cluster)),
        EntryProtocol::Tls => FilterChain {
            matches: ChainMatch {
                transport: Some(Transport::Tls),
                server_names: vec![Arc::clone(host)],
                ..ChainMatch::default()
            },
            ..chain("outside", None, tcp(Arc::clone(&cluster), cluster))
        },
    };
    taken(format!("captured|{}|{host}", port.number), address, port.number, vec![chain])
}

fn to_service(called: &Called<'_>) -> NetworkFilter {
    let cluster = called.cluster();
    if called.port.protocol.is_http() {
        http(Arc::clone(&cluster), RouteSource::Named(cluster), Vec::new())
    } else {
        tcp(Arc::clone(&cluster), cluster)
    }
}

/// A listener without sockets, which takes what was meant for a virtual address of either IP version.
fn taken(name: String, address: VirtualAddress, port: u16, chains: Vec<FilterChain>) -> Listener {
    let [first, second] = address.both().map(|ip| SocketAddr::new(ip, port));
    Listener { bind_to_port: false, ..at(name.into(), Some(first), vec![second], chains) }
}

fn at(
    name: Arc<str>,
    first: Option<SocketAddr>,
    more: Vec<SocketAddr>,
    chains: Vec<FilterChain>,
) -> Listener {
    Listener { additional_addresses: more, ..Listener::new(name, first, Direction::Outbound, chains) }
}

/// A port that the node serves. Strict: one chain that ends mTLS; disabled: one in plaintext.
pub(super) fn inbound(mesh: &Mesh, node: &Workload, inbound: &Inbound) -> Listener {
    let cluster = clusters::name_of_inbound(inbound);
    let protocol = protocol(mesh, node, inbound);
    let rbac = policy::of(mesh, node, inbound.port, protocol);
    let mut gates = Vec::new();
    let filter = if protocol.is_http() {
        let filters = HttpFilter::rules(rbac);
        let routes = RouteSource::Inline(Arc::new(routes::inbound(Arc::clone(&cluster))));
        // The application learns who called, and callers cannot claim to be others.
        let client_cert = ClientCert { forward: ForwardClientCert::Set, uri: true, ..ClientCert::default() };
        let http = connection(Arc::clone(&cluster), routes, filters);
        NetworkFilter::Http(Arc::new(HttpConnection { client_cert, ..http }))
    } else {
        gates.extend(rbac.into_iter().map(Gate::Rbac));
        tcp(Arc::clone(&cluster), cluster)
    };
    let chain = match policy::mtls(mesh, node) {
        MtlsMode::Strict => chain("mtls", Some(mtls(protocol).into()), filter),
        MtlsMode::Disable => chain("plaintext", None, filter),
    };
    let chain = FilterChain { gates, ..chain };
    let name = format!("inbound|{}", inbound.port);
    Listener::new(name, Some(inbound.bind), Direction::Inbound, vec![chain])
}

fn chain(name: &str, tls: Option<DownstreamTls>, filter: NetworkFilter) -> FilterChain {
    FilterChain { tls, ..FilterChain::new(name, filter) }
}

fn mtls(protocol: Protocol) -> MeshServer {
    let alpn = if protocol.is_http() { vec!["h2".into(), "http/1.1".into()] } else { Vec::new() };
    MeshServer {
        certificate: "default".into(),
        validation: Some("ROOTCA".into()),
        require_client_certificate: true,
        alpn,
        // Who is let in is authorization's to say: it answers, where a failed handshake would be silent.
        allowed: Vec::new(),
    }
}

fn http(stat_prefix: Arc<str>, routes: RouteSource, filters: Vec<HttpFilter>) -> NetworkFilter {
    NetworkFilter::Http(Arc::new(connection(stat_prefix, routes, filters)))
}

fn connection(stat_prefix: Arc<str>, routes: RouteSource, filters: Vec<HttpFilter>) -> HttpConnection {
    HttpConnection {
        filters,
        paths: SAFE_PATHS,
        generate_request_id: true,
        // A stream of messages may be quiet for as long as it likes.
        stream_idle_timeout: Some(Duration::ZERO),
        ..carrying(stat_prefix, routes)
    }
}

/// What every HTTP connection in the mesh carries: `WebSockets`, trailers, old clients; and no head that never ends.
fn carrying(stat_prefix: Arc<str>, routes: RouteSource) -> HttpConnection {
    HttpConnection {
        upgrades: vec!["websocket".into()],
        http1: Http1 { accept_http_10: true, default_host: None, trailers: true },
        request_headers_timeout: Some(HEAD_TIMEOUT),
        ..HttpConnection::new(stat_prefix, routes)
    }
}

/// Bytes, whose connection is tried on three endpoints: none of them has got a byte yet.
fn tcp(stat_prefix: Arc<str>, cluster: Arc<str>) -> NetworkFilter {
    NetworkFilter::Tcp(Arc::new(TcpProxy { stat_prefix, connect_attempts: 3, ..TcpProxy::to(cluster) }))
}
