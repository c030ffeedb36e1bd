use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::{
    Criterion, Endpoint, Endpoints, HealthCheck, LoadPolicy, Metadata, MetadataStruct, OutlierDetection,
    TRANSPORT_MATCH, UpstreamTls,
};

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
    /// Among which it is picked.
    pub spread: Spread,
    /// How long opening a connection may take, handshake included.
    pub connect_timeout: Duration,
    /// What is spoken on it.
    pub protocol: UpstreamProtocol,
    /// How long its connections live, and what they carry.
    pub connections: Connections,
    /// What it may have at the same time.
    pub breakers: Breakers,
    /// When endpoints are left out for what their responses are like.
    pub outliers: Option<Arc<OutlierDetection>>,
    /// How endpoints are asked whether they are well; one at most.
    pub checks: Vec<Arc<HealthCheck>>,
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
    /// Whatever names stand for, asked again and again.
    Dns(Dns),
    /// The one address that the downstream connection was meant for before it was redirected. Nothing is picked then:
    /// `balancing` is `RoundRobin`.
    OriginalDestination,
}

/// Names that stand for endpoints. Source: Envoy `STRICT_DNS`, `LOGICAL_DNS`.
#[derive(Clone, Debug, PartialEq)]
pub struct Dns {
    /// The names, each with what all its addresses have in common.
    pub hosts: Vec<NamedEndpoint>,
    /// Whether every address is an endpoint (strict); else there is one host, and its first address is.
    pub is_strict: bool,
    /// Which addresses count.
    pub family: DnsFamily,
    /// How long an answer is believed.
    pub refresh: Duration,
    /// How long after a lookup that failed the next one is tried, at least and at most; `None` is `refresh`.
    pub failure_refresh: Option<(Duration, Duration)>,
    /// How load follows health.
    pub policy: LoadPolicy,
    /// Whether addresses near the host (loopback, link-local, where clouds tell secrets) are not believed: others than
    /// who runs the proxy name these hosts.
    pub only_far: bool,
}

/// Endpoints by name.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedEndpoint {
    /// The host.
    pub host: DnsHost,
    /// What its endpoints are like; its address says nothing.
    pub endpoint: Endpoint,
}

/// A host by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsHost {
    /// The name.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
}

/// Which addresses of a name count. Source: Envoy `DnsLookupFamily`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DnsFamily {
    /// Those of IPv6; those of IPv4 where there are none.
    #[default]
    Auto,
    /// Those of IPv4.
    V4,
    /// Those of IPv6.
    V6,
    /// Those of IPv4; those of IPv6 where there are none.
    V4Preferred,
    /// All.
    All,
}

impl Dns {
    /// How long an answer is believed where config says nothing. Source: Envoy `dns_refresh_rate`.
    pub const REFRESH: Duration = Duration::from_secs(5);

    /// Every address of one host.
    pub fn all_of(host: DnsHost) -> Self {
        let anywhere = (Ipv4Addr::UNSPECIFIED, host.port).into();
        let endpoint = Endpoint { hostname: Arc::clone(&host.host), ..Endpoint::new(anywhere) };
        Self {
            hosts: vec![NamedEndpoint { host, endpoint }],
            is_strict: true,
            family: DnsFamily::All,
            refresh: Self::REFRESH,
            failure_refresh: Some((Duration::from_secs(1), Duration::from_secs(30))),
            policy: LoadPolicy::default(),
            only_far: false,
        }
    }
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
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Balancing {
    /// In turn, by weight.
    RoundRobin(SlowStart),
    /// By chance.
    Random,
    /// The least loaded of some taken by chance.
    LeastRequest(LeastRequest),
    /// By a hash of the request, on a ring.
    RingHash(RingHash),
    /// By a hash of the request, in a table.
    Maglev(Maglev),
}

/// How a host that has just become healthy is loaded; a window of zero is at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    /// How long it takes until it gets all of its share.
    pub window: Duration,
    /// How its share grows: 1 is evenly.
    pub aggression: f64,
    /// The least part of its share, in per cent.
    pub least_percent: f64,
}

/// Options of [`Balancing::LeastRequest`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeastRequest {
    /// How many are compared.
    pub choices: u32,
    /// How much requests under way count where weights differ.
    pub bias: f64,
    /// Whether all are compared.
    pub is_full_scan: bool,
    /// How new hosts are loaded.
    pub slow_start: SlowStart,
}

/// Options of [`Balancing::RingHash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingHash {
    /// The least size of the ring.
    pub least: u64,
    /// The most.
    pub most: u64,
    /// The hash of the ring's own entries.
    pub function: HashFunction,
    /// What is placed on it.
    pub keys: HashKeys,
}

