//! Config of a proxy under test, in few words.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::limits::HEAD_READ;
use meshwork_identity::{CertificateAuthority, IdentitySource};
use meshwork_model::proxy::{
    BackOff, Cluster, Direction, Discovery, Domain, DownstreamTls, Endpoint, Endpoints, FilterChain, Forward,
    Http1, HttpConnection, Listener, MeshServer, NetworkFilter, PathMatch, Resilience, Resource, RetryPolicy,
    Route, RouteAction, RouteMatch, RouteSource, RouteTable, TcpProxy, VirtualHost, WeightedCluster,
};
use meshwork_model::spiffe::SpiffeId;

/// Where the scripted upstream listens, in a network of documentation's own.
pub(crate) const ORIGIN: SocketAddr = address(1);
/// Another one.
pub(crate) const SECOND: SocketAddr = address(2);

/// How long the route `/` lets its upstream think.
pub(crate) const ROUTE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long connecting may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An address of a scripted upstream.
pub(crate) const fn address(last: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)), 80)
}

/// An HTTP proxy: the listener `web`, one route, the cluster `a` with these endpoints.
pub(crate) fn web(endpoints: &[SocketAddr]) -> Vec<Resource> {
    vec![Resource::Cluster(cluster(endpoints)), listener(http(Some(ROUTE_TIMEOUT)), None)]
}

/// A TCP proxy in the same form.
pub(crate) fn tcp(endpoints: &[SocketAddr], idle_timeout: Option<Duration>) -> Vec<Resource> {
    let filter = NetworkFilter::Tcp(Arc::new(TcpProxy { idle_timeout, ..proxy("a") }));
    vec![Resource::Cluster(cluster(endpoints)), listener(filter, None)]
}

/// Bytes to a cluster.
pub(crate) fn tcp_filter(cluster: &str) -> NetworkFilter {
    NetworkFilter::Tcp(Arc::new(proxy(cluster)))
}

/// Bytes to a cluster, tried as our own control plane has it.
pub(crate) fn proxy(cluster: &str) -> TcpProxy {
    TcpProxy { connect_attempts: 3, ..TcpProxy::to(cluster) }
}

/// The listener `web`.
pub(crate) fn listener(filter: NetworkFilter, tls: Option<DownstreamTls>) -> Resource {
    listener_of(vec![FilterChain { tls, ..FilterChain::new("chain", filter) }])
}

/// The listener `web` with these chains.
pub(crate) fn listener_of(chains: Vec<FilterChain>) -> Resource {
    // The kernel's port is bound and never used: connections begin in memory.
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    Resource::Listener(Listener::new("web", Some(address), Direction::Unspecified, chains))
}

/// All requests go to the cluster `a`.
pub(crate) fn http(timeout: Option<Duration>) -> NetworkFilter {
    NetworkFilter::Http(Arc::new(http_connection(timeout)))
}

pub(crate) fn http_connection(timeout: Option<Duration>) -> HttpConnection {
    let action = RouteAction::Forward(Forward {
        clusters: vec![WeightedCluster { name: "a".into(), weight: 1 }],
        timeout,
        resilience: resilience(),
    });
    let route = Route::new("route", RouteMatch::new(PathMatch::Prefix("/".into()), vec![]), action);
    let host = VirtualHost::new("all", vec![Domain::Any], vec![route]);
    let table = RouteTable::new("table", vec![host]);
    HttpConnection {
        upgrades: vec!["websocket".into()],
        http1: Http1 { accept_http_10: true, default_host: Some("old".into()), trailers: true },
        request_headers_timeout: Some(HEAD_READ),
        ..HttpConnection::new("test", RouteSource::Inline(Arc::new(table)))
    }
}

/// What never reached the application is tried again, at once.
fn resilience() -> Resilience {
    let back_off = BackOff::of(Duration::from_millis(1));
    let retry = RetryPolicy { back_off, ..RetryPolicy::unreached(2) };
    Resilience { retry: Some(Arc::new(retry)), ..Resilience::default() }
}

/// The cluster `a`.
pub(crate) fn cluster(addresses: &[SocketAddr]) -> Cluster {
    let endpoints = addresses.iter().copied().map(Endpoint::new).collect();
    let discovery = Discovery::Static(Endpoints::new("a", endpoints));
    Cluster { connect_timeout: CONNECT_TIMEOUT, ..Cluster::new("a", discovery) }
}

/// An identity of a mesh of its own, and the mTLS that ends with it.
pub(crate) fn identity() -> (Arc<IdentitySource>, DownstreamTls) {
    let directory = tempfile::tempdir().expect("a directory");
    let authority =
        CertificateAuthority::open_or_create(directory.path(), "mesh.local").expect("an authority");
    let id = SpiffeId::workload("mesh.local", "shop", "cart").expect("valid");
    let svid = authority.issue(&id, Duration::from_hours(1), &[]).expect("signed");
    let tls = MeshServer {
        certificate: "default".into(),
        validation: Some("ROOTCA".into()),
        require_client_certificate: true,
        alpn: vec![],
        allowed: vec![],
    };
    (IdentitySource::new(svid, authority.bundle()).expect("valid"), tls.into())
}
