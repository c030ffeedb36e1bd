//! The config that runs: immutable, built off the hot path, swapped whole.
//!
//! [`Builder`] keeps the last good version of every resource and says of each new one why it cannot be honoured; it
//! is written by `Proxy::apply` alone. Workers read a [`RuntimeConfig`]. Endpoints do not belong to it: each group
//! has an atomic pointer of its own, so that their churn rebuilds nothing.
//!
//! It never asks for a lenient reading: a listener that should end TLS without an identity at hand is refused.

mod builder;

pub(crate) use builder::Builder;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use meshwork_model::proxy::{
    self, ChainMatch, Cluster, Direction, Discovery, DownstreamTls, HttpConnection, RouteTable, ServiceName,
    TcpProxy, Transport,
};
use meshwork_telemetry::AccessLog;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::destination::anywhere;
use crate::http::filters::Filters;
use crate::listener::Sockets;
use crate::upstream::{Breakers, Hosts, Reach, Workload, workload};

/// All that a worker runs.
#[derive(Default)]
pub(crate) struct RuntimeConfig {
    /// Counts the configs of this process; every access-log line carries it.
    pub(crate) version: u64,
    /// `version` as text.
    pub(crate) version_text: Arc<str>,
    /// Listeners by the address that they are bound to.
    pub(crate) listeners: HashMap<SocketAddr, Bound>,
    /// Listeners without sockets, by the address whose connections they take over from others.
    pub(crate) destinations: HashMap<SocketAddr, Takeover>,
    /// Clusters by name.
    pub(crate) clusters: BTreeMap<Arc<str>, Arc<ClusterConfig>>,
}

/// A listener at one of its addresses.
pub(crate) struct Bound {
    /// One socket per worker.
    pub(crate) sockets: Arc<Sockets>,
    /// The listener.
    pub(crate) listener: Arc<ListenerConfig>,
}

/// Who takes over what was meant for an address.
#[derive(Clone)]
pub(crate) enum Takeover {
    /// A listener.
    By(Arc<ListenerConfig>),
    /// A listener whose routes have not come: nobody until then.
    Awaited,
}

/// What is done with the connections of a listener.
pub(crate) struct ListenerConfig {
    /// Name.
    pub(crate) name: Arc<str>,
    /// Which side of a workload it serves.
    pub(crate) direction: Direction,
    /// Whether connections are handed over by the address that they were meant for.
    pub(crate) use_original_dst: bool,
    /// Chains in order.
    pub(crate) chains: Vec<Arc<Chain>>,
}

/// What a connection's first bytes say, as far as they were looked at.
#[derive(Default)]
pub(crate) struct Asked<'a> {
    /// TLS or not.
    pub(crate) transport: Option<Transport>,
    /// The server name, in lowercase.
    pub(crate) server_name: Option<&'a str>,
    /// The protocols that are offered.
    pub(crate) alpn: &'a [&'a [u8]],
}

/// What is done with a connection.
pub(crate) struct Chain {
    /// Name.
    pub(crate) name: Arc<str>,
    /// Its place in the listener.
    pub(crate) index: usize,
    /// Which connections take it.
    pub(crate) matches: ChainMatch,
    /// TLS that it ends.
    pub(crate) tls: Option<ServerTls>,
    /// What consumes the connection.
    pub(crate) filter: Filter,
    /// The service that a workload's inbound side stands for.
    pub(crate) service: Option<ServiceName>,
}

/// What consumes a connection.
pub(crate) enum Filter {
    /// HTTP.
    Http(HttpChain),
    /// Bytes.
    Tcp(Arc<TcpProxy>),
}

/// HTTP, its names resolved.
pub(crate) struct HttpChain {
    /// What config says.
    pub(crate) config: Arc<HttpConnection>,
    /// Routes.
    pub(crate) routes: Arc<RouteTable>,
    /// Filters, and what each route makes of them.
    pub(crate) filters: Filters,
    /// Access logs of its own.
    pub(crate) logs: Vec<ChainLog>,
}

/// An access log that the config asks for.
#[derive(Clone)]
pub(crate) struct ChainLog {
    /// Its number, by which workers keep their lanes.
    pub(crate) number: usize,
    /// The log.
    pub(crate) log: AccessLog,
}

