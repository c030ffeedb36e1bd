use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{HttpConnection, Rbac};
use crate::spiffe::SpiffeId;

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
    /// Whether a connection that was redirected here is handed over to the listener of the address that it was meant
    /// for, where there is one.
    pub use_original_dst: bool,
    /// Which side of a workload it serves.
    pub direction: Direction,
    /// Tried in order; the first whose match holds takes the connection, and none closes it.
    pub chains: Vec<FilterChain>,
}

impl Listener {
    /// A listener with one address and nothing out of the ordinary.
    pub fn new(
        name: impl Into<Arc<str>>,
        address: Option<SocketAddr>,
        direction: Direction,
        chains: Vec<FilterChain>,
    ) -> Self {
        Self {
            name: name.into(),
            address,
            additional_addresses: Vec::new(),
            bind_to_port: true,
            use_original_dst: false,
            direction,
            chains,
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
    /// The last network filter, which consumes the connection.
    pub filter: NetworkFilter,
}

/// Which connections take a chain. Empty lists match everything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ChainMatch {
    /// TLS or plaintext; `None` matches both.
    pub transport: Option<Transport>,
    /// ALPN protocols that the client offers; one in common matches.
    pub alpn: Vec<Arc<str>>,
    /// Server names (SNI) in lowercase, one of which the client asks for; `*.` at the beginning stands for one label or
    /// more.
    pub server_names: Vec<Arc<str>>,
}

/// The transport of a connection, as detected from its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Not TLS.
    Plaintext,
    /// TLS.
    Tls,
}

/// The server side of mTLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownstreamTls {
    /// Name of the secret with certificate and key; `default` is the workload's own SVID.
    pub certificate: Arc<str>,
    /// Name of the secret with the trust bundle (`ROOTCA`); `None` asks for no client certificate.
    pub validation: Option<Arc<str>>,
    /// Whether a client without a certificate is refused.
    pub require_client_certificate: bool,
    /// ALPN protocols in order of preference.
    pub alpn: Vec<Arc<str>>,
    /// Client identities that are let in; empty lets in all of the trust bundle.
    pub allowed: Vec<SpiffeId>,
}

/// The last network filter of a chain.
#[derive(Clone, Debug, PartialEq)]
pub enum NetworkFilter {
    /// HTTP.
    Http(Arc<HttpConnection>),
    /// Bytes to one cluster.
    Tcp(Arc<TcpProxy>),
}

/// Bytes to one cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpProxy {
    /// Prefix of statistics.
    pub stat_prefix: Arc<str>,
    /// The cluster.
    pub cluster: Arc<str>,
    /// Authorization by identity and port, in order.
    pub rbac: Vec<Arc<Rbac>>,
    /// How long no byte may move in either direction; `None` for the data plane's default.
    pub idle_timeout: Option<Duration>,
}
