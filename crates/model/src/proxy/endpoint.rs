use std::net::SocketAddr;
use std::sync::Arc;

use super::Metadata;

/// The endpoints of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The name under which the cluster asks for them.
    pub cluster: Arc<str>,
    /// Endpoints; their order matters to hash rings only, addresses are unique.
    pub endpoints: Vec<Endpoint>,
    /// How load follows health.
    pub policy: LoadPolicy,
}

/// How load follows health. Source: Envoy `ClusterLoadAssignment.Policy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadPolicy {
    /// By how many per cent a priority's healthy share is overrated before load spills to the next.
    pub overprovisioning: u32,
    /// Whether a priority's healthy share is that of weights instead of that of hosts.
    pub by_weight: bool,
    /// Requests that are answered with 503 at once, in parts of a million, category by category.
    pub drops: Vec<u32>,
}

/// An address that serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where it is reached.
    pub address: SocketAddr,
    /// Its name: what DNS was asked, or what config calls it; may be empty.
    pub hostname: Arc<str>,
    /// Its mark for [`super::TransportMatch`] (`envoy.transport_socket_match`): the identity it must prove, as a
    /// SPIFFE ID, or `None` for plaintext.
    pub transport: Option<Arc<str>>,
    /// The workload behind it, in a mesh. Carried as Istio's endpoint metadata.
    pub workload: Option<Workload>,
    /// Everything else that is known of it.
    pub metadata: Arc<Metadata>,
    /// Its share of load among its like, at least 1.
    pub weight: u32,
    /// What whoever delivered it knows of its health.
    pub health: Health,
    /// Where active health checks ask.
    pub check: CheckTarget,
    /// Where it belongs.
    pub place: Arc<Place>,
}

/// What a control plane says of an endpoint's health. Source: Envoy `core.v3.HealthStatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// Nothing; it counts as healthy.
    #[default]
    Unknown,
    /// It serves.
    Healthy,
    /// It does not.
    Unhealthy,
    /// It is about to leave and gets nothing new.
    Draining,
    /// It was not heard of in time; it counts as unhealthy.
    Timeout,
    /// It serves where nobody healthier does.
    Degraded,
}

impl Health {
    /// Healthy, degraded or unhealthy: as what an endpoint of which this is said counts.
    #[must_use]
    pub fn counted(self) -> Self {
        match self {
            Self::Unknown | Self::Healthy => Self::Healthy,
            Self::Unhealthy | Self::Draining | Self::Timeout => Self::Unhealthy,
            Self::Degraded => Self::Degraded,
        }
    }
}

/// Where and as whom an endpoint is asked by active health checks. Source: Envoy `Endpoint.HealthCheckConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CheckTarget {
    /// Another port than that of the address.
    pub port: Option<u16>,
    /// Another address altogether.
    pub address: Option<SocketAddr>,
    /// The host that is asked for; empty where nothing is said.
    pub hostname: Arc<str>,
    /// Whether it is never asked.
    pub is_disabled: bool,
}

/// Where an endpoint belongs: a priority, and a locality in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// 0 is asked first.
    pub priority: u32,
    /// Where it runs.
    pub locality: Locality,
    /// The locality's share of its priority's load, where balancing looks at localities; `None` is none.
    pub weight: Option<u32>,
    /// What is known of all endpoints of the locality.
    pub metadata: Metadata,
}

/// Where something runs. Source: Envoy `core.v3.Locality`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// `eu-west-1`
    pub region: Arc<str>,
    /// `eu-west-1a`
    pub zone: Arc<str>,
    /// `rack-7`
    pub sub_zone: Arc<str>,
}

/// What is known of a workload. Source: Istio's endpoint metadata `istio.workload`,
/// `<name>;<namespace>;<canonical service>;<canonical revision>;<cluster>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Workload {
    /// `catalog-v1`
    pub name: Arc<str>,
    /// `shop`
    pub namespace: Arc<str>,
    /// The label `app`: `catalog`
    pub app: Arc<str>,
    /// The label `version`: `v1`; empty where it has none.
    pub version: Arc<str>,
}

impl Endpoints {
    /// Endpoints of which nothing else is said.
    pub fn new(cluster: impl Into<Arc<str>>, endpoints: Vec<Endpoint>) -> Self {
        Self { cluster: cluster.into(), endpoints, policy: LoadPolicy::default() }
    }
}

impl Default for LoadPolicy {
    fn default() -> Self {
        Self { overprovisioning: 140, by_weight: false, drops: Vec::new() }
    }
}

impl Endpoint {
    /// An endpoint of which nothing else is said.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            hostname: Arc::default(),
            transport: None,
            workload: None,
            metadata: Arc::default(),
            weight: 1,
            health: Health::Unknown,
            check: CheckTarget::default(),
            place: Arc::default(),
        }
    }

    /// Whether connections to `self` serve `other`, too, and are reported alike: what else differs is for balancing.
    pub fn is_same_peer(&self, other: &Self) -> bool {
        self.address == other.address
            && self.hostname == other.hostname
            && self.transport == other.transport
            && self.workload == other.workload
            && self.metadata == other.metadata
            && self.place.metadata == other.place.metadata
    }
}
