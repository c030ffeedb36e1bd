//! What people write, after ingest has checked it: services, routes and security policies, and the workloads
//! that have enrolled.
//!
//! The types keep what the mesh honours of the written resources. `control-plane/ingest` makes them from YAML;
//! `control-plane/translate` turns them into [`crate::proxy`] config.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::proxy::StringMatch;
use crate::spiffe::SpiffeId;

/// The name of a resource within its kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

/// The label by which a workload is behind the service of that name. Where none is written, it makes one be there.
pub const SERVICE_LABEL: &str = "meshwork.dev/service";

/// Labels, or a selector of labels.
pub type Labels = BTreeMap<String, String>;

/// The mesh's config.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// `v1/Service`.
    pub services: BTreeMap<Key, Service>,
    /// HTTPRoute and GRPCRoute, by key; the two kinds may share a name.
    pub routes: BTreeMap<(RouteKind, Key), Route>,
    /// PeerAuthentication.
    pub peer_authentications: BTreeMap<Key, PeerAuthentication>,
    /// AuthorizationPolicy.
    pub authorization_policies: BTreeMap<Key, AuthorizationPolicy>,
    /// ServiceEntry: hosts outside the mesh. No two have a host in common.
    pub service_entries: BTreeMap<Key, ServiceEntry>,
    /// What captured workloads may reach that the mesh does not know.
    pub outside: OutsidePolicy,
}

/// What captured workloads may reach that the mesh does not know. Source: Istio `networking.istio.io/v1` Sidecar,
/// `outboundTrafficPolicy.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutsidePolicy {
    /// Everything that the host reaches: `ALLOW_ANY`.
    #[default]
    Allow,
    /// Nothing: `REGISTRY_ONLY`.
    Deny,
}

/// Hosts outside the mesh that captured workloads may reach by name. Source: Istio `networking.istio.io/v1`
/// ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Full names, lowercase, without the dot at the end; at least one.
    pub hosts: Vec<Arc<str>>,
    /// Ports; at least one.
    pub ports: Vec<EntryPort>,
    /// Where the hosts really are.
    pub resolution: Resolution,
}

/// A port of a host outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryPort {
    /// Name; endpoints refer to it.
    pub name: Arc<str>,
    /// The port that clients call.
    pub number: u16,
    /// The port of the host, where no endpoint names another.
    pub target_port: u16,
    /// What is spoken.
    pub protocol: EntryProtocol,
}

/// What is spoken on a port of a host outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryProtocol {
    /// In plaintext.
    Plain(Protocol),
    /// TLS that the application itself speaks with the host.
    Tls,
}

/// Where hosts outside really are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Where DNS says, asked for this host; for the called one itself where it is `None`.
    Dns(Option<EntryEndpoint<Arc<str>>>),
    /// At these addresses; at least one.
    Static(Vec<EntryEndpoint<std::net::IpAddr>>),
}

/// An endpoint of a host outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryEndpoint<A> {
    /// Its address, or name.
    pub address: A,
    /// Its ports by the names of the entry's ports, where they are not the same.
    pub ports: BTreeMap<Arc<str>, u16>,
}

/// A name that clients call, and the workloads behind it. Source: Kubernetes `v1/Service`.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Labels that a workload of the same namespace must have; empty selects none.
    pub selector: Labels,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; empty where it has none.
    pub name: Arc<str>,
    /// The port that clients call.
    pub port: u16,
    /// The port that the workload's inbound side serves.
    pub target_port: u16,
    /// What is spoken: from `appProtocol`, else from the name's prefix, else TCP.
    pub protocol: Protocol,
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2.
    Http2,
    /// gRPC, over HTTP/2.
    Grpc,
    /// Bytes.
    Tcp,
}

/// The kind of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// Gateway API HTTPRoute.
    Http,
    /// Gateway API GRPCRoute.
    Grpc,
}

/// A route attached to services. Source: Gateway API, mesh profile (GAMMA).
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The services whose callers it acts on, with the port where it names one.
    pub parents: Vec<(Key, Option<u16>)>,
    /// Rules in their written order.
    pub rules: Vec<RouteRule>,
    /// When the route was made, for precedence; file order where files have no time.
    pub age: u64,
}

/// Matches and where they lead.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteRule {
    /// Name; empty where it has none.
    pub name: Arc<str>,
    /// One of them must match; never empty.
    pub matches: Vec<RouteMatch>,
    /// Where the request goes; empty answers 500, as the specification says.
    pub backends: Vec<Backend>,
    /// `timeouts.request` in milliseconds; 0 switches it off.
    pub timeout_ms: Option<u64>,
}

