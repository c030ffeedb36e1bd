use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{AccessLog, DownstreamTls, HttpConnection, Rbac};
use crate::cidr::Cidr;

/// A listening socket and the filter chains behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Unique name.
    pub name: Arc<str>,
    /// Where it listens; port 0 asks the kernel. `None` for an API listener (proxyless gRPC clients), which has
    /// no socket.
    pub address: Option<SocketAddr>,
    /// Further addresses that it listens on, such as that of the other IP version.
    pub additional_addresses: Vec<SocketAddr>,
    /// Whether it has sockets of its own. One without takes the connections that others hand over, by the address that
    /// they were meant for.
    pub bind_to_port: bool,
    /// What its sockets are besides.
    pub socket: SocketOptions,
    /// Whether a connection that was redirected here is handed over to the listener of the address that it was meant
    /// for, where there is one.
    pub use_original_dst: bool,
    /// Which side of a workload it serves.
    pub direction: Direction,
    /// What looks at a connection before its chain is chosen, in order.
    pub filters: Vec<ListenerFilter>,
    /// How long that may take; `None` for as long as it likes.
    pub filters_timeout: Option<Duration>,
    /// Whether a connection goes on with what is known of it when that time is over, instead of being closed.
    pub continue_on_filters_timeout: bool,
    /// Each takes the connections that it matches most specifically ([`crate::chain::ChainIndex`]).
    pub chains: Vec<FilterChain>,
    /// Takes the connections that no chain takes; without one they are closed.
    pub default_chain: Option<FilterChain>,
}

impl Listener {
    /// How long listener filters may take where config does not say. Source: Envoy `listener_filters_timeout`.
    pub const FILTERS_TIMEOUT: Duration = Duration::from_secs(15);

    /// A listener with one address and nothing out of the ordinary; it looks for TLS where a chain asks for it.
    pub fn new(
        name: impl Into<Arc<str>>,
        address: Option<SocketAddr>,
        direction: Direction,
        chains: Vec<FilterChain>,
    ) -> Self {
        let asks = chains.iter().any(|chain| chain.matches != ChainMatch::default());
        Self {
            name: name.into(),
            address,
            additional_addresses: Vec::new(),
            bind_to_port: true,
            socket: SocketOptions::default(),
            use_original_dst: false,
            direction,
            filters: asks
                .then(|| ListenerFilterKind::Tls(TlsInspector::default()).always())
                .into_iter()
                .collect(),
            filters_timeout: Some(Self::FILTERS_TIMEOUT),
            continue_on_filters_timeout: false,
            chains,
            default_chain: None,
        }
    }

    /// All chains, the default one last.
    pub fn all_chains(&self) -> impl Iterator<Item = &FilterChain> {
        self.chains.iter().chain(&self.default_chain)
    }
}

/// What a listening socket is besides. Each is the kernel's to grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SocketOptions {
    /// Whether the address may be one that the host does not have.
    pub freebind: bool,
    /// Whether connections to other addresses may be taken (TPROXY).
    pub transparent: bool,
    /// Connections that may wait to be accepted; `None` for the data plane's.
    pub backlog: Option<u32>,
}

/// Something that looks at a connection before its chain is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerFilter {
    /// What it does.
    pub kind: ListenerFilterKind,
    /// Connections that it leaves alone.
    pub disabled: Option<PortTest>,
}

/// What a listener filter does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerFilterKind {
    /// Looks for TLS: the transport, the server name, the protocols that are offered.
    Tls(TlsInspector),
    /// Looks for HTTP in plaintext, and says which version as a protocol: `http/1.0`, `http/1.1`, `h2c`.
    Http,
    /// Asks the kernel where a redirected connection was meant to go.
    OriginalDestination,
    /// Reads on whose behalf a connection was opened. Source: HAProxy's PROXY protocol, versions 1 and 2.
    ProxyProtocol(ProxyProtocol),
}

impl ListenerFilterKind {
    /// A filter that looks at every connection.
    pub fn always(self) -> ListenerFilter {
        ListenerFilter { kind: self, disabled: None }
    }
}

/// How TLS is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TlsInspector {
    /// Whether what is not a client's first message of TLS closes the connection, instead of being plaintext.
    pub only_tls: bool,
}

/// How the PROXY protocol is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ProxyProtocol {
    /// Whether a connection may do without.
    pub optional: bool,
    /// Whether version 1 is refused.
    pub refuses_v1: bool,
    /// Whether version 2 is refused.
    pub refuses_v2: bool,
}

/// A test of the port that a connection came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortTest {
    /// Always.
    Any,
    /// From the first, and below the second.
    Range(i32, i32),
    /// All of them.
    All(Vec<PortTest>),
    /// One of them.
    OneOf(Vec<PortTest>),
    /// Not that.
    Not(Box<PortTest>),
}

