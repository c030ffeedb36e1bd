//! What people write, after ingest has checked it: services, routes and security policies, and the workloads
//! that have enrolled.
//!
//! The types keep what the mesh honours of the written resources. `control-plane/ingest` makes them from YAML;
//! `control-plane/translate` turns them into [`crate::proxy`] config.

mod attached;
mod config;
mod entry;
mod gateway;
mod grant;
mod registration;
mod route;
mod security;
mod sidecar;
mod slice;
mod table;
mod telemetry;
mod traffic;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::proxy::Locality;
use crate::spiffe::SpiffeId;

pub use attached::{
    BundleEndpoint, BundleProof, FederatedDomain, KeyFetching, MeshDefaults, TrafficPolicy, TrafficTarget,
    TrafficTargetKind,
};
pub use entry::{EntryEndpoint, EntryPort, EntryProtocol, Resolution, ServiceEntry};
pub use gateway::{
    BackendName, BackendTls, Gateway, GatewayListener, GatewayNode, GatewayProtocol, RouteNamespaces,
};
pub use grant::{GrantFrom, GrantTo, ReferenceGrant};
pub use registration::{UnixSelectors, WorkloadRegistration};
pub use route::{
    Backend, ConnectionRoute, ConnectionRouteKind, ConnectionRule, FieldChanges, HeaderChanges, Parent,
    PathMatch, PathModifier, Route, RouteKind, RouteMatch, RouteRule, RuleAction, RuleMirror, Target,
};
pub use security::{
    Account, AuthorizationPolicy, AuthorizationProvider, AuthorizationRule, Condition, JwtRule, KeySource,
    KeyUrl, MtlsMode, Operation, PeerAuthentication, PolicyAction, PolicyTarget, RequestAuthentication,
    Source, Wanted,
};
pub use sidecar::{SeenHosts, SeenName, SeenNamespace, Sidecar};
pub use traffic::{
    BalancingTerms, DestinationRule, Export, HostPattern, OutlierTerms, OutsideTls, PoolTerms, PortTerms,
    Subset, TrafficTerms,
};

pub use slice::{EndpointSlice, SliceEndpoint, SlicePort};
pub use table::Table;
pub use telemetry::{LogChoice, LogTerms, Telemetry};

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

/// The label by which whoever enrols a workload says that it serves the Gateway of that name. Source: Gateway API GEP-1762.
pub const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// Labels, or a selector of labels.
pub type Labels = BTreeMap<String, String>;

/// The mesh's config.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// `v1/Namespace`: the labels of each.
    pub namespaces: Table<Arc<str>, Labels>,
    /// `v1/Service`.
    pub services: Table<Key, Service>,
    /// `discovery.k8s.io/v1` EndpointSlice: changes often, and alone.
    pub endpoint_slices: Table<Key, Arc<EndpointSlice>>,
    /// Routes of requests, by kind and key; the kinds may share a name.
    pub routes: Table<(RouteKind, Key), Route>,
    /// Routes of connections.
    pub connection_routes: Table<(ConnectionRouteKind, Key), ConnectionRoute>,
    /// ReferenceGrant: what other namespaces may refer to.
    pub reference_grants: Table<Key, ReferenceGrant>,
    /// Gateway.
    pub gateways: Table<Key, Gateway>,
    /// BackendTLSPolicy.
    pub backend_tls: Table<Key, BackendTls>,
    /// `v1/ConfigMap` with authorities: their certificates, PEM.
    pub authorities: Table<Key, Arc<str>>,
    /// PeerAuthentication.
    pub peer_authentications: Table<Key, PeerAuthentication>,
    /// AuthorizationPolicy.
    pub authorization_policies: Table<Key, AuthorizationPolicy>,
    /// RequestAuthentication.
    pub request_authentications: Table<Key, RequestAuthentication>,
    /// ServiceEntry: hosts outside the mesh. No two have a host in common.
    pub service_entries: Table<Key, ServiceEntry>,
    /// WorkloadEntry: addresses of workloads that have not enrolled.
    pub workload_entries: Table<Key, EntryEndpoint<std::net::IpAddr>>,
    /// Sidecar.
    pub sidecars: Table<Key, Sidecar>,
    /// Telemetry.
    pub telemetries: Table<Key, Telemetry>,
    /// DestinationRule.
    pub destination_rules: Table<Key, DestinationRule>,
    /// TrafficPolicy.
    pub traffic_policies: Table<Key, TrafficPolicy>,
    /// WorkloadRegistration.
    pub registrations: Table<Key, Arc<WorkloadRegistration>>,
    /// MeshConfig.
    pub defaults: MeshDefaults,
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
    /// Whether the target is written by a name, which a workload's own ports do not have: `target_port` is then a guess,
    /// for where a workload serves several.
    pub is_named_target: bool,
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
    /// What it says of itself as a gateway's node, where it is one.
    pub gateway: Option<Arc<GatewayNode>>,
    /// Why it takes no requests for now, by its readiness probe; `None` where it takes some.
    pub unready: Option<Arc<str>>,
    /// Where it runs, as its proxy says.
    pub locality: Locality,
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

impl ServicePort {
    /// The inbound port of a workload that it leads to. A target by name is the workload's only port, or, of several,
    /// the one with the number of the service's.
    pub fn inbound<'w>(&self, workload: &'w Workload) -> Option<&'w Inbound> {
        match &*workload.inbound {
            [only] if self.is_named_target => Some(only),
            several => several.iter().find(|inbound| inbound.port == self.target_port),
        }
    }
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