/// The server side of mTLS.
pub(crate) struct ServerTls {
    /// What config says.
    pub(crate) source: DownstreamTls,
    /// For the handshake.
    pub(crate) config: Arc<rustls::ServerConfig>,
}

/// The client side of mTLS.
pub(crate) struct ClientTls {
    /// For the handshake.
    pub(crate) config: Arc<rustls::ClientConfig>,
    /// The name that is sent; `None` sends none.
    pub(crate) server_name: Option<ServerName<'static>>,
}

/// A cluster.
pub(crate) struct ClusterConfig {
    /// What config says.
    pub(crate) cluster: Cluster,
    /// Its endpoints, which change on their own.
    pub(crate) hosts: Arc<Hosts>,
    /// What it may have at the same time.
    pub(crate) breakers: Breakers,
    /// The workload in whose network it is reached, where that is not the proxy's own.
    pub(crate) workload: Option<Workload>,
    /// Ways to reach an endpoint, one for each of the cluster's `transports`.
    reaches: Vec<Reach>,
}

// === impl RuntimeConfig ===

impl RuntimeConfig {
    /// The listener that takes over what was meant for an address: exactly, or for its port wherever.
    pub(crate) fn destination(&self, meant: SocketAddr) -> Option<&Takeover> {
        let of_port = || self.destinations.get(&SocketAddr::new(anywhere(meant.ip()), meant.port()));
        self.destinations.get(&meant).or_else(of_port)
    }
}

// === impl ListenerConfig ===

impl ListenerConfig {
    /// What its clients may speak, for people.
    pub(crate) fn accepts(&self) -> &'static str {
        let plaintext = self.chains.iter().any(|chain| chain.tls.is_none());
        let tls = || self.chains.iter().filter_map(|chain| chain.tls.as_ref());
        let mtls = tls().any(|tls| tls.source.require_client_certificate);
        match (plaintext, mtls, tls().next().is_some()) {
            (false, true, _) => "mTLS",
            (true, true, _) => "mTLS and plaintext",
            (true, false, true) => "TLS and plaintext",
            (false, false, true) => "TLS",
            (_, false, false) => "plaintext",
        }
    }

    /// Whether no connection's first bytes are needed, neither to choose its chain nor to end TLS.
    pub(crate) fn is_plain(&self) -> bool {
        self.chains.iter().all(|chain| {
            chain.matches.transport.is_none() && !reads_hello(&chain.matches) && chain.tls.is_none()
        })
    }

    /// Whether what a TLS client asks for is needed to choose its chain.
    pub(crate) fn needs_hello(&self) -> bool {
        self.chains.iter().any(|chain| reads_hello(&chain.matches))
    }

    /// Whether some chain ends TLS.
    pub(crate) fn ends_tls(&self) -> bool {
        self.chains.iter().any(|chain| chain.tls.is_some())
    }

    /// The chain that takes a connection: of those that name the server most exactly the first.
    pub(crate) fn chain(&self, asked: &Asked<'_>) -> Option<&Arc<Chain>> {
        let takers = self.chains.iter().filter_map(|chain| Some((asked.fit(&chain.matches)?, chain)));
        // The first of equals.
        takers.min_by_key(|(exactness, _)| Reverse(*exactness)).map(|(_, chain)| chain)
    }
}

fn reads_hello(matches: &ChainMatch) -> bool {
    !matches.alpn.is_empty() || !matches.server_names.is_empty()
}

// === impl Asked ===

impl Asked<'_> {
    /// How exactly a chain is meant for the connection; `None` where it is not.
    ///
    /// Source: Envoy `FilterChainMatch.server_names`: exact, then the longest wildcard, then no name at all.
    fn fit(&self, wanted: &ChainMatch) -> Option<usize> {
        let has_alpn = || wanted.alpn.iter().any(|name| self.alpn.contains(&name.as_bytes()));
        let fits = (wanted.transport.is_none() || wanted.transport == self.transport)
            && (wanted.alpn.is_empty() || has_alpn());
        if !fits || wanted.server_names.is_empty() {
            return fits.then_some(0);
        }
        let name = self.server_name?;
        let exactness = |wanted: &Arc<str>| match wanted.strip_prefix('*') {
            None => (**wanted == *name).then_some(usize::MAX),
            Some(domain) => (name.len() > domain.len() && name.ends_with(domain)).then_some(domain.len()),
        };
        wanted.server_names.iter().filter_map(exactness).max()
    }
}

