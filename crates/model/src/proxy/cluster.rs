use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use super::Endpoints;
use crate::spiffe::SpiffeId;

/// A group of endpoints and how to reach it.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Unique name, `outbound|80||catalog.shop.svc.cluster.local` in a mesh.
    pub name: Arc<str>,
    /// The service that it stands for, in a mesh. Carried as Istio's cluster metadata.
    pub service: Option<ServiceName>,
    /// Where its endpoints come from.
    pub discovery: Discovery,
    /// Whose network it is reached in.
    pub network: Network,
    /// How one is picked.
    pub balancing: Balancing,
    /// How long opening a connection may take, handshake included.
    pub connect_timeout: Duration,
    /// What is spoken on it.
    pub protocol: UpstreamProtocol,
    /// Tried in order against an endpoint's `transport`; the first that matches is how it is reached. An
    /// endpoint that matches none is reached in plaintext only where this list is empty, else not at all.
    pub transports: Vec<TransportMatch>,
}

/// A service's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// `catalog`
    pub name: Arc<str>,
    /// `shop`
    pub namespace: Arc<str>,
}

impl ServiceName {
    /// The full name, `catalog.shop.svc.cluster.local`.
    pub fn host(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }
}

/// Where endpoints come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Discovery {
    /// Part of the cluster.
    Static(Endpoints),
    /// Delivered on their own (EDS), under this name.
    Eds(Arc<str>),
    /// Whatever a name stands for, asked again and again.
    Dns(DnsHost),
    /// The one address that the downstream connection was meant for before it was redirected. Nothing is picked then:
    /// `balancing` is `RoundRobin`.
    OriginalDestination,
}

/// A host by name. Source: Envoy `LOGICAL_DNS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsHost {
    /// The name.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
}

/// Whose network an upstream connection is opened in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// The proxy's.
    #[default]
    Proxy,
    /// That of the workload, where the proxy serves one that has a network namespace of its own.
    Workload,
}

/// From where a proxy connects to a workload in a network namespace of its own: never from loopback, which programs
/// trust. Source: RFC 2544, addresses that no real network has.
pub const WORKLOAD_SOURCE_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// The same for IPv6: `fd6d:6573:6877:ffff::2`.
pub const WORKLOAD_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0xfd6d, 0x6573, 0x6877, 0xffff, 0, 0, 0, 2);

/// How an endpoint is picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Balancing {
    /// In turn.
    RoundRobin,
    /// By chance.
    Random,
    /// The less loaded of two taken by chance (P2C).
    LeastRequest,
}

/// What is spoken with the endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    /// HTTP/1.1, or bytes.
    Http1,
    /// HTTP/2.
    Http2,
}

/// How endpoints with a given mark are reached. Source: Envoy `Cluster.TransportSocketMatch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportMatch {
    /// Name, for logs and dumps.
    pub name: Arc<str>,
    /// The endpoint's `transport` that it takes; `None` takes any.
    pub transport: Option<Arc<str>>,
    /// TLS; `None` is plaintext.
    pub tls: Option<UpstreamTls>,
}

/// The client side of mTLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Name of the secret with certificate and key (`default`); `None` sends no certificate.
    pub certificate: Option<Arc<str>>,
    /// Name of the secret with the trust bundle (`ROOTCA`).
    pub validation: Arc<str>,
    /// The identities of which the server must prove one; never empty.
    pub identities: Vec<SpiffeId>,
    /// ALPN protocols in order of preference.
    pub alpn: Vec<Arc<str>>,
    /// Server name that is sent; empty sends none.
    pub sni: Arc<str>,
}
