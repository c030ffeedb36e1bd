//! Listeners: one for each port that a node serves or calls, or may call where its program is captured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::address::VirtualAddress;
use meshwork_model::mesh::{
    Capture, EntryPort, EntryProtocol, Inbound, MtlsMode, OutsidePolicy, Protocol, Workload,
};
use meshwork_model::proxy::{
    ChainMatch, ClientCert, Clients, Direction, DownstreamTls, EscapedSlashes, FilterChain,
    ForwardClientCert, Http1, HttpConnection, HttpFilter, HttpFilterKind, Listener, MeshServer,
    NetworkFilter, PathNormalization, RouteSource, RouteTable, TcpCluster, TcpProxy, Transport,
};

use super::captured::Direct;
use super::{Called, Mesh, attached, clusters, policy, protocol, routes};

/// What only those who speak mTLS offer by ALPN.
const MESH_ALPN: &[&str] = &["istio-peer-exchange", "istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"];

/// How long a client of a permissive port of bytes may be silent: then it waits for the server's first word, and is no
/// one who speaks TLS. Longer than a lost packet takes to be sent again.
const SILENCE: Duration = Duration::from_millis(300);

/// What every HTTP listener does to paths before they are judged: policy and the application then read the same.
const SAFE_PATHS: PathNormalization =
    PathNormalization { rfc3986: true, merge_slashes: true, escaped_slashes: EscapedSlashes::Reject };

/// From the first byte of a request's head to its last, so that slow heads hold no connection for long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The name of the listener where a captured program's connections arrive. Source: Istio.
pub(crate) const VIRTUAL_OUTBOUND: &str = "virtualOutbound";

/// A port that the node's application calls; `chains` are those of routes that act on its connections.
pub(super) fn outbound(called: &Called<'_>, bind: SocketAddr, chains: Option<Vec<FilterChain>>) -> Listener {
    let name: Arc<str> = format!("outbound|{}|{}", called.port.port, called.name().host()).into();
    let chains = chains.unwrap_or_else(|| vec![chain("outbound", None, to_service(called))]);
    not_waiting(Listener::new(name, Some(bind), Direction::Outbound, chains))
}

/// A client that waits for the server's first word names no server, and goes where all go that name none.
fn not_waiting(listener: Listener) -> Listener {
    let takes_all = listener.chains.iter().any(|chain| chain.matches == ChainMatch::default());
    if listener.filters.is_empty() || !takes_all {
        return listener;
    }
    Listener { filters_timeout: Some(SILENCE), continue_on_filters_timeout: true, ..listener }
}

/// A target of a proxyless gRPC client: no socket, the name as it was asked for.
pub(super) fn api(called: &Called<'_>, target: &str) -> Listener {
    // gRPC's core knows no other filter that routes ask for, and is no place of pages.
    let fault = HttpFilter::new(HttpFilter::FAULT, HttpFilterKind::Fault(Arc::default()));
    let cluster = called.cluster();
    let filter = http(Arc::clone(&cluster), RouteSource::Named(cluster), vec![fault]);
    Listener::new(target, None, Direction::Outbound, vec![chain("outbound", None, filter)])
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
        ..at(VIRTUAL_OUTBOUND.into(), addresses.next(), addresses.collect(), chains)
    }
}