// === impl Chain ===

impl Chain {
    /// Access logs of its own.
    pub(crate) fn logs(&self) -> &[ChainLog] {
        match &self.filter {
            Filter::Http(http) => &http.logs,
            Filter::Tcp(_) => &[],
        }
    }

    /// Whether a connection that took `self` may live on under `other`: same place, same proof asked for.
    pub(crate) fn is_followed_by(&self, other: &Self) -> bool {
        let asked = |chain: &Self| chain.tls.as_ref().map(|tls| tls.source.clone());
        self.name == other.name
            && self.matches == other.matches
            && asked(self) == asked(other)
            && matches!(
                (&self.filter, &other.filter),
                (Filter::Http(_), Filter::Http(_)) | (Filter::Tcp(_), Filter::Tcp(_))
            )
    }
}

// === impl ClusterConfig ===

impl ClusterConfig {
    /// The service that it stands for, or what it is called where it leads out of the mesh.
    pub(crate) fn service(&self) -> Option<ServiceName> {
        let outside = |name: &Arc<str>| ServiceName { name: Arc::clone(name), namespace: "".into() };
        self.cluster.service.clone().or_else(|| match &self.cluster.discovery {
            Discovery::Dns(dns) => dns.hosts.first().map(|first| outside(&first.host.host)),
            Discovery::OriginalDestination => Some(outside(&self.cluster.name)),
            Discovery::Static(_) | Discovery::Eds(_) => None,
        })
    }

    /// Whether connections go where they were meant to go.
    pub(crate) fn passes_through(&self) -> bool {
        matches!(self.cluster.discovery, Discovery::OriginalDestination)
    }

    /// How an endpoint is reached: the first transport that takes it; plaintext only where config names no
    /// transport at all.
    pub(crate) fn reach(&self, endpoint: &proxy::Endpoint) -> Reach {
        if self.reaches.is_empty() {
            return Reach::Plaintext;
        }
        let mut found = self.cluster.transports.iter().zip(&self.reaches);
        let found = found.find(|(transport, _)| transport.takes(endpoint));
        found.map_or(Reach::Nowhere, |(_, reach)| reach.clone())
    }

    /// One of its endpoints in turn, and how it is reached.
    pub(crate) fn nth(&self, turn: usize) -> Option<(SocketAddr, Reach)> {
        let set = self.hosts.load();
        let at = turn.checked_rem(set.hosts.len())?;
        let endpoint = &set.hosts[at].config;
        Some((endpoint.address, self.reach(endpoint)))
    }

    /// Whether connections opened under `self` serve `other`, too.
    pub(crate) fn is_same_upstream(&self, other: &Self) -> bool {
        self.cluster.protocol == other.cluster.protocol
            && self.cluster.transports == other.cluster.transports
            && self.cluster.service == other.cluster.service
            && self.passes_through() == other.passes_through()
            && workload::is_same(self.workload.as_ref(), other.workload.as_ref())
            && self.cluster.connections == other.cluster.connections
            && Arc::ptr_eq(&self.hosts, &other.hosts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_exact_server_name_wins() {
        let check = |wanted: &[&str], asked: Option<&str>, expected: Option<usize>| {
            let server_names = wanted.iter().map(|&name| name.into()).collect();
            let matches = ChainMatch { server_names, ..ChainMatch::default() };
            let asked = Asked { server_name: asked, ..Asked::default() };
            assert_eq!(asked.fit(&matches), expected, "{wanted:?} {:?}", asked.server_name);
        };
        check(&[], None, Some(0));
        check(&[], Some("a.example.com"), Some(0));
        check(&["a.example.com"], None, None);
        check(&["a.example.com"], Some("a.example.com"), Some(usize::MAX));
        check(&["a.example.com"], Some("b.example.com"), None);
        check(&["*.example.com"], Some("a.example.com"), Some(".example.com".len()));
        check(&["*.example.com"], Some("a.b.example.com"), Some(".example.com".len()));
        check(&["*.com", "*.example.com"], Some("a.example.com"), Some(".example.com".len()));
        for other in ["example.com", ".example.com", "badexample.com", ""] {
            check(&["*.example.com"], Some(other), None);
        }
    }
}
