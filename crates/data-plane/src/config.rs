//! The config that runs: immutable, built off the hot path, swapped whole.
//!
//! [`Builder`] keeps the last good version of every resource and says of each new one why it cannot be honoured; it
//! is written by `Proxy::apply` alone. Workers read a [`RuntimeConfig`]. Endpoints do not belong to it: each group
//! has an atomic pointer of its own, so that their churn rebuilds nothing.
//!
//! It never asks for a lenient reading: a listener that should end TLS without an identity at hand is refused.

mod builder;
mod secrets;

pub(crate) use builder::Builder;
pub(crate) use secrets::Shown;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use meshwork_model::chain::{Arrival, ChainIndex};
use meshwork_model::policy::Rules;
use meshwork_model::proxy::{
    self, ChainMatch, Cluster, ConnectionLimit, Direction, Discovery, DownstreamTls, HttpConnection,
    ListenerFilter, RouteTable, ServiceName, TcpProxy,
};
use meshwork_telemetry::AccessLog;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::destination::anywhere;
use crate::http::filters::Filters;
use crate::listener::Sockets;
use crate::policy::Judged;
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
    /// The workload's port that it stands for, where its name says so (`inbound|8080`), whatever it is bound to.
    pub(crate) port: Option<u16>,
    /// Whether connections are handed over by the address that they were meant for.
    pub(crate) use_original_dst: bool,
    /// What looks at a connection before its chain is chosen, in order.
    pub(crate) filters: Vec<ListenerFilter>,
    /// How long that may take.
    pub(crate) filters_timeout: Option<Duration>,
    /// Whether a connection goes on when that time is over.
    pub(crate) continue_on_filters_timeout: bool,
    /// Chains, in the places that the index knows.
    pub(crate) chains: Vec<Arc<Chain>>,
    /// Which of them takes a connection.
    pub(crate) index: Arc<ChainIndex>,
    /// Takes what no other chain does.
    pub(crate) default_chain: Option<Arc<Chain>>,
    /// What is counted of it.
    pub(crate) counters: Arc<ListenerCounters>,
}

/// What is counted of a listener, over all workers and versions. Source: Envoy's listener statistics.
#[derive(Debug, Default)]
pub(crate) struct ListenerCounters {
    /// `downstream_cx_total`: connections that it has had.
    pub(crate) total: AtomicU64,
    /// `downstream_cx_active`: those that it has.
    pub(crate) active: AtomicU64,
    /// `no_filter_chain_match`: those that no chain took.
    pub(crate) unmatched: AtomicU64,
}

/// What is done with a connection.
pub(crate) struct Chain {
    /// Name.
    pub(crate) name: Arc<str>,
    /// Which connections take it; `None` for all that no other chain takes.
    pub(crate) matches: Option<ChainMatch>,
    /// TLS that it ends.
    pub(crate) tls: Option<ServerTls>,
    /// How long the handshake may take.
    pub(crate) handshake_timeout: Duration,
    /// Whom it lets in.
    pub(crate) rules: Vec<Rules>,
    /// Rules that decide nothing of a connection of bytes, and are noted.
    pub(crate) tried: Vec<Judged>,
    /// How many at the same time.
    pub(crate) limits: Vec<Arc<Limit>>,
    /// What consumes the connection.
    pub(crate) filter: Filter,
    /// The service that a workload's inbound side stands for.
    pub(crate) service: Option<ServiceName>,
    /// Access logs of its own.
    pub(crate) logs: Vec<ChainLog>,
    /// What they ask for.
    pub(crate) asks: Asks,
}

/// What access logs ask for, and is not looked up otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asks {
    /// When the parts of a request were done.
    pub(crate) times: bool,
    /// The response's trailers.
    pub(crate) trailers: bool,
}

/// How many connections a chain may have, and has.
#[derive(Debug)]
pub(crate) struct Limit {
    /// What config says.
    pub(crate) config: ConnectionLimit,
    /// How many there are, over all workers.
    open: AtomicU64,
}

/// A connection counts towards a limit until this is dropped.
pub(crate) struct Within(Arc<Limit>);

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
}

/// An access log that the config asks for.
#[derive(Clone)]
pub(crate) struct ChainLog {
    /// Its number, by which workers keep their lanes.
    pub(crate) number: usize,
    /// The log.
    pub(crate) log: AccessLog,
    /// What config says of it.
    pub(crate) config: proxy::AccessLog,
}

/// The server side of mTLS.
pub(crate) struct ServerTls {
    /// What config says.
    pub(crate) source: DownstreamTls,
    /// For the handshake.
    pub(crate) made: secrets::Server,
}