impl PortTest {
    /// Whether a port passes.
    pub fn takes(&self, port: u16) -> bool {
        match self {
            Self::Any => true,
            Self::Range(from, to) => (*from..*to).contains(&i32::from(port)),
            Self::All(all) => all.iter().all(|test| test.takes(port)),
            Self::OneOf(any) => any.iter().any(|test| test.takes(port)),
            Self::Not(test) => !test.takes(port),
        }
    }
}

/// Which side of a workload a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Connections from others to this workload.
    Inbound,
    /// Connections from this workload to others.
    Outbound,
    /// A plain proxy's listener.
    Unspecified,
}

/// What is done with a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterChain {
    /// Name, for logs and dumps.
    pub name: Arc<str>,
    /// Which connections take this chain.
    pub matches: ChainMatch,
    /// TLS, where the chain ends it.
    pub tls: Option<DownstreamTls>,
    /// How long the handshake may take; `None` for the data plane's default.
    pub handshake_timeout: Option<Duration>,
    /// What a connection has to pass first, in order.
    pub gates: Vec<Gate>,
    /// The last network filter, which consumes the connection.
    pub filter: NetworkFilter,
}

impl FilterChain {
    /// A chain that takes every connection, as it is.
    pub fn new(name: impl Into<Arc<str>>, filter: NetworkFilter) -> Self {
        Self {
            name: name.into(),
            matches: ChainMatch::default(),
            tls: None,
            handshake_timeout: None,
            gates: Vec::new(),
            filter,
        }
    }
}

/// Which connections take a chain. Empty lists match everything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ChainMatch {
    /// The port that the connection came to, or was meant for.
    pub destination_port: Option<u16>,
    /// The addresses that it may have come to.
    pub destinations: Vec<Cidr>,
    /// Server names (SNI) in lowercase, one of which the client asks for; `*.` at the beginning stands for one label or
    /// more.
    pub server_names: Vec<Arc<str>>,
    /// TLS or plaintext; `None` matches both.
    pub transport: Option<Transport>,
    /// Protocols, of which the first that the client offers has to be the chain's.
    pub alpn: Vec<Arc<str>>,
    /// The addresses of those who may have opened it.
    pub direct_sources: Vec<Cidr>,
    /// From where.
    pub source_type: SourceType,
    /// The addresses on whose behalf it may have been opened.
    pub sources: Vec<Cidr>,
    /// The same, of ports.
    pub source_ports: Vec<u16>,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum SourceType {
    /// From anywhere.
    #[default]
    Any,
    /// From loopback, or from the address that it came to.
    Local,
    /// From elsewhere.
    External,
}

/// The transport of a connection, as detected from its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Not TLS.
    Plaintext,
    /// TLS.
    Tls,
}

/// What a connection has to pass before it is served.
#[derive(Clone, Debug, PartialEq)]
pub enum Gate {
    /// Authorization by what is known of the connection.
    Rbac(Arc<Rbac>),
    /// Rules that decide nothing: what they would say is noted, under keys that begin so.
    Tried(Arc<Rbac>, Arc<str>),
    /// Not too many at the same time.
    Limit(ConnectionLimit),
}

/// How many connections a chain may have. Source: Envoy `filters.network.connection_limit.v3.ConnectionLimit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimit {
    /// At the same time.
    pub most: u64,
    /// How long one too many is left waiting before it is closed.
    pub delay: Option<Duration>,
}

/// The last network filter of a chain.
#[derive(Clone, Debug, PartialEq)]
pub enum NetworkFilter {
    /// HTTP.
    Http(Arc<HttpConnection>),
    /// Bytes.
    Tcp(Arc<TcpProxy>),
}

/// Bytes to a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpProxy {
    /// Prefix of statistics.
    pub stat_prefix: Arc<str>,
    /// Where they go, by weight.
    pub clusters: Vec<TcpCluster>,
    /// How long no byte may move in either direction; `None` for the data plane's default.
    pub idle_timeout: Option<Duration>,
    /// How often connecting is tried.
    pub connect_attempts: u32,
    /// How long a connection may live.
    pub longest: Option<Duration>,
    /// Whether an endpoint is chosen by a hash of the client's address.
    pub hashes_source: bool,
    /// Where its connections are logged.
    pub access_logs: Vec<AccessLog>,
}

/// A cluster that a part of all connections goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpCluster {
    /// Its name.
    pub name: Arc<str>,
    /// Its part.
    pub weight: u32,
}

impl TcpProxy {
    /// Bytes to one cluster, as Envoy takes them where nothing else is said.
    pub fn to(cluster: impl Into<Arc<str>>) -> Self {
        Self {
            stat_prefix: "tcp".into(),
            clusters: vec![TcpCluster { name: cluster.into(), weight: 1 }],
            idle_timeout: None,
            connect_attempts: 1,
            longest: None,
            hashes_source: false,
            access_logs: Vec::new(),
        }
    }
}
