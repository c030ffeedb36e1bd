//! What a data plane runs: immutable config in the xDS sense, whoever wrote it.
//!
//! `control-plane` makes these from the mesh, `xds` carries them as Envoy's protobufs, and `data-plane` runs
//! them. Names of other resources are kept as texts; the data plane resolves them when it builds its runtime.

mod authz;
mod cluster;
mod domain;
mod endpoint;
mod filter;
mod health;
mod http;
mod jwt;
mod listener;
mod log;
mod metadata;
mod names;
mod policy;
mod resilience;
mod route;
mod tls;

pub use authz::{AuthBody, AuthHttp, AuthService, CheckSettings, ExtAuthz};
pub use cluster::{
    Balancing, Breakers, Cluster, Connections, Discovery, Dns, DnsFamily, DnsHost, Fallback, HashFunction,
    HashKeys, Keepalive, LeastRequest, Maglev, NamedEndpoint, Network, Priority, RetryBudget, RingHash,
    Selector, ServiceName, SlowStart, Spread, Subsets, Thresholds, TransportMatch, UpstreamProtocol,
    WORKLOAD_SOURCE_V4, WORKLOAD_SOURCE_V6,
};
use domain::{DomainIndex, without_port};
pub use endpoint::{CheckTarget, Endpoint, Endpoints, Health, LoadPolicy, Locality, Place, Workload};
pub use filter::{
    AbortBy, Applied, CorsPolicy, DelayBy, Fault, FaultAbort, FaultDelay, HealthCheckFilter, HttpFilter,
    HttpFilterKind, HttpRbac, LocalDescriptor, LocalRateLimit, RouteFilter, RouteFilterKind, TokenBucket,
};
pub use health::{
    CheckHeader, CheckIntervals, Enforced, FailurePercentage, GrpcCheck, HealthCheck, HealthCheckKind,
    HttpCheck, OutlierDetection, SuccessRate, TcpCheck,
};
pub use http::{
    ClientCert, Clients, Codec, EscapedSlashes, ForwardClientCert, HostNormalization, Http1, Http2,
    HttpConnection, HttpLimits, PathNormalization, RouteSource, Scheme, ServerHeader, StrippedPort,
    Underscores,
};
pub use jwt::{
    JwtAuthentication, JwtKeys, JwtProvider, JwtRequirement, JwtRule, RemoteKeys, RouteJwt, TokenPlace,
};
pub use listener::{
    ChainMatch, ConnectionLimit, Direction, FilterChain, Gate, Listener, ListenerFilter, ListenerFilterKind,
    NetworkFilter, PortTest, ProxyProtocol, SocketOptions, SourceType, TcpCluster, TcpProxy, TlsInspector,
    Transport,
};
pub use log::{
    AccessLog, AppendAction, Comparison, Format, FormatBody, LocalReplies, LogFilter, LogSink, ReplyHeader,
    ReplyMapper,
};
pub use metadata::{BALANCING, Criterion, Metadata, MetadataStruct, MetadataValue, TRANSPORT_MATCH};
pub use names::{Answer, NameTable, ZONE};
pub use policy::{Action, MetadataMatch, Permission, Principal, Rbac, Rule, StringMatch, ValueMatch};
pub use resilience::{
    AvoidedHosts, BackOff, GrpcTimeout, RateLimitedBackOff, ResetFormat, ResetHeader, Resilience, RetryOn,
    RetryPolicy, Router, StreamDuration,
};
pub use route::{
    ClusterTerms, DirectResponse, Domain, Forward, HeadChanges, HeaderMatch, HeaderTest, HostRewrite, Mirror,
    MirrorTo, PathMatch, PathRewrite, QueryMatch, Redirect, RedirectPath, Route, RouteAction, RouteMatch,
    RouteTable, RouteTerms, Secure, VirtualHost, WeightedCluster,
};
pub use tls::{
    CertificateSource, CipherSuite, ClientContext, DataSource, DownstreamTls, Group, MeshClient, MeshServer,
    SanKind, SanMatch, Sealed, Secret, SecretContent, ServerContext, TlsCertificate, TlsContext, TlsVersion,
    UpstreamTls, Validation, ValidationContext,
};

/// One resource of the data plane.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// A listening socket and what happens behind it.
    Listener(Listener),
    /// Names that are answered for by DNS; a listener, too.
    Names(NameTable),
    /// A route table.
    Routes(RouteTable),
    /// A group of endpoints and how to reach it.
    Cluster(Cluster),
    /// The endpoints of a cluster.
    Endpoints(Endpoints),
    /// A certificate, or what certificates are judged by.
    Secret(Secret),
}

/// The kind of a [`Resource`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Clusters (CDS).
    Cluster,
    /// Endpoints (EDS).
    Endpoints,
    /// Listeners (LDS).
    Listener,
    /// Route tables (RDS).
    Routes,
    /// Secrets (SDS).
    Secret,
}

impl Kind {
    /// Every kind, in the order in which an update makes before it breaks: clusters, endpoints, listeners, routes; and
    /// secrets, which all wait for.
    ///
    /// Source: xDS protocol, "Eventual consistency considerations".
    pub const ALL: [Self; 5] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::Routes, Self::Secret];
}

impl Resource {
    /// The resource's kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Listener(_) | Self::Names(_) => Kind::Listener,
            Self::Routes(_) => Kind::Routes,
            Self::Cluster(_) => Kind::Cluster,
            Self::Endpoints(_) => Kind::Endpoints,
            Self::Secret(_) => Kind::Secret,
        }
    }

    /// The resource's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Listener(r) => &r.name,
            Self::Names(r) => &r.name,
            Self::Routes(r) => &r.name,
            Self::Cluster(r) => &r.name,
            Self::Endpoints(r) => &r.cluster,
            Self::Secret(r) => &r.name,
        }
    }
}
