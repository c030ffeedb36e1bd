//! What a picture shows: plain values, written by the control plane, read by [`crate::mermaid()`].

use std::fmt;

/// A mesh as it is, or as a directory of config would make it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Topology {
    /// The trust domain: `mesh.local`.
    pub trust_domain: String,
    /// Where the workloads run, as a reader would say it: `this host`, `Kubernetes`, `VMs`, `hybrid`.
    pub platform: String,
    /// What the mesh does, in the order to be shown: `mTLS`, `authorization`, `traffic split`, `metrics`.
    pub features: Vec<String>,
    /// Whether this is a running mesh; a picture drawn from a directory has edges without rates.
    pub live: bool,
    /// The control plane's components.
    pub control: ControlPlane,
    /// Where telemetry goes.
    pub observability: Observability,
    /// The workloads, one pod each; in any order.
    pub pods: Vec<Pod>,
    /// The services, which edges may name as their end.
    pub services: Vec<Service>,
    /// Who calls whom; in any order.
    pub edges: Vec<Edge>,
}

/// The control plane's components: `None` is not drawn; `Some` is drawn with that text as its detail (an address, a
/// path, a count), which may be empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ControlPlane {
    /// The config API.
    pub config_api: Option<String>,
    /// The store of config and enrolments.
    pub config_store: Option<String>,
    /// Service discovery: the xDS server.
    pub discovery: Option<String>,
    /// The certificate authority.
    pub certificate_authority: Option<String>,
}

/// Where telemetry goes: `None` is not drawn; `Some` is drawn with that text as its detail, which may be empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Observability {
    /// The metrics store: the hub.
    pub metrics: Option<String>,
    /// The access logs.
    pub access_logs: Option<String>,
    /// The trace collector.
    pub traces: Option<String>,
    /// The dashboard.
    pub dashboard: Option<String>,
}

/// A workload: an application with its proxy, or a proxyless application.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Pod {
    /// The workload's name, unique in its namespace: `catalog-v1`.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The `app` label; empty where there is none.
    pub app: String,
    /// The `version` label; empty where there is none.
    pub version: String,
    /// Its SPIFFE ID as text; empty where it has none, which draws it outside the trust boundary.
    pub identity: String,
    /// What carries its traffic.
    pub proxy: Proxy,
    /// How its proxy stands with the control plane.
    pub sync: Sync,
    /// The version of the config that its proxy runs; empty where unknown. Its first eight characters are shown.
    pub config_version: String,
    /// The application's address: `127.0.0.1:9000`; empty where unknown.
    pub address: String,
}

/// What carries a workload's traffic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Proxy {
    /// Our proxy beside the application.
    #[default]
    Meshwork,
    /// Envoy beside the application.
    Envoy,
    /// The application's own gRPC library.
    Proxyless,
}

/// How a proxy stands with the control plane.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Sync {
    /// Nothing is known: the picture is drawn from config.
    #[default]
    Unknown,
    /// Connected, and runs what it was sent.
    Current,
    /// Connected, and refuses some of what it was sent.
    Refusing,
    /// Not connected.
    Disconnected,
}

/// A name that clients call.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Service {
    /// The service's name: `catalog`.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The names of the pods that its selector chooses, in the same namespace.
    pub pods: Vec<String>,
}

/// One end of an edge.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum End {
    /// A pod, by name. A name that no pod has is drawn as somebody outside the mesh.
    Pod {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        name: String,
    },
    /// A service. One with a single pod is drawn as that pod; one with several as a node that fans out to them.
    Service {
        /// The service's namespace.
        namespace: String,
        /// The service's name.
        name: String,
    },
    /// Somebody outside the mesh, as a reader would say it: `unknown`, `api.example.com`.
    Outside(String),
}

/// Calls from one end to another.
#[derive(Clone, PartialEq, Debug)]
pub struct Edge {
    /// Who calls.
    pub from: End,
    /// Who is called.
    pub to: End,
    /// What they speak.
    pub protocol: Protocol,
    /// What was measured, in a running mesh.
    pub traffic: Option<Traffic>,
    /// The share of the route's requests that this edge is given, in percent; `None` where there is no split.
    pub weight: Option<u32>,
    /// Whether the traffic is mutual TLS.
    pub mtls: bool,
    /// Whether policy denies these calls.
    pub denied: bool,
}