/// The client side of mTLS.
pub(crate) struct ClientTls {
    /// For the handshake.
    pub(crate) config: Arc<rustls::ClientConfig>,
    /// The name that is sent; `None` sends none.
    pub(crate) server_name: Option<ServerName<'static>>,
    /// Whether the host's own name is sent instead, where it has one.
    pub(crate) by_host: bool,
    /// Whether the server is judged by the mesh's trust.
    pub(crate) is_of_mesh: bool,
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
        let plaintext = self.all_chains().any(|chain| chain.tls.is_none());
        let tls = || self.all_chains().filter_map(|chain| chain.tls.as_ref());
        let mtls = tls().any(|tls| tls.source.requires_client());
        match (plaintext, mtls, tls().next().is_some()) {
            (false, true, _) => "mTLS",
            (true, true, _) => "mTLS and plaintext",
            (true, false, true) => "TLS and plaintext",
            (false, false, true) => "TLS",
            (_, false, false) => "plaintext",
        }
    }

    /// All chains, the default one last.
    pub(crate) fn all_chains(&self) -> impl Iterator<Item = &Arc<Chain>> {
        self.chains.iter().chain(&self.default_chain)
    }

    /// Whether no connection's first bytes are needed, neither to choose its chain nor to end TLS, nor anything else
    /// that a connection would have to wait for.
    pub(crate) fn is_plain(&self) -> bool {
        let is_plain = |chain: &Arc<Chain>| chain.tls.is_none() && chain.limits.is_empty();
        self.filters.is_empty() && self.all_chains().all(is_plain)
    }

    /// Whether some chain ends TLS.
    pub(crate) fn ends_tls(&self) -> bool {
        self.all_chains().any(|chain| chain.tls.is_some())
    }

    /// The chain that takes a connection.
    pub(crate) fn chain(&self, arrival: &Arrival<'_>) -> Option<&Arc<Chain>> {
        let found = self.index.find(arrival).and_then(|place| self.chains.get(place));
        let found = found.or(self.default_chain.as_ref());
        if found.is_none() {
            self.counters.unmatched.fetch_add(1, Relaxed);
        }
        found
    }
}

// === impl Limit ===

impl Limit {
    /// A limit that nobody counts towards yet.
    pub(crate) fn new(config: ConnectionLimit) -> Arc<Self> {
        Arc::new(Self { config, open: AtomicU64::new(0) })
    }

    /// Counts one more; `None` where that would be too many.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Within> {
        let fits = |open| (open < self.config.most).then_some(open + 1);
        self.open.fetch_update(Relaxed, Relaxed, fits).ok()?;
        Some(Within(Arc::clone(self)))
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

// === impl Chain ===

impl Chain {
    /// Access logs of its own.
    pub(crate) fn logs(&self) -> &[ChainLog] {
        &self.logs
    }

    /// Whether a connection that took `self` may live on under `other`: same place, same proof asked for.
    pub(crate) fn is_followed_by(&self, other: &Self) -> bool {
        fn asked(chain: &Chain) -> Option<&DownstreamTls> {
            chain.tls.as_ref().map(|tls| &tls.source)
        }
        self.name == other.name
            && self.matches == other.matches
            && asked(self) == asked(other)
            && matches!(
                (&self.filter, &other.filter),
                (Filter::Http(_), Filter::Http(_)) | (Filter::Tcp(_), Filter::Tcp(_))
            )
    }
}

// === impl ClientTls ===

impl ClientTls {
    /// The name that an endpoint is asked by: its own, that of the config, or its address, which is not sent.
    pub(crate) fn name_for(&self, endpoint: &proxy::Endpoint) -> ServerName<'static> {
        let own = Some(&endpoint.hostname).filter(|host| self.by_host && !host.is_empty());
        let own = own.and_then(|host| ServerName::try_from(host.to_string()).ok());
        let address = || ServerName::IpAddress(endpoint.address.ip().into());
        own.or_else(|| self.server_name.clone()).unwrap_or_else(address)
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
    pub(crate) fn nth(&self, turn: usize) -> Option<(proxy::Endpoint, Reach)> {
        let set = self.hosts.load();
        let at = turn.checked_rem(set.hosts.len())?;
        let endpoint = &set.hosts[at].config;
        Some((endpoint.clone(), self.reach(endpoint)))
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
    fn a_limit_has_room_again_when_one_has_ended() {
        let limit = Limit::new(ConnectionLimit { most: 2, delay: None });
        let (first, _second) = (limit.enter().expect("room"), limit.enter().expect("room"));
        assert!(limit.enter().is_none());
        drop(first);
        assert!(limit.enter().is_some());
    }
}