/// Options of [`Balancing::Maglev`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maglev {
    /// The table's size, a prime number.
    pub size: u64,
    /// What is placed in it.
    pub keys: HashKeys,
}

/// A hash function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashFunction {
    /// XXH64.
    #[default]
    XxHash,
    /// `MurmurHash` 2 as libstdc++ has it.
    Murmur2,
}

/// What hosts are called in consistent hashing, and how far they may be overloaded by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashKeys {
    /// Whether they are called by their names instead of their addresses.
    pub by_hostname: bool,
    /// The most requests that one may have, in per cent of the average.
    pub balance_factor: Option<u32>,
}

/// Among which endpoints one is picked. Source: Envoy `CommonLbConfig`.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of Envoy's")]
pub struct Spread {
    /// Below which healthy per cent all hosts of a priority are used, healthy or not.
    pub panic_threshold: u32,
    /// Whether nobody is used then.
    pub fails_in_panic: bool,
    /// Whether load is spread over localities by their weights.
    pub by_locality: bool,
    /// Whether hosts that active health checks have not asked yet are left out.
    pub awaits_first_check: bool,
    /// Whether connections are closed whenever endpoints change.
    pub closes_on_change: bool,
    /// Subsets of endpoints that requests may ask for.
    pub subsets: Option<Subsets>,
}

/// Subsets of endpoints by their metadata `envoy.lb`. Source: Envoy `LbSubsetConfig`.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of Envoy's")]
pub struct Subsets {
    /// What happens to a request that asks for no subset that there is.
    pub fallback: Fallback,
    /// The subset of [`Fallback::Default`].
    pub default: MetadataStruct,
    /// By which keys there are subsets.
    pub selectors: Vec<Selector>,
    /// Whether the weights of localities count in a subset.
    pub weighs_localities: bool,
    /// Whether they shrink with a locality's part in it.
    pub scales_localities: bool,
    /// Whether any endpoint does where the fallback has none.
    pub any_in_panic: bool,
    /// Whether a list among metadata stands for each of its items.
    pub list_as_any: bool,
}

/// Keys by which there are subsets.
#[derive(Clone, Debug, PartialEq)]
pub struct Selector {
    /// The keys, sorted.
    pub keys: Vec<Arc<str>>,
    /// Whether a subset has one host at most.
    pub is_single: bool,
    /// What happens to a request that has these keys and asks for no subset that there is; `None` is what the cluster
    /// says.
    pub fallback: Option<Fallback>,
    /// The keys of [`Fallback::Keys`], sorted.
    pub fallback_keys: Vec<Arc<str>>,
}

/// What happens to a request that asks for no subset that there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// It fails.
    #[default]
    Nobody,
    /// Any endpoint.
    Any,
    /// The default subset.
    Default,
    /// It asks again with fewer keys; a selector's only.
    Keys,
}

/// What is spoken with the endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    /// HTTP/1.1, or bytes.
    Http1,
    /// HTTP/2.
    Http2,
    /// What TLS agrees on (ALPN).
    Auto,
    /// What the client speaks.
    Downstream,
}

/// How long connections live, and what they carry; `None` is the proxy's own bound.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of Envoy's")]
pub struct Connections {
    /// How long one without a request is kept; zero is for ever.
    pub idle: Option<Duration>,
    /// How long one lives.
    pub lifetime: Option<Duration>,
    /// How many requests one carries.
    pub requests: Option<u32>,
    /// How many requests one carries at the same time (HTTP/2).
    pub streams: Option<u32>,
    /// Whether the server name that is sent is the host that is asked for.
    pub auto_sni: bool,
    /// Whether the server has to prove the name that was sent.
    pub auto_san: bool,
    /// When and how often the kernel probes a silent one.
    pub keepalive: Option<Keepalive>,
    /// From which address they are opened; port 0 is any.
    pub source: Option<SocketAddr>,
    /// Whether they are closed when their host fails its health check.
    pub close_on_failure: bool,
    /// Whether a host that is gone from config is gone at once, healthy or not.
    pub forget_at_once: bool,
}

/// Probes of a silent connection; `None` is the proxy's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// After how long.
    pub after: Option<Duration>,
    /// How far apart.
    pub interval: Option<Duration>,
    /// After how many without an answer it is broken.
    pub probes: Option<u32>,
}

/// What a cluster may have at the same time. Source: Envoy `CircuitBreakers`.
#[derive(Clone, Debug, PartialEq)]
pub struct Breakers {
    /// For requests of default priority.
    pub normal: Thresholds,
    /// For requests of high priority.
    pub high: Thresholds,
    /// Connections to one host.
    pub host_connections: Option<u32>,
}