/// What an edge carries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/2.
    #[default]
    Http,
    /// gRPC.
    Grpc,
    /// Bytes.
    Tcp,
}

/// What was measured on an edge over the hub's window.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Traffic {
    /// Requests per second; connections per second for TCP.
    pub per_second: f64,
    /// The share of requests that succeeded, 0 to 1.
    pub success: f64,
    /// The median duration in milliseconds.
    pub p50_ms: Option<f64>,
    /// The 99th percentile of the duration in milliseconds.
    pub p99_ms: Option<f64>,
}

/// What kind of mesh a topology is, by its pods' proxies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MeshType {
    /// No workload yet.
    Empty,
    /// Each workload has a proxy beside it.
    Sidecar,
    /// No workload has a proxy beside it.
    Proxyless,
    /// Some have one.
    Mixed,
}

/// How large a mesh is, by its number of workloads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// Fewer than 100.
    Small,
    /// Fewer than 1,000.
    Medium,
    /// 1,000 and more.
    Large,
}

impl Topology {
    /// Returns what kind of mesh this is, by its pods' proxies.
    pub fn mesh_type(&self) -> MeshType {
        match (self.proxies(), self.pods.len()) {
            (_, 0) => MeshType::Empty,
            (0, _) => MeshType::Proxyless,
            (proxies, pods) if proxies == pods => MeshType::Sidecar,
            _ => MeshType::Mixed,
        }
    }

    /// Returns how large this mesh is.
    pub fn scale(&self) -> Scale {
        match self.pods.len() {
            0..100 => Scale::Small,
            100..1_000 => Scale::Medium,
            _ => Scale::Large,
        }
    }

    /// Returns how many workloads have a proxy beside them.
    pub fn proxies(&self) -> usize {
        self.pods.iter().filter(|pod| pod.proxy.is_beside()).count()
    }
}

impl Proxy {
    /// Whether this is a program of its own beside the application.
    pub fn is_beside(self) -> bool {
        self != Self::Proxyless
    }
}

impl fmt::Display for MeshType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty",
            Self::Sidecar => "sidecar",
            Self::Proxyless => "proxyless",
            Self::Mixed => "mixed",
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTP",
            Self::Grpc => "gRPC",
            Self::Tcp => "TCP",
        })
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
        })
    }
}

impl Default for End {
    fn default() -> Self {
        Self::Outside(String::new())
    }
}

impl Default for Edge {
    /// An edge of a directory's config: nothing measured, no split, mutual TLS.
    fn default() -> Self {
        Self {
            from: End::default(),
            to: End::default(),
            protocol: Protocol::default(),
            traffic: None,
            weight: None,
            mtls: true,
            denied: false,
        }
    }
}

impl End {
    /// Makes a pod's end.
    pub fn pod(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self::Pod { namespace: namespace.into(), name: name.into() }
    }

    /// Makes a service's end.
    pub fn service(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self::Service { namespace: namespace.into(), name: name.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_and_scale_follow_from_the_pods() {
        let check = |proxies: usize, proxyless: usize, expected: (MeshType, Scale)| {
            let pods = |proxy, count| std::iter::repeat_n(Pod { proxy, ..Pod::default() }, count);
            let pods = pods(Proxy::Envoy, proxies).chain(pods(Proxy::Proxyless, proxyless)).collect();
            let mesh = Topology { pods, ..Topology::default() };
            assert_eq!((mesh.mesh_type(), mesh.scale()), expected);
        };
        check(0, 0, (MeshType::Empty, Scale::Small));
        check(99, 0, (MeshType::Sidecar, Scale::Small));
        check(99, 1, (MeshType::Mixed, Scale::Medium));
        check(0, 1_000, (MeshType::Proxyless, Scale::Large));
    }
}
