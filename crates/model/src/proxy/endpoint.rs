use std::net::SocketAddr;
use std::sync::Arc;

/// The endpoints of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The name under which the cluster asks for them.
    pub cluster: Arc<str>,
    /// Endpoints; order has no meaning, addresses are unique.
    pub endpoints: Vec<Endpoint>,
}

/// An address that serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where it is reached.
    pub address: SocketAddr,
    /// Its mark for [`super::TransportMatch`] (`envoy.transport_socket_match`): the identity it must prove, as a
    /// SPIFFE ID, or `None` for plaintext.
    pub transport: Option<Arc<str>>,
    /// The workload behind it, in a mesh. Carried as Istio's endpoint metadata.
    pub workload: Option<Workload>,
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