/// How much a request matters to circuit breakers. Source: Envoy `RoutingPriority`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Priority {
    /// As most.
    #[default]
    Normal,
    /// More.
    High,
}

/// What requests of one priority may have at the same time; `u32::MAX` is no limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// Connections.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Requests.
    pub requests: u32,
    /// Retries, where there is no budget.
    pub retries: u32,
    /// Retries as a part of requests.
    pub retry_budget: Option<RetryBudget>,
}

/// How many retries there may be beside how many requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// Per cent of the requests that are under way.
    pub percent: f64,
    /// That many at any rate.
    pub least: u32,
}

impl TransportMatch {
    /// Whether it takes an endpoint: by its mark, and by what the endpoint's or its locality's metadata says.
    pub fn takes(&self, endpoint: &Endpoint) -> bool {
        let has_all = |metadata: &Metadata| {
            let labels = metadata.get(TRANSPORT_MATCH);
            let has = |(key, value): &Criterion| labels.is_some_and(|labels| labels.get(key) == Some(value));
            self.labels.iter().all(has)
        };
        (self.transport.is_none() || self.transport == endpoint.transport)
            && (has_all(&endpoint.metadata) || has_all(&endpoint.place.metadata))
    }
}

impl Cluster {
    /// A cluster of which nothing else is said: nothing limits it, and nothing is balanced but in turn.
    pub fn new(name: impl Into<Arc<str>>, discovery: Discovery) -> Self {
        Self {
            name: name.into(),
            service: None,
            discovery,
            network: Network::Proxy,
            balancing: Balancing::ROUND_ROBIN,
            spread: Spread::default(),
            connect_timeout: Duration::from_secs(5),
            protocol: UpstreamProtocol::Http1,
            connections: Connections::default(),
            breakers: Breakers::NONE,
            outliers: None,
            checks: Vec::new(),
            transports: Vec::new(),
        }
    }
}

impl Balancing {
    /// In turn.
    pub const ROUND_ROBIN: Self = Self::RoundRobin(SlowStart::NONE);
    /// The less loaded of two taken by chance.
    pub const LEAST_REQUEST: Self = Self::LeastRequest(LeastRequest {
        choices: 2,
        bias: 1.0,
        is_full_scan: false,
        slow_start: SlowStart::NONE,
    });
}

impl SlowStart {
    /// At once.
    pub const NONE: Self = Self { window: Duration::ZERO, aggression: 1.0, least_percent: 10.0 };
}

impl Default for RingHash {
    fn default() -> Self {
        Self { least: 1024, most: 8 * 1024 * 1024, function: HashFunction::XxHash, keys: HashKeys::default() }
    }
}

impl Default for Maglev {
    fn default() -> Self {
        Self { size: 65_537, keys: HashKeys::default() }
    }
}

impl Default for Spread {
    fn default() -> Self {
        Self {
            panic_threshold: 50,
            fails_in_panic: false,
            by_locality: false,
            awaits_first_check: false,
            closes_on_change: false,
            subsets: None,
        }
    }
}

impl Breakers {
    /// Those of a priority.
    pub fn of(&self, priority: Priority) -> &Thresholds {
        match priority {
            Priority::Normal => &self.normal,
            Priority::High => &self.high,
        }
    }

    /// No limits.
    pub const NONE: Self = Self { normal: Thresholds::NONE, high: Thresholds::NONE, host_connections: None };
    /// What holds where config says nothing.
    pub const ENVOY: Self =
        Self { normal: Thresholds::ENVOY, high: Thresholds::ENVOY, host_connections: None };
}

impl Thresholds {
    /// No limits.
    pub const NONE: Self = Self {
        connections: u32::MAX,
        pending: u32::MAX,
        requests: u32::MAX,
        retries: u32::MAX,
        retry_budget: None,
    };
    /// What holds where config says nothing. Source: Envoy `CircuitBreakers.Thresholds`.
    pub const ENVOY: Self =
        Self { connections: 1024, pending: 1024, requests: 1024, retries: 3, retry_budget: None };
}

/// How endpoints with a given mark are reached. Source: Envoy `Cluster.TransportSocketMatch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportMatch {
    /// Name, for logs and dumps.
    pub name: Arc<str>,
    /// The endpoint's `transport` that it takes; `None` takes any.
    pub transport: Option<Arc<str>>,
    /// What else the endpoint's or its locality's metadata must say.
    pub labels: Vec<Criterion>,
    /// TLS; `None` is plaintext.
    pub tls: Option<UpstreamTls>,
}