/// A service's port, as a captured program calls it: by the service's address.
pub(super) fn captured(
    called: &Called<'_>,
    address: VirtualAddress,
    chains: Option<Vec<FilterChain>>,
) -> Listener {
    let name = format!("captured|{}|{}", called.port.port, called.name().host());
    let chains = chains.unwrap_or_else(|| vec![chain("outbound", None, to_service(called))]);
    not_waiting(taken(name, address, called.port.port, chains))
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

/// Where the connections of a listener for a host outside go.
pub(super) enum Led {
    /// All to the host.
    Whole,
    /// By these routes.
    Requests(RouteTable),
    /// By weight.
    Bytes(Vec<TcpCluster>),
}

/// A port of a host outside the mesh. What is asked for must be that host: by server name (SNI) or by authority; bytes
/// ask for nothing.
pub(super) fn outside(
    host: &Arc<str>,
    port: &EntryPort,
    address: VirtualAddress,
    cluster: Arc<str>,
    led: Led,
) -> Listener {
    let (table, clusters) = match led {
        Led::Requests(table) => (Some(table), None),
        Led::Bytes(clusters) => (None, Some(clusters)),
        Led::Whole => (None, None),
    };
    let bytes = |cluster: Arc<str>| {
        let whole = || vec![TcpCluster { name: Arc::clone(&cluster), weight: 1 }];
        let clusters = clusters.unwrap_or_else(whole);
        NetworkFilter::Tcp(Arc::new(bytes_to(Arc::clone(&cluster), clusters)))
    };
    let chain = match port.protocol {
        EntryProtocol::Plain(protocol) if protocol.is_http() => {
            let plain = || routes::outside(host, port.number, Arc::clone(&cluster), protocol);
            let filters = if table.is_some() { for_routes() } else { Vec::new() };
            let table = table.unwrap_or_else(plain);
            let http = HttpConnection {
                filters,
                stream_idle_timeout: Some(Duration::ZERO),
                ..carrying(cluster, RouteSource::Inline(Arc::new(table)))
            };
            chain("outside", None, NetworkFilter::Http(Arc::new(http)))
        }
        EntryProtocol::Plain(_) => chain("outside", None, bytes(cluster)),
        EntryProtocol::Tls => FilterChain {
            matches: ChainMatch {
                transport: Some(Transport::Tls),
                server_names: vec![Arc::clone(host)],
                ..ChainMatch::default()
            },
            ..chain("outside", None, bytes(cluster))
        },
    };
    taken(format!("captured|{}|{host}", port.number), address, port.number, vec![chain])
}

fn to_service(called: &Called<'_>) -> NetworkFilter {
    let cluster = called.cluster();
    if called.port.protocol.is_http() {
        http(Arc::clone(&cluster), RouteSource::Named(cluster), for_routes())
    } else {
        tcp(Arc::clone(&cluster), cluster)
    }
}

/// Filters that routes may ask for. They are off where none does: that costs nothing, and a route that comes to ask for
/// one changes no listener, so that no connection drains for it.
fn for_routes() -> Vec<HttpFilter> {
    let off = |name: &str, kind| HttpFilter { disabled: true, ..HttpFilter::new(name, kind) };
    let fault = HttpFilterKind::Fault(Arc::default());
    vec![off(HttpFilter::FAULT, fault), off(HttpFilter::CORS, HttpFilterKind::Cors)]
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

/// A port that the node serves. Strict: one chain that ends mTLS; disabled: one in plaintext; permissive: both, and one
/// for TLS that is the application's own.
pub(super) fn inbound(mesh: &Mesh, node: &Workload, inbound: &Inbound) -> Listener {
    let protocol = protocol(mesh, node, inbound);
    let served = |name| served(mesh, node, inbound, protocol, name);
    let ends_mtls = |chain| FilterChain { tls: Some(mtls(protocol).into()), ..chain };
    let mode = policy::mtls(mesh, node, inbound.port);
    let chains = match mode {
        MtlsMode::Strict => vec![ends_mtls(served("mtls"))],
        MtlsMode::Disable => vec![served("plaintext")],
        MtlsMode::Permissive => {
            let of_mesh = ends_mtls(served("mtls"));
            let own = bytes(mesh, node, inbound, "tls");
            let each = [(of_mesh, Transport::Tls, mesh_alpn(protocol)), (own, Transport::Tls, Vec::new())];
            let plain = (served("plaintext"), Transport::Plaintext, Vec::new());
            let matched = |(chain, transport, alpn)| FilterChain {
                matches: ChainMatch { transport: Some(transport), alpn, ..ChainMatch::default() },
                ..chain
            };
            each.into_iter().chain([plain]).map(matched).collect()
        }
    };
    let name = format!("inbound|{}", inbound.port);
    let listener = Listener::new(name, Some(inbound.bind), Direction::Inbound, chains);
    if mode == MtlsMode::Permissive && !protocol.is_http() {
        return Listener { filters_timeout: Some(SILENCE), continue_on_filters_timeout: true, ..listener };
    }
    listener
}

/// What is done with connections that nothing else has to be asked about.
fn served(mesh: &Mesh, node: &Workload, inbound: &Inbound, protocol: Protocol, name: &str) -> FilterChain {
    if !protocol.is_http() {
        return bytes(mesh, node, inbound, name);
    }
    let cluster = clusters::name_of_inbound(inbound);
    let mut filters = policy::filters(mesh, node, inbound.port);
    attached::limit(mesh, node, inbound, &mut filters);
    let routes = RouteSource::Inline(Arc::new(routes::inbound(Arc::clone(&cluster))));
    // The application learns who called, and callers cannot claim to be others.
    let client_cert = ClientCert { forward: ForwardClientCert::Set, uri: true, ..ClientCert::default() };
    let http = HttpConnection { client_cert, ..connection(cluster, routes, filters) };
    chain(name, None, NetworkFilter::Http(Arc::new(http)))
}

fn bytes(mesh: &Mesh, node: &Workload, inbound: &Inbound, name: &str) -> FilterChain {
    let cluster = clusters::name_of_inbound(inbound);
    let gates = policy::gates(mesh, node, inbound.port);
    FilterChain { gates, ..chain(name, None, tcp(Arc::clone(&cluster), cluster)) }
}

/// What those who speak mTLS offer by ALPN, and others do not. On ports of HTTP/2 that alone is enough, which is all that
/// gRPC's own clients offer; a program's own TLS with it needs a port that is declared otherwise. Source: Istio.
fn mesh_alpn(protocol: Protocol) -> Vec<Arc<str>> {
    let bare: &[&str] = if protocol.is_http2() { &["h2"] } else { &[] };
    MESH_ALPN.iter().chain(bare).map(|&name| name.into()).collect()
}

fn chain(name: &str, tls: Option<DownstreamTls>, filter: NetworkFilter) -> FilterChain {
    FilterChain { tls, ..FilterChain::new(name, filter) }
}

pub(super) fn mtls(protocol: Protocol) -> MeshServer {
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

pub(super) fn connection(
    stat_prefix: Arc<str>,
    routes: RouteSource,
    filters: Vec<HttpFilter>,
) -> HttpConnection {
    HttpConnection {
        filters,
        paths: SAFE_PATHS,
        generate_request_id: true,
        // A stream of messages may be quiet for as long as it likes.
        stream_idle_timeout: Some(Duration::ZERO),
        ..carrying(stat_prefix, routes)
    }
}

/// Requests from outside: who opened the connection is the client, and nobody is believed who says otherwise.
pub(super) fn edge(table: Arc<str>, filters: Vec<HttpFilter>) -> HttpConnection {
    HttpConnection {
        clients: Clients { is_edge: true, ..Clients::default() },
        ..connection(Arc::clone(&table), RouteSource::Named(table), filters)
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

fn tcp(stat_prefix: Arc<str>, cluster: Arc<str>) -> NetworkFilter {
    NetworkFilter::Tcp(Arc::new(bytes_to(stat_prefix, vec![TcpCluster { name: cluster, weight: 1 }])))
}

/// Bytes, whose connection is tried on three endpoints: none of them has got a byte yet.
pub(super) fn bytes_to(stat_prefix: Arc<str>, clusters: Vec<TcpCluster>) -> TcpProxy {
    TcpProxy { stat_prefix, connect_attempts: 3, clusters, ..TcpProxy::to("") }
}