/// What a request is tested for; all must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteMatch {
    /// The path. A GRPCRoute's method match becomes `/service/method`, or the segment prefix `/service`.
    pub path: PathMatch,
    /// Field names in lowercase, and their exact values.
    pub headers: Vec<(Arc<str>, Arc<str>)>,
    /// The HTTP method.
    pub method: Option<Arc<str>>,
}

/// A test of the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// `Exact`
    Exact(Arc<str>),
    /// `PathPrefix`, by segment; `/` matches all.
    Prefix(Arc<str>),
}

/// Where a rule leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The service.
    pub service: Key,
    /// Its port.
    pub port: u16,
    /// Share in the sum of weights; 0 takes none.
    pub weight: u32,
}

/// Whether workloads demand mTLS. Source: Istio `security.istio.io/v1` PeerAuthentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// The workloads of the namespace; empty selects all.
    pub selector: Labels,
    /// What is demanded.
    pub mode: MtlsMode,
}

/// What is demanded of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtlsMode {
    /// mTLS only. The mesh's default.
    Strict,
    /// Plaintext only.
    Disable,
}

/// Who may ask what of a workload. Source: Istio `security.istio.io/v1` AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// The workloads of the namespace; empty selects all.
    pub selector: Labels,
    /// What a matching rule means.
    pub action: crate::proxy::Action,
    /// Rules; an ALLOW policy without one allows nothing.
    pub rules: Vec<AuthorizationRule>,
}

/// A rule of an AuthorizationPolicy: one of `from` and one of `to` must match; empty matches all.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AuthorizationRule {
    /// Who asks.
    pub from: Vec<Source>,
    /// What is asked for.
    pub to: Vec<Operation>,
}

/// Who asks; each list that is not empty must match by one of its members.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Source {
    /// SPIFFE IDs without `spiffe://`: `mesh.local/ns/shop/sa/web`.
    pub principals: Vec<StringMatch>,
    /// None of these.
    pub not_principals: Vec<StringMatch>,
    /// Namespaces.
    pub namespaces: Vec<StringMatch>,
    /// None of these.
    pub not_namespaces: Vec<StringMatch>,
}

/// What is asked for; each list that is not empty must match by one of its members.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Operation {
    /// HTTP methods.
    pub methods: Vec<StringMatch>,
    /// None of these.
    pub not_methods: Vec<StringMatch>,
    /// Paths.
    pub paths: Vec<StringMatch>,
    /// None of these.
    pub not_paths: Vec<StringMatch>,
    /// Ports of the workload.
    pub ports: Vec<u16>,
    /// None of these.
    pub not_ports: Vec<u16>,
}

/// A running unit with an identity, as discovery knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Name and namespace.
    pub key: Key,
    /// What it proved.
    pub identity: SpiffeId,
    /// What it was enrolled with; selectors look at these.
    pub labels: Labels,
    /// Its inbound ports: the port that services target, and where its proxy listens for it.
    pub inbound: Vec<Inbound>,
    /// The service ports that it calls, and where its proxy listens for the application.
    pub outbound: Vec<Outbound>,
    /// Where its proxy takes all that leaves it; `None` where only `outbound` leads to the proxy.
    pub capture: Option<Capture>,
    /// Why it takes no requests for now, by its readiness probe; `None` where it takes some.
    pub unready: Option<Arc<str>>,
}

/// Where a proxy takes what leaves its workload, whatever its destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Where TCP connections are redirected to, by IP version.
    pub outbound: Vec<SocketAddr>,
    /// Where DNS queries are redirected to.
    pub names: SocketAddr,
}

/// An inbound port of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// The port that services target.
    pub port: u16,
    /// Where the proxy listens for it.
    pub bind: SocketAddr,
    /// Where the application listens.
    pub application: SocketAddr,
    /// What is spoken on it, as the workload says; a Service's word goes before it.
    pub protocol: Option<Protocol>,
}

/// A service port that a workload calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// The service.
    pub service: Key,
    /// Its port.
    pub port: u16,
    /// Where the proxy listens for the application.
    pub bind: SocketAddr,
}

impl Key {
    /// Makes a key.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Whether labels satisfy a selector; an empty selector is satisfied by all.
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 4] = [Self::Http, Self::Http2, Self::Grpc, Self::Tcp];

    /// What Kubernetes' `appProtocol` and Istio's port names call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }

    /// The protocol of a [name](Self::name).
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.name() == name)
    }

    /// Whether requests, not bytes, are routed.
    pub fn is_http(self) -> bool {
        !matches!(self, Self::Tcp)
    }

    /// Whether it travels over HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }
}
